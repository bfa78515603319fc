// Elements whose meaning is a table: NF4 and FP4 of bitsandbytes, and the 8-bit dynamic map of its double
// quantization.
#pragma once
#include <cstdint>
#include <smalti/core/float.hpp>
#include <smalti/policy/codecs/element.hpp>

namespace smalti::inline SMALTI_DATA::policy {

namespace detail {

// The codes in the order of their values; of two codes with one value only the lower.
template <class C> struct sorted_codes {
  static constexpr int all = 1 << C::bits;
  unsigned code[all];
  float middle[all];    // middle[i]: between code[i] and code[i + 1]
  int count;
  constexpr sorted_codes() : code{}, middle{}, count(0) {
    float value[all] = {};
    for (unsigned c = 0; c < unsigned(all); ++c) {
      const float v = C::value(c);
      int at = count;
      for (; at > 0 && value[at - 1] > v; --at) {}
      if (at > 0 && value[at - 1] == v) continue;
      for (int i = count; i > at; --i) code[i] = code[i - 1], value[i] = value[i - 1];
      code[at] = c, value[at] = v;
      ++count;
    }
    for (int i = 0; i + 1 < count; ++i) middle[i] = 0.5f * (value[i] + value[i + 1]);
  }
};

// The nearest code of a table. tie::even takes the even place in the order of values; NaN the code of zero.
template <class C> SMALTI_HD constexpr unsigned nearest_code(float x, tie ties) {
  constexpr sorted_codes<C> sorted{};
  if (is_nan(x)) return padding_code<C>;
  int lower = 0, upper = sorted.count - 1;      // the answer is in [lower, upper]
  while (lower < upper) {
    const int at = (lower + upper) / 2;
    const float m = sorted.middle[at];
    const bool above = x > m || (x == m && goes_up(0.5f, ties, at % 2 == 0, x < 0.0f));
    if (above) lower = at + 1;
    else upper = at;
  }
  return sorted.code[lower];
}

// As a rule says; for rules that are not to_nearest, whose middles are the producer's floats.
template <class C, class Rule> SMALTI_HD constexpr unsigned code_by(float x, Rule rule) {
  constexpr sorted_codes<C> sorted{};
  if (is_nan(x)) return padding_code<C>;
  if (x <= C::value(sorted.code[0])) return sorted.code[0];
  if (x >= C::value(sorted.code[sorted.count - 1])) return sorted.code[sorted.count - 1];
  int lower = 0, upper = sorted.count - 1;      // value(lower) <= x < value(upper)
  while (upper - lower > 1) {
    const int at = (lower + upper) / 2;
    if (C::value(sorted.code[at]) <= x) lower = at;
    else upper = at;
  }
  const float low = C::value(sorted.code[lower]), high = C::value(sorted.code[upper]);
  const float rest = x < 0.0f ? (high - x) / (high - low) : (x - low) / (high - low);
  const bool away = rule(rest, (x < 0.0f ? upper : lower) % 2 == 0, x < 0.0f);
  return sorted.code[(x < 0.0f) == away ? lower : upper];
}

// A tree of selects over patterns of T, two codes at a time: bit b of a code chooses between the halves of a table.
// Constants of the lowest level cost one logic operation each, every further choice one.
template <class C, class T, int Bit, unsigned First, class Masks> SMALTI_HD constexpr auto choose(const Masks& mask) {
  if constexpr (Bit == 0) {
    constexpr std::uint32_t zero = twice(narrow<T>(C::value(First)).bits), one = twice(narrow<T>(C::value(First + 1)).bits);
    return (mask.v[0] & std::uint32_t(zero ^ one)) ^ std::uint32_t(zero);
  } else {
    const auto zero = choose<C, T, Bit - 1, First>(mask), one = choose<C, T, Bit - 1, First + (1u << Bit)>(mask);
    return ((zero ^ one) & mask.v[Bit]) ^ zero;
  }
}
template <class V, int Bits> struct bit_masks { V v[Bits]; };

}  // namespace detail

//! What table codecs share. Table: bits, value(code), zero_code.
template <class Table>
struct table_codec : Table {
  SMALTI_HD static constexpr unsigned encode(float x, tie ties = tie::down) { return detail::nearest_code<Table>(x, ties); }
  template <class Rule> SMALTI_HD static constexpr unsigned encode_by(float x, Rule rule) {
    if constexpr (std::is_same_v<Rule, to_nearest>) return encode(x, rule.ties);
    else return detail::code_by<Table>(x, rule);
  }

  template <class T> static constexpr bool has_bias_pairs = false;
  template <class T> static constexpr float bias = 0.0f;
  template <class T> static constexpr float factor = 1.0f;
  //! The values rounded to T, to the nearest even.
  template <class T, class V> SMALTI_HD static constexpr auto pairs(V codes) {
    static_assert(detail::is_operand<T>, "smalti: pairs of codes become pairs of bf16 or fp16");
    if constexpr (Table::sign_and_magnitude) {
      const detail::bit_masks<V, 3> mask{detail::half_mask(codes, 0), detail::half_mask(codes, 1), detail::half_mask(codes, 2)};
      return detail::choose<Table, T, 2, 0u>(mask) | (codes << std::uint32_t(12) & std::uint32_t(0x80008000u));
    } else {
      const detail::bit_masks<V, 4> mask{detail::half_mask(codes, 0), detail::half_mask(codes, 1), detail::half_mask(codes, 2), detail::half_mask(codes, 3)};
      return detail::choose<Table, T, 3, 0u>(mask);
    }
  }
};

namespace detail {

struct nf4_table {
  static constexpr int bits = 4, zero_code = 7;
  static constexpr bool sign_and_magnitude = false;
  SMALTI_HD static constexpr float value(unsigned code) {
    constexpr float table[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
                                 -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
                                 0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f,
                                 0.7229568362236023f, 1.0f};
    return table[code & 15];
  }
};

struct fp4_table {
  static constexpr int bits = 4, zero_code = 0;
  static constexpr bool sign_and_magnitude = true;
  SMALTI_HD static constexpr float value(unsigned code) {
    constexpr float table[8] = {0.0f, 0.0625f / 12, 8.0f / 12, 1.0f, 4.0f / 12, 6.0f / 12, 2.0f / 12, 3.0f / 12};
    return code & 8 ? -table[code & 7] : table[code & 7];
  }
};

// Seven decades of 1, 2, 4, ... 64 values, each the middle of an equal part of [0.1, 1], negative and positive; 0
// and 1. Boundaries come from the nearer end with one rounding, as torch.linspace has them with FMA; double holds the
// sum exactly. Checkpoints carry the table they were made with, which may differ from this one in the last place.
struct dynamic_map_table {
  static constexpr int bits = 8, zero_code = 127;
  SMALTI_HD static constexpr float boundary(int i, int parts) {
    const float step = (1.0f - 0.1f) / float(parts);
    return float(i < (parts + 1) / 2 ? double(0.1f) + double(step) * i : 1.0 - double(step) * (parts - i));
  }
  SMALTI_HD static constexpr float value(unsigned code) {
    if (code == 127) return 0.0f;
    if (code == 255) return 1.0f;
    const int rank = int(code < 127 ? 127 - code : code - 127);   // 1 is the least magnitude
    int decade = 0;
    for (; rank >> (decade + 1) != 0;) ++decade;
    const int part = rank - (1 << decade), parts = 1 << decade;
    const float middle = (boundary(part, parts) + boundary(part + 1, parts)) / 2.0f;
    constexpr float tenth[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    return (code < 127 ? -tenth[decade] : tenth[decade]) * middle;
  }
};

}  // namespace detail

//! NF4: the quantiles of a normal distribution, asymmetric, 0 is code 7. Ties go down, to the lower code.
//! @note source: bitsandbytes (QLoRA, arXiv:2305.14314)
struct nf4 : table_codec<detail::nf4_table> {};

//! FP4 of bitsandbytes: a sign and {0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4}. Codes do not rise with values, and it is not
//! e2m1. encode never makes code 8 (-0).
struct fp4 : table_codec<detail::fp4_table> {};

//! The signed 8-bit dynamic map of bitsandbytes: what double quantization stores the block maxima as.
struct dynamic_map : detail::dynamic_map_table {
  SMALTI_HD static constexpr unsigned encode(float x, tie ties = tie::down) { return detail::nearest_code<detail::dynamic_map_table>(x, ties); }
};

//! A block maximum that was quantized once more: dynamic_map(code) * outer + mean, two roundings as bitsandbytes has them.
inline float double_quantized_scale(unsigned code, float outer, float mean) { return rounded(dynamic_map::value(code) * outer) + mean; }

}  // namespace smalti::inline SMALTI_DATA::policy
