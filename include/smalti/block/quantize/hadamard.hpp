// The agent of the block Hadamard transform: each run of B elements of a row becomes H x / sqrt(B), H[i, j] = (-1)^(number of
// ones in i & j). As products on the matrix units: a chunk of H, made where it is used from the parities of the indices,
// times as many elements of each row. H is its own inverse and orthogonal, so that (x H)(w H)' = x w' for the rows of two
// operands; it spreads an outlier over its block.
#pragma once
#include <smalti/core/float.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::quantize {

struct hadamard_tuning {
  int m;                 //!< rows of x
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const hadamard_tuning&) const = default;
};

template <class X, class Y, int B, bool Wide>
struct hadamard_problem {
  using element = X;
  static constexpr int size = B, chunk = B < 64 ? 32 : 64;      // two blocks of 16 share a chunk
  template <class T> static constexpr int step = Wide ? step_of<T> : 1;
  struct arguments {
    view<const X, step<X>> x;
    view<Y, step<Y>> y;
  };
};

template <hadamard_tuning Tuning, class Problem>
struct hadamard_agent {
  using arguments = typename Problem::arguments;
  using element = typename Problem::element;
  static constexpr int m = Tuning.m, c = Problem::chunk, chunks = Problem::size <= c ? 1 : Problem::size / c, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments a;

  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.x.rows, m), ceil_div(a.x.cols, c), 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int first = block.x() * m, mine = block.y(), start = mine / chunks * chunks;
    tile<Block, float, c, m> acc;
    block.fill(acc, 0.0f);
    for (int j : block.steps(0, chunks)) {
      tile<Block, float, c, c> signs;
      block.map([row_origin = (mine - start) * c, column_origin = j * c](auto r, auto k) {
        auto both = (r + row_origin) & (k + column_origin) & (Problem::size - 1);
        both = both ^ (both >> 4);
        both = both ^ (both >> 2);
        both = both ^ (both >> 1);
        const auto sign = to_float(1 - (both & 1) * 2);
        if constexpr (Problem::size < c) return where((r ^ k) < Problem::size, sign, 0.0f);
        else return sign;
      }, signs, row_index{}, column_index{});
      left<Block, element, c, c> h;
      right<Block, element, c, m> x;
      block.as_left(h, signs);
      block.load(x, transposed(band(a.x, first, m)), mutant(defect::hadamard_first_chunk) ? start : start + j, 0);
      block.product(acc, h, x);
    }
    block.map([](auto sum) { return sum * (mutant(defect::hadamard_not_normalized) ? 1.0f : scale()); }, acc, acc);
    block.store(transposed(band(a.y, first, m)), mine, 0, acc);
  }

  // 1 / sqrt(B), rounded to float
  SMALTI_HD static constexpr float scale() {
    return Problem::size == 16 ? 0.25f : Problem::size == 32 ? 0.17677669529663687f : Problem::size == 64 ? 0.125f : Problem::size == 128 ? 0.08838834764831845f : 0.0625f;
  }
};

}  // namespace smalti::inline SMALTI_CODE::quantize
