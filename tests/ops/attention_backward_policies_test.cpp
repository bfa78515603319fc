// attention::flash_backward under every policy that has a gradient: masks, score modifiers and their biases, learned sinks,
// bases of log-sum-exps, pointwise normalizers.
#include <smalti/policy/masks/document.hpp>
#include <smalti/policy/masks/window.hpp>
#include "attention_backward_problem.hpp"

using namespace smalti;
using test::gradient_oracle;
using test::gradient_problem;
using test::gradient_shape;
using test::rows_layout;

namespace {

constexpr unsigned seed = 6;
constexpr int d = 32;

struct capped_bias : attention::backward_options {
  using score = policy::chain<policy::additive_bias<float>, policy::soft_cap>;
  static constexpr bool bias_gradient = true;
};
struct distances : attention::backward_options {
  using score = policy::alibi_bias<>;
  static constexpr bool bias_gradient = true;
};
struct with_sink : attention::backward_options {
  using normalizer = policy::softmax_with_sink;
  using lse = policy::lse_2<float>;
  using gradient = float;
};
struct with_silu : attention::backward_options {
  using normalizer = policy::silu_weights;
};
// A score that a user might write, with its derivative.
struct soft_sign {
  float reach = 1;
  template <class V, class Q, class K> SMALTI_HD auto operator()(V score, Q, K) const {
    using namespace policy::scalar;
    return score / (abs(score) / reach + 1.0f);
  }
  template <class V, class Q, class K> SMALTI_HD auto derivative(V score, Q, K) const {
    using namespace policy::scalar;
    const auto u = abs(score) / reach + 1.0f;
    return 1.0f / (u * u);
  }
};
struct own_linear : attention::backward_options {
  using normalizer = policy::linear_weights;
  using score = soft_sign;
};

// A mask that a user might write: it says nothing of tiles, and each head looks at other keys.
struct every_nth {
  int n = 2, head = 0;
  SMALTI_HD constexpr every_nth for_head(int, int h) const { return {n, h}; }
  SMALTI_HD constexpr policy::span keys(policy::span, int length) const { return {0, length}; }
  SMALTI_HD constexpr policy::span whole(policy::span, int) const { return {0, 0}; }
  template <class Q, class K> SMALTI_HD auto visible(Q q, K k) const { return (q + k + head) % n == 0; }
};

// ds against the oracle's, summed over what shares a bias; rows of ds add up to 0 where softmax has no sink.
template <class Op> void compare_bias(const gradient_problem<Op>& p, const test::array<float>& got, int sequences, int heads, int stride, bool rows_sum_to_zero) {
  const int queries = p.shape.queries[0], keys = p.shape.keys[0], batch = int(p.shape.queries.size());
  REQUIRE(got.guarded());
  for (int s = 0; s < sequences; ++s)
    for (int h = 0; h < heads; ++h)
      for (int i = 0; i < queries; ++i) {
        double sum = 0, sum_bound = 0;
        for (int j = 0; j < keys; ++j) {
          double want = 0, bound = 1e-7;
          for (int t = sequences == 1 ? 0 : s; t < (sequences == 1 ? batch : s + 1); ++t)
            for (int g = heads == 1 ? 0 : h; g < (heads == 1 ? p.shape.heads : h + 1); ++g) {
              want += p.ds[t * p.shape.heads + g][std::size_t(i) * keys + j];
              bound += p.ds_bound[t * p.shape.heads + g][std::size_t(i) * keys + j];
            }
          const double x = got[(std::size_t(s * heads + h) * queries + i) * stride + j];
          sum += x, sum_bound += bound;
          if (!(std::abs(x - want) <= bound)) {
            CAPTURE(s, h, i, j, x, want, bound);
            REQUIRE(std::abs(x - want) <= bound);
          }
        }
        if (rows_sum_to_zero) REQUIRE(std::abs(sum) <= sum_bound);
      }
}

}  // namespace

TEST_CASE("attention's gradients under masks", "[ops][attention]") {
  std::mt19937 generator(seed);
  const gradient_shape shape{{100, 100}, {140, 140}, 4, 2};
  {
    using op = attention::flash_backward<bf16, d, policy::sliding_window<>>;
    const auto says = [](int, int) {
      gradient_oracle g;
      g.visible = [](int i, int j) { return j <= i + 40 && j > i + 40 - 30; };
      return g;
    };
    gradient_problem<op>(d, shape, says, generator, true).run(seed, [](auto& x) { x.mask = policy::window_keys(30); });
  }
  {
    using op = attention::flash_backward<bf16, d, policy::document<policy::causal_top_left>>;
    const gradient_shape square{{120, 120}, {120, 120}, 2, 2};
    test::array<int> begin(120), end(120);
    for (int t = 0; t < 120; ++t) begin[t] = t / 50 * 50, end[t] = std::min(120, t / 50 * 50 + 50);
    const auto says = [](int, int) {
      gradient_oracle g;
      g.visible = [](int i, int j) { return i / 50 == j / 50 && j <= i; };
      return g;
    };
    gradient_problem<op>(d, square, says, generator).run(seed, [&](auto& x) { x.mask = {.begin = begin.data(), .end = end.data(), .tokens = 120}; });
  }
  {
    using op = attention::flash_backward<bf16, d, every_nth>;
    const auto says = [](int, int h) {
      gradient_oracle g;
      g.visible = [h](int i, int j) { return (i + j + h) % 3 == 0; };
      return g;
    };
    gradient_problem<op>(d, shape, says, generator).run(seed, [](auto& x) { x.mask.n = 3; });
  }
}

TEST_CASE("attention's gradients through score modifiers, and those of biases", "[ops][attention]") {
  std::mt19937 generator(seed);
  const gradient_shape shape{{70, 70}, {90, 90}, 2, 1};
  const int stride = 92;
  test::array<float> bias = test::random_array<float>(std::size_t(2) * 2 * 70 * stride, generator);
  using op = attention::flash_backward<bf16, d, policy::causal, capped_bias>;
  for (const auto& [sequences, heads] : {std::pair{2, 2}, {1, 2}, {1, 1}}) {
    CAPTURE(seed, sequences, heads);
    const auto says = [&, sequences = sequences, heads = heads](int s, int h) {
      gradient_oracle g;
      const float* at = bias.data() + (std::size_t(sequences == 1 ? 0 : s) * heads + (heads == 1 ? 0 : h)) * 70 * stride;
      g.visible = [](int i, int j) { return j <= i + 20; };
      g.logit = [=](double x, int i, int j) { return 3 * std::tanh((x + at[i * stride + j]) / 3); };
      g.slope = [=](double x, int i, int j) { return 1 - std::pow(std::tanh((x + at[i * stride + j]) / 3), 2); };
      return g;
    };
    const gradient_problem<op> p(d, shape, says, generator, true);
    test::array<float> d_bias(std::size_t(sequences) * heads * 70 * stride);
    p.run(
        seed,
        [&, sequences = sequences, heads = heads](auto& x) {
          x.logits = {{bias.data(), 70, 90, stride, heads == 1 ? 0 : 70ll * stride, sequences == 1 ? 0 : heads * 70ll * stride}, {{3.0f}, {}}};
          x.d_bias = {d_bias.data(), sequences, heads, 70, stride, heads * 70ll * stride, 70ll * stride, stride, nullptr};
        },
        [&, sequences = sequences, heads = heads](const auto&) { compare_bias(p, d_bias, sequences, heads, stride, false); });
  }
}

TEST_CASE("attention's gradient of a plain bias: rows add up to nothing", "[ops][attention]") {
  std::mt19937 generator(seed);
  const gradient_shape shape{{65}, {70}, 2, 2};
  using op = attention::flash_backward<bf16, d, policy::causal, distances>;
  test::array<float> slopes(2), d_bias(std::size_t(2) * 65 * 72);
  policy::fill_alibi_slopes(2, slopes.data());
  const auto says = [&](int, int h) {
    gradient_oracle g;
    g.visible = [](int i, int j) { return j <= i + 5; };
    g.logit = [slope = slopes[h]](double x, int i, int j) { return x - slope * std::abs(i + 5 - j); };
    return g;
  };
  const gradient_problem<op> p(d, shape, says, generator);
  p.run(
      seed,
      [&](auto& x) {
        x.logits = {slopes.data()};
        x.d_bias = {d_bias.data(), 1, 2, 65, 72, 0, 65 * 72, 72, nullptr};
      },
      [&](const auto&) { compare_bias(p, d_bias, 1, 2, 72, true); });
}

TEST_CASE("attention's gradients of learned sinks, with lse in base 2", "[ops][attention]") {
  std::mt19937 generator(seed);
  const gradient_shape shape{{40, 0, 300}, {30, 5, 290}, 4, 2, rows_layout::ragged};
  using op = attention::flash_backward<bf16, d, policy::causal, with_sink>;
  test::array<float> sinks(4), d_sinks(4);
  for (int h = 0; h < 4; ++h) sinks[h] = h - 1.5f;
  const auto says = [&](int s, int h) {
    gradient_oracle g;
    g.visible = [shift = shape.keys[s] - shape.queries[s]](int i, int j) { return j <= i + shift; };
    g.sink = sinks[h];
    return g;
  };
  const gradient_problem<op> p(d, shape, says, generator, true, 1.4426950408889634);
  p.run(
      seed,
      [&](auto& x) {
        x.weights = {sinks.data(), 4};
        x.d_sink = d_sinks.data();
      },
      [&](const auto&) {
        REQUIRE(d_sinks.guarded());
        for (int h = 0; h < 4; ++h) {
          CAPTURE(seed, h, d_sinks[h], p.d_sink[h], p.sink_bound[h]);
          REQUIRE(std::abs(d_sinks[h] - p.d_sink[h]) <= p.sink_bound[h] + 1e-6);
        }
      });
}

// HSTU: silu(z) / N, no row statistics; and linear weights.
TEST_CASE("attention's gradients of pointwise weights", "[ops][attention]") {
  std::mt19937 generator(seed);
  const gradient_shape shape{{33, 0, 70}, {33, 9, 75}, 2, 1, rows_layout::ragged};
  const float inverse_n = 1.0f / 64;
  const auto causal = [&](int s) { return [shift = shape.keys[s] - shape.queries[s]](int i, int j) { return j <= i + shift; }; };
  const auto silu = [=](double z) { return z / (1 + std::exp(-z)) * inverse_n; };
  const auto silu_slope = [=](double z) { return 1 / (1 + std::exp(-z)) * (1 + z * (1 - 1 / (1 + std::exp(-z)))) * inverse_n; };
  {
    using op = attention::flash_backward<bf16, d, policy::causal, with_silu>;
    const auto says = [&](int s, int) {
      gradient_oracle g;
      g.visible = causal(s), g.weight = silu, g.weight_slope = silu_slope;
      return g;
    };
    gradient_problem<op>(d, shape, says, generator).run(seed, [&](auto& x) { x.weights.inverse_n = inverse_n, x.d_lse = {}; });
  }
  {
    using op = attention::flash_backward<bf16, d, policy::causal, own_linear>;
    const auto says = [&](int s, int) {
      gradient_oracle g;
      g.visible = causal(s);
      g.weight = [=](double z) { return z * inverse_n; }, g.weight_slope = [=](double) { return double(inverse_n); };
      g.logit = [](double x, int, int) { return x / (1 + std::abs(x) / 2); };
      g.slope = [](double x, int, int) { return 1 / std::pow(1 + std::abs(x) / 2, 2); };
      return g;
    };
    gradient_problem<op>(d, shape, says, generator).run(seed, [&](auto& x) { x.weights.inverse_n = inverse_n, x.d_lse = {}, x.logits.reach = 2; });
  }
}
