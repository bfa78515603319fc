// Attention over dense and ragged batches against the oracle: layouts, head dims, groups of heads, lengths around the tiles.
#include <catch2/catch.hpp>
#include "ops/attention_problem.hpp"

using namespace smalti;
namespace policy = smalti::policy;
using test::attention_shape;
using test::row_order;
using test::rows_of_batch;

namespace {

constexpr unsigned seed = 20261121;

template <int V, class Out = void, class Lse = policy::lse_e<float>, bool Split = false> struct with : attention::options {
  using out = Out;
  using lse = Lse;
  static constexpr int value_dim = V;
  static constexpr bool split_kv = Split;
};

// T: queries; K: keys and values in memory. Split: keys of one part, 0 for none.
template <class T, int D, int V, class K = T, class Out = float, class Mask = policy::causal, class Lse = policy::lse_e<float>, bool Split = false>
void compare(const attention_shape& given, row_order q_order, row_order kv_order, const test::problem_terms& terms, int split_keys = 0, bool small = true) {
  attention_shape shape = given;
  shape.d = D, shape.value_dim = V;
  std::mt19937 generator(seed + D + V);
  CAPTURE(seed, D, V, int(q_order), int(kv_order), split_keys);
  rows_of_batch<T> q(shape.queries, shape.heads, D, q_order);
  rows_of_batch<K> k(shape.keys, shape.kv_heads, D, kv_order), v(shape.keys, shape.kv_heads, V, kv_order);
  const bool bytes = sizeof(K) == 1;
  q.fill(generator);
  k.fill(generator, bytes ? 4 : 1);
  v.fill(generator, bytes ? 4 : 1);
  test::array<std::int32_t> used(shape.keys.size());
  for (std::size_t s = 0; s < shape.keys.size(); ++s) used[s] = shape.keys[s];
  const float scale = bytes ? 0.25f : 1;
  using op = attention::flash<T, D, attention::dense_kv<K>, Mask, with<V, Out, Lse, Split>>;
  const auto arguments = [&](const auto&, auto& x) {
    x.kv = {k.template rows<const K>(), v.template rows<const K>(), kv_order == row_order::ragged ? nullptr : used.data(), scale, scale};
    x.split_keys = split_keys;
  };
  const auto key = [&](int s, int h, int j, int c) { return scale * k.get(s, h, j, c); };
  const auto val = [&](int s, int h, int j, int c) { return scale * v.get(s, h, j, c); };
  if (small) {
    using small_op = test::tuned_op<op, test::small_tiles>;
    test::check_attention<small_op, T, Out>(shape, q, q_order, key, val, terms, seed, arguments);
  } else {
    test::check_attention<op, T, Out>(shape, q, q_order, key, val, terms, seed, arguments);
  }
}

// Prefill and decode of one head dim.
template <int D, int V> void both() {
  compare<bf16, D, V>({{37}, {70}, 2, 1}, row_order::bshd, row_order::bshd, test::causal_terms());
  compare<bf16, D, V>({{2}, {70}, 4, 2}, row_order::bshd, row_order::bshd, test::causal_terms());
}

}  // namespace

TEST_CASE("attention matches the oracle in every layout", "[ops][attention]") {
  const attention_shape shape{{40, 40}, {77, 77}};
  for (const row_order order : {row_order::bshd, row_order::bhsd, row_order::ragged}) {
    compare<bf16, 64, 64>(shape, order, order, test::causal_terms());
    compare<bf16, 64, 64>(shape, order, row_order::bhsd, test::causal_terms());
  }
}

TEST_CASE("attention over ragged batches", "[ops][attention]") {
  compare<bf16, 64, 64>({{5, 0, 70, 33}, {99, 12, 70, 0}}, row_order::ragged, row_order::ragged, test::causal_terms());
  compare<bf16, 64, 64>({{50, 1, 0, 64}, {20, 31, 64, 65}}, row_order::ragged, row_order::ragged, test::causal_terms());
  compare<bf16, 64, 64, bf16, float, policy::full>({{1, 3, 2, 0}, {99, 128, 31, 40}, 8, 2}, row_order::ragged, row_order::bhsd, test::full_terms());   // decode
  compare<bf16, 64, 64>({{4, 4, 4}, {2, 128, 33}, 8, 2}, row_order::bhsd, row_order::ragged, test::causal_terms());
}

TEST_CASE("attention of lengths around the tiles", "[ops][attention]") {
  const int keys = GENERATE(0, 1, 31, 32, 33, 67);
  const int queries = GENERATE(1, 31, 33);
  compare<bf16, 64, 64>({{queries}, {keys}, 2, 1}, row_order::bshd, row_order::bshd, test::causal_terms());
  compare<bf16, 64, 64, bf16, float, policy::full>({{queries}, {keys}, 2, 1}, row_order::bshd, row_order::bshd, test::full_terms());
}

TEST_CASE("attention of the default tiles", "[ops][attention]") {
  compare<bf16, 64, 64, bf16, bf16>({{200}, {600}, 2, 1}, row_order::bshd, row_order::bhsd, test::causal_terms(), 0, false);
  compare<bf16, 64, 64, bf16, bf16>({{2, 2}, {700, 300}, 8, 2}, row_order::bshd, row_order::bhsd, test::causal_terms(), 0, false);
}

TEST_CASE("attention of any head dim", "[ops][attention]") {
  both<8, 8>();
  both<16, 40>();
  both<40, 16>();
  both<72, 72>();
  both<80, 128>();
  both<96, 96>();
  both<192, 128>();
  both<256, 256>();
}

TEST_CASE("attention of fp16, of fp8 keys, to every result", "[ops][attention]") {
  const attention_shape shape{{40}, {77}}, decode{{2}, {77}, 8, 2};
  for (const attention_shape& s : {shape, decode}) {
    compare<fp16, 64, 64>(s, row_order::bshd, row_order::bshd, test::causal_terms());
    compare<fp16, 64, 64, fp8_e4m3, fp16>(s, row_order::bshd, row_order::bshd, test::causal_terms());
    compare<bf16, 64, 64, fp8_e4m3, bf16>(s, row_order::bshd, row_order::bhsd, test::causal_terms());
    compare<bf16, 64, 64, fp8_e5m2, fp8_e4m3>(s, row_order::bhsd, row_order::bshd, test::causal_terms());
    compare<bf16, 64, 64, bf16, float, policy::full, policy::lse_2<float>>(s, row_order::bhsd, row_order::bshd, test::full_terms());
  }
}

#if !defined(__CUDACC__)
TEST_CASE("attention of floats", "[ops][attention]") {
  compare<float, 64, 64>({{40, 40}, {77, 130}, 4, 2}, row_order::bshd, row_order::bhsd, test::causal_terms());
  compare<float, 64, 64, float, float, policy::causal, policy::lse_e<float>, true>({{1, 2}, {77, 200}, 8, 2}, row_order::ragged, row_order::ragged, test::causal_terms(), 64);
  compare<float, 64, 64>({{70}, {300}, 2, 1}, row_order::bshd, row_order::bshd, test::causal_terms(), 0, false);
}
#endif

TEST_CASE("split keys merge to the same result", "[ops][attention]") {
  for (int split_keys : {32, 50, 1000}) {
    compare<bf16, 64, 64, bf16, float, policy::causal, policy::lse_e<float>, true>({{40, 40}, {177, 64}, 4, 2}, row_order::bshd, row_order::bshd, test::causal_terms(), split_keys);
    compare<bf16, 64, 96, bf16, bf16, policy::causal, policy::lse_2<float>, true>({{1, 2, 1}, {200, 3, 0}, 8, 2}, row_order::ragged, row_order::ragged, test::causal_terms(), split_keys);
  }
}

TEST_CASE("attention gives the same bits on every run, whatever the order of blocks and the threads", "[ops][attention]") {
  std::mt19937 generator(seed);
  attention_shape shape{{1, 1}, {500, 300}, 8, 2};
  rows_of_batch<bf16> q(shape.queries, 8, 64, row_order::bshd), k(shape.keys, 2, 64, row_order::bshd), v(shape.keys, 2, 64, row_order::bshd);
  q.fill(generator), k.fill(generator), v.fill(generator);
  test::array<std::int32_t> used(2);
  used[0] = 500, used[1] = 300;
  using op = attention::flash<bf16, 64, attention::dense_kv<bf16>, policy::causal, with<64, float, policy::lse_e<float>, true>>;
  std::vector<float> first;
  test::for_each_context(seed, [&](const auto& context) {
    for (int run = 0; run < 2; ++run) {
      rows_of_batch<float> o(shape.queries, 8, 64, row_order::bshd);
      const typename op::args x{.q = q.rows<const bf16>(), .kv = {k.rows<const bf16>(), v.rows<const bf16>(), used.data()}, .o = o.rows(), .split_keys = 128};
      test::scratch memory(op::workspace_bytes(context, x));
      REQUIRE(op::run(context, x, memory.get()).code == errc::ok);
      test::wait(context);
      std::vector<float> bits(o.memory().begin(), o.memory().end());
      if (first.empty()) first = bits;
      REQUIRE(std::memcmp(first.data(), bits.data(), bits.size() * sizeof(float)) == 0);
    }
  });
}
