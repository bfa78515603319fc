// The linear operations' one body: what a kind of weights and activations needs before the product, and the product itself.
// ops/gemm/quantized.hpp gives it its names and says what each computes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>
#include <smalti/block/gemm/activations.hpp>
#include <smalti/block/gemm/linear.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/packed.hpp>
#include <smalti/core/segments.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/gemm/grouped_check.hpp>
#include <smalti/ops/gemm/linear_check.hpp>
#include <smalti/ops/gemm/linear_tuning.hpp>
#include <smalti/ops/gemm/packed_weight.hpp>
#include <smalti/policy/epilogue.hpp>
#include <smalti/policy/token_format.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! What a linear operation may be told besides its types. Derive, and change what you need:
//!     struct mine : gemm::linear_options { static constexpr bool split_k = true; };
struct linear_options {
  static constexpr bool any_width = false;         //!< the slow path: any address, width and stride of x and y
  static constexpr bool split_k = false;           //!< args.splits > 1 is allowed
  static constexpr bool persistent = false;        //!< as many blocks as the machine runs at once make all tiles (from sm_90 on; before, one block a tile)
  static constexpr bool gathers = false;           //!< grouped: row r of the groups is row source[r] of x
  static constexpr bool scatters = false;          //!< grouped: it goes to row target[r] of y, or nowhere where that is negative
  static constexpr policy::scale_in scale = policy::scale_in::accumulator;   //!< where scales along k enter
  using offset = std::int32_t;                     //!< grouped: of the segments
  static constexpr determinism level = determinism::run_to_run;
  static constexpr bool batch_invariant = false;   //!< one kernel for every M: a row's bits never depend on the other rows
};

namespace detail {

// ---- kinds: what is multiplied by what

// 16-bit activations and packed weights.
template <class Format, class X, policy::scale_in In> struct upcast_kind {
  static_assert(std::is_same_v<X, bf16> || std::is_same_v<X, fp16>, "smalti: packed weights are multiplied with activations of bf16 or fp16; quantized activations: gemm::quantized");
  static_assert(In != policy::scale_in::epilogue, "smalti: scales that do not vary along k enter in the epilogue by themselves: say accumulator or operand");
  using x = X;
  using operand = X;
  using weight = packed_weight<Format, X>;
  using source = packed_weights<packed_format<Format>, typename weight::layout, In, weight::scale_panel>;
  static constexpr bool sums = source::scale_type::has_minimum || (source::scale_type::has_zero && In != policy::scale_in::operand);
  static constexpr bool own_sums = sums, given_scales = false, given_sums = false, has_order = true;
  using factors = activation_factors<-1, sums>;
  static constexpr int sum_group = packed_format<Format>::scales::group_k;
  static constexpr double bytes_of_weight = (Format::codec::bits + (Format::scales::group_k > 0 ? 8.0 * sizeof(typename source::scale_type::stored) / Format::scales::group_k : 0)) / 8;
  static source source_of(const weight& w) { return {w.planes, w.scales}; }
  static const int* order_of(const weight& w) { return w.order; }
  static int outputs(const weight& w) { return w.n; }
};
// 8-bit integer activations and packed weights.
template <class Tokens, class Format> struct integer_kind {
  using x = std::int8_t;
  using operand = std::int8_t;
  using weight = packed_weight<Format, std::int8_t>;
  using source = packed_weights<packed_format<Format>, typename weight::layout, policy::scale_in::accumulator, weight::scale_panel>;
  static constexpr bool sums = source::scale_type::has_minimum || source::scale_type::has_zero;
  static constexpr bool own_sums = false, given_scales = true, given_sums = sums, has_order = true;
  using factors = activation_factors<Tokens::group, sums>;
  static constexpr int sum_group = packed_format<Format>::scales::group_k;
  static constexpr double bytes_of_weight = upcast_kind<Format, bf16, policy::scale_in::accumulator>::bytes_of_weight;
  static source source_of(const weight& w) { return {w.planes, w.scales}; }
  static const int* order_of(const weight& w) { return w.order; }
  static int outputs(const weight& w) { return w.n; }
};
// Weights as they are: 8-bit floats with scales on both sides.
template <class X, int Group, class Scales> struct matrix_kind {
  using x = X;
  using operand = X;
  using weight = matrix_weight<X, Scales>;
  using source = plain_weights<X, scale_arrays<Scales>>;
  static constexpr bool sums = false, own_sums = false, given_scales = Group >= 0, given_sums = false, has_order = false;
  using factors = activation_factors<Group, false>;
  static constexpr int sum_group = 0;
  static constexpr double bytes_of_weight = sizeof(X);
  static source source_of(const weight& w) { return {w.matrix, w.scales}; }
  static const int* order_of(const weight&) { return nullptr; }
  static int outputs(const weight& w) { return w.matrix.rows; }
};

// Codes under scales of groups of k on both sides, multiplied as they lie.
template <class Tokens, class Format> struct block_scaled_kind {
  using x = typename Tokens::code;
  using operand = std::conditional_t<std::is_same_v<x, e2m1x2>, e2m1, x>;
  using second = typename Format::scales::second;
  using scale = typename Tokens::scale;
  using block_scale = typename stored_as<scale>::type;
  using weight = block_scaled_weight<x, scale, Tokens::group, second>;
  using source = block_scaled_weights<x, scale, Tokens::group, second>;
  static constexpr bool sums = false, own_sums = false, given_scales = false, given_sums = false, has_order = false;
  using factors = block_factors<scale, source::has_number>;
  static constexpr int sum_group = 0, scale_group = Tokens::group;
  static constexpr double bytes_of_weight = (8.0 * sizeof(x) / codes_in<x> + 8.0 / Tokens::group) / 8;
  static source source_of(const weight& w) { return {w.matrix, w.scales, w.tensor}; }
  static const int* order_of(const weight&) { return nullptr; }
  static int outputs(const weight& w) { return w.matrix.rows; }
};
template <class Kind> constexpr bool is_block_scaled = requires { typename Kind::block_scale; };
// The scales of activations: floats as quantize::tokens writes them, stored scales, or none.
template <class Kind> constexpr auto kind_of_scales() {
  if constexpr (is_block_scaled<Kind>) return std::type_identity<view<const typename Kind::block_scale>>{};
  else return std::type_identity<optional_member<Kind::given_scales, view<const float, 1>, 1>>{};
}
template <class Kind> constexpr bool has_tensor_scales() {
  if constexpr (is_block_scaled<Kind>) return Kind::source::has_number;
  else return false;
}

template <class Agent> struct one_kernel {
  using arguments = std::remove_cvref_t<decltype(Agent::a)>;
  template <target> using agent = Agent;
};

}  // namespace detail

template <class Kind, class Epilogue, class Y, class Options, bool Grouped, bool AlongK = false> struct linear_op {
  static_assert(float_result<Y>, "smalti: Y of a linear operation is float, bf16, fp16, fp8_e4m3 or fp8_e5m2");
  static_assert(policy::explain_epilogue<Epilogue>());
  static_assert(Options::level != determinism::gpu_to_gpu, "smalti: gpu_to_gpu needs results that are exact: the sums of scaled groups are floats. Use run_to_run");
  static_assert(Grouped || (!Options::gathers && !Options::scatters), "smalti: rows are gathered and scattered by the grouped forms only");
  static_assert(!AlongK || (!Options::split_k && !Options::gathers && !Options::scatters), "smalti: a product in groups along k takes its parts of K from the segments: no splits, no gathered or scattered rows");
  static_assert(!Options::persistent || (!Grouped && !AlongK), "smalti: grouped products are not persistent: a grid of blocks walks the groups");
  static_assert(!(AlongK && Kind::given_sums && Kind::sum_group == 0), "smalti: zero points of whole rows want the sums of each segment's activations: take scales of groups, or 16-bit activations");
  static_assert(!AlongK || codes_in<typename Kind::x> == 1, "smalti: groups along k are not taken of two codes a byte: quantize to fp8, or use gemm::weight_only's form");
  static_assert(!(Options::gathers && (Kind::given_scales || detail::is_block_scaled<Kind>)), "smalti: quantized activations are not gathered: gather the rows before they are quantized");

  using x_type = typename Kind::x;
  using weight_type = typename Kind::weight;
  using source_type = typename Kind::source;
  using offset = typename Options::offset;
  static constexpr bool pairs = policy::takes_pairs<Epilogue>;
  static_assert(!pairs || detail::is_block_scaled<Kind> || requires { typename weight_type::layout; }, "smalti: a gated epilogue takes packed weights here: gemm::dense for others");
  template <class T> static constexpr int step = Options::any_width ? 1 : step_of<T>;

  struct args {
    view<const x_type, step<x_type>> x = {};                                         //!< M x K
    typename decltype(detail::kind_of_scales<Kind>())::type x_scales = {};           //!< as quantize::tokens writes them: floats K / group x M; of block-scaled products M x K / group
    optional_member<detail::has_tensor_scales<Kind>(), const float*, 8> x_tensor = {};   //!< NVFP4: the scale of all of x, where the work runs
    optional_member<Kind::given_sums, view<const float, 1>, 2> x_sums = {};          //!< K / (the weight's group) x M: sums of the decoded activations
    weight_type w = {};
    optional_member<pairs, weight_type, 3> up = {};                                  //!< gated epilogues: w is the gate's weight, this the other one
    std::conditional_t<AlongK, stack<Y, step<Y>>, view<Y, step<Y>>> y = {};          //!< M x N; of groups along k one for each segment
    optional_member<Grouped || AlongK, segments<offset>, 4> rows = {};               //!< row r belongs to the weight whose segment it is in; along k: column k of x and w to the result whose
    optional_member<Grouped || AlongK, const offset*, 7> end = {};                   //!< null, or one past the last row (column) in use of each segment: the rest is padding, neither read nor written
    optional_member<Options::gathers, view<const int, 1>, 5> source = {};            //!< one column
    optional_member<Options::scatters, view<const int, 1>, 6> target = {};
    int splits = 1;                                                                  //!< parts of K, for linear_options::split_k; see suggest_splits
    Epilogue epilogue = {};
  };

  //! Everything that can be said before a launch. Reads no data, but for the segments on the host.
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(context, x); }, [&] { return policy::check_epilogue(x.epilogue, result_of_y(x)); });
  }
  //! Bytes of workspace that run needs: from sizes and the context alone.
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return 0;
    else return in_regime<Context>(x, [&](auto regime) { return lay_out<regime.value>(context, x, nullptr).bytes; });
  }
  //! Starts the product on the context; on the host it is done on return. Never allocates or waits.
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
      if (grouped_rows(x) == 0 || x.y.cols == 0 || layers(x) == 0) return {};
      return in_regime<Context>(x, [&](auto regime) { return start<regime.value>(context, x, memory); });
    } else {
      return check(context, x);
    }
  }
  //! What run will do: describe() prints it.
  template <class Context> static linear_plan plan(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    return in_regime<Context>(x, [&](auto regime) { return plan_with<regime.value>(context, x, x.splits); });
  }
  //! The number of splits that the model of linear_tuning.hpp finds fastest. With batch_invariant it comes from K alone.
  template <class Context> static int suggest_splits(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    return in_regime<Context>(x, [&](auto regime) {
      const int most = ceil_div(depth_of(x), 512);
      if (Options::batch_invariant) return most < 1 ? 1 : most < 8 ? most : 8;
      int best = 1;
      for (const int splits : {2, 3, 4, 6, 8, 12, 16})
        if (splits <= most && plan_with<regime.value>(context, x, splits).cost < plan_with<regime.value>(context, x, best).cost) best = splits;
      return best;
    });
  }

  // ---- what a launch names: kernels are not for callers
  using rows_type = std::conditional_t<AlongK, groups_of_depth<offset, false>, std::conditional_t<!Grouped, one_matrix, groups_of_rows<Options::gathers, Options::scatters>>>;
  using problem = linear_problem<x_type, typename Kind::operand, source_type, typename Kind::factors, Y, Epilogue, rows_type, Options::split_k, step<x_type>, step<Y>, Options::persistent>;
  using sum = typename problem::sum;
  template <class Selector, gemm_regime Regime> struct kernel {
    using arguments = typename problem::arguments;
    template <target T> using agent = linear_agent<Selector{}(T, Regime), problem, Options::persistent && loops_over_tiles(T)>;
  };
  template <class Selector> struct invariant {
    SMALTI_HD constexpr linear_tuning operator()(target t, gemm_regime) const { return Selector{}(t, gemm_regime::prefill); }
  };
  template <class Context> struct selector_for {
    using fallback = std::conditional_t<detail::is_block_scaled<Kind>, block_scaled_tuning<typename Kind::operand, pairs>, default_linear_tuning<typename Kind::operand, pairs, problem::chunk, AlongK, Options::persistent>>;
    using given = typename selector_of<Context, fallback>::type;
    static_assert(explain_linear_selector<given>());
    using type = std::conditional_t<Options::batch_invariant, invariant<given>, given>;
  };

private:
  static constexpr int prepass_rows = 16, prepass_columns = 64;
  using gather_agent = gather_columns<x_type, step<x_type>, prepass_rows, prepass_columns>;
  static constexpr int sum_width = Kind::sum_group == 0 ? 64 : Kind::sum_group % 64 == 0 ? 64 : Kind::sum_group % 32 == 0 ? 32 : 16;
  static constexpr int step_k = source_type::depth * source_type::tiles;      // of packed weights: the only ones with sums
  using rows_of_segments = segment_rows<Kind::sum_group, step_k>;
  using segment_agent = std::conditional_t<Kind::given_sums, given_segment_sums<Kind::sum_group, step_k, offset, prepass_columns>,
                                           segment_sums<x_type, step<x_type>, Kind::sum_group, step_k, offset, prepass_rows, sum_width>>;
  template <int Step> using sums_agent = group_sums<x_type, Step, Kind::sum_group, prepass_rows, sum_width, Options::gathers>;

  static int depth_of(const args& x) { return x.x.cols * codes_in<x_type>; }
  // Rows that are multiplied: those of the groups, or of x.
  static int grouped_rows(const args& x) {
    if constexpr (Options::gathers) return x.source.rows;
    else return x.x.rows;
  }
  static int groups_of(const args& x) {
    if constexpr (Grouped) return x.rows.count;
    else return 1;
  }
  static policy::result_matrix result_of_y(const args& x) {
    const detail::bytes y = detail::bytes_of(matrix_of(x), 1, 0);
    return {x.y.rows, x.y.cols, y.first, y.last, static_cast<long long>(x.y.stride) * static_cast<long long>(sizeof(Y))};
  }
  // The result, or the first of those of groups along k.
  static view<Y, step<Y>> matrix_of(const args& x) { return {x.y.data, x.y.rows, x.y.cols, x.y.stride}; }
  static int layers(const args& x) {
    if constexpr (AlongK) return x.rows.count;
    else return 1;
  }
  static bool reorders(const args& x) { return Kind::has_order && Kind::order_of(x.w) != nullptr; }

  template <class Context> static status check_args(const Context& context, const args& x) {
    if (const status bad = first_of([&] { return detail::check_x(x.x); }, [&] { return detail::check_y(matrix_of(x)); }, [&] { return detail::check_weight(x.w, depth_of(x), x.y.cols); }); !bad) return bad;
    if constexpr (pairs) {
      if (const status bad = detail::check_weight(x.up, depth_of(x), x.y.cols); !bad) return bad;
      if constexpr (Kind::has_order)
        if (reorders(x) && x.up.order != x.w.order) return {errc::bad_value, "up and w must share one order of columns: pack them as one"};
    }
    const int rows = grouped_rows(x);
    if constexpr (Options::gathers) {
      if (rows > 0 && x.source.data == nullptr) return {errc::null_pointer, "source is null"};
      if (rows < 0 || (rows > 0 && x.source.cols != 1) || (rows > 1 && x.source.stride != 1)) return {errc::bad_shape, "source is one column of row numbers, one after another", x.source.cols, 1};
      if (rows > 0 && x.x.rows == 0) return {errc::bad_shape, "x has no rows to gather", 0, 1};
    }
    if constexpr (Options::scatters) {
      if (rows > 0 && x.target.data == nullptr) return {errc::null_pointer, "target is null"};
      if (x.target.rows != rows || (rows > 0 && x.target.cols != 1) || (rows > 1 && x.target.stride != 1))
        return {errc::bad_shape, "target is one column of row numbers, one for each row of the groups", x.target.rows, rows};
    } else if (x.y.rows != rows) return {errc::bad_shape, Options::gathers ? "y needs as many rows as source" : "y needs as many rows as x (M)", x.y.rows, rows};
    if constexpr (Grouped) {
      if (x.rows.count < 0) return {errc::bad_shape, "segments.count must not be negative", x.rows.count, 0};
      if (x.rows.count > 0 && x.rows.offsets == nullptr) return {errc::null_pointer, "segments.offsets is null: it needs count + 1 entries", 0, std::int64_t(x.rows.count) + 1};
      if (x.rows.count > x.w.experts) return {errc::bad_shape, "w: there must be a weight (experts) for each segment", x.w.experts, x.rows.count};
      if (rows > 0 && x.rows.count == 0) return {errc::bad_shape, "segments: rows need at least one segment", 0, 1};
      if constexpr (is_host<Context>)
        if (const status bad = check_segments(x.rows, rows); !bad) return bad;
    }
    if constexpr (AlongK) {
      if (const status bad = first_of([&] { return detail::check_stack<"y">(x.y, rows, x.y.cols); }, [&] { return detail::check_groups<is_host<Context>>(x.rows, x.end, depth_of(x)); }); !bad) return bad;
      if (x.y.count < x.rows.count) return {errc::bad_shape, "y needs a matrix for each segment", x.y.count, x.rows.count};
      if (x.y.count > 1 && x.y.rows > 0 && x.y.distance < static_cast<long long>(x.y.rows - 1) * x.y.stride + x.y.cols) return {errc::aliased, "y.distance: the matrices of y must not overlap", x.y.distance, static_cast<long long>(x.y.rows) * x.y.stride};
      if (reorders(x)) return {errc::bad_value, "w is packed with an order of columns: segments along k are those of x and w as they lie"};
      if constexpr (is_host<Context> && Kind::given_sums && Kind::sum_group > 0)
        for (int e = 0; e < x.rows.count; ++e)
          for (const auto at : {x.rows.first(e), x.end != nullptr ? x.end[e] : x.rows.last(e)})
            if (at % Kind::sum_group != 0 && at != offset(depth_of(x))) return {errc::bad_value, "segments along k must hold whole groups where x_sums are given: the sums are of whole groups", std::int64_t(at), Kind::sum_group};
    }
    if constexpr (Kind::given_scales)
      if (const status bad = detail::check_factors(x.x_scales, Kind::factors::group == 0 ? 1 : ceil_div(x.x.cols, Kind::factors::group == 0 ? 1 : Kind::factors::group), x.x.rows,
                                                   "x_scales is null", "x_scales needs a row for each group of K and a column for each row of x"); !bad) return bad;
    if constexpr (detail::is_block_scaled<Kind>) {
      if (const status bad = detail::check_block_scales(x.x_scales, x.x.rows, ceil_div(depth_of(x), Kind::scale_group), "x_scales is null", "x_scales needs a row for each row of x and a column for each group of K",
                                                        "x_scales: base, width and stride must be multiples of 16 bytes: quantize::tokens fills columns up to it with zeros"); !bad) return bad;
      if constexpr (detail::has_tensor_scales<Kind>())
        if (x.x_tensor == nullptr && x.x.rows > 0) return {errc::null_pointer, "x_tensor is null: this format has a scale for the whole of x"};
    }
    if constexpr (Kind::given_sums)
      if (const status bad = detail::check_factors(x.x_sums, Kind::sum_group == 0 ? 1 : ceil_div(x.x.cols, Kind::sum_group == 0 ? 1 : Kind::sum_group), x.x.rows,
                                                   "x_sums is null: weights with zero points or minima need the sums of the activations", "x_sums needs a row for each of the weight's groups of K and a column for each row of x"); !bad) return bad;
    if (Kind::given_scales && reorders(x)) return {errc::bad_value, "w is packed with an order of columns: gather the activations' columns before they are quantized, and pack w in that order without one"};
    if (x.splits < 1) return {errc::bad_value, "splits must be at least 1", x.splits, 1};
    if (!Options::split_k && x.splits > 1) return {errc::bad_value, "splits needs linear_options::split_k", x.splits, 1};
    if (x.splits > 256) return {errc::bad_value, "splits must be at most 256: more cost more than they gain", x.splits, 256};
    if constexpr (!is_host<Context>)
      if (detail::beyond_reach(x.x) || detail::beyond_reach(matrix_of(x)))
        return {errc::out_of_reach, "x and y must have fewer than 2^31 elements on a GPU: call with fewer rows at a time", static_cast<long long>(x.x.rows) * x.x.stride, 2147483647ll};
    const detail::bytes written = [&] {
      if constexpr (AlongK) return detail::bytes_of(matrix_of(x), x.y.count, x.y.distance);
      else return detail::bytes_of(x.y, 1, 0);
    }();
    if (written.meets(detail::bytes_of(x.x, 1, 0))) return {errc::aliased, "y must not overlap x: blocks read x while others write y"};
    static_cast<void>(context);
    return {};
  }

  template <class Context> static constexpr linear_tuning tuning_of(const Context& context, gemm_regime regime) {
    return typename selector_for<Context>::type{}(target_for(base_of(context)), regime);
  }
  template <gemm_regime R> using constant = std::integral_constant<gemm_regime, R>;
  // By the rows of an average group: grids are sized from shapes alone, without reading offsets.
  template <class Context, class Work> static constexpr auto in_regime(const args& x, Work work) {
    const int groups = groups_of(x), rows = groups > 1 ? ceil_div(grouped_rows(x), groups) : grouped_rows(x);
    if constexpr (is_host<Context> && !Options::batch_invariant) {
      using selector = typename selector_for<Context>::type;
      if constexpr (!(selector{}(target::host, gemm_regime::single) == selector{}(target::host, gemm_regime::decode)))
        if (Grouped ? grouped_rows(x) <= single_rows_of_groups : rows == 1) return work(constant<gemm_regime::single>{});
    }
    if (!Options::batch_invariant && rows <= decode_rows) return work(constant<gemm_regime::decode>{});
    if (!Options::batch_invariant && rows <= few_linear_rows) return work(constant<gemm_regime::few>{});
    return work(constant<gemm_regime::prefill>{});
  }
  static int row_tiles(const args& x, const linear_tuning& t) {
    return Grouped ? most_row_tiles(grouped_rows(x), groups_of(x), t.m) : ceil_div(grouped_rows(x), t.m);
  }
  template <gemm_regime Regime, class Context> static linear_plan plan_with(const Context& context, const args& x, int splits) {
    const linear_tuning t = tuning_of(context, Regime);
    const long long tiles = static_cast<long long>(row_tiles(x, t)) * ceil_div(x.y.cols, t.n) * (AlongK ? layers(x) : 1);
    const double m = grouped_rows(x), n = x.y.cols, k = depth_of(x), weights = Kind::bytes_of_weight * (pairs ? 2 : 1), width = double(sizeof(x_type)) / codes_in<x_type>;
    const int p = processors(base_of(context)) * t.occupancy;
    return {Regime, t, splits, tiles * splits, double(tiles) * splits / (p < 1 ? 1 : p), n * k * weights * groups_of(x) + m * k * width + m * n * double(sizeof(Y)), 2 * m * n * k * (pairs ? 2 : 1),
            cost_of(target_for(base_of(context)), p, tiles, splits, k * (t.n * weights + t.m * width), 2.0 * t.m * t.n * k * (pairs ? 2 : 1), double(t.m) * t.n * (pairs ? 2 : 1))};
  }

  struct memory_plan {
    x_type* gathered;
    int gathered_stride;
    float* sums;
    int* tiles;
    sum* partial;
    int* arrived;
    std::size_t counters, bytes;
  };
  static int packed_columns(const args& x) {
    if constexpr (Kind::has_order) return x.w.packed_k;
    else return depth_of(x);
  }
  static int sum_groups(const args& x) { return Kind::sum_group == 0 ? 1 : ceil_div(packed_columns(x), Kind::sum_group == 0 ? 1 : Kind::sum_group); }
  static constexpr bool makes_sums = Kind::own_sums || (AlongK && Kind::given_sums);
  static int rows_of_sums(const args& x) {
    if constexpr (AlongK) return rows_of_segments::rows(sum_groups(x), layers(x));
    else return sum_groups(x);
  }
  template <gemm_regime Regime, class Context> static memory_plan lay_out(const Context& context, const args& x, std::byte* base) {
    const linear_tuning t = tuning_of(context, Regime);
    const std::size_t tiles = std::size_t(row_tiles(x, t)) * ceil_div(x.y.cols, t.n);
    carver carve{base};
    memory_plan p{};
    if (reorders(x)) {
      p.gathered_stride = round_up(packed_columns(x), step_of<x_type>);
      p.gathered = carve.take<x_type>(std::size_t(x.x.rows) * p.gathered_stride);
    }
    if (makes_sums) p.sums = carve.take<float>(std::size_t(rows_of_sums(x)) * grouped_rows(x));
    if (Grouped) p.tiles = carve.take<int>(std::size_t(3) * row_tiles(x, t));
    if constexpr (Options::split_k) {
      p.partial = carve.take<sum>(tiles * t.m * t.n * x.splits * (pairs ? 2 : 1));
      p.counters = tiles;
      p.arrived = carve.take<int>(tiles);
    }
    p.bytes = carve.used;
    return p;
  }

  template <gemm_regime Regime, class Context> static status start(const Context& context, const args& x, workspace memory) {
    using selector = typename selector_for<Context>::type;
    const auto& base = base_of(context);
    const memory_plan p = lay_out<Regime>(context, x, memory.data);
    const linear_tuning t = tuning_of(context, Regime);
    if (p.counters != 0)
      if (const status bad = clear(base, p.arrived, p.counters * sizeof(int)); !bad) return bad;

    typename problem::arguments a{};
    a.x = x.x;
    if constexpr (Kind::has_order && !Kind::given_scales)
      if (reorders(x)) {
        const view<x_type> to{p.gathered, x.x.rows, p.gathered_stride, p.gathered_stride};
        if (const status bad = launch<detail::one_kernel<gather_agent>>(base, {x.x, to, Kind::order_of(x.w)}, {}); !bad) return bad;
        a.x = {p.gathered, x.x.rows, packed_columns(x), p.gathered_stride};
      }
    if constexpr (Kind::given_scales) a.factors.scales = x.x_scales;
    if constexpr (detail::is_block_scaled<Kind>) a.factors.block_scales = x.x_scales;
    if constexpr (detail::has_tensor_scales<Kind>()) a.factors.tensor = x.x_tensor;
    if constexpr (Kind::given_sums) a.factors.sums = x.x_sums;
    if constexpr (makes_sums) {
      const view<float, 1> sums{p.sums, rows_of_sums(x), grouped_rows(x), grouped_rows(x)};
      if constexpr (AlongK) {
        const auto from = [&] {
          if constexpr (Kind::given_sums) return x.x_sums;
          else return a.x;
        }();
        if (const status bad = launch<detail::one_kernel<segment_agent>>(base, {from, sums, x.rows.offsets, x.end != nullptr ? x.end : x.rows.offsets + 1, x.rows.count}); !bad) return bad;
      } else {
        typename sums_agent<step<x_type>>::arguments s{a.x, sums};
        if constexpr (Options::gathers) s.source = x.source;
        if (const status bad = launch<detail::one_kernel<sums_agent<step<x_type>>>>(base, s); !bad) return bad;
      }
      a.factors.sums = {p.sums, sums.rows, sums.cols, sums.stride};
    }
    if constexpr (Grouped) {
      const int entries = row_tiles(x, t);
      if (const status bad = launch<detail::one_kernel<plan_row_tiles<offset>>>(base, {x.rows.offsets, x.end != nullptr ? x.end : x.rows.offsets + 1, x.rows.count, t.m, {p.tiles, 3, entries, entries}}); !bad) return bad;
      a.rows.plan = p.tiles;
      a.rows.entries = entries;
      if constexpr (Options::gathers) a.rows.source = x.source;
      if constexpr (Options::scatters) a.rows.target = x.target;
    }
    a.weights = Kind::source_of(x.w);
    if constexpr (pairs) a.up = Kind::source_of(x.up);
    a.y = matrix_of(x);
    if constexpr (AlongK) {
      a.stacked = {x.rows.count, x.y.distance};
      a.rows.first = x.rows.offsets, a.rows.last = x.end != nullptr ? x.end : x.rows.offsets + 1;
    }
    a.partial = {p.partial, 0, 0, 0};
    a.arrived = p.arrived;
    a.splits = x.splits;
    const int steps = linear_agent<selector{}(is_host<Context> ? target::host : target::sm80, Regime), problem>::steps(problem::depth_of(a.x));
    a.steps_per_split = ceil_div(steps, x.splits);
    if constexpr (Options::persistent) a.workers = processors(base) * t.occupancy;
    a.epilogue = x.epilogue;
    return launch<kernel<selector, Regime>>(base, a);
  }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
