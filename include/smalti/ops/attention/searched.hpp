// What systems share that search for blocks and then attend to them, in one call.
#pragma once
#include <cstddef>
#include <smalti/ops/attention.hpp>
#include <smalti/policy/padded_lists.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Options of an attention that reads padded lists of `Width` keys for each `Height` queries.
template <class Base, int Width, int Height> struct with_padded_lists : Base { using blocks = policy::padded_lists<Width, Height>; };

//! check, workspace_bytes and run of a System with
//!   search, attend, args              two ops; the arguments of both
//!   check_own(args)                   what neither of them asks
//!   search_of(args, lists)            the search's arguments, which writes to `lists` (null: not known yet)
//!   attention_of(args, lists)         the attention's, which reads them
//! The last three may be private to its friend. Both ops start on the context; on the host they are done on return.
template <class System> struct searched {
  template <class Context, class S = System, class Args = typename S::args> static status check(const Context& context, const Args& x) {
    return first_of([&] { return System::check_own(x); }, [&] { return System::search::check_search(context, System::search_of(x, nullptr)); },
                    [&] { return System::attend::check(context, System::attention_of(x, nullptr)); });
  }
  template <class Context, class S = System, class Args = typename S::args> static std::size_t workspace_bytes(const Context& context, const Args& x) { return lay_out(context, x, nullptr).bytes; }
  template <class Context, class S = System, class Args = typename S::args> static status run(const Context& context, const Args& x, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    const plan p = lay_out(context, x, memory.data);
    if (const status bad = System::search::run(context, System::search_of(x, p.lists), p.rest); !bad) return bad;
    return System::attend::run(context, System::attention_of(x, p.lists), p.rest);
  }

private:
  struct plan {
    int* lists;
    workspace rest;                   // of the search, then of the attention
    std::size_t bytes;
  };
  template <class Context, class Args> static plan lay_out(const Context& context, const Args& x, std::byte* base) {
    plan p{};
    if (!System::check_own(x)) return p;
    carver carve{base};
    const auto s = System::search_of(x, nullptr);
    p.lists = carve.take<int>(std::size_t(s.blocks.rows) * s.blocks.cols);
    p.rest = carve.take_shared({System::search::workspace_bytes(context, s), System::attend::workspace_bytes(context, System::attention_of(x, nullptr))});
    p.bytes = carve.used;
    return p;
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
