// The host machine's memory words for plain tiles: what a block loads and stores besides the operands of products.
#pragma once
#include <atomic>
#include <cstdint>
#include <smalti/tile/host/fill.hpp>
#include <smalti/tile/host/stream.hpp>
#include <smalti/tile/host/pack.hpp>
#include <smalti/tile/host/unpack.hpp>
#include <smalti/tile/host/unpack_rows.hpp>
#include <smalti/tile/host/values.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::host {

//! None of these knows which block it serves.
struct plain_memory {
  // ---- memory: rows that are used where they lie
  template <class S, int N, int C, class From, int Step> static void load(row_pointers<S, N, C>& t, const view<From, Step>& m, int i, int j) {
    for (int r = 0; r < N; ++r) t.at[r] = address(m, std::int64_t(i) * N + r, std::int64_t(j) * C);
  }
  template <class S, int N, int C, class From, int Step, class Rows> static void load_rows(row_pointers<S, N, C>& t, const view<From, Step>& m, const Rows& rows, int j) {
    for (int r = 0; r < N; ++r) t.at[r] = address(m, rows.v[r], std::int64_t(j) * C);
  }

  // ---- memory: plain tiles
  template <class T, int R, int C, class S, int Step> static void load(array_tile<T, R, C>& t, const view<S, Step>& m, int i, int j) {
    // Whole rows of a narrow matrix lie one after another: a panel of scales, read in order, but a little between two pieces of codes and so
    // too slowly for the processor to foresee. (Decode of SmolLM2-135M in Q4_1, with the next panel's codes: 90 tokens/s became 94.) Of long panels it
    // foresees them, and asking costs: one row of Q4_0 by 4,096 x 4,096 has 0.82 of the read bandwidth with it and 0.88 without.
    if (m.stride == C && m.cols == C && m.rows <= 64) {
      const std::uintptr_t later = reinterpret_cast<std::uintptr_t>(m.data) + (std::uintptr_t(i) + 2) * (R * C * sizeof(S));      // perhaps past the end: asked for, never read
      for (std::uintptr_t at = 0; at < R * C * sizeof(S); at += 64) __builtin_prefetch(reinterpret_cast<const void*>(later + at));
    }
    for (int r = 0; r < R; ++r)
      fill_row(t.v[r], address(m, std::int64_t(i) * R + r, std::int64_t(j) * C), inside(m.cols, std::int64_t(j) * C, C), C);
  }
  template <class T, int R, int C, class S, int Step>
  static void load(array_tile<T, R, C>& t, const transposed_view<view<S, Step>>& m, int i, int j) {
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) {
        const std::int64_t row = std::int64_t(j) * C + c, column = std::int64_t(i) * R + r;
        t.v[r][c] = element<T>(mutant(defect::tile_turn_forgotten) ? address(m.of, column, row) : address(m.of, row, column));
      }
  }
  template <class T, int C, class S, int Step> static void load(array_row<T, C>& t, const view<S, Step>& m, int i, int j) {
    fill_row(t.v, address(m, i, std::int64_t(j) * C), inside(m.cols, std::int64_t(j) * C, C), C);
  }
  template <class T, int R, class S, int Step> static void load(array_column<T, R>& t, const view<S, Step>& m, int i, int j) {
    for (int r = 0; r < R; ++r) t.v[r] = element<T>(address(m, std::int64_t(i) * R + r, j));
  }
  template <class T, int R, class S, int Step>
  static void load(array_column<T, R>& t, const transposed_view<view<S, Step>>& m, int i, int j) {
    for (int r = 0; r < R; ++r) t.v[r] = element<T>(address(m.of, j, std::int64_t(i) * R + r));
  }
  template <class T, int R, int C, class S, int Step, class Rows>
  static void load_rows(array_tile<T, R, C>& t, const view<S, Step>& m, const Rows& rows, int j) {
    constexpr int ahead = 8;                           // rows: the processor does not foresee a gather
    for (int r = 0; r < R; ++r) {
      if (const S* next = r + ahead < R ? address(m, rows.v[r + ahead], std::int64_t(j) * C) : nullptr)
        for (int c = 0; c < C; c += 64 / int(sizeof(S))) __builtin_prefetch(next + c);
      fill_row(t.v[r], address(m, rows.v[r] + (mutant(defect::gather_one_row_late) ? 1 : 0), std::int64_t(j) * C), inside(m.cols, std::int64_t(j) * C, C), C);
    }
  }
  template <class T, int R, int C, class S, int Step, class Rows>
  static void load_rows(array_tile<T, R, C>& t, const transposed_view<view<S, Step>>& m, const Rows& rows, int i) {
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) t.v[r][c] = element<T>(address(m.of, rows.v[c], std::int64_t(i) * R + r));
  }
  template <int R, int G, class S, int Step> static void load(factor_array<R, G>& t, const view<S, Step>& m, int i, int j) {
    for (int g = 0; g < G; ++g)
      for (int r = 0; r < t.padded; ++r) t.v[g][r] = r < R ? element<float>(address(m, std::int64_t(i) * R + r, std::int64_t(j) * G + g)) : 0.0f;
  }
  template <int R, int G, class S, int Step> static void load(factor_array<R, G>& t, const transposed_view<view<S, Step>>& m, int i, int j) {
    for (int g = 0; g < G; ++g) fill_row(t.v[g], address(m.of, std::int64_t(j) * G + g, std::int64_t(i) * R), inside(m.of.cols, std::int64_t(i) * R, R), t.padded);
  }
  template <class T> static T number(const T* memory, int i) { return memory[i]; }
  template <int N, int Words, int Step>
  static void load(packed_words<N, Words>& t, const stack<const std::uint32_t, Step>& panels, int g, int j) {
    const int first = g * Words, left = panels.rows - first;
    t.data = panels[j].data + std::int64_t(first) * panels.stride;
    t.stride = panels.stride;
    t.rows = left < 0 ? 0 : left < Words ? left : Words;
  }

  template <class S, int Step, class T, int R, int C> static void store(const view<S, Step>& m, int i, int j, const array_tile<T, R, C>& t) {
    const int high = inside(m.rows, std::int64_t(i) * R, R), wide = inside(m.cols, std::int64_t(j) * C, C);
    constexpr int ahead = 4, line = 64 / int(sizeof(S));      // rows are pages apart: the processor does not foresee the next ones (1024^3 floats: 3 %)
    for (int r = 0; r < high; ++r) {
      if (S* p = r + ahead < high ? address(m, std::int64_t(i) * R + r + ahead, std::int64_t(j) * C) : nullptr)
        for (int c = 0; c < wide; c += line) __builtin_prefetch(p + c, 1, 2);
      if (S* p = address(m, std::int64_t(i) * R + r + (mutant(defect::store_one_row_late) ? 1 : 0), std::int64_t(j) * C)) put(p, t.v[r], wide);
    }
  }
  template <class S, int Step, class T, int R, int C>
  static void store(const transposed_view<view<S, Step>>& m, int i, int j, const array_tile<T, R, C>& t) {
    const int high = mutant(defect::store_turned_unmasked) ? R : inside(m.of.cols, std::int64_t(i) * R, R), wide = inside(m.of.rows, std::int64_t(j) * C, C);
    for (int c = 0; c < wide; c += lane_count)
      for (int r = 0; r < high; r += lane_count) {           // sixteen rows of sixteen values, turned in registers
        const void* rows[lane_count];
        alignas(64) T turned[lane_count][lane_count];
        for (int h = 0; h < lane_count; ++h) rows[h] = &t.v[r + h < R ? r + h : R - 1][c];
        transpose_words(turned, lane_count, rows);
        for (int h = 0; h < lane_count && c + h < wide; ++h)
          put(m.of.data + (std::int64_t(j) * C + c + h) * m.of.stride + std::int64_t(i) * R + r, turned[h], high - r < lane_count ? high - r : lane_count);
      }
  }
  template <class S, int Step, class T, int R> static void store(const view<S, Step>& m, int i, int j, const array_column<T, R>& t) {
    for (int r = 0; r < inside(m.rows, std::int64_t(i) * R, R); ++r)
      if (S* p = address(m, std::int64_t(i) * R + r, j)) *p = single<S>(t.v[r]);
  }
  template <class S, int Step, class T, int C> static void store(const view<S, Step>& m, int i, int j, const array_row<T, C>& t) {
    if (S* p = address(m, i, std::int64_t(j) * C)) put(p, t.v, inside(m.cols, std::int64_t(j) * C, C));
  }
  template <class S, int Step, class Tile> static void store(const stack<S, Step>& m, int n, int i, int j, const Tile& t) { store(m[n], i, j, t); }
  template <class S, int Step, class Tile>
  static void store(const transposed_view<stack<S, Step>>& m, int n, int i, int j, const Tile& t) {
    store(transposed(m.of[n]), i, j, t);
  }
  template <class S, int Step, class Tile> static void store(const stacks<S, Step>& m, int o, int n, int i, int j, const Tile& t) { store(m.at(o, n), i, j, t); }
  template <int Step, class T, int R> static void store_column(const view<float, Step>& m, int n, int i, const array_column<T, R>& t) {
    if (float* p = address(m, mutant(defect::store_column_of_first) ? 0 : n, std::int64_t(i) * R)) put(p, t.v, inside(m.cols, std::int64_t(i) * R, R));
  }
  template <class S, int Step, class Rows, class T, int R, int C>
  static void store_rows(const view<S, Step>& m, const Rows& rows, int j, const array_tile<T, R, C>& t) {
    for (int r = 0; r < R; ++r)
      if (S* p = address(m, mutant(defect::store_rows_writes_skipped) && rows.v[r] < 0 ? 0 : rows.v[r], std::int64_t(j) * C)) put(p, t.v[r], inside(m.cols, std::int64_t(j) * C, C));
  }
  template <class S, int Step, class Rows, class T, int R>
  static void store_rows(const view<S, Step>& m, const Rows& rows, int j, const array_column<T, R>& t) {
    for (int r = 0; r < R; ++r)
      if (S* p = address(m, rows.v[r], j)) *p = single<S>(t.v[r]);
  }
  template <class S, int Step, class Rows, class T, int R, int C>
  static void store_rows(const transposed_view<view<S, Step>>& m, const Rows& rows, int j, const array_tile<T, R, C>& t) {
    for (int c = 0; c < C; ++c)
      for (int r = 0; r < R; ++r)
        if (S* p = address(m.of, rows.v[c], std::int64_t(j) * R + r)) *p = single<S>(t.v[r][c]);
  }
  // From memory to memory, past the caches. What a gather waits for is memory: many rows are asked for ahead, into the second level, since the first has
  // few lines on their way at once; and neighbours are not taken one after another: else the processor takes a gather for a stream and reads the rows
  // between as well (measured: a quarter of 32,768 rows of 256 bytes, 4.7 ms in order, 3.7 eight apart; 5.4 with neither).
  // Rows that are as wide as the type says are copied by a loop whose length the compiler knows (measured: 4.1 ms, 4.4 where it does not, lists and tables
  // included).
  template <int C, class S, int Step, class From, int FromStep, int R>
  static void copy_rows(const view<S, Step>& to, const array_column<int, R>& target, const view<From, FromStep>& from, const array_column<int, R>& source, int j) {
    constexpr int whole = C * int(sizeof(S));
    const int wide = inside(to.cols, std::int64_t(j) * C, C);
    if (whole <= 1024 && wide == C) copy_rows_of<C, whole <= 1024 ? whole : 0>(to, target, from, source, j, wide);
    else copy_rows_of<C, 0>(to, target, from, source, j, wide);
  }
  template <int C, int Known, class S, int Step, class From, int FromStep, int R>
  static void copy_rows_of(const view<S, Step>& to, const array_column<int, R>& target, const view<From, FromStep>& from, const array_column<int, R>& source, int j, int wide) {
    constexpr int ahead = 48, apart = R % 8 == 0 && R >= 512 ? 8 : 1, run = R / apart;
    const int bytes = Known > 0 ? Known : wide * int(sizeof(S));
    for (int i = 0; i < R; ++i) {
      const int r = i % run * apart + i / run, next = (i + ahead) % run * apart + (i + ahead) / run;
      if (const From* asked = i + ahead < R && target.v[next] >= 0 ? address(from, source.v[next], std::int64_t(j) * C) : nullptr)
        for (int b = 0; b < bytes && b < 1024; b += 64) __builtin_prefetch(reinterpret_cast<const char*>(asked) + b, 0, 2);
      S* p = address(to, mutant(defect::store_rows_writes_skipped) && target.v[r] < 0 ? 0 : target.v[r], std::int64_t(j) * C);
      if (p != nullptr) stream_copy(p, address(from, source.v[r] + (mutant(defect::gather_one_row_late) ? 1 : 0), std::int64_t(j) * C), std::size_t(bytes));
    }
    stream_end();
  }
  template <class S, int Step, int R, int C>
  static void scatter(const view<S, Step>& m, int i, const array_tile<int, R, C>& place, const array_tile<int, R, C>& keep, const array_tile<int, R, C>& t) {
    for (int r = 0; r < inside(m.rows, std::int64_t(i) * R, R); ++r)
      for (int c = 0; c < C; ++c)
        if (keep.v[r][c] || mutant(defect::scatter_ignores_keep))
          if (S* p = address(m, std::int64_t(i) * R + r, place.v[r][c] - 1)) *p = t.v[r][c];
  }
  template <int Step, int R, int C> static void accumulate(const view<float, Step>& m, int i, int j, const array_tile<float, R, C>& t) {
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c)
        if (float* p = address(m, std::int64_t(i) * R + r, std::int64_t(j) * C + c))
          std::atomic_ref<float>(*p).fetch_add(mutant(defect::accumulate_overwrites) ? t.v[r][c] - *p : t.v[r][c], std::memory_order_relaxed);
  }
  template <int Step, class Tile> static void accumulate(const stack<float, Step>& m, int n, int i, int j, const Tile& t) { accumulate(m[n], i, j, t); }
  static int arrive(int* counter) {
    const std::memory_order both = mutant(defect::arrive_without_order) ? std::memory_order_relaxed : std::memory_order_acq_rel;
    return std::atomic_ref<int>(*counter).fetch_add(1, both) + (mutant(defect::arrive_returns_new_value) ? 1 : 0);
  }

protected:
  template <class T, class S> static T element(const S* p) {
    return p ? read(p, 1)[0] : T{};
  }
  template <class S, class T> static S single(T x) {
    S s;
    write(&s, lanes<T>(x), 1);
    return s;
  }
};

}  // namespace smalti::inline SMALTI_CODE::host
