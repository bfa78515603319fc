// Takes over memory described by someone else's extents and strides as a view or a stack, or says why not.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>

namespace smalti::inline SMALTI_DATA {
namespace detail {

constexpr std::int64_t reach = 2147483647;      // of an extent and of a stride in a view
template <int Step> constexpr std::int64_t whole_steps(std::int64_t n) { return (n + Step - 1) / Step * Step; }

template <int Step, class T>
status adopt_rows(bool empty, T* data, std::int64_t rows, std::int64_t cols, std::int64_t& stride, std::int64_t column_stride) {
  if (rows < 0 || cols < 0) return {errc::bad_shape, "a matrix cannot have a negative extent", rows < 0 ? rows : cols, 0};
  if (rows > reach) return {errc::out_of_reach, "rows must fit 32 bits: split the matrix into bands of rows", rows, reach};
  if (cols > reach) return {errc::out_of_reach, "columns must fit 32 bits: split the matrix", cols, reach};
  if (cols > 1 && !empty && column_stride != 1)
    return {errc::bad_shape, "columns must be contiguous: the last axis needs stride 1 (transpose or copy the matrix)", column_stride, 1};
  // The stride of an axis of one element is never used, and writers put anything there.
  if (rows <= 1 || empty) stride = whole_steps<Step>(cols);
  if (stride < cols) return {errc::bad_shape, "rows must not overlap: the row stride is less than the number of columns", stride, cols};
  if (stride > reach) return {errc::out_of_reach, "the row stride must fit 32 bits: copy the matrix", stride, reach};
  if (empty) return {};
  if (data == nullptr) return {errc::null_pointer, "the matrix has elements but no memory: its pointer is null", 0, 0};
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  if (address % alignof(T) != 0)
    return {errc::misaligned, "the base address must be a multiple of the element's alignment", std::int64_t(address % alignof(T)), 0};
  if constexpr (Step > 1) {
    if (address % 16 != 0)
      return {errc::misaligned, "view<T> needs a base address that is a multiple of 16 bytes: use view<T, 1>", std::int64_t(address % 16), 0};
    if (cols % Step != 0)
      return {errc::misaligned, "view<T> needs columns that are a multiple of 16 bytes: use view<T, 1> or pad", cols, whole_steps<Step>(cols)};
    if (stride % Step != 0)
      return {errc::misaligned, "view<T> needs a row stride that is a multiple of 16 bytes: use view<T, 1> or pad", stride, whole_steps<Step>(stride)};
  }
  return {};
}

}  // namespace detail

//! view of rows x cols elements with the given strides (in elements). The view keeps the promise of its type; an
//! empty matrix is taken with any strides and any pointer. `to` is unchanged on refusal.
template <class T, int Step>
status adopt(T* data, std::int64_t rows, std::int64_t cols, std::int64_t row_stride, std::int64_t column_stride, view<T, Step>& to) {
  if (status s = detail::adopt_rows<Step>(rows == 0 || cols == 0, data, rows, cols, row_stride, column_stride); !s) return s;
  to = {data, int(rows), int(cols), int(row_stride)};
  return {};
}

//! stack of count matrices, `distance` elements apart. Distance 0 reads one matrix many times: it is taken for const
//! elements only.
template <class T, int Step>
status adopt(T* data, std::int64_t count, std::int64_t rows, std::int64_t cols, std::int64_t distance, std::int64_t row_stride,
             std::int64_t column_stride, stack<T, Step>& to) {
  if (count < 0) return {errc::bad_shape, "a stack cannot have a negative count", count, 0};
  if (count > detail::reach) return {errc::out_of_reach, "the count of a stack must fit 32 bits: split the stack", count, detail::reach};
  const bool empty = count == 0 || rows == 0 || cols == 0;
  if (status s = detail::adopt_rows<Step>(empty, data, rows, cols, row_stride, column_stride); !s) return s;
  if (count > 1 && !empty) {
    if (distance < 0) return {errc::bad_shape, "the distance between the matrices of a stack must not be negative", distance, 0};
    if constexpr (Step > 1)
      if (distance % Step != 0)
        return {errc::misaligned, "stack<T> needs a distance that is a multiple of 16 bytes: use stack<T, 1> or pad", distance, detail::whole_steps<Step>(distance)};
    if (!std::is_const_v<T> && distance == 0)
      return {errc::aliased, "matrices that are written must not lie on each other: the distance is 0", 0, 1};
  } else {
    distance = 0;
  }
  to = {data, int(count), int(rows), int(cols), distance, int(row_stride)};
  return {};
}

}  // namespace smalti::inline SMALTI_DATA
