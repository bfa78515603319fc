// Layers that low-rank factors change, beside those of flow/lora.hpp: sparse and low-rank updates, factored layers, gradients through packed
// weights, and batches that serve and train at once. docs/ops/lora/README.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/lora/sparse.hpp>
#include <smalti/flow/in_steps.hpp>
#include <smalti/flow/lora.hpp>
#include <smalti/flow/through_packed.hpp>
#include <smalti/ops/gemm.hpp>
#include <smalti/ops/gemm/grouped.hpp>
#include <smalti/ops/gemm/quantized.hpp>
#include <smalti/policy/low_rank.hpp>

namespace smalti::inline SMALTI_CODE::lora {

namespace detail {
template <bool Host> status check_sparse(const sparse_rows& s, int outputs, int inputs) {
  if (s.outputs != outputs) return {errc::bad_shape, "sparse: there must be a list of entries for each column of y", s.outputs, outputs};
  if (s.entries < 0) return {errc::bad_shape, "sparse: entries must not be negative", s.entries, 0};
  if (outputs > 0 && s.first == nullptr) return {errc::null_pointer, "sparse: first is null: it needs an entry for each output, and one more", 0, std::int64_t(outputs) + 1};
  if (s.entries > 0 && (s.column == nullptr || s.value == nullptr)) return {errc::null_pointer, "sparse: column or value is null: they need a number for each entry", 0, s.entries};
  if constexpr (Host) {
    for (int i = 0; i < outputs; ++i) {
      if (s.first[i] < 0 || s.first[i + 1] < s.first[i] || s.first[i + 1] > s.entries) return {errc::bad_value, "sparse: first must not decrease, nor end beyond the entries", s.first[i + 1], s.entries};
      for (int e = s.first[i]; e < s.first[i + 1]; ++e) {
        if (s.column[e] < 0 || s.column[e] >= inputs) return {errc::bad_value, "sparse: a column that x does not have", s.column[e], inputs};
        if (e > s.first[i] && s.column[e] <= s.column[e - 1]) return {errc::bad_value, "sparse: the columns of an output must rise, none twice: sort the entries and add up equal ones", s.column[e], s.column[e - 1]};
      }
    }
  }
  return {};
}
}  // namespace detail

//! y[r, i] += sum over the entries (i, j, s) of s x[r, j].
//! @pre   columns of an output rise (checked on the host); lists lie where the work runs
//! @post  same bits on every run, and batch_invariant: entries are added in their order
//! @note  cost: 2 rows an entry, and rows x 64 moved for each 64 outputs with entries; error (entries of the output + 1) 2^-24 of the magnitudes
template <class X, class Y = X> struct sparse_update {
  struct args {
    view<const X> x = {};             //!< rows x H
    sparse_rows sparse = {};          //!< outputs: H'
    view<Y> y = {};                   //!< rows x H'
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_view<"x">(x.x); }, [&] { return check_view<"y">(x.y); }, [&] { return detail::check_sparse<is_host<Context>>(x.sparse, x.y.cols, x.x.cols); },
                    [&] { return x.x.rows == x.y.rows ? status{} : status{errc::bad_shape, "x and y need the same rows", x.x.rows, x.y.rows}; },
                    [&] { return bytes_of(x.y).meets(bytes_of(x.x)) ? status{errc::aliased, "y must not overlap x: blocks read x while others write y"} : status{}; });
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) { return 0; }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = check(context, x); !bad) return bad;
      if (x.y.rows == 0 || x.y.cols == 0 || x.sparse.entries == 0) return {};
      return launch<sparse_kernel<X, Y>>(base_of(context), {x.x, x.sparse, x.y});
    } else {
      return check(context, x);
    }
  }
};
//! gradient[e] = sum over rows of dy[r, output[e]] x[r, column[e]]: the gradient of a dense weight, at its entries only.
//! @post  same bits on every run: rows are added in their order
template <class X> struct sparse_gradient {
  struct args {
    view<const X> x = {}, dy = {};    //!< rows x H, rows x H'
    sparse_rows sparse = {};          //!< its values are not read
    const int* output = nullptr;      //!< [entries] the output of each
    float* gradient = nullptr;        //!< [entries]
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_view<"x">(x.x); }, [&] { return check_view<"dy">(x.dy); }, [&] { return detail::check_sparse<is_host<Context>>(x.sparse, x.dy.cols, x.x.cols); },
                    [&] { return x.x.rows == x.dy.rows ? status{} : status{errc::bad_shape, "x and dy need the same rows", x.x.rows, x.dy.rows}; },
                    [&]() -> status {
                      if (x.sparse.entries > 0 && (x.output == nullptr || x.gradient == nullptr)) return {errc::null_pointer, x.output == nullptr ? "output is null: it needs a number for each entry" : "gradient is null: it needs a place for each entry", 0, x.sparse.entries};
                      if constexpr (is_host<Context>)
                        for (int e = 0; e < x.sparse.entries; ++e)
                          if (x.output[e] < 0 || x.output[e] >= x.dy.cols) return {errc::bad_value, "output: a column that dy does not have", x.output[e], x.dy.cols};
                      return {};
                    });
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) { return 0; }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = check(context, x); !bad) return bad;
      if (x.sparse.entries == 0) return {};
      return launch<sparse_gradient_kernel<X>>(base_of(context), {x.x, x.dy, x.sparse, x.output, {x.gradient, 1, x.sparse.entries, x.sparse.entries}});
    } else {
      return check(context, x);
    }
  }
};

//! y = base(x) + scale (x A') B + S x: a base whose pruned weights are zeros, a low-rank update and a sparse one. No entries: adapted.
//! @tparam Base  as in adapted; its weight holds zeros where a mask prunes
//! Source: Chen et al. 2021, DSEE, dually sparsity-embedded efficient tuning, arXiv:2111.00160.
template <class Base, class X, class T = X, class Y = X, class Options = options> struct dsee : flow::in_steps<dsee<Base, X, T, Y, Options>> {
  using adapted_op = adapted<Base, X, T, Y, Options>;
  using sparse_op = sparse_update<X, Y>;
  struct args {
    typename adapted_op::args layer = {};
    sparse_rows sparse = {};
  };
  template <class Context, class Step> static status steps(const Context&, const args& x, carver&, Step step) {
    return first_of([&] { return step(adapted_op{}, x.layer); }, [&] { return step(sparse_op{}, typename sparse_op::args{x.layer.low_rank.x, x.sparse, x.layer.low_rank.y}); });
  }
};

//! y = (x A') B': a layer stored as two factors, A: rank x H, B: H' x rank, of the rank that its spectrum deserves (policy::kept_rank,
//! threshold_for, worth_factors). Ranks are rounded up to whole multiples of 16 bytes with zero rows of A and columns of B.
//! @note  cost: 2 rank (H + H') operations a row; the values between are rounded to X
//! Source: Jaiswal et al. 2024, WeLore, arXiv:2407.11239.
template <class X, class Y = X> struct we_lore : flow::in_steps<we_lore<X, Y>> {
  using in_op = gemm::dense<X, X, X>;
  using out_op = gemm::dense<X, X, Y>;
  struct args {
    view<const X> x = {};             //!< rows x H
    view<const X> a = {}, b = {};     //!< rank x H, H' x rank
    view<Y> y = {};                   //!< rows x H'
  };
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    if (x.a.rows != x.b.cols) return {errc::bad_shape, "a and b need the same rank: a is rank x H, b is H' x rank", x.a.rows, x.b.cols};
    if (bytes_of(x.y).meets(bytes_of(x.x))) return {errc::aliased, "y must not overlap x: the layer reads x to its end"};
    const view<X> v{carve.place<X>(std::size_t(x.x.rows) * std::size_t(x.a.rows)), x.x.rows, x.a.rows, x.a.rows};
    typename in_op::args in{};
    in.a = x.x, in.b = x.a, in.c = v;
    typename out_op::args out{};
    out.a = reading(v), out.b = x.b, out.c = x.y;
    return first_of([&] { return step(in_op{}, in); }, [&] { return step(out_op{}, out); });
  }
};

//! y = x W' + scale (x A') B by one base product, which adds the update as it stores: y is written once and not read. For one adapter that all
//! rows share; rows with adapters of their own: adapted.
//! @tparam Base  gemm::dense, gemm::weight_only or kin with the epilogue policy::chain<policy::add_low_rank<X>>
//! @note  cost: adapted's, less a pass over y; the rank is multiplied by vectors, not by the matrix unit: for ranks up to 64
template <class Base, class X> struct fused : flow::in_steps<fused<Base, X>> {
  using shrink_op = gemm::dense<X, X, float, policy::chain<policy::scale>>;
  struct args {
    typename Base::args base = {};      //!< its epilogue is filled in here
    view<const X> x = {};               //!< rows x H, as the base's
    view<const X> a = {}, b = {};       //!< rank x H, rank x H'; rank a multiple of 4, with zero rows where need be
    float scale = 1;
  };
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    if (x.a.rows != x.b.rows) return {errc::bad_shape, "a and b need the same rank: a is rank x H, b is rank x H'", x.a.rows, x.b.rows};
    const view<float> v{carve.place<float>(std::size_t(x.x.rows) * std::size_t(x.a.rows)), x.x.rows, x.a.rows, x.a.rows};
    typename shrink_op::args s{};
    s.a = x.x, s.b = x.a, s.c = v, s.epilogue = {{x.scale}, {}};
    typename Base::args base = x.base;
    base.epilogue = {{v.data, x.b.data, v.rows, v.stride, x.a.rows, x.b.cols, x.b.stride}, {}};
    return first_of([&] { return step(shrink_op{}, s); }, [&] { return step(Base{}, base); });
  }
};

//! fused with an adapter of its own, or none (negative), for each row, in pages as sgmv has them.
//! @tparam Base  with the epilogue policy::chain<policy::add_low_rank_of_row<X>>
//! @note  every result gathers its row's B for itself: for the few rows of decoding. From some tens of rows up adapted is faster, which
//!        multiplies B by rows and reads y once more; on the host, where gathers are loads one by one, always
template <class Base, class X, class Options = options> struct fused_rows : flow::in_steps<fused_rows<Base, X, Options>> {
  using offset = typename Options::offset;
  static_assert(std::is_same_v<offset, std::int32_t>, "smalti: fused_rows makes its offsets itself, of 32 bits: leave options::offset as it is");
  using shrink_op = typename sgmv<X, X, X, Options>::shrink;
  struct args {
    typename Base::args base = {};      //!< its epilogue is filled in here
    view<const X> x = {};               //!< rows x H, as the base's
    const int* adapter = nullptr;       //!< [rows]
    adapters<X> weights = {};
  };
  template <class Context> static status refuse(const Context&, const args& x) {
    if (x.x.rows > 0 && x.adapter == nullptr) return {errc::null_pointer, "adapter is null: it needs an entry for each row", 0, x.x.rows};
    if (x.weights.a.pool.cols * x.weights.a.shards != x.x.cols && x.weights.a.weights > 0) return {errc::bad_shape, "x needs as many columns as a row of A has", x.x.cols, x.weights.a.pool.cols};
    if (x.weights.b.shards != 1) return {errc::bad_value, "weights.b: an epilogue reads rows of one shard: take adapted for mixtures of shards", x.weights.b.shards, 1};
    if constexpr (is_host<Context>)
      for (int r = 0; r < x.x.rows; ++r)
        if (x.adapter[r] >= x.weights.a.weights) return {errc::bad_value, "adapter: an entry is beyond the adapters", x.adapter[r], x.weights.a.weights};
    return first_of([&] { return gemm::detail::check_pages<is_host<Context>>(x.weights.a, 1); }, [&] { return gemm::detail::check_pages<is_host<Context>>(x.weights.b, 1); },
                    [&] { return detail::check_ranks(x.weights.a, x.weights.b, is_host<Context>); });
  }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    const int rows = x.x.rows, wide = round_up(x.weights.a.most, 16);
    const auto& b = x.weights.b;
    const view<float> values{carve.place<float>(std::size_t(rows) * std::size_t(wide)), rows, wide, wide};
    offset* const offsets = carve.place<offset>(std::size_t(rows) + 1);
    using counted = flow::started<count_kernel<offset>>;
    typename shrink_op::args s{};
    s.a = x.x, s.b = x.weights.a, s.c = values, s.rows = {offsets, rows}, s.weight = x.adapter;
    typename Base::args base = x.base;
    base.epilogue = {{values.data, x.adapter, b.pool.data, b.first, b.count, b.line, b.scale, rows, wide, b.most, b.pool.cols, b.pool.rows, b.pool.stride, b.weights, b.lines}, {}};
    return first_of([&] { return step(counted{}, typename counted::args{{{offsets, 1, rows + 1, rows + 1}}}); }, [&] { return step(flow::later<shrink_op>{}, s); }, [&] { return step(Base{}, base); });
  }
};

//! dx = dy W for a weight that is packed for y = x W': the gradient through a quantized base. flow::through_packed of one group says how, and
//! what it costs.
template <class Format, class X = bf16, class DX = X> struct through_packed : flow::in_steps<through_packed<Format, X, DX>> {
  using group_op = flow::through_packed<Format, X, DX>;
  using weight_type = typename group_op::decode_op::weight_type;
  struct args {
    view<const X> dy = {};                                     //!< rows x N
    weight_type w = {};                                        //!< N x H
    view<DX> dx = {};                                          //!< rows x H
  };
  template <class Context> static status refuse(const Context& context, const args& x) {
    return first_of([&] { return check_view<"dy">(x.dy); }, [&] { return check_view<"dx">(x.dx); }, [&] { return group_op::refuse(context, {.dy = x.dy, .w = x.w, .rows = {nullptr, 1}, .dx = x.dx}); });
  }
  static bool idle(const args& x) { return x.dy.rows == 0; }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    std::int32_t* const bounds = carve.place<std::int32_t>(2);
    using counted = flow::started<count_kernel<std::int32_t>>;
    return first_of([&] { return step(counted{}, counted::args{{{bounds, 1, 2, 2}, -1, x.dy.rows}}); },
                    [&] { return step(flow::later<group_op>{}, typename group_op::args{.dy = x.dy, .w = x.w, .rows = {bounds, 1}, .dx = x.dx}); });
  }
};

//! Gradients of adapted over a packed base (QLoRA): dx = dy W through the packed weight, then what sgmv_backward adds, and its da and db.
template <class Format, class X = bf16, class DX = X, class Options = options> struct packed_backward : flow::in_steps<packed_backward<Format, X, DX, Options>> {
  using base_op = through_packed<Format, X, DX>;
  using update_op = sgmv_backward<X, X, DX, Options>;
  struct args {
    typename base_op::weight_type w = {};
    typename update_op::args low_rank = {};                    //!< its dx is written, then added to
  };
  template <class Context, class Step> static status steps(const Context&, const args& x, carver&, Step step) {
    return first_of([&] { return step(base_op{}, typename base_op::args{x.low_rank.dy, x.w, x.low_rank.dx}); }, [&] { return step(update_op{}, x.low_rank); });
  }
};
template <class X = bf16, class DX = X, class Options = options> using qlora_backward = packed_backward<policy::bnb_nf4<64>, X, DX, Options>;

//! One batch that serves and trains: rows of requests and rows of training in segments of their own, through one base product. Forward is
//! `forward`, for all rows; `backward` is for the segments whose adapter is named in its own list, and leaves the others' dx alone.
//! A sequence may be trained in windows: with options::accumulates the gradients of a window are added to those of the windows before.
//!     dx[r] = dy[r] W + scale dy B' A,   da, db: see sgmv_backward
//! @pre   the weight W: H' x H; keep x (or nothing else) of the trained rows: y, and the outputs of frozen layers, are not needed
//! @post  with options::batch_invariant a request's rows have the same bits whether training rows are in the batch or not, and gradients do
//!        not depend on the requests. Windows: the same sums in other parts, (windows + rows) 2^-24 of the magnitudes apart
//! Source: Miao et al. 2024, FlexLLM, arXiv:2402.18789.
template <class X, class T = X, class Y = X, class DX = X, class Options = options> struct flex_llm {
  struct whole : gemm::options { static constexpr bool batch_invariant = Options::batch_invariant; };
  using forward = adapted<gemm::dense<X, X, Y, policy::chain<>, whole>, X, T, Y, Options>;
  struct backward : flow::in_steps<backward> {
    struct trained : gemm::grouped_options {
      static constexpr bool named = true, batch_invariant = Options::batch_invariant;
      static constexpr gemm::b_order b = gemm::b_order::k_by_n;
      using offset = typename Options::offset;
    };
    using base_op = gemm::grouped<X, X, DX, policy::chain<>, trained>;
    using update_op = sgmv_backward<X, T, DX, Options>;
    struct args {
      view<const X> w = {};                       //!< H' x H
      typename update_op::args low_rank = {};     //!< adapter: negative for segments that only serve
    };
    template <class Context, class Step> static status steps(const Context&, const args& x, carver&, Step step) {
      const auto& u = x.low_rank;
      typename base_op::args b{};      // every adapter's base is the same matrix
      b.a = u.dy, b.b = {x.w.data, u.weights.a.weights, x.w.rows, x.w.cols, 0, x.w.stride}, b.c = u.dx, b.rows = u.rows, b.weight = u.adapter;
      return first_of([&] { return step(base_op{}, b); }, [&] { return step(update_op{}, u); });
    }
  };
};

}  // namespace smalti::inline SMALTI_CODE::lora
