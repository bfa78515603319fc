// Masks of distance: a sliding window, a window with the first tokens kept, and chunks.
#pragma once
#include <smalti/policy/mask.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! No limit to one side of a window: more tokens than a sequence has, and the sum of two stays in 32 bits.
constexpr int window_unlimited = 1 << 29;

//! Query q, at p = q + shift among the keys, sees [p - left, p + right]: left + 1 + right keys. Build it with window_keys
//! or window_left, which say whether the query's own key counts.
//! @pre 0 <= left, right <= window_unlimited
template <alignment At = alignment::bottom_right> struct sliding_window {
  int left = window_unlimited, right = 0, shift = 0;
  SMALTI_HD constexpr auto for_lengths(int queries, int keys) const requires(At == alignment::bottom_right) {
    return sliding_window<alignment::top_left>{left, right, shift + keys - queries};
  }
  SMALTI_HD constexpr span keys(span q, int length) const {
    return detail::span_within(q.first + shift - left, q.last + shift + right, length);
  }
  SMALTI_HD constexpr span whole(span q, int length) const {
    return detail::span_within(q.last - 1 + shift - left, q.first + shift + right + 1, length);
  }
  SMALTI_HD constexpr span queries(span k, int n) const { return detail::span_within(k.first - shift - right, k.last - shift + left, n); }
  SMALTI_HD constexpr span whole_queries(span k, int n) const {
    return detail::span_within(k.last - 1 - shift - right, k.first - shift + left + 1, n);
  }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const { return k <= q + (shift + right) && k >= q + (shift - left); }
  constexpr status check(const mask_extent&) const {
    if (left < 0 || left > window_unlimited) return {errc::bad_value, "sliding_window.left must be within [0, window_unlimited]", left, window_unlimited};
    if (right < 0 || right > window_unlimited) return {errc::bad_value, "sliding_window.right must be within [0, window_unlimited]", right, window_unlimited};
    return {};
  }
};
//! The last `count` keys, the query's own among them.
constexpr sliding_window<> window_keys(int count) { return {count - 1, 0, 0}; }
//! `left` keys before the query's own, which it sees too, and `right` after it.
constexpr sliding_window<> window_left(int left, int right = 0) { return {left, right, 0}; }

//! The first `sinks` keys and the window [p - left, p], both causal: attention sinks as tokens (StreamingLLM, Xiao et al.
//! 2023, arXiv:2309.17453). Positions are those of the text; for positions in the cache see policy/position.hpp.
template <alignment At = alignment::bottom_right> struct sink_window {
  int sinks = 4, left = window_unlimited, shift = 0;
  SMALTI_HD constexpr auto for_lengths(int queries, int keys) const requires(At == alignment::bottom_right) {
    return sink_window<alignment::top_left>{sinks, left, shift + keys - queries};
  }
  SMALTI_HD constexpr span keys(span q, int length) const {
    return detail::hull(kept(q.last - 1, length), recent().keys(q, length));
  }
  SMALTI_HD constexpr span whole(span q, int length) const {
    const span first = kept(q.first, length), near = recent().whole(q, length);
    if (near.first <= first.last && near.last > first.last) return {0, near.last};
    return near.last - near.first > first.last ? near : first;
  }
  SMALTI_HD constexpr tile_class classify(span q, span k) const {
    const int last = k.last;
    const bool some = !detail::is_empty(detail::intersection(kept(q.last - 1, last), k)) ||
                      !detail::is_empty(detail::intersection(recent().keys(q, last), k));
    if (!some) return tile_class::skip;
    return detail::holds(whole(q, last), k) || detail::holds(recent().whole(q, last), k) ? tile_class::full : tile_class::partial;
  }
  SMALTI_HD constexpr span queries(span k, int n) const {
    return k.first < sinks ? detail::span_within(k.first - shift, n, n) : recent().queries(k, n);
  }
  SMALTI_HD constexpr span whole_queries(span k, int n) const {
    return k.last <= sinks ? detail::span_within(k.last - 1 - shift, n, n) : recent().whole_queries(k, n);
  }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const {
    return k <= q + shift && (k < sinks || k >= q + (shift - left));
  }
  constexpr status check(const mask_extent& e) const {
    if (sinks < 0) return {errc::bad_value, "sink_window.sinks must not be negative: it counts the first keys that stay visible", sinks, 0};
    return recent().check(e);
  }

private:
  SMALTI_HD constexpr sliding_window<alignment::top_left> recent() const { return {left, 0, shift}; }
  SMALTI_HD constexpr span kept(int q, int length) const { return detail::span_within(0, sinks < q + shift + 1 ? sinks : q + shift + 1, length); }
};
//! The first `sinks` keys and the last `count`, the query's own among them.
constexpr sink_window<> sink_window_keys(int sinks, int count) { return {sinks, count - 1, 0}; }

//! Text in chunks of `size` tokens: query q, at p = q + shift among the keys, sees those keys of its chunk that are not
//! after it: [p - p % size, p].
//! @pre size > 0
template <alignment At = alignment::bottom_right> struct chunked {
  int size = 1, shift = 0;
  SMALTI_HD constexpr auto for_lengths(int queries, int keys) const requires(At == alignment::bottom_right) {
    return chunked<alignment::top_left>{size, shift + keys - queries};
  }
  SMALTI_HD constexpr span keys(span q, int length) const { return detail::span_within(start(q.first + shift), q.last + shift, length); }
  SMALTI_HD constexpr span whole(span q, int length) const { return detail::span_within(start(q.last - 1 + shift), q.first + shift + 1, length); }
  SMALTI_HD constexpr span queries(span k, int n) const { return detail::span_within(k.first - shift, start(k.last - 1) + size - shift, n); }
  SMALTI_HD constexpr span whole_queries(span k, int n) const { return detail::span_within(k.last - 1 - shift, start(k.first) + size - shift, n); }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const {
    const auto p = q + shift;
    return k <= p && k >= p - p % size;
  }
  constexpr status check(const mask_extent&) const {
    if (size <= 0) return {errc::bad_value, "chunked.size must be positive: it counts the tokens of a chunk", size, 1};
    return {};
  }

private:
  // Where the chunk of a key begins; before the first key there is none.
  SMALTI_HD constexpr int start(int p) const { return p < 0 ? 0 : p - p % size; }
};

}  // namespace smalti::inline SMALTI_DATA::policy
