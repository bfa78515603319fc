// Permute on a GPU: one warp a row, words as wide as the addresses and the width allow.
#pragma once
#include <smalti/core/cuda_context.hpp>
#include <smalti/prim/permute.hpp>

namespace smalti::inline SMALTI_CODE::prim::detail {

constexpr int permute_threads = 256;

// Rows of `width` words; strides in words. Words are 16, 8, 4, 2 or 1 bytes.
template <movement Movement, class Word>
__global__ void __launch_bounds__(permute_threads) permute_kernel(const Word* from, long long from_stride, int from_rows, Word* to, long long to_stride,
                                                                  int to_rows, long long width, const std::int32_t* index) {
  const long long i = (static_cast<long long>(blockIdx.x) * permute_threads + threadIdx.x) / 32;
  const int lane = int(threadIdx.x) & 31;
  if (i >= (Movement == movement::gather ? to_rows : from_rows)) return;
  const int named = Movement == movement::copy ? static_cast<int>(i) : index[i];
  if (named < 0 || named >= (Movement == movement::gather ? from_rows : to_rows)) return;
  const Word* source = from + (Movement == movement::gather ? named : i) * from_stride;
  Word* target = to + (Movement == movement::gather ? i : named) * to_stride;
  for (long long j = lane; j < width; j += 32) target[j] = source[j];
}

template <movement Movement, class Word, class Args> void launch_permute(const cuda_context& context, const Args& x, std::size_t size) {
  const long long rows = Movement == movement::gather ? x.to.rows : x.from.rows;
  const unsigned blocks = unsigned((rows * 32 + permute_threads - 1) / permute_threads);
  const auto words = [&](long long elements) { return elements * static_cast<long long>(size) / static_cast<long long>(sizeof(Word)); };
  permute_kernel<Movement, Word><<<blocks, permute_threads, 0, context.stream>>>(
      reinterpret_cast<const Word*>(x.from.data), words(x.from.stride), x.from.rows, reinterpret_cast<Word*>(x.to.data), words(x.to.stride), x.to.rows,
      words(x.to.cols), x.index);
}

template <class T, movement Movement, class Args> status move_rows(const cuda_context& context, const Args& x) {
  const device_guard guard(context);
  if (!guard.entered) return guard.entered;
  // The greatest power of two that divides every address and length, in its lowest set bit. The stride of one row is not used.
  const std::uintptr_t all = reinterpret_cast<std::uintptr_t>(x.from.data) | reinterpret_cast<std::uintptr_t>(x.to.data) | x.to.cols * sizeof(T) |
                             (x.from.rows > 1 ? x.from.stride * sizeof(T) : 0) | (x.to.rows > 1 ? x.to.stride * sizeof(T) : 0);
  if (all % 16 == 0) launch_permute<Movement, uint4>(context, x, sizeof(T));
  else if (all % 8 == 0) launch_permute<Movement, uint2>(context, x, sizeof(T));
  else if (all % 4 == 0) launch_permute<Movement, std::uint32_t>(context, x, sizeof(T));
  else if (all % 2 == 0) launch_permute<Movement, std::uint16_t>(context, x, sizeof(T));
  else launch_permute<Movement, std::uint8_t>(context, x, sizeof(T));
  return status_of(cudaGetLastError(), "permute's kernel could not be launched");
}

}  // namespace smalti::inline SMALTI_CODE::prim::detail
