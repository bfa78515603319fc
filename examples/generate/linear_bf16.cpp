// Weights in bf16.
#include <stdexcept>
#include <vector>
#include <smalti/ops/gemm.hpp>
#include "linear.hpp"

namespace generate::inline GENERATE_MACHINE {

using namespace smalti;

namespace {

using sum = gemm::dense<bf16, bf16, bf16>;
using added = gemm::dense<bf16, bf16, float, policy::chain<policy::residual<float>>>;
using gate = gemm::dense<bf16, bf16, bf16, policy::chain<policy::gated<policy::silu>>>;
using last = gemm::dense<bf16, bf16, float>;

struct linear_bf16 final : linear {
  explicit linear_bf16(const matrix& m) : n(int(m.n)), k(int(m.k)), w(bf16_rows(m)) {}
  void project(const machine& on, view<const bf16> x, view<bf16> y, scratch& memory) const override {
    run<sum>(on, {.a = x, .b = w.read(n, k), .c = y}, memory);
  }
  void add_to(const machine& on, view<const bf16> x, view<float> stream, scratch& memory) const override {
    run<added>(on, {.a = x, .b = w.read(n, k), .c = stream, .epilogue = {.first = {stream}, .rest = {}}}, memory);
  }
  void gated(const machine& on, view<const bf16> x, view<bf16> y, scratch& memory) const override {
    run<gate>(on, {.a = x, .b = w.read(n, k), .c = y}, memory);
  }
  void logits(const machine& on, view<const bf16> x, view<float> y, scratch& memory) const override {
    run<last>(on, {.a = x, .b = w.read(n, k), .c = y}, memory);
  }
  std::size_t bytes() const override { return w.bytes(); }
  std::size_t needed() const override { return w.bytes(); }

  int n, k;
  buffer<bf16> w;
};

}  // namespace

buffer<bf16> bf16_rows(const matrix& m) {
  buffer<bf16> all(std::size_t(m.n * m.k));
  const std::int64_t some = 64;
  std::vector<float> rows(std::size_t(some * m.k));
  std::vector<bf16> narrow_rows(rows.size());
  for (std::int64_t i = 0; i < m.n; i += some) {
    const std::int64_t count = i + some < m.n ? some : m.n - i;
    m.rows(i, count, rows.data());
    for (std::size_t j = 0; j < std::size_t(count * m.k); ++j) narrow_rows[j] = narrow<bf16>(rows[j]);
    all.put(narrow_rows.data(), std::size_t(count * m.k), std::size_t(i * m.k));
  }
  return all;
}

std::unique_ptr<linear> make_bf16(const matrix& w, form, bool, bool int8_activations) {
  if (int8_activations) throw std::runtime_error("--activations int8 takes weights whose codes are integers, not bf16: --weights q8_0 or int8 is close to it");
  return std::make_unique<linear_bf16>(w);
}

}  // namespace generate::inline GENERATE_MACHINE
