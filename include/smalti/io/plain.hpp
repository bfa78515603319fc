// Tensors that are not quantized: floats and integers, read as f32 rows.
#pragma once
#include <cstdint>
#include <string_view>

#include <smalti/core/float.hpp>
#include <smalti/core/version.hpp>
#include <smalti/io/bytes.hpp>
#include <smalti/io/file_status.hpp>
#include <smalti/io/gguf.hpp>
#include <smalti/io/import.hpp>
#include <smalti/io/tensor.hpp>

namespace smalti::inline SMALTI_DATA::io {

//! A tensor as n rows of k elements, in the file. A vector is one row; higher ranks are rows of their fastest extent.
struct plain {
  std::int64_t n = 0, k = 0;
  dtype type = dtype::f32;
  bytes data;

  //! The values of rows [first, first + count) as f32, row after row. Exact but for F64, I32, U32, I64 and U64, which are rounded
  //! to nearest. @pre 0 <= first, first + count <= n; out holds count * k floats
  void values(std::int64_t first, std::int64_t count, float* out) const {
    const std::uint64_t begin = std::uint64_t(first) * std::uint64_t(k), end = begin + std::uint64_t(count) * std::uint64_t(k);
    for (std::uint64_t i = begin; i < end; ++i) *out++ = value(i);
  }

  float value(std::uint64_t i) const {
    using detail::load;
    switch (type) {
      case dtype::boolean:
      case dtype::u8: return float(load<std::uint8_t>(data, i));
      case dtype::i8: return float(load<std::int8_t>(data, i));
      case dtype::f8_e5m2: return to_float(fp8_e5m2{load<std::uint8_t>(data, i)});
      case dtype::f8_e4m3: return to_float(fp8_e4m3{load<std::uint8_t>(data, i)});
      case dtype::f8_e8m0: return to_float(e8m0{load<std::uint8_t>(data, i)});
      case dtype::f8_e4m3fnuz: return to_float(fp8_e4m3fnuz{load<std::uint8_t>(data, i)});
      case dtype::f8_e5m2fnuz: return to_float(fp8_e5m2fnuz{load<std::uint8_t>(data, i)});
      case dtype::i16: return float(load<std::int16_t>(data, 2 * i));
      case dtype::u16: return float(load<std::uint16_t>(data, 2 * i));
      case dtype::f16: return to_float(fp16{load<std::uint16_t>(data, 2 * i)});
      case dtype::bf16: return to_float(smalti::bf16{load<std::uint16_t>(data, 2 * i)});
      case dtype::i32: return float(load<std::int32_t>(data, 4 * i));
      case dtype::u32: return float(load<std::uint32_t>(data, 4 * i));
      case dtype::f32: return load<float>(data, 4 * i);
      case dtype::f64: return float(load<double>(data, 8 * i));
      case dtype::i64: return float(load<std::int64_t>(data, 8 * i));
      case dtype::u64: return float(load<std::uint64_t>(data, 8 * i));
      default: return 0;  // import_plain lets no other type through
    }
  }
};

namespace detail {
inline file_status take_plain(dtype type, bytes data, std::uint64_t rows, std::uint64_t k, std::string_view name, plain& to) {
  std::uint64_t size = rows;
  if (!multiply(size, k) || !multiply(size, std::uint64_t(facts(type).bits) / 8) || size != data.size())
    return refuse(file_rule::size_mismatch, "a tensor's bytes are not those of its shape", 0, name, data.size(), size);
  to = {std::int64_t(rows), std::int64_t(k), type, data};
  return {};
}
}  // namespace detail

//! Reads a tensor of a safetensors file. Refused: types of less than a byte (quantized: see io/block_scaled.hpp), and complex numbers.
inline file_status import_plain(const tensor& from, plain& to) {
  to = {};
  if (facts(from.type).bits < 8)
    return detail::refuse_tensor(file_rule::unsupported, "elements of less than a byte are codes: import them with their scales", from);
  if (from.type == dtype::c64) return detail::refuse_tensor(file_rule::unsupported, "complex numbers are not read", from);
  std::uint64_t rows = 1, k = from.shape.empty() ? 1 : std::uint64_t(from.shape.back() < 0 ? 0 : from.shape.back());
  for (std::size_t i = 0; i + 1 < from.shape.size(); ++i)
    if (from.shape[i] < 0 || !detail::multiply(rows, std::uint64_t(from.shape[i])))
      return detail::refuse_tensor(file_rule::bad_shape, "the product of the extents is past what 64 bits hold", from);
  return detail::take_plain(from.type, from.data, rows, k, from.name, to);
}

//! Reads a tensor of a GGUF file whose type is no block type.
inline file_status import_plain(const gguf_tensor& from, plain& to) {
  to = {};
  dtype type = dtype::f32;
  switch (from.type) {
    case ggml_type::f32: type = dtype::f32; break;
    case ggml_type::f16: type = dtype::f16; break;
    case ggml_type::bf16: type = dtype::bf16; break;
    case ggml_type::f64: type = dtype::f64; break;
    case ggml_type::i8: type = dtype::i8; break;
    case ggml_type::i16: type = dtype::i16; break;
    case ggml_type::i32: type = dtype::i32; break;
    case ggml_type::i64: type = dtype::i64; break;
    default:
      return detail::refuse(file_rule::unsupported, "a block type is quantized: see io/ggml_blocks.hpp", 0, from.name,
                            std::uint64_t(from.type));
  }
  std::uint64_t rows = 1;
  for (int i = 1; i < 4; ++i)
    if (from.extent[i] < 0 || !detail::multiply(rows, std::uint64_t(from.extent[i])))
      return detail::refuse(file_rule::bad_shape, "the product of the extents is past what 64 bits hold", 0, from.name);
  if (from.extent[0] < 0) return detail::refuse(file_rule::bad_shape, "an extent must not be negative", 0, from.name);
  return detail::take_plain(type, from.data, rows, std::uint64_t(from.extent[0]), from.name, to);
}

}  // namespace smalti::inline SMALTI_DATA::io
