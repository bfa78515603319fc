// In which order the tiles of a product are made. Blocks that run at the same time then read few strips of the operands:
// with `group` rows of tiles together, B blocks share about group strips of A and B / group of B, instead of B and one.
#pragma once
#include <smalti/core/context.hpp>
#include <smalti/core/version.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

struct tile_place { int row, column; };

//! Tile `number` of rows x columns of them: down the first column of the first `group` rows of tiles, down the next
//! column, and so on, then the next `group` rows; the last ones may be fewer. A group of 0, or of all rows, is plain
//! column order. Every tile has one number in [0, rows columns).
//!
//! @pre  0 <= number < rows columns
SMALTI_HD constexpr tile_place place_of_tile(int number, int rows, int columns, int group) {
  // one expression and no branch: a structure that two branches make is kept in memory by the tile compiler
  const int deep = group <= 0 ? rows : group < rows ? group : rows;
  const int band = deep * columns, first = number / band * deep, inside = number % band;
  const int high = rows - first < deep && !mutant(defect::last_group_is_whole) ? rows - first : deep;
  return {first + inside % high, inside / high};
}

//! Whether a target's compiler makes a good kernel of a loop over tiles around the loop over k. For sm_80 and sm_89 it unrolls
//! both into one pipeline, which spills whatever the tile: there a persistent kernel is one block a tile.
SMALTI_HD constexpr bool loops_over_tiles(target t) { return t != target::sm80 && t != target::sm89; }

}  // namespace smalti::inline SMALTI_CODE::gemm
