// The simulator against closed forms, its own conservation laws, and the fit of the cost model.
#include <catch2/catch.hpp>

#include <cmath>
#include <vector>

#include <smalti/comm/simulator.hpp>

#include "schedules.hpp"

using namespace smalti;
using namespace smalti::comm;

namespace {

constexpr double alpha = 8e-6, beta = 1 / 25e9, gamma_ = 1 / 400e9;
const network flat{.inside = {alpha, beta}};

Approx about(double x) { return Approx(x).epsilon(1e-9); }

}  // namespace

TEST_CASE("uniform networks take what the formulas say", "[comm][simulator]") {
  const std::int64_t n = 240 * 1024;
  const double s = double(n) * 4;
  for (const int p : {2, 3, 4, 5, 8, 16}) {
    CAPTURE(p);
    CHECK(simulate(ring(p), n, flat).seconds == about(2 * (p - 1) * (alpha + s / p * beta)));
    CHECK(simulate(ring(p, collective::all_gather), n, flat).seconds == about((p - 1) * (alpha + s / p * beta)));
    CHECK(simulate(pairwise(p), n, flat).seconds == about((p - 1) * (alpha + s / p * beta)));
    CHECK(simulate(direct(p, collective::all_gather), n, flat).seconds == about(alpha + (p - 1) * s / p * beta));
    CHECK(simulate(direct(p), n, flat).seconds == about(2 * (alpha + (p - 1) * s / p * beta)));
    CHECK(simulate(star(p, collective::gather), n, flat).seconds == about(alpha + (p - 1) * s / p * beta));       // one port into the root
    CHECK(simulate(star(p), n, flat).seconds == about(2 * (alpha + (p - 1) * s * beta)));
    // With a wire in each direction two rings take half of the time per byte; through one port they take as long as one.
    network wires = flat;
    wires.wires = true;
    if (p > 2) CHECK(simulate(bidirectional_ring(p), n, wires).seconds == about(2 * (p - 1) * (alpha + s / p / 2 * beta)));
    CHECK(simulate(bidirectional_ring(p), n, flat).seconds == about(2 * (p - 1) * (alpha + s / p * beta)));
    const int rounds = std::bit_width(unsigned(p)) - 1;
    if (std::has_single_bit(unsigned(p))) {
      CHECK(simulate(recursive_doubling(p), n, flat).seconds == about(rounds * (alpha + s * beta)));
      CHECK(simulate(halving_doubling(p), n, flat).seconds == about(2 * rounds * alpha + 2.0 * (p - 1) / p * s * beta));
    }
    // Combining takes its time, copying too.
    network slow = flat;
    slow.gamma = gamma_;
    CHECK(simulate(ring(p), n, slow).seconds == about(2 * (p - 1) * (alpha + s / p * beta) + (p - 1) * s / p * gamma_));
  }
  CHECK(simulate(ring(1), n, flat).seconds == 0);
  CHECK(simulate(ring(5), 0, flat).seconds == 0);
}

TEST_CASE("nvrar over nodes", "[comm][simulator]") {
  // 2 (alpha_in + (G-1)/G S beta_in) + log2(M) (alpha_out + S/G beta_out), in microseconds 22.5, 35.7, 49.0, 62.2, 75.5.
  const network net{.inside = {2e-6, 1 / 150e9}, .across = {8e-6, 1 / 25e9}, .group = 4};
  const double s = 512 * 1024;
  for (int rounds = 1; rounds <= 5; ++rounds)
    CHECK(simulate(nvrar(4, 1 << rounds), std::int64_t(s / 4), net).seconds == about(2 * (2e-6 + 0.75 * s / 150e9) + rounds * (8e-6 + s / 4 / 25e9)));
  // A flat ring is paced by its slowest link, and one NIC for the node's four ranks is four times slower for four rails.
  CHECK(simulate(ring(32), std::int64_t(s / 4), net).seconds > 3 * simulate(nvrar(4, 8), std::int64_t(s / 4), net).seconds);
  network shared = net;
  shared.nics = 1;
  const double one = simulate(nvrar(4, 2), std::int64_t(s / 4), shared).seconds, four = simulate(nvrar(4, 2), std::int64_t(s / 4), net).seconds;
  CHECK(one - four == Approx(3 * s / 4 / 25e9).epsilon(0.02));
}

TEST_CASE("what is simulated is what the lists say, and the same every time", "[comm][simulator]") {
  for (const int ranks : {1, 2, 5, 8, 13})
    test::for_each_flat_schedule(ranks, [&](const std::string& what, const schedule_view& s) {
      CAPTURE(what);
      const std::int64_t n = s.chunks() * 3 + (s.kind == collective::all_to_all ? 0 : 1);
      const traffic t = traffic_of(s, s.cut(n));
      simulation_options o{.jitter = 0.3, .seed = 5};
      double last = 0;
      std::int64_t traced = 0;
      o.trace = [&](const trace_line& l) {
        CHECK(l.end >= l.begin);
        if (l.does == verb::send) traced += l.bytes;
        last = std::max(last, l.end);
      };
      const simulation a = simulate(s, n, flat, o);
      REQUIRE(a.what);
      CHECK(a.done == ranks);
      CHECK(a.bytes == t.sent);
      CHECK(a.messages == t.messages);
      CHECK(traced == t.sent);
      CHECK(a.seconds == Approx(last));
      o.trace = {};
      CHECK(simulate(s, n, flat, o).seconds == a.seconds);
      const simulation calm = simulate(s, n, flat);
      CHECK(a.seconds >= calm.seconds * (1 - 1e-12));
      // No port carries more than its rate.
      CHECK(calm.seconds >= double(std::max(t.most_sent, t.most_received)) * beta * (1 - 1e-12));
    });
}

TEST_CASE("a slow link, and a rank that dies", "[comm][simulator]") {
  const std::int64_t n = 1 << 18;
  simulation_options slow{.slow_from = 2, .slow_to = 3, .slow_by = 5};
  const double usual = simulate(ring(8), n, flat).seconds, late = simulate(ring(8), n, flat, slow).seconds;
  // A ring goes at the pace of its slowest link, which here is never idle: its latency shows once.
  CHECK(late == about(14 * 5 * double(n) * 4 / 8 * beta + alpha));
  CHECK(late > 2 * usual);
  slow.slow_from = 3, slow.slow_to = 2;
  CHECK(simulate(ring(8), n, flat, slow).seconds == usual);   // which is not on its way
  for (const int ranks : {2, 5, 8})
    for (int victim = 0; victim < ranks; ++victim) {
      const simulation lost = simulate(ring(ranks), n, flat, {.dies = victim, .dies_at = usual / 10, .detection = 1e-3});
      CAPTURE(ranks, victim);
      CHECK(lost.what.code == errc::peer_lost);
      CHECK(lost.what.got == victim);
      CHECK(lost.seconds >= 1e-3);
      CHECK(lost.seconds < 1e-3 + 2 * usual);
      CHECK(simulate(ring(ranks), n, flat, {.dies = victim, .dies_at = 1}).what);     // too late to matter
    }
}

TEST_CASE("the fit recovers a model, says how far it is off, and refuses what cannot tell", "[comm][simulator]") {
  std::vector<cost_sample> samples;
  for (const std::int64_t n : {std::int64_t(1) << 8, std::int64_t(1) << 20}) {
    const ring r(4);
    const traffic t = traffic_of(r, r.cut(n));
    samples.push_back({double(t.most_messages), double(t.most_sent), simulate(r, n, flat).seconds});
  }
  cost_fit f;
  REQUIRE(fit(samples.data(), samples.size(), f));
  CHECK(f.link.alpha == Approx(alpha).epsilon(1e-6));
  CHECK(f.link.beta == Approx(beta).epsilon(1e-6));
  CHECK(f.worst < 1e-9);
  // A size that it has not seen.
  const ring r(4);
  CHECK(f.holds({6, 6.0 * 4096, simulate(r, 4096, flat).seconds}));
  CHECK_FALSE(f.holds({6, 6.0 * 4096, 2 * simulate(r, 4096, flat).seconds}));
  // Neither may be negative.
  const cost_sample falling[] = {{1, 10, 2e-6}, {1, 1000, 1e-6}}, alike[] = {{1, 10, 1e-6}, {2, 20, 2e-6}}, zero[] = {{1, 10, 0}, {1, 20, 1e-6}};
  REQUIRE(fit(falling, 2, f));
  CHECK(f.link.beta == 0);
  CHECK(f.worst > 0.15);
  CHECK(fit(alike, 2, f).code == errc::bad_value);
  CHECK(fit(zero, 2, f).code == errc::bad_value);
  CHECK(fit(samples.data(), 1, f).code == errc::bad_shape);
  CHECK(fit(nullptr, 2, f).code == errc::null_pointer);
  CHECK(bus_factor(collective::all_reduce, 4) == 1.5);
  CHECK(bus_factor(collective::all_gather, 4) == 0.75);
  CHECK(bus_factor(collective::broadcast, 4) == 1);
  CHECK(bus_factor(collective::all_reduce, 1) == 0);
}

TEST_CASE("what simulate refuses", "[comm][simulator]") {
  CHECK(simulate(ring(0), 8, flat).what.code == errc::bad_shape);
  CHECK(simulate(ring(4), -1, flat).what.code == errc::bad_shape);
  CHECK(simulate(ring(4), 8, flat, {.depth = 0}).what.code == errc::bad_value);
  CHECK(simulate(ring(4), 8, flat, {.dies = 4}).what.code == errc::bad_value);
  network odd = flat;
  odd.group = -1;
  CHECK(simulate(ring(4), 8, odd).what.code == errc::bad_shape);
}

TEST_CASE("thousands of ranks", "[comm][simulator]") {
  const network net{.inside = {2e-6, 1 / 150e9}, .across = {8e-6, 1 / 25e9}, .group = 8};
  const std::int64_t n = 1 << 18;
  const simulation a = simulate(nvrar(8, 512), n, net), b = simulate(double_binary_tree(4096, collective::all_reduce, 4), n, net), c = simulate(ring(512), n, net);
  CHECK((a.what && b.what && c.what));
  CHECK(a.done == 4096);
  CHECK(a.seconds < b.seconds);
  CHECK(b.seconds < c.seconds);
}

// 33.5 million messages.
TEST_CASE("4,096 ranks in a ring", "[.][long]") {
  const simulation s = simulate(ring(4096), 1 << 20, flat);
  CHECK(s.messages == 2LL * 4095 * 4096);
  CHECK(s.seconds == Approx(2 * 4095 * (alpha + 1024 * beta)).epsilon(1e-6));
}
