// The order that selection and sorting agree on, as unsigned integers: rank(a) > rank(b) exactly when a comes
// before b. One map for every element type, so that select_k picks what a sort would put first.
#pragma once
#include <cstdint>
#include <smalti/core/float.hpp>
#include <smalti/core/version.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::prim {

//! Which elements come first.
enum class order : std::uint8_t { largest, smallest };

namespace detail {

// What is known of an element type: its bits as a signed integer; `fold`, the bits below the sign if the type
// is sign and magnitude; `infinity`, the greatest number.
template <class T> struct element_bits {
  static constexpr bool known = false;
};
template <> struct element_bits<float> {
  static constexpr bool known = true, floating = true;
  using integer = std::int32_t;
  static constexpr integer fold = 0x7fffffff, infinity = 0x7f800000;
};
template <> struct element_bits<bf16> {
  static constexpr bool known = true, floating = true;
  using integer = std::int16_t;
  static constexpr integer fold = 0x7fff, infinity = 0x7f80;
};
template <> struct element_bits<fp16> {
  static constexpr bool known = true, floating = true;
  using integer = std::int16_t;
  static constexpr integer fold = 0x7fff, infinity = 0x7c00;
};
template <> struct element_bits<std::int32_t> {
  static constexpr bool known = true, floating = false;
  using integer = std::int32_t;
  static constexpr integer fold = 0, infinity = 0x7fffffff;
};

template <class T> SMALTI_HD constexpr T element_from(typename element_bits<T>::integer bits) { return __builtin_bit_cast(T, bits); }

// The element that every number beats or equals.
template <class T, order Order> SMALTI_HD constexpr T worst() {
  using e = element_bits<T>;
  constexpr typename e::integer low = static_cast<typename e::integer>(~e::infinity ^ e::fold);
  return element_from<T>(Order == order::largest ? low : e::infinity);
}

}  // namespace detail

//! The place of an element in the order, as a number: greater is earlier.
//!
//! Sign and magnitude become two's complement s; then rank = s - lowest (largest first) or highest - s
//! (smallest first), plus 1 for floating types. -0 and +0 have the same rank. NaN of either sign has rank 0, below every
//! number and every infinity in both orders.
template <order Order, class T> SMALTI_HD constexpr std::uint32_t rank(T value) {
  using e = detail::element_bits<T>;
  const std::int32_t b = __builtin_bit_cast(typename e::integer, value);
  std::int32_t s = b ^ ((b >> 31) & e::fold);
  if constexpr (e::floating) s += s == -1 && !mutant(defect::minus_zero_comes_later);
  const std::uint32_t u = Order == order::largest ? std::uint32_t(s) - std::uint32_t(~std::int32_t(e::infinity))
                                                  : std::uint32_t(e::infinity) - std::uint32_t(s);
  if constexpr (!e::floating) return u;
  return u <= 2 * std::uint32_t(e::infinity) + 1 || mutant(defect::nan_keeps_its_bits) ? u + 1 : 0;
}

//! The greatest rank an element of type T can have, and the bits that ranks of T occupy.
template <class T> constexpr std::uint32_t last_rank =
    detail::element_bits<T>::floating ? 2 * std::uint32_t(detail::element_bits<T>::infinity) + 2 : ~std::uint32_t(0);
template <class T> constexpr int rank_bits = sizeof(T) == 2 ? 16 : 32;

}  // namespace smalti::inline SMALTI_CODE::prim
