// The executor over the in-process transport: results against the oracle, and the promises about bits.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "group.hpp"
#include "reference/collective.hpp"
#include "schedules.hpp"

using namespace smalti;
using namespace smalti::comm;

namespace {

constexpr unsigned seed = 20261121;

// An item that says where it comes from: rank, and place in the whole vector of that rank.
std::int64_t mark(int rank, std::int64_t item) { return rank * 1000003LL + item + 1; }

template <class G> void fill(G& g, auto value) {
  for (int r = 0; r < g.schedule.ranks; ++r) {
    const std::int64_t first = g.cut.offset(g.schedule.input(r).first);
    for (std::int64_t i = 0; i < g.held(r); ++i) g.in(r)[i] = value(r, first + i);
  }
}

// What belongs in item i (of the whole vector) of rank r's output, as marks; the sum wraps as integers do.
std::int64_t expected(const schedule_view& s, const partition& cut, int rank, std::int64_t i) {
  int part = 0;
  while (part + 1 < s.parts && cut.part_offset(part + 1) <= i) ++part;
  switch (s.kind) {
    case collective::all_reduce: case collective::reduce_scatter: case collective::reduce: {
      std::int64_t sum = 0;
      for (int r = 0; r < s.ranks; ++r) sum += mark(r, i);
      return sum;
    }
    case collective::all_gather: case collective::gather: return mark(part, i);
    case collective::all_to_all: return mark(part, cut.part_offset(rank) + (i - cut.part_offset(part)));
    default: return mark(s.root, i);
  }
}

void moves_and_sums(const std::string& what, const schedule_view& s, std::int64_t items, in_process_options o, int depth, bool in_place, int offset = 0) {
  CAPTURE(what, items, o.seed, o.eager, depth, in_place, offset);
  if (s.kind == collective::all_to_all) items *= s.chunks();
  test::group<sum<std::int64_t>> g(s, items, {.depth = depth}, o, in_place, offset);
  fill(g, mark);
  const status st = g.run();
  INFO(st.what << " " << st.got << " " << st.need);
  REQUIRE(st);
  REQUIRE(g.intact());
  for (int r = 0; r < s.ranks; ++r) {
    const std::int64_t first = g.cut.offset(s.output(r).first);
    for (std::int64_t i = 0; i < g.made(r); ++i)
      if (g.out(r)[i] != expected(s, g.cut, r, first + i)) {
        CAPTURE(r, i);
        REQUIRE(g.out(r)[i] == expected(s, g.cut, r, first + i));
      }
  }
}

}  // namespace

TEST_CASE("every schedule moves and sums what it should, under any order of ranks and messages", "[comm][executor]") {
  std::uint64_t run = seed;
  const auto go = [&](const std::string& what, const schedule_view& s) {
    const int p = s.ranks;
    for (const std::int64_t n : {std::int64_t(0), std::int64_t(1), std::int64_t(p - 1), std::int64_t(p + 1), std::int64_t(37)}) {
      ++run;
      moves_and_sums(what, s, n, {run, nanoseconds(run % 3 * 400), run % 2 == 0}, 1 + int(run % 3), false, int(run % 8));
      if (s.promise().in_place) moves_and_sums(what, s, n, {run, nanoseconds(run % 3 * 400), run % 2 == 0}, 1 + int(run / 2 % 3), true);
    }
  };
  for (const int ranks : {1, 2, 3, 4, 5, 8, 9}) test::for_each_flat_schedule(ranks, go);
  test::for_each_nested_schedule(2, 3, go);
  test::for_each_nested_schedule(3, 2, go);
  test::for_each_nested_schedule(4, 4, go);
  test::for_each_schedule_of_three_levels(2, 2, 3, go);
}

TEST_CASE("more ranks", "[comm][executor]") {
  for (const int ranks : {15, 16, 17, 33})
    test::for_each_flat_schedule(ranks, [&](const std::string& what, const schedule_view& s) {
      if (s.root == 0) moves_and_sums(what, s, 61, {seed + std::uint64_t(ranks), 300, false}, 2, false);
    });
}

TEST_CASE("ragged parts, and blocks of any length", "[comm][executor]") {
  for (const int p : {1, 2, 3, 5}) {
    std::minstd_rand g(seed + unsigned(p));
    std::vector<std::int64_t> offsets(std::size_t(p) + 1);
    for (int r = 0; r < p; ++r) offsets[r + 1] = offsets[r] + (r % 3 == 1 ? 0 : std::int64_t(g() % 9));
    const auto go = [&](const std::string& what, const schedule_view& s) {
      if (s.parts != p || s.kind == collective::all_to_all) return;
      CAPTURE(what, p);
      test::group<sum<std::int64_t>> group(s, offsets[p], {.offsets = offsets.data()});
      fill(group, mark);
      REQUIRE(group.run());
      for (int r = 0; r < p; ++r) {
        const std::int64_t first = group.cut.offset(s.output(r).first);
        for (std::int64_t i = 0; i < group.made(r); ++i) REQUIRE(group.out(r)[i] == expected(s, group.cut, r, first + i));
      }
    };
    test::for_each_flat_schedule(p, go);
    for (const bool at_once : {true, false}) {   // alltoallv: rank s sends lengths[s][d] items to rank d
      const direct all(p, collective::all_to_all);
      const pairwise pairs(p);
      const schedule_view s = at_once ? schedule_view(all) : schedule_view(pairs);
      std::vector<std::vector<std::int64_t>> lengths(p, std::vector<std::int64_t>(p)), in(p), out(p), from(p), to(p);
      for (auto& row : lengths)
        for (auto& n : row) n = std::int64_t(g() % 5);
      in_process net(p, {seed, 200});
      std::vector<in_process::endpoint> ends;
      std::vector<execution<sum<std::int64_t>, in_process::endpoint>> runs;
      std::vector<test::scratch> memories;
      for (int r = 0; r < p; ++r) ends.push_back(net.rank(r));
      for (int r = 0; r < p; ++r) {
        in[r].assign(1, 0), out[r].assign(1, 0);
        for (int q = 0; q < p; ++q) in[r].push_back(in[r].back() + lengths[r][q]), out[r].push_back(out[r].back() + lengths[q][r]);
        for (std::int64_t i = 0; i < in[r].back(); ++i) from[r].push_back(mark(r, i));
        to[r].assign(std::size_t(out[r].back()), -1);
        runs.emplace_back(ends[r]);
        const arguments<sum<std::int64_t>> x{.input = from[r].data(), .output = to[r].data(), .items = in[r].back(), .offsets = in[r].data(), .output_offsets = out[r].data()};
        memories.emplace_back(runs[r].workspace_bytes(s, x));
        REQUIRE(runs[r].start(s, x, memories.back().get()));
      }
      REQUIRE(run_together(net, runs));
      for (int r = 0; r < p; ++r) {
        REQUIRE(runs[r].failure());
        for (int q = 0; q < p; ++q)
          for (std::int64_t i = 0; i < lengths[q][r]; ++i) REQUIRE(to[r][std::size_t(out[r][q] + i)] == mark(q, in[q][r] + i));
      }
    }
  }
}

namespace {

// All-reduce of floats that every order of additions rounds differently; the bits of all ranks.
template <class T> std::vector<T> bits_of(const schedule_view& s, std::int64_t items, std::int64_t first, in_process_options o, int depth, std::int64_t unit = 1) {
  test::group<sum<T>> g(s, items, {.unit = unit, .depth = depth}, o);
  fill(g, [&](int r, std::int64_t i) {
    std::minstd_rand random(unsigned(r * 7919 + (first + i) * 104729 + 1));
    random(), random();
    const float x = float(int(random() >> 8) % 20001 - 10000) * (random() % 3 == 0 ? 1e-3f : 1.0f);
    if constexpr (std::is_same_v<T, float>) return x;
    else return narrow<T>(x * 1e-2f);
  });
  REQUIRE(g.run());
  std::vector<T> out(g.out(0), g.out(0) + g.made(0));
  for (int r = 1; r < s.ranks; ++r) REQUIRE(std::memcmp(g.out(r), out.data(), out.size() * sizeof(T)) == 0);   // all ranks agree
  return out;
}
template <class T> bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace

TEST_CASE("bits: ranks agree, runs repeat, and partition-invariant orders do not see the partition", "[comm][executor][bits]") {
  bool ring_sees_it = false;
  const auto go = [&](const std::string& what, const schedule_view& s) {
    if (s.kind != collective::all_reduce) return;
    CAPTURE(what, seed);
    const std::int64_t n = 53;
    const auto whole = bits_of<float>(s, n, 0, {1}, 2);
    for (const std::uint64_t order : {2, 3}) REQUIRE(same(whole, bits_of<float>(s, n, 0, {order, nanoseconds(order * 500), order == 3}, int(order))));
    // The same vector in two buckets, and cut in units of 4 items.
    std::vector<float> buckets = bits_of<float>(s, 19, 0, {4}, 2);
    const auto rest = bits_of<float>(s, n - 19, 19, {5}, 1);
    buckets.insert(buckets.end(), rest.begin(), rest.end());
    const bool blind = same(whole, buckets) && same(whole, bits_of<float>(s, n, 0, {6}, 2, 4));
    if (s.promise().invariant().partition) REQUIRE(blind);
    ring_sees_it |= !blind && s.promise().order == combine_order::by_chunk;
    // A left fold by rank, written out.
    if (s.promise().order == combine_order::rank_fold) {
      test::group<sum<float>> g(s, n);
      fill(g, [](int r, std::int64_t i) { return float(std::sin(double(r * 100 + i)) * 1e3); });
      REQUIRE(g.run());
      for (std::int64_t i = 0; i < n; ++i) {
        float fold = g.in(0)[i];
        for (int r = 1; r < s.ranks; ++r) fold += g.in(r)[i];
        REQUIRE(float_bits(fold) == float_bits(g.out(0)[i]));
      }
    }
  };
  for (const int ranks : {1, 2, 3, 5, 8}) test::for_each_flat_schedule(ranks, go);
  test::for_each_nested_schedule(2, 3, go);
  CHECK(ring_sees_it);   // else this test could not tell
  // Trees of the ranks alone: the same bits from different schedules.
  for (const int p : {2, 4, 8, 16}) {
    CHECK(same(bits_of<float>(schedule_view(recursive_doubling(p)), 40, 0, {1}, 2), bits_of<float>(schedule_view(direct(p, collective::all_reduce, combine_order::rank_tree)), 40, 0, {2}, 2)));
    CHECK(same(bits_of<float>(schedule_view(star(p)), 40, 0, {1}, 2), bits_of<float>(schedule_view(direct(p)), 40, 0, {2}, 2)));
  }
}

TEST_CASE("reduce-scatter, then all-gather, is all-reduce to the bit", "[comm][executor][bits]") {
  for (const int p : {1, 2, 3, 5}) {
    const std::int64_t n = 41;
    const auto value = [](int r, std::int64_t i) { return float(std::cos(double(r * 31 + i)) * 1e4); };
    const ring whole(p), half(p, collective::reduce_scatter), rest(p, collective::all_gather);
    test::group<sum<float>> a{schedule_view(whole), n}, b{schedule_view(half), n}, c{schedule_view(rest), n};
    fill(a, value), fill(b, value);
    REQUIRE(a.run());
    REQUIRE(b.run());
    for (int r = 0; r < p; ++r) std::copy(b.out(r), b.out(r) + b.made(r), c.in(r));
    REQUIRE(c.run());
    for (int r = 0; r < p; ++r) REQUIRE(std::memcmp(a.out(r), c.out(r), n * sizeof(float)) == 0);
  }
}

TEST_CASE("16-bit items are rounded once, whatever the schedule and the number of ranks", "[comm][executor]") {
  for (const int p : {2, 7, 16, 33})
    for (const auto& run : {bits_of<bf16>(schedule_view(ring(p)), 45, 0, {1}, 2), bits_of<bf16>(schedule_view(direct(p)), 45, 0, {2}, 2),
                            bits_of<bf16>(schedule_view(halving_doubling(p)), 45, 0, {3}, 2), bits_of<bf16>(schedule_view(double_binary_tree(p)), 45, 0, {4}, 2),
                            bits_of<bf16>(schedule_view(recursive_doubling(p)), 45, 0, {5}, 2)}) {
      for (std::int64_t i = 0; i < 45; ++i) {
        double sum = 0, size = 0;
        for (int r = 0; r < p; ++r) {
          std::minstd_rand random(unsigned(r * 7919 + i * 104729 + 1));
          random(), random();
          const float x = float(int(random() >> 8) % 20001 - 10000) * (random() % 3 == 0 ? 1e-3f : 1.0f);
          const double v = to_float(narrow<bf16>(x * 1e-2f));
          sum += v, size += std::abs(v);
        }
        // p - 1 additions in float and one rounding to 8 bits.
        REQUIRE(std::abs(to_float(run[std::size_t(i)]) - sum) <= (p - 1) * 0x1p-24 * size + 0x1p-8 * std::abs(sum) + 1e-30);
      }
    }
}

TEST_CASE("average, greatest and attention partials over ranks", "[comm][executor]") {
  for (const int p : {1, 3, 4, 6}) {
    const ring around_all(p);
    const direct at_once(p);
    const recursive_doubling doubling(p);
    const auto inside = nvrar(p, 2);
    for (const schedule_view& s : {schedule_view(around_all), schedule_view(at_once), schedule_view(doubling), schedule_view(inside)}) {
      CAPTURE(p, s.ranks, s.steps());
      const int ranks = s.ranks;
      test::group<average<bf16>> mean(s, 19);
      fill(mean, [](int r, std::int64_t i) { return narrow<bf16>(float((r * 5 + i) % 9)); });
      REQUIRE(mean.run());
      for (std::int64_t i = 0; i < 19; ++i) {
        float sum = 0;
        for (int r = 0; r < ranks; ++r) sum += float((r * 5 + i) % 9);
        REQUIRE(mean.out(ranks - 1)[i] == narrow<bf16>(sum / float(ranks)));
      }
      test::group<comm::greatest<float>> most(s, 19);
      fill(most, [](int r, std::int64_t i) { return i == 3 && r == 0 ? std::nanf("") : i == 4 ? -0.0f : float(int(r * 7 + i) % 5 - 9); });
      REQUIRE(most.run());
      for (int r = 0; r < ranks; ++r) {
        REQUIRE(float_bits(most.out(r)[3]) == 0x7fc00000u);      // one rank's NaN, on every rank
        REQUIRE(float_bits(most.out(r)[4]) == float_bits(-0.0f));
      }
      constexpr int d = 3;
      test::group<comm::lse_merge<policy::lse_e>> merge(s, 10, {.combine = comm::lse_merge<policy::lse_e>::of(d)});
      std::vector<std::vector<std::vector<double>>> rows(10);
      for (int r = 0; r < ranks; ++r) {
        const std::int64_t first = merge.cut.offset(s.input(r).first);
        for (std::int64_t i = 0; i < merge.held(r); ++i) {
          float* row = merge.in(r) + i * (d + 1);
          for (int k = 0; k < d; ++k) row[k] = float(std::sin(double(r + 3 * i + k)));
          row[d] = (first + i) == 7 || (r + i) % 4 == 1 ? -HUGE_VALF : float(int(r * 3 + i) % 11 - 5);
          rows[std::size_t(first + i)].emplace_back(row, row + d + 1);
        }
      }
      REQUIRE(merge.run());
      for (int i = 0; i < 10; ++i) {
        const auto want = oracle::merged(rows[i]);
        const float* got = merge.out(ranks - 1) + i * (d + 1);
        for (int k = 0; k <= d; ++k) {
          if (want[d] == -HUGE_VAL && ranks > 1) REQUIRE(got[k] == (k == d ? -HUGE_VALF : 0.0f));
          else if (want[d] != -HUGE_VAL) REQUIRE(std::abs(got[k] - want[k]) <= (18 * ranks + 30) * 0x1p-24 * 12);
        }
      }
    }
  }
}

namespace {

// Composition of the maps x -> a x + b modulo 2^32: associative and not commutative, so that a wrong side shows.
struct composition {
  using element = std::uint32_t;
  using accumulator = std::uint32_t;
  static constexpr int width = 2;
  static void lift(std::uint32_t* a, const std::uint32_t* x, std::int64_t n) { std::memcpy(a, x, std::size_t(n) * 8); }
  static void merge(std::uint32_t* a, const std::uint32_t* l, const std::uint32_t* r, std::int64_t n) {
    for (std::int64_t i = 0; i < 2 * n; i += 2) {
      const std::uint32_t slope = l[i] * r[i], constant = l[i] * r[i + 1] + l[i + 1];
      a[i] = slope, a[i + 1] = constant;
    }
  }
  static void finish(std::uint32_t* x, const std::uint32_t* a, std::int64_t n, int) { lift(x, a, n); }
  static constexpr std::uint32_t code() { return 77u << 8; }
};

}  // namespace

TEST_CASE("operands stand on the side that the schedule says", "[comm][executor]") {
  const auto ordered = [](const schedule_view& s) {
    CAPTURE(s.ranks, s.steps(), s.root);
    test::group<composition> g(s, 9, {}, {seed, 100});
    const auto slope = [](int r, std::int64_t i) { return std::uint32_t(2 * (r * 31 + i) + 3); };
    for (int r = 0; r < s.ranks; ++r)
      for (std::int64_t i = 0; i < 9; ++i) g.in(r)[2 * i] = slope(r, i), g.in(r)[2 * i + 1] = std::uint32_t(r + 7 * i + 1);
    REQUIRE(g.run());
    for (std::int64_t i = 0; i < 9; ++i) {
      std::uint32_t a = 1, b = 0;     // the identity, then rank 0, rank 1, ...
      for (int r = 0; r < s.ranks; ++r) b = a * std::uint32_t(r + 7 * i + 1) + b, a = a * slope(r, i);
      for (int r = 0; r < s.ranks; ++r) {
        REQUIRE(g.out(r)[2 * i] == a);
        REQUIRE(g.out(r)[2 * i + 1] == b);
      }
    }
  };
  for (const int p : {1, 2, 3, 5, 8, 11}) {
    const direct fold(p), tree(p, collective::all_reduce, combine_order::rank_tree);
    const star a(p), b(p, collective::all_reduce, p - 1);
    const recursive_doubling c(p);
    const binary_tree d(p);
    const auto e = nvrar(3, p);
    for (const schedule_view& s : {schedule_view(fold), schedule_view(tree), schedule_view(a), schedule_view(b), schedule_view(c), schedule_view(d), schedule_view(e)}) ordered(s);
  }
}

TEST_CASE("an execution may be moved while it is under way", "[comm][executor]") {
  constexpr int p = 3;
  using run = execution<sum<std::int64_t>, in_process::endpoint>;
  const ring s(p);
  in_process net(p, {seed, 500});
  std::vector<in_process::endpoint> ends;
  for (int r = 0; r < p; ++r) ends.push_back(net.rank(r));
  std::vector<run> runs;
  std::vector<std::vector<std::int64_t>> in(p), out(p, std::vector<std::int64_t>(7));
  std::vector<test::scratch> memories;
  for (int r = 0; r < p; ++r) {
    for (int i = 0; i < 7; ++i) in[r].push_back(mark(r, i));
    run begun(ends[r]);
    const arguments<sum<std::int64_t>> x{.input = in[r].data(), .output = out[r].data(), .items = 7};
    memories.emplace_back(begun.workspace_bytes(s, x));
    REQUIRE(begun.start(s, x, memories.back().get()));
    runs.push_back(std::move(begun));
    begun = run(ends[r]);   // what it was moved from is nobody's: another operation may begin there
  }
  REQUIRE(run_together(net, runs));
  for (int r = 0; r < p; ++r)
    for (int i = 0; i < 7; ++i) REQUIRE(out[r][i] == mark(0, i) + mark(1, i) + mark(2, i));
}

TEST_CASE("many operations in flight together, of changing sizes, over and over", "[comm][executor]") {
  constexpr int p = 4, together = 3, rounds = 120;
  const ring a(p);
  const direct b(p);
  const auto c = nvrar(2, 2);
  const schedule_view schedules[together] = {schedule_view(a), schedule_view(b), schedule_view(c)};
  in_process net(p, {seed, 900});
  std::vector<in_process::endpoint> ends;
  for (int r = 0; r < p; ++r) ends.push_back(net.rank(r));
  using run = execution<sum<std::int64_t>, in_process::endpoint>;
  for (int round = 0; round < rounds; ++round) {
    std::vector<run> runs;
    std::vector<std::vector<std::int64_t>> in, out;
    std::vector<test::scratch> memories;
    std::vector<schedule_view> of;
    for (int k = 0; k < together; ++k)
      for (int r = 0; r < p; ++r) {
        const std::int64_t n = (round * 13 + k * 7) % 50;
        in.emplace_back(std::size_t(n)), out.emplace_back(std::size_t(n));
        for (std::int64_t i = 0; i < n; ++i) in.back()[std::size_t(i)] = mark(r, i) + round * 17 + k;
      }
    for (int k = 0; k < together; ++k)
      for (int r = 0; r < p; ++r) runs.emplace_back(ends[r]);
    for (int k = 0; k < together; ++k)
      for (int r = 0; r < p; ++r) {
        const std::size_t e = std::size_t(k * p + r);
        const arguments<sum<std::int64_t>> x{.input = in[e].data(), .output = out[e].data(), .items = std::int64_t(in[e].size()), .operation = std::uint32_t(round * together + k), .agree = round % 2 == 0};
        memories.emplace_back(runs[e].workspace_bytes(schedules[k], x));
        REQUIRE(runs[e].start(schedules[k], x, memories.back().get()));
      }
    // All of them, in drawn order.
    for (int left = together * p; left > 0;) {
      left = 0;
      for (auto& e : runs) left += net.draw() % 2 == 0 || e.advance() == progress::blocked;
      if (left > 0) net.wait(net.now() + 100);
    }
    for (int k = 0; k < together; ++k)
      for (int r = 0; r < p; ++r) {
        const std::size_t e = std::size_t(k * p + r);
        REQUIRE(runs[e].failure());
        for (std::int64_t i = 0; i < std::int64_t(in[e].size()); ++i) {
          std::int64_t want = 0;
          for (int q = 0; q < p; ++q) want += mark(q, i) + round * 17 + k;
          REQUIRE(out[e][std::size_t(i)] == want);
        }
      }
  }
}

namespace {

// A wire that rounds to steps of 1/8 and counts how often: for the rule that a result is encoded once.
struct coarse {
  static constexpr bool plain = false, exact = false;
  int* encoded = nullptr;
  std::uint32_t code() const { return 8; }
  std::int64_t bytes(content, std::int64_t n) const { return n * 2 + 1; }
  void encode(content what, std::int64_t, const float* x, std::int64_t n, std::byte* to) {
    if (encoded != nullptr && what == content::result) ++*encoded;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int16_t q = std::int16_t(std::lround(x[i] * 8));
      std::memcpy(to + 2 * i, &q, 2);
    }
    to[2 * n] = std::byte(what);
  }
  void decode(content what, std::int64_t, const std::byte* from, std::int64_t n, float* y) {
    if (from[2 * n] != std::byte(what)) y[0] = std::nanf("");
    // Not the inverse of encode to the bit: encoding again would drift.
    for (std::int64_t i = 0; i < n; ++i) {
      std::int16_t q;
      std::memcpy(&q, from + 2 * i, 2);
      y[i] = float(q) / 8 + 0.06f;
    }
  }
};

}  // namespace

TEST_CASE("over a lossy wire ranks still agree, and a result is encoded once", "[comm][executor]") {
  for (const int p : {1, 2, 3, 5, 8}) {
    const ring a(p), gather(p, collective::all_gather);
    const direct b(p);
    const halving_doubling c(p);
    const double_binary_tree d(p, collective::all_reduce, 2);
    for (const schedule_view& s : {schedule_view(a), schedule_view(b), schedule_view(c), schedule_view(d), schedule_view(gather)}) {
      CAPTURE(p, name(s.kind), s.steps());
      int encoded = 0;
      test::group<sum<float>, coarse> g(s, 29, {}, {seed, 100}, false, 0, coarse{&encoded});
      fill(g, [](int r, std::int64_t i) { return float((r * 13 + i * 5) % 23) * 0.31f; });
      const status st = g.run();
      INFO(st.what);
      REQUIRE(st);
      REQUIRE(g.intact());
      for (int r = 1; r < p; ++r) REQUIRE(std::memcmp(g.out(0), g.out(r), 29 * sizeof(float)) == 0);
      if (reduces(s.kind)) {
        int chunks = 0;
        for (int k = 0; k < s.chunks(); ++k) chunks += g.cut.length(k) > 0;
        CHECK(encoded == chunks);
      }
    }
  }
  // Several ranks form each sum of a recursive doubling: refused.
  const recursive_doubling s(4);
  test::group<sum<float>, coarse> g(schedule_view(s), 8);
  CHECK(g.start().code == errc::bad_value);
}

TEST_CASE("what check refuses", "[comm][executor]") {
  in_process net(3);
  auto end = net.rank(1);
  execution<sum<float>, in_process::endpoint> e(end);
  std::vector<float> in(64), out(64);
  using args = arguments<sum<float>>;
  const args good{.input = in.data(), .output = out.data(), .items = 12};
  const auto code = [&](const auto& s, const args& x) {
    const status st = e.check(s, x);
    CHECK(e.start(s, x, {}) == (st ? check_workspace({}, e.workspace_bytes(s, x)) : st));
    return st.code;
  };
  const auto with = [&](auto change) {
    args x = good;
    change(x);
    return x;
  };
  CHECK(code(ring(3), good) == errc::ok);
  CHECK(code(ring(4), good) == errc::bad_shape);
  CHECK(code(ring(3, collective::gather), good) == errc::bad_value);
  CHECK(code(ring(3), with([](args& x) { x.items = -1; })) == errc::bad_shape);
  CHECK(code(ring(3), with([](args& x) { x.depth = 0; })) == errc::bad_value);
  CHECK(code(ring(3), with([](args& x) { x.timeout = -1; })) == errc::bad_value);
  CHECK(code(ring(3), with([](args& x) { x.unit = 0; })) == errc::bad_value);
  CHECK(code(ring(3), with([](args& x) { x.input = nullptr; })) == errc::null_pointer);
  CHECK(code(ring(3), with([](args& x) { x.output = nullptr; })) == errc::null_pointer);
  CHECK(code(ring(3), with([](args& x) { x.items = 0, x.output = nullptr, x.input = nullptr; })) == errc::ok);
  CHECK(code(ring(3), with([&](args& x) { x.output = in.data(); })) == errc::ok);
  CHECK(code(ring(3), with([&](args& x) { x.output = in.data() + 1; })) == errc::aliased);
  CHECK(code(pairwise(3), with([&](args& x) { x.output = in.data(); })) == errc::aliased);
  CHECK(code(ring(3, collective::reduce_scatter), with([&](args& x) { x.output = in.data(); })) == errc::aliased);
  CHECK(code(ring(3, collective::reduce_scatter), with([&](args& x) { x.output = in.data() + 4; })) == errc::ok);
  CHECK(code(pairwise(3), with([](args& x) { x.items = 13; })) == errc::bad_shape);
  const std::int64_t parts[] = {0, 5, 5, 12}, wrong[] = {0, 5, 4, 12};
  CHECK(code(ring(3), with([&](args& x) { x.offsets = parts; })) == errc::ok);
  CHECK(code(ring(3), with([&](args& x) { x.offsets = wrong; })) == errc::bad_value);
  CHECK(code(ring(3), with([&](args& x) { x.offsets = parts, x.output_offsets = parts; })) == errc::bad_value);
  CHECK(code(pairwise(3), with([&](args& x) { x.offsets = parts; })) == errc::bad_value);
  CHECK(code(pairwise(3), with([&](args& x) { x.offsets = parts, x.output_offsets = wrong; })) == errc::bad_value);
  CHECK(code(bruck(3, collective::all_to_all), with([&](args& x) { x.offsets = parts, x.output_offsets = parts; })) == errc::bad_value);
  execution<bytes, in_process::endpoint> mover(end);
  std::vector<std::byte> a(64), b(64);
  CHECK(mover.check(ring(3), {.input = a.data(), .output = b.data(), .items = 3}).code == errc::bad_value);
  CHECK(mover.check(ring(3, collective::all_gather), {.input = a.data(), .output = b.data(), .items = 3}));
  CHECK(mover.check(ring(3, collective::all_gather), {.input = a.data(), .output = b.data(), .items = 3, .combine = {0}}).code == errc::bad_value);
}
