// Attention to integer keys and values, and their append, with the default tunings, compiled to machine code by
// scripts/machine_code.py. One kernel a compilation, chosen by -DKERNEL=name. Nothing here runs.
#include <smalti/ops/attention/quantized.hpp>
#include <smalti/ops/attention/rotated.hpp>
#include <smalti/ops/cache/append.hpp>
#include <smalti/ops/cache/source.hpp>
#include "tuned.hpp"

namespace kernels {

using namespace smalti;
struct splitting : attention::options {
  static constexpr bool split_kv = true;
};
using attention::attention_regime;
template <int D, class Kv, attention_regime Regime, class Options = splitting> struct attend_to {
  using op = attention::flash<bf16, D, Kv, policy::causal, Options>;
  using tuning = chosen<attention::attention_tuning, attention::default_tuning<bf16, D, D, attention::form_of_keys<Kv>>>;
  using kernel = typename op::template kernel<tuning, Regime, Options::split_kv>;
  using arguments = typename kernel::arguments;
  template <target T> using agent = typename kernel::template agent<T>;
};
template <int D, class Storage, int Page, attention_regime Regime, class Options = splitting> using attend = attend_to<D, attention::paged_quantized_kv<Storage, Page>, Regime, Options>;
using decode_int8_64 = attend<64, policy::kv_int8<>, 16, attention_regime::decode>;
using decode_int8_128 = attend<128, policy::kv_int8<>, 16, attention_regime::decode>;
using decode_int4_64 = attend<64, policy::kv_int4<32>, 16, attention_regime::decode>;
using decode_int4_128 = attend<128, policy::kv_int4<32>, 16, attention_regime::decode>;
using decode_kivi_128 = attend<128, policy::kv_per_channel_keys<2, 32>, 32, attention_regime::decode>;
using prefill_int8_128 = attend<128, policy::kv_int8<>, 64, attention_regime::prefill, attention::options>;

// keys that are turned when they are read
template <class Kv, class Pairs = policy::half_split> using turned = attention::rotated_kv<Kv, policy::rotate_on_read, Pairs>;
using decode_turned_128 = attend_to<128, turned<attention::paged_kv<bf16, 16>>, attention_regime::decode>;
using decode_turned_pairs_128 = attend_to<128, turned<attention::paged_kv<bf16, 16>, policy::interleaved>, attention_regime::decode>;
using decode_turned_int8_128 = attend_to<128, turned<attention::paged_quantized_kv<policy::kv_int8<>, 16>>, attention_regime::decode>;
using prefill_turned_128 = attend_to<128, turned<attention::dense_kv<bf16>>, attention_regime::prefill, attention::options>;

template <class Storage> using append = cache::append<bf16, Storage, policy::nhd, 128>;
using tokens = chosen<cache::quantized_append_tuning, cache::default_quantized_append_tuning>;
using append_scales_int8 = append<policy::kv_int8<>>::scales_kernel<tokens, policy::kv_part::key>;
using append_codes_int8 = append<policy::kv_int8<>>::codes_kernel<tokens>;
using append_codes_int4 = append<policy::kv_int4<32>>::codes_kernel<tokens>;
using append_scales_kivi = append<policy::kv_per_channel_keys<2, 32>>::scales_kernel<tokens, policy::kv_part::key>;
using append_codes_balanced = cache::append<bf16, policy::kv_int4<32>, policy::nhd, 128, 128, true>::codes_kernel<tokens>;
using append_codes_kivi = append<policy::kv_per_channel_keys<2, 32>>::codes_kernel<tokens>;

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
