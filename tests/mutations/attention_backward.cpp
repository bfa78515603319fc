// Gradients of attention on small tiles against the oracle's: heads that share keys, ragged sequences with and without
// keys, chunks and parts of channels, biases, caps, sinks, pointwise weights, and what is refused.
#include <random>

#include <smalti/ops/attention/backward.hpp>

#include "battery.hpp"
#include "reference/attention.hpp"

using namespace smalti;
using namespace battery;

namespace {

constexpr int d = 64, heads = 4, kv_heads = 2;

struct small_tiles {
  constexpr attention::backward_tuning operator()(target, attention::backward_kernel kernel) const {
    if (kernel == attention::backward_kernel::queries) return {.m = 16, .n = 32, .chunk = 32, .held = false, .channels = 32};
    return {.m = 32, .n = 16, .chunk = 32};
  }
};
struct in_bits : attention::backward_options {
  using lse = policy::lse_2<float>;
};
struct with_bias : in_bits {
  static constexpr bool bias_gradient = true;
  using gradient = float;
  using o = float;
  using score = policy::chain<policy::additive_bias<float>, policy::soft_cap>;
};
struct with_sink : in_bits {
  using normalizer = policy::softmax_with_sink;
};
struct with_silu : in_bits {
  using normalizer = policy::silu_weights;
};
struct with_distances : in_bits {
  using score = policy::relative_bias<>;
};

struct lengths {
  std::vector<int> queries, keys;
  bool ragged = false;
};

// [row][head][channel], the sequences behind one another.
template <class T> struct tensor {
  memory<T> at;
  attention::head_rows<T> rows;
  tensor(const std::vector<int>& n, int heads, int cols, bool ragged, const std::int32_t* offsets, unsigned seed)
      : at(std::size_t(total(n)) * heads * cols), rows{at.data(), int(n.size()), heads, 0, cols, 0, cols, heads * cols, ragged ? offsets : nullptr} {
    for (int x : n) rows.rows = std::max(rows.rows, x);
    if (!ragged) rows.sequence_stride = static_cast<long long>(rows.rows) * heads * cols;
    std::minstd_rand generator(seed + 1);
    if (seed != 0)
      for (std::size_t i = 0; i < std::size_t(total(n)) * heads * cols; ++i) at[i] = element<T>((int(generator() >> 8) % 9 - 3) * 0.25);
  }
  static int total(const std::vector<int>& n) {
    int sum = 0;
    for (int x : n) sum += x;
    return sum;
  }
  double get(int s, int h, int i, int c) const { return value(rows.begin(s, h)[static_cast<long long>(i) * rows.row_stride + c]); }
  attention::head_rows<const T> read() const {
    return {rows.data, rows.sequences, rows.heads, rows.rows, rows.cols, rows.sequence_stride, rows.head_stride, rows.row_stride, rows.offsets};
  }
};
std::vector<std::int32_t> offsets_of(const std::vector<int>& n) {
  std::vector<std::int32_t> a(1, 0);
  for (int x : n) a.push_back(a.back() + x);
  return a;
}

struct told {
  std::function<double(double, int, int)> logit = [](double s, int, int) { return s; }, slope = [](double, int, int) { return 1.0; };
  double sink = oracle::minus_infinity;
  std::function<double(double)> weight, weight_slope;
};

// Everything that Op gives, causal with the last query at the last key. Operands are small: errors are those of bf16.
template <class Op, class Set> void compare(const lengths& n, told (*of)(int head), bool with_d_lse, Set set) {
  const auto query_offsets = offsets_of(n.queries), key_offsets = offsets_of(n.keys);
  const int sequences = int(n.queries.size());
  const auto rows = [&](int heads, auto zero, unsigned seed) { return tensor<decltype(zero)>(n.queries, heads, d, n.ragged, query_offsets.data(), seed); };
  const auto columns = [&](int heads, auto zero, unsigned seed) { return tensor<decltype(zero)>(n.keys, heads, d, n.ragged, key_offsets.data(), seed); };
  using G = typename Op::gradient_element;
  const auto q = rows(heads, bf16{}, 31), d_o = rows(heads, bf16{}, 32);
  const auto k = columns(kv_heads, bf16{}, 33), v = columns(kv_heads, bf16{}, 34);
  auto o = rows(heads, typename Op::o_element{}, 0);
  tensor<float> lse(n.queries, heads, 1, n.ragged, query_offsets.data(), 0), d_lse(n.queries, heads, 1, n.ragged, query_offsets.data(), with_d_lse ? 35 : 0);
  std::vector<oracle::attention_gradients> want;
  for (int s = 0; s < sequences; ++s)
    for (int h = 0; h < heads; ++h) {
      const told t = of(h);
      oracle::attention_problem p;
      p.queries = n.queries[s], p.keys = n.keys[s], p.d = d, p.dv = d, p.scale = 0.125, p.logit = t.logit, p.slope = t.slope;
      p.visible = [shift = p.keys - p.queries](int i, int j) { return j <= i + shift; };
      p.normalize = t.weight ? oracle::pointwise(t.weight) : oracle::softmax(t.sink);
      std::vector<double> cotangent, lse_cotangent;
      for (int i = 0; i < p.queries; ++i) {
        for (int c = 0; c < d; ++c) p.q.push_back(q.get(s, h, i, c)), cotangent.push_back(d_o.get(s, h, i, c));
        lse_cotangent.push_back(with_d_lse ? d_lse.get(s, h, i, 0) : 0);
      }
      for (int j = 0; j < p.keys; ++j)
        for (int c = 0; c < d; ++c) p.k.push_back(k.get(s, h / 2, j, c)), p.v.push_back(v.get(s, h / 2, j, c));
      const auto forward = oracle::attention(p);
      for (int i = 0; i < p.queries; ++i) {
        for (int c = 0; c < d; ++c) o.rows.begin(s, h)[static_cast<long long>(i) * o.rows.row_stride + c] = element<typename Op::o_element>(forward.o[std::size_t(i) * d + c]);
        lse.rows.begin(s, h)[static_cast<long long>(i) * lse.rows.row_stride] = float(forward.lse[i] * 1.4426950408889634);
      }
      want.push_back(t.weight ? oracle::pointwise_gradients(p, t.weight, t.weight_slope, cotangent) : oracle::softmax_gradients(p, cotangent, lse_cotangent, t.sink));
    }
  for (const host_context& context : contexts()) {
    auto dq = rows(heads, G{}, 0);
    auto dk = columns(kv_heads, G{}, 0), dv = columns(kv_heads, G{}, 0);
    memory<float> sinks(heads);
    typename Op::args x;
    x.q = q.read(), x.k = k.read(), x.v = v.read(), x.o = o.read(), x.d_o = d_o.read(), x.lse = lse.read(), x.dq = dq.rows, x.dk = dk.rows, x.dv = dv.rows, x.scale = 0.125f;
    if (with_d_lse) x.d_lse = d_lse.read();
    set(x, sinks.data());
    const auto on = with_tuning<small_tiles>(context);
    memory<std::byte> work(Op::workspace_bytes(on, x) + 256);
    poison_stack();
    const status st = Op::run(on, x, {work.data(), work.bytes()});
    expect(st.code == errc::ok, st.what);
    expect(work.intact() && dq.at.intact() && dk.at.intact() && dv.at.intact() && sinks.intact(), "gradients stay inside");
    const auto near = [](double got, double right, const char* what) { expect(std::abs(got - right) <= 0.03 + 0.02 * std::abs(right), what); };
    std::vector<double> sink(heads, 0.0);
    for (int s = 0; s < sequences; ++s)
      for (int h = 0; h < heads; ++h) {
        const auto& w = want[s * heads + h];
        sink[h] += w.dsink;
        for (int i = 0; i < n.queries[s]; ++i)
          for (int c = 0; c < d; ++c) near(dq.get(s, h, i, c), w.dq[std::size_t(i) * d + c], "the gradient of queries");
        if (h % 2 == 0)
          for (int j = 0; j < n.keys[s]; ++j)
            for (int c = 0; c < d; ++c) {
              const auto& other = want[s * heads + h + 1];
              near(dk.get(s, h / 2, j, c), w.dk[std::size_t(j) * d + c] + other.dk[std::size_t(j) * d + c], "the gradient of keys");
              near(dv.get(s, h / 2, j, c), w.dv[std::size_t(j) * d + c] + other.dv[std::size_t(j) * d + c], "the gradient of values");
            }
      }
    if constexpr (Op::has_sink)
      for (int h = 0; h < heads; ++h) near(sinks[h], sink[h], "the gradient of a sink");
    if constexpr (requires { x.logits.first; })
      for (int i = 0; i < n.queries[0]; ++i)
        for (int j = 0; j < n.keys[0]; ++j) {
          double sum = 0;
          for (const auto& w : want) sum += w.ds[std::size_t(i) * n.keys[0] + j];
          near(x.d_bias.data[i * x.d_bias.row_stride + j], sum, "the gradient of a bias");
        }
  }
}

void shared_keys() {
  using op = attention::flash_backward<bf16, d, policy::causal, in_bits>;
  const auto plain = [](int) { return told{}; };
  compare<op>({{37, 37}, {50, 50}}, plain, true, [](auto&, float*) {});
  compare<op>({{40}, {18}}, plain, false, [](auto&, float*) {});                   // the first rows see nothing
}
void ragged_runs() {
  using op = attention::flash_backward<bf16, d, policy::causal, with_sink>;
  static float logits[heads] = {0.5f, -1, 1, 2};
  const auto sunk = [](int h) {
    told t;
    t.sink = logits[h];
    return t;
  };
  compare<op>({{20, 0, 33, 21}, {25, 3, 33, 0}, true}, sunk, true, [](auto& x, float* d_sink) { x.weights = {logits, heads}, x.d_sink = d_sink, x.query_rows = 74; });
}
void biases() {
  using op = attention::flash_backward<bf16, d, policy::causal, with_bias>;
  static float bias[21][36], d_bias[21][36];
  for (int i = 0; i < 21; ++i)
    for (int j = 0; j < 36; ++j) bias[i][j] = float((i * 5 + j * 3) % 7) * 0.5f - 1.5f;
  const auto capped = [](int) {
    told t;
    t.logit = [](double x, int i, int j) { return 2 * std::tanh((x + bias[i][j]) / 2); };
    t.slope = [](double x, int i, int j) { return 1 - std::pow(std::tanh((x + bias[i][j]) / 2), 2); };
    return t;
  };
  compare<op>({{21, 21}, {33, 33}}, capped, false, [](auto& x, float*) {
    x.logits = {{&bias[0][0], 21, 33, 36}, {{2.0f}, {}}};
    x.d_bias = {&d_bias[0][0], 1, 1, 21, 36, 0, 0, 36, nullptr};
  });
}
void pointwise() {
  using op = attention::flash_backward<bf16, d, policy::causal, with_silu>;
  const auto silu = [](int) {
    told t;
    t.weight = [](double z) { return z / (1 + std::exp(-z)) / 8; };
    t.weight_slope = [](double z) { return 1 / (1 + std::exp(-z)) * (1 + z * (1 - 1 / (1 + std::exp(-z)))) / 8; };
    return t;
  };
  compare<op>({{37}, {37}}, silu, false, [](auto& x, float*) { x.weights.inverse_n = 0.125f; });
}
// A row whose log-sum-exp is -infinity takes no part, though the mask shows it keys; rows that only fill a tile take none
// either, though a bias would give them weights beyond fp16.
void rows_that_weigh_nothing() {
  using op = attention::flash_backward<fp16, d, policy::full, with_distances>;
  const std::vector<int> n{20};
  const tensor<fp16> q(n, 1, d, false, nullptr, 41), k(n, 1, d, false, nullptr, 42), v(n, 1, d, false, nullptr, 43), d_o(n, 1, d, false, nullptr, 44), o(n, 1, d, false, nullptr, 45);
  tensor<float> lse(n, 1, 1, false, nullptr, 0);
  for (int i = 0; i < 20; ++i) lse.at[i] = i == 7 ? -INFINITY : 60;
  float table[1] = {15};
  for (const host_context& context : contexts()) {
    tensor<fp16> dq(n, 1, d, false, nullptr, 0), dk(n, 1, d, false, nullptr, 0), dv(n, 1, d, false, nullptr, 0);
    op::args x;
    x.q = q.read(), x.k = k.read(), x.v = v.read(), x.o = o.read(), x.d_o = d_o.read(), x.lse = lse.read(), x.dq = dq.rows, x.dk = dk.rows, x.dv = dv.rows;
    x.scale = 0.125f, x.logits = {table, 1, 0};
    memory<std::byte> work(op::workspace_bytes(context, x) + 256);
    expect(op::run(context, x, {work.data(), work.bytes()}).code == errc::ok, "a good call is refused");
    for (int i = 0; i < 20; ++i)
      for (int c = 0; c < d; ++c) {
        expect(std::isfinite(dk.get(0, 0, i, c)) && std::isfinite(dv.get(0, 0, i, c)), "rows that fill a tile have a weight");
        expect(i == 7 ? dq.get(0, 0, i, c) == 0 : std::isfinite(dq.get(0, 0, i, c)), "a row without keys has a gradient");
      }
  }
}
void refusals() {
  using op = attention::flash_backward<bf16, d, policy::causal, in_bits>;
  memory<bf16> m(16 * 4096);
  memory<float> f(256);
  const auto args = [&] {
    op::args x;
    const auto at = [&](int n) { return m.data() + n * 4096; };
    x.q = attention::bshd<const bf16>(at(0), 1, 4, 4, d), x.o = attention::bshd<const bf16>(at(1), 1, 4, 4, d), x.d_o = attention::bshd<const bf16>(at(2), 1, 4, 4, d);
    x.k = attention::bshd<const bf16>(at(3), 1, 4, 4, d), x.v = attention::bshd<const bf16>(at(4), 1, 4, 4, d), x.lse = attention::bshd<const float>(f.data(), 1, 4, 4, 1);
    x.dq = attention::bshd(at(5), 1, 4, 4, d), x.dk = attention::bshd(at(6), 1, 4, 4, d), x.dv = attention::bshd(at(7), 1, 4, 4, d), x.scale = 1;
    return x;
  };
  const auto code = [&](auto spoil) {
    auto x = args();
    spoil(x);
    return op::check(host_context{1}, x).code;
  };
  expect(code([](auto&) {}) == errc::ok, "a good call is refused");
  expect(code([](auto& x) { x.scale = -1; }) == errc::bad_value, "a negative scale");
}

}  // namespace

namespace battery {
std::vector<check> attention_backward_checks() {
  return {{"gradients with shared keys", shared_keys}, {"gradients of ragged runs", ragged_runs}, {"gradients of biases", biases},
          {"gradients of pointwise weights", pointwise}, {"gradients of rows that weigh nothing", rows_that_weigh_nothing}, {"refusals of gradients", refusals}};
}
}  // namespace battery
