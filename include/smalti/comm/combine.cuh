// The functions of a combine as kernels: one item a thread, in float or whatever the accumulator is, so that sums, averages and
// maxima have the host's bits.
#pragma once
#include <algorithm>
#include <smalti/comm/lane.hpp>
#include <smalti/core/cuda_context.hpp>

namespace smalti::inline SMALTI_CODE::comm::detail {

constexpr int combine_threads = 256;
constexpr std::int64_t combine_most_blocks = 4096;     // items beyond them are taken in turns

template <class C> __global__ void __launch_bounds__(combine_threads) lift_kernel(C c, typename C::accumulator* a, const typename C::element* x, long long n) {
  for (long long i = static_cast<long long>(blockIdx.x) * combine_threads + threadIdx.x; i < n; i += static_cast<long long>(gridDim.x) * combine_threads)
    c.lift(a + i * c.width, x + i * c.width, 1);
}
template <class C> __global__ void __launch_bounds__(combine_threads) merge_kernel(C c, typename C::accumulator* a, operand<C> left, operand<C> right, long long n) {
  for (long long i = static_cast<long long>(blockIdx.x) * combine_threads + threadIdx.x; i < n; i += static_cast<long long>(gridDim.x) * combine_threads) {
    if constexpr (std::is_same_v<typename C::element, typename C::accumulator>) {
      c.merge(a + i * c.width, left.sums + i * c.width, right.sums + i * c.width, 1);
    } else {
      typename C::accumulator l{}, r{};
      if (left.items != nullptr) c.lift(&l, left.items + i, 1);
      else l = left.sums[i];
      if (right.items != nullptr) c.lift(&r, right.items + i, 1);
      else r = right.sums[i];
      c.merge(a + i, &l, &r, 1);
    }
  }
}
template <class C> __global__ void __launch_bounds__(combine_threads) finish_kernel(C c, typename C::element* x, const typename C::accumulator* a, long long n, int ranks) {
  for (long long i = static_cast<long long>(blockIdx.x) * combine_threads + threadIdx.x; i < n; i += static_cast<long long>(gridDim.x) * combine_threads)
    c.finish(x + i * c.width, a + i * c.width, 1, ranks);
}
inline unsigned combine_blocks(std::int64_t n) { return unsigned(std::min(combine_most_blocks, (n + combine_threads - 1) / combine_threads)); }

// What every lane on CUDA does alike. A failure stays.
struct cuda_work {
  status failed;

  void note(cudaError_t error, const char* what) {
    if (failed) failed = status_of(error, what);
  }
  void copy(cudaStream_t stream, std::byte* to, const std::byte* from, std::int64_t bytes) {
    note(cudaMemcpyAsync(to, from, std::size_t(bytes), cudaMemcpyDefault, stream), "a copy could not be put on the stream");
  }
  template <class C> void lift(cudaStream_t stream, const C& c, typename C::accumulator* a, const typename C::element* x, std::int64_t n) {
    if constexpr (std::is_same_v<typename C::element, typename C::accumulator>) {
      copy(stream, reinterpret_cast<std::byte*>(a), reinterpret_cast<const std::byte*>(x), n * c.width * std::int64_t(sizeof(typename C::element)));
    } else {
      lift_kernel<C><<<combine_blocks(n), combine_threads, 0, stream>>>(c, a, x, n);
      note(cudaGetLastError(), "the kernel that lifts items could not be launched");
    }
  }
  template <class C> void merge(cudaStream_t stream, const C& c, typename C::accumulator* a, operand<C> left, operand<C> right, std::int64_t n) {
    if constexpr (!moves_only<C>) {
      merge_kernel<C><<<combine_blocks(n), combine_threads, 0, stream>>>(c, a, left, right, n);
      note(cudaGetLastError(), "the kernel that merges sums could not be launched");
    }
  }
  template <class C> void finish(cudaStream_t stream, const C& c, typename C::element* x, const typename C::accumulator* a, std::int64_t n, int ranks) {
    if constexpr (!moves_only<C>) {
      finish_kernel<C><<<combine_blocks(n), combine_threads, 0, stream>>>(c, x, a, n, ranks);
      note(cudaGetLastError(), "the kernel that finishes sums could not be launched");
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::comm::detail
