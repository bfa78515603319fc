// Mixture-of-experts layers: grouped products between a dispatch and a combination, over an index that routing made
// (policy/route_index.hpp; ops/route makes one). docs/ops/moe.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/core/check_view.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/flow/in_steps.hpp>
#include <smalti/flow/through_packed.hpp>
#include <smalti/ops/gemm.hpp>
#include <smalti/ops/gemm/grouped.hpp>
#include <smalti/ops/gemm/quantized.hpp>
#include <smalti/ops/moe.hpp>
#include <smalti/ops/moe/sum_by_id.hpp>
#include <smalti/ops/quantize.hpp>
#include <smalti/policy/epilogue.hpp>

namespace smalti::inline SMALTI_CODE::moe {

//! What a layer of experts may be told besides its types. Derive, and change what you need.
struct options {
  static constexpr bool copies = false;              //!< rows are copied to the order of the groups first, padding as zeros; else gathered on load
  static constexpr bool batch_invariant = false;     //!< a token's bits do not depend on the other tokens, nor on the layout of the index
  using partial = float;                             //!< what an expert's rows are held as before they are combined: float or the activations' type
};

namespace detail {
// A matrix in workspace. Where there is none (sizes, checks) it stands at addresses of its own that nobody reads.
template <class T> view<T> carved(carver& c, int rows, int cols) {
  return {c.place<T>(std::size_t(rows) * cols), rows, cols, cols};
}
template <bool Gathers, bool Invariant, gemm::b_order B = gemm::b_order::n_by_k, bool Adds = false> struct grouped_form : gemm::grouped_options {
  static constexpr bool gathers = Gathers, batch_invariant = Invariant, adds = Adds;
  static constexpr gemm::b_order b = B;
};
template <bool Gathers, bool Invariant> struct linear_form : gemm::linear_options {
  static constexpr bool gathers = Gathers, batch_invariant = Invariant;
};
}  // namespace detail

//! Experts' weights as matrices N x K of the activations' own type, one after another, or slices of a shared one.
template <class X> struct dense_experts {
  using element = X;
  using weight = stack<const X>;
  template <class Y, class Epilogue, bool Gathers, bool Invariant> using product = gemm::grouped<X, X, Y, Epilogue, detail::grouped_form<Gathers, Invariant>>;
  static int outputs(const weight& w) { return w.rows; }
  static int count(const weight& w) { return w.count; }
  template <class Args, class V, class Out> static void set(Args& a, const V& x, const weight& w, const Out& y) { a.a = x, a.b = w, a.c = y; }
  //! The product with the weights' other side, for gradients: y (Adds: +=) x W_e.
  template <class Y, bool Adds> using through = gemm::grouped<X, X, Y, policy::chain<>, detail::grouped_form<false, false, gemm::b_order::k_by_n, Adds>>;
  template <class Args, class V, class Out> static void set_through(Args& a, const V& x, const weight& w, const Out& y) { set(a, x, w, y); }
};
//! Packed weights of any format of policy/formats.hpp (packed_weight with as many experts).
template <class Format, class X = bf16> struct quantized_experts {
  using element = X;
  using weight = gemm::packed_weight<Format, X>;
  template <class Y, class Epilogue, bool Gathers, bool Invariant> using product = gemm::grouped_weight_only<Format, Epilogue, X, Y, detail::linear_form<Gathers, Invariant>>;
  static int outputs(const weight& w) { return w.n; }
  static int count(const weight& w) { return w.experts; }
  template <class Args, class V, class Out> static void set(Args& a, const V& x, const weight& w, const Out& y) { a.x = x, a.w = w, a.y = y; }
  template <class Y, bool Adds> using through = flow::through_packed<Format, X, Y, Adds>;
  template <class Args, class V, class Out> static void set_through(Args& a, const V& x, const weight& w, const Out& y) { a.dy = x, a.w = w, a.dx = y; }
};

//! Packed weights of integers, multiplied by the 8-bit dot: rows are copied to the order of the groups and quantized, and so are the
//! hidden values before the second product (half a step of each value more, as Tokens says: never chosen silently). What decoding
//! on a processor wants: the 8-bit dot reads weights at the bandwidth of memory.
template <class Format, class X = bf16, class Tokens = policy::int8_tokens<Format::scales::group_k>> struct integer_experts {
  using element = X;
  using tokens = Tokens;
  template <class Y, class Epilogue, bool, bool Invariant> using product = gemm::grouped_quantized<Tokens, Format, Epilogue, Y, detail::linear_form<false, Invariant>>;
  using weight = typename product<X, policy::chain<>, false, false>::weight_type;
  static constexpr bool sums = gemm::scale_arrays<typename Format::scales>::has_minimum || gemm::scale_arrays<typename Format::scales>::has_zero;
  struct quantizing : quantize::options { static constexpr int sum_group = sums ? gemm::packed_group(Format::scales::group_k) : 0; };
  using quantizer = quantize::tokens<X, Tokens, quantizing>;
  static int outputs(const weight& w) { return w.n; }
  static int count(const weight& w) { return w.experts; }
  //! The quantized rows stand behind the product's own arguments: scales and sums as the quantizer wrote them.
  template <class Args, class V, class Out> static void set(Args& a, const V& q, const weight& w, const Out& y) {
    a.x = reading(q.codes), a.x_scales = reading(q.scales), a.w = w, a.y = y;
    if constexpr (sums) a.x_sums = reading(q.sums);
  }
};

//! Experts that are equal parts of one matrix: its rows (gate and up) or its columns (down), as VersatileFFN's virtual experts are.
template <class T, int Step> constexpr stack<const T, Step> row_slices(const view<const T, Step>& w, int parts) {
  return {w.data, parts, w.rows / parts, w.cols, static_cast<long long>(w.rows / parts) * w.stride, w.stride};
}
template <class T, int Step> constexpr stack<const T, Step> column_slices(const view<const T, Step>& w, int parts) { return {w.data, parts, w.rows, w.cols / parts, w.cols / parts, w.stride}; }

//! y[t] = sum over t's choices j, of expert e and weight w:  w down_e(activation(gate_e x[t]) (up_e x[t])),  plus share[t] x[t].
//! Two products (each with its plan of tiles) and one launch that combines; nothing is copied or padded: the first product
//! gathers the tokens' rows on load, the combination gathers the experts'.
//!
//! @tparam Experts  where weights come from: dense_experts<X>, quantized_experts<Format, X>, integer_experts<Format, X>
//! @tparam Activation  policy::silu, relu, gelu, or any epilogue of one value
//! @tparam Y  float, bf16 or fp16
//! @pre   the index lies where the work runs, and so do the weights; its layout may be any of policy/route/layout.hpp
//! @post  same bits on every run. With batch_invariant a token's bits depend neither on the other tokens nor on the layout;
//!        without, the tile of an expert's product is chosen by the average of rows
//! @note  cost: 6 S H I operations for S slots, each expert's weights read once per tile of its rows; workspace: the S x I values
//!        between the products, the S x H before the combination
//! @note  error: two products', then the combination's: docs/ops/moe.md has the model
//! Sources: Tan et al. 2024, ScatterMoE, arXiv:2403.08245; identity experts: LongCat-Flash 2025, arXiv:2509.01322; constant ones: MoE++; slices:
//! VersatileFFN.
template <class Experts, class Activation = policy::silu, class Y = typename Experts::element, class Options = options> struct scatter_moe : flow::in_steps<scatter_moe<Experts, Activation, Y, Options>> {
  using X = typename Experts::element;
  using weight = typename Experts::weight;
  using partial = typename Options::partial;
  using first_op = typename Experts::template product<X, policy::chain<policy::gated<Activation>>, !(Options::copies || requires { typename Experts::tokens; }), Options::batch_invariant>;
  using second_op = typename Experts::template product<partial, policy::chain<>, false, Options::batch_invariant>;
  using combine_op = combine<partial, Y, X>;
  using dispatch_op = dispatch<X>;
  static constexpr bool quantizes = requires { typename Experts::tokens; }, copies = Options::copies || quantizes;

  struct args {
    view<const X> x = {};                 //!< tokens x H
    policy::route_index index = {};
    weight gate = {}, up = {};            //!< I x H for each expert
    weight down = {};                     //!< H x I for each expert
    view<Y> y = {};                       //!< tokens x H
    const float* share = nullptr;         //!< null, or [tokens]: the weight of the identity experts, which return x
    Activation activation = {};
    view<const X> constants = {};         //!< null, or rows that constant experts give: combine's, told by ids from first_constant on
    const std::int32_t* ids = nullptr;
    int first_constant = 0;
  };

  template <class Context> static status refuse(const Context&, const args& x) {
    return first_of([&] { return check_index<is_host<Context>>(x.index, x.x.rows); }, [&] { return check_sizes(x); }, [&] { return check_view<"y">(x.y); }, [&] { return check_view<"constants">(x.constants); },
                    [&] { return combine_op::check_constants(last(x, {})); });
  }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    const plan p = lay_out(carve, x);
    const auto quantize_rows = [&]([[maybe_unused]] const view<X>& v) -> status {
      if constexpr (quantizes) {
        const codes to = codes_of(p, v.rows, v.cols);
        return step(typename Experts::quantizer{}, typename Experts::quantizer::args{.x = reading(v), .codes = to.codes, .scales = to.scales, .sums = to.sums});
      } else {
        return {};
      }
    };
    return first_of([&]() -> status {
      if constexpr (copies) return step(dispatch_op{}, typename dispatch_op::args{x.x, x.index, p.copied});
      else return {};
    }, [&] { return quantize_rows(p.copied); }, [&] { return step(first_op{}, first(x, p)); }, [&] { return quantize_rows(p.hidden); }, [&] { return step(second_op{}, second(x, p)); },
       [&] { return step(flow::later<combine_op>{}, last(x, p)); });      // y may be an array of a larger plan, which has no address yet
  }

private:
  struct codes {
    view<std::int8_t> codes;
    view<float, 1> scales, sums;
  };
  struct plan {
    view<X> copied, hidden;
    view<partial> made;
    std::int8_t* code;
    float *scale, *sum;
  };
  static status check_sizes(const args& x) {
    if (Experts::count(x.gate) < x.index.experts() || Experts::count(x.up) < x.index.experts() || Experts::count(x.down) < x.index.experts())
      return {errc::bad_shape, "gate, up and down need a weight for each expert of the index", Experts::count(x.gate), x.index.experts()};
    if (x.y.rows != x.x.rows || x.y.cols != x.x.cols) return {errc::bad_shape, "y needs the extents of x", x.y.rows, x.x.rows};
    if (x.index.experts() > 0 && Experts::outputs(x.down) != x.x.cols) return {errc::bad_shape, "down needs as many outputs as x has columns (H)", Experts::outputs(x.down), x.x.cols};
    if (bytes_of(x.y).meets(bytes_of(x.x))) return {errc::aliased, "y must not overlap x: the layer reads x to its end"};
    return {};
  }
  static plan lay_out(carver& carve, const args& x) {
    plan p{};
    const int rows = x.index.row_limit, inner = Experts::outputs(x.gate);
    if (copies) p.copied = detail::carved<X>(carve, rows, x.x.cols);
    if constexpr (quantizes) {
      const int wide = x.x.cols > inner ? x.x.cols : inner;
      p.code = detail::carved<std::int8_t>(carve, rows, wide).data;
      p.scale = detail::carved<float>(carve, Experts::quantizer::groups(wide), rows).data;
      p.sum = detail::carved<float>(carve, sum_groups(wide), rows).data;
    }
    p.hidden = detail::carved<X>(carve, rows, inner);
    p.made = detail::carved<partial>(carve, rows, x.x.cols);
    return p;
  }
  static constexpr int sum_groups(int cols) {
    if constexpr (quantizes) return Experts::sums ? ceil_div(cols, Experts::quantizing::sum_group > 0 ? Experts::quantizing::sum_group : 1) : 0;
    else return 0;
  }
  // Where the codes of so many columns stand; both products' rows are quantized in the same place, one after the other.
  static codes codes_of(const plan& p, int rows, int cols) {
    const int groups = Experts::quantizer::groups(cols), sums = sum_groups(cols);
    return {{p.code, rows, cols, cols}, {p.scale, groups, rows, rows}, {sums > 0 ? p.sum : nullptr, sums, sums > 0 ? rows : 0, rows}};
  }
  static auto rows_for(const view<const X>& v, [[maybe_unused]] const plan& p) {
    if constexpr (quantizes) return codes_of(p, v.rows, v.cols);
    else return v;
  }
  static typename first_op::args first(const args& x, const plan& p) {
    typename first_op::args a{};
    Experts::set(a, rows_for(copies ? reading(p.copied) : x.x, p), x.gate, p.hidden);
    a.up = x.up;
    a.rows = x.index.rows;
    a.end = x.index.end;
    if constexpr (!copies) a.source = {x.index.token_of_row, x.index.row_limit, 1, 1};
    a.epilogue = {{x.activation}, {}};
    return a;
  }
  static typename combine_op::args last(const args& x, const plan& p) {
    return {.x = reading(p.made), .index = x.index, .y = x.y, .same = x.share != nullptr ? x.x : view<const X>{}, .share = x.share, .constants = x.constants, .ids = x.ids, .first_constant = x.first_constant};
  }
  static typename second_op::args second(const args& x, const plan& p) {
    typename second_op::args a{};
    Experts::set(a, rows_for(reading(p.hidden), p), x.down, p.made);
    a.rows = x.index.rows;
    a.end = x.index.end;
    return a;
  }
};

namespace detail {
template <class Options> struct copying : Options { static constexpr bool copies = true; };
}  // namespace detail

//! The same layer over rows that are first copied to the order of the groups, padding as zeros: MegaBlocks' dropless layer, whose
//! block-diagonal product is this grouped one. Give it an index aligned to the block (128 there).
//! Source: Gale et al. 2022, MegaBlocks, arXiv:2211.15841.
template <class Experts, class Activation = policy::silu, class Y = typename Experts::element, class Options = options>
using mega_blocks = scatter_moe<Experts, Activation, Y, detail::copying<Options>>;

//! y = down (f(gate x) * table[token id]): a layer whose up projection is a row of an embedding, one for each token of the vocabulary.
//! Two dense products; the rows are read as the first one stores.
//! @pre   ids are rows of the table: checked on the host
//! @note  error: that of two dense products, hidden values being rounded to X
//! Source: STEM, scaling transformers with embedding modules.
template <class X, class Activation = policy::silu, class Y = X, class T = X> struct stem : flow::in_steps<stem<X, Activation, Y, T>> {
  using gate_op = gemm::dense<X, X, X, policy::chain<Activation, policy::times_embedding<T>>>;
  using down_op = gemm::dense<X, X, Y>;
  struct args {
    view<const X> x = {};                 //!< tokens x H
    const int* id = nullptr;              //!< [tokens]
    view<const X> gate = {}, down = {};   //!< I x H, H x I
    view<const T, 1> table = {};          //!< vocabulary x I
    view<Y> y = {};                       //!< tokens x H
    Activation activation = {};
  };
  template <class Context> static status refuse(const Context&, const args& x) {
    if constexpr (is_host<Context>)
      for (int t = 0; x.id != nullptr && t < x.x.rows; ++t)
        if (x.id[t] < 0 || x.id[t] >= x.table.rows) return {errc::bad_value, "id: a token that the table has no row for", x.id[t], x.table.rows};
    return {};
  }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    if (bytes_of(x.y).meets(bytes_of(x.x))) return {errc::aliased, "y must not overlap x"};
    const view<X> hidden = detail::carved<X>(carve, x.x.rows, x.gate.rows);
    typename gate_op::args gate{};
    gate.a = x.x, gate.b = x.gate, gate.c = hidden, gate.epilogue = {x.activation, {{x.table, x.id, x.x.rows}, {}}};
    typename down_op::args down{};
    down.a = reading(hidden), down.b = x.down, down.c = x.y;
    return first_of([&] { return step(gate_op{}, gate); }, [&] { return step(down_op{}, down); });
  }
};

//! Gradients of scatter_moe. The values between the products are computed again: nothing of the forward pass is kept but x and the index.
//!     d_out = dy by rows,  dh = d_out down,  (d_gate, d_up, w h, d_weight) = gated_gradient
//!     d_down_e = d_out' (w h),  d_gate_e = d_gate' x,  d_up_e = d_up' x      over the rows of e: zeros where there are none
//!     dx = sum over choices of d_gate gate + d_up up
//! Packed experts are frozen: dx and d_weight pass through them (flow::through_packed). With share, identity experts add share[t] dy[t] to dx.
//!     d_share[t] = <dy[t], x[t]>,   d_constants[c] = sum of w dy over the slots of constant expert c, whose d_weight is <dy, constants[c]>
//! @tparam Experts  dense_experts<X> or quantized_experts<Format, X>, X: bf16, fp16 or (dense) float; the rounding of integer_experts has no
//!                  gradient: take quantized_experts. DX, DW: of the gradients
//! @note  cost: dense 16 S H I operations, four of them for what is computed again; packed 10 S H I and 2 H I (2 H + I) for each expert, which decode
//!        it by rows of the identity; workspace_bytes
//! @post  same bits on every run; nothing is added in an order that is open
template <class Experts, class Activation = policy::silu, class DX = typename Experts::element, class DW = float>
struct scatter_moe_backward : flow::in_steps<scatter_moe_backward<Experts, Activation, DX, DW>> {
  static_assert(!requires { typename Experts::tokens; }, "smalti: rounding rows to 8 bits has no gradient: take quantized_experts of the same weights for scatter_moe_backward");
  using X = typename Experts::element;
  using weight = typename Experts::weight;
  static constexpr bool trains = std::is_same_v<Experts, dense_experts<X>>;
  using gather_op = typename Experts::template product<X, policy::chain<>, true, false>;
  using through_op = typename Experts::template through<float, false>;
  using adding_op = typename Experts::template through<float, true>;
  struct gathered_depth : gemm::depth_options { static constexpr bool gathers = true; };
  using down_op = gemm::grouped_depth<X, X, DW>;
  using in_op = gemm::grouped_depth<X, X, DW, policy::chain<>, gathered_depth>;
  using dispatch_op = dispatch<X>;
  using gradient_op = gated_gradient<X, float, Activation>;
  using combine_op = combine<float, DX, X>;
  using dots_op = row_dots<X, X>;
  using constants_op = sum_by_id<X>;

  struct args {
    view<const X> x = {}, dy = {};               //!< tokens x H
    policy::route_index index = {};
    weight gate = {}, up = {}, down = {};
    view<DX> dx = {};                            //!< tokens x H
    gemm::optional_member<trains, stack<DW>, 5> d_gate = {};      //!< dense experts
    gemm::optional_member<trains, stack<DW>, 6> d_up = {};
    gemm::optional_member<trains, stack<DW>, 7> d_down = {};
    float* d_weight = nullptr;                   //!< [tokens x choices]
    const float* share = nullptr;                //!< null, or [tokens]: as forward
    Activation activation = {};
    float* d_share = nullptr;                    //!< null: not wanted; else [tokens]
    view<const X> constants = {};                //!< as forward, with ids and first_constant
    const std::int32_t* ids = nullptr;
    int first_constant = 0;
    view<float> d_constants = {};                //!< as constants, or null: not wanted
  };
  template <class Context> static status refuse(const Context&, const args& x) {
    if (x.constants.rows > 0) {
      if (const status bad = combine_op::check_constants({.index = x.index, .y = x.dx, .constants = {x.constants.data, x.constants.rows, x.constants.cols, x.constants.stride}, .ids = x.ids, .first_constant = x.first_constant}); !bad) return bad;
      if (x.d_constants.data != nullptr && x.d_constants.rows != x.constants.rows) return {errc::bad_shape, "d_constants needs the extents of constants", x.d_constants.rows, x.constants.rows};
    } else if (x.d_constants.data != nullptr) {
      return {errc::bad_shape, "constants is empty, but d_constants is not: the rows that constant experts give", 0, x.d_constants.rows};
    }
    if (const status bad = check_index<is_host<Context>>(x.index, x.x.rows); !bad) return bad;
    if (Experts::count(x.gate) < x.index.experts() || Experts::count(x.up) < x.index.experts() || Experts::count(x.down) < x.index.experts())
      return {errc::bad_shape, "gate, up and down need a weight for each expert of the index", Experts::count(x.gate), x.index.experts()};
    return {};
  }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    struct {
      view<X> gate, up, d_out, hidden;      // d_gate and d_up lie over gate and up
      view<float> dh, dx;
    } p{};
    const int rows = x.index.row_limit, inner = Experts::outputs(x.gate), wide = x.x.cols;
    p.gate = detail::carved<X>(carve, rows, inner), p.up = detail::carved<X>(carve, rows, inner), p.hidden = detail::carved<X>(carve, rows, inner);
    p.d_out = detail::carved<X>(carve, rows, wide);
    p.dh = detail::carved<float>(carve, rows, inner), p.dx = detail::carved<float>(carve, rows, wide);
    const view<const int, 1> source{x.index.token_of_row, rows, 1, 1};
    const auto project = [&](const weight& w, const view<X>& to) {
      typename gather_op::args a{};
      Experts::set(a, x.x, w, to);
      a.rows = x.index.rows, a.end = x.index.end, a.source = source;
      return step(gather_op{}, a);
    };
    const auto through = [&](const auto& op, const view<X>& from, const weight& w, const view<float>& to) {
      typename std::remove_cvref_t<decltype(op)>::args a{};
      Experts::set_through(a, reading(from), w, to);
      a.rows = x.index.rows, a.end = x.index.end;
      return step(op, a);
    };
    policy::route_index plain = x.index;
    plain.weight_of_slot = nullptr;
    return first_of([&] { return project(x.gate, p.gate); }, [&] { return project(x.up, p.up); },
                    [&] { return step(dispatch_op{}, typename dispatch_op::args{x.dy, x.index, p.d_out}); }, [&] { return through(through_op{}, p.d_out, x.down, p.dh); },
                    [&] {
                      return step(gradient_op{}, typename gradient_op::args{.gate = reading(p.gate), .up = reading(p.up), .dh = reading(p.dh), .index = x.index, .d_gate = p.gate, .d_up = p.up,
                                                                              .hidden = p.hidden, .d_weight = x.d_weight, .activation = x.activation});
                    },
                    [&] { return x.d_share != nullptr ? step(dots_op{}, typename dots_op::args{.a = x.dy, .b = x.x, .dot = x.d_share}) : status{}; },
                    [&] {
                      if (x.constants.rows == 0) return status{};
                      return step(dots_op{}, typename dots_op::args{.a = x.dy, .b = x.constants, .row = x.ids, .dot = x.d_weight, .copies = x.index.choices, .first = x.first_constant, .keeps = true});
                    },
                    [&] {
                      if (x.d_constants.data == nullptr) return status{};
                      return step(constants_op{}, typename constants_op::args{.x = x.dy, .id = x.ids, .weight = x.index.weight_of_slot, .y = x.d_constants, .copies = x.index.choices, .first = x.first_constant});
                    },
                    [&]() -> status {
                      if constexpr (trains) {
                        const auto along = [&](const view<X>& from, const stack<DW>& to) {
                          typename in_op::args a{};
                          a.a = reading(from), a.b = x.x, a.c = to, a.rows = x.index.rows, a.end = x.index.end, a.source = source;
                          return step(in_op{}, a);
                        };
                        typename down_op::args a{};
                        a.a = reading(p.d_out), a.b = reading(p.hidden), a.c = x.d_down, a.rows = x.index.rows, a.end = x.index.end;
                        return first_of([&] { return step(down_op{}, a); }, [&] { return along(p.gate, x.d_gate); }, [&] { return along(p.up, x.d_up); });
                      } else {
                        return {};
                      }
                    },
                    [&] { return through(through_op{}, p.gate, x.gate, p.dx); }, [&] { return through(adding_op{}, p.up, x.up, p.dx); },
                    [&] { return step(combine_op{}, typename combine_op::args{.x = reading(p.dx), .index = plain, .y = x.dx, .same = x.share != nullptr ? x.dy : view<const X>{}, .share = x.share}); });
  }
};

}  // namespace smalti::inline SMALTI_CODE::moe
