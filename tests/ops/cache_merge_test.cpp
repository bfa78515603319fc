// Tokens that merge into survivors (D2O), against its definition in double, and compaction by a choice of the caller's.
#include <smalti/ops/cache/match_pairs.hpp>
#include "compress_problem.hpp"

using namespace smalti;
using namespace test::compressed;

namespace {

// What lies in the tracks of a layer now: [head][rank], a key and then its value.
std::vector<std::vector<oracle::row_of_doubles>> rows_of(world& w, int l) {
  std::vector<std::vector<oracle::row_of_doubles>> out(std::size_t(w.shape.kv_heads));
  for (const cache::plane p : {cache::plane::keys, cache::plane::values})
    w.each_row(p, l, [&](const bf16* row, int h, int i) {
      auto& mine = out[std::size_t(h)];
      if (p == cache::plane::keys) mine.emplace_back();
      for (int c = 0; c < D; ++c) mine[std::size_t(i)].push_back(test::value(row[c]));
    });
  return out;
}

// What D2O keeps of a prompt: the first four and the newest tokens, as many as it keeps of the others, which are those with the most attention. Layers
// share the budget by exp(-concentration), or have the same.
template <class System> void check_heavy(const world& w, const answer& a, int tokens) {
  constexpr int sinks = 4;
  const int recent = (tokens - sinks) / 2, n = w.tokens, base = tokens - sinks - recent, candidates = n - sinks - recent, shared = w.shape.per_head ? 1 : w.shape.kv_heads;
  std::vector<std::vector<oracle::row_of_doubles>> scores;
  std::vector<double> weight;
  for (int l = 0; l < w.shape.layers; ++l) {
    scores.emplace_back();
    for (int h = 0; h < w.shape.kv_heads; ++h) scores.back().push_back(w.votes(l, h, n, w.all()));
    weight.push_back(System::reads_back ? std::exp(-oracle::concentration(scores.back())) : 1.0);
  }
  const std::vector<int> budget = oracle::shares(weight, std::vector<int>(weight.size(), candidates), static_cast<long long>(w.shape.layers) * base);
  for (int t = 0; t < w.shape.tracks(); ++t) {
    const int l = t / w.shape.head_tracks();
    oracle::row_of_doubles sum(static_cast<std::size_t>(n), 0.0);
    for (int h = 0; h < shared; ++h)
      for (int j = 0; j < n; ++j) sum[std::size_t(j)] += scores[std::size_t(l)][std::size_t(w.shape.per_head ? t % w.shape.head_tracks() : h)][std::size_t(j)];
    const std::vector<int>& kept = a.kept[std::size_t(t)];
    REQUIRE(std::abs(int(kept.size()) - sinks - recent - budget[std::size_t(l)]) <= (System::reads_back ? 1 : 0));
    for (int j = 0; j < sinks; ++j) REQUIRE(kept[std::size_t(j)] == j);
    REQUIRE(kept[kept.size() - std::size_t(recent)] == n - recent);
    for (int j = 0; j < sinks; ++j) sum[std::size_t(j)] = INFINITY;
    check_choice(kept, sum, sinks, n - recent, slack_of(n * w.group * shared));
  }
}

template <class System> void follow(const pool_shape& shape, bool own, bool convex) {
  CAPTURE(seed, own, convex, shape.per_head);
  std::vector<std::byte> first;
  test::for_each_context(seed, [&](const auto& context) {
    if (System::reads_back && !is_host<std::decay_t<decltype(context)>>) return;
    world w(shape, 2, 21);
    w.append(context, 60);
    test::array<float> thresholds(std::size_t(shape.layers));
    for (float& t : thresholds) t = NAN;
    typename System::args settings;
    settings.thresholds = thresholds.data();
    if constexpr (System::reads_back) settings.allocator = {.exempt_first = 0, .exempt_last = 0};
    int merged = 0;
    for (int step = 0; step < 3; ++step) {
      if (step > 0) w.append(context, 5);
      w.template observe<System>(context, step == 0 ? 60 : 5, step == 0 ? -1 : 5);
      std::vector<std::vector<std::vector<oracle::row_of_doubles>>> before;
      for (int l = 0; l < shape.layers; ++l) before.push_back(rows_of(w, l));
      const std::vector<float> old(thresholds.begin(), thresholds.end());
      const answer a = compress<System>(context, w, 24, settings);
      CAPTURE(step, a.st.what);
      REQUIRE(a.st.code == errc::ok);
      REQUIRE(thresholds.guarded());
      if (step == 0) check_heavy<System>(w, a, 24);
      for (int l = 0; l < shape.layers; ++l) {
        std::vector<std::vector<int>> kept;
        for (int h = 0; h < shape.kv_heads; ++h) kept.push_back(a.kept[std::size_t(shape.track(l, h))]);
        const oracle::merged_layer want = oracle::merge(before[std::size_t(l)], kept, D, old[std::size_t(l)], 0.5, own, convex);
        REQUIRE(want.margin > 3e-6);                                           // else this seed cannot tell the outcomes apart
        // A mean of fewer than 2^7 cosines, each off by 2^-21 at most.
        REQUIRE(thresholds[std::size_t(l)] == Approx(want.threshold).margin(2e-6));
        merged += want.merged;
        const auto got = rows_of(w, l);
        for (int h = 0; h < shape.kv_heads; ++h) {
          REQUIRE(got[std::size_t(h)].size() == want.rows[std::size_t(h)].size());
          for (std::size_t i = 0; i < got[std::size_t(h)].size(); ++i)
            for (std::size_t c = 0; c < 2 * D; ++c) {
              // One rounding to bf16, and of each product and sum one to float.
              const double g = got[std::size_t(h)][i][c], x = want.rows[std::size_t(h)][i][c];
              if (!(std::abs(g - x) <= std::abs(x) * 0x1p-8 + 1e-4)) FAIL("layer " << l << " head " << h << " rank " << i << " element " << c << ": " << g << " " << x);
            }
        }
      }
    }
    REQUIRE(merged > 20);
    if (first.empty()) first.assign(w.memory.begin(), w.memory.end());
    REQUIRE(std::memcmp(first.data(), w.memory.data(), first.size()) == 0);     // any order of blocks
  });
}

// A threshold for each layer; survivors that take others in are not what they were.
struct merging_needs : nothing_else {
  test::array<float> thresholds;
  explicit merging_needs(const pool_shape& s) : nothing_else(s), thresholds(std::size_t(s.layers)) {
    changes_rows = true;
    for (float& t : thresholds) t = NAN;
  }
  template <class Args> void give(Args& x) {
    x.thresholds = thresholds.data();
    if constexpr (requires { x.allocator.exempt_first; }) x.allocator.exempt_first = x.allocator.exempt_last = 0;      // all layers keep the budget
  }
  void unchanged() {
    for (const float t : thresholds) REQUIRE(std::isnan(t));
  }
};
// A second pool: no token is in neither of the two, and none in both.
struct demoting_needs : nothing_else {
  using low_storage = policy::kv_int2<32>;
  using low_cache = cache::paged<low_storage>;
  pool_shape shape;
  cache::paged_limits limits{.sequences = 2, .tokens = 200};
  test::array<std::byte> metadata, memory;
  low_cache low;
  cache::sequence s;
  cache::page_pool pool;
  explicit demoting_needs(const pool_shape& like) : nothing_else(like), shape(like), metadata(low_cache::metadata_bytes(like, limits)), memory(cache::pool_bytes<low_storage>(like)) {
    REQUIRE(low.attach(shape, limits, {metadata.data(), metadata.size()}).code == errc::ok);
    REQUIRE(cache::make_pool<low_storage>(shape, {memory.data(), memory.size()}, pool).code == errc::ok);
    REQUIRE(low.open(s).code == errc::ok);
  }
  template <class Args> void give(Args& x) { x.low = {&low, s, pool, nullptr}; }
  void unchanged() { REQUIRE(low.free_pages() == shape.pages); }
  void check(world& w, const std::vector<std::vector<int>>& kept, int n) {
    int pages = 0;
    for (int t = 0; t < shape.tracks(); ++t) {
      REQUIRE(low.tokens(s, t) + int(kept[std::size_t(t)].size()) == n);
      REQUIRE(w.pages.tokens(w.s, t) + low.tokens(s, t) == n);
      pages += (low.tokens(s, t) + shape.page - 1) / shape.page;
    }
    REQUIRE((low.pages_of(s) == pages && low.free_pages() == shape.pages - pages));
    REQUIRE(low.bytes_in_use() == pages * cache::page_bytes(low_storage::format, shape));
    REQUIRE(memory.guarded());
    REQUIRE(low.close(s).code == errc::ok);
    REQUIRE((low.free_pages() == shape.pages && low.audit().code == errc::ok));
  }
};

}  // namespace

TEST_CASE("laws of the compositions that merge and that demote", "[ops][cache][compress]") {
  laws<cache::d2o<bf16, D>, merging_needs>(apart, 70, 70, 20);
  laws<cache::snapkv<bf16, D, window, 5, policy::uniform, policy::merge<>>, merging_needs>(together, window, 64, 17);
  laws<cache::compress<bf16, D, policy::accumulated<>, policy::uniform, policy::demote<demoting_needs::low_storage>>, demoting_needs>(apart, 70, 70, 20);
}

TEST_CASE("d2o: evicted tokens merge into the survivors they are most like", "[ops][cache][compress]") {
  follow<cache::d2o<bf16, D>>({.pages = 200, .page = 8, .kv_heads = 2, .key_dim = D, .value_dim = D, .layers = 2, .per_head = true, .per_layer = true}, false, true);
  follow<cache::compress<bf16, D, policy::accumulated<policy::over_heads::sum, 4>, policy::uniform, policy::merge<policy::merge_weight::cosine_mean, policy::merge_gate::own>>>(together, true, false);
}

TEST_CASE("laws of merging: no token passes a threshold above 1, a duplicate changes nothing, a whole budget nothing at all", "[ops][cache][compress]") {
  using h2o = cache::compress<bf16, D, policy::accumulated<policy::over_heads::sum, 4>>;
  using merging = cache::compress<bf16, D, policy::accumulated<policy::over_heads::sum, 4>, policy::uniform, policy::merge<>>;
  const auto context = test::any_context();
  const auto kept_by = [&](auto system, float threshold, int tokens) {
    using S = typename decltype(system)::type;
    world w(apart, 2, 22);
    w.append(context, 50);
    w.observe<S>(context, 50);
    test::array<float> thresholds(std::size_t(apart.layers));
    for (float& t : thresholds) t = threshold;
    typename S::args settings;
    settings.thresholds = thresholds.data(), settings.gate_memory = 1;
    REQUIRE(compress<S>(context, w, tokens, settings).st.code == errc::ok);
    REQUIRE(thresholds[0] == threshold);                                        // it keeps all of itself
    return std::vector<std::byte>(w.memory.begin(), w.memory.end());
  };
  REQUIRE(kept_by(std::type_identity<merging>{}, 1.5f, 20) == kept_by(std::type_identity<h2o>{}, 1.5f, 20));
  REQUIRE(kept_by(std::type_identity<merging>{}, -1.5f, 20) != kept_by(std::type_identity<h2o>{}, -1.5f, 20));
  REQUIRE(kept_by(std::type_identity<merging>{}, -1.5f, 50) == kept_by(std::type_identity<h2o>{}, -1.5f, 50));

  // All tokens alike: whatever merges, every row stays what it is, up to one rounding of each product.
  world w({.pages = 60, .page = 8, .kv_heads = 2, .key_dim = D, .value_dim = D, .per_head = true}, 2, 23);
  w.append(context, 40);
  for (const cache::plane p : {cache::plane::keys, cache::plane::values})
    w.each_row(p, 0, [&](const bf16* row, int h, int) {
      for (int c = 0; c < D; ++c) const_cast<bf16*>(row)[c] = narrow<bf16>(float(c + 1 + h) / 4);
    });
  w.observe<merging>(context, 40);
  test::array<float> thresholds(1);
  thresholds[0] = NAN;
  merging::args settings;
  settings.thresholds = thresholds.data();
  REQUIRE(compress<merging>(context, w, 12, settings).st.code == errc::ok);
  REQUIRE(thresholds[0] == Approx(1.0).margin(2e-6));
  w.each_row(cache::plane::keys, 0, [&](const bf16* row, int h, int) {
    for (int c = 0; c < D; ++c) REQUIRE(row[c].bits == narrow<bf16>(float(c + 1 + h) / 4).bits);
  });
}

TEST_CASE("bipartite matching: the even tokens that an odd one resembles most go, and fold in", "[ops][cache][compress]") {
  constexpr int sinks = 4, recent = 16, n = 73, tokens = 52;
  using match = cache::match_pairs<bf16, D>;
  using system = cache::compress<bf16, D, policy::bipartite<sinks, recent>, policy::uniform, policy::merge<policy::merge_weight::cosine_mean, policy::merge_gate::own>>;
  test::for_each_context(seed, [&](const auto& context) {
    for (const pool_shape& shape : {apart, together}) {
      world w(shape, 2, 61);
      w.append(context, n);
      match::args m{.cache = &w.pages, .sequence = w.s, .pool = w.pool, .scores = w.score_view()};
      test::array<std::byte> plan(match::plan_bytes(m));
      m.plan = {plan.data(), plan.size()};
      test::scratch scratch(match::workspace_bytes(context, m));
      const status st = match::run(context, m, scratch.get());
      CAPTURE(shape.per_head, st.what);
      REQUIRE(st.code == errc::ok);
      test::wait(context);
      REQUIRE((w.scores.guarded() && plan.guarded() && scratch.guarded()));
      const int shared = shape.per_head ? 1 : shape.kv_heads;
      std::vector<std::vector<double>> want(std::size_t(shape.tracks()), std::vector<double>(n, 2.0));
      for (int t = 0; t < shape.tracks(); ++t)
        for (int a = 0; a < n; ++a) {
          double sum = 0;
          for (int h = 0; h < shared; ++h) {
            const auto& k = w.k[std::size_t(t / shape.head_tracks())][std::size_t(shape.per_head ? t % shape.head_tracks() : h)];
            double best = -INFINITY;
            for (int b = 1; b < n; b += 2) {
              double dot = 0, aa = 0, bb = 0;
              for (int c = 0; c < D; ++c) {
                const double x = test::value(k[std::size_t(a) * D + c]), y = test::value(k[std::size_t(b) * D + c]);
                dot += x * y, aa += x * x, bb += y * y;
              }
              best = std::max(best, dot / std::sqrt(aa * bb));
            }
            sum += best / shared;
          }
          if (a % 2 == 0) want[std::size_t(t)][std::size_t(a)] = -sum;
          // Sums of D products of bf16 in float, and three roundings.
          REQUIRE(w.scores[std::size_t(t) * world::capacity + std::size_t(a)] == Approx(want[std::size_t(t)][std::size_t(a)]).margin(D * 0x1p-23));
        }
      test::array<float> thresholds(std::size_t(shape.layers));
      for (float& t : thresholds) t = NAN;
      system::args settings;
      settings.thresholds = thresholds.data();
      const answer r = compress<system>(context, w, tokens, settings);
      CAPTURE(r.st.what);
      REQUIRE(r.st.code == errc::ok);
      for (int t = 0; t < shape.tracks(); ++t) {
        std::vector<std::pair<double, int>> even;
        for (int a = sinks; a < n - recent; a += 2) even.emplace_back(want[std::size_t(t)][std::size_t(a)], a);
        std::sort(even.begin(), even.end());
        const std::vector<int>& kept = r.kept[std::size_t(t)];
        REQUIRE(int(kept.size()) == tokens);
        const double edge = even[std::size_t(n - tokens)].first - even[std::size_t(n - tokens) - 1].first;
        if (edge < 1e-5) continue;                                               // this seed cannot tell these two apart
        for (int i = 0; i < n - tokens; ++i) REQUIRE(!std::binary_search(kept.begin(), kept.end(), even[std::size_t(i)].second));
      }
      const auto refused = [&](const char* what, auto spoil) {
        match::args y = m;
        spoil(y);
        CAPTURE(what);
        REQUIRE(std::string(match::check(context, y).what).find(what) == 0);
      };
      refused("scores is null", [](match::args& y) { y.scores.data = nullptr; });
      refused("scores needs a row", [](match::args& y) { y.scores.cols = 3; });
    }
  });
}

TEST_CASE("compact keeps the tokens that its caller names", "[ops][cache][compress]") {
  using op = cache::compact<D>;
  test::for_each_context(seed, [&](const auto& context) {
    world w(apart, 1, 24);
    w.append(context, 45);
    std::mt19937 g(seed);
    test::array<int> kept(6 * 45), counts(6);
    std::vector<std::vector<int>> alive(6);
    for (int t = 0; t < 6; ++t) {
      for (int j = 0; j < 45; ++j)
        if (int(g() % 6) < t) alive[std::size_t(t)].push_back(j);               // none of the first track's
      counts[t] = int(alive[std::size_t(t)].size());
      std::copy(alive[std::size_t(t)].begin(), alive[std::size_t(t)].end(), kept.data() + t * 45);
    }
    op::args x{.cache = &w.pages, .sequence = w.s, .pool = w.pool, .kept = {kept.data(), 6, 45, 45}, .counts = counts.data()};
    test::array<std::byte> plan(op::plan_bytes(x));
    x.plan = {plan.data(), plan.size()};
    test::scratch scratch(op::workspace_bytes(context, x));
    const auto refused = [&](const char* what, auto spoil) {
      op::args y = x;
      spoil(y);
      const status st = op::run(context, y, scratch.get());
      CAPTURE(what, st.what);
      REQUIRE(std::string(st.what).find(what) == 0);
      REQUIRE(w.pages.tokens(w.s, 0) == 45);
    };
    refused("cache is null", [](op::args& y) { y.cache = nullptr; });
    refused("counts is null", [](op::args& y) { y.counts = nullptr; });
    refused("kept is null", [](op::args& y) { y.kept.data = nullptr; });
    refused("kept needs a row", [](op::args& y) { y.kept.rows = 5; });
    refused("kept needs a column", [](op::args& y) { y.kept.cols = 3; });
    refused("plan is missing", [](op::args& y) { y.plan.size = 8; });
    if constexpr (is_host<std::decay_t<decltype(context)>>) {
      const int right = kept[5 * 45];
      kept[5 * 45] = 45;
      refused("kept must ascend", [](op::args&) {});
      kept[5 * 45] = right;
      counts[0] = 46;
      refused("counts: a track keeps", [](op::args&) {});
      counts[0] = 0;
    }
    REQUIRE(op::run(context, x, scratch.get()).code == errc::ok);
    test::wait(context);
    REQUIRE((plan.guarded() && scratch.guarded() && w.memory.guarded()));
    for (int l = 0; l < 3; ++l)
      for (const cache::plane p : {cache::plane::keys, cache::plane::values})
        w.each_row(p, l, [&](const bf16* row, int h, int i) {
          const auto& from = (p == cache::plane::keys ? w.k : w.v)[std::size_t(l)][std::size_t(h)];
          if (std::memcmp(row, from.data() + std::size_t(alive[std::size_t(2 * l + h)][std::size_t(i)]) * D, D * sizeof(bf16)) != 0) FAIL("layer " << l << " head " << h << " rank " << i);
        });
    for (int t = 0; t < 6; ++t) REQUIRE(w.pages.tokens(w.s, t) == counts[t]);
    REQUIRE(w.pages.audit().code == errc::ok);
  });
}

TEST_CASE("demoted tokens lie in the second pool as append would store them, each token in one of the two", "[ops][cache][compress]") {
  const auto context = test::any_context();
  const auto follow = [&](auto system, const pool_shape& shape) {
    using S = typename decltype(system)::type;
    using low_storage = typename S::disposition::low;
    using low_cache = cache::paged<low_storage>;
    world w(shape, 2, 25);
    pool_shape small = shape;
    small.pages = 300;
    const cache::paged_limits limits{.sequences = 2, .tokens = 200};
    test::array<std::byte> metadata(low_cache::metadata_bytes(small, limits)), memory(cache::pool_bytes<low_storage>(small)), other(memory.size());
    low_cache low;
    cache::sequence s;
    cache::page_pool pool, direct;
    REQUIRE(low.attach(small, limits, {metadata.data(), metadata.size()}).code == errc::ok);
    REQUIRE(cache::make_pool<low_storage>(small, {memory.data(), memory.size()}, pool).code == errc::ok);
    REQUIRE(cache::make_pool<low_storage>(small, {other.data(), other.size()}, direct).code == errc::ok);
    std::memset(memory.data(), 0, memory.size()), std::memset(other.data(), 0, other.size());
    REQUIRE(low.open(s).code == errc::ok);
    typename S::args settings;
    settings.low = {&low, s, pool, nullptr};
    const int tracks = shape.tracks();
    std::vector<std::vector<int>> alive(static_cast<std::size_t>(tracks));
    int demoted = 0;
    for (int step = 0; step < 3; ++step) {
      const int fresh = step == 0 ? 60 : 7;
      w.append(context, fresh);
      if constexpr (S::scorer::observes) w.template observe<S>(context, window);
      for (auto& track : alive)
        for (int i = 0; i < fresh; ++i) track.push_back(w.tokens - fresh + i);
      const answer a = compress<S>(context, w, 25, settings);
      CAPTURE(step, a.st.what);
      REQUIRE(a.st.code == errc::ok);
      const int gone = int(alive[0].size()) - 25;
      // What the definition says: the others, in order, appended one after another to a cache of low precision.
      std::vector<std::vector<int>> went(static_cast<std::size_t>(tracks));
      for (int t = 0; t < tracks; ++t) {
        std::vector<int> stay;
        for (int j = 0; j < int(alive[std::size_t(t)].size()); ++j)
          (std::binary_search(a.kept[std::size_t(t)].begin(), a.kept[std::size_t(t)].end(), j) ? stay : went[std::size_t(t)]).push_back(alive[std::size_t(t)][std::size_t(j)]);
        alive[std::size_t(t)] = stay;
        REQUIRE((low.tokens(s, t) == demoted + gone && int(stay.size()) == 25 && int(went[std::size_t(t)].size()) == gone));   // each token is in one of the two
      }
      const int width = low.width_for(&s, 1), columns = shape.kv_heads * D;
      const cache::batch_tables lies = low.tables_of(1, width);
      std::vector<int> table(std::size_t(lies.ints()));
      REQUIRE(low.tables(&s, 1, width, table.data(), lies.ints()).code == errc::ok);
      for (int l = 0; l < shape.layers; ++l) {
        test::array<bf16> k(std::size_t(gone) * columns), v(k.size());
        test::array<int> slots(std::size_t(shape.head_tracks()) * gone);
        const smalti::pages where = lies.at(table.data(), l);
        for (int h = 0; h < shape.kv_heads; ++h)
          for (int i = 0; i < gone; ++i) {
            const int token = went[std::size_t(shape.track(l, h))][std::size_t(i)];
            std::copy_n(w.k[std::size_t(l)][std::size_t(h)].begin() + token * D, D, k.begin() + i * columns + h * D);
            std::copy_n(w.v[std::size_t(l)][std::size_t(h)].begin() + token * D, D, v.begin() + i * columns + h * D);
            slots[std::size_t(shape.per_head ? h : 0) * gone + i] = int(where.slot(0, h, demoted + i));
          }
        REQUIRE((cache::append<bf16, low_storage, policy::nhd, D>::run(context, {.pool = direct, .layer = shape.per_layer ? 0 : l, .k = {k.data(), gone, columns, columns}, .v = {v.data(), gone, columns, columns}, .slots = slots.data(), .slot_head_stride = shape.per_head ? gone : 0}).code == errc::ok));
      }
      test::wait(context);
      demoted += gone;
      REQUIRE(std::memcmp(memory.data(), other.data(), memory.size()) == 0);
      REQUIRE((low.audit().code == errc::ok && memory.guarded()));
    }
    w.append(context, 3);
    if constexpr (S::scorer::observes) w.template observe<S>(context, window);
    const auto refused = [&](const char* what, auto spoil) {
      typename S::args y = settings;
      y.cache = &w.pages, y.sequence = w.s, y.pool = w.pool, y.scores = w.score_view(), y.tokens = 25;
      spoil(y);
      const status st = S::check(context, y);
      CAPTURE(what, st.what);
      REQUIRE(std::string(st.what).find(what) == 0);
    };
    refused("low.cache is null", [](typename S::args& y) { y.low.cache = nullptr; });
    refused("low.sequence: it is not open", [](typename S::args& y) { ++y.low.sequence.generation; });
    refused("low.pool: it holds another storage", [](typename S::args& y) { y.low.pool.format = policy::kv_int8<>::format; });
    refused("low.pool: it has another shape", [](typename S::args& y) { ++y.low.pool.shape.pages; });
  };
  using four_bits = policy::demote<policy::kv_int4<32>>;
  using by_votes = cache::snapkv<bf16, D, window, 5, policy::uniform, four_bits>;
  follow(std::type_identity<by_votes>{}, apart);
  follow(std::type_identity<by_votes>{}, together);
  using eight_bits = policy::demote<policy::kv_plain<fp8_e4m3>>;
  follow(std::type_identity<cache::compress<bf16, D, policy::position_only<>, policy::uniform, eight_bits>>{}, apart);
  // By place alone layers may share their pages: every layer's rows go.
  follow(std::type_identity<cache::compress<bf16, D, policy::position_only<>, policy::uniform, four_bits>>{}, {.pages = 120, .page = 8, .kv_heads = 2, .key_dim = D, .value_dim = D, .layers = 2});
}
