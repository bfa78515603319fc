// The kernels of attention's backward pass with their default tunings, compiled to machine code by scripts/machine_code.py.
// One kernel a compilation, chosen by -DKERNEL=name. Nothing here runs.
#include <smalti/ops/attention/backward.hpp>
#include "tuned.hpp"

namespace kernels {

using namespace smalti;

template <int D> using op = attention::flash_backward<bf16, D>;
template <int D> using tuning = chosen<attention::backward_tuning, attention::default_backward_tuning<bf16, D, D>>;
template <int D> using queries = typename op<D>::template dq_kernel<tuning<D>>;
// dk and dv: of a target that makes them apart, the kernel of dk; and of dv.
template <int D, attention::backward_results Apart> struct made {
  using arguments = typename op<D>::problem::arguments;
  template <target T> using agent = std::conditional_t<tuning<D>{}(T, attention::backward_kernel::keys).separate,
                                                       typename op<D>::template dkdv_kernel<tuning<D>, Apart>::template agent<T>,
                                                       typename op<D>::template dkdv_kernel<tuning<D>, attention::backward_results::both>::template agent<T>>;
};
template <int D> using keys = made<D, attention::backward_results::keys>;
template <int D> using values = made<D, attention::backward_results::values>;
using rows = op<128>::rows_kernel;
using sink = op<128>::sink_kernel;
struct biased : attention::backward_options {
  using score = policy::additive_bias<float>;
  static constexpr bool bias_gradient = true;
};
using biased_op = attention::flash_backward<bf16, 64, policy::causal, biased>;
using bias = biased_op::bias_kernel<tuning<64>>;

using queries_64 = queries<64>;
using queries_128 = queries<128>;
using queries_256 = queries<256>;
using keys_64 = keys<64>;
using keys_128 = keys<128>;
using keys_256 = keys<256>;
using values_64 = values<64>;
using values_128 = values<128>;
using values_256 = values<256>;

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
