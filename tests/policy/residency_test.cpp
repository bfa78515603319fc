// The laws of expert residency: a cache against a list, a placement against every pair of swaps, remappings of every small size.
#include <smalti/policy/route/residency.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <list>
#include <random>
#include <vector>

using namespace smalti;

TEST_CASE("residency: the cache of experts is the least recently used list") {
  for (std::uint32_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const int layers = 4, experts = 6, k = 2, places = k + int(random() % 20);
    std::vector<policy::expert_cache::entry> memory(places);
    policy::expert_cache cache{.entries = memory.data(), .places = places, .experts = experts};
    std::list<std::int64_t> recent;                      // most recent first
    std::int64_t hits = 0;
    for (int step = 0; step < 300; ++step) {
      const int layer = step % layers, first = int(random() % experts);
      std::vector<int> held;
      for (int expert : {first, int((first + 1 + random() % (experts - 1)) % experts)}) {
        const std::int64_t key = std::int64_t(layer) * experts + expert;
        const auto found = std::find(recent.begin(), recent.end(), key);
        const auto a = cache.request(layer, expert);
        REQUIRE(a.why);
        REQUIRE(a.present == (found != recent.end()));
        REQUIRE(std::find(held.begin(), held.end(), a.place) == held.end());     // not where another of this step lies
        held.push_back(a.place);
        hits += a.present;
        if (found != recent.end()) recent.erase(found);
        else if (int(recent.size()) == places) {
          REQUIRE(a.evicted == recent.back());
          recent.pop_back();
        } else REQUIRE(a.evicted == -1);
        recent.push_front(key);
        REQUIRE(memory[a.place].key == key);
      }
      cache.release();
      for (std::int64_t key : recent) REQUIRE(std::count_if(memory.begin(), memory.end(), [&](const auto& e) { return e.key == key; }) == 1);
    }
    CHECK(cache.hits == hits);
    CHECK(cache.hits + cache.misses == 600);
    if (places >= layers * experts) CHECK(cache.misses <= layers * experts);
  }
  std::vector<policy::expert_cache::entry> memory(2);
  policy::expert_cache cache{.entries = memory.data(), .places = 2, .experts = 8};
  CHECK((cache.request(0, 1).why && cache.request(0, 2).why));
  CHECK(cache.request(0, 3).why.code == errc::exhausted);
  CHECK(cache.request(0, 8).why.code == errc::bad_value);
  CHECK(policy::expert_cache{}.request(0, 0).why.code == errc::bad_shape);
}

TEST_CASE("residency: an affinity placement is even, never worse, and no swap betters it") {
  for (std::uint32_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const int layers = 3, ranks = 4, experts = 12, each = experts / ranks;
    std::vector<std::int64_t> follows(std::size_t(layers - 1) * experts * experts);
    for (auto& f : follows) f = random() % 10;
    std::vector<int> hidden(experts);                    // a permutation that most tokens follow
    for (int e = 0; e < experts; ++e) hidden[e] = (5 * e + int(seed)) % experts;
    for (int l = 0; l + 1 < layers; ++l)
      for (int e = 0; e < experts; ++e) follows[std::size_t(l * experts + e) * experts + hidden[e]] += 1000;
    std::vector<std::int32_t> rank(std::size_t(layers) * experts);
    policy::affinity_placement p{.follows = follows.data(), .rank = rank.data(), .layers = layers, .experts = experts, .ranks = ranks};
    p.vanilla();
    const std::int64_t vanilla = p.cost();
    CHECK(p.improve() > 0);
    const std::int64_t cost = p.cost();
    CHECK(cost * 2 < vanilla);
    for (int l = 0; l < layers; ++l)
      for (int r = 0; r < ranks; ++r) CHECK(std::count(rank.begin() + l * experts, rank.begin() + (l + 1) * experts, r) == each);
    for (int l = 0; l < layers; ++l)
      for (int a = 0; a < experts; ++a)
        for (int b = 0; b < a; ++b) {
          std::swap(rank[l * experts + a], rank[l * experts + b]);
          REQUIRE(p.cost() >= cost);
          std::swap(rank[l * experts + a], rank[l * experts + b]);
        }
    CHECK(p.improve() == 0);
  }
  CHECK(policy::affinity_placement{.layers = 1, .experts = 6, .ranks = 4}.check().code == errc::bad_shape);
  CHECK(policy::affinity_placement{.layers = 0, .experts = 6, .ranks = 2}.check().code == errc::bad_shape);
  CHECK(policy::affinity_placement{.layers = 2, .experts = 6, .ranks = 2}.check().code == errc::null_pointer);
}

TEST_CASE("residency: remapping moves the fewest experts and leaves ranks even") {
  for (int experts : {0, 1, 7, 16})
    for (int before : {1, 2, 3, 5})
      for (int after : {1, 2, 3, 4, 6, 20}) {
        CAPTURE(experts, before, after);
        std::mt19937 random(std::uint32_t(experts * 100 + before * 10 + after));
        std::vector<std::int32_t> owner(experts), room(after);
        for (auto& o : owner) o = std::int32_t(random() % before);
        const auto old = owner;
        std::vector<policy::remapping::move> moves(experts);
        policy::remapping r{.owner = owner.data(), .room = room.data(), .experts = experts, .before = before, .after = after};
        const int count = r.plan(moves.data());
        std::vector<int> load(after, 0), kept(after, 0);
        for (int e = 0; e < experts; ++e) {
          REQUIRE((owner[e] >= 0 && owner[e] < after));
          ++load[owner[e]];
          if (old[e] < after) ++kept[old[e]];
        }
        for (int n : load) CHECK((n == experts / after || n == experts / after + (experts % after != 0)));
        // The fewest: of the even shares the larger ones go to those who hold most.
        std::sort(kept.rbegin(), kept.rend());
        int stay = 0;
        for (int i = 0; i < after; ++i) stay += std::min(kept[i], experts / after + (i < experts % after));
        CHECK(count == experts - stay);
        int moved = 0;
        for (int e = 0; e < experts; ++e) moved += old[e] != owner[e];
        CHECK(moved == count);
        for (int i = 0; i < count; ++i) CHECK((moves[i].from == old[moves[i].expert] && moves[i].to == owner[moves[i].expert]));
      }
  std::vector<std::int32_t> owner{0, 3}, room(2);
  CHECK(policy::remapping{.owner = owner.data(), .room = room.data(), .experts = 2, .before = 3, .after = 2}.check().code == errc::bad_value);
  CHECK(policy::remapping{.owner = owner.data(), .room = nullptr, .experts = 2, .before = 4, .after = 2}.check().code == errc::null_pointer);
  CHECK(policy::remapping{.owner = owner.data(), .room = room.data(), .experts = 2, .before = 0, .after = 2}.plan(nullptr) == -1);
}
