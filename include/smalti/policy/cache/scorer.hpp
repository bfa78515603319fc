// Scorers of cached tokens: what attention some queries pay to a key becomes the key's score. The pass that computes it
// is cache::observe; a scorer says which queries count, how heads and neighbours are reduced, and what is kept protected.
#pragma once
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! How the query heads that share a key (all heads of a track) become one number. Before pooling: a maximum does not commute with it.
enum class over_heads : std::uint8_t { sum, mean, maximum };

//! How a key's score takes in its neighbours' within (Kernel - 1) / 2 tokens.
//! average: their sum divided by Kernel everywhere, as SnapKV's program does; average_inside: divided by how many there are.
enum class pooling : std::uint8_t { none, average, average_inside, maximum };

//! Votes of the last Window queries, pooled; these tokens are protected. SnapKV: Li et al. 2024, arXiv:2404.14469.
//!     vote[j] = sum over the window's queries i of p_ij;   score = pool(reduce over heads(vote))
template <int Window = 32, int Kernel = 5, pooling Pool = pooling::average, over_heads Heads = over_heads::sum>
struct observation_window {
  static_assert(Window >= 1, "smalti: an observation window has at least one query");
  static_assert(Kernel >= 1 && Kernel % 2 == 1, "smalti: a pooling kernel is odd: with an even one the result would be one longer than the scores");
  static constexpr bool observes = true, accumulates = false;
  static constexpr int window = Window, kernel = Pool == pooling::none ? 1 : Kernel, sinks = 0, recent = Window;
  static constexpr pooling pool = Pool;
  static constexpr over_heads heads = Heads;
  float decay = 0;                   //!< of what was there: nothing is kept
};

//! Attention since the token appeared, from every query: S <- decay S + sum over queries i of p_ij. decay 1: H2O, Zhang et al. 2023,
//! arXiv:2306.14048; below 1: Scissorhands' history, Liu et al. 2023, arXiv:2305.17118. Not divided by how many queries could see a key:
//! old tokens have had more. `decay` is applied once for each query row.
template <over_heads Heads = over_heads::sum, int Sinks = 0>
struct accumulated {
  static constexpr bool observes = true, accumulates = true;
  static constexpr int window = 0, kernel = 1, sinks = Sinks, recent = -1;         // recent -1: half of the budget
  static constexpr pooling pool = pooling::none;
  static constexpr over_heads heads = Heads;
  float decay = 1;
};

//! The last query's attention, averaged over heads. TOVA: Oren et al. 2024, arXiv:2401.06104. In a cache whose heads share their pages
//! the mean is over all heads, as in the paper.
struct last_query {
  static constexpr bool observes = true, accumulates = false;
  static constexpr int window = 1, kernel = 1, sinks = 0, recent = 0;
  static constexpr pooling pool = pooling::none;
  static constexpr over_heads heads = over_heads::mean;
  float decay = 0;
};

//! Nothing but the place: the first Sinks tokens, then the newest. StreamingLLM: Xiao et al. 2023, arXiv:2309.17453. Reads no query and
//! no key.
template <int Sinks = 4> struct position_only {
  static constexpr bool observes = false, accumulates = false;
  static constexpr int window = 0, kernel = 1, sinks = Sinks, recent = 0;          // all of the budget behind the sinks
  static constexpr pooling pool = pooling::none;
  static constexpr over_heads heads = over_heads::sum;
  float decay = 0;
};

//! How well another token stands for a token: bipartite matching of the even tokens with the odd ones, whose scores cache::match_pairs makes of keys alone.
//! Bolya et al. 2022, arXiv:2210.09461. Half of the candidates at most go by it; below that the newest odd ones go too.
template <int Sinks = 4, int Recent = 16>
struct bipartite {
  static constexpr bool observes = true, accumulates = false;
  static constexpr int window = 1, kernel = 1, sinks = Sinks, recent = Recent;
  static constexpr pooling pool = pooling::none;
  static constexpr over_heads heads = over_heads::mean;
  float decay = 0;
};

//! Scorer's attention, by pages of Page tokens: a page has the score of its best token, and stays or goes whole. What is protected is whole pages too, so a budget
//! may fall short by fewer than two pages. Quest's granularity, Tang et al. 2024, arXiv:2406.10774, for systems that let go.
template <class Scorer, int Page>
struct in_pages : Scorer {
  static_assert(Page >= 1, "smalti: a page has at least one token");
  static_assert(Scorer::observes, "smalti: pages are chosen by scores: take a scorer that observes");
  static constexpr int kernel = 1, granule = Page;
  static constexpr pooling pool = pooling::none;
};
//! Tokens that stay or go together.
template <class S> constexpr int cache_granule = 1;
template <class Scorer, int Page> constexpr int cache_granule<in_pages<Scorer, Page>> = Page;

template <class S>
concept cache_scorer = std::is_trivially_copyable_v<S> && requires(const S s) {
  { S::observes } -> std::convertible_to<bool>;
  { S::accumulates } -> std::convertible_to<bool>;
  { S::window } -> std::convertible_to<int>;
  { S::kernel } -> std::convertible_to<int>;
  { S::sinks } -> std::convertible_to<int>;
  { S::recent } -> std::convertible_to<int>;
  { S::pool } -> std::convertible_to<pooling>;
  { S::heads } -> std::convertible_to<over_heads>;
  { s.decay } -> std::convertible_to<float>;
};

//! Why S is not a scorer, in one sentence.
template <class S> consteval bool explain_cache_scorer() {
  static_assert(std::is_trivially_copyable_v<S>, "smalti: a scorer of cached tokens is a small trivially copyable value: policy::observation_window, accumulated, last_query or position_only");
  static_assert(cache_scorer<S>, "smalti: a scorer of cached tokens needs static constexpr observes, accumulates, window, kernel, sinks, recent, pool, heads and a float decay: see policy::observation_window");
  return cache_scorer<S>;
}

}  // namespace smalti::inline SMALTI_DATA::policy
