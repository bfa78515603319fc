// The block iterator of a window with sinks: computed, not stored.
#pragma once
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>
#include <smalti/policy/masks/window.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! For each `Height` query rows the blocks of `Width` keys that hold one of the first `sinks` keys or one of the window [p - left, p]
//! of a query at p = query + keys - queries, ascending. Blocks between them are not looked at, whatever the length. The mask that
//! belongs to it is policy::sink_window of the same numbers, which still holds inside the blocks. A block iterator as
//! policy/blocks.hpp describes.
//! Source: Xiao et al. 2023, StreamingLLM, arXiv:2309.17453.
template <int Width, int Height>
struct sink_window_blocks {
  static_assert(Width > 0 && Width % 16 == 0, "smalti: a block of keys in sink_window_blocks is a multiple of 16 wide");
  static_assert(Height > 0, "smalti: a row of sink_window_blocks stands for at least one query");
  static constexpr bool listed = true;
  static constexpr int width = Width, height = Height, heads = 1;
  int sinks = 4, left = window_unlimited;
  int queries = 0, keys = 0;               //!< of one sequence: bound

  struct list {
    int kept, begin, end;                  //!< blocks [0, kept), then [begin, end)
    SMALTI_HD constexpr int count() const { return kept + end - begin; }
    SMALTI_HD constexpr int block(int i) const { return i < kept ? i : begin + i - kept; }
  };
  SMALTI_HD constexpr sink_window_blocks for_lengths(int query_count, int key_count) const { return {sinks, left, query_count, key_count}; }
  SMALTI_HD constexpr list at(int, int, int row) const {
    const int shift = keys - queries, rows_end = (row + 1) * Height < queries ? (row + 1) * Height : queries;
    const span near = detail::span_within(row * Height + shift - left, rows_end + shift, keys);
    const int begin = near.first / Width, end = (near.last + Width - 1) / Width, first = (sinks + Width - 1) / Width;
    return {first < begin ? first : begin, begin, end};
  }
  constexpr status check(int, int, int, int, bool) const {
    if (sinks < 0) return {errc::bad_value, "sink_window_blocks.sinks must not be negative: it counts the first keys that stay visible", sinks, 0};
    if (left < 0 || left > window_unlimited) return {errc::bad_value, "sink_window_blocks.left must be within [0, window_unlimited]", left, window_unlimited};
    return {};
  }
};

//! The blocks of sink_window_keys(sinks, count).
template <int Width, int Height> constexpr sink_window_blocks<Width, Height> blocks_of(const sink_window<>& mask) { return {mask.sinks, mask.left}; }

}  // namespace smalti::inline SMALTI_DATA::policy
