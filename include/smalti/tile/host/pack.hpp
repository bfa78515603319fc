// How rows of memory become the operands of an inner product: conversions that fill up with zeros, rows
// interleaved into words, and blocks of words transposed.
#pragma once
#include <concepts>
#include <cstdint>
#include <cstring>

#include <smalti/core/float.hpp>
#include <smalti/core/version.hpp>
#include <smalti/tile/host/dot_block.hpp>
#include <smalti/tile/host/lanes.hpp>
#include <smalti/tile/mutant.hpp>
#if SMALTI_DOT_LEVEL >= 1
#  include <immintrin.h>
#endif

namespace smalti::inline SMALTI_CODE::host {

namespace detail {

template <class T> concept fp8_to_bf16 = std::same_as<T, fp8_e4m3> || std::same_as<T, fp8_e5m2>;

#if SMALTI_DOT_LEVEL >= 2
// The codes of the subnormals, then whatever: a permute of 16-bit lanes looks at five bits of its index.
template <class T> struct alignas(64) subnormal_table {
  std::uint16_t v[32] = {};
  constexpr subnormal_table() {
    for (unsigned i = 0; i < 1u << format<T>::fraction; ++i) v[i] = smalti::narrow<bf16>(to_float(T{std::uint8_t(i)})).bits;
  }
};
template <class T> inline constexpr subnormal_table<T> subnormals{};

// 32 codes, zero extended to 16 bits: shift the magnitude into place and move the exponent, but look subnormals up.
template <fp8_to_bf16 T> inline __m512i to_bf16(__m512i code) {
  using form = format<T>;
  using shorts = std::uint16_t __attribute__((vector_size(64)));
  constexpr int shift = 7 - form::fraction;
  const shorts magnitude = (shorts)code & std::uint16_t(form::magnitude);
  const shorts sign = ((shorts)code & std::uint16_t(0x80)) << 8;
  const __m512i normal = (__m512i)((magnitude << shift) + std::uint16_t((127 - form::bias) << 7));
  const __mmask32 small = _mm512_cmplt_epu16_mask((__m512i)magnitude, _mm512_set1_epi16(1 << form::fraction));
  __m512i x = _mm512_mask_permutexvar_epi16(normal, small, (__m512i)magnitude, _mm512_load_si512(subnormals<T>.v));
  if constexpr (form::at_top == top::infinities)
    x = _mm512_mask_mov_epi16(x, _mm512_cmpeq_epi16_mask((__m512i)magnitude, _mm512_set1_epi16(form::infinity)), _mm512_set1_epi16(0x7f80));
  constexpr int last_number = form::at_top == top::infinities ? int(form::infinity) : int(form::largest);
  x = _mm512_mask_mov_epi16(x, _mm512_cmpgt_epu16_mask((__m512i)magnitude, _mm512_set1_epi16(last_number)), _mm512_set1_epi16(0x7fc0));
  return _mm512_or_si512(x, (__m512i)sign);
}
#else
template <class T> struct bf16_table {
  bf16 v[256] = {};
  constexpr bf16_table() {
    for (int i = 0; i < 256; ++i) v[i] = smalti::narrow<bf16>(to_float(T{std::uint8_t(i)}));
  }
};
template <class T> inline constexpr bf16_table<T> bf16_of{};
#endif

// `count` elements, converted; nothing behind them is read or written.
template <class To, class From> inline void convert(To* out, const From* in, int count) {
  if constexpr (std::same_as<To, From>) {
    if (count > 0) std::memcpy(static_cast<void*>(out), in, std::size_t(count) * sizeof(To));
  } else if constexpr (std::same_as<To, bf16> && fp8_to_bf16<From>) {
#if SMALTI_DOT_LEVEL >= 2
    int i = 0;
    for (; i + 32 <= count; i += 32)
      _mm512_storeu_si512(out + i, to_bf16<From>(_mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i)))));
    if (i < count) {
      const __mmask32 rest = (1u << (count - i)) - 1;
      _mm512_mask_storeu_epi16(out + i, rest, to_bf16<From>(_mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(rest, in + i))));
    }
#else
    for (int i = 0; i < count; ++i) out[i] = bf16_of<From>.v[in[i].bits];
#endif
  } else {
    int i = 0;
    for (; i + lane_count <= count; i += lane_count) write(out + i, read(in + i));
    if (i < count && !mutant(defect::convert_drops_remainder)) write(out + i, read(in + i, count - i), count - i);
  }
}

}  // namespace detail

//! out[i] = in[i] for i < count, 0 for count <= i < width; converts, rounding to nearest even as core/float.hpp does.
//!
//! @pre  0 <= count <= width; `in` may be null when count is 0; exactly `count` elements are read
//! @note bits are those of narrow<To>(to_float(x)), save for the payload of a NaN
template <class To, class From> inline void fetch(To* out, const From* in, int count, int width) {
  detail::convert(out, in, count);
  if (count < width && !mutant(defect::fetch_leaves_tail)) std::memset(static_cast<void*>(out + count), 0, std::size_t(width - count) * sizeof(To));
}

//! Two packs to 32 elements, rounded to nearest even. To bf16 by one instruction where there is one: subnormal values then
//! become zero, as they count in the products that it comes with.
template <class T> inline void write_pair(T* p, floats first, floats second) {
#if SMALTI_DOT_LEVEL >= 3
  if constexpr (std::same_as<T, bf16>) {
    _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh((__m512)second.v[0], (__m512)first.v[0]));
    return;
  }
#endif
  write(p, first);
  write(p + lane_count, second);
}

//! out[2 * i] = even[i], out[2 * i + 1] = odd[i]: two rows of a right operand become one row of words.
//! @pre n is a multiple of 16
inline void interleave_pairs(bf16* out, const bf16* even, const bf16* odd, int n) {
  using detail::half_part, detail::read_bits;
  for (int i = 0; i < n; i += lane_count) {
    const ints x = read_bits<half_part>(even + i) | read_bits<half_part>(odd + i) << 16;
    std::memcpy(static_cast<void*>(out + 2 * i), &x, 64);
  }
}

//! out[4 * i + j] = row j's element i: four rows of a right operand become one row of words.
//! @pre n is a multiple of 16
inline void interleave_quads(std::int8_t* out, const std::int8_t* row0, const std::int8_t* row1, const std::int8_t* row2,
                             const std::int8_t* row3, int n) {
  using bytes = std::uint8_t __attribute__((vector_size(16)));
  using shorts = std::uint16_t __attribute__((vector_size(16)));
  for (int i = 0; i < n; i += 16) {
    bytes a, b, c, d;
    std::memcpy(&a, row0 + i, 16);
    std::memcpy(&b, row1 + i, 16);
    std::memcpy(&c, row2 + i, 16);
    std::memcpy(&d, row3 + i, 16);
    const auto ab_low = (shorts)__builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const auto ab_high = (shorts)__builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    const auto cd_low = (shorts)__builtin_shufflevector(c, d, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const auto cd_high = (shorts)__builtin_shufflevector(c, d, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    // stored one by one: gathered in an array, g++ loads it whole before the parts have left the store buffer
    const auto put = [&](int at, shorts quads) { std::memcpy(out + 4 * i + at, &quads, 16); };
    put(0, __builtin_shufflevector(ab_low, cd_low, 0, 8, 1, 9, 2, 10, 3, 11));
    put(16, __builtin_shufflevector(ab_low, cd_low, 4, 12, 5, 13, 6, 14, 7, 15));
    put(32, __builtin_shufflevector(ab_high, cd_high, 0, 8, 1, 9, 2, 10, 3, 11));
    put(48, __builtin_shufflevector(ab_high, cd_high, 4, 12, 5, 13, 6, 14, 7, 15));
  }
}

#if SMALTI_DOT_LEVEL == 1
namespace detail {
// 8 x 8 words from rows of any alignment
inline void transpose_eight(char* out, std::int64_t out_stride, const void* const* rows, int offset) {
  __m256 r[8], t[8];
  SMALTI_UNROLL
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(static_cast<const char*>(rows[i]) + offset));
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
    r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(reinterpret_cast<float*>(out + i * out_stride), _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(reinterpret_cast<float*>(out + (i + 4) * out_stride), _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}
}  // namespace detail
#endif

//! Word i of rows[j] becomes word j of row i of `out`, i, j < 16: how columns in memory become a right operand.
//! @param out_stride  words from row to row of `out`
inline void transpose_words(void* out, std::int64_t out_stride, const void* const (&rows)[16]) {
  char* to = static_cast<char*>(out);
  const std::int64_t stride = out_stride * 4;
#if SMALTI_DOT_LEVEL >= 2
  // The compiler's own shuffles: g++ 12 warns inside its header's ones.
  using words = std::uint32_t __attribute__((vector_size(64)));
  words r[16], t[16];
  SMALTI_UNROLL
  for (int i = 0; i < 16; ++i) std::memcpy(&r[i], rows[i], 64);
  SMALTI_UNROLL
  for (int i = 0; i < 8; ++i) {   // within each quarter of a vector: words of two rows, then of four
    const words a = r[2 * i], b = r[2 * i + 1];
    t[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    t[2 * i + 1] = __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  }
  SMALTI_UNROLL
  for (int i = 0; i < 4; ++i)
    SMALTI_UNROLL
    for (int j = 0; j < 2; ++j) {
      const words a = t[4 * i + j], b = t[4 * i + 2 + j];
      r[4 * i + 2 * j] = __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
      r[4 * i + 2 * j + 1] = __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
  SMALTI_UNROLL
  for (int half = 0; half < 2; ++half)   // then whole quarters: twice the even ones, or the odd ones, of two vectors
    SMALTI_UNROLL
    for (int i = 0; i < 4; ++i) {
      const words a = r[8 * half + i], b = r[8 * half + i + 4];
      t[8 * half + i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
      t[8 * half + i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    }
  SMALTI_UNROLL
  for (int i = 0; i < 8; ++i) {
    const words a = t[i], b = t[i + 8];
    const words low = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    const words high = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    std::memcpy(to + i * stride, &low, 64);
    std::memcpy(to + (i + 8) * stride, &high, 64);
  }
#elif SMALTI_DOT_LEVEL == 1
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 16; j += 8) detail::transpose_eight(to + i * stride + j * 4, stride, rows + j, i * 4);
#else
  for (int i = 0; i < 16; ++i) {
    std::uint32_t line[16];
    for (int j = 0; j < 16; ++j) std::memcpy(&line[j], static_cast<const char*>(rows[j]) + i * 4, 4);
    std::memcpy(to + i * stride, line, 64);
  }
#endif
}
//! The same of the first four words of each row alone: four rows of `out`.
inline void transpose_four(void* out, std::int64_t out_stride, const void* const (&rows)[16]) {
  using words = std::uint32_t __attribute__((vector_size(16)));
  char* to = static_cast<char*>(out);
  SMALTI_UNROLL
  for (int i = 0; i < 16; i += 4) {
    words r[4], t[4];
    SMALTI_UNROLL
    for (int j = 0; j < 4; ++j) std::memcpy(&r[j], rows[i + j], 16);
    SMALTI_UNROLL
    for (int j = 0; j < 2; ++j) t[2 * j] = __builtin_shufflevector(r[2 * j], r[2 * j + 1], 0, 4, 1, 5), t[2 * j + 1] = __builtin_shufflevector(r[2 * j], r[2 * j + 1], 2, 6, 3, 7);
    SMALTI_UNROLL
    for (int j = 0; j < 4; ++j) {
      const words a = t[j / 2], b = t[j / 2 + 2];
      const words row = j % 2 ? __builtin_shufflevector(a, b, 2, 3, 6, 7) : __builtin_shufflevector(a, b, 0, 1, 4, 5);
      std::memcpy(to + j * out_stride * 4 + i * 4, &row, 16);
    }
  }
}
//! The same for rows `in_stride` words apart.
inline void transpose_words(std::uint32_t* out, std::int64_t out_stride, const std::uint32_t* in, std::int64_t in_stride) {
  const void* rows[16];
  for (int i = 0; i < 16; ++i) rows[i] = in + i * in_stride;
  transpose_words(out, out_stride, rows);
}

}  // namespace smalti::inline SMALTI_CODE::host
