// Low-rank factors: an epilogue that adds them, and the choice of a rank. docs/ops/lora/README.md.
//
// Which rank a matrix keeps when it becomes two factors: from its singular values, one threshold for all matrices of a model. Plain
// functions of the host.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>
#include <smalti/policy/epilogue.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! x + sum over q < rank of values[row, q] b[q, column], in the order of q: an adapter that all rows share, added as the base product stores.
//! Both matrices have fewer than 2^31 elements.
//! @note  rank additions and products a result, each b read once for each tile of rows; float, (rank + 1) 2^-24 of the magnitudes
template <class T> struct add_low_rank {
  const float* values = nullptr;      //!< rows x rank, `values_stride` apart: x A', scaled
  const T* b = nullptr;               //!< rank x columns, `b_stride` apart
  int rows = 0, values_stride = 0, rank = 0, columns = 0, b_stride = 0;
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R row, C column) const {
    for (int q = 0; q < rank; ++q) x = x + lookup(values, row * values_stride + q, rows * values_stride) * lookup(b, column + q * b_stride, rank * b_stride);
    return x;
  }
  constexpr status check(const result_matrix& c) const {
    if (rank < 0) return {errc::bad_shape, "epilogue add_low_rank: rank must not be negative", rank, 0};
    if (rank > 0 && (values == nullptr || b == nullptr)) return {errc::null_pointer, "epilogue add_low_rank: values or b is null"};
    if (rows < c.rows) return {errc::bad_shape, "epilogue add_low_rank: values needs a row for each row of c", rows, c.rows};
    if (columns < c.cols) return {errc::bad_shape, "epilogue add_low_rank: b needs a column for each column of c", columns, c.cols};
    if (values_stride < rank || b_stride < columns) return {errc::bad_shape, "epilogue add_low_rank: rows must not overlap: a stride is below its matrix's width", values_stride < rank ? values_stride : b_stride, values_stride < rank ? rank : columns};
    if (static_cast<long long>(rows) * values_stride > 2147483647ll || static_cast<long long>(rank) * b_stride > 2147483647ll)
      return {errc::out_of_reach, "epilogue add_low_rank: values and b must have fewer than 2^31 elements", static_cast<long long>(rows) * values_stride, 2147483647ll};
    return {};
  }
};

//! The same with an adapter of its own, or none (negative), for each row: b's rows are lines of a pool, adapter e's are
//! line[first[e] + q], q < count[e], and what it gives is multiplied by scale[e].
//! @pre  every adapter exists, and every line of the pool; the pool and the values have fewer than 2^31 elements
//! @note  most gathers a result, which no other row shares: for few rows, where a pass over y is what one wants to spare
template <class T> struct add_low_rank_of_row {
  const float* values = nullptr;      //!< rows x most, `values_stride` apart: x A' of each row's adapter
  const int* adapter = nullptr;       //!< [rows]
  const T* pool = nullptr;            //!< lines x columns, `pool_stride` apart
  const int *first = nullptr, *count = nullptr, *line = nullptr;
  const float* scale = nullptr;       //!< [adapters]
  int rows = 0, values_stride = 0, most = 0, columns = 0, pool_rows = 0, pool_stride = 0, adapters = 0, lines = 0;
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R row, C column) const {
    const auto mine = lookup(adapter, row, rows), rank = lookup(count, mine, adapters), begin = lookup(first, mine, adapters);      // out of range: zero
    const auto by = lookup(scale, mine, adapters);
    for (int q = 0; q < most; ++q) {
      const auto at = lookup(line, begin + q, lines);
      const V product = lookup(values, row * values_stride + q, rows * values_stride) * by * lookup(pool, at * pool_stride + column, pool_rows * pool_stride);
      x = where(rank > q, x + product, x);      // behind the rank nothing was written
    }
    return x;
  }
  constexpr status check(const result_matrix& c) const {
    if (most < 0 || adapters < 0 || lines < 0 || pool_rows < 0) return {errc::bad_shape, "epilogue add_low_rank_of_row: most, adapters, lines and pool_rows must not be negative", most, 0};
    if (rows < c.rows) return {errc::bad_shape, "epilogue add_low_rank_of_row: values needs a row for each row of c", rows, c.rows};
    if (c.rows > 0 && adapter == nullptr) return {errc::null_pointer, "epilogue add_low_rank_of_row: adapter is null: it needs an entry for each row", 0, c.rows};
    if (most > 0 && adapters > 0 && (values == nullptr || pool == nullptr || first == nullptr || count == nullptr || line == nullptr || scale == nullptr)) return {errc::null_pointer, "epilogue add_low_rank_of_row: values, pool or a list is null"};
    if (columns < c.cols) return {errc::bad_shape, "epilogue add_low_rank_of_row: the pool needs a column for each column of c", columns, c.cols};
    if (values_stride < most || pool_stride < columns) return {errc::bad_shape, "epilogue add_low_rank_of_row: rows must not overlap: a stride is below its matrix's width", values_stride < most ? values_stride : pool_stride, values_stride < most ? most : columns};
    if (static_cast<long long>(rows) * values_stride > 2147483647ll || static_cast<long long>(pool_rows) * pool_stride > 2147483647ll)
      return {errc::out_of_reach, "epilogue add_low_rank_of_row: values and the pool must have fewer than 2^31 elements", static_cast<long long>(pool_rows) * pool_stride, 2147483647ll};
    return {};
  }
};

//! Rank of an m x n matrix by its singular values s[0] >= s[1] >= ...: those whose share (s - least) / (greatest - least) is not below the
//! threshold. Equal values, a matrix without directions, keep all.
//! @pre   count = min(m, n) values, none of them NaN
//! @post  never more with a greater threshold
//! Source: Jaiswal et al. 2024, WeLore, arXiv:2407.11239.
constexpr int kept_rank(const float* s, int count, float threshold) {
  if (count <= 0) return 0;
  const float least = s[count - 1], reach = s[0] - least;
  if (!(reach > 0)) return count;
  int rank = 0;
  while (rank < count && (s[rank] - least) / reach >= threshold) ++rank;
  return rank;
}

//! Elements of an m x n matrix at this rank: as two factors where that is fewer, else as it is. (Two factors of every matrix, however little
//! of it is cut, take up to twice the matrix: 10 % cut of a square one make 1.8 of it.)
constexpr std::int64_t stored_elements(int m, int n, int rank) {
  const std::int64_t factors = std::int64_t(rank) * (std::int64_t(m) + n), whole = std::int64_t(m) * n;
  return factors < whole ? factors : whole;
}
constexpr bool worth_factors(int m, int n, int rank) { return std::int64_t(rank) * (std::int64_t(m) + n) < std::int64_t(m) * n; }

//! One matrix of a model, for the search of a threshold.
struct spectrum {
  const float* values = nullptr;      //!< min(m, n) singular values, greatest first
  int m = 0, n = 0;
  constexpr int count() const { return m < n ? m : n; }
};
constexpr std::int64_t stored_elements(const spectrum* all, std::size_t count, float threshold) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += stored_elements(all[i].m, all[i].n, kept_rank(all[i].values, all[i].count(), threshold));
  return sum;
}

//! The least threshold, to 2^-24, at which all matrices together take no more than `budget` elements: by bisection, as elements never grow
//! with the threshold. 2 where even rank 1 everywhere takes more.
constexpr float threshold_for(const spectrum* all, std::size_t count, std::int64_t budget) {
  if (stored_elements(all, count, 0.0f) <= budget) return 0;
  if (stored_elements(all, count, 1.0f) > budget) return 2;
  float low = 0, high = 1;      // over budget at low, within it at high
  for (int step = 0; step < 24; ++step) {
    const float middle = low + (high - low) / 2;
    (stored_elements(all, count, middle) <= budget ? high : low) = middle;
  }
  return high;
}

}  // namespace smalti::inline SMALTI_DATA::policy
