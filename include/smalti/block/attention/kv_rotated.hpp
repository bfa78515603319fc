// Keys that are turned when they are read: a source of keys and values around another one. Keys lie in memory plain, or turned for
// another place, and each tile of them is turned by policy::key_correction before the product sees it. The agents see a source like
// any other.
#pragma once
#include <type_traits>
#include <smalti/block/attention/kv.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/position.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! One head. `places`: of its keys in the text, one for each slot, where they are Placed; else the slot itself is the place. Coded: keys
//! come as whole operands only.
template <class Head, class Position, class Way, bool Placed, bool Coded>
struct rotated_head {
  Head of;
  Position position;
  const int* places = nullptr;
  const float* frequencies = nullptr;
  float scale = 1;                       // of cosine and sine
  float k_scale = 1, v_scale = 1;
  SMALTI_HD constexpr int length() const { return of.length(); }

  template <bool Clamped, int D, class Block, class Right> SMALTI_HD void load_key(Block& block, Right& t, int, int j) const {
    static_assert(Right::rows == D, "smalti: keys are turned in one piece: on a GPU head dims are powers of two up to 256, on the host multiples of 32; leave the tuning's chunk as it is");
    load_turned<Clamped, D, Right::cols>(block, t, j);
  }
  template <bool Clamped, int D, class Block, class Left> SMALTI_HD void load_key_rows(Block& block, Left& t, int, int j) const {
    static_assert(Left::cols == D, "smalti: keys are turned in one piece: on a GPU head dims are powers of two up to 256, on the host multiples of 32; leave the tuning's chunk as it is");
    load_turned<Clamped, D, Left::rows>(block, t, j);
  }
  template <bool Clamped, int D, class Block, class Right> SMALTI_HD void load_value(Block& block, Right& t, int c, int j) const { of.template load_value<Clamped, D>(block, t, c, j); }

private:
  template <bool Clamped, int D, int N, class Block, class Operand> SMALTI_HD void load_turned(Block& block, Operand& t, int j) const {
    constexpr int pairs = D / 2;
    // ---- angles of the keys
    column<Block, int, N> place;
    if constexpr (Placed) {
      block.load(place, transposed(view<const int, 1>{places, 1, length(), length()}), j, 0);
      block.map([position = position, first = j * N](auto p, auto r) { return policy::key_correction(position, p, r + first); }, place, place, row_index{});
    } else {
      block.map([position = position, first = mutant(defect::key_turned_from_tile) ? 0 : j * N](auto r) { return policy::key_correction(position, r + first, r + first); }, place, row_index{});
    }
    const view<const float, 1> of_pairs{frequencies, 4, pairs, pairs};
    row<Block, float, pairs> coarse, coarse_rest, fine, fine_rest;
    block.load(coarse, of_pairs, 0, 0);
    block.load(coarse_rest, of_pairs, 1, 0);
    block.load(fine, of_pairs, 2, 0);
    block.load(fine_rest, of_pairs, 3, 0);
    tile<Block, float, N, pairs> turned, cosine, x, y;
    block.map([](auto p, auto a, auto b, auto c, auto d) { return policy::turns(p, policy::frequency<decltype(a)>{a, b, c, d}); }, turned, place, coarse, coarse_rest, fine, fine_rest);
    block.map([scale = scale](auto t) { return policy::rotation_by(t, scale).cos; }, cosine, turned);
    block.map([scale = scale](auto t) { return policy::rotation_by(t, scale).sin; }, turned, turned);
    // ---- the keys
    load_pairs<Clamped, D, typename Operand::element>(block, x, y, j);
    tile<Block, float, N, pairs> first;
    block.map([](auto x, auto y, auto cos, auto sin) { return policy::rotate_first(x, y, policy::rotation<decltype(cos)>{cos, sin}); }, first, x, y, cosine, turned);
    block.map([](auto x, auto y, auto cos, auto sin) { return policy::rotate_second(x, y, policy::rotation<decltype(cos)>{cos, sin}); }, y, x, y, cosine, turned);
    block.join_columns(t, first, y, Way{});
  }
  // Numbers whose halves lie apart are loaded as two tiles; codes, and pairs of neighbours, are parted as an operand.
  template <bool Clamped, int D, class T, class Block, class Tile> SMALTI_HD void load_pairs(Block& block, Tile& x, Tile& y, int j) const {
    if constexpr (std::is_same_v<Way, column_halves> && !Coded) {
      of.template load_key_rows<Clamped, D>(block, x, 0, j);
      of.template load_key_rows<Clamped, D>(block, y, 1, j);
    } else {
      left<Block, T, Tile::rows, D> keys;
      of.template load_key_rows<Clamped, D>(block, keys, 0, j);
      block.part_columns(x, y, keys, Way{});
    }
  }
};

//! Keys of another source, turned when they are read by the positions of a policy: policy::rotate_on_read for keys stored plain, whose
//! place is then their slot (after an eviction the ranks of what was kept; no key is written again); policy::compact, or a policy of
//! your own, for keys that stand turned for another place, of which `places` tells. Queries come turned by the policy's query_phase.
//!
//! @tparam Kv        dense_kv, paged_kv, quantized_kv, paged_quantized_kv, ...
//! @tparam Position  see policy/position.hpp: a key turns by key_phase - stored_phase
//! @tparam Pairs     policy::half_split or policy::interleaved, of the whole head
//! @note  cost: about 100 vector instructions for sixteen pairs of columns of each key that a tile of queries meets: a decode step on the
//!        host takes 3.5 to 4 times as long as of turned keys; a prefill turns each key for each tile of queries, so turn keys before it.
//!        A key is rounded once more to the element of the products, as it is where turned keys are stored
template <class Kv, class Position = policy::rotate_on_read, class Pairs = policy::half_split>
struct rotated_kv {
  static_assert(policy::explain_position_policy<Position>());
  static_assert(std::is_same_v<Pairs, policy::half_split> || std::is_same_v<Pairs, policy::interleaved>, "smalti: rotated_kv turns pairs of policy::half_split or policy::interleaved");
  using storage = void;                  // panels are not kept: they would be those of the keys as they lie
  using position_type = Position;
  using way = std::conditional_t<std::is_same_v<Pairs, policy::half_split>, column_halves, column_pairs>;
  static constexpr bool coded = requires { typename Kv::storage; };
  static constexpr bool placed = Position::storage == policy::key_storage::rotated;   //!< places must be given
  Kv kv = {};
  const float* frequencies = nullptr;    //!< 4 x D / 2, in the context's memory: policy::fill_frequencies
  float scale = 1;                       //!< policy::rotary::scaling.attention_scale() for keys stored plain; 1 for keys turned again
  Position position = {};
  const int* places = nullptr;           //!< [sequence][key head][slot]: where keys that stand turned stood in the text
  long long places_stride = 0, places_head_stride = 0;   //!< from sequence to sequence and from head to head; 0: shared
  constexpr int heads() const { return kv.heads(); }
  constexpr int longest() const { return kv.longest(); }
  template <bool Ragged = true> SMALTI_HD constexpr auto at(int sequence, int head) const {
    const auto of = kv.template at<Ragged>(sequence, head);
    return rotated_head<std::remove_const_t<decltype(of)>, Position, way, placed, coded>{of, position, placed ? places + sequence * places_stride + head * places_head_stride : nullptr, frequencies, scale, of.k_scale, of.v_scale};
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
