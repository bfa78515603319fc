// Keys from one on: the rest of a segment, whose beginning another source holds.
#pragma once
#include <smalti/policy/mask.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Every query sees the keys [first, length). A batch gives each sequence its own first key by `firsts`.
struct from_key {
  int first = 0;
  const int* firsts = nullptr;        //!< one for each sequence; null: `first` for all
  SMALTI_HD constexpr from_key for_head(int sequence, int) const { return {firsts != nullptr ? firsts[sequence] : first, firsts}; }
  SMALTI_HD constexpr span keys(span, int length) const { return detail::span_within(first, length, length); }
  SMALTI_HD constexpr span whole(span, int length) const { return detail::span_within(first, length, length); }
  SMALTI_HD constexpr span queries(span k, int n) const { return k.last > first ? span{0, n} : span{0, 0}; }
  SMALTI_HD constexpr span whole_queries(span k, int n) const { return k.first >= first ? span{0, n} : span{0, 0}; }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q, K k) const { return k >= first; }
};

}  // namespace smalti::inline SMALTI_DATA::policy
