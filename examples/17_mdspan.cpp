// mdspan in and out: a program that keeps its matrices as mdspans (std::mdspan, or the one of CCCL, cuda::std::mdspan) calls the
// library and gets its result as one. Nothing is copied. Checks the answer, and shows what an mdspan that is no matrix of contiguous
// rows is told.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>
#include <smalti/core/float.hpp>
#include <smalti/core/mdspan.hpp>
#include <smalti/ops/norm.hpp>

#if !defined(SMALTI_MDSPAN)
int main() {
  std::printf("skipped: no mdspan here (C++23's <mdspan>, or CCCL's <cuda/std/mdspan>, part of the CUDA toolkit)\n");
  return 77;
}
#else
using namespace smalti;
namespace md = SMALTI_MDSPAN;  // std or cuda::std

template <class T> using matrix = md::mdspan<T, md::dextents<int, 2>>;                    // rows one after another
template <class T> using window = md::mdspan<T, md::dextents<int, 2>, md::layout_stride>;  // part of a wider matrix

// [mdspan]
// y = x gain / sqrt(mean of x^2), row by row; whatever mdspan the caller has.
template <class X, class Y> status normalize(X x, const std::vector<float>& gain, Y y) {
  using op = norm::rms<bf16>;
  op::args a;
  a.gain = {gain.data(), 1, int(gain.size()), int(gain.size())};
  if (const status bad = to_view(x, a.x); !bad) return bad;  // in: refuses what is no matrix in memory
  if (const status bad = to_view(y, a.y); !bad) return bad;  // out: the library writes where y points
  return op::run(host_context{}, a);
}
// [mdspan]

int main() {
  const int rows = 21, cols = 256, wide = 1024, from = 512;
  std::minstd_rand random(1);
  std::vector<bf16> storage(std::size_t(rows) * wide), result(std::size_t(rows) * cols);
  std::vector<float> gain(cols);
  for (bf16& v : storage) v = narrow<bf16>(float(random() % 2001) * 1e-3f - 1);
  for (float& v : gain) v = float(random() % 2001) * 1e-3f;

  // Columns 512 to 767 of a wider matrix, say the values of one head among others.
  const SMALTI_MDSPAN_ARRAY<int, 2> strides{wide, 1};
  const window<bf16> x(storage.data() + from, typename window<bf16>::mapping_type(md::dextents<int, 2>(rows, cols), strides));
  const matrix<bf16> y(result.data(), rows, cols);
  if (const status bad = normalize(x, gain, y); !bad) return std::printf("refused: %s\n", bad.what), 1;

  // A view of the library as an mdspan, for code that wants one.
  const auto back = view_as_mdspan(view<const bf16>{result.data(), rows, cols, cols});
  double worst = 0;
  for (int i = 0; i < rows; ++i) {
    double sum = 0;
    for (int j = 0; j < cols; ++j) sum += double(to_float(storage[std::size_t(i) * wide + from + j])) * to_float(storage[std::size_t(i) * wide + from + j]);
    for (int j = 0; j < cols; ++j) {
      const double want = to_float(storage[std::size_t(i) * wide + from + j]) * gain[j] / std::sqrt(sum / cols + 1e-5);
      const double got = to_float(back.data_handle()[back.mapping()(i, j)]);
      worst = std::max(worst, std::abs(got - want) / (1.01 * 0x1p-8 * std::abs(want) + 1e-38));  // one rounding to the 8 bits of bf16
    }
  }

  using columns_first = md::mdspan<bf16, md::dextents<int, 2>, md::layout_left>;
  const status refused = normalize(columns_first(storage.data(), rows, cols), gain, y);
  const bool ok = worst <= 1 && back.extent(0) == rows && refused.code == errc::bad_shape;
  std::printf("normalized a window of %d x %d through mdspans: error %.3f of its bound; columns first: \"%s\"%s\n", rows, cols, worst, refused.what,
              ok ? "" : "  WRONG");
  return !ok;
}
#endif
