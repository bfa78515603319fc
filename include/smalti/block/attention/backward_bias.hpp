// The gradient of a bias that is added to the scores: one block makes m x n elements of one bias matrix and walks over
// the sequences and heads that share it, in their order.
//
//     dbias[i, j] = sum over sequences and heads of d loss / d score[i, j]
//
// Two products a tile and head, beside the seven of dq, dk and dv: a launch of its own, and only where it is asked for.
#pragma once
#include <smalti/block/attention/backward_state.hpp>
#include <smalti/tile/grid.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! d_bias: [sequence or 1][head or 1][query][key]; where one of its extents is 1 and the batch has more, it is shared.
template <class Problem>
struct backward_bias_arguments {
  typename Problem::arguments of;
  head_rows<float> d_bias;
};

template <backward_tuning Tuning, class Problem>
struct backward_bias_agent {
  using arguments = backward_bias_arguments<Problem>;
  using element = typename Problem::element;
  static constexpr int m = Tuning.m, n = Tuning.n, d = Problem::d, dv = Problem::dv, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using chunks = policy::chunks<d, Tuning.chunk>;
  using value_chunks = policy::chunks<dv, Tuning.chunk>;
  arguments x;

  static constexpr grid blocks(const arguments& x) {
    return {ceil_div(x.d_bias.rows, m), ceil_div(x.d_bias.cols, n), x.d_bias.sequences * x.d_bias.heads};
  }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), j = block.y(), s = block.z() / x.d_bias.heads, head = block.z() % x.d_bias.heads;
    tile<Block, float, m, n> sum;
    block.fill(sum, 0.0f);
    const int sequences = x.d_bias.sequences == 1 ? x.of.q.sequences : 1, heads = x.d_bias.heads == 1 ? x.of.q.heads : 1;
    for (int t : block.steps(0, mutant(defect::bias_gradient_not_shared) ? 1 : sequences * heads)) {
      const int of = s + t / heads, by = head + t % heads;
      const span_of_tile at = tile_of(of, i, j);
      const auto scores = Problem::scores_at(x.of, of, by);
      if (at.exists && policy::classify(scores.mask, at.rows, at.columns) != policy::tile_class::skip) add(block, sum, scores, of, by, i, j);
    }
    block.store(x.d_bias.at(s, head), i, j, sum);
  }

private:
  // What of a sequence lies in tile (i, j) of the bias.
  struct span_of_tile {
    policy::span rows, columns;
    bool exists;
  };
  SMALTI_HD span_of_tile tile_of(int s, int i, int j) const {
    const int queries = x.of.q.length(s), keys = x.of.k.length(s);
    return {{i * m, i * m + m < queries ? i * m + m : queries}, {j * n, j * n + n < keys ? j * n + n : keys}, i * m < queries && j * n < keys};
  }
  template <class Block, class Scores>
  SMALTI_HD void add(Block& block, tile<Block, float, m, n>& sum, const Scores& scores, int s, int head, int i, int j) const {
    const int kv_head = head / x.of.heads_per_kv;
    column<Block, float, m> lse, delta;
    tile<Block, float, m, n> score, dp;
    if constexpr (Problem::by_rows) {
      block.load(lse, transposed(x.of.numbers.of(x.of.numbers.lse, x.of.q, s)), i, head);
      block.load(delta, transposed(x.of.numbers.of(x.of.numbers.delta, x.of.q, s)), i, head);
    } else {
      block.fill(lse, 0.0f);
      block.fill(delta, 0.0f);
    }
    product_of_rows<element, chunks>(block, score, x.of.q.at(s, head), i, x.of.k.at(s, kv_head), j);
    product_of_rows<element, value_chunks>(block, dp, x.of.d_o.at(s, head), i, x.of.v.at(s, kv_head), j);
    block.map([of = masked_gradient<true, typename Problem::scores, typename Problem::gradient>{scores, x.of.gradient}, first = i * m, begin = j * n](
                  auto total, auto v, auto dp, auto lse, auto delta, auto r, auto c) {
      return total + of.slope(of.weight(v, first + r, begin + c, lse), v, dp, delta, first + r, begin + c);
    }, sum, sum, score, dp, lse, delta, row_index{}, column_index{});
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
