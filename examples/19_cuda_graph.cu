// A CUDA graph: operations only queue work, so a stream may be captured while they do. Two layers of a model become one graph,
// which is launched again and again on new inputs, without a check or a launch of the library in between. Compares every replay
// with sums in double. Without a GPU it says so and exits with 77.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>
#include <smalti/core/cuda_context.hpp>
#include <smalti/core/float.hpp>
#include <smalti/ops/gemm.hpp>

using namespace smalti;

constexpr int tokens = 16, width = 256;

// Both layers are this product: c = a w', in bf16.
using layer = gemm::dense<bf16, bf16, bf16>;

static bool done(cudaError_t e, const char* what) { return e == cudaSuccess || (std::printf("%s: %s\n", what, cudaGetErrorString(e)), false); }
static bool done(const status& s) { return s || (std::printf("refused: %s\n", s.what), false); }

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return std::printf("skipped: no GPU\n"), 77;
  cudaStream_t stream;
  if (!done(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream")) return 1;
  const auto context = cuda_context::on(stream);
  if (!context.ready) return std::printf("skipped: %s\n", context.ready.what), 77;

  // Memory that the graph will use: it must live, at the same addresses, as long as the graph.
  const std::size_t matrix = std::size_t(tokens) * width, weights = std::size_t(width) * width;
  bf16* memory;
  if (!done(cudaMalloc(&memory, (3 * matrix + 2 * weights) * sizeof(bf16)), "memory")) return 1;
  bf16 *x = memory, *h = x + matrix, *y = h + matrix, *w1 = y + matrix, *w2 = w1 + weights;
  const auto product = [](const bf16* a, const bf16* w, bf16* c) {
    return layer::args{.a = {a, tokens, width, width}, .b = {w, width, width, width}, .c = {c, tokens, width, width}};
  };
  const std::size_t bytes = std::max(layer::workspace_bytes(context, product(x, w1, h)), layer::workspace_bytes(context, product(h, w2, y)));
  void* scratch = nullptr;
  if (bytes > 0 && !done(cudaMalloc(&scratch, bytes), "workspace")) return 1;

  // [graph]
  cudaGraph_t graph;
  cudaGraphExec_t runnable;
  if (!done(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture")) return 1;
  const status first = layer::run(context, product(x, w1, h), {scratch, bytes});
  const status second = layer::run(context, product(h, w2, y), {scratch, bytes});
  if (!done(cudaStreamEndCapture(stream, &graph), "end of capture") || !done(first) || !done(second)) return 1;
  if (!done(cudaGraphInstantiate(&runnable, graph, 0), "graph")) return 1;
  // [graph]

  // The two weight matrices of small whole numbers, few of them not zero, so that h and y are exact in bf16's 8 bits.
  std::minstd_rand random(1);
  std::vector<bf16> a(matrix), w(2 * weights), got(matrix);
  std::vector<double> wd(2 * weights);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = narrow<bf16>(float(wd[i] = random() % 64 == 0 ? int(random() % 3) - 1 : 0));
  if (!done(cudaMemcpyAsync(w1, w.data(), w.size() * sizeof(bf16), cudaMemcpyHostToDevice, stream), "copy")) return 1;

  int wrong = 0;
  for (int replay = 0; replay < 3; ++replay) {
    std::vector<double> ad(matrix), hd(matrix, 0), yd(matrix, 0);
    for (std::size_t i = 0; i < matrix; ++i) a[i] = narrow<bf16>(float(ad[i] = int(random() % 3) - 1));
    if (!done(cudaMemcpyAsync(x, a.data(), matrix * sizeof(bf16), cudaMemcpyHostToDevice, stream), "copy")) return 1;
    if (!done(cudaGraphLaunch(runnable, stream), "launch")) return 1;
    if (!done(cudaMemcpyAsync(got.data(), y, matrix * sizeof(bf16), cudaMemcpyDeviceToHost, stream), "copy")) return 1;
    if (!done(cudaStreamSynchronize(stream), "the GPU")) return 1;
    const auto times = [](const std::vector<double>& p, const double* q, std::vector<double>& r) {
      for (int i = 0; i < tokens; ++i)
        for (int j = 0; j < width; ++j)
          for (int k = 0; k < width; ++k) r[i * width + j] += p[i * width + k] * q[j * width + k];
    };
    times(ad, wd.data(), hd);
    times(hd, wd.data() + weights, yd);
    for (std::size_t i = 0; i < matrix; ++i) wrong += std::abs(yd[i]) <= 256 && to_float(got[i]) != yd[i];
  }
  cudaGraphExecDestroy(runnable);
  cudaGraphDestroy(graph);
  cudaFree(scratch);
  cudaFree(memory);
  cudaStreamDestroy(stream);
  std::printf("two layers captured once and launched three times: %d wrong of %zu%s\n", wrong, 3 * matrix, wrong == 0 ? "" : "  WRONG");
  return wrong != 0;
}
