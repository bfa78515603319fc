// Which rows of the activations and of the result a block works on: a tile of one matrix, or a tile of one group of rows with
// the weights of its own (an expert's tokens, an adapter's).
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/core/segments.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! What a block works on: rows [row, row + rows) of the result, with the weights of `expert`; no rows, no work.
struct row_tile { int expert, row, rows, i = 0, j = 0; };

//! One weight for all rows.
struct one_matrix {
  static constexpr bool grouped = false, gathers = false, scatters = false;
  template <int M> SMALTI_HD static constexpr int tiles(int rows) { return ceil_div(rows, M); }
};

//! Rows in groups, one weight for each: block.x() counts the entries of a plan, which plan_row_tiles made of the groups'
//! offsets on the machine itself. Entries past the last tile have no rows.
struct row_groups {
  static constexpr bool grouped = true, gathers = false, scatters = false;
  const int* plan = nullptr;        //!< three numbers for each tile: group, first row, rows
  int entries = 0;
};
//! The same, with row r of the groups standing at row source[r] of the activations and going to row target[r] of the result.
//! A source must exist; negative targets are dropped.
struct mapped_row_groups {
  static constexpr bool grouped = true, gathers = true, scatters = true;
  const int* plan = nullptr;
  int entries = 0;
  view<const int, 1> source = {}, target = {};      //!< one column each
};
//! Gather alone: the result stays in the order of the groups.
struct gathered_row_groups {
  static constexpr bool grouped = true, gathers = true, scatters = false;
  const int* plan = nullptr;
  int entries = 0;
  view<const int, 1> source = {};
};
//! Scatter alone: the activations are in the order of the groups.
struct scattered_row_groups {
  static constexpr bool grouped = true, gathers = false, scatters = true;
  const int* plan = nullptr;
  int entries = 0;
  view<const int, 1> target = {};
};

//! The most tiles of M rows that groups can need: every group may waste a part of one.
constexpr int most_row_tiles(int rows, int groups, int m) { return rows / m + (groups < rows ? groups : rows); }

//! Makes the plan of groups: for each group in order its tiles of M rows, with what is left in the last. One block makes
//! `Wide` entries; it reads all offsets, and reads nothing else.
//! @note cost: groups x entries / Wide steps; a launch of its own before the product
template <class Offset, int Wide = 128> struct plan_row_tiles {
  struct arguments {
    const Offset* offsets;        //!< groups + 1
    int groups, m;                //!< rows of a tile
    view<int, 1> plan;            //!< three rows of `entries` numbers
  } a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.plan.cols, Wide), 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int first_entry = block.x() * Wide;
    row<Block, int, Wide> group, start, count;
    block.fill(group, -1);
    block.fill(start, 0);
    block.fill(count, 0);
    int tile = 0;
    Offset begin = block.number(a.offsets, 0);
    for (int g = 0; g < a.groups; ++g) {
      const Offset end = block.number(a.offsets, g + 1);
      const int rows = int(end - begin), tiles = ceil_div(rows, a.m), row0 = int(begin);
      if (tile + tiles > first_entry && tile < first_entry + Wide) {
        block.map([=](auto was, auto c) { return where(c + first_entry >= tile && c + first_entry < tile + tiles, g, was); }, group, group, column_index{});
        block.map([=, m = a.m](auto was, auto c) { return where(c + first_entry >= tile && c + first_entry < tile + tiles, (c + (first_entry - tile)) * m + row0, was); }, start, start,
                  column_index{});
        block.map([=, m = a.m](auto was, auto c) {
          const auto left = (c + (first_entry - tile)) * (-m) + rows;
          return where(c + first_entry >= tile && c + first_entry < tile + tiles, min(left, m), was);
        }, count, count, column_index{});
      }
      tile += tiles;
      begin = end;
    }
    block.store(a.plan, 0, block.x(), group);
    block.store(a.plan, 1, block.x(), start);
    block.store(a.plan, 2, block.x(), count);
  }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
