// Masks by columns: for each key a few intervals of queries that do not see it. They hold causal, document, prefix and tree
// masks, and branches that do not see each other, in O(keys) memory. Wang et al. 2024, FlashMask, arXiv:2410.01359.
#pragma once
#include <smalti/policy/mask.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Query q sees key k where `base` shows it and q lies in none of the Intervals spans [begin[i][k], end[i][k]).
//! begin and end are Intervals rows of `stride` entries; an interval with begin >= end hides nothing. A table of another
//! head or sequence lies head_stride or sequence_stride entries further (0: shared).
//! `summary`, if not null, lets tiles be skipped: for each interval four rows of ceil(tokens / block) entries, as
//! fill_column_summary writes them. Its strides are summary_head_stride and summary_sequence_stride.
//! @note without a summary only `base` is known of a tile
template <int Intervals = 1, class Base = causal> struct column_interval {
  static_assert(Intervals >= 1 && Intervals <= 4, "smalti: column_interval takes 1 to 4 intervals a key: nest it as the base of another for more");
  const int* begin = nullptr;
  const int* end = nullptr;
  int tokens = 0, stride = 0;
  long long head_stride = 0, sequence_stride = 0;
  const int* summary = nullptr;
  int block = 64;
  long long summary_head_stride = 0, summary_sequence_stride = 0;
  Base base{};

  SMALTI_HD constexpr auto for_head(int sequence, int head) const {
    const long long move = head * head_stride + sequence * sequence_stride;
    const int* known = summary == nullptr ? nullptr : summary + (head * summary_head_stride + sequence * summary_sequence_stride);
    return column_interval<Intervals, decltype(policy::for_head(base, 0, 0))>{begin + move, end + move, tokens, stride, head_stride, sequence_stride,
      known, block, summary_head_stride, summary_sequence_stride, policy::for_head(base, sequence, head)};
  }
  SMALTI_HD constexpr auto for_lengths(int queries, int keys) const {
    return column_interval<Intervals, decltype(policy::for_lengths(base, 0, 0))>{begin, end, tokens, stride, head_stride, sequence_stride,
      summary, block, summary_head_stride, summary_sequence_stride, policy::for_lengths(base, queries, keys)};
  }
  SMALTI_HD constexpr span keys(span q, int length) const { return base.keys(q, length); }
  SMALTI_HD constexpr span whole(span, int) const { return {0, 0}; }
  SMALTI_HD constexpr tile_class classify(span q, span k) const {
    const tile_class known = policy::classify(base, q, k);
    if (known == tile_class::skip || summary == nullptr || k.first >= k.last) return known == tile_class::full ? tile_class::partial : known;
    const int blocks = tokens / block + (tokens % block != 0), last = k.last < tokens ? k.last : tokens;
    bool touched = false;
    for (int i = 0; i < Intervals; ++i) {
      const int* s = summary + i * 4LL * blocks;
      bool hidden = true;
      for (int b = k.first / block; b * static_cast<long long>(block) < last; ++b) {
        hidden = hidden && s[b] <= q.first && s[blocks + b] >= q.last;
        touched = touched || (s[2 * blocks + b] < q.last && s[3 * blocks + b] > q.first);
      }
      if (hidden && k.last <= tokens) return tile_class::skip;
    }
    return touched || known != tile_class::full || k.last > tokens ? tile_class::partial : tile_class::full;
  }
  SMALTI_HD constexpr span queries(span k, int n) const { return policy::queries(base, k, n); }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const { return seen<0>(base.visible(q, k), q, k); }
  constexpr status check(const mask_extent& e) const {
    if (e.keys > 0 && (begin == nullptr || end == nullptr)) return {errc::null_pointer, "column_interval.begin and end must not be null: Intervals rows of one entry a key", 0, e.keys};
    if (tokens < e.keys) return {errc::bad_shape, "column_interval.tokens must be at least the number of keys", tokens, e.keys};
    if (Intervals > 1 && stride < tokens) return {errc::bad_shape, "column_interval.stride must be at least its tokens: rows of begin and end must not overlap", stride, tokens};
    if (block <= 0) return {errc::bad_value, "column_interval.block must be positive: it counts the keys of one entry of the summary", block, 1};
    return check_mask(base, e);
  }

private:
  template <int I, class M, class Q, class K> SMALTI_HD constexpr auto seen(M already, Q q, K k) const {
    using namespace scalar;
    const auto first = lookup(begin + I * static_cast<long long>(stride), k, tokens), last = lookup(end + I * static_cast<long long>(stride), k, tokens);
    if constexpr (I + 1 < Intervals) return seen<I + 1>(already && (q < first || q >= last), q, k);
    else return already && (q < first || q >= last);
  }
};

//! Writes the summary of Intervals rows of begin and end: for each interval the greatest begin, the least end (over all
//! keys of a block: a key whose interval is empty makes them say that nothing is hidden), the least begin and the greatest
//! end (over the intervals that are not empty). 4 * Intervals * ceil(tokens / block) entries.
//! @note O(Intervals * tokens), on the host
inline void fill_column_summary(const int* begin, const int* end, int intervals, int tokens, int stride, int block, int* summary) {
  const int blocks = tokens / block + (tokens % block != 0), most = 0x7fffffff;
  for (int i = 0; i < intervals; ++i) {
    int* s = summary + i * 4LL * blocks;
    for (int b = 0; b < blocks; ++b) {
      int top = 0, low = most, first = most, last = 0;
      for (int k = b * block; k < tokens && k < (b + 1) * block; ++k) {
        const int x = begin[i * static_cast<long long>(stride) + k], y = end[i * static_cast<long long>(stride) + k];
        if (x >= y) {
          top = most, low = 0;
          continue;
        }
        top = x > top ? x : top;
        low = y < low ? y : low;
        first = x < first ? x : first;
        last = y > last ? y : last;
      }
      s[b] = top;
      s[blocks + b] = low;
      s[2 * blocks + b] = first;
      s[3 * blocks + b] = last;
    }
  }
}

template <int Intervals, class Base> constexpr bool differs_by_head<column_interval<Intervals, Base>> = true;

}  // namespace smalti::inline SMALTI_DATA::policy
