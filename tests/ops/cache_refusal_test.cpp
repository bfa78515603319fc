// What a paged cache refuses, and the rules that random histories would meet too rarely: copies that depend on each other,
// pages freed twice, published pages that come back, handles of another life.
#include <catch2/catch.hpp>
#include <limits>
#include <string>
#include <vector>
#include <smalti/ops/cache/paged.hpp>
#include "support/arrays.hpp"

using namespace smalti;
using cache::page_moves;
using cache::paged_limits;
using cache::pool_shape;
using cache::sequence;

namespace {

using bf16_cache = cache::paged<policy::kv_plain<bf16>>;

pool_shape small() { return {.pages = 6, .page = 4, .kv_heads = 2, .key_dim = 16, .value_dim = 16}; }

template <class Cache = bf16_cache> struct world {
  test::array<std::byte> metadata;
  Cache cache;
  std::vector<int> source, target, slots;
  page_moves moves;
  explicit world(const pool_shape& s = small(), const paged_limits& l = {.sequences = 4, .tokens = 16, .prefixes = true})
      : metadata(Cache::metadata_bytes(s, l)), source(8), target(8), slots(1000), moves{source.data(), target.data(), 8, 0} {
    const status st = cache.attach(s, l, {metadata.data(), metadata.size()});
    CAPTURE(st.what);
    REQUIRE(st.code == errc::ok);
  }
  sequence open(std::uint32_t salt = 0) {
    sequence s;
    REQUIRE(cache.open(s, salt).code == errc::ok);
    return s;
  }
  sequence fork(sequence from) {
    sequence s;
    REQUIRE(cache.fork(from, s).code == errc::ok);
    return s;
  }
  status append(sequence s, int n, const std::int32_t* tokens = nullptr) { return cache.append(s, n, {slots.data(), 100}, moves, tokens); }
  void appended(sequence s, int n, const std::int32_t* tokens = nullptr) {
    const status st = append(s, n, tokens);
    CAPTURE(st.what);
    REQUIRE(st.code == errc::ok);
  }
  int page_of(sequence s, int n) {
    std::vector<int> out(100);
    REQUIRE(cache.tables(&s, 1, 10, out.data(), 100).code == errc::ok);
    return out[std::size_t(n)];
  }
};

void refused(const status& st, errc code, const char* what, long long got, long long need) {
  CAPTURE(st.what, st.got, st.need);
  CHECK(st.code == code);
  CHECK(std::string(st.what) == what);
  CHECK(st.got == got);
  CHECK(st.need == need);
}

}  // namespace

TEST_CASE("a page allocator gives each page once and takes it back once", "[ops][cache]") {
  test::array<std::byte> memory(cache::page_allocator::bytes(3));
  cache::page_allocator a;
  refused(a.attach(0, {memory.data(), memory.size()}), errc::bad_shape, "pages must be at least 1: it counts the pages of the pool", 0, 1);
  CHECK(a.attach(3, {memory.data(), memory.size() - 1}).code == errc::workspace_too_small);
  CHECK(a.attach(3, {memory.data() + 1, memory.size()}).code == errc::misaligned);
  REQUIRE(a.attach(3, {memory.data(), memory.size()}).code == errc::ok);
  CHECK(a.take() == 0);
  CHECK(a.next_free() == 1);
  CHECK(a.next_free(1) == 2);
  CHECK(a.next_free(2) == cache::page_allocator::none);
  CHECK(a.take() == 1);
  CHECK(a.take() == 2);
  CHECK(a.take() == cache::page_allocator::none);
  CHECK(a.free_pages() == 0);
  REQUIRE(a.audit().code == errc::ok);
  REQUIRE(a.hold(1).code == errc::ok);
  CHECK(a.holders(1) == 2);
  REQUIRE(a.drop(1).code == errc::ok);
  CHECK(a.free_pages() == 0);
  REQUIRE(a.drop(1, true).code == errc::ok);
  refused(a.drop(1), errc::bad_value, "page: nobody holds it: it was freed before", 1, 0);
  refused(a.drop(3), errc::bad_value, "page: not below the number of pages in the pool", 3, 3);
  refused(a.hold(-1), errc::bad_value, "page: not below the number of pages in the pool", -1, 3);
  REQUIRE(a.drop(2, true).code == errc::ok);
  REQUIRE(a.drop(0).code == errc::ok);                // nobody can find it again: it is overwritten first
  CHECK(a.take() == 0);
  CHECK(a.take() == 1);
  REQUIRE(a.hold(2).code == errc::ok);                // revived
  CHECK(a.holders(2) == 1);
  CHECK(a.take() == cache::page_allocator::none);
  REQUIRE(a.audit().code == errc::ok);
  REQUIRE(memory.guarded());
}

TEST_CASE("a paged cache refuses shapes and limits by name", "[ops][cache]") {
  test::array<std::byte> metadata(1 << 16);
  bf16_cache c;
  const workspace memory{metadata.data(), metadata.size()};
  const paged_limits limits{.sequences = 4, .tokens = 16};
  const auto shape = [&](auto spoil) {
    pool_shape s = small();
    spoil(s);
    return c.attach(s, limits, memory);
  };
  refused(shape([](pool_shape& s) { s.pages = 0; }), errc::bad_shape, "pages must be at least 1: it counts the pages of the pool", 0, 1);
  refused(shape([](pool_shape& s) { s.page = -4; }), errc::bad_shape, "page must be at least 1: it counts the tokens of a page", -4, 1);
  refused(shape([](pool_shape& s) { s.kv_heads = 0; }), errc::bad_shape, "kv_heads must be at least 1", 0, 1);
  refused(shape([](pool_shape& s) { s.layers = 0; }), errc::bad_shape, "layers must be at least 1", 0, 1);
  refused(shape([](pool_shape& s) { s.key_dim = 0; }), errc::bad_shape, "key_dim must be at least 1: it counts the channels of a head's key", 0, 1);
  refused(shape([](pool_shape& s) { s.value_dim = -1; }), errc::bad_shape, "value_dim must not be negative; 0 stores no values", -1, 0);
  refused(shape([](pool_shape& s) { s.kv_heads = 1, s.page = 1, s.key_dim = 12; }), errc::bad_shape,
          "a page's keys, values and scales must each be a multiple of 16 bytes in every layer: take more tokens for a page", 24, 16);
  refused(shape([](pool_shape& s) { s.per_head = s.per_layer = true, s.kv_heads = 300, s.layers = 300; }), errc::out_of_reach,
          "tracks (kv_heads times layers, where both have pages of their own) must be at most 65536", 90000, 65536);
  refused(shape([](pool_shape& s) { s.pages = 1 << 28; }), errc::out_of_reach, "pages * page * heads of a page must be below 2^31: use several pools", 1 << 30, (1u << 31) / 2 - 1);
  refused(shape([](pool_shape& s) { s.page = 1 << 26; }), errc::out_of_reach, "a page's part in one layer must be below 2^31 bytes: take fewer tokens for a page", 1ll << 32, 2147483647);
  refused(c.attach(small(), {.sequences = 0, .tokens = 16}, memory), errc::bad_shape, "limits.sequences must be at least 1", 0, 1);
  refused(c.attach(small(), {.sequences = 1, .tokens = 0}, memory), errc::bad_shape, "limits.tokens must be at least 1: it counts the tokens that a sequence may hold", 0, 1);
  refused(c.attach(small(), {.sequences = 1, .tokens = 2147483647}, memory), errc::out_of_reach, "limits.tokens must be below 2^31 less a page", 2147483647, 2147483643);
  pool_shape many = small();
  many.per_head = true, many.kv_heads = 60000;
  refused(c.attach(many, {.sequences = 60000, .tokens = 1}, memory), errc::out_of_reach, "limits.sequences times the tracks must be below 2^31", 3600000000, 2147483647);
  const std::size_t need = bf16_cache::metadata_bytes(small(), limits);
  CHECK(c.attach(small(), limits, {metadata.data(), need - 1}).need == long(need));
  // Nothing was attached so far, and nothing works.
  sequence s{0, 1};
  refused(c.open(s), errc::not_initialised, "the cache has no memory yet: call attach", 0, 0);
  refused(c.close(s), errc::not_initialised, "the cache has no memory yet: call attach", 0, 0);
  refused(c.audit(), errc::not_initialised, "the cache has no memory yet: call attach", 0, 0);
  REQUIRE(c.attach(small(), limits, {metadata.data(), need}).code == errc::ok);
  REQUIRE(c.open(s).code == errc::ok);
  const sequence old = s;
  REQUIRE(c.attach(small(), limits, {metadata.data(), need}).code == errc::ok);
  refused(c.close(old), errc::bad_value, "sequence: it was closed: handles end with close", 0, 0);
  REQUIRE(c.open(s).code == errc::ok);
  refused(c.close(old), errc::bad_value, "sequence: it was closed: handles end with close", 0, 0);
  CHECK(c.close(s).code == errc::ok);
}

TEST_CASE("a paged cache refuses what no sequence can do", "[ops][cache]") {
  world<> w;
  auto& c = w.cache;
  const sequence a = w.open();
  w.appended(a, 6);
  int list[8] = {};
  int matched = 0;
  const std::int32_t ids[16] = {};
  refused(c.append(a, -1, {w.slots.data(), 100}, w.moves), errc::bad_shape, "append: the number of tokens must not be negative", -1, 0);
  refused(c.append(a, 2, {}, w.moves), errc::null_pointer, "append: slots.out is null: it needs an entry for each new token and track", 0, 2);
  refused(w.append(a, 11), errc::bad_shape, "append: the sequence would hold more tokens than limits.tokens", 17, 16);
  refused(w.append(a, 2147483647), errc::out_of_reach, "append: a sequence has fewer than 2^31 positions", 2147483653, 2147483647);
  refused(c.truncate(a, 7), errc::bad_shape, "truncate: the sequence has fewer positions", 7, 6);
  refused(c.truncate(a, -1), errc::bad_shape, "truncate: the tokens before the last rewrite cannot be cut: positions must not be below it", -1, 0);
  refused(c.rewrite(a, nullptr, list, 8), errc::null_pointer, "rewrite: lengths is null: it needs an entry for each track", 0, 1);
  int length = 7;
  refused(c.rewrite(a, &length, list, 8), errc::bad_shape, "rewrite: a track cannot keep more tokens than it has", 7, 6);
  length = -1;
  refused(c.rewrite(a, &length, list, 8), errc::bad_shape, "rewrite: a length must not be negative", -1, 0);
  length = 5;
  refused(c.rewrite(a, &length, nullptr, 8), errc::null_pointer, "the list of pages is null: it needs pages_of(sequence) entries", 0, 2);
  refused(c.rewrite(a, &length, list, 1), errc::bad_shape, "the list of pages needs pages_of(sequence) entries", 1, 2);
  refused(c.match(a, ids, 4, matched), errc::bad_value, "match: the sequence must be new: it has had tokens", 6, 0);
  refused(c.swap_in(a, list, 8), errc::bad_value, "swap_in: the sequence is not swapped out", 0, 0);
  const sequence b = w.open();
  refused(c.match(b, nullptr, 4, matched), errc::null_pointer, "match: tokens is null", 0, 4);
  refused(c.match(b, ids, -4, matched), errc::bad_shape, "match: the number of tokens must not be negative", -4, 0);
  refused(w.append(b, 20), errc::bad_shape, "append: the sequence would hold more tokens than limits.tokens", 20, 16);
  w.appended(b, 13);
  refused(w.append(a, 3), errc::exhausted, "append: the pool has too few free pages: close or swap out a sequence", 0, 1);
  refused(c.rewrite(a, &length, list, 8), errc::exhausted, "rewrite: the pool has too few free pages for the survivors: close or swap out a sequence", 0, 2);
  length = 0;
  REQUIRE(c.rewrite(a, &length, list, 8).code == errc::ok);           // no survivors need no pages
  CHECK(c.positions(a) == 6);
  CHECK(c.tokens(a) == 0);
  CHECK(c.pages_of(a) == 0);
  CHECK(c.free_pages() == 2);
  refused(c.truncate(a, 5), errc::bad_shape, "truncate: the tokens before the last rewrite cannot be cut: positions must not be below it", 5, 6);
  refused(c.match(a, ids, 4, matched), errc::bad_value, "match: the sequence must be new: it has had tokens", 6, 0);
  REQUIRE(c.swap_out(b, list, 4).code == errc::ok);
  for (const status& st : {w.append(b, 1), c.truncate(b, 0), c.swap_out(b, list, 8), c.publish(b)}) refused(st, errc::bad_value, "sequence: it is swapped out: swap it in first", 1, 0);
  sequence other;
  refused(c.fork(b, other), errc::bad_value, "sequence: it is swapped out: swap it in first", 1, 0);
  refused(c.tables(&b, 1, 9, list, 8), errc::bad_shape, "tables: out is smaller than tables_of(count, width).ints()", 8, 10);
  std::vector<int> out(100);
  refused(c.tables(&b, 1, 9, out.data(), 100), errc::bad_value, "sequence: it is swapped out: swap it in first", 1, 0);
  refused(c.tables(nullptr, 1, 9, out.data(), 100), errc::null_pointer, "tables: batch is null", 0, 1);
  refused(c.tables(&a, 1, 9, nullptr, 100), errc::null_pointer, "tables: out is null", 0, 10);
  refused(c.tables(&a, -1, 9, out.data(), 100), errc::bad_shape, "tables: the number of sequences must not be negative", -1, 0);
  refused(c.tables(&a, 1, -1, out.data(), 100), errc::bad_shape, "tables: the width must not be negative", -1, 0);
  w.appended(a, 12);
  refused(c.tables(&a, 1, 2, out.data(), 100), errc::bad_shape, "tables: a sequence holds more pages than a row has entries: take a greater width", 3, 2);
  refused(c.swap_in(b, list, 8), errc::exhausted, "swap_in: the pool has too few free pages: close or swap out another sequence", 3, 4);
  refused(c.swap_in(b, list, 3), errc::bad_shape, "the list of pages needs pages_of(sequence) entries", 3, 4);
  sequence more;
  REQUIRE(c.open(more).code == errc::ok);
  REQUIRE(c.open(more).code == errc::ok);
  refused(c.open(more), errc::exhausted, "limits.sequences are open: close one", 4, 4);
  refused(c.fork(a, more), errc::exhausted, "limits.sequences are open: close one", 4, 4);
  refused(c.close({4, 1}), errc::bad_value, "sequence: no such sequence: open or fork one", 4, 4);
  refused(c.close({}), errc::bad_value, "sequence: no such sequence: open or fork one", -1, 4);
  REQUIRE(c.close(b).code == errc::ok);                               // a swapped sequence holds nothing
  CHECK(c.free_pages() == 3);
  REQUIRE(c.audit().code == errc::ok);

  world<> plain(small(), {.sequences = 2, .tokens = 16});
  const sequence p = plain.open();
  refused(plain.cache.match(p, ids, 4, matched), errc::bad_value, "match: the cache was attached without limits.prefixes", 0, 0);
  refused(plain.cache.publish(p), errc::bad_value, "publish: the cache was attached without limits.prefixes", 0, 0);
  pool_shape heads = small();
  heads.per_head = true;
  world<> ragged(heads);
  const sequence r = ragged.open();
  refused(ragged.cache.append(r, 3, {ragged.slots.data(), 2}, ragged.moves), errc::bad_shape, "append: slots.track_stride must be at least the number of new tokens", 2, 3);
}

TEST_CASE("the copies of one list are independent", "[ops][cache]") {
  world<> w;
  auto& c = w.cache;
  const char* first = "append: moves holds a copy that must come first: run its copies and set count to 0";
  const sequence a = w.open();
  w.appended(a, 6);                                                   // pages 0 and 1, the second half full
  sequence b = w.fork(a);
  page_moves none{};
  refused(c.append(b, 1, {w.slots.data(), 1}, none), errc::null_pointer, "append: moves has no memory, but a shared page is to be copied", 0, 1);
  page_moves full{w.source.data(), w.target.data(), 3, 3};
  refused(c.append(b, 1, {w.slots.data(), 1}, full), errc::bad_shape, "append: moves is full: run its copies and set count to 0", 0, 1);
  w.appended(b, 1);                                                   // 1 is copied to 2
  REQUIRE(w.moves.count == 1);
  CHECK(w.source[0] == 1);
  CHECK(w.target[0] == 2);
  CHECK(w.slots[0] == 2 * 4 + 2);
  SECTION("a copy of a copy") {
    const sequence d = w.fork(b);
    refused(w.append(d, 1), errc::bad_value, first, 1, 0);
    w.moves.count = 0;
    w.appended(d, 1);
    CHECK(w.source[0] == 2);
  }
  SECTION("a copy into a page that another copy reads") {
    const sequence d = w.open(), e = (w.appended(d, 3), w.fork(d));  // page 3
    REQUIRE(c.close(a).code == errc::ok);                             // frees 1, which is overwritten first
    refused(w.append(e, 1), errc::bad_value, first, 1, 0);
    CHECK(w.moves.count == 1);
    w.moves.count = 0;
    w.appended(e, 1);
    CHECK(w.target[0] == 1);
  }
  SECTION("a copy into a page that another copy writes") {
    const sequence d = w.open(), e = (w.appended(d, 3), w.fork(d));
    REQUIRE(c.close(b).code == errc::ok);                             // frees 2
    refused(w.append(e, 1), errc::bad_value, first, 1, 0);
    w.moves.count = 0;
    w.appended(e, 1);
    CHECK(w.target[0] == 2);
  }
  SECTION("the last holder writes in place") {
    w.appended(a, 1);
    CHECK(w.moves.count == 1);
    CHECK(w.slots[0] == 1 * 4 + 2);
  }
  REQUIRE(c.audit().code == errc::ok);
}

TEST_CASE("published pages are found by their tokens and what goes before them", "[ops][cache]") {
  world<> w;
  auto& c = w.cache;
  const std::int32_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  int matched = -1;
  const sequence a = w.open();
  w.appended(a, 9, ids);
  sequence b = w.open();
  REQUIRE(c.match(b, ids, 9, matched).code == errc::ok);
  CHECK(matched == 0);                                                // rows that are not written are not shared
  REQUIRE(c.publish(a).code == errc::ok);
  CHECK(c.published_pages() == 2);
  REQUIRE(c.match(b, ids, 7, matched).code == errc::ok);
  CHECK(matched == 4);
  REQUIRE(c.close(b).code == errc::ok);
  b = w.open();
  REQUIRE(c.match(b, ids, 9, matched).code == errc::ok);
  CHECK(matched == 8);
  CHECK(c.holders(w.page_of(b, 1)) == 2);
  CHECK(w.page_of(b, 1) == w.page_of(a, 1));
  CHECK(c.free_pages() == 3);
  SECTION("other beginnings are other pages") {
    const sequence d = w.open(1);                                     // of another salt
    REQUIRE(c.match(d, ids, 9, matched).code == errc::ok);
    CHECK(matched == 0);
    REQUIRE(c.close(d).code == errc::ok);
    const std::int32_t second[] = {5, 6, 7, 8, 1, 2, 3, 4};           // the second page's tokens, at the beginning
    const sequence e = w.open();
    REQUIRE(c.match(e, second, 8, matched).code == errc::ok);
    CHECK(matched == 0);
  }
  SECTION("free pages come back until they are overwritten") {
    REQUIRE(c.close(a).code == errc::ok);
    REQUIRE(c.close(b).code == errc::ok);
    CHECK(c.free_pages() == 6);
    CHECK(c.published_pages() == 2);
    const sequence d = w.open();
    w.appended(d, 16);                                                // the four pages of nobody
    CHECK(c.published_pages() == 2);
    b = w.open();
    REQUIRE(c.match(b, ids, 9, matched).code == errc::ok);
    CHECK(matched == 8);
    CHECK(c.free_pages() == 0);
    REQUIRE(c.close(b).code == errc::ok);
    const sequence e = w.open();
    w.appended(e, 1);                                                 // the end of a prefix goes first
    CHECK(c.published_pages() == 1);
    b = w.open();
    REQUIRE(c.match(b, ids, 9, matched).code == errc::ok);
    CHECK(matched == 4);
  }
  SECTION("a published page that is written again is found no more") {
    REQUIRE(c.close(a).code == errc::ok);
    REQUIRE(c.truncate(b, 6).code == errc::ok);
    const std::int32_t other[] = {0, 0, 0};
    w.appended(b, 3, other);
    CHECK(c.published_pages() == 1);
    REQUIRE(c.publish(b).code == errc::ok);
    CHECK(c.published_pages() == 2);
    const sequence d = w.open();
    REQUIRE(c.match(d, ids, 9, matched).code == errc::ok);
    CHECK(matched == 4);
    REQUIRE(c.close(d).code == errc::ok);
    const std::int32_t now[] = {1, 2, 3, 4, 5, 6, 0, 0};
    const sequence e = w.open();
    REQUIRE(c.match(e, now, 8, matched).code == errc::ok);
    CHECK(matched == 8);
  }
  SECTION("a copy on write knows its tokens") {
    const sequence d = w.fork(a);                                     // shares the page of token 9
    const std::int32_t rest[] = {10, 11, 12};
    w.appended(d, 3, rest);
    CHECK(w.moves.count == 1);
    REQUIRE(c.publish(d).code == errc::ok);
    const std::int32_t all[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    const sequence e = w.open();
    REQUIRE(c.match(e, all, 12, matched).code == errc::ok);
    CHECK(matched == 12);
    CHECK(w.page_of(e, 2) == w.page_of(d, 2));
  }
  SECTION("a sequence of unknown tokens publishes nothing") {
    w.appended(a, 3);
    REQUIRE(c.publish(a).code == errc::ok);
    CHECK(c.published_pages() == 2);
  }
  REQUIRE(c.audit().code == errc::ok);
}

TEST_CASE("two sequences of equal tokens that were filled side by side keep their own pages", "[ops][cache]") {
  world<> w;
  auto& c = w.cache;
  const std::int32_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8};
  const sequence a = w.open(), b = w.open();
  w.appended(a, 4, ids);
  w.appended(b, 8, ids);
  REQUIRE(c.publish(a).code == errc::ok);
  REQUIRE(c.publish(b).code == errc::ok);                             // its first page is a's twin, its second is new
  CHECK(c.published_pages() == 2);
  const sequence d = w.open();
  int matched = 0;
  REQUIRE(c.match(d, ids, 8, matched).code == errc::ok);
  CHECK(matched == 8);
  CHECK(w.page_of(d, 0) == w.page_of(a, 0));
  CHECK(w.page_of(d, 1) == w.page_of(b, 1));
  REQUIRE(c.audit().code == errc::ok);
}

TEST_CASE("tables of a batch reach beyond 32 bits", "[ops][cache]") {
  const cache::batch_tables t{.batch = 1 << 15, .layers = 64, .heads = 8, .width = 4096, .page = 16};
  CHECK(t.ints() == (1ll << 24) * 4097);
  const pages last = t.at(nullptr, 63);
  CHECK(reinterpret_cast<std::intptr_t>(last.table) == 63ll * (1 << 18) * 4096 * 4);
  CHECK(reinterpret_cast<std::intptr_t>(last.length) == ((1ll << 24) * 4096 + 63ll * (1 << 18)) * 4);
  CHECK(last.row_stride == 8 * 4096);
  CHECK(last.head_stride == 4096);
  CHECK(last.length_head_stride == 1 << 15);
  const cache::batch_tables shared{.batch = 3, .width = 5, .page = 4};
  CHECK(shared.at(nullptr, 7).table == nullptr);                      // all layers share it
  CHECK(shared.at(nullptr).head_stride == 0);
  CHECK(shared.at(nullptr).length_head_stride == 0);
}
