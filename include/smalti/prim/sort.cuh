// Sort by key on a GPU: codes and places, CUB's radix sort, and a gather.
#pragma once
#include <algorithm>
#include <cub/device/device_radix_sort.cuh>
#include <smalti/core/cuda_context.hpp>
#include <smalti/prim/sort.hpp>

namespace smalti::inline SMALTI_CODE::prim::detail {

constexpr int sort_threads = 256;

template <direction Direction, class Key, class Code>
__global__ void __launch_bounds__(sort_threads) sort_codes_kernel(const Key* keys, Code* codes, std::int32_t* places, long long n) {
  for (long long i = static_cast<long long>(blockIdx.x) * sort_threads + threadIdx.x; i < n; i += static_cast<long long>(gridDim.x) * sort_threads) {
    codes[i] = sort_code<Direction>(keys[i]);
    places[i] = std::int32_t(i);
  }
}

template <class Key>
__global__ void __launch_bounds__(sort_threads) sort_gather_kernel(const std::int32_t* places, const Key* keys, const std::int32_t* values, Key* keys_out,
                                                                   std::int32_t* values_out, long long n) {
  for (long long i = static_cast<long long>(blockIdx.x) * sort_threads + threadIdx.x; i < n; i += static_cast<long long>(gridDim.x) * sort_threads) {
    const int place = places[i];
    if (keys_out != nullptr) keys_out[i] = keys[place];
    if (values_out != nullptr) values_out[i] = values != nullptr ? values[place] : place;
  }
}

template <class Code> struct device_sort_scratch {
  Code* code[2];
  std::int32_t* place[2];
  std::byte* cub;
  std::size_t cub_bytes, bytes;
};
template <class Code> device_sort_scratch<Code> lay_out_device_sort(std::byte* base, std::int64_t n) {
  carver c{base};
  device_sort_scratch<Code> s{};
  for (int i = 0; i < 2; ++i) s.code[i] = c.take<Code>(std::size_t(n)), s.place[i] = c.take<std::int32_t>(std::size_t(n));
  // With two buffers CUB needs, for each of its blocks, 256 counters of 4 bytes, for at most 2^28 items at a time, and
  // histograms. Asking CUB would call the driver, so this is a bound: its blocks take at least 1024 items, and its histograms
  // (8 passes of 256 counters of 8 bytes, for each 2^28 items) fit a MiB. run() compares it with CUB's own figure.
  s.cub_bytes = std::size_t(n < (1 << 28) ? n : 1 << 28) + (std::size_t(1) << 20);
  s.cub = c.take<std::byte>(s.cub_bytes);
  s.bytes = c.used;
  return s;
}

template <class Key, direction Direction, class Args> std::size_t sort_bytes(const cuda_context&, const Args& x) {
  return lay_out_device_sort<code_of<Key>>(nullptr, x.count).bytes;
}

template <class Key, direction Direction, class Args> status sort_all(const cuda_context& context, const Args& x, workspace scratch) {
  using code = code_of<Key>;
  const device_guard guard(context);
  if (!guard.entered) return guard.entered;
  device_sort_scratch<code> s = lay_out_device_sort<code>(scratch.data, x.count);
  cub::DoubleBuffer<code> codes(s.code[0], s.code[1]);
  cub::DoubleBuffer<std::int32_t> places(s.place[0], s.place[1]);
  const int n = int(x.count);
  std::size_t need = 0;
  if (status e = status_of(cub::DeviceRadixSort::SortPairs(nullptr, need, codes, places, n, 0, int(8 * sizeof(code)), context.stream),
                           "CUB could not size its sort for this device"); !e)
    return e;
  if (need > s.cub_bytes)
    return {errc::workspace_too_small, "this CUB needs more memory than workspace_bytes allows for: report it, and sort in parts", std::int64_t(s.cub_bytes), std::int64_t(need)};
  const unsigned blocks = unsigned(std::min<std::int64_t>((x.count + sort_threads - 1) / sort_threads, std::int64_t(context.sm_count) * 16));
  sort_codes_kernel<Direction><<<blocks, sort_threads, 0, context.stream>>>(x.keys, s.code[0], s.place[0], x.count);
  if (status e = status_of(cudaGetLastError(), "sort_by_key's first kernel could not be launched"); !e) return e;
  if (status e = status_of(cub::DeviceRadixSort::SortPairs(s.cub, need, codes, places, n, 0, int(8 * sizeof(code)), context.stream),
                           "CUB's sort could not be launched"); !e)
    return e;
  sort_gather_kernel<<<blocks, sort_threads, 0, context.stream>>>(places.Current(), x.keys, x.values, x.keys_out, x.values_out, x.count);
  return status_of(cudaGetLastError(), "sort_by_key's last kernel could not be launched");
}

}  // namespace smalti::inline SMALTI_CODE::prim::detail
