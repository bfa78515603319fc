// Packed codes to operands on the host. A word of a column holds quads: at position p of part `w` bits wide, four codes of
// neighbouring k lie in its four bytes, at bit w p of each (policy/word_planes.hpp, Run 4). One shift and one `and` a
// part, and an `or` for each further part, give a word of four whole codes; what becomes of it depends on the operand:
// bytes for the 8-bit dot, two words of bf16 pairs, four rows of floats.
#pragma once
#include <cstdint>
#include <cstring>
#include <smalti/core/float.hpp>
#include <smalti/core/version.hpp>
#include <smalti/policy/codecs/element.hpp>
#include <smalti/policy/codecs/integer.hpp>
#include <smalti/policy/integer_scale.hpp>
#include <smalti/policy/word_planes.hpp>
#include <smalti/tile/host/lanes.hpp>
#include <smalti/tile/host/pack.hpp>
#include <smalti/tile/host/panels.hpp>
#if SMALTI_DOT_LEVEL >= 2
#  include <immintrin.h>
#endif

namespace smalti::inline SMALTI_CODE::host {

//! Where the words of one depth-tile's columns lie, part by part: part p at data[p] + word * stride[p], the first `rows` words of it.
template <int Parts> struct word_parts {
  const std::uint32_t* data[Parts];
  std::int64_t stride[Parts];
  int rows = 1 << 30;
};

namespace detail {

template <class... Int> constexpr int least(int a, Int... b) { return ((a = b < a ? b : a), ..., a); }

template <class Codec> constexpr bool is_integer_codec = false;
template <int Bits, int Offset> constexpr bool is_integer_codec<policy::offset_int<Bits, Offset>> = true;
template <class Codec> concept float_format_codec = requires { typename Codec::storage; };

//! The values of a codec, rounded to T, as floats.
template <class Codec, class T> struct alignas(64) value_table {
  float v[1 << Codec::bits < 16 ? 16 : 1 << Codec::bits] = {};
  constexpr value_table() {
    for (unsigned c = 0; c < 1u << Codec::bits; ++c) v[c] = smalti::to_float(smalti::narrow<T>(Codec::value(c)));
  }
};
//! As 16-bit patterns: bf16, or integers. Repeated up to 32: a permute of 16-bit lanes looks at five bits of its index.
template <class Codec, bool Integers> struct alignas(64) half_table {
  static constexpr int size = Codec::bits <= 5 ? 32 : 64;
  std::uint16_t v[size] = {};
  constexpr half_table() {
    for (int i = 0; i < size; ++i) {
      const float x = Codec::value(unsigned(i) & ((1u << Codec::bits) - 1));
      if constexpr (Integers) v[i] = std::uint16_t(int(x * policy::integer_scale<Codec>));
      else v[i] = smalti::narrow<bf16>(x).bits;
    }
  }
};

//! Sixteen codes as the nearest values of T.
template <class Codec, class T> floats values(ints codes) {
  if constexpr (is_integer_codec<Codec>) {
    return to_float(codes - Codec::offset);
  } else if constexpr (float_format_codec<Codec>) {
    return widen<typename Codec::storage>(codes);      // exact in bf16 and fp16, whatever the format
  } else {
    static constexpr value_table<Codec, T> table;
#if SMALTI_DOT_LEVEL >= 2
    if constexpr (Codec::bits <= 4) {
      floats r;
      r.v[0] = (float_part)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)codes.v[0], _mm512_load_ps(table.v));
      return r;
    }
#endif
    return lookup(table.v, codes, 1 << Codec::bits);
  }
}

// The quad of word `i`, columns n to n + 15, of depth-tile Tile: four whole codes in four bytes.
template <int Tile, class Planes, int Part = 0> [[gnu::always_inline]] inline ints quad(const word_parts<Planes::parts>& w, int i, int n) {
  constexpr int width = Planes::width(Part), place = width * Planes::position(Tile, Part);
  constexpr int keep = int(((1u << width) - 1) * 0x01010101u);
  const ints words = read(reinterpret_cast<const int*>(w.data[Part] + i * w.stride[Part] + n));
  ints codes = (place == 0 ? words : words >> place) & ints(keep);
  if constexpr (Planes::shift(Part) != 0) codes = codes << Planes::shift(Part);
  if constexpr (Part + 1 < Planes::parts) codes = codes | quad<Tile, Planes, Part + 1>(w, i, n);
  return codes;
}
inline ints byte_of(ints quads, int h) { return (h == 0 ? quads : quads >> (8 * h)) & ints(255); }

#if SMALTI_DOT_LEVEL >= 2
// Two codes at bits 0 and 16 to two 16-bit patterns.
template <class Codec, bool Integers> [[gnu::always_inline]] inline __m512i halves(__m512i codes) {
  if constexpr (!Integers && Codec::bits == 8) {
    return to_bf16<typename Codec::storage>(codes);
  } else {
    static constexpr half_table<Codec, Integers> table;
    if constexpr (Codec::bits <= 5) return _mm512_permutexvar_epi16(codes, _mm512_load_si512(table.v));
    else return _mm512_permutex2var_epi16(_mm512_load_si512(table.v), codes, _mm512_load_si512(table.v + 32));
  }
}
using words_vector = std::uint32_t __attribute__((vector_size(64)));
#endif

// ---- one quad to its places in a panel

template <class Codec> [[gnu::always_inline]] inline void put_quad(std::int8_t* out, ints quads) {
  if constexpr (is_integer_codec<Codec>) {
    using bytes = std::uint8_t __attribute__((vector_size(register_bytes)));
    const ints values = each_part<ints>([&](int p) { return (int_part)((bytes)quads.v[p] - std::uint8_t(Codec::offset)); });
    std::memcpy(out, &values, 64);
  } else {
#if SMALTI_DOT_LEVEL >= 2
    if constexpr (Codec::bits <= 6) {
      const auto q = (words_vector)quads.v[0];
      const auto even = (words_vector)halves<Codec, true>((__m512i)(q & 0x00ff00ffu)), odd = (words_vector)halves<Codec, true>((__m512i)(q >> 8 & 0x00ff00ffu));
      const words_vector values = (even & 0x00ff00ffu) | (odd & 0x00ff00ffu) << 8;
      std::memcpy(out, &values, 64);
      return;
    }
#endif
    ints values(0);
    for (int h = 0; h < 4; ++h)
      values = values | (to_int(detail::values<Codec, float>(byte_of(quads, h)) * policy::integer_scale<Codec>) & ints(255)) << (8 * h);
    std::memcpy(out, &values, 64);
  }
}
//! `near` gets the pairs of k 0 and 1, `far` those of 2 and 3.
template <class Codec> [[gnu::always_inline]] inline void put_quad(bf16* near, bf16* far, ints quads) {
#if SMALTI_DOT_LEVEL >= 2
  if constexpr (Codec::bits <= 6 || float_format_codec<Codec>) {
    const auto q = (words_vector)quads.v[0];
    constexpr std::uint32_t keep = Codec::bits <= 6 ? 0xffffffffu : 0x00ff00ffu;    // a permute looks at the last places of an index only
    const auto even = (words_vector)halves<Codec, false>((__m512i)(q & keep)), odd = (words_vector)halves<Codec, false>((__m512i)(q >> 8 & keep));
    const words_vector low = (even & 0xffffu) | odd << 16, high = even >> 16 | (odd & 0xffff0000u);
    std::memcpy(static_cast<void*>(near), &low, 64);
    std::memcpy(static_cast<void*>(far), &high, 64);
    return;
  }
#endif
  ints v[4];
  for (int h = 0; h < 4; ++h) {
    const floats x = detail::values<Codec, bf16>(byte_of(quads, h));
    v[h] = float_bits(x);                              // rounded to bf16 already: the lower half is zero
  }
  const ints upper(int(0xffff0000u)), low = (v[0] >> 16 & ints(0xffff)) | (v[1] & upper), high = (v[2] >> 16 & ints(0xffff)) | (v[3] & upper);
  std::memcpy(static_cast<void*>(near), &low, 64);
  std::memcpy(static_cast<void*>(far), &high, 64);
}

}  // namespace detail

//! Depth-tile `Tile` of packed columns as a right panel of depth 4 * Words; of a word tile that ends early, as much as is there. Asks:
//! for its share of the next word tile, too.
template <int Tile, int Words, class Panel, class Codec, bool Asks = true> void unpack_codes(typename Panel::array& out, const word_parts<policy::word_planes<Codec::bits, 4, Words>::parts>& w, Codec) {
  using planes = policy::word_planes<Codec::bits, 4, Words>;
  using storage = typename Panel::storage;
  static_assert(Panel::rows == planes::depth, "smalti: an operand of packed codes has the depth of its layout");
  constexpr int N = Panel::cols;
  const int rows = w.rows < Words ? w.rows : Words;
#if SMALTI_DOT_LEVEL >= 2
  // The next word tile arrives while this one computes: each position asks for its share of it. Without this memory time and
  // compute time add up, since a word tile is longer than the processor looks ahead.
  constexpr int sharers = planes::positions(0), part = Tile % sharers;
  const std::uint32_t* next = w.data[0] + (rows + Words * part / sharers) * w.stride[0];
  constexpr int prefetched = Words * (part + 1) / sharers - Words * part / sharers;
#endif
  for (int i = 0; i < rows; ++i) {
#if SMALTI_DOT_LEVEL >= 2
    if (Asks && i < prefetched)
      for (int n = 0; n < N; n += 16) _mm_prefetch(reinterpret_cast<const char*>(next + i * w.stride[0] + n), _MM_HINT_T0);
#endif
    for (int n = 0; n < N; n += lane_count) {
      const ints quads = detail::quad<Tile, planes>(w, i, n);
      if constexpr (std::is_same_v<storage, std::int8_t>) {
        detail::put_quad<Codec>(Panel::at(out, 4 * i, n), quads);
      } else if constexpr (std::is_same_v<storage, bf16>) {
        detail::put_quad<Codec>(Panel::at(out, 4 * i, n), Panel::at(out, 4 * i + 2, n), quads);
      } else {
        for (int h = 0; h < 4; ++h) write(Panel::at(out, 4 * i + h, n), detail::values<Codec, typename Panel::element>(detail::byte_of(quads, h)));
      }
    }
  }
}

//! The same, each value less its zero and times its scale: rounded_as<element>((value - zero) * scale). `scale` and `zero` are
//! rows of N floats, one for every `group` values of k; zero may be null.
template <int Tile, int Words, class Panel, class Codec>
void unpack_scaled(typename Panel::array& out, const word_parts<policy::word_planes<Codec::bits, 4, Words>::parts>& w, Codec, const float* scale, const float* zero,
                   int group) {
  using planes = policy::word_planes<Codec::bits, 4, Words>;
  using storage = typename Panel::storage;
  static_assert(!std::is_same_v<storage, std::int8_t>, "smalti: integer operands hold codes: keep their scales for the accumulator");
  constexpr int N = Panel::cols;
  for (int i = 0; i < Words && i < w.rows; ++i) {
    for (int n = 0; n < N; n += lane_count) {
      const ints quads = detail::quad<Tile, planes>(w, i, n);
      floats v[4];
      for (int h = 0; h < 4; ++h) {
        const int row = (4 * i + h) / group;
        floats x = detail::values<Codec, float>(detail::byte_of(quads, h));
        if (zero != nullptr) x = x - read(zero + row * N + n);
        v[h] = x * read(scale + row * N + n);
      }
      if constexpr (std::is_same_v<storage, bf16>) {
        for (int h = 0; h < 4; h += 2) {
          const ints low = detail::narrow_code<bf16>(v[h]) & ints(0xffff), high = detail::narrow_code<bf16>(v[h + 1]) << 16, pair = low | high;
          std::memcpy(static_cast<void*>(Panel::at(out, 4 * i + h, n)), &pair, 64);
        }
      } else {
        for (int h = 0; h < 4; ++h) {
          alignas(64) typename Panel::element rounded[lane_count];
          write(rounded, v[h]);
          write(Panel::at(out, 4 * i + h, n), read(rounded));
        }
      }
    }
  }
}

}  // namespace smalti::inline SMALTI_CODE::host
