// Dense matrix products: see dense below. docs/ops/gemm.md has the method, the limits and measured results.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/gemm/dense.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/gemm/check.hpp>
#include <smalti/ops/gemm/options.hpp>
#include <smalti/ops/gemm/order_tuning.hpp>
#include <smalti/ops/gemm/tuning.hpp>
#include <smalti/policy/epilogue.hpp>
#include <smalti/tile/launch.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! c[i, j] = epilogue(sum over p of a[i, p] * b[j, p], i, j), for each matrix of a batch; a may lie as K x M, b as K x N.
//!
//! @tparam A, B   bf16, fp16, float, fp8_e4m3 or fp8_e5m2 (both the same), or int8. float is multiplied as float on the
//!                host and as tf32 (10 explicit significand bits) on a GPU, or both as options::f32 says; 8-bit floats
//!                exactly; everything is summed in float, int8 exactly in int
//! @tparam C      float, bf16, fp16 or fp8, rounded to nearest even; int for int8 operands without an epilogue
//! @tparam Epilogue  policy::chain<...> of steps; policy::gated<F> first makes b hold 2 N rows, those of the gate first
//! @tparam Options   ops/gemm/options.hpp: orders of a and b, schedules, reductions of the result
//! @pre   rows are contiguous; without any_width: addresses and strides are multiples of 16 bytes, and so are the
//!        widths (columns of a, b, c); c does not overlap a or b; M, N, K < 2^31
//! @post  same bits on every run with the same context (options::level). batch_invariant: the same row of a gives
//!        the same bits whatever the other rows are and however many
//! @note  cost: 2 M N K operations, (M K + N K + M N) elements of traffic. workspace: packed panels on the host;
//!        with split K the sums of every split, and counters. K = 0 gives epilogue(0)
//! @note  error: at most (K + 2) 2^-24 |a||b| relative to the sum of absolute products, then one rounding to C; tf32 adds
//!        2^-9 |a||b|, tf32x3 (3 K + 2) 2^-24 + 2^-20 instead
template <class A, class B, class C, class Epilogue = policy::chain<>, class Options = options>
struct dense {
  static_assert(explain_types<A, B, C, Epilogue>());
  static_assert(policy::explain_epilogue<Epilogue>());
  static_assert(explain_options<Options>());
  static_assert(Options::f32 == float_product::tf32 || std::is_same_v<A, float>,
                "smalti: tf32x3 splits float operands: take away options::f32, or make A and B float");
  static_assert(policy::reduction_count<typename Options::reductions> == 0 || !std::is_same_v<C, int>,
                "smalti: reductions are of float results: use a float C");
  static_assert(Options::level != determinism::gpu_to_gpu || std::is_same_v<C, int>,
                "smalti: gpu_to_gpu needs results that are exact: int8 operands and an int C; tensor cores sum floats in an order of their own. Use run_to_run");

  template <class T> static constexpr int step = Options::any_width ? 1 : step_of<T>;
  static constexpr bool pairs = policy::takes_pairs<Epilogue>;

  struct args {
    view<const A, step<A>> a;                      //!< M x K, or K x M
    view<const B, step<B>> b;                      //!< N x K (2 N x K with a gated epilogue), or K x N
    view<C, step<C>> c;                            //!< M x N
    batch_strides batch = {};                      //!< elements between the matrices of a batch
    int splits = 1;                                //!< parts of K, for options::split_k; see suggest_splits
    Epilogue epilogue = {};
    typename Options::reductions reduce = {};      //!< where the reductions of options::reductions go
  };

  //! Everything that can be said before a launch. Reads no data.
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_dense<Options, pairs>(x); },
                    [&] { return check_splits(context, x); }, [&] { return policy::check_reductions(x.reduce, result_of(x), x.batch.count); }, [&] { return mutant(defect::epilogue_not_checked) ? status{} : policy::check_epilogue(x.epilogue, result_of(x)); });
  }

  //! Bytes of workspace that run needs: from sizes and the context alone.
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return 0;
    else return in_regime(context, x, [&](auto regime) { return lay_out<regime.value>(context, x, nullptr).bytes; });
  }

  //! Starts the product on the context; on the host it is done on return. Never allocates or waits.
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = first_of([&] { return check(context, x); },
                                      [&] { return mutant(defect::workspace_not_checked) ? status{} : check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
      if (x.batch.count == 0) return {};
      if (x.c.rows == 0 || x.c.cols == 0) return combine_reductions(context, x, x.reduce, nullptr, 0, 0);   // of nothing: zero
      return in_regime(context, x, [&](auto regime) { return start<regime.value>(context, x, memory); });
    } else {
      return check(context, x);
    }
  }

  //! A number of splits that fills the machine when the tiles of C alone do not. With batch_invariant it comes from
  //! K only.
  template <class Context> static int suggest_splits(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    const gemm_tuning t = in_regime(context, x, [&](auto regime) { return tuning_of(context, regime.value); });
    const int steps = ceil_div(depth(x), 4 * t.k), most = steps > 1 ? steps : 1;
    if (Options::batch_invariant) return most < 8 ? most : 8;
    const long long tiles = static_cast<long long>(ceil_div(x.c.rows, t.m)) * ceil_div(x.c.cols, t.n) * x.batch.count;
    const long long wanted = tiles > 0 ? processors(base_of(context)) / tiles : 1;
    return static_cast<int>(wanted < 1 ? 1 : wanted < most ? wanted : most);
  }

  // ---- what a launch names: kernels are not for callers
  template <bool Far> using problem = dense_problem<A, B, C, Epilogue, Options, Far>;

  template <class Selector, gemm_regime Regime, bool Far> struct kernel {
    using arguments = typename problem<Far>::arguments;
    template <target T> using agent = dense_agent<Selector{}(T, Regime), problem<Far>, Options::persistent && loops_over_tiles(T)>;
  };

  // One kernel for every M, whose accumulators never mix rows: on the host that is the form with B on the left.
  template <class Selector> struct invariant {
    SMALTI_HD constexpr gemm_tuning operator()(target t, gemm_regime) const {
      gemm_tuning chosen = Selector{}(t, gemm_regime::prefill);
      if (t == target::host && Options::b == b_order::n_by_k) chosen.m = 64, chosen.b_left = true;
      return chosen;
    }
  };
  template <class Context> struct selector_for {
    using given = typename selector_of<Context, order_tuning<A, pairs, Options>>::type;
    static_assert(explain_selector<given>());
    using type = std::conditional_t<Options::batch_invariant, invariant<given>, given>;
  };

private:
  static constexpr int depth(const args& x) { return depth_of_a<Options>(x); }
  template <class Context> static status check_splits(const Context&, const args& x) {
    if (x.splits < 1 && !mutant(defect::no_splits_accepted)) return {errc::bad_value, "splits must be at least 1", x.splits, 1};
    if (!Options::split_k && x.splits > 1 && !mutant(defect::splits_without_option_accepted)) return {errc::bad_value, "splits needs options::split_k", x.splits, 1};
    if (x.splits > 256 && !mutant(defect::too_many_splits_accepted)) return {errc::bad_value, "splits must be at most 256: more cost more than they gain", x.splits, 256};
    return {};
  }

  template <class Context> static constexpr gemm_tuning tuning_of(const Context& context, gemm_regime regime) {
    return typename selector_for<Context>::type{}(target_for(base_of(context)), regime);
  }
  // work(regime) for the regime of these arguments, as a type: each is a kernel of its own.
  template <gemm_regime R> using constant = std::integral_constant<gemm_regime, R>;
  template <class Context, class Work> static constexpr auto in_regime(const Context&, const args& x, Work work) {
    if (!Options::batch_invariant && x.c.rows <= decode_rows) return work(constant<gemm_regime::decode>{});
    using selector = typename selector_for<Context>::type;
    if constexpr (is_host<Context> && Options::b == b_order::n_by_k && !(selector{}(target::host, gemm_regime::few) == selector{}(target::host, gemm_regime::prefill)))
      if (x.c.rows <= few_rows) return work(constant<gemm_regime::few>{});
    return work(constant<gemm_regime::prefill>{});
  }

  struct plan {
    workspace panels, turned;
    typename problem<false>::sum* partial;
    float* reduced;
    int* arrived;
    std::size_t counters, bytes;
    int group;
  };
  // What the host holds an element of A as: fp16 as float, 8-bit floats as bf16.
  static constexpr std::size_t packed = std::is_same_v<A, fp16> ? sizeof(float) : std::is_same_v<A, std::int8_t> || sizeof(A) > 1 ? sizeof(A) : sizeof(bf16);
  static constexpr bool swapped(const gemm_tuning& t) { return t.b_left && Options::b == b_order::n_by_k; }
  // A block's strip of the right operand is wanted again by the next blocks of the same column.
  template <class Context> static std::size_t panel_bytes(const Context& context, const args& x, const gemm_tuning& t) {
    if (swapped(t) ? x.c.cols <= t.n : x.c.rows <= t.m) return 0;
    return bytes_to_keep(base_of(context), std::size_t(round_up(depth(x), t.k)) * (swapped(t) ? t.m : t.n) * (pairs && !swapped(t) ? 2 : 1) * packed);
  }
  // A left operand that had to be turned is wanted again by the blocks of the next column: of as many rows of tiles as
  // 16 MiB hold, which are made together.
  template <class Context> static std::size_t turned_bytes(const Context& context, const args& x, const gemm_tuning& t, int& group) {
    if (!is_host<Context> || Options::a == a_order::m_by_k || swapped(t) || x.c.cols <= t.n) return 0;
    const std::size_t strip = std::size_t(round_up(depth(x), t.k)) * t.m * packed, fit = (std::size_t(16) << 20) / (strip > 0 ? strip : 1);
    const int all = ceil_div(x.c.rows, t.m), rows = t.group > 0 && t.group < all ? t.group : all;
    group = fit < 1 ? 1 : fit < std::size_t(rows) ? int(fit) : rows;
    return bytes_to_keep(base_of(context), strip * group);
  }
  template <class... R> static std::size_t reduced_floats(const args&, const gemm_tuning&, policy::chain<R...>) { return 0; }
  template <class First, class... Rest> static std::size_t reduced_floats(const args& x, const gemm_tuning& t, policy::chain<First, Rest...>) {
    return std::size_t(shape_of<First>(x, t).floats()) + reduced_floats(x, t, policy::chain<Rest...>{});
  }
  template <class R> static reduction_shape<R> shape_of(const args& x, const gemm_tuning& t) {
    return {x.c.rows, x.c.cols, ceil_div(x.c.rows, t.m), ceil_div(x.c.cols, t.n), x.batch.count};
  }
  template <gemm_regime Regime, class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    const gemm_tuning t = tuning_of(context, Regime);
    const std::size_t tiles = std::size_t(ceil_div(x.c.rows, t.m)) * ceil_div(x.c.cols, t.n) * x.batch.count;
    carver carve{base};
    plan p{};
    p.group = t.group;
    const std::size_t panels = panel_bytes(context, x, t), turned = turned_bytes(context, x, t, p.group);
    p.panels = {carve.take<std::byte>(panels), panels};
    p.turned = {carve.take<std::byte>(turned), turned};
    if constexpr (problem<false>::reduces) p.reduced = carve.take<float>(reduced_floats(x, t, typename Options::reductions{}));
    if constexpr (Options::split_k) {
      p.partial = carve.take<typename problem<false>::sum>(tiles * t.m * t.n * (mutant(defect::workspace_for_one_split) ? 1 : x.splits) * (pairs ? 2 : 1));
      p.counters = tiles;
      p.arrived = carve.take<int>(tiles - (mutant(defect::counter_without_room) ? 1 : 0));
    }
    p.bytes = carve.used;
    return p;
  }
  // The second pass of each reduction.
  template <class Context> static status combine_reductions(const Context&, const args&, const policy::chain<>&, const float*, int, int) { return {}; }
  template <class Context, class First, class... Rest>
  static status combine_reductions(const Context& context, const args& x, const policy::chain<First, Rest...>& list, const float* parts, int tile_rows, int tile_cols) {
    const reduction_shape<First> shape(x.c.rows, x.c.cols, tile_rows, tile_cols, x.batch.count);
    if (shape.extent > 0)
      if (const status bad = launch<combine_reduction_kernel<First::maximum>>(
              base_of(context), {parts, shape.count, shape.parts, shape.stride(), {list.first.data, shape.count, shape.extent, shape.count > 1 ? int(list.first.distance) : shape.extent}}); !bad) return bad;
    return combine_reductions(context, x, list.rest, parts == nullptr ? parts : parts + shape.floats(), tile_rows, tile_cols);
  }

  template <gemm_regime Regime, class Context> static status start(const Context& context, const args& x, workspace memory) {
    using selector = typename selector_for<Context>::type;
    if constexpr (!is_host<Context>)
      if (out_of_reach(x)) return start<kernel<selector, gemm_regime::prefill, true>, gemm_regime::prefill>(context, x, memory);
    return start<kernel<selector, Regime, false>, Regime>(context, x, memory);
  }
  template <class Kernel, gemm_regime Regime, class Context> static status start(const Context& context, const args& x, workspace memory) {
    const plan p = lay_out<Regime>(context, x, memory.data);
    if (p.counters != 0 && !mutant(defect::counters_not_cleared))
      if (const status bad = clear(base_of(context), p.arrived, p.counters * sizeof(int)); !bad) return bad;
    constexpr bool by_rows = Options::b == b_order::n_by_k;
    const gemm_tuning t = tuning_of(context, Regime);
    const int n = x.c.cols, steps = ceil_div(depth(x), t.k);
    const int b_rows = by_rows ? n : x.b.rows, b_cols = by_rows ? x.b.cols : n;
    const B* up = pairs && !mutant(defect::up_begins_at_gate) ? x.b.data + static_cast<long long>(n) * (by_rows ? x.b.stride : 1) : x.b.data;
    const auto& v = x.batch;
    const status done = launch<Kernel>(base_of(context),
                          {.a = {x.a.data, v.count, x.a.rows, x.a.cols, v.a, x.a.stride},
                           .b = {x.b.data, v.count, b_rows, b_cols, v.b, x.b.stride},
                           .up = {up, v.count, b_rows, b_cols, v.b, x.b.stride},
                           .c = {x.c.data, v.count, x.c.rows, n, mutant(defect::c_steps_as_a) ? v.a : v.c, x.c.stride},
                           .partial = {p.partial, 0, 0, 0},
                           .arrived = p.arrived,
                           .reduced = p.reduced,
                           .k = depth(x),
                           .splits = x.splits,
                           .steps_per_split = mutant(defect::split_rounds_down) ? steps / x.splits : ceil_div(steps, x.splits),
                           .group = p.group,
                           .workers = processors(base_of(context)) * t.occupancy,
                           .epilogue = x.epilogue},
                          p.panels, p.turned);
    if (!done) return done;
    return combine_reductions(context, x, x.reduce, p.reduced, ceil_div(x.c.rows, t.m), ceil_div(x.c.cols, t.n));
  }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
