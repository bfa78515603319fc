// The gradients of keys and values: one block makes n rows of dk and dv of one head of keys and walks over the queries
// of all heads that share it, head after head, so that their sum has one order.
//
//     s' = k q',  w' = weight(s'),  dv = sum over query tiles of w' do,
//     ds' = gradient(w', s', v do', delta),  dk = scale sum of ds' q
//
// Keys lie in the rows of every tile: weights come out of the product the way the next product wants them, and nothing
// is turned. Four products of 2 m n d operations a step; where two accumulators are too many, dv and dk are made by a
// launch each (backward_results), with five.
#pragma once
#include <type_traits>
#include <smalti/block/attention/backward_state.hpp>
#include <smalti/tile/grid.hpp>

namespace smalti::inline SMALTI_CODE::attention {

enum class backward_results { both, values, keys };

template <backward_tuning Tuning, class Problem, backward_results Results = backward_results::both>
struct backward_dkdv_agent {
  using arguments = typename Problem::arguments;
  using element = typename Problem::element;
  static constexpr int m = Tuning.m, n = Tuning.n, d = Problem::d, dv = Problem::dv, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  static constexpr bool makes_keys = Results != backward_results::values, makes_values = Results != backward_results::keys;
  static constexpr int widest = makes_keys && (!makes_values || d > dv) ? d : dv;
  static constexpr int parts = Tuning.channels == 0 ? 1 : ceil_div(widest, Tuning.channels);
  using chunks = policy::chunks<d, Tuning.chunk>;
  using value_chunks = policy::chunks<dv, Tuning.chunk>;
  using part_chunks = policy::chunks<Tuning.channels == 0 ? d : Tuning.channels, Tuning.channels>;
  template <bool Wanted, class All> using if_wanted = std::conditional_t<Wanted, All, no_chunks>;
  static_assert(m <= row_numbers::padding, "smalti: a tile of queries reaches no further than the padding of their numbers: choose m of at most 256 in the tuning");
  arguments x;

  static constexpr grid blocks(const arguments& x) {
    return {ceil_div(x.k.rows, n) * parts, x.k.heads, x.k.sequences};
  }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int part = block.x() % parts, j = block.x() / parts, kv_head = block.y(), s = block.z();
    const int queries = x.q.length(s), keys = x.k.length(s);
    const policy::span rows{j * n, j * n + n < keys ? j * n + n : keys};
    if (rows.first >= keys) return;
    const view<const element> k = x.k.at(s, kv_head), v = x.v.at(s, kv_head);

    state<Block> t;
    if constexpr (Tuning.held) {
      t.k.load(block, k, j);
      if constexpr (makes_keys) t.v.load(block, v, j);
    }
    if constexpr (makes_keys) t.dk.clear(block);
    if constexpr (makes_values) t.dv.clear(block);

    // All heads of the group in one loop, not a loop in a loop: an accumulator carried through nested loops spills on a GPU.
    const int group = mutant(defect::first_head_of_group_only) ? 1 : x.heads_per_kv;
    const step_of_queries<Block> step{group_rows(x.q, s, kv_head * x.heads_per_kv), group_rows(x.d_o, s, kv_head * x.heads_per_kv), k, v,
                                      numbers_of(x, x.numbers.lse, s), numbers_of(x, x.numbers.delta, s),
                                      scores_of_group(x, s, kv_head), x.gradient, kv_head * x.heads_per_kv, j, part};
    if constexpr (policy::has_classify<typename Problem::mask> || policy::differs_by_head<typename Problem::unbound_mask>) {
      const int tiles = ceil_div(queries, m);
      for (int u : block.steps(0, group * tiles)) {
        const int g = u / tiles, i = u % tiles;
        const policy::tile_class what = policy::classify(step.scores.at(g).mask, {i * m, i * m + m < queries ? i * m + m : queries}, rows);
        if (what == policy::tile_class::full) step.template take<false>(block, t, g, i);
        else if (what != policy::tile_class::skip) step.template take<true>(block, t, g, i);
      }
    } else {
      // Tiles that the mask cuts, before and behind the whole ones, then those. Rows past the last query weigh nothing (their
      // log-sum-exp is infinite), so a ragged last tile may be whole.
      const auto mask = step.scores.at(0).mask;
      const policy::span seen = policy::queries(mask, rows, queries), whole = policy::whole_queries(mask, rows, queries);
      const int begin = seen.first / m, end = mutant(defect::last_queries_dropped) ? seen.last / m : ceil_div(seen.last, m);
      const int first = mutant(defect::partial_queries_taken_as_whole) ? whole.first / m : ceil_div(whole.first, m);
      const int last = whole.last == queries ? ceil_div(queries, m) : whole.last / m, wholes = last > first ? last - first : 0;
      const int cut = end - begin - wholes, before = wholes > 0 ? first - begin : cut;
      for (int u : block.steps(0, group * cut)) step.template take<true>(block, t, u / cut, u % cut < before ? begin + u % cut : last + u % cut - before);
      for (int u : block.steps(0, group * wholes)) step.template take<false>(block, t, u / wholes, first + u % wholes);
    }
    if constexpr (makes_keys) t.dk.store(block, x.dk.at(s, kv_head), j, part, mutant(defect::dk_not_scaled) ? 1.0f : x.scale);
    if constexpr (makes_values) t.dv.store(block, x.dv.at(s, kv_head), j, part, 1.0f);
  }

private:
  template <class Block> struct state {
    left_rows<Block, element, n, if_wanted<Tuning.held, chunks>> k;
    left_rows<Block, element, n, if_wanted<Tuning.held && makes_keys, value_chunks>> v;
    row_sums<Block, n, if_wanted<makes_keys, std::conditional_t<Tuning.channels == 0, chunks, part_chunks>>> dk;
    row_sums<Block, n, if_wanted<makes_values, std::conditional_t<Tuning.channels == 0, value_chunks, part_chunks>>> dv;
  };

  using rows_of_group = stack<const element>;
  SMALTI_HD rows_of_group group_rows(const head_rows<const element>& r, int s, int head) const {
    return {r.begin(s, head), x.heads_per_kv, r.length(s), r.cols, r.head_stride, r.row_stride};
  }

  static SMALTI_HD view<const float> numbers_of(const arguments& x, const float* numbers, int s) {
    if constexpr (Problem::by_rows) return x.numbers.of(numbers, x.q, s);
    else return {};
  }

  // What differs by head is bound again for each; the rest is bound once and costs a loop no registers.
  static constexpr bool by_head = policy::differs_by_head<typename Problem::unbound_mask> || policy::differs_by_head<typename Problem::unbound_score>;
  struct bound_again {
    arguments x;
    int s, first;
    SMALTI_HD auto at(int g) const { return Problem::scores_at(x, s, first + g); }
  };
  struct bound_once {
    typename Problem::scores scores;
    SMALTI_HD auto at(int) const { return scores; }
  };
  using group_scores = std::conditional_t<by_head, bound_again, bound_once>;
  static SMALTI_HD group_scores scores_of_group(const arguments& x, int s, int kv_head) {
    if constexpr (by_head) return {x, s, kv_head * x.heads_per_kv};
    else return {Problem::scores_at(x, s, kv_head * x.heads_per_kv)};
  }

  // One tile of queries of one head of the group.
  template <class Block> struct step_of_queries {
    rows_of_group all_q, all_d_o;
    view<const element> k, v;
    view<const float> lse, delta;
    group_scores scores;
    typename Problem::gradient gradient;
    int first_head, j, part;

    template <bool Masked> SMALTI_HD void take(Block& block, state<Block>& t, int g, int i) const {
      const nth_rows<element> q{all_q, g}, d_o{all_d_o, g};
      tile<Block, float, n, m> s, w;
      row<Block, float, m> row_lse, row_delta;
      const masked_gradient<Masked, typename Problem::scores, typename Problem::gradient> of{scores.at(g), gradient};
      if constexpr (Problem::by_rows) {
        block.load(row_lse, lse, mutant(defect::numbers_of_wrong_head) ? 0 : first_head + g, i);
        if constexpr (makes_keys) block.load(row_delta, delta, first_head + g, i);
      } else {
        block.fill(row_lse, 0.0f);
        if constexpr (makes_keys) block.fill(row_delta, 0.0f);
      }
      if constexpr (Tuning.held) t.k.times_rows(block, s, q, i);
      else product_of_rows<element, chunks>(block, s, k, j, q, i);
      const auto weight = [of, first = i * m, begin = j * n](auto v, auto lse, auto r, auto c) { return of.weight(v, first + c, begin + r, lse); };
      left<Block, element, n, m> operand;
      if constexpr (makes_keys) block.map(weight, w, s, row_lse, row_index{}, column_index{});
      if constexpr (makes_values) {
        if constexpr (makes_keys) block.as_left(operand, w);
        else block.map_left(weight, operand, s, row_lse, row_index{}, column_index{});
        t.dv.add(block, operand, d_o, i, part);
      }
      if constexpr (makes_keys) {
        tile<Block, float, n, m> dp;
        if constexpr (Tuning.held) t.v.times_rows(block, dp, d_o, i);
        else product_of_rows<element, value_chunks>(block, dp, v, j, d_o, i);
        block.map_left([of, first = i * m, begin = j * n](auto w, auto v, auto dp, auto delta, auto r, auto c) {
          return of.slope(w, v, dp, delta, first + c, begin + r);
        }, operand, w, s, dp, row_delta, row_index{}, column_index{});
        t.dk.add(block, operand, q, i, part);
      }
    }
  };
};

}  // namespace smalti::inline SMALTI_CODE::attention
