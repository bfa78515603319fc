// Random numbers from a counter: number i of a stream is a function of (key, i), so that any block, thread or machine may
// make it, in any order, and gets the same bits. Philox 4x32 with ten rounds.
//
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Four 32-bit numbers: std::uint32_t, or a machine's 32-bit integers (whose signs do not matter).
template <class V> struct four {
  V v[4];
};

namespace philox_parts {

// The upper half of a * m. A machine's integers multiply to 32 bits only: their halves do.
template <class V> SMALTI_HD constexpr V upper_half(V a, std::uint32_t m) {
  if constexpr (std::is_same_v<V, std::uint32_t>) {
    return std::uint32_t(std::uint64_t(a) * m >> 32);
  } else {
    const int low = int(m & 0xffffu), high = int(m >> 16), mask = 0xffff;
    const V a_low = a & mask, a_high = (a >> 16) & mask;
    const V first = a_high * low + (((a_low * low) >> 16) & mask);
    const V second = a_low * high + (first & mask);
    return a_high * high + ((first >> 16) & mask) + ((second >> 16) & mask);
  }
}
template <class V> SMALTI_HD constexpr V number(std::uint32_t x) {
  if constexpr (std::is_same_v<V, std::uint32_t>) return x;
  else return V(int(x));
}
template <class V> SMALTI_HD constexpr V times(V a, std::uint32_t m) {
  if constexpr (std::is_same_v<V, std::uint32_t>) return a * m;
  else return a * int(m);
}
template <class V> SMALTI_HD constexpr V exclusive_or(V a, std::uint32_t m) {
  if constexpr (std::is_same_v<V, std::uint32_t>) return a ^ m;
  else return a ^ int(m);
}

}  // namespace philox_parts

//! The four numbers of a counter under a key of 64 bits.
//! @note cost: 20 products of 32 by 32 bits on scalars; a machine without them takes about 200 operations
template <class V> SMALTI_HD constexpr four<V> philox(four<V> counter, std::uint64_t key) {
  std::uint32_t k0 = std::uint32_t(key), k1 = std::uint32_t(key >> 32);
  constexpr std::uint32_t m0 = 0xd2511f53u, m1 = 0xcd9e8d57u;
  V c0 = counter.v[0], c1 = counter.v[1], c2 = counter.v[2], c3 = counter.v[3];
  for (int round = 0; round < 10; ++round) {
    const V high0 = philox_parts::upper_half(c0, m0), high1 = philox_parts::upper_half(c2, m1);
    const V low0 = philox_parts::times(c0, m0), low1 = philox_parts::times(c2, m1);
    c0 = philox_parts::exclusive_or<V>(high1 ^ c1, k0);
    c1 = low1;
    c2 = philox_parts::exclusive_or<V>(high0 ^ c3, k1);
    c3 = low0;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return {{c0, c1, c2, c3}};
}

//! A stream of numbers: number i is word i % 4 of counter i / 4 of stream `stream` under `seed`.
struct random_stream {
  std::uint64_t seed = 0, stream = 0;

  SMALTI_HD constexpr four<std::uint32_t> block(std::uint64_t i) const {
    return philox<std::uint32_t>({{std::uint32_t(i), std::uint32_t(i >> 32), std::uint32_t(stream), std::uint32_t(stream >> 32)}}, seed);
  }
  SMALTI_HD constexpr std::uint32_t bits(std::uint64_t i) const { return block(i / 4).v[i % 4]; }
  //! In [0, 1), a multiple of 2^-24.
  SMALTI_HD constexpr float uniform(std::uint64_t i) const { return float(bits(i) >> 8) * 0x1p-24f; }
};

}  // namespace smalti::inline SMALTI_DATA::policy
