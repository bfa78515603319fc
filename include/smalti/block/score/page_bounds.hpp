// Bounds of pages of keys, and what a query can reach within them: the selection of Quest (Tang et al. 2024,
// arXiv:2406.10774). For each page and element the least and greatest key are kept. No key of the page scores more than
//     u = sum_c max(q_c low_c, q_c high_c) = q+ . high + q- . low,     q+ = max(q, 0), q- = min(q, 0):
// two products.
#pragma once
#include <smalti/block/attention/kv.hpp>
#include <smalti/block/attention/rows.hpp>
#include <smalti/block/attention/state.hpp>
#include <smalti/block/score/page_summary.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/chunks.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Bounds of every page of a pool: row page * heads + head of each matrix, `cols` elements.
template <class T>
struct page_bounds {
  view<T> low, high;
};

//! The bounds of a page (page_summary_agent).
struct page_extremes {
  template <class T> using out = page_bounds<T>;
  template <int Slots, int Width, class Block, class T> static SMALTI_HD void write(Block& block, const page_bounds<T>& bounds, const view<const T>& slots, int at, int part) {
    row<Block, float, Width> low, high, least;
    block.fill(low, __builtin_inff());
    block.fill(high, -__builtin_inff());
    for (int i : block.steps(0, ceil_div(slots.rows, Slots))) {
      tile<Block, float, Slots, Width> keys, turned;
      block.load(keys, slots, i, part);
      const int count = slots.rows;
      block.map([=](auto k, auto r) { return where(r + i * Slots < count, -k, -__builtin_inff()); }, turned, keys, row_index{});
      block.map([=](auto k, auto r) { return where(r + i * Slots < count, k, -__builtin_inff()); }, keys, keys, row_index{});
      block.column_max(least, keys);
      block.map([](auto a, auto b) { return max(a, b); }, high, high, least);
      block.column_max(least, turned);
      block.map([](auto a, auto b) { return min(a, -b); }, low, low, least);
    }
    block.store(bounds.low, at, part, low);
    block.store(bounds.high, at, part, high);
  }
};

//! scores[list][n] = the largest u of page n over the query rows and heads of the list; -infinity for pages that are not in use.
//! Newest: +infinity for the last page in use, whatever its bound.
template <class T, int D, int Page, bool Newest = false>
struct page_score_problem {
  using element = T;
  static constexpr int d = D;
  static constexpr bool newest = Newest;
  struct arguments {
    head_rows<const T> q;
    paged_kv<T, Page> kv;
    page_bounds<const T> bounds;
    int heads_per_kv, heads_per_list;
    view<float> scores;
  };
};
template <int M, int N, int Chunk, class Problem>
struct page_score_agent {
  using arguments = typename Problem::arguments;
  using element = typename Problem::element;
  using chunks = policy::chunks<Problem::d, Chunk>;
  arguments x;
  static SMALTI_HD constexpr int lists(const arguments& x) { return x.q.heads / x.heads_per_list; }
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.scores.cols, N), lists(x), x.q.sequences}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), sequence = block.z(), head = block.y() * x.heads_per_list, kv_head = head / x.heads_per_kv;
    const auto kv = x.kv.at(sequence, kv_head);
    const int used = ceil_div(kv.length(), x.kv.where.page), queries = x.q.length(sequence), rows = queries * x.heads_per_list;
    const int always = Problem::newest ? used - 1 : -1;
    row<Block, float, N> best, score;
    block.fill(best, -__builtin_inff());
    if (j * N < used && rows > 0) {
      column<Block, int, N> pages;
      block.map([=, table = kv.table, heads = x.kv.k.heads](auto r) { return lookup(table, min(r + j * N, used - 1), used) * heads + kv_head; }, pages, row_index{});
      for (int i = 0; i * M < rows; ++i) {
        tile<Block, float, M, N> u;
        block.fill(u, 0.0f);
        add<0>(block, u, pages, sequence, head, i * M, rows);
        block.column_max(score, u);
        block.map([](auto a, auto b) { return max(a, b); }, best, best, score);
      }
      block.map([=](auto b, auto c) { return where(c + j * N == always, __builtin_inff(), where(c + j * N < used, b, -__builtin_inff())); }, best, best, column_index{});
    }
    block.store(x.scores, sequence * lists(x) + block.y(), j, best);
  }

private:
  template <int I, class Block, class U, class Pages>
  SMALTI_HD void add(Block& block, U& u, const Pages& pages, int sequence, int head, int first, int rows) const {
    if constexpr (I < chunks::count) {
      constexpr int w = chunks::width(I), c = chunks::first(I) / w;
      const auto from = row_group<const element>::of(x.q, sequence, head, x.heads_per_list);
      column<Block, int, M> at;
      block.map([=, heads = x.heads_per_list](auto r) {
        const auto row = min(first + r, rows - 1);
        return from.row(row / heads, row % heads);
      }, at, row_index{});
      tile<Block, float, M, w> q, side;
      block.load_rows(q, from.all, at, c);
      left<Block, element, M, w> up, down;
      block.map([](auto v) { return max(v, 0.0f); }, side, q);
      block.as_left(up, side);
      block.map([](auto v) { return min(v, 0.0f); }, side, q);
      block.as_left(down, side);
      right<Block, element, w, N> bound;
      block.load_rows(bound, transposed(x.bounds.high), pages, c);
      block.product(u, up, bound);
      block.load_rows(bound, transposed(x.bounds.low), pages, c);
      block.product(u, down, bound);
      add<I + 1>(block, u, pages, sequence, head, first, rows);
    }
  }
};

//! Chosen pages as a list: ascending, -1 behind; what was chosen for want of pages is left out.
template <class T, int Page>
struct page_list_arguments {
  paged_kv<T, Page> kv;
  int lists, heads_per_list, heads_per_kv;
  view<int, 1> blocks;                //!< [list][k], as chosen
};
template <int N, class T, int Page>
struct page_list_agent {
  using arguments = page_list_arguments<T, Page>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.blocks.cols, N), x.lists, x.kv.sequences}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int sequence = block.z(), list = sequence * x.lists + block.y();
    const auto kv = x.kv.at(sequence, block.y() * x.heads_per_list / x.heads_per_kv);
    const int used = ceil_div(kv.length(), x.kv.where.page);
    row<Block, int, N> ids;
    block.load(ids, x.blocks, list, block.x());
    block.map([=](auto id) { return where(id < used, id, -1); }, ids, ids);
    block.store(x.blocks, list, block.x(), ids);
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
