// Bipartite matching of cached tokens: every second token of a track looks for the most similar of the others.
#pragma once
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! rows[track * heads_in_page + head][i] = the row of the pool of token 2 i + odd; -1 behind.
struct pair_rows_arguments {
  view<const int, 1> table;             //!< [track][n]: pages
  const int* length;                    //!< [track]
  int page, heads_in_page, odd;
  view<int, 1> rows;
};
template <int N, class Layout>
struct pair_rows_agent {
  using arguments = pair_rows_arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.rows.cols, N), x.rows.rows, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), track = block.y() / x.heads_in_page, head = block.y() % x.heads_in_page, length = block.number(x.length, track);
    row<Block, int, N> rows;
    block.map([=, table = x.table.data + track * static_cast<long long>(x.table.stride), heads = x.heads_in_page, page = x.page, odd = x.odd](auto c) {
      const auto token = (j * N + c) * 2 + odd;
      return where(token < length, Layout{}.row(lookup(table, token / page, ceil_div(length, page)), token % page, head, heads, page), -1);
    }, rows, column_index{});
    block.store(x.rows, block.y(), j, rows);
  }
};

//! scores[track][t] = 2 where t is odd, or alone; else minus the greatest similarity, a mean over the heads that share the track; NaN past its tokens.
struct pair_scores_arguments {
  view<const float, 1> similarity;      //!< [track * heads_in_page + head][t / 2]
  const int* length;                    //!< [track]
  int heads_in_page;
  view<float, 1> scores;
};
template <int N>
struct pair_scores_agent {
  using arguments = pair_scores_arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.scores.cols, N), x.scores.rows, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), track = block.y(), length = block.number(x.length, track);
    row<Block, float, N> scores;
    block.map([=, of = x.similarity.data + track * static_cast<long long>(x.heads_in_page) * x.similarity.stride, stride = x.similarity.stride, width = x.similarity.cols, heads = x.heads_in_page](auto c) {
      const auto token = j * N + c;
      auto sum = to_float(token * 0);
      for (int h = 0; h < heads; ++h) sum = sum + lookup(of + h * static_cast<long long>(stride), token >> 1, width);
      return where(token < length, where(token % 2 == 1 || length < 2, 2.0f, sum * (-1.0f / float(heads))), __builtin_nanf(""));
    }, scores, column_index{});
    block.store(x.scores, track, j, scores);
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
