// Operations that are others, one after another, on workspace that the steps share.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/core/context.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::flow {

//! check, workspace_bytes and run of an operation Self that says its steps in order:
//!     template <class Context, class Step> static status steps(const Context&, const args&, carver&, Step)
//! takes from the carver what is kept between steps and calls step(operation, its arguments) until one gives a bad status. With no base the
//! carver's arrays are addresses that nobody reads (carver::place). What a step needs for itself begins behind what is kept. Optional:
//!     static status refuse(context, args)      what check says before the steps do; steps read no data themselves: sizes alone give the workspace
//!     static bool idle(const args&)            whether there is nothing to do
//!     check                                    of its own, where steps cannot be checked before others have run
template <class Self> struct in_steps {
  template <class Context, class S = Self> static status check(const Context& context, const typename S::args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else {
      carver carve{nullptr};
      return first_of([&]() -> status {
        if constexpr (requires { S::refuse(context, x); }) return S::refuse(context, x);
        else return {};
      }, [&] { return S::steps(context, x, carve, [&](const auto& op, const auto& a) { return std::remove_cvref_t<decltype(op)>::check(context, a); }); });
    }
  }
  template <class Context, class S = Self> static std::size_t workspace_bytes(const Context& context, const typename S::args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return 0;
    else {
      carver carve{nullptr};
      std::size_t most = 0;
      const status any = S::steps(context, x, carve, [&](const auto& op, const auto& a) {
        const std::size_t bytes = std::remove_cvref_t<decltype(op)>::workspace_bytes(context, a);
        return most = bytes > most ? bytes : most, status{};
      });
      static_cast<void>(any);      // a bad argument: check says which
      static_cast<void>(carve.take<std::byte>(most));
      return carve.used;
    }
  }
  template <class Context, class S = Self> static status run(const Context& context, const typename S::args& x, workspace memory = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = first_of([&] { return S::check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
      if constexpr (requires { S::idle(x); })
        if (S::idle(x)) return {};
      carver carve{memory.data};
      return S::steps(context, x, carve, [&](const auto& op, const auto& a) {
        using operation = std::remove_cvref_t<decltype(op)>;
        carver behind = carve;
        const std::size_t bytes = operation::workspace_bytes(context, a);
        std::byte* const at = behind.take<std::byte>(bytes);
        return operation::run(context, a, {at, bytes});
      });
    } else {
      return S::check(context, x);
    }
  }
};

//! An array of a plan, handed to a step that has a plan of its own. While nothing runs both begin at the same addresses, which nobody reads, but
//! checks compare: this one is moved far away.
template <class T, int Step> view<T, Step> apart(const carver& carve, view<T, Step> v) {
  if (carve.base == nullptr) v.data = reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(v.data) + (std::uintptr_t(1) << 46));
  return v;
}
//! A step whose arguments other steps make: they cannot be read, and are checked, when it runs.
template <class Op> struct later {
  template <class Context> static status check(const Context&, const typename Op::args&) { return {}; }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const typename Op::args& x) { return Op::workspace_bytes(context, x); }
  template <class Context> static status run(const Context& context, const typename Op::args& x, workspace memory) { return Op::run(context, x, memory); }
};
//! Steps that are no operations of their own: a launch of one kernel, and bytes set to zero.
template <class Kernel> struct started {
  struct args {
    typename Kernel::arguments x;
  };
  template <class Context> static status check(const Context&, const args&) { return {}; }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) { return 0; }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) { return launch<Kernel>(base_of(context), x.x); }
};
struct cleared {
  struct args {
    void* at = nullptr;
    std::size_t bytes = 0;
  };
  template <class Context> static status check(const Context&, const args&) { return {}; }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) { return 0; }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) { return x.bytes > 0 ? clear(base_of(context), x.at, x.bytes) : status{}; }
};

}  // namespace smalti::inline SMALTI_CODE::flow
