// The functions of values for plain float and int, so that a policy whose functions are found beside the value on a
// machine also runs on scalars: in a user's own kernel, in a loop on the host, in a test. A policy that wants them
// says so inside its function:  using namespace scalar;
#pragma once
#include <smalti/core/float.hpp>
#include <smalti/core/version.hpp>
#include <smalti/core/view.hpp>

namespace smalti::inline SMALTI_DATA::policy::scalar {

SMALTI_HD constexpr float to_float(float x) { return x; }
SMALTI_HD constexpr float to_float(int x) { return static_cast<float>(x); }
SMALTI_HD constexpr int to_int(float x) { return static_cast<int>(x); }
SMALTI_HD constexpr int to_int(int x) { return x; }
SMALTI_HD constexpr float where(bool mask, float a, float b) { return mask ? a : b; }
SMALTI_HD constexpr int where(bool mask, int a, int b) { return mask ? a : b; }
SMALTI_HD constexpr float abs(float x) { return __builtin_fabsf(x); }
SMALTI_HD constexpr int abs(int x) { return x < 0 ? -x : x; }
SMALTI_HD constexpr float max(float a, float b) { return a > b ? a : b; }
SMALTI_HD constexpr float min(float a, float b) { return a < b ? a : b; }
SMALTI_HD constexpr int max(int a, int b) { return a > b ? a : b; }
SMALTI_HD constexpr int min(int a, int b) { return a < b ? a : b; }
SMALTI_HD constexpr float over(float a, float b) { return a / b; }
// Templates, so that nvcc looks for code of the C library only where one of them is used on scalars; of exact type, so
// that no other argument is converted into one.
template <class T> SMALTI_HD float exp2(T x) requires __is_same(T, float) { return __builtin_exp2f(x); }
template <class T> SMALTI_HD float log2(T x) requires __is_same(T, float) { return __builtin_log2f(x); }
template <class T> SMALTI_HD float sqrt(T x) requires __is_same(T, float) { return __builtin_sqrtf(x); }
template <class T> SMALTI_HD float floor(T x) requires __is_same(T, float) { return __builtin_floorf(x); }
template <class T> SMALTI_HD float tanh(T x) requires __is_same(T, float) { return __builtin_tanhf(x); }

// An element of memory as a map sees it: a float or an int; zero outside.
SMALTI_HD constexpr float widened(float x) { return x; }
SMALTI_HD constexpr int widened(int x) { return x; }
SMALTI_HD constexpr int widened(unsigned x) { return static_cast<int>(x); }
SMALTI_HD constexpr int widened(signed char x) { return x; }
SMALTI_HD constexpr int widened(unsigned char x) { return x; }
template <class T> SMALTI_HD constexpr float widened(T x) requires __is_class(T) { return smalti::to_float(x); }
template <class T, class I> SMALTI_HD constexpr auto lookup(const T* memory, I index, int limit) requires __is_same(I, int) {
  return index >= 0 && index < limit ? widened(memory[index]) : widened(T{});
}
template <class T, int Step, class I> SMALTI_HD constexpr auto lookup(const view<T, Step>& m, I row, I column) requires __is_same(I, int) {
  using element = typename view<T, Step>::element;
  const bool there = row >= 0 && row < m.rows && column >= 0 && column < m.cols;
  return there ? widened(m.data[static_cast<long long>(row) * m.stride + column]) : decltype(widened(element(m.data[0])))(0);
}

}  // namespace smalti::inline SMALTI_DATA::policy::scalar
