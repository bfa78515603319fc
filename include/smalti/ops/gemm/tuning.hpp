// Tile shapes of the dense GEMM, by target and regime. To use others:
//     struct mine { constexpr gemm_tuning operator()(target, gemm_regime) const { return {...}; } };
//     op::run(with_tuning<mine>(ctx), args, workspace)
#pragma once
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <smalti/block/gemm/dense.hpp>
#include <smalti/core/context.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in tuning.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent                   sm_80         sm_89         sm_90         sm_100        sm_120        tried
// dense bf16              64x128x64     64x128x64     128x128x64    128x128x64    64x128x64     10
// dense bf16, A as K x M  64x128x64     64x128x64     128x128x64    128x128x64    64x128x64     10
// dense bf16, reductions  64x128x64     64x128x64     128x64x64     128x128x64    64x128x64     11
// dense bf16, persistent  64x128x64     64x128x64     128x128x64    128x128x64    64x128x64     10
// dense bf16, decode      16x64x128 o2  16x64x128 o2  16x64x128 o2  16x64x128 o2  16x64x128 o2  10
// dense f32               64x128x32     64x128x32     128x128x32    128x128x32    64x128x32     10
// dense f32, A as K x M   64x128x32     64x128x32     128x128x32    128x128x32    64x128x32     10
// dense f32 as tf32x3     64x64x32      64x64x32      128x64x32     128x128x32    64x128x32     13
// dense int8              64x128x128    64x128x128    128x128x128   128x128x128   64x128x128    10
// dense int8, A as K x M  64x128x128    64x128x128    128x128x128   128x128x128   64x128x128    10
// dense fp8               64x128x128    64x128x128    64x128x128    128x128x128   64x128x128    11
// dense fp8, A as K x M   64x128x128    64x128x128    64x128x128    128x128x128   64x128x128    11
// The host, one thread of a Xeon with AMX, each shape beside the present one in turns; speed: of the next best over the present.
// l: b_left or keys_left, s: strips, g: group.
// host                       present        ms      next best      speed  tried
// dense bf16, 1024^3         128x256x1024   2.168   64x256x1024    0.99   6
// dense f32, 1024^3          96x256x256     15.225  96x128x256     1.04   6
// dense int8, 1024^3         64x512x1024    1.152   128x512x1024   0.91   6
// dense bf16, 1 row          16x64x4096 l   2.549   16x128x2048 l  1.01   6
// dense bf16, 64 rows        128x32x2048 l  4.058   128x64x2048 l  0.88   6
// grouped bf16, 8 x 64 rows  64x64x2048 l   7.528   64x32x2048 l   1.06   6
// swept: end

namespace smalti::inline SMALTI_CODE::gemm {

//! Decode: at most `decode_rows` rows of A, memory bound. Few: at most `few_rows`, on the host only, where packing B would
//! cost more than the product. Prefill: everything else. Single: one row of a linear operation, on the host only, where
//! sixteen rows of sums and factors would be moved for one.
enum class gemm_regime { decode, few, prefill, single };
constexpr int decode_rows = 16, few_rows = 128;

#if !defined(__CUDACC__)
// Host: a strip of packed B and the rows of A of one block share the second-level cache (2 MiB) with the sums; wide
// tiles read A less often and write C in longer runs. Swept on a Xeon with AMX, one thread, 1024^3, as shares of the f32
// FMA rate of the same run (median of 13): AMX bf16 128x256x1024 3.1, 256x64x512 2.2, 256x256x256 3.0; AMX int8
// 128x512x1024 6.9, 256x64x1024 3.6; f32 96x256x256 0.79, 192x64x256 0.70; without AMX bf16 384x256x512 0.77 (192x64x256
// 0.70), int8 384x256x1024 2.7 (192x64x512 2.2). Of the read bandwidth, B from memory, AMX: one row 64x4096 0.93, 64x1024
// 0.91, 16x1024 0.85; 32 rows 128x64x2048 with B left 0.72, 128x256x1024 0.42; 128 rows 0.35 and 0.23; 512 rows alike.
template <class T> SMALTI_HD constexpr gemm_tuning host_tuning(gemm_regime regime) {
  constexpr bool words = sizeof(T) == 1 || (sizeof(T) == 2 && !std::is_same_v<T, fp16>), amx = words && SMALTI_DOT_LEVEL == 4;
  constexpr int k = sizeof(T) == 1 || amx ? 1024 : words ? 512 : 256;
  if (regime == gemm_regime::decode) return {.m = 16, .n = 64, .k = amx ? 4 * k : k, .b_left = true};   // long runs of each row of B
  if (amx && regime == gemm_regime::few) return {.m = 128, .n = sizeof(T) == 1 ? 64 : 32, .k = 2 * k, .b_left = true};   // bf16, 64 rows: 1.11 and 1.14 times n = 64
  if (amx && sizeof(T) == 1) return {.m = 64, .n = 512, .k = k};      // 1.07 and 1.10 times as fast as 128 rows, in two runs
  if (amx) return {.m = 128, .n = 256, .k = k};
  return {.m = words ? 384 : 96, .n = 256, .k = k};
}
#else
template <class T> SMALTI_HD constexpr gemm_tuning host_tuning(gemm_regime) { return {.m = 16, .n = 16, .k = 64}; }   // never runs under nvcc
#endif

//! The default for operands of T. A pair of products holds two accumulators, hence half the columns. GPU shapes are
//! read from machine code (no spill, the pipeline's instructions present), not timed: not yet run on a GPU.
template <class T, bool Pairs = false> struct default_tuning {
  SMALTI_HD constexpr gemm_tuning operator()(target t, gemm_regime regime) const {
    constexpr int k = 128 / int(sizeof(T)), n = Pairs ? 64 : 128;   // 128 bytes of k: one swizzled row
    if (t == target::host) return host_tuning<T>(regime);
    if (regime == gemm_regime::decode) return {.m = 16, .n = 64, .k = 2 * k, .occupancy = 2};
    switch (t) {
      case target::sm90: return {.m = 128, .n = n, .k = k};
      case target::sm100: return {.m = 128, .n = n, .k = k};
      default: return {.m = 64, .n = n, .k = k};
    }
  }
};

template <class S>
concept gemm_selector = std::is_empty_v<S> && requires(const S s) { { s(target::host, gemm_regime::prefill) } -> std::same_as<gemm_tuning>; };

template <class S> consteval bool explain_selector() {
  static_assert(gemm_selector<S>,
                "smalti: a tuning of a GEMM is an empty type with  constexpr gemm_tuning operator()(target, gemm_regime) const  (SMALTI_HD)");
  return true;
}

}  // namespace smalti::inline SMALTI_CODE::gemm
