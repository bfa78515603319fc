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

}  // namespace smalti::inline SMALTI_CODE::gemm
