// Masks made of masks, of a function, and of a mask moved elsewhere.
#pragma once
#include <smalti/policy/mask.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! visible(q, k) is what F says: f(q, k), over the machine's index types, with no `if` on them. Nothing is known of tiles,
//! so all of them are tried; a mask with keys and whole of its own is faster.
template <class F> struct predicate {
  F f;
  SMALTI_HD constexpr span keys(span, int length) const { return {0, length}; }
  SMALTI_HD constexpr span whole(span, int) const { return {0, 0}; }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const { return f(q, k); }
};
template <class F> predicate(F) -> predicate<F>;

//! Visible in both.
template <class A, class B> struct mask_and {
  A a;
  B b;
  SMALTI_HD constexpr auto for_head(int sequence, int head) const;
  SMALTI_HD constexpr auto for_lengths(int queries, int keys) const;
  SMALTI_HD constexpr span keys(span q, int length) const { return detail::intersection(a.keys(q, length), b.keys(q, length)); }
  SMALTI_HD constexpr span whole(span q, int length) const { return detail::intersection(a.whole(q, length), b.whole(q, length)); }
  SMALTI_HD constexpr tile_class classify(span q, span k) const {
    const tile_class x = policy::classify(a, q, k), y = policy::classify(b, q, k);
    if (x == tile_class::skip || y == tile_class::skip) return tile_class::skip;
    return x == tile_class::full && y == tile_class::full ? tile_class::full : tile_class::partial;
  }
  SMALTI_HD constexpr span queries(span k, int n) const { return detail::intersection(policy::queries(a, k, n), policy::queries(b, k, n)); }
  SMALTI_HD constexpr span whole_queries(span k, int n) const {
    return detail::intersection(policy::whole_queries(a, k, n), policy::whole_queries(b, k, n));
  }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const { return a.visible(q, k) && b.visible(q, k); }
  constexpr status check(const mask_extent& e) const {
    if (const status bad = check_mask(a, e); !bad) return bad;
    return check_mask(b, e);
  }
};
template <class A, class B> mask_and(A, B) -> mask_and<A, B>;
template <class A, class B> SMALTI_HD constexpr auto mask_and<A, B>::for_head(int sequence, int head) const {
  return mask_and<decltype(policy::for_head(a, 0, 0)), decltype(policy::for_head(b, 0, 0))>{policy::for_head(a, sequence, head), policy::for_head(b, sequence, head)};
}
template <class A, class B> SMALTI_HD constexpr auto mask_and<A, B>::for_lengths(int queries, int keys) const {
  return mask_and<decltype(policy::for_lengths(a, 0, 0)), decltype(policy::for_lengths(b, 0, 0))>{policy::for_lengths(a, queries, keys), policy::for_lengths(b, queries, keys)};
}

//! Visible in one of them, or in both.
template <class A, class B> struct mask_or {
  A a;
  B b;
  SMALTI_HD constexpr auto for_head(int sequence, int head) const;
  SMALTI_HD constexpr auto for_lengths(int queries, int keys) const;
  SMALTI_HD constexpr span keys(span q, int length) const { return detail::hull(a.keys(q, length), b.keys(q, length)); }
  SMALTI_HD constexpr span whole(span q, int length) const { return joined(a.whole(q, length), b.whole(q, length)); }
  SMALTI_HD constexpr tile_class classify(span q, span k) const {
    const tile_class x = policy::classify(a, q, k), y = policy::classify(b, q, k);
    if (x == tile_class::full || y == tile_class::full || detail::holds(whole(q, k.last), k)) return tile_class::full;
    return x == tile_class::skip && y == tile_class::skip ? tile_class::skip : tile_class::partial;
  }
  SMALTI_HD constexpr span queries(span k, int n) const { return detail::hull(policy::queries(a, k, n), policy::queries(b, k, n)); }
  SMALTI_HD constexpr span whole_queries(span k, int n) const { return joined(policy::whole_queries(a, k, n), policy::whole_queries(b, k, n)); }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const { return a.visible(q, k) || b.visible(q, k); }
  constexpr status check(const mask_extent& e) const {
    if (const status bad = check_mask(a, e); !bad) return bad;
    return check_mask(b, e);
  }

private:
  // Both where they touch, else the longer.
  static SMALTI_HD constexpr span joined(span x, span y) {
    if (x.first <= y.last && y.first <= x.last) return detail::hull(x, y);
    return x.last - x.first >= y.last - y.first ? x : y;
  }
};
template <class A, class B> mask_or(A, B) -> mask_or<A, B>;
template <class A, class B> SMALTI_HD constexpr auto mask_or<A, B>::for_head(int sequence, int head) const {
  return mask_or<decltype(policy::for_head(a, 0, 0)), decltype(policy::for_head(b, 0, 0))>{policy::for_head(a, sequence, head), policy::for_head(b, sequence, head)};
}
template <class A, class B> SMALTI_HD constexpr auto mask_or<A, B>::for_lengths(int queries, int keys) const {
  return mask_or<decltype(policy::for_lengths(a, 0, 0)), decltype(policy::for_lengths(b, 0, 0))>{policy::for_lengths(a, queries, keys), policy::for_lengths(b, queries, keys)};
}

//! Visible where A is not.
template <class A> struct mask_not {
  A a;
  SMALTI_HD constexpr auto for_head(int sequence, int head) const;
  SMALTI_HD constexpr auto for_lengths(int queries, int keys) const;
  SMALTI_HD constexpr span keys(span q, int length) const { return outside(a.whole(q, length), length, true); }
  SMALTI_HD constexpr span whole(span q, int length) const { return outside(a.keys(q, length), length, false); }
  SMALTI_HD constexpr tile_class classify(span q, span k) const {
    const tile_class x = policy::classify(a, q, k);
    if (x == tile_class::skip) return tile_class::full;
    if (x == tile_class::full) return tile_class::skip;
    return x;
  }
  SMALTI_HD constexpr span queries(span k, int n) const { return outside(policy::whole_queries(a, k, n), n, true); }
  SMALTI_HD constexpr span whole_queries(span k, int n) const { return outside(policy::queries(a, k, n), n, false); }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const { return !a.visible(q, k); }
  constexpr status check(const mask_extent& e) const { return check_mask(a, e); }

private:
  // What lies in [0, n) outside s: all of it in one span, or the longest span of it.
  static SMALTI_HD constexpr span outside(span s, int n, bool all) {
    const bool none = detail::is_empty(s), whole_front = s.first == 0, whole_back = s.last == n;
    const bool front = !none && !whole_front && (whole_back || (!all && s.first >= n - s.last));
    const bool back = !none && (whole_front || (!whole_back && !all && s.first < n - s.last));
    return detail::span_within(back ? s.last : 0, front ? s.first : n, n);
  }
};
template <class A> mask_not(A) -> mask_not<A>;
template <class A> SMALTI_HD constexpr auto mask_not<A>::for_head(int sequence, int head) const {
  return mask_not<decltype(policy::for_head(a, 0, 0))>{policy::for_head(a, sequence, head)};
}
template <class A> SMALTI_HD constexpr auto mask_not<A>::for_lengths(int queries, int keys) const {
  return mask_not<decltype(policy::for_lengths(a, 0, 0))>{policy::for_lengths(a, queries, keys)};
}

//! A mask on a part of its queries and keys: query q and key k here are q + query and k + key there. A shard of a
//! sequence, a step of a ring, one segment of a list.
template <class Mask> struct placed {
  Mask mask;
  int query = 0, key = 0;
  SMALTI_HD constexpr auto for_head(int sequence, int head) const;
  SMALTI_HD constexpr span keys(span q, int length) const { return back(mask.keys({q.first + query, q.last + query}, length + key), key, length); }
  SMALTI_HD constexpr span whole(span q, int length) const { return back(mask.whole({q.first + query, q.last + query}, length + key), key, length); }
  SMALTI_HD constexpr tile_class classify(span q, span k) const {
    return policy::classify(mask, {q.first + query, q.last + query}, {k.first + key, k.last + key});
  }
  SMALTI_HD constexpr span queries(span k, int n) const { return back(policy::queries(mask, {k.first + key, k.last + key}, n + query), query, n); }
  SMALTI_HD constexpr span whole_queries(span k, int n) const {
    return back(policy::whole_queries(mask, {k.first + key, k.last + key}, n + query), query, n);
  }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const { return mask.visible(q + query, k + key); }
  constexpr status check(const mask_extent& e) const { return check_mask(mask, {e.sequences, e.heads, e.queries + query, e.keys + key}); }

private:
  static SMALTI_HD constexpr span back(span s, int by, int n) { return detail::span_within(s.first - by, s.last - by, n); }
};
template <class Mask> placed(Mask, int, int) -> placed<Mask>;
template <class Mask> SMALTI_HD constexpr auto placed<Mask>::for_head(int sequence, int head) const {
  return placed<decltype(policy::for_head(mask, 0, 0))>{policy::for_head(mask, sequence, head), query, key};
}

template <class A, class B> constexpr bool differs_by_head<mask_and<A, B>> = differs_by_head<A> || differs_by_head<B>;
template <class A, class B> constexpr bool differs_by_head<mask_or<A, B>> = differs_by_head<A> || differs_by_head<B>;
template <class A> constexpr bool differs_by_head<mask_not<A>> = differs_by_head<A>;
template <class Mask> constexpr bool differs_by_head<placed<Mask>> = differs_by_head<Mask>;

}  // namespace smalti::inline SMALTI_DATA::policy
