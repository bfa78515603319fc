// One linear layer of a model with its activation, on the processor: the program of the README. Checks its answer
// against sums in double.
// [first gemm]
#include <vector>
#include <smalti/core/float.hpp>
#include <smalti/core/workspace_pool.hpp>
#include <smalti/ops/gemm.hpp>

using namespace smalti;

// A matrix product as a type: elements of both operands and of the result, and what happens to each sum.
using layer = gemm::dense<bf16, bf16, float, policy::chain<policy::bias<float>, policy::silu>>;

// c = silu(a w' + bias). By rows: a is tokens x inputs, w is outputs x inputs, c is tokens x outputs.
status forward(const std::vector<bf16>& a, const std::vector<bf16>& w, const std::vector<float>& bias, std::vector<float>& c, int tokens,
               int inputs, int outputs) {
  const host_context context{};  // all threads
  const layer::args x{
      .a = {a.data(), tokens, inputs, inputs},  // address, rows, columns, elements from row to row
      .b = {w.data(), outputs, inputs, inputs},
      .c = {c.data(), tokens, outputs, outputs},
      .epilogue = {{bias.data(), outputs}, {}},  // of the bias; silu has no members
  };
  workspace_pool pool(context);  // or memory of your own: layer never allocates
  if (const status bad = pool.reserve(layer::workspace_bytes(context, x)); !bad) return bad;
  return layer::run(context, x, pool.memory());  // checks first: a refusal names the argument
}
// [first gemm]

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

int main() {
  const int tokens = 33, inputs = 512, outputs = 132;
  std::minstd_rand random(1);
  const auto number = [&] { return float(random() % 2001) * 1e-3f - 1; };
  std::vector<bf16> a(std::size_t(tokens) * inputs), w(std::size_t(outputs) * inputs);
  std::vector<float> bias(outputs), c(std::size_t(tokens) * outputs);
  for (bf16& v : a) v = narrow<bf16>(number());
  for (bf16& v : w) v = narrow<bf16>(number());
  for (float& v : bias) v = number();

  const status st = forward(a, w, bias, c, tokens, inputs, outputs);
  if (!st) {
    std::printf("refused: %s (got %lld, need %lld)\n", st.what, static_cast<long long>(st.got), static_cast<long long>(st.need));
    return 1;
  }
  // A sum of k float products is off by at most (k + 2) 2^-24 of their sizes, and silu stretches that by at most 1.1;
  // what silu adds itself is a few units in the last place of its result.
  double worst = 0;
  for (int i = 0; i < tokens; ++i)
    for (int j = 0; j < outputs; ++j) {
      double sum = bias[j], size = std::abs(bias[j]);
      for (int p = 0; p < inputs; ++p) {
        const double product = double(to_float(a[i * inputs + p])) * to_float(w[j * inputs + p]);
        sum += product, size += std::abs(product);
      }
      const double want = sum / (1 + std::exp(-sum));
      worst = std::max(worst, std::abs(c[i * outputs + j] - want) / (1.1 * (inputs + 2) * 0x1p-24 * size + 0x1p-20 * (1 + std::abs(want))));
    }
  std::printf("silu(a w' + bias), %d x %d x %d: error %.3f of its bound%s\n", tokens, outputs, inputs, worst, worst <= 1 ? "" : "  WRONG");
  return !(worst <= 1);
}
