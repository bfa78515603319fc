// Attention over paged keys against the oracle: any page size, both layouts, tables and lengths of their own for each head.
// The pool is poisoned: free slots and pages of nobody hold NaN, entries of the tables past the last page point far away.
#include <catch2/catch.hpp>
#include <algorithm>
#include "ops/attention_problem.hpp"

using namespace smalti;
namespace policy = smalti::policy;
using test::attention_shape;
using test::row_order;
using test::rows_of_batch;

namespace {

constexpr unsigned seed = 20261122;

struct splitting : attention::options {
  using out = float;
  static constexpr bool split_kv = true;
};

// `apart`: each head has a table and, where lengths differ from head to head, a length of its own.
template <int D, class T, int Page, class Layout> void paged(const attention_shape& shape, row_order q_order, int page, bool apart, int split_keys, int default_tiles = 0) {
  std::mt19937 generator(seed + page + D);
  CAPTURE(seed, D, Page, page, apart, split_keys);
  const int sequences = shape.sequences(), heads = shape.kv_heads, tables = apart ? heads : 1;
  const int width = (shape.most_keys() + page - 1) / page + 3;
  int used = 0;
  for (int n : shape.keys) used += (n + page - 1) / page * tables;
  const int pool = used + 2;
  std::vector<int> free(pool);
  std::iota(free.begin(), free.end(), 0);
  std::shuffle(free.begin(), free.end(), generator);
  test::array<int> table(std::size_t(sequences) * tables * width), length(std::size_t(sequences) * tables);
  for (int& entry : table) entry = 1 << 28;
  for (int s = 0; s < sequences; ++s)
    for (int h = 0; h < tables; ++h) {
      length[s + h * sequences] = shape.keys[s];
      for (int n = 0; n < (shape.keys[s] + page - 1) / page; ++n) table[(std::size_t(s) * tables + h) * width + n] = free.back(), free.pop_back();
    }
  const std::size_t elements = std::size_t(pool) * page * heads * D;
  test::array<T> k(elements), v(elements);
  for (std::size_t i = 0; i < elements; ++i) k[i] = v[i] = narrow<T>(NAN);
  const Layout layout{};
  const auto slot = [&](int s, int h, int j) {
    return std::size_t(layout.row(table[(std::size_t(s) * tables + (apart ? h : 0)) * width + j / page], j % page, h, heads, page)) * D;
  };
  std::normal_distribution<float> normal(0, 1);
  for (int s = 0; s < sequences; ++s)
    for (int h = 0; h < heads; ++h)
      for (int j = 0; j < shape.keys[s]; ++j)
        for (int c = 0; c < D; ++c) k[slot(s, h, j) + c] = narrow<T>(normal(generator)), v[slot(s, h, j) + c] = narrow<T>(normal(generator));
  rows_of_batch<bf16> q(shape.queries, shape.heads, D, q_order);
  q.fill(generator);

  using op = attention::flash<bf16, D, attention::paged_kv<T, Page>, policy::causal, splitting>;
  const auto arguments = [&](const auto&, auto& x) {
    x.kv = {attention::pool_of<const T>(layout, k.data(), pool, page, heads, D), attention::pool_of<const T>(layout, v.data(), pool, page, heads, D),
            {table.data(), static_cast<long long>(width) * tables, apart ? width : 0, length.data(), apart ? sequences : 0, page}, sequences, shape.most_keys()};
    x.split_keys = split_keys;
  };
  const auto key = [&](int s, int h, int j, int c) { return test::value(k[slot(s, h, j) + c]); };
  const auto val = [&](int s, int h, int j, int c) { return test::value(v[slot(s, h, j) + c]); };
  if (default_tiles) test::check_attention<op, bf16, float>(shape, q, q_order, key, val, test::causal_terms(), seed, arguments);
  else test::check_attention<test::tuned_op<op, test::small_tiles>, bf16, float>(shape, q, q_order, key, val, test::causal_terms(), seed, arguments);
}

const attention_shape prefill{{40, 3, 20, 0}, {77, 3, 128, 9}, 4, 2, 64, 64}, decode{{1, 2, 1}, {77, 128, 0}, 8, 2, 64, 64};

}  // namespace

TEST_CASE("attention over pages of any size", "[ops][attention][paged]") {
  for (int page : {1, 5, 16, 64}) {
    paged<64, bf16, 0, policy::nhd>(prefill, row_order::ragged, page, false, 0);
    paged<64, bf16, 0, policy::hnd>(decode, row_order::ragged, page, true, 0);
  }
}

TEST_CASE("attention over pages whose size is known", "[ops][attention][paged]") {
  paged<64, bf16, 16, policy::nhd>(prefill, row_order::ragged, 16, true, 0);
  paged<64, bf16, 32, policy::hnd>(prefill, row_order::ragged, 32, false, 0);
  paged<64, bf16, 64, policy::nhd>(prefill, row_order::ragged, 64, true, 0);
  paged<64, bf16, 64, policy::hnd>(decode, row_order::ragged, 64, false, 0);
}

TEST_CASE("attention over pages with split keys, fp8 pages and default tiles", "[ops][attention][paged]") {
  paged<64, bf16, 0, policy::nhd>(decode, row_order::ragged, 16, false, 32);
  paged<64, fp8_e4m3, 0, policy::nhd>(prefill, row_order::ragged, 16, true, 64);
  attention_shape longer{{2}, {700}, 8, 2, 64, 64};
  paged<64, bf16, 0, policy::nhd>(longer, row_order::bshd, 16, false, 256, 1);
}
