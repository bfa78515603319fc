// Collectives on queues of device work: the whole list of a rank is put on its queue at once, and the device carries it out while
// the processor is elsewhere. What CUDA streams (streams.hpp) and NCCL (nccl.hpp) have in common.
//
//     queued<sum<float>, Lane>::run(lane, schedule, {.input = x, .output = y, .items = n}, workspace);      // returns at once
//
// A queue knows no tickets and no tags: messages between two ranks match in the order in which both put them there, and those that
// are put there as one group start together and all end before what comes after. So every rank calls the same collectives
// in the same order, and nothing is compared beforehand: a call that differs is a deadlock of the queues, which the lane's
// deadline ends.
//
// Results have the bits of the executor over any transport, as far as the device's arithmetic has those of the host: sums, averages
// and maxima do, lse_merge within its error.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>
#include <smalti/comm/executor.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! A message of a group: `to` for one that is received, `from` for one that is sent.
struct queued_message {
  int peer = -1;
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  std::int64_t bytes = 0;
};

//! What is merged: sums, or items that are lifted on the way. One of the two is null.
template <class C> struct operand {
  const typename C::accumulator* sums = nullptr;
  const typename C::element* items = nullptr;
};

//! One rank's queue. All calls only put work on it; memory is the device's.
//!     exchange(list, count)        messages of one group
//!     copy(to, from, bytes)        within the rank's memory, not overlapping
//!     lift(c, a, x, n)             the combine's functions (combine.hpp) on the device;
//!     merge(c, a, left, right, n)  a may be one of the operands' sums
//!     finish(c, x, a, n, ranks)
//!     failure()                    what went wrong when work was put there
template <class L, class C>
concept lane = requires(L& l, const C& c, const queued_message* list, std::byte* to, const std::byte* from, typename C::element* x, const typename C::element* cx,
                        typename C::accumulator* a, const typename C::accumulator* ca, operand<C> o, std::int64_t n) {
  { l.rank() } -> std::same_as<int>;
  { l.size() } -> std::same_as<int>;
  l.exchange(list, 1);
  l.copy(to, from, n);
  l.lift(c, a, cx, n);
  l.merge(c, a, o, o, n);
  l.finish(c, x, ca, n, 1);
  { l.failure() } -> std::same_as<status>;
};

//! Carries schedules out on a lane. Memory: workspace_bytes(...) of the device's. Wires are plain; the arguments operation, timeout, depth
//! and agree have no meaning here.
template <combine_policy C, class L> class queued {
  static constexpr bool lifts_one() {
    if constexpr (std::is_same_v<typename C::element, typename C::accumulator>) return true;
    else return C::width == 1;
  }
  static_assert(lifts_one(),
                "smalti: a combine on a lane has items of one element, or accumulators of the elements' type");
  static_assert(lane<L, C>, "smalti: a lane needs rank, size, exchange, copy, lift, merge, finish and failure: see comm/lane.hpp");

 public:
  using args = arguments<C>;
  using element = typename C::element;
  using accumulator = typename C::accumulator;

  template <schedule S> static status check(const L& l, const S& s, const args& x) {
    if (status st = s.check(); !st) return st;
    if (s.ranks != l.size()) return {errc::bad_shape, "schedule: ranks must be the lane's size", s.ranks, l.size()};
    if (x.items < 0) return {errc::bad_shape, "items must not be negative", x.items, 0};
    if (x.combine.width < 1) return {errc::bad_value, "combine: width must be at least 1 element", x.combine.width, 1};
    if (moves_only<C> && reduces(s.kind)) return {errc::bad_value, "combine: comm::bytes only moves: take sum, average, greatest or lse_merge"};
    if (x.output_offsets != nullptr) return {errc::bad_value, "output_offsets: blocks of each rank's own lengths need an executor that compares them: leave them out"};
    if (status st = s.cut(x.items, x.unit, x.offsets).check(); !st) return st;
    if (s.kind == collective::all_to_all) {
      if (x.offsets != nullptr) return {errc::bad_value, "offsets: an all_to_all on a lane has blocks of one length: leave them out"};
      if (x.items % s.chunks() != 0) return {errc::bad_shape, "items must be a multiple of the ranks in an all_to_all: pad", x.items, s.chunks()};
    }
    const partition cut = s.cut(x.items, x.unit, x.offsets);
    const std::int64_t in = cut.length(s.input(l.rank())), out = cut.length(s.output(l.rank()));
    if (in > 0 && x.input == nullptr) return {errc::null_pointer, "input is null"};
    if (out > 0 && x.output == nullptr) return {errc::null_pointer, "output is null"};
    const std::int64_t w = x.combine.width;
    if (in > 0 && out > 0 && x.input < x.output + out * w && x.output < x.input + in * w) return {errc::aliased, "output overlaps input: a lane needs two arrays"};
    return {};
  }
  //! Pure: from the schedule, the rank and the arguments' numbers.
  template <schedule S> static std::size_t workspace_bytes(const L& l, const S& s, const args& x) {
    return check(l, s, x) ? walk<S>(l.rank(), s, x).lay_out({}) : 0;
  }
  //! Puts the collective on the lane's queue. The arrays and the workspace must stay until the device is done.
  template <schedule S> static status run(L& l, const S& s, const args& x, workspace memory) {
    if (status st = check(l, s, x); !st) return st;
    walk<S> w(l.rank(), s, x);
    if (status st = check_workspace(memory, w.lay_out({})); !st) return st;
    w.lay_out(carver{memory.data});
    w.go(l);
    return l.failure();
  }

 private:
  struct memory_range { const std::byte *first, *last; };
  struct pending { action a; const std::byte* staged; };     // what is done with a message after its group

  template <class S> struct walk {
    walk(int rank, const S& s, const args& x) : rank(rank), s(s), x(x), cut(s.cut(x.items, x.unit, x.offsets)) {}

    int rank;
    const S& s;
    const args& x;
    partition cut;
    std::byte* staging = nullptr;
    std::vector<std::byte*> scratch;
    std::vector<action> list;
    // the group that is being put together
    std::vector<queued_message> group;
    std::vector<pending> after;
    std::int64_t staged = 0;

    bool sums(int slot) const { return slot >= first_scratch && reduces(s.kind); }
    std::int64_t item(int slot) const { return std::int64_t(x.combine.width) * std::int64_t(sums(slot) ? sizeof(accumulator) : sizeof(element)); }
    std::int64_t item(content what) const { return std::int64_t(x.combine.width) * std::int64_t(what == content::partial ? sizeof(accumulator) : sizeof(element)); }
    std::int64_t scratch_item() const { return item(first_scratch); }

    void make(int step) {
      action_list count;
      s.step(rank, step, count);
      list.resize(std::size_t(count.size()));
      action_list fill(list.data(), int(list.size()));
      s.step(rank, step, fill);
    }
    // A message goes straight to its place, where it lies there as it comes and nothing else of the step touches it.
    bool lifted(const action& a) const { return sums(a.slot) && a.what != content::partial; }
    bool straight(std::size_t index) const {
      const action& a = list[index];
      if (a.does != verb::recv || lifted(a) || list.size() > 512) return false;
      const auto meets = [&](int slot, chunk_range c) {
        if (slot != a.slot) return false;
        if (slot >= first_scratch && s.scratch(rank, slot).rolling) return true;
        return c.first < a.chunks.last() && a.chunks.first < c.last();
      };
      for (std::size_t i = 0; i < list.size(); ++i) {
        const action& b = list[i];
        const bool two = b.does != verb::send && b.does != verb::recv;
        if (i != index && (meets(b.slot, b.chunks) || (two && meets(b.with, {b.does == verb::copy ? b.from : b.chunks.first, b.chunks.count})))) return false;
      }
      return true;
    }

    std::size_t lay_out(carver c) {
      std::int64_t most = 0;
      for (int t = 0; t < s.steps(); ++t) {
        make(t);
        std::int64_t here = 0;
        for (std::size_t i = 0; i < list.size(); ++i)
          if (receives(list[i].does) && !straight(i)) here += detail::aligned(cut.length(list[i].chunks) * item(list[i].what));
        most = std::max(most, here);
      }
      staging = c.take<std::byte>(std::size_t(most));
      scratch.clear();
      const std::int64_t longest = cut.greatest(1);
      for (int i = 0; i < s.scratch_slots(); ++i) {
        const scratch_room room = s.scratch(rank, first_scratch + i);
        scratch.push_back(c.take<std::byte>(std::size_t((room.rolling ? room.chunks.count * longest : cut.length(room.chunks)) * scratch_item())));
      }
      return c.used;
    }
    std::byte* place(int slot, int chunk) const {
      if (slot == input_slot) return reinterpret_cast<std::byte*>(const_cast<element*>(x.input)) + (cut.offset(chunk) - cut.offset(s.input(rank).first)) * item(slot);
      if (slot == output_slot) return reinterpret_cast<std::byte*>(x.output) + (cut.offset(chunk) - cut.offset(s.output(rank).first)) * item(slot);
      const scratch_room room = s.scratch(rank, slot);
      std::byte* base = scratch[std::size_t(slot - first_scratch)];
      return room.rolling ? base + room.place(chunk) * cut.greatest(1) * scratch_item() : base + (cut.offset(chunk) - cut.offset(room.chunks.first)) * scratch_item();
    }
    memory_range range(int slot, chunk_range chunks) const {
      const std::byte* p = place(slot, chunks.first);
      return {p, p + cut.length(chunks) * item(slot)};
    }

    // All messages of a step are one group, and what is done with them comes after it in the order of the list; only a send of
    // what the group brings begins another. A receive that waited for a send of its own group would wait for ever.
    void go(L& l) {
      for (int t = 0; t < s.steps(); ++t) {
        make(t);
        staged = 0;
        for (std::size_t i = 0; i < list.size(); ++i) {
          const action& a = list[i];
          const std::int64_t n = cut.length(a.chunks);
          if (n == 0) continue;      // at both ends
          if (a.does == verb::send) {
            const memory_range r = range(a.slot, a.chunks);
            if (made_after(r)) flush(l);
            each_chunk(a, item(a.slot), [&](std::int64_t at, std::int64_t bytes) { group.push_back({a.peer, r.first + at, nullptr, bytes}); });
          } else if (receives(a.does)) {
            std::byte* to = place(a.slot, a.chunks.first);
            if (!straight(i)) {
              to = staging + staged, staged += detail::aligned(n * item(a.what));
              after.push_back({a, to});
            }
            each_chunk(a, item(a.what), [&](std::int64_t at, std::int64_t bytes) { group.push_back({a.peer, nullptr, to + at, bytes}); });
          } else if (group.empty()) {
            carry_out(l, {a, nullptr});
          } else {
            after.push_back({a, nullptr});
          }
        }
        flush(l);        // the next step's messages use the same staging memory
      }
    }
    // One message a chunk: the two ends of what the list joins need not cut it into the same actions.
    template <class Visit> void each_chunk(const action& a, std::int64_t item, Visit visit) const {
      for (int c = a.chunks.first; c < a.chunks.last(); ++c)
        if (const std::int64_t n = cut.length(c); n > 0) visit((cut.offset(c) - cut.offset(a.chunks.first)) * item, n * item);
    }
    bool made_after(memory_range r) const {
      for (const pending& p : after) {
        const memory_range m = range(p.a.slot, p.a.chunks);
        if (m.first < r.last && r.first < m.last) return true;
      }
      return false;
    }
    void flush(L& l) {
      if (!group.empty()) l.exchange(group.data(), int(group.size()));
      for (const pending& p : after) carry_out(l, p);
      group.clear(), after.clear();
    }
    void carry_out(L& l, const pending& p) {
      const action& a = p.a;
      const std::int64_t n = cut.length(a.chunks);
      std::byte* to = place(a.slot, a.chunks.first);
      accumulator* sum = reinterpret_cast<accumulator*>(to);
      if (a.does == verb::finish) return l.finish(x.combine, reinterpret_cast<element*>(to), reinterpret_cast<const accumulator*>(place(a.with, a.chunks.first)), n, s.ranks);
      if (a.does == verb::recv_combine) return merge(l, sum, value(a.with, a.chunks.first), value(p.staged, a.what == content::partial), n, a.order);
      if (a.does == verb::combine) return merge(l, sum, value(a.slot, a.chunks.first), value(a.with, a.chunks.first), n, a.order);
      const std::byte* from = a.does == verb::recv ? p.staged : place(a.with, a.from);
      if (a.does == verb::recv ? lifted(a) : sums(a.slot) && !sums(a.with)) l.lift(x.combine, sum, reinterpret_cast<const element*>(from), n);
      else if (to != from) l.copy(to, from, n * item(a.slot));
    }
    operand<C> value(const std::byte* at, bool lifted) const {
      if (lifted || std::is_same_v<element, accumulator>) return {reinterpret_cast<const accumulator*>(at), nullptr};
      return {nullptr, reinterpret_cast<const element*>(at)};
    }
    operand<C> value(int slot, int chunk) const { return value(place(slot, chunk), sums(slot)); }
    void merge(L& l, accumulator* to, operand<C> here, operand<C> incoming, std::int64_t n, side order) {
      if (order == side::here_first) l.merge(x.combine, to, here, incoming, n);
      else l.merge(x.combine, to, incoming, here, n);
    }
  };
};

}  // namespace smalti::inline SMALTI_CODE::comm
