// One collective on a net of queues and, of the same inputs, over the in-process transport: the same bits.
#pragma once
#include <catch2/catch.hpp>

#include <cstring>
#include <string>
#include <vector>

#include <smalti/comm/lanes.hpp>

#include "group.hpp"

namespace test {

//! @param value    value(rank, i): element i of what that rank contributes
//! @param settled  called when all queues are done, before results are read: false fails
template <class C, class Net, class Value, class Settled>
void same_on_queues(Net& net, const std::string& what, const smalti::comm::schedule_view& s, std::int64_t items, Value value, Settled settled) {
  using on_queue = smalti::comm::queued<C, typename Net::queue>;
  if (s.kind == smalti::comm::collective::all_to_all) items *= s.chunks();
  CAPTURE(what, s.ranks, items);
  group<C> g(s, items);
  for (int r = 0; r < s.ranks; ++r) {
    const std::int64_t first = g.cut.offset(s.input(r).first);
    for (std::int64_t i = 0; i < g.held(r); ++i) g.in(r)[i] = value(r, first + i);
  }
  std::vector<array<typename C::element>> out;
  std::vector<scratch> memory;
  for (int r = 0; r < s.ranks; ++r) {
    out.emplace_back(std::size_t(g.made(r)));
    auto x = g.all[std::size_t(r)];
    x.output = out.back().data();
    memory.emplace_back(on_queue::workspace_bytes(net.rank(r), s, x));
    const smalti::status st = on_queue::run(net.rank(r), s, x, memory.back().get());
    INFO(st.what);
    REQUIRE(st);
  }
  const smalti::status met = net.settle();
  INFO(met.what << " " << met.got);
  REQUIRE(met);
  REQUIRE(settled());
  REQUIRE(g.run());
  for (int r = 0; r < s.ranks; ++r) {
    REQUIRE(out[std::size_t(r)].guarded());
    REQUIRE((g.made(r) == 0 || std::memcmp(out[std::size_t(r)].data(), g.out(r), std::size_t(g.made(r)) * sizeof(typename C::element)) == 0));
  }
  for (const scratch& m : memory) REQUIRE(m.guarded());
}

}  // namespace test
