// Where experts live: host policies over memory of the caller, with laws that their tests check. They decide and count; moving bytes is the
// program's (a copy, a read of a file, a remapping of pages).
//     expert_cache        which experts of all layers are in fast memory: least recently used, prefetched by a router that runs early
//     affinity_placement  which rank holds which expert, so that what follows one another lies together
//     remapping           from one number of ranks to another, an expert always owned
#pragma once
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! A cache of experts shared by all layers, least recently used first out. What a step uses is held until the step ends, so that the
//! experts of one layer never push each other out. SmallThinker, arXiv:2507.20984: the router runs before attention, so that what it asks for
//! is exactly what is used, and reads overlap attention.
//!
//! Laws: at most `places` experts are present, none twice; asked for again before `places` others were, an expert is a hit; an expert in
//! use is never evicted; with as many places as experts, each misses once.
//! @note O(places) a request
struct expert_cache {
  struct entry {
    std::int64_t key = -1;           //!< layer * experts + expert; -1: empty
    std::int64_t last = 0;           //!< when it was asked for last
    bool held = false;
  };
  entry* entries = nullptr;          //!< [places]
  int places = 0, experts = 0;
  std::int64_t now = 0, hits = 0, misses = 0;

  struct answer {
    status why;
    int place = -1;                  //!< where the expert is, or is to be read to
    bool present = false;            //!< false: read it there
    std::int64_t evicted = -1;       //!< what was there before; -1: nothing
  };
  //! Asks for an expert and holds it.
  constexpr answer request(int layer, int expert) {
    if (entries == nullptr || places < 1) return {.why = {errc::bad_shape, "expert_cache needs at least one place", places, 1}};
    if (layer < 0 || expert < 0 || expert >= experts) return {.why = {errc::bad_value, "expert must be below expert_cache.experts, and layer not negative", expert, std::int64_t(experts) - 1}};
    const std::int64_t key = std::int64_t(layer) * experts + expert;
    int oldest = -1;
    for (int i = 0; i < places; ++i) {
      if (entries[i].key == key) {
        entries[i].last = ++now, entries[i].held = true, ++hits;
        return {.why = {}, .place = i, .present = true};
      }
      if (!entries[i].held && (oldest < 0 || entries[i].last < entries[oldest].last)) oldest = i;
    }
    if (oldest < 0) return {.why = {errc::exhausted, "every place of the expert cache is in use: release the step's experts, or give it more places", places, std::int64_t(places) + 1}};
    const std::int64_t before = entries[oldest].key;
    entries[oldest] = {key, ++now, true};
    ++misses;
    return {.why = {}, .place = oldest, .present = false, .evicted = before};
  }
  //! The step is done: nothing is in use.
  constexpr void release() {
    for (int i = 0; i < places; ++i) entries[i].held = false;
  }
};

//! A placement of the experts of `layers` layers on `ranks` ranks, experts / ranks on each, that keeps tokens where they are from layer to layer
//! (ExFlow, Yao et al. 2024, arXiv:2401.08383): the cost is the number of tokens whose expert of the next layer is on another rank,
//!     sum over l, a, b of follows[l][a][b] [rank[l][a] != rank[l + 1][b]]
//! with follows[l][a][b] the tokens that go from expert a of layer l to b of layer l + 1: all that a trace tells. Begins with the placement given
//! (or expert / (experts / ranks)) and swaps two experts of a layer while that lowers the cost.
//!
//! Laws: each layer has experts / ranks on every rank; the cost never rises; no swap of two experts of one layer lowers it further, unless
//! `rounds` ran out. For top-1 routing: of k experts only one can be where the token stays.
struct affinity_placement {
  const std::int64_t* follows = nullptr;     //!< [layers - 1][experts][experts]
  std::int32_t* rank = nullptr;              //!< [layers][experts] in and out
  int layers = 0, experts = 0, ranks = 1;

  constexpr status check() const {
    if (layers < 1 || experts < 1) return {errc::bad_shape, "affinity_placement needs a layer and an expert", layers < 1 ? layers : experts, 1};
    if (ranks < 1 || experts % ranks != 0) return {errc::bad_shape, "affinity_placement.experts must be a multiple of its ranks", experts, ranks};
    if (rank == nullptr || (layers > 1 && follows == nullptr)) return {errc::null_pointer, "affinity_placement.rank and follows must not be null"};
    return {};
  }
  //! Expert e on rank e / (experts / ranks), in every layer.
  constexpr void vanilla() {
    for (int l = 0; l < layers; ++l)
      for (int e = 0; e < experts; ++e) rank[std::int64_t(l) * experts + e] = e / (experts / ranks);
  }
  constexpr std::int64_t cost() const {
    std::int64_t sum = 0;
    for (int l = 0; l + 1 < layers; ++l)
      for (int a = 0; a < experts; ++a)
        for (int b = 0; b < experts; ++b)
          if (at(l, a) != at(l + 1, b)) sum += flow(l, a, b);
    return sum;
  }
  //! Lowers the cost; at most `rounds` passes over all pairs. How often it swapped.
  //! @note O(rounds layers experts^3); refuses what check() refuses
  constexpr std::int64_t improve(int rounds = 20) {
    if (!check()) return 0;
    std::int64_t swaps = 0;
    for (int round = 0; round < rounds; ++round) {
      const std::int64_t before = swaps;
      for (int l = 0; l < layers; ++l)
        for (int a = 0; a < experts; ++a)
          for (int b = a + 1; b < experts; ++b) {
            std::int32_t &x = rank[std::int64_t(l) * experts + a], &y = rank[std::int64_t(l) * experts + b];
            if (x == y || bound_to(l, a, y) + bound_to(l, b, x) <= bound_to(l, a, x) + bound_to(l, b, y)) continue;
            const std::int32_t keep = x;
            x = y, y = keep;
            ++swaps;
          }
      if (swaps == before) break;
    }
    return swaps;
  }

private:
  constexpr std::int32_t at(int l, int e) const { return rank[std::int64_t(l) * experts + e]; }
  constexpr std::int64_t flow(int l, int a, int b) const { return follows[(std::int64_t(l) * experts + a) * experts + b]; }
  // Tokens that stay where they are if expert e of layer l is on rank r.
  constexpr std::int64_t bound_to(int l, int e, std::int32_t r) const {
    std::int64_t sum = 0;
    for (int o = 0; o < experts; ++o) {
      if (l > 0 && at(l - 1, o) == r) sum += flow(l - 1, o, e);
      if (l + 1 < layers && at(l + 1, o) == r) sum += flow(l, e, o);
    }
    return sum;
  }
};

//! From `before` ranks to `after` ranks with as few moves as evenness allows (ElasticMoE, arXiv:2510.02613: pages are remapped, what stays is not
//! copied). Experts move by copies that are published together: until then the old owner serves.
//!
//! Laws: afterwards ranks hold the same number of experts, or one more; an expert moves only if its rank goes away or holds too many, so the
//! moves are the fewest; an expert has an owner at every moment; extra memory at the peak is that of the experts moved.
struct remapping {
  std::int32_t* owner = nullptr;             //!< [experts] the old owner in, the new one out
  std::int32_t* room = nullptr;              //!< [after] scratch: what a rank may still take
  int experts = 0, before = 1, after = 1;
  struct move { std::int32_t expert, from, to; };

  constexpr status check() const {
    if (experts < 0 || before < 1 || after < 1) return {errc::bad_shape, "remapping needs experts >= 0 and at least one rank before and after", before < 1 ? before : after, 1};
    if (room == nullptr || (experts > 0 && owner == nullptr)) return {errc::null_pointer, "remapping.owner and room must not be null"};
    for (int e = 0; e < experts; ++e)
      if (owner[e] < 0 || owner[e] >= before) return {errc::bad_value, "remapping.owner must name a rank below `before` for every expert", owner[e], std::int64_t(before) - 1};
    return {};
  }
  //! Writes the moves (at most experts of them) and the new owners; the number of moves, -1 for what check() refuses.
  constexpr int plan(move* moves) {
    if (!check()) return -1;
    // experts % after ranks hold one more: those that hold most already, so that nothing moves for the remainder's sake.
    int more = experts % after;
    for (int r = 0; r < after; ++r) room[r] = experts / after;
    for (int level = experts; level > experts / after && more > 0; --level)
      for (int r = 0; r < after && more > 0; ++r)
        if (held(r) >= level && room[r] == experts / after) ++room[r], --more;
    for (int r = 0; r < after && more > 0; ++r)
      if (room[r] == experts / after) ++room[r], --more;
    int count = 0;
    for (int e = 0; e < experts; ++e)        // who stays
      if (owner[e] < after && room[owner[e]] > 0) --room[owner[e]];
      else moves[count++] = {e, owner[e], -1};
    for (int i = 0, r = 0; i < count; ++i) {
      while (room[r] == 0) ++r;
      --room[r];
      moves[i].to = owner[moves[i].expert] = r;
    }
    return count;
  }

private:
  constexpr int held(int r) const {
    int n = 0;
    for (int e = 0; e < experts; ++e) n += owner[e] == r ? 1 : 0;
    return n;
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
