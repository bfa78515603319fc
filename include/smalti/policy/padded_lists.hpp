// Lists of blocks as selectors write them: rows of one width, the end filled with -1.
#pragma once
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>
#include <smalti/core/view.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Blocks of `Width` keys for each `Height` query rows of a head. The list of row r is the beginning of table row r, ascending,
//! none twice, up to its first -1;
//!     r = (sequence * heads + head) * rows + query / Height
//! heads: of the lists; query heads share a list in groups of (query heads / heads). rows: of each head. A block iterator
//! as policy/blocks.hpp describes; policy::block_lists holds the same lists in compressed rows.
template <int Width, int Height>
struct padded_lists {
  static_assert(Width > 0 && Width % 16 == 0, "smalti: a block of keys in padded_lists is a multiple of 16 wide");
  static_assert(Height > 0, "smalti: a row of padded_lists stands for at least one query");
  static constexpr bool listed = true;
  static constexpr int width = Width, height = Height;
  view<const std::int32_t, 1> table{};
  int heads = 0, rows = 0;
  bool trusted = false;               //!< a selector writes it before it is read: what it holds is not checked

  struct list {
    const std::int32_t* indices;
    int length;
    SMALTI_HD constexpr int count() const { return length; }
    SMALTI_HD constexpr int block(int i) const { return indices[i]; }
  };
  //! `head` counts the heads of the lists.
  SMALTI_HD constexpr list at(int sequence, int head, int row) const {
    const std::int32_t* first = table.data + ((static_cast<long long>(sequence) * heads + head) * rows + row) * table.stride;
    int low = 0, high = table.cols;                  // the first -1 lies in [low, high]
    while (low < high) {
      const int middle = (low + high) / 2;
      if (first[middle] < 0) high = middle;
      else low = middle + 1;
    }
    return {first, low};
  }
  constexpr status check(int sequences, int q_heads, int queries, int keys, bool readable) const {
    if (sequences == 0 || q_heads == 0 || queries == 0) return {};
    if (table.cols > 0 && table.data == nullptr && !trusted) return {errc::null_pointer, "padded_lists.table is null: it needs a row for each tile of queries of each head"};
    if (heads <= 0 || q_heads % heads != 0) return {errc::bad_shape, "padded_lists.heads must divide the query heads", heads, q_heads};
    if (rows < (queries - 1) / Height + 1) return {errc::bad_shape, "padded_lists.rows must cover the queries: (queries - 1) / Height + 1", rows, (queries - 1) / Height + 1};
    const long long lists = static_cast<long long>(sequences) * heads * rows, blocks = (static_cast<long long>(keys) + Width - 1) / Width;
    if (table.rows < lists) return {errc::bad_shape, "padded_lists.table needs sequences * heads * rows rows", table.rows, lists};
    if (table.stride < table.cols) return {errc::bad_shape, "padded_lists.table: the stride must be at least its columns", table.stride, table.cols};
    if (!readable || trusted) return {};
    for (long long r = 0; r < lists; ++r) {
      const std::int32_t* list = table.data + r * table.stride;
      for (int i = 0; i < table.cols; ++i) {
        if (list[i] >= blocks) return {errc::bad_value, "padded_lists.table: a block lies past the keys", list[i], blocks};
        if (i > 0 && list[i] >= 0 && list[i] <= list[i - 1]) return {errc::bad_value, "padded_lists.table must ascend within a list: a block is seen once", list[i], list[i - 1]};
        if (i > 0 && list[i] >= 0 && list[i - 1] < 0) return {errc::bad_value, "padded_lists.table: -1 stands only behind the blocks of a list", list[i], -1};
      }
    }
    return {};
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
