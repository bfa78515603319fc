// Where the weights of a linear agent come from. A source says how deep an operand is and how many operands the words of one
// step hold, loads the words of a step, and makes operands of them:
//   depth, tiles            codes along k of an operand, operands of a step; depth 0: the tuning says (a matrix as it is)
//   scales, scale_in        scale_arrays, and where they enter
//   loaded<Block, N>        what one step keeps; load(block, loaded, e, step, j)
//   right_operand<Block, Operand, N, T>    its type as a right operand, which one product takes; not where depth is 0
//   operand<T, Left>(block, operand, loaded, scales, zeros, e, t, j)    operand T of the step, which is operand t of all
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/block/gemm/scales.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/formats.hpp>
#include <smalti/policy/word_planes.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! The words of a weight, part by part. On cuda_tile a part is one matrix N x words; on the host panels of words x columns. The
//! experts of a stack of weights follow each other.
template <int Parts> struct word_stacks;
template <> struct word_stacks<1> { stack<const std::uint32_t> a; };
template <> struct word_stacks<2> { stack<const std::uint32_t> a, b; };
template <> struct word_stacks<3> { stack<const std::uint32_t> a, b, c; };
template <int Part, int Parts> SMALTI_HD constexpr const stack<const std::uint32_t>& part_of(const word_stacks<Parts>& w) {
  if constexpr (Part == 0) return w.a;
  else if constexpr (Part == 1) return w.b;
  else return w.c;
}
SMALTI_HD constexpr stack<const std::uint32_t> of_expert(const stack<const std::uint32_t>& s, int e) {
  return {s.data + static_cast<long long>(e) * s.count * s.distance, s.count, s.rows, s.cols, s.distance, s.stride};
}

namespace detail {
// The word tiles that one step reads of each part, as members: an array of tiles would live in memory on cuda_tile.
template <class Layout> constexpr int word_tiles(int part) { return (Layout::lane / Layout::narrowest) / Layout::positions(part); }
template <class Words, int Count> struct word_list {
  Words first;
  word_list<Words, Count - 1> rest;
};
template <class Words> struct word_list<Words, 1> { Words first; };
template <int I, class Words, int Count> SMALTI_HD constexpr auto& nth(word_list<Words, Count>& l) {
  if constexpr (I == 0) return l.first;
  else return nth<I - 1>(l.rest);
}
template <int I, class Words, int Count> SMALTI_HD constexpr const auto& nth(const word_list<Words, Count>& l) {
  if constexpr (I == 0) return l.first;
  else return nth<I - 1>(l.rest);
}
template <class Words, class Layout, int Parts> struct loaded_words;
template <class Words, class Layout> struct loaded_words<Words, Layout, 1> { word_list<Words, word_tiles<Layout>(0)> a; };
template <class Words, class Layout> struct loaded_words<Words, Layout, 2> {
  word_list<Words, word_tiles<Layout>(0)> a;
  word_list<Words, word_tiles<Layout>(1)> b;
};
template <class Words, class Layout> struct loaded_words<Words, Layout, 3> {
  word_list<Words, word_tiles<Layout>(0)> a;
  word_list<Words, word_tiles<Layout>(1)> b;
  word_list<Words, word_tiles<Layout>(2)> c;
};
}  // namespace detail

//! Codes in word planes, unpacked into operands.
//! @tparam ScalePanel  columns of a panel of scales, or 1: see scale_arrays
template <class Format, class Layout, policy::scale_in In, int ScalePanel = 1> struct packed_weights {
  using codec = typename Format::codec;
  using layout = Layout;
  using scale_type = scale_arrays<typename Format::scales, ScalePanel>;
  static_assert(Layout::bits == codec::bits, "smalti: a weight's layout has the bits of its codec");
  static constexpr policy::scale_in scale_in = In;
  static constexpr int depth = Layout::depth, tiles = Layout::lane / Layout::narrowest, group = Format::scales::group_k;

  word_stacks<Layout::parts> planes;
  scale_type scales;

  template <class Block, int N> using loaded = detail::loaded_words<words<Block, N, Layout::words>, Layout, Layout::parts>;
  //! The right operand T of a step. With the scale in it, it is made at once; else when it is multiplied.
  template <class Block, class Operand, int N, int T>
  using right_operand = std::conditional_t<In == policy::scale_in::operand, right<Block, Operand, depth, N>, coded<Block, Operand, codec, depth, N, T>>;

  template <class Block, class Loaded> SMALTI_HD void load(Block& block, Loaded& w, int e, int step, int j) const {
    load_part<0>(block, w.a, e, step, j);
    if constexpr (Layout::parts > 1) load_part<1>(block, w.b, e, step, j);
    if constexpr (Layout::parts > 2) load_part<2>(block, w.c, e, step, j);
  }
  //! Scales and zeros are used where they enter the operand; unit_factor{} otherwise.
  template <int T, bool Left, class Block, class Operand, class Loaded, class Scales, class Zeros>
  SMALTI_HD void operand(Block& block, Operand& b, const Loaded& w, const Scales& s, const Zeros& z, int, int, int) const {
    if constexpr (Layout::parts == 1) unpack<T>(block, b, s, z, detail::nth<Layout::word_tile(T, 0)>(w.a));
    else if constexpr (Layout::parts == 2) unpack<T>(block, b, s, z, detail::nth<Layout::word_tile(T, 0)>(w.a), detail::nth<Layout::word_tile(T, 1)>(w.b));
    else unpack<T>(block, b, s, z, detail::nth<Layout::word_tile(T, 0)>(w.a), detail::nth<Layout::word_tile(T, 1)>(w.b), detail::nth<Layout::word_tile(T, 2)>(w.c));
  }

private:
  template <int Part, int I = 0, class Block, class Words, int Count> SMALTI_HD void load_part(Block& block, detail::word_list<Words, Count>& w, int e, int step, int j) const {
    if constexpr (I < Count) {
      block.load(detail::nth<I>(w), of_expert(part_of<Part>(planes), e), step * Count + I, j);
      load_part<Part, I + 1>(block, w, e, step, j);
    }
  }
  template <int T, class Block, class Operand, class Scales, class Zeros, class... W>
  static SMALTI_HD void unpack(Block& block, Operand& b, const Scales& s, const Zeros& z, const W&... w) {
    if constexpr (std::is_same_v<Scales, unit_factor>) block.template unpack<T>(b, codec{}, w...);
    else block.template unpack_scaled<T>(b, codec{}, s, z, w...);
  }
};

//! A matrix N x K of the operands' own type, with scales that enter the accumulator or the epilogue, or with none.
struct no_scales {
  static constexpr bool has_zero = false, has_minimum = false;
};
template <class W, class Scales = no_scales, int Step = step_of<W>> struct plain_weights {
  using scale_type = Scales;
  static constexpr policy::scale_in scale_in = policy::scale_in::accumulator;
  static constexpr int depth = 0, tiles = 1;
  static constexpr int group_of() {
    if constexpr (std::is_same_v<Scales, no_scales>) return 0;
    else return Scales::policy_type::group_k;
  }
  static constexpr int group = group_of();

  view<const W, Step> matrix;
  Scales scales;

  template <class Block, int N> struct loaded {};
  template <class Block, class Loaded> SMALTI_HD void load(Block&, Loaded&, int, int, int) const {}
  template <int T, bool Left, class Block, class Operand, class Loaded, class S, class Z>
  SMALTI_HD void operand(Block& block, Operand& b, const Loaded&, const S&, const Z&, int e, int t, int j) const {
    if constexpr (Left) block.load(b, of_expert(matrix, e), j, t);
    else block.load(b, transposed(of_expert(matrix, e)), t, j);
  }
};

//! A matrix N x K of codes under scales for groups of k, both as checkpoints have them and as block-scaled products take them: W is
//! fp8_e4m3, fp8_e5m2 or e2m1x2 (two codes a byte); the scales are a matrix N x K / Group, stored as Scale says.
//! @tparam Second  policy::one_level, or the tensor's scale that multiplies or divides all others: it enters the finished sum
template <class W, class Scale, int Group, class Second> struct block_scaled_weights {
  using scale_type = no_scales;
  using block_scale = Scale;
  using stored = typename detail::stored_as<Scale>::type;
  static constexpr policy::scale_in scale_in = policy::scale_in::accumulator;
  static constexpr int depth = 0, tiles = 1, group = 0, block_group = Group;
  static constexpr bool has_number = !std::is_same_v<Second, policy::one_level>, divides = std::is_same_v<Second, policy::tensor_divisor>;

  view<const W> matrix;
  view<const stored> scales;
  optional_member<has_number, const float*, 1> tensor;      //!< one number for each expert

  template <class Block, int N> struct loaded {};
  template <class Block, class Loaded> SMALTI_HD void load(Block&, Loaded&, int, int, int) const {}
  template <int T, bool Left, class Block, class Operand, class Loaded, class S, class Z>
  SMALTI_HD void operand(Block& block, Operand& b, const Loaded&, const S&, const Z&, int e, int t, int j) const {
    if constexpr (Left) block.load(b, of_expert(matrix, e), j, t);
    else block.load(b, transposed(of_expert(matrix, e)), t, j);
  }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
