// Carries one rank's list out: the core of executor.hpp, which checks arguments and lets ranks agree before it.
//
// An engine never waits. advance() does what can be done and says how far it came, so that one thread can carry out
// many ranks, a thread of its own can sleep in between, and a program can compute while messages are on their way.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <smalti/comm/engine_job.hpp>
#include <smalti/core/workspace.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! How far an execution is. blocked: nothing can be done until a message moves.
enum class progress : std::uint8_t { blocked, done, failed };

namespace detail {

struct receipt {      // a message that is or will be received
  int first, last;    // its actions in the step's list
  std::byte* data;    // where it is received
  std::int64_t bytes;
  ticket posted;
  bool in_place;      // data is the chunks' own place
};
struct dispatch {     // a message on its way
  ticket posted;
  int slot;           // what it reads directly; -1: a copy
  chunk_range chunks;
};

template <class C, class T, class W> class engine {
 public:
  using element = typename C::element;
  using accumulator = typename C::accumulator;

  using job = engine_job<C, W>;   //!< checked by the caller

  static std::size_t workspace_bytes(const job& x) { return lay_out(x, {}).used; }

  void start(const job& x, T& net, workspace memory) {
    x_ = x, net_ = &net;
    m_ = lay_out(x, carver{memory.data});
    step_ = index_ = 0, failure_ = {}, failed_peer_ = -1;
    if constexpr (!W::plain) {
      std::memset(m_.is_kept, 0, std::size_t(x_.schedule.chunks()));
      x_.mark_forwarded(m_.is_forwarded);
    }
    for (int s = 0; s < x_.depth && s < x_.schedule.steps(); ++s) prepare(s);
  }

  progress advance() {
    if (!failure_) return progress::failed;
    while (true) {
      if (step_ == x_.schedule.steps()) {
        for (int s = 0; s < x_.depth; ++s)
          if (!ended(m_.sent[s])) return failure_ ? progress::blocked : progress::failed;
        return progress::done;
      }
      step_memory& here = m_.of_step[step_ % x_.depth];
      if (index_ == here.actions) {
        const int next = step_ + 1;
        send_memory& reused = m_.sent[next % x_.depth];     // of step next - depth
        if (!ended(reused)) return failure_ ? progress::blocked : progress::failed;
        reused.sends = 0, reused.packed_bytes = 0;
        ++step_, index_ = 0;
        if (step_ + x_.depth - 1 < x_.schedule.steps()) prepare(step_ + x_.depth - 1);
        if (!failure_) return progress::failed;
        continue;
      }
      int last = index_ + 1;
      while (last < here.actions && here.list[last].joined) ++last;
      const action* closing = closes(here, index_, last);
      if (!carry_out(here, index_, last, closing)) return failure_ ? progress::blocked : progress::failed;
      index_ = closing != nullptr ? last + 1 : last;
    }
  }
  //! Ends every ticket: afterwards the transport touches no memory of this engine.
  void cancel() {
    for (int s = 0; s < x_.depth; ++s) {
      step_memory& m = m_.of_step[s];
      for (int i = 0; i < m.receives; ++i)
        if (m.receipts[i].posted) net_->cancel(m.receipts[i].posted), m.receipts[i].posted = {};
      send_memory& out = m_.sent[s];
      for (int i = 0; i < out.sends; ++i)
        if (out.dispatches[i].posted) net_->cancel(out.dispatches[i].posted), out.dispatches[i].posted = {};
    }
  }
  const status& failure() const { return failure_; }
  //! The rank whose loss ended the execution, or -1.
  int lost() const { return failed_peer_; }
  //! Whom the next action waits for, or -1.
  int waiting_for() const {
    if (step_ >= x_.schedule.steps()) return -1;
    const step_memory& here = m_.of_step[step_ % x_.depth];
    return index_ < here.actions ? here.list[index_].peer : -1;
  }

 private:
  struct step_memory {              // of the steps from the present one on
    action* list;
    receipt* receipts;
    std::byte* received;            // its messages
    int actions = 0, receives = 0, next_receive = 0;
  };
  struct send_memory {              // of the steps up to the present one
    dispatch* dispatches;
    std::byte* packed;
    int sends = 0;
    std::int64_t packed_bytes = 0;
  };
  struct memory {
    step_memory* of_step;           // both are rings of `depth`
    send_memory* sent;
    std::byte** scratch;
    accumulator *left, *right;      // blocks that are lifted or decoded on the way
    accumulator* closing;           // a block between its last merge and its finish
    std::byte* kept;                // encoded chunks of the output
    char *is_kept, *is_forwarded;   // of each: there is its encoding; this rank sends it from the output
    std::byte* own;                 // a chunk of the input, encoded for this rank itself
    std::int64_t longest;           // chunk, in items
    std::size_t used;
  };

  static memory lay_out(const job& x, carver c) {
    const demands d = x.survey();
    memory m{};
    m.longest = std::max(x.cut.greatest(1), x.output_cut.greatest(1));
    m.of_step = c.take<step_memory>(std::size_t(x.depth));
    m.sent = c.take<send_memory>(std::size_t(x.depth));
    for (int s = 0; s < x.depth; ++s) {
      step_memory in{};
      send_memory out{};
      in.list = c.take<action>(std::size_t(d.actions));
      in.receipts = c.take<receipt>(std::size_t(d.receives));
      in.received = c.take<std::byte>(std::size_t(d.receive_bytes));
      out.dispatches = c.take<dispatch>(std::size_t(d.sends));
      out.packed = c.take<std::byte>(std::size_t(d.packed_bytes));
      if (c.base != nullptr) m.of_step[s] = in, m.sent[s] = out;
    }
    const int slots = x.schedule.scratch_slots();
    m.scratch = c.take<std::byte*>(std::size_t(slots));
    for (int i = 0; i < slots; ++i) {
      const scratch_room room = x.schedule.scratch(x.rank, first_scratch + i);
      const std::int64_t items = room.rolling ? room.chunks.count * m.longest : x.cut.length(room.chunks);
      std::byte* p = c.take<std::byte>(std::size_t(items * x.scratch_item()));
      if (c.base != nullptr) m.scratch[i] = p;
    }
    m.closing = c.take<accumulator>(reduces(x.schedule.kind) ? std::size_t(x.closing_items()) * std::size_t(x.combine.width) : 0);
    if constexpr (!std::is_same_v<element, accumulator> || !W::plain) {
      const std::size_t items = std::size_t(std::max<std::int64_t>(block_items, W::plain ? 0 : x.at_once(m.longest)));
      m.left = c.take<accumulator>(items * std::size_t(x.combine.width));
      m.right = c.take<accumulator>(items * std::size_t(x.combine.width));
    }
    if constexpr (!W::plain) {
      std::int64_t kept = 0;
      for (int k = 0; k < x.schedule.chunks(); ++k) kept += aligned(x.wire.bytes(x.kept_content(), m.longest));
      m.kept = c.take<std::byte>(std::size_t(kept));
      m.is_kept = c.take<char>(std::size_t(x.schedule.chunks()));
      m.is_forwarded = c.take<char>(std::size_t(x.schedule.chunks()));
      if (x.own_trip()) m.own = c.take<std::byte>(std::size_t(x.wire.bytes(content::input, m.longest)));
    }
    m.used = c.used;
    return m;
  }
  // Items first .. first + n of a chunk of the input.
  void take_own_trip([[maybe_unused]] int chunk, [[maybe_unused]] std::int64_t first, [[maybe_unused]] std::int64_t n, [[maybe_unused]] accumulator* to) {
    if constexpr (!W::plain) {
      const std::int64_t item = x_.cut.offset(chunk) + first;
      x_.wire.encode(content::input, item, reinterpret_cast<const element*>(place(input_slot, chunk)) + first * x_.combine.width, n, m_.own);
      x_.wire.decode(content::input, item, m_.own, n, to);
    }
  }
  // slot = with (+) what came, and where `closed` says to which place, the result's bytes and the values that everyone will decode from
  // them: one pass over a chunk, in pieces that stay in the first cache.
  void merge_decoded(const action& a, int chunk, std::int64_t first, const std::byte* from, std::int64_t n, element* closed) {
    if constexpr (!W::plain) {
      const int w = x_.combine.width;
      const bool own = a.with == input_slot && x_.own_trip();
      accumulator* to = reinterpret_cast<accumulator*>(place(a.slot, chunk));
      for (std::int64_t i = 0, k; i < n; i += k) {
        k = std::min(x_.at_once(n), n - i);
        const std::byte* with = place(a.with, chunk) + i * item_of(a.with);
        if (own) take_own_trip(chunk, i, k, m_.left), with = reinterpret_cast<const std::byte*>(m_.left);
        x_.wire.decode(a.what, first + i, from + (i == 0 ? 0 : x_.wire.bytes(a.what, i)), k, m_.right);
        merge_blocks(to + i * w, with, own || sums(a.with), static_cast<const accumulator*>(m_.right), k, a.order, closed == nullptr ? nullptr : closed + i * w);
        if (closed != nullptr) keep_some(chunk, i, k);
      }
      if (closed != nullptr) m_.is_kept[chunk] = 1;
    }
  }

  // Where chunks lie.
  std::byte* place(int slot, int chunk) const {
    if (slot == input_slot) return reinterpret_cast<std::byte*>(const_cast<element*>(x_.input)) + (x_.cut.offset(chunk) - x_.cut.offset(x_.schedule.input(x_.rank).first)) * x_.item();
    if (slot == output_slot) return reinterpret_cast<std::byte*>(x_.output) + (x_.output_cut.offset(chunk) - x_.output_cut.offset(x_.schedule.output(x_.rank).first)) * x_.item();
    const scratch_room room = x_.schedule.scratch(x_.rank, slot);
    std::byte* base = m_.scratch[slot - first_scratch];
    return room.rolling ? base + room.place(chunk) * m_.longest * x_.scratch_item() : base + (x_.cut.offset(chunk) - x_.cut.offset(room.chunks.first)) * x_.scratch_item();
  }
  bool sums(int slot) const { return slot >= first_scratch && reduces(x_.schedule.kind); }
  std::int64_t item_of(int slot) const { return std::int64_t(x_.combine.width) * std::int64_t(sums(slot) ? sizeof(accumulator) : sizeof(element)); }
  std::int64_t length(int slot, chunk_range chunks) const { return x_.cut_of(slot).length(chunks); }

  struct span { const std::byte *first, *last; };
  span memory_of(int slot, chunk_range chunks) const {
    const std::byte* p = place(slot, chunks.first);
    return {p, p + length(slot, chunks) * item_of(slot)};
  }
  static bool overlap(span a, span b) { return a.first < b.last && b.first < a.last; }

  bool fail(status why, int lost = -1) {
    failure_ = why, failed_peer_ = lost;
    return false;
  }
  bool fail(const delivery_report& report, int peer) {
    switch (report.state) {
      case delivery::peer_lost: return fail({errc::peer_lost, "a rank that this one waits for has died: leave it out and open the next epoch", report.lost >= 0 ? report.lost : peer, 0}, report.lost >= 0 ? report.lost : peer);
      case delivery::too_long: return fail({errc::bad_shape, "a message is longer than this rank expects: counts, types or schedules differ between ranks", report.bytes, 0});
      default: return fail({errc::peer_lost, report.lost >= 0 ? "the group was aborted because a rank was lost: leave it out and open the next epoch" : "the group was aborted: open the next epoch (got: the rank that this one waited for, or -1)", report.lost, 0}, report.lost);
    }
  }

  // True where no send of the step is left.
  bool ended(send_memory& m) {
    bool all = true;
    for (int i = 0; i < m.sends; ++i) all &= ended(m.dispatches[i]);
    return all;
  }
  bool ended(dispatch& d) {
    if (!d.posted) return true;
    const delivery_report report = net_->test(d.posted);
    if (report.state == delivery::pending) return false;
    d.posted = {};
    return report.state == delivery::done || fail(report, -1);
  }
  // True where no send still reads memory of these chunks.
  bool free_to_write(int slot, chunk_range chunks) {
    const span target = memory_of(slot, chunks);
    for (int s = 0; s < x_.depth; ++s)
      for (int i = 0; i < m_.sent[s].sends; ++i) {
        dispatch& d = m_.sent[s].dispatches[i];
        if (d.posted && d.slot >= 0 && overlap(memory_of(d.slot, d.chunks), target) && !ended(d)) return false;
      }
    return true;
  }

  // Makes the list of a step and posts its receives.
  void prepare(int step) {
    step_memory& m = m_.of_step[step % x_.depth];
    action_list count;
    x_.schedule.step(x_.rank, step, count);
    m.actions = count.size();
    action_list fill(m.list, m.actions);
    x_.schedule.step(x_.rank, step, fill);
    m.receives = m.next_receive = 0;
    std::int64_t used = 0;
    for (int i = 0, next; i < m.actions; i = next) {
      for (next = i + 1; next < m.actions && m.list[next].joined;) ++next;
      if (!receives(m.list[i].does)) continue;
      receipt r{i, next, m.received + used, message_bytes(m, i, next), {}, false};
      if (r.bytes == 0) continue;
      used += aligned(r.bytes);
      const action& a = m.list[i];
      // Straight to its place, where it lies in one piece as it comes and nobody will touch that before.
      if (W::plain && next == i + 1 && a.does == verb::recv && sums(a.slot) == (a.what == content::partial) && untouched(step, i, a))
        r.data = const_cast<std::byte*>(memory_of(a.slot, a.chunks).first), r.in_place = true;
      if (a.does == verb::recv && one_result(a, next - i) && m_.is_forwarded[a.chunks.first] && !m_.is_kept[a.chunks.first]) r.data = kept(a.chunks.first);   // where it is sent on from
      r.posted = net_->post_recv(a.peer, x_.tag, r.data, r.bytes);
      m.receipts[m.receives++] = r;
    }
  }
  std::int64_t message_bytes(const step_memory& m, int first, int last) const {
    std::int64_t bytes = 0;
    for (int i = first; i < last; ++i) bytes += x_.wire_bytes(x_.cut_of(m.list[i].slot), m.list[i].chunks, m.list[i].what);
    return bytes;
  }
  bool untouched(int step, int index, const action& a) {
    const span target = memory_of(a.slot, a.chunks);
    if (!free_to_write(a.slot, a.chunks)) return false;
    int looked = 0;
    for (int s = std::max(step_, 0); s <= step; ++s) {
      const step_memory& m = m_.of_step[s % x_.depth];
      const int end = s == step ? index : m.actions;
      for (int i = s == step_ ? index_ : 0; i < end; ++i) {
        const action& b = m.list[i];
        if (++looked > 512) return false;   // long lists are not searched: the message is copied instead
        const bool two = b.does != verb::send && b.does != verb::recv;
        if (overlap(memory_of(b.slot, b.chunks), target)) return false;
        if (two && overlap(memory_of(b.with, {b.does == verb::copy ? b.from : b.chunks.first, b.chunks.count}), target)) return false;
      }
    }
    return true;
  }

  // The action after a combine that finishes what it combined: both are done block by block, and the sum is not written down between.
  const action* closes(const step_memory& m, int first, int last) {
    if (last != first + 1 || last == m.actions) return nullptr;
    const action &a = m.list[first], &b = m.list[last];
    if (a.does != verb::recv_combine && (!W::plain || a.does != verb::combine)) return nullptr;
    if (b.does != verb::finish || b.with != a.slot || !(b.chunks == a.chunks) || length(a.slot, a.chunks) == 0) return nullptr;
    return free_to_write(b.slot, b.chunks) ? &b : nullptr;
  }
  element* closed_to(const action* closing) const { return closing == nullptr ? nullptr : reinterpret_cast<element*>(place(closing->slot, closing->chunks.first)); }

  bool carry_out(step_memory& m, int first, int last, const action* closing) {
    const action& a = m.list[first];
    if (a.does == verb::send) return send(m, first, last);
    if (receives(a.does)) return receive(m, first, last, closing);
    if (length(a.slot, a.chunks) == 0) return true;
    if (!free_to_write(a.slot, a.chunks)) return false;
    if (a.does == verb::copy) copy(a);
    if (a.does == verb::combine) combine_local(a, closing);
    if (a.does == verb::finish) finish(a);
    return true;
  }

  bool send(step_memory& m, int first, int last) {
    const std::int64_t bytes = message_bytes(m, first, last);
    if (bytes == 0) return true;
    const action& a = m.list[first];
    send_memory& out = m_.sent[step_ % x_.depth];
    dispatch d{{}, -1, a.chunks};
    const std::byte* data = nullptr;
    if (W::plain && last == first + 1) {
      data = memory_of(a.slot, a.chunks).first, d.slot = a.slot;
    } else if (one_result(a, last - first)) {
      keep(a.chunks.first);
      data = kept(a.chunks.first);      // stays as it is until the end
    } else {
      std::byte* to = out.packed + out.packed_bytes;
      data = to;
      out.packed_bytes += aligned(bytes);
      for (int i = first; i < last; ++i) to = pack(m.list[i], to);
    }
    d.posted = net_->post_send(a.peer, x_.tag, data, bytes);
    out.dispatches[out.sends++] = d;
    return true;
  }
  std::byte* pack(const action& a, std::byte* to) {
    if constexpr (W::plain) {
      const span from = memory_of(a.slot, a.chunks);
      if (from.last > from.first) std::memcpy(to, from.first, std::size_t(from.last - from.first));
      return to + (from.last - from.first);
    } else {
      for (int c = a.chunks.first; c < a.chunks.last(); ++c) {
        const std::int64_t n = length(a.slot, {c}), first = x_.cut_of(a.slot).offset(c);
        if (n == 0) continue;
        const std::int64_t bytes = x_.wire.bytes(a.what, n);
        if (a.slot == output_slot) {
          keep(c);
          std::memcpy(to, kept(c), std::size_t(bytes));
        } else if (sums(a.slot)) {
          x_.wire.encode(a.what, first, reinterpret_cast<const accumulator*>(place(a.slot, c)), n, to);
        } else {
          x_.wire.encode(a.what, first, reinterpret_cast<const element*>(place(a.slot, c)), n, to);
        }
        to += bytes;
      }
      return to;
    }
  }
  // A message that is one chunk of the output, encoded: its bytes need not be copied.
  static bool one_result(const action& a, int actions) { return !W::plain && actions == 1 && a.slot == output_slot && a.chunks.count == 1; }
  std::byte* kept(int chunk) const {
    if constexpr (W::plain) return nullptr;
    else return m_.kept + chunk * aligned(x_.wire.bytes(x_.kept_content(), m_.longest));
  }
  // Encodes a chunk of the output once; its owner takes what the others will see.
  void keep(int chunk) {
    if constexpr (!W::plain) {
      if (m_.is_kept[chunk] == 1) return;
      m_.is_kept[chunk] = 1;
      const std::int64_t n = length(output_slot, {chunk});
      for (std::int64_t i = 0, k; i < n; i += k) k = std::min(x_.at_once(n), n - i), keep_some(chunk, i, k);
    } else {
      static_cast<void>(chunk);
    }
  }
  void keep_some([[maybe_unused]] int chunk, [[maybe_unused]] std::int64_t i, [[maybe_unused]] std::int64_t n) {
    if constexpr (!W::plain) {
      const std::int64_t item = x_.output_cut.offset(chunk) + i;
      element* here = reinterpret_cast<element*>(place(output_slot, chunk)) + i * x_.combine.width;
      std::byte* to = kept(chunk) + (i == 0 ? 0 : x_.wire.bytes(x_.kept_content(), i));
      x_.wire.encode(x_.kept_content(), item, here, n, to);
      if (!W::exact && !mutant(defect::owner_keeps_its_sum)) x_.wire.decode(x_.kept_content(), item, to, n, here);
    }
  }

  bool receive(step_memory& m, int first, int last, const action* closing) {
    if (message_bytes(m, first, last) == 0) return true;
    receipt& r = m.receipts[m.next_receive];
    if (r.posted) {
      const delivery_report report = net_->test(r.posted);
      if (report.state == delivery::pending) return false;
      r.posted = {};
      if (report.state != delivery::done) return fail(report, m.list[first].peer);
      if (report.bytes != r.bytes) return fail({errc::bad_shape, "a message is shorter than this rank expects: counts, types or schedules differ between ranks", report.bytes, r.bytes});
    }
    if (!r.in_place) {
      for (int i = first; i < last; ++i)
        if (!free_to_write(m.list[i].slot, m.list[i].chunks)) return false;
      const std::byte* from = r.data;
      for (int i = first; i < last; ++i) from = unpack(m.list[i], from, closing);
    }
    ++m.next_receive;
    return true;
  }
  const std::byte* unpack(const action& a, const std::byte* from, [[maybe_unused]] const action* closing) {
    if constexpr (W::plain) {
      const std::int64_t n = length(a.slot, a.chunks);
      if (n == 0) return from;
      if (a.does == verb::recv_combine) {
        if (a.what == content::partial) merge_in(a, a.chunks, reinterpret_cast<const accumulator*>(from), n, closed_to(closing));
        else merge_in(a, a.chunks, reinterpret_cast<const element*>(from), n, closed_to(closing));
      } else if (sums(a.slot) && a.what != content::partial) {
        x_.combine.lift(reinterpret_cast<accumulator*>(place(a.slot, a.chunks.first)), reinterpret_cast<const element*>(from), n);
      } else {
        std::memcpy(place(a.slot, a.chunks.first), from, std::size_t(n * item_of(a.slot)));
      }
      return from + x_.wire_bytes(x_.cut_of(a.slot), a.chunks, a.what);
    } else {
      for (int c = a.chunks.first; c < a.chunks.last(); ++c) {
        const std::int64_t n = length(a.slot, {c}), first = x_.cut_of(a.slot).offset(c);
        if (n == 0) continue;
        const std::int64_t bytes = x_.wire.bytes(a.what, n);
        if (a.does == verb::recv_combine) {
          merge_decoded(a, c, first, from, n, closing == nullptr ? nullptr : reinterpret_cast<element*>(place(closing->slot, c)));   // any content decodes to accumulators
        } else if (sums(a.slot)) {
          x_.wire.decode(a.what, first, from, n, reinterpret_cast<accumulator*>(place(a.slot, c)));
        } else {
          x_.wire.decode(a.what, first, from, n, reinterpret_cast<element*>(place(a.slot, c)));
          if (a.slot == output_slot && m_.is_forwarded[c]) {
            if (from != kept(c)) std::memcpy(kept(c), from, std::size_t(bytes));
            m_.is_kept[c] = 1;
          }
        }
        from += bytes;
      }
      return from;
    }
  }

  // slot = with (+) incoming, in blocks; items are lifted on the way, and finished where `closed` says to which place.
  template <class X> void merge_in(const action& a, chunk_range chunks, const X* incoming, std::int64_t n, element* closed = nullptr) {
    accumulator* to = reinterpret_cast<accumulator*>(place(a.slot, chunks.first));
    const std::byte* with = place(a.with, chunks.first);
    merge_blocks(to, with, sums(a.with), incoming, n, a.order, closed);
  }
  template <class X> void merge_blocks(accumulator* to, const std::byte* here, bool lifted, const X* incoming, std::int64_t n, side order, element* closed = nullptr) {
    const int w = x_.combine.width;
    constexpr bool same = std::is_same_v<element, accumulator>;
    const std::int64_t block = !(same && std::is_same_v<X, accumulator>) ? block_items : closed == nullptr ? n : x_.closing_items();
    for (std::int64_t i = 0; i < n; i += block) {
      const std::int64_t k = std::min<std::int64_t>(block, n - i);
      const accumulator *mine = nullptr, *theirs = nullptr;
      if constexpr (same) {
        mine = reinterpret_cast<const accumulator*>(here) + i * w;
      } else if (lifted) {
        mine = reinterpret_cast<const accumulator*>(here) + i * w;
      } else {
        x_.combine.lift(m_.left, reinterpret_cast<const element*>(here) + i * w, k);
        mine = m_.left;
      }
      if constexpr (std::is_same_v<X, accumulator>) {
        theirs = incoming + i * w;
      } else {
        x_.combine.lift(m_.right, incoming + i * w, k);
        theirs = m_.right;
      }
      accumulator* sum = closed != nullptr ? m_.closing : to + i * w;
      if ((order == side::here_first) != mutant(defect::merge_sides_swapped)) x_.combine.merge(sum, mine, theirs, k);
      else x_.combine.merge(sum, theirs, mine, k);
      if (closed != nullptr) x_.combine.finish(closed + i * w, sum, k, x_.schedule.ranks);
    }
  }
  void combine_local(const action& a, const action* closing) {
    if (a.with == input_slot && x_.own_trip()) {
      for (int c = a.chunks.first; c < a.chunks.last(); ++c) {
        const std::int64_t n = length(a.slot, {c});
        accumulator* here = reinterpret_cast<accumulator*>(place(a.slot, c));
        for (std::int64_t i = 0, k; i < n; i += k) {
          k = std::min(x_.at_once(n), n - i);
          take_own_trip(c, i, k, m_.right);
          merge_blocks(here + i * x_.combine.width, reinterpret_cast<const std::byte*>(here + i * x_.combine.width), true, static_cast<const accumulator*>(m_.right), k, a.order, nullptr);
        }
      }
      return;
    }
    const std::int64_t n = length(a.slot, a.chunks);
    accumulator* to = reinterpret_cast<accumulator*>(place(a.slot, a.chunks.first));
    const std::byte* with = place(a.with, a.chunks.first);
    // `with` comes in; what is here is the slot itself.
    if (sums(a.with)) merge_blocks(to, reinterpret_cast<const std::byte*>(to), true, reinterpret_cast<const accumulator*>(with), n, a.order, closed_to(closing));
    else merge_blocks(to, reinterpret_cast<const std::byte*>(to), true, reinterpret_cast<const element*>(with), n, a.order, closed_to(closing));
  }
  void copy(const action& a) {
    if (a.with == input_slot && sums(a.slot) && x_.own_trip()) {
      for (int c = 0; c < a.chunks.count; ++c)
        for (std::int64_t n = x_.cut.length(a.from + c), i = 0, k; i < n; i += k)
          k = std::min(x_.at_once(n), n - i), take_own_trip(a.from + c, i, k, reinterpret_cast<accumulator*>(place(a.slot, a.chunks.first + c)) + i * x_.combine.width);
      return;
    }
    const std::int64_t n = length(a.slot, a.chunks);
    std::byte* to = place(a.slot, a.chunks.first);
    const std::byte* from = place(a.with, a.from);
    if (sums(a.slot) && !sums(a.with)) x_.combine.lift(reinterpret_cast<accumulator*>(to), reinterpret_cast<const element*>(from), n);
    else if (to != from) std::memmove(to, from, std::size_t(n * item_of(a.slot)));
  }
  void finish(const action& a) {
    x_.combine.finish(reinterpret_cast<element*>(place(a.slot, a.chunks.first)), reinterpret_cast<const accumulator*>(place(a.with, a.chunks.first)),
                      length(a.slot, a.chunks), x_.schedule.ranks);
    if constexpr (!W::plain)
      for (int c = a.chunks.first; c < a.chunks.last(); ++c)
        if (length(a.slot, {c}) > 0) keep(c);
  }

  job x_{};
  T* net_ = nullptr;
  memory m_{};
  int step_ = 0, index_ = 0, failed_peer_ = -1;
  status failure_;
};

}  // namespace detail

}  // namespace smalti::inline SMALTI_CODE::comm
