// Every score modifier and normalizer through the operation, prefill and decode, over ragged batches, against the oracle.
// What the error model of attention_problem.hpp says of a score holds after a modifier too: their slopes are at most 1, and
// tanh errs by 4e-7 of a cap of 4.
#include <catch2/catch.hpp>
#include <algorithm>
#include <random>
#include "ops/attention_problem.hpp"
#include <smalti/policy/masks/window.hpp>
#include <smalti/policy/score.hpp>

using namespace smalti;
namespace policy = smalti::policy;
using test::attention_shape;
using test::row_order;
using test::rows_of_batch;

namespace {

constexpr unsigned seed = 52;
constexpr int d = 32;
// Lengths that are no multiple of a tile: what a modifier makes of a key past the end must be masked after it.
const attention_shape batches[] = {{{40, 0, 33, 50}, {100, 45, 33, 20}, 4, 2}, {{1, 3, 2, 0}, {99, 65, 31, 7}, 8, 2}};

// A modifier that a user might write.
struct soft_sign {
  float reach = 1;
  template <class V, class Q, class K> SMALTI_HD auto operator()(V score, Q, K) const {
    using namespace policy::scalar;
    return score / (abs(score) / reach + 1.0f);
  }
};
template <class Score, class Normalizer, bool Split> struct with : attention::options {
  using out = float;
  using score = Score;
  using normalizer = Normalizer;
  static constexpr bool split_kv = Split;
};
using logit_of = std::function<double(double z, int s, int h, int i, int p, int j)>;

template <class Score, class Normalizer, class Mask, bool Split>
void check(const attention_shape& given, const Score& score, const Normalizer& normalizer, const Mask& mask, const logit_of& logit,
           const std::function<oracle::normalizer(const oracle::attention_problem& p, int s, int h)>& normalize) {
  attention_shape shape = given;
  shape.d = shape.value_dim = d;
  std::mt19937 generator(seed);
  rows_of_batch<bf16> q(shape.queries, shape.heads, d, row_order::ragged), k(shape.keys, shape.kv_heads, d, row_order::ragged), v(shape.keys, shape.kv_heads, d, row_order::ragged);
  q.fill(generator, 2);
  k.fill(generator, 2);
  v.fill(generator);
  const test::problem_terms terms = [&](oracle::attention_problem& p, int s, int h) {
    const int shift = p.keys - p.queries;
    p.visible = [shift](int i, int j) { return !std::is_same_v<Mask, policy::causal> || j <= i + shift; };
    p.logit = [&logit, s, h, shift](double z, int i, int j) { return logit(z, s, h, i, i + shift, j); };
    p.normalize = normalize(p, s, h);
  };
  CAPTURE(seed, Split);
  using op = test::tuned_op<attention::flash<bf16, d, attention::dense_kv<bf16>, Mask, with<Score, Normalizer, Split>>, test::small_tiles>;
  test::check_attention<op, bf16, float>(shape, q, row_order::ragged, [&](int s, int h, int j, int c) { return k.get(s, h, j, c); },
                                         [&](int s, int h, int j, int c) { return v.get(s, h, j, c); }, terms, seed, [&](const auto&, auto& x) {
                                           x.kv = {k.rows<const bf16>(), v.rows<const bf16>()};
                                           x.mask = mask;
                                           x.logits = score;
                                           x.weights = normalizer;
                                           x.split_keys = Split ? 40 : 0;
                                         });
}
template <class Score> void scored(const attention_shape& shape, const Score& score, const logit_of& logit) {
  check<Score, policy::softmax, policy::causal, false>(shape, score, {}, {}, logit, [](const auto&, int, int) { return oracle::softmax(); });
}
template <class Normalizer, class F> void normalized(const attention_shape& shape, const Normalizer& n, F normalize) {
  const logit_of same = [](double z, int, int, int, int, int) { return z; };
  check<policy::identity_score, Normalizer, policy::causal, false>(shape, {}, n, {}, same, normalize);
  check<policy::identity_score, Normalizer, policy::causal, true>(shape, {}, n, {}, same, normalize);
}

}  // namespace

TEST_CASE("attention with score modifiers", "[ops][attention][score]") {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (const attention_shape& shape : batches) {
    const int heads = shape.heads, queries = 50, keys = 100;
    test::array<float> bias(std::size_t(4) * heads * queries * keys), table(heads * 41), slopes(heads);
    for (float& x : bias) x = normal(random);
    for (float& x : table) x = normal(random);
    policy::fill_alibi_slopes(heads, slopes.data());
    const long long matrix = queries * keys;
    const policy::additive_bias<float> by_element{bias.data(), queries, keys, keys, matrix, heads * matrix};
    const auto added = [&](int s, int h, int i, int j) { return double(bias[(s * heads + h) * matrix + i * keys + j]); };
    scored(shape, policy::soft_cap{4}, [](double z, int, int, int, int, int) { return 4 * std::tanh(z / 4); });
    scored(shape, policy::temperature{0.5f}, [](double z, int, int, int, int, int) { return 2 * z; });
    scored(shape, by_element, [&](double z, int s, int h, int i, int, int j) { return z + added(s, h, i, j); });
    scored(shape, policy::relative_bias<>{table.data(), 41, 30, 0, 41},
           [&](double z, int, int h, int, int p, int j) { return z + table[h * 41 + std::min(std::max(j - p + 30, 0), 40)]; });
    scored(shape, policy::alibi_bias<>{slopes.data()}, [&](double z, int, int h, int, int p, int j) { return z - slopes[h] * std::abs(p - j); });
    scored(shape, policy::chain<policy::additive_bias<float>, soft_sign>{by_element, {{4}, {}}},
           [&](double z, int s, int h, int i, int, int j) { return (z + added(s, h, i, j)) / (1 + std::abs(z + added(s, h, i, j)) / 4); });
  }
}

TEST_CASE("attention with normalizers, whole and split", "[ops][attention][normalizer]") {
  for (const attention_shape& shape : batches) {
    test::array<float> sinks(shape.heads);
    for (int h = 0; h < shape.heads; ++h) sinks[h] = h == 2 ? 300.0f : h == 3 ? -300.0f : 0.7f * h;
    normalized(shape, policy::softmax_with_sink{sinks.data(), shape.heads}, [&](const auto&, int, int h) { return oracle::softmax(sinks[h]); });
    normalized(shape, policy::softmax_with_power{0.81f}, [](const auto&, int, int) -> oracle::normalizer {
      return [](const std::vector<double>& z) {
        oracle::row_weights r = oracle::softmax()(z);
        r.lse *= r.lse == oracle::minus_infinity ? 1 : double(0.81f);
        return r;
      };
    });
    normalized(shape, policy::silu_weights{1.0f / 128}, [](const auto&, int, int) { return oracle::pointwise([](double z) { return z / (1 + std::exp(-z)) / 128; }); });
    normalized(shape, policy::linear_weights{1.0f / 128}, [](const auto&, int, int) { return oracle::pointwise([](double z) { return z / 128; }); });
  }
}
