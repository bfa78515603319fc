// HiRED against its definition: places that stay, budgets of tiles, both maps.
#include <catch2/catch.hpp>
#include <algorithm>
#include <random>
#include <string>
#include <vector>
#include <smalti/ops/cache/hired.hpp>
#include "reference/kv_compress.hpp"
#include "reference/kv_systems.hpp"
#include "support/arrays.hpp"
#include "support/contexts.hpp"

using namespace smalti;
using cache::hired;

namespace {

constexpr unsigned seed = 20261125;

}  // namespace

TEST_CASE("hired keeps what its definition says, in raster order", "[ops][cache][hired]") {
  std::mt19937 g(seed);
  for (int round = 0; round < 60; ++round) {
    hired::args x;
    x.grid_rows = 1 + int(g() % 24), x.grid_cols = 1 + int(g() % 24);
    x.tile_rows = round % 5 == 0 ? 0 : 1 + int(g() % 3), x.tile_cols = x.tile_rows == 0 ? 0 : 1 + int(g() % 3);
    x.map = round % 3 == 0 ? cache::tile_map::stripes : cache::tile_map::geometric;
    const int n = hired::places(x), count = hired::partitions(x);
    x.tokens = int(g() % unsigned(count * n + 1)), x.whole = int(g() % unsigned(x.tokens + 1)), x.salient = round % 7 == 0 ? 0 : int(g() % unsigned(n + 1));
    auto early = test::random_array<float>(std::size_t(n), g), late = test::random_array<float>(std::size_t(count) * n, g);
    for (std::size_t i = 0; i < late.size(); i += 3) late[i] = 0.5f;                     // ties
    test::array<int> kept(std::size_t(count) * (n + 2)), counts(std::size_t(count) + 0);
    x.early = {early.data(), 1, n, n}, x.late = {late.data(), count, n, n}, x.kept = {kept.data(), count, n, n + 2}, x.counts = counts.data();
    CAPTURE(seed, round, n, count, x.tokens, x.whole, x.salient);
    // The definition.
    std::vector<int> budget(static_cast<std::size_t>(count), 0);
    budget[0] = std::min(count == 1 ? x.tokens : x.whole, n);
    if (count > 1) {
      const std::vector<double> hits = oracle::hired_hits(early.data(), x.grid_rows, x.grid_cols, x.tile_rows, x.tile_cols, x.salient, x.map == cache::tile_map::stripes);
      const std::vector<int> parts = oracle::shares(hits, std::vector<int>(hits.size(), n), x.tokens - budget[0]);
      std::copy(parts.begin(), parts.end(), budget.begin() + 1);
    }
    test::for_each_context(seed, [&](const auto& context) {
      test::scratch memory(hired::workspace_bytes(context, x));
      const status st = hired::run(context, x, memory.get());
      CAPTURE(st.what, st.got, st.need);
      REQUIRE(st.code == errc::ok);
      REQUIRE((memory.guarded() && kept.guarded() && counts.guarded()));
      int sum = 0;
      for (int t = 0; t < count; ++t) {
        REQUIRE(counts[std::size_t(t)] == budget[std::size_t(t)]);
        sum += counts[std::size_t(t)];
        std::vector<int> want = oracle::best_places(late.data() + std::size_t(t) * n, n, budget[std::size_t(t)]);
        want.resize(std::size_t(n), -1);
        REQUIRE(std::vector<int>(kept.data() + std::size_t(t) * (n + 2), kept.data() + std::size_t(t) * (n + 2) + n) == want);
      }
      REQUIRE(sum <= x.tokens);
      if (budget[0] == x.whole && count > 1 && x.tokens - x.whole <= (count - 1) * n) REQUIRE(sum == x.tokens);
    });
  }
}

TEST_CASE("hired refuses by name", "[ops][cache][hired]") {
  const host_context context{1};
  test::array<float> a(9 * 5);
  test::array<int> kept(9 * 5), counts(5);
  hired::args good{.early = {a.data(), 1, 9, 9}, .late = {a.data(), 5, 9, 9}, .grid_rows = 3, .grid_cols = 3, .tokens = 10, .whole = 4, .salient = 3, .kept = {kept.data(), 5, 9, 9}, .counts = counts.data()};
  REQUIRE(hired::check(context, good).code == errc::ok);
  const auto refused = [&](const char* what, void (*spoil)(hired::args&)) {
    hired::args x = good;
    spoil(x);
    REQUIRE(std::string(hired::check(context, x).what).find(what) == 0);
  };
  refused("grid_rows and grid_cols", [](hired::args& x) { x.grid_rows = 0; });
  refused("tile_rows and tile_cols", [](hired::args& x) { x.tile_rows = 0; });
  refused("early and late must not be null", [](hired::args& x) { x.late.data = nullptr; });
  refused("early needs one row", [](hired::args& x) { x.early.cols = 8; });
  refused("late needs a row", [](hired::args& x) { x.late.rows = 4; });
  refused("tokens must be within", [](hired::args& x) { x.tokens = 46; });
  refused("whole must be within", [](hired::args& x) { x.whole = 11; });
  refused("salient must be within", [](hired::args& x) { x.salient = 10; });
  refused("kept and counts must not be null", [](hired::args& x) { x.counts = nullptr; });
  refused("kept needs a row", [](hired::args& x) { x.kept.cols = 8; });
}
