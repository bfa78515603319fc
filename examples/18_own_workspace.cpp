// A workspace of your own: operations allocate nothing, they say how many bytes they need and work in what you give them. Here
// one block serves three layers of a model one after another, allocated once, before the first token; it may come from anywhere.
// Checks that the bytes are enough, that not one more is touched, and that a byte less is refused.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>
#include <smalti/core/float.hpp>
#include <smalti/ops/gemm.hpp>

using namespace smalti;

using layer = gemm::dense<bf16, bf16, float>;

struct problem {
  int m, n, k;
  std::vector<bf16> a, w;
  std::vector<float> c;
  problem(int m, int n, int k, unsigned seed) : m(m), n(n), k(k), a(std::size_t(m) * k), w(std::size_t(n) * k), c(std::size_t(m) * n, NAN) {
    std::minstd_rand random(seed);
    for (auto* v : {&a, &w})
      for (bf16& x : *v) x = narrow<bf16>(float(random() % 17) - 8);  // whole numbers: every sum is exact
  }
  layer::args args() { return {.a = {a.data(), m, k, k}, .b = {w.data(), n, k, k}, .c = {c.data(), m, n, n}}; }
  bool right() const {
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < n; ++j) {
        double sum = 0;
        for (int p = 0; p < k; ++p) sum += double(to_float(a[std::size_t(i) * k + p])) * to_float(w[std::size_t(j) * k + p]);
        if (c[std::size_t(i) * n + j] != sum) return false;
      }
    return true;
  }
};

int main() {
  problem layers[] = {{33, 96, 256, 1}, {33, 200, 128, 2}, {1, 320, 512, 3}};
  const host_context context{.threads = 2};

  // [own workspace]
  // Sizes are known before anything runs: from extents and the context alone, no data is read.
  std::size_t need = 0;
  for (problem& p : layers) need = std::max(need, layer::workspace_bytes(context, p.args()));

  // Yours: a pool, huge pages, a static array. Only its beginning is asked for: a multiple of 256. What is in it does not matter.
  const std::size_t guard = 256, room = (need + 255) / 256 * 256 + guard;
  const std::unique_ptr<void, decltype(&std::free)> block(std::aligned_alloc(256, room), &std::free);
  if (block == nullptr) return 1;
  std::memset(block.get(), 0xA5, room);
  const workspace scratch(block.get(), need);

  for (problem& p : layers)
    if (const status bad = layer::run(context, p.args(), scratch); !bad) return std::printf("refused: %s\n", bad.what), 1;
  // [own workspace]

  const auto* bytes = static_cast<const unsigned char*>(block.get());
  const bool untouched = std::all_of(bytes + need, bytes + room, [](unsigned char b) { return b == 0xA5; });
  bool right = true;
  for (const problem& p : layers) right = right && p.right();

  problem& largest = *std::max_element(layers, layers + 3, [&](problem& x, problem& y) {
    return layer::workspace_bytes(context, x.args()) < layer::workspace_bytes(context, y.args());
  });
  const status refused = layer::run(context, largest.args(), {block.get(), need - 1});
  const bool ok = right && untouched && refused.code == errc::workspace_too_small && refused.need == std::int64_t(need);
  std::printf("three layers in one workspace of %zu bytes, none beyond it touched; one byte less: \"%s\"%s\n", need, refused.what, ok ? "" : "  WRONG");
  return !ok;
}
