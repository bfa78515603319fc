// How much attention some queries pay to each key: the score pass of a cache that is to be compressed. Probabilities are
// recomputed from the log-sum-exps that attention left behind, and summed in float: never rounded to 16 bits before they are
// summed, since ties would then choose what is kept.
//     score[j] = kept score[j] + sum over queries i and heads of weight(i) exp(scale q_i . k_j - lse_i),      j not after i
// One block makes one tile of keys of one row of scores; its keys are loaded once for all heads and queries of the row.
#pragma once
#include <smalti/block/attention/kv.hpp>
#include <smalti/block/attention/rows.hpp>
#include <smalti/block/attention/state.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/chunks.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! m query rows (of all heads that are reduced together) by n keys; chunk as in attention_tuning.
struct mass_tuning {
  int m, n, chunk;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const mass_tuning&) const = default;
};

//! T: element of queries and of the product. Maximum: over the query heads of a key head, else their sum. Shared: several key heads make one row of scores.
template <class T, int D, class Kv, bool Maximum = false, bool Shared = false> struct mass_problem {
  using element = T;
  static constexpr int d = D;
  static constexpr bool maximum = Maximum, shared = Shared;
  struct arguments {
    head_rows<const T> q;             //!< the last rows of each sequence
    head_rows<const float> lse;       //!< of these rows
    Kv kv;
    int heads_per_kv;
    int heads_per_row, rows;          //!< key heads whose scores are one row: those that share a track; rows of a sequence
    int fresh;                        //!< of the last tokens nothing is kept: they are new; negative: all are
    float scale, bits;                //!< of products to exponents of 2, and of the lse to them
    float age;                        //!< added to the exponent for each row that comes after: log2 of a decay
    float weight, kept;
    view<float, 1> scores;            //!< [sequence * rows + row][token]; past the length nothing is written
  };
};

template <mass_tuning Tuning, class Problem>
struct mass_agent {
  using arguments = typename Problem::arguments;
  using element = typename Problem::element;
  static constexpr int m = Tuning.m, n = Tuning.n, d = Problem::d, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using chunks = policy::chunks<d, Tuning.chunk>;
  arguments x;

  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.kv.longest(), n), x.q.sequences, x.kv.heads() / x.heads_per_row}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), sequence = block.y(), r = block.z();
    const auto first = x.kv.at(sequence, r * x.heads_per_row);
    const int length = first.length(), queries = x.q.length(sequence);
    if (j * n >= length) return;
    row<Block, float, n> total;
    block.fill(total, 0.0f);
    if constexpr (Problem::shared) {
      of_heads(block, total, sequence, r, j, length, queries);
    } else {
      of_head(block, total, first, sequence, r, j, queries);
    }
    const view<float, 1> out{x.scores.data + (sequence * x.rows + r) * static_cast<long long>(x.scores.stride), 1, length, x.scores.stride};
    if (x.kept != 0.0f && x.fresh >= 0) {
      row<Block, float, n> old;
      block.load(old, out, 0, j);
      block.map([=, weight = x.weight, kept = x.kept, known = length - x.fresh](auto v, auto o, auto c) { return v * weight + where(j * n + c < known, o * kept, 0.0f); }, total, total, old, column_index{});
    } else {
      block.map([weight = x.weight](auto v) { return v * weight; }, total, total);
    }
    block.store(out, 0, j, total);
  }

private:
  // Adds what the query heads of one key head pay to a tile of its keys, or their maximum. Heads and tiles of queries are one
  // loop: of nested loops the inner one's tiles would live in memory on a GPU.
  template <class Block, class Total, class Head> SMALTI_HD void of_head(Block& block, Total& total, const Head& kv, int sequence, int h, int j, int queries) const {
    pieces<chunks, shapes<Block>::template keys> keys;
    load_keys<0>(block, keys, kv, j);
    const int group = Problem::maximum ? 1 : x.heads_per_kv, all = queries * group, origin = kv.length() - queries;
    // Queries before the tile's first key do not see it.
    const int from = j * n > origin ? (j * n - origin) * group / m : 0, tiles = ceil_div(all, m) - from;
    if constexpr (Problem::maximum) {
      row<Block, float, n> sum, greatest, more;
      block.fill(sum, 0.0f);
      block.fill(greatest, 0.0f);
      for (int u : block.steps(0, x.heads_per_kv * tiles)) {
        add(block, more, keys, sequence, h * x.heads_per_kv + u / tiles, group, (from + u % tiles) * m, all, j * n, origin);
        const float carried = u % tiles == 0 ? 0.0f : 1.0f;
        block.map([=](auto s, auto a) { return s * carried + a; }, sum, sum, more);
        block.map([](auto a, auto b) { return max(a, b); }, greatest, greatest, sum);       // sums grow: the last one counts
      }
      block.map([](auto a, auto b) { return a + b; }, total, total, greatest);
    } else {
      row<Block, float, n> more;
      for (int i : block.steps(from, from + tiles)) {
        add(block, more, keys, sequence, h * x.heads_per_kv, group, i * m, all, j * n, origin);
        block.map([](auto a, auto b) { return a + b; }, total, total, more);
      }
    }
  }

  // The same for several key heads that make one row: all is one loop, and a tile of keys is loaded for each tile of queries.
  template <class Block, class Total> SMALTI_HD void of_heads(Block& block, Total& total, int sequence, int r, int j, int length, int queries) const {
    const int group = Problem::maximum ? 1 : x.heads_per_kv, all = queries * group, origin = length - queries;
    const int from = j * n > origin ? (j * n - origin) * group / m : 0, tiles = ceil_div(all, m) - from, parts = x.heads_per_kv / group;
    row<Block, float, n> sum, greatest, more;
    block.fill(sum, 0.0f);
    block.fill(greatest, 0.0f);
    for (int u : block.steps(0, x.heads_per_row * parts * tiles)) {
      const int part = u / tiles, h = r * x.heads_per_row + part / parts;
      const auto kv = x.kv.at(sequence, h);
      pieces<chunks, shapes<Block>::template keys> keys;
      load_keys<0>(block, keys, kv, j);
      add(block, more, keys, sequence, h * x.heads_per_kv + part % parts * group, group, (from + u % tiles) * m, all, j * n, origin);
      if constexpr (Problem::maximum) {
        const float same_query_head = u % tiles == 0 ? 0.0f : 1.0f, same_key_head = u % (parts * tiles) == 0 ? 0.0f : 1.0f;
        block.map([=](auto t, auto g) { return t + g * (1.0f - same_key_head); }, total, total, greatest);
        block.map([=](auto s, auto a) { return s * same_query_head + a; }, sum, sum, more);
        block.map([=](auto g, auto s) { return max(g * same_key_head, s); }, greatest, greatest, sum);
      } else {
        block.map([](auto a, auto b) { return a + b; }, total, total, more);
      }
    }
    if constexpr (Problem::maximum) block.map([](auto a, auto b) { return a + b; }, total, total, greatest);
  }

  template <class Block> struct shapes {
    template <int W> using keys = right<Block, element, W, n>;
  };
  template <int I, class Block, class Keys, class Head> static SMALTI_HD void load_keys(Block& block, Keys& keys, const Head& kv, int j) {
    if constexpr (I < chunks::count) {
      constexpr int w = chunks::width(I);
      kv.template load_key<true, d>(block, keys.here, chunks::first(I) / w, j);
      load_keys<I + 1>(block, keys.next, kv, j);
    }
  }
  template <int I, class Block, class S, class Keys, class Rows> static SMALTI_HD void times(Block& block, S& s, const Keys& keys, const view<const element>& q, const Rows& rows) {
    if constexpr (I < chunks::count) {
      constexpr int w = chunks::width(I);
      left<Block, element, m, w> piece;
      block.load_rows(piece, q, rows, chunks::first(I) / w);
      if constexpr (I == 0) block.multiply(s, piece, keys.here);
      else block.product(s, piece, keys.here);
      times<I + 1>(block, s, keys.next, q, rows);
    }
  }
  // What the rows of one tile of queries pay; those past the end are copies of the last, and weigh nothing.
  template <class Block, class Sum, class Keys>
  SMALTI_HD void add(Block& block, Sum& more, const Keys& keys, int sequence, int head, int group, int first, int all, int first_key, int origin) const {
    const auto q = row_group<const element>::of(x.q, sequence, head, group);
    const auto l = row_group<const float, 1>::of(x.lse, sequence, head, group);
    column<Block, int, m> at;
    column<Block, float, m> reference;
    block.map([=](auto r) {
      const auto row = min(first + r, all - 1);
      return q.row(row / group, row % group);
    }, at, row_index{});
    block.map([=, bits = x.bits, age = x.age, stride = l.all.stride, last = all / group - 1](auto r) {
      const auto row = min(first + r, all - 1);
      return lookup(l.all.data, l.row(row / group, row % group) * stride, l.all.rows * stride) * bits - to_float(last - row / group) * age;
    }, reference, row_index{});
    tile<Block, float, m, n> s;
    times<0>(block, s, keys, q.all, at);
    block.map([=, scale = x.scale](auto v, auto b, auto r, auto c) {
      const auto row = first + r;
      return where(row < all && first_key + c <= origin + row / group, exp2(v * scale - b), 0.0f);
    }, s, s, reference, row_index{}, column_index{});
    block.column_sum(more, s);
  }
};

//! The log-sum-exps of some rows, where no attention left them: base 2, [sequence * heads + head][row].
template <class T, class Kv> struct mass_lse_arguments {
  head_rows<const T> q;
  Kv kv;
  int heads_per_kv;
  float scale;
  view<float> lse;
};
template <mass_tuning Tuning, class Problem>
struct mass_lse_agent {
  using arguments = mass_lse_arguments<typename Problem::element, decltype(Problem::arguments::kv)>;
  using element = typename Problem::element;
  static constexpr int m = Tuning.m, n = Tuning.n, d = Problem::d, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using chunks = policy::chunks<d, Tuning.chunk>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.q.rows, m), x.q.heads, x.q.sequences}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), head = block.y(), sequence = block.z(), queries = x.q.length(sequence);
    if (i * m >= queries) return;
    const auto kv = x.kv.at(sequence, head / x.heads_per_kv);
    const int length = kv.length(), origin = length - queries, seen = origin + (i + 1) * m < length ? origin + (i + 1) * m : length;
    const view<const element> q = x.q.at(sequence, head);
    pieces<chunks, shapes<Block>::template query_rows> rows;
    load<0>(block, rows, q, i);
    column<Block, float, m> largest, sum, top, more;
    block.fill(largest, -3e38f);
    block.fill(sum, 0.0f);
    for (int j : block.steps(0, ceil_div(seen, n))) {
      tile<Block, float, m, n> s;
      times<0>(block, s, rows, kv, j);
      block.map([=, scale = x.scale, first = i * m](auto v, auto r, auto c) { return where(j * n + c < length && j * n + c <= origin + first + r, v * scale, -__builtin_inff()); }, s, s, row_index{}, column_index{});
      block.row_max(top, s);
      block.map([](auto a, auto b) { return max(a, b); }, top, top, largest);
      block.map([](auto v, auto t) { return exp2(v - t); }, s, s, top);
      block.row_sum(more, s);
      block.map([](auto total, auto old, auto now, auto add) { return total * exp2(old - now) + add; }, sum, sum, largest, top, more);
      block.map([](auto now) { return now; }, largest, top);
    }
    block.map([](auto l, auto s) { return l + log2(where(s == 0.0f, 1.0f, s)); }, sum, largest, sum);
    block.store_column(x.lse, sequence * x.q.heads + head, i, sum);
  }

private:
  template <class Block> struct shapes {
    template <int W> using query_rows = left<Block, element, m, W>;
  };
  template <int I, class Block, class P> static SMALTI_HD void load(Block& block, P& p, const view<const element>& q, int i) {
    if constexpr (I < chunks::count) {
      block.load(p.here, q, i, chunks::first(I) / chunks::width(I));
      load<I + 1>(block, p.next, q, i);
    }
  }
  template <int I, class Block, class S, class Rows, class Head> static SMALTI_HD void times(Block& block, S& s, const Rows& rows, const Head& kv, int j) {
    if constexpr (I < chunks::count) {
      constexpr int w = chunks::width(I);
      right<Block, element, w, n> k;
      kv.template load_key<true, d>(block, k, chunks::first(I) / w, j);
      if constexpr (I == 0) block.multiply(s, rows.here, k);
      else block.product(s, rows.here, k);
      times<I + 1>(block, s, rows.next, kv, j);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
