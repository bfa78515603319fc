// Columns of an operand as two tiles of numbers, and two tiles as one operand again, on the host: for what turns pairs of columns.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/core/float.hpp>
#include <smalti/tile/host/math.hpp>
#include <smalti/tile/host/pack.hpp>
#include <smalti/tile/host/panels.hpp>
#include <smalti/tile/host/unpack_rows.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::host {

namespace detail {

// Sixteen numbers to an operand's row, rounded to its type.
template <class T, class Storage> [[gnu::always_inline]] inline void put_numbers(Storage* out, floats x) {
  if constexpr (std::is_same_v<Storage, T>) {
    write(out, x);
  } else {
    alignas(64) T rounded[lane_count];
    write(rounded, x);
    write(out, read(rounded));
  }
}

//! The rows of two tiles side by side, or their numbers in turns, one row at a time. first: the operand's row that theirs begin with.
template <class T, class Way, class Tile> struct column_joiner {
  using storage = typename storage_of<T>::type;
  static constexpr int dim = 2 * Tile::cols;
  const Tile &x, &y;
  int first = 0;
  void operator()(storage* out, int row) const {
    const int r = row - first;
    for (int c = 0; c < Tile::cols; c += lane_count) {
      if constexpr (std::is_same_v<Way, column_pairs>) put_pairs<T>(out + 2 * c, read(&x.v[r][c]), read(&y.v[r][c]));
      else put_numbers<T>(out + c, read(&x.v[r][c])), put_numbers<T>(out + Tile::cols + c, read(&y.v[r][c]));
    }
  }
};

}  // namespace detail

//! x and y: the two halves of an operand's columns, or those of even and of odd numbers. Rows and columns that did not come from
//! memory are zero.
template <class Way, class T, int R, int K> void part_columns(array_tile<float, R, K / 2>& x, array_tile<float, R, K / 2>& y, const left_panel<T, R, K>& from) {
  using storage = typename left_panel<T, R, K>::storage;
  static_assert(K % (2 * lane_count) == 0, "smalti: the columns of an operand are parted in whole packs of 16: the head dim is a multiple of 32");
  for (int r = 0; r < R; ++r) {
    alignas(64) storage some[K];
    const storage* row = from.data + r * from.stride;
    if (r >= from.live || from.depth < K) {
      const int valid = r < from.live ? from.depth : 0;
      for (int c = 0; c < K; ++c) some[c] = c < valid ? row[c] : storage{};
      row = some;
    }
    for (int c = 0; c < K / 2; c += lane_count) {
      if constexpr (std::is_same_v<Way, column_halves>) {
        write(&x.v[r][c], read(row + c)), write(&y.v[r][c], read(row + K / 2 + c));
      } else if constexpr (std::is_same_v<storage, bf16>) {
        const ints words = read(reinterpret_cast<const int*>(row + 2 * c));
        write(&x.v[r][c], bits_float(words << 16)), write(&y.v[r][c], bits_float(words & ints(int(0xffff0000))));
      } else {
        for (int i = c; i < c + lane_count; ++i) x.v[r][i] = row[2 * i], y.v[r][i] = row[2 * i + 1];
      }
    }
  }
}

//! The other way round: rows of a left operand, or columns of a right one, those of part `part` where the tiles hold some of them.
template <class Way, class T, int R, int K, int P> void join_columns(left_panel<T, R, K>& t, const array_tile<float, P, K / 2>& x, const array_tile<float, P, K / 2>& y, int part = 0) {
  static_assert(R % P == 0, "smalti: parts of an operand have equally many rows");
  unpack_rows(t, detail::column_joiner<T, Way, array_tile<float, P, K / 2>>{x, y, part * P}, part * P, P);
}
template <class Way, class T, int K, int N, int P> void join_columns(right_panel<T, K, N>& t, const array_tile<float, P, K / 2>& x, const array_tile<float, P, K / 2>& y, int part = 0) {
  static_assert(N % P == 0 && P % lane_count == 0, "smalti: parts of a right operand are multiples of 16 columns");
  unpack_columns(t, detail::column_joiner<T, Way, array_tile<float, P, K / 2>>{x, y, part * P}, part * P, P);
}

}  // namespace smalti::inline SMALTI_CODE::host
