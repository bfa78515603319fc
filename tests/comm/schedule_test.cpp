// Schedules as data: what verify.hpp proves of every one, what they put on the wires, and that it notices defects.
#include <catch2/catch.hpp>

#include <set>
#include <vector>

#include <smalti/comm/traffic.hpp>
#include <smalti/comm/verify.hpp>

#include "mutated.hpp"
#include "schedules.hpp"

using namespace smalti;
using namespace smalti::comm;

namespace {

void prove(const std::string& what, const schedule_view& s, int depth = 1) {
  const verdict v = verify(s, depth);
  INFO(what << ", depth " << depth << ": rank " << v.rank << " step " << v.step << " peer " << v.peer << ": " << v.what.what << " (" << v.what.got << ", " << v.what.need << ")");
  REQUIRE(v);
}

}  // namespace

TEST_CASE("every flat schedule is complete, agrees, keeps its order and cannot deadlock", "[comm][schedule]") {
  for (int ranks = 1; ranks <= 33; ++ranks) test::for_each_flat_schedule(ranks, [](const std::string& what, const schedule_view& s) { prove(what, s); });
  for (const int ranks : {63, 64, 65}) test::for_each_flat_schedule(ranks, [](const std::string& what, const schedule_view& s) { prove(what, s); });
  for (const int depth : {2, 3, 8})
    for (const int ranks : {2, 3, 5, 8}) test::for_each_flat_schedule(ranks, [&](const std::string& what, const schedule_view& s) { prove(what, s, depth); });
}

TEST_CASE("large numbers of ranks either side of a power of two", "[comm][schedule]") {
  for (const int ranks : {127, 128, 129}) {
    prove("ring", schedule_view(ring(ranks)));
    prove("direct", schedule_view(direct(ranks)));
    prove("halving-doubling", schedule_view(halving_doubling(ranks)));
    prove("recursive doubling", schedule_view(recursive_doubling(ranks)));
    prove("double binary tree", schedule_view(double_binary_tree(ranks, collective::all_reduce, 2)));
    prove("bruck", schedule_view(bruck(ranks)));
    prove("bruck", schedule_view(bruck(ranks, collective::all_to_all)));
  }
}

TEST_CASE("schedules of groups", "[comm][schedule]") {
  for (int group = 1; group <= 5; ++group)
    for (int groups = 1; groups <= 6; ++groups) test::for_each_nested_schedule(group, groups, [](const std::string& what, const schedule_view& s) { prove(what, s); });
  for (int pair = 1; pair <= 3; ++pair)
    for (int pairs = 1; pairs <= 3; ++pairs)
      for (int nodes = 1; nodes <= 4; ++nodes) test::for_each_schedule_of_three_levels(pair, pairs, nodes, [](const std::string& what, const schedule_view& s) { prove(what, s); });
  prove("nvrar", schedule_view(nvrar(8, 33)));
}

TEST_CASE("a partition covers the vector in order, whatever the numbers", "[comm][schedule]") {
  for (const int parts : {1, 2, 3, 7, 8})
    for (const int pieces : {1, 2, 5})
      for (const std::int64_t unit : {1, 4})
        for (const std::int64_t n : {0, 1, parts - 1, parts, parts + 1, 63, 64, 97}) {
          const partition p{n, parts, pieces, unit};
          REQUIRE(p.check());
          CAPTURE(n, parts, pieces, unit);
          REQUIRE(p.offset(0) == 0);
          REQUIRE(p.offset(p.chunks()) == n);
          std::int64_t most = 0;
          for (int c = 0; c < p.chunks(); ++c) {
            REQUIRE(p.length(c) >= 0);
            most = std::max(most, p.length(c));
            if (c % pieces == 0 && p.offset(c) != n) REQUIRE(p.offset(c) % unit == 0);
          }
          REQUIRE(p.greatest(1) == most);
          for (int part = 0; unit == 1 && part < parts; ++part) REQUIRE(p.part_offset(part + 1) - p.part_offset(part) - n / parts <= (part < n % parts ? 1 : 0));
        }
  const std::int64_t offsets[] = {0, 5, 5, 9};
  const partition ragged{9, 3, 2, 1, offsets};
  REQUIRE(ragged.check());
  const std::int64_t begins[] = {0, 3, 5, 5, 5, 7, 9};
  for (int c = 0; c <= 6; ++c) CHECK(ragged.offset(c) == begins[c]);
  const std::int64_t falling[] = {0, 5, 4, 9}, late[] = {1, 5, 6, 9}, other[] = {0, 5, 6, 8};
  CHECK(partition{9, 3, 1, 1, falling}.check().code == errc::bad_value);
  CHECK(partition{9, 3, 1, 1, late}.check().code == errc::bad_value);
  CHECK(partition{9, 3, 1, 1, other}.check().code == errc::bad_shape);
  CHECK(partition{-1, 3, 1, 1}.check().code == errc::bad_shape);
  CHECK(partition{9, 0, 1, 1}.check().code == errc::bad_shape);
  CHECK(partition{9, 3, 0, 1}.check().code == errc::bad_shape);
  CHECK(partition{9, 3, 1, 0}.check().code == errc::bad_value);
}

TEST_CASE("bytes on the wires are conserved and what the formulas say", "[comm][schedule]") {
  // With n a multiple of everything the formulas are exact.
  for (const int p : {1, 2, 3, 4, 5, 8, 12, 16}) {
    CAPTURE(p);
    const std::int64_t n = 2 * 3 * 4 * 5 * 16 * 9, part = n / p, w = 4;
    const auto count = [&](const auto& s) {
      const traffic t = traffic_of(s, s.cut(n));
      REQUIRE(t.sent == t.received);
      return t;
    };
    for (const traffic& t : {count(ring(p)), count(bidirectional_ring(p)), count(direct(p)), count(ring(p, collective::all_reduce, 3))}) {
      CHECK(t.sent == 2 * (p - 1) * n * w);
      CHECK(t.most_sent == 2 * (p - 1) * part * w);
      CHECK(t.most_received == 2 * (p - 1) * part * w);
    }
    CHECK(count(ring(p)).busiest_link == 2 * (p - 1) * part * w);
    // Of two rings each sends half in its direction; two ranks have one link each way for both.
    CHECK(count(bidirectional_ring(p)).busiest_link == (p == 2 ? 2 : 1) * (p - 1) * part * w);
    CHECK(count(direct(p)).busiest_link == (p > 1 ? 2 : 0) * part * w);
    for (const collective kind : {collective::reduce_scatter, collective::all_gather})
      for (const traffic& t : {count(ring(p, kind)), count(direct(p, kind))}) CHECK(t.most_sent == (p - 1) * part * w);
    CHECK(count(bruck(p)).most_sent == (p - 1) * part * w);
    CHECK(count(pairwise(p)).most_sent == (p - 1) * part * w);
    CHECK(count(pairwise(p)).busiest_link == (p > 1) * part * w);
    const bool power = std::has_single_bit(unsigned(p));
    const int rounds = std::bit_width(unsigned(p)) - 1;
    if (power) {
      CHECK(count(recursive_doubling(p)).most_sent == rounds * n * w);
      CHECK(count(halving_doubling(p)).most_sent == 2 * (p - 1) * part * w);
      CHECK(count(halving_doubling(p)).most_messages == 2 * rounds);
    } else {
      CHECK(count(recursive_doubling(p)).most_sent == (rounds + 1) * n * w);
      CHECK(count(recursive_doubling(p)).sent == (std::bit_floor(unsigned(p)) * rounds + 2 * (p - std::bit_floor(unsigned(p)))) * n * w);
    }
    CHECK(count(star(p)).most_sent == (p - 1) * n * w);
    CHECK(count(star(p)).busiest_link == (p > 1) * n * w);
    CHECK(count(double_binary_tree(p, collective::all_reduce, 3)).sent == 2 * (p - 1) * n * w);
    CHECK(count(binary_tree(p, collective::broadcast, 2, p / 2)).sent == (p - 1) * n * w);
    CHECK(count(ring(p, collective::broadcast, 4, p - 1)).busiest_link == (p > 1) * n * w);
    CHECK(count(send_recv(p, 0, p - 1, 2)).sent == (p > 1) * n * w);
  }
  // Blocks that Bruck's all_to_all sends per rank.
  const int ranks[] = {2, 3, 5, 8, 16, 33}, blocks[] = {1, 2, 5, 12, 32, 81};
  for (int i = 0; i < 6; ++i) CHECK(traffic_of(bruck(ranks[i], collective::all_to_all), bruck(ranks[i], collective::all_to_all).cut(ranks[i]), {1, 1, 1}).most_sent == blocks[i]);
  // Groups: what crosses is 1/G of what a flat ring sends.
  for (const int group : {2, 4})
    for (const int groups : {2, 4, 8}) {
      const auto s = compose(direct(group, collective::reduce_scatter), halving_doubling(groups), direct(group, collective::all_gather));
      const std::int64_t n = 960 * 8;
      std::int64_t across = 0;
      for (int r = 0; r < s.ranks; ++r)
        for (int t = 0; t < s.steps(); ++t)
          for (const action& a : test::mutated::list_of(schedule_view(s), r, t))
            if (a.does == verb::send && s.group(a.peer) != s.group(r)) across += s.cut(n).length(a.chunks);
      CHECK(across == s.ranks * 2 * (groups - 1) * n / groups / group);
    }
  // Nothing is sent for empty chunks.
  CHECK(traffic_of(ring(7), ring(7).cut(3)).messages == 2 * 6 * 3);
  CHECK(traffic_of(ring(7), ring(7).cut(0)).messages == 0);
}

TEST_CASE("trees: one parent each, P - 1 edges, logarithmic depth, inner in one of two", "[comm][schedule]") {
  for (int p = 1; p <= 300; ++p) {
    CAPTURE(p);
    int edges = 0, both = 0, deepest = 0;
    for (int r = 0; r < p; ++r) {
      const detail::tree_node n = detail::tree_at(r, p);
      for (const int c : n.children)
        if (c >= 0) {
          ++edges;
          REQUIRE(c < p);
          REQUIRE(detail::tree_parent(c, p) == r);
        }
      deepest = std::max(deepest, detail::tree_depth(r, p));
      const auto inner = [&](int k) {
        const detail::tree_place place = k == 0 ? detail::tree_place{p, 0, false} : p % 2 == 0 ? detail::tree_place{p, 0, true} : detail::tree_place{p, 1, false};
        const detail::tree_node m = place.at(r);
        return m.children[0] >= 0 || m.children[1] >= 0;
      };
      both += inner(0) && inner(1);
    }
    REQUIRE(edges == p - 1);
    REQUIRE(deepest <= detail::log2_up(p));
    REQUIRE(both == (p % 2 == 0 || p == 1 ? 0 : 1));
  }
}

TEST_CASE("each step of pairwise is a permutation, and every pair meets once", "[comm][schedule]") {
  for (int p = 2; p <= 17; ++p) {
    const pairwise s(p);
    std::set<std::pair<int, int>> pairs;
    for (int t = 1; t < s.steps(); ++t) {
      std::set<int> receivers;
      for (int r = 0; r < p; ++r) {
        const auto list = test::mutated::list_of(schedule_view(s), r, t);
        REQUIRE(list.size() == 2);
        receivers.insert(list[0].peer);
        pairs.insert({r, list[0].peer});
      }
      REQUIRE(int(receivers.size()) == p);
    }
    REQUIRE(int(pairs.size()) == p * (p - 1));
  }
}

TEST_CASE("a two-level reduce-scatter leaves parts in flat rank order", "[comm][schedule]") {
  const auto s = two_level(2, 3, collective::reduce_scatter);
  const partition cut = s.cut(12);
  for (int r = 0; r < 6; ++r) {
    CHECK(s.output(r) == chunk_range{r, 1});
    CHECK(cut.offset(s.output(r).first) == 2 * r);
  }
}

TEST_CASE("what a schedule cannot do is refused by name", "[comm][schedule]") {
  const auto refused = [](const auto& s, errc code) {
    const status st = s.check();
    CHECK(st.code == code);
    CHECK(std::string(st.what).size() > 20);
    CHECK_FALSE(verify(s));
  };
  refused(ring(0), errc::bad_shape);
  refused(ring(4, collective::all_to_all), errc::bad_value);
  refused(ring(4, collective::broadcast, 1, 4), errc::bad_value);
  refused(ring(4, collective::all_reduce, 0), errc::bad_shape);
  refused(bidirectional_ring(4, collective::broadcast), errc::bad_value);
  refused(binary_tree(4, collective::all_gather), errc::bad_value);
  refused(double_binary_tree(4, collective::broadcast), errc::bad_value);
  refused(recursive_doubling(4, collective::all_gather), errc::bad_value);
  refused(halving_doubling(6, collective::reduce_scatter), errc::bad_shape);
  refused(halving_doubling(4, collective::broadcast), errc::bad_value);
  refused(direct(4, collective::broadcast), errc::bad_value);
  refused(direct(4, collective::all_reduce, combine_order::by_chunk), errc::bad_value);
  refused(star(4, collective::all_gather), errc::bad_value);
  refused(star(4, collective::all_reduce, -1), errc::bad_value);
  refused(send_recv(4, 0, 4), errc::bad_value);
  refused(bruck(4, collective::all_reduce), errc::bad_value);
  refused(compose(direct(2, collective::all_gather), ring(3), direct(2, collective::all_gather)), errc::bad_value);
  refused(compose(ring(2, collective::reduce_scatter, 2), ring(3), ring(2, collective::all_gather, 2)), errc::bad_shape);
  refused(compose(direct(2, collective::reduce_scatter), ring(3), direct(4, collective::all_gather)), errc::bad_shape);
  refused(compose(direct(2, collective::all_gather), bidirectional_ring(3, collective::all_gather)), errc::bad_shape);
  CHECK(verify(ring(4), 0).what.code == errc::bad_value);
}

// Every fault at every action of every rank. Those that change which data goes where must all be caught; a repeated local
// action, or one that comes later, may change nothing.
TEST_CASE("no seeded defect of a schedule escapes the checks", "[comm][schedule][mutations]") {
  int tried = 0, caught = 0;
  const auto attack = [&](const std::string& what, const schedule_view& s) {
    for (int r = 0; r < s.ranks; ++r)
      for (int t = 0; t < s.steps(); ++t) {
        const auto list = test::mutated::list_of(s, r, t);
        for (int i = 0; i < int(list.size()); ++i)
          for (const test::fault f : test::faults) {
            const bool message = list[i].does == verb::send || receives(list[i].does);
            const bool folds = list[i].does == verb::recv_combine || list[i].does == verb::combine;
            if (!message && f == test::fault::later) continue;
            if (!message && (f == test::fault::repeat || f == test::fault::longer || f == test::fault::other_slot) && !folds) continue;
            if (list[i].does == verb::send && f == test::fault::other_slot) continue;     // of one content both slots may hold it
            if (f == test::fault::swapped) continue;                                      // neighbours are often independent
            if (f == test::fault::other_operand) continue;                                // a copy of the input may stand in scratch
            // A side matters where the order is promised; around a ring, or in a folding, one rank decides it for all.
            if (f == test::fault::other_side && (s.promise().order == combine_order::by_chunk || s.promise().order == combine_order::fixed_tree)) continue;
            test::mutated m(s, f, r, t, i);
            const verdict v = verify(m);
            if (!m.changed) continue;
            ++tried;
            caught += !v;
            if (v) {
              INFO(what << ": " << test::fault_names[int(f)] << " at rank " << r << " step " << t << " action " << i);
              CHECK_FALSE(v);
            }
          }
      }
  };
  for (const int ranks : {1, 2, 3, 4, 5}) test::for_each_flat_schedule(ranks, attack);
  test::for_each_nested_schedule(2, 3, attack);
  test::for_each_schedule_of_three_levels(2, 1, 2, attack);
  WARN(caught << " of " << tried << " seeded defects are caught");
  CHECK(tried > 50000);
}

namespace {

// Faults of a whole schedule, as they are made by hand.
struct shift_base : schedule_base {
  explicit shift_base(int ranks, collective kind = collective::all_gather) : schedule_base{kind, ranks, ranks, 1, 0} {}
  int steps() const { return ranks; }
};
// Everyone receives before it sends.
struct receives_first : shift_base {
  using shift_base::shift_base;
  void step(int rank, int step, action_list& out) const {
    if (step == 0) return out.copy(output_slot, input_slot, {rank});
    out.recv(around(rank - 1, ranks), output_slot, {around(rank - step, ranks)}, content::input);
    out.send(around(rank + 1, ranks), output_slot, {around(rank + 1 - step, ranks)}, content::input);
  }
};
// The send of one step is received in the next, where its receive is posted too late for a sender that waits for it.
struct receives_late : shift_base {
  using shift_base::shift_base;
  int steps() const { return 2; }
  void step(int rank, int step, action_list& out) const {
    if (step == 0) out.copy(output_slot, input_slot, {rank});
    if (step == 0) for (int i = 1; i < ranks; ++i) out.send(around(rank + i, ranks), output_slot, {rank}, content::input);
    if (step == 1) for (int i = 1; i < ranks; ++i) out.recv(around(rank - i, ranks), output_slot, {around(rank - i, ranks)}, content::input);
  }
};
// A sum in which each rank folds in its own order: ranks may end with different bits.
struct folds_own_order : schedule_base {
  explicit folds_own_order(int ranks) : schedule_base{collective::all_reduce, ranks, 1, 1, 0} {}
  int steps() const { return 1; }
  int scratch_slots() const { return 1; }
  scratch_room scratch(int, int) const { return {{0, 1}}; }
  schedule_promise promise() const { return {combine_order::by_chunk, true, true, false}; }
  void step(int rank, int, action_list& out) const {
    for (int i = 1; i < ranks; ++i) out.send(around(rank + i, ranks), input_slot, {0}, content::input);
    out.copy(first_scratch, input_slot, {0});
    for (int i = 1; i < ranks; ++i) out.recv_combine(around(rank - i, ranks), first_scratch, first_scratch, {0}, content::input, side::here_first);
    out.finish(output_slot, first_scratch, {0});
  }
};
// Promises too much.
struct boasting_ring : ring {
  using ring::ring;
  schedule_promise promise() const { return {combine_order::rank_fold}; }
};

}  // namespace

TEST_CASE("faults of whole schedules are named", "[comm][schedule]") {
  const auto says = [](const verdict& v, const char* words) {
    INFO(v.what.what);
    CHECK_FALSE(v);
    CHECK(std::string(v.what.what).find(words) != std::string::npos);
  };
  says(verify(receives_first(3)), "deadlock");
  says(verify(receives_late(3)), "in one step and received in another");
  says(verify(receives_late(3), 2), "in one step and received in another");
  says(verify(folds_own_order(3)), "disagree");
  says(verify(boasting_ring(3)), "not the one that is promised");
  // A direct all_to_all in place would overwrite what it still has to send, did receives not wait for sends.
  CHECK(verify(direct(4, collective::all_to_all)));
}
