// What lists of routing and of adapters may say, looked over where they lie: see inspect_agent.
#pragma once
#include <smalti/core/context.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::moe {

//! The rules, each with a place of its own in the report.
enum class finding : int { id_unknown, id_twice, offsets_wrong, rows_not_covered, name_unknown, rank_too_large, list_too_short, line_freed, count };

template <class Offset> struct inspect_arguments {
  const int* id;                 //!< [tokens x choices], or null
  int tokens, choices, experts;
  const Offset* offsets;         //!< [segments + 1], or null
  int segments, rows;
  const int* name;               //!< [segments], or null
  int weights;
  const int *first, *ranks;      //!< [weights], or null
  const int* line;               //!< [lines]
  int shards, most, lines, pool;
  int* report;                   //!< [findings] the first place where a rule is broken, or -1
};
//! report[f] = the least place where finding f holds, or -1: a slot, a segment, a weight or an entry of the list of lines. Three blocks.
template <class Offset> struct inspect_agent {
  static constexpr int n = 256, top = 2147483647;
  using arguments = inspect_arguments<Offset>;
  arguments a;
  static constexpr grid blocks(const arguments&) { return {3, 1, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    if (block.x() == 0) ids(block);
    if (block.x() == 1) segments(block);
    if (block.x() == 2) pages(block);
  }

private:
  // Places are kept as top - place, so that the greatest is the first, and 0 none.
  template <class Block> SMALTI_HD void say(Block& block, finding f, const tile<Block, int, 1, n>& worst) const {
    column<Block, int, 1> place;
    block.row_max(place, worst);
    block.map([](auto p) { return where(p > 0, top - p, -1); }, place, place);
    block.store(view<int, 1>{a.report + int(f), 1, 1, 1}, 0, 0, place);
  }
  template <class Block> SMALTI_HD void ids(Block& block) const {
    tile<Block, int, 1, n> unknown, twice;
    block.fill(unknown, 0);
    block.fill(twice, 0);
    const int slots = a.id != nullptr ? a.tokens * a.choices : 0;
    for (int j : block.steps(0, ceil_div(slots, n))) {
      block.map([=, p = a.id, experts = a.experts](auto worst, auto c) {
        const auto s = c + j * n;
        const auto id = lookup(p, s, slots);
        return max(worst, where(s < slots, where(id < -1, top - s, where(id >= experts, top - s, 0)), 0));
      }, unknown, unknown, column_index{});
      for (int back = 1; back < a.choices; ++back)
        block.map([=, p = a.id, choices = a.choices](auto worst, auto c) {
          const auto s = c + j * n;
          const auto id = lookup(p, s, slots);
          const auto before = lookup(p, s - back, slots);
          return max(worst, where(s < slots, where(s % choices >= back, where(id >= 0, where(id == before, top - s, 0), 0), 0), 0));
        }, twice, twice, column_index{});
    }
    say(block, finding::id_unknown, unknown);
    say(block, finding::id_twice, twice);
  }
  template <class Block> SMALTI_HD void segments(Block& block) const {
    tile<Block, int, 1, n> unknown, none;
    block.fill(unknown, 0);
    block.fill(none, 0);
    const int count = a.offsets != nullptr ? a.segments : 0;
    int wrong = 0, uncovered = 0;
    long long last = 0;      // offsets may be 64 bits: numbers, not values
    for (int s = 0; s < count; ++s) {
      const long long begin = s == 0 ? block.number(a.offsets, s) : last, end = block.number(a.offsets, s + 1);
      const bool bad = begin < 0 || (s == 0 && begin > 0) || end < begin || end > a.rows;
      wrong = bad && wrong == 0 ? top - s : wrong;
      uncovered = s == count - 1 && end < a.rows ? top - s : 0;
      last = end;
    }
    if (a.name != nullptr)
      for (int j : block.steps(0, ceil_div(count, n)))
        block.map([=, p = a.name, weights = a.weights](auto worst, auto c) {
          const auto s = c + j * n;
          return max(worst, where(s < count, where(lookup(p, s, count) >= weights, top - s, 0), 0));
        }, unknown, unknown, column_index{});
    say(block, finding::name_unknown, unknown);
    block.map([wrong](auto v) { return v + wrong; }, unknown, none);
    say(block, finding::offsets_wrong, unknown);
    block.map([uncovered](auto v) { return v + uncovered; }, unknown, none);
    say(block, finding::rows_not_covered, unknown);
  }
  template <class Block> SMALTI_HD void pages(Block& block) const {
    tile<Block, int, 1, n> large, shorter, freed;
    block.fill(large, 0);
    block.fill(shorter, 0);
    block.fill(freed, 0);
    const int count = a.first != nullptr ? a.weights : 0, high = a.shards > 0 ? a.lines / a.shards : 0;      // rows that the list has
    for (int j : block.steps(0, ceil_div(count, n))) {
      block.map([=, p = a.ranks, most = a.most](auto worst, auto c) {
        const auto s = c + j * n;
        const auto rank = lookup(p, s, count);
        return max(worst, where(s < count, where(rank < 0, top - s, where(rank > most, top - s, 0)), 0));
      }, large, large, column_index{});
      block.map([=, p = a.ranks, q = a.first](auto worst, auto c) {
        const auto s = c + j * n;
        const auto rank = lookup(p, s, count);
        const auto first = lookup(q, s, count);
        return max(worst, where(rank > 0, where(first < 0, top - s, where(first > high - rank, top - s, 0)), 0));
      }, shorter, shorter, column_index{});
    }
    for (int e = 0; e < count; ++e) {
      const int rank = block.number(a.ranks, e), first = block.number(a.first, e);
      const int begin = (first > 0 ? (first < high ? first : high) : 0) * a.shards, lines = (rank > 0 ? (rank < high - begin / a.shards ? rank : high - begin / a.shards) : 0) * a.shards;      // those that exist
      for (int j : block.steps(0, ceil_div(lines, n)))
        block.map([=, p = a.line, all = a.lines, pool = a.pool](auto worst, auto c) {
          const auto i = c + j * n;
          const auto at = lookup(p, i + begin, all);
          return max(worst, where(i < lines, where(at < 0, top - begin - i, where(at >= pool, top - begin - i, 0)), 0));
        }, freed, freed, column_index{});
    }
    say(block, finding::rank_too_large, large);
    say(block, finding::list_too_short, shorter);
    say(block, finding::line_freed, freed);
  }
};
template <class Offset> struct inspect_kernel {
  using arguments = inspect_arguments<Offset>;
  template <target> using agent = inspect_agent<Offset>;
};

}  // namespace smalti::inline SMALTI_CODE::moe
