// The cache's agents with their default tunings, compiled to machine code by scripts/machine_code.py. One kernel a compilation,
// chosen by -DKERNEL=name. Nothing here runs.
#include <smalti/ops/cache.hpp>
#include "tuned.hpp"

namespace kernels {

using namespace smalti;
template <class From, class T, class Layout, bool Gathered = false>
using append = typename cache::append<From, policy::kv_plain<T>, Layout>::template kernel<chosen<cache::append_tuning, cache::default_append_tuning>, Gathered>;
using append_nhd = append<bf16, bf16, policy::nhd>;
using append_hnd = append<bf16, bf16, policy::hnd>;
using append_fp8 = append<bf16, fp8_e4m3, policy::nhd>;
using append_listed = append<bf16, fp8_e4m3, policy::nhd, true>;
using copy_pages = cache::copy_pages::kernel<chosen<cache::move_tuning, cache::default_move_tuning>>;

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
