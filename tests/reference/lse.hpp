// Softmax partials in double: the log-sum-exp and the weighted value over all keys of all partials at once.
#pragma once
#include <cmath>
#include <limits>
#include <vector>

namespace reference {

struct softmax_partial {
  double value, lse;
};  // lse in the given base; -infinity where there were no keys

inline softmax_partial merged(const std::vector<softmax_partial>& partials, double base) {
  double largest = -std::numeric_limits<double>::infinity();
  for (const auto& p : partials)
    if (p.lse > largest) largest = p.lse;
  if (std::isinf(largest)) return {0, largest};
  double weights = 0, value = 0;
  for (const auto& p : partials) {
    if (std::isinf(p.lse)) continue;
    const double w = std::pow(base, p.lse - largest);
    weights += w;
    value += w * p.value;
  }
  return {value / weights, largest + std::log(weights) / std::log(base)};
}

}  // namespace reference
