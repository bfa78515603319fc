// Quantization of activations and the Hadamard transform, with their default tunings, compiled to machine code by
// scripts/machine_code.py. One kernel a compilation, chosen by -DKERNEL=name. Nothing here runs.
#include <smalti/ops/quantize.hpp>
#include "tuned.hpp"

namespace kernels {

using namespace smalti;

struct with_sums : quantize::options { static constexpr int sum_group = 32; };
template <class Op, class Selector> using default_kernel = typename Op::template kernel<Selector>;

using int8_rows = default_kernel<quantize::tokens<bf16, policy::int8_tokens<>>, chosen<quantize::tokens_tuning, quantize::tokens_default<0>>>;
using int8_groups = default_kernel<quantize::tokens<bf16, policy::int8_tokens<32>, with_sums>, chosen<quantize::tokens_tuning, quantize::tokens_default<32>>>;
using fp8_groups = default_kernel<quantize::tokens<bf16, policy::fp8_tokens<>>, chosen<quantize::tokens_tuning, quantize::tokens_default<128>>>;
using mxfp8_groups = default_kernel<quantize::tokens<bf16, policy::mxfp8_tokens<>>, chosen<quantize::tokens_tuning, quantize::tokens_default<32>>>;
using hadamard_64 = default_kernel<quantize::hadamard<bf16, bf16, 64>, chosen<quantize::hadamard_tuning, quantize::hadamard_default>>;
using hadamard_256 = default_kernel<quantize::hadamard<bf16, bf16, 256>, chosen<quantize::hadamard_tuning, quantize::hadamard_default>>;

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
