// Masks of tokens that belong together: documents packed into one sequence, tokens of one id, groups decoded at once.
#pragma once
#include <smalti/core/segments.hpp>
#include <smalti/policy/mask.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Documents packed one after another: query q, at p = q + shift among the keys, sees the keys of its own document, and
//! of those the ones that `Inner` shows when both are counted from the document's beginning: causal inside a document is
//! document<causal_top_left>. begin[p] and end[p] bound the document of token p; fill_documents writes them.
//! A sequence s of a batch has its tables sequence_stride * s further (0: one pair for all).
//! @pre documents follow one another: begin and end never decrease, and begin[p] <= p < end[p]
template <class Inner = full, alignment At = alignment::bottom_right> struct document {
  const int* begin = nullptr;
  const int* end = nullptr;
  int tokens = 0;
  long long sequence_stride = 0;
  Inner inner{};
  int shift = 0;

  SMALTI_HD constexpr document for_head(int sequence, int) const {
    const long long move = sequence * sequence_stride;
    return {begin + move, end + move, tokens, sequence_stride, inner, shift};
  }
  SMALTI_HD constexpr auto for_lengths(int queries, int keys) const requires(At == alignment::bottom_right) {
    return document<Inner, alignment::top_left>{begin, end, tokens, sequence_stride, inner, shift + keys - queries};
  }
  SMALTI_HD constexpr span keys(span q, int length) const {
    const span p = detail::span_within(q.first + shift, q.last + shift, tokens);
    if (detail::is_empty(p)) return {0, 0};
    const int low = begin[p.first], high = end[p.first], last_low = begin[p.last - 1], last_high = end[p.last - 1];
    const span front = inner.keys({p.first - low, (p.last < high ? p.last : high) - low}, high - low);
    const span back = inner.keys({(p.first > last_low ? p.first : last_low) - last_low, p.last - last_low}, last_high - last_low);
    return detail::span_within(low + front.first, last_low + back.last, length);
  }
  SMALTI_HD constexpr span whole(span q, int length) const {
    if (q.first + shift < 0 || q.last + shift > tokens || q.first >= q.last) return {0, 0};
    const int low = begin[q.first + shift], high = end[q.first + shift];
    if (q.last + shift > high) return {0, 0};
    const span all = inner.whole({q.first + shift - low, q.last + shift - low}, high - low);
    return detail::is_empty(all) ? span{0, 0} : detail::span_within(low + all.first, low + all.last, length);
  }
  SMALTI_HD constexpr span queries(span k, int n) const {
    const span p = detail::span_within(k.first, k.last, tokens);
    if (detail::is_empty(p)) return {0, 0};
    const int low = begin[p.first], high = end[p.first], last_low = begin[p.last - 1], last_high = end[p.last - 1];
    const span front = policy::queries(inner, {p.first - low, (p.last < high ? p.last : high) - low}, high - low);
    const span back = policy::queries(inner, {(p.first > last_low ? p.first : last_low) - last_low, p.last - last_low}, last_high - last_low);
    return detail::span_within(low + front.first - shift, last_low + back.last - shift, n);
  }
  SMALTI_HD constexpr span whole_queries(span k, int n) const {
    if (k.first < 0 || k.last > tokens || k.first >= k.last) return {0, 0};
    const int low = begin[k.first], high = end[k.first];
    if (k.last > high) return {0, 0};
    const span all = policy::whole_queries(inner, {k.first - low, k.last - low}, high - low);
    return detail::is_empty(all) ? span{0, 0} : detail::span_within(low + all.first - shift, low + all.last - shift, n);
  }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const {
    using namespace scalar;
    const auto p = q + shift;
    const auto low = lookup(begin, p, tokens), high = lookup(end, p, tokens);   // no token: 0 and 0, which hold no key
    return k >= low && k < high && inner.visible(p - low, k - low);
  }
  constexpr status check(const mask_extent& e) const {
    if (e.keys > 0 && (begin == nullptr || end == nullptr)) return {errc::null_pointer, "document.begin and document.end must not be null: fill_documents writes them", 0, e.keys};
    if (tokens < e.keys) return {errc::bad_shape, "document.tokens must be at least the number of keys: its tables have one entry a key", tokens, e.keys};
    if (sequence_stride < 0) return {errc::bad_value, "document.sequence_stride must not be negative; 0 shares one table", sequence_stride, 0};
    return check_mask(inner, e);
  }
};

//! begin and end of each token's document: total() entries each.
//! @note O(tokens), on the host
template <class Offset> void fill_documents(const segments<Offset>& documents, int* begin, int* end) {
  for (int d = 0; d < documents.count; ++d)
    for (Offset p = documents.first(d); p < documents.last(d); ++p) {
      begin[p] = static_cast<int>(documents.first(d));
      end[p] = static_cast<int>(documents.last(d));
    }
}

//! Tokens of one id see each other: query_id[q] == key_id[k]. Packed images (FiTv2), samples in any order. Padding with an
//! id of its own attends to padding, so no row is empty; multiply its rows by zero afterwards.
struct same_id {
  const int* query_id = nullptr;
  const int* key_id = nullptr;
  int query_count = 0, key_count = 0;
  long long query_stride = 0, key_stride = 0;      //!< from one sequence to the next
  SMALTI_HD constexpr same_id for_head(int sequence, int) const {
    return {query_id + sequence * query_stride, key_id + sequence * key_stride, query_count, key_count, query_stride, key_stride};
  }
  SMALTI_HD constexpr span keys(span, int length) const { return {0, length}; }
  SMALTI_HD constexpr span whole(span, int) const { return {0, 0}; }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const {
    using namespace scalar;
    return lookup(query_id, q, query_count) == lookup(key_id, k, key_count);
  }
  constexpr status check(const mask_extent& e) const {
    if ((e.queries > 0 && query_id == nullptr) || (e.keys > 0 && key_id == nullptr))
      return {errc::null_pointer, "same_id.query_id and same_id.key_id must not be null: one id for each query and each key"};
    if (query_count < e.queries) return {errc::bad_shape, "same_id.query_count must be at least the number of queries", query_count, e.queries};
    if (key_count < e.keys) return {errc::bad_shape, "same_id.key_count must be at least the number of keys", key_count, e.keys};
    return {};
  }
};

//! Groups decoded in parallel (locality-aware parallel decoding): context token of group i has id 2 i, a token that asks for
//! group i has id 2 i - 1, padding has negative ids, each its own. Query a sees key b where
//!     id_a == id_b, or id_b < id_a and b is context (an even id that is not negative):
//! both ways inside a group; those that ask are seen by nobody outside it.
struct group_order {
  const int* query_id = nullptr;
  const int* key_id = nullptr;
  int query_count = 0, key_count = 0;
  long long query_stride = 0, key_stride = 0;
  SMALTI_HD constexpr group_order for_head(int sequence, int) const {
    return {query_id + sequence * query_stride, key_id + sequence * key_stride, query_count, key_count, query_stride, key_stride};
  }
  SMALTI_HD constexpr span keys(span, int length) const { return {0, length}; }
  SMALTI_HD constexpr span whole(span, int) const { return {0, 0}; }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const {
    using namespace scalar;
    const auto a = lookup(query_id, q, query_count);
    const auto b = lookup(key_id, k, key_count);
    return a == b || (b < a && b >= 0 && (b & 1) == 0);
  }
  constexpr status check(const mask_extent& e) const {
    if ((e.queries > 0 && query_id == nullptr) || (e.keys > 0 && key_id == nullptr))
      return {errc::null_pointer, "group_order.query_id and group_order.key_id must not be null: one id for each query and each key"};
    if (query_count < e.queries) return {errc::bad_shape, "group_order.query_count must be at least the number of queries", query_count, e.queries};
    if (key_count < e.keys) return {errc::bad_shape, "group_order.key_count must be at least the number of keys", key_count, e.keys};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
