// How an op starts a grid on the machine of its context. A kernel is described by a type:
//     struct some_kernel {
//       using arguments = ...;                                   an aggregate of views, numbers and policies
//       template <target T> using agent = ...;                   the agent tuned for T: an aggregate of one `arguments`
//     };                                                         with static grid blocks(const arguments&)
// so that one kernel name serves every architecture it is compiled for.
#pragma once
#include <smalti/core/context.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#if !defined(__CUDACC__)
#  include <cstring>
#  include <smalti/tile/host/run.hpp>
#elif defined(__CUDACC_TILE__)
#  include <smalti/tile/cuda_tile/launch.cuh>
#endif

namespace smalti::inline SMALTI_CODE {

#if !defined(__CUDACC__)
// ---- the host
constexpr target target_for(const host_context&) { return target::host; }

//! How many blocks can run at once.
inline int processors(const host_context& context) { return host::thread_count(context); }

//! Workspace in which the threads keep packed right operands: room for `panel` bytes each, and a quarter more.
inline std::size_t bytes_to_keep(const host_context& context, std::size_t panel) {
  return (panel + panel / 4 + 4095) / 4096 * 4096 * std::size_t(host::thread_count(context));
}

//! Runs a kernel; returns when it is done. `panels` and `turned`, where threads keep packed operands, may be empty.
template <class Kernel> status launch(const host_context& context, const typename Kernel::arguments& x, workspace panels = {}, workspace turned = {}) {
  using agent = typename Kernel::template agent<target::host>;
  host::run(context, agent{x}, agent::blocks(x), panels, turned);
  return {};
}

//! Sets memory to zero, in the order of the context's work.
inline status clear(const host_context&, void* memory, std::size_t bytes) {
  std::memset(memory, 0, mutant(defect::clear_one_short) ? bytes - sizeof(int) : bytes);
  return {};
}
#elif defined(SMALTI_HAS_CUDA_CONTEXT)
// ---- a GPU
constexpr target target_for(const cuda_context& context) {
  target t = target::sm80;
  static_cast<void>(static_cast<bool>(cuda_tile::code_target(context.arch, t)));   // launch reports a device without code
  return t;
}
constexpr int processors(const cuda_context& context) { return context.sm_count; }
constexpr std::size_t bytes_to_keep(const cuda_context&, std::size_t) { return 0; }

//! Queues a kernel.
template <class Kernel> status launch(const cuda_context& context, const typename Kernel::arguments& x, workspace = {}, workspace = {}) {
  target t = target::sm80;
  if (const status bad = cuda_tile::code_target(context.arch, t); !bad) return bad;
  const grid size = cuda_tile::for_target(t, [&](auto here) { return Kernel::template agent<here.value>::blocks(x); });
  const device_guard guard(context);
  if (!guard.entered) return guard.entered;
  return cuda_tile::launch(context.stream, Kernel{}, size, x);
}

inline status clear(const cuda_context& context, void* memory, std::size_t bytes) {
  const device_guard guard(context);
  if (!guard.entered) return guard.entered;
  return status_of(cudaMemsetAsync(memory, 0, bytes, context.stream), "the counters of a workspace could not be cleared");
}
#endif

}  // namespace smalti::inline SMALTI_CODE
