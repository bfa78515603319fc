// Experts with low-rank adapters of their own for each request: the update enters before the activation. docs/ops/lora/README.md.
#pragma once
#include <cstddef>
#include <smalti/flow/in_steps.hpp>
#include <smalti/flow/lora.hpp>
#include <smalti/flow/moe.hpp>

namespace smalti::inline SMALTI_CODE::moe {

//! The group of a slot whose token has adapter `adapter` (negative: none) and whose choice is `expert`: an expert's groups lie together.
SMALTI_HD constexpr int group_of_pair(int expert, int adapter, int adapters) { return expert * (adapters + 1) + (adapter < 0 ? 0 : adapter + 1); }
//! What a group multiplies with: the expert, and the pair's weights in the bank of adapters x experts, or -1.
SMALTI_HD constexpr int expert_of_group(int group, int adapters) { return group / (adapters + 1); }
SMALTI_HD constexpr int pair_of_group(int group, int adapters, int experts) { return group % (adapters + 1) == 0 ? -1 : (group % (adapters + 1) - 1) * experts + group / (adapters + 1); }

//! y[t] = sum over choices of w down'( f(gate' x[t]) (up' x[t]) ),  W' = W_e + scale B' A of the pair of expert and adapter, for each of gate,
//! up and down. The index counts groups, an expert with an adapter each (group_of_pair): route::index makes it of such ids.
//!
//! @tparam X  of x and the weights: bf16, fp16 or float; Y  of y
//! @pre   as scatter_moe and lora::sgmv; lists lie where the work runs
//! @post  same bits on every run; slots without an adapter have the bits of a batch without adapters of theirs (scatter_moe's up to one
//!        rounding: gate and up are added to as floats)
//! @note  cost: scatter_moe's, and 2 rank (H + I) operations three times a slot with an adapter
//! Sources: Hu et al. 2021, arXiv:2106.09685; Punica, arXiv:2310.18547; adapters of experts as serving systems have them.
template <class X, class Activation = policy::silu, class Y = X> struct adapted_experts : flow::in_steps<adapted_experts<X, Activation, Y>> {
  using pages = lora::adapters<X>;
  struct by_name : gemm::grouped_options { static constexpr bool named = true; };
  struct gathered : by_name { static constexpr bool gathers = true; };
  struct adding : by_name { static constexpr gemm::b_order b = gemm::b_order::k_by_n; static constexpr bool adds = true; };
  using in_op = gemm::grouped<X, X, float, policy::chain<>, gathered>;
  using out_op = gemm::grouped<X, X, float, policy::chain<>, by_name>;
  using shrink_in = gemm::grouped<X, X, float, policy::chain<>, gathered, gemm::paged_rows<X>>;
  using shrink_out = gemm::grouped<X, X, float, policy::chain<>, by_name, gemm::paged_rows<X>>;
  using expand = gemm::grouped<float, X, float, policy::chain<>, adding, gemm::paged_rows<X, true>>;
  using gate_op = moe::gate<float, X, Activation>;
  using combine_op = combine<float, Y, float>;

  struct args {
    view<const X> x = {};                      //!< tokens x H
    policy::route_index index = {};            //!< of groups
    const int* expert = nullptr;               //!< [groups]
    const int* pair = nullptr;                 //!< [groups] a weight of the adapters below, or negative
    stack<const X> gate = {}, up = {}, down = {};
    pages gate_update = {}, up_update = {}, down_update = {};
    view<Y> y = {};                            //!< tokens x H
    Activation activation = {};
  };

  template <class Context> static status refuse(const Context&, const args& x) { return check_index<is_host<Context>>(x.index, x.x.rows); }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    const int rows = x.index.row_limit, tokens = x.x.rows, inner = x.gate.rows, wide = x.x.cols;
    if (x.index.experts() > 0 && (x.expert == nullptr || x.pair == nullptr)) return {errc::null_pointer, x.expert == nullptr ? "expert is null: it needs an entry for each group" : "pair is null: it needs an entry for each group", 0, x.index.experts()};
    if (x.y.rows != tokens || x.y.cols != wide) return {errc::bad_shape, "y needs the extents of x", x.y.rows, tokens};
    int most = 16;
    for (const pages* u : {&x.gate_update, &x.up_update, &x.down_update}) most = round_up(u->a.most, 16) > most ? round_up(u->a.most, 16) : most;
    const view<float> gate = detail::carved<float>(carve, rows, inner), up = detail::carved<float>(carve, rows, inner), values = detail::carved<float>(carve, rows, most), made = detail::carved<float>(carve, rows, wide);
    const view<X> hidden = detail::carved<X>(carve, rows, inner);

    const auto place = [&](auto a) {
      a.rows = x.index.rows, a.end = x.index.end;
      if constexpr (requires { a.source.data; }) a.source = {x.index.token_of_row, rows, 1, 1};
      return a;
    };
    const auto project = [&](const auto& base, const auto& shrink, const view<const X>& from, const stack<const X>& w, const pages& u, const view<float>& to) {
      auto b = place(typename std::remove_cvref_t<decltype(base)>::args{});
      b.a = from, b.b = w, b.c = to, b.weight = x.expert;
      auto s = place(typename std::remove_cvref_t<decltype(shrink)>::args{});
      s.a = from, s.b = u.a, s.c = values, s.weight = x.pair;
      auto e = place(typename expand::args{});
      e.a = reading(values), e.b = u.b, e.c = to, e.weight = x.pair;
      return first_of([&] { return step(base, b); }, [&] { return u.a.most > 0 ? step(shrink, s) : status{}; }, [&] { return u.a.most > 0 ? step(expand{}, e) : status{}; });
    };
    return first_of([&] { return project(in_op{}, shrink_in{}, x.x, x.gate, x.gate_update, gate); },
                    [&] { return project(in_op{}, shrink_in{}, x.x, x.up, x.up_update, up); }, [&] { return step(gate_op{}, typename gate_op::args{reading(gate), reading(up), hidden, x.activation}); },
                    [&] { return project(out_op{}, shrink_out{}, reading(hidden), x.down, x.down_update, made); },
                    [&] { return step(combine_op{}, typename combine_op::args{.x = reading(made), .index = x.index, .y = x.y}); });
  }
};

}  // namespace smalti::inline SMALTI_CODE::moe
