// Collectives on queues, with host memory for a device: messages meet as those of CUDA streams and NCCL do, so that a list that
// would wait for ever there does so here.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <smalti/comm/lanes.hpp>

#include "group.hpp"
#include "on_queues.hpp"
#include "schedules.hpp"

using namespace smalti;
using namespace smalti::comm;

namespace {

constexpr unsigned seed = 20261121;
using net_type = lanes<in_host_memory>;

template <class C> void same(const std::string& what, const schedule_view& s, std::int64_t items, auto value) {
  net_type net(s.ranks);
  CAPTURE(seed);
  test::same_on_queues<C>(net, what, s, items, value, [] { return true; });
}

float odd(int r, std::int64_t i) {
  std::minstd_rand random(unsigned(r * 7919 + i * 104729 + 1));
  random(), random();
  return float(int(random() >> 8) % 20001 - 10000) * (random() % 3 == 0 ? 1e-3f : 1.0f);
}

void each(const std::string& what, const schedule_view& s) {
  for (const std::int64_t n : {std::int64_t(0), std::int64_t(1), std::int64_t(s.ranks + 1), std::int64_t(61)}) {
    same<sum<std::int64_t>>(what, s, n, [](int r, std::int64_t i) { return r * 1000003LL + i + 1; });
    if (!reduces(s.kind)) continue;
    same<sum<float>>(what, s, n, odd);
    same<average<bf16>>(what, s, n, [](int r, std::int64_t i) { return narrow<bf16>(odd(r, i)); });
  }
}

}  // namespace

TEST_CASE("schedules on queues never wait for ever, and give the bits of the executor", "[comm][lanes]") {
  for (const int ranks : {1, 2, 3, 4, 5, 8, 9, 16, 17}) test::for_each_flat_schedule(ranks, each);
  test::for_each_nested_schedule(2, 3, each);
  test::for_each_nested_schedule(3, 2, each);
  test::for_each_nested_schedule(4, 4, each);
  test::for_each_schedule_of_three_levels(2, 2, 3, each);
}

TEST_CASE("attention partials on queues", "[comm][lanes]") {
  for (const int p : {2, 3, 4}) {
    const ring s(p);
    constexpr int d = 3;
    using merge = comm::lse_merge<policy::lse_e>;
    using on_queue = queued<merge, net_type::queue>;
    test::group<merge> g(schedule_view(s), 10, {.combine = merge::of(d)});
    for (int r = 0; r < p; ++r)
      for (std::int64_t i = 0; i < g.held(r) * (d + 1); ++i) g.in(r)[i] = i % 7 == 3 ? -HUGE_VALF : float(std::sin(double(r + 3 * i)));
    net_type net(p);
    std::vector<std::vector<float>> out(std::size_t(p), std::vector<float>(10 * (d + 1)));
    std::vector<test::scratch> memory;
    for (int r = 0; r < p; ++r) {
      auto x = g.all[std::size_t(r)];
      x.output = out[std::size_t(r)].data();
      memory.emplace_back(on_queue::workspace_bytes(net.rank(r), s, x));
      REQUIRE(on_queue::run(net.rank(r), s, x, memory.back().get()));
    }
    REQUIRE(net.settle());
    REQUIRE(g.run());
    for (int r = 0; r < p; ++r) REQUIRE(std::memcmp(out[std::size_t(r)].data(), g.out(r), 10 * (d + 1) * sizeof(float)) == 0);
  }
}

TEST_CASE("several collectives queued one after another, before anything moves", "[comm][lanes]") {
  const ring a(3);
  const direct b(3);
  const binary_tree c(3);
  using on_queue = queued<sum<float>, net_type::queue>;
  net_type net(3);
  std::vector<std::vector<float>> x(3), y(3), z(3), w(3);
  std::vector<test::scratch> memory;
  for (int r = 0; r < 3; ++r) {
    x[r].assign(40, float(r + 1)), y[r].resize(40), z[r].resize(40), w[r].resize(40);
    const auto put = [&](const auto& s, const std::vector<float>& from, std::vector<float>& to) {
      const arguments<sum<float>> args{.input = from.data(), .output = to.data(), .items = 40};
      memory.emplace_back(on_queue::workspace_bytes(net.rank(r), s, args));
      REQUIRE(on_queue::run(net.rank(r), s, args, memory.back().get()));
    };
    put(a, x[r], y[r]), put(b, y[r], z[r]), put(c, z[r], w[r]);
  }
  REQUIRE(net.settle());
  for (int r = 0; r < 3; ++r)
    for (const float v : w[r]) REQUIRE(v == 54.0f);
}

namespace {

// A broadcast along a line in one step: what is sent on has come in the same step, and so in a group before.
struct relay : schedule_base {
  explicit relay(int ranks) : schedule_base{collective::broadcast, ranks} {}
  int steps() const { return 1; }
  void step(int rank, int, action_list& out) const {
    if (rank == 0) out.copy(output_slot, input_slot, {0, 1});
    else out.recv(rank - 1, output_slot, {0, 1}, content::input);
    if (rank + 1 < ranks) out.send(rank + 1, output_slot, {0, 1}, content::input);
  }
};

}  // namespace

TEST_CASE("what comes in a step may be sent on in it", "[comm][lanes]") {
  for (const int p : {2, 3, 5}) {
    const relay s(p);
    same<sum<std::int64_t>>("relay", schedule_view(s), 61, [](int r, std::int64_t i) { return r * 1000003LL + i + 1; });
  }
}

TEST_CASE("calls that do not fit together are a deadlock that is noticed", "[comm][lanes]") {
  using on_queue = queued<sum<float>, net_type::queue>;
  const ring s(2);
  for (const bool count : {true, false}) {
    net_type net(2);
    std::vector<float> in(8, 1.0f), out(8), more(8);
    std::vector<test::scratch> memory;
    for (int r = 0; r < (count ? 2 : 1); ++r) {
      const arguments<sum<float>> x{.input = in.data(), .output = r == 0 ? out.data() : more.data(), .items = count && r == 1 ? 6 : 8};
      memory.emplace_back(on_queue::workspace_bytes(net.rank(r), s, x));
      REQUIRE(on_queue::run(net.rank(r), s, x, memory.back().get()));
    }
    CHECK(net.settle().code == errc::bad_value);
    // Forgotten: the lanes are as good as before.
    memory.clear();
    for (int r = 0; r < 2; ++r) {
      const arguments<sum<float>> x{.input = in.data(), .output = r == 0 ? out.data() : more.data(), .items = 8};
      memory.emplace_back(on_queue::workspace_bytes(net.rank(r), s, x));
      REQUIRE(on_queue::run(net.rank(r), s, x, memory.back().get()));
    }
    REQUIRE(net.settle());
    for (const float v : out) REQUIRE(v == 2.0f);
  }
}

TEST_CASE("what a lane refuses", "[comm][lanes]") {
  net_type net(3);
  std::vector<float> in(12), out(12);
  using on_queue = queued<sum<float>, net_type::queue>;
  using args = arguments<sum<float>>;
  const args good{.input = in.data(), .output = out.data(), .items = 12};
  const auto code = [&](const auto& s, const args& x) { return on_queue::check(net.rank(0), s, x).code; };
  CHECK(code(ring(3), good) == errc::ok);
  CHECK(code(ring(4), good) == errc::bad_shape);
  CHECK(code(ring(3, collective::gather), good) == errc::bad_value);
  CHECK(code(ring(3), {.input = in.data(), .output = out.data(), .items = -1}) == errc::bad_shape);
  CHECK(code(ring(3), {.output = out.data(), .items = 12}) == errc::null_pointer);
  CHECK(code(ring(3), {.input = in.data(), .items = 12}) == errc::null_pointer);
  CHECK(code(ring(3), {.input = in.data(), .output = in.data(), .items = 12}) == errc::aliased);
  CHECK(code(pairwise(3), {.input = in.data(), .output = out.data(), .items = 11}) == errc::bad_shape);
  const std::int64_t parts[] = {0, 5, 5, 12};
  CHECK(code(ring(3), {.input = in.data(), .output = out.data(), .items = 12, .offsets = parts}) == errc::ok);
  CHECK(code(pairwise(3), {.input = in.data(), .output = out.data(), .items = 12, .offsets = parts, .output_offsets = parts}) == errc::bad_value);
  CHECK(on_queue::run(net.rank(0), ring(3), good, {}).code == errc::workspace_too_small);
  CHECK(queued<bytes, net_type::queue>::check(net.rank(0), ring(3), {.input = reinterpret_cast<std::byte*>(in.data()), .output = reinterpret_cast<std::byte*>(out.data()), .items = 3}).code == errc::bad_value);
}
