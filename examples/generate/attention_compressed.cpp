// Dense attention to what named systems keep of a prompt: each head has pages of its own, and after the prompt keeps a share of its tokens.
#include <smalti/ops/cache/systems.hpp>
#include "attention_text.hpp"

namespace generate::inline GENERATE_MACHINE {

namespace {

using storage = policy::kv_plain<bf16>;

template <class System> struct compressing : dense_look<storage, policy::causal> {
  static constexpr bool by_head = true;
  using scorer = typename System::scorer;
  double share = 1;
  scorer counts{};
  cache::pool_shape shape{};
  int most = 0;
  buffer<float> scores;                  // of every track's tokens
  shared_buffer<std::byte> plan;
  bool gathers = true;                   // attention is added up over the first prompt alone: what is decoded later is not scored

  void attach(const cache::pool_shape& s, int tokens) {
    shape = s, most = tokens;
    if (scorer::observes) scores = buffer<float>(std::size_t(s.tracks()) * std::size_t(tokens));
  }
  std::size_t bytes() const { return scores.bytes() + plan.bytes(); }
  view<float, 1> all_scores() const { return {scores.data(), shape.tracks(), most, most}; }

  void look(const machine& on, const looking<storage, 0>& x, scratch& memory) {
    dense_look<storage, policy::causal>::look(on, x, memory);
    if constexpr (scorer::observes) {
      if (x.from == 0 && x.layer == 0) gathers = true;
      auto q = x.q;                // one sequence: its rows are all there are
      q.offsets = nullptr;
      if (x.q.rows > 1 && gathers)
        run<typename System::observe>(on, {.q = q, .kv = x.kv, .fresh = scorer::accumulates && x.from > 0 ? x.q.rows : -1, .scorer = counts, .scores = System::rows_of(shape, all_scores(), x.layer)}, memory);
    }
  }
  template <class Paged> void settle(const machine& on, Paged& pages, cache::sequence s, const cache::page_pool& pool, scratch& memory) {
    if (scorer::accumulates && !gathers) return;
    if (scorer::accumulates) gathers = false;
    const int n = pages.positions(s);
    typename System::args x{.cache = &pages, .sequence = s, .pool = pool, .tokens = std::min(n, std::max(int(share * n + 0.5), 64))};
    if constexpr (scorer::observes) x.scores = all_scores();
    plan.reserve(System::plan_bytes(x));
    x.plan = {plan.data(), plan.size()};
    run<System>(on, x, memory);
    wait(on);
  }
};

template <class System> std::unique_ptr<attention_cache> make(const attention_settings& s, const config& c, double share, float decay = 0) {
  compressing<System> how;
  how.share = share;
  if (decay > 0) how.counts.decay = decay;
  return std::make_unique<cache_of<storage, compressing<System>>>(s, c, std::move(how));
}

}  // namespace

std::unique_ptr<attention_cache> make_compressed(const attention_settings& s, const config& c, const std::string& system, double share) {
  if (system == "snapkv") return make<cache::snapkv<bf16, head_dim>>(s, c, share);
  if (system == "pyramid") return make<cache::pyramid_kv<bf16, head_dim>>(s, c, share);
  if (system == "ada") return make<cache::ada_kv<bf16, head_dim>>(s, c, share);
  if (system == "h2o") return make<cache::h2o<bf16, head_dim>>(s, c, share);
  // what a token was looked at for fades to half within some fifty queries
  if (system == "scissorhands") return make<cache::scissorhands<bf16, head_dim>>(s, c, share, 0.987f);
  if (system == "d2o_keep") return make<cache::d2o_keep<bf16, head_dim>>(s, c, share);
  if (system == "tova") return make<cache::tova<bf16, head_dim>>(s, c, share);
  // Positions are kept: the pairs of some files' rotations are interleaved, and such keys do not turn.
  if (system == "streaming") return make<cache::compress<bf16, head_dim, policy::position_only<4>>>(s, c, share);
  throw std::runtime_error("--cache " + s.cache + " is not built: dense, snapkv:F, pyramid:F, ada:F, h2o:F, scissorhands:F, d2o_keep:F, tova:F and streaming:F are, F the share of a prompt's tokens that is kept");
}

}  // namespace generate::inline GENERATE_MACHINE
