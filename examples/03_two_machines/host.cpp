// The host's half: an ordinary C++ file. The main of the program is here, too; it runs the layer on both machines and
// compares each with sums in double.
#include "work.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <smalti/core/workspace_pool.hpp>
#include <smalti/ops/gemm.hpp>

using namespace smalti;

// [host]
status on_host(const layer_problem& p, std::vector<float>& c) {
  using layer = gemm::dense<bf16, bf16, float, policy::chain<policy::bias<float>, policy::gelu>>;
  const host_context context{};
  const layer::args x{.a = {p.a.data(), p.tokens, p.inputs, p.inputs},
                      .b = {p.w.data(), p.outputs, p.inputs, p.inputs},
                      .c = {c.data(), p.tokens, p.outputs, p.outputs},
                      .epilogue = {{p.bias.data(), p.outputs}, {}}};
  workspace_pool pool(context);
  if (const status bad = pool.reserve(layer::workspace_bytes(context, x)); !bad) return bad;
  return layer::run(context, x, pool.memory());
}
// [host]

namespace {

// The largest error as a share of its bound: k products summed in float are off by at most (k + 2) 2^-24 of their
// sizes, gelu stretches that by at most 1.13 and adds a few units in the last place of its own.
double error(const layer_problem& p, const std::vector<float>& c) {
  double worst = 0;
  for (int i = 0; i < p.tokens; ++i)
    for (int j = 0; j < p.outputs; ++j) {
      double sum = p.bias[j], size = std::abs(p.bias[j]);
      for (int k = 0; k < p.inputs; ++k) {
        const double product = double(to_float(p.a[i * p.inputs + k])) * to_float(p.w[j * p.inputs + k]);
        sum += product, size += std::abs(product);
      }
      const double want = 0.5 * sum * (1 + std::erf(sum * std::sqrt(0.5)));
      const double bound = 1.13 * (p.inputs + 2) * 0x1p-24 * size + 0x1p-18 * (1 + std::abs(want));
      const double off = std::abs(c[std::size_t(i) * p.outputs + j] - want) / bound;
      if (std::isnan(off)) return off;
      worst = std::max(worst, off);
    }
  return worst;
}

bool report(const char* where, const status& st, const layer_problem& p, const std::vector<float>& c) {
  if (!st) {
    std::printf("%-5s %s (%s, %lld)\n", where, st.what, name(st.code), static_cast<long long>(st.got));
    return false;
  }
  const double share = error(p, c);
  std::printf("%-5s gelu(a w' + bias), %d x %d x %d: error %.3f of its bound%s\n", where, p.tokens, p.outputs, p.inputs, share,
              share <= 1 ? "" : "  WRONG");
  return share <= 1;
}

}  // namespace

int main() {
  layer_problem p{.tokens = 40, .inputs = 512, .outputs = 264, .a = {}, .w = {}, .bias = {}};
  std::minstd_rand random(1);
  const auto number = [&] { return float(random() % 2001) * 1e-3f - 1; };
  p.a.resize(std::size_t(p.tokens) * p.inputs);
  p.w.resize(std::size_t(p.outputs) * p.inputs);
  p.bias.resize(std::size_t(p.outputs));
  for (bf16& v : p.a) v = narrow<bf16>(number());
  for (bf16& v : p.w) v = narrow<bf16>(number());
  for (float& v : p.bias) v = number();

  std::vector<float> c(std::size_t(p.tokens) * p.outputs, NAN);
  if (!report("host", on_host(p, c), p, c)) return 1;
#if defined(EXAMPLE_WITH_GPU)
  std::fill(c.begin(), c.end(), NAN);
  const status st = on_gpu(p, c);
  if (!report("gpu", st, p, c)) return st.code == errc::not_initialised ? 0 : 1;   // no GPU here: the sentence above says so
#else
  std::printf("gpu   this program was built without CUDA: gpu.cu is not part of it\n");
#endif
}
