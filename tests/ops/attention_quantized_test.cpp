// Attention to keys and values stored as integers, against the oracle on the numbers that lie in memory: whatever codec, group and
// layout, decode and prefill. Pools are poisoned: free slots and pages hold codes with NaN scales, unused table entries point far away.
#include <catch2/catch.hpp>
#include <string>
#include "ops/quantized_kv.hpp"
#include "reference/position.hpp"
#include <smalti/ops/attention/rotated.hpp>

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

// ---- keys that are turned when they are read

namespace {

constexpr int turned_d = 64;
// [token][channel] of one head, turned as the definition says.
std::vector<double> turned(const std::vector<double>& x, int position, bool interleaved) {
  std::vector<long double> frequency(turned_d / 2);
  for (int i = 0; i < turned_d / 2; ++i) frequency[i] = oracle::rope_inverse_frequency(i, turned_d, 10000);
  return oracle::rope(x, frequency, position, interleaved);
}

// Keys of `plain` stand in memory as they are; key j of a sequence takes part with phase(s, j), the last query with that of the last
// key, and queries before it with those of the keys before. Error model: a turned key is rounded to bf16 once (2^-9 of a number, as
// where turned keys are stored) after an angle with an error of 2e-6, so a score moves by at most 2^-8.9 of the sizes of its products.
template <class Op, class F, class Phase>
void check_turned(const attention_shape& shape, const test::key_value& plain, const test::key_value& val, bool interleaved, Phase phase, F arguments) {
  using test::attention_error;
  std::mt19937 g(seed);
  rows_of_batch<bf16> q(shape.queries, shape.heads, turned_d, row_order::ragged);
  q.fill(g);
  rows_of_batch<float> o(shape.queries, shape.heads, turned_d, row_order::ragged), lse(shape.queries, shape.heads, 1, row_order::ragged);
  for (int s = 0; s < shape.sequences(); ++s)
    for (int h = 0; h < shape.heads; ++h)
      for (int i = 0; i < shape.queries[s]; ++i) {
        std::vector<double> x(turned_d);
        for (int c = 0; c < turned_d; ++c) x[c] = q.get(s, h, i, c);
        const auto y = turned(x, phase(s, shape.keys[s] - shape.queries[s] + i), interleaved);
        for (int c = 0; c < turned_d; ++c) q.at(s, h, i, c) = narrow<bf16>(float(y[c]));
      }
  test::array<float> frequencies(2 * turned_d);
  policy::fill_frequencies(policy::rotary<>{turned_d}, frequencies.data());
  std::vector<oracle::attention_problem> problems;
  std::vector<oracle::attention_result> results;
  for (int s = 0; s < shape.sequences(); ++s)
    for (int h = 0; h < shape.heads; ++h) {
      std::vector<std::vector<double>> keys(std::size_t(shape.keys[s]));
      for (int j = 0; j < shape.keys[s]; ++j) {
        std::vector<double> k(turned_d);
        for (int c = 0; c < turned_d; ++c) k[c] = plain(s, h / (shape.heads / shape.kv_heads), j, c);
        keys[j] = turned(k, phase(s, j), interleaved);
      }
      problems.push_back(test::oracle_of(shape, q, [&](int, int, int j, int c) { return keys[j][c]; }, val, 1 / std::sqrt(double(turned_d)), s, h));
      test::causal_terms()(problems.back(), s, h);
      results.push_back(oracle::attention(problems.back()));
    }
  test::for_each_context(seed, [&](const auto& context) {
    o.poison(), lse.poison();
    typename Op::args x{.q = q.rows<const bf16>(), .kv = {}, .o = o.rows(), .lse = lse.rows()};
    arguments(x);
    x.kv.frequencies = frequencies.data();
    const status fit = Op::check(context, x);
    CAPTURE(fit.what, fit.got, fit.need);
    REQUIRE(fit.code == errc::ok);
    test::scratch memory(Op::workspace_bytes(context, x));
    REQUIRE(Op::run(context, x, memory.get()).code == errc::ok);
    test::wait(context);
    REQUIRE((memory.guarded() && o.guarded() && lse.guarded()));
    for (int s = 0; s < shape.sequences(); ++s)
      for (int h = 0; h < shape.heads; ++h) {
        const auto& p = problems[std::size_t(s * shape.heads + h)];
        const auto& r = results[std::size_t(s * shape.heads + h)];
        for (int i = 0; i < p.queries; ++i) {
          const double moved = std::ldexp(r.reach[i], -9) * 1.1;
          for (int e = 0; e < turned_d; ++e) {
            const double got = o.get(s, h, i, e), want = r.o[std::size_t(i) * p.dv + e];
            if (!(std::abs(got - want) <= attention_error<bf16, float>(r, p, i, e) + 2.5 * moved * r.size[std::size_t(i) * p.dv + e])) {
              CAPTURE(seed, s, h, i, e, got, want, moved);
              FAIL("a value");
            }
          }
          if (p.keys > 0 && !(std::abs(lse.get(s, h, i, 0) - r.lse[i]) <= 1e-4 * std::max(1.0, std::abs(r.lse[i])) + moved)) FAIL("a log-sum-exp");
        }
      }
  });
}
template <class Kv, class Options = whole> using turning = test::tuned_op<attention::flash<bf16, turned_d, Kv, policy::causal, Options>, test::small_tiles>;
const attention_shape turned_prefill{prefill_rows, prefill_keys, 4, 2, turned_d, turned_d}, turned_decode{decode_rows, decode_keys, 8, 2, turned_d, turned_d};

}  // namespace

TEST_CASE("keys turned when they are read, dense and ragged", "[ops][attention][rotated]") {
  for (const auto& shape : {turned_prefill, turned_decode}) {
    rows_of_batch<bf16> k(shape.keys, 2, turned_d, row_order::ragged), v(shape.keys, 2, turned_d, row_order::ragged);
    std::mt19937 g(seed);
    k.fill(g), v.fill(g);
    const auto value_of = [&](int s, int h, int j, int c) { return v.get(s, h, j, c); };
    using plain_keys = attention::rotated_kv<attention::dense_kv<bf16>>;
    check_turned<turning<plain_keys>>(shape, [&](int s, int h, int j, int c) { return k.get(s, h, j, c); }, value_of, false, [](int, int j) { return j; }, [&](auto& x) {
      x.kv.kv = {k.rows<const bf16>(), v.rows<const bf16>()};
    });
    // The same of keys that stand turned for their places in a text of which others are gone, and for places further on: only differences count.
    for (int further : {0, 3000}) {
      const auto place_of = [further](int s, int j) { return further + 3 * j + j % 2 + s; };
      rows_of_batch<bf16> standing(shape.keys, 2, turned_d, row_order::ragged);
      test::array<int> places(std::size_t(shape.sequences()) * shape.most_keys());
      for (int s = 0; s < shape.sequences(); ++s)
        for (int j = 0; j < shape.keys[s]; ++j) {
          places[s * shape.most_keys() + j] = place_of(s, j);
          for (int h = 0; h < 2; ++h) {
            std::vector<double> x(turned_d);
            for (int c = 0; c < turned_d; ++c) x[c] = k.get(s, h, j, c);
            const auto y = turned(x, place_of(s, j), false);
            for (int c = 0; c < turned_d; ++c) standing.at(s, h, j, c) = narrow<bf16>(float(y[c]));
          }
        }
      using standing_keys = attention::rotated_kv<attention::dense_kv<bf16>, policy::compact>;
      // What stands in memory was rounded when it was turned: the oracle turns it on from there.
      std::vector<double> all;
      for (int s = 0; s < shape.sequences(); ++s)
        for (int h = 0; h < 2; ++h)
          for (int j = 0; j < shape.most_keys(); ++j) {
            std::vector<double> x(turned_d);
            for (int c = 0; c < turned_d && j < shape.keys[s]; ++c) x[c] = standing.get(s, h, j, c);
            const auto y = turned(x, -place_of(s, j), false);
            all.insert(all.end(), y.begin(), y.end());
          }
      const auto back = [&](int s, int h, int j, int c) { return all[std::size_t((s * 2 + h) * shape.most_keys() + j) * turned_d + c]; };
      check_turned<turning<standing_keys>>(shape, back, value_of, false, [](int, int j) { return j; }, [&](auto& x) {
        x.kv.kv = {standing.rows<const bf16>(), v.rows<const bf16>()};
        x.kv.places = places.data(), x.kv.places_stride = shape.most_keys();
      });
    }
  }
}

TEST_CASE("keys turned when they are read, in pages of numbers and of codes", "[ops][attention][rotated]") {
  using storage = policy::kv_int8<>;
  const attention_shape& shape = turned_decode;
  std::mt19937 g(seed);
  test::quantized_cache<storage, policy::hnd, turned_d> cache(shape.keys, 8, 2, true, g);
  for (int s = 0; s < shape.sequences(); ++s)
    if (shape.keys[s] > 0) REQUIRE(cache.store(test::any_context(), s, 0, shape.keys[s]).code == errc::ok);
  using codes = attention::rotated_kv<cache::source<storage, 0>>;
  check_turned<turning<codes, splitting>>(shape, cache.operand_keys(), cache.operand_values(), false, [](int, int j) { return j; }, [&](auto& x) {
    x.kv.kv = cache.source(shape.most_keys());
    x.split_keys = 32;
  });
  // Numbers in pages of five tokens, pairs of neighbours; slots past the end hold NaN.
  constexpr int page = 5, heads = 2;
  std::vector<int> free;
  for (int s = 0; s < shape.sequences(); ++s)
    for (int p = 0; p < ceil_div(shape.keys[s], page); ++p) free.push_back(int(free.size()));
  const int pages = int(free.size()) + 1, width = ceil_div(shape.most_keys(), page) + 1;
  std::shuffle(free.begin(), free.end(), g);
  test::array<int> table(std::size_t(shape.sequences()) * width), length(std::size_t(shape.sequences()));
  for (int& entry : table) entry = 1 << 28;
  for (int s = 0; s < shape.sequences(); ++s) {
    length[s] = shape.keys[s];
    for (int p = 0; p < ceil_div(shape.keys[s], page); ++p) table[s * width + p] = free.back(), free.pop_back();
  }
  test::array<bf16> k(std::size_t(pages) * page * heads * turned_d), v(k.size());
  for (std::size_t i = 0; i < k.size(); ++i) k[i] = v[i] = narrow<bf16>(NAN);
  const auto at = [&](int s, int h, int j, int c) { return std::size_t(policy::nhd{}.row(table[s * width + j / page], j % page, h, heads, page)) * turned_d + c; };
  std::normal_distribution<float> normal(0, 1);
  for (int s = 0; s < shape.sequences(); ++s)
    for (int j = 0; j < shape.keys[s]; ++j)
      for (int h = 0; h < heads; ++h)
        for (int c = 0; c < turned_d; ++c) k[at(s, h, j, c)] = narrow<bf16>(normal(g)), v[at(s, h, j, c)] = narrow<bf16>(normal(g));
  using numbers = attention::rotated_kv<attention::paged_kv<bf16>, policy::rotate_on_read, policy::interleaved>;
  check_turned<turning<numbers, splitting>>(shape, [&](int s, int h, int j, int c) { return test::value(k[at(s, h, j, c)]); }, [&](int s, int h, int j, int c) { return test::value(v[at(s, h, j, c)]); }, true,
                                            [](int, int j) { return j; }, [&](auto& x) {
    x.kv.kv = {attention::pool_of<const bf16>(policy::nhd{}, k.data(), pages, page, heads, turned_d), attention::pool_of<const bf16>(policy::nhd{}, v.data(), pages, page, heads, turned_d),
               {table.data(), width, 0, length.data(), 0, page}, shape.sequences(), shape.most_keys()};
  });
}

TEST_CASE("keys turned when they are read are refused by name", "[ops][attention][rotated]") {
  rows_of_batch<bf16> q({4}, 2, turned_d, row_order::bshd), k({8}, 2, turned_d, row_order::bshd), v({8}, 2, turned_d, row_order::bshd), o({4}, 2, turned_d, row_order::bshd);
  test::array<float> frequencies(2 * turned_d);
  test::array<int> places(8);
  std::iota(places.begin(), places.end(), 0);
  const auto refused = [&](auto kv, errc code, const char* word) {
    using op = attention::flash<bf16, turned_d, decltype(kv), policy::causal>;
    kv.kv = {k.rows<const bf16>(), v.rows<const bf16>()};
    const status st = op::check(test::any_context(), typename op::args{.q = q.rows<const bf16>(), .kv = kv, .o = o.rows()});
    CAPTURE(st.what, word);
    CHECK(st.code == code);
    CHECK(std::string(st.what).find(word) != std::string::npos);
  };
  using plain_keys = attention::rotated_kv<attention::dense_kv<bf16>>;
  using standing_keys = attention::rotated_kv<attention::dense_kv<bf16>, policy::compact>;
  refused(plain_keys{}, errc::null_pointer, "kv.frequencies");
  refused(plain_keys{.frequencies = frequencies.data(), .scale = NAN}, errc::bad_value, "kv.scale");
  refused(plain_keys{.frequencies = frequencies.data(), .places = places.data()}, errc::bad_value, "kv.places");
  refused(standing_keys{.frequencies = frequencies.data()}, errc::null_pointer, "kv.places");
  refused(standing_keys{.frequencies = frequencies.data(), .places = places.data(), .places_stride = -1}, errc::bad_value, "places_stride");
  refused(plain_keys{.frequencies = frequencies.data()}, errc::ok, "");
}
