// Tile shapes of the quantizing agents. No GPU has run them yet; the host's were chosen on a Xeon with AVX-512.
#pragma once
#include <smalti/block/quantize/hadamard.hpp>
#include <smalti/block/quantize/tokens.hpp>
#include <smalti/core/context.hpp>

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
