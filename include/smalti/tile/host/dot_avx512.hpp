// Vectors of sixteen words, AVX-512; with AVX512-BF16 and VNNI the pair and quad instructions as well.
#pragma once
#include <smalti/core/version.hpp>

#if SMALTI_DOT_LEVEL >= 2
#include <immintrin.h>
#if SMALTI_DOT_LEVEL >= 3
#  include <cpuid.h>
#endif

#include <smalti/tile/host/dot_block.hpp>

namespace smalti::inline SMALTI_CODE::host::detail {

struct avx512_vector {
  using floats = __m512;
  using ints = __m512i;
  // Shifts in the compiler's own vector types: g++ 12 warns inside its header's shift functions.
  using words = std::uint32_t __attribute__((vector_size(64)));
  using shorts = std::int16_t __attribute__((vector_size(64)));
  using unsigned_shorts = std::uint16_t __attribute__((vector_size(64)));
  // 6 x 4 uses 24 + 4 + 1 of 32 registers
  static constexpr int width = 16, rows = 6, vectors = 4, widen_panel_from = 18;

  static floats load_floats(const char* p) { return _mm512_loadu_ps(p); }
  static void store_floats(char* p, floats x) { _mm512_storeu_ps(p, x); }
  static floats broadcast_float(const char* p) {
    float x;
    std::memcpy(&x, p, sizeof(x));
    return _mm512_set1_ps(x);
  }
  static floats multiply_add(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
  static floats low_halves(const char* p) { return (floats)((words)load_ints(p) << 16); }
  static floats high_halves(const char* p) { return (floats)((words)load_ints(p) & 0xffff0000u); }
  static floats widened(const char* p) {            // sixteen bf16
    using halves = std::uint16_t __attribute__((vector_size(32)));
    halves h;
    std::memcpy(&h, p, sizeof(h));
    return (floats)(__builtin_convertvector(h, words) << 16);
  }
  static ints load_ints(const char* p) { return _mm512_loadu_si512(p); }
  static void store_ints(char* p, ints x) { _mm512_storeu_si512(p, x); }
  static ints broadcast_int(const char* p) {
    int x;
    std::memcpy(&x, p, sizeof(x));
    return _mm512_set1_epi32(x);
  }
  static ints even_bytes(const char* p) { return (ints)((shorts)((unsigned_shorts)load_ints(p) << 8) >> 8); }
  static ints odd_bytes(const char* p) { return (ints)((shorts)load_ints(p) >> 8); }
  static ints add_pairs(ints s, ints a, ints b) { return _mm512_add_epi32(s, _mm512_madd_epi16(a, b)); }
};

#if SMALTI_DOT_LEVEL >= 3
//! Whether vdpbf16ps beats two multiply-adds on widened pairs. On Intel's processors it does a pair in the time of
//! four multiply-adds (measured on Sapphire Rapids: 107 against 211 GFLOP/s); on AMD's, Zen 4 and newer, it runs
//! every cycle. Asked once: cpuid traps in a virtual machine.
inline bool pair_instruction_is_faster() {
  static const bool faster = [] {
    unsigned a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d)) return false;
    const auto vendor = [&](const char* name) {
      return std::memcmp(name, &b, 4) == 0 && std::memcmp(name + 4, &d, 4) == 0 && std::memcmp(name + 8, &c, 4) == 0;
    };
    return vendor("AuthenticAMD") || vendor("HygonGenuine");
  }();
  return faster;
}

// vdpbf16ps: a pair of bf16 products an accumulator and instruction. Subnormal operands and results count as
// zero; the odd product is added first, then the even one, each rounded to nearest even.
struct pair_steps : avx512_vector {
  using sum = __m512;
  using operand = __m512i;
  static constexpr int parts = 1;
  static constexpr bool prepares = false, corrects = false;
  static sum load(const char* p) { return load_floats(p); }
  static void store(char* p, sum x) { store_floats(p, x); }
  static operand right(int, const char* p) { return load_ints(p); }
  static operand left(const char* p) { return broadcast_int(p); }
  static sum add(sum s, operand a, operand b) { return _mm512_dpbf16_ps(s, (__m512bh)a, (__m512bh)b); }
};

// vpdpbusd multiplies unsigned by signed bytes: the left ones are offset by 128, and 128 times the sum of each
// right column is taken off the accumulators before. Everything wraps modulo 2^32, so the result is exact.
struct quad_steps : avx512_vector {
  using sum = __m512i;
  using operand = __m512i;
  static constexpr int parts = 1;
  static constexpr bool prepares = true, corrects = true;
  static sum load(const char* p) { return load_ints(p); }
  static void store(char* p, sum x) { store_ints(p, x); }
  static operand right(int, const char* p) { return load_ints(p); }
  static operand left(const char* p) { return broadcast_int(p); }
  static sum add(sum s, operand a, operand b) { return _mm512_dpbusd_epi32(s, a, b); }
  static operand prepare(int, const char* p) { return _mm512_xor_si512(load_ints(p), _mm512_set1_epi8(char(0x80))); }
  static void keep(char* p, operand x) { store_ints(p, x); }
  static sum subtract(sum s, const std::int32_t* correction) { return _mm512_sub_epi32(s, _mm512_loadu_si512(correction)); }
  // 128 * (sum of each column): from the caller's sums once, or from these steps
  static void correct(std::int32_t* out, const char* right, std::int64_t right_stride, int cols, int count,
                      const std::int32_t* right_sums, bool first) {
    for (int n = 0; n < cols; n += width) {
      __m512i s = _mm512_setzero_si512();
      if (right_sums) {
        if (first) s = (ints)((words)_mm512_loadu_si512(right_sums + n) << 7);
      } else {
        __m512i t = s;
        const char* p = right + n * word;
        int i = 0;
        for (; i + 2 <= count; i += 2, p += 2 * right_stride) {
          s = _mm512_dpbusd_epi32(s, _mm512_set1_epi8(char(0x80)), load_ints(p));
          t = _mm512_dpbusd_epi32(t, _mm512_set1_epi8(char(0x80)), load_ints(p + right_stride));
        }
        if (i < count) s = _mm512_dpbusd_epi32(s, _mm512_set1_epi8(char(0x80)), load_ints(p));
        s = _mm512_add_epi32(s, t);
      }
      _mm512_storeu_si512(out + n, s);
    }
  }
};
#endif

}  // namespace smalti::inline SMALTI_CODE::host::detail
#endif
