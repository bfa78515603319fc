// What a primitive that works row by row takes: equal rows of a matrix, or ragged ones.
#pragma once
#include <cstdint>
#include <smalti/core/segments.hpp>
#include <smalti/core/view.hpp>
#include <smalti/prim/check.hpp>

namespace smalti::inline SMALTI_CODE::prim {

//! Rows of different lengths: row i is data[offsets[i]] to data[offsets[i + 1] - 1]; data has `extent` elements.
template <class T, class Offset> struct ragged {
  const T* data = nullptr;
  std::int64_t extent = 0;
  segments<Offset> rows{};
};

//! In which order the selected elements of a row are written.
enum class arrangement : std::uint8_t {
  best_first,        //!< the best first, equal ones by rising index
  by_index           //!< by rising index: what a gather wants, and cheaper
};

namespace detail {

template <class T> struct row_span {
  const T* data;
  std::int64_t size;
};
template <class T> SMALTI_HD constexpr row_span<T> row_at(const view<const T, 1>& rows, int r) {
  return {rows.data + static_cast<long long>(r) * rows.stride, rows.cols};
}
template <class T, class Offset> SMALTI_HD constexpr row_span<T> row_at(const ragged<T, Offset>& rows, int r) {
  return {rows.data + rows.rows.first(r), std::int64_t(rows.rows.length(r))};
}

template <class T> constexpr int row_count(const view<const T, 1>& rows) { return rows.rows; }
template <class T, class Offset> constexpr int row_count(const ragged<T, Offset>& rows) { return rows.rows.count; }

// A bound on the length of a row that needs no reading of offsets.
template <class T> constexpr std::int64_t longest_row(const view<const T, 1>& rows) { return rows.cols; }
template <class T, class Offset> constexpr std::int64_t longest_row(const ragged<T, Offset>& rows) { return rows.extent; }

template <class T> extent extent_of(const ragged<T, std::int32_t>& rows) { return extent_of(rows.data, rows.extent); }
template <class T> extent extent_of(const ragged<T, std::int64_t>& rows) { return extent_of(rows.data, rows.extent); }

constexpr std::int64_t longest_indexed = 2147483647;

// `readable`: the offsets lie in the host's memory.
template <class T> status check_rows(bool, const view<const T, 1>& rows) {
  return check_matrix(rows, {"rows has elements but no memory: its pointer is null", "rows must not have a negative extent",
                             "rows must not overlap: the stride is less than the number of columns",
                             "rows must begin on a multiple of the element's size"});
}
template <class T, class Offset> status check_rows(bool readable, const ragged<T, Offset>& rows) {
  if (rows.extent < 0) return {errc::bad_shape, "rows.extent must not be negative", rows.extent, 0};
  if (status s = check_array(rows.data, rows.extent, {"rows.data is null: it needs extent elements",
                                                      "rows.data must begin on a multiple of the element's size"}); !s)
    return s;
  if (rows.rows.count < 0) return {errc::bad_shape, "segments.count must not be negative", rows.rows.count, 0};
  if (status s = check_array(rows.rows.offsets, rows.rows.count > 0 ? std::int64_t(rows.rows.count) + 1 : 0,
                             {"segments.offsets is null: it needs count + 1 entries", "segments.offsets must begin on a multiple of an offset's size"}); !s)
    return s;
  if (!readable) return {};
  if (status s = check_segments(rows.rows, rows.extent); !s) return s;
  if constexpr (sizeof(Offset) == 8)
    for (int i = 0; i < rows.rows.count; ++i)
      if (rows.rows.length(i) > longest_indexed)
        return {errc::out_of_reach, "a row must have fewer than 2^31 elements: indices are 32 bits", std::int64_t(rows.rows.length(i)), longest_indexed};
  return {};
}

}  // namespace detail

}  // namespace smalti::inline SMALTI_CODE::prim
