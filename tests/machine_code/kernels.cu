// The library's agents with their default tunings, compiled to machine code by scripts/machine_code.py. One kernel a
// compilation, chosen by -DKERNEL=name. Nothing here runs.
#include <smalti/block/attention/flash.hpp>
#include <smalti/block/gemm/weight_only.hpp>
#include <smalti/ops/gemm/tuning.hpp>
#include <smalti/policy/codec.hpp>
#include <smalti/tile/launch.hpp>

namespace kernels {

using namespace smalti;
using gemm::b_order;
using gemm::gemm_regime;

// ---- dense GEMM
template <class A, class C, class Epilogue, gemm_regime Regime, b_order Order = b_order::n_by_k, bool Split = false, bool Far = false, int Step = step_of<A>>
struct dense {
  using problem = gemm::dense_problem<A, A, C, Epilogue, Order, Step, Step, Step == 1 ? 1 : step_of<C>, Split, Far>;
  using arguments = typename problem::arguments;
  template <target T> using agent = gemm::dense_agent<gemm::default_tuning<A, problem::pairs>{}(T, Regime), problem>;
};
using none = policy::chain<>;
constexpr auto decode = gemm_regime::decode, prefill = gemm_regime::prefill;
using gemm_bf16 = dense<bf16, bf16, policy::chain<policy::bias<bf16>, policy::silu>, prefill>;
using gemm_bf16_decode = dense<bf16, bf16, none, decode>;
using gemm_bf16_split = dense<bf16, bf16, none, decode, b_order::n_by_k, true>;
using gemm_bf16_gated = dense<bf16, bf16, policy::chain<policy::gated<policy::silu>>, prefill>;
using gemm_bf16_kn = dense<bf16, bf16, none, prefill, b_order::k_by_n>;
using gemm_bf16_far = dense<bf16, bf16, none, prefill, b_order::n_by_k, false, true>;
using gemm_bf16_residual = dense<bf16, bf16, policy::chain<policy::gelu, policy::residual<bf16>>, prefill>;
using gemm_bf16_any_width = dense<bf16, bf16, none, prefill, b_order::n_by_k, false, false, 1>;
using gemm_fp16 = dense<fp16, fp16, none, prefill>;
using gemm_f32 = dense<float, float, none, prefill>;
using gemm_s8 = dense<std::int8_t, int, none, prefill>;

// ---- weight-only GEMM
template <int M, int N, bool Left> struct weight_only {
  using problem = gemm::weight_only_problem<policy::int4_symmetric<128>, bf16>;
  using arguments = problem::arguments;
  template <target> using agent = gemm::weight_only_agent<gemm::weight_only_tuning{M, N, Left}, problem>;
};
using w4a16_decode = weight_only<16, 128, false>;
using w4a16_left = weight_only<64, 128, true>;

// ---- attention, d = 128
// A mask that a user might write: tokens of one document, in a window.
struct document_window {
  const int* document = nullptr;
  int n = 0, window = 0;
  SMALTI_HD constexpr policy::span keys(policy::span, int length) const { return {0, length}; }
  SMALTI_HD constexpr policy::span whole(policy::span, int) const { return {0, 0}; }
  template <class Q, class K> SMALTI_HD auto visible(Q q, K k) const {
    return lookup(document, k, n) == lookup(document, q, n) && k <= q && k > q - window;
  }
};
// Without TMA a page as large as the key tile gains nothing over a gather, and having both forms spills: 32 keys there.
template <class Kv, class Mask, int Wide = 128, int Old = 64> struct attend {
  using problem = attention::flash_problem<128, Kv, bf16, Mask>;
  using arguments = typename problem::arguments;
  static constexpr bool wide(target t) { return t == target::sm90 || t == target::sm100; }
  template <target T> using agent = attention::flash_agent<attention::attention_tuning{wide(T) ? Wide : 64, T == target::sm80 || T == target::sm89 ? Old : 64}, problem>;
};
using attention_causal = attend<attention::contiguous_kv<bf16>, policy::causal>;
using attention_user_mask = attend<attention::contiguous_kv<bf16>, document_window, 64>;
using attention_fp8 = attend<attention::contiguous_kv<fp8_e4m3>, policy::causal>;
using attention_page64 = attend<attention::paged_kv<bf16, 64>, policy::causal, 128, 32>;
using attention_page16 = attend<attention::paged_kv<bf16, 16>, policy::causal>;

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
