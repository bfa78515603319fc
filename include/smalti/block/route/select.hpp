// The router: one block takes `m` tokens from their logits to experts and weights. Scores, keys, selection by k greatest codes, norm;
// all in tiles, so that a token's answer does not depend on its neighbours.
#pragma once
#include <smalti/block/route/scores.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/route/scorer.hpp>
#include <smalti/policy/route/selector.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::route {

struct route_tuning {
  int m;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const route_tuning&) const = default;
};

//! W, K: experts and choices at most, as powers of two.
template <class Logit, class Scorer, class Bias, class Selector, class Norm, int W, int K> struct route_problem {
  static constexpr int w = W, k = K;
  using logit = Logit;
  using scorer_policy = Scorer;
  using bias_policy = Bias;
  using selector_policy = Selector;
  using norm_policy = Norm;
  struct arguments {
    view<const Logit, 1> logits;       //!< a row for each token, or for each task
    int tokens, experts, choices;
    Scorer scorer;
    Bias bias;
    Selector selector;
    Norm norm;
    float scale;
    view<int, 1> ids;                  //!< tokens x choices, -1: none
    view<float, 1> weights;            //!< tokens x choices
    float* importance;                 //!< the greatest score of each token; may be null
    float* identity_weight;            //!< what the experts from `computed` on weigh together; may be null
    int computed;
  };
};

template <route_tuning Tuning, class Problem> struct route_agent {
  using arguments = typename Problem::arguments;
  using scorer = typename Problem::scorer_policy;
  using bias = typename Problem::bias_policy;
  using selector = typename Problem::selector_policy;
  using norm = typename Problem::norm_policy;
  static constexpr int m = Tuning.m, w = Problem::w, k = Problem::k, g = 32, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;

  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.tokens, m), 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int first = block.x() * m;
    const score_source<m, w, typename Problem::logit, scorer> source{x.logits, x.tokens, x.experts, x.scorer};
    tile<Block, float, m, w> z, s;
    source.load(block, z, first);
    source.score(block, s, z);
    if (x.importance != nullptr) {
      tile<Block, float, m, w> there;
      column<Block, float, m> most;
      block.map([n = x.experts](auto s, auto c) { return where(c < n, s, -0x1p101f); }, there, s, column_index{});
      block.row_max(most, there);
      block.store_column(view<float, 1>{x.importance, 1, x.tokens, x.tokens}, 0, block.x(), most);
    }

    tile<Block, int, m, k> ids;
    tile<Block, float, m, k> weights;
    block.fill(ids, -1);
    block.fill(weights, 0.0f);
    if constexpr (selector::given) take_given(block, ids, weights, s, first);
    else take_greatest(block, ids, weights, s, z, first);

    normalize(block, weights, ids);
    if (x.identity_weight != nullptr) {
      tile<Block, float, m, k> identities;
      column<Block, float, m> sum;
      block.map([from = x.computed](auto w, auto e) { return where(e >= from, w, 0.0f); }, identities, weights, ids);
      block.row_sum(sum, identities);
      block.store_column(view<float, 1>{x.identity_weight, 1, x.tokens, x.tokens}, 0, block.x(), sum);
    }
    block.store(band(x.ids, first, m), 0, 0, ids);
    block.store(band(x.weights, first, m), 0, 0, weights);
  }

private:
  template <class Block> SMALTI_HD void take_given(Block& block, tile<Block, int, m, k>& ids, tile<Block, float, m, k>& weights, const tile<Block, float, m, w>& s, int first) const {
    column<Block, int, m> place;
    column<Block, float, m> score;
    for (int j : block.steps(0, x.choices)) {
      block.map([=, f = x.selector, n = x.choices, tokens = x.tokens, experts = x.experts](auto r) {
        const auto e = f.expert(r + first, r * 0 + j, n);
        return where(r + first < tokens && e >= 0 && e < experts, e, -1);
      }, place, row_index{});
      pick<m, w>(block, score, s, place);
      put_column(block, ids, place, j);
      put_column(block, weights, score, j);
    }
  }

  template <class Block>
  SMALTI_HD void take_greatest(Block& block, tile<Block, int, m, k>& ids, tile<Block, float, m, k>& weights, const tile<Block, float, m, w>& s, tile<Block, float, m, w>& z, int first) const {
    make_keys(block, z, s, first);
    tile<Block, int, m, w> code;
    block.map([n = x.experts](auto key, auto c) { return where(c < n, key_code(key), out_code()); }, code, z, column_index{});
    if constexpr (selector::groups) keep_groups(block, code, z);

    column<Block, int, m> place;
    column<Block, float, m> score, mass;
    block.fill(mass, 0.0f);
    for (int j : block.steps(0, x.choices)) {
      take_best<m, w>(block, place, code);
      if (mutant(defect::route_key_is_the_weight)) pick<m, w>(block, score, z, place);
      else pick<m, w>(block, score, s, place);
      if constexpr (selector::stops) {
        block.map([most = j > 0 ? x.selector.mass : 0x1p100f](auto p, auto before) { return where(before >= most, -1, p); }, place, place, mass);
        block.map([](auto before, auto s) { return before + s; }, mass, mass, score);
        block.map([](auto s, auto p) { return where(p < 0, 0.0f, s); }, score, score, place);
      }
      put_column(block, ids, place, j);
      put_column(block, weights, score, j);
    }
  }

  // z becomes what is compared.
  template <class Block> SMALTI_HD void make_keys(Block& block, tile<Block, float, m, w>& z, const tile<Block, float, m, w>& s, int first) const {
    if constexpr (bias::active) {
      row<Block, float, w> added;
      if constexpr (bias::reads_row) block.load(added, view<const float, 1>{x.bias.data, 1, x.experts, x.experts}, 0, 0);
      else block.fill(added, 0.0f);
      if constexpr (bias::reads_place) {
        tile<Block, int, m, w> token, expert;
        score_source<m, w, typename Problem::logit, scorer>::places(block, token, expert, first);
        block.map([b = x.bias](auto s, auto z, auto a, auto t, auto e) { return policy::finite_logit(b.key(s, z, a, t, e)); }, z, s, z, added, token, expert);
      } else {
        block.map([b = x.bias](auto s, auto z, auto a) { return policy::finite_logit(b.key(s, z, a, 0, 0)); }, z, s, z, added);
      }
    }
  }

  // Codes of experts outside the best groups are out.
  template <class Block> SMALTI_HD void keep_groups(Block& block, tile<Block, int, m, w>& code, const tile<Block, float, m, w>& key) const {
    const int count = x.selector.count, width = x.experts / count;
    tile<Block, float, m, g> groups;
    tile<Block, int, m, g> order;
    block.fill(groups, 0.0f);
    for (int j : block.steps(0, count)) {
      tile<Block, int, m, w> mine_code;
      column<Block, int, m> place;
      column<Block, float, m> best, second;
      block.map([low = j * width, high = j * width + width](auto code, auto c) { return where(c >= low && c < high, code, out_code()); }, mine_code, code, column_index{});
      take_best<m, w>(block, place, mine_code);
      pick<m, w>(block, best, key, place);
      take_best<m, w>(block, place, mine_code);
      pick<m, w>(block, second, key, place);
      block.map([two = x.selector.by == policy::group_score::two_greatest && !mutant(defect::route_group_by_greatest) ? 1.0f : 0.0f](auto a, auto b) { return a + b * two; }, best, best, second);
      put_column(block, groups, best, j);
    }
    block.map([=](auto key, auto c) { return where(c < count, key_code(key), out_code()); }, order, groups, column_index{});
    tile<Block, int, m, w> kept;
    block.fill(kept, 0);
    for ([[maybe_unused]] int j : block.steps(0, x.selector.kept)) {
      column<Block, int, m> place;
      take_best<m, g>(block, place, order);
      block.map([=](auto kept, auto p, auto c) { return where(c >= p * width && c < (p + 1) * width, 1, kept); }, kept, kept, place, column_index{});
    }
    block.map([none = mutant(defect::route_masks_with_zero) ? 0 : out_code()](auto code, auto kept) { return where(kept == 1, code, none); }, code, code, kept);
  }

  template <class Block> SMALTI_HD void normalize(Block& block, tile<Block, float, m, k>& weights, const tile<Block, int, m, k>& ids) const {
    column<Block, float, m> shift, sum;
    tile<Block, float, m, k> terms;
    if constexpr (norm::from_greatest) {
      block.map([](auto s, auto e) { return where(e >= 0, s, -0x1p101f); }, terms, weights, ids);
      block.row_max(shift, terms);
      block.map([](auto s, auto most) { return s - most; }, weights, weights, shift);
    }
    if constexpr (norm::divides) {
      block.map([n = x.norm](auto s, auto e) { return where(e >= 0, n.term(s), 0.0f); }, terms, weights, ids);
      block.row_sum(sum, terms);
      block.map([n = x.norm, scale = x.scale](auto sum) { return n.factor(sum) * scale; }, sum, sum);
      block.map([n = x.norm](auto s, auto e, auto factor) { return where(e >= 0, n.value(s) * factor, 0.0f); }, weights, weights, ids, sum);
    } else {
      block.map([n = x.norm, scale = x.scale](auto s, auto e) { return where(e >= 0, n.value(s) * scale, 0.0f); }, weights, weights, ids);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::route
