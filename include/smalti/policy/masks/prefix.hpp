// Prefix language models: a part that everyone sees, causal behind it.
#pragma once
#include <smalti/policy/mask.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Query q sees the first `length` keys, and those up to q + shift. A batch gives each sequence its own length by `lengths`.
template <alignment At = alignment::bottom_right> struct prefix {
  int length = 0;
  const int* lengths = nullptr;       //!< one for each sequence; null: `length` for all
  int shift = 0;
  SMALTI_HD constexpr prefix for_head(int sequence, int) const { return {lengths != nullptr ? lengths[sequence] : length, lengths, shift}; }
  SMALTI_HD constexpr auto for_lengths(int queries, int keys) const requires(At == alignment::bottom_right) {
    return prefix<alignment::top_left>{length, lengths, shift + keys - queries};
  }
  SMALTI_HD constexpr span keys(span q, int n) const { return detail::span_within(0, larger(length, q.last + shift), n); }
  SMALTI_HD constexpr span whole(span q, int n) const { return detail::span_within(0, larger(length, q.first + 1 + shift), n); }
  SMALTI_HD constexpr span queries(span k, int n) const { return detail::span_within(k.first < length ? 0 : k.first - shift, n, n); }
  SMALTI_HD constexpr span whole_queries(span k, int n) const { return detail::span_within(k.last <= length ? 0 : k.last - 1 - shift, n, n); }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const { return k < length || k <= q + shift; }

private:
  static SMALTI_HD constexpr int larger(int a, int b) { return a > b ? a : b; }
};

}  // namespace smalti::inline SMALTI_DATA::policy
