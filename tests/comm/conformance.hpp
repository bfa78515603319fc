// What every transport must do, from the side of one rank: the executor's collectives over it give, to the bit, what they give
// over the in-process transport; calls that do not fit together are told apart; a rank that stays away is reported. No test framework
// here: the ranks are threads or processes, and what is wrong is collected in words.
#pragma once
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "group.hpp"
#include "schedules.hpp"

namespace test {

using complaints = std::vector<std::string>;

//! Everything one rank does. All ranks make the same calls in the same order.
template <class T> class conformance {
 public:
  conformance(T& net, complaints& wrong) : net_(net), wrong_(wrong), rank_(net.rank()), ranks_(net.size()) {}

  //! `most`: of the long vectors, in items.
  void all(std::int64_t most = 300'000) {
    messages();
    every_schedule();
    bits(most);
    values();
    values_folded();
    together();
    calls_that_differ();
  }

  //! Every schedule moves and sums as it does in process.
  void every_schedule() {
    const auto go = [&](const std::string& what, const smalti::comm::schedule_view& s) {
      const bool blocks = s.kind == smalti::comm::collective::all_to_all;
      for (const std::int64_t n : {std::int64_t(0), std::int64_t(1), std::int64_t(ranks_ - 1), std::int64_t(ranks_ + 1), std::int64_t(61)})
        same<smalti::comm::sum<std::int64_t>>(what, s, blocks ? n * s.chunks() : n, [](int r, std::int64_t i) { return r * 1000003LL + i + 1; }, n % 2 == 0 && s.promise().in_place, int(n % 4));
    };
    for_each_flat_schedule(ranks_, go);
    if (ranks_ % 2 == 0) for_each_nested_schedule(2, ranks_ / 2, go);
    if (ranks_ == 8) for_each_schedule_of_three_levels(2, 2, 2, go);
  }

  //! Sums of floats that every order of additions rounds differently, short and long.
  void bits(std::int64_t most) {
    const auto value = [](int r, std::int64_t i) {
      std::minstd_rand random(unsigned(r * 7919 + i * 104729 + 1));
      random(), random();
      return float(int(random() >> 8) % 20001 - 10000) * (random() % 3 == 0 ? 1e-3f : 1.0f);
    };
    for_each_flat_schedule(ranks_, [&](const std::string& what, const smalti::comm::schedule_view& s) {
      if (!smalti::comm::reduces(s.kind) || s.root != 0) return;
      same<smalti::comm::sum<float>>(what, s, 53, value);
      same<smalti::comm::average<smalti::bf16>>(what, s, 5003, [&](int r, std::int64_t i) { return smalti::narrow<smalti::bf16>(value(r, i)); });
    });
    const smalti::comm::ring a(ranks_);
    const smalti::comm::direct b(ranks_), c(ranks_, smalti::comm::collective::all_to_all);
    const smalti::comm::halving_doubling d(ranks_);
    const smalti::comm::double_binary_tree e(ranks_, smalti::comm::collective::all_reduce, 4);
    for (const smalti::comm::schedule_view& s : {smalti::comm::schedule_view(a), smalti::comm::schedule_view(b), smalti::comm::schedule_view(c), smalti::comm::schedule_view(d), smalti::comm::schedule_view(e)})
      same<smalti::comm::sum<float>>("long", s, most / ranks_ * ranks_, value);
  }

  //! Both zeros, subnormal numbers, infinities, a NaN of one rank, cancellation, integers that wrap.
  void values() {
    const float odd[] = {0.0f, -0.0f, 1e-45f, -1e-40f, HUGE_VALF, -HUGE_VALF, std::nanf("7"), 1e8f, -1e8f, 1.0f, 3.4e38f};
    for_each_flat_schedule(ranks_, [&](const std::string& what, const smalti::comm::schedule_view& s) {
      if (!smalti::comm::reduces(s.kind) || s.root != 0) return;
      same<smalti::comm::sum<float>>(what + ", odd values", s, 77, [&](int r, std::int64_t i) { return i % 5 == 4 ? odd[std::size_t(r * 7 + i) % 11] : odd[std::size_t(i) % 11]; });
      same<smalti::comm::greatest<float>>(what + ", greatest", s, 33, [&](int r, std::int64_t i) { return odd[std::size_t(r * 5 + i) % 11]; });
      same<smalti::comm::sum<std::int32_t>>(what + ", overflow", s, 19, [](int r, std::int64_t i) { return std::numeric_limits<std::int32_t>::max() - r - int(i); });
    });
  }

  //! The same values against a fold written out here: rank after rank, one quiet NaN.
  void values_folded() {
    const float odd[] = {0.0f, -0.0f, 1e-45f, -1e-40f, HUGE_VALF, -HUGE_VALF, std::nanf("7"), 1e8f, -1e8f, 1.0f, 3.4e38f};
    const auto value = [&](int r, int i) { return odd[std::size_t(r * 7 + i) % 11]; };
    const smalti::comm::direct s(ranks_);
    array<float> in(121), out(121);
    for (int i = 0; i < 121; ++i) in[std::size_t(i)] = value(rank_, i);
    smalti::comm::execution<smalti::comm::sum<float>, T> e(net_);
    const smalti::comm::arguments<smalti::comm::sum<float>> x{.input = in.data(), .output = out.data(), .items = 121, .operation = operation_++, .timeout = patience};
    scratch memory(e.workspace_bytes(s, x));
    if (const auto st = e.run(s, x, memory.get()); !st) return complain("odd values", st);
    for (int i = 0; i < 121; ++i) {
      float fold = value(0, i);
      for (int r = 1; r < ranks_; ++r) fold += value(r, i);
      const std::uint32_t want = fold == fold ? smalti::float_bits(fold) : 0x7fc00000u;
      if (smalti::float_bits(out[std::size_t(i)]) != want) wrong_.push_back("odd values: item " + std::to_string(i) + " is not the fold by rank");
    }
  }

  //! Three operations at once, of changing sizes, over and over.
  void together(int rounds = 40) {
    using run = smalti::comm::execution<smalti::comm::sum<std::int64_t>, T>;
    const smalti::comm::ring a(ranks_);
    const smalti::comm::direct b(ranks_);
    const smalti::comm::recursive_doubling c(ranks_);
    const smalti::comm::schedule_view of[] = {smalti::comm::schedule_view(a), smalti::comm::schedule_view(b), smalti::comm::schedule_view(c)};
    for (int round = 0; round < rounds; ++round) {
      std::vector<run> runs;
      std::vector<array<std::int64_t>> in, out;
      std::vector<scratch> memories;
      for (int k = 0; k < 3; ++k) {
        const std::int64_t n = (round * 131 + k * 7) % 2000;
        runs.emplace_back(net_), in.emplace_back(n), out.emplace_back(n);
        for (std::int64_t i = 0; i < n; ++i) in[k][i] = rank_ * 11 + i + k;
        const smalti::comm::arguments<smalti::comm::sum<std::int64_t>> x{.input = in[k].data(), .output = out[k].data(), .items = n, .operation = operation_++, .timeout = patience, .agree = round % 2 == 0};
        memories.emplace_back(runs[k].workspace_bytes(of[k], x));
        if (const auto st = runs[k].start(of[k], x, memories.back().get()); !st) return complain("together", st);
      }
      for (int left = 3; left > 0;) {
        left = 0;
        for (int k = 0; k < 3; ++k) left += runs[std::size_t((k + round) % 3)].advance() == smalti::comm::progress::blocked;
        if (left > 0) net_.idle(net_.now() + 1'000'000);
      }
      for (int k = 0; k < 3; ++k) {
        if (!runs[k].failure()) return complain("together", runs[k].failure());
        bool right = out[k].guarded();
        for (std::int64_t i = 0; i < std::int64_t(out[k].size()); ++i) right &= out[k][i] == ranks_ * (ranks_ - 1) / 2 * 11 + ranks_ * (i + k);
        if (!right) wrong_.push_back("together: wrong sum in round " + std::to_string(round));
      }
    }
  }

  //! One rank's call differs: it is told what, the others who; nobody's output is touched, and the group stays usable.
  void calls_that_differ() {
    if (ranks_ < 3) return;
    const smalti::comm::ring s(ranks_);
    const smalti::comm::direct other(ranks_);
    const bool odd = rank_ == 1;
    using sums = smalti::comm::sum<float>;
    differs(attempt<sums>(s, odd ? 23 : 24), "items: the count differs");
    differs(odd ? attempt<sums>(other, 24) : attempt<sums>(s, 24), "schedule: it differs");
    differs(odd ? attempt<smalti::comm::average<float>>(s, 24) : attempt<sums>(s, 24), "combine: operation or element type differs");
    differs(odd ? attempt<smalti::comm::sum<std::int32_t>>(s, 24) : attempt<sums>(s, 24), "combine: operation or element type differs");
    same<sums>("after calls that differ", smalti::comm::schedule_view(s), 24, [](int r, std::int64_t i) { return float(r + i); });
  }

  //! The transport by itself: messages of one tag stay in order, tags do not mix, a message that is too long is refused and touches nothing
  //! outside the memory of its receive, and a receive that is cancelled is gone.
  void messages() {
    if (ranks_ < 2 || rank_ > 1) {
      operation_ += 4;
      return;
    }
    using smalti::comm::delivery;
    const int peer = 1 - rank_;
    const auto tag = [&](int k) { return smalti::comm::message_tag{net_.epoch(), operation_ + std::uint32_t(k)}; };
    for (const std::int64_t n : {std::int64_t(1), std::int64_t(300), std::int64_t(70'001)}) {
      std::vector<array<std::byte>> out, in;
      for (int i = 0; i < 3; ++i) {
        out.emplace_back(std::size_t(n)), in.emplace_back(std::size_t(n));
        std::memset(out[i].data(), rank_ * 16 + i, std::size_t(n));
      }
      // Sent: 0 and 2 under one tag, 1 under another. Received: the other tag first.
      const smalti::comm::ticket sent[] = {net_.post_send(peer, tag(0), out[0].data(), n), net_.post_send(peer, tag(1), out[1].data(), n), net_.post_send(peer, tag(0), out[2].data(), n)};
      const int order[] = {1, 0, 2};
      for (const int i : order) {
        const auto got = wait(net_.post_recv(peer, tag(i == 1), in[i].data(), n));
        bool right = got.state == delivery::done && got.bytes == n && in[i].guarded();
        for (std::int64_t b = 0; right && b < n; ++b) right = in[i][b] == std::byte(peer * 16 + i);
        if (!right) wrong_.push_back("messages: message " + std::to_string(i) + " of " + std::to_string(n) + " bytes is wrong");
      }
      for (const auto k : sent)
        if (wait(k).state != delivery::done) wrong_.push_back("messages: a send did not end");
    }
    for (const std::int64_t bytes : {20, 48, 52, 100'000}) {
      array<std::byte> out(static_cast<std::size_t>(bytes)), in(48);
      const auto sent = net_.post_send(peer, tag(2), out.data(), bytes);
      const auto got = wait(net_.post_recv(peer, tag(2), in.data(), 48));
      if (got.state != (bytes > 48 ? delivery::too_long : delivery::done) || got.bytes != bytes || !in.guarded())
        wrong_.push_back("messages: one of " + std::to_string(bytes) + " bytes into 48 ends as " + std::to_string(int(got.state)) + " of " + std::to_string(got.bytes));
      if (wait(sent).state != delivery::done) wrong_.push_back("messages: a send that was too long did not end");
    }
    // A cancelled receive takes no message: the next one does.
    array<std::byte> gone(8), out(8), in(8);
    net_.cancel(net_.post_recv(peer, tag(3), gone.data(), 8));
    // Both have cancelled before either sends.
    const auto ready = net_.post_send(peer, tag(0), out.data(), 1);
    wait(net_.post_recv(peer, tag(0), in.data(), 1)), wait(ready);
    std::memset(out.data(), 9, 8);
    const auto sent = net_.post_send(peer, tag(3), out.data(), 8);
    if (wait(net_.post_recv(peer, tag(3), in.data(), 8)).state != delivery::done || in[7] != std::byte(9) || gone[0] != std::byte(0xA5)) wrong_.push_back("messages: a cancelled receive took one");
    wait(sent);
    operation_ += 4;
  }

 private:
  static constexpr smalti::comm::nanoseconds patience = 20'000'000'000;

  smalti::comm::delivery_report wait(smalti::comm::ticket k) {
    const auto late = net_.now() + patience;
    while (true) {
      const auto r = net_.test(k);
      if (r.state != smalti::comm::delivery::pending || net_.now() > late) return r;
      net_.idle(net_.now() + 1'000'000);
    }
  }
  // After a lost epoch everything else fails, too: what went wrong first is what counts.
  void complain(const std::string& what, const smalti::status& st) { if (!hopeless()) wrong_.push_back(what + ": " + st.what + " (got " + std::to_string(st.got) + ", need " + std::to_string(st.need) + ")"); }

  // This rank's share over the transport against the same in process.
  template <class C, class Value> void same(const std::string& what, const smalti::comm::schedule_view& s, std::int64_t items, Value value, bool in_place = false, int shift = 0) {
    if (hopeless()) return;
    using element = typename C::element;
    group<C> g(s, items, {}, {.seed = 5 + std::uint64_t(operation_)}, in_place, shift);
    for (int r = 0; r < ranks_; ++r) {
      const std::int64_t first = g.cut.offset(s.input(r).first);
      for (std::int64_t i = 0; i < g.held(r); ++i) g.in(r)[i] = value(r, first + i);
    }
    // The arrays of this rank are taken twice: first for the transport.
    const std::vector<element> input(g.in(rank_), g.in(rank_) + g.held(rank_));
    smalti::comm::execution<C, T> e(net_);
    auto x = g.all[std::size_t(rank_)];
    x.operation = operation_++, x.timeout = patience, x.agree = operation_ % 3 != 0;
    scratch memory(e.workspace_bytes(s, x));
    const smalti::status st = e.run(s, x, memory.get());
    if (!st) return complain(what, st);
    const std::vector<element> output(g.out(rank_), g.out(rank_) + g.made(rank_));
    bool intact = g.intact() && memory.guarded();
    std::copy(input.begin(), input.end(), g.in(rank_));
    if (const smalti::status again = g.run(); !again) return complain(what + " in process", again);
    if (!intact) wrong_.push_back(what + ": memory outside the arrays was written");
    if (!output.empty() && std::memcmp(output.data(), g.out(rank_), output.size() * sizeof(element)) != 0)
      wrong_.push_back(what + ", " + std::to_string(items) + " items: other bits than in process");
  }

  template <class C, class S> smalti::status attempt(const S& s, std::int64_t items) {
    std::vector<typename C::element> in(std::size_t(items), typename C::element(1)), out(std::size_t(items), typename C::element(77));
    smalti::comm::execution<C, T> e(net_);
    const smalti::comm::arguments<C> x{.input = in.data(), .output = out.data(), .items = items, .operation = operation_++, .timeout = patience};
    scratch memory(e.workspace_bytes(s, x));
    const smalti::status st = e.run(s, x, memory.get());
    for (const auto& y : out)
      if (y != typename C::element(77)) wrong_.push_back("an output was touched though calls differ");
    return st;
  }
  void differs(const smalti::status& st, const char* words) {
    const std::string said = st.what;
    if (rank_ == 1 ? said.find(words) == std::string::npos : st.code != smalti::errc::bad_value || st.got != 1 || said.find("another rank") == std::string::npos)
      complain(std::string("expected of calls that differ: ") + words + "; said", st);
  }

  bool hopeless() const { return wrong_.size() >= 4; }

  T& net_;
  complaints& wrong_;
  int rank_, ranks_;
  std::uint32_t operation_ = 0;
};

}  // namespace test
