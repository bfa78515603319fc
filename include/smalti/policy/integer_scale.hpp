// Codecs whose values are small integers in disguise: what an 8-bit product can multiply without rounding.
#pragma once
#include <smalti/core/version.hpp>
#include <smalti/policy/codecs/element.hpp>

namespace smalti::inline SMALTI_DATA::policy {

namespace detail {
template <class Codec> consteval int integer_scale_of() {
  for (int s = 1; s <= 64; s *= 2) {
    bool fits = true;
    for (unsigned c = 0; c < 1u << Codec::bits && fits; ++c) {
      const float v = Codec::value(c) * float(s);
      fits = v >= -128.0f && v <= 127.0f && v == float(int(v));
    }
    if (fits) return s;
  }
  return 0;
}
}  // namespace detail

//! The least power of two by which every value of the codec is an integer in [-128, 127]: 1 for integers, 2 for e2m1, 8
//! for e2m3; 0 where there is none (nf4, e4m3, e3m2, unsigned codes of 8 bits). An 8-bit operand holds value *
//! integer_scale, and its scale is divided by it, which is exact.
template <class Codec> inline constexpr int integer_scale = detail::integer_scale_of<Codec>();

}  // namespace smalti::inline SMALTI_DATA::policy
