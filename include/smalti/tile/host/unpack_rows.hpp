// Rows of packed codes to operands on the host: quantized keys and values as they lie in memory, each row with its own scales.
// A word holds the codes of two neighbouring numbers at bits Bits p and 16 + Bits p for each of its 16 / Bits positions p
// (policy/word_planes.hpp, Run 2): shifted and masked, sixteen words are thirty-two numbers in order, evens and odds apart.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <smalti/core/float.hpp>
#include <smalti/tile/host/fill.hpp>
#include <smalti/tile/host/lanes.hpp>
#include <smalti/tile/host/math.hpp>
#include <smalti/tile/host/pack.hpp>
#include <smalti/tile/host/panels.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>
#if SMALTI_DOT_LEVEL >= 2
#  include <immintrin.h>
#endif

namespace smalti::inline SMALTI_CODE::host {

//! N rows of C elements, used where they lie; null where there is none.
template <class S, int N, int C> struct row_pointers {
  using element = S;
  static constexpr int rows = N, cols = C;
  const S* at[N];
};

namespace detail {

//! Sixteen pairs of codes, from pair 16 b of a row on: those of evens from bit 0, of odds from bit 16 on; not yet masked.
template <int Bits, int Words> [[gnu::always_inline]] inline ints code_pairs(const std::uint32_t* words, int b) {
  if constexpr (Words % 16 == 0) {
    const ints w = read(reinterpret_cast<const int*>(words) + b % (Words / 16) * 16);
    return w >> (Bits * (b / (Words / 16)));
  } else {
    alignas(64) int place[lane_count], shift[lane_count];
    for (int i = 0; i < lane_count; ++i) place[i] = (16 * b + i) % Words, shift[i] = (16 * b + i) / Words * Bits;
#if SMALTI_DOT_LEVEL >= 2
    if constexpr (Words < 16) {
      const __m512i row = _mm512_maskz_loadu_epi32(__mmask16((1u << Words) - 1), words);
      const __m512i w = _mm512_maskz_permutexvar_epi32(__mmask16(0xffff), _mm512_load_si512(place), row);
      ints r;
      r.v[0] = (int_part)_mm512_maskz_srlv_epi32(__mmask16(0xffff), w, _mm512_load_si512(shift));
      return r;
    }
#endif
    alignas(64) int w[lane_count];
    for (int i = 0; i < lane_count; ++i) w[i] = int(words[place[i]] >> shift[i]);
    return read(w);
  }
}

// (code - Offset) scale, or code scale + minimum, in one rounding.
template <class Codec, bool Affine> [[gnu::always_inline]] inline floats number_of(ints codes, floats scale, floats minimum) {
  if constexpr (Affine) return fma(to_float(codes), scale, minimum);
  else return to_float(codes - Codec::offset) * scale;
}

// Thirty-two numbers to an operand's row, rounded to its type: evens and odds interleaved.
template <class T, class Storage> [[gnu::always_inline]] inline void put_pairs(Storage* out, floats even, floats odd) {
  if constexpr (std::is_same_v<Storage, bf16>) {
#if SMALTI_DOT_LEVEL >= 3
    alignas(64) static constexpr std::uint16_t order[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i apart = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd.v[0], (__m512)even.v[0]);
    _mm512_storeu_si512(out, _mm512_permutexvar_epi16(_mm512_load_si512(order), apart));
#else
    const ints words = (narrow_code<bf16>(even) & ints(0xffff)) | narrow_code<bf16>(odd) << 16;
    std::memcpy(static_cast<void*>(out), &words, 64);
#endif
  } else {
    alignas(64) T a[lane_count], b[lane_count];
    write(a, even);
    write(b, odd);
    for (int i = 0; i < lane_count; ++i) {
      if constexpr (std::is_same_v<T, float>) out[2 * i] = a[i], out[2 * i + 1] = b[i];
      else out[2 * i] = smalti::to_float(a[i]), out[2 * i + 1] = smalti::to_float(b[i]);
    }
  }
}

//! The numbers of N rows of codes, one row at a time. Scales: a pointer to the scales of N / Scales::rows neighbouring rows each.
template <class T, class Codec, bool Affine, class Words, class Scales> class row_decoder {
public:
  static constexpr int words = Words::cols, dim = words * 32 / Codec::bits, per_scale = dim / Scales::cols, sharers = Words::rows / Scales::rows;
  using storage = typename storage_of<T>::type;

  row_decoder(const Words& w, const Scales& s, const Scales& m) : words_(w), scales_(s), minima_(m) {}
  //! Row r to out[0, dim); zeros where there is no row. Rows are asked for in ascending order where they share scales.
  void operator()(storage* out, int r) {
    const std::uint32_t* const w = words_.at[r];
    if (w == nullptr) {
      std::memset(static_cast<void*>(out), 0, sizeof(storage) * dim);
      return;
    }
    const auto* const s = scales_.at[r / sharers];
    [[maybe_unused]] const auto* const m = Affine ? minima_.at[r / sharers] : s;
    constexpr int keep = (1 << Codec::bits) - 1;
    if constexpr (whole_blocks) {
      for (int b = 0; b < dim / 32; ++b) {
        const ints pairs = code_pairs<Codec::bits, words>(w, b);
        const floats scale = in_all_lanes(s + 32 * b / per_scale), minimum = Affine ? in_all_lanes(m + 32 * b / per_scale) : floats(0.0f);
        put_pairs<T>(out + 32 * b, number_of<Codec, Affine>(pairs & ints(keep), scale, minimum), number_of<Codec, Affine>((pairs >> 16) & ints(keep), scale, minimum));
      }
    } else {
      if (s != spread_of_) spread(s, m);
      for (int b = 0; b < dim / 32; ++b) {
        const ints pairs = code_pairs<Codec::bits, words>(w, b);
        put_pairs<T>(out + 32 * b, number_of<Codec, Affine>(pairs & ints(keep), read(spread_[0] + 16 * b), read(spread_[2] + 16 * b)),
                     number_of<Codec, Affine>((pairs >> 16) & ints(keep), read(spread_[1] + 16 * b), read(spread_[3] + 16 * b)));
      }
    }
  }

private:
  using scale = typename Scales::element;
  static constexpr bool whole_blocks = per_scale % 32 == 0;     // thirty-two numbers have one scale
  static float to_float(scale x) {
    if constexpr (std::is_same_v<scale, float>) return x;
    else return smalti::to_float(x);
  }
  static floats in_all_lanes(const scale* p) {
#if SMALTI_DOT_LEVEL >= 2
    if constexpr (std::is_same_v<scale, fp16>) {                 // as scalars, scales would cost as much as their codes
      floats x;
      x.v[0] = (float_part)_mm512_maskz_cvtph_ps(__mmask16(0xffff), _mm256_set1_epi16(short(p->bits)));
      return x;
    }
#endif
    return floats(to_float(*p));
  }
  // A scale for each number: evens, odds, and the same of minima.
  void spread(const scale* s, const scale* m) {
    for (int c = 0; c < dim; ++c) spread_[c % 2][c / 2] = to_float(s[c / per_scale]), spread_[2 + c % 2][c / 2] = Affine ? to_float(m[c / per_scale]) : 0.0f;
    spread_of_ = s;
  }
  const Words& words_;
  const Scales& scales_;
  const Scales& minima_;
  const scale* spread_of_ = nullptr;
  alignas(64) float spread_[4][whole_blocks ? 16 : dim / 2];
};

template <class T, class Codec, class Words, class Scales, class Minima> auto decoder_of(const Words& w, const Scales& s, const Minima& m) {
  if constexpr (std::is_same_v<Minima, unit_factor>) return row_decoder<T, Codec, false, Words, Scales>(w, s, s);
  else return row_decoder<T, Codec, true, Words, Scales>(w, s, m);
}

}  // namespace detail

//! Operand[r][c] = number c of row r: of `count` rows from `first` on.
template <class T, int R, int K, class Decoder> void unpack_rows(left_panel<T, R, K>& t, Decoder decode, int first = 0, int count = R) {
  static_assert(Decoder::dim == K, "smalti: rows of codes fill an operand of their own width: leave the head dim in one piece");
  t.drop();
  t.data = &t.own[0][0], t.stride = K, t.live = R, t.depth = K;
  for (int r = first; r < first + count; ++r) decode(t.own[r], r);
}
template <class T, int K, int N, class Decoder> void unpack_rows(right_panel<T, K, N>& t, Decoder decode) {
  using panel = right_panel<T, K, N>;
  using storage = typename panel::storage;
  static_assert(Decoder::dim == N, "smalti: rows of codes fill an operand of their own width: leave the head dim in one piece");
  t.drop();
  t.data = &t.own[0][0][0][0], t.live = N, t.depth = K;
  alignas(64) storage some[panel::per_word][N];
  for (int k = 0; k < K; k += panel::per_word) {
    for (int h = 0; h < panel::per_word; ++h) decode(some[h], k + h);
    for (int n = 0; n < N; n += panel::strip) {
      const int width = N - n < panel::strip ? N - n : panel::strip;
      if constexpr (panel::per_word == 2) interleave_pairs(panel::at(t.own, k, n), some[0] + n, some[1] + n, width);
      else std::memcpy(static_cast<void*>(panel::at(t.own, k, n)), some[0] + n, sizeof(storage) * std::size_t(width));
    }
  }
}
//! Operand[c][n] = number c of row n: of `count` columns from `first` on, multiples of 16.
template <class T, int K, int N, class Decoder> void unpack_columns(right_panel<T, K, N>& t, Decoder decode, int first = 0, int count = N) {
  using panel = right_panel<T, K, N>;
  using storage = typename panel::storage;
  static_assert(Decoder::dim == K, "smalti: rows of codes fill an operand of their own width: leave the head dim in one piece");
  t.drop();
  t.data = &t.own[0][0][0][0], t.live = N, t.depth = K;
  constexpr int block = lane_count * panel::per_word;
  for (int n = first; n < first + count; n += lane_count) {
    alignas(64) storage some[lane_count][K];
    for (int i = 0; i < lane_count; ++i) decode(some[i], n + i);
    for (int k = 0; k < K; k += block) {
      const void* rows[lane_count];
      for (int i = 0; i < lane_count; ++i) rows[i] = some[i] + k;
      transpose_words(panel::at(t.own, k, n), panel::strip, rows);
    }
  }
}

}  // namespace smalti::inline SMALTI_CODE::host
