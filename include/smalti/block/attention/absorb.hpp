// Merges a partial result into a running one, in place: what a ring of ranks does with each block of keys as it comes, and the
// owner of queries with each answer. The arithmetic is policy/lse.hpp's.
#pragma once
#include <smalti/block/attention/merge.hpp>
#include <smalti/block/attention/rows.hpp>
#include <smalti/policy/lse.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

template <class Part, class Lse>
struct absorb_problem {
  using lse = Lse;
  struct arguments {
    head_rows<float> o, lse;               //!< running; normalized
    head_rows<const Part> part;
    head_rows<const float> part_lse;
    const int* first;                      //!< [sequence] row i of the part is row first + i of the running result; null: row i
  };
};

// One block takes all columns of its rows, so that the log-sum-exp it writes is read by nobody else.
template <merge_tuning Tuning, class Problem>
struct absorb_agent {
  using arguments = typename Problem::arguments;
  using lse = typename Problem::lse;
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;

  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.part.rows, m), x.part.heads, x.part.sequences}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), head = block.y(), sequence = block.z(), rows = x.part.length(sequence);
    if (i * m >= rows) return;
    auto o = x.o.at(sequence, head);
    auto l = x.lse.template at<1>(sequence, head);
    if (x.first != nullptr) {
      const int skip = block.number(x.first, sequence);
      o.data += static_cast<long long>(skip) * o.stride, l.data += static_cast<long long>(skip) * l.stride;
    }
    o.rows = l.rows = rows;
    const auto part = x.part.at(sequence, head);
    column<Block, float, m> here, next, keep, take, both;
    block.load(here, l, i, 0);
    block.load(next, x.part_lse.template at<1>(sequence, head), i, 0);
    block.map([](auto a, auto b) {
      auto row = policy::lse_begin(lse_of<decltype(a)>{a});
      const auto step = row.absorb(lse_of<decltype(a)>{b});
      return step.keep * row.normalizer();
    }, keep, here, next);
    block.map([](auto a, auto b) {
      auto row = policy::lse_begin(lse_of<decltype(a)>{a});
      const auto step = row.absorb(lse_of<decltype(a)>{b});
      return step.take * row.normalizer();
    }, take, here, next);
    block.map([](auto a, auto b) { return policy::lse_join(lse_of<decltype(a)>{a}, lse_of<decltype(a)>{b}).value; }, both, here, next);
    for (int c : block.steps(0, ceil_div(x.o.cols, n))) {
      tile<Block, float, m, n> value, more;
      block.load(value, o, i, c);
      block.load(more, part, i, c);
      // An empty side may hold anything: 0 * NaN is NaN.
      block.map([](auto v, auto w, auto k, auto t, auto a, auto b) { return where(a == policy::empty_lse(), 0.0f, v) * k + where(b == policy::empty_lse(), 0.0f, w) * t; },
                value, value, more, keep, take, here, next);
      block.store(o, i, c, value);
    }
    block.store(l, i, 0, both);
  }

private:
  template <class L> struct rebound;
  template <template <class> class L, class V> struct rebound<L<V>> { template <class W> using type = L<W>; };
  template <class V> using lse_of = typename rebound<lse>::template type<V>;
};

}  // namespace smalti::inline SMALTI_CODE::attention
