// Values of the host machine: packs of 16 lanes on the compiler's vector extensions, and the index sequences
// that stand for row_index{} and column_index{}. A pack is one register of AVX-512, two of AVX2 or four of
// SSE2: as many parts as the flags of the compilation ask for, so that no vector is wider than the machine's
// (wider ones are legal but change the calling convention, and compilers split them badly).
// Reading, writing and lookup are in lanes.hpp, exp2 and its kin in math.hpp.
#pragma once
#include <concepts>
#include <type_traits>

#include <smalti/core/version.hpp>

#if defined(__CUDACC__)
#  error "smalti: nvcc cannot compile the host machine: put calls with a host_context in a .cpp file compiled by g++ or clang++"
#endif
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(__ASSOCIATIVE_MATH__)
#  error \
      "smalti: the host machine computes with infinities and exact roundings: compile without -ffast-math, -ffinite-math-only, -fassociative-math"
#endif

namespace smalti::inline SMALTI_CODE::host {

constexpr int lane_count = 16;

namespace detail {

#if SMALTI_DOT_LEVEL >= 2
constexpr int register_bytes = 64;
#elif SMALTI_DOT_LEVEL == 1
constexpr int register_bytes = 32;
#else
constexpr int register_bytes = 16;
#endif
constexpr int part_lanes = register_bytes / 4;
constexpr int part_count = lane_count / part_lanes;

using float_part = float __attribute__((vector_size(register_bytes)));
using int_part = int __attribute__((vector_size(register_bytes)));
using unsigned_part = unsigned __attribute__((vector_size(register_bytes)));
template <class T> struct part_of;  // the attribute does not work on a dependent type
template <> struct part_of<float> { using type = float_part; };
template <> struct part_of<int> { using type = int_part; };

//! Result part p is f(p). Written out: g++ -O2 does not unroll a loop of four, and the parts would live in memory.
template <class Result, class F> [[gnu::always_inline]] inline Result each_part(F f) {
  Result r;
  r.v[0] = f(0);
  if constexpr (part_count >= 2) r.v[1] = f(1);
  if constexpr (part_count >= 4) {
    r.v[2] = f(2);
    r.v[3] = f(3);
  }
  return r;
}

//! Lane i takes lane i + Distance, round the part.
template <int Distance, class Part> [[gnu::always_inline]] inline Part moved_down(Part x) {
  if constexpr (part_lanes == 16)
    return __builtin_shufflevector(x, x, Distance, Distance + 1, Distance + 2, Distance + 3, Distance + 4, Distance + 5, Distance + 6,
                                   Distance + 7, Distance + 8, Distance + 9, Distance + 10, Distance + 11, Distance + 12, Distance + 13,
                                   Distance + 14, Distance + 15);
  else if constexpr (part_lanes == 8)
    return __builtin_shufflevector(x, x, Distance, Distance + 1, Distance + 2, Distance + 3, Distance + 4, Distance + 5, Distance + 6,
                                   Distance + 7);
  else return __builtin_shufflevector(x, x, Distance, Distance + 1, Distance + 2, Distance + 3);
}

}  // namespace detail

namespace detail {
//! Scalars that become a pack of T by themselves.
template <class S, class T>
concept scalar_for = std::integral<S> ||(std::same_as<S, float>&& std::same_as<T, float>);
}  // namespace detail

template <class T> struct lanes;
using floats = lanes<float>;
using ints = lanes<int>;

//! One truth value for each lane: what comparisons give and where() takes. It does not convert to bool.
struct mask {
  detail::int_part v[detail::part_count];  // all bits of a lane, or none

  mask() = default;
  mask(bool b) {
    *this = detail::each_part<mask>([=](int) { return -int(b) - detail::int_part{}; });
  }
  bool operator[](int lane) const { return v[lane / detail::part_lanes][lane % detail::part_lanes] != 0; }

  template <std::same_as<bool> Bool> explicit operator Bool() const {
    static_assert(never<Bool>, "smalti: a mask holds one truth value for each element: say where(mask, a, b) instead of if, while or ?:");
    return false;
  }
  friend mask operator&&(mask a, mask b) {
    return detail::each_part<mask>([&](int p) { return a.v[p] & b.v[p]; });
  }
  friend mask operator||(mask a, mask b) {
    return detail::each_part<mask>([&](int p) { return a.v[p] | b.v[p]; });
  }
  friend mask operator!(mask a) {
    return detail::each_part<mask>([&](int p) { return ~a.v[p]; });
  }
  friend mask operator&&(mask a, bool b) { return a && mask(b); }
  friend mask operator&&(bool a, mask b) { return mask(a) && b; }
  friend mask operator||(mask a, bool b) { return a || mask(b); }
  friend mask operator||(bool a, mask b) { return mask(a) || b; }
  friend mask operator==(mask a, mask b) {
    return detail::each_part<mask>([&](int p) { return ~(a.v[p] ^ b.v[p]); });
  }
  friend mask operator!=(mask a, mask b) {
    return detail::each_part<mask>([&](int p) { return a.v[p] ^ b.v[p]; });
  }
};

//! True if any lane is; true if every lane is. For machines and tests; a policy never branches on a value.
inline bool any(mask m) {
  detail::int_part all = m.v[0];
  for (int p = 1; p < detail::part_count; ++p) all |= m.v[p];
  int bits = 0;
  for (int i = 0; i < detail::part_lanes; ++i) bits |= all[i];
  return bits != 0;
}
inline bool every(mask m) { return !any(!m); }

//! 16 floats or ints. Scalars mix in on either side: an int becomes a float where it meets floats; a float never
//! becomes an int, and packs of different types do not mix: say to_float or to_int.
//! Arithmetic on ints wraps. A quotient of ints never traps; by zero it has no meaning.
template <class T> struct lanes {
  static_assert(std::same_as<T, float> || std::same_as<T, int>,
                "smalti: values are lanes<float> or lanes<int>: other element types live in memory only");
  using element = T;
  using part = typename detail::part_of<T>::type;
  part v[detail::part_count];

  lanes() = default;
  template <detail::scalar_for<T> S> lanes(S x) {  // with a minus: -0.0f + 0.0f would lose the sign
    *this = detail::each_part<lanes>([=](int) { return T(x) - part{}; });
  }
  T operator[](int lane) const { return v[lane / detail::part_lanes][lane % detail::part_lanes]; }
  void set(int lane, T x) { v[lane / detail::part_lanes][lane % detail::part_lanes] = x; }

  friend lanes operator+(lanes a, lanes b) {
    return detail::each_part<lanes>([&](int p) { return part(wrapping(a.v[p]) + wrapping(b.v[p])); });
  }
  friend lanes operator-(lanes a, lanes b) {
    return detail::each_part<lanes>([&](int p) { return part(wrapping(a.v[p]) - wrapping(b.v[p])); });
  }
  friend lanes operator*(lanes a, lanes b) {
    return detail::each_part<lanes>([&](int p) { return part(wrapping(a.v[p]) * wrapping(b.v[p])); });
  }
  friend lanes operator/(lanes a, lanes b) { return divide(a, b); }
  friend lanes operator-(lanes a) {
    return detail::each_part<lanes>([&](int p) { return part(-wrapping(a.v[p])); });
  }
  friend lanes operator+(lanes a) { return a; }

  friend mask operator<(lanes a, lanes b) {
    return detail::each_part<mask>([&](int p) { return a.v[p] < b.v[p]; });
  }
  friend mask operator<=(lanes a, lanes b) {
    return detail::each_part<mask>([&](int p) { return a.v[p] <= b.v[p]; });
  }
  friend mask operator>(lanes a, lanes b) {
    return detail::each_part<mask>([&](int p) { return a.v[p] > b.v[p]; });
  }
  friend mask operator>=(lanes a, lanes b) {
    return detail::each_part<mask>([&](int p) { return a.v[p] >= b.v[p]; });
  }
  friend mask operator==(lanes a, lanes b) {
    return detail::each_part<mask>([&](int p) { return a.v[p] == b.v[p]; });
  }
  friend mask operator!=(lanes a, lanes b) {
    return detail::each_part<mask>([&](int p) { return a.v[p] != b.v[p]; });
  }

  //! a > b ? a : b and a < b ? a : b in each lane: where either is NaN, and for two zeros, the result is b.
  friend lanes max(lanes a, lanes b) {
    return detail::each_part<lanes>([&](int p) { return a.v[p] > b.v[p] ? a.v[p] : b.v[p]; });
  }
  friend lanes min(lanes a, lanes b) {
    return detail::each_part<lanes>([&](int p) { return a.v[p] < b.v[p] ? a.v[p] : b.v[p]; });
  }

 private:
  static detail::float_part wrapping(detail::float_part x) { return x; }
  static detail::unsigned_part wrapping(detail::int_part x) { return detail::unsigned_part(x); }
  static lanes divide(lanes a, lanes b) {
    if constexpr (std::same_as<T, float>) {
      return detail::each_part<lanes>([&](int p) { return a.v[p] / b.v[p]; });
    } else {  // there is no vector division of ints; a rounded quotient of doubles truncates to the exact one
      using wide = double __attribute__((vector_size(2 * detail::register_bytes)));
      return detail::each_part<lanes>([&](int p) {
        return __builtin_convertvector(__builtin_convertvector(a.v[p], wide) / __builtin_convertvector(b.v[p], wide), part);
      });
    }
  }
};
static_assert(sizeof(floats) == 64 && sizeof(ints) == 64 && sizeof(mask) == 64);

inline ints operator&(ints a, ints b) {
  return detail::each_part<ints>([&](int p) { return a.v[p] & b.v[p]; });
}
inline ints operator|(ints a, ints b) {
  return detail::each_part<ints>([&](int p) { return a.v[p] | b.v[p]; });
}
inline ints operator^(ints a, ints b) {
  return detail::each_part<ints>([&](int p) { return a.v[p] ^ b.v[p]; });
}
inline ints operator~(ints a) {
  return detail::each_part<ints>([&](int p) { return ~a.v[p]; });
}
//! Counts are 0 to 31; >> copies the sign.
inline ints operator<<(ints a, ints b) {
  return detail::each_part<ints>([&](int p) { return detail::int_part(detail::unsigned_part(a.v[p]) << detail::unsigned_part(b.v[p])); });
}
inline ints operator>>(ints a, ints b) {
  return detail::each_part<ints>([&](int p) { return a.v[p] >> b.v[p]; });
}
inline ints operator%(ints a, ints b) { return a - a / b * b; }

// The same with one number for all lanes, which is much cheaper: SSE2 has no shifts by a vector, and dividing by a
// power of two (a page, a group) is a shift. Templates, so that they win over the conversion of the number to a pack.
namespace detail {
inline ints shifted_left(ints a, int b) {
  return each_part<ints>([&](int p) { return int_part(unsigned_part(a.v[p]) << b); });
}
inline ints shifted_right(ints a, int b) {
  return each_part<ints>([&](int p) { return a.v[p] >> b; });
}
inline ints divided(ints a, int b) {
  if (b <= 0 || (b & (b - 1)) != 0) return a / ints(b);
  const ints below_zero = shifted_right(a, 31) & ints(b - 1);  // rounds towards zero, as / does
  return shifted_right(a + below_zero, __builtin_ctz(unsigned(b)));
}
}  // namespace detail
template <std::same_as<ints> A, std::integral B> ints operator<<(A a, B b) { return detail::shifted_left(a, int(b)); }
template <std::same_as<ints> A, std::integral B> ints operator>>(A a, B b) { return detail::shifted_right(a, int(b)); }
template <std::same_as<ints> A, std::integral B> ints operator/(A a, B b) { return detail::divided(a, int(b)); }
template <std::same_as<ints> A, std::integral B> ints operator%(A a, B b) { return a - detail::divided(a, int(b)) * ints(b); }

// ---- index sequences
//
// What row_index{} and column_index{} are on this machine: indices that a lookup can serve without a gather.
// A uniform index stays uniform under the arithmetic of ints; a consecutive one stays consecutive when a uniform
// number is added to it or taken from it. Everything else turns them into ints.

//! Every lane holds `value`. A class, not an int: policies find lookup, where and max by the type of their argument.
struct uniform {
  int value;
  template <std::integral I> uniform(I i) : value(int(i)) {}
  operator ints() const { return ints(value); }

  friend uniform operator+(uniform a, uniform b) { return int(unsigned(a.value) + unsigned(b.value)); }
  friend uniform operator-(uniform a, uniform b) { return int(unsigned(a.value) - unsigned(b.value)); }
  friend uniform operator*(uniform a, uniform b) { return int(unsigned(a.value) * unsigned(b.value)); }
  friend uniform operator-(uniform a) { return int(0u - unsigned(a.value)); }
  friend uniform operator/(uniform a, uniform b) { return b.value == 0 ? 0 : int(static_cast<long long>(a.value) / b.value); }
  friend uniform operator%(uniform a, uniform b) { return a - a / b * b; }
  friend uniform operator&(uniform a, uniform b) { return a.value & b.value; }
  friend uniform operator|(uniform a, uniform b) { return a.value | b.value; }
  friend uniform operator^(uniform a, uniform b) { return a.value ^ b.value; }
  friend uniform operator<<(uniform a, uniform b) { return a.value << b.value; }
  friend uniform operator>>(uniform a, uniform b) { return a.value >> b.value; }
  friend mask operator<(uniform a, uniform b) { return a.value < b.value; }
  friend mask operator<=(uniform a, uniform b) { return a.value <= b.value; }
  friend mask operator>(uniform a, uniform b) { return a.value > b.value; }
  friend mask operator>=(uniform a, uniform b) { return a.value >= b.value; }
  friend mask operator==(uniform a, uniform b) { return a.value == b.value; }
  friend mask operator!=(uniform a, uniform b) { return a.value != b.value; }
  friend uniform max(uniform a, uniform b) { return a.value > b.value ? a : b; }
  friend uniform min(uniform a, uniform b) { return a.value < b.value ? a : b; }
  friend uniform abs(uniform a) { return a.value < 0 ? -a : a; }
};

//! Lane i holds first + i.
struct consecutive {
  int first;
  operator ints() const {
    constexpr int all[lane_count] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const int start = first;
    return detail::each_part<ints>([&](int p) {
      detail::int_part count;
      __builtin_memcpy(&count, all + p * detail::part_lanes, sizeof count);
      return detail::int_part(detail::unsigned_part(count) + unsigned(start));
    });
  }
  friend consecutive operator+(consecutive a, uniform b) { return {(uniform(a.first) + b).value}; }
  friend consecutive operator+(uniform a, consecutive b) { return b + a; }
  friend consecutive operator-(consecutive a, uniform b) { return {(uniform(a.first) - b).value}; }
  friend uniform operator-(consecutive a, consecutive b) { return uniform(a.first) - uniform(b.first); }
  friend ints operator-(uniform a, consecutive b) { return ints(a) - ints(b); }
  friend ints operator+(consecutive a, consecutive b) { return ints(a) + ints(b); }
  friend ints operator-(consecutive a) { return -ints(a); }
  friend ints abs(consecutive a);
};

namespace detail {
// At least one operand is consecutive, the other is anything that is a pack of ints.
template <class A, class B>
concept with_consecutive = (std::same_as<A, consecutive> ||
                            std::same_as<B, consecutive>)&&std::convertible_to<A, ints>&& std::convertible_to<B, ints>;
inline ints operand(consecutive a) { return a; }
inline ints operand(ints a) { return a; }
inline int operand(uniform a) { return a.value; }
inline int operand(std::integral auto a) { return int(a); }
}  // namespace detail
template <class A, class B>
requires detail::with_consecutive<A, B> ints operator*(A a, B b) { return detail::operand(a) * detail::operand(b); }
template <class A, class B>
requires detail::with_consecutive<A, B> ints operator/(A a, B b) { return detail::operand(a) / detail::operand(b); }
template <class A, class B>
requires detail::with_consecutive<A, B> ints operator%(A a, B b) { return detail::operand(a) % detail::operand(b); }
template <class A, class B>
requires detail::with_consecutive<A, B> ints operator&(A a, B b) { return detail::operand(a) & detail::operand(b); }
template <class A, class B>
requires detail::with_consecutive<A, B> ints operator|(A a, B b) { return detail::operand(a) | detail::operand(b); }
template <class A, class B>
requires detail::with_consecutive<A, B> ints operator^(A a, B b) { return detail::operand(a) ^ detail::operand(b); }
template <class A, class B>
requires detail::with_consecutive<A, B> ints operator<<(A a, B b) { return detail::operand(a) << detail::operand(b); }
template <class A, class B>
requires detail::with_consecutive<A, B> ints operator>>(A a, B b) { return detail::operand(a) >> detail::operand(b); }
template <class A, class B>
requires detail::with_consecutive<A, B> mask operator<(A a, B b) { return detail::operand(a) < detail::operand(b); }
template <class A, class B>
requires detail::with_consecutive<A, B> mask operator<=(A a, B b) { return detail::operand(a) <= detail::operand(b); }
template <class A, class B>
requires detail::with_consecutive<A, B> mask operator>(A a, B b) { return detail::operand(a) > detail::operand(b); }
template <class A, class B>
requires detail::with_consecutive<A, B> mask operator>=(A a, B b) { return detail::operand(a) >= detail::operand(b); }
template <class A, class B>
requires detail::with_consecutive<A, B> mask operator==(A a, B b) { return detail::operand(a) == detail::operand(b); }
template <class A, class B>
requires detail::with_consecutive<A, B> mask operator!=(A a, B b) { return detail::operand(a) != detail::operand(b); }
template <class A, class B>
requires detail::with_consecutive<A, B> ints max(A a, B b) { return max(ints(a), ints(b)); }
template <class A, class B>
requires detail::with_consecutive<A, B> ints min(A a, B b) { return min(ints(a), ints(b)); }

template <std::same_as<ints> A, std::same_as<uniform> B> ints operator<<(A a, B b) { return a << b.value; }
template <std::same_as<ints> A, std::same_as<uniform> B> ints operator>>(A a, B b) { return a >> b.value; }
template <std::same_as<ints> A, std::same_as<uniform> B> ints operator/(A a, B b) { return a / b.value; }
template <std::same_as<ints> A, std::same_as<uniform> B> ints operator%(A a, B b) { return a % b.value; }

// ---- choice and conversion

namespace detail {
template <class A>
concept float_like = std::same_as<A, floats> || std::same_as<A, float>;
template <class A>
concept int_like = std::convertible_to<A, ints> && !std::same_as<A, mask>;
template <class A, class B>
concept either_float = float_like<A> || float_like<B>;
template <class A, class B>
concept join_as_floats = either_float<A, B> && std::convertible_to<A, floats> && std::convertible_to<B, floats>;
template <class A, class B>
concept join_as_ints = int_like<A> && int_like<B>;
template <class A, class B> struct joined;  // the pack that holds both
template <class A, class B>
requires join_as_floats<A, B>
struct joined<A, B> {
  using type = floats;
};
template <class A, class B>
requires join_as_ints<A, B>
struct joined<A, B> {
  using type = ints;
};
}  // namespace detail

//! a where the mask is true, b elsewhere; both are computed. Either or both may be scalars or index sequences.
template <class A, class B> [[gnu::always_inline]] inline auto where(mask m, A a, B b) -> typename detail::joined<A, B>::type {
  using pack = typename detail::joined<A, B>::type;
  const pack x(a), y(b);
  return detail::each_part<pack>([&](int p) { return m.v[p] ? x.v[p] : y.v[p]; });
}
inline mask where(mask m, mask a, mask b) { return (m && a) || (!m && b); }

inline floats to_float(floats x) { return x; }
inline floats to_float(ints x) {
  return detail::each_part<floats>([&](int p) { return __builtin_convertvector(x.v[p], detail::float_part); });
}
//! Towards zero. Outside the range of int the result has no meaning.
inline ints to_int(floats x) {
  return detail::each_part<ints>([&](int p) { return __builtin_convertvector(x.v[p], detail::int_part); });
}
inline ints to_int(ints x) { return x; }
inline ints to_int(mask m) { return where(m, 1, 0); }
inline ints float_bits(floats x) {
  return detail::each_part<ints>([&](int p) { return detail::int_part(x.v[p]); });
}
inline floats bits_float(ints x) {
  return detail::each_part<floats>([&](int p) { return detail::float_part(x.v[p]); });
}

inline ints abs(ints x) { return max(x, -x); }
inline ints abs(consecutive x) { return abs(ints(x)); }
inline floats abs(floats x) { return bits_float(float_bits(x) & 0x7fffffff); }
//! The quotient, which need not be exact to the last bit; on this machine it is.
inline floats over(floats a, floats b) { return a / b; }

// ---- across lanes, for the reductions of the machine

//! Lane i of the result is lane i + Distance; the last Distance lanes have no meaning.
template <int Distance, class T> inline lanes<T> moved_down(lanes<T> x) {
  static_assert(Distance == 8 || Distance == 4 || Distance == 2 || Distance == 1, "smalti: lanes move by 8, 4, 2 or 1");
  using part = typename lanes<T>::part;
  if constexpr (Distance >= detail::part_lanes) {
    constexpr int parts = Distance / detail::part_lanes;
    return detail::each_part<lanes<T>>([&](int p) { return x.v[(p + parts) % detail::part_count]; });
  } else {
    return detail::each_part<lanes<T>>([&](int p) -> part { return detail::moved_down<Distance>(x.v[p]); });
  }
}
//! f over all lanes: packs are folded in halves, so the order is fixed. f takes packs.
template <class T, class F> inline T fold(lanes<T> x, F f) {
  x = f(x, moved_down<8>(x));
  x = f(x, moved_down<4>(x));
  x = f(x, moved_down<2>(x));
  return f(x, moved_down<1>(x))[0];
}

// ---- a user's function of scalars

namespace detail {
template <class T> T lane(const lanes<T>& x, int i) { return x[i]; }
inline bool lane(const mask& x, int i) { return x[i]; }
inline int lane(consecutive x, int i) { return x.first + i; }
inline int lane(uniform x, int) { return x.value; }
template <class V> using scalar_of = decltype(lane(std::declval<const V&>(), 0));
}  // namespace detail

//! f takes the values of a map as packs; f takes them as plain scalars, lane by lane.
template <class F, class... V>
concept function_of_packs = std::is_invocable_v<const F&, V...>;
template <class F, class... V>
concept function_of_scalars = std::is_invocable_v<const F&, detail::scalar_of<V>...>;

//! A function of packs that calls a function of scalars (float, int, bool) for one lane after another.
template <class F> struct per_lane {
  F f;
  template <class... V> auto operator()(const V&... in) const {
    using scalar = std::invoke_result_t<const F&, detail::scalar_of<V>...>;
    static_assert(std::is_arithmetic_v<scalar>, "smalti: a function given to map returns a number for each element");
    using element = std::conditional_t<std::integral<scalar>, int, float>;
    element out[lane_count];
    for (int i = 0; i < lane_count; ++i) out[i] = static_cast<element>(f(detail::lane(in, i)...));
    lanes<element> r;
    __builtin_memcpy(r.v, out, sizeof out);
    if constexpr (std::same_as<scalar, bool>) return r != 0;
    else return r;
  }
};
template <class F> per_lane(F) -> per_lane<F>;

//! f of these values: on packs if it can, else lane by lane.
template <class F, class... V> [[gnu::always_inline]] inline auto apply(const F& f, V... in) {
  if constexpr (function_of_packs<F, V...>) {
    return f(in...);
  } else {
    static_assert(function_of_scalars<F, V...>,
                  "smalti: a function given to map takes one argument for each input, by value: auto, or float and int");
    return per_lane<F>{f}(in...);
  }
}

}  // namespace smalti::inline SMALTI_CODE::host
