// The attention agent: forward, online softmax in base 2 (FlashAttention-2, arXiv:2307.08691). One block makes
// `m` query rows of one head. Where keys live and which keys a query sees are policies.
#pragma once
#include <smalti/block/attention/kv.hpp>
#include <smalti/core/float.hpp>
#include <smalti/policy/mask.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

struct attention_tuning {
  int m, n;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const attention_tuning&) const = default;
};

//! D: head dim. Kv: where keys live. Out: element of the result. Mask: which keys a query sees.
template <int D, class Kv, class Out, class Mask>
struct flash_problem {
  static constexpr int d = D;
  struct arguments {
    stack<const bf16> q;        //!< [head][query][d]
    stack<Out> o;
    view<float, 1> lse;         //!< [head][query], base 2: log2 of the sum of 2^score; -inf where a query sees no key
    int heads_per_kv;
    float scale;                //!< of the scores, times log2(e); positive: rows are scaled after their maximum is taken
    Kv kv;
    Mask mask;
  };
};

template <attention_tuning Tuning, class Problem>
struct flash_agent {
  using arguments = typename Problem::arguments;
  static constexpr int m = Tuning.m, n = Tuning.n, d = Problem::d, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;

  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.q.rows, m), x.q.count, 1}; }

  template <class Block> struct state {
    tile<Block, float, m, d> o;
    column<Block, float, m> max, sum;
  };

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), head = block.y(), length = x.kv.length();
    const int first = i * m, last = first + m < x.q.rows ? first + m : x.q.rows;

    left<Block, bf16, m, d> queries;
    block.load(queries, x.q, head, i, 0);
    state<Block> s;
    block.fill(s.o, 0.0f);
    block.fill(s.max, mutant(defect::max_starts_at_zero) ? 0.0f : -1e30f);          // finite: a row with no key yet must not make inf - inf
    block.fill(s.sum, 0.0f);

    const policy::span keys = x.mask.keys({first, last}, length), whole = x.mask.whole({first, last}, length);
    const int begin = keys.first / n, end = mutant(defect::last_keys_dropped) ? keys.last / n : ceil_div(keys.last, n);
    const int whole_begin = ceil_div(whole.first, n), whole_end = mutant(defect::partial_tile_taken_as_whole) ? ceil_div(whole.last, n) : whole.last / n;
    for (int j : block.steps(begin, whole_begin < end ? whole_begin : end)) step<true>(block, queries, s, head, first, j);
    for (int j : block.steps(whole_begin, whole_end)) step<false>(block, queries, s, head, first, j);
    for (int j : block.steps(whole_end > whole_begin ? whole_end : whole_begin, end)) step<true>(block, queries, s, head, first, j);

    block.map([v_scale = mutant(defect::value_scale_forgotten) ? 1.0f : x.kv.v_scale](auto o, auto sum) { return over(o * v_scale, max(sum, 1e-30f)); }, s.o, s.o, s.sum);
    block.store(x.o, head, i, 0, s.o);
    block.map([](auto max, auto sum) { return mutant(defect::lse_without_sum) ? max : max + log2(sum); }, s.max, s.max, s.sum);
    block.store_column(x.lse, head, i, s.max);
  }

  // One tile of keys: S = Q K', P = 2^(S - max), O = O alpha + P V.
  template <bool Masked, class Block>
  SMALTI_HD void step(Block& block, const left<Block, bf16, m, d>& queries, state<Block>& state, int head, int first, int j) const {
    right<Block, bf16, d, n> k;
    tile<Block, float, m, n> s;
    x.kv.template load_key<Masked>(block, k, mutant(defect::key_of_wrong_head) ? head % x.heads_per_kv : head / x.heads_per_kv, j);
    block.fill(s, 0.0f);
    block.product(s, queries, k);
    if constexpr (Masked)
      block.map([=, first = mutant(defect::mask_row_in_tile) ? 0 : first, mask = x.mask, length = x.kv.length()](auto score, auto r, auto c) {
        return where(mask.visible(first + r, j * n + c) && j * n + c < length + (mutant(defect::tail_not_masked) ? n : 0), score, -__builtin_inff());
      }, s, s, row_index{}, column_index{});

    const float scaled = x.scale * (mutant(defect::key_scale_forgotten) ? 1.0f : x.kv.k_scale);
    column<Block, float, m> peak, alpha, sum;
    block.row_max(peak, s);
    block.map([=](auto old, auto top) { return max(old, top * scaled); }, peak, state.max, peak);
    block.map([](auto old, auto top) { return exp2(old - top); }, alpha, state.max, peak);
    block.map([=](auto score, auto top) { return exp2(score * scaled - top); }, s, s, peak);
    block.row_sum(sum, s);
    block.map([](auto total, auto a, auto more) { return mutant(defect::sum_not_rescaled) ? total + more : total * a + more; }, state.sum, state.sum, alpha, sum);
    block.map([](auto o, auto a) { return mutant(defect::output_not_rescaled) ? o : o * a; }, state.o, state.o, alpha);
    if (!mutant(defect::max_not_kept)) block.map([](auto top) { return top; }, state.max, peak);

    left<Block, bf16, m, n> p;
    right<Block, bf16, n, d> v;
    block.as_left(p, s);
    x.kv.template load_value<Masked>(block, v, head / x.heads_per_kv, j);
    block.product(state.o, p, v);
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
