// Tile shapes of the grouped dense products: those of gemm::dense where a group is as large as a matrix.
#pragma once
#include <smalti/block/gemm/dense.hpp>
#include <smalti/ops/gemm/order_tuning.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in grouped_tuning.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent                          sm_80         sm_89         sm_90         sm_100        sm_120        tried
// grouped bf16                   64x128x64     64x128x64     128x128x64    128x128x64    64x128x64     10
// grouped bf16, gathered, gated  64x64x64      64x64x64      128x64x64     128x64x64     64x64x64      10
// grouped bf16, scattered        64x128x64     64x128x64     128x128x64    128x128x64    64x128x64     10
// grouped bf16, decode           16x64x128 o2  16x64x128 o2  16x64x128 o2  16x64x128 o2  16x64x128 o2  10
// grouped depth, bf16            64x128x64     64x128x64     128x128x64    128x128x64    64x128x64     10
// adapters, shrink               64x16x64      64x16x64      64x16x64      64x16x64      64x16x64      10
// adapters, shrink, decode       16x16x64      16x16x64      16x16x64      16x16x64      16x16x64      10
// adapters, expand               64x64x16      64x64x16      64x64x16      64x64x16      64x64x16      10
// adapters, expand, decode       16x64x16      16x64x16      16x64x16      16x64x16      16x64x16      10
// swept: end

namespace smalti::inline SMALTI_CODE::gemm {

// With AMX the weights of a group are used where they lie: to pack them costs more than a group's rows are worth. Swept on a Xeon
// with AMX, one thread, 8 weights of 2048 x 2048 that the third-level cache holds, as shares of one dense product of as many operations in
// the same run (medians of 15): groups of 64 rows 64x64x2048 0.79 (11.7 GB/s of weights: what one thread reads there), 64x64x1024 by squares
// of tiles 0.67; of 128 rows 128x64x2048 0.86, 64x64x2048 0.81, by squares 0.79; of 256 rows 128x64x2048 0.83, 64x64x2048 0.87, by squares
// 0.78, weights packed 0.74. Tiles as deep as K: what is fetched ahead at a tile's end is then the next tile's.
#if !defined(__CUDACC__)
template <class T, class Options> constexpr bool streams_weights = std::is_same_v<T, bf16> && Options::a == a_order::m_by_k && Options::b == b_order::n_by_k && SMALTI_DOT_LEVEL == 4;
#else
template <class T, class Options> constexpr bool streams_weights = false;
#endif
template <class T, class Options, bool Paged> constexpr int few_rows_of_groups = Paged ? 32 : streams_weights<T, Options> ? 64 : few_rows;
//! On the host every operation of a tile runs over all its rows, the empty ones too: one or two rows of an adapter have a tile of their own.
//! Swept like the others, 64 rows, 4096 x 4096, rank 16, adapters from memory, microseconds: of 64 adapters shrinking 2x16x1024 930, 16x16x1024
//! 890 to 990, expanding 2x512x16 1250, 1x256 1340, 8x256 1570, 16x256 2050 (560 each are the bytes alone); of 8 adapters expanding 8x256 270,
//! 16x256 350, 2x512 400.
template <bool Host, bool Paged> constexpr int decode_rows_of_groups = Host && Paged ? 2 : decode_rows;

//! The default of gemm::grouped and grouped_depth. Paged rows: 16 rows of a weight are a tile, because most ranks are few; their
//! other extent is the same in every regime: it must divide a shard's width. GPU shapes are read from machine code, not timed: not yet run on a GPU.
template <class T, bool Pairs, class Options, bool Paged> struct grouped_tuning {
  SMALTI_HD static constexpr int within_shard(int extent) { return Options::shard_width > 0 && Options::shard_width < extent ? Options::shard_width : extent; }
  SMALTI_HD constexpr gemm_tuning operator()(target t, gemm_regime regime) const {
    if constexpr (Paged) {
      const int few = t == target::host ? (regime == gemm_regime::decode ? 2 : 8) : 16, m = regime == gemm_regime::prefill ? 64 : few;
      if (Options::b == b_order::n_by_k) return {.m = m, .n = 16, .k = within_shard(t == target::host ? 1024 : 128 / int(sizeof(T)))};
      return {.m = m, .n = within_shard(t == target::host ? 256 : 64), .k = 16, .group = t == target::host ? 1 : 0};      // along an adapter's rows: 1.8 times as fast as down the segments
    } else {
      gemm_tuning chosen = order_tuning<T, Pairs, Options>{}(t, regime);
      if (t == target::host && streams_weights<T, Options>) {
        if (regime == gemm_regime::few) return {.m = 64, .n = 64, .k = 2048, .b_left = true};
        if (regime == gemm_regime::prefill) return {.m = 128, .n = 64, .k = 2048, .b_left = true};
      }
      if (t != target::host) chosen.group = 0;      // down all rows of a column: the tiles of one group follow each other
      // Beside 64 x 128 sums sm_80 has no registers for the addresses of gathered rows of k.
      if ((t == target::sm80 || t == target::sm89) && Options::gathers && Options::a == a_order::k_by_m) chosen.n = 64;
      return chosen;
    }
  }
};

//! One kernel for every number of rows, whose accumulators never mix rows: on the host that is the form with B on the left.
template <class Selector, bool ByRows> struct invariant_tuning {
  SMALTI_HD constexpr gemm_tuning operator()(target t, gemm_regime) const {
    gemm_tuning chosen = Selector{}(t, gemm_regime::prefill);
    if (t == target::host && ByRows) chosen.m = 64, chosen.b_left = true;
    return chosen;
  }
};

template <class Offset> struct plan_kernel {
  using arguments = typename plan_row_tiles<Offset>::arguments;
  template <target> using agent = plan_row_tiles<Offset>;
};

//! Bytes that the host holds an element of A in: fp16 as float, 8-bit floats as bf16.
template <class A> constexpr std::size_t held_bytes = std::is_same_v<A, fp16> ? sizeof(float) : std::is_same_v<A, std::int8_t> || sizeof(A) > 1 ? sizeof(A) : sizeof(bf16);

}  // namespace smalti::inline SMALTI_CODE::gemm
