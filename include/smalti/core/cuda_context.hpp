// The GPU as a place to run: a stream, its device and the facts that check, workspace and launch need. The facts are
// read once, here; no op asks the runtime again. Needs nvcc 13.3 with --enable-tile; elsewhere the type can be named,
// and using it is one error that says what to change.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/core/context.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA {

//! Whether a stream is being captured into a graph; `broken` is a capture that an earlier call has spoilt.
enum class capture : std::uint8_t { none, active, broken };

}  // namespace smalti::inline SMALTI_DATA

#if defined(__CUDACC_TILE__) && (__CUDACC_VER_MAJOR__ > 13 || (__CUDACC_VER_MAJOR__ == 13 && __CUDACC_VER_MINOR__ >= 3))
#define SMALTI_HAS_CUDA_CONTEXT 1
#include <cuda_runtime_api.h>

namespace smalti::inline SMALTI_CODE {

//! A failed call of the CUDA runtime as a status: `got` is its cudaError_t.
inline status status_of(cudaError_t error, const char* what) noexcept {
  if (error == cudaSuccess) return {};
  if (error == cudaErrorInsufficientDriver)
    return {errc::not_initialised, "there is no NVIDIA driver, or it is older than the CUDA runtime of this program: install r580 or newer", error, 0};
  if (error == cudaErrorNoDevice) return {errc::not_initialised, "no CUDA device was found: use host_context, or check the driver", error, 0};
  return {errc::cuda_error, what, error, 0};
}

//! Work is queued on `stream`. Made by on(stream); the members are facts of the stream's device, for reading.
struct cuda_context {
  cudaStream_t stream = nullptr;
  int device = -1;
  int sm_count = 0;
  int arch = 0;                                //!< compute capability, as 90 for 9.0
  int max_shared_bytes_per_block = 0;          //!< with opt-in
  int max_shared_bytes_per_sm = 0;
  int l2_bytes = 0;
  int max_grid_x = 0, max_grid_y = 0, max_grid_z = 0;
  int memory_pools = 0;                        //!< 1 where cudaMallocAsync works
  //! Why the context cannot be used, if it cannot. Every op's check() begins with it.
  status ready{errc::not_initialised, "a cuda_context is made by cuda_context::on(stream)", 0, 0};

  //! Reads the facts of the stream's device. Never fails loudly: look at `ready`, or let the op's check() report it.
  //! Does not change the current device, allocates nothing, and may be called while the stream is captured.
  static cuda_context on(cudaStream_t stream) noexcept {
    cuda_context c;
    c.stream = stream;
    c.ready = c.read();
    return c;
  }

private:
  status read() noexcept {
    if (status s = status_of(cudaStreamGetDevice(stream, &device), "the device of the stream could not be read: is the stream alive?"); !s) return s;
    int major = 0, minor = 0;
    const struct { int* to; cudaDeviceAttr what; } facts[] = {
      {&major, cudaDevAttrComputeCapabilityMajor},
      {&minor, cudaDevAttrComputeCapabilityMinor},
      {&sm_count, cudaDevAttrMultiProcessorCount},
      {&max_shared_bytes_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin},
      {&max_shared_bytes_per_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor},
      {&l2_bytes, cudaDevAttrL2CacheSize},
      {&max_grid_x, cudaDevAttrMaxGridDimX},
      {&max_grid_y, cudaDevAttrMaxGridDimY},
      {&max_grid_z, cudaDevAttrMaxGridDimZ},
      {&memory_pools, cudaDevAttrMemoryPoolsSupported},
    };
    for (const auto& fact : facts)
      if (status s = status_of(cudaDeviceGetAttribute(fact.to, fact.what, device), "an attribute of the device could not be read"); !s) return s;
    arch = 10 * major + minor;
    if (arch < 80) return {errc::unsupported_arch, "the device is too old: compute capability 8.0 (as 80) or newer is needed", arch, 80};
    return {};
  }
};

//! Makes the context's device current for a scope and puts back the one that was. Never throws; a failure is in
//! `entered`, and then nothing is put back.
class device_guard {
public:
  explicit device_guard(const cuda_context& context) noexcept : device_guard(context.device) {}
  explicit device_guard(int device) noexcept {
    entered = status_of(cudaGetDevice(&previous_), "the current device could not be read");
    if (!entered || previous_ == device) return;
    entered = status_of(cudaSetDevice(device), "the context's device could not be made current");
    changed_ = bool(entered);
  }
  ~device_guard() {
    if (changed_) static_cast<void>(cudaSetDevice(previous_));
  }
  device_guard(const device_guard&) = delete;
  device_guard& operator=(const device_guard&) = delete;

  status entered;

private:
  int previous_ = -1;
  bool changed_ = false;
};

//! The state of capture of the context's stream; any failure of the call itself reads as `broken`.
inline capture capture_of(const cuda_context& context) noexcept {
  cudaStreamCaptureStatus s = cudaStreamCaptureStatusInvalidated;
  if (cudaStreamIsCapturing(context.stream, &s) != cudaSuccess) return capture::broken;
  return s == cudaStreamCaptureStatusNone ? capture::none : s == cudaStreamCaptureStatusActive ? capture::active : capture::broken;
}

//! What a step that cannot be captured (an allocation, a synchronisation) begins with.
inline status refuse_capture(const cuda_context& context) noexcept {
  switch (capture_of(context)) {
    case capture::none: return {};
    case capture::active: return {errc::capture_refused, "the stream is being captured: do this before the capture begins", 0, 0};
    default: return {errc::capture_refused, "the stream's capture was spoilt by an earlier call: end it and begin again", 0, 0};
  }
}

namespace detail {
template <class> struct refuse_cuda_context {};
template <class> constexpr bool cuda_context_works = true;
}  // namespace detail

}  // namespace smalti::inline SMALTI_CODE

#else

namespace smalti::inline SMALTI_CODE::inline without_tile {

namespace detail {

// A class, not a function: the compiler instantiates it once, so two uses in one file are still one error.
template <class T> struct refuse_cuda_context {
#if !defined(__CUDACC__)
  static_assert(never<T>, "smalti: a cuda_context works only in files that nvcc compiles: rename this file to .cu, build it with "
                          "nvcc 13.3 or newer and --enable-tile, or run on host_context here");
#elif __CUDACC_VER_MAJOR__ < 13 || (__CUDACC_VER_MAJOR__ == 13 && __CUDACC_VER_MINOR__ < 3)
  static_assert(never<T>, "smalti: a cuda_context needs nvcc 13.3 or newer (this one is older): install a newer CUDA toolkit; "
                          "descriptors and policies compile with this one");
#else
  static_assert(never<T>, "smalti: a cuda_context needs CUDA Tile: add --enable-tile to nvcc's options (the target smalti::smalti adds it)");
#endif
};
template <class T> constexpr bool cuda_context_works = false;

}  // namespace detail

//! Stands in for the real type where that cannot work; on() is refused by one sentence.
struct cuda_context {
  template <class Stream = void*>
  static cuda_context on(Stream = {}) {
    using refusal = detail::refuse_cuda_context<std::conditional_t<never<Stream>, Stream, void>>;
    static_cast<void>(sizeof(refusal));
    return {};
  }
  status ready{errc::not_initialised, "a cuda_context works only in files compiled by nvcc 13.3 or newer with --enable-tile", 0, 0};
};

}  // namespace smalti::inline SMALTI_CODE::inline without_tile

#endif
