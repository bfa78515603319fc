// Scan on a GPU. One run: sums of chunks, a scan of those by one block, then the chunks with their carries; three launches in
// stream order, every addition in a fixed order (a single-pass scan adds in the order its blocks happen to finish, which
// floats would show). Segments: one block walks each.
#pragma once
#include <smalti/core/cuda_context.hpp>
#include <smalti/prim/block_scan.cuh>
#include <smalti/prim/scan.hpp>

namespace smalti::inline SMALTI_CODE::prim::detail {

constexpr int scan_threads = 256;
constexpr int scan_items = int(scan_chunk) / scan_threads;

// Scans in[0, n), n <= scan_chunk, onto `carry`; returns the sum. Out may be null: then only the sum is wanted.
template <class Sum, scan_kind Kind, class T>
__device__ Sum scan_chunk_in_block(const T* in, T* out, long long n, Sum carry, block_scan_memory<Sum, scan_threads>& memory) {
  const int first = int(threadIdx.x) * scan_items;
  Sum item[scan_items], mine = 0;
  for (int j = 0; j < scan_items; ++j) {
    item[j] = first + j < n ? Sum(in[first + j]) : Sum(0);
    mine += item[j];
  }
  Sum total = 0;
  Sum sum = block_scan(mine, total, memory);
  if (out == nullptr) return total;
  for (int j = 0; j < scan_items; ++j) {
    const Sum next = sum + item[j];
    if (first + j < n) out[first + j] = T(carry + (Kind == scan_kind::inclusive ? next : sum));
    sum = next;
  }
  return total;
}

template <class Sum, class T> __global__ void __launch_bounds__(scan_threads) chunk_sums_kernel(const T* in, long long n, Sum* sums) {
  __shared__ block_scan_memory<Sum, scan_threads> memory;
  const long long first = static_cast<long long>(blockIdx.x) * scan_chunk, left = n - first;
  const Sum total = scan_chunk_in_block<Sum, scan_kind::inclusive, T>(in + first, nullptr, left < scan_chunk ? left : scan_chunk, Sum(0), memory);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

// In place: each sum becomes the sum of those before it.
template <class Sum> __global__ void __launch_bounds__(scan_threads) carries_kernel(Sum* sums, long long chunks) {
  __shared__ block_scan_memory<Sum, scan_threads> memory;
  Sum carry = 0;
  for (long long i = 0; i < chunks; i += scan_chunk)
    carry += scan_chunk_in_block<Sum, scan_kind::exclusive>(sums + i, sums + i, chunks - i < scan_chunk ? chunks - i : scan_chunk, carry, memory);
}

template <class Sum, scan_kind Kind, class T>
__global__ void __launch_bounds__(scan_threads) scan_chunks_kernel(const T* in, T* out, long long n, const Sum* carries) {
  __shared__ block_scan_memory<Sum, scan_threads> memory;
  const long long first = static_cast<long long>(blockIdx.x) * scan_chunk, left = n - first;
  scan_chunk_in_block<Sum, Kind>(in + first, out + first, left < scan_chunk ? left : scan_chunk, carries[blockIdx.x], memory);
}

template <class Sum, scan_kind Kind, class T, class Offset>
__global__ void __launch_bounds__(scan_threads) scan_segments_kernel(const T* in, T* out, segments<Offset> parts) {
  __shared__ block_scan_memory<Sum, scan_threads> memory;
  const long long first = parts.first(int(blockIdx.x)), last = parts.last(int(blockIdx.x));
  Sum carry = 0;
  for (long long i = first; i < last; i += scan_chunk)
    carry += scan_chunk_in_block<Sum, Kind>(in + i, out + i, last - i < scan_chunk ? last - i : scan_chunk, carry, memory);
}

template <class T, scan_kind Kind, class Args> std::size_t scan_bytes(const cuda_context&, const Args& x) {
  return std::size_t((x.count + scan_chunk - 1) / scan_chunk) * sizeof(T);
}

template <class T, scan_kind Kind, class Args> status scan_all(const cuda_context& context, const Args& x, workspace scratch) {
  using sum = typename scan_sum<T>::type;
  const device_guard guard(context);
  if (!guard.entered) return guard.entered;
  if constexpr (segmented<std::remove_cvref_t<decltype(x.parts)>>) {
    if (x.parts.count == 0) return {};
    scan_segments_kernel<sum, Kind><<<unsigned(x.parts.count), scan_threads, 0, context.stream>>>(x.in, x.out, x.parts);
  } else {
    const std::int64_t chunks = (x.count + scan_chunk - 1) / scan_chunk;
    if (chunks > context.max_grid_x) return {errc::out_of_reach, "count is too long for one launch: scan in parts", x.count, context.max_grid_x * scan_chunk};
    sum* carry = carver{scratch.data}.take<sum>(std::size_t(chunks));
    chunk_sums_kernel<<<unsigned(chunks), scan_threads, 0, context.stream>>>(x.in, x.count, carry);
    carries_kernel<<<1, scan_threads, 0, context.stream>>>(carry, chunks);
    scan_chunks_kernel<sum, Kind><<<unsigned(chunks), scan_threads, 0, context.stream>>>(x.in, x.out, x.count, carry);
  }
  return status_of(cudaGetLastError(), "scan's kernels could not be launched");
}

}  // namespace smalti::inline SMALTI_CODE::prim::detail
