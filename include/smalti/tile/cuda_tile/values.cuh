// Values of the cuda_tile machine: whole tiles in a class of ours, so that a policy finds exp2, where or lookup by
// the type of its argument wherever the policy stands. Storage types, and the conversions between them, are here
// too. What each word does with NaN, subnormals and overflow is said beside it.
#pragma once
#if !defined(__CUDACC_TILE__)
#  error "smalti: the cuda_tile machine needs nvcc 13.3 or newer with --enable-tile -std=c++20"
#endif
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_tf32.h>
#pragma GCC diagnostic push  // the toolkit's headers are not clean under -Wextra
#pragma GCC diagnostic ignored "-Wunused-but-set-parameter"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <cuda_fp4.h>
#include <cuda_tile.h>
#pragma GCC diagnostic pop
#include <cstdint>
#include <type_traits>
#include <utility>
#include <smalti/core/float.hpp>
#include <smalti/core/packed.hpp>
#include <smalti/core/version.hpp>
#include <smalti/core/view.hpp>

namespace smalti::inline SMALTI_CODE::cuda_tile {

namespace ct = ::cuda::tiles;

namespace detail {

// 8-bit floats exist as a type from sm_89 on. Below, they travel as bytes, are held as fp16 (which contains both
// formats) and are converted by integer arithmetic to the same values.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
constexpr bool has_fp8 = false;
#else
constexpr bool has_fp8 = true;
#endif

// Products of block-scaled operands are an instruction from sm_100 on. Below, e2m1 is held as the bf16 that it is.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 1000
constexpr bool has_block_scales = false;
#else
constexpr bool has_block_scales = true;
#endif

template <class T> constexpr bool is_fp8 = std::is_same_v<T, fp8_e4m3> || std::is_same_v<T, fp8_e5m2>;
template <class T>
constexpr bool is_real =
    std::is_same_v<T, float> || std::is_same_v<T, bf16> || std::is_same_v<T, fp16> || std::is_same_v<T, tf32> || is_fp8<T>;

// What a T is in memory, and what it is in a tile.
template <class T> struct memory_type { using type = T; };
template <> struct memory_type<bf16> { using type = __nv_bfloat16; };
template <> struct memory_type<fp16> { using type = __half; };
template <> struct memory_type<tf32> { using type = __nv_tf32; };
template <> struct memory_type<fp8_e4m3> { using type = std::conditional_t<has_fp8, __nv_fp8_e4m3, std::uint8_t>; };
template <> struct memory_type<fp8_e5m2> { using type = std::conditional_t<has_fp8, __nv_fp8_e5m2, std::uint8_t>; };
template <> struct memory_type<e2m1x2> { using type = std::uint8_t; };
template <class T> struct memory_type<const T> { using type = const typename memory_type<T>::type; };
template <class T> using memory_t = typename memory_type<T>::type;
template <class T> struct tile_type { using type = memory_t<T>; };
template <> struct tile_type<fp8_e4m3> { using type = std::conditional_t<has_fp8, __nv_fp8_e4m3, __half>; };
template <> struct tile_type<fp8_e5m2> { using type = std::conditional_t<has_fp8, __nv_fp8_e5m2, __half>; };
template <> struct tile_type<e2m1> { using type = std::conditional_t<has_block_scales, __nv_fp4_e2m1, __nv_bfloat16>; };
template <class T> using tile_t = typename tile_type<T>::type;

SMALTI_VERB template <class T> SMALTI_HD auto zero_of() {
  if constexpr (std::is_integral_v<memory_t<T>>) return memory_t<T>(0);
  else return ct::element_cast<memory_t<T>>(0.0f);
}
SMALTI_VERB template <class T> SMALTI_HD auto memory_pointer(T* p) { return reinterpret_cast<memory_t<T>*>(p); }

// A scalar as a tile of any shape, a tile broadcast to it.
SMALTI_VERB template <class Element, class Shape, class T> SMALTI_HD auto spread(T x) {
  if constexpr (requires { typename T::shape_type; }) return ct::broadcast(ct::element_cast<Element>(x), Shape{});
  else return ct::full<ct::tile<Element, Shape>>(static_cast<Element>(x));
}

// ---- the conversions that sm_80 has no instruction for

// e4m3 in the bits of fp16 is 2^8 too small, in those of bf16 2^120: multiplying is exact, subnormals included.
// 0x7f is NaN: adding one to it carries into bit 7, which becomes an exponent of all ones.
SMALTI_VERB template <class From, class To, class Tile> SMALTI_HD auto widen_bytes(Tile bytes) {
  using word = std::uint16_t;
  const auto wide = ct::element_cast<word>(bytes);
  const auto sign = (wide & word(0x80)) << word(8);
  const auto magnitude = wide & word(0x7f);
  if constexpr (std::is_same_v<From, fp8_e5m2>) {
    const auto half = ct::element_bitcast<__half>(wide << word(8));  // e5m2 is the upper byte of fp16
    if constexpr (std::is_same_v<To, __half>) return half;
    else return ct::element_cast<To>(ct::element_cast<float>(half));
  } else if constexpr (std::is_same_v<To, __nv_bfloat16>) {
    const auto nan = ((magnitude + word(1)) & word(0x80)) * word(0xff);
    return ct::element_bitcast<__nv_bfloat16>(sign | (magnitude << word(4)) | nan) * __nv_bfloat16(1.329227995784916e36f);
  } else {
    const auto nan = ((magnitude + word(1)) & word(0x80)) * word(0xf8);
    const auto half = ct::element_bitcast<__half>(sign | (magnitude << word(7)) | nan) * __half(256.0f);
    if constexpr (std::is_same_v<To, __half>) return half;
    else return ct::element_cast<To>(ct::element_cast<float>(half));
  }
}

// float to the nearest fp8, ties to even, saturating; NaN is 0x7f.
SMALTI_VERB template <class To, class Tile> SMALTI_HD auto narrow_to_bytes(Tile x) {
  constexpr bool e4m3 = std::is_same_v<To, fp8_e4m3>;
  constexpr int cut = e4m3 ? 20 : 21, rebias = e4m3 ? 120 << 3 : 112 << 2;
  constexpr float largest = e4m3 ? 448.0f : 57344.0f, smallest_normal = e4m3 ? 0x1p-6f : 0x1p-14f;
  constexpr float unit = e4m3 ? 0x1p14f : 0x1p7f;  // its last place is the smallest subnormal: adding it rounds
  const auto bits = ct::element_bitcast<int>(x);
  const auto magnitude = ct::min(ct::abs(x), largest);
  const auto raw = ct::element_bitcast<int>(magnitude);
  const auto normal = ((raw + ((raw >> cut) & 1) + ((1 << (cut - 1)) - 1)) >> cut) - rebias;
  const auto subnormal = ct::element_bitcast<int>(magnitude + unit) - __builtin_bit_cast(int, unit);
  const auto finite = ct::select(magnitude < smallest_normal, subnormal, normal) | ((bits >> 24) & 0x80);
  using shape = typename Tile::shape_type;
  return ct::element_cast<std::uint8_t>(ct::select(x == x, finite, ct::full<ct::tile<int, shape>>(0x7f)));
}

// ---- memory to tile, tile to tile, tile to memory

// sm_80 rounds to tf32 with ties away from zero in one instruction; to even it would be twenty. An operand that goes
// straight from memory to a product is not rounded at all: the compiler (13.5) drops the conversion, and the multiplier
// reads the upper 19 bits. Either way an operand is off by less than 2^-10 of itself.
SMALTI_VERB template <class Tile> SMALTI_HD auto round_to_tf32(Tile x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  return ct::element_cast<__nv_tf32>(x, ct::round_ties_to_away_t{});
#else
  return ct::element_cast<__nv_tf32>(x);
#endif
}

// A tile of memory_t<From> as a tile of tile_t<To>. Widening is exact; narrowing rounds to nearest even.
SMALTI_VERB template <class To, class From, class Tile> SMALTI_HD auto decode(Tile x) {
  if constexpr (is_fp8<From> && !has_fp8) return widen_bytes<From, tile_t<To>>(x);
  else if constexpr (std::is_same_v<To, tf32> && std::is_same_v<From, float>) return round_to_tf32(x);
  else return ct::element_cast<tile_t<To>>(x);
}

// A tile of float or int as a tile of memory_t<To>: floats round to nearest even, fp8 saturates; ints that become
// 8 bits wide saturate.
SMALTI_VERB template <class To, class Tile> SMALTI_HD auto encode(Tile x) {
  using from = typename Tile::element_type;
  constexpr bool from_int = std::is_same_v<from, int>;
  if constexpr (is_real<To>) {
    if constexpr (is_fp8<To> && !has_fp8) return narrow_to_bytes<To>(ct::element_cast<float>(x));
    else return ct::element_cast<memory_t<To>>(x);
  } else {
    static_assert(from_int, "smalti: floats are not stored as integers: round and convert in a map first (floor, to_int)");
    if constexpr (sizeof(To) == 1)
      return ct::element_cast<To>(ct::max(ct::min(x, std::is_signed_v<To> ? 127 : 255), std::is_signed_v<To> ? -128 : 0));
    else return ct::element_cast<To>(x);
  }
}

// A tile of float or int as a tile of tile_t<To>.
SMALTI_VERB template <class To, class Tile> SMALTI_HD auto hold(Tile x) {
  if constexpr (is_fp8<To> && !has_fp8) return decode<To, To>(encode<To>(x));
  else if constexpr (std::is_same_v<To, tf32>) return round_to_tf32(ct::element_cast<float>(x));
  else return ct::element_cast<tile_t<To>>(x);
}

}  // namespace detail

// ---- values

template <class Tile> struct value { Tile v; };

namespace detail {

template <class T> constexpr bool is_value = false;
template <class Tile> constexpr bool is_value<value<Tile>> = true;
template <class A, class B = int, class C = int>
concept some_value = is_value<A> || is_value<B> || is_value<C>;

template <class T> struct element_of { using type = T; };
template <class Tile> struct element_of<value<Tile>> { using type = typename Tile::element_type; };
template <class T> using element_of_t = typename element_of<T>::type;
// What a scalar becomes beside a value: float beside floats, int beside ints, bool beside masks.
template <class A, class B> struct partner { using type = element_of_t<std::conditional_t<is_value<A>, A, B>>; };
template <class A, class B> using partner_t = typename partner<A, B>::type;

// The shape that tiles and numbers broadcast to together.
template <class T> struct shape_probe { using type = int; };
template <class Tile> struct shape_probe<value<Tile>> { using type = ct::tile<int, typename Tile::shape_type>; };
template <class... T> using joined_shape = typename decltype((std::declval<typename shape_probe<T>::type>() + ...))::shape_type;

template <class Tile> SMALTI_HD value<Tile> wrap(Tile x) { return {x}; }
template <class Element, class T> SMALTI_HD auto raw(T x) {
  if constexpr (is_value<T>) {
    return x.v;
  } else {
    static_assert(std::is_arithmetic_v<T>, "smalti: a value mixes with values, numbers and nothing else");
    static_assert(std::is_same_v<Element, float> || std::is_integral_v<T>,
                  "smalti: a float does not become an int: say to_float of the integer value first");
    return static_cast<Element>(x);
  }
}
template <class A, class B> SMALTI_HD void same_elements() {
  static_assert(!is_value<A> || !is_value<B> || std::is_same_v<element_of_t<A>, element_of_t<B>>,
                "smalti: values of different element types do not mix: say to_float or to_int");
}

}  // namespace detail

// + - * round to nearest even and keep subnormals; a * b + c may be fused (say fma where it must be). float / is
// exact to the last bit, a subroutine; int / truncates, by zero it has no meaning. << and >> want counts of 0 to
// 31; >> copies the sign.
#define SMALTI_TILE_OPERATOR(symbol)                                             \
  SMALTI_VERB template <class A, class B>                                        \
  requires detail::some_value<A, B> SMALTI_HD auto operator symbol(A a, B b) {   \
    detail::same_elements<A, B>();                                               \
    using element = detail::partner_t<A, B>;                                     \
    return detail::wrap(detail::raw<element>(a) symbol detail::raw<element>(b)); \
  }
SMALTI_TILE_OPERATOR(+)
SMALTI_TILE_OPERATOR(-)
SMALTI_TILE_OPERATOR(*)
SMALTI_TILE_OPERATOR(/)
SMALTI_TILE_OPERATOR(%)
SMALTI_TILE_OPERATOR(&)
SMALTI_TILE_OPERATOR(|)
SMALTI_TILE_OPERATOR(^)
SMALTI_TILE_OPERATOR(<<)
SMALTI_TILE_OPERATOR(>>)
SMALTI_TILE_OPERATOR(<)
SMALTI_TILE_OPERATOR(<=)
SMALTI_TILE_OPERATOR(>)
SMALTI_TILE_OPERATOR(>=)
SMALTI_TILE_OPERATOR(==)
SMALTI_TILE_OPERATOR(!=)
SMALTI_TILE_OPERATOR(&&)
SMALTI_TILE_OPERATOR(||)
#undef SMALTI_TILE_OPERATOR
SMALTI_VERB template <class Tile> SMALTI_HD auto operator!(value<Tile> a) { return detail::wrap(!a.v); }
SMALTI_VERB template <class Tile> SMALTI_HD auto operator-(value<Tile> a) { return detail::wrap(-a.v); }

//! The larger and the smaller. Where one float is NaN the result is the other.
SMALTI_VERB template <class A, class B>
requires detail::some_value<A, B> SMALTI_HD auto max(A a, B b) {
  detail::same_elements<A, B>();
  using element = detail::partner_t<A, B>;
  return detail::wrap(ct::max(detail::raw<element>(a), detail::raw<element>(b)));
}
SMALTI_VERB template <class A, class B>
requires detail::some_value<A, B> SMALTI_HD auto min(A a, B b) {
  detail::same_elements<A, B>();
  using element = detail::partner_t<A, B>;
  return detail::wrap(ct::min(detail::raw<element>(a), detail::raw<element>(b)));
}

//! Towards zero; outside the range of int and for NaN the result has no meaning.
SMALTI_VERB template <class Tile> SMALTI_HD auto to_int(value<Tile> x) { return detail::wrap(ct::element_cast<int>(x.v)); }
//! To nearest even.
SMALTI_VERB template <class Tile> SMALTI_HD auto to_float(value<Tile> x) { return detail::wrap(ct::element_cast<float>(x.v)); }
SMALTI_VERB template <class Tile> SMALTI_HD auto float_bits(value<Tile> x) { return detail::wrap(ct::element_bitcast<int>(x.v)); }
SMALTI_VERB template <class Tile> SMALTI_HD auto bits_float(value<Tile> x) { return detail::wrap(ct::element_bitcast<float>(x.v)); }
//! The nearest value of T, ties to even, as a float: what a store to T and a load give.
SMALTI_VERB template <class T, class Tile> SMALTI_HD auto rounded_as(value<Tile> x) {
  if constexpr (std::is_same_v<T, float>) return x;
  else return detail::wrap(detail::decode<float, T>(detail::encode<T>(x.v)));
}

//! a where the mask is true, b elsewhere; both are computed. Either or both may be numbers.
SMALTI_VERB template <class Mask, class A, class B> SMALTI_HD auto where(value<Mask> mask, A a, B b) {
  detail::same_elements<A, B>();
  using common = std::conditional_t<detail::is_value<A> || detail::is_value<B>, detail::partner_t<A, B>,
                                    std::conditional_t<std::is_floating_point_v<A> || std::is_floating_point_v<B>, float, int>>;
  using shape = detail::joined_shape<value<Mask>, A, B>;
  return detail::wrap(
      ct::select(mask.v, detail::spread<common, shape>(detail::raw<common>(a)), detail::spread<common, shape>(detail::raw<common>(b))));
}

// The bounds below are those the CUDA math library states for the same instructions; Tile's documentation has none.

//! 2^x within 2 units in the last place; subnormal arguments are 0 and subnormal results become 0.
SMALTI_VERB template <class Tile> SMALTI_HD auto exp2(value<Tile> x) {
  return detail::wrap(ct::exp2(x.v, ct::round_subnormals_to_zero_t{}));
}
SMALTI_VERB template <class Tile> SMALTI_HD auto exp2_rough(value<Tile> x) { return exp2(x); }
//! log2(x) within 1 unit in the last place; -infinity for 0, NaN below.
SMALTI_VERB template <class Tile> SMALTI_HD auto log2(value<Tile> x) { return detail::wrap(ct::log2(x.v)); }
//! Exact to the last bit, a subroutine.
SMALTI_VERB template <class Tile> SMALTI_HD auto sqrt(value<Tile> x) { return detail::wrap(ct::sqrt(x.v)); }
//! 1 / sqrt(x) within 2 units in the last place; infinity for 0, NaN below.
SMALTI_VERB template <class Tile> SMALTI_HD auto rsqrt(value<Tile> x) { return detail::wrap(ct::rsqrt(x.v)); }
//! Within 2 units in the last place.
SMALTI_VERB template <class Tile> SMALTI_HD auto tanh(value<Tile> x) { return detail::wrap(ct::tanh(x.v)); }
//! Within 2 units in the last place for every finite argument; large ones take a slow path. NaN for infinity.
SMALTI_VERB template <class Tile> SMALTI_HD auto sin(value<Tile> x) { return detail::wrap(ct::sin(x.v)); }
SMALTI_VERB template <class Tile> SMALTI_HD auto cos(value<Tile> x) { return detail::wrap(ct::cos(x.v)); }
SMALTI_VERB template <class Tile> SMALTI_HD auto floor(value<Tile> x) { return detail::wrap(ct::floor(x.v)); }
SMALTI_VERB template <class Tile> SMALTI_HD auto abs(value<Tile> x) { return detail::wrap(ct::abs(x.v)); }

//! a * b + c with one rounding.
SMALTI_VERB template <class A, class B, class C>
requires detail::some_value<A, B, C> SMALTI_HD auto fma(A a, B b, C c) {
  using shape = detail::joined_shape<A, B, C>;
  return detail::wrap(ct::fma(detail::spread<float, shape>(detail::raw<float>(a)), detail::spread<float, shape>(detail::raw<float>(b)),
                              detail::spread<float, shape>(detail::raw<float>(c))));
}

//! a / b by a reciprocal: within 2 units in the last place for 2^-126 <= |b| <= 2^126. Subnormal arguments and
//! results are 0: a divisor beyond 2^126 gives 0, a subnormal one infinity or NaN.
SMALTI_VERB template <class A, class B>
requires detail::some_value<A, B> SMALTI_HD auto over(A a, B b) {
  return detail::wrap(ct::div(detail::raw<float>(a), detail::raw<float>(b), ct::round_approximate_t{}, ct::round_subnormals_to_zero_t{}));
}

//! The error function; the error is at most 2^-22. Up to 1 it is x P(x^2), above 1 - 2^-Q(x); both polynomials are
//! minimax fits of degree 6 to erf(x) / x and to -log2(erfc(x)) (errors 2^-29.6 and 2^-29.8 in erf). NaN for NaN.
SMALTI_VERB template <class Tile> SMALTI_HD auto erf(value<Tile> x) {
  const auto a = abs(x);
  const auto s = x * x;
  auto p = fma(s, 7.889119525e-05f, -8.020841278e-04f);
  p = fma(p, s, 5.189535339e-03f);
  p = fma(p, s, -2.685444459e-02f);
  p = fma(p, s, 1.128360018e-01f);
  p = fma(p, s, -3.761262714e-01f);
  p = fma(p, s, 1.128379166e+00f);
  auto q = fma(a, -2.677279278e-04f, 4.240969042e-03f);
  q = fma(q, a, -3.145847197e-02f);
  q = fma(q, a, 1.486515972e-01f);
  q = fma(q, a, 9.207649118e-01f);
  q = fma(q, a, 1.625975134e+00f);
  q = fma(q, a, 5.102941196e-04f);
  const auto far = where(a > 4.0f, 1.0f, 1.0f - exp2(-q));
  return where(a > 1.0f, where(x < 0.0f, -far, far), x * p);
}

//! memory[index] for a value of indices, widened; zero where the index is outside [0, limit).
SMALTI_VERB template <class T, class Tile> SMALTI_HD auto lookup(const T* memory, value<Tile> index, int limit) {
  const auto inside = ct::element_bitcast<std::uint32_t>(index.v) < static_cast<std::uint32_t>(limit < 0 ? 0 : limit);
  const auto found = ct::load_masked(detail::memory_pointer(memory) + index.v, inside, detail::zero_of<T>());
  return detail::wrap(detail::decode<std::conditional_t<detail::is_real<T>, float, int>, T>(found));
}

//! view[row][column], widened; zero outside the matrix. The row's address is 64 bits wide.
SMALTI_VERB template <class T, int Step, class Row, class Column>
SMALTI_HD auto lookup(const view<T, Step>& m, value<Row> row, value<Column> column) {
  using element = std::remove_const_t<T>;
  const auto inside = (ct::element_bitcast<std::uint32_t>(row.v) < static_cast<std::uint32_t>(m.rows)) &&
                      (ct::element_bitcast<std::uint32_t>(column.v) < static_cast<std::uint32_t>(m.cols));
  const auto line = detail::memory_pointer(m.data) + ct::element_cast<long long>(row.v) * static_cast<long long>(m.stride);
  const auto found = ct::load_masked(line + column.v, inside, detail::zero_of<element>());
  return detail::wrap(detail::decode<std::conditional_t<detail::is_real<element>, float, int>, element>(found));
}

}  // namespace smalti::inline SMALTI_CODE::cuda_tile
