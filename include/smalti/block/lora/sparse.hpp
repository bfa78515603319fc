// A sparse update of a layer: y[r, i] += sum over its entries (i, j, s) of s x[r, j]; and the gradient of the entries' values.
#pragma once
#include <smalti/core/context.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::lora {

//! Entries by outputs: those of output i are [first[i], first[i + 1]), their columns rising, none twice.
struct sparse_rows {
  const int* first = nullptr;       //!< [outputs + 1]
  const int* column = nullptr;      //!< [entries]
  const float* value = nullptr;     //!< [entries]
  int outputs = 0, entries = 0;
};
struct sparse_tuning {
  int m, n;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const sparse_tuning&) const = default;
};

template <class X, class Y> struct sparse_arguments {
  view<const X> x;
  sparse_rows entries;
  view<Y> y;
};
//! One block: m rows, n outputs. Tiles without an entry, nearly all of them, end at once.
template <sparse_tuning Tuning, class X, class Y> struct sparse_agent {
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using arguments = sparse_arguments<X, Y>;
  arguments a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.y.rows, m), ceil_div(a.y.cols, n), 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int begin = block.y() * n, end = begin + n < a.y.cols ? begin + n : a.y.cols;
    if (block.number(a.entries.first, begin) == block.number(a.entries.first, end)) return;
    tile<Block, float, m, n> sum;
    block.load(sum, a.y, block.x(), block.y());
    for (int i = begin; i < end; ++i) {
      const int last = block.number(a.entries.first, i + 1);
      for (int e = block.number(a.entries.first, i); e < last; ++e) {
        column<Block, float, m> by;
        block.map([=, x = a.x, first = block.x() * m, j = block.number(a.entries.column, e), s = block.number(a.entries.value, e)](auto r) { return lookup(x, r + first, r * 0 + j) * s; }, by, row_index{});
        block.map([at = mutant(defect::sparse_entry_of_next_output) ? i - begin + 1 : i - begin](auto v, auto more, auto c) { return where(c == at, v + more, v); }, sum, sum, by, column_index{});
      }
    }
    block.store(a.y, block.x(), block.y(), sum);
  }
};

template <class X> struct sparse_gradient_arguments {
  view<const X> x, dy;
  sparse_rows entries;
  const int* output;              //!< [entries] the i of each
  view<float, 1> gradient;        //!< one row
};
//! gradient[e] = sum over rows r of dy[r, i] x[r, j] for entry e = (i, j), in the order of rows. One block: n entries.
template <sparse_tuning Tuning, class X> struct sparse_gradient_agent {
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using arguments = sparse_gradient_arguments<X>;
  arguments a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.entries.entries, n), 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    row<Block, int, n> i, j;
    row<Block, float, n> sum;
    block.load(i, view<const int, 1>{a.output, 1, a.entries.entries, a.entries.entries}, 0, block.x());
    block.load(j, view<const int, 1>{a.entries.column, 1, a.entries.entries, a.entries.entries}, 0, block.x());
    block.fill(sum, 0.0f);
    for (int r : block.steps(0, a.x.rows))
      block.map([=, x = a.x, dy = a.dy](auto total, auto out, auto in) { return total + lookup(dy, out * 0 + r, out) * lookup(x, in * 0 + r, in); }, sum, sum, i, j);
    block.store(a.gradient, 0, block.x(), sum);
  }
};

struct default_sparse_tuning {
  SMALTI_HD constexpr sparse_tuning operator()(target t) const { return t == target::host ? sparse_tuning{.m = 16, .n = 64} : sparse_tuning{.m = 32, .n = 64}; }
};
template <class X, class Y> struct sparse_kernel {
  using arguments = sparse_arguments<X, Y>;
  template <target T> using agent = sparse_agent<default_sparse_tuning{}(T), X, Y>;
};
template <class X> struct sparse_gradient_kernel {
  using arguments = sparse_gradient_arguments<X>;
  template <target T> using agent = sparse_gradient_agent<default_sparse_tuning{}(T), X>;
};

}  // namespace smalti::inline SMALTI_CODE::lora
