// moe::scatter_moe, mega_blocks and their backward against the definition, token by token, in double.
#include "../ops/quantized_problem.hpp"
#include <smalti/flow/flex_more.hpp>
#include <smalti/flow/moe.hpp>
#include <smalti/policy/formats.hpp>

using namespace smalti;
using namespace test;

namespace {

constexpr unsigned moe_seed = 20260902;

// An index of slots by expert as routing makes it, written down once more: stable, each expert at a multiple of `alignment`,
// or at e * masked.
struct routing {
  int tokens, choices, experts, limit = 0;
  array<std::int32_t> offsets, end, token_of_row, slot_of_row, row_of_slot;
  array<float> weight;
  std::vector<int> ids;
  routing(std::vector<int> chosen, int tokens, int choices, int experts, int alignment, int masked, std::mt19937& generator)
      : tokens(tokens), choices(choices), experts(experts), offsets(experts + 1), end(experts), token_of_row(rows(alignment, masked)), slot_of_row(rows(alignment, masked)), row_of_slot(std::size_t(tokens) * choices + 1),
        weight(std::size_t(tokens) * choices + 1), ids(std::move(chosen)) {
    limit = int(token_of_row.size());
    for (int r = 0; r < limit; ++r) token_of_row[r] = 0, slot_of_row[r] = -1;
    int next = 0;
    for (int e = 0; e < experts; ++e) {
      offsets[e] = next = masked > 0 ? e * masked : (next + alignment - 1) / alignment * alignment;
      for (int s = 0; s < tokens * choices; ++s)
        if (ids[s] == e) token_of_row[next] = s / choices, slot_of_row[next] = s, row_of_slot[s] = next++;
      end[e] = next;
    }
    offsets[experts] = masked > 0 ? experts * masked : next;
    for (int s = 0; s < tokens * choices; ++s) {
      if (ids[s] < 0 || ids[s] >= experts) row_of_slot[s] = -1;
      weight[s] = float(1 + generator() % 100) / 128;
    }
  }
  std::size_t rows(int alignment, int masked) const { return std::size_t(masked > 0 ? experts * masked : tokens * choices + experts * (alignment - 1) + 1); }
  policy::route_index index() const {
    return {.rows = {offsets.data(), experts}, .end = end.data(), .token_of_row = token_of_row.data(), .slot_of_row = slot_of_row.data(), .row_of_slot = row_of_slot.data(), .weight_of_slot = weight.data(), .tokens = tokens,
            .choices = choices, .row_limit = limit};
  }
};

// `skew` 0: uniform; 1: all first choices go to expert 1; -1 stands for a dropped choice, `experts` for an identity expert.
std::vector<int> choose(int tokens, int choices, int experts, int skew, std::mt19937& generator) {
  std::vector<int> ids(std::size_t(tokens) * choices);
  for (int t = 0; t < tokens; ++t)
    for (int j = 0; j < choices; ++j) {
      int e;
      do e = skew == 1 && j == 0 ? 1 : int(generator() % (experts + 1)); while (std::find(ids.begin() + t * choices, ids.begin() + t * choices + j, e) != ids.begin() + t * choices + j);
      ids[std::size_t(t) * choices + j] = generator() % 13 == 0 ? -1 : e;
    }
  return ids;
}

// The definition: values and how far a machine with 16-bit values between the products may be from them.
struct expert_weights {
  int inner, wide;
  std::vector<double> gate, up, down, gate_size, up_size, down_size;      // experts x I x H, and x H x I
};
double f(double z) { return z / (1 + std::exp(-z)); }
double slope(double z) {
  const double s = 1 / (1 + std::exp(-z));
  return s * (1 + z * (1 - s));
}
constexpr double half = 0x1p-8, single = 0x1p-24;      // roundings to bf16 and float

// One slot: the sums of both first products and h, with their errors. `fused`: h alone is rounded to bf16.
struct slot_values {
  std::vector<double> gate, up, h, gate_error, up_error, h_error;
  slot_values(const double* x, const expert_weights& w, int e, bool fused, int rank = 0) : gate(w.inner), up(w.inner), h(w.inner), gate_error(w.inner), up_error(w.inner), h_error(w.inner) {
    for (int i = 0; i < w.inner; ++i) {
      double gs = 0, us = 0;
      for (int c = 0; c < w.wide; ++c) {
        const std::size_t at = (std::size_t(e) * w.inner + i) * w.wide + c;
        gate[i] += x[c] * w.gate[at], up[i] += x[c] * w.up[at], gs += std::abs(x[c]) * w.gate_size[at], us += std::abs(x[c]) * w.up_size[at];
      }
      gate_error[i] = (w.wide + rank + 12) * single * gs + (fused ? 0 : half * std::abs(gate[i]));
      up_error[i] = (w.wide + rank + 12) * single * us + (fused ? 0 : half * std::abs(up[i]));
      h[i] = f(gate[i]) * up[i];
      h_error[i] = 1.1 * gate_error[i] * (std::abs(up[i]) + up_error[i]) + std::abs(f(gate[i])) * up_error[i] + 0x1p-19 * std::abs(h[i]) + (fused ? half * std::abs(h[i]) * 1.01 : 0) + 0x1p-60;
    }
  }
};

template <class Experts, class Options, bool Copies>
void layer_case(const routing& r, const array<bf16>& x, const expert_weights& w, const typename Experts::weight& gate, const typename Experts::weight& up, const typename Experts::weight& down, const float* share, std::vector<float>* out = nullptr) {
  using op = std::conditional_t<Copies, moe::mega_blocks<Experts, policy::silu, float, Options>, moe::scatter_moe<Experts, policy::silu, float, Options>>;
  CAPTURE(moe_seed, r.tokens, r.choices, r.experts, r.limit, Copies);
  array<float> y(std::size_t(std::max(1, r.tokens)) * w.wide);
  std::vector<float> first;
  std::vector<double> real(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) real[i] = value(x[i]);
  for_each_context(moe_seed, [&](const auto& context) {
    std::memset(y.data(), 0xA5, y.size() * sizeof(float));
    typename op::args a{.x = {x.data(), r.tokens, w.wide, w.wide}, .index = r.index(), .gate = gate, .up = up, .down = down, .y = {y.data(), r.tokens, w.wide, w.wide}, .share = share};
    array<std::byte> memory(op::workspace_bytes(context, a));
    std::memset(memory.data(), 0xFF, memory.size());      // NaN wherever padding is not made or not skipped
    status st = op::check(context, a);
    CAPTURE(st.what, st.got, st.need);
    REQUIRE(st.code == errc::ok);
    st = op::run(context, a, {memory.data(), memory.size()});
    REQUIRE(st.code == errc::ok);
    wait(context);
    REQUIRE(y.guarded());
    REQUIRE(memory.guarded());
    if (!first.empty()) REQUIRE(std::memcmp(first.data(), y.data(), std::size_t(r.tokens) * w.wide * sizeof(float)) == 0);      // threads and the order of blocks change no bit
    first.assign(y.begin(), y.end());
  });
  for (int t = 0; t < r.tokens; ++t) {
    std::vector<double> want(w.wide), bound(w.wide);
    for (int j = 0; j < r.choices; ++j) {
      const int s = t * r.choices + j;
      if (r.row_of_slot[s] < 0) continue;
      const slot_values v(&real[std::size_t(t) * w.wide], w, r.ids[s], true);
      for (int c = 0; c < w.wide; ++c)
        for (int i = 0; i < w.inner; ++i) {
          const std::size_t at = (std::size_t(r.ids[s]) * w.wide + c) * w.inner + i;
          want[c] += r.weight[s] * w.down[at] * v.h[i];
          bound[c] += r.weight[s] * (std::abs(w.down[at]) * v.h_error[i] + (w.inner + r.choices + 14) * single * w.down_size[at] * std::abs(v.h[i]));
        }
    }
    for (int c = 0; c < w.wide; ++c) {
      if (share != nullptr) want[c] += share[t] * real[std::size_t(t) * w.wide + c];
      const double got = y[std::size_t(t) * w.wide + c], most = bound[c] + std::abs(want[c]) * 0x1p-22 + 1e-30;
      if (!(std::abs(got - want[c]) <= most)) {
        CAPTURE(t, c, want[c], got, most);
        REQUIRE(std::abs(got - want[c]) <= most);
      }
    }
  }
  if (out != nullptr) *out = first;
}

struct dense_weights {
  array<bf16> gate, up, down;
  expert_weights real;
  dense_weights(int experts, int inner, int wide, std::mt19937& generator)
      : gate(random_array<bf16>(std::size_t(experts) * inner * wide, generator, 0.2f)), up(random_array<bf16>(gate.size(), generator, 0.2f)), down(random_array<bf16>(gate.size(), generator, 0.2f)) {
    real.inner = inner, real.wide = wide;
    for (const auto& [from, to, size] : {std::tuple{&gate, &real.gate, &real.gate_size}, std::tuple{&up, &real.up, &real.up_size}, std::tuple{&down, &real.down, &real.down_size}})
      for (bf16 v : *from) to->push_back(value(v)), size->push_back(std::abs(value(v)));
  }
  stack<const bf16> in(const array<bf16>& a) const { return {a.data(), int(a.size() / (std::size_t(real.inner) * real.wide)), real.inner, real.wide, static_cast<long long>(real.inner) * real.wide, real.wide}; }
  stack<const bf16> out() const { return {down.data(), int(down.size() / (std::size_t(real.inner) * real.wide)), real.wide, real.inner, static_cast<long long>(real.inner) * real.wide, real.inner}; }
};
struct invariant : moe::options { static constexpr bool batch_invariant = true; };
using dense = moe::dense_experts<bf16>;

}  // namespace

TEST_CASE("moe: layers of dense experts, every layout", "[flow][moe]") {
  std::mt19937 generator(moe_seed);
  const int experts = 6, wide = 40, inner = 56;
  const dense_weights w(experts, inner, wide, generator);
  for (const auto& [tokens, skew] : {std::pair{37, 0}, std::pair{150, 1}, std::pair{1, 0}, std::pair{0, 0}}) {
    const array<bf16> x = random_array<bf16>(std::size_t(std::max(1, tokens)) * wide, generator);
    array<float> share(std::max(1, tokens));
    for (float& s : share) s = float(generator() % 8) / 8;
    const auto ids = choose(tokens, 2, experts, skew, generator);
    std::vector<float> results[4];
    int i = 0;
    for (const auto& [alignment, masked] : {std::pair{1, 0}, std::pair{16, 0}, std::pair{1, 150}}) {      // indirect, aligned, masked
      std::mt19937 same(moe_seed);
      const routing r(ids, tokens, 2, experts, alignment, masked, same);
      layer_case<dense, invariant, false>(r, x, w.real, w.in(w.gate), w.in(w.up), w.out(), share.data(), &results[i++]);
      if (masked == 0 && alignment > 1) layer_case<dense, invariant, true>(r, x, w.real, w.in(w.gate), w.in(w.up), w.out(), share.data(), &results[i++]);
    }
    for (int k = 1; k < 4; ++k)      // a layout is no more than a layout
      REQUIRE(std::memcmp(results[0].data(), results[k].data(), std::size_t(tokens) * wide * sizeof(float)) == 0);
  }
}

TEST_CASE("moe: a token's bits do not depend on the others", "[flow][moe]") {
  std::mt19937 generator(moe_seed);
  const int experts = 5, wide = 40, inner = 56, tokens = 90;
  const dense_weights w(experts, inner, wide, generator);
  const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator);
  const auto ids = choose(tokens, 2, experts, 0, generator);
  std::mt19937 same(moe_seed);
  const routing whole(ids, tokens, 2, experts, 1, 0, same);
  std::vector<float> all, some;
  layer_case<dense, invariant, false>(whole, x, w.real, w.in(w.gate), w.in(w.up), w.out(), nullptr, &all);
  same.seed(moe_seed);
  const routing few(std::vector<int>(ids.begin(), ids.begin() + 2 * 7), 7, 2, experts, 1, 0, same);
  layer_case<dense, invariant, false>(few, x, w.real, w.in(w.gate), w.in(w.up), w.out(), nullptr, &some);
  REQUIRE(std::memcmp(all.data(), some.data(), std::size_t(7) * wide * sizeof(float)) == 0);
}

TEST_CASE("moe: experts that are slices of one layer make the whole of it", "[flow][moe]") {
  std::mt19937 generator(moe_seed);
  const int experts = 4, wide = 40, inner = 32, tokens = 9;      // of a shared layer 128 wide
  const array<bf16> gate = random_array<bf16>(std::size_t(experts) * inner * wide, generator, 0.2f), up = random_array<bf16>(gate.size(), generator, 0.2f), down = random_array<bf16>(gate.size(), generator, 0.2f);
  expert_weights real{inner, wide, {}, {}, {}, {}, {}, {}};
  for (std::size_t i = 0; i < gate.size(); ++i) {
    real.gate.push_back(value(gate[i])), real.up.push_back(value(up[i]));
    const std::size_t e = i / (std::size_t(inner) * wide), c = i / inner % wide, p = i % inner;
    real.down.push_back(value(down[c * experts * inner + e * inner + p]));
  }
  for (const auto& [from, to] : {std::pair{&real.gate, &real.gate_size}, std::pair{&real.up, &real.up_size}, std::pair{&real.down, &real.down_size}})
    for (double v : *from) to->push_back(std::abs(v));
  const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator);
  const routing r(choose(tokens, 3, experts, 0, generator), tokens, 3, experts, 1, 0, generator);
  const view<const bf16> g{gate.data(), experts * inner, wide, wide}, u{up.data(), experts * inner, wide, wide}, d{down.data(), wide, experts * inner, experts * inner};
  layer_case<dense, moe::options, false>(r, x, real, moe::row_slices(g, experts), moe::row_slices(u, experts), moe::column_slices(d, experts), nullptr);
}

TEST_CASE("moe: quantized experts", "[flow][moe]") {
  using format = policy::int4_affine<64>;
  using experts_of = moe::quantized_experts<format>;
  std::mt19937 generator(moe_seed);
  const int experts = 4, wide = 64, inner = 96, tokens = 21;
  std::vector<neutral<format>> gate, up, down;
  expert_weights real{inner, wide, {}, {}, {}, {}, {}, {}};
  for (int e = 0; e < experts; ++e) gate.emplace_back(inner, wide, generator), up.emplace_back(inner, wide, generator), down.emplace_back(wide, inner, generator);
  for (const auto& [from, to, size] : {std::tuple{&gate, &real.gate, &real.gate_size}, std::tuple{&up, &real.up, &real.up_size}, std::tuple{&down, &real.down, &real.down_size}})
    for (const auto& n : *from)
      for (int j = 0; j < n.meaning.n; ++j)
        for (int c = 0; c < n.meaning.k; ++c) {
          const auto p = n.meaning.at(j, c, c);
          to->push_back(p.value), size->push_back(p.size);
        }
  packed<format, bf16> g(gate), u(up), d(down);
  const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator);
  const routing r(choose(tokens, 2, experts, 0, generator), tokens, 2, experts, 8, 0, generator);
  layer_case<experts_of, moe::options, false>(r, x, real, g.w, u.w, d.w, nullptr);
}

// Rows and hidden values are quantized to 8 bits: half a step of the group's largest magnitude over 127, each time.
TEST_CASE("moe: experts on the 8-bit dot", "[flow][moe]") {
  using format = policy::q4_0;
  using op = moe::scatter_moe<moe::integer_experts<format>, policy::silu, float>;
  std::mt19937 generator(moe_seed);
  const int experts = 4, wide = 64, inner = 96, tokens = 9;
  std::vector<neutral<format>> gate, up, down;
  for (int e = 0; e < experts; ++e) gate.emplace_back(inner, wide, generator, drawing{.smallest = 0.02f, .largest = 0.04f}), up.emplace_back(inner, wide, generator, drawing{.smallest = 0.02f, .largest = 0.04f}), down.emplace_back(wide, inner, generator);
  packed<format, std::int8_t> g(gate), u(up), d(down);
  const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator);
  const routing r(choose(tokens, 2, experts, 0, generator), tokens, 2, experts, 1, 0, generator);
  array<float> y(std::size_t(tokens) * wide);
  const auto steps = [](const std::vector<double>& v, const std::vector<double>& error) {      // half a step of each value
    std::vector<double> half_step(v.size());
    for (std::size_t first = 0; first < v.size(); first += 32) {
      double most = 0;
      for (std::size_t i = first; i < first + 32; ++i) most = std::max(most, std::abs(v[i]) + error[i]);
      for (std::size_t i = first; i < first + 32; ++i) half_step[i] = most / 127 * 0.5001;
    }
    return half_step;
  };
  for_each_context(moe_seed, [&](const auto& context) {
    op::args a{.x = {x.data(), tokens, wide, wide}, .index = r.index(), .gate = g.w, .up = u.w, .down = d.w, .y = {y.data(), tokens, wide, wide}};
    array<std::byte> memory(op::workspace_bytes(context, a));
    std::memset(memory.data(), 0, memory.size());
    const status st = op::run(context, a, {memory.data(), memory.size()});
    CAPTURE(st.what, st.got, st.need);
    REQUIRE(st.code == errc::ok);
    wait(context);
    REQUIRE(memory.guarded());
  });
  for (int t = 0; t < tokens; ++t) {
    std::vector<double> want(wide), bound(wide), token(wide);
    for (int c = 0; c < wide; ++c) token[c] = value(x[std::size_t(t) * wide + c]);
    const auto x_step = steps(token, std::vector<double>(wide));
    for (int s = 2 * t; s < 2 * t + 2; ++s) {
      if (r.row_of_slot[s] < 0) continue;
      const int e = r.ids[s];
      std::vector<double> h(inner), h_error(inner);
      for (int i = 0; i < inner; ++i) {
        double sum = 0, other = 0, sum_error = 0, other_error = 0;
        for (int c = 0; c < wide; ++c) {
          const double wg = gate[e].meaning.at(i, c, c).value, wu = up[e].meaning.at(i, c, c).value;
          sum += token[c] * wg, other += token[c] * wu;
          sum_error += (x_step[c] + 0x1p-18 * std::abs(token[c])) * std::abs(wg), other_error += (x_step[c] + 0x1p-18 * std::abs(token[c])) * std::abs(wu);
        }
        h[i] = f(sum) * other;
        h_error[i] = 1.1 * sum_error * (std::abs(other) + other_error) + std::abs(f(sum)) * other_error + half * std::abs(h[i]) * 1.1;
      }
      const auto h_step = steps(h, h_error);
      for (int c = 0; c < wide; ++c)
        for (int i = 0; i < inner; ++i) {
          const double wd = down[e].meaning.at(c, i, i).value;
          want[c] += r.weight[s] * wd * h[i], bound[c] += r.weight[s] * std::abs(wd) * (h_error[i] * 1.01 + h_step[i] + 0x1p-16 * std::abs(h[i]));
        }
    }
    double off = 0, size = 0;
    for (int c = 0; c < wide; ++c) {
      const double got = y[std::size_t(t) * wide + c];
      if (!(std::abs(got - want[c]) <= bound[c] + 1e-30)) {
        CAPTURE(t, c, want[c], got, bound[c]);
        REQUIRE(std::abs(got - want[c]) <= bound[c]);
      }
      off += (got - want[c]) * (got - want[c]), size += want[c] * want[c];
    }
    REQUIRE(off <= 0.03 * 0.03 * size);      // the bounds above are worst cases; steps of 1 / 254 of a group's largest that do not agree with each other
  }
}

TEST_CASE("moe: backward", "[flow][moe]") {
  using op = moe::scatter_moe_backward<bf16, policy::silu, float>;
  std::mt19937 generator(moe_seed);
  const int experts = 5, wide = 40, inner = 56, tokens = 33, choices = 2;
  const dense_weights w(experts, inner, wide, generator);
  const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator), dy = random_array<bf16>(std::size_t(tokens) * wide, generator);
  auto ids = choose(tokens, choices, experts, 0, generator);
  for (int& e : ids) e = e == 3 ? -1 : e;      // an expert of no rows
  const std::size_t matrix = std::size_t(inner) * wide;
  // the definition, and the errors of values held in bf16 between products
  std::vector<double> dx(std::size_t(tokens) * wide), dxe(dx.size()), dg(experts * matrix), dge(dg.size()), du(dg.size()), due(dg.size()), dd(dg.size()), dde(dg.size()), dw(ids.size()), dwe(ids.size());
  std::mt19937 same(moe_seed);
  const routing r(ids, tokens, choices, experts, 8, 0, same);
  for (int s = 0; s < tokens * choices; ++s) {
    if (r.row_of_slot[s] < 0) continue;
    const int t = s / choices, e = ids[s];
    std::vector<double> real(wide);
    for (int c = 0; c < wide; ++c) real[c] = value(x[std::size_t(t) * wide + c]);
    const slot_values v(real.data(), w.real, e, false);
    const double weight = r.weight[s];
    for (int i = 0; i < inner; ++i) {
      double dh = 0, size = 0;
      for (int c = 0; c < wide; ++c) {
        const double p = value(dy[std::size_t(t) * wide + c]) * w.real.down[e * matrix + std::size_t(c) * inner + i];
        dh += p, size += std::abs(p);
      }
      const double dhe = (wide + 2) * single * size, g = v.gate[i], u = v.up[i];
      dw[s] += dh * v.h[i];
      dwe[s] += std::abs(dh) * (v.h_error[i] + (inner + 4) * single * std::abs(v.h[i])) + dhe * std::abs(v.h[i]);
      const double d_gate = weight * dh * u * slope(g), d_up = weight * dh * f(g);
      const double d_gate_error = weight * 1.02 * (dhe * std::abs(u) * 1.1 + std::abs(dh) * (v.up_error[i] * std::abs(slope(g)) + std::abs(u) * 0.5 * v.gate_error[i] + 0x1p-18 * std::abs(u))) + half * std::abs(d_gate) * 1.02;
      const double d_up_error = weight * 1.02 * (dhe * std::abs(f(g)) + std::abs(dh) * 1.1 * v.gate_error[i] + 0x1p-18 * std::abs(dh * f(g))) + half * std::abs(d_up) * 1.02;
      const double held = weight * v.h[i], held_error = weight * v.h_error[i] * 1.02 + half * std::abs(held) * 1.02;
      const double sum = (2 * tokens + 2 * inner + 8) * single;
      for (int c = 0; c < wide; ++c) {
        const std::size_t in = e * matrix + std::size_t(i) * wide + c, out = e * matrix + std::size_t(c) * inner + i, token = std::size_t(t) * wide + c;
        dg[in] += d_gate * real[c], dge[in] += std::abs(real[c]) * (d_gate_error + sum * std::abs(d_gate));
        du[in] += d_up * real[c], due[in] += std::abs(real[c]) * (d_up_error + sum * std::abs(d_up));
        dd[out] += value(dy[token]) * held, dde[out] += std::abs(value(dy[token])) * (held_error + sum * std::abs(held));
        dx[token] += d_gate * w.real.gate[in] + d_up * w.real.up[in];
        dxe[token] += w.real.gate_size[in] * (d_gate_error + sum * std::abs(d_gate)) + w.real.up_size[in] * (d_up_error + sum * std::abs(d_up));
      }
    }
  }
  array<float> got_dx(dx.size()), got_dg(dg.size()), got_du(dg.size()), got_dd(dg.size()), got_dw(ids.size());
  for_each_context(moe_seed, [&](const auto& context) {
    const auto outs = [&](array<float>& a, int rows, int cols) { return stack<float>{a.data(), experts, rows, cols, static_cast<long long>(rows) * cols, cols}; };
    op::args a{.x = {x.data(), tokens, wide, wide}, .dy = {dy.data(), tokens, wide, wide}, .index = r.index(), .gate = w.in(w.gate), .up = w.in(w.up), .down = w.out(), .dx = {got_dx.data(), tokens, wide, wide},
               .d_gate = outs(got_dg, inner, wide), .d_up = outs(got_du, inner, wide), .d_down = outs(got_dd, wide, inner), .d_weight = got_dw.data()};
    array<std::byte> memory(op::workspace_bytes(context, a));
    std::memset(memory.data(), 0xFF, memory.size());
    const status st = op::run(context, a, {memory.data(), memory.size()});
    CAPTURE(st.what, st.got, st.need);
    REQUIRE(st.code == errc::ok);
    wait(context);
    const auto compare = [&](const char* name, const array<float>& got, const std::vector<double>& want, const std::vector<double>& bound) {
      REQUIRE(got.guarded());
      for (std::size_t i = 0; i < want.size(); ++i)
        if (!(std::abs(got[i] - want[i]) <= bound[i] + 0x1p-22 * std::abs(want[i]) + 1e-30)) {
          CAPTURE(name, i, want[i], got[i], bound[i]);
          REQUIRE(std::abs(got[i] - want[i]) <= bound[i]);
        }
    };
    compare("dx", got_dx, dx, dxe);
    compare("d_gate", got_dg, dg, dge);
    compare("d_up", got_du, du, due);
    compare("d_down", got_dd, dd, dde);
    compare("d_weight", got_dw, dw, dwe);
    REQUIRE(memory.guarded());
  });
}

TEST_CASE("moe: experts of any rank over a shared layer", "[flow][moe]") {
  using op = moe::flex_more<bf16, policy::silu, float>;
  std::mt19937 generator(moe_seed);
  const int experts = 4, wide = 40, inner = 56, tokens = 25;
  const std::vector<int> ranks{3, 0, 24, 16};
  const int lines = 43, most = 24;
  const dense_weights shared(1, inner, wide, generator);
  array<int> first(experts), count(experts), line(lines);
  array<float> scale(experts);
  for (int e = 0, used = 0; e < experts; used += ranks[e++]) first[e] = used, count[e] = ranks[e], scale[e] = 0.5f + float(e) / 4;
  for (int i = 0; i < lines; ++i) line[i] = (i * 5) % lines;      // 43 is prime: every line once
  struct low_rank { array<bf16> a, b; };
  const auto draw = [&](int from, int to) { return low_rank{random_array<bf16>(std::size_t(lines) * from, generator, 0.2f), random_array<bf16>(std::size_t(lines) * to, generator, 0.2f)}; };
  const low_rank gate = draw(wide, inner), up = draw(wide, inner), down = draw(inner, wide);
  const auto pages = [&](const low_rank& l, int from, int to) {
    return lora::adapters<bf16>{.a = {.pool = {l.a.data(), lines, from, from}, .first = first.data(), .count = count.data(), .line = line.data(), .weights = experts, .most = most, .lines = lines},
                                .b = {.pool = {l.b.data(), lines, to, to}, .first = first.data(), .count = count.data(), .line = line.data(), .scale = scale.data(), .weights = experts, .most = most, .lines = lines}};
  };
  expert_weights real{inner, wide, {}, {}, {}, {}, {}, {}};
  const auto whole = [&](const low_rank& l, const std::vector<double>& base, int from, int to, std::vector<double>& values, std::vector<double>& sizes) {
    for (int e = 0; e < experts; ++e)
      for (int j = 0; j < to; ++j)
        for (int c = 0; c < from; ++c) {
          double v = base[std::size_t(j) * from + c], size = std::abs(v);
          for (int q = 0; q < ranks[e]; ++q) {
            const std::size_t at = line[first[e] + q];
            const double t = double(scale[e]) * value(l.b[at * to + j]) * value(l.a[at * from + c]);
            v += t, size += std::abs(t);
          }
          values.push_back(v), sizes.push_back(size);
        }
  };
  whole(gate, shared.real.gate, wide, inner, real.gate, real.gate_size), whole(up, shared.real.up, wide, inner, real.up, real.up_size), whole(down, shared.real.down, inner, wide, real.down, real.down_size);
  const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator);
  const routing r(choose(tokens, 2, experts, 0, generator), tokens, 2, experts, 8, 0, generator);
  array<float> y(std::size_t(tokens) * wide);
  std::vector<float> before;
  for_each_context(moe_seed, [&](const auto& context) {
    op::args a{.x = {x.data(), tokens, wide, wide}, .index = r.index(), .gate = {shared.gate.data(), inner, wide, wide}, .up = {shared.up.data(), inner, wide, wide}, .down = {shared.down.data(), wide, inner, inner},
               .gate_update = pages(gate, wide, inner), .up_update = pages(up, wide, inner), .down_update = pages(down, inner, wide), .y = {y.data(), tokens, wide, wide}};
    array<std::byte> memory(op::workspace_bytes(context, a));
    std::memset(memory.data(), 0xFF, memory.size());
    const status st = op::run(context, a, {memory.data(), memory.size()});
    CAPTURE(st.what, st.got, st.need);
    REQUIRE(st.code == errc::ok);
    wait(context);
    REQUIRE(memory.guarded());
    REQUIRE(y.guarded());
    if (!before.empty()) REQUIRE(std::memcmp(before.data(), y.data(), y.size() * sizeof(float)) == 0);
    before.assign(y.begin(), y.end());
  });
  for (int t = 0; t < tokens; ++t) {
    std::vector<double> want(wide), bound(wide), token(wide);
    for (int c = 0; c < wide; ++c) token[c] = value(x[std::size_t(t) * wide + c]);
    for (int s = 2 * t; s < 2 * t + 2; ++s) {
      if (r.row_of_slot[s] < 0) continue;
      const slot_values v(token.data(), real, r.ids[s], true, most);
      for (int c = 0; c < wide; ++c)
        for (int i = 0; i < inner; ++i) {
          const std::size_t at = (std::size_t(r.ids[s]) * wide + c) * inner + i;
          want[c] += r.weight[s] * real.down[at] * v.h[i];
          // h is rounded, and the sum over choices that the shared part takes is rounded once more
          bound[c] += r.weight[s] * real.down_size[at] * (1.01 * v.h_error[i] + (1.02 * half + (inner + most + 20) * single) * std::abs(v.h[i]));
        }
    }
    for (int c = 0; c < wide; ++c)
      if (const double got = y[std::size_t(t) * wide + c]; !(std::abs(got - want[c]) <= bound[c] + 1e-30)) {
        CAPTURE(t, c, want[c], got, bound[c]);
        REQUIRE(std::abs(got - want[c]) <= bound[c]);
      }
  }
}

TEST_CASE("moe: an embedding in the place of the up projection", "[flow][moe]") {
  using op = moe::stem<bf16, policy::silu, float>;
  std::mt19937 generator(moe_seed);
  const int wide = 40, inner = 56, tokens = 19, vocabulary = 11;
  const dense_weights w(1, inner, wide, generator);
  const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator), table = random_array<bf16>(std::size_t(vocabulary) * inner, generator);
  array<int> id(tokens);
  for (int& i : id) i = int(generator() % vocabulary);
  array<float> y(std::size_t(tokens) * wide);
  const auto context = any_context();
  op::args a{.x = {x.data(), tokens, wide, wide}, .id = id.data(), .gate = {w.gate.data(), inner, wide, wide}, .down = {w.down.data(), wide, inner, inner}, .table = {table.data(), vocabulary, inner, inner}, .y = {y.data(), tokens, wide, wide}};
  array<std::byte> memory(op::workspace_bytes(context, a));
  const status st = op::run(context, a, {memory.data(), memory.size()});
  CAPTURE(st.what, st.got, st.need);
  REQUIRE(st.code == errc::ok);
  wait(context);
  for (int t = 0; t < tokens; ++t) {
    std::vector<double> h(inner), h_error(inner);
    for (int i = 0; i < inner; ++i) {
      double sum = 0, size = 0;
      for (int c = 0; c < wide; ++c) sum += value(x[std::size_t(t) * wide + c]) * w.real.gate[std::size_t(i) * wide + c], size += std::abs(value(x[std::size_t(t) * wide + c])) * w.real.gate_size[std::size_t(i) * wide + c];
      const double u = value(table[std::size_t(id[t]) * inner + i]);
      h[i] = f(sum) * u, h_error[i] = 1.1 * (wide + 12) * single * size * std::abs(u) + (half * 1.01 + 0x1p-19) * std::abs(h[i]) + 0x1p-60;
    }
    for (int c = 0; c < wide; ++c) {
      double want = 0, bound = 1e-30;
      for (int i = 0; i < inner; ++i) {
        const double d = w.real.down[std::size_t(c) * inner + i];
        want += d * h[i], bound += std::abs(d) * (h_error[i] + (inner + 4) * single * std::abs(h[i]));
      }
      if (!(std::abs(y[std::size_t(t) * wide + c] - want) <= bound)) {
        CAPTURE(t, c, want, y[std::size_t(t) * wide + c], bound);
        REQUIRE(std::abs(y[std::size_t(t) * wide + c] - want) <= bound);
      }
    }
  }
#if !defined(__CUDACC__)
  id[3] = vocabulary;
  const status bad = op::check(context, a);
  REQUIRE(bad.code == errc::bad_value);
  REQUIRE(std::string(bad.what).find("id") == 0);
#endif
}

TEST_CASE("moe: refusals", "[flow][moe]") {
  using op = moe::scatter_moe<dense>;
  std::mt19937 generator(moe_seed);
  const int experts = 3, wide = 16, inner = 16, tokens = 5;
  const dense_weights w(experts, inner, wide, generator);
  const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator);
  array<bf16> y(x.size());
  routing r(choose(tokens, 2, experts, 0, generator), tokens, 2, experts, 1, 0, generator);
  const op::args good{.x = {x.data(), tokens, wide, wide}, .index = r.index(), .gate = w.in(w.gate), .up = w.in(w.up), .down = w.out(), .y = {y.data(), tokens, wide, wide}};
  const auto context = any_context();
  REQUIRE(op::check(context, good).code == errc::ok);
  const auto refused = [&](const op::args& a, errc code, const std::string& word) {
    const status st = op::check(context, a);
    CAPTURE(st.what, st.got, st.need, word);
    CHECK(st.code == code);
    CHECK(std::string(st.what).find(word) != std::string::npos);
    std::vector<std::byte> none;
    CHECK(op::run(context, a, {none.data(), 0}).code != errc::ok);
  };
  auto bad = good;
  bad.index.tokens = 4;
  refused(bad, errc::bad_shape, "tokens");
  bad = good;
  bad.gate.count = 2;
  refused(bad, errc::bad_shape, "expert");
  bad = good;
  bad.y = {const_cast<bf16*>(x.data()), tokens, wide, wide};
  refused(bad, errc::aliased, "y must not overlap x");
  bad = good;
  bad.index.row_limit = 3;
  refused(bad, errc::bad_shape, "segments");
#if !defined(__CUDACC__)      // what only the host reads
  const auto with = [&](std::int32_t& number, std::int32_t wrong, errc code, const std::string& word) {
    const std::int32_t was = number;
    number = wrong;
    refused(good, code, word);
    number = was;
  };
  with(r.token_of_row[0], tokens, errc::bad_value, "token");
  with(r.slot_of_row[0], 2 * tokens, errc::bad_value, "slot");
  with(r.slot_of_row[1], r.slot_of_row[0], errc::bad_value, "two rows have one slot");
  with(r.end[0], r.end[0] + 100, errc::bad_value, "end");
  with(r.offsets[1], -1, errc::bad_value, "decrease");
#endif
  std::vector<std::byte> little(64);
  CHECK(op::run(context, good, {little.data(), 64}).code != errc::ok);
}
