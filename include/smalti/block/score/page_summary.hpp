// What is kept of each page of keys beside them: a walk over the pages that hold given tokens and what they leave of each head's keys, for selections
// that compare queries with pages (bounds: page_bounds.hpp; means: probe_query.hpp).
#pragma once
#include <smalti/block/attention/kv.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Which tokens of each sequence are new: the newest `fresh` of every one; with fresh below 0 those from from[sequence] on; without either all.
struct new_tokens {
  const int* from = nullptr;
  int fresh = -1;
  template <class Block> SMALTI_HD int first(Block& block, int sequence, int length) const {
    if (fresh >= 0) return length > fresh ? length - fresh : 0;
    return from != nullptr ? block.number(from, sequence) : 0;
  }
};

//! Of every page that holds new tokens: what Summary makes of the keys in use, in row page * heads + head of out.
//! A Summary has a type `out<T>` and write<Slots, Width>(block, out, slots, row, part): columns [part Width, (part + 1) Width) of slots to out's row.
template <class T, int Page, class Summary>
struct page_summary_arguments {
  paged_kv<T, Page> kv;
  new_tokens tokens;
  typename Summary::template out<T> out;
};
template <int Slots, int Width, class T, int Page, class Summary>
struct page_summary_agent {
  using arguments = page_summary_arguments<T, Page, Summary>;
  arguments x;
  static SMALTI_HD constexpr int parts(const arguments& x) { return ceil_div(x.kv.k.cols, Width); }
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.kv.most, x.kv.where.page), x.kv.k.heads * parts(x), x.kv.sequences}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int n = block.x(), head = block.y() / parts(x), part = block.y() % parts(x), sequence = block.z(), size = x.kv.where.page;
    const auto kv = x.kv.at(sequence, head);
    const int length = kv.length(), rest = length - n * size, live = rest < size ? rest : size, begin = x.tokens.first(block, sequence, length);
    if (live <= 0 || (n + 1) * size <= begin) return;
    const int page = block.number(kv.table, n);
    const view<const T> slots{x.kv.k.data + page * x.kv.k.page_stride + head * x.kv.k.head_stride, live, x.kv.k.cols, x.kv.k.slot_stride};
    Summary::template write<Slots, Width>(block, x.out, slots, page * x.kv.k.heads + head, part);
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
