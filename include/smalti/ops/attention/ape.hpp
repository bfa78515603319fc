// Adaptive parallel encoding: attention to contexts that were encoded apart. docs/ops/attention/ape.md.
#pragma once
#include <smalti/ops/attention.hpp>
#include <smalti/ops/attention/merge.hpp>
#include <smalti/ops/attention/partials.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Attention of queries to contexts C, each encoded alone with the same positions, and to the rest R (a common prefix and the
//! queries' own text):
//!     w_j ~ e^(s_j / temperature) (sum over C of e^(s / temperature))^(power temperature - 1)   for j in C
//!     w_j ~ e^(s_j)                                                                               for j in R, causally
//! The exponent applies once, to all contexts together: they are one range of keys, in any order. temperature = power = 1 is
//! attention to both. The defaults are the authors'.
//! @pre  keys of contexts carry positions that begin where the prefix ends; queries go on after the longest context
//! @note cost: attention to C and to R in float, and a merge. workspace: two partial results
//! Source: Yang et al. 2025, APE, arXiv:2502.05431.
template <class T, int D, class Kv = dense_kv<T>, class Options = options>
struct ape {
  struct context_options : partial_options<Options> { using normalizer = policy::softmax_with_power; };
  using contexts_op = flash<T, D, Kv, policy::full, context_options>;
  using rest_op = flash<T, D, Kv, policy::causal, partial_options<Options>>;
  using out = std::conditional_t<std::is_void_v<typename Options::out>, T, typename Options::out>;
  using merge = attention::merge<float, out>;
  static constexpr int value_dim = rest_op::value_dim;
  struct args {
    head_rows<const T> q = {};
    Kv contexts = {}, rest = {};
    head_rows<out> o = {};
    head_rows<float> lse = {};
    float scale = 0;                              //!< 0 takes 1 / sqrt(D)
    float temperature = 0.9f, power = 0.9f;       //!< of the contexts: T and S of the paper
  };
  template <class Context> static status check(const Context& context, const args& x) {
    if (!(x.temperature > 0)) return {errc::bad_value, "temperature must be positive"};
    if (!(x.power > 0)) return {errc::bad_value, "power must be positive"};
    // Where partial results will lie is not known yet: o's rows stand for them.
    const plan p = lay_out(context, x, nullptr);
    return first_of([&] { return contexts_op::check(context, contexts_of(x, p, true)); }, [&] { return rest_op::check(context, rest_of(x, p, true)); },
                    [&] { return detail::check_rows<"o", step_of<out>>(x.o, value_dim); }, [&] { return detail::check_same_rows<"o", "q">(x.o, x.q); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) { return lay_out(context, x, nullptr).bytes; }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    const plan p = lay_out(context, x, memory.data);
    if (const status bad = contexts_op::run(context, contexts_of(x, p, false), p.rest); !bad) return bad;
    if (const status bad = rest_op::run(context, rest_of(x, p, false), p.rest); !bad) return bad;
    return merge::run(context, {.o = read_only(p.parts.o_of(x.q, value_dim, 0)), .lse = read_only(p.parts.lse_of(x.q, 0)), .o_distance = p.parts.o_distance,
                                .lse_distance = p.parts.lse_distance, .parts = 2, .result = x.o, .result_lse = x.lse});
  }

private:
  struct plan {
    partial_results parts;
    workspace rest;
    std::size_t bytes;
  };
  static float scale_of(const args& x) { return x.scale > 0 ? x.scale : 1.0f / __builtin_sqrtf(float(D)); }
  // For a check before there is memory: the lse is left out, and o gets an address that nothing else has.
  static head_rows<float> place(const args& x, const plan& p, int part, bool only_checked) {
    head_rows<float> o = p.parts.o_of(x.q, value_dim, part);
    if (only_checked) o.data = reinterpret_cast<float*>(carver::alignment);
    return o;
  }
  static typename contexts_op::args contexts_of(const args& x, const plan& p, bool only_checked) {
    typename contexts_op::args a{.q = x.q, .kv = x.contexts, .o = place(x, p, 0, only_checked), .scale = scale_of(x) / x.temperature};
    if (!only_checked) a.lse = p.parts.lse_of(x.q, 0);
    a.weights.power = x.power * x.temperature;
    return a;
  }
  static typename rest_op::args rest_of(const args& x, const plan& p, bool only_checked) {
    typename rest_op::args a{.q = x.q, .kv = x.rest, .o = place(x, p, 1, only_checked), .scale = scale_of(x)};
    if (!only_checked) a.lse = p.parts.lse_of(x.q, 1);
    return a;
  }
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    carver carve{base};
    plan p{};
    p.parts = partial_results::take(carve, x.q, value_dim, 2);
    p.rest = carve.take_shared({contexts_op::workspace_bytes(context, contexts_of(x, p, true)), rest_op::workspace_bytes(context, rest_of(x, p, true))});
    p.bytes = carve.used;
    return p;
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
