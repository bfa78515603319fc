// Schedules in which data takes one hop: everyone to everyone (direct, pairwise), everyone to one (star), one to one, and
// Bruck's, which takes log2(P) hops for the fewest messages.
#pragma once
#include <bit>
#include <smalti/comm/schedule.hpp>

namespace smalti::inline SMALTI_CODE::comm {

namespace detail {

// The sum of `chunks` over all ranks, here, in a fixed order: raw items come from every peer and are folded by rank number.
// rank_fold needs one scratch slot, rank_tree one for each level of the tree. The sum ends in first_scratch.
inline void fold_here(int rank, int ranks, combine_order order, chunk_range chunks, action_list& out) {
  int top = first_scratch;   // the slot the next leaf goes to
  for (int i = 0; i < ranks; ++i) {
    if (order == combine_order::rank_fold && rank == 0 && ranks > 1 && i < 2) {   // its own items stay where they are
      if (i == 1) out.recv_combine(1, first_scratch, input_slot, chunks, content::input, side::here_first);
      continue;
    }
    if (order == combine_order::rank_fold && i > 0) {
      if (i == rank) out.combine(first_scratch, input_slot, chunks, side::here_first);
      else out.recv_combine(i, first_scratch, first_scratch, chunks, content::input, side::here_first);
      continue;
    }
    if (i == rank) out.copy(top, input_slot, chunks);
    else out.recv(i, top, chunks, content::input);
    ++top;
    for (int n = i + 1; n % 2 == 0; n /= 2, --top) out.combine(top - 2, top - 1, chunks, side::here_first);   // complete subtrees
  }
  if (order == combine_order::rank_tree)
    for (; top > first_scratch + 1; --top) out.combine(top - 2, top - 1, chunks, side::here_first);
}
constexpr int fold_slots(int ranks, combine_order order) {
  return order == combine_order::rank_tree ? std::bit_width(unsigned(ranks)) + 1 : 1;
}

}  // namespace detail

//! Everyone sends to everyone at once.
//!     reduce_scatter  the owner of a part takes it raw from all and folds it by rank: the same bytes as a ring, one latency,
//!                     one rounding, and bits that depend on nothing but the ranks; P - 1 parts of memory for what comes in
//!     all_gather      one step;  all_reduce  both;  all_to_all  one step (receivers may be flooded: see pairwise)
//! Order: rank_fold or rank_tree.
struct direct : schedule_base {
  combine_order order;

  explicit constexpr direct(int ranks, collective kind = collective::all_reduce, combine_order order = combine_order::rank_fold)
      : schedule_base{kind, ranks, ranks, 1, 0}, order(order) {}

  constexpr int steps() const { return kind == collective::all_reduce && ranks > 1 ? 2 : 1; }
  void step(int rank, int step, action_list& out) const {
    if (reduces(kind) && step == 0) {
      for (int i = 1; i < ranks; ++i) out.send(around(rank + i, ranks), input_slot, {around(rank + i, ranks)}, content::input);
      detail::fold_here(rank, ranks, order, {rank}, out);
      out.finish(output_slot, first_scratch, {rank});
      return;
    }
    const bool personal = kind == collective::all_to_all;
    if (!reduces(kind)) out.copy(output_slot, input_slot, {rank});
    const content what = reduces(kind) ? content::result : content::input;
    for (int i = 1; i < ranks; ++i) {
      const int to = around(rank + i, ranks);
      out.send(to, personal ? input_slot : output_slot, {personal ? to : rank}, what);
    }
    for (int i = 1; i < ranks; ++i) out.recv(around(rank - i, ranks), output_slot, {around(rank - i, ranks)}, what);
  }
  constexpr int scratch_slots() const { return reduces(kind) ? detail::fold_slots(ranks, order) : 0; }
  constexpr scratch_room scratch(int rank, int) const { return {{rank, 1}}; }
  constexpr schedule_promise promise() const { return {reduces(kind) ? order : combine_order::none, true, true}; }
  constexpr status check() const {
    if (kind != collective::all_reduce && kind != collective::reduce_scatter && kind != collective::all_gather && kind != collective::all_to_all)
      return {errc::bad_value, "direct: kind must be all_reduce, reduce_scatter, all_gather or all_to_all: take star for those with a root"};
    if (reduces(kind) && order != combine_order::rank_fold && order != combine_order::rank_tree)
      return {errc::bad_value, "direct: order must be rank_fold or rank_tree"};
    return check_base();
  }
};

//! all_to_all in P - 1 steps, in each of which every rank sends to one and receives from one: r ^ s where P is a power of two,
//! else r + s and r - s. For long blocks.
struct pairwise : schedule_base {
  explicit constexpr pairwise(int ranks) : schedule_base{collective::all_to_all, ranks, ranks, 1, 0} {}

  constexpr int steps() const { return ranks; }
  void step(int rank, int step, action_list& out) const {
    if (step == 0) return out.copy(output_slot, input_slot, {rank});
    const int to = paired() ? rank ^ step : around(rank + step, ranks), from = paired() ? to : around(rank - step, ranks);
    out.send(to, input_slot, {to}, content::input);
    out.recv(from, output_slot, {from}, content::input);
  }
  constexpr schedule_promise promise() const { return {combine_order::none, paired() || ranks < 3, true}; }
  constexpr status check() const {
    if (kind != collective::all_to_all) return {errc::bad_value, "pairwise: kind must be all_to_all"};
    return check_base();
  }

 private:
  constexpr bool paired() const { return std::has_single_bit(unsigned(ranks)); }
};

//! Everyone with the root: two latencies, and (P - 1) vectors through the root's port. For few ranks, short vectors and slow
//! links (the method of TPI-LLM, with a root that folds by rank and not in order of arrival).
//!     all_reduce, reduce   order rank_fold
//!     broadcast, gather, scatter
struct star : schedule_base {
  explicit constexpr star(int ranks, collective kind = collective::all_reduce, int root = 0)
      : schedule_base{kind, ranks, kind == collective::gather || kind == collective::scatter ? ranks : 1, 1, root} {}

  constexpr int steps() const { return kind == collective::all_reduce && ranks > 1 ? 2 : 1; }
  void step(int rank, int step, action_list& out) const {
    const bool inward = step == 0 && kind != collective::broadcast && kind != collective::scatter;
    const chunk_range mine = parts == ranks && ranks > 1 ? chunk_range{rank} : chunk_range{0, parts};
    if (rank != root) {
      if (inward) out.send(root, input_slot, mine, content::input);
      else out.recv(root, output_slot, mine, reduces(kind) ? content::result : content::input);
      return;
    }
    if (!reduces(kind)) out.copy(output_slot, input_slot, kind == collective::broadcast ? chunk_range{0, 1} : chunk_range{rank});
    if (inward && reduces(kind)) {
      detail::fold_here(rank, ranks, combine_order::rank_fold, {0}, out);
      out.finish(output_slot, first_scratch, {0});
    } else {
      for (int i = 1; i < ranks; ++i) {
        const int peer = around(rank + i, ranks);
        if (inward) out.recv(peer, output_slot, {peer}, content::input);
        else out.send(peer, kind == collective::scatter ? input_slot : output_slot, {kind == collective::scatter ? peer : 0}, reduces(kind) ? content::result : content::input);
      }
    }
  }
  constexpr int scratch_slots() const { return reduces(kind) ? 1 : 0; }
  constexpr scratch_room scratch(int rank, int) const { return {{0, rank == root ? 1 : 0}}; }
  constexpr schedule_promise promise() const { return {reduces(kind) ? combine_order::rank_fold : combine_order::none}; }
  constexpr status check() const {
    if (kind == collective::reduce_scatter || kind == collective::all_gather || kind == collective::all_to_all || kind == collective::send_recv)
      return {errc::bad_value, "star: kind must be all_reduce, reduce, broadcast, gather or scatter: take direct for others"};
    return check_base();
  }
};

//! One message, from root to `to`; in `pieces` pieces. The other ranks do nothing.
struct send_recv : schedule_base {
  int to;
  constexpr send_recv(int ranks, int from, int to, int pieces = 1) : schedule_base{collective::send_recv, ranks, 1, pieces, from}, to(to) {}

  constexpr chunk_range output(int rank) const { return {0, rank == to ? pieces : 0}; }
  constexpr int steps() const { return pieces; }
  void step(int rank, int step, action_list& out) const {
    if (to == root) {
      if (rank == to) out.copy(output_slot, input_slot, {step});
    } else if (rank == root) {
      out.send(to, input_slot, {step}, content::input);
    } else if (rank == to) {
      out.recv(root, output_slot, {step}, content::input);
    }
  }
  constexpr status check() const {
    if (to < 0 || to >= ranks) return {errc::bad_value, "send_recv: to must be one of the ranks", to, ranks - 1};
    return check_base();
  }
};

//! Bruck's: log2(P) messages for any P.
//!     all_gather   (P - 1) blocks sent by each rank, as with any other; blocks go to their places as they come
//!     all_to_all   blocks travel by the binary digits of their distance: about P/2 log2(P) blocks sent; for blocks of few bytes,
//!                  all of one length
//! Source: Bruck, Ho, Kipnis, Upfal and Weathersby 1997, "Efficient algorithms for all-to-all communications in
//! multiport message-passing systems".
struct bruck : schedule_base {
  explicit constexpr bruck(int ranks, collective kind = collective::all_gather) : schedule_base{kind, ranks, ranks, 1, 0} {}

  constexpr int steps() const {
    const int rounds = ranks == 1 ? 0 : std::bit_width(unsigned(ranks - 1));
    return kind == collective::all_gather ? (rounds == 0 ? 1 : rounds) : rounds + 2;
  }
  void step(int rank, int step, action_list& out) const {
    kind == collective::all_gather ? gather(rank, step, out) : exchange(rank, step, out);
  }
  constexpr int scratch_slots() const { return kind == collective::all_to_all ? 1 : 0; }
  constexpr scratch_room scratch(int, int) const { return {{0, ranks}}; }
  constexpr schedule_promise promise() const { return {combine_order::none, true, kind == collective::all_gather}; }
  constexpr status check() const {
    if (kind != collective::all_gather && kind != collective::all_to_all) return {errc::bad_value, "bruck: kind must be all_gather or all_to_all"};
    return check_base();
  }

 private:
  void gather(int rank, int step, action_list& out) const {
    if (step == 0) out.copy(output_slot, input_slot, {rank});
    if (ranks == 1) return;
    const int k = 1 << step, count = k < ranks - k ? k : ranks - k;
    const int to = around(rank - k, ranks), from = around(rank + k, ranks);
    const auto wrapped = [&](int first, auto emit) {   // blocks first, first + 1, ... around the end
      const int head = first + count > ranks ? ranks - first : count;
      emit(chunk_range{first, head});
      if (head < count) {
        out.join();
        emit(chunk_range{0, count - head});
      }
    };
    wrapped(rank, [&](chunk_range c) { out.send(to, output_slot, c, content::input); });
    wrapped(from, [&](chunk_range c) { out.recv(from, output_slot, c, content::input); });
  }
  void exchange(int rank, int step, action_list& out) const {
    // Scratch block i goes `i` ranks further than the rank where it began.
    if (step == 0) {
      out.copy(first_scratch, input_slot, {0, ranks - rank}, rank);
      if (rank > 0) out.copy(first_scratch, input_slot, {ranks - rank, rank}, 0);
      return;
    }
    if (step == steps() - 1) {
      for (int j = 0; j < ranks; ++j) out.copy(output_slot, first_scratch, {j}, around(rank - j, ranks));
      return;
    }
    const int k = 1 << (step - 1), to = around(rank + k, ranks), from = around(rank - k, ranks);
    for (int i = k; i < ranks; i += 2 * k)
      out.join(i > k).send(to, first_scratch, {i, i + k > ranks ? ranks - i : k}, content::input);
    for (int i = k; i < ranks; i += 2 * k)
      out.join(i > k).recv(from, first_scratch, {i, i + k > ranks ? ranks - i : k}, content::input);
  }
};

}  // namespace smalti::inline SMALTI_CODE::comm
