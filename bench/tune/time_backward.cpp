// Gradients of causal attention, d = 128, 1024 tokens of one head: -DKERNEL says which of its kernels takes the shapes.
#include <smalti/ops/attention/backward.hpp>

#include "turns.hpp"

namespace {

using namespace smalti;
constexpr int d = 128, rows = 1024;
using op = attention::flash_backward<bf16, d, policy::causal>;

template <class Shape> struct one_kernel {
  constexpr attention::backward_tuning operator()(target t, attention::backward_kernel k) const {
    return k == attention::backward_kernel::KERNEL ? Shape{}(t, k) : attention::default_backward_tuning<bf16, d, d>{}(t, k);
  }
};

template <class Shape> auto product(std::vector<turns::memory<bf16>*>& m, turns::memory<float>& lse) {
  const auto context = with_tuning<one_kernel<Shape>>(host_context{.threads = 1});
  op::args x;
  const auto in = [&](int i) { return attention::bshd<const bf16>(m[std::size_t(i)]->data(), 1, rows, 1, d); };
  const auto out = [&](int i) { return attention::bshd(m[std::size_t(i)]->data(), 1, rows, 1, d); };
  x.q = in(0), x.k = in(1), x.v = in(2), x.o = in(3), x.d_o = in(4), x.dq = out(5), x.dk = out(6), x.dv = out(7);
  x.lse = attention::bshd<const float>(lse.data(), 1, rows, 1, 1);
  x.scale = 0.088f;
  auto* space = new turns::space(op::workspace_bytes(context, x));   // lives as long as the program
  return [=]() mutable { turns::demand(op::run(context, x, *space)); };
}

}  // namespace

int main() {
  std::vector<turns::memory<bf16>*> m;
  for (int i = 0; i < 8; ++i) m.push_back(new turns::memory<bf16>(std::size_t(rows) * d));
  turns::memory<float> lse(rows);
  for (int i = 0; i < rows; ++i) lse.data()[i] = 7;
  turns::compare_all([&](auto shape) { return product<decltype(shape)>(m, lse); });
  return 0;
}
