// Attention's side of many ranks: a mask at tokens' own positions is the mask of the whole, and absorbing parts one by one is merging
// them. On every machine.
#include <catch2/catch.hpp>

#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include <smalti/ops/attention/absorb.hpp>
#include <smalti/ops/attention/merge.hpp>
#include <smalti/policy/masks/at_positions.hpp>
#include <smalti/policy/masks/compose.hpp>
#include <smalti/policy/masks/document.hpp>
#include <smalti/policy/masks/window.hpp>

#include "reference/attention.hpp"
#include "support/arrays.hpp"
#include "support/contexts.hpp"

using namespace smalti;
using namespace smalti::policy;

namespace {

constexpr unsigned seed = 20261121;

// Shares of two sequences by a draw: ascending positions.
struct shares {
  std::vector<int> positions, first, all;
  shares(std::vector<int> tokens, int keep, std::mt19937& generator) : all(std::move(tokens)) {
    for (const int n : all) {
      first.push_back(int(positions.size()));
      for (int t = 0; t < n; ++t)
        if (int(generator() % 10) < keep) positions.push_back(t);
    }
    first.push_back(int(positions.size()));
  }
  int rows(int s) const { return first[s + 1] - first[s]; }
};

// No rectangle of rows is called hidden, whole, skipped or full that is not, and visible is the mask's own.
template <class Mask> int broken(const Mask& whole, const std::function<bool(int s, int q, int k)>& seen, const shares& q, const shares& k) {
  const at_positions<Mask> mask{whole, q.positions.data(), k.positions.data(), q.first.data(), k.first.data(), q.all.data(), k.all.data()};
  int wrong = 0;
  for (int s = 0; s < 2; ++s) {
    const int n = q.rows(s), m = k.rows(s);
    const auto m_here = bound(mask, place{s, 0, n, m});
    const auto is = [&](int i, int j) { return seen(s, q.positions[q.first[s] + i], k.positions[k.first[s] + j]); };
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < m; ++j) wrong += m_here.visible(i, j) != is(i, j);
    for (int a = 0; a < n; ++a)
      for (int b = a + 1; b <= n; b += 3) {
        const span some = m_here.keys({a, b}, m), all = m_here.whole({a, b}, m);
        wrong += some.first < 0 || some.last > m || all.first < 0 || all.last > m;
        for (int j = 0; j < m; ++j)
          for (int i = a; i < b; ++i) wrong += (is(i, j) && (j < some.first || j >= some.last)) + (!is(i, j) && j >= all.first && j < all.last);
        for (int c = 0; c < m; c += 2)
          for (int d = c + 1; d <= m; d += 3) {
            const tile_class what = classify(m_here, {a, b}, {c, d});
            for (int i = a; i < b; ++i)
              for (int j = c; j < d; ++j) wrong += what == tile_class::skip ? is(i, j) : what == tile_class::full ? !is(i, j) : 0;
          }
      }
    for (int c = 0; c < m; ++c)
      for (int d = c + 1; d <= m; d += 3) {
        const span some = policy::queries(m_here, {c, d}, n), all = policy::whole_queries(m_here, {c, d}, n);
        for (int i = 0; i < n; ++i)
          for (int j = c; j < d; ++j) wrong += (is(i, j) && (i < some.first || i >= some.last)) + (!is(i, j) && i >= all.first && i < all.last);
      }
    // Past the last row, as a tile reaches: no claim, and nothing is read.
    (void)classify(m_here, {0, n + 5}, {0, m + 5});
  }
  return wrong;
}

}  // namespace

#if !defined(__CUDACC__)
TEST_CASE("a mask at tokens' own positions is the mask of the whole", "[policy][mask]") {
  std::mt19937 generator(seed);
  for (int round = 0; round < 6; ++round) {
    const shares q({20, 13}, 3 + round, generator), k({26, 13}, 9 - round, generator);
    CAPTURE(seed, round);
    const auto shift = [](int s) { return s == 0 ? 6 : 0; };
    CHECK(broken(full{}, [](int, int, int) { return true; }, q, k) == 0);
    CHECK(broken(causal{}, [&](int s, int i, int j) { return j <= i + shift(s); }, q, k) == 0);
    CHECK(broken(causal_top_left{}, [&](int, int i, int j) { return j <= i; }, q, k) == 0);
    CHECK(broken(window_keys(5), [&](int s, int i, int j) { return j <= i + shift(s) && j > i + shift(s) - 5; }, q, k) == 0);
    CHECK(broken(sink_window_keys(2, 4), [&](int s, int i, int j) { return j <= i + shift(s) && (j < 2 || j > i + shift(s) - 4); }, q, k) == 0);
    CHECK(broken(mask_or<causal, sliding_window<>>{{}, window_left(3, 4)}, [&](int s, int i, int j) { return j <= i + shift(s) || (j >= i + shift(s) - 3 && j <= i + shift(s) + 4); }, q, k) == 0);
  }
  const at_positions<causal> nothing{};
  CHECK(nothing.check({1, 1, 1, 1}).code == errc::null_pointer);
  CHECK(nothing.check({0, 0, 0, 0}));
}
#endif

TEST_CASE("absorbing parts one by one is merging them", "[attention][absorb]") {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, 1);
  constexpr int heads = 3, d = 72, parts = 5;
  const std::vector<int> rows{37, 0, 5};
  test::for_each_context(seed, [&](const auto& context) {
    test::array<std::int32_t> offsets(4), part_offsets(4), first(3);
    offsets[0] = part_offsets[0] = 0;
    for (int s = 0; s < 3; ++s) offsets[s + 1] = offsets[s] + rows[s];
    const int all = offsets[3];
    test::array<float> o(std::size_t(all) * heads * d), lse(std::size_t(all) * heads);
    for (float& x : o) x = NAN;                       // empty so far: not looked at
    for (float& x : lse) x = -INFINITY;
    std::vector<std::vector<std::pair<std::vector<double>, double>>> seen(std::size_t(all) * heads);
    for (int p = 0; p < parts; ++p) {
      // Some rows of each sequence.
      for (int s = 0; s < 3; ++s) {
        first[s] = p == 0 ? 0 : std::min(rows[s], int(generator() % 9));
        const int n = p == 0 ? rows[s] : int(generator() % unsigned(rows[s] - first[s] + 1));
        part_offsets[s + 1] = part_offsets[s] + n;
      }
      const int mine = part_offsets[3];
      test::array<float> part(std::size_t(mine) * heads * d + 4), part_lse(std::size_t(mine) * heads + 4);
      for (float& x : part) x = normal(generator);
      for (float& x : part_lse) x = normal(generator) * 20;
      for (int s = 0; s < 3; ++s)
        for (int i = 0; i < part_offsets[s + 1] - part_offsets[s]; ++i)
          for (int h = 0; h < heads; ++h) {
            const std::size_t at = std::size_t(part_offsets[s] + i) * heads + h, to = std::size_t(offsets[s] + first[s] + i) * heads + h;
            if ((i + h) % 7 == 3) {                   // a part that saw no key, whose values are rubbish
              part_lse[at] = -INFINITY, part[at * d + 5] = NAN;
              continue;
            }
            std::vector<double> v(part.data() + at * d, part.data() + (at + 1) * d);
            seen[to].push_back({v, part_lse[at]});
          }
      using attention::head_rows;
      const attention::absorb<>::args x{.o = head_rows<float>{o.data(), 3, heads, 37, d, 0, d, heads * d, offsets.data()}, .lse = head_rows<float>{lse.data(), 3, heads, 37, 1, 0, 1, heads, offsets.data()},
                                        .part = head_rows<const float>{part.data(), 3, heads, 37, d, 0, d, heads * d, part_offsets.data()},
                                        .part_lse = head_rows<const float>{part_lse.data(), 3, heads, 37, 1, 0, 1, heads, part_offsets.data()}, .first = first.data()};
      const status st = attention::absorb<>::run(context, x);
      CAPTURE(st.what, st.got, st.need);
      REQUIRE(st);
      test::wait(context);
      if (p == 0) {
        auto wrong = x;
        wrong.part.heads = 2;
        CHECK(attention::absorb<>::check(context, wrong).code == errc::bad_shape);
        wrong = x, wrong.part_lse.data = nullptr;
        CHECK(attention::absorb<>::check(context, wrong).code == errc::null_pointer);
#if !defined(__CUDACC__)
        first[0] = 1;
        CHECK(attention::absorb<>::check(context, x).code == errc::bad_shape);
        first[0] = -1;
        CHECK(attention::absorb<>::check(context, x).code == errc::bad_value);
        first[0] = 0;
#endif
      }
    }
    REQUIRE((o.guarded() && lse.guarded()));
    for (std::size_t r = 0; r < seen.size(); ++r) {
      if (seen[r].empty()) {
        REQUIRE(lse[r] == -INFINITY);
        continue;
      }
      const auto [value, l] = oracle::merged_partials(seen[r]);
      const double n = double(seen[r].size());
      REQUIRE(std::abs(lse[r] - l) <= (12 * n + 2 * std::abs(l)) * 0x1p-24 + n * std::abs(l) * 0x1p-24);   // the base's conversion in each step
      double most = 0;
      for (const auto& part : seen[r])
        for (const double v : part.first) most = std::max(most, std::abs(v));
      // Each of the n log-sum-exps on the way is off by 2^-24 of itself (up to 80), which its weight feels.
      for (int c = 0; c < d; ++c) REQUIRE(std::abs(o[r * d + c] - value[c]) <= ((15 * n + 5) + n * 80 * 2) * 0x1p-24 * most);
    }
  });
}
