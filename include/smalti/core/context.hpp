// Where work runs. A context is a small value; the first argument of every op.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA {

//! What a tuning is written for. A newer chip takes the newest known branch.
enum class target : int { host = 0, sm80 = 80, sm89 = 89, sm90 = 90, sm100 = 100, sm120 = 120 };

//! The branch of a GPU with compute capability `arch` (as 90 for 9.0).
SMALTI_HD constexpr target target_of(int arch) {
  return arch >= 120 ? target::sm120 : arch >= 100 ? target::sm100 : arch >= 90 ? target::sm90 : arch >= 89 ? target::sm89 : target::sm80;
}

//! The processor. `threads` = 0 takes all that OpenMP offers. A `shuffle` other than 0 runs the blocks of each
//! grid in an order drawn from it: results must not care, and tests prove it.
struct host_context {
  int threads = 0;
  std::uint64_t shuffle = 0;
};

//! A context with a tuning of the caller's: Selector is an empty function object that maps a target to the
//! tuning of the op it is given to.
//!     run(with_tuning<my_tuning>(ctx), args, workspace)
template <class Context, class Selector>
struct tuned {
  using context = Context;
  using selector = Selector;
  Context base;
};
template <class Selector, class Context> constexpr tuned<Context, Selector> with_tuning(const Context& context) {
  static_assert(std::is_empty_v<Selector>, "smalti: a tuning selector is an empty type with  constexpr Tuning operator()(target) const");
  return {context};
}

template <class Context> constexpr const Context& base_of(const Context& context) { return context; }
template <class Context, class Selector> constexpr const Context& base_of(const tuned<Context, Selector>& t) { return t.base; }

template <class Context> struct context_of { using type = Context; };
template <class Context, class Selector> struct context_of<tuned<Context, Selector>> { using type = Context; };

//! The selector a context carries, or the op's own.
template <class Context, class Default> struct selector_of { using type = Default; };
template <class Context, class Selector, class Default> struct selector_of<tuned<Context, Selector>, Default> { using type = Selector; };

template <class Context> constexpr bool is_host = std::is_same_v<typename context_of<Context>::type, host_context>;

}  // namespace smalti::inline SMALTI_DATA
