// Rings: every rank talks to its two neighbours only. All bandwidth, P - 1 latencies: for long messages and slow,
// flat networks.
//
// Part c of a sum starts at rank c + 1 and ends at rank c, its owner, which finishes it; partial sums travel through scratch and
// never touch the caller's memory.
// Source: Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".
#pragma once
#include <smalti/comm/schedule.hpp>

namespace smalti::inline SMALTI_CODE::comm {

namespace detail {

// Scratch of a reducing ring: first_scratch holds the rank's own part, the slots after it partial sums on their way, two
// parts at a time so that one can be sent while the next comes in.
constexpr int own_sum = first_scratch, travelling = first_scratch + 1;

// Step t of P - 1 of a reduce-scatter around a ring, for one piece of each part. way = 1: sums go to higher ranks.
// Two calls, so that a rank that takes part in two rings sends in both before it waits in one.
inline void ring_reduce_send(const schedule_base& s, int rank, int t, int way, int piece, int slot, action_list& out) {
  const int part = around(rank - way * (1 + t), s.ranks);
  out.send(around(rank + way, s.ranks), t == 0 ? input_slot : slot, {part * s.pieces + piece}, t == 0 ? content::input : content::partial);
}
inline void ring_reduce_recv(const schedule_base& s, int rank, int t, int way, int piece, int slot, action_list& out) {
  const int part = around(rank - way * (2 + t), s.ranks);
  out.recv_combine(around(rank - way, s.ranks), t == s.ranks - 2 ? own_sum : slot, input_slot, {part * s.pieces + piece},
                   t == 0 ? content::input : content::partial, side::incoming_first);
}
inline void ring_gather_send(const schedule_base& s, int rank, int t, int way, int piece, content what, action_list& out) {
  out.send(around(rank + way, s.ranks), output_slot, {around(rank - way * t, s.ranks) * s.pieces + piece}, what);
}
inline void ring_gather_recv(const schedule_base& s, int rank, int t, int way, int piece, content what, action_list& out) {
  out.recv(around(rank - way, s.ranks), output_slot, {around(rank - way * (t + 1), s.ranks) * s.pieces + piece}, what);
}

}  // namespace detail

//! One ring, toward higher ranks.
//!     all_reduce      2(P-1) messages of N/P a rank, one after another; 2(P-1)/P N items sent by each
//!     reduce_scatter, all_gather   half of that
//!     broadcast       a chain from the root, in `pieces` pieces: pieces + P - 2 steps
//! Order: by_chunk; the sum of part c is folded (c+1) (+) (c+2) (+) ... (+) c. Bits change with N and P.
struct ring : schedule_base {
  //! @param pieces  messages that each part is cut into: the next is on its way while one is combined
  explicit constexpr ring(int ranks, collective kind = collective::all_reduce, int pieces = 1, int root = 0)
      : schedule_base{kind, ranks, kind == collective::broadcast ? 1 : ranks, pieces, root} {}

  constexpr int steps() const {
    if (kind == collective::broadcast) return ranks == 1 ? 1 : pieces + ranks - 2;
    const int once = (ranks - 1) * pieces;
    return ranks == 1 ? 1 : kind == collective::all_reduce ? 2 * once : once;
  }
  void step(int rank, int step, action_list& out) const {
    if (kind == collective::broadcast) return chain(rank, step, out);
    if (ranks == 1) return alone(out);
    const int turn = ranks - 1, piece = step % pieces, t = step / pieces;
    if (reduces(kind) && t < turn) {
      detail::ring_reduce_send(*this, rank, t, 1, piece, detail::travelling, out);
      detail::ring_reduce_recv(*this, rank, t, 1, piece, detail::travelling, out);
      if (t == turn - 1) out.finish(output_slot, detail::own_sum, {rank * pieces + piece});
      return;
    }
    const content what = kind == collective::all_gather ? content::input : content::result;
    if (step == 0) out.copy(output_slot, input_slot, {rank * pieces, pieces});
    detail::ring_gather_send(*this, rank, t % turn, 1, piece, what, out);
    detail::ring_gather_recv(*this, rank, t % turn, 1, piece, what, out);
  }
  constexpr int scratch_slots() const { return reduces(kind) ? 2 : 0; }
  constexpr scratch_room scratch(int rank, int slot) const {
    if (slot == detail::own_sum) return {{rank * pieces, pieces}};
    return {{0, ranks == 1 ? 0 : 2 * pieces}, true};
  }
  constexpr schedule_promise promise() const {
    return {reduces(kind) ? combine_order::by_chunk : combine_order::none};
  }
  constexpr status check() const {
    if (kind != collective::all_reduce && kind != collective::reduce_scatter && kind != collective::all_gather && kind != collective::broadcast)
      return {errc::bad_value, "ring: kind must be all_reduce, reduce_scatter, all_gather or broadcast: take star, direct or bruck for others"};
    return check_base();
  }

 private:
  void alone(action_list& out) const {
    const chunk_range all{0, chunks()};
    if (!reduces(kind)) return out.copy(output_slot, input_slot, all);
    out.copy(detail::own_sum, input_slot, all);
    out.finish(output_slot, detail::own_sum, all);
  }
  void chain(int rank, int step, action_list& out) const {
    const int far = around(rank - root, ranks);
    if (step == 0 && rank == root) out.copy(output_slot, input_slot, {0, pieces});
    const int sent = step - far, got = step - far + 1;
    if (far < ranks - 1 && sent >= 0 && sent < pieces) out.send(around(rank + 1, ranks), output_slot, {sent}, content::input);
    if (far > 0 && got >= 0 && got < pieces) out.recv(around(rank - 1, ranks), output_slot, {got}, content::input);
  }
};

//! Two rings at once: the first half of each part goes to higher ranks, the second to lower ones. On links that carry both
//! directions the time per byte is half of a ring's, the number of steps the same.
//! Order: by_chunk, mirrored in the second half.
struct bidirectional_ring : schedule_base {
  explicit constexpr bidirectional_ring(int ranks, collective kind = collective::all_reduce)
      : schedule_base{kind, ranks, ranks, 2, 0} {}

  constexpr int steps() const { return ranks == 1 ? 1 : kind == collective::all_reduce ? 2 * (ranks - 1) : ranks - 1; }
  void step(int rank, int step, action_list& out) const {
    const int turn = ranks - 1;
    const chunk_range own{rank * 2, 2};
    if (reduces(kind) && step < turn) {
      for (int d = 0; d < 2; ++d) detail::ring_reduce_send(*this, rank, step, 1 - 2 * d, d, detail::travelling + d, out);
      for (int d = 0; d < 2; ++d) detail::ring_reduce_recv(*this, rank, step, 1 - 2 * d, d, detail::travelling + d, out);
      if (step == turn - 1) out.finish(output_slot, detail::own_sum, own);
      return;
    }
    if (reduces(kind) && ranks == 1) {
      out.copy(detail::own_sum, input_slot, own);
      out.finish(output_slot, detail::own_sum, own);
      return;
    }
    const content what = kind == collective::all_gather ? content::input : content::result;
    if (kind == collective::all_gather && step == 0) out.copy(output_slot, input_slot, own);
    if (ranks == 1) return;
    for (int d = 0; d < 2; ++d) detail::ring_gather_send(*this, rank, step % turn, 1 - 2 * d, d, what, out);
    for (int d = 0; d < 2; ++d) detail::ring_gather_recv(*this, rank, step % turn, 1 - 2 * d, d, what, out);
  }
  constexpr int scratch_slots() const { return reduces(kind) ? 3 : 0; }
  constexpr scratch_room scratch(int rank, int slot) const {
    if (slot == detail::own_sum) return {{rank * 2, 2}};
    return {{0, ranks == 1 ? 0 : 2}, true, 2};   // two parts' halves
  }
  constexpr schedule_promise promise() const {
    return {reduces(kind) ? combine_order::by_chunk : combine_order::none};
  }
  constexpr status check() const {
    if (kind != collective::all_reduce && kind != collective::reduce_scatter && kind != collective::all_gather)
      return {errc::bad_value, "bidirectional_ring: kind must be all_reduce, reduce_scatter or all_gather"};
    return check_base();
  }
};

}  // namespace smalti::inline SMALTI_CODE::comm
