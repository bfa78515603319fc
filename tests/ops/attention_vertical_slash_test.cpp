// MInference's vertical-slash attention: the probe's sums by their definition in double, the choice of verticals and slashes from
// them, the blocks that slashes touch, and attention to exactly what was chosen.
// Sums of the probe err by at most 1e-5 of 64 weights (exponents within 1e-6, sums of 64 terms): choices between sums closer than
// that are not asked.
#include <catch2/catch.hpp>
#include <algorithm>
#include <random>
#include <string>
#include "ops/attention_problem.hpp"
#include <smalti/ops/attention/vertical_slash.hpp>

using namespace smalti;
using test::attention_shape;
using test::row_order;
using test::rows_of_batch;

namespace {

constexpr unsigned seed = 64;
constexpr int d = 32;
struct into_float : attention::options { using out = float; };
using op = attention::vertical_slash<bf16, d, attention::dense_kv<bf16>, into_float>;
using search = op::search;
constexpr double slack = 1e-5 * 64;

struct batch {
  attention_shape shape;
  rows_of_batch<bf16> q, k, v;
  test::array<int> lengths;
  batch(const attention_shape& s, std::mt19937& generator) : shape(s), q(s.queries, s.heads, d, row_order::ragged), k(s.keys, s.kv_heads, d, row_order::ragged), v(s.keys, s.kv_heads, d, row_order::ragged), lengths(s.keys.size()) {
    q.fill(generator, 1.5f);
    k.fill(generator, 1.5f);
    v.fill(generator);
    for (std::size_t n = 0; n < s.keys.size(); ++n) lengths[n] = s.keys[n];
  }
  attention::dense_kv<bf16> kv() { return {k.rows<const bf16>(), v.rows<const bf16>()}; }
  oracle::attention_problem problem(int s, int h) const {
    return test::oracle_of(shape, q, [&](int s, int g, int j, int c) { return k.get(s, g, j, c); }, [&](int s, int g, int j, int c) { return v.get(s, g, j, c); }, 1 / std::sqrt(double(d)), s, h);
  }
};

// Column and diagonal sums of the softmax of the last 64 rows.
struct sums {
  std::vector<double> vertical, slash;
  sums(const batch& b, int s, int h) : vertical(b.shape.keys[s]), slash(b.shape.keys[s]) {
    auto p = b.problem(s, h);
    const int shift = p.keys - p.queries;
    p.visible = [=](int i, int j) { return j <= i + shift; };
    for (int i = std::max(p.queries - 64, 0); i < p.queries; ++i) {
      const auto row = oracle::attention_row(p, i);
      for (int j = 0; j <= std::min(i + shift, p.keys - 1); ++j) vertical[j] += row.w[j], slash[i + shift - j] += row.w[j];
    }
  }
};
// What must be chosen and what may be: `count` of x, the first `forced` always.
struct choice {
  std::vector<bool> must, may;
  choice(const std::vector<double>& x, int count, int forced) : must(x.size(), false), may(x.size(), false) {
    std::vector<double> sorted;
    for (int n = forced; n < int(x.size()); ++n) sorted.push_back(x[n]);
    std::sort(sorted.rbegin(), sorted.rend());
    const int rest = count - forced;
    for (int n = 0; n < int(x.size()); ++n) {
      const bool all = rest >= int(sorted.size());
      must[n] = n < forced || all || (rest < int(sorted.size()) && x[n] > sorted[rest] + slack);
      may[n] = n < forced || all || (rest > 0 && x[n] >= sorted[rest - 1] - slack);
    }
  }
};

// In the second the first query stands at the last key of a block: its own key alone touches it.
const attention_shape shapes[] = {{{130, 70, 0, 20}, {300, 70, 10, 500}, 4, 2, d, d}, {{64}, {127}, 2, 1, d, d}};

}  // namespace

TEST_CASE("vertical_slash attends to what its probe chose", "[ops][attention][vertical_slash]") {
  std::mt19937 generator(seed);
  for (const attention_shape& shape : shapes) {
    batch b(shape, generator);
    for (const auto& [verticals, slashes, forced_columns, forced_slashes, at_once] : {std::tuple{12, 5, 4, 3, 3}, {70, 40, 30, 30, 100}, {0, 1, 0, 1, 1}, {600, 700, 5, 5, 4}})
      test::for_each_context(seed, [&, verticals = verticals, slashes = slashes, forced_columns = forced_columns, forced_slashes = forced_slashes, at_once = at_once](const auto& context) {
        CAPTURE(seed, verticals, slashes, forced_columns, forced_slashes);
        search::args s{.q = b.q.rows<const bf16>(), .kv = b.kv(), .verticals = verticals, .slashes = slashes, .forced_columns = forced_columns, .forced_slashes = forced_slashes, .probed_at_once = at_once};
        const int pairs = search::pairs(s), tiles = search::tiles(s), lists = pairs * tiles, width = search::width(s), flags = search::all_blocks(s);
        test::array<int> columns(std::size_t(pairs) * verticals), blocks(std::size_t(lists) * width);
        test::array<unsigned char> covered(std::size_t(lists) * flags);
        std::fill(blocks.begin(), blocks.end(), 12345);
        s.columns = {columns.data(), pairs, verticals, verticals}, s.blocks = {blocks.data(), lists, width, width}, s.covered = {covered.data(), lists, flags, flags};
        test::scratch memory(search::workspace_bytes(context, s));
        const status st = search::run(context, s, memory.get());
        INFO(st.what);
        REQUIRE(st.code == errc::ok);
        test::wait(context);
        REQUIRE(columns.guarded());
        REQUIRE(blocks.guarded());
        REQUIRE(covered.guarded());
        REQUIRE(memory.guarded());
        for (int n = 0; n < shape.sequences(); ++n)
          for (int h = 0; h < shape.heads; ++h) {
            CAPTURE(n, h);
            const int keys = shape.keys[n], queries = shape.queries[n], pair = n * shape.heads + h, shift = keys - queries;
            if (queries == 0) continue;
            const sums probe(b, n, h);
            const choice vertical(probe.vertical, verticals, std::min(forced_columns, keys)), slash(probe.slash, slashes, std::min(forced_slashes, keys));
            std::vector<bool> chosen(keys, false);
            for (int i = 0; i < verticals; ++i)
              if (const int c = columns[std::size_t(pair) * verticals + i]; c >= 0 && c < keys) {
                CHECK_FALSE(chosen[c]);
                chosen[c] = true;
              }
            for (int j = 0; j < keys; ++j) {
              if (vertical.must[j] && verticals > 0) CHECK(chosen[j]);
              if (chosen[j]) CHECK(vertical.may[j]);
            }
            for (int tile = 0; tile * 64 < queries; ++tile) {
              const int first = tile * 64 + shift, last = std::min(tile * 64 + 64, queries) - 1 + shift;
              const int* list = blocks.data() + std::size_t(pair * tiles + tile) * width;
              const unsigned char* flag = covered.data() + std::size_t(pair * tiles + tile) * flags;
              for (int block = 0; block * 64 < keys; ++block) {
                bool must = false, may = false;
                for (int p = first; p <= last; ++p)
                  for (int j = block * 64; j < std::min({block * 64 + 64, keys, p + 1}); ++j) must = must || slash.must[p - j], may = may || slash.may[p - j];
                const bool listed = std::find(list, list + width, block) != list + width;
                CHECK(listed == (flag[block] != 0));
                if (must) CHECK(listed);
                if (listed) CHECK(may);
              }
            }
          }
        // In one call: attention to the listed blocks and the chosen keys.
        rows_of_batch<float> o(shape.queries, shape.heads, d, row_order::ragged), lse(shape.queries, shape.heads, 1, row_order::ragged);
        const op::args x{.q = s.q, .kv = s.kv, .lengths = b.lengths.data(), .o = o.rows(), .lse = lse.rows(), .verticals = verticals, .slashes = slashes, .forced_columns = forced_columns,
                         .forced_slashes = forced_slashes, .probed_at_once = at_once};
        test::scratch more(op::workspace_bytes(context, x));
        const status all = op::run(context, x, more.get());
        INFO(all.what);
        REQUIRE(all.code == errc::ok);
        test::wait(context);
        REQUIRE(more.guarded());
        REQUIRE(o.guarded());
        for (int n = 0; n < shape.sequences(); ++n)
          for (int h = 0; h < shape.heads; ++h) {
            auto p = b.problem(n, h);
            const int pair = n * shape.heads + h, shift = p.keys - p.queries;
            p.visible = [&](int i, int j) {
              if (j > i + shift) return false;
              const int* own = columns.data() + std::size_t(pair) * verticals;
              return slashes >= 500 || covered[std::size_t(pair * tiles + i / 64) * flags + j / 64] != 0 || std::find(own, own + verticals, j) != own + verticals;
            };
            const auto r = oracle::attention(p);
            for (int i = 0; i < p.queries; ++i) {
              for (int e = 0; e < d; ++e)
                if (!(std::abs(o.get(n, h, i, e) - r.o[std::size_t(i) * d + e]) <= test::attention_error<bf16, float>(r, p, i, e) + 1e-5 * r.size[std::size_t(i) * d + e])) FAIL("a value of " << n << ", " << h << ", " << i);
              CHECK(std::abs(lse.get(n, h, i, 0) - r.lse[i]) <= 1e-4);
            }
          }
      });
  }
}

TEST_CASE("what vertical_slash refuses", "[ops][attention][vertical_slash]") {
  std::mt19937 generator(seed);
  batch b({{70}, {100}, 2, 1, d, d}, generator);
  rows_of_batch<float> o(b.shape.queries, 2, d, row_order::ragged);
  const auto context = test::any_context();
  const auto refused = [&](auto change, const char* word) {
    op::args x{.q = b.q.rows<const bf16>(), .kv = b.kv(), .lengths = b.lengths.data(), .o = o.rows(), .verticals = 10, .slashes = 10, .forced_columns = 3, .forced_slashes = 3};
    REQUIRE(op::check(context, x).code == errc::ok);
    change(x);
    const status s = op::check(context, x);
    CAPTURE(word, s.what);
    CHECK(s.code != errc::ok);
    CHECK(std::string(s.what).find(word) != std::string::npos);
  };
  refused([](auto& x) { x.verticals = -1; }, "verticals");
  refused([](auto& x) { x.slashes = 0; }, "slashes");
  refused([](auto& x) { x.slashes = 5000; }, "slashes");
  refused([](auto& x) { x.forced_columns = 11; }, "forced_columns");
  refused([](auto& x) { x.forced_slashes = 0; }, "forced_slashes");
  refused([](auto& x) { x.probed_at_once = 0; }, "probed_at_once");
  refused([](auto& x) { x.lengths = nullptr; }, "lengths");
  refused([](auto& x) { x.scale = -1; }, "scale");
  refused([](auto& x) { x.o.cols = 8; }, "o");
  refused([](auto& x) { x.q.data = nullptr; }, "q");
  search::args s{.q = b.q.rows<const bf16>(), .kv = b.kv(), .verticals = 10, .slashes = 10, .forced_columns = 3, .forced_slashes = 3};
  CHECK(std::string(search::check(context, s).what).find("columns is null") != std::string::npos);
}
