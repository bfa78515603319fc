// What keeps the loads of experts even: losses with their gradient, and controllers of the selection bias; and the order of tokens that
// batch prioritised capacity wants.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/route/balance.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/route/router.hpp>
#include <smalti/policy/route/controller.hpp>
#include <smalti/prim/sort.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::route {

//! Losses of a batch of T tokens over E experts, s the scores, m_e the slots of expert e:
//!     loss[0] = coefficient E / (T k) sum_e m_e mean_t s[t, e]           (Switch, GShard, MegaBlocks: m counts all choices)
//!     loss[1] = z_coefficient mean_t (log sum_e exp z[t, e])^2           (softmax scorers; else 0)
//!     gradient[e] = coefficient E / (T k) m_e / T                        d loss[0] / d s[t, e]: weight_gradient's `balance`
//! weight_gradient's z_loss is z_coefficient / T. Tutel counts first choices only: choices = 1 and their counts. Counts have no gradient.
//!
//! @pre    counts: index's demand, before the capacity
//! @post   run to run: sums of 256 tokens, then of those in their order
//! @note   cost: one read of the logits. Workspace: E + 16 floats for each 256 tokens
//!
//! Sources: Fedus et al. 2021, arXiv:2101.03961; Lepikhin et al. 2020, arXiv:2006.16668; Zoph et al. 2022, arXiv:2202.08906 (z-loss).
template <class Scorer = policy::softmax_scorer, class Options = options> struct balance_loss {
  using forward = router<Scorer, policy::no_bias, policy::top_k, policy::no_norm, Options>;
  static_assert(Scorer::reads_logits && !policy::maps_rows<Scorer>, "smalti: a balance loss needs logits of each token: hashed experts and tasks have none");
  static constexpr determinism level = determinism::run_to_run;
  using logit = typename Options::logit;
  using problem = mean_problem<logit, Scorer, Options::experts>;

  struct args {
    view<const logit, 1> logits = {};            //!< tokens x experts
    int tokens = 0, experts = 0, choices = 1;
    Scorer scorer = {};
    const std::int32_t* counts = nullptr;        //!< [experts]
    float coefficient = 0.01f, z_coefficient = 0;
    float* loss = nullptr;                       //!< [2]
    float* mean_score = nullptr;                 //!< [experts]; null: not wanted
    float* gradient = nullptr;                   //!< [experts]; null: not wanted
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    const typename forward::args f{.logits = x.logits, .tokens = x.tokens, .experts = x.experts, .choices = 0, .scorer = x.scorer};
    return first_of([&] { return check_context(context); }, [&] { return forward::check_shapes(f); },
                    [&] { return detail::check_policy(x.scorer, {x.tokens, x.experts, x.choices}); }, [&]() -> status {
      if (x.tokens == 0) return {errc::bad_shape, "tokens must be at least 1: a mean over none has no value", 0, 1};
      if (x.choices < 1) return {errc::bad_value, "choices must be at least 1", x.choices, 1};
      if (x.counts == nullptr) return {errc::null_pointer, "counts is null: it needs an element for each expert", 0, x.experts};
      if (x.loss == nullptr) return {errc::null_pointer, "loss is null: it needs two elements", 0, 2};
      if (!Scorer::over_all && x.z_coefficient != 0) return {errc::bad_value, "z_coefficient needs a softmax scorer: it is the log of its sum"};
      if (detail::meet(x.loss, 2, x.mean_score, x.experts) || detail::meet(x.loss, 2, x.gradient, x.experts) || detail::meet(x.mean_score, x.experts, x.gradient, x.experts) ||
          detail::meet(x.counts, x.experts, x.loss, 2) || detail::meet(x.counts, x.experts, x.mean_score, x.experts) || detail::meet(x.counts, x.experts, x.gradient, x.experts))
        return {errc::aliased, "loss, mean_score and gradient must not overlap each other or counts"};
      return {};
    });
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args& x) {
    static_assert(explain_context<Context>());
    return x.tokens > 0 ? lay_out(x, nullptr).bytes : 0;
  }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    static_assert(explain_context<Context>());
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    using selected = typename selector_of<Context, default_tuning<Options::experts>>::type;
    if constexpr (runs_here<Context>) {
      const plan p = lay_out(x, memory.data);
      return first_of([&] { return launch<mean_kernel<selected>>(base_of(context), {x.logits, x.tokens, x.experts, x.scorer, p.sums, p.squares}); },
                      [&] { return launch<loss_kernel>(base_of(context), {p.sums, p.squares, p.chunks, x.tokens, x.experts, x.choices, x.counts, x.coefficient, x.z_coefficient, x.mean_score, x.gradient, x.loss}); });
    } else {
      return {};
    }
  }

  // ---- what a launch names: not for callers
  template <class Selected> struct mean_kernel {
    using arguments = typename problem::arguments;
    template <target T> using agent = mean_agent<Selected{}(T), problem>;
  };
  struct loss_kernel {
    using arguments = loss_arguments<Options::experts>;
    template <target> using agent = loss_agent<Options::experts>;
  };

private:
  struct plan {
    int chunks;
    float *sums, *squares;
    std::size_t bytes;
  };
  static plan lay_out(const args& x, std::byte* base) {
    carver c{base};
    plan p{.chunks = ceil_div(x.tokens, tokens_of_sum), .sums = nullptr, .squares = nullptr, .bytes = 0};
    p.sums = c.take<float>(std::size_t(p.chunks) * Options::experts);
    p.squares = c.take<float>(std::size_t(p.chunks) * 16);
    p.bytes = c.used;
    return p;
  }
};

//! bias[e] = controller.next(bias[e], counts[e], mean, e): once a step, outside the gradient. The bias is float.
//! @post gpu_to_gpu for counts below 2^24
template <class Controller> struct balance_bias {
  static constexpr determinism level = determinism::run_to_run;
  struct args {
    Controller controller = {};
    const std::int32_t* counts = nullptr;        //!< [experts] index's demand
    float* bias = nullptr;                       //!< [experts]
    int experts = 0;
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    return first_of([&] { return check_context(context); }, [&]() -> status {
      if (x.experts < 1) return {errc::bad_shape, "experts must be at least 1", x.experts, 1};
      if (x.counts == nullptr) return {errc::null_pointer, "counts is null: it needs an element for each expert", 0, x.experts};
      if (x.bias == nullptr) return {errc::null_pointer, "bias is null: it needs an element for each expert", 0, x.experts};
      if (detail::meet(x.counts, x.experts, x.bias, x.experts)) return {errc::aliased, "bias must not overlap counts"};
      return {};
    }, [&] { return detail::check_policy(x.controller, {0, x.experts, 0}); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) {
    static_assert(explain_context<Context>());
    return 0;
  }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    static_assert(explain_context<Context>());
    if (const status bad = check(context, x); !bad) return bad;
    if constexpr (runs_here<Context>) return launch<kernel>(base_of(context), {x.controller, x.counts, x.bias, x.experts});
    else return {};
  }
  struct kernel {
    using arguments = controller_arguments<Controller>;
    template <target> using agent = controller_agent<Controller>;
  };
};
using sign_bias = balance_bias<policy::sign_controller>;
using pid_bias = balance_bias<policy::pid_controller>;

//! The tokens by falling importance, equal ones in their order: index's token_order for policy::slot_order::prioritized.
//! keys: the router's importance; values_out: the order. A stable sort (prim::sort_by_key), with its workspace.
using prioritize = prim::sort_by_key<float, prim::direction::descending>;

}  // namespace smalti::inline SMALTI_CODE::route
