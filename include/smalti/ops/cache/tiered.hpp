// A pool in slow memory read through a few pages in fast memory: demotion to another tier, and retrieval from it. docs/ops/cache/tiers.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/cache/copy_pages.hpp>
#include <smalti/ops/cache/paged.hpp>
#include <smalti/policy/cache/replacement.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! Frames: pages of a fast pool, each a copy of a page of a slow one. The slow pool holds everything and lies anywhere: pageable or pinned host memory, a
//! file mapped into memory (io::mapped_pool). What attention is to read is fetched: pages that have a frame are hits, the others get one, and are
//! copied there by cache::copy_pages. Tables that name frames in place of pages give attention the same keys and values, to the bit.
//!
//! Law of tiers: results do not depend on which pages have frames, how many frames there are, or what the rule gives up.
//!
//! Metadata on the host, one thread, in memory of the caller's. Data follows metadata: run the copies of fetch before anything reads the frames.
//! @tparam Rule  policy::least_recently_used, greedy_dual_size_frequency, ...: which page gives up its frame
//! @note   O(frames) a page; one copy of a page for each miss
template <class Rule = policy::least_recently_used>
class tiered {
public:
  static std::size_t metadata_bytes(const pool_shape& fast) {
    carver c;
    c.take<policy::cached_entry>(std::size_t(fast.pages > 0 ? fast.pages : 0));
    return c.used;
  }
  //! Begins with no page in a frame.
  status attach(const page_pool& slow, const page_pool& fast, workspace metadata) {
    if (!(slow.format == fast.format)) return {errc::bad_value, "tiered: both pools must hold one storage", int(fast.format.code), int(slow.format.code)};
    if (slow.order != fast.order) return {errc::bad_value, "tiered: both pools must have one layout (nhd 0, hnd 1)", int(fast.order), int(slow.order)};
    pool_shape as_slow = fast.shape;
    as_slow.pages = slow.shape.pages;
    if (!(as_slow == slow.shape)) return {errc::bad_shape, "tiered: both pools must have pages of one shape: tokens, heads, channels, layers"};
    if (const status bad = check_workspace(metadata, metadata_bytes(fast.shape)); !bad) return bad;
    carver c{metadata.data};
    policy::cached_entry* entries = c.take<policy::cached_entry>(std::size_t(fast.shape.pages));
    for (int i = 0; i < fast.shape.pages; ++i) entries[i] = {};
    slow_ = slow, fast_ = fast;
    frames_ = {.entries = entries, .places = fast.shape.pages, .capacity = fast.shape.pages};
    return {};
  }

  //! Gives the pages frames: frame[i] holds pages[i], once the copies of `moves` have run (from the slow pool to the fast one). Negative pages are left out:
  //! -1. What is fetched is held until release(). All or nothing: refused where what is held and these pages do not fit, or `moves` does not.
  //! @param cost  of fetching a page again, for rules that ask
  status fetch(const int* pages, int count, int* frame, page_moves& moves, double cost = 1) {
    if (frames_.entries == nullptr) return {errc::not_initialised, "tiered: it has no memory yet: call attach"};
    if (count < 0) return {errc::bad_shape, "fetch: count must not be negative", count, 0};
    if (count > 0 && (pages == nullptr || frame == nullptr)) return {errc::null_pointer, "fetch: pages and frame must not be null", 0, count};
    int fresh = 0, held = 0;
    for (int f = 0; f < frames_.places; ++f) held += frames_.entries[f].held;
    for (int i = 0; i < count; ++i) {
      if (pages[i] >= slow_.shape.pages) return {errc::bad_value, "fetch: pages names a page outside the slow pool", pages[i], slow_.shape.pages};
      bool seen = false;
      for (int j = 0; j < i && !seen; ++j) seen = pages[j] == pages[i];
      if (pages[i] < 0 || seen) continue;
      const int at = frames_.find(pages[i]);
      fresh += at < 0, held += at < 0 || !frames_.entries[at].held;
    }
    if (held > frames_.places) return {errc::exhausted, "fetch: fewer frames than pages that are in use at once: release some, fetch less, or take a larger fast pool", frames_.places, held};
    if (fresh > 0 && (moves.source == nullptr || moves.target == nullptr)) return {errc::null_pointer, "fetch: moves has no memory, but pages are to be copied", 0, fresh};
    if (fresh > 0 && (moves.count < 0 || moves.capacity - moves.count < fresh)) return {errc::bad_shape, "fetch: moves is full: run its copies and set count to 0", moves.capacity - moves.count, fresh};
    for (int i = 0; i < count; ++i)                       // hits first, so that no page gives up a frame that this call wants
      if (pages[i] >= 0)
        if (const int at = frames_.find(pages[i]); at >= 0) frames_.entries[at].held = true;
    for (int i = 0; i < count; ++i) {
      frame[i] = -1;
      if (pages[i] < 0) continue;
      const auto a = frames_.request(pages[i], 1, cost, true);
      frame[i] = a.place;
      if (a.what != decltype(frames_)::outcome::placed) continue;
      moves.source[moves.count] = pages[i], moves.target[moves.count] = a.place;
      ++moves.count;
    }
    return {};
  }
  //! Nothing is in use any more: any page may give up its frame.
  void release() { frames_.release(); }
  //! A page of the slow pool has been written or freed: its frame holds something else now.
  void changed(int page) { static_cast<void>(frames_.forget(page)); }

  //! The frame of a page; -1: it has none.
  int frame_of(int page) const { return page >= 0 && frames_.entries != nullptr ? frames_.find(page) : -1; }
  long long hits() const { return frames_.hits; }
  long long misses() const { return frames_.misses; }
  const page_pool& slow() const { return slow_; }
  const page_pool& fast() const { return fast_; }

private:
  page_pool slow_{}, fast_{};
  policy::replacement_cache<Rule> frames_{};
};

}  // namespace smalti::inline SMALTI_CODE::cache
