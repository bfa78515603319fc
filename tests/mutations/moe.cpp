// Grouped products, layers of experts and adapters against their definitions, in small integers: every sum is exact in every order.
#include <cmath>
#include <vector>

#include <smalti/flow/lora.hpp>
#include <smalti/flow/lora_backward.hpp>
#include <smalti/flow/lora_systems.hpp>
#include <smalti/flow/moe.hpp>

#include "battery.hpp"

using namespace smalti;
using namespace battery;

namespace {

template <class Op, class Args> void run_op(const host_context& context, const Args& a) {
  memory<unsigned char> scratch(Op::workspace_bytes(context, a));
  poison_stack();
  const status st = Op::run(context, a, {reinterpret_cast<std::byte*>(scratch.data()), scratch.bytes()});
  expect(st.code == errc::ok, st.what);
  expect(scratch.intact(), "workspace");
}

// Three adapters of ranks 3, 17 and 0 in pages, in two shards a row; segments name them, one names none.
void adapters_and_gradients() {
  constexpr int rows = 12, shards = 2, width = 1024, wide = shards * width, high = 256, lines = 20 * shards, most = 17, padded = 32;
  matrix<bf16> x(1, rows, wide, wide, 3), dy(1, rows, high, high, 7), pool_a(1, lines, width, width, 5), pool_b(1, lines, high, high, 9);
  const int rank[3] = {3, 17, 0}, first[3] = {17, 0, 0}, named[4] = {1, 0, -1, 1};
  const std::int32_t offsets[5] = {0, 3, 7, 9, 12};
  const float scale[3] = {2, 0.5f, 1};
  std::vector<int> line_a(lines), line_b(20);
  for (int i = 0; i < lines; ++i) line_a[i] = (i * 7) % lines;
  for (int i = 0; i < 20; ++i) line_b[i] = (i * 3) % 20;
  const lora::adapters<bf16> weights{.a = {.pool = {pool_a.at.data(), lines, width, width}, .first = first, .count = rank, .line = line_a.data(), .shards = shards, .weights = 3, .most = most, .lines = lines},
                                     .b = {.pool = {pool_b.at.data(), lines, high, high}, .first = first, .count = rank, .line = line_b.data(), .scale = scale, .weights = 3, .most = most, .lines = 20}};
  const auto a_of = [&](int e, int q, int c) { return pool_a.get(0, line_a[(first[e] + q) * shards + c / width], c % width); };
  const auto b_of = [&](int e, int q, int j) { return pool_b.get(0, line_b[first[e] + q], j); };
  memory<float> y(rows * high), dx(rows * wide), da(4 * padded * wide), db(4 * padded * high);
  for (const host_context& context : contexts()) {
    for (int i = 0; i < rows * high; ++i) y[i] = float(i % 7);
    run_op<lora::sgmv<bf16, bf16, float>>(context, lora::sgmv<bf16, bf16, float>::args{{x.at.data(), rows, wide, wide}, {offsets, 4}, named, weights, {y.data(), rows, high, high}});
    expect(y.intact(), "an update stays inside");
    for (int s = 0; s < 4; ++s)
      for (int r = offsets[s]; r < offsets[s + 1]; ++r) {
        std::vector<double> v(most);
        for (int q = 0; named[s] >= 0 && q < rank[named[s]]; ++q)
          for (int c = 0; c < wide; ++c) v[q] += x.get(0, r, c) * a_of(named[s], q, c);
        for (int j = 0; j < high; ++j) {
          double sum = 0;
          for (int q = 0; named[s] >= 0 && q < rank[named[s]]; ++q) sum += v[q] * b_of(named[s], q, j);
          expect(y[r * high + j] == (r * high + j) % 7 + (named[s] < 0 ? 0 : scale[named[s]] * sum), "an update");
        }
      }
    if (context.shuffle != 0) continue;
    for (int i = 0; i < rows * wide; ++i) dx[i] = 1;
    da.poison(), db.poison();
    using backward = lora::sgmv_backward<bf16, bf16, float>;
    run_op<backward>(context, backward::args{.x = {x.at.data(), rows, wide, wide}, .dy = {dy.at.data(), rows, high, high}, .rows = {offsets, 4}, .adapter = named, .weights = weights, .dx = {dx.data(), rows, wide, wide},
                                             .da = {da.data(), 4, padded, wide, padded * wide, wide}, .db = {db.data(), 4, padded, high, padded * high, high}});
    expect(dx.intact() && da.intact() && db.intact(), "gradients stay inside");
    for (int s = 0; s < 4; ++s) {
      const int e = named[s];
      for (int q = 0; q < padded; ++q)
        for (int j = 0; j < high; j += 37) {
          double sum = 0;
          for (int r = offsets[s]; e >= 0 && q < rank[e] && r < offsets[s + 1]; ++r) {
            double v = 0;
            for (int c = 0; c < wide; ++c) v += x.get(0, r, c) * a_of(e, q, c);
            sum += scale[e] * v * dy.get(0, r, j);
          }
          expect(db[(s * padded + q) * high + j] == sum, "the gradient of an adapter");
        }
    }
    // A segment that is left out holds anything: here NaN.
    matrix<bf16> open(1, rows, high, high, 7);
    for (int r = offsets[2]; r < offsets[3]; ++r)
      for (int j = 0; j < high; ++j) std::memset(&open.at[std::size_t(r) * high + j], 0xFF, sizeof(bf16));
    run_op<backward>(context, backward::args{.x = {x.at.data(), rows, wide, wide}, .dy = {open.at.data(), rows, high, high}, .rows = {offsets, 4}, .adapter = named, .weights = weights, .dx = {dx.data(), rows, wide, wide},
                                             .da = {da.data(), 4, padded, wide, padded * wide, wide}, .db = {db.data(), 4, padded, high, padded * high, high}});
    for (int i = 0; i < padded * high; ++i) expect(db[2 * padded * high + i] == 0, "a segment without an adapter");
  }
}

// Weights of ranks in pages: columns past a rank are zeros up to sixteen.
void ranks_end_in_zeros() {
  constexpr int rows = 4, wide = 64, lines = 20;
  matrix<bf16> x(1, rows, wide, wide, 3), pool(1, lines, wide, wide, 5);
  const int rank[2] = {3, 17}, first[2] = {17, 0};
  const std::int32_t offsets[3] = {0, 2, 4};
  std::vector<int> line(lines);
  for (int i = 0; i < lines; ++i) line[i] = i;
  using op = gemm::grouped<bf16, bf16, float, policy::chain<>, gemm::grouped_options, gemm::paged_rows<bf16>>;
  for (const host_context& context : contexts()) {
    memory<float> v(rows * 32);
    op::args a{};
    a.a = {x.at.data(), rows, wide, wide}, a.b = {.pool = {pool.at.data(), lines, wide, wide}, .first = first, .count = rank, .line = line.data(), .weights = 2, .most = 17, .lines = lines}, a.c = {v.data(), rows, 32, 32}, a.rows = {offsets, 2};
    run_op<op>(context, a);
    for (int r = 0; r < rows; ++r)
      for (int q = 0; q < (r < 2 ? 16 : 32); ++q) {
        double sum = 0;
        for (int c = 0; q < rank[r / 2] && c < wide; ++c) sum += x.get(0, r, c) * pool.get(0, first[r / 2] + q, c);
        expect(v[r * 32 + q] == sum, "values of a rank");
      }
  }
}

// Five tokens, three experts, two choices, of which some are dropped; the rows are copied first, with padding.
void experts_of_tokens() {
  constexpr int tokens = 5, choices = 2, experts = 3, wide = 32, inner = 48, limit = 12;
  matrix<bf16> x(1, tokens, wide, wide, 3), gate(experts, inner, wide, wide, 5), up(experts, inner, wide, wide, 7), down(experts, wide, inner, inner, 9);
  const int id[tokens][choices] = {{1, 0}, {1, -1}, {2, 1}, {-1, 1}, {0, 2}};
  const float weight[tokens * choices] = {1, 2, 4, 1, 0.5f, 2, 1, 1, 2, 4};
  std::vector<int> token(limit, 0), slot(limit, -1), row(tokens * choices, -1);
  std::int32_t offsets[experts + 1] = {0, 4, 8, 12}, end[experts];
  for (int e = 0; e < experts; ++e) {
    end[e] = offsets[e];
    for (int s = 0; s < tokens * choices; ++s)
      if (id[s / choices][s % choices] == e) token[end[e]] = s / choices, slot[end[e]] = s, row[s] = end[e]++;
  }
  const policy::route_index index{.rows = {offsets, experts}, .end = end, .token_of_row = token.data(), .slot_of_row = slot.data(), .row_of_slot = row.data(), .weight_of_slot = weight, .tokens = tokens, .choices = choices, .row_limit = limit};
  using dispatch = moe::dispatch<bf16>;
  for (const host_context& context : contexts()) {
    memory<bf16> moved(limit * wide);
    run_op<dispatch>(context, dispatch::args{{x.at.data(), tokens, wide, wide}, index, {moved.data(), limit, wide, wide}});
    for (int r = 0; r < limit; ++r)
      for (int c = 0; c < wide; ++c) expect(value(moved[r * wide + c]) == (slot[r] < 0 ? 0 : x.get(0, token[r], c)), "a dispatched row");

    memory<float> made(limit * wide), y(tokens * wide);
    for (int i = 0; i < limit * wide; ++i) made[i] = float(i % 11 + 1);
    using combine = moe::combine<float>;
    run_op<combine>(context, combine::args{.x = {made.data(), limit, wide, wide}, .index = index, .y = {y.data(), tokens, wide, wide}});
    for (int t = 0; t < tokens; ++t)
      for (int c = 0; c < wide; ++c) {
        double sum = 0;
        for (int j = 0; j < choices; ++j)
          if (row[t * choices + j] >= 0) sum += weight[t * choices + j] * made[row[t * choices + j] * wide + c];
        expect(y[t * wide + c] == sum, "a combined token");
      }

    memory<bf16> out(tokens * wide), d(tokens * wide);
    using layer = moe::scatter_moe<moe::dense_experts<bf16>, policy::relu, float>;
    const auto of = [](const auto& m, int rows, int cols) { return stack<const bf16>{m.at.data(), experts, rows, cols, rows * cols, cols}; };
    run_op<layer>(context, layer::args{.x = {x.at.data(), tokens, wide, wide}, .index = index, .gate = of(gate, inner, wide), .up = of(up, inner, wide), .down = of(down, wide, inner), .y = {y.data(), tokens, wide, wide}});
    for (int t = 0; t < tokens; ++t) {
      std::vector<double> want(wide), size(wide);
      for (int j = 0; j < choices; ++j)
        for (int i = 0; id[t][j] >= 0 && i < inner; ++i) {
          double g = 0, u = 0;
          for (int c = 0; c < wide; ++c) g += gate.get(id[t][j], i, c) * x.get(0, t, c), u += up.get(id[t][j], i, c) * x.get(0, t, c);
          for (int c = 0; c < wide; ++c) want[c] += weight[t * choices + j] * down.get(id[t][j], c, i) * std::max(g, 0.0) * u, size[c] += std::abs(weight[t * choices + j] * down.get(id[t][j], c, i) * std::max(g, 0.0) * u);
        }
      for (int c = 0; c < wide; ++c) expect(std::abs(y[t * wide + c] - want[c]) <= size[c] / 100, "a token's experts");      // hidden values are rounded to bf16
    }

    using backward = moe::gated_gradient<bf16, float, policy::relu>;
    memory<bf16> g(limit * inner), u(limit * inner), h(limit * inner);
    memory<float> dh(limit * inner), dw(tokens * choices);
    for (int i = 0; i < limit * inner; ++i) g[i] = element<bf16>(i % 5 - 2), u[i] = element<bf16>(i % 7 - 3), dh[i] = float(i % 3 + 1);
    run_op<backward>(context, backward::args{.gate = {g.data(), limit, inner, inner}, .up = {u.data(), limit, inner, inner}, .dh = {dh.data(), limit, inner, inner}, .index = index, .d_gate = {g.data(), limit, inner, inner},
                                             .d_up = {u.data(), limit, inner, inner}, .hidden = {h.data(), limit, inner, inner}, .d_weight = dw.data()});
    for (int r = 0; r < limit; ++r)
      for (int i = 0; slot[r] >= 0 && i < inner; ++i) {
        const int n = r * inner + i, gate_was = n % 5 - 2, up_was = n % 7 - 3;
        expect(value(g[n]) == (gate_was > 0 ? weight[slot[r]] * float(n % 3 + 1) * float(up_was) : 0), "the gradient of a gate");
      }
  }
}

void skills_are_mixed() {
  constexpr int skills = 3, heads = 2, rank = 2, wide = 32;
  matrix<float> all(skills, rank, wide, wide, 3);
  const float logits[heads * skills] = {90, -90, -90, -90, 90, -90};      // head 0 is skill 0, head 1 skill 1
  for (const host_context& context : contexts()) {
    memory<float> mixed(rank * wide);
    run_op<lora::mhr<float>>(context, lora::mhr<float>::args{.skills = {all.at.data(), skills, rank, wide, rank * wide, wide}, .logits = logits, .mixed = {mixed.data(), 1, rank, wide, rank * wide, wide}, .heads = heads});
    for (int r = 0; r < rank; ++r)
      for (int c = 0; c < wide; ++c) expect(std::abs(mixed[r * wide + c] - all.get(c < wide / heads ? 0 : 1, r, c)) <= 1e-4, "mixed skills");
  }
}

void sparse_entries_are_added() {
  constexpr int rows = 5, wide = 32, high = 80;
  matrix<bf16> x(1, rows, wide, wide, 3);
  const int column[4] = {3, 31, 0, 7};
  const float values[4] = {2, -1, 4, 8};
  std::vector<int> first(high + 1, 0);
  for (int i = 0; i <= high; ++i) first[i] = i <= 2 ? 0 : i <= 70 ? 2 : i <= 79 ? 3 : 4;      // outputs 2 (two), 70 and 79
  for (const host_context& context : contexts()) {
    memory<float> y(rows * high);
    for (int i = 0; i < rows * high; ++i) y[i] = 1;
    using op = lora::sparse_update<bf16, float>;
    run_op<op>(context, op::args{{x.at.data(), rows, wide, wide}, {first.data(), column, values, high, 4}, {y.data(), rows, high, high}});
    for (int r = 0; r < rows; ++r)
      for (int i = 0; i < high; ++i) {
        double sum = 1;
        for (int e = first[i]; e < first[i + 1]; ++e) sum += values[e] * x.get(0, r, column[e]);
        expect(y[r * high + i] == sum, "a sparse update");
      }
  }
}

void rows_that_are_shared() {
  constexpr int rows = 6, wide = 32, ids = 3, skills = 2;
  matrix<bf16> x(1, rows, wide, wide, 3);
  const std::int32_t id[rows] = {2, 0, 2, 1, 2, 0};
  matrix<float> all(skills, 1, wide, wide, 5), d_mixed(1, 1, wide, wide, 7);
  const float logits[skills] = {0, 0};
  for (const host_context& context : contexts()) {
    memory<float> y(ids * wide), d_logits(skills);
    run_op<moe::sum_by_id<bf16>>(context, moe::sum_by_id<bf16>::args{.x = {x.at.data(), rows, wide, wide}, .id = id, .y = {y.data(), ids, wide, wide}});
    for (int v = 0; v < ids; ++v)
      for (int c = 0; c < wide; ++c) {
        double sum = 0;
        for (int r = 0; r < rows; ++r) sum += id[r] == v ? x.get(0, r, c) : 0;
        expect(y[v * wide + c] == sum, "rows of one id");
      }
    using op = lora::mhr_backward<float>;
    run_op<op>(context, op::args{.skills = {all.at.data(), skills, 1, wide, wide, wide}, .logits = logits, .d_mixed = {d_mixed.at.data(), 1, 1, wide, wide, wide}, .tasks = 1, .d_logits = d_logits.data()});
    double d[skills] = {};
    for (int s = 0; s < skills; ++s)
      for (int c = 0; c < wide; ++c) d[s] += all.get(s, 0, c) * d_mixed.get(0, 0, c);
    for (int s = 0; s < skills; ++s) expect(std::abs(d_logits[s] - 0.125 * (d[s] - d[1 - s])) <= 1e-4 * (std::abs(d[0]) + std::abs(d[1])), "the gradient of a logit");      // both shares are a half
  }
}

}  // namespace

namespace battery {
std::vector<check> moe_checks() {
  return {{"adapters", adapters_and_gradients}, {"ranks", ranks_end_in_zeros}, {"experts", experts_of_tokens}, {"skills", skills_are_mixed}, {"sparse", sparse_entries_are_added}, {"shared rows", rows_that_are_shared}};
}
}  // namespace battery
