// The scaled inner product of 8-bit integers: groups of k are summed exactly in integers, and each group's sum enters a
// float with its scales before the next group begins, so that integer and float sums stay in registers:
//
//     acc[r, n] += sum over g of  left_scale[r, g] right_scale[g, n] (sum over the group of left[r, p] right[p, n])
//                               + left_sum[r, g] right_minimum[g, n]
//
// Every way of computing it gives the same bits (from AVX2 up): for each group in order, acc = fma(float(sum), left_scale *
// right_scale, acc), then acc = fma(left_sum, right_minimum, acc).
#pragma once
#include <cstdint>
#include <smalti/core/version.hpp>
#include <smalti/tile/host/dot.hpp>

namespace smalti::inline SMALTI_CODE::host {

//! The factors of a scaled product. Null means 1 (scales) or none (the correction, both or neither). Of left ones row r and
//! group g lie at r * stride + g * left_step, right ones [group][column]; strides count floats.
struct product_factors {
  const float* left = nullptr;
  std::int64_t left_stride = 0;
  const float* right = nullptr;
  std::int64_t right_stride = 0;
  const float* sums = nullptr;
  std::int64_t sums_stride = 0;
  const float* minima = nullptr;
  std::int64_t minima_stride = 0;
  std::int64_t left_step = 1;

  [[gnu::always_inline]] product_factors at(std::int64_t row, std::int64_t group, std::int64_t column) const {
    product_factors f = *this;
    if (left) f.left += row * left_stride + group * left_step;
    if (right) f.right += group * right_stride + column;
    if (sums) f.sums += row * sums_stride + group * left_step, f.minima += group * minima_stride + column;
    return f;
  }
};

//! How far ahead of the next word tile the second-level cache is asked. (4096 x 4096 from memory, one row: 0 to 2 KiB are equal, 8 are slower.)
constexpr int farther = 2048;

//! Memory that will be read next, in order: asked for a few lines at a time by whoever computes meanwhile.
struct memory_ahead {
  const char* at = nullptr;
  const char* end = nullptr;
  int step = 256;              //!< bytes at a time
  [[gnu::always_inline]] void ask() {
    if (at >= end) return;
    for (int i = 0; i < step; i += 64) {      // to the second level first, which has more requests under way than the first
      __builtin_prefetch(at + farther + i, 0, 2);
      __builtin_prefetch(at + i);
    }
    at += step;
  }
};

namespace detail {

//! Where the factors of a block begin.
struct factor_place { int row, group, column; };

template <int Width> struct word_vectors;
template <> struct word_vectors<16> {
  using ints = std::int32_t __attribute__((vector_size(64)));
  using floats = float __attribute__((vector_size(64)));
};
template <> struct word_vectors<8> {
  using ints = std::int32_t __attribute__((vector_size(32)));
  using floats = float __attribute__((vector_size(32)));
};
template <> struct word_vectors<4> {
  using ints = std::int32_t __attribute__((vector_size(16)));
  using floats = float __attribute__((vector_size(16)));
};

// sum * (left * right) into the total, then the correction: the one formula.
template <class V> [[gnu::always_inline]] inline typename V::floats scaled_sum(typename V::floats total, typename V::ints sum, typename V::floats left,
                                                                              typename V::floats right) {
  using vectors = word_vectors<V::width>;
  const auto value = (typename V::floats)__builtin_convertvector((typename vectors::ints)sum, typename vectors::floats);
  return V::multiply_add(value, left * right, total);
}
template <class V> [[gnu::always_inline]] inline typename V::floats broadcast_or_one(const float* p) {
  static constexpr float one = 1;
  return V::broadcast_float(reinterpret_cast<const char*>(p ? p : &one));
}

// Rows x (Vectors * width) results; `count` words of k, `per_group` of them a group. correction: where Steps wants them, what the
// sums of each group begin with, -128 times those of its columns, strip_cols apart.
// The factors by address, with the row, group and column where they begin: a structure that is changed and copied for each block is
// stored in words and loaded in vectors, which waits for the stores (a tenth of the time).
template <class Steps, int Rows, int Vectors>
void scaled_block(float* acc, std::int64_t acc_stride, dot_operands o, int count, int per_group, const product_factors& factors, factor_place at, const std::int32_t* correction) {
  constexpr int width = Steps::width, bytes_wide = width * word;
  constexpr int together = 4;      // steps: g++ 12 copies the sums from one turn of a loop to the next
  using floats = typename Steps::floats;
  const float* left_scales = factors.left ? factors.left + at.row * factors.left_stride + at.group * factors.left_step : nullptr;
  const float* right_scales = factors.right ? factors.right + at.group * factors.right_stride + at.column : nullptr;
  const float* left_sums = factors.sums ? factors.sums + at.row * factors.sums_stride + at.group * factors.left_step : nullptr;
  const float* minima = factors.sums ? factors.minima + at.group * factors.minima_stride + at.column : nullptr;
  const std::int64_t left_stride = factors.left_stride, sums_stride = factors.sums_stride, left_step = factors.left_step, right_stride = factors.right_stride, minima_stride = factors.minima_stride;
  floats total[Rows][Vectors];
  SMALTI_UNROLL
  for (int r = 0; r < Rows; ++r)
    SMALTI_UNROLL
    for (int v = 0; v < Vectors; ++v) total[r][v] = Steps::load_floats(bytes(acc + r * acc_stride + v * width));
  for (; count > 0; count -= per_group) {
    typename Steps::sum sum[Rows][Vectors];
    SMALTI_UNROLL
    for (int r = 0; r < Rows; ++r)
      SMALTI_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        if constexpr (Steps::corrects) sum[r][v] = Steps::load_ints(bytes(correction + v * width));
        else sum[r][v] = typename Steps::sum{};
      }
    const auto step = [&](int s) __attribute__((always_inline)) {
      SMALTI_UNROLL
      for (int part = 0; part < Steps::parts; ++part) {
        typename Steps::operand b[Vectors];
        SMALTI_UNROLL
        for (int v = 0; v < Vectors; ++v) b[v] = Steps::right(part, o.right + s * o.right_stride + v * bytes_wide);
        SMALTI_UNROLL
        for (int r = 0; r < Rows; ++r) {
          const typename Steps::operand a = Steps::left(o.left + s * word + r * o.left_stride + part * o.left_part);
          SMALTI_UNROLL
          for (int v = 0; v < Vectors; ++v) sum[r][v] = Steps::add(sum[r][v], a, b[v]);
        }
      }
    };
    const int steps = count < per_group ? count : per_group;
    int s = 0;
    for (; s + together <= steps; s += together, o.left += together * word, o.right += together * o.right_stride) {
      SMALTI_UNROLL
      for (int i = 0; i < together; ++i) step(i);
    }
    for (; s < steps; ++s, o.left += word, o.right += o.right_stride) step(0);
    floats right[Vectors];
    SMALTI_UNROLL
    for (int v = 0; v < Vectors; ++v) right[v] = right_scales ? Steps::load_floats(bytes(right_scales + v * width)) : broadcast_or_one<Steps>(nullptr);
    SMALTI_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const floats left = broadcast_or_one<Steps>(left_scales ? left_scales + r * left_stride : nullptr);
      SMALTI_UNROLL
      for (int v = 0; v < Vectors; ++v) total[r][v] = scaled_sum<Steps>(total[r][v], (typename Steps::ints)sum[r][v], left, right[v]);
    }
    if (left_sums) {
      SMALTI_UNROLL
      for (int v = 0; v < Vectors; ++v) right[v] = Steps::load_floats(bytes(minima + v * width));
      SMALTI_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const floats left = Steps::broadcast_float(bytes(left_sums + r * sums_stride));
        SMALTI_UNROLL
        for (int v = 0; v < Vectors; ++v) total[r][v] = Steps::multiply_add(left, right[v], total[r][v]);
      }
      left_sums += left_step, minima += minima_stride;
    }
    if (left_scales) left_scales += left_step;
    if (right_scales) right_scales += right_stride;
    if constexpr (Steps::corrects) correction += strip_cols;
  }
  SMALTI_UNROLL
  for (int r = 0; r < Rows; ++r)
    SMALTI_UNROLL
    for (int v = 0; v < Vectors; ++v) Steps::store_floats(bytes(acc + r * acc_stride + v * width), total[r][v]);
}

template <class Steps, int Rows, int Vectors>
void scaled_columns(float* acc, std::int64_t acc_stride, dot_operands o, int cols, int count, int per_group, const product_factors& f, factor_place at, const std::int32_t* correction) {
  constexpr int step = Vectors * Steps::width;
  int n = 0;
  for (; n + step <= cols; n += step, o.right += step * word)
    scaled_block<Steps, Rows, Vectors>(acc + n, acc_stride, o, count, per_group, f, {at.row, at.group, at.column + n}, Steps::corrects ? correction + n : nullptr);
  if constexpr (step > 16)
    if (n < cols)
      scaled_columns<Steps, Rows, Vectors / 2>(acc + n, acc_stride, o, cols - n, count, per_group, f, {at.row, at.group, at.column + n}, Steps::corrects ? correction + n : nullptr);
}

// Integer and float sums together are twice the registers of a plain product: half the rows.
template <class Steps, int Rows>
void scaled_rows(float* acc, std::int64_t acc_stride, dot_operands o, int rows, int cols, int count, int per_group, const product_factors& f, factor_place at, const std::int32_t* correction, memory_ahead* ahead) {
  constexpr std::int64_t plane = chunk_steps * word, line = Steps::parts * plane;
  for (; rows >= Rows; rows -= Rows) {
    if (ahead) ahead->ask();
    alignas(64) char scratch[Rows * line];
    for (int r = 0; r < Rows; ++r) prepare_row<Steps>(scratch + r * line, plane, o.left + r * o.left_stride, count);
    // The next rows meanwhile: they are often a power of two apart, and drive each other out of the first-level cache from panel to panel.
    for (int r = Rows; r < 2 * Rows && r < rows; ++r)
      for (int i = 0; i < count * word; i += 64) __builtin_prefetch(o.left + r * o.left_stride + i);
    scaled_columns<Steps, Rows, Steps::vectors>(acc, acc_stride, {scratch, line, plane, o.right, o.right_stride}, cols, count, per_group, f, at, correction);
    acc += Rows * acc_stride;
    o.left += Rows * o.left_stride;
    at.row += Rows;
  }
  if constexpr (Rows > 1)
    if (rows > 0) scaled_rows<Steps, 1>(acc, acc_stride, o, rows, cols, count, per_group, f, at, correction, ahead);
}

template <class Steps>
void scaled_panel(float* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const char* right, std::int64_t right_width, int rows, int cols,
                  int count, int per_group, const product_factors& f, memory_ahead* ahead) {
  const std::int64_t right_stride = right_width * word;
  const int chunk = chunk_steps / per_group * per_group;       // whole groups
  for (int n = 0; n < cols; n += strip_cols) {
    const int wide = cols - n < strip_cols ? cols - n : strip_cols;
    for (int s = 0; s < count; s += chunk) {
      const int steps = count - s < chunk ? count - s : chunk;
      const dot_operands o{left + s * word, left_stride, 0, right + s * right_stride + n * word, right_stride};
      alignas(64) std::int32_t correction[Steps::corrects ? chunk_steps * strip_cols : 1];
      if constexpr (Steps::corrects)
        for (int g = 0; g * per_group < steps; ++g) {
          std::int32_t* const sums = correction + g * strip_cols;
          Steps::correct(sums, o.right + g * per_group * right_stride, right_stride, wide, steps - g * per_group < per_group ? steps - g * per_group : per_group, nullptr, true);
          for (int c = 0; c < wide; ++c) sums[c] = -sums[c];
        }
      scaled_rows<Steps, Steps::rows / 2>(acc + n, acc_stride, o, rows, wide, steps, per_group, f, {0, s / per_group, n}, correction, ahead);
    }
  }
}

#if SMALTI_DOT_LEVEL >= 4
// One group of up to 32 x 32 (or 16 x 64) results in tile registers: see dot_amx.hpp for which tile is what.
template <bool Square> [[gnu::always_inline]] inline void amx_group(const char* left, std::int64_t left_stride, const char* right, std::int64_t right_stride, int count,
                                                                   int words, bool wide) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int s = 0; s < count; s += words) {
    if constexpr (Square) {
      _tile_loadd(6, right, right_stride);
      _tile_loadd(4, left, left_stride);
      _tile_dpbssd(0, 4, 6);
      _tile_loadd(5, left + 16 * left_stride, left_stride);
      _tile_dpbssd(2, 5, 6);
      if (wide) {
        _tile_loadd(7, right + 64, right_stride);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(3, 5, 7);
      }
    } else {
      _tile_loadd(4, left, left_stride);
      _tile_loadd(5, right, right_stride);
      _tile_dpbssd(0, 4, 5);
      if (wide) {
        _tile_loadd(6, right + 64, right_stride);
        _tile_dpbssd(1, 4, 6);
      }
    }
    left += words * word;
    right += words * right_stride;
  }
}

inline void amx_add_scaled(float* acc, std::int64_t acc_stride, const std::int32_t* sums, int rows, int vectors, const product_factors& f) {
  using V = avx512_vector;
  for (int v = 0; v < vectors; ++v) {
    const __m512 right = f.right ? _mm512_loadu_ps(f.right + 16 * v) : _mm512_set1_ps(1);
    const __m512 minimum = f.sums ? _mm512_loadu_ps(f.minima + 16 * v) : _mm512_setzero_ps();
    for (int r = 0; r < rows; ++r) {
      __m512 total = _mm512_loadu_ps(acc + r * acc_stride + 16 * v);
      const __m512 left = _mm512_set1_ps(f.left ? f.left[r * f.left_stride] : 1.0f);
      total = scaled_sum<V>(total, _mm512_load_si512(sums + r * 32 + 16 * v), left, right);
      if (f.sums) total = _mm512_fmadd_ps(_mm512_set1_ps(f.sums[r * f.sums_stride]), minimum, total);
      _mm512_storeu_ps(acc + r * acc_stride + 16 * v, total);
    }
  }
}

// All groups of `whole` words of k; each group has per_group words, a multiple of `words`, which one instruction takes.
inline void scaled_amx(float* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const char* right, std::int64_t right_width, int rows, int cols,
                       int whole, int per_group, int words, const product_factors& f) {
  const std::int64_t right_stride = right_width * word;
  alignas(64) std::int32_t sums[32 * 32];
  int configured = -1;
  for (int r = 0; r < rows; r += 32) {
    const int top = rows - r < 16 ? rows - r : 16, bottom = rows - r > 16 ? (rows - r < 32 ? rows - r - 16 : 16) : 0;
    if (configured != top * 32 + bottom) amx_configure(top, bottom, words);
    configured = top * 32 + bottom;
    for (int n = 0; n < cols; n += 32) {
      const bool wide = cols - n > 16;
      const auto multiply = [&](int g) {
        const char* a = left + r * left_stride + g * per_group * word;
        const char* b = right + g * per_group * right_stride + n * word;
        if (bottom) amx_group<true>(a, left_stride, b, right_stride, per_group, words, wide);
        else amx_group<false>(a, left_stride, b, right_stride, per_group, words, wide);
      };
      multiply(0);
      for (int g = 0; g * per_group < whole; ++g) {
        _tile_stored(0, sums, 128);
        if (wide) _tile_stored(1, sums + 16, 128);
        if (bottom) {
          _tile_stored(2, sums + 16 * 32, 128);
          if (wide) _tile_stored(3, sums + 16 * 32 + 16, 128);
        }
        amx_fence();
        if ((g + 1) * per_group < whole) multiply(g + 1);      // beside the additions of the group before it
        amx_add_scaled(acc + r * acc_stride + n, acc_stride, sums, top + bottom, wide ? 2 : 1, f.at(r, g, n));
      }
    }
  }
  amx_release();
  amx_fence();
}
#endif

}  // namespace detail

//! How often scaled_dot without tile registers asks for memory ahead, for so many rows.
constexpr int ask_times(int rows) {
#if SMALTI_DOT_LEVEL >= 3
  constexpr int together = detail::quad_steps::rows / 2;
#else
  constexpr int together = detail::dot_vector::rows / 2;
#endif
  return rows / together + rows % together;
}

//! See the head of this file. `right` is [k / 4][right_width][4]; `group` values of k share scales; the last group may be short.
//! @param ahead  asked for meanwhile, once for each few rows: see ask_times
//! @pre  k and group are multiples of 4, group <= 512; cols is a multiple of 16; rows, k >= 0
inline void scaled_dot(float* acc, std::int64_t acc_stride, const std::int8_t* left, std::int64_t left_stride, const std::int8_t* right, std::int64_t right_width, int rows,
                       int cols, int k, int group, product_factors f, memory_ahead* ahead = nullptr) {
  using namespace detail;
  if (rows <= 0 || cols <= 0 || k <= 0) return;
  const int count = k / 4, per_group = group / 4;
  int done = 0;
#if SMALTI_DOT_LEVEL >= 4
  int words = per_group < 16 ? per_group : 16;
  while (per_group % words != 0) --words;
  if (rows >= 8 && count >= per_group && amx_is_usable()) {   // below, loading the right tile costs more than it multiplies
    done = count / per_group * per_group;
    scaled_amx(acc, acc_stride, bytes(left), left_stride, bytes(right), right_width, rows, cols, done, per_group, words, f);
  }
#endif
#if SMALTI_DOT_LEVEL >= 3
  using steps = quad_steps;
#else
  using steps = split_quad_steps<dot_vector>;
#endif
  if (done < count)
    scaled_panel<steps>(acc, acc_stride, bytes(left) + done * word, left_stride, bytes(right) + done * right_width * word, right_width, rows, cols, count - done, per_group,
                        f.at(0, done / per_group, 0), ahead);
}

}  // namespace smalti::inline SMALTI_CODE::host
