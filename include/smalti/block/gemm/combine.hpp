// What GEMM agents share after their loop over k: adding up the parts of a split K in a fixed order, and the epilogue.
#pragma once
#include <type_traits>
#include <smalti/core/view.hpp>
#include <smalti/policy/epilogue.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! Where the sums of a split K lie: every tile of every split is one matrix, and each tile of the result has a counter, zero
//! at launch.
template <class Sum> struct split_memory {
  view<Sum> partial;
  int* arrived;
  int splits;
};

//! The steps of k that split `split` of `splits` makes: whole multiples of steps_per_split.
struct step_range { int first, last; };
SMALTI_HD constexpr step_range steps_of_split(int split, int steps, int steps_per_split) {
  const int first = split * steps_per_split + (mutant(defect::split_starts_late) ? 1 : 0);
  return {first, first + steps_per_split < steps ? first + steps_per_split + (mutant(defect::split_overlaps_next) ? 1 : 0) : steps};
}

namespace detail {

template <class Tile, class Sum> SMALTI_HD view<Sum> partial_sums(const split_memory<Sum>& m, int place) {
  return {m.partial.data + static_cast<long long>(place) * Tile::rows * (mutant(defect::partials_overlap) ? Tile::cols / 2 : Tile::cols), Tile::rows, Tile::cols, Tile::cols};
}
template <class Block, class Tile, class Sum> SMALTI_HD void gather_sums(Block& block, Tile& acc, const split_memory<Sum>& m, int place, [[maybe_unused]] int split, int stride) {
  Tile part;
  if (!mutant(defect::gather_keeps_own_sum)) block.fill(acc, Sum(0));
  for (int s : block.steps(0, m.splits)) {
    block.load(part, partial_sums<Tile>(m, place + (mutant(defect::sums_in_order_of_arrival) ? (s + split) % m.splits : s) * stride), 0, 0);
    block.map([](auto total, auto p) { return total + p; }, acc, acc, part);
  }
}

}  // namespace detail

//! Every split leaves its sums in memory; the last one to arrive adds them all up, in the order of k, so that the bits do
//! not depend on who was last. True for that one.
template <class Block, class Tile, class Sum> SMALTI_HD bool combine(Block& block, Tile& acc, const split_memory<Sum>& m, int tile, int split) {
  const int place = tile * m.splits;
  block.store(detail::partial_sums<Tile>(m, place + (mutant(defect::partial_overwritten) ? 0 : split)), 0, 0, acc);
  if (block.arrive(m.arrived + tile) != (mutant(defect::first_to_arrive_combines) ? 0 : m.splits - 1)) return false;
  detail::gather_sums(block, acc, m, place, split, 1);
  return true;
}
//! The same for the two sums of a pair.
template <class Block, class Tile, class Sum> SMALTI_HD bool combine(Block& block, Tile& acc, Tile& up, const split_memory<Sum>& m, int tile, int split) {
  const int place = tile * m.splits * 2;
  block.store(detail::partial_sums<Tile>(m, place + 2 * split), 0, 0, acc);
  if (!mutant(defect::partial_lost)) block.store(detail::partial_sums<Tile>(m, place + 2 * split + 1), 0, 0, up);
  if (block.arrive(m.arrived + tile) != m.splits - 1) return false;
  detail::gather_sums(block, acc, m, place, split, 2);
  detail::gather_sums(block, up, m, place + (mutant(defect::up_sums_taken_from_gate) ? 0 : 1), split, 2);
  return true;
}

//! out = epilogue(acc, row, column), where the tile begins at `row` and `column` of the result. Turned: the tile is the
//! result's transpose.
template <bool Turned, class Block, class Out, class Tile, class Epilogue>
SMALTI_HD void apply_epilogue(Block& block, Out& out, const Tile& acc, const Epilogue& steps, int row, int column) {
  block.map([=, epilogue = steps](auto v, auto r, auto c) {
    if constexpr (Turned) return epilogue(to_float(v), row + c, column + r);
    else return epilogue(to_float(v), row + r, column + c);
  }, out, acc, row_index{}, column_index{});
}
template <bool Turned, class Block, class Out, class Tile, class Epilogue>
SMALTI_HD void apply_epilogue(Block& block, Out& out, const Tile& gate, const Tile& up, const Epilogue& steps, int row, int column) {
  block.map([=, epilogue = steps](auto g, auto u, auto r, auto c) {
    if constexpr (Turned) return epilogue(to_float(mutant(defect::gate_and_up_swapped) ? u : g), to_float(mutant(defect::gate_and_up_swapped) ? g : u), row + c, column + r);
    else return epilogue(to_float(g), to_float(u), row + r, column + c);
  }, out, gate, up, row_index{}, column_index{});
}

}  // namespace smalti::inline SMALTI_CODE::gemm
