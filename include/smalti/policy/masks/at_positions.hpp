// A mask on rows that are some tokens of a sequence, in ascending order: a rank's share of it.
#pragma once
#include <smalti/core/status.hpp>
#include <smalti/policy/bind.hpp>
#include <smalti/policy/mask.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Row q of the queries of sequence s is query query[query_first[s] + q] of the whole sequence, and key k is its key
//! key[key_first[s] + k]; `mask` speaks of the whole sequence, of all_queries[s] queries and all_keys[s] keys, to whose lengths it is bound.
//! Whatever layout dealt the tokens out (zigzag, stripes, what several turns left behind), the mask is the same.
//! @pre within a sequence positions ascend, and lie in [0, all_queries[s]) or [0, all_keys[s])
//! @note a span of rows is known by its first and last position, found by bisection: a tile across a gap counts as partial
template <class Mask> struct at_positions {
  Mask mask{};
  const int *query = nullptr, *key = nullptr;
  const int *query_first = nullptr, *key_first = nullptr;    //!< [sequence]
  const int *all_queries = nullptr, *all_keys = nullptr;     //!< [sequence]
  int rows_here = 0, keys_here = 0;                            //!< rows of the sequence this is bound to
  int total_queries = 0, total_keys = 0;               //!< its tokens on all ranks

  SMALTI_HD constexpr auto for_head(int sequence, int head) const {
    const int n = all_queries[sequence], m = all_keys[sequence];
    return at_positions<decltype(policy::bound(mask, place{}))>{policy::bound(mask, place{sequence, head, n, m}), query + query_first[sequence], key + key_first[sequence],
                                                                query_first, key_first, all_queries, all_keys, rows_here, keys_here, n, m};
  }
  SMALTI_HD constexpr at_positions for_lengths(int rows, int columns) const {
    at_positions bound = *this;
    bound.rows_here = rows, bound.keys_here = columns;
    return bound;
  }
  SMALTI_HD constexpr span keys(span q, int length) const {
    const span p = positions(query, q, rows_here);
    return detail::is_empty(p) ? span{0, 0} : rows(key, mask.keys(p, total_keys), keys_here, length);
  }
  SMALTI_HD constexpr span whole(span q, int length) const {
    const span p = positions(query, q, rows_here);
    return detail::is_empty(p) ? span{0, 0} : rows(key, mask.whole(p, total_keys), keys_here, length);
  }
  SMALTI_HD constexpr tile_class classify(span q, span k) const {
    const span p = positions(query, q, rows_here), c = positions(key, k, keys_here);
    if (detail::is_empty(p) || detail::is_empty(c)) return tile_class::skip;
    const tile_class is = policy::classify(mask, p, c);
    return is == tile_class::full && (k.last > keys_here || q.last > rows_here) ? tile_class::partial : is;
  }
  SMALTI_HD constexpr span queries(span k, int n) const {
    const span c = positions(key, k, keys_here);
    return detail::is_empty(c) ? span{0, 0} : rows(query, policy::queries(mask, c, total_queries), rows_here, n);
  }
  SMALTI_HD constexpr span whole_queries(span k, int n) const {
    const span c = positions(key, k, keys_here);
    return detail::is_empty(c) ? span{0, 0} : rows(query, policy::whole_queries(mask, c, total_queries), rows_here, n);
  }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const {
    using namespace scalar;
    return mask.visible(lookup(query, q, rows_here), lookup(key, k, keys_here));
  }
  constexpr status check(const mask_extent& e) const {
    if (e.sequences > 0 && (query_first == nullptr || key_first == nullptr || all_queries == nullptr || all_keys == nullptr))
      return {errc::null_pointer, "at_positions: query_first, key_first, all_queries and all_keys need an entry for each sequence", 0, e.sequences};
    if ((e.queries > 0 && query == nullptr) || (e.keys > 0 && key == nullptr)) return {errc::null_pointer, "at_positions: query and key need a position for each row"};
    return check_mask(mask, e);
  }

private:
  // From the first position of some rows to their last.
  static SMALTI_HD constexpr span positions(const int* at, span s, int n) {
    const span here = detail::span_within(s.first, s.last, n);
    return detail::is_empty(here) ? span{0, 0} : span{at[here.first], at[here.last - 1] + 1};
  }
  // The rows whose positions lie in a span.
  static SMALTI_HD constexpr span rows(const int* at, span p, int n, int limit) {
    if (detail::is_empty(p)) return {0, 0};
    return detail::span_within(below(at, n, p.first), below(at, n, p.last), limit);
  }
  static SMALTI_HD constexpr int below(const int* at, int n, int position) {
    int first = 0, last = n;
    while (first < last) {
      const int middle = first + (last - first) / 2;
      if (at[middle] < position) first = middle + 1;
      else last = middle;
    }
    return first;
  }
};

template <class Mask> constexpr bool differs_by_head<at_positions<Mask>> = differs_by_head<Mask>;

}  // namespace smalti::inline SMALTI_DATA::policy
