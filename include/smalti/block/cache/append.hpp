// The append agent: new keys and values go to the slots of a paged pool that a page table gave them. One block takes
// `m` tokens of one head and `c` channels of each.
#pragma once
#include <smalti/core/view.hpp>
#include <smalti/policy/kv_layout.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::cache {

struct append_tuning {
  int m, c;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const append_tuning&) const = default;
};

//! From: element of the new rows. To: element of the pool. Layout: order of heads and tokens in a page. Gathered: a token is a row that a list names.
template <class From, class To, class Layout, bool Gathered = false> struct append_problem {
  static constexpr bool gathered = Gathered;
  struct arguments {
    stack<const From> k, v;               //!< [kv_head][token][d]; v may have no columns
    view<To> keys, values;                //!< the pool's rows, each one token and head
    const int* slots;                     //!< page * tokens of a page + slot, for each token; negative: not stored
    long long slot_head_stride;           //!< slots from one head to the next; 0 = shared by heads
    int pool_slots;                       //!< slots of the pool: one at or past it is not stored
    int page;                             //!< tokens of a page
    int heads_in_page;                    //!< all, or 1 where every head has pages of its own
    float key_factor, value_factor;       //!< 1 / scale of what is stored
    Layout layout;
    const int* from = nullptr;            //!< Gathered: the row of k and v that each token is
    long long from_head_stride = 0;       //!< from one head to the next; 0 = shared by heads
    int tokens = 0;                       //!< Gathered: entries of from
    SMALTI_HD constexpr int count() const { return Gathered ? tokens : k.rows; }
  };
};

template <append_tuning Tuning, class Problem>
struct append_agent {
  using arguments = typename Problem::arguments;
  static constexpr int m = Tuning.m, c = Tuning.c, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  static constexpr int blocks_of_a_thread = 8;       // on the host: a copy of 16 rows takes less time than to wake a thread
  arguments x;

  static constexpr grid blocks(const arguments& x) {
    const int widest = x.k.cols > x.v.cols ? x.k.cols : x.v.cols;
    return {ceil_div(x.count(), m), x.k.count, ceil_div(widest, c)};
  }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), head = block.y(), j = block.z();
    column<Block, int, m> rows;
    block.map([=, slots = x.slots + head * x.slot_head_stride, tokens = x.count(), page = x.page, limit = x.pool_slots, heads = x.heads_in_page, layout = x.layout](auto r) {
      const auto token = r + i * m;
      const auto slot = lookup(slots, token, tokens);
      return where(token < tokens && slot >= 0 && slot < limit, layout.row(slot / page, slot % page, heads == 1 ? 0 : head, heads, page), -1);
    }, rows, row_index{});
    column<Block, int, m> from;
    if constexpr (Problem::gathered)
      block.map([=, list = x.from + head * x.from_head_stride, tokens = x.tokens](auto r) { return lookup(list, min(r + i * m, tokens - 1), tokens); }, from, row_index{});
    if (j * c < x.k.cols) put(block, x.keys, x.k, rows, from, head, i, j, x.key_factor);
    if (j * c < x.v.cols) put(block, x.values, x.v, rows, from, head, i, j, x.value_factor);
  }

  template <class Block, class To, class From, class Rows>
  static SMALTI_HD void put(Block& block, const view<To>& pool, const stack<const From>& fresh, const Rows& rows, const Rows& from, int head, int i, int j, float factor) {
    tile<Block, float, m, c> t;
    if constexpr (Problem::gathered) block.load_rows(t, fresh[head], from, j);
    else block.load(t, fresh, head, i, j);
    if constexpr (sizeof(To) == 1) block.map([=](auto v) { return v * factor; }, t, t);
    block.store_rows(pool, rows, j, t);
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
