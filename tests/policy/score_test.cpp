// The laws of score modifiers: the logit is its formula in double, on floats and on packs in both orientations, and the
// derivative is that of the formula, by central differences. And the oracle of attention itself: its gradients are the
// central differences of its forward pass.
//
// Error model, eps = 2^-24: sums and products round once or twice; tanh is within 4e-7 of the result, times cap; 1 / cap and
// the product with it are off by 3 eps of the argument, which tanh' <= 1 passes on. In all 1e-6 (1 + |logit| + cap).
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <smalti/policy/score.hpp>
#include <smalti/tile/flat.hpp>
#include <smalti/tile/host/block.hpp>
#include <smalti/tile/host/math.hpp>

#include "reference/attention.hpp"
#include "support/guarded.hpp"

using namespace smalti;
using namespace smalti::policy;

namespace {

constexpr unsigned seed = 31;
using formula = std::function<double(double score, int q, int k)>;

float lane(float x, int) { return x; }
float lane(const host::floats& x, int i) { return x[i]; }

template <class Score> void law(const Score& unbound, const formula& f, int queries, int keys, int head = 0, int sequence = 0, double largest = 1) {
  static_assert(explain_score<Score>());
  const auto mod = bound(unbound, place{sequence, head, queries, keys});
  static_assert(flat::fields_of<Score>::count >= 0);      // crosses a launch
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 20);
  for (int q = 0; q < queries; ++q)
    for (int k = 0; k < keys; k += host::lane_count) {
      host::floats score;
      for (int i = 0; i < host::lane_count; ++i) score.set(i, normal(random));
      const host::floats logit = mod(score, host::uniform{q}, host::consecutive{k});
      const auto slope = score_derivative(mod, score, host::uniform{q}, host::consecutive{k});
      for (int i = 0; i < host::lane_count && k + i < keys; ++i) {
        double s = score[i];
        const double want = f(s, q, k + i), h = 1e-4, bound = 1e-6 * (1 + std::abs(want) + largest);
        const double rise = oracle::central_difference([&] { return f(s, q, k + i); }, &s, h);
        CAPTURE(seed, q, k + i, s, want, rise);
        CHECK(std::abs(logit[i] - want) <= bound);
        CHECK(std::abs(mod(score[i], q, k + i) - want) <= bound);
        CHECK(std::abs(lane(slope, i) - rise) <= 1e-6 * (1 + std::abs(s)));
        CHECK(std::abs(score_derivative(mod, score[i], q, k + i) - rise) <= 1e-6 * (1 + std::abs(s)));
      }
    }
  for (int k = 0; k < keys; ++k) {      // the other orientation: rows are keys
    host::floats score;
    for (int i = 0; i < host::lane_count; ++i) score.set(i, normal(random));
    const host::floats logit = mod(score, host::consecutive{0}, host::uniform{k});
    for (int i = 0; i < host::lane_count && i < queries; ++i)
      CHECK(std::abs(logit[i] - f(score[i], i, k)) <= 1e-6 * (1 + std::abs(f(score[i], i, k)) + largest));
  }
}

}  // namespace

TEST_CASE("score modifiers are their formulas, and their derivatives", "[policy][score]") {
  const int queries = 5, keys = 21, shift = keys - queries, heads = 3;
  law(identity_score{}, [](double s, int, int) { return s; }, queries, keys);
  law(chain<>{}, [](double s, int, int) { return s; }, queries, keys);
  law(soft_cap{30}, [](double s, int, int) { return 30 * std::tanh(s / 30); }, queries, keys, 0, 0, 30);
  law(temperature{0.9f}, [](double s, int, int) { return s / double(0.9f); }, queries, keys);

  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  guarded<float> bias(2 * heads * queries * (keys + 3)), table(heads * 17), slopes(heads);
  for (int i = 0; i < 2 * heads * queries * (keys + 3); ++i) bias[i] = normal(random);
  for (int i = 0; i < heads * 17; ++i) table[i] = normal(random);
  fill_alibi_slopes(heads, slopes.data());
  guarded<bf16> narrow_bias(queries * keys);
  for (int i = 0; i < queries * keys; ++i) narrow_bias[i] = narrow<bf16>(normal(random));
  law(additive_bias<bf16>{narrow_bias.data(), queries, keys, keys}, [&](double s, int q, int k) { return s + to_float(narrow_bias[q * keys + k]); }, queries, keys, 2, 1);
  for (int sequence = 0; sequence < 2; ++sequence)
    for (int head = 0; head < heads; ++head) {
      CAPTURE(sequence, head);
      const long long distance = queries * (keys + 3);
      const additive_bias<float> matrix{bias.data(), queries, keys, keys + 3, distance, heads * distance};
      const formula with_bias = [&](double s, int q, int k) { return s + bias[(sequence * heads + head) * distance + q * (keys + 3) + k]; };
      law(matrix, with_bias, queries, keys, head, sequence);
      law(relative_bias<>{table.data(), 17, 9, 0, 17}, [&](double s, int q, int k) {
        return s + table[head * 17 + std::min(std::max(k - (q + shift) + 9, 0), 16)];
      }, queries, keys, head, sequence);
      law(relative_bias<alignment::top_left>{table.data(), 17, 9, 0, 17}, [&](double s, int q, int k) {
        return s + table[head * 17 + std::min(std::max(k - q + 9, 0), 16)];
      }, queries, keys, head, sequence);
      law(alibi_bias<>{slopes.data()}, [&](double s, int q, int k) { return s - slopes[head] * std::abs(q + shift - k); }, queries, keys, head, sequence);
      law(chain<additive_bias<float>, soft_cap>{matrix, {{20}, {}}}, [&](double s, int q, int k) { return 20 * std::tanh(with_bias(s, q, k) / 20); }, queries, keys, head, sequence, 20);
      law(chain<soft_cap, additive_bias<float>, temperature>{{20}, {matrix, {{0.5f}, {}}}}, [&](double s, int q, int k) { return with_bias(20 * std::tanh(s / 20), q, k) * 2; }, queries, keys, head, sequence, 40);
    }
}

TEST_CASE("what is known of a score modifier at compile time", "[policy][score]") {
  STATIC_REQUIRE(folds_scale<identity_score>);
  STATIC_REQUIRE(folds_scale<chain<>>);
  STATIC_REQUIRE_FALSE(folds_scale<soft_cap>);
  STATIC_REQUIRE_FALSE(folds_scale<chain<alibi_bias<>>>);
  STATIC_REQUIRE(differs_by_head<alibi_bias<>>);
  STATIC_REQUIRE(differs_by_head<chain<soft_cap, relative_bias<>>>);
  STATIC_REQUIRE_FALSE(differs_by_head<chain<soft_cap, temperature>>);
}

TEST_CASE("what score modifiers refuse", "[policy][score]") {
  const mask_extent e{2, 4, 40, 50};
  const float table[1] = {};
  const auto refused = [&](const auto& mod, const char* word) {
    const status s = check_score(mod, e);
    CAPTURE(word, s.what);
    CHECK(s.code != errc::ok);
    CHECK(std::string(s.what).find(word) != std::string::npos);
  };
  CHECK(check_score(chain<soft_cap, temperature>{}, e).code == errc::ok);
  CHECK(check_score(identity_score{}, e).code == errc::ok);
  refused(soft_cap{0}, "cap");
  refused(soft_cap{std::nanf("")}, "cap");
  refused(temperature{-1}, "temperature");
  refused(additive_bias<float>{}, "data");
  refused(additive_bias<float>{table, 39, 50, 50}, "rows");
  refused(additive_bias<float>{table, 40, 49, 50}, "cols");
  refused(additive_bias<float>{table, 40, 50, 49}, "stride");
  refused(relative_bias<>{table, 0}, "n");
  refused(relative_bias<>{nullptr, 3}, "table");
  refused(alibi_bias<>{}, "slopes");
  refused(chain<soft_cap, alibi_bias<>>{}, "slopes");
}

TEST_CASE("the oracle's gradients are the differences of its forward pass", "[reference][attention]") {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  const int queries = 4, keys = 6, d = 3, dv = 2;
  const auto values = [&](std::size_t n) {
    std::vector<double> x(n);
    for (double& v : x) v = normal(random);
    return x;
  };
  for (const double sink : {oracle::minus_infinity, 0.3})
    for (const bool pointwise : {false, true}) {
      if (pointwise && sink != oracle::minus_infinity) continue;
      CAPTURE(seed, sink, pointwise);
      double sink_logit = sink;
      std::vector<double> bias = values(queries * keys);
      oracle::attention_problem p{queries, keys, d, dv, values(queries * d), values(keys * d), values(keys * dv), 0.7};
      p.visible = [](int i, int j) { return i != 1 && j <= i + 2; };          // row 1 sees nothing
      p.logit = [&](double s, int i, int j) { return 2 * std::tanh((s + bias[i * keys + j]) / 2); };
      p.slope = [&](double s, int i, int j) { return 1 - std::pow(std::tanh((s + bias[i * keys + j]) / 2), 2); };
      const auto f = [](double z) { return z / (1 + std::exp(-z)) / keys; };
      const auto slope_of_f = [](double z) { const double s = 1 / (1 + std::exp(-z)); return s * (1 + z * (1 - s)) / keys; };
      p.normalize = [&](const std::vector<double>& z) { return pointwise ? oracle::pointwise(f)(z) : oracle::softmax(sink_logit)(z); };
      const std::vector<double> d_o = values(queries * dv), d_lse = values(queries);
      const auto loss = [&] { return oracle::attention_loss(p, d_o, d_lse); };
      const oracle::attention_gradients g = pointwise ? oracle::pointwise_gradients(p, f, slope_of_f, d_o) : oracle::softmax_gradients(p, d_o, d_lse, sink);
      const auto compare = [&](std::vector<double>& x, const std::vector<double>& gradient) {
        for (std::size_t n = 0; n < x.size(); ++n) CHECK(std::abs(oracle::central_difference(loss, &x[n]) - gradient[n]) <= 1e-9);
      };
      compare(p.q, g.dq);
      compare(p.k, g.dk);
      compare(p.v, g.dv);
      compare(bias, g.ds);
      if (sink != oracle::minus_infinity) CHECK(std::abs(oracle::central_difference(loss, &sink_logit) - g.dsink) <= 1e-9);
      for (int j = 0; j < keys; ++j) CHECK(g.dz[keys + j] == 0);
    }
}
