// Vectors of four words in the compiler's own vector types: any processor that g++ or clang knows.
#pragma once
#include <smalti/tile/host/dot_block.hpp>

namespace smalti::inline SMALTI_CODE::host::detail {

struct portable_vector {
  using floats = float __attribute__((vector_size(16)));
  using ints = std::int32_t __attribute__((vector_size(16)));
  using words = std::uint32_t __attribute__((vector_size(16)));
  using shorts = std::int16_t __attribute__((vector_size(16)));
  static constexpr int width = 4, rows = 4, vectors = 2, widen_panel_from = 12;

  template <class T> static T get(const char* p) { T x; std::memcpy(&x, p, sizeof(x)); return x; }
  template <class T> static void put(char* p, T x) { std::memcpy(p, &x, sizeof(x)); }
  static floats load_floats(const char* p) { return get<floats>(p); }
  static void store_floats(char* p, floats x) { put(p, x); }
  static floats broadcast_float(const char* p) { const float x = get<float>(p); return floats{x, x, x, x}; }
  static floats multiply_add(floats a, floats b, floats c) { return a * b + c; }
  static floats low_halves(const char* p) { return (floats)(get<words>(p) << 16); }
  static floats high_halves(const char* p) { return (floats)(get<words>(p) & 0xffff0000u); }
  static floats widened(const char* p) {            // four bf16
    using halves = std::uint16_t __attribute__((vector_size(8)));
    return (floats)(__builtin_convertvector(get<halves>(p), words) << 16);
  }
  static ints load_ints(const char* p) { return get<ints>(p); }
  static void store_ints(char* p, ints x) { put(p, x); }
  static ints broadcast_int(const char* p) { const auto x = get<std::int32_t>(p); return ints{x, x, x, x}; }
  static ints even_bytes(const char* p) { return (ints)((shorts)(get<words>(p) << 8 & 0xff00ff00u) >> 8); }
  static ints odd_bytes(const char* p) { return (ints)(get<shorts>(p) >> 8); }
  // Sums wrap modulo 2^32, hence the unsigned additions.
  static ints add_pairs(ints s, ints a, ints b) {
#if defined(__SSE2__)
    const ints t = (ints)__builtin_ia32_pmaddwd128((shorts)a, (shorts)b);
    return (ints)((words)s + (words)t);
#else
    const ints low = ((ints)((words)a << 16) >> 16) * ((ints)((words)b << 16) >> 16), high = (a >> 16) * (b >> 16);
    return (ints)((words)s + (words)low + (words)high);
#endif
  }
};

}  // namespace smalti::inline SMALTI_CODE::host::detail
