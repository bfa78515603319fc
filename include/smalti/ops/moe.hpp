// Rows of tokens and rows of experts: dispatch, combine and the gradient of a gated layer, over an index that routing made
// (policy/route_index.hpp). The layers that are made of them and of grouped products: smalti/flow/moe.hpp. docs/ops/moe.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/moe/rows.hpp>
#include <smalti/core/check_view.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/moe/check.hpp>
#include <smalti/policy/route_index.hpp>
#include <smalti/tile/launch.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in moe.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent                              sm_80  sm_89  sm_90  sm_100  sm_120  tried
// experts' rows, combine             8x256  8x256  8x256  8x256   8x256   10
// experts' rows, dispatch            8x256  8x256  8x256  8x256   8x256   10
// experts' rows, gradient of a gate  8x256  8x256  8x256  8x256   8x256   10
// swept: end

namespace smalti::inline SMALTI_CODE::moe {

//! What these operations may be told besides their types.
struct row_options {
  static constexpr bool any_width = false;     //!< the slow path: any address, width and stride
};

//! From machine code, not timed: not yet run on a GPU.
struct default_rows_tuning {
  SMALTI_HD constexpr rows_tuning operator()(target t) const { return t == target::host ? rows_tuning{.m = 2, .n = 512} : rows_tuning{.m = 8, .n = 256}; }
};
namespace detail {
template <class T> constexpr bool row_element = std::is_same_v<T, bf16> || std::is_same_v<T, fp16> || std::is_same_v<T, float>;
}  // namespace detail

//! y[r] = x[token of row r], and zeros in padding, for all index.row_limit rows: the copy of a compact or aligned layout
//! (MegaBlocks' padded gather), and of the gradient of a combination.
//! @pre   the index lies where the work runs; y has row_limit rows
//! @post  the same bits always: values are copied
template <class X, class Options = row_options> struct dispatch {
  static_assert(detail::row_element<X>, "smalti: dispatch moves rows of bf16, fp16 or float: dispatch codes as the bytes they are elsewhere, or quantize afterwards");
  static constexpr int step = Options::any_width ? 1 : step_of<X>;
  struct args {
    view<const X, step> x = {};
    policy::route_index index = {};
    view<X, step> y = {};
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_view<"x">(x.x); }, [&] { return check_view<"y">(x.y); }, [&] { return check_index<is_host<Context>>(x.index, x.x.rows); },
                    [&] { return check_pair(x); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) { return 0; }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = check(context, x); !bad) return bad;
      if (x.y.rows == 0 || x.y.cols == 0) return {};
      for (int r = 0; x.x.rows == 0 && r < x.y.rows; ++r)      // no token: nothing but padding
        if (const status bad = clear(base_of(context), x.y.data + static_cast<long long>(r) * x.y.stride, std::size_t(x.y.cols) * sizeof(X)); !bad || r + 1 == x.y.rows) return bad;
      return launch<kernel>(base_of(context), {x.x, x.index.token_of_row, x.index.slot_of_row, x.y});
    } else {
      return check(context, x);
    }
  }
  // ---- what a launch names: kernels are not for callers
  struct kernel {
    using arguments = dispatch_arguments<X, step>;
    template <target G> using agent = dispatch_agent<default_rows_tuning{}(G), X, step>;
  };

private:
  static status check_pair(const args& x) {
    if (x.y.rows != x.index.row_limit) return {errc::bad_shape, "y needs index.row_limit rows", x.y.rows, x.index.row_limit};
    if (x.y.cols != x.x.cols) return {errc::bad_shape, "y needs as many columns as x", x.y.cols, x.x.cols};
    if (bytes_of(x.y).meets(bytes_of(x.x))) return {errc::aliased, "y must not overlap x: blocks read x while others write y"};
    return {};
  }
};

//! y[t] = sum over choices j of weight[t, j] x[row of slot (t, j)], in the order of j, plus share[t] same[t]: what experts made,
//! brought back to their tokens. Slots without a row (dropped, or of experts that compute nothing) count for nothing; `share`
//! is the weight of a token's identity experts (LongCat-Flash). Constant experts (MoE++, Jin et al. 2024, arXiv:2410.07348) give a row each of
//! `constants`, whatever the token: a slot whose id is first_constant + c adds row c. An id that is neither gives zero.
//! @tparam X, Y  rows of experts, rows of tokens: bf16, fp16 or float
//! @pre   the index lies where the work runs
//! @post  the same bits whatever the layout of the index, the order of blocks and the other tokens are
//! @note  cost: kept slots x columns read, tokens x columns written. Error (choices + 1) 2^-24 of the sum of magnitudes, one rounding to Y
template <class X, class Y = X, class Same = X, class Options = row_options> struct combine {
  static_assert(detail::row_element<X> && detail::row_element<Y> && detail::row_element<Same>, "smalti: combine sums rows of bf16, fp16 or float");
  template <class T> static constexpr int step = Options::any_width ? 1 : step_of<T>;
  static constexpr determinism level = determinism::run_to_run;
  static constexpr bool batch_invariant = true;
  struct args {
    view<const X, step<X>> x = {};                 //!< index.row_limit rows
    policy::route_index index = {};
    view<Y, step<Y>> y = {};                       //!< index.tokens rows
    view<const Same, step<Same>> same = {};        //!< null, or the rows of the tokens themselves
    const float* share = nullptr;                  //!< null: 1, or [tokens]
    view<const Same, step<Same>> constants = {};   //!< null, or a row for each constant expert
    const std::int32_t* ids = nullptr;             //!< [tokens x choices] with constants: what the index was made of
    int first_constant = 0;
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_view<"x">(x.x); }, [&] { return check_view<"y">(x.y); }, [&] { return check_view<"same">(x.same); }, [&] { return check_view<"constants">(x.constants); },
                    [&] { return check_index<is_host<Context>>(x.index, x.y.rows); }, [&] { return check_pair(x); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) { return 0; }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = check(context, x); !bad) return bad;
      if (x.y.rows == 0 || x.y.cols == 0) return {};
      return x.index.weight_of_slot != nullptr ? start<true>(context, x) : start<false>(context, x);
    } else {
      return check(context, x);
    }
  }
  //! What check says of constant experts alone.
  static status check_constants(const args& x) {
    if (x.constants.rows == 0) return {};
    if (x.constants.cols != x.y.cols) return {errc::bad_shape, "constants needs as many columns as y", x.constants.cols, x.y.cols};
    if (x.ids == nullptr && x.index.tokens > 0 && x.index.choices > 0) return {errc::null_pointer, "ids is null: constant experts are told by their ids, one for each slot", 0, std::int64_t(x.index.tokens) * x.index.choices};
    if (x.first_constant < x.index.experts()) return {errc::bad_value, "first_constant must not be an expert that has rows: constant experts come behind them", x.first_constant, x.index.experts()};
    if (bytes_of(x.y).meets(bytes_of(x.constants))) return {errc::aliased, "y must not overlap constants: blocks read them while others write y"};
    return {};
  }
  // ---- what a launch names: kernels are not for callers
  template <bool Weighted, same_rows Shares, bool Constants = false> struct kernel {
    using arguments = combine_arguments<X, Same, Y, step<X>, step<Same>, step<Y>, Weighted, Shares, Constants>;
    template <target G> using agent = combine_agent<default_rows_tuning{}(G), X, Same, Y, step<X>, step<Same>, step<Y>, Weighted, Shares, Constants>;
  };

private:
  template <bool Weighted, class Context> static status start(const Context& context, const args& x) {
    if (x.same.data == nullptr) return start<Weighted, same_rows::none>(context, x);
    return x.share == nullptr ? start<Weighted, same_rows::whole>(context, x) : start<Weighted, same_rows::shared>(context, x);
  }
  template <bool Weighted, same_rows Shares, class Context> static status start(const Context& context, const args& x) {
    if (x.constants.rows > 0) return launch<kernel<Weighted, Shares, true>>(base_of(context), {x.x, x.index.row_of_slot, x.index.weight_of_slot, x.same, x.share, x.y, x.index.choices, x.constants, x.ids, x.first_constant});
    return launch<kernel<Weighted, Shares>>(base_of(context), {x.x, x.index.row_of_slot, x.index.weight_of_slot, x.same, x.share, x.y, x.x.rows == 0 ? 0 : x.index.choices});
  }
  static status check_pair(const args& x) {
    if (x.x.rows != x.index.row_limit) return {errc::bad_shape, "x needs index.row_limit rows", x.x.rows, x.index.row_limit};
    if (x.y.cols != x.x.cols) return {errc::bad_shape, "y needs as many columns as x", x.y.cols, x.x.cols};
    if (bytes_of(x.y).meets(bytes_of(x.x))) return {errc::aliased, "y must not overlap x: blocks read x while others write y"};
    if (x.share != nullptr && x.same.data == nullptr && x.y.rows > 0) return {errc::null_pointer, "same is null, but share is not: the rows that identity experts return"};
    if (x.same.data != nullptr && (x.same.rows != x.y.rows || x.same.cols != x.y.cols)) return {errc::bad_shape, "same needs the extents of y", x.same.rows, x.y.rows};
    return check_constants(x);
  }
};

//! hidden = activation(gate) up, element by element.
//! @tparam X  of gate and up;  H  of hidden: bf16, fp16 or float
template <class X, class H, class Activation = policy::silu, class Options = row_options> struct gate {
  static_assert(detail::row_element<X> && detail::row_element<H>, "smalti: a gate takes bf16, fp16 or float");
  template <class T> static constexpr int step = Options::any_width ? 1 : step_of<T>;
  struct args {
    view<const X, step<X>> gate = {}, up = {};
    view<H, step<H>> hidden = {};
    Activation activation = {};
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else {
      if (const status bad = first_of([&] { return check_context(base_of(context)); }, [&] { return check_view<"gate">(x.gate); }, [&] { return check_view<"up">(x.up); }, [&] { return check_view<"hidden">(x.hidden); }); !bad) return bad;
      if (x.gate.rows != x.hidden.rows || x.up.rows != x.hidden.rows || x.gate.cols != x.hidden.cols || x.up.cols != x.hidden.cols) return {errc::bad_shape, "gate, up and hidden have the same extents", x.gate.rows, x.hidden.rows};
      if (bytes_of(x.hidden).meets(bytes_of(x.gate)) || bytes_of(x.hidden).meets(bytes_of(x.up))) return {errc::aliased, "hidden must not overlap gate or up"};
      return {};
    }
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) { return 0; }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = check(context, x); !bad) return bad;
      if (x.hidden.rows == 0 || x.hidden.cols == 0) return {};
      return launch<kernel>(base_of(context), {x.gate, x.up, x.hidden, x.activation});
    } else {
      return check(context, x);
    }
  }
  // ---- what a launch names: kernels are not for callers
  struct kernel {
    using arguments = gate_arguments<X, H, Activation, step<X>, step<H>>;
    template <target G> using agent = gate_agent<default_rows_tuning{}(G), X, H, Activation, step<X>, step<H>>;
  };
};

//! The backward of h = activation(gate) up and of the weight of its slot: gated_gradient_agent has the formulas.
//! @tparam X  of what is written; D  of dh: what arrives through the second product, for weights of 1; Gate, Up  of gate and up
//! @post  same bits on every run; a row's do not depend on the others. d_weight of slots without a row becomes zero
template <class X, class D, class Activation = policy::silu, class Options = row_options, class Gate = X, class Up = Gate> struct gated_gradient {
  static_assert(detail::row_element<X> && detail::row_element<D> && detail::row_element<Gate> && detail::row_element<Up>, "smalti: the gradient of a gated layer takes bf16, fp16 or float");
  static_assert(policy::explain_slope<Activation>());
  template <class T> static constexpr int step = Options::any_width ? 1 : step_of<T>;
  struct args {
    view<const Gate, step<Gate>> gate = {};
    view<const Up, step<Up>> up = {};
    view<const D, step<D>> dh = {};
    policy::route_index index = {};
    view<X, step<X>> d_gate = {}, d_up = {};     //!< may be gate and up themselves, if those are of X
    view<X, step<X>> hidden = {};                //!< weight times h: what the second weight's gradient takes
    float* d_weight = nullptr;                   //!< [tokens x choices]
    Activation activation = {};
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_view<"gate">(x.gate); }, [&] { return check_view<"up">(x.up); }, [&] { return check_view<"dh">(x.dh); },
                    [&] { return check_view<"d_gate">(x.d_gate); }, [&] { return check_view<"d_up">(x.d_up); }, [&] { return check_view<"hidden">(x.hidden); },
                    [&] { return check_index<is_host<Context>>(x.index, x.index.tokens); }, [&] { return check_rows(x); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) { return 0; }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = check(context, x); !bad) return bad;
      const int slots = x.index.tokens * x.index.choices;
      if (slots > 0)
        if (const status bad = clear(base_of(context), x.d_weight, std::size_t(slots) * sizeof(float)); !bad) return bad;
      if (x.gate.rows == 0 || slots == 0) return {};
      return x.index.weight_of_slot != nullptr ? start<true>(context, x, slots) : start<false>(context, x, slots);
    } else {
      return check(context, x);
    }
  }
  // ---- what a launch names: kernels are not for callers
  template <bool Weighted> struct kernel {
    using arguments = gated_gradient_arguments<X, D, Activation, step<X>, step<D>, Weighted, Gate, Up, step<Gate>, step<Up>>;
    template <target G> using agent = gated_gradient_agent<default_rows_tuning{}(G), X, D, Activation, step<X>, step<D>, Weighted, Gate, Up, step<Gate>, step<Up>>;
  };

private:
  template <bool Weighted, class Context> static status start(const Context& context, const args& x, int slots) {
    return launch<kernel<Weighted>>(base_of(context),
                          {x.gate, x.up, x.dh, x.index.slot_of_row, x.index.weight_of_slot, slots, x.d_gate, x.d_up, x.hidden, {x.d_weight, slots, 1, 1}, x.activation});
  }
  template <class V> static bool like(const V& v, const args& x) { return v.rows == x.index.row_limit && v.cols == x.gate.cols; }
  static status check_rows(const args& x) {
    if (!like(x.gate, x) || !like(x.up, x) || !like(x.dh, x) || !like(x.d_gate, x) || !like(x.d_up, x) || !like(x.hidden, x))
      return {errc::bad_shape, "gate, up, dh, d_gate, d_up and hidden have index.row_limit rows and the same columns", x.gate.rows, x.index.row_limit};
    if (x.d_weight == nullptr && x.index.tokens > 0 && x.index.choices > 0) return {errc::null_pointer, "d_weight is null: it needs an entry for each slot", 0, std::int64_t(x.index.tokens) * x.index.choices};
    const byte_range outs[3] = {bytes_of(x.d_gate), bytes_of(x.d_up), bytes_of(x.hidden)};
    if (outs[2].meets(bytes_of(x.gate)) || outs[2].meets(bytes_of(x.up)) || outs[2].meets(bytes_of(x.dh)) || outs[2].meets(outs[0]) || outs[2].meets(outs[1])) return {errc::aliased, "hidden must not overlap the others"};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::moe
