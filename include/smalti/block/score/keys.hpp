// Single keys of one head, by their place in the sequence: what searches look at. One overload for each kind of head that
// block/attention/kv.hpp has.
#pragma once
#include <smalti/block/attention/kv.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Row r of t: elements c t.cols.. of key (or value) tokens[r] of a dense head. Every token exists.
template <class Block, class Left, class T, class Tokens>
SMALTI_HD void load_keys(Block& block, Left& t, const dense_head<T>& head, const Tokens& tokens, int c) {
  block.load_rows(t, head.k, tokens, c);
}
template <class Block, class Left, class T, class Tokens>
SMALTI_HD void load_values(Block& block, Left& t, const dense_head<T>& head, const Tokens& tokens, int c) {
  block.load_rows(t, head.v, tokens, c);
}

//! The same of a head in pages.
template <class Block, class Left, class T, int Page, class Tokens>
SMALTI_HD void load_slots(Block& block, Left& t, const paged_head<T, Page>& head, const page_pool<const T>& pool, const Tokens& tokens, int c) {
  column<Block, int, Left::rows> rows;
  block.map([table = head.table, pages = ceil_div(head.tokens, Page > 0 ? Page : head.page), size = Page > 0 ? Page : head.page, step = pool.rows_per_page()](auto token) {
    return lookup(table, token / size, pages) * step + token % size;
  }, rows, tokens);
  block.load_rows(t, pool.template all_slots<step_of<T>>(head.head), rows, c);
}
template <class Block, class Left, class T, int Page, class Tokens>
SMALTI_HD void load_keys(Block& block, Left& t, const paged_head<T, Page>& head, const Tokens& tokens, int c) {
  load_slots(block, t, head, head.k, tokens, c);
}
template <class Block, class Left, class T, int Page, class Tokens>
SMALTI_HD void load_values(Block& block, Left& t, const paged_head<T, Page>& head, const Tokens& tokens, int c) {
  load_slots(block, t, head, head.v, tokens, c);
}

}  // namespace smalti::inline SMALTI_CODE::attention
