// cache::paged against an oracle in which sequences own all they hold: random histories, every answer checked, every page
// accounted for. One number stands for a token's rows, so that histories are long.
#include <catch2/catch.hpp>
#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>
#include <smalti/ops/cache/paged.hpp>
#include "reference/paged.hpp"
#include "support/arrays.hpp"

using namespace smalti;
using cache::paged_limits;
using cache::pool_shape;
using cache::sequence;

namespace {

using storage = policy::kv_plain<bf16>;
constexpr std::uint64_t poison = 0xdeadbeefdeadbeefu;

// Every page lands in one bucket: only the token ids tell them apart.
struct everything_collides {
  std::uint64_t operator()(std::uint64_t, const std::int32_t*, int) const { return 0; }
};

// A cache, its metadata between guard bands, and a pool of numbers.
template <class Hash> struct world {
  pool_shape shape;
  paged_limits limits;
  test::array<std::byte> metadata;
  cache::paged<storage, policy::nhd, Hash> cache;
  std::vector<std::uint64_t> pool;

  world(const pool_shape& s, const paged_limits& l)
      : shape(s), limits(l), metadata(decltype(cache)::metadata_bytes(s, l)), pool(std::size_t(s.pages) * s.page, poison) {
    REQUIRE(cache.attach(s, l, {metadata.data(), metadata.size()}).code == errc::ok);
  }
  // The copies of a call, side by side as a kernel would: no copy sees another's result.
  void copy(const cache::page_moves& moves) {
    const std::vector<std::uint64_t> before = pool;
    for (int i = 0; i < moves.count; ++i)
      std::copy_n(before.begin() + std::ptrdiff_t(moves.source[i]) * shape.page, shape.page, pool.begin() + std::ptrdiff_t(moves.target[i]) * shape.page);
  }
};

struct handle {
  sequence s;
  oracle::sequence is;
  std::vector<std::uint64_t> buffer;     // of pages swapped out
  sequence low{};                        // what it has demoted, in a second cache
  std::vector<std::vector<std::uint64_t>> demoted{};     // [track]
};

template <class Hash> void check_rows(const world<Hash>& w, const std::vector<const handle*>& batch) {
  std::vector<sequence> names;
  for (const handle* h : batch) names.push_back(h->s);
  const int count = int(names.size()), need = w.cache.width_for(names.data(), count), width = need + count % 2;
  REQUIRE(need >= 0);
  const cache::batch_tables lies = w.cache.tables_of(count, width);
  test::array<int> out(std::size_t(lies.ints()));
  if (need > 0) CHECK(w.cache.tables(names.data(), count, need - 1, out.data(), lies.ints()).code == errc::bad_shape);
  if (lies.ints() > 0) CHECK(w.cache.tables(names.data(), count, width, out.data(), lies.ints() - 1).code == errc::bad_shape);
  const status st = w.cache.tables(names.data(), count, width, out.data(), lies.ints());
  REQUIRE(st.code == errc::ok);
  std::vector<int> least;
  cache::batch_tables fits;
  REQUIRE(w.cache.tables(names.data(), count, least, fits).code == errc::ok);
  REQUIRE((fits.width == need && fits.batch == count && (long long)least.size() == fits.ints()));
  for (int l = 0; l < fits.layers; ++l)
    for (int b = 0; b < count; ++b)
      for (int h = 0; h < fits.heads; ++h) {
        const pages wide = lies.at(out.data(), l), narrow = fits.at(least.data(), l);
        REQUIRE(narrow.tokens(b, h) == wide.tokens(b, h));
        for (int p = 0; p < need; ++p) REQUIRE(narrow.table[b * narrow.row_stride + h * narrow.head_stride + p] == wide.table[b * wide.row_stride + h * wide.head_stride + p]);
      }
  REQUIRE(out.guarded());
  for (int l = 0; l < lies.layers; ++l) {
    const pages table = lies.at(out.data(), l);
    const status sound = check_pages(table, count, w.shape.head_tracks(), width, w.shape.pages);
    CAPTURE(sound.what);
    REQUIRE(sound.code == errc::ok);
    for (int b = 0; b < count; ++b)
      for (int h = 0; h < w.shape.kv_heads; ++h) {
        const int t = w.shape.track(l, h);
        const auto& rows = batch[std::size_t(b)]->is.rows[std::size_t(t)];
        REQUIRE(table.tokens(b, h) == int(rows.size()));
        for (int i = 0; i < int(rows.size()); ++i)
          if (w.pool[std::size_t(table.slot(b, h, i))] != rows[std::size_t(i)]) FAIL("a row is wrong: sequence " << b << " track " << t << " token " << i);
        for (int p = table.used(b, h); p < width; ++p) REQUIRE(table.entry(b, h, p) == -1);
      }
  }
}

template <class Hash> void history(const pool_shape& shape, const paged_limits& limits, int operations, unsigned seed) {
  CAPTURE(seed, shape.pages, shape.page, shape.tracks(), limits.sequences, limits.tokens, limits.prefixes);
  std::mt19937 g(seed);
  const auto pick = [&](int n) { return int(g() % unsigned(n)); };
  world<Hash> w(shape, limits);
  auto& c = w.cache;
  world<Hash> below(shape, {.sequences = limits.sequences, .tokens = 6 * limits.tokens});
  auto& b = below.cache;
  std::vector<handle> live;
  std::vector<sequence> dead;
  std::vector<std::byte> before(w.metadata.size());
  std::vector<int> slots(std::size_t(shape.tracks()) * std::size_t(limits.tokens + 4)), list(std::size_t(shape.pages) * limits.sequences), more(list.size());
  std::vector<int> source(std::size_t(shape.tracks())), target(source.size());
  int done[13] = {}, exhausted = 0, matched_tokens = 0, copied = 0;

  // What the oracle says about free pages: those that no sequence's table names.
  const auto pages_named = [&](const handle& h) {
    int n = 0;
    for (const auto& rows : h.is.rows) n += (int(rows.size()) + shape.page - 1) / shape.page;
    return n;
  };
  const auto append = [&](handle& h, int n, bool say_tokens) {
    std::vector<std::int32_t> ids;
    for (int i = 0; i < n; ++i) ids.push_back(pick(3));
    cache::page_moves moves{source.data(), target.data(), int(source.size()), 0};
    const int have = int(h.is.tokens.size()), need = c.pages_for(h.s, n), free = c.free_pages();
    int longest = 0;
    for (const auto& rows : h.is.rows) longest = std::max(longest, int(rows.size()));
    std::fill(slots.begin(), slots.end(), -7);
    const status st = c.append(h.s, n, {slots.data(), limits.tokens + 4}, moves, say_tokens ? ids.data() : nullptr);
    if (h.is.swapped) {
      REQUIRE(st.code == errc::bad_value);
      return;
    }
    if (longest + n > limits.tokens) {
      REQUIRE(need == -1);
      REQUIRE(st.code == errc::bad_shape);
      return;
    }
    if (need > free) {
      ++exhausted;
      REQUIRE(st.got == free);
      REQUIRE(st.need == need);
      REQUIRE(st.code == errc::exhausted);
      return;
    }
    CAPTURE(st.what);
    REQUIRE(st.code == errc::ok);
    REQUIRE(c.free_pages() == free - need);
    REQUIRE(c.positions(h.s) == have + n);
    w.copy(moves);
    copied += moves.count;
    for (const std::int32_t id : ids) h.is.append(id);
    for (int t = 0; t < shape.tracks(); ++t)
      for (int i = 0; i < limits.tokens + 4; ++i) {
        const int slot = slots[std::size_t(t) * (limits.tokens + 4) + i];
        if (i >= n) REQUIRE(slot == -7);
        else w.pool.at(std::size_t(slot)) = h.is.rows[std::size_t(t)][h.is.rows[std::size_t(t)].size() - std::size_t(n) + i];
      }
  };

  // Survivors, other ones in each track, to fresh pages. False: refused, and nothing has changed.
  const auto rewrite = [&](handle& h, const std::vector<std::vector<int>>& kept) {
    std::vector<int> lengths;
    int fresh = 0;
    for (const auto& track : kept) lengths.push_back(int(track.size())), fresh += (lengths.back() + shape.page - 1) / shape.page;
    const int held = c.pages_of(h.s), free = c.free_pages();
    if (!c.rewrite(h.s, lengths.data(), list.data(), held)) {
      REQUIRE((h.is.swapped || fresh > free));
      return false;
    }
    std::vector<std::uint64_t> gathered = w.pool;
    const sequence name = h.s;
    const cache::batch_tables lies = c.tables_of(1, held);
    std::vector<int> out(std::size_t(lies.ints()));
    REQUIRE(c.tables(&name, 1, held, out.data(), lies.ints()).code == errc::ok);
    int at = 0;
    for (int l = 0; l < lies.layers; ++l)
      for (int head = 0; head < lies.heads; ++head) {
        const std::size_t t = std::size_t(l * lies.heads + head);
        const int had = (int(h.is.rows[t].size()) + shape.page - 1) / shape.page;
        for (int r = 0; r < lengths[t]; ++r)
          gathered[std::size_t(lies.at(out.data(), l).slot(0, head, r))] = w.pool[std::size_t(list[std::size_t(at + kept[t][std::size_t(r)] / shape.page)]) * shape.page + kept[t][std::size_t(r)] % shape.page];
        at += had;
        std::vector<std::uint64_t> rows;
        for (const int i : kept[t]) rows.push_back(h.is.rows[t][std::size_t(i)]);
        h.is.rows[t] = rows;
      }
    REQUIRE(at == held);
    w.pool = gathered;
    h.is.floor = int(h.is.tokens.size());
    return true;
  };
  // What compress does where its disposition demotes: as many tokens of each track go to the second cache.
  const auto demote = [&](handle& h, int gone) {
    const int need = b.pages_for(h.low, gone), free = b.free_pages();
    if (need < 0 || need > free) return false;
    std::vector<std::vector<int>> kept(h.is.rows.size());
    std::vector<std::vector<std::uint64_t>> went(kept.size());
    for (std::size_t t = 0; t < kept.size(); ++t) {
      int left = gone;
      for (int i = 0, n = int(h.is.rows[t].size()); i < n; ++i)
        if (pick(n - i) < left) went[t].push_back(h.is.rows[t][std::size_t(i)]), --left;
        else kept[t].push_back(i);
    }
    if (!rewrite(h, kept)) return false;
    cache::page_moves moves{source.data(), target.data(), int(source.size()), 0};
    REQUIRE(b.append(h.low, gone, {slots.data(), limits.tokens + 4}, moves).code == errc::ok);
    REQUIRE(b.free_pages() == free - need);
    below.copy(moves);
    for (std::size_t t = 0; t < went.size(); ++t)
      for (int i = 0; i < gone; ++i) {
        below.pool.at(std::size_t(slots[t * std::size_t(limits.tokens + 4) + std::size_t(i)])) = went[t][std::size_t(i)];
        h.demoted[t].push_back(went[t][std::size_t(i)]);
      }
    return true;
  };
  const auto check_demoted = [&](const handle& h) {
    handle there{h.low, oracle::sequence(shape.tracks(), 0), {}};
    there.is.rows = h.demoted;
    check_rows(below, {&there});
  };

  for (int step = 0; step < operations; ++step) {
    const int what = live.empty() ? 0 : pick(100);
    handle* h = live.empty() ? nullptr : &live[std::size_t(pick(int(live.size())))];
    CAPTURE(step, what);
    std::memcpy(before.data(), w.metadata.data(), before.size());
    const int free = c.free_pages(), open = c.open_sequences();
    bool refused = false;
    const auto ok = [&](const status& st) {
      refused = st.code != errc::ok;
      return !refused;
    };
    if (what < 10) {                                                  // open, perhaps with a known beginning
      sequence s;
      const std::uint32_t salt = unsigned(pick(2));
      if (ok(c.open(s, salt))) {
        ++done[0];
        live.push_back({s, oracle::sequence(shape.tracks(), salt), {}});
        live.back().demoted.resize(std::size_t(shape.tracks()));
        REQUIRE(b.open(live.back().low).code == errc::ok);
        if (limits.prefixes && pick(3)) {
          std::vector<std::int32_t> prompt;
          for (int i = pick(4 * shape.page + 1); i > 0; --i) prompt.push_back(pick(3));
          if (live.size() > 1 && pick(2)) prompt = live[std::size_t(pick(int(live.size()) - 1))].is.tokens;
          int matched = -1;
          REQUIRE(c.match(s, prompt.data(), int(prompt.size()), matched).code == errc::ok);
          REQUIRE(matched % shape.page == 0);
          REQUIRE(matched <= std::min(int(prompt.size()), limits.tokens));
          for (int i = 0; i < matched; ++i) live.back().is.append(prompt[std::size_t(i)]);
          matched_tokens += matched;
          check_rows(w, {&live.back()});
        }
      } else {
        REQUIRE(int(live.size()) == limits.sequences);
      }
    } else if (what < 19) {                                           // close
      ++done[1];
      REQUIRE(c.close(h->s).code == errc::ok);
      REQUIRE(b.close(h->low).code == errc::ok);
      dead.push_back(h->s);
      std::swap(*h, live.back());
      live.pop_back();
    } else if (what < 30) {                                           // fork
      sequence s;
      if (ok(c.fork(h->s, s))) {
        ++done[2];
        REQUIRE(!h->is.swapped);
        REQUIRE(c.free_pages() == free);
        oracle::sequence copy = h->is;
        handle made{s, std::move(copy), {}, {}, h->demoted};
        REQUIRE(b.fork(h->low, made.low).code == errc::ok);
        live.push_back(std::move(made));
      } else {
        REQUIRE((h->is.swapped || int(live.size()) == limits.sequences));
      }
    } else if (what < 62) {                                           // append: mostly few tokens
      ++done[3];
      append(*h, pick(3) ? pick(3) : pick(2 * shape.page + 2), pick(12) != 0);
      refused = c.positions(h->s) == int(h->is.tokens.size()) && c.free_pages() == free && std::memcmp(before.data(), w.metadata.data(), before.size()) == 0;
    } else if (what < 74) {                                           // truncate
      const int to = pick(int(h->is.tokens.size()) + 2);
      if (ok(c.truncate(h->s, to))) {
        ++done[4];
        REQUIRE((to >= h->is.floor && to <= int(h->is.tokens.size())));
        h->is.truncate(to);
      } else {
        REQUIRE((h->is.swapped || to < h->is.floor || to > int(h->is.tokens.size())));
      }
    } else if (what < 77) {                                           // evict, or merge: any survivors, other ones in each track
      std::vector<std::vector<int>> kept(h->is.rows.size());
      for (std::size_t t = 0; t < kept.size(); ++t) {
        const int share = pick(5);
        for (int i = 0; i < int(h->is.rows[t].size()); ++i)
          if (pick(4) < share) kept[t].push_back(i);
      }
      if (rewrite(*h, kept)) ++done[5];
      else refused = true;
    } else if (what < 79) {                                           // demote
      int least = limits.tokens;
      for (const auto& rows : h->is.rows) least = std::min(least, int(rows.size()));
      if (least > 0 && demote(*h, 1 + pick(least))) ++done[10];
      else refused = true;
      check_demoted(*h);
    } else if (what < 84) {                                           // swap out
      const int held = c.pages_of(h->s);
      REQUIRE(c.bytes(h->s) == held * cache::page_bytes(storage::format, shape));
      if (held > 0) REQUIRE(c.swap_out(h->s, list.data(), held - 1).code != errc::ok);
      if (ok(c.swap_out(h->s, list.data(), held))) {
        ++done[6];
        REQUIRE(!h->is.swapped);
        h->is.swapped = true;
        h->buffer.clear();
        for (int i = 0; i < held; ++i) h->buffer.insert(h->buffer.end(), w.pool.begin() + std::ptrdiff_t(list[std::size_t(i)]) * shape.page, w.pool.begin() + std::ptrdiff_t(list[std::size_t(i)] + 1) * shape.page);
        REQUIRE(c.pages_of(h->s) == held);
      } else {
        REQUIRE(h->is.swapped);
      }
    } else if (what < 92) {                                           // swap in
      const int need = c.pages_of(h->s);
      if (ok(c.swap_in(h->s, list.data(), need))) {
        ++done[7];
        REQUIRE(h->is.swapped);
        REQUIRE(c.free_pages() == free - need);
        h->is.swapped = false;
        REQUIRE(h->buffer.size() == std::size_t(need) * shape.page);
        for (int i = 0; i < need; ++i) std::copy_n(h->buffer.begin() + std::ptrdiff_t(i) * shape.page, shape.page, w.pool.begin() + std::ptrdiff_t(list[std::size_t(i)]) * shape.page);
        h->buffer.clear();
      } else {
        REQUIRE((!h->is.swapped || need > free));
      }
    } else if (what < 97) {                                           // publish
      if (ok(c.publish(h->s))) ++done[8];
      else REQUIRE((h->is.swapped || !limits.prefixes));
    } else if (!dead.empty()) {                                       // a handle of a closed sequence
      ++done[9];
      const sequence gone = dead[std::size_t(pick(int(dead.size())))];
      sequence s{5, 5};
      int matched = 0;
      cache::page_moves moves{source.data(), target.data(), int(source.size()), 0};
      for (const status& st : {c.fork(gone, s), c.close(gone), c.truncate(gone, 0), c.swap_out(gone, list.data(), int(list.size())), c.swap_in(gone, list.data(), int(list.size())),
                               c.append(gone, 1, {slots.data(), 1}, moves), c.publish(gone), c.match(gone, nullptr, 0, matched), c.rewrite(gone, source.data(), list.data(), int(list.size()))})
        REQUIRE(std::string(st.what) == "sequence: it was closed: handles end with close");
      REQUIRE(s == sequence{5, 5});
      REQUIRE(c.width_for(&gone, 1) == -1);
      std::vector<int> entries(3, 7);
      cache::batch_tables lies{.batch = 7};
      REQUIRE(std::string(c.tables(&gone, 1, entries, lies).what) == "sequence: it was closed: handles end with close");
      REQUIRE((entries == std::vector<int>(3, 7) && lies.batch == 7));
      REQUIRE((c.positions(gone) == 0 && c.pages_of(gone) == 0 && c.bytes(gone) == 0 && c.tokens(gone) == 0 && c.pages_for(gone, 1) == -1));
      refused = true;
    }
    if (refused) {
      REQUIRE(c.free_pages() == free);
      REQUIRE(c.open_sequences() == open);
      REQUIRE(std::memcmp(before.data(), w.metadata.data(), before.size()) == 0);
    }
    REQUIRE(c.open_sequences() == int(live.size()));
    REQUIRE(c.bytes_in_use() == (shape.pages - c.free_pages()) * cache::page_bytes(storage::format, shape));
    REQUIRE(b.bytes_in_use() == (shape.pages - b.free_pages()) * cache::page_bytes(storage::format, shape));
    // Pages that nobody can find again are overwritten by someone else at once, as far as these sequences can know.
    if (!limits.prefixes)
      for (int p = 0; p < shape.pages; ++p)
        if (c.holders(p) == 0) std::fill_n(w.pool.begin() + std::ptrdiff_t(p) * shape.page, shape.page, poison);
    if (!live.empty() && pick(4) == 0) {
      std::vector<const handle*> batch;
      for (const handle& some : live)
        if (!some.is.swapped && pick(2)) batch.push_back(&some);
      check_rows(w, batch);
    }
    if (step % 37 == 0 || step + 1 == operations) {
      const status sound = c.audit();
      CAPTURE(sound.what, sound.got, sound.need);
      REQUIRE(sound.code == errc::ok);
      REQUIRE(w.metadata.guarded());
      REQUIRE((b.audit().code == errc::ok && below.metadata.guarded()));
      for (const handle& some : live) {
        REQUIRE(c.positions(some.s) == int(some.is.tokens.size()));
        REQUIRE(c.pages_of(some.s) == pages_named(some));
        REQUIRE(c.is_resident(some.s) == !some.is.swapped);
        check_demoted(some);
      }
      if (dead.size() > 500) dead.erase(dead.begin(), dead.begin() + 250);
    }
  }
  // The history did meet what it is about.
  for (const int kind : {0, 1, 2, 3, 4, 5, 6, 7, 9}) REQUIRE(done[kind] > operations / 400);
  REQUIRE(done[10] > operations / 1000);
  REQUIRE(exhausted > 0);
  if (shape.page > 1) REQUIRE(copied > 0);
  if (limits.prefixes) REQUIRE(matched_tokens > 0);
  for (const handle& h : live) REQUIRE((c.close(h.s).code == errc::ok && b.close(h.low).code == errc::ok));
  REQUIRE((b.free_pages() == shape.pages && b.bytes_in_use() == 0 && b.audit().code == errc::ok));
  REQUIRE(c.free_pages() == shape.pages);
  REQUIRE(c.bytes_in_use() == 0);
  REQUIRE(c.audit().code == errc::ok);
}

pool_shape shape_of(int pages, int page, int kv_heads = 2, int layers = 1, bool per_head = false, bool per_layer = false) {
  return {.pages = pages, .page = page, .kv_heads = kv_heads, .key_dim = 16, .value_dim = 16, .layers = layers, .per_head = per_head, .per_layer = per_layer};
}

void histories(int operations, unsigned seed) {
  history<cache::content_hash>(shape_of(24, 4), {.sequences = 8, .tokens = 30}, operations / 4, seed);
  history<cache::content_hash>(shape_of(20, 4), {.sequences = 9, .tokens = 27, .prefixes = true}, operations / 4, seed + 1);
  history<everything_collides>(shape_of(18, 1), {.sequences = 6, .tokens = 9, .prefixes = true}, operations / 8, seed + 2);
  history<cache::content_hash>(shape_of(36, 3, 3, 1, true), {.sequences = 6, .tokens = 20}, operations / 8, seed + 3);
  history<cache::content_hash>(shape_of(48, 2, 2, 2, true, true), {.sequences = 6, .tokens = 12, .prefixes = true}, operations / 8, seed + 4);
  history<everything_collides>(shape_of(22, 4, 2, 3, false, true), {.sequences = 5, .tokens = 16, .prefixes = true}, operations / 8, seed + 5);
}

}  // namespace

TEST_CASE("random histories of a paged cache agree with sequences that own everything", "[ops][cache]") { histories(100000, 20261121); }
TEST_CASE("long random histories of a paged cache", "[.][long][ops][cache]") {
  const unsigned seed = std::random_device{}();
  WARN("seed " << seed);
  histories(1000000, seed);
}
