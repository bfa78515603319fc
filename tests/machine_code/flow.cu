// Kernels of attention over many ranks and of strided memory with their default tunings, compiled by scripts/machine_code.py. Nothing here
// runs.
#include <smalti/comm/strided.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/attention/absorb.hpp>
#include <smalti/ops/attention/partials.hpp>
#include <smalti/policy/masks/at_positions.hpp>

namespace kernels {

using namespace smalti;
using attention::attention_regime;
using at_positions = attention::flash<bf16, 128, attention::dense_kv<bf16>, policy::at_positions<policy::causal>, attention::partial_options<attention::options>>;
using share_128 = at_positions::kernel<attention::default_tuning<bf16, 128, 128>, attention_regime::prefill, false>;
using absorb_float = attention::absorb<float>::kernel;
using strided_words = comm::strided::kernel<int>;
using strided_bytes = comm::strided::kernel<unsigned char>;

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
