// Tile shapes of the linear operations by target and regime, and the model that chooses how often K is split. To use others:
//     struct mine { constexpr linear_tuning operator()(target, gemm_regime) const { return {...}; } };
//     op::run(with_tuning<mine>(ctx), args, workspace)
#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <type_traits>
#include <smalti/block/gemm/linear.hpp>
#include <smalti/core/context.hpp>
#include <smalti/ops/gemm/tuning.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in linear_tuning.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent                              sm_80      sm_89      sm_90       sm_100      sm_120              tried
// w4a16, decode                      16x128x64  16x128x64  16x128x64   16x128x64   16x128x64           10
// w4a16                              64x64x64   64x64x64   64x128x64   64x128x64   64x64x64            10
// w4a16, groups of rows              64x64x64   64x64x64   64x128x64   64x128x64   64x64x64            10
// w4a16, groups, gather and scatter  64x64x64   64x64x64   64x128x64   64x128x64   64x64x64 stack 32   10
// q4_k, decode                       16x64x64   16x64x64   16x64x64    16x64x64    16x64x64 stack 112  15
// mxfp4                              32x64x64   32x64x64   64x64x64    64x64x64    64x64x64            12
// w4a8                               32x64x128  32x64x128  64x64x128   64x64x128   64x64x128           12
// w8a8                               64x64x128  64x64x128  64x128x128  64x128x128  64x64x128           10
// fp8 in blocks                      32x64x128  32x64x128  64x64x128   64x64x128   64x64x128           12
// The host, one thread of a Xeon with AMX, each shape beside the present one in turns; speed: of the next best over the present.
// l: b_left or keys_left, s: strips, g: group.
// host                    present        ms      next best      speed  tried
// int4 weights, 1 row     1x64x256 g1    1.111   16x64x512 g1   1.00   6
// int4 weights, 512 rows  128x64x256 g1  24.871  128x64x512 g1  1.01   6
// q4_0 by int8, 1 row     1x64x256 g2    0.765   1x64x512 g2    1.00   4
// q4_0 by int8, 512 rows  128x64x256 g2  42.694  128x64x256 g1  1.00   4
// swept: end

namespace smalti::inline SMALTI_CODE::gemm {

//! Rows up to which a product counts as `few`: one tile of rows still holds them all on a GPU.
constexpr int few_linear_rows = 64;

//! Up to so many rows in all, groups have tiles of one row on the host, where every operation of a tile but the product runs over all its rows: a
//! token's experts have one row each, and 16 rows of one expert read its weights from the second-level cache 15 times.
constexpr int single_rows_of_groups = 16;

//! The default. On a GPU the weights are the left operand from 17 rows up, so that decoded ones go from registers to the matrix
//! unit and the rows are its narrow side; up to 16 rows they are the right one. Shapes are those that compile without a spill;
//! not timed on a GPU yet. On the host 64 outputs are a packed panel; more rows share the unpacking of each.
//! @tparam Chunk  k of a part sum, 0 where there is none. A group of one operand (MXFP4, NVFP4, GGUF) holds part and whole
//!                sums at once for each operand, and so do 8-bit operands: 64 columns, and half the rows on sm_80 and sm_89, where 64 x 64 spills
//! @tparam AlongK  groups along k: masked activations stand beside the decoded weights: half the rows on sm_80 and sm_89, too
//! @tparam Persistent  blocks make tile after tile: half the outputs on sm_100, where 64 x 128 spills
template <class Operand, bool Pairs = false, int Chunk = 0, bool AlongK = false, bool Persistent = false> struct default_linear_tuning {
  SMALTI_HD constexpr linear_tuning operator()(target t, gemm_regime regime) const {
    constexpr int k = 128 / int(sizeof(Operand));          // of weights that are not packed: 128 bytes
    // Rows of tiles are made together as far as their activations fit the second-level cache (4096 columns: 1 MiB).
    if (t == target::host) return {.m = regime == gemm_regime::single ? 1 : regime == gemm_regime::decode ? 16 : regime == gemm_regime::few ? 64 : 128, .n = 64, .k = 256, .group = sizeof(Operand) == 1 ? 2 : 1};
    constexpr bool twice = Chunk > 0 && (Chunk <= 32 || sizeof(Operand) == 1);   // part and whole sums at once
    if (regime == gemm_regime::decode) return {.m = 16, .n = Pairs || twice ? 64 : 128, .k = k};
    if ((t == target::sm80 || t == target::sm89) && (twice || AlongK)) return {.m = 32, .n = 64, .k = k, .weights_left = true};
    if (t == target::sm80 || t == target::sm89 || t == target::sm120) return {.m = 64, .n = 64, .k = k, .weights_left = true};
    return {.m = 64, .n = Pairs || twice || (Persistent && t == target::sm100) ? 64 : 128, .k = k, .weights_left = true};
  }
};

//! Block-scaled operands: 128 bytes of codes along k. The instructions of sm_100 take 128 rows on the left and 32 columns or more, those of sm_120 any;
//! elsewhere both operands are scaled in registers, which hold half as much.
template <class Operand, bool Pairs = false> struct block_scaled_tuning {
  SMALTI_HD constexpr linear_tuning operator()(target t, gemm_regime regime) const {
    constexpr bool four_bits = std::is_same_v<Operand, e2m1>;
    constexpr int k = four_bits ? 256 : 128;
    if (t == target::host) return {.m = regime == gemm_regime::single ? 1 : regime == gemm_regime::decode ? 16 : regime == gemm_regime::few ? 64 : 128, .n = 64, .k = 256, .group = 2};
    const bool few = regime == gemm_regime::decode;
    if (t == target::sm100) return {.m = few ? 32 : regime == gemm_regime::few ? 64 : 128, .n = 128, .k = k, .weights_left = true};
    if (t == target::sm120) return {.m = few ? 16 : 64, .n = Pairs ? 64 : 128, .k = k, .weights_left = true};
    const bool crashes = t == target::sm90 && four_bits && !few;      // the tile compiler of 13.5.37, on 4-bit operands in depths of 64
    return {.m = few ? 16 : 64, .n = 64, .k = crashes ? 128 : 64, .weights_left = !few};
  }
};

template <class S>
concept linear_selector = std::is_empty_v<S> && requires(const S s) { { s(target::host, gemm_regime::prefill) } -> std::same_as<linear_tuning>; };
template <class S> consteval bool explain_linear_selector() {
  static_assert(linear_selector<S>, "smalti: a tuning of a linear operation is an empty type with  constexpr linear_tuning operator()(target, gemm_regime) const  (SMALTI_HD)");
  return true;
}

//! What a launch will do, from sizes alone: for people, and for choosing splits. describe() prints it.
struct linear_plan {
  gemm_regime regime;
  linear_tuning tile;
  int splits;
  long long blocks;
  double waves;              //!< blocks / blocks that can run at once
  double bytes, operations;  //!< weights, activations and results once; 2 M N K
  double cost;               //!< of the model, relative: see cost_of
};

//! Operations that a target does in the time of moving one byte: what decides which of the two limits a tile. From vendors'
//! data sheets (A100, H100 SXM, B200, RTX 5090, dense bf16), and one core's measured rates for the host; not measured here.
constexpr double operations_per_byte(target t) {
  switch (t) {
    case target::host: return 40;
    case target::sm90: return 295;
    case target::sm100: return 281;
    case target::sm120: return 117;
    default: return 201;
  }
}

//! Time of a plan in units of moving one byte at a processor's share of the bandwidth: whole waves of blocks, each limited by
//! its bytes or its operations, and what a split writes and reads again.
constexpr double cost_of(target t, int processors, long long tiles, int splits, double tile_bytes, double tile_operations, double tile_results) {
  const long long blocks = tiles * splits, at_once = processors < 1 ? 1 : processors;
  const double waves = double((blocks + at_once - 1) / at_once);
  const double bytes = tile_bytes / splits, work = tile_operations / splits / operations_per_byte(t);
  const double partial = splits > 1 ? 8.0 * tile_results + 4096 : 0;      // floats out and in again, and a fence
  return waves * ((bytes > work ? bytes : work) + partial);
}

//! Writes one line: "decode: tiles of 16 x 128, weights right, 1 split, 32 blocks (0.24 waves), 8.9e+06 bytes, 3.4e+07 operations".
inline const char* describe(const linear_plan& p, char* buffer, std::size_t size) {
  if (buffer == nullptr || size == 0) return "";
  const char* regime = p.regime == gemm_regime::single ? "one row" : p.regime == gemm_regime::decode ? "decode" : p.regime == gemm_regime::few ? "few rows" : "prefill";
  std::snprintf(buffer, size, "%s: tiles of %d x %d, weights %s, %d split%s, %lld blocks (%.2f waves), %.3g bytes, %.3g operations", regime, p.tile.m, p.tile.n,
                p.tile.weights_left ? "left" : "right", p.splits, p.splits == 1 ? "" : "s", p.blocks, p.waves, p.bytes, p.operations);
  return buffer;
}
template <std::size_t Size> const char* describe(const linear_plan& p, char (&buffer)[Size]) { return describe(p, buffer, Size); }

}  // namespace smalti::inline SMALTI_CODE::gemm
