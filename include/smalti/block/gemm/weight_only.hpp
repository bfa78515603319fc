// The weight-only agent: Y = X W', W in four-bit codes with one scale per group of k. Codes lie in planes of
// 32-bit words: of the 8 * words codes of a group, plane p of word w holds k = 2w (bits 4p and up) and 2w + 1
// (bits 16 + 4p and up) of the p-th quarter, so that a shift, an `and` and one subtraction make two operand
// values. On cuda_tile the words are one matrix N x K / 8; on the host, panels of one tile's columns, [word][n].
#pragma once
#include <smalti/core/float.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! `weights_left`: the decoded weights are the left operand (from 64 tokens up on a GPU: wgmma takes that one from
//! registers); never on the host.
struct weight_only_tuning {
  int m, n;
  bool weights_left = false;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const weight_only_tuning&) const = default;
};

template <class Codec, class Y> struct weight_only_problem {
  using codec = Codec;
  struct arguments {
    view<const bf16> x;                   //!< M x K
    stack<const std::uint32_t> codes;     //!< cuda_tile: one matrix N x K / 8; host: N / n panels of K / 8 x n
    view<const float> scales;             //!< K / group x N
    view<Y> y;                            //!< M x N
  };
};

template <weight_only_tuning Tuning, class Problem>
struct weight_only_agent {
  using arguments = typename Problem::arguments;
  using codec = typename Problem::codec;
  static constexpr int m = Tuning.m, n = Tuning.n, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  static constexpr int group = codec::group, planes = 4, depth = group / planes;
  arguments a;

  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.y.rows, m), ceil_div(a.y.cols, n), 1}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), j = block.y();
    constexpr int rows = Tuning.weights_left ? n : m, cols = Tuning.weights_left ? m : n;
    tile<Block, float, rows, cols> acc, part;
    block.fill(acc, 0.0f);
    for (int g : block.steps(0, ceil_div(a.x.cols, group) - (mutant(defect::last_group_lost) ? 1 : 0))) {
      words<Block, n, group / 8> w;
      block.load(w, a.codes, g, j);
      if (!mutant(defect::group_sum_not_cleared)) block.fill(part, 0.0f);
      multiply<0>(block, part, w, i, g);
      if constexpr (Tuning.weights_left) {
        column<Block, float, n> s;
        block.load(s, transposed(a.scales), j, g);
        block.map([](auto sum, auto p, auto scale) { return sum + p * scale; }, acc, acc, part, s);
      } else {
        row<Block, float, n> s;
        block.load(s, a.scales, mutant(defect::scale_of_first_group) ? 0 : g, j);
        block.map([](auto sum, auto p, auto scale) { return sum + p * scale; }, acc, acc, part, s);
      }
    }
    if constexpr (Tuning.weights_left) block.store(transposed(a.y), j, i, acc);
    else block.store(a.y, i, j, acc);
  }

  template <int Plane, class Block, class Acc, class Words>
  SMALTI_HD void multiply(Block& block, Acc& acc, const Words& w, int i, int g) const {
    if constexpr (Plane < planes) {
      if constexpr (Tuning.weights_left) {
        left<Block, bf16, n, depth> b;
        right<Block, bf16, depth, m> v;
        block.load(v, transposed(a.x), g * planes + Plane, i);
        block.template unpack<Plane>(b, w, codec{});
        block.product(acc, b, v);
      } else {
        left<Block, bf16, m, depth> v;
        right<Block, bf16, depth, n> b;
        block.load(v, a.x, i, g * planes + (mutant(defect::planes_reversed) ? planes - 1 - Plane : Plane));
        block.template unpack<Plane>(b, w, codec{});
        block.product(acc, v, b);
      }
      multiply<Plane + 1>(block, acc, w, i, g);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
