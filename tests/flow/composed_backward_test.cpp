// Gradients of layers that are composed of others - experts: stem, flex_more, versatile_ffn, adapted_experts; adapters: mhr, dsee, we_lore -
// against the definition on a tape, in double, which differences check.
#include "lora_problem.hpp"
#include "tape_problem.hpp"
#include <smalti/flow/experts_backward.hpp>
#include <smalti/flow/lora_backward.hpp>
#include <smalti/flow/stem_backward.hpp>

using namespace tape_problem;

TEST_CASE("moe: gradients of a layer over an embedding", "[flow][moe]") {
  using op = moe::stem_backward<bf16, policy::silu, float>;
  std::mt19937 generator(moe_seed);
  const int wide = 24, inner = 40, vocabulary = 9;
  const dense_weights w(1, inner, wide, generator);
  const array<bf16> table = random_array<bf16>(std::size_t(vocabulary) * inner, generator);
  for (const int tokens : {17, 1, 0}) {
    CAPTURE(moe_seed, tokens);
    const array<bf16> x = random_array<bf16>(std::size_t(std::max(tokens, 1)) * wide, generator), dy = random_array<bf16>(x.size(), generator);
    array<int> id(std::size_t(tokens) + 1);
    for (int& i : id) i = int(generator() % 4) * 2;      // ids several times; odd ones never
    const std::vector<double> seed = values_of(dy, tokens * wide);
    matrix places[4];      // x, gate, down, table
    const auto define = [&](tape& t, nudge n) {
      places[0] = leaves(t, x.data(), tokens, wide, n), places[1] = leaves(t, w.gate.data(), inner, wide, n), places[2] = leaves(t, w.down.data(), wide, inner, n), places[3] = leaves(t, table.data(), vocabulary, inner, n);
      std::vector<int> y;
      for (int r = 0; r < tokens; ++r) {
        const std::vector<int> z = times(t, places[1], row_of(places[0], r));
        const std::vector<int> h = each(z, [&](int i) {
          return t.rounded(t.product(t.silu(t.gradient_rounded(z[i], bf16_rounding)), t.gradient_rounded(places[3](id[r], i), bf16_rounding)), bf16_rounding);
        });
        for (int v : times(t, places[2], h)) y.push_back(v);
      }
      return y;
    };
    const tape t = walked(define, seed);
    const matrix known[4] = {places[0], places[1], places[2], places[3]};
    if (tokens == 17) by_differences(define, seed, t, {known[0](3, 5), known[0](16, 0), known[1](7, 7), known[1](39, 23), known[2](1, 1), known[2](23, 39), known[3](2, 3), known[3](0, 39)});
    array<float> dx(x.size()), d_gate(std::size_t(inner) * wide), d_down(d_gate.size()), d_table(table.size());
    std::vector<float> first;
    for_each_context(moe_seed, [&](const auto& context) {
      for (array<float>* a : {&dx, &d_gate, &d_down, &d_table}) std::memset(a->data(), 0xFF, a->size() * sizeof(float));
      op::args a{.x = {x.data(), tokens, wide, wide}, .dy = {dy.data(), tokens, wide, wide}, .id = id.data(), .gate = {w.gate.data(), inner, wide, wide}, .down = {w.down.data(), wide, inner, inner}, .table = {table.data(), vocabulary, inner, inner},
                 .dx = {dx.data(), tokens, wide, wide}, .d_gate = {d_gate.data(), inner, wide, wide}, .d_down = {d_down.data(), wide, inner, inner}, .d_table = {d_table.data(), vocabulary, inner, inner}};
      run_op<op>(context, a);
      if (tokens == 17) {
        same_gradients("dx", dx, t, known[0].at), same_gradients("d_gate", d_gate, t, known[1].at), same_gradients("d_down", d_down, t, known[2].at), same_gradients("d_table", d_table, t, known[3].at);
        if (!first.empty()) REQUIRE(std::memcmp(first.data(), d_table.data(), first.size() * sizeof(float)) == 0);
        first.assign(d_table.begin(), d_table.end());
      } else if (tokens == 0) {
        for (array<float>* g : {&d_gate, &d_down, &d_table})
          for (float v : *g) REQUIRE(v == 0);
      }
      a.d_gate = {}, a.d_down = {}, a.d_table = {};      // frozen weights: dx alone
      run_op<op>(context, a);
      const auto refused = [&](op::args bad, errc code, const char* word) {
        const status st = op::check(context, bad);
        CAPTURE(st.what, word);
        REQUIRE((st.code == code && std::string(st.what).find(word) == 0));
      };
      auto bad = a;
      bad.table.cols = 8, refused(bad, errc::bad_shape, "table"), bad = a;
      bad.d_table = {d_table.data(), 1, inner, inner}, refused(bad, errc::bad_shape, "d_table"), bad = a;
      if (tokens == 0) return;
      bad.id = nullptr, refused(bad, errc::null_pointer, "id"), bad = a;
      bad.dy.rows = 0, refused(bad, errc::bad_shape, "dy"), bad = a;
      bad.d_gate = {dx.data(), inner, wide, wide}, refused(bad, errc::aliased, "dx, d_gate");
    });
#if !defined(__CUDACC__)
    if (tokens == 0) continue;
    op::args bad{.x = {x.data(), tokens, wide, wide}, .dy = {dy.data(), tokens, wide, wide}, .id = id.data(), .gate = {w.gate.data(), inner, wide, wide}, .down = {w.down.data(), wide, inner, inner}, .table = {table.data(), vocabulary, inner, inner}, .dx = {dx.data(), tokens, wide, wide}};
    id[0] = vocabulary;
    REQUIRE(op::check(any_context(), bad).code == errc::bad_value);
#endif
  }
}

TEST_CASE("lora: gradients of skills and of their logits", "[flow][lora]") {
  using backward = lora::sgmv_backward<bf16, bf16, float>;
  using op = lora::mhr_backward<bf16>;
  std::mt19937 generator(moe_seed);
  const int tasks = 3, heads = 2, skills = 5, rank = 12, wide = 48, high = 40, most = 16, rows = 19, segments = 4;
  const array<bf16> skills_a = random_array<bf16>(std::size_t(skills) * rank * wide, generator, 0.2f), skills_b = random_array<bf16>(std::size_t(skills) * rank * high, generator, 0.2f), x = random_array<bf16>(std::size_t(rows) * wide, generator),
                    dy = random_array<bf16>(std::size_t(rows) * high, generator);
  const array<float> logits = random_array<float>(std::size_t(tasks) * heads * skills, generator, 2.0f);
  array<std::int32_t> offsets(segments + 1);
  array<int> task(segments), first(tasks), count(tasks), line(std::size_t(tasks) * rank);
  array<float> scale(tasks);
  for (int s = 0; s <= segments; ++s) offsets[s] = std::vector<int>{0, 5, 12, 15, 19}[s];
  for (int s = 0; s < segments; ++s) task[s] = std::vector<int>{2, 0, -1, 2}[s];      // a task of two segments, one of none
  for (int t = 0; t < tasks; ++t) first[t] = t * rank, count[t] = rank, scale[t] = 0.5f + float(t);
  for (std::size_t i = 0; i < line.size(); ++i) line[i] = int(i);
  matrix of_a, of_b, of_z;
  const auto define = [&](tape& t, nudge n) {
    of_a = leaves(t, skills_a.data(), skills * rank, wide, n), of_b = leaves(t, skills_b.data(), skills * rank, high, n), of_z = leaves(t, logits.data(), tasks * heads, skills, n);
    std::vector<std::vector<int>> share;
    for (int g = 0; g < tasks * heads; ++g) {
      std::vector<int> s = each(row_of(of_z, g), [&](int q) { return t.sigmoid(of_z(g, q)); }), all = s;
      all.push_back(t.leaf(1e-12));
      const int by = t.reciprocal(t.sum(all), 0.2);
      share.push_back(each(s, [&](int q) { return t.product(s[q], by); }));
    }
    const auto mixed = [&](const matrix& of, int e, int q, int c) {
      std::vector<std::pair<int, int>> terms;
      for (int s = 0; s < skills; ++s) terms.push_back({share[e * heads + c / (of.cols / heads)][s], of(s * rank + q, c)});
      return t.rounded(t.dot(terms), bf16_rounding);
    };
    std::vector<int> y;
    for (int s = 0; s < segments; ++s) {
      matrix a{rank, wide}, b{rank, high};
      for (int q = 0; task[s] >= 0 && q < rank; ++q) {
        for (int c = 0; c < wide; ++c) a.at.push_back(mixed(of_a, task[s], q, c));
        for (int c = 0; c < high; ++c) b.at.push_back(mixed(of_b, task[s], q, c));
      }
      for (int r = offsets[s]; r < offsets[s + 1]; ++r) {
        std::vector<int> values;
        for (int c = 0; c < wide; ++c) values.push_back(t.leaf(value(x[std::size_t(r) * wide + c]) * (task[s] < 0 ? 0 : scale[task[s]])));
        if (task[s] >= 0) values = times(t, a, values);
        for (int j = 0; j < high; ++j) {
          std::vector<std::pair<int, int>> terms;
          for (int q = 0; task[s] >= 0 && q < rank; ++q) terms.push_back({values[q], b(q, j)});
          y.push_back(t.dot(terms));
        }
      }
    }
    return y;
  };
  const std::vector<double> seed = values_of(dy, int(dy.size()));
  const tape t = walked(define, seed);
  const std::vector<int> at_a = of_a.at, at_b = of_b.at, at_z = of_z.at;
  by_differences(define, seed, t, {at_a[0], at_a[700], at_b[31], at_b[2000], at_z[0], at_z[7], at_z[25], at_z[29]});

  array<bf16> mixed_a(std::size_t(tasks) * rank * wide), mixed_b(std::size_t(tasks) * rank * high);
  array<float> da(std::size_t(segments) * most * wide), db(std::size_t(segments) * most * high), d_skills_a(skills_a.size()), d_skills_b(skills_b.size()), d_logits(logits.size());
  const auto of = [&](const array<bf16>& a, int cols) { return stack<const bf16>{a.data(), int(a.size()) / (rank * cols), rank, cols, static_cast<long long>(rank) * cols, cols}; };
  std::vector<float> before;
  for_each_context(moe_seed, [&](const auto& context) {
    run_op<lora::mhr<bf16>>(context, {of(skills_a, wide), logits.data(), {mixed_a.data(), tasks, rank, wide, rank * wide, wide}, heads});
    run_op<lora::mhr<bf16>>(context, {of(skills_b, high), logits.data(), {mixed_b.data(), tasks, rank, high, rank * high, high}, heads});
    backward::args u{.x = {x.data(), rows, wide, wide}, .dy = {dy.data(), rows, high, high}, .rows = {offsets.data(), segments}, .adapter = task.data(),
                     .weights = {.a = {.pool = {mixed_a.data(), tasks * rank, wide, wide}, .first = first.data(), .count = count.data(), .line = line.data(), .weights = tasks, .most = rank, .lines = tasks * rank},
                                 .b = {.pool = {mixed_b.data(), tasks * rank, high, high}, .first = first.data(), .count = count.data(), .line = line.data(), .scale = scale.data(), .weights = tasks, .most = rank, .lines = tasks * rank}},
                     .da = {da.data(), segments, most, wide, most * wide, wide}, .db = {db.data(), segments, most, high, most * high, high}};      // dx is not wanted
    run_op<backward>(context, u);
    op::args a{.skills = of(skills_a, wide), .logits = logits.data(), .d_mixed = {da.data(), segments, most, wide, most * wide, wide}, .task = task.data(), .tasks = tasks, .heads = heads,
               .d_skills = {d_skills_a.data(), skills, rank, wide, rank * wide, wide}, .d_logits = d_logits.data()};
    run_op<op>(context, a);
    op::args b{.skills = of(skills_b, high), .logits = logits.data(), .d_mixed = {db.data(), segments, most, high, most * high, high}, .task = task.data(), .tasks = tasks, .heads = heads,
               .d_skills = {d_skills_b.data(), skills, rank, high, rank * high, high}, .d_logits = d_logits.data(), .adds_logits = true};
    run_op<op>(context, b);
    same_gradients("d_skills of A", d_skills_a, t, at_a), same_gradients("d_skills of B", d_skills_b, t, at_b), same_gradients("d_logits", d_logits, t, at_z);
    if (!before.empty()) REQUIRE(std::memcmp(before.data(), d_logits.data(), before.size() * sizeof(float)) == 0);
    before.assign(d_logits.begin(), d_logits.end());
    // a matrix for each task: the same sums
    array<float> whole(std::size_t(tasks) * rank * wide), again(logits.size());
    for (int e = 0; e < tasks; ++e)
      for (int i = 0; i < rank * wide; ++i) {
        float sum = 0;
        for (int s = 0; s < segments; ++s)
          if (task[s] == e) sum += da[std::size_t(s) * most * wide + i];
        whole[std::size_t(e) * rank * wide + i] = sum;
      }
    a.d_mixed = {whole.data(), tasks, rank, wide, rank * wide, wide}, a.task = nullptr, a.d_logits = nullptr;
    const std::vector<float> skills_before(d_skills_a.begin(), d_skills_a.end());
    run_op<op>(context, a);
    REQUIRE(std::memcmp(skills_before.data(), d_skills_a.data(), skills_before.size() * sizeof(float)) == 0);
    const auto refused = [&](op::args bad, errc code, const char* word) {
      const status st = op::check(context, bad);
      CAPTURE(st.what, word);
      REQUIRE((st.code == code && std::string(st.what).find(word) == 0));
    };
    auto bad = b;
    bad.heads = 3, refused(bad, errc::bad_shape, "heads"), bad = b;
    bad.logits = nullptr, refused(bad, errc::null_pointer, "logits"), bad = b;
    bad.d_mixed.rows = 8, refused(bad, errc::bad_shape, "d_mixed"), bad = b;
    bad.task = nullptr, refused(bad, errc::bad_shape, "d_mixed needs a matrix for each task"), bad = b;
    bad.d_skills.count = 4, refused(bad, errc::bad_shape, "d_skills"), bad = b;
    bad.d_skills.distance = 8, refused(bad, errc::aliased, "d_skills"), bad = b;
    bad.skills.count = 0, refused(bad, errc::bad_shape, "skills");
#if !defined(__CUDACC__)
    bad = b, bad.tasks = 2, refused(bad, errc::bad_value, "task");
#endif
  });
}

TEST_CASE("lora: gradients of a layer of two factors", "[flow][lora]") {
  using op = lora::we_lore_backward<bf16, float>;
  std::mt19937 generator(moe_seed);
  const int rows = 13, wide = 40, high = 24, rank = 16;
  const array<bf16> x = random_array<bf16>(std::size_t(rows) * wide, generator), dy = random_array<bf16>(std::size_t(rows) * high, generator), a = random_array<bf16>(std::size_t(rank) * wide, generator, 0.2f), b = random_array<bf16>(std::size_t(high) * rank, generator, 0.2f);
  matrix of_x, of_a, of_b;
  const auto define = [&](tape& t, nudge n) {
    of_x = leaves(t, x.data(), rows, wide, n), of_a = leaves(t, a.data(), rank, wide, n), of_b = leaves(t, b.data(), high, rank, n);
    std::vector<int> y;
    for (int r = 0; r < rows; ++r) {
      std::vector<int> v = times(t, of_a, row_of(of_x, r));
      v = each(v, [&](int q) { return t.rounded(t.gradient_rounded(v[q], bf16_rounding), bf16_rounding); });
      for (int j : times(t, of_b, v)) y.push_back(j);
    }
    return y;
  };
  const std::vector<double> seed = values_of(dy, int(dy.size()));
  const tape t = walked(define, seed);
  const std::vector<int> at_x = of_x.at, at_a = of_a.at, at_b = of_b.at;
  by_differences(define, seed, t, {at_x[0], at_x[519], at_a[41], at_b[383]});
  array<float> dx(x.size()), da(a.size()), db(b.size());
  for_each_context(moe_seed, [&](const auto& context) {
    op::args g{.x = {x.data(), rows, wide, wide}, .dy = {dy.data(), rows, high, high}, .a = {a.data(), rank, wide, wide}, .b = {b.data(), high, rank, rank}, .dx = {dx.data(), rows, wide, wide}, .da = {da.data(), rank, wide, wide}, .db = {db.data(), high, rank, rank}};
    run_op<op>(context, g);
    same_gradients("dx", dx, t, at_x), same_gradients("da", da, t, at_a), same_gradients("db", db, t, at_b);
    auto bad = g;
    bad.b.cols = 8;
    REQUIRE(std::string(op::check(context, bad).what).find("a and b") == 0);
    bad = g, bad.da.data = dx.data();
    REQUIRE(op::check(context, bad).code == errc::aliased);
    g.da = {}, g.db = {}, run_op<op>(context, g);
  });
}

TEST_CASE("lora: gradients of sparse and low-rank updates of one layer", "[flow][lora]") {
  using op = lora::dsee_backward<lora::through_dense<bf16, float>, bf16, float>;
  std::mt19937 generator(moe_seed);
  const lora_problem::bank w({12, 5}, 40, 72, generator);
  const lora_problem::batch l({5, 0, 6}, 2, generator);
  const int wide = w.wide, high = w.high, rows = l.rows, entries = 40, most = 16, segments = int(l.lengths.size());
  array<bf16> weight = random_array<bf16>(std::size_t(high) * wide, generator, 0.2f);
  for (auto& v : weight)
    if (generator() % 2 == 0) v = narrow<bf16>(0.0f);      // pruned
  const array<bf16> x = random_array<bf16>(std::size_t(rows) * wide, generator), dy = random_array<bf16>(std::size_t(rows) * high, generator);
  const array<float> values = random_array<float>(entries, generator);
  std::vector<std::pair<int, int>> places{{0, 0}, {0, 39}, {71, 0}, {71, 39}};
  while (places.size() < std::size_t(entries))
    if (const std::pair<int, int> p(int(generator() % 72), int(generator() % 8) * 5); std::find(places.begin(), places.end(), p) == places.end()) places.push_back(p);
  std::sort(places.begin(), places.end());
  array<int> first(std::size_t(high) + 1), column(entries), output(entries), input_first(std::size_t(wide) + 1), input_output(entries), input_entry(entries);
  for (int e = 0; e < entries; ++e) output[e] = places[e].first, column[e] = places[e].second;
  for (int i = 0; i <= high; ++i) first[i] = int(std::count_if(places.begin(), places.end(), [&](const auto& p) { return p.first < i; }));
  for (int j = 0, at = 0; j <= wide; ++j) {
    input_first[j] = at;
    for (int e = 0; e < entries; ++e)
      if (column[e] == j) input_output[at] = output[e], input_entry[at++] = e;
  }
  matrix of_x, of_a, of_b, of_s;
  const auto define = [&](tape& t, nudge n) {
    of_x = leaves(t, x.data(), rows, wide, n), of_a = leaves(t, w.a.data(), w.cells, wide, n), of_b = leaves(t, w.b.data(), w.cells, high, n), of_s = leaves(t, values.data(), 1, entries, n);
    const matrix base = leaves(t, weight.data(), high, wide, n);
    std::vector<int> y;
    for (int r = 0; r < rows; ++r) {
      const int e = l.of_row[r];
      std::vector<int> v;
      for (int q = 0; e >= 0 && q < w.ranks[e]; ++q) {
        std::vector<std::pair<int, int>> terms;
        for (int c = 0; c < wide; ++c) terms.push_back({of_x(r, c), of_a(w.page[w.first[e] + q], c)});
        v.push_back(t.product(t.dot(terms), t.leaf(w.scale[e])));
      }
      for (int i = 0; i < high; ++i) {
        std::vector<std::pair<int, int>> terms;
        for (int c = 0; c < wide; ++c) terms.push_back({of_x(r, c), base(i, c)});
        for (std::size_t q = 0; q < v.size(); ++q) terms.push_back({v[q], of_b(w.page[w.first[e] + int(q)], i)});
        for (int k = first[i]; k < first[i + 1]; ++k) terms.push_back({of_x(r, column[k]), of_s(0, k)});
        y.push_back(t.dot(terms));
      }
    }
    return y;
  };
  const std::vector<double> seed = values_of(dy, int(dy.size()));
  const tape t = walked(define, seed);
  const matrix known_a = of_a, known_b = of_b;
  const std::vector<int> at_x = of_x.at, at_s = of_s.at;
  by_differences(define, seed, t, {at_x[0], at_x[100], at_s[0], at_s[39], at_s[17]});
  array<float> dx(x.size()), da(std::size_t(segments) * most * wide), db(std::size_t(segments) * most * high), d_values(entries);
  for_each_context(moe_seed, [&](const auto& context) {
    op::args a{.w = {weight.data(), high, wide, wide},
               .low_rank = {.x = {x.data(), rows, wide, wide}, .dy = {dy.data(), rows, high, high}, .rows = {l.offsets.data(), segments}, .adapter = l.adapter.data(), .weights = w.view(), .dx = {dx.data(), rows, wide, wide},
                            .da = {da.data(), segments, most, wide, most * wide, wide}, .db = {db.data(), segments, most, high, most * high, high}},
               .sparse = {first.data(), column.data(), values.data(), high, entries}, .output = output.data(), .turned = {input_first.data(), input_output.data(), input_entry.data()}, .d_values = d_values.data()};
    run_op<op>(context, a);
    same_gradients("dx", dx, t, at_x), same_gradients("d_values", d_values, t, at_s);
    // an adapter's gradient is the sum of its segments'
    for (int e = 0; e < 2; ++e)
      for (int q = 0; q < w.ranks[e]; ++q)
        for (int c = 0; c < wide; ++c) {
          double sum = 0;
          for (int s = 0; s < segments; ++s)
            if (l.adapter[s] == e) sum += da[(std::size_t(s) * most + q) * wide + c];
          const int at = known_a(w.page[w.first[e] + q], c);
          REQUIRE(std::abs(sum - t.gradient(at)) <= t.gradient_error(at) + 1e-30);
        }
    const auto refused = [&](op::args bad, errc code, const char* word) {
      const status st = op::check(context, bad);
      CAPTURE(st.what, word);
      REQUIRE((st.code == code && std::string(st.what).find(word) == 0));
    };
    auto bad = a;
    bad.low_rank.dx.data = nullptr, refused(bad, errc::null_pointer, "low_rank.dx"), bad = a;
    bad.turned.entry = nullptr, refused(bad, errc::null_pointer, "turned"), bad = a;
    bad.output = nullptr, refused(bad, errc::null_pointer, "output");
#if !defined(__CUDACC__)
    std::swap(input_entry[0], input_entry[1]);      // two entries of the same input: the values would change places
    refused(a, errc::bad_value, "turned");
    std::swap(input_entry[0], input_entry[1]);
#endif
  });
}

TEST_CASE("moe: gradients of experts of any rank over a shared layer", "[flow][moe]") {
  using op = moe::flex_more_backward<bf16, policy::silu, float>;
  std::mt19937 generator(moe_seed);
  const int experts = 3, wide = 24, inner = 32, tokens = 13;
  const dense_weights shared(1, inner, wide, generator);
  updates gate({3, 0, 20}, wide, inner, generator), up({5, 0, 16}, wide, inner, generator), down({2, 0, 18}, inner, wide, generator);
  const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator), dy = random_array<bf16>(x.size(), generator);
  for (const auto& [alignment, masked] : {std::pair{8, 0}, std::pair{1, 13}}) {
    std::mt19937 same(moe_seed);
    const routing r(choose(tokens, 2, experts, 0, same), tokens, 2, experts, alignment, masked, same);
    matrix of_x, of_gate, of_up, of_down, of_w;
    const auto define = [&](tape& t, nudge n) {
      of_x = leaves(t, x.data(), tokens, wide, n), of_gate = leaves(t, shared.gate.data(), inner, wide, n), of_up = leaves(t, shared.up.data(), inner, wide, n), of_down = leaves(t, shared.down.data(), wide, inner, n);
      of_w = leaves(t, r.weight.data(), tokens, 2, n);
      gate.put(t, n), up.put(t, n), down.put(t, n);
      std::vector<int> y;
      for (int token = 0; token < tokens; ++token) {
        std::vector<std::vector<std::pair<int, int>>> sums(wide);
        for (int j = 0; j < 2; ++j) {
          const int s = 2 * token + j, e = r.ids[s];
          if (r.row_of_slot[s] < 0) continue;
          const std::vector<int> v = row_of(of_x, token), out = down.times(t, of_down, 0, gated(t, gate.times(t, of_gate, 0, v, e), up.times(t, of_up, 0, v, e), 2), e);      // rounded by slots, and summed over choices
          for (int c = 0; c < wide; ++c) sums[c].push_back({of_w(token, j), out[c]});
        }
        for (int c = 0; c < wide; ++c) y.push_back(t.dot(sums[c]));
      }
      return y;
    };
    const std::vector<double> seed = values_of(dy, tokens * wide);
    const tape t = walked(define, seed);
    const matrix known[6] = {gate.of_a, gate.of_b, up.of_a, up.of_b, down.of_a, down.of_b};
    const std::vector<int> at_x = of_x.at, at_gate = of_gate.at, at_up = of_up.at, at_down = of_down.at, at_w = of_w.at;
    if (masked == 0) by_differences(define, seed, t, {at_x[0], at_x[300], at_gate[5], at_up[700], at_down[40], at_w[3], known[0](0, 0), known[3](7, 2), known[5](19, 11)});
    array<float> dx(x.size()), d_gate(at_gate.size()), d_up(at_gate.size()), d_down(at_gate.size()), d_weight(at_w.size());
    array<float> da[3] = {array<float>(std::size_t(experts) * gate.high() * wide), array<float>(std::size_t(experts) * up.high() * wide), array<float>(std::size_t(experts) * down.high() * inner)};
    array<float> db[3] = {array<float>(std::size_t(experts) * gate.high() * inner), array<float>(std::size_t(experts) * up.high() * inner), array<float>(std::size_t(experts) * down.high() * wide)};
    for_each_context(moe_seed, [&](const auto& context) {
      const auto trained = [&](const updates& u, int i) { return moe::trained_update<bf16>{u.view(), gradient_stack(da[i], experts, u.high(), u.from), gradient_stack(db[i], experts, u.high(), u.to)}; };
      op::args a{.x = {x.data(), tokens, wide, wide}, .dy = {dy.data(), tokens, wide, wide}, .index = r.index(), .gate = {shared.gate.data(), inner, wide, wide}, .up = {shared.up.data(), inner, wide, wide}, .down = {shared.down.data(), wide, inner, inner},
                 .gate_update = trained(gate, 0), .up_update = trained(up, 1), .down_update = trained(down, 2), .dx = {dx.data(), tokens, wide, wide}, .d_gate = {d_gate.data(), inner, wide, wide}, .d_up = {d_up.data(), inner, wide, wide},
                 .d_down = {d_down.data(), wide, inner, inner}, .d_weight = d_weight.data()};
      run_op<op>(context, a);
      same_gradients("dx", dx, t, at_x), same_gradients("d_gate", d_gate, t, at_gate), same_gradients("d_up", d_up, t, at_up), same_gradients("d_down", d_down, t, at_down), same_gradients("d_weight", d_weight, t, at_w);
      gate.same("gate", da[0], db[0], experts, t, known[0], known[1], {0, 1, 2}), up.same("up", da[1], db[1], experts, t, known[2], known[3], {0, 1, 2}), down.same("down", da[2], db[2], experts, t, known[4], known[5], {0, 1, 2});
      const auto refused = [&](op::args bad, errc code, const char* word) {
        const status st = op::check(context, bad);
        CAPTURE(st.what, word);
        REQUIRE((st.code == code && std::string(st.what).find(word) == 0));
      };
      auto bad = a;
      bad.dy.rows = 1, refused(bad, errc::bad_shape, "dy"), bad = a;
      bad.dx.cols = 8, refused(bad, errc::bad_shape, "dx"), bad = a;
      bad.gate_update.da.rows = 16, refused(bad, errc::bad_shape, "da"), bad = a;
      bad.down_update.db.count = 2, refused(bad, errc::bad_shape, "db"), bad = a;
      bad.up_update.weights.a.pool.cols = 16, refused(bad, errc::bad_shape, "update.a"), bad = a;
      bad.up_update.weights.b.most = 24, refused(bad, errc::bad_shape, "adapters"), bad = a;
      bad.d_weight = nullptr, refused(bad, errc::null_pointer, "d_weight"), bad = a;
      a.d_gate = a.d_up = a.d_down = {}, a.gate_update.da = a.gate_update.db = {};      // frozen: the others have the same bits
      const std::vector<float> was(dx.begin(), dx.end());
      run_op<op>(context, a);
      REQUIRE(std::memcmp(was.data(), dx.data(), was.size() * sizeof(float)) == 0);
    });
  }
}

TEST_CASE("moe: gradients of experts with adapters of each request", "[flow][moe][lora]") {
  using op = moe::adapted_experts_backward<bf16, policy::silu, float>;
  std::mt19937 generator(moe_seed);
  const int experts = 2, adapters = 2, groups = experts * (adapters + 1), wide = 24, inner = 32, tokens = 15;
  const dense_weights w(experts, inner, wide, generator);
  updates gate({3, 12, 7, 20}, wide, inner, generator), up({5, 1, 0, 16}, wide, inner, generator), down({2, 8, 4, 18}, inner, wide, generator);
  const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator), dy = random_array<bf16>(x.size(), generator);
  array<int> expert(groups), pair(groups);
  for (int g = 0; g < groups; ++g) expert[g] = moe::expert_of_group(g, adapters), pair[g] = moe::pair_of_group(g, adapters, experts);
  std::vector<int> ids = choose(tokens, 2, experts, 0, generator);
  for (int s = 0; s < 2 * tokens; ++s)
    if (ids[s] >= 0) ids[s] = ids[s] >= experts ? -1 : moe::group_of_pair(ids[s], s / 2 % 3 - 1, adapters);
  const routing r(ids, tokens, 2, groups, 4, 0, generator);
  matrix of_x, of_gate, of_up, of_down, of_w;
  const auto define = [&](tape& t, nudge n) {
    of_x = leaves(t, x.data(), tokens, wide, n), of_gate = leaves(t, w.gate.data(), experts * inner, wide, n), of_up = leaves(t, w.up.data(), experts * inner, wide, n), of_down = leaves(t, w.down.data(), experts * wide, inner, n);
    of_w = leaves(t, r.weight.data(), tokens, 2, n);
    gate.put(t, n), up.put(t, n), down.put(t, n);
    std::vector<int> y;
    for (int token = 0; token < tokens; ++token) {
      std::vector<std::vector<std::pair<int, int>>> sums(wide);
      for (int j = 0; j < 2; ++j) {
        const int s = 2 * token + j;
        if (r.row_of_slot[s] < 0) continue;
        const int e = expert[ids[s]], p = pair[ids[s]];
        const std::vector<int> v = row_of(of_x, token), out = down.times(t, of_down, e * wide, gated(t, gate.times(t, of_gate, e * inner, v, p), up.times(t, of_up, e * inner, v, p), 1), p);
        for (int c = 0; c < wide; ++c) sums[c].push_back({of_w(token, j), out[c]});
      }
      for (int c = 0; c < wide; ++c) y.push_back(t.dot(sums[c]));
    }
    return y;
  };
  const std::vector<double> seed = values_of(dy, tokens * wide);
  const tape t = walked(define, seed);
  const matrix known[6] = {gate.of_a, gate.of_b, up.of_a, up.of_b, down.of_a, down.of_b};
  const std::vector<int> at_x = of_x.at, at_w = of_w.at, update(pair.begin(), pair.end());
  by_differences(define, seed, t, {at_x[0], at_x[300], at_w[3], known[0](0, 0), known[3](7, 2), known[5](19, 11)});
  array<float> dx(x.size()), d_weight(at_w.size());
  array<float> da[3] = {array<float>(std::size_t(groups) * gate.high() * wide), array<float>(std::size_t(groups) * up.high() * wide), array<float>(std::size_t(groups) * down.high() * inner)};
  array<float> db[3] = {array<float>(std::size_t(groups) * gate.high() * inner), array<float>(std::size_t(groups) * up.high() * inner), array<float>(std::size_t(groups) * down.high() * wide)};
  for_each_context(moe_seed, [&](const auto& context) {
    const auto trained = [&](const updates& u, int i) { return moe::trained_update<bf16>{u.view(), gradient_stack(da[i], groups, u.high(), u.from), gradient_stack(db[i], groups, u.high(), u.to)}; };
    op::args a{.x = {x.data(), tokens, wide, wide}, .dy = {dy.data(), tokens, wide, wide}, .index = r.index(), .expert = expert.data(), .pair = pair.data(), .gate = w.in(w.gate), .up = w.in(w.up), .down = w.out(),
               .gate_update = trained(gate, 0), .up_update = trained(up, 1), .down_update = trained(down, 2), .dx = {dx.data(), tokens, wide, wide}, .d_weight = d_weight.data()};
    run_op<op>(context, a);
    same_gradients("dx", dx, t, at_x), same_gradients("d_weight", d_weight, t, at_w);
    gate.same("gate", da[0], db[0], groups, t, known[0], known[1], update), up.same("up", da[1], db[1], groups, t, known[2], known[3], update), down.same("down", da[2], db[2], groups, t, known[4], known[5], update);
    auto bad = a;
    bad.expert = nullptr;
    REQUIRE(std::string(op::check(context, bad).what).find("expert is null") == 0);
    bad = a, bad.pair = nullptr;
    REQUIRE(std::string(op::check(context, bad).what).find("pair is null") == 0);
#if !defined(__CUDACC__)
    pair[1] = 4;
    REQUIRE(std::string(op::check(context, a).what).find("pair") == 0);
    pair[1] = moe::pair_of_group(1, adapters, experts);
#endif
  });
}

TEST_CASE("moe: gradients of one layer used wide and deep", "[flow][moe]") {
  using op = moe::versatile_ffn_backward<bf16, policy::silu, float>;
  std::mt19937 generator(moe_seed);
  const int wide = 24, inner = 32, parts = 4, most = 3, tokens = 11;
  const dense_weights w(1, inner, wide, generator);
  const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator), dy = random_array<bf16>(x.size(), generator);
  std::vector<int> late(tokens);
  for (int& e : late) e = int(generator() % most);      // expert most - loops
  const routing choice(choose(tokens, 2, parts, 0, generator), tokens, 2, parts, 1, 0, generator), loops(late, tokens, 1, most, 4, 0, generator);
  array<std::int32_t> bounds(2);
  bounds[0] = 0, bounds[1] = loops.limit;
  const array<float> share = random_array<float>(tokens, generator);
  for (const bool both : {true, false}) {
    CAPTURE(both);
    matrix of_x, of_gate, of_up, of_down, of_wide, of_deep, of_share;
    const auto define = [&](tape& t, nudge n) {
      of_x = leaves(t, x.data(), tokens, wide, n), of_gate = leaves(t, w.gate.data(), inner, wide, n), of_up = leaves(t, w.up.data(), inner, wide, n), of_down = leaves(t, w.down.data(), wide, inner, n);
      of_wide = leaves(t, choice.weight.data(), tokens, 2, n), of_deep = leaves(t, loops.weight.data(), tokens, 1, n), of_share = leaves(t, share.data(), tokens, 1, n);
      std::vector<int> y;
      for (int token = 0; token < tokens; ++token) {
        std::vector<int> v = row_of(of_x, token);
        std::vector<std::vector<std::pair<int, int>>> sums(wide);
        for (int j = 0; both && j < 2; ++j) {
          const int s = 2 * token + j, e = choice.ids[s], size = inner / parts;
          if (choice.row_of_slot[s] < 0) continue;
          const auto some = [&](const matrix& m) { return matrix{size, wide, {m.at.begin() + std::size_t(e) * size * wide, m.at.begin() + std::size_t(e + 1) * size * wide}}; };
          const std::vector<int> h = gated(t, times(t, some(of_gate), v), times(t, some(of_up), v), 1, true);
          for (int c = 0; c < wide; ++c) {
            std::vector<std::pair<int, int>> terms;
            for (int i = 0; i < size; ++i) terms.push_back({h[i], of_down(c, e * size + i)});
            sums[c].push_back({of_wide(token, j), t.dot(terms)});
          }
        }
        for (int n = 0; n < most - late[token]; ++n) {
          v = times(t, of_down, gated(t, times(t, of_gate, v), times(t, of_up, v), 1));
          v = each(v, [&](int c) { return t.gradient_rounded(t.rounded(v[c], bf16_rounding), bf16_rounding); });
        }
        for (int c = 0; c < wide; ++c) {      // what comes back to both halves is scaled, and rounded, first; dx of the deep half too
          const int deep = t.gradient_rounded(t.product(of_deep(token, 0), v[c]), 2 * bf16_rounding);
          y.push_back(both ? t.sum({t.product(of_share(token, 0), t.gradient_rounded(t.dot(sums[c]), bf16_rounding)), deep}) : deep);
        }
      }
      return y;
    };
    const std::vector<double> seed = values_of(dy, tokens * wide);
    const tape t = walked(define, seed);
    const std::vector<int> at_x = of_x.at, at_gate = of_gate.at, at_up = of_up.at, at_down = of_down.at, at_wide = of_wide.at, at_deep = of_deep.at, at_share = of_share.at;
    if (both) by_differences(define, seed, t, {at_x[0], at_x[200], at_gate[5], at_gate[700], at_up[401], at_down[40], at_down[767], at_wide[1], at_deep[2], at_share[4]});
    array<float> dx(x.size()), d_gate(at_gate.size()), d_up(at_gate.size()), d_down(at_gate.size()), d_wide(at_wide.size()), d_deep(at_deep.size()), d_share(at_share.size());
    std::vector<float> before;
    for_each_context(moe_seed, [&](const auto& context) {
      op::args a{.x = {x.data(), tokens, wide, wide}, .dy = {dy.data(), tokens, wide, wide}, .gate = {w.gate.data(), inner, wide, wide}, .up = {w.up.data(), inner, wide, wide}, .down = {w.down.data(), wide, inner, inner}, .deep = loops.index(),
                 .share = share.data(), .bounds = bounds.data(), .dx = {dx.data(), tokens, wide, wide}, .d_gate = {d_gate.data(), inner, wide, wide}, .d_up = {d_up.data(), inner, wide, wide}, .d_down = {d_down.data(), wide, inner, inner}, .d_deep = d_deep.data()};
      if (both) a.wide = choice.index(), a.d_wide = d_wide.data(), a.d_share = d_share.data();
      run_op<op>(context, a);
      same_gradients("dx", dx, t, at_x), same_gradients("d_gate", d_gate, t, at_gate), same_gradients("d_up", d_up, t, at_up), same_gradients("d_down", d_down, t, at_down), same_gradients("d_deep", d_deep, t, at_deep);
      if (both) same_gradients("d_wide", d_wide, t, at_wide), same_gradients("d_share", d_share, t, at_share);
      if (!before.empty()) REQUIRE(std::memcmp(before.data(), d_down.data(), before.size() * sizeof(float)) == 0);
      before.assign(d_down.begin(), d_down.end());
      const auto refused = [&](op::args bad, errc code, const char* word) {
        const status st = op::check(context, bad);
        CAPTURE(st.what, word);
        REQUIRE((st.code == code && std::string(st.what).find(word) == 0));
      };
      auto bad = a;
      bad.bounds = nullptr, refused(bad, errc::null_pointer, "bounds"), bad = a;
      bad.d_deep = nullptr, refused(bad, errc::null_pointer, "d_deep"), bad = a;
      bad.d_up.rows = 8, refused(bad, errc::bad_shape, "d_gate, d_up"), bad = a;
      bad.d_up.data = nullptr, refused(bad, errc::null_pointer, "d_gate, d_up"), bad = a;
      if (both) bad.d_wide = nullptr, refused(bad, errc::null_pointer, "d_weight");
      else bad.d_share = d_share.data(), refused(bad, errc::bad_value, "d_share");
    });
  }
}

TEST_CASE("moe: gradients of no tokens", "[flow][moe]") {
  std::mt19937 generator(moe_seed);
  const int wide = 24, inner = 32;
  const dense_weights w(1, inner, wide, generator);
  const updates u({5, 9}, wide, inner, generator);
  const routing r({}, 0, 2, 2, 1, 0, generator), one({}, 0, 1, 2, 1, 0, generator);
  array<float> da(std::size_t(2) * 16 * wide), db(std::size_t(2) * 16 * inner), d_gate(w.gate.size()), d_up(w.gate.size()), d_down(w.gate.size());
  array<std::int32_t> bounds(2);
  std::fill(bounds.begin(), bounds.end(), 0);
  for_each_context(moe_seed, [&](const auto& context) {
    const view<const bf16> none{nullptr, 0, wide, wide}, gate{w.gate.data(), inner, wide, wide}, down{w.down.data(), wide, inner, inner};
    const view<float> dx{nullptr, 0, wide, wide}, into[3] = {{d_gate.data(), inner, wide, wide}, {d_up.data(), inner, wide, wide}, {d_down.data(), wide, inner, inner}};
    const moe::trained_update<bf16> trained{u.view(), gradient_stack(da, 2, 16, wide), gradient_stack(db, 2, 16, inner)};
    const auto zeros = [&](auto& a) { return std::all_of(a.begin(), a.end(), [](float v) { return v == 0; }); };
    run_op<moe::flex_more_backward<bf16, policy::silu, float>>(context, {.x = none, .dy = none, .index = r.index(), .gate = gate, .up = gate, .down = down, .gate_update = trained, .dx = dx, .d_gate = into[0], .d_up = into[1], .d_down = into[2]});
    REQUIRE((zeros(da) && zeros(db) && zeros(d_gate) && zeros(d_up) && zeros(d_down)));
    std::fill(d_gate.begin(), d_gate.end(), 1.0f);
    run_op<moe::versatile_ffn_backward<bf16, policy::silu, float>>(context, {.x = none, .dy = none, .gate = gate, .up = gate, .down = down, .wide = r.index(), .deep = one.index(), .bounds = bounds.data(), .dx = dx, .d_gate = into[0], .d_up = into[1], .d_down = into[2]});
    REQUIRE((zeros(d_gate) && zeros(d_up) && zeros(d_down)));
  });
}

// Two dense experts, an identity (id 2), three constants (ids 3 to 5), one that nobody chooses; id 6 is a zero expert.
TEST_CASE("moe: gradients of identity and constant experts", "[flow][moe]") {
  using op = moe::scatter_moe_backward<dense, policy::silu, float>;
  std::mt19937 generator(moe_seed);
  const int experts = 2, wide = 24, inner = 32, tokens = 17, constants = 3, first = 3;
  const dense_weights w(experts, inner, wide, generator);
  const array<bf16> x = random_array<bf16>(std::size_t(tokens) * wide, generator), dy = random_array<bf16>(x.size(), generator), constant = random_array<bf16>(std::size_t(constants) * wide, generator);
  array<int> ids(std::size_t(tokens) * 2);
  for (int t = 0; t < tokens; ++t) ids[2 * t] = int(generator() % 5), ids[2 * t + 1] = ids[2 * t] == 4 ? 6 : 4;      // 5: nobody
  const routing r(std::vector<int>(ids.begin(), ids.end()), tokens, 2, experts, 1, 0, generator);
  array<float> share(tokens), dx(x.size()), d_weight(ids.size()), d_share(tokens), d_constants(constant.size()), d_gate(w.gate.size()), d_up(w.up.size()), d_down(w.down.size());
  for (int s = 0; s < 2 * tokens; ++s) share[s / 2] += ids[s] == 2 ? r.weight[s] : 0.0f;
  for_each_context(moe_seed, [&](const auto& context) {
    op::args a{.x = {x.data(), tokens, wide, wide}, .dy = {dy.data(), tokens, wide, wide}, .index = r.index(), .gate = w.in(w.gate), .up = w.in(w.up), .down = w.out(), .dx = {dx.data(), tokens, wide, wide}, .d_weight = d_weight.data(), .share = share.data(),
               .d_share = d_share.data(), .constants = {constant.data(), constants, wide, wide}, .ids = ids.data(), .first_constant = first, .d_constants = {d_constants.data(), constants, wide, wide}};
    a.d_gate = gradient_stack(d_gate, experts, inner, wide), a.d_up = gradient_stack(d_up, experts, inner, wide), a.d_down = gradient_stack(d_down, experts, wide, inner);
    run_op<op>(context, a);
    REQUIRE((d_share.guarded() && d_constants.guarded() && d_weight.guarded()));
    const auto dot = [&](const array<bf16>& p, int i, const array<bf16>& q, int j) {
      std::pair<double, double> sum;
      for (int c = 0; c < wide; ++c) {
        const double v = value(p[std::size_t(i) * wide + c]) * value(q[std::size_t(j) * wide + c]);
        sum.first += v, sum.second += (wide + 1) * single * std::abs(v);
      }
      return sum;
    };
    for (int t = 0; t < tokens; ++t) {
      const auto [want, bound] = dot(dy, t, x, t);
      REQUIRE(std::abs(d_share[t] - want) <= bound);
    }
    for (int s = 0; s < 2 * tokens; ++s) {
      if (ids[s] < experts) continue;
      const auto [want, bound] = ids[s] >= first && ids[s] < first + constants ? dot(dy, s / 2, constant, ids[s] - first) : std::pair<double, double>{};
      REQUIRE(std::abs(d_weight[s] - want) <= bound);      // of identity and zero experts: 0, the first being in d_share
    }
    for (int k = 0; k < constants; ++k)
      for (int c = 0; c < wide; ++c) {
        double want = 0, size = 0;
        for (int s = 0; s < 2 * tokens; ++s)
          if (ids[s] == first + k) want += r.weight[s] * value(dy[std::size_t(s / 2) * wide + c]), size += std::abs(r.weight[s] * value(dy[std::size_t(s / 2) * wide + c]));
        REQUIRE(std::abs(d_constants[std::size_t(k) * wide + c] - want) <= (2 * tokens + 1) * single * size);
      }
    const std::vector<float> was(d_weight.begin(), d_weight.end());
    auto without = a;      // constants change d_weight of their own slots, nothing else
    without.constants = {}, without.d_constants = {}, without.ids = nullptr;
    run_op<op>(context, without);
    for (int s = 0; s < 2 * tokens; ++s) REQUIRE(d_weight[s] == (ids[s] < experts ? was[s] : 0.0f));
    auto bad = a;
    bad.ids = nullptr;
    const auto said = [&](const char* word) { return std::string(op::check(context, bad).what).find(word) == 0; };
    REQUIRE(said("ids is null"));
    bad = a, bad.constants = {};
    REQUIRE(said("constants is empty"));
    bad = a, bad.d_constants.rows = 2;
    REQUIRE(said("d_constants"));
    bad = a, bad.first_constant = 1;
    REQUIRE(said("first_constant"));
  });
}
