// Allocators of a cache budget: whole numbers that conserve the total, against the definitions in double; schedules and phases.
#include <catch2/catch.hpp>
#include <map>
#include <numeric>
#include <random>
#include <vector>
#include <smalti/policy/cache/allocator.hpp>
#include <smalti/policy/cache/borrow.hpp>
#include <smalti/policy/cache/disposition.hpp>
#include <smalti/policy/cache/replacement.hpp>
#include "reference/kv_compress.hpp"

using namespace smalti;

namespace {

constexpr unsigned seed = 20261124;

struct demand {
  std::vector<int> candidates, lengths, won, caps, out;
  std::vector<float> scores;
  std::vector<double> weights;
  policy::cache_demand d;
  demand(int layers, int heads, int base, int n)
      : candidates(std::size_t(layers) * heads, n), lengths(candidates.size(), n + 6), won(candidates.size()), caps(2 * std::size_t(layers)), out(candidates.size(), -1),
        scores(candidates.size() * std::size_t(n + 9), NAN), weights(2 * candidates.size()) {
    d = {.layers = layers, .heads = heads, .base = base, .candidates = candidates.data(), .lengths = lengths.data(), .scores = scores.data(), .score_stride = n + 9, .won = won.data(), .weights = weights.data(), .caps = caps.data()};
  }
  std::vector<oracle::row_of_doubles> rows_of(int layer) const {
    std::vector<oracle::row_of_doubles> r;
    for (int h = 0; h < d.heads; ++h) {
      const float* first = scores.data() + (layer * d.heads + h) * d.score_stride;
      r.emplace_back(first, first + lengths[std::size_t(layer * d.heads + h)]);
    }
    return r;
  }
  template <class A> const std::vector<int>& ask(const A& a) {
    if constexpr (A::competes) a.before(d, out.data());
    a.budgets(d, out.data());
    return out;
  }
  int sum() const { return std::accumulate(out.begin(), out.end(), 0); }
};

}  // namespace

TEST_CASE("apportion divides a total by largest remainders under caps", "[policy][cache]") {
  std::mt19937 g(seed);
  for (int round = 0; round < 3000; ++round) {
    const int n = 1 + int(g() % 9);
    std::vector<double> w;
    std::vector<int> caps, out(static_cast<std::size_t>(n), -7);
    for (int i = 0; i < n; ++i) {
      w.push_back(g() % 4 == 0 ? 0 : g() % 3 == 0 ? double(1 + g() % 5) : double(g()) / 1e7);
      caps.push_back(int(g() % (g() % 2 ? 5 : 400)));
    }
    const long long total = g() % 500, room = std::accumulate(caps.begin(), caps.end(), 0ll);
    CAPTURE(seed, round, n, total, w, caps);
    policy::apportion(w.data(), caps.data(), n, total, out.data());
    REQUIRE(out == oracle::shares(w, caps, total));
    REQUIRE(std::accumulate(out.begin(), out.end(), 0ll) == std::min(total, room));
    for (int i = 0; i < n; ++i) {
      REQUIRE((out[std::size_t(i)] >= 0 && out[std::size_t(i)] <= caps[std::size_t(i)]));
      for (int j = 0; j < i; ++j)
        if (w[std::size_t(i)] >= w[std::size_t(j)] && caps[std::size_t(i)] > out[std::size_t(i)]) REQUIRE(out[std::size_t(i)] + 1 >= out[std::size_t(j)]);
    }
  }
  const double odd[] = {NAN, -3, INFINITY, 1};                    // what is no weight is nothing, what is too much is much
  const int caps[] = {9, 9, 4, 9};
  int out[4];
  policy::apportion(odd, caps, 4, 10, out);
  REQUIRE((out[2] == 4 && out[3] == 6 && out[0] == 0 && out[1] == 0));
  policy::apportion(odd, caps, 4, -5, out);
  REQUIRE((out[0] == 0 && out[1] == 0 && out[2] == 0 && out[3] == 0));
}

TEST_CASE("allocators conserve the total and follow their papers", "[policy][cache]") {
  std::mt19937 g(seed);
  std::normal_distribution<float> normal(0, 1);
  for (const int layers : {1, 2, 5, 32})
    for (const int heads : {1, 3})
      for (const int base : {0, 1, 7, 50, 90, 120}) {
        const int n = 100;
        CAPTURE(seed, layers, heads, base);
        demand d(layers, heads, base, n);
        for (int t = 0; t < layers * heads; ++t)
          for (int j = 0; j < n + 6; ++j) d.scores[std::size_t(t) * (n + 9) + j] = std::abs(normal(g)) * float(1 + t % 3) * (j % (5 + t / heads) == 0 ? 4.0f : 1.0f);
        const int total = std::min(base, n) * layers * heads;

        d.ask(policy::uniform{});
        for (const int b : d.out) REQUIRE(b == std::min(base, n));

        const std::vector<int> line = d.ask(policy::pyramid{});
        REQUIRE(d.sum() == total);
        for (int t = 0; t < layers * heads; ++t) {
          REQUIRE((line[std::size_t(t)] >= 0 && line[std::size_t(t)] <= n));
          REQUIRE(line[std::size_t(t)] <= line[std::size_t(t / heads > 0 ? t - heads : t)]);       // never more in a higher layer
        }
        d.ask(policy::pyramid{.beta = 1});
        for (const int b : d.out) REQUIRE(std::abs(b - std::min(base, n)) == 0);

        const policy::variance_softmax all{.exempt_first = 0, .exempt_last = 0};
        d.ask(all);
        REQUIRE(d.sum() == total);
        std::vector<double> w;
        double sum = 0;
        for (int l = 0; l < layers; ++l) w.push_back(std::exp(-oracle::concentration(d.rows_of(l)))), sum += w.back();
        for (double& x : w) x /= sum;
        const std::vector<int> want = oracle::shares(w, std::vector<int>(std::size_t(layers), n), static_cast<long long>(base) * layers);
        for (int t = 0; t < layers * heads; ++t) REQUIRE(d.out[std::size_t(t)] == want[std::size_t(t / heads)]);
        for (int a = 0; a < layers; ++a)
          for (int b = 0; b < layers; ++b)
            if (want[std::size_t(a)] < n && want[std::size_t(b)] < n) REQUIRE(want[std::size_t(a)] <= 2.71829 * want[std::size_t(b)] + 4);     // f lies in [0, 1]
        d.ask(policy::variance_softmax{});
        for (int t = 0; t < layers * heads; ++t)
          if (t / heads < 2 || t / heads >= layers - 1) REQUIRE(d.out[std::size_t(t)] == n);

        d.ask(policy::information_density{});
        REQUIRE(d.sum() == total);
        if (base > 0)
          for (const int b : d.out) REQUIRE(b >= 1);
        const double before = policy::information_density{}.density(d.d, 0);
        for (float& s : d.scores) s += 3;
        REQUIRE((before >= 0 && before <= 1));
        REQUIRE(policy::information_density{}.density(d.d, 0) == Approx(before).margin(1e-5));
        const double scaled = policy::information_density{.scale = 0.125f}.density(d.d, 0);
        for (float& s : d.scores) s *= 0.125f;
        REQUIRE(policy::information_density{}.density(d.d, 0) == Approx(scaled).margin(1e-5));

        for (const double floor : {0.0, 0.2, 1.0}) {
          std::fill(d.won.begin(), d.won.end(), 0);
          const int mine = std::min(base, n);
          for (int l = 0; l < layers; ++l)
            for (int i = 0; i < heads * mine; ++i) {
              int h = int(g() % unsigned(heads + 2)) % heads;
              while (d.won[std::size_t(l * heads + h)] == n) h = (h + 1) % heads;
              ++d.won[std::size_t(l * heads + h)];
            }
          d.ask(policy::head_adaptive<>{.floor = floor});
          REQUIRE(d.sum() == total);
          for (int t = 0; t < layers * heads; ++t) {
            REQUIRE(d.out[std::size_t(t)] >= int(floor * mine));
            REQUIRE(std::abs(d.out[std::size_t(t)] - ((1 - floor) * d.won[std::size_t(t)] + floor * mine)) < 1);
          }
        }
      }
  // A line by hand: base 22, beta 20: 42.9, 22, 1.1.
  demand d(3, 1, 22, 100);
  REQUIRE(d.ask(policy::pyramid{}) == std::vector<int>{43, 22, 1});
  // Flat attention gets more: one layer's scores are all alike, another's heads differ.
  demand flat(2, 2, 30, 100);
  for (std::size_t i = 0; i < flat.scores.size(); ++i) flat.scores[i] = i < 2 * 109 ? 1.0f : i < 3 * 109 ? 1.0f : float(i % 7 == 0 ? 90 : 0);
  flat.ask(policy::variance_softmax{.exempt_first = 0, .exempt_last = 0});
  REQUIRE(flat.out[0] == flat.out[1]);
  REQUIRE(flat.out[0] > flat.out[2]);
  for (std::size_t i = 0; i < flat.scores.size(); ++i) flat.scores[i] = i < 2 * 109 ? 1.0f : float(i % 109 == 3 ? 90 : 0);
  flat.ask(policy::information_density{});
  REQUIRE(flat.out[0] > flat.out[2]);
}

TEST_CASE("allocators refuse numbers that mean nothing", "[policy][cache]") {
  REQUIRE(policy::pyramid{.beta = 0}.check().code == errc::bad_value);
  REQUIRE(policy::variance_softmax{.exempt_first = -1}.check().code == errc::bad_value);
  REQUIRE(policy::information_density{.scale = 0}.check().code == errc::bad_value);
  REQUIRE(policy::head_adaptive<>{.floor = 1.5}.check().code == errc::bad_value);
  REQUIRE(policy::head_adaptive<policy::pyramid>{.layers = {.beta = 0}}.check().code == errc::bad_value);
}

TEST_CASE("schedules of cache compression", "[policy][cache]") {
  REQUIRE((policy::once_after_prefill{}.due({0, 9, 4}) && !policy::once_after_prefill{}.due({1, 9, 4})));
  REQUIRE(policy::every_step{}.due({5, 9, 4}));
  const policy::every four{4};
  REQUIRE((four.due({0, 9, 4}) && !four.due({3, 9, 4}) && four.due({8, 9, 4})));
  REQUIRE((policy::on_residual_full{8}.due({0, 9, 4}) && !policy::on_residual_full{8}.due({1, 9, 4}) && policy::on_residual_full{8}.due({7, 16, 4})));
  static_assert(policy::cache_schedule<policy::every> && policy::cache_schedule<policy::on_residual_full> && policy::cache_schedule<policy::once_after_prefill>);
  REQUIRE((policy::on_page_full{}.due({0, 9, 4}) && !policy::on_page_full{}.due({1, 9, 4}) && policy::on_page_full{}.due({3, 12, 4})));
}

TEST_CASE("evicted keys have equal phases for equal relative places, whatever the policy", "[policy][cache][position]") {
  // Of `before` tokens some stay, twice; then a query comes. Differences of its phase and theirs are differences of ranks.
  std::mt19937 g(seed);
  for (int round = 0; round < 200; ++round) {
    const int before = 5 + int(g() % 40);
    std::vector<int> at(static_cast<std::size_t>(before));              // stored phase of each key
    std::iota(at.begin(), at.end(), 0);
    std::vector<int> other = at;
    int seen = before;
    for (int again = 0; again < 2; ++again) {
      std::vector<int> kept;
      const int n = int(at.size());
      for (int j = 0; j < n; ++j)
        if (g() % 2 || j == 0) kept.push_back(j);
      const int evicted = n - int(kept.size());
      std::vector<int> next, next_other;
      for (int r = 0; r < int(kept.size()); ++r) {
        next.push_back(at[std::size_t(kept[std::size_t(r)])] + policy::key_correction(policy::compact{}, kept[std::size_t(r)], r));
        next_other.push_back(other[std::size_t(kept[std::size_t(r)])] + policy::key_correction(policy::close_ranks{evicted}, kept[std::size_t(r)], r));
      }
      at = next, other = next_other;
      const int rank = int(at.size());
      CAPTURE(seed, round, again, rank);
      for (int r = 0; r < rank; ++r) {
        REQUIRE(policy::compact{}.query_phase(seen, rank) - at[std::size_t(r)] == rank - r);
        REQUIRE(policy::close_ranks{}.query_phase(seen, rank) - other[std::size_t(r)] == rank - r);
      }
      at.push_back(rank), other.push_back(seen), ++seen;                  // the query's own key
    }
  }
}

namespace {

// The definition of one rule, as maps of keys: what leaves, when.
struct oracle_cache {
  struct entry { double worth; long long since, bytes, hits, last; double cost; };
  std::map<long long, entry> in;
  long long used = 0, capacity;
  int places;
  double clock = 0;
  template <class Worth> std::vector<long long> ask(long long key, long long bytes, double cost, long long now, bool ages, Worth worth, bool& hit) {
    std::vector<long long> left;
    hit = in.count(key) != 0;
    if (hit) {
      entry& e = in[key];
      ++e.hits, e.last = now;
      e.worth = std::max(e.worth, worth(e.hits, e.cost, e.bytes, e.last, clock));
      return left;
    }
    if (bytes > capacity) return left;
    while (used + bytes > capacity || int(in.size()) == places) {
      auto least = in.begin();
      for (auto i = in.begin(); i != in.end(); ++i)
        if (std::make_pair(i->second.worth, i->second.since) < std::make_pair(least->second.worth, least->second.since)) least = i;
      if (ages) clock = std::max(clock, least->second.worth);
      used -= least->second.bytes;
      left.push_back(least->first);
      in.erase(least);
    }
    in[key] = {worth(1, cost, bytes, now, clock), now, bytes, 1, now, cost};
    used += bytes;
    return left;
  }
};

template <class Rule, class Worth> double trace(Worth worth, bool unit) {
  std::mt19937 g(seed);
  std::vector<policy::cached_entry> entries(12);
  policy::replacement_cache<Rule> c{.entries = entries.data(), .places = 12, .capacity = unit ? 12 : 60};
  oracle_cache is{.in = {}, .capacity = c.capacity, .places = 12};
  double clock = 0;
  for (int step = 1; step < 4000; ++step) {
    const double u = double(g() % 100000 + 1) / 100001;
    const long long key = static_cast<long long>(40 * u * u * u), bytes = unit ? 1 : 1 + key % 9 * (key % 13 == 5 ? 9 : 1);      // one is larger than the cache
    const double cost = unit ? 1 : 1 + double(key * 7 % 20);
    std::vector<long long> left;
    const int place = c.find(key);
    const double before = place >= 0 ? entries[std::size_t(place)].worth : 0;
    bool hit = false;
    const auto a = c.request(key, bytes, cost, [&](std::int64_t k, int) { left.push_back(k); });
    CAPTURE(seed, step, key);
    REQUIRE(left == is.ask(key, bytes, cost, step, Rule::ages, worth, hit));
    REQUIRE(a.why.code == errc::ok);
    REQUIRE(hit == (a.what == policy::replacement_cache<Rule>::outcome::hit));
    REQUIRE((a.place < 0) == (bytes > c.capacity));
    REQUIRE((c.used == is.used && c.used <= c.capacity && c.clock >= clock));
    if (hit) REQUIRE(entries[std::size_t(a.place)].worth >= before);
    clock = c.clock;
  }
  REQUIRE(c.hits + c.misses == 3999);
  return c.paid;
}

}  // namespace

TEST_CASE("replacement rules give up what their definitions say", "[policy][cache]") {
  using ll = long long;
  trace<policy::least_recently_used>([](ll, double, ll, ll last, double) { return double(last); }, false);
  trace<policy::least_frequently_used>([](ll hits, double, ll, ll, double) { return double(hits); }, false);
  trace<policy::greedy_dual_size_frequency>([](ll hits, double, ll, ll, double clock) { return clock + double(hits); }, true);      // LFU with aging
  const double gdsf = trace<policy::greedy_dual_size_frequency>([](ll hits, double cost, ll bytes, ll, double clock) { return clock + double(hits) * cost / double(bytes); }, false);
  trace<policy::least_expected_cost>([](ll hits, double cost, ll, ll, double) { return double(hits) * cost; }, false);
  double uncached = 0;
  std::mt19937 g(seed);
  for (int step = 1; step < 4000; ++step) {
    const double u = double(g() % 100000 + 1) / 100001;
    uncached += 1 + double(static_cast<ll>(40 * u * u * u) * 7 % 20);
  }
  REQUIRE(gdsf < uncached);
}

TEST_CASE("a replacement cache holds what is in use, admits what is better, refuses by name", "[policy][cache]") {
  std::vector<policy::cached_entry> entries(3);
  policy::replacement_cache<policy::least_expected_cost> c{.entries = entries.data(), .places = 3, .capacity = 3};
  using outcome = decltype(c)::outcome;
  REQUIRE(c.request(1, 1, 5, true).what == outcome::placed);
  REQUIRE(c.request(2, 1, 1, true).what == outcome::placed);
  REQUIRE(c.request(3, 1, 9, true).what == outcome::placed);
  REQUIRE(c.request(4, 1, 99).what == outcome::passes_by);              // everything is held
  const auto full = c.request(4, 1, 99, true);
  REQUIRE((full.why.code == errc::exhausted && full.why.got == 0 && full.why.need == 1));
  c.release();
  c.admits_better = true;
  REQUIRE(c.request(5, 1, 1).what == outcome::passes_by);               // 2 is worth as much
  REQUIRE(c.find(2) >= 0);
  REQUIRE(c.request(5, 1, 2).what == outcome::placed);
  REQUIRE(c.find(2) < 0);
  REQUIRE((c.forget(5) && !c.forget(5) && c.used == 2));
  REQUIRE(c.request(-1).why.code == errc::bad_value);
  REQUIRE(c.request(7, -1).why.code == errc::bad_value);
  c.capacity = 0;
  REQUIRE(c.request(7).why.code == errc::bad_value);
  c.entries = nullptr;
  REQUIRE(c.request(7).why.code == errc::null_pointer);
}

TEST_CASE("the ledger of borrowed pages balances, whatever is asked of it", "[policy][cache]") {
  std::mt19937 g(seed);
  for (int round = 0; round < 40; ++round) {
    const int n = 1 + int(g() % 5);
    std::vector<policy::borrow_ledger::instance> instances;
    for (int i = 0; i < n; ++i) instances.push_back({int(g() % 40), int(g() % 6), 0});
    std::vector<int> lent(std::size_t(n * n)), map(static_cast<std::size_t>(n)), from(static_cast<std::size_t>(n));
    policy::borrow_ledger l{.instances = instances.data(), .lent = lent.data(), .map = map.data(), .count = n};
    l.refresh();
    int asked = 0, met = 0;
    for (int step = 0; step < 400; ++step) {
      CAPTURE(seed, round, step);
      const int who = int(g() % unsigned(n)), other = int(g() % unsigned(n)), pages = int(g() % 12), what = int(g() % 8);
      const std::vector<int> before = lent, had = [&] { std::vector<int> u; for (const auto& i : instances) u.push_back(i.used); return u; }();
      std::vector<int> room;
      for (int i = 0; i < n; ++i) room.push_back(l.free(i));
      if (what < 4) {
        ++asked;
        const status st = l.borrow(who, pages, from.data());
        if (st) {
          ++met;
          REQUIRE(std::accumulate(from.begin(), from.end(), 0) == pages);
          REQUIRE(from[std::size_t(who)] == std::min(pages, room[std::size_t(who)]));          // its own first
          for (int i = 0; i < n; ++i)
            if (i != who && from[std::size_t(i)] > 0) REQUIRE(l.free(i) >= instances[std::size_t(i)].reserve);
        } else {
          REQUIRE(st.code == errc::exhausted);
          REQUIRE(lent == before);
        }
      } else if (what < 6) {
        const int owed = who == other ? had[std::size_t(who)] : before[std::size_t(other * n + who)];
        REQUIRE(bool(l.repay(who, other, pages)) == (pages <= owed));
      } else if (what == 6) {
        const bool can = who != other && pages <= before[std::size_t(who * n + other)];
        const status st = l.recall(who, other, pages, from.data());
        if (!can) REQUIRE(st.code == errc::bad_value);
        if (st) REQUIRE((lent[std::size_t(who * n + other)] == before[std::size_t(who * n + other)] - pages && from[std::size_t(who)] == 0));
        else REQUIRE(lent == before);
      } else {
        l.net(who, other);
        if (who != other) REQUIRE((lent[std::size_t(who * n + other)] == 0 || lent[std::size_t(other * n + who)] == 0));
      }
      if (g() % 5 == 0) l.refresh();
      REQUIRE(l.check().code == errc::ok);
      int gave = 0, took = 0;
      for (int i = 0; i < n; ++i) {
        gave += l.lent_by(i), took += l.borrowed_by(i);
        REQUIRE((l.free(i) >= 0 && instances[std::size_t(i)].used + l.lent_by(i) + l.free(i) == instances[std::size_t(i)].capacity));
      }
      REQUIRE(gave == took);
    }
    REQUIRE((asked > 0 && met > 0));
  }
  // A stale map costs refusals: the creditor of old has nothing left.
  policy::borrow_ledger::instance two[] = {{4, 0, 4}, {8, 2, 0}};
  int lent[4] = {}, map[2] = {0, 8}, from[2];
  policy::borrow_ledger l{.instances = two, .lent = lent, .map = map, .count = 2};
  two[1].used = 5;
  const status st = l.borrow(0, 3, from);
  REQUIRE((st.code == errc::exhausted && st.got == 1 && st.need == 3 && l.refusals == 1));
  REQUIRE(l.borrow(0, 1, from).code == errc::ok);
  REQUIRE(from[1] == 1);
  REQUIRE(l.borrow(5, 1, from).code == errc::bad_value);
  REQUIRE(l.borrow(0, -1, from).code == errc::bad_value);
  REQUIRE(l.borrow(0, 1, nullptr).code == errc::null_pointer);
  REQUIRE(l.recall(0, 0, 1, from).code == errc::bad_value);
}
