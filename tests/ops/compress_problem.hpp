// A sequence of random tokens in a paged cache, what observe reads of it, and a compression that is checked on its way.
#pragma once
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>
#include <smalti/ops/cache/append.hpp>
#include <smalti/ops/cache/copy_pages.hpp>
#include <smalti/ops/cache/systems.hpp>
#include "reference/kv_compress.hpp"
#include "support/arrays.hpp"
#include "support/contexts.hpp"

namespace test::compressed {

using namespace smalti;
using cache::pool_shape;

constexpr unsigned seed = 20261123;
constexpr int D = 64, window = 8;
using storage = policy::kv_plain<bf16>;
using paged = cache::paged<storage>;

// A sequence of random tokens in a cache of random page order, and what observe reads.
struct world {
  pool_shape shape;
  int group, tokens = 0;
  std::mt19937 g;
  cache::paged_limits limits;
  test::array<std::byte> metadata, memory;
  paged pages;
  cache::page_pool pool;
  cache::sequence s;
  std::vector<std::vector<std::vector<bf16>>> k, v;     // [layer][head]: all tokens ever, D each
  std::vector<std::vector<bf16>> q;                     // [layer]: [token][query head][D]
  test::array<float> scores;
  static constexpr int capacity = 256;

  world(const pool_shape& like, int queries_per_key, unsigned salt)
      : shape(like), group(queries_per_key), g(seed + salt), limits{.sequences = 4, .tokens = capacity}, metadata(paged::metadata_bytes(like, limits)), memory(cache::pool_bytes<storage>(like)),
        k(std::size_t(like.layers)), v(k), q(std::size_t(like.layers)), scores(std::size_t(like.tracks()) * capacity) {
    REQUIRE(pages.attach(shape, limits, {metadata.data(), metadata.size()}).code == errc::ok);
    std::memset(memory.data(), 0xFF, memory.size());    // NaN where nobody wrote
    REQUIRE(cache::make_pool<storage>(shape, {memory.data(), memory.size()}, pool).code == errc::ok);
    for (auto& layer : k) layer.resize(std::size_t(shape.kv_heads));
    for (auto& layer : v) layer.resize(std::size_t(shape.kv_heads));
    for (float& x : scores) x = NAN;
    REQUIRE(pages.open(s).code == errc::ok);
  }
  int heads() const { return shape.kv_heads * group; }
  view<float, 1> score_view() { return {scores.data(), shape.tracks(), capacity, capacity}; }

  template <class Context> void append(const Context& context, int n) {
    const std::size_t tracks = std::size_t(shape.tracks());
    const int width = shape.kv_heads * D;
    test::array<int> slots(tracks * std::size_t(n)), source(tracks), target(tracks);
    cache::page_moves moves{source.data(), target.data(), int(tracks), 0};
    REQUIRE(pages.append(s, n, {slots.data(), n}, moves).code == errc::ok);
    REQUIRE(cache::copy_pages::run(context, {.from = pool, .to = pool, .source = source.data(), .target = target.data(), .count = moves.count}).code == errc::ok);
    for (int l = 0; l < shape.layers; ++l) {
      auto keys = test::random_array<bf16>(std::size_t(n) * width, g), values = test::random_array<bf16>(std::size_t(n) * width, g);
      auto queries = test::random_array<bf16>(std::size_t(n) * heads() * D, g, 2);
      // Some tokens draw attention, in each head others, so that scores are not all alike.
      for (int i = 0; i < n; ++i)
        for (int h = 0; h < shape.kv_heads; ++h)
          if ((i * 7 + h * 3 + l) % 11 == 0)
            for (int c = 0; c < D; ++c) keys[std::size_t(i) * width + h * D + c] = narrow<bf16>(1.5f * to_float(keys[std::size_t(i) * width + h * D + c]));
      for (int i = 0; i < n; ++i)
        for (int h = 0; h < shape.kv_heads; ++h)
          for (int c = 0; c < D; ++c) {
            k[std::size_t(l)][std::size_t(h)].push_back(keys[std::size_t(i) * width + h * D + c]);
            v[std::size_t(l)][std::size_t(h)].push_back(values[std::size_t(i) * width + h * D + c]);
          }
      q[std::size_t(l)].insert(q[std::size_t(l)].end(), queries.begin(), queries.end());
      REQUIRE((cache::append<bf16, storage>::run(context, {.pool = pool, .layer = shape.per_layer ? 0 : l, .k = {keys.data(), n, width, width}, .v = {values.data(), n, width, width},
                                                           .slots = slots.data() + std::size_t(shape.track(l, 0)) * n, .slot_head_stride = shape.per_head ? n : 0}).code == errc::ok));
      test::wait(context);
    }
    tokens += n;
  }

  // The last `rows` queries of all layers. `given`: with log-sum-exps of base e computed here.
  template <class System, class Context> void observe(const Context& context, int rows, int fresh = -1, bool given = false, typename System::observe::args settings = {}) {
    int width = pages.width_for(&s, 1);
    const cache::batch_tables lies = pages.tables_of(1, width);
    test::array<int> table(std::size_t(lies.ints()));
    REQUIRE(pages.tables(&s, 1, width, table.data(), lies.ints()).code == errc::ok);
    int most = 0;
    for (int t = 0; t < shape.tracks(); ++t) most = std::max(most, pages.tokens(s, t));
    for (int l = 0; l < shape.layers; ++l) {
      test::array<bf16> queries(std::size_t(rows) * heads() * D);
      std::copy(q[std::size_t(l)].end() - std::ptrdiff_t(queries.size()), q[std::size_t(l)].end(), queries.begin());
      typename System::observe::args x = settings;
      x.q = {queries.data(), 1, heads(), rows, D, 0, D, heads() * D, nullptr};
      x.kv = cache::kv_of<bf16>(pool, l, lies.at(table.data(), l), 1, most);
      x.heads_per_track = shape.per_head ? 1 : shape.kv_heads;
      x.fresh = fresh;
      x.scores = System::rows_of(shape, score_view(), l);
      test::array<float> lse(std::size_t(rows) * heads());
      if (given) {
        for (int h = 0; h < heads(); ++h)
          for (int i = 0; i < rows; ++i) {
            double sum = 0;
            for (int j = 0; j <= tokens - rows + i; ++j) sum += std::exp(logit(l, h, tokens - rows + i, j));
            lse[std::size_t(i) * heads() + h] = float(std::log(sum));
          }
        x.lse = {lse.data(), 1, heads(), rows, 1, 0, 1, heads(), nullptr};
      }
      test::scratch scratch(System::observe::workspace_bytes(context, x));
      const status st = System::observe::run(context, x, scratch.get());
      CAPTURE(st.what, st.got, st.need);
      REQUIRE(st.code == errc::ok);
      test::wait(context);
      REQUIRE(scratch.guarded());
    }
    REQUIRE(scores.guarded());
  }
  double logit(int l, int h, int i, int j) const {
    double sum = 0;
    for (int c = 0; c < D; ++c) sum += test::value(q[std::size_t(l)][(std::size_t(i) * heads() + h) * D + c]) * test::value(k[std::size_t(l)][std::size_t(h / group)][std::size_t(j) * D + c]);
    return sum / std::sqrt(double(D));
  }
  // Weights of the last `rows` queries of a head over some tokens of all, ascending, the newest among them.
  std::vector<oracle::row_of_doubles> weights(int l, int h, int rows, const std::vector<int>& alive) const {
    return oracle::attention_weights(rows, int(alive.size()), D, 1 / std::sqrt(double(D)),
      [&](int i, int c) { return test::value(q[std::size_t(l)][(std::size_t(tokens - rows + i) * heads() + h) * D + c]); },
      [&](int j, int c) { return test::value(k[std::size_t(l)][std::size_t(h / group)][std::size_t(alive[std::size_t(j)]) * D + c]); });
  }
  // What the last `rows` queries of a key head's group give each of those tokens, summed; mean_of_all: the mean over all heads.
  oracle::row_of_doubles votes(int l, int h, int rows, const std::vector<int>& alive, bool mean_of_all = false) const {
    oracle::row_of_doubles sum(alive.size(), 0.0);
    const int from = mean_of_all ? 0 : h * group, to = mean_of_all ? heads() : (h + 1) * group;
    for (int head = from; head < to; ++head)
      for (const auto& p : weights(l, head, rows, alive))
        for (std::size_t j = 0; j < p.size(); ++j) sum[j] += p[j] / (mean_of_all ? heads() : 1);
    return sum;
  }
  std::vector<int> all() const {
    std::vector<int> a(static_cast<std::size_t>(tokens));
    std::iota(a.begin(), a.end(), 0);
    return a;
  }
  // The rows that lie in a track now: what(row of a key or value, head, rank).
  template <class F> void each_row(cache::plane p, int l, F what) {
    const int width = pages.width_for(&s, 1);
    const cache::batch_tables lies = pages.tables_of(1, width);
    std::vector<int> table(std::size_t(lies.ints()));
    REQUIRE(pages.tables(&s, 1, width, table.data(), lies.ints()).code == errc::ok);
    const smalti::pages where = lies.at(table.data(), l);
    REQUIRE(check_pages(where, 1, shape.head_tracks(), width, shape.pages).code == errc::ok);
    const view<bf16> rows = cache::pool_rows<bf16>(pool, p, shape.per_layer ? 0 : l);
    for (int h = 0; h < shape.kv_heads; ++h)
      for (int i = 0; i < where.tokens(0, h); ++i) {
        const int slot = int(where.slot(0, h, i));
        what(rows.data + std::size_t(policy::nhd{}.row(slot / shape.page, slot % shape.page, shape.per_head ? 0 : h, shape.heads_in_page(), shape.page)) * D, h, i);
      }
  }
};

// The best of scores stay, up to rounding: a dropped candidate scores at most `slack` more than a kept one.
inline void check_choice(const std::vector<int>& kept, const oracle::row_of_doubles& scores, int first, int last, double slack) {
  std::vector<char> in(scores.size(), 0);
  for (const int j : kept) in[std::size_t(j)] = 1;
  double least = INFINITY, most = -INFINITY;
  for (int j = 0; j < int(scores.size()); ++j) {
    if (j < first || j >= last) REQUIRE(in[std::size_t(j)]);
    else if (in[std::size_t(j)]) least = std::min(least, scores[std::size_t(j)]);
    else most = std::max(most, scores[std::size_t(j)]);
  }
  REQUIRE(least >= most - slack);
}

// Of one score: products of bf16 are exact in float and their sum of D terms is off by at most D 2^-24 of the sum of sizes, a
// logit below 40 by 2e-5; a probability by that and 4e-7; sums of `terms` probabilities by as much each, in all below 1e-4 a query.
constexpr double slack_of(int terms) { return 1e-4 * terms; }

struct answer {
  std::vector<std::vector<int>> kept;       // [track]
  status st;
};
template <class System, class Context> answer compress(const Context& context, world& w, int tokens, typename System::args settings = {}) {
  typename System::args x = settings;
  x.cache = &w.pages, x.sequence = w.s, x.pool = w.pool, x.scores = w.score_view(), x.tokens = tokens;
  const int tracks = w.shape.tracks(), most = System::most_kept(x);
  std::vector<int> before(static_cast<std::size_t>(tracks));
  test::array<int> kept(std::size_t(tracks) * (most + 3)), counts(before.size());

  for (int t = 0; t < tracks; ++t) before[std::size_t(t)] = w.pages.tokens(w.s, t);
  const long long held = w.pages.bytes(w.s);
  const int free = w.pages.free_pages();
  x.kept = {kept.data(), tracks, most, most + 3}, x.counts = counts.data();
  test::array<std::byte> plan(System::plan_bytes(x));
  x.plan = {plan.data(), plan.size()};
  test::scratch scratch(System::workspace_bytes(context, x));
  answer out;
  out.st = System::run(context, x, scratch.get());
  test::wait(context);
  REQUIRE(plan.guarded());
  REQUIRE(scratch.guarded());
  REQUIRE(w.memory.guarded());
  REQUIRE(kept.guarded());
  REQUIRE(w.pages.audit().code == errc::ok);
  if (!out.st) return out;
  for (int t = 0; t < tracks; ++t) {
    const int n = counts[std::size_t(t)];
    out.kept.emplace_back(kept.data() + std::size_t(t) * (most + 3), kept.data() + std::size_t(t) * (most + 3) + n);
    const std::vector<int>& mine = out.kept.back();
    for (int i = 0; i < n; ++i) REQUIRE((mine[std::size_t(i)] >= (i > 0 ? mine[std::size_t(i) - 1] + 1 : 0) && mine[std::size_t(i)] < before[std::size_t(t)]));   // ascending, of the track
    for (int i = n; i < most; ++i) REQUIRE(kept[std::size_t(t) * (most + 3) + i] == -1);
  }
  // Bytes: what the sequence holds less is what the pool has more, where nobody else holds the pages.
  const long long of_a_page = cache::page_bytes(storage::format, w.shape);
  REQUIRE((w.pages.free_pages() - free) * of_a_page <= held - w.pages.bytes(w.s));
  return out;
}

constexpr pool_shape apart{.pages = 400, .page = 8, .kv_heads = 2, .key_dim = D, .value_dim = D, .layers = 3, .per_head = true, .per_layer = true};
constexpr pool_shape together{.pages = 120, .page = 8, .kv_heads = 2, .key_dim = D, .value_dim = D, .layers = 2, .per_layer = true};

inline std::vector<float> frequencies() {
  std::vector<float> f(4 * D / 2);
  policy::fill_frequencies(policy::rotary<>{.dims = D}, f.data());
  return f;
}

// Rows of survivors, to the bit; those of kept_before name tokens by their place among all.
inline void check_rows(world& w, const std::vector<std::vector<int>>& alive, bool keys = true) {
  for (int l = 0; l < w.shape.layers; ++l)
    for (const cache::plane p : {cache::plane::keys, cache::plane::values}) {
      if (p == cache::plane::keys && !keys) continue;
      w.each_row(p, l, [&](const bf16* row, int h, int i) {
        const auto& from = (p == cache::plane::keys ? w.k : w.v)[std::size_t(l)][std::size_t(h)];
        if (std::memcmp(row, from.data() + std::size_t(alive[std::size_t(w.shape.track(l, h))][std::size_t(i)]) * D, D * sizeof(bf16)) != 0) FAIL("a row is wrong: layer " << l << " head " << h << " rank " << i);
      });
    }
}

// What a composition needs beside scores, and what it is asked afterwards.
struct nothing_else {
  bool changes_rows = false;
  explicit nothing_else(const pool_shape&) {}
  template <class Args> void give(Args&) {}
  void unchanged() {}
  void check(world&, const std::vector<std::vector<int>>&, int) {}
};

// The laws of one composition. rows: queries it observes after the prefill, 0: none.
template <class System, class Beside = nothing_else> void laws(const pool_shape& shape, int rows, int n, int tokens, bool turns = false) {
  CAPTURE(seed, shape.per_head, rows, n, tokens);
  const test::array<float> turning = test::array_of(frequencies());
  std::vector<std::vector<int>> first;
  std::vector<std::byte> first_pool;
  test::for_each_context(seed, [&](const auto& context) {
    if (System::reads_back && !is_host<std::decay_t<decltype(context)>>) return;
    world w(shape, 2, unsigned(n));
    w.append(context, n);
    if constexpr (System::scorer::observes)
      if (rows > 0) w.template observe<System>(context, std::min(rows, n));
    Beside beside(shape);
    typename System::args settings;
    beside.give(settings);
    if (turns) settings.frequencies = turning.data();

    // Dense limit: nothing changes, not one bit.
    const std::vector<std::byte> pool(w.memory.begin(), w.memory.end()), metadata(w.metadata.begin(), w.metadata.end());
    const int free = w.pages.free_pages();
    for (const int much : {n, n + 9}) {
      const answer a = compress<System>(context, w, much, settings);
      CAPTURE(a.st.what);
      REQUIRE(a.st.code == errc::ok);
      for (const auto& track : a.kept) REQUIRE(track == w.all());
      REQUIRE(std::memcmp(pool.data(), w.memory.data(), pool.size()) == 0);
      REQUIRE(w.pages.free_pages() == free);
      beside.unchanged();
    }
    // A fork holds the old pages: it keeps every bit, and the pool gets them when it closes.
    cache::sequence fork;
    REQUIRE(w.pages.fork(w.s, fork).code == errc::ok);
    const answer a = compress<System>(context, w, tokens, settings);
    CAPTURE(a.st.what, a.st.got, a.st.need);
    REQUIRE(a.st.code == errc::ok);
    // Budget.
    long long sum = 0, most = 0;
    for (const auto& track : a.kept) sum += int(track.size()), most = std::max<long long>(most, int(track.size()));
    REQUIRE(sum <= static_cast<long long>(shape.tracks()) * tokens);
    // To the token; whole pages fall short of it by fewer than two each.
    if (tokens < n) REQUIRE(sum > static_cast<long long>(shape.tracks()) * (System::granule == 1 ? tokens - 1 : tokens - 2 * System::granule));
    if (System::granule == 1 && tokens < n) REQUIRE(sum == static_cast<long long>(shape.tracks()) * tokens);
    // Tokens, pages, bytes.
    int need = 0;
    for (int t = 0; t < shape.tracks(); ++t) {
      REQUIRE(w.pages.tokens(w.s, t) == int(a.kept[std::size_t(t)].size()));
      need += (int(a.kept[std::size_t(t)].size()) + shape.page - 1) / shape.page;
    }
    REQUIRE(w.pages.pages_of(w.s) == need);
    REQUIRE(w.pages.positions(w.s) == n);
    if (!beside.changes_rows) check_rows(w, a.kept, !turns);
    const cache::sequence compressed = w.s;
    w.s = fork;
    check_rows(w, std::vector<std::vector<int>>(std::size_t(shape.tracks()), w.all()));
    w.s = compressed;
    REQUIRE(w.pages.close(fork).code == errc::ok);
    REQUIRE(w.pages.free_pages() == shape.pages - need);
    REQUIRE(w.pages.bytes_in_use() == need * cache::page_bytes(storage::format, shape));
    beside.check(w, a.kept, n);
    // The next tokens follow.
    w.append(context, 3);
    std::vector<std::vector<int>> alive = a.kept;
    for (auto& track : alive)
      for (int i = 0; i < 3; ++i) track.push_back(n + i);
    if (!beside.changes_rows) check_rows(w, alive, !turns);
    // Determinism: every machine, thread count and order of blocks.
    if (first.empty()) {
      first = a.kept, first_pool.assign(w.memory.begin(), w.memory.end());
    } else {
      REQUIRE(first == a.kept);
      REQUIRE(std::memcmp(first_pool.data(), w.memory.data(), first_pool.size()) == 0);
    }
    REQUIRE(w.pages.close(w.s).code == errc::ok);
    REQUIRE(w.pages.free_pages() == shape.pages);
    REQUIRE(w.pages.audit().code == errc::ok);
  });
}

}  // namespace test::compressed
