// The normalization agent: root mean square and layer normalization of rows, with the addition to the residual stream
// that precedes it in a transformer. One block makes `m` rows, `n` columns at a time, and reads them twice (three times
// with a mean): from the cache the second time.
#pragma once
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::norm {

struct norm_tuning {
  int m, n;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const norm_tuning&) const = default;
};

//! Wide: views that promise 16 bytes. Centered: the mean is subtracted (layer normalization). Biased: a row is added at the end. Adds: what is normalized
//! is stream + x, which is also written back to the stream.
template <class X, class Stream, class Gain, class Y, bool Wide, bool Centered, bool Biased, bool Adds>
struct norm_problem {
  static constexpr bool centered = Centered, biased = Biased, adds = Adds;
  using stream_element = Stream;
  template <class T> static constexpr int step = Wide ? step_of<T> : 1;
  struct arguments {
    view<const X, step<X>> x;
    view<Stream, step<Stream>> stream;
    view<const Gain, 1> gain, bias;      //!< one row each
    view<Y, step<Y>> y;
    float epsilon, gain_offset;
  };
};

template <norm_tuning Tuning, class Problem>
struct norm_agent {
  using arguments = typename Problem::arguments;
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments a;

  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.y.rows, m), 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int first = block.x() * m, steps = ceil_div(a.y.cols, n);
    const float share = 1.0f / float(a.y.cols);
    tile<Block, float, m, n> t, sums;
    column<Block, float, m> mean, scale;
    block.fill(mean, 0.0f);
    if constexpr (Problem::centered) {
      block.fill(sums, 0.0f);
      for (int j : block.steps(0, steps)) {
        load(block, t, first, j);
        block.map([](auto sum, auto v) { return sum + v; }, sums, sums, t);
      }
      block.row_sum(mean, sums);
      block.map([=](auto sum) { return sum * share; }, mean, mean);
    }

    block.fill(sums, 0.0f);
    for (int j : block.steps(0, steps)) {
      load(block, t, first, j);
      if constexpr (Problem::centered)
        block.map([=, cols = a.y.cols](auto sum, auto v, auto mu, auto c) {
          return where(c + j * n < cols, sum + (v - mu) * (v - mu), sum);      // zeros past the row are no deviations
        }, sums, sums, t, mean, column_index{});
      else block.map([](auto sum, auto v) { return sum + v * v; }, sums, sums, t);
    }
    block.row_sum(scale, sums);
    block.map([=, epsilon = a.epsilon](auto sum) { return rsqrt(sum * share + (mutant(defect::norm_without_epsilon) ? 0.0f : epsilon)); }, scale, scale);

    for (int j : block.steps(0, steps)) {
      load(block, t, first, j);
      if constexpr (Problem::adds) block.store(band(a.stream, first, m), 0, j, t);
      row<Block, float, n> gain, bias;
      block.load(gain, a.gain, 0, mutant(defect::norm_gain_of_first_columns) ? 0 : j);
      if constexpr (Problem::biased) block.load(bias, a.bias, 0, j);
      else block.fill(bias, 0.0f);
      block.map([offset = a.gain_offset](auto v, auto mu, auto s, auto g, auto b) {
        return (v - mu) * s * (g + offset) + b;
      }, t, t, mean, scale, gain, bias);
      block.store(band(a.y, first, m), 0, j, t);
    }
  }

private:
  // What is normalized: x, or the stream after the addition, rounded as it is stored. Rows are found in 64 bits.
  template <class Block> SMALTI_HD void load(Block& block, tile<Block, float, m, n>& t, int first, int j) const {
    block.load(t, band(a.x, first, m), 0, j);
    if constexpr (Problem::adds) {
      tile<Block, float, m, n> old;
      block.load(old, band(a.stream, first, m), 0, j);
      block.map([](auto x, auto s) { return rounded_as<typename Problem::stream_element>(mutant(defect::norm_stream_not_added) ? x : x + s); }, t, t, old);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::norm
