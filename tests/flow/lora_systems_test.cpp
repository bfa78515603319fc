// What composes adapters with other layers - dsee, we_lore, fused, through_packed, flex_llm - against the definition, in double.
#include "lora_problem.hpp"
#include <smalti/flow/lora_systems.hpp>
#include <smalti/ops/moe/inspect.hpp>

using namespace smalti;
using namespace test;
using namespace lora_problem;

namespace {

template <class Check> void every_element(const char* name, const float* got, int rows, int cols, Check want_and_bound) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; ++c) {
      const auto [want, bound] = want_and_bound(r, c);
      if (const double is = got[std::size_t(r) * cols + c]; !(std::abs(is - want) <= bound)) {
        CAPTURE(name, r, c, want, is, bound);
        REQUIRE(std::abs(is - want) <= bound);
      }
    }
}

struct windows : lora::options { static constexpr bool batch_invariant = true, accumulates = true; };

}  // namespace

TEST_CASE("lora: sparse and low-rank updates of one layer", "[flow][lora]") {
  using base = gemm::dense<bf16, bf16, float>;
  using op = lora::dsee<base, bf16, bf16, float>;
  std::mt19937 generator(lora_seed);
  const bank w({12, 24}, 72, 136, generator);
  const batch l({19, 4, 0, 30}, 2, generator);
  array<bf16> x = random_array<bf16>(std::size_t(l.rows) * w.wide, generator), weight = random_array<bf16>(std::size_t(w.high) * w.wide, generator, 0.2f);
  for (auto& v : weight)
    if (generator() % 2 == 0) v = narrow<bf16>(0.0f);      // pruned
  array<int> first(std::size_t(w.high) + 1), column(64), output(64);
  array<float> values = random_array<float>(64, generator), y(std::size_t(l.rows) * w.high), gradient(64);
  // 64 entries: none in the second tile of outputs, several in some outputs, the first and the last
  std::vector<std::pair<int, int>> places{{0, 0}, {0, 71}, {135, 0}, {135, 71}};
  while (places.size() < 64)
    if (const std::pair<int, int> p(int(generator() % 64) + (generator() % 8 == 0 ? 72 : 0), int(generator() % 72)); std::find(places.begin(), places.end(), p) == places.end()) places.push_back(p);
  std::sort(places.begin(), places.end());
  for (int i = 0, e = 0; i <= w.high; ++i) {
    first[i] = e;
    for (; e < 64 && places[e].first == i; ++e) column[e] = places[e].second, output[e] = i;
  }
  for_each_context(lora_seed, [&](const auto& context) {
    op::args a{};
    a.layer.base.a = {x.data(), l.rows, w.wide, w.wide}, a.layer.base.b = {weight.data(), w.high, w.wide, w.wide}, a.layer.base.c = {y.data(), l.rows, w.high, w.high};
    a.layer.low_rank = {a.layer.base.a, {l.offsets.data(), int(l.lengths.size())}, l.adapter.data(), w.view(), a.layer.base.c};
    a.sparse = {first.data(), column.data(), values.data(), w.high, 64};
    run_op<op>(context, a);
    REQUIRE(y.guarded());
    every_element("y", y.data(), l.rows, w.high, [&](int r, int j) {
      double want = 0, size = 0;
      for (int c = 0; c < w.wide; ++c) {
        double at = value(weight[std::size_t(j) * w.wide + c]), magnitude = std::abs(at) * 80 * 0x1p-24;
        if (const int e = l.of_row[r]; e >= 0)
          for (int q = 0; q < w.ranks[e]; ++q) at += w.scale[e] * w.at_b(e, q, j) * w.at_a(e, q, c), magnitude += (120 * 0x1p-24 + operand_error<float>()) * std::abs(w.scale[e] * w.at_b(e, q, j) * w.at_a(e, q, c));
        for (int e = first[j]; e < first[j + 1]; ++e)
          if (column[e] == c) at += values[e], magnitude += 10 * 0x1p-24 * std::abs(values[e]);
        want += at * value(x[std::size_t(r) * w.wide + c]), size += magnitude * std::abs(value(x[std::size_t(r) * w.wide + c]));
      }
      return std::pair(want, size + std::abs(want) * 0x1p-22 + 1e-30);
    });
    std::vector<float> with(y.begin(), y.end());
    a.sparse.entries = 0;                                  // no entries: the layer and its adapters, bit for bit
    array<int> none(std::size_t(w.high) + 1);
    std::fill(none.begin(), none.end(), 0);
    a.sparse.first = none.data();
    run_op<op>(context, a);
    const std::vector<float> without(y.begin(), y.end());
    run_op<lora::adapted<base, bf16, bf16, float>>(context, a.layer);
    REQUIRE(std::memcmp(without.data(), y.data(), without.size() * sizeof(float)) == 0);
    REQUIRE(std::memcmp(without.data(), with.data(), without.size() * sizeof(float)) != 0);

    const array<bf16> dy = random_array<bf16>(std::size_t(l.rows) * w.high, generator);
    run_op<lora::sparse_gradient<bf16>>(context, {.x = a.layer.base.a, .dy = {dy.data(), l.rows, w.high, w.high}, .sparse = {first.data(), column.data(), values.data(), w.high, 64}, .output = output.data(), .gradient = gradient.data()});
    REQUIRE(gradient.guarded());
    every_element("gradient", gradient.data(), 1, 64, [&](int, int e) {
      double want = 0, size = 0;
      for (int r = 0; r < l.rows; ++r) {
        const double t = value(dy[std::size_t(r) * w.high + output[e]]) * value(x[std::size_t(r) * w.wide + column[e]]);
        want += t, size += std::abs(t);
      }
      return std::pair(want, (l.rows + 2) * 0x1p-24 * size);
    });
  });
#if !defined(__CUDACC__)
  lora::sparse_update<bf16, float>::args bad{{x.data(), l.rows, w.wide, w.wide}, {first.data(), column.data(), values.data(), w.high, 64}, {y.data(), l.rows, w.high, w.high}};
  const auto refused = [&](const char* word) {
    const status st = lora::sparse_update<bf16, float>::check(any_context(), bad);
    CAPTURE(st.what);
    return st.code != errc::ok && std::string(st.what).find(word) != std::string::npos;
  };
  const int was = column[1];
  column[1] = 0;
  REQUIRE(refused("must rise"));
  column[1] = 72;
  REQUIRE(refused("does not have"));
  column[1] = was;
  bad.sparse.entries = 63;
  REQUIRE(refused("beyond the entries"));
  bad.sparse.entries = 64, bad.sparse.outputs = 135;
  REQUIRE(refused("each column of y"));
#endif
}

TEST_CASE("lora: a layer of two factors, of the rank that its spectrum deserves", "[flow][lora]") {
  const std::vector<float> falling{10, 8, 6, 4, 3, 2, 1.5f, 1, 0.5f, 0}, flat(10, 3.0f);
  REQUIRE(policy::kept_rank(falling.data(), 10, 0) == 10);
  REQUIRE(policy::kept_rank(falling.data(), 10, 0.4f) == 4);      // 4 / 10 is kept
  REQUIRE(policy::kept_rank(falling.data(), 10, 1) == 1);
  REQUIRE(policy::kept_rank(flat.data(), 10, 0.5f) == 10);        // no division by a reach of zero
  for (int last = 10, i = 0; i <= 40; ++i) {
    const int rank = policy::kept_rank(falling.data(), 10, float(i) / 40);
    REQUIRE(rank <= last);
    last = rank;
  }
  REQUIRE_FALSE(policy::worth_factors(100, 100, 90));             // 10 % cut: 1.8 times the matrix
  REQUIRE_FALSE(policy::worth_factors(100, 100, 50));
  REQUIRE(policy::worth_factors(100, 100, 49));
  REQUIRE(policy::stored_elements(100, 100, 90) == 10000);
  const policy::spectrum model[2] = {{falling.data(), 10, 40}, {falling.data(), 30, 10}};
  for (const int budget : {60, 150, 400, 700}) {
    const float at = policy::threshold_for(model, 2, budget);
    if (at > 1) {
      REQUIRE(policy::stored_elements(model, 2, 1) > budget);
      continue;
    }
    REQUIRE(policy::stored_elements(model, 2, at) <= budget);
    if (at > 0) REQUIRE(policy::stored_elements(model, 2, at - 0x1p-23f) > budget);
  }
  using op = lora::we_lore<bf16, float>;
  std::mt19937 generator(lora_seed);
  const int rows = 21, wide = 72, high = 40;
  for (const int rank : {8, 24}) {
    const array<bf16> x = random_array<bf16>(std::size_t(rows) * wide, generator), a = random_array<bf16>(std::size_t(rank) * wide, generator, 0.2f), b = random_array<bf16>(std::size_t(high) * rank, generator, 0.2f);
    array<float> y(std::size_t(rows) * high);
    for_each_context(lora_seed, [&](const auto& context) {
      run_op<op>(context, {.x = {x.data(), rows, wide, wide}, .a = {a.data(), rank, wide, wide}, .b = {b.data(), high, rank, rank}, .y = {y.data(), rows, high, high}});
      REQUIRE(y.guarded());
      every_element("y", y.data(), rows, high, [&](int r, int j) {
        double want = 0, bound = 1e-30;
        for (int q = 0; q < rank; ++q) {
          double v = 0, size = 0;
          for (int c = 0; c < wide; ++c) v += value(x[std::size_t(r) * wide + c]) * value(a[std::size_t(q) * wide + c]), size += std::abs(value(x[std::size_t(r) * wide + c]) * value(a[std::size_t(q) * wide + c]));
          const double by = value(b[std::size_t(j) * rank + q]);
          want += v * by, bound += std::abs(by) * (1.01 * 0x1p-8 * std::abs(v) + (wide + rank + 8) * 0x1p-24 * size);      // v is rounded to bf16
        }
        return std::pair(want, bound);
      });
    });
  }
}

TEST_CASE("lora: an adapter added by the base product as it stores", "[flow][lora]") {
  using base = gemm::dense<bf16, bf16, float, policy::chain<policy::add_low_rank<bf16>>>;
  using op = lora::fused<base, bf16>;
  std::mt19937 generator(lora_seed);
  const int wide = 72, high = 88;
  const array<bf16> w = random_array<bf16>(std::size_t(high) * wide, generator, 0.2f);
  for (const int rank : {12, 24})
    for (const int rows : {3, 150}) {      // weights on the left and on the right
      const array<bf16> x = random_array<bf16>(std::size_t(rows) * wide, generator), a = random_array<bf16>(std::size_t(rank) * wide, generator, 0.2f), b = random_array<bf16>(std::size_t(rank) * high, generator, 0.2f);
      array<float> y(std::size_t(rows) * high);
      for_each_context(lora_seed, [&](const auto& context) {
        op::args args{};
        args.x = {x.data(), rows, wide, wide}, args.a = {a.data(), rank, wide, wide}, args.b = {b.data(), rank, high, high}, args.scale = 0.75f;
        args.base.a = args.x, args.base.b = {w.data(), high, wide, wide}, args.base.c = {y.data(), rows, high, high};
        run_op<op>(context, args);
        REQUIRE(y.guarded());
        every_element("y", y.data(), rows, high, [&](int r, int j) {
          double want = 0, bound = 1e-30;
          for (int c = 0; c < wide; ++c) {
            double weight = value(w[std::size_t(j) * wide + c]), size = std::abs(weight);
            for (int q = 0; q < rank; ++q) weight += 0.75 * value(a[std::size_t(q) * wide + c]) * value(b[std::size_t(q) * high + j]), size += std::abs(0.75 * value(a[std::size_t(q) * wide + c]) * value(b[std::size_t(q) * high + j]));
            want += weight * value(x[std::size_t(r) * wide + c]), bound += (wide + rank + 8) * 0x1p-24 * size * std::abs(value(x[std::size_t(r) * wide + c]));
          }
          return std::pair(want, bound);
        });
      });
    }
  policy::add_low_rank<bf16> bad{.rows = 3, .columns = 88, .b_stride = 88};
  REQUIRE(bad.check({4, 88, nullptr, nullptr, 0}).code == errc::bad_shape);
  bad.rows = 4, bad.rank = 8, bad.values_stride = 8;
  REQUIRE(bad.check({4, 88, nullptr, nullptr, 0}).code == errc::null_pointer);
}

TEST_CASE("lora: adapters of each row added by the base product as it stores", "[flow][lora]") {
  using base = gemm::dense<bf16, bf16, float, policy::chain<policy::add_low_rank_of_row<bf16>>>;
  using op = lora::fused_rows<base, bf16>;
  std::mt19937 generator(lora_seed);
  const int wide = 72, high = 88;
  const bank w({12, 5, 0, 16}, wide, high, generator);
  const array<bf16> base_weight = random_array<bf16>(std::size_t(high) * wide, generator, 0.2f);
  for (const int rows : {3, 70}) {      // weights on the left and on the right
    const array<bf16> x = random_array<bf16>(std::size_t(rows) * wide, generator);
    array<int> adapter(rows);
    for (int r = 0; r < rows; ++r) adapter[r] = r % 7 == 2 ? -1 : int(generator() % 4);
    array<float> y(std::size_t(rows) * high);
    op::args args{};
    args.x = {x.data(), rows, wide, wide}, args.adapter = adapter.data(), args.weights = w.view();
    args.base.a = args.x, args.base.b = {base_weight.data(), high, wide, wide}, args.base.c = {y.data(), rows, high, high};
    for_each_context(lora_seed, [&](const auto& context) {
      run_op<op>(context, args);
      REQUIRE(y.guarded());
      every_element("y", y.data(), rows, high, [&](int r, int j) {
        double want = 0, bound = 1e-30;
        for (int c = 0; c < wide; ++c) {
          double weight = value(base_weight[std::size_t(j) * wide + c]), size = std::abs(weight);
          if (const int e = adapter[r]; e >= 0)
            for (int q = 0; q < w.ranks[e]; ++q) {
              const double v = w.scale[e] * w.at_a(e, q, c) * w.at_b(e, q, j);
              weight += v, size += std::abs(v);
            }
          want += weight * value(x[std::size_t(r) * wide + c]), bound += (wide + 24) * 0x1p-24 * size * std::abs(value(x[std::size_t(r) * wide + c]));
        }
        return std::pair(want, bound);
      });
    });
#if !defined(__CUDACC__)
    adapter[1] = 4;
    const status st = op::check(any_context(), args);
    CHECK(st.code == errc::bad_value);
    CHECK(std::string(st.what).find("adapter") == 0);
#endif
  }
}

TEST_CASE("lora: bad segments, ranks and pages are refused with what to do", "[flow][lora]") {
  using op = lora::sgmv<bf16>;
  std::mt19937 generator(lora_seed);
  bank w({12, 24}, 72, 40, generator);
  const int rows = 6;
  const array<bf16> x = random_array<bf16>(std::size_t(rows) * w.wide, generator);
  array<bf16> y(std::size_t(rows) * w.high);
  array<std::int32_t> offsets(3);
  array<int> adapter(2);
  offsets[0] = 0, offsets[1] = 2, offsets[2] = 6, adapter[0] = 1, adapter[1] = 0;
  op::args good{{x.data(), rows, w.wide, w.wide}, {offsets.data(), 2}, adapter.data(), w.view(), {y.data(), rows, w.high, w.high}};
#if !defined(__CUDACC__)
  const auto context = any_context();
  REQUIRE(op::check(context, good).code == errc::ok);
  const auto refused = [&](const char* word) {
    const status st = op::check(context, good);
    CAPTURE(st.what, word);
    REQUIRE(st.code != errc::ok);
    REQUIRE(std::string(st.what).find(word) != std::string::npos);
  };
  // P9: metadata of a batch of 830 rows, called with 3: the faulty form reads rows 3 to 829
  good.x.rows = good.y.rows = 3;
  refused("segment");
  offsets[2] = 5, good.x.rows = good.y.rows = rows;
  refused("sum to the rows");
  offsets[2] = 6, offsets[1] = 7;
  refused("offset");
  offsets[1] = 2, adapter[0] = 2;
  refused("beyond the weights");
  adapter[0] = 1, w.rank[0] = 25;                       // a rank beyond the largest that was announced
  good.weights = w.view();
  refused("rank");
  w.rank[0] = 12;
  const int page = w.page[3];
  w.page[3] = w.cells;                                  // beyond the pool
  refused("freed while a weight still names it");
  w.page[3] = -1;                                       // given back, and marked so
  refused("freed while a weight still names it");
  w.page[3] = page;
  REQUIRE(op::check(context, good).code == errc::ok);
#endif
}

// The same rules, and those of expert ids, for lists that only a GPU can read: looked over where they lie.
TEST_CASE("lora: lists of a batch are looked over where they lie", "[flow][lora]") {
  using op = moe::inspect<std::int64_t>;
  std::mt19937 generator(lora_seed);
  bank w({12, 24, 0}, 72, 40, generator);
  const int tokens = 300, choices = 3, experts = 7, rows = 6, segments = 3;
  array<std::int32_t> ids(std::size_t(tokens) * choices), report(op::findings);
  for (int t = 0; t < tokens; ++t)
    for (int j = 0; j < choices; ++j) ids[t * choices + j] = (t + 2 * j) % experts;
  ids[5] = -1, ids[3] = -1;      // none, twice
  array<std::int64_t> offsets(segments + 1);
  array<int> adapter(segments);
  offsets[0] = 0, offsets[1] = 2, offsets[2] = 2, offsets[3] = 6, adapter[0] = 1, adapter[1] = -1, adapter[2] = 0;
  for_each_context(lora_seed, [&](const auto& context) {
    const auto found = [&](errc code, const char* word, int place) {
      std::fill(report.begin(), report.end(), 77);
      run_op<op>(context, op::of({.ids = ids.data(), .tokens = tokens, .choices = choices, .experts = experts, .rows = {offsets.data(), segments}, .total = rows, .adapter = adapter.data(), .report = report.data()}, w.view().b));
      REQUIRE(report.guarded());
      const status st = op::status_of(report.data());
      CAPTURE(st.what, st.got, word, place);
      REQUIRE(st.code == code);
      REQUIRE(std::string(st.what).find(word) != std::string::npos);
      if (code != errc::ok) REQUIRE(st.got == place);
    };
    const auto broken = [&](auto& number, int wrong, errc code, const char* word, int place) {
      const auto was = number;
      number = wrong;
      found(code, word, place);
      number = was;
    };
    found(errc::ok, "", 0);
    broken(ids[899], experts, errc::bad_value, "neither an expert", 899);
    broken(ids[300], -2, errc::bad_value, "neither an expert", 300);
    broken(ids[602], int(ids[600]), errc::bad_value, "twice", 602);
    broken(offsets[1], 7, errc::bad_value, "an offset decreases", 0);
    broken(offsets[0], 1, errc::bad_value, "an offset decreases", 0);
    broken(offsets[1], 1, errc::ok, "", 0);
    broken(offsets[3], 5, errc::bad_shape, "sum to the rows", 2);
    broken(adapter[2], 3, errc::bad_value, "does not exist", 2);
    broken(w.rank[0], 25, errc::bad_value, "beyond `most`", 0);
    broken(w.first[1], w.lines - 23, errc::bad_value, "end beyond the list", 1);
    broken(w.page[13], -1, errc::bad_value, "freed", 13);
    broken(w.page[35], w.cells, errc::bad_value, "freed", 35);
    found(errc::ok, "", 0);
  });
  op::args none{.tokens = -1};
  REQUIRE(op::check(any_context(), none).code == errc::bad_shape);
  none.tokens = 0;
  REQUIRE(op::check(any_context(), none).code == errc::null_pointer);
}

TEST_CASE("lora: the gradient through packed weights", "[flow][lora]") {
  std::mt19937 generator(lora_seed);
  const auto with = [&]<class Format>(Format, int wide, int high, double rounding) {
    using op = lora::packed_backward<Format, bf16, float>;
    const bank w({12, 24}, wide, high, generator);
    std::vector<neutral<Format>> base;
    base.emplace_back(high, wide, generator);
    test::packed_stack<Format, bf16> p(base);
    const batch l({3, 1, 7}, 2, generator);
    const int most = 32, n = 3;
    const array<bf16> x = random_array<bf16>(std::size_t(l.rows) * wide, generator), dy = random_array<bf16>(std::size_t(l.rows) * high, generator);
    array<float> dx(std::size_t(l.rows) * wide), da(std::size_t(n) * most * wide), db(std::size_t(n) * most * high);
    for_each_context(lora_seed, [&](const auto& context) {
      typename op::args a{};
      a.w = p.w;
      a.low_rank = {.x = {x.data(), l.rows, wide, wide}, .dy = {dy.data(), l.rows, high, high}, .rows = {l.offsets.data(), n}, .adapter = l.adapter.data(), .weights = w.view(), .dx = {dx.data(), l.rows, wide, wide},
                    .da = {da.data(), n, most, wide, static_cast<long long>(most) * wide, wide}, .db = {db.data(), n, most, high, static_cast<long long>(most) * high, high}};
      run_op<op>(context, a);
      REQUIRE(dx.guarded());
      every_element("dx", dx.data(), l.rows, wide, [&](int r, int c) {
        double want = 0, bound = 1e-30;
        for (int j = 0; j < high; ++j) {
          double weight = base[0].meaning.at(j, c, c).value, magnitude = std::abs(weight) * rounding + base[0].meaning.at(j, c, c).size * 0x1p-20;
          if (const int e = l.of_row[r]; e >= 0)
            for (int q = 0; q < w.ranks[e]; ++q) weight += w.scale[e] * w.at_b(e, q, j) * w.at_a(e, q, c), magnitude += ((high + 60) * 0x1p-24 + 2 * operand_error<float>()) * std::abs(w.scale[e] * w.at_b(e, q, j) * w.at_a(e, q, c));
          const double t = value(dy[std::size_t(r) * high + j]);
          want += weight * t, bound += (magnitude + (high + 4) * 0x1p-24 * std::abs(weight)) * std::abs(t);
        }
        return std::pair(want, bound);
      });
    });
  };
  // a table rounded to bf16, a scale rounded with the code, and the product of both rounded once more
  with(policy::bnb_nf4<64>{}, 320, 40, 0x1p-8 + 0x1p-9 + 0x1p-12);
  with(policy::q4_0{}, 64, 72, 0x1p-8 + 0x1p-12);
}

TEST_CASE("lora: a batch that serves and trains", "[flow][lora]") {
  using system = lora::flex_llm<bf16, bf16, float, float, windows>;
  std::mt19937 generator(lora_seed);
  const bank w({12, 24, 4}, 72, 40, generator);
  const int served = 9, length = 26, most = 32;      // three requests of three rows, and a sequence of 26 rows with adapter 1
  const array<bf16> weight = random_array<bf16>(std::size_t(w.high) * w.wide, generator, 0.2f), requests = random_array<bf16>(std::size_t(served) * w.wide, generator), sequence = random_array<bf16>(std::size_t(length) * w.wide, generator),
                    dy_sequence = random_array<bf16>(std::size_t(length) * w.high, generator);
  for_each_context(lora_seed, [&](const auto& context) {
    std::vector<float> alone;
    std::vector<float> whole_a, whole_b;
    for (const int window : {0, length, 10, 1}) {      // 0: requests only
      array<float> da(std::size_t(4) * most * w.wide), db(std::size_t(4) * most * w.high);
      std::fill(da.begin(), da.end(), 0.0f), std::fill(db.begin(), db.end(), 0.0f);
      for (int begin = 0; begin < (window == 0 ? 1 : length); begin += window == 0 ? 1 : window) {
        const int some = window == 0 ? 0 : std::min(window, length - begin), rows = served + some;
        array<bf16> x(std::size_t(rows) * w.wide), dy(std::size_t(rows) * w.high);
        std::memset(dy.data(), 0xFF, dy.size() * sizeof(bf16));                      // of requests: NaN, which nobody reads
        std::copy_n(requests.data(), requests.size(), x.data());
        std::copy_n(sequence.data() + std::size_t(begin) * w.wide, std::size_t(some) * w.wide, x.data() + std::size_t(served) * w.wide);
        std::copy_n(dy_sequence.data() + std::size_t(begin) * w.high, std::size_t(some) * w.high, dy.data() + std::size_t(served) * w.high);
        array<std::int32_t> offsets(5);
        array<int> adapter(4), trained(4);
        for (int s = 0; s <= 3; ++s) offsets[s] = 3 * s;
        offsets[4] = rows;
        adapter[0] = 0, adapter[1] = -1, adapter[2] = 2, adapter[3] = 1;
        trained[0] = trained[1] = trained[2] = -1, trained[3] = 1;
        array<float> y(std::size_t(rows) * w.high), dx(std::size_t(rows) * w.wide);
        typename system::forward::args f{};
        f.base.a = {x.data(), rows, w.wide, w.wide}, f.base.b = {weight.data(), w.high, w.wide, w.wide}, f.base.c = {y.data(), rows, w.high, w.high};
        f.low_rank = {f.base.a, {offsets.data(), 4}, adapter.data(), w.view(), f.base.c};
        run_op<typename system::forward>(context, f);
        if (alone.empty()) alone.assign(y.begin(), y.begin() + std::size_t(served) * w.high);
        REQUIRE(std::memcmp(alone.data(), y.data(), alone.size() * sizeof(float)) == 0);      // co-served rows change no bit
        if (window == 0) continue;
        std::fill(dx.begin(), dx.end(), 77.0f);
        typename system::backward::args b{.w = {weight.data(), w.high, w.wide, w.wide},
                                          .low_rank = {.x = f.base.a, .dy = {dy.data(), rows, w.high, w.high}, .rows = {offsets.data(), 4}, .adapter = trained.data(), .weights = w.view(), .dx = {dx.data(), rows, w.wide, w.wide},
                                                       .da = {da.data(), 4, most, w.wide, static_cast<long long>(most) * w.wide, w.wide}, .db = {db.data(), 4, most, w.high, static_cast<long long>(most) * w.high, w.high}}};
        run_op<typename system::backward>(context, b);
        REQUIRE(dx.guarded());
        for (int i = 0; i < served * w.wide; ++i) REQUIRE(dx[i] == 77.0f);                     // requests have no gradient
        every_element("dx", dx.data() + std::size_t(served) * w.wide, some, w.wide, [&](int r, int c) {
          double want = 0, size = 0;
          for (int j = 0; j < w.high; ++j) {
            double v = value(weight[std::size_t(j) * w.wide + c]), magnitude = std::abs(v);
            for (int q = 0; q < 24; ++q) v += w.scale[1] * w.at_b(1, q, j) * w.at_a(1, q, c), magnitude += std::abs(w.scale[1] * w.at_b(1, q, j) * w.at_a(1, q, c));
            const double t = value(dy_sequence[std::size_t(begin + r) * w.high + j]);
            want += v * t, size += magnitude * std::abs(t);
          }
          return std::pair(want, (200 * 0x1p-24 + 2 * operand_error<float>()) * size);
        });
      }
      if (window == length) whole_a.assign(da.begin(), da.end()), whole_b.assign(db.begin(), db.end());
      if (window > 0) {
        // the sums of a window are rounded apart: each is at most the sum of magnitudes, bounded by the greatest values here
        const double size = length * 4.0 * 40 * 4.0 * 4, unit = (2 * length + 8) * 0x1p-24 * size;
        every_element("da", da.data(), 4 * most, w.wide, [&](int r, int c) { return std::pair<double, double>(whole_a[std::size_t(r) * w.wide + c], r / most == 3 ? unit : 0.0); });
        every_element("db", db.data(), 4 * most, w.high, [&](int r, int c) { return std::pair<double, double>(whole_b[std::size_t(r) * w.high + c], r / most == 3 ? unit : 0.0); });
        REQUIRE(std::any_of(da.begin() + 3 * most * w.wide, da.end(), [](float v) { return v != 0; }));
      }
    }
  });
}
