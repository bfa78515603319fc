// Normalization and rotary kernels with their default tunings, compiled by scripts/machine_code.py. Nothing here runs.
#include <smalti/ops/norm.hpp>
#include <smalti/ops/rotary.hpp>
#include "tuned.hpp"

namespace kernels {

using namespace smalti;
struct into_stream : norm::options {
  static constexpr bool adds = true;
};
struct with_bias : norm::options {
  static constexpr bool bias = true;
};
using rms_bf16 = norm::rms<bf16>::kernel<chosen<norm::norm_tuning, norm::default_tuning>>;
using rms_added = norm::rms<bf16, bf16, into_stream>::kernel<chosen<norm::norm_tuning, norm::default_tuning>>;
using layer_bf16 = norm::layer<bf16, bf16, with_bias>::kernel<chosen<norm::norm_tuning, norm::default_tuning>>;
using rotary_halves = rotary::rotate<bf16, policy::half_split, 128>::kernel<chosen<rotary::rotary_tuning, rotary::default_tuning>>;
using rotary_interleaved = rotary::rotate<bf16, policy::interleaved, 64>::kernel<chosen<rotary::rotary_tuning, rotary::default_tuning>>;

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
