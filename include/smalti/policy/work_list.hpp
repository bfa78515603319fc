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

//! Equal shares of ragged sequences: each of `workers` blocks walks over its own items, and no block waits for the longest sequence.
//! The grid and the memory depend on `workers` and `count` alone: a captured graph runs with new lengths when the list is planned
//! anew where it lies.
struct balanced_work {
  static constexpr bool listed = true;
  const work_item* items = nullptr;          //!< in the context's memory
  int count = 0;
  const std::int32_t* begins = nullptr;      //!< workers + 1: the items of worker w are [begins[w], begins[w + 1]); in the context's memory
  int workers = 0;
};

//! Entries that a list for `sequences` sequences and `workers` workers may need.
constexpr int balanced_items(int sequences, int workers) { return sequences + workers; }

//! Plans a list: workers in order take whole sequences in order, and cut one where their share ends. A share is the mean of all tiles of
//! `tile` keys, of which an item costs `overhead` beyond its own, and one overhead more, for the cut. What is left of the `count` items
//! is filled with -1.
//! @pre   count >= balanced_items(sequences, workers); begins has room for workers + 1; every length >= 0
//! @post  every tile of every sequence is in one item, each sequence has one item at least and at most one of each worker; items cost
//!        no worker more than ceil(sum of (tiles + overhead) / workers) + max(overhead, 1)
//! @note  O(sequences + count), on the host. After the schedule of FlashMLA's decoding kernels (DeepSeek-AI 2025)
constexpr status plan_balanced(const std::int32_t* lengths, int sequences, int tile, int workers, work_item* items, int count, std::int32_t* begins, int overhead = 1) {
  if (tile <= 0) return {errc::bad_value, "tile must be positive: it counts the keys of a tile", tile, 1};
  if (workers <= 0) return {errc::bad_value, "workers must be positive: it counts the blocks that share the work", workers, 1};
  if (overhead < 0) return {errc::bad_value, "overhead must not be negative: it counts the tiles that an item costs beyond its own", overhead, 0};
  if (count < balanced_items(sequences, workers)) return {errc::bad_shape, "count must be at least balanced_items(sequences, workers)", count, balanced_items(sequences, workers)};
  long long all = 0;
  for (int s = 0; s < sequences; ++s) {
    if (lengths[s] < 0) return {errc::bad_value, "lengths must not be negative", lengths[s], 0};
    all += (static_cast<long long>(lengths[s]) + tile - 1) / tile + overhead;
  }
  const long long share = (all + workers - 1) / workers + (overhead > 1 ? overhead : 1);
  long long left = share;
  int used = 0, worker = 0;
  begins[0] = 0;
  for (int s = 0; s < sequences; ++s) {
    const long long tiles = (static_cast<long long>(lengths[s]) + tile - 1) / tile;
    const int place = used;
    long long done = 0;
    do {
      if (left < overhead + (tiles > 0 ? 1 : 0)) {         // its share ends: the next worker
        begins[++worker] = used;
        left = share;
      }
      const long long take = tiles - done < left - overhead ? tiles - done : left - overhead;
      items[used] = {s, static_cast<std::int32_t>(done), static_cast<std::int32_t>(done + take), used - place, 0, place};
      ++used;
      done += take, left -= take + overhead;
    } while (done < tiles);
    for (int i = place; i < used; ++i) items[i].parts = used - place;
  }
  while (worker < workers) begins[++worker] = used;
  for (; used < count; ++used) items[used] = {-1, 0, 0, 0, 1, 0};
  return {};
}

}  // namespace smalti::inline SMALTI_DATA::policy
