// The inner products of the host machine: acc[rows][cols] += left[rows][k] * right[k][cols], in f32, bf16 and
// int8. What they are made of is decided by the compiler's flags (SMALTI_DOT_LEVEL, core/version.hpp):
//
//   level          f32         bf16                                     int8
//   4 amx          FMA         AMX tiles, else as level 3               AMX tiles, else as level 3
//   3 avx512bf16   FMA         dpbf16, or FMA on widened pairs: see     VNNI
//                              pair_instruction_is_faster
//   2 avx512       FMA         FMA on widened pairs                     16-bit products of split bytes
//   1 avx2         FMA         FMA on widened pairs                     16-bit products of split bytes
//   0 portable     a * b + c   a * b + c on widened pairs               16-bit products of split bytes
//
// Which instructions run is a function of the level and of cpuid alone (and, for AMX, of the kernel's consent):
// never of rows, columns or the thread. So a row's bits do not depend on the rows beside it.
#pragma once
#if defined(__CUDACC__)
#  error "smalti: the host machine does not build inside a .cu file: put host calls in a .cpp file of their own"
#endif
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <smalti/core/float.hpp>
#include <smalti/core/version.hpp>
#if SMALTI_DOT_LEVEL >= 2
#  include <smalti/tile/host/dot_avx512.hpp>
#elif SMALTI_DOT_LEVEL == 1
#  include <smalti/tile/host/dot_avx2.hpp>
#else
#  include <smalti/tile/host/dot_portable.hpp>
#endif
#if SMALTI_DOT_LEVEL >= 4
#  include <smalti/tile/host/dot_amx.hpp>
#endif

namespace smalti::inline SMALTI_CODE::host {

namespace detail {
#if SMALTI_DOT_LEVEL >= 2
using dot_vector = avx512_vector;
#elif SMALTI_DOT_LEVEL == 1
using dot_vector = avx2_vector;
#else
using dot_vector = portable_vector;
#endif
inline char* bytes(void* p) { return static_cast<char*>(p); }
inline const char* bytes(const void* p) { return static_cast<const char*>(p); }
}  // namespace detail

//! acc[r, n] += sum over p of left[r, p] * right[p, n], in f32
//!
//! @param acc    strides count elements; 64-byte aligned rows are fastest, none are required
//! @param left   rows of any stride and alignment: exactly rows x k elements are read, so it may be the user's memory
//! @param right  [k][right_width]; points at the first column wanted
//! @pre  cols is a multiple of 16; rows, k >= 0; acc overlaps neither operand
//! @note the products of a result are added in the order of p, each by one fused multiply-add (level 0: a product
//!       and a sum, which the compiler may fuse); infinities, NaN and subnormals behave as in IEEE 754
inline void dot(float* acc, std::int64_t acc_stride, const float* left, std::int64_t left_stride, const float* right,
                std::int64_t right_width, int rows, int cols, int k) {
  using namespace detail;
  dot_panel<float_steps<dot_vector>>(bytes(acc), acc_stride * word, bytes(left), left_stride * word, bytes(right), right_width,
                                     rows, cols, k);
}

//! The same with the left operand across: sixteen rows of it are neighbouring elements, [rows / 16][k][16], `left_stride` from sixteen rows to
//! the next. The same bits.
inline void dot_across(float* acc, std::int64_t acc_stride, const float* left, std::int64_t left_stride, const float* right, std::int64_t right_width, int rows, int cols,
                       int k) {
  using namespace detail;
  dot_panel_across<float_steps<dot_vector>>(bytes(acc), acc_stride * word, bytes(left), left_stride * word, bytes(right), right_width, rows, cols, k);
}

//! acc[r, n] += sum over p of left[r, p] * right[p, n], bf16 operands, sums in f32
//!
//! @param right  pairs of rows interleaved: [k / 2][right_width][2]
//! @pre  k is even; else as for f32. Nothing is read beyond rows x k elements of left
//! @note Products of two bf16 are exact in f32; what is rounded, to nearest even, are the sums:
//!       widened FMA: after each product, in the order of p; subnormals are kept (levels 0 to 2, and 3 on processors
//!       that prefer it);
//!       dpbf16: after each product, the odd one of a pair before the even one; subnormal operands and sums count as zero;
//!       AMX: for each 32 values of k (fewer at the end) even and odd products are summed apart, the two sums are
//!       added, then that to acc; subnormal operands and sums count as zero.
//!       In each case |error| <= (k + 2) 2^-24 (|acc| + sum over p of |left[r, p] right[p, n]|), and where subnormals
//!       count as zero 2^-126 more for each sum and 2^-126 |other operand| for each such operand.
inline void dot(float* acc, std::int64_t acc_stride, const bf16* left, std::int64_t left_stride, const bf16* right,
                std::int64_t right_width, int rows, int cols, int k) {
  using namespace detail;
#if SMALTI_DOT_LEVEL >= 4
  if (amx_is_usable()) {
    dot_amx<true>(bytes(acc), acc_stride * word, bytes(left), left_stride * 2, bytes(right), right_width, rows, cols, k / 2);
    return;
  }
#endif
#if SMALTI_DOT_LEVEL >= 3
  if (pair_instruction_is_faster()) {
    dot_panel<pair_steps>(bytes(acc), acc_stride * word, bytes(left), left_stride * 2, bytes(right), right_width, rows, cols, k / 2);
    return;
  }
#endif
  dot_widened<dot_vector>(bytes(acc), acc_stride * word, bytes(left), left_stride * 2, bytes(right), right_width, rows, cols, k / 2);
}

//! acc[r, n] += sum over p of left[r, p] * right[p, n], int8 operands, modulo 2^32: exact at every level
//!
//! @param right       quads of rows interleaved: [k / 4][right_width][4]
//! @param right_sums  optional: the sum over p of right[p, n] for each of the columns. VNNI needs it and otherwise
//!                    computes it, which costs as much as one more row; the other ways ignore it
//! @param strip       optional: elements from 64 columns of `right` to the next 64, where they do not lie side by side
//! @pre  k is a multiple of 4; else as for f32. Nothing is read beyond rows x k elements of left
inline void dot(std::int32_t* acc, std::int64_t acc_stride, const std::int8_t* left, std::int64_t left_stride,
                const std::int8_t* right, std::int64_t right_width, int rows, int cols, int k,
                const std::int32_t* right_sums = nullptr, std::int64_t strip = 0) {
  using namespace detail;
#if SMALTI_DOT_LEVEL >= 4
  if (amx_is_usable()) {
    dot_amx<false>(bytes(acc), acc_stride * word, bytes(left), left_stride, bytes(right), right_width, rows, cols, k / 4);
    return;
  }
#endif
#if SMALTI_DOT_LEVEL >= 3
  using steps = quad_steps;
#else
  using steps = split_quad_steps<dot_vector>;
#endif
  dot_quads<steps>(bytes(acc), acc_stride * word, bytes(left), left_stride, bytes(right), right_width, rows, cols, k / 4, right_sums, strip);
}

//! acc[r, n] = sum over p of left[r, p] * right[p, n]: the products of bf16 and of int8 from zero, whatever acc holds.
//! @param strip  as for int8; bf16 has none
//! @pre   k > 0
template <class Acc, class T>
void dot_anew(Acc* acc, std::int64_t acc_stride, const T* left, std::int64_t left_stride, const T* right, std::int64_t right_width, int rows, int cols, int k,
              [[maybe_unused]] std::int64_t strip = 0) {
  constexpr bool pairs = std::is_same_v<T, bf16>;
  static_assert(pairs || std::is_same_v<T, std::int8_t>);
#if SMALTI_DOT_LEVEL >= 4
  using namespace detail;
  if (amx_is_usable()) {
    constexpr int size = int(sizeof(T)), per_word = word / size;
    dot_amx<pairs, true>(bytes(acc), acc_stride * word, bytes(left), left_stride * size, bytes(right), right_width, rows, cols, k / per_word);
    return;
  }
#endif
  for (int r = 0; r < rows; ++r) std::memset(acc + r * acc_stride, 0, std::size_t(cols) * sizeof(Acc));
  if constexpr (pairs) dot(acc, acc_stride, left, left_stride, right, right_width, rows, cols, k);
  else dot(acc, acc_stride, left, left_stride, right, right_width, rows, cols, k, nullptr, strip);
}

//! Products of bf16, added or (Fresh) from zero, with the columns of the right operand in strips of 32, each [k of the panel / 2][32][2], `strip`
//! elements from one to the next.
template <bool Fresh>
void dot_strips(float* acc, std::int64_t acc_stride, const bf16* left, std::int64_t left_stride, const bf16* right, std::int64_t strip, int rows, int cols, int k) {
#if SMALTI_DOT_LEVEL >= 4
  using namespace detail;
  if (amx_is_usable()) {
    dot_amx<true, Fresh>(bytes(acc), acc_stride * word, bytes(left), left_stride * 2, bytes(right), 32, rows, cols, k / 2, strip * 2);
    return;
  }
#endif
  for (int n = 0; n < cols; n += 32) {
    const int wide = cols - n < 32 ? cols - n : 32;
    if constexpr (Fresh) dot_anew(acc + n, acc_stride, left, left_stride, right + n / 32 * strip, 32, rows, wide, k);
    else dot(acc + n, acc_stride, left, left_stride, right + n / 32 * strip, 32, rows, wide, k);
  }
}

}  // namespace smalti::inline SMALTI_CODE::host
