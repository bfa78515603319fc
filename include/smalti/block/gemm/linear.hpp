// The linear agent: Y = epilogue(X W') with weights of any format, whole or in groups of rows with a weight each. One block
// makes one tile of Y. The weights are the right operand, or the left one (`weights_left`: Y' = W X'): from 64 rows up on a
// GPU, whose products then take decoded weights from registers; never on the host, where the right operand is packed.
//
// Scales that vary along k enter the operand (one rounding a weight) or the accumulator: for each group of k a part sum,
// exact for integers, is multiplied and added. Scales that do not vary enter after the last k. A zero point or minimum
// enters the operand with the scale, or as a correction of rank one a group: sum of the activations times minimum.
#pragma once
#include <cstdint>
#include <numeric>
#include <type_traits>
#include <smalti/block/gemm/activations.hpp>
#include <smalti/block/gemm/combine.hpp>
#include <smalti/block/gemm/rows.hpp>
#include <smalti/block/gemm/scales.hpp>
#include <smalti/block/gemm/tile_order.hpp>
#include <smalti/block/gemm/weights.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/packed.hpp>
#include <smalti/policy/epilogue.hpp>
#include <smalti/policy/integer_scale.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! Rows and outputs of a tile, and launch hints. `k` counts only where weights are a matrix as it is: packed ones bring the
//! depth of their layout. `group`: rows of tiles made together (block/gemm/tile_order.hpp); 0: all, by a grid of two dimensions.
struct linear_tuning {
  int m, n, k = 0;
  bool weights_left = false;
  int occupancy = 1, cluster = 1;
  int group = 0;
  constexpr bool operator==(const linear_tuning&) const = default;
};

//! What a product's activations bring besides their codes: scales, and sums for minima. Both are matrices groups x M, rows
//! contiguous along m; with one row they do not vary along k.
//! @tparam Group  k of a scale; 0 all; -1 no scales. Sums have the groups of the weights
template <int Group = -1, bool Sums = false> struct activation_factors {
  static constexpr int group = Group;
  static constexpr bool has_scales = Group >= 0, has_sums = Sums;
  optional_member<(Group >= 0), view<const float, 1>, 1> scales = {};
  optional_member<Sums, view<const float, 1>, 2> sums = {};
};

//! Activations of a block-scaled product: scales as they lie in memory, M x K / group, and the tensor's where the format has one.
template <class Scale, bool Tensor> struct block_factors {
  static constexpr int group = -1;
  static constexpr bool has_scales = false, has_sums = false;
  view<const typename detail::stored_as<Scale>::type> block_scales = {};
  optional_member<Tensor, const float*, 3> tensor = {};
};

//! The results of groups along k: `count` matrices, `distance` elements apart.
struct stacked_results {
  int count = 0;
  long long distance = 0;
};

//! What the agent computes, as types.
//! @tparam X         activations in memory;  @tparam Operand  what they and the weights are multiplied as
//! @tparam Weights   packed_weights or plain_weights;  @tparam Factors  activation_factors;  @tparam Rows  see rows.hpp
template <class X, class Operand, class Weights, class Factors, class Y, class Epilogue, class Rows, bool Split, int StepX = step_of<X>, int StepY = step_of<Y>, bool Persistent = false>
struct linear_problem {
  using operand_type = Operand;
  using weights_type = Weights;
  using factors_type = Factors;
  using rows_type = Rows;
  static constexpr bool split = Split, persistent = Persistent, pairs = policy::takes_pairs<Epilogue>, integers = std::is_same_v<Operand, std::int8_t>;
  //! Both operands under scales of groups of k, multiplied as they are (MXFP8, MXFP4, NVFP4).
  static constexpr bool block_scaled = requires { typename Weights::block_scale; };
  SMALTI_HD static constexpr bool tensor_scales() {
    if constexpr (block_scaled) return Weights::has_number;
    else return false;
  }
  SMALTI_HD static constexpr int depth_of(const view<const X, StepX>& x) { return x.cols * codes_in<X>; }
  static constexpr bool weight_scales = !std::is_same_v<typename Weights::scale_type, no_scales>;
  static constexpr bool has_minimum = Weights::scale_type::has_minimum || (Weights::scale_type::has_zero && Weights::scale_in != policy::scale_in::operand);
  static constexpr bool in_operand = weight_scales && Weights::scale_in == policy::scale_in::operand;
  static constexpr int weight_group = weight_scales ? Weights::group : 0;
  static_assert(!has_minimum || Factors::has_sums, "smalti: zero points and minima need the sums of the activations over each group");
  static constexpr bool whole_codes() {
    if constexpr (integers && requires { typename Weights::codec; }) return policy::integer_scale<typename Weights::codec> != 0;
    else return true;
  }
  static_assert(whole_codes(), "smalti: the codes of this format are not 8-bit integers, times any power of two: multiply them with 16-bit activations");
  static_assert(!(in_operand && integers), "smalti: integer operands hold codes: their scales enter the accumulator or the epilogue");
  static_assert(Factors::group <= 0 || weight_group == 0 || Factors::group == weight_group || in_operand,
                "smalti: activations scaled in groups of k take the groups of the weights");
  //! k of a part sum: 0 where nothing varies along k within the accumulator.
  static constexpr int chunk = Factors::group > 0 ? Factors::group : in_operand && !has_minimum ? 0 : weight_group;
  static constexpr bool late_weights = weight_scales && !in_operand && weight_group == 0;
  //! One scale a row may wait for the end, unless corrections enter before: those are sums of decoded activations.
  static constexpr bool early_activations = Factors::group > 0 || (Factors::group == 0 && has_minimum && chunk > 0), late_activations = Factors::group == 0 && !early_activations;
  static constexpr bool late_minimum = has_minimum && weight_group == 0;
  using sum = std::conditional_t<integers && chunk == 0, int, float>;

  struct arguments {
    view<const X, StepX> x = {};             //!< M x K
    Factors factors = {};
    Weights weights = {};
    optional_member<pairs, Weights, 1> up = {};      //!< the second weight of a pair
    view<Y, StepY> y = {};                   //!< M x N
    Rows rows = {};
    optional_member<Rows::along_k, stacked_results, 4> stacked = {};
    view<sum> partial = {};                  //!< split K: see split_memory
    int* arrived = nullptr;
    int splits = 1, steps_per_split = 0;
    optional_member<Persistent, int, 5> workers = {};      //!< how many blocks there are
    Epilogue epilogue = {};
  };
};

template <linear_tuning Tuning, class Problem, bool Persistent = Problem::persistent>
struct linear_agent {
  using arguments = typename Problem::arguments;
  using operand_type = typename Problem::operand_type;
  using weights_type = typename Problem::weights_type;
  using factors_type = typename Problem::factors_type;
  using rows_type = typename Problem::rows_type;
  using sum = typename Problem::sum;
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  static constexpr bool left_weights = Tuning.weights_left;
  static constexpr int depth = weights_type::depth == 0 ? Tuning.k : weights_type::depth, tiles = weights_type::tiles, step_k = depth * tiles;
  static constexpr int rows = left_weights ? n : m, cols = left_weights ? m : n;       // of the accumulator
  // Operands that share a part sum, as many as a step has of them; groups that share an operand.
  static constexpr int chunk = Problem::chunk;
  static constexpr bool scaled = chunk > 0;
  static constexpr int together = scaled && chunk > depth ? std::gcd(chunk / depth, tiles) : 1, groups = scaled && chunk < depth ? depth / chunk : 1;
  static_assert(!scaled || depth % chunk == 0 || chunk % depth == 0, "smalti: the depth of an operand divides the group or is a multiple of it: choose another layout");
  // Where the scale enters the operand: the rows of scales that one operand takes, and the operands that share one row.
  static constexpr int operand_groups = Problem::in_operand && weights_type::group > 0 && weights_type::group < depth ? depth / weights_type::group : 1;
  arguments a;

  static constexpr grid blocks(const arguments& a) {
    const int high = row_tiles(a), wide = ceil_div(a.y.cols, n), splits = layers(a);
    if constexpr (Persistent) return {workers(a), 1, 1};
    else if constexpr (Tuning.group > 0) return {high * wide, 1, splits};
    else return {high, wide, splits};
  }
  // Parts of K, or groups of it.
  SMALTI_HD static constexpr int layers(const arguments& a) {
    if constexpr (rows_type::along_k) return a.stacked.count;
    else return Problem::split ? a.splits : 1;
  }
  // The blocks of a persistent launch: never more than there are tiles.
  SMALTI_HD static constexpr int workers(const arguments& a) {
    const int all = row_tiles(a) * ceil_div(a.y.cols, n) * layers(a);
    return all < a.workers ? all : a.workers;
  }
  SMALTI_HD static constexpr int row_tiles(const arguments& a) {
    if constexpr (rows_type::grouped) return a.rows.entries;
    else return mutant(defect::grid_loses_ragged_rows) ? a.y.rows / m : ceil_div(a.y.rows, m);
  }
  SMALTI_HD static constexpr int steps(int k) { return ceil_div(k, step_k); }

  template <class Block> using sums = tile<Block, sum, rows, cols>;

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    if constexpr (Persistent) {
      const int high = row_tiles(a), wide = ceil_div(a.y.cols, n), tiles = high * wide, all = tiles * layers(a), blocks = workers(a);
      for (int turn : block.steps(0, ceil_div(all - block.x(), blocks))) {
        const int number = block.x() + (mutant(defect::worker_repeats_its_tile) ? 0 : turn) * blocks;
        one_tile(block, place_of_tile(number % tiles, high, wide, Tuning.group), number / tiles);
      }
    } else {
      one_tile(block, place_of(block), block.z());
    }
  }

private:
  // Tile `place` of layer `layer`: a part of K, or a group of it.
  template <class Block> SMALTI_HD void one_tile(Block& block, const tile_place& place, int layer) const {
    row_tile at{0, place.row * m, m, place.row, place.column};
    if constexpr (rows_type::grouped) {
      at = {block.number(a.rows.plan, place.row), block.number(a.rows.plan, a.rows.entries + place.row), block.number(a.rows.plan, 2 * a.rows.entries + place.row), place.row, place.column};
      if (at.rows <= 0) return;
      if constexpr (rows_type::named) {
        at.expert = block.number(a.rows.weight, at.expert);
        if (at.expert < 0) return;
      }
    }
    if constexpr (rows_type::along_k) {
      at = {0, place.row * m, m, place.row, place.column, layer, int(block.number(a.rows.first, layer)), int(block.number(a.rows.last, layer))};
    }
    if constexpr (rows_type::gathers) {      // rows past the group's end are its first one: they must exist, and are not stored
      column<Block, int, m> source;
      block.load(source, view<const int, 1>{a.rows.source.data + at.row, at.rows, 1, 1}, 0, 0);
      const int first = block.number(a.rows.source.data, at.row);
      block.map([=, count = at.rows](auto r, auto i) { return where(i < count, r, first); }, source, source, row_index{});
      work(block, at, layer, source);
    } else {
      work(block, at, layer, unit_factor{});
    }
  }
  template <class Block, class Source> SMALTI_HD void work(Block& block, const row_tile& at, [[maybe_unused]] int split, const Source& source) const {
    const int all = steps(Problem::depth_of(a.x)) - (mutant(defect::last_group_lost) ? 1 : 0);
    step_range range{0, all};
    if constexpr (Problem::split) range = steps_of_split(split, all, a.steps_per_split);
    if constexpr (rows_type::along_k) range = at.last_k > at.first_k ? step_range{at.first_k / step_k, ceil_div(at.last_k, step_k)} : step_range{0, 0};
    sums<Block> acc;
    if constexpr (Problem::pairs) {
      sums<Block> up;
      multiply(block, acc, a.weights, at, source, range);
      multiply(block, up, a.up, at, source, range);
      if constexpr (Problem::split) {
        if (!combine(block, acc, up, split_memory<sum>{a.partial, a.arrived, a.splits}, tile_number(at), split)) return;
      }
      tile<Block, float, rows, cols> gate_sum, up_sum, out;
      late(block, gate_sum, acc, a.weights, at);
      late(block, up_sum, up, a.up, at);
      apply_epilogue<left_weights>(block, out, gate_sum, up_sum, a.epilogue, at.row, at.j * n);
      store(block, out, at);
    } else {
      multiply(block, acc, a.weights, at, source, range);
      if constexpr (Problem::split) {
        if (!combine(block, acc, split_memory<sum>{a.partial, a.arrived, a.splits}, tile_number(at), split)) return;
      }
      finish(block, acc, at);
    }
  }
  template <class Block> SMALTI_HD tile_place place_of(Block& block) const {
    if constexpr (Tuning.group > 0) return place_of_tile(block.x(), row_tiles(a), ceil_div(a.y.cols, n), Tuning.group);
    else return {block.x(), block.y()};
  }
  SMALTI_HD int tile_number(const row_tile& at) const {
    return at.j * (rows_type::grouped ? tiles_of_groups() : ceil_div(a.y.rows, m)) + at.i;
  }
  SMALTI_HD int tiles_of_groups() const {
    if constexpr (rows_type::grouped) return a.rows.entries;
    else return 0;
  }

  // ---- the loop over k
  template <class Block, class Source>
  SMALTI_HD void multiply(Block& block, sums<Block>& acc, const weights_type& weights, const row_tile& at, const Source& source, step_range range) const {
    block.fill(acc, sum(0));
    for (int step : block.steps(range.first, range.last)) {
      typename weights_type::template loaded<Block, n> w;
      weights.load(block, w, at.expert, step, at.j);
      chunks<0>(block, acc, weights, w, at, source, step);
    }
  }

  // Operands T, T + together, ... of a step.
  template <int T, class Block, class Loaded, class Source>
  SMALTI_HD void chunks(Block& block, sums<Block>& acc, const weights_type& weights, const Loaded& w, const row_tile& at, const Source& source, int step) const {
    if constexpr (T < tiles) {
      const int t = step * tiles + (mutant(defect::planes_reversed) ? tiles - 1 - T : T);
      if constexpr (Problem::block_scaled) {
        block_scaled_step(block, acc, weights, w, at, source, t);
      } else if constexpr (!scaled) {
        add<T>(block, acc, weights, w, at, source, t);
      } else {
        const int g = (mutant(defect::scale_of_first_group) ? 0 : t) * depth / (chunk < depth ? depth : chunk);   // a group, or a tile of `groups` of them
        weight_factor<Block> s;
        if constexpr (!std::is_same_v<weight_factor<Block>, unit_factor>) load_weight_factor(block, s, weights, at, g);
        activation_factor<Block> v;
        if constexpr (!std::is_same_v<activation_factor<Block>, unit_factor>) load_activation_factor<factors_type::group == 0>(block, v, a.factors.scales, at, g);
        if constexpr (Problem::has_minimum) {
          weight_row<Block> low;
          activation_row<Block> total;
          minimum_of(block, low, s, weights, at, g);
          load_activation_factor(block, total, sums_of(at), at, g);
          scaled_chunk<T>(block, acc, weights, w, at, source, t, s, v, total, low);
        } else {
          scaled_chunk<T>(block, acc, weights, w, at, source, t, s, v, unit_factor{}, unit_factor{});
        }
      }
      chunks<T + (scaled ? together : 1)>(block, acc, weights, w, at, source, step);
    }
  }
  // Not by `?:`, which would choose between two views in memory.
  SMALTI_HD auto block_scales_of(const row_tile& at) const {
    if constexpr (rows_type::grouped) return band_of(a.factors.block_scales, at);
    else return a.factors.block_scales;
  }
  template <class Block, class Loaded, class Source>
  SMALTI_HD void block_scaled_step(Block& block, sums<Block>& acc, const weights_type& weights, const Loaded& w, const row_tile& at, const Source& source, int t) const {
    using scale = typename weights_type::block_scale;
    constexpr int blocks = depth / weights_type::block_group;
    const auto mine = block_scales_of(at);
    const auto theirs = of_expert(weights.scales, at.expert);
    const int i = rows_type::grouped ? 0 : at.i;
    if constexpr (left_weights) {
      left_scales<Block, scale, n, blocks> s;
      right_scales<Block, scale, blocks, m> v;
      block.load(s, theirs, at.j, t);
      block.load(v, transposed(mine), t, i);
      add<0>(block, acc, weights, w, at, source, t, s, v);
    } else {
      left_scales<Block, scale, m, blocks> v;
      right_scales<Block, scale, blocks, n> s;
      block.load(v, mine, i, t);
      block.load(s, transposed(theirs), t, at.j);
      add<0>(block, acc, weights, w, at, source, t, v, s);
    }
  }
  template <int T, class Block, class Loaded, class Source, class S, class V, class Total, class Low>
  SMALTI_HD void scaled_chunk(Block& block, sums<Block>& acc, const weights_type& weights, const Loaded& w, const row_tile& at, const Source& source, int t, const S& s, const V& v,
                              const Total& total, const Low& low) const {
    if constexpr (together == 1) {
      if constexpr (left_weights) add<T>(block, acc, weights, w, at, source, t, s, v, low, total);
      else add<T>(block, acc, weights, w, at, source, t, v, s, total, low);
    } else {
      tile<Block, std::conditional_t<Problem::integers, int, float>, rows, cols> part;
      if (!mutant(defect::group_sum_not_cleared)) block.fill(part, 0);
      add_range<T, T + together>(block, part, weights, w, at, source, t);
      constexpr bool by_weight = !std::is_same_v<S, unit_factor>, by_row = !std::is_same_v<V, unit_factor>;
      if constexpr (by_weight && by_row) block.map([](auto sum, auto p, auto f, auto g) { return sum + to_float(p) * f * g; }, acc, acc, part, s, v);
      else if constexpr (by_weight) block.map([](auto sum, auto p, auto f) { return sum + to_float(p) * f; }, acc, acc, part, s);
      else if constexpr (by_row) block.map([](auto sum, auto p, auto f) { return sum + to_float(p) * f; }, acc, acc, part, v);
      else block.map([](auto sum, auto p) { return sum + to_float(p); }, acc, acc, part);
      if constexpr (Problem::has_minimum) block.map([](auto sum, auto x, auto y) { return sum + x * y; }, acc, acc, total, low);
    }
  }
  template <int T, int Last, class Block, class Acc, class Loaded, class Source>
  SMALTI_HD void add_range(Block& block, Acc& acc, const weights_type& weights, const Loaded& w, const row_tile& at, const Source& source, int t) const {
    if constexpr (T < Last) {
      add<T>(block, acc, weights, w, at, source, t);
      add_range<T + 1, Last>(block, acc, weights, w, at, source, t + 1);
    }
  }
  // Operand tile t, with the factors of a scaled product or none.
  template <int T, class Block, class Acc, class Loaded, class Source, class... Factor>
  SMALTI_HD void add(Block& block, Acc& acc, const weights_type& weights, const Loaded& w, const row_tile& at, const Source& source, int t, const Factor&... factor) const {
    if constexpr (left_weights) {
      left<Block, operand_type, n, depth> b;
      right<Block, operand_type, depth, m> v;
      load_columns(block, v, at, source, t);
      if constexpr (rows_type::along_k) block.mask_depth(v, at.first_k - t * depth, at.last_k - t * depth);
      decode<T, true>(block, b, weights, w, at, t);
      block.product(acc, b, v, factor...);
    } else {
      left<Block, operand_type, m, depth> v;
      typename decltype(right_operand<T, Block>())::type b;
      load_rows(block, v, at, source, t);
      if constexpr (rows_type::along_k) block.mask_depth(v, at.first_k - t * depth, at.last_k - t * depth);
      decode<T, false>(block, b, weights, w, at, t);
      block.product(acc, v, b, factor...);
    }
  }
  // The right operand T of a step: packed weights know how theirs is made.
  template <int T, class Block> static constexpr auto right_operand() {
    if constexpr (weights_type::depth == 0) return std::type_identity<right<Block, operand_type, depth, n>>{};
    else return std::type_identity<typename weights_type::template right_operand<Block, operand_type, n, T>>{};
  }
  template <int T, bool Left, class Block, class Operand, class Loaded>
  SMALTI_HD void decode(Block& block, Operand& b, const weights_type& weights, const Loaded& w, const row_tile& at, int t) const {
    if constexpr (Problem::in_operand) {
      const int g = weights_type::group == 0 ? 0 : t * depth / (weights_type::group < depth ? depth : weights_type::group);
      using shape = typename operand_scales<Block>::type;
      shape s;
      weights.scales.load(block, s, at.expert, g, at.j);
      if constexpr (weights_type::scale_type::has_zero) {
        shape z;
        weights.scales.load_zero(block, z, at.expert, g, at.j);
        weights.template operand<T, Left>(block, b, w, s, z, at.expert, t, at.j);
      } else {
        weights.template operand<T, Left>(block, b, w, s, unit_factor{}, at.expert, t, at.j);
      }
    } else {
      weights.template operand<T, Left>(block, b, w, unit_factor{}, unit_factor{}, at.expert, t, at.j);
    }
  }

  // ---- factors: of the outputs (a row, or a column where the weights are on the left), and of the rows (the other way round)
  template <class Block> struct operand_scales {
    using type = std::conditional_t<left_weights, column<Block, float, n>, std::conditional_t<operand_groups == 1, row<Block, float, n>, tile<Block, float, operand_groups, n>>>;
  };
  template <class Block, bool Several> struct weight_shape { using type = std::conditional_t<left_weights, column<Block, float, n>, row<Block, float, n>>; };
  template <class Block> struct weight_shape<Block, true> { using type = tile<Block, float, groups, n>; };
  template <class Block> using weight_row = typename weight_shape<Block, (groups > 1)>::type;
  template <class Block> struct activation_shape { using type = std::conditional_t<left_weights, row<Block, float, m>, factors<Block, m, groups>>; };
  template <class Block> using activation_row = typename activation_shape<Block>::type;
  template <class Block>
  using weight_factor = std::conditional_t<Problem::weight_scales && !Problem::in_operand && Problem::weight_group != 0, weight_row<Block>, unit_factor>;
  template <class Block> using activation_factor = std::conditional_t<Problem::early_activations, activation_row<Block>, unit_factor>;

  template <class Block, class Out> SMALTI_HD void load_weight_factor(Block& block, Out& s, const weights_type& weights, const row_tile& at, int g) const {
    weights.scales.load(block, s, at.expert, g, at.j);
    if constexpr (units() != 1) block.map([](auto x) { return x * (1.0f / float(units())); }, s, s);
  }
  // What an integer operand's codes were multiplied with (e2m1: 2): taken out of the scale.
  SMALTI_HD static constexpr int units() {
    if constexpr (Problem::integers && requires { typename weights_type::codec; }) return policy::integer_scale<typename weights_type::codec>;
    else return 1;
  }
  template <class Block, class Out, class S> SMALTI_HD void minimum_of(Block& block, Out& low, const S& s, const weights_type& weights, const row_tile& at, int g) const {
    if constexpr (std::is_same_v<S, Out>) {
      weights.scales.load_minimum(block, low, s, at.expert, g, at.j);
    } else {
      Out scale;
      if constexpr (weights_type::scale_type::has_zero) weights.scales.load(block, scale, at.expert, g, at.j);
      weights.scales.load_minimum(block, low, scale, at.expert, g, at.j);
    }
  }
  // The sums of the activations; those of groups along k begin with rows of their own.
  SMALTI_HD view<const float, 1> sums_of(const row_tile& at) const {
    const view<const float, 1>& s = a.factors.sums;
    if constexpr (rows_type::along_k) {
      const int first = at.group * segment_rows<Problem::weight_group, step_k>::each;
      return {s.data + static_cast<long long>(first) * s.stride, s.rows - first, s.cols, s.stride};
    } else {
      return s;
    }
  }
  // Constant: one row of factors serves every group.
  template <bool Constant = false, class Block, class Out, class V> SMALTI_HD void load_activation_factor(Block& block, Out& s, const V& v, const row_tile& at, int group) const {
    constexpr bool repeated = Constant && groups > 1;
    const view<const float, 1> mine{rows_type::grouped ? v.data + at.row : v.data, repeated ? 0x7fffffff : v.rows, rows_type::grouped ? at.rows : v.cols, repeated ? 0 : v.stride};
    const int i = rows_type::grouped ? 0 : at.i, g = Constant && !repeated ? 0 : group;
    if constexpr (left_weights) block.load(s, mine, g, i);
    else block.load(s, transposed(mine), i, g);
  }

  // ---- memory
  template <class V> SMALTI_HD auto band_of(const V& v, const row_tile& at) const {
    return V{v.data + static_cast<long long>(at.row) * v.stride, at.rows, v.cols, v.stride};
  }
  template <class Block, class Operand, class Source> SMALTI_HD void load_rows(Block& block, Operand& v, const row_tile& at, const Source& source, int t) const {
    if constexpr (!std::is_same_v<Source, unit_factor>) block.load_rows(v, a.x, source, t);
    else if constexpr (rows_type::grouped) block.load(v, band_of(a.x, at), 0, t);
    else block.load(v, a.x, at.i, t);
  }
  template <class Block, class Operand, class Source> SMALTI_HD void load_columns(Block& block, Operand& v, const row_tile& at, const Source& source, int t) const {
    if constexpr (!std::is_same_v<Source, unit_factor>) block.load_rows(v, transposed(a.x), source, t);
    else if constexpr (rows_type::grouped) block.load(v, transposed(band_of(a.x, at)), t, 0);
    else block.load(v, transposed(a.x), t, at.i);
  }

  // ---- after the loop: scales that do not vary along k, the epilogue, the store
  template <class Block, class Out> SMALTI_HD void late(Block& block, Out& out, const sums<Block>& acc, const weights_type& weights, const row_tile& at) const {
    block.map([](auto v) { return to_float(v); }, out, acc);
    using weight_line = std::conditional_t<left_weights, column<Block, float, n>, row<Block, float, n>>;
    using row_line = std::conditional_t<left_weights, row<Block, float, m>, column<Block, float, m>>;
    if constexpr (Problem::late_weights) {
      weight_line s;
      load_weight_factor(block, s, weights, at, 0);
      block.map([](auto v, auto f) { return v * f; }, out, out, s);
    }
    if constexpr (Problem::late_activations) {
      row_line s;
      load_activation_factor(block, s, a.factors.scales, at, 0);
      block.map([](auto v, auto f) { return v * f; }, out, out, s);
    }
    if constexpr (Problem::tensor_scales()) {
      const float x = block.number(a.factors.tensor, 0), w = block.number(weights.tensor, at.expert);
      block.map([x, w](auto v) { return weights_type::divides ? v * (x / w) : v * (x * w); }, out, out);
    }
    if constexpr (Problem::late_minimum && chunk == 0) {
      weight_line low;
      row_line total;
      minimum_of(block, low, unit_factor{}, weights, at, 0);
      load_activation_factor(block, total, sums_of(at), at, 0);
      block.map([](auto v, auto x, auto y) { return v + x * y; }, out, out, total, low);
    }
  }
  template <class Block> SMALTI_HD void finish(Block& block, sums<Block>& acc, const row_tile& at) const {
    constexpr bool plain = std::is_same_v<decltype(arguments::epilogue), policy::chain<>>;
    constexpr bool as_it_is = !Problem::late_weights && !Problem::late_activations && !Problem::late_minimum && !Problem::tensor_scales() && std::is_same_v<sum, float>;
    if constexpr (as_it_is && plain) {
      store(block, acc, at);
    } else {
      tile<Block, float, rows, cols> out;
      if constexpr (as_it_is) {
        apply_epilogue<left_weights>(block, out, acc, a.epilogue, at.row, at.j * n);
      } else {
        late(block, out, acc, a.weights, at);
        if constexpr (!plain) apply_epilogue<left_weights>(block, out, out, a.epilogue, at.row, at.j * n);
      }
      store(block, out, at);
    }
  }
  SMALTI_HD auto matrix_of(const row_tile& at) const {
    auto y = a.y;
    if constexpr (rows_type::along_k) y.data += at.group * a.stacked.distance;
    return y;
  }
  template <class Block, class Tile> SMALTI_HD void store(Block& block, const Tile& t, const row_tile& at) const {
    const int j = at.j;
    if constexpr (rows_type::scatters) {
      column<Block, int, m> target;
      block.load(target, view<const int, 1>{a.rows.target.data + at.row, at.rows, 1, 1}, 0, 0);
      block.map([=, count = at.rows](auto r, auto i) { return where(i < count, r, -1); }, target, target, row_index{});
      if constexpr (left_weights) block.store_rows(transposed(a.y), target, j, t);
      else block.store_rows(a.y, target, j, t);
    } else if constexpr (rows_type::grouped) {
      if constexpr (left_weights) block.store(transposed(band_of(a.y, at)), j, 0, t);
      else block.store(band_of(a.y, at), 0, j, t);
    } else {
      const auto y = matrix_of(at);
      if constexpr (left_weights) block.store(transposed(y), j, at.i, t);
      else block.store(y, at.i, j, t);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
