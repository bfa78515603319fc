// Which blocks of the grid do which part of ragged work: the grid itself, or a list planned on the host from lengths.
#pragma once
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Every sequence is cut in the same way: the grid says which part a block has.
struct whole_grid {
  static constexpr bool listed = false;
};

//! A part of one sequence's keys.
struct work_item {
  std::int32_t sequence;              //!< -1: nothing; fills a list of fixed length
  std::int32_t begin, end;            //!< tiles of keys
  std::int32_t part, parts;           //!< which of the sequence's parts, in the order of its keys, and how many there are
  std::int32_t place;                 //!< parts of all sequences before this one
};

//! Parts of about equal length of ragged sequences: no block waits for the longest sequence. `count` is the grid's, whatever the
//! lengths: a captured graph runs with new lengths when the list is planned anew in the same memory.
struct balanced_work {
  static constexpr bool listed = true;
  const work_item* items = nullptr;   //!< in the context's memory
  int count = 0;
};

//! Entries that a list for `sequences` sequences and `blocks` blocks may need.
constexpr int balanced_items(int sequences, int blocks) { return sequences + blocks; }

//! Plans a list: sequences in order, each cut into parts of at most P tiles of `tile` keys, where P is the least with which
//! all parts, each `overhead` tiles dearer than its keys, share `blocks` blocks. The rest of the `count` items is filled with -1.
//! @pre   count >= balanced_items(sequences, blocks); every length >= 0
//! @post  every tile of every sequence is in one item, each sequence has one item at least
//! @note  O(sequences + count), on the host. After the schedule of FlashMLA's decoding kernels (DeepSeek-AI 2025)
constexpr status plan_balanced(const std::int32_t* lengths, int sequences, int tile, int blocks, work_item* items, int count, int overhead = 1) {
  if (tile <= 0) return {errc::bad_value, "tile must be positive: it counts the keys of a tile", tile, 1};
  if (blocks <= 0) return {errc::bad_value, "blocks must be positive: it counts the blocks that share the work", blocks, 1};
  if (overhead < 0) return {errc::bad_value, "overhead must not be negative: it counts the tiles that a part costs beyond its own", overhead, 0};
  if (count < balanced_items(sequences, blocks)) return {errc::bad_shape, "count must be at least balanced_items(sequences, blocks)", count, balanced_items(sequences, blocks)};
  long long all = 0;
  for (int s = 0; s < sequences; ++s) {
    if (lengths[s] < 0) return {errc::bad_value, "lengths must not be negative", lengths[s], 0};
    all += (static_cast<long long>(lengths[s]) + tile - 1) / tile + overhead;
  }
  const long long most = (all + blocks - 1) / blocks > 1 ? (all + blocks - 1) / blocks : 1;
  int used = 0;
  for (int s = 0; s < sequences; ++s) {
    const int tiles = static_cast<int>((static_cast<long long>(lengths[s]) + tile - 1) / tile), place = used;
    const int parts = tiles == 0 ? 1 : static_cast<int>((tiles + most - 1) / most);
    for (int p = 0; p < parts; ++p)
      items[used++] = {s, static_cast<std::int32_t>(static_cast<long long>(tiles) * p / parts), static_cast<std::int32_t>(static_cast<long long>(tiles) * (p + 1) / parts), p, parts, place};
  }
  for (; used < count; ++used) items[used] = {-1, 0, 0, 0, 1, 0};
  return {};
}

}  // namespace smalti::inline SMALTI_DATA::policy
