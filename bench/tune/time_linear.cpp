// Products with int4 weights from memory: -DROWS, -DCOLS, -DDEPTH, -DINTEGERS (activations as int8) or not (bf16).
#include <smalti/ops/gemm/quantized.hpp>
#include <smalti/policy/codec.hpp>

#include "turns.hpp"

namespace {

using namespace smalti;
#if defined(INTEGERS)
using format = policy::q4_0;
using op = gemm::quantized<policy::int8_tokens<32>, format, policy::chain<>, float>;
using activation = std::int8_t;
#else
using format = policy::int4_affine<128>;
using op = gemm::weight_only<format, policy::chain<>, bf16, float>;
using activation = bf16;
#endif
using weight = op::weight_type;

template <class Tuning> auto product(turns::memory<activation>& x, turns::memory<std::uint8_t>& w, turns::memory<float>& y, [[maybe_unused]] const float* scales) {
  const auto context = with_tuning<Tuning>(host_context{.threads = 1});
  op::args a;
  a.x = {x.data(), ROWS, DEPTH, DEPTH};
#if defined(INTEGERS)
  a.x_scales = {scales, DEPTH / 32, ROWS, ROWS};
#endif
  a.y = {y.data(), ROWS, COLS, COLS};
  a.w = weight::over(reinterpret_cast<std::byte*>(w.data()), COLS, DEPTH);
  auto* space = new turns::space(op::workspace_bytes(context, a));   // lives as long as the program
  return [=, &w]() mutable {
    a.w = weight::over(reinterpret_cast<std::byte*>(w.next()), COLS, DEPTH);
    turns::demand(op::run(context, a, *space));
  };
}

}  // namespace

int main() {
  const std::size_t bytes = (weight::bytes(COLS, DEPTH) + 255) / 256 * 256;
  turns::memory<activation> x(std::size_t(ROWS) * DEPTH);
  turns::memory<std::uint8_t> w(bytes, ROWS <= 64 ? (std::size_t(1) << 29) / bytes : 1);
  turns::memory<float> y(std::size_t(ROWS) * COLS), scales(std::size_t(ROWS) * DEPTH / 32);
  turns::compare_all([&](auto shape) { return product<decltype(shape)>(x, w, y, scales.data()); });
  return 0;
}
