// What collectives answer, written down from their definitions: sums in double in the order of the ranks, blocks by index.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

namespace oracle {

using vectors = std::vector<std::vector<double>>;   // one for each rank

inline std::vector<double> sum_of(const vectors& in) {
  std::vector<double> out(in[0].size());
  for (const auto& x : in)
    for (std::size_t i = 0; i < x.size(); ++i) out[i] += x[i];
  return out;
}
inline std::vector<double> sizes_of(const vectors& in) {   // the sum of absolute values: what errors are relative to
  std::vector<double> out(in[0].size());
  for (const auto& x : in)
    for (std::size_t i = 0; i < x.size(); ++i) out[i] += std::abs(x[i]);
  return out;
}

// The merge of attention partials over all their keys: rows of values with log(sum exp) behind them, base e.
inline std::vector<double> merged(const std::vector<std::vector<double>>& rows) {
  double top = -HUGE_VAL;
  for (const auto& r : rows) top = std::max(top, r.back());
  std::vector<double> out(rows[0].size(), 0.0);
  if (top == -HUGE_VAL) return out.back() = top, out;
  double weight = 0;
  for (const auto& r : rows) {
    const double w = std::exp(r.back() - top);
    weight += w;
    if (w > 0)
      for (std::size_t k = 0; k + 1 < r.size(); ++k) out[k] += w * r[k];
  }
  for (std::size_t k = 0; k + 1 < out.size(); ++k) out[k] /= weight;
  out.back() = top + std::log(weight);
  return out;
}

}  // namespace oracle
