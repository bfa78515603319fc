// AMX: a tile register holds 16 rows of 16 words, and one instruction multiplies two of them. The left rows
// and the right panels lie in memory as the instruction wants them, so nothing is packed here.
#pragma once
#include <smalti/core/version.hpp>

#if SMALTI_DOT_LEVEL >= 4
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <type_traits>

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

// To load a configuration and to release the tiles costs as much as thirty products of tiles. While a thread runs the
// blocks of a launch it keeps them (held_tiles), and a call finds what the last one loaded.
struct tile_state {
  int top = 0, bottom = 0, words = 0;
  bool held = false;
};
inline constinit thread_local tile_state tiles_of_this_thread{};

//! What every user of the tiles calls at its end.
inline void amx_release() {
  if (tiles_of_this_thread.held) return;
  _tile_release();
  tiles_of_this_thread = {};
}

//! In a scope of which products follow one another and no other code uses the tile registers.
class held_tiles {
public:
  held_tiles() : outer_(tiles_of_this_thread.held) { tiles_of_this_thread.held = true; }
  ~held_tiles() {
    if (outer_) return;
    if (tiles_of_this_thread.top != 0) _tile_release();
    tiles_of_this_thread = {};
  }
  held_tiles(const held_tiles&) = delete;
  held_tiles& operator=(const held_tiles&) = delete;

private:
  bool outer_;
};

// Tiles 0 to 3 are accumulators. With two groups of rows they are a square of 2 x 2, 4 and 5 the left operand,
// 6 and 7 the right one; with one group of rows they lie side by side, 4 is left and 5 to 7 are right.
// Other libraries load configurations of their own: outside of held_tiles each call loads its own and releases the
// tiles at its end.
inline void amx_configure(int top, int bottom, int words) {
  tile_state& now = tiles_of_this_thread;
  if (now.held && now.top == top && now.bottom == bottom && now.words == words) {
    amx_fence();
    return;
  }
  now.top = top, now.bottom = bottom, now.words = words;
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

// 64 rows, 16 columns
template <bool Pairs, bool Fresh>
void amx_tall(char* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const char* right, std::int64_t right_stride, int count, int words) {
  const std::int64_t acc_tile = 16 * acc_stride, left_tile = 16 * left_stride;
  SMALTI_AMX_BEGIN(0, acc);
  SMALTI_AMX_BEGIN(1, acc + acc_tile);
  SMALTI_AMX_BEGIN(2, acc + 2 * acc_tile);
  SMALTI_AMX_BEGIN(3, acc + 3 * acc_tile);
  for (int s = 0; s < count; s += words) {
    _tile_loadd(6, right, right_stride);
    _tile_loadd(4, left, left_stride);
    SMALTI_AMX_MULTIPLY(0, 4, 6);
    _tile_loadd(5, left + left_tile, left_stride);
    SMALTI_AMX_MULTIPLY(1, 5, 6);
    _tile_loadd(4, left + 2 * left_tile, left_stride);
    SMALTI_AMX_MULTIPLY(2, 4, 6);
    _tile_loadd(5, left + 3 * left_tile, left_stride);
    SMALTI_AMX_MULTIPLY(3, 5, 6);
    left += 64;
    right += 16 * right_stride;
  }
  _tile_stored(0, acc, acc_stride);
  _tile_stored(1, acc + acc_tile, acc_stride);
  _tile_stored(2, acc + 2 * acc_tile, acc_stride);
  _tile_stored(3, acc + 3 * acc_tile, acc_stride);
}

// 1 to 16 rows, 16 * Tiles columns; the third and the fourth lie `strip` bytes behind the first two. Ahead: as many steps of the 16 rows
// at `next` are fetched meanwhile, to the second-level cache.
template <bool Pairs, int Tiles, bool Fresh, bool Ahead = false>
void amx_flat(char* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const char* right,
              std::int64_t right_stride, std::int64_t strip, int count, int words, [[maybe_unused]] const char* next = nullptr) {
  SMALTI_AMX_BEGIN(0, acc);
  if constexpr (Tiles > 1) { SMALTI_AMX_BEGIN(1, acc + 64); }
  if constexpr (Tiles > 2) { SMALTI_AMX_BEGIN(2, acc + 128); }
  if constexpr (Tiles > 3) { SMALTI_AMX_BEGIN(3, acc + 192); }
  for (int s = 0; s < count; s += words) {
    _tile_loadd(4, left, left_stride);
    _tile_loadd(5, right, right_stride);
    SMALTI_AMX_MULTIPLY(0, 4, 5);
    if constexpr (Ahead) {
      for (int r = 0; r < 16; ++r) __builtin_prefetch(next + r * left_stride, 0, 2);
      next += 64;
    }
    if constexpr (Tiles > 1) {
      _tile_loadd(6, right + 64, right_stride);
      SMALTI_AMX_MULTIPLY(1, 4, 6);
    }
    if constexpr (Tiles > 2) {
      _tile_loadd(7, right + strip, right_stride);
      SMALTI_AMX_MULTIPLY(2, 4, 7);
    }
    if constexpr (Tiles > 3) {
      _tile_loadd(5, right + strip + 64, right_stride);
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

// A right operand for AMX: `row` bytes from step to step, `strip` bytes from 32 columns to the next 32. Packed in strips
// (row is 128 bytes), what is worked on at a time is one piece of memory; rows of 256 columns crowd into few sets of the
// first-level cache and drive each other out.
struct amx_right {
  const char* data;
  std::int64_t row, strip;
  const char* columns(int n) const { return data + n / 32 * strip + n % 32 * word; }
};

// Left rows that are used where they lie, pages apart: 16 of them at a time, each once for 64 columns, in parts of k for which those
// columns stay in the first-level cache. The rows come from memory for the first columns, while the ones before are multiplied: they are
// as many streams, which the processor does not follow by itself. (8 weights of 2048 x 2048 by 64 rows each: 7.0 ms by squares, 6.0 so.)
template <bool Pairs, bool Fresh>
void amx_streamed(char* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const amx_right& right, int rows, int cols, int count, int words) {
  constexpr int part = 128;      // steps: 32 KiB of 64 columns
  amx_configure(16, 0, words);
  for (int n = 0; n < cols; n += 64)
    for (int s = 0; s < count; s += part)
      for (int r = 0; r < rows; r += 16) {
        const int some = count - s < part ? count - s : part;
        const char* const at = left + r * left_stride + s * word;
        const char* const next = r + 16 < rows ? at + 16 * left_stride : s + part < count ? left + (s + part) * word : left + rows * left_stride;
        const auto go = [&](auto tiles, auto fresh, auto ahead) {
          amx_flat<Pairs, decltype(tiles)::value, decltype(fresh)::value, decltype(ahead)::value>(acc + r * acc_stride + n * word, acc_stride, at, left_stride, right.columns(n) + s * right.row, right.row, right.strip, some, words, next);
        };
        const auto with = [&](auto tiles) {
          constexpr std::true_type yes{};
          constexpr std::false_type no{};
          constexpr std::bool_constant<Fresh> fresh{};
          if (Fresh && s == 0) n == 0 ? go(tiles, fresh, yes) : go(tiles, fresh, no);
          else n == 0 ? go(tiles, no, yes) : go(tiles, no, no);
        };
        if (cols - n >= 64) with(std::integral_constant<int, 4>{});
        else if (cols - n == 48) with(std::integral_constant<int, 3>{});
        else if (cols - n == 32) with(std::integral_constant<int, 2>{});
        else with(std::integral_constant<int, 1>{});
      }
}

// `count` steps, in tiles of `words` steps, which divides it.
template <bool Pairs, bool Fresh>
void amx_steps(char* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const amx_right& right,
               int rows, int cols, int count, int words) {
  int r = 0;
  const auto square = [&](int r, int n) {
    const auto at = [&](auto wide) {
      amx_square<Pairs, decltype(wide)::value, Fresh>(acc + r * acc_stride + n * word, acc_stride, left + r * left_stride, left_stride, right.columns(n), right.row, count, words);
    };
    if (n + 32 <= cols) at(std::true_type{});
    else at(std::false_type{});
  };
  constexpr std::int64_t beside = 1024;   // bytes: rows farther apart come from memory as one stream each, and 64 streams are too many to be fetched ahead
  if (cols > 32 && rows >= 32 && rows % 16 == 0 && count > 128 && left_stride > beside && right.row == 32 * word) return amx_streamed<Pairs, Fresh>(acc, acc_stride, left, left_stride, right, rows, cols, count, words);
  if (rows >= 64 && cols == 16 && left_stride <= beside) {
    // Many left rows for few columns: four sums at work, or each would wait for itself.
    amx_configure(16, 16, words);
    for (; r + 64 <= rows; r += 64)
      amx_tall<Pairs, Fresh>(acc + r * acc_stride, acc_stride, left + r * left_stride, left_stride, right.columns(0), right.row, count, words);
    for (; r + 32 <= rows; r += 32) square(r, 0);
  } else if (rows >= 32) {
    amx_configure(16, 16, words);
    constexpr int near = 32 << 10;   // left rows that stay in the first-level cache beside a strip
    if (rows / 32 * 32 * count * word <= near) {
      for (int n = 0; n < cols; n += 32)
        for (r = 0; r + 32 <= rows; r += 32) square(r, n);
    } else {
      for (; r + 32 <= rows; r += 32)
        for (int n = 0; n < cols; n += 32) square(r, n);
    }
  }
  if (rows - r > 16) {
    amx_configure(16, rows - r - 16, words);
    for (int n = 0; n < cols; n += 32) square(r, n);
    return;
  }
  if (r >= rows) return;
  amx_configure(rows - r, 0, words);
  acc += r * acc_stride;
  left += r * left_stride;
  int n = 0;
  for (; n + 64 <= cols; n += 64)
    amx_flat<Pairs, 4, Fresh>(acc + n * word, acc_stride, left, left_stride, right.columns(n), right.row, right.strip, count, words);
  if (cols - n == 48) amx_flat<Pairs, 3, Fresh>(acc + n * word, acc_stride, left, left_stride, right.columns(n), right.row, right.strip, count, words);
  if (cols - n == 32) amx_flat<Pairs, 2, Fresh>(acc + n * word, acc_stride, left, left_stride, right.columns(n), right.row, right.strip, count, words);
  if (cols - n == 16) amx_flat<Pairs, 1, Fresh>(acc + n * word, acc_stride, left, left_stride, right.columns(n), right.row, right.strip, count, words);
}

//! `strip`: bytes from 32 columns of the right operand to the next 32; 128 where rows of right_width columns lie in one piece.
template <bool Pairs, bool Fresh = false>
void dot_amx(char* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const char* right,
             std::int64_t right_width, int rows, int cols, int count, std::int64_t strip = 32 * word) {
  if (rows <= 0 || cols <= 0 || count <= 0) return;
  const std::int64_t right_stride = right_width * word;
  const int whole = count / 16 * 16;
  if (whole) amx_steps<Pairs, Fresh>(acc, acc_stride, left, left_stride, {right, right_stride, strip}, rows, cols, whole, 16);
  if (whole < count) {
    const char* rest = left + whole * word;
    const amx_right below{right + whole * right_stride, right_stride, strip};
    if (Fresh && whole == 0) amx_steps<Pairs, true>(acc, acc_stride, rest, left_stride, below, rows, cols, count, count);
    else amx_steps<Pairs, false>(acc, acc_stride, rest, left_stride, below, rows, cols, count - whole, count - whole);
  }
  amx_release();
  amx_fence();
}

}  // namespace smalti::inline SMALTI_CODE::host::detail
#endif
