// The index of slots by expert against lists that are appended to, the published worked example, and what goes wrong in the field: 32-bit
// offsets, 16-bit counters, unstable orders, -1 taken for a row.
#include <smalti/ops/route.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "../reference/route.hpp"
#include "../support/arrays.hpp"
#include "../support/contexts.hpp"
#include "../support/paths.hpp"
#include "route_problem.hpp"

namespace {
using namespace smalti;
using policy::expert_capacity;
using policy::row_layout;
using policy::slot_order;
using oracle::route::row;
using namespace route_problem;

struct built {
  std::vector<int> offsets, end, slot_of_row, token_of_row, row_of_slot, demand, tile_expert, tile_first;
  int capacity = 0, row_limit = 0;
};

template <class Context> built build(const Context& context, route::index::args x, const std::vector<int>& ids, const std::vector<int>& order = {}) {
  const auto id = test::array_of(ids), tokens = test::array_of(order);
  test::array<int> demand(x.experts), capacity(1);
  x.ids = id.data(), x.demand = demand.data(), x.capacity_used = capacity.data();
  if (!order.empty()) x.token_order = tokens.data();
  test::array<unsigned char> memory(route::index::index_bytes(x) + 1);
  x.memory = memory.data();
  test::scratch scratch(route::index::workspace_bytes(context, x));
  const status st = route::index::run(context, x, scratch.get());
  INFO(st.what);
  REQUIRE(st);
  test::wait(context);
  CHECK((memory.guarded() && scratch.guarded() && demand.guarded() && capacity.guarded()));
  const policy::route_index at = route::index::of(x);
  const auto copy = [](const std::int32_t* p, int n) { return std::vector<int>(p, p + n); };
  return {copy(at.rows.offsets, x.experts + 1), copy(at.end, x.experts), copy(at.slot_of_row, at.row_limit), copy(at.token_of_row, at.row_limit), copy(at.row_of_slot, x.tokens * x.choices),
          {demand.begin(), demand.end()}, copy(at.tiles.expert, at.tiles.limit), copy(at.tiles.first, at.tiles.limit), capacity[0], at.row_limit};
}

TEST_CASE("route index: the worked example") {
  const std::vector<int> ids{2, 0, 2, 1, 0, 2, 3, 2};
  test::for_each_context(1, [&](const auto& context) {
    const route::index::args x{.tokens = 4, .choices = 2, .experts = 4};
    const built a = build(context, x, ids);
    CHECK(a.demand == std::vector<int>{2, 1, 4, 1});
    CHECK(a.offsets == std::vector<int>{0, 2, 3, 7, 8});
    CHECK(a.slot_of_row == std::vector<int>{1, 4, 3, 0, 2, 5, 7, 6});
    CHECK(a.row_of_slot == std::vector<int>{3, 0, 4, 2, 1, 5, 7, 6});

    route::index::args y = x;
    y.layout = row_layout::aligned(4);
    const built b = build(context, y, ids);
    CHECK(b.offsets == std::vector<int>{0, 4, 8, 12, 16});
    CHECK(b.end == std::vector<int>{2, 5, 12, 13});

    y = x;
    y.order = slot_order::choice;
    const built c = build(context, y, ids);
    const int location[4][2] = {{0, 1}, {1, 0}, {0, 2}, {0, 3}};
    for (int t = 0; t < 4; ++t)
      for (int j = 0; j < 2; ++j) CHECK(c.row_of_slot[2 * t + j] - c.offsets[ids[2 * t + j]] == location[t][j]);

    // One slot an expert: by tokens expert 0 keeps the second choice of token 0, by choices the first choice of token 2.
    y.capacity = expert_capacity::fixed(1);
    CHECK(build(context, y, ids).slot_of_row[0] == 2 * 2 + 0);
    y.order = slot_order::token;
    CHECK(build(context, y, ids).slot_of_row[0] == 2 * 0 + 1);
  });
}

void compare(int tokens, int choices, int experts, int identities, skew how, row_layout layout, expert_capacity capacity, slot_order order, int tile_rows, std::uint32_t seed) {
  CAPTURE(tokens, choices, experts, int(how), layout.alignment, layout.rows_per_expert, int(capacity.how), capacity.slots, int(order), seed);
  std::mt19937 random(seed);
  const auto ids = random_ids(tokens, choices, experts, identities, how, random);
  std::vector<int> token_order, met(ids.size());
  if (order == slot_order::prioritized) {
    token_order.resize(tokens);
    std::iota(token_order.begin(), token_order.end(), 0);
    std::shuffle(token_order.begin(), token_order.end(), random);
  }
  for (int i = 0; i < int(met.size()); ++i)
    met[i] = order == slot_order::token ? i : (order == slot_order::choice ? i % tokens : token_order[i % tokens]) * choices + i / tokens;
  std::vector<long long> count(experts, 0);
  for (int e : ids)
    if (e >= 0 && e < experts) ++count[e];
  const long long most = experts > 0 ? *std::max_element(count.begin(), count.end()) : 0;
  using kind = expert_capacity::kind;
  const long long cap = capacity.how == kind::fixed ? capacity.slots : capacity.how == kind::capped ? std::min<long long>(most, capacity.slots) : most;
  const auto want = oracle::route::group(ids, experts, met, layout.alignment, layout.rows_per_expert, cap);

  test::for_each_context(seed, [&](const auto& context) {
    const route::index::args x{.tokens = tokens, .choices = choices, .experts = experts, .identities = identities, .layout = layout, .capacity = capacity, .order = order, .tile_rows = tile_rows};
    const built got = build(context, x, ids, token_order);
    REQUIRE(got.offsets == want.offsets);
    REQUIRE(got.end == want.end);
    REQUIRE(got.row_of_slot == want.row_of_slot);
    CHECK(got.demand == want.demand);
    CHECK(got.capacity == (capacity.how == kind::fixed ? capacity.slots : cap));
    CHECK(got.row_limit >= want.offsets.back());
    std::vector<int> rows = want.slot_of_row;
    rows.resize(got.row_limit, -1);
    REQUIRE(got.slot_of_row == rows);
    std::vector<int> kept;                                       // every kept slot once, every row back to its slot
    for (int p = 0; p < got.row_limit; ++p) {
      REQUIRE(got.token_of_row[p] == std::max(rows[p], 0) / std::max(choices, 1));     // padding reads a row that exists: never -1 (P12)
      if (rows[p] < 0) continue;
      kept.push_back(rows[p]);
      REQUIRE(got.row_of_slot[rows[p]] == p);
    }
    CHECK(kept.size() == ids.size() - std::size_t(std::count(got.row_of_slot.begin(), got.row_of_slot.end(), -1)));
    CHECK(check_segments(segments<std::int32_t>{got.offsets.data(), experts}, got.row_limit));
    if (tile_rows > 0) {                                         // tiles cover each expert's rows once, in order, and no others
      std::size_t i = 0;
      for (int e = 0; e < experts; ++e)
        for (int p = want.offsets[e]; p < want.end[e]; p += tile_rows, ++i) {
          REQUIRE(i < got.tile_expert.size());
          REQUIRE((got.tile_expert[i] == e && got.tile_first[i] == p));
        }
      for (; i < got.tile_expert.size(); ++i) REQUIRE(got.tile_expert[i] == -1);
    }
  });
}

TEST_CASE("route index: every order, layout and capacity against lists") {
  for (slot_order order : {slot_order::token, slot_order::choice, slot_order::prioritized})
    for (skew how : {skew::even, skew::one, skew::some}) {
      compare(65, 2, 4, 0, how, row_layout::indirect_ragged(), {}, order, 16, 11);
      compare(130, 3, 37, 5, how, row_layout::aligned(16), {}, order, 16, 12);
      compare(33, 4, 6, 0, how, row_layout::masked(40), expert_capacity::max_needed(), order, 8, 13);
      compare(77, 2, 9, 0, how, row_layout::masked(12), expert_capacity::fixed(12), order, 0, 14);
      compare(64, 1, 3, 0, how, row_layout::k_grouped(128), expert_capacity::capped(9), order, 0, 15);
      compare(10, 8, 256, 16, how, row_layout::compact(), expert_capacity::fixed(0), order, 4, 16);
    }
  compare(0, 2, 5, 0, skew::even, row_layout::aligned(8), {}, slot_order::token, 8, 17);           // no tokens (P7)
  compare(5, 0, 5, 0, skew::even, {}, {}, slot_order::choice, 8, 18);
  compare(3, 1, 1, 0, skew::even, {}, {}, slot_order::token, 64, 19);
  compare(40, 8, 1024, 0, skew::even, row_layout::aligned(8), {}, slot_order::token, 8, 20);       // a power of two of experts, one strip (P8)
  compare(50, 8, 3000, 0, skew::some, row_layout::aligned(4), {}, slot_order::choice, 4, 21);      // more than a strip
}

TEST_CASE("route index: 70,000 slots of one expert are counted, not wrapped") {      // P8: a counter of 16 bits
  compare(70000, 1, 3, 0, skew::one, row_layout::aligned(128), {}, slot_order::token, 128, 31);
}

TEST_CASE("route index: capacity keeps at most C, more capacity keeps no fewer, C = tokens keeps all") {
  std::mt19937 random(5);
  const int tokens = 90, choices = 2, experts = 7;
  const auto ids = random_ids(tokens, choices, experts, 0, skew::one, random);
  test::for_each_context(2, [&](const auto& context) {
    long long before = -1;
    for (int slots : {0, 1, 5, 20, 60, tokens}) {
      const built b = build(context, {.tokens = tokens, .choices = choices, .experts = experts, .capacity = expert_capacity::fixed(slots), .order = slot_order::choice}, ids);
      for (int e = 0; e < experts; ++e) CHECK(b.end[e] - b.offsets[e] <= slots);
      CHECK(b.offsets.back() >= before);
      before = b.offsets.back();
    }
    CHECK(before == tokens * choices);
  });
  CHECK(expert_capacity::tutel(1.0, 5, 4, 2) == 4);                 // 2 floor(1 * ceil(5 / 4))
  CHECK(expert_capacity::tutel(1.25, 100, 8, 2, 8) == 32);          // 2 floor(1.25 * 13) = 32
  CHECK(expert_capacity::tutel(1.0, 33, 8, 1, 4) == 8);             // 5, rounded up
  CHECK(expert_capacity::mega_blocks(1.0, 100, 8, 2) == 25);
}

TEST_CASE("route index: batch prioritised capacity keeps the tokens with the greatest scores") {
  const int tokens = 40, experts = 2;
  std::vector<float> z;
  for (int t = 0; t < tokens; ++t) z.insert(z.end(), {float((t * 7) % tokens) / 10, -1.0f});    // all prefer expert 0, by different margins
  const auto logits = test::array_of(z);
  test::for_each_context(3, [&](const auto& context) {
    using router = route::yi_lightning<route::up_to<16>>;
    test::array<int> ids(tokens), order(tokens);
    test::array<float> weights(tokens), importance(tokens);
    REQUIRE(router::run(context, {.logits = {logits.data(), tokens, experts, experts}, .tokens = tokens, .experts = experts, .choices = 1, .ids = ids.data(), .weights = weights.data(), .importance = importance.data()}));
    const route::prioritize::args sort{.keys = importance.data(), .values_out = order.data(), .count = tokens};
    test::scratch scratch(route::prioritize::workspace_bytes(context, sort));
    REQUIRE(route::prioritize::run(context, sort, scratch.get()));
    test::wait(context);
    const built b = build(context, {.tokens = tokens, .choices = 1, .experts = experts, .capacity = expert_capacity::fixed(8), .order = slot_order::prioritized},
                          {ids.begin(), ids.end()}, {order.begin(), order.end()});
    for (int t = 0; t < tokens; ++t) CHECK((b.row_of_slot[t] >= 0) == ((t * 7) % tokens >= tokens - 8));
  });
}

TEST_CASE("route index: rows past 2^31 bytes and elements are found in 64 bits") {
  // P1: row 87,383 of 12,288 elements of 2 bytes begins past 2^31; a byte offset of 32 bits is negative there. No memory is touched.
  const auto base = std::uintptr_t(1) << 40;
  const view<bf16, 1> x{reinterpret_cast<bf16*>(base), 87384, 12288, 12288};
  CHECK(reinterpret_cast<std::uintptr_t>(band(x, 87383, 1).data) == base + 87383ull * 12288 * 2);
  CHECK(87383ull * 12288 * 2 > 0x7fffffffull);
  CHECK(std::int32_t(std::uint32_t(87383u * 12288u * 2u)) < 0);                                  // what the faulty form computes
  const view<float, 1> far{reinterpret_cast<float*>(base), 2147483000, 4096, 4096};
  CHECK(reinterpret_cast<std::uintptr_t>(band(far, 2147482999, 1).data) == base + 2147482999ull * 4096 * 4);

  // P2: (expert * capacity + location) past 2^31, tokens times choices past 2^31, padding past 2^31: refused, not wrapped.
  const auto context = test::any_context();
  const auto refuses = [&](route::index::args a) {
    const status st = route::index::check(context, a);
    INFO(st.what);
    CHECK(st.code == errc::out_of_reach);
    CHECK(route::index::index_bytes(a) == 0);
    CHECK(route::index::workspace_bytes(context, a) == 0);
  };
  refuses({.tokens = 4194304, .choices = 8, .experts = 1024, .layout = row_layout::masked(4194304)});
  refuses({.tokens = 536870912, .choices = 4, .experts = 8});
  refuses({.tokens = 16777216, .choices = 64, .experts = 16777216, .layout = row_layout::aligned(128)});
  refuses({.tokens = 134217728, .choices = 1, .experts = 4096});
  CHECK(row_layout::masked(4194304).limit(0, 1024) == 4294967296ll);
  CHECK(row_layout::aligned(128).limit(2048, 256) == 2048 + 256 * 127);
  CHECK(row_layout::aligned(128).limit(5, 256) == 5 + 5 * 127);
  // An index that is in reach: bytes without overflow.
  const route::index::args large{.tokens = 100000000, .choices = 8, .experts = 8};
  CHECK(route::index::index_bytes(large) >= 3 * 4ull * 800000000);
}

// ---- routers as they behave on a real model's hidden states: tests/golden/make/routing.py

struct recorded_routing {
  int tokens = 0, experts = 0, choices = 0, count = 0;
  std::vector<float> logits;
  struct trace {
    float exponent;                                              // of the Zipf law of loads; -1: all tokens to one expert
    std::vector<float> bias;
    std::vector<int> ids;
  };
  std::vector<trace> traces;
  recorded_routing() {
    std::ifstream file(test::golden_dir() + "/routing.bin", std::ios::binary);
    const auto read = [&](void* to, std::size_t bytes) { REQUIRE(file.read(static_cast<char*>(to), std::streamsize(bytes))); };
    for (int* n : {&tokens, &experts, &choices, &count}) read(n, 4);
    REQUIRE((tokens == 768 && experts == 16 && choices == 2 && count == 5));
    logits.resize(std::size_t(tokens) * experts);
    read(logits.data(), logits.size() * 4);
    for (int i = 0; i < count; ++i) {
      trace t{0, std::vector<float>(experts), {}};
      std::vector<unsigned char> ids(std::size_t(tokens) * choices);
      read(&t.exponent, 4), read(t.bias.data(), t.bias.size() * 4), read(ids.data(), ids.size());
      t.ids.assign(ids.begin(), ids.end());
      traces.push_back(t);
    }
  }
};

TEST_CASE("route: recorded routers of a real model, from even loads to one expert for all") {
  using router = route::router<policy::logit_scorer, policy::expert_bias, policy::top_k, policy::softmax_norm, route::up_to<16>>;
  const recorded_routing all;
  const auto logits = test::array_of(all.logits);
  double last = 0;
  for (const auto& trace : all.traces) {
    CAPTURE(trace.exponent);
    std::vector<long long> load(all.experts, 0);
    for (int e : trace.ids) ++load[e];
    // the recorded loads follow their law: shares of (rank)^-exponent, an expert being chosen once by a token
    std::vector<long long> sorted(load);
    std::sort(sorted.rbegin(), sorted.rend());
    double whole = 0;
    for (int r = 1; r <= all.experts; ++r) whole += std::pow(r, -std::max(trace.exponent, 0.0f));
    for (int r = 0; r < all.experts && trace.exponent >= 0; ++r)
      CHECK(std::abs(double(sorted[r]) - std::min<double>(all.tokens, std::pow(r + 1, -trace.exponent) / whole * all.tokens * all.choices)) <= 0.02 * all.tokens);
    if (trace.exponent < 0) CHECK(sorted[0] == all.tokens);
    const double imbalance = double(sorted[0]) * all.experts / (all.tokens * all.choices);
    CHECK(imbalance > last);                                     // 1, 2.4, 4.8, 7.6, 8: the traces come in the order of skew
    last = imbalance;

    const auto bias = test::array_of(trace.bias);
    test::for_each_context(3, [&](const auto& context) {
      test::array<int> ids(trace.ids.size());
      test::array<float> weights(trace.ids.size());
      const status st = router::run(context, {.logits = {logits.data(), all.tokens, all.experts, all.experts}, .tokens = all.tokens, .experts = all.experts, .choices = all.choices, .bias = {bias.data()}, .ids = ids.data(), .weights = weights.data()});
      INFO(st.what);
      REQUIRE(st);
      test::wait(context);
      REQUIRE(std::vector<int>(ids.begin(), ids.end()) == trace.ids);      // to the last tie
      for (int t = 0; t < all.tokens; ++t) {
        const float a = all.logits[std::size_t(t) * all.experts + trace.ids[2 * t]], b = all.logits[std::size_t(t) * all.experts + trace.ids[2 * t + 1]];
        REQUIRE(std::abs(weights[2 * t] - 1 / (1 + std::exp(double(b) - a))) <= 1e-5);      // of the logits, without the bias
      }
      // grouped, dropless and with a capacity of twice the mean: nothing is lost, or exactly what is over
      const long long fair = 2ll * all.tokens * all.choices / all.experts;
      for (const bool drops : {false, true}) {
        const built b = build(context, {.tokens = all.tokens, .choices = all.choices, .experts = all.experts, .layout = row_layout::aligned(16), .capacity = drops ? expert_capacity::fixed(int(fair)) : expert_capacity{}, .tile_rows = 16}, trace.ids);
        long long kept = 0, wanted = 0;
        for (int e = 0; e < all.experts; ++e) {
          CHECK(b.demand[e] == load[e]);
          CHECK(b.end[e] - b.offsets[e] == (drops ? std::min(load[e], fair) : load[e]));
          kept += b.end[e] - b.offsets[e], wanted += drops ? std::min(load[e], fair) : load[e];
        }
        CHECK(kept == wanted);
        CHECK(std::count_if(b.row_of_slot.begin(), b.row_of_slot.end(), [](int r) { return r >= 0; }) == kept);
      }
    });
  }
}

// ---- pitfalls of public trackers (the numbers are those of the specification): what the faulty form makes of an input, and what is made here.
// P1 and P2 stand above (rows past 2^31), P4 and P5 also in route_test.cpp, P9 in lora_systems_test.cpp.

TEST_CASE("route: pitfalls, the faulty form beside ours") {
  const auto context = test::any_context();
  const auto routed_ids = [&](auto router, const std::vector<float>& z, int experts, int k, auto change) {
    using type = decltype(router);
    const auto logits = test::array_of(z);
    const int tokens = int(z.size()) / experts;
    test::array<int> ids(std::size_t(tokens) * k);
    test::array<float> weights(std::size_t(tokens) * k);
    typename type::args x{.logits = {logits.data(), tokens, experts, experts}, .tokens = tokens, .experts = experts, .choices = k, .ids = ids.data(), .weights = weights.data()};
    change(x);
    REQUIRE(type::run(context, x));
    test::wait(context);
    return std::pair(std::vector<int>(ids.begin(), ids.end()), std::vector<float>(weights.begin(), weights.end()));
  };
  const auto as_is = [](auto&) {};
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  using plain = route::router<policy::logit_scorer, policy::no_bias, policy::top_k, policy::softmax_norm, route::up_to<16>>;
  using sigmoid = route::router<policy::sigmoid_scorer, policy::no_bias, policy::top_k, policy::sum_norm, route::up_to<16>>;

  {  // P3: ties by subtracting 3e-7 an id: expert 0 wins over a greater score. And winners overwritten with -inf are chosen again.
    std::vector<float> z(8, -4.0f);
    z[0] = 1.0f, z[7] = 1.0f + 0x1p-20f;
    const auto [ids, w] = routed_ids(plain{}, z, 8, 1, as_is);
    std::vector<float> hacked(z);
    for (int e = 0; e < 8; ++e) hacked[e] -= 3e-7f * float(e);
    CHECK(std::max_element(hacked.begin(), hacked.end()) - hacked.begin() == 0);
    CHECK(ids == std::vector<int>{7});
    std::vector<float> few(8, -inf);
    few[5] = 2;
    const auto [second, w2] = routed_ids(plain{}, few, 8, 3, as_is);
    std::vector<float> left(few);
    std::vector<int> faulty;
    for (int j = 0; j < 3; ++j) {
      faulty.push_back(int(std::max_element(left.begin(), left.end()) - left.begin()));
      left[faulty.back()] = -inf;
    }
    CHECK(faulty == std::vector<int>{5, 0, 0});
    CHECK(second == std::vector<int>{5, 0, 1});
  }
  {  // P4: comparisons with NaN are false: an arg-max by > stays at expert 0, k times.
    const std::vector<float> z(8, nan);
    int best = 0;
    for (int e = 1; e < 8; ++e) best = z[e] > z[best] ? e : best;
    CHECK(best == 0);
    CHECK(routed_ids(plain{}, z, 8, 3, as_is).first == std::vector<int>{0, 1, 2});
  }
  {  // P5: all sigmoids 0: dividing by their sum gives NaN.
    const std::vector<float> z(8, -200.0f);
    const float s = 1 / (1 + std::exp(200.0f)), faulty = s / (s + s);
    CHECK(std::isnan(faulty));
    for (float w : routed_ids(sigmoid{}, z, 8, 2, as_is).second) CHECK(w == 0.0f);
  }
  {  // P6: groups that are out get the key 0 where every key is negative: they win.
    const std::vector<float> z{0.5f, 0.4f, 0.3f, 0.2f, 0.9f, -3, -3, -3}, bias(8, -5.0f);
    const auto memory = test::array_of(bias);
    std::vector<float> key(8);
    for (int e = 0; e < 8; ++e) key[e] = (e < 4 ? 1 / (1 + std::exp(-z[e])) + bias[e] : 0.0f);      // group 1 is out: 0 instead of -inf
    CHECK(std::max_element(key.begin(), key.end()) - key.begin() == 4);
    const auto [ids, w] = routed_ids(route::deepseek_v3<route::up_to<16>>{}, z, 8, 2, [&](auto& x) { x.bias = {memory.data()}, x.selector = {2, 1}; });
    CHECK(ids == std::vector<int>{0, 1});
    CHECK(std::abs(w[0] + w[1] - 1) < 1e-5f);                    // and the bias does not weigh
  }
  {  // P7: a rank without tokens takes part: routing, an index and its tiles of nothing.
    CHECK(routed_ids(plain{}, {}, 8, 2, [](auto& x) { x.logits = {}; }).first.empty());
    const built b = build(context, {.tokens = 0, .choices = 2, .experts = 5, .tile_rows = 8}, {});
    CHECK(b.offsets == std::vector<int>(6, 0));
    CHECK(b.end == std::vector<int>(5, 0));
  }
  {  // P8: 70,000 slots of one expert in a counter of 16 bits are 4,464.
    CHECK(std::uint16_t(70000) == 4464);
    CHECK(build(context, {.tokens = 70000, .choices = 1, .experts = 2}, std::vector<int>(70000, 1)).demand == std::vector<int>{0, 70000});
  }
  {  // P10: two batches at once, each its index and workspace: one being built does not touch the other.
    std::mt19937 random(7);
    const auto first = random_ids(40, 2, 6, 0, skew::even, random), second = random_ids(40, 2, 6, 0, skew::one, random);
    const built alone = build(context, {.tokens = 40, .choices = 2, .experts = 6}, first);
    const auto id1 = test::array_of(first), id2 = test::array_of(second);
    route::index::args x{.ids = id1.data(), .tokens = 40, .choices = 2, .experts = 6}, y = x;
    test::array<unsigned char> m1(route::index::index_bytes(x)), m2(route::index::index_bytes(y));
    x.memory = m1.data(), y.memory = m2.data(), y.ids = id2.data();
    test::scratch s1(route::index::workspace_bytes(context, x)), s2(route::index::workspace_bytes(context, y));
    REQUIRE(route::index::run(context, x, s1.get()));
    REQUIRE(route::index::run(context, y, s2.get()));            // the combination of x still to come
    test::wait(context);
    const policy::route_index at = route::index::of(x);
    for (int s = 0; s < 80; ++s) CHECK(at.row_of_slot[s] == alone.row_of_slot[s]);
    y.memory = m1.data();                                        // one buffer for both: the faulty form
    REQUIRE(route::index::run(context, y, s2.get()));
    test::wait(context);
    bool same = true;
    for (int s = 0; s < 80; ++s) same = same && at.row_of_slot[s] == alone.row_of_slot[s];
    CHECK_FALSE(same);
  }
  {  // P11: rows by a cursor that whoever comes first moves on: in another order of blocks, another order of rows.
    const std::vector<int> ids(300, 0);
    std::vector<int> cursor(300);
    for (int i = 0, next = 0; i < 300; ++i) cursor[(i * 7) % 300] = next++;      // slots arrive in some order: 7 and 300 share no factor
    bool rising = true;
    for (int s = 1; s < 300; ++s) rising = rising && cursor[s] > cursor[s - 1];
    CHECK_FALSE(rising);
    test::for_each_context(77, [&](const auto& any) {
      const built b = build(any, {.tokens = 300, .choices = 1, .experts = 2}, ids);
      for (int s = 0; s < 300; ++s) REQUIRE(b.row_of_slot[s] == s);
    });
  }
  {  // P12: -1 behind the last tile, as a row or as an expert, taken for a number that is not negative.
    const built b = build(context, {.tokens = 3, .choices = 1, .experts = 2, .layout = row_layout::aligned(8), .tile_rows = 8}, {1, -1, 1});
    CHECK(std::uint32_t(b.tile_expert.back()) > 0x7fffffffu);
    for (int t : b.token_of_row) CHECK((t >= 0 && t < 3));       // what a gather reads is a token even in padding
  }
}

TEST_CASE("route index: refusals name the argument and the remedy") {
  const auto context = test::any_context();
  test::array<int> ids(8), order(4);
  const std::vector<int> good_ids{2, 0, 2, 1, 0, 2, 3, -1};
  std::copy(good_ids.begin(), good_ids.end(), ids.begin());
  route::index::args good{.ids = ids.data(), .tokens = 4, .choices = 2, .experts = 4};
  test::array<unsigned char> memory(route::index::index_bytes(good));
  good.memory = memory.data();
  CHECK(route::index::check(context, good));
  const auto refused = [&](auto change, errc code, const char* word) {
    route::index::args x = good;
    change(x);
    const status st = route::index::check(context, x);
    INFO(st.what);
    CHECK(st.code == code);
    CHECK(std::string(st.what).find(word) != std::string::npos);
  };
  refused([](auto& x) { x.tokens = -1; }, errc::bad_shape, "tokens");
  refused([](auto& x) { x.choices = -1; }, errc::bad_shape, "choices");
  refused([](auto& x) { x.experts = -1; }, errc::bad_shape, "experts");
  refused([](auto& x) { x.identities = -1; }, errc::bad_shape, "identities");
  refused([](auto& x) { x.ids = nullptr; }, errc::null_pointer, "ids");
  refused([](auto& x) { x.memory = nullptr; }, errc::null_pointer, "memory");
  refused([](auto& x) { x.memory = static_cast<char*>(x.memory) + 4; }, errc::misaligned, "256");
  refused([](auto& x) { x.ids = static_cast<const int*>(x.memory) + 64; }, errc::aliased, "memory must not overlap");
  refused([](auto& x) { x.layout = {0, 0}; }, errc::bad_value, "layout.alignment");
  refused([](auto& x) { x.layout = {8, 16}; }, errc::bad_value, "masked or aligned");
  refused([](auto& x) { x.layout = row_layout::masked(3); }, errc::bad_value, "layout.rows_per_expert");
  refused([](auto& x) { x.capacity = {expert_capacity::kind::dropless, 4}; }, errc::bad_value, "capacity.slots");
  refused([](auto& x) { x.capacity = expert_capacity::fixed(-1); }, errc::bad_value, "capacity.slots");
  refused([](auto& x) { x.order = slot_order::prioritized; }, errc::null_pointer, "token_order");
  refused([](auto& x) { x.order = slot_order(9); }, errc::bad_value, "order");
  refused([](auto& x) { x.tile_rows = -1; }, errc::bad_value, "tile_rows");
  CHECK(route::index::run(context, good).code == errc::workspace_too_small);
  // What ids hold: checked on the host, and on demand for those that lie on a GPU.
  const auto ids_refused = [&](std::vector<int> bad, const char* word) {
    const status st = route::check_ids(bad.data(), 4, 2, 4);
    INFO(st.what);
    CHECK(st.code == errc::bad_value);
    CHECK(std::string(st.what).find(word) != std::string::npos);
#if !defined(__CUDACC__)
    std::copy(bad.begin(), bad.end(), ids.begin());
    CHECK(route::index::check(context, good).code == errc::bad_value);
#endif
  };
  ids_refused({2, 0, 2, 1, 0, 2, 4, -1}, "expert numbers");
  ids_refused({2, 0, 2, -2, 0, 2, 3, -1}, "expert numbers");
  ids_refused({2, 2, 2, 1, 0, 2, 3, -1}, "twice");
}

}  // namespace
