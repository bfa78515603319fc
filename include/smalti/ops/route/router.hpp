// The router: from logits to experts and weights, and the gradient of the weights.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/route/gradient.hpp>
#include <smalti/block/route/select.hpp>
#include <smalti/core/check_view.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/policy/route/scorer.hpp>
#include <smalti/policy/route/selection_bias.hpp>
#include <smalti/policy/route/selector.hpp>
#include <smalti/policy/route/weight_norm.hpp>
#include <smalti/tile/launch.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in router.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent                         sm_80  sm_89  sm_90  sm_100  sm_120  tried
// route, 8 experts              16     16     16     16      16      10
// route, 256 experts in groups  8      8      8      8       8       10
// route, 1024 experts           4      4      4      4       4       10
// route, gradient of weights    8      8      8      8       8       10
// swept: end

namespace smalti::inline SMALTI_CODE::route {

//! What a router may be told besides its policies. Derive, and change what you need:
//!     struct many : route::options { static constexpr int experts = 1024; };
struct options {
  static constexpr int experts = 256;          //!< at most, the width of a tile: a power of two from 16 to 1024. Fewer cost as many
  static constexpr int choices = 16;           //!< at most: a power of two from 16 to 128
  using logit = float;                         //!< float, bf16 or fp16; everything behind it is float
};

//! Tokens of a block. A processor's tile holds a few rows in its first-level cache; a GPU's, a few thousand logits.
template <int Experts> struct default_tuning {
  SMALTI_HD constexpr route_tuning operator()(target t) const { return {.m = t == target::host ? 4 : Experts >= 1024 ? 4 : Experts >= 256 ? 8 : 16}; }
};

namespace detail {
constexpr bool power_of_two(int n) { return n > 0 && (n & (n - 1)) == 0; }
template <class Policy> status check_policy(const Policy& p, const policy::route_extent& e) {
  if constexpr (requires { p.check(e); }) return p.check(e);
  else return {};
}
template <class Norm> Norm norm_for(const Norm& n, int choices) {
  if constexpr (requires { n.for_choices(choices); }) return n.for_choices(choices);
  else return n;
}
template <class A, class B> bool meet(const A* a, long long n, const B* b, long long k) {
  if (a == nullptr || b == nullptr) return false;
  return byte_range{reinterpret_cast<const char*>(a), reinterpret_cast<const char*>(a + n)}.meets({reinterpret_cast<const char*>(b), reinterpret_cast<const char*>(b + k)});
}
}  // namespace detail

//! One sentence for each thing a routing policy lacks.
template <class Scorer, class Bias, class Selector, class Norm> consteval bool explain_routing_policies() {
  static_assert(std::is_aggregate_v<Scorer> && std::is_aggregate_v<Bias> && std::is_aggregate_v<Selector> && std::is_aggregate_v<Norm>,
                "smalti: a routing policy is copied to the GPU member by member, so it must be an aggregate");
  static_assert(requires { Scorer::over_all; Scorer::reads_logits; Scorer::reads_place; },
                "smalti: a scorer needs  static constexpr bool over_all, reads_logits, reads_place  (policy/route/scorer.hpp)");
  static_assert(requires { Bias::active; Bias::reads_row; Bias::reads_place; },
                "smalti: a selection bias needs  static constexpr bool active, reads_row, reads_place  (policy/route/selection_bias.hpp)");
  static_assert(requires { Selector::groups; Selector::given; Selector::stops; },
                "smalti: a selector needs  static constexpr bool groups, given, stops  (policy/route/selector.hpp)");
  static_assert(requires { Norm::from_greatest; Norm::divides; },
                "smalti: a weight norm needs  static constexpr bool from_greatest, divides  (policy/route/weight_norm.hpp)");
  return true;
}

//! Experts and weights of each token, from its logits z:
//!     s = Scorer(z),   key = Bias(s, z),   C = Selector(key),   w_j = scale Norm(s_C)_j
//! ids[t, j] = C_j, best first; weights[t, j] = w_j. A choice that a selector leaves out is -1 with weight 0. A bias selects and never weighs.
//!
//! @tparam Scorer    policy/route/scorer.hpp: softmax, sigmoid, cosine with temperature, square root of softplus, hash, task logits, the logit
//! @tparam Bias      policy/route/selection_bias.hpp: none, a bias an expert, Gaussian or Gumbel noise
//! @tparam Selector  policy/route/selector.hpp: top k, group-limited, top p, fixed, given
//! @tparam Norm      policy/route/weight_norm.hpp
//! @pre    1 <= experts <= Options::experts, 0 <= choices <= Options::choices, choices <= experts; outputs overlap nothing
//! @post   NaN and -infinity count as -2^100, +infinity as 2^100: every row selects `choices` different experts
//! @post   run to run, and batch invariant: a token's bits do not depend on the others. Without a bias, from equal logits, the same
//!         experts on every machine; the weights to a few units in the last place
//! @note   cost: about six passes for each choice over a row of Options::experts in the first-level cache, and twelve for each group of
//!         group-limited selection. No workspace
//! @note   error of a weight: softmax over E scores (E / 16 + 12) 2^-24 relative, sigmoid 8 2^-24, a norm over k scores (k + 4) 2^-24 more
//!
//! Sources: Shazeer et al. 2017, arXiv:1701.06538; for each policy, beside it.
template <class Scorer = policy::softmax_scorer, class Bias = policy::no_bias, class Selector = policy::top_k, class Norm = policy::no_norm, class Options = options>
struct router {
  static_assert(std::is_same_v<typename Options::logit, float> || std::is_same_v<typename Options::logit, bf16> || std::is_same_v<typename Options::logit, fp16>,
                "smalti: a router reads logits of float, bf16 or fp16: convert them");
  static_assert(detail::power_of_two(Options::experts) && Options::experts >= 16 && Options::experts <= 1024,
                "smalti: route::options::experts is a power of two from 16 to 1024: the least that is not below your experts");
  static_assert(detail::power_of_two(Options::choices) && Options::choices >= 16 && Options::choices <= 128,
                "smalti: route::options::choices is a power of two from 16 to 128: the least that is not below your choices");
  static_assert(explain_routing_policies<Scorer, Bias, Selector, Norm>());
  static constexpr determinism level = determinism::run_to_run;
  using logit = typename Options::logit;
  using problem = route_problem<logit, Scorer, Bias, Selector, Norm, Options::experts, Options::choices>;

  struct args {
    view<const logit, 1> logits = {};            //!< tokens x experts; with a task scorer tasks x experts; no data where no logit is read
    int tokens = 0, experts = 0, choices = 0;
    Scorer scorer = {};
    Bias bias = {};
    Selector selector = {};
    Norm norm = {};
    float scale = 1;                             //!< of all weights (route_scale)
    std::int32_t* ids = nullptr;                 //!< [tokens][choices]
    float* weights = nullptr;                    //!< [tokens][choices]
    float* importance = nullptr;                 //!< [tokens] the greatest score: what batch prioritised capacity sorts by; null: not wanted
    float* identity_weight = nullptr;            //!< [tokens] what the experts from `computed` on weigh: their sum times x is theirs; null: not wanted
    int computed = 0;                            //!< experts with weights of their own, for identity_weight
  };

  //! Everything that can be said before a launch. Reads no data.
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    return first_of([&] { return check_context(context); }, [&] { return check_shapes(x); }, [&] { return check_policies(x); }, [&] { return check_outputs(x); });
  }

  //! None is needed.
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) {
    static_assert(explain_context<Context>());
    return 0;
  }

  //! Routes. On a GPU it only launches on the context's stream.
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    static_assert(explain_context<Context>());
    if (const status bad = check(context, x); !bad) return bad;
    if (x.tokens == 0 || x.choices == 0) return {};
    using selected = typename selector_of<Context, default_tuning<Options::experts>>::type;
    if constexpr (runs_here<Context>)
      return launch<kernel<selected>>(base_of(context), {.logits = x.logits, .tokens = x.tokens, .experts = x.experts, .choices = x.choices, .scorer = x.scorer, .bias = x.bias,
                                                         .selector = x.selector, .norm = detail::norm_for(x.norm, x.choices), .scale = x.scale,
                                                         .ids = {x.ids, x.tokens, x.choices, x.choices}, .weights = {x.weights, x.tokens, x.choices, x.choices},
                                                         .importance = x.importance, .identity_weight = x.identity_weight, .computed = x.computed});
    else return {};
  }

  // ---- what a launch names: not for callers
  template <class Selected> struct kernel {
    using arguments = typename problem::arguments;
    template <target T> using agent = route_agent<Selected{}(T), problem>;
  };

  //! What run refuses of the logits and the numbers: also asked by the gradient.
  static status check_shapes(const args& x) {
    if (x.tokens < 0) return {errc::bad_shape, "tokens must not be negative", x.tokens, 0};
    if (x.experts < 1) return {errc::bad_shape, "experts must be at least 1", x.experts, 1};
    if (x.experts > Options::experts) return {errc::bad_shape, "experts must be at most route::options::experts: derive options with a greater number", x.experts, Options::experts};
    if (x.choices < 0) return {errc::bad_value, "choices must not be negative", x.choices, 0};
    if (x.choices > Options::choices) return {errc::bad_value, "choices must be at most route::options::choices: derive options with a greater number", x.choices, Options::choices};
    if (std::int64_t(x.tokens) * x.choices > 2147483647) return {errc::out_of_reach, "tokens times choices must be below 2^31: slots are 32 bits", std::int64_t(x.tokens) * x.choices, 2147483647};
    if constexpr (Scorer::reads_logits) {
      if (const status bad = check_view<"logits">(x.logits); !bad) return bad;
      if (x.tokens > 0 && x.logits.cols != x.experts) return {errc::bad_shape, "logits must have a column for each expert", x.logits.cols, x.experts};
      if constexpr (policy::maps_rows<Scorer>) {
        if (x.tokens > 0 && x.logits.rows < 1) return {errc::bad_shape, "logits must have a row for each task", x.logits.rows, 1};
      } else if (x.logits.rows != x.tokens) {
        return {errc::bad_shape, "logits must have a row for each token", x.logits.rows, x.tokens};
      }
    }
    if (!(x.scale > -0x1p100f && x.scale < 0x1p100f)) return {errc::bad_value, "scale must be a finite number"};
    return {};
  }

private:
  static status check_policies(const args& x) {
    const policy::route_extent e{x.tokens, x.experts, x.choices};
    return first_of([&] { return detail::check_policy(x.scorer, e); }, [&] { return detail::check_policy(x.bias, e); },
                    [&] { return detail::check_policy(x.selector, e); }, [&] { return detail::check_policy(x.norm, e); });
  }
  static status check_outputs(const args& x) {
    const long long slots = static_cast<long long>(x.tokens) * x.choices;
    if (slots == 0) return {};
    if (x.ids == nullptr) return {errc::null_pointer, "ids is null: it needs tokens times choices elements", 0, slots};
    if (x.weights == nullptr) return {errc::null_pointer, "weights is null: it needs tokens times choices elements", 0, slots};
    if (x.identity_weight != nullptr && (x.computed < 0 || x.computed > x.experts)) return {errc::bad_value, "computed must be between 0 and experts", x.computed, x.experts};
    if (detail::meet(x.ids, slots, x.weights, slots) || detail::meet(x.ids, slots, x.importance, x.tokens) || detail::meet(x.weights, slots, x.importance, x.tokens) ||
        detail::meet(x.ids, slots, x.identity_weight, x.tokens) || detail::meet(x.weights, slots, x.identity_weight, x.tokens) ||
        detail::meet(x.importance, x.tokens, x.identity_weight, x.tokens))
      return {errc::aliased, "ids, weights, importance and identity_weight must not overlap each other"};
    if constexpr (Scorer::reads_logits) {
      const byte_range in = bytes_of(x.logits);
      const auto over = [&](const auto* p, long long n) { return p != nullptr && in.meets({reinterpret_cast<const char*>(p), reinterpret_cast<const char*>(p + n)}); };
      if (over(x.ids, slots) || over(x.weights, slots) || over(x.importance, x.tokens) || over(x.identity_weight, x.tokens))
        return {errc::aliased, "outputs must not overlap logits: other blocks read them"};
    }
    return {};
  }
};

//! The gradient of a router's weights: dz = d loss / d logits, from u = d loss / d weights, for the experts that were selected. The
//! selection and its bias have none. With `balance`, the row d loss / d scores of a balance loss is added for every token, and with
//! `z_loss` the gradient 2 z_loss lse(z) softmax(z) of z_loss lse(z)^2 (softmax scorers; both from route::balance_loss).
//!     softmax, then softmax_norm's or sum_norm's quotient:   dz_Cj = w_j (u_j - sum u w), 0 elsewhere
//!     softmax, no norm:                                      dz_i = p_i ([i = C_j] u_j - sum u_j p_Cj), all i
//!     sigmoid, sum_norm:                                     dz_Cj = (scale u_j - sum u w) / (sum s + eps) s (1 - s)
//! each by the norm's and the scorer's own rule. With a cosine scorer dz is that of the product P x . S_e, its norms held.
//!
//! @pre    ids are the router's for these logits (ids out of range and -1 have no part)
//! @post   run to run; batch invariant
//! @note   cost as the router's: a pass over a row for each choice, no selection
template <class Router> struct weight_gradient;
template <class Scorer, class Bias, class Selector, class Norm, class Options> struct weight_gradient<router<Scorer, Bias, Selector, Norm, Options>> {
  using forward = router<Scorer, Bias, Selector, Norm, Options>;
  static_assert(Scorer::reads_logits && !policy::maps_rows<Scorer>,
                "smalti: the gradient of a router needs logits of each token: hashed experts have none, those of task logits are sums over tokens");
  static constexpr determinism level = determinism::run_to_run;
  using logit = typename Options::logit;
  using problem = route_gradient_problem<logit, Scorer, Norm, Options::experts, Options::choices>;

  struct args {
    view<const logit, 1> logits = {};            //!< tokens x experts
    int tokens = 0, experts = 0, choices = 0;
    Scorer scorer = {};
    Norm norm = {};
    float scale = 1;
    const std::int32_t* ids = nullptr;           //!< [tokens][choices]
    const float* gradient = nullptr;             //!< [tokens][choices] u; null: 0, for the balance losses alone
    view<float, 1> result = {};                  //!< tokens x experts
    const float* balance = nullptr;              //!< [experts] added to d loss / d scores of every token; null: none
    float z_loss = 0;                            //!< its factor, divided by the tokens
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    typename forward::args f{.logits = x.logits, .tokens = x.tokens, .experts = x.experts, .choices = x.choices, .scorer = x.scorer, .norm = x.norm, .scale = x.scale};
    const policy::route_extent e{x.tokens, x.experts, x.choices};
    return first_of([&] { return check_context(context); }, [&] { return forward::check_shapes(f); }, [&] { return detail::check_policy(x.scorer, e); },
                    [&] { return detail::check_policy(x.norm, e); }, [&] { return check_rest(x); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) {
    static_assert(explain_context<Context>());
    return 0;
  }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    static_assert(explain_context<Context>());
    if (const status bad = check(context, x); !bad) return bad;
    if (x.tokens == 0) return {};
    using selected = typename selector_of<Context, default_tuning<Options::experts>>::type;
    if constexpr (runs_here<Context>)
      return launch<kernel<selected>>(base_of(context), {.logits = x.logits, .tokens = x.tokens, .experts = x.experts, .choices = x.choices, .scorer = x.scorer,
                                                         .norm = detail::norm_for(x.norm, x.choices), .scale = x.scale, .ids = x.ids, .gradient = x.gradient, .result = x.result,
                                                         .balance = x.balance, .z_loss = x.z_loss});
    else return {};
  }

  // ---- what a launch names: not for callers
  template <class Selected> struct kernel {
    using arguments = typename problem::arguments;
    template <target T> using agent = route_gradient_agent<Selected{}(T), problem>;
  };

private:
  static status check_rest(const args& x) {
    const long long slots = static_cast<long long>(x.tokens) * x.choices;
    if (const status bad = check_view<"result">(x.result); !bad) return bad;
    if (x.result.rows != x.tokens) return {errc::bad_shape, "result must have a row for each token", x.result.rows, x.tokens};
    if (x.tokens > 0 && x.result.cols != x.experts) return {errc::bad_shape, "result must have a column for each expert", x.result.cols, x.experts};
    if (x.gradient != nullptr && slots > 0 && x.ids == nullptr) return {errc::null_pointer, "ids is null: it needs tokens times choices elements", 0, slots};
    if (!Scorer::over_all && x.z_loss != 0) return {errc::bad_value, "z_loss needs a softmax scorer: it is the log of its sum"};
    const byte_range out = bytes_of(x.result);
    const auto over = [&](const auto* p, long long n) { return p != nullptr && out.meets({reinterpret_cast<const char*>(p), reinterpret_cast<const char*>(p + n)}); };
    if (out.meets(bytes_of(x.logits)) || over(x.ids, slots) || over(x.gradient, slots) || over(x.balance, x.experts))
      return {errc::aliased, "result must not overlap what is read"};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::route
