// Ranks in threads: the conformance of every transport, under real races, and what goes wrong between them.
#include <catch2/catch.hpp>

#include <atomic>
#include <string>
#include <vector>

#include <smalti/comm/threads.hpp>

#include "conformance.hpp"

using namespace smalti;
using namespace smalti::comm;

namespace {

using sums = execution<sum<float>, threads::endpoint>;

// One all-reduce of ones on one rank; its failure, and whether the result is right.
status all_reduce(threads::endpoint& at, nanoseconds timeout, std::int64_t items = 30, std::uint32_t operation = 0, bool* right = nullptr) {
  const ring s(at.size());
  std::vector<float> in(std::size_t(items), 1.0f), out(in.size());
  sums e(at);
  const arguments<sum<float>> x{.input = in.data(), .output = out.data(), .items = items, .operation = operation, .timeout = timeout};
  test::scratch memory(e.workspace_bytes(s, x));
  const status st = e.run(s, x, memory.get());
  if (right != nullptr) {
    *right = true;
    for (const float y : out) *right &= y == float(at.size());
  }
  return st;
}

}  // namespace

TEST_CASE("ranks in threads give what ranks in one thread give, to the bit", "[comm][threads]") {
  for (const int ranks : {1, 2, 3, 4, 8}) {
    threads net(ranks);
    std::vector<test::complaints> wrong(static_cast<std::size_t>(ranks));
    run_each(net, [&](threads::endpoint& at) { test::conformance<threads::endpoint>(at, wrong[std::size_t(at.rank())]).all(ranks < 8 ? 300'000 : 60'000); });
    for (int r = 0; r < ranks; ++r)
      for (const std::string& w : wrong[std::size_t(r)]) FAIL_CHECK("rank " << r << " of " << ranks << ": " << w);
  }
}

TEST_CASE("a thread that does not come ends everyone's wait at the deadline", "[comm][threads][fault]") {
  threads net(4);
  std::vector<status> said(4);
  const auto begin = net.rank(0).now();
  run_each(net, [&](threads::endpoint& at) {
    if (at.rank() != 2) said[std::size_t(at.rank())] = all_reduce(at, 50'000'000);
  });
  bool named = false;
  for (const int r : {0, 1, 3}) {
    CHECK(said[std::size_t(r)].code == errc::peer_lost);
    named |= said[std::size_t(r)].got == 2;
  }
  CHECK(named);
  CHECK(net.rank(0).now() - begin < 20'000'000'000);
  // The next epoch works, with the same ranks.
  net.open(1);
  std::vector<char> right(4);
  run_each(net, [&](threads::endpoint& at) {
    bool mine = false;
    said[std::size_t(at.rank())] = all_reduce(at, never_late, 30, 0, &mine);
    right[std::size_t(at.rank())] = mine;
  });
  for (int r = 0; r < 4; ++r) CHECK((said[std::size_t(r)] && right[std::size_t(r)]));
}

TEST_CASE("a rank that is lost, or gives up, wakes all who sleep", "[comm][threads][fault]") {
  for (const bool dies : {true, false})
    for (int round = 0; round < 50; ++round) {
      threads net(4);
      std::vector<status> said(4);
      run_each(net, [&](threads::endpoint& at) {
        if (at.rank() != 3) {
          said[std::size_t(at.rank())] = all_reduce(at, never_late, 400);
          return;
        }
        // Takes part for a while, or not at all, and is gone.
        const ring s(4);
        std::vector<float> in(400, 1.0f), out(400);
        sums e(at);
        const arguments<sum<float>> x{.input = in.data(), .output = out.data(), .items = 400, .timeout = never_late};
        test::scratch memory(e.workspace_bytes(s, x));
        if (!e.start(s, x, memory.get())) return;
        for (int k = 0; k < round % 7; ++k) e.advance();
        if (dies) net.kill(3);     // nobody touches its memory from here on
        else e.abort();
      });
      for (int r = 0; r < 3; ++r) {
        CAPTURE(dies, round, r, said[std::size_t(r)].what);
        CHECK((said[std::size_t(r)] || said[std::size_t(r)].code == errc::peer_lost));
      }
      CHECK_FALSE((said[0] && said[1] && said[2] && round % 7 == 0));
    }
}

TEST_CASE("another thread may abort", "[comm][threads][fault]") {
  threads net(2);
  status said;
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    net.rank(1).abort(0, -1);
    net.rank(1).abort(0, -1);
  });
  threads::endpoint at = net.rank(0);
  said = all_reduce(at, never_late);
  other.join();
  CHECK(said.code == errc::peer_lost);
}

TEST_CASE("ten thousand operations of changing sizes", "[comm][threads]") {
  threads net(2);
  std::atomic<int> wrong{0};
  run_each(net, [&](threads::endpoint& at) {
    for (std::uint32_t k = 0; k < 10'000; ++k) {
      bool right = false;
      wrong += !all_reduce(at, 60'000'000'000, std::int64_t(k % 97), k, &right) || !right;
    }
  });
  CHECK(wrong == 0);
}
