// moe::scatter_moe, mega_blocks and their backward against the definition, token by token, in double.
#include "moe_problem.hpp"
#include <smalti/policy/formats.hpp>

using namespace smalti;
using namespace test;
using namespace moe_problem;

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

// Experts of a packed format and what their weights mean.
template <class Format, class Work> void packed_experts(int experts, int wide, int inner, std::mt19937& generator, Work work) {
  std::vector<neutral<Format>> gate, up, down;
  expert_weights real{inner, wide, {}, {}, {}, {}, {}, {}};
  for (int e = 0; e < experts; ++e) gate.emplace_back(inner, wide, generator), up.emplace_back(inner, wide, generator), down.emplace_back(wide, inner, generator);
  for (const auto& [from, to, size] : {std::tuple{&gate, &real.gate, &real.gate_size}, std::tuple{&up, &real.up, &real.up_size}, std::tuple{&down, &real.down, &real.down_size}})
    for (const auto& n : *from)
      for (int j = 0; j < n.meaning.n; ++j)
        for (int c = 0; c < n.meaning.k; ++c) {
          const auto p = n.meaning.at(j, c, c);
          to->push_back(p.value), size->push_back(p.size);
        }
  test::packed_stack<Format, bf16> g(gate), u(up), d(down);
  work(real, g.w, u.w, d.w);
}

TEST_CASE("moe: quantized experts", "[flow][moe]") {
  std::mt19937 generator(moe_seed);
  const auto with = [&]<class Format>(Format, int tokens, int wide, int inner) {      // one codec of each family: integers, tables, floats, super blocks in two planes
    packed_experts<Format>(4, wide, inner, generator, [&](const expert_weights& real, const auto& gate, const auto& up, const auto& down) {
      const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator);
      const routing r(choose(tokens, 2, 4, 0, generator), tokens, 2, 4, tokens > 8 ? 8 : 1, 0, generator);      // up to 16 rows in all: tiles of one row on the host
      layer_case<moe::quantized_experts<Format>, moe::options, false>(r, x, real, gate, up, down, nullptr);
    });
  };
  with(policy::int4_affine<64>{}, 21, 64, 96);
  with(policy::bnb_nf4<64>{}, 5, 64, 128);
  with(policy::mxfp4{}, 5, 96, 64);
  with(policy::q6_k{}, 3, 256, 256);
}

// Rows and hidden values are quantized to 8 bits: half a step of the group's largest magnitude over 127, each time.
TEST_CASE("moe: experts on the 8-bit dot", "[flow][moe]") {
  using format = policy::q4_0;
  using op = moe::scatter_moe<moe::integer_experts<format>, policy::silu, float>;
  std::mt19937 generator(moe_seed);
  const int tokens = GENERATE(9, 3), experts = 4, wide = 64, inner = 96;      // 3: tiles of one row on the host
  std::vector<neutral<format>> gate, up, down;
  for (int e = 0; e < experts; ++e) gate.emplace_back(inner, wide, generator, drawing{.smallest = 0.02f, .largest = 0.04f}), up.emplace_back(inner, wide, generator, drawing{.smallest = 0.02f, .largest = 0.04f}), down.emplace_back(wide, inner, generator);
  test::packed_stack<format, std::int8_t> g(gate), u(up), d(down);
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
        h_error[i] = 1.1 * sum_error * (std::abs(other) + other_error) + std::abs(f(sum)) * other_error + bf16_rounding * std::abs(h[i]) * 1.1;
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

// Every layout of the rows, with identity experts. `decoded`: how far a weight is from its value where gradients pass through it, relative to its size.
template <class Experts> void backward_case(const expert_weights& real_weights, int experts, double decoded, const typename Experts::weight& gate, const typename Experts::weight& up, const typename Experts::weight& down, std::mt19937& generator) {
  using op = moe::scatter_moe_backward<Experts, policy::silu, float>;
  const struct { const expert_weights& real; } w{real_weights};
  const int wide = w.real.wide, inner = w.real.inner, tokens = 33, choices = 2;
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
        const std::size_t at = e * matrix + std::size_t(c) * inner + i;
        dh += value(dy[std::size_t(t) * wide + c]) * w.real.down[at], size += std::abs(value(dy[std::size_t(t) * wide + c])) * w.real.down_size[at];
      }
      const double dhe = ((wide + 2) * single + decoded) * size, g = v.gate[i], u = v.up[i];
      dw[s] += dh * v.h[i];
      dwe[s] += std::abs(dh) * (v.h_error[i] + (inner + 4) * single * std::abs(v.h[i])) + dhe * std::abs(v.h[i]);
      const double d_gate = weight * dh * u * slope(g), d_up = weight * dh * f(g);
      const double d_gate_error = weight * 1.02 * (dhe * std::abs(u) * 1.1 + std::abs(dh) * (v.up_error[i] * std::abs(slope(g)) + std::abs(u) * 0.5 * v.gate_error[i] + 0x1p-18 * std::abs(u))) + bf16_rounding * std::abs(d_gate) * 1.02;
      const double d_up_error = weight * 1.02 * (dhe * std::abs(f(g)) + std::abs(dh) * 1.1 * v.gate_error[i] + 0x1p-18 * std::abs(dh * f(g))) + bf16_rounding * std::abs(d_up) * 1.02;
      const double held = weight * v.h[i], held_error = weight * v.h_error[i] * 1.02 + bf16_rounding * std::abs(held) * 1.02;
      const double sum = (2 * tokens + 2 * inner + 8) * single;
      for (int c = 0; c < wide; ++c) {
        const std::size_t in = e * matrix + std::size_t(i) * wide + c, out = e * matrix + std::size_t(c) * inner + i, token = std::size_t(t) * wide + c;
        dg[in] += d_gate * real[c], dge[in] += std::abs(real[c]) * (d_gate_error + sum * std::abs(d_gate));
        du[in] += d_up * real[c], due[in] += std::abs(real[c]) * (d_up_error + sum * std::abs(d_up));
        dd[out] += value(dy[token]) * held, dde[out] += std::abs(value(dy[token])) * (held_error + sum * std::abs(held));
        dx[token] += d_gate * w.real.gate[in] + d_up * w.real.up[in];
        dxe[token] += w.real.gate_size[in] * (d_gate_error + (sum + decoded) * std::abs(d_gate)) + w.real.up_size[in] * (d_up_error + (sum + decoded) * std::abs(d_up));
      }
    }
  }
  array<float> share(tokens);
  for (int t = 0; t < tokens; ++t) {
    share[t] = float(generator() % 8) / 8;
    for (int c = 0; c < wide; ++c) {
      const double own = share[t] * value(dy[std::size_t(t) * wide + c]);
      dx[std::size_t(t) * wide + c] += own, dxe[std::size_t(t) * wide + c] += 4 * single * std::abs(own);
    }
  }
  array<float> got_dx(dx.size()), got_dg(dg.size()), got_du(dg.size()), got_dd(dg.size()), got_dw(ids.size());
  const std::pair<int, int> layouts[] = {{8, 0}, {1, 0}, {1, tokens}};      // aligned, indirect, masked
  for_each_context(moe_seed, [&](const auto& context) {
    for (const auto& [alignment, masked] : layouts) {
      std::mt19937 again(moe_seed);
      const routing r(ids, tokens, choices, experts, alignment, masked, again);
      CAPTURE(alignment, masked);
      const auto outs = [&](array<float>& a, int rows, int cols) { return stack<float>{a.data(), experts, rows, cols, static_cast<long long>(rows) * cols, cols}; };
      typename op::args a{};
      a.x = {x.data(), tokens, wide, wide}, a.dy = {dy.data(), tokens, wide, wide}, a.index = r.index(), a.gate = gate, a.up = up, a.down = down, a.dx = {got_dx.data(), tokens, wide, wide}, a.d_weight = got_dw.data(), a.share = share.data();
      if constexpr (op::trains) a.d_gate = outs(got_dg, inner, wide), a.d_up = outs(got_du, inner, wide), a.d_down = outs(got_dd, wide, inner);
      run_op<op>(context, a);
      const auto compare = [&](const char* name, const array<float>& got, const std::vector<double>& want, const std::vector<double>& bound) {
        REQUIRE(got.guarded());
        for (std::size_t i = 0; i < want.size(); ++i)
          if (!(std::abs(got[i] - want[i]) <= bound[i] + 0x1p-22 * std::abs(want[i]) + 1e-30)) {
            CAPTURE(name, i, want[i], got[i], bound[i]);
            REQUIRE(std::abs(got[i] - want[i]) <= bound[i]);
          }
      };
      compare("dx", got_dx, dx, dxe);
      if constexpr (op::trains) {
        compare("d_gate", got_dg, dg, dge);
        compare("d_up", got_du, du, due);
        compare("d_down", got_dd, dd, dde);
      }
      compare("d_weight", got_dw, dw, dwe);
    }
  });
}

TEST_CASE("moe: backward", "[flow][moe]") {
  std::mt19937 generator(moe_seed);
  const int experts = 5;
  const dense_weights w(experts, 56, 40, generator);
  backward_case<dense>(w.real, experts, 0, w.in(w.gate), w.in(w.up), w.out(), generator);
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
  backward_case<dense>(real, experts, 0, moe::row_slices(g, experts), moe::row_slices(u, experts), moe::column_slices(d, experts), generator);
}

TEST_CASE("moe: backward through packed experts", "[flow][moe]") {
  std::mt19937 generator(moe_seed);
  packed_experts<policy::q4_0>(5, 64, 288, generator, [&](const expert_weights& real, const auto& gate, const auto& up, const auto& down) {      // more than one part of columns
    backward_case<moe::quantized_experts<policy::q4_0>>(real, 5, 0x1p-8 + 0x1p-12, gate, up, down, generator);
  });
}

// Three dense experts, an identity (id 3), two constants (ids 4 and 5); id 6 is a zero expert: of no kind, it gives nothing.
TEST_CASE("moe: constant, identity and zero experts", "[flow][moe]") {
  using op = moe::scatter_moe<dense, policy::silu, float>;
  std::mt19937 generator(moe_seed);
  const int experts = 3, wide = 40, inner = 24, choices = 2, constants = 2, first = 4;
  const dense_weights w(experts, inner, wide, generator);
  const array<bf16> constant = random_array<bf16>(std::size_t(constants) * wide, generator);
  for (const bool some : {true, false}) {      // false: nobody chose an expert that has rows
    const int tokens = 23;
    const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator);
    array<int> ids(std::size_t(tokens) * choices);
    for (int t = 0; t < tokens; ++t) ids[2 * t] = some ? int(generator() % 7) : 3 + int(generator() % 4), ids[2 * t + 1] = ids[2 * t] == 5 ? 4 : 5;
    const routing r(std::vector<int>(ids.begin(), ids.end()), tokens, choices, experts, 1, 0, generator);
    array<float> share(tokens), y(std::size_t(tokens) * wide), without(y.size());
    for (int s = 0; s < tokens * choices; ++s) share[s / choices] += ids[s] == 3 ? r.weight[s] : 0.0f;
    for_each_context(moe_seed, [&](const auto& context) {
      op::args a{.x = {x.data(), tokens, wide, wide}, .index = r.index(), .gate = w.in(w.gate), .up = w.in(w.up), .down = w.out(), .y = {without.data(), tokens, wide, wide}, .share = share.data()};
      run_op<op>(context, a);
      a.y.data = y.data(), a.constants = {constant.data(), constants, wide, wide}, a.ids = ids.data(), a.first_constant = first;
      run_op<op>(context, a);
      for (int t = 0; t < tokens; ++t)
        for (int c = 0; c < wide; ++c) {
          double want = without[std::size_t(t) * wide + c], size = std::abs(want);      // layer_case holds that to the definition
          for (int s = 2 * t; s < 2 * t + 2; ++s)
            if (ids[s] == 4 || ids[s] == 5) {
              const double v = r.weight[s] * value(constant[std::size_t(ids[s] - first) * wide + c]);
              want += v, size += std::abs(v);
            }
          const double got = y[std::size_t(t) * wide + c];
          if (!(std::abs(got - want) <= 0x1p-20 * (size + std::abs(share[t]) * 8) + 1e-30)) {
            CAPTURE(t, c, want, got);
            REQUIRE(std::abs(got - want) <= 0x1p-20 * size);
          }
        }
    });
    op::args bad{.x = {x.data(), tokens, wide, wide}, .index = r.index(), .gate = w.in(w.gate), .up = w.in(w.up), .down = w.out(), .y = {y.data(), tokens, wide, wide}, .constants = {constant.data(), constants, wide, wide}, .first_constant = first};
    const auto refused = [&](errc code, const std::string& word) {
      const status st = op::check(any_context(), bad);
      CAPTURE(st.what, word);
      CHECK(st.code == code);
      CHECK(std::string(st.what).find(word) == 0);
    };
    refused(errc::null_pointer, "ids is null");
    bad.ids = ids.data(), bad.first_constant = 2;
    refused(errc::bad_value, "first_constant");
    bad.first_constant = first, bad.constants.cols = 32;
    refused(errc::bad_shape, "constants");
  }
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
