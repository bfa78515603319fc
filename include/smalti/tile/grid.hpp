// The shape of a launch.
#pragma once
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA {

//! How many blocks run: z slowest, x fastest. Blocks of one grid run in any order and never wait for each other.
struct grid {
  int x = 1, y = 1, z = 1;
  constexpr long long count() const { return static_cast<long long>(x) * y * z; }
};

}  // namespace smalti::inline SMALTI_DATA
