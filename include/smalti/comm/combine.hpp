// The reduction algebra of a collective: how one item is lifted into an accumulator, how two accumulators merge, and how
// the last one becomes an item again. The order of merges is the schedule's (combine_order in schedule.hpp).
//
//     out = finish(lift(x_a) (+) lift(x_b) (+) ...)
//
// Accumulators of floats are float (double for double), whatever the item: a partial result is rounded to the item's type
// once, at its owner, and not at every hop. So a sum of P items of type T has relative error at most
// (P - 1) 2^-24 sum|x| / |sum x| + 2^-digits<T>, in any order; rounded at each hop it would be up to (P - 1) 2^-digits<T>.
//
// A NaN of any rank makes the item NaN on every rank; finish writes one quiet NaN, because the payload that an addition
// keeps depends on the order of its operands, which a compiler may choose.
#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <smalti/core/float.hpp>
#include <smalti/policy/lse.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! A combine of items that are `width` elements each.
//!     lift(a, x, n)          n items become accumulators; a plain copy where both are one type
//!     merge(a, l, r, n)      a = l (+) r, accumulators; a may be l or r
//!     finish(x, a, n, p)     accumulators over p ranks become items
//!     code()                 the same on ranks that mean the same: operation and element type
template <class C>
concept combine_policy = std::is_trivially_copyable_v<C> &&
  requires(const C c, typename C::element* x, const typename C::element* y, typename C::accumulator* a, const typename C::accumulator* b, std::int64_t n) {
    { c.width } -> std::convertible_to<int>;
    { c.code() } -> std::same_as<std::uint32_t>;
    c.lift(a, y, n);
    c.merge(a, b, b, n);
    c.finish(x, b, n, 1);
  };

template <class C> consteval bool explain_combine() {
  static_assert(std::is_trivially_copyable_v<C>, "smalti: a combine is a small value that is copied freely, so it must be trivially copyable");
  static_assert(requires { typename C::element; typename C::accumulator; }, "smalti: a combine names its types: element (of the items) and accumulator");
  static_assert(requires(const C c) { { c.width } -> std::convertible_to<int>; { c.code() } -> std::same_as<std::uint32_t>; },
                "smalti: a combine needs  int width, the elements of one item, and  std::uint32_t code() const, the same on all ranks that mean the same");
  static_assert(combine_policy<C>, "smalti: a combine needs  lift(accumulator*, const element*, n), merge(accumulator*, const accumulator*, const accumulator*, n)  and  finish(element*, const accumulator*, n, ranks), all const");
  return combine_policy<C>;
}

namespace detail {

template <class T> struct accumulator_of { using type = T; };
template <class T> requires(is_float_storage<T>) struct accumulator_of<T> { using type = float; };

//! A number for each element type: ranks compare it before they exchange anything.
template <class T> constexpr std::uint32_t element_code() {
  if constexpr (std::is_same_v<T, bf16>) return 1;
  else if constexpr (std::is_same_v<T, fp16>) return 2;
  else if constexpr (std::is_same_v<T, fp8_e4m3>) return 3;
  else if constexpr (std::is_same_v<T, fp8_e5m2>) return 4;
  else if constexpr (std::is_floating_point_v<T>) return 16 + sizeof(T);
  else if constexpr (std::is_integral_v<T>) return (std::is_signed_v<T> ? 32 : 48) + sizeof(T);
  else return 64 + sizeof(T);
}

template <class A> SMALTI_HD constexpr A canonical(A x) {
  if constexpr (std::is_same_v<A, float>) return x == x ? x : bits_float(0x7fc00000u);
  else if constexpr (std::is_same_v<A, double>) return x == x ? x : __builtin_nan("");
  else return x;
}

// Loops over a fixed number of items in local arrays: g++ vectorises such at -O2, and neither compiler has to ask
// whether the arrays overlap.
constexpr int block_of_items = 64;

template <class Op, class T> struct elementwise {
  using element = T;
  using accumulator = typename accumulator_of<T>::type;
  static constexpr int width = 1;

  SMALTI_HD static void lift(accumulator* a, const T* x, std::int64_t n) {
    if constexpr (std::is_same_v<accumulator, T>) {
      if (n > 0) std::memcpy(a, x, std::size_t(n) * sizeof(T));
    } else {
      for (std::int64_t i = 0; i < n; ++i) a[i] = to_float(x[i]);
    }
  }
  SMALTI_HD static void merge(accumulator* a, const accumulator* l, const accumulator* r, std::int64_t n) {
    std::int64_t i = 0;
    for (; i + block_of_items <= n; i += block_of_items) {
      accumulator x[block_of_items], y[block_of_items];
      std::memcpy(x, l + i, sizeof x);
      std::memcpy(y, r + i, sizeof y);
      for (int k = 0; k < block_of_items; ++k) x[k] = Op::join(x[k], y[k]);
      std::memcpy(a + i, x, sizeof x);
    }
    for (; i < n; ++i) a[i] = Op::join(l[i], r[i]);
  }
  SMALTI_HD static void finish(T* x, const accumulator* a, std::int64_t n, int ranks) {
    for (std::int64_t i = 0; i < n; ++i) {
      const accumulator value = canonical(Op::close(a[i], ranks));
      if constexpr (std::is_same_v<accumulator, T>) x[i] = value;
      else x[i] = narrow<T>(value);
    }
  }
  static constexpr std::uint32_t code() { return Op::number << 8 | element_code<T>(); }
};

struct plus {
  static constexpr std::uint32_t number = 1;
  template <class A> SMALTI_HD static A join(A a, A b) {
    if constexpr (std::is_integral_v<A>) {   // signed overflow wraps; types below int are promoted to it
      using bits = std::make_unsigned_t<A>;
      return A(bits(a) + bits(b));
    } else {
      return a + b;
    }
  }
  template <class A> SMALTI_HD static A close(A a, int) { return a; }
};
struct mean : plus {
  static constexpr std::uint32_t number = 2;
  template <class A> SMALTI_HD static A close(A a, int ranks) { return a / A(ranks); }
};
//! Exactly associative and commutative: +0 counts as more than -0, and a NaN wins.
struct greatest {
  static constexpr std::uint32_t number = 3;
  template <class A> SMALTI_HD static A join(A a, A b) {
    if constexpr (std::is_integral_v<A>) {
      return a > b ? a : b;
    } else {
      const A equal = __builtin_signbit(a) ? b : a;
      const A more = a > b ? a : a == b ? equal : b;
      return a == a ? (b == b ? more : b) : a;
    }
  }
  template <class A> SMALTI_HD static A close(A a, int) { return a; }
};

}  // namespace detail

//! The sum. Integers wrap.
template <class T> struct sum : detail::elementwise<detail::plus, T> {};

//! The sum divided by the number of ranks: once, at the owner, in the accumulator's type.
template <class T> struct average : detail::elementwise<detail::mean, T> {
  static_assert(!std::is_integral_v<T>, "smalti: an average of integers is not an integer: take comm::sum and divide as you mean it");
};

//! The greatest; exact, the same bits in any order.
template <class T> struct greatest : detail::elementwise<detail::greatest, T> {};

//! Merges partial results of attention: an item is a row of value_width values and their log-sum-exp behind them, in float.
//!     out = policy::lse_merge of the rows of all ranks (policy/lse.hpp, with its error and its rules for empty rows)
//! @tparam Lse  policy::lse_e or policy::lse_2: the base of the stored numbers
template <template <class> class Lse> struct lse_merge {
  using element = float;
  using accumulator = float;
  using lse = Lse<float>;
  static_assert(policy::is_lse<lse>, "smalti: lse_merge names the base of its numbers: policy::lse_e or policy::lse_2");
  int width = 2;   //!< value_width + 1

  static constexpr lse_merge of(int value_width) { return {value_width + 1}; }

  SMALTI_HD void lift(float* a, const float* x, std::int64_t n) const {
    if (n > 0) std::memcpy(a, x, std::size_t(n) * width * sizeof(float));
  }
  SMALTI_HD void merge(float* a, const float* l, const float* r, std::int64_t n) const {
    for (std::int64_t i = 0; i < n; ++i, a += width, l += width, r += width) {
      const lse first{l[width - 1]}, second{r[width - 1]};
      auto row = policy::lse_begin(first);
      const auto step = row.absorb(second);
      const float scale = row.normalizer();
      const float keep = step.keep * scale, take = step.take * scale;
      const bool no_first = first.value == policy::empty_lse(), no_second = second.value == policy::empty_lse();
      for (int k = 0; k + 1 < width; ++k) a[k] = (no_first ? 0.0f : l[k] * keep) + (no_second ? 0.0f : r[k] * take);
      a[width - 1] = row.lse().value;
    }
  }
  SMALTI_HD void finish(float* x, const float* a, std::int64_t n, int) const {
    for (std::int64_t i = 0; i < n * width; ++i) x[i] = detail::canonical(a[i]);
  }
  constexpr std::uint32_t code() const { return 4u << 8 | (lse::bits_per_unit == 1.0f ? 1u : 0u) | std::uint32_t(width) << 12; }
};

//! For collectives that only move: items of `width` bytes. There is nothing to merge: refused before anything runs.
struct bytes {
  using element = std::byte;
  using accumulator = std::byte;
  int width = 1;
  static constexpr bool moves_only = true;
  void lift(std::byte* a, const std::byte* x, std::int64_t n) const {
    if (n > 0) std::memcpy(a, x, std::size_t(n) * width);
  }
  void merge(std::byte*, const std::byte*, const std::byte*, std::int64_t) const {}
  void finish(std::byte* x, const std::byte* a, std::int64_t n, int) const { lift(x, a, n); }
  constexpr std::uint32_t code() const { return std::uint32_t(width) << 8; }
};

template <class C> constexpr bool moves_only = requires { C::moves_only; };

}  // namespace smalti::inline SMALTI_CODE::comm
