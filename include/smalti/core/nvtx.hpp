// Names for a profiler's time line. Opt-in; without NVTX's header the range is empty and costs nothing.
#pragma once
#include <smalti/core/version.hpp>

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>      // header-only; loads the profiler's library with dlopen: link with ${CMAKE_DL_LIBS}

namespace smalti::inline SMALTI_DATA::inline with_nvtx {

//! Marks the time from construction to destruction on the calling thread's time line:
//!     nvtx_range range("prefill");
//! It names host time: work that a stream runs later is attributed to it by the profiler's projection.
class nvtx_range {
public:
  explicit nvtx_range(const char* text) noexcept { nvtxRangePushA(text); }
  ~nvtx_range() { nvtxRangePop(); }
  nvtx_range(const nvtx_range&) = delete;
  nvtx_range& operator=(const nvtx_range&) = delete;
  static constexpr bool recorded = true;
};

}  // namespace smalti::inline SMALTI_DATA::inline with_nvtx

#else

namespace smalti::inline SMALTI_DATA::inline without_nvtx {

//! The empty form: <nvtx3/nvToolsExt.h> was not found.
class nvtx_range {
public:
  explicit nvtx_range(const char*) noexcept {}
  ~nvtx_range() {}      // not defaulted, so that an unused variable of this type is no warning
  nvtx_range(const nvtx_range&) = delete;
  nvtx_range& operator=(const nvtx_range&) = delete;
  static constexpr bool recorded = false;
};

}  // namespace smalti::inline SMALTI_DATA::inline without_nvtx

#endif
