// Products of the host machine with packed codes, which are decoded on their way into the inner product: a right operand
// (`coded_panel`) is only the place of its words until it is multiplied, and the number of rows then says how.
//
// 8-bit operands (VNNI): codes stay unsigned, as vpdpbusd wants one side; the offset of the codec leaves as
// offset * (sum of the row's group), one integer for each row and group. Integer and float sums follow the formula at the
// head of scaled_dot.hpp, so every way gives the same bits.
#pragma once
#include <cstdint>
#include <cstring>
#include <smalti/core/version.hpp>
#include <smalti/tile/host/panels.hpp>
#include <smalti/tile/host/scaled_dot.hpp>
#include <smalti/tile/host/unpack.hpp>

namespace smalti::inline SMALTI_CODE::host {

//! A right operand of packed codes: depth-tile Tile of the words that lie there, decoded when it is multiplied.
template <class T, class Codec, int K, int N, int Tile> struct coded_panel {
  using element = T;
  static constexpr int rows = K, cols = N;
  word_parts<policy::word_planes<Codec::bits, 4, K / 4>::parts> at;
};

namespace detail {

#if SMALTI_DOT_LEVEL >= 3
constexpr int most_coded_words = 128, most_coded_groups = 32;   // of one call: what the block below holds apart

// -offset * (sum of the group) for each group of a row's `count` words.
inline void offset_sums(std::int32_t* out, std::int64_t step, const char* left, int count, int per_group, int offset) {
  const __m512i ones = _mm512_set1_epi8(1);
  for (int done = 0; done < count; done += per_group, out += step) {
    const int words = count - done < per_group ? count - done : per_group;
    __m512i sum = _mm512_setzero_si512();
    for (int s = 0; s < words; s += 16) {
      const int here = words - s;
      sum = _mm512_dpbusd_epi32(sum, ones, _mm512_maskz_loadu_epi32(here >= 16 ? __mmask16(0xffff) : __mmask16((1u << here) - 1), left + (done + s) * word));
    }
    // Not _mm512_reduce_add_epi32, of which g++ 12 warns inside its header.
    __m256i half = _mm256_add_epi32(_mm512_maskz_extracti64x4_epi64(0xf, sum, 0), _mm512_maskz_extracti64x4_epi64(0xf, sum, 1));
    half = _mm256_add_epi32(half, _mm256_permute2x128_si256(half, half, 1));
    half = _mm256_add_epi32(half, _mm256_shuffle_epi32(half, 0x4e));
    half = _mm256_add_epi32(half, _mm256_shuffle_epi32(half, 0xb1));
    *out = -offset * _mm_cvtsi128_si32(_mm256_castsi256_si128(half));
  }
}
// `bytes`, a multiple of 4, of each of `live` rows, and zeros for the other rows.
template <int Rows, int Line> void gather_rows(char (&out)[Rows][Line], const char* from, std::int64_t stride, int live, int bytes) {
  for (int i = 0; i < bytes; i += 64) {
    const int words = (bytes - i) / word;
    const __mmask16 there = words >= 16 ? __mmask16(0xffff) : __mmask16((1u << words) - 1);
    for (int r = 0; r < Rows; ++r) _mm512_store_si512(out[r] + i, r < live ? _mm512_maskz_loadu_epi32(there, from + r * stride + i) : _mm512_setzero_si512());
  }
}

// Factors where a whole tile of rows has them: group g of row r at g * step + r.
struct row_factors {
  const float* left;
  const float* sums;
  std::int64_t step, sums_step;
};
struct column_factors {
  const float* right;          // rows of the panel's columns, `step` floats apart
  std::int64_t step;
  const float* minima;
  std::int64_t minima_step;
};
struct alignas(64) ones_table {
  float v[strip_cols] = {};
  constexpr ones_table() {
    for (float& x : v) x = 1;
  }
};
inline constexpr ones_table row_of_ones{};
inline column_factors columns_of(const product_factors& f) {
  return {f.right ? f.right : row_of_ones.v, f.right ? f.right_stride : 0, f.minima, f.minima_stride};
}

// Few rows and columns n to n + 63: one pass over the words, in which each is decoded, multiplied and forgotten, while the words of the
// next word tile are asked for, evenly: so memory and arithmetic do not wait for each other. Codes stay unsigned, as
// vpdpbusd wants one side; the integer sums begin with what their offset amounts to.
template <int Tile, class Planes, int Rows, int N, bool Corrected>
void coded_few(float* acc, const char* left, const word_parts<Planes::parts>& w, int n, int count, int per_group, product_factors f, const std::int32_t (&start)[most_coded_groups][Rows],
               column_factors columns) {
  using V = avx512_vector;
  constexpr int vectors = 4, sharers = Planes::positions(0), part = Tile % sharers, share = N == 64 ? (vectors + sharers - 1) / sharers : 0;
  constexpr std::int64_t line = most_coded_words * word;
  // A panel's last word tile may end early (K = 576: after half of its rows), and no other pass then shares in asking for what follows.
  const bool alone = part == 0 && w.rows < Planes::words;
  columns.right += columns.step == 0 ? 0 : n;
  if constexpr (Corrected) columns.minima += n;
  for (int g = 0, i = 0; i < count; ++g) {
    __m512i sum[Rows][vectors];
    SMALTI_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const __m512i first = _mm512_set1_epi32(start[g][r]);
      SMALTI_UNROLL
      for (int v = 0; v < vectors; ++v) sum[r][v] = first;
    }
    for (const int end = count - i < per_group ? count : i + per_group; i < end; ++i) {
      // Close ahead of the first pass over a word tile, as far as leads the hardware on; later passes find it in the cache and ask
      // for the beginning of the next one. (Further ahead is slower: the requests queue up for the first-level cache.)
      const int next = part == 0 ? i + 4 : Planes::words;
      const char* ahead = reinterpret_cast<const char*>(w.data[0] + next * w.stride[0] + n) + (part == 0 ? 0 : i * 64);
      SMALTI_UNROLL
      for (int p = 0; p < (part == 0 ? vectors : 1); ++p) _mm_prefetch(ahead + p * 64, _MM_HINT_T0);
      // And the second level for this pass's share of a word tile, evenly: it has more requests under way than the first.
      if constexpr (share > 0) {
        const int each = alone ? share * sharers : share;
        const char* later = reinterpret_cast<const char*>(w.data[0]) + farther + (part * Planes::words + i) * each * 64;
        SMALTI_UNROLL
        for (int p = 0; p < share; ++p) _mm_prefetch(later + p * 64, _MM_HINT_T1);
        if (alone)
          for (int p = share; p < each; ++p) _mm_prefetch(later + p * 64, _MM_HINT_T1);
      }
      __m512i b[vectors];
      SMALTI_UNROLL
      for (int v = 0; v < vectors; ++v) b[v] = (__m512i)quad<Tile, Planes>(w, i, n + v * 16).v[0];
      SMALTI_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const __m512i a = V::broadcast_int(left + r * line + i * word);
        SMALTI_UNROLL
        for (int v = 0; v < vectors; ++v) sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], b[v], a);
      }
    }
    SMALTI_UNROLL
    for (int v = 0; v < vectors; ++v) {
      const __m512 scale = _mm512_loadu_ps(columns.right + v * 16), minimum = Corrected ? _mm512_loadu_ps(columns.minima + v * 16) : _mm512_setzero_ps();
      SMALTI_UNROLL
      for (int r = 0; r < Rows; ++r) {
        float* const to = acc + r * N + n + v * 16;
        __m512 total = scaled_sum<V>(_mm512_loadu_ps(to), sum[r][v], _mm512_set1_ps(f.left ? f.left[r * f.left_stride] : 1.0f), scale);
        if constexpr (Corrected) total = _mm512_fmadd_ps(_mm512_set1_ps(f.sums[r * f.sums_stride]), minimum, total);
        _mm512_storeu_ps(to, total);
      }
    }
    columns.right += columns.step;
    if constexpr (Corrected) columns.minima += columns.minima_step;
    f = f.at(0, 1, 0);
  }
}

// `live` of Rows rows; acc and the left factors have all of them.
template <int Tile, class Codec, class Planes, int Rows, int N, bool Corrected>
void coded_rows(float* acc, const char* left, std::int64_t left_stride, int live, const word_parts<Planes::parts>& w, int count, int per_group, const product_factors& f) {
  alignas(64) char mine[Rows][most_coded_words * word];
  std::int32_t start[most_coded_groups][Rows];
  gather_rows(mine, left, left_stride, live, count * word);
  if constexpr (Codec::offset != 0) {
    for (int r = 0; r < Rows; ++r) offset_sums(&start[0][r], Rows, mine[r], count, per_group, Codec::offset);
  } else {
    for (int g = 0; g * per_group < count; ++g)
      for (int r = 0; r < Rows; ++r) start[g][r] = 0;
  }
  for (int n = 0; n < N; n += 64) coded_few<Tile, Planes, Rows, N, Corrected>(acc, mine[0], w, n, count, per_group, f, start, columns_of(f));
}
#endif

#if SMALTI_DOT_LEVEL >= 4
// 16 rows of results, 16 columns at a time: these stay in registers over all groups, at most most_banded_groups of them. Signed
// bytes on both sides. The sums of some columns are added while the next ones are multiplied: stores of tiles are slow
// to reach loads.
constexpr int most_banded_groups = 8;
#define SMALTI_AMX_GROUP(sums, a, b, n, g)                                                    \
  {                                                                                           \
    const char *from = left + (g) * per_group * word, *to = right + ((g) * per_group * Wide + (n)) * word; \
    _tile_zero(sums);                                                                         \
    for (int s = 0; s < per_group; s += words) {                                              \
      _tile_loadd(a, from + s * word, Line);                                                  \
      _tile_loadd(b, to + s * Wide * word, Wide * word);                                      \
      _tile_dpbssd(sums, a, b);                                                               \
    }                                                                                         \
    _tile_stored(sums, part[(n) / 16 % 2][g], 64);                                            \
    amx_fence();                                                                              \
  }
template <int Wide, int Line, bool Corrected>
void coded_band(float* acc, const char* left, const char* right, int cols, int groups, int per_group, int words, const row_factors& rows, const column_factors& columns,
                memory_ahead& ahead) {
  using V = avx512_vector;
  alignas(64) std::int32_t part[2][most_banded_groups][256];
  const auto multiply = [&](int n, int g) __attribute__((always_inline)) {
    ahead.ask();
    if (g % 2 == 0) SMALTI_AMX_GROUP(0, 4, 6, n, g)
    else SMALTI_AMX_GROUP(1, 5, 7, n, g)
  };
  for (int g = 0; g < groups; ++g) multiply(0, g);
  for (int n = 0; n < cols; n += 16) {
    __m512 total[16];
    SMALTI_UNROLL
    for (int r = 0; r < 16; ++r) total[r] = _mm512_loadu_ps(acc + r * Wide + n);
    const float *scales = columns.right + (columns.step == 0 ? 0 : n), *minima = columns.minima + n;
    const float *left_scale = rows.left, *left_sum = rows.sums;
    const auto add = [&](int g) __attribute__((always_inline)) {
      const std::int32_t* const sum = part[n / 16 % 2][g];
      const __m512 scale = _mm512_loadu_ps(scales);
      SMALTI_UNROLL
      for (int r = 0; r < 16; ++r) total[r] = scaled_sum<V>(total[r], _mm512_load_si512(sum + 16 * r), _mm512_set1_ps(left_scale[r]), scale);
      scales += columns.step, left_scale += rows.step;
      if constexpr (Corrected) {
        const __m512 minimum = _mm512_loadu_ps(minima);
        SMALTI_UNROLL
        for (int r = 0; r < 16; ++r) total[r] = _mm512_fmadd_ps(_mm512_set1_ps(left_sum[r]), minimum, total[r]);
        minima += columns.minima_step, left_sum += rows.sums_step;
      }
    };
    if (n + 16 < cols) {
      for (int g = 0; g < groups; ++g) {
        multiply(n + 16, g);
        add(g);
      }
    } else {
      for (int g = 0; g < groups; ++g) add(g);
    }
    SMALTI_UNROLL
    for (int r = 0; r < 16; ++r) _mm512_storeu_ps(acc + r * Wide + n, total[r]);
  }
}
#undef SMALTI_AMX_GROUP
#endif

}  // namespace detail

#if SMALTI_DOT_LEVEL >= 4
//! As scaled_dot, for whole groups and whole tiles of 16 rows: acc and the left factors have round_up(rows, 16) of them.
//! @pre  at most 32 groups and 512 values of k; left factors of neighbouring rows are neighbours (left_stride, sums_stride 1)
template <int Wide, bool Corrected>
void tiled_dot(float* acc, const std::int8_t* left, std::int64_t left_stride, const std::int8_t* right, int rows, int cols, int groups, int group,
               product_factors f, memory_ahead& ahead) {
  using namespace detail;
  const int per_group = group / 4;
  int words = per_group < 16 ? per_group : 16;
  while (per_group % words != 0) --words;
  amx_configure(16, 16, words);
  for (int r = 0; r < rows; r += 16) {
    // Together: rows of the caller are often a power of two apart, and would drive each other out of the first-level cache. Those
    // that do not exist are zero.
    constexpr int line = most_coded_words * word;
    alignas(64) char mine[16][line];
    gather_rows(mine, bytes(left) + r * left_stride, left_stride, rows - r < 16 ? rows - r : 16, groups * group);
    for (int g = 0; g < groups; g += most_banded_groups) {
      const int some = groups - g < most_banded_groups ? groups - g : most_banded_groups;
      const product_factors here = f.at(0, g, 0);
      const row_factors factors{f.left ? here.left : row_of_ones.v, here.sums, f.left ? f.left_step : 0, f.left_step};
      const char* from = bytes(right) + g * group * Wide;
      coded_band<Wide, line, Corrected>(acc + r * Wide, mine[0] + g * group, from, cols, some, per_group, words, factors, columns_of(here), ahead);
    }
    f = f.at(16, 0, 0);
  }
  amx_release();
  amx_fence();
}
#endif

//! Rows up to which codes are multiplied on their way from memory, four rows at a time. From more rows on it is cheaper to decode them
//! once, less their offset, than to sum each row's groups and to decode again.
constexpr int few_coded_rows = 4;

namespace detail {
// What depth-tile Tile asks for of the next word tile, which all its depth-tiles share, while `times` pieces of work are done.
template <int Tile, class Planes, int N, int Parts> memory_ahead share_of_next(const word_parts<Parts>& w, int times) {
  constexpr int all = Planes::words * N * word, sharers = Planes::positions(0), part = Tile % sharers;
  if (w.stride[0] != N) return {};
  const bool alone = w.rows < Planes::words;               // a word tile that ends early has no other depth-tiles
  const char* first = reinterpret_cast<const char*>(w.data[0] + (alone ? w.rows : int(Planes::words)) * w.stride[0]) + (alone ? 0 : part * (all / sharers));
  const int bytes = alone ? all : all / sharers;
  return {first, first + bytes, (bytes / 64 + times - 1) / times * 64};
}
}  // namespace detail

//! acc[Rows][N] += the scaled product of 8-bit left operands and packed codes, as scaled_dot: depth-tile Tile of `w`.
//! @param live, depth  rows and columns of left that exist; the left factors have round_up(Rows, 16) rows
template <int Tile, bool Corrected, int Rows, int K, int N, class Codec, int Parts>
void coded_product(float (&acc)[Rows][N], const std::int8_t* left, std::int64_t left_stride, int live, int depth,
                   const word_parts<Parts>& w, Codec codec, int group, const product_factors& f) {
  using namespace detail;
  using panel = right_panel<std::int8_t, K, N>;
  const int words = (depth + 3) / 4;
  if (live <= 0 || words <= 0) return;
#if SMALTI_DOT_LEVEL >= 3
  [[maybe_unused]] const bool fits = K <= most_coded_words * word && group * most_coded_groups >= K;
  if constexpr (is_integer_codec<Codec> && N % 64 == 0)
    if (fits && live <= few_coded_rows) {
      using planes = policy::word_planes<Codec::bits, 4, K / 4>;
      if (live == 1 || Rows < 4)
        for (int r = 0; r < live; ++r)
          coded_rows<Tile, Codec, planes, 1, N, Corrected>(acc[r], bytes(left) + r * left_stride, left_stride, 1, w, words, group / 4, f.at(r, 0, 0));
      else
        coded_rows<Tile, Codec, planes, 4, N, Corrected>(acc[0], bytes(left), left_stride, live, w, words, group / 4, f);
      return;
    }
#endif
  alignas(64) typename panel::array codes;
#if SMALTI_DOT_LEVEL >= 4
  static_assert(panel::strip == N);
  const bool neighbours = (!f.left || f.left_stride == 1) && (!f.sums || f.sums_stride == 1);
  if (Rows % 16 == 0 && neighbours && fits && words * 4 >= group && amx_is_usable()) {
    const int whole = words * 4 / group, done = whole * group;
    unpack_codes<Tile, K / 4, panel, Codec, false>(codes, w, codec);
    memory_ahead ahead = share_of_next<Tile, policy::word_planes<Codec::bits, 4, K / 4>, N>(w, whole * (N / 16));
    tiled_dot<N, Corrected>(acc[0], left, left_stride, &codes[0][0][0][0], live, N, whole, group, f, ahead);
    if (done < words * 4)
      scaled_panel<quad_steps>(acc[0], N, bytes(left) + done, left_stride, bytes(&codes[0][0][0][0]) + done * N, N, live, N, words - done / 4, group / 4, f.at(0, whole, 0), nullptr);
    return;
  }
#endif
  // The next word tile is asked for while vectors multiply; beside tile registers while this one is unpacked.
  constexpr bool at_once = SMALTI_DOT_LEVEL < 2 || SMALTI_DOT_LEVEL >= 4;
  unpack_codes<Tile, K / 4, panel, Codec, at_once>(codes, w, codec);
  [[maybe_unused]] memory_ahead ahead = share_of_next<Tile, policy::word_planes<Codec::bits, 4, K / 4>, N>(w, ask_times(live) * (N / panel::strip));
  for (int n = 0; n < N; n += panel::strip)
    scaled_dot(acc[0] + n, N, left, left_stride, &codes[0][0][0][0] + n * K, panel::strip, live, panel::strip, words * 4, group, f.at(0, 0, n), at_once ? nullptr : &ahead);
}

#if SMALTI_DOT_LEVEL >= 4
namespace detail {
// K rows of codes as tiles of 16 pairs of rows and 16 columns, [k / 32][n / 16]: what one load of a tile register takes is one piece.
template <int Tile, class Codec, int K, int N, int Parts> struct coded_tiles {
  using planes = policy::word_planes<Codec::bits, 4, K / 4>;
  static constexpr int steps = K / 32, columns = N / 16;
  alignas(64) char v[steps][columns][16][64];

  // Step s, while its share of the next word tile is asked for.
  void decode(int s, const word_parts<Parts>& w, memory_ahead& ahead) {
    SMALTI_UNROLL
    for (int i = 0; i < 8; ++i) {
      ahead.ask();
      SMALTI_UNROLL
      for (int c = 0; c < columns; ++c)
        put_quad<Codec>(reinterpret_cast<bf16*>(v[s][c][2 * i]), reinterpret_cast<bf16*>(v[s][c][2 * i + 1]), quad<Tile, planes>(w, 8 * s + i, 16 * c));
    }
  }
};
// The first `depth` of Wide values of each of `live` rows; the rest is zero.
template <int Wide> void gather_pairs(char* out, const bf16* from, std::int64_t stride, int live, int rows, int depth) {
  for (int r = 0; r < rows; ++r)
    for (int k = 0; k < Wide; k += 32) {
      const int left = r < live ? depth - k : 0;
      const __mmask32 there = left >= 32 ? 0xffffffffu : left <= 0 ? 0 : (1u << left) - 1;
      _mm512_store_si512(out + (r * Wide + k) * 2, _mm512_maskz_loadu_epi16(there, from + r * stride + k));
    }
}
template <int Vectors, int Wide, bool Corrected>
void add_scaled(float* acc, const float* part, int rows, const product_factors& f) {
  __m512 scale[Vectors], minimum[Vectors];
  SMALTI_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    scale[v] = f.right ? _mm512_loadu_ps(f.right + 16 * v) : _mm512_set1_ps(1);
    if constexpr (Corrected) minimum[v] = _mm512_loadu_ps(f.minima + 16 * v);
  }
  for (int r = 0; r < rows; ++r) {
    const __m512 left = _mm512_set1_ps(f.left ? f.left[r * f.left_stride] : 1.0f);
    [[maybe_unused]] const __m512 sum = Corrected ? _mm512_set1_ps(f.sums[r * f.sums_stride]) : left;
    SMALTI_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      float* const to = acc + r * Wide + 16 * v;
      __m512 total = _mm512_fmadd_ps(_mm512_load_ps(part + (r * Vectors + v) * 16), _mm512_mul_ps(left, scale[v]), _mm512_loadu_ps(to));
      if constexpr (Corrected) total = _mm512_fmadd_ps(sum, minimum[v], total);
      _mm512_storeu_ps(to, total);
    }
  }
}
}  // namespace detail

//! acc[Rows][N] += the scaled product of bf16 operands and packed codes: depth-tile Tile of `w`, with the sum of a group as dot() for
//! bf16 makes it from zero, then acc = fma(sum, left_scale * right_scale, acc) and the correction. A step of k is decoded
//! while tiles multiply the one before it; rows are spread evenly over tiles of up to 16, so that one more row costs little.
//! @pre  amx_is_usable(); group is a multiple of 32 and divides K; N is 64
template <int Tile, bool Corrected, int Rows, int K, int N, class Codec, int Parts>
[[gnu::noinline]] void coded_product(float (&acc)[Rows][N], const bf16* left, std::int64_t left_stride, int live, int depth,
                                     const word_parts<Parts>& w, Codec, int group, const product_factors& f) {
  using namespace detail;
  static_assert(N == 64 && K % 32 == 0);
  using tiles = coded_tiles<Tile, Codec, K, N, Parts>;
  tiles codes;
  alignas(64) char mine[16][K * 2];
  alignas(64) float part[16][N];
  const int steps = (depth + 31) / 32, per_group = group / 32;
  if (live <= 0 || steps <= 0) return;
  memory_ahead ahead = share_of_next<Tile, typename tiles::planes, N>(w, steps * 8);
  codes.decode(0, w, ahead);
  const int blocks = (live + 15) / 16, high = (live + blocks - 1) / blocks;
  amx_configure(high, 0, 16);
  for (int r = 0; r < live; r += high) {
    const int rows = live - r < high ? live - r : high;
    const char* from = bytes(left + r * left_stride);
    std::int64_t stride = left_stride * 2;
    if (rows < high || steps * 32 > depth) {               // neither rows nor columns that do not exist are read
      gather_pairs<K>(mine[0], left + r * left_stride, left_stride, rows, high, depth);
      from = mine[0];
      stride = K * 2;
    }
    for (int g = 0; g * per_group < steps; ++g) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int s = g * per_group; s < steps && s < (g + 1) * per_group; ++s) {
        amx_fence();
        _tile_loadd(4, from + s * 64, stride);
        _tile_loadd(5, codes.v[s][0], 64);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(6, codes.v[s][1], 64);
        _tile_dpbf16ps(1, 4, 6);
        _tile_loadd(7, codes.v[s][2], 64);
        _tile_dpbf16ps(2, 4, 7);
        _tile_loadd(5, codes.v[s][3], 64);
        _tile_dpbf16ps(3, 4, 5);
        if (r == 0 && s + 1 < steps) codes.decode(s + 1, w, ahead);
      }
      _tile_stored(0, part[0], N * 4);
      _tile_stored(1, part[0] + 16, N * 4);
      _tile_stored(2, part[0] + 32, N * 4);
      _tile_stored(3, part[0] + 48, N * 4);
      amx_fence();
      add_scaled<4, N, Corrected>(acc[r], part[0], rows, f.at(r, g, 0));
    }
  }
  amx_release();
  amx_fence();
}
#endif

}  // namespace smalti::inline SMALTI_CODE::host
