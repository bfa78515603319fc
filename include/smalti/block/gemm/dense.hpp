// The dense GEMM agent: C = epilogue(A B'), any M, N, K, batched, with an optional split of K. One block makes one
// tile of C, or (persistent) one after another. A is M x K or K x M, B is N x K (the weights of linear layers) or K x N,
// all by rows: an operand whose rows do not run as the product takes them is turned by its load, and nothing else differs.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/block/gemm/combine.hpp>
#include <smalti/block/gemm/reductions.hpp>
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
template <class A, class B, class C, class Epilogue, class Options, bool Far>
struct dense_problem {
  using left_element = typename operand<A>::type;
  using right_element = typename operand<B>::type;
  using sum = typename operand<A>::sum;
  using reductions = typename Options::reductions;
  template <class T> static constexpr int step = Options::any_width ? 1 : step_of<T>;
  static constexpr bool a_along_k = Options::a == a_order::m_by_k, b_along_k = Options::b == b_order::n_by_k;   // which way rows run
  static constexpr bool split = Options::split_k, persistent = Options::persistent, far = Far, pairs = policy::takes_pairs<Epilogue>,
                        three = Options::f32 == float_product::tf32x3, reduces = policy::reduction_count<reductions> > 0;

  struct arguments {
    stack<const A, step<A>> a;       //!< batch of M x K or K x M
    stack<const B, step<B>> b, up;   //!< batch of N x K or K x N; `up` is the second half of a pair
    stack<C, step<C>> c;             //!< batch of M x N
    view<sum> partial;               //!< split K: every tile of every split, one row per tile
    int* arrived;                    //!< split K: one counter per tile of C, zero at launch
    float* reduced;                  //!< parts of the reductions, one after another: reduction_shape
    int k, splits, steps_per_split;
    int group, workers;              //!< tile order; persistent: how many blocks there are
    Epilogue epilogue;
  };
};

//! Whether a target's compiler makes a good kernel of a loop over tiles around the loop over k. For sm_80 and sm_89 it unrolls
//! both into one pipeline, which spills whatever the tile: there a persistent kernel is one block a tile.
SMALTI_HD constexpr bool loops_over_tiles(target t) { return t != target::sm80 && t != target::sm89; }

template <gemm_tuning Tuning, class Problem, bool Persistent = Problem::persistent>
struct dense_agent {
  using arguments = typename Problem::arguments;
  using sum = typename Problem::sum;
  static constexpr int m = Tuning.m, n = Tuning.n, k = Tuning.k, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  static constexpr bool b_left = Tuning.b_left && Problem::b_along_k;
  static constexpr int rows = b_left ? n : m, cols = b_left ? m : n;       // of the accumulator
  arguments x;

  // Tiles of C down and across, and of all matrices and splits.
  static SMALTI_HD constexpr int tile_rows(const arguments& x) { return mutant(defect::grid_loses_ragged_rows) ? x.c.rows / m : ceil_div(x.c.rows, m); }
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
    const int steps = mutant(defect::dense_loses_tail_of_k) ? x.k / k : ceil_div(x.k, k);
    int batch = layer, split = 0, first = 0, last = steps;
    if constexpr (Problem::split) {
      split = batch % x.splits;
      batch = batch / x.splits;
      const step_range mine = steps_of_split(split, steps, x.steps_per_split);
      first = mine.first, last = mine.last;
    }

    if constexpr (Problem::pairs) {
      sums<Block> acc, up;
      multiply(block, acc, up, batch, i, j, first, last);
      if constexpr (Problem::split) {
        if (!combine(block, acc, up, split_memory<sum>{x.partial, x.arrived, x.splits}, tile_number(batch, i, j), split)) return;
      }
      finish(block, acc, up, batch, i, j);
    } else {
      sums<Block> acc;
      multiply(block, acc, acc, batch, i, j, first, last);
      if constexpr (Problem::split) {
        if (!combine(block, acc, split_memory<sum>{x.partial, x.arrived, x.splits}, tile_number(batch, i, j), split)) return;
      }
      finish(block, acc, batch, i, j);
    }
  }

  // acc = A B' over the steps of k, and in the same pass over A the second product of a pair.
  template <class Block>
  SMALTI_HD void multiply(Block& block, sums<Block>& acc, sums<Block>& up, int batch, int i, int j, int first, int last) const {
    const int begins = mutant(defect::accumulator_not_cleared) ? -1 : first;
    if (begins >= 0) block.begin(acc, first < last);
    if constexpr (Problem::pairs) block.begin(up, first < last);
    for (int step : block.steps(first, last)) {
      if constexpr (b_left) {
        right_operand<Block, typename Problem::left_element, m> v;
        v.template load<Problem::a_along_k>(block, x.a, batch, step, mutant(defect::operand_of_wrong_tile) ? j : i);
        weights_times(block, acc, x.b, v, batch, j, mutant(defect::b_tile_stale) ? first : step, step == begins);
        if constexpr (Problem::pairs) weights_times(block, up, x.up, v, batch, j, step, step == first);
      } else {
        left_operand<Block, typename Problem::left_element, m> v;
        v.template load<!Problem::a_along_k>(block, x.a, mutant(defect::a_of_first_matrix) ? 0 : batch, i, step);
        times_weights(block, acc, v, x.b, batch, j, step, step == begins);
        if constexpr (Problem::pairs) times_weights(block, up, v, x.up, batch, j, step, step == first);
      }
    }
  }
  template <class Block, class Right, class B>
  SMALTI_HD void weights_times(Block& block, sums<Block>& acc, const B& b, const Right& v, int batch, int j, int step, bool begins) const {
    left_operand<Block, typename Problem::right_element, n> w;
    w.template load<!Problem::b_along_k>(block, b, batch, j, step);
    accumulate(block, acc, w, v, begins);
  }
  template <class Block, class Left, class B>
  SMALTI_HD void times_weights(Block& block, sums<Block>& acc, const Left& v, const B& b, int batch, int j, int step, bool begins) const {
    right_operand<Block, typename Problem::right_element, n> w;
    w.template load<Problem::b_along_k>(block, b, mutant(defect::b_of_first_matrix) ? 0 : batch, step, j);
    accumulate(block, acc, v, w, begins);
  }

  // Tile (i, j) of a matrix, or of its transpose. Out of 32-bit reach the rows of the tile become a view of their own.
  template <bool Turned, class Block, class Tile, class Stack> static SMALTI_HD void load_tile(Block& block, Tile& t, const Stack& s, int batch, int i, int j) {
    if constexpr (Turned && Problem::far) block.load(t, transposed(band(s[batch], j * Tile::cols, Tile::cols)), i, 0);
    else if constexpr (Turned) block.load(t, transposed(s), batch, i, j);
    else if constexpr (Problem::far) block.load(t, band(s[batch], i * Tile::rows, Tile::rows), 0, j);
    else block.load(t, s, batch, i, j);
  }
  // An operand, or with tf32x3 both parts of it.
  template <class Operand> struct one_part {
    Operand of;
    template <bool Turned, class Block, class Stack> SMALTI_HD void load(Block& block, const Stack& s, int batch, int i, int j) { load_tile<Turned>(block, of, s, batch, i, j); }
  };
  template <class Whole, class Operand> struct two_parts {
    Operand high, low;
    template <bool Turned, class Block, class Stack> SMALTI_HD void load(Block& block, const Stack& s, int batch, int i, int j) {
      Whole both;
      load_tile<Turned>(block, both, s, batch, i, j);
      block.split(high, low, both);
    }
  };
  template <class Block, class T, int Rows>
  using left_operand = std::conditional_t<Problem::three, two_parts<left<Block, float, Rows, k>, left<Block, T, Rows, k>>, one_part<left<Block, T, Rows, k>>>;
  template <class Block, class T, int Cols>
  using right_operand = std::conditional_t<Problem::three, two_parts<right<Block, float, k, Cols>, right<Block, T, k, Cols>>, one_part<right<Block, T, k, Cols>>>;

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

  SMALTI_HD int tile_number(int batch, int i, int j) const { return (batch * ceil_div(x.c.cols, n) + (mutant(defect::tiles_share_a_number) ? 0 : j)) * ceil_div(x.c.rows, m) + i; }

  template <class Block> SMALTI_HD void finish(Block& block, sums<Block>& acc, int batch, int i, int j) const {
    constexpr bool plain = std::is_same_v<decltype(arguments::epilogue), policy::chain<>> && !Problem::reduces;
    if constexpr (plain && (std::is_same_v<sum, float> || std::is_same_v<typename decltype(arguments::c)::element, int>)) {
      store(block, acc, batch, i, j);
    } else {
      tile<Block, float, rows, cols> out;
      apply_epilogue<b_left>(block, out, acc, x.epilogue, (b_left && mutant(defect::epilogue_row_in_tile) ? 0 : i) * m, (!b_left && mutant(defect::epilogue_column_in_tile) ? 0 : j) * n);
      reduce(block, out, typename Problem::reductions{}, x.reduced, batch, i, j);
      store(block, out, batch, i, j);
    }
  }
  template <class Block> SMALTI_HD void finish(Block& block, sums<Block>& gate, sums<Block>& up, int batch, int i, int j) const {
    tile<Block, float, rows, cols> out;
    apply_epilogue<b_left>(block, out, gate, up, x.epilogue, i * m, j * n);
    reduce(block, out, typename Problem::reductions{}, x.reduced, batch, i, j);
    store(block, out, batch, i, j);
  }
  template <class Block, class Tile> SMALTI_HD void reduce(Block&, const Tile&, policy::chain<>, float*, int, int, int) const {}
  template <class Block, class Tile, class First, class... Rest>
  SMALTI_HD void reduce(Block& block, const Tile& out, policy::chain<First, Rest...>, float* parts, int batch, int i, int j) const {
    const reduction_shape<First> shape(x.c.rows, x.c.cols, tile_rows(x), tile_cols(x), x.c.count);
    reduce_tile<b_left>(block, out, shape, parts, x.c.rows, x.c.cols, i, j, batch);
    reduce(block, out, policy::chain<Rest...>{}, parts + shape.floats(), batch, i, j);
  }
  template <class Block, class Tile> SMALTI_HD void store(Block& block, const Tile& t, int batch, int i, int j) const {
    if constexpr (Problem::far) {
      if constexpr (b_left) block.store(transposed(band(x.c[batch], i * m, m)), j, 0, t);
      else block.store(band(x.c[batch], i * m, m), 0, j, t);
    } else {
      if constexpr (b_left) block.store(transposed(x.c), mutant(defect::c_of_first_matrix) ? 0 : batch, j, i, t);
      else block.store(x.c, batch, i, j, t);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
