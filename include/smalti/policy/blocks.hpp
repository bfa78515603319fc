// Block iterators: which tiles of keys a tile of queries goes over, in which order. Masks say what a query may see; an
// iterator says what is looked at, and a tile it leaves out costs nothing.
//     listed = false     every tile that the mask does not skip
//     listed = true      tiles from a list: `width` keys each, one list for each `height` query rows;
//                        at(sequence, head, row) gives the list of query rows [row * height, (row + 1) * height), which answers
//                            count(), block(i)         how many blocks, and which is the i-th
#pragma once
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Every tile.
struct all_blocks {
  static constexpr bool listed = false;
};

//! Blocks of `Width` keys for each `Height` query rows of a head, in compressed rows: the list of row r is
//!     indices[offsets[r]], ..., indices[offsets[r + 1] - 1],    r = (sequence * heads + head) * rows + query / Height
//! Ascending, none twice. Masks and lengths still hold inside a block. An empty list is a row without keys.
//! heads: of the lists; query heads share a list in groups of (query heads / heads). rows: of each head.
template <int Width, int Height>
struct block_lists {
  static_assert(Width > 0 && Width % 16 == 0, "smalti: a block of keys in block_lists is a multiple of 16 wide");
  static_assert(Height > 0, "smalti: a row of block_lists stands for at least one query");
  static constexpr bool listed = true;
  static constexpr int width = Width, height = Height;
  const std::int32_t* offsets = nullptr;
  const std::int32_t* indices = nullptr;
  int heads = 0, rows = 0;

  struct list {
    const std::int32_t* indices;
    int first, last;
    SMALTI_HD constexpr int count() const { return last - first; }
    SMALTI_HD constexpr int block(int i) const { return indices[first + i]; }
  };
  //! `head` counts the heads of the lists.
  SMALTI_HD constexpr list at(int sequence, int head, int row) const {
    const std::int32_t* o = offsets + ((static_cast<long long>(sequence) * heads + head) * rows + row);
    return {indices, o[0], o[1]};
  }
  constexpr status check(int sequences, int q_heads, int queries, int keys, bool readable) const {
    if (sequences == 0 || q_heads == 0 || queries == 0) return {};
    if (offsets == nullptr) return {errc::null_pointer, "block_lists.offsets is null: it needs an entry for each row of each head, and one more"};
    if (heads <= 0 || q_heads % heads != 0) return {errc::bad_shape, "block_lists.heads must divide the query heads", heads, q_heads};
    if (rows < (queries - 1) / Height + 1) return {errc::bad_shape, "block_lists.rows must cover the queries: (queries - 1) / Height + 1", rows, (queries - 1) / Height + 1};
    if (!readable) return {};
    const long long lists = static_cast<long long>(sequences) * heads * rows, blocks = (static_cast<long long>(keys) + Width - 1) / Width;
    for (long long r = 0; r < lists; ++r) {
      if (offsets[r + 1] < offsets[r]) return {errc::bad_value, "block_lists.offsets must not decrease", offsets[r + 1], offsets[r]};
      if (offsets[r + 1] > offsets[r] && indices == nullptr) return {errc::null_pointer, "block_lists.indices is null, but a list has blocks"};
      for (int i = offsets[r]; i < offsets[r + 1]; ++i) {
        if (indices[i] < 0 || indices[i] >= blocks) return {errc::bad_value, "block_lists.indices: a block lies past the keys", indices[i], blocks};
        if (i > offsets[r] && indices[i] <= indices[i - 1]) return {errc::bad_value, "block_lists.indices must ascend within a list: a block is seen once", indices[i], indices[i - 1]};
      }
    }
    return {};
  }
};

template <class B>
concept block_iterator = std::is_trivially_copyable_v<B> && requires { { B::listed } -> std::convertible_to<bool>; };

//! Why B is not a block iterator, in one sentence.
template <class B> consteval bool explain_blocks() {
  static_assert(std::is_trivially_copyable_v<B>, "smalti: a block iterator is copied to the GPU by value, so it must be trivially copyable");
  static_assert(requires { { B::listed } -> std::convertible_to<bool>; }, "smalti: a block iterator needs  static constexpr bool listed: see policy/blocks.hpp");
  return block_iterator<B>;
}

}  // namespace smalti::inline SMALTI_DATA::policy
