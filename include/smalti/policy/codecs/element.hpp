// What every codec of elements has: how many bits a code has, which number it stands for before any scale, how a
// number becomes a code, and how a machine turns pairs of codes into pairs of 16-bit operands without converting
// integers one by one.
#pragma once
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <smalti/core/float.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! x, rounded to float here: no compiler fuses the product that made it with the sum it goes into. On the host only,
//! where producers' bits are to be met.
inline float rounded(float x) {
  volatile float stored = x;
  return stored;
}

//! Where a number halfway between two neighbours goes. Producers of checkpoints differ, so every encoder takes it.
enum class tie : int {
  even,          //!< the neighbour with the even code
  away,          //!< from zero
  toward_zero,
  up,            //!< to the larger value
  down           //!< to the smaller value
};

//! zero_code of a codec in which no code stands for zero.
constexpr int no_zero = -1;

//! A codec of elements: an empty type.
//!   bits                        1 to 8
//!   value(code)                 exact meaning before any scale; the codes that are NaN are named beside the codec
//!   zero_code                   decodes to 0, or no_zero
//!   encode(x, tie)              the nearest value's code; past the ends the last finite one; NaN as the codec says
//!   pairs<T>(v)                 v: a machine's 32-bit integers with codes at bits 0 and 16, nothing else set. The
//!                               result holds 16-bit patterns of T (bf16 or fp16) such that
//!                                   (pattern - bias<T>) * factor<T> = value, rounded once to T where T lacks the value
//!                               with bias<T>, factor<T> exact in T; bias 0 and factor 1 need no operation
//!   bias_pairs<T>(v)            where has_bias_pairs<T>: the pattern to subtract instead of bias<T>
template <class C>
concept element_codec = std::is_empty_v<C> && C::bits >= 1 && C::bits <= 8 && requires(unsigned code, float x) {
  { C::value(code) } -> std::same_as<float>;
  { C::encode(x, tie::even) } -> std::same_as<unsigned>;
  { C::zero_code } -> std::convertible_to<int>;
};

template <class C> consteval bool explain_codec() {
  static_assert(std::is_empty_v<C>, "smalti: a codec is an empty type: a format's numbers (scales, zeros) belong to policy::scales");
  static_assert(requires { { C::bits } -> std::convertible_to<int>; }, "smalti: a codec needs  static constexpr int bits  from 1 to 8");
  static_assert(C::bits >= 1 && C::bits <= 8, "smalti: a codec needs  static constexpr int bits  from 1 to 8");
  static_assert(requires(unsigned code) { { C::value(code) } -> std::same_as<float>; },
                "smalti: a codec needs  static constexpr float value(unsigned code): what the code stands for before its scale");
  static_assert(requires(float x) { { C::encode(x, tie::even) } -> std::same_as<unsigned>; },
                "smalti: a codec needs  static constexpr unsigned encode(float x, policy::tie ties)");
  static_assert(requires { { C::zero_code } -> std::convertible_to<int>; },
                "smalti: a codec needs  static constexpr int zero_code: the code of zero, or policy::no_zero");
  return element_codec<C>;
}

//! The code that fills a weight past its last k: zero where there is one; never NaN or infinite.
template <class C> constexpr unsigned padding_code = C::zero_code == no_zero ? 0u : unsigned(C::zero_code);

//! All values of a codec, for machines that look them up.
template <class C> struct code_values {
  float v[1 << C::bits];
  constexpr code_values() : v{} {
    for (unsigned c = 0; c < (1u << C::bits); ++c) v[c] = C::value(c);
  }
};
template <class C> inline constexpr code_values<C> values_of{};

//! A NaN, and no comparison that -ffast-math may drop.
SMALTI_HD constexpr bool is_nan(float x) { return (float_bits(x) & 0x7fffffffu) > 0x7f800000u; }
SMALTI_HD constexpr bool is_finite(float x) { return (float_bits(x) & 0x7fffffffu) < 0x7f800000u; }

//! The rule for a magnitude, where a negative number's was asked for.
SMALTI_HD constexpr tie mirrored(tie ties) { return ties == tie::up ? tie::down : ties == tie::down ? tie::up : ties; }

//! Does a number between neighbours go to the upper one? `rest` of the way up, in [0, 1).
SMALTI_HD constexpr bool goes_up(float rest, tie ties, bool lower_is_even, bool negative) {
  if (rest != 0.5f) return rest > 0.5f;
  switch (ties) {
    case tie::even: return !lower_is_even;
    case tie::away: return !negative;
    case tie::toward_zero: return negative;
    case tie::up: return true;
    case tie::down: return false;
  }
  return false;
}

//! A rule that says whether a magnitude between two neighbours goes to the larger one: `rest` of the way, in (0, 1) or 0.
//! Codecs take one in encode_by(x, rule); encode(x, ties) is encode_by(x, to_nearest{ties}).
struct to_nearest {
  tie ties = tie::even;
  SMALTI_HD constexpr bool operator()(float rest, bool lower_is_even, bool negative) const { return goes_up(rest, negative ? mirrored(ties) : ties, lower_is_even, false); }
};
//! Up with probability `rest`: the expected value is the number itself. u is uniform in [0, 1).
struct to_either {
  float u;
  SMALTI_HD constexpr bool operator()(float rest, bool, bool) const { return u < rest; }
};

namespace detail {

// A 16-bit pattern for both codes of a pair.
SMALTI_HD constexpr std::uint32_t twice(std::uint32_t half) { return half * 0x00010001u; }
// Bit b of each code as a mask of its half.
template <class V> SMALTI_HD constexpr auto half_mask(V codes, int b) {
  const auto one = codes >> std::uint32_t(b) & std::uint32_t(0x00010001u);
  return (one << std::uint32_t(16)) - one;
}
template <class T> constexpr bool is_operand = std::is_same_v<T, bf16> || std::is_same_v<T, fp16>;
SMALTI_HD constexpr float power_of_two(int e) { return bits_float(std::uint32_t(127 + e) << 23); }

}  // namespace detail

}  // namespace smalti::inline SMALTI_DATA::policy
