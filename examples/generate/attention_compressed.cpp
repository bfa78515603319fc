// Dense attention to what named systems keep of a prompt: each head has pages of its own, and after the prompt keeps a share of its tokens.
#if !defined(__CUDACC__)
#  include <smalti/ops/cache/hired.hpp>
#endif
#include "attention_compressing.hpp"

namespace generate::inline GENERATE_MACHINE {

namespace {

#if !defined(__CUDACC__)
// HiRED without an image: the prompt is a row of places, its last token the class token. Four runs of it are the tiles, and a coarse view of all, in which four
// tokens are one place, says how many tokens each gets; every head and layer keeps the same. Nothing of the coarse view itself is kept.
struct hired_look : compressing<cache::tova<bf16, head_dim>> {
  template <class Paged> void settle(const machine& on, int s, Paged& pages, cache::sequence of, const cache::page_pool& pool, scratch& memory) {
    choose(pages.positions(of));
    compressing::settle(on, s, pages, of, pool, memory);
  }
  void choose(int n) {
    constexpr int tiles = 4;
    const int places = n / tiles, heads = shape.kv_heads, late_layer = shape.layers * 9 / 10;
    const int keeps = budget(n);
    if (places == 0 || keeps >= n) return;
    const view<float, 1> scores = all_scores();
    const auto mean = [&](int layer, int token) {
      float sum = 0;
      for (int h = 0; h < heads; ++h) sum += scores.data[static_cast<long long>(shape.track(layer, h)) * scores.stride + token];
      return sum / float(heads);
    };
    // what the four runs leave over, up to three tokens at the end, stays
    std::vector<float> early(std::size_t(places), 0.0f), late(std::size_t(tiles + 1) * std::size_t(places), 0.0f);
    for (int i = 0; i < tiles * places; ++i) early[std::size_t(i / tiles)] += mean(0, i), late[std::size_t(places + i)] = mean(late_layer, i);
    std::vector<int> chosen(late.size()), counts(tiles + 1);
    cache::hired::args x{.early = {early.data(), 1, places, places}, .late = {late.data(), tiles + 1, places, places}, .grid_rows = 1, .grid_cols = places, .tile_rows = 1, .tile_cols = tiles,
                         .tokens = std::max(0, keeps - n % tiles), .whole = 0, .salient = places / 2, .map = cache::tile_map::stripes};
    x.kept = {chosen.data(), tiles + 1, places, places}, x.counts = counts.data();
    scratch rest;
    run<cache::hired>(host_context{1}, x, rest);
    for (int t = 0; t < shape.tracks(); ++t) {
      float* const row = scores.data + t * static_cast<long long>(scores.stride);
      std::fill(row, row + n, 0.0f);
      std::fill(row + tiles * places, row + n, 1.0f);
      for (int tile = 0; tile < tiles; ++tile)
        for (int i = 0; i < counts[std::size_t(tile) + 1]; ++i) row[tile * places + chosen[std::size_t(tile + 1) * std::size_t(places) + std::size_t(i)]] = 1.0f;
    }
  }
};
#endif

}  // namespace

std::unique_ptr<attention_cache> make_compressed(const attention_settings& s, const config& c, const std::string& system, double share) {
  const auto make = [&](auto how, float decay = 0) -> std::unique_ptr<attention_cache> {
    how.share = share;
    if (decay > 0) how.counts.decay = decay;
    return std::make_unique<cache_of<storage, decltype(how)>>(s, c, std::move(how));
  };
  if (system == "snapkv") return make(compressing<cache::snapkv<bf16, head_dim>>());
  if (system == "pyramid") return make(compressing<cache::pyramid_kv<bf16, head_dim>>());
  if (system == "ada") return make(compressing<cache::ada_kv<bf16, head_dim>>());
  if (system == "h2o") return make(compressing<cache::h2o<bf16, head_dim>>());
  // what a token was looked at for fades to half within some fifty queries
  if (system == "scissorhands") return make(compressing<cache::scissorhands<bf16, head_dim>>(), 0.987f);
  if (system == "d2o") return make(compressing<cache::d2o<bf16, head_dim>>());
  if (system == "d2o_keep") return make(compressing<cache::d2o_keep<bf16, head_dim>>());
  if (system == "tova") return make(compressing<cache::tova<bf16, head_dim>>());
  // Positions are kept: the pairs of some files' rotations are interleaved, and such keys do not turn.
  if (system == "streaming") return make(compressing<cache::compress<bf16, head_dim, policy::position_only<4>>>());
#if !defined(__CUDACC__)
  if (system == "hired") return make(hired_look());
#else
  if (system == "hired") throw std::runtime_error("--cache hired is not built for GPUs: its tiles' budgets follow from what the processor selects");
#endif
  if (system == "mikv") return make_mikv(s, c, share);
  if (system == "kivi") return make_kivi(s, c, share);
  if (system == "quest") return make_quest_cache(s, c, share);
  if (system == "sparf") return make_sparf(s, c, share);
  if (system == "actqkv") return make_actqkv(s, c, share);
  throw std::runtime_error("--cache " + s.cache + " is not built: dense, and snapkv:F, pyramid:F, ada:F, h2o:F, scissorhands:F, d2o:F, d2o_keep:F, tova:F, streaming:F, hired:F, mikv:F, kivi:F, quest:F, "
                           "sparf:F and actqkv:F are, F the share of a prompt's tokens that is kept or read, or of kivi their share of bits");
}

}  // namespace generate::inline GENERATE_MACHINE
