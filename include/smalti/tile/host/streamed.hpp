// Operands of products of few rows, which read each of their elements once: packing them would cost more than the product.
// They are used where they lie in memory, in the order of their addresses, while what follows is fetched ahead: a fetch
// a few rows ahead keeps memory at work while the processor computes. (Decode attention, 4 query heads a key head: packing
// values cost two fifths of the time; 0.60 of read bandwidth became 0.75.)
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <smalti/tile/host/dot.hpp>
#include <smalti/tile/host/fill.hpp>
#include <smalti/tile/host/lanes.hpp>
#include <smalti/tile/host/panels.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::host {

//! Left operand of many rows: sixteen rows at equal steps are one piece, in memory or, where they do not lie so, in `own`.
template <class T, int R, int K>
struct streamed_left_panel {
  using element = T;
  using storage = typename storage_of<T>::type;
  static constexpr int rows = R, cols = K, piece = 16, pieces = R / piece, beyond = 2, per_word = 4 / int(sizeof(storage));
  static_assert(R % piece == 0, "smalti: a streamed left operand has a multiple of 16 rows: choose another tile in the tuning");
  const storage* at[pieces + beyond];              // behind the last piece: what is probably wanted next, or null
  std::int64_t stride[pieces + beyond];
  int live = pieces, depth = K;                    // pieces with a row from memory; columns
  int ahead = piece;                               // rows: how far what follows is fetched, at most one piece
  bool gathered = false;                           // pieces lie apart: their beginnings are fetched earlier
  alignas(64) storage own[R][K];
  streamed_left_panel() {}
  streamed_left_panel(const streamed_left_panel&) = delete;
};

//! Right operand: rows of N elements wherever they are. Sixteen rows at equal steps are one piece; of others each has its place in `row`.
template <class T, int K, int N>
struct streamed_right_panel {
  using element = T;
  using storage = typename storage_of<T>::type;
  static constexpr int rows = K, cols = N, piece = 16, pieces = (K + piece - 1) / piece, beyond = 2;
  static_assert(N % lane_count == 0, "smalti: a streamed right operand has a multiple of 16 columns: choose another tile in the tuning");
  const storage* at[pieces + beyond];              // null: see row; behind the last piece: what is probably wanted next, or null
  std::int64_t stride[pieces + beyond];
  const storage* row[K];
  int live = N, depth = K;                         // columns and rows that came from memory
  int ahead = piece;                               // rows: how far what follows is fetched, at most one piece
  bool gathered = false;                           // pieces lie apart: their beginnings are fetched earlier
  alignas(64) storage own[K][N];
  streamed_right_panel() {}
  streamed_right_panel(const streamed_right_panel&) = delete;
};

//! Rows to fetch ahead: 2 KiB, to the first-level cache; farther, fetches compete with the loads that they should help.
template <class T> constexpr int rows_ahead(int columns, int bytes = 2048) { return std::clamp(bytes / (columns * int(sizeof(T))), 1, 16); }
//! Of pieces gathered from pages, the first rows are fetched two pieces ahead as well, to the second-level cache: the processor does not
//! foresee the next page, but where its beginning has been asked for, it follows it to its end. (Pages of 4 KiB in random order, read
//! without arithmetic: 12.9 GB/s, 12.5 where all of the page after the next is fetched, 14.7 where its first KiB is; one after another, 15.7.
//! Under the product with keys 11.9 GB/s with all of it, 12.4 with the first rows; with values 10.5 and 11.6.)
constexpr int first_rows_fetched = 4, pieces_ahead = 2, gathered_value_bytes = 3072;

//! Where what is probably wanted next lies: row r, r < 32, at row(r), or null.
template <class Panel, class Row> void announce_rows(Panel& t, Row row) {
  for (int g = 0; g < Panel::beyond; ++g) {
    const typename Panel::storage *first = row(g * Panel::piece), *second = row(g * Panel::piece + 1);
    t.at[Panel::pieces + g] = first;
    t.stride[Panel::pieces + g] = first != nullptr && second != nullptr ? second - first : 0;
  }
}
template <class Panel> void announce_nothing(Panel& t) {
  for (int g = 0; g < Panel::beyond; ++g) t.at[Panel::pieces + g] = nullptr, t.stride[Panel::pieces + g] = 0;
}

//! Whether sixteen numbers follow one another and lie inside.
inline bool consecutive_rows(const int* numbers, int count) {
  int apart = 0;
  for (int i = 0; i < 16; ++i) apart |= numbers[i] - numbers[0] - i;
  return apart == 0 && numbers[0] >= 0 && numbers[0] + 16 <= count;
}

//! Row r of the panel from row(r), null where there is none, `valid` elements of each, the rest zero.
template <class T, int R, int K, class Row> void fill_streamed_left(streamed_left_panel<T, R, K>& t, int valid, Row row) {
  using panel = streamed_left_panel<T, R, K>;
  using storage = typename panel::storage;
  using source = std::remove_cv_t<std::remove_pointer_t<decltype(row(0))>>;
  t.depth = valid;
  t.live = 0;
  const int width = round_up(valid, lane_count) < K ? round_up(valid, lane_count) : K;
  for (int g = 0; g < panel::pieces; ++g) {
    const int first = g * panel::piece;
    const source* from[panel::piece];
    bool all = true, any = false;
    for (int r = 0; r < panel::piece; ++r) from[r] = row(first + r), all = all && from[r] != nullptr, any = any || from[r] != nullptr;
    if (any) t.live = g + (mutant(defect::left_loses_last_row) ? 0 : 1);
    t.at[g] = nullptr;
    if constexpr (std::is_same_v<source, storage>)
      if (all && valid % panel::per_word == 0) {
        bool even = true;
        for (int r = 2; r < panel::piece; ++r) even = even && from[r] - from[r - 1] == from[1] - from[0];
        if (even) t.at[g] = from[0], t.stride[g] = from[1] - from[0];
      }
    if (t.at[g] == nullptr) {
      for (int r = 0; r < panel::piece; ++r) fetch(t.own[first + r], from[r], from[r] != nullptr ? valid : 0, width);
      t.at[g] = t.own[first], t.stride[g] = K;
    }
  }
  announce_nothing(t);
  t.ahead = panel::piece, t.gathered = false;
}
//! The same of rows that lie `stride` elements apart, `count` of them. Behind them lies what is probably wanted next, if `more`.
template <class T, int R, int K> void fill_streamed_left(streamed_left_panel<T, R, K>& t, int valid, const typename streamed_left_panel<T, R, K>::storage* first, std::int64_t stride, int count, bool more) {
  using panel = streamed_left_panel<T, R, K>;
  if (count < R || valid % panel::per_word != 0) return fill_streamed_left(t, valid, [=](int r) { return r < count ? first + r * stride : nullptr; });
  t.depth = valid;
  t.live = panel::pieces - (mutant(defect::left_loses_last_row) ? 1 : 0);
  for (int g = 0; g < panel::pieces; ++g) t.at[g] = first + g * panel::piece * stride, t.stride[g] = stride;
  if (more) announce_rows(t, [=](int r) { return first + (R + r) * stride; });
  else announce_nothing(t);
  t.ahead = rows_ahead<typename panel::storage>(K), t.gathered = false;
}
//! The same of rows of a matrix by their numbers: pieces that follow one another are seen by their numbers.
template <class T, int R, int K, class S, int Step, class Rows> void gather_streamed_left(streamed_left_panel<T, R, K>& t, int valid, const view<S, Step>& m, const Rows& rows, int j) {
  using panel = streamed_left_panel<T, R, K>;
  if constexpr (std::is_same_v<std::remove_const_t<S>, typename panel::storage>)
    if (valid % panel::per_word == 0) {
      bool even = true;
      for (int g = 0; g < panel::pieces; ++g) even = even && consecutive_rows(&rows.v[g * panel::piece], m.rows);
      if (even) {
        for (int g = 0; g < panel::pieces; ++g) t.at[g] = m.data + std::int64_t(rows.v[g * panel::piece] + (mutant(defect::gather_one_row_late) ? 1 : 0)) * m.stride + std::int64_t(j) * K, t.stride[g] = m.stride;
        t.depth = valid, t.live = panel::pieces - (mutant(defect::left_loses_last_row) ? 1 : 0);
        announce_nothing(t);
        t.ahead = rows_ahead<typename panel::storage>(K), t.gathered = true;
        return;
      }
    }
  fill_streamed_left(t, valid, [&](int r) { return address(m, rows.v[r] + (mutant(defect::gather_one_row_late) ? 1 : 0), std::int64_t(j) * K); });
  t.ahead = rows_ahead<typename panel::storage>(K), t.gathered = true;
}

//! Row k of a right panel from row(k), `valid` elements of each, the rest zero.
template <class T, int K, int N, class Row> void fill_streamed_right(streamed_right_panel<T, K, N>& t, int depth, int valid, Row row) {
  using panel = streamed_right_panel<T, K, N>;
  using storage = typename panel::storage;
  using source = std::remove_cv_t<std::remove_pointer_t<decltype(row(0))>>;
  t.live = valid, t.depth = depth, t.ahead = rows_ahead<storage>(N, gathered_value_bytes), t.gathered = true;
  for (int g = 0; g < panel::pieces; ++g) t.at[g] = nullptr, t.stride[g] = 0;
  for (int k = 0; k < depth; ++k) {
    const source* p = row(k);
    if constexpr (std::is_same_v<source, storage>)
      if (p != nullptr && valid % lane_count == 0) {
        t.row[k] = p;
        continue;
      }
    fetch(t.own[k], p, p != nullptr ? valid : 0, round_up(valid, lane_count));
    t.row[k] = t.own[k];
  }
  announce_nothing(t);
}
//! The same of the `depth` rows that lie `stride` elements apart, whole packs of elements that are used where they lie.
template <class T, int K, int N> void fill_streamed_right(streamed_right_panel<T, K, N>& t, int depth, int valid, const typename streamed_right_panel<T, K, N>::storage* first, std::int64_t stride, bool more) {
  using panel = streamed_right_panel<T, K, N>;
  t.live = valid, t.depth = depth, t.ahead = rows_ahead<typename panel::storage>(N), t.gathered = false;
  for (int g = 0; g < panel::pieces; ++g) t.at[g] = g * panel::piece < depth ? first + g * panel::piece * stride : nullptr, t.stride[g] = stride;
  if (more) announce_rows(t, [=](int r) { return first + (K + r) * stride; });
  else announce_nothing(t);
}
//! The same of rows of a matrix by their numbers.
template <class T, int K, int N, class S, int Step, class Rows> void gather_streamed_right(streamed_right_panel<T, K, N>& t, int valid, const view<S, Step>& m, const Rows& rows, int j) {
  using panel = streamed_right_panel<T, K, N>;
  const std::int64_t column = std::int64_t(mutant(defect::gather_first_columns) ? 0 : j) * N;
  if constexpr (std::is_same_v<std::remove_const_t<S>, typename panel::storage> && K % panel::piece == 0)
    if (valid % lane_count == 0) {
      bool even = true;
      for (int g = 0; g < panel::pieces; ++g) even = even && consecutive_rows(&rows.v[g * panel::piece], m.rows);
      if (even) {
        for (int g = 0; g < panel::pieces; ++g) t.at[g] = m.data + std::int64_t(rows.v[g * panel::piece]) * m.stride + column, t.stride[g] = m.stride;
        t.live = valid, t.depth = K, t.ahead = rows_ahead<typename panel::storage>(N, gathered_value_bytes), t.gathered = true;
        announce_nothing(t);
        return;
      }
    }
  fill_streamed_right(t, K, valid, [&](int r) { return address(m, rows.v[r], column); });
}

namespace detail {

#if SMALTI_DOT_LEVEL >= 4
// Sixteen columns, 16 * Chunks words: the right operand stays in tiles 4 to 7.
template <int Chunks, bool Fresh, bool Gathered, class Panel>
void amx_streamed(float* acc, std::int64_t acc_stride, const Panel& a, const char* right) {
  constexpr std::int64_t line = 16 * word;
  const int ahead = a.ahead;
  amx_configure(16, 16, 16);
  _tile_loadd(4, right, line);
  if constexpr (Chunks > 1) { _tile_loadd(5, right + 16 * line, line); }
  if constexpr (Chunks > 2) { _tile_loadd(6, right + 32 * line, line); }
  if constexpr (Chunks > 3) { _tile_loadd(7, right + 48 * line, line); }
  for (int g = 0; g < a.live; ++g) {
    const char* from = bytes(a.at[g]);
    const std::int64_t stride = a.stride[g] * std::int64_t(sizeof(*a.at[g]));
    const std::int64_t size = sizeof(*a.at[g]);
    char* to = bytes(acc + std::int64_t(g) * 16 * acc_stride);
    // Its share of the sixteen rows, in the order of their addresses. Inlined: g++ 12 drops calls of functions that only prefetch.
    const auto fetch_ahead = [&](int chunk) __attribute__((always_inline)) {
      if constexpr (Gathered)
        if (const auto* first = a.at[g + pieces_ahead])
          for (int r = first_rows_fetched * chunk / Chunks; r < first_rows_fetched * (chunk + 1) / Chunks; ++r) {
            SMALTI_UNROLL
            for (int i = 0; i < Chunks; ++i) __builtin_prefetch(bytes(first + r * a.stride[g + pieces_ahead]) + i * 64, 0, 2);
          }
      for (int r = 16 * chunk / Chunks; r < 16 * (chunk + 1) / Chunks; ++r) {
        const int later = g + (r + ahead) / 16;
        if (a.at[later] == nullptr) return;
        const char* row = bytes(a.at[later]) + (r + ahead) % 16 * a.stride[later] * size;
        SMALTI_UNROLL
        for (int i = 0; i < Chunks; ++i) __builtin_prefetch(row + i * 64, 0, 3);
      }
    };
    if constexpr (Fresh) _tile_zero(0);
    else _tile_loadd(0, to, acc_stride * word);
    fetch_ahead(0);
    _tile_loadd(1, from, stride);
    _tile_dpbf16ps(0, 1, 4);
    if constexpr (Chunks > 1) {
      fetch_ahead(1);
      _tile_loadd(2, from + 64, stride);
      _tile_dpbf16ps(0, 2, 5);
    }
    if constexpr (Chunks > 2) {
      fetch_ahead(2);
      _tile_loadd(3, from + 128, stride);
      _tile_dpbf16ps(0, 3, 6);
    }
    if constexpr (Chunks > 3) {
      fetch_ahead(3);
      _tile_loadd(1, from + 192, stride);
      _tile_dpbf16ps(0, 1, 7);
    }
    _tile_stored(0, to, acc_stride * word);
  }
  amx_release();
  amx_fence();
}
#endif

}  // namespace detail

//! acc[0 .. 16 live) += (Fresh: =) a b, bf16.
template <bool Fresh, class T, int R, int K, int N>
void streamed_product(array_tile<float, R, N>& acc, const streamed_left_panel<T, R, K>& a, const right_panel<T, K, N>& b) {
  using panel = right_panel<T, K, N>;
  const int columns = round_up(b.live, lane_count), depth = a.depth < b.depth ? a.depth : b.depth, words = (depth + panel::per_word - 1) / panel::per_word;
#if SMALTI_DOT_LEVEL >= 4
  if constexpr (std::is_same_v<typename panel::storage, bf16> && N == 16 && K % 32 == 0 && K <= 128)
    if (depth == K && columns == N && detail::amx_is_usable()) {
      if (a.gathered) detail::amx_streamed<K / 32, Fresh, true>(&acc.v[0][0], N, a, detail::bytes(b.data));
      else detail::amx_streamed<K / 32, Fresh, false>(&acc.v[0][0], N, a, detail::bytes(b.data));
      return;
    }
#endif
  for (int g = 0; g < a.live; ++g)
    for (int n = 0; n < columns; n += panel::strip) {
      float* to = &acc.v[g * a.piece][n];
      const int wide = columns - n < panel::strip ? columns - n : panel::strip;
      if constexpr (Fresh)
        for (int r = 0; r < a.piece; ++r) std::fill_n(to + std::int64_t(r) * N, wide, 0.0f);
      dot(to, N, a.at[g], a.stride[g], b.data + std::int64_t(n) * K, panel::strip, a.piece, wide, words * panel::per_word);
    }
}

//! acc += a b: the rows of b are widened to float and multiplied from where they lie, sixteen of them at a time, so that
//! memory is read in the order of its addresses and the sums still stay in registers for a while.
template <class T, int R, int K, int N>
void streamed_product(array_tile<float, R, N>& acc, const left_panel<T, R, K>& a, const streamed_right_panel<T, K, N>& b) {
  static_assert(!left_panel<T, R, K>::may_lie_across, "smalti: a left operand that may lie across has no product with a right one that is used where it lies: load that one");
  using storage = typename streamed_right_panel<T, K, N>::storage;
  constexpr int registers = SMALTI_DOT_LEVEL >= 2 ? 16 : SMALTI_DOT_LEVEL == 1 ? 4 : 2, side = registers / R, together = 16;
  constexpr int vectors = side >= 4 && N % 64 == 0 ? 4 : side >= 2 && N % 32 == 0 ? 2 : 1, width = vectors * lane_count;
  const int depth = a.depth < b.depth ? a.depth : b.depth;
  alignas(64) float weights[R][K + lane_count];
  for (int r = 0; r < R; ++r)
    for (int k = 0; k < depth; k += lane_count)
      write(&weights[r][k], r < a.live ? depth - k < lane_count ? read(a.data + r * a.stride + k, depth - k) : read(a.data + r * a.stride + k) : floats(0.0f));
  // `count` packs of columns from n on, rows [first, last).
  const auto strip = [&](auto packs, auto gathered, int n, int first, int last) __attribute__((always_inline)) {
    constexpr int count = decltype(packs)::value;
    constexpr bool apart = decltype(gathered)::value;
    const int g = first / together;
    const storage* const far = apart ? b.at[g + pieces_ahead] : nullptr;
    floats sum[R][count];
    SMALTI_UNROLL
    for (int r = 0; r < R; ++r)
      SMALTI_UNROLL
      for (int v = 0; v < count; ++v) sum[r][v] = read(&acc.v[r][n + v * lane_count]);
    const auto multiply_row = [&](int k, const storage* from, const storage* later) __attribute__((always_inline)) {
      if (apart && far != nullptr && k - first < first_rows_fetched) {
        SMALTI_UNROLL
        for (int i = 0; i < count * lane_count * int(sizeof(storage)); i += 64) __builtin_prefetch(detail::bytes(far + (k - first) * b.stride[g + pieces_ahead] + n) + i, 0, 2);
      }
      SMALTI_UNROLL
      for (int i = 0; i < count * lane_count * int(sizeof(storage)); i += 64) __builtin_prefetch(detail::bytes(later) + i, 0, 3);
      floats x[count];
      SMALTI_UNROLL
      for (int v = 0; v < count; ++v) x[v] = read(from + v * lane_count);
      SMALTI_UNROLL
      for (int r = 0; r < R; ++r)
        SMALTI_UNROLL
        for (int v = 0; v < count; ++v) sum[r][v] = fma(floats(weights[r][k]), x[v], sum[r][v]);
    };
    const int shift = b.ahead % together, later_piece = g + b.ahead / together;
    if (const storage* at = b.at[g]) {
      // The rows ahead are in one piece, or in it and the next one. What is not announced is asked for again: it is there.
      const bool here = b.at[later_piece] != nullptr, there = shift > 0 && b.at[later_piece + 1] != nullptr;
      const storage *low = here ? b.at[later_piece] + shift * b.stride[later_piece] : at, *high = there ? b.at[later_piece + 1] : at;
      const std::int64_t step = b.stride[g], low_step = here ? b.stride[later_piece] : 0, high_step = there ? b.stride[later_piece + 1] : 0;
      const int turn = first + together - shift < last ? first + together - shift : last;
      const storage *from = at + n, *later = low + n;
      int k = first;
      for (; k < turn; ++k, from += step, later += low_step) multiply_row(k, from, later);
      later = high + n;
      for (; k < last; ++k, from += step, later += high_step) multiply_row(k, from, later);
    } else {
      for (int k = first; k < last; ++k) multiply_row(k, b.row[k] + n, b.row[k + together < depth ? k + together : depth - 1] + n);
    }
    SMALTI_UNROLL
    for (int r = 0; r < R; ++r)
      SMALTI_UNROLL
      for (int v = 0; v < count; ++v) write(&acc.v[r][n + v * lane_count], sum[r][v]);
  };
  const auto all = [&](auto gathered) __attribute__((always_inline)) {
    for (int first = 0; first < depth; first += together) {
      const int last = first + together < depth ? first + together : depth;
      int n = 0;
      for (; n + width <= round_up(b.live, lane_count); n += width) strip(std::integral_constant<int, vectors>{}, gathered, n, first, last);
      for (; n < b.live; n += lane_count) strip(std::integral_constant<int, 1>{}, gathered, n, first, last);
    }
  };
  if (b.gathered) all(std::true_type{});
  else all(std::false_type{});
}

}  // namespace smalti::inline SMALTI_CODE::host
