// The agent that moves rows of 32-bit words by two lists: row target[i] of one matrix becomes row source[i] of another.
// What the words mean is not its business: with pages as rows it copies and swaps pages of any storage. One block takes
// `m` rows and `c` words of each.
#pragma once
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::cache {

struct move_tuning {
  int m, c;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const move_tuning&) const = default;
};

struct move_rows_arguments {
  stack<const int> from;                  //!< [layer][row][words]
  stack<int> to;                          //!< no row of it is read: the two do not overlap, or source and target share no row
  const int* source;                      //!< `count` rows of from; null: row i
  const int* target;                      //!< `count` rows of to, all different; null: row i. Negative: not moved
  int count;
};

template <move_tuning Tuning>
struct move_rows_agent {
  using arguments = move_rows_arguments;
  static constexpr int m = Tuning.m, c = Tuning.c, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;

  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.count, m), ceil_div(x.from.cols, c), x.from.count}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), j = block.y(), layer = block.z();
    column<Block, int, m> from, to;
    listed(block, from, x.source, x.count, i, x.from.rows);
    listed(block, to, x.target, x.count, i, x.to.rows);
    // A gather is not masked: what is not moved reads a row that exists.
    block.map([=, count = x.count, rows = x.from.rows](auto r, auto a, auto b) { return where(r + i * m < count && a >= 0 && a < rows, b, -1); }, to, row_index{}, from, to);
    block.map([=, rows = x.from.rows](auto a) { return where(a >= 0 && a < rows, a, 0); }, from, from);
    block.template copy_rows<c>(x.to[layer], to, x.from[layer], from, j);
  }

  // The rows of a list; those outside [0, limit) become -1. Without a list: 0, 1, ... Past the list's end: any of these.
  template <class Block, class Rows>
  static SMALTI_HD void listed(Block& block, Rows& rows, const int* list, int count, int i, int limit) {
    const int written = list != nullptr ? count : 0, counted = list != nullptr ? 0 : 1;
    block.map([=](auto r) {
      const auto at = r + i * m;
      const auto row = lookup(list, at, written) + at * counted;
      return where(row >= 0 && row < limit, row, -1);
    }, rows, row_index{});
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
