// Reductions of the result of a product, made while its tiles are still in registers: bias gradients (sums of columns),
// the largest magnitude of each row (scales of the next quantization), and their kin. They see each value after the
// epilogue and before it is rounded to the type of the result. A list of them is a policy::chain.
#pragma once
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>
#include <smalti/policy/epilogue.hpp>

namespace smalti::inline SMALTI_DATA::policy {

enum class reduced_axis : int { columns, rows };   //!< one number for each column, or for each row
enum class reduced_by : int { sum, absmax };

//! data[e + matrix distance] = sum, or largest magnitude, of column (row) e of the result. Of an empty column or row: 0.
//!
//! @note absmax of a column with a NaN is not defined
template <reduced_axis Axis, reduced_by By> struct reduction {
  float* data = nullptr;
  int n = 0;                   //!< numbers in data, of each matrix
  long long distance = 0;      //!< from matrix to matrix of a batch, at least n

  static constexpr bool of_columns = Axis == reduced_axis::columns, maximum = By == reduced_by::absmax;
  template <class V> static SMALTI_HD V prepared(V x) {
    if constexpr (maximum) return abs(x);
    else return x;
  }
  constexpr status check(const result_matrix& c, int count) const {
    const int extent = of_columns ? c.cols : c.rows;
    if (extent <= 0 || count <= 0) return {};
    if (data == nullptr) return {errc::null_pointer, of_columns ? "reductions: data of a reduction of columns is null" : "reductions: data of a reduction of rows is null"};
    if (n < extent) return {errc::bad_shape, of_columns ? "reductions: n must be at least the columns of c" : "reductions: n must be at least the rows of c", n, extent};
    if (count > 1 && distance < n) return {errc::aliased, "reductions: distance must be at least n, so that the numbers of a batch lie apart", distance, n};
    const char* first = reinterpret_cast<const char*>(data);
    const char* last = first + ((count - 1) * distance + extent) * static_cast<long long>(sizeof(float));
    if (first < c.last && c.first < last) return {errc::aliased, "reductions: data must not overlap c"};
    return {};
  }
};

using column_sum = reduction<reduced_axis::columns, reduced_by::sum>;          //!< the gradient of a bias
using column_absmax = reduction<reduced_axis::columns, reduced_by::absmax>;
using row_sum = reduction<reduced_axis::rows, reduced_by::sum>;
using row_absmax = reduction<reduced_axis::rows, reduced_by::absmax>;          //!< what a scale for each token divides

//! How many reductions a list has, and their checks in order.
template <class List> constexpr int reduction_count = 0;
template <class First, class... Rest> constexpr int reduction_count<chain<First, Rest...>> = 1 + reduction_count<chain<Rest...>>;
constexpr status check_reductions(const chain<>&, const result_matrix&, int) { return {}; }
template <class First, class... Rest> constexpr status check_reductions(const chain<First, Rest...>& list, const result_matrix& c, int count) {
  if (const status bad = list.first.check(c, count); !bad) return bad;
  if constexpr (sizeof...(Rest) == 0) return {};
  else return check_reductions(list.rest, c, count);
}

template <class R> constexpr bool is_reduction = false;
template <reduced_axis Axis, reduced_by By> constexpr bool is_reduction<reduction<Axis, By>> = true;
template <class List> constexpr bool is_reduction_list = false;
template <class... R> constexpr bool is_reduction_list<chain<R...>> = (true && ... && is_reduction<R>);

}  // namespace smalti::inline SMALTI_DATA::policy
