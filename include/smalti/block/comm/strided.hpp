// The agent that gathers the blocks of a strided type into one piece, or spreads a piece out: rows of words at two strides, moved as they
// are. One block takes `m` rows and `c` words of each.
#pragma once
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::comm {

struct strided_tuning {
  int m, c;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const strided_tuning&) const = default;
};

//! `rows` rows of `words` words at each of count2 * count1 places. Strides count words; the packed side is one row after another.
template <class Word> struct strided_arguments {
  const Word* from;
  Word* to;
  int rows, words, count1, count2;
  int row_stride;                       //!< of the strided side
  long long stride1, stride2;
  bool packing;                         //!< true: `from` is strided, false: `to` is
};

template <strided_tuning Tuning, class Word>
struct strided_agent {
  using arguments = strided_arguments<Word>;
  static constexpr int m = Tuning.m, c = Tuning.c, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;

  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.rows, m), ceil_div(x.words, c), x.count1 * x.count2}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int z = block.z();
    const long long apart = (z % x.count1) * x.stride1 + (z / x.count1) * x.stride2, together = static_cast<long long>(z) * x.rows * x.words;
    // Addresses of no promise: a strided type begins where it likes. `step` of one word.
    const view<const Word, 1> from{x.from + (x.packing ? apart : together), x.rows, x.words, x.packing ? x.row_stride : x.words};
    const view<Word, 1> to{x.to + (x.packing ? together : apart), x.rows, x.words, x.packing ? x.words : x.row_stride};
    tile<Block, int, m, c> t;
    block.load(t, from, block.x(), block.y());
    block.store(to, block.x(), block.y(), t);
  }
};

}  // namespace smalti::inline SMALTI_CODE::comm
