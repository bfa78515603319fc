// Codes to the words that kernels read, and back: plain functions on the host, through policy/word_planes.hpp.
#pragma once
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/policy/codecs/element.hpp>
#include <smalti/policy/word_planes.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Codes as importers give them: row n holds the K codes of output n, a byte each.
struct code_matrix {
  const std::uint8_t* data = nullptr;
  int n = 0, k = 0;
  long long stride = 0;            //!< bytes between rows
  const int* order = nullptr;      //!< position p of the packed weight holds code order[p] of its row (act-order); null: p
};

//! Outputs [first, last), so that several threads may share a packing: multiples of the layout's columns, or n.
struct column_range {
  int first, last;
};

namespace packing {

template <class Codec> constexpr bool can_be_refused = Codec::bits < 8 || requires { requires Codec::finite_only; };
template <class Codec> constexpr bool acceptable(unsigned code) {
  if (code >> Codec::bits != 0) return false;
  if constexpr (requires { requires Codec::finite_only; }) return is_finite(Codec::value(code));
  else return true;
}
template <class Codec> struct verdicts {
  bool refused[256];
  constexpr verdicts() : refused{} {
    for (unsigned c = 0; c < 256; ++c) refused[c] = !acceptable<Codec>(c);
  }
};

// One part after another, each with its widths as constants.
template <class Layout, class Codec, int Part> void pack_part(const code_matrix& codes, std::uint32_t* const* parts, column_range range) {
  if constexpr (Part < Layout::parts) {
    constexpr int width = Layout::width(Part), shift = Layout::shift(Part), positions = Layout::positions(Part), columns = Layout::columns;
    constexpr std::uint32_t field = (1u << width) - 1;
    const int words = Layout::words_of(codes.k, Part), last = range.last == codes.n ? Layout::padded_n(codes.n) : range.last;
    for (int first = range.first; first < last; first += columns)
      for (int word = 0; word < words; ++word) {
        std::uint32_t* const out = parts[Part] + Layout::index(first, word, words);
        for (int c = 0; c < columns; ++c) out[c] = 0;
        for (int position = 0; position < positions; ++position) {
          const int k0 = Layout::code_at({word, width * position}, Part);      // a run of neighbours
          for (int c = 0; c < columns; ++c) {
            const std::uint8_t* const row = first + c < codes.n ? codes.data + (first + c) * codes.stride : nullptr;
            std::uint32_t bits = 0;
            for (int r = 0; r < Layout::run; ++r) {
              const unsigned code = row && k0 + r < codes.k ? row[codes.order ? codes.order[k0 + r] : k0 + r] : padding_code<Codec>;
              bits |= (code >> shift & field) << (r * Layout::lane + width * position);
            }
            out[c] |= bits;
          }
        }
      }
    pack_part<Layout, Codec, Part + 1>(codes, parts, range);
  }
}

}  // namespace packing

//! Is every code one of the codec's, and finite where the codec promises it? `got` of the answer is the first code that
//! is not, in reading order.
template <class Codec> status check_codes(const code_matrix& codes) {
  static constexpr packing::verdicts<Codec> verdict{};
  if constexpr (packing::can_be_refused<Codec>) {
    for (int n = 0; n < codes.n; ++n) {
      const std::uint8_t* row = codes.data + n * codes.stride;
      bool bad = false;
      for (int k = 0; k < codes.k; ++k) bad |= verdict.refused[row[k]];
      for (int k = 0; bad; ++k)
        if (verdict.refused[row[k]])
          return {errc::bad_value, Codec::bits < 8 ? "codes: a code has more bits than the format" : "codes: a weight is NaN or infinite: repair the checkpoint, or use the codec that keeps such codes",
                  row[k], (1 << Codec::bits) - 1};
    }
  }
  return {};
}

//! Packs the columns of a range into parts[0 .. Layout::parts): Layout::size(n, k, part) words each. Positions past k
//! and columns past n get padding_code<Codec>, the code of zero where there is one.
//! @pre   parts do not overlap the codes; order, if given, holds k numbers in [0, k)
//! @note  cost: one pass over the codes for each part, about a nanosecond a code
template <class Layout, class Codec>
status pack_codes(const code_matrix& codes, std::uint32_t* const* parts, column_range range) {
  static_assert(Layout::bits == Codec::bits, "smalti: the layout has another number of bits than the codec");
  if (codes.n < 0 || codes.k < 0) return {errc::bad_shape, "codes: n and k must not be negative", codes.n < 0 ? codes.n : codes.k, 0};
  if (codes.n > 0 && codes.k > 0 && codes.data == nullptr) return {errc::null_pointer, "codes: data is null"};
  if (codes.stride < codes.k && codes.n > 1) return {errc::bad_shape, "codes: the stride must be at least k", codes.stride, codes.k};
  if (range.first < 0 || range.last > codes.n || range.first % Layout::columns != 0 || (range.last % Layout::columns != 0 && range.last != codes.n))
    return {errc::bad_shape, "range: its ends are multiples of the layout's columns, or n", range.first, Layout::columns};
  for (int p = 0; p < Layout::parts; ++p)
    if (parts[p] == nullptr && Layout::size(codes.n, codes.k, p) > 0) return {errc::null_pointer, "parts: the words of a part are null"};
  if (codes.order)
    for (int k = 0; k < codes.k; ++k)
      if (codes.order[k] < 0 || codes.order[k] >= codes.k) return {errc::bad_value, "codes: order holds positions in [0, k)", codes.order[k], codes.k};
  const code_matrix part_of{codes.data + range.first * codes.stride, range.last - range.first, codes.k, codes.stride, codes.order};
  if (const status bad = check_codes<Codec>(part_of); !bad) return bad;

  packing::pack_part<Layout, Codec, 0>(codes, parts, range);
  return {};
}
template <class Layout, class Codec> status pack_codes(const code_matrix& codes, std::uint32_t* const* parts) {
  return pack_codes<Layout, Codec>(codes, parts, {0, codes.n});
}

//! The code of output n at position k of packed words: place by place, for tests and inspection.
template <class Layout> unsigned packed_code(const std::uint32_t* const* parts, int n, int k, int padded_from_k) {
  unsigned code = 0;
  for (int part = 0; part < Layout::parts; ++part) {
    const code_place at = Layout::place(k, part);
    const std::uint32_t word = parts[part][Layout::index(n, at.word, Layout::words_of(padded_from_k, part))];
    code |= (word >> at.bit & ((1u << Layout::width(part)) - 1)) << Layout::shift(part);
  }
  return code;
}

//! Undoes pack_codes: row n of `codes` gets its k codes in their original order.
template <class Layout> void unpack_codes(const std::uint32_t* const* parts, int n, int k, std::uint8_t* codes, long long stride, const int* order = nullptr) {
  for (int i = 0; i < n; ++i)
    for (int p = 0; p < k; ++p) codes[i * stride + (order ? order[p] : p)] = std::uint8_t(packed_code<Layout>(parts, i, p, k));
}

}  // namespace smalti::inline SMALTI_DATA::policy
