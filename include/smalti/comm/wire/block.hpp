// Wires of scaled codes: blocks of elements share a scale, and each element is a code of a few bits. Codecs and rounding are those of
// policy/ (codecs/, quantizer.hpp); here is how a block lies in a message:
//
//     scale (and least value), float     codes, `bits` each, lowest bits first
//
// Rounding is to the nearest by default: a wire that truncates biases a sum by half a step for every hop (64 ranks of a ring: 4.7
// standard deviations of one input, 8 bits). policy::stochastic draws from a counter-based stream that is numbered by the
// element's place in the vector, the kind of message and the stream that the caller gives each rank.
//
// A format may offer its blocks by packs of the host machine (packs.hpp), for rounding to the nearest: the same codes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <smalti/comm/combine.hpp>
#include <smalti/comm/wire.hpp>
#include <smalti/comm/wire/cast.hpp>
#include <smalti/policy/codecs/integer.hpp>
#include <smalti/policy/codecs/small_float.hpp>
#include <smalti/policy/quantizer.hpp>
#if !defined(__CUDACC__)
#  include <smalti/comm/wire/packs.hpp>
#endif

namespace smalti::inline SMALTI_CODE::comm {

namespace detail {

// A reach that is known already.
struct given_reach {
  float value = 0;
  template <class Codec> float reach(const float*, int) const { return value; }
};

// Messages of different kinds draw different numbers for the same element.
template <class Rounding> Rounding rounding_for(Rounding r, [[maybe_unused]] content what) {
  if constexpr (std::is_same_v<Rounding, policy::stochastic>) r.stream.stream = r.stream.stream * 4 + std::uint64_t(what);
  return r;
}
template <class Rounding> bool to_nearest_even(const Rounding& r) {
  if constexpr (std::is_same_v<Rounding, policy::nearest>) return r.ties == policy::tie::even;
  else return false;
}

// Codes of `bits` bits, in whole bytes.
template <int Bits> constexpr std::int64_t code_bytes(std::int64_t n) {
  static_assert(Bits == 4 || Bits == 8, "smalti: codes on the wire have 4 or 8 bits");
  return Bits == 8 ? n : (n + 1) / 2;
}
template <int Bits> void put_codes(const std::uint8_t* codes, std::int64_t first, std::int64_t n, std::byte* to) {   // first is even
  if constexpr (Bits == 8) {
    std::memcpy(to + first, codes, std::size_t(n));
  } else {
    for (std::int64_t i = 0; i < n; i += 2) to[(first + i) / 2] = std::byte(codes[i] | (i + 1 < n ? codes[i + 1] << 4 : 0));
  }
}
template <int Bits> unsigned get_code(const std::byte* from, std::int64_t i) {
  if constexpr (Bits == 8) return unsigned(from[i]);
  else return unsigned(from[i / 2]) >> (i % 2 * 4) & 15u;
}

}  // namespace detail

//! How a block is scaled: x = value(code) * scale, scale = (largest magnitude) / (largest value of the codec). A block of zeros has
//! scale 0; one that holds a NaN or an infinity decodes to NaN, all of it: never silently to something else.
//! @note error: half the gap between neighbouring codes, times scale. For integers of b bits: max |x| / (2^b - 2); for e4m3 2^-4 relative and
//!       2^-10 / 448 max |x|. Stochastic rounding: twice that at most, and no bias
template <class Codec, class Rounding = policy::nearest> struct symmetric_block {
  using codec = Codec;
  static constexpr int head = 4;
  static constexpr std::uint32_t number = 2;
  Rounding rounding{};

  struct scaled {
    policy::symmetric_quantizer<Codec, float, detail::given_reach, Rounding> quantizer;
    float scale;
    void put_head(std::byte* to) const { std::memcpy(to, &scale, 4); }
    void codes(const float* x, int n, std::uint8_t* to, std::int64_t first) const {
      if (policy::is_finite(scale)) quantizer(x, n, to, first);
      else std::memset(to, Codec::zero_code, std::size_t(n));
    }
  };
  //! `low` and `high` bound the block; `finite`: it holds nothing else.
  scaled scale_of(float low, float high, bool finite, content what) const {
    const float reach = policy::magnitude(-low > high ? -low : high);
    return {{{reach}, detail::rounding_for(rounding, what)}, finite ? reach / policy::limit_of<Codec> : bits_float(0x7fc00000u)};
  }
  static float value(const std::byte* head, unsigned code) {
    float scale;
    std::memcpy(&scale, head, 4);
    return Codec::value(code) * scale;
  }
#if !defined(__CUDACC__)
  static constexpr bool decodes_packs = detail::has_packs<Codec>;
  bool encodes_packs() const { return decodes_packs && detail::to_nearest_even(rounding); }
  template <int N, class X> void encode_packs(const X* x, int n, std::byte* to) const {
    const int count = N > 0 ? N : n;
    const float reach = detail::reach_of(x, count);
    const bool finite = policy::is_finite(reach);
    const scaled s = scale_of(-reach, reach, finite, content::input);
    s.put_head(to);
    if (finite && s.scale > 0.0f) detail::put_quotients<Codec>(x, count, 0.0f, s.scale, to + head);
    else detail::put_same<Codec>(finite ? Codec::zero_code : 0, count, to + head);
  }
  template <int N, class X> static void decode_packs(const std::byte* from, int n, X* y) {
    float scale;
    std::memcpy(&scale, from, 4);
    detail::get_products<Codec, false>(from + head, N > 0 ? N : n, 0.0f, scale, y);
  }
#endif
};

//! x = low + code * step, step = (high - low) / (2^Bits - 1): a range that need not hold zero.
//! @note error: (high - low) / (2^(Bits + 1) - 2) and 2^-23 of max |x|; stochastic: twice that, no bias
template <int Bits, class Rounding = policy::nearest> struct minmax_block {
  using codec = policy::offset_int<Bits, 0>;
  static constexpr int head = 8;
  static constexpr std::uint32_t number = 3;
  Rounding rounding{};

  struct scaled {
    Rounding rounding;
    float low, step;
    void put_head(std::byte* to) const { std::memcpy(to, &low, 4), std::memcpy(to + 4, &step, 4); }
    void codes(const float* x, int n, std::uint8_t* to, std::int64_t first) const {
      for (int i = 0; i < n; ++i) to[i] = std::uint8_t(step > 0.0f ? codec::encode_by((x[i] - low) / step, rounding.at(first + i)) : 0u);
    }
  };
  scaled scale_of(float low, float high, bool finite, content what) const {
    // Halves, so that a range beyond the largest float stays finite.
    const float step = (high * 0.5f - low * 0.5f) / (float(codec::largest) * 0.5f);
    return {detail::rounding_for(rounding, what), finite ? low + 0.0f : bits_float(0x7fc00000u), finite ? step : 0.0f};   // one zero for both
  }
  static float value(const std::byte* head, unsigned code) {
    float low, step;
    std::memcpy(&low, head, 4), std::memcpy(&step, head + 4, 4);
    return low + float(code) * step;
  }
#if !defined(__CUDACC__)
  static constexpr bool decodes_packs = detail::has_packs<codec>;
  bool encodes_packs() const { return decodes_packs && detail::to_nearest_even(rounding); }
  template <int N, class X> void encode_packs(const X* x, int n, std::byte* to) const {
    const int count = N > 0 ? N : n;
    const detail::range r = detail::range_of(x, count);
    const bool finite = policy::is_finite(detail::reach_of(x, count));
    const scaled s = scale_of(r.low, r.high, finite, content::input);
    s.put_head(to);
    if (finite && s.step > 0.0f) detail::put_quotients<codec>(x, count, s.low, s.step, to + head);
    else detail::put_same<codec>(0, count, to + head);
  }
  template <int N, class X> static void decode_packs(const std::byte* from, int n, X* y) {
    float low, step;
    std::memcpy(&low, from, 4), std::memcpy(&step, from + 4, 4);
    detail::get_products<codec, true>(from + head, N > 0 ? N : n, low, step, y);
  }
#endif
};

//! Blocks of `Group` elements under one scale; Group = 0: each item is a block (rows).
//! @note bits: blocks are counted from the beginning of each chunk. Where chunks begin at multiples of Group (arguments::unit) blocks do
//!       not depend on chunks, and a schedule that is partition-invariant stays it; else it does not
template <class Format, int Group> struct block_wire {
  static_assert(Group >= 0 && (Group == 0 || Group % 2 == 0), "smalti: a block on the wire has an even number of elements, or 0 for a whole item");
  using codec = typename Format::codec;
  static constexpr bool plain = false, exact = false, elementwise = false, own_trip = true;
  static constexpr int group = Group, bits = codec::bits;
  Format format{};
  int width = 1, tail = 0;              //!< as in cast_wire

  constexpr std::int64_t items_together() const { return by_item() ? 1 : Group; }
  constexpr std::uint32_t code() const { return Format::number << 24 | std::uint32_t(bits) << 20 | std::uint32_t(Group & 0x3ff) << 10 | std::uint32_t(width & 0xff) << 2 | std::uint32_t(tail); }
  constexpr std::int64_t bytes(content, std::int64_t n) const { return by_item() ? n * (run_bytes(width - tail) + tail * 4) : run_bytes(n * width); }
  template <class X> void encode(content what, std::int64_t first, const X* x, std::int64_t n, std::byte* to) const {
    static_assert(detail::explain_wire_element<X>());
    if (!by_item()) return encode_run(what, first * width, x, n * width, to);
    for (std::int64_t i = 0; i < n; ++i, x += width) {
      encode_run(what, (first + i) * width, x, width - tail, to), to += run_bytes(width - tail);
      detail::convert<float>(x + width - tail, tail, to), to += tail * sizeof(float);
    }
  }
  template <class X> void decode(content, std::int64_t, const std::byte* from, std::int64_t n, X* y) const {
    static_assert(detail::explain_wire_element<X>());
    if (!by_item()) return decode_run(from, n * width, y);
    for (std::int64_t i = 0; i < n; ++i, y += width) {
      decode_run(from, width - tail, y), from += run_bytes(width - tail);
      detail::convert_back<float>(from, tail, y + width - tail), from += tail * sizeof(float);
    }
  }

 private:
  constexpr bool by_item() const { return Group == 0 || tail > 0; }
  static constexpr std::int64_t block_of(std::int64_t n) { return Group == 0 ? n : Group; }
  static constexpr std::int64_t run_bytes(std::int64_t n) {
    if (n <= 0) return 0;
    const std::int64_t block = block_of(n), whole = n / block, rest = n % block;
    return whole * (Format::head + detail::code_bytes<bits>(block)) + (rest > 0 ? Format::head + detail::code_bytes<bits>(rest) : 0);
  }
#if !defined(__CUDACC__)
  static constexpr std::int64_t most_packed = 1 << 30;
  // visit(whole, its first element, its elements, its place in the message): whole blocks have a constant length.
  template <class Visit> static void each_block(std::int64_t n, Visit visit) {
    const std::int64_t block = block_of(n);
    std::int64_t b = 0, at = 0;
    if constexpr (Group > 0)
      for (; b + Group <= n; b += Group, at += Format::head + detail::code_bytes<bits>(Group)) visit(std::integral_constant<int, Group>{}, b, Group, at);
    for (; b < n; b += block, at += Format::head + detail::code_bytes<bits>(block)) visit(std::integral_constant<int, 0>{}, b, int(n - b < block ? n - b : block), at);
  }
#endif
  // Elements are widened in pieces, so that a row of any length needs no memory.
  static constexpr int piece = 256;
  template <class X> static void widen(const X* x, int n, float* to) {
    for (int i = 0; i < n; ++i) to[i] = to_float(x[i]);
  }
  template <class X> void encode_run(content what, std::int64_t first, const X* x, std::int64_t n, std::byte* to) const {
    const std::int64_t block = block_of(n);
#if !defined(__CUDACC__)
    if constexpr (Format::decodes_packs)
      if (format.encodes_packs() && block <= most_packed) {
        each_block(n, [&](auto whole, std::int64_t b, int count, std::int64_t at) { format.template encode_packs<decltype(whole)::value>(x + b, count, to + at); });
        return;
      }
#endif
    for (std::int64_t b = 0; b < n; b += block) {
      const std::int64_t count = n - b < block ? n - b : block;
      float values[piece]{}, low = to_float(x[b]), high = low;
      bool finite = true;
      for (std::int64_t i = 0; i < count; i += piece) {
        const int k = int(count - i < piece ? count - i : piece);
        widen(x + b + i, k, values);
        for (int j = 0; j < k; ++j) {
          finite &= policy::is_finite(values[j]);
          low = values[j] < low ? values[j] : low, high = values[j] > high ? values[j] : high;
        }
      }
      const auto scaled = format.scale_of(low, high, finite, what);
      scaled.put_head(to);
      to += Format::head;
      for (std::int64_t i = 0; i < count; i += piece) {
        const int k = int(count - i < piece ? count - i : piece);
        std::uint8_t codes[piece];
        widen(x + b + i, k, values);
        if (finite) scaled.codes(values, k, codes, first + b + i);
        else std::memset(codes, 0, sizeof codes);
        detail::put_codes<bits>(codes, i, k, to);
      }
      to += detail::code_bytes<bits>(count);
    }
  }
  template <class X> void decode_run(const std::byte* from, std::int64_t n, X* y) const {
    const std::int64_t block = block_of(n);
#if !defined(__CUDACC__)
    if constexpr (Format::decodes_packs)
      if (block <= most_packed) {
        each_block(n, [&](auto whole, std::int64_t b, int count, std::int64_t at) { Format::template decode_packs<decltype(whole)::value>(from + at, count, y + b); });
        return;
      }
#endif
    for (std::int64_t b = 0; b < n; b += block) {
      const std::int64_t count = n - b < block ? n - b : block;
      for (std::int64_t i = 0; i < count; ++i) y[b + i] = narrow<X>(Format::value(from, detail::get_code<bits>(from + Format::head, i)));
      from += Format::head + detail::code_bytes<bits>(count);
    }
  }
};

//! The named ones.
template <int Group = 256, class Rounding = policy::nearest> using minmax8_wire = block_wire<minmax_block<8, Rounding>, Group>;
template <int Group = 128, class Rounding = policy::nearest> using int8_wire = block_wire<symmetric_block<policy::offset_int<8>, Rounding>, Group>;
template <int Group = 32, class Rounding = policy::nearest> using int4_wire = block_wire<symmetric_block<policy::offset_int<4>, Rounding>, Group>;
template <class Rounding = policy::nearest> using row_fp8_wire = block_wire<symmetric_block<policy::e4m3, Rounding>, 0>;   //!< one scale for an item
template <int Group = 128, class Rounding = policy::nearest> using fp8_wire = block_wire<symmetric_block<policy::e4m3, Rounding>, Group>;

}  // namespace smalti::inline SMALTI_CODE::comm
