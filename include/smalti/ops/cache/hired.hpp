// Which image tokens a language model is given: HiRED. docs/ops/cache/hired.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/core/determinism.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/policy/cache/apportion.hpp>
#include <smalti/prim/select_k.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! Which tile of the image a place of the full image belongs to.
//! geometric: the tile that covers it. stripes: as the authors' program does, which cuts the row-major map into equal runs, so that
//! a tile of a grid gets rows that are half its neighbour's.
enum class tile_map : std::uint8_t { geometric, stripes };

//! The image tokens that stay, before the language model sees any. An image is encoded whole (partition 0) and in rows x cols tiles; each gives
//! grid_rows * grid_cols tokens with the attention of the encoder's class token.
//!     partition 0:  the `whole` best by late attention
//!     salient    :  the `salient` best places of partition 0 by early attention; count[t] of them lie in tile t
//!     tile t     :  its best by late attention, budget[t] in proportion to count[t], in whole parts whose sum is what `tokens` leaves
//! Kept tokens stay in their order. No salient place: equal budgets. A tile takes at most all of its tokens; what it cannot take goes to the others.
//! Host only: budgets follow from what was selected.
//! @pre   attention is summed over heads, one number a token
//! @post  gpu_to_gpu
//! @note  reads early attention once and late attention once. Source: Arif et al. 2024, arXiv:2408.10945. For its defaults of 20 % and alpha 1/2:
//!        tokens = partitions * n / 5, whole = min(tokens / 2, n), salient = n / 2. What differs: budgets do not lose tokens to rounding
struct hired {
  static constexpr determinism level = determinism::gpu_to_gpu;

  struct args {
    view<const float, 1> early{};         //!< 1 x n: partition 0
    view<const float, 1> late{};          //!< partitions x n: the whole image, then tiles row by row
    int grid_rows = 24, grid_cols = 24;   //!< of the tokens of a partition: n = grid_rows * grid_cols
    int tile_rows = 2, tile_cols = 2;     //!< of the tiles; 0 and 0: there is only the whole image, and it keeps `tokens`
    int tokens = 0;                       //!< that stay in all
    int whole = 0;                        //!< of them, of the whole image
    int salient = 0;                      //!< places of the whole image that count
    tile_map map = tile_map::geometric;
    view<int, 1> kept{};                  //!< partitions x n: places that stay, ascending, -1 behind
    int* counts = nullptr;                //!< [partition] how many
  };
  static constexpr int partitions(const args& x) { return 1 + x.tile_rows * x.tile_cols; }
  static constexpr int places(const args& x) { return x.grid_rows * x.grid_cols; }

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    static_assert(is_host<Context>, "smalti: hired runs on the host: the budgets of tiles follow from what was selected");
    if (const status bad = check_context(base_of(context)); !bad) return bad;
    if (x.grid_rows < 1 || x.grid_cols < 1 || x.grid_rows > 4096 || x.grid_cols > 4096) return {errc::bad_shape, "grid_rows and grid_cols must be within [1, 4096]", x.grid_rows, x.grid_cols};
    if (x.tile_rows < 0 || x.tile_cols < 0 || (x.tile_rows == 0) != (x.tile_cols == 0) || x.tile_rows > 64 || x.tile_cols > 64) return {errc::bad_shape, "tile_rows and tile_cols must be within [1, 64], or both 0", x.tile_rows, x.tile_cols};
    const int n = places(x), count = partitions(x);
    for (const auto& v : {x.early, x.late})
      if (v.data == nullptr) return {errc::null_pointer, "early and late must not be null: attention of the class token", 0, n};
    if (x.early.rows != 1 || x.early.cols != n) return {errc::bad_shape, "early needs one row of grid_rows * grid_cols numbers", x.early.cols, n};
    if (x.late.rows != count || x.late.cols != n) return {errc::bad_shape, "late needs a row for each partition, of grid_rows * grid_cols numbers", x.late.rows, count};
    if (x.tokens < 0 || x.tokens > static_cast<long long>(count) * n) return {errc::bad_value, "tokens must be within [0, partitions * n]", x.tokens, static_cast<long long>(count) * n};
    if (x.whole < 0 || x.whole > x.tokens) return {errc::bad_value, "whole must be within [0, tokens]: the whole image's part of them", x.whole, x.tokens};
    if (x.salient < 0 || x.salient > n) return {errc::bad_value, "salient must be within [0, n]: places of the whole image", x.salient, n};
    if (x.kept.data == nullptr || x.counts == nullptr) return {errc::null_pointer, "kept and counts must not be null: they are the result", 0, count};
    if (x.kept.rows != count || x.kept.cols != n || x.kept.stride < n) return {errc::bad_shape, "kept needs a row for each partition, of n places", x.kept.rows, count};
    return {};
  }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) { return lay_out(context, x, nullptr).bytes; }

  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    const plan p = lay_out(context, x, memory.data);
    const int n = places(x), tiles = partitions(x) - 1;
    x.counts[0] = tiles == 0 ? (x.tokens < n ? x.tokens : n) : x.whole < n ? x.whole : n;
    if (tiles > 0) {
      if (x.salient > 0)
        if (const status bad = best::run(context, {.rows = x.early, .k = x.salient, .indices = {p.salient, 1, x.salient, x.salient}, .arranged = prim::arrangement::by_index}, p.rest); !bad) return bad;
      for (int t = 0; t < tiles; ++t) p.weights[t] = 0, p.caps[t] = n;
      for (int i = 0; i < x.salient; ++i) ++p.weights[tile_of(x, p.salient[i])];
      policy::apportion(p.weights, p.caps, tiles, x.tokens - x.counts[0], x.counts + 1);
    }
    int most = 0;
    for (int t = 0; t <= tiles; ++t) most = x.counts[t] > most ? x.counts[t] : most;
    for (int t = 0; t <= tiles; ++t)
      for (int i = most; i < n; ++i) x.kept.data[t * static_cast<long long>(x.kept.stride) + i] = -1;
    if (most == 0) return {};
    return best::run(context, {.rows = x.late, .k = most, .indices = {x.kept.data, tiles + 1, most, x.kept.stride}, .arranged = prim::arrangement::by_index, .row_k = x.counts}, p.rest);
  }

  //! The tile of a place of the whole image.
  static constexpr int tile_of(const args& x, int place) {
    if (x.map == tile_map::stripes) return static_cast<int>(static_cast<long long>(place) * (x.tile_rows * x.tile_cols) / places(x));
    return place / x.grid_cols * x.tile_rows / x.grid_rows * x.tile_cols + place % x.grid_cols * x.tile_cols / x.grid_cols;
  }

private:
  using best = prim::select_k<float>;
  struct plan {
    int *salient, *caps;
    double* weights;
    workspace rest;
    std::size_t bytes;
  };
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    const int n = places(x) > 0 ? places(x) : 0, count = partitions(x) > 0 ? partitions(x) : 1;
    carver carve{base};
    plan p{};
    p.salient = carve.take<int>(std::size_t(n)), p.caps = carve.take<int>(std::size_t(count)), p.weights = carve.take<double>(std::size_t(count));
    const std::size_t one = best::workspace_bytes(context, {.rows = x.late, .k = n, .arranged = prim::arrangement::by_index}), two = best::workspace_bytes(context, {.rows = x.early, .k = n, .arranged = prim::arrangement::by_index});
    const std::size_t rest = one > two ? one : two;
    p.rest = {carve.take<std::byte>(rest), rest};
    p.bytes = carve.used;
    return p;
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
