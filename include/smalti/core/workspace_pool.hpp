// Workspace that owns its memory and grows when asked. Opt-in: ops never allocate, they take the caller's workspace;
// this is one way to be that caller.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <smalti/core/context.hpp>
#include <smalti/core/cuda_context.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>
#include <smalti/core/workspace.hpp>

namespace smalti::inline SMALTI_CODE {
namespace detail {

// Half as much again as before, at least: a slowly growing need costs a logarithmic number of allocations.
constexpr std::size_t grown(std::size_t held, std::size_t need) {
  const std::size_t more = held + held / 2;
  const std::size_t size = need > more ? need : more;
  const std::size_t mask = carver::alignment - 1;
  return size > SIZE_MAX - mask ? size : (size + mask) & ~mask;
}

}  // namespace detail

//! Memory for the workspaces of ops on one context:
//!     workspace_pool pool(ctx);
//!     if (status s = pool.reserve(op::workspace_bytes(ctx, args)); !s) return s;
//!     op::run(ctx, args, pool.memory());
//! One block, shared by all ops that run one after another; ops at the same time need a pool each. Movable.
template <class Context> class workspace_pool {
  static_assert(never<Context>, "smalti: a workspace_pool serves host_context or, in a .cu file compiled with --enable-tile, cuda_context");
};

template <class Context> workspace_pool(const Context&) -> workspace_pool<Context>;

//! On the processor: memory from operator new. reserve() may move the block: work that uses it must be done.
template <> class workspace_pool<host_context> {
public:
  explicit workspace_pool(const host_context& = {}) noexcept {}
  ~workspace_pool() { release(); }
  workspace_pool(workspace_pool&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  workspace_pool& operator=(workspace_pool&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  //! At least `bytes` from now on, without initial content; what was there is lost when the block grows.
  status reserve(std::size_t bytes) noexcept {
    if (bytes <= size_) return {};
    const std::size_t want = detail::grown(size_, bytes);
    release();
    if (want > PTRDIFF_MAX)     // not left to the allocator: libstdc++ 12 rounds the size up and wraps
      return {errc::workspace_too_small, "no object can be as large as this workspace", 0, INT64_MAX};
    data_ = static_cast<std::byte*>(::operator new(want, std::align_val_t(carver::alignment), std::nothrow));
    if (data_ == nullptr) return {errc::workspace_too_small, "the system has no memory for the workspace", 0, std::int64_t(want)};
    size_ = want;
    return {};
  }
  workspace memory() const noexcept { return {data_, size_}; }
  std::size_t size() const noexcept { return size_; }
  void release() noexcept {
    if (data_ != nullptr) ::operator delete(data_, std::align_val_t(carver::alignment));
    data_ = nullptr;
    size_ = 0;
  }

private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

#if defined(SMALTI_HAS_CUDA_CONTEXT)

//! On a GPU: memory from the device's pool, allocated and freed in the order of the context's stream. reserve() never
//! waits: work queued before it keeps the old block until it is done. While the stream is captured only a reserve()
//! that need not grow succeeds; work of a captured graph uses the block after the call, so the pool must neither grow
//! nor die during the capture or while the graph may run. The stream must outlive the pool.
template <> class workspace_pool<cuda_context> {
public:
  explicit workspace_pool(const cuda_context& context) noexcept : context_(context) {}
  ~workspace_pool() { release(); }
  workspace_pool(workspace_pool&& other) noexcept
      : context_(other.context_), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  workspace_pool& operator=(workspace_pool&& other) noexcept {
    std::swap(context_, other.context_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  status reserve(std::size_t bytes) noexcept {
    if (bytes <= size_) return {};
    if (!context_.ready) return context_.ready;
    if (context_.memory_pools == 0)
      return {errc::unsupported_arch, "the device has no stream-ordered memory: allocate the workspace with cudaMalloc", 0, 1};
    if (status s = refuse_capture(context_); !s) return s;
    device_guard guard(context_);
    if (!guard.entered) return guard.entered;
    const std::size_t want = detail::grown(size_, bytes);
    release();
    void* block = nullptr;
    if (status s = status_of(cudaMallocAsync(&block, want, context_.stream), "the device has no memory for the workspace"); !s) return s;
    data_ = block;
    size_ = want;
    return {};
  }
  workspace memory() const noexcept { return {data_, size_}; }
  std::size_t size() const noexcept { return size_; }
  void release() noexcept {
    if (data_ != nullptr) static_cast<void>(cudaFreeAsync(data_, context_.stream));
    data_ = nullptr;
    size_ = 0;
  }

private:
  cuda_context context_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

#endif

}  // namespace smalti::inline SMALTI_CODE
