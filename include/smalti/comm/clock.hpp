// The clock of transports whose time is the machine's.
#pragma once
#include <chrono>
#include <smalti/comm/transport.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! Nanoseconds of the steady clock: of one machine, not comparable between machines.
inline nanoseconds steady_now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace smalti::inline SMALTI_CODE::comm
