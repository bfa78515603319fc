// Codes of fewer than eight bits, packed without gaps. One order everywhere: a stream of bits that begins with
// the lowest bit of the first word, code i in bits [i * b, (i + 1) * b). Two 4-bit codes in a byte: the first in
// the low half. Layouts that differ (bitsandbytes' high half first, AWQ's column order, the planes that kernels
// read) belong to the codecs that own them.
#pragma once
#include <cstdint>
#include <smalti/core/float.hpp>

namespace smalti::inline SMALTI_DATA {

//! Code i of a stream of Bits-wide codes. Word is an unsigned integer type; no word outside the code is read.
template <int Bits, class Word>
SMALTI_HD constexpr std::uint32_t get_code(const Word* stream, std::int64_t i) {
  static_assert(Bits >= 1 && Bits <= 32, "smalti: a packed code has 1 to 32 bits");
  static_assert(Word(-1) > Word(0), "smalti: codes are packed in unsigned words, such as std::uint8_t or std::uint32_t");
  constexpr int width = 8 * int(sizeof(Word));
  std::int64_t word = i * Bits / width;
  int skip = int(i * Bits % width);
  std::uint64_t code = 0;
  for (int have = 0; have < Bits; have += width - skip, skip = 0)
    code |= (std::uint64_t(stream[word++]) >> skip) << have;
  return std::uint32_t(code & (~std::uint64_t{0} >> (64 - Bits)));
}

//! Replaces code i by the low Bits of `code`; leaves all other bits as they are. Not atomic: two threads must not
//! write codes that share a word.
template <int Bits, class Word>
SMALTI_HD constexpr void set_code(Word* stream, std::int64_t i, std::uint32_t code) {
  static_assert(Bits >= 1 && Bits <= 32, "smalti: a packed code has 1 to 32 bits");
  static_assert(Word(-1) > Word(0), "smalti: codes are packed in unsigned words, such as std::uint8_t or std::uint32_t");
  constexpr int width = 8 * int(sizeof(Word));
  constexpr std::uint64_t field = ~std::uint64_t{0} >> (64 - Bits);
  std::int64_t word = i * Bits / width;
  int skip = int(i * Bits % width);
  for (int done = 0; done < Bits; done += width - skip, skip = 0, ++word) {
    const Word mask = Word((field >> done) << skip);
    const Word bits = Word(((code & field) >> done) << skip);
    stream[word] = Word((stream[word] & Word(~mask)) | bits);
  }
}

//! Words that hold n codes.
template <int Bits, class Word = std::uint32_t>
SMALTI_HD constexpr std::int64_t code_words(std::int64_t n) {
  constexpr int width = 8 * int(sizeof(Word));
  return (n * Bits + width - 1) / width;
}

//! The fewest codes of a format that fill whole bytes: two e2m1 in one byte, four e3m2 or e2m3 in three. An array
//! of them is the packed stream of all their codes.
template <class T>
struct packed {
  static_assert(is_float_storage<T>, "smalti: packed<T> takes an element type of core/float.hpp");
  static constexpr int bits = code_bits<T>;
  static constexpr int count = bits % 8 == 0 ? 1 : bits % 4 == 0 ? 2 : bits % 2 == 0 ? 4 : 8;
  std::uint8_t bytes[bits * count / 8];

  SMALTI_HD constexpr T operator[](int i) const { return {decltype(T::bits)(get_code<bits>(bytes, i))}; }
  SMALTI_HD constexpr void set(int i, T x) { set_code<bits>(bytes, i, x.bits); }
  SMALTI_HD friend constexpr bool operator==(const packed& a, const packed& b) {
    bool same = true;
    for (int i = 0; i < bits * count / 8; ++i) same = same && a.bytes[i] == b.bytes[i];
    return same;
  }
};

//! Codes in an element of memory.
template <class T> inline constexpr int codes_in = 1;
template <class T> inline constexpr int codes_in<packed<T>> = packed<T>::count;

using e2m1x2 = packed<e2m1>;   //!< layout of CUDA's __nv_fp4x2_e2m1
using e3m2x4 = packed<e3m2>;
using e2m3x4 = packed<e2m3>;

}  // namespace smalti::inline SMALTI_DATA
