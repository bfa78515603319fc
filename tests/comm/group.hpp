// Runs one collective on an in-process net: arguments and guarded memory for every rank.
#pragma once
#include <algorithm>
#include <vector>

#include <smalti/comm/together.hpp>

#include "../support/arrays.hpp"

namespace test {

//! A collective over all ranks of a net. Fill in(rank), then run; read out(rank).
template <class C, class W = smalti::comm::plain_wire> class group {
 public:
  using element = typename C::element;
  using execution = smalti::comm::execution<C, smalti::comm::in_process::endpoint, W>;
  using args = typename execution::args;

  group(const smalti::comm::schedule_view& s, std::int64_t items, args x = {}, smalti::comm::in_process_options o = {}, bool in_place = false, int offset = 0, W wire = {})
      : schedule(s), net(s.ranks, o), cut(s.cut(items, x.unit, x.offsets)) {
    x.items = items;
    for (int r = 0; r < s.ranks; ++r) ends.push_back(net.rank(r));
    for (int r = 0; r < s.ranks; ++r) {
      executions.emplace_back(ends[r], wire);
      const std::int64_t w = x.combine.width, held = cut.length(s.input(r)) * w, made = cut.length(s.output(r)) * w;
      if (in_place) {
        // One array for both, each chunk at one address.
        const std::int64_t first = std::min(held > 0 ? cut.offset(s.input(r).first) : items, made > 0 ? cut.offset(s.output(r).first) : items);
        const std::int64_t last = std::max(held > 0 ? cut.offset(s.input(r).last()) : 0, made > 0 ? cut.offset(s.output(r).last()) : 0);
        outputs.emplace_back(std::max<std::int64_t>(last - first, 0) * w, offset);
        inputs.emplace_back(0);
        from.push_back(outputs.back().data() + (held > 0 ? cut.offset(s.input(r).first) - first : 0) * w);
        to.push_back(outputs.back().data() + (made > 0 ? cut.offset(s.output(r).first) - first : 0) * w);
      } else {
        inputs.emplace_back(held, offset);
        outputs.emplace_back(made, offset);
        from.push_back(inputs.back().data());
        to.push_back(outputs.back().data());
      }
      all.push_back(x);
      all.back().input = from.back(), all.back().output = to.back();
    }
  }
  element* in(int r) { return from[std::size_t(r)]; }
  element* out(int r) { return to[std::size_t(r)]; }
  std::int64_t held(int r) const { return cut.length(schedule.input(r)); }
  std::int64_t made(int r) const { return cut.length(schedule.output(r)); }

  //! Starts every rank; the first refusal, or ok.
  smalti::status start() {
    memories.clear();
    for (int r = 0; r < schedule.ranks; ++r) {
      memories.emplace_back(executions[r].workspace_bytes(schedule, all[r]));
      if (const smalti::status st = executions[r].start(schedule, all[r], memories.back().get()); !st) return st;
    }
    return {};
  }
  //! Runs to the end; false where ranks wait for each other for ever.
  bool finish() { return smalti::comm::run_together(net, executions); }
  smalti::status run() {
    if (const smalti::status st = start(); !st) return st;
    if (!finish()) return {smalti::errc::bad_value, "test: deadlock"};
    for (auto& e : executions)
      if (!e.failure()) return e.failure();
    return {};
  }
  bool intact() const {
    for (const auto& o : outputs)
      if (!o.guarded()) return false;
    for (const auto& i : inputs)
      if (!i.guarded()) return false;
    for (const auto& m : memories)
      if (!m.guarded()) return false;
    return true;
  }

  smalti::comm::schedule_view schedule;
  smalti::comm::in_process net;
  smalti::comm::partition cut;
  std::vector<smalti::comm::in_process::endpoint> ends;
  std::vector<execution> executions;
  std::vector<test::array<element>> inputs, outputs;
  std::vector<test::scratch> memories;
  std::vector<element*> from, to;
  std::vector<args> all;
};

}  // namespace test
