// The dense GEMM agent: C = epilogue(A B'), any M, N, K, batched, with an optional split of K. One block makes one
// tile of C. Layouts: A is M x K by rows; B is N x K by rows (the weights of linear layers) or K x N by rows.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/block/gemm/combine.hpp>
#include <smalti/core/float.hpp>
#include <smalti/policy/epilogue.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! Tile shape and launch hints of one kernel. `b_left` computes C' = B A' instead, with the rows of B as the left
//! operand: for few rows of A (decode), where the left operand is the one that streams from memory.
struct gemm_tuning {
  int m, n, k;
  bool b_left = false;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const gemm_tuning&) const = default;
};

enum class b_order { n_by_k, k_by_n };

// What a product of T takes its operand as, and where it sums.
template <class T> struct operand { using type = T; using sum = float; };
template <> struct operand<float> { using type = tf32; using sum = float; };
template <> struct operand<std::int8_t> { using type = std::int8_t; using sum = int; };

//! What the agent computes, as types: element types, promises of the views, order of B, and whether K is split,
//! the matrices are rebased per block because they are out of 32-bit reach, and the epilogue takes pairs.
template <class A, class B, class C, class Epilogue, b_order Order, int StepA, int StepB, int StepC, bool Split, bool Far>
struct dense_problem {
  using left_element = typename operand<A>::type;
  using right_element = typename operand<B>::type;
  using sum = typename operand<A>::sum;
  static constexpr b_order order = Order;
  static constexpr bool split = Split, far = Far, pairs = policy::takes_pairs<Epilogue>;

  struct arguments {
    stack<const A, StepA> a;         //!< batch of M x K
    stack<const B, StepB> b, up;     //!< batch of N x K or K x N; `up` is the second half of a pair
    stack<C, StepC> c;               //!< batch of M x N
    view<sum> partial;               //!< split K: every tile of every split, one row per tile
    int* arrived;                    //!< split K: one counter per tile of C, zero at launch
    int k, splits, steps_per_split;
    Epilogue epilogue;
  };
};

template <gemm_tuning Tuning, class Problem>
struct dense_agent {
  using arguments = typename Problem::arguments;
  using sum = typename Problem::sum;
  static constexpr int m = Tuning.m, n = Tuning.n, k = Tuning.k, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  static constexpr bool b_left = Tuning.b_left && Problem::order == b_order::n_by_k;
  static constexpr int rows = b_left ? n : m, cols = b_left ? m : n;       // of the accumulator
  arguments x;

  static constexpr grid blocks(const arguments& x) {
    return {mutant(defect::grid_loses_ragged_rows) ? x.c.rows / m : ceil_div(x.c.rows, m), ceil_div(x.c.cols, n), x.c.count * (Problem::split ? x.splits : 1)};
  }

  template <class Block> using sums = tile<Block, sum, rows, cols>;

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), j = block.y();
    const int steps = mutant(defect::dense_loses_tail_of_k) ? x.k / k : ceil_div(x.k, k);
    int batch = block.z(), split = 0, first = 0, last = steps;
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

private:
  // acc = A B' over the steps of k, and in the same pass over A the second product of a pair.
  template <class Block>
  SMALTI_HD void multiply(Block& block, sums<Block>& acc, sums<Block>& up, int batch, int i, int j, int first, int last) const {
    if (!mutant(defect::accumulator_not_cleared)) block.fill(acc, sum(0));
    if constexpr (Problem::pairs) block.fill(up, sum(0));
    for (int step : block.steps(first, last)) {
      if constexpr (b_left) {
        right<Block, typename Problem::left_element, k, m> v;
        load_columns(block, v, x.a, batch, step, mutant(defect::operand_of_wrong_tile) ? j : i);
        weights_times(block, acc, x.b, v, batch, j, mutant(defect::b_tile_stale) ? first : step);
        if constexpr (Problem::pairs) weights_times(block, up, x.up, v, batch, j, step);
      } else {
        left<Block, typename Problem::left_element, m, k> v;
        load_rows(block, v, x.a, mutant(defect::a_of_first_matrix) ? 0 : batch, i, step);
        times_weights(block, acc, v, x.b, batch, j, step);
        if constexpr (Problem::pairs) times_weights(block, up, v, x.up, batch, j, step);
      }
    }
  }
  template <class Block, class Right, class B>
  SMALTI_HD void weights_times(Block& block, sums<Block>& acc, const B& b, const Right& v, int batch, int j, int step) const {
    left<Block, typename Problem::right_element, n, k> w;
    load_rows(block, w, b, batch, j, step);
    block.product(acc, w, v);
  }
  template <class Block, class Left, class B>
  SMALTI_HD void times_weights(Block& block, sums<Block>& acc, const Left& v, const B& b, int batch, int j, int step) const {
    right<Block, typename Problem::right_element, k, n> w;
    if constexpr (Problem::order == b_order::n_by_k) load_columns(block, w, b, mutant(defect::b_of_first_matrix) ? 0 : batch, step, j);
    else if constexpr (Problem::far) block.load(w, band(b[batch], step * k, k), 0, j);
    else block.load(w, b, batch, step, j);
    block.product(acc, v, w);
  }

  // Tile (i, j) of a matrix, and of its transpose. Out of 32-bit reach the rows of the tile become a view of their own.
  template <class Block, class Tile, class Stack> static SMALTI_HD void load_rows(Block& block, Tile& t, const Stack& s, int batch, int i, int j) {
    if constexpr (Problem::far) block.load(t, band(s[batch], i * Tile::rows, Tile::rows), 0, j);
    else block.load(t, s, batch, i, j);
  }
  template <class Block, class Tile, class Stack> static SMALTI_HD void load_columns(Block& block, Tile& t, const Stack& s, int batch, int i, int j) {
    if constexpr (Problem::far) block.load(t, transposed(band(s[batch], j * Tile::cols, Tile::cols)), i, 0);
    else block.load(t, transposed(s), batch, i, j);
  }

  SMALTI_HD int tile_number(int batch, int i, int j) const { return (batch * ceil_div(x.c.cols, n) + (mutant(defect::tiles_share_a_number) ? 0 : j)) * ceil_div(x.c.rows, m) + i; }

  template <class Block> SMALTI_HD void finish(Block& block, sums<Block>& acc, int batch, int i, int j) const {
    constexpr bool plain = std::is_same_v<decltype(arguments::epilogue), policy::chain<>>;
    if constexpr (plain && (std::is_same_v<sum, float> || std::is_same_v<typename decltype(arguments::c)::element, int>)) {
      store(block, acc, batch, i, j);
    } else {
      tile<Block, float, rows, cols> out;
      apply_epilogue<b_left>(block, out, acc, x.epilogue, (b_left && mutant(defect::epilogue_row_in_tile) ? 0 : i) * m, (!b_left && mutant(defect::epilogue_column_in_tile) ? 0 : j) * n);
      store(block, out, batch, i, j);
    }
  }
  template <class Block> SMALTI_HD void finish(Block& block, sums<Block>& gate, sums<Block>& up, int batch, int i, int j) const {
    tile<Block, float, rows, cols> out;
    apply_epilogue<b_left>(block, out, gate, up, x.epilogue, i * m, j * n);
    store(block, out, batch, i, j);
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
