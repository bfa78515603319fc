// Weights of narrow floats with scales by blocks: FP8, NVFP4, MXFP4, MXFP6, MXFP8.
//
//     value = code * scale                                            one scale for group_n x group_k codes
//     value = code * (scale * tensor_scale)                           NVFP4 of ModelOpt and torchao: tensor_scale = amax / 2688
//     value = code * (scale / tensor_scale)                           NVFP4 of compressed-tensors: tensor_scale = 2688 / amax
//
// Names in checkpoints:
//   compressed-tensors  weight_packed (4 and 6 bits) or weight, weight_scale, NVFP4: weight_global_scale
//   ModelOpt            weight, weight_scale, NVFP4: weight_scale_2
//   torchao             qdata, scale, NVFP4: per_tensor_scale
//   DeepSeek            weight, weight_scale_inv (which multiplies)
// Codes of 4 bits: the even column in the low half. Codes of 6 bits: four in three bytes, lowest bits first, or one a byte.
// Sources: compressed-tensors 0.20.0, nvidia-modelopt 0.47.0, torchao 0.18.0, DeepGEMM 54e22612, as run for tests/golden.
#pragma once
#include <cstdint>
#include <utility>

#include <smalti/core/version.hpp>
#include <smalti/io/bytes.hpp>
#include <smalti/io/file_status.hpp>
#include <smalti/io/import.hpp>
#include <smalti/io/quantized.hpp>
#include <smalti/io/tensor.hpp>

namespace smalti::inline SMALTI_DATA::io {

//! What a second, tensor-wide scale does. The two conventions differ by a factor of millions: say which.
enum class tensor_scale_use : std::uint8_t { multiplies, divides };

//! One layer. nvfp4(), mxfp4() and the others below fill in what a format fixes.
struct block_scaled_layer {
  const tensor *weight = nullptr, *scale = nullptr;
  const tensor* tensor_scale = nullptr;  //!< one F32, or none
  tensor_scale_use use = tensor_scale_use::multiplies;
  code_kind kind = code_kind::e4m3;        //!< e2m1, e2m3, e3m2, e4m3 or e5m2
  std::int64_t group_n = 1, group_k = 16;  //!< 0: all rows, all columns
  //! What scales of one byte are. Where it is single, they must be F32, F16 or BF16.
  scale_form form = scale_form::single;
  nan_rule nan = nan_rule::refuse;
};

//! NVFP4: E2M1 with an E4M3 scale for 16 columns and one F32 for the tensor (none: torchao's one-level form).
inline block_scaled_layer nvfp4(const tensor* weight, const tensor* scale, const tensor* tensor_scale, tensor_scale_use use) {
  return {.weight = weight,
          .scale = scale,
          .tensor_scale = tensor_scale,
          .use = use,
          .kind = code_kind::e2m1,
          .group_n = 1,
          .group_k = 16,
          .form = scale_form::e4m3};
}
//! MXFP4, MXFP6, MXFP8: elements of `kind` with an E8M0 scale for 32 columns.
inline block_scaled_layer mx(const tensor* weight, const tensor* scale, code_kind kind) {
  return {.weight = weight, .scale = scale, .kind = kind, .group_n = 1, .group_k = 32, .form = scale_form::e8m0};
}
//! FP8 with float scales for group_n x group_k codes; 0 is all rows, or all columns: {0, 0} per tensor, {1, 0} per output feature,
//! {128, 128} DeepSeek's blocks.
inline block_scaled_layer fp8(const tensor* weight, const tensor* scale, std::int64_t group_n, std::int64_t group_k,
                              code_kind kind = code_kind::e4m3) {
  return {.weight = weight, .scale = scale, .kind = kind, .group_n = group_n, .group_k = group_k};
}

namespace detail {

constexpr bool nan_code(code_kind kind, std::uint8_t code) {
  return kind == code_kind::e4m3 ? (code & 0x7F) == 0x7F : kind == code_kind::e5m2 && (code & 0x7F) >= 0x7C;
}

// As unpack_rows, and codes under a scale of 0 become 0.
inline void unpack_rows_of_zero_blocks(const quantized& q, std::int64_t first, std::int64_t count, std::uint8_t* out) {
  unpack_rows(q, first, count, out);
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t j = 0; j < q.k; ++j)
      if (q.scale[std::size_t(q.group(first + i, j))] == 0) out[i * q.k + j] = 0;
}

// The width of a stored code, which the weight's type and its last extent tell; 0 where the type does not go with the kind.
inline int stored_bits(const tensor& w, code_kind kind, std::int64_t scale_columns, std::int64_t group_k) {
  const bool octet = w.type == dtype::u8 || w.type == dtype::i8;
  switch (kind) {
    case code_kind::e2m1: return octet || w.type == dtype::f4 ? 4 : 0;
    case code_kind::e2m3:
    case code_kind::e3m2:
      if (w.type == (kind == code_kind::e2m3 ? dtype::f6_e2m3 : dtype::f6_e3m2)) return 6;
      // One code a byte, or four in three bytes: the scales of a row say how many columns there are, in whole groups.
      if (!octet || group_k <= 0 || scale_columns <= 0) return 0;
      if (w.shape[1] / scale_columns == group_k && w.shape[1] % scale_columns == 0) return 8;
      return w.shape[1] % 3 == 0 && w.shape[1] / 3 * 4 / scale_columns == group_k && w.shape[1] / 3 * 4 % scale_columns == 0 ? 6 : 0;
    case code_kind::e4m3: return octet || w.type == dtype::f8_e4m3 ? 8 : 0;
    case code_kind::e5m2: return octet || w.type == dtype::f8_e5m2 ? 8 : 0;
    default: return 0;
  }
}

inline std::int64_t last_extent(const tensor& t) { return t.shape.empty() ? 1 : t.shape.back(); }

}  // namespace detail

//! Reads a layer. Scales are matched by their number: rows of blocks, one after another, in whatever shape. Refused: sizes
//! that do not fit, scales and codes that are NaN or infinite (an E8M0 of 0xFF, a NaN that ModelOpt leaves in an all-zero block),
//! unless `nan` says otherwise; a tensor scale that is 0.
inline file_status import_layer(const block_scaled_layer& from, quantized& to) {
  to = {};
  using detail::refuse_tensor;
  if (auto s = detail::check_tensor(from.weight, "there is no weight",
                                    {dtype::u8, dtype::i8, dtype::f4, dtype::f6_e2m3, dtype::f6_e3m2, dtype::f8_e4m3, dtype::f8_e5m2},
                                    "the weight must be of bytes or of narrow floats");
      !s)
    return s;
  const tensor& w = *from.weight;
  const char* const scale_type =
      "scales must be of the type the format asks for: F32, F16, BF16, or F8_E4M3, F8_E8M0 or U8 for scales of one byte";
  if (auto s =
          from.form == scale_form::single
              ? detail::check_tensor(from.scale, "there is no scale", {dtype::f32, dtype::f16, dtype::bf16}, scale_type)
          : from.form == scale_form::e8m0 ? detail::check_tensor(from.scale, "there is no scale", {dtype::f8_e8m0, dtype::u8}, scale_type)
          : from.form == scale_form::e4m3 ? detail::check_tensor(from.scale, "there is no scale", {dtype::f8_e4m3, dtype::u8}, scale_type)
                                          : refuse_tensor(file_rule::unsupported, "scales are floats, E8M0 or E4M3", w);
      !s)
    return s;
  if (w.shape.size() != 2) return refuse_tensor(file_rule::bad_shape, "a weight must be a matrix", w, w.shape.size(), 2);
  if (auto s = detail::check_extents(w, w.shape[0], w.shape[1]); !s) return s;
  if (from.group_n < 0 || from.group_k < 0)
    return refuse_tensor(file_rule::bad_field, "a group must not be negative; 0 is all rows or all columns", w);
  quantized q;
  q.kind = from.kind;
  q.bits = bits_of(from.kind);
  const int width = detail::stored_bits(w, from.kind, detail::last_extent(*from.scale), from.group_k);
  if (width == 0)
    return refuse_tensor(file_rule::bad_value_type,
                         "the weight's type is not that of the format, or its rows are not whole groups of six-bit codes", w);
  // Columns: a type of narrow elements counts them itself, a type of bytes counts bytes.
  std::uint64_t columns = std::uint64_t(w.shape[1]);
  if (facts(w.type).bits == 8 &&
      (!detail::multiply(columns, 8) || columns % std::uint64_t(width) != 0 || (columns /= std::uint64_t(width), false)))
    return refuse_tensor(file_rule::bad_shape, "a row must hold a whole number of codes", w, columns, std::uint64_t(width));
  if (columns > std::uint64_t(INT64_MAX)) return refuse_tensor(file_rule::bad_shape, "a weight has too many elements", w);
  q.n = w.shape[0];
  q.k = std::int64_t(columns);
  if (auto s = detail::check_extents(w, q.n, q.k); !s) return s;
  if (q.k * width % 8 != 0) return refuse_tensor(file_rule::bad_shape, "a row must fill whole bytes", w, columns, 8);
  q.group_n = from.group_n == 0 || from.group_n > q.n ? q.n : from.group_n;
  q.group_k = from.group_k == 0 || from.group_k > q.k ? q.k : from.group_k;

  std::uint64_t scales = 0;
  static_cast<void>(detail::elements(from.scale->shape, scales));
  if (scales != std::uint64_t(q.groups()))
    return refuse_tensor(file_rule::size_mismatch, "there must be one scale per block", *from.scale, scales, std::uint64_t(q.groups()));
  if (auto s = detail::take_scales(*from.scale, from.nan, q.scale, from.form); !s) return s;
  q.stored.form = from.form;
  if (from.form != scale_form::single) {
    const std::uint8_t* codes = detail::octets(from.scale->data);
    q.stored.code.assign(codes, codes + scales);
  }
  if (from.tensor_scale != nullptr) {
    if (from.form != scale_form::e4m3)
      return refuse_tensor(file_rule::unsupported, "only E4M3 scales have a scale of the tensor", *from.tensor_scale);
    if (auto s = detail::check_tensor(from.tensor_scale, "", {dtype::f32}, "the tensor's scale must be one F32"); !s) return s;
    if (from.tensor_scale->data.size() != 4)
      return refuse_tensor(file_rule::size_mismatch, "the tensor's scale must be one F32", *from.tensor_scale,
                           from.tensor_scale->data.size(), 4);
    const float all = detail::load<float>(from.tensor_scale->data, 0);
    if (from.nan != nan_rule::keep && (!detail::finite(all) || all == 0))
      return refuse_tensor(file_rule::bad_code, "the tensor's scale must be finite and not 0: nan_rule::keep lets it pass",
                           *from.tensor_scale);
    q.stored.super = {all};
    q.stored.divides = from.use == tensor_scale_use::divides;
    for (float& s : q.scale) s = q.stored.divides ? s / all : s * all;
  }

  q.from = {w.data, q.k * width / 8, std::uint32_t(width)};
  q.unpack = from.nan == nan_rule::zero_blocks ? detail::unpack_rows_of_zero_blocks : detail::unpack_rows;
  // Codes of 8 bits can be NaN, and an element a byte can have bits that no code has. Both are found before a kernel meets them.
  if (width == 8) {
    const std::uint8_t* codes = detail::octets(w.data);
    for (std::int64_t i = 0; i < q.n; ++i)
      for (std::int64_t j = 0; j < q.k; ++j) {
        const std::uint8_t code = codes[i * q.k + j];
        if (code >> q.bits != 0)
          return refuse_tensor(file_rule::bad_code, "a byte is larger than any code", w, code, 1u << q.bits, std::uint64_t(i * q.k + j));
        if (from.nan == nan_rule::keep || !detail::nan_code(q.kind, code)) continue;
        if (from.nan == nan_rule::zero_blocks && q.scale[std::size_t(q.group(i, j))] == 0) continue;
        return refuse_tensor(
            file_rule::bad_code,
            "a code is NaN or infinite: nan_rule::zero_blocks reads it as 0 where its scale is 0, nan_rule::keep lets it pass", w, code, 0,
            std::uint64_t(i * q.k + j));
      }
  }
  to = std::move(q);
  return {};
}

}  // namespace smalti::inline SMALTI_DATA::io
