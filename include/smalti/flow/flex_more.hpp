// Experts that are low-rank updates, each of its own rank, of one shared layer. docs/ops/moe.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/flow/in_steps.hpp>
#include <smalti/flow/lora.hpp>
#include <smalti/flow/moe.hpp>
#include <smalti/ops/gemm.hpp>
#include <smalti/ops/gemm/grouped.hpp>

namespace smalti::inline SMALTI_CODE::moe {

//! Experts e with weights W + scale[e] B_e' A_e for each of gate, up and down:
//!     y[t] = sum over choices of w down_e( f(gate_e x[t]) (up_e x[t]) )
//! The shared parts of gate and up are multiplied once a token, not once a choice; that of down once a token too, with the sum of
//! w h over its choices, since it is linear. The updates are grouped products over paged rows; an expert of rank 0 is the shared layer.
//!
//! @tparam X  of x and the weights: bf16, fp16 or float; Y  of y: float, bf16 or fp16
//! @pre   as scatter_moe and lora::sgmv
//! @post  same bits on every run
//! @note  cost: 6 H I operations a token for what is shared, 6 rank (H + I) a slot. Full-rank experts are dense_experts: cheaper
//!        from a rank of H I / (H + I) up
//! Source: FlexMoRE, a flexible mixture of rank-heterogeneous experts.
template <class X, class Activation = policy::silu, class Y = X> struct flex_more : flow::in_steps<flex_more<X, Activation, Y>> {
  using pages = lora::adapters<X>;
  struct narrow_gathered : gemm::grouped_options { static constexpr bool gathers = true; };
  struct wide : gemm::grouped_options { static constexpr gemm::b_order b = gemm::b_order::k_by_n; };
  struct wide_adding : wide { static constexpr bool adds = true; };
  using base_op = gemm::dense<X, X, float>;
  using shrink_in = gemm::grouped<X, X, float, policy::chain<>, narrow_gathered, gemm::paged_rows<X>>;
  using shrink_out = gemm::grouped<X, X, float, policy::chain<>, gemm::grouped_options, gemm::paged_rows<X>>;
  using expand_in = gemm::grouped<float, X, float, policy::chain<>, wide_adding, gemm::paged_rows<X, true>>;
  using expand_out = gemm::grouped<float, X, float, policy::chain<>, wide, gemm::paged_rows<X, true>>;
  using spread_op = dispatch<float>;
  using gate_op = gate<float, X, Activation>;
  using gather_op = combine<X, X>;
  using combine_op = combine<float, Y, float>;

  struct args {
    view<const X> x = {};                      //!< tokens x H
    policy::route_index index = {};
    view<const X> gate = {}, up = {}, down = {};      //!< shared: I x H, I x H, H x I
    pages gate_update = {}, up_update = {}, down_update = {};      //!< of each expert: gate and up from H to I, down from I to H
    view<Y> y = {};                            //!< tokens x H
    Activation activation = {};
  };

  template <class Context> static status refuse(const Context&, const args& x) { return check_index<is_host<Context>>(x.index, x.x.rows); }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    struct {
      view<float> shared, gate, up, values, made, base;
      view<X> hidden, sum;
    } p{};
    const int rows = x.index.row_limit, tokens = x.x.rows, inner = x.gate.rows, wide = x.x.cols;
    const auto rank = [](const pages& u) { return round_up(u.a.most, 16); };
    const int most = rank(x.gate_update) > rank(x.up_update) ? rank(x.gate_update) : rank(x.up_update), ranks = most > rank(x.down_update) ? most : rank(x.down_update);
    p.shared = detail::carved<float>(carve, tokens, inner), p.gate = detail::carved<float>(carve, rows, inner), p.up = detail::carved<float>(carve, rows, inner);
    p.values = detail::carved<float>(carve, rows, ranks > 0 ? ranks : 16), p.made = detail::carved<float>(carve, rows, wide), p.base = detail::carved<float>(carve, tokens, wide);
    p.hidden = detail::carved<X>(carve, rows, inner), p.sum = detail::carved<X>(carve, tokens, inner);

    const auto shared = [&](const view<const X>& from, const view<const X>& w, const view<float>& to) {
      typename base_op::args a{};
      a.a = from, a.b = w, a.c = to;
      return step(base_op{}, a);
    };
    const auto update = [&](const auto& shrink, const auto& expand, const view<const X>& from, const pages& u, const view<float>& to) {
      typename std::remove_cvref_t<decltype(shrink)>::args s{};
      s.a = from, s.b = u.a, s.c = p.values, s.rows = x.index.rows, s.end = x.index.end;
      if constexpr (requires { s.source.data; }) s.source = {x.index.token_of_row, rows, 1, 1};
      typename std::remove_cvref_t<decltype(expand)>::args e{};
      e.a = reading(p.values), e.b = u.b, e.c = to, e.rows = x.index.rows, e.end = x.index.end;
      return first_of([&] { return step(shrink, s); }, [&] { return step(expand, e); });
    };
    const auto project = [&](const view<const X>& w, const pages& u, const view<float>& to) {
      return first_of([&] { return shared(x.x, w, p.shared); }, [&] { return step(spread_op{}, typename spread_op::args{reading(p.shared), x.index, to}); }, [&] { return update(shrink_in{}, expand_in{}, x.x, u, to); });
    };
    return first_of([&] { return project(x.gate, x.gate_update, p.gate); }, [&] { return project(x.up, x.up_update, p.up); },
                    [&] { return step(gate_op{}, typename gate_op::args{reading(p.gate), reading(p.up), p.hidden, x.activation}); },
                    [&] { return step(gather_op{}, typename gather_op::args{.x = reading(p.hidden), .index = x.index, .y = p.sum}); }, [&] { return shared(reading(p.sum), x.down, p.base); },
                    [&] { return update(shrink_out{}, expand_out{}, reading(p.hidden), x.down_update, p.made); },
                    [&] { return step(combine_op{}, typename combine_op::args{.x = reading(p.made), .index = x.index, .y = x.y, .same = reading(p.base)}); });
  }
};

}  // namespace smalti::inline SMALTI_CODE::moe
