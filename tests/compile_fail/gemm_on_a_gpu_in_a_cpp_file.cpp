// expect: smalti: a cuda_context works only in files that nvcc compiles
#include <smalti/ops/gemm.hpp>
using namespace smalti;
status go(const cuda_context& context) {
  using op = gemm::dense<bf16, bf16, float>;
  return op::run(context, op::args{});
}
int main() {}
