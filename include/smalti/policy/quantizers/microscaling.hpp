// Blocks under a power of two (MXFP4, MXFP6, MXFP8) and under an E4M3 scale (NVFP4), with the rules that producers differ in:
// how the scale follows from the largest magnitude, where a tie goes, and which codes zeros get.
#pragma once
#include <cstdint>
#include <smalti/policy/codecs/small_float.hpp>
#include <smalti/policy/quantizer.hpp>

namespace smalti::inline SMALTI_DATA::policy {

// ---- elements

//! Codes of numbers that round to zero, where a format has two.
enum class zero_sign : int {
  kept,        //!< the number's sign: ml_dtypes, torchao
  of_nonzero,  //!< -0 itself becomes 0: compressed-tensors, ModelOpt's NVFP4
  negative,    //!< 0 becomes -0, as all that is not above zero: ModelOpt's MXFP4
  never        //!< always code 0: ggml, DeepGEMM
};

//! A number as a code of a format with two zeros.
template <class Codec> constexpr unsigned encode_signed(float x, tie ties, zero_sign zeros) {
  constexpr unsigned sign = 1u << (Codec::bits - 1);
  const unsigned code = Codec::encode(x, ties);
  if ((code & ~sign) != 0) return code;
  switch (zeros) {
    case zero_sign::kept: return code;
    case zero_sign::of_nonzero: return x < 0.0f ? sign : 0u;
    case zero_sign::negative: return x > 0.0f ? 0u : sign;
    case zero_sign::never: return 0u;
  }
  return code;
}

// ---- the exponent of a block

//! How the power of two follows from the largest magnitude. The OCP specification's rule is `floor`; it clips up to a fifth of
//! the range (MXFP4: amax / scale lies in [4, 8)).
enum class mx_rule : int {
  floor,      //!< exponent of amax - emax (OCP, torchao FLOOR)
  ceil,       //!< the next power of two above amax, - emax (torchao CEIL)
  even,       //!< amax rounded to the element's significand first (torchao EVEN; compressed-tensors for MXFP4 and MXFP6)
  quarter,    //!< amax rounded up from 1.75 first (compressed-tensors for MXFP8)
  quotient    //!< ceil(log2(amax / largest element)): never clips (torchao RCEIL, ModelOpt)
};

namespace detail {
template <class Codec> constexpr int largest_exponent = int(float_bits(limit_of<Codec>) >> 23) - 127;
}

//! The exponent of a block's power of two, before it is clamped to [-127, 127].
template <class Codec> int mx_exponent(float reach, mx_rule rule) {
  const std::uint32_t bits = float_bits(reach);
  constexpr int top = detail::largest_exponent<Codec>;
  const auto exponent = [](std::uint32_t b) { return int(b >> 23) - 127; };
  switch (rule) {
    case mx_rule::floor: return exponent(bits) - top;
    case mx_rule::ceil: return exponent(bits) + int((bits & 0x007fffffu) != 0) - top;
    case mx_rule::even: return exponent(bits + (1u << (22 - Codec::form::fraction))) - top;
    case mx_rule::quarter: return exponent(bits + (1u << 21)) - top;
    case mx_rule::quotient: {
      const float e = reach > 0.0f ? __builtin_ceilf(__builtin_log2f(reach / limit_of<Codec>)) : -127.0f;
      return e < -127.0f ? -127 : e > 128.0f ? 128 : int(e);
    }
  }
  return 0;
}

//! A block of MX elements under one e8m0.
//! A NaN in the block makes the scale NaN (255), as the OCP specification has it; infinities saturate under the scale that
//! their exponent gives. quantize_rows refuses both before they come here.
template <class Codec, mx_rule Rule = mx_rule::floor, tie Ties = tie::even, zero_sign Zeros = zero_sign::kept>
struct mx_quantizer {
  e8m0 operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    bool nan = false;
    for (int i = 0; i < count; ++i) nan |= is_nan(x[i]);
    const float reach = absmax{}.reach<Codec>(x, count);
    int e = mx_exponent<Codec>(reach, Rule);
    e = e < -127 ? -127 : e > 127 ? 127 : e;
    // A scale below the least normal float is not used to divide: torchao raises it, and nothing above zero is lost.
    const float inverse = detail::power_of_two(e < -126 ? 126 : -e > -127 ? -e : -126), again = e == 127 ? 0.5f : 1.0f;
    for (int i = 0; i < count; ++i) codes[i] = std::uint8_t(encode_signed<Codec>(x[i] * inverse * again, Ties, Zeros));
    return {std::uint8_t(nan ? 255 : e + 127)};
  }
};

using mxfp4_floor = mx_quantizer<e2m1>;                                                                    //!< OCP
using mxfp4_compressed_tensors = mx_quantizer<e2m1, mx_rule::even, tie::even, zero_sign::of_nonzero>;
using mxfp4_modelopt = mx_quantizer<e2m1, mx_rule::quotient, tie::toward_zero, zero_sign::negative>;

// ---- NVFP4: E4M3 scales per 16 under one float

//! The tensor scale that multiplies: amax / (448 * 6).
inline float nvfp4_tensor_scale(float reach) { return reach / (448.0f * 6.0f); }

//! Blocks of 16 as ModelOpt makes them: scale = e4m3(amax / (6 tensor)), 1 for a block of zeros; code = e2m1(x / (scale *
//! tensor)), even.
struct nvfp4_modelopt_quantizer {
  float tensor = 1.0f;
  fp8_e4m3 operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    const float reach = absmax{}.reach<e2m1>(x, count);
    const float exact = reach / (6.0f * tensor);
    const fp8_e4m3 stored = reach == 0.0f ? narrow<fp8_e4m3>(1.0f) : narrow<fp8_e4m3>(exact);
    const float scale = to_float(stored) * tensor;
    for (int i = 0; i < count; ++i) codes[i] = std::uint8_t(scale > 0.0f ? encode_signed<e2m1>(x[i] / scale, tie::even, zero_sign::of_nonzero) : 0u);
    return stored;
  }
};

//! compressed-tensors: divisor = 2688 / amax of the tensor; scale = e4m3(divisor * (amax / 6)), 0.125 for a block of zeros;
//! code = e2m1(x / (scale / divisor)), even.
struct nvfp4_compressed_tensors_quantizer {
  float divisor = 1.0f;
  fp8_e4m3 operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    const float reach = absmax{}.reach<e2m1>(x, count);
    const fp8_e4m3 rounded_scale = narrow<fp8_e4m3>(divisor * (reach / 6.0f));
    const fp8_e4m3 stored = to_float(rounded_scale) == 0.0f ? narrow<fp8_e4m3>(0.125f) : rounded_scale;
    const float scale = to_float(stored) / divisor;
    for (int i = 0; i < count; ++i) codes[i] = std::uint8_t(encode_signed<e2m1>(x[i] / scale, tie::even, zero_sign::of_nonzero));
    return stored;
  }
};

//! torchao: scale = e4m3(clamp(amax / 6 / tensor, 2^-6, 448)), so that no scale is subnormal; x is multiplied by the
//! reciprocal (1 / tensor) / scale. tensor 1 is the form of one level.
struct nvfp4_torchao_quantizer {
  float tensor = 1.0f;
  fp8_e4m3 operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    const float reach = absmax{}.reach<e2m1>(x, count), exact = (reach / 6.0f) / tensor;
    const fp8_e4m3 stored = narrow<fp8_e4m3>(exact < 0x1p-6f ? 0x1p-6f : exact > 448.0f ? 448.0f : exact);
    const float inverse = (1.0f / tensor) / to_float(stored);
    for (int i = 0; i < count; ++i) {
      const float y = x[i] * inverse;
      codes[i] = std::uint8_t(e2m1::encode(y, tie::even));
    }
    return stored;
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
