// Kernels of attention over many ranks and of strided memory with their default tunings, compiled by scripts/machine_code.py. Nothing here
// runs.
#include <smalti/comm/strided.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/attention/absorb.hpp>
#include <smalti/ops/attention/merge.hpp>
#include <smalti/ops/attention/partials.hpp>
#include <smalti/policy/masks/at_positions.hpp>
#include "tuned.hpp"

namespace kernels {

using namespace smalti;
using attention::attention_regime;
using at_positions = attention::flash<bf16, 128, attention::dense_kv<bf16>, policy::at_positions<policy::causal>, attention::partial_options<attention::options>>;
using share_128 = at_positions::kernel<attention::default_tuning<bf16, 128, 128>, attention_regime::prefill, false>;
template <template <attention::merge_tuning, class> class Agent, class Problem> struct partials {
  using arguments = typename Problem::arguments;
  using tuning = chosen<attention::merge_tuning, attention::default_merge_tuning>;
  template <target T> using agent = Agent<tuning{}(T), Problem>;
};
using absorb_float = partials<attention::absorb_agent, attention::absorb<float>::kernel::problem>;
using merge_float = partials<attention::merge_agent, attention::merge<float, bf16>::kernel::problem>;
template <class Word> struct strided {
  using arguments = comm::strided_arguments<Word>;
  using tuning = chosen<comm::strided_tuning, comm::default_strided_tuning>;
  template <target T> using agent = comm::strided_agent<tuning{}(T), Word>;
};
using strided_words = strided<int>;
using strided_bytes = strided<unsigned char>;

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
