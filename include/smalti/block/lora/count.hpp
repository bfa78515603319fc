// Offsets of segments of one row each: 0, 1, 2, ...
#pragma once
#include <smalti/core/context.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::lora {

template <class Offset> struct count_agent {
  static constexpr int n = 128;
  struct arguments {
    view<Offset, 1> to;      //!< one row
  } a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.to.cols, n), 1, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    row<Block, int, n> t;
    block.map([first = block.x() * n](auto c) { return c + first; }, t, column_index{});
    block.store(a.to, 0, block.x(), t);
  }
};
template <class Offset> struct count_kernel {
  using arguments = typename count_agent<Offset>::arguments;
  template <target> using agent = count_agent<Offset>;
};

}  // namespace smalti::inline SMALTI_CODE::lora
