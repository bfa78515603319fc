// Gradients of routing weights against differences in double, and the balance of loads: losses, their gradient, controllers.
#include <smalti/ops/route.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "../reference/route.hpp"
#include "../support/arrays.hpp"
#include "../support/contexts.hpp"
#include "route_problem.hpp"

namespace {
using namespace smalti;
using oracle::route::row;
using namespace route_problem;

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
