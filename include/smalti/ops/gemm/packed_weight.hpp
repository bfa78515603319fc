// Weights as the linear operations read them: packed for one machine family, with their scales beside them, all in one piece of
// memory that the caller owns. The layout is a function of the format and of what the weights are multiplied as.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/gemm/linear.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/policy/formats.hpp>
#include <smalti/policy/word_planes.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! Who reads packed weights: the machine of this file unless said otherwise. A program packs for a GPU in plain C++.
#if defined(__CUDACC__)
constexpr policy::machine_family this_family = policy::machine_family::gpu;
#else
constexpr policy::machine_family this_family = policy::machine_family::host;
#endif

//! The group that a weight is packed with. Groups are whole operands or divide one: 16, or a multiple of 32. Another group is
//! filled up to the next one with codes that count for nothing, and the activations' columns are spread alike.
constexpr int packed_group(int group) { return group <= 0 ? 0 : group == 16 ? 16 : round_up(group, 32); }

namespace detail {
template <class Scales> struct packed_scales_of;
template <class E, int GroupK, int GroupN, policy::zero_point Zero, class Second> struct packed_scales_of<policy::scales<E, GroupK, GroupN, Zero, Second>> {
  using type = policy::scales<E, packed_group(GroupK), GroupN, Zero, Second>;
};
template <class Format, policy::machine_family Family> consteval int depth_of() {
  constexpr int group = packed_group(Format::scales::group_k);
  if (Family == policy::machine_family::gpu) return group == 16 ? 16 : 32;
  return group == 0 || 128 % (group == 0 ? 1 : group) == 0 || group % 128 == 0 ? 128 : 32;
}
}  // namespace detail

//! The format with its group as packed.
template <class Format> using packed_format = policy::format<typename Format::codec, typename detail::packed_scales_of<typename Format::scales>::type>;

//! Where the codes of a format lie. 16-bit operands: pairs on a GPU. 8-bit operands: quads of bytes in rows there. On the host
//! one layout serves both.
template <class Format, class Operand, policy::machine_family Family = this_family>
using layout_of = std::conditional_t<
    Family == policy::machine_family::gpu && !std::is_same_v<Operand, std::int8_t>, policy::weight_layout<Format::codec::bits, policy::machine_family::gpu, detail::depth_of<Format, Family>()>,
    policy::weight_layout<Format::codec::bits, policy::machine_family::host, detail::depth_of<Format, Family>(), Family == policy::machine_family::gpu ? 1 : 64>>;

//! A view of packed weights of one matrix N x K or of `experts` equal ones.
template <class Format, class Operand = bf16, policy::machine_family Family = this_family>
struct packed_weight {
  using format = Format;
  using packed = packed_format<Format>;
  using layout = layout_of<Format, Operand, Family>;
  static constexpr int scale_panel = layout::columns;
  using arrays = scale_arrays<typename packed::scales, scale_panel>;
  static constexpr bool fills_groups = packed::scales::group_k != Format::scales::group_k;

  int n = 0, k = 0, experts = 1;
  int packed_k = 0;                      //!< k with groups filled up; k where they need no filling
  word_stacks<layout::parts> planes = {};
  arrays scales = {};
  const int* order = nullptr;            //!< place p of the packed weight takes column order[p] of the activations, or zero (-1); null: p

  //! K after filling the groups up.
  static constexpr int filled(int k) {
    if constexpr (fills_groups) return ceil_div(k, Format::scales::group_k) * packed::scales::group_k;
    else return k;
  }
  //! Bytes of a packed weight. `ordered`: with an order of columns (act-order), which filled groups have always.
  static std::size_t bytes(int n, int k, int experts = 1, bool ordered = false) { return lay_out(nullptr, n, k, experts, ordered).used; }
  //! The view of memory of bytes() bytes on a boundary of 256 bytes.
  static packed_weight over(void* memory, int n, int k, int experts = 1, bool ordered = false) {
    return lay_out(static_cast<std::byte*>(memory), n, k, experts, ordered).w;
  }

private:
  struct laid_out;
  static laid_out lay_out(std::byte* base, int n, int k, int experts, bool ordered);
  template <int Part> static void take_words(carver& c, packed_weight& w) {
    if constexpr (Part < layout::parts) {
      const int high = layout::words_of(w.packed_k, Part);
      const std::uint32_t* data = c.take<std::uint32_t>(std::size_t(w.experts) * std::size_t(layout::size(w.n, w.packed_k, Part)));
      auto& to = const_cast<stack<const std::uint32_t>&>(part_of<Part>(w.planes));
      if constexpr (layout::columns > 1) to = {data, ceil_div(w.n, layout::columns), high, layout::columns, static_cast<long long>(high) * layout::columns, layout::columns};
      else to = {data, 1, w.n, high, static_cast<long long>(w.n) * high, high};
      take_words<Part + 1>(c, w);
    }
  }
  template <class T> static view<const T> take_scales(carver& c, int rows, int cols, int experts) {
    view<const T> v = take_matrix<T>(c, rows, arrays::panel > 1 ? round_up(cols, arrays::panel) : cols, experts);
    if constexpr (arrays::panel > 1) v.stride = arrays::panel;
    return v;
  }
  template <class T> static view<const T> take_matrix(carver& c, int rows, int cols, int experts) {
    const int wide = round_up(cols, step_of<T>);
    return {c.take<T>(std::size_t(experts) * rows * wide), rows, wide, wide};
  }
};
template <class Format, class Operand, policy::machine_family Family> struct packed_weight<Format, Operand, Family>::laid_out {
  packed_weight w;
  std::size_t used;
};
template <class Format, class Operand, policy::machine_family Family>
auto packed_weight<Format, Operand, Family>::lay_out(std::byte* base, int n, int k, int experts, bool ordered) -> laid_out {
  using s = typename packed::scales;
  carver c{base};
  packed_weight w{.n = n, .k = k, .experts = experts, .packed_k = filled(k)};
  take_words<0>(c, w);
  const int rows = s::rows(w.packed_k), cols = s::cols(n);
  w.scales.scale = take_scales<typename arrays::stored>(c, rows, cols, experts);
  if constexpr (arrays::has_minimum) w.scales.minimum = take_scales<typename arrays::stored>(c, rows, cols, experts);
  if constexpr (arrays::has_zero) w.scales.zero = take_scales<std::uint8_t>(c, rows, cols, experts);
  if constexpr (arrays::has_super) w.scales.outer = take_matrix<typename arrays::outer_element>(c, s::outer_rows(w.packed_k), cols, experts);
  if constexpr (arrays::has_super && arrays::has_minimum) w.scales.outer_minimum = take_matrix<typename arrays::outer_element>(c, s::outer_rows(w.packed_k), cols, experts);
  if constexpr (arrays::has_number || arrays::double_quantized) w.scales.tensor = c.take<float>(std::size_t(experts));
  if constexpr (arrays::double_quantized) {
    const int blocks = int(ceil_div(static_cast<long long>(n) * rows, static_cast<long long>(s::second::block)));
    w.scales.blocks = {c.take<float>(std::size_t(experts) * blocks), 1, blocks, blocks};
    w.scales.map = c.take<float>(256);
  }
  if (ordered || fills_groups) w.order = c.take<int>(std::size_t(w.packed_k));
  return {w, c.used};
}

}  // namespace smalti::inline SMALTI_CODE::gemm
