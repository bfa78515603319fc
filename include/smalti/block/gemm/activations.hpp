// What some weights want of the activations before the product: their columns in the weight's own order (act-order, groups that
// were filled up), and the sum of each group (zero points and minima enter as sum times minimum). One pass over X each.
#pragma once
#include <type_traits>
#include <smalti/block/gemm/scales.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! to[i, p] = from[i, order[p]], or zero where order[p] is negative.
template <class X, int Step, int M, int N> struct gather_columns {
  struct arguments {
    view<const X, Step> from;
    view<X> to;
    const int* order;
  } a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.to.rows, M), ceil_div(a.to.cols, N), 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, float, M, N> t;
    row<Block, int, N> place;
    const int i = block.x(), j = block.y();
    block.map([order = a.order, count = a.to.cols, j](auto c) { return where(c + j * N < count, lookup(order, c + j * N, count), -1); }, place, column_index{});
    block.map([from = a.from, i](auto p, auto r) { return lookup(from, r + i * M, p); }, t, place, row_index{});
    block.store(a.to, i, j, t);
  }
};

//! sums[g, i] = sum over group g of x[i, k], or of x[source[i], k]; Group 0 is all of K.
//! @note  the order of the sum is the machine's, and fixed; error at most (group + 2) 2^-24 of the sum of magnitudes
template <class X, int Step, int Group, int M, int Wide, bool Gathers = false> struct group_sums {
  static_assert(Group == 0 || Group % Wide == 0, "smalti: a group is summed in whole tiles");
  struct arguments {
    view<const X, Step> x;
    view<float, 1> sums;                                           //!< groups x rows
    std::conditional_t<Gathers, view<const int, 1>, absent<1>> source = {};      //!< one column
  } a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.sums.cols, M), a.sums.rows, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), g = block.y(), tiles = Group == 0 ? ceil_div(a.x.cols, Wide) : Group / Wide;
    tile<Block, float, M, Wide> total, t;
    column<Block, int, M> rows;
    if constexpr (Gathers) {      // rows past the last are the tile's first one: they must exist, and are not stored
      block.load(rows, a.source, i, 0);
      const int first = block.number(a.source.data, i * M);
      block.map([first, left = a.sums.cols - i * M](auto r, auto k) { return where(k < left, r, first); }, rows, rows, row_index{});
    }
    block.fill(total, 0.0f);
    for (int c : block.steps(0, tiles)) {
      if constexpr (Gathers) block.load_rows(t, a.x, rows, g * tiles + c);
      else block.load(t, a.x, i, g * tiles + c);
      block.map([](auto sum, auto v) { return sum + v; }, total, total, t);
    }
    column<Block, float, M> sum;
    block.row_sum(sum, total);
    block.store_column(a.sums, g, i, sum);
  }
};

//! Where the sums of segments of columns lie: an agent takes `Unit` columns at a time, whole groups or a part of one, and at a boundary does so
//! for both segments. So segment e has rows of its own for all groups of its units, row g + e (Unit / Group), zeros where a group is not its own.
template <int Group, int Unit> struct segment_rows {
  static constexpr int unit = Group == 0 ? 1 : Unit > Group ? Unit : Group, each = Group == 0 ? 1 : unit / (Group == 0 ? 1 : Group);
  static_assert(Group == 0 || unit % Group == 0, "smalti: a step holds whole groups or a part of one");
  SMALTI_HD static constexpr int rows(int groups, int segments) { return Group == 0 ? segments : round_up(groups, each) + segments * each; }
  // The segment of row r. Segments begin in order; every row is read by one of them at most.
  template <class Block, class Offset> SMALTI_HD static int segment_of(Block& block, const Offset* first, int segments, int r) {
    int e = 0;
    if constexpr (Group == 0) return r < segments ? r : segments - 1;
    else
      for (int s = 0; s < segments; ++s) e = (int(block.number(first, s)) / unit + s) * each <= r ? s : e;
    return e;
  }
};

//! sums of the columns of group g that segment e has, for 16-bit activations.
//! @note  cost: one pass over x, and `segments` numbers read for each row of sums
template <class X, int Step, int Group, int Unit, class Offset, int M, int Wide> struct segment_sums {
  static_assert(Group == 0 || Group % Wide == 0, "smalti: a group is summed in whole tiles");
  using layout = segment_rows<Group, Unit>;
  struct arguments {
    view<const X, Step> x;
    view<float, 1> sums;                       //!< segment_rows x rows
    const Offset *first, *last;
    int segments;
  } a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.sums.cols, M), a.sums.rows, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), r = block.y(), e = layout::segment_of(block, a.first, a.segments, r);
    const int first = int(block.number(a.first, e)), last = int(block.number(a.last, e)), begin = Group == 0 ? first / Wide : (r - e * layout::each) * (Group / Wide);
    const int end = Group == 0 ? (last > first ? ceil_div(last, Wide) : begin) : begin + Group / Wide;
    tile<Block, float, M, Wide> total, t;
    block.fill(total, 0.0f);
    for (int c : block.steps(begin, end)) {
      block.load(t, a.x, i, c);
      block.map([first, last, c](auto sum, auto v, auto p) { return sum + where((p + c * Wide >= first) && (p + c * Wide < last), v, 0.0f); }, total, total, t, column_index{});
    }
    column<Block, float, M> sum;
    block.row_sum(sum, total);
    block.store_column(a.sums, r, i, sum);
  }
};

//! The same of sums that are given, for segments of whole groups.
template <int Group, int Unit, class Offset, int Wide> struct given_segment_sums {
  using layout = segment_rows<Group, Unit>;
  struct arguments {
    view<const float, 1> given;                //!< groups x rows
    view<float, 1> sums;                       //!< segment_rows x rows
    const Offset *first, *last;
    int segments;
  } a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.sums.cols, Wide), a.sums.rows, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), r = block.y(), e = layout::segment_of(block, a.first, a.segments, r), g = r - e * layout::each;
    const bool mine = g * Group >= int(block.number(a.first, e)) && g * Group < int(block.number(a.last, e));
    row<Block, float, Wide> t;
    block.load(t, view<const float, 1>{a.given.data, mine ? a.given.rows : 0, a.given.cols, a.given.stride}, g, i);
    block.store(a.sums, r, i, t);
  }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
