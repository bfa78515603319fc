// Where keys and values live. A source gives tile j (as many keys as the operand is wide) of one head as the right
// operand of a product; rows past the length may hold anything in memory, so a source has two forms of each load:
// the plain one, for tiles that lie wholly inside, and the clamped one, whose rows past the length are finite.
#pragma once
#include <smalti/core/view.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! [kv_head][token][d], T in memory: bf16, fp16 or fp8. The scales undo the quantization of 8-bit memory.
template <class T>
struct contiguous_kv {
  stack<const T> k, v;
  float k_scale = 1, v_scale = 1;
  SMALTI_HD constexpr int length() const { return k.rows; }
  template <bool Clamped, class Block, class Right> SMALTI_HD void load_key(Block& block, Right& t, int head, int j) const {
    block.load(t, transposed(k), head, 0, j);       // zero past the length
  }
  template <bool Clamped, class Block, class Right> SMALTI_HD void load_value(Block& block, Right& t, int head, int j) const {
    block.load(t, v, head, j, 0);
  }
};

//! A pool of pages of one sequence: [page][slot][kv_head * d]; token t lives in slot t % Page of page table[t / Page].
//! A page as large as the key tile is one plain tile; smaller pages are gathered row by row.
template <class T, int Page>
struct paged_kv {
  stack<const T> k, v;
  const int* table = nullptr;
  int tokens = 0;
  float k_scale = 1, v_scale = 1;
  SMALTI_HD constexpr int length() const { return tokens; }
  template <bool Clamped, class Block, class Right> SMALTI_HD void load_key(Block& block, Right& t, int head, int j) const {
    if constexpr (!Clamped && Right::cols == Page) {
      block.load(t, transposed(k), table[mutant(defect::first_page_for_all_keys) ? 0 : j], head, 0);
    } else {
      column<Block, int, Right::cols> rows;
      token_rows<Clamped>(block, rows, j);
      block.load_rows(t, transposed(all_rows<Right::rows>(k)), rows, head);
    }
  }
  template <bool Clamped, class Block, class Right> SMALTI_HD void load_value(Block& block, Right& t, int head, int j) const {
    if constexpr (!Clamped && Right::rows == Page) {
      block.load(t, v, table[j], 0, head);
    } else {
      column<Block, int, Right::rows> rows;
      token_rows<Clamped>(block, rows, j);
      block.load_rows(t, all_rows<Right::cols>(v), rows, head);
    }
  }

  // A row of the pool is whole heads: the promise spares a gather its column mask.
  template <int D> static SMALTI_HD constexpr view<const T, D> all_rows(const stack<const T>& pool) { return {pool.data, pool.count * Page, pool.cols, pool.stride}; }
  // Past the length the last token stands in: its memory is real, whatever the rest of its page holds.
  template <bool Clamped, class Block, class Rows> SMALTI_HD void token_rows(Block& block, Rows& rows, int j) const {
    block.map([=, table = table, tokens = tokens](auto r) {
      const auto past = r + j * Rows::rows;
      if constexpr (Clamped) {
        const auto token = min(past, tokens - (mutant(defect::clamp_one_past) ? 0 : 1));
        return lookup(table, token / Page, ceil_div(tokens, Page)) * Page + token % (mutant(defect::slot_in_page_forgotten) ? 1 : Page);
      } else {
        return lookup(table, past / Page, mutant(defect::last_page_out_of_table) ? tokens / Page : ceil_div(tokens, Page)) * Page + past % Page;
      }
    }, rows, row_index{});
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
