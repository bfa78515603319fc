// The agents of cache compression with their default tunings, compiled to machine code by scripts/machine_code.py. One kernel a
// compilation, chosen by -DKERNEL=name. Nothing here runs.
#include <smalti/ops/cache/systems.hpp>
#include "tuned.hpp"

namespace kernels {

using namespace smalti;
using snapkv = cache::snapkv<bf16, 128>;
using observed = cache::observe<bf16, 128, policy::observation_window<32>, attention::paged_kv<bf16, 16>>;
using chosen_mass = chosen<attention::mass_tuning, cache::default_mass_tuning>;
using score = observed::kernel<chosen_mass>;
using tova = cache::observe<bf16, 128, policy::last_query, attention::paged_kv<bf16, 16>>;
using score_shared = tova::kernel<chosen_mass, true>;
using score_lse = observed::lse_kernel<chosen_mass>;
using candidates = snapkv::candidate_kernel;
using kept_scores = cache::h2o<bf16, 128>::keep_scores_kernel;
using copied_scores = cache::h2o<bf16, 128>::copy_scores_kernel;
using page_candidates = cache::compress<bf16, 128, policy::in_pages<policy::observation_window<>, 16>>::candidate_kernel;
using survivors = snapkv::survivor_kernel;
using row_lists = snapkv::row_list_kernel;
struct gather {
  using arguments = cache::move_rows_arguments;
  using tuning = chosen<cache::move_tuning, cache::default_gather_tuning>;
  template <target T> using agent = cache::move_rows_agent<tuning{}(T)>;
};
struct turn {
  using arguments = cache::streaming_llm<bf16, 128>::turn_kernel<policy::close_ranks>::arguments;
  using tuning = chosen<cache::turn_tuning, cache::default_turn_tuning>;
  template <target T> using agent = cache::turn_rows_agent<tuning{}(T), bf16, 128, policy::close_ranks>;
};

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
