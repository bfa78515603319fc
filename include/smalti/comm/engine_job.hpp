// What an engine is given, and what its list demands: counted from the list itself, the same walk for workspace_bytes and for start.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <smalti/comm/combine.hpp>
#include <smalti/comm/transport.hpp>
#include <smalti/comm/wire.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::comm::detail {

// The greatest demands of one rank's list, over its steps.
struct demands {
  int actions = 0, receives = 0, sends = 0;          // of one step
  std::int64_t receive_bytes = 0, packed_bytes = 0;  // of one step, each message from a multiple of 64
};

constexpr std::int64_t aligned(std::int64_t bytes) { return (bytes + 63) / 64 * 64; }

constexpr int block_items = 256;      // merged at once where items are lifted on the way

template <class C, class W> struct engine_job {
  using element = typename C::element;
  using accumulator = typename C::accumulator;

  schedule_view schedule;
  int rank;
  partition cut, output_cut;      // of input and scratch, of output
  const element* input;
  element* output;
  C combine;
  W wire;
  message_tag tag;
  int depth;

  std::int64_t scratch_item() const { return std::int64_t(combine.width) * std::int64_t(reduces(schedule.kind) ? sizeof(accumulator) : sizeof(element)); }
  std::int64_t item() const { return std::int64_t(combine.width) * std::int64_t(sizeof(element)); }
  const partition& cut_of(int slot) const { return slot == output_slot ? output_cut : cut; }
  //! Items between their last merge and their finish.
  std::int64_t closing_items() const { return std::max<std::int64_t>(block_items, 4 * block_items / combine.width); }
  //! How many of n items are encoded and decoded at once: few, which stay in the first cache, where the wire says how many it takes together.
  std::int64_t at_once(std::int64_t n) const {
    if constexpr (requires { { wire.items_together() } -> std::convertible_to<std::int64_t>; }) {
      const std::int64_t together = wire.items_together(), most = closing_items();
      return std::min(n, together >= most ? together : most / together * together);
    } else {
      return n;
    }
  }
  content kept_content() const { return reduces(schedule.kind) ? content::result : content::input; }
  // Where every rank's items are gathered at the owner of a chunk and folded there, the owner's own make the same trip as the
  // others', so that who owns them, and with it how the vector is cut, leaves no trace in the bits.
  bool own_trip() const {
    if constexpr (requires { requires W::own_trip; }) {
      const combine_order order = schedule.promise().order;
      return !mutant(defect::own_items_make_no_trip) && reduces(schedule.kind) && (order == combine_order::rank_fold || order == combine_order::rank_tree);
    } else {
      return false;
    }
  }

  // Bytes of the chunks in a message; each chunk is encoded by itself unless nothing is.
  std::int64_t wire_bytes(const partition& cut, chunk_range chunks, content what) const {
    if constexpr (W::plain) {
      return cut.length(chunks) * std::int64_t(combine.width) * std::int64_t(what == content::partial ? sizeof(accumulator) : sizeof(element));
    } else {
      std::int64_t bytes = 0;
      for (int c = chunks.first; c < chunks.last(); ++c)
        if (const std::int64_t n = cut.length(c); n > 0) bytes += wire.bytes(what, n);
      return bytes;
    }
  }
  demands survey() const {
    surveyor s{this, {}, {}};
    action_list list(&s, &surveyor::through);
    for (int t = 0; t < schedule.steps(); ++t) schedule.step(rank, t, list), s.end_of_step();
    return s.all;
  }
  // Which chunks of the output this rank sends.
  void mark_forwarded(char* chunks) const {
    std::fill(chunks, chunks + schedule.chunks(), char(0));
    action_list list(chunks, [](void* marks, const action& a) {
      if (a.does == verb::send && a.slot == output_slot) std::fill(static_cast<char*>(marks) + a.chunks.first, static_cast<char*>(marks) + a.chunks.last(), char(1));
    });
    for (int t = 0; t < schedule.steps(); ++t) schedule.step(rank, t, list);
  }

 private:
  struct surveyor {
    const engine_job* x;
    demands all, step;
    std::int64_t message = 0;
    int parts = 0;                  // actions of the message
    bool sending = false;
    static void through(void* self, const action& a) { static_cast<surveyor*>(self)->see(a); }
    void see(const action& a) {
      ++step.actions;
      if (!a.joined) close();
      if (a.does != verb::send && !receives(a.does)) return;
      ++parts, sending = a.does == verb::send;
      message += x->wire_bytes(x->cut_of(a.slot), a.chunks, a.what);
    }
    void close() {
      if (message > 0) {
        (sending ? step.sends : step.receives) += 1;
        if (!sending) step.receive_bytes += aligned(message);
        else if (!W::plain || parts > 1) step.packed_bytes += aligned(message);
      }
      parts = 0, message = 0;
    }
    void end_of_step() {
      close();
      all.actions = std::max(all.actions, step.actions), all.receives = std::max(all.receives, step.receives), all.sends = std::max(all.sends, step.sends);
      all.receive_bytes = std::max(all.receive_bytes, step.receive_bytes), all.packed_bytes = std::max(all.packed_bytes, step.packed_bytes);
      step = {};
    }
  };
};

}  // namespace smalti::inline SMALTI_CODE::comm::detail
