// compressed-tensors' packed integers ("pack-quantized", 1 to 8 bits). Its float formats are in io/block_scaled.hpp.
//
// weight_packed     I32 [N, ceil(K b / 32)]: each row one little-endian stream of codes, value + 2^(b - 1); padding bits are 0
// weight_scale      F32, F16 or BF16 [N, G], per tensor [1]
// weight_zero_point I32 [ceil(N b / 32), G]: each column a stream of zeros along the output features, offset as the codes are
// weight_shape      I64 [2]: N, K
// weight_g_idx      I32 [K], with act-order
//     value = (code - zero) * scale,  zero = 2^(b - 1) where there is no zero point
// Source: compressed-tensors 0.20.0, as run for tests/golden.
#pragma once
#include <cstdint>
#include <string>
#include <utility>

#include <smalti/core/version.hpp>
#include <smalti/io/bytes.hpp>
#include <smalti/io/file_status.hpp>
#include <smalti/io/gptq.hpp>
#include <smalti/io/import.hpp>
#include <smalti/io/quantized.hpp>
#include <smalti/io/tensor.hpp>

namespace smalti::inline SMALTI_DATA::io {

//! One layer's tensors, and what config.json's quantization_config says of them.
struct pack_quantized_layer {
  const tensor *packed = nullptr, *scale = nullptr, *shape = nullptr;
  const tensor *zero_point = nullptr, *g_idx = nullptr;  //!< may be missing
  int bits = 4;                                          //!< num_bits
  std::int64_t group = 128;  //!< group_size; -1: all input features (strategy channel); 0: one scale for the tensor
  nan_rule nan = nan_rule::refuse;
};

//! The tensors of the layer `name` in a safetensors file or model.
template <class File> pack_quantized_layer find_pack_quantized(const File& file, const std::string& name) {
  return {.packed = file.find(name + ".weight_packed"),
          .scale = file.find(name + ".weight_scale"),
          .shape = file.find(name + ".weight_shape"),
          .zero_point = file.find(name + ".weight_zero_point"),
          .g_idx = file.find(name + ".weight_g_idx")};
}

//! Reads a layer. Refused: sizes that do not fit each other, g_idx as in GPTQ, scales that are NaN or infinite.
inline file_status import_layer(const pack_quantized_layer& from, quantized& to) {
  to = {};
  using detail::refuse_tensor;
  if (auto s = detail::check_tensor(from.packed, "there is no weight_packed", {dtype::i32, dtype::u32}, "weight_packed must be I32"); !s)
    return s;
  if (auto s = detail::check_tensor(from.scale, "there is no weight_scale", {dtype::f32, dtype::f16, dtype::bf16},
                                    "weight_scale must be F32, F16 or BF16");
      !s)
    return s;
  if (auto s = detail::check_tensor(from.shape, "there is no weight_shape", {dtype::i64, dtype::i32}, "weight_shape must be I64 or I32");
      !s)
    return s;
  const tensor& w = *from.packed;
  const int b = from.bits;
  if (b < 1 || b > 8) return refuse_tensor(file_rule::unsupported, "packed integers have 1 to 8 bits", w, std::uint64_t(b < 0 ? 0 : b), 8);
  if (from.shape->shape.size() != 1 || from.shape->shape[0] != 2)
    return refuse_tensor(file_rule::bad_shape, "weight_shape must hold two extents", *from.shape);
  quantized q;
  const bool wide = from.shape->type == dtype::i64;
  q.n = wide ? detail::load<std::int64_t>(from.shape->data, 0) : detail::load<std::int32_t>(from.shape->data, 0);
  q.k = wide ? detail::load<std::int64_t>(from.shape->data, 8) : detail::load<std::int32_t>(from.shape->data, 4);
  q.bits = b;
  if (auto s = detail::check_extents(*from.shape, q.n, q.k); !s) return s;
  if (auto s = detail::check_matrix(w, "weight_packed must be output features x words of input features", q.n, (q.k * b + 31) / 32); !s)
    return s;
  if (from.group == 0) {
    q.group_n = q.n;
    q.group_k = q.k;
  } else if (auto s = detail::take_group(w, from.group, q); !s) {
    return s;
  }
  std::uint64_t scales = 0;
  static_cast<void>(detail::elements(from.scale->shape, scales));
  if (scales != std::uint64_t(q.groups()))
    return refuse_tensor(file_rule::size_mismatch, "there must be one scale per group", *from.scale, scales, std::uint64_t(q.groups()));
  if (auto s = detail::take_scales(*from.scale, from.nan, q.scale); !s) return s;
  if (auto s = detail::take_column_groups(from.g_idx, q); !s) return s;
  if (from.zero_point == nullptr) {
    q.zero = zero_kind::constant;
    q.zero_point = 1 << (b - 1);
  } else {
    if (from.group == 0)
      return refuse_tensor(file_rule::unsupported, "packed zero points belong to groups or output features", *from.zero_point);
    if (auto s = detail::check_tensor(from.zero_point, "", {dtype::i32, dtype::u32}, "weight_zero_point must be packed, as I32"); !s)
      return s;
    const std::int64_t groups = q.groups_k();
    if (auto s = detail::check_matrix(*from.zero_point, "weight_zero_point must be words of output features x groups", (q.n * b + 31) / 32,
                                      groups);
        !s)
      return s;
    q.zero = zero_kind::per_group;
    q.zero_points.resize(q.scale.size());
    for (std::int64_t i = 0; i < q.n; ++i)
      for (std::int64_t g = 0; g < groups; ++g)
        q.zero_points[std::size_t(i * groups + g)] =
            std::uint8_t(detail::strided_code(from.zero_point->data, std::uint64_t(4 * g), std::uint64_t(4 * groups), i, b));
  }
  q.from = {w.data, (q.k * b + 31) / 32 * 4, std::uint32_t(b)};
  q.unpack = detail::unpack_rows;
  to = std::move(q);
  return {};
}

}  // namespace smalti::inline SMALTI_DATA::io
