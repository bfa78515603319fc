// Quantization of rows by their largest magnitudes, and the Hadamard transform, in double and from their definitions.
#pragma once
#include <bit>
#include <cmath>
#include <vector>

namespace oracle {

inline double reach(const std::vector<double>& x, int first, int last) {
  double most = 0;
  for (int i = first; i < last; ++i) most = std::max(most, std::fabs(x[i]));
  return most;
}

// Sum over j of (-1)^popcount(i & j) x[j], by the definition.
inline std::vector<double> hadamard(const std::vector<double>& x, int block) {
  std::vector<double> y(x.size());
  for (std::size_t first = 0; first < x.size(); first += block)
    for (int i = 0; i < block; ++i)
      for (int j = 0; j < block; ++j) y[first + i] += (std::popcount(unsigned(i & j)) % 2 ? -1 : 1) * x[first + j] / std::sqrt(double(block));
  return y;
}

}  // namespace oracle
