// Rows in 8 groups with a weight each: -DTYPE, -DROWS (of a group), -DCOLS, -DDEPTH. The weights come from memory.
#include <smalti/ops/gemm/grouped.hpp>

#include "turns.hpp"

namespace {

using namespace smalti;
using op = gemm::grouped<TYPE, TYPE, float>;
constexpr int groups = 8;

template <class Tuning> auto product(turns::memory<TYPE>& a, turns::memory<TYPE>& b, turns::memory<float>& c, const int* offsets) {
  const auto context = with_tuning<Tuning>(host_context{.threads = 1});
  op::args x;
  x.a = {a.data(), groups * ROWS, DEPTH, DEPTH};
  x.b = {b.data(), groups, COLS, DEPTH, static_cast<long long>(COLS) * DEPTH, DEPTH};
  x.c = {c.data(), groups * ROWS, COLS, COLS};
  x.rows = {offsets, groups};
  auto* space = new turns::space(op::workspace_bytes(context, x));   // lives as long as the program
  return [=, &b]() mutable {
    x.b.data = b.next();
    turns::demand(op::run(context, x, *space));
  };
}

}  // namespace

int main() {
  constexpr std::size_t weights = std::size_t(groups) * COLS * DEPTH;
  turns::memory<TYPE> a(std::size_t(groups) * ROWS * DEPTH), b(weights, (std::size_t(1) << 29) / (weights * sizeof(TYPE)));
  turns::memory<float> c(std::size_t(groups) * ROWS * COLS);
  int offsets[groups + 1];
  for (int g = 0; g <= groups; ++g) offsets[g] = g * ROWS;
  turns::compare_all([&](auto shape) { return product<decltype(shape)>(a, b, c, offsets); });
  return 0;
}
