// Merging partial attention: results of the same queries over different keys become the result over all of them.
#pragma once
#include <cstddef>
#include <type_traits>
#include <smalti/block/attention/merge.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/attention/check.hpp>
#include <smalti/ops/attention/merge_tuning.hpp>
#include <smalti/policy/lse.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! lse = log(sum over parts p of base^lse_p),   o = sum over p of base^(lse_p - lse) o_p
//!
//! @tparam Part  element of the partial results: float (16 bits lose accuracy with every merge), or bf16, fp16
//! @tparam Out   float, bf16, fp16, fp8
//! @tparam Lse   the base of all log-sum-exps: policy::lse_e<float> or lse_2<float>
//! @pre   a part without keys has lse = -infinity; its values are not looked at
//! @post  parts are merged in their order: the same bits on every run. No workspace
//! @note  cost: reads every part once
template <class Part = float, class Out = float, class Lse = policy::lse_e<float>>
struct merge {
  static_assert(std::is_same_v<Part, float> || std::is_same_v<Part, bf16> || std::is_same_v<Part, fp16>, "smalti: partial results are float, bf16 or fp16");
  static_assert(result_memory<Out>, "smalti: the result of attention is float, bf16, fp16, fp8_e4m3 or fp8_e5m2");
  static_assert(policy::is_lse<Lse>, "smalti: a log-sum-exp names its base: policy::lse_e<float> or policy::lse_2<float>");

  struct args {
    head_rows<const Part> o = {};                      //!< of the first part
    head_rows<const float> lse = {};                   //!< cols = 1
    long long o_distance = 0, lse_distance = 0;   //!< elements from part to part
    int parts = 0;
    head_rows<Out> result = {};
    head_rows<float> result_lse = {};             //!< null data: not wanted
  };

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(x, is_host<Context>); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) { return 0; }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    if (const status bad = check(context, x); !bad) return bad;
    if (x.o.sequences == 0 || x.o.heads == 0 || x.o.rows == 0) return {};
    if constexpr (runs_here<Context>)
      return launch<kernel>(base_of(context), {x.o, x.lse, x.o_distance, x.lse_distance, x.parts, x.result, x.result_lse});
    else return {};
  }

  // ---- what a launch names
  struct kernel {
    using problem = merge_problem<Part, Out, Lse>;
    using arguments = typename problem::arguments;
    template <target T> using agent = merge_agent<default_merge_tuning{}(T), problem>;
  };

private:
  static status check_args(const args& x, bool readable) {
    if (const status bad = detail::check_rows<"o", step_of<Part>>(x.o, x.o.cols); !bad) return bad;
    if (x.o.cols <= 0) return {errc::bad_shape, "o: cols must be positive", x.o.cols, 1};
    if (const status bad = detail::check_rows<"lse", 1>(x.lse, 1); !bad) return bad;
    if (const status bad = detail::check_rows<"result", step_of<Out>>(x.result, x.o.cols); !bad) return bad;
    if (const status bad = first_of([&] { return detail::check_same_rows<"lse", "o">(x.lse, x.o); }, [&] { return detail::check_same_rows<"result", "o">(x.result, x.o); },
                                    [&] { return detail::check_distinct<"result">(x.result); }); !bad) return bad;
    if (x.result_lse.data != nullptr)
      if (const status bad = first_of([&] { return detail::check_rows<"result_lse", 1>(x.result_lse, 1); }, [&] { return detail::check_same_rows<"result_lse", "o">(x.result_lse, x.o); },
                                      [&] { return detail::check_distinct<"result_lse">(x.result_lse); }); !bad) return bad;
    if (x.parts < 0) return {errc::bad_value, "parts must not be negative", x.parts, 0};
    if (x.parts > 1 && (x.o_distance < 0 || x.lse_distance < 0 || x.o_distance % step_of<Part> != 0))
      return {errc::misaligned, "o_distance must be a multiple of 16 bytes, and no distance negative", x.o_distance, 0};
    if (readable)
      return first_of([&] { return detail::check_offsets<"o">(x.o); }, [&] { return detail::check_offsets<"lse">(x.lse); }, [&] { return detail::check_offsets<"result">(x.result); });
    if (x.o.heads > 65535 || x.o.sequences > 65535) return {errc::out_of_reach, "o: at most 65,535 heads and sequences on a GPU", x.o.heads, 65535};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
