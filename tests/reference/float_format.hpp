// What a narrow floating-point format holds and where a number rounds to, by listing all its values in double and
// searching: no bit of a float is looked at.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace reference {

enum class top { infinities, one_nan, nan_for_negative_zero, finite };

struct float_format {
  int exponent_bits, fraction_bits, bias;
  top at_top;

  std::uint32_t sign() const { return 1u << (exponent_bits + fraction_bits); }

  double value(std::uint32_t code) const {
    const std::uint32_t fraction = code & ((1u << fraction_bits) - 1);
    const int exponent = static_cast<int>(code >> fraction_bits & ((1u << exponent_bits) - 1));
    const double sign_of = code & sign() ? -1.0 : 1.0;
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const bool last = exponent == (1 << exponent_bits) - 1;
    if (at_top == top::infinities && last) return fraction ? nan : sign_of * std::numeric_limits<double>::infinity();
    if (at_top == top::one_nan && last && fraction == (1u << fraction_bits) - 1) return nan;
    if (at_top == top::nan_for_negative_zero && code == sign()) return nan;
    if (exponent == 0) return sign_of * std::ldexp(fraction, 1 - bias - fraction_bits);
    return sign_of * std::ldexp((1u << fraction_bits) + fraction, exponent - bias - fraction_bits);
  }

  // The values of codes 0, 1, 2, ...: all that are finite and not negative, in order.
  std::vector<double> finite_values() const {
    std::vector<double> values;
    for (std::uint32_t code = 0; code < sign() && std::isfinite(value(code)); ++code) values.push_back(value(code));
    return values;
  }
};

// The code that x, not a NaN, rounds to: the nearest, the even one on a tie. An index past the end of `values`
// says that the neighbour above the largest value is nearer.
inline std::uint32_t nearest(const std::vector<double>& values, double x) {
  const double size = std::fabs(x);
  const auto n = values.size();
  const auto above = static_cast<std::size_t>(std::lower_bound(values.begin(), values.end(), size) - values.begin());
  if (above < n && values[above] == size) return static_cast<std::uint32_t>(above);
  const double low = values[above - 1];
  const double high = above < n ? values[above] : low + (low - values[n - 2]);  // the step at the top stays
  const double to_low = size - low, to_high = high - size;
  if (to_low != to_high) return static_cast<std::uint32_t>(to_low < to_high ? above - 1 : above);
  return static_cast<std::uint32_t>(above % 2 == 0 ? above : above - 1);
}

}  // namespace reference
