// The dense GEMM agent: C = epilogue(A B'), any M, N, K, batched, with an optional split of K. One block makes one
// tile of C, or (persistent) one after another. A is M x K or K x M, B is N x K (the weights of linear layers) or K x N,
// all by rows: an operand whose rows do not run as the product takes them is turned by its load, and nothing else differs.
// Which rows a block works on is a policy (rows.hpp): of one matrix, of one group of rows with a weight of its own, or of a
// group of rows as the depth of the product. Where B's rows are, is another (paged_rows.hpp).
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/block/gemm/combine.hpp>
#include <smalti/block/gemm/paged_rows.hpp>
#include <smalti/block/gemm/reductions.hpp>
#include <smalti/block/gemm/rows.hpp>
#include <smalti/block/gemm/tile_order.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/float.hpp>
#include <smalti/policy/epilogue.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! Tile shape, launch hints and tile order of one kernel. `b_left` computes C' = B A' instead, with the rows of B (N x K)
//! as the left operand: for few rows of A (decode), where the left operand is the one that streams from memory, and on the
//! host for A as K x M, which is then packed as it lies. `group`: rows of tiles made together (block/gemm/tile_order.hpp).
struct gemm_tuning {
  int m, n, k;
  bool b_left = false;
  int occupancy = 1, cluster = 1, group = 0;
  constexpr bool operator==(const gemm_tuning&) const = default;
};

enum class a_order { m_by_k, k_by_m };
enum class b_order { n_by_k, k_by_n };

//! What float operands are multiplied as on a GPU. tf32: once, rounded to 10 explicit bits. tf32x3: as two parts, in three
//! products, to nearly the accuracy of floats. The host multiplies whole floats, and with tf32x3 the same three products.
enum class float_product { tf32, tf32x3 };

// What a product of T takes its operand as, and where it sums.
template <class T> struct operand { using type = T; using sum = float; };
template <> struct operand<float> { using type = tf32; using sum = float; };
template <> struct operand<std::int8_t> { using type = std::int8_t; using sum = int; };

//! What the agent computes, as types: element types, what the options say (ops/gemm/options.hpp), and whether the matrices
//! are rebased per block because they are out of 32-bit reach.
//! @tparam Rows     one_matrix, groups_of_rows or groups_of_depth (rows.hpp)
//! @tparam Weights  void: equal matrices one after another; or paged_rows. B may be narrower than a float A
//! @tparam Adds     the result is added to what is there
template <class A, class B, class C, class Epilogue, class Options, bool Far, class Rows = one_matrix, class Weights = void, bool Adds = false>
struct dense_problem {
  using left_element = typename operand<A>::type;
  using right_element = typename operand<std::conditional_t<std::is_same_v<A, float>, float, B>>::type;
  using rows_type = Rows;
  using sum = typename operand<A>::sum;
  using reductions = typename Options::reductions;
  template <class T> static constexpr int step = Options::any_width ? 1 : step_of<T>;
  static constexpr bool a_along_k = Options::a == a_order::m_by_k, b_along_k = Options::b == b_order::n_by_k;   // which way rows run
  static constexpr bool split = Options::split_k, persistent = Options::persistent, far = Far, pairs = policy::takes_pairs<Epilogue>,
                        three = Options::f32 == float_product::tf32x3, reduces = policy::reduction_count<reductions> > 0, adds = Adds,
                        paged = !std::is_void_v<Weights>;
  using weights = std::conditional_t<paged, Weights, stack<const B, step<B>>>;
  static_assert(!Rows::along_k || !split, "smalti: groups along k are not split: each has a k of its own");
  static_assert(!Rows::grouped || (a_along_k && !Far), "smalti: rows of A are grouped as M x K, and blocks rebase them anyway");

  struct arguments {
    stack<const A, step<A>> a;       //!< batch of M x K or K x M
    weights b, up;                   //!< batch of N x K or K x N; `up` is the second half of a pair
    stack<C, step<C>> c;             //!< batch of M x N
    view<sum> partial;               //!< split K: every tile of every split, one row per tile
    int* arrived;                    //!< split K: one counter per tile of C, zero at launch
    float* reduced;                  //!< parts of the reductions, one after another: reduction_shape
    int k, splits, steps_per_split;
    int group, workers;              //!< tile order; persistent: how many blocks there are
    Epilogue epilogue;
    Rows rows = {};
  };
};

template <gemm_tuning Tuning, class Problem, bool Persistent = Problem::persistent>
struct dense_agent {
  using arguments = typename Problem::arguments;
  using sum = typename Problem::sum;
  static constexpr int m = Tuning.m, n = Tuning.n, k = Tuning.k, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  using rows_type = typename Problem::rows_type;
  static constexpr bool b_left = Tuning.b_left && Problem::b_along_k && !Problem::paged;
  static constexpr int rows = b_left ? n : m, cols = b_left ? m : n;       // of the accumulator
  arguments x;

  // Tiles of C down and across, and of all matrices and splits.
  static SMALTI_HD constexpr int tile_rows(const arguments& x) {
    if constexpr (rows_type::grouped) return x.rows.entries;
    else return mutant(defect::grid_loses_ragged_rows) ? x.c.rows / m : ceil_div(x.c.rows, m);
  }
  static SMALTI_HD constexpr int tile_cols(const arguments& x) { return ceil_div(x.c.cols, n); }
  static SMALTI_HD constexpr int layers(const arguments& x) { return x.c.count * (Problem::split ? x.splits : 1); }

  static constexpr grid blocks(const arguments& x) {
    const int tiles = tile_rows(x) * tile_cols(x);
    if constexpr (Persistent) return {tiles * layers(x) < x.workers ? tiles * layers(x) : x.workers, 1, 1};
    else return {tiles, 1, layers(x)};
  }

  template <class Block> using sums = tile<Block, sum, rows, cols>;

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    if constexpr (Persistent) {
      const int tiles = tile_rows(x) * tile_cols(x), all = tiles * layers(x), workers = all < x.workers ? all : x.workers;
      for (int turn : block.steps(0, ceil_div(all - block.x(), workers))) {
        const int number = block.x() + (mutant(defect::worker_repeats_its_tile) ? 0 : turn) * workers;
        one_tile(block, number % tiles, number / tiles);
      }
    } else {
      one_tile(block, block.x(), block.z());
    }
  }

private:
  template <class Block> SMALTI_HD void one_tile(Block& block, int number, int layer) const {
    // down the tiles of the left operand first: those of the right one are what the next block uses again
    const tile_place place = place_of_tile(number, b_left ? tile_cols(x) : tile_rows(x), b_left ? tile_rows(x) : tile_cols(x), x.group);
    const int i = b_left ? place.column : place.row, j = b_left ? place.row : place.column;
    row_tile at{layer, i * m, m, i, j};
    int split = 0;
    if constexpr (Problem::split) {
      split = layer % x.splits;
      at.expert = layer / x.splits;
    }
    if constexpr (rows_type::grouped) {
      at = {block.number(x.rows.plan, i), block.number(x.rows.plan, x.rows.entries + i), block.number(x.rows.plan, 2 * x.rows.entries + i), i, j};
      if (at.rows <= 0) return;
      if constexpr (rows_type::named) {
        at.expert = mutant(defect::group_ignores_its_name) ? at.expert % 2 : block.number(x.rows.weight, at.expert);
        if (at.expert < 0) return;
      }
    } else if constexpr (rows_type::along_k) {
      const auto first = block.number(x.rows.first, layer);
      at = {layer, int(first), int(block.number(x.rows.last, layer) - first), i, j};
    }
    int depth = x.k;
    if constexpr (rows_type::along_k) depth = at.rows;
    if constexpr (Problem::paged) {
      const int count = block.number(x.b.count, at.expert);
      if constexpr (Problem::b_along_k) {
        if (j * n >= count) return;      // columns that this weight does not have: nobody may read them
      } else {
        depth = count;
      }
    }
    const int steps = mutant(defect::dense_loses_tail_of_k) ? depth / k : ceil_div(depth, k);
    step_range range{0, steps};
    if constexpr (Problem::split) range = steps_of_split(split, steps, x.steps_per_split);
    if constexpr (rows_type::grouped && rows_type::gathers) {      // rows past the group's end are its first one: they must exist, and are not stored
      column<Block, int, m> source;
      block.load(source, view<const int, 1>{x.rows.source.data + at.row, at.rows, 1, 1}, 0, 0);
      const int first = block.number(x.rows.source.data, at.row);
      block.map([=, count = at.rows](auto r, auto c) { return where(c < count, r, first); }, source, source, row_index{});
      work(block, at, source, range, split);
    } else {
      work(block, at, unit_factor{}, range, split);
    }
  }
  template <class Block, class Source> SMALTI_HD void work(Block& block, const row_tile& at, const Source& source, step_range range, [[maybe_unused]] int split) const {
    if constexpr (Problem::pairs) {
      sums<Block> acc, up;
      multiply(block, acc, up, at, source, range);
      if constexpr (Problem::split) {
        if (!combine(block, acc, up, split_memory<sum>{x.partial, x.arrived, x.splits}, tile_number(at), split)) return;
      }
      finish(block, acc, up, at);
    } else {
      sums<Block> acc;
      multiply(block, acc, acc, at, source, range);
      if constexpr (Problem::split) {
        if (!combine(block, acc, split_memory<sum>{x.partial, x.arrived, x.splits}, tile_number(at), split)) return;
      }
      finish(block, acc, at);
    }
  }

  // acc = A B' over the steps of k, and in the same pass over A the second product of a pair.
  template <class Block, class Source>
  SMALTI_HD void multiply(Block& block, sums<Block>& acc, sums<Block>& up, const row_tile& at, const Source& source, step_range range) const {
    const int begins = mutant(defect::accumulator_not_cleared) ? -1 : range.first;
    if (begins >= 0) block.begin(acc, range.first < range.last);
    if constexpr (Problem::pairs) block.begin(up, range.first < range.last);
    for (int step : block.steps(range.first, range.last)) {
      if constexpr (b_left) {
        right_operand<Block, typename Problem::left_element, m> v;
        load_a<Problem::a_along_k>(block, v, at, source, step);
        weights_times(block, acc, x.b, v, at, mutant(defect::b_tile_stale) ? range.first : step, step == begins);
        if constexpr (Problem::pairs) weights_times(block, up, x.up, v, at, step, step == range.first);
      } else {
        left_operand<Block, typename Problem::left_element, m> v;
        load_a<!Problem::a_along_k>(block, v, at, source, step);
        times_weights(block, acc, v, x.b, at, step, step == begins);
        if constexpr (Problem::pairs) times_weights(block, up, v, x.up, at, step, step == range.first);
      }
    }
  }
  template <class Block, class Right, class B>
  SMALTI_HD void weights_times(Block& block, sums<Block>& acc, const B& b, const Right& v, const row_tile& at, int step, bool begins) const {
    left_operand<Block, typename Problem::right_element, n> w;
    load_b<!Problem::b_along_k>(block, w, b, at, step);
    accumulate(block, acc, w, v, begins);
  }
  template <class Block, class Left, class B>
  SMALTI_HD void times_weights(Block& block, sums<Block>& acc, const Left& v, const B& b, const row_tile& at, int step, bool begins) const {
    right_operand<Block, typename Problem::right_element, n> w;
    load_b<Problem::b_along_k>(block, w, b, at, step);
    accumulate(block, acc, v, w, begins);
  }

  // An operand, or with tf32x3 both parts of it.
  template <class Operand> struct one_part { Operand of; };
  template <class Whole, class Operand> struct two_parts { Operand high, low; };
  template <class Block, class T, int Rows>
  using left_operand = std::conditional_t<Problem::three, two_parts<left<Block, float, Rows, k>, left<Block, T, Rows, k>>, one_part<left<Block, T, Rows, k>>>;
  template <class Block, class T, int Cols>
  using right_operand = std::conditional_t<Problem::three, two_parts<right<Block, float, k, Cols>, right<Block, T, k, Cols>>, one_part<right<Block, T, k, Cols>>>;

  template <bool Turned, class Block, class Operand, class Source> SMALTI_HD void load_a(Block& block, one_part<Operand>& v, const row_tile& at, const Source& source, int step) const {
    tile_of_a<Turned>(block, v.of, at, source, step);
  }
  template <bool Turned, class Block, class Whole, class Operand, class Source>
  SMALTI_HD void load_a(Block& block, two_parts<Whole, Operand>& v, const row_tile& at, const Source& source, int step) const {
    Whole both;
    tile_of_a<Turned>(block, both, at, source, step);
    block.split(v.high, v.low, both);
  }
  template <bool Turned, class Block, class Operand, class B> SMALTI_HD void load_b(Block& block, one_part<Operand>& w, const B& b, const row_tile& at, int step) const {
    tile_of_b<Turned>(block, w.of, b, at, step);
  }
  template <bool Turned, class Block, class Whole, class Operand, class B>
  SMALTI_HD void load_b(Block& block, two_parts<Whole, Operand>& w, const B& b, const row_tile& at, int step) const {
    Whole both;
    tile_of_b<Turned>(block, both, b, at, step);
    block.split(w.high, w.low, both);
  }

  // Tile (i, j) of a matrix, or of its transpose. Out of 32-bit reach the rows of the tile become a view of their own.
  template <bool Turned, class Block, class Tile, class Stack> static SMALTI_HD void load_tile(Block& block, Tile& t, const Stack& s, int batch, int i, int j) {
    if constexpr (Turned && Problem::far) block.load(t, transposed(band(s[batch], j * Tile::cols, Tile::cols)), i, 0);
    else if constexpr (Turned) block.load(t, transposed(s), batch, i, j);
    else if constexpr (Problem::far) block.load(t, band(s[batch], i * Tile::rows, Tile::rows), 0, j);
    else block.load(t, s, batch, i, j);
  }
  template <class V> static SMALTI_HD constexpr V rows_of(const V& v, const row_tile& at) { return {v.data + static_cast<long long>(at.row) * v.stride, at.rows, v.cols, v.stride}; }

  // A's tile of a step: on the right (b_left) k runs down, else across.
  template <bool Turned, class Block, class Tile, class Source> SMALTI_HD void tile_of_a(Block& block, Tile& t, const row_tile& at, const Source& source, int step) const {
    if constexpr (rows_type::grouped) {
      if constexpr (rows_type::gathers) {
        if constexpr (b_left) block.load_rows(t, transposed(x.a[0]), source, step, at.row);
        else block.load_rows(t, x.a[0], source, step);
      } else {
        if constexpr (b_left) block.load(t, transposed(rows_of(x.a[0], at)), step, 0);
        else block.load(t, rows_of(x.a[0], at), 0, step);
      }
    } else if constexpr (rows_type::along_k) {
      block.load(t, transposed(rows_of(x.a[0], at)), at.i, step);
    } else if constexpr (b_left) {
      load_tile<Turned>(block, t, x.a, at.expert, step, mutant(defect::operand_of_wrong_tile) ? at.j : at.i);
    } else {
      load_tile<Turned>(block, t, x.a, mutant(defect::a_of_first_matrix) ? 0 : at.expert, at.i, step);
    }
  }
  template <bool Turned, class Block, class Tile, class B> SMALTI_HD void tile_of_b(Block& block, Tile& t, const B& b, const row_tile& at, int step) const {
    if constexpr (Problem::paged) {
      b.template load<Turned>(block, t, at.expert, step, at.j);
    } else if constexpr (rows_type::grouped) {      // moved in 64 bits: the weights of all experts may be out of 32-bit reach
      if constexpr (b_left) block.load(t, b[at.expert], at.j, step);
      else if constexpr (Turned) block.load(t, transposed(b[at.expert]), step, at.j);
      else block.load(t, b[at.expert], step, at.j);
    } else if constexpr (rows_type::along_k && rows_type::gathers) {      // rows past the group's end are its first one; A's are zero there
      column<Block, int, Tile::rows> source;
      block.load(source, view<const int, 1>{x.rows.source + at.row, at.rows, 1, 1}, step, 0);
      const int first = block.number(x.rows.source, at.row);
      block.map([=, left = at.rows - step * Tile::rows](auto r, auto c) { return where(c < left, r, first); }, source, source, row_index{});
      block.load_rows(t, b[0], source, at.j, at.row + step * Tile::rows);
    } else if constexpr (rows_type::along_k) {
      block.load(t, rows_of(b[0], at), step, at.j);
    } else if constexpr (b_left) {
      load_tile<Turned>(block, t, b, at.expert, at.j, step);
    } else {
      load_tile<Turned>(block, t, b, mutant(defect::b_of_first_matrix) ? 0 : at.expert, step, at.j);
    }
  }

  // The small products first. That of both low parts is below what the sums round away.
  template <class Block, class Left, class Right> static SMALTI_HD void accumulate(Block& block, sums<Block>& acc, const Left& v, const Right& w, bool begins) {
    if constexpr (Problem::three) {
      block.product(acc, v.high, w.low, begins);
      if (!mutant(defect::low_part_forgotten)) block.product(acc, v.low, w.high);
      block.product(acc, v.high, w.high);
    } else {
      block.product(acc, v.of, w.of, begins);
    }
  }

  SMALTI_HD int tile_number(const row_tile& at) const {
    const int matrix = rows_type::grouped ? 0 : at.expert, high = rows_type::grouped ? tile_rows(x) : ceil_div(x.c.rows, m);
    return (matrix * ceil_div(x.c.cols, n) + (mutant(defect::tiles_share_a_number) ? 0 : at.j)) * high + at.i;
  }
  // The row of the result, or among the rows of the groups, that a tile begins with.
  SMALTI_HD static constexpr int first_row(const row_tile& at) { return rows_type::grouped ? at.row : at.i * m; }

  template <class Block> SMALTI_HD void finish(Block& block, sums<Block>& acc, const row_tile& at) const {
    constexpr bool plain = std::is_same_v<decltype(arguments::epilogue), policy::chain<>> && !Problem::reduces && !Problem::paged;
    if constexpr (plain && (std::is_same_v<sum, float> || std::is_same_v<typename decltype(arguments::c)::element, int>)) {
      store(block, acc, at);
    } else {
      tile<Block, float, rows, cols> out;
      if constexpr (Problem::paged) x.b.template finish<Problem::b_along_k>(block, acc, at.expert, at.j * n);
      apply_epilogue<b_left>(block, out, acc, x.epilogue, b_left && mutant(defect::epilogue_row_in_tile) ? 0 : first_row(at), (!b_left && mutant(defect::epilogue_column_in_tile) ? 0 : at.j) * n);
      reduce(block, out, typename Problem::reductions{}, x.reduced, at.expert, at.i, at.j);
      store(block, out, at);
    }
  }
  template <class Block> SMALTI_HD void finish(Block& block, sums<Block>& gate, sums<Block>& up, const row_tile& at) const {
    tile<Block, float, rows, cols> out;
    apply_epilogue<b_left>(block, out, gate, up, x.epilogue, first_row(at), at.j * n);
    reduce(block, out, typename Problem::reductions{}, x.reduced, at.expert, at.i, at.j);
    store(block, out, at);
  }
  template <class Block, class Tile> SMALTI_HD void reduce(Block&, const Tile&, policy::chain<>, float*, int, int, int) const {}
  template <class Block, class Tile, class First, class... Rest>
  SMALTI_HD void reduce(Block& block, const Tile& out, policy::chain<First, Rest...>, float* parts, int batch, int i, int j) const {
    const reduction_shape<First> shape(x.c.rows, x.c.cols, tile_rows(x), tile_cols(x), x.c.count);
    reduce_tile<b_left>(block, out, shape, parts, x.c.rows, x.c.cols, i, j, batch);
    reduce(block, out, policy::chain<Rest...>{}, parts + shape.floats(), batch, i, j);
  }
  template <class Block, class Tile> SMALTI_HD void store(Block& block, const Tile& t, const row_tile& at) const {
    if constexpr (Problem::adds) {
      Tile was;
      stored<true>(block, was, at);
      block.map([](auto old, auto more) { return old + to_float(more); }, was, was, t);
      stored<false>(block, was, at);
    } else {
      stored<false>(block, t, at);
    }
  }
  // The tile's place in C: read from there, or written.
  template <bool Read, class Block, class Tile> SMALTI_HD void stored(Block& block, Tile& t, const row_tile& at) const {
    if constexpr (rows_type::grouped && rows_type::scatters) {
      column<Block, int, m> target;
      block.load(target, view<const int, 1>{x.rows.target.data + at.row, at.rows, 1, 1}, 0, 0);
      if constexpr (Read) {      // what is not stored is read from row 0, which must exist
        block.map([=, count = at.rows](auto r, auto c) { return where(c < count, max(r, 0), 0); }, target, target, row_index{});
        if constexpr (b_left) block.load_rows(t, transposed(x.c[0]), target, at.j);
        else block.load_rows(t, x.c[0], target, at.j);
      } else {
        block.map([=, count = at.rows](auto r, auto c) { return where(c < count, r, -1); }, target, target, row_index{});
        if constexpr (b_left) block.store_rows(transposed(x.c[0]), target, at.j, t);
        else block.store_rows(x.c[0], target, at.j, t);
      }
    } else if constexpr (rows_type::grouped) {
      if constexpr (b_left) place(std::bool_constant<Read>{}, block, t, transposed(rows_of(x.c[0], at)), at.j, 0);
      else place(std::bool_constant<Read>{}, block, t, rows_of(x.c[0], at), 0, at.j);
    } else if constexpr (Problem::far) {
      if constexpr (b_left) place(std::bool_constant<Read>{}, block, t, transposed(band(x.c[at.expert], at.i * m, m)), at.j, 0);
      else place(std::bool_constant<Read>{}, block, t, band(x.c[at.expert], at.i * m, m), 0, at.j);
    } else {
      if constexpr (b_left) place(std::bool_constant<Read>{}, block, t, transposed(x.c), mutant(defect::c_of_first_matrix) ? 0 : at.expert, at.j, at.i);
      else place(std::bool_constant<Read>{}, block, t, x.c, at.expert, at.i, at.j);
    }
  }
  template <class Block, class Tile, class V, class... Place> static SMALTI_HD void place(std::true_type, Block& block, Tile& t, const V& v, Place... at) { block.load(t, v, at...); }
  template <class Block, class Tile, class V, class... Place> static SMALTI_HD void place(std::false_type, Block& block, const Tile& t, const V& v, Place... at) { block.store(v, at..., t); }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
