// GGUF blocks as ggml's reference encoders make them: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and MXFP4 to the bit. Codes are neutral
// (policy/formats.hpp); the bytes of a block belong to the readers. Products are rounded before they are added to: the
// reference is built without fused operations.
#pragma once
#include <cstdint>
#include <smalti/policy/codecs/small_float.hpp>
#include <smalti/policy/quantizer.hpp>
#include <smalti/policy/quantizers/integer.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! q4_0, q5_0: m is the element of largest magnitude with its sign, the first on a tie; d = m / -2^(Bits - 1), so that m
//! becomes code 0; code = min(2^Bits - 1, trunc(x / d + 2^(Bits - 1) + 0.5)), with the reciprocal of the unrounded d. A
//! block of zeros stores d = -0.
template <int Bits> struct gguf_signed_quantizer {
  static constexpr int half = 1 << (Bits - 1);
  fp16 operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    float reach = 0.0f, signed_reach = 0.0f;
    for (int i = 0; i < count; ++i)
      if (reach < magnitude(x[i])) reach = magnitude(x[i]), signed_reach = x[i];
    const float d = signed_reach / float(-half), inverse = d != 0.0f ? 1.0f / d : 0.0f;
    for (int i = 0; i < count; ++i) codes[i] = std::uint8_t(detail::clamped(rounded(x[i] * inverse) + (float(half) + 0.5f), 2 * half - 1));
    return narrow<fp16>(d);
  }
};
using q4_0_quantizer = gguf_signed_quantizer<4>;
using q5_0_quantizer = gguf_signed_quantizer<5>;

//! What q4_1 and q5_1 store: weight = code * scale + minimum.
struct scale_and_minimum {
  fp16 scale, minimum;
};
//! q4_1, q5_1: d = (high - low) / (2^Bits - 1); code = min(2^Bits - 1, trunc((x - low) / d + 0.5)).
template <int Bits> struct gguf_minimum_quantizer {
  static constexpr int most = (1 << Bits) - 1;
  scale_and_minimum operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    const detail::bounds b = detail::bounds_of(x, count, count > 0 ? x[0] : 0.0f);
    const float d = (b.high - b.low) / float(most), inverse = d != 0.0f ? 1.0f / d : 0.0f;
    for (int i = 0; i < count; ++i) codes[i] = std::uint8_t(detail::clamped(rounded((x[i] - b.low) * inverse) + 0.5f, most));
    return {narrow<fp16>(d), narrow<fp16>(b.low)};
  }
};
using q4_1_quantizer = gguf_minimum_quantizer<4>;
using q5_1_quantizer = gguf_minimum_quantizer<5>;

//! q8_0: d = amax / 127; code = round(x / d), half away from zero, plus 128. ggml's x86 kernels differ: half to even, with
//! 127 / amax; Ties chooses.
template <tie Ties = tie::away> struct q8_0_quantizer {
  fp16 operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    const float reach = absmax{}.reach<offset_int<8>>(x, count), d = reach / 127.0f;
    const float inverse = Ties == tie::even ? (reach != 0.0f ? 127.0f / reach : 0.0f) : d != 0.0f ? 1.0f / d : 0.0f;
    for (int i = 0; i < count; ++i) codes[i] = std::uint8_t(offset_int<8>::encode(rounded(x[i] * inverse), Ties));
    return narrow<fp16>(d);
  }
};

//! MXFP4 as ggml has it: e = floor(log2 amax) - 2 + 127 in eight bits (amax below 2^-125 wraps), 0 for a block of zeros;
//! ties go toward zero and -0 is never made.
struct gguf_mxfp4_quantizer {
  e8m0 operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    const float reach = absmax{}.reach<e2m1>(x, count);
    const std::uint8_t e = reach > 0.0f ? std::uint8_t(int(__builtin_floorf(__builtin_log2f(reach))) - 2 + 127) : std::uint8_t(0);
    const float scale = to_float(smalti::e8m0{e});
    for (int i = 0; i < count; ++i) {
      const unsigned code = e2m1::encode(float(double(x[i]) / double(scale)), tie::toward_zero);
      codes[i] = std::uint8_t(code == 8 ? 0 : code);
    }
    return {e};
  }
};

// ---- K-quants: 256 elements, a scale (and minimum) for each group of 32 (or 16), themselves codes under one fp16

//! What a super block stores: weight = code * (d * scale[g]) - dmin * minimum[g].
template <int Groups> struct super_block {
  fp16 d, dmin;
  std::uint8_t scale[Groups], minimum[Groups];
};

namespace detail {
// Sum of squared errors of codes 0 .. most under (scale, minimum), each the nearest.
inline double error_of(const float* x, int count, int most, double scale, double minimum) {
  double sum = 0;
  for (int i = 0; i < count; ++i) {
    const double code = clamped(round_even(float((double(x[i]) + minimum) / scale)), most), e = code * scale - minimum - double(x[i]);
    sum += e * e;
  }
  return sum;
}
}  // namespace detail

//! q4_k, q5_k: for each group the scale and minimum with the least squared error that a search finds (the range's own, then
//! the best line through the codes of each candidate range); rounded to six bits under d and dmin, with the neighbouring
//! codes tried; then codes for what is stored. ggml's encoder searches too, with other weights and candidates: bytes differ,
//! errors are alike.
template <int Bits> struct k_minimum_quantizer {
  static constexpr int most = (1 << Bits) - 1, groups = 8, group = 32;

  super_block<groups> operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    super_block<groups> out{};
    float scale[groups] = {}, minimum[groups] = {}, scale_reach = 0.0f, minimum_reach = 0.0f;
    for (int g = 0; g < groups; ++g) {
      search(x + g * group, members(g, count), scale[g], minimum[g]);
      scale_reach = scale[g] > scale_reach ? scale[g] : scale_reach;
      minimum_reach = minimum[g] > minimum_reach ? minimum[g] : minimum_reach;
    }
    out.d = narrow<fp16>(scale_reach / 63.0f);
    out.dmin = narrow<fp16>(minimum_reach / 63.0f);
    // fp16's neighbours of d, then of dmin: a block that one group rules depends on the last place of its scale
    for (int which = 0; which < 2; ++which) {
      const super_block<groups> start = out;
      double best = error_under(start, x, count, scale, minimum);
      for (int step = -1; step <= 1; step += 2) {
        super_block<groups> other = start;
        std::uint16_t& bits = which == 0 ? other.d.bits : other.dmin.bits;
        if (bits == 0 || bits >= 0x7bff) continue;
        bits = std::uint16_t(bits + step);
        const double error = error_under(other, x, count, scale, minimum);
        if (error < best) best = error, out = other;
      }
    }
    const float d = to_float(out.d), dmin = to_float(out.dmin);
    for (int g = 0; g < groups; ++g) {
      const int near_scale = nearest_under(scale[g], d), near_minimum = nearest_under(minimum[g], dmin);
      const float* const first = x + g * group;
      double best = -1.0;
      for (int s = near_scale - 1; s <= near_scale + 1 && d > 0.0f; ++s)
        for (int m = near_minimum - 1; m <= near_minimum + 1; ++m) {
          if (s < 1 || s > 63 || m < 0 || m > (dmin > 0.0f ? 63 : 0)) continue;
          const double error = detail::error_of(first, members(g, count), most, double(d) * s, double(dmin) * m);
          if (best < 0 || error < best) best = error, out.scale[g] = std::uint8_t(s), out.minimum[g] = std::uint8_t(m);
        }
      const float s = d * float(out.scale[g]), m = dmin * float(out.minimum[g]);
      for (int i = 0; i < members(g, count); ++i) codes[g * group + i] = std::uint8_t(s > 0.0f ? detail::clamped(detail::round_even((first[i] + m) / s), most) : 0u);
    }
    return out;
  }

private:
  static int nearest_under(float x, float d) { return int(d > 0.0f ? detail::clamped(detail::round_even(x / d), 63) : 0u); }
  static double error_under(const super_block<groups>& b, const float* x, int count, const float* scale, const float* minimum) {
    const float d = to_float(b.d), dmin = to_float(b.dmin);
    double sum = 0;
    for (int g = 0; g < groups; ++g) {
      const double s = double(d) * nearest_under(scale[g], d), m = double(dmin) * nearest_under(minimum[g], dmin);
      if (s > 0) sum += detail::error_of(x + g * group, members(g, count), most, s, m);
      else
        for (int i = 0; i < members(g, count); ++i) sum += (double(x[g * group + i]) + m) * (double(x[g * group + i]) + m);
    }
    return sum;
  }
  static int members(int g, int count) {
    const int left = count - g * group;
    return left < 0 ? 0 : left < group ? left : group;
  }
  static void search(const float* x, int count, float& scale, float& minimum) {
    const detail::bounds b = detail::bounds_of(x, count, 0.0f);      // the minimum is subtracted, so it is never below zero
    scale = (b.high - b.low) / float(most), minimum = -b.low;
    if (!(scale > 0.0f)) return;
    double best = detail::error_of(x, count, most, scale, minimum);
    for (int candidate = -10; candidate <= 20; ++candidate) {
      const float inverse = (float(most) + 0.1f * float(candidate)) / (b.high - b.low);
      double n = 0, q = 0, qq = 0, sx = 0, qx = 0;
      for (int i = 0; i < count; ++i) {
        const double code = detail::clamped(detail::round_even((x[i] - b.low) * inverse), most);
        n += 1, q += code, qq += code * code, sx += double(x[i]), qx += code * double(x[i]);
      }
      const double determinant = n * qq - q * q;
      if (determinant <= 0) continue;
      double s = (n * qx - q * sx) / determinant, m = (q * qx - qq * sx) / determinant;
      if (m < 0) m = 0, s = qq > 0 ? qx / qq : 0;
      if (!(s > 0)) continue;
      const double error = detail::error_of(x, count, most, s, m);
      if (error < best) best = error, scale = float(s), minimum = float(m);
    }
  }
};
using q4_k_quantizer = k_minimum_quantizer<4>;
using q5_k_quantizer = k_minimum_quantizer<5>;

//! What q6_k stores: weight = (code - 32) * (d * scale[g]).
struct q6_k_block {
  fp16 d;
  std::int8_t scale[16];
};
//! q6_k: for each group of 16 the signed scale with the least squared error of a search, the one of largest magnitude mapped
//! to -128; then codes for what is stored.
struct q6_k_quantizer {
  static constexpr int groups = 16, group = 16;
  q6_k_block operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    q6_k_block out{};
    float scale[groups] = {}, reach = 0.0f;
    for (int g = 0; g < groups; ++g) {
      const int left = count - g * group;
      scale[g] = search(x + g * group, left < 0 ? 0 : left < group ? left : group);
      if (magnitude(scale[g]) > magnitude(reach)) reach = scale[g];
    }
    out.d = narrow<fp16>(reach / -128.0f);
    const float d = to_float(out.d);
    for (int g = 0; g < groups; ++g) {
      const float stored = d != 0.0f ? detail::round_even(scale[g] / d) : 0.0f;
      out.scale[g] = std::int8_t(stored > 127.0f ? 127.0f : stored < -128.0f ? -128.0f : stored);
      const float s = d * float(out.scale[g]);
      for (int i = g * group; i < (g + 1) * group && i < count; ++i) codes[i] = std::uint8_t(s != 0.0f ? offset_int<6>::encode(x[i] / s, tie::even) : 32u);
    }
    return out;
  }

private:
  static float search(const float* x, int count) {
    float reach = 0.0f;      // with its sign
    for (int i = 0; i < count; ++i)
      if (magnitude(x[i]) > magnitude(reach)) reach = x[i];
    if (reach == 0.0f) return 0.0f;
    double best = -1.0;
    float answer = 0.0f;
    for (int turn = 0; turn <= 18; ++turn) {      // 0, then either side of it: the plain scale wins where others are no better
      const int candidate = turn % 2 == 0 ? -turn / 2 : (turn + 1) / 2;
      const float inverse = -(32.0f + 0.1f * float(candidate)) / reach;
      double qq = 0, qx = 0;
      for (int i = 0; i < count; ++i) {
        const double code = offset_int<6>::value(offset_int<6>::encode(x[i] * inverse, tie::even));
        qq += code * code, qx += code * double(x[i]);
      }
      if (qq > 0 && qx * qx > best * qq * (1 + 1e-9)) best = qx * qx / qq, answer = float(qx / qq);      // the error is sum x^2 - qx^2 / qq
    }
    return answer;
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
