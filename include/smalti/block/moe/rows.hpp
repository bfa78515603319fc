// What moves rows between the order of tokens and the order of groups (policy/route_index.hpp), and what is done to a row on
// its way: copies with zeros for padding, the weighted sum over a token's choices, and the gradient of a gated layer.
#pragma once
#include <type_traits>
#include <smalti/core/view.hpp>
#include <smalti/policy/activation_gradient.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::moe {

struct rows_tuning {
  int m, n;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const rows_tuning&) const = default;
};

template <class X, int Step> struct dispatch_arguments {
  view<const X, Step> from;
  const int *token, *slot;       //!< an entry for each row of `to`; tokens exist
  view<X, Step> to;
};
//! to[r] = from[token[r]], or zeros where slot[r] is negative.
template <rows_tuning Tuning, class X, int Step> struct dispatch_agent {
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using arguments = dispatch_arguments<X, Step>;
  arguments a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.to.rows, m), ceil_div(a.to.cols, n), 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), j = block.y();
    column<Block, int, m> token, slot;
    tile<Block, float, m, n> t;
    block.load(token, view<const int, 1>{a.token, a.to.rows, 1, 1}, i, 0);
    block.load(slot, view<const int, 1>{a.slot, a.to.rows, 1, 1}, i, 0);
    block.load_rows(t, a.from, token, j);
    block.map([](auto v, auto s) { return where(s >= (mutant(defect::dispatch_keeps_padding) ? -1 : 0), v, 0.0f); }, t, t, slot);
    block.store(a.to, i, j, t);
  }
};

//! Whether a combination adds rows of the tokens themselves, as they are or times a share.
enum class same_rows { none, whole, shared };

template <class X, class Same, class Y, int StepX, int StepSame, int StepY, bool Weighted, same_rows Shares, bool Constants = false> struct combine_arguments {
  view<const X, StepX> from;
  const int* row;               //!< tokens x choices
  const float* weight;          //!< the same, if Weighted
  view<const Same, StepSame> same;
  const float* share;           //!< tokens, if Shares is shared
  view<Y, StepY> y;
  int choices;
  view<const Same, StepSame> constant = {};      // if Constants
  const int* id = nullptr;                       // tokens x choices
  int first_constant = 0;
};
//! y[t] = sum over j of weight[t, j] from[row[t, j]] + share[t] same[t], in the order of j, the last last; choices without a row count for
//! nothing, whatever their weight. Constants: a choice of the id first_constant + c adds row c of the constants for a row of its own.
template <rows_tuning Tuning, class X, class Same, class Y, int StepX, int StepSame, int StepY, bool Weighted, same_rows Shares, bool Constants = false> struct combine_agent {
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using arguments = combine_arguments<X, Same, Y, StepX, StepSame, StepY, Weighted, Shares, Constants>;
  arguments a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.y.rows, m), ceil_div(a.y.cols, n), 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), j = block.y();
    tile<Block, float, m, n> sum, t;
    block.fill(sum, 0.0f);
    for (int c : block.steps(0, a.choices)) {
      column<Block, int, m> row, there;
      block.load(row, view<const int, 1>{a.row + c, a.y.rows, 1, a.choices}, i, 0);
      block.map([](auto r) { return max(r, 0); }, there, row);
      if (!Constants || a.from.rows > 0) block.load_rows(t, a.from, there, j);
      else block.fill(t, 0.0f);
      if constexpr (Constants) {
        column<Block, int, m> id;
        tile<Block, float, m, n> constant;
        block.load(id, view<const int, 1>{a.id + c, a.y.rows, 1, a.choices}, i, 0);
        block.map([first = a.first_constant, count = a.constant.rows](auto e) { return where(e < first, -1, where(e < first + count, e - first, -1)); }, id, id);
        block.map([](auto e) { return max(e, 0); }, there, id);
        block.load_rows(constant, a.constant, there, j);
        block.map([](auto v, auto k, auto e) { return where(e >= 0, k, v); }, t, t, constant, id);
        block.map([](auto r, auto e) { return max(r, e); }, row, row, id);
      }
      if constexpr (Weighted) {
        column<Block, float, m> weight;
        block.load(weight, view<const float, 1>{a.weight + (mutant(defect::combine_weighs_as_first_choice) ? 0 : c), a.y.rows, 1, a.choices}, i, 0);
        block.map([](auto s, auto v, auto w, auto r) { return where(r >= (mutant(defect::combine_counts_dropped) ? -1 : 0), s + v * w, s); }, sum, sum, t, weight, row);
      } else {
        block.map([](auto s, auto v, auto r) { return where(r >= 0, s + v, s); }, sum, sum, t, row);
      }
    }
    if constexpr (Shares == same_rows::whole) {
      block.load(t, a.same, i, j);
      block.map([](auto s, auto v) { return s + v; }, sum, sum, t);
    }
    if constexpr (Shares == same_rows::shared) {
      column<Block, float, m> share;
      block.load(share, view<const float, 1>{a.share, a.y.rows, 1, 1}, i, 0);
      block.load(t, a.same, i, j);
      block.map([](auto s, auto v, auto w) { return s + v * w; }, sum, sum, t, share);
    }
    block.store(a.y, i, j, sum);
  }
};

template <class X, class D, class Activation, int StepX, int StepD, bool Weighted, class Gate = X, class Up = Gate, int StepGate = StepX, int StepUp = StepGate> struct gated_gradient_arguments {
  view<const Gate, StepGate> gate;
  view<const Up, StepUp> up;
  view<const D, StepD> dh;
  const int* slot;
  const float* weight;          //!< of slots, if Weighted
  int slots;
  view<X, StepX> d_gate, d_up, hidden;
  view<float, 1> d_weight;      //!< one column of `slots`
  Activation activation;
};
template <class X, class H, class Activation, int StepX, int StepH> struct gate_arguments {
  view<const X, StepX> gate, up;
  view<H, StepH> hidden;
  Activation activation;
};
//! hidden = f(gate) up, element by element.
template <rows_tuning Tuning, class X, class H, class Activation, int StepX, int StepH> struct gate_agent {
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using arguments = gate_arguments<X, H, Activation, StepX, StepH>;
  arguments a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.hidden.rows, m), ceil_div(a.hidden.cols, n), 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, float, m, n> gate, up;
    block.load(gate, a.gate, block.x(), block.y());
    block.load(up, a.up, block.x(), block.y());
    block.map([f = a.activation](auto g, auto u) { return f(g, 0, 0) * u; }, gate, gate, up);
    block.store(a.hidden, block.x(), block.y(), gate);
  }
};

//! The backward of h = f(gate) up and of a weight w on what follows it, row by row: with dh the gradient of h for w = 1,
//!     d_gate = w dh up f'(gate),   d_up = w dh f(gate),   hidden = w h,   d_weight[slot] = <dh, h>;
//! rows whose slot is negative give zeros, and no d_weight. d_gate and d_up may lie over gate and up.
template <rows_tuning Tuning, class X, class D, class Activation, int StepX, int StepD, bool Weighted, class Gate = X, class Up = Gate, int StepGate = StepX, int StepUp = StepGate> struct gated_gradient_agent {
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using arguments = gated_gradient_arguments<X, D, Activation, StepX, StepD, Weighted, Gate, Up, StepGate, StepUp>;
  arguments a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.gate.rows, m), 1, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x();
    column<Block, int, m> slot;
    column<Block, float, m> weight, dot, part;
    block.load(slot, view<const int, 1>{a.slot, a.gate.rows, 1, 1}, i, 0);
    block.map([i, rows = a.gate.rows](auto s, auto r) { return where(r + i * m < rows, s, -1); }, slot, slot, row_index{});
    if constexpr (Weighted) block.map([all = a.weight, count = a.slots](auto s) { return lookup(all, s, count); }, weight, slot);      // zero where there is no slot
    else block.map([](auto s) { return where(s >= 0, to_float(s * 0 + 1), 0.0f); }, weight, slot);
    block.fill(dot, 0.0f);
    for (int j : block.steps(0, ceil_div(a.gate.cols, n))) {
      tile<Block, float, m, n> gate, up, dh, t;
      block.load(gate, a.gate, i, j);
      block.load(up, a.up, i, j);
      block.load(dh, a.dh, i, j);
      block.map([f = a.activation](auto g, auto u, auto d) { return f(g, 0, 0) * u * d; }, t, gate, up, dh);
      block.row_sum(part, t);
      block.map([](auto sum, auto p) { return sum + p; }, dot, dot, part);
      block.map([f = a.activation](auto g, auto u, auto w, auto s) { return where(s >= 0, f(g, 0, 0) * u * w, 0.0f); }, t, gate, up, weight, slot);
      block.store(a.hidden, i, j, t);
      block.map([f = slope_of(a.activation)](auto g, auto u, auto d, auto w) { return f(g) * (mutant(defect::gate_gradient_without_up) ? d * w : u * d * w); }, t, gate, up, dh, weight);
      block.map([](auto v, auto s) { return where(s >= 0, v, 0.0f); }, t, t, slot);
      block.store(a.d_gate, i, j, t);
      block.map([f = a.activation](auto g, auto d, auto w, auto s) { return where(s >= 0, f(g, 0, 0) * d * w, 0.0f); }, t, gate, dh, weight, slot);
      block.store(a.d_up, i, j, t);
    }
    block.store_rows(a.d_weight, slot, 0, dot);
  }
};

}  // namespace smalti::inline SMALTI_CODE::moe
