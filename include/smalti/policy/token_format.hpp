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
#include <smalti/policy/quantizers/microscaling.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! A format of quantized activations.
//!   code, scale           elements in memory;  group: elements of a row under one scale, 0 for the whole row
//!   scale_of(reach_bits)  what is stored, as a value: float, or an int for e8m0
//!   inverse_of(reach_bits)
//!   encode(x, inverse)    the code as a value that a store converts: an int for int8, the scaled float for fp8
//!   decoded(scale)        the float that codes are multiplied by
template <class F>
concept token_format = std::is_empty_v<F> && requires { typename F::code; typename F::scale; { F::group } -> std::convertible_to<int>; };

template <class F> consteval bool explain_token_format() {
  static_assert(token_format<F>, "smalti: activations are quantized by a format of policy/token_format.hpp: int8_tokens<Group>, fp8_tokens<Group>, mxfp8_tokens<>");
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

//! MXFP8: a power of two for each 32 elements, by the rule of policy/quantizers/microscaling.hpp; code = the nearest fp8 to
//! x / scale, even on a tie, saturating.
template <class Code = fp8_e4m3, mx_rule Rule = mx_rule::floor>
struct mxfp8_tokens {
  static_assert(std::is_same_v<Code, fp8_e4m3> || std::is_same_v<Code, fp8_e5m2>, "smalti: MXFP8 activations are fp8_e4m3 or fp8_e5m2");
  using code = Code;
  using scale = e8m0;
  static constexpr int group = 32;

  template <class V> SMALTI_HD static auto scale_of(V reach_bits) {
    using namespace scalar;
    return where(reach_bits >= 0x7f800000, 255, max(((reach_bits + raise) >> 23) - top, 0));
  }
  template <class V> SMALTI_HD static auto inverse_of(V reach_bits) {
    using namespace scalar;
    // 2^(127 - code); the code stays below 248, and a scale of 2^-127 divides as 2^-126 does: nothing above zero is that small
    return bits_float((254 - max(scale_of(reach_bits), 1)) << 23);
  }
  template <class V, class S> SMALTI_HD static auto encode(V x, S inverse) { return x * inverse; }
  template <class V> SMALTI_HD static auto decoded(V stored) { return scale_value<e8m0>(stored); }

private:
  static constexpr int limit_bits = int(float_bits(max_finite<Code>)), top = (limit_bits >> 23) - 127;
  static constexpr int fraction = SMALTI_DATA::detail::layout_of<Code>::fraction;
  // What is added to the bits of amax, so that its exponent is the rule's.
  static constexpr int raise = Rule == mx_rule::floor     ? 0
                               : Rule == mx_rule::ceil    ? 0x007fffff
                               : Rule == mx_rule::even    ? 1 << (22 - fraction)
                               : Rule == mx_rule::quarter ? 1 << 21
                                                          : 0x007fffff - (limit_bits & 0x007fffff);
};

}  // namespace smalti::inline SMALTI_DATA::policy
