// Vectors of eight words, AVX2 and FMA.
#pragma once
#include <smalti/core/version.hpp>

#if SMALTI_DOT_LEVEL >= 1
#include <immintrin.h>

#include <smalti/tile/host/dot_block.hpp>

namespace smalti::inline SMALTI_CODE::host::detail {

struct avx2_vector {
  using floats = __m256;
  using ints = __m256i;
  using words = std::uint32_t __attribute__((vector_size(32)));
  using shorts = std::int16_t __attribute__((vector_size(32)));
  using unsigned_shorts = std::uint16_t __attribute__((vector_size(32)));
  // 6 x 2 uses 12 + 2 + 1 of 16 registers
  static constexpr int width = 8, rows = 6, vectors = 2, widen_panel_from = 18;

  static floats load_floats(const char* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
  static void store_floats(char* p, floats x) { _mm256_storeu_ps(reinterpret_cast<float*>(p), x); }
  static floats broadcast_float(const char* p) {
    float x;
    std::memcpy(&x, p, sizeof(x));
    return _mm256_set1_ps(x);
  }
  static floats multiply_add(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
  static floats low_halves(const char* p) { return (floats)((words)load_ints(p) << 16); }
  static floats high_halves(const char* p) { return (floats)((words)load_ints(p) & 0xffff0000u); }
  static floats widened(const char* p) {            // eight bf16
    using halves = std::uint16_t __attribute__((vector_size(16)));
    halves h;
    std::memcpy(&h, p, sizeof(h));
    return (floats)(__builtin_convertvector(h, words) << 16);
  }
  static ints load_ints(const char* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static void store_ints(char* p, ints x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
  static ints broadcast_int(const char* p) {
    int x;
    std::memcpy(&x, p, sizeof(x));
    return _mm256_set1_epi32(x);
  }
  static ints even_bytes(const char* p) { return (ints)((shorts)((unsigned_shorts)load_ints(p) << 8) >> 8); }
  static ints odd_bytes(const char* p) { return (ints)((shorts)load_ints(p) >> 8); }
  static ints add_pairs(ints s, ints a, ints b) { return _mm256_add_epi32(s, _mm256_madd_epi16(a, b)); }
};

}  // namespace smalti::inline SMALTI_CODE::host::detail
#endif
