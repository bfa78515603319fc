// Which cached tokens a query looks at, guessed from a few channels of the keys, and the mean of what is not read: SparQ (Ribar et al. 2023,
// arXiv:2312.04985) as InstInfer's SparF uses it (Pan et al. 2024, arXiv:2409.04992). Keys are kept a second time with channels as rows, page by page:
// row (page * heads + head) * D + c holds channel c of the page's tokens.
#pragma once
#include <smalti/block/attention/kv.hpp>
#include <smalti/block/attention/rows.hpp>
#include <smalti/block/score/page_summary.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

template <int D> inline constexpr int channel_tile = D % 64 == 0 ? 64 : D % 32 == 0 ? 32 : 16;

//! Channels of the pages that hold new tokens, and the sums of values: sums[sequence * heads + head] takes in those of the new tokens.
template <class T, int Page>
struct page_channels_arguments {
  paged_kv<T, Page> kv;
  new_tokens tokens;
  view<T> channels;
};
template <int W, class T, int Page>
struct page_channels_agent {
  using arguments = page_channels_arguments<T, Page>;
  arguments x;
  static SMALTI_HD constexpr int parts(const arguments& x) { return ceil_div(x.kv.k.cols, W); }
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.kv.most, Page), x.kv.k.heads * parts(x), x.kv.sequences}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int n = block.x(), head = block.y() / parts(x), part = block.y() % parts(x), sequence = block.z();
    const auto kv = x.kv.at(sequence, head);
    const int length = kv.length(), live = length - n * Page, begin = x.tokens.first(block, sequence, length);
    if (live <= 0 || (n + 1) * Page <= begin) return;
    const int page = block.number(kv.table, n);
    tile<Block, float, Page, W> keys;
    block.load(keys, view<const T>{x.kv.k.data + page * x.kv.k.page_stride + head * x.kv.k.head_stride, live < Page ? live : Page, x.kv.k.cols, x.kv.k.slot_stride}, 0, part);
    block.store(transposed(view<T>{x.channels.data + (static_cast<long long>(page) * x.kv.k.heads + head) * x.kv.k.cols * x.channels.stride, x.kv.k.cols, Page, x.channels.stride}), 0, part, keys);
  }
};

template <class T, int Page>
struct value_sums_arguments {
  paged_kv<T, Page> kv;
  new_tokens tokens;
  view<float, 1> sums;
};
template <int M, int W, class T, int Page>
struct value_sums_agent {
  using arguments = value_sums_arguments<T, Page>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.sums.cols, W), x.kv.k.heads, x.kv.sequences}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int part = block.x(), head = block.y(), sequence = block.z(), row_of = sequence * x.kv.k.heads + head;
    const auto kv = x.kv.at(sequence, head);
    const int length = kv.length(), begin = x.tokens.first(block, sequence, length);
    if (length <= begin) return;
    row<Block, float, W> sum, some;
    block.load(sum, x.sums, row_of, part);
    if (begin == 0) block.fill(sum, 0.0f);
    for (int i : block.steps(begin / M, ceil_div(length, M))) {
      tile<Block, float, M, W> values;
      column<Block, int, M> at;
      block.map([=, table = kv.table, step = x.kv.v.rows_per_page()](auto r) {
        const auto token = min(i * M + r, length - 1);
        return lookup(table, token / Page, ceil_div(length, Page)) * step + token % Page;
      }, at, row_index{});
      block.load_rows(values, x.kv.v.template all_slots<step_of<T>>(head), at, part);
      block.map([=](auto v, auto r) { return where(i * M + r < length && i * M + r >= begin, v, 0.0f); }, values, values, row_index{});
      block.column_sum(some, values);
      block.map([](auto a, auto b) { return a + b; }, sum, sum, some);
    }
    block.store(x.sums, row_of, part, sum);
  }
};

//! Of each query head: its row as floats, their sizes, and the sum of these.
template <class T> struct query_sizes_arguments {
  head_rows<const T> q;               //!< one row of each sequence
  view<float, 1> queries, sizes;      //!< [sequence * heads + head]
  float* totals;
};
template <int D, class T>
struct query_sizes_agent {
  using arguments = query_sizes_arguments<T>;
  static constexpr int w = channel_tile<D>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {x.q.heads, x.q.sequences, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int head = block.x(), sequence = block.y(), at = sequence * x.q.heads + head;
    column<Block, float, 16> total, part;
    block.fill(total, 0.0f);
    for (int c : block.steps(0, D / w)) {
      row<Block, float, w> q, size;
      tile<Block, float, 16, w> all;
      block.load(q, x.q.at(sequence, head), 0, c);
      block.map([](auto v) { return abs(v); }, size, q);
      block.store(x.queries, at, c, q);
      block.store(x.sizes, at, c, size);
      block.map([](auto v, auto r) { return v + to_float(r) * 0.0f; }, all, size, row_index{});
      block.row_sum(part, all);
      block.map([](auto a, auto b) { return a + b; }, total, total, part);
    }
    block.store(view<float, 1>{x.totals + at, 1, 1, 1}, 0, 0, total);
  }
};

//! logits[sequence * heads + head][t] = sum over chosen channels c of q_c k_tc / sqrt(D share), share = sum of |q_c| over the chosen / over all;
//! -infinity past the length. A query of zeros: zeros.
template <class T, int Page> struct partial_logits_arguments {
  paged_kv<T, Page> kv;
  view<const T> channels;
  view<const float, 1> queries;
  view<const int, 1> chosen;          //!< [sequence * heads + head][i]
  const float* totals;
  int heads, heads_per_kv, d;
  view<float, 1> logits;              //!< columns: a multiple of Page
};
template <int M, class T, int Page>
struct partial_logits_agent {
  using arguments = partial_logits_arguments<T, Page>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.logits.cols, M * Page), x.heads, x.kv.sequences}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), head = block.y(), sequence = block.z(), list = sequence * x.heads + head, kv_head = head / x.heads_per_kv;
    const auto kv = x.kv.at(sequence, kv_head);
    const int length = kv.length(), used = ceil_div(length, Page);
    tile<Block, float, M, Page> logits, part;
    block.fill(logits, 0.0f);
    if (j * M < used) {
      column<Block, int, M> base, at;
      column<Block, float, M> share;
      block.fill(share, 0.0f);
      block.map([=, table = kv.table, heads = x.kv.k.heads, d = x.d](auto r) { return (lookup(table, min(r + j * M, used - 1), used) * heads + kv_head) * d; }, base, row_index{});
      for (int i : block.steps(0, x.chosen.cols)) {
        const int c = block.number(x.chosen.data, list * x.chosen.stride + i);
        block.map([=](auto b) { return b + c; }, at, base);
        block.load_rows(part, x.channels, at, 0);
        block.map([=, q = x.queries.data + list * static_cast<long long>(x.queries.stride), d = x.d](auto l, auto k, auto r) { return l + k * lookup(q, r * 0 + c, d); }, logits, logits, part, row_index{});
        block.map([=, q = x.queries.data + list * static_cast<long long>(x.queries.stride), d = x.d](auto s, auto r) { return s + abs(lookup(q, r * 0 + c, d)); }, share, share, row_index{});
      }
      block.map([=, totals = x.totals, d = x.d](auto s, auto r) {
        const auto total = lookup(totals, r * 0 + list, list + 1);
        return where(s > 0.0f, rsqrt(over(s * float(d), where(total > 0.0f, total, 1.0f))), 0.0f);
      }, share, share, row_index{});
      // Slots past the length hold anything: they are not looked at.
      block.map([=](auto l, auto s, auto r, auto c) { return where((r + j * M) * Page + c < length, l * s, -__builtin_inff()); }, logits, logits, share, row_index{}, column_index{});
    } else {
      block.fill(logits, -__builtin_inff());
    }
    block.store(view<float, 1>{x.logits.data + list * static_cast<long long>(x.logits.stride), x.logits.cols / Page, Page, Page}, j, 0, logits);
  }
};

//! lse[list] = log of the sum of exp(logits).
struct row_lse_arguments {
  view<const float, 1> logits;
  float* lse;
};
template <int N>
struct row_lse_agent {
  using arguments = row_lse_arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {x.logits.rows, 1, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int list = block.x();
    row<Block, float, N> most, sum, part;
    column<Block, float, 16> top, total;
    tile<Block, float, 16, N> all;
    block.fill(most, -__builtin_inff());
    block.fill(sum, 0.0f);
    for (int j : block.steps(0, ceil_div(x.logits.cols, N))) {
      block.load(part, x.logits, list, j);
      block.map([=, cols = x.logits.cols](auto m, auto p, auto c) { return where(j * N + c < cols, max(m, p), m); }, most, most, part, column_index{});
    }
    block.map([](auto v, auto r) { return v + to_float(r) * 0.0f; }, all, most, row_index{});
    block.row_max(top, all);
    for (int j : block.steps(0, ceil_div(x.logits.cols, N))) {
      tile<Block, float, 16, N> e;
      block.load(part, x.logits, list, j);
      block.map([=, cols = x.logits.cols](auto p, auto t, auto r, auto c) { return where(j * N + c < cols && r == 0, exp2((p - t) * 1.4426950408889634f), 0.0f); }, e, part, top, row_index{}, column_index{});
      block.column_sum(part, e);
      block.map([](auto a, auto b) { return a + b; }, sum, sum, part);
    }
    block.map([](auto v, auto r) { return v + to_float(r) * 0.0f; }, all, sum, row_index{});
    block.row_sum(total, all);
    block.map([](auto s, auto t) { return t + log2(s) * 0.6931471805599453f; }, total, total, top);
    block.store(view<float, 1>{x.lse + list, 1, 1, 1}, 0, 0, total);
  }
};

//! scores[sequence * kv heads + kv head][t] = sum over the heads of the group of exp(logit - lse); NaN for the newest `window` tokens, which stay anyway.
struct partial_scores_arguments {
  view<const float, 1> logits;
  const float* lse;
  const int* lengths;                 //!< [sequence * kv heads + kv head]
  int heads_per_kv, window;
  view<float, 1> scores;
};
template <int N>
struct partial_scores_agent {
  using arguments = partial_scores_arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.scores.cols, N), x.scores.rows, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), row_of = block.y(), length = block.number(x.lengths, row_of);
    row<Block, float, N> sum, part;
    block.fill(sum, 0.0f);
    for (int h = row_of * x.heads_per_kv; h < (row_of + 1) * x.heads_per_kv; ++h) {
      block.load(part, x.logits, h, j);
      block.map([=, lse = x.lse](auto s, auto l, auto c) { return s + exp2((l - lookup(lse, c * 0 + h, h + 1)) * 1.4426950408889634f); }, sum, sum, part, column_index{});
    }
    block.map([=, window = x.window](auto s, auto c) { return where(j * N + c < length - window, s, __builtin_nanf("")); }, sum, sum, column_index{});
    block.store(x.scores, row_of, j, sum);
  }
};

//! Places of the tokens that are read, ascending, and the rows of the pool they lie in (units of `unit` elements): the chosen, then the newest.
template <class T, int Page> struct token_list_arguments {
  paged_kv<T, Page> kv;
  view<const int, 1> chosen;          //!< [sequence * kv heads + kv head][i], ascending
  int window, unit;
  view<int, 1> places, rows;
  int* counts;                        //!< [kv head][sequence]: as core/pages.hpp has lengths
};
template <int N, class T, int Page>
struct token_list_agent {
  using arguments = token_list_arguments<T, Page>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.places.cols, N), x.kv.k.heads, x.kv.sequences}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), head = block.y(), sequence = block.z(), list = sequence * x.kv.k.heads + head;
    const auto kv = x.kv.at(sequence, head);
    const int length = kv.length(), last = length > x.window ? length - x.window : 0, most = x.chosen.cols, taken = last < most ? last : most, count = taken + length - last;
    row<Block, int, N> place, at;
    block.map([=, chosen = x.chosen.data + list * static_cast<long long>(x.chosen.stride)](auto c) {
      const auto i = j * N + c;
      return where(i < taken, lookup(chosen, i, most), where(i < count, i - taken + last, -1));
    }, place, column_index{});
    block.store(x.places, list, j, place);
    block.map([=, table = kv.table, page = static_cast<int>(x.kv.k.page_stride / x.unit), slot = x.kv.k.slot_stride / x.unit, first = static_cast<int>(head * x.kv.k.head_stride / x.unit)](auto p) {
      const auto token = max(p, 0);
      return lookup(table, token / Page, ceil_div(length, Page)) * page + token % Page * slot + first;
    }, at, place);
    block.store(x.rows, list, j, at);
    if (j == 0) {
      column<Block, int, 16> n;
      block.fill(n, count);
      block.store(view<int, 1>{x.counts + head * x.kv.sequences + sequence, 1, 1, 1}, 0, 0, n);
    }
  }
};
//! Tokens of each track, or its pages.
template <class T, int Page> struct track_lengths_arguments {
  paged_kv<T, Page> kv;
  int* lengths;
};
template <class T, int Page, bool Pages = false>
struct track_lengths_agent {
  using arguments = track_lengths_arguments<T, Page>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {x.kv.k.heads, x.kv.sequences, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int sequence = block.y(), head = block.x(), list = sequence * x.kv.k.heads + head;
    const int tokens = block.number(x.kv.where.length + head * x.kv.where.length_head_stride, sequence), length = Pages ? ceil_div(tokens, Page) : tokens;
    column<Block, int, 16> n;
    block.fill(n, length);
    block.store(view<int, 1>{x.lengths + list, 1, 1, 1}, 0, 0, n);
  }
};

//! o = a o + (1 - a) mean of all values, a = sum over the tokens that were read of exp(logit - lse).
template <class O> struct compensate_arguments {
  head_rows<O> o;                     //!< one row of each sequence
  view<const float, 1> logits, sums;
  view<const int, 1> places;
  const float* lse;
  const int *lengths, *counts;        //!< [sequence * kv heads + kv head]; [kv head][sequence]
  int heads_per_kv;
};
template <int N, int W, class O>
struct compensate_agent {
  using arguments = compensate_arguments<O>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {x.o.heads, x.o.sequences, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int head = block.x(), sequence = block.y(), list = sequence * x.o.heads + head, track = list / x.heads_per_kv, count = block.number(x.counts, head / x.heads_per_kv * x.o.sequences + sequence), length = block.number(x.lengths, track);
    if (length <= 0) return;
    column<Block, float, 16> share, part;
    block.fill(share, 0.0f);
    for (int j : block.steps(0, ceil_div(count, N))) {
      tile<Block, float, 16, N> p;
      block.map([=, lse = x.lse, logits = x.logits.data + list * static_cast<long long>(x.logits.stride), places = x.places.data + track * static_cast<long long>(x.places.stride)](auto r, auto c) {
        const auto i = r * 0 + c + j * N;
        return where(i < count, exp2((lookup(logits, max(lookup(places, i, count), 0), length) - lookup(lse, i * 0 + list, list + 1)) * 1.4426950408889634f), 0.0f);
      }, p, row_index{}, column_index{});
      block.row_sum(part, p);
      block.map([](auto a, auto b) { return a + b; }, share, share, part);
    }
    for (int c : block.steps(0, ceil_div(x.o.cols, W))) {
      row<Block, float, W> o, sum;
      tile<Block, float, 16, W> mixed;
      const view<O> at{x.o.begin(sequence, head), 1, x.o.cols, x.o.row_stride};
      block.load(o, at, 0, c);
      block.load(sum, x.sums, track, c);
      block.map([=](auto o, auto s, auto a) { return a * o + (1.0f - a) * s * (1.0f / float(length)); }, mixed, o, sum, share);
      block.store(at, 0, c, mixed);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
