// Four adapters in one batch: requests with different low-rank adapters share one product with the base weight, and each row then
// gets its own adapter's update. Checked against one request at a time, with each adapter merged into a weight of its own.
#include <smalti/core/float.hpp>
#include <smalti/core/workspace_pool.hpp>
#include <smalti/flow/lora.hpp>
#include <smalti/ops/gemm.hpp>

#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

using namespace smalti;

// [layer]
// The base layer, and the layer with its adapters: y = x W' + scale (x A') B', with A and B of each row's adapter.
using base = gemm::dense<bf16, bf16, float>;
using layer = lora::adapted<base, bf16, bf16, float>;

// Adapters of one projection: rank rows of A and of B in two pools, an adapter's rows listed one after another.
struct adapters {
  int wide, high, count = 0, most = 0;
  std::vector<bf16> a = {}, b = {};
  std::vector<int> first = {}, rank = {}, line = {};
  std::vector<float> scale = {};

  void add(int r, float strength, std::mt19937& generator) {
    std::normal_distribution<float> normal(0, 0.1f);
    first.push_back(int(line.size())), rank.push_back(r), scale.push_back(strength);
    for (int q = 0; q < r; ++q) line.push_back(int(line.size()));  // its pages: here simply the next ones
    for (int i = 0; i < r * wide; ++i) a.push_back(narrow<bf16>(normal(generator)));
    for (int i = 0; i < r * high; ++i) b.push_back(narrow<bf16>(normal(generator)));
    ++count, most = r > most ? r : most;
  }
  lora::adapters<bf16> view() const {
    const int lines = int(line.size());
    return {.a = {.pool = {a.data(), lines, wide, wide}, .first = first.data(), .count = rank.data(), .line = line.data(), .weights = count, .most = most, .lines = lines},
            .b = {.pool = {b.data(), lines, high, high}, .first = first.data(), .count = rank.data(), .line = line.data(), .scale = scale.data(), .weights = count, .most = most, .lines = lines}};
  }
};

status serve(const std::vector<bf16>& x, const std::vector<bf16>& w, const adapters& own, const std::vector<std::int32_t>& begins, const std::vector<int>& adapter, std::vector<float>& y) {
  const host_context context{};
  const int rows = begins.back(), requests = int(adapter.size());
  layer::args call{};
  call.base = {.a = {x.data(), rows, own.wide, own.wide}, .b = {w.data(), own.high, own.wide, own.wide}, .c = {y.data(), rows, own.high, own.high}};
  call.low_rank = {.x = call.base.a, .rows = {begins.data(), requests}, .adapter = adapter.data(), .weights = own.view(), .y = call.base.c};
  workspace_pool pool(context);
  if (const status bad = pool.reserve(layer::workspace_bytes(context, call)); !bad) return bad;
  return layer::run(context, call, pool.memory());
}
// [layer]

int main() {
  std::mt19937 generator(26);
  std::normal_distribution<float> normal;
  adapters own{.wide = 256, .high = 192};
  for (const int rank : {8, 16, 24, 64}) own.add(rank, 16.0f / float(rank), generator);

  // Six requests of different lengths; the fourth has no adapter, two share one.
  const std::vector<std::int32_t> begins{0, 5, 6, 30, 33, 34, 47};
  const std::vector<int> adapter{2, 0, 3, -1, 1, 0};
  const int rows = begins.back();
  std::vector<bf16> x(std::size_t(rows) * own.wide), w(std::size_t(own.high) * own.wide);
  for (bf16& v : x) v = narrow<bf16>(normal(generator));
  for (bf16& v : w) v = narrow<bf16>(normal(generator) / 16);
  std::vector<float> y(std::size_t(rows) * own.high);
  if (const status bad = serve(x, w, own, begins, adapter, y); !bad) return std::printf("refused: %s\n", bad.what), 1;

  double worst = 0;
  for (int s = 0; s < int(adapter.size()); ++s) {
    std::vector<double> merged(w.size());  // W + scale B' A, in double
    for (int j = 0; j < own.high; ++j)
      for (int c = 0; c < own.wide; ++c) {
        double sum = to_float(w[std::size_t(j) * own.wide + c]);
        for (int q = 0; adapter[s] >= 0 && q < own.rank[adapter[s]]; ++q) {
          const std::size_t line = std::size_t(own.first[adapter[s]] + q);
          sum += double(own.scale[adapter[s]]) * to_float(own.b[line * own.high + j]) * to_float(own.a[line * own.wide + c]);
        }
        merged[std::size_t(j) * own.wide + c] = sum;
      }
    for (int r = begins[s]; r < begins[s + 1]; ++r)
      for (int j = 0; j < own.high; ++j) {
        double sum = 0;
        for (int c = 0; c < own.wide; ++c) sum += merged[std::size_t(j) * own.wide + c] * to_float(x[std::size_t(r) * own.wide + c]);
        worst = std::fmax(worst, std::fabs(sum - y[std::size_t(r) * own.high + j]));
      }
  }
  std::printf("four adapters in one batch of %d rows: off by at most %.1e from one merged weight a request\n", rows, worst);
  return worst < 1e-3 ? 0 : 1;
}
