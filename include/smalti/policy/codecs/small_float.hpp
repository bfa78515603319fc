// Floating-point elements of 4 to 8 bits: the formats of core/float.hpp as codecs.
#pragma once
#include <cstdint>
#include <smalti/core/float.hpp>
#include <smalti/policy/codecs/element.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! The codes of a storage type of core/float.hpp; value is to_float.
//!
//! encode saturates: past the largest finite value the largest, infinities too. NaN becomes the format's NaN with its
//! sign, or zero where there is none. -0 keeps its sign.
//!
//! pairs: sign and magnitude move to their places in T and a power of two (factor) makes up for the bias. Small codes
//! pass through 16-bit subnormals: a machine that flushes those must not use it. What is not finite stays so unless
//! Finite says that no such code exists: then a NaN of e4m3 would become 480, which is why the packer refuses such
//! codes for it.
//! @note source: specification of the OCP formats; the bias trick is the common one of weight-only kernels
template <class Storage, bool Finite = false>
struct float_codec {
  using storage = Storage;
  using form = SMALTI_DATA::detail::layout_of<Storage>;
  static constexpr int bits = form::code_bits;
  static_assert(bits <= 8, "smalti: a codec of elements has at most 8 bits");
  static constexpr int zero_code = 0;
  static constexpr bool finite_only = Finite;

  SMALTI_HD static constexpr float value(unsigned code) { return to_float(Storage{typename form::word(code)}); }

  SMALTI_HD static constexpr unsigned encode(float x, tie ties = tie::even) { return encode_by(x, to_nearest{ties}); }
  template <class Rule> SMALTI_HD static constexpr unsigned encode_by(float x, Rule rule) {
    const std::uint32_t raw = float_bits(x), magnitude = raw & 0x7fffffffu;
    const unsigned sign = unsigned(raw >> 31) << (bits - 1);
    if (magnitude > 0x7f800000u) return nan_code == no_zero ? 0u : unsigned(nan_code) | sign;
    // the exponent of the last place: that of the least normal number for everything below it
    const int least = 1 - form::bias, e = int(magnitude >> 23) - 127, scale = e < least ? least : e;
    if (scale > (1 << form::exponent) - form::bias) return form::largest | sign;
    const float in_places = magnitude < 0x00800000u ? 0.0f : bits_float(magnitude) * detail::power_of_two(form::fraction - scale);
    const int below = int(in_places);
    const bool up = rule(in_places - float(below), below % 2 == 0, sign != 0);
    const unsigned code = (unsigned(scale - least) << form::fraction) + unsigned(below) + unsigned(up);
    return (code > form::largest ? form::largest : code) | sign;
  }

  //! A NaN's code without its sign, or no_zero.
  static constexpr int nan_code = form::at_top == SMALTI_DATA::detail::top::one_nan      ? int(form::magnitude)
                                  : form::at_top == SMALTI_DATA::detail::top::infinities ? int(form::infinity | 1u << (form::fraction - 1))
                                                                                    : no_zero;

  template <class T> static constexpr bool has_bias_pairs = false;
  template <class T> static constexpr float bias = 0.0f;
  template <class T> static constexpr float factor = detail::power_of_two(SMALTI_DATA::detail::layout_of<T>::bias - form::bias);

  template <class T, class V> SMALTI_HD static constexpr auto pairs(V codes) {
    static_assert(detail::is_operand<T>, "smalti: pairs of codes become pairs of bf16 or fp16");
    using to = SMALTI_DATA::detail::layout_of<T>;
    static_assert(form::exponent <= to::exponent && form::fraction <= to::fraction, "smalti: the format does not fit into the operand's");
    const auto sign = codes << std::uint32_t(16 - bits) & std::uint32_t(0x80008000u);
    const auto magnitude = codes & detail::twice(form::magnitude);
    const auto moved = sign | magnitude << std::uint32_t(to::fraction - form::fraction);
    if constexpr (Finite || form::at_top == SMALTI_DATA::detail::top::finite || form::exponent == to::exponent) {
      return moved;
    } else {   // what lies past the largest code carries into the sign's place, which becomes an exponent of ones
      const auto special = (magnitude + detail::twice((1u << (bits - 1)) - (form::largest + 1))) & detail::twice(1u << (bits - 1));
      return moved | special * std::uint32_t(to::infinity >> (bits - 1));
    }
  }
};

using e2m1 = float_codec<smalti::e2m1>;        //!< 0 0.5 1 1.5 2 3 4 6 and their negatives; no Inf, no NaN
using e3m2 = float_codec<smalti::e3m2>;        //!< up to 28; no Inf, no NaN
using e2m3 = float_codec<smalti::e2m3>;        //!< up to 7.5; no Inf, no NaN
using e4m3 = float_codec<fp8_e4m3>;            //!< up to 448; 0x7f and 0xff are NaN
using e5m2 = float_codec<fp8_e5m2>;            //!< up to 57344; 0x7c is Inf, 0x7d to 0x7f are NaN
using e4m3_finite = float_codec<fp8_e4m3, true>;   //!< weights that were packed: NaN was refused
using e5m2_finite = float_codec<fp8_e5m2, true>;

}  // namespace smalti::inline SMALTI_DATA::policy
