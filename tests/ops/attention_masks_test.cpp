// Every mask of policy/mask.hpp and policy/masks/ through the operation, prefill and decode, over ragged batches with empty
// sequences, against the oracle that is told what is visible.
#include <catch2/catch.hpp>
#include <algorithm>
#include <random>
#include "ops/attention_problem.hpp"
#include <smalti/policy/masks/bits.hpp>
#include <smalti/policy/masks/columns.hpp>
#include <smalti/policy/masks/compose.hpp>
#include <smalti/policy/masks/document.hpp>
#include <smalti/policy/masks/prefix.hpp>
#include <smalti/policy/masks/window.hpp>

using namespace smalti;
namespace policy = smalti::policy;
using test::attention_shape;
using test::row_order;
using test::rows_of_batch;

namespace {

constexpr unsigned seed = 51;
constexpr int d = 32;

struct into_float : attention::options { using out = float; };
template <class Mask> using masked = test::tuned_op<attention::flash<bf16, d, attention::dense_kv<bf16>, Mask, into_float>, test::small_tiles>;

// p is where query i of sequence s stands among the keys.
using visible_at = std::function<bool(int s, int h, int i, int p, int j)>;

template <class Mask> void check(const attention_shape& given, const Mask& mask, const visible_at& visible) {
  attention_shape shape = given;
  shape.d = shape.value_dim = d;
  std::mt19937 generator(seed);
  rows_of_batch<bf16> q(shape.queries, shape.heads, d, row_order::ragged), k(shape.keys, shape.kv_heads, d, row_order::ragged), v(shape.keys, shape.kv_heads, d, row_order::ragged);
  q.fill(generator);
  k.fill(generator);
  v.fill(generator);
  const test::problem_terms terms = [&](oracle::attention_problem& p, int s, int h) {
    p.visible = [&visible, s, h, shift = p.keys - p.queries](int i, int j) { return visible(s, h, i, i + shift, j); };
  };
  CAPTURE(seed);
  test::check_attention<masked<Mask>, bf16, float>(shape, q, row_order::ragged, [&](int s, int h, int j, int c) { return k.get(s, h, j, c); },
                                                   [&](int s, int h, int j, int c) { return v.get(s, h, j, c); }, terms, seed,
                                                   [&](const auto&, auto& x) {
                                                     x.kv = {k.rows<const bf16>(), v.rows<const bf16>()};
                                                     x.mask = mask;
                                                   });
}

// A prefill with fewer, as many and more queries than keys, an empty sequence; and a decode of few rows.
const attention_shape batches[] = {{{40, 0, 33, 50}, {100, 45, 33, 20}, 4, 2}, {{1, 3, 2, 0}, {99, 64, 31, 7}, 8, 2}};
template <class Mask> void check(const Mask& mask, const visible_at& visible) {
  for (const attention_shape& shape : batches) check(shape, mask, visible);
}
int longest(const std::vector<int>& n) { return *std::max_element(n.begin(), n.end()); }

}  // namespace

TEST_CASE("attention with masks of distance", "[ops][attention][mask]") {
  check(policy::full{}, [](int, int, int, int, int) { return true; });
  check(policy::causal_top_left{}, [](int, int, int i, int, int j) { return j <= i; });
  check(policy::window_keys(20), [](int, int, int, int p, int j) { return j <= p && p - j < 20; });
  check(policy::window_left(9, 35), [](int, int, int, int p, int j) { return j <= p + 35 && p - j <= 9; });
  check(policy::sink_window_keys(3, 20), [](int, int, int, int p, int j) { return j <= p && (j < 3 || p - j < 20); });
  check(policy::chunked<>{24}, [](int, int, int, int p, int j) { return j <= p && j / 24 == p / 24; });
}

TEST_CASE("attention with a prefix of each sequence", "[ops][attention][mask]") {
  for (const attention_shape& shape : batches) {
    test::array<int> lengths(4);
    for (int s = 0; s < 4; ++s) lengths[s] = 13 * s;
    check(shape, policy::prefix<>{0, lengths.data()}, [&](int s, int, int, int p, int j) { return j < lengths[s] || j <= p; });
  }
}

TEST_CASE("attention inside documents", "[ops][attention][mask]") {
  std::mt19937 random(seed);
  for (const attention_shape& shape : batches) {
    const int most = longest(shape.keys);
    test::array<int> begin(4 * most), end(4 * most);
    std::vector<std::vector<int>> document(4, std::vector<int>(most));
    for (int s = 0; s < 4; ++s) {
      std::vector<std::int32_t> offsets{0};
      while (offsets.back() < most) offsets.push_back(std::min<int>(most, offsets.back() + 1 + int(random() % 40)));
      const segments<std::int32_t> parts{offsets.data(), int(offsets.size()) - 1};
      policy::fill_documents(parts, begin.data() + s * most, end.data() + s * most);
      for (int n = 0; n < parts.count; ++n) std::fill(&document[s][0] + parts.first(n), &document[s][0] + parts.last(n), n);
    }
    const policy::document<policy::causal_top_left> mask{begin.data(), end.data(), most, most};
    check(shape, mask, [&](int s, int, int, int p, int j) { return p >= 0 && document[s][p] == document[s][j] && j <= p; });
  }
}

TEST_CASE("attention by ids and groups", "[ops][attention][mask]") {
  std::mt19937 random(seed);
  for (const attention_shape& shape : batches) {
    const int queries = longest(shape.queries), keys = longest(shape.keys);
    test::array<int> query_id(4 * queries), key_id(4 * keys);
    for (int& x : query_id) x = int(random() % 9) - 2;
    for (int& x : key_id) x = int(random() % 9) - 2;
    check(shape, policy::same_id{query_id.data(), key_id.data(), queries, keys, queries, keys},
          [&](int s, int, int i, int, int j) { return query_id[s * queries + i] == key_id[s * keys + j]; });
    check(shape, policy::group_order{query_id.data(), key_id.data(), queries, keys, queries, keys}, [&](int s, int, int i, int, int j) {
      const int a = query_id[s * queries + i], b = key_id[s * keys + j];
      return a == b || (b >= 0 && b % 2 == 0 && b < a);
    });
  }
}

TEST_CASE("attention with column intervals of each head", "[ops][attention][mask]") {
  std::mt19937 random(seed);
  for (const attention_shape& shape : batches) {
    const int keys = longest(shape.keys), queries = longest(shape.queries), block = 32, blocks = (keys + block - 1) / block;
    test::array<int> begin(shape.heads * 2 * keys), end(shape.heads * 2 * keys), summary(shape.heads * 8 * blocks);
    for (int h = 0; h < shape.heads; ++h) {
      for (int n = h * 2 * keys; n < (h + 1) * 2 * keys; ++n) {
        begin[n] = h == 1 ? 0 : int(random() % unsigned(queries + 1));           // head 1: every row hidden from the first 64 keys
        end[n] = h == 1 && n - 2 * keys < 64 ? queries : begin[n] + int(random() % 20) - 4;
      }
      policy::fill_column_summary(begin.data() + h * 2 * keys, end.data() + h * 2 * keys, 2, keys, keys, block, summary.data() + h * 8 * blocks);
    }
    const policy::column_interval<2, policy::causal> mask{begin.data(), end.data(), keys, keys, 2 * keys, 0, summary.data(), block, 8 * blocks};
    check(shape, mask, [&](int, int h, int i, int p, int j) {
      for (int n = 0; n < 2; ++n)
        if (i >= begin[(h * 2 + n) * keys + j] && i < end[(h * 2 + n) * keys + j]) return false;
      return j <= p;
    });
  }
}

TEST_CASE("attention with a bit for each score", "[ops][attention][mask]") {
  std::mt19937 random(seed);
  for (const attention_shape& shape : batches) {
    test::array<long long> offset(4);
    long long bytes = 0;
    for (int s = 0; s < 4; ++s) {
      offset[s] = bytes;
      bytes += (shape.queries[s] * shape.keys[s] + 7) / 8;
    }
    test::array<unsigned char> bits(std::size_t(bytes) * shape.heads);
    for (unsigned char& x : bits) x = random() % 3 == 0 ? 0 : static_cast<unsigned char>(random());
    for (int b = 0; b < shape.keys[0]; ++b) bits[b / 8] = 0;                      // the first rows see nothing
    const policy::bitmask mask{bits.data(), 0, 0, 0, bytes, 0, offset.data()};
    check(shape, mask, [&](int s, int h, int i, int, int j) {
      const int bit = i * shape.keys[s] + j;
      return (bits[h * bytes + offset[s] + bit / 8] >> (bit % 8) & 1) != 0;
    });
  }
}

TEST_CASE("attention over a tree of drafted tokens", "[ops][attention][mask]") {
  std::mt19937 random(seed);
  const attention_shape shape{{16, 9, 0, 31}, {80, 9, 12, 64}, 4, 2};
  const int most = 31;
  test::array<int> rows(4 * most);
  std::vector<std::vector<int>> parent(4, std::vector<int>(most));
  for (int s = 0; s < 4; ++s)
    for (int t = 0; t < most; ++t) {
      parent[s][t] = int(random() % unsigned(t + 1)) - 1;
      rows[s * most + t] = 0;
      for (int a = t; a >= 0; a = parent[s][a]) rows[s * most + t] |= int(1u << a);
    }
  check(shape, policy::tree<1>{rows.data(), most, 1, most}, [&](int s, int, int i, int, int j) {
    const int text = shape.keys[s] - shape.queries[s];
    if (j < text) return true;
    for (int a = i; a >= 0; a = parent[s][a])
      if (a == j - text) return true;
    return false;
  });
}

namespace {
struct even_distance {
  template <class Q, class K> SMALTI_HD auto operator()(Q q, K k) const { return ((q + k) & 1) == 0; }
};
}  // namespace
TEST_CASE("attention with composed masks", "[ops][attention][mask]") {
  check(policy::mask_and{policy::causal{}, policy::mask_or{policy::window_keys(8), policy::predicate{even_distance{}}}},
        [](int, int, int i, int p, int j) { return j <= p && (p - j < 8 || (i + j) % 2 == 0); });
  check(policy::mask_and{policy::causal{}, policy::mask_not{policy::window_left(40, 0)}}, [](int, int, int, int p, int j) { return j <= p && p - j > 40; });
}
