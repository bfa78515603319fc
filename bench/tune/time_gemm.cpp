// The dense product: -DTYPE, -DROWS, -DCOLS, -DDEPTH. Up to 128 rows the weights come from memory.
#include <smalti/ops/gemm.hpp>

#include "turns.hpp"

namespace {

using namespace smalti;
using result = std::conditional_t<std::is_same_v<TYPE, std::int8_t>, int, float>;
using op = gemm::dense<TYPE, TYPE, result>;

template <class Tuning> auto product(turns::memory<TYPE>& a, turns::memory<TYPE>& b, turns::memory<result>& c) {
  const auto context = with_tuning<Tuning>(host_context{.threads = 1});
  op::args x{.a = {a.data(), ROWS, DEPTH, DEPTH}, .b = {b.data(), COLS, DEPTH, DEPTH}, .c = {c.data(), ROWS, COLS, COLS}};
  auto* space = new turns::space(op::workspace_bytes(context, x));   // lives as long as the program
  return [=, &b]() mutable {
    x.b.data = b.next();
    turns::demand(op::run(context, x, *space));
  };
}

}  // namespace

int main() {
  turns::memory<TYPE> a(std::size_t(ROWS) * DEPTH), b(std::size_t(COLS) * DEPTH, ROWS <= 128 ? (std::size_t(1) << 29) / (std::size_t(COLS) * DEPTH * sizeof(TYPE)) : 1);
  turns::memory<result> c(std::size_t(ROWS) * COLS);
  turns::compare_all([&](auto shape) { return product<decltype(shape)>(a, b, c); });
  return 0;
}
