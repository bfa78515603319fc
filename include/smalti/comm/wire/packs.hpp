// Blocks of codes by packs of the host machine, 16 elements at a time: what wire/block.hpp defines, in the same bytes. One look
// at a block finds its range, a second one makes the codes; nothing is kept in between. For nvcc there is nothing here.
#pragma once
#if !defined(__CUDACC__)
#  include <cstddef>
#  include <cstdint>
#  include <cstring>
#  include <smalti/core/float.hpp>
#  include <smalti/policy/codecs/integer.hpp>
#  include <smalti/policy/codecs/small_float.hpp>
#  include <smalti/tile/host/lanes.hpp>
#  include <smalti/tile/host/math.hpp>
#  include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::comm::detail {

//! x / divisor, rounded as a division is, by a reciprocal and its correction: a third of the time. For divisors far from
//! the ends of the exponents.
//! Source: Markstein 1990, "Computation of elementary functions on the IBM RISC System/6000 processor".
struct quotient {
  float divisor, inverse;
  bool corrected;      // near() may be asked
  explicit quotient(float d) : divisor(d), inverse(1.0f / d), corrected(SMALTI_DOT_LEVEL > 0 && d > 0x1p-60f && d < 0x1p60f) {}
  [[gnu::always_inline]] host::floats near(host::floats x) const {
    const host::floats q = x * inverse;
    return host::fma(host::fma(q, host::floats(-divisor), x), host::floats(inverse), q);
  }
  [[gnu::always_inline]] host::floats any(host::floats x) const { return x / host::floats(divisor); }
};

// Calls visit(pack, index of its first element, elements) for n elements; the last pack is filled up with the first element,
// which changes no range.
template <class X, class Visit> [[gnu::always_inline]] inline void each_pack(const X* x, int n, Visit visit) {
  int i = 0;
  for (; i + host::lane_count <= n; i += host::lane_count) visit(host::read(x + i), i, int(host::lane_count));
  if (i == n) return;
  X some[host::lane_count];
  for (int k = 0; k < host::lane_count; ++k) some[k] = x[i + k < n ? i + k : 0];
  visit(host::read(static_cast<const X*>(some)), i, n - i);
}

// ---- codes of 4 and 8 bits and memory: `codes` are ints, of which the low bits count

template <int Bits> [[gnu::always_inline]] inline void put_pack(host::ints codes, std::uint8_t* to) {
  if constexpr (Bits == 8) {
    host::detail::write_bits<host::detail::byte_part>(to, codes);
  } else {                                   // pairs side by side in 64 bits
    using pairs = std::uint64_t __attribute__((vector_size(host::detail::register_bytes)));
    using bytes = std::uint8_t __attribute__((vector_size(host::detail::part_lanes / 2)));
    for (int p = 0; p < host::detail::part_count; ++p) {
      const pairs two = pairs(codes.v[p] & 15);
#if SMALTI_DOT_LEVEL >= 2   // as in lanes.hpp
      const __m128i one = _mm512_maskz_cvtepi64_epi8(__mmask8(0xff), (__m512i)(two | two >> 28));
      std::memcpy(to, &one, sizeof(bytes));
#else
      const bytes one = __builtin_convertvector(two | two >> 28, bytes);
      std::memcpy(to + p * sizeof one, &one, sizeof one);
#endif
    }
  }
}
template <int Bits> [[gnu::always_inline]] inline host::ints get_pack(const std::uint8_t* from) {
  if constexpr (Bits == 8) {
    return host::detail::read_bits<host::detail::byte_part>(from);
  } else {
    using pairs = std::uint64_t __attribute__((vector_size(host::detail::register_bytes)));
    using bytes = std::uint8_t __attribute__((vector_size(host::detail::part_lanes / 2)));
    return host::detail::each_part<host::ints>([=](int p) {
      bytes one;
      std::memcpy(&one, from + p * sizeof one, sizeof one);
#if SMALTI_DOT_LEVEL >= 2
      const pairs two = (pairs)_mm512_maskz_cvtepu8_epi64(__mmask8(0xff), _mm_loadl_epi64(reinterpret_cast<const __m128i*>(&one)));
#else
      const pairs two = __builtin_convertvector(one, pairs);
#endif
      return host::detail::int_part((two | two << 28) & 0x0000000f0000000full);
    });
  }
}
template <int Bits> [[gnu::always_inline]] inline void put_pack(host::ints codes, std::uint8_t* to, int n) {
  if (n == host::lane_count) return put_pack<Bits>(codes, to);
  std::uint8_t all[host::lane_count];
  put_pack<Bits>(codes, all);
  if (Bits == 4 && n % 2 != 0) all[n / 2] &= 15;
  std::memcpy(to, all, std::size_t(Bits == 8 ? n : (n + 1) / 2));
}
template <int Bits> [[gnu::always_inline]] inline host::ints get_pack(const std::uint8_t* from, int n) {
  if (n == host::lane_count) return get_pack<Bits>(from);
  std::uint8_t all[host::lane_count] = {};
  std::memcpy(all, from, std::size_t(Bits == 8 ? n : (n + 1) / 2));
  return get_pack<Bits>(all);
}

// ---- quotients and codes: to the nearest, even on a tie, saturating

template <class Codec> struct packed_codec;
template <int Bits, int Offset> struct packed_codec<policy::offset_int<Bits, Offset>> {
  static constexpr float least = float(-Offset), most = float((1 << Bits) - 1 - Offset);
  //! The code stands in the low bits of 1.5 2^23 + code; the sum rounds to the nearest.
  [[gnu::always_inline]] static host::ints codes(host::floats x) { return host::float_bits(x + (12582912.0f + float(Offset))); }
  [[gnu::always_inline]] static host::ints clamped(host::floats x) { return codes(min(max(x, host::floats(least)), host::floats(most))); }
  [[gnu::always_inline]] static host::floats values(host::ints codes) { return host::to_float(codes - Offset); }
};
template <> struct packed_codec<policy::e4m3> {
  [[gnu::always_inline]] static host::ints codes(host::floats x) { return host::detail::narrow_code<fp8_e4m3>(x); }
  [[gnu::always_inline]] static host::ints clamped(host::floats x) { return codes(x); }
  [[gnu::always_inline]] static host::floats values(host::ints codes) { return host::detail::widen<fp8_e4m3>(codes); }
};
template <class Codec> constexpr bool has_packs = requires { packed_codec<Codec>::codes(host::floats{}); };

//! The largest magnitude of a block; not finite where an element is not.
template <class X> [[gnu::always_inline]] inline float reach_of(const X* x, int n) {
  host::ints most = 0;
  each_pack(x, n, [&](host::floats v, int, int) { most = max(most, host::float_bits(v) & 0x7fffffff); });
  return bits_float(std::uint32_t(host::fold(most, [](host::ints a, host::ints b) { return max(a, b); })));
}
struct range { float low, high; };
template <class X> [[gnu::always_inline]] inline range range_of(const X* x, int n) {
  host::floats low = to_float(x[0]), high = low;
  each_pack(x, n, [&](host::floats v, int, int) { low = min(low, v), high = max(high, v); });
  return {host::fold(low, [](host::floats a, host::floats b) { return min(a, b); }), host::fold(high, [](host::floats a, host::floats b) { return max(a, b); })};
}

//! n codes that are the same.
template <class Codec> inline void put_same(unsigned code, int n, std::byte* to) {
  std::uint8_t* bytes = reinterpret_cast<std::uint8_t*>(to);
  for (int i = 0; i < n; i += host::lane_count) put_pack<Codec::bits>(host::ints(int(code)), bytes + (Codec::bits == 8 ? i : i / 2), n - i < host::lane_count ? n - i : int(host::lane_count));
}
//! codes = encode((x - zero) / scale), scale > 0 and finite.
template <class Codec, class X> [[gnu::always_inline]] inline void put_quotients(const X* x, int n, float zero, float scale, std::byte* to) {
  using packs = packed_codec<Codec>;
  std::uint8_t* bytes = reinterpret_cast<std::uint8_t*>(to);
  const quotient by(scale);
  const auto at = [=](int i) { return bytes + (Codec::bits == 8 ? i : i / 2); };
  if (by.corrected) each_pack(x, n, [&](host::floats v, int i, int k) {
    const host::floats q = by.near(v - zero);
    put_pack<Codec::bits>(packs::codes(mutant(defect::wire_truncates) ? q - 0.4999f : q), at(i), k);
  });
  else each_pack(x, n, [&](host::floats v, int i, int k) { put_pack<Codec::bits>(packs::clamped(by.any(v - zero)), at(i), k); });
}
//! y = zero + value(code) * scale; without a zero the product alone.
template <class Codec, bool Zero, class X> [[gnu::always_inline]] inline void get_products(const std::byte* from, int n, float zero, float scale, X* y) {
  const std::uint8_t* bytes = reinterpret_cast<const std::uint8_t*>(from);
  for (int i = 0; i < n; i += host::lane_count) {
    const int k = n - i < host::lane_count ? n - i : int(host::lane_count);
    const host::floats product = packed_codec<Codec>::values(get_pack<Codec::bits>(bytes + (Codec::bits == 8 ? i : i / 2), k)) * scale;
    if constexpr (Zero) host::write(y + i, zero + product, k);
    else host::write(y + i, product, k);
  }
}

}  // namespace smalti::inline SMALTI_CODE::comm::detail
#endif
