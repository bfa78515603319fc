// Select-k on a GPU: one block a row. The k-th rank is found by radix histograms in shared memory, most significant
// digit first; a last pass over the row in rising index collects. No step depends on which thread comes first, so the
// result is the same on every GPU.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/core/cuda_context.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/prim/block_scan.cuh>
#include <smalti/prim/order.hpp>
#include <smalti/prim/rows.hpp>

namespace smalti::inline SMALTI_CODE::prim::detail {

constexpr int select_threads = 512;
constexpr int select_items = 4;            // of a thread, one after another, in the collecting pass
constexpr int select_capacity = 4096;      // pairs that fill 32 KiB of shared memory: the greatest k that is sorted

template <class T> struct select_output {
  T* values;
  std::int32_t* indices;
  long long values_stride, indices_stride;
  T fill;
  int k;
  bool best_first;
  const std::int32_t* row_k;
};

template <class T> __device__ void put(const select_output<T>& to, int r, int place, T value, int index) {
  if (to.values != nullptr) to.values[r * to.values_stride + place] = value;
  if (to.indices != nullptr) to.indices[r * to.indices_stride + place] = index;
}

struct select_memory {
  unsigned long long pair[select_capacity];
  int bins[256];
  int digit, left;
  block_scan_memory<int, select_threads> scan;
};

// The rank that the k-th best has, and how many of those that have it are selected; 0 < k < n.
template <order Order, class T>
__device__ void find_cut_in_block(const row_span<T>& row, int k, std::uint32_t& pivot, int& equal, select_memory& memory) {
  const int thread = int(threadIdx.x);
  const long long n = row.size, padded_n = (n + select_threads - 1) / select_threads * select_threads;
  std::uint32_t prefix = 0, mask = 0;
  for (int shift = rank_bits<T> - 8; shift >= 0; shift -= 8) {
    if (thread < 256) memory.bins[thread] = 0;
    __syncthreads();
    for (long long i = thread; i < padded_n; i += select_threads) {       // whole warps: all lanes vote
      int digit = 256;
      if (i < n) {
        const std::uint32_t r = rank<Order>(row.data[i]);
        if ((r & mask) == prefix) digit = int(r >> shift & 255);
      }
      // Leading digits of floats are nearly all alike: one addition for the lanes that agree, not one each.
      const unsigned peers = __match_any_sync(0xffffffffu, digit);
      if (digit < 256 && (peers & ((1u << (thread & 31)) - 1)) == 0) atomicAdd(&memory.bins[digit], __popc(peers));
    }
    __syncthreads();
    const int here = thread < 256 ? memory.bins[255 - thread] : 0;
    int total = 0;
    const int before = block_scan(here, total, memory.scan);
    if (before < k && k <= before + here) {
      memory.digit = 255 - thread;
      memory.left = k - before;
    }
    __syncthreads();
    prefix |= std::uint32_t(memory.digit) << shift;
    mask |= std::uint32_t(255) << shift;
    k = memory.left;
    __syncthreads();
  }
  pivot = prefix;
  equal = k;
}

// Sorts memory.pair[0, n) upwards; the places up to the next power of two are overwritten.
__device__ inline void sort_in_block(int n, select_memory& memory) {
  int size = 1;
  while (size < n) size *= 2;
  for (int i = n + int(threadIdx.x); i < size; i += select_threads) memory.pair[i] = ~0ull;
  for (int run = 2; run <= size; run *= 2)
    for (int distance = run / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (int i = int(threadIdx.x); i < size / 2; i += select_threads) {
        const int low = 2 * i - (i & (distance - 1)), high = low + distance;
        const unsigned long long a = memory.pair[low], b = memory.pair[high];
        if ((a > b) == ((low & run) == 0)) {
          memory.pair[low] = b;
          memory.pair[high] = a;
        }
      }
    }
  __syncthreads();
}

template <class T, order Order, class Rows> __global__ void __launch_bounds__(select_threads) select_kernel(Rows rows, select_output<T> to) {
  __shared__ select_memory memory;
  const int thread = int(threadIdx.x), r = int(blockIdx.x);
  const row_span<T> row = row_at(rows, r);
  const int wanted = to.row_k == nullptr || to.row_k[r] > to.k ? to.k : to.row_k[r] < 0 ? 0 : to.row_k[r];
  const int found = int(row.size < wanted ? row.size : wanted);
  const bool direct = to.k > select_capacity;        // by_index: places are known as they are found
  std::uint32_t pivot = 0;
  int equal = found;
  if (found > 0 && found < row.size) find_cut_in_block<Order>(row, found, pivot, equal, memory);

  int above = 0, ties = 0;                 // of the row so far: ranks above the pivot, ranks equal to it
  for (long long start = 0; start < row.size && above + (ties < equal ? ties : equal) < found; start += select_threads * select_items) {
    std::uint32_t ranks[select_items];
    int mine = 0;                          // ties in the upper half, ranks above in the lower
    for (int j = 0; j < select_items; ++j) {
      const long long i = start + thread * select_items + j;
      ranks[j] = i < row.size ? rank<Order>(row.data[i]) : 0;
      if (i < row.size) mine += ranks[j] > pivot ? 1 : ranks[j] == pivot ? 1 << 16 : 0;
    }
    int all = 0;
    const int before = block_scan(mine, all, memory.scan);
    int above_here = above + (before & 0xffff), ties_here = ties + (before >> 16);
    for (int j = 0; j < select_items; ++j) {
      const long long i = start + thread * select_items + j;
      if (i >= row.size || ranks[j] < pivot) continue;
      const int place = above_here + (ties_here < equal ? ties_here : equal);
      const bool tie = ranks[j] == pivot;
      if (!tie || ties_here < equal) {
        if (!direct) memory.pair[place] = static_cast<unsigned long long>(~ranks[j]) << 32 | std::uint32_t(i);
        else put(to, r, place, row.data[i], int(i));
      }
      if (tie) ++ties_here;
      else ++above_here;
    }
    above += all & 0xffff;
    ties += all >> 16;
  }
  __syncthreads();
  if (to.best_first && found > 1) sort_in_block(found, memory);
  for (int j = (direct ? found : 0) + thread; j < to.k; j += select_threads) {
    const int index = j < found ? int(std::uint32_t(memory.pair[j])) : -1;
    put(to, r, j, index >= 0 ? row.data[index] : to.fill, index);
  }
}

template <class Args> std::size_t select_bytes(const cuda_context&, const Args&) { return 0; }

template <class T, order Order, class Args> status select_rows(const cuda_context& context, const Args& x, workspace) {
  const device_guard guard(context);
  if (!guard.entered) return guard.entered;
  const select_output<T> to{x.values.data, x.indices.data, x.values.stride, x.indices.stride, x.fill, x.k, x.arranged == arrangement::best_first, x.row_k};
  select_kernel<T, Order><<<unsigned(row_count(x.rows)), select_threads, 0, context.stream>>>(x.rows, to);
  return status_of(cudaGetLastError(), "select_k's kernel could not be launched");
}

}  // namespace smalti::inline SMALTI_CODE::prim::detail
