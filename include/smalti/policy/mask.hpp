// Masks: which keys a query sees. `visible` is the meaning, over the machine's index types: no `if` on an index.
// The rest is speed. All spans are half open; an empty span is {0, 0}.
//     keys(q, length)      of `length` keys, no query of the span q sees one outside            unknown: {0, length}
//     whole(q, length)     every query of q sees all of these                                   unknown: {0, 0}
// and, optional, for what the two cannot say:
//     classify(q, k)       skip: no query of q sees a key of k; full: each sees every one; else partial
//     queries(k, n)        of n queries, none outside sees a key of the span k                  default: {0, n}
//     whole_queries(k, n)  each of these sees every key of k                                    default: {0, 0}
//     for_head(sequence, head), for_lengths(queries, keys)                                      see policy/bind.hpp
//     check(extent)        what an operation refuses before it starts
// q counts the query rows of one sequence and k its keys, both from 0. Masks that speak of the distance of the two line
// up the last query with the last key (bottom right) when they are bound to the lengths of a sequence; before that, and
// in the forms named *_top_left, the first with the first. With more queries than keys the first rows see nothing.
//
// Further masks are in policy/masks/.
#pragma once
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>
#include <smalti/policy/bind.hpp>

namespace smalti::inline SMALTI_DATA::policy {

struct span {
  int first, last;                       //!< half open
  constexpr bool operator==(const span&) const = default;
};

//! What a tile of queries and keys holds.
enum class tile_class : std::uint8_t { skip, partial, full };

//! What a mask is used on, for its check: the longest of each.
struct mask_extent {
  int sequences = 0, heads = 0, queries = 0, keys = 0;
};

namespace detail {

SMALTI_HD constexpr int clamped(int x, int length) { return x < 0 ? 0 : x < length ? x : length; }
//! [first, last) as far as it lies within [0, length).
SMALTI_HD constexpr span span_within(int first, int last, int length) {
  const int a = clamped(first, length), b = clamped(last, length);
  return a < b ? span{a, b} : span{0, 0};
}
SMALTI_HD constexpr bool is_empty(span s) { return s.first >= s.last; }
SMALTI_HD constexpr span intersection(span a, span b) {
  const int first = a.first > b.first ? a.first : b.first, last = a.last < b.last ? a.last : b.last;
  return first < last ? span{first, last} : span{0, 0};
}
//! The shortest span that holds both.
SMALTI_HD constexpr span hull(span a, span b) {
  if (is_empty(a)) return b;
  if (is_empty(b)) return a;
  return {a.first < b.first ? a.first : b.first, a.last > b.last ? a.last : b.last};
}
SMALTI_HD constexpr bool holds(span outer, span inner) { return outer.first <= inner.first && inner.last <= outer.last; }

}  // namespace detail

//! Every query sees every key.
struct full {
  SMALTI_HD constexpr span keys(span, int length) const { return {0, length}; }
  SMALTI_HD constexpr span whole(span, int length) const { return {0, length}; }
  SMALTI_HD constexpr span queries(span, int n) const { return {0, n}; }
  SMALTI_HD constexpr span whole_queries(span, int n) const { return {0, n}; }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q, K k) const { return k >= 0; }
};

//! Which query belongs to which key where their numbers differ.
enum class alignment : std::uint8_t {
  bottom_right,      //!< the last query to the last key, once bound to the lengths of a sequence
  top_left           //!< the first query to the first key
};

//! Query q sees the keys up to q + shift, and bound at the bottom right those up to q + keys - queries + shift.
template <alignment At> struct causal_mask {
  int shift = 0;
  SMALTI_HD constexpr auto for_lengths(int queries, int keys) const requires(At == alignment::bottom_right) {
    return causal_mask<alignment::top_left>{shift + keys - queries};
  }
  SMALTI_HD constexpr span keys(span q, int length) const { return {0, clamp(q.last + shift, length)}; }
  SMALTI_HD constexpr span whole(span q, int length) const { return {0, clamp(q.first + 1 + shift, length)}; }
  SMALTI_HD constexpr span queries(span k, int n) const { return detail::span_within(k.first - shift, n, n); }
  SMALTI_HD constexpr span whole_queries(span k, int n) const { return detail::span_within(k.last - 1 - shift, n, n); }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const { return k <= q + shift; }

  static SMALTI_HD constexpr int clamp(int x, int length) { return detail::clamped(x, length); }
};
//! The last query sees the last key, and each query before it one key less.
using causal = causal_mask<alignment::bottom_right>;
//! Query 0 sees key 0 (and `shift` more), and each query after it one key more.
using causal_top_left = causal_mask<alignment::top_left>;

// ---- what agents ask: with the defaults of the optional members

//! Whether `classify` knows more about a tile than the spans of keys do.
template <class M> constexpr bool has_classify = requires(const M m, span s) {
  { m.classify(s, s) } -> std::same_as<tile_class>;
};

//! What a tile of the queries q and the keys k holds; never wrong, but partial may stand for either of the others.
template <class M> SMALTI_HD constexpr tile_class classify(const M& mask, span q, span k) {
  if constexpr (has_classify<M>) {
    return mask.classify(q, k);
  } else {
    const span seen = mask.keys(q, k.last);
    if (detail::is_empty(detail::intersection(seen, k))) return tile_class::skip;
    return detail::holds(mask.whole(q, k.last), k) ? tile_class::full : tile_class::partial;
  }
}
//! Of n queries, those that may see one of the keys k.
template <class M> SMALTI_HD constexpr span queries(const M& mask, span k, int n) {
  if constexpr (requires { { mask.queries(k, n) } -> std::same_as<span>; }) return mask.queries(k, n);
  else return {0, n};
}
//! Of n queries, some that see every one of the keys k.
template <class M> SMALTI_HD constexpr span whole_queries(const M& mask, span k, int n) {
  if constexpr (requires { { mask.whole_queries(k, n) } -> std::same_as<span>; }) return mask.whole_queries(k, n);
  else return {0, 0};
}
//! The mask's own refusals.
template <class M> constexpr status check_mask(const M& mask, const mask_extent& extent) {
  if constexpr (requires { { mask.check(extent) } -> std::same_as<status>; }) return mask.check(extent);
  else return {};
}

template <class M>
concept mask_policy = std::is_trivially_copyable_v<M> && requires(const M m, int i, span q) {
  { m.visible(i, i) } -> std::same_as<bool>;
  { m.keys(q, i) } -> std::same_as<span>;
  { m.whole(q, i) } -> std::same_as<span>;
};

template <class M> consteval bool explain_mask() {
  static_assert(std::is_trivially_copyable_v<M>, "smalti: a mask policy is copied to the GPU by value, so it must be trivially copyable");
  static_assert(requires(const M m, span q, int n) { { m.keys(q, n) } -> std::same_as<span>; },
                "smalti: a mask policy needs  span keys(span queries, int length) const, the keys that any of the queries may see: {0, length} if unknown");
  static_assert(requires(const M m, span q, int n) { { m.whole(q, n) } -> std::same_as<span>; },
                "smalti: a mask policy needs  span whole(span queries, int length) const, the keys that all of the queries see: {0, 0} if unknown");
  return true;
}

}  // namespace smalti::inline SMALTI_DATA::policy
