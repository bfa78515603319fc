// Ones on the diagonal of a square that is zero already: what turns packed weights (flow/lora_systems.hpp).
#pragma once
#include <smalti/core/context.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::lora {

template <class T> struct identity_agent {
  static constexpr int n = 16;
  struct arguments {
    view<T> to;      //!< square
  } a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.to.rows, n), 1, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, float, n, n> t;
    block.map([](auto r, auto c) { return where(c == r, 1.0f, 0.0f); }, t, row_index{}, column_index{});
    block.store(a.to, block.x(), block.x(), t);
  }
};
template <class T> struct identity_kernel {
  using arguments = typename identity_agent<T>::arguments;
  template <target> using agent = identity_agent<T>;
};

}  // namespace smalti::inline SMALTI_CODE::lora
