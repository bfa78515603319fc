// The functions of values for plain float and int, so that a policy whose functions are found beside the value on a
// machine also runs on scalars: in a user's own kernel, in a loop on the host, in a test. A policy that wants them
// says so inside its function:  using namespace scalar;
#pragma once
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy::scalar {

SMALTI_HD constexpr float to_float(float x) { return x; }
SMALTI_HD constexpr float to_float(int x) { return static_cast<float>(x); }
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
template <class T> SMALTI_HD float floor(T x) requires __is_same(T, float) { return __builtin_floorf(x); }

}  // namespace smalti::inline SMALTI_DATA::policy::scalar
