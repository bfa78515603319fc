// The first line of every op: is this a context, and does it work in this file? And the first line of every check():
// is it ready?
#pragma once
#include <type_traits>
#include <smalti/core/context.hpp>
#include <smalti/core/cuda_context.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_CODE {
namespace detail {

#if defined(__CUDACC__)
template <class T> struct refuse_host_context {
  static_assert(never<T>, "smalti: a host context runs in .cpp files only: nvcc refuses vector types in code it may compile for the device; "
                          "move this call to a .cpp file of its own");
};
constexpr bool host_context_works = false;
#else
template <class> struct refuse_host_context {};
constexpr bool host_context_works = true;
#endif
template <class T> struct refuse_unknown_context {
  static_assert(never<T>, "smalti: the first argument of an op is a context: host_context{threads} or cuda_context::on(stream), "
                          "or with_tuning<selector>(one of them)");
};

}  // namespace detail

template <class Context> constexpr bool is_cuda = std::is_same_v<typename context_of<Context>::type, cuda_context>;

//! True where an op's body for this context can be compiled in this file.
template <class Context> constexpr bool runs_here = is_host<Context> ? detail::host_context_works : is_cuda<Context> && detail::cuda_context_works<Context>;

//! Refuses, in one sentence with the remedy, a context that cannot work in this file. An op begins with
//!     static_assert(explain_context<Context>());
//!     if constexpr (runs_here<Context>) { ... }
//! It returns true even after a refusal, so that the sentence is the only error.
template <class Context> consteval bool explain_context() {
  using bare = typename context_of<std::remove_cvref_t<Context>>::type;
  if constexpr (std::is_same_v<bare, host_context>) static_cast<void>(sizeof(detail::refuse_host_context<std::conditional_t<never<Context>, Context, void>>));
  else if constexpr (std::is_same_v<bare, cuda_context>) static_cast<void>(sizeof(detail::refuse_cuda_context<std::conditional_t<never<Context>, Context, void>>));
  else static_cast<void>(sizeof(detail::refuse_unknown_context<bare>));
  return true;
}

//! Whether a context can take work now.
inline status check_context(const host_context& context) {
  if (context.threads < 0) return {errc::bad_value, "host_context.threads must not be negative; 0 takes all that OpenMP offers", context.threads, 0};
  return {};
}
inline status check_context(const cuda_context& context) { return context.ready; }
template <class Context, class Selector> status check_context(const tuned<Context, Selector>& context) { return check_context(context.base); }

//! The processor's work is never captured.
inline capture capture_of(const host_context&) { return capture::none; }

}  // namespace smalti::inline SMALTI_CODE
