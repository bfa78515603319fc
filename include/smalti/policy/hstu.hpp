// What HSTU ("Actions Speak Louder than Words", Zhai et al. 2024, arXiv:2402.17152) adds to attention: who sees whom in a
// history with targets, and a bias by time.
#pragma once
#include <smalti/policy/mask.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! A sequence of `contextual` tokens, a history and targets[sequence] candidates. With
//!     e(i) = min(max(i - c + 1, 0) if c > 0 else i, n - (c - 1 if c > 0 else 0) - targets),     c = contextual
//! query i sees key j where i = j, or e(i) > e(j) (and, with a window, e(i) - e(j) <= window or i is among the last `full_tail`
//! of the history and after), or i is contextual (e(i) = 0, c > 0) and j is no target. Candidates see the history and
//! themselves, never each other. Positions are those of the keys: the last query is the last key.
struct hstu_mask {
  int contextual = 0, window = 0, full_tail = 0;      //!< window: 0 for none
  const int* targets = nullptr;                       //!< one for each sequence; null: `target_count`
  int target_count = 0, shift = 0, tokens = 0;
  SMALTI_HD constexpr hstu_mask for_head(int sequence, int) const {
    return {contextual, window, full_tail, targets, targets != nullptr ? targets[sequence] : target_count, shift, tokens};
  }
  SMALTI_HD constexpr hstu_mask for_lengths(int queries, int keys) const { return {contextual, window, full_tail, targets, target_count, keys - queries, keys}; }
  SMALTI_HD constexpr span keys(span q, int length) const {
    const int history = tokens - target_count, last = q.last + shift;
    const bool reaches = contextual > 0 && q.first + shift < contextual;
    int first = 0;
    const int least = level(q.first + shift) - window;
    if (window > 0 && !reaches && full_tail == 0 && least > 0) first = least + offset();
    return detail::span_within(first < q.first + shift ? first : q.first + shift, reaches && history > last ? history : last, length);
  }
  SMALTI_HD constexpr span whole(span q, int length) const {
    if (window > 0 || q.first + shift < 0) return {0, 0};
    const int e = level(q.first + shift);
    return e > 0 ? detail::span_within(0, e + offset(), length) : span{0, 0};
  }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const {
    using namespace scalar;
    const auto i = q + shift;
    const auto a = level_of(i);
    const auto b = level_of(k);
    const auto near = a - b <= (window > 0 ? window : tokens) || a >= limit() - (full_tail > 0 ? full_tail : -1);
    return i == k || (a > b && near) || (a == 0 && contextual > 0 && b < limit());
  }
  constexpr status check(const mask_extent& e) const {
    if (contextual < 0 || window < 0 || full_tail < 0 || target_count < 0) return {errc::bad_value, "hstu_mask: contextual, window, full_tail and target_count must not be negative"};
    if (targets == nullptr && target_count > e.keys) return {errc::bad_shape, "hstu_mask.target_count is more than the longest sequence has tokens", target_count, e.keys};
    return {};
  }

private:
  SMALTI_HD constexpr int offset() const { return contextual > 0 ? contextual - 1 : 0; }
  SMALTI_HD constexpr int limit() const { return tokens - offset() - target_count; }
  SMALTI_HD constexpr int level(int i) const {
    const int e = i - offset() > 0 ? i - offset() : 0;
    return e < limit() ? e : limit();
  }
  template <class I> SMALTI_HD constexpr auto level_of(I i) const {
    using namespace scalar;
    return min(max(i - offset(), 0), limit());
  }
};

//! score + table[bucket(time of the token after the query - time of the key)], bucket(x) = min(floor(ln(max(1, |x|)) / 0.301),
//! buckets - 1); after the last token its own time counts again. times: one a token, relative to the sequence's beginning
//! (so that they fit 32 bits); another sequence's lie sequence_stride further.
struct time_bias {
  const int* times = nullptr;
  const float* table = nullptr;
  int tokens = 0, buckets = 129, shift = 0;
  long long sequence_stride = 0;
  SMALTI_HD constexpr time_bias for_head(int sequence, int) const { return {times + sequence * sequence_stride, table, tokens, buckets, shift, sequence_stride}; }
  SMALTI_HD constexpr time_bias for_lengths(int queries, int keys) const { return {times, table, keys, buckets, keys - queries, sequence_stride}; }
  template <class V, class Q, class K> SMALTI_HD V operator()(V score, Q q, K k) const {
    using namespace scalar;
    const auto next = lookup(times, min(q + (shift + 1), tokens - 1), tokens);
    const auto gap = to_float(next - lookup(times, k, tokens));
    const auto bucket = floor(log2(max(abs(gap), 1.0f)) * 2.3028145f);        // ln 2 / 0.301
    return score + lookup(table, min(to_int(bucket), buckets - 1), buckets);
  }
  template <class V, class Q, class K> SMALTI_HD constexpr float derivative(V, Q, K) const { return 1.0f; }
  constexpr status check(const mask_extent& e) const {
    if (e.keys > 0 && times == nullptr) return {errc::null_pointer, "time_bias.times is null: it needs one time for each token", 0, e.keys};
    if (table == nullptr) return {errc::null_pointer, "time_bias.table is null: it needs a bias for each bucket", 0, buckets};
    if (buckets <= 0) return {errc::bad_shape, "time_bias.buckets must be positive: it counts the entries of the table", buckets, 1};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
