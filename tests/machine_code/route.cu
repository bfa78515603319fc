// Routing, compiled to machine code by scripts/machine_code.py: one kernel a compilation, chosen by -DKERNEL=name.
#include <smalti/ops/route.hpp>
#include <smalti/tile/launch.hpp>
#include "tuned.hpp"

namespace kernels {

using namespace smalti;

template <class Router> using forward = typename Router::template kernel<chosen<route::route_tuning, route::default_tuning<Router::problem::w>>>;
template <class Router> using backward = typename route::weight_gradient<Router>::template kernel<chosen<route::route_tuning, route::default_tuning<Router::problem::w>>>;
template <template <route::index_tuning> class Agent> struct indexed {
  using arguments = typename Agent<route::index_tuning{}>::arguments;
  using tuning = chosen<route::index_tuning, route::default_index_tuning>;
  template <target T> using agent = Agent<tuning{}(T)>;
};

using mixtral = forward<route::mixtral<>>;
using deepseek_v3 = forward<route::deepseek_v3<>>;
using longcat_flash = forward<route::longcat_flash<>>;
using tutel = forward<route::tutel<>>;
using roe = forward<route::roe<>>;
using mixtral_gradient = backward<route::mixtral<>>;
using deepseek_v3_gradient = backward<route::deepseek_v3<>>;
using count = indexed<route::count_agent>;
using scan = indexed<route::scan_agent>;
using place = indexed<route::place_agent>;
using scatter = indexed<route::scatter_agent>;
using tile_list = indexed<route::tile_list_agent>;

using balance = route::balance_loss<policy::softmax_scorer, route::up_to<256>>;
using balance_mean = balance::mean_kernel<chosen<route::route_tuning, route::default_tuning<256>>>;
using balance_loss = balance::loss_kernel;
using sign_step = route::sign_bias::kernel;
using pid_step = route::pid_bias::kernel;

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
