// Paged memory: which page of a pool holds a token of a sequence and head.
#pragma once
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA {

//! A table of pages of `page` tokens each. Token t of sequence s and head h lies in slot t % page of the pool's page
//!     table[s * row_stride + h * head_stride + t / page],
//! and sequence s has for head h
//!     length[s + h * length_head_stride]
//! tokens. A stride of 0 shares one table, or one length, between all heads; other head strides let eviction keep
//! different tokens for each head. Entries beyond the last used page of a row are never read as pages.
//! An aggregate of scalars; addresses are computed in 64 bits. The arrays lie where the op runs.
struct pages {
  const int* table = nullptr;
  long long row_stride = 0;             //!< table entries from one sequence to the next
  long long head_stride = 0;            //!< table entries from one head to the next; 0 = shared by heads
  const int* length = nullptr;
  long long length_head_stride = 0;     //!< lengths from one head to the next; 0 = shared by heads
  int page = 0;                         //!< tokens in a page

  //! The table row of one sequence and head: entry n is the page of tokens [n * page, (n + 1) * page).
  SMALTI_HD constexpr const int* row(int sequence, int head) const { return table + (sequence * row_stride + head * head_stride); }
  SMALTI_HD constexpr int entry(int sequence, int head, int n) const { return row(sequence, head)[n]; }
  SMALTI_HD constexpr int tokens(int sequence, int head) const { return length[sequence + head * length_head_stride]; }
  //! Pages in use: ceil(tokens / page).
  SMALTI_HD constexpr int used(int sequence, int head) const {
    const int t = tokens(sequence, head);
    return t / page + (t % page != 0);
  }
  //! The token's place in the pool seen as one long list of slots: 64 bits, since a pool may have more than 2^31.
  SMALTI_HD constexpr long long slot(int sequence, int head, int token) const {
    return static_cast<long long>(entry(sequence, head, token / page)) * page + token % page;
  }
};

//! Page sizes an op takes: a GPU's page box wants powers of two, a gather does not care.
enum class page_rule : std::uint8_t { any, power_of_two };

//! Refuses a table that would send an op out of the pool: page is positive (and a power of two where `rule` asks),
//! every length is within [0, width * page], and every entry in use within [0, pool). Entries past a row's last used
//! page may hold anything. Reads the lengths and the entries in use, so both must be readable by the host; an op
//! whose table lies on a GPU states the same rules as preconditions.
//! @param width  entries in one row of the table
//! @param pool   pages in the pool
//! @note O(sequences * heads + entries in use); one head where both head strides are 0
constexpr status check_pages(const pages& p, int sequences, int heads, int width, long long pool, page_rule rule = page_rule::any) {
  if (sequences < 0) return {errc::bad_shape, "pages: the number of sequences must not be negative", sequences, 0};
  if (heads < 0) return {errc::bad_shape, "pages: the number of heads must not be negative", heads, 0};
  if (width < 0) return {errc::bad_shape, "pages: the width of the table must not be negative", width, 0};
  if (p.page <= 0) return {errc::bad_value, "pages.page must be positive: it counts the tokens of a page", p.page, 1};
  if (rule == page_rule::power_of_two && (p.page & (p.page - 1)) != 0) {
    long long next = 1;
    while (next < p.page) next *= 2;
    return {errc::bad_value, "pages.page must be a power of two", p.page, next};
  }
  if (p.row_stride < 0) return {errc::bad_value, "pages.row_stride must not be negative", p.row_stride, 0};
  if (p.head_stride < 0) return {errc::bad_value, "pages.head_stride must not be negative; 0 shares the table between heads", p.head_stride, 0};
  if (p.length_head_stride < 0)
    return {errc::bad_value, "pages.length_head_stride must not be negative; 0 shares the lengths between heads", p.length_head_stride, 0};
  if (sequences == 0 || heads == 0) return {};
  if (p.length == nullptr) return {errc::null_pointer, "pages.length is null: it needs one length for each sequence", 0, sequences};
  const int distinct = p.head_stride == 0 && p.length_head_stride == 0 ? 1 : heads;
  for (int head = 0; head < distinct; ++head) {
    for (int sequence = 0; sequence < sequences; ++sequence) {
      const int tokens = p.tokens(sequence, head);
      if (tokens < 0) return {errc::bad_value, "pages.length must not be negative", tokens, 0};
      const long long room = static_cast<long long>(width) * p.page;
      if (tokens > room) return {errc::bad_shape, "pages.length is more than a row of the table holds: widen the table", tokens, room};
      if (tokens == 0) continue;
      if (p.table == nullptr) return {errc::null_pointer, "pages.table is null, but a sequence has tokens", 0, 0};
      const int used = p.used(sequence, head);
      for (int n = 0; n < used; ++n) {
        const int entry = p.entry(sequence, head, n);
        if (entry < 0) return {errc::bad_value, "pages.table: an entry in use is negative", entry, 0};
        if (entry >= pool) return {errc::bad_value, "pages.table: an entry in use is not below the number of pages in the pool", entry, pool};
      }
    }
  }
  return {};
}

}  // namespace smalti::inline SMALTI_DATA
