// The weight-only agent: four-bit codes in word planes, against a double oracle.
#include <catch2/catch.hpp>
#include <bit>
#include <cmath>
#include <vector>
#include <smalti/block/gemm/weight_only.hpp>
#include <smalti/policy/codec.hpp>
#include <smalti/tile/launch.hpp>
#include "support/arrays.hpp"
#include "support/contexts.hpp"

using namespace smalti;

namespace {
constexpr unsigned seed = 11;

template <int M, class Problem> struct kernel {
  static constexpr int power_of_two = int(std::bit_floor(unsigned(M)));   // as a GPU's tile must be
  using arguments = typename Problem::arguments;
  template <target T> using agent = gemm::weight_only_agent<T == target::host ? gemm::weight_only_tuning{M, 64} : gemm::weight_only_tuning{power_of_two, 128}, Problem>;
};

template <int Group, int M> void compare(int m, int n, int k) {
  std::mt19937 generator(seed);
  CAPTURE(seed, m, n, k);
  const auto x = test::random_array<bf16>(std::size_t(m) * k, generator);
  std::vector<int> code(std::size_t(n) * k);
  for (int& c : code) c = int(generator() % 16);
  test::array<float> scales(std::size_t(k / Group) * n), y(std::size_t(m) * n);
  for (float& s : scales) s = 0.01f + float(generator() % 100) * 1e-3f;
#if defined(__CUDACC__)
  constexpr int width = 0;
  test::array<std::uint32_t> words(std::size_t(n) * (k / 8));
#else
  constexpr int width = 64;
  test::array<std::uint32_t> words(std::size_t(ceil_div(n, 64)) * (k / 8) * 64);
#endif
  for (auto& w : words) w = 0;
  for (int j = 0; j < n; ++j)
    for (int c = 0; c < k; ++c) {
      const int group = c / Group, plane = c % Group / (Group / 4), w = c % (Group / 4) / 2, half = c % 2;
      const int word = group * (Group / 8) + w;
      words[width ? (std::size_t(j / 64) * (k / 8) + word) * 64 + j % 64 : std::size_t(j) * (k / 8) + word] |= std::uint32_t(code[std::size_t(j) * k + c]) << (16 * half + 4 * plane);
    }
  using problem = gemm::weight_only_problem<policy::int4_symmetric<Group>, float>;
  test::for_each_context(seed, [&](const auto& context) {
    const stack<const std::uint32_t> codes = width ? stack<const std::uint32_t>{words.data(), ceil_div(n, 64), k / 8, 64, k / 8 * 64, 64}
                                                   : stack<const std::uint32_t>{words.data(), 1, n, k / 8, 0, k / 8};
    const status st = launch<kernel<M, problem>>(context, {{x.data(), m, k, k}, codes, {scales.data(), k / Group, n, n}, {y.data(), m, n, n}});
    REQUIRE(st.code == errc::ok);
    test::wait(context);
    REQUIRE(y.guarded());
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < n; ++j) {
        double sum = 0, size = 0;
        for (int c = 0; c < k; ++c) {
          const double t = test::value(x[std::size_t(i) * k + c]) * (code[std::size_t(j) * k + c] - 8) * scales[c / Group * n + j];
          sum += t, size += std::abs(t);
        }
        const double error = std::abs(sum - y[std::size_t(i) * n + j]);   // k products summed in float, one scale a group
        if (!(error <= (k + 8) * 0x1p-24 * size)) REQUIRE(error <= (k + 8) * 0x1p-24 * size);
      }
  });
}
}  // namespace

TEST_CASE("weight-only products", "[block][gemm]") {
  compare<128, 16>(1, 64, 128);
  compare<128, 16>(7, 200, 384);
  compare<128, 16>(33, 72, 256);
  compare<128, 96>(100, 132, 512);
  compare<64, 16>(5, 64, 192);
  compare<32, 16>(5, 80, 96);
}
