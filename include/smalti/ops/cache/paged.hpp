// Sequences that keep their keys and values in pages of one pool: who holds which page, and what goes where. Metadata only;
// the rows are moved by cache::append and cache::copy_pages.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/cache/page_allocator.hpp>
#include <smalti/ops/cache/pool.hpp>
#include <smalti/ops/cache/prefix_index.hpp>
#include <smalti/ops/cache/tables.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! Names a sequence until it is closed; afterwards every call refuses it, also when its place is used again.
struct sequence {
  int index = -1;
  std::uint64_t generation = 0;
  friend constexpr bool operator==(const sequence&, const sequence&) = default;
};

//! Where new tokens go: out[track * track_stride + i] is page * tokens of a page + slot of the i-th new token.
struct slot_list {
  int* out = nullptr;
  long long track_stride = 0;        //!< at least the number of new tokens, where there are several tracks
};

//! Pages to be copied, all layers and planes of them, before anything is written: target[i] becomes a copy of source[i].
//! Calls add to the list until its owner has copied and sets `count` to 0. The copies of one list are independent.
struct page_moves {
  int* source = nullptr;
  int* target = nullptr;
  int capacity = 0;
  int count = 0;
};

//! How much a cache keeps count of.
struct paged_limits {
  int sequences = 0;                 //!< open at once
  int tokens = 0;                    //!< of a sequence in one track
  bool prefixes = false;             //!< pages may be found again by their token ids
};

//! A paged cache's metadata, all in memory of the caller's: nothing is allocated after attach, or by it.
//!
//! Data follows metadata: whoever appends runs the copies of `page_moves` first, then writes the rows, and both before the next
//! call that names the same sequence or one forked from it; on a GPU, queues them on one stream. A refused call changes
//! nothing: when the pages do not suffice (errc::exhausted) or an argument is wrong, every sequence is as it was.
//! Host only, one thread at a time; the same calls give the same pages on every machine.
//!
//! @tparam Storage  policy::kv_plain<T>, policy::kv_grouped<...>: bytes
//! @tparam Layout   policy::nhd or policy::hnd
//! @tparam Hash     of published pages; collisions are told apart by the token ids
//! @note   append: O(tracks + new tokens), fork: O(pages held), tables: O(entries)
template <class Storage, class Layout = policy::nhd, class Hash = content_hash>
class paged {
  static_assert(policy::explain_kv_storage<Storage>());
  static_assert(policy::explain_kv_layout<Layout>());

public:
  using storage = Storage;
  using layout = Layout;

  //! Bytes of metadata: for each sequence its table (4 bytes a page of its capacity and track), for each page 16 bytes,
  //! with prefixes up to 48 and its token ids. @pre check
  static std::size_t metadata_bytes(const pool_shape& s, const paged_limits& l) {
    carver count;
    lay_out(count, s, l);
    return count.used;
  }

  //! What no cache can be.
  static constexpr status check(const pool_shape& s, const paged_limits& l) {
    if (const status bad = check_shape(Storage::format, s); !bad) return bad;
    if (l.sequences < 1) return {errc::bad_shape, "limits.sequences must be at least 1", l.sequences, 1};
    if (l.tokens < 1) return {errc::bad_shape, "limits.tokens must be at least 1: it counts the tokens that a sequence may hold", l.tokens, 1};
    if (l.tokens > 2147483647 - s.page) return {errc::out_of_reach, "limits.tokens must be below 2^31 less a page", l.tokens, 2147483647 - s.page};
    if (static_cast<long long>(l.sequences) * s.tracks() > 2147483647)
      return {errc::out_of_reach, "limits.sequences times the tracks must be below 2^31", static_cast<long long>(l.sequences) * s.tracks(), 2147483647};
    return {};
  }

  paged() = default;
  paged(const paged&) = delete;               // two would hold the same pages
  paged& operator=(const paged&) = delete;

  //! Begins with no sequence and every page free. May be called again: all handles of before are then refused.
  status attach(const pool_shape& s, const paged_limits& l, workspace metadata) {
    if (const status bad = check(s, l); !bad) return bad;
    if (const status bad = check_workspace(metadata, metadata_bytes(s, l)); !bad) return bad;
    carver carve{metadata.data};
    const parts p = lay_out(carve, s, l);
    if (const status bad = pages_.attach(s.pages, p.allocator); !bad) return bad;
    if (l.prefixes)
      if (const status bad = index_.attach(s.pages, s.page, p.index); !bad) return bad;
    shape_ = s, limits_ = l, records_ = p.records, lengths_ = p.lengths, table_ = p.table, tally_ = p.tally;
    width_ = width_of(s, l), tracks_ = s.tracks(), open_ = 0, first_closed_ = 0;
    const std::uint64_t begin = ++last_generation_;
    for (int i = 0; i < l.sequences; ++i) {
      records_[i] = {};
      records_[i].generation = begin;
      records_[i].next_closed = i + 1 < l.sequences ? i + 1 : none;
    }
    return {};
  }

  // ---- sequences

  //! A sequence without tokens. Equal token ids mean equal keys and values only under equal `salt`: give adapters, images
  //! and the like one of their own.
  status open(sequence& out, std::uint32_t salt = 0) {
    if (const status bad = room_for_one(); !bad) return bad;
    const int i = take_record();
    records_[i].salt = salt;
    records_[i].known = limits_.prefixes;
    for (int t = 0; t < tracks_; ++t) length(i, t) = 0;
    out = {i, records_[i].generation};
    return {};
  }

  //! Gives its pages back; the handle is refused from now on. Pages that are published stay to be found until others need them.
  status close(sequence s) {
    if (const status bad = check_open(s); !bad) return bad;
    record& r = records_[s.index];
    if (r.state == resident) drop_all(s.index);
    r.state = closed;
    r.generation = ++last_generation_;
    r.next_closed = first_closed_;
    first_closed_ = s.index;
    --open_;
    return {};
  }

  //! A second sequence with the same tokens, which shares all pages, the one partly filled too: whoever appends to that one
  //! first gets a copy.
  status fork(sequence s, sequence& out) {
    if (const status bad = check_resident(s); !bad) return bad;
    if (const status bad = room_for_one(); !bad) return bad;
    const int i = take_record();
    const record& from = records_[s.index];
    record& to = records_[i];
    to.positions = from.positions, to.floor = from.floor, to.published = from.published, to.salt = from.salt, to.known = from.known;
    for (int t = 0; t < tracks_; ++t) {
      length(i, t) = length(s.index, t);
      for (int n = 0; n < used(length(i, t)); ++n) static_cast<void>(pages_.hold(row(i, t)[n] = row(s.index, t)[n]));
    }
    out = {i, to.generation};
    return {};
  }

  //! Makes room for n tokens at the end of every track and says where they go. Where the last page is partly filled and
  //! shared, it is replaced by a fresh one, and the copy is added to `moves`.
  //! @param tokens  their ids, for publish(); null: this sequence publishes nothing from here on
  status append(sequence s, int n, slot_list slots, page_moves& moves, const std::int32_t* tokens = nullptr) {
    if (const status bad = check_resident(s); !bad) return bad;
    if (n < 0) return {errc::bad_shape, "append: the number of tokens must not be negative", n, 0};
    if (n == 0) return {};
    if (slots.out == nullptr) return {errc::null_pointer, "append: slots.out is null: it needs an entry for each new token and track", 0, static_cast<long long>(n) * tracks_};
    if (tracks_ > 1 && slots.track_stride < n) return {errc::bad_shape, "append: slots.track_stride must be at least the number of new tokens", slots.track_stride, n};
    record& r = records_[s.index];
    if (n > 2147483647 - r.positions) return {errc::out_of_reach, "append: a sequence has fewer than 2^31 positions", static_cast<long long>(r.positions) + n, 2147483647};
    int fresh = 0, copies = 0;
    for (int t = 0; t < tracks_; ++t) {
      const int have = length(s.index, t);
      if (n > limits_.tokens - have) return {errc::bad_shape, "append: the sequence would hold more tokens than limits.tokens", static_cast<long long>(have) + n, limits_.tokens};
      fresh += used(have + n) - used(have);
      copies += shares_last(s.index, t);
    }
    if (const status bad = room_for_pages(fresh + static_cast<long long>(copies), "append: the pool has too few free pages: close or swap out a sequence"); !bad) return bad;
    if (const status bad = check_moves(s.index, copies, moves); !bad) return bad;

    for (int t = 0; t < tracks_; ++t)         // copies first: check_moves has looked at the pages they get
      if (shares_last(s.index, t)) copy_last(s.index, t, moves);
    for (int t = 0; t < tracks_; ++t) {
      const int have = length(s.index, t);
      if (limits_.prefixes && have % shape_.page != 0) index_.withdraw(row(s.index, t)[have / shape_.page]);   // it will say something else
      for (int p = used(have); p < used(have + n); ++p) row(s.index, t)[p] = take_page();
      for (int i = 0; i < n; ++i) {
        const int page = row(s.index, t)[(have + i) / shape_.page], slot = (have + i) % shape_.page;
        slots.out[t * slots.track_stride + i] = page * shape_.page + slot;
        if (r.known && tokens != nullptr) index_.tokens(page)[slot] = tokens[i];
      }
      length(s.index, t) = have + n;
    }
    r.positions += n;
    r.known = r.known && tokens != nullptr;
    return {};
  }

  //! Fresh pages, copies included, that append(s, n) takes; -1 where it would be refused.
  int pages_for(sequence s, int n) const {
    if (!check_resident(s) || n < 0) return -1;
    long long sum = 0;
    for (int t = 0; t < tracks_ && n > 0; ++t) {
      const int have = length(s.index, t);
      if (n > limits_.tokens - have) return -1;
      sum += used(have + n) - used(have) + shares_last(s.index, t);
    }
    return sum > 2147483647 ? -1 : int(sum);
  }

  //! Forgets the last tokens, so that `positions` remain: a rejected draft, say. Tokens from before the last rewrite cannot
  //! be told apart any more and stay.
  status truncate(sequence s, int positions) {
    if (const status bad = check_resident(s); !bad) return bad;
    record& r = records_[s.index];
    if (positions > r.positions) return {errc::bad_shape, "truncate: the sequence has fewer positions", positions, r.positions};
    if (positions < r.floor || positions < 0)
      return {errc::bad_shape, "truncate: the tokens before the last rewrite cannot be cut: positions must not be below it", positions, r.floor};
    const int less = r.positions - positions;
    for (int t = 0; t < tracks_; ++t) shorten(s.index, t, length(s.index, t) - less);
    r.positions = positions;
    if (r.published > positions / shape_.page) r.published = positions / shape_.page;
    return {};
  }

  //! Gives every track pages of its own for lengths[track] tokens, at most as many as it has, and writes the pages it had, track
  //! after track, to `old`: survivors of an eviction are gathered from those into these, before the next append of anyone.
  //! Needs free pages for all new lengths while the old pages are still held. Positions go on counting.
  //! @param old       pages_of(s) entries
  status rewrite(sequence s, const int* lengths, int* old, int capacity) {
    if (const status bad = check_resident(s); !bad) return bad;
    if (lengths == nullptr) return {errc::null_pointer, "rewrite: lengths is null: it needs an entry for each track", 0, tracks_};
    long long fresh = 0;
    for (int t = 0; t < tracks_; ++t) {
      if (lengths[t] < 0) return {errc::bad_shape, "rewrite: a length must not be negative", lengths[t], 0};
      if (lengths[t] > length(s.index, t)) return {errc::bad_shape, "rewrite: a track cannot keep more tokens than it has", lengths[t], length(s.index, t)};
      fresh += used(lengths[t]);
    }
    if (const status bad = check_list(s.index, old, capacity); !bad) return bad;
    if (const status bad = room_for_pages(fresh, "rewrite: the pool has too few free pages for the survivors: close or swap out a sequence"); !bad) return bad;
    const int held = list_pages(s.index, old);
    for (int t = 0; t < tracks_; ++t) {
      length(s.index, t) = lengths[t];
      for (int p = 0; p < used(lengths[t]); ++p) row(s.index, t)[p] = take_page();
    }
    for (int i = held; i-- > 0;) drop_page(old[i]);
    record& r = records_[s.index];
    r.floor = r.positions, r.published = 0, r.known = false;
    return {};
  }

  // ---- prefixes

  //! Lets an empty sequence begin with the longest run of published pages that hold exactly these tokens, shared. `matched` is
  //! a multiple of the page; the rest is to be appended. Pass one token less than the prompt to keep one to compute.
  status match(sequence s, const std::int32_t* tokens, int n, int& matched) {
    matched = 0;
    if (const status bad = check_resident(s); !bad) return bad;
    record& r = records_[s.index];
    if (!limits_.prefixes) return {errc::bad_value, "match: the cache was attached without limits.prefixes", 0, 0};
    if (n < 0) return {errc::bad_shape, "match: the number of tokens must not be negative", n, 0};
    if (n > 0 && tokens == nullptr) return {errc::null_pointer, "match: tokens is null", 0, n};
    if (r.positions != 0 || r.floor != 0 || !r.known) return {errc::bad_value, "match: the sequence must be new: it has had tokens", r.positions, 0};
    const int most = n < limits_.tokens ? n : limits_.tokens;
    for (int block = 0; most - matched >= shape_.page; ++block) {
      const std::int32_t* ids = tokens + matched;
      bool all = true;
      for (int t = 0; all && t < tracks_; ++t) all = (row(s.index, t)[block] = index_.find(prefix(s.index, t, block), ids)) != index_.none;
      if (!all) break;
      for (int t = 0; t < tracks_; ++t) {
        static_cast<void>(pages_.hold(row(s.index, t)[block]));
        length(s.index, t) += shape_.page;
      }
      matched += shape_.page;
      r.positions = matched, r.published = block + 1;
    }
    return {};
  }

  //! The rows of all tokens so far are written: full pages can be matched from now on. Costs O(new full pages).
  status publish(sequence s) {
    if (const status bad = check_resident(s); !bad) return bad;
    if (!limits_.prefixes) return {errc::bad_value, "publish: the cache was attached without limits.prefixes", 0, 0};
    record& r = records_[s.index];
    for (; r.known && r.published < r.positions / shape_.page; ++r.published)
      for (int t = 0; t < tracks_; ++t) {
        const int page = row(s.index, t)[r.published];
        if (index_.prefix_of(page) == 0) index_.publish(prefix(s.index, t, r.published), page);   // a fork may have done so
      }
    return {};
  }

  // ---- swapping

  //! Writes the sequence's pages to `list`, track after track, and gives them up; it keeps its lengths and is `swapped` until
  //! swap_in. Copy the pages (cache::copy_pages) into a buffer of bytes(s) before the next call that takes pages.
  //! @param list  pages_of(s) entries
  status swap_out(sequence s, int* list, int capacity) {
    if (const status bad = check_resident(s); !bad) return bad;
    if (const status bad = check_list(s.index, list, capacity); !bad) return bad;
    list_pages(s.index, list);
    drop_all(s.index);
    record& r = records_[s.index];
    r.state = swapped, r.published = 0, r.known = false;
    return {};
  }

  //! Takes fresh pages, writes them to `list` in swap_out's order and holds them. The sequence shares and publishes nothing.
  status swap_in(sequence s, int* list, int capacity) {
    if (const status bad = check_open(s); !bad) return bad;
    record& r = records_[s.index];
    if (r.state != swapped) return {errc::bad_value, "swap_in: the sequence is not swapped out", 0, 0};
    if (const status bad = check_list(s.index, list, capacity); !bad) return bad;
    if (const status bad = room_for_pages(count_pages(s.index), "swap_in: the pool has too few free pages: close or swap out another sequence"); !bad) return bad;
    for (int t = 0; t < tracks_; ++t)
      for (int p = 0; p < used(length(s.index, t)); ++p) row(s.index, t)[p] = take_page();
    list_pages(s.index, list);
    r.state = resident;
    return {};
  }

  // ---- tables for kernels

  //! The widest row that these sequences need; -1 where one of them is refused.
  int width_for(const sequence* batch, int count) const {
    int width = 0;
    for (int b = 0; b < count; ++b) {
      if (!check_resident(batch[b])) return -1;
      for (int t = 0; t < tracks_; ++t)
        if (const int need = used(length(batch[b].index, t)); need > width) width = need;
    }
    return width;
  }
  //! What tables() writes for a batch: its ints() are what `out` needs.
  batch_tables tables_of(int count, int width) const { return {count, shape_.layer_tracks(), shape_.head_tracks(), width, shape_.page}; }

  //! Writes the tables and lengths of a batch in one piece: batch_tables says how it lies. A sequence may be named twice.
  //! @param width  entries in a row, at least width_for(batch, count); a fixed one keeps a captured graph valid
  status tables(const sequence* batch, int count, int width, int* out, long long out_ints) const {
    if (const status bad = check_batch(batch, count); !bad) return bad;
    if (width < 0) return {errc::bad_shape, "tables: the width must not be negative", width, 0};
    const batch_tables shape = tables_of(count, width);
    if (out_ints < shape.ints()) return {errc::bad_shape, "tables: out is smaller than tables_of(count, width).ints()", out_ints, shape.ints()};
    if (shape.ints() > 0 && out == nullptr) return {errc::null_pointer, "tables: out is null", 0, shape.ints()};
    if (const status bad = check_resident(batch, count); !bad) return bad;
    if (const int need = width_for(batch, count); need > width)
      return {errc::bad_shape, "tables: a sequence holds more pages than a row has entries: take a greater width", need, width};
    int* lengths = out + shape.rows() * width;
    for (int l = 0; l < shape.layers; ++l)
      for (int h = 0; h < shape.heads; ++h)
        for (int b = 0; b < count; ++b) {
          const int t = l * shape.heads + h, have = length(batch[b].index, t), live = used(have);
          int* to = out + ((static_cast<long long>(l) * count + b) * shape.heads + h) * width;
          for (int p = 0; p < live; ++p) to[p] = row(batch[b].index, t)[p];
          for (int p = live; p < width; ++p) to[p] = -1;
          lengths[(static_cast<long long>(l) * shape.heads + h) * count + b] = have;
        }
    return {};
  }
  //! The same at the least width, in an array that is resized for it (std::vector<int>); `lies` says how it lies. A refusal leaves both as they were.
  template <class Ints> status tables(const sequence* batch, int count, Ints& out, batch_tables& lies) const {
    if (const status bad = first_of([&] { return check_batch(batch, count); }, [&] { return check_resident(batch, count); }); !bad) return bad;
    lies = tables_of(count, width_for(batch, count));
    out.resize(std::size_t(lies.ints()));
    return tables(batch, count, lies.width, out.data(), lies.ints());
  }

  // ---- facts

  const pool_shape& shape() const { return shape_; }
  const paged_limits& limits() const { return limits_; }
  int open_sequences() const { return open_; }
  int free_pages() const { return pages_.free_pages(); }
  //! Pages that match() can find, free ones included.
  int published_pages() const { return limits_.prefixes ? index_.published() : 0; }
  //! Whether the handle names an open sequence, and whether its pages are in the pool.
  bool is_open(sequence s) const { return bool(check_open(s)); }
  bool is_resident(sequence s) const { return bool(check_resident(s)); }
  //! Tokens seen so far, evicted ones included: the position of the next one. 0 for a refused handle, as in all below.
  int positions(sequence s) const { return is_open(s) ? records_[s.index].positions : 0; }
  //! Tokens kept in a track.
  int tokens(sequence s, int track = 0) const { return is_open(s) && track >= 0 && track < tracks_ ? length(s.index, track) : 0; }
  //! Pages in all tracks, shared ones counted in full; of a swapped sequence, those it needs.
  int pages_of(sequence s) const { return is_open(s) ? int(count_pages(s.index)) : 0; }
  //! What pages_of(s) hold, all layers, and what a swapped sequence's buffer holds.
  long long bytes(sequence s) const { return pages_of(s) * page_bytes(Storage::format, shape_); }
  //! What the pages that anyone holds occupy.
  long long bytes_in_use() const { return (pages_.pages() - pages_.free_pages()) * page_bytes(Storage::format, shape_); }
  int holders(int page) const { return page >= 0 && page < pages_.pages() ? pages_.holders(page) : 0; }

  //! Walks everything: each page has as many holders as there are entries that name it, free pages none, and lengths, queues and
  //! prefixes agree. For tests, and for a program that has lost faith. O(sequences * tracks * width + pages).
  status audit() const {
    if (records_ == nullptr) return not_attached();
    if (const status bad = pages_.audit(); !bad) return bad;
    if (limits_.prefixes)
      if (const status bad = index_.audit(shape_.pages); !bad) return bad;
    for (int p = 0; p < shape_.pages; ++p) tally_[p] = 0;
    int live = 0;
    for (int i = 0; i < limits_.sequences; ++i) {
      const record& r = records_[i];
      if (r.state == closed) continue;
      ++live;
      if (r.floor > r.positions || r.published > r.positions / shape_.page) return {errc::bad_value, "paged: a sequence counts its tokens wrongly", r.floor, r.positions};
      for (int t = 0; t < tracks_; ++t) {
        if (length(i, t) < 0 || length(i, t) > limits_.tokens || length(i, t) > r.positions) return {errc::bad_value, "paged: a track's length is impossible", length(i, t), r.positions};
        for (int n = 0; r.state == resident && n < used(length(i, t)); ++n) {
          const int p = row(i, t)[n];
          if (p < 0 || p >= shape_.pages) return {errc::bad_value, "paged: a table names a page outside the pool", p, shape_.pages};
          ++tally_[p];
          if (n < r.published && index_.prefix_of(p) == 0) return {errc::bad_value, "paged: a page that counts as published is not", p, n};
        }
      }
    }
    if (live != open_) return {errc::bad_value, "paged: other sequences are open than are counted", live, open_};
    for (int p = 0; p < shape_.pages; ++p)
      if (tally_[p] != pages_.holders(p)) return {errc::bad_value, "paged: a page has other holders than tables that name it: a leak, or a page freed twice", pages_.holders(p), tally_[p]};
    int places = 0;
    for (int i = first_closed_; i != none; i = records_[i].next_closed, ++places)
      if (i < 0 || i >= limits_.sequences || records_[i].state != closed || places > limits_.sequences) return {errc::bad_value, "paged: the list of closed sequences is broken", i, places};
    if (places + live != limits_.sequences) return {errc::bad_value, "paged: a sequence is neither open nor closed", places + live, limits_.sequences};
    return {};
  }

private:
  static constexpr int none = -1;
  enum life : std::uint8_t { closed, resident, swapped };
  struct record {
    std::uint64_t generation = 0;
    int positions = 0;               // tokens seen
    int floor = 0;                   // positions at the last rewrite
    int published = 0;               // full pages at the beginning whose prefix has a number
    int next_closed = none;
    std::uint32_t salt = 0;
    life state = closed;
    bool known = false;              // the ids of all tokens so far are beside their pages
  };
  struct parts { workspace allocator, index; record* records; int* lengths; int* table; int* tally; };

  static constexpr int width_of(const pool_shape& s, const paged_limits& l) { return (l.tokens + s.page - 1) / s.page; }
  static parts lay_out(carver& carve, const pool_shape& s, const paged_limits& l) {
    parts p{};
    const std::size_t rows = std::size_t(l.sequences) * s.tracks(), of_pages = page_allocator::bytes(s.pages);
    const std::size_t of_index = l.prefixes ? prefix_index<Hash>::bytes(s.pages, s.page) : 0;
    p.allocator.data = carve.take<std::byte>(of_pages), p.allocator.size = of_pages;
    p.index.data = carve.take<std::byte>(of_index), p.index.size = of_index;
    p.records = carve.take<record>(std::size_t(l.sequences));
    p.lengths = carve.take<int>(rows);
    p.tally = carve.take<int>(std::size_t(s.pages));
    p.table = carve.take<int>(rows * width_of(s, l));
    return p;
  }

  int used(int tokens) const { return tokens / shape_.page + (tokens % shape_.page != 0); }
  int& length(int i, int t) const { return lengths_[static_cast<long long>(i) * tracks_ + t]; }
  int* row(int i, int t) const { return table_ + (static_cast<long long>(i) * tracks_ + t) * width_; }

  static status not_attached() { return {errc::not_initialised, "the cache has no memory yet: call attach", 0, 0}; }
  status check_open(sequence s) const {
    if (records_ == nullptr) return not_attached();
    if (s.index < 0 || s.index >= limits_.sequences) return {errc::bad_value, "sequence: no such sequence: open or fork one", s.index, limits_.sequences};
    const record& r = records_[s.index];
    if (r.state == closed || r.generation != s.generation) return {errc::bad_value, "sequence: it was closed: handles end with close", s.index, 0};
    return {};
  }
  status check_resident(sequence s) const {
    if (const status bad = check_open(s); !bad) return bad;
    if (records_[s.index].state != resident) return {errc::bad_value, "sequence: it is swapped out: swap it in first", s.index, 0};
    return {};
  }
  status check_batch(const sequence* batch, int count) const {
    if (count < 0) return {errc::bad_shape, "tables: the number of sequences must not be negative", count, 0};
    if (count > 0 && batch == nullptr) return {errc::null_pointer, "tables: batch is null", 0, count};
    return {};
  }
  status check_resident(const sequence* batch, int count) const {
    for (int b = 0; b < count; ++b)
      if (const status bad = check_resident(batch[b]); !bad) return bad;
    return {};
  }
  status room_for_one() const {
    if (records_ == nullptr) return not_attached();
    if (first_closed_ == none) return {errc::exhausted, "limits.sequences are open: close one", open_, limits_.sequences};
    return {};
  }
  status room_for_pages(long long need, const char* what) const {
    return need <= pages_.free_pages() ? status{} : status{errc::exhausted, what, pages_.free_pages(), need};
  }
  status check_list(int i, const int* list, int capacity) const {
    const long long need = count_pages(i);
    if (need > 0 && list == nullptr) return {errc::null_pointer, "the list of pages is null: it needs pages_of(sequence) entries", 0, need};
    if (capacity < need) return {errc::bad_shape, "the list of pages needs pages_of(sequence) entries", capacity, need};
    return {};
  }

  int take_record() {
    const int i = first_closed_;
    first_closed_ = records_[i].next_closed;
    const std::uint64_t generation = records_[i].generation;
    records_[i] = {};
    records_[i].generation = generation;
    records_[i].state = resident;
    ++open_;
    return i;
  }

  int take_page() {
    const int page = pages_.take();
    if (limits_.prefixes) index_.withdraw(page);
    return page;
  }
  void drop_page(int page) { static_cast<void>(pages_.drop(page, limits_.prefixes && index_.published(page))); }
  // The last pages first: they enter the queue first and are overwritten first, since without what is before them they are lost.
  void shorten(int i, int t, int tokens) {
    for (int p = used(length(i, t)); p-- > used(tokens);) drop_page(row(i, t)[p]);
    length(i, t) = tokens;
  }
  void drop_all(int i) {
    for (int t = tracks_; t-- > 0;)
      for (int p = used(length(i, t)); p-- > 0;) drop_page(row(i, t)[p]);
  }
  long long count_pages(int i) const {
    long long sum = 0;
    for (int t = 0; t < tracks_; ++t) sum += used(length(i, t));
    return sum;
  }
  int list_pages(int i, int* list) const {
    int n = 0;
    for (int t = 0; t < tracks_; ++t)
      for (int p = 0; p < used(length(i, t)); ++p) list[n++] = row(i, t)[p];
    return n;
  }

  // ---- copy on write
  bool shares_last(int i, int t) const {
    const int have = length(i, t);
    return have % shape_.page != 0 && pages_.holders(row(i, t)[have / shape_.page]) > 1;
  }
  // A copy must neither read nor write what another copy of the list writes, nor write what another reads.
  status check_moves(int i, int copies, const page_moves& moves) const {
    if (copies == 0) return {};
    if (moves.source == nullptr || moves.target == nullptr) return {errc::null_pointer, "append: moves has no memory, but a shared page is to be copied", 0, copies};
    if (moves.count < 0 || moves.capacity - moves.count < copies)
      return {errc::bad_shape, "append: moves is full: run its copies and set count to 0", moves.capacity - moves.count, copies};
    const auto written = [&](int page) {
      for (int m = 0; m < moves.count; ++m)
        if (moves.target[m] == page) return true;
      return false;
    };
    const auto read = [&](int page) {
      for (int m = 0; m < moves.count; ++m)
        if (moves.source[m] == page) return true;
      return false;
    };
    bool clash = false;
    for (int t = 0; t < tracks_; ++t) clash = clash || (shares_last(i, t) && written(row(i, t)[length(i, t) / shape_.page]));
    for (int n = 0, page = pages_.next_free(); n < copies; ++n, page = pages_.next_free(page)) clash = clash || written(page) || read(page);
    if (clash) return {errc::bad_value, "append: moves holds a copy that must come first: run its copies and set count to 0", moves.count, 0};
    return {};
  }
  void copy_last(int i, int t, page_moves& moves) {
    const int at = length(i, t) / shape_.page, filled = length(i, t) % shape_.page, source = row(i, t)[at], target = take_page();
    if (records_[i].known)
      for (int n = 0; n < filled; ++n) index_.tokens(target)[n] = index_.tokens(source)[n];
    row(i, t)[at] = target;
    drop_page(source);
    moves.source[moves.count] = source, moves.target[moves.count] = target;
    ++moves.count;
  }

  // The number of what comes before a block of tokens. Roots have bit 63, numbers of pages never reach it.
  std::uint64_t prefix(int i, int t, int block) const {
    if (block > 0) return index_.prefix_of(row(i, t)[block - 1]);
    return std::uint64_t{1} << 63 | std::uint64_t{records_[i].salt} << 17 | std::uint64_t(t);
  }

  pool_shape shape_{};
  paged_limits limits_{};
  page_allocator pages_;
  prefix_index<Hash> index_;
  record* records_ = nullptr;
  int* lengths_ = nullptr;
  int* table_ = nullptr;
  int* tally_ = nullptr;
  int width_ = 0, tracks_ = 0, open_ = 0, first_closed_ = none;
  std::uint64_t last_generation_ = 0;   // never reset: a handle of before an attach stays refused
};

}  // namespace smalti::inline SMALTI_CODE::cache
