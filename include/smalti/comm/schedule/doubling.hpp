// Exchanges at distances that double: recursive doubling (whole vectors: few messages, for short ones) and halving-doubling
// (halves, quarters, ...: as few bytes as a ring in log2(P) messages each way, for middle sizes on a switch).
//
// For P that is no power of two the first 2 (P - p2) ranks are folded in pairs onto p2 = the power of two below P: even ranks give
// their vector to the odd one above and take the result from it. Both partners form the same operands in the same order,
// lower ranks left, so that all ranks end with the same bits.
// Sources: Thakur, Rabenseifner and Gropp 2005, "Optimization of collective communication operations in MPICH".
#pragma once
#include <bit>
#include <smalti/comm/schedule.hpp>

namespace smalti::inline SMALTI_CODE::comm {

namespace detail {

// The ranks that take part in the exchanges, and their numbers there.
struct folding {
  int ranks;
  constexpr int core() const { return int(std::bit_floor(unsigned(ranks))); }
  constexpr int rest() const { return ranks - core(); }
  constexpr bool folded() const { return rest() > 0; }
  constexpr int rounds() const { return std::bit_width(unsigned(core())) - 1; }
  constexpr bool paired(int rank) const { return rank < 2 * rest(); }
  constexpr bool idle(int rank) const { return paired(rank) && rank % 2 == 0; }
  constexpr int number(int rank) const { return paired(rank) ? rank / 2 : rank - rest(); }
  constexpr int rank(int number) const { return number < rest() ? 2 * number + 1 : number + rest(); }

  // The step before and the step after, on all `chunks`.
  void fold(int r, chunk_range chunks, action_list& out) const {
    if (!paired(r)) return;
    if (idle(r)) out.send(r + 1, input_slot, chunks, content::input);
    else out.recv_combine(r - 1, first_scratch, input_slot, chunks, content::input, side::incoming_first);
  }
  void unfold(int r, chunk_range chunks, action_list& out) const {
    if (!paired(r)) return;
    if (idle(r)) out.recv(r + 1, output_slot, chunks, content::result);
    else out.send(r - 1, output_slot, chunks, content::result);
  }
};

inline void alone(chunk_range all, action_list& out) {
  out.copy(first_scratch, input_slot, all);
  out.finish(output_slot, first_scratch, all);
}

}  // namespace detail

//! log2(P) exchanges of the whole vector; two messages more where P is no power of two.
//! Order: rank_tree where P is a power of two, else fixed_tree (pairs of the folding first).
struct recursive_doubling : schedule_base {
  explicit constexpr recursive_doubling(int ranks, collective kind = collective::all_reduce) : schedule_base{kind, ranks, 1, 1, 0} {}

  constexpr int steps() const { return ranks == 1 ? 1 : group().rounds() + 2 * group().folded(); }
  void step(int rank, int step, action_list& out) const {
    const chunk_range all{0, 1};
    const detail::folding g = group();
    if (ranks == 1) return detail::alone(all, out);
    if (g.folded() && step == 0) return g.fold(rank, all, out);
    if (g.folded() && step == steps() - 1) return g.unfold(rank, all, out);
    if (g.idle(rank)) return;
    const int round = step - g.folded(), mine = g.number(rank), other = mine ^ 1 << round, peer = g.rank(other);
    const bool raw = round == 0 && !g.paired(rank), peer_raw = round == 0 && !g.paired(peer);
    out.send(peer, raw ? input_slot : first_scratch, all, raw ? content::input : content::partial);
    out.recv_combine(peer, first_scratch, raw ? input_slot : first_scratch, all, peer_raw ? content::input : content::partial,
                     other < mine ? side::incoming_first : side::here_first);
    if (round == g.rounds() - 1) out.finish(output_slot, first_scratch, all);
  }
  constexpr int scratch_slots() const { return 1; }
  constexpr scratch_room scratch(int rank, int) const { return {{0, group().idle(rank) ? 0 : 1}}; }
  constexpr schedule_promise promise() const { return {group().folded() ? combine_order::fixed_tree : combine_order::rank_tree, true, true, ranks == 1}; }
  constexpr status check() const {
    if (kind != collective::all_reduce) return {errc::bad_value, "recursive_doubling: kind must be all_reduce: take halving_doubling or bruck for others"};
    return check_base();
  }

 private:
  constexpr detail::folding group() const { return {ranks}; }
};

//! Recursive halving, then doubling (Rabenseifner): 2 log2(P) messages, 2(P-1)/P N items sent by each rank.
//! all_reduce for any P; reduce_scatter and all_gather where P is a power of two.
//! Order: fixed_tree: ranks that differ in their highest bit first; the same for every item.
struct halving_doubling : schedule_base {
  explicit constexpr halving_doubling(int ranks, collective kind = collective::all_reduce)
      : schedule_base{kind, ranks, ranks < 1 ? 1 : int(std::bit_floor(unsigned(ranks))), 1, 0} {}

  constexpr int steps() const {
    const detail::folding g = group();
    return ranks == 1 ? 1 : kind == collective::all_reduce ? 2 * g.rounds() + 2 * g.folded() : g.rounds();
  }
  void step(int rank, int step, action_list& out) const {
    const detail::folding g = group();
    const chunk_range all{0, parts};
    if (ranks == 1) return reduces(kind) ? detail::alone(all, out) : out.copy(output_slot, input_slot, all);
    if (g.folded() && step == 0) return g.fold(rank, all, out);
    if (g.folded() && step == steps() - 1) return g.unfold(rank, all, out);
    if (g.idle(rank)) return;
    const int round = step - g.folded();
    if (reduces(kind) && round < g.rounds()) return halve(rank, round, out);
    double_up(rank, kind == collective::all_reduce ? round - g.rounds() : round, out);
  }
  constexpr int scratch_slots() const { return reduces(kind) ? 1 : 0; }
  constexpr scratch_room scratch(int rank, int) const {
    const detail::folding g = group();
    if (g.idle(rank)) return {};
    return {g.paired(rank) || ranks == 1 ? chunk_range{0, parts} : half(g.number(rank), parts / 2)};
  }
  constexpr schedule_promise promise() const {
    return {!reduces(kind) ? combine_order::none : ranks <= 2 ? combine_order::rank_tree : combine_order::fixed_tree};
  }
  constexpr status check() const {
    if (kind != collective::all_reduce && kind != collective::reduce_scatter && kind != collective::all_gather)
      return {errc::bad_value, "halving_doubling: kind must be all_reduce, reduce_scatter or all_gather"};
    if (kind != collective::all_reduce && ranks > 0 && parts != ranks)
      return {errc::bad_shape, "halving_doubling: ranks must be a power of two for reduce_scatter and all_gather: take ring, direct or bruck", ranks, parts};
    return check_base();
  }

 private:
  constexpr detail::folding group() const { return {ranks}; }
  // The window of `size` chunks, aligned, in which number n lies.
  static constexpr chunk_range half(int n, int size) { return {n / size * size, size}; }
  void halve(int rank, int round, action_list& out) const {
    const detail::folding g = group();
    const int size = parts >> (round + 1), mine = g.number(rank), other = mine ^ size, peer = g.rank(other);
    const bool raw = round == 0 && !g.paired(rank), peer_raw = round == 0 && !g.paired(peer);
    out.send(peer, raw ? input_slot : first_scratch, half(other, size), raw ? content::input : content::partial);
    out.recv_combine(peer, first_scratch, raw ? input_slot : first_scratch, half(mine, size), peer_raw ? content::input : content::partial,
                     other < mine ? side::incoming_first : side::here_first);
    if (size == 1) out.finish(output_slot, first_scratch, {mine});
  }
  void double_up(int rank, int round, action_list& out) const {
    const detail::folding g = group();
    const int size = 1 << round, mine = g.number(rank), other = mine ^ size, peer = g.rank(other);
    const content what = reduces(kind) ? content::result : content::input;
    if (!reduces(kind) && round == 0) out.copy(output_slot, input_slot, {mine});
    out.send(peer, output_slot, half(mine, size), what);
    out.recv(peer, output_slot, half(other, size), what);
  }
};

}  // namespace smalti::inline SMALTI_CODE::comm
