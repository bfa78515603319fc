// Which row of a grouped product belongs to which token, and back: what routing makes (ops/route) and what grouped products,
// their backward and multi-adapter products consume. Plain pointers into the memory of the machine where the work runs.
//
// A slot is one choice of one token: slot = token * choices + choice. The kept slots are grouped by expert: expert e has the
// rows [rows.first(e), end[e]), its slots in the order that the capacity policy counts them (rising slot numbers by default).
// The rows from end[e] to rows.last(e) are padding. What the layouts of the field call
//   indirect ragged    no padding; nothing is copied: row p of the product reads row token_of_row[p] of X
//   compact            the same index; X is gathered by token_of_row first. `end` is its inclusive prefix
//   aligned (A)        each expert begins at a multiple of A; `end` is the "psum" of DeepEP and DeepGEMM
//   masked (M)         expert e begins at e * M: no place depends on the data
//   k-grouped          aligned rows as the depth of a product (weight gradients): padding must enter as zeros
// differ in these numbers only (policy/route/layout.hpp), so that one product reads them all.
#pragma once
#include <cstdint>
#include <smalti/core/segments.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! The tiles of `rows` rows that cover all experts' rows, for a grid that may not ask for counts: tile i has the rows
//! [first[i], min(first[i] + rows, end[expert[i]])) of expert[i]; expert[i] is -1 behind the last tile. No tile belongs to two
//! experts, experts without rows have none.
struct route_tiles {
  const std::int32_t* expert = nullptr;
  const std::int32_t* first = nullptr;
  int rows = 0;                                   //!< of a tile
  int limit = 0;                                  //!< entries; at most limit tiles are ever needed
};

//! An index of slots by expert. Every pointer may be read from the kernels that follow; nothing is on the other machine.
struct route_index {
  segments<std::int32_t> rows{};                  //!< experts + 1 offsets into the grouped rows; rows.count = experts
  const std::int32_t* end = nullptr;              //!< [experts] one past the last row in use
  const std::int32_t* token_of_row = nullptr;     //!< [row_limit] the row of X; 0 in padding: exists, and means nothing
  const std::int32_t* slot_of_row = nullptr;      //!< [row_limit] -1 in padding and behind the last row
  const std::int32_t* row_of_slot = nullptr;      //!< [tokens * choices] -1: none chosen, dropped, or nothing to compute
  const float* weight_of_slot = nullptr;          //!< [tokens * choices] null: all 1
  int tokens = 0, choices = 0;
  int row_limit = 0;                              //!< rows that buffers of grouped rows need, whatever the routing is
  route_tiles tiles{};                            //!< if asked for

  SMALTI_HD constexpr int experts() const { return rows.count; }
  SMALTI_HD constexpr int count(int e) const { return end[e] - rows.first(e); }
};

}  // namespace smalti::inline SMALTI_DATA::policy
