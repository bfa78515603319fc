// Routers against their definitions in double with a stable descending sort: every scorer, bias, selector and norm, every named system.
#include <smalti/ops/route.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "../reference/route.hpp"
#include "../support/arrays.hpp"
#include "../support/contexts.hpp"

namespace {
using namespace smalti;
using oracle::route::norm;
using oracle::route::row;
using oracle::route::score;
constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();

struct routed {
  std::vector<int> ids;
  std::vector<float> weights, importance, identity;
  bool guarded = true;
};

// Runs a router on the context; `x` says everything but the memory. Outputs lie between guard bands.
template <class Router, class Context> routed route_on(const Context& context, typename Router::args x, bool more = false) {
  const std::size_t slots = std::size_t(x.tokens) * x.choices;
  test::array<int> ids(slots);
  test::array<float> weights(slots), importance(x.tokens), identity(x.tokens);
  x.ids = ids.data(), x.weights = weights.data();
  if (more) x.importance = importance.data(), x.identity_weight = identity.data();
  const status st = Router::run(context, x);
  INFO(st.what);
  REQUIRE(st);
  test::wait(context);
  routed r{{ids.begin(), ids.end()}, {weights.begin(), weights.end()}, {}, {}, ids.guarded() && weights.guarded() && importance.guarded() && identity.guarded()};
  if (more) r.importance.assign(importance.begin(), importance.end()), r.identity.assign(identity.begin(), identity.end());
  return r;
}

// What a router should do: the logits that are meant and the keys of one token, by the definition.
struct definition {
  score how = score::softmax;
  norm weigh = norm::none;
  double scale = 1, constant = 0;
  std::function<row(int token, const row& logits)> meant = [](int, const row& z) { return z; };
  std::function<row(const row& scores, const row& z)> key = [](const row&, const row& z) { return z; };
  std::function<std::vector<int>(const row& key, const row& scores, int k)> select = [](const row& key, const row&, int k) { return oracle::route::top_k(key, k); };
};

// Rounding of a weight. A softmax over E logits: the logit's difference is exact to 2^-24 |z - most| <= 2^-24 * 32, which its
// exponential takes as relative; exp2 2^-22; a sum of E / 16 + 4 additions, a quotient, a product: E / 16 + 12 units. A sigmoid: 2^-24 |z|
// of the argument, exp2, sum, quotient. A norm sums k scores again, and divides. lp: two logarithms of at most 3e-7 times |log2| <= 20.
double bound(const definition& d, int experts, int choices) {
  double units = d.how == score::softmax ? experts / 16.0 + 12 + 2 * 32 : d.how == score::logit || d.how == score::one ? 1 : 40;
  units += d.weigh == norm::none ? 2 : d.weigh == norm::lp ? 200 : 2 * units + choices + 40;
  return units * 0x1p-24;
}

template <class Router> void compare(typename Router::args x, const std::vector<float>& logits, const definition& d, std::uint64_t seed) {
  CAPTURE(x.tokens, x.experts, x.choices, seed);
  using logit = typename Router::logit;
  std::vector<logit> narrow_logits(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if constexpr (std::is_same_v<logit, float>) narrow_logits[i] = logits[i];
    else narrow_logits[i] = narrow<logit>(logits[i]);
  }
  test::for_each_context(seed, [&](const auto& context) {
    const auto memory = test::array_of(narrow_logits);
    const int rows = x.experts > 0 ? int(logits.size()) / x.experts : 0;
    if (!logits.empty()) x.logits = {memory.data(), rows, x.experts, x.experts};
    else x.logits = {nullptr, x.tokens, x.experts, x.experts};
    if (x.tokens == 0) x.logits = {};
    const bool more = x.computed > 0;
    const routed got = route_on<Router>(context, x, more);
    CHECK(got.guarded);
    double worst = 0, sum_worst = 0;
    for (int t = 0; t < x.tokens; ++t) {
      row z(x.experts, 0.0);
      if (!logits.empty())
        for (int e = 0; e < x.experts; ++e) z[e] = oracle::route::finite(test::value(narrow_logits[std::size_t(t % rows) * x.experts + e]));
      z = d.meant(t, z);
      const row s = oracle::route::scores(z, d.how), key = d.key(s, z);
      const std::vector<int> ids = d.select(key, s, x.choices);
      const row w = oracle::route::weights(s, ids, d.weigh, d.scale, d.constant);
      const std::vector<int> mine(got.ids.begin() + std::size_t(t) * x.choices, got.ids.begin() + std::size_t(t + 1) * x.choices);
      CAPTURE(t);
      REQUIRE(mine == ids);
      double identity = 0;
      for (int j = 0; j < x.choices; ++j) {
        const double error = std::abs(got.weights[std::size_t(t) * x.choices + j] - w[j]);
        worst = std::max(worst, error / (bound(d, x.experts, x.choices) * std::abs(w[j]) + 1e-37));
        if (ids[j] >= x.computed) identity += w[j];
      }
      if (more) {
        sum_worst = std::max(sum_worst, std::abs(got.identity[t] - identity) / (2 * bound(d, x.experts, x.choices) * d.scale));
        sum_worst = std::max(sum_worst, std::abs(got.importance[t] - *std::max_element(s.begin(), s.end())) / bound(d, x.experts, x.choices));
      }
    }
    CHECK(worst <= 1);
    CHECK(sum_worst <= 1);
  });
}

// Logits on a grid, so that many are equal, and equal ones have equal scores: ties go to the lower expert.
std::vector<float> grid_logits(int rows, int experts, std::uint64_t seed, float step = 0.25f) {
  std::mt19937_64 random(seed);
  std::vector<float> z(std::size_t(rows) * experts);
  for (float& v : z) v = float(int(random() % 49) - 24) * step;
  return z;
}
std::vector<float> normal_logits(int rows, int experts, std::uint64_t seed, float size = 1) {
  std::mt19937 random{std::uint32_t(seed)};
  std::normal_distribution<float> normal(0, size);
  std::vector<float> z(std::size_t(rows) * experts);
  for (float& v : z) v = normal(random);
  return z;
}
// Rows whose greatest `top` keys, score + bias, are never nearer than the rounding of a key (2^-22 of about 4).
std::vector<float> apart(int rows, int experts, const std::vector<float>& bias, score how, std::uint64_t seed, int top) {
  std::vector<float> all;
  for (int t = 0; t < rows; ++t)
    for (std::uint64_t salt = 0;; ++salt) {
      const std::vector<float> z = normal_logits(1, experts, seed + 1000 * t + 7 * salt, 2);
      row key = oracle::route::scores(row(z.begin(), z.end()), how);
      for (int e = 0; e < experts; ++e) key[e] += bias[e];
      std::sort(key.rbegin(), key.rend());
      bool near = false;
      for (int e = 1; e < top; ++e) near = near || key[e - 1] - key[e] < 4e-6 * std::max(1.0, std::abs(key[e]));
      if (near && salt < 50) continue;
      REQUIRE_FALSE(near);
      all.insert(all.end(), z.begin(), z.end());
      break;
    }
  return all;
}

TEST_CASE("route: mixtral is top k, then softmax; ties go to the lower expert") {
  for (int tokens : {0, 1, 5, 17})
    for (int k : {1, 2, 8})
      compare<route::mixtral<>>({.tokens = tokens, .experts = 8, .choices = k}, grid_logits(tokens, 8, 3), {.how = score::logit, .weigh = norm::softmax}, 3);
  compare<route::mixtral<>>({.tokens = 3, .experts = 1, .choices = 1}, grid_logits(3, 1, 4), {.how = score::logit, .weigh = norm::softmax}, 4);
}

TEST_CASE("route: softmax over all, then shares of the selected, is the same weight as softmax over the selected") {
  const auto z = normal_logits(33, 60, 5, 3);
  compare<route::yi_lightning<route::up_to<64>>>({.tokens = 33, .experts = 60, .choices = 6}, z, {.weigh = norm::sum, .constant = 1e-20}, 5);
  compare<route::router<policy::logit_scorer, policy::no_bias, policy::top_k, policy::softmax_norm, route::up_to<64>>>({.tokens = 33, .experts = 60, .choices = 6}, z, {.weigh = norm::sum, .constant = 1e-20}, 5);
}

TEST_CASE("route: deepseek_v3 selects by bias and groups, and weighs without the bias") {
  struct { int experts, groups, kept, k; float shift; } cases[] = {{256, 8, 4, 8, 2.0f}, {256, 8, 4, 8, -3.0f}, {160, 8, 3, 6, 0.0f}, {16, 4, 2, 8, -1.0f}, {8, 1, 1, 3, 0.0f}};
  for (const auto& c : cases) {
    CAPTURE(c.experts, c.groups, c.shift);
    auto bias = normal_logits(1, c.experts, 8, 0.3f);
    for (float& b : bias) b += c.shift;                 // all negative: a group that is out must not win with a key of 0 (P6)
    const auto z = apart(9, c.experts, bias, score::sigmoid, 21, c.experts);
    const auto memory = test::array_of(bias);
    definition d{.how = score::sigmoid, .weigh = norm::sum, .scale = 2.5, .constant = 1e-20};
    d.key = [&](const row& s, const row&) {
      row key(s);
      for (int e = 0; e < c.experts; ++e) key[e] += bias[e];
      return key;
    };
    d.select = [&](const row& key, const row&, int k) { return oracle::route::group_top_k(key, k, c.groups, c.kept, 2); };
    compare<route::deepseek_v3<>>({.tokens = 9, .experts = c.experts, .choices = c.k, .bias = {memory.data()}, .selector = {c.groups, c.kept}, .scale = 2.5f}, z, d, 21);
  }
  // Without a bias: groups by their greatest key.
  definition d{.how = score::softmax};
  d.select = [](const row& key, const row&, int k) { return oracle::route::group_top_k(key, k, 8, 3, 1); };
  compare<route::router<policy::softmax_scorer, policy::no_bias, policy::group_top_k, policy::no_norm>>(
      {.tokens = 12, .experts = 160, .choices = 6, .selector = {8, 3, policy::group_score::greatest}}, grid_logits(12, 160, 31), d, 31);
}

TEST_CASE("route: longcat_flash keeps the softmax weights and gathers those of zero experts") {
  const int experts = 768, computed = 512;
  std::vector<float> bias(experts, 0.0f);
  for (int e = 0; e < experts; ++e) bias[e] = float(e % 7) * 0x1p-6f;
  const auto z = apart(5, experts, bias, score::softmax, 41, 13);
  const auto memory = test::array_of(bias);
  definition d{.how = score::softmax, .weigh = norm::none, .scale = 6};
  d.key = [&](const row& s, const row&) {
    row key(s);
    for (int e = 0; e < experts; ++e) key[e] += bias[e];
    return key;
  };
  compare<route::longcat_flash<>>({.tokens = 5, .experts = experts, .choices = 12, .bias = {memory.data()}, .scale = 6, .computed = computed}, z, d, 41);
}

TEST_CASE("route: tutel divides by the clamped sum where k is above 1; its cosine router; any k") {
  for (int k : {1, 2, 5})
    compare<route::tutel<>>({.tokens = 11, .experts = 24, .choices = k, .bias = {.deviation = 0}}, normal_logits(11, 24, 51), {.weigh = norm::clamped_sum, .constant = 0x1p-23}, 51);
  const auto z = normal_logits(7, 24, 52, 4), token = normal_logits(1, 7, 53), expert = normal_logits(1, 24, 54);
  std::vector<float> a(7), b(24);
  for (int t = 0; t < 7; ++t) a[t] = std::abs(token[t]) + 1;
  for (int e = 0; e < 24; ++e) b[e] = std::abs(expert[e]) + 1;
  const auto at = test::array_of(a), be = test::array_of(b);
  for (float log_temperature : {0.69f, 9.0f}) {
    definition d{.weigh = norm::clamped_sum, .constant = 0x1p-23};
    d.meant = [&](int t, const row& z) {
      row y(z);
      for (int e = 0; e < 24; ++e) y[e] *= std::exp(std::min(double(log_temperature), std::log(100.0))) / (double(a[t]) * b[e]);
      return y;
    };
    compare<route::tutel<route::up_to<64>, policy::cosine_scorer<>, policy::no_bias>>(
        {.tokens = 7, .experts = 24, .choices = 2, .scorer = {at.data(), be.data(), log_temperature, 7, 24}}, normal_logits(7, 24, 52, 1), d, 52);
  }
}

struct of_bf16 : route::up_to<64> {
  using logit = bf16;
};
TEST_CASE("route: square root of softplus, norms of p, sigmoid after the selection; logits of 16 bits") {
  using soft = route::router<policy::sqrt_softplus_scorer, policy::no_bias, policy::top_k, policy::lp_norm, of_bf16>;
  for (float p : {1.0f, 2.0f, 3.0f})
    compare<soft>({.tokens = 6, .experts = 40, .choices = 4, .norm = {p}, .scale = 1.5f}, grid_logits(6, 40, 61), {.how = score::sqrt_softplus, .weigh = norm::lp, .scale = 1.5, .constant = p}, 61);
  // Sigmoids of logits above 17 are all 1 in float: the order of the logits decides still.
  auto z = normal_logits(6, 40, 62, 4);
  for (float& v : z) v += 30;
  compare<route::router<policy::logit_scorer, policy::no_bias, policy::top_k, policy::sigmoid_norm, route::up_to<64>>>({.tokens = 6, .experts = 40, .choices = 4}, z, {.how = score::logit, .weigh = norm::sigmoid}, 62);
  compare<route::router<policy::sigmoid_scorer, policy::no_bias, policy::top_k, policy::no_norm, route::up_to<64>>>({.tokens = 6, .experts = 40, .choices = 4}, z, {.how = score::sigmoid}, 62);
}

TEST_CASE("route: top p takes the fewest experts that reach the mass") {
  using dynamic = route::router<policy::softmax_scorer, policy::no_bias, policy::top_p_experts, policy::sum_norm, route::up_to<16>>;
  for (float mass : {0.0f, 0.4f, 0.8f, 1.0f}) {
    definition d{.weigh = norm::sum, .constant = 1e-20};
    d.select = [&](const row& key, const row& s, int k) {
      std::vector<int> ids = oracle::route::top_k(key, k);
      double before = 0;
      for (int j = 0; j < k; ++j) {
        const double here = s[ids[j]];
        if (j > 0 && before >= mass) ids[j] = -1;
        before += here;
      }
      return ids;
    };
    compare<dynamic>({.tokens = 40, .experts = 13, .choices = 6, .selector = {mass}}, normal_logits(40, 13, 71, 2), d, 71);
  }
}

TEST_CASE("route: fixed and given experts, tasks, all experts of a soft mixture") {
  const std::vector<int> shared{5, 0, 9};
  const auto memory = test::array_of(shared);
  definition d{.how = score::sigmoid};
  d.select = [&](const row&, const row&, int) { return shared; };
  using fixed = route::router<policy::sigmoid_scorer, policy::no_bias, policy::fixed_experts, policy::no_norm, route::up_to<16>>;
  compare<fixed>({.tokens = 6, .experts = 10, .choices = 3, .selector = {memory.data(), 3}}, normal_logits(6, 10, 81), d, 81);

  const std::vector<int> given{3, -1, 9, 2, -1, -1, 0, 1};
  const auto table = test::array_of(given);
  test::for_each_context(1, [&](const auto& context) {
    using fixed_by_token = route::router<policy::constant_scorer, policy::no_bias, policy::given_experts, policy::sum_norm, route::up_to<16>>;
    const routed r = route_on<fixed_by_token>(context, {.tokens = 4, .experts = 10, .choices = 2, .selector = {table.data(), 8}});
    CHECK(r.ids == given);
    const std::vector<float> want{1, 0, 0.5f, 0.5f, 0, 0, 0.5f, 0.5f};
    for (int i = 0; i < 8; ++i) CHECK(std::abs(r.weights[i] - want[i]) <= 0x1p-23f);
  });

  // Poly: all skills of a task, sigmoids as shares; an unknown task has logits of zero.
  const std::vector<int> task{2, 0, -1, 1, 2};
  const auto tasks = test::array_of(task);
  const auto z = normal_logits(3, 10, 82);
  definition poly{.how = score::sigmoid, .weigh = norm::sum, .constant = 1e-20};
  poly.meant = [&](int t, const row&) {
    row y(10, 0.0);
    for (int e = 0; e < 10; ++e) y[e] = task[t] < 0 ? 0.0 : double(z[task[t] * 10 + e]);
    return y;
  };
  poly.select = [](const row& key, const row&, int) {
    std::vector<int> all(key.size());
    std::iota(all.begin(), all.end(), 0);
    return all;
  };
  compare<route::router<policy::task_scorer<>, policy::no_bias, policy::fixed_experts, policy::sum_norm, route::up_to<16>>>({.tokens = 5, .experts = 10, .choices = 10, .scorer = {tasks.data()}}, z, poly, 82);
}

TEST_CASE("route: hashed tokens get different experts, evenly, by their id alone") {
  using hashed = route::router<policy::hash_scorer, policy::no_bias, policy::top_k, policy::sum_norm, route::up_to<64>>;
  const int tokens = 4000, experts = 48, k = 2;
  std::vector<int> id(tokens);
  for (int t = 0; t < tokens; ++t) id[t] = t / 2 * 31;      // pairs of equal ids
  const auto memory = test::array_of(id);
  test::for_each_context(1, [&](const auto& context) {
    const routed r = route_on<hashed>(context, {.tokens = tokens, .experts = experts, .choices = k, .scorer = {.seed = 9, .token_ids = memory.data(), .tokens = tokens}});
    std::vector<int> load(experts);
    for (int t = 0; t < tokens; ++t) {
      REQUIRE(r.ids[2 * t] != r.ids[2 * t + 1]);
      if (t % 2) REQUIRE((r.ids[2 * t] == r.ids[2 * t - 2] && r.ids[2 * t + 1] == r.ids[2 * t - 1]));
      ++load[r.ids[2 * t]], ++load[r.ids[2 * t + 1]];
      CHECK(r.weights[2 * t] == 0.5f);
    }
    // 2000 ids of 2 experts each: 83.3 a load, deviation 8.9; each counts twice. Five deviations.
    for (int n : load) CHECK(std::abs(n / 2 - 83.3) < 45);
    const routed other = route_on<hashed>(context, {.tokens = 1, .experts = experts, .choices = k, .scorer = {.seed = 9, .token_ids = memory.data() + 70, .tokens = 1}});
    CHECK((other.ids[0] == r.ids[140] && other.ids[1] == r.ids[141]));
  });
}

TEST_CASE("route: Gumbel noise samples without replacement, temperature 0 is no noise, and noise never weighs") {
  const int tokens = 20000, experts = 4, k = 2;
  const std::vector<float> one{0.7f, -0.4f, 0.2f, -1.1f};
  std::vector<float> z;
  for (int t = 0; t < tokens; ++t) z.insert(z.end(), one.begin(), one.end());
  const auto memory = test::array_of(z);
  const row p = oracle::route::scores(row(one.begin(), one.end()), score::softmax);
  test::for_each_context(3, [&](const auto& context) {
    route::roe<route::up_to<16>>::args x{.logits = {memory.data(), tokens, experts, experts}, .tokens = tokens, .experts = experts, .choices = k, .bias = {.temperature = 1, .noise = {.seed = 77, .stream = 3}}};
    const routed r = route_on<route::roe<route::up_to<16>>>(context, x);
    std::vector<std::vector<int>> pairs(experts, std::vector<int>(experts));
    for (int t = 0; t < tokens; ++t) {
      const int a = r.ids[2 * t], b = r.ids[2 * t + 1];
      ++pairs[a][b];
      const double want = 1 / (1 + std::exp(double(one[b]) - one[a]));
      REQUIRE(std::abs(r.weights[2 * t] - want) < 1e-6);    // from the logits without noise
    }
    for (int a = 0; a < experts; ++a)
      for (int b = 0; b < experts; ++b) {
        const double want = a == b ? 0 : tokens * p[a] * p[b] / (1 - p[a]);
        CHECK(std::abs(pairs[a][b] - want) <= 5 * std::sqrt(want));
      }
    x.bias.noise.stream = 4;
    CHECK(route_on<route::roe<route::up_to<16>>>(context, x).ids != r.ids);
    x.bias.noise.stream = 3;
    CHECK(route_on<route::roe<route::up_to<16>>>(context, x).ids == r.ids);
    x.bias.temperature = 0;
    typename route::mixtral<>::args plain{.logits = x.logits, .tokens = tokens, .experts = experts, .choices = k};
    const routed quiet = route_on<route::roe<route::up_to<16>>>(context, x), base = route_on<route::mixtral<>>(context, plain);
    CHECK((quiet.ids == base.ids && quiet.weights == base.weights));

    // Gaussian: expert 0 beats expert 1 with probability Phi((z0 - z1) experts / (deviation sqrt 2)).
    using noisy = route::tutel<route::up_to<16>>;
    const routed g = route_on<noisy>(context, {.logits = {memory.data(), tokens, 2, experts}, .tokens = tokens, .experts = 2, .choices = 1, .bias = {.deviation = 3, .experts = 2, .noise = {.seed = 5}}});
    int first = 0;
    for (int t = 0; t < tokens; ++t) first += g.ids[t] == 0;
    const double want = tokens * 0.5 * std::erfc(-(double(one[0]) - one[1]) * 2 / 3 / 2);
    CHECK(std::abs(first - want) <= 5 * std::sqrt(want * (1 - want / tokens)));
    CHECK(std::abs(g.weights[0] - p[g.ids[0]] / (p[0] + p[1])) < 1e-6);
  });
}

TEST_CASE("route: NaN and infinite logits, rows of one value, 1024 experts, a token's bits alone") {
  const int experts = 1024, k = 16, tokens = 8;
  auto z = normal_logits(tokens, experts, 91);
  for (int e = 0; e < experts; ++e) {
    z[e] = nan;                                              // P4: all NaN selects 0, 1, 2, ...
    z[experts + e] = -inf;                                   // P3: as does -infinity
    z[2 * experts + e] = e % 100 == 7 ? 3.0f : -inf;         // fewer numbers than choices: the rest by number
    z[3 * experts + e] = e == 1000 ? inf : e == 3 ? nan : z[3 * experts + e];
    z[4 * experts + e] = -3e38f;
    z[5 * experts + e] = e % 2 ? 0.0f : -0.0f;
    z[6 * experts + e] = -200.0f;                            // P5: every sigmoid is 0
  }
  using wide = route::router<policy::sigmoid_scorer, policy::no_bias, policy::top_k, policy::sum_norm, route::up_to<1024>>;
  compare<wide>({.tokens = tokens, .experts = experts, .choices = k}, z, {.how = score::sigmoid, .weigh = norm::sum, .constant = 1e-20}, 91);
  compare<route::router<policy::softmax_scorer, policy::no_bias, policy::top_k, policy::no_norm, route::up_to<1024>>>({.tokens = tokens, .experts = experts, .choices = k}, z, {}, 91);
  test::for_each_context(5, [&](const auto& context) {
    const auto memory = test::array_of(z);
    const routed all = route_on<wide>(context, {.logits = {memory.data(), tokens, experts, experts}, .tokens = tokens, .experts = experts, .choices = k});
    for (int t = 0; t < tokens; ++t) {
      CHECK(std::set<int>(all.ids.begin() + t * k, all.ids.begin() + (t + 1) * k).size() == std::size_t(k));
      for (int j = 0; j < k; ++j) CHECK(std::isfinite(all.weights[t * k + j]));
      const routed one = route_on<wide>(context, {.logits = {memory.data() + t * experts, 1, experts, experts}, .tokens = 1, .experts = experts, .choices = k});
      CHECK(std::vector<int>(all.ids.begin() + t * k, all.ids.begin() + (t + 1) * k) == one.ids);
      CHECK(std::vector<float>(all.weights.begin() + t * k, all.weights.begin() + (t + 1) * k) == one.weights);
    }
  });
}

TEST_CASE("route: a constant added to every bias changes nothing, and a bias changes no weight of the same experts") {
  const int experts = 64, tokens = 20;
  const auto z = normal_logits(tokens, experts, 95);
  auto bias = normal_logits(1, experts, 96, 0.05f);
  for (float& b : bias) b = float(int(b * 1024)) / 1024;      // a multiple of 2^-10: the shift by 1 is exact, keys round alike but for their last bit
  const auto memory = test::array_of(z);
  using router = route::router<policy::sigmoid_scorer, policy::expert_bias, policy::top_k, policy::sum_norm, route::up_to<64>>;
  test::for_each_context(2, [&](const auto& context) {
    const auto at = test::array_of(bias), none = test::array_of(std::vector<float>(experts, 0.0f));
    auto moved = bias;
    for (float& b : moved) b += 1;
    const auto to = test::array_of(moved);
    router::args x{.logits = {memory.data(), tokens, experts, experts}, .tokens = tokens, .experts = experts, .choices = 6, .bias = {at.data()}};
    const routed a = route_on<router>(context, x);
    x.bias = {to.data()};
    const routed b = route_on<router>(context, x);
    x.bias = {none.data()};
    const routed c = route_on<router>(context, x);
    CHECK((a.ids == b.ids && a.weights == b.weights));
    bool differs = false;
    for (int t = 0; t < tokens; ++t) {
      if (std::equal(a.ids.begin() + 6 * t, a.ids.begin() + 6 * t + 6, c.ids.begin() + 6 * t)) CHECK(std::equal(a.weights.begin() + 6 * t, a.weights.begin() + 6 * t + 6, c.weights.begin() + 6 * t));
      else differs = true;
    }
    CHECK(differs);
  });
}

TEST_CASE("route: duo_llm takes one of three") {
  compare<route::duo_llm<>>({.tokens = 9, .experts = 3, .choices = 1, .computed = 2}, normal_logits(9, 3, 97), {.how = score::logit, .weigh = norm::softmax}, 97);
}

TEST_CASE("route: refusals name the argument and the remedy") {
  using router = route::deepseek_v3<>;
  const auto context = test::any_context();
  test::array<float> z(4 * 256), bias(256), weights(32);
  test::array<int> ids(32);
  const router::args good{.logits = {z.data(), 4, 256, 256}, .tokens = 4, .experts = 256, .choices = 8, .bias = {bias.data()}, .ids = ids.data(), .weights = weights.data()};
  CHECK(router::check(context, good));
  const auto refused = [&](auto change, errc code, const char* word) {
    router::args x = good;
    change(x);
    const status st = router::run(context, x);
    INFO(st.what);
    CHECK(st.code == code);
    CHECK(std::string(st.what).find(word) != std::string::npos);
  };
  refused([](auto& x) { x.tokens = -1; }, errc::bad_shape, "tokens");
  refused([](auto& x) { x.experts = 0; }, errc::bad_shape, "experts");
  refused([](auto& x) { x.experts = 300; }, errc::bad_shape, "route::options::experts");
  refused([](auto& x) { x.choices = 17; }, errc::bad_value, "route::options::choices");
  refused([](auto& x) { x.choices = -1; }, errc::bad_value, "choices");
  refused([](auto& x) { x.tokens = 300000000; x.logits.rows = x.tokens; }, errc::out_of_reach, "slots are 32 bits");
  refused([](auto& x) { x.logits.cols = 255; }, errc::bad_shape, "column for each expert");
  refused([](auto& x) { x.logits.rows = 3; }, errc::bad_shape, "row for each token");
  refused([](auto& x) { x.logits.data = nullptr; }, errc::null_pointer, "logits");
  refused([](auto& x) { x.bias.data = nullptr; }, errc::null_pointer, "expert_bias.data");
  refused([](auto& x) { x.selector.count = 7; }, errc::bad_shape, "multiple of group_top_k.count");
  refused([](auto& x) { x.selector.kept = 9; }, errc::bad_value, "group_top_k.kept");
  refused([](auto& x) { x.selector = {.count = 32, .kept = 1}; x.choices = 9; }, errc::bad_value, "keep more groups");
  refused([](auto& x) { x.experts = x.logits.cols = 8; x.selector.count = 8; x.choices = 4; }, errc::bad_shape, "group_score::greatest");
  refused([](auto& x) { x.norm.epsilon = 0; }, errc::bad_value, "sum_norm.epsilon");
  refused([](auto& x) { x.scale = nan; }, errc::bad_value, "scale");
  refused([](auto& x) { x.ids = nullptr; }, errc::null_pointer, "ids");
  refused([](auto& x) { x.weights = nullptr; }, errc::null_pointer, "weights");
  refused([](auto& x) { x.weights = reinterpret_cast<float*>(x.ids) + 1; }, errc::aliased, "overlap");
  refused([&](auto& x) { x.weights = z.data(); }, errc::aliased, "logits");
  refused([&](auto& x) { x.identity_weight = weights.data(); x.computed = 300; }, errc::bad_value, "computed");

  const auto says = [&](const status& st, const char* word) {
    INFO(st.what);
    CHECK_FALSE(st);
    CHECK(std::string(st.what).find(word) != std::string::npos);
  };
  const policy::route_extent e{4, 10, 4};
  says(policy::top_k{}.check({4, 3, 4}), "choices must be at most the experts");
  says(policy::top_p_experts{2}.check(e), "top_p_experts.mass");
  says(policy::fixed_experts{ids.data(), 3}.check(e), "fixed_experts.count");
  says(policy::given_experts{nullptr, 16}.check(e), "given_experts.experts");
  says(policy::given_experts{ids.data(), 15}.check(e), "given_experts.count");
  says(policy::cosine_scorer<>{}.check(e), "cosine_scorer.token_norm");
  says(policy::cosine_scorer<>{z.data(), nullptr, 1, 4, 10}.check(e), "cosine_scorer.expert_norm");
  says(policy::cosine_scorer<>{z.data(), z.data(), 1, 3, 10}.check(e), "cosine_scorer.tokens");
  says(policy::cosine_scorer<>{z.data(), z.data(), 1, 4, 9}.check(e), "cosine_scorer.experts");
  says(policy::cosine_scorer<>{z.data(), z.data(), nan, 4, 10}.check(e), "log_temperature");
  says(policy::task_scorer<>{}.check(e), "task_scorer.task");
  says(policy::hash_scorer{1, ids.data(), 3}.check(e), "hash_scorer.tokens");
  says(policy::gaussian_bias{-1}.check(e), "gaussian_bias.deviation");
  says(policy::gaussian_bias{1, 0}.check(e), "gaussian_bias.experts");
  says(policy::gumbel_bias{-1}.check(e), "gumbel_bias.temperature");
  says(policy::clamped_sum_norm{0}.check(e), "clamped_sum_norm.least");
  says(policy::lp_norm{0.5f}.check(e), "lp_norm.p");
  says(policy::group_top_k{33, 4}.check({4, 66, 4}), "group_top_k.count");
}

}  // namespace
