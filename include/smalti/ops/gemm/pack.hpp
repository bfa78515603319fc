// Packs weights for the linear operations: codes, a byte each, and their scales, as importers leave them. Plain functions on
// the host, for any machine family.
#pragma once
#include <cstdint>
#include <cstring>
#include <smalti/core/status.hpp>
#include <smalti/ops/gemm/packed_weight.hpp>
#include <smalti/policy/codec.hpp>
#include <smalti/policy/packing.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! One matrix of weights before packing. Groups are numbered row after row: group (j, g) of output j (or block of outputs) and
//! group g along k is entry j * groups_k + g. What the format does not have stays null.
struct weight_source {
  const std::uint8_t* codes = nullptr;      //!< N x K
  long long stride = 0;                     //!< bytes from row to row
  int n = 0, k = 0;
  const int* order = nullptr;               //!< act-order: place p, whose group is p / group, is column order[p] of the codes and of the activations; null: p

  const float* scale = nullptr;             //!< per group, for formats with one level: rounded to the format's scale type where it is narrower
  const std::uint8_t* zero = nullptr;       //!< integer zero points, per group
  const float* minimum = nullptr;           //!< floating minima, per group, for formats with one level
  const std::uint8_t* scale_code = nullptr; //!< stored scales of two levels (and of e8m0 and fp8, as an alternative to `scale`), per group
  const std::uint8_t* minimum_code = nullptr;
  const float* outer = nullptr;             //!< second level: per super group (row after row), or one for the tensor
  const float* outer_minimum = nullptr;
  float mean = 0;                           //!< double quantization: `outer` counts blocks of the flattened groups
};

namespace detail {

template <class T> T stored_scale(const weight_source& s, const float* level, const std::uint8_t* code, long long at) {
  if constexpr (std::is_integral_v<T>) {      // bytes: codes of a second level, or e8m0
    if (code != nullptr) return T(code[at]);
    return T(narrow<e8m0>(level[at]).bits);
  } else if constexpr (sizeof(T) == 1) {
    if (code != nullptr) return T{code[at]};
    return narrow<T>(level[at]);
  } else {
    static_cast<void>(s);
    return narrow<T>(level[at]);
  }
}

// Row g of `to` gets entry (j, g) of groups for every output j; columns behind the last are zero. Panel: as scale_arrays has it.
template <int Panel, class T, class Get> void fill_groups(const view<const T>& to, int expert, int groups, int outputs, Get get) {
  T* const first = const_cast<T*>(to.data) + static_cast<long long>(expert) * to.rows * to.cols;
  for (int g = 0; g < to.rows; ++g)
    for (int j = 0; j < to.cols; ++j)
      first[Panel > 1 ? (static_cast<long long>(j / Panel) * to.rows + g) * Panel + j % Panel : static_cast<long long>(g) * to.stride + j] = g < groups && j < outputs ? get(static_cast<long long>(j) * groups + g) : T{};
}

}  // namespace detail

//! Bytes that pack() wants for rows of codes while it fills groups up; 0 where it need not.
template <class Weight> constexpr std::size_t packing_bytes(int k) { return Weight::fills_groups ? std::size_t(Weight::filled(k)) * Weight::layout::columns : 0; }

//! Packs a matrix as expert `expert` of a packed weight.
//!
//! @pre   w lies over memory of Weight::bytes(...) bytes that this process can write, laid out with `ordered` if the source has
//!        an order; all experts of one weight share one order
//! @param memory  packing_bytes<Weight>(k) bytes, or null where that is 0
//! @note  scales are rounded to the format's type (fp16 for most): exact where they came from such a file. Refused: codes that the format does not
//!        have or that are not finite where it promises so; scales that are missing; fp16 scales that overflow
//! @note  cost: about a nanosecond a code and part
template <class Weight> status pack(const Weight& w, const weight_source& s, int expert = 0, void* memory = nullptr) {
  using format = typename Weight::format;
  using codec = typename format::codec;
  using scales = typename format::scales;
  using arrays = typename Weight::arrays;
  using layout = typename Weight::layout;
  constexpr bool two_levels = arrays::has_super || arrays::double_quantized;
  if (s.n != w.n) return {errc::bad_shape, "pack: the source needs the outputs (N) of the packed weight", s.n, w.n};
  if (s.k != w.k) return {errc::bad_shape, "pack: the source needs the K of the packed weight", s.k, w.k};
  if (expert < 0 || expert >= w.experts) return {errc::bad_value, "pack: expert must be one of the packed weight's", expert, w.experts};
  if (s.codes == nullptr && s.n > 0 && s.k > 0) return {errc::null_pointer, "pack: codes is null"};
  if (s.order != nullptr && w.order == nullptr) return {errc::bad_value, "pack: the source has an order of columns: lay the packed weight out with ordered = true"};
  constexpr bool takes_codes = two_levels || std::is_same_v<typename scales::element, e8m0> || std::is_same_v<typename scales::element, fp8_e4m3>;
  if (takes_codes ? s.scale_code == nullptr && (two_levels || s.scale == nullptr) : s.scale == nullptr)
    return {errc::null_pointer, two_levels ? "pack: this format stores scales in two levels: scale_code is null" : "pack: scale is null"};
  if (arrays::has_zero && s.zero == nullptr) return {errc::null_pointer, "pack: this format has integer zero points: zero is null"};
  if (arrays::has_minimum && (two_levels ? s.minimum_code == nullptr : s.minimum == nullptr)) return {errc::null_pointer, "pack: this format has minima: minimum (or minimum_code) is null"};
  if ((two_levels || arrays::has_number) && s.outer == nullptr) return {errc::null_pointer, "pack: this format has a second level of scales: outer is null"};
  if (arrays::has_super && arrays::has_minimum && s.outer_minimum == nullptr) return {errc::null_pointer, "pack: this format has a second level of minima: outer_minimum is null"};
  if (Weight::fills_groups && memory == nullptr && s.k > 0) return {errc::workspace_too_small, "pack: filling groups up wants packing_bytes(k) of memory", 0, std::int64_t(packing_bytes<Weight>(s.k))};
  if (s.order != nullptr)
    for (int p = 0; p < s.k; ++p)
      if (s.order[p] < 0 || s.order[p] >= s.k) return {errc::bad_value, "pack: order holds columns in [0, k)", s.order[p], s.k};

  // ---- codes
  std::uint32_t* parts[3] = {};
  const auto part = [&](auto number) {
    if constexpr (number.value < layout::parts)
      parts[number.value] = const_cast<std::uint32_t*>(part_of<number.value>(w.planes).data) + static_cast<long long>(expert) * layout::size(w.n, w.packed_k, number.value);
  };
  part(std::integral_constant<int, 0>{});
  part(std::integral_constant<int, 1>{});
  part(std::integral_constant<int, 2>{});
  if constexpr (Weight::fills_groups) {
    constexpr int group = scales::group_k, packed = Weight::packed::scales::group_k;
    int* const order = const_cast<int*>(w.order);
    for (int p = 0; p < w.packed_k; ++p) {
      const int place = p / packed * group + p % packed;
      order[p] = p % packed < group && place < s.k ? (s.order != nullptr ? s.order[place] : place) : -1;
    }
    auto* const rows = static_cast<std::uint8_t*>(memory);
    for (int first = 0; first < w.n; first += layout::columns) {      // a panel's columns at a time
      const int count = w.n - first < layout::columns ? w.n - first : layout::columns;
      for (int j = 0; j < count; ++j)
        for (int p = 0; p < w.packed_k; ++p)
          rows[static_cast<std::size_t>(j) * w.packed_k + p] = order[p] < 0 ? std::uint8_t(policy::padding_code<codec>) : s.codes[(first + j) * s.stride + order[p]];
      std::uint32_t* strip[3] = {};
      for (int i = 0; i < layout::parts; ++i) strip[i] = parts[i] + layout::index(first, 0, layout::words_of(w.packed_k, i));
      if (const status bad = policy::pack_codes<layout, codec>({rows, count, w.packed_k, w.packed_k}, strip); !bad) return bad;
    }
  } else {
    if (s.order != nullptr) std::memcpy(const_cast<int*>(w.order), s.order, std::size_t(s.k) * sizeof(int));
    else if (w.order != nullptr)
      for (int p = 0; p < s.k; ++p) const_cast<int*>(w.order)[p] = p;
    if (const status bad = policy::pack_codes<layout, codec>({s.codes, s.n, s.k, s.stride, s.order}, parts); !bad) return bad;
  }

  // ---- scales
  const int groups = scales::rows(s.k), outputs = scales::cols(s.n);
  status bad;
  const auto checked = [&](auto x) {
    if constexpr (std::is_same_v<decltype(x), fp16>)
      if ((x.bits & 0x7c00) == 0x7c00) bad = {errc::bad_value, "pack: a scale is beyond fp16: use the format with float or bf16 scales"};
    return x;
  };
  using stored = typename arrays::stored;
  detail::fill_groups<arrays::panel>(w.scales.scale, expert, groups, outputs, [&](long long at) { return checked(detail::stored_scale<stored>(s, s.scale, s.scale_code, at)); });
  if constexpr (arrays::has_minimum)
    detail::fill_groups<arrays::panel>(w.scales.minimum, expert, groups, outputs, [&](long long at) { return checked(detail::stored_scale<stored>(s, s.minimum, s.minimum_code, at)); });
  if constexpr (arrays::has_zero) detail::fill_groups<arrays::panel>(w.scales.zero, expert, groups, outputs, [&](long long at) { return s.zero[at]; });
  if constexpr (arrays::has_super) {
    using outer = typename arrays::outer_element;
    const int supers = scales::outer_rows(s.k);
    detail::fill_groups<1>(w.scales.outer, expert, supers, outputs, [&](long long at) { return checked(detail::stored_scale<outer>(s, s.outer, nullptr, at)); });
    if constexpr (arrays::has_minimum)
      detail::fill_groups<1>(w.scales.outer_minimum, expert, supers, outputs, [&](long long at) { return checked(detail::stored_scale<outer>(s, s.outer_minimum, nullptr, at)); });
  }
  if constexpr (arrays::has_number) const_cast<float*>(w.scales.tensor)[expert] = *s.outer;
  if constexpr (arrays::double_quantized) {
    const_cast<float*>(w.scales.tensor)[expert] = s.mean;
    float* const blocks = const_cast<float*>(w.scales.blocks.data) + static_cast<long long>(expert) * w.scales.blocks.cols;
    for (int i = 0; i < w.scales.blocks.cols; ++i) blocks[i] = s.outer[i];
    for (unsigned c = 0; c < 256; ++c) const_cast<float*>(w.scales.map)[c] = policy::dynamic_map::value(c);
  }
  return bad;
}

}  // namespace smalti::inline SMALTI_CODE::gemm
