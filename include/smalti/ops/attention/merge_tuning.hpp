// Tile shapes of what puts partial results together. A GPU's come from machine code: the record is beside this file.
#pragma once
#include <smalti/block/attention/merge.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Of merge and absorb.
struct default_merge_tuning {
  SMALTI_HD constexpr merge_tuning operator()(target) const { return {16, 64}; }
};

}  // namespace smalti::inline SMALTI_CODE::attention
