// Attention to keys and values stored as integers, against the oracle on the numbers that lie in memory: whatever codec, group and
// layout, decode and prefill. Pools are poisoned: free slots and pages hold codes with NaN scales, unused table entries point far away.
#include <catch2/catch.hpp>
#include "ops/quantized_kv.hpp"

using namespace smalti;
namespace policy = smalti::policy;
using test::attention_shape;
using test::row_order;
using test::rows_of_batch;

namespace {

constexpr unsigned seed = 20261123;

struct splitting : attention::options {
  using out = float;
  static constexpr bool split_kv = true;
};
struct whole : attention::options {
  using out = float;
};

// Error model: a stored number is decoded with one rounding to float and one to bf16, and that is what the oracle is given; the rest
// is the model of ops/attention_problem.hpp.
template <class Storage, class Layout, int D, int Page, class Options = whole> void paged(const std::vector<int>& queries, const std::vector<int>& keys, int page, bool apart, int split_keys = 0) {
  std::mt19937 g(seed + page + D);
  CAPTURE(seed, D, Page, page, apart, split_keys, Storage::bits);
  const attention_shape shape{queries, keys, 4, 2, D, D};
  test::quantized_cache<Storage, Layout, D> cache(keys, page, 2, apart, g);
  for (int s = 0; s < shape.sequences(); ++s)
    if (keys[s] > 0) {
      const status st = cache.store(test::any_context(), s, 0, keys[s]);
      CAPTURE(st.what, st.got, st.need);
      REQUIRE(st.code == errc::ok);
    }
  rows_of_batch<bf16> q(queries, shape.heads, D, row_order::ragged);
  q.fill(g);
  using op = attention::flash<bf16, D, cache::source<Storage, Page>, policy::causal, Options>;
  test::check_attention<test::tuned_op<op, test::small_tiles>, bf16, float>(shape, q, row_order::ragged, cache.operand_keys(), cache.operand_values(), test::causal_terms(), seed, [&](const auto&, auto& x) {
    const auto all = cache.source(shape.most_keys());
    x.kv = {all.k, all.v, all.where, all.sequences, all.most};
    x.split_keys = split_keys;
  });
}

const std::vector<int> prefill_rows{40, 3, 20, 0}, prefill_keys{77, 3, 128, 9}, decode_rows{1, 2, 1}, decode_keys{77, 128, 0};

}  // namespace

TEST_CASE("attention to int8 pages", "[ops][attention][quantized]") {
  using storage = policy::kv_int8<>;
  paged<storage, policy::nhd, 64, 0, splitting>(prefill_rows, prefill_keys, 16, false);
  paged<storage, policy::hnd, 64, 0, splitting>(decode_rows, decode_keys, 8, true);
  paged<storage, policy::hnd, 64, 0, splitting>(decode_rows, decode_keys, 5 * 8, false, 32);
}

TEST_CASE("attention to int4 pages whose size is known", "[ops][attention][quantized]") {
  paged<policy::kv_int4<32>, policy::hnd, 128, 32>(prefill_rows, prefill_keys, 32, false);
  paged<policy::kv_int4<32>, policy::nhd, 128, 32>(decode_rows, decode_keys, 32, true);
}

TEST_CASE("attention to keys quantized for each channel, of two bits", "[ops][attention][quantized]") {
  using storage = policy::kv_per_channel_keys<2, 32>;
  paged<storage, policy::nhd, 64, 0>({40, 3, 20, 0}, {96, 32, 128, 0}, 64, false);
  paged<storage, policy::hnd, 64, 0>({1, 2, 1}, {96, 128, 0}, 32, true);
}

// Dense memory is a pool of one page for each sequence, seen as rows.
TEST_CASE("attention to dense integers", "[ops][attention][quantized]") {
#if defined(__CUDACC__)
  constexpr int d = 128, group = 64;      // powers of two: what a tile program can decode
#else
  constexpr int d = 96, group = 48;
#endif
  using storage = policy::kv_integer<4, policy::kv_scaling::symmetric, bf16, policy::kv_axis::channels, group>;
  constexpr int rows = 80, heads = 2;
  std::mt19937 g(seed);
  const attention_shape shape{{20, 20}, {rows, rows}, 4, heads, d, d};
  test::quantized_cache<storage, policy::nhd, d> cache({rows, rows}, rows, heads, false, g);
  if (cache.table[0] > cache.table[cache.width]) std::swap(cache.table[0], cache.table[cache.width]);
  for (int s = 0; s < 2; ++s) REQUIRE(cache.store(test::any_context(), s, 0, rows).code == errc::ok);
  rows_of_batch<bf16> q(shape.queries, shape.heads, d, row_order::bshd);
  q.fill(g);
  using op = attention::flash<bf16, d, attention::quantized_kv<storage>, policy::causal, whole>;
  const auto pool = cache.source(rows);
  const int first = cache.table[0], second = cache.table[cache.width];
  test::check_attention<test::tuned_op<op, test::small_tiles>, bf16, float>(shape, q, row_order::bshd, cache.operand_keys(), cache.operand_values(), test::causal_terms(), seed, [&](const auto&, auto& x) {
    const auto of = [&](const attention::quantized_pool<storage>& from) {
      const auto dense = [&](const auto& p) {
        const auto* begin = p.data + first * p.page_stride;
        auto rows_of = attention::bshd(begin, 2, rows, heads, p.cols);
        rows_of.sequence_stride = (second - first) * p.page_stride;
        return rows_of;
      };
      return attention::quantized_rows<storage>{dense(from.codes), dense(from.scales)};
    };
    x.kv = {of(pool.k), of(pool.v)};
  });
}
