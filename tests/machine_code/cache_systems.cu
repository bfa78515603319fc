// The agents of merging (D2O), of partial channels (SparF), of probe queries (ActQKV) and of the channel balancer (MiKV), compiled to
// machine code by scripts/machine_code.py. One kernel a compilation, chosen by -DKERNEL=name. Nothing here runs.
#include <smalti/flow/actqkv.hpp>
#include <smalti/flow/sparf.hpp>
#include <smalti/ops/cache/balance.hpp>
#include <smalti/ops/cache/match_pairs.hpp>
#include <smalti/ops/cache/systems.hpp>

namespace kernels {

using namespace smalti;
using merging = cache::merge_rows<bf16, 128, policy::kv_plain<bf16>, policy::nhd, cache::content_hash, policy::merge<>>;
using merge_dropped = merging::dropped_kernel;
using merge_norms = merging::norm_kernel;
using merge_nearest = merging::nearest_kernel;
using merge_threshold = merging::threshold_kernel;
using merge_gate = merging::gate_kernel;
using merge_begins = merging::begins_kernel;
using merge_fold = merging::fold_kernel;
using pair_rows = cache::match_pairs<bf16, 128>::rows_kernel;
using pair_scores = cache::match_pairs<bf16, 128>::scores_kernel;
using sparf = cache::sparf<bf16, 128, 16>;
using sparf_channels = cache::sparf_index<bf16, 128, 16>::channels_kernel;
using sparf_sums = cache::sparf_index<bf16, 128, 16>::sums_kernel;
using sparf_sizes = sparf::sizes_kernel;
using sparf_logits = sparf::logits_kernel;
using sparf_lse = sparf::lse_kernel;
using sparf_scores = sparf::scores_kernel;
using sparf_lists = sparf::list_kernel;
using sparf_compensate = sparf::compensate_kernel;
using sparf_lengths = sparf::lengths_kernel;
using actqkv = cache::actqkv<bf16, 128, 16>;
using actqkv_means = actqkv::means_kernel;
using actqkv_moments = actqkv::moments_kernel;
using actqkv_deviations = actqkv::deviation_kernel;
using actqkv_probe = actqkv::probe_kernel;
using actqkv_protect = actqkv::protect_kernel;
using actqkv_scores = actqkv::score_kernel;
using channel_reach = cache::channel_reach<bf16>::kernel<bf16>;
using channel_balance = cache::channel_balance::kernel;

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
