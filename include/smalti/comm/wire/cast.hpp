// A wire of a narrower type: floats travel as bf16, fp16 or fp8, each rounded once to the nearest. Halves or quarters what a
// float collective sends; what is already of the narrow type travels as it is.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <smalti/comm/combine.hpp>
#include <smalti/comm/wire.hpp>
#include <smalti/core/float.hpp>
#if !defined(__CUDACC__)
#  include <smalti/tile/host/lanes.hpp>
#endif

namespace smalti::inline SMALTI_CODE::comm {

namespace detail {

// n floats of one type as another, at any address: the host machine's packs, then one by one. The same bits either way.
template <class To, class From> void convert(const From* from, std::int64_t n, std::byte* to) {
  if constexpr (std::is_same_v<To, From>) {
    if (n > 0) std::memcpy(to, from, std::size_t(n) * sizeof(To));
  } else {
    std::int64_t i = 0;
#if !defined(__CUDACC__)
    for (; i + host::lane_count <= n; i += host::lane_count) host::write(reinterpret_cast<To*>(to) + i, host::read(from + i));
#endif
    for (; i < n; ++i) {
      const To y = narrow<To>(to_float(from[i]));
      std::memcpy(to + i * sizeof(To), &y, sizeof y);
    }
  }
}
template <class From, class To> void convert_back(const std::byte* from, std::int64_t n, To* to) {
  if constexpr (std::is_same_v<To, From>) {
    if (n > 0) std::memcpy(to, from, std::size_t(n) * sizeof(To));
  } else {
    std::int64_t i = 0;
#if !defined(__CUDACC__)
    for (; i + host::lane_count <= n; i += host::lane_count) host::write(to + i, host::read(reinterpret_cast<const From*>(from) + i));
#endif
    for (; i < n; ++i) {
      From x;
      std::memcpy(&x, from + i * sizeof(From), sizeof x);
      to[i] = narrow<To>(to_float(x));
    }
  }
}

template <class X> consteval bool explain_wire_element() {
  static_assert(std::is_same_v<X, float> || is_float_storage<X>, "smalti: a wire that rounds carries float, bf16, fp16 or fp8: send other types over plain_wire");
  return true;
}

}  // namespace detail

//! Elements as T on the wire, to the nearest, even on a tie; elements of type T and their sums' results unchanged.
//! @tparam T  bf16, fp16, fp8_e4m3, fp8_e5m2
//! @note error of one trip: 2^-digits<T> relative (2^-8 bf16, 2^-11 fp16, 2^-4 e4m3) within T's normal range, half its least number below;
//!       NaN stays NaN; what is too large becomes Inf in bf16 and fp16, the largest number in fp8. A direct all-reduce of P ranks makes
//!       one trip for each input and one for the result; a ring P of partial sums
//! @note every element by itself: the bits do not depend on chunks, so a schedule that is partition-invariant stays it
template <class T> struct cast_wire {
  static_assert(is_float_storage<T> && sizeof(T) <= 2, "smalti: cast_wire rounds to bf16, fp16, fp8_e4m3 or fp8_e5m2");
  static constexpr bool plain = false, exact = false, elementwise = true, own_trip = true;
  static constexpr int group = 1;       //!< elements that are encoded together
  int width = 1;                        //!< elements of an item, as in the combine
  int tail = 0;                         //!< the last so many elements of an item travel as float: 1 for the log-sum-exp of lse_merge

  static constexpr std::int64_t items_together() { return 1; }
  constexpr std::uint32_t code() const { return 1u << 24 | detail::element_code<T>() << 16 | std::uint32_t(width) << 2 | std::uint32_t(tail); }
  constexpr std::int64_t bytes(content, std::int64_t n) const { return n * ((width - tail) * std::int64_t(sizeof(T)) + tail * 4); }
  template <class X> void encode(content, std::int64_t, const X* x, std::int64_t n, std::byte* to) const {
    static_assert(detail::explain_wire_element<X>());
    if (tail == 0) return detail::convert<T>(x, n * width, to);
    for (std::int64_t i = 0; i < n; ++i, x += width) {
      detail::convert<T>(x, width - tail, to), to += (width - tail) * sizeof(T);
      detail::convert<float>(x + width - tail, tail, to), to += tail * sizeof(float);
    }
  }
  template <class X> void decode(content, std::int64_t, const std::byte* from, std::int64_t n, X* y) const {
    static_assert(detail::explain_wire_element<X>());
    if (tail == 0) return detail::convert_back<T>(from, n * width, y);
    for (std::int64_t i = 0; i < n; ++i, y += width) {
      detail::convert_back<T>(from, width - tail, y), from += (width - tail) * sizeof(T);
      detail::convert_back<float>(from, tail, y + width - tail), from += tail * sizeof(float);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::comm
