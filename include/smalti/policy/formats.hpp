// Formats of weights: a codec of elements and the scales that go with it, under the names users know.
#pragma once
#include <cstdint>
#include <smalti/policy/codecs/integer.hpp>
#include <smalti/policy/codecs/lookup.hpp>
#include <smalti/policy/codecs/small_float.hpp>
#include <smalti/policy/scales.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! A codec and its scales. Any pair is a format; the names below are the ones that checkpoints use.
template <class Codec, class Scales>
struct format {
  using codec = Codec;
  using scales = Scales;
  static constexpr int bits = Codec::bits, group = Scales::group_k;
  static_assert(explain_codec<Codec>() && explain_scales<Scales>());
};
//! One weight: (value(code) - zero) * scale, or value(code) * scale + zero where the zero is a minimum. scale and zero are
//! effective, in float; a product of exact operands is rounded once, as every producer does it.
template <class F> SMALTI_HD constexpr float weight(unsigned code, float scale, float zero = 0.0f) {
  if constexpr (F::scales::zero == zero_point::floating) return F::codec::value(code) * scale + zero;
  else if constexpr (F::scales::zero == zero_point::integer) return (F::codec::value(code) - zero) * scale;
  else return F::codec::value(code) * scale;
}

template <class F>
concept weight_format = element_codec<typename F::codec> && weight_scales<typename F::scales>;

//! Integers of Bits bits with one scale for each Group codes along K (0: one for each output). Codes are offset binary,
//! value = code - 2^(Bits - 1); with an integer zero point the codes are unsigned and the zero says what to subtract.
template <int Bits, int Group, zero_point Zero = zero_point::none, class Element = fp16>
struct int_affine : format<offset_int<Bits, Zero == zero_point::none ? 1 << (Bits - 1) : 0>, policy::scales<Element, Group, 1, Zero>> {
  static constexpr int offset = Zero == zero_point::none ? 1 << (Bits - 1) : 0;
};
template <int Group, zero_point Zero = zero_point::integer, class Element = fp16> using int4_affine = int_affine<4, Group, Zero, Element>;
template <int Group, zero_point Zero = zero_point::integer, class Element = fp16> using int8_affine = int_affine<8, Group, Zero, Element>;

//! Four bits, value = code - 8, one float for each `Group` codes along K.
template <int Group> struct int4_symmetric : int_affine<4, Group, zero_point::none, float> {
  static_assert(Group > 0 && Group % 32 == 0, "smalti: int4_symmetric needs a group that is a multiple of 32: choose another group");
};

// GGUF. Bytes on disk are in the documentation of the readers; here codes are neutral.
using q4_0 = format<offset_int<4>, scales<fp16, 32>>;                                                       //!< (q - 8) d
using q4_1 = format<offset_int<4, 0>, scales<fp16, 32, 1, zero_point::floating>>;                           //!< q d + m
using q5_0 = format<offset_int<5>, scales<fp16, 32>>;                                                       //!< (q - 16) d
using q5_1 = format<offset_int<5, 0>, scales<fp16, 32, 1, zero_point::floating>>;                           //!< q d + m
using q8_0 = format<offset_int<8>, scales<fp16, 32>>;                                                       //!< (q - 128) d: stored int8 plus 128
using q4_k = format<offset_int<4, 0>, scales<std::uint8_t, 32, 1, zero_point::floating, super<fp16, 8, -1>>>;   //!< q (d s) - dmin m, s and m of 6 bits
using q5_k = format<offset_int<5, 0>, scales<std::uint8_t, 32, 1, zero_point::floating, super<fp16, 8, -1>>>;
using q6_k = format<offset_int<6>, scales<std::int8_t, 16, 1, zero_point::none, super<fp16, 16>>>;              //!< (q - 32) (d s)

// Microscaling (OCP): one power of two for each 32 elements.
using mxfp4 = format<e2m1, scales<e8m0, 32>>;
using mxfp6_e3m2 = format<e3m2, scales<e8m0, 32>>;
using mxfp6_e2m3 = format<e2m3, scales<e8m0, 32>>;
using mxfp8_e4m3 = format<e4m3_finite, scales<e8m0, 32>>;
using mxfp8_e5m2 = format<e5m2_finite, scales<e8m0, 32>>;

//! NVFP4 with a tensor scale that multiplies, amax / 2688 (ModelOpt, torchao), or divides, 2688 / amax (compressed-tensors).
//! Checkpoints hold both: a type tells them apart.
using nvfp4_multiplier = format<e2m1, scales<fp8_e4m3, 16, 1, zero_point::none, tensor_multiplier>>;
using nvfp4_divisor = format<e2m1, scales<fp8_e4m3, 16, 1, zero_point::none, tensor_divisor>>;

//! bitsandbytes: blocks of 64 in the flattened weight. With K a multiple of the block they are groups along k; otherwise
//! the greatest common divisor of both is.
template <int Group = 64> using bnb_nf4 = format<nf4, scales<float, Group>>;
template <int Group = 64> using bnb_fp4 = format<fp4, scales<float, Group>>;
template <int Group = 64> using bnb_nf4_double = format<nf4, scales<std::uint8_t, Group, 1, zero_point::none, double_quantized<256>>>;
template <int Group = 64> using bnb_fp4_double = format<fp4, scales<std::uint8_t, Group, 1, zero_point::none, double_quantized<256>>>;

// FP8 weights.
using fp8_tensor = format<e4m3_finite, scales<float, 0, 0>>;
using fp8_channel = format<e4m3_finite, scales<float, 0>>;
using fp8_block = format<e4m3_finite, scales<float, 128, 128>>;    //!< DeepSeek-V3's weights
using fp8_row_block = format<e4m3_finite, scales<float, 128>>;     //!< and its activations as a weight: a scale for 128 of each row

}  // namespace smalti::inline SMALTI_DATA::policy
