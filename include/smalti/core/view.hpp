// Matrices in memory, as kernels see them: a pointer, extents, strides. Aggregates of scalars, so that they
// cross a kernel launch; 32-bit extents, so that the compiler can use descriptors and short address
// arithmetic; 64-bit arithmetic wherever a pointer is moved.
#pragma once
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA {

//! Elements in 16 bytes: the width that copies, descriptors and stores want.
template <class T> constexpr int step_of = sizeof(T) < 16 ? 16 / int(sizeof(T)) : 1;

//! A matrix: rows are contiguous, `stride` counts elements between rows.
//!
//! view<T> promises that the base address and the stride are multiples of 16 bytes and that the number of
//! columns is a multiple of 16 bytes. view<T, 1> promises nothing: any address, width and stride, and on a
//! GPU the slow path. The promise is part of the type because the compiler needs it; every op's check()
//! verifies it. A view becomes one of const elements, and one that promises less, by itself; where a type is deduced, reading() says it.
template <class T, int Step = step_of<T>>
struct view {
  using element = T;
  static constexpr int step = Step;
  T* data = nullptr;
  int rows = 0, cols = 0, stride = 0;
  template <class To, int Promised>
    requires((__is_same(To, T) || __is_same(To, const T)) && Step % Promised == 0)
  SMALTI_HD constexpr operator view<To, Promised>() const {
    return {data, rows, cols, stride};
  }
};

//! Equal matrices one after another: heads, batches, experts, pages. `distance` counts elements between them.
template <class T, int Step = step_of<T>>
struct stack {
  using element = T;
  static constexpr int step = Step;
  T* data = nullptr;
  int count = 0, rows = 0, cols = 0;
  long long distance = 0;
  int stride = 0;
  SMALTI_HD constexpr view<T, Step> operator[](long long n) const { return {data + n * distance, rows, cols, stride}; }
};

//! Equal stacks one after another: sequences of heads. `outer_distance` counts elements between them.
template <class T, int Step = step_of<T>>
struct stacks {
  using element = T;
  static constexpr int step = Step;
  T* data = nullptr;
  int outer = 0, count = 0, rows = 0, cols = 0;
  long long outer_distance = 0, distance = 0;
  int stride = 0;
  SMALTI_HD constexpr view<T, Step> at(long long o, long long n) const { return {data + o * outer_distance + n * distance, rows, cols, stride}; }
};

//! The same memory with the two axes of each matrix swapped: what a load of it yields is the transposed tile.
template <class View> struct transposed_view {
  using element = typename View::element;
  View of;
};
template <class T, int Step> SMALTI_HD constexpr transposed_view<view<T, Step>> transposed(const view<T, Step>& v) {
  return {{v.data, v.rows, v.cols, v.stride}};
}
template <class T, int Step> SMALTI_HD constexpr transposed_view<stack<T, Step>> transposed(const stack<T, Step>& v) {
  return {{v.data, v.count, v.rows, v.cols, v.distance, v.stride}};
}
template <class T, int Step> SMALTI_HD constexpr transposed_view<stacks<T, Step>> transposed(const stacks<T, Step>& v) { return {v}; }

//! The rows [first, first + count) of a matrix as a matrix of their own, moved in 64 bits: how a block of a
//! matrix too big for 32-bit offsets gets a view that is not.
template <class T, int Step>
SMALTI_HD constexpr view<T, Step> band(const view<T, Step>& v, int first, int count) {
  const int left = v.rows - first;
  return {v.data + static_cast<long long>(first) * v.stride, left < count ? left : count, v.cols, v.stride};
}

//! The same matrix, to be read; reading<1>(v): without the promise, for those who ask for none.
template <class T, int Step> SMALTI_HD constexpr view<const T, Step> reading(const view<T, Step>& v) { return {v.data, v.rows, v.cols, v.stride}; }
template <int Promised, class T, int Step> SMALTI_HD constexpr view<const T, Promised> reading(const view<T, Step>& v) {
  static_assert(Step % Promised == 0, "smalti: reading<n>(v) may promise less than v, not more: check the address and strides and make the view by hand");
  return {v.data, v.rows, v.cols, v.stride};
}

SMALTI_HD constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
SMALTI_HD constexpr long long ceil_div(long long a, long long b) { return (a + b - 1) / b; }
SMALTI_HD constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }

}  // namespace smalti::inline SMALTI_DATA
