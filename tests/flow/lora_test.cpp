// lora::sgmv, bgmv, their backward, qlora and merge against the definition, row by row, in double.
#include "lora_problem.hpp"
#include <smalti/ops/moe.hpp>

using namespace smalti;
using namespace test;
using namespace lora_problem;

namespace {

void forward_case(std::vector<int> lengths) {
  using grouped = lora::sgmv<bf16, bf16, float, invariant>;
  using by_row = lora::bgmv<bf16, bf16, float, invariant>;
  std::mt19937 generator(lora_seed);
  const bank w(mixed, 72, 40, generator);
  const batch l(std::move(lengths), int(mixed.size()), generator);
  CAPTURE(lora_seed, l.lengths);
  const array<bf16> x = random_array<bf16>(std::size_t(l.rows + 1) * w.wide, generator);
  const array<float> before = random_array<float>(std::size_t(l.rows + 1) * w.high, generator);
  array<float> y(before.size());
  std::vector<float> first;
  for_each_context(lora_seed, [&](const auto& context) {
    for (int how = 0; how < 2; ++how) {
      std::memcpy(y.data(), before.data(), before.size() * sizeof(float));
      if (how == 0) run_op<grouped>(context, {{x.data(), l.rows, w.wide, w.wide}, {l.offsets.data(), int(l.lengths.size())}, l.adapter.data(), w.view(), {y.data(), l.rows, w.high, w.high}});
      else run_op<by_row>(context, {{x.data(), l.rows, w.wide, w.wide}, l.of_row.data(), w.view(), {y.data(), l.rows, w.high, w.high}});
      REQUIRE(y.guarded());
      // many adapters in one batch, or one row at a time, in any order of blocks: the same bits
      if (!first.empty()) REQUIRE(std::memcmp(first.data(), y.data(), y.size() * sizeof(float)) == 0);
      first.assign(y.begin(), y.end());
    }
  });
  for (int e = 0; e < int(mixed.size()); ++e) {      // one adapter at a time, a batch of its rows alone: the same bits
    std::vector<int> own;
    for (int r = 0; r < l.rows; ++r)
      if (l.of_row[r] == e) own.push_back(r);
    const int rows = int(own.size());
    if (rows == 0) continue;
    array<bf16> some(std::size_t(rows) * w.wide);
    array<float> alone(std::size_t(rows) * w.high);
    array<std::int32_t> whole(2);
    array<int> name(1);
    whole[0] = 0, whole[1] = rows, name[0] = e;
    for (int i = 0; i < rows; ++i) std::memcpy(&some[std::size_t(i) * w.wide], &x[std::size_t(own[i]) * w.wide], w.wide * sizeof(bf16)), std::memcpy(&alone[std::size_t(i) * w.high], &before[std::size_t(own[i]) * w.high], w.high * sizeof(float));
    run_op<grouped>(any_context(), {{some.data(), rows, w.wide, w.wide}, {whole.data(), 1}, name.data(), w.view(), {alone.data(), rows, w.high, w.high}});
    for (int i = 0; i < rows; ++i) REQUIRE(std::memcmp(&alone[std::size_t(i) * w.high], &first[std::size_t(own[i]) * w.high], w.high * sizeof(float)) == 0);
  }
  for (int r = 0; r < l.rows; ++r) {
    const int e = l.of_row[r];
    if (e < 0 || mixed[e] == 0) {      // bit for bit
      REQUIRE(std::memcmp(&y[std::size_t(r) * w.high], &before[std::size_t(r) * w.high], w.high * sizeof(float)) == 0);
      continue;
    }
    std::vector<double> v(mixed[e]), size(mixed[e]);
    for (int q = 0; q < mixed[e]; ++q)
      for (int c = 0; c < w.wide; ++c) {
        const double t = value(x[std::size_t(r) * w.wide + c]) * w.at_a(e, q, c);
        v[q] += t, size[q] += std::abs(t);
      }
    for (int j = 0; j < w.high; ++j) {
      double sum = 0, sums = 0;
      for (int q = 0; q < mixed[e]; ++q) sum += v[q] * w.at_b(e, q, j), sums += size[q] * std::abs(w.at_b(e, q, j));
      const double want = before[std::size_t(r) * w.high + j] + w.scale[e] * sum, got = y[std::size_t(r) * w.high + j];
      const double bound = w.scale[e] * ((w.wide + mixed[e] + 6) * 0x1p-24 + operand_error<float>()) * sums + std::abs(want) * 0x1p-23 + 1e-30;
      if (!(std::abs(got - want) <= bound)) {
        CAPTURE(r, e, j, want, got, bound);
        REQUIRE(std::abs(got - want) <= bound);
      }
    }
  }
}

}  // namespace

TEST_CASE("lora: many adapters in one batch", "[flow][lora]") {
  forward_case({1, 1, 0, 2, 1, 1, 3, 1, 1, 1});
  forward_case({40, 0, 17, 1, 30, 70, 5});
  forward_case({});
}

TEST_CASE("lora: backward", "[flow][lora]") {
  using op = lora::sgmv_backward<bf16, bf16, float>;
  std::mt19937 generator(lora_seed);
  const bank w({4, 12, 0, 24}, 72, 40, generator);
  const batch l({5, 0, 33, 1, 4, 20, 9}, 4, generator);
  const int most = 32, n = int(l.lengths.size());
  const array<bf16> x = random_array<bf16>(std::size_t(l.rows) * w.wide, generator), dy = random_array<bf16>(std::size_t(l.rows) * w.high, generator);
  const array<float> before = random_array<float>(std::size_t(l.rows) * w.wide, generator);
  array<float> dx(before.size()), da(std::size_t(n) * most * w.wide), db(std::size_t(n) * most * w.high);
  for_each_context(lora_seed, [&](const auto& context) {
    std::memcpy(dx.data(), before.data(), before.size() * sizeof(float));
    op::args a{.x = {x.data(), l.rows, w.wide, w.wide}, .dy = {dy.data(), l.rows, w.high, w.high}, .rows = {l.offsets.data(), n}, .adapter = l.adapter.data(), .weights = w.view(), .dx = {dx.data(), l.rows, w.wide, w.wide},
               .da = {da.data(), n, most, w.wide, static_cast<long long>(most) * w.wide, w.wide}, .db = {db.data(), n, most, w.high, static_cast<long long>(most) * w.high, w.high}};
    run_op<op>(context, a);
    REQUIRE(dx.guarded());
    REQUIRE(da.guarded());
    REQUIRE(db.guarded());
    const double unit = (w.wide + w.high + 60) * 0x1p-24 + 2 * operand_error<float>();
    const auto near = [&](const char* name, double got, double want, double size) {
      if (!(std::abs(got - want) <= unit * size + std::abs(want) * 0x1p-23 + 1e-30)) {
        CAPTURE(name, got, want, size, unit);
        REQUIRE(std::abs(got - want) <= unit * size);
      }
    };
    for (int s = 0; s < n; ++s) {
      const int e = l.adapter[s], rank = e < 0 ? 0 : w.ranks[e];
      for (int q = 0; q < most; ++q) {
        std::vector<double> ga(w.wide), gas(w.wide), gb(w.high), gbs(w.high);
        for (int r = l.offsets[s]; r < l.offsets[s + 1] && q < rank; ++r) {
          double v = 0, vs = 0, u = 0, us = 0;
          for (int c = 0; c < w.wide; ++c) v += value(x[std::size_t(r) * w.wide + c]) * w.at_a(e, q, c), vs += std::abs(value(x[std::size_t(r) * w.wide + c]) * w.at_a(e, q, c));
          for (int c = 0; c < w.high; ++c) u += value(dy[std::size_t(r) * w.high + c]) * w.at_b(e, q, c), us += std::abs(value(dy[std::size_t(r) * w.high + c]) * w.at_b(e, q, c));
          v *= w.scale[e], vs *= w.scale[e], u *= w.scale[e], us *= w.scale[e];
          for (int c = 0; c < w.wide; ++c) ga[c] += u * value(x[std::size_t(r) * w.wide + c]), gas[c] += us * std::abs(value(x[std::size_t(r) * w.wide + c]));
          for (int c = 0; c < w.high; ++c) gb[c] += v * value(dy[std::size_t(r) * w.high + c]), gbs[c] += vs * std::abs(value(dy[std::size_t(r) * w.high + c]));
        }
        for (int c = 0; c < w.wide; ++c) near("da", da[(std::size_t(s) * most + q) * w.wide + c], ga[c], gas[c]);
        for (int c = 0; c < w.high; ++c) near("db", db[(std::size_t(s) * most + q) * w.high + c], gb[c], gbs[c]);
      }
      for (int r = l.offsets[s]; r < l.offsets[s + 1]; ++r)
        for (int c = 0; c < w.wide; ++c) {
          double want = before[std::size_t(r) * w.wide + c], size = std::abs(want);
          for (int q = 0; q < rank; ++q) {
            double u = 0, us = 0;
            for (int j = 0; j < w.high; ++j) u += value(dy[std::size_t(r) * w.high + j]) * w.at_b(e, q, j), us += std::abs(value(dy[std::size_t(r) * w.high + j]) * w.at_b(e, q, j));
            want += w.scale[e] * u * w.at_a(e, q, c), size += w.scale[e] * us * std::abs(w.at_a(e, q, c));
          }
          near("dx", dx[std::size_t(r) * w.wide + c], want, size);
        }
    }
    // no rows at all: the gradients are zeros, not what was there
    array<std::int32_t> none(3);
    none[0] = none[1] = none[2] = 0;
    op::args empty{.x = {x.data(), 0, w.wide, w.wide}, .dy = {dy.data(), 0, w.high, w.high}, .rows = {none.data(), 2}, .adapter = l.adapter.data(), .weights = w.view(), .dx = {dx.data(), 0, w.wide, w.wide}, .da = a.da, .db = a.db};
    run_op<op>(context, empty);
    for (std::size_t i = 0; i < std::size_t(2) * most * w.wide; ++i) REQUIRE(da[i] == 0.0f);
    for (std::size_t i = 0; i < std::size_t(2) * most * w.high; ++i) REQUIRE(db[i] == 0.0f);
  });
}

// Mixture of shards: rank row q of adapter e is two (A) or three (B) lines of a pool, any of them, also several times.
TEST_CASE("lora: shards that rows share", "[flow][lora]") {
  using op = lora::mos<bf16, bf16, float>;
  using back = lora::sgmv_backward<bf16, bf16, float, lora::shard_options>;
  using gather = moe::combine<float>;
  std::mt19937 generator(lora_seed);
  constexpr int width = 64, pool_lines = 11, adapters = 3, rank[adapters] = {4, 0, 12}, most = 16;
  struct half {      // of every adapter: A or B
    int shards, wide;
    array<bf16> pool;
    array<int> line;
    half(int shards, std::mt19937& generator) : shards(shards), wide(shards * width), pool(random_array<bf16>(std::size_t(pool_lines) * width, generator, 0.2f)), line(std::size_t(16) * shards) {
      for (int& l : line) l = int(generator() % pool_lines);
    }
    double at(int row, int c) const { return value(pool[std::size_t(line[std::size_t(row) * shards + c / width]) * width + c % width]); }
  };
  const half a(2, generator), b(3, generator);
  array<int> first(adapters), count(adapters);
  array<float> scale(adapters);
  for (int e = 0, used = 0; e < adapters; used += rank[e++]) first[e] = used, count[e] = rank[e], scale[e] = 0.5f + float(e);
  const auto view = [&](const half& h) { return gemm::paged_rows<bf16>{.pool = {h.pool.data(), pool_lines, width, width}, .first = first.data(), .count = count.data(), .line = h.line.data(), .shards = h.shards, .weights = adapters, .most = 12, .lines = 16 * h.shards}; };
  lora::adapters<bf16> weights{.a = view(a)};
  const auto of_b = view(b);
  weights.b = {.pool = of_b.pool, .first = of_b.first, .count = of_b.count, .line = of_b.line, .scale = scale.data(), .shards = of_b.shards, .weights = of_b.weights, .most = of_b.most, .lines = of_b.lines};
  const batch l({3, 0, 20, 1, 6}, adapters, generator);
  const int n = int(l.lengths.size());
  const array<bf16> x = random_array<bf16>(std::size_t(l.rows) * a.wide, generator), dy = random_array<bf16>(std::size_t(l.rows) * b.wide, generator);
  array<float> y(std::size_t(l.rows) * b.wide), dx(std::size_t(l.rows) * a.wide), da(std::size_t(n) * most * a.wide), db(std::size_t(n) * most * b.wide), of_pool(std::size_t(pool_lines) * width);
  // the places of A's lines in da: rows of one shard each, of every segment with the adapter
  std::vector<std::vector<int>> places(pool_lines);
  for (int s = 0; s < n; ++s)
    for (int q = 0; l.adapter[s] >= 0 && q < rank[l.adapter[s]]; ++q)
      for (int c = 0; c < a.shards; ++c) places[a.line[std::size_t(first[l.adapter[s]] + q) * a.shards + c]].push_back((s * most + q) * a.shards + c);
  int times = 1;
  for (const auto& p : places) times = std::max(times, int(p.size()));
  const int rows = n * most * a.shards;
  array<std::int32_t> offsets(2), end(1), token_of_row(rows), slot_of_row(rows), row_of_slot(std::size_t(pool_lines) * times);
  std::fill(row_of_slot.begin(), row_of_slot.end(), -1), std::fill(slot_of_row.begin(), slot_of_row.end(), -1), std::fill(token_of_row.begin(), token_of_row.end(), 0);
  offsets[0] = 0, offsets[1] = end[0] = rows;
  for (int i = 0; i < pool_lines; ++i)
    for (int j = 0; j < int(places[i].size()); ++j) row_of_slot[i * times + j] = places[i][j], token_of_row[places[i][j]] = i, slot_of_row[places[i][j]] = i * times + j;
  for_each_context(lora_seed, [&](const auto& context) {
    std::fill(y.begin(), y.end(), 0.0f), std::fill(dx.begin(), dx.end(), 0.0f);
    run_op<op>(context, {{x.data(), l.rows, a.wide, a.wide}, {l.offsets.data(), n}, l.adapter.data(), weights, {y.data(), l.rows, b.wide, b.wide}});
    run_op<back>(context, {.x = {x.data(), l.rows, a.wide, a.wide}, .dy = {dy.data(), l.rows, b.wide, b.wide}, .rows = {l.offsets.data(), n}, .adapter = l.adapter.data(), .weights = weights, .dx = {dx.data(), l.rows, a.wide, a.wide},
                           .da = {da.data(), n, most, a.wide, static_cast<long long>(most) * a.wide, a.wide}, .db = {db.data(), n, most, b.wide, static_cast<long long>(most) * b.wide, b.wide}});
    run_op<gather>(context, {.x = {da.data(), rows, width, width}, .index = {.rows = {offsets.data(), 1}, .end = end.data(), .token_of_row = token_of_row.data(), .slot_of_row = slot_of_row.data(), .row_of_slot = row_of_slot.data(), .tokens = pool_lines, .choices = times, .row_limit = rows},
                             .y = {of_pool.data(), pool_lines, width, width}});
    REQUIRE((y.guarded() && dx.guarded() && da.guarded() && db.guarded() && of_pool.guarded()));
  });
  // Two products each: sums of `wide` and rank terms in float (tf32 on a GPU), relative to the sum of magnitudes.
  const double unit = (a.wide + b.wide + 60) * 0x1p-24 + 2 * operand_error<float>();
  const auto near = [&](const char* name, double got, double want, double size) {
    if (!(std::abs(got - want) <= unit * size + 1e-30)) {
      CAPTURE(name, got, want, size, unit);
      REQUIRE(std::abs(got - want) <= unit * size);
    }
  };
  std::vector<double> pool(of_pool.size()), pool_size(of_pool.size());
  for (int s = 0; s < n; ++s)
    for (int r = l.offsets[s]; r < l.offsets[s + 1]; ++r) {
      const int e = l.adapter[s];
      std::vector<double> v(most), vs(most), w(most), ws(most);
      for (int q = 0; e >= 0 && q < rank[e]; ++q) {
        for (int c = 0; c < a.wide; ++c) v[q] += value(x[std::size_t(r) * a.wide + c]) * a.at(first[e] + q, c), vs[q] += std::abs(value(x[std::size_t(r) * a.wide + c]) * a.at(first[e] + q, c));
        for (int c = 0; c < b.wide; ++c) w[q] += scale[e] * value(dy[std::size_t(r) * b.wide + c]) * b.at(first[e] + q, c), ws[q] += scale[e] * std::abs(value(dy[std::size_t(r) * b.wide + c]) * b.at(first[e] + q, c));
        for (int c = 0; c < a.wide; ++c) {
          const std::size_t at = std::size_t(a.line[std::size_t(first[e] + q) * a.shards + c / width]) * width + c % width;
          pool[at] += w[q] * value(x[std::size_t(r) * a.wide + c]), pool_size[at] += ws[q] * std::abs(value(x[std::size_t(r) * a.wide + c]));
        }
      }
      for (int c = 0; c < b.wide; ++c) {
        double want = 0, size = 0;
        for (int q = 0; e >= 0 && q < rank[e]; ++q) want += scale[e] * v[q] * b.at(first[e] + q, c), size += scale[e] * vs[q] * std::abs(b.at(first[e] + q, c));
        near("y", y[std::size_t(r) * b.wide + c], want, size);
      }
      for (int c = 0; c < a.wide; ++c) {
        double want = 0, size = 0;
        for (int q = 0; e >= 0 && q < rank[e]; ++q) want += w[q] * a.at(first[e] + q, c), size += ws[q] * std::abs(a.at(first[e] + q, c));
        near("dx", dx[std::size_t(r) * a.wide + c], want, size);
      }
    }
  for (std::size_t i = 0; i < pool.size(); ++i) near("pool of A", of_pool[i], pool[i], pool_size[i]);
}

TEST_CASE("lora: a frozen base in NF4", "[flow][lora]") {
  using op = lora::qlora<bf16, float>;
  using format = policy::bnb_nf4<64>;
  std::mt19937 generator(lora_seed);
  const bank w({16, 8}, 128, 40, generator);
  std::vector<neutral<format>> base;
  base.emplace_back(40, 128, generator);
  test::packed_stack<format, bf16> p(base);
  const batch l({3, 1, 5}, 2, generator);
  const array<bf16> x = random_array<bf16>(std::size_t(l.rows) * w.wide, generator);
  array<float> y(std::size_t(l.rows) * w.high);
  for_each_context(lora_seed, [&](const auto& context) {
    op::args a{};
    a.base.x = {x.data(), l.rows, w.wide, w.wide}, a.base.w = p.w, a.base.y = {y.data(), l.rows, w.high, w.high};
    a.low_rank = {a.base.x, {l.offsets.data(), 3}, l.adapter.data(), w.view(), a.base.y};
    run_op<op>(context, a);
    for (int r = 0; r < l.rows; ++r)
      for (int j = 0; j < w.high; ++j) {
        const int e = l.of_row[r];
        double want = 0, size = 0;
        for (int c = 0; c < w.wide; ++c) {
          double weight = base[0].meaning.at(j, c, c).value, magnitude = std::abs(weight) * (0x1p-8 + 0x1p-16);      // the table is rounded to bf16
          for (int q = 0; q < w.ranks[e]; ++q) weight += w.scale[e] * w.at_b(e, q, j) * w.at_a(e, q, c), magnitude += 0x1p-15 * std::abs(w.scale[e] * w.at_b(e, q, j) * w.at_a(e, q, c));
          want += weight * value(x[std::size_t(r) * w.wide + c]), size += magnitude * std::abs(value(x[std::size_t(r) * w.wide + c]));
        }
        if (!(std::abs(y[std::size_t(r) * w.high + j] - want) <= size)) {
          CAPTURE(r, j, want, y[std::size_t(r) * w.high + j], size);
          REQUIRE(std::abs(y[std::size_t(r) * w.high + j] - want) <= size);
        }
      }
  });
}

TEST_CASE("lora: merge and unmerge", "[flow][lora]") {
  std::mt19937 generator(lora_seed);
  const int rank = 12, wide = 72, high = 40;
  const array<bf16> a = random_array<bf16>(std::size_t(rank) * wide, generator, 0.2f), b = random_array<bf16>(std::size_t(rank) * high, generator, 0.2f);
  array<std::int32_t> bounds(2);
  bounds[0] = 0, bounds[1] = rank;
  const auto both = [&]<class W>(W, double unit) {
    const array<W> before = random_array<W>(std::size_t(high) * wide, generator);
    array<W> weight(before.size());
    for_each_context(lora_seed, [&](const auto& context) {
      std::memcpy(weight.data(), before.data(), before.size() * sizeof(W));
      typename lora::merge<bf16, W>::args x{.a = {a.data(), rank, wide, wide}, .b = {b.data(), rank, high, high}, .weight = {weight.data(), high, wide, wide}, .scale = 2, .bounds = bounds.data()};
      run_op<lora::merge<bf16, W>>(context, x);
      std::vector<double> merged, size;
      for (int j = 0; j < high; ++j)
        for (int c = 0; c < wide; ++c) {
          const double was = value(before[std::size_t(j) * wide + c]);
          double want = was, sum = 0;
          for (int q = 0; q < rank; ++q) want += 2 * value(b[std::size_t(q) * high + j]) * value(a[std::size_t(q) * wide + c]), sum += 2 * std::abs(value(b[std::size_t(q) * high + j]) * value(a[std::size_t(q) * wide + c]));
          const double got = value(weight[std::size_t(j) * wide + c]);
          REQUIRE(std::abs(got - want) <= unit * std::abs(want) + (rank + 4) * 0x1p-24 * (sum + std::abs(was)));
          merged.push_back(got), size.push_back(sum);
        }
      x.scale = -2;
      run_op<lora::merge<bf16, W>>(context, x);
      for (std::size_t i = 0; i < before.size(); ++i)
        REQUIRE(std::abs(value(weight[i]) - value(before[i])) <= 1.01 * unit * (std::abs(merged[i]) + std::abs(value(before[i]))) + (2 * rank + 8) * 0x1p-24 * (size[i] + std::abs(merged[i])));
      REQUIRE(weight.guarded());
    });
  };
  both(float{}, 0x1p-24);
  both(bf16{}, 0x1p-8);
}

TEST_CASE("lora: adapters mixed of skills", "[flow][lora]") {
  std::mt19937 generator(lora_seed);
  const int skills = 5, tasks = 3, rank = 6, wide = 72;
  const array<float> a = random_array<float>(std::size_t(skills) * rank * wide, generator);
  for (const int heads : {1, 3}) {
    array<float> logits = random_array<float>(std::size_t(tasks) * heads * skills, generator, 2), mixed(std::size_t(tasks) * rank * wide);
    for (int s = 0; s < skills; ++s) logits[(std::size_t(1) * heads + heads - 1) * skills + s] = s == 2 ? 40.0f : -90.0f;      // one skill alone
    for_each_context(lora_seed, [&](const auto& context) {
      run_op<lora::mhr<float>>(context, {.skills = {a.data(), skills, rank, wide, rank * wide, wide}, .logits = logits.data(), .mixed = {mixed.data(), tasks, rank, wide, rank * wide, wide}, .heads = heads});
      REQUIRE(mixed.guarded());
      for (int t = 0; t < tasks; ++t)
        for (int r = 0; r < rank; ++r)
          for (int c = 0; c < wide; ++c) {
            double total = 1e-12, sum = 0, size = 0;
            const auto sigma = [&](int s) { return 1 / (1 + std::exp(-double(logits[(std::size_t(t) * heads + c / (wide / heads)) * skills + s]))); };
            for (int s = 0; s < skills; ++s) total += sigma(s);
            for (int s = 0; s < skills; ++s) sum += sigma(s) / total * a[(std::size_t(s) * rank + r) * wide + c], size += sigma(s) / total * std::abs(a[(std::size_t(s) * rank + r) * wide + c]);
            const double got = mixed[(std::size_t(t) * rank + r) * wide + c];
            REQUIRE(std::abs(got - sum) <= 0x1p-18 * size + 1e-30);      // two exponentials and quotients of 2^-20 each, and the sums
          }
    });
  }
}

TEST_CASE("lora: refusals", "[flow][lora]") {
  using op = lora::sgmv<bf16>;
  std::mt19937 generator(lora_seed);
  bank w({4, 12}, 16, 16, generator);
  batch l({3, 2}, 2, generator);
  const array<bf16> x = random_array<bf16>(std::size_t(5) * 16, generator);
  array<bf16> y(x.size());
  const op::args good{{x.data(), 5, 16, 16}, {l.offsets.data(), 2}, l.adapter.data(), w.view(), {y.data(), 5, 16, 16}};
  const auto context = any_context();
  REQUIRE(op::check(context, good).code == errc::ok);
  const auto refused = [&](const op::args& a, errc code, const std::string& word) {
    const status st = op::check(context, a);
    CAPTURE(st.what, st.got, st.need, word);
    CHECK(st.code == code);
    CHECK(std::string(st.what).find(word) != std::string::npos);
  };
  auto bad = good;
  bad.adapter = nullptr;
  refused(bad, errc::null_pointer, "weight is null");
  bad = good;
  bad.weights.b.weights = 1;
  refused(bad, errc::bad_shape, "same number of adapters");
#if !defined(__CUDACC__)      // what only the host reads
  bad = good;
  bad.x.rows = bad.y.rows = 4;
  refused(bad, errc::bad_shape, "segments");
  l.offsets[2] = 4;      // metadata of a smaller batch
  refused(good, errc::bad_shape, "sum to the rows");
  l.offsets[2] = 5;
  l.adapter[1] = 2;
  refused(good, errc::bad_value, "beyond the weights");
  l.adapter[1] = 1;
  w.rank[1] = 13;
  refused(good, errc::bad_value, "most");
  w.rank[1] = 12, w.first[1] = 5;
  refused(good, errc::bad_value, "list of lines");
  w.first[1] = 4, w.page[2] = w.cells;
  refused(good, errc::bad_value, "freed");
#endif
}
