// Oracles for selecting, sorting, summing and moving: written down from the definitions, slow, and sharing no code with
// the library.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <vector>
#include <smalti/core/float.hpp>

namespace oracle {

// What an element is worth, in long double: exact for every type here, 64-bit integers included.
template <class T> long double worth(T x) { return static_cast<long double>(x); }
inline long double small_float(std::uint32_t bits, int exponent_bits, int fraction_bits) {
  const int exponent = int(bits >> fraction_bits) & ((1 << exponent_bits) - 1), bias = (1 << (exponent_bits - 1)) - 1;
  const long double fraction = bits & ((1u << fraction_bits) - 1), sign = bits >> (exponent_bits + fraction_bits) ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return fraction != 0 ? std::nanl("") : sign * HUGE_VALL;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}
inline long double worth(smalti::bf16 x) { return small_float(x.bits, 8, 7); }
inline long double worth(smalti::fp16 x) { return small_float(x.bits, 5, 10); }

// The places of a stable sort: greatest or least first, NaN last.
template <class T> std::vector<std::int32_t> order_of(const T* data, std::int64_t n, bool greatest_first) {
  std::vector<std::int32_t> places(static_cast<std::size_t>(n));
  std::iota(places.begin(), places.end(), 0);
  std::vector<long double> worths(places.size());
  for (std::int64_t i = 0; i < n; ++i) worths[std::size_t(i)] = worth(data[i]);
  std::stable_sort(places.begin(), places.end(), [&](std::int32_t i, std::int32_t j) {
    const long double a = worths[std::size_t(i)], b = worths[std::size_t(j)];
    if (std::isnan(a) || std::isnan(b)) return !std::isnan(a) && std::isnan(b);
    return greatest_first ? a > b : a < b;
  });
  return places;
}

// The places of the k best, out of all places in order; -1 where there is none.
inline std::vector<std::int32_t> select(std::vector<std::int32_t> places, int k, bool by_index) {
  if (std::size_t(k) < places.size()) places.resize(std::size_t(k));
  if (by_index) std::sort(places.begin(), places.end());
  places.resize(std::size_t(k), -1);
  return places;
}

template <class T> bool same_bits(const T& a, const T& b) { return std::memcmp(&a, &b, sizeof(T)) == 0; }

}  // namespace oracle
