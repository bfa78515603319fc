// gemm::dense against the double oracle: types, shapes on both sides of every tile, batches, both orders of B, empty
// and non-finite operands. gemm_width_test.cpp has the memory that is not aligned.
#include "gemm_problem.hpp"

using namespace smalti;
using namespace test;

namespace {
constexpr unsigned seed = gemm_seed;
}

// M on both sides of the decode limit and of the prefill tiles, N and K ragged in units of 16 bytes.
TEMPLATE_TEST_CASE("dense matches the oracle", "[ops][gemm]", bf16, fp16, float, std::int8_t) {
  constexpr int e = int(16 / sizeof(TestType));
  shapes<TestType, float, aligned_nk>({{1, 4, e, 1}, {1, 200, 37 * e, 1}, {16, 68, 8 * e, 2}, {17, 64, 64 * e, 1}, {97, 132, 9 * e, 2},
                                       {193, 260, 70 * e, 1}, {300, 36, 3 * e, 1}, {5, 12, 131 * e, 3}});
  shapes<TestType, float, aligned_kn>({{1, 16, e, 1}, {1, 208, 5 * e, 1}, {16, 64, 8 * e, 2}, {97, 144, 9 * e, 2}, {193, 256, 40 * e, 1}});
}

TEST_CASE("dense rounds its result to the type of c", "[ops][gemm]") {
  shapes<bf16, bf16, aligned_nk>({{3, 40, 64, 1}, {100, 72, 200, 1}});
  shapes<bf16, fp16, aligned_nk>({{3, 40, 64, 1}, {100, 72, 200, 1}});
}

TEST_CASE("dense sums int8 exactly", "[ops][gemm]") {
  using op = gemm::dense<std::int8_t, std::int8_t, int, policy::chain<>, aligned_nk>;
  std::mt19937 generator(seed);
  for (auto [m, n, k] : {std::tuple{1, 8, 16}, {16, 100, 2048}, {70, 132, 784}, {33, 64, 4096}}) {
    CAPTURE(seed, m, n, k);
    problem<std::int8_t, int, aligned_nk> p(m, n, k, 1, generator);
    if (k == 4096)   // the largest sum there is
      for (auto& x : p.a) x = -128;
    if (k == 4096)
      for (auto& x : p.b) x = -128;
    p.sums = {oracle::multiply(p.a.data(), p.lda, p.b.data(), p.ldb, true, m, n, k)};
    test::for_each_context(seed, [&, m = m, n = n](const auto& context) {
      run<op>(context, p.args<op>());
      for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) REQUIRE(double(p.got(0, i, j)) == p.sum(0, i, j));
    });
  }
}

TEST_CASE("empty products", "[ops][gemm]") {
  using op = gemm::dense<bf16, bf16, float, policy::chain<policy::bias<bf16>>, aligned_nk>;
  std::mt19937 generator(seed);
  test::array<float> c(8 * 8);
  const auto bias = test::random_array<bf16>(8, generator);
  test::for_each_context(seed, [&](const auto& context) {
    run<op>(context, {.a = {nullptr, 0, 64, 64}, .b = {nullptr, 0, 64, 64}, .c = {nullptr, 0, 0, 0}});
    // K = 0: epilogue(0)
    run<op>(context, {.a = {nullptr, 8, 0, 0}, .b = {nullptr, 8, 0, 0}, .c = {c.data(), 8, 8, 8}, .epilogue = {{bias.data(), 8}, {}}});
    for (int i = 0; i < 64; ++i) REQUIRE(c[i] == to_float(bias[i % 8]));
  });
}

TEST_CASE("NaN and infinity go through a product as arithmetic says", "[ops][gemm]") {
  using op = gemm::dense<bf16, bf16, float, policy::chain<>, aligned_nk>;
  std::mt19937 generator(seed);
  problem<bf16, float, aligned_nk> p(40, 72, 96, 1, generator);
  p.a[3 * p.lda + 5] = narrow<bf16>(std::nanf(""));
  p.a[30 * p.lda + 95] = narrow<bf16>(INFINITY);
  test::for_each_context(seed, [&](const auto& context) {
    run<op>(context, p.args<op>());
    for (int i = 0; i < 40; ++i)
      for (int j = 0; j < 72; ++j) {
        CAPTURE(i, j);
        if (i == 3) REQUIRE(std::isnan(p.got(0, i, j)));
        else if (i == 30) REQUIRE(std::isinf(p.got(0, i, j)));
        else REQUIRE(std::isfinite(p.got(0, i, j)));
      }
  });
}
