// The index of slots by expert: a stable counting sort in four launches, each a tile program.
//     count     chunk b of slots: how many of each expert                                (histogram)
//     scan      each expert: how many in the chunks before b, and in all; what is kept   (exclusive scan over chunks)
//     place     where experts begin, where their tiles begin                             (exclusive scan over experts)
//     scatter   slot s: base of its chunk and expert, plus its rank in the chunk         (stable: ascending by construction)
// and, if asked for, the list of tiles. No counter is shared, so that any order of blocks gives the same index; all counts are 32 bits.
// Slots are met in the order of policy::slot_order: chunk b has the positions [b n, b n + n) of that order.
#pragma once
#include <smalti/core/view.hpp>
#include <smalti/policy/route/layout.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::route {

//! The slots, and the order they are met in.
struct slot_list {
  const int* ids;                    //!< [tokens][choices]
  int tokens, choices, experts;      //!< ids outside [0, experts) have no row
  policy::slot_order order;
  const int* token_order;            //!< [tokens] with slot_order::prioritized
  SMALTI_HD constexpr int slots() const { return tokens * choices; }
};

// The slot and the token at a position; the last slot's where there is none.
struct met {
  template <class P> SMALTI_HD static auto token(P position, int tokens, int choices, policy::slot_order order, const int* token_order) {
    const auto i = min(position, tokens * choices - 1);
    const auto by_token = i / choices, by_choice = i % tokens;
    const auto named = lookup(token_order, order == policy::slot_order::prioritized ? by_choice : by_choice * 0, order == policy::slot_order::prioritized ? tokens : 0);
    return where(i * 0 + int(order) == int(policy::slot_order::token), by_token, where(i * 0 + int(order) == int(policy::slot_order::choice), by_choice, named));
  }
  template <class P> SMALTI_HD static auto choice(P position, int tokens, int choices, policy::slot_order order) {
    const auto i = min(position, tokens * choices - 1);
    return where(i * 0 + int(order) == int(policy::slot_order::token), i % choices, i / tokens);
  }
};

//! N slots a chunk, E experts at a time where they are counted, `wide` where they are placed.
struct index_tuning {
  int n = 64, e = 16, wide = 1024;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const index_tuning&) const = default;
};

struct count_arguments {
  slot_list slots;
  int chunks;
  int* counts;                       //!< [experts][chunks]
  int *slot_of_row, *token_of_row;   //!< filled with -1 and 0
  int row_limit;
};
template <index_tuning Tuning> struct count_agent {
  using arguments = count_arguments;
  static constexpr int n = Tuning.n, e = Tuning.e, occupancy = Tuning.occupancy, cluster = Tuning.cluster, wide = Tuning.wide;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {x.chunks, 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int b = block.x();
    row<Block, int, n> keys;
    load_keys(block, keys, b);
    for (int i : block.steps(0, ceil_div(x.slots.experts, e))) {
      tile<Block, int, e, n> here;
      column<Block, int, e> count;
      block.map([=](auto key, auto r) { return where(key == r + i * e, 1, 0); }, here, keys, row_index{});
      block.row_sum(count, here);
      block.store(view<int, 1>{x.counts, x.slots.experts, x.chunks, x.chunks}, i, b, count);
    }
    row<Block, int, wide> none, zero;
    block.fill(none, -1);
    block.fill(zero, 0);
    const int each = ceil_div(ceil_div(x.row_limit, wide), x.chunks);
    for (int i : block.steps(b * each, (b + 1) * each)) {
      block.store(view<int, 1>{x.slot_of_row, 1, x.row_limit, x.row_limit}, 0, i, none);
      block.store(view<int, 1>{x.token_of_row, 1, x.row_limit, x.row_limit}, 0, i, zero);
    }
  }

private:
  template <class Block> SMALTI_HD void load_keys(Block& block, row<Block, int, n>& keys, int b) const {
    const slot_list s = x.slots;
    if (s.order == policy::slot_order::token) {
      block.map([=, ids = s.ids, slots = s.slots()](auto c) { return where(c + b * n < slots, lookup(ids, c + b * n, slots), -1); }, keys, column_index{});
    } else {
      block.map([=, ids = s.ids, tokens = s.tokens, choices = s.choices, order = s.order, given = s.token_order](auto c) {
        const auto i = c + b * n;
        const auto slot = met::token(i, tokens, choices, order, given) * choices + met::choice(i, tokens, choices, order);
        return where(i < tokens * choices, lookup(ids, slot, tokens * choices), -1);
      }, keys, column_index{});
    }
  }
};

struct scan_arguments {
  int experts, chunks;
  int* counts;                       //!< [experts][chunks]; becomes the slots of the expert in the chunks before
  int* totals;                       //!< [experts]
  int *kept, *padded;                //!< [experts] within the capacity; with the padding behind it
  int capacity, alignment;
};
template <index_tuning Tuning> struct scan_agent {
  using arguments = scan_arguments;
  static constexpr int n = Tuning.n, e = Tuning.e, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.experts, e), 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const view<int, 1> counts = band(view<int, 1>{x.counts, x.experts, x.chunks, x.chunks}, block.x() * e, e);
    column<Block, int, e> before, here;
    block.fill(before, 0);
    for (int j : block.steps(0, ceil_div(x.chunks, n))) {
      tile<Block, int, e, n> count, sum;
      block.load(count, counts, 0, j);
      block.row_scan(sum, count);
      block.row_sum(here, count);
      block.map([](auto sum, auto count, auto before) { return sum - count + before * (mutant(defect::route_rank_from_first_chunk) ? 0 : 1); }, sum, sum, count, before);
      block.store(counts, 0, j, sum);
      block.map([](auto a, auto b) { return a + b; }, before, before, here);
    }
    block.store(view<int, 1>{x.totals, x.experts, 1, 1}, block.x(), 0, before);
    const int greatest = mutant(defect::route_drops_one_too_many) && x.capacity > 0 ? x.capacity - 1 : x.capacity;
    block.map([=](auto total) { return min(total, greatest); }, here, before);
    block.store(view<int, 1>{x.kept, x.experts, 1, 1}, block.x(), 0, here);
    block.map([a = x.alignment](auto kept) { return (kept + (a - 1)) / a * a; }, here, here);      // a second init-capture, a constant, is an internal error of nvcc 13.5
    block.store(view<int, 1>{x.padded, x.experts, 1, 1}, block.x(), 0, here);
  }
};

struct place_arguments {
  int experts;
  policy::row_layout layout;
  policy::expert_capacity capacity;
  const int *totals, *kept, *padded; //!< [experts]
  int* offsets;                      //!< [experts + 1]
  int* end;                          //!< [experts]
  int* demand;                       //!< [experts] before the capacity; may be null
  int* capacity_used;                //!< one number; may be null
  int tile_rows;                     //!< 0: no tiles
  int* tile_begin;                   //!< [experts] the tiles of the experts before
};
//! One block: experts are scanned in strips of `wide`.
template <index_tuning Tuning> struct place_agent {
  using arguments = place_arguments;
  static constexpr int wide = Tuning.wide, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;
  static constexpr grid blocks(const arguments&) { return {1, 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int experts = x.experts, strips = ceil_div(experts, wide);
    const view<const int, 1> totals{x.totals, 1, experts, experts};
    column<Block, int, 1> most, here, first, tiles, capacity;
    block.fill(most, 0);
    for (int i : block.steps(0, strips)) {
      tile<Block, int, 1, wide> count;
      block.load(count, totals, 0, i);
      block.row_max(here, count);
      block.map([](auto a, auto b) { return max(a, b); }, most, most, here);
    }
    using kind = policy::expert_capacity::kind;
    const int bound = x.capacity.how == kind::dropless || x.capacity.how == kind::most ? 2147483647 : x.capacity.slots;
    // What an adaptive capacity is at the end matters to nobody's rows: an expert has no more than the fullest.
    block.map([=, least = x.capacity.how == kind::fixed ? bound : 0](auto most) { return max(min(most, bound), least); }, capacity, most);
    if (x.capacity_used != nullptr) block.store(view<int, 1>{x.capacity_used, 1, 1, 1}, 0, 0, capacity);

    block.fill(first, 0);
    block.fill(tiles, 0);
    for (int i : block.steps(0, strips)) {
      tile<Block, int, 1, wide> count, kept, padded, begin;
      block.load(count, totals, 0, i);
      if (x.demand != nullptr) block.store(view<int, 1>{x.demand, 1, experts, experts}, 0, i, count);
      block.load(kept, view<const int, 1>{x.kept, 1, experts, experts}, 0, i);
      block.load(padded, view<const int, 1>{x.padded, 1, experts, experts}, 0, i);
      exclusive(block, begin, padded, first);
      if (x.layout.rows_per_expert != 0) block.map([=, each = x.layout.rows_per_expert](auto c) { return (c + i * wide) * each; }, begin, column_index{});
      block.store(view<int, 1>{x.offsets, 1, experts, experts}, 0, i, begin);
      block.map([](auto begin, auto kept) { return begin + kept; }, kept, begin, kept);
      block.store(view<int, 1>{x.end, 1, experts, experts}, 0, i, kept);
      if (x.tile_rows != 0) {
        block.map([rows = x.tile_rows](auto end, auto begin) { return (end - begin + (rows - 1)) / rows; }, padded, kept, begin);
        exclusive(block, begin, padded, tiles);
        block.store(view<int, 1>{x.tile_begin, 1, experts, experts}, 0, i, begin);
      }
    }
    if (x.layout.rows_per_expert != 0) block.map([=, each = x.layout.rows_per_expert](auto f) { return f * 0 + experts * each; }, first, first);
    block.store(view<int, 1>{x.offsets + experts, 1, 1, 1}, 0, 0, first);
  }

private:
  // begin = running + exclusive running sum of each; running += all.
  template <class Block, class Tile, class Column> SMALTI_HD static void exclusive(Block& block, Tile& begin, const Tile& each, Column& running) {
    column<Block, int, 1> all;
    block.row_scan(begin, each);
    block.map([](auto sum, auto one, auto before) { return sum - one + before; }, begin, begin, each, running);
    block.row_sum(all, each);
    block.map([](auto a, auto b) { return a + b; }, running, running, all);
  }
};

struct scatter_arguments {
  slot_list slots;
  int chunks, row_limit;
  const int* before;                 //!< [experts][chunks]
  const int* offsets;
  const int* end;
  int *slot_of_row, *token_of_row, *row_of_slot;
};
template <index_tuning Tuning> struct scatter_agent {
  using arguments = scatter_arguments;
  static constexpr int n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.slots.slots(), n), 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int b = block.x();
    const slot_list s = x.slots;
    const int slots = s.slots(), experts = s.experts;
    column<Block, int, n> token, slot, key, rank, at;
    row<Block, int, n> keys;
    block.map([=, tokens = s.tokens, choices = s.choices, order = s.order, given = s.token_order](auto r) { return met::token(r + b * n, tokens, choices, order, given); }, token, row_index{});
    block.map([=, tokens = s.tokens, choices = s.choices, order = s.order](auto t, auto r) { return t * choices + met::choice(r + b * n, tokens, choices, order); }, slot, token, row_index{});
    block.map([=](auto slot, auto r) { return where(r + b * n < slots, slot, -1); }, slot, slot, row_index{});
    block.map([=, ids = s.ids](auto slot) {
      const auto e = lookup(ids, slot, slots);
      return where(slot >= 0 && e >= 0 && e < experts, e, -1);
    }, key, slot);
    // The same keys as a row: turned, not read again.
    tile<Block, int, n, n> equal;
    tile<Block, int, n, n> down;
    block.map([](auto key, auto r, auto c) { return where(r == c, key, -2147483647 - 1); }, down, key, row_index{}, column_index{});
    block.column_max(keys, down);
    block.map([](auto key, auto other, auto r, auto c) { return where(key == other && c < r, 1, 0); }, equal, key, keys, row_index{}, column_index{});
    block.row_sum(rank, equal);
    block.map([=, before = x.before, offsets = x.offsets, end = x.end, chunks = x.chunks](auto key, auto rank) {
      const auto p = lookup(offsets, key, experts) + lookup(before, key * chunks + b, experts * chunks) + rank;
      return where(key >= 0 && p < lookup(end, key, experts), p, -1);
    }, at, key, rank);
    block.store_rows(view<int, 1>{x.row_of_slot, slots, 1, 1}, slot, 0, at);
    block.store_rows(view<int, 1>{x.slot_of_row, x.row_limit, 1, 1}, at, 0, slot);
    block.store_rows(view<int, 1>{x.token_of_row, x.row_limit, 1, 1}, at, 0, token);
  }
};

struct tile_list_arguments {
  int experts, rows, limit;
  const int* offsets;
  const int* tile_begin;
  const int* end;
  int *expert, *first;
};
//! n tiles of the list at a time: tile i is of the first expert whose tiles end behind i.
template <index_tuning Tuning> struct tile_list_agent {
  using arguments = tile_list_arguments;
  static constexpr int n = 64, wide = 256, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.limit, n), 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int j = block.x(), experts = x.experts;
    column<Block, int, n> expert, here, first;
    block.fill(expert, 0);
    for (int i : block.steps(0, ceil_div(experts, wide))) {
      row<Block, int, wide> last;
      tile<Block, int, n, wide> past;
      block.map([=, begin = x.tile_begin, end = x.end, offsets = x.offsets, rows = x.rows](auto c) {
        const auto e = c + i * wide;
        const auto count = lookup(end, e, experts) - lookup(offsets, e, experts);
        return where(e < experts, lookup(begin, e, experts) + (count + (rows - 1)) / rows, 2147483647);
      }, last, column_index{});
      block.map([=](auto last, auto r) { return where(last <= r + j * n, 1, 0); }, past, last, row_index{});
      block.row_sum(here, past);
      block.map([](auto a, auto b) { return a + b; }, expert, expert, here);
    }
    block.map([=, begin = x.tile_begin, offsets = x.offsets, rows = x.rows](auto e, auto r) {
      return where(e < experts, lookup(offsets, e, experts) + (r + j * n - lookup(begin, e, experts)) * rows, 0);
    }, first, expert, row_index{});
    block.map([=](auto e) { return where(e < experts, e, -1); }, expert, expert);
    block.store(view<int, 1>{x.expert, x.limit, 1, 1}, j, 0, expert);
    block.store(view<int, 1>{x.first, x.limit, 1, 1}, j, 0, first);
  }
};

}  // namespace smalti::inline SMALTI_CODE::route
