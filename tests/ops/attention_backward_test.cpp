// attention::flash_backward against the oracle's gradients: masks, layouts, head dims, types, ragged batches with empty
// sequences, poison between rows; the order of blocks leaves no trace; finite differences of the forward pass.
#include "attention_backward_problem.hpp"

using namespace smalti;
using test::gradient_oracle;
using test::gradient_problem;
using test::gradient_shape;
using test::rows_layout;

// [gradients]
// dq, dk and dv of causal attention with a capped score; two query heads share a head of keys.
struct capped : attention::backward_options {
  using score = policy::soft_cap;
};
template <class Context>
status gradients(const Context& context, const bf16* q, const bf16* k, const bf16* v, const bf16* o, const bf16* d_o, const float* lse, bf16* dq, bf16* dk, bf16* dv,
                 int sequences, int tokens, int heads, workspace memory) {
  using op = attention::flash_backward<bf16, 64, policy::causal, capped>;
  using attention::bshd;   // [sequence][token][head][channel]
  const typename op::args x{
      .q = bshd(q, sequences, tokens, heads, 64),
      .k = bshd(k, sequences, tokens, heads / 2, 64),
      .v = bshd(v, sequences, tokens, heads / 2, 64),
      .o = bshd(o, sequences, tokens, heads, 64),
      .d_o = bshd(d_o, sequences, tokens, heads, 64),
      .lse = bshd(lse, sequences, tokens, heads, 1),   // base e, as the forward pass left it
      .dq = bshd(dq, sequences, tokens, heads, 64),
      .dk = bshd(dk, sequences, tokens, heads / 2, 64),
      .dv = bshd(dv, sequences, tokens, heads / 2, 64),
      .logits = {.cap = 30},
  };
  return op::run(context, x, memory);   // memory: op::workspace_bytes(context, x)
}
// [gradients]

namespace {

constexpr unsigned seed = 5;

struct to_float_options : attention::backward_options {
  using gradient = float;
  using o = float;
};

struct narrow_values : attention::backward_options {
  static constexpr int value_dim = 40;
};

//! The oracle's causal mask, the last query lined up with the last key.
auto causal_of(const gradient_shape& shape) {
  return [shape](int s, int) {
    gradient_oracle g;
    g.visible = [shift = shape.keys[s] - shape.queries[s]](int i, int j) { return j <= i + shift; };
    return g;
  };
}
auto full_of() {
  return [](int, int) { return gradient_oracle{}; };
}

template <class Op> void causal_case(int d, const gradient_shape& shape, std::mt19937& generator, bool with_d_lse = false) {
  CAPTURE(seed, d, shape.queries, shape.keys, shape.heads, shape.kv_heads, int(shape.layout));
  gradient_problem<Op>(d, shape, causal_of(shape), generator, with_d_lse).run(seed, [](auto&) {});
}

}  // namespace

TEST_CASE("attention's gradients match the oracle", "[ops][attention]") {
  std::mt19937 generator(seed);
  using op = attention::flash_backward<bf16, 64>;
  for (auto [queries, keys] : {std::pair{1, 1}, {63, 65}, {64, 64}, {65, 130}, {131, 131}, {1, 77}, {90, 40}})
    causal_case<op>(64, {{queries}, {keys}, 2, 2}, generator);
  causal_case<op>(64, {{70, 70}, {100, 100}, 4, 2, rows_layout::bhsd}, generator, true);
  causal_case<op>(64, {{70, 70}, {100, 100}, 6, 1, rows_layout::bshd}, generator, true);
  using whole = attention::flash_backward<bf16, 64, policy::full>;
  for (auto [queries, keys] : {std::pair{1, 1}, {63, 65}, {130, 67}})
    gradient_problem<whole>(64, {{queries, queries}, {keys, keys}, 2, 1}, full_of(), generator).run(seed, [](auto&) {});
}

TEST_CASE("attention's gradients of ragged batches", "[ops][attention]") {
  std::mt19937 generator(seed);
  using op = attention::flash_backward<bf16, 64>;
  for (const gradient_shape& shape : {gradient_shape{{33, 0, 70, 5, 1}, {33, 12, 64, 0, 300}, 2, 1, rows_layout::ragged},
                                      gradient_shape{{0, 0}, {4, 0}, 2, 2, rows_layout::ragged}, gradient_shape{{257, 3, 255}, {20, 257, 100}, 1, 1, rows_layout::ragged}}) {
    CAPTURE(seed, shape.queries, shape.keys);
    const gradient_problem<op> p(64, shape, causal_of(shape), generator, true);
    p.run(seed, [](auto&) {});
    const int total = test::rows_memory<bf16>::total(shape.queries);
    p.run(seed, [&](auto& x) { x.query_rows = total; });
  }
  gradient_shape nothing{{}, {}, 2, 2, rows_layout::ragged};
  gradient_problem<op>(64, nothing, causal_of(nothing), generator).run(seed, [](auto&) {});
}

TEST_CASE("attention's gradients for head dims that are sums of chunks", "[ops][attention]") {
  std::mt19937 generator(seed);
  const gradient_shape shape{{40, 40}, {75, 75}, 2, 1};
  causal_case<attention::flash_backward<bf16, 8>>(8, shape, generator);
  causal_case<attention::flash_backward<bf16, 96>>(96, shape, generator);
  causal_case<attention::flash_backward<bf16, 256>>(256, shape, generator);
  causal_case<attention::flash_backward<bf16, 136, policy::causal, narrow_values>>(136, shape, generator, true);
}

TEST_CASE("attention's gradients of fp16, in float", "[ops][attention]") {
  std::mt19937 generator(seed);
  const gradient_shape shape{{70, 70}, {90, 90}, 2, 2};
  causal_case<attention::flash_backward<fp16, 64>>(64, shape, generator, true);
  causal_case<attention::flash_backward<fp16, 64, policy::causal, to_float_options>>(64, shape, generator, true);
}

// Chunks of channels as on a GPU, results split over blocks, dv and dk apart.
namespace {
struct in_pieces {
  constexpr attention::backward_tuning operator()(target, attention::backward_kernel) const {
    return {.m = 32, .n = 32, .chunk = 64, .held = false, .separate = true, .channels = 32};
  }
};
struct in_chunks {
  constexpr attention::backward_tuning operator()(target, attention::backward_kernel) const { return {.m = 32, .n = 64, .chunk = 64}; }
};
}  // namespace

TEST_CASE("attention's gradients do not depend on how the work is cut", "[ops][attention]") {
#if !defined(__CUDACC__)
  std::mt19937 generator(seed);
  using op = attention::flash_backward<bf16, 96>;
  const gradient_shape shape{{70}, {90}, 2, 1};
  const gradient_problem<op> p(96, shape, causal_of(shape), generator, true);
  const auto with = [&](const auto& context) {
    test::rows_memory<bf16> q(shape, shape.queries, 2, 96, nullptr, 8), k(shape, shape.keys, 1, 96, nullptr, 8), v(shape, shape.keys, 1, 96, nullptr, 8);
    auto x = p.arguments(q, k, v);
    test::scratch memory(op::workspace_bytes(context, x));
    REQUIRE(op::run(context, x, memory.get()).code == errc::ok);
    gradient_problem<op>::compare("dq", q, shape.queries, 2, 96, p.dq, p.dq_bound);
    gradient_problem<op>::compare("dk", k, shape.keys, 1, 96, p.dk, p.dk_bound);
    gradient_problem<op>::compare("dv", v, shape.keys, 1, 96, p.dv_, p.dv_bound);
  };
  with(with_tuning<in_pieces>(host_context{2}));
  with(with_tuning<in_chunks>(host_context{1, seed}));
#endif
}

// The loss sum o . do + sum lse . dlse of a small problem, nudged: no formula for a gradient on either side.
TEST_CASE("attention's gradients are slopes of its loss", "[ops][attention]") {
  std::mt19937 generator(seed);
  using op = attention::flash_backward<fp16, 8, policy::causal, to_float_options>;
  const gradient_shape shape{{5}, {7}, 1, 1};
  const gradient_problem<op> p(8, shape, causal_of(shape), generator, true);
  oracle::attention_problem forward;
  forward.queries = 5, forward.keys = 7, forward.d = 8, forward.dv = 8;
  std::vector<double> d_o, d_lse;
  for (int i = 0; i < 5; ++i)
    for (int c = 0; c < 8; ++c) forward.q.push_back(test::value(p.q.row(0, 0, i)[c])), d_o.push_back(test::value(p.d_o.row(0, 0, i)[c]));
  for (int i = 0; i < 5; ++i) d_lse.push_back(test::value(p.d_lse.row(0, 0, i)[0]));
  for (int j = 0; j < 7; ++j)
    for (int c = 0; c < 8; ++c) forward.k.push_back(test::value(p.k.row(0, 0, j)[c])), forward.v.push_back(test::value(p.v.row(0, 0, j)[c]));
  forward.scale = p.scale;
  forward.visible = [](int i, int j) { return j <= i + 2; };
  const auto loss = [&] { return oracle::attention_loss(forward, d_o, d_lse); };
  test::for_each_context(seed, [&](const auto& context) {
    test::rows_memory<float> q(shape, shape.queries, 1, 8, nullptr, 8), k(shape, shape.keys, 1, 8, nullptr, 8), v(shape, shape.keys, 1, 8, nullptr, 8);
    auto x = p.arguments(q, k, v);
    test::scratch memory(op::workspace_bytes(context, x));
    REQUIRE(op::run(context, x, memory.get()).code == errc::ok);
    test::wait(context);
    // weights and ds rounded to fp16: 2^-11 of sizes of a few units
    for (int c = 0; c < 8; ++c) {
      for (int i = 0; i < 5; ++i) REQUIRE(std::abs(oracle::central_difference(loss, &forward.q[i * 8 + c]) - q.row(0, 0, i)[c]) <= 0.02);
      for (int j = 0; j < 7; ++j) REQUIRE(std::abs(oracle::central_difference(loss, &forward.k[j * 8 + c]) - k.row(0, 0, j)[c]) <= 0.02);
      for (int j = 0; j < 7; ++j) REQUIRE(std::abs(oracle::central_difference(loss, &forward.v[j * 8 + c]) - v.row(0, 0, j)[c]) <= 0.02);
    }
  });
}

TEST_CASE("attention's gradients by the example of the page", "[ops][attention]") {
  std::mt19937 generator(seed);
  using op = attention::flash_backward<bf16, 64, policy::causal, capped>;
  const gradient_shape shape{{33, 33}, {33, 33}, 4, 2};
  const auto says = [](int, int) {
    gradient_oracle g;
    g.visible = [](int i, int j) { return j <= i; };
    g.logit = [](double x, int, int) { return 30 * std::tanh(x / 30); };
    g.slope = [](double x, int, int) { return 1 - std::pow(std::tanh(x / 30), 2); };
    return g;
  };
  const gradient_problem<op> p(64, shape, says, generator, false, 1, 0);
  test::for_each_context(seed, [&](const auto& context) {
    test::rows_memory<bf16> dq(shape, shape.queries, 4, 64, nullptr, 0), dk(shape, shape.keys, 2, 64, nullptr, 0), dv(shape, shape.keys, 2, 64, nullptr, 0);
    test::array<float> lse(2 * 33 * 4);
    for (int s = 0; s < 2; ++s)
      for (int i = 0; i < 33; ++i)
        for (int h = 0; h < 4; ++h) lse[(s * 33 + i) * 4 + h] = p.lse.row(s, h, i)[0];
    test::scratch memory(1 << 24);
    const status st = gradients(context, p.q.at.data, p.k.at.data, p.v.at.data, p.o.at.data, p.d_o.at.data, lse.data(), dq.at.data, dk.at.data, dv.at.data, 2, 33, 4, memory.get());
    REQUIRE(st.code == errc::ok);
    test::wait(context);
    gradient_problem<op>::compare("dq", dq, shape.queries, 4, 64, p.dq, p.dq_bound, 0);
    gradient_problem<op>::compare("dk", dk, shape.keys, 2, 64, p.dk, p.dk_bound, 0);
    gradient_problem<op>::compare("dv", dv, shape.keys, 2, 64, p.dv_, p.dv_bound, 0);
  });
}
