// MiKV's channel balancer on a machine: how far each channel reaches over the rows of a prompt, and the factors that follow from it
// (policy/channel_balance.hpp).
#pragma once
#include <smalti/core/view.hpp>
#include <smalti/policy/channel_balance.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! most[p][c] = the largest of before[p][c] and of |x[i][c]| over part p of the rows.
template <class T> struct channel_reach_arguments {
  view<const T> x;
  int tiles;                          //!< of M rows: a part
  view<const float, 1> before;        //!< a row for each part, or no rows
  view<float, 1> most;
};
template <int M, int W, class T>
struct channel_reach_agent {
  using arguments = channel_reach_arguments<T>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.x.cols, W), x.most.rows, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), part = block.y(), first = part * x.tiles, all = ceil_div(x.x.rows, M), stop = first + x.tiles < all ? first + x.tiles : all;
    row<Block, float, W> most, some;
    block.load(most, x.before, part, j);              // zero where there is none
    for (int i : block.steps(first, stop)) {
      tile<Block, float, M, W> rows;
      block.load(rows, x.x, i, j);                    // zero past the last row
      block.map([](auto v) { return abs(v); }, rows, rows);
      block.column_max(some, rows);
      block.map([](auto a, auto b) { return max(a, b); }, most, most, some);
    }
    block.store(x.most, part, j, most);
  }
};

struct channel_balance_arguments {
  view<const float, 1> query_reach;   //!< [layer * heads + head]
  view<const float, 1> key_reach;     //!< [layer * kv_heads + kv_head]
  int group;                          //!< query heads of a key head
  view<float, 1> balance, factor;     //!< as key_reach, as query_reach
};
// A block for each query head: those of a group come to the same balance, which the first of them stores.
template <int W>
struct channel_balance_agent {
  using arguments = channel_balance_arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.key_reach.cols, W), x.query_reach.rows, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), head = block.y(), group = x.group, key_head = head / group;
    row<Block, float, W> most, some, balance, factor;
    block.fill(most, 0.0f);
    for (int g : block.steps(0, group)) {
      block.load(some, x.query_reach, key_head * group + g, j);
      block.map([](auto a, auto b) { return max(a, b); }, most, most, some);
    }
    block.load(some, x.key_reach, key_head, j);
    block.map([](auto q, auto k) { return policy::channel_balance(q, k); }, balance, most, some);
    block.map([](auto b) { return over(1.0f, b); }, factor, balance);
    block.store(x.factor, head, j, factor);
    if (head == key_head * group) block.store(x.balance, key_head, j, balance);
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
