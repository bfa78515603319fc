// Balance of experts: mean scores and losses of a batch, and the step of a controller.
#pragma once
#include <smalti/block/route/scores.hpp>
#include <smalti/block/route/select.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::route {

//! Tokens whose scores one block sums, in tiles.
constexpr int tokens_of_sum = 256;

template <class Logit, class Scorer, int W> struct mean_problem {
  static constexpr int w = W;
  using logit = Logit;
  using scorer_policy = Scorer;
  struct arguments {
    view<const Logit, 1> logits;
    int tokens, experts;
    Scorer scorer;
    float* sums;                       //!< [blocks][W]
    float* squares;                    //!< [blocks][16] of lse, spread; null: not wanted
  };
};
template <route_tuning Tuning, class Problem> struct mean_agent {
  using arguments = typename Problem::arguments;
  using scorer = typename Problem::scorer_policy;
  static constexpr int m = Tuning.m, w = Problem::w, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.tokens, tokens_of_sum), 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const score_source<m, w, typename Problem::logit, scorer> source{x.logits, x.tokens, x.experts, x.scorer};
    tile<Block, float, m, w> sum;
    tile<Block, float, m, 16> square;
    block.fill(sum, 0.0f);
    block.fill(square, 0.0f);
    for (int i : block.steps(0, tokens_of_sum / m)) {
      const int first = block.x() * tokens_of_sum + i * m;
      tile<Block, float, m, w> z, s;
      source.load(block, z, first);
      source.score(block, s, z);
      block.map([=, tokens = x.tokens](auto sum, auto s, auto r) { return where(r + first < tokens, sum + s, sum); }, sum, sum, s, row_index{});
      if constexpr (scorer::over_all) {
        column<Block, float, m> most, share;
        block.map([n = x.experts](auto z, auto c) { return where(c < n, z, -0x1p101f); }, z, z, column_index{});
        block.row_max(most, z);
        block.row_max(share, s);
        block.map([](auto z, auto p) { return z - log2(p) * 0.6931471805599453f; }, most, most, share);
        block.map([=, tokens = x.tokens](auto sum, auto lse, auto r, auto c) { return where(r + first < tokens && c == 0, sum + lse * lse, sum); }, square, square, most, row_index{}, column_index{});
      }
    }
    row<Block, float, w> all;
    row<Block, float, 16> squares;
    block.column_sum(all, sum);
    block.column_sum(squares, square);
    block.store(view<float, 1>{x.sums, ceil_div(x.tokens, tokens_of_sum), w, w}, block.x(), 0, all);
    block.store(view<float, 1>{x.squares, ceil_div(x.tokens, tokens_of_sum), 16, 16}, block.x(), 0, squares);
  }
};

template <int W> struct loss_arguments {
  const float* sums;                   //!< [chunks][W]
  const float* squares;                //!< [chunks][16]
  int chunks, tokens, experts, choices;
  const int* counts;                   //!< [experts]
  float coefficient, z_coefficient;
  float* mean_score;                   //!< [experts]; may be null
  float* gradient;                     //!< [experts]; may be null
  float* loss;                         //!< balance loss, z-loss
};
template <int W> struct loss_agent {
  using arguments = loss_arguments<W>;
  arguments x;
  static constexpr grid blocks(const arguments&) { return {1, 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int experts = x.experts;
    tile<Block, float, 1, W> sum, part;
    tile<Block, float, 1, 16> squares, more;
    tile<Block, int, 1, W> counts;
    column<Block, float, 1> loss;
    block.fill(sum, 0.0f);
    block.fill(squares, 0.0f);
    for (int i : block.steps(0, x.chunks)) {
      block.load(part, view<const float, 1>{x.sums, x.chunks, W, W}, i, 0);
      block.load(more, view<const float, 1>{x.squares, x.chunks, 16, 16}, i, 0);
      block.map([](auto a, auto b) { return a + b; }, sum, sum, part);
      block.map([](auto a, auto b) { return a + b; }, squares, squares, more);
    }
    const float each = 1.0f / float(x.tokens), factor = x.coefficient * float(experts) / (float(x.tokens) * float(x.choices));
    block.map([=](auto sum) { return sum * each; }, sum, sum);
    if (x.mean_score != nullptr) block.store(view<float, 1>{x.mean_score, 1, experts, experts}, 0, 0, sum);
    block.load(counts, view<const int, 1>{x.counts, 1, experts, experts}, 0, 0);
    block.map([=](auto n) { return to_float(n) * factor; }, part, counts);
    block.map([](auto mean, auto n) { return mean * n; }, sum, sum, part);
    block.row_sum(loss, sum);
    block.store(view<float, 1>{x.loss, 2, 1, 1}, 0, 0, loss);
    if (x.gradient != nullptr) {
      block.map([=](auto n) { return n * each; }, part, part);
      block.store(view<float, 1>{x.gradient, 1, experts, experts}, 0, 0, part);
    }
    block.row_sum(loss, squares);
    block.map([=, z = x.z_coefficient](auto sum) { return sum * each * z; }, loss, loss);
    block.store(view<float, 1>{x.loss, 2, 1, 1}, 1, 0, loss);
  }
};

template <class Controller> struct controller_arguments {
  Controller controller;
  const int* counts;
  float* bias;
  int experts;
};
template <class Controller> struct controller_agent {
  using arguments = controller_arguments<Controller>;
  static constexpr int wide = 1024;
  arguments x;
  static constexpr grid blocks(const arguments&) { return {1, 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int experts = x.experts;
    const view<const int, 1> counts{x.counts, 1, experts, experts};
    const view<float, 1> bias{x.bias, 1, experts, experts};
    tile<Block, int, 1, wide> count;
    tile<Block, float, 1, wide> b;
    column<Block, int, 1> sum, here;
    column<Block, float, 1> mean;
    block.fill(sum, 0);
    for (int i : block.steps(0, ceil_div(experts, wide))) {
      block.load(count, counts, 0, i);
      block.row_sum(here, count);
      block.map([](auto a, auto b) { return a + b; }, sum, sum, here);
    }
    block.map([n = float(experts)](auto sum) { return to_float(sum) / n; }, mean, sum);
    for (int i : block.steps(0, ceil_div(experts, wide))) {
      block.load(count, counts, 0, i);
      block.load(b, bias, 0, i);
      block.map([=, f = x.controller](auto b, auto n, auto mean, auto c) { return f.next(b, to_float(n), mean, c + i * wide); }, b, b, count, mean, column_index{});
      block.store(bias, 0, i, b);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::route
