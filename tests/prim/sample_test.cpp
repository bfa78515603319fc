// Sampling: the kept set against a sort in double, frequencies against probabilities, degenerate rows, refusals.
#include <smalti/prim/sample.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "../support/arrays.hpp"
#include "../support/contexts.hpp"

namespace {
using namespace smalti;
using prim::draw;
using prim::sampling;

constexpr float infinity = std::numeric_limits<float>::infinity();

// Probabilities of the kept tokens, by the definition. Asks that no share lies so near top_p or min_p that rounding decides.
std::vector<double> expected(const std::vector<float>& logits, const sampling& s) {
  const int n = int(logits.size());
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  std::vector<double> p(n, 0.0);
  if (s.temperature == 0 || s.top_k == 1 || s.top_p == 0) return p[order[0]] = 1, p;
  if (s.top_k > 0 && s.top_k < n) order.resize(s.top_k);
  const auto weight = [&](int j) { return logits[j] == logits[order[0]] ? 1.0 : std::exp((double(logits[j]) - logits[order[0]]) / s.temperature); };
  double all = 0, sum = 0;
  for (int j : order) all += weight(j);
  std::size_t keep = order.size();
  for (std::size_t i = 0; i < order.size() && s.top_p < 1; ++i) {
    sum += weight(order[i]) / all;
    REQUIRE(std::abs(sum - s.top_p) > 1e-5);
    if (sum >= s.top_p) {
      keep = i + 1;
      break;
    }
  }
  order.resize(keep);
  double left = 0;
  for (int j : order) {
    REQUIRE((s.min_p == 0 || std::abs(weight(j) - s.min_p) > 1e-5));
    if (weight(j) >= s.min_p) left += p[j] = weight(j);
  }
  for (double& v : p) v /= left;
  return p;
}

template <draw How> void frequencies(const std::vector<float>& logits, sampling s, std::uint64_t seed) {
  CAPTURE(s.temperature, s.top_k, s.top_p, s.min_p, seed, int(How));
  const std::vector<double> p = expected(logits, s);
  const int draws = 8000, n = int(logits.size());
  test::for_each_context(seed, [&](const auto& context) {
    auto rows = test::array_of(std::vector<sampling>(draws, s));
    for (int i = 0; i < draws; ++i) rows[i].position = std::uint32_t(i);
    auto data = test::array_of(logits);
    test::array<std::int32_t> tokens(draws);
    test::array<float> probabilities(draws);
    // one row of logits for all draws: a stride of 0 would overlap rows, so they are drawn in batches of copies
    using op = prim::sample<float, How>;
    const int batch = 500;
    auto copies = test::array<float>(std::size_t(batch) * n);
    for (int i = 0; i < batch; ++i) std::copy(logits.begin(), logits.end(), copies.data() + std::size_t(i) * n);
    typename op::args a{.logits = {copies.data(), batch, n, n}, .seed = seed};
    test::scratch memory(op::workspace_bytes(context, a));
    for (int first = 0; first < draws; first += batch) {
      a.rows = rows.data() + first, a.tokens = tokens.data() + first, a.probabilities = probabilities.data() + first;
      REQUIRE(op::run(context, a, memory.get()));
      test::wait(context);
    }
    CHECK((tokens.guarded() && probabilities.guarded() && memory.guarded()));
    std::vector<int> seen(n);
    for (int i = 0; i < draws; ++i) {
      REQUIRE((tokens[i] >= 0 && tokens[i] < n));
      REQUIRE(p[tokens[i]] > 0);
      CHECK(std::abs(probabilities[i] - p[tokens[i]]) <= 1e-5);
      ++seen[tokens[i]];
    }
    // each count is binomial: more than five and a half deviations off is one in 10^7 a token
    for (int j = 0; j < n; ++j) {
      CAPTURE(j, seen[j], draws * p[j]);
      CHECK(std::abs(seen[j] - draws * p[j]) <= 5.5 * std::sqrt(draws * p[j] * (1 - p[j])) + 1);
    }
  });
}

std::vector<float> some_logits(int n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> x(n);
  for (float& v : x) v = std::round(normal(random) * 8) / 8;          // with ties
  return x;
}

TEST_CASE("sample: what is kept and how often it is drawn") {
  const std::vector<float> logits = some_logits(40, 7);
  for (const sampling& s : {sampling{}, sampling{.temperature = 0.6f}, sampling{.temperature = 2.5f, .top_k = 7}, sampling{.top_p = 0.713f},
                            sampling{.temperature = 1.3f, .top_k = 20, .top_p = 0.9f, .min_p = 0.043f}, sampling{.min_p = 0.11f}, sampling{.top_k = 3, .top_p = 0.99f}}) {
    frequencies<draw::cumulative>(logits, s, 101);
    frequencies<draw::gumbel>(logits, s, 102);
  }
  frequencies<draw::cumulative>(std::vector<float>(9, 3.0f), {.top_k = 4}, 103);           // nothing but ties: the lowest indices
  frequencies<draw::cumulative>(std::vector<float>(9, 3.0f), {.top_p = 0.5f}, 104);
  frequencies<draw::gumbel>({-infinity, 0.0f, -infinity, 1.0f}, {}, 105);
}

template <class T, draw How> std::int32_t token_of(const std::vector<float>& logits, sampling s, std::uint64_t seed = 1) {
  const auto context = test::any_context();
  test::array<T> data(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if constexpr (std::is_same_v<T, float>) data[i] = logits[i];
    else data[i] = narrow<T>(logits[i]);
  }
  auto rows = test::array_of(std::vector<sampling>{s});
  auto token = test::array_of(std::vector<std::int32_t>{-7});
  using op = prim::sample<T, How>;
  const int n = int(logits.size());
  const typename op::args a{.logits = {data.data(), 1, n, n}, .rows = rows.data(), .seed = seed, .tokens = token.data()};
  test::scratch memory(op::workspace_bytes(context, a));
  REQUIRE(op::run(context, a, memory.get()));
  test::wait(context);
  return token[0];
}

TEST_CASE("sample: the greatest, ties and rows without an answer") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const sampling& s : {sampling{.temperature = 0}, sampling{.top_k = 1}, sampling{.top_p = 0}}) {
    CHECK(token_of<float, draw::cumulative>({1, 5, 5, 2}, s) == 1);
    CHECK(token_of<bf16, draw::cumulative>({1, -5, 3, 2}, s) == 2);
    CHECK(token_of<fp16, draw::gumbel>({-1, -5, -3, -0.5f}, s) == 3);
    CHECK(token_of<float, draw::gumbel>({-infinity, -1e30f}, s) == 1);
    CHECK(token_of<float, draw::cumulative>({1, infinity, infinity}, s) == 1);
  }
  CHECK(token_of<float, draw::cumulative>({1, infinity, 7}, {}) == 1);
  CHECK(token_of<float, draw::gumbel>({1, infinity, 7}, {}) == 1);
  CHECK(token_of<float, draw::cumulative>({1, 2}, {.temperature = 1e-38f}) == 1);
  CHECK(token_of<float, draw::cumulative>({1, nan, 7}, {}) == -1);
  CHECK(token_of<float, draw::cumulative>({1, nan, 7}, {.temperature = 0}) == -1);
  CHECK(token_of<float, draw::gumbel>({-infinity, -infinity}, {}) == -1);
  for (const sampling& s : {sampling{.temperature = -1}, sampling{.temperature = nan}, sampling{.temperature = infinity}, sampling{.top_k = -1}, sampling{.top_p = 1.5f},
                            sampling{.top_p = nan}, sampling{.min_p = -0.1f}, sampling{.min_p = 1.1f}})
    CHECK(token_of<float, draw::cumulative>({1, 2}, s) == -1);
}

TEST_CASE("sample: tokens are a function of seed, stream and position") {
  const std::vector<float> logits = some_logits(5000, 3);
  // Computed by this library on the host: another machine or compiler must give the same.
  const std::int32_t cumulative[] = {token_of<float, draw::cumulative>(logits, {.stream = 9, .position = 4}, 77), token_of<float, draw::cumulative>(logits, {.stream = 9, .position = 5}, 77)};
  CHECK(cumulative[0] == 4469);
  CHECK(cumulative[1] == 219);
  CHECK(cumulative[0] == token_of<float, draw::cumulative>(logits, {.stream = 9, .position = 4}, 77));
  CHECK(token_of<float, draw::gumbel>(logits, {.temperature = 0.8f, .top_p = 0.95f, .stream = 9, .position = 4}, 77) == 3222);
  CHECK(token_of<float, draw::gumbel>(logits, {.stream = 1}, 77) != token_of<float, draw::gumbel>(logits, {.stream = 2}, 77));
  CHECK(token_of<float, draw::gumbel>(logits, {}, 1) != token_of<float, draw::gumbel>(logits, {}, 2));
}

TEST_CASE("sample: the logarithm and the weight are as exact as they say") {
  for (float x = 1e-30f; x < 1e30f; x *= 1.0097f) {
    const double want = std::log2(double(x));
    CHECK(std::abs(prim::detail::binary_log(x) - want) <= 0x1p-23 * std::max(std::abs(want), x > 0.5f && x < 2 ? std::abs(want) : 1.0));
  }
  for (float x = -33; x <= 0; x += 0.0137f) {
    const double want = std::exp2(double(x)) * 0x1p30;
    CHECK(std::abs(prim::detail::power_weight(x, 1) - want) <= (x > -31.5f ? 0.5 + want * 0x1p-23 : 0.5));
  }
  CHECK(prim::detail::power_weight(0, 1) == 1u << 30);
}

TEST_CASE("sample: refusals name the argument") {
  using op = prim::sample<float>;
  static float logits[8], probabilities[2];
  static sampling rows[2];
  static std::int32_t tokens[2];
  const auto context = test::any_context();
  const op::args good{.logits = {logits, 2, 4, 4}, .rows = rows, .tokens = tokens, .probabilities = probabilities};
  REQUIRE(op::check(context, good));
  const auto refused = [&](auto change, errc code, const char* what) {
    op::args a = good;
    change(a);
    const status st = op::check(context, a);
    INFO(st.what);
    CHECK(st.code == code);
    CHECK(std::string(st.what).find(what) != std::string::npos);
  };
  refused([](op::args& a) { a.logits.data = nullptr; }, errc::null_pointer, "logits is null");
  refused([](op::args& a) { a.logits.cols = 0; }, errc::bad_shape, "vocabulary");
  refused([](op::args& a) { a.logits.stride = 3; }, errc::bad_shape, "logits: stride");
  refused([](op::args& a) { a.rows = nullptr; }, errc::null_pointer, "rows is null");
  refused([](op::args& a) { a.tokens = nullptr; }, errc::null_pointer, "tokens is null");
  refused([](op::args& a) { a.probabilities = logits; }, errc::aliased, "must not overlap logits");
  refused([](op::args& a) { a.scores = probabilities; }, errc::aliased, "each other");
  if (op::workspace_bytes(context, good) > 0) CHECK(op::run(context, good).code == errc::workspace_too_small);
}

}  // namespace
