// Oracle of rotary embeddings: the definitions in long double, one element at a time.
#pragma once
#include <cmath>
#include <vector>

namespace oracle {

inline long double rope_inverse_frequency(int pair, int dims, long double base) { return std::pow(base, -2.0L * pair / dims); }

// Rotates x (dims columns) by position * inverse_frequency[pair] radians. interleaved: pairs (2 i, 2 i + 1), otherwise
// (i, i + dims / 2).
inline std::vector<double> rope(const std::vector<double>& x, const std::vector<long double>& inverse_frequency, long long position, bool interleaved) {
  const int pairs = int(inverse_frequency.size());
  std::vector<double> y = x;
  for (int i = 0; i < pairs; ++i) {
    const int a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + pairs;
    const long double angle = inverse_frequency[i] * position, c = std::cos(angle), s = std::sin(angle);
    y[a] = double(x[a] * c - x[b] * s);
    y[b] = double(x[a] * s + x[b] * c);
  }
  return y;
}

inline double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace oracle
