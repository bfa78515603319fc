// The laws of policy/lse.hpp: the merge of softmax partials against one in double, in both bases, on plain floats and
// on the host machine's packs.
//
// Error model, eps = 2^-24, M the largest |value|. exp2, log2 and the quotient are within 2 units of the last place,
// 4 eps of the result. Of the two factors of a step one is exactly 1. The other, 2^-d, has 4 eps from exp2, and its
// exponent up to 3 roundings (the difference, the product with log2 e, that constant): 3 eps d ln2, which counts with
// the weight itself, 3 ln2 d 2^-d < 1.1. So a weight is off by 5.1 n eps, which moves a weighted mean by 10.2 n eps M.
// Products and sums, two roundings a step in the weights and two in the values: 4 n eps M. The quotient and the last
// product: 5 eps M. Together at most (15 n + 5) eps M.
// lse: the sum of weights is off by 7.1 n eps, so its log by as much (in e-folds); log2, ln2 and the product by 6 eps
// ln n; the last sum by eps |lse|. Together at most 12 n eps + 2 eps |lse|, in base 2 12 n log2(e) eps.
// An lse that was itself rounded by eps |lse| and is used as a weight again moves that weight by as much, relative.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include <smalti/policy/lse.hpp>
#include <smalti/tile/host/math.hpp>

#include "../reference/lse.hpp"

using namespace smalti;
using namespace smalti::policy;

namespace {

constexpr double eps = 0x1p-24;
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

template <class L> constexpr double base_of_type = 2;
template <class V> constexpr double base_of_type<lse_e<V>> = 2.718281828459045;
template <class L> constexpr double natural = 1;  // units of lse in one e-fold
template <class V> constexpr double natural<lse_2<V>> = 1.4426950408889634;

template <class L> using part = lse_partial<float, L>;

struct problem {
  std::mt19937 random;
  float spread, offset;  // of the lse

  template <class L> std::vector<part<L>> partials(int n, bool with_empties) {
    std::normal_distribution<float> value, score;
    std::vector<part<L>> out;
    for (int i = 0; i < n; ++i) {
      const bool empty = with_empties && random() % 3 == 0;
      out.push_back({empty ? nan_value : value(random), {empty ? -infinity : offset + spread * score(random)}});
    }
    return out;
  }
};

template <class L> reference::softmax_partial oracle(const std::vector<part<L>>& parts) {
  std::vector<reference::softmax_partial> wide;
  for (const auto& p : parts) wide.push_back({p.value, p.lse.value});
  return reference::merged(wide, base_of_type<L>);
}

template <class L> part<L> merge_all(const std::vector<part<L>>& parts) {
  auto all = lse_begin(parts.front());
  for (std::size_t i = 1; i < parts.size(); ++i) all.absorb(parts[i]);
  return all.finish();
}

// One by one, so that every step rounds the lse.
template <class L> part<L> merge_stepwise(const std::vector<part<L>>& parts) {
  auto all = lse_merge(parts.front());
  for (std::size_t i = 1; i < parts.size(); ++i) all = lse_merge(all, parts[i]);
  return all;
}
template <class L> part<L> merge_tree(const std::vector<part<L>>& parts) {
  if (parts.size() == 1) return lse_merge(parts.front());
  const auto middle = parts.begin() + std::ptrdiff_t(parts.size() / 2);
  return lse_merge(merge_tree(std::vector<part<L>>(parts.begin(), middle)), merge_tree(std::vector<part<L>>(middle, parts.end())));
}

template <class L> double largest_value(const std::vector<part<L>>& parts) {
  double m = 0;
  for (const auto& p : parts)
    if (!std::isinf(p.lse.value)) m = std::max(m, std::fabs(double(p.value)));
  return m;
}
template <class L> double largest_lse(const std::vector<part<L>>& parts) {
  double m = 1;
  for (const auto& p : parts)
    if (!std::isinf(p.lse.value)) m = std::max(m, std::fabs(double(p.lse.value)) + std::log2(double(parts.size())));
  return m;
}

// roundings: how often an lse was rounded on the way and used as a weight again.
template <class L> void check(const part<L>& got, const std::vector<part<L>>& parts, int roundings) {
  const auto want = oracle(parts);
  if (std::isinf(want.lse)) {
    REQUIRE(got.lse.value == -infinity);
    REQUIRE(got.value == 0.0f);
    return;
  }
  const double n = double(parts.size()), again = 2 * roundings * largest_lse(parts) / natural<L>;
  CAPTURE(got.value, want.value, got.lse.value, want.lse, n, roundings);
  REQUIRE(std::fabs(got.value - want.value) <= (15 * n + 5 + again) * eps * largest_value(parts));
  REQUIRE(std::fabs(got.lse.value - want.lse) <= (12 * n * natural<L> + 2 * (1 + roundings) * largest_lse(parts)) * eps);
}

}  // namespace

using bases = std::tuple<lse_e<float>, lse_2<float>>;

TEMPLATE_LIST_TEST_CASE("merging partials is the softmax over all keys, in any order and grouping", "[policy][lse]", bases) {
  const std::uint32_t seed = std::random_device{}();
  const float spread = GENERATE(0.0f, 0.1f, 3.0f, 40.0f);
  const float offset = GENERATE(0.0f, -60.0f, 300.0f);
  const bool empties = GENERATE(false, true);
  CAPTURE(seed, spread, offset, empties);
  problem make{std::mt19937(seed), spread, offset};
  for (const int n : {1, 2, 3, 8, 31})
    for (int turn = 0; turn < 20; ++turn) {
      auto parts = make.partials<TestType>(n, empties);
      check(merge_all(parts), parts, 0);
      check(merge_stepwise(parts), parts, n - 1);
      check(merge_tree(parts), parts, 5);
      std::shuffle(parts.begin(), parts.end(), make.random);
      check(merge_all(parts), parts, 0);
      std::sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.lse.value < b.lse.value; });
      check(merge_all(parts), parts, 0);
      std::reverse(parts.begin(), parts.end());
      check(merge_all(parts), parts, 0);
    }
}

TEMPLATE_LIST_TEST_CASE("a merge of three associates within the stated error", "[policy][lse]", bases) {
  const std::uint32_t seed = std::random_device{}();
  CAPTURE(seed);
  problem make{std::mt19937(seed), 5.0f, 0.0f};
  for (int turn = 0; turn < 5000; ++turn) {
    const auto p = make.partials<TestType>(3, true);
    const auto left = lse_merge(lse_merge(p[0], p[1]), p[2]), right = lse_merge(p[0], lse_merge(p[1], p[2])),
               flat = lse_merge(p[0], p[1], p[2]);
    check(left, p, 1);
    check(right, p, 1);
    check(flat, p, 0);
  }
}

TEMPLATE_LIST_TEST_CASE("empty partials are the identity, whatever they hold", "[policy][lse]", bases) {
  using L = TestType;
  for (const float garbage : {0.0f, -0.0f, 17.0f, infinity, nan_value}) {
    const part<L> empty{garbage, {-infinity}};
    CAPTURE(garbage);
    for (const float lse : {0.0f, -3.5f, 88.0f, -1e30f, 1e30f, -3.4e38f, 3.4e38f}) {
      const part<L> some{1.25f, {lse}};
      for (const auto& got :
           {lse_merge(empty, some), lse_merge(some, empty), lse_merge(empty, some, empty), lse_merge(empty, empty, some)}) {
        REQUIRE(got.value == 1.25f);  // to the bit: the weight is 1, the log of it 0
        REQUIRE(got.lse.value == lse);
      }
      REQUIRE(lse_join(L{-infinity}, L{lse}).value == lse);
      REQUIRE(lse_join(L{lse}, L{-infinity}).value == lse);
      REQUIRE(lse_share(L{-infinity}, L{lse}) == 0.0f);
      REQUIRE(lse_share(L{lse}, L{lse}) == 1.0f);
    }
    for (const auto& got : {lse_merge(empty), lse_merge(empty, empty), lse_merge(empty, empty, empty)}) {
      REQUIRE(got.value == 0.0f);
      REQUIRE(got.lse.value == -infinity);
    }
  }
  REQUIRE(lse_join(L{-infinity}, L{-infinity}).value == -infinity);
  REQUIRE(lse_share(L{-infinity}, L{-infinity}) == 0.0f);
}

TEMPLATE_LIST_TEST_CASE("far apart, one side wins and nothing overflows", "[policy][lse]", bases) {
  using L = TestType;
  const auto got = lse_merge(part<L>{1.0f, {3e38f}}, part<L>{5.0f, {-3e38f}});
  REQUIRE(got.value == 1.0f);
  REQUIRE(got.lse.value == 3e38f);
  const auto twice = lse_merge(part<L>{1.0f, {1000.0f}}, part<L>{3.0f, {1000.0f}});
  REQUIRE(twice.value == 2.0f);
  REQUIRE(twice.lse.value == Approx(1000.0 + std::log(2.0) * natural<L>).epsilon(1e-7));
}

TEMPLATE_LIST_TEST_CASE("faults stay visible", "[policy][lse]", bases) {
  using L = TestType;
  const part<L> fine{1.0f, {0.0f}};
  for (const float fault : {nan_value, infinity}) {
    CAPTURE(fault);
    for (const auto& got : {lse_merge(fine, part<L>{1.0f, {fault}}), lse_merge(part<L>{1.0f, {fault}}, fine)}) {
      REQUIRE(std::isnan(got.value));
      REQUIRE(std::isnan(got.lse.value));
    }
  }
  REQUIRE(std::isnan(lse_merge(fine, part<L>{nan_value, {0.0f}}).value));  // a NaN that has weight is kept
  REQUIRE(empty_if_infinite(L{infinity}).value == -infinity);
  REQUIRE(empty_if_infinite(L{-infinity}).value == -infinity);
  REQUIRE(empty_if_infinite(L{3.4e38f}).value == 3.4e38f);
  REQUIRE(std::isnan(empty_if_infinite(L{nan_value}).value));
}

TEST_CASE("a sink is a partial without a value", "[policy][lse]") {
  const float lse = 1.5f, sink = 0.25f;
  const auto got = lse_merge(part<lse_e<float>>{2.0f, {lse}}, part<lse_e<float>>{0.0f, {sink}});
  const double total = std::exp(double(lse)) + std::exp(double(sink));
  REQUIRE(got.value == Approx(2.0 * std::exp(double(lse)) / total).epsilon(1e-6));
  REQUIRE(got.lse.value == Approx(std::log(total)).epsilon(1e-6));
  const auto only = lse_merge(part<lse_e<float>>{nan_value, {-infinity}}, part<lse_e<float>>{0.0f, {sink}});  // no keys but a sink
  REQUIRE(only.value == 0.0f);
  REQUIRE(only.lse.value == sink);
}

TEMPLATE_LIST_TEST_CASE("join and share are a merge in two passes", "[policy][lse]", bases) {
  const std::uint32_t seed = std::random_device{}();
  CAPTURE(seed);
  problem make{std::mt19937(seed), 4.0f, 0.0f};
  for (int turn = 0; turn < 200; ++turn) {
    const auto parts = make.partials<TestType>(7, true);
    TestType whole = parts[0].lse;
    for (const auto& p : parts) whole = &p == &parts[0] ? whole : lse_join(whole, p.lse);
    float value = 0;
    for (const auto& p : parts) value += std::isinf(p.lse.value) ? 0.0f : p.value * lse_share(p.lse, whole);
    check(part<TestType>{value, whole}, parts, 7);
  }
}

TEST_CASE("bases convert and do not mix", "[policy][lse]") {
  REQUIRE(to_lse_2(lse_e{1.0f}).value == Approx(1.4426950408889634));
  REQUIRE(to_lse_e(lse_2{1.0f}).value == Approx(0.6931471805599453));
  REQUIRE(to_lse_2(lse_e{-infinity}).value == -infinity);
  REQUIRE(to_lse_e(lse_2{-infinity}).value == -infinity);
  const std::uint32_t seed = std::random_device{}();
  std::mt19937 random(seed);
  for (int i = 0; i < 10000; ++i) {
    const float x = std::uniform_real_distribution<float>(-1000, 1000)(random);
    CAPTURE(seed, x);
    REQUIRE(std::fabs(to_lse_2(lse_e{x}).value - double(x) * 1.4426950408889634) <= 2 * eps * std::fabs(x) * 1.4427);
    REQUIRE(std::fabs(to_lse_e(to_lse_2(lse_e{x})).value - double(x)) <= 4 * eps * std::fabs(x));
  }
  static_assert(std::is_same_v<decltype(to_lse_e(lse_e{1.0f})), lse_e<float>> &&
                std::is_same_v<decltype(to_lse_2(lse_e{1.0f})), lse_2<float>>);
  static_assert(!std::is_convertible_v<lse_e<float>, lse_2<float>> && !std::is_convertible_v<float, lse_e<float>>);
  static_assert(sizeof(lse_e<float>) == sizeof(float) && is_lse<lse_2<float>> && !is_lse<float>);
}

TEMPLATE_LIST_TEST_CASE("packs merge as floats do", "[policy][lse]", bases) {
  using floats = host::lanes<float>;
  using L = TestType;
  using wide = std::conditional_t<std::is_same_v<L, lse_e<float>>, lse_e<floats>, lse_2<floats>>;
  const std::uint32_t seed = std::random_device{}();
  CAPTURE(seed);
  problem make{std::mt19937(seed), 6.0f, 0.0f};
  for (int turn = 0; turn < 200; ++turn) {
    std::vector<std::vector<part<L>>> rows;
    for (int lane = 0; lane < host::lane_count; ++lane) rows.push_back(make.partials<L>(3, true));
    lse_partial<floats, wide> parts[3];
    for (int i = 0; i < 3; ++i)
      for (int lane = 0; lane < host::lane_count; ++lane) {
        parts[i].value.set(lane, rows[std::size_t(lane)][std::size_t(i)].value);
        parts[i].lse.value.set(lane, rows[std::size_t(lane)][std::size_t(i)].lse.value);
      }
    const auto got = lse_merge(parts[0], parts[1], parts[2]);
    const auto joined = lse_join(parts[0].lse, parts[1].lse);
    const auto share = lse_share(parts[0].lse, joined);
    for (int lane = 0; lane < host::lane_count; ++lane) {
      const auto& row = rows[std::size_t(lane)];
      check(part<L>{got.value[lane], {got.lse.value[lane]}}, row, 0);
      const auto two = oracle<L>({row[0], row[1]});
      if (!std::isinf(row[0].lse.value))
        REQUIRE(std::fabs(share[lane] - std::pow(base_of_type<L>, double(row[0].lse.value) - two.lse)) <= 100 * eps);
      else REQUIRE(share[lane] == 0.0f);
    }
  }
}
