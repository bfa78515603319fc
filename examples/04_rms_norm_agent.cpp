// An agent of one's own: root mean square normalization, y[i, j] = x[i, j] gain[j] / sqrt(mean over j of x[i, j]^2 + epsilon)
// (Zhang and Sennrich, arXiv:1910.07467). docs/machines.md explains it. Runs on the processor and checks its answer.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>
#include <smalti/core/float.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/launch.hpp>
#include <smalti/tile/vocabulary.hpp>

using namespace smalti;

// [agent]
struct rms_norm_arguments {
  view<const bf16> x;
  view<const float> gain;  // one row
  view<bf16> y;
  float epsilon;
};

// One block makes M rows of y, N columns at a time.
template <int M, int N> struct rms_norm {
  rms_norm_arguments a;

  static constexpr grid blocks(const rms_norm_arguments& a) { return {ceil_div(a.y.rows, M), 1, 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), steps = ceil_div(a.x.cols, N);
    tile<Block, float, M, N> t, squares;
    block.fill(squares, 0.0f);
    for (int j : block.steps(0, steps)) {
      block.load(t, a.x, i, j);  // zero outside: adds nothing
      block.map([](auto sum, auto v) { return sum + v * v; }, squares, squares, t);
    }
    column<Block, float, M> sum, scale;
    block.row_sum(sum, squares);
    block.map([share = 1.0f / float(a.x.cols), epsilon = a.epsilon](auto s) { return rsqrt(s * share + epsilon); }, scale, sum);
    for (int j : block.steps(0, steps)) {
      row<Block, float, N> gain;
      block.load(t, a.x, i, j);
      block.load(gain, a.gain, 0, j);
      block.map([](auto v, auto s, auto g) { return v * s * g; }, t, t, scale, gain);  // a column and a row broadcast
      block.store(a.y, i, j, t);                                                       // masked; rounds to bf16
    }
  }
};

// The same agent with a tile shape for each machine.
struct rms_norm_kernel {
  using arguments = rms_norm_arguments;
  template <target T> using agent = rms_norm<T == target::host ? 4 : 16, 128>;
};
// [agent]

int main() {
  const int rows = 37, cols = 328;
  std::minstd_rand random(1);
  std::vector<bf16> x(std::size_t(rows) * cols), y(x.size());
  std::vector<float> gain(cols);
  for (bf16& v : x) v = narrow<bf16>(float(random() % 2001) * 1e-3f - 1);
  for (float& v : gain) v = float(random() % 2001) * 1e-3f;
  const rms_norm_arguments a{
      .x = {x.data(), rows, cols, cols}, .gain = {gain.data(), 1, cols, cols}, .y = {y.data(), rows, cols, cols}, .epsilon = 1e-5f};

  double worst = 0;
  std::vector<bf16> first;
  for (std::uint64_t shuffle : {0, 1, 2}) {  // blocks run in any order: the bits must not care
    // [launch]
    const host_context context{.threads = 2, .shuffle = shuffle};  // 0: in order; else drawn from the number
    const status st = launch<rms_norm_kernel>(context, a);
    // [launch]
    if (!st) return std::printf("refused: %s\n", st.what), 1;
    if (first.empty()) first = y;
    for (int i = 0; i < rows; ++i) {
      double sum = 0;
      for (int j = 0; j < cols; ++j) sum += double(to_float(x[i * cols + j])) * to_float(x[i * cols + j]);
      for (int j = 0; j < cols; ++j) {
        if (first[i * cols + j].bits != y[i * cols + j].bits) return std::printf("the order of blocks changed y[%d, %d]\n", i, j), 1;
        const double want = to_float(x[i * cols + j]) * gain[j] / std::sqrt(sum / cols + a.epsilon);
        // bf16 has 8 bits: rounding is off by at most 2^-8 of the value; what float adds is far less
        worst = std::max(worst, std::abs(to_float(y[i * cols + j]) - want) / (1.01 * 0x1p-8 * std::abs(want) + 1e-38));
      }
    }
  }
  std::printf("rms_norm of %d x %d: error %.3f of its bound, the same bits in three orders of blocks%s\n", rows, cols, worst,
              worst <= 1 ? "" : "  WRONG");
  return !(worst <= 1);
}
