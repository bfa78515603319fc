// Integer weights as their producers round them: GPTQ's round to nearest, AWQ's, compressed-tensors', ModelOpt's,
// tinygemm's. Blocks of one group; codes are offset binary or unsigned with a zero.
#pragma once
#include <cstdint>
#include <smalti/policy/codecs/integer.hpp>
#include <smalti/policy/quantizer.hpp>

namespace smalti::inline SMALTI_DATA::policy {

namespace detail {
// To the nearest integer, even on a tie; |x| below 2^22, else as it is.
inline float round_even(float x) {
  if (!(magnitude(x) < 4194304.0f)) return x;
  const float down = float(int(x)), rest = x - down;      // towards zero; the rest is exact
  const bool odd = (int(x) & 1) != 0;
  if (rest > 0.5f || (rest == 0.5f && odd)) return down + 1.0f;
  if (rest < -0.5f || (rest == -0.5f && odd)) return down - 1.0f;
  return down;
}
inline unsigned clamped(float x, int most) { return !(x > 0.0f) ? 0u : x >= float(most) ? unsigned(most) : unsigned(x); }
struct bounds {
  float low, high;
};
inline bounds bounds_of(const float* x, int count, float start) {
  bounds b{start, start};
  for (int i = 0; i < count; ++i) b.low = x[i] < b.low ? x[i] : b.low, b.high = x[i] > b.high ? x[i] : b.high;
  return b;
}
}  // namespace detail

//! auto-gptq's Quantizer: zero is always within the range; scale = (high - low) / (2^Bits - 1), symmetric ranges are
//! mirrored and then have zero 2^(Bits - 1); code = clamp(round(x / scale) + zero). A block of zeros is taken for [-1, 1].
//! The scale is used as float and stored as fp16.
template <int Bits, bool Symmetric> struct gptq_quantizer {
  static constexpr int most = (1 << Bits) - 1;
  scale_and_zero<float> operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    detail::bounds b = detail::bounds_of(x, count, 0.0f);
    if constexpr (Symmetric) {
      const float reach = -b.low > b.high ? -b.low : b.high;
      b.high = reach;
      if (b.low < 0.0f) b.low = -reach;
    }
    if (b.low == 0.0f && b.high == 0.0f) b = {-1.0f, 1.0f};
    const float scale = (b.high - b.low) / float(most);
    const float zero = Symmetric ? float(most + 1) / 2 : detail::round_even(-b.low / scale);
    for (int i = 0; i < count; ++i) codes[i] = std::uint8_t(detail::clamped(detail::round_even(x[i] / scale) + zero, most));
    return {scale, std::uint8_t(zero)};
  }
};

//! AWQ's: scale = max(high - low, 1e-5) / (2^Bits - 1) with the block's own bounds, zero = clamp(-round(low / scale)),
//! code = clamp(round(x / scale) + zero).
template <int Bits> struct awq_quantizer {
  static constexpr int most = (1 << Bits) - 1;
  scale_and_zero<float> operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    const detail::bounds b = detail::bounds_of(x, count, count > 0 ? x[0] : 0.0f);
    const float range = b.high - b.low, scale = (range > 1e-5f ? range : 1e-5f) / float(most);
    const float zero = float(detail::clamped(-detail::round_even(b.low / scale), most));
    for (int i = 0; i < count; ++i) codes[i] = std::uint8_t(detail::clamped(detail::round_even(x[i] / scale) + zero, most));
    return {scale, std::uint8_t(zero)};
  }
};

//! compressed-tensors': the range includes zero. Symmetric: scale = 2 amax / (2^Bits - 1). Asymmetric: scale =
//! (high - low) / (2^Bits - 1), zero = clamp(round(-2^(Bits - 1) - low / scale)). A scale of zero becomes 2^-23, and its
//! zero 0. Zeros and codes are returned offset by 2^(Bits - 1), as they are packed.
template <int Bits, bool Symmetric> struct compressed_tensors_quantizer {
  static constexpr int most = (1 << Bits) - 1, half = 1 << (Bits - 1);
  scale_and_zero<float> operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    const detail::bounds b = detail::bounds_of(x, count, 0.0f);
    const float reach = -b.low > b.high ? -b.low : b.high;
    float scale = Symmetric ? reach / (float(most) / 2) : (b.high - b.low) / float(most);
    const bool empty = scale == 0.0f;
    if (empty) scale = 0x1p-23f;
    const float low = Symmetric ? 0.0f : b.low / scale;
    const float zero = Symmetric || empty ? float(half) : float(detail::clamped(detail::round_even(float(-half) - low) + float(half), most));
    for (int i = 0; i < count; ++i) codes[i] = std::uint8_t(detail::clamped(detail::round_even(x[i] / scale + (zero - float(half))) + float(half), most));
    return {scale, std::uint8_t(zero)};
  }
};

//! ModelOpt's INT4: stored = 7 (1 / amax), which divides; code = clamp(round(x * stored), -8, 7) + 8.
struct modelopt_int4_quantizer {
  float operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    const float stored = 7.0f * (1.0f / absmax{}.reach<offset_int<4>>(x, count));
    for (int i = 0; i < count; ++i) codes[i] = std::uint8_t(offset_int<4>::encode(x[i] * stored, tie::even));
    return stored;
  }
};

//! What tinygemm stores: weight = (code - 8) scale + zero, both bf16.
struct tinygemm_block {
  bf16 scale, zero;
};
//! scale = max((high - low) / 15, 1e-6); zero = low + 8 scale; both rounded to bf16 before codes are chosen:
//! code =
//! clamp(round((x - low) / scale)) with low = zero - 8 scale in bf16 once more.
struct tinygemm_quantizer {
  tinygemm_block operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    const detail::bounds b = detail::bounds_of(x, count, count > 0 ? x[0] : 0.0f);
    const float exact = (b.high - b.low) / 15.0f, raised = exact > 1e-6f ? exact : 1e-6f;
    const tinygemm_block stored{narrow<bf16>(raised), narrow<bf16>(b.low + rounded(raised * 8.0f))};
    const float scale = to_float(stored.scale), low = to_float(narrow<bf16>(to_float(stored.zero) - scale * 8.0f));
    for (int i = 0; i < count; ++i) codes[i] = std::uint8_t(detail::clamped(detail::round_even((x[i] - low) / scale), 15));
    return stored;
  }
};

//! Integers for activations, symmetric: scale = amax / (2^(Bits - 1) - 1), code = round(x / scale), never below
//! -(2^(Bits - 1) - 1). ops/quantize.hpp does the same on every machine.
template <int Bits, class Element = float> using symmetric_integers = symmetric_quantizer<offset_int<Bits>, Element>;

//! bitsandbytes' rows of int8: code = round(x * (127 / amax)), stored amax; value = code * amax / 127.
struct bitsandbytes_int8_quantizer {
  float operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    const float reach = absmax{}.reach<offset_int<8>>(x, count), inverse = 127.0f / reach;
    for (int i = 0; i < count; ++i) codes[i] = std::uint8_t(offset_int<8>::encode(rounded(x[i] * inverse), tie::even));
    return reach;
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
