// Reading untrusted bytes: little-endian numbers from any address, products that say when they do not fit, UTF-8.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string_view>
#include <type_traits>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::io {

static_assert(std::endian::native == std::endian::little,
              "smalti: model files are little-endian, and so must be the machine that reads them");

using bytes = std::span<const std::byte>;

namespace detail {

//! The T at byte `at`, which need not be aligned. @pre at + sizeof(T) <= b.size()
template <class T> T load(bytes b, std::uint64_t at) {
  static_assert(std::is_trivially_copyable_v<T>);
  T x;
  std::memcpy(&x, b.data() + at, sizeof x);
  return x;
}

//! product = product * factor, or false and product unchanged where that does not fit.
[[nodiscard]] constexpr bool multiply(std::uint64_t& product, std::uint64_t factor) {
  std::uint64_t p = 0;
  if (__builtin_mul_overflow(product, factor, &p)) return false;
  product = p;
  return true;
}

//! Elements of a shape. False where an extent, or the product of those that are not zero, is past 2^63 - 1: the answer does
//! not depend on where a zero stands.
template <class Extents> [[nodiscard]] constexpr bool elements(const Extents& extents, std::uint64_t& count) {
  constexpr std::uint64_t most = std::numeric_limits<std::int64_t>::max();
  std::uint64_t product = 1;
  bool empty = false;
  for (const auto extent : extents) {
    if (std::uint64_t(extent) > most) return false;  // a negative extent is past it too
    empty = empty || extent == 0;
    if (extent != 0 && (!multiply(product, std::uint64_t(extent)) || product > most)) return false;
  }
  count = empty ? 0 : product;
  return true;
}

inline std::string_view text(bytes b) { return {reinterpret_cast<const char*>(b.data()), b.size()}; }

//! Bytes before the first that is not part of a well-formed UTF-8 character: s.size() if all are. Overlong forms, surrogates
//! and what lies past U+10FFFF are not well formed (RFC 3629).
constexpr std::size_t utf8_length(std::string_view s) {
  std::size_t i = 0;
  while (i < s.size()) {
    const auto at = [&](std::size_t j) { return j < s.size() ? static_cast<unsigned char>(s[j]) : 0u; };
    const auto next = [&](std::size_t j) { return (at(j) & 0xC0u) == 0x80u; };
    const unsigned c = at(i);
    std::size_t n = 0;
    if (c < 0x80) n = 1;
    else if (c >= 0xC2 && c < 0xE0 && next(i + 1)) n = 2;
    else if (c >= 0xE0 && c < 0xF0 && next(i + 1) && next(i + 2) && !(c == 0xE0 && at(i + 1) < 0xA0) && !(c == 0xED && at(i + 1) >= 0xA0))
      n = 3;
    else if (c >= 0xF0 && c < 0xF5 && next(i + 1) && next(i + 2) && next(i + 3) && !(c == 0xF0 && at(i + 1) < 0x90) &&
             !(c == 0xF4 && at(i + 1) >= 0x90))
      n = 4;
    if (n == 0) return i;
    i += n;
  }
  return i;
}

}  // namespace detail
}  // namespace smalti::inline SMALTI_DATA::io
