// How agents load the scales and zero points of a weight: what is stored (policy/scales.hpp) becomes a row, a column or a
// few rows of floats, by one load and at most one map. A value of 16 tiles of a matrix is one value of its experts too:
// the arrays of expert e lie e times their own size behind those of the first.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/core/float.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/scales.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! A member that is not there.
template <int> struct absent {};
template <bool There, class T, int Number> using optional_member = std::conditional_t<There, T, absent<Number>>;

//! Matrix e of equal ones that lie close together.
template <class T, int Step> SMALTI_HD constexpr view<T, Step> of_expert(const view<T, Step>& v, int e) {
  return {v.data + static_cast<long long>(e) * v.rows * v.stride, v.rows, v.cols, v.stride};
}

namespace detail {
template <class T> struct stored_as { using type = T; };
template <> struct stored_as<e8m0> { using type = std::uint8_t; };       // a load of bytes gives ints, which become powers of two in a map
template <class T> constexpr bool is_bytes = std::is_same_v<T, std::uint8_t> || std::is_same_v<T, std::int8_t>;

// A tile, row or column like Out, of T.
template <class Block, class T, class Out> struct like {
  static constexpr auto choose() {
    if constexpr (Out::cols == 1) return std::type_identity<column<Block, T, Out::rows>>{};
    else if constexpr (Out::rows == 1) return std::type_identity<row<Block, T, Out::cols>>{};
    else return std::type_identity<tile<Block, T, Out::rows, Out::cols>>{};
  }
  using type = typename decltype(choose())::type;
};
}  // namespace detail

//! The scales of a weight as they lie in memory: matrices K / group_k x N / group_n, rows contiguous along n, with the bases,
//! strides and widths that views promise (their columns are padded, with zeros).
//! @tparam Panel  above 1: where there is one for each output, `scale`, `minimum` and `zero` lie in panels of so many columns, one
//!                after another, each K / group_k x Panel: memory is then read in order beside the codes of a panel. Their views
//!                have the extents of the matrix and the stride Panel; a tile's columns are those of a panel
template <class Scales, int Panel = 1> struct scale_arrays {
  using policy_type = Scales;
  using second = typename Scales::second;
  using stored = typename detail::stored_as<typename Scales::element>::type;
  static constexpr bool has_zero = Scales::zero == policy::zero_point::integer, has_minimum = Scales::zero == policy::zero_point::floating;
  static constexpr bool has_super = requires { second::sign; }, double_quantized = requires { second::block; };
  static constexpr bool has_number = std::is_same_v<second, policy::tensor_multiplier> || std::is_same_v<second, policy::tensor_divisor>;
  static constexpr int panel = Scales::group_n == 1 ? Panel : 1;
  static constexpr int outer_group = has_super ? second::groups : 1;
  template <class S> struct outer_of { using type = float; };
  template <class E, int G, int Sign> struct outer_of<policy::super<E, G, Sign>> { using type = E; };
  using outer_element = typename outer_of<second>::type;

  view<const stored> scale = {};
  optional_member<has_minimum, view<const stored>, 1> minimum = {};
  optional_member<has_zero, view<const std::uint8_t>, 2> zero = {};
  optional_member<has_super, view<const outer_element>, 3> outer = {};                                //!< super: one row for each `groups` rows of scale
  optional_member<has_super && has_minimum, view<const outer_element>, 4> outer_minimum = {};
  optional_member<has_number || double_quantized, const float*, 5> tensor = {};                       //!< one number for each expert: the tensor's scale, or the mean
  optional_member<double_quantized, view<const float, 1>, 6> blocks = {};                             //!< double quantization: one row of an expert's numbers, one for each block of scales
  optional_member<double_quantized, const float*, 7> map = {};                                        //!< its table of 256 numbers

  //! Scales of rows g * R ... of tile j: Out is R x n (right operands) or n x 1 (left operands, one group).
  template <class Block, class Out> SMALTI_HD void load(Block& block, Out& out, int e, int g, int j) const {
    if constexpr (double_quantized) {
      constexpr bool turned = Out::cols == 1;
      constexpr int n = turned ? Out::rows : Out::cols, high = turned ? 1 : Out::rows;
      typename detail::like<Block, int, Out>::type codes;
      load_stored<(panel > 1)>(block, codes, scale, e, g, j);
      const float mean = block.number(tensor, e);
      // counted in the flattened order of the weight: the scales of one output follow each other
      const auto mine = of_expert(blocks, e);
      block.map([=, table = map, outer = mine.data, count = mine.cols, groups = scale.rows](auto code, auto r, auto c) {
        const auto at = (c_or_r<turned>(r, c) + j * n) * groups + group_at<turned>(r, g * high);
        return lookup(table, code, 256) * lookup(outer, at / second::block, count) + mean;
      }, out, codes, row_index{}, column_index{});
    } else {
      load_values(block, out, scale, e, g, j);
      if constexpr (has_super) multiply_by_outer(block, out, outer, e, g, j);
      if constexpr (has_number) {
        const float number = block.number(tensor, e);
        block.map([=](auto s) { return policy::effective_scale<Scales>(s, number); }, out, out);
      }
    }
  }
  //! What is added for each unit of the activations' sum: the minimum, or minus the zero point times `scales`, which were
  //! loaded for the same place. `units`: what the codec's values were multiplied with to become integers.
  template <class Block, class Out> SMALTI_HD void load_minimum(Block& block, Out& out, const Out& scales, int e, int g, int j) const {
    if constexpr (has_zero) {
      load_values(block, out, zero, e, g, j);
      block.map([](auto z, auto s) { return -(z * s); }, out, out, scales);
    } else {
      load_values(block, out, minimum, e, g, j);
      if constexpr (has_super) {
        multiply_by_outer(block, out, outer_minimum, e, g, j);
        if constexpr (second::sign < 0) block.map([](auto m) { return -m; }, out, out);
      }
    }
  }
  //! Zero points alone, in units of codes.
  template <class Block, class Out> SMALTI_HD void load_zero(Block& block, Out& out, int e, int g, int j) const { load_values(block, out, zero, e, g, j); }

private:
  template <bool Turned, class R, class C> static SMALTI_HD auto c_or_r(R r, C c) {
    if constexpr (Turned) return r;
    else return c;
  }
  // The row of scales: that of the tile, or of its only group.
  template <bool Turned, class R> static SMALTI_HD auto group_at(R r, int first) {
    if constexpr (Turned) return r * 0 + first;
    else return r + first;
  }
  // Stored numbers as they are: floats, or ints where they are bytes.
  template <bool Panelled, class Block, class Out, class V> static SMALTI_HD void load_stored(Block& block, Out& out, const V& v, int e, int g, int j) {
    constexpr bool turned = Out::cols == 1;
    const auto mine = of_expert(v, e);
    if constexpr (Panelled) {
      static_assert(turned || Out::cols == panel, "smalti: scales in panels are read by tiles of as many columns");
      using plain = std::remove_const_t<decltype(mine)>;
      const plain here{v.data + static_cast<long long>(e * (v.cols / panel) + j) * v.rows * panel, v.rows, panel, panel};
      if constexpr (turned) block.load(out, transposed(here), 0, g);
      else block.load(out, here, g, 0);
    } else if constexpr (Scales::group_n != 1) {      // one number for many outputs: looked up
      constexpr int n = turned ? Out::rows : Out::cols, high = turned ? 1 : Out::rows;
      block.map([=](auto r, auto c) {
        if constexpr (Scales::group_n == 0) return lookup(mine, group_at<turned>(r, g * high), c_or_r<turned>(r, c) * 0);
        else return lookup(mine, group_at<turned>(r, g * high), (c_or_r<turned>(r, c) + j * n) / Scales::group_n);
      }, out, row_index{}, column_index{});
    } else if constexpr (turned) block.load(out, transposed(mine), j, g);
    else block.load(out, mine, g, j);
  }
  template <class Block, class Out, class V> static SMALTI_HD void load_values(Block& block, Out& out, const V& v, int e, int g, int j) {
    using element = std::remove_const_t<typename V::element>;
    if constexpr (detail::is_bytes<element>) {
      using kind = std::conditional_t<std::is_same_v<typename Scales::element, e8m0>, e8m0, element>;
      typename detail::like<Block, int, Out>::type codes;
      load_stored<(panel > 1)>(block, codes, v, e, g, j);
      block.map([](auto code) { return policy::scale_value<kind>(code); }, out, codes);
    } else {
      load_stored<(panel > 1)>(block, out, v, e, g, j);
    }
  }
  template <class Block, class Out, class V> static SMALTI_HD void multiply_by_outer(Block& block, Out& out, const V& v, int e, int g, int j) {
    if constexpr (Out::rows == 1 || Out::cols == 1) {
      Out super;
      load_stored<false>(block, super, v, e, g / outer_group, j);
      block.map([](auto s, auto o) { return s * o; }, out, out, super);
    } else {
      constexpr int high = Out::rows, wide = Out::cols;
      block.map([=, mine = of_expert(v, e)](auto s, auto r, auto c) { return s * lookup(mine, (r + g * high) / outer_group, c + j * wide); }, out, out, row_index{}, column_index{});
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
