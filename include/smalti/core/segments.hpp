// Ragged batches: where each sequence, group or row begins in one long array.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA {

//! `count` consecutive runs of one array: run i is [offsets[i], offsets[i + 1]). `offsets` has count + 1 entries
//! and begins with 0; a run may be empty. Offset is std::int32_t or std::int64_t: the caller's choice, since
//! frameworks hand over both. What an offset counts (tokens, rows, elements) is said by the op that takes it.
//! An aggregate of scalars; the offsets lie where the op runs.
template <class Offset>
struct segments {
  static_assert(std::is_same_v<Offset, std::int32_t> || std::is_same_v<Offset, std::int64_t>,
    "smalti: segments<Offset> takes std::int32_t or std::int64_t: convert other offsets to one of them");
  const Offset* offsets = nullptr;
  int count = 0;
  //! The first position of run i; 0 <= i < count.
  SMALTI_HD constexpr Offset first(int i) const { return offsets[i]; }
  //! One past the last position of run i; 0 <= i < count.
  SMALTI_HD constexpr Offset last(int i) const { return offsets[i + 1]; }
  SMALTI_HD constexpr Offset length(int i) const { return offsets[i + 1] - offsets[i]; }
  //! The length of all runs together.
  SMALTI_HD constexpr Offset total() const { return count > 0 ? offsets[count] : Offset(0); }
};

//! Refuses offsets that would send an op out of its arrays: they begin with 0, never decrease and end at most at
//! `limit`, the extent of the array they divide. Reads count + 1 offsets, so they must be readable by the host:
//! an op whose offsets lie on a GPU cannot call it, and states the same rules as preconditions.
//! @note O(count)
template <class Offset>
constexpr status check_segments(const segments<Offset>& s, std::int64_t limit) {
  if (s.count < 0) return {errc::bad_shape, "segments.count must not be negative", s.count, 0};
  if (s.count == 0) return {};
  if (s.offsets == nullptr)
    return {errc::null_pointer, "segments.offsets is null: it needs count + 1 entries", 0, std::int64_t(s.count) + 1};
  if (s.offsets[0] != 0) return {errc::bad_value, "segments.offsets must begin with 0", std::int64_t(s.offsets[0]), 0};
  for (int i = 0; i < s.count; ++i)
    if (s.offsets[i + 1] < s.offsets[i])
      return {errc::bad_value, "segments.offsets must not decrease: an offset is below the one before it",
              std::int64_t(s.offsets[i + 1]), std::int64_t(s.offsets[i])};
  if (std::int64_t(s.offsets[s.count]) > limit)
    return {errc::bad_shape, "segments.offsets must end within the array they divide", std::int64_t(s.offsets[s.count]), limit};
  return {};
}

}  // namespace smalti::inline SMALTI_DATA
