// Functions of values on the host machine: the names an agent calls beside its operators. Branch free; every lane
// takes the same steps. The errors stated hold for all floats, measured against libm in double by
// tests/tile/math_test.cpp; "of the result" means relative, for results of at least 2^-126 (below, 2^-148 absolute).
// Polynomials are minimax fits of our own, their coefficients rounded to float one after another.
#pragma once
#include <smalti/tile/host/lanes.hpp>

namespace smalti::inline SMALTI_CODE::host {

namespace detail {

inline float_part multiply_add(float_part a, float_part b, float_part c) {
#if SMALTI_DOT_LEVEL == 0
  return a * b + c;
#elif __has_builtin(__builtin_elementwise_fma)
  return __builtin_elementwise_fma(a, b, c);
#elif SMALTI_DOT_LEVEL == 1
  return __builtin_ia32_vfmaddps256(a, b, c);
#else
  return __builtin_ia32_vfmaddps512_mask(a, b, c, -1, 4);  // all lanes, the current rounding
#endif
}

inline float_part square_root(float_part x) {
#if __has_builtin(__builtin_elementwise_sqrt)
  return __builtin_elementwise_sqrt(x);
#elif SMALTI_DOT_LEVEL >= 2 && defined(__clang__)
  return __builtin_ia32_sqrtps512(x, 4);
#elif SMALTI_DOT_LEVEL >= 2
  return __builtin_ia32_sqrtps512_mask(x, x, -1, 4);
#elif SMALTI_DOT_LEVEL == 1
  return __builtin_ia32_sqrtps256(x);
#elif defined(__SSE__)
  return __builtin_ia32_sqrtps(x);
#else
  for (int i = 0; i < part_lanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

#if SMALTI_DOT_LEVEL >= 2
//! x less the nearest integer, the even one on a tie; 0 for infinities.
inline floats rest(floats x) {
  return each_part<floats>([&](int p) {
#if defined(__clang__)
    return __builtin_ia32_reduceps512_mask(x.v[p], 0, x.v[p], -1, 4);
#else
    return __builtin_ia32_reduceps512_mask_round(x.v[p], 0, x.v[p], -1, 4);
#endif
  });
}
//! x 2^n for an integer n, rounded once.
inline float_part scaled(float_part x, float_part n) {
  return __builtin_ia32_scalefps512_mask(x, n, x, -1, 4);
}
//! The same; 0 where `y` is below the bound.
inline float_part scaled_unless_below(float_part x, float_part n, float_part y, float bound) {
  constexpr int not_less = 5;  // true where y is NaN
  const auto keep = __builtin_ia32_cmpps512_mask(y, float_part{} + bound, not_less, -1, 4);
  return __builtin_ia32_scalefps512_mask(x, n, float_part{}, keep, 4);
}
#endif

}  // namespace detail

//! a * b + c with one rounding; with two where the processor compiled for has no such instruction (below AVX2).
inline floats fma(floats a, floats b, floats c) {
  return detail::each_part<floats>([&](int p) { return detail::multiply_add(a.v[p], b.v[p], c.v[p]); });
}
inline ints fma(ints a, ints b, ints c) { return a * b + c; }

namespace detail {

//! c[0] + c[1] x + c[2] x^2 + ...
template <int N> [[gnu::always_inline]] inline floats polynomial(floats x, const float (&c)[N]) {
  floats sum = c[N - 1];
#pragma GCC unroll 16
  for (int i = N - 2; i >= 0; --i) sum = fma(sum, x, c[i]);
  return sum;
}

//! y = n + f with an integer n and |f| <= 1/2, for |y| < 2^21; the low bits of `shifted` hold n.
struct split {
  floats shifted, n, f;
};
inline split split_exponent(floats y) {
  const floats magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const floats shifted = y + magic;
  const floats n = shifted - magic;
  return {shifted, n, y - n};
}
//! (2^f - 1) / f for |f| <= 1/2, error 1.3e-8 of the result before roundings.
inline floats exp2_slope(floats f) {
  return polynomial(f, {0.693147182f, 0.240226492f, 0.0555036701f, 0.00961832236f, 0.00133875548f, 0.000153770932f});
}
//! 2^y - 1 for -126 <= y < 127, accurate near 0 too.
inline floats exp2_minus_one(floats y) {
  const split s = split_exponent(y);
  const floats scale = bits_float((float_bits(s.shifted) << 23) + (127 << 23));
  return fma(scale, s.f * exp2_slope(s.f), scale - 1.0f);
}
inline ints sign_of(floats x) { return float_bits(x) & int(0x80000000); }

}  // namespace detail

//! 2^x. Error at most 8e-8 of the result (1.1e-7 without FMA); exact for integers. Zero below -126: results that would be
//! subnormal are flushed. Infinity from 128 on; NaN gives NaN.
[[gnu::always_inline]] inline floats exp2(floats x) {  // the inner loop of attention: never a call
#if SMALTI_DOT_LEVEL >= 2
  // The rest of x to the nearest integer, and 2 to that integer, are an instruction each.
  const floats f = detail::rest(x);
  const floats power = fma(f, detail::exp2_slope(f), 1.0f);
  return detail::each_part<floats>([&](int p) { return detail::scaled_unless_below(power.v[p], (x - f).v[p], x.v[p], -126.0f); });
#else
  // -127 and 128 come out as exactly 0 and infinity: the mantissa is 1, the exponent's field all zeros or all ones.
  const floats y = min(where(x < -126.0f, -127.0f, x), 128.0f);
  const detail::split s = detail::split_exponent(y);
  const floats power = fma(s.f, detail::exp2_slope(s.f), 1.0f);
  return where(x == x, bits_float(float_bits(power) + (float_bits(s.shifted) << 23)), x);
#endif
}

//! 2^x for results that are rounded to 16 bits: error at most 3e-6 of the result, exact for integers. Results below 2^-126 may
//! be zero or subnormal; infinity from 128 on, NaN gives NaN, -infinity 0.
[[gnu::always_inline]] inline floats exp2_rough(floats x) {
#if SMALTI_DOT_LEVEL >= 2
  const floats f = detail::rest(x);
  const floats power = fma(f, detail::polynomial(f, {0.693124175f, 0.240240991f, 0.0559064262f, 0.00958285294f}), 1.0f);
  return detail::each_part<floats>([&](int p) { return detail::scaled(power.v[p], (x - f).v[p]); });
#else
  return exp2(x);
#endif
}

//! The logarithm to base 2. Error at most 2e-7 of the result, subnormal arguments included; exact for powers of two.
//! -infinity for both zeros, NaN below zero, infinity for infinity, NaN for NaN.
inline floats log2(floats x) {
  const mask tiny = x < 1.17549435e-38f;
  const ints bits = float_bits(where(tiny, x * 8388608.0f, x));  // times 2^23: subnormals become normal
  constexpr int root_half = 0x3f3504f3;                          // 2^-1/2: the mantissa lies in [2^-1/2, 2^1/2)
  const ints above = bits - root_half;
  const floats exponent = to_float((above >> 23) - where(tiny, 23, 0));
  const floats r = bits_float((above & 0x7fffff) + root_half) - 1.0f;
  const floats slope = detail::polynomial(
      r, {1.44269502f, -0.721347392f, 0.480909109f, -0.360699952f, 0.287947953f, -0.239030823f, 0.215551764f, -0.206688285f, 0.125521228f});
  const float infinity = __builtin_inff();
  const floats outside = where(x == 0.0f, -infinity, where(x < 0.0f, __builtin_nanf(""), x));
  return where(x > 0.0f && x < infinity, fma(r, slope, exponent), outside);
}

//! Correctly rounded; NaN below zero.
inline floats sqrt(floats x) {
  return detail::each_part<floats>([&](int p) { return detail::square_root(x.v[p]); });
}
//! 1 / sqrt(x), two roundings that cost at most 9e-8 of the result. Infinity for zero, of its sign; NaN below.
inline floats rsqrt(floats x) { return 1.0f / sqrt(x); }

//! Error at most 3e-7 of the result. 1 from 9.02 on; NaN gives NaN; the sign of zero stays.
inline floats tanh(floats x) {
  const floats y = min(30.0f, abs(x) * 2.88539008f);  // 2 |x| log2(e); in this order min lets a NaN pass
  const floats e = detail::exp2_minus_one(y);         // e^2|x| - 1, which does not cancel near zero
  return bits_float(float_bits(e / (e + 2.0f)) | detail::sign_of(x));
}

//! The error function. Error at most 1e-7, and 2.2e-7 of the result. 1 from 4 on; NaN gives NaN; the sign of zero stays.
inline floats erf(floats x) {
  // 1 - erf(a) = 2^-q(a), and q is nearly a parabola.
  const floats a = min(4.0f, abs(x));
  const floats q = a * detail::polynomial(a, {1.62790704f, 0.918447495f, 0.148278192f, -0.0276358798f, -0.000224844523f, 0.00239894842f,
                                              -0.000909911934f, 0.000168917832f, -1.32704017e-05f});
  return bits_float((float_bits(detail::exp2_minus_one(-q)) & 0x7fffffff) | detail::sign_of(x));
}

namespace detail {

//! x = n pi/2 + r with |r| <= pi/4 (a little more at the ends). In double: a float has too few bits for the product of n
//! and a part of pi/2 without FMA.
struct quadrant {
  ints n;
  floats r;
};
inline quadrant reduce_angle(floats x) {
  using wide = double __attribute__((vector_size(2 * register_bytes)));
  quadrant out;
  for (int p = 0; p < part_count; ++p) {
    const wide y = __builtin_convertvector(x.v[p], wide);
    const wide n = (y * 0.63661977236758134 + 6755399441055744.0) - 6755399441055744.0;  // 1.5 * 2^52
    const wide r = (y - n * 1.5707963267341256) - n * 6.0771005065061922e-11;            // pi/2 in 33 bits and the rest
    out.n.v[p] = __builtin_convertvector(n, int_part);
    out.r.v[p] = __builtin_convertvector(r, float_part);
  }
  return out;
}
//! sin(n pi/2 + r)
inline floats sine_of(ints n, floats r) {
  const floats square = r * r;
  const floats sine = fma(r * square, polynomial(square, {-0.166666552f, 0.00833218917f, -0.000195182918f}), r);
  const floats cosine =
      fma(square * square, polynomial(square, {0.0416666456f, -0.00138873106f, 2.44325674e-05f}), fma(square, -0.5f, 1.0f));
  return bits_float(float_bits(where((n & 1) == 0, sine, cosine)) ^ ((n << 30) & int(0x80000000)));
}
constexpr float largest_angle = 1073741824.0f;  // 2^30: not far beyond it n leaves the ints

}  // namespace detail

//! Error at most 1e-7 (absolute) for |x| <= 2^20; beyond, |x| 2^-53 more: 1.2e-7 at 2^28, 2.2e-7 at 2^30.
//! NaN for |x| > 2^30, where neighbouring floats are 128 apart, for infinities and for NaN.
inline floats sin(floats x) {
  const detail::quadrant q = detail::reduce_angle(x);
  return where(abs(x) <= detail::largest_angle, detail::sine_of(q.n, q.r), __builtin_nanf(""));
}
//! As sin.
inline floats cos(floats x) {
  const detail::quadrant q = detail::reduce_angle(x);
  return where(abs(x) <= detail::largest_angle, detail::sine_of(q.n + 1, q.r), __builtin_nanf(""));
}

//! The largest integer not above x; infinities, NaN and the sign of zero stay.
inline floats floor(floats x) {
  const floats whole = to_float(to_int(where(abs(x) < 8388608.0f, x, 0.0f)));
  const floats below = where(whole > x, whole - 1.0f, whole);
  return where(abs(x) < 8388608.0f, bits_float(float_bits(below) | detail::sign_of(x)), x);
}

}  // namespace smalti::inline SMALTI_CODE::host
