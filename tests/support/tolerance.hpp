// Tolerances from one error model. A sum of k products of exact operands in float is off by at most
// (k + 2) 2^-24 times the sum of absolute products (each addition rounds once, to 24 bits; the bf16 and tf32
// instructions add pairs before they round, which is inside this bound). What comes after the sum multiplies that
// by its largest slope, adds the error of its own functions (2^-20 relative, their stated bound is less), and the
// store rounds once to the digits of the result.
#pragma once
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <smalti/core/float.hpp>

namespace test {

template <class C> double store_error(double value) {
  if constexpr (std::is_integral_v<C>) return 0;
  else if constexpr (std::is_same_v<C, float>) return std::abs(value) * 0x1p-24;
  else return std::abs(value) * std::ldexp(1.0, -smalti::digits<C>) + 0x1p-24;   // half a unit of the last digit; subnormals
}

struct gemm_error {
  int k;
  double slope = 1;            // of the epilogue
  double function = 0;         // relative error of its functions
  double operand = 0;          // relative error of each operand as the machine reads it: 2^-11 for tf32
  template <class C, class A> double bound(double sum_of_sizes, double value) const {
    if constexpr (std::is_same_v<A, std::int8_t>) return function * std::abs(value) + store_error<C>(value) + slope * 0x1p-24 * sum_of_sizes;
    else return slope * ((k + 2) * 0x1p-24 + 2 * operand) * sum_of_sizes + function * (std::abs(value) + slope * sum_of_sizes * 0x1p-4) + store_error<C>(value) + 1e-30;
  }
};

// How exactly a machine reads operands of type T.
template <class T> constexpr double operand_error() {
#if defined(__CUDACC__)
  if (std::is_same_v<T, float>) return 0x1p-11;   // tf32
#endif
  return 0;
}

}  // namespace test
