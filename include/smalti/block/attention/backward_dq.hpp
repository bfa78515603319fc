// The gradient of the queries: one block makes m rows of dq of one head and walks over the keys.
//
//     s = q k',  w = weight(s),  ds = gradient(w, s, do v', delta),  dq = scale sum over key tiles of ds k
//
// Scores are computed again from the log-sum-exps that the forward pass left (Dao 2023, arXiv:2307.08691). Three products
// of 2 m n d operations a step; nothing is shared with other blocks.
#pragma once
#include <type_traits>
#include <smalti/block/attention/backward_state.hpp>
#include <smalti/tile/grid.hpp>

namespace smalti::inline SMALTI_CODE::attention {

template <backward_tuning Tuning, class Problem>
struct backward_dq_agent {
  using arguments = typename Problem::arguments;
  using element = typename Problem::element;
  static constexpr int m = Tuning.m, n = Tuning.n, d = Problem::d, dv = Problem::dv, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  static constexpr int parts = Tuning.channels == 0 ? 1 : ceil_div(d, Tuning.channels);
  using chunks = policy::chunks<d, Tuning.chunk>;
  using value_chunks = policy::chunks<dv, Tuning.chunk>;
  using made = std::conditional_t<Tuning.channels == 0, chunks, policy::chunks<Tuning.channels == 0 ? d : Tuning.channels, Tuning.channels>>;
  static_assert(m <= row_numbers::padding, "smalti: a tile of queries reaches no further than the padding of their numbers: choose m of at most 256 in the tuning");
  arguments x;

  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.q.rows, m) * parts, x.q.heads, x.q.sequences}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int part = block.x() % parts, i = block.x() / parts, head = block.y(), s = block.z();
    const int queries = x.q.length(s), keys = x.k.length(s), kv_head = head / x.heads_per_kv;
    const policy::span rows{i * m, i * m + m < queries ? i * m + m : queries};
    if (rows.first >= queries) return;
    const auto scores = Problem::scores_at(x, s, head);
    const step_of_keys<Block> step{x.q.at(s, head), x.d_o.at(s, head), x.k.at(s, kv_head), x.v.at(s, kv_head), scores, x.gradient, i, part};

    state<Block> t;
    if constexpr (Tuning.held) {
      t.q.load(block, step.q, i);
      t.d_o.load(block, step.d_o, i);
    }
    if constexpr (Problem::by_rows) {
      block.load(t.lse, transposed(x.numbers.of(x.numbers.lse, x.q, s)), i, head);
      block.load(t.delta, transposed(x.numbers.of(x.numbers.delta, x.q, s)), i, head);
    } else {
      block.fill(t.lse, 0.0f);
      block.fill(t.delta, 0.0f);
    }
    t.dq.clear(block);

    const policy::span seen = scores.mask.keys(rows, keys);
    const int begin = seen.first / n, end = ceil_div(seen.last, n);
    if constexpr (policy::has_classify<typename Problem::mask>) {
      for (int j : block.steps(begin, end)) {
        const policy::tile_class what = scores.mask.classify(rows, {j * n, j * n + n < keys ? j * n + n : keys});
        if (what == policy::tile_class::full && j * n + n <= keys) step.template take<false>(block, t, j);
        else if (what != policy::tile_class::skip) step.template take<true>(block, t, j);
      }
    } else {
      // Tiles that the mask or the end of the keys cuts, before and behind the whole ones, then those.
      const policy::span whole = scores.mask.whole(rows, keys);
      const int first = ceil_div(whole.first, n), last = whole.last / n, wholes = last > first ? last - first : 0;
      const int cut = end - begin - wholes, before = wholes > 0 ? first - begin : cut;
      for (int u : block.steps(0, cut)) step.template take<true>(block, t, u < before ? begin + u : last + u - before);
      for (int j : block.steps(first, first + wholes)) step.template take<false>(block, t, j);
    }
    t.dq.store(block, x.dq.at(s, head), i, part, mutant(defect::dq_not_scaled) ? 1.0f : x.scale);
  }

private:
  template <class Block> struct state {
    left_rows<Block, element, m, std::conditional_t<Tuning.held, chunks, no_chunks>> q;
    left_rows<Block, element, m, std::conditional_t<Tuning.held, value_chunks, no_chunks>> d_o;
    column<Block, float, m> lse, delta;
    row_sums<Block, m, made> dq;
  };

  // One tile of keys.
  template <class Block> struct step_of_keys {
    view<const element> q, d_o, k, v;
    typename Problem::scores scores;
    typename Problem::gradient gradient;
    int i, part;

    template <bool Masked> SMALTI_HD void take(Block& block, state<Block>& t, int j) const {
      tile<Block, float, m, n> s, dp;
      if constexpr (Tuning.held) {
        t.q.times_rows(block, s, k, j);
        t.d_o.times_rows(block, dp, v, j);
      } else {
        product_of_rows<element, chunks>(block, s, q, i, k, j);
        product_of_rows<element, value_chunks>(block, dp, d_o, i, v, j);
      }
      left<Block, element, m, n> ds;
      block.map_left([of = masked_gradient<Masked, typename Problem::scores, typename Problem::gradient>{scores, gradient}, first = i * m, begin = j * n](auto v, auto dp, auto lse, auto delta, auto r, auto c) {
        return of.slope(of.weight(v, first + r, begin + c, lse), v, dp, delta, first + r, begin + c);
      }, ds, s, dp, t.lse, t.delta, row_index{}, column_index{});
      t.dq.add(block, ds, k, j, part);
    }
  };
};

}  // namespace smalti::inline SMALTI_CODE::attention
