// thrust::device_vector in and out: the library takes addresses and extents, so any owner of memory will do. Normalizes the rows
// of one device_vector into another. Compares with a computation in double. Without a GPU it says so and exits with 77.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>
#include <smalti/core/cuda_context.hpp>
#include <smalti/ops/norm.hpp>
#include <thrust/copy.h>
#include <thrust/device_vector.h>

using namespace smalti;

// [thrust]
// A matrix by rows in a device_vector, as a view: nothing is copied, and the vector must outlive the work.
template <class T> auto matrix(thrust::device_vector<T>& v, int rows, int cols) { return view<T>{thrust::raw_pointer_cast(v.data()), rows, cols, cols}; }
template <class T> auto matrix(const thrust::device_vector<T>& v, int rows, int cols) {
  return view<const T>{thrust::raw_pointer_cast(v.data()), rows, cols, cols};
}

// y = x gain / sqrt(mean of x^2), row by row, on the stream of the context.
status normalize(const cuda_context& context, const thrust::device_vector<float>& x, const thrust::device_vector<float>& gain,
                 thrust::device_vector<float>& y) {
  const int cols = int(gain.size()), rows = int(x.size()) / cols;
  return norm::rms<float>::run(context, {.x = matrix(x, rows, cols),
                                         .gain = {thrust::raw_pointer_cast(gain.data()), 1, cols, cols},
                                         .y = matrix(y, rows, cols)});
}
// [thrust]

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return std::printf("skipped: no GPU\n"), 77;
  const auto context = cuda_context::on(nullptr);  // the default stream, which Thrust's own calls use, too
  if (!context.ready) return std::printf("skipped: %s\n", context.ready.what), 77;

  const int rows = 37, cols = 320;
  std::minstd_rand random(1);
  std::vector<float> xh(std::size_t(rows) * cols), gainh(cols);
  for (auto* v : {&xh, &gainh})
    for (float& e : *v) e = float(random() % 2001) * 1e-3f - 1;
  const thrust::device_vector<float> x(xh.begin(), xh.end()), gain(gainh.begin(), gainh.end());
  thrust::device_vector<float> y(x.size());
  if (const status bad = normalize(context, x, gain, y); !bad) return std::printf("refused: %s\n", bad.what), 1;

  std::vector<float> yh(y.size());
  thrust::copy(y.begin(), y.end(), yh.begin());
  double worst = 0;
  for (int i = 0; i < rows; ++i) {
    double sum = 0;
    for (int j = 0; j < cols; ++j) sum += double(xh[i * cols + j]) * xh[i * cols + j];
    for (int j = 0; j < cols; ++j) {
      const double want = xh[i * cols + j] * gainh[j] / std::sqrt(sum / cols + 1e-5);
      worst = std::max(worst, std::abs(yh[i * cols + j] - want) / ((cols + 16) * 0x1p-24 * std::abs(want) + 1e-38));  // a sum of cols squares
    }
  }
  const bool ok = worst <= 1;
  std::printf("rows of a device_vector normalized into another: error %.3f of its bound%s\n", worst, ok ? "" : "  WRONG");
  return !ok;
}
