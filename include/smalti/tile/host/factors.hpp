// Factors of scaled products as the product's loops take them: first element, strides, groups along k.
#pragma once
#include <type_traits>
#include <smalti/tile/host/panels.hpp>
#include <smalti/tile/host/scaled_dot.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::host::detail {

// Floats from group to group of left factors.
template <class F> constexpr int step_of_factors() {
  if constexpr (requires { F::padded; }) return F::padded;
  else return 0;
}
template <int R, int G> const float* first_of_factors(const factor_array<R, G>& t) { return &t.v[0][0]; }
template <int G, int N> const float* first_of_factors(const array_tile<float, G, N>& t) { return &t.v[0][0]; }
template <int N> const float* first_of_factors(const array_row<float, N>& t) { return t.v; }
template <int R> const float* first_of_factors(const array_column<float, R>& t) { return t.v; }

// Along k: the columns of left factors, the rows of right ones.
template <class F> struct along_k { static constexpr int groups = 1; };
template <int R, int G> struct along_k<factor_array<R, G>> { static constexpr int groups = G; };
template <int G, int N> struct along_k<array_tile<float, G, N>> { static constexpr int groups = G; };
// The most groups along k that any of them has.
template <class... F> constexpr int factor_groups() {
  int most = 1;
  ((most = along_k<F>::groups > most ? along_k<F>::groups : most), ...);
  return most;
}
template <int N, class Left, class Right, class Sums, class Minima> product_factors factors_of(const Left& left, const Right& right, const Sums& sums, const Minima& minima) {
  product_factors f;
  if constexpr (!std::is_same_v<Left, unit_factor>) f.left = first_of_factors(left), f.left_stride = 1, f.left_step = step_of_factors<Left>();
  if constexpr (!std::is_same_v<Right, unit_factor>) f.right = first_of_factors(right), f.right_stride = N;
  if constexpr (!std::is_same_v<Sums, unit_factor>) f.sums = first_of_factors(sums), f.sums_stride = 1, f.left_step = step_of_factors<Sums>(), f.minima = first_of_factors(minima), f.minima_stride = N;
  return f;
}

}  // namespace smalti::inline SMALTI_CODE::host::detail
