// Grouped products, adapters and what moves rows between tokens and experts, as the operations start them. One kernel a
// compilation, chosen by -DKERNEL=name. Nothing here runs.
#include <smalti/block/lora/mix_gradient.hpp>
#include <smalti/flow/lora.hpp>
#include <smalti/flow/lora_systems.hpp>
#include <smalti/flow/moe.hpp>
#include <smalti/ops/moe/inspect.hpp>
#include <smalti/ops/moe/sum_by_id.hpp>
#include "tuned.hpp"

namespace kernels {

using namespace smalti;
using gemm::gemm_regime;

template <class Op, class A, class Options, bool Paged, gemm_regime Regime = gemm_regime::prefill> struct rows_of {
  using tuning = chosen<gemm::gemm_tuning, gemm::grouped_tuning<A, Op::pairs, Options, Paged>>;
  using kernel = typename Op::template kernel<tuning, Regime>;
  using arguments = typename kernel::arguments;
  template <target T> using agent = typename kernel::template agent<T>;
};
struct gathering : gemm::grouped_options { static constexpr bool gathers = true; };
struct scattering : gemm::grouped_options { static constexpr bool scatters = true; };
using gated = policy::chain<policy::gated<policy::silu>>;
using grouped_bf16 = rows_of<gemm::grouped<bf16, bf16, bf16>, bf16, gemm::grouped_options, false>;
using grouped_gathers = rows_of<gemm::grouped<bf16, bf16, bf16, gated, gathering>, bf16, gathering, false>;
using grouped_scatters = rows_of<gemm::grouped<bf16, bf16, bf16, policy::chain<>, scattering>, bf16, scattering, false>;
using grouped_decode = rows_of<gemm::grouped<bf16, bf16, bf16>, bf16, gemm::grouped_options, false, gemm_regime::decode>;
template <class Op, class A, class Options> struct depth_of {
  using tuning = chosen<gemm::gemm_tuning, gemm::grouped_tuning<A, false, Options, false>>;
  using kernel = typename Op::template kernel<tuning>;
  using arguments = typename kernel::arguments;
  template <target T> using agent = typename kernel::template agent<T>;
};
struct gathering_depth : gemm::depth_options { static constexpr bool gathers = true; };
using along_bf16 = depth_of<gemm::grouped_depth<bf16, bf16, float>, bf16, gemm::depth_options>;
using along_gathers = depth_of<gemm::grouped_depth<bf16, bf16, float, policy::chain<>, gathering_depth>, bf16, gathering_depth>;

using update = lora::sgmv<bf16>;
using narrow_form = lora::detail::form<lora::options, gemm::b_order::n_by_k, false>;
using wide_form = lora::detail::form<lora::options, gemm::b_order::k_by_n, true>;
using shrink = rows_of<update::shrink, bf16, narrow_form, true>;
using shrink_decode = rows_of<update::shrink, bf16, narrow_form, true, gemm_regime::decode>;
using expand = rows_of<update::expand, float, wide_form, true>;
using expand_decode = rows_of<update::expand, float, wide_form, true, gemm_regime::decode>;

template <template <moe::rows_tuning> class Agent> struct rows_kernel {
  using arguments = typename Agent<moe::rows_tuning{16, 64}>::arguments;
  using tuning = chosen<moe::rows_tuning, moe::default_rows_tuning>;
  template <target T> using agent = Agent<tuning{}(T)>;
};
template <moe::rows_tuning T> using combine_of = moe::combine_agent<T, float, bf16, bf16, 4, 8, 8, true, moe::same_rows::shared>;
template <moe::rows_tuning T> using combine_constants_of = moe::combine_agent<T, float, bf16, bf16, 4, 8, 8, true, moe::same_rows::shared, true>;
template <moe::rows_tuning T> using gate_of = moe::gate_agent<T, float, bf16, policy::silu, 4, 8>;
template <moe::rows_tuning T> using dispatch_of = moe::dispatch_agent<T, bf16, 8>;
template <moe::rows_tuning T> using gradient_of_gate = moe::gated_gradient_agent<T, bf16, float, policy::silu, 8, 4, true>;
using combine = rows_kernel<combine_of>;
using combine_constants = rows_kernel<combine_constants_of>;
using gate = rows_kernel<gate_of>;
using dispatch = rows_kernel<dispatch_of>;
using gated_gradient = rows_kernel<gradient_of_gate>;
struct mix {
  using arguments = lora::mix_arguments<bf16>;
  using tuning = chosen<lora::mix_tuning, lora::default_mix_tuning>;
  template <target T> using agent = lora::mix_agent<tuning{}(T), bf16>;
};
// the base product of decoding that adds each row's adapter
using base_of_rows = gemm::dense<bf16, bf16, bf16, policy::chain<policy::add_low_rank_of_row<bf16>>>;
struct fused_rows {
  using tuning = chosen<gemm::gemm_tuning, gemm::order_tuning<bf16, false, gemm::options>>;
  using kernel = base_of_rows::kernel<tuning, gemm_regime::decode, false>;
  using arguments = kernel::arguments;
  template <target T> using agent = kernel::agent<T>;
};
// what gradients of shared rows, and of skills and their logits, are made of
using sums_by_id = moe::sum_by_id<bf16>::kernel;
using dots_of_rows = moe::row_dots<bf16, bf16>::kernel;
using inspected = moe::inspect_kernel<std::int32_t>;
using skill_shares = lora::skill_shares_kernel;
using skill_gradient = lora::skill_gradient_kernel<float>;
using share_gradient = lora::share_gradient_kernel<bf16>;
using logit_gradient = lora::logit_gradient_kernel;
using count = lora::count_kernel<std::int32_t>;
using ends = lora::ends_kernel<std::int32_t>;
using identity = lora::identity_kernel<bf16>;
struct sparse {
  using arguments = lora::sparse_arguments<bf16, bf16>;
  using tuning = chosen<lora::sparse_tuning, lora::default_sparse_tuning>;
  template <target T> using agent = lora::sparse_agent<tuning{}(T), bf16, bf16>;
};
struct sparse_gradient {
  using arguments = lora::sparse_gradient_arguments<bf16>;
  using tuning = chosen<lora::sparse_tuning, lora::default_sparse_tuning>;
  template <target T> using agent = lora::sparse_gradient_agent<tuning{}(T), bf16>;
};

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
