// How the items of a vector are cut into chunks: the one formula that every rank evaluates by itself, so that both ends
// of a message know its length without asking.
//
// A vector has `items` items in `parts` parts (part r is what rank r owns, where ranks own something), and each part
// has `pieces` pieces (the unit of pipelining). Chunk c is piece c % pieces of part c / pieces. Chunks may be empty: N < P
// is no special case. An empty chunk keeps its place in the schedule; a message of empty chunks alone is not sent.
#pragma once
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! Consecutive chunks: first .. first + count - 1.
struct chunk_range {
  int first = 0, count = 1;
  constexpr int last() const { return first + count; }
  constexpr bool holds(int chunk) const { return chunk >= first && chunk < last(); }
  constexpr bool holds(chunk_range r) const { return r.count == 0 || (r.first >= first && r.last() <= last()); }
  friend constexpr bool operator==(chunk_range, chunk_range) = default;
};

//! Where part `c` of `parts` begins when n is cut evenly: the first n % parts parts have one item more.
constexpr std::int64_t even_offset(std::int64_t n, std::int64_t parts, std::int64_t c) {
  const std::int64_t rest = n % parts;
  return c * (n / parts) + (c < rest ? c : rest);
}

//! The same in whole units (16 bytes, say), so that chunks begin aligned relative to the vector; what is left over
//! belongs to the last part that is not empty (to part 0 where there is no whole unit).
constexpr std::int64_t even_offset(std::int64_t n, std::int64_t parts, std::int64_t c, std::int64_t unit) {
  const std::int64_t units = n / unit, before = even_offset(units, parts, c);
  return c == 0 ? 0 : before == units ? n : before * unit;
}

//! A vector cut into parts and pieces.
//! @pre parts >= 1, pieces >= 1, unit >= 1, items >= 0; offsets, where given, has parts + 1 ascending entries, from 0
//!      to items, and outlives this value
struct partition {
  std::int64_t items = 0;
  int parts = 1, pieces = 1;
  std::int64_t unit = 1;                    //!< parts begin at multiples of this many items; no matter for given offsets
  const std::int64_t* offsets = nullptr;    //!< ragged parts, the same table on all ranks; null: even ones

  constexpr int chunks() const { return parts * pieces; }
  constexpr std::int64_t part_offset(int part) const {
    return offsets != nullptr ? offsets[part] : even_offset(items, parts, part, unit);
  }
  //! Where chunk c begins; offset(chunks()) is items.
  constexpr std::int64_t offset(int c) const {
    const int part = c / pieces, piece = c % pieces;
    const std::int64_t begin = part_offset(part);
    return piece == 0 ? begin : begin + even_offset(part_offset(part + 1) - begin, pieces, piece, unit);
  }
  constexpr std::int64_t length(int c) const { return offset(c + 1) - offset(c); }
  constexpr std::int64_t length(chunk_range r) const { return offset(r.last()) - offset(r.first); }
  //! The greatest length of `count` consecutive chunks: what room they need at most.
  constexpr std::int64_t greatest(int count) const {
    std::int64_t most = 0;
    for (int c = 0; c + count <= chunks(); ++c) {
      const std::int64_t here = length(chunk_range{c, count});
      most = here > most ? here : most;
    }
    return most;
  }

  constexpr status check() const {
    if (items < 0) return {errc::bad_shape, "partition: items must not be negative", items, 0};
    if (parts < 1) return {errc::bad_shape, "partition: parts must be at least 1", parts, 1};
    if (pieces < 1) return {errc::bad_shape, "partition: pieces must be at least 1", pieces, 1};
    if (unit < 1) return {errc::bad_value, "partition: unit must be at least 1 item", unit, 1};
    if (offsets != nullptr) {
      if (offsets[0] != 0) return {errc::bad_value, "partition: offsets must begin with 0", offsets[0], 0};
      for (int p = 0; p < parts; ++p)
        if (offsets[p + 1] < offsets[p]) return {errc::bad_value, "partition: offsets must ascend: a part has a negative length", offsets[p + 1], offsets[p]};
      if (offsets[parts] != items) return {errc::bad_shape, "partition: the last of offsets must be items", offsets[parts], items};
    }
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::comm
