// Weights whose rows lie anywhere in a pool, as many as each weight has: adapters of mixed ranks without padding, in pages of
// one rank row (S-LoRA), or in shards that many of them share (mixture of shards). A form of B in the dense agent.
#pragma once
#include <smalti/core/version.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! Row r of weight e is, shard by shard, lines line[(first[e] + r) * shards + c] of the pool, c < shards, each of the pool's
//! width; r < count[e]. A weight of no rows is zero. Rows run along N (shrinking: N x K) or along K (expanding: K x N).
//! @tparam Scaled  what weight e gives is multiplied by scale[e]
//! Sources: Sheng et al. 2023, S-LoRA, arXiv:2311.03285; Wang et al. 2024, MoS, arXiv:2410.00938.
template <class T, bool Scaled = false, int Step = step_of<T>> struct paged_rows {
  using element = T;
  static constexpr bool scaled = Scaled;
  view<const T, Step> pool = {};
  const int *first = nullptr, *count = nullptr;     //!< [weights]
  const int* line = nullptr;                        //!< the list of pages; its entries must exist
  const float* scale = nullptr;                     //!< [weights], if Scaled
  int shards = 1;
  int weights = 0, most = 0;                        //!< how many weights, and the largest count: what grids are sized by
  int lines = 0;                                    //!< entries of `line`

  //! Tile (rows r, columns c) of weight e: Turned, rows run along the tile's columns. Rows past the last are the last one.
  //! @pre  with more than one shard, the pool's width is a multiple of the tile's extent along it
  template <bool Turned, class Block, class Tile> SMALTI_HD void load(Block& block, Tile& t, int e, int step, int j) const {
    constexpr int high = Turned ? Tile::cols : Tile::rows, wide = Turned ? Tile::rows : Tile::cols;
    const int along = Turned ? step : j, down = (Turned ? j : step) * high;
    const int per_shard = ceil_div(pool.cols, wide), shard = shards > 1 ? along / per_shard : 0, inside = shards > 1 ? along % per_shard : along;
    const int begin = mutant(defect::paged_list_of_first_weight) ? 0 : block.number(first, e), last = block.number(count, e) - 1;
    column<Block, int, high> rows;
    block.map([=, list = line, step_of_row = shards, size = lines](auto r) {
      return lookup(list, (min(r + down, last) + begin) * step_of_row + (mutant(defect::paged_shard_of_first) ? 0 : shard), size);
    }, rows, row_index{});
    if constexpr (Turned) block.load_rows(t, transposed(pool), rows, inside);
    else block.load_rows(t, pool, rows, inside);
  }
  //! What is left to do with the sums: columns that the weight does not have become zero, and the scale.
  template <bool RowsAreColumns, class Block, class Sums> SMALTI_HD void finish(Block& block, Sums& acc, int e, int column) const {
    if constexpr (RowsAreColumns) {
      block.map([=, end = block.number(count, e) - column](auto v, auto c) { return where(c < (mutant(defect::paged_rank_not_cut) ? end + 16 : end), v, 0.0f); }, acc, acc, column_index{});
    }
    if constexpr (Scaled) {
      block.map([=, by = block.number(scale, e)](auto v) { return mutant(defect::paged_scale_forgotten) ? v : v * by; }, acc, acc);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
