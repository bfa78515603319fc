// What a block of attention keeps while it goes over the keys, for a tile of query rows: the weighted sum of values in
// chunks of their columns and, for normalizers that shift, the largest exponent of each row and the sum of its weights.
// Partial states of the same rows over different keys merge by the same rescaling that a new tile of keys needs.
#pragma once
#include <type_traits>
#include <smalti/core/view.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! One Piece<width> for each chunk.
template <class Chunks, template <int> class Piece, int I = 0, bool End = I == Chunks::count>
struct pieces {
  Piece<Chunks::width(I)> here;
  pieces<Chunks, Piece, I + 1> next;
};
template <class Chunks, template <int> class Piece, int I> struct pieces<Chunks, Piece, I, true> {};

template <class Block, int M, class Chunks, bool Shifts>
struct attention_state {
  template <int W> using sum_tile = tile<Block, float, M, W>;
  using sums = pieces<Chunks, sum_tile>;
  sums o;
  column<Block, float, M> largest, sum;

  SMALTI_HD void clear(Block& block) {
    clear<0>(block, o);
    if constexpr (Shifts) {
      // Below every exponent, and finite: a row that has seen no key must not make inf - inf.
      block.fill(largest, mutant(defect::max_starts_at_zero) ? 0.0f : -3e38f);
      block.fill(sum, 0.0f);
    }
  }

  //! Moves the reference of every row up to `top`, which is not below the largest so far.
  SMALTI_HD void raise(Block& block, const column<Block, float, M>& top) {
    column<Block, float, M> alpha;
    block.map([](auto old, auto now) { return exp2(old - now); }, alpha, largest, top);
    block.map([](auto total, auto a) { return mutant(defect::sum_not_rescaled) ? total : total * a; }, sum, sum, alpha);
    scale<0>(block, o, alpha);
    if (!mutant(defect::max_not_kept)) block.map([](auto now) { return now; }, largest, top);
  }

  //! Leaves this state in memory as partial number `place`; `stats` holds two rows for each.
  SMALTI_HD void store(Block& block, float* partial, const view<float>& stats, long long place) const {
    store<0>(block, o, partial, place);
    if constexpr (Shifts) {
      block.store_column(stats, static_cast<int>(2 * place), 0, largest);
      block.store_column(stats, static_cast<int>(2 * place) + 1, 0, sum);
    }
  }
  //! Takes in partial number `place`.
  SMALTI_HD void merge(Block& block, float* partial, const view<float>& stats, long long place) {
    if constexpr (Shifts) {
      column<Block, float, M> theirs, weight, top;
      block.load(theirs, transposed(stats), 0, static_cast<int>(2 * place));
      block.load(weight, transposed(stats), 0, static_cast<int>(2 * place) + 1);
      block.map([](auto a, auto b) { return max(a, b); }, top, largest, theirs);
      raise(block, top);
      block.map([](auto other, auto now) { return exp2(other - now); }, theirs, theirs, top);
      block.map([](auto total, auto more, auto take) { return total + more * (mutant(defect::merge_without_weights) ? take * 0.0f + 1.0f : take); }, sum, sum, weight, theirs);
      add<0>(block, o, partial, place, theirs);
    } else {
      add<0>(block, o, partial, place);
    }
  }
  //! Floats of one partial in memory, without its statistics.
  static constexpr int partial_floats = M * Chunks::padded;

private:
  template <int I, class P> static SMALTI_HD void clear(Block& block, P& p) {
    if constexpr (I < Chunks::count) {
      block.fill(p.here, 0.0f);
      clear<I + 1>(block, p.next);
    }
  }
  template <int I, class P> static SMALTI_HD void scale(Block& block, P& p, const column<Block, float, M>& alpha) {
    if constexpr (I < Chunks::count) {
      if (!mutant(defect::output_not_rescaled)) block.scale_rows(p.here, alpha);
      scale<I + 1>(block, p.next, alpha);
    }
  }
  static SMALTI_HD view<float> matrix(float* partial, long long place) { return {partial + place * partial_floats, M, Chunks::padded, Chunks::padded}; }
  template <int I, class P> static SMALTI_HD void store(Block& block, const P& p, float* partial, long long place) {
    if constexpr (I < Chunks::count) {
      block.store(matrix(partial, place), 0, Chunks::first(I) / Chunks::width(I), p.here);
      store<I + 1>(block, p.next, partial, place);
    }
  }
  template <int I, class P, class... Take> static SMALTI_HD void add(Block& block, P& p, float* partial, long long place, const Take&... take) {
    if constexpr (I < Chunks::count) {
      sum_tile<Chunks::width(I)> part;
      block.load(part, matrix(partial, place), 0, Chunks::first(I) / Chunks::width(I));
      block.map([](auto total, auto more, auto... weight) { return total + (more * ... * weight); }, p.here, p.here, part, take...);
      add<I + 1>(block, p.next, partial, place, take...);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
