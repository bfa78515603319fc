// Caches of several memories, step by step against their papers' definitions: KIVI and MiKV; and attention to segments with origins of
// their own. The oracles quantize and attend on their own, from what was given.
#include <catch2/catch.hpp>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>
#include <smalti/ops/attention/segmented.hpp>
#include <smalti/ops/cache/balance.hpp>
#include <smalti/ops/cache/kivi.hpp>
#include <smalti/ops/cache/mikv.hpp>
#include "ops/attention_problem.hpp"
#include "ops/compress_problem.hpp"
#include "reference/kv_systems.hpp"
#include "support/arrays.hpp"
#include "support/contexts.hpp"

using namespace smalti;
namespace policy = smalti::policy;

namespace {

constexpr unsigned seed = 20261125;
constexpr int d = 64, kv_heads = 2, heads = 4;
struct in_float : attention::options {
  using out = float;
};
float plain(float x) { return to_float(narrow<bf16>(x)); }

// What each sequence was given: [token][head][d].
struct history {
  std::vector<float> keys, values;
  int tokens = 0;
  void add(std::mt19937& g, bf16* k, bf16* v) {
    std::normal_distribution<float> normal(0, 1);
    for (int i = 0; i < kv_heads * d; ++i) {
      k[i] = narrow<bf16>(normal(g) + (i % d == 7 ? 5.0f : 0.0f)), v[i] = narrow<bf16>(normal(g));
      keys.push_back(to_float(k[i])), values.push_back(to_float(v[i]));
    }
    ++tokens;
  }
  oracle::rows_of_floats rows(const std::vector<float>& of, int h) const {
    oracle::rows_of_floats out;
    for (int j = 0; j < tokens; ++j) out.emplace_back(of.begin() + (std::ptrdiff_t(j) * kv_heads + h) * d, of.begin() + (std::ptrdiff_t(j) * kv_heads + h + 1) * d);
    return out;
  }
  float key(int j, int h, int c) const { return keys[(std::size_t(j) * kv_heads + h) * d + c]; }
  float value(int j, int h, int c) const { return values[(std::size_t(j) * kv_heads + h) * d + c]; }
};

// One query of every head of a sequence against keys and values as a function gives them.
template <class Keys, class Values> void compare(const float* got, const test::array<bf16>& q, int sequence, int tokens, const Keys& key, const Values& value) {
  for (int h = 0; h < heads; ++h) {
    oracle::attention_problem p;
    p.queries = 1, p.keys = tokens, p.d = d, p.dv = d, p.scale = 1 / std::sqrt(double(d));
    const int kv = h / (heads / kv_heads);
    for (int c = 0; c < d; ++c) p.q.push_back(test::value(q[(std::size_t(sequence) * heads + h) * d + c]));
    for (int j = 0; j < tokens; ++j)
      for (int c = 0; c < d; ++c) p.k.push_back(key(j, kv, c)), p.v.push_back(value(j, kv, c));
    const auto r = oracle::attention(p);
    for (int c = 0; c < d; ++c) {
      // The merge of partial results in float adds a few roundings of it.
      const double want = r.o[c], bound = test::attention_error<bf16, float>(r, p, 0, c) + 0x1p-20 * r.size[c];
      if (!(std::abs(got[h * d + c] - want) <= bound)) {
        CAPTURE(sequence, h, c, tokens, want, got[h * d + c], bound);
        REQUIRE(std::abs(got[h * d + c] - want) <= bound);
      }
    }
  }
}

// One query of a head over a MiKV cache: tokens that are important as they were given, the others through the codes of their balanced keys, in one softmax.
// The oracle's channels: those of q beside the keys in full precision, those of the balanced q beside the others.
template <class Important>
void compare_mikv(const float* got, const bf16* q, const oracle::rows_of_floats& keys, const oracle::rows_of_floats& values, const float* balance, const float* factor, int bits, int group, const Important& important) {
  oracle::attention_problem p;
  p.queries = 1, p.keys = int(keys.size()), p.d = 2 * d, p.dv = d, p.scale = 1 / std::sqrt(double(d));
  for (int e = 0; e < d; ++e) p.q.push_back(test::value(q[e]));
  for (int e = 0; e < d; ++e) p.q.push_back(plain(float(p.q[std::size_t(e)]) * factor[e]));
  for (int j = 0; j < p.keys; ++j) {
    std::vector<float> key = keys[std::size_t(j)];
    for (int e = 0; e < d; ++e) key[std::size_t(e)] *= balance[e];
    key = oracle::token_through_codes(key, bits, group);
    const std::vector<float> value = oracle::token_through_codes(values[std::size_t(j)], bits, group);
    const bool high = important(j);
    for (int e = 0; e < d; ++e) p.k.push_back(high ? keys[std::size_t(j)][std::size_t(e)] : 0);
    for (int e = 0; e < d; ++e) p.k.push_back(high ? 0 : key[std::size_t(e)]);
    for (int e = 0; e < d; ++e) p.v.push_back(high ? values[std::size_t(j)][std::size_t(e)] : value[std::size_t(e)]);
  }
  const auto r = oracle::attention(p);
  for (int e = 0; e < d; ++e) {
    const double bound = test::attention_error<bf16, float>(r, p, 0, e) + 0x1p-20 * r.size[e];
    if (!(std::abs(got[e] - r.o[e]) <= bound)) FAIL("element " << e << ": " << got[e] << " " << r.o[e] << ", off by at most " << bound);
  }
}

// Memory in which nothing may be taken for initialised.
test::array<std::byte> filled(std::size_t bytes) {
  test::array<std::byte> memory(bytes);
  std::memset(memory.data(), 0xff, bytes);
  return memory;
}

// The new tokens of a step into layer 0.
template <class Context, class Cache, class Step> void store(const Context& context, Cache& c, const Step& step, const test::array<bf16>& k, const test::array<bf16>& v) {
  const int width = kv_heads * d, total = int(k.size()) / width;
  const status stored = c.store(context, step, 0, {k.data(), total, width, width}, {v.data(), total, width, width});
  CAPTURE(stored.what, stored.got, stored.need);
  REQUIRE(stored.code == errc::ok);
  test::wait(context);
}

// One random query of every head and sequence, which it leaves in q, over all of the cache's segments.
template <class Op, class Context, class Cache>
test::array<float> attend(const Context& context, Cache& c, const std::vector<cache::sequence>& batch, test::array<bf16>& q, std::mt19937& g) {
  const int n = int(batch.size());
  auto memory = filled(c.tables_bytes(batch.data(), n));
  typename Cache::tables tables;
  REQUIRE(c.tables_of(batch.data(), n, {memory.data(), memory.size()}, tables).code == errc::ok);
  std::normal_distribution<float> normal(0, 1);
  for (bf16& x : q) x = narrow<bf16>(normal(g));
  test::array<float> o(std::size_t(n) * heads * d);
  const typename Op::args x{.q = attention::bshd<const bf16>(q.data(), n, 1, heads, d), .segments = c.segments_of(tables, 0), .o = attention::bshd(o.data(), n, 1, heads, d)};
  const auto tuned = with_tuning<test::small_tiles>(context);
  const status fit = Op::check(tuned, x);
  CAPTURE(fit.what, fit.got, fit.need);
  REQUIRE(fit.code == errc::ok);
  test::scratch space(Op::workspace_bytes(tuned, x));
  REQUIRE(Op::run(tuned, x, space.get()).code == errc::ok);
  test::wait(context);
  return o;
}

}  // namespace

TEST_CASE("kivi keeps what its paper says, at every step", "[ops][cache][kivi]") {
  constexpr int bits = 2, group = 16, residual = 32, page = 16;
  using kivi = cache::kivi<d, bits, group, residual>;
  using op = attention::over_segments<bf16, d, kivi, in_float>;
  test::for_each_context(seed, [&](const auto& context) {
    std::mt19937 g(seed);
    const cache::pool_shape shape{.pages = 64, .page = page, .kv_heads = kv_heads, .key_dim = d, .value_dim = d};
    const cache::paged_limits limits{.sequences = 4, .tokens = 200};
    auto memory = filled(cache::pool_bytes<typename kivi::storage>(shape)), window_memory = filled(cache::pool_bytes<typename kivi::window_storage>(kivi::window_shape(shape, limits)));
    auto metadata = filled(kivi::metadata_bytes(shape, limits));
    cache::page_pool pool{}, window{};
    REQUIRE(cache::make_pool<typename kivi::storage>(shape, {memory.data(), memory.size()}, pool).code == errc::ok);
    REQUIRE(cache::make_pool<typename kivi::window_storage>(kivi::window_shape(shape, limits), {window_memory.data(), window_memory.size()}, window).code == errc::ok);
    kivi c;
    REQUIRE(c.attach(shape, limits, {metadata.data(), metadata.size()}, pool, window).code == errc::ok);
    const std::vector<int> first{5, 32, 71};
    std::vector<cache::sequence> batch(3);
    std::vector<history> given(3);
    for (auto& s : batch) REQUIRE(c.open(s).code == errc::ok);
    for (int turn = 0; turn < 70; ++turn) {
      int total = 0;
      for (int s = 0; s < 3; ++s) total += turn == 0 ? first[s] : 1;
      auto lists = filled(kivi::step_bytes(total, 3));
      typename kivi::step step;
      REQUIRE(kivi::begin(total, 3, {lists.data(), lists.size()}, step).code == errc::ok);
      test::array<bf16> k(std::size_t(total) * kv_heads * d), v(k.size());
      std::size_t at = 0;
      for (int s = 0; s < 3; ++s) {
        const int n = turn == 0 ? first[s] : 1;
        REQUIRE(c.add(step, batch[s], n).code == errc::ok);
        for (int i = 0; i < n; ++i, ++at) given[s].add(g, k.data() + at * kv_heads * d, v.data() + at * kv_heads * d);
        const oracle::kivi_lengths coded = oracle::kivi_coded(first[s], given[s].tokens, residual);
        CHECK(c.coded_keys(batch[s]) == coded.keys);
        CHECK(c.coded_values(batch[s]) == coded.values);
        CHECK(c.positions(batch[s]) == given[s].tokens);
      }
      CAPTURE(turn);
      store(context, c, step, k, v);
      if (turn == 0 || (turn > 8 && turn % 9 != 0)) continue;
      test::array<bf16> q(3 * heads * d);
      const auto o = attend<op>(context, c, batch, q, g);
      for (int s = 0; s < 3; ++s) {
        const int tokens = given[s].tokens;
        const oracle::kivi_lengths coded = oracle::kivi_coded(first[s], tokens, residual);
        std::vector<oracle::rows_of_floats> keys, values;
        for (int h = 0; h < kv_heads; ++h) {
          keys.push_back(oracle::kivi_keys(given[s].rows(given[s].keys, h), coded.keys, bits, group));
          values.push_back(oracle::kivi_values(given[s].rows(given[s].values, h), coded.values, bits, group));
        }
        const auto from = [](const std::vector<oracle::rows_of_floats>& all) { return [&all](int j, int h, int e) { return double(all[std::size_t(h)][std::size_t(j)][std::size_t(e)]); }; };
        compare(o.data() + s * heads * d, q, s, tokens, from(keys), from(values));
      }
      CHECK(o.guarded());
    }
    CHECK(c.metadata().audit().code == errc::ok);
    // Refusals change nothing.
    const int free = c.metadata().free_pages();
    auto lists = filled(kivi::step_bytes(2, 1));
    typename kivi::step step;
    REQUIRE(kivi::begin(2, 1, {lists.data(), lists.size()}, step).code == errc::ok);
    CHECK(std::string(c.add(step, batch[0], 2).what).find("one token a step") != std::string::npos);
    CHECK(c.add(step, batch[0], 1).code == errc::ok);
    CHECK(std::string(c.add(step, batch[0], 1).what).find("added to a step once") != std::string::npos);
    CHECK(std::string(c.add(step, batch[1], 1).what).find("one") == std::string::npos);
    CHECK(std::string(c.add(step, batch[2], 1).what).find("room for fewer tokens") != std::string::npos);
    for (const auto s : batch) REQUIRE(c.close(s).code == errc::ok);
    CHECK(c.metadata().free_pages() == shape.pages);
    CHECK(free < shape.pages);
    CHECK(c.add(step, batch[0], 1).code == errc::bad_value);
  });
}

TEST_CASE("mikv keeps the important tokens and demotes the others, at every step", "[ops][cache][mikv]") {
  constexpr int bits = 4, group = 32, budget = 24, sinks = 2, recent = 4;
  using low_storage = policy::kv_int4<group>;
  using mikv = cache::mikv<d, low_storage>;
  using op = attention::over_segments<bf16, d, mikv, in_float>;
  test::for_each_context(seed, [&](const auto& context) {
    std::mt19937 g(seed + 1);
    const cache::pool_shape high_shape{.pages = 24, .page = 8, .kv_heads = kv_heads, .key_dim = d, .value_dim = d, .per_head = true};
    const cache::pool_shape low_shape{.pages = 32, .page = 16, .kv_heads = kv_heads, .key_dim = d, .value_dim = d, .per_head = true};
    const cache::paged_limits limits{.sequences = 3, .tokens = 100};
    const typename mikv::settings settings{budget, sinks, recent};
    auto high_memory = filled(cache::pool_bytes<typename mikv::high_storage>(high_shape)), low_memory = filled(cache::pool_bytes<low_storage>(low_shape));
    auto metadata = filled(mikv::metadata_bytes(high_shape, low_shape, limits, settings));
    cache::page_pool high{}, low{};
    REQUIRE(cache::make_pool<typename mikv::high_storage>(high_shape, {high_memory.data(), high_memory.size()}, high).code == errc::ok);
    REQUIRE(cache::make_pool<low_storage>(low_shape, {low_memory.data(), low_memory.size()}, low).code == errc::ok);
    test::array<float> balance(kv_heads * d), factor(heads * d);
    std::vector<float> query_reach(heads * d), key_reach(kv_heads * d);
    for (float& x : query_reach) x = std::exp(std::normal_distribution<float>(0, 1)(g));
    for (float& x : key_reach) x = std::exp(std::normal_distribution<float>(0, 2)(g));
    query_reach[3] = query_reach[d + 3] = 0, key_reach[5] = 1e-9f;
    policy::fill_channel_balance(query_reach.data(), key_reach.data(), heads, kv_heads, d, balance.data(), factor.data());
    CHECK(balance[3] == 1);
    CHECK(balance[5] == 256);
    for (int h = 0; h < heads; ++h)
      for (int e = 0; e < d; ++e) {
        const float b = balance[h / 2 * d + e], most = std::max(query_reach[h / 2 * 2 * d + e], query_reach[(h / 2 * 2 + 1) * d + e]);
        CHECK(factor[h * d + e] == 1 / b);
        CHECK(b == Approx(oracle::mikv_balance(most, key_reach[h / 2 * d + e])));
        if (most > 0 && b < 256 && b > 0x1p-8f) CHECK(std::abs(b * key_reach[h / 2 * d + e] / (most / b) - 1) < 1e-5);      // both reach as far
      }
    mikv c;
    REQUIRE(c.attach(high, low, limits, settings, {metadata.data(), metadata.size()}, balance.data(), factor.data(), heads).code == errc::ok);
    std::vector<cache::sequence> batch(2);
    std::vector<history> given(2);
    std::vector<std::vector<std::vector<int>>> members(2, std::vector<std::vector<int>>(kv_heads));       // by place
    for (auto& s : batch) REQUIRE(c.open(s).code == errc::ok);
    const std::vector<int> first{20, 50};
    for (int turn = 0; turn < 30; ++turn) {
      int total = 0;
      for (int s = 0; s < 2; ++s) total += turn == 0 ? first[s] : 1;
      auto lists = filled(c.step_bytes(total, 2));
      typename mikv::step step;
      REQUIRE(c.begin(total, 2, {lists.data(), lists.size()}, step).code == errc::ok);
      test::array<bf16> k(std::size_t(total) * kv_heads * d), v(k.size());
      std::size_t at = 0;
      for (int s = 0; s < 2; ++s) {
        const int n = turn == 0 ? first[s] : 1, before = given[s].tokens, stride = 60;
        std::vector<float> scores(kv_heads * stride);
        for (float& x : scores) x = float(int(g() % 7));                  // ties
        for (int h = 0; h < kv_heads; ++h) {
          auto& all = members[s][h];
          const std::vector<double> importance(scores.begin() + h * stride, scores.begin() + h * stride + (turn == 0 ? n : int(all.size())));
          if (turn == 0) all = oracle::mikv_important(importance, budget, sinks, recent);
          else if (int(all.size()) < budget) all.push_back(before);
          else all[std::size_t(oracle::mikv_least(all, importance, before, sinks, recent))] = before;
        }
        const status added = c.add(step, batch[s], n, scores.data(), stride);
        CAPTURE(turn, s, added.what, added.got, added.need);
        REQUIRE(added.code == errc::ok);
        for (int i = 0; i < n; ++i, ++at) given[s].add(g, k.data() + at * kv_heads * d, v.data() + at * kv_heads * d);
        CHECK(c.important(batch[s]) + c.demoted(batch[s]) == given[s].tokens);       // every token is in exactly one set
        CHECK(c.demoted(batch[s]) == std::max(0, given[s].tokens - budget));
        for (int h = 0; h < kv_heads; ++h)
          for (int m = 0; m < c.important(batch[s]); ++m) REQUIRE(c.member(batch[s], h, m) == members[s][h][m]);
      }
      CAPTURE(turn);
      store(context, c, step, k, v);
      if (turn % 5 != 0) continue;
      test::array<bf16> q(2 * heads * d);
      const auto o = attend<op>(context, c, batch, q, g);
      for (int s = 0; s < 2; ++s)
        for (int h = 0; h < heads; ++h) {
          CAPTURE(s, h);
          const int kv = h / (heads / kv_heads);
          const std::vector<int>& mine = members[s][kv];
          compare_mikv(o.data() + (s * heads + h) * d, q.data() + (s * heads + h) * d, given[s].rows(given[s].keys, kv), given[s].rows(given[s].values, kv), balance.data() + kv * d, factor.data() + h * d, bits, group,
                       [&](int j) { return std::find(mine.begin(), mine.end(), j) != mine.end(); });
        }
    }
    CHECK(c.high_metadata().audit().code == errc::ok);
    CHECK(c.low_metadata().audit().code == errc::ok);
    auto lists = filled(c.step_bytes(1, 1));
    typename mikv::step step;
    REQUIRE(c.begin(1, 1, {lists.data(), lists.size()}, step).code == errc::ok);
    CHECK(std::string(c.add(step, batch[0], 1).what).find("scores are missing") != std::string::npos);
    CHECK(c.positions(batch[0]) == given[0].tokens);
    for (const auto s : batch) REQUIRE(c.close(s).code == errc::ok);
    CHECK(c.high_metadata().free_pages() == high_shape.pages);
    CHECK(c.low_metadata().free_pages() == low_shape.pages);
    cache::pool_shape shared = high_shape;
    shared.per_head = false;
    CHECK(std::string(mikv::check(shared, low_shape, limits, settings).what).find("set per_head") != std::string::npos);
    CHECK(std::string(mikv::check(high_shape, low_shape, limits, {4, 2, 3}).what).find("must hold the sinks") != std::string::npos);
  });
}

template <class Values> test::array<bf16> in_memory(const Values& x) {
  test::array<bf16> a(x.size());
  std::copy(x.begin(), x.end(), a.begin());
  return a;
}
template <class T, class Context> void reach_of(const Context& context, const view<const T>& x, float* most, bool anew) {
  using op = cache::channel_reach<T>;
  const typename op::args a{x, most, anew};
  test::scratch space(op::workspace_bytes(context, a));
  const status st = op::run(context, a, space.get());
  INFO(st.what << " got " << st.got << " need " << st.need);
  REQUIRE(st.code == errc::ok);
  test::wait(context);
  REQUIRE(space.guarded());
}

TEST_CASE("the reach of channels is their largest magnitude, the balancer MiKV's", "[ops][cache][mikv]") {
  std::mt19937 g(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (const auto& size : {std::pair{0, 8}, {1, 8}, {17, 72}, {1024, 128}, {1025, 8}, {3000, 136}}) {
    const int rows = size.first, cols = size.second, stride = cols + 16;
    CAPTURE(seed, rows, cols);
    test::array<bf16> x(std::size_t(rows + 1) * std::size_t(stride));
    for (bf16& e : x) e = bf16{0x7fc0};                // beyond the columns and the rows lies NaN
    std::vector<float> want(static_cast<std::size_t>(cols), 0.0f);
    for (int i = 0; i < rows; ++i)
      for (int c = 0; c < cols; ++c) {
        const bf16 v = narrow<bf16>(uniform(g) * float(c % 5));
        x[std::size_t(i) * std::size_t(stride) + std::size_t(c)] = v, want[std::size_t(c)] = std::max(want[std::size_t(c)], std::abs(to_float(v)));
      }
    test::for_each_context(seed, [&](const auto& context) {
      test::array<float> most(static_cast<std::size_t>(cols));
      std::fill(most.begin(), most.end(), 7.0f);
      const view<const bf16> all{x.data(), rows, cols, stride};
      reach_of(context, all, most.data(), true);
      REQUIRE(most.guarded());
      REQUIRE(std::equal(most.begin(), most.end(), want.begin()));
      most[0] = 9, most[1] = -1;
      reach_of(context, all, most.data(), false);      // what is there counts
      REQUIRE((most[0] == 9 && most[1] == (rows > 0 ? want[1] : -1)));
      if (rows != 17) return;
      const auto refused = [&](const char* what, cache::channel_reach<bf16>::args a) {
        const status bad = cache::channel_reach<bf16>::check(context, a);
        CAPTURE(what, bad.what);
        REQUIRE(std::string(bad.what).find(what) == 0);
      };
      refused("x must not have", {{x.data(), -1, cols, stride}, most.data()});
      refused("most is null", {all, nullptr});
      refused("x is null", {{nullptr, rows, cols, stride}, most.data()});
      refused("x: its columns", {{x.data(), rows, cols - 1, stride}, most.data()});
      refused("x: the stride", {{x.data(), rows, cols, cols - 8}, most.data()});
      refused("x must begin", {{x.data() + 1, rows, cols, stride}, most.data()});
      refused("x: rows * stride", {{x.data(), 1 << 30, cols, stride}, most.data()});
      refused("most must not overlap", {all, reinterpret_cast<float*>(x.data())});
      // Channels that say nothing are left alone, others stay within bounds.
      test::array<float> q(8), k(8), balance(8), factor(8);
      const float queries[] = {4, 0, 1, INFINITY, 1e9f, 1e-9f, 2, 9}, keys[] = {1, 1, 0, 1, 1, 1, INFINITY, 16};
      const double bounded[] = {2, 1, 1, 1, 256, 1.0 / 256, 1, 0.75};
      std::copy_n(queries, 8, q.begin()), std::copy_n(keys, 8, k.begin());
      cache::channel_balance::args b{q.data(), k.data(), 1, 1, 1, 8, balance.data(), factor.data()};
      REQUIRE(cache::channel_balance::run(context, b).code == errc::ok);
      test::wait(context);
      for (int c = 0; c < 8; ++c) {
        CAPTURE(c);
        REQUIRE(double(balance[c]) == Approx(bounded[c]).epsilon(0x1p-22));
        REQUIRE(double(factor[c]) == Approx(1 / bounded[c]).epsilon(0x1p-22));
      }
      const auto wrong = [&](const char* what, auto spoil) {
        cache::channel_balance::args y = b;
        spoil(y);
        const status bad = cache::channel_balance::check(context, y);
        CAPTURE(what, bad.what);
        REQUIRE(std::string(bad.what).find(what) == 0);
      };
      wrong("layers, heads", [](auto& y) { y.dim = -1; });
      wrong("heads must be", [](auto& y) { y.heads = 3, y.kv_heads = 2; });
      wrong("layers * heads", [](auto& y) { y.layers = 1 << 30; });
      wrong("query_reach and", [](auto& y) { y.key_reach = nullptr; });
      wrong("balance and factor must not be null", [](auto& y) { y.factor = nullptr; });
      wrong("balance and factor must not overlap", [&](auto& y) { y.factor = q.data(); });
    });
  }
}

// MiKV from its beginning: importance is the attention that a prompt's tokens have had from all its queries, the balancer the reach of its channels.
TEST_CASE("a prompt demoted by its own attention and reach is MiKV's", "[ops][cache][mikv]") {
  constexpr int bits = 4, group = 32, n = 60, budget = 24, layers = 2;
  using low_storage = policy::kv_int4<group>;
  using low_cache = cache::paged<low_storage>;
  using system = cache::compress<bf16, d, policy::accumulated<>, policy::uniform, policy::demote<low_storage, true>>;
  using op = attention::over_segments<bf16, d, cache::mikv<d, low_storage>, in_float>;
  const cache::pool_shape shape{.pages = 120, .page = 8, .kv_heads = kv_heads, .key_dim = d, .value_dim = d, .layers = layers, .per_head = true, .per_layer = true};
  test::for_each_context(seed, [&](const auto& context) {
    test::compressed::world w(shape, heads / kv_heads, 71);
    w.append(context, n);
    w.observe<system>(context, n);
    test::array<float> balance(layers * kv_heads * d), factor(layers * heads * d), query_reach(factor.size()), key_reach(balance.size());
    std::vector<float> most_of_queries(factor.size(), 0.0f), most_of_keys(balance.size(), 0.0f);
    for (int l = 0; l < layers; ++l) {
      for (std::size_t i = 0; i < w.q[std::size_t(l)].size(); ++i) most_of_queries[l * heads * d + i % (heads * d)] = std::max(most_of_queries[l * heads * d + i % (heads * d)], std::abs(to_float(w.q[std::size_t(l)][i])));
      for (int h = 0; h < kv_heads; ++h)
        for (std::size_t i = 0; i < std::size_t(n) * d; ++i) most_of_keys[(l * kv_heads + h) * d + i % d] = std::max(most_of_keys[(l * kv_heads + h) * d + i % d], std::abs(to_float(w.k[std::size_t(l)][std::size_t(h)][i])));
      // Queries in two parts, as a prompt comes; the keys of a head are rows of their own here.
      const test::array<bf16> q = in_memory(w.q[std::size_t(l)]);
      const int rows = int(w.q[std::size_t(l)].size()) / (heads * d), first = rows / 3;
      reach_of(context, view<const bf16>{q.data(), first, heads * d, heads * d}, query_reach.data() + l * heads * d, true);
      reach_of(context, view<const bf16>{q.data() + first * heads * d, rows - first, heads * d, heads * d}, query_reach.data() + l * heads * d, false);
      for (int h = 0; h < kv_heads; ++h) {
        const test::array<bf16> k = in_memory(w.k[std::size_t(l)][std::size_t(h)]);
        reach_of(context, view<const bf16>{k.data(), n, d, d}, key_reach.data() + (l * kv_heads + h) * d, true);
      }
    }
    REQUIRE(std::equal(query_reach.begin(), query_reach.end(), most_of_queries.begin()));
    REQUIRE(std::equal(key_reach.begin(), key_reach.end(), most_of_keys.begin()));
    REQUIRE(cache::channel_balance::run(context, {query_reach.data(), key_reach.data(), layers, heads, kv_heads, d, balance.data(), factor.data()}).code == errc::ok);
    test::wait(context);
    REQUIRE((query_reach.guarded() && key_reach.guarded() && balance.guarded() && factor.guarded()));
    for (int i = 0; i < layers * heads * d; ++i) {
      const int pair = i / (2 * d) * 2 * d + i % d, key = i / (2 * d) * d + i % d;
      // a quotient, a root and another quotient of floats
      REQUIRE(1 / double(factor[i]) == Approx(oracle::mikv_balance(std::max(most_of_queries[pair], most_of_queries[pair + d]), most_of_keys[key])).epsilon(0x1p-21));
      REQUIRE(double(balance[key]) * double(factor[i]) == Approx(1).epsilon(0x1p-22));
    }
    const cache::paged_limits limits{.sequences = 1, .tokens = n};
    auto metadata = filled(low_cache::metadata_bytes(shape, limits)), memory = filled(cache::pool_bytes<low_storage>(shape));
    low_cache low;
    cache::sequence lower;
    cache::page_pool pool;
    REQUIRE(low.attach(shape, limits, {metadata.data(), metadata.size()}).code == errc::ok);
    REQUIRE(cache::make_pool<low_storage>(shape, {memory.data(), memory.size()}, pool).code == errc::ok);
    REQUIRE(low.open(lower).code == errc::ok);
    system::args settings;
    settings.low = {&low, lower, pool, balance.data()};
    const auto chosen = test::compressed::compress<system>(context, w, budget, settings);
    CAPTURE(chosen.st.what);
    REQUIRE(chosen.st.code == errc::ok);
    std::normal_distribution<float> normal(0, 1);
    test::array<bf16> q(heads * d);
    for (bf16& x : q) x = narrow<bf16>(normal(w.g));
    std::vector<int> high_table, low_table;
    const auto tables = [](auto& pages, const cache::sequence s, std::vector<int>& table) {
      const int width = pages.width_for(&s, 1);
      const cache::batch_tables lies = pages.tables_of(1, width);
      table.resize(std::size_t(lies.ints()));
      REQUIRE(pages.tables(&s, 1, width, table.data(), lies.ints()).code == errc::ok);
      return lies;
    };
    const cache::batch_tables high_lies = tables(w.pages, w.s, high_table), low_lies = tables(low, lower, low_table);
    for (int l = 0; l < layers; ++l) {
      test::array<float> o(heads * d);
      const op::args x{.q = attention::bshd<const bf16>(q.data(), 1, 1, heads, d),
                       .segments = {{cache::source_of<test::compressed::storage, policy::nhd, d>(w.pool, 0, high_lies.at(high_table.data(), l), 1, budget), {}, {}},
                                    {cache::source_of<low_storage, policy::nhd, d>(pool, 0, low_lies.at(low_table.data(), l), 1, n - budget), {}, {factor.data() + l * heads * d}}},
                       .o = attention::bshd(o.data(), 1, 1, heads, d)};
      const auto tuned = with_tuning<test::small_tiles>(context);
      const status fit = op::check(tuned, x);
      CAPTURE(fit.what);
      REQUIRE(fit.code == errc::ok);
      test::scratch space(op::workspace_bytes(tuned, x));
      REQUIRE(op::run(tuned, x, space.get()).code == errc::ok);
      test::wait(context);
      for (int h = 0; h < heads; ++h) {
        const int kv = h / 2;
        const std::vector<int> stay = oracle::mikv_important(w.votes(l, kv, n, w.all()), budget, 0, budget / 2);
        CAPTURE(l, h);
        REQUIRE(chosen.kept[std::size_t(shape.track(l, kv))] == stay);
        oracle::rows_of_floats keys, values;
        for (int j = 0; j < n; ++j) {
          keys.emplace_back(), values.emplace_back();
          for (int e = 0; e < d; ++e) keys.back().push_back(to_float(w.k[std::size_t(l)][std::size_t(kv)][std::size_t(j * d + e)])), values.back().push_back(to_float(w.v[std::size_t(l)][std::size_t(kv)][std::size_t(j * d + e)]));
        }
        compare_mikv(o.data() + h * d, q.data() + h * d, keys, values, balance.data() + (l * kv_heads + kv) * d, factor.data() + (l * heads + h) * d, bits, group, [&](int j) { return std::binary_search(stay.begin(), stay.end(), j); });
      }
      CHECK(o.guarded());
    }
  });
}

// Keys of two segments are stored rotated from the beginning of each; a third is a list of tokens, gathered from rows that are longer.
TEST_CASE("segments with origins of their own and lists of tokens", "[ops][attention][segmented]") {
  constexpr int sequences = 2, rows = 90, tokens_of_a = 40, tokens_of_b = 27, listed = 33;
  using dense = attention::dense_kv<bf16>;
  using op = attention::segmented<bf16, d, in_float, attention::segment<dense, policy::full, attention::turned_queries>, attention::segment<dense, policy::causal, attention::turned_queries>, attention::segment<attention::paged_kv<bf16>>>;
  std::mt19937 g(seed + 2);
  const policy::rotary<> rope{.dims = d};
  test::array<float> frequencies(4 * d / 2);
  policy::fill_frequencies(rope, frequencies.data());
  const auto turn = [&](const std::vector<double>& x, int position) {
    std::vector<double> y(d);
    for (int i = 0; i < d / 2; ++i) {
      const double a = position * std::pow(double(rope.base), -2.0 * i / d);
      y[i] = x[i] * std::cos(a) - x[i + d / 2] * std::sin(a), y[i + d / 2] = x[i + d / 2] * std::cos(a) + x[i] * std::sin(a);
    }
    return y;
  };
  std::normal_distribution<float> normal(0, 1);
  constexpr int wide = heads * d + 16;                      // a row of queries, and what lies behind it
  test::array<bf16> q(sequences * wide), k(std::size_t(3) * sequences * rows * kv_heads * d), v(k.size());
  for (auto* all : {&q, &k, &v})
    for (bf16& x : *all) x = narrow<bf16>(normal(g));
  for (int s = 0; s < sequences; ++s) std::fill_n(q.data() + s * wide + heads * d, wide - heads * d, bf16{0x7fc0});
  const auto at = [&](int segment, int s, int j, int h) { return ((std::size_t(segment * sequences + s) * rows + j) * kv_heads + h) * d; };
  std::vector<float> plain_keys(k.size());
  for (std::size_t i = 0; i < plain_keys.size(); ++i) plain_keys[i] = to_float(k[i]);
  for (int segment = 0; segment < 2; ++segment)
    for (int s = 0; s < sequences; ++s)
      for (int j = 0; j < rows; ++j)
        for (int h = 0; h < kv_heads; ++h) {
          const std::vector<double> x(plain_keys.begin() + std::ptrdiff_t(at(segment, s, j, h)), plain_keys.begin() + std::ptrdiff_t(at(segment, s, j, h)) + d);
          const auto y = turn(x, j);
          for (int e = 0; e < d; ++e) k[at(segment, s, j, h) + e] = narrow<bf16>(float(y[e]));
        }
  test::array<std::int32_t> used_a(sequences), used_b(sequences);
  used_a[0] = tokens_of_a, used_a[1] = 0, used_b[0] = tokens_of_b, used_b[1] = 1;         // a segment without keys, one with one
  test::array<int> positions_a(sequences), positions_b(sequences), list(sequences * kv_heads * listed), length(sequences);
  for (int s = 0; s < sequences; ++s) {
    positions_a[s] = used_a[s] + used_b[s] - 1, positions_b[s] = used_b[s] - 1, length[s] = listed - 20 * s;
    for (int h = 0; h < kv_heads; ++h)
      for (int i = 0; i < listed; ++i) list[(s * kv_heads + h) * listed + i] = i < length[s] ? s * rows + int(g() % rows) : 1 << 28;   // of the third segment's rows
  }
  const auto batch = [&](test::array<bf16>& x, int segment) { return attention::bshd<const bf16>(x.data() + at(segment, 0, 0, 0), sequences, rows, kv_heads, d); };
  test::for_each_context(seed, [&](const auto& context) {
    test::array<float> o(sequences * heads * d);
    typename op::args x{.q = attention::bshd<const bf16>(q.data(), sequences, 1, heads, d), .segments = {}, .o = attention::bshd(o.data(), sequences, 1, heads, d)};
    x.segments = {{{batch(k, 0), batch(v, 0), used_a.data()}, {}, {positions_a.data(), frequencies.data()}}, {{batch(k, 1), batch(v, 1), used_b.data()}, {}, {positions_b.data(), frequencies.data()}},
                  {{attention::pool_of<const bf16>(policy::nhd{}, k.data() + at(2, 0, 0, 0), sequences * rows, 1, kv_heads, d), attention::pool_of<const bf16>(policy::nhd{}, v.data() + at(2, 0, 0, 0), sequences * rows, 1, kv_heads, d),
                    {list.data(), kv_heads * listed, listed, length.data(), 0, 1}, sequences, listed}, {}, {}}};
    x.q.row_stride = wide, x.q.sequence_stride = wide;
    const auto tuned = with_tuning<test::small_tiles>(context);
    const status fit = op::check(tuned, x);
    CAPTURE(fit.what, fit.got, fit.need);
    REQUIRE(fit.code == errc::ok);
    test::scratch space(op::workspace_bytes(tuned, x));
    REQUIRE(op::run(tuned, x, space.get()).code == errc::ok);
    test::wait(context);
    for (int s = 0; s < sequences; ++s)
      for (int h = 0; h < heads; ++h) {
        const int kv = h / (heads / kv_heads), total = used_a[s] + used_b[s] + length[s];
        std::vector<double> query;
        for (int e = 0; e < d; ++e) query.push_back(test::value(q[std::size_t(s) * wide + h * d + e]));
        oracle::attention_problem p;                      // channels: q turned for each segment, and as it is
        p.queries = 1, p.keys = total, p.d = 3 * d, p.dv = d, p.scale = 1 / std::sqrt(double(d));
        for (const auto& part : {turn(query, positions_a[s]), turn(query, positions_b[s]), query})
          for (double y : part) p.q.push_back(plain(float(y)));
        for (int j = 0; j < total; ++j) {
          const int segment = j < used_a[s] ? 0 : j < used_a[s] + used_b[s] ? 1 : 2;
          const int row = segment == 0 ? j : segment == 1 ? j - used_a[s] : list[(s * kv_heads + kv) * listed + j - used_a[s] - used_b[s]] - s * rows;
          for (int part = 0; part < 3; ++part)
            for (int e = 0; e < d; ++e) p.k.push_back(part == segment ? test::value(k[at(segment, s, row, kv) + e]) : 0.0);
          for (int e = 0; e < d; ++e) p.v.push_back(test::value(v[at(segment, s, row, kv) + e]));
        }
        const auto r = oracle::attention(p);
        for (int e = 0; e < d; ++e) {
          // An element of a turned query may round the other way: 2^-8 of it, which the scores see.
          const double got = o[(std::size_t(s) * heads + h) * d + e], bound = test::attention_error<bf16, float>(r, p, 0, e) + (0x1p-20 + 2 * 0x1p-8 * r.reach[0]) * r.size[e];
          if (!(std::abs(got - r.o[e]) <= bound)) {
            CAPTURE(s, h, e, got, r.o[e], bound);
            REQUIRE(std::abs(got - r.o[e]) <= bound);
          }
        }
      }
    // Bad input is refused before any work.
    x.segments = {};
    const status none = op::check(tuned, x);
    CHECK(none.code == errc::null_pointer);
    CHECK(std::string(none.what).find("turned_queries need positions") != std::string::npos);
    x.q.head_stride = 2 * d;
    CHECK(std::string(op::check(tuned, x).what).find("without gaps") != std::string::npos);
  });
}
