// The inner loops that every instruction set shares. All operands of the three inner products are handled
// as 32-bit words: an f32, a pair of bf16 or a quad of int8 is one step of k, an accumulator is one word
// too, so one driver and one register block serve all of them. What differs is a `steps` type:
//   sum                       the vector register of accumulators
//   parts                     how many multiply-adds one word takes (2 where halves are split apart)
//   prepares                  the left rows are first rewritten, part by part, into a small scratch
//   load, store, right<Part>, left, add, prepare<Part>
#pragma once
#include <cstdint>
#include <cstring>

#include <smalti/core/version.hpp>

#if defined(__clang__)
#  define SMALTI_UNROLL _Pragma("clang loop unroll(full)")
#else
#  define SMALTI_UNROLL _Pragma("GCC unroll 16")
#endif

namespace smalti::inline SMALTI_CODE::host::detail {

constexpr int word = 4;                  // bytes
constexpr int strip_cols = 64;           // columns of a right panel that are worked on at a time
constexpr int chunk_steps = 128;         // and steps: 64 x 128 words are 32 KiB, inside the first-level cache

struct dot_operands {
  const char* left;
  std::int64_t left_stride, left_part;   // bytes from row to row, from part to part
  const char* right;
  std::int64_t right_stride;             // bytes from step to step
  const char* next = nullptr;            // the left rows of the group after this one, where they lie in the user's memory
};

// Rows x (Vectors * width) accumulators stay in registers over `count` steps. The next group's left rows are fetched meanwhile: they
// come from the third-level cache, a few lines of each, too short a run for the processor to foresee (1024^3 floats: 4 %).
template <class Steps, int Rows, int Vectors>
void dot_block(char* acc, std::int64_t acc_stride, dot_operands o, int count, const std::int32_t* correction) {
  constexpr int bytes = Steps::width * word;
  typename Steps::sum sum[Rows][Vectors];
  SMALTI_UNROLL
  for (int r = 0; r < Rows; ++r)
    SMALTI_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      sum[r][v] = Steps::load(acc + r * acc_stride + v * bytes);
      if constexpr (Steps::corrects) sum[r][v] = Steps::subtract(sum[r][v], correction + v * Steps::width);
    }
  constexpr int line = 64 / word;
  for (int left = count; left > 0; left -= line) {
    if (o.next) {
      SMALTI_UNROLL
      for (int r = 0; r < Rows; ++r) __builtin_prefetch(o.next + r * o.left_stride, 0, 3);
      o.next += 64;
    }
    for (int s = left < line ? left : line; s > 0; --s) {
      SMALTI_UNROLL
      for (int part = 0; part < Steps::parts; ++part) {
        typename Steps::operand b[Vectors];
        SMALTI_UNROLL
        for (int v = 0; v < Vectors; ++v) b[v] = Steps::right(part, o.right + v * bytes);
        SMALTI_UNROLL
        for (int r = 0; r < Rows; ++r) {
          const typename Steps::operand a = Steps::left(o.left + r * o.left_stride + part * o.left_part);
          SMALTI_UNROLL
          for (int v = 0; v < Vectors; ++v) sum[r][v] = Steps::add(sum[r][v], a, b[v]);
        }
      }
      o.left += word;
      o.right += o.right_stride;
    }
  }
  SMALTI_UNROLL
  for (int r = 0; r < Rows; ++r)
    SMALTI_UNROLL
    for (int v = 0; v < Vectors; ++v) Steps::store(acc + r * acc_stride + v * bytes, sum[r][v]);
}

// The same as a function of its own: where the caller is long, g++ 12 keeps the accumulators of an inlined one in memory
// (half the speed).
template <class Steps, int Rows, int Vectors>
[[gnu::noinline]] void dot_block_apart(char* acc, std::int64_t acc_stride, dot_operands o, int count, const std::int32_t* correction) {
  dot_block<Steps, Rows, Vectors>(acc, acc_stride, o, count, correction);
}

// One group of rows, all columns of the strip.
template <class Steps, int Rows, int Vectors>
void dot_columns(char* acc, std::int64_t acc_stride, dot_operands o, int cols, int count, const std::int32_t* correction) {
  constexpr int step = Vectors * Steps::width;
  int n = 0;
  for (; n + step <= cols; n += step, o.right += step * word)
    if constexpr (Steps::corrects) dot_block_apart<Steps, Rows, Vectors>(acc + n * word, acc_stride, o, count, correction + n);
    else dot_block<Steps, Rows, Vectors>(acc + n * word, acc_stride, o, count, nullptr);
  if constexpr (step > 16)
    if (n < cols) dot_columns<Steps, Rows, Vectors / 2>(acc + n * word, acc_stride, o, cols - n, count,
                                               Steps::corrects ? correction + n : nullptr);
}

// `count` words of one row to the scratch, one plane a part. Never reads past the row.
template <class Steps> void prepare_row(char* out, std::int64_t part_stride, const char* in, int count) {
  constexpr int bytes = Steps::width * word;
  for (int part = 0; part < Steps::parts; ++part) {
    char* to = out + part * part_stride;
    int s = 0;
    for (; s + Steps::width <= count; s += Steps::width) Steps::keep(to + s * word, Steps::prepare(part, in + s * word));
    if (s < count) {
      alignas(64) char rest[bytes] = {};
      std::memcpy(rest, in + s * word, std::size_t(count - s) * word);
      Steps::keep(to + s * word, Steps::prepare(part, rest));
    }
  }
}

// The next `Rows` rows, then the rest in smaller groups.
template <class Steps, int Rows>
void dot_rows(char* acc, std::int64_t acc_stride, dot_operands o, int rows, int cols, int count, const std::int32_t* correction) {
  for (; rows >= Rows; rows -= Rows) {
    if constexpr (Steps::prepares) {
      constexpr std::int64_t plane = chunk_steps * word, line = Steps::parts * plane;
      alignas(64) char scratch[Rows * line];
      for (int r = 0; r < Rows; ++r) prepare_row<Steps>(scratch + r * line, plane, o.left + r * o.left_stride, count);
      dot_columns<Steps, Rows, Steps::vectors>(acc, acc_stride, {scratch, line, plane, o.right, o.right_stride},
                                               cols, count, correction);
    } else {
      dot_operands here = o;
      if (rows >= 2 * Rows) here.next = o.left + Rows * o.left_stride;
      dot_columns<Steps, Rows, Steps::vectors>(acc, acc_stride, here, cols, count, correction);
    }
    acc += Rows * acc_stride;
    o.left += Rows * o.left_stride;
  }
  if constexpr (Rows > 1) {
    constexpr int fewer = Rows > 4 ? 4 : Rows / 2;
    if (rows > 0) dot_rows<Steps, fewer>(acc, acc_stride, o, rows, cols, count, correction);
  }
}

// The whole product: strips of columns, chunks of steps, groups of rows.
template <class Steps>
void dot_panel(char* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const char* right,
               std::int64_t right_width, int rows, int cols, int count) {
  static_assert(!Steps::corrects, "smalti: steps with corrections go through dot_quads");
  const std::int64_t right_stride = right_width * word;
  for (int n = 0; n < cols; n += strip_cols) {
    const int width = cols - n < strip_cols ? cols - n : strip_cols;
    for (int s = 0; s < count; s += chunk_steps) {
      const int steps = count - s < chunk_steps ? count - s : chunk_steps;
      const char* next = s + 2 * chunk_steps <= count ? left + (s + chunk_steps) * word : nullptr;
      const dot_operands o{left + s * word, left_stride, 0, right + s * right_stride + n * word, right_stride, next};
      dot_rows<Steps, Steps::rows>(acc + n * word, acc_stride, o, rows, width, steps, nullptr);
    }
  }
}

// Left operands that lie across, [rows / 16][step][16]: of sixteen rows a step is one cache line. `next`: lines that are wanted next, one in
// two steps (one a step would be more than the third-level cache gives), or null.
constexpr int across_rows = 16;
template <class Steps, int Rows, int Vectors>
[[gnu::noinline]] void dot_block_across(char* acc, std::int64_t acc_stride, const char* left, const char* right, std::int64_t right_stride, int count, const char* next) {
  constexpr int bytes = Steps::width * word, line = across_rows * word;
  typename Steps::sum sum[Rows][Vectors];
  SMALTI_UNROLL
  for (int r = 0; r < Rows; ++r)
    SMALTI_UNROLL
    for (int v = 0; v < Vectors; ++v) sum[r][v] = Steps::load(acc + r * acc_stride + v * bytes);
  for (; count > 0; --count) {
    typename Steps::operand b[Vectors];
    SMALTI_UNROLL
    for (int v = 0; v < Vectors; ++v) b[v] = Steps::right(0, right + v * bytes);
    if (next && count % 2 == 0) {
      __builtin_prefetch(next, 0, 3);
      next += line;
    }
    SMALTI_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const typename Steps::operand a = Steps::left(left + r * word);
      SMALTI_UNROLL
      for (int v = 0; v < Vectors; ++v) sum[r][v] = Steps::add(sum[r][v], a, b[v]);
    }
    left += line;
    right += right_stride;
  }
  SMALTI_UNROLL
  for (int r = 0; r < Rows; ++r)
    SMALTI_UNROLL
    for (int v = 0; v < Vectors; ++v) Steps::store(acc + r * acc_stride + v * bytes, sum[r][v]);
}

// Sixteen rows at most and the columns of one strip: groups of `Rows`, then of fewer. The first two fetch a half each of what is wanted next.
template <class Steps, int Rows, int Vectors>
void dot_rows_across(char* acc, std::int64_t acc_stride, const char* left, const char* right, std::int64_t right_stride, int rows, int cols, int count, const char* next) {
  constexpr int step = Vectors * Steps::width;
  int n = 0;
  for (; n + step <= cols; n += step) {
    char* to = acc + n * word;
    const char* from = left;
    int rest = rows;
    for (; rest >= Rows; rest -= Rows, to += Rows * acc_stride, from += Rows * word)
      dot_block_across<Steps, Rows, Vectors>(to, acc_stride, from, right + n * word, right_stride, count,
                                             next == nullptr || rows - rest >= 2 * Rows ? nullptr : next + (rows - rest) / Rows * (count / 2) * across_rows * word);
    if constexpr (Rows > 1)
      if (rest > 0) dot_rows_across<Steps, (Rows > 4 ? 4 : Rows / 2), Vectors>(to, acc_stride, from, right + n * word, right_stride, rest, step, count, nullptr);
  }
  if constexpr (step > 16)
    if (n < cols) dot_rows_across<Steps, Rows, Vectors / 2>(acc + n * word, acc_stride, left, right + n * word, right_stride, rows, cols - n, count, nullptr);
}

//! @param column_bytes  of `left`, from sixteen rows to the next
template <class Steps>
void dot_panel_across(char* acc, std::int64_t acc_stride, const char* left, std::int64_t column_bytes, const char* right, std::int64_t right_width, int rows, int cols, int count) {
  static_assert(!Steps::corrects && !Steps::prepares && Steps::parts == 1, "smalti: a left operand that lies across is taken as it is");
  const std::int64_t right_stride = right_width * word;
  for (int n = 0; n < cols; n += strip_cols)
    for (int s = 0; s < count; s += chunk_steps) {
      const int steps = count - s < chunk_steps ? count - s : chunk_steps;
      const char* from = left + s * across_rows * word;
      for (int r = 0; r < rows; r += across_rows, from += column_bytes)
        dot_rows_across<Steps, Steps::rows, Steps::vectors>(acc + r * acc_stride + n * word, acc_stride, from, right + s * right_stride + n * word, right_stride,
                                                            rows - r < across_rows ? rows - r : across_rows, cols - n < strip_cols ? cols - n : strip_cols, steps,
                                                            rows - r > across_rows ? from + column_bytes : nullptr);
    }
}

// Left rows that were prepared before.
template <class Steps> struct as_prepared : Steps {
  static constexpr bool prepares = false;
};

// The whole product of int8: the left rows are prepared once for all strips of columns (7 % of the time, 11 % where each
// strip prepares its own). `right_sums`: see dot(). @param strip_bytes  from one strip of columns of `right` to the next
template <class Steps>
void dot_quads(char* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const char* right,
               std::int64_t right_width, int rows, int cols, int count, const std::int32_t* right_sums = nullptr,
               std::int64_t strip_bytes = 0) {
  if (strip_bytes == 0) strip_bytes = strip_cols * word;        // side by side
  constexpr int most = 192;                                     // rows: 96 KiB of the second-level cache
  constexpr std::int64_t plane = chunk_steps * word, line = Steps::parts * plane;
  const std::int64_t right_stride = right_width * word;
  alignas(64) char prepared[most * line];
  for (int r = 0; r < rows; r += most, acc += most * acc_stride, left += most * left_stride)
    for (int s = 0; s < count; s += chunk_steps) {
      const int high = rows - r < most ? rows - r : most, steps = count - s < chunk_steps ? count - s : chunk_steps;
      for (int i = 0; i < high; ++i) prepare_row<Steps>(prepared + i * line, plane, left + i * left_stride + s * word, steps);
      for (int n = 0; n < cols; n += strip_cols) {
        const int width = cols - n < strip_cols ? cols - n : strip_cols;
        const dot_operands o{prepared, line, plane, right + s * right_stride + n / strip_cols * strip_bytes, right_stride};
        alignas(64) std::int32_t correction[strip_cols];
        if constexpr (Steps::corrects) Steps::correct(correction, o.right, right_stride, width, steps, right_sums ? right_sums + n : nullptr, s == 0);
        dot_rows<as_prepared<Steps>, Steps::rows>(acc + n * word, acc_stride, o, high, width, steps, Steps::corrects ? correction : nullptr);
      }
    }
}

// f32: one word, one multiply-add.
template <class V> struct float_steps : V {
  using sum = typename V::floats;
  using operand = typename V::floats;
  static constexpr int parts = 1;
  static constexpr bool prepares = false, corrects = false;
  static sum load(const char* p) { return V::load_floats(p); }
  static void store(char* p, sum x) { V::store_floats(p, x); }
  static operand right(int, const char* p) { return V::load_floats(p); }
  static operand left(const char* p) { return V::broadcast_float(p); }
  static sum add(sum s, operand a, operand b) { return V::multiply_add(a, b, s); }
};

// A pair of bf16 is two f32: the low half shifted up, the high half with the low one cleared. Both are exact.
template <class V> struct widened_steps : float_steps<V> {
  using operand = typename V::floats;
  static constexpr int parts = 2;
  static constexpr bool prepares = true;
  static operand right(int part, const char* p) { return prepare(part, p); }
  static operand prepare(int part, const char* p) { return part == 0 ? V::low_halves(p) : V::high_halves(p); }
  static void keep(char* p, operand x) { V::store_floats(p, x); }
};

// A quad of int8 is two words of two 16-bit values: bytes 0 and 2, bytes 1 and 3. A sum of two products is at
// most 2^15 and one instruction makes it without saturation.
template <class V> struct split_quad_steps : V {
  using sum = typename V::ints;
  using operand = typename V::ints;
  static constexpr int parts = 2;
  static constexpr bool prepares = true, corrects = false;
  static sum load(const char* p) { return V::load_ints(p); }
  static void store(char* p, sum x) { V::store_ints(p, x); }
  static operand right(int part, const char* p) { return prepare(part, p); }
  static operand left(const char* p) { return V::broadcast_int(p); }
  static sum add(sum s, operand a, operand b) { return V::add_pairs(s, a, b); }
  static operand prepare(int part, const char* p) { return part == 0 ? V::even_bytes(p) : V::odd_bytes(p); }
  static void keep(char* p, operand x) { V::store_ints(p, x); }
};

// Row of `count` pairs of bf16 as 2 count floats, on to whole vectors. Never reads past the row.
template <class V> void widen_row(char* out, const char* in, int count) {
  constexpr int half = V::width / 2;                       // pairs a vector of floats
  int s = 0;
  for (; s + half <= count; s += half) V::store_floats(out + 2 * s * word, V::widened(in + s * word));
  if (s < count) {
    alignas(64) char rest[half * word] = {};
    std::memcpy(rest, in + s * word, std::size_t(count - s) * word);
    V::store_floats(out + 2 * s * word, V::widened(rest));
  }
}

// bf16 by f32 multiply-adds. Where many rows share the right panel both operands become floats first, the left rows once
// for all strips of columns. Each accumulator sees fma(even), fma(odd) step after step either way, so the bits of a row do
// not depend on how many rows there are.
template <class V>
void dot_widened(char* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const char* right,
                 std::int64_t right_width, int rows, int cols, int count) {
  if (rows < V::widen_panel_from) {
    dot_panel<widened_steps<V>>(acc, acc_stride, left, left_stride, right, right_width, rows, cols, count);
    return;
  }
  constexpr int most = 384, chunk = chunk_steps / 2;       // rows: 192 KiB of the second-level cache; pairs
  constexpr std::int64_t left_line = 2 * chunk * word, line = strip_cols * word;
  alignas(64) char floats[most * left_line];
  alignas(64) char panel[2 * chunk * line];                // 32 KiB again
  for (int r = 0; r < rows; r += most, acc += most * acc_stride, left += most * left_stride)
    for (int s = 0; s < count; s += chunk) {
      const int high = rows - r < most ? rows - r : most, steps = count - s < chunk ? count - s : chunk;
      for (int i = 0; i < high; ++i) {
        const char* from = left + i * left_stride + s * word;
        for (int ahead = 0; s + 2 * chunk <= count && ahead < chunk * word; ahead += 64) __builtin_prefetch(from + chunk * word + ahead, 0, 2);
        widen_row<V>(floats + i * left_line, from, steps);
      }
      for (int n = 0; n < cols; n += strip_cols) {
        const int width = cols - n < strip_cols ? cols - n : strip_cols;
        for (int i = 0; i < steps; ++i) {
          const char* from = right + ((s + i) * right_width + n) * word;
          for (int c = 0; c < width; c += V::width) {
            V::store_floats(panel + 2 * i * line + c * word, V::low_halves(from + c * word));
            V::store_floats(panel + (2 * i + 1) * line + c * word, V::high_halves(from + c * word));
          }
        }
        dot_rows<float_steps<V>, V::rows>(acc + n * word, acc_stride, {floats, left_line, 0, panel, line}, high, width, 2 * steps, nullptr);
      }
    }
}

}  // namespace smalti::inline SMALTI_CODE::host::detail
