// What eviction does between a score and a move: scores of the candidates with their neighbours', the list of what stays, the rows
// it lies in and goes to, and keys that turn on their way.
#pragma once
#include <smalti/core/view.hpp>
#include <smalti/policy/cache/disposition.hpp>
#include <smalti/policy/cache/scorer.hpp>
#include <smalti/policy/position.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! Of one track: tokens [first, last) may stay or go, `count` stay in all; those before first and from last on are protected.
struct track_plan {
  const int* first;
  const int* last;
  const int* count;
  const int* length;
};

//! out[track][i] = the pooled score of token first + i; NaN, the worst there is, past the last candidate. Tokens from `last` on
//! have no vote in the pool.
struct candidate_arguments {
  view<const float, 1> scores;          //!< [track][token]
  track_plan tracks;
  view<float, 1> out;
};
template <int N, int Kernel, policy::pooling Pool, int Granule = 1>
struct candidate_agent {
  using arguments = candidate_arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.out.cols, N), x.out.rows, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), track = block.y(), first = block.number(x.tracks.first, track), last = block.number(x.tracks.last, track);
    row<Block, float, N> pooled;
    constexpr int reach = Kernel / 2;
    block.map([=, scores = x.scores.data + track * static_cast<long long>(x.scores.stride)](auto c) {
      const auto token = first + j * N + c;
      auto sum = lookup(scores, token, last);
      if constexpr (Granule > 1) {                           // the best of the token's page, all of which are candidates
        const auto page = token - token % Granule;
        for (int d = 0; d < Granule; ++d) sum = max(sum, where(token < last, lookup(scores, page + d, last), sum));
      } else if constexpr (Pool == policy::pooling::maximum) {
        for (int d = -reach; d <= reach; ++d) sum = max(sum, where(token + d >= 0 && token + d < last, lookup(scores, token + d, last), sum));
      } else {
        for (int d = 1; d <= reach; ++d) sum = sum + lookup(scores, token - d, last) + lookup(scores, token + d, last);
        if constexpr (Pool == policy::pooling::average) sum = sum * (1.0f / Kernel);
        if constexpr (Pool == policy::pooling::average_inside) sum = over(sum, to_float(min(token + reach, last - 1) - max(token - reach, 0) + 1));
      }
      return where(token < last, sum, __builtin_nanf(""));
    }, pooled, column_index{});
    block.store(x.out, track, j, pooled);
  }
};

//! kept[track][i] = the i-th survivor's place in the track before: first the protected beginning, then the chosen, then the newest; -1 behind.
struct survivor_arguments {
  track_plan tracks;
  view<const int, 1> chosen;            //!< [track][i]: candidates that stay, ascending; those past count - protected are not read
  view<int, 1> kept;
};
template <int N>
struct survivor_agent {
  using arguments = survivor_arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.kept.cols, N), x.kept.rows, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), track = block.y(), first = block.number(x.tracks.first, track), last = block.number(x.tracks.last, track), count = block.number(x.tracks.count, track);
    const int newest = block.number(x.tracks.length, track) - last, chosen_end = count - newest;
    row<Block, int, N> kept;
    block.map([=, chosen = x.chosen.data + track * static_cast<long long>(x.chosen.stride), most = x.chosen.cols](auto c) {
      const auto i = j * N + c;
      const auto middle = first + lookup(chosen, i - first, most);
      return where(i < count, where(i < first, i, where(i < chosen_end, middle, i - chosen_end + last)), -1);
    }, kept, column_index{});
    block.store(x.kept, track, j, kept);
  }
};

//! Rows of the pool that survivors lie in and go to, for each head of a page: what move_rows reads. -1 behind a track's count.
template <class Layout> struct row_list_arguments {
  track_plan tracks;
  view<const int, 1> kept;              //!< [track][i]
  view<const int, 1> before, after;     //!< [track][n]: pages
  int page, heads_in_page;
  int shift;                            //!< page = 1 << shift; -1: it is no power of two
  view<int, 1> source, target;          //!< [track * heads_in_page + head][i]
};
template <int N, class Layout>
struct row_list_agent {
  using arguments = row_list_arguments<Layout>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.source.cols, N), x.kept.rows * x.heads_in_page, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), track = block.y() / x.heads_in_page, head = block.y() % x.heads_in_page, count = block.number(x.tracks.count, track), length = block.number(x.tracks.length, track);
    const view<const int, 1> kept{x.kept.data + track * static_cast<long long>(x.kept.stride), 1, count, count};
    const view<const int, 1> before{x.before.data + track * static_cast<long long>(x.before.stride), 1, ceil_div(length, x.page), x.before.stride};
    const view<const int, 1> after{x.after.data + track * static_cast<long long>(x.after.stride), 1, ceil_div(count, x.page), x.after.stride};
    row<Block, int, N> token, place;
    block.map([=](auto c) { return j * N + c; }, place, column_index{});
    block.map([list = kept.data, count](auto i) { return lookup(list, i, count); }, token, place);
    put(block, x.source, before, token, j, head, count);
    put(block, x.target, after, place, j, head, count);
  }

private:
  // The rows of tokens of one track, where i is below the count. A division of vectors is one of each element: pages of a power of two are spared it.
  template <class Block, class Tokens> SMALTI_HD void put(Block& block, const view<int, 1>& out, const view<const int, 1>& table, const Tokens& tokens, int j, int head, int count) const {
    row<Block, int, N> rows;
    if (x.shift >= 0)
      block.map([=, pages = table.data, used = table.cols, heads = x.heads_in_page, page = x.page, shift = x.shift](auto t, auto c) {
        return where(j * N + c < count, Layout{}.row(lookup(pages, t >> shift, used), t & (page - 1), head, heads, page), -1);
      }, rows, tokens, column_index{});
    else
      block.map([=, pages = table.data, used = table.cols, heads = x.heads_in_page, page = x.page](auto t, auto c) {
        return where(j * N + c < count, Layout{}.row(lookup(pages, t / page, used), t % page, head, heads, page), -1);
      }, rows, tokens, column_index{});
    block.store(out, block.y(), j, rows);
  }
};

//! to[track][i] = from[track][kept[track][i]] for i below the track's count; not Chosen: from[track][i].
struct keep_scores_arguments {
  view<const float, 1> from;
  view<const int, 1> kept;
  track_plan tracks;
  view<float, 1> to;
};
template <int N, bool Chosen>
struct keep_scores_agent {
  using arguments = keep_scores_arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.to.cols, N), x.to.rows, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), track = block.y(), count = block.number(x.tracks.count, track);
    const float* from = x.from.data + track * static_cast<long long>(x.from.stride);
    row<Block, float, N> s;
    if constexpr (Chosen) {          // two closures: nvcc 13.5 loses a capture that only one form of a closure uses
      const int length = block.number(x.tracks.length, track);
      const int* kept = x.kept.data + track * static_cast<long long>(x.kept.stride);
      block.map([=, first = j * N](auto c) { return lookup(from, lookup(kept, first + c, count), length); }, s, column_index{});
    } else {
      block.map([=, first = j * N](auto c) { return lookup(from, first + c, count); }, s, column_index{});
    }
    block.store(view<float, 1>{x.to.data + track * static_cast<long long>(x.to.stride), 1, count, x.to.stride}, 0, j, s);
  }
};

//! m rows of one list, `pairs` pairs of each.
struct turn_tuning {
  int m;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const turn_tuning&) const = default;
};

//! Keys that move and turn: row target[i] becomes row source[i], its pairs (c, c + D / 2) rotated by the position policy's correction.
template <class T, int D, class Positions> struct turn_rows_problem {
  static_assert(D % 32 == 0, "smalti: keys that turn have a multiple of 32 columns");
  static constexpr int half = D / 2, width = half % 64 == 0 ? 64 : half % 32 == 0 ? 32 : 16, runs = half / width;
  struct arguments {
    track_plan tracks;
    view<const int, 1> kept;            //!< [track][i]
    view<const int, 1> source, target;  //!< [track * heads_in_page + head][i]
    int heads_in_page;
    view<const float, 1> frequencies;   //!< 4 x D / 2: policy::fill_frequencies
    stack<const T> from;                //!< [layer][row][D]
    stack<T> to;
  };
};
template <turn_tuning Tuning, class T, int D, class Positions>
struct turn_rows_agent {
  using problem = turn_rows_problem<T, D, Positions>;
  using arguments = typename problem::arguments;
  static constexpr int m = Tuning.m, w = problem::width, runs = problem::runs, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.kept.cols, m), x.source.rows, x.from.count}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), list = block.y(), layer = block.z(), track = list / x.heads_in_page, count = block.number(x.tracks.count, track), length = block.number(x.tracks.length, track);
    if (i * m >= count) return;
    column<Block, int, m> from, to, delta;
    block.map([=, source = x.source.data + list * static_cast<long long>(x.source.stride)](auto r) { return lookup(source, min(i * m + r, count - 1), count); }, from, row_index{});
    block.map([=, target = x.target.data + list * static_cast<long long>(x.target.stride)](auto r) { return where(i * m + r < count, lookup(target, i * m + r, count), -1); }, to, row_index{});
    block.map([=, kept = x.kept.data + track * static_cast<long long>(x.kept.stride), evicted = length - count](auto r) {
      const auto rank = min(i * m + r, count - 1);
      return policy::key_correction(policy::detail::turning<Positions>::bound(evicted), lookup(kept, rank, count), rank);
    }, delta, row_index{});
    for (int c : block.steps(0, runs)) {
      row<Block, float, w> coarse, coarse_rest, fine, fine_rest;
      block.load(coarse, x.frequencies, 0, c);
      block.load(coarse_rest, x.frequencies, 1, c);
      block.load(fine, x.frequencies, 2, c);
      block.load(fine_rest, x.frequencies, 3, c);
      tile<Block, float, m, w> turned, cosine, sine, a, b, u;
      block.map([](auto p, auto a, auto b, auto c, auto d) { return policy::turns(p, policy::frequency<decltype(a)>{a, b, c, d}); }, turned, delta, coarse, coarse_rest, fine, fine_rest);
      block.map([](auto t) { return policy::rotation_by(t).cos; }, cosine, turned);
      block.map([](auto t) { return policy::rotation_by(t).sin; }, sine, turned);
      block.load_rows(a, x.from[layer], from, c);
      block.load_rows(b, x.from[layer], from, c + runs);
      block.map([](auto x, auto y, auto cos, auto sin) { return policy::rotate_first(x, y, policy::rotation<decltype(cos)>{cos, sin}); }, u, a, b, cosine, sine);
      block.map([](auto x, auto y, auto cos, auto sin) { return policy::rotate_second(x, y, policy::rotation<decltype(cos)>{cos, sin}); }, b, a, b, cosine, sine);
      block.store_rows(x.to[layer], to, c, u);
      block.store_rows(x.to[layer], to, c + runs, b);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
