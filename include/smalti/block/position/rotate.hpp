// The rotary agent: turns the pairs of every head of a token by the token's position. One block has `m` tokens, one run of
// pairs and a few heads; the angles are computed once for all heads.
#pragma once
#include <type_traits>
#include <smalti/core/float.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/position.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::rotary {

//! heads: of one block at most.
struct rotary_tuning {
  int m, heads;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const rotary_tuning&) const = default;
};

//! T: element in memory. Interleaved: pairs (2i, 2i + 1), read as one word each; else (i, i + Dims / 2). D: columns of a
//! head, of which the first Dims turn.
template <class T, bool Interleaved, int D, int Dims> struct rotary_problem {
  static constexpr bool interleaved = Interleaved;
  static constexpr int d = D, dims = Dims, pairs = Dims / 2;
  static constexpr int width = Interleaved ? D / 2 : D;                             // elements of a head in memory
  static constexpr int run = pairs % 64 == 0 && width % 64 == 0 ? 64 : pairs % 32 == 0 && width % 32 == 0 ? 32 : 16;   // pairs of a tile
  using element = std::conditional_t<Interleaved, int, T>;
  struct arguments {
    view<const element> x;                //!< tokens x heads * width
    view<element> y;
    view<const int, 1> positions;         //!< 1 x tokens
    view<const float, 1> frequencies;     //!< 4 x pairs: policy::fill_frequencies
    int heads;
    float scale, direction;               //!< of cosine and sine; 1, or -1 to turn back
    bool copies;                          //!< the columns that do not turn are copied: y is not x
  };
};

template <rotary_tuning Tuning, class Problem>
struct rotary_agent {
  using arguments = typename Problem::arguments;
  static constexpr int m = Tuning.m, run = Problem::run, runs = Problem::pairs / run, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments a;

  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.y.rows, m), runs, ceil_div(a.heads, Tuning.heads)}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int first = block.x() * m, c = block.y();
    column<Block, int, m> position;
    block.load(position, transposed(a.positions), mutant(defect::rotary_position_of_first) ? 0 : block.x(), 0);
    row<Block, float, run> coarse, coarse_rest, fine, fine_rest;
    block.load(coarse, a.frequencies, 0, c);
    block.load(coarse_rest, a.frequencies, 1, c);
    block.load(fine, a.frequencies, 2, c);
    block.load(fine_rest, a.frequencies, 3, c);
    tile<Block, float, m, run> turned, cosine, sine;
    block.map([](auto p, auto a, auto b, auto c, auto d) {
      return policy::turns(p, policy::frequency<decltype(a)>{a, b, c, d});
    }, turned, position, coarse, coarse_rest, fine, fine_rest);
    block.map([scale = a.scale](auto t) { return policy::rotation_by(t, scale).cos; }, cosine, turned);
    block.map([scale = a.scale * (mutant(defect::rotary_sine_not_negated) ? -a.direction : a.direction)](auto t) { return policy::rotation_by(t, scale).sin; }, sine, turned);

    const int from = block.z() * Tuning.heads, to = from + Tuning.heads < a.heads ? from + Tuning.heads : a.heads;
    for (int head : block.steps(from, to)) turn(block, cosine, sine, first, mutant(defect::rotary_head_of_first) ? 0 : head, c);
  }

private:
  // Rows are found in 64 bits.
  template <class Block>
  SMALTI_HD void turn(Block& block, const tile<Block, float, m, run>& cosine, const tile<Block, float, m, run>& sine, int first, int head, int c) const {
    const auto in = band(a.x, first, m);
    const auto out = band(a.y, first, m);
    if constexpr (Problem::interleaved) {
      const int j = head * (Problem::width / run) + c;
      tile<Block, int, m, run> pair;
      block.load(pair, in, 0, j);
      block.map([](auto w, auto cos, auto sin) {
        const auto x = bits_float(w << 16), y = bits_float(w & int(0xffff0000));
        const policy::rotation<decltype(cos)> r{cos, sin};
        const auto low = float_bits(rounded_as<bf16>(policy::rotate_first(x, y, r))), high = float_bits(rounded_as<bf16>(policy::rotate_second(x, y, r)));
        return ((low >> 16) & 0xffff) | (high & int(0xffff0000));
      }, pair, pair, cosine, sine);
      block.store(out, 0, j, pair);
    } else {
      const int j = head * (Problem::width / run) + c, k = j + runs;
      tile<Block, float, m, run> x, y, u;
      block.load(x, in, 0, j);
      block.load(y, in, 0, k);
      block.map([](auto x, auto y, auto cos, auto sin) { return policy::rotate_first(x, y, policy::rotation<decltype(cos)>{cos, sin}); }, u, x, y, cosine, sine);
      block.map([](auto x, auto y, auto cos, auto sin) { return policy::rotate_second(x, y, policy::rotation<decltype(cos)>{cos, sin}); }, y, x, y, cosine, sine);
      block.store(out, 0, j, u);
      block.store(out, 0, k, y);
    }
    if constexpr (Problem::dims < Problem::d)
      if (c == 0 && a.copies) copy(block, in, out, head);
  }
  template <class Block, class In, class Out> SMALTI_HD void copy(Block& block, const In& in, const Out& out, int head) const {
    constexpr int turned = Problem::interleaved ? runs : 2 * runs, all = Problem::width / run;
    for (int j : block.steps(head * all + turned, (head + 1) * all)) {
      tile<Block, std::conditional_t<Problem::interleaved, int, float>, m, run> t;
      block.load(t, in, 0, j);
      block.store(out, 0, j, t);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::rotary
