// The GPU's half: nvcc compiles this file (--enable-tile), and only GPU contexts can be used in it. The call is the
// host's, word for word, but for the context and for the operands, which lie in the GPU's memory.
#include "work.hpp"

#include <smalti/core/cuda_context.hpp>
#include <smalti/core/workspace_pool.hpp>
#include <smalti/ops/gemm.hpp>

using namespace smalti;

namespace {

// Memory of the GPU, released at the end. `bad` keeps the first failure of a call.
template <class T> struct on_device {
  T* data = nullptr;
  on_device(std::size_t n, status& bad) {
    if (bad) bad = status_of(cudaMalloc(&data, n * sizeof(T)), "memory of the GPU could not be had");
  }
  on_device(const std::vector<T>& from, cudaStream_t stream, status& bad) : on_device(from.size(), bad) {
    if (bad) bad = status_of(cudaMemcpyAsync(data, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice, stream), "a copy to the GPU failed");
  }
  on_device(const on_device&) = delete;
  ~on_device() { cudaFree(data); }
};

}  // namespace

// [gpu]
status on_gpu(const layer_problem& p, std::vector<float>& c) {
  using layer = gemm::dense<bf16, bf16, float, policy::chain<policy::bias<float>, policy::gelu>>;
  const cudaStream_t stream = nullptr;
  const auto context = cuda_context::on(stream);
  status st = context.ready;                     // says why, where there is no GPU
  const on_device a(p.a, stream, st), w(p.w, stream, st);
  const on_device bias(p.bias, stream, st);
  const on_device<float> result(c.size(), st);
  if (!st) return st;

  const layer::args x{.a = {a.data, p.tokens, p.inputs, p.inputs},
                      .b = {w.data, p.outputs, p.inputs, p.inputs},
                      .c = {result.data, p.tokens, p.outputs, p.outputs},
                      .epilogue = {{bias.data, p.outputs}, {}}};
  workspace_pool pool(context);
  if (const status bad = pool.reserve(layer::workspace_bytes(context, x)); !bad) return bad;
  st = layer::run(context, x, pool.memory());
  if (st) st = status_of(cudaMemcpyAsync(c.data(), result.data, c.size() * sizeof(float), cudaMemcpyDeviceToHost, stream), "the copy from the GPU failed");
  if (st) st = status_of(cudaStreamSynchronize(stream), "the GPU reported a failure");
  return st;
}
// [gpu]
