// Which rows of the activations and of the result a block works on: a tile of one matrix, or a tile of one group of rows with
// the weights of its own (an expert's tokens, an adapter's).
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/block/gemm/scales.hpp>
#include <smalti/core/segments.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! What a block works on: rows [row, row + rows) of the result, with the weights of `expert`; no rows, no work.
//! Groups along k: the columns [first_k, last_k) of matrix `group`.
struct row_tile { int expert, row, rows, i = 0, j = 0, group = 0, first_k = 0, last_k = 0; };

//! One weight for all rows.
struct one_matrix {
  static constexpr bool grouped = false, along_k = false, gathers = false, scatters = false, named = false;
  template <int M> SMALTI_HD static constexpr int tiles(int rows) { return ceil_div(rows, M); }
};

//! Rows in groups, one weight for each: a block's row of tiles counts the entries of a plan, which plan_row_tiles made of the
//! groups' offsets on the machine itself. Entries past the last tile have no rows.
//! @tparam Gathers   row r of the groups stands at row source[r] of the activations, which must exist
//! @tparam Scatters  it goes to row target[r] of the result, or nowhere where that is negative
//! @tparam Named     group g takes weight weight[g], or is left out where that is negative; else weight g
template <bool Gathers, bool Scatters, bool Named = false> struct groups_of_rows {
  static constexpr bool grouped = true, along_k = false, gathers = Gathers, scatters = Scatters, named = Named;
  const int* plan = nullptr;        //!< three numbers for each tile: group, first row, rows
  int entries = 0;
  optional_member<Gathers, view<const int, 1>, 11> source = {};      //!< one column each
  optional_member<Scatters, view<const int, 1>, 12> target = {};
  optional_member<Named, const int*, 13> weight = {};
};
using row_groups = groups_of_rows<false, false>;
using mapped_row_groups = groups_of_rows<true, true>;
using gathered_row_groups = groups_of_rows<true, false>;      //!< the result stays in the order of the groups
using scattered_row_groups = groups_of_rows<false, true>;     //!< the activations are in the order of the groups

//! Groups along k: matrix g of the result is the product of the rows [first[g], last[g]) of both operands, zero where there are
//! none: the gradients of grouped weights.
//! @tparam Gathers  row r of the second operand is row source[r] of its matrix
template <class Offset, bool Gathers> struct groups_of_depth {
  static constexpr bool grouped = false, along_k = true, gathers = Gathers, scatters = false, named = false;
  const Offset *first = nullptr, *last = nullptr;
  optional_member<Gathers, const int*, 11> source = {};
};

//! The most tiles of M rows that groups can need: every group may waste a part of one.
constexpr int most_row_tiles(int rows, int groups, int m) { return rows / m + (groups < rows ? groups : rows); }

//! Makes the plan of groups: for each group in order its tiles of M rows, with what is left in the last. One block makes
//! `Wide` entries; it reads all bounds, and reads nothing else.
//! @note cost: groups x entries / Wide steps; a launch of its own before the product
template <class Offset, int Wide = 128> struct plan_row_tiles {
  struct arguments {
    const Offset *first, *last;   //!< group g has the rows [first[g], last[g])
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
    for (int g = 0; g < a.groups; ++g) {
      const Offset begin = block.number(a.first, g), end = block.number(a.last, g);
      const int rows = int(end - begin), tiles = ceil_div(rows, a.m), row0 = mutant(defect::plan_begins_at_first_row) ? 0 : int(begin);
      if (tile + tiles > first_entry && tile < first_entry + Wide) {
        block.map([=](auto was, auto c) { return where(c + first_entry >= tile && c + first_entry < tile + tiles, g, was); }, group, group, column_index{});
        block.map([=, m = a.m](auto was, auto c) { return where(c + first_entry >= tile && c + first_entry < tile + tiles, (c + (first_entry - tile)) * m + row0, was); }, start, start,
                  column_index{});
        block.map([=, m = a.m](auto was, auto c) {
          const auto left = (c + (first_entry - tile)) * (-m) + rows;
          return where(c + first_entry >= tile && c + first_entry < tile + tiles, mutant(defect::plan_last_tile_whole) ? min(left * 0 + m, m) : min(left, m), was);
        }, count, count, column_index{});
      }
      tile += tiles;
    }
    block.store(a.plan, 0, block.x(), group);
    block.store(a.plan, 1, block.x(), start);
    block.store(a.plan, 2, block.x(), count);
  }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
