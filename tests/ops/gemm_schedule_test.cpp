// Split K and the promises of determinism of gemm::dense.
#include <sys/mman.h>
#include "gemm_problem.hpp"

using namespace smalti;
using namespace test;

namespace {
constexpr unsigned seed = gemm_seed;
}

TEST_CASE("split K adds its parts in order", "[ops][gemm][split]") {
  using op = gemm::dense<bf16, bf16, float, policy::chain<policy::bias<bf16>>, split_nk>;
  std::mt19937 generator(seed);
  for (auto [m, n, k, splits] : {std::tuple{1, 40, 8192, 3}, {70, 136, 4096, 4}, {200, 68, 2048, 2}, {40, 24, 512, 7}, {9, 8, 64, 1}}) {
    CAPTURE(seed, m, n, k, splits);
    problem<bf16, float, split_nk> p(m, n, k, 2, generator);
    const auto bias = test::random_array<bf16>(n, generator);
    std::vector<float> first;
    test::for_each_context(seed, [&, n = n, splits = splits](const auto& context) {
      auto x = p.args<op>();
      x.splits = splits;
      x.epilogue = {{bias.data(), n}, {}};
      run<op>(context, x);
      p.verify([&](int s, int i, int j) { return p.sum(s, i, j) + test::value(bias[j]); }, 1, 0x1p-22);
      // whoever arrives last, the bits are the same: on every order of blocks and number of threads
      std::vector<float> bits(p.c.begin(), p.c.end());
      if (first.empty()) first = bits;
      REQUIRE(std::memcmp(first.data(), bits.data(), bits.size() * sizeof(float)) == 0);
    });
  }
}

TEST_CASE("split K of int8 is exact", "[ops][gemm][split]") {
  using op = gemm::dense<std::int8_t, std::int8_t, int, policy::chain<>, split_nk>;
  std::mt19937 generator(seed);
  problem<std::int8_t, int, split_nk> p(50, 68, 8192, 1, generator);
  test::for_each_context(seed, [&](const auto& context) {
    auto x = p.args<op>();
    x.splits = 5;
    run<op>(context, x);
    for (int i = 0; i < 50; ++i)
      for (int j = 0; j < 68; ++j) REQUIRE(double(p.got(0, i, j)) == p.sum(0, i, j));
  });
}

TEST_CASE("the same call gives the same bits", "[ops][gemm][determinism]") {
  using op = gemm::dense<bf16, bf16, float, policy::chain<policy::silu>, aligned_nk>;
  std::mt19937 generator(seed);
  problem<bf16, float, aligned_nk> p(150, 200, 520, 1, generator);
  std::vector<float> first;
  for (int repeat = 0; repeat < 3; ++repeat)
    test::for_each_context(seed + repeat, [&](const auto& context) {
      run<op>(context, p.args<op>());
      std::vector<float> bits(p.c.begin(), p.c.end());
      if (first.empty()) first = bits;
      REQUIRE(std::memcmp(first.data(), bits.data(), bits.size() * sizeof(float)) == 0);
    });
}

TEMPLATE_TEST_CASE("batch_invariant: a row's bits do not depend on the number of rows", "[ops][gemm][determinism]", bf16, float) {
  using op = gemm::dense<TestType, TestType, float, policy::chain<>, invariant_nk>;
  std::mt19937 generator(seed);
  const int most = 150, n = 72, k = 328;
  problem<TestType, float, invariant_nk> p(most, n, k, 1, generator);
  test::for_each_context(seed, [&](const auto& context) {
    run<op>(context, p.template args<op>());
    const std::vector<float> all(p.c.begin(), p.c.end());
    for (int m : {1, 2, 7, 16, 17, 64, 65, 149}) {
      CAPTURE(m);
      auto x = p.template args<op>();
      x.a.rows = x.c.rows = m;
      run<op>(context, x);
      REQUIRE(std::memcmp(all.data(), p.c.data(), std::size_t(m) * p.ldc * sizeof(float)) == 0);
    }
  });
}

#if !defined(__CUDACC__)
// Rows two gigabytes apart in memory that is mapped but hardly touched: element offsets pass 2^31 and byte offsets 2^32.
TEST_CASE("matrices beyond the reach of 32-bit offsets", "[ops][gemm]") {
  using op = gemm::dense<bf16, bf16, float, policy::chain<>, aligned_nk>;
  const int m = 5, n = 8, k = 64, stride = 1 << 30;
  const std::size_t bytes = (std::size_t(n - 1) * stride + k) * sizeof(bf16), c_bytes = (std::size_t(m - 1) * stride + n) * sizeof(float);
  const auto reserve = [](std::size_t size) { return mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); };
  void *a = reserve(bytes), *b = reserve(bytes), *c = reserve(c_bytes);
  if (a == MAP_FAILED || b == MAP_FAILED || c == MAP_FAILED) {
    WARN("skipped: this machine does not give so much address space");
    return;
  }
  std::mt19937 generator(seed);
  const auto small_a = random_array<bf16>(m * k, generator), small_b = random_array<bf16>(n * k, generator);
  for (int i = 0; i < m; ++i) std::memcpy(static_cast<bf16*>(a) + std::int64_t(i) * stride, small_a.data() + i * k, k * sizeof(bf16));
  for (int j = 0; j < n; ++j) std::memcpy(static_cast<bf16*>(b) + std::int64_t(j) * stride, small_b.data() + j * k, k * sizeof(bf16));
  const auto want = oracle::multiply(small_a.data(), k, small_b.data(), k, true, m, n, k);
  for_each_context(seed, [&](const auto& context) {
    run<op>(context, {.a = {static_cast<bf16*>(a), m, k, stride}, .b = {static_cast<bf16*>(b), n, k, stride}, .c = {static_cast<float*>(c), m, n, stride}});
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < n; ++j) {
        const float got = static_cast<float*>(c)[std::int64_t(i) * stride + j];
        REQUIRE(std::abs(got - want.value[i * n + j]) <= gemm_error{k}.bound<float, bf16>(want.size[i * n + j], want.value[i * n + j]));
      }
  });
  munmap(a, bytes), munmap(b, bytes), munmap(c, c_bytes);
}
#endif
