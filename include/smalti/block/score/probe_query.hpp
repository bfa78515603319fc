// One query that stands for a window of them, made most of those that stand out, and the mean key of each page that it is compared with: ActQKV
// (Xiao et al. 2025, arXiv:2502.13542). The paper's method section was not at hand: the formulas are a reconstruction.
//     mean_c, var_c over the window;  a_i = sum_c (q_ic - mean_c)^2 / (var_c + 1e-6);  probe = sum_i softmax_i(a_i / temperature) q_i
#pragma once
#include <smalti/block/attention/rows.hpp>
#include <smalti/block/score/page_summary.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! means[sequence * heads + head][c], inverse[...][c] = 1 / (var_c + 1e-6).
template <class T> struct window_moments_arguments {
  head_rows<const T> q;               //!< the window's queries
  view<float, 1> means, inverse;
};
template <int M, int W, class T>
struct window_moments_agent {
  using arguments = window_moments_arguments<T>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.q.cols, W), x.q.heads, x.q.sequences}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int part = block.x(), head = block.y(), sequence = block.z(), list = sequence * x.q.heads + head, rows = x.q.length(sequence);
    if (rows <= 0) return;
    row<Block, float, W> mean, var, some;
    block.fill(mean, 0.0f);
    block.fill(var, 0.0f);
    for (int i : block.steps(0, ceil_div(rows, M))) {
      tile<Block, float, M, W> q;
      block.load(q, x.q.at(sequence, head), i, part);
      block.column_sum(some, q);                      // zero past the last row
      block.map([](auto a, auto b) { return a + b; }, mean, mean, some);
    }
    block.map([=](auto s) { return s * (1.0f / float(rows)); }, mean, mean);
    for (int i : block.steps(0, ceil_div(rows, M))) {
      tile<Block, float, M, W> q;
      block.load(q, x.q.at(sequence, head), i, part);
      block.map([=](auto v, auto m, auto r) { return where(i * M + r < rows, (v - m) * (v - m), 0.0f); }, q, q, mean, row_index{});
      block.column_sum(some, q);
      block.map([](auto a, auto b) { return a + b; }, var, var, some);
    }
    block.map([=](auto s) { return over(1.0f, s * (1.0f / float(rows)) + 1e-6f); }, var, var);
    block.store(x.means, list, part, mean);
    block.store(x.inverse, list, part, var);
  }
};

//! deviations[sequence * heads + head][i] = factor * a_i; -infinity past the window.
template <class T> struct window_deviation_arguments {
  head_rows<const T> q;
  view<const float, 1> means, inverse;
  float factor;                       //!< 1 / temperature; 0: the mean of the window
  view<float, 1> deviations;
};
template <int M, int W, class T>
struct window_deviation_agent {
  using arguments = window_deviation_arguments<T>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.deviations.cols, M), x.q.heads, x.q.sequences}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), head = block.y(), sequence = block.z(), list = sequence * x.q.heads + head, rows = x.q.length(sequence);
    column<Block, float, M> sum, part;
    block.fill(sum, 0.0f);
    for (int c : block.steps(0, ceil_div(x.q.cols, W))) {
      tile<Block, float, M, W> q;
      row<Block, float, W> mean, inverse;
      block.load(q, x.q.at(sequence, head), i, c);
      block.load(mean, x.means, list, c);
      block.load(inverse, x.inverse, list, c);
      block.map([](auto v, auto m, auto n) { return (v - m) * (v - m) * n; }, q, q, mean, inverse);
      block.row_sum(part, q);
      block.map([](auto a, auto b) { return a + b; }, sum, sum, part);
    }
    block.map([=, factor = x.factor](auto a, auto r) { return where(i * M + r < rows, a * factor, -__builtin_inff()); }, sum, sum, row_index{});
    block.store_column(x.deviations, list, i, sum);
  }
};

//! probe[sequence * heads + head] = sum_i exp(deviation_i - lse) q_i.
template <class T> struct probe_arguments {
  head_rows<const T> q;
  view<const float, 1> deviations;
  const float* lse;
  view<T> probe;
};
template <int M, int W, class T>
struct probe_agent {
  using arguments = probe_arguments<T>;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.q.cols, W), x.q.heads, x.q.sequences}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int part = block.x(), head = block.y(), sequence = block.z(), list = sequence * x.q.heads + head, rows = x.q.length(sequence);
    row<Block, float, W> sum, some;
    block.fill(sum, 0.0f);
    for (int i : block.steps(0, ceil_div(rows, M))) {
      tile<Block, float, M, W> q;
      column<Block, float, M> weight;
      block.load(q, x.q.at(sequence, head), i, part);
      block.map([=, a = x.deviations.data + list * static_cast<long long>(x.deviations.stride), lse = x.lse](auto r) {
        return where(i * M + r < rows, exp2((lookup(a, i * M + r, rows) - lookup(lse, r * 0 + list, list + 1)) * 1.4426950408889634f), 0.0f);
      }, weight, row_index{});
      block.map([](auto v, auto w) { return v * w; }, q, q, weight);
      block.column_sum(some, q);
      block.map([](auto a, auto b) { return a + b; }, sum, sum, some);
    }
    block.store(x.probe, list, part, sum);
  }
};

//! The mean key of a page (page_summary_agent).
struct page_mean {
  template <class T> using out = view<T>;
  template <int Slots, int Width, class Block, class T> static SMALTI_HD void write(Block& block, const view<T>& means, const view<const T>& slots, int at, int part) {
    row<Block, float, Width> sum, some;
    block.fill(sum, 0.0f);
    for (int i : block.steps(0, ceil_div(slots.rows, Slots))) {
      tile<Block, float, Slots, Width> keys;
      block.load(keys, slots, i, part);
      block.column_sum(some, keys);                   // zero past the last slot in use
      block.map([](auto a, auto b) { return a + b; }, sum, sum, some);
    }
    const int live = slots.rows;
    block.map([=](auto s) { return s * (1.0f / float(live)); }, sum, sum);
    block.store(means, at, part, sum);
  }
};

//! out[list][n] = scores[list][n], infinity for the first `sinks` pages and the page of the newest token, which are always read.
struct protect_pages_arguments {
  view<const float, 1> scores;
  const int* pages;                   //!< [list] in use
  int sinks;
  view<float, 1> out;
};
template <int N>
struct protect_pages_agent {
  using arguments = protect_pages_arguments;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.out.cols, N), x.out.rows, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), list = block.y(), used = block.number(x.pages, list);
    row<Block, float, N> s;
    block.load(s, x.scores, list, j);
    block.map([=, sinks = x.sinks](auto v, auto c) { return where(j * N + c < used, where(j * N + c < sinks || j * N + c == used - 1, __builtin_inff(), v), __builtin_nanf("")); }, s, s, column_index{});
    block.store(x.out, list, j, s);
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
