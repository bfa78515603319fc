// The probe of MInference's vertical-slash pattern (Jiang et al. 2024, arXiv:2407.02490): the softmax of the last query rows
// over all keys, summed down each key (verticals) and along each distance of query and key (slashes). Then the blocks of
// keys that the chosen slashes touch, for each tile of queries, and copies of the chosen single keys.
//
// Sums along diagonals are column sums of a matrix whose row r is moved r places to the left. Memory does that: rows are
// written one element closer together than they are read.
//
// Places of diagonals: query row r of the probe stands at p = origin + r among the keys; key j lies on the diagonal of distance
// p - j, whose place is t = origin + M - (p - j). Distance 0 is place origin + M, the last.
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

//! The last M query rows of a sequence.
template <int M> struct probe_rows {
  int first, count, origin;                  //!< first row, how many, and where the first stands among the keys
  SMALTI_HD static constexpr probe_rows of(int queries, int keys) {
    const int count = queries < M ? queries : M, first = queries - count;
    return {first, count, first + keys - queries};
  }
};

template <class T, int D, class Kv>
struct probe_problem {
  using element = T;
  static constexpr int d = D;
  struct arguments {
    head_rows<const T> q;
    Kv kv;
    int heads_per_kv;
    float scale;                             //!< of the scores, times log2(e)
    int pair, pairs;                         //!< of this launch: sequence * heads + head, from `pair`
    int forced_columns, forced_slashes;      //!< first keys and least distances that are taken whatever their sums
    view<float> stats;                       //!< [pair][M]: log2 of the sum of 2^score of each row
    view<float> verticals;                   //!< [pair][keys]; infinity where forced, -infinity past the keys
    view<float> slashes;                     //!< [pair][width of moved]: by place; infinity where forced, -infinity outside
    float* moved;                            //!< [pair of this launch][M][width]
    int width;                               //!< keys of the longest sequence and 2 M more
  };
};

//! What is common to the three steps of the probe.
template <int M, int N, int Chunk, class Problem>
struct probe_base {
  using arguments = typename Problem::arguments;
  using element = typename Problem::element;
  using key_chunks = policy::chunks<Problem::d, Chunk>;
  template <class Block> struct shapes {
    template <int W> using query_rows = left<Block, element, M, W>;
  };
  template <class Block> using query_rows_of = pieces<key_chunks, shapes<Block>::template query_rows>;

  template <int I, class Block, class P, class Rows> static SMALTI_HD void load_queries(Block& block, P& p, const view<const element>& q, const Rows& rows) {
    if constexpr (I < key_chunks::count) {
      block.load_rows(p.here, q, rows, key_chunks::first(I) / key_chunks::width(I));
      load_queries<I + 1>(block, p.next, q, rows);
    }
  }
  template <int I, class Block, class S, class Queries, class Head> static SMALTI_HD void times_keys(Block& block, S& s, const Queries& queries, const Head& kv, int j) {
    if constexpr (I < key_chunks::count) {
      constexpr int w = key_chunks::width(I);
      right<Block, element, w, N> k;
      kv.template load_key<true, Problem::d>(block, k, key_chunks::first(I) / w, j);
      block.product(s, queries.here, k);
      times_keys<I + 1>(block, s, queries.next, kv, j);
    }
  }
  // Rows past the last are copies of it.
  template <class Block, class Queries> static SMALTI_HD void load(Block& block, Queries& queries, const arguments& x, int sequence, int head, const probe_rows<M>& rows) {
    column<Block, int, M> at;
    block.map([first = rows.first, count = rows.count](auto r) { return first + min(r, count - 1); }, at, row_index{});
    load_queries<0>(block, queries, x.q.at(sequence, head), at);
  }
  // Exponents of one tile of keys; -infinity where a row does not see the key, or there is none.
  template <class Block, class S, class Queries, class Head> static SMALTI_HD void exponents(Block& block, S& s, const Queries& queries, const Head& kv, const arguments& x, const probe_rows<M>& rows, int j) {
    block.fill(s, 0.0f);
    times_keys<0>(block, s, queries, kv, j);
    block.map([scale = x.scale, origin = rows.origin, count = rows.count, length = kv.length(), j](auto v, auto r, auto c) {
      const auto key = j * N + c;
      return where(r < count && key <= origin + r && key < length, v * scale, -__builtin_inff());
    }, s, s, row_index{}, column_index{});
  }
};

//! First: the log-sum-exp of each row of the probe.
template <int M, int N, int Chunk, class Problem>
struct probe_rows_agent {
  using base = probe_base<M, N, Chunk, Problem>;
  using arguments = typename Problem::arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {x.pairs, 1, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int pair = x.pair + block.x(), sequence = pair / x.q.heads, head = pair % x.q.heads;
    const auto kv = x.kv.at(sequence, head / x.heads_per_kv);
    const probe_rows<M> rows = probe_rows<M>::of(x.q.length(sequence), kv.length());
    if (rows.count <= 0) return;
    typename base::template query_rows_of<Block> queries;
    base::load(block, queries, x, sequence, head, rows);
    column<Block, float, M> largest, sum, top, more;
    block.fill(largest, -3e38f);
    block.fill(sum, 0.0f);
    for (int j : block.steps(0, ceil_div(kv.length(), N))) {
      tile<Block, float, M, N> s;
      base::exponents(block, s, queries, kv, x, rows, j);
      block.row_max(top, s);
      block.map([](auto a, auto b) { return max(a, b); }, top, top, largest);
      block.map([](auto v, auto t) { return exp2(v - t); }, s, s, top);
      block.row_sum(more, s);
      block.map([](auto total, auto old, auto now, auto add) { return total * exp2(old - now) + add; }, sum, sum, largest, top, more);
      block.map([](auto now) { return now; }, largest, top);
    }
    block.map([](auto l, auto s) { return l + log2(where(s == 0.0f, 1.0f, s)); }, sum, largest, sum);
    block.store_column(x.stats, pair, 0, sum);
  }
};

//! Second: weights of one tile of keys, summed down, and written where the third finds diagonals as columns.
template <int M, int N, int Chunk, class Problem>
struct probe_columns_agent {
  using base = probe_base<M, N, Chunk, Problem>;
  using arguments = typename Problem::arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.verticals.cols, N), x.pairs, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), pair = x.pair + block.y(), sequence = pair / x.q.heads, head = pair % x.q.heads;
    const auto kv = x.kv.at(sequence, head / x.heads_per_kv);
    const int length = kv.length();
    const probe_rows<M> rows = probe_rows<M>::of(x.q.length(sequence), length);
    row<Block, float, N> sums;
    block.fill(sums, -__builtin_inff());
    if (j * N < length && rows.count > 0) {
      typename base::template query_rows_of<Block> queries;
      base::load(block, queries, x, sequence, head, rows);
      tile<Block, float, M, N> s;
      column<Block, float, M> lse;
      base::exponents(block, s, queries, kv, x, rows, j);
      block.load(lse, transposed(x.stats), 0, pair);
      block.map([](auto v, auto l) { return exp2(v - l); }, s, s, lse);
      float* mine = x.moved + block.y() * (static_cast<long long>(M) * x.width) + M;
      block.store(view<float, 1>{mine, M, x.verticals.cols, x.width - 1}, 0, j, s);
      block.column_sum(sums, s);
      block.map([=, forced = x.forced_columns](auto v, auto c) {
        const auto key = j * N + c;
        return where(key < length, where(key < forced, __builtin_inff(), v), -__builtin_inff());
      }, sums, sums, column_index{});
    }
    block.store(x.verticals, pair, j, sums);
  }
};

//! Third: sums along the diagonals.
template <int M, int N, class Problem>
struct probe_diagonals_agent {
  using arguments = typename Problem::arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.slashes.cols, N), x.pairs, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), pair = x.pair + block.y(), sequence = pair / x.q.heads, head = pair % x.q.heads;
    const auto kv = x.kv.at(sequence, head / x.heads_per_kv);
    const int length = kv.length();
    const probe_rows<M> rows = probe_rows<M>::of(x.q.length(sequence), length);
    row<Block, float, N> sums;
    block.fill(sums, -__builtin_inff());
    if (rows.count > 0) {
      tile<Block, float, M, N> s;
      block.load(s, view<const float, 1>{x.moved + block.y() * (static_cast<long long>(M) * x.width), M, x.width, x.width}, 0, j);
      block.map([=, count = rows.count](auto v, auto r, auto c) {
        const auto key = j * N + c + r - M;          // what nobody wrote may be anything
        return where(r < count && key >= 0 && key < length, v, 0.0f);
      }, s, s, row_index{}, column_index{});
      block.column_sum(sums, s);
      block.map([=, last = rows.origin + M, forced = x.forced_slashes](auto v, auto c) {
        const auto place = j * N + c;
        return where(place >= 1 && place <= last, where(place > last - forced, __builtin_inff(), v), -__builtin_inff());
      }, sums, sums, column_index{});
    }
    block.store(x.slashes, pair, j, sums);
  }
};

//! The blocks that the chosen slashes touch, for each tile of Queries rows: as a list, and as flags.
template <class Kv>
struct slash_list_arguments {
  Kv kv;
  const std::int32_t* q_offsets;
  int q_rows, sequences, heads, heads_per_kv;
  view<const int, 1> chosen;                 //!< [pair][slashes]: places, ascending
  view<int, 1> out;                          //!< [list][width], filled with -1 before
  view<unsigned char, 1> covered;            //!< [list][blocks]
};
template <int M, int Keys, int Queries, int N, class Kv>
struct slash_list_agent {
  using arguments = slash_list_arguments<Kv>;
  arguments x;
  static SMALTI_HD constexpr int tiles(const arguments& x) { return ceil_div(x.q_rows, Queries); }
  static constexpr grid blocks(const arguments& x) { return {tiles(x), x.heads, x.sequences}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int sequence = block.z(), queries = x.q_offsets != nullptr ? x.q_offsets[sequence + 1] - x.q_offsets[sequence] : x.q_rows;
    const auto kv = x.kv.at(sequence, block.y() / x.heads_per_kv);
    const int length = kv.length(), pair = sequence * x.heads + block.y(), list = pair * tiles(x) + block.x();
    const probe_rows<M> rows = probe_rows<M>::of(queries, length);
    const int first = block.x() * Queries, last = first + Queries < queries ? first + Queries : queries, shift = length - queries;
    // A slash touches the block where a row of the tile and a key of the block lie on it.
    const int end = rows.origin + M, nearest = end - (first + shift) + Keys - 1, farthest = end - (last - 1 + shift);
    column<Block, int, 1> before, here;
    block.fill(before, 0);
    for (int j : block.steps(0, ceil_div(x.covered.cols, N))) {
      tile<Block, int, 1, N> touched, scan, ids;
      block.map([=, chosen = x.chosen.data + static_cast<long long>(pair) * x.chosen.stride, count = x.chosen.cols](auto c) {
        const auto block_first = (j * N + c) * Keys;
        const auto low = max(farthest + block_first, 1), high = min(nearest + block_first, end);
        const auto found = first_not_below(chosen, count, low);
        const auto place = lookup(chosen, found, count);            // 0 past the end: no diagonal has that place
        return where(first < last && block_first < length && block_first <= last - 1 + shift && place >= low && place <= high, 1, 0);
      }, touched, column_index{});
      block.map([=](auto c) { return j * N + c; }, ids, column_index{});
      block.row_scan(scan, touched);
      block.map([](auto s, auto b) { return s + b; }, scan, scan, before);
      block.scatter(x.out, list, scan, touched, ids);
      block.store(view<unsigned char, 1>{x.covered.data + static_cast<long long>(list) * x.covered.stride, 1, x.covered.cols, x.covered.stride}, 0, j, touched);
      block.row_sum(here, touched);
      block.map([](auto a, auto b) { return a + b; }, before, before, here);
    }
  }

private:
  // The first of `count` ascending numbers that is not below v, or -1 behind them; by halves: count is at most 4096.
  template <class V> static SMALTI_HD auto first_not_below(const int* sorted, int count, V v) {
    V at = v * 0;
    for (int step = 4096; step > 0; step /= 2) {
      const V next = at + step;
      const auto last = lookup(sorted, next - 1, count);
      at = where(next <= count && last >= 0 && last < v, next, at);
    }
    return at;
  }
};

//! Chosen keys and values, one after another, a copy for each query head. Choices past the keys become copies of the last key.
template <class T, int D, int ValueDim, class Kv>
struct gather_columns_arguments {
  Kv kv;
  int sequences, heads, heads_per_kv;
  view<const int, 1> columns;                //!< [pair][count]
  view<T> k, v;                              //!< pair * count rows
};
template <int N, int Width, class T, int D, int ValueDim, class Kv>
struct gather_columns_agent {
  using arguments = gather_columns_arguments<T, D, ValueDim, Kv>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.columns.cols, N), x.heads, x.sequences}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int sequence = block.z(), pair = sequence * x.heads + block.y(), i = block.x();
    const auto kv = x.kv.at(sequence, block.y() / x.heads_per_kv);
    const int length = kv.length(), count = x.columns.cols;
    const view<T> k{x.k.data + static_cast<long long>(pair) * count * x.k.stride, count, D, x.k.stride}, v{x.v.data + static_cast<long long>(pair) * count * x.v.stride, count, ValueDim, x.v.stride};
    column<Block, int, N> tokens;
    block.map([=, columns = x.columns.data + static_cast<long long>(pair) * x.columns.stride](auto r) { return max(min(lookup(columns, i * N + r, count), length - 1), 0); }, tokens, row_index{});
    for (int c : block.steps(0, ceil_div(D, Width))) {
      tile<Block, float, N, Width> t;
      block.fill(t, 0.0f);
      if (length > 0) load_keys(block, t, kv, tokens, c);
      block.store(k, i, c, t);
    }
    for (int c : block.steps(0, ceil_div(ValueDim, Width))) {
      tile<Block, float, N, Width> t;
      block.fill(t, 0.0f);
      if (length > 0) load_values(block, t, kv, tokens, c);
      block.store(v, i, c, t);
    }
  }
};

//! Fills a table with -1.
struct fill_lists_arguments {
  view<int, 1> out;
};
template <int R, int N> struct fill_lists_agent {
  fill_lists_arguments x;
  using arguments = fill_lists_arguments;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.out.rows, R), ceil_div(x.out.cols, N), 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, int, R, N> t;
    block.fill(t, -1);
    block.store(x.out, block.x(), block.y(), t);
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
