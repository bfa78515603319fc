// Floating-point formats narrower than float, as they lie in memory: aggregates of bits with the layout of
// CUDA's types, and the two conversions. Integer arithmetic and exact float operations only, so a conversion
// gives the same bits in a constant expression, on the host, in a CUDA kernel and in a tile kernel.
//
// type           bits  layout (s sign, e exponent, m fraction)  largest    at the top          narrow() by default
// bf16           16    s eeeeeeee mmmmmmm                       3.39e38    Inf, NaN            ieee
// fp16           16    s eeeee mmmmmmmmmm                       65504      Inf, NaN            ieee
// tf32           32    s eeeeeeee mmmmmmmmmm 0 x 13             3.40e38    Inf, NaN            ieee
// fp8_e4m3        8    s eeee mmm                               448        one NaN, no Inf     saturate
// fp8_e5m2        8    s eeeee mm                               57344      Inf, NaN            saturate
// fp8_e4m3fnuz    8    s eeee mmm, bias 8                       240        NaN is code 0x80    saturate
// fp8_e5m2fnuz    8    s eeeee mm, bias 16                      57344      NaN is code 0x80    saturate
// e8m0            8    eeeeeeee: 2^(code - 127)                 2^127      NaN, no zero        ieee
// e3m2            6    s eee mm, in the low bits of a byte      28         nothing             saturates always
// e2m3            6    s ee mmm, in the low bits of a byte      7.5        nothing             saturates always
// e2m1            4    s ee m, in the low bits of a byte        6          nothing             saturates always
//
// Sources: OCP 8-bit Floating Point Specification (E4M3, E5M2), OCP Microscaling Formats Specification
// (E8M0, E3M2, E2M3, E2M1), the ml_dtypes package (what a conversion without saturation does).
#pragma once
#include <cstdint>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA {

struct bf16 { std::uint16_t bits; };
struct fp16 { std::uint16_t bits; };
struct tf32 { std::uint32_t bits; };
struct fp8_e4m3 { std::uint8_t bits; };
struct fp8_e5m2 { std::uint8_t bits; };
struct fp8_e4m3fnuz { std::uint8_t bits; };
struct fp8_e5m2fnuz { std::uint8_t bits; };
struct e8m0 { std::uint8_t bits; };
struct e3m2 { std::uint8_t bits; };
struct e2m3 { std::uint8_t bits; };
struct e2m1 { std::uint8_t bits; };

//! What narrow() does with a value whose nearest neighbour would lie past the largest finite one.
enum class overflow : int {
  saturate,   //!< the largest finite value with its sign, for infinities too
  ieee        //!< Inf where the format has one, else NaN where it has one; a format with neither saturates
};

namespace detail {

// What the codes with the largest exponent mean.
enum class top : int { infinities, one_nan, nan_for_negative_zero, finite };

template <class Word, int Exponent, int Fraction, int Bias, top Top, overflow Default, int Padding = 0>
struct float_layout {
  using word = Word;
  static constexpr int exponent = Exponent, fraction = Fraction, bias = Bias, padding = Padding;
  static constexpr top at_top = Top;
  static constexpr overflow fallback = Default;
  static constexpr int code_bits = 1 + Exponent + Fraction;
  static constexpr std::uint32_t magnitude = (1u << (Exponent + Fraction)) - 1;   // a code without its sign
  static constexpr std::uint32_t infinity = ((1u << Exponent) - 1) << Fraction;
  static constexpr std::uint32_t largest =
      Top == top::infinities ? infinity - 1 : Top == top::one_nan ? magnitude - 1 : magnitude;
};

template <class T> struct layout_of {};
template <> struct layout_of<bf16> : float_layout<std::uint16_t, 8, 7, 127, top::infinities, overflow::ieee> {};
template <> struct layout_of<fp16> : float_layout<std::uint16_t, 5, 10, 15, top::infinities, overflow::ieee> {};
template <> struct layout_of<tf32> : float_layout<std::uint32_t, 8, 10, 127, top::infinities, overflow::ieee, 13> {};
template <> struct layout_of<fp8_e4m3> : float_layout<std::uint8_t, 4, 3, 7, top::one_nan, overflow::saturate> {};
template <> struct layout_of<fp8_e5m2> : float_layout<std::uint8_t, 5, 2, 15, top::infinities, overflow::saturate> {};
template <> struct layout_of<fp8_e4m3fnuz>
    : float_layout<std::uint8_t, 4, 3, 8, top::nan_for_negative_zero, overflow::saturate> {};
template <> struct layout_of<fp8_e5m2fnuz>
    : float_layout<std::uint8_t, 5, 2, 16, top::nan_for_negative_zero, overflow::saturate> {};
template <> struct layout_of<e3m2> : float_layout<std::uint8_t, 3, 2, 3, top::finite, overflow::saturate> {};
template <> struct layout_of<e2m3> : float_layout<std::uint8_t, 2, 3, 1, top::finite, overflow::saturate> {};
template <> struct layout_of<e2m1> : float_layout<std::uint8_t, 2, 1, 1, top::finite, overflow::saturate> {};

template <class T> concept signed_layout = requires { layout_of<T>::fraction; };

constexpr std::uint32_t float_sign = 0x80000000u, float_infinity = 0x7f800000u, float_quiet_nan = 0x7fc00000u;

}  // namespace detail

//! The bits of a float, and the float of some bits.
SMALTI_HD constexpr std::uint32_t float_bits(float x) { return __builtin_bit_cast(std::uint32_t, x); }
SMALTI_HD constexpr float bits_float(std::uint32_t x) { return __builtin_bit_cast(float, x); }

//! True for the storage types above, and not for float itself.
template <class T> inline constexpr bool is_float_storage = detail::signed_layout<T>;
template <> inline constexpr bool is_float_storage<e8m0> = true;

//! Equality of storage is equality of bits: a NaN equals itself, and 0 and -0 differ. Compare to_float(x) for the
//! order of values.
template <class T>
  requires is_float_storage<T>
SMALTI_HD constexpr bool operator==(T a, T b) { return a.bits == b.bits; }

//! Bits of one code: 4 for e2m1, 19 for tf32, otherwise those of the type.
template <class T> inline constexpr int code_bits = detail::layout_of<T>::code_bits;
template <> inline constexpr int code_bits<e8m0> = 8;
template <> inline constexpr int code_bits<float> = 32;

//! Bits of the significand, the hidden one included. Rounding to T costs at most 2^-digits<T> relative, as long
//! as the result is normal.
template <class T> inline constexpr int digits = detail::layout_of<T>::fraction + 1;
template <> inline constexpr int digits<e8m0> = 1;
template <> inline constexpr int digits<float> = 24;

template <class T> inline constexpr bool has_infinity = detail::layout_of<T>::at_top == detail::top::infinities;
template <> inline constexpr bool has_infinity<e8m0> = false;
template <> inline constexpr bool has_infinity<float> = true;

template <class T> inline constexpr bool has_nan = detail::layout_of<T>::at_top != detail::top::finite;
template <> inline constexpr bool has_nan<e8m0> = true;
template <> inline constexpr bool has_nan<float> = true;

//! The rule narrow<T>() follows when none is given. bf16, fp16 and tf32 behave as IEEE types do everywhere. The
//! 8-bit formats saturate, as CUDA's constructors and conversion instructions do; PyTorch and ml_dtypes do not:
//! say overflow::ieee for their answer. e8m0 makes a scale that overflowed NaN, so that it is seen.
template <class T> inline constexpr overflow default_overflow = detail::layout_of<T>::fallback;
template <> inline constexpr overflow default_overflow<e8m0> = overflow::ieee;
template <> inline constexpr overflow default_overflow<float> = overflow::ieee;

//! The value of a code. Exact for every format. The sign of a NaN is kept, its payload need not be. Bits of the
//! storage that are not part of the code are ignored: the upper ones of e3m2, e2m3 and e2m1, the lowest 13 of tf32.
template <class T>
  requires detail::signed_layout<T>
SMALTI_HD constexpr float to_float(T x) {
  using form = detail::layout_of<T>;
  const std::uint32_t code = std::uint32_t(x.bits) >> form::padding;
  if constexpr (form::bias == 127) {   // a float cut short
    return bits_float(code << (23 - form::fraction));
  } else {
    const std::uint32_t magnitude = code & form::magnitude;
    const std::uint32_t sign = (code >> (form::code_bits - 1) & 1u) << 31;
    const std::uint32_t shifted = magnitude << (23 - form::fraction);
    // Without a hidden bit: give it one, a power of two, and take it away again. Both steps are exact and neither
    // meets a subnormal float, which some kernels are compiled to flush.
    constexpr std::uint32_t one = std::uint32_t(128 - form::bias) << 23;
    const std::uint32_t subnormal = float_bits(bits_float(shifted + one) - bits_float(one));
    const std::uint32_t normal = shifted + (std::uint32_t(127 - form::bias) << 23);
    std::uint32_t bits = magnitude >> form::fraction ? normal : subnormal;
    if constexpr (form::at_top == detail::top::infinities)
      bits = magnitude >= form::infinity ? shifted | detail::float_infinity : bits;
    if constexpr (form::at_top == detail::top::one_nan)
      bits = magnitude == form::magnitude ? detail::float_quiet_nan : bits;
    if constexpr (form::at_top == detail::top::nan_for_negative_zero)
      bits = magnitude == 0 && sign != 0 ? detail::float_quiet_nan : bits;
    return bits_float(bits | sign);
  }
}
SMALTI_HD constexpr float to_float(e8m0 x) {
  const std::uint32_t code = x.bits;
  return bits_float(code == 0 ? 0x00400000u : code == 255 ? detail::float_quiet_nan : code << 23);
}
SMALTI_HD constexpr float to_float(float x) { return x; }

//! The nearest value of T, the one with the even code on a tie; past the largest finite value as Rule says.
//! Subnormals are rounded like all others and keep their sign when they become zero (fnuz formats have no -0).
//! NaN becomes the format's NaN with its sign; in a format without NaN it becomes zero with the sign turned
//! around, -0 for the usual NaN, as ml_dtypes has it.
//! e8m0: a tie goes up, and so does all that lies between 2^-127 and 2^-126 (there PyTorch agrees with ml_dtypes);
//! what lies below 2^-127 becomes 2^-127; 0 and negative numbers become NaN.
//! @note source: ml_dtypes, to the bit for each overflow::ieee; payloads of NaN are not kept
template <class T, overflow Rule = default_overflow<T>>
  requires detail::signed_layout<T>
SMALTI_HD constexpr T narrow(float x) {
  using form = detail::layout_of<T>;
  constexpr int cut = 23 - form::fraction;
  constexpr std::uint32_t rebias = std::uint32_t(127 - form::bias) << 23;
  constexpr std::uint32_t overflowed = Rule == overflow::saturate || form::at_top == detail::top::finite ? form::largest
                                       : form::at_top == detail::top::nan_for_negative_zero ? form::magnitude + 1
                                                                                            : form::largest + 1;
  const std::uint32_t bits = float_bits(x), magnitude = bits & ~detail::float_sign;
  const std::uint32_t sign = bits >> 31 << (form::code_bits - 1);
  // Half of the last place, less one if the last place is even: the carry into the exponent is right as it is.
  std::uint32_t code = (magnitude - rebias + ((1u << (cut - 1)) - 1) + (magnitude >> cut & 1u)) >> cut;
  if constexpr (form::bias != 127) {
    // Below the least normal value: add the power of two whose last place is the least subnormal, and let the
    // addition round.
    constexpr std::uint32_t anchor = std::uint32_t(127 + 1 - form::bias + cut) << 23;
    const bool small = magnitude < rebias + (1u << 23);
    const std::uint32_t subnormal = float_bits(bits_float(small ? magnitude : 0) + bits_float(anchor)) - anchor;
    code = small ? subnormal : code;
  }
  code = code > form::largest ? overflowed : code;
  const bool nan = magnitude > detail::float_infinity;
  if constexpr (form::at_top == detail::top::nan_for_negative_zero) {
    code = nan || code > form::magnitude ? form::magnitude + 1 : code == 0 ? 0 : code | sign;
  } else if constexpr (form::at_top == detail::top::finite) {
    code = nan ? sign ^ (form::magnitude + 1) : code | sign;
  } else {
    constexpr std::uint32_t quiet =
        form::at_top == detail::top::infinities ? form::infinity | 1u << (form::fraction - 1) : form::magnitude;
    code = (nan ? quiet : code) | sign;
  }
  return {typename form::word(code << form::padding)};
}
template <class T, overflow Rule = default_overflow<T>>
  requires(__is_same(T, e8m0))
SMALTI_HD constexpr T narrow(float x) {
  const std::uint32_t bits = float_bits(x);
  if (bits == 0 || bits > detail::float_infinity) return {255};   // zero, NaN, and whatever has the sign bit
  const std::uint32_t normal = (bits + 0x00400000u) >> 23;
  const std::uint32_t code = bits < 0x00800000u ? std::uint32_t(bits > 0x00400000u) : normal;
  return {std::uint8_t(Rule == overflow::saturate && code > 254 ? 254 : code)};
}
template <class T>
  requires(__is_same(T, float))
SMALTI_HD constexpr T narrow(float x) { return x; }

//! Values that T can hold; -max_finite<T> is the lowest (e8m0 has no negative ones).
template <class T> inline constexpr float max_finite = to_float(T{typename detail::layout_of<T>::word(
    detail::layout_of<T>::largest << detail::layout_of<T>::padding)});
template <> inline constexpr float max_finite<e8m0> = to_float(e8m0{254});
template <> inline constexpr float max_finite<float> = bits_float(0x7f7fffffu);

template <class T> inline constexpr float min_normal = to_float(T{typename detail::layout_of<T>::word(
    1u << (detail::layout_of<T>::fraction + detail::layout_of<T>::padding))});
template <> inline constexpr float min_normal<e8m0> = to_float(e8m0{0});
template <> inline constexpr float min_normal<float> = bits_float(0x00800000u);

//! The least positive value.
template <class T> inline constexpr float min_positive = to_float(T{typename detail::layout_of<T>::word(
    1u << detail::layout_of<T>::padding)});
template <> inline constexpr float min_positive<e8m0> = to_float(e8m0{0});
template <> inline constexpr float min_positive<float> = bits_float(1u);

}  // namespace smalti::inline SMALTI_DATA
