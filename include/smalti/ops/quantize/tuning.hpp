// Tile shapes of the quantizing agents, chosen by what a cache or a block's registers hold; neither the host's nor a GPU's were swept.
#pragma once
#include <smalti/block/quantize/hadamard.hpp>
#include <smalti/block/quantize/tokens.hpp>
#include <smalti/core/context.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in tuning.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent                  sm_80     sm_89     sm_90     sm_100    sm_120    tried
// quantize int8, by row  4x1024x1  4x1024x1  4x1024x1  4x1024x1  4x1024x1  11
// quantize fp8, by 128   16x128x1  16x128x1  16x128x1  16x128x1  16x128x1  11
// quantize mxfp8         16x32x4   16x32x4   16x32x4   16x32x4   16x32x4   5
// hadamard 64            64        64        64        64        64        5
// hadamard 256           64        64        64        64        64        5
// The host, one thread of a Xeon with AMX, each shape beside the present one in turns; speed: of the next best over the present.
// l: b_left or keys_left, s: strips, g: group.
// host                   present   ms      next best  speed  tried
// quantize int8, by row  1x1024x1  3.132   2x512x1    1.26   6
// quantize int8, by 32   4x32x32   5.939   4x32x128   1.15   6
// quantize fp8, by 128   4x128x8   3.121   4x128x32   1.11   6
// hadamard 128           32        31.335  128        1.60   4
// swept: end

namespace smalti::inline SMALTI_CODE::quantize {

//! A group is the width of its tile; a whole row goes by 1024 columns on a GPU, few rows at a time, so that one token is not
//! one block's whole work. The host's tiles stay in the first-level cache.
template <int Group> struct tokens_default {
  SMALTI_HD constexpr tokens_tuning operator()(target t) const {
    if (t == target::host) return Group == 0 ? tokens_tuning{.m = 1, .n = 1024, .groups = 1} : tokens_tuning{.m = 4, .n = Group, .groups = 1024 / (Group == 0 ? 1 : Group)};
    return Group == 0 ? tokens_tuning{.m = 4, .n = 1024, .groups = 1} : tokens_tuning{.m = 16, .n = Group, .groups = Group >= 128 ? 1 : 128 / (Group == 0 ? 1 : Group)};
  }
};

struct hadamard_default {
  SMALTI_HD constexpr hadamard_tuning operator()(target t) const { return t == target::host ? hadamard_tuning{.m = 32} : hadamard_tuning{.m = 64}; }
};

}  // namespace smalti::inline SMALTI_CODE::quantize
