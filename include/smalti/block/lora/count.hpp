// Offsets of segments of equal rows: 0, n, 2n, ...; and where segments end of which some are left out.
#pragma once
#include <smalti/core/context.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::lora {

//! to[i] = step (i & mask)
template <class Offset> struct count_agent {
  static constexpr int n = 128;
  struct arguments {
    view<Offset, 1> to;      //!< one row
    int mask = -1;           //!< a power of two less 1: begins again behind it; -1: never
    int step = 1;
  } a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.to.cols, n), 1, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    row<Block, int, n> t;
    block.map([first = block.x() * n, mask = a.mask, step = a.step](auto c) { return ((c + first) & mask) * step; }, t, column_index{});
    block.store(a.to, 0, block.x(), t);
  }
};
template <class Offset> struct count_kernel {
  using arguments = typename count_agent<Offset>::arguments;
  template <target> using agent = count_agent<Offset>;
};

//! end[s] = last[s], or where segment s begins if its adapter is negative: it has no rows then.
template <class Offset> struct ends_agent {
  static constexpr int n = 128;
  struct arguments {
    const Offset* offsets;      //!< [segments + 1]
    const Offset* last;         //!< [segments] offsets + 1, or where rows in use end
    const int* adapter;         //!< [segments]
    view<Offset, 1> to;         //!< one row
  } a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.to.cols, n), 1, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    row<Block, Offset, n> begin, end;
    row<Block, int, n> adapter;
    block.load(begin, view<const Offset, 1>{a.offsets, 1, a.to.cols, a.to.cols}, 0, block.x());
    block.load(end, view<const Offset, 1>{a.last, 1, a.to.cols, a.to.cols}, 0, block.x());
    block.load(adapter, view<const int, 1>{a.adapter, 1, a.to.cols, a.to.cols}, 0, block.x());
    block.map([served = mutant(defect::left_out_segment_counts) ? -2 : -1](auto b, auto e, auto i) { return where(i > served, e, b); }, end, begin, end, adapter);
    block.store(a.to, 0, block.x(), end);
  }
};
template <class Offset> struct ends_kernel {
  using arguments = typename ends_agent<Offset>::arguments;
  template <target> using agent = ends_agent<Offset>;
};

}  // namespace smalti::inline SMALTI_CODE::lora
