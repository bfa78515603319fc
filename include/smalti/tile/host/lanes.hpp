// The traffic of values with memory: read and write for every element type, whole or with a tail, and lookup.
// Narrow floats widen exactly and are rounded to nearest even; what they do at the top of their range is the
// default of core/float.hpp, and so are the bits. Integers of 8 bits widen to int and saturate on the way back.
#pragma once
#include <cstdint>

#include <smalti/core/float.hpp>
#include <smalti/tile/host/values.hpp>
#include <smalti/tile/mutant.hpp>
#if SMALTI_DOT_LEVEL >= 2
#  include <immintrin.h>
#endif

namespace smalti::inline SMALTI_CODE::host {

namespace detail {

using byte_part = std::uint8_t __attribute__((vector_size(part_lanes)));
using signed_byte_part = std::int8_t __attribute__((vector_size(part_lanes)));
using half_part = std::uint16_t __attribute__((vector_size(2 * part_lanes)));
using signed_half_part = std::int16_t __attribute__((vector_size(2 * part_lanes)));

//! 16 elements of memory as ints (zero or sign extended, as the vector type of the memory says), and back (low bits).
template <class Memory, class T> [[gnu::always_inline]] inline ints read_bits(const T* p) {
  static_assert(sizeof(Memory) == sizeof(T) * part_lanes);
  return each_part<ints>([=](int i) {
    Memory memory;
    __builtin_memcpy(&memory, static_cast<const void*>(p + i * part_lanes), sizeof memory);
#if SMALTI_DOT_LEVEL >= 2   // g++ 12 makes several shuffles of a conversion of vectors
    if constexpr (std::same_as<Memory, byte_part>) return int_part(_mm512_maskz_cvtepu8_epi32(__mmask16(0xffff), (__m128i)memory));
    else if constexpr (std::same_as<Memory, signed_byte_part>) return int_part(_mm512_maskz_cvtepi8_epi32(__mmask16(0xffff), (__m128i)memory));
    else if constexpr (std::same_as<Memory, half_part>) return int_part(_mm512_maskz_cvtepu16_epi32(__mmask16(0xffff), (__m256i)memory));
    else
#endif
    if constexpr (sizeof(T) == 1) {  // in two steps: g++ 12 takes bytes to ints one by one
      using half = std::conditional_t<std::same_as<Memory, signed_byte_part>, signed_half_part, half_part>;
      return __builtin_convertvector(__builtin_convertvector(memory, half), int_part);
    } else {
      return __builtin_convertvector(memory, int_part);
    }
  });
}
template <class Memory, class T> [[gnu::always_inline]] inline void write_bits(T* p, ints x) {
  static_assert(sizeof(Memory) == sizeof(T) * part_lanes);
  for (int i = 0; i < part_count; ++i) {
    Memory memory;
#if SMALTI_DOT_LEVEL >= 2
    if constexpr (sizeof(T) == 1) memory = (Memory)_mm512_maskz_cvtepi32_epi8(__mmask16(0xffff), (__m512i)x.v[i]);
    else if constexpr (sizeof(T) == 2) memory = (Memory)_mm512_maskz_cvtepi32_epi16(__mmask16(0xffff), (__m512i)x.v[i]);
    else memory = __builtin_convertvector(x.v[i], Memory);
#else
    if constexpr (sizeof(T) == 1) memory = __builtin_convertvector(__builtin_convertvector(x.v[i], half_part), Memory);  // in two steps, as above
    else memory = __builtin_convertvector(x.v[i], Memory);
#endif
    __builtin_memcpy(static_cast<void*>(p + i * part_lanes), &memory, sizeof memory);
  }
}

//! Which vector type holds a part of memory of T.
template <class T> constexpr auto memory_part() {
  if constexpr (sizeof(T) == 4) return int_part{};
  else if constexpr (sizeof(T) == 2) return half_part{};
  else if constexpr (std::same_as<T, std::int8_t>) return signed_byte_part{};
  else return byte_part{};
}

template <class T> using format = smalti::SMALTI_DATA::detail::layout_of<T>;
using smalti::SMALTI_DATA::detail::top;

//! to_float(T) of core/float.hpp on codes; the same steps in lanes.
template <class T> inline floats widen(ints code) {
  using form = format<T>;
  if constexpr (form::padding != 0) code = (code >> form::padding) & ((1 << form::code_bits) - 1);
  if constexpr (form::bias == 127) {
    return bits_float(code << (23 - form::fraction));
  } else {
    constexpr int one = (128 - form::bias) << 23;
    const ints magnitude = code & int(form::magnitude);
    const ints sign = (code << (32 - form::code_bits)) & int(0x80000000);
    const ints shifted = magnitude << (23 - form::fraction);
    const ints subnormal = float_bits(bits_float(shifted + one) - bits_float(ints(one)));
    ints bits = where(magnitude < (1 << form::fraction), subnormal, shifted + ((127 - form::bias) << 23));
    if constexpr (form::at_top == top::infinities) bits = where(magnitude >= int(form::infinity), shifted | 0x7f800000, bits);
    if constexpr (form::at_top == top::one_nan) bits = where(magnitude == int(form::magnitude), 0x7fc00000, bits);
    if constexpr (form::at_top == top::nan_for_negative_zero) bits = where(magnitude == 0 && sign != 0, 0x7fc00000, bits);
    return bits_float(bits | sign);
  }
}

//! narrow<T>(float) of core/float.hpp with its default rule, as codes.
template <class T> inline ints narrow_code(floats x) {
  using form = format<T>;
  if constexpr (std::same_as<T, bf16>) {   // the same bits in half the steps: the sign rides along, and a carry makes the infinity
    const ints bits = float_bits(x), tie = mutant(defect::ties_away_from_zero) ? ints(1) : (bits >> 16) & 1;
    const mask nan = (bits & 0x7fffffff) > (mutant(defect::nan_rounds_away) ? 0x7fffffff : 0x7f800000);
    return where(nan, ((bits >> 16) & 0x8000) | 0x7fc0, (bits + (tie + 0x7fff)) >> 16);
  }
  constexpr int cut = 23 - form::fraction, rebias = (127 - form::bias) << 23, largest = int(form::largest);
  constexpr int overflowed = default_overflow<T> == overflow::saturate || form::at_top == top::finite ? largest
                             : form::at_top == top::nan_for_negative_zero                             ? int(form::magnitude) + 1
                                                                                                      : largest + 1;
  const ints bits = float_bits(x), magnitude = bits & 0x7fffffff;
  const ints sign = (bits >> (32 - form::code_bits)) & int(form::magnitude + 1);
  const ints tie = mutant(defect::ties_away_from_zero) ? ints(1) : (magnitude >> cut) & 1;
  ints code = (magnitude + (tie + ((1 << (cut - 1)) - 1 - rebias))) >> cut;
  if constexpr (form::bias != 127) {
    constexpr int anchor = (128 - form::bias + cut) << 23;
    const ints subnormal = float_bits(bits_float(magnitude) + bits_float(ints(anchor))) - anchor;
    code = where(magnitude < rebias + (1 << 23), subnormal, code);
  }
  const mask nan = magnitude > (mutant(defect::nan_rounds_away) ? 0x7fffffff : 0x7f800000);
  if constexpr (form::bias != 127)
    code = where(code > (mutant(defect::overflow_wraps) ? 0x7fffffff : largest), overflowed, code);  // bf16 and tf32: the carry does it
  if constexpr (form::at_top == top::nan_for_negative_zero) {
    code = where(nan, int(form::magnitude) + 1, where(code == 0, 0, code | sign));
  } else if constexpr (form::at_top == top::finite) {
    code = where(nan, sign ^ (int(form::magnitude) + 1), code | sign);
  } else {
    constexpr int quiet = form::at_top == top::infinities ? int(form::infinity) | 1 << (form::fraction - 1) : int(form::magnitude);
    code = where(nan, quiet, code) | sign;
  }
  return code << form::padding;
}

//! The nearest integer, the even one on a tie, as a float.
inline floats nearest(floats x) {
  const floats magic = bits_float((float_bits(x) & int(0x80000000)) | float_bits(floats(8388608.0f)));  // 2^23 with the sign of x
  return where(abs(x) < 8388608.0f, (x + magic) - magic, x);
}

}  // namespace detail

template <class T>
concept narrow_float = smalti::SMALTI_DATA::detail::signed_layout<T>;
template <class T>
concept narrow_int = std::same_as<T, std::int8_t> || std::same_as<T, std::uint8_t>;
template <class T>
concept any_float = std::same_as<T, float> || narrow_float<T>;
template <class T>
concept any_int = std::same_as<T, int> || narrow_int<T>;

// ---- read: 16 elements from any address

inline floats read(const float* p) {
  return detail::each_part<floats>([=](int i) {
    detail::float_part x;
    __builtin_memcpy(&x, p + i * detail::part_lanes, sizeof x);
    return x;
  });
}
inline ints read(const int* p) {
  return detail::each_part<ints>([=](int i) {
    detail::int_part x;
    __builtin_memcpy(&x, p + i * detail::part_lanes, sizeof x);
    return x;
  });
}
template <narrow_float T> inline floats read(const T* p) {
#if SMALTI_DOT_LEVEL >= 2
  if constexpr (std::same_as<T, fp16>) {                   // one instruction; it makes signalling NaN quiet
    floats x;
    x.v[0] = (detail::float_part)_mm512_maskz_cvtph_ps(__mmask16(0xffff), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return x;
  }
#endif
  return detail::widen<T>(detail::read_bits<decltype(detail::memory_part<T>())>(p));
}
template <narrow_int T> inline ints read(const T* p) { return detail::read_bits<decltype(detail::memory_part<T>())>(p); }

// ---- write: 16 elements to any address. Ints become floats of the memory's type by way of float; floats become
// integers by rounding to nearest even and saturating, and NaN becomes 0.

inline void write(float* p, floats x) {
  for (int i = 0; i < detail::part_count; ++i) __builtin_memcpy(p + i * detail::part_lanes, &x.v[i], sizeof x.v[i]);
}
inline void write(int* p, ints x) {
  for (int i = 0; i < detail::part_count; ++i) __builtin_memcpy(p + i * detail::part_lanes, &x.v[i], sizeof x.v[i]);
}
template <narrow_float T> inline void write(T* p, floats x) {
  detail::write_bits<decltype(detail::memory_part<T>())>(p, detail::narrow_code<T>(x));
}
template <narrow_int T> inline void write(T* p, ints x) {
  constexpr int low = std::same_as<T, std::int8_t> ? -128 : 0;
  detail::write_bits<decltype(detail::memory_part<T>())>(p, min(max(x, low), low + 255));
}
template <any_float T> inline void write(T* p, ints x) { write(p, to_float(x)); }
template <any_int T> inline void write(T* p, floats x) {
  const floats rounded = detail::nearest(x);
  const ints in_range = to_int(where(abs(rounded) < 2147483648.0f, rounded, 0.0f));
  write(p, where(rounded >= 2147483648.0f, 0x7fffffff, where(rounded <= -2147483648.0f, int(0x80000000), in_range)));
}

// ---- tails

namespace detail {
//! Copies count < 16 elements in pieces of known size: no call, and no loop for the processor to guess the length of.
template <class T> [[gnu::always_inline]] inline void copy_some(T* to, const T* from, int count) {
  int done = 0;
  if (count & 8) __builtin_memcpy(to, from, 8 * sizeof(T)), done = 8;
  if (count & 4) __builtin_memcpy(to + done, from + done, 4 * sizeof(T)), done += 4;
  if (count & 2) __builtin_memcpy(to + done, from + done, 2 * sizeof(T)), done += 2;
  if (count & 1) __builtin_memcpy(to + done, from + done, sizeof(T));
}
}  // namespace detail

//! The first `count` of 16 elements, zeros behind them; reads no memory past them. 0 <= count <= 16.
template <class T> inline auto read(const T* p, int count) {
  if (count == lane_count) return read(p);
#if SMALTI_DOT_LEVEL >= 2
  if constexpr (std::same_as<T, float>) {
    floats x;
    x.v[0] = (detail::float_part)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
    return x;
  }
#endif
  T some[lane_count] = {};
  detail::copy_some(some, p, count);
  return read(some);
}
//! Writes the first `count` lanes only.
template <class T, class Pack> inline void write(T* p, Pack x, int count) {
  if (count == lane_count) return write(p, x);
  T all[lane_count];
  write(all, x);
  detail::copy_some(p, all, count);
}

// ---- lookup

//! What memory of T becomes in a lane.
template <class T> using value_of = typename decltype(read(static_cast<const T*>(nullptr)))::element;

//! memory[index] in each lane, widened; zero where the index is outside [0, limit). Memory outside is not touched.
template <class T> inline lanes<value_of<T>> lookup(const T* memory, consecutive index, int limit) {
  if (index.first >= 0 && index.first <= limit - lane_count) return read(memory + index.first);
  T some[lane_count] = {};
  for (int i = 0; i < lane_count; ++i) {
    const long long at = static_cast<long long>(index.first) + i;
    if (at >= 0 && at < limit) some[i] = memory[at];
  }
  return read(some);
}
template <class T> inline lanes<value_of<T>> lookup(const T* memory, uniform index, int limit) {
  T one[lane_count] = {};
  if (index.value >= 0 && index.value < limit) one[0] = memory[index.value];
  return read(one)[0];
}
template <class T> inline lanes<value_of<T>> lookup(const T* memory, ints index, int limit) {
  if (!any(index != ints(index[0]))) return lookup(memory, uniform(index[0]), limit);          // sixteen tokens of one page
  int at[lane_count];
  write(at, index);
  const T zero = {};
  T some[lane_count];
  for (int i = 0; i < lane_count; ++i) some[i] = *(at[i] >= 0 && at[i] < limit ? memory + at[i] : &zero);  // no branch
  return read(some);
}

}  // namespace smalti::inline SMALTI_CODE::host
