// The gradient of a router's weights with respect to its logits, for a tile of tokens. Scores are made again, which is cheaper than
// keeping them; the gradient of the chosen scores goes through the norm, is spread to the experts' columns, and goes through the scorer.
#pragma once
#include <smalti/block/route/scores.hpp>
#include <smalti/block/route/select.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::route {

template <class Logit, class Scorer, class Norm, int W, int K> struct route_gradient_problem {
  static constexpr int w = W, k = K;
  using logit = Logit;
  using scorer_policy = Scorer;
  using norm_policy = Norm;
  struct arguments {
    view<const Logit, 1> logits;
    int tokens, experts, choices;
    Scorer scorer;
    Norm norm;
    float scale;
    const int* ids;
    const float* gradient;             //!< null: none
    view<float, 1> result;
    const float* balance;              //!< null: none
    float z_loss;
  };
};

template <route_tuning Tuning, class Problem> struct route_gradient_agent {
  using arguments = typename Problem::arguments;
  using scorer = typename Problem::scorer_policy;
  using norm = typename Problem::norm_policy;
  static constexpr int m = Tuning.m, w = Problem::w, k = Problem::k, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;

  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.tokens, m), 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int first = block.x() * m;
    const score_source<m, w, typename Problem::logit, scorer> source{x.logits, x.tokens, x.experts, x.scorer};
    tile<Block, float, m, w> z, s, ds, dz;
    source.load(block, z, first);
    source.score(block, s, z);

    if (x.balance != nullptr) {
      row<Block, float, w> everywhere;
      block.load(everywhere, view<const float, 1>{x.balance, 1, x.experts, x.experts}, 0, 0);
      block.map([n = x.experts](auto b, auto c) { return where(c < n, b, 0.0f); }, ds, everywhere, column_index{});
    } else {
      block.fill(ds, 0.0f);
    }
    if (x.gradient != nullptr) add_chosen(block, ds, s, first);
    source.gradient(block, dz, z, s, ds, first);
    if constexpr (scorer::over_all)
      if (x.z_loss != 0.0f) add_z_loss(block, dz, z, s);
    block.store(band(x.result, first, m), 0, 0, dz);
  }

private:
  // ds += the gradient of the chosen scores.
  template <class Block> SMALTI_HD void add_chosen(Block& block, tile<Block, float, m, w>& ds, const tile<Block, float, m, w>& s, int first) const {
    tile<Block, int, m, k> ids;
    tile<Block, float, m, k> u, chosen, value, terms;
    column<Block, int, m> place;
    column<Block, float, m> score, shift, sum, factor, dot;
    block.load(u, band(view<const float, 1>{x.gradient, x.tokens, x.choices, x.choices}, first, m), 0, 0);
    block.load(ids, band(view<const int, 1>{x.ids, x.tokens, x.choices, x.choices}, first, m), 0, 0);
    block.map([n = x.choices, experts = x.experts](auto e, auto c) { return where(c < n && e >= 0 && e < experts, e, -1); }, ids, ids, column_index{});
    block.fill(chosen, 0.0f);
    for (int j : block.steps(0, x.choices)) {
      column_of(block, place, ids, j);
      pick<m, w>(block, score, s, place);
      put_column(block, chosen, score, j);
    }
    if constexpr (norm::from_greatest) {
      block.map([](auto s, auto e) { return where(e >= 0, s, -0x1p101f); }, terms, chosen, ids);
      block.row_max(shift, terms);
      block.map([](auto s, auto most) { return s - most; }, chosen, chosen, shift);
    }
    block.fill(sum, 0.0f);
    block.fill(factor, 1.0f);
    if constexpr (norm::divides) {
      block.map([n = x.norm](auto s, auto e) { return where(e >= 0, n.term(s), 0.0f); }, terms, chosen, ids);
      block.row_sum(sum, terms);
      block.map([n = x.norm](auto sum) { return n.factor(sum); }, factor, sum);
    }
    block.map([n = x.norm](auto s, auto e) { return where(e >= 0, n.value(s), 0.0f); }, value, chosen, ids);
    block.map([scale = x.scale](auto u, auto value, auto factor) { return u * value * factor * scale; }, terms, u, value, factor);
    block.row_sum(dot, terms);
    block.map([n = x.norm, scale = x.scale](auto u, auto s, auto value, auto dot, auto sum, auto e) {
      return where(e >= 0, n.gradient(u, s, value, dot, sum, scale), 0.0f);
    }, terms, u, chosen, value, dot, sum, ids);
    for (int j : block.steps(0, x.choices)) {
      column_of(block, place, ids, j);
      pick_column(block, score, terms, j);
      block.map([](auto d, auto add, auto p, auto c) { return where(c == p, d + add, d); }, ds, ds, score, place, column_index{});
    }
  }
  template <class Block> SMALTI_HD static void pick_column(Block& block, column<Block, float, m>& out, const tile<Block, float, m, k>& t, int j) {
    tile<Block, float, m, k> one;
    block.map([=](auto v, auto c) { return where(c == j, v, 0.0f); }, one, t, column_index{});
    block.row_sum(out, one);
  }
  template <class Block> SMALTI_HD static void column_of(Block& block, column<Block, int, m>& out, const tile<Block, int, m, k>& t, int j) {
    tile<Block, int, m, k> one;
    block.map([=](auto v, auto c) { return where(c == j, v, 0); }, one, t, column_index{});
    block.row_sum(out, one);
  }
  // The gradient of z_loss lse^2; lse = z_i - log p_i at the greatest.
  template <class Block> SMALTI_HD void add_z_loss(Block& block, tile<Block, float, m, w>& dz, const tile<Block, float, m, w>& z, const tile<Block, float, m, w>& s) const {
    tile<Block, float, m, w> inside;
    column<Block, float, m> most, share;
    block.map([n = x.experts](auto z, auto c) { return where(c < n, z, -0x1p101f); }, inside, z, column_index{});
    block.row_max(most, inside);
    block.row_max(share, s);
    block.map([factor = 2 * x.z_loss](auto z, auto p) { return (z - log2(p) * 0.6931471805599453f) * factor; }, most, most, share);
    block.map([](auto d, auto p, auto lse) { return d + p * lse; }, dz, dz, s, most);
  }
};

}  // namespace smalti::inline SMALTI_CODE::route
