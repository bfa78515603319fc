// Gradients of experts with low-rank updates - flex_more, adapted_experts - and of versatile_ffn. Values between the products are computed again:
// nothing of the forward pass is kept but x and the index. docs/ops/moe.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/lora/count.hpp>
#include <smalti/flow/adapted_experts.hpp>
#include <smalti/flow/flex_more.hpp>
#include <smalti/flow/in_steps.hpp>
#include <smalti/flow/lora.hpp>
#include <smalti/flow/moe.hpp>
#include <smalti/flow/stem_backward.hpp>
#include <smalti/ops/gemm.hpp>
#include <smalti/ops/gemm/grouped.hpp>
#include <smalti/ops/moe/sum_by_id.hpp>
#include <smalti/prim/permute.hpp>

namespace smalti::inline SMALTI_CODE::moe {

//! The low-rank updates of one projection, and their gradients for each group of the index: da most x (inputs), db most x (outputs), most
//! rounded up to 16. Null: frozen.
template <class X> struct trained_update {
  lora::adapters<X> weights = {};
  stack<float> da = {}, db = {};
};

namespace detail {
template <bool Host, class X> status check_update(const trained_update<X>& u, int groups, int from, int to) {
  const auto& a = u.weights.a;
  const auto& b = u.weights.b;
  if (const status bad = first_of([&] { return gemm::detail::check_pages<Host>(a, 1); }, [&] { return gemm::detail::check_pages<Host>(b, 1); }, [&] { return lora::detail::check_ranks(a, b, Host); }); !bad) return bad;
  if (a.weights > 0 && a.pool.cols * a.shards != from) return {errc::bad_shape, "update.a: its rows need as many columns as the projection has inputs", a.pool.cols, from};
  if (b.weights > 0 && b.pool.cols * b.shards != to) return {errc::bad_shape, "update.b: its rows need as many columns as the projection has outputs", b.pool.cols, to};
  const int most = round_up(a.most, 16);
  if (u.da.data != nullptr && (u.da.count < groups || u.da.rows != most || u.da.cols != from)) return {errc::bad_shape, "da needs a matrix for each group, of the largest rank rounded up to 16 by the inputs", u.da.rows, most};
  if (u.db.data != nullptr && (u.db.count < groups || u.db.rows != most || u.db.cols != to)) return {errc::bad_shape, "db needs a matrix for each group, of the largest rank rounded up to 16 by the outputs", u.db.rows, most};
  return {};
}

// What both kinds of layers do: the updates of gate and up, computed again, onto what their bases made; the gradient of h; the gradients of the
// updates; and what the updates give the rows of dx. `Base` says what is not an update:
//     forward(step, which, to)       to = the base's gate (0) or up (1) of every row
//     through(step, to)              to = d_out down
//     backward(step, which, from)    what d_gate or d_up give the base, and dx
//     last(step)                     after hidden and all else is made
template <class X, class Activation> struct updated {
  using forward_op = lora::sgmv<X, X, float>;
  using backward_op = lora::sgmv_backward<X, X, float>;
  using gradient_op = gated_gradient<X, float, Activation, row_options, float>;
  struct values {
    view<X> x, d_out, d_gate, d_up, hidden;
    view<float> gate, up, dh, dx;
  };
  static values lay_out(carver& carve, int rows, int wide, int inner) {
    return {.x = carved<X>(carve, rows, wide), .d_out = carved<X>(carve, rows, wide), .d_gate = carved<X>(carve, rows, inner), .d_up = carved<X>(carve, rows, inner), .hidden = carved<X>(carve, rows, inner),
            .gate = carved<float>(carve, rows, inner), .up = carved<float>(carve, rows, inner), .dh = carved<float>(carve, rows, inner), .dx = carved<float>(carve, rows, wide)};
  }
  // `adapter`: which update a group has, or none. Lists that steps before have made: nothing is checked until then
  template <class Args, class Base, class Step> static status steps(const Args& x, const values& p, const int* adapter, const Base& base, Step step) {
    const auto add = [&](const view<X>& from, const trained_update<X>& u, const view<float>& to) {
      if (u.weights.a.most == 0) return status{};
      return step(flow::later<forward_op>{}, typename forward_op::args{.x = reading(from), .rows = x.index.rows, .adapter = adapter, .weights = u.weights, .y = to, .end = x.index.end});
    };
    const auto back = [&](const view<X>& from, const view<X>& dy, const trained_update<X>& u, const view<float>& to, bool trains) {
      if (u.weights.a.most == 0) return status{};
      typename backward_op::args b{.x = reading(from), .dy = reading(dy), .rows = x.index.rows, .adapter = adapter, .weights = u.weights, .dx = to, .end = x.index.end};
      if (trains) b.da = u.da, b.db = u.db;
      return step(flow::later<backward_op>{}, b);
    };
    return first_of([&] { return step(dispatch<X>{}, typename dispatch<X>::args{x.x, x.index, p.x}); }, [&] { return step(dispatch<X>{}, typename dispatch<X>::args{x.dy, x.index, p.d_out}); },
                    [&] { return base.forward(step, 0, p.gate); }, [&] { return add(p.x, x.gate_update, p.gate); }, [&] { return base.forward(step, 1, p.up); }, [&] { return add(p.x, x.up_update, p.up); },
                    [&] { return base.through(step, p.dh); }, [&] { return back(p.hidden, p.d_out, x.down_update, p.dh, false); },
                    [&] {
                      return step(gradient_op{}, typename gradient_op::args{.gate = reading(p.gate), .up = reading(p.up), .dh = reading(p.dh), .index = x.index, .d_gate = p.d_gate, .d_up = p.d_up, .hidden = p.hidden,
                                                                              .d_weight = x.d_weight, .activation = x.activation});
                    },
                    [&] { return back(p.hidden, p.d_out, x.down_update, {}, true); }, [&] { return step(flow::cleared{}, flow::cleared::args{p.dx.data, std::size_t(p.dx.rows) * std::size_t(p.dx.cols) * sizeof(float)}); },
                    [&] { return base.backward(step, 0, p.d_gate); }, [&] { return back(p.x, p.d_gate, x.gate_update, p.dx, true); }, [&] { return base.backward(step, 1, p.d_up); },
                    [&] { return back(p.x, p.d_up, x.up_update, p.dx, true); }, [&] { return base.last(step); });
  }
};

template <class Args> status check_gradient_args(const Args& x) {
  if (x.dy.rows != x.x.rows || x.dy.cols != x.x.cols) return {errc::bad_shape, "dy needs the extents of x", x.dy.rows, x.x.rows};
  if (x.dx.rows != x.x.rows || x.dx.cols != x.x.cols) return {errc::bad_shape, "dx needs the extents of x", x.dx.rows, x.x.rows};
  if (bytes_of(x.dx).meets(bytes_of(x.x)) || bytes_of(x.dx).meets(bytes_of(x.dy))) return {errc::aliased, "dx must not overlap x or dy: those are read to the end"};
  return {};
}
}  // namespace detail

//! Gradients of flex_more: of x, of the slots' weights, of each expert's updates (sgmv_backward's formulas over the expert's rows), and of the shared
//! layer. What is shared is multiplied once a token here too, with the sums over its choices:
//!     dh[p] = (dy down)[t] + the update's share,     (d_gate, d_up, w h, d_weight) = gated_gradient
//!     dx[t] = (sum over j of d_gate) gate + (sum of d_up) up + the updates' shares
//!     d_gate = (sum of d_gate)' x,  d_up = (sum of d_up)' x,  d_down = dy' (sum of w h)         of the shared matrices: null where frozen
//! @post  same bits on every run
//! @note  cost: 16 H I operations a token for what is shared (10 if it is frozen), about 20 rank (H + I) a slot
//! @note  error: d_gate, d_up and w h are rounded to X, and so are their sums over choices
template <class X, class Activation = policy::silu, class DX = X, class DW = float> struct flex_more_backward : flow::in_steps<flex_more_backward<X, Activation, DX, DW>> {
  using common = detail::updated<X, Activation>;
  using base_op = gemm::dense<X, X, float>;
  using through_op = gemm::dense<X, X, float, policy::chain<>, detail::through_columns>;
  using adding_op = gemm::dense<X, X, float, policy::chain<policy::residual<float>>, detail::through_columns>;
  using weight_op = gemm::dense<X, X, DW, policy::chain<>, detail::by_depth>;
  using spread_op = dispatch<float>;
  using gather_op = combine<X, X>;
  using combine_op = combine<float, DX, float>;

  struct args {
    view<const X> x = {}, dy = {};             //!< tokens x H
    policy::route_index index = {};
    view<const X> gate = {}, up = {}, down = {};      //!< shared: I x H, I x H, H x I
    trained_update<X> gate_update = {}, up_update = {}, down_update = {};      //!< of each expert
    view<DX> dx = {};                          //!< tokens x H
    view<DW> d_gate = {}, d_up = {}, d_down = {};     //!< as gate, up, down, or null
    float* d_weight = nullptr;                 //!< [tokens x choices]
    Activation activation = {};
  };
  template <class Context> static status refuse(const Context&, const args& x) {
    const int experts = x.index.experts(), wide = x.x.cols, inner = x.gate.rows;
    if (const status bad = first_of([&] { return check_index<is_host<Context>>(x.index, x.x.rows); }, [&] { return detail::check_gradient_args(x); }, [&] { return detail::check_update<is_host<Context>>(x.gate_update, experts, wide, inner); },
                                    [&] { return detail::check_update<is_host<Context>>(x.up_update, experts, wide, inner); }, [&] { return detail::check_update<is_host<Context>>(x.down_update, experts, inner, wide); }); !bad)
      return bad;
    for (const auto* u : {&x.gate_update, &x.up_update, &x.down_update})
      if (u->weights.a.most > 0 && u->weights.a.weights < experts) return {errc::bad_shape, "updates: there must be one for each expert, of rank 0 if need be", u->weights.a.weights, experts};
    return {};
  }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    const int rows = x.index.row_limit, tokens = x.x.rows, inner = x.gate.rows, wide = x.x.cols, experts = x.index.experts();
    const auto p = common::lay_out(carve, rows, wide, inner);
    const layer base{x, p, detail::carved<float>(carve, tokens, inner), detail::carved<float>(carve, tokens, wide), detail::carved<X>(carve, tokens, inner), plain(x.index)};
    std::int32_t* const own = carve.place<std::int32_t>(std::size_t(experts));
    using counted = flow::started<lora::count_kernel<std::int32_t>>;
    return first_of([&] { return experts > 0 ? step(counted{}, counted::args{{{own, 1, experts, experts}}}) : status{}; }, [&] { return common::steps(x, p, own, base, step); });
  }

private:
  static policy::route_index plain(policy::route_index index) {
    index.weight_of_slot = nullptr;
    return index;
  }
  struct layer {
    const args& x;
    const typename common::values& p;
    view<float> shared, dx;
    view<X> sum;
    policy::route_index plain;
    template <class Op, class A, class B, class C> static typename Op::args product(const A& a, const B& b, const C& c) {
      typename Op::args d{};
      d.a = a, d.b = b, d.c = c;
      return d;
    }
    template <class Step> status spread(Step step, const view<float>& to) const { return step(spread_op{}, typename spread_op::args{reading(shared), x.index, to}); }
    template <class Step> status forward(Step step, int which, const view<float>& to) const {
      return first_of([&] { return step(base_op{}, product<base_op>(x.x, which == 0 ? x.gate : x.up, shared)); }, [&] { return spread(step, to); });
    }
    template <class Step> status through(Step step, const view<float>& to) const {
      return first_of([&] { return step(through_op{}, product<through_op>(x.dy, x.down, shared)); }, [&] { return spread(step, to); });
    }
    template <class Step> status gather(Step step, const view<X>& from) const { return step(gather_op{}, typename gather_op::args{.x = reading(from), .index = plain, .y = sum}); }
    template <class Step> status backward(Step step, int which, const view<X>& from) const {
      const view<DW>& weight = which == 0 ? x.d_gate : x.d_up;
      return first_of([&] { return gather(step, from); }, [&] { return weight.data != nullptr ? step(weight_op{}, product<weight_op>(reading(sum), x.x, weight)) : status{}; },
                      [&] {
                        if (which == 0) return step(through_op{}, product<through_op>(reading(sum), x.gate, dx));
                        auto a = product<adding_op>(reading(sum), x.up, dx);
                        a.epilogue = {{{dx.data, dx.rows, dx.cols, dx.stride}}, {}};
                        return step(adding_op{}, a);
                      });
    }
    template <class Step> status last(Step step) const {
      return first_of(
          [&] {
            if (x.d_down.data == nullptr) return status{};
            return first_of([&] { return gather(step, p.hidden); }, [&] { return step(weight_op{}, product<weight_op>(x.dy, reading(sum), x.d_down)); });
          },
          [&] { return step(combine_op{}, typename combine_op::args{.x = reading(p.dx), .index = plain, .y = x.dx, .same = reading(dx)}); });
    }
  };
};

//! Gradients of adapted_experts: of x, of the slots' weights, and of the adapters for each group, an expert with an adapter; groups without one give
//! zeros. The experts themselves are frozen, as the base of lora::adapted is: their gradients are those of scatter_moe_backward over merged weights.
//! @post  same bits on every run
//! @note  cost: 10 H I operations a slot, about 20 rank (H + I) a slot with an adapter
template <class X, class Activation = policy::silu, class DX = X> struct adapted_experts_backward : flow::in_steps<adapted_experts_backward<X, Activation, DX>> {
  using common = detail::updated<X, Activation>;
  struct by_name : gemm::grouped_options { static constexpr bool named = true; };
  struct adding : by_name { static constexpr gemm::b_order b = gemm::b_order::k_by_n; static constexpr bool adds = true; };
  using base_op = gemm::grouped<X, X, float, policy::chain<>, by_name>;
  using through_op = gemm::grouped<X, X, float, policy::chain<>, adding>;
  using combine_op = combine<float, DX>;

  struct args {
    view<const X> x = {}, dy = {};             //!< tokens x H
    policy::route_index index = {};            //!< of groups
    const int* expert = nullptr;               //!< [groups]
    const int* pair = nullptr;                 //!< [groups] a weight of the adapters below, or negative
    stack<const X> gate = {}, up = {}, down = {};
    trained_update<X> gate_update = {}, up_update = {}, down_update = {};
    view<DX> dx = {};                          //!< tokens x H
    float* d_weight = nullptr;                 //!< [tokens x choices]
    Activation activation = {};
  };
  template <class Context> static status refuse(const Context&, const args& x) {
    const int groups = x.index.experts(), wide = x.x.cols, inner = x.gate.rows;
    if (const status bad = first_of([&] { return check_index<is_host<Context>>(x.index, x.x.rows); }, [&] { return detail::check_gradient_args(x); }, [&] { return detail::check_update<is_host<Context>>(x.gate_update, groups, wide, inner); },
                                    [&] { return detail::check_update<is_host<Context>>(x.up_update, groups, wide, inner); }, [&] { return detail::check_update<is_host<Context>>(x.down_update, groups, inner, wide); }); !bad)
      return bad;
    if (groups > 0 && (x.expert == nullptr || x.pair == nullptr)) return {errc::null_pointer, x.expert == nullptr ? "expert is null: it needs an entry for each group" : "pair is null: it needs an entry for each group", 0, groups};
    if constexpr (is_host<Context>)
      for (int g = 0; g < groups; ++g)
        for (const auto* u : {&x.gate_update, &x.up_update, &x.down_update})
          if (u->weights.a.most > 0 && x.pair[g] >= u->weights.a.weights) return {errc::bad_value, "pair: an entry is beyond the adapters", x.pair[g], u->weights.a.weights};
    return {};
  }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    const auto p = common::lay_out(carve, x.index.row_limit, x.x.cols, x.gate.rows);
    return common::steps(x, p, x.pair, layer{x, p}, step);
  }

private:
  struct layer {
    const args& x;
    const typename common::values& p;
    template <class Op, class Step> status product(Step step, const view<X>& from, const stack<const X>& w, const view<float>& to) const {
      typename Op::args a{};
      a.a = reading(from), a.b = w, a.c = to, a.rows = x.index.rows, a.end = x.index.end, a.weight = x.expert;
      return step(Op{}, a);
    }
    template <class Step> status forward(Step step, int which, const view<float>& to) const { return product<base_op>(step, p.x, which == 0 ? x.gate : x.up, to); }
    template <class Step> status through(Step step, const view<float>& to) const {
      return first_of([&] { return step(flow::cleared{}, flow::cleared::args{to.data, std::size_t(to.rows) * std::size_t(to.cols) * sizeof(float)}); }, [&] { return product<through_op>(step, p.d_out, x.down, to); });
    }
    template <class Step> status backward(Step step, int which, const view<X>& from) const { return product<through_op>(step, from, which == 0 ? x.gate : x.up, p.dx); }
    template <class Step> status last(Step step) const {
      policy::route_index plain = x.index;
      plain.weight_of_slot = nullptr;
      return step(combine_op{}, typename combine_op::args{.x = reading(p.dx), .index = plain, .y = x.dx});
    }
  };
};

//! Gradients of versatile_ffn. The deep half is computed again, each turn's values kept, and walked back from the last turn; a row that a turn does
//! not hold passes it by. With F(v) = down (f(gate v) (up v)) and w a token's weight in deep:
//!     wide    scatter_moe_backward over slices, with share[t] dy[t] for dy
//!     deep    s = w dy;  for each turn back:  (d_gate, d_up, h) = gated_gradient(s down),  s = d_gate gate + d_up up
//!     d_share[t] = <dy[t], wide(x[t])>,  the weight of t in deep has <dy[t], F(F(... x[t]))>
//! d_gate, d_up and d_down are sums over all that use the one layer.
//! @post  same bits on every run
//! @note  cost: 22 H I operations a token and turn, ten of them for what is computed again; of the wide half scatter_moe_backward's (and its forward for d_share). Workspace:
//!        (turns + 2) rows x H and 3 rows x I of X, 3 rows x I of floats
//! @note  error: values, and what comes back to them, are rounded to X at every turn
template <class X, class Activation = policy::silu, class DX = X, class DW = float> struct versatile_ffn_backward : flow::in_steps<versatile_ffn_backward<X, Activation, DX, DW>> {
  using experts = dense_experts<X>;
  using wide_op = scatter_moe_backward<experts, Activation, float, DW>;
  using again_op = scatter_moe<experts, Activation, float>;
  using scale_op = combine<X, X, X>;
  using dispatch_op = dispatch<X>;
  using keep_op = prim::permute<X, prim::movement::copy>;
  struct back : gemm::grouped_options { static constexpr gemm::b_order b = gemm::b_order::k_by_n; };
  struct adding : gemm::depth_options { static constexpr bool adds = true; };
  using in_op = gemm::grouped<X, X, float>;
  using gate_op = moe::gate<float, X, Activation>;
  using out_op = gemm::grouped<X, X, X>;
  using through_op = gemm::grouped<X, X, float, policy::chain<>, back>;
  using joined_op = gemm::grouped<X, X, X, policy::chain<policy::residual<float>>, back>;
  using gradient_op = gated_gradient<X, float, Activation, row_options, float>;
  using weight_op = gemm::grouped_depth<X, X, DW, policy::chain<>, adding>;
  using combine_op = combine<X, DX, float>;
  using wide_dots = row_dots<X, float>;
  using deep_dots = row_dots<X, X>;

  struct args {
    view<const X> x = {}, dy = {};                    //!< tokens x H
    view<const X> gate = {}, up = {}, down = {};      //!< I x H, I x H, H x I
    policy::route_index wide = {}, deep = {};
    const float* share = nullptr;                     //!< [tokens] of the wide half; null: 1
    const std::int32_t* bounds = nullptr;             //!< {0, deep.row_limit}, where the work runs
    view<DX> dx = {};                                 //!< tokens x H
    view<DW> d_gate = {}, d_up = {}, d_down = {};     //!< as gate, up and down; rows without gaps
    float* d_wide = nullptr;                          //!< [tokens x choices] of wide's weights
    float* d_deep = nullptr;                          //!< [tokens] of deep's weights
    float* d_share = nullptr;                         //!< [tokens], or null: not wanted
    Activation activation = {};
  };
  template <class Context> static status refuse(const Context&, const args& x) {
    if (const status bad = first_of([&] { return check_index<is_host<Context>>(x.deep, x.x.rows); }, [&] { return detail::check_gradient_args(x); }); !bad) return bad;
    const int parts = x.wide.experts();
    if (x.deep.experts() < 1) return {errc::bad_shape, "deep needs an expert for each number of loops: a layer that never loops is scatter_moe over slices", x.deep.experts(), 1};
    if (x.deep.choices != 1) return {errc::bad_shape, "deep: a token has one number of loops", x.deep.choices, 1};
    if (parts > 0 && x.gate.rows % parts != 0) return {errc::bad_shape, "wide: the virtual experts must divide the hidden units", x.gate.rows, parts};
    if (x.bounds == nullptr) return {errc::null_pointer, "bounds is null: it needs the two numbers 0 and deep.row_limit", 0, 2};
    if (x.x.rows > 0 && x.d_deep == nullptr) return {errc::null_pointer, "d_deep is null: it needs an entry for each token", 0, x.x.rows};
    if (x.d_share != nullptr && parts == 0) return {errc::bad_value, "d_share: without a wide half nothing is shared: leave it null"};
    if (x.d_gate.rows != x.gate.rows || x.d_up.rows != x.up.rows || x.d_down.rows != x.down.rows || x.d_gate.cols != x.gate.cols || x.d_up.cols != x.up.cols || x.d_down.cols != x.down.cols)
      return {errc::bad_shape, "d_gate, d_up and d_down need the extents of gate, up and down", x.d_gate.rows, x.gate.rows};
    for (const view<DW>* g : {&x.d_gate, &x.d_up, &x.d_down}) {
      if (g->data == nullptr && g->rows > 0 && g->cols > 0) return {errc::null_pointer, "d_gate, d_up or d_down is null"};
      if (g->stride != g->cols) return {errc::bad_shape, "d_gate, d_up and d_down: rows lie without gaps", g->stride, g->cols};
    }
    return {};
  }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    const int tokens = x.x.rows, width = x.x.cols, inner = x.gate.rows, parts = x.wide.experts(), rows = x.deep.row_limit, turns = x.deep.experts();
    const bool scaled = parts > 0 && x.share != nullptr, shared = parts > 0 && x.d_share != nullptr;
    const view<float> wide_dx = detail::carved<float>(carve, parts > 0 ? tokens : 0, width), wide_y = detail::carved<float>(carve, shared ? tokens : 0, width);
    const view<X> dy = detail::carved<X>(carve, tokens, width), state = detail::carved<X>(carve, rows, width), hidden = detail::carved<X>(carve, rows, inner), d_gate = detail::carved<X>(carve, rows, inner), d_up = detail::carved<X>(carve, rows, inner);
    const view<float> gate = detail::carved<float>(carve, rows, inner), up = detail::carved<float>(carve, rows, inner), dh = detail::carved<float>(carve, rows, inner), joined = detail::carved<float>(carve, rows, width);
    X* const kept = carve.place<X>(std::size_t(turns > 0 ? turns : 0) * std::size_t(rows) * std::size_t(width));
    float* const unused = carve.place<float>(std::size_t(tokens));
    const auto before = [&](int n) { return view<X>{kept + std::size_t(n) * std::size_t(rows) * std::size_t(width), rows, width, width}; };      // turn n
    policy::route_index plain = x.deep;
    plain.weight_of_slot = nullptr;

    // to = by[t] dy[t]: a combination without choices
    const auto scale = [&](const float* by) { return step(scale_op{}, typename scale_op::args{.x = {nullptr, 0, width, width}, .index = {.tokens = tokens}, .y = dy, .same = x.dy, .share = by}); };
    // a product of the rows that turn n holds: tokens that loop more than n times
    const auto product = [&](const auto& op, int n, const view<X>& from, const view<const X>& w, const auto& to) {
      typename std::remove_cvref_t<decltype(op)>::args a{};
      a.a = reading(from), a.b = row_slices(w, 1), a.c = to, a.rows = {x.bounds, 1}, a.end = x.deep.rows.offsets + (turns - n);
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(op)>, joined_op>) a.epilogue = {{{joined.data, rows, width, width}}, {}};
      return step(op, a);
    };
    const auto inside = [&](int n) {
      return first_of([&] { return product(in_op{}, n, before(n), x.gate, gate); }, [&] { return product(in_op{}, n, before(n), x.up, up); });
    };
    const auto along = [&](int n, const view<X>& from, const view<X>& of, const view<DW>& to) {
      typename weight_op::args a{};
      a.a = reading(from), a.b = reading(of), a.c = {to.data, 1, to.rows, to.cols, 0, to.stride}, a.rows = {x.bounds, 1}, a.end = x.deep.rows.offsets + (turns - n);
      return step(weight_op{}, a);
    };
    const auto forward = [&](int n) {
      return first_of([&] { return step(keep_op{}, typename keep_op::args{.from = {state.data, rows, width, width}, .to = {before(n).data, rows, width, width}}); }, [&] { return inside(n); },
                      [&] { return step(gate_op{}, typename gate_op::args{reading(gate), reading(up), hidden, x.activation}); }, [&] { return product(out_op{}, n, hidden, x.down, state); });
    };
    const auto backward = [&](int n) {      // state: what comes back to the turn's results, then to its values
      return first_of([&] { return inside(n); }, [&] { return product(through_op{}, n, state, x.down, dh); },
                      [&] {
                        return step(gradient_op{}, typename gradient_op::args{.gate = reading(gate), .up = reading(up), .dh = reading(dh), .index = plain, .d_gate = d_gate, .d_up = d_up, .hidden = hidden, .d_weight = unused, .activation = x.activation});
                      },
                      [&] { return along(n, state, hidden, x.d_down); }, [&] { return along(n, d_gate, before(n), x.d_gate); }, [&] { return along(n, d_up, before(n), x.d_up); },
                      [&] { return product(through_op{}, n, d_gate, x.gate, joined); }, [&] { return product(joined_op{}, n, d_up, x.up, state); });
    };
    const auto sliced = [&](const view<DW>& g, bool columns) {
      return columns ? stack<DW>{g.data, parts, g.rows, g.cols / parts, g.cols / parts, g.stride} : stack<DW>{g.data, parts, g.rows / parts, g.cols, static_cast<long long>(g.rows / parts) * g.stride, g.stride};
    };
    return first_of(
        [&]() -> status {
          if (parts == 0) {
            for (const view<DW>* g : {&x.d_gate, &x.d_up, &x.d_down})
              if (const status bad = step(flow::cleared{}, flow::cleared::args{g->data, std::size_t(g->rows) * std::size_t(g->cols) * sizeof(DW)}); !bad) return bad;
            return {};
          }
          typename wide_op::args a{.x = x.x, .dy = scaled ? reading(flow::apart(carve, dy)) : x.dy, .index = x.wide, .gate = row_slices(x.gate, parts), .up = row_slices(x.up, parts), .down = column_slices(x.down, parts), .dx = flow::apart(carve, wide_dx), .d_weight = x.d_wide, .activation = x.activation};
          a.d_gate = sliced(x.d_gate, false), a.d_up = sliced(x.d_up, false), a.d_down = sliced(x.d_down, true);
          return first_of([&] { return scaled ? scale(x.share) : status{}; }, [&] { return step(wide_op{}, a); },
                          [&] {
                            if (!shared) return status{};
                            return first_of([&] { return step(again_op{}, typename again_op::args{.x = x.x, .index = x.wide, .gate = row_slices(x.gate, parts), .up = row_slices(x.up, parts), .down = column_slices(x.down, parts), .y = wide_y, .activation = x.activation}); },
                                            [&] { return step(wide_dots{}, typename wide_dots::args{.a = x.dy, .b = reading(wide_y), .dot = x.d_share}); });
                          });
        },
        [&] { return step(dispatch_op{}, typename dispatch_op::args{x.x, x.deep, state}); },
        [&]() -> status {
          for (int n = 0; n < turns; ++n)
            if (const status bad = forward(n); !bad) return bad;
          return {};
        },
        [&] { return step(deep_dots{}, typename deep_dots::args{.a = x.dy, .b = reading(state), .row = x.deep.row_of_slot, .dot = x.d_deep}); },
        [&] { return x.deep.weight_of_slot != nullptr ? scale(x.deep.weight_of_slot) : status{}; },
        [&] { return step(dispatch_op{}, typename dispatch_op::args{x.deep.weight_of_slot != nullptr ? reading(dy) : x.dy, x.deep, state}); },
        [&]() -> status {
          for (int n = turns - 1; n >= 0; --n)
            if (const status bad = backward(n); !bad) return bad;
          return {};
        },
        [&] { return step(combine_op{}, typename combine_op::args{.x = reading(state), .index = plain, .y = x.dx, .same = parts > 0 ? reading(wide_dx) : view<const float>{}}); });
  }
};

}  // namespace smalti::inline SMALTI_CODE::moe
