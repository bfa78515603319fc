// Scores and selections of a tile of tokens: what the router, its gradient and the balance losses have in common.
#pragma once
#include <smalti/core/view.hpp>
#include <smalti/policy/route/scorer.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::route {

//! The place of a key in the order, as an int: greater is better. -0 is +0. `out` is below every key.
template <class V> SMALTI_HD auto key_code(V key) {
  const auto bits = float_bits(key);
  const auto code = bits ^ ((bits >> 31) & 0x7fffffff);
  return where(code == -1, 0, code);
}
SMALTI_HD constexpr int out_code() { return -2147483647 - 1; }

//! M tokens of a matrix of logits, a column of the tile for each expert; the columns behind the last expert are undefined.
template <int M, int W, class Logit, class Scorer> struct score_source {
  view<const Logit, 1> logits;
  int tokens, experts;
  Scorer scorer;

  //! z: the logits of tokens [first, first + M), finite.
  template <class Block> SMALTI_HD void load(Block& block, tile<Block, float, M, W>& z, int first) const {
    if constexpr (!Scorer::reads_logits) {
      block.fill(z, 0.0f);
    } else if constexpr (policy::maps_rows<Scorer>) {
      column<Block, int, M> task, there;
      block.map([=, task = scorer.task, n = tokens](auto r) { return where(r + first < n, lookup(task, r + first, n), -1); }, task, row_index{});
      block.map([last = logits.rows - 1](auto t) { return max(min(t, last), 0); }, there, task);
      block.load_rows(z, logits, there, 0);
      block.map([](auto z, auto t) { return where(t < 0, 0.0f, z); }, z, z, task);
    } else {
      block.load(z, band(logits, first, M), 0, 0);
    }
    block.map([](auto z) { return policy::finite_logit(z); }, z, z);
    if constexpr (Scorer::reads_place) {
      tile<Block, int, M, W> token, expert;
      places(block, token, expert, first);
      block.map([s = scorer](auto z, auto t, auto e) { return policy::finite_logit(s.logit(z, t, e)); }, z, z, token, expert);
    }
  }
  //! s: the scores of logits; 0 behind the last expert.
  template <class Block> SMALTI_HD void score(Block& block, tile<Block, float, M, W>& s, const tile<Block, float, M, W>& z) const {
    if constexpr (Scorer::over_all) {
      column<Block, float, M> most, sum;
      block.map([n = experts](auto z, auto c) { return where(c < n, z, -0x1p101f); }, s, z, column_index{});
      block.row_max(most, s);
      block.map([n = experts](auto z, auto most, auto c) { return where(c < n, exp2((z - most) * 1.4426950408889634f), 0.0f); }, s, z, most, column_index{});
      block.row_sum(sum, s);
      block.map([](auto sum) { return over(1.0f, sum); }, sum, sum);
      block.map([](auto s, auto share) { return s * share; }, s, s, sum);
    } else {
      block.map([f = scorer, n = experts](auto z, auto c) { return where(c < n, f.score(z), 0.0f); }, s, z, column_index{});
    }
  }
  //! dz: the gradient of the logits, from ds, that of the scores (0 behind the last expert).
  template <class Block> SMALTI_HD void gradient(Block& block, tile<Block, float, M, W>& dz, const tile<Block, float, M, W>& z, const tile<Block, float, M, W>& s,
                                                 const tile<Block, float, M, W>& ds, int first) const {
    if constexpr (Scorer::over_all) {
      column<Block, float, M> dot;
      block.map([](auto s, auto d) { return s * d; }, dz, s, ds);
      block.row_sum(dot, dz);
      block.map([](auto s, auto d, auto dot) { return s * (d - dot); }, dz, s, ds, dot);
    } else {
      block.map([f = scorer](auto z, auto s, auto d) { return f.slope(z, s) * d; }, dz, z, s, ds);
    }
    if constexpr (requires { scorer.factor(0, 0); }) {
      tile<Block, int, M, W> token, expert;
      places(block, token, expert, first);
      block.map([f = scorer](auto d, auto t, auto e) { return d * f.factor(t, e); }, dz, dz, token, expert);
    }
  }
  template <class Block> SMALTI_HD static void places(Block& block, tile<Block, int, M, W>& token, tile<Block, int, M, W>& expert, int first) {
    block.map([=](auto r) { return r + first; }, token, row_index{});
    block.map([](auto c) { return c + 0; }, expert, column_index{});
  }
};

//! Takes the greatest code of each row, the first of equals, out of the tile: its column.
template <int M, int C, class Block> SMALTI_HD void take_best(Block& block, column<Block, int, M>& place, tile<Block, int, M, C>& code) {
  column<Block, int, M> best;
  tile<Block, int, M, C> found;
  block.row_max(best, code);
  block.map([](auto code, auto best, auto c) { return where(code == best, C - c, 0); }, found, code, best, column_index{});
  block.row_max(place, found);
  block.map([](auto p) { return C - p; }, place, place);
  block.map([](auto code, auto p, auto c) { return where(c == p, out_code(), code); }, code, code, place, column_index{});
}

//! x at the column `place` of each row: 0 where there is none.
template <int M, int C, class Block> SMALTI_HD void pick(Block& block, column<Block, float, M>& x, const tile<Block, float, M, C>& from, const column<Block, int, M>& place) {
  tile<Block, float, M, C> one;
  block.map([](auto v, auto p, auto c) { return where(c == p, v, 0.0f); }, one, from, place, column_index{});
  block.row_sum(x, one);
}

//! t[., j] = x.
template <class Tile, class Column, class Block> SMALTI_HD void put_column(Block& block, Tile& t, const Column& x, int j) {
  block.map([=](auto v, auto x, auto c) { return where(c == j, x, v); }, t, t, x, column_index{});
}

}  // namespace smalti::inline SMALTI_CODE::route
