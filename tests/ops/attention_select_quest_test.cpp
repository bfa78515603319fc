// Quest's bounds and selection against their definitions, to the bit: queries and keys are small whole numbers, so that every
// bound is exact. And its laws: no key scores above its page's bound; a budget of all pages takes all of them.
#include <catch2/catch.hpp>
#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include "ops/attention_problem.hpp"
#include "reference/attention_select.hpp"
#include <smalti/ops/attention/select_quest.hpp>

using namespace smalti;
using test::attention_shape;
using test::row_order;
using test::rows_of_batch;

namespace {

constexpr unsigned seed = 62;
constexpr int d = 40, heads = 4, kv_heads = 2;      // no power of two: the last chunk is padded

// Keys in pages, pages in any order; slots past the end hold NaN, entries past the last page point far away.
struct paged_keys {
  std::vector<int> keys;
  int size, width, pool;
  test::array<int> table, length;
  test::array<bf16> k, low, high;
  paged_keys(std::vector<int> keys_, int size, std::mt19937& generator)
      : keys(keys_), size(size), width(ceil_div(*std::max_element(keys.begin(), keys.end()), size) + 2), pool(int(keys.size()) * width + 3), table(keys.size() * width), length(keys.size()),
        k(std::size_t(pool) * size * kv_heads * d), low(std::size_t(pool) * kv_heads * d), high(std::size_t(pool) * kv_heads * d) {
    std::vector<int> order(pool);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), generator);
    for (bf16& x : k) x = bf16{0x7fc0};
    for (bf16& x : low) x = bf16{0x7fc0};
    for (bf16& x : high) x = bf16{0x7fc0};
    for (int s = 0; s < int(keys.size()); ++s) {
      length[s] = keys[s];
      for (int n = 0; n < width; ++n) table[s * width + n] = n < ceil_div(keys[s], size) ? order[s * width + n] : 1 << 28;
      for (int j = 0; j < keys[s]; ++j)
        for (int h = 0; h < kv_heads; ++h)
          for (int c = 0; c < d; ++c) at(s, j, h, c) = narrow<bf16>(float(int(generator() % 7) - 3));
    }
  }
  bf16& at(int s, int j, int h, int c) { return k[((std::size_t(table[s * width + j / size]) * size + j % size) * kv_heads + h) * d + c]; }
  attention::paged_kv<bf16> kv() {
    const auto rows = attention::pool_of(policy::nhd{}, static_cast<const bf16*>(k.data()), pool, size, kv_heads, d);
    return {rows, {}, pages{table.data(), width, 0, length.data(), 0, size}, int(keys.size()), *std::max_element(keys.begin(), keys.end())};
  }
  attention::page_bounds<bf16> bounds() { return {{low.data(), pool * kv_heads, d, d}, {high.data(), pool * kv_heads, d, d}}; }
  attention::page_bounds<const bf16> known() { return {{low.data(), pool * kv_heads, d, d}, {high.data(), pool * kv_heads, d, d}}; }
  double bound(const bf16* which, int s, int n, int h, int c) const { return test::value(which[(std::size_t(table[s * width + n]) * kv_heads + h) * d + c]); }
};
using bounds_op = attention::quest_bounds<bf16, d>;
using op = attention::quest_select<bf16, d>;

// The bounds of every page in use are those of its keys, and nothing else was written.
bool right_bounds(paged_keys& x, const std::vector<int>& keys) {
  std::vector<bool> mine(x.low.size(), false);
  for (int s = 0; s < int(keys.size()); ++s)
    for (int n = 0; n * x.size < keys[s]; ++n)
      for (int h = 0; h < kv_heads; ++h)
        for (int c = 0; c < d; ++c) {
          double least = INFINITY, most = -INFINITY;
          for (int j = n * x.size; j < std::min((n + 1) * x.size, keys[s]); ++j) {
            least = std::min(least, test::value(x.at(s, j, h, c)));
            most = std::max(most, test::value(x.at(s, j, h, c)));
          }
          if (x.bound(x.low.data(), s, n, h, c) != least || x.bound(x.high.data(), s, n, h, c) != most) return false;
          mine[(std::size_t(x.table[s * x.width + n]) * kv_heads + h) * d + c] = true;
        }
  for (std::size_t i = 0; i < mine.size(); ++i)
    if (!mine[i] && (!std::isnan(test::value(x.low[i])) || !std::isnan(test::value(x.high[i])))) return false;
  return true;
}

template <class Context> std::vector<std::vector<int>> select(const Context& context, op::args x) {
  const int rows = int(op::lists(x));
  test::array<int> out(std::size_t(rows) * x.k);
  std::fill(out.begin(), out.end(), 12345);
  x.blocks = {out.data(), rows, x.k, x.k};
  test::scratch memory(op::workspace_bytes(context, x));
  const status st = op::run(context, x, memory.get());
  INFO(st.what << " got " << st.got << " need " << st.need);
  REQUIRE(st.code == errc::ok);
  test::wait(context);
  REQUIRE(out.guarded());
  REQUIRE(memory.guarded());
  std::vector<std::vector<int>> lists(rows);
  for (int r = 0; r < rows; ++r)
    for (int n = 0; n < x.k; ++n)
      if (const int page = out[std::size_t(r) * x.k + n]; page >= 0) {
        REQUIRE(int(lists[r].size()) == n);
        REQUIRE((lists[r].empty() || lists[r].back() < page));
        lists[r].push_back(page);
      }
  return lists;
}

}  // namespace

TEST_CASE("Quest's bounds are those of the pages' keys, at once and append by append", "[ops][attention][select]") {
  std::mt19937 generator(seed);
  for (const int size : {1, 16, 23}) {
    CAPTURE(seed, size);
    test::for_each_context(seed, [&](const auto& context) {
      paged_keys x({77, 0, 150, 16}, size, generator);
      REQUIRE(bounds_op::run(context, {.kv = x.kv(), .bounds = x.bounds()}).code == errc::ok);
      test::wait(context);
      CHECK(right_bounds(x, x.keys));
      CHECK(x.low.guarded());
      CHECK(x.high.guarded());
      // The same tokens, appended in three steps.
      paged_keys y({77, 0, 150, 16}, size, generator);
      test::array<int> before(4);
      for (int& n : before) n = 0;
      for (const double share : {0.3, 0.7, 1.0}) {
        for (int s = 0; s < 4; ++s) y.length[s] = int(share * y.keys[s]);
        REQUIRE(bounds_op::run(context, {.kv = y.kv(), .from = before.data(), .bounds = y.bounds()}).code == errc::ok);
        test::wait(context);
        for (int s = 0; s < 4; ++s) before[s] = y.length[s];
      }
      CHECK(right_bounds(y, y.keys));
      // The same, told how many tokens are new: the newest of every sequence; more than a sequence has are all of it.
      paged_keys z({77, 0, 150, 16}, size, generator);
      for (const int step : {16, 0, 1, 60, 73}) {
        static_assert(16 + 0 + 1 + 60 + 73 == 150);
        for (int s = 0; s < 4; ++s) z.length[s] = std::min(z.keys[s], step == 16 ? 16 : z.length[s] + step);
        REQUIRE(bounds_op::run(context, {.kv = z.kv(), .fresh = step, .bounds = z.bounds()}).code == errc::ok);
        test::wait(context);
      }
      CHECK(right_bounds(z, z.keys));
      const auto refused = [&](int fresh, const int* from) { return bounds_op::run(context, {.kv = z.kv(), .fresh = fresh, .from = from, .bounds = z.bounds()}).code == errc::bad_value; };
      CHECK((refused(-2, nullptr) && refused(1, before.data())));
      // Pages that were full before are left alone: what they say may have been changed by others.
      if (before[2] / size == 0) return;
      const std::size_t full = std::size_t(y.table[2 * y.width + before[2] / size - 1]) * kv_heads * d;
      y.low[full] = narrow<bf16>(-77.0f);
      REQUIRE(bounds_op::run(context, {.kv = y.kv(), .from = before.data(), .bounds = y.bounds()}).code == errc::ok);
      REQUIRE(bounds_op::run(context, {.kv = y.kv(), .fresh = 150 % size, .bounds = y.bounds()}).code == errc::ok);
      test::wait(context);
      CHECK(test::value(y.low[full]) == -77);
    });
  }
}

TEST_CASE("Quest's selection is its definition", "[ops][attention][select]") {
  std::mt19937 generator(seed);
  for (const auto& [keys, size, queries] : {std::tuple{std::vector<int>{77, 0, 350, 16}, 4, 1}, {std::vector<int>{1100, 64}, 5, 3}}) {
    paged_keys x(keys, size, generator);
    rows_of_batch<bf16> q(std::vector<int>(keys.size(), queries), heads, d, row_order::bshd);
    for (int s = 0; s < int(keys.size()); ++s)
      for (int i = 0; i < queries; ++i)
        for (int h = 0; h < heads; ++h)
          for (int c = 0; c < d; ++c) q.at(s, h, i, c) = narrow<bf16>(float(int(generator() % 7) - 3));
    const auto bound = [&](int s, int h, int n) {
      double u = -INFINITY;
      for (int i = 0; i < queries; ++i) {
        double sum = 0;
        for (int c = 0; c < d; ++c) {
          const double v = q.get(s, h, i, c);
          sum += std::max(v * x.bound(x.low.data(), s, n, h / 2, c), v * x.bound(x.high.data(), s, n, h / 2, c));
        }
        u = std::max(u, sum);
      }
      return u;
    };
    test::for_each_context(seed, [&, keys = keys, size = size, queries = queries](const auto& context) {
      REQUIRE(bounds_op::run(context, {.kv = x.kv(), .bounds = x.bounds()}).code == errc::ok);
      test::wait(context);
      for (const bool share : {true, false})
        for (const int k : {1, 3, 20, 400}) {
          CAPTURE(seed, size, share, k);
          const auto lists = select(context, {.q = q.rows<const bf16>(), .kv = x.kv(), .bounds = x.known(), .k = k, .share_heads = share});
          const int each = share ? kv_heads : heads;
          for (int s = 0; s < int(keys.size()); ++s)
            for (int l = 0; l < each; ++l) {
              std::vector<double> u;
              for (int n = 0; n * size < keys[s]; ++n) u.push_back(share ? std::max(bound(s, 2 * l, n), bound(s, 2 * l + 1, n)) : bound(s, l, n));
              if (!u.empty()) u.back() = INFINITY;      // the newest page is always read
              CHECK(lists[s * each + l] == oracle::best_of(u, k));
            }
        }
      // No key scores above its page's bound.
      for (int s = 0; s < int(keys.size()); ++s)
        for (int h = 0; h < heads; ++h)
          for (int j = 0; j < keys[s]; ++j)
            for (int i = 0; i < queries; ++i) {
              double score = 0;
              for (int c = 0; c < d; ++c) score += q.get(s, h, i, c) * test::value(x.at(s, j, h / 2, c));
              if (!(score <= bound(s, h, j / size))) FAIL("a key scores above its page's bound");
            }
    });
  }
}

TEST_CASE("what Quest's selection refuses", "[ops][attention][select]") {
  std::mt19937 generator(seed);
  paged_keys x({77}, 16, generator);
  rows_of_batch<bf16> q({1}, heads, d, row_order::bshd);
  test::array<int> out(3 * kv_heads);
  const auto context = test::any_context();
  const auto refused = [&](auto change, const char* word) {
    op::args a{.q = q.rows<const bf16>(), .kv = x.kv(), .bounds = x.known(), .k = 3, .blocks = {out.data(), kv_heads, 3, 3}};
    REQUIRE(op::check(context, a).code == errc::ok);
    change(a);
    const status s = op::check(context, a);
    CAPTURE(word, s.what);
    CHECK(s.code != errc::ok);
    CHECK(std::string(s.what).find(word) != std::string::npos);
  };
  refused([](auto& a) { a.k = -1; }, "k must be");
  refused([](auto& a) { a.k = 4097; }, "k must be");
  refused([](auto& a) { a.blocks.data = nullptr; }, "blocks is null");
  refused([](auto& a) { a.blocks.rows = 1; }, "lists()");
  refused([](auto& a) { a.blocks.cols = 2; }, "k columns");
  refused([](auto& a) { a.blocks.stride = 2; }, "stride");
  refused([](auto& a) { a.bounds.low.data = nullptr; }, "bounds");
  refused([](auto& a) { a.bounds.high.cols = 8; }, "columns");
  refused([](auto& a) { a.bounds.high.rows -= 1; }, "row");
  refused([](auto& a) { a.q.cols = 8; }, "q");
  refused([](auto& a) { a.kv.sequences = 0; }, "sequences");
  bounds_op::args b{.kv = x.kv(), .bounds = x.bounds()};
  b.bounds.low.stride = d - 1;
  CHECK(bounds_op::run(context, b).code == errc::misaligned);
}
