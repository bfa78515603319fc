// Keys and values as integers in groups: what a group keeps, how a number becomes a code and a code a number, and where the
// codes of a token lie in its words. Models of kv_storage: a paged cache takes one as its storage, cache::append encodes
// with it, attention decodes.
#pragma once
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <smalti/core/float.hpp>
#include <smalti/policy/codecs/integer.hpp>
#include <smalti/policy/kv_storage.hpp>
#include <smalti/policy/scalar.hpp>
#include <smalti/policy/word_planes.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! symmetric: x = (code - 2^(b-1)) s with s = max |x| / (2^(b-1) - 1), codes of both signs alike. affine: x = code s + m with m the
//! smallest x and s = (largest - m) / (2^b - 1).
enum class kv_scaling : std::uint8_t { symmetric, affine };

//! Integers of Bits bits, a scale (and minimum) for each group of one head's numbers.
//!
//! Codes of a token and head are a row of D Bits / 32 words (word_planes<Bits, 2, words>: pairs of neighbouring channels, which a
//! few instructions turn into two operands on either machine). Scales are rows of their own: of a token, D / group scales, then as
//! many minima (axis channels); of a group of tokens, D scales, then D minima (axis tokens).
//!
//! @tparam Scale      how scales and minima are stored: fp16, bf16 or float
//! @tparam KeyGroup   numbers that share a scale: channels of one token (kv_axis::channels; divides D, 0: all of them), or tokens of one
//!                    channel (kv_axis::tokens; divides the page)
//! @note error of a number: s / 2, and what rounding scale and minimum to Scale costs: |m| 2^-11 + (2^b - 1) s 2^-11 for fp16; then half
//!       a unit of the operand's last place, since a decoded number is rounded once. A group with a NaN or an infinity decodes to NaN.
template <int Bits, kv_scaling Scaling, class Scale, kv_axis KeyAxis, int KeyGroup, kv_axis ValueAxis = KeyAxis, int ValueGroup = KeyGroup>
struct kv_integer {
  static_assert(Bits == 8 || Bits == 4 || Bits == 2, "smalti: integer keys and values have 8, 4 or 2 bits");
  static_assert(std::is_same_v<Scale, fp16> || std::is_same_v<Scale, bf16> || std::is_same_v<Scale, float>, "smalti: scales of keys and values are stored as fp16, bf16 or float");
  static_assert(KeyAxis != kv_axis::none && ValueAxis != kv_axis::none, "smalti: integer keys and values have groups: say kv_axis::channels or kv_axis::tokens");
  static_assert(KeyGroup >= 0 && ValueGroup >= 0 && (KeyAxis == kv_axis::channels || KeyGroup > 0) && (ValueAxis == kv_axis::channels || ValueGroup > 0),
                "smalti: a group of tokens has at least one; 0 means all channels of a head, for kv_axis::channels");
  static_assert((KeyGroup % 16 == 0 || KeyAxis == kv_axis::tokens) && (ValueGroup % 16 == 0 || ValueAxis == kv_axis::tokens), "smalti: a group of channels is a multiple of 16, or 0 for all of them");

  static constexpr int bits = Bits;
  static constexpr bool affine = Scaling == kv_scaling::affine;
  using codec = offset_int<Bits, affine ? 0 : 1 << (Bits - 1)>;
  using scale = Scale;
  static constexpr int scale_bytes = static_cast<int>(sizeof(Scale)) * (affine ? 2 : 1);
  static constexpr kv_format format{.code = Bits == 8 ? kv_code::int8 : Bits == 4 ? kv_code::int4 : kv_code::int2,
                                    .bits = Bits,
                                    .scale_bytes = scale_bytes,
                                    .key_axis = KeyAxis,
                                    .value_axis = ValueAxis,
                                    .key_group = KeyGroup,
                                    .value_group = ValueGroup,
                                    .scale = std::is_same_v<Scale, float> ? kv_code::f32 : std::is_same_v<Scale, bf16> ? kv_code::bf16 : kv_code::fp16,
                                    .minima = affine};

  //! Where things lie in the rows of heads of D channels.
  template <kv_part Part, int D> struct rows_of {
    static constexpr kv_axis axis = Part == kv_part::key ? KeyAxis : ValueAxis;
    static constexpr int asked = Part == kv_part::key ? KeyGroup : ValueGroup;
    static constexpr int tokens = axis == kv_axis::tokens ? asked : 1;                              //!< that share scales
    static constexpr int channels = axis == kv_axis::tokens ? 1 : asked == 0 ? D : asked;           //!< that share a scale
    static_assert(D * Bits % 128 == 0 && D % 32 == 0, "smalti: integer keys and values need head dims of whole 16-byte rows: multiples of 32, of 64 for 2 bits");
    static_assert(D % channels == 0, "smalti: a group of channels divides the head dim");
    static constexpr int words = D * Bits / 32, scales = D / channels, width = scales * (affine ? 2 : 1);
    using planes = word_planes<Bits, 2, words>;
  };

  //! Rows of scales of a page of so many tokens, in a head.
  template <kv_part Part> static constexpr int scale_rows(int page) {
    return (Part == kv_part::key ? KeyAxis : ValueAxis) == kv_axis::tokens ? page / (Part == kv_part::key ? KeyGroup : ValueGroup) : page;
  }
  //! The scale of a group, as it is before it is stored. `reach`: the largest bits of a magnitude in it, as an int.
  template <class V, class W, class R> SMALTI_HD static auto scale_of(V least, W most, R reach) {
    using namespace scalar;
    const auto usable = reach < 0x7f800000;
    if constexpr (affine) return where(usable, (most - least) / float((1 << Bits) - 1), __builtin_nanf(""));
    else return where(usable, bits_float(reach) / float((1 << (Bits - 1)) - 1), __builtin_nanf(""));
  }
  //! The code of a number under the scale and minimum that are stored: the nearest, even on a tie.
  template <class V, class S, class M> SMALTI_HD static auto encode(V x, S scale, M minimum) {
    using namespace scalar;
    constexpr float magic = 12582912.0f;            // 3 * 2^22 has a last place of one: adding it rounds
    if constexpr (affine) {
      const auto steps = (x - minimum) / where(scale > 0.0f, scale, 1.0f);
      return to_int(min(max(steps, 0.0f), float((1 << Bits) - 1)) + magic - magic);
    } else {
      constexpr float most = float((1 << (Bits - 1)) - 1);
      const auto steps = x / where(scale > 0.0f, scale, 1.0f);
      return to_int(min(max(steps, -most), most) + magic - magic) + (1 << (Bits - 1));
    }
  }
};

//! One scale for `Group` channels of each token and head (0: for all of them), codes of both signs alike.
template <int Group = 0, class Scale = fp16> using kv_int8 = kv_integer<8, kv_scaling::symmetric, Scale, kv_axis::channels, Group>;
//! A scale and a minimum for `Group` channels of each token and head.
template <int Group = 32, class Scale = fp16> using kv_int4 = kv_integer<4, kv_scaling::affine, Scale, kv_axis::channels, Group>;
template <int Group = 32, class Scale = fp16> using kv_int2 = kv_integer<2, kv_scaling::affine, Scale, kv_axis::channels, Group>;
//! Keys for each channel in groups of tokens, values for each token in groups of channels: KIVI's storage.
template <int Bits = 2, int Group = 32, class Scale = fp16>
using kv_per_channel_keys = kv_integer<Bits, kv_scaling::affine, Scale, kv_axis::tokens, Group, kv_axis::channels, Group>;

template <class S> constexpr bool is_kv_integer = false;
template <int Bits, kv_scaling Scaling, class Scale, kv_axis KeyAxis, int KeyGroup, kv_axis ValueAxis, int ValueGroup>
constexpr bool is_kv_integer<kv_integer<Bits, Scaling, Scale, KeyAxis, KeyGroup, ValueAxis, ValueGroup>> = true;

}  // namespace smalti::inline SMALTI_DATA::policy
