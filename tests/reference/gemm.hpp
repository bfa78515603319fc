// The oracle of matrix products: naive, in double.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>
#include "support/arrays.hpp"

namespace oracle {

struct sums {
  std::vector<double> value, size;   // the sum, and the sum of absolute products: what rounding errors scale with
};

//! a: m x k or k x m, stride lda; b: n x k (transposed) or k x n, stride ldb.
template <class T> sums multiply(const T* a, std::int64_t lda, const T* b, std::int64_t ldb, bool b_by_rows_of_n, int m, int n, int k, bool a_by_rows_of_m = true) {
  sums s{std::vector<double>(std::size_t(m) * n), std::vector<double>(std::size_t(m) * n)};
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double total = 0, size = 0;
      for (int p = 0; p < k; ++p) {
        const double t = test::value(a_by_rows_of_m ? a[i * lda + p] : a[p * lda + i]) * test::value(b_by_rows_of_n ? b[j * ldb + p] : b[p * ldb + j]);
        total += t;
        size += std::abs(t);
      }
      s.value[std::size_t(i) * n + j] = total;
      s.size[std::size_t(i) * n + j] = size;
    }
  return s;
}

inline double silu(double x) { return x / (1 + std::exp(-x)); }
inline double gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }
inline double gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

}  // namespace oracle
