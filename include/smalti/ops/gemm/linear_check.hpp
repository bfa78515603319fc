// What the linear operations refuse.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/block/gemm/linear.hpp>
#include <smalti/core/packed.hpp>
#include <smalti/core/segments.hpp>
#include <smalti/core/status.hpp>
#include <smalti/ops/gemm/check.hpp>
#include <smalti/ops/gemm/packed_weight.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! A weight that is a matrix N x K of its operands' own type (FP8 checkpoints), with scales; `experts` of them follow each other, rows x stride elements apart.
template <class W, class Scales> struct matrix_weight {
  view<const W> matrix = {};
  int experts = 1;
  scale_arrays<Scales> scales = {};
};

//! A weight N x K of codes under scales for groups of k, both as checkpoints have them (MXFP8, MXFP4, NVFP4 as block-scaled products
//! take them). `matrix` has K columns of fp8, or K / 2 of e2m1x2; `scales` K / group columns, or more: up to a whole number of 16
//! bytes a GPU reads them, so they hold no NaN there (zeros will do). Matrices and scales of experts follow each other.
template <class W, class Scale, int Group, class Second> struct block_scaled_weight {
  view<const W> matrix = {};
  view<const typename detail::stored_as<Scale>::type> scales = {};
  int experts = 1;
  optional_member<!std::is_same_v<Second, policy::one_level>, const float*, 1> tensor = {};      //!< the tensor's scale of each expert
};

namespace detail {

template <class T, int Step> status check_x(const view<T, Step>& v) {
  return check_matrix(v, 1, 0, "x is null", "x: extents must not be negative", "x: stride must be at least the columns",
                      "x: the base must be a multiple of 16 bytes, or use linear_options::any_width", "x: stride must be a multiple of 16 bytes, or use linear_options::any_width",
                      "x: columns (K) must be a multiple of 16 bytes, or use linear_options::any_width", "x");
}
template <class T, int Step> status check_y(const view<T, Step>& v) {
  return check_matrix(v, 1, 0, "y is null", "y: extents must not be negative", "y: stride must be at least the columns",
                      "y: the base must be a multiple of 16 bytes, or use linear_options::any_width", "y: stride must be a multiple of 16 bytes, or use linear_options::any_width",
                      "y: columns (N) must be a multiple of 16 bytes, or use linear_options::any_width", "y");
}
template <class T, int Step> constexpr bool beyond_reach(const view<T, Step>& v) { return static_cast<long long>(v.rows) * v.stride > 2147483647ll; }

// The factors of activations: groups x M.
inline status check_factors(const view<const float, 1>& v, int groups, int rows, const char* null, const char* shape) {
  if (groups == 0 || rows == 0) return {};
  if (v.data == nullptr) return {errc::null_pointer, null};
  if (v.rows < groups) return {errc::bad_shape, shape, v.rows, groups};
  if (v.cols < rows) return {errc::bad_shape, shape, v.cols, rows};
  if (v.stride < v.cols) return {errc::bad_shape, shape, v.stride, v.cols};
  return {};
}

template <class Format, class Operand, policy::machine_family Family> status check_weight(const packed_weight<Format, Operand, Family>& w, int k, int n) {
  using weight = packed_weight<Format, Operand, Family>;
  if (w.n < 0 || w.k < 0 || w.experts < 0) return {errc::bad_shape, "w: extents must not be negative", w.n < 0 ? w.n : w.k < 0 ? w.k : w.experts, 0};
  if (w.k != k) return {errc::bad_shape, "x needs as many columns as w has (K)", k, w.k};
  if (w.n != n) return {errc::bad_shape, "w: its outputs (N) must be the columns of y (twice as many with a gated epilogue)", w.n, n};
  if (w.n == 0 || w.k == 0) return {};
  if (w.planes.a.data == nullptr || w.scales.scale.data == nullptr) return {errc::null_pointer, "w has no memory: lay it over packed bytes with packed_weight::over"};
  if (w.packed_k != weight::filled(w.k)) return {errc::bad_value, "w: packed_k does not follow from k: make the view with packed_weight::over", w.packed_k, weight::filled(w.k)};
  if (weight::fills_groups && w.order == nullptr) return {errc::null_pointer, "w: groups that are filled up need their order of columns: make the view with packed_weight::over"};
  if (const auto off = reinterpret_cast<std::uintptr_t>(w.planes.a.data) % 256; off != 0) return {errc::misaligned, "w: packed memory begins on a boundary of 256 bytes", std::int64_t(off), 0};
  return {};
}
template <class W, class Scales> status check_weight(const matrix_weight<W, Scales>& w, int k, int n) {
  if (const status bad = check_matrix(w.matrix, 1, 0, "w is null", "w: extents must not be negative", "w: stride must be at least the columns", "w: the base must be a multiple of 16 bytes",
                                      "w: stride must be a multiple of 16 bytes", "w: columns (K) must be a multiple of 16 bytes: pad the weight", "w"); !bad)
    return bad;
  if (w.experts < 0) return {errc::bad_shape, "w: experts must not be negative", w.experts, 0};
  if (w.matrix.cols != k) return {errc::bad_shape, "x needs as many columns as w has (K)", k, w.matrix.cols};
  if (w.matrix.rows != n) return {errc::bad_shape, "w: its rows (N) must be the columns of y", w.matrix.rows, n};
  if (n == 0 || k == 0) return {};
  const auto& s = w.scales.scale;
  if (s.data == nullptr) return {errc::null_pointer, "w.scales.scale is null"};
  if (s.rows < Scales::rows(k)) return {errc::bad_shape, "w.scales.scale needs a row for each group of K", s.rows, Scales::rows(k)};
  if (s.cols < Scales::cols(n)) return {errc::bad_shape, "w.scales.scale needs a column for each group of N", s.cols, Scales::cols(n)};
  if (s.stride < s.cols) return {errc::bad_shape, "w.scales.scale: stride must be at least the columns", s.stride, s.cols};
  return {};
}

template <class T> status check_block_scales(const view<const T>& s, int rows, int groups, const char* null, const char* shape, const char* aligned) {
  if (rows == 0 || groups == 0) return {};
  if (s.data == nullptr) return {errc::null_pointer, null};
  if (s.rows < rows) return {errc::bad_shape, shape, s.rows, rows};
  if (s.cols < groups) return {errc::bad_shape, shape, s.cols, groups};
  if (s.stride < s.cols) return {errc::bad_shape, shape, s.stride, s.cols};
  if (reinterpret_cast<std::uintptr_t>(s.data) % 16 != 0 || s.cols % 16 != 0 || (s.rows > 1 && s.stride % 16 != 0)) return {errc::misaligned, aligned, s.cols % 16 != 0 ? s.cols : s.stride, round_up(s.cols, 16)};
  return {};
}
template <class W, class Scale, int Group, class Second> status check_weight(const block_scaled_weight<W, Scale, Group, Second>& w, int k, int n) {
  if (const status bad = check_matrix(w.matrix, 1, 0, "w is null", "w: extents must not be negative", "w: stride must be at least the columns", "w: the base must be a multiple of 16 bytes",
                                      "w: stride must be a multiple of 16 bytes", "w: columns (K, or K / 2 pairs of e2m1) must be a multiple of 16 bytes: pad the weight", "w"); !bad)
    return bad;
  if (w.experts < 0) return {errc::bad_shape, "w: experts must not be negative", w.experts, 0};
  if (w.matrix.cols * codes_in<W> != k) return {errc::bad_shape, "x needs as many columns as w has (K)", k, w.matrix.cols * codes_in<W>};
  if (w.matrix.rows != n) return {errc::bad_shape, "w: its rows (N) must be the columns of y", w.matrix.rows, n};
  if constexpr (!std::is_same_v<Second, policy::one_level>)
    if (w.tensor == nullptr && n > 0 && k > 0) return {errc::null_pointer, "w.tensor is null: this format has a scale for the whole tensor"};
  return check_block_scales(w.scales, n, ceil_div(k, Group), "w.scales is null", "w.scales needs a row for each output and a column for each group of K",
                            "w.scales: base, width and stride must be multiples of 16 bytes: pad its columns with zeros");
}

template <class A, class B> bool overlap(const A& a, const B& b) { return bytes_of(a, 1, 0).meets(bytes_of(b, 1, 0)); }

}  // namespace detail
}  // namespace smalti::inline SMALTI_CODE::gemm
