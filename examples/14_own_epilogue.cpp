// An epilogue of your own: what happens to each sum of a product before it is stored, in one pass over the result. Here squared
// ReLU with a threshold for each output, c = max(a w' - threshold, 0)^2 (So et al., arXiv:2109.08668, without the threshold). Checks
// its answer against sums in double, and shows a refusal of its own.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>
#include <smalti/core/float.hpp>
#include <smalti/core/workspace_pool.hpp>
#include <smalti/ops/gemm.hpp>

using namespace smalti;

// [own epilogue]
struct squared_relu {
  const float* threshold = nullptr;  // one for each column of the result
  int n = 0;

  // V is a pack of lanes on the processor and a whole tile on a GPU: words for values, no `if`.
  template <class V, class R, class C> SMALTI_HD V operator()(V x, R, C column) const {
    const V above = max(x - lookup(threshold, column, n), 0.0f);
    return above * above;
  }
  // Optional: asked before anything runs.
  status check(const policy::result_matrix& c) const {
    if (c.cols > 0 && threshold == nullptr) return {errc::null_pointer, "squared_relu: threshold is null"};
    if (n < c.cols) return {errc::bad_shape, "squared_relu: one threshold for each column of c is needed", n, c.cols};
    return {};
  }
};

// It stands in a chain among the library's own steps.
using layer = gemm::dense<bf16, bf16, float, policy::chain<policy::scale, squared_relu>>;
// [own epilogue]

int main() {
  const int tokens = 33, inputs = 256, outputs = 132;
  const float factor = 0.25f;
  std::minstd_rand random(1);
  const auto number = [&] { return float(random() % 2001) * 1e-3f - 1; };
  std::vector<bf16> a(std::size_t(tokens) * inputs), w(std::size_t(outputs) * inputs);
  std::vector<float> threshold(outputs), c(std::size_t(tokens) * outputs);
  for (bf16& v : a) v = narrow<bf16>(number());
  for (bf16& v : w) v = narrow<bf16>(number());
  for (float& v : threshold) v = number();

  const host_context context{};
  layer::args x{.a = {a.data(), tokens, inputs, inputs},
                .b = {w.data(), outputs, inputs, inputs},
                .c = {c.data(), tokens, outputs, outputs},
                .epilogue = {{factor}, {{threshold.data(), outputs}, {}}}};  // the first step, then the rest of the chain
  workspace_pool pool(context);
  if (const status bad = pool.reserve(layer::workspace_bytes(context, x)); !bad) return std::printf("%s\n", bad.what), 1;
  if (const status bad = layer::run(context, x, pool.memory()); !bad) return std::printf("refused: %s\n", bad.what), 1;

  // A sum of k float products is off by at most e = (k + 4) 2^-24 of their sizes; squaring s makes that 2 |s| e + e^2, and
  // rounds once.
  double worst = 0;
  for (int i = 0; i < tokens; ++i)
    for (int j = 0; j < outputs; ++j) {
      double sum = 0, size = 0;
      for (int p = 0; p < inputs; ++p) {
        const double product = double(to_float(a[i * inputs + p])) * to_float(w[j * inputs + p]);
        sum += product, size += std::abs(product);
      }
      const double s = std::max(sum * factor - threshold[j], 0.0), want = s * s;
      const double e = (inputs + 4) * 0x1p-24 * (size * factor + std::abs(threshold[j]));
      worst = std::max(worst, std::abs(c[i * outputs + j] - want) / (2 * s * e + e * e + 0x1p-23 * want));
    }

  x.epilogue.rest.first.n = outputs - 1;
  const status refused = layer::run(context, x, pool.memory());
  const bool ok = worst <= 1 && refused.code == errc::bad_shape && refused.got == outputs - 1 && refused.need == outputs;
  std::printf("max(a w' / 4 - threshold, 0)^2, %d x %d x %d: error %.3f of its bound; too few thresholds: \"%s\"%s\n", tokens, outputs, inputs,
              worst, refused.what, ok ? "" : "  WRONG");
  return !ok;
}
