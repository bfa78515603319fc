// What turns the values of codes into weights: scales, zero points and minima, how far each reaches, and how they are
// stored.
//
//     w[n, k] = (value(code) - zero[g, j]) * scale[g, j] + minimum[g, j],   g = k / GroupK, j = n / GroupN
//
// Scales, zeros and minima are matrices K / GroupK x N / GroupN, row g contiguous along n. All are floats once loaded:
// one map makes them from what is stored.
#pragma once
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <smalti/core/float.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! What is subtracted or added besides the codec's own offset. Absence is a type's property, never a null pointer.
enum class zero_point : int {
  none,
  integer,    //!< a code is subtracted before the scale: code - zero is exact
  floating    //!< a minimum is added after it, in the units of the weights
};

//! Where a scale enters a product: decided by tuning, within what the scales allow.
//! An integer zero point enters with it: in the operand it is subtracted from the code, exactly; else minus zero * scale * (sum of
//! the group's activations) is added.
enum class scale_in : int {
  operand,       //!< the decoded weight is multiplied and rounded to the operand's type: one multiplication a weight, error 2^-8 (bf16) or 2^-11 (fp16) relative
  accumulator,   //!< each group's sum is multiplied: exact but for float's rounding
  epilogue       //!< the finished sum: only where one group is all of K
};

//! One level of scales: the stored number is the scale.
struct one_level {
  static constexpr int groups = 0;
};
//! Two levels: scale = outer * stored code, minimum = Sign * outer minimum * stored code. One outer scale (and minimum)
//! of type Element for each `Groups` groups along k. Exact in float for six or eight bits times fp16.
template <class Element, int Groups, int Sign = 1> struct super {
  static_assert(Groups >= 1, "smalti: a super group holds at least one group");
  static_assert(Sign == 1 || Sign == -1, "smalti: minima are added (1) or subtracted (-1)");
  using element = Element;
  static constexpr int groups = Groups, sign = Sign;
};
//! One float for the whole tensor, with which every stored scale is multiplied: amax / (448 * 6) for NVFP4 (ModelOpt, torchao).
struct tensor_multiplier {
  static constexpr int groups = 0;
};
//! One float for the whole tensor, by which every stored scale is divided: 2688 / amax for NVFP4 (compressed-tensors).
struct tensor_divisor {
  static constexpr int groups = 0;
};
//! bitsandbytes: scale = dynamic_map(code) * outer + mean, one outer float for each `Block` scales counted in the
//! flattened order of the weight, one mean for the tensor.
template <int Block = 256> struct double_quantized {
  static constexpr int groups = 0, block = Block;
};

//! How a weight is scaled.
//! @tparam Element  how a scale is stored: float, bf16, fp16, fp8_e4m3, e8m0, std::uint8_t or std::int8_t (codes of a second level)
//! @tparam GroupK   codes along k that share a scale; 0: all of them. The last group may be short
//! @tparam GroupN   outputs that share it; 0: all
//! @tparam Second   one_level, super, tensor_multiplier, tensor_divisor, double_quantized
template <class Element, int GroupK, int GroupN = 1, zero_point Zero = zero_point::none, class Second = one_level>
struct scales {
  static_assert(GroupK >= 0 && GroupN >= 0, "smalti: a group holds at least one code; 0 means all of them");
  using element = Element;
  using second = Second;
  static constexpr int group_k = GroupK, group_n = GroupN;
  static constexpr zero_point zero = Zero;
  static constexpr bool constant_along_k = GroupK == 0;   //!< may be applied in the epilogue

  SMALTI_HD static constexpr int rows(int k) { return GroupK == 0 ? 1 : ceil_div(k, GroupK); }
  SMALTI_HD static constexpr int cols(int n) { return GroupN == 0 ? 1 : ceil_div(n, GroupN); }
  SMALTI_HD static constexpr int row_of(int k) { return GroupK == 0 ? 0 : k / GroupK; }
  SMALTI_HD static constexpr int col_of(int n) { return GroupN == 0 ? 0 : n / GroupN; }
  //! Rows of the second level.
  SMALTI_HD static constexpr int outer_rows(int k) { return Second::groups == 0 ? 1 : ceil_div(rows(k), Second::groups == 0 ? 1 : Second::groups); }
};

//! A stored scale as a float: `stored` is the float that a load of float, bf16, fp16 or fp8 gives, or the int that a
//! load of bytes gives (e8m0, std::uint8_t, std::int8_t).
template <class Element, class V> SMALTI_HD constexpr auto scale_value(V stored) {
  if constexpr (std::is_same_v<Element, e8m0>) {   // 2^(code - 127); 0 is a subnormal, 255 NaN: one more bit for both
    using namespace scalar;
    return bits_float((stored << 23) | where(((stored + 1) & 255) < 2, 0x00400000, 0));
  } else if constexpr (std::is_integral_v<Element>) {
    using namespace scalar;
    return to_float(stored);
  } else {
    return stored;
  }
}

//! The scale that multiplies codes, from the stored one and the second level, both as floats. One rounding.
template <class Scales, class V, class W> SMALTI_HD constexpr auto effective_scale(V scale, W outer) {
  using second = typename Scales::second;
  if constexpr (std::is_same_v<second, one_level>) return scale;
  else if constexpr (std::is_same_v<second, tensor_divisor>) return scale / outer;
  else return scale * outer;
}
//! The minimum that is added after the scale.
template <class Second, class V, class W> SMALTI_HD constexpr auto effective_minimum(V minimum, W outer) {
  if constexpr (requires { Second::sign; }) return minimum * (outer * float(Second::sign));
  else return minimum;
}

template <class S>
concept weight_scales = requires { typename S::element; typename S::second; { S::group_k } -> std::convertible_to<int>; { S::group_n } -> std::convertible_to<int>; S::zero; };

template <class S> consteval bool explain_scales() {
  static_assert(weight_scales<S>, "smalti: scales are policy::scales<Element, GroupK, GroupN, zero_point, Second>");
  return weight_scales<S>;
}

}  // namespace smalti::inline SMALTI_DATA::policy
