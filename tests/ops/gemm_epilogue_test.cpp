// Epilogues of gemm::dense against the double oracle.
#include "gemm_problem.hpp"

using namespace smalti;
using namespace test;

namespace {
constexpr unsigned seed = gemm_seed;
}

TEST_CASE("epilogues run in their order", "[ops][gemm][epilogue]") {
  std::mt19937 generator(seed);
  const auto check = [&]<class Steps, class Expected>(const Steps&, int m, Expected expected, double slope, auto make) {
    using op = gemm::dense<bf16, bf16, float, Steps, aligned_nk>;
    const int n = 72, k = 96;
    CAPTURE(seed, m);
    problem<bf16, float, aligned_nk> p(m, n, k, 1, generator);
    const auto bias = test::random_array<bf16>(n, generator);
    const auto factor = test::random_array<float>(std::max(m, n), generator);
    const auto stream = test::random_array<bf16>(std::size_t(m) * (n + 3), generator);
    test::for_each_context(seed, [&](const auto& context) {
      auto x = p.template args<op>();
      x.epilogue = make(bias.data(), factor.data(), stream.data(), m, n);
      run<op>(context, x);
      p.verify([&](int s, int i, int j) {
        return expected(p.sum(s, i, j), test::value(bias[j]), test::value(factor[i]), test::value(factor[j]), test::value(stream[std::size_t(i) * (n + 3) + j]));
      }, slope, 0x1p-18);
    });
  };
  using policy::chain;
  for (int m : {2, 40}) {
    check(chain<policy::bias<bf16>>{}, m, [](double x, double b, double, double, double) { return x + b; }, 1,
          [](auto b, auto, auto, int, int n) { return chain<policy::bias<bf16>>{{b, n}, {}}; });
    check(chain<policy::silu, policy::bias<bf16>>{}, m, [](double x, double b, double, double, double) { return oracle::silu(x) + b; }, 1.1,
          [](auto b, auto, auto, int, int n) { return chain<policy::silu, policy::bias<bf16>>{{}, {{b, n}, {}}}; });
    check(chain<policy::bias<bf16>, policy::gelu>{}, m, [](double x, double b, double, double, double) { return oracle::gelu(x + b); }, 1.13,
          [](auto b, auto, auto, int, int n) { return chain<policy::bias<bf16>, policy::gelu>{{b, n}, {}}; });
    check(chain<policy::gelu_tanh>{}, m, [](double x, double, double, double, double) { return oracle::gelu_tanh(x); }, 1.13,
          [](auto, auto, auto, int, int) { return chain<policy::gelu_tanh>{}; });
    check(chain<policy::scale, policy::relu>{}, m, [](double x, double, double, double, double) { return std::max(-0.5 * x, 0.0); }, 1,
          [](auto, auto, auto, int, int) { return chain<policy::scale, policy::relu>{{-0.5f}, {}}; });
    check(chain<policy::row_scale<float>, policy::column_scale<float>>{}, m, [](double x, double, double r, double c, double) { return x * r * c; }, 20,
          [](auto, auto f, auto, int m, int n) { return chain<policy::row_scale<float>, policy::column_scale<float>>{{f, m}, {{f, n}, {}}}; });
    check(chain<policy::relu, policy::residual<bf16>>{}, m, [](double x, double, double, double, double s) { return std::max(x, 0.0) + s; }, 1,
          [](auto, auto, auto s, int m, int n) { return chain<policy::relu, policy::residual<bf16>>{{}, {{{s, m, n, n + 3}}, {}}}; });
  }
}

TEST_CASE("cast rounds inside a chain", "[ops][gemm][epilogue]") {
  using steps = policy::chain<policy::cast<bf16>, policy::scale>;
  using op = gemm::dense<bf16, bf16, float, steps, aligned_nk>;
  std::mt19937 generator(seed);
  problem<bf16, float, aligned_nk> p(20, 40, 16, 1, generator);
  test::for_each_context(seed, [&](const auto& context) {
    auto x = p.args<op>();
    x.epilogue = {{}, {{4.0f}, {}}};
    run<op>(context, x);
    for (int i = 0; i < 20; ++i)
      for (int j = 0; j < 40; ++j) {
        const float got = p.got(0, i, j) / 4;
        REQUIRE(to_float(narrow<bf16>(got)) == got);                                   // a bf16
        REQUIRE(std::abs(got - p.sum(0, i, j)) <= 0x1p-8 * std::abs(p.sum(0, i, j)) + 1e-5);   // the one nearby
      }
  });
}

TEST_CASE("a gated epilogue multiplies two products", "[ops][gemm][epilogue]") {
  using steps = policy::chain<policy::gated<policy::silu>>;
  std::mt19937 generator(seed);
  const auto check = [&]<class Options>(Options, int m, int n, int k) {
    using op = gemm::dense<bf16, bf16, float, steps, Options>;
    CAPTURE(seed, m, n, k);
    problem<bf16, float, Options> p(m, n, k, 2, generator, 2);
    test::for_each_context(seed, [&](const auto& context) {
      run<op>(context, p.template args<op>());
      // |d(silu(g) u)| <= 1.1 |dg| |u| + |g| |du|: the slope is bounded by the largest of the values
      double most = 1;
      for (const auto& s : p.sums)
        for (double v : s.value) most = std::max(most, std::abs(v));
      p.verify([&](int s, int i, int j) { return oracle::silu(p.sum(s, i, j)) * p.sum(s, i, j + n); }, 1.1 * most, 0x1p-18);
    });
  };
  check(aligned_nk{}, 3, 40, 64);
  check(aligned_nk{}, 70, 136, 200);
  check(aligned_kn{}, 70, 136, 200);
  check(split_nk{}, 70, 72, 2048);
}
