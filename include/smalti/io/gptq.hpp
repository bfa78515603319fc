// GPTQ and AWQ checkpoints: integer weights, scales and zeros by groups along the input features.
//
// GPTQ   qweight I32 [K b / 32, N]: down each column one little-endian stream of codes, 32 codes in b words
//        qzeros  I32 [G, N b / 32]: along each row the same; version 1 stores (zero - 1) mod 2^b, version 2 stores the zero
//        scales  F16 [G, N],  g_idx I32 [K] the group of each input feature (act-order)
// planar the same with qweight and qzeros in planes (gptqmodel's gptq_p, 3, 5, 6 and 7 bits): of 32 codes first their lowest
//        4 or 2 bits, then the next ones, each plane a stream of its own; zeros as in version 2
// AWQ    qweight I32 [K, N / 8]: column 8 c + {0, 2, 4, 6, 1, 3, 5, 7}[r] in nibble r of word c; qzeros alike, with zeros as
//        they are; scales F16 [G, N]
//     value = (code - zero) * scale
//
// A version 1 zero of 2^b - 1 wraps to 0, as gptqmodel reads it. auto-gptq 0.7.1 destroyed neighbours of such zeros when it
// wrote them, which a reader cannot see.
// Sources: gptqmodel 7.6.0, auto-gptq 0.7.1, autoawq 0.2.9, as run for tests/golden.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <smalti/core/version.hpp>
#include <smalti/io/bytes.hpp>
#include <smalti/io/file_status.hpp>
#include <smalti/io/import.hpp>
#include <smalti/io/quantized.hpp>
#include <smalti/io/tensor.hpp>

namespace smalti::inline SMALTI_DATA::io {

//! One layer's tensors, and what config.json's quantization_config says of them.
struct gptq_layer {
  const tensor *qweight = nullptr, *qzeros = nullptr, *scales = nullptr;
  const tensor* g_idx = nullptr;  //!< may be missing: no act-order
  int bits = 4;
  std::int64_t group = 128;  //!< group_size; -1: all input features
  int version = 1;           //!< 1 for checkpoint_format "gptq", 2 for "gptq_v2"; planar files are read as 2
  bool planar = false;       //!< checkpoint_format "gptq_p"
  nan_rule nan = nan_rule::refuse;
};
struct awq_layer {
  const tensor *qweight = nullptr, *qzeros = nullptr, *scales = nullptr;
  std::int64_t group = 128;  //!< -1: all input features
  nan_rule nan = nan_rule::refuse;
};

namespace detail {

// Widths of the planes of b bits, lowest first.
constexpr int plane_widths(int bits, int (&width)[3]) {
  int planes = 0;
  for (const int w : {4, 2, 1})
    if (bits & w) width[planes++] = w;
  return planes;
}

// Word w of column (or row) `lane` of 32-bit words that lie `stride` bytes apart.
inline std::uint32_t word_at(bytes data, std::int64_t w, std::int64_t stride, std::int64_t lane) {
  return load<std::uint32_t>(data, std::uint64_t(w * stride + 4 * lane));
}

// Code p of a stream of 32-bit words, `step` bytes apart, that begins at byte `at`.
inline std::uint32_t strided_code(bytes data, std::uint64_t at, std::uint64_t step, std::int64_t p, int bits) {
  const std::int64_t bit = p * bits;
  const int skip = int(bit % 32);
  const std::uint64_t word = at + std::uint64_t(bit / 32) * step;
  std::uint64_t pair = load<std::uint32_t>(data, word);
  if (skip + bits > 32) pair |= std::uint64_t(load<std::uint32_t>(data, word + step)) << 32;
  return std::uint32_t(pair >> skip) & ((1u << bits) - 1);
}
inline std::uint32_t strided_planar_code(bytes data, std::uint64_t at, std::uint64_t step, std::int64_t p, int bits) {
  int width[3] = {}, shift = 0;
  const int planes = plane_widths(bits, width);
  std::uint32_t code = 0;
  std::uint64_t word = at + std::uint64_t(p / 32 * bits) * step;
  for (int i = 0; i < planes; ++i) {
    code |= strided_code(data, word, step, p % 32, width[i]) << shift;
    shift += width[i];
    word += std::uint64_t(width[i]) * step;
  }
  return code;
}

template <bool Planar> void unpack_columns(const quantized& q, std::int64_t first, std::int64_t count, std::uint8_t* out) {
  for (std::int64_t j = 0; j < q.k; ++j)
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint64_t at = std::uint64_t(4 * (first + i)), step = std::uint64_t(q.from.stride);
      out[i * q.k + j] =
          std::uint8_t(Planar ? strided_planar_code(q.from.data, at, step, j, q.bits) : strided_code(q.from.data, at, step, j, q.bits));
    }
}

// The nibble of a word that holds column c of eight.
constexpr int awq_nibble(std::int64_t c) { return int(c % 2 * 4 + c % 8 / 2); }

inline std::uint32_t awq_code(bytes data, std::int64_t row, std::int64_t n, std::int64_t column) {
  return word_at(data, row, n / 2, column / 8) >> (4 * awq_nibble(column)) & 15u;
}
inline void unpack_awq(const quantized& q, std::int64_t first, std::int64_t count, std::uint8_t* out) {
  for (std::int64_t j = 0; j < q.k; ++j)
    for (std::int64_t i = 0; i < count; ++i) out[i * q.k + j] = std::uint8_t(awq_code(q.from.data, j, q.n, first + i));
}

// Scales [G, N] of the file as [N, G].
inline file_status take_transposed_scales(const tensor& scales, nan_rule rule, quantized& to) {
  std::vector<float> by_group;
  if (auto s = take_scales(scales, rule, by_group); !s) return s;
  const std::int64_t groups = to.groups_k();
  to.scale.resize(by_group.size());
  for (std::int64_t g = 0; g < groups; ++g)
    for (std::int64_t i = 0; i < to.n; ++i) to.scale[std::size_t(i * groups + g)] = by_group[std::size_t(g * to.n + i)];
  return {};
}

// What both formats have: the three tensors, extents, the group.
inline file_status check_layer(const tensor* qweight, const tensor* qzeros, const tensor* scales) {
  const char* const words = "qweight and qzeros must be I32";
  if (auto s = check_tensor(qweight, "there is no qweight", {dtype::i32, dtype::u32}, words); !s) return s;
  if (auto s = check_tensor(qzeros, "there is no qzeros", {dtype::i32, dtype::u32}, words); !s) return s;
  if (auto s = check_tensor(scales, "there is no scales", {dtype::f16, dtype::bf16, dtype::f32}, "scales must be F16, BF16 or F32"); !s)
    return s;
  if (qweight->shape.size() != 2)
    return refuse_tensor(file_rule::bad_shape, "qweight must be a matrix", *qweight, qweight->shape.size(), 2);
  return {};
}
inline file_status take_group(const tensor& t, std::int64_t group, quantized& to) {
  if (group != -1 && group < 1) return refuse_tensor(file_rule::bad_field, "the group size must be positive, or -1 for one group", t);
  to.group_k = group == -1 || group > to.k ? to.k : group;
  return {};
}

}  // namespace detail

//! The tensors of the layer `name`, such as "model.layers.0.self_attn.q_proj", in a safetensors file or model.
template <class File> gptq_layer find_gptq(const File& file, const std::string& name) {
  return {.qweight = file.find(name + ".qweight"),
          .qzeros = file.find(name + ".qzeros"),
          .scales = file.find(name + ".scales"),
          .g_idx = file.find(name + ".g_idx")};
}
template <class File> awq_layer find_awq(const File& file, const std::string& name) {
  return {.qweight = file.find(name + ".qweight"), .qzeros = file.find(name + ".qzeros"), .scales = file.find(name + ".scales")};
}

//! Reads a GPTQ layer. Refused: bits other than 2, 3, 4, 8 (planar: 3, 5, 6, 7), shapes that do not fit each other, g_idx outside
//! its groups or filling them unevenly, scales that are NaN or infinite.
inline file_status import_layer(const gptq_layer& from, quantized& to) {
  to = {};
  if (auto s = detail::check_layer(from.qweight, from.qzeros, from.scales); !s) return s;
  const tensor& w = *from.qweight;
  const int b = from.bits;
  if (from.planar ? b != 3 && b != 5 && b != 6 && b != 7 : b != 2 && b != 3 && b != 4 && b != 8)
    return detail::refuse_tensor(file_rule::unsupported, "GPTQ has 2, 3, 4 or 8 bits, and 3, 5, 6 or 7 in planes", w,
                                 std::uint64_t(b < 0 ? 0 : b));
  if (from.version != 1 && from.version != 2)
    return detail::refuse_tensor(file_rule::unsupported, "GPTQ checkpoints are of version 1 or 2", w,
                                 std::uint64_t(from.version < 0 ? 0 : from.version), 2);
  std::uint64_t bit_count = std::uint64_t(w.shape[0]);
  if (!detail::multiply(bit_count, 32)) return detail::refuse_tensor(file_rule::bad_shape, "a weight has too many elements", w);
  // 3 bits, and all planes, come 32 codes at a time; the other widths divide a word.
  if (bit_count % std::uint64_t(b) != 0 || (from.planar && bit_count / std::uint64_t(b) % 32 != 0))
    return detail::refuse_tensor(file_rule::bad_shape, "the words of qweight must hold a whole number of codes", w,
                                 std::uint64_t(w.shape[0]), std::uint64_t(b));
  quantized q;
  q.n = w.shape[1];
  q.k = std::int64_t(bit_count / std::uint64_t(b));
  q.bits = b;
  if (auto s = detail::check_extents(w, q.n, q.k); !s) return s;
  if (q.n * b % 32 != 0 || (from.planar && q.n % 32 != 0))
    return detail::refuse_tensor(file_rule::bad_shape, "the zeros of all output features must fill whole words", w, std::uint64_t(q.n), 32);
  if (auto s = detail::take_group(w, from.group, q); !s) return s;
  const std::int64_t groups = q.groups_k();
  if (auto s = detail::check_matrix(*from.scales, "scales must be groups x output features", groups, q.n); !s) return s;
  if (auto s = detail::check_matrix(*from.qzeros, "qzeros must be groups x words of output features", groups, q.n * b / 32); !s) return s;
  if (auto s = detail::take_column_groups(from.g_idx, q); !s) return s;
  if (auto s = detail::take_transposed_scales(*from.scales, from.nan, q); !s) return s;

  q.zero = zero_kind::per_group;
  q.zero_points.resize(q.scale.size());
  const std::uint32_t add = from.version == 1 && !from.planar ? 1 : 0, mask = (1u << b) - 1;
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::uint64_t row = std::uint64_t(g) * std::uint64_t(q.n * b / 8);
    for (std::int64_t i = 0; i < q.n; ++i) {
      const std::uint32_t stored = from.planar ? detail::strided_planar_code(from.qzeros->data, row, 4, i, b)
                                               : detail::strided_code(from.qzeros->data, row, 4, i, b);
      q.zero_points[std::size_t(i * groups + g)] = std::uint8_t((stored + add) & mask);
    }
  }
  q.from = {w.data, 4 * q.n, 0};
  q.unpack = from.planar ? detail::unpack_columns<true> : detail::unpack_columns<false>;
  to = std::move(q);
  return {};
}

//! Reads an AWQ layer of 4 bits, in the order of its GEMM kernels.
inline file_status import_layer(const awq_layer& from, quantized& to) {
  to = {};
  if (auto s = detail::check_layer(from.qweight, from.qzeros, from.scales); !s) return s;
  const tensor& w = *from.qweight;
  quantized q;
  std::uint64_t n = std::uint64_t(w.shape[1]);
  if (!detail::multiply(n, 8) || n > std::uint64_t(INT64_MAX))
    return detail::refuse_tensor(file_rule::bad_shape, "a weight has too many elements", w);
  q.n = std::int64_t(n);
  q.k = w.shape[0];
  q.bits = 4;
  if (auto s = detail::check_extents(w, q.n, q.k); !s) return s;
  if (auto s = detail::take_group(w, from.group, q); !s) return s;
  const std::int64_t groups = q.groups_k();
  if (auto s = detail::check_matrix(*from.scales, "scales must be groups x output features", groups, q.n); !s) return s;
  if (auto s = detail::check_matrix(*from.qzeros, "qzeros must be groups x words of output features", groups, q.n / 8); !s) return s;
  if (auto s = detail::take_transposed_scales(*from.scales, from.nan, q); !s) return s;
  q.zero = zero_kind::per_group;
  q.zero_points.resize(q.scale.size());
  for (std::int64_t g = 0; g < groups; ++g)
    for (std::int64_t i = 0; i < q.n; ++i)
      q.zero_points[std::size_t(i * groups + g)] = std::uint8_t(detail::awq_code(from.qzeros->data, g, q.n, i));
  q.from = {w.data, q.n / 2, 0};
  q.unpack = detail::unpack_awq;
  to = std::move(q);
  return {};
}

}  // namespace smalti::inline SMALTI_DATA::io
