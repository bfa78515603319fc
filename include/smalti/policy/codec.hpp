// Codecs: what a stored code means as a number. A codec of four-bit codes says how many there are below zero
// (`offset`); value = code - offset, exact in bf16.
#pragma once
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Four bits, value = code - 8, one scale for each `Group` codes along K.
template <int Group> struct int4_symmetric {
  static constexpr int bits = 4, group = Group, offset = 8;
  static_assert(Group > 0 && Group % 32 == 0, "smalti: int4_symmetric needs a group that is a multiple of 32: choose another group");
};

}  // namespace smalti::inline SMALTI_DATA::policy
