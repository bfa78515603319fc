// What the grouped products refuse.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/block/gemm/paged_rows.hpp>
#include <smalti/core/check_view.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/segments.hpp>
#include <smalti/core/status.hpp>
#include <smalti/ops/gemm/check.hpp>
#include <smalti/policy/reduction.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

template <class A, class B, class C, class Epilogue, class Options> consteval bool explain_grouped_types() {
  static_assert(std::is_same_v<A, bf16> || std::is_same_v<A, fp16> || std::is_same_v<A, float> || std::is_same_v<A, std::int8_t> || std::is_same_v<A, fp8_e4m3> || std::is_same_v<A, fp8_e5m2>,
                "smalti: a grouped product multiplies bf16, fp16, float, int8, fp8_e4m3 or fp8_e5m2: convert A, or use gemm::grouped_weight_only for packed weights");
  static_assert(std::is_same_v<A, B> || (std::is_same_v<A, float> && (std::is_same_v<B, bf16> || std::is_same_v<B, fp16>)),
                "smalti: A and B of a grouped product have one element type, or A is float and B bf16 or fp16: convert one of them");
  static_assert(float_result<C> || (std::is_same_v<C, int> && std::is_same_v<A, std::int8_t> && std::is_same_v<Epilogue, policy::chain<>> && !Options::adds),
                "smalti: C of a grouped product is float, bf16, fp16, fp8_e4m3, fp8_e5m2, or int for int8 operands without an epilogue");
  static_assert(policy::reduction_count<typename Options::reductions> == 0, "smalti: grouped products have no reductions of their result: reduce it afterwards");
  static_assert(!Options::persistent, "smalti: grouped products are not persistent: a grid of blocks walks the groups");
  static_assert(Options::level != determinism::gpu_to_gpu || std::is_same_v<C, int>, "smalti: gpu_to_gpu needs results that are exact: int8 operands and an int C. Use run_to_run");
  return true;
}

namespace detail {

template <class T, int Step> policy::result_matrix result_of_rows(const view<T, Step>& c, int rows) {
  const bytes b = bytes_of(c, 1, 0);
  return {rows, c.cols, b.first, b.last, static_cast<long long>(c.stride) * static_cast<long long>(sizeof(T))};
}

//! Weights that are matrices of their own; they may overlap (slices of a shared one).
template <literal Name, class T, int Step> status check_stack(const stack<T, Step>& s, int rows, int cols) {
  if (s.count < 0) return {errc::bad_shape, sentence<Name, ": count must not be negative">(), s.count, 0};
  if (s.count == 0) return {};
  if (const status bad = check_view<Name>(s[0]); !bad) return bad;
  if (s.distance < 0) return {errc::bad_value, sentence<Name, ": the distance of matrices must not be negative">(), s.distance, 0};
  if (Step > 1 && s.count > 1 && s.distance % Step != 0) return {errc::misaligned, sentence<Name, ": the distance of matrices must be a multiple of 16 bytes">(), s.distance % Step, 0};
  if (s.count > 1 && s.distance > (1ll << 46) / s.count) return {errc::out_of_reach, sentence<Name, ": the matrices end beyond the address space">(), s.distance, (1ll << 46) / s.count};
  if (s.rows != rows) return {errc::bad_shape, sentence<Name, ": as N x K it needs a row for each column of c, as K x N one for each column of a">(), s.rows, rows};
  if (s.cols != cols) return {errc::bad_shape, sentence<Name, ": as N x K it needs a column for each column of a (K), as K x N one for each column of c">(), s.cols, cols};
  return {};
}

//! Pages: on the host also that every weight's rows are in the list, and every entry in the pool.
template <bool Host, class T, bool Scaled, int Step> status check_pages(const paged_rows<T, Scaled, Step>& b, int tile) {
  if (b.weights < 0 || b.most < 0 || b.lines < 0) return {errc::bad_shape, "b: weights, most and lines must not be negative", b.weights < 0 ? b.weights : b.most < 0 ? b.most : b.lines, 0};
  if (b.shards < 1) return {errc::bad_value, "b: a row has at least one shard", b.shards, 1};
  if (b.weights == 0) return {};
  if (const status bad = check_view<"b, the pool">(b.pool); !bad) return bad;
  if (b.first == nullptr || b.count == nullptr) return {errc::null_pointer, "b: first or count is null: they need an entry for each weight", 0, b.weights};
  if (b.line == nullptr && b.lines > 0) return {errc::null_pointer, "b: line is null: it needs an entry for each shard of each row", 0, b.lines};
  if constexpr (Scaled)
    if (b.scale == nullptr) return {errc::null_pointer, "b: scale is null: it needs an entry for each weight", 0, b.weights};
  if (b.shards > 1 && b.pool.cols % tile != 0) return {errc::bad_shape, "b: the width of a shard must be a multiple of the tile's: a tuning with narrower tiles takes narrower shards", b.pool.cols, tile};
  if constexpr (Host) {
    for (int e = 0; e < b.weights; ++e) {
      if (b.count[e] < 0 || b.count[e] > b.most) return {errc::bad_value, "b: a weight's count (its rank) is beyond `most`, which grids are sized by", b.count[e], b.most};
      if (b.count[e] > 0 && (b.first[e] < 0 || (static_cast<long long>(b.first[e]) + b.count[e]) * b.shards > b.lines)) return {errc::bad_value, "b: a weight's rows end beyond the list of lines", (static_cast<long long>(b.first[e]) + b.count[e]) * b.shards, b.lines};
      for (long long i = static_cast<long long>(b.first[e]) * b.shards; i < (static_cast<long long>(b.first[e]) + b.count[e]) * b.shards; ++i)
        if (b.line[i] < 0 || b.line[i] >= b.pool.rows) return {errc::bad_value, "b: a line is beyond the pool: was it freed while a weight still names it?", b.line[i], b.pool.rows};
    }
  }
  return {};
}

//! Groups of `rows` rows. Only the host reads the offsets.
template <bool Host, class Offset> status check_groups(const segments<Offset>& s, [[maybe_unused]] const Offset* end, int rows) {
  if (s.count < 0) return {errc::bad_shape, "segments.count must not be negative", s.count, 0};
  if (s.count > 0 && s.offsets == nullptr) return {errc::null_pointer, "segments.offsets is null: it needs count + 1 entries", 0, std::int64_t(s.count) + 1};
  if (rows > 0 && s.count == 0) return {errc::bad_shape, "segments: rows need at least one segment", 0, 1};
  if constexpr (Host) {
    if (const status bad = check_segments(s, rows); !bad) return bad;
    for (int e = 0; end != nullptr && e < s.count; ++e)
      if (end[e] < s.first(e) || end[e] > s.last(e)) return {errc::bad_value, "end: a segment's rows in use end outside the segment", std::int64_t(end[e]), std::int64_t(s.last(e))};
  }
  return {};
}

//! Calls visit(row) for every row of the groups that is in use until it gives a bad status.
template <class Offset, class Visit> status each_row(const segments<Offset>& s, const Offset* end, Visit visit) {
  for (int e = 0; e < s.count; ++e)
    for (Offset r = s.first(e); r < (end != nullptr ? end[e] : s.last(e)); ++r)
      if (const status bad = visit(r); !bad) return bad;
  return {};
}
template <bool Host, literal Name, class Offset> status check_sources(const view<const int, 1>& v, int limit, const segments<Offset>& s, const Offset* end) {
  if (v.rows > 0 && v.data == nullptr) return {errc::null_pointer, sentence<Name, " is null">()};
  if (v.rows < 0 || (v.rows > 0 && v.cols != 1) || (v.rows > 1 && v.stride != 1)) return {errc::bad_shape, sentence<Name, " is one column of row numbers, one after another">(), v.cols, 1};
  if constexpr (Host)
    return each_row(s, end, [&](auto r) { return v.data[r] >= 0 && v.data[r] < limit ? status{} : status{errc::bad_value, sentence<Name, ": a row that does not exist">(), v.data[r], limit}; });
  else return static_cast<void>(limit), static_cast<void>(s), static_cast<void>(end), status{};
}
template <bool Host, literal Name, class Offset> status check_targets(const view<const int, 1>& v, int rows, int limit, const segments<Offset>& s, const Offset* end) {
  if (rows > 0 && v.data == nullptr) return {errc::null_pointer, sentence<Name, " is null">()};
  if (v.rows != rows || (rows > 0 && v.cols != 1) || (rows > 1 && v.stride != 1)) return {errc::bad_shape, sentence<Name, " is one column of row numbers, one for each row of the groups">(), v.rows, rows};
  if constexpr (Host)
    return each_row(s, end, [&](auto r) { return v.data[r] < limit ? status{} : status{errc::bad_value, sentence<Name, ": a row that does not exist">(), v.data[r], limit}; });
  else return static_cast<void>(limit), static_cast<void>(s), static_cast<void>(end), status{};
}

}  // namespace detail
}  // namespace smalti::inline SMALTI_CODE::gemm
