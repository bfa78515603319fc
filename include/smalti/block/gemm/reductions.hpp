// Reductions of a product's result (policy/reduction.hpp): each block leaves one number for every column or row of its
// tile, and a second kernel combines those of all tiles, in their order: the bits do not depend on who was when.
#pragma once
#include <smalti/core/context.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/reduction.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! Where the parts of one reduction lie: a row for each tile across it, of each matrix; rows of whole vectors.
template <class Reduction> struct reduction_shape {
  int extent, parts, count;
  SMALTI_HD constexpr reduction_shape(int rows, int cols, int tile_rows, int tile_cols, int matrices)
      : extent(Reduction::of_columns ? cols : rows), parts(Reduction::of_columns ? tile_rows : tile_cols), count(matrices) {}
  SMALTI_HD constexpr int stride() const { return round_up(extent, 16); }
  SMALTI_HD constexpr long long floats() const { return static_cast<long long>(count) * parts * stride(); }
};

namespace detail {

template <bool Maximum, class Block, class Out, class Tile> SMALTI_HD void fold_rows(Block& block, Out& out, const Tile& t) {
  if constexpr (Maximum) block.row_max(out, t);
  else block.row_sum(out, t);
}
template <bool Maximum, class Block, class Out, class Tile> SMALTI_HD void fold_columns(Block& block, Out& out, const Tile& t) {
  if constexpr (Maximum) block.column_max(out, t);
  else block.column_sum(out, t);
}

}  // namespace detail

//! Leaves the parts of one tile of the result. Turned: the tile is the result's transpose.
//! @param here   the tile's place: its row and column of tiles, and which matrix of the batch
template <bool Turned, class Reduction, class Block, class Tile>
SMALTI_HD void reduce_tile(Block& block, const Tile& out, const reduction_shape<Reduction>& shape, float* parts, int rows, int cols, int i, int j, int matrix) {
  constexpr int high = Turned ? Tile::cols : Tile::rows, wide = Turned ? Tile::rows : Tile::cols;   // of the result
  constexpr bool down = Reduction::of_columns != Turned;                                           // the tile's columns are reduced
  constexpr int numbers = Reduction::of_columns ? wide : high;
  tile<Block, float, Tile::rows, Tile::cols> inside;
  block.map([row_end = mutant(defect::reduction_takes_padding) ? high : rows - i * high, column_end = cols - j * wide](auto v, auto r, auto c) {
    if constexpr (Turned) return where(c < row_end && r < column_end, Reduction::prepared(v), 0.0f);
    else return where(r < row_end && c < column_end, Reduction::prepared(v), 0.0f);
  }, inside, out, row_index{}, column_index{});
  const int across = Reduction::of_columns ? i : j, along = Reduction::of_columns ? j : i;
  const view<float> all{parts, shape.count * shape.parts, shape.stride(), shape.stride()};
  const int line = (mutant(defect::reduction_of_first_matrix) ? 0 : matrix) * shape.parts + (mutant(defect::reduction_keeps_last_tile) ? 0 : across);
  if constexpr (down) {
    row<Block, float, numbers> folded;
    detail::fold_columns<Reduction::maximum>(block, folded, inside);
    block.store(all, line, along, folded);
  } else {
    column<Block, float, numbers> folded;
    detail::fold_rows<Reduction::maximum>(block, folded, inside);
    block.store_column(all, line, along, folded);
  }
}

//! Combines the parts: result[matrix][e] = parts of e, in the order of the tiles.
template <bool Maximum> struct combine_reduction {
  struct arguments {
    const float* parts;
    int count, lines, stride;       // lines of parts of each matrix
    view<float, 1> result;          // a row for each matrix
  };
  static constexpr int m = 16, n = 128;
  arguments a;

  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.result.cols, n), a.count, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const view<const float> mine{a.parts + static_cast<long long>(block.y()) * a.lines * a.stride, a.lines, a.stride, a.stride};
    tile<Block, float, m, n> all, t;
    block.fill(all, 0.0f);
    for (int step : block.steps(0, ceil_div(a.lines, m))) {
      block.load(t, mine, step, block.x());               // zero outside: adds nothing, and no magnitude is less
      block.map([](auto x, auto y) {
        if constexpr (Maximum) return max(x, y);
        else return x + y;
      }, all, all, t);
    }
    row<Block, float, n> result;
    detail::fold_columns<Maximum>(block, result, all);
    block.store(a.result, block.y(), block.x(), result);
  }
};
template <bool Maximum> struct combine_reduction_kernel {
  using arguments = typename combine_reduction<Maximum>::arguments;
  template <target> using agent = combine_reduction<Maximum>;
};

}  // namespace smalti::inline SMALTI_CODE::gemm
