// The mask of single keys that are attended beside blocks of keys.
#pragma once
#include <smalti/core/view.hpp>
#include <smalti/policy/mask.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Key k of this attention is token columns[list of the head][k] of the sequence. Query q, at p = q + shift, sees it where the
//! token is not after p and its block is not covered for the query's tile: what blocks already showed counts once.
//!     covered[((sequence * heads + head) * tiles + q / Queries)][token / Block] != 0
//! Entries of columns outside [0, tokens) are not seen. `tokens`: keys of the sequence, from lengths[sequence].
template <int Block, int Queries> struct columns_outside {
  view<const int, 1> columns{};                  //!< [sequence * heads + head][count]
  view<const unsigned char, 1> covered{};
  const int* lengths = nullptr;                  //!< tokens of each sequence
  int heads = 0, tiles = 0, shift = 0, tokens = 0, list = 0;
  SMALTI_HD constexpr columns_outside for_head(int sequence, int head) const {
    return {columns, covered, lengths, heads, tiles, shift, lengths[sequence], sequence * heads + head};
  }
  SMALTI_HD constexpr columns_outside for_lengths(int queries, int) const { return {columns, covered, lengths, heads, tiles, tokens - queries, tokens, list}; }
  SMALTI_HD constexpr span keys(span, int length) const { return {0, length}; }
  SMALTI_HD constexpr span whole(span, int) const { return {0, 0}; }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const {
    using namespace scalar;
    const int* mine = columns.data + static_cast<long long>(list) * columns.stride;
    const view<const unsigned char, 1> flags{covered.data + static_cast<long long>(list) * tiles * covered.stride, tiles, covered.cols, covered.stride};
    const auto token = lookup(mine, k, columns.cols);
    return token >= 0 && token < tokens && token <= q + shift && lookup(flags, q / Queries, token / Block) == 0;
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
