// A float as the sum of two tf32: high is the nearest one, low the nearest to what remains. Products of the parts are
// exact in float (11 significant bits each), and high + low is off by at most 2^-22 of the value: three tf32 products
// give nearly the accuracy of one of floats.
#pragma once
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

namespace detail {
// To nearest even, by adding half of the last place that stays; the carry into the exponent is right as it is.
template <class V> SMALTI_HD auto nearest_tf32(V x) {
  const auto bits = float_bits(x);
  return bits_float((bits + (((bits >> 13) & 1) + 0xfff)) & -0x2000);
}
}  // namespace detail

//! Values that are not finite, and those that would round to infinity (from 2^127 (2 - 2^-11) on), stay as they are, and
//! their low part is 0.
struct tf32_high {
  template <class V> SMALTI_HD V operator()(V x) const { return where(abs(x) < 0x1.ffep127f, detail::nearest_tf32(x), x); }
};
struct tf32_low {
  template <class V> SMALTI_HD V operator()(V x) const { return where(abs(x) < 0x1.ffep127f, detail::nearest_tf32(x - tf32_high{}(x)), 0.0f); }
};

}  // namespace smalti::inline SMALTI_DATA::policy
