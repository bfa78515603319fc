// Masks in bits: any mask at one bit a score, and trees of drafted tokens.
#pragma once
#include <smalti/core/view.hpp>
#include <smalti/policy/mask.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Query q sees key k where bit q * row_bits + k is set; bit b is bit b % 8 of byte b / 8. row_bits is the number of keys for
//! rows without padding, as other programs pack them, and a multiple of 8 for rows that begin with a byte. Another head
//! lies head_stride bytes further, another sequence sequence_stride bytes, or at sequence_offset[sequence]: ragged batches.
//! Outside [0, query_count) x [0, key_count) nothing is visible and nothing is read.
//! @note addresses are 64 bits; 1 / 8 byte a score is read
struct bitmask {
  const unsigned char* bits = nullptr;
  int query_count = 0, key_count = 0;
  long long row_bits = 0;
  long long head_stride = 0, sequence_stride = 0;
  const long long* sequence_offset = nullptr;      //!< in bytes; null: sequence_stride

  SMALTI_HD constexpr bitmask for_head(int sequence, int head) const {
    const long long move = head * head_stride + (sequence_offset != nullptr ? sequence_offset[sequence] : sequence * sequence_stride);
    return {bits + move, query_count, key_count, row_bits, head_stride, sequence_stride, sequence_offset};
  }
  //! A ragged batch gives each sequence its own rows without padding: row_bits 0 means as many bits as the sequence has keys.
  SMALTI_HD constexpr bitmask for_lengths(int queries, int keys) const {
    return {bits, queries, keys, row_bits == 0 ? keys : row_bits, head_stride, sequence_stride, sequence_offset};
  }
  SMALTI_HD constexpr span keys(span, int length) const { return {0, length}; }
  SMALTI_HD constexpr span whole(span, int) const { return {0, 0}; }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const {
    using namespace scalar;
    // q * row_bits = 8 q * (row_bits / 8) + q * (row_bits % 8): the view's rows carry the first part in 64 bits.
    const int whole_bytes = static_cast<int>(row_bits / 8), odd = static_cast<int>(row_bits % 8);
    const auto there = q >= 0 && q < query_count && k >= 0 && k < key_count;
    const auto bit = q * odd + k;
    const view<const unsigned char, 1> rows{bits, query_count, whole_bytes + query_count + 1, whole_bytes};
    const auto byte = lookup(rows, q, where(there, bit >> 3, -1));
    return ((byte >> (bit & 7)) & 1) == 1;
  }
  constexpr status check(const mask_extent& e) const {
    if (e.queries > 0 && e.keys > 0 && bits == nullptr) return {errc::null_pointer, "bitmask.bits is null: it needs queries * row_bits bits"};
    if (row_bits != 0 && row_bits < e.keys) return {errc::bad_shape, "bitmask.row_bits must be at least the number of keys, or 0 for rows as long as each sequence", row_bits, e.keys};
    return {};
  }
};

//! A tree of drafted tokens behind a common text: the queries are the tree's tokens, the keys the text's and then the
//! tree's. Query q sees the whole text, and of the tree the tokens whose bit is set in its row: itself and its ancestors.
//! Bit t of row q is bit t % 32 of words[q][t / 32]; words has `stride` words a row, sequence_stride from one sequence
//! to the next. Tokens stand in an order in which ancestors come first: a bit for a later token does not count.
//! The text has keys - queries tokens once bound to lengths. @tparam Words  32-bit words in use: 1 for trees of up to
//! 32 tokens, whose row is looked up once
//! Source: Miao et al. 2023, SpecInfer, arXiv:2305.09781.
template <int Words = 1> struct tree {
  static_assert(Words >= 1, "smalti: tree needs the number of 32-bit words in a row of ancestors: 1 for up to 32 tokens");
  const int* words = nullptr;
  int tokens = 0, stride = Words;
  long long sequence_stride = 0;
  int text = 0;

  SMALTI_HD constexpr tree for_head(int sequence, int) const { return {words + sequence * sequence_stride, tokens, stride, sequence_stride, text}; }
  SMALTI_HD constexpr tree for_lengths(int queries, int keys) const { return {words, queries, stride, sequence_stride, keys - queries}; }
  SMALTI_HD constexpr span keys(span q, int length) const { return detail::span_within(0, text + q.last, length); }
  SMALTI_HD constexpr span whole(span, int length) const { return detail::span_within(0, text, length); }
  SMALTI_HD constexpr span queries(span k, int n) const { return detail::span_within(k.first - text, n, n); }
  SMALTI_HD constexpr span whole_queries(span k, int n) const { return k.last <= text ? span{0, n} : span{0, 0}; }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const {
    using namespace scalar;
    const auto t = k - text;
    const auto row = ancestors(q, t);
    return t < 0 || (t <= q && t < 32 * Words && ((row >> (t & 31)) & 1) == 1);
  }
  constexpr status check(const mask_extent& e) const {
    if (e.queries > 32 * Words) return {errc::bad_shape, "tree<Words>: a row of ancestors has 32 * Words bits, one for each token of the tree: use more words", e.queries, 32 * Words};
    if (e.queries > 0 && words == nullptr) return {errc::null_pointer, "tree.words is null: it needs a row of ancestor bits for each query"};
    if (stride < Words) return {errc::bad_shape, "tree.stride must be at least Words", stride, Words};
    if (e.keys < e.queries) return {errc::bad_shape, "tree: the keys of the tree's own tokens come after the text's, so there are at least as many keys as queries", e.keys, e.queries};
    return {};
  }

private:
  template <class Q, class T> SMALTI_HD constexpr auto ancestors(Q q, T t) const {
    using namespace scalar;
    const view<const int, 1> rows{words, tokens, Words, stride};
    if constexpr (Words == 1) return lookup(words, q * stride, tokens * stride);
    else return lookup(rows, q, where(t < 0, -1, t >> 5));
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
