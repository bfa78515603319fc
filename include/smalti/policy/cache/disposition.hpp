// What becomes of cached tokens once some of them are chosen, and when that happens.
#pragma once
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <smalti/core/version.hpp>
#include <smalti/policy/position.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! A position policy of evicted caches: survivors close ranks towards the newest token. Only differences of phases matter, so
//! these are the scores of policy::compact, but queries and new keys keep their places in the text (heads that keep different numbers of
//! tokens need no queries of their own), and a survivor with nothing evicted behind it is not rotated at all. In a
//! StreamingLLM cache only the sinks move.
//! As in policy::compact, `position` is a key's place before this eviction; `evicted` is how many tokens of its track the eviction takes.
struct close_ranks {
  int evicted = 0;
  static constexpr key_storage storage = key_storage::rotated;
  template <class P, class R> SMALTI_HD constexpr auto query_phase(P position, R) const { return position; }
  template <class P, class R> SMALTI_HD constexpr auto key_phase(P, R rank) const { return rank + evicted; }
  template <class P, class R> SMALTI_HD constexpr auto stored_phase(P position, R) const { return position; }
};

namespace detail {
// By how much the key that was at `before` and is at `rank` of its track turns, and whether any does.
template <class Positions> struct turning {
  static constexpr bool any = false;
};
template <> struct turning<compact> {
  static constexpr bool any = true;
  SMALTI_HD static constexpr compact bound(int) { return {}; }
};
template <> struct turning<close_ranks> {
  static constexpr bool any = true;
  SMALTI_HD static constexpr close_ranks bound(int evicted) { return {evicted}; }
};
template <class P> constexpr bool survives_eviction =
    std::is_same_v<P, keep_original> || std::is_same_v<P, compact> || std::is_same_v<P, close_ranks> || std::is_same_v<P, rotate_on_read> || std::is_same_v<P, no_position>;
}  // namespace detail

//! The rest is forgotten: survivors move to pages of their own, close together, and the old pages go back to the pool. Each track
//! keeps its own choice.
//! @tparam Positions  keep_original: keys stay as they are and queries at their places in the text. compact: the key of rank r is rotated
//!                    on to phase r, and queries and new keys use ranks. close_ranks: the same differences, anchored at the newest token.
//!                    rotate_on_read, no_position: keys are stored plain, nothing turns here.
//!                    compact and close_ranks round a key each time it turns: evict seldom, or store plain
//! @tparam Pairs      which columns turn together, where any do: half_split
template <class Positions = keep_original, class Pairs = half_split>
struct evict {
  static_assert(explain_position_policy<Positions>());
  static_assert(detail::survives_eviction<Positions>,
                "smalti: after an eviction positions are policy::keep_original, compact, close_ranks, rotate_on_read or no_position: a block's own count (block_relative) has no meaning across pages that moved");
  static_assert(!detail::turning<Positions>::any || std::is_same_v<Pairs, half_split>, "smalti: eviction turns keys of policy::half_split: for interleaved pairs keep positions (policy::keep_original), or permute the projection once");
  using positions = Positions;
  static constexpr bool moves = true;
};

//! Nothing is forgotten: the choice is what attention reads, as a list of tokens for each track (retrieval without eviction).
struct skip_read {
  using positions = keep_original;
  static constexpr bool moves = false;
};

//! With u the cosine of an evicted key and the survivor it is merged into.
//! normalized_exp: survivor e / (e + sum exp(u)), evicted exp(u) / (e + sum exp(u)): convex, as D2O's paper says.
//! cosine_mean: the mean of the survivor and of u times each evicted one, as its authors' program does: shrinks survivors where u < 1.
enum class merge_weight : std::uint8_t { normalized_exp, cosine_mean };
//! Which evicted tokens are merged, the others are forgotten. layer: the i-th evicted tokens of a layer's heads together, where their mean similarity
//! reaches the threshold, as D2O's program does. own: each for itself.
enum class merge_gate : std::uint8_t { layer, own };

//! The rest is folded into survivors that resemble it. D2O: Wan et al. 2024, arXiv:2406.13035. For each head and evicted token e:
//!     nearest survivor c, u = max over c of cos(k_e, k_c); of equal ones the oldest
//!     threshold of a layer: at first the mean of u; later memory * threshold + (1 - memory) * mean of u
//!     where the gate lets it pass: keys and values of c become the weighted mean of themselves and of all that merge into c
//! Survivors move to pages of their own as in policy::evict, and positions are kept: keys are averaged as they were rotated, each at its place.
template <merge_weight Weight = merge_weight::normalized_exp, merge_gate Gate = merge_gate::layer>
struct merge {
  using positions = keep_original;
  static constexpr bool moves = true;
  static constexpr merge_weight weight = Weight;
  static constexpr merge_gate gate = Gate;
};
//! The rest is kept in few bits: survivors move to pages of their own as in policy::evict, and what goes is quantized once into a pool of Low, beside the
//! first. MiKV: Yang et al. 2024, arXiv:2402.18096. Attention reads both in segments.
//! @tparam Low       policy::kv_integer with scales for channels of one token: kv_int2<>, kv_int4<>, ...; or policy::kv_plain<fp8_e4m3>, which saturates at 448
//! @tparam Balanced  keys are multiplied by a balance of channels before they are quantized, and met by queries divided by it (policy/channel_balance.hpp)
template <class Low, bool Balanced = false>
struct demote {
  using positions = keep_original;
  using low = Low;
  static constexpr bool moves = true, balanced = Balanced;
};
template <class D> constexpr bool cache_demote = false;
template <class Low, bool Balanced> constexpr bool cache_demote<demote<Low, Balanced>> = true;

template <class D> constexpr bool cache_merge = false;
template <merge_weight Weight, merge_gate Gate> constexpr bool cache_merge<merge<Weight, Gate>> = true;

template <class D>
concept cache_disposition = std::is_empty_v<D> && requires { { D::moves } -> std::convertible_to<bool>; typename D::positions; };

//! What a schedule is asked with: steps since the prefill (0: it has just ended), tokens the sequence has, tokens of a page.
struct schedule_moment {
  int step = 0;
  int tokens = 0;
  int page = 0;
};

//! When a cache is compressed.
struct once_after_prefill {
  constexpr bool due(const schedule_moment& m) const { return m.step == 0; }
};
struct every_step {
  constexpr bool due(const schedule_moment&) const { return true; }
};
//! After the prefill and every `steps` steps: an eviction copies what survives, so its cost is divided by `steps`.
struct every {
  int steps = 1;
  constexpr bool due(const schedule_moment& m) const { return m.step % (steps > 0 ? steps : 1) == 0; }
};
//! After the prefill and when the newest page is full: the next token would take a page.
struct on_page_full {
  constexpr bool due(const schedule_moment& m) const { return m.step == 0 || (m.page > 0 && m.tokens % m.page == 0); }
};

//! After the prefill and when a residual window of newest tokens is full: what a codec of groups of tokens waits for (cache::kivi).
struct on_residual_full {
  int residual = 128;
  constexpr bool due(const schedule_moment& m) const { return m.step == 0 || (residual > 0 && m.tokens % residual == 0); }
};

//! A policy that says when.
template <class S>
concept cache_schedule = std::is_trivially_copyable_v<S> && requires(const S s, const schedule_moment& m) { { s.due(m) } -> std::same_as<bool>; };

}  // namespace smalti::inline SMALTI_DATA::policy
