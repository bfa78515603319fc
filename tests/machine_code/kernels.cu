// The library's agents with their default tunings, compiled to machine code by scripts/machine_code.py. One kernel a
// compilation, chosen by -DKERNEL=name. Nothing here runs.
#include <smalti/block/gemm/activations.hpp>
#include <smalti/block/gemm/linear.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/gemm/options.hpp>
#include <smalti/ops/gemm/tuning.hpp>
#include <smalti/policy/codec.hpp>
#include <smalti/policy/gate.hpp>
#include <smalti/policy/score.hpp>
#include <smalti/policy/sink_window_blocks.hpp>
#include <smalti/policy/work_list.hpp>
#include <smalti/tile/launch.hpp>
#include "tuned.hpp"

namespace kernels {

using namespace smalti;
using gemm::b_order;
using gemm::gemm_regime;

// ---- dense GEMM
template <class A, class C, class Epilogue, gemm_regime Regime, b_order Order = b_order::n_by_k, bool Split = false, bool Far = false, int Step = step_of<A>>
struct dense {
  struct told : gemm::options {
    static constexpr b_order b = Order;
    static constexpr bool split_k = Split, any_width = Step == 1;
  };
  using problem = gemm::dense_problem<A, A, C, Epilogue, told, Far>;
  using arguments = typename problem::arguments;
  template <target T> using agent = gemm::dense_agent<picked(gemm::default_tuning<A, problem::pairs>{}(T, Regime)), problem>;
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

// ---- linear layers with packed weights
template <class Format, class Layout, policy::scale_in In, class X, int M, int N, bool Left, class Factors = gemm::activation_factors<>, class Rows = gemm::one_matrix, class Epilogue = policy::chain<>, int Old = M>
struct packed {
  using source = gemm::packed_weights<Format, Layout, In>;
  using problem = gemm::linear_problem<X, X, source, Factors, bf16, Epilogue, Rows, false>;
  using arguments = typename problem::arguments;
  static constexpr bool old(target t) { return t == target::sm80 || t == target::sm89; }
  template <target T> using agent = gemm::linear_agent<picked(gemm::linear_tuning{.m = old(T) ? Old : M, .n = N, .weights_left = Left}), problem>;
};
constexpr auto accumulator = policy::scale_in::accumulator, in_operand = policy::scale_in::operand;
template <int Bits, int Depth = 32> using pairs_layout = policy::weight_layout<Bits, policy::machine_family::gpu, Depth>;
template <int Bits, int Depth = 32> using quads_layout = policy::weight_layout<Bits, policy::machine_family::host, Depth, 1>;
using w4a16_decode = packed<policy::int4_symmetric<128>, pairs_layout<4>, accumulator, bf16, 16, 128, false>;
using w4a16_left = packed<policy::int4_symmetric<128>, pairs_layout<4>, accumulator, bf16, 64, 128, true>;
using w4a16_zeros = packed<policy::int4_affine<128>, pairs_layout<4>, accumulator, fp16, 64, 64, true, gemm::activation_factors<-1, true>>;
using w4a16_operand = packed<policy::int4_affine<128>, pairs_layout<4>, in_operand, fp16, 16, 64, false>;
using w3a16_decode = packed<policy::int_affine<3, 128>, pairs_layout<3>, accumulator, bf16, 16, 64, false>;
using w8a16_left = packed<policy::int_affine<8, 128>, pairs_layout<8>, accumulator, bf16, 64, 64, true>;
using nf4_decode = packed<policy::bnb_nf4<64>, pairs_layout<4>, accumulator, bf16, 16, 64, false>;
using mxfp4_left = packed<policy::mxfp4, pairs_layout<4>, accumulator, bf16, 64, 64, true, gemm::activation_factors<>, gemm::one_matrix, policy::chain<>, 32>;
using nvfp4_left = packed<policy::nvfp4_multiplier, pairs_layout<4, 16>, accumulator, bf16, 64, 64, true, gemm::activation_factors<>, gemm::one_matrix, policy::chain<>, 32>;
using q4k_decode = packed<policy::q4_k, pairs_layout<4>, accumulator, bf16, 16, 64, false, gemm::activation_factors<-1, true>>;
using w4a16_grouped = packed<policy::int4_symmetric<128>, pairs_layout<4>, accumulator, bf16, 64, 64, true, gemm::activation_factors<>, gemm::row_groups>;
using w4a16_moe = packed<policy::int4_symmetric<128>, pairs_layout<4>, accumulator, bf16, 64, 64, true, gemm::activation_factors<>, gemm::mapped_row_groups>;

// ---- activations that are quantized too
template <class Format, class Layout, int Group, int M, int N, bool Left, bool Sums = false> struct integers {
  using source = gemm::packed_weights<Format, Layout, accumulator>;
  using problem = gemm::linear_problem<std::int8_t, std::int8_t, source, gemm::activation_factors<Group, Sums>, bf16, policy::chain<>, gemm::one_matrix, false>;
  using arguments = typename problem::arguments;
  static constexpr int rows(target t) { return M > 32 && Group != 0 && (t == target::sm80 || t == target::sm89) ? 32 : M; }
  template <target T> using agent = gemm::linear_agent<picked(gemm::linear_tuning{.m = rows(T), .n = N, .weights_left = Left}), problem>;
};
using w4a8_left = integers<policy::int_affine<4, 128>, quads_layout<4>, 128, 64, 64, true>;
using w4a8_decode = integers<policy::q4_0, quads_layout<4>, 32, 16, 64, false>;
using w8a8_left = integers<policy::int_affine<8, 0, policy::zero_point::none, float>, quads_layout<8>, 0, 64, 64, true>;
template <class WeightScales, int Group, int M, int N, bool Left> struct bytes_of_floats {
  using source = gemm::plain_weights<fp8_e4m3, gemm::scale_arrays<WeightScales>>;
  using problem = gemm::linear_problem<fp8_e4m3, fp8_e4m3, source, gemm::activation_factors<Group>, bf16, policy::chain<>, gemm::one_matrix, false>;
  using arguments = typename problem::arguments;
  static constexpr bool old(target t) { return t == target::sm80 || t == target::sm89; }
  template <target T> using agent = gemm::linear_agent<picked(gemm::linear_tuning{.m = old(T) ? 32 : M, .n = N, .k = 128, .weights_left = Left}), problem>;
};
using fp8_blocks = bytes_of_floats<policy::fp8_block::scales, 128, 64, 64, true>;
using plan_of_groups = gemm::plan_row_tiles<std::int32_t>;
struct group_plan {
  using arguments = plan_of_groups::arguments;
  template <target> using agent = plan_of_groups;
};
struct column_order {
  using arguments = gemm::gather_columns<bf16, step_of<bf16>, 16, 64>::arguments;
  template <target> using agent = gemm::gather_columns<bf16, step_of<bf16>, 16, 64>;
};
struct sums_of_groups {
  using arguments = gemm::group_sums<bf16, step_of<bf16>, 128, 16, 64>::arguments;
  template <target> using agent = gemm::group_sums<bf16, step_of<bf16>, 128, 16, 64>;
};

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
struct plain : attention::options {
  static constexpr bool ragged = false;
};
struct ragged_rows : attention::options {};
struct splitting : attention::options {
  static constexpr bool split_kv = true;
};
struct latent_values : attention::options {
  static constexpr int value_dim = 512;
};
struct gated : attention::options {
  using gate = policy::sigmoid_gate<bf16>;
};
struct in_equal_shares : splitting {
  using work = policy::balanced_work;
};
struct near_and_first : attention::options {
  using blocks = policy::sink_window_blocks<64, 64>;
};
using attention::attention_regime;
// As the op starts it, with the default tuning or another's.
template <int D, class Kv, class Mask, class Options = plain, attention_regime Regime = attention_regime::prefill>
struct attend {
  using op = attention::flash<bf16, D, Kv, Mask, Options>;
  using tuning = chosen<attention::attention_tuning, attention::default_tuning<bf16, D, op::value_dim, attention::form_of_keys<Kv>>>;
  using kernel = typename op::template kernel<tuning, Regime, Options::split_kv>;
  using arguments = typename kernel::arguments;
  template <target T> using agent = typename kernel::template agent<T>;
};
using attention_causal = attend<128, attention::dense_kv<bf16>, policy::causal>;
using attention_causal_64 = attend<64, attention::dense_kv<bf16>, policy::causal>;
using attention_causal_256 = attend<256, attention::dense_kv<bf16>, policy::causal>;
using attention_ragged = attend<128, attention::dense_kv<bf16>, policy::causal, ragged_rows>;
using attention_user_mask = attend<128, attention::dense_kv<bf16>, document_window>;
using attention_fp8 = attend<128, attention::dense_kv<fp8_e4m3>, policy::causal>;
using attention_fp8_64 = attend<64, attention::dense_kv<fp8_e4m3>, policy::causal>;
using attention_fp8_256 = attend<256, attention::dense_kv<fp8_e4m3>, policy::causal>;
using attention_page64 = attend<128, attention::paged_kv<bf16, 64>, policy::causal, ragged_rows>;
using attention_page16 = attend<128, attention::paged_kv<bf16, 16>, policy::causal, ragged_rows>;
using attention_page16_64 = attend<64, attention::paged_kv<bf16, 16>, policy::causal, ragged_rows>;
using attention_page16_256 = attend<256, attention::paged_kv<bf16, 16>, policy::causal, ragged_rows>;
using attention_decode = attend<128, attention::paged_kv<bf16, 16>, policy::causal, splitting, attention_regime::decode>;
using attention_decode_whole = attend<128, attention::paged_kv<bf16, 16>, policy::causal, ragged_rows, attention_regime::decode>;
using attention_decode_64 = attend<64, attention::paged_kv<bf16, 16>, policy::causal, splitting, attention_regime::decode>;
using attention_decode_256 = attend<256, attention::paged_kv<bf16, 16>, policy::causal, splitting, attention_regime::decode>;
using attention_balanced = attend<128, attention::paged_kv<bf16, 16>, policy::causal, in_equal_shares, attention_regime::decode>;
using attention_gated = attend<128, attention::dense_kv<bf16>, policy::causal, gated>;
using attention_sink_window = attend<128, attention::dense_kv<bf16>, policy::sink_window<>, near_and_first>;
using attention_latent = attend<576, attention::paged_kv<bf16, 64>, policy::causal, latent_values, attention_regime::decode>;

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
