// gemm::dense with A as K x M beside both orders of B, for every type; operands of 8-bit floats; the order of tiles and
// persistent blocks. gemm_test.cpp has A as M x K.
#include "gemm_problem.hpp"

using namespace smalti;
using namespace test;

namespace {

constexpr unsigned seed = gemm_seed;

struct few_workers : turned_nk { static constexpr bool persistent = true; };
struct few_workers_split : gemm::options { static constexpr bool persistent = true, split_k = true; };

// Small tiles in groups of three rows, so that a problem has several groups and a ragged last one.
struct grouped_tiles {
  SMALTI_HD constexpr gemm::gemm_tuning operator()(target, gemm::gemm_regime) const { return {.m = 16, .n = 32, .k = 64, .group = 3}; }
};

}  // namespace

// Rows of A are now M long: M in units of 16 bytes, K ragged. On both sides of the decode limit and of the tiles; K beyond
// one tile, so that turned operands are kept from column to column.
TEMPLATE_TEST_CASE("dense takes A as K x M", "[ops][gemm]", bf16, fp16, float, std::int8_t, fp8_e4m3) {
  constexpr int e = int(16 / sizeof(TestType));
  shapes<TestType, float, turned_kn>({{e, 16, 1, 1}, {e, 208, 37, 2}, {6 * e, 144, 67, 2}, {15 * e, 272, 523, 1}, {20 * e, 16, 5, 1}});
  shapes<TestType, float, turned_nk>({{e, 4, e, 1}, {e, 200, 37 * e, 2}, {7 * e, 132, 9 * e, 2}, {15 * e, 260, 70 * e, 1}, {20 * e, 36, 3 * e, 1}});
}

TEST_CASE("dense multiplies 8-bit floats", "[ops][gemm]") {
  shapes<fp8_e4m3, float, aligned_nk>({{1, 16, 16, 1}, {16, 68, 128, 2}, {97, 132, 144, 2}, {193, 260, 1040, 1}});
  shapes<fp8_e5m2, bf16, aligned_kn>({{1, 16, 32, 1}, {16, 64, 128, 2}, {97, 144, 144, 2}});
  shapes<fp8_e5m2, bf16, turned_kn>({{16, 16, 1, 1}, {96, 144, 67, 2}, {240, 272, 523, 1}});
  shapes<fp8_e5m2, bf16, turned_nk>({{16, 8, 16, 1}, {240, 264, 560, 1}});
}

TEST_CASE("every tile of a grouped order has one number", "[ops][gemm]") {
  for (int rows = 1; rows <= 9; ++rows)
    for (int columns = 1; columns <= 5; ++columns)
      for (int group = 0; group <= 10; ++group) {
        CAPTURE(rows, columns, group);
        std::vector<int> seen(std::size_t(rows) * columns);
        for (int n = 0; n < rows * columns; ++n) {
          const gemm::tile_place p = gemm::place_of_tile(n, rows, columns, group);
          REQUIRE((p.row >= 0 && p.row < rows && p.column >= 0 && p.column < columns));
          ++seen[std::size_t(p.row) * columns + p.column];
          if (group > 0) REQUIRE(p.row / group == n / (group * columns));      // whole groups one after another
        }
        for (int times : seen) REQUIRE(times == 1);
      }
}

TEST_CASE("persistent blocks make every tile, with the same bits", "[ops][gemm]") {
  std::mt19937 generator(seed);
  using once = gemm::dense<bf16, bf16, float, policy::chain<>, turned_nk>;
  using again = gemm::dense<bf16, bf16, float, policy::chain<>, few_workers>;
  problem<bf16, float, few_workers> p(120, 200, 136, 2, generator);
  CAPTURE(seed);
  for_each_context(seed, [&](const auto& context) {
    const auto tuned = with_tuning<grouped_tiles>(context);
    run<once>(tuned, p.args<once>());
    p.verify([&](int s, int i, int j) { return p.sum(s, i, j); }, 1, 0);
    const std::vector<float> first(p.c.begin(), p.c.end());
    std::memset(p.c.data(), 0xA5, p.c.size() * sizeof(float));
    run<again>(tuned, p.args<again>());
    CHECK(std::memcmp(first.data(), p.c.data(), first.size() * sizeof(float)) == 0);
  });
  using split = gemm::dense<bf16, bf16, float, policy::chain<>, few_workers_split>;
  problem<bf16, float, few_workers_split> q(70, 100, 520, 2, generator);
  for_each_context(seed, [&](const auto& context) {
    std::memset(q.c.data(), 0xA5, q.c.size() * sizeof(float));
    auto x = q.args<split>();
    x.splits = 3;
    run<split>(with_tuning<grouped_tiles>(context), x);
    q.verify([&](int s, int i, int j) { return q.sum(s, i, j); }, 1, 0);
  });
}

TEST_CASE("dense refuses a wrong A as K x M", "[ops][gemm][refusal]") {
  using op = gemm::dense<bf16, bf16, float, policy::chain<>, turned_nk>;
  array<bf16> a(64 * 24), b(40 * 64);
  array<float> c(24 * 40);
  const auto with = [&](auto change) {
    op::args x{.a = {a.data(), 64, 24, 24}, .b = {b.data(), 40, 64, 64}, .c = {c.data(), 24, 40, 40}};
    change(x);
    return op::check(any_context(), x);
  };
  CHECK(with([](auto&) {}).code == errc::ok);
  const auto named = [](const status& s, errc code, const char* word, std::int64_t got, std::int64_t need) {
    CAPTURE(s.what, s.got, s.need);
    CHECK(s == status{code, "", got, need});
    CHECK(std::strstr(s.what, word) != nullptr);
  };
  named(with([](auto& x) { x.c.rows = 23; }), errc::bad_shape, "K x M", 23, 24);
  named(with([](auto& x) { x.a.rows = 56; }), errc::bad_shape, "a's K", 64, 56);
  named(with([](auto& x) { x.a.cols = x.c.rows = 20; }), errc::misaligned, "columns (M)", 20, 24);
}
