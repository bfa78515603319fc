// One type changed: the same layer with elements of bf16, then of fp16. Both have 16 bits; fp16 spends three more of them on
// digits and three fewer on range. The program is a template over the element, and nothing else in it differs. Checks the
// products exactly as before and prints how far each type's rounding of its inputs moves the answer.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>
#include <smalti/core/float.hpp>
#include <smalti/core/workspace_pool.hpp>
#include <smalti/ops/gemm.hpp>

using namespace smalti;

constexpr int tokens = 33, inputs = 512, outputs = 132;

struct errors {
  double product;   // of the sums, as a share of their bound
  double rounding;  // of the answer, against the numbers before they were rounded to T; relative to the root mean square
};

// [one type]
template <class T> status multiply(const std::vector<T>& a, const std::vector<T>& w, std::vector<float>& c) {
  using layer = gemm::dense<T, T, float>;  // the type decides code, and stands here only
  const host_context context{};
  const typename layer::args x{
      .a = {a.data(), tokens, inputs, inputs}, .b = {w.data(), outputs, inputs, inputs}, .c = {c.data(), tokens, outputs, outputs}};
  workspace_pool pool(context);
  if (const status bad = pool.reserve(layer::workspace_bytes(context, x)); !bad) return bad;
  return layer::run(context, x, pool.memory());
}
// [one type]

template <class T> errors measure(const std::vector<float>& a, const std::vector<float>& w) {
  std::vector<T> at(a.size()), wt(w.size());
  std::vector<float> c(std::size_t(tokens) * outputs, NAN);
  std::transform(a.begin(), a.end(), at.begin(), [](float v) { return narrow<T>(v); });
  std::transform(w.begin(), w.end(), wt.begin(), [](float v) { return narrow<T>(v); });
  if (const status bad = multiply(at, wt, c); !bad) return std::printf("refused: %s\n", bad.what), errors{NAN, NAN};
  errors e{};
  double moved = 0, square = 0;
  for (int i = 0; i < tokens; ++i)
    for (int j = 0; j < outputs; ++j) {
      double sum = 0, size = 0, exact = 0;
      for (int p = 0; p < inputs; ++p) {
        const double product = double(to_float(at[i * inputs + p])) * to_float(wt[j * inputs + p]);
        sum += product, size += std::abs(product);
        exact += double(a[i * inputs + p]) * w[j * inputs + p];
      }
      const double got = c[std::size_t(i) * outputs + j];
      e.product = std::max(e.product, std::abs(got - sum) / ((inputs + 2) * 0x1p-24 * size));  // sums of float products
      moved += (got - exact) * (got - exact), square += exact * exact;
    }
  e.rounding = std::sqrt(moved / square);
  return e;
}

int main() {
  std::minstd_rand random(1);
  std::vector<float> a(std::size_t(tokens) * inputs), w(std::size_t(outputs) * inputs);
  for (auto* v : {&a, &w})
    for (float& x : *v) x = float(random() % 200001) * 1e-5f - 1;
  const errors wide = measure<bf16>(a, w), fine = measure<fp16>(a, w);
  std::printf("bf16: error of the sums %.3f of its bound, rounding moved the answer by %.1e\n", wide.product, wide.rounding);
  std::printf("fp16: error of the sums %.3f of its bound, rounding moved the answer by %.1e\n", fine.product, fine.rounding);
  // 8 bits of digits against 11: eight times finer, up to chance.
  const double ratio = wide.rounding / fine.rounding;
  const bool ok = wide.product <= 1 && fine.product <= 1 && ratio > 6 && ratio < 10;
  std::printf("three more bits of digits: %.1f times finer%s\n", ratio, ok ? "" : "  WRONG");
  return !ok;
}
