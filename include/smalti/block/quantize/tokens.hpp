// Agents that quantize activations: one scale for each group of a row (tokens_by_group) or for each row (tokens_by_row), and
// the codes under it. A group is one tile wide, so its elements are read once; a whole row is read twice, the second time
// from the cache.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/core/float.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::quantize {

//! Rows of a tile; columns of one where a whole row shares a scale; groups that one block makes where it does not.
struct tokens_tuning {
  int m, n, groups;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const tokens_tuning&) const = default;
};

//! @tparam Format    of policy/token_format.hpp
//! @tparam SumGroup  columns of a sum of decoded codes; 0: no sums
template <class X, class Format, int SumGroup, bool Wide>
struct tokens_problem {
  using format = Format;
  static constexpr int sum_group = SumGroup;
  using code = typename Format::code;
  static constexpr bool float_scale = std::is_same_v<typename Format::scale, float>;
  using scale = std::conditional_t<float_scale, float, std::uint8_t>;
  template <class T> static constexpr int step = Wide ? step_of<T> : 1;
  struct arguments {
    view<const X, step<X>> x;
    view<code, step<code>> codes;
    view<scale, 1> scales;         //!< float: groups x rows, each group contiguous; e8m0: rows x groups
    view<float, 1> sums;           //!< groups of sum_group x rows
  };
};

namespace detail {

// The largest magnitude of each row, as bits.
struct magnitude_bits {
  template <class V> SMALTI_HD auto operator()(V x) const { return float_bits(x) & 0x7fffffff; }
};
template <class Format> struct scale_of {
  template <class V> SMALTI_HD auto operator()(V reach) const { return Format::scale_of(reach); }
};
template <class Format> struct inverse_of {
  template <class V> SMALTI_HD auto operator()(V reach) const { return Format::inverse_of(reach); }
};
template <class Format> struct encode {
  template <class V, class S> SMALTI_HD auto operator()(V x, S inverse) const { return Format::encode(x, inverse); }
};

// What both agents do with one tile of x whose rows have their inverses: codes, and their sums.
template <class Problem, int M, int N, class Block, class Arguments, class Tile, class Column, class Scale>
SMALTI_HD void put_codes(Block& block, const Arguments& a, int first, int j, const Tile& t, const Column& inverse, const Scale& scale) {
  using format = typename Problem::format;
  constexpr bool integer = std::is_same_v<typename Problem::code, std::int8_t>;
  tile<Block, std::conditional_t<integer, int, float>, M, N> codes;
  block.map(encode<format>{}, codes, t, inverse);
  block.store(band(a.codes, first, M), 0, j, codes);
  if constexpr (Problem::sum_group != 0) {
    column<Block, float, M> sum;
    if constexpr (integer) {
      column<Block, int, M> exact;
      block.row_sum(exact, codes);
      block.map([](auto n, auto s) { return to_float(n) * (mutant(defect::quantize_sums_without_scale) ? 0.0f * s + 1.0f : s); }, sum, exact, scale);
    } else {
      block.map([](auto x) { return rounded_as<typename Problem::code>(x); }, codes, codes);
      block.row_sum(sum, codes);
      block.map([](auto n, auto s) { return n * format::decoded(s); }, sum, sum, scale);
    }
    block.store_column(a.sums, j, first / M, sum);
  }
}

}  // namespace detail

template <tokens_tuning Tuning, class Problem>
struct tokens_by_group {
  using arguments = typename Problem::arguments;
  using format = typename Problem::format;
  static constexpr int m = Tuning.m, n = format::group, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  static constexpr int blocks_of_a_thread = m == 1 ? 4 : 1;       // on the host: 1024 values of one row take less time than to wake a thread
  arguments a;

  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.x.rows, m), ceil_div(groups_of(a), Tuning.groups), 1}; }
  // Stored scales may have columns behind the last group: they are written too, as those of zeros.
  SMALTI_HD static constexpr int groups_of(const arguments& a) { return Problem::float_scale ? ceil_div(a.x.cols, n) : a.scales.cols; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int first = block.x() * m, groups = groups_of(a), start = block.y() * Tuning.groups;
    for (int g : block.steps(start, start + Tuning.groups < groups ? start + Tuning.groups : groups)) {
      tile<Block, float, m, n> t;
      tile<Block, int, m, n> bits;
      column<Block, int, m> reach;
      column<Block, float, m> inverse;
      column<Block, std::conditional_t<Problem::float_scale, float, int>, m> scale;
      block.load(t, band(a.x, first, m), 0, mutant(defect::quantize_first_group) ? start : g);
      block.map(detail::magnitude_bits{}, bits, t);
      block.row_max(reach, bits);
      block.map(detail::inverse_of<format>{}, inverse, reach);
      block.map(detail::scale_of<format>{}, scale, reach);
      if constexpr (Problem::float_scale) block.store_column(a.scales, g, block.x(), scale);
      else block.store(band(a.scales, first, m), 0, g, scale);
      detail::put_codes<Problem, m, n>(block, a, first, g, t, inverse, scale);
    }
  }
};

template <tokens_tuning Tuning, class Problem>
struct tokens_by_row {
  using arguments = typename Problem::arguments;
  using format = typename Problem::format;
  static constexpr int m = Tuning.m, n = Problem::sum_group != 0 ? Problem::sum_group : Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments a;

  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.x.rows, m), 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int first = block.x() * m, steps = ceil_div(a.x.cols, n);
    tile<Block, float, m, n> t;
    tile<Block, int, m, n> bits;
    column<Block, int, m> reach;
    column<Block, float, m> inverse, scale;
    block.fill(bits, 0);
    for (int j : block.steps(0, steps)) {
      block.load(t, band(a.x, first, m), 0, j);
      block.map([](auto most, auto x) { return mutant(defect::quantize_reach_of_last) ? detail::magnitude_bits{}(x) : max(most, detail::magnitude_bits{}(x)); }, bits, bits, t);
    }
    block.row_max(reach, bits);
    block.map(detail::inverse_of<format>{}, inverse, reach);
    block.map(detail::scale_of<format>{}, scale, reach);
    block.store_column(a.scales, 0, block.x(), scale);
    for (int j : block.steps(0, steps)) {
      block.load(t, band(a.x, first, m), 0, j);
      detail::put_codes<Problem, m, n>(block, a, first, j, t, inverse, scale);
    }
  }
};

//! Two codes a byte: words of two bf16 become bytes. A tile is 16 words wide, which are one group or two.
template <class Format> struct pairs_problem {
  using format = Format;
  using scale = std::conditional_t<std::is_same_v<typename Format::scale, e8m0>, std::uint8_t, typename Format::scale>;
  struct arguments {
    view<const std::int32_t> x;          //!< rows x cols / 2
    view<std::uint8_t> codes;            //!< the same
    view<scale, 1> scales;               //!< rows x groups, or more: the rest is written as scales of zeros
    const float* tensor = nullptr;       //!< the tensor's scale, where the format has one
  };
};

template <tokens_tuning Tuning, class Problem>
struct pairs_by_group {
  using arguments = typename Problem::arguments;
  using format = typename Problem::format;
  static constexpr int m = Tuning.m, words = 16, wide = format::group / 2, parts = words / wide, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  static_assert(wide * parts == words, "smalti: two codes a byte come in groups of 16 or 32");
  arguments a;

  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.x.rows, m), ceil_div(tiles_of(a), Tuning.groups), 1}; }
  SMALTI_HD static constexpr int tiles_of(const arguments& a) { return ceil_div(a.scales.cols, parts); }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int first = block.x() * m, tiles = tiles_of(a), start = block.y() * Tuning.groups;
    for (int g : block.steps(start, start + Tuning.groups < tiles ? start + Tuning.groups : tiles)) {
      tile<Block, int, m, words> pairs, codes;
      column<Block, float, m> by, other;
      block.load(pairs, band(a.x, first, m), 0, g);
      put_scale<0>(block, by, pairs, first, g);
      if constexpr (parts > 1) {
        put_scale<1>(block, other, pairs, first, g);
        block.map([](auto w, auto s, auto t, auto c) { return code_of(w, where(c < wide, s, t)); }, codes, pairs, by, other, column_index{});
      } else {
        block.map([](auto w, auto s) { return code_of(w, s); }, codes, pairs, by);
      }
      block.store(band(a.codes, first, m), 0, g, codes);
    }
  }

private:
  // The even element of a word is its lower half.
  template <class W, class S> SMALTI_HD static auto code_of(W w, S by) { return format::encode_pair(bits_float(w << 16), bits_float(w & int(0xffff0000u)), by); }
  // Stores the scale of part P, and gives what its codes are multiplied with or divided by.
  template <int P, class Block, class Column, class Tile> SMALTI_HD void put_scale(Block& block, Column& by, const Tile& pairs, int first, int g) const {
    tile<Block, int, m, words> bits;
    column<Block, int, m> reach;
    block.map([](auto w, auto c) { return where((c >= P * wide) && (c < (P + 1) * wide), max((w << 16) & 0x7fff0000, w & 0x7fff0000), 0); }, bits, pairs, column_index{});
    block.row_max(reach, bits);
    if constexpr (format::has_tensor) {
      const float tensor = block.number(a.tensor, 0);
      column<Block, float, m> scale;
      block.map([tensor](auto r) { return format::scale_of(r, tensor); }, scale, reach);
      block.store(band(a.scales, first, m), 0, g * parts + P, scale);
      block.map([tensor](auto s) { return rounded_as<typename format::scale>(s) * tensor; }, by, scale);
    } else {
      column<Block, int, m> scale;
      block.map([](auto r) { return format::scale_of(r); }, scale, reach);
      block.store(band(a.scales, first, m), 0, g * parts + P, scale);
      block.map([](auto r) { return format::inverse_of(r); }, by, reach);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::quantize
