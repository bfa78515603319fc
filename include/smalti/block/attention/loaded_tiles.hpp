// Tiles of keys and values that were loaded for several tiles of queries: one, or (where Block::joins) several that lie apart and are
// multiplied as one.
#pragma once
#include <smalti/block/attention/state.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! `Count` tiles of N keys and their values, in chunks of a head's elements.
template <class Block, class T, int N, class KeyChunks, class ValueChunks, int Count>
struct loaded_tiles {
  static constexpr int tiles = Count;
  template <int W> struct key_operands { right<Block, T, W, N> of[Count]; };
  template <int W> struct value_operands { right<Block, T, N, W> of[Count]; };
  pieces<KeyChunks, key_operands> keys;
  pieces<ValueChunks, value_operands> values;

  //! s = Q K', the tiles' keys side by side.
  template <class S, class Queries> SMALTI_HD void times_keys(Block& block, S& s, const Queries& queries) const { times_keys<0>(block, s, queries, keys); }
  //! o += P V.
  template <class O, class P> SMALTI_HD void add_values(Block& block, O& o, const P& p) const { add_values<0>(block, o, p, values); }

private:
  template <int I, class S, class Queries, class P> static SMALTI_HD void times_keys(Block& block, S& s, const Queries& queries, const P& k) {
    if constexpr (I < KeyChunks::count) {
      if constexpr (I == 0) block.multiply(s, queries.here, operand_of(k.here));
      else block.product(s, queries.here, operand_of(k.here));
      times_keys<I + 1>(block, s, queries.next, k.next);
    }
  }
  template <int I, class O, class P, class V> static SMALTI_HD void add_values(Block& block, O& o, const P& p, const V& v) {
    if constexpr (I < ValueChunks::count) {
      block.product(o.here, p, operand_of(v.here));
      add_values<I + 1>(block, o.next, p, v.next);
    }
  }
  template <class Operands> static SMALTI_HD constexpr const auto& operand_of(const Operands& o) {
    if constexpr (Count == 1) return o.of[0];
    else return o.of;
  }
};

//! Tiles of a head that are loaded already; 0: it is a source.
template <class Head> SMALTI_HD constexpr int count_of_tiles() {
  if constexpr (requires { Head::tiles; }) return Head::tiles;
  else return 0;
}

}  // namespace smalti::inline SMALTI_CODE::attention
