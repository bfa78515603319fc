// Sums over the threads of a block, for the primitives' kernels: shuffles inside warps, shared memory between them.
// (CUB has these too; one CUB header costs seconds of every user's compilation.)
#pragma once
#include <cstdint>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_CODE::prim::detail {

//! What a block of Threads threads needs in shared memory for block_scan.
template <class T, int Threads> struct block_scan_memory {
  static_assert(Threads % 32 == 0 && Threads <= 1024, "smalti: a block has 32 to 1024 threads, a multiple of 32");
  T warp[32];
};

//! The sum of the values of the threads before this one; `total` gets the sum of all. Every thread of the block calls
//! it. The order of additions is fixed: a scan inside warps by doubling distances, then one over warps the same way.
template <class T, int Threads> __device__ T block_scan(T value, T& total, block_scan_memory<T, Threads>& memory) {
  const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5;
  T sum = value;
  for (int distance = 1; distance < 32; distance *= 2) {
    const T other = __shfl_up_sync(0xffffffffu, sum, distance);
    if (lane >= distance) sum += other;
  }
  T before = __shfl_up_sync(0xffffffffu, sum, 1);
  if (lane == 0) before = T(0);
  __syncthreads();                        // an earlier call's readers are done with the memory
  if (lane == 31) memory.warp[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    T sums = lane < Threads / 32 ? memory.warp[lane] : T(0);
    for (int distance = 1; distance < 32; distance *= 2) {
      const T other = __shfl_up_sync(0xffffffffu, sums, distance);
      if (lane >= distance) sums += other;
    }
    memory.warp[lane] = sums;
  }
  __syncthreads();
  total = memory.warp[Threads / 32 - 1];
  return warp == 0 ? before : memory.warp[warp - 1] + before;
}

}  // namespace smalti::inline SMALTI_CODE::prim::detail
