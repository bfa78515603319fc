// Where keys and values live. A source is one value for a batch; at(sequence, kv_head) gives the keys and values of one
// head, and what it gives answers
//     length()                                      how many keys there are
//     load_key<Clamped, D>(block, t, c, j)          keys j t.cols.. as the columns of the right operand t, elements c t.rows.. of D
//     load_key_rows<Clamped, D>(block, t, c, j)     the same as the rows of a left operand
//     load_value<Clamped, D>(block, t, c, j)        values j t.rows.. as the rows of the right operand t, elements c t.cols.. of D
//     announce_key_rows<D>(block, t, c, j), announce_value<D>(block, t, c, j)     may be missing: keys or values j will probably be loaded
//                                                   next, and t is a streamed operand
//     k_scale, v_scale                              what a product with a stored element is multiplied by
// Rows past the length may hold anything in memory, so each load has two forms: the plain one, for tiles that lie wholly
// inside, and the clamped one, whose rows past the length are finite.
#pragma once
#include <cstdint>
#include <smalti/block/attention/rows.hpp>
#include <smalti/core/pages.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/kv_layout.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Keys and values of one head, T in memory, in rows one after another.
template <class T>
struct dense_head {
  view<const T> k, v;
  float k_scale = 1, v_scale = 1;
  SMALTI_HD constexpr int length() const { return k.rows; }
  template <bool, int, class Block, class Right> SMALTI_HD void load_key(Block& block, Right& t, int c, int j) const {
    block.load(t, transposed(k), c, j);             // zero past the length
  }
  template <bool, int, class Block, class Left> SMALTI_HD void load_key_rows(Block& block, Left& t, int c, int j) const { block.load(t, k, j, c); }
  template <bool, int, class Block, class Right> SMALTI_HD void load_value(Block& block, Right& t, int c, int j) const { block.load(t, v, j, c); }
  template <int, class Block, class Left> SMALTI_HD void announce_key_rows(Block& block, Left& t, int c, int j) const { block.announce(t, k, j, c); }
  template <int, class Block, class Right> SMALTI_HD void announce_value(Block& block, Right& t, int c, int j) const { block.announce(t, v, j, c); }
};

//! The same in a dense batch, through one view of them all.
template <class T>
struct stacked_head {
  stacks<const T> k, v;
  int sequence = 0, head = 0;
  float k_scale = 1, v_scale = 1;
  SMALTI_HD constexpr int length() const { return k.rows; }
  template <bool, int, class Block, class Right> SMALTI_HD void load_key(Block& block, Right& t, int c, int j) const { block.load(t, transposed(k), sequence, head, c, j); }
  template <bool, int, class Block, class Left> SMALTI_HD void load_key_rows(Block& block, Left& t, int c, int j) const { block.load(t, k, sequence, head, j, c); }
  template <bool, int, class Block, class Right> SMALTI_HD void load_value(Block& block, Right& t, int c, int j) const { block.load(t, v, sequence, head, j, c); }
  template <int, class Block, class Left> SMALTI_HD void announce_key_rows(Block& block, Left& t, int c, int j) const { block.announce(t, k.at(sequence, head), j, c); }
  template <int, class Block, class Right> SMALTI_HD void announce_value(Block& block, Right& t, int c, int j) const { block.announce(t, v.at(sequence, head), j, c); }
};

//! Dense and ragged batches: bf16, fp16 or fp8 in memory. The scales undo the quantization of 8-bit memory. `used`,
//! where given, says how many of each sequence's rows are keys.
template <class T>
struct dense_kv {
  using element = T;
  head_rows<const T> k, v;
  const std::int32_t* used = nullptr;
  float k_scale = 1, v_scale = 1;
  constexpr int heads() const { return k.heads; }
  constexpr int longest() const { return k.rows; }        //!< keys of the longest sequence, or more
  //! Ragged: lengths differ from sequence to sequence.
  template <bool Ragged = true> SMALTI_HD constexpr auto at(int sequence, int head) const {
    if constexpr (Ragged) {
      dense_head<T> h{k.at(sequence, head), v.at(sequence, head), k_scale, v_scale};
      if (used != nullptr) h.k.rows = h.v.rows = used[sequence];
      return h;
    } else {
      return stacked_head<T>{k.all(), v.all(), sequence, head, k_scale, v_scale};
    }
  }
};

//! Keys or values in a pool of pages: element c of slot i of head h of page p lies at
//!     data + p * page_stride + i * slot_stride + h * head_stride + c
template <class T>
struct page_pool {
  T* data = nullptr;
  int count = 0, heads = 0, cols = 0;             //!< pages, heads, elements of a row
  long long page_stride = 0, head_stride = 0;
  int slot_stride = 0;

  //! Slots of one head as rows of a matrix: how many from page to page. slot_stride divides page_stride.
  SMALTI_HD constexpr int rows_per_page() const { return static_cast<int>(page_stride / slot_stride); }
  template <int Step> SMALTI_HD constexpr view<T, Step> all_slots(int head) const { return {data + head * head_stride, count * rows_per_page(), cols, slot_stride}; }
  //! The pages of one head as matrices.
  SMALTI_HD constexpr stack<T> boxes(int head, int page) const { return {data + head * head_stride, count, page, cols, page_stride, slot_stride}; }
};
//! A pool laid out as policy::nhd or policy::hnd say: pages of `tokens` slots.
template <class T, class Layout> constexpr page_pool<T> pool_of(Layout layout, T* data, int pages, int tokens, int heads, int cols) {
  static_assert(policy::explain_kv_layout<Layout>());
  return {data, pages, heads, cols, static_cast<long long>(layout.row(1, 0, 0, heads, tokens)) * cols,
          static_cast<long long>(layout.row(0, 0, 1, heads, tokens)) * cols, layout.row(0, 1, 0, heads, tokens) * cols};
}

//! The same pages, the first `cols` columns of their rows.
template <class T> constexpr page_pool<T> leading(page_pool<T> p, int cols) {
  p.cols = cols;
  return p;
}

//! The rows of a pool that hold keys j Rows::rows.. of a head with `tokens` keys; or, where Group neighbouring tokens share a row
//! (their scales, say), the rows of so many groups. Past the length the last token stands in: its memory is real, whatever the
//! rest of its page holds.
template <int Page, bool Clamped, int Group = 1, class Block, class Rows>
SMALTI_HD void page_rows(Block& block, Rows& rows, const int* table, int tokens, int page, int j, int rows_per_page) {
  // Every capture is named: nvcc 13.5 loses one that only a branch of the other form uses.
  const int size = Page > 0 ? Page : page, used = mutant(defect::last_page_out_of_table) ? tokens / size : ceil_div(tokens, size);
  if constexpr (Clamped)
    block.map([table = table, last = tokens - (mutant(defect::clamp_one_past) ? 0 : 1), size, used, rows_per_page, first = j * Rows::rows](auto r) {
      const auto token = min((r + first) * Group, last);
      return lookup(table, token / size, used) * rows_per_page + token % (mutant(defect::slot_in_page_forgotten) ? 1 : size) / Group;
    }, rows, row_index{});
  else
    block.map([table = table, size, used, rows_per_page, first = j * Rows::rows](auto r) {
      const auto token = (r + first) * Group;
      return lookup(table, token / size, used) * rows_per_page + token % size / Group;
    }, rows, row_index{});
}

//! Keys and values of one head in pages. Page = 0: the size is `page`.
template <class T, int Page>
struct paged_head {
  page_pool<const T> k, v;
  const int* table = nullptr;
  int tokens = 0, head = 0, page = 0;
  float k_scale = 1, v_scale = 1;
  SMALTI_HD constexpr int length() const { return tokens; }

  // A tile that lies inside a page is one plain tile; others are gathered row by row.
  template <bool Clamped, int D, class Block, class Right> SMALTI_HD void load_key(Block& block, Right& t, int c, int j) const {
    if constexpr (boxed<Clamped, Right::cols>) {
      constexpr int parts = Page / Right::cols;
      block.load(t, transposed(k.boxes(head, Page)), table[mutant(defect::first_page_for_all_keys) ? 0 : j / parts], c, j % parts);
    } else {
      column<Block, int, Right::cols> rows;
      token_rows<Clamped>(block, rows, j, k.rows_per_page());
      block.load_rows(t, transposed(k.template all_slots<promise<D, Right::rows>>(head)), rows, c);
    }
  }
  template <bool Clamped, int D, class Block, class Left> SMALTI_HD void load_key_rows(Block& block, Left& t, int c, int j) const {
    if constexpr (boxed<Clamped, Left::rows>) {
      constexpr int parts = Page / Left::rows;
      block.load(t, k.boxes(head, Page), table[j / parts], j % parts, c);
    } else {
      column<Block, int, Left::rows> rows;
      token_rows<Clamped>(block, rows, j, k.rows_per_page());
      block.load_rows(t, k.template all_slots<promise<D, Left::cols>>(head), rows, c);
    }
  }
  template <bool Clamped, int D, class Block, class Right> SMALTI_HD void load_value(Block& block, Right& t, int c, int j) const {
    if constexpr (boxed<Clamped, Right::rows>) {
      constexpr int parts = Page / Right::rows;
      block.load(t, v.boxes(head, Page), table[j / parts], j % parts, c);
    } else {
      column<Block, int, Right::rows> rows;
      token_rows<Clamped>(block, rows, j, v.rows_per_page());
      block.load_rows(t, v.template all_slots<promise<D, Right::cols>>(head), rows, c);
    }
  }
  template <int D, class Block, class Left> SMALTI_HD void announce_key_rows(Block& block, Left& t, int c, int j) const { announce<D, Left::rows, Left::cols>(block, t, k, c, j); }
  template <int D, class Block, class Right> SMALTI_HD void announce_value(Block& block, Right& t, int c, int j) const { announce<D, Right::rows, Right::cols>(block, t, v, c, j); }

private:
  template <int D, int N, int Width, class Block, class Streamed> SMALTI_HD void announce(Block& block, Streamed& t, const page_pool<const T>& of, int c, int j) const {
    if constexpr (N % 32 == 0) {
      column<Block, int, 32> rows;
      page_rows<Page, true>(block, rows, table, tokens, page, j * (N / 32), of.rows_per_page());
      block.announce(t, of.template all_slots<promise<D, Width>>(head), rows, c);
    }
  }
  template <bool Clamped, int N> static constexpr bool boxed = !Clamped && Page > 0 && Page % N == 0;
  // A row of D elements that the chunk's width divides has no column to mask: the promise spares a gather its mask.
  template <int D, int Width> static constexpr int promise = D % Width == 0 && Width > step_of<T> ? Width : step_of<T>;

  template <bool Clamped, class Block, class Rows> SMALTI_HD void token_rows(Block& block, Rows& rows, int j, int rows_per_page) const {
    page_rows<Page, Clamped>(block, rows, table, tokens, page, j, rows_per_page);
  }
};

//! A pool of pages and who has which (core/pages.hpp): tables and lengths may differ from head to head. Page: tokens of a
//! page where known at compile time (tiles of keys that divide it are then copied whole), 0 for any size.
template <class T, int Page = 0>
struct paged_kv {
  using element = T;
  page_pool<const T> k, v;
  pages where;
  int sequences = 0;
  int most = 0;                 //!< keys of the longest sequence, or more: plans splits; no key is lost where it is too small
  float k_scale = 1, v_scale = 1;
  constexpr int heads() const { return k.heads; }
  constexpr int longest() const { return most; }
  template <bool = true> SMALTI_HD constexpr paged_head<T, Page> at(int sequence, int head) const {
    return {k, v, where.row(sequence, head), where.tokens(sequence, head), head, where.page, k_scale, v_scale};
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
