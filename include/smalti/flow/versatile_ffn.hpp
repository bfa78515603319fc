// One feed-forward layer used wide and deep: as experts that are slices of it, and several times in a row. docs/ops/moe.md.
#pragma once
#include <cstddef>
#include <smalti/flow/in_steps.hpp>
#include <smalti/flow/moe.hpp>
#include <smalti/ops/gemm/grouped.hpp>

namespace smalti::inline SMALTI_CODE::moe {

//! y[t] = share[t] wide(x[t]) + w[t] F(F(... x[t])),  F(v) = down (f(gate v) (up v)), as many times as token t loops:
//!     wide   the layer's hidden units as experts() equal blocks, virtual experts, of which routing chose some
//!     deep   an index of one choice a token: expert most - loops of the token, most = experts() being the most loops; its weights are w.
//!            Tokens that loop longest have the first rows, so that each turn works on fewer rows and nothing is moved between turns
//! Weights are those of the one layer throughout; an index without experts leaves its half out (wide: all rows 0).
//!
//! @tparam X  of x and the weights: bf16, fp16 or float; Y  of y: float, bf16 or fp16
//! @pre   as scatter_moe; the virtual experts divide I, and their blocks are whole multiples of 16 bytes
//! @post  same bits on every run; a token's bits do not depend on how the others are ordered among those of its loops
//! @note  cost: 6 H I operations a token and turn, and of the wide half those of its experts. Values are rounded to X after each turn
//! Source: VersatileFFN, adaptive wide-and-deep reuse of one feed-forward layer.
template <class X, class Activation = policy::silu, class Y = X> struct versatile_ffn : flow::in_steps<versatile_ffn<X, Activation, Y>> {
  using wide_op = scatter_moe<dense_experts<X>, Activation, float>;
  using dispatch_op = dispatch<X>;
  using in_op = gemm::grouped<X, X, X, policy::chain<policy::gated<Activation>>>;
  using out_op = gemm::grouped<X, X, X>;
  using combine_op = combine<X, Y, float>;

  struct args {
    view<const X> x = {};                             //!< tokens x H
    view<const X> gate = {}, up = {}, down = {};      //!< I x H, I x H, H x I
    policy::route_index wide = {}, deep = {};
    const float* share = nullptr;                     //!< [tokens] of the wide half; null: 1
    const std::int32_t* bounds = nullptr;             //!< {0, deep.row_limit}, where the work runs
    view<Y> y = {};                                   //!< tokens x H
    Activation activation = {};
  };

  template <class Context> static status refuse(const Context&, const args& x) { return check_index<is_host<Context>>(x.deep, x.x.rows); }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    const int tokens = x.x.rows, width = x.x.cols, inner = x.gate.rows, parts = x.wide.experts(), rows = x.deep.row_limit;
    if (x.deep.experts() < 1) return {errc::bad_shape, "deep needs an expert for each number of loops: a layer that never loops is scatter_moe over slices", x.deep.experts(), 1};
    if (parts > 0 && inner % parts != 0) return {errc::bad_shape, "wide: the virtual experts must divide the hidden units", inner, parts};
    if (x.bounds == nullptr) return {errc::null_pointer, "bounds is null: it needs the two numbers 0 and deep.row_limit", 0, 2};
    if (x.deep.choices != 1) return {errc::bad_shape, "deep: a token has one number of loops", x.deep.choices, 1};
    if (bytes_of(x.y).meets(bytes_of(x.x))) return {errc::aliased, "y must not overlap x: the layer reads x to its end"};
    const view<float> wide = detail::carved<float>(carve, parts > 0 ? tokens : 0, width);
    const view<X> state = detail::carved<X>(carve, rows, width), hidden = detail::carved<X>(carve, rows, inner);

    const auto turn = [&](int n) {
      const std::int32_t* const end = x.deep.rows.offsets + (x.deep.experts() - n);      // rows of the tokens that loop more than n times
      typename in_op::args in{};
      in.a = reading(state), in.b = row_slices(x.gate, 1), in.up = row_slices(x.up, 1), in.c = hidden, in.rows = {x.bounds, 1}, in.end = end, in.epilogue = {{x.activation}, {}};
      typename out_op::args out{};
      out.a = reading(hidden), out.b = row_slices(x.down, 1), out.c = state, out.rows = {x.bounds, 1}, out.end = end;
      return first_of([&] { return step(in_op{}, in); }, [&] { return step(out_op{}, out); });
    };
    return first_of([&] {
                      if (parts == 0) return status{};
                      return step(wide_op{}, typename wide_op::args{.x = x.x, .index = x.wide, .gate = row_slices(x.gate, parts), .up = row_slices(x.up, parts), .down = column_slices(x.down, parts), .y = wide, .activation = x.activation});
                    },
                    [&] { return step(dispatch_op{}, typename dispatch_op::args{x.x, x.deep, state}); },
                    [&] {
                      for (int n = 0; n < x.deep.experts(); ++n)
                        if (const status bad = turn(n); !bad) return bad;
                      return status{};
                    },
                    [&] { return step(combine_op{}, typename combine_op::args{.x = reading(state), .index = x.deep, .y = x.y, .same = parts > 0 ? reading(wide) : view<const float>{}, .share = parts > 0 ? x.share : nullptr}); });
  }
};

}  // namespace smalti::inline SMALTI_CODE::moe
