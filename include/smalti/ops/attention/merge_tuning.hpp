// Tile shapes of what puts partial results together. A GPU's come from machine code: the record is beside this file.
#pragma once
#include <smalti/block/attention/merge.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/version.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in merge_tuning.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent                      sm_80  sm_89  sm_90  sm_100  sm_120  tried
// partial attention, absorb  16x64  16x64  16x64  16x64   16x64   5
// partial attention, merge   16x64  16x64  16x64  16x64   16x64   5
// swept: end

namespace smalti::inline SMALTI_CODE::attention {

//! Of merge and absorb.
struct default_merge_tuning {
  SMALTI_HD constexpr merge_tuning operator()(target) const { return {16, 64}; }
};

}  // namespace smalti::inline SMALTI_CODE::attention
