// Many ranks on one GPU through streams and events: the schedules on queues, with the bits of the in-process executor.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <smalti/comm/streams.hpp>

#include "group.hpp"
#include "on_queues.hpp"
#include "schedules.hpp"

using namespace smalti;
using namespace smalti::comm;

namespace {

using net_type = lanes<cuda_streams>;

struct some_streams {
  explicit some_streams(int n) : all(std::size_t(n)) {
    for (auto& s : all) REQUIRE(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) == cudaSuccess);
  }
  ~some_streams() {
    for (auto& s : all) cudaStreamDestroy(s);
  }
  std::vector<cudaStream_t> all;
};

template <class C, class Value> void same(const std::string& what, const schedule_view& s, std::int64_t items, Value value) {
  some_streams streams(s.ranks);
  net_type net(s.ranks, cuda_streams(streams.all));
  test::same_on_queues<C>(net, what, s, items, value, [] { return cudaDeviceSynchronize() == cudaSuccess; });
}

}  // namespace

TEST_CASE("ranks on streams of one GPU give the bits of the executor", "[comm][streams]") {
  for (const int ranks : {1, 2, 3, 4, 8})
    test::for_each_flat_schedule(ranks, [](const std::string& what, const schedule_view& s) {
      if (s.root != 0) return;
      for (const std::int64_t n : {std::int64_t(s.ranks + 1), std::int64_t(3001)}) {
        same<sum<std::int64_t>>(what, s, n, [](int r, std::int64_t i) { return r * 1000003LL + i + 1; });
        if (!reduces(s.kind)) continue;
        same<sum<float>>(what, s, n, [](int r, std::int64_t i) { return float(std::sin(double(r * 100 + i)) * 1e3); });
        same<average<bf16>>(what, s, n, [](int r, std::int64_t i) { return narrow<bf16>(float(std::sin(double(r * 100 + i)))); });
      }
    });
}

TEST_CASE("attention partials on streams agree with the host within the error of their exponentials", "[comm][streams]") {
  constexpr int d = 16, rows = 33, p = 4;
  using merge = comm::lse_merge<policy::lse_e>;
  using on_queue = queued<merge, net_type::queue>;
  const direct s(p);
  test::group<merge> g(schedule_view(s), rows, {.combine = merge::of(d)});
  for (int r = 0; r < p; ++r)
    for (std::int64_t i = 0; i < rows * (d + 1); ++i) g.in(r)[i] = i % (d + 1) == d && i % 5 == 0 ? -HUGE_VALF : float(std::sin(double(r + 3 * i)));
  some_streams streams(p);
  net_type net(p, cuda_streams(streams.all));
  std::vector<test::array<float>> out;
  std::vector<test::scratch> memory;
  for (int r = 0; r < p; ++r) {
    out.emplace_back(rows * (d + 1));
    auto x = g.all[std::size_t(r)];
    x.output = out.back().data();
    memory.emplace_back(on_queue::workspace_bytes(net.rank(r), s, x));
    REQUIRE(on_queue::run(net.rank(r), s, x, memory.back().get()));
  }
  REQUIRE(net.settle());
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  REQUIRE(g.run());
  for (int r = 0; r < p; ++r)
    for (int i = 0; i < rows * (d + 1); ++i) {
      const float a = out[std::size_t(r)][std::size_t(i)], b = g.out(r)[i];
      // p - 1 merges; each weight is an exponential and a quotient of a few ulp on either machine.
      REQUIRE((a == b || std::abs(a - b) <= (p - 1) * 16 * 0x1p-24f * (1 + std::abs(b))));
    }
}
