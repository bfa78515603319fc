// Tile shapes of the cache's agents. Not measured: copies of a few kilobytes a block.
#pragma once
#include <type_traits>
#include <smalti/block/cache/append.hpp>
#include <smalti/block/cache/append_quantized.hpp>
#include <smalti/block/cache/move_rows.hpp>
#include <smalti/core/context.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in tuning.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent                     sm_80  sm_89  sm_90  sm_100  sm_120  tried
// cache append              16x64  16x64  16x64  16x64   16x64   11
// cache append, fp8         16x64  16x64  16x64  16x64   16x64   5
// cache copy_pages          4x512  4x512  4x512  4x512   4x512   5
// cache append, int8 codes  16x64  16x64  16x64  16x64   16x64   5
// cache append, int4 codes  16x64  16x64  16x64  16x64   16x64   5
// The host, one thread of a Xeon with AMX, each shape beside the present one in turns; speed: of the next best over the present.
// l: b_left or keys_left, s: strips, g: group.
// host          present  ms     next best  speed  tried
// cache append  16x128   3.840  8x128      1.07   6
// swept: end

namespace smalti::inline SMALTI_CODE::cache {

//! append: tokens by channels of one head.
struct default_append_tuning {
  SMALTI_HD constexpr append_tuning operator()(target t) const { return t == target::host ? append_tuning{16, 128} : append_tuning{16, 64}; }
};
//! append to integer storages: tokens, and channels of a piece where tokens share scales.
struct default_quantized_append_tuning {
  SMALTI_HD constexpr quantized_append_tuning operator()(target) const { return {16, 64}; }
};
//! copy_pages: pages by words of 32 bits.
struct default_move_tuning {
  SMALTI_HD constexpr move_tuning operator()(target t) const { return t == target::host ? move_tuning{1, 4096} : move_tuning{4, 512}; }
};

template <class S, class Tuning> consteval bool explain_tuning() {
  static_assert(std::is_empty_v<S> && requires(const S s) { { s(target::host) } -> std::same_as<Tuning>; },
                "smalti: a tuning of this operation is an empty type with  constexpr append_tuning (for append), quantized_append_tuning (for append to integer storages) or move_tuning (for copy_pages) operator()(target) const");
  return true;
}

}  // namespace smalti::inline SMALTI_CODE::cache
