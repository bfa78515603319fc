// Absorbing a partial result of attention into a running one: the same merge as merge.hpp, in place and one part at a time, for
// parts that come when they come and of which not all are kept.
#pragma once
#include <cstddef>
#include <type_traits>
#include <smalti/block/attention/absorb.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/attention/check.hpp>
#include <smalti/ops/attention/merge_tuning.hpp>
#include <smalti/policy/lse.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! For each row i of the part, r = first + i:
//!     l = log(base^lse_r + base^part_lse_i),   o_r = base^(lse_r - l) o_r + base^(part_lse_i - l) part_i,   lse_r = l
//!
//! @tparam Part  element of the part's values: float (16 bits lose accuracy with every merge), bf16 or fp16
//! @tparam Lse   the base of all log-sum-exps: policy::lse_e<float> or lse_2<float>
//! @pre   an empty side has lse = -infinity; its values are not looked at. Rows first .. first + rows of the part exist in o
//! @post  the same parts in the same order give the same bits
//! @note  error of n parts absorbed one after another: at most (15 n + 5) 2^-24 max |o| (policy/lse.hpp). Cost: reads the part,
//!        reads and writes as many rows of o. No workspace
template <class Part = float, class Lse = policy::lse_e<float>>
struct absorb {
  static_assert(std::is_same_v<Part, float> || std::is_same_v<Part, bf16> || std::is_same_v<Part, fp16>, "smalti: partial results are float, bf16 or fp16");
  static_assert(policy::is_lse<Lse>, "smalti: a log-sum-exp names its base: policy::lse_e<float> or policy::lse_2<float>");

  struct args {
    head_rows<float> o = {}, lse = {};                 //!< running; lse: cols = 1
    head_rows<const Part> part = {};
    head_rows<const float> part_lse = {};              //!< cols = 1
    const int* first = nullptr;                        //!< one for each sequence; null: 0
  };

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(x, is_host<Context>); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) { return 0; }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    if (const status bad = check(context, x); !bad) return bad;
    if (x.part.sequences == 0 || x.part.heads == 0 || x.part.rows == 0) return {};
    if constexpr (runs_here<Context>) return launch<kernel>(base_of(context), {x.o, x.lse, x.part, x.part_lse, x.first});
    else return {};
  }

  // ---- what a launch names
  struct kernel {
    using problem = absorb_problem<Part, Lse>;
    using arguments = typename problem::arguments;
    template <target T> using agent = absorb_agent<default_merge_tuning{}(T), problem>;
  };

private:
  static status check_args(const args& x, bool readable) {
    if (x.o.cols <= 0) return {errc::bad_shape, "o: cols must be positive", x.o.cols, 1};
    if (const status bad = first_of([&] { return detail::check_rows<"o", step_of<float>>(x.o, x.o.cols); }, [&] { return detail::check_rows<"lse", 1>(x.lse, 1); },
                                    [&] { return detail::check_same_rows<"lse", "o">(x.lse, x.o); }, [&] { return detail::check_rows<"part", step_of<Part>>(x.part, x.o.cols); },
                                    [&] { return detail::check_rows<"part_lse", 1>(x.part_lse, 1); }, [&] { return detail::check_same_rows<"part_lse", "part">(x.part_lse, x.part); },
                                    [&] { return detail::check_distinct<"o">(x.o); }, [&] { return detail::check_distinct<"lse">(x.lse); }); !bad) return bad;
    if (x.part.sequences != x.o.sequences || x.part.heads != x.o.heads) return {errc::bad_shape, "part: needs the sequences and heads of o", x.part.heads, x.o.heads};
    if (!readable) {
      if (x.o.heads > 65535 || x.o.sequences > 65535) return {errc::out_of_reach, "o: at most 65,535 heads and sequences on a GPU", x.o.heads, 65535};
      return {};
    }
    if (const status bad = first_of([&] { return detail::check_offsets<"o">(x.o); }, [&] { return detail::check_offsets<"lse">(x.lse); }, [&] { return detail::check_offsets<"part">(x.part); },
                                    [&] { return detail::check_offsets<"part_lse">(x.part_lse); }); !bad) return bad;
    for (int s = 0; s < x.o.sequences; ++s) {
      const int first = x.first != nullptr ? x.first[s] : 0;
      if (first < 0) return {errc::bad_value, "first must not be negative", first, 0};
      if (first > x.o.length(s) - x.part.length(s)) return {errc::bad_shape, "part: its rows reach past those of o", static_cast<std::int64_t>(first) + x.part.length(s), x.o.length(s)};
      if (x.part_lse.length(s) != x.part.length(s) || x.lse.length(s) != x.o.length(s)) return {errc::bad_shape, "lse: needs the rows of its values in each sequence", s, 0};
    }
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
