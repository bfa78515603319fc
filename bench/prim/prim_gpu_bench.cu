// select_k on a GPU: the share of the bandwidth that one read of the rows would take. No peer takes part.
#include <gpu.hpp>
#include <smalti/core/cuda_context.hpp>
#include <smalti/prim/select_k.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace {

using namespace bench;
using gpu::demand;
namespace prim = smalti::prim;

// Scores that look like a model's: uniform noise added up, a different row each.
float score(std::uint64_t& state) {
  float sum = -2;
  for (int i = 0; i < 4; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    sum += static_cast<float>(state >> 40) * 0x1p-24f;
  }
  return sum;
}

gpu::outcome select(int count, int n, int k) {
  using op = prim::select_k<float>;
  std::vector<float> scores(std::size_t(count) * n);
  std::uint64_t state = 0x9e3779b97f4a7c15u;
  for (float& s : scores) s = score(state);
  const gpu::array<float> rows(scores.size()), values(std::size_t(count) * k);
  const gpu::array<std::int32_t> indices(values.size());
  demand(cudaMemcpy(rows.data(), scores.data(), scores.size() * sizeof(float), cudaMemcpyHostToDevice), "the scores could not be copied");
  const op::args x{.rows = {rows.data(), count, n, n}, .k = k, .values = {values.data(), count, k, k}, .indices = {indices.data(), count, k, k},
                   .arranged = prim::arrangement::best_first};
  const gpu::array<std::byte> memory(op::workspace_bytes(smalti::cuda_context::on(nullptr), x) + 256);
  const gpu::queued run = [&](cudaStream_t stream) {
    static smalti::cuda_context context;
    if (context.stream != stream || !context.ready) context = smalti::cuda_context::on(stream);
    if (const auto st = op::run(context, x, {memory.data(), memory.size()}); !st) throw std::runtime_error(st.what);
  };
  run(nullptr);
  demand(cudaDeviceSynchronize(), "smalti failed");
  std::vector<float> got(values.size());
  demand(cudaMemcpy(got.data(), values.data(), got.size() * sizeof(float), cudaMemcpyDeviceToHost), "the result could not be read");
  for (const int r : {0, count - 1}) {
    std::vector<float> want(scores.begin() + std::ptrdiff_t(r) * n, scores.begin() + std::ptrdiff_t(r + 1) * n);
    std::partial_sort(want.begin(), want.begin() + k, want.end(), std::greater<>());
    if (!std::equal(want.begin(), want.begin() + k, got.begin() + std::ptrdiff_t(r) * k))
      throw std::runtime_error("smalti gave a wrong answer: its time means nothing");
  }
  return gpu::measure({.subject = run, .bytes = double(count) * n * sizeof(float) + double(count) * k * (sizeof(float) + sizeof(std::int32_t))});
}

}  // namespace

int main(int argc, char** argv) {
  for (const auto& [n, k] : {std::pair{65536, 2048}, {128256, 64}})
    for (const int count : {1, 16, 256})
      gpu::enter("select_k/f32/" + std::to_string(count) + "x" + std::to_string(n) + "/k:" + std::to_string(k), [=] { return select(count, n, k); });
  return gpu::main(argc, argv, [] { return gpu::peers_here{}; });
}
