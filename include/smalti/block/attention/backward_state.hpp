// What the backward agents of attention share: tile shapes, heads as chunks of channels, the numbers kept for each query
// row, and weight and gradient of one score.
#pragma once
#include <smalti/block/attention/rows.hpp>
#include <smalti/block/attention/score.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/bind.hpp>
#include <smalti/policy/chunks.hpp>
#include <smalti/policy/gradient.hpp>
#include <smalti/policy/mask.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Tile shape of one kernel of the backward pass: m queries by n keys.
struct backward_tuning {
  int m, n;
  int chunk = 0;           //!< widest chunk of channels, a power of two; 0, on the host: all of them at once
  bool held = true;        //!< rows that stay for the whole block are kept as operands, else loaded at each step
  bool separate = false;   //!< dv and dk are made by a launch each: one accumulator instead of two, five products instead of four
  int channels = 0;        //!< of a result that one block makes, a power of two; each block computes all scores. 0: all
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const backward_tuning&) const = default;
};

//! One matrix of a stack, by its number: the stack's descriptor then serves every head that a loop goes through.
template <class T> struct nth_rows {
  stack<const T> of;
  int n;
};

namespace detail {

template <class Block, class Tile, class T, int Step> SMALTI_HD void load_tile(Block& block, Tile& t, const view<T, Step>& from, int i, int j) { block.load(t, from, i, j); }
template <class Block, class Tile, class T> SMALTI_HD void load_tile(Block& block, Tile& t, const nth_rows<T>& from, int i, int j) { block.load(t, from.of, from.n, i, j); }
template <class Block, class Tile, class T, int Step> SMALTI_HD void load_turned(Block& block, Tile& t, const view<T, Step>& from, int i, int j) { block.load(t, transposed(from), i, j); }
template <class Block, class Tile, class T> SMALTI_HD void load_turned(Block& block, Tile& t, const nth_rows<T>& from, int i, int j) { block.load(t, transposed(from.of), from.n, i, j); }

}  // namespace detail

// D channels of R rows as left operands of products, chunk by chunk.
template <class Block, class T, int R, class Chunks, int I = 0>
struct left_rows {
  static constexpr int wide = Chunks::width(I), at = Chunks::first(I) / wide;
  left<Block, T, R, wide> own;
  left_rows<Block, T, R, Chunks, I + 1> rest;
  template <class View> SMALTI_HD void load(Block& block, const View& from, int i) {
    block.load(own, from, i, at);
    if constexpr (I + 1 < Chunks::count) rest.load(block, from, i);
  }
  //! acc = these rows times rows j of `columns`, turned.
  template <class Acc, class View> SMALTI_HD void times_rows(Block& block, Acc& acc, const View& columns, int j) const {
    right<Block, T, wide, Acc::cols> r;
    detail::load_turned(block, r, columns, at, j);
    if constexpr (I == 0) block.multiply(acc, own, r);
    else block.product(acc, own, r);
    if constexpr (I + 1 < Chunks::count) rest.times_rows(block, acc, columns, j);
  }
};
template <class Block, class T, int R, class Chunks, int I>
requires(I >= Chunks::count) struct left_rows<Block, T, R, Chunks, I> {};

//! acc = rows i of `rows` times rows j of `columns`, turned; both loaded chunk by chunk.
template <class T, class Chunks, int I = 0, class Block, class Acc, class Rows, class Columns>
SMALTI_HD void product_of_rows(Block& block, Acc& acc, const Rows& rows, int i, const Columns& columns, int j) {
  constexpr int wide = Chunks::width(I), at = Chunks::first(I) / wide;
  left<Block, T, Acc::rows, wide> l;
  right<Block, T, wide, Acc::cols> r;
  block.load(l, rows, i, at);
  detail::load_turned(block, r, columns, at, j);
  if constexpr (I == 0) block.multiply(acc, l, r);
  else block.product(acc, l, r);
  if constexpr (I + 1 < Chunks::count) product_of_rows<T, Chunks, I + 1>(block, acc, rows, i, columns, j);
}

// Sums of channels of R rows. `part`: which of the parts of the channels, of a whole chunk each.
template <class Block, int R, class Chunks, int I = 0>
struct row_sums {
  static constexpr int wide = Chunks::width(I), at = Chunks::first(I) / wide;
  tile<Block, float, R, wide> own;
  row_sums<Block, R, Chunks, I + 1> rest;
  SMALTI_HD void clear(Block& block) {
    block.fill(own, 0.0f);
    if constexpr (I + 1 < Chunks::count) rest.clear(block);
  }
  //! sums += weights times rows j of `from`.
  template <class Left, class View> SMALTI_HD void add(Block& block, const Left& weights, const View& from, int j, int part) {
    right<Block, typename Left::element, Left::cols, wide> r;
    detail::load_tile(block, r, from, j, at + (mutant(defect::dq_part_of_first) ? 0 : part));
    block.product(own, weights, r);
    if constexpr (I + 1 < Chunks::count) rest.add(block, weights, from, j, 0);
  }
  template <class View> SMALTI_HD void store(Block& block, const View& to, int i, int part, float scale) {
    block.map([=](auto v) { return v * scale; }, own, own);
    block.store(to, i, at + part, own);
    if constexpr (I + 1 < Chunks::count) rest.store(block, to, i, 0, scale);
  }
};
template <class Block, int R, class Chunks, int I>
requires(I >= Chunks::count) struct row_sums<Block, R, Chunks, I> {};

//! In place of chunks where there is nothing to hold.
struct no_chunks { static constexpr int count = 0; };

//! Two numbers for each query row, in the workspace: [head][place]. Each sequence has places in whole paddings of its own;
//! where there is no row the log-sum-exp is +infinity and delta 0, so that a tile may reach past the last query and its
//! weights there are 0.
struct row_numbers {
  const float *lse = nullptr, *delta = nullptr;
  long long places = 0;                          //!< of one head
  static constexpr int padding = 256;            //!< at least the rows of any tile of queries

  //! Where the rows of a sequence begin.
  template <class T> static SMALTI_HD constexpr long long place(const head_rows<T>& q, int s) {
    if (q.offsets != nullptr) return (static_cast<long long>((q.offsets[s] - q.offsets[0]) / padding) + (mutant(defect::numbers_of_runs_overlap) ? 0 : s)) * padding;   // padded, each run ends before the next begins
    return static_cast<long long>(s) * round_up(q.rows, padding);
  }
  //! Places enough for every sequence; `total` rows of a ragged batch, or 0 where nobody counted them.
  template <class T> static constexpr long long places_of(const head_rows<T>& q, long long total) {
    if (q.offsets == nullptr || total == 0) return static_cast<long long>(q.sequences) * (round_up(q.rows, padding) + (q.offsets != nullptr ? padding : 0));
    return (total / padding + q.sequences) * padding;
  }
  //! One row for each head.
  template <class F, class T> SMALTI_HD constexpr view<F> of(F* numbers, const head_rows<T>& q, int s) const {
    return {numbers + place(q, s), q.heads, round_up(q.length(s), padding), static_cast<int>(places)};
  }
};

//! What the backward agents compute, as types.
//!
//! @tparam T         element of q, k, v, do, and of the weights and gradients that are multiplied: bf16 or fp16
//! @tparam Out       element of dq, dk, dv
//! @tparam D, Dv     channels of q and k, and of v and o: multiples of 8
//! @tparam Gradient  policy/gradient.hpp
template <class T, class Out, int D, int Dv, class Score, class Mask, class Gradient>
struct backward_problem {
  using element = T;
  using result = Out;
  using gradient = Gradient;
  using mask = policy::bound_t<Mask>;
  using unbound_mask = Mask;
  using unbound_score = Score;
  using scores = head_scores<policy::bound_t<Score>, mask>;
  static constexpr int d = D, dv = Dv;
  static constexpr bool by_rows = Gradient::uses_rows;

  struct arguments {
    head_rows<const T> q, k, v, d_o;
    head_rows<Out> dq, dk, dv;
    row_numbers numbers;
    int heads_per_kv = 1;                        //!< query heads that share a head of keys
    float scale = 1;
    Score score;
    Mask mask;
    Gradient gradient;
  };

  static SMALTI_HD constexpr scores scores_at(const arguments& x, int s, int head) {
    const policy::place at{s, head, x.q.length(s), x.k.length(s)};
    return {policy::bound(x.score, at), policy::bound(x.mask, at), x.scale, at.keys};
  }
};

//! No block at all: where a launch has nothing to do on one target.
template <class Arguments> struct idle_agent {
  using arguments = Arguments;
  arguments x;
  static constexpr grid blocks(const arguments&) { return {0, 0, 0}; }
  template <class Block> SMALTI_HD void operator()(Block&) const {}
};

//! Weight and gradient of one score, as a map's function sees them. Masked values are 0.
template <bool Masked, class Scores, class Gradient>
struct masked_gradient {
  Scores scores;
  Gradient of;
  // What the logit is multiplied with to be in the gradient's units.
  SMALTI_HD constexpr float units() const {
    if constexpr (Gradient::base_2) return scores.units();
    else return Scores::folds ? scores.scale : 1.0f;
  }
  template <class V, class Q, class K, class L> SMALTI_HD auto weight(V s, Q q, K k, L lse) const {
    return seen<Masked>(of.weight(scores.logit(s, q, k) * units(), lse), q, k);
  }
  //! d loss / d (scale s), from the weight, the product s, dp = do . v and the row's delta.
  template <class V, class Q, class K, class D> SMALTI_HD auto slope(V w, V s, V dp, D delta, Q q, K k) const {
    const auto dz = of.logit(w, scores.logit(s, q, k) * units(), dp, mutant(defect::gradient_without_delta) ? D(delta * 0.0f) : delta);
    if constexpr (Scores::folds) return hidden_too(dz, q, k);
    else return hidden_too(dz * scores.slope(s, q, k), q, k);
  }

private:
  template <class V, class Q, class K> SMALTI_HD auto hidden_too(V x, Q q, K k) const {   // where the weight does not say it
    if constexpr (Masked && !Gradient::vanishes) return where(scores.visible(q, k) || mutant(defect::pointwise_gradient_not_masked), x, 0.0f);
    else return x;
  }
  template <bool Test, class V, class Q, class K> SMALTI_HD auto seen(V x, Q q, K k) const {
    if constexpr (Test) return where(scores.visible(q, k), x, 0.0f);
    else return x;
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
