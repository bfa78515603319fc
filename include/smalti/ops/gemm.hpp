// Dense matrix products: see dense below. docs/ops/gemm.md has the method, the limits and measured results.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/gemm/dense.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/gemm/check.hpp>
#include <smalti/ops/gemm/tuning.hpp>
#include <smalti/policy/epilogue.hpp>
#include <smalti/tile/launch.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! What a dense GEMM may be told besides its types. Derive, and change what you need:
//!     struct wide : gemm::options { static constexpr bool any_width = true; };
struct options {
  static constexpr b_order b = b_order::n_by_k;                          //!< B is N x K (linear layers), or K x N
  static constexpr bool any_width = false;                               //!< the slow path: any address, width and stride
  static constexpr bool split_k = false;                                 //!< args.splits > 1 is allowed; else every tile of C is one block
  static constexpr bool striped = false, stream_k = false;               //!< refused: their blocks wait for each other
  static constexpr determinism level = determinism::run_to_run;
  static constexpr bool batch_invariant = false;                         //!< one kernel for every M: a row's bits never depend on M
};

//! c[i, j] = epilogue(sum over p of a[i, p] * b[j, p], i, j), for each matrix of a batch.
//!
//! @tparam A, B   bf16, fp16 or float (both the same), or int8. float is multiplied as float on the host and as
//!                tf32 (10 explicit significand bits) on a GPU; everything is summed in float, int8 exactly in int
//! @tparam C      float, bf16, fp16 or fp8, rounded to nearest even; int for int8 operands without an epilogue
//! @tparam Epilogue  policy::chain<...> of steps; policy::gated<F> first makes b hold 2 N rows, those of the gate first
//! @pre   rows are contiguous; without any_width: addresses and strides are multiples of 16 bytes, and so are the
//!        widths (columns of a, b, c); c does not overlap a or b; M, N, K < 2^31
//! @post  same bits on every run with the same context (options::level). batch_invariant: the same row of a gives
//!        the same bits whatever the other rows are and however many
//! @note  cost: 2 M N K operations, (M K + N K + M N) elements of traffic. workspace: packed panels on the host;
//!        with split K the sums of every split, and counters. K = 0 gives epilogue(0)
//! @note  error: at most (K + 2) 2^-24 |a||b| relative to the sum of absolute products, then one rounding to C
template <class A, class B, class C, class Epilogue = policy::chain<>, class Options = options>
struct dense {
  static_assert(explain_types<A, B, C, Epilogue>());
  static_assert(policy::explain_epilogue<Epilogue>());
  static_assert(!Options::striped && !Options::stream_k,
                "smalti: striped and stream-K schedules are not offered: their blocks wait for each other, and blocks of a grid run in any order; use options::split_k");
  static_assert(Options::level != determinism::gpu_to_gpu || std::is_same_v<C, int>,
                "smalti: gpu_to_gpu needs results that are exact: int8 operands and an int C; tensor cores sum floats in an order of their own. Use run_to_run");

  template <class T> static constexpr int step = Options::any_width ? 1 : step_of<T>;
  static constexpr bool pairs = policy::takes_pairs<Epilogue>;

  struct args {
    view<const A, step<A>> a;                      //!< M x K
    view<const B, step<B>> b;                      //!< N x K (2 N x K with a gated epilogue), or K x N
    view<C, step<C>> c;                            //!< M x N
    batch_strides batch = {};                      //!< elements between the matrices of a batch
    int splits = 1;                                //!< parts of K, for options::split_k; see suggest_splits
    Epilogue epilogue = {};
  };

  //! Everything that can be said before a launch. Reads no data.
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_dense<Options::b, pairs>(x); },
                    [&] { return check_splits(context, x); }, [&] { return mutant(defect::epilogue_not_checked) ? status{} : policy::check_epilogue(x.epilogue, result_of(x)); });
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
      if (x.c.rows == 0 || x.c.cols == 0 || x.batch.count == 0) return {};
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
    const int most = ceil_div(x.a.cols, 4 * t.k) > 1 ? ceil_div(x.a.cols, 4 * t.k) : 1;
    if (Options::batch_invariant) return most < 8 ? most : 8;
    const long long tiles = static_cast<long long>(ceil_div(x.c.rows, t.m)) * ceil_div(x.c.cols, t.n) * x.batch.count;
    const long long wanted = tiles > 0 ? processors(base_of(context)) / tiles : 1;
    return static_cast<int>(wanted < 1 ? 1 : wanted < most ? wanted : most);
  }

  // ---- what a launch names: kernels are not for callers
  template <bool Far> using problem = dense_problem<A, B, C, Epilogue, Options::b, step<A>, step<B>, step<C>, Options::split_k, Far>;

  template <class Selector, gemm_regime Regime, bool Far> struct kernel {
    using arguments = typename problem<Far>::arguments;
    template <target T> using agent = dense_agent<Selector{}(T, Regime), problem<Far>>;
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
    using given = typename selector_of<Context, default_tuning<A, pairs>>::type;
    static_assert(explain_selector<given>());
    using type = std::conditional_t<Options::batch_invariant, invariant<given>, given>;
  };

private:
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
    workspace panels;
    typename problem<false>::sum* partial;
    int* arrived;
    std::size_t counters, bytes;
  };
  // A block's strip of the right operand is wanted again by the next blocks of the same column.
  template <class Context> static std::size_t panel_bytes(const Context& context, const args& x, const gemm_tuning& t) {
    constexpr std::size_t packed = std::is_same_v<A, fp16> ? sizeof(float) : sizeof(A);   // the host holds fp16 as float
    const bool swapped = t.b_left && Options::b == b_order::n_by_k;
    if (swapped ? x.c.cols <= t.n : x.c.rows <= t.m) return 0;
    return bytes_to_keep(base_of(context), std::size_t(round_up(x.a.cols, t.k)) * (swapped ? t.m : t.n) * (pairs && !swapped ? 2 : 1) * packed);
  }
  template <gemm_regime Regime, class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    const gemm_tuning t = tuning_of(context, Regime);
    const std::size_t tiles = std::size_t(ceil_div(x.c.rows, t.m)) * ceil_div(x.c.cols, t.n) * x.batch.count;
    carver carve{base};
    plan p{};
    const std::size_t panels = panel_bytes(context, x, t);
    p.panels = {carve.take<std::byte>(panels), panels};
    if constexpr (Options::split_k) {
      p.partial = carve.take<typename problem<false>::sum>(tiles * t.m * t.n * (mutant(defect::workspace_for_one_split) ? 1 : x.splits) * (pairs ? 2 : 1));
      p.counters = tiles;
      p.arrived = carve.take<int>(tiles - (mutant(defect::counter_without_room) ? 1 : 0));
    }
    p.bytes = carve.used;
    return p;
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
    const int n = x.c.cols, steps = ceil_div(x.a.cols, tuning_of(context, Regime).k);
    const int b_rows = by_rows ? n : x.b.rows, b_cols = by_rows ? x.b.cols : n;
    const B* up = pairs && !mutant(defect::up_begins_at_gate) ? x.b.data + static_cast<long long>(n) * (by_rows ? x.b.stride : 1) : x.b.data;
    const auto& v = x.batch;
    return launch<Kernel>(base_of(context),
                          {.a = {x.a.data, v.count, x.a.rows, x.a.cols, v.a, x.a.stride},
                           .b = {x.b.data, v.count, b_rows, b_cols, v.b, x.b.stride},
                           .up = {up, v.count, b_rows, b_cols, v.b, x.b.stride},
                           .c = {x.c.data, v.count, x.c.rows, n, mutant(defect::c_steps_as_a) ? v.a : v.c, x.c.stride},
                           .partial = {p.partial, 0, 0, 0},
                           .arrived = p.arrived,
                           .k = x.a.cols,
                           .splits = x.splits,
                           .steps_per_split = mutant(defect::split_rounds_down) ? steps / x.splits : ceil_div(steps, x.splits),
                           .epilogue = x.epilogue},
                          p.panels);
  }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
