// How activations are quantized while a model runs: for each token (row), or each group of a token's elements, one scale
// from the largest magnitude. The functions are maps over a machine's values; ops/quantize.hpp runs them.
//
// The reach of a group is found among bits, as integers: magnitudes are ordered as their bits are, and a NaN lies above
// everything. So a NaN or an infinity in a group makes its scale NaN or infinite (255 for e8m0), on every machine: what is
// multiplied by it is seen not to be finite, never silently wrong. The group's codes have no meaning then.
#pragma once
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <smalti/core/float.hpp>
#include <smalti/core/packed.hpp>
#include <smalti/policy/quantizers/microscaling.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! A format of quantized activations.
//!   code, scale           elements in memory;  group: elements of a row under one scale, 0 for the whole row
//!   scale_of(reach_bits)  what is stored, as a value: float, or an int for e8m0
//!   inverse_of(reach_bits)
//!   encode(x, inverse)    the code as a value that a store converts: an int for int8, the scaled float for fp8
//!   decoded(scale)        the float that codes are multiplied by
//! A format of two codes a byte (pairs) has instead of `encode` also
//!   encode_pair(even, odd, inverse)   the byte, as an int
//! and where a scale of the whole tensor comes before the others: `has_tensor`, and scale_of and inverse_of take it as a second argument.
template <class F>
concept token_format = std::is_empty_v<F> && requires { typename F::code; typename F::scale; { F::group } -> std::convertible_to<int>; };

template <class F> consteval bool explain_token_format() {
  static_assert(token_format<F>, "smalti: activations are quantized by a format of policy/token_format.hpp: int8_tokens<Group>, fp8_tokens<Group>, mxfp8_tokens<>, mxfp4_tokens<>, nvfp4_tokens<>");
  static_assert(F::group == 0 || (F::group >= 16 && F::group <= 256 && (F::group & (F::group - 1)) == 0),
                "smalti: a group of activations is a power of two from 16 to 256, or 0 for a whole row");
  return token_format<F>;
}

//! int8: scale = max(amax, 2^-100) / 127, code = the nearest integer to x * (127 / max(amax, 2^-100)), even on a tie; -128 is
//! never made.
//! @note error: half a scale and 2^-17 of one (the reciprocal's rounding, twice) for every x
template <int Group = 0>
struct int8_tokens {
  using code = std::int8_t;
  using scale = float;
  static constexpr int group = Group;

  template <class V> SMALTI_HD static auto scale_of(V reach_bits) { return reach(reach_bits) / 127.0f; }
  template <class V> SMALTI_HD static auto inverse_of(V reach_bits) { return 127.0f / reach(reach_bits); }
  // 3 * 2^22 has a last place of one: the sum rounds to an integer. One fused operation, so that every machine rounds once.
  template <class V, class S> SMALTI_HD static auto encode(V x, S inverse) {
    using namespace scalar;
    return to_int(fma(x, inverse, 12582912.0f) - 12582912.0f);
  }
  template <class V> SMALTI_HD static auto decoded(V stored) { return stored; }

private:
  template <class V> SMALTI_HD static auto reach(V bits) {
    using namespace scalar;
    return bits_float(max(bits, 0x0d800000));     // 2^-100
  }
};

//! FP8 as DeepSeek-V3 has it: scale = max(amax, 1e-4) / largest, raised to a power of two if asked; code = the nearest fp8 to
//! x * (1 / scale), even on a tie.
//! @note the same codes and scales as DeepGEMM's per_token_cast_to_fp8, to the bit
template <int Group = 128, bool PowerOfTwo = false, class Code = fp8_e4m3>
struct fp8_tokens {
  static_assert(std::is_same_v<Code, fp8_e4m3> || std::is_same_v<Code, fp8_e5m2>, "smalti: fp8 activations are fp8_e4m3 or fp8_e5m2");
  using code = Code;
  using scale = float;
  static constexpr int group = Group;

  template <class V> SMALTI_HD static auto scale_of(V reach_bits) {
    using namespace scalar;
    const auto s = bits_float(max(reach_bits, 0x38d1b717)) / max_finite<Code>;      // 1e-4
    if constexpr (!PowerOfTwo) {
      return s;
    } else {
      const auto bits = float_bits(s);
      return bits_float(where(bits >= 0x7f800000, bits, (bits + 0x007fffff) & 0x7f800000));
    }
  }
  template <class V> SMALTI_HD static auto inverse_of(V reach_bits) { return 1.0f / scale_of(reach_bits); }
  template <class V, class S> SMALTI_HD static auto encode(V x, S inverse) { return x * inverse; }
  template <class V> SMALTI_HD static auto decoded(V stored) { return stored; }
};

namespace detail {
// A power of two for each 32 elements, by the rule of policy/quantizers/microscaling.hpp.
template <class Element, mx_rule Rule> struct power_of_two_scale {
  template <class V> SMALTI_HD static auto scale_of(V reach_bits) {
    using namespace scalar;
    return where(reach_bits >= 0x7f800000, 255, max(((reach_bits + raise) >> 23) - top, 0));
  }
  template <class V> SMALTI_HD static auto inverse_of(V reach_bits) {
    using namespace scalar;
    // 2^(127 - code); the code stays below 254, and a scale of 2^-127 divides as 2^-126 does: nothing above zero is that small
    return bits_float((254 - max(scale_of(reach_bits), 1)) << 23);
  }

private:
  static constexpr int limit_bits = int(float_bits(max_finite<Element>)), top = (limit_bits >> 23) - 127;
  static constexpr int fraction = SMALTI_DATA::detail::layout_of<Element>::fraction;
  // What is added to the bits of amax, so that its exponent is the rule's.
  static constexpr int raise = Rule == mx_rule::floor     ? 0
                               : Rule == mx_rule::ceil    ? 0x007fffff
                               : Rule == mx_rule::even    ? 1 << (22 - fraction)
                               : Rule == mx_rule::quarter ? 1 << 21
                                                          : 0x007fffff - (limit_bits & 0x007fffff);
};
// The code of e2m1 that is nearest to x, ties to the even one, saturating; `sign` is its upper bit. The seven thresholds lie midway;
// magnitudes are ordered as their bits.
template <int Least, class V> SMALTI_HD auto at_least(V magnitude) {
  using namespace scalar;
  return where(magnitude >= Least, 1, 0);
}
constexpr int bits_of(float x) { return int(float_bits(x)); }
template <class V, class I> SMALTI_HD auto e2m1_code(V x, I sign) {
  using namespace scalar;
  const auto m = float_bits(x) & 0x7fffffff;
  return at_least<bits_of(0.25f) + 1>(m) + at_least<bits_of(0.75f)>(m) + at_least<bits_of(1.25f) + 1>(m) + at_least<bits_of(1.75f)>(m) + at_least<bits_of(2.5f) + 1>(m) + at_least<bits_of(3.5f)>(m) +
         at_least<bits_of(5.0f) + 1>(m) + sign;
}
template <class V> SMALTI_HD auto e2m1_with_sign(V x) {      // -0 keeps its own
  using namespace scalar;
  return e2m1_code(x, (float_bits(x) >> 28) & 8);
}
template <class V> SMALTI_HD auto e2m1_below_zero(V x) {
  using namespace scalar;
  return e2m1_code(x, where(x < 0.0f, 8, 0));
}
}  // namespace detail

//! MXFP8: a power of two for each 32 elements, by the rule of policy/quantizers/microscaling.hpp; code = the nearest fp8 to
//! x / scale, even on a tie, saturating.
template <class Code = fp8_e4m3, mx_rule Rule = mx_rule::floor>
struct mxfp8_tokens : detail::power_of_two_scale<Code, Rule> {
  static_assert(std::is_same_v<Code, fp8_e4m3> || std::is_same_v<Code, fp8_e5m2>, "smalti: MXFP8 activations are fp8_e4m3 or fp8_e5m2");
  using code = Code;
  using scale = e8m0;
  static constexpr int group = 32;

  template <class V, class S> SMALTI_HD static auto encode(V x, S inverse) { return x * inverse; }
  template <class V> SMALTI_HD static auto decoded(V stored) { return scale_value<e8m0>(stored); }
};

//! MXFP4: the same with e2m1, two codes a byte; ties to the even code. The same bytes as mx_quantizer<policy::e2m1, Rule>.
//! @note error: at most a quarter of x, and under mx_rule::floor what is clipped above 6 scales (up to a quarter of the largest)
template <mx_rule Rule = mx_rule::floor>
struct mxfp4_tokens : detail::power_of_two_scale<smalti::e2m1, Rule> {
  using code = e2m1x2;
  using scale = e8m0;
  static constexpr int group = 32;
  static constexpr bool has_tensor = false;

  template <class V, class S> SMALTI_HD static auto encode_pair(V even, V odd, S inverse) { return detail::e2m1_with_sign(even * inverse) | (detail::e2m1_with_sign(odd * inverse) << 4); }
  template <class V> SMALTI_HD static auto decoded(V stored) { return scale_value<e8m0>(stored); }
};

//! NVFP4: e4m3 scales for 16 elements under a float for the whole tensor, amax / 2688 (given: calibrated, or found before). The
//! same bytes as nvfp4_modelopt_quantizer.
//! @note error: at most a quarter of x, and what e4m3 costs the scale, 2^-4 of it
struct nvfp4_tokens {
  using code = e2m1x2;
  using scale = fp8_e4m3;
  static constexpr int group = 16;
  static constexpr bool has_tensor = true;

  //! As a float that a store rounds to e4m3; NaN for what is not finite.
  template <class V> SMALTI_HD static auto scale_of(V reach_bits, float tensor) {
    using namespace scalar;
    const auto finite = where(reach_bits == 0, 1.0f, bits_float(reach_bits) / (6.0f * tensor));
    return where(reach_bits >= 0x7f800000, bits_float(reach_bits | 0x00400000), finite);
  }
  //! Codes of x / (stored scale * tensor's scale), zero where that is zero.
  template <class V, class S> SMALTI_HD static auto encode_pair(V even, V odd, S divisor) {
    using namespace scalar;
    return where(divisor > 0.0f, detail::e2m1_below_zero(even / divisor) | (detail::e2m1_below_zero(odd / divisor) << 4), 0);
  }
  template <class V> SMALTI_HD static auto decoded(V stored) { return stored; }
};

}  // namespace smalti::inline SMALTI_DATA::policy
