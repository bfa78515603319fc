// Routing, experts and their layers in double, as the tests of moe use them.
#pragma once
#include "../ops/quantized_problem.hpp"
#include <smalti/flow/moe.hpp>

namespace moe_problem {

using namespace smalti;
using namespace test;

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
inline std::vector<int> choose(int tokens, int choices, int experts, int skew, std::mt19937& generator) {
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
inline double f(double z) { return z / (1 + std::exp(-z)); }
inline double slope(double z) {
  const double s = 1 / (1 + std::exp(-z));
  return s * (1 + z * (1 - s));
}
constexpr double bf16_rounding = 0x1p-8, single = 0x1p-24;      // roundings to bf16 and float

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
      gate_error[i] = (w.wide + rank + 12) * single * gs + (fused ? 0 : bf16_rounding * std::abs(gate[i]));
      up_error[i] = (w.wide + rank + 12) * single * us + (fused ? 0 : bf16_rounding * std::abs(up[i]));
      h[i] = f(gate[i]) * up[i];
      h_error[i] = 1.1 * gate_error[i] * (std::abs(up[i]) + up_error[i]) + std::abs(f(gate[i])) * up_error[i] + 0x1p-19 * std::abs(h[i]) + (fused ? bf16_rounding * std::abs(h[i]) * 1.01 : 0) + 0x1p-60;
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
    run_op<op>(context, a);      // NaN wherever padding is not made or not skipped
    REQUIRE(y.guarded());
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

}  // namespace moe_problem
