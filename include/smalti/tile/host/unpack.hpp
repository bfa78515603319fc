// Packed four-bit codes to bf16 on the host: a table of sixteen values serves any code.
#pragma once
#include <cstdint>
#include <smalti/core/version.hpp>
#if SMALTI_DOT_LEVEL >= 2
#  include <immintrin.h>
#endif
#include <smalti/core/float.hpp>

namespace smalti::inline SMALTI_CODE::host {

template <class Codec> struct alignas(64) nibble_table {
  std::uint16_t v[32];                       // twice: a permute of 16-bit lanes looks at five bits of its index
  constexpr nibble_table() : v{} {
    for (int i = 0; i < 32; ++i) v[i] = narrow<bf16>(float(i % 16 - Codec::offset)).bits;
  }
};

//! Plane `Plane` of the words of a tile's columns as a right panel: bits 4p and 16 + 4p of each word.
template <int Plane, class Panel, class Codec>
inline void unpack_nibbles(typename Panel::array& out, const std::uint32_t* data, std::int64_t stride, Codec) {
  static constexpr nibble_table<Codec> table;
  constexpr int N = Panel::cols, words = Panel::rows / 2;
#if SMALTI_DOT_LEVEL >= 2
  const __m512i values = _mm512_load_si512(table.v), low = _mm512_set1_epi32(0x000f000f);
  // The next group arrives while this one computes: each plane asks for a quarter of it. Without this memory time
  // and compute time add up, since a group is longer than the processor looks ahead.
  const std::uint32_t* next = data + words * stride + Plane * words * N / 4;
  for (int i = 0; i < words; ++i, next += N / 4) {
    for (int n = 0; n < N / 4; n += 16) _mm_prefetch(reinterpret_cast<const char*>(next + n), _MM_HINT_T0);
    for (int n = 0; n < N; n += 16) {
      const __m512i code = _mm512_and_si512(_mm512_srli_epi32(_mm512_loadu_si512(data + i * stride + n), 4 * Plane), low);
      _mm512_store_si512(Panel::at(out, 2 * i, n), _mm512_permutexvar_epi16(code, values));
    }
  }
#else
  for (int i = 0; i < words; ++i)
    for (int n = 0; n < N; ++n)
      for (int half = 0; half < 2; ++half) Panel::at(out, 2 * i, n)[half].bits = table.v[data[i * stride + n] >> (16 * half + 4 * Plane) & 15];
#endif
}

}  // namespace smalti::inline SMALTI_CODE::host
