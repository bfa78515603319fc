// Merges partial results of the same rows over different keys: values and log-sum-exps that other calls, other devices or
// other programs left in memory. The arithmetic is policy/lse.hpp's; the order is that of the parts.
#pragma once
#include <smalti/block/attention/rows.hpp>
#include <smalti/policy/lse.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

struct merge_tuning {
  int m, n;                     //!< rows and columns of a tile
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const merge_tuning&) const = default;
};

template <class Part, class Out, class Lse>
struct merge_problem {
  using lse = Lse;
  struct arguments {
    head_rows<const Part> o;               //!< of part 0; part p lies p * o_distance elements further
    head_rows<const float> lse;
    long long o_distance, lse_distance;
    int parts;
    head_rows<Out> result;
    head_rows<float> result_lse;           //!< null data: not wanted
  };
};

template <merge_tuning Tuning, class Problem>
struct merge_agent {
  using arguments = typename Problem::arguments;
  using lse = typename Problem::lse;
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;

  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.o.rows, m) * ceil_div(x.o.cols, n), x.o.heads, x.o.sequences}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int across = ceil_div(x.o.cols, n), i = block.x() / across, c = block.x() % across, head = block.y(), sequence = block.z();
    if (i * m >= x.o.length(sequence)) return;
    tile<Block, float, m, n> value;
    column<Block, float, m> largest, sum;
    block.fill(value, 0.0f);
    block.fill(largest, policy::empty_lse());
    block.fill(sum, 0.0f);
    for (int p : block.steps(0, x.parts)) {
      auto o = x.o.at(sequence, head);
      auto l = x.lse.template at<1>(sequence, head);
      o.data += p * x.o_distance;
      l.data += p * x.lse_distance;
      tile<Block, float, m, n> more;
      column<Block, float, m> next, keep, take;
      block.load(more, o, i, c);
      block.load(next, l, i, 0);
      block.map([](auto top, auto total, auto l) { return policy::lse_row<lse_of<decltype(top)>>{top, total}.absorb({l}).keep; }, keep, largest, sum, next);
      block.map([](auto top, auto total, auto l) { return policy::lse_row<lse_of<decltype(top)>>{top, total}.absorb({l}).take; }, take, largest, sum, next);
      block.map([](auto v, auto w, auto k, auto t, auto l) { return v * k + where(l == policy::empty_lse(), 0.0f, w) * t; }, value, value, more, keep, take, next);   // 0 * NaN is NaN
      block.map([](auto total, auto k, auto t) { return total * k + t; }, sum, sum, keep, take);
      block.map([](auto top, auto l) { return max(top, l); }, largest, largest, next);
    }
    block.map([](auto v, auto total) { return v * over(1.0f, where(total == 0.0f, 1.0f, total)); }, value, value, sum);
    block.store(x.result.at(sequence, head), i, c, value);
    if (c == 0 && x.result_lse.data != nullptr) {
      block.map([](auto top, auto total) { return policy::lse_row<lse_of<decltype(top)>>{top, total}.lse().value; }, sum, largest, sum);
      block.store(x.result_lse.template at<1>(sequence, head), i, 0, sum);
    }
  }

private:
  template <class L> struct rebound;
  template <template <class> class L, class V> struct rebound<L<V>> { template <class W> using type = L<W>; };
  template <class V> using lse_of = typename rebound<lse>::template type<V>;
};

}  // namespace smalti::inline SMALTI_CODE::attention
