// What merging does after an eviction: where the tokens that went lay, the survivor that each of them is most like, which of them merge, and
// survivors that take them in. Every sum has a fixed order: what merges into one survivor is brought together by a stable sort.
#pragma once
#include <smalti/block/cache/survivors.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/cache/disposition.hpp>
#include <smalti/policy/chunks.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! rows[track * heads_in_page + head][i] = the row of the pool that held the i-th token that went; -1 behind.
template <class Layout> struct dropped_arguments {
  track_plan tracks;
  const int* dropped;                   //!< [track] how many went
  view<const int, 1> kept;              //!< [track][i], ascending
  view<const int, 1> before;            //!< [track][n]: pages
  int page, heads_in_page;
  view<int, 1> rows;
};
template <int N, class Layout>
struct dropped_agent {
  using arguments = dropped_arguments<Layout>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.rows.cols, N), x.rows.rows, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), track = block.y() / x.heads_in_page, head = block.y() % x.heads_in_page, gone = block.number(x.dropped, track), count = block.number(x.tracks.count, track), length = block.number(x.tracks.length, track);
    row<Block, int, N> rows;
    block.map([=, kept = x.kept.data + track * static_cast<long long>(x.kept.stride), table = x.before.data + track * static_cast<long long>(x.before.stride), heads = x.heads_in_page, page = x.page](auto c) {
      // The i-th that went comes behind as many survivors as stand no further than they would if i tokens were missing before them.
      const auto i = j * N + c;
      auto low = i * 0, high = i * 0 + count;
      for (int step = 0; step < 25; ++step) {
        const auto middle = (low + high) >> 1;
        const auto behind = low < high && lookup(kept, middle, count) - middle <= i;
        low = where(behind, middle + 1, low);
        high = where(behind, high, middle);
      }
      const auto token = i + low;
      return where(i < gone, Layout{}.row(lookup(table, token / page, ceil_div(length, page)), token % page, head, heads, page), -1);
    }, rows, column_index{});
    block.store(x.rows, block.y(), j, rows);
  }
};

//! out[list][i] = 1 / |row rows[list][i]|, 0 for a row of zeros.
template <class E, int D> struct norm_problem {
  static constexpr int width = D % 64 == 0 ? 64 : D % 32 == 0 ? 32 : 16;
  struct arguments {
    view<const E> pool;
    view<const int, 1> rows;
    view<float, 1> out;
  };
};
template <int M, class E, int D>
struct norm_agent {
  using problem = norm_problem<E, D>;
  using arguments = typename problem::arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.rows.cols, M), x.rows.rows, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), list = block.y();
    column<Block, int, M> at;
    column<Block, float, M> sum, part;
    block.fill(sum, 0.0f);
    block.map([=, rows = x.rows.data + list * static_cast<long long>(x.rows.stride), count = x.rows.cols](auto r) { return max(lookup(rows, i * M + r, count), 0); }, at, row_index{});
    for (int c : block.steps(0, D / problem::width)) {
      tile<Block, float, M, problem::width> t;
      block.load_rows(t, x.pool, at, c);
      block.map([](auto v) { return v * v; }, t, t);
      block.row_sum(part, t);
      block.map([](auto a, auto b) { return a + b; }, sum, sum, part);
    }
    block.map([](auto s) { return where(s > 0.0f, rsqrt(s), 0.0f); }, sum, sum);
    block.store_column(x.out, list, i, sum);
  }
};

//! similarity[list][e] = max over survivors c of cos(k_e, k_c); nearest[list][e] = the first such c.
template <class T, class E, int D> struct nearest_problem {
  using operand = T;
  static constexpr int d = D;
  struct arguments {
    view<const E> pool;                                  //!< keys as they were
    view<const int, 1> dropped, kept;                    //!< [list][i]: rows of the pool
    view<const float, 1> dropped_norms, kept_norms;      //!< 1 / |k|
    const int *gone, *count;                             //!< [track]
    int heads_in_page;
    view<float, 1> similarity;
    view<int, 1> nearest;
  };
};
template <int M, int N, int Chunk, class Problem>
struct nearest_agent {
  using arguments = typename Problem::arguments;
  using operand = typename Problem::operand;
  using chunks = policy::chunks<Problem::d, Chunk>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.similarity.cols, M), x.similarity.rows, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), list = block.y(), track = list / x.heads_in_page, gone = block.number(x.gone, track), count = block.number(x.count, track);
    if (i * M >= gone || count <= 0) return;
    column<Block, int, M> from, nearest;
    column<Block, float, M> norm, best, top, first;
    block.map([=, rows = x.dropped.data + list * static_cast<long long>(x.dropped.stride)](auto r) { return lookup(rows, min(i * M + r, gone - 1), gone); }, from, row_index{});
    block.map([=, norms = x.dropped_norms.data + list * static_cast<long long>(x.dropped_norms.stride)](auto r) { return lookup(norms, i * M + r, gone); }, norm, row_index{});
    block.fill(best, -__builtin_inff());
    block.map([](auto r) { return r * 0; }, nearest, row_index{});
    for (int j : block.steps(0, ceil_div(count, N))) {
      column<Block, int, N> to;
      row<Block, float, N> norms;
      tile<Block, float, M, N> u, place;
      block.map([=, rows = x.kept.data + list * static_cast<long long>(x.kept.stride)](auto r) { return lookup(rows, min(j * N + r, count - 1), count); }, to, row_index{});
      block.map([=, of = x.kept_norms.data + list * static_cast<long long>(x.kept_norms.stride)](auto c) { return lookup(of, j * N + c, count); }, norms, column_index{});
      block.fill(u, 0.0f);
      add<0>(block, u, from, to);
      block.map([=](auto v, auto a, auto b, auto c) { return where(j * N + c < count, v * a * b, -__builtin_inff()); }, u, u, norm, norms, column_index{});
      block.row_max(top, u);
      block.map([=](auto v, auto t, auto c) { return where(v >= t, to_float(j * -N - c), -__builtin_inff()); }, place, u, top, column_index{});
      block.row_max(first, place);
      block.map([](auto n, auto f, auto t, auto b) { return where(t > b, to_int(f * -1.0f), n); }, nearest, nearest, first, top, best);
      block.map([](auto t, auto b) { return max(t, b); }, best, top, best);
    }
    block.store_column(x.similarity, list, i, best);
    block.store(view<int, 1>{x.nearest.data + list * static_cast<long long>(x.nearest.stride), x.nearest.cols, 1, 1}, i, 0, nearest);
  }

private:
  template <int I, class Block, class U, class From, class To> SMALTI_HD void add(Block& block, U& u, const From& from, const To& to) const {
    if constexpr (I < chunks::count) {
      constexpr int w = chunks::width(I), c = chunks::first(I) / w;
      left<Block, operand, M, w> a;
      right<Block, operand, w, N> b;
      block.load_rows(a, x.pool, from, c);
      block.load_rows(b, transposed(x.pool), to, c);
      block.product(u, a, b);
      add<I + 1>(block, u, from, to);
    }
  }
};

//! The threshold of a layer: the mean of all similarities, the first time; later memory * threshold + (1 - memory) * mean. Of no token: as it was.
struct threshold_arguments {
  view<const float, 1> similarity;      //!< [layer * lists + list][e]
  const int* gone;                      //!< [track]
  int lists, heads_in_page, layers;
  float* thresholds;                    //!< [layer]
  float memory;
};
template <int N>
struct threshold_agent {
  using arguments = threshold_arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {x.layers, 1, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int layer = block.x();
    row<Block, float, N> sum, part;
    tile<Block, float, 16, N> all;
    column<Block, float, 16> mean;
    block.fill(sum, 0.0f);
    int total = 0;
    for (int l = 0; l < x.lists; ++l) {
      const int list = layer * x.lists + l, gone = block.number(x.gone, list / x.heads_in_page);
      total += gone;
      for (int j : block.steps(0, ceil_div(gone, N))) {
        block.load(part, x.similarity, list, j);
        block.map([=](auto s, auto p, auto c) { return s + where(j * N + c < gone, p, 0.0f); }, sum, sum, part, column_index{});
      }
    }
    if (total == 0) return;
    block.map([](auto s, auto r) { return where(r == 0, s, 0.0f); }, all, sum, row_index{});
    block.row_sum(mean, all);
    block.map([=, old = x.thresholds, layers = x.layers, memory = x.memory](auto s, auto r) {
      const auto before = lookup(old, r * 0 + layer, layers), now = over(s, float(total));
      return where(before == before, before * memory + now * (1.0f - memory), now);
    }, mean, mean, row_index{});
    block.store(view<float, 1>{x.thresholds + layer, 1, 1, 1}, 0, 0, mean);
  }
};

//! keys[list][e] = list * (most + 1) + the survivor that e merges into, or + most where it does not.
struct gate_arguments {
  view<const float, 1> similarity;
  view<const int, 1> nearest;
  const int* gone;
  int lists, heads_in_page, layers, most;
  const float* thresholds;
  view<int, 1> keys;
};
template <int N, policy::merge_gate Gate>
struct gate_agent {
  using arguments = gate_arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.keys.cols, N), x.keys.rows, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    constexpr bool together = Gate == policy::merge_gate::layer;
    const int j = block.x(), list = block.y(), layer = list / x.lists, gone = block.number(x.gone, list / x.heads_in_page);
    row<Block, float, N> sum, there, part;
    row<Block, int, N> key;
    block.fill(sum, 0.0f);
    block.fill(there, 0.0f);
    for (int l = together ? layer * x.lists : list; l < (together ? (layer + 1) * x.lists : list + 1); ++l) {
      const int mine = block.number(x.gone, l / x.heads_in_page);
      block.load(part, x.similarity, l, j);
      block.map([=](auto s, auto p, auto c) { return s + where(j * N + c < mine, p, 0.0f); }, sum, sum, part, column_index{});
      block.map([=](auto n, auto c) { return n + where(j * N + c < mine, 1.0f, 0.0f); }, there, there, column_index{});
    }
    block.load(key, x.nearest, list, j);
    // What reaches the threshold up to its rounding passes: one token alone is its own mean.
    block.map([=, thresholds = x.thresholds, layers = x.layers, most = x.most](auto k, auto s, auto n, auto c) {
      const auto passes = s >= (lookup(thresholds, c * 0 + layer, layers) - 0x1p-20f) * n;
      return where(passes && j * N + c < gone, k, most) + list * (most + 1);
    }, key, key, sum, there, column_index{});
    block.store(x.keys, list, j, key);
  }
};

//! begins[list][c] = how many keys are below list * (most + 1) + c, of keys that ascend.
struct begins_arguments {
  const int* keys;
  int count;
  view<int, 1> begins;                  //!< [list][most + 1]
};
template <int N>
struct begins_agent {
  using arguments = begins_arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.begins.cols, N), x.begins.rows, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), list = block.y();
    row<Block, int, N> begin;
    block.map([=, keys = x.keys, count = x.count, width = x.begins.cols](auto c) {
      const auto key = j * N + c + list * width;
      auto low = c * 0, high = c * 0 + count;
      for (int step = 0; step < 32; ++step) {
        const auto middle = low + ((high - low) >> 1);
        const auto below = low < high && lookup(keys, middle, count) < key;
        low = where(below, middle + 1, low);
        high = where(below, high, middle);
      }
      return low;
    }, begin, column_index{});
    block.store(x.begins, list, j, begin);
  }
};

//! A survivor becomes the weighted mean of itself and of what merges into it, in the order of their places.
template <class E> struct fold_arguments {
  view<E> pool;
  view<const int, 1> begins;            //!< [list][most + 1]
  const int* order;                     //!< [i]: list * columns of dropped + e
  view<const int, 1> dropped, target;   //!< [list][i]: rows of the pool
  const float* similarity;              //!< as dropped
};
template <int M, int W, class E, policy::merge_weight Weight>
struct fold_agent {
  using arguments = fold_arguments<E>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {x.begins.cols - 1, x.begins.rows, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    constexpr bool convex = Weight == policy::merge_weight::normalized_exp;
    const int survivor = block.x(), list = block.y(), first = block.number(x.begins.data, list * x.begins.stride + survivor), last = block.number(x.begins.data, list * x.begins.stride + survivor + 1);
    if (first >= last) return;
    const int mine = block.number(x.target.data, list * x.target.stride + survivor), cells = x.dropped.rows * x.dropped.cols;
    for (int k : block.steps(0, ceil_div(x.pool.cols, W))) {
      row<Block, float, W> sum, share, part, own;
      block.fill(sum, 0.0f);
      block.fill(share, 0.0f);
      for (int i = first; i < last; i += M) {
        column<Block, int, M> rows;
        column<Block, float, M> weight;
        tile<Block, float, M, W> t;
        block.map([=, order = x.order, dropped = x.dropped.data](auto r) { return lookup(dropped, lookup(order, min(i + r, last - 1), last), cells); }, rows, row_index{});
        block.map([=, order = x.order, similarity = x.similarity](auto r) {
          const auto u = lookup(similarity, lookup(order, min(i + r, last - 1), last), cells);
          if constexpr (convex) return where(i + r < last, exp2(u * 1.4426950408889634f), 0.0f);
          else return where(i + r < last, u, 0.0f);
        }, weight, row_index{});
        block.load_rows(t, x.pool, rows, k);
        block.map([](auto v, auto w) { return v * w; }, t, t, weight);
        block.column_sum(part, t);
        block.map([](auto a, auto b) { return a + b; }, sum, sum, part);
        block.map([=](auto w, auto r) { return convex ? w : where(i + r < last, 1.0f, 0.0f); }, t, weight, row_index{});
        block.column_sum(part, t);
        block.map([](auto a, auto b) { return a + b; }, share, share, part);
      }
      constexpr float of_survivor = convex ? 2.718281828459045f : 1.0f;
      block.load(own, x.pool, mine, k);
      block.map([=](auto o, auto s, auto n) { return over(o * of_survivor + s, n + of_survivor); }, own, own, sum, share);
      block.store(x.pool, mine, k, own);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
