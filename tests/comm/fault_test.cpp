// What goes wrong between ranks: deaths, deadlines, aborts, and calls that do not fit together. Nothing hangs, everyone is
// told, and the rank that differs is told what differs.
#include <catch2/catch.hpp>

#include <string>
#include <vector>

#include "group.hpp"
#include "schedules.hpp"

using namespace smalti;
using namespace smalti::comm;

namespace {

constexpr std::uint64_t seed = 20261121;

bool says(const status& st, const char* words) { return std::string(st.what).find(words) != std::string::npos; }

template <class G> void ones(G& g) {
  for (int r = 0; r < g.schedule.ranks; ++r)
    for (std::int64_t i = 0; i < g.held(r); ++i) g.in(r)[i] = 1;
}

}  // namespace

TEST_CASE("whoever dies, and whenever: survivors finish with the result or are told of the loss", "[comm][fault]") {
  int deaths = 0, told = 0;
  const auto go = [&](const std::string& what, const schedule_view& s) {
    for (const bool eager : {false, true})
      for (int victim = 0; victim < s.ranks; ++victim)
        for (std::int64_t call = 0;; ++call) {
          // Every third call on longer lists: all of them are tried over the schedules.
          if (call > 12 && call % 3 != victim % 3) continue;
          CAPTURE(what, eager, victim, call);
          test::group<sum<std::int64_t>> g(s, s.kind == collective::all_to_all ? 2 * s.chunks() : 7, {.timeout = 1'000'000}, {seed + std::uint64_t(call), 150, eager});
          ones(g);
          g.net.kill_in_call(victim, call);
          REQUIRE(g.start());
          REQUIRE(g.finish());       // never a deadlock
          if (!g.net.dead(victim)) {
            for (auto& e : g.executions) REQUIRE(e.failure());
            break;                   // it makes fewer calls than that
          }
          ++deaths;
          REQUIRE(g.intact());
          for (int r = 0; r < s.ranks; ++r) {
            if (r == victim) continue;
            const status& st = g.executions[r].failure();
            if (st) {
              for (std::int64_t i = 0; i < g.made(r); ++i) REQUIRE(g.out(r)[i] == (reduces(s.kind) ? s.ranks : 1));
            } else {
              ++told;
              INFO(st.what);
              REQUIRE(st.code == errc::peer_lost);
            }
          }
          REQUIRE(g.net.now() <= 2'000'000);
          if (call > 300) FAIL("too many calls");
        }
  };
  for (const int ranks : {2, 3, 4}) {
    const ring a(ranks), b(ranks, collective::broadcast, 2, 1);
    const direct c(ranks), d(ranks, collective::all_to_all);
    const double_binary_tree e(ranks);
    const recursive_doubling f(ranks);
    const halving_doubling h(ranks);
    const bruck k(ranks, collective::all_to_all);
    go("ring", schedule_view(a)), go("chain", schedule_view(b)), go("direct", schedule_view(c)), go("direct", schedule_view(d));
    go("double binary tree", schedule_view(e)), go("recursive doubling", schedule_view(f)), go("halving-doubling", schedule_view(h)), go("bruck", schedule_view(k));
  }
  const auto n = nvrar(2, 2);
  go("nvrar", schedule_view(n));
  const star s(5);
  go("star", schedule_view(s));
  CHECK(deaths > 500);
  CHECK(told > deaths / 2);
}

TEST_CASE("a rank that does not come ends everyone's wait at the deadline", "[comm][fault]") {
  for (const bool agree : {true, false}) {
    const ring s(4);
    test::group<sum<float>> g(schedule_view(s), 12, {.timeout = 5000, .agree = agree});
    ones(g);
    // Rank 2 stays away.
    std::vector<execution<sum<float>, in_process::endpoint>> others;
    std::vector<test::scratch> memories;
    for (int r = 0; r < 4; ++r) {
      if (r == 2) continue;
      others.emplace_back(g.ends[r]);
      memories.emplace_back(others.back().workspace_bytes(s, g.all[r]));
      REQUIRE(others.back().start(s, g.all[r], memories.back().get()));
    }
    REQUIRE(run_together(g.net, others));
    bool named = false;
    for (auto& e : others) {
      CHECK(e.failure().code == errc::peer_lost);
      named |= e.failure().got == 2;
    }
    CHECK(named);
    CHECK(g.net.now() == 5000);
  }
}

TEST_CASE("without a deadline a deadlock of the program is noticed by run_together", "[comm][fault]") {
  const ring s(2);
  in_process net(2);
  auto end = net.rank(0);
  std::vector<execution<sum<float>, in_process::endpoint>> one;
  one.emplace_back(end);
  float x[4]{}, y[4]{};
  const arguments<sum<float>> a{.input = x, .output = y, .items = 4, .timeout = never_late};
  test::scratch memory(one[0].workspace_bytes(s, a));
  REQUIRE(one[0].start(s, a, memory.get()));
  CHECK_FALSE(run_together(net, one));
}

TEST_CASE("one rank aborts, everyone stops, and the next epoch works", "[comm][fault]") {
  const ring s(3);
  test::group<sum<float>> g(schedule_view(s), 30, {.timeout = never_late}, {seed, 500});
  ones(g);
  REQUIRE(g.start());
  for (int k = 0; k < 4; ++k) g.executions[k % 3].advance();
  g.executions[1].abort();
  g.executions[1].abort();     // once is enough, twice does no harm
  REQUIRE(g.finish());
  for (auto& e : g.executions) {
    CHECK(e.failure().code == errc::peer_lost);
    CHECK(says(e.failure(), "aborted"));
  }
  // What was on its way in the old epoch is never seen in the new one.
  g.net.open(1);
  ones(g);
  REQUIRE(g.run());
  for (int r = 0; r < 3; ++r)
    for (int i = 0; i < 30; ++i) REQUIRE(g.out(r)[i] == 3.0f);
}

namespace {

// Calls of which one rank's differs. `change` makes rank 1's arguments wrong. All get a sentence; rank 1's says what differs, and nobody's
// output is touched.
template <class Change> void differs(const schedule_view& usual, const schedule_view& odd, const char* words, Change change) {
  const int p = usual.ranks;
  test::group<sum<float>> g(usual, 24, {.timeout = 100'000}, {seed, 100});
  ones(g);
  std::vector<execution<sum<float>, in_process::endpoint>> runs;
  std::vector<test::scratch> memories;
  for (int r = 0; r < p; ++r) {
    runs.emplace_back(g.ends[r]);
    auto x = g.all[r];
    if (r == 1) change(x);
    const schedule_view& s = r == 1 ? odd : usual;
    memories.emplace_back(runs[r].workspace_bytes(s, x));
    REQUIRE(runs[r].start(s, x, memories.back().get()));
  }
  REQUIRE(run_together(g.net, runs));
  for (int r = 0; r < p; ++r) {
    const status& st = runs[r].failure();
    CAPTURE(r, st.what, st.got, st.need);
    CHECK_FALSE(st);
    if (p > 2 && r == 1) CHECK(says(st, words));
    if (p > 2 && r != 1) {
      CHECK(says(st, "another rank was given a different call"));
      CHECK(st.got == 1);
    }
  }
  for (int r = 0; r < p; ++r)
    for (std::int64_t i = 0; i < g.made(r) * 4; ++i) REQUIRE(reinterpret_cast<const unsigned char*>(g.out(r))[i] == 0xA5);
  CHECK(g.net.now() < 100'000);      // told, not timed out
  // The group is as good as before.
  for (int r = 0; r < p; ++r) g.all[r].operation = 1;
  REQUIRE(g.run());
}

}  // namespace

TEST_CASE("a rank whose call differs is told what differs, and the others who it is", "[comm][fault]") {
  const ring a(4), sum_only(4, collective::reduce_scatter), three(4, collective::all_reduce, 3);
  const direct b(4);
  const binary_tree root_0(4, collective::reduce, 1, 0), root_1(4, collective::reduce, 1, 1);
  const auto same = [](auto&) {};
  differs(schedule_view(a), schedule_view(a), "items: the count differs", [](auto& x) { x.items = 23; });
  differs(schedule_view(a), schedule_view(b), "schedule: it differs", same);
  differs(schedule_view(a), schedule_view(three), "schedule: it differs", same);
  differs(schedule_view(a), schedule_view(sum_only), "schedule: kind or root differs", same);
  differs(schedule_view(root_0), schedule_view(root_1), "schedule: kind or root differs", [](auto& x) { x.output = const_cast<float*>(x.input); });
  differs(schedule_view(a), schedule_view(a), "unit: it differs", [](auto& x) { x.unit = 4; });
  const std::int64_t parts[] = {0, 1, 2, 3, 24};
  differs(schedule_view(a), schedule_view(a), "offsets: the parts differ", [&](auto& x) { x.offsets = parts; });
}

TEST_CASE("types and operations are compared too", "[comm][fault]") {
  const ring s(3);
  in_process net(3, {seed, 100});
  auto e0 = net.rank(0), e1 = net.rank(1), e2 = net.rank(2);
  execution<sum<float>, in_process::endpoint> a(e0), c(e2);
  float x[3][6]{}, y[3][6]{};
  const auto against = [&](auto& odd, auto arguments_of, const char* words, std::uint32_t operation) {
    using args = arguments<sum<float>>;
    const args xa{.input = x[0], .output = y[0], .items = 6, .operation = operation}, xc{.input = x[2], .output = y[2], .items = 6, .operation = operation};
    const auto xb = arguments_of(operation);
    test::scratch ma(a.workspace_bytes(s, xa)), mb(odd.workspace_bytes(s, xb)), mc(c.workspace_bytes(s, xc));
    REQUIRE(a.start(s, xa, ma.get()));
    REQUIRE(odd.start(s, xb, mb.get()));
    REQUIRE(c.start(s, xc, mc.get()));
    for (int i = 0; i < 1000; ++i) a.advance(), odd.advance(), c.advance(), net.wait(net.now() + 10);
    CHECK(says(odd.failure(), words));
    CHECK(a.failure().got == 1);
    CHECK(c.failure().got == 1);
  };
  execution<average<float>, in_process::endpoint> mean(e1);
  execution<sum<std::int32_t>, in_process::endpoint> integers(e1);
  std::int32_t ix[6]{}, iy[6]{};
  against(mean, [&](std::uint32_t o) { return arguments<average<float>>{.input = x[1], .output = y[1], .items = 6, .operation = o}; }, "combine: operation or element type differs", 0);
  against(integers, [&](std::uint32_t o) { return arguments<sum<std::int32_t>>{.input = ix, .output = iy, .items = 6, .operation = o}; }, "combine: operation or element type differs", 1);
}

TEST_CASE("without the comparison a wrong count is still no hang", "[comm][fault]") {
  for (const std::int64_t odd : {5, 11, 13, 24}) {
    const ring s(3);
    test::group<sum<float>> g(schedule_view(s), 12, {.timeout = 50'000, .agree = false}, {seed, 100});
    ones(g);
    std::vector<float> in(32, 1.0f), out(32);
    g.all[1].items = odd, g.all[1].input = in.data(), g.all[1].output = out.data();
    REQUIRE(g.start());
    REQUIRE(g.finish());
    bool noticed = false;
    for (auto& e : g.executions) noticed |= !e.failure();
    CHECK(noticed);
  }
}

TEST_CASE("a message of the wrong length is refused by its receiver", "[comm][fault]") {
  for (const std::int64_t sent : {5, 12, 13}) {
    const send_recv s(2, 0, 1);
    test::group<sum<float>> g(schedule_view(s), 12, {.timeout = 50'000, .agree = false});
    std::vector<float> in(32, 1.0f);
    g.all[0].items = sent, g.all[0].input = in.data();
    REQUIRE(g.start());
    REQUIRE(g.finish());
    REQUIRE(g.intact());
    const status& st = g.executions[1].failure();
    CAPTURE(sent, st.what);
    CHECK(st.code == (sent == 12 ? errc::ok : errc::bad_shape));
    if (sent != 12) CHECK(st.got == sent * 4);
    if (sent < 12) CHECK(st.need == 48);
  }
}
