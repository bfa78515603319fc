// Dense products of rows in groups: see grouped and grouped_depth below; quantized weights: gemm::grouped_weight_only in
// ops/gemm/quantized.hpp. docs/ops/gemm.md has the method, the limits and measured results.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/gemm/dense.hpp>
#include <smalti/core/segments.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/gemm/check.hpp>
#include <smalti/ops/gemm/grouped_check.hpp>
#include <smalti/ops/gemm/grouped_tuning.hpp>
#include <smalti/ops/gemm/options.hpp>
#include <smalti/policy/epilogue.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! What a grouped product may be told besides its types. Derive, and change what you need.
struct grouped_options : options {
  static constexpr bool gathers = false;     //!< row r of the groups is row source[r] of a
  static constexpr bool scatters = false;    //!< it goes to row target[r] of c, or nowhere where that is negative
  static constexpr bool named = false;       //!< group g takes weight weight[g], or is left out where that is negative
  static constexpr bool adds = false;        //!< the result is added to what c holds
  static constexpr int shard_width = 0;      //!< paged rows in shards: their width is a multiple of this power of two, at least 64; 0: of the tuning's tile
  using offset = std::int32_t;               //!< of the segments
};
//! The same for grouped_depth: a and b lie as the rows of their groups. `gathers`: row r of the groups is row source[r] of b.
struct depth_options : options {
  static constexpr a_order a = a_order::k_by_m;
  static constexpr b_order b = b_order::k_by_n;
  static constexpr bool gathers = false, adds = false;
  using offset = std::int32_t;
};

//! c[r, j] = epilogue(sum over p of a[r, p] * b[e, j, p], r, j) for the rows r of group e: the tokens of an expert, the rows of
//! an adapter. Groups may be empty, of one row, or hold all rows. Their bounds lie where the work runs and are not read by a GPU's
//! host: one launch plans the tiles of rows, one multiplies. Nothing is copied: rows are gathered on load and scattered on store.
//!
//! @tparam A, B, C, Epilogue  as in gemm::dense; B may also be narrower than a float A. A gated epilogue takes a second weight, args.up
//! @tparam Weights  void: args.b is a stack of matrices (their distance may be less than a matrix: slices of a shared one). Or
//!                  paged_rows<B>: as many rows as each weight has, anywhere in a pool; with options::b k_by_n they are the depth of
//!                  the product and a has paged_rows::most columns or more
//! @pre   offsets begin with 0, never decrease and end within the rows; sources exist; targets are in c, each once. The host
//!        checks this; on a GPU it is a precondition. Rows from end[e] to the next offset are padding: neither read nor written
//! @post  same bits on every run with the same context. batch_invariant: a row's bits do not depend on the other rows, on
//!        the order of groups, or on how many rows its group has. With paged_rows columns from a weight's count up to the next
//!        multiple of 16 become zero, the others are not written
//! @note  error and cost: gemm::dense's, each weight being read once for each tile of its rows. The grid has M / tile + groups tiles of
//!        rows: those that no group needs end at once
//! Source: Tan et al. 2024, Scattered mixture-of-experts implementation, arXiv:2403.08245 (rows gathered and scattered by the product).
template <class A, class B, class C, class Epilogue = policy::chain<>, class Options = grouped_options, class Weights = void>
struct grouped {
  static_assert(explain_grouped_types<A, B, C, Epilogue, Options>());
  static_assert(policy::explain_epilogue<Epilogue>());
  static_assert(explain_options<Options>());
  static constexpr bool pairs = policy::takes_pairs<Epilogue>, paged = !std::is_void_v<Weights>, by_rows = Options::b == b_order::n_by_k;
  static_assert(Options::shard_width == 0 || (Options::shard_width >= 64 && (Options::shard_width & (Options::shard_width - 1)) == 0), "smalti: grouped_options::shard_width is 0 or a power of two from 64 on: the largest that divides the shards' width");
  static_assert(!paged || !pairs, "smalti: paged rows have no second half of a pair: shrink and expand without a gated epilogue");

  template <class T> static constexpr int step = Options::any_width ? 1 : step_of<T>;
  using offset = typename Options::offset;
  using rows_type = groups_of_rows<Options::gathers, Options::scatters, Options::named>;
  using problem = dense_problem<A, B, C, Epilogue, Options, false, rows_type, Weights, Options::adds>;
  using weights = typename problem::weights;

  struct args {
    view<const A, step<A>> a = {};                                         //!< rows x K
    weights b = {};                                                        //!< a matrix N x K, or K x N, for each group
    optional_member<pairs, weights, 1> up = {};                            //!< gated epilogues: b is the gate's weight, this the other one
    view<C, step<C>> c = {};                                               //!< rows x N
    segments<offset> rows = {};                                            //!< group e has the rows [first(e), last(e))
    const offset* end = nullptr;                                           //!< null, or [groups]: only the rows before end[e] are in use
    optional_member<Options::named, const int*, 2> weight = {};            //!< [groups]
    optional_member<Options::gathers, view<const int, 1>, 3> source = {};  //!< one column, an entry for each row of the groups
    optional_member<Options::scatters, view<const int, 1>, 4> target = {};
    int splits = 1;                                                        //!< parts of K, for options::split_k
    Epilogue epilogue = {};
  };

  //! Everything that can be said before a launch. Reads no data, but for the rows' numbers on the host.
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(context, x); }, [&] { return policy::check_epilogue(x.epilogue, detail::result_of_rows(x.c, rows_of(x))); });
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
      if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
      if (rows_of(x) == 0 || x.rows.count == 0 || x.c.cols == 0) return {};
      return in_regime(context, x, [&](auto regime) { return start<regime.value>(context, x, memory); });
    } else {
      return check(context, x);
    }
  }

  // ---- what a launch names: kernels are not for callers
  template <class Selector, gemm_regime Regime> struct kernel {
    using arguments = typename problem::arguments;
    template <target T> using agent = dense_agent<Selector{}(T, Regime), problem, false>;
  };
  template <class Context> struct selector_for {
    using given = typename selector_of<Context, grouped_tuning<A, pairs, Options, paged>>::type;
    static_assert(explain_selector<given>());
    using type = std::conditional_t<Options::batch_invariant, invariant_tuning<given, by_rows && !paged>, given>;
  };

private:
  static int rows_of(const args& x) {
    if constexpr (Options::gathers) return x.source.rows;
    else return x.a.rows;
  }
  static int count_of(const args& x) {
    if constexpr (paged) return x.b.weights;
    else return x.b.count;
  }
  template <class Context> static status check_args([[maybe_unused]] const Context& context, const args& x) {
    if (const status bad = first_of([&] { return check_view<"a">(x.a); }, [&] { return check_view<"c">(x.c); }); !bad) return bad;
    const int rows = rows_of(x);
    if constexpr (paged) {
      if (const status bad = detail::check_pages<is_host<Context>>(x.b, by_rows ? tile_of_pages(context).k : tile_of_pages(context).n); !bad) return bad;
      const int width = x.b.pool.cols * x.b.shards, most = round_up(x.b.most, 16);
      if (by_rows && x.a.cols != width && x.b.weights > 0) return {errc::bad_shape, "a needs as many columns (K) as a row of the paged weights has", x.a.cols, width};
      if (by_rows && x.c.cols < most) return {errc::bad_shape, "c needs a column for each row of the largest weight, in whole multiples of 16", x.c.cols, most};
      if (!by_rows && x.c.cols != width && x.b.weights > 0) return {errc::bad_shape, "c needs as many columns (N) as a row of the paged weights has", x.c.cols, width};
      if (!by_rows && x.a.cols < most) return {errc::bad_shape, "a needs a column for each row of the largest weight, in whole multiples of 16", x.a.cols, most};
    } else {
      if (const status bad = detail::check_stack<"b">(x.b, by_rows ? x.c.cols : x.a.cols, by_rows ? x.a.cols : x.c.cols); !bad) return bad;
      if constexpr (pairs) {
        if (const status bad = detail::check_stack<"up">(x.up, by_rows ? x.c.cols : x.a.cols, by_rows ? x.a.cols : x.c.cols); !bad) return bad;
        if (x.up.count != x.b.count) return {errc::bad_shape, "up needs as many matrices as b", x.up.count, x.b.count};
      }
    }
    if (const status bad = detail::check_groups<is_host<Context>>(x.rows, x.end, rows); !bad) return bad;
    if constexpr (Options::named) {
      if (x.rows.count > 0 && x.weight == nullptr) return {errc::null_pointer, "weight is null: it needs an entry for each group", 0, x.rows.count};
      if constexpr (is_host<Context>)
        for (int g = 0; g < x.rows.count; ++g)
          if (x.weight[g] >= count_of(x)) return {errc::bad_value, "weight: an entry is beyond the weights of b", x.weight[g], count_of(x)};
    } else if (x.rows.count > count_of(x)) {
      return {errc::bad_shape, "b: there must be a weight for each group of rows", count_of(x), x.rows.count};
    }
    if constexpr (Options::gathers)
      if (const status bad = detail::check_sources<is_host<Context>, "source">(x.source, x.a.rows, x.rows, x.end); !bad) return bad;
    if constexpr (Options::scatters) {
      if (const status bad = detail::check_targets<is_host<Context>, "target">(x.target, rows, x.c.rows, x.rows, x.end); !bad) return bad;
    } else if (x.c.rows != rows) {
      return {errc::bad_shape, Options::gathers ? "c needs as many rows as source" : "c needs as many rows as a", x.c.rows, rows};
    }
    if (x.splits < 1) return {errc::bad_value, "splits must be at least 1", x.splits, 1};
    if (!Options::split_k && x.splits > 1) return {errc::bad_value, "splits needs options::split_k", x.splits, 1};
    if (x.splits > 256) return {errc::bad_value, "splits must be at most 256: more cost more than they gain", x.splits, 256};
    if constexpr (!is_host<Context> && (Options::gathers || Options::scatters))
      if (!in_reach(x.a) || !in_reach(x.c)) return {errc::out_of_reach, "a and c must have fewer than 2^31 elements where a GPU gathers or scatters their rows: call with fewer rows at a time", static_cast<long long>(x.a.rows) * x.a.stride, 2147483647ll};
    if (detail::bytes_of(x.c, 1, 0).meets(detail::bytes_of(x.a, 1, 0))) return {errc::aliased, "c must not overlap a: blocks read a while others write c"};
    return {};
  }

  template <class Context> static constexpr gemm_tuning tile_of_pages(const Context& context) { return tuning_of(context, gemm_regime::prefill); }
  template <class Context> static constexpr gemm_tuning tuning_of(const Context& context, gemm_regime regime) { return typename selector_for<Context>::type{}(target_for(base_of(context)), regime); }
  // By the rows of an average group: grids are sized from shapes alone, without reading offsets.
  template <gemm_regime R> using constant = std::integral_constant<gemm_regime, R>;
  template <class Context, class Work> static constexpr auto in_regime(const Context&, const args& x, Work work) {
    const int groups = x.rows.count, rows = groups > 1 ? ceil_div(rows_of(x), groups) : rows_of(x);
    using selector = typename selector_for<Context>::type;
    if constexpr (!Options::batch_invariant) {
      if (rows <= decode_rows_of_groups<is_host<Context>, paged>) return work(constant<gemm_regime::decode>{});
      if constexpr (is_host<Context> && !(selector{}(target::host, gemm_regime::few) == selector{}(target::host, gemm_regime::prefill)))
        if (rows <= few_rows_of_groups<A, Options, paged>) return work(constant<gemm_regime::few>{});
    }
    return work(constant<gemm_regime::prefill>{});
  }

  struct plan {
    workspace panels;
    int* tiles;
    int entries;
    typename problem::sum* partial;
    int* arrived;
    std::size_t counters, bytes;
  };
  template <gemm_regime Regime, class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    const gemm_tuning t = tuning_of(context, Regime);
    const bool swapped = t.b_left && by_rows && !paged;
    plan p{};
    p.entries = most_row_tiles(rows_of(x), x.rows.count, t.m);
    carver carve{base};
    const bool again = !paged && (swapped ? x.c.cols > t.n : rows_of(x) > t.m);      // a strip of the right operand is wanted by the next blocks
    const std::size_t panels = again ? bytes_to_keep(base_of(context), std::size_t(round_up(x.a.cols, t.k)) * (swapped ? t.m : t.n) * (pairs && !swapped ? 2 : 1) * held_bytes<A>) : 0;
    p.panels = {carve.take<std::byte>(panels), panels};
    p.tiles = carve.take<int>(std::size_t(3) * p.entries);
    if constexpr (Options::split_k) {
      const std::size_t tiles = std::size_t(p.entries) * ceil_div(x.c.cols, t.n);
      p.partial = carve.take<typename problem::sum>(tiles * t.m * t.n * x.splits * (pairs ? 2 : 1));
      p.counters = tiles;
      p.arrived = carve.take<int>(tiles);
    }
    p.bytes = carve.used;
    return p;
  }
  template <gemm_regime Regime, class Context> static status start(const Context& context, const args& x, workspace memory) {
    const auto& base = base_of(context);
    const plan p = lay_out<Regime>(context, x, memory.data);
    const gemm_tuning t = tuning_of(context, Regime);
    if (p.counters != 0)
      if (const status bad = clear(base, p.arrived, p.counters * sizeof(int)); !bad) return bad;
    if (const status bad = launch<plan_kernel<offset>>(base, {x.rows.offsets, x.end != nullptr ? x.end : x.rows.offsets + 1, x.rows.count, t.m, {p.tiles, 3, p.entries, p.entries}}); !bad) return bad;
    typename problem::arguments a{.a = {x.a.data, 1, x.a.rows, x.a.cols, 0, x.a.stride},
                                  .b = x.b,
                                  .up = x.b,
                                  .c = {x.c.data, 1, x.c.rows, x.c.cols, 0, x.c.stride},
                                  .partial = {p.partial, 0, 0, 0},
                                  .arrived = p.arrived,
                                  .reduced = nullptr,
                                  .k = x.a.cols,
                                  .splits = x.splits,
                                  .steps_per_split = ceil_div(ceil_div(x.a.cols, t.k), x.splits),
                                  .group = t.group,
                                  .workers = 0,
                                  .epilogue = x.epilogue};
    if constexpr (pairs) a.up = x.up;
    a.rows.plan = p.tiles;
    a.rows.entries = p.entries;
    if constexpr (Options::named) a.rows.weight = x.weight;
    if constexpr (Options::gathers) a.rows.source = x.source;
    if constexpr (Options::scatters) a.rows.target = x.target;
    return launch<kernel<typename selector_for<Context>::type, Regime>>(base, a, p.panels);
  }
};

//! c[e, i, j] = epilogue(sum over the rows r of group e of a[r, i] * b[r, j], i, j): gradients of grouped weights, dW_e = dY_e' X_e.
//! An empty group gives epilogue(0): zeros, or with options::adds what was there.
//!
//! @tparam A, B, C, Epilogue  as in gemm::dense, without pairs
//! @pre   as grouped; with gathers the rows source[r] of b are finite where those of a are padding
//! @post  same bits on every run with the same context; a group's matrix does not depend on the other groups
//! @note  cost: 2 rows M N operations, groups M N elements written
template <class A, class B, class C, class Epilogue = policy::chain<>, class Options = depth_options>
struct grouped_depth {
  static_assert(explain_grouped_types<A, B, C, Epilogue, Options>());
  static_assert(!policy::takes_pairs<Epilogue>, "smalti: a product along grouped depth has no pairs: take an epilogue of one value");
  static_assert(Options::a == a_order::k_by_m && Options::b == b_order::k_by_n, "smalti: grouped_depth takes rows of groups on both sides: derive its options from gemm::depth_options");
  template <class T> static constexpr int step = Options::any_width ? 1 : step_of<T>;
  using offset = typename Options::offset;
  using rows_type = groups_of_depth<offset, Options::gathers>;
  using problem = dense_problem<A, B, C, Epilogue, Options, false, rows_type, void, Options::adds>;

  struct args {
    view<const A, step<A>> a = {};                                         //!< rows x M
    view<const B, step<B>> b = {};                                         //!< rows x N
    stack<C, step<C>> c = {};                                              //!< M x N for each group; they may be columns of one matrix
    segments<offset> rows = {};
    const offset* end = nullptr;                                           //!< null, or [groups]: only the rows before end[e] count
    optional_member<Options::gathers, view<const int, 1>, 3> source = {};  //!< one column, an entry for each row of the groups
    Epilogue epilogue = {};
  };

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(context, x); },
                    [&] { return policy::check_epilogue(x.epilogue, detail::result_of_rows(view<C, step<C>>{x.c.data, x.c.rows, x.c.cols, x.c.stride}, x.c.rows)); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return 0;
    else return lay_out(context, x, nullptr).bytes;
  }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
      if (x.rows.count == 0 || x.c.rows == 0 || x.c.cols == 0) return {};
      const plan p = lay_out(context, x, memory.data);
      typename problem::arguments a{.a = {x.a.data, 1, x.a.rows, x.a.cols, 0, x.a.stride},
                                    .b = {x.b.data, 1, x.b.rows, x.b.cols, 0, x.b.stride},
                                    .up = {},
                                    .c = {x.c.data, x.rows.count, x.c.rows, x.c.cols, x.c.distance, x.c.stride},
                                    .partial = {},
                                    .arrived = nullptr,
                                    .reduced = nullptr,
                                    .k = 0,
                                    .splits = 1,
                                    .steps_per_split = 0,
                                    .group = p.group,
                                    .workers = 0,
                                    .epilogue = x.epilogue};
      a.rows.first = x.rows.offsets;
      a.rows.last = x.end != nullptr ? x.end : x.rows.offsets + 1;
      if constexpr (Options::gathers) a.rows.source = x.source.data;
      return launch<kernel<typename selector_for<Context>::type>>(base_of(context), a, p.panels, p.turned);
    } else {
      return check(context, x);
    }
  }

  template <class Selector> struct kernel {
    using arguments = typename problem::arguments;
    template <target T> using agent = dense_agent<Selector{}(T, gemm_regime::prefill), problem, false>;
  };
  template <class Context> struct selector_for {
    using type = typename selector_of<Context, grouped_tuning<A, false, Options, false>>::type;
    static_assert(explain_selector<type>());
  };

private:
  static int rows_of(const args& x) {
    if constexpr (Options::gathers) return x.source.rows;
    else return x.b.rows;
  }
  template <class Context> static status check_args(const Context&, const args& x) {
    const view<C, step<C>> first{x.c.data, x.c.rows, x.c.cols, x.c.stride};
    if (const status bad = first_of([&] { return check_view<"a">(x.a); }, [&] { return check_view<"b">(x.b); }, [&] { return detail::check_stack<"c">(x.c, x.a.cols, x.b.cols); }); !bad) return bad;
    const int rows = rows_of(x);
    if (x.a.rows != rows) return {errc::bad_shape, Options::gathers ? "a needs as many rows as source" : "a and b need the same rows", x.a.rows, rows};
    if (x.c.count < x.rows.count) return {errc::bad_shape, "c needs a matrix for each group", x.c.count, x.rows.count};
    const bool beside = x.c.distance >= x.c.cols && (x.c.count - 1) * x.c.distance + x.c.cols <= x.c.stride;      // columns of one matrix
    if (x.c.count > 1 && !beside && x.c.distance < static_cast<long long>(x.c.rows - 1) * x.c.stride + x.c.cols && x.c.rows > 0) return {errc::aliased, "c.distance: the matrices of c must not overlap", x.c.distance, static_cast<long long>(x.c.rows) * x.c.stride};
    if (const status bad = detail::check_groups<is_host<Context>>(x.rows, x.end, rows); !bad) return bad;
    if constexpr (Options::gathers) {
      if (const status bad = detail::check_sources<is_host<Context>, "source">(x.source, x.b.rows, x.rows, x.end); !bad) return bad;
      if constexpr (!is_host<Context>)
        if (!in_reach(x.b)) return {errc::out_of_reach, "b must have fewer than 2^31 elements where a GPU gathers its rows", static_cast<long long>(x.b.rows) * x.b.stride, 2147483647ll};
    }
    const auto c = detail::bytes_of(first, x.c.count, x.c.distance);
    if (c.meets(detail::bytes_of(x.a, 1, 0)) || c.meets(detail::bytes_of(x.b, 1, 0))) return {errc::aliased, "c must not overlap a or b: blocks read them while others write c"};
    return {};
  }
  struct plan {
    workspace panels, turned;
    int group;
    std::size_t bytes;
  };
  // Strips of both operands are wanted again by the next blocks. Those of a group of average depth are kept, and of larger
  // ones what there is room for.
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    const gemm_tuning t = typename selector_for<Context>::type{}(target_for(base_of(context)), gemm_regime::prefill);
    const int groups = x.rows.count > 1 ? x.rows.count : 1, average = ceil_div(rows_of(x), groups), twice = 2 * average < rows_of(x) ? 2 * average : rows_of(x);
    const std::size_t deep = std::size_t(round_up(twice > 1 ? twice : 1, t.k)) * held_bytes<A>;
    carver carve{base};
    plan p{};
    const int high = ceil_div(x.c.rows, t.m), fit = int((std::size_t(16) << 20) / (deep * t.m));
    p.group = fit < 1 ? 1 : fit < high ? fit : high;
    const std::size_t panels = high > 1 ? bytes_to_keep(base_of(context), deep * t.n) : 0, turned = is_host<Context> && x.c.cols > t.n ? bytes_to_keep(base_of(context), deep * t.m * p.group) : 0;
    p.panels = {carve.take<std::byte>(panels), panels};
    p.turned = {carve.take<std::byte>(turned), turned};
    p.bytes = carve.used;
    return p;
  }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
