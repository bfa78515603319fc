// Rows added up by the ids they carry, in an order that is fixed: the gradient of what several rows read (an embedding, a constant expert, an
// adapter of several segments). And products of rows with rows.
#pragma once
#include <smalti/block/moe/rows.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::moe {

template <class X, class Y, int StepX, int StepY> struct sum_by_id_arguments {
  view<const X, StepX> from;
  const int* id;                //!< [entries] rising
  const int* entry;             //!< [entries] what the id stood beside
  const float* weight;          //!< null: all 1; else of entries as they came
  int entries, copies;          //!< entry i is row i / copies of from
  int first;                    //!< the id of y's first row
  view<Y, StepY> y;
};
//! y[v] = sum over entries i of id v + first, rising, of weight[i] from[i / copies]. One block: m ids, n columns.
template <rows_tuning Tuning, class X, class Y, int StepX, int StepY> struct sum_by_id_agent {
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using arguments = sum_by_id_arguments<X, Y, StepX, StepY>;
  arguments a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.y.rows, m), ceil_div(a.y.cols, n), 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.y(), begin = block.x() * m + a.first, end = begin + m;
    tile<Block, float, m, n> sum;
    row<Block, float, n> more;
    block.fill(sum, 0.0f);
    const int last = entries_before(block, end);
    for (int e = entries_before(block, begin); e < last; ++e) {
      const int id = block.number(a.id, e);
      const int entry = block.number(a.entry, e), r = entry / a.copies;
      block.load(more, view<const X, StepX>{a.from.data + static_cast<long long>(r) * a.from.stride, 1, a.from.cols, a.from.stride}, 0, j);
      const float weight = a.weight != nullptr ? block.number(a.weight, entry) : 1.0f;
      block.map([at = id - begin, weight](auto s, auto v, auto place) { return where(place == at, (mutant(defect::sum_by_id_keeps_last) ? s * 0.0f : s) + v * weight, s); }, sum, sum, more, row_index{});
    }
    block.store(a.y, block.x(), j, sum);
  }

private:
  // How many entries have a lesser id, by bisection.
  template <class Block> SMALTI_HD int entries_before(Block& block, int id) const {
    int low = 0, high = a.entries;
    while (low < high) {
      const int middle = low + (high - low) / 2;
      const bool before = block.number(a.id, middle) < id;
      low = before ? middle + 1 : low;
      high = before ? high : middle;
    }
    return low;
  }
};

template <class X, class Y, int StepX, int StepY> struct row_dots_arguments {
  view<const X, StepX> a;
  view<const Y, StepY> b;
  const int* row;               //!< null: number i takes row i of b; else row[i] - first
  view<float, 1> dot;           //!< one column: number i takes row i / copies of a
  int copies, first;
  int keeps;                    //!< whether a number whose row is not one of b stays as it is; else it becomes 0
};
//! dot[i] = <a[i / copies], b[row[i] - first]>. One block: m numbers.
template <rows_tuning Tuning, class X, class Y, int StepX, int StepY> struct row_dots_agent {
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using arguments = row_dots_arguments<X, Y, StepX, StepY>;
  arguments a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.dot.rows, m), 1, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x();
    column<Block, float, m> dot, part;
    column<Block, int, m> row, mine, there;
    block.map([first = i * m, copies = a.copies, last = a.a.rows - 1](auto r) { return min((r + first) / copies, last); }, mine, row_index{});      // numbers past the end are not stored
    if (a.row != nullptr) block.load(row, view<const int, 1>{a.row, a.dot.rows, 1, 1}, i, 0);
    else block.map([first = i * m + a.first](auto r) { return r + first; }, row, row_index{});
    block.map([first = a.first, rows = a.b.rows](auto r) { return where(r < first, -1, where(r - first < rows, r - first, -1)); }, row, row);
    block.map([](auto r) { return max(r, 0); }, there, row);
    block.fill(dot, 0.0f);
    for (int j : block.steps(0, ceil_div(a.a.cols, n))) {
      tile<Block, float, m, n> x, y;
      block.load_rows(x, a.a, mine, j);
      block.load_rows(y, a.b, there, j);
      block.map([](auto p, auto q) { return p * q; }, x, x, y);
      block.row_sum(part, x);
      block.map([](auto sum, auto p) { return sum + p; }, dot, dot, part);
    }
    block.fill(part, 0.0f);
    if (a.keeps != 0) block.load(part, a.dot, i, 0);
    block.map([](auto d, auto before, auto r) { return where(r >= 0, d, before); }, dot, dot, part, row);
    block.store(a.dot, i, 0, dot);
  }
};

}  // namespace smalti::inline SMALTI_CODE::moe
