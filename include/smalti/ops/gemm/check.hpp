// What a dense GEMM refuses, and facts about its arguments.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/block/gemm/dense.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/epilogue.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! Elements between the matrices of a batch. A distance of 0 shares one matrix among all (never c, when count > 1).
struct batch_strides {
  int count = 1;
  long long a = 0, b = 0, c = 0;
};

template <class T> constexpr bool float_result = std::is_same_v<T, float> || std::is_same_v<T, bf16> || std::is_same_v<T, fp16> ||
                                                 std::is_same_v<T, fp8_e4m3> || std::is_same_v<T, fp8_e5m2>;

template <class A, class B, class C, class Epilogue> consteval bool explain_types() {
  static_assert(std::is_same_v<A, bf16> || std::is_same_v<A, fp16> || std::is_same_v<A, float> || std::is_same_v<A, std::int8_t> ||
                    std::is_same_v<A, fp8_e4m3> || std::is_same_v<A, fp8_e5m2>,
                "smalti: a dense GEMM multiplies bf16, fp16, float, int8, fp8_e4m3 or fp8_e5m2: convert A, or use gemm::weight_only for packed weights");
  static_assert(std::is_same_v<A, B>, "smalti: A and B of a dense GEMM have one element type: convert one of them");
  static_assert(float_result<C> || std::is_same_v<C, int>, "smalti: C of a dense GEMM is float, bf16, fp16, fp8_e4m3, fp8_e5m2, or int for int8 operands");
  static_assert(!std::is_same_v<C, int> || (std::is_same_v<A, std::int8_t> && std::is_same_v<Epilogue, policy::chain<>>),
                "smalti: an int C holds the exact sums of int8 operands: use a float C for an epilogue");
  return true;
}

namespace detail {

template <class T, int Step> status check_matrix(const view<T, Step>& v, int count, long long distance, const char* null, const char* extent,
                                                 const char* narrow, const char* base, const char* stride, const char* width, const char* apart) {
  if ((v.rows < 0 || v.cols < 0) && !mutant(defect::negative_extent_accepted)) return {errc::bad_shape, extent, v.rows < 0 ? v.rows : v.cols, 0};
  if (v.rows == 0 || v.cols == 0) return {};
  if (v.data == nullptr && !mutant(defect::null_accepted)) return {errc::null_pointer, null};
  if (v.stride < v.cols && !mutant(defect::narrow_stride_accepted)) return {errc::bad_shape, narrow, v.stride, v.cols};
  if (const auto off = reinterpret_cast<std::uintptr_t>(v.data) % alignof(T); off != 0 && !mutant(defect::odd_address_accepted)) return {errc::misaligned, base, std::int64_t(off), 0};
  if constexpr (Step > 1) {
    if (const auto off = reinterpret_cast<std::uintptr_t>(v.data) % 16; off != 0 && !mutant(defect::unaligned_base_accepted)) return {errc::misaligned, base, std::int64_t(off), 0};
    if (v.stride % Step != 0 && !mutant(defect::unaligned_stride_accepted)) return {errc::misaligned, stride, v.stride, round_up(v.stride, Step)};
    if (v.cols % Step != 0 && !mutant(defect::unaligned_width_accepted)) return {errc::misaligned, width, v.cols, round_up(v.cols, Step)};
    if (count > 1 && distance % Step != 0 && !mutant(defect::unaligned_batch_accepted)) return {errc::misaligned, apart, distance, ceil_div(distance, static_cast<long long>(Step)) * Step};
  }
  if (count > 1 && distance < 0 && !mutant(defect::negative_batch_distance_accepted)) return {errc::bad_value, apart, distance, 0};
  constexpr long long farthest = 1ll << 46;            // beyond any address space, so that sizes in bytes never overflow
  if (count > 1 && distance > farthest / count) return {errc::out_of_reach, apart, distance, farthest / count};
  return {};
}

struct bytes {
  const char *first, *last;
  constexpr bool meets(bytes o) const { return first < o.last && (mutant(defect::touching_taken_for_overlap) ? o.first <= last : o.first < last); }
};
template <class T, int Step> bytes bytes_of(const view<T, Step>& v, int count, long long distance) {
  const char* first = reinterpret_cast<const char*>(v.data);
  if (v.rows == 0 || v.cols == 0 || count == 0) return {first, first};
  return {first, first + ((count - 1) * (mutant(defect::later_matrix_not_looked_at) ? 0 : distance) + static_cast<long long>(v.rows - 1) * v.stride + v.cols) * static_cast<long long>(sizeof(T))};
}
template <class T, int Step> constexpr bool far_away(const view<T, Step>& v, int count, long long distance) {
  return (count - 1) * distance + static_cast<long long>(v.rows) * v.stride > 2147483647ll;
}

}  // namespace detail

template <class Args> policy::result_matrix result_of(const Args& x) {
  const detail::bytes c = detail::bytes_of(x.c, x.batch.count, x.batch.c);
  return {x.c.rows, x.c.cols, c.first, c.last, static_cast<long long>(x.c.stride) * static_cast<long long>(sizeof(*x.c.data))};
}

//! Whether any matrix is out of reach of 32-bit offsets: blocks then rebase their views in 64 bits.
template <class Args> constexpr bool out_of_reach(const Args& x) {
  return detail::far_away(x.a, x.batch.count, x.batch.a) || detail::far_away(x.b, x.batch.count, x.batch.b) ||
         detail::far_away(x.c, x.batch.count, x.batch.c);
}

//! M, N of the operands as the options say they lie, and K of A.
template <class Options, class Args> constexpr int rows_of_a(const Args& x) { return Options::a == a_order::m_by_k ? x.a.rows : x.a.cols; }
template <class Options, class Args> constexpr int depth_of_a(const Args& x) { return Options::a == a_order::m_by_k ? x.a.cols : x.a.rows; }

template <class Options, bool Pairs, class Args> status check_dense(const Args& x) {
  constexpr bool a_by_rows = Options::a == a_order::m_by_k, b_by_rows = Options::b == b_order::n_by_k;
  const int count = x.batch.count;
  if (count < 0 && !mutant(defect::negative_count_accepted)) return {errc::bad_value, "batch.count must not be negative", count, 0};
  if (const status bad = detail::check_matrix(x.a, count, x.batch.a, "a is null", "a: extents must not be negative",
        "a: stride must be at least the columns", "a: the base must be a multiple of 16 bytes, or use options::any_width",
        "a: stride must be a multiple of 16 bytes, or use options::any_width", a_by_rows ? "a: columns (K) must be a multiple of 16 bytes, or use options::any_width" : "a: columns (M) must be a multiple of 16 bytes, or use options::any_width",
        "batch.a must be a multiple of 16 bytes (or use options::any_width), not negative and within the address space"); !bad) return bad;
  if (const status bad = detail::check_matrix(x.b, count, x.batch.b, "b is null", "b: extents must not be negative",
        "b: stride must be at least the columns", "b: the base must be a multiple of 16 bytes, or use options::any_width",
        "b: stride must be a multiple of 16 bytes, or use options::any_width", "b: columns must be a multiple of 16 bytes, or use options::any_width",
        "batch.b must be a multiple of 16 bytes (or use options::any_width), not negative and within the address space"); !bad) return bad;
  if (const status bad = detail::check_matrix(x.c, count, x.batch.c, "c is null", "c: extents must not be negative",
        "c: stride must be at least the columns", "c: the base must be a multiple of 16 bytes, or use options::any_width",
        "c: stride must be a multiple of 16 bytes, or use options::any_width", "c: columns (N) must be a multiple of 16 bytes, or use options::any_width",
        "batch.c must be a multiple of 16 bytes (or use options::any_width), not negative and within the address space"); !bad) return bad;

  const int m = rows_of_a<Options>(x), k = depth_of_a<Options>(x);
  if (x.c.rows != m && !mutant(defect::wrong_rows_accepted)) return {errc::bad_shape, a_by_rows ? "c needs as many rows as a (M)" : "c needs as many rows as a, which is K x M, has columns", x.c.rows, m};
  const int depth = b_by_rows ? x.b.cols : x.b.rows, width = b_by_rows ? x.b.rows : x.b.cols;
  if (depth != k && !mutant(defect::wrong_depth_accepted)) return {errc::bad_shape, "b must have a's K: columns of b as N x K, rows of b as K x N", depth, k};
  if (Pairs && width != 2ll * x.c.cols && !mutant(defect::wrong_pairs_accepted)) return {errc::bad_shape, "a gated epilogue needs b with twice the columns of c: the gate's first, then the others", width, 2ll * x.c.cols};
  if (!Pairs && width != x.c.cols && !mutant(defect::wrong_width_accepted)) return {errc::bad_shape, "c needs as many columns as b has outputs (N)", x.c.cols, width};
  if (count > 1 && x.batch.c < static_cast<long long>(x.c.rows - 1) * x.c.stride + x.c.cols && x.c.rows > 0 && x.c.cols > 0 && !mutant(defect::overlapping_batch_accepted))
    return {errc::aliased, "batch.c: the matrices of c must not overlap", x.batch.c, static_cast<long long>(x.c.rows - 1) * x.c.stride + x.c.cols};

  const detail::bytes c = detail::bytes_of(x.c, count, x.batch.c);
  if (c.meets(detail::bytes_of(x.a, count, x.batch.a)) && !mutant(defect::overlap_with_a_accepted)) return {errc::aliased, "c must not overlap a: blocks read a while others write c"};
  if (c.meets(detail::bytes_of(x.b, count, x.batch.b)) && !mutant(defect::overlap_with_b_accepted)) return {errc::aliased, "c must not overlap b: blocks read b while others write c"};
  return {};
}

}  // namespace smalti::inline SMALTI_CODE::gemm
