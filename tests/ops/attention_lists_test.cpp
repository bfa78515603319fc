// Attention over lists of blocks that a search chose: hip and quest in one call are the search's lists and attention to what
// they hold, by the oracle; a budget of everything is dense attention; more blocks never lower a log-sum-exp.
#include <catch2/catch.hpp>
#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include "ops/attention_problem.hpp"
#include <smalti/ops/attention/hip.hpp>
#include <smalti/ops/attention/quest.hpp>

using namespace smalti;
using test::attention_shape;
using test::row_order;
using test::rows_of_batch;

namespace {

constexpr unsigned seed = 63;
constexpr int d = 32;
struct into_float : attention::options { using out = float; };

struct sequences {
  attention_shape shape;
  rows_of_batch<bf16> q, k, v;
  sequences(const attention_shape& s, std::mt19937& generator) : shape(s), q(s.queries, s.heads, d, row_order::ragged), k(s.keys, s.kv_heads, d, row_order::ragged), v(s.keys, s.kv_heads, d, row_order::ragged) {
    q.fill(generator);
    k.fill(generator);
    v.fill(generator);
  }
  attention::dense_kv<bf16> kv() { return {k.rows<const bf16>(), v.rows<const bf16>()}; }
};

// Runs Op and compares with the oracle that sees what `visible` says; the log-sum-exps.
template <class Op, class Context, class Args>
std::vector<float> compare(const Context& context, const sequences& b, Args x, const std::function<bool(int s, int h, int i, int j)>& visible) {
  const attention_shape& shape = b.shape;
  rows_of_batch<float> o(shape.queries, shape.heads, d, row_order::ragged), lse(shape.queries, shape.heads, 1, row_order::ragged);
  x.o = o.rows(), x.lse = lse.rows();
  test::scratch memory(Op::workspace_bytes(context, x));
  const status st = Op::run(context, x, memory.get());
  INFO(st.what << " got " << st.got << " need " << st.need);
  REQUIRE(st.code == errc::ok);
  test::wait(context);
  REQUIRE(memory.guarded());
  REQUIRE(o.guarded());
  for (int s = 0; s < shape.sequences(); ++s)
    for (int h = 0; h < shape.heads; ++h) {
      auto p = test::oracle_of(shape, b.q, [&](int s, int g, int j, int c) { return b.k.get(s, g, j, c); }, [&](int s, int g, int j, int c) { return b.v.get(s, g, j, c); }, 1 / std::sqrt(double(d)), s, h);
      p.visible = [&](int i, int j) { return j <= i + p.keys - p.queries && visible(s, h, i, j); };
      const auto r = oracle::attention(p);
      for (int i = 0; i < p.queries; ++i) {
        CAPTURE(seed, s, h, i);
        for (int e = 0; e < d; ++e)
          if (!(std::abs(o.get(s, h, i, e) - r.o[std::size_t(i) * d + e]) <= test::attention_error<bf16, float>(r, p, i, e))) FAIL("a value");
        if (std::isinf(r.lse[i])) CHECK(lse.get(s, h, i, 0) == r.lse[i]);
        else if (!(std::abs(lse.get(s, h, i, 0) - r.lse[i]) <= 1e-4)) FAIL("a log-sum-exp");
      }
    }
  return {lse.memory().begin(), lse.memory().end()};
}

template <int Block, int Queries> void hip(const attention_shape& shape, int groups, int sink, int window) {
  std::mt19937 generator(seed);
  sequences b(shape, generator);
  using op = attention::hip<bf16, d, Block, Queries, attention::dense_kv<bf16>, into_float>;
  CAPTURE(Block, Queries, groups, sink, window);
  std::vector<float> before;
  test::for_each_context(seed, [&](const auto& context) {
    typename op::search::args s{.q = b.q.rows<const bf16>(), .kv = b.kv(), .shape = {Queries, Block, groups, sink, window}};
    const int width = s.shape.width(), rows = int(op::search::lists(s)), tiles = ceil_div(shape.most_queries(), Queries);
    test::array<int> lists(std::size_t(rows) * width);
    s.blocks = {lists.data(), rows, width, width};
    test::scratch memory(op::search::workspace_bytes(context, s));
    REQUIRE(op::search::run(context, s, memory.get()).code == errc::ok);
    test::wait(context);
    const typename op::args x{.q = s.q, .kv = s.kv, .groups = groups, .sink = sink, .window = window};
    const auto lse = compare<op>(context, b, x, [&](int s, int h, int i, int j) {
      const int* list = lists.data() + (std::size_t(s * shape.kv_heads + h / (shape.heads / shape.kv_heads)) * tiles + i / Queries) * width;
      return std::find(list, list + width, j / Block) != list + width;
    });
    // All blocks: dense attention.
    typename op::args all = x;
    all.groups = 200;
    const auto dense = compare<op>(context, b, all, [](int, int, int, int) { return true; });
    for (std::size_t n = 0; n < lse.size(); ++n) CHECK(lse[n] <= dense[n] + 1e-5f);
  });
}

}  // namespace

TEST_CASE("hip attends to what its search found", "[ops][attention][hip]") {
  hip<16, 16>({{40, 0, 33, 70}, {400, 45, 33, 20}, 4, 2, d, d}, 5, 16, 20);
  hip<64, 64>({{100, 64}, {900, 300}, 2, 1, d, d}, 3, 0, 0);
  hip<32, 1>({{1, 1, 1, 0}, {900, 64, 31, 7}, 8, 2, d, d}, 4, 32, 40);       // decode
}

TEST_CASE("quest attends to the pages that it chose", "[ops][attention][quest]") {
  std::mt19937 generator(seed);
  const attention_shape shape{{1, 1, 1}, {700, 16, 130}, 4, 2, d, d};
  sequences b(shape, generator);
  constexpr int size = 16, width = 46, pool = 3 * width + 2;
  std::vector<int> order(pool);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), generator);
  test::array<int> table(3 * width), length(3);
  test::array<bf16> k(std::size_t(pool) * size * 2 * d), v(std::size_t(pool) * size * 2 * d), low(std::size_t(pool) * 2 * d), high(std::size_t(pool) * 2 * d);
  for (bf16& x : k) x = bf16{0x7fc0};
  for (bf16& x : v) x = bf16{0x7fc0};
  for (int s = 0; s < 3; ++s) {
    length[s] = shape.keys[s];
    for (int n = 0; n < width; ++n) table[s * width + n] = n < ceil_div(shape.keys[s], size) ? order[s * width + n] : 1 << 28;
    for (int j = 0; j < shape.keys[s]; ++j)
      for (int h = 0; h < 2; ++h)
        for (int c = 0; c < d; ++c) {
          const std::size_t at = ((std::size_t(table[s * width + j / size]) * size + j % size) * 2 + h) * d + c;
          k[at] = b.k.at(s, h, j, c), v[at] = b.v.at(s, h, j, c);
        }
  }
  using op = attention::quest<bf16, d, size, into_float>;
  const attention::paged_kv<bf16, size> kv{attention::pool_of(policy::nhd{}, static_cast<const bf16*>(k.data()), pool, size, 2, d),
                                           attention::pool_of(policy::nhd{}, static_cast<const bf16*>(v.data()), pool, size, 2, d), pages{table.data(), width, 0, length.data(), 0, size}, 3, 700};
  test::for_each_context(seed, [&](const auto& context) {
    REQUIRE(op::bounds::run(context, {.kv = kv, .bounds = {{low.data(), pool * 2, d, d}, {high.data(), pool * 2, d, d}}}).code == errc::ok);
    test::wait(context);
    std::vector<float> last;
    for (const int budget : {3, 12, 44}) {
      const attention::page_bounds<const bf16> bounds{{low.data(), pool * 2, d, d}, {high.data(), pool * 2, d, d}};
      typename op::search::args s{.q = b.q.rows<const bf16>(), .kv = kv, .bounds = bounds, .k = budget};
      test::array<int> lists(std::size_t(6) * budget);
      s.blocks = {lists.data(), 6, budget, budget};
      test::scratch memory(op::search::workspace_bytes(context, s));
      REQUIRE(op::search::run(context, s, memory.get()).code == errc::ok);
      test::wait(context);
      const typename op::args x{.q = s.q, .kv = kv, .bounds = bounds, .k = budget};
      const auto lse = compare<op>(context, b, x, [&](int s, int h, int, int j) {
        const int* list = lists.data() + (s * 2 + h / 2) * budget;
        return budget >= 44 || std::find(list, list + budget, j / size) != list + budget;
      });
      for (std::size_t n = 0; n < last.size(); ++n) CHECK(last[n] <= lse[n] + 1e-5f);
      last = lse;
    }
    op::args bad{.q = b.q.rows<const bf16>(), .kv = kv};
    CHECK(std::string(op::check(context, bad).what).find("k must be positive") != std::string::npos);
    bad.q.rows = 2, bad.k = 3;
    CHECK(std::string(op::check(context, bad).what).find("one row") != std::string::npos);
  });
}
