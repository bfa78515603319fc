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
  template <int D, class Block, class Right> SMALTI_HD void announce_value(Block& block, Right& t, int c, int j) const {
    if constexpr (requires { of.template announce_value<D>(block, t, c, j); }) of.template announce_value<D>(block, t, c, j);
  }

private:
  // Sixteen keys at a time where an operand can be made so (the host): what is between memory and the operand stays in the first-level cache.
  template <class Block, int N> static constexpr bool in_parts = Block::joins && N % 16 == 0;
  // Of positions that go up by one from key to key, sines are computed for the first key of each sixteen and for the steps 0 to 15, and
  // put together: R(a + b) = R(a) R(b).
  static constexpr bool steady = !Placed && requires { Position::steady; };

  template <bool Clamped, int D, int N, class Block, class Operand> SMALTI_HD void load_turned(Block& block, Operand& t, int j) const {
    constexpr int pairs = D / 2;
    const view<const float, 1> of_pairs{frequencies, 4, pairs, pairs};
    row<Block, float, pairs> coarse, coarse_rest, fine, fine_rest;
    block.load(coarse, of_pairs, 0, 0);
    block.load(coarse_rest, of_pairs, 1, 0);
    block.load(fine, of_pairs, 2, 0);
    block.load(fine_rest, of_pairs, 3, 0);
    if constexpr (!in_parts<Block, N>) {
      tile<Block, float, N, pairs> cosine, sine, x, y, first;
      column<Block, int, N> place;
      places_of(block, place, j);
      rotations(block, cosine, sine, place, scale, coarse, coarse_rest, fine, fine_rest);
      load_pairs<Clamped, D, typename Operand::element>(block, x, y, j);
      block.map([](auto x, auto y, auto cos, auto sin) { return policy::rotate_first(x, y, policy::rotation<decltype(cos)>{cos, sin}); }, first, x, y, cosine, sine);
      block.map([](auto x, auto y, auto cos, auto sin) { return policy::rotate_second(x, y, policy::rotation<decltype(cos)>{cos, sin}); }, y, x, y, cosine, sine);
      block.join_columns(t, first, y, Way{});
    } else {
      constexpr int parts = N / 16;
      tile<Block, float, 16, pairs> cosine, sine, x, y, first;
      column<Block, int, 16> place;
      if constexpr (steady) {
        block.map([](auto r) { return r + 0; }, place, row_index{});
        rotations(block, cosine, sine, place, scale, coarse, coarse_rest, fine, fine_rest);
      }
      for (int g : block.steps(j * parts, (j + 1) * parts)) {
        load_pairs<Clamped, D, typename Operand::element>(block, x, y, g);
        if constexpr (steady) {
          row<Block, float, pairs> base, base_sine;
          const int at = policy::key_correction(position, g * 16, g * 16) * (mutant(defect::key_turned_from_tile) ? 0 : 1);
          block.map([at](auto a, auto b, auto c, auto d) { return policy::rotation_at(at, policy::frequency<decltype(a)>{a, b, c, d}).cos; }, base, coarse, coarse_rest, fine, fine_rest);
          block.map([at](auto a, auto b, auto c, auto d) { return policy::rotation_at(at, policy::frequency<decltype(a)>{a, b, c, d}).sin; }, base_sine, coarse, coarse_rest, fine, fine_rest);
          block.map([](auto x, auto y, auto c, auto s, auto cos, auto sin) {
            using pair = policy::rotation<decltype(x)>;
            return policy::rotate_first(x, y, policy::composed(pair{c, s}, pair{cos, sin}));
          }, first, x, y, base, base_sine, cosine, sine);
          block.map([](auto x, auto y, auto c, auto s, auto cos, auto sin) {
            using pair = policy::rotation<decltype(x)>;
            return policy::rotate_second(x, y, policy::composed(pair{c, s}, pair{cos, sin}));
          }, y, x, y, base, base_sine, cosine, sine);
        } else {
          places_of(block, place, g);
          rotations(block, cosine, sine, place, scale, coarse, coarse_rest, fine, fine_rest);
          block.map([](auto x, auto y, auto cos, auto sin) { return policy::rotate_first(x, y, policy::rotation<decltype(cos)>{cos, sin}); }, first, x, y, cosine, sine);
          block.map([](auto x, auto y, auto cos, auto sin) { return policy::rotate_second(x, y, policy::rotation<decltype(cos)>{cos, sin}); }, y, x, y, cosine, sine);
        }
        block.join_columns(t, first, y, Way{}, g - j * parts);
      }
    }
  }
  // By how much the keys of tile j turn.
  template <class Block, class Column> SMALTI_HD void places_of(Block& block, Column& place, int j) const {
    if constexpr (Placed) {
      block.load(place, transposed(view<const int, 1>{places, 1, length(), length()}), j, 0);
      block.map([position = position, first = j * Column::rows](auto p, auto r) { return policy::key_correction(position, p, r + first); }, place, place, row_index{});
    } else {
      block.map([position = position, first = mutant(defect::key_turned_from_tile) ? 0 : j * Column::rows](auto r) { return policy::key_correction(position, r + first, r + first); }, place, row_index{});
    }
  }
  template <class Block, class Tile, class Column, class Row>
  SMALTI_HD static void rotations(Block& block, Tile& cosine, Tile& sine, const Column& place, float scale, const Row& coarse, const Row& coarse_rest, const Row& fine, const Row& fine_rest) {
    block.map([](auto p, auto a, auto b, auto c, auto d) { return policy::turns(p, policy::frequency<decltype(a)>{a, b, c, d}); }, sine, place, coarse, coarse_rest, fine, fine_rest);
    block.map([scale](auto t) { return policy::rotation_by(t, scale).cos; }, cosine, sine);
    block.map([scale](auto t) { return policy::rotation_by(t, scale).sin; }, sine, sine);
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
//! @note  cost: about 100 vector instructions for sixteen pairs of columns of each key that a block of queries meets; on the host about 40 where
//!        Position::steady: a decode step then takes 3.3 times as long as of turned keys, a prefill 1.3 times
//!        A key is rounded once more to the element of the products, as it is where turned keys are stored
template <class Kv, class Position = policy::rotate_on_read, class Pairs = policy::half_split>
struct rotated_kv {
  static_assert(policy::explain_position_policy<Position>());
  static_assert(std::is_same_v<Pairs, policy::half_split> || std::is_same_v<Pairs, policy::interleaved>, "smalti: rotated_kv turns pairs of policy::half_split or policy::interleaved");
  using storage = void;                  // panels are not kept: they would be those of the keys as they lie
  static constexpr bool plain_values = !requires { typename Kv::storage; };   // nothing is done to values
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
