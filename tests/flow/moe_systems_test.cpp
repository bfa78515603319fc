// What composes layers of experts - flex_more, stem, versatile_ffn, adapted_experts - against the definition, token by token, in double; and what
// gradients of shared rows are made of.
#include "moe_problem.hpp"
#include <smalti/flow/adapted_experts.hpp>
#include <smalti/flow/flex_more.hpp>
#include <smalti/flow/versatile_ffn.hpp>
#include <smalti/ops/moe/sum_by_id.hpp>
#include <smalti/policy/formats.hpp>

using namespace smalti;
using namespace test;
using namespace moe_problem;

namespace {

// Each token's weighted sum over its two slots. An expert's h is rounded; `rounding`: of what stands between h and the last product, relative.
void require_combined(const array<float>& y, const array<bf16>& x, const routing& r, const expert_weights& real, int most, double rounding) {
  const int wide = real.wide, inner = real.inner, tokens = int(y.size()) / wide;
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
          bound[c] += r.weight[s] * real.down_size[at] * (1.01 * v.h_error[i] + (1.02 * rounding + (inner + most + 20) * single) * std::abs(v.h[i]));
        }
    }
    for (int c = 0; c < wide; ++c)
      if (const double got = y[std::size_t(t) * wide + c]; !(std::abs(got - want[c]) <= bound[c] + 1e-30)) {
        CAPTURE(t, c, want[c], got, bound[c]);
        REQUIRE(std::abs(got - want[c]) <= bound[c]);
      }
  }
}

}  // namespace

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
    run_op<op>(context, a);
    REQUIRE(y.guarded());
    if (!before.empty()) REQUIRE(std::memcmp(before.data(), y.data(), y.size() * sizeof(float)) == 0);
    before.assign(y.begin(), y.end());
  });
  // the sum over choices that the shared part takes is rounded once more
  require_combined(y, x, r, real, most, bf16_rounding);
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
      h[i] = f(sum) * u, h_error[i] = 1.1 * (wide + 12) * single * size * std::abs(u) + (bf16_rounding * 1.01 + 0x1p-19) * std::abs(h[i]) + 0x1p-60;
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

TEST_CASE("moe: one layer used wide and deep", "[flow][moe]") {
  using op = moe::versatile_ffn<bf16, policy::silu, float>;
  std::mt19937 generator(moe_seed);
  const int wide = 40, inner = 64, parts = 4, most = 3;
  const dense_weights w(1, inner, wide, generator);
  for (const int tokens : {1, 27}) {
    const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator);
    std::vector<int> late(tokens);
    for (int t = 0; t < tokens; ++t) late[t] = tokens == 1 ? 0 : int(generator() % most);      // expert most - loops: 0 loops longest
    const routing choice(choose(tokens, 2, parts, 0, generator), tokens, 2, parts, 1, 0, generator), loops(late, tokens, 1, most, tokens == 1 ? 1 : 4, 0, generator);
    array<std::int32_t> bounds(2);
    bounds[0] = 0, bounds[1] = loops.limit;
    array<float> share = random_array<float>(tokens, generator), y(std::size_t(tokens) * wide);
    for (const bool both : {true, false}) {
      std::vector<float> first;
      for_each_context(moe_seed, [&](const auto& context) {
        op::args a{.x = {x.data(), tokens, wide, wide}, .gate = {w.gate.data(), inner, wide, wide}, .up = {w.up.data(), inner, wide, wide}, .down = {w.down.data(), wide, inner, inner}, .deep = loops.index(), .share = share.data(),
                   .bounds = bounds.data(), .y = {y.data(), tokens, wide, wide}};
        if (both) a.wide = choice.index();
        run_op<op>(context, a);
        REQUIRE(y.guarded());
        if (!first.empty()) REQUIRE(std::memcmp(first.data(), y.data(), y.size() * sizeof(float)) == 0);
        first.assign(y.begin(), y.end());
      });
      for (int t = 0; t < tokens; ++t) {
        std::vector<double> now(wide), error(wide), want(wide), bound(wide, 1e-30);
        for (int c = 0; c < wide; ++c) now[c] = value(x[std::size_t(t) * wide + c]);
        const std::vector<double> token = now;
        for (int n = 0; n < most - late[t]; ++n) {
          // F of the values so far; what they are off by passes through both products, whose slopes are at most 1.1 |up| and |f(gate)|
          std::vector<double> next(wide), off(wide);
          const slot_values v(now.data(), w.real, 0, true);
          for (int i = 0; i < inner; ++i) {
            double gate_off = 0, up_off = 0;
            for (int c = 0; c < wide; ++c) gate_off += w.real.gate_size[std::size_t(i) * wide + c] * error[c], up_off += w.real.up_size[std::size_t(i) * wide + c] * error[c];
            const double h_off = v.h_error[i] + 1.1 * gate_off * (std::abs(v.up[i]) + up_off) + std::abs(f(v.gate[i])) * up_off;
            for (int c = 0; c < wide; ++c) next[c] += w.real.down[std::size_t(c) * inner + i] * v.h[i], off[c] += w.real.down_size[std::size_t(c) * inner + i] * (h_off * 1.01 + (inner + 4) * single * std::abs(v.h[i]));
          }
          for (int c = 0; c < wide; ++c) off[c] += bf16_rounding * (std::abs(next[c]) + off[c]);      // rounded to bf16 after each turn
          now = next, error = off;
        }
        for (int c = 0; c < wide; ++c) want[c] = loops.weight[t] * now[c], bound[c] += loops.weight[t] * error[c] + 4 * single * std::abs(want[c]);
        for (int j = 0; both && j < 2; ++j) {
          const int s = 2 * t + j;
          if (choice.row_of_slot[s] < 0) continue;
          const slot_values v(token.data(), w.real, 0, true);
          for (int i = choice.ids[s] * inner / parts; i < (choice.ids[s] + 1) * inner / parts; ++i)
            for (int c = 0; c < wide; ++c) {
              const double by = share[t] * choice.weight[s] * w.real.down[std::size_t(c) * inner + i];
              want[c] += by * v.h[i], bound[c] += std::abs(by) * (v.h_error[i] + (inner + 16) * single * std::abs(v.h[i]));
            }
        }
        for (int c = 0; c < wide; ++c)
          if (const double got = y[std::size_t(t) * wide + c]; !(std::abs(got - want[c]) <= bound[c] + 4 * single * std::abs(want[c]))) {
            CAPTURE(tokens, both, t, c, want[c], got, bound[c]);
            REQUIRE(std::abs(got - want[c]) <= bound[c]);
          }
      }
    }
  }
#if !defined(__CUDACC__)
  op::args bad{.gate = {w.gate.data(), inner, wide, wide}};
  REQUIRE(std::string(op::check(any_context(), bad).what).find("deep needs") == 0);
#endif
}

TEST_CASE("moe: experts with adapters of each request", "[flow][moe][lora]") {
  using op = moe::adapted_experts<bf16, policy::silu, float>;
  std::mt19937 generator(moe_seed);
  const int experts = 3, adapters = 2, wide = 40, inner = 56, tokens = 23, pairs = experts * adapters, groups = experts * (adapters + 1);
  const std::vector<int> ranks{12, 24, 3, 0, 12, 7};
  const int lines = 58 + 3, most = 24;      // 61 is prime
  const dense_weights w(experts, inner, wide, generator);
  array<int> first(pairs), count(pairs), line(lines), expert(groups), pair(groups);
  array<float> scale(pairs);
  for (int e = 0, used = 0; e < pairs; used += ranks[e++]) first[e] = used, count[e] = ranks[e], scale[e] = 0.5f + float(e) / 4;
  for (int i = 0; i < lines; ++i) line[i] = (i * 7) % lines;
  for (int g = 0; g < groups; ++g) expert[g] = moe::expert_of_group(g, adapters), pair[g] = moe::pair_of_group(g, adapters, experts);
  struct low_rank { array<bf16> a, b; };
  const auto draw = [&](int from, int to) { return low_rank{random_array<bf16>(std::size_t(lines) * from, generator, 0.2f), random_array<bf16>(std::size_t(lines) * to, generator, 0.2f)}; };
  const low_rank gate = draw(wide, inner), up = draw(wide, inner), down = draw(inner, wide);
  const auto pages = [&](const low_rank& l, int from, int to) {
    return lora::adapters<bf16>{.a = {.pool = {l.a.data(), lines, from, from}, .first = first.data(), .count = count.data(), .line = line.data(), .weights = pairs, .most = most, .lines = lines},
                                .b = {.pool = {l.b.data(), lines, to, to}, .first = first.data(), .count = count.data(), .line = line.data(), .scale = scale.data(), .weights = pairs, .most = most, .lines = lines}};
  };
  expert_weights real{inner, wide, {}, {}, {}, {}, {}, {}};      // of each group
  const auto whole = [&](const low_rank& l, const std::vector<double>& base, int from, int to, std::vector<double>& values, std::vector<double>& sizes) {
    for (int g = 0; g < groups; ++g)
      for (int j = 0; j < to; ++j)
        for (int c = 0; c < from; ++c) {
          double v = base[(std::size_t(expert[g]) * to + j) * from + c], size = std::abs(v);
          for (int q = 0; pair[g] >= 0 && q < ranks[pair[g]]; ++q) {
            const std::size_t at = line[first[pair[g]] + q];
            const double t = double(scale[pair[g]]) * value(l.b[at * to + j]) * value(l.a[at * from + c]);
            v += t, size += std::abs(t);
          }
          values.push_back(v), sizes.push_back(size);
        }
  };
  whole(gate, w.real.gate, wide, inner, real.gate, real.gate_size), whole(up, w.real.up, wide, inner, real.up, real.up_size), whole(down, w.real.down, inner, wide, real.down, real.down_size);
  const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator);
  std::vector<int> ids = choose(tokens, 2, experts, 0, generator), adapter(tokens);
  for (int t = 0; t < tokens; ++t) {
    adapter[t] = int(generator() % (adapters + 1)) - 1;
    for (int j = 0; j < 2; ++j)
      if (int& id = ids[2 * t + j]; id >= 0) id = id >= experts ? groups : moe::group_of_pair(id, adapter[t], adapters);
  }
  for (int e = 0; e < experts; ++e)
    for (int l = -1; l < adapters; ++l) REQUIRE(moe::expert_of_group(moe::group_of_pair(e, l, adapters), adapters) == e);
  const routing r(ids, tokens, 2, groups, 4, 0, generator);
  array<float> y(std::size_t(tokens) * wide);
  std::vector<float> before;
  for_each_context(moe_seed, [&](const auto& context) {
    op::args a{.x = {x.data(), tokens, wide, wide}, .index = r.index(), .expert = expert.data(), .pair = pair.data(), .gate = w.in(w.gate), .up = w.in(w.up), .down = w.out(),
               .gate_update = pages(gate, wide, inner), .up_update = pages(up, wide, inner), .down_update = pages(down, inner, wide), .y = {y.data(), tokens, wide, wide}};
    run_op<op>(context, a);
    REQUIRE(y.guarded());
    if (!before.empty()) REQUIRE(std::memcmp(before.data(), y.data(), y.size() * sizeof(float)) == 0);
    before.assign(y.begin(), y.end());
    a.pair = nullptr;
    REQUIRE(op::check(context, a).code == errc::null_pointer);
  });
  require_combined(y, x, r, real, most, 0);
}

TEST_CASE("moe: rows added by their ids, and products of rows", "[flow][moe]") {
  std::mt19937 generator(moe_seed);
  using op = moe::sum_by_id<bf16>;
  using dots = moe::row_dots<bf16, bf16>;
  const struct { int rows, copies, cols, ids; } sizes[] = {{1, 1, 8, 3}, {37, 2, 520, 11}, {64, 1, 24, 1}, {0, 1, 16, 5}};
  for (const auto& size : sizes) {
    const int rows = size.rows, copies = size.copies, cols = size.cols, ids = size.ids;
    CAPTURE(moe_seed, rows, copies, cols, ids);
    const array<bf16> x = random_array<bf16>(std::size_t(std::max(rows, 1)) * cols, generator), other = random_array<bf16>(x.size(), generator);
    array<int> id(std::size_t(rows) * copies + 1), row(std::size_t(rows) + 1);
    for (int& i : id) i = int(generator() % (ids + 2)) + 2;      // from 3 on are counted: 2 and ids + 3 are not
    for (int& i : row) i = rows > 0 ? int(generator() % (rows + 1)) - 1 : -1;
    const array<float> weight = random_array<float>(id.size(), generator);
    array<float> y(std::size_t(ids) * cols), dot(std::size_t(rows) + 1);
    for (const bool weighted : {false, true}) {
      std::vector<float> first;
      for_each_context(moe_seed, [&](const auto& context) {
        std::memset(y.data(), 0xFF, y.size() * sizeof(float));
        run_op<op>(context, {.x = {x.data(), rows, cols, cols}, .id = id.data(), .weight = weighted ? weight.data() : nullptr, .y = {y.data(), ids, cols, cols}, .copies = copies, .first = 3});
        REQUIRE(y.guarded());
        if (!first.empty()) REQUIRE(std::memcmp(first.data(), y.data(), y.size() * sizeof(float)) == 0);
        first.assign(y.begin(), y.end());
        run_op<dots>(context, {.a = {x.data(), rows, cols, cols}, .b = {other.data(), rows, cols, cols}, .row = weighted ? row.data() : nullptr, .dot = dot.data()});
        REQUIRE(dot.guarded());
      });
      for (int v = 0; v < ids; ++v)
        for (int c = 0; c < cols; ++c) {
          double want = 0, size = 0;
          int count = 0;
          for (int i = 0; i < rows * copies; ++i)
            if (id[i] == v + 3) {
              const double t = value(x[std::size_t(i / copies) * cols + c]) * (weighted ? weight[i] : 1.0);
              want += t, size += std::abs(t), ++count;
            }
          if (!(std::abs(y[std::size_t(v) * cols + c] - want) <= (count + 1) * single * size)) {
            CAPTURE(v, c, want, y[std::size_t(v) * cols + c]);
            REQUIRE(std::abs(y[std::size_t(v) * cols + c] - want) <= (count + 1) * single * size);
          }
        }
      for (int t = 0; t < rows; ++t) {
        const int with = weighted ? row[t] : t;
        double want = 0, size = 0;
        for (int c = 0; with >= 0 && c < cols; ++c) want += value(x[std::size_t(t) * cols + c]) * value(other[std::size_t(with) * cols + c]), size += std::abs(value(x[std::size_t(t) * cols + c]) * value(other[std::size_t(with) * cols + c]));
        CAPTURE(t, want, dot[t]);
        REQUIRE(std::abs(dot[t] - want) <= (cols + 1) * single * size);
      }
    }
  }
  op::args bad{};
  bad.x.rows = 2, bad.copies = 0;
  const auto refused = [&](const char* word) {
    const status st = op::check(any_context(), bad);
    CAPTURE(st.what);
    return !st && std::string(st.what).find(word) == 0;
  };
  REQUIRE(refused("copies"));
  bad.copies = 1;
  REQUIRE(refused("id is null"));
  bad.first = -1;
  REQUIRE(refused("first"));
  REQUIRE(std::string(dots::check(any_context(), {.a = {nullptr, 0, 8, 8}, .b = {nullptr, 0, 16, 16}}).what).find("a and b") == 0);
}
