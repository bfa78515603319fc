// A schedule with one defect seeded into one action of one rank.
#pragma once
#include <algorithm>
#include <utility>
#include <vector>

#include <smalti/comm/schedule.hpp>

namespace test {

enum class fault { drop, repeat, next_chunk, next_peer, other_side, other_content, other_operand, other_slot, joined, swapped, longer, later };
constexpr fault faults[] = {fault::drop, fault::repeat, fault::next_chunk, fault::next_peer, fault::other_side, fault::other_content,
                            fault::other_operand, fault::other_slot, fault::joined, fault::swapped, fault::longer, fault::later};
constexpr const char* fault_names[] = {"drop", "repeat", "next chunk", "next peer", "other side", "other content",
                                       "other operand", "other slot", "joined", "swapped", "longer", "later"};

struct mutated : smalti::comm::schedule_base {
  smalti::comm::schedule_view sound;
  fault what;
  int rank, at_step, index;
  mutable bool changed = false;      // whether the fault made any difference to the list

  mutated(smalti::comm::schedule_view s, fault f, int r, int t, int i)
      : smalti::comm::schedule_base{s.kind, s.ranks, s.parts, s.pieces, s.root}, sound(s), what(f), rank(r), at_step(t), index(i) {}

  static std::vector<smalti::comm::action> list_of(const smalti::comm::schedule_view& s, int r, int t) {
    if (t < 0 || t >= s.steps()) return {};
    smalti::comm::action_list count;
    s.step(r, t, count);
    std::vector<smalti::comm::action> list(static_cast<std::size_t>(count.size()));
    smalti::comm::action_list fill(list.data(), int(list.size()));
    s.step(r, t, fill);
    return list;
  }

  int steps() const { return sound.steps(); }
  smalti::comm::chunk_range input(int r) const { return sound.input(r); }
  smalti::comm::chunk_range output(int r) const { return sound.output(r); }
  int scratch_slots() const { return sound.scratch_slots(); }
  smalti::comm::scratch_room scratch(int r, int s) const { return sound.scratch(r, s); }
  smalti::comm::schedule_promise promise() const { return sound.promise(); }
  smalti::status check() const { return sound.check(); }
  void step(int r, int t, smalti::comm::action_list& out) const {
    using namespace smalti::comm;
    std::vector<action> list = list_of(sound, r, t);
    if (r == rank && t == at_step && index < int(list.size())) {
      action& a = list[index];
      const bool message = a.does == verb::send || receives(a.does);
      switch (what) {
        case fault::drop: list.erase(list.begin() + index); changed = true; break;
        case fault::repeat: { const action twice = a; list.insert(list.begin() + index, twice); changed = true; break; }
        case fault::next_chunk:
          if (chunks() == a.chunks.count) break;
          a.chunks.first = (a.chunks.first + 1) % (chunks() - a.chunks.count + 1), a.from = a.chunks.first, changed = true;
          break;
        case fault::next_peer: if (message && ranks > 2) { do a.peer = (a.peer + 1) % ranks; while (a.peer == r); changed = true; } break;
        case fault::other_side:
          if (a.does == verb::recv_combine || a.does == verb::combine) a.order = a.order == side::here_first ? side::incoming_first : side::here_first, changed = true;
          break;
        case fault::other_content: if (message) a.what = content((int(a.what) + 1) % 3), changed = true; break;
        case fault::other_operand:
          if (a.does == verb::recv_combine) a.with = a.with == input_slot ? first_scratch : input_slot, changed = true;
          break;
        case fault::other_slot: a.slot = a.slot == output_slot ? input_slot : output_slot, changed = true; break;
        case fault::joined: if (message) a.joined = !a.joined, changed = true; break;
        case fault::swapped:
          if (index + 1 < int(list.size())) std::swap(list[index], list[index + 1]), changed = true;
          break;
        case fault::longer: ++a.chunks.count, changed = true; break;
        case fault::later: list.erase(list.begin() + index); changed = true; break;   // comes back in the next step
      }
    }
    if (what == fault::later && r == rank && t == at_step + 1 && at_step + 1 < steps()) {
      const std::vector<action> before = list_of(sound, r, at_step);
      if (index < int(before.size())) list.insert(list.begin(), before[index]);
    }
    for (const action& a : list) out.add(a);
  }
};

}  // namespace test
