// How the host machine fills panels and tiles from memory: rows are found through a functor, so that a tile of
// a matrix and a gather of rows are the same code, and everything outside the matrix is zero.
#pragma once
#include <cstring>
#include <smalti/tile/host/pack.hpp>
#include <smalti/tile/host/panels.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::host {

//! The address of element (r, c) of a matrix, null outside. 64-bit arithmetic: the matrix may be any size.
template <class S, int Step> S* address(const view<S, Step>& m, std::int64_t r, std::int64_t c) {
  const bool row_there = r >= 0 && r < m.rows + (mutant(defect::address_past_last_row) ? 1 : 0);
  const bool column_there = c >= 0 && (c < m.cols || mutant(defect::address_past_last_column));
  return row_there && column_there ? m.data + r * m.stride + c : nullptr;
}
// how many of `width` elements from column `first` on lie inside a matrix of `cols` columns
constexpr int inside(std::int64_t cols, std::int64_t first, int width) {
  return cols <= first ? 0 : cols - first < width ? int(cols - first) + (mutant(defect::inside_counts_one_more) ? 1 : 0) : width;
}

//! Left panel: row r of the panel from row(r), `valid` elements of each, the rest zero.
template <class T, int R, int K, class Row> void fill_left(left_panel<T, R, K>& t, int valid, Row row) {
  t.data = &t.own[0][0];
  t.stride = K;
  t.across = false;
  t.live = 0;
  t.depth = valid;
  const int width = round_up(valid, lane_count) < K ? round_up(valid, lane_count) : K;
  for (int r = 0; r < R; ++r) {
    auto* p = row(r);
    fetch(t.own[r], p, p ? valid : 0, width);
    if (p) t.live = r + (mutant(defect::left_loses_last_row) ? 0 : 1);
  }
}

namespace detail {

// Two rows of 16-bit elements, or of pairs of bytes, as words: of even columns, and of odd ones.
using line_words = std::uint32_t __attribute__((vector_size(64)));
using line_shorts = std::uint16_t __attribute__((vector_size(64)));
inline line_words even_pairs(line_words a, line_words b) { return (a & 0xffffu) | b << 16; }
inline line_words odd_pairs(line_words a, line_words b) { return a >> 16 | (b & 0xffff0000u); }
inline line_words even_bytes(line_words a, line_words b) { return (line_words)(((line_shorts)a & std::uint16_t(0xff)) | (line_shorts)b << 8); }
inline line_words odd_bytes(line_words a, line_words b) { return (line_words)((line_shorts)a >> 8 | ((line_shorts)b & std::uint16_t(0xff00))); }

// 64 bytes of each of `per_word` rows: word i of out[p] is their column per_word i + p.
template <int per_word> inline void join_rows(line_words (&out)[per_word], const void* const* rows) {
  line_words in[per_word];
  for (int i = 0; i < per_word; ++i) std::memcpy(&in[i], rows[i], 64);
  if constexpr (per_word == 2) {
    out[0] = even_pairs(in[0], in[1]), out[1] = odd_pairs(in[0], in[1]);
  } else {
    const line_words even_low = even_bytes(in[0], in[1]), even_high = even_bytes(in[2], in[3]), odd_low = odd_bytes(in[0], in[1]), odd_high = odd_bytes(in[2], in[3]);
    out[0] = even_pairs(even_low, even_high), out[1] = even_pairs(odd_low, odd_high);
    out[2] = odd_pairs(even_low, even_high), out[3] = odd_pairs(odd_low, odd_high);
  }
}

}  // namespace detail

//! Left panel from rows of k, `row(k)` for k < `depth`, the first `valid` of their elements: the panel's rows lie across
//! them. 64 bytes of `per_word` neighbouring rows become words, and sixteen by sixteen words are transposed in registers.
//! Whole rows are walked while those of the next block are fetched ahead: neighbouring ones are pages apart, which the
//! processor does not foresee (1024^2 float from the third-level cache: 0.5 ms, without it 1.5). The rest of the last word is zero.
template <class Panel, int Line, class Row> void fill_left_transposed(typename Panel::storage (&out)[Panel::rows][Line], int valid, int depth, Row row) {
  using storage = typename Panel::storage;
  constexpr int per_word = Panel::per_word, block = lane_count * per_word, across = 64 / int(sizeof(storage));
  using source = std::remove_cv_t<std::remove_pointer_t<decltype(row(0))>>;
  for (int k = 0; k < depth; k += block) {
    const int deep = round_up(depth - k < block ? depth - k : block, per_word);
    for (int r = 0; r < valid; r += across) {
      const int high = valid - r < across ? valid - r : across;
      alignas(64) storage some[block][across];
      const void* from[block];
      for (int h = 0; h < block; ++h) {
        auto* p = k + h < depth ? row(k + h) : nullptr;
        from[h] = some[h];
        if (std::is_same_v<source, storage> && p && high == across) from[h] = p + r;
        else fetch(some[h], p ? p + r : p, p ? high : 0, across);
        if (const auto* next = row(k + block + h)) __builtin_prefetch(next + r, 0, 2);   // to the second level: in the first one these lines share a set
      }
      [[maybe_unused]] alignas(64) detail::line_words words[per_word][per_word == 1 ? 1 : lane_count];
      if constexpr (per_word > 1)
        for (int i = 0; i < lane_count; ++i) {
          detail::line_words joined[per_word];
          detail::join_rows<per_word>(joined, from + i * per_word);
          for (int p = 0; p < per_word; ++p) words[p][i] = joined[p];
        }
      for (int p = 0; p < per_word; ++p) {
        const void* lines[lane_count];
        for (int i = 0; i < lane_count; ++i) {
          if constexpr (per_word == 1) lines[i] = from[i];
          else lines[i] = &words[p][i];
        }
        if (high == across && deep == block) {
          transpose_words(&out[r + p][k], Line, lines);           // to every per_word-th row
        } else {
          alignas(64) storage turned[lane_count][block];
          transpose_words(turned, lane_count, lines);
          for (int i = 0; i < lane_count && per_word * i + p < high; ++i)
            std::memcpy(static_cast<void*>(&out[r + per_word * i + p][k]), turned[i], std::size_t(deep) * sizeof(storage));
        }
      }
    }
  }
}

//! Left panel across: sixteen rows of the panel, all k of them, then the next; from rows of k, `row(k)` for k < `depth`, the first `valid` of their elements.
//! Those 32 rows on are fetched ahead: they are pages apart. So are the lines that are written, if the panel is kept. (1024^2 floats in panels of
//! 96 rows, one thread, in turns: 0.5 ms where caches hold the panels, else 1.0; turned 1.6.)
template <class Panel, class Row> void fill_left_across(typename Panel::storage (&out)[Panel::rows][Panel::cols], int valid, int depth, Row row) {
  auto* const first = &out[0][0];
  for (int k = 0; k < depth; ++k) {
    const auto* from = row(k);
    if (const auto* next = row(k + 32))
      for (int r = 0; r < valid; r += 64 / int(sizeof(*next))) __builtin_prefetch(next + r, 0, 2);
    int r = 0;
    for (; r + lane_count <= valid; r += lane_count) {
      auto* const to = first + std::int64_t(r) * Panel::cols + k * lane_count;
      if (k + 16 < depth) __builtin_prefetch(to + 16 * lane_count, 1, 2);
      fetch(to, from + r, lane_count, lane_count);
    }
    if (r < valid) fetch(first + std::int64_t(r) * Panel::cols + k * lane_count, from + r, valid - r, lane_count);
  }
}

//! Right panel from rows of K: `per_word` neighbouring rows are interleaved. The first `depth` rows, `valid` elements
//! of each; the rest of the words they fill is zero.
template <class Panel, class Row> void fill_right(typename Panel::array& out, int depth, int valid, Row row) {
  using storage = typename Panel::storage;
  constexpr int per_word = Panel::per_word;
  const auto each_strip = [&](auto work) {            // work(first column, columns), whole packs of them
    for (int n = 0; n < valid; n += Panel::strip) work(n, round_up(valid - n < Panel::strip ? valid - n : Panel::strip, lane_count));
  };
  for (int k = 0; k < depth; k += per_word) {
    if constexpr (per_word == 1) {
      auto* p = row(k);
      if (const auto* next = k + 4 < depth ? row(k + 4) : nullptr)                  // rows lie pages apart: the processor does not foresee the next one
        for (int n = 0; n < valid; n += 64 / int(sizeof(*next))) __builtin_prefetch(next + n, 0, 2);
      each_strip([&](int n, int width) { fetch(Panel::at(out, k, n), p ? p + n : p, p ? (valid - n < width ? valid - n : width) : 0, width); });
    } else {
      alignas(64) storage some[per_word][Panel::cols];
      const storage* from[per_word];
      for (int h = 0; h < per_word; ++h) {
        auto* p = row(k + (mutant(defect::right_rows_swapped) ? per_word - 1 - h : h));
        from[h] = some[h];
        if constexpr (std::is_same_v<std::remove_cv_t<std::remove_pointer_t<decltype(p)>>, storage>)
          if (p && valid % lane_count == 0) {              // interleaved from where it lies
            from[h] = p;
            continue;
          }
        fetch(some[h], p, p ? valid : 0, round_up(valid, lane_count));
      }
      each_strip([&](int n, int width) {
        if constexpr (per_word == 2) interleave_pairs(Panel::at(out, k, n), from[0] + n, from[1] + n, width);
        else interleave_quads(Panel::at(out, k, n), from[0] + n, from[1] + n, from[2] + n, from[3] + n, width);
      });
    }
  }
}

//! Right panel from columns: the first `width` columns of the panel from column(n), `valid` of their K elements, the
//! rest of the blocks they fill is zero. Sixteen columns of 16 words at a time are transposed in registers, and those of the
//! next block fetched ahead.
template <class Panel, class Column> void fill_right_transposed(typename Panel::array& out, int width, int valid, Column column) {
  using storage = typename Panel::storage;
  constexpr int K = Panel::rows, block = lane_count * Panel::per_word;        // elements of one 16-word row
  static_assert(K % block == 0, "smalti: a transposed right operand is packed in blocks of 16 words of k: choose a larger k tile");
  using source = std::remove_cv_t<std::remove_pointer_t<decltype(column(0))>>;
  const int depth = round_up(valid, block) < K ? round_up(valid, block) : K;
  for (int n = 0; n < width; n += lane_count) {
    const storage* from[lane_count];
    alignas(64) storage some[lane_count][K];
    bool direct = std::is_same_v<source, storage> && (valid == K || mutant(defect::right_columns_read_past_k));
    for (int i = 0; i < lane_count; ++i) direct = direct && column(n + i) != nullptr;
    if constexpr (std::is_same_v<source, storage>)
      if (direct)
        for (int i = 0; i < lane_count; ++i) from[i] = column(n + i);
    if (!direct)
      for (int i = 0; i < lane_count; ++i) {
        auto* p = column(n + i);
        fetch(some[i], p, p ? valid : 0, depth);
        from[i] = some[i];
      }
    const source* ahead[lane_count];
    for (int i = 0; i < lane_count; ++i) ahead[i] = Panel::cols > lane_count && n + lane_count < width ? column(n + lane_count + i) : nullptr;
    for (int k = 0; k < depth; k += block) {
      const void* rows[lane_count];
      for (int i = 0; i < lane_count; ++i) {
        rows[i] = from[i] + k;
        if (ahead[i] && k < valid) __builtin_prefetch(ahead[i] + k, 0, 2);
      }
      transpose_words(Panel::at(out, k, n), Panel::strip, rows);
    }
  }
}

//! Plain tiles: floats and ints, any memory type.
template <class T, class S> void fill_row(T* out, const S* from, int valid, int width) {
  int c = 0;
  if (from)
    for (; c + lane_count <= valid; c += lane_count) write(out + c, read(from + c));
  if (from && c < valid) {
    write(out + c, mutant(defect::tile_tail_not_zero) ? read(from + c) : read(from + c, valid - c));   // zeros behind the last one
    c += lane_count;
  }
  for (; c < width; c += lane_count) write(out + c, lanes<T>(T{}));
}

//! `valid` values to memory, rounding to the element of the memory.
template <class S, class T> void put(S* to, const T* from, int valid) {
  int c = 0;
  for (; c + lane_count <= valid; c += lane_count) write(to + c, read(from + c));
  if (c < valid) write(to + c, read(from + c), valid - c + (mutant(defect::put_one_more) ? 1 : 0));
}

}  // namespace smalti::inline SMALTI_CODE::host
