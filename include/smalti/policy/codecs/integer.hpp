// Integers: value = code - Offset.
#pragma once
#include <cstdint>
#include <smalti/policy/codecs/element.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Bits-wide codes with value = code - Offset: Offset 2^(Bits - 1) stores signed numbers (offset binary, as GPTQ, AWQ
//! and GGUF do), Offset 0 unsigned ones. A zero point that varies belongs to the scales.
//! A NaN becomes the code nearest to zero.
template <int Bits, int Offset = 1 << (Bits - 1)>
struct offset_int {
  static_assert(Bits >= 1 && Bits <= 8, "smalti: an integer code has 1 to 8 bits");
  static_assert(Offset >= 0 && Offset <= (1 << Bits), "smalti: Offset is a code: from 0 to 2^Bits");
  static constexpr int bits = Bits, offset = Offset;
  static constexpr int largest = (1 << Bits) - 1;
  static constexpr int zero_code = Offset <= largest ? Offset : no_zero;

  SMALTI_HD static constexpr float value(unsigned code) { return float(int(code) - Offset); }

  SMALTI_HD static constexpr unsigned encode(float x, tie ties = tie::even) { return encode_by(x, to_nearest{ties}); }
  template <class Rule> SMALTI_HD static constexpr unsigned encode_by(float x, Rule rule) {
    if (is_nan(x)) return unsigned(zero_code == no_zero ? largest : zero_code);
    const float least = float(-Offset), most = float(largest - Offset);
    if (x <= least) return 0;
    if (x >= most) return unsigned(largest);
    const float magnitude = x < 0.0f ? -x : x;      // of which floor's remainder is exact
    const int below = int(magnitude);
    const int n = below + int(rule(magnitude - float(below), below % 2 == 0, x < 0.0f));
    return unsigned(Offset + (x < 0.0f ? -n : n));
  }

  // One number with the code in its last places: 128 + code in bf16 (7 explicit bits), 1024 + code in fp16 (10). bf16
  // lacks a place for the eighth bit, which decides which power of two is subtracted: (128 + c % 128) - (256 or 128)
  // is the code less 128 or 128 + c % 128 - 128.
  template <class T> static constexpr bool has_bias_pairs = Bits == 8 && std::is_same_v<T, bf16>;
  template <class T> static constexpr float bias = (std::is_same_v<T, bf16> ? 128.0f : 1024.0f) + float(Offset);
  template <class T> static constexpr float factor = 1.0f;

  template <class T, class V> SMALTI_HD static constexpr auto pairs(V codes) {
    static_assert(detail::is_operand<T>, "smalti: pairs of codes become pairs of bf16 or fp16");
    if constexpr (has_bias_pairs<T>) return (codes & std::uint32_t(0x007f007fu)) | std::uint32_t(0x43004300u);
    else return codes | std::uint32_t(std::is_same_v<T, bf16> ? 0x43004300u : 0x64006400u);
  }
  //! Eight bits to bf16: the pattern of 256 where the code is below 128, of 128 where it is not, for Offset 128; for
  //! Offset 0 the pattern of 128 and 0.
  template <class T, class V> SMALTI_HD static constexpr auto bias_pairs(V codes) {
    static_assert(has_bias_pairs<T>, "smalti: only eight bits in bf16 have no constant bias");
    static_assert(Offset == 128 || Offset == 0, "smalti: eight-bit codes become bf16 with an offset of 128 or 0: keep another offset as the zero point of the scales");
    if constexpr (Offset == 128) return (codes & std::uint32_t(0x00800080u)) ^ std::uint32_t(0x43804380u);
    else return ((codes >> std::uint32_t(7) & std::uint32_t(0x00010001u)) ^ std::uint32_t(0x00010001u)) * std::uint32_t(0x4300u);
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
