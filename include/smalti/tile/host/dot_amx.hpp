// AMX: a tile register holds 16 rows of 16 words, and one instruction multiplies two of them. The left rows
// and the right panels lie in memory as the instruction wants them, so nothing is packed here.
#pragma once
#include <smalti/core/version.hpp>

#if SMALTI_DOT_LEVEL >= 4
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <smalti/tile/host/dot_block.hpp>

namespace smalti::inline SMALTI_CODE::host::detail {

//! Whether the processor has AMX for bf16 and int8 and the kernel lets this process use it. The kernel is asked
//! once; it grants the tile registers to all threads of the process.
inline bool amx_is_usable() {
  static const bool usable = [] {
    unsigned a, b, c, d;
    constexpr unsigned need = 1u << 22 | 1u << 24 | 1u << 25;   // bf16, tiles, int8
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & need) != need) return false;
    constexpr long request_permission = 0x1023, tile_data = 18; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return usable;
}

// The tile instructions of g++ 12 do not say which memory they read: plain stores must not move past them.
inline void amx_fence() { asm volatile("" ::: "memory"); }

// Tiles 0 to 3 are accumulators. With two groups of rows they are a square of 2 x 2, 4 and 5 the left operand,
// 6 and 7 the right one; with one group of rows they lie side by side, 4 is left and 5 to 7 are right.
// Other libraries load configurations of their own: each call loads its own and releases the tiles at its end.
inline void amx_configure(int top, int bottom, int words) {
  struct alignas(64) {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {};
    std::uint8_t rows[16] = {};
  } c;
  const auto set = [&](int tile, int rows, int bytes) {
    c.rows[tile] = std::uint8_t(rows);
    c.bytes[tile] = std::uint16_t(bytes);
  };
  if (bottom) {
    for (int i = 0; i < 2; ++i) {
      set(i, top, 64);
      set(2 + i, bottom, 64);
      set(6 + i, words, 64);
    }
    set(4, top, words * word);
    set(5, bottom, words * word);
  } else {
    for (int i = 0; i < 4; ++i) set(i, top, 64);
    set(4, top, words * word);
    for (int i = 5; i < 8; ++i) set(i, words, 64);
  }
  amx_fence();
  _tile_loadconfig(&c);
}

#define SMALTI_AMX_MULTIPLY(acc, left, right) \
  if constexpr (Pairs) _tile_dpbf16ps(acc, left, right); \
  else _tile_dpbssd(acc, left, right)

// Fresh: the sums begin with zero, whatever acc holds.
#define SMALTI_AMX_BEGIN(acc, p) \
  if constexpr (Fresh) _tile_zero(acc); \
  else _tile_loadd(acc, p, acc_stride)

// 17 to 32 rows, 32 or 16 columns
template <bool Pairs, bool Wide, bool Fresh>
void amx_square(char* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const char* right,
                std::int64_t right_stride, int count, int words) {
  char* low = acc + 16 * acc_stride;
  const char* left_low = left + 16 * left_stride;
  SMALTI_AMX_BEGIN(0, acc);
  SMALTI_AMX_BEGIN(2, low);
  if constexpr (Wide) {
    SMALTI_AMX_BEGIN(1, acc + 64);
    SMALTI_AMX_BEGIN(3, low + 64);
  }
  for (int s = 0; s < count; s += words) {
    _tile_loadd(6, right, right_stride);
    _tile_loadd(4, left, left_stride);
    SMALTI_AMX_MULTIPLY(0, 4, 6);
    _tile_loadd(5, left_low, left_stride);
    SMALTI_AMX_MULTIPLY(2, 5, 6);
    if constexpr (Wide) {
      _tile_loadd(7, right + 64, right_stride);
      SMALTI_AMX_MULTIPLY(1, 4, 7);
      SMALTI_AMX_MULTIPLY(3, 5, 7);
    }
    left += 64;
    left_low += 64;
    right += 16 * right_stride;
  }
  _tile_stored(0, acc, acc_stride);
  _tile_stored(2, low, acc_stride);
  if constexpr (Wide) {
    _tile_stored(1, acc + 64, acc_stride);
    _tile_stored(3, low + 64, acc_stride);
  }
}

// 1 to 16 rows, 16 * Tiles columns
template <bool Pairs, int Tiles, bool Fresh>
void amx_flat(char* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const char* right,
              std::int64_t right_stride, int count, int words) {
  SMALTI_AMX_BEGIN(0, acc);
  if constexpr (Tiles > 1) { SMALTI_AMX_BEGIN(1, acc + 64); }
  if constexpr (Tiles > 2) { SMALTI_AMX_BEGIN(2, acc + 128); }
  if constexpr (Tiles > 3) { SMALTI_AMX_BEGIN(3, acc + 192); }
  for (int s = 0; s < count; s += words) {
    _tile_loadd(4, left, left_stride);
    _tile_loadd(5, right, right_stride);
    SMALTI_AMX_MULTIPLY(0, 4, 5);
    if constexpr (Tiles > 1) {
      _tile_loadd(6, right + 64, right_stride);
      SMALTI_AMX_MULTIPLY(1, 4, 6);
    }
    if constexpr (Tiles > 2) {
      _tile_loadd(7, right + 128, right_stride);
      SMALTI_AMX_MULTIPLY(2, 4, 7);
    }
    if constexpr (Tiles > 3) {
      _tile_loadd(5, right + 192, right_stride);
      SMALTI_AMX_MULTIPLY(3, 4, 5);
    }
    left += 64;
    right += 16 * right_stride;
  }
  _tile_stored(0, acc, acc_stride);
  if constexpr (Tiles > 1) _tile_stored(1, acc + 64, acc_stride);
  if constexpr (Tiles > 2) _tile_stored(2, acc + 128, acc_stride);
  if constexpr (Tiles > 3) _tile_stored(3, acc + 192, acc_stride);
}
#undef SMALTI_AMX_MULTIPLY
#undef SMALTI_AMX_BEGIN

// `count` steps, in tiles of `words` steps, which divides it.
template <bool Pairs, bool Fresh>
void amx_steps(char* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const char* right,
               std::int64_t right_stride, int rows, int cols, int count, int words) {
  int r = 0;
  if (rows > 16) {
    int configured = 0;
    for (; rows - r > 16; r += 32) {
      const int bottom = rows - r < 32 ? rows - r - 16 : 16;
      if (bottom != configured) amx_configure(16, bottom, words);
      configured = bottom;
      char* c = acc + r * acc_stride;
      const char* a = left + r * left_stride;
      int n = 0;
      for (; n + 32 <= cols; n += 32)
        amx_square<Pairs, true, Fresh>(c + n * word, acc_stride, a, left_stride, right + n * word, right_stride, count, words);
      if (n < cols) amx_square<Pairs, false, Fresh>(c + n * word, acc_stride, a, left_stride, right + n * word, right_stride, count, words);
    }
  }
  if (r >= rows) return;
  amx_configure(rows - r, 0, words);
  acc += r * acc_stride;
  left += r * left_stride;
  int n = 0;
  for (; n + 64 <= cols; n += 64)
    amx_flat<Pairs, 4, Fresh>(acc + n * word, acc_stride, left, left_stride, right + n * word, right_stride, count, words);
  if (cols - n == 48) amx_flat<Pairs, 3, Fresh>(acc + n * word, acc_stride, left, left_stride, right + n * word, right_stride, count, words);
  if (cols - n == 32) amx_flat<Pairs, 2, Fresh>(acc + n * word, acc_stride, left, left_stride, right + n * word, right_stride, count, words);
  if (cols - n == 16) amx_flat<Pairs, 1, Fresh>(acc + n * word, acc_stride, left, left_stride, right + n * word, right_stride, count, words);
}

template <bool Pairs, bool Fresh = false>
void dot_amx(char* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const char* right,
             std::int64_t right_width, int rows, int cols, int count) {
  if (rows <= 0 || cols <= 0 || count <= 0) return;
  const std::int64_t right_stride = right_width * word;
  const int whole = count / 16 * 16;
  if (whole) amx_steps<Pairs, Fresh>(acc, acc_stride, left, left_stride, right, right_stride, rows, cols, whole, 16);
  if (whole < count) {
    const char *rest = left + whole * word, *below = right + whole * right_stride;
    if (Fresh && whole == 0) amx_steps<Pairs, true>(acc, acc_stride, rest, left_stride, below, right_stride, rows, cols, count, count);
    else amx_steps<Pairs, false>(acc, acc_stride, rest, left_stride, below, right_stride, rows, cols, count - whole, count - whole);
  }
  _tile_release();
  amx_fence();
}

}  // namespace smalti::inline SMALTI_CODE::host::detail
#endif
