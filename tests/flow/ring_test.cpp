// Attention over many ranks: every system, layout and number of ranks gives what one rank gives, and moves exactly the bytes of
// its formula.
#include "flow/problem.hpp"

#include <cstring>
#include <string>

#include <smalti/flow/choose.hpp>
#include <smalti/flow/ulysses.hpp>
#include <smalti/policy/masks/window.hpp>

using namespace smalti;
using comm::contiguous;
using comm::striped;
using comm::zigzag;

namespace {

constexpr unsigned seed = 20261121;
using causal_op = flow::context_parallel<bf16, 64>;
using exchange = flow::ulysses<bf16, 64>;
using single = exchange::flash;      // attention on one rank

struct named {
  const char* name;
  flow::rotation how;
};
constexpr named systems[] = {{"ring", flow::ring_attention}, {"upward ring", flow::upward_ring}, {"bidirectional ring", flow::bidirectional_ring}, {"pass-Q", flow::pass_q},
                             {"TokenRing", flow::token_ring}, {"DistAttention", flow::dist_attention},
                             {"keys sent by their home", {flow::moves::keys, flow::direction::down, false}}, {"queries both ways", {flow::moves::queries, flow::direction::both}},
                             {"queries both ways, at the end", {flow::moves::queries, flow::direction::both, true, flow::returns::at_end}}};

// Bytes on links as the formula says, to the byte.
template <class Op, class P> void check_bytes(const P& problem, const typename P::outcome& out, const flow::placement& p, flow::rotation how) {
  typename Op::args x{.queries = p, .keys = p, .how = how};
  x.q.heads = problem.heads;
  const auto t = Op::travel(p.ranks, x).traffic(Op::row_bytes(how.what, problem.heads, problem.kv_heads), Op::yield_bytes(how.what, problem.heads));
  std::int64_t sent = 0, busiest = 0;
  for (const std::int64_t b : out.links) sent += b, busiest = std::max(busiest, b);
  CHECK(sent == t.sent);
  CHECK(busiest == t.busiest_link);
}

}  // namespace

TEST_CASE("every system on every number of ranks gives what one rank gives, causal and ragged", "[flow][ring]") {
  for (const int p : {1, 2, 3, 4, 8}) {
    std::mt19937 generator(seed + unsigned(p));
    // A sequence shorter than 2 P, one of a single token, an empty one.
    const std::vector<int> n{53, 1, 0, 90, 7};
    test::flow_problem<causal_op> problem(n, n, 4, 2, p, test::causal_with(n, n), generator);
    for (const auto& layout : {zigzag(p), contiguous(p), striped(p), striped(p, 8)}) {
      flow::ledger deal(layout, n.data(), int(n.size()));
      const flow::placement table = deal.table();
      for (const named& system : systems) {
        if (layout == striped(p, 8) && !(system.how == flow::ring_attention)) continue;
        CAPTURE(seed, p, system.name, int(layout.how), layout.width);
        auto out = problem.run(table, system.how);
        CHECK(problem.worst(out, table) < 1);
        CHECK(out.intact);
        check_bytes<causal_op>(problem, out, table, system.how);
      }
    }
  }
}

TEST_CASE("bytes of whole blocks: 75 % downward, 1 - 1/(2P) upward, 50 % for contiguous shares, windows less", "[flow][traffic]") {
  for (const int p : {1, 2, 3, 4, 8, 16}) {
    CAPTURE(p);
    const int n = 2 * p * 6;
    flow::ledger zig(zigzag(p), &n, 1), plain(contiguous(p), &n, 1), stripes(striped(p), &n, 1);
    const std::int64_t whole = std::int64_t(p) * (p - 1) * 12;      // rows, if every block went all the way
    const auto sent = [&](const flow::placement& t, flow::rotation how, const auto& mask) { return flow::travel<std::decay_t<decltype(mask)>>{{p, how}, t, t, mask}.traffic(1, 0); };
    const policy::causal causal{};
    const auto down = sent(zig.table(), flow::ring_attention, causal);
    CHECK(down.sent * 4 == whole * 3);
    if (p > 1) CHECK(down.busiest_link == 6 * 2 * (p - 1));         // into rank 0: everything. The saving is in the total, not on the busiest link
    CHECK(sent(zig.table(), flow::upward_ring, causal).sent * 2 * p == whole * (2 * p - 1));
    CHECK(sent(zig.table(), flow::pass_q, causal).sent * 4 == whole * 3);
    CHECK(sent(plain.table(), flow::upward_ring, causal).sent * 2 == whole);
    CHECK(sent(stripes.table(), flow::ring_attention, causal).sent == whole - (p - 1));      // all but the last key of the later rank's stripe
    CHECK(sent(zig.table(), flow::ring_attention, policy::full{}).sent == whole);
    const auto both = sent(zig.table(), flow::bidirectional_ring, policy::full{});
    CHECK(both.sent == whole);
    if (p > 2) CHECK(both.busiest_link == 12 * (p / 2));
    // A window of one share: each block is wanted by the next rank alone.
    if (p > 1) CHECK(sent(plain.table(), flow::upward_ring, policy::window_keys(7)).sent == std::int64_t(p - 1) * 6);
    const auto one = sent(plain.table(), flow::dist_attention, causal);
    CHECK(one.sent * 2 == whole);
  }
}

TEST_CASE("messages that take their time and ranks that wake in any order change no bit", "[flow][ring]") {
  constexpr int p = 4;
  std::mt19937 generator(seed);
  const std::vector<int> n{70, 33};
  test::flow_problem<causal_op> problem(n, n, 4, 1, p, test::causal_with(n, n), generator);
  flow::ledger deal(zigzag(p), n.data(), 2);
  const flow::placement table = deal.table();
  for (const named& system : systems) {
    CAPTURE(seed, system.name);
    auto first = problem.run(table, system.how);
    for (const std::uint64_t draw : {1, 2, 3})
      for (const bool eager : {false, true}) {
        auto again = problem.run(table, table, system.how, {draw, 5000, eager}, [&](auto& x, int) { x.options.agree = draw != 2, x.slices = int(draw) * 2 - 1; });
        for (int r = 0; r < p; ++r) CHECK(std::memcmp(first.o.memory[r].data(), again.o.memory[r].data(), first.o.memory[r].size() * sizeof(bf16)) == 0);
      }
  }
}

namespace {

// Writes down what a rank asks of its transport.
struct traced_net {
  comm::in_process::endpoint inner;
  std::string* events;
  int rank() const { return inner.rank(); }
  int size() const { return inner.size(); }
  std::uint32_t epoch() const { return inner.epoch(); }
  comm::nanoseconds now() { return inner.now(); }
  comm::ticket post_send(int peer, comm::message_tag tag, const std::byte* data, std::int64_t bytes) { return *events += 's', inner.post_send(peer, tag, data, bytes); }
  comm::ticket post_recv(int peer, comm::message_tag tag, std::byte* data, std::int64_t bytes) { return *events += 'r', inner.post_recv(peer, tag, data, bytes); }
  comm::delivery_report test(comm::ticket t) { return *events += 't', inner.test(t); }
  void cancel(comm::ticket t) { inner.cancel(t); }
  void idle(comm::nanoseconds d) { inner.idle(d); }
  void abort(std::uint32_t e, int lost) { inner.abort(e, lost); }
};

}  // namespace

TEST_CASE("transfers are under way before anything is computed, and asked after between groups of heads", "[flow][ring][overlap]") {
  constexpr int p = 3;
  const std::vector<int> n{36};
  std::mt19937 generator(seed);
  const test::whole_rows<bf16> q(n, 4, 64, generator), k(n, 4, 64, generator);
  flow::ledger deal(zigzag(p), n.data(), 1);
  const flow::placement table = deal.table();
  auto dq = q.deal(table), dk = k.deal(table), o = q.deal(table);
  const auto first_events = [&](flow::rotation how, int slices) {
    comm::in_process net(p);
    std::string events;
    traced_net end{net.rank(1), &events};
    causal_op::execution<traced_net> run(end);
    causal_op::args x{.queries = table, .keys = table, .q = dq.rows<const bf16>(1), .k = dk.rows<const bf16>(1), .v = dk.rows<const bf16>(1), .o = o.rows(1), .how = how};
    x.options.agree = false, x.slices = slices;
    test::scratch memory(causal_op::workspace_bytes(host_context{1}, end, x));
    REQUIRE(run.start(host_context{1}, x, memory.get()));
    CHECK(events.empty());
    CHECK(run.advance() == comm::progress::blocked);      // nobody else has moved
    run.abort();
    return events;
  };
  // One receive and one send, then two questions after each group of heads, and one or two where it waits.
  CHECK(first_events(flow::ring_attention, 1).substr(0, 4) == "rstt");
  CHECK(first_events(flow::ring_attention, 4).substr(0, 10) == "rstttttttt");
  CHECK(first_events(flow::bidirectional_ring, 1).substr(0, 8) == "rsrstttt");
  CHECK(first_events(flow::token_ring, 1).substr(0, 7) == "rrtrstt");  // two yields are awaited, and asked for, first
}

TEST_CASE("one rank gives the bits of attention itself", "[flow][ring]") {
  std::mt19937 generator(seed);
  const std::vector<int> n{70, 0, 33};
  test::flow_problem<causal_op> problem(n, n, 4, 2, 1, test::causal_with(n, n), generator);
  flow::ledger deal(zigzag(1), n.data(), 3);
  const flow::placement table = deal.table();
  auto q = problem.q.deal(table), k = problem.k.deal(table), v = problem.v.deal(table);
  test::dealt_rows<bf16> o(table, 4, 64);
  const single::args x{.q = q.rows<const bf16>(0), .kv = {k.rows<const bf16>(0), v.rows<const bf16>(0)}, .o = o.rows(0)};
  test::scratch memory(single::workspace_bytes(host_context{1}, x));
  REQUIRE(single::run(host_context{1}, x, memory.get()));
  for (const named& system : systems) {
    auto out = problem.run(table, system.how);
    CHECK(std::memcmp(out.o.memory[0].data(), o.memory[0].data(), o.memory[0].size() * sizeof(bf16)) == 0);
  }
}

TEST_CASE("new tokens on a cached prefix, and decoding in a batch", "[flow][prefill]") {
  for (const int p : {1, 2, 3, 4, 8}) {
    std::mt19937 generator(seed + unsigned(p));
    // Two turns lie where they were put; the third is new. A sequence without a prefix, one without new tokens.
    const std::vector<int> first{40, 0, 9}, second{17, 0, 30}, fresh{21, 35, 0};
    std::vector<int> all(3);
    for (int s = 0; s < 3; ++s) all[s] = first[s] + second[s] + fresh[s];
    flow::ledger keys(zigzag(p), first.data(), 3), queries(zigzag(p), fresh.data(), 3);
    for (int s = 0; s < 3; ++s) keys.append(s, second[s], contiguous(p), 1), keys.append(s, fresh[s], zigzag(p));
    std::vector<unsigned char> marks(200);
    REQUIRE(keys.table().check_tokens(marks.data()));
    test::flow_problem<causal_op> problem(fresh, all, 4, 2, p, test::causal_with(fresh, all), generator);
    const flow::placement kt = keys.table(), qt = queries.table();
    for (const named& system : systems) {
      CAPTURE(seed, p, system.name);
      auto out = problem.run(qt, kt, system.how, {7}, [](auto&, int) {});
      CHECK(problem.worst(out, qt) < 1);
      CHECK(out.intact);
    }
    // Tokens one at a time: the holder moves on by one, so that ranks stay within a token of each other.
    flow::ledger growing(p, 3);
    std::vector<int> before(std::size_t(p) * 3);
    for (int t = 0; t < 25; ++t)
      for (int s = 0; s < 3; ++s) growing.append_to(s, 1, (s + t) % p);
    const flow::placement grown = growing.table();
    for (int s = 0; s < 3; ++s) {
      int least = 1000, most = 0;
      for (int r = 0; r < p; ++r) least = std::min(least, grown.rows(r, s)), most = std::max(most, grown.rows(r, s));
      CHECK(most - least <= 1);
    }
    const std::vector<int> one{1, 1, 1}, tokens{25, 25, 25};
    flow::ledger last(p, 3);
    for (int s = 0; s < 3; ++s) last.append_to(s, 1, (s + 24) % p);
    test::flow_problem<causal_op> decode(one, tokens, 8, 1, p, test::causal_with(one, tokens), generator);
    const flow::placement lt = last.table();
    for (const named& system : systems) {
      CAPTURE(seed, p, system.name);
      auto out = decode.run(lt, grown, system.how, {7}, [](auto&, int) {});
      CHECK(decode.worst(out, lt) < 1);
    }
  }
}

TEST_CASE("other masks, and keys that lie anywhere", "[flow][ring]") {
  constexpr int p = 3;
  std::mt19937 generator(seed);
  const std::vector<int> n{61, 24};
  // Blocks of 8 keys lent to whoever; rank 2 holds none of sequence 1.
  flow::ledger keys(p, 2), queries(contiguous(p), n.data(), 2);
  for (int s = 0; s < 2; ++s)
    for (int t = 0; t < n[s]; t += 8) keys.append_to(s, std::min(8, n[s] - t), s == 1 ? t / 8 % 2 : (t / 8 * 7 + 1) % p);
  const flow::placement kt = keys.table(), qt = queries.table();
  const auto check = [&](auto op, const test::seen_by& seen, auto change) {
    using Op = decltype(op);
    test::flow_problem<Op> problem(n, n, 2, 2, p, seen, generator);
    for (const named& system : systems) {
      CAPTURE(seed, system.name);
      auto out = problem.run(qt, kt, system.how, {7}, change);
      CHECK(problem.worst(out, qt) < 1);
    }
  };
  check(flow::context_parallel<bf16, 64, policy::sliding_window<>>{}, [](int, int q, int k) { return k <= q + 2 && k >= q - 9; }, [](auto& x, int) { x.mask = policy::window_left(9, 2); });
}

TEST_CASE("a call that differs, a rank that is lost, and what check refuses", "[flow][fault]") {
  constexpr int p = 3;
  const std::vector<int> n{24};
  flow::ledger deal(zigzag(p), n.data(), 1), other(contiguous(p), n.data(), 1);
  const flow::placement table = deal.table(), differs = other.table();
  std::mt19937 generator(seed);
  const test::whole_rows<bf16> q(n, 2, 64, generator), k(n, 2, 64, generator);
  auto dq = q.deal(table), dk = k.deal(table), o = q.deal(table);
  auto eq = q.deal(differs), ek = k.deal(differs), eo = q.deal(differs);
  using execution = causal_op::execution<comm::in_process::endpoint>;
  const auto args_of = [&](int r, flow::rotation how) {
    return causal_op::args{.queries = table, .keys = table, .q = dq.rows<const bf16>(r), .k = dk.rows<const bf16>(r), .v = dk.rows<const bf16>(r), .o = o.rows(r), .how = how};
  };
  const auto codes = [&](auto change, flow::rotation how, auto before) {
    comm::in_process net(p, {3});
    std::vector<comm::in_process::endpoint> ends;
    for (int r = 0; r < p; ++r) ends.push_back(net.rank(r));
    std::vector<execution> runs;
    std::vector<test::scratch> memories;
    before(net);
    for (int r = 0; r < p; ++r) {
      auto x = args_of(r, how);
      change(x, r);
      memories.emplace_back(causal_op::workspace_bytes(host_context{1}, ends[r], x));
      runs.emplace_back(ends[r]);
      REQUIRE(runs.back().start(host_context{1}, x, memories.back().get()));
    }
    REQUIRE(comm::run_together(net, runs));
    std::vector<status> result;
    for (auto& e : runs) result.push_back(e.failure());
    return result;
  };
  const auto nothing = [](comm::in_process&) {};
  for (const auto& st : codes([](auto& x, int r) { x.scale = r == 1 ? 0.5f : 0.25f; }, flow::ring_attention, nothing)) CHECK_FALSE(st);
  const auto told = codes([&](auto& x, int r) {
    if (r == 2) x.queries = x.keys = differs, x.q = eq.rows<const bf16>(2), x.k = x.v = ek.rows<const bf16>(2), x.o = eo.rows(2);
  }, flow::ring_attention, nothing);
  CHECK(std::string(told[2].what).find("queries: the placement") == 0);
  CHECK(told[0].got == 2);
  CHECK(told[1].got == 2);
  // Unasked, ranks that mean different shares find out from the first message that is too short or too long.
  const auto unasked = codes([&](auto& x, int r) {
    x.options.agree = false;
    if (r == 2) x.queries = x.keys = differs, x.q = eq.rows<const bf16>(2), x.k = x.v = ek.rows<const bf16>(2), x.o = eo.rows(2);
  }, flow::ring_attention, nothing);
  CHECK((!unasked[0] || !unasked[1] || !unasked[2]));
  const auto way = codes([](auto& x, int r) { x.how = r == 0 ? flow::token_ring : flow::ring_attention; }, flow::ring_attention, nothing);
  CHECK(std::string(way[0].what).find("how:") == 0);
  // A rank dies in any of its calls: nobody hangs, and who lives is told.
  for (const named& system : systems)
    for (int victim = 0; victim < p; ++victim)
      for (const int call : {0, 3, 6, 8}) {
        CAPTURE(system.name, victim, call);
        bool dies = false;
        const auto ends = codes([](auto& x, int) { x.options.timeout = 1'000'000; }, system.how, [&](comm::in_process& net) { net.kill_in_call(victim, call), dies = true; });
        for (int r = 0; r < p; ++r)
          if (r != victim) CHECK((ends[r].code == errc::peer_lost || ends[r]));   // done, where it did not need the dead one any more
        if (call == 0) CHECK(ends[(victim + 1) % p].code == errc::peer_lost);
      }

  comm::in_process net(p);
  const auto end = net.rank(0);
  const auto code = [&](auto change) {
    auto x = args_of(0, flow::ring_attention);
    change(x);
    const status st = causal_op::check(end, x);
    CHECK((causal_op::workspace_bytes(host_context{1}, end, x) > 0) == bool(st));
    return st.code;
  };
  CHECK(code([](auto&) {}) == errc::ok);
  CHECK(code([](auto& x) { x.queries.ranks = 2; }) == errc::bad_shape);
  CHECK(code([](auto& x) { x.keys.offsets = nullptr; }) == errc::null_pointer);
  CHECK(code([](auto& x) { x.k.heads = 0; }) == errc::bad_shape);
  CHECK(code([](auto& x) { x.q.sequences = 0; }) == errc::bad_shape);
  CHECK(code([](auto& x) { x.slices = 0; }) == errc::bad_value);
  CHECK(code([](auto& x) { x.how.home = flow::returns::at_end; }) == errc::bad_value);
  CHECK(code([](auto& x) { x.how = {flow::moves::keys, flow::direction::both, false}; }) == errc::bad_value);
  CHECK(code([](auto& x) { x.o.data = nullptr; }) == errc::null_pointer);
  CHECK(code([](auto& x) { x.scale = -1; }) == errc::bad_value);
  CHECK(code([](auto& x) { x.options.timeout = -1; }) == errc::bad_value);
  const int wrong[] = {0, 9, 17, 24};
  CHECK(code([&](auto& x) { x.keys.offsets = wrong; }) == errc::bad_value);
  CHECK(code([&](auto& x) { x.k.rows = 7, x.k.offsets = nullptr; }) == errc::bad_shape);
  int backwards[24];
  for (int i = 0; i < 24; ++i) backwards[i] = 23 - i;
  CHECK(code([&](auto& x) { x.keys.positions = backwards; }) == errc::bad_value);
  unsigned char marks[24];
  int twice[24];
  for (int i = 0; i < 24; ++i) twice[i] = table.positions[i];
  twice[8] = 1;
  auto doubled = table;
  doubled.positions = twice;
  CHECK(table.check_tokens(marks));
  CHECK_FALSE(doubled.check_tokens(marks));
}

TEST_CASE("attention by exchanging tokens for heads has the bits of one rank", "[flow][ulysses]") {
  const std::vector<int> n{53, 0, 90, 7};
  std::mt19937 generator(seed);
  for (const int kv_heads : {8, 4, 2, 1}) {
    const test::whole_rows<bf16> q(n, 8, 64, generator, 1.5f), k(n, kv_heads, 64, generator), v(n, kv_heads, 64, generator);
    flow::ledger all(comm::contiguous(1), n.data(), int(n.size()));
    const flow::placement one = all.table();
    auto wq = q.deal(one), wk = k.deal(one), wv = v.deal(one);
    test::dealt_rows<bf16> wo(one, 8, 64);
    test::dealt_rows<float> wl(one, 8, 1);
    const single::args whole{.q = wq.rows<const bf16>(0), .kv = {wk.rows<const bf16>(0), wv.rows<const bf16>(0)}, .o = wo.rows(0), .lse = wl.rows(0)};
    test::scratch whole_memory(single::workspace_bytes(host_context{1}, whole));
    REQUIRE(single::run(host_context{1}, whole, whole_memory.get()));
    for (const int p : {1, 2, 4, 8})
      for (const auto& layout : {comm::contiguous(p), comm::zigzag(p), comm::striped(p)})
        for (const bool with_lse : {false, true}) {
          if (kv_heads % p != 0 && p % kv_heads != 0) continue;
          CAPTURE(seed, p, kv_heads, int(layout.how), with_lse);
          flow::ledger deal(layout, n.data(), int(n.size()));
          const flow::placement table = deal.table();
          auto dq = q.deal(table), dk = k.deal(table), dv = v.deal(table);
          test::dealt_rows<bf16> o(table, 8, 64);
          test::dealt_rows<float> lse(table, 8, 1);
          comm::in_process net(p, {seed, 500});
          std::vector<std::int64_t> links(std::size_t(p) * p);
          std::vector<test::counting_net> ends;
          for (int r = 0; r < p; ++r) ends.push_back({net.rank(r), &links, 1000});
          std::vector<exchange::execution<test::counting_net>> runs;
          std::vector<test::scratch> memories;
          for (int r = 0; r < p; ++r) {
            exchange::args x{.layout = layout, .lengths = n.data(), .q = dq.rows<const bf16>(r), .k = dk.rows<const bf16>(r), .v = dv.rows<const bf16>(r), .o = o.rows(r)};
            if (with_lse) x.lse = lse.rows(r);
            x.agree = false;
            memories.emplace_back(exchange::workspace_bytes(host_context{1}, ends[r], x));
            exchange::execution<test::counting_net> begun(ends[r]);
            const status st = begun.start(host_context{1}, x, memories.back().get());
            CAPTURE(r, st.what, st.got, st.need);
            REQUIRE(st);
            runs.push_back(std::move(begun));
          }
          REQUIRE(comm::run_together(net, runs));
          for (int r = 0; r < p; ++r) {
            CAPTURE(r, runs[r].failure().what, runs[r].failure().got);
            REQUIRE(runs[r].failure());
            CHECK(memories[r].guarded());
            for (int s = 0; s < int(n.size()); ++s)
              for (int i = 0; i < table.rows(r, s); ++i)
                for (int h = 0; h < 8; ++h) {
                  const int t = table.at(r, s)[i];
                  REQUIRE(std::memcmp(&o.at(r, s, h, i, 0), &wo.at(0, s, h, t, 0), 64 * sizeof(bf16)) == 0);
                  if (with_lse) REQUIRE(lse.at(r, s, h, i, 0) == wl.at(0, s, h, t, 0));
                }
            // There: q, k and v of own rows and other ranks' heads, k and v on several ranks each where ranks are more than their heads.
            // Back: o (and lse) of other ranks' rows and own heads.
            const std::int64_t mine = table.rows(r), others = 150 - mine, kv = std::max(kv_heads, p) / p;
            const std::int64_t there = mine * (p - 1) * (8 / p * 128 + kv * 256), back = others * (8 / p) * (128 + (with_lse ? 4 : 0));
            std::int64_t sent = 0;
            for (int to = 0; to < p; ++to) sent += links[std::size_t(r) * p + to];
            CHECK(sent == there + back);
          }
        }
  }
}

TEST_CASE("what the exchange refuses", "[flow][ulysses]") {
  const std::vector<int> n{8};
  std::mt19937 generator(seed);
  const test::whole_rows<bf16> q(n, 4, 64, generator), k(n, 2, 64, generator);
  flow::ledger deal(comm::contiguous(2), n.data(), 1);
  const flow::placement table = deal.table();
  auto dq = q.deal(table), dk = k.deal(table), o = q.deal(table);
  comm::in_process net(2);
  auto end = net.rank(1);
  const auto code = [&](auto change) {
    exchange::args x{.layout = comm::contiguous(2), .lengths = n.data(), .q = dq.rows<const bf16>(1), .k = dk.rows<const bf16>(1), .v = dk.rows<const bf16>(1), .o = o.rows(1)};
    change(x);
    const status st = exchange::check(end, x);
    CHECK((exchange::workspace_bytes(host_context{1}, end, x) > 0) == bool(st));
    return st.code;
  };
  CHECK(code([](auto&) {}) == errc::ok);
  CHECK(code([](auto& x) { x.layout.ranks = 3; }) == errc::bad_shape);
  CHECK(code([](auto& x) { x.q.heads = 3; }) == errc::bad_shape);
  CHECK(code([](auto& x) { x.k.heads = 3; }) == errc::bad_shape);
  CHECK(code([](auto& x) { x.lengths = nullptr; }) == errc::null_pointer);
  CHECK(code([](auto& x) { x.q.row_stride = 512; }) == errc::bad_shape);
  CHECK(code([](auto& x) { x.layout = comm::striped(2, 8); }) == errc::bad_shape);
  CHECK(code([](auto& x) { x.scale = -1; }) == errc::bad_value);
}

TEST_CASE("keys move in a long prefill, queries on a long prefix, and more new tokens never turn that round", "[flow][choose]") {
  using flow::moves;
  flow::choice x{.fresh = 1e6, .cached = 0, .heads = 128, .kv_heads = 8, .ranks = 8, .flops = 400e12, .bandwidth = 50e9};
  CHECK(choose(x) == moves::keys);                 // all of it is new
  x.fresh = 512, x.cached = 128e3;
  CHECK(choose(x) == moves::queries);              // a follow-up on a long text
  x.fresh = 1;
  CHECK(choose(x) == moves::queries);              // a generated token
  x.ranks = 1;
  CHECK(choose(x) == moves::keys);
  // The threshold of hiding: 500 tokens for each rank at these rates.
  x.ranks = 8, x.cached = 1e6, x.fresh = 4001;
  CHECK(choose(x) == moves::keys);
  x.fresh = 3000;
  CHECK(choose(x) == moves::queries);
  for (const double all : {1e3, 1e4, 1e5, 1e6})
    for (const int g : {1, 4, 16})
      for (const int ranks : {2, 4, 16})
        for (const double bandwidth : {3e9, 12.5e9, 50e9, 450e9}) {
          bool keys = false;
          for (double fresh = 1; fresh <= all; fresh *= 1.3) {
            const bool now = flow::choose({fresh, all - fresh, 16, 16 / g, ranks, 400e12, bandwidth}) == moves::keys;
            CAPTURE(all, g, ranks, bandwidth, fresh);
            REQUIRE((now || !keys));
            keys = now;
          }
          if (g > 2) CHECK(keys);                    // queries are more bytes than keys then
          CHECK(flow::choose({all, 0, 16, 16 / g, ranks, 400e12, bandwidth}) == moves::keys);
        }
}
