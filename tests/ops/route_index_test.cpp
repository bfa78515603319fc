// The index of slots by expert against lists that are appended to, the published worked example, and what goes wrong in the field: 32-bit
// offsets, 16-bit counters, unstable orders, -1 taken for a row. Then the gradients of weights and the balance of loads.
#include <smalti/ops/route.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "../reference/route.hpp"
#include "../support/arrays.hpp"
#include "../support/contexts.hpp"

namespace {
using namespace smalti;
using policy::expert_capacity;
using policy::row_layout;
using policy::slot_order;
using oracle::route::row;

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

enum class skew { even, one, some };
std::vector<int> random_ids(int tokens, int choices, int experts, int identities, skew how, std::mt19937& random) {
  std::vector<int> ids(std::size_t(tokens) * choices, -1);
  for (int t = 0; t < tokens; ++t)
    for (int j = 0; j < choices; ++j) {
      if (how == skew::some && random() % 4 == 0) continue;      // no expert
      for (;;) {
        const int e = how == skew::one && j == 0 ? experts / 2 : int(random() % (experts + identities));
        const auto mine = ids.begin() + std::size_t(t) * choices;
        if (std::find(mine, mine + j, e) != mine + j) continue;
        mine[j] = e;
        break;
      }
    }
  return ids;
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

// ---- gradients

// d/dz of sum_j u_j w_j(z) by central differences of the definition in double.
template <class Router> void differentiate(typename route::weight_gradient<Router>::args x, oracle::route::score how, oracle::route::norm weigh, double constant, std::uint32_t seed, const row& factor = {}) {
  CAPTURE(x.experts, x.choices, seed);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  const int tokens = x.tokens, experts = x.experts, k = x.choices;
  std::vector<float> z(std::size_t(tokens) * experts), u(std::size_t(tokens) * k);
  for (float& v : z) v = normal(random);
  for (float& v : u) v = normal(random);
  std::vector<int> ids = random_ids(tokens, k, experts, 0, skew::some, random);
  const auto logits = test::array_of(z), gradient = test::array_of(u);
  const auto chosen = test::array_of(ids);
  test::for_each_context(seed, [&](const auto& context) {
    test::array<float> result(z.size());
    x.logits = {logits.data(), tokens, experts, experts}, x.ids = chosen.data(), x.gradient = gradient.data(), x.result = {result.data(), tokens, experts, experts};
    REQUIRE(route::weight_gradient<Router>::run(context, x));
    test::wait(context);
    CHECK(result.guarded());
    double worst = 0;
    for (int t = 0; t < tokens; ++t) {
      const auto loss = [&](row at) {
        for (int e = 0; e < experts && !factor.empty(); ++e) at[e] *= factor[e];
        const row w = oracle::route::weights(oracle::route::scores(at, how), {ids.begin() + t * k, ids.begin() + (t + 1) * k}, weigh, x.scale, constant);
        double sum = 0;
        for (int j = 0; j < k; ++j) sum += w[j] * u[t * k + j];
        return sum;
      };
      const row at(z.begin() + t * experts, z.begin() + (t + 1) * experts);
      double largest = 0, difference = 0;
      for (int e = 0; e < experts; ++e) {
        row up(at), down(at);
        up[e] += 1e-5, down[e] -= 1e-5;
        const double want = (loss(up) - loss(down)) / 2e-5;
        largest = std::max(largest, std::abs(want));
        difference = std::max(difference, std::abs(want - result[t * experts + e]));
      }
      // Scores within 130 2^-24 of theirs, k terms in each sum, a few products: 2^-16 of the greatest; differences in double err by 1e-9.
      worst = std::max(worst, difference / (largest * 0x1p-15 + 1e-8));
    }
    CHECK(worst <= 1);
  });
}

TEST_CASE("route gradient: each norm and scorer against differences in double") {
  using oracle::route::norm;
  using oracle::route::score;
  using policy::no_bias, policy::top_k;
  using o = route::up_to<64>;
  differentiate<route::mixtral<o>>({.tokens = 7, .experts = 20, .choices = 4, .scale = 2}, score::logit, norm::softmax, 0, 1);
  differentiate<route::yi_lightning<o>>({.tokens = 7, .experts = 20, .choices = 4}, score::softmax, norm::sum, 1e-20, 2);
  differentiate<route::longcat_flash<o>>({.tokens = 7, .experts = 33, .choices = 5, .scale = 6}, score::softmax, norm::none, 0, 3);
  differentiate<route::deepseek_v3<o>>({.tokens = 7, .experts = 64, .choices = 8, .scale = 2.5f}, score::sigmoid, norm::sum, 1e-20, 4);
  differentiate<route::router<policy::sqrt_softplus_scorer, no_bias, top_k, policy::lp_norm, o>>({.tokens = 7, .experts = 20, .choices = 4, .norm = {3}, .scale = 1.5f}, score::sqrt_softplus, norm::lp, 3, 5);
  differentiate<route::router<policy::logit_scorer, no_bias, top_k, policy::sigmoid_norm, o>>({.tokens = 7, .experts = 20, .choices = 4, .scale = 3}, score::logit, norm::sigmoid, 0, 6);
  differentiate<route::tutel<o>>({.tokens = 7, .experts = 20, .choices = 2}, score::softmax, norm::clamped_sum, 0x1p-23, 7);
  differentiate<route::tutel<o>>({.tokens = 7, .experts = 20, .choices = 1}, score::softmax, norm::clamped_sum, 0x1p-23, 8);
  std::vector<float> one(7, 1.0f), widths(20);
  row factor;
  for (int e = 0; e < 20; ++e) widths[e] = 1 + e * 0.25f, factor.push_back(2 / double(widths[e]));
  const auto a = test::array_of(one), b = test::array_of(widths);
  differentiate<route::router<policy::cosine_scorer<>, no_bias, top_k, policy::no_norm, o>>({.tokens = 7, .experts = 20, .choices = 3, .scorer = {a.data(), b.data(), 0.69314718f, 7, 20}}, score::softmax, norm::none, 0, 9, factor);
}

TEST_CASE("route balance: losses, mean scores and their gradient") {
  std::mt19937 random(41);
  std::normal_distribution<float> normal(0, 1.5f);
  for (int tokens : {1, 300, 700}) {
    const int experts = 20, k = 2;
    std::vector<float> z(std::size_t(tokens) * experts);
    for (float& v : z) v = normal(random);
    std::vector<int> counts(experts);
    for (int i = 0; i < tokens * k; ++i) ++counts[(random() % experts) * (random() % experts) / experts];
    row mean(experts, 0.0);
    double squares = 0, loss = 0;
    for (int t = 0; t < tokens; ++t) {
      const row at(z.begin() + t * experts, z.begin() + (t + 1) * experts), s = oracle::route::scores(at, oracle::route::score::softmax);
      double sum = 0;
      for (int e = 0; e < experts; ++e) mean[e] += s[e] / tokens, sum += std::exp(at[e]);
      squares += std::log(sum) * std::log(sum) / tokens;
    }
    for (int e = 0; e < experts; ++e) loss += 0.01 * experts / (double(tokens) * k) * counts[e] * mean[e];
    const auto logits = test::array_of(z);
    const auto load = test::array_of(counts);
    test::for_each_context(9, [&](const auto& context) {
      using balance = route::balance_loss<policy::softmax_scorer, route::up_to<64>>;
      test::array<float> got(2), means(experts), gradient(experts), dz(z.size());
      const balance::args x{.logits = {logits.data(), tokens, experts, experts}, .tokens = tokens, .experts = experts, .choices = k, .counts = load.data(), .coefficient = 0.01f, .z_coefficient = 0.1f,
                            .loss = got.data(), .mean_score = means.data(), .gradient = gradient.data()};
      test::scratch scratch(balance::workspace_bytes(context, x));
      REQUIRE(balance::run(context, x, scratch.get()));
      using back = route::weight_gradient<route::mixtral<route::up_to<64>>>;
      using softmax_back = route::weight_gradient<route::yi_lightning<route::up_to<64>>>;
      CHECK(back::check(context, {.logits = x.logits, .tokens = tokens, .experts = experts, .result = {dz.data(), tokens, experts, experts}, .z_loss = 1}).code == errc::bad_value);
      REQUIRE(softmax_back::run(context, {.logits = x.logits, .tokens = tokens, .experts = experts, .result = {dz.data(), tokens, experts, experts}, .balance = gradient.data(), .z_loss = 0.1f / tokens}));
      test::wait(context);
      CHECK((got.guarded() && means.guarded() && gradient.guarded() && dz.guarded() && scratch.guarded()));
      // Sums of positive terms, at most 256 + tokens / 256 deep: that many units, and those of a score.
      const double near = (256 + tokens / 256.0 + 150) * 0x1p-24;
      CHECK(std::abs(got[0] - loss) <= near * loss);
      CHECK(std::abs(got[1] - 0.1 * squares) <= 3 * near * 0.1 * squares);
      for (int e = 0; e < experts; ++e) CHECK(std::abs(means[e] - mean[e]) <= near * mean[e]);
      for (int t : {0, tokens / 2}) {
        const row at(z.begin() + t * experts, z.begin() + (t + 1) * experts);
        const auto of = [&](const row& y) {
          const row s = oracle::route::scores(y, oracle::route::score::softmax);
          double sum = 0, total = 0;
          for (int e = 0; e < experts; ++e) total += 0.01 * experts / (double(tokens) * k * tokens) * counts[e] * s[e], sum += std::exp(y[e]);
          return total + 0.1 / tokens * std::log(sum) * std::log(sum);
        };
        for (int e = 0; e < experts; ++e) {
          row up(at), down(at);
          up[e] += 1e-5, down[e] -= 1e-5;
          CHECK(std::abs((of(up) - of(down)) / 2e-5 - dz[t * experts + e]) <= 1e-5 / tokens);
        }
      }
    });
  }
}

TEST_CASE("route balance: the sign controller steps towards the mean, the share controller comes to rest at its share") {
  test::for_each_context(1, [&](const auto& context) {
    const auto counts = test::array_of(std::vector<int>{4, 0, 2, 2});
    auto bias = test::array_of(std::vector<float>{0, 1, 2, -1});
    REQUIRE(route::sign_bias::run(context, {.controller = {0.25f}, .counts = counts.data(), .bias = bias.data(), .experts = 4}));
    test::wait(context);
    CHECK((bias[0] == -0.25f && bias[1] == 1.25f && bias[2] == 2 && bias[3] == -1));
    CHECK(bias.guarded());
  });
  // Closed loop: 16 experts of which logits prefer some, 8 identities that come cheap; k = 4, 2.5 computed experts wanted.
  const auto context = test::any_context();
  const int tokens = 512, computed = 16, identities = 8, experts = computed + identities, k = 4;
  const float wanted = 2.5f;
  std::mt19937 random(77);
  std::normal_distribution<float> normal(0, 1);
  test::array<float> z(std::size_t(tokens) * experts), weights(tokens * k), identity(tokens), bias(experts);
  test::array<int> ids(tokens * k), demand(experts);
  for (float& b : bias) b = 0;
  using router = route::longcat_flash<route::up_to<64>>;
  double taken = 0, most = 0;
  const int steps = 400;
  for (int step = 0; step < steps; ++step) {
    for (int t = 0; t < tokens; ++t)
      for (int e = 0; e < experts; ++e) z[t * experts + e] = normal(random) + (e < 4 ? 1.5f : 0);
    REQUIRE(router::run(context, {.logits = {z.data(), tokens, experts, experts}, .tokens = tokens, .experts = experts, .choices = k, .bias = {bias.data()}, .ids = ids.data(), .weights = weights.data(),
                                  .identity_weight = identity.data(), .computed = computed}));
    test::wait(context);
    for (int& n : demand) n = 0;
    for (int e : ids) ++demand[e];
    REQUIRE(route::pid_bias::run(context, {.controller = {.rate = 0.1f, .wanted = wanted, .computed = computed, .choices = k, .tokens = tokens}, .counts = demand.data(), .bias = bias.data(), .experts = experts}));
    test::wait(context);
    if (step >= steps / 2)
      for (int e = 0; e < computed; ++e) taken += double(demand[e]) / tokens / (steps / 2), most = std::max(most, double(demand[e]));
  }
  CHECK(std::abs(taken - wanted) <= 0.01 * wanted);
  CHECK(most <= 1.8 * wanted * tokens / computed);        // even, too: 80 slots each, deviation 9, in 3,200 draws
  for (int e = computed; e < experts; ++e) CHECK(bias[e] == 0);
}

TEST_CASE("route balance: refusals") {
  const auto context = test::any_context();
  test::array<float> z(40), loss(2), gradient(10);
  test::array<int> counts(10);
  using balance = route::balance_loss<policy::softmax_scorer, route::up_to<16>>;
  const balance::args good{.logits = {z.data(), 4, 10, 10}, .tokens = 4, .experts = 10, .counts = counts.data(), .loss = loss.data()};
  CHECK(balance::check(context, good));
  const auto refused = [&](auto change, errc code) {
    balance::args x = good;
    change(x);
    CHECK(balance::check(context, x).code == code);
  };
  refused([](auto& x) { x.tokens = x.logits.rows = 0; }, errc::bad_shape);
  refused([](auto& x) { x.choices = 0; }, errc::bad_value);
  refused([](auto& x) { x.counts = nullptr; }, errc::null_pointer);
  refused([](auto& x) { x.loss = nullptr; }, errc::null_pointer);
  refused([](auto& x) { x.gradient = x.loss + 1; }, errc::aliased);
  CHECK(balance::run(context, good).code == errc::workspace_too_small);
  CHECK(route::sign_bias::check(context, {.controller = {-1}, .counts = counts.data(), .bias = z.data(), .experts = 4}).code == errc::bad_value);
  CHECK(route::sign_bias::check(context, {.counts = counts.data(), .bias = nullptr, .experts = 4}).code == errc::null_pointer);
  CHECK(route::sign_bias::check(context, {.counts = counts.data(), .bias = z.data(), .experts = 0}).code == errc::bad_shape);
  CHECK(route::pid_bias::check(context, {.controller = {.computed = 5}, .counts = counts.data(), .bias = z.data(), .experts = 4}).code == errc::bad_value);
  using back = route::weight_gradient<route::mixtral<>>;
  CHECK(back::check(context, {.logits = {z.data(), 4, 10, 10}, .tokens = 4, .experts = 10, .choices = 2, .gradient = loss.data(), .result = {}}).code == errc::bad_shape);
  CHECK(back::check(context, {.logits = {z.data(), 4, 10, 10}, .tokens = 4, .experts = 10, .result = {z.data(), 4, 10, 10}}).code == errc::aliased);
}

}  // namespace
