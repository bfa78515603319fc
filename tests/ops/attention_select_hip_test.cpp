// HiP's search against its definition, to the block: queries and keys are small whole numbers, so that every score is exact and
// ties are many. And its laws: lists are ascending, without repetition, causal, of the promised width; few keys are all taken;
// equal ties go to the lower block; what lies near its like is found.
#include <catch2/catch.hpp>
#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include "ops/attention_problem.hpp"
#include "reference/attention_select.hpp"
#include <smalti/ops/attention/select_hip.hpp>

using namespace smalti;
using test::attention_shape;
using test::row_order;
using test::rows_of_batch;

namespace {

constexpr unsigned seed = 61;
constexpr int d = 32;
using op = attention::hip_select<bf16, d>;
using paged_op = attention::hip_select<bf16, d, attention::paged_kv<bf16>>;

template <class Op, class Context> std::vector<std::vector<int>> search(const Context& context, typename Op::args x) {
  const int width = x.shape.width(), rows = int(Op::lists(x));
  test::array<int> out(std::size_t(rows) * width);
  std::fill(out.begin(), out.end(), 12345);
  x.blocks = {out.data(), rows, width, width};
  test::scratch memory(Op::workspace_bytes(context, x));
  const status st = Op::run(context, x, memory.get());
  INFO(st.what << " got " << st.got << " need " << st.need);
  REQUIRE(st.code == errc::ok);
  test::wait(context);
  REQUIRE(out.guarded());
  REQUIRE(memory.guarded());
  std::vector<std::vector<int>> lists(rows);
  for (int r = 0; r < rows; ++r)
    for (int n = 0; n < width; ++n) {
      const int block = out[std::size_t(r) * width + n];
      if (block >= 0) {
        REQUIRE(int(lists[r].size()) == n);                                   // -1 only behind
        REQUIRE((lists[r].empty() || lists[r].back() < block));
        lists[r].push_back(block);
      }
    }
  return lists;
}

struct batch {
  attention_shape shape;
  rows_of_batch<bf16> q, k, v;
  batch(const attention_shape& s, std::mt19937& generator) : shape(s), q(s.queries, s.heads, d, row_order::ragged), k(s.keys, s.kv_heads, d, row_order::ragged), v(s.keys, s.kv_heads, d, row_order::ragged) {
    const auto whole = [&](auto& rows, const std::vector<int>& lengths, int heads) {
      for (int s = 0; s < int(lengths.size()); ++s)
        for (int i = 0; i < lengths[s]; ++i)
          for (int h = 0; h < heads; ++h)
            for (int c = 0; c < d; ++c) rows.at(s, h, i, c) = narrow<bf16>(float(int(generator() % 5) - 2));
    };
    whole(q, s.queries, s.heads);
    whole(k, s.keys, s.kv_heads);
    whole(v, s.keys, s.kv_heads);
  }
  op::args args() { return {.q = q.rows<const bf16>(), .kv = {k.rows<const bf16>(), v.rows<const bf16>()}}; }
};

// The lists that the definition gives.
std::vector<std::vector<int>> defined(const batch& b, const attention::tree_shape& s, int heads_per_list, int stride, int representatives) {
  std::vector<std::vector<int>> lists;
  const int most = b.shape.most_queries(), group = b.shape.heads / b.shape.kv_heads;
  for (int n = 0; n < b.shape.sequences(); ++n)
    for (int list = 0; list < b.shape.heads / heads_per_list; ++list)
      for (int tile = 0; tile * s.queries < most; ++tile) {
        const int queries = b.shape.queries[n], keys = b.shape.keys[n], first = tile * s.queries, last = std::min(first + s.queries, queries), shift = keys - queries;
        lists.emplace_back();
        if (first >= queries) continue;
        const auto seen = [&](int row) { return s.causal ? std::min(std::max(row + 1 + shift, 0), keys) : keys; };
        const int total = (seen(last - 1) + s.block - 1) / s.block, sinks = std::min(s.sink / s.block, total);
        const int end = std::max(sinks, std::max(seen(first) - s.window, 0) / s.block);
        const auto score = [&](int block) {
          double best = -INFINITY;
          for (int i = first + stride - 1;; i += stride) {
            const int row = std::min(i, last - 1);
            for (int h = list * heads_per_list; h < (list + 1) * heads_per_list; ++h)
              for (int p = 0; p < representatives; ++p) {
                double sum = 0;
                for (int c = 0; c < d; ++c) sum += b.q.get(n, h, row, c) * b.k.get(n, h / group, block * s.block + p * s.block / representatives, c);
                best = std::max(best, sum);
              }
            if (row == last - 1) break;
          }
          return best;
        };
        for (int x = 0; x < sinks; ++x) lists.back().push_back(x);
        for (int x : oracle::tree_search(sinks, end, s.groups, score)) lists.back().push_back(x);
        for (int x = end; x < total; ++x) lists.back().push_back(x);
      }
  return lists;
}

const attention_shape batches[] = {{{40, 0, 33, 70}, {400, 45, 33, 20}, 4, 2, d, d}, {{1, 2, 1, 0}, {900, 64, 31, 7}, 8, 2, d, d}};

}  // namespace

TEST_CASE("HiP's search is its definition", "[ops][attention][select]") {
  std::mt19937 generator(seed);
  for (const attention_shape& shape : batches) {
    batch b(shape, generator);
    for (const attention::tree_shape& s : {attention::tree_shape{16, 8, 5, 0, 0}, {16, 8, 5, 16, 20}, {32, 16, 1, 0, 0}, {16, 4, 40, 8, 3}, {16, 8, 6, 0, 10, false}, {7, 5, 3, 5, 9}})
      for (const bool share : {true, false})
        for (const auto& [stride, representatives] : {std::pair{1, 1}, {2, 3}, {5, s.block}}) {
          if (representatives > s.block || 16 * (share ? shape.heads / shape.kv_heads : 1) * 2 / stride > 64) continue;
          CAPTURE(seed, shape.queries[0], s.queries, s.block, s.groups, s.sink, s.window, s.causal, share, stride, representatives);
          const auto want = defined(b, s, share ? shape.heads / shape.kv_heads : 1, stride, representatives);
          test::for_each_context(seed, [&, stride = stride, representatives = representatives](const auto& context) {
            auto x = b.args();
            x.shape = s, x.share_heads = share, x.query_stride = stride, x.representatives = representatives;
            const auto got = search<op>(context, x);
            REQUIRE(got.size() == want.size());
            for (std::size_t r = 0; r < got.size(); ++r) {
              CAPTURE(r);
              CHECK(got[r] == want[r]);
            }
          });
        }
  }
}

// 64 rows of three heads: 22 rows of each would be 66, so every fourth is scored.
TEST_CASE("HiP's search chooses its stride where the heads of a list do not divide 64", "[ops][attention][select]") {
  std::mt19937 generator(seed);
  CAPTURE(seed);
  batch b({{64}, {300}, 6, 2, d, d}, generator);
  auto x = b.args();
  x.shape = {64, 8, 5, 0, 0}, x.representatives = 1;
  const auto want = defined(b, x.shape, 3, 4, 1);
  test::for_each_context(seed, [&](const auto& context) { CHECK(search<op>(context, x) == want); });
}

TEST_CASE("HiP's search over pages is that over rows", "[ops][attention][select]") {
  std::mt19937 generator(seed);
  batch b(batches[0], generator);
  const int size = 16, width = 28, pool = 4 * width + 2;
  std::vector<int> order(pool);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), generator);
  test::array<int> table(4 * width), length(4);
  test::array<bf16> pages_of_keys(std::size_t(pool) * size * 2 * d);
  for (bf16& x : pages_of_keys) x = bf16{0x7fc0};
  for (int s = 0; s < 4; ++s) {
    length[s] = b.shape.keys[s];
    for (int n = 0; n < width; ++n) table[s * width + n] = n < ceil_div(b.shape.keys[s], size) ? order[s * width + n] : 1 << 28;
    for (int j = 0; j < b.shape.keys[s]; ++j)
      for (int h = 0; h < 2; ++h)
        for (int c = 0; c < d; ++c) pages_of_keys[((std::size_t(table[s * width + j / size]) * size + j % size) * 2 + h) * d + c] = b.k.at(s, h, j, c);
  }
  const auto keys = attention::pool_of(policy::nhd{}, static_cast<const bf16*>(pages_of_keys.data()), pool, size, 2, d);
  test::for_each_context(seed, [&](const auto& context) {
    auto x = b.args();
    x.shape = {16, 8, 5, 16, 20}, x.representatives = 3;
    const paged_op::args y{.q = x.q, .kv = {keys, keys, pages{table.data(), width, 0, length.data(), 0, size}, 4, 400}, .shape = x.shape, .representatives = 3};
    CHECK(search<op>(context, x) == search<paged_op>(context, y));
  });
}

TEST_CASE("laws of HiP's lists", "[ops][attention][select]") {
  std::mt19937 generator(seed);
  batch b({{100}, {300}, 2, 1, d, d}, generator);
  test::for_each_context(seed, [&](const auto& context) {
    for (const int groups : {1, 4, 19, 20, 300}) {
      auto x = b.args();
      x.shape = {10, 15, groups, 15, 30};
      const auto lists = search<op>(context, x);
      CHECK(lists == search<op>(context, x));
      for (int tile = 0; tile < 10; ++tile) {
        CAPTURE(seed, groups, tile);
        const auto& list = lists[tile];
        const int first = 200 + tile * 10, last = first + 9;                    // where the rows stand among the keys
        CHECK(list.back() == last / 15);                                        // its own block
        CHECK(list.front() == 0);                                               // the sink
        CHECK(int(list.size()) <= x.shape.width());
        for (int block = (first + 1 - 30) / 15; block <= last / 15; ++block) CHECK(std::count(list.begin(), list.end(), block) == 1);
        if (groups >= 19) CHECK(int(list.size()) == last / 15 + 1);             // all there are: exact attention
        else CHECK(int(list.size()) == 1 + groups + last / 15 - (first + 1 - 30) / 15 + 1);
      }
    }
    // All scores equal: the lower half of every group stays.
    for (int j = 0; j < 300; ++j)
      for (int c = 0; c < d; ++c) b.k.at(0, 0, j, c) = narrow<bf16>(1.0f);
    auto x = b.args();
    x.shape = {100, 10, 3, 0, 0};
    CHECK(search<op>(context, x)[0] == std::vector<int>{0, 1, 2, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29});
  });
}

// Keys that drift slowly, as texts do, and needles: stretches of keys that answer one of the queries.
TEST_CASE("HiP's search finds needles", "[ops][attention][select]") {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  const int keys = 8192, queries = 64, needle = 96;
  rows_of_batch<bf16> q({queries}, 1, d, row_order::bshd), k({keys}, 1, d, row_order::bshd);
  std::vector<float> at(d);
  for (int j = 0; j < keys; ++j)
    for (int c = 0; c < d; ++c) {
      at[c] = 0.97f * at[c] + 0.24f * normal(generator);
      k.at(0, 0, j, c) = narrow<bf16>(at[c]);
    }
  q.fill(generator, 0.3f);
  int found = 0;
  const int trials = 20;
  for (int t = 0; t < trials; ++t) {
    const int from = int(generator() % unsigned(keys - 2048)), row = int(generator() % unsigned(queries));
    rows_of_batch<bf16> own({keys}, 1, d, row_order::bshd), asks({queries}, 1, d, row_order::bshd);
    for (int j = 0; j < keys; ++j)
      for (int c = 0; c < d; ++c) own.at(0, 0, j, c) = k.at(0, 0, j, c);
    for (int i = 0; i < queries; ++i)
      for (int c = 0; c < d; ++c) asks.at(0, 0, i, c) = q.at(0, 0, i, c);
    std::vector<float> direction(d);
    for (float& x : direction) x = normal(generator);
    for (int c = 0; c < d; ++c) asks.at(0, 0, row, c) = narrow<bf16>(direction[c]);
    for (int j = from; j < from + needle; ++j)
      for (int c = 0; c < d; ++c) own.at(0, 0, j, c) = narrow<bf16>(direction[c] * 3 + 0.3f * normal(generator));
    const auto context = test::any_context();
    op::args x{.q = asks.rows<const bf16>(), .kv = {own.rows<const bf16>(), own.rows<const bf16>()}, .shape = {64, 32, 64, 0, 0}, .query_stride = 1, .representatives = 2};
    const auto lists = search<op>(context, x);
    const auto& list = lists[0];
    found += std::binary_search(list.begin(), list.end(), (from + needle / 2) / 32);
  }
  CAPTURE(seed, found, trials);
  CHECK(found >= trials * 9 / 10);
}

TEST_CASE("what HiP's search refuses", "[ops][attention][select]") {
  std::mt19937 generator(seed);
  batch b({{40}, {100}, 4, 2, d, d}, generator);
  test::array<int> out(2 * 200);
  const auto context = test::any_context();
  const auto refused = [&](auto change, const char* word) {
    auto x = b.args();
    x.shape = {40, 8, 5};
    x.blocks = {out.data(), 2, x.shape.width(), x.shape.width()};
    REQUIRE(op::check(context, x).code == errc::ok);
    change(x);
    const status s = op::check(context, x);
    CAPTURE(word, s.what);
    CHECK(s.code != errc::ok);
    CHECK(std::string(s.what).find(word) != std::string::npos);
    CHECK(op::run(context, x).code != errc::ok);
  };
  refused([](auto& x) { x.shape.queries = 0; }, "shape.queries");
  refused([](auto& x) { x.shape.block = 0; }, "shape.block");
  refused([](auto& x) { x.shape.groups = 0; }, "shape.groups");
  refused([](auto& x) { x.shape.groups = 2049; }, "shape.groups");
  refused([](auto& x) { x.shape.sink = 4; }, "shape.sink");
  refused([](auto& x) { x.shape.window = -1; }, "shape.window");
  refused([](auto& x) { x.query_stride = 1; }, "query_stride");
  refused([](auto& x) { x.query_stride = -1; }, "query_stride");
  refused([](auto& x) { x.representatives = 9; }, "representatives");
  refused([](auto& x) { x.representatives = 0; }, "representatives");
  refused([](auto& x) { x.blocks.data = nullptr; }, "blocks is null");
  refused([](auto& x) { x.blocks.rows = 1; }, "lists()");
  refused([](auto& x) { x.blocks.cols -= 1; }, "width()");
  refused([](auto& x) { x.blocks.stride -= 1; }, "stride");
  refused([](auto& x) { x.q.cols = 8; }, "q");
  refused([](auto& x) { x.q.data = nullptr; }, "q");
  refused([](auto& x) { x.q.sequences = 0; }, "sequences");
  refused([&](auto& x) { x.blocks.data = const_cast<int*>(reinterpret_cast<const int*>(x.q.data)); }, "overlap");
  auto x = b.args();
  x.shape = {40, 1, 5}, x.representatives = 1;
  x.blocks = {out.data(), 2, x.shape.width(), x.shape.width()};
  REQUIRE(op::workspace_bytes(context, x) > 0);
  CHECK(op::run(context, x).code == errc::workspace_too_small);
}
