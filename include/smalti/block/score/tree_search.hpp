// Hierarchical top-k search for blocks of keys: the search of HiP attention (Lee et al. 2024, arXiv:2406.09827). For each
// tile of queries the blocks of keys that all of its rows may see are divided into `groups` groups. Step by step each group
// is split in two, each half is scored by a few keys of its first block, and the best `groups` halves stay, until a group is
// one block. log2(blocks / groups) steps; each scores 2 groups halves, whatever the length.
//
// The keys around the first tokens (sinks) and the last (window, and the tile's own) are always taken, and not searched.
// The best halves are chosen between two launches (prim::select_k); this header has what comes before and after.
#pragma once
#include <smalti/block/attention/kv.hpp>
#include <smalti/block/attention/rows.hpp>
#include <smalti/block/attention/state.hpp>
#include <smalti/block/score/keys.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/chunks.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! What is searched for a list of blocks.
struct tree_shape {
  int queries = 64;        //!< query rows that share a list
  int block = 64;          //!< keys of a block
  int groups = 32;         //!< blocks that the search finds
  int sink = 0;            //!< first keys that are always taken, a multiple of `block`
  int window = 0;          //!< last keys before the first row of the queries that are always taken
  bool causal = true;      //!< rows see the keys up to their own; else all

  //! Blocks of one list of a sequence: [0, sinks) and [end, total) are taken, [sinks, end) is searched.
  struct region {
    int sinks, end, total;
    SMALTI_HD constexpr int searched() const { return end - sinks; }
  };
  SMALTI_HD constexpr region of(int tile, int query_count, int key_count) const {
    const int first = tile * queries, last = first + queries < query_count ? first + queries : query_count;
    const int keys = first < query_count && key_count > 0 ? key_count : 0, shift = key_count - query_count;
    const int open = causal ? inside(first + 1 + shift, keys) : keys, all = causal ? inside(last + shift, keys) : keys;
    const int total = ceil_div(all, block), sinks = sink / block < total ? sink / block : total;
    const int end = open > window ? (open - window) / block : 0;
    return {sinks, end < sinks ? sinks : end, total};
  }
  //! The longest list: sinks, what is searched for, the window with the tile's own keys.
  SMALTI_HD constexpr int width() const { return sink / block + groups + ceil_div(window + (causal ? queries : 0), block) + 1; }

private:
  SMALTI_HD static constexpr int inside(int x, int n) { return x < 0 ? 0 : x < n ? x : n; }
};

//! One step: the halves of the groups that the last step chose, and their scores.
template <class T, int D, class Kv>
struct tree_step_problem {
  struct arguments {
    head_rows<const T> q;
    Kv kv;
    tree_shape shape;
    int heads_per_kv;              //!< query heads of a key head
    int heads_per_list;            //!< query heads that share a list: heads_per_kv or 1
    int query_stride;              //!< one of so many query rows is scored
    int representatives;           //!< keys of a block that stand for it
    const int* chosen;             //!< [list][groups]: which halves stay; null: the first step
    const int* old_first;          //!< [list][2 groups]: of the halves of the last step, first block, from the searched region's beginning
    const int* old_size;           //!< and how many blocks
    int* first;
    int* size;
    view<float> scores;            //!< [list][2 groups]; -infinity for a half without blocks
  };
  using element = T;
  static constexpr int d = D;
};

//! n halves at a time against m query rows.
template <int N, int M, int Chunk, class Problem>
struct tree_step_agent {
  using arguments = typename Problem::arguments;
  using element = typename Problem::element;
  static constexpr int n = N, m = M;
  using key_chunks = policy::chunks<Problem::d, Chunk>;
  arguments x;

  static SMALTI_HD constexpr int tiles(const arguments& x) { return ceil_div(x.q.rows, x.shape.queries); }
  static SMALTI_HD constexpr int lists(const arguments& x) { return x.q.heads / x.heads_per_list; }
  static constexpr grid blocks(const arguments& x) { return {tiles(x), lists(x), x.q.sequences}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int tile_number = block.x(), sequence = block.z(), head = block.y() * x.heads_per_list, halves = 2 * x.shape.groups;
    const auto kv = x.kv.at(sequence, head / x.heads_per_kv);
    const tree_shape::region where_to = x.shape.of(tile_number, x.q.length(sequence), kv.length());
    const int searched = where_to.searched(), list = (sequence * lists(x) + block.y()) * tiles(x) + tile_number;
    const long long old = static_cast<long long>(list) * halves;

    query_columns_of<Block> queries;
    if (searched > 0) load_queries<0>(block, queries, sequence, head, tile_number * x.shape.queries);
    for (int j : block.steps(0, ceil_div(halves, n))) {
      column<Block, int, n> first, size, tokens;
      groups(block, first, size, j, list, searched);
      // Half c of group c / 2: the front, or the rest.
      block.map([=](auto a, auto s, auto r) { return where((r & 1) == 1, a + s / 2, a); }, first, first, size, row_index{});
      block.map([=](auto s, auto r) { return where((r & 1) == 1, s - s / 2, s / 2); }, size, size, row_index{});
      block.store(view<int, 1>{x.first + old, halves, 1, 1}, j, 0, first);
      block.store(view<int, 1>{x.size + old, halves, 1, 1}, j, 0, size);
      column<Block, float, n> best, score;
      block.fill(best, -__builtin_inff());
      if (searched > 0) {
        for (int p = 0; p < x.representatives; ++p) {
          block.map([=, keys = x.shape.block, sinks = where_to.sinks, from = p * x.shape.block / x.representatives](auto a) {
            return (sinks + min(a, searched - 1)) * keys + from;
          }, tokens, first);
          tile<Block, float, n, m> s;
          times_queries<0>(block, s, queries, kv, tokens);
          block.row_max(score, s);
          block.map([](auto a, auto b) { return max(a, b); }, best, best, score);
        }
      }
      block.map([](auto b, auto s) { return where(s > 0, b, -__builtin_inff()); }, best, best, size);
      block.store_column(x.scores, list, j, best);
    }
  }

private:
  template <class Block> struct shapes {
    template <int W> using query_columns = right<Block, element, W, M>;
  };
  template <class Block> using query_columns_of = pieces<key_chunks, shapes<Block>::template query_columns>;

  // The group that half j n + r is of.
  template <class Block, class Column> SMALTI_HD void groups(Block& block, Column& first, Column& size, int j, int list, int searched) const {
    const int count = x.shape.groups;
    if (x.chosen == nullptr) {
      block.map([=](auto r) { return (j * (n / 2) + (r >> 1)) * searched / count; }, first, row_index{});
      block.map([=](auto a, auto r) {
        const auto g = j * (n / 2) + (r >> 1);
        return where(g < count, (g + 1) * searched / count - a, 0);
      }, size, first, row_index{});
    } else {
      const long long at = static_cast<long long>(list) * count;
      column<Block, int, n> which;
      block.map([=, chosen = x.chosen + at](auto r) { return lookup(chosen, j * (n / 2) + (r >> 1), count); }, which, row_index{});
      block.map([=, old = x.old_first + 2 * at](auto w) { return lookup(old, w, 2 * count); }, first, which);
      block.map([=, old = x.old_size + 2 * at](auto w, auto r) { return where(j * (n / 2) + (r >> 1) < count, lookup(old, w, 2 * count), 0); }, size, which, row_index{});
    }
  }
  // The last of each query_stride rows of every head that shares the list; past the end the last row stands in.
  template <int I, class Block, class P> SMALTI_HD void load_queries(Block& block, P& p, int sequence, int head, int first) const {
    if constexpr (I < key_chunks::count) {
      const auto from = row_group<const element>::of(x.q, sequence, head, x.heads_per_list);
      column<Block, int, m> at;
      const int last = x.q.length(sequence) - 1, end = first + x.shape.queries - 1;
      block.map([=, stride = x.query_stride, heads = x.heads_per_list, stop = end < last ? end : last](auto r) {
        return from.row(min(first + r / heads * stride + (stride - 1), stop), r % heads);
      }, at, row_index{});
      block.load_rows(p.here, transposed(from.all), at, key_chunks::first(I) / key_chunks::width(I));
      load_queries<I + 1>(block, p.next, sequence, head, first);
    }
  }
  template <int I, class Block, class S, class Queries, class Head, class Tokens>
  SMALTI_HD void times_queries(Block& block, S& s, const Queries& queries, const Head& kv, const Tokens& tokens) const {
    if constexpr (I < key_chunks::count) {
      constexpr int w = key_chunks::width(I);
      left<Block, element, n, w> k;
      load_keys(block, k, kv, tokens, key_chunks::first(I) / w);
      if constexpr (I == 0) block.multiply(s, k, queries.here);
      else block.product(s, k, queries.here);
      times_queries<I + 1>(block, s, queries.next, kv, tokens);
    }
  }
};

//! The lists: sinks, the blocks that were found, the window; ascending, -1 behind them.
template <class Kv>
struct tree_list_arguments {
  const std::int32_t* q_offsets;   //!< as in head_rows
  int q_rows, sequences, lists, heads_per_list, heads_per_kv;      //!< lists: of one sequence and tile
  Kv kv;
  tree_shape shape;
  const int* chosen;               //!< null: there was no step
  const int* first;
  view<int, 1> out;                //!< [list][width]
};
template <int N, class Kv>
struct tree_list_agent {
  using arguments = tree_list_arguments<Kv>;
  arguments x;
  static SMALTI_HD constexpr int tiles(const arguments& x) { return ceil_div(x.q_rows, x.shape.queries); }
  static constexpr grid blocks(const arguments& x) { return {tiles(x), x.lists, x.sequences}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int sequence = block.z(), queries = x.q_offsets != nullptr ? x.q_offsets[sequence + 1] - x.q_offsets[sequence] : x.q_rows;
    const auto kv = x.kv.at(sequence, block.y() * x.heads_per_list / x.heads_per_kv);
    const tree_shape::region r = x.shape.of(block.x(), queries, kv.length());
    const int list = (sequence * x.lists + block.y()) * tiles(x) + block.x(), groups = x.shape.groups;
    const int found = r.searched() < groups ? r.searched() : groups;
    const bool all = r.searched() <= groups;
    const long long at = static_cast<long long>(list) * groups;
    for (int j : block.steps(0, ceil_div(x.out.cols, N))) {
      row<Block, int, N> ids;
      if (all) {
        block.map([=](auto c) {
          const auto i = j * N + c;
          return where(i < r.total, i, -1);
        }, ids, column_index{});
      } else {
        block.map([=, chosen = x.chosen + at, first = x.first + 2 * at](auto c) {
          const auto i = j * N + c;
          const auto mine = r.sinks + lookup(first, lookup(chosen, i - r.sinks, groups), 2 * groups);
          const auto late = r.end + (i - r.sinks - found);
          return where(i < r.sinks, i, where(i < r.sinks + found, mine, where(late < r.total, late, -1)));
        }, ids, column_index{});
      }
      block.store(x.out, list, j, ids);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
