// Linear layers with quantized weights: see the names at the end of this file. docs/ops/gemm.md has formats, limits and
// measured results; ops/gemm/pack.hpp packs weights (include it where that is done).
#pragma once
#include <type_traits>
#include <smalti/ops/gemm/linear.hpp>
#include <smalti/ops/gemm/packed_weight.hpp>
#include <smalti/policy/formats.hpp>
#include <smalti/policy/token_format.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

namespace detail {

template <class Tokens, class Format> consteval bool explain_quantized() {
  static_assert(policy::explain_token_format<Tokens>());
  constexpr bool integers = std::is_same_v<typename Tokens::code, std::int8_t>;
  if constexpr (!std::is_same_v<typename Tokens::scale, float>) {      // block-scaled: both sides alike
    static_assert(requires { typename Format::codec::storage; } && std::is_same_v<typename Format::scales::element, typename Tokens::scale> && Format::scales::group_k == Tokens::group && Format::scales::group_n == 1,
                  "smalti: block-scaled activations are multiplied with weights of the same scales: mxfp8_tokens with mxfp8_e4m3 or mxfp8_e5m2, mxfp4_tokens with mxfp4, nvfp4_tokens with nvfp4_multiplier or nvfp4_divisor");
    if constexpr (requires { typename Format::codec::storage; })
      static_assert(std::is_same_v<typename Format::codec::storage, typename Tokens::code> || (std::is_same_v<typename Format::codec::storage, e2m1> && std::is_same_v<typename Tokens::code, e2m1x2>),
                    "smalti: block-scaled activations and weights have one type of codes: fp8_e4m3, fp8_e5m2 or e2m1 for both");
  } else if constexpr (integers) {
    static_assert(policy::integer_scale<typename Format::codec> != 0,
                  "smalti: codes of this format are not 8-bit integers, times any power of two: use gemm::weight_only with 16-bit activations, or fp8 activations for fp8 weights");
  } else {
    static_assert(requires { typename Format::codec::storage; } , "smalti: fp8 activations are multiplied with fp8 weights: use int8_tokens for integer weights");
    if constexpr (requires { typename Format::codec::storage; })
      static_assert(std::is_same_v<typename Format::codec::storage, typename Tokens::code>, "smalti: fp8 activations and weights have one type: fp8_e4m3 or fp8_e5m2 for both");
  }
  return true;
}
template <class Tokens, class Format> struct quantized_kind {
  static_assert(explain_quantized<Tokens, Format>());
  static constexpr auto choose() {
    if constexpr (!std::is_same_v<typename Tokens::scale, float>) return std::type_identity<block_scaled_kind<Tokens, Format>>{};
    else if constexpr (std::is_same_v<typename Tokens::code, std::int8_t>) return std::type_identity<integer_kind<Tokens, Format>>{};
    else return std::type_identity<matrix_kind<typename Tokens::code, Tokens::group, typename Format::scales>>{};
  }
  using type = typename decltype(choose())::type;
};

}  // namespace detail

//! y[i, j] = epilogue(sum over p of x[i, p] * weight(j, p), i, j), with weight = (value(code) - zero) * scale + minimum as the
//! format says: W1 to W8 A16, NF4, FP4, MXFP, NVFP4, FP8, GGUF formats, GPTQ and AWQ with or without act-order.
//!
//! @tparam Format    policy::format<codec, scales> or a name of policy/formats.hpp
//! @tparam Epilogue  policy::chain<...>; policy::gated<F> first takes a second weight, args.up
//! @tparam X, Y      bf16 or fp16 activations; the result: float, bf16, fp16 or fp8
//! @pre   w is packed for this machine (packed_weight<Format, X>); without any_width x and y have bases, strides and widths of whole 16
//!        bytes; y does not overlap x. On a GPU x and y have fewer than 2^31 elements
//! @post  same bits on every run with the same context. batch_invariant: a row's bits do not depend on the other rows
//! @note  error: codes are exact in the operands (tables like NF4 are rounded to X: 2^-9 relative for bf16, 2^-12 for fp16).
//!        scale_in::accumulator multiplies each group's sum: at most (K + 8) 2^-24 of the sum of magnitudes. scale_in::operand
//!        rounds each scaled weight: 2^-9 (2^-12) more, twice that on a GPU, which rounds the scale as well. Minima and zero points
//!        are a correction from each group's sum of activations
//! @note  cost: 2 M N K operations; bits / 8 + scale bytes / group per weight read once, weights being decoded once for each tile of
//!        rows. Passes of their own: the sums of the activations' groups where there are minima or zero points; the
//!        activations' columns in the weight's order where it has one
template <class Format, class Epilogue = policy::chain<>, class X = bf16, class Y = X, class Options = linear_options>
using weight_only = linear_op<detail::upcast_kind<Format, X, Options::scale>, Epilogue, Y, Options, false>;

//! The same with activations that are quantized too, by quantize::tokens or alike: codes M x K, their scales groups x M (one row
//! for a scale a token), and where the weight has zero points or minima the sums of the decoded activations over its groups.
//!
//!     int8_tokens<G> with integer weights of 1 to 8 bits, e2m1 or e2m3 (host): W8A8, W4A8, Q4_0 x Q8_0, Q4_1 x Q8_1, Q4_K x Q8
//!     fp8_tokens<128> with policy::fp8_block: DeepSeek-V3's 1 x 128 by 128 x 128, promoted to float every 128 of K
//!     fp8_tokens<0> with fp8_channel or fp8_tensor: scales of tokens and channels after the sum
//!     mxfp8_tokens<> with mxfp8_e4m3, mxfp4_tokens<> with mxfp4, nvfp4_tokens<> with nvfp4_multiplier or nvfp4_divisor: block-scaled,
//!         by the instructions of sm_100 and later, which take codes and scales as they lie; elsewhere widened to bf16, exactly
//!
//! @tparam Tokens  policy::int8_tokens<Group> or policy::fp8_tokens<Group>. Its group is that of the weight, or 0 for one scale a token
//! @note  error: integers are summed exactly; one multiply-add in float for each group (Group 0 and channel scales: sums stay
//!        integers to the end). What quantizing the activations costs is theirs to say: half a step of each, never silent
//! @note  FP8 weights are matrices as checkpoints have them (matrix_weight), with scales as a matrix K / 128 x N / 128; block-scaled
//!        ones (block_scaled_weight) too, two e2m1 a byte, with scales N x K / group. copy_imported makes all of them
//! @note  block-scaled, error: (K + 2 K / group + 8) 2^-24 of the sum of |x w| at most, the instructions' own accumulators aside, whose width
//!        NVIDIA does not state. On sm_80 and sm_90 the product of a code and an e8m0 scale must be a number of bf16: magnitudes from 2^-126 to 2^127
template <class Tokens, class Format, class Epilogue = policy::chain<>, class Y = bf16, class Options = linear_options>
using quantized = linear_op<typename detail::quantized_kind<Tokens, Format>::type, Epilogue, Y, Options, false>;

//! Both in groups of rows with a weight each: row r, of segment e, is multiplied by weight e. Segments may be empty, of one row, or
//! hold all rows; their offsets lie where the work runs and are not read by the host. One launch plans the tiles, one multiplies.
//!
//! linear_options::gathers: row r of the segments is row source[r] of x (any order, repeats allowed; it must exist);
//! scatters: it goes to row target[r] of y, or nowhere. Epilogues see r, the row among the segments.
//!
//! @pre   offsets begin with 0, never decrease and end with the number of rows; checked on the host, a precondition on a GPU
//! @note  the grid has M / tile + segments tiles of rows: those that no segment needs end at once
template <class Format, class Epilogue = policy::chain<>, class X = bf16, class Y = X, class Options = linear_options>
using grouped_weight_only = linear_op<detail::upcast_kind<Format, X, Options::scale>, Epilogue, Y, Options, true>;
template <class Tokens, class Format, class Epilogue = policy::chain<>, class Y = bf16, class Options = linear_options>
using grouped_quantized = linear_op<typename detail::quantized_kind<Tokens, Format>::type, Epilogue, Y, Options, true>;

//! Both in groups along k: y[e, i, j] = epilogue(sum over the columns p of segment e of x[i, p] * weight(j, p), i, j), a matrix M x N
//! for each segment: gradients of grouped weights with quantized operands (x and w are then the transposed activations and
//! gradients, quantized along the rows of all groups), or the shares of heads and adapters in one product.
//!
//! Segments may be empty (their result is epilogue(0)), and begin and end anywhere, within groups of scales too; where x_sums are
//! given they hold whole groups. Weights without an order of columns; codes of one byte or packed, not pairs of e2m1.
//!
//! @pre   offsets as above, of columns; end: the rest of a segment is left out. Decoded weights outside the segments are finite
//! @post  a group's matrix does not depend on the other groups' columns. Same bits on every run with the same context
//! @note  cost: 2 M N K operations in all; each step of k at a boundary is done for both segments. Zero points and minima of
//!        16-bit activations: a pass over x, which gives the sums of each segment's part of a group
template <class Format, class Epilogue = policy::chain<>, class X = bf16, class Y = float, class Options = linear_options>
using grouped_depth_weight_only = linear_op<detail::upcast_kind<Format, X, Options::scale>, Epilogue, Y, Options, false, true>;
template <class Tokens, class Format, class Epilogue = policy::chain<>, class Y = float, class Options = linear_options>
using grouped_depth_quantized = linear_op<typename detail::quantized_kind<Tokens, Format>::type, Epilogue, Y, Options, false, true>;

}  // namespace smalti::inline SMALTI_CODE::gemm
