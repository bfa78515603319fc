// Caches that read less instead of keeping less, and latents, against their definitions in double.
#include <array>
#include <unistd.h>
#include <smalti/flow/cache.hpp>
#include <smalti/io/mapped_pool.hpp>
#include <smalti/ops/attention/rotated.hpp>
#include "flow/reading_laws.hpp"

using namespace smalti;
using namespace test::compressed;

namespace {

struct page_moves_of {
  test::array<int> source, target;
  cache::page_moves list;
  explicit page_moves_of(int n) : source(std::size_t(n)), target(std::size_t(n)), list{source.data(), target.data(), n, 0} {}
};

// SparF of one query head: which tokens, what weight, what comes out.
struct sparf_answer {
  std::vector<double> s, o;
};
sparf_answer shares(const std::vector<double>& q, const std::vector<std::vector<double>>& k, int r) {
  const int d = int(q.size());
  std::vector<int> order(q.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return std::abs(q[std::size_t(a)]) > std::abs(q[std::size_t(b)]); });
  double chosen = 0, all = 0, sum = 0;
  for (int i = 0; i < d; ++i) all += std::abs(q[std::size_t(i)]), chosen += i < r ? std::abs(q[std::size_t(order[std::size_t(i)])]) : 0;
  sparf_answer a;
  for (const auto& key : k) {
    double dot = 0;
    for (int i = 0; i < r; ++i) dot += q[std::size_t(order[std::size_t(i)])] * key[std::size_t(order[std::size_t(i)])];
    a.s.push_back(chosen > 0 ? dot / std::sqrt(d * chosen / all) : 0);
  }
  const double top = *std::max_element(a.s.begin(), a.s.end());
  for (double& x : a.s) sum += x = std::exp(x - top);
  for (double& x : a.s) x /= sum;
  return a;
}

}  // namespace

TEST_CASE("sparf reads a few channels, then a few tokens, and stands for the rest by a mean", "[flow][cache]") {
  constexpr int page = 16, group = 2, heads = 2;
  using op = cache::sparf<bf16, D, page, in_float>;
  test::for_each_context(seed, [&](const auto& context) {
    world w({.pages = 40, .page = page, .kv_heads = heads, .key_dim = D, .value_dim = D}, group, 31);
    test::array<bf16> channels(std::size_t(40) * heads * D * page);
    test::array<float> sums(heads * D);
    test::array<int> from(1);
    int had = 0;
    for (const int n : {37, 48, 83}) {
      w.append(context, n - had);
      const int width = w.pages.width_for(&w.s, 1);
      const cache::batch_tables lies = w.pages.tables_of(1, width);
      test::array<int> table(std::size_t(lies.ints()));
      REQUIRE(w.pages.tables(&w.s, 1, width, table.data(), lies.ints()).code == errc::ok);
      const auto kv = cache::kv_of<bf16>(w.pool, 0, lies.at(table.data()), 1, n);
      op::index_op::args index{.kv = {kv.k, kv.v, kv.where, 1, n}, .fresh = had == 37 ? n - had : -1, .from = had > 37 ? from.data() : nullptr, .channels = {channels.data(), 40 * heads * D, page, page}, .sums = {sums.data(), heads, D, D}};
      from[0] = had;
      REQUIRE(op::index_op::run(context, index).code == errc::ok);
      test::wait(context);
      REQUIRE((channels.guarded() && sums.guarded()));
      had = n;
      test::array<bf16> q(heads * group * D);
      std::copy(w.q[0].end() - std::ptrdiff_t(q.size()), w.q[0].end(), q.begin());
      std::vector<std::vector<std::vector<double>>> k(heads), v(heads);
      for (int h = 0; h < heads; ++h)
        for (int j = 0; j < n; ++j) {
          std::vector<double> a, b;
          for (int c = 0; c < D; ++c) a.push_back(test::value(w.k[0][std::size_t(h)][std::size_t(j) * D + c])), b.push_back(test::value(w.v[0][std::size_t(h)][std::size_t(j) * D + c]));
          k[std::size_t(h)].push_back(a), v[std::size_t(h)].push_back(b);
        }
      for (const auto& [r, tokens, window] : {std::array{8, 24, 8}, std::array{D, 24, 0}, std::array{D, 200, 8}, std::array{3, 5, 5}}) {
        test::array<float> o(heads * group * D);
        op::args x{.q = attention::bshd<const bf16>(q.data(), 1, 1, heads * group, D), .index = index, .channels_read = r, .tokens = tokens, .window = window};
        x.o = attention::bshd(o.data(), 1, 1, heads * group, D);
        test::scratch scratch(op::workspace_bytes(context, x));
        const status st = op::run(context, x, scratch.get());
        CAPTURE(seed, n, r, tokens, window, st.what, st.got, st.need);
        REQUIRE(st.code == errc::ok);
        test::wait(context);
        REQUIRE((scratch.guarded() && o.guarded()));
        for (int h = 0; h < heads; ++h) {
          std::vector<double> score(static_cast<std::size_t>(n), 0.0), mean(D, 0.0);
          std::vector<sparf_answer> own;
          std::vector<std::vector<double>> queries;
          for (int g = 0; g < group; ++g) {
            std::vector<double> row;
            for (int c = 0; c < D; ++c) row.push_back(test::value(q[std::size_t(h * group + g) * D + c]));
            own.push_back(shares(row, k[std::size_t(h)], r));
            queries.push_back(row);
            for (int j = 0; j < n; ++j) score[std::size_t(j)] += own.back().s[std::size_t(j)];
          }
          for (int j = 0; j < n; ++j)
            for (int c = 0; c < D; ++c) mean[std::size_t(c)] += v[std::size_t(h)][std::size_t(j)][std::size_t(c)] / n;
          const int last = std::max(0, n - window), want = std::min(tokens - window, last);
          std::vector<int> order(static_cast<std::size_t>(last));
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return score[std::size_t(a)] > score[std::size_t(b)]; });
          if (want > 0 && want < last) REQUIRE(score[std::size_t(order[std::size_t(want) - 1])] - score[std::size_t(order[std::size_t(want)])] > 1e-6);     // else this seed cannot tell
          std::vector<int> kept(order.begin(), order.begin() + want);
          for (int j = last; j < n; ++j) kept.push_back(j);
          for (int g = 0; g < group; ++g) {
            double share = 0, sum = 0;
            std::vector<double> p, out(D, 0.0);
            for (const int j : kept) {
              share += own[std::size_t(g)].s[std::size_t(j)];
              double dot = 0;
              for (int c = 0; c < D; ++c) dot += queries[std::size_t(g)][std::size_t(c)] * k[std::size_t(h)][std::size_t(j)][std::size_t(c)];
              p.push_back(std::exp(dot / 8 - 20)), sum += p.back();
            }
            for (std::size_t i = 0; i < kept.size(); ++i)
              for (int c = 0; c < D; ++c) out[std::size_t(c)] += p[i] / sum * v[std::size_t(h)][std::size_t(kept[i])][std::size_t(c)];
            // Probabilities are rounded to bf16 before they meet values below 4: 2^-9 of the sum of their shares; the rest is float.
            for (int c = 0; c < D; ++c)
              if (!(std::abs(o[std::size_t(h * group + g) * D + c] - (share * out[std::size_t(c)] + (1 - share) * mean[std::size_t(c)])) <= 4 * 0x1p-8)) FAIL("head " << h << " " << g << " element " << c << ": " << o[std::size_t(h * group + g) * D + c] << " " << share * out[std::size_t(c)] + (1 - share) * mean[std::size_t(c)]);
          }
        }
        const auto refused = [&](const char* what, auto spoil) {
          op::args y = x;
          spoil(y);
          const status bad = op::check(context, y);
          CAPTURE(what, bad.what);
          REQUIRE(std::string(bad.what).find(what) == 0);
        };
        if (r != 8) continue;
        refused("channels_read must be", [](op::args& y) { y.channels_read = D + 1; });
        refused("tokens must be positive", [](op::args& y) { y.window = y.tokens + 1; });
        refused("q: sparf decodes one row", [](op::args& y) { y.q.rows = 2; });
        refused("q: the query heads", [](op::args& y) { y.q.heads = 3; });
        refused("fresh counts", [](op::args& y) { y.index.fresh = -2; });
        refused("fresh and from", [&](op::args& y) { y.index.fresh = 1, y.index.from = from.data(); });
        refused("channels is null", [](op::args& y) { y.index.channels.data = nullptr; });
        refused("channels needs a row", [](op::args& y) { --y.index.channels.rows; });
        refused("sums is null", [](op::args& y) { y.index.sums.data = nullptr; });
        refused("kv: its pages must be", [](op::args& y) { y.index.kv.where.page = 8; });
      }
    }
  });
}

TEST_CASE("laws of the systems that read less and keep everything", "[flow][cache]") {
  reading_laws<read_by_quest>(41);
  reading_laws<read_by_actqkv>(42);
  reading_laws<read_by_sparf>(43);
}

TEST_CASE("latents: a cache of one vector a token, compressed and read by absorbed attention", "[flow][cache]") {
  using latent = cache::mla_latent<bf16, 64, 32>;
  using tova = latent::compress<policy::last_query>;
  const auto context = test::any_context();
  constexpr int n = 70, heads = 4, width = latent::width, kept = 30;
  const cache::pool_shape shape = latent::shape(30, 8);
  const cache::paged_limits limits{.sequences = 2, .tokens = 128};
  test::array<std::byte> metadata(latent::paged_cache::metadata_bytes(shape, limits)), memory(cache::pool_bytes<latent::storage>(shape));
  REQUIRE(cache::page_bytes(latent::storage::format, shape) == 8 * width * 2);           // bytes a token, exactly
  REQUIRE(cache::page_bytes(cache::mla_latent<>::storage::format, cache::mla_latent<>::shape(1, 64)) == 64 * 1152);
  latent::paged_cache pages;
  cache::page_pool pool;
  cache::sequence s;
  REQUIRE(pages.attach(shape, limits, {metadata.data(), metadata.size()}).code == errc::ok);
  REQUIRE(cache::make_pool<latent::storage>(shape, {memory.data(), memory.size()}, pool).code == errc::ok);
  REQUIRE(pages.open(s).code == errc::ok);
  std::mt19937 g(seed);
  const auto k = test::random_array<bf16>(std::size_t(n) * width, g), q = test::random_array<bf16>(std::size_t(heads) * width, g, 2);
  test::array<int> slots(n);
  cache::page_moves moves{};
  REQUIRE(pages.append(s, n, {slots.data()}, moves).code == errc::ok);
  REQUIRE(latent::append::run(context, {.pool = pool, .k = {k.data(), n, width, width}, .v = {}, .slots = slots.data()}).code == errc::ok);
  std::vector<int> alive(n);
  std::iota(alive.begin(), alive.end(), 0);
  const float scale = 1 / std::sqrt(48.0f);
  const auto weights = [&](int h) {
    std::vector<double> p;
    double sum = 0;
    for (const int j : alive) {
      double dot = 0;
      for (int c = 0; c < width; ++c) dot += test::value(q[std::size_t(h) * width + c]) * test::value(k[std::size_t(j) * width + c]);
      p.push_back(std::exp(dot * scale)), sum += p.back();
    }
    for (double& x : p) x /= sum;
    return p;
  };
  test::array<float> scores(128);
  for (const bool compressed : {false, true}) {
    const int have = int(alive.size()), wide = pages.width_for(&s, 1);
    const cache::batch_tables lies = pages.tables_of(1, wide);
    test::array<int> table(std::size_t(lies.ints()));
    REQUIRE(pages.tables(&s, 1, wide, table.data(), lies.ints()).code == errc::ok);
    const auto kv = latent::kv(pool, 0, lies.at(table.data()), 1, have);
    test::array<bf16> o(heads * 64);
    latent::attend::args a{};
    a.q = attention::bshd<const bf16>(q.data(), 1, 1, heads, width), a.o = attention::bshd(o.data(), 1, 1, heads, 64), a.kv = kv, a.scale = scale;
    test::scratch scratch(latent::attend::workspace_bytes(context, a));
    const status st = latent::attend::run(context, a, scratch.get());
    CAPTURE(st.what);
    REQUIRE(st.code == errc::ok);
    test::wait(context);
    for (int h = 0; h < heads; ++h) {
      const std::vector<double> p = weights(h);
      for (int c = 0; c < 64; ++c) {
        double want = 0;
        for (std::size_t i = 0; i < p.size(); ++i) want += p[i] * test::value(k[std::size_t(alive[i]) * width + c]);
        REQUIRE(std::abs(test::value(o[std::size_t(h) * 64 + c]) - want) <= 4 * 0x1p-8);        // weights and results rounded to bf16, values below 4
      }
    }
    if (compressed) break;
    tova::observe::args see{.q = a.q, .kv = kv, .heads_per_track = 1, .scale = scale, .scores = {scores.data(), 1, 128, 128}};
    test::scratch seeing(tova::observe::workspace_bytes(context, see));
    REQUIRE(tova::observe::run(context, see, seeing.get()).code == errc::ok);
    test::array<int> list(kept);
    tova::args x{.cache = &pages, .sequence = s, .pool = pool, .scores = {scores.data(), 1, 128, 128}, .tokens = kept};
    x.kept = {list.data(), 1, kept, kept};
    test::array<std::byte> plan(tova::plan_bytes(x));
    x.plan = {plan.data(), plan.size()};
    test::scratch choosing(tova::workspace_bytes(context, x));
    REQUIRE(tova::run(context, x, choosing.get()).code == errc::ok);
    test::wait(context);
    oracle::row_of_doubles all(n, 0.0);                                                         // reduced over all heads
    for (int h = 0; h < heads; ++h) {
      const std::vector<double> p = weights(h);
      for (int j = 0; j < n; ++j) all[std::size_t(j)] += p[std::size_t(j)] / heads;
    }
    alive.assign(list.begin(), list.end());
    double least = INFINITY, most = 0;
    for (int j = 0; j < n; ++j) std::binary_search(alive.begin(), alive.end(), j) ? least = std::min(least, all[std::size_t(j)]) : most = std::max(most, all[std::size_t(j)]);
    REQUIRE(least >= most - 1e-4);
    REQUIRE(pages.pages_of(s) == 4);
  }
}

// Keys and values in a file, a few pages in memory: a retriever that forgets nothing. One sequence, SnapKV's lists, attention over the listed tokens.
TEST_CASE("law of tiers: whatever has a frame, attention reads the same", "[flow][cache]") {
  constexpr int page = 8, group = 2, heads = 2, n = 120;
  using storage = policy::kv_plain<bf16>;
  const auto context = test::any_context();
  if constexpr (is_host<std::decay_t<decltype(context)>>) {
    world w({.pages = 40, .page = page, .kv_heads = heads, .key_dim = D, .value_dim = D}, group, 33);
    w.append(context, n);
    // The whole pool moves to a file: the slow tier.
    io::mapped_pool file;
    const std::string path = "smalti_cache_tiers_" + std::to_string(::getpid()) + ".pool";
    REQUIRE(file.open(path.c_str(), cache::pool_bytes<storage>(w.shape)).code == errc::ok);
    REQUIRE(::access(path.c_str(), F_OK) != 0);                                 // it has no name any more
    REQUIRE(io::mapped_pool{}.open("/no/such/folder/pool", 4096).code == errc::bad_value);
    REQUIRE(io::mapped_pool{}.open(path.c_str(), 0).code == errc::bad_shape);
    REQUIRE(io::mapped_pool{}.open(nullptr, 1).code == errc::null_pointer);
    cache::page_pool slow;
    REQUIRE(cache::make_pool<storage>(w.shape, file.memory(), slow).code == errc::ok);
    REQUIRE(cache::copy_pages::run(context, {.from = w.pool, .to = slow, .count = w.shape.pages}).code == errc::ok);
    const int width = w.pages.width_for(&w.s, 1);
    const cache::batch_tables lies = w.pages.tables_of(1, width);
    test::array<int> table(std::size_t(lies.ints()));
    REQUIRE(w.pages.tables(&w.s, 1, width, table.data(), lies.ints()).code == errc::ok);

    struct in_float : attention::options { using out = float; };
    using attend = attention::flash<bf16, D, attention::paged_kv<bf16>, policy::full, in_float>;
    test::array<bf16> q(heads * group * D);
    const auto attention_over = [&](const cache::page_pool& pool, const std::vector<int>& names, int tokens) {
      test::array<int> row(names.size()), length(1);
      std::copy(names.begin(), names.end(), row.begin());
      length[0] = tokens;
      std::vector<float> out(heads * group * D);
      test::array<float> o(out.size());
      attend::args a{};
      a.q = attention::bshd<const bf16>(q.data(), 1, 1, heads * group, D), a.o = attention::bshd(o.data(), 1, 1, heads * group, D);
      a.kv = cache::kv_of<bf16>(pool, 0, {row.data(), int(names.size()), 0, length.data(), 0, page}, 1, tokens);
      test::scratch scratch(attend::workspace_bytes(context, a));
      const status st = attend::run(context, a, scratch.get());
      CAPTURE(st.what);
      REQUIRE(st.code == errc::ok);
      std::copy(o.begin(), o.end(), out.begin());
      return out;
    };
    std::mt19937 g(seed);
    const auto follow = [&](auto rule, int frames) {
      using tier = cache::tiered<typename decltype(rule)::type>;
      pool_shape small = w.shape;
      small.pages = frames;
      test::array<std::byte> memory(cache::pool_bytes<storage>(small)), metadata(tier::metadata_bytes(small));
      std::memset(memory.data(), 0xFF, memory.size());
      cache::page_pool fast;
      REQUIRE(cache::make_pool<storage>(small, {memory.data(), memory.size()}, fast).code == errc::ok);
      tier t;
      page_moves_of moves(frames);
      int frame[16];
      REQUIRE(t.fetch(table.data(), 1, frame, moves.list).code == errc::not_initialised);
      REQUIRE(t.attach(slow, fast, {metadata.data(), metadata.size()}).code == errc::ok);
      for (int step = 0; step < 60; ++step) {
        for (bf16& e : q) e = narrow<bf16>(float(int(g() % 2001) - 1000) / 500);
        // Some pages, the last one always: what a selection by pages names.
        std::vector<int> named;
        for (int p = 0; p + 1 < width; ++p)
          if (g() % 3 == 0 && int(named.size()) < frames - 1) named.push_back(table[p]);
        named.push_back(table[width - 1]);
        const int tokens = page * int(named.size()) - (page * width - n);
        CAPTURE(seed, frames, step);
        moves.list.count = 0;
        REQUIRE(t.fetch(named.data(), int(named.size()), frame, moves.list).code == errc::ok);
        REQUIRE(cache::copy_pages::run(context, {.from = slow, .to = fast, .source = moves.list.source, .target = moves.list.target, .count = moves.list.count}).code == errc::ok);
        const std::vector<float> want = attention_over(w.pool, named, tokens), got = attention_over(fast, {frame, frame + named.size()}, tokens);
        REQUIRE(std::memcmp(want.data(), got.data(), want.size() * sizeof(float)) == 0);
        REQUIRE(memory.guarded());
        if (step % 7 == 3) t.changed(named[0]);
        t.release();
      }
      REQUIRE(t.misses() > frames / 2);
      if (frames > 4) REQUIRE(t.hits() > 0);
      // More at once than there are frames: refused, and nothing has changed.
      std::vector<int> many(table.begin(), table.begin() + std::min(width, frames + 1));
      if (int(many.size()) > frames) {
        int place[16];
        moves.list.count = 0;
        const long long before = t.hits() + t.misses();
        const status st = t.fetch(many.data(), int(many.size()), place, moves.list);
        REQUIRE((st.code == errc::exhausted && moves.list.count == 0 && t.hits() + t.misses() == before));
      }
      const int outside = w.shape.pages;
      REQUIRE(t.fetch(&outside, 1, frame, moves.list).code == errc::bad_value);
      REQUIRE(t.fetch(nullptr, 1, frame, moves.list).code == errc::null_pointer);
    };
    follow(std::type_identity<policy::least_recently_used>{}, 3);
    follow(std::type_identity<policy::least_frequently_used>{}, 6);
    follow(std::type_identity<policy::greedy_dual_size_frequency>{}, 14);
    // Swapping a sequence out to the file and in again.
    const std::vector<float> before = attention_over(w.pool, {table.begin(), table.begin() + width}, n);
    std::vector<int> list(std::size_t(w.pages.pages_of(w.s)));
    REQUIRE(w.pages.swap_out(w.s, list.data(), int(list.size())).code == errc::ok);
    REQUIRE(cache::copy_pages::run(context, {.from = w.pool, .to = slow, .source = list.data(), .count = int(list.size())}).code == errc::ok);
    std::memset(w.memory.data(), 0xFF, w.memory.size());
    REQUIRE(w.pages.swap_in(w.s, list.data(), int(list.size())).code == errc::ok);
    REQUIRE(cache::copy_pages::run(context, {.from = slow, .to = w.pool, .target = list.data(), .count = int(list.size())}).code == errc::ok);
    const std::vector<float> after = attention_over(w.pool, list, n);
    REQUIRE(std::memcmp(before.data(), after.data(), before.size() * sizeof(float)) == 0);
  }
}

TEST_CASE("actqkv: a probe of what stands out, pages it resembles, more of them where information is spread", "[flow][cache]") {
  constexpr int page = 16, group = 2, heads = 2, rows = 21, pool = 30, most = 12;
  using op = cache::actqkv<bf16, D, page>;
  test::for_each_context(seed, [&](const auto& context) {
    world w({.pages = pool, .page = page, .kv_heads = heads, .key_dim = D, .value_dim = D}, group, 35);
    test::array<bf16> means(pool * heads * D), q(rows * heads * group * D);
    test::array<float> scores(heads * most);
    test::array<int> in_use(heads), from(1), blocks(heads * 8);
    int had = 0;
    for (const int n : {40, 93, 160}) {
      w.append(context, n - had);
      const int width = w.pages.width_for(&w.s, 1);
      const cache::batch_tables lies = w.pages.tables_of(1, width);
      test::array<int> table(std::size_t(lies.ints()));
      REQUIRE(w.pages.tables(&w.s, 1, width, table.data(), lies.ints()).code == errc::ok);
      from[0] = had;
      op::args x{.kv = {}, .fresh = had == 40 ? n - had : -1, .from = had > 40 ? from.data() : nullptr, .means = {means.data(), pool * heads, D, D}, .scores = {scores.data(), heads, most, most}, .pages = in_use.data(), .k = 5, .blocks = {blocks.data(), heads, 8, 8}};
      const auto kv = cache::kv_of<bf16>(w.pool, 0, lies.at(table.data()), 1, n);
      x.kv = {kv.k, kv.v, kv.where, 1, n};
      std::copy(w.q[0].end() - std::ptrdiff_t(q.size()), w.q[0].end(), q.begin());
      x.q = attention::bshd<const bf16>(q.data(), 1, rows, heads * group, D);
      REQUIRE(op::means(context, x).code == errc::ok);
      had = n;
      const int used = (n + page - 1) / page;
      for (const float temperature : {8.0f, INFINITY}) {
        x.temperature = temperature;
        test::scratch scratch(op::workspace_bytes(context, x));
        const status st = op::score(context, x, scratch.get());
        CAPTURE(seed, n, temperature, st.what);
        REQUIRE(st.code == errc::ok);
        REQUIRE(op::choose(context, x, scratch.get()).code == errc::ok);
        test::wait(context);
        REQUIRE((scratch.guarded() && scores.guarded() && means.guarded() && blocks.guarded() && in_use.guarded()));
        for (int h = 0; h < heads; ++h) {
          REQUIRE(in_use[h] == used);
          std::vector<double> want(static_cast<std::size_t>(used), -INFINITY);
          double slack = 0;
          for (int g = 0; g < group; ++g) {
            const auto at = [&](int i, int c) { return test::value(q[std::size_t((i * heads * group + h * group + g) * D + c)]); };
            std::vector<double> a(rows, 0.0), probe(D, 0.0);
            for (int c = 0; c < D; ++c) {
              double mean = 0, var = 0;
              for (int i = 0; i < rows; ++i) mean += at(i, c) / rows;
              for (int i = 0; i < rows; ++i) var += (at(i, c) - mean) * (at(i, c) - mean) / rows;
              for (int i = 0; i < rows; ++i) a[std::size_t(i)] += (at(i, c) - mean) * (at(i, c) - mean) / (var + 1e-6) / double(temperature);
            }
            const double top = *std::max_element(a.begin(), a.end());
            double sum = 0;
            for (double& e : a) sum += e = std::exp(e - top);
            for (int i = 0; i < rows; ++i)
              for (int c = 0; c < D; ++c) probe[std::size_t(c)] += a[std::size_t(i)] / sum * at(i, c);
            for (int p = 0; p < used; ++p) {
              double dot = 0, size = 0;
              for (int c = 0; c < D; ++c) {
                double mean = 0;
                const int live = std::min(page, n - p * page);
                for (int i = 0; i < live; ++i) mean += test::value(w.k[0][std::size_t(h)][std::size_t(p * page + i) * D + c]) / live;
                dot += probe[std::size_t(c)] * mean, size += std::abs(probe[std::size_t(c)] * mean);
              }
              want[std::size_t(p)] = std::max(want[std::size_t(p)], dot);
              slack = std::max(slack, size * 0x1p-7 + 1e-5);                      // probe and mean rounded to bf16, 2^-9 each, and float
            }
          }
          for (int p = 0; p < used; ++p)
            if (!(std::abs(scores[h * most + p] - want[std::size_t(p)]) <= slack)) FAIL("head " << h << " page " << p << ": " << scores[h * most + p] << " " << want[std::size_t(p)]);
          // The first, the newest, and the best of the others.
          std::vector<int> chosen;
          for (int i = 0; i < x.k; ++i)
            if (blocks[h * 8 + i] >= 0) chosen.push_back(blocks[h * 8 + i]);
          REQUIRE(int(chosen.size()) == std::min(x.k, used));
          REQUIRE((std::is_sorted(chosen.begin(), chosen.end()) && chosen.front() == 0 && chosen.back() == used - 1));
          double least = INFINITY, greatest = -INFINITY;
          for (int p = 1; p + 1 < used; ++p) std::binary_search(chosen.begin(), chosen.end(), p) ? least = std::min(least, double(scores[h * most + p])) : greatest = std::max(greatest, double(scores[h * most + p]));
          REQUIRE(least >= greatest);
        }
      }
      const auto refused = [&](const char* what, auto spoil) {
        op::args y = x;
        spoil(y);
        test::scratch scratch(op::workspace_bytes(context, x));
        status bad = op::means(context, y);
        if (bad) bad = op::score(context, y, scratch.get());
        if (bad) bad = op::choose(context, y, scratch.get());
        CAPTURE(what, bad.what);
        REQUIRE(std::string(bad.what).find(what) == 0);
      };
      if (n != 40) continue;
      refused("kv: its pages must be", [](op::args& y) { y.kv.where.page = 8; });
      refused("fresh counts", [](op::args& y) { y.fresh = -2; });
      refused("fresh and from", [&](op::args& y) { y.fresh = 1, y.from = from.data(); });
      refused("means is null", [](op::args& y) { y.means.data = nullptr; });
      refused("means needs a row", [](op::args& y) { --y.means.rows; });
      refused("scores and pages must not be null", [](op::args& y) { y.pages = nullptr; });
      refused("scores needs a row", [](op::args& y) { y.scores.cols = 1; });
      refused("temperature must be", [](op::args& y) { y.temperature = 0; });
      refused("q needs at least one row", [](op::args& y) { y.q.rows = 0; });
      refused("k must hold the sinks", [](op::args& y) { y.k = 1; });
      refused("blocks is null", [](op::args& y) { y.blocks.data = nullptr; });
    }
  });
  // Budgets of layers: a fixed sum, more where scores are spread.
  std::vector<float> s(2 * 3 * 20, 0.0f);
  for (int r = 0; r < 3; ++r) s[std::size_t(60 + r * 20 + 4)] = 30;
  std::vector<int> in_use(6, 20), out(2), scratch(4 + 6);
  std::vector<double> weights(12);
  REQUIRE(op::budgets(s.data(), 20, in_use.data(), 2, 3, 6, out.data(), weights.data(), scratch.data()).code == errc::ok);
  REQUIRE((out[0] + out[1] == 12 && out[0] > out[1] && out[1] >= 1));
  REQUIRE(op::budgets(nullptr, 20, in_use.data(), 2, 3, 6, out.data(), weights.data(), scratch.data()).code == errc::null_pointer);
  REQUIRE(op::budgets(s.data(), 20, in_use.data(), 2, 3, 0, out.data(), weights.data(), scratch.data()).code == errc::bad_shape);
}

TEST_CASE("a compressed cache of fp16 in hnd pages, read back by attention", "[flow][cache]") {
  constexpr int page = 16, heads = 2, group = 2, n = 90, tokens = 33, w = 8;
  using storage = policy::kv_plain<fp16>;
  using layout = policy::hnd;
  using system = cache::compress<fp16, D, policy::observation_window<w>, policy::uniform, policy::evict<policy::rotate_on_read>, storage, layout>;
  struct in_float : attention::options { using out = float; };
  using attend = attention::flash<fp16, D, attention::paged_kv<fp16>, policy::full, in_float>;
  using attend_turned = attention::flash<fp16, D, attention::rotated_kv<attention::paged_kv<fp16>>, policy::full, in_float>;
  const policy::rotary<> turns{D};
  test::array<float> frequencies(2 * D);
  policy::fill_frequencies(turns, frequencies.data());
  const auto context = test::any_context();
  for (const bool per_head : {true, false}) {
    const cache::pool_shape shape{.pages = 40, .page = page, .kv_heads = heads, .key_dim = D, .value_dim = D, .per_head = per_head};
    const cache::paged_limits limits{.sequences = 1, .tokens = 128};
    test::array<std::byte> metadata(cache::paged<storage, layout>::metadata_bytes(shape, limits)), memory(cache::pool_bytes<storage, layout>(shape));
    std::memset(memory.data(), 0xFF, memory.size());                             // NaN where nobody wrote
    cache::paged<storage, layout> pages;
    cache::page_pool pool;
    cache::sequence s;
    REQUIRE(pages.attach(shape, limits, {metadata.data(), metadata.size()}).code == errc::ok);
    REQUIRE((cache::make_pool<storage, layout>(shape, {memory.data(), memory.size()}, pool).code == errc::ok));
    REQUIRE(pages.open(s).code == errc::ok);
    std::mt19937 g(seed);
    const auto k = test::random_array<fp16>(n * heads * D, g), v = test::random_array<fp16>(n * heads * D, g), q = test::random_array<fp16>(w * heads * group * D, g, 2);
    test::array<int> slots(std::size_t(shape.tracks()) * n);
    cache::page_moves none{};
    REQUIRE(pages.append(s, n, {slots.data(), n}, none).code == errc::ok);
    REQUIRE((cache::append<fp16, storage, layout>::run(context, {.pool = pool, .layer = 0, .k = {k.data(), n, heads * D, heads * D}, .v = {v.data(), n, heads * D, heads * D}, .slots = slots.data(), .slot_head_stride = per_head ? n : 0}).code == errc::ok));
    test::array<float> scores(std::size_t(shape.tracks()) * 128);
    const auto source = [&](std::vector<int>& table, int most) {
      const int width = pages.width_for(&s, 1);
      const cache::batch_tables lies = pages.tables_of(1, width);
      table.resize(std::size_t(lies.ints()));
      REQUIRE(pages.tables(&s, 1, width, table.data(), lies.ints()).code == errc::ok);
      return cache::kv_of<fp16, layout>(pool, 0, lies.at(table.data()), 1, most);
    };
    std::vector<int> table;
    typename system::observe::args see{.q = attention::bshd<const fp16>(q.data(), 1, w, heads * group, D), .lse = {}, .kv = source(table, n), .heads_per_track = per_head ? 1 : heads, .scores = {scores.data(), shape.tracks(), 128, 128}};
    test::scratch seeing(system::observe::workspace_bytes(context, see));
    REQUIRE(system::observe::run(context, see, seeing.get()).code == errc::ok);
    test::array<int> kept(std::size_t(shape.tracks()) * tokens);
    typename system::args x{.cache = &pages, .sequence = s, .pool = pool, .scores = see.scores, .tokens = tokens};
    x.kept = {kept.data(), shape.tracks(), tokens, tokens};
    test::array<std::byte> plan(system::plan_bytes(x));
    x.plan = {plan.data(), plan.size()};
    test::scratch choosing(system::workspace_bytes(context, x));
    REQUIRE(system::run(context, x, choosing.get()).code == errc::ok);
    test::wait(context);
    // The votes of this window, in double: fp16 holds what fp16 is, so only products and sums are rounded.
    const auto at = [&](int i, int h, int c) { return test::value(q[std::size_t((i * heads * group + h) * D + c)]); };
    for (int t = 0; t < shape.tracks(); ++t) {
      oracle::row_of_doubles vote(n, 0.0);
      for (int h = per_head ? t * group : 0; h < (per_head ? (t + 1) * group : heads * group); ++h)
        for (const auto& p : oracle::attention_weights(w, n, D, 0.125, [&](int i, int c) { return at(i, h, c); }, [&](int j, int c) { return test::value(k[std::size_t((j * heads + h / group) * D + c)]); }))
          for (int j = 0; j < n; ++j) vote[std::size_t(j)] += p[std::size_t(j)];
      for (int j = 0; j < n; ++j)
        if (!(std::abs(scores[std::size_t(t) * 128 + j] - vote[std::size_t(j)]) <= 1e-4 * w * group * heads)) FAIL("track " << t << " token " << j);
    }
    test::array<float> o(heads * group * D);
    std::vector<int> again;
    attend::args a{};
    a.q = attention::bshd<const fp16>(q.data() + (w - 1) * heads * group * D, 1, 1, heads * group, D), a.o = attention::bshd(o.data(), 1, 1, heads * group, D), a.kv = source(again, tokens);
    test::scratch scratch(attend::workspace_bytes(context, a));
    REQUIRE(attend::run(context, a, scratch.get()).code == errc::ok);
    test::wait(context);
    for (int h = 0; h < heads * group; ++h) {
      const int* mine = kept.data() + (per_head ? h / group : 0) * tokens;
      const auto p = oracle::attention_weights(1, tokens, D, 0.125, [&](int, int c) { return at(w - 1, h, c); }, [&](int j, int c) { return test::value(k[std::size_t((mine[j] * heads + h / group) * D + c)]); });
      for (int c = 0; c < D; ++c) {
        double want = 0;
        for (int j = 0; j < tokens; ++j) want += p[0][std::size_t(j)] * test::value(v[std::size_t((mine[j] * heads + h / group) * D + c)]);
        REQUIRE(std::abs(o[std::size_t(h * D + c)] - want) <= 4 * 0x1p-10);           // weights rounded to fp16 meet values below 4
      }
    }
    // Keys lie plain, and take part with the ranks that the eviction left: turned when they are read, the query as the newest.
    test::array<fp16> turned(std::size_t(heads * group) * D);
    std::vector<float> cosine(std::size_t(tokens) * D / 2), sine(cosine.size());
    policy::fill_rotations(turns, policy::rotary_use::encode, 0, tokens, cosine.data(), sine.data());
    std::copy(a.q.data, a.q.data + turned.size(), turned.begin());
    for (int h = 0; h < heads * group; ++h) policy::rotate_head(policy::half_split{D}, &cosine[std::size_t(tokens - 1) * D / 2], &sine[std::size_t(tokens - 1) * D / 2], turned.data() + h * D);
    attend_turned::args b{.q = attention::bshd<const fp16>(turned.data(), 1, 1, heads * group, D), .kv = {.kv = a.kv, .frequencies = frequencies.data()}, .o = a.o};
    test::scratch more(attend_turned::workspace_bytes(context, b));
    REQUIRE(attend_turned::run(context, b, more.get()).code == errc::ok);
    test::wait(context);
    for (int h = 0; h < heads * group; ++h) {
      const int* mine = kept.data() + (per_head ? h / group : 0) * tokens;
      std::vector<double> keys(std::size_t(tokens) * D);
      for (int j = 0; j < tokens; ++j)
        for (int c = 0; c < D / 2; ++c) {
          const fp16* of = &k[std::size_t((mine[j] * heads + h / group) * D)];
          const double x = test::value(of[c]), y = test::value(of[c + D / 2]), angle = j * std::pow(10000.0, -2.0 * c / D);
          keys[std::size_t(j * D + c)] = x * std::cos(angle) - y * std::sin(angle), keys[std::size_t(j * D + D / 2 + c)] = y * std::cos(angle) + x * std::sin(angle);
        }
      const auto p = oracle::attention_weights(1, tokens, D, 0.125, [&](int, int c) { return test::value(turned[std::size_t(h * D + c)]); }, [&](int j, int c) { return keys[std::size_t(j * D + c)]; });
      for (int c = 0; c < D; ++c) {
        double want = 0;
        for (int j = 0; j < tokens; ++j) want += p[0][std::size_t(j)] * test::value(v[std::size_t((mine[j] * heads + h / group) * D + c)]);
        REQUIRE(std::abs(o[std::size_t(h * D + c)] - want) <= 4 * 0x1p-10 + 8 * 0x1p-9);   // a turned key is rounded to fp16: a score of 64 products moves by 2^-12 of their sizes, below 8 together
      }
    }
  }
}
