// The attention agent over contiguous, fp8 and paged keys, with masks, against a double oracle.
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <vector>
#include <smalti/block/attention/flash.hpp>
#include <smalti/policy/score.hpp>
#include <smalti/tile/launch.hpp>
#include "support/arrays.hpp"
#include "support/contexts.hpp"

using namespace smalti;
namespace policy = smalti::policy;

namespace {

constexpr unsigned seed = 7;
constexpr int d = 64, heads = 4, kv_heads = 2;

// A mask that a user might write: tokens of one document, in a window; it cannot say which keys that leaves.
struct document_window {
  const int* document = nullptr;
  int n = 0, window = 0;
  SMALTI_HD constexpr policy::span keys(policy::span, int length) const { return {0, length}; }
  SMALTI_HD constexpr policy::span whole(policy::span, int) const { return {0, 0}; }
  template <class Q, class K> SMALTI_HD auto visible(Q q, K k) const {
    return lookup(document, k, n) == lookup(document, q, n) && k <= q && k > q - window;
  }
};

template <class Problem> struct kernel {
  using arguments = typename Problem::arguments;
  template <target T> using agent = attention::flash_agent<T == target::host ? attention::attention_tuning{32, 32} : attention::attention_tuning{64, 64}, Problem>;
};

// P is rounded to bf16 (2^-8 of each weight at most), v exact, the sums in float: |error| <= 2^-8 max|v| and a little.
template <class Kv, class Mask, class Key, class Value, class Visible>
void compare(int q_len, int kv_len, const Kv& kv, const Mask& mask, Key key, Value value, Visible visible, std::mt19937& generator) {
  const auto q = test::random_array<bf16>(std::size_t(heads) * q_len * d, generator);
  const float scale = 0.125f, in_base_2 = scale * 1.4426950408889634f;
  using problem = attention::flash_problem<bf16, d, d, Kv, float, Mask, policy::identity_score, policy::softmax, policy::lse_2<float>, false, false>;
  test::for_each_context(seed, [&](const auto& context) {
    test::array<float> o(std::size_t(heads) * q_len * d), lse(heads * q_len);
    const status st = launch<kernel<problem>>(context, {.q = attention::bhsd<const bf16>(q.data(), 1, q_len, heads, d), .o = attention::bhsd(o.data(), 1, q_len, heads, d),
                                                        .lse = attention::bhsd(lse.data(), 1, q_len, heads, 1), .heads_per_kv = heads / kv_heads, .group = 1, .scale = scale, .kv = kv,
                                                        .mask = mask, .score = {}, .normalizer = {}, .splits = 1, .split_tiles = 0, .partial = nullptr, .stats = {}, .arrived = nullptr, .blocks = {}});
    REQUIRE(st.code == errc::ok);
    test::wait(context);
    REQUIRE(o.guarded());
    REQUIRE(lse.guarded());
    for (int h = 0; h < heads; ++h)
      for (int i = 0; i < q_len; ++i) {
        CAPTURE(seed, q_len, kv_len, h, i);
        std::vector<double> w(kv_len, -INFINITY);
        double top = -INFINITY, sum = 0, most = 0;
        for (int j = 0; j < kv_len; ++j) {
          if (!visible(i, j)) continue;
          double s = 0;
          for (int e = 0; e < d; ++e) s += test::value(q[(h * q_len + i) * d + e]) * key(h / 2, j, e);
          w[j] = s * in_base_2;
          top = std::max(top, w[j]);
        }
        for (double& x : w) sum += x = x == -INFINITY ? 0 : std::exp2(x - top);
        for (int e = 0; e < d; ++e) {
          double s = 0;
          for (int j = 0; j < kv_len; ++j)
            if (w[j] != 0) s += w[j] * value(h / 2, j, e), most = std::max(most, std::abs(value(h / 2, j, e)));
          const double error = std::abs((sum > 0 ? s / sum : 0) - o[(h * q_len + i) * d + e]);
          if (!(error <= 0x1p-8 * most + 1e-6)) REQUIRE(error <= 0x1p-8 * most + 1e-6);
        }
        if (sum > 0) REQUIRE(std::abs(top + std::log2(sum) - lse[h * q_len + i]) <= 1e-4);
        else REQUIRE(lse[h * q_len + i] == -INFINITY);
      }
  });
}

template <class T> auto reader(const test::array<T>& memory, int kv_len) {
  return [&memory, kv_len](int h, int j, int e) { return test::value(memory[(std::size_t(h) * kv_len + j) * d + e]); };
}

}  // namespace

TEST_CASE("one sequence in a matrix whose rows hold more", "[block][attention]") {
  float memory[30] = {};
  const auto rows = attention::bshd(view<float, 1>{memory + 2, 3, 8, 10}, 2, 4);      // rows of ten, of which two heads of four are meant
  CHECK(rows.sequences == 1);
  CHECK(rows.length(0) == 3);
  const auto second = rows.at<1>(0, 1);
  CHECK(second.data == memory + 6);
  CHECK((second.rows == 3 && second.cols == 4 && second.stride == 10));
}

TEST_CASE("attention over contiguous keys", "[block][attention]") {
  std::mt19937 generator(seed);
  for (auto [q_len, kv_len] : {std::pair{1, 77}, {77, 77}, {40, 128}, {33, 129}, {90, 40}}) {
    const auto k = test::random_array<bf16>(std::size_t(kv_heads) * kv_len * d, generator), v = test::random_array<bf16>(std::size_t(kv_heads) * kv_len * d, generator);
    const attention::dense_kv<bf16> kv{attention::bhsd<const bf16>(k.data(), 1, kv_len, kv_heads, d), attention::bhsd<const bf16>(v.data(), 1, kv_len, kv_heads, d)};
    const int shift = kv_len - q_len;
    compare(q_len, kv_len, kv, policy::full{}, reader(k, kv_len), reader(v, kv_len), [](int, int) { return true; }, generator);
    compare(q_len, kv_len, kv, policy::causal{}, reader(k, kv_len), reader(v, kv_len), [=](int i, int j) { return j <= i + shift; }, generator);
    test::array<int> document(std::max(kv_len, q_len));
    for (int i = 0; i < int(document.size()); ++i) document[i] = i / 37;
    compare(q_len, kv_len, kv, document_window{document.data(), int(document.size()), 20}, reader(k, kv_len), reader(v, kv_len),
            [&](int i, int j) { return document[i] == document[j] && j <= i && j > i - 20; }, generator);
  }
}

TEST_CASE("attention over fp8 keys", "[block][attention]") {
  std::mt19937 generator(seed);
  const int q_len = 50, kv_len = 99;
  const auto k = test::random_array<fp8_e4m3>(std::size_t(kv_heads) * kv_len * d, generator, 4), v = test::random_array<fp8_e4m3>(std::size_t(kv_heads) * kv_len * d, generator, 4);
  const attention::dense_kv<fp8_e4m3> kv{attention::bhsd<const fp8_e4m3>(k.data(), 1, kv_len, kv_heads, d), attention::bhsd<const fp8_e4m3>(v.data(), 1, kv_len, kv_heads, d), nullptr, 0.25f, 0.25f};
  const int shift = kv_len - q_len;
  compare(q_len, kv_len, kv, policy::causal{}, [&](int h, int j, int e) { return 0.25 * reader(k, kv_len)(h, j, e); },
          [&](int h, int j, int e) { return 0.25 * reader(v, kv_len)(h, j, e); }, [=](int i, int j) { return j <= i + shift; }, generator);
}

// The pool is poisoned: slots past the length and pages of nobody hold NaN, entries of the table past the last page
// point far away.
template <int Page> void paged(int q_len, int kv_len) {
  std::mt19937 generator(seed + Page);
  const int used = ceil_div(kv_len, Page), pool = used + 3, width = kv_heads * d, shift = kv_len - q_len;
  std::vector<int> order(pool);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), generator);
  test::array<int> table(used + 4);
  for (int i = 0; i < used + 4; ++i) table[i] = i < used ? order[i] : 1 << 28;
  auto k = test::random_array<bf16>(std::size_t(pool) * Page * width, generator), v = test::random_array<bf16>(std::size_t(pool) * Page * width, generator);
  std::vector<bool> live(std::size_t(pool) * Page, false);
  for (int t = 0; t < kv_len; ++t) live[table[t / Page] * Page + t % Page] = true;
  for (std::size_t slot = 0; slot < live.size(); ++slot)
    if (!live[slot])
      for (int e = 0; e < width; ++e) k[slot * width + e] = v[slot * width + e] = bf16{0x7fc0};
  test::array<int> length(1);
  length[0] = kv_len;
  const attention::paged_kv<bf16, Page> kv{attention::pool_of<const bf16>(policy::nhd{}, k.data(), pool, Page, kv_heads, d),
                                           attention::pool_of<const bf16>(policy::nhd{}, v.data(), pool, Page, kv_heads, d), {table.data(), 0, 0, length.data(), 0, Page}, 1, kv_len};
  const auto at = [&](const test::array<bf16>& p) {
    return [&](int h, int j, int e) { return test::value(p[(std::size_t(table[j / Page]) * Page + j % Page) * width + h * d + e]); };
  };
  compare(q_len, kv_len, kv, policy::causal{}, at(k), at(v), [=](int i, int j) { return j <= i + shift; }, generator);
  compare(q_len, kv_len, kv, policy::full{}, at(k), at(v), [](int, int) { return true; }, generator);
}

TEST_CASE("attention over pages", "[block][attention]") {
  for (auto [q_len, kv_len] : {std::pair{1, 77}, {40, 128}, {33, 129}, {20, 20}}) {
    CAPTURE(seed, q_len, kv_len);
    paged<16>(q_len, kv_len);
    paged<32>(q_len, kv_len);
    paged<64>(q_len, kv_len);
  }
}
