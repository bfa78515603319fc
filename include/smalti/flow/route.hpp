// Where blocks of tokens go in attention over many ranks, and how much of them: said once for all systems.
//
// Every rank holds some queries and some keys. One of the two moves: a block is what one rank holds, and it visits the others by a
// rotation; at each it meets what stays there. What a visit yields for the block (partial results of queries, gradients of keys)
// goes home. Systems differ in what moves, which way, and how yields return:
//
//     ring_attention        keys move, each rank passes them on to the next lower one     Liu et al. 2023, arXiv:2310.01889
//     bidirectional_ring    keys move both ways, half around each
//     pass_q                queries move; all yields return at the end, in one all-to-all Yang et al. 2024, arXiv:2411.01783
//     token_ring            queries move one way, yields return at once the other way     Wang et al. 2024, arXiv:2412.20501
//     dist_attention        queries go straight to each holder of keys, and yields back   Lin et al. 2024, arXiv:2401.02669
//
// WHAT TRAVELS. A rank passes on only what a rank further along the way can use, as the mask says: of each sequence one span of
// the block's rows. Both ends evaluate the same rule, so nothing is asked. Under a causal mask a zigzag layout that rotates
// downward moves 75 % of the bytes of whole blocks for every P (a block's later half is not wanted past rank 0), upward
// 1 - 1 / (2 P) of them; contiguous shares rotating upward 50 %; a window cuts blocks that nobody can see.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>
#include <smalti/comm/schedule.hpp>
#include <smalti/comm/traffic.hpp>
#include <smalti/flow/placement.hpp>
#include <smalti/policy/mask.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::flow {

enum class moves : std::uint8_t { keys, queries };
enum class direction : std::uint8_t { down, up, both };   //!< toward lower ranks, higher ones, half around either way
enum class returns : std::uint8_t {
  at_once,   //!< each yield goes straight home when it is computed, while the next block is at work
  at_end     //!< all yields in one all-to-all after the last block
};

//! A system, as data.
struct rotation {
  moves what = moves::keys;
  direction way = direction::down;
  bool relayed = true;               //!< each rank passes blocks on; false: their home sends them to every rank itself
  returns home = returns::at_once;
  friend constexpr bool operator==(const rotation&, const rotation&) = default;
};
inline constexpr rotation ring_attention{moves::keys, direction::down}, upward_ring{moves::keys, direction::up}, bidirectional_ring{moves::keys, direction::both},
    pass_q{moves::queries, direction::down, true, returns::at_end}, token_ring{moves::queries, direction::down, true, returns::at_once},
    dist_attention{moves::queries, direction::up, false, returns::at_once};

//! The ways of a rotation: one stream of blocks, or two in opposite directions.
struct route {
  int ranks = 1;
  rotation by{};
  constexpr int streams() const { return by.way == direction::both ? 2 : 1; }
  constexpr int sign(int stream) const { return by.way == direction::down || (by.way == direction::both && stream == 1) ? -1 : 1; }
  //! Visits of a block in a stream.
  constexpr int hops(int stream) const {
    if (by.way != direction::both) return ranks - 1;
    return stream == 0 ? ranks / 2 : (ranks - 1) / 2;
  }
  constexpr int steps() const { return hops(0); }   //!< the longer stream
  //! Whose block a rank has after `hop` hops, and who has a block then.
  constexpr int home(int rank, int stream, int hop) const { return comm::around(rank - sign(stream) * hop, ranks); }
  constexpr int holder(int home, int stream, int hop) const { return comm::around(home + sign(stream) * hop, ranks); }
};

//! What travels: a rotation over placements under a mask. The same answers on every rank.
template <class Mask> struct travel {
  route way;
  placement queries, keys;
  Mask mask{};
  int heads = 1;       //!< asked one by one, where the mask differs by head

  const placement& moving() const { return way.by.what == moves::keys ? keys : queries; }
  const placement& staying() const { return way.by.what == moves::keys ? queries : keys; }

  //! The rows of home's block of sequence s that what stays at `holder` can use: one span that holds them.
  policy::span wanted(int s, int home, int holder) const {
    const int mine = staying().rows(holder, s), n = moving().rows(home, s);
    if (mine == 0 || n == 0) return {0, 0};
    const int *there = staying().at(holder, s), *block = moving().at(home, s);
    const policy::span seen{there[0], there[mine - 1] + 1};
    policy::span rows{0, 0};
    for (int h = 0; h < (policy::differs_by_head<Mask> ? heads : 1); ++h) {
      const auto bound = policy::bound(mask, policy::place{s, h, queries.lengths[s], keys.lengths[s]});
      const policy::span p = way.by.what == moves::keys ? bound.keys(seen, keys.lengths[s]) : policy::queries(bound, seen, queries.lengths[s]);
      const int first = int(std::lower_bound(block, block + n, p.first) - block), last = int(std::lower_bound(block, block + n, p.last) - block);
      rows = policy::detail::hull(rows, first < last ? policy::span{first, last} : policy::span{0, 0});
    }
    if (mutant(defect::whole_blocks_travel) && rows.first < rows.last) return {0, n};
    return rows;
  }
  //! The rows that a block still has at its hop-th visit (from 1): what is wanted there or further on.
  policy::span carried(int s, int home, int stream, int hop) const {
    policy::span rows = wanted(s, home, way.holder(home, stream, hop));
    for (int h = hop + 1; way.by.relayed && h <= way.hops(stream); ++h) rows = policy::detail::hull(rows, wanted(s, home, way.holder(home, stream, h)));
    return rows;
  }
  std::int64_t carried_rows(int home, int stream, int hop) const {
    std::int64_t n = 0;
    for (int s = 0; s < moving().sequences; ++s) {
      const policy::span rows = carried(s, home, stream, hop);
      n += rows.last - rows.first;
    }
    return n;
  }

  //! Bytes on the wires: `row` for each row of a block, `yield` for each row of a yield that goes home (0: none does). Exactly what the
  //! executions of context_parallel.hpp send, beside their agreement.
  comm::traffic traffic(std::int64_t row, std::int64_t yield) const {
    comm::traffic t;
    const int p = way.ranks;
    std::vector<std::int64_t> links(std::size_t(p) * p), received(static_cast<std::size_t>(p));
    const auto send = [&](int from, int to, std::int64_t bytes) {
      if (bytes == 0 || from == to) return;
      t.sent += bytes, t.received += bytes, ++t.messages;
      links[std::size_t(from) * p + to] += bytes, received[std::size_t(to)] += bytes;
    };
    for (int home = 0; home < p; ++home)
      for (int stream = 0; stream < way.streams(); ++stream)
        for (int hop = 1; hop <= way.hops(stream); ++hop) {
          const std::int64_t n = carried_rows(home, stream, hop);
          const int at = way.holder(home, stream, hop);
          send(way.by.relayed ? way.holder(home, stream, hop - 1) : home, at, n * row);
          send(at, home, n * yield);
        }
    for (int r = 0; r < p; ++r) {
      std::int64_t sent = 0;
      for (int to = 0; to < p; ++to) sent += links[std::size_t(r) * p + to], t.busiest_link = std::max(t.busiest_link, links[std::size_t(r) * p + to]);
      t.most_sent = std::max(t.most_sent, sent), t.most_received = std::max(t.most_received, received[std::size_t(r)]);
    }
    return t;
  }
};

}  // namespace smalti::inline SMALTI_CODE::flow
