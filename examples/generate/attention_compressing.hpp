// What the caches that keep a share of a prompt have in common: observed in the prefill, chosen behind it.
#pragma once
#include <cmath>
#include <type_traits>
#include <smalti/ops/cache/systems.hpp>
#include "attention_text.hpp"

namespace generate::inline GENERATE_MACHINE {

using storage = policy::kv_plain<bf16>;

template <class System> struct compressing : dense_look<storage, policy::causal> {
  static constexpr bool by_head = true;
  using scorer = typename System::scorer;
  static constexpr bool merges = policy::cache_merge<typename System::disposition>;
  double share = 1;
  scorer counts{};
  cache::pool_shape shape{};
  int most = 0;
  buffer<float> scores, prompt_scores;   // of every track's tokens; what they were before a fork of the prompt lost some
  shared_buffer<std::byte> plan;
  buffer<float> thresholds;              // of merging
  buffer<int> list;
  std::vector<int> held;                 // tokens of each track that have stayed
  bool gathers = true;                   // attention is added up over the first prompt alone: what is decoded later is not scored

  void attach(const cache::pool_shape& s, int tokens) {
    shape = s, most = tokens;
    if (scorer::observes) scores = buffer<float>(std::size_t(s.tracks()) * std::size_t(tokens));
    if (merges) thresholds = buffer<float>(std::size_t(s.layer_tracks()));
  }
  std::size_t bytes() const { return scores.bytes() + prompt_scores.bytes() + plan.bytes() + thresholds.bytes() + list.bytes(); }
  view<float, 1> all_scores() const { return {scores.data(), shape.tracks(), most, most}; }
  int budget(int n) const { return std::min(n, std::max(int(share * n + 0.5), 64)); }

  // A fork of a prompt that is not settled yet begins with the attention that the prompt has had.
  void forked(int, int) {
    if constexpr (scorer::accumulates) {
      if (gathers) prompt_scores = copy_of(scores);
      else if (prompt_scores.size() > 0) scores = copy_of(prompt_scores), gathers = true;
    }
  }
  void opened(int) { prompt_scores = {}; }

  void look(const machine& on, const looking<storage, 0>& x, scratch& memory) {
    dense_look<storage, policy::causal>::look(on, x, memory);
    watch(on, x, memory);
  }
  void watch(const machine& on, const looking<storage, 0>& x, scratch& memory) {
    if constexpr (scorer::observes) {
      if (x.from == 0 && x.layer == 0) gathers = true;
      if (x.q.rows > 1 && gathers)
        run<typename System::observe>(on, {.q = x.q, .kv = x.kv, .fresh = scorer::accumulates && x.from > 0 ? x.q.rows : -1, .scorer = counts, .scores = System::rows_of(shape, all_scores(), x.layer)}, memory);
    }
  }
  template <class Paged> void settle(const machine& on, int, Paged& pages, cache::sequence s, const cache::page_pool& pool, scratch& memory) {
    typename System::args x{};
    choose(on, x, pages, s, pool, memory);
  }
  template <class Paged> void choose(const machine& on, typename System::args& x, Paged& pages, cache::sequence s, const cache::page_pool& pool, scratch& memory) {
    if (scorer::accumulates && !gathers) return;
    if (scorer::accumulates) gathers = false;
    x.cache = &pages, x.sequence = s, x.pool = pool, x.tokens = budget(pages.positions(s));
    if constexpr (scorer::observes) x.scores = all_scores();
    if constexpr (merges) {
      const std::vector<float> none(thresholds.size(), std::nanf(""));
      thresholds.put(none.data(), none.size());
      x.thresholds = thresholds.data();
    }
    const int tracks = shape.tracks(), columns = System::most_kept(x);
    list.reserve(std::size_t(tracks) * std::size_t(columns));
    held.assign(std::size_t(tracks), 0);
    x.kept = {list.data(), tracks, columns, columns}, x.counts = held.data();
    plan.reserve(System::plan_bytes(x));
    x.plan = {plan.data(), plan.size()};
    run<System>(on, x, memory);
    wait(on);
    columns_ = columns;
  }
  std::vector<std::vector<int>> kept() const {
    std::vector<std::vector<int>> all;
    std::vector<int> row(static_cast<std::size_t>(columns_), 0);
    for (std::size_t t = 0; t < held.size(); ++t) {
      list.get(row.data(), std::size_t(held[t]), t * std::size_t(columns_));
      all.emplace_back(row.begin(), row.begin() + held[t]);
    }
    return all;
  }

private:
  static buffer<float> copy_of(const buffer<float>& from) {
    std::vector<float> all(from.size());
    from.get(all.data(), all.size());
    return on_machine(all);
  }
  int columns_ = 0;
};

}  // namespace generate::inline GENERATE_MACHINE
