// Collectives and what travels in attention over many ranks: on an in-process net, against folds and formulas written out here.
#include <array>
#include <cmath>

#include <smalti/comm/schedule/direct.hpp>
#include <smalti/comm/schedule/ring.hpp>
#include <smalti/comm/strided.hpp>
#include <smalti/comm/wire/block.hpp>
#include <smalti/flow/rotate.hpp>

#include "../comm/group.hpp"
#include "battery.hpp"

using namespace smalti;
using namespace smalti::comm;
using namespace battery;

namespace {

float draw(int r, std::int64_t i) { return float((r * 7919 + i * 104729) % 2003 - 1001) * 0x1p-9f; }

template <class C, class W> std::vector<typename C::element> reduced(const schedule_view& s, std::int64_t n, W wire, auto value) {
  test::group<C, W> g(s, n, {}, {3, 20}, false, 0, wire);
  for (int r = 0; r < s.ranks; ++r)
    for (std::int64_t i = 0; i < n; ++i) g.in(r)[i] = value(r, i);
  const status st = g.run();
  expect(st.code == errc::ok, st.what);
  expect(g.intact(), "a collective stays inside");
  for (int r = 1; r < s.ranks; ++r) expect(std::memcmp(g.out(0), g.out(r), std::size_t(n) * sizeof(typename C::element)) == 0, "ranks agree");
  return {g.out(0), g.out(0) + n};
}

void codes_are_nearest() {
  constexpr int n = 1000;
  memory<float> x(n), y(n);
  for (int i = 0; i < n; ++i) x[i] = draw(1, i);
  const int8_wire<> wire;
  memory<std::byte> message(std::size_t(wire.bytes(content::input, n)));
  wire.encode(content::input, 0, x.data(), n, message.data());
  wire.decode(content::input, 0, message.data(), n, y.data());
  expect(message.intact() && y.intact(), "a wire stays inside");
  for (int i = 0; i < n; ++i) expect(std::abs(x[i] - y[i]) <= 1001 * 0x1p-9f / 254 * 1.0001f, "half a step");
}

// Composition of the maps x -> a x + b: associative and not commutative.
struct map_of { std::uint32_t a, b; };
struct composition {
  using element = map_of;
  using accumulator = map_of;
  static constexpr int width = 1;
  static void lift(map_of* a, const map_of* x, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) a[i] = x[i];
  }
  static void merge(map_of* a, const map_of* l, const map_of* r, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) a[i] = {l[i].a * r[i].a, l[i].b * r[i].a + r[i].b};
  }
  static void finish(map_of* x, const map_of* a, std::int64_t n, int) { lift(x, a, n); }
  static constexpr std::uint32_t code() { return 99; }
};
void operands_keep_their_sides() {
  const auto value = [](int r, std::int64_t i) { return map_of{std::uint32_t(2 * r + 3), std::uint32_t(i * 17 + r)}; };
  const auto got = reduced<composition>(schedule_view(direct(4)), 21, plain_wire{}, value);
  for (int i = 0; i < 21; ++i) {
    map_of want = value(0, i);
    for (int r = 1; r < 4; ++r) {
      const map_of next = value(r, i);
      want = {want.a * next.a, want.b * next.a + next.b};
    }
    expect(got[std::size_t(i)].a == want.a && got[std::size_t(i)].b == want.b, "the fold by rank");
  }
}

void owners_see_what_others_see() { reduced<sum<float>>(schedule_view(ring(3)), 700, int8_wire<>{}, draw); }

void who_owns_leaves_no_trace() {
  const direct s(3);
  const auto whole = reduced<sum<float>>(schedule_view(s), 90, cast_wire<bf16>{}, draw);
  const auto front = reduced<sum<float>>(schedule_view(s), 40, cast_wire<bf16>{}, draw);
  expect(std::memcmp(whole.data(), front.data(), 40 * sizeof(float)) == 0, "the same bits in a shorter vector");
}

void offsets_of_single_repetitions() {
  for (std::int64_t offset : {0, 12, 480}) expect(strided_block::dense(4).repeated(1, 1000, offset).start == offset, "the offset of a single repetition");
}

void three_quarters_travel() {
  for (const int p : {2, 4, 8}) {
    const int length[] = {64};
    flow::ledger deal(zigzag(p), length, 1);
    const flow::placement table = deal.table();
    const flow::travel<policy::causal> trip{{p, flow::ring_attention}, table, table};
    const traffic t = trip.traffic(10, 0);
    expect(t.sent == 3 * (p - 1) * 64 * 10 / 4, "three quarters of whole blocks");
    expect(t.busiest_link == (2 * (p - 1)) * (64 / (2 * p)) * 10, "the link into rank 0 carries whole blocks");
  }
}

// A work that counts.
struct counting {
  static constexpr int planes = 1;
  const flow::travel<policy::causal>* way = nullptr;
  int* counts = nullptr;      // of own, visit, take, finish
  const flow::travel<policy::causal>& trip() const { return *way; }
  static std::int64_t row_bytes(int) { return 16; }
  static std::int64_t yield_bytes() { return 16; }
  static void pack(int, int, int, int n, std::byte* to) { std::memset(to, 0, std::size_t(n) * 16); }
  template <class Poll> status own(Poll) { return ++counts[0], status{}; }
  template <class Poll> status visit(const flow::block_rows& b, const std::byte* const*, std::byte* to, Poll) {
    std::memset(to, 0, std::size_t(b.rows) * 16);
    return ++counts[1], status{};
  }
  status take(const flow::block_rows&, const std::byte*) { return ++counts[2], status{}; }
  status finish() { return ++counts[3], status{}; }
};
void partial_results_meet_once() {
  for (const int p : {1, 2, 3}) {
    const int length[] = {24};
    flow::ledger deal(zigzag(p), length, 1);
    const flow::placement table = deal.table();
    const flow::travel<policy::causal> trip{{p, flow::token_ring}, table, table};
    in_process net(p, {5, 10});
    std::vector<in_process::endpoint> ends;
    for (int r = 0; r < p; ++r) ends.push_back(net.rank(r));
    using run = flow::rotation_run<in_process::endpoint, counting>;
    std::vector<run> runs;
    std::vector<std::array<int, 4>> counts(static_cast<std::size_t>(p));
    std::vector<memory<std::byte>*> memories;
    for (int r = 0; r < p; ++r) {
      const counting work{&trip, counts[std::size_t(r)].data()};
      const flow::run_options options{};
      memories.push_back(new memory<std::byte>(run::workspace_bytes(ends[std::size_t(r)], work, options)));
      runs.emplace_back(ends[std::size_t(r)]);
      expect(runs.back().start(work, options, {memories.back()->data(), memories.back()->bytes()}, 7).code == errc::ok, "a rotation starts");
    }
    expect(run_together(net, runs), "a rotation ends");
    for (int r = 0; r < p; ++r) {
      int yields = 0, visits = 0;
      for (int hop = 1; hop < p; ++hop) yields += trip.carried_rows(r, 0, hop) > 0, visits += trip.carried_rows(trip.way.home(r, 0, hop), 0, hop) > 0;
      const auto& c = counts[std::size_t(r)];
      expect(c[0] == 1 && c[3] == 1 && c[1] == visits && c[2] == yields, "own once, each visit once, each yield once");
    }
    for (auto* m : memories) delete m;
  }
}

}  // namespace

namespace battery {
std::vector<check> comm_checks() {
  return {{"wires", codes_are_nearest},           {"sides", operands_keep_their_sides},     {"owners", owners_see_what_others_see}, {"buckets", who_owns_leaves_no_trace},
          {"strided", offsets_of_single_repetitions}, {"traffic", three_quarters_travel}, {"rotation", partial_results_meet_once}};
}
}  // namespace battery
