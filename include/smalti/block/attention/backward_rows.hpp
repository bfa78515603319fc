// What the backward pass needs of each query row, made once before it: the log-sum-exp in base 2 and
//     delta = sum over channels of o do - dlse
// (Dao 2023, arXiv:2307.08691, equation 4). A gradient of the log-sum-exp only shifts delta, because the derivative of a
// log-sum-exp by a logit is the weight. And what follows from these alone: the gradient of learned sinks.
#pragma once
#include <type_traits>
#include <smalti/block/attention/backward_state.hpp>
#include <smalti/policy/lse.hpp>
#include <smalti/tile/grid.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! O: element of o and do's companion; T: element of do; Dv: their channels; Lse: policy::lse_e<float> or lse_2<float>, the
//! base of what the forward pass wrote.
template <class O, class T, int Dv, class Lse>
struct backward_rows_problem {
  using element = T;
  static constexpr int dv = Dv;
  static constexpr float bits_per_unit = Lse::bits_per_unit;   // of what the forward pass stored
  struct arguments {
    head_rows<const O> o;
    head_rows<const T> d_o;
    head_rows<const float> lse, d_lse;             //!< one column each; d_lse.data may be null: zero
    float *numbers_lse = nullptr, *delta = nullptr;
    long long places = 0;
  };
};

//! One block: m rows of one head. The rows up to a whole padding are written: see row_numbers.
template <int M, int Chunk, class Problem>
struct backward_rows_agent {
  using arguments = typename Problem::arguments;
  using chunks = policy::chunks<Problem::dv, Chunk>;
  static constexpr int m = M;
  arguments x;

  static constexpr grid blocks(const arguments& x) { return {round_up(x.o.rows, row_numbers::padding) / m, x.o.heads, x.o.sequences}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), head = block.y(), s = block.z(), rows = x.o.length(s);
    if (i * m >= round_up(rows, row_numbers::padding)) return;
    const row_numbers numbers{nullptr, nullptr, x.places};
    column<Block, float, m> delta, lse;
    block.fill(delta, 0.0f);
    add<0>(block, delta, x.o.at(s, head), x.d_o.at(s, head), i);
    if (x.d_lse.data != nullptr && !mutant(defect::lse_gradient_forgotten)) {
      block.load(lse, x.d_lse.template at<1>(s, head), i, 0);
      block.map([](auto d, auto more) { return d - more; }, delta, delta, lse);
    }
    block.store_column(numbers.of(x.delta, x.o, s), head, i, delta);
    block.load(lse, x.lse.template at<1>(s, head), i, 0);
    block.map([=, first = i * m](auto v, auto r) {
      const auto bits = v * Problem::bits_per_unit;
      const auto of_row = mutant(defect::row_without_keys_weighs) ? bits : where(bits == -__builtin_inff(), __builtin_inff(), bits);
      return where(first + r >= rows, mutant(defect::padding_rows_weigh) ? 0.0f : __builtin_inff(), of_row);   // no key, no row: every weight is 0
    }, lse, lse, row_index{});
    block.store_column(numbers.of(x.numbers_lse, x.o, s), head, i, lse);
  }

private:
  template <int I, class Block, class Column, class O, class D> static SMALTI_HD void add(Block& block, Column& delta, const O& o, const D& d_o, int i) {
    constexpr int wide = chunks::width(I), at = chunks::first(I) / wide;
    tile<Block, float, m, wide> a, b;
    column<Block, float, m> sum;
    block.load(a, o, i, at);
    block.load(b, d_o, i, at);
    block.map([](auto x, auto y) { return x * y; }, a, a, b);
    block.row_sum(sum, a);
    block.map([](auto d, auto more) { return d + more; }, delta, delta, sum);
    if constexpr (I + 1 < chunks::count) add<I + 1>(block, delta, o, d_o, i);
  }
};

//! dsink[head] = - sum over rows of e^(sink - lse) delta, in the order of the rows. One block a head.
struct backward_sink_agent {
  struct arguments {
    head_rows<const float> rows;             //!< of the queries: lengths and offsets; no data
    row_numbers numbers;
    const float* logits = nullptr;
    view<float, 1> d_logits;                 //!< [head][1]
  };
  arguments x;
  static constexpr int wide = row_numbers::padding;

  static constexpr grid blocks(const arguments& x) { return {x.rows.heads, 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int head = block.x();
    const float exponent = x.logits[head] * policy::lse_e<float>::bits_per_unit;
    tile<Block, float, 1, wide> sum, lse, delta;
    block.fill(sum, 0.0f);
    for (int s : block.steps(0, mutant(defect::sink_gradient_of_first_run) ? 1 : x.rows.sequences)) {
      const view<const float> lse_of = x.numbers.of(x.numbers.lse, x.rows, s), delta_of = x.numbers.of(x.numbers.delta, x.rows, s);
      for (int j : block.steps(0, lse_of.cols / wide)) {
        block.load(lse, lse_of, head, j);
        block.load(delta, delta_of, head, j);
        block.map([=](auto sum, auto l, auto d) { return sum - exp2(exponent - l) * d; }, sum, sum, lse, delta);
      }
    }
    column<Block, float, 1> total;
    block.row_sum(total, sum);
    block.store(x.d_logits, head, 0, total);
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
