// What operations refuse of an index of slots.
#pragma once
#include <cstdint>
#include <smalti/core/segments.hpp>
#include <smalti/core/status.hpp>
#include <smalti/policy/route_index.hpp>

namespace smalti::inline SMALTI_CODE::moe {

//! Refuses an index that would send an operation out of its arrays. Only the host reads it.
//! @note  on a GPU the same rules are preconditions
template <bool Host> status check_index(const policy::route_index& x, int tokens) {
  if (x.tokens != tokens) return {errc::bad_shape, "index: its tokens must be the rows of the tokens' matrix", x.tokens, tokens};
  if (x.choices < 0 || x.row_limit < 0 || x.rows.count < 0) return {errc::bad_shape, "index: choices, row_limit and experts must not be negative", x.choices, 0};
  const long long slots = static_cast<long long>(x.tokens) * x.choices;
  if (slots > 2147483647ll) return {errc::out_of_reach, "index: there must be fewer than 2^31 slots", slots, 2147483647ll};
  if (slots > 0 && x.row_of_slot == nullptr) return {errc::null_pointer, "index.row_of_slot is null: it needs an entry for each slot", 0, slots};
  if (x.row_limit > 0 && (x.token_of_row == nullptr || x.slot_of_row == nullptr)) return {errc::null_pointer, "index: token_of_row or slot_of_row is null: they need an entry for each of row_limit rows", 0, x.row_limit};
  if (x.row_limit > 0 && x.rows.count == 0) return {errc::bad_shape, "index: rows need at least one expert", 0, 1};
  if (x.rows.count > 0 && (x.rows.offsets == nullptr || x.end == nullptr)) return {errc::null_pointer, "index: rows.offsets or end is null"};
  if constexpr (Host) {
    if (const status bad = check_segments(x.rows, x.row_limit); !bad) return bad;
    for (int e = 0; e < x.rows.count; ++e)
      if (x.end[e] < x.rows.first(e) || x.end[e] > x.rows.last(e)) return {errc::bad_value, "index.end: an expert's rows in use end outside its rows", x.end[e], x.rows.last(e)};
    for (int r = 0; r < x.row_limit; ++r) {
      if (x.slot_of_row[r] >= slots) return {errc::bad_value, "index.slot_of_row: a slot that does not exist", x.slot_of_row[r], slots};
      if (x.slot_of_row[r] >= 0 && x.row_of_slot[x.slot_of_row[r]] != r) return {errc::bad_value, "index: row_of_slot does not lead back from a row's slot: two rows have one slot, or the index is of another batch", x.row_of_slot[x.slot_of_row[r]], r};
      if (x.token_of_row[r] < 0 || (x.token_of_row[r] >= x.tokens && x.tokens > 0)) return {errc::bad_value, "index.token_of_row: a token that does not exist", x.token_of_row[r], x.tokens};
    }
    for (long long s = 0; s < slots; ++s)
      if (x.row_of_slot[s] >= x.row_limit) return {errc::bad_value, "index.row_of_slot: a row beyond row_limit", x.row_of_slot[s], x.row_limit};
  }
  return {};
}

}  // namespace smalti::inline SMALTI_CODE::moe
