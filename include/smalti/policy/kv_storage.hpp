// What a cache keeps of a key or value: how many bits a channel has, and what it needs beside them. A storage is a
// description, in bytes; the codecs that encode and decode are models of it. A pool remembers its format, so that memory
// of two formats is never mixed.
#pragma once
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

enum class kv_part : std::uint8_t { key, value };

//! What one channel of one token is stored as. Formats of your own count from `user` on: kv_code(int(kv_code::user) + n).
enum class kv_code : std::uint8_t { f32, bf16, fp16, e4m3, e5m2, e2m1, int8, int4, int3, int2, user = 128 };

//! Along what the elements of a quantization group follow each other: channels of one token (quantized per token), or
//! tokens of one channel (quantized per channel). none: no groups, at most one scale for a whole tensor, kept elsewhere.
enum class kv_axis : std::uint8_t { none, channels, tokens };

//! All that must be equal for two memories to be interchangeable.
struct kv_format {
  kv_code code = kv_code::bf16;
  std::uint8_t bits = 16;                     //!< of a code
  std::uint8_t scale_bytes = 0;               //!< what a group keeps beside its codes: scale, offset, ...
  kv_axis key_axis = kv_axis::none, value_axis = kv_axis::none;
  std::int32_t key_group = 0, value_group = 0;  //!< 0 with kv_axis::channels: all channels of a head
  kv_code scale = kv_code::f32;               //!< what scales are stored as
  bool minima = false;                        //!< a group keeps a minimum beside its scale
  friend constexpr bool operator==(const kv_format&, const kv_format&) = default;
};

//! Bytes of one head of one page, keys or values.
struct kv_bytes {
  long long codes = 0, scales = 0;
  constexpr long long total() const { return codes + scales; }
};

//! The bytes of `tokens` tokens of `dim` channels in a format: dim * tokens * bits / 8 of codes, and scale_bytes for each group.
constexpr kv_bytes bytes_of(const kv_format& f, kv_part part, int dim, int tokens) {
  const long long elements = static_cast<long long>(dim) * tokens;
  const int asked = part == kv_part::key ? f.key_group : f.value_group, group = asked > 0 ? asked : dim > 0 ? dim : 1;
  const bool grouped = (part == kv_part::key ? f.key_axis : f.value_axis) != kv_axis::none;
  return {elements * f.bits / 8, grouped ? elements / group * f.scale_bytes : 0};
}

namespace detail {
constexpr bool groups_fit(kv_axis axis, int group, int dim, int tokens) {
  return axis == kv_axis::none || dim == 0 || group == 0 || (axis == kv_axis::channels ? dim : tokens) % group == 0;
}
}  // namespace detail

//! Refuses dims and pages that groups do not divide: a group never crosses a token (channels) or a page (tokens), since
//! pages change hands between sequences.
constexpr status check_format(const kv_format& f, int key_dim, int value_dim, int tokens) {
  if (!detail::groups_fit(f.key_axis, f.key_group, key_dim, tokens))
    return f.key_axis == kv_axis::channels ? status{errc::bad_shape, "key_dim must be a multiple of the storage's group of channels", key_dim, f.key_group}
                                           : status{errc::bad_shape, "page must be a multiple of the storage's group of tokens", tokens, f.key_group};
  if (!detail::groups_fit(f.value_axis, f.value_group, value_dim, tokens))
    return f.value_axis == kv_axis::channels ? status{errc::bad_shape, "value_dim must be a multiple of the storage's group of channels", value_dim, f.value_group}
                                             : status{errc::bad_shape, "page must be a multiple of the storage's group of tokens", tokens, f.value_group};
  if (static_cast<long long>(key_dim) * tokens * f.bits % 8 != 0 || static_cast<long long>(value_dim) * tokens * f.bits % 8 != 0)
    return {errc::bad_shape, "a head's codes in a page must fill whole bytes: take more tokens for a page", static_cast<long long>(key_dim) * tokens * f.bits, 8};
  return {};
}

namespace detail {
template <class T> constexpr kv_code code_of() {
  if constexpr (std::is_same_v<T, float>) return kv_code::f32;
  else if constexpr (std::is_same_v<T, smalti::bf16>) return kv_code::bf16;
  else if constexpr (std::is_same_v<T, smalti::fp16>) return kv_code::fp16;
  else if constexpr (std::is_same_v<T, smalti::fp8_e4m3>) return kv_code::e4m3;
  else return kv_code::e5m2;
}
template <class T>
constexpr bool plain_element = std::is_same_v<T, float> || std::is_same_v<T, smalti::bf16> || std::is_same_v<T, smalti::fp16> ||
                               std::is_same_v<T, smalti::fp8_e4m3> || std::is_same_v<T, smalti::fp8_e5m2>;
}  // namespace detail

//! Floats as they are: value = scale * element, one scale for a tensor (1 unless T has 8 bits), which the pool does not hold.
template <class T> struct kv_plain {
  static_assert(detail::plain_element<T>, "smalti: kv_plain stores float, bf16, fp16, fp8_e4m3 or fp8_e5m2: use kv_grouped for integers and for scales in the pool");
  using element = T;
  static constexpr kv_format format{.code = detail::code_of<T>(), .bits = 8 * sizeof(T)};
};

//! Codes in groups that each keep ScaleBytes beside them. Some of the field's formats:
//!     kv_grouped<kv_code::e4m3, 8, 4, kv_axis::channels, 128>                                     fp8, a float for 128 channels
//!     kv_grouped<kv_code::e2m1, 4, 1, kv_axis::channels, 16>                                      NVFP4
//!     kv_grouped<kv_code::int2, 2, 4, kv_axis::tokens, 32, kv_axis::channels, 32>                 KIVI: fp16 scale and minimum
template <kv_code Code, int Bits, int ScaleBytes, kv_axis KeyAxis, int KeyGroup, kv_axis ValueAxis = KeyAxis, int ValueGroup = KeyGroup>
struct kv_grouped {
  static_assert(Bits >= 1 && Bits <= 32, "smalti: a code of kv_grouped has 1 to 32 bits");
  static_assert(ScaleBytes >= 0 && ScaleBytes < 256, "smalti: a group of kv_grouped keeps 0 to 255 bytes beside its codes");
  static_assert((KeyAxis == kv_axis::none || KeyGroup > 0) && (ValueAxis == kv_axis::none || ValueGroup > 0), "smalti: a group of kv_grouped has at least one element");
  static constexpr kv_format format{Code, Bits, ScaleBytes, KeyAxis, ValueAxis, KeyGroup, ValueGroup};
};

template <class S>
concept kv_storage = std::is_empty_v<S> && requires { { S::format } -> std::convertible_to<kv_format>; };

template <class S> consteval bool explain_kv_storage() {
  static_assert(std::is_empty_v<S>, "smalti: a storage of keys and values is an empty type: policy::kv_plain<T> or policy::kv_grouped<...>");
  static_assert(requires { { S::format } -> std::convertible_to<kv_format>; },
                "smalti: a storage of keys and values needs  static constexpr kv_format format, from which its bytes follow");
  return true;
}

}  // namespace smalti::inline SMALTI_DATA::policy
