// Attention on the processor with a mask of the library, then with one of your own: five lines of it. Checks both
// against sums in double.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>
#include <smalti/core/float.hpp>
#include <smalti/core/workspace_pool.hpp>
#include <smalti/ops/attention.hpp>

using namespace smalti;

constexpr int tokens = 200, heads = 4, kv_heads = 2, d = 64;

// [own mask]
// Every query sees the keys before it, but of each eight only the last: a fading memory.
struct every_eighth {
  policy::span keys(policy::span q, int) const { return {0, q.last}; }   // no query sees a key outside
  policy::span whole(policy::span, int) const { return {0, 0}; }         // nobody sees all of any keys
  template <class Q, class K> auto visible(Q q, K k) const { return k <= q && (k == q || k % 8 == 7); }
};
// [own mask]

// [first attention]
// o = softmax(q k' / sqrt(d)) v under a mask, for each head; two query heads share a key head.
template <class Mask> status attend(const std::vector<bf16>& q, const std::vector<bf16>& k, const std::vector<bf16>& v, std::vector<bf16>& o) {
  using op = attention::flash<bf16, d, attention::dense_kv<bf16>, Mask>;
  const host_context context{};  // all threads
  const typename op::args x{
      .q = attention::bshd(q.data(), 1, tokens, heads, d),  // sequences, rows, heads, columns: [sequence][token][head][column]
      .kv = {attention::bshd(k.data(), 1, tokens, kv_heads, d), attention::bshd(v.data(), 1, tokens, kv_heads, d)},
      .o = attention::bshd(o.data(), 1, tokens, heads, d),
  };
  workspace_pool pool(context);
  if (const status bad = pool.reserve(op::workspace_bytes(context, x)); !bad) return bad;
  return op::run(context, x, pool.memory());
}
// [first attention]

namespace {

std::vector<bf16> numbers(int n, unsigned seed) {
  std::vector<bf16> x(n);
  for (bf16& e : x) e = narrow<bf16>(float(int((seed = seed * 1664525u + 1013904223u) >> 8) % 2001 - 1000) / 500.0f);
  return x;
}

template <class Visible> double worst(const std::vector<bf16>& q, const std::vector<bf16>& k, const std::vector<bf16>& v, const std::vector<bf16>& o, Visible visible) {
  double most = 0;
  for (int h = 0; h < heads; ++h)
    for (int i = 0; i < tokens; ++i) {
      const auto at = [](const std::vector<bf16>& x, int token, int head, int of, int c) { return double(to_float(x[(token * of + head) * d + c])); };
      std::vector<double> w(tokens);
      double sum = 0;
      for (int j = 0; j < tokens; ++j) {
        if (!visible(i, j)) continue;
        for (int c = 0; c < d; ++c) w[j] += at(q, i, h, heads, c) * at(k, j, h / 2, kv_heads, c) / 8;
        sum += w[j] = std::exp(w[j]);
      }
      for (int c = 0; c < d; ++c) {
        double want = 0;
        for (int j = 0; j < tokens; ++j) want += w[j] / sum * at(v, j, h / 2, kv_heads, c);
        most = std::max(most, std::abs(want - at(o, i, h, heads, c)));
      }
    }
  return most;
}

}  // namespace

int main() {
  const auto q = numbers(tokens * heads * d, 1), k = numbers(tokens * kv_heads * d, 2), v = numbers(tokens * kv_heads * d, 3);
  std::vector<bf16> o(q.size());
  for (const bool own : {false, true}) {
    const status st = own ? attend<every_eighth>(q, k, v, o) : attend<policy::causal>(q, k, v, o);
    if (!st) return std::printf("refused: %s\n", st.what), 1;
    const double error = worst(q, k, v, o, [=](int i, int j) { return own ? j <= i && (j == i || j % 8 == 7) : j <= i; });
    std::printf("%s: largest error %.2g\n", own ? "a mask of our own" : "causal", error);
    if (!(error < 0.03)) return 1;   // weights and results are rounded to bf16: 2^-8 of values up to 2, each
  }
  return 0;
}
