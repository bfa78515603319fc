// The contexts a test runs on: in a .cpp file the host, with one thread, with two, and with blocks in shuffled
// order; in its .cu twin the GPU. A test body takes the context and leaves the rest to this header.
#pragma once
#include <catch2/catch.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/tile/launch.hpp>

namespace test {

#if defined(__CUDACC__)
inline void wait(const smalti::cuda_context& context) { REQUIRE(cudaStreamSynchronize(context.stream) == cudaSuccess); }
template <class F> void for_each_context(std::uint64_t, F f) {
  cudaStream_t stream;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  const auto context = smalti::cuda_context::on(stream);
  f(context);
  cudaStreamDestroy(stream);
}
inline smalti::cuda_context any_context() { return smalti::cuda_context::on(nullptr); }
#else
inline void wait(const smalti::host_context&) {}
template <class F> void for_each_context(std::uint64_t seed, F f) {
  for (const smalti::host_context context : {smalti::host_context{1}, smalti::host_context{2}, smalti::host_context{2, seed | 1}}) {
    CAPTURE(context.threads, context.shuffle);
    f(context);
  }
}
inline smalti::host_context any_context() { return {1}; }
#endif

}  // namespace test
