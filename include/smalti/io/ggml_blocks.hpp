// Blocks of GGUF tensors. A row is a sequence of blocks; d, m, dmin are fp16, nibble means low half first.
//
// type   block  bytes of a block                                                           value
// Q4_0   32     d, 16: byte j holds elements j (low) and j + 16 (high)                     (q - 8) d
// Q4_1   32     d, m, 16 as Q4_0                                                           q d + m
// Q5_0   32     d, 4: bit j is the fifth of element j, 16 as Q4_0                          (q - 16) d
// Q5_1   32     d, m, 4 and 16 as Q5_0                                                     q d + m
// Q8_0   32     d, 32 int8                                                                 q d
// Q4_K   256    d, dmin, 12: scales and minima of 8 groups of 32, 6 bits each, 128: of     q (d s) - (dmin m)
//               each 32 bytes the low halves are one group, the high halves the next
// Q5_K   256    d, dmin, 12 as Q4_K, 32: bit g of byte l is the fifth of element l of      q (d s) - (dmin m)
//               group g, 128 as Q4_K
// Q6_K   256    128 low halves, 64 upper pairs of bits, 16 int8 scales, d                  (q - 32) (d s)
// MXFP4  32     e8m0, 16 as Q4_0                                                           e2m1 2^(e - 127)
// NVFP4  64     4 scales, 32: 8 for each group of 16, as Q4_0 within the group             e2m1 s
//
// Source: ggml 0.25.3, ggml-common.h, ggml-quants.c. One difference: an e8m0 of 0xFF is NaN here, as in its standard; ggml takes
// it for 2^128.
#pragma once
#include <cstdint>
#include <utility>

#include <smalti/core/float.hpp>
#include <smalti/core/version.hpp>
#include <smalti/io/bytes.hpp>
#include <smalti/io/file_status.hpp>
#include <smalti/io/gguf.hpp>
#include <smalti/io/import.hpp>
#include <smalti/io/quantized.hpp>

namespace smalti::inline SMALTI_DATA::io {

namespace detail {

// What one type is to the common code: value = ..., groups of `group` codes, bits, offset of the code.
struct ggml_layout {
  int group = 0, bits = 0;
  code_kind kind = code_kind::integer;
  int zero = 0;  // 0: none, or a minimum
  bool minimum = false;
  scale_form form = scale_form::single;
};
constexpr ggml_layout layout(ggml_type type) {
  using form = scale_form;
  switch (type) {
    case ggml_type::q4_0: return {32, 4, code_kind::integer, 8, false, form::single};
    case ggml_type::q4_1: return {32, 4, code_kind::integer, 0, true, form::single};
    case ggml_type::q5_0: return {32, 5, code_kind::integer, 16, false, form::single};
    case ggml_type::q5_1: return {32, 5, code_kind::integer, 0, true, form::single};
    case ggml_type::q8_0: return {32, 8, code_kind::integer, 128, false, form::single};
    case ggml_type::q4_k: return {32, 4, code_kind::integer, 0, true, form::u6};
    case ggml_type::q5_k: return {32, 5, code_kind::integer, 0, true, form::u6};
    case ggml_type::q6_k: return {16, 6, code_kind::integer, 32, false, form::s8};
    case ggml_type::mxfp4: return {32, 4, code_kind::e2m1, 0, false, form::e8m0};
    case ggml_type::nvfp4: return {16, 4, code_kind::e2m1, 0, false, form::ue4m3_ggml};
    default: return {};
  }
}

inline float half_at(const std::uint8_t* p) { return to_float(fp16{std::uint16_t(p[0] | p[1] << 8)}); }

// Elements j and j + half of a run of 2 * half in nibbles.
inline void split_nibbles(const std::uint8_t* b, int half, std::uint8_t* out) {
  for (int j = 0; j < half; ++j) {
    out[j] = b[j] & 15;
    out[j + half] = b[j] >> 4;
  }
}
inline void add_fifth_bits(const std::uint8_t* b, std::uint8_t* out) {
  for (int j = 0; j < 32; ++j) out[j] = std::uint8_t(out[j] | (b[j / 8] >> (j % 8) & 1) << 4);
}

// The codes of one block.
inline void block_codes(ggml_type type, const std::uint8_t* b, std::uint8_t* out) {
  switch (type) {
    case ggml_type::q4_0: return split_nibbles(b + 2, 16, out);
    case ggml_type::q4_1: return split_nibbles(b + 4, 16, out);
    case ggml_type::q5_0: return split_nibbles(b + 6, 16, out), add_fifth_bits(b + 2, out);
    case ggml_type::q5_1: return split_nibbles(b + 8, 16, out), add_fifth_bits(b + 4, out);
    case ggml_type::q8_0:
      for (int j = 0; j < 32; ++j) out[j] = b[2 + j] ^ 0x80;
      return;
    case ggml_type::q4_k:
      for (int p = 0; p < 4; ++p) split_nibbles(b + 16 + 32 * p, 32, out + 64 * p);
      return;
    case ggml_type::q5_k:
      for (int p = 0; p < 4; ++p) split_nibbles(b + 48 + 32 * p, 32, out + 64 * p);
      for (int g = 0; g < 8; ++g)
        for (int l = 0; l < 32; ++l) out[32 * g + l] = std::uint8_t(out[32 * g + l] | (b[16 + l] >> g & 1) << 4);
      return;
    case ggml_type::q6_k:
      for (int h = 0; h < 2; ++h)
        for (int l = 0; l < 32; ++l) {
          const std::uint8_t *low = b + 64 * h, upper = b[128 + 32 * h + l];
          std::uint8_t* to = out + 128 * h + l;
          to[0] = std::uint8_t((low[l] & 15) | (upper & 3) << 4);
          to[32] = std::uint8_t((low[l + 32] & 15) | (upper >> 2 & 3) << 4);
          to[64] = std::uint8_t(low[l] >> 4 | (upper >> 4 & 3) << 4);
          to[96] = std::uint8_t(low[l + 32] >> 4 | (upper >> 6) << 4);
        }
      return;
    case ggml_type::mxfp4: return split_nibbles(b + 1, 16, out);
    case ggml_type::nvfp4:
      for (int g = 0; g < 4; ++g) split_nibbles(b + 4 + 8 * g, 8, out + 16 * g);
      return;
    default: return;
  }
}

inline void unpack_blocks(const quantized& q, std::int64_t first, std::int64_t count, std::uint8_t* out) {
  const auto type = ggml_type(q.from.format);
  const ggml_facts f = facts(type);
  const std::uint8_t* b = octets(q.from.data) + first * q.from.stride;  // rows follow each other without gaps
  for (std::int64_t left = count * (q.k / f.block); left > 0; --left, b += f.block_bytes, out += f.block) block_codes(type, b, out);
}

// Scale or minimum of group g of Q4_K and Q5_K from their 12 bytes.
constexpr std::uint8_t k_scale(const std::uint8_t* s, int g) {
  return std::uint8_t(g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4);
}
constexpr std::uint8_t k_minimum(const std::uint8_t* s, int g) {
  return std::uint8_t(g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | (s[g] >> 6) << 4);
}

inline float ue4m3_of_ggml(std::uint8_t code) {
  if (code == 0x7F) return 0;
  if (code == 0xFF) return 480;
  return to_float(fp8_e4m3{std::uint8_t(code & 0x7F)});
}

// The scales of one block, appended.
inline void block_scales(ggml_type type, const std::uint8_t* b, quantized& q) {
  const auto two_levels = [&](float d, float dmin) {
    for (int g = 0; g < 8; ++g) {
      q.stored.code.push_back(k_scale(b + 4, g));
      q.stored.minimum_code.push_back(k_minimum(b + 4, g));
      q.scale.push_back(d * float(q.stored.code.back()));
      q.minimum.push_back(-(dmin * float(q.stored.minimum_code.back())));
    }
    q.stored.super.push_back(d);
    q.stored.super_minimum.push_back(dmin);
  };
  switch (type) {
    case ggml_type::q4_1:
    case ggml_type::q5_1: q.minimum.push_back(half_at(b + 2)); [[fallthrough]];
    case ggml_type::q4_0:
    case ggml_type::q5_0:
    case ggml_type::q8_0: return q.scale.push_back(half_at(b));
    case ggml_type::q4_k:
    case ggml_type::q5_k: return two_levels(half_at(b), half_at(b + 2));
    case ggml_type::q6_k: {
      const float d = half_at(b + 208);
      for (int g = 0; g < 16; ++g) {
        q.stored.code.push_back(b[192 + g]);
        q.scale.push_back(d * float(std::int8_t(b[192 + g])));
      }
      return q.stored.super.push_back(d);
    }
    case ggml_type::mxfp4: return q.stored.code.push_back(b[0]), q.scale.push_back(to_float(e8m0{b[0]}));
    case ggml_type::nvfp4:
      for (int g = 0; g < 4; ++g) {
        q.stored.code.push_back(b[g]);
        q.scale.push_back(ue4m3_of_ggml(b[g]));
      }
      return;
    default: return;
  }
}

}  // namespace detail

//! Reads a quantized tensor of a GGUF file: extent {K, N}, or {K, N, experts, ...}, which becomes one matrix of N * experts rows.
//! Refused: types that are not in the table above (each by name: the file is sound), scales that are NaN or infinite.
//! Tensors of floats and integers are plain: see io/plain.hpp.
inline file_status import_tensor(const gguf_tensor& from, quantized& to, nan_rule nan = nan_rule::refuse) {
  to = {};
  const auto no = [&](file_rule rule, const char* what, std::uint64_t got = 0, std::uint64_t need = 0, std::uint64_t offset = 0) {
    return detail::refuse(rule, what, offset, from.name, got, need);
  };
  const detail::ggml_layout form = detail::layout(from.type);
  const ggml_facts f = facts(from.type);
  if (form.group == 0)
    return no(file_rule::unsupported,
              "of ggml's block types Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, MXFP4 and NVFP4 are imported: convert the model to "
              "one of them",
              std::uint64_t(from.type));
  quantized q;
  std::uint64_t rows = 1, all = std::uint64_t(from.extent[0] < 0 ? 0 : from.extent[0]);
  for (int i = 1; i < 4; ++i)
    if (from.extent[i] < 1 || !detail::multiply(rows, std::uint64_t(from.extent[i])))
      return no(file_rule::bad_shape, "a weight needs at least one row and one column");
  if (all == 0) return no(file_rule::bad_shape, "a weight needs at least one row and one column");
  const std::uint64_t per_row = all / std::uint64_t(f.block);
  std::uint64_t blocks = rows, bytes_needed = 0;
  if (all % std::uint64_t(f.block) != 0 || !detail::multiply(all, rows) || all > std::uint64_t(INT64_MAX) / 64 ||
      !detail::multiply(blocks, per_row) || (bytes_needed = blocks * std::uint64_t(f.block_bytes)) != from.data.size())
    return no(file_rule::size_mismatch, "a tensor's bytes are not those of its shape", from.data.size(), bytes_needed);
  q.n = std::int64_t(rows);
  q.k = from.extent[0];
  q.kind = form.kind;
  q.bits = form.bits;
  q.group_k = form.group;
  q.zero = form.zero != 0 ? zero_kind::constant : zero_kind::none;
  q.zero_point = form.zero;
  q.stored.form = form.form;
  const std::size_t groups = std::size_t(q.groups());
  q.scale.reserve(groups);
  if (form.minimum) q.minimum.reserve(groups);
  if (form.form == scale_form::u6 || form.form == scale_form::s8) q.stored.span = f.block / form.group;
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const std::size_t scales = q.scale.size(), minima = q.minimum.size();
    detail::block_scales(from.type, detail::octets(from.data) + i * std::uint64_t(f.block_bytes), q);
    bool good = true;
    for (std::size_t g = scales; g < q.scale.size(); ++g) good = good && detail::finite(q.scale[g]);
    for (std::size_t g = minima; g < q.minimum.size(); ++g) good = good && detail::finite(q.minimum[g]);
    if (!good && nan != nan_rule::keep)
      return no(file_rule::bad_code, "a scale is NaN or infinite: nan_rule::keep lets it pass", 0, 0, i * std::uint64_t(f.block_bytes));
  }
  q.from = {from.data, std::int64_t(per_row) * f.block_bytes, std::uint32_t(from.type)};
  q.unpack = detail::unpack_blocks;
  to = std::move(q);
  return {};
}

}  // namespace smalti::inline SMALTI_DATA::io
