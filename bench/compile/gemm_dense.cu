// One dense product as a program instantiates it: what compile_cost.py measures for each architecture.
#include <smalti/core/cuda_context.hpp>
#include <smalti/core/float.hpp>
#include <smalti/ops/gemm.hpp>

using linear = smalti::gemm::dense<smalti::bf16, smalti::bf16, smalti::bf16>;

smalti::status product(const smalti::cuda_context& context, const linear::args& x, smalti::workspace memory) {
  return linear::run(context, x, memory);
}
