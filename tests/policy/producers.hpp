// The golden files' own layouts, read code by code into rows of plain codes: written from the layout descriptions, apart
// from the library's readers.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>
#include <smalti/core/float.hpp>
#include "support/golden.hpp"

namespace producers {

using bytes = std::vector<std::uint8_t>;

inline bytes raw(const golden::test_case& c, const std::string& role) {
  const std::string text = c[role].bytes;
  return bytes(text.begin(), text.end());
}
inline std::vector<std::uint32_t> words(const golden::test_case& c, const std::string& role) {
  const std::string text = c[role].bytes;
  std::vector<std::uint32_t> w(text.size() / 4);
  std::memcpy(w.data(), text.data(), text.size());
  return w;
}
// F32, F16 or BF16 as floats.
inline std::vector<float> floats(const golden::test_case& c, const std::string& role) {
  const golden::tensor t = c[role];
  if (t.dtype == "F32") return t.as<float>();
  std::vector<float> out;
  for (const std::uint16_t b : t.as<std::uint16_t>()) out.push_back(t.dtype == "F16" ? smalti::to_float(smalti::fp16{b}) : smalti::to_float(smalti::bf16{b}));
  return out;
}
inline smalti::fp16 half_at(const std::uint8_t* p) { return {std::uint16_t(p[0] | p[1] << 8)}; }

inline bytes nibbles(const bytes& b, bool high_first = false) {
  bytes out;
  for (const std::uint8_t x : b) out.push_back(high_first ? x >> 4 : x & 15), out.push_back(high_first ? x & 15 : x >> 4);
  return out;
}
// Code i of a stream of bits, lowest first.
inline unsigned bits_at(const std::uint32_t* w, long long i, int bits, long long stride = 1) {
  unsigned code = 0;
  for (int b = 0; b < bits; ++b) {
    const long long at = i * bits + b;
    code |= (w[at / 32 * stride] >> at % 32 & 1u) << b;
  }
  return code;
}

// One GGUF block: codes in order, and what belongs to each group of them.
struct gguf_block {
  bytes codes;
  std::vector<float> first, second;     // stored scales and minima, one a group, as numbers
  float d = 1, dmin = 0;                // second level
};
inline gguf_block read_gguf(const std::string& name, const std::uint8_t* b) {
  using smalti::to_float;
  gguf_block out;
  auto split_half = [&](const std::uint8_t* q, int half) {
    for (int j = 0; j < half; ++j) out.codes.push_back(q[j] & 15);
    for (int j = 0; j < half; ++j) out.codes.push_back(q[j] >> 4);
  };
  if (name == "q4_0" || name == "q4_1" || name == "q5_0" || name == "q5_1") {
    const bool five = name[1] == '5', minimum = name[3] == '1';
    out.first = {to_float(half_at(b))};
    if (minimum) out.second = {to_float(half_at(b + 2))};
    const std::uint8_t* p = b + (minimum ? 4 : 2);
    std::uint32_t high = 0;
    if (five) std::memcpy(&high, p, 4), p += 4;
    split_half(p, 16);
    for (int i = 0; i < 32 && five; ++i) out.codes[i] |= std::uint8_t((high >> i & 1) << 4);
  } else if (name == "q8_0") {
    out.first = {to_float(half_at(b))};
    for (int i = 0; i < 32; ++i) out.codes.push_back(std::uint8_t(b[2 + i] + 128));
  } else if (name == "q4_k" || name == "q5_k") {
    out.d = to_float(half_at(b)), out.dmin = to_float(half_at(b + 2));
    const std::uint8_t* s = b + 4;
    for (int j = 0; j < 8; ++j) {
      out.first.push_back(float(j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4));
      out.second.push_back(float(j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4));
    }
    const bool five = name == "q5_k";
    const std::uint8_t *high = b + 16, *low = b + (five ? 48 : 16);
    for (int j = 0; j < 8; ++j)
      for (int l = 0; l < 32; ++l) {
        const unsigned q = j % 2 ? low[32 * (j / 2) + l] >> 4 : low[32 * (j / 2) + l] & 15;
        out.codes.push_back(std::uint8_t(q | (five ? (high[l] >> j & 1u) << 4 : 0u)));
      }
  } else if (name == "q6_k") {
    out.d = to_float(half_at(b + 208));
    for (int j = 0; j < 16; ++j) out.first.push_back(float(std::int8_t(b[192 + j])));
    out.codes.resize(256);
    for (int h = 0; h < 2; ++h)
      for (int l = 0; l < 32; ++l) {
        const std::uint8_t *ql = b + 64 * h, qh = b[128 + 32 * h + l];
        out.codes[128 * h + l] = std::uint8_t((ql[l] & 15) | (qh & 3) << 4);
        out.codes[128 * h + l + 32] = std::uint8_t((ql[l + 32] & 15) | (qh >> 2 & 3) << 4);
        out.codes[128 * h + l + 64] = std::uint8_t(ql[l] >> 4 | (qh >> 4 & 3) << 4);
        out.codes[128 * h + l + 96] = std::uint8_t(ql[l + 32] >> 4 | (qh >> 6) << 4);
      }
  } else if (name == "mxfp4") {
    out.first = {float(b[0])};
    split_half(b + 1, 16);
  } else if (name == "nvfp4") {
    for (int s = 0; s < 4; ++s) out.first.push_back(float(b[s])), split_half(b + 4 + 8 * s, 8);
  }
  return out;
}

// Codes of GPTQ's qweight (or of the planar variant) of column n.
inline unsigned gptq_code(const std::uint32_t* w, int k, int bits, int n, int stride, bool planar) {
  if (!planar) return bits_at(w + n, k, bits, stride);
  unsigned code = 0;
  for (int part = 8, row = 0, shift = 0; part != 0; part /= 2)
    if (bits & part) {
      code |= bits_at(w + n + (long long)(k / 32 * bits + row) * stride, k % 32, part, stride) << shift;
      row += part, shift += part;
    }
  return code;
}
// AWQ: nibble [0, 4, 1, 5, 2, 6, 3, 7][j % 8] of word j / 8.
inline unsigned awq_code(const std::uint32_t* row, int j) {
  constexpr int place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  return row[j / 8] >> (4 * place[j % 8]) & 15;
}

}  // namespace producers
