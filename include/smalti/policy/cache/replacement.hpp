// Which entry leaves a bounded cache when another wants its place: pages of keys and values, prefixes, experts, rows of a table. Host policies over
// memory of the caller: they decide and count, moving bytes is the program's.
#pragma once
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! What a replacement rule knows of an entry.
struct cached_entry {
  std::int64_t key = -1;             //!< -1: empty
  std::int64_t bytes = 0;            //!< what it occupies
  double cost = 1;                   //!< to get it again: seconds, operations or bytes
  std::int64_t hits = 0;             //!< since it came in, that call counted
  std::int64_t last = 0;             //!< when it was asked for last
  std::int64_t since = 0;            //!< when it came in
  double worth = 0;                  //!< what the rule said at its last use
  bool held = false;                 //!< in use: it cannot leave
};

//! Least recently used leaves.
struct least_recently_used {
  static constexpr bool ages = false;
  double worth(const cached_entry& e, double) const { return double(e.last); }
};
//! Least frequently used leaves.
struct least_frequently_used {
  static constexpr bool ages = false;
  double worth(const cached_entry& e, double) const { return double(e.hits); }
};
//! Greedy dual, size and frequency: worth = clock + hits cost / bytes, where the clock is the worth of the last that left. With cost = bytes = 1: LFU
//! with aging. Cherkasova 1998; in inference Zhu et al. 2023, arXiv:2306.02003.
struct greedy_dual_size_frequency {
  static constexpr bool ages = true;
  double worth(const cached_entry& e, double clock) const { return clock + double(e.hits) * e.cost / double(e.bytes > 0 ? e.bytes : 1); }
};
//! Least expected cost leaves: hits cost, no size and no aging. Zhu et al. 2023, arXiv:2306.02003.
struct least_expected_cost {
  static constexpr bool ages = false;
  double worth(const cached_entry& e, double) const { return double(e.hits) * e.cost; }
};

template <class R>
concept replacement_rule = std::is_empty_v<R> && requires(const R r, const cached_entry& e) {
  { R::ages } -> std::convertible_to<bool>;
  { r.worth(e, 0.0) } -> std::same_as<double>;
};

//! A cache of at most `capacity` bytes in at most `places` entries, of which the one of least worth leaves first; of equal ones the one that came
//! in first. What is held never leaves. An entry larger than the capacity passes by; so does, where `admits_better` says so, one that is worth no
//! more than what would leave (the authors' program does that).
//!
//! Laws: bytes never exceed the capacity; what leaves has the least worth of what is not held; the clock never falls; a hit never lowers an entry's
//! worth; asked for again while present, a key is a hit; a refused or passed request changes no entry but counts.
//! @note O(places) a request
template <class Rule = least_recently_used>
struct replacement_cache {
  static_assert(replacement_rule<Rule>, "smalti: a replacement rule is empty and has static constexpr bool ages and double worth(const policy::cached_entry&, double clock) const: see policy::least_recently_used");
  cached_entry* entries = nullptr;   //!< [places]
  int places = 0;
  std::int64_t capacity = 0;         //!< bytes
  bool admits_better = false;
  std::int64_t used = 0, now = 0, hits = 0, misses = 0, passed = 0;
  double clock = 0, paid = 0;        //!< worth of the last that left; cost of all misses

  enum class outcome : std::uint8_t { hit, placed, passes_by };
  struct answer {
    status why;
    outcome what = outcome::passes_by;
    int place = -1;                  //!< where the entry is, or is to be read to
  };
  constexpr status check() const {
    if (places < 1) return {errc::bad_shape, "replacement_cache needs at least one place", places, 1};
    if (entries == nullptr) return {errc::null_pointer, "replacement_cache.entries is null: it needs `places` entries", 0, places};
    if (capacity < 1) return {errc::bad_value, "replacement_cache.capacity must be positive: it counts bytes", capacity, 1};
    return {};
  }
  //! Asks for a key; `left(key, place)` is called for each entry that leaves to make room, before the new one takes its place.
  template <class Left> answer request(std::int64_t key, std::int64_t bytes, double cost, Left left, bool hold = false) {
    if (const status bad = check(); !bad) return {bad};
    if (key < 0) return {{errc::bad_value, "key must not be negative", key, 0}};
    if (bytes < 0 || !(cost >= 0)) return {{errc::bad_value, "bytes and cost must not be negative", bytes, 0}};
    ++now;
    if (const int at = find(key); at >= 0) {
      cached_entry& e = entries[at];
      ++e.hits, e.last = now, ++hits, e.held = e.held || hold;
      const double worth = Rule{}.worth(e, clock);
      e.worth = worth > e.worth ? worth : e.worth;
      return {{}, outcome::hit, at};
    }
    ++misses, paid += cost;
    cached_entry fresh{.key = key, .bytes = bytes, .cost = cost, .hits = 1, .last = now, .since = now, .worth = 0, .held = hold};
    fresh.worth = Rule{}.worth(fresh, clock);
    if (bytes > capacity) return pass();
    // Whether there is room once everything that may leave has left; nothing leaves for one that does not come in.
    std::int64_t holds = 0;
    int fixed = 0;
    for (int i = 0; i < places; ++i)
      if (entries[i].key >= 0 && entries[i].held) holds += entries[i].bytes, ++fixed;
    if (bytes > capacity - holds || fixed == places) {
      if (!hold) return pass();
      return {{errc::exhausted, "replacement_cache: what is held leaves no room: release it, or give the cache more", capacity - holds, bytes}};
    }
    if (const int first = victim(); admits_better && first >= 0 && (bytes > capacity - used || empty() < 0) && Rule{}.worth(fresh, clock) <= entries[first].worth) {
      if (!hold) return pass();
    }
    while (bytes > capacity - used || empty() < 0) {
      cached_entry& e = entries[victim()];
      if (Rule::ages) clock = e.worth > clock ? e.worth : clock;
      left(e.key, int(&e - entries));
      used -= e.bytes;
      e = {};
    }
    fresh.worth = Rule{}.worth(fresh, clock);
    const int at = empty();
    entries[at] = fresh, used += bytes;
    return {{}, outcome::placed, at};
  }
  answer request(std::int64_t key, std::int64_t bytes = 1, double cost = 1, bool hold = false) {
    return request(key, bytes, cost, [](std::int64_t, int) {}, hold);
  }
  //! Forgets a key: what it stands for has changed or gone. Whether it was there.
  bool forget(std::int64_t key) {
    const int at = find(key);
    if (at < 0) return false;
    used -= entries[at].bytes;
    entries[at] = {};
    return true;
  }
  //! Nothing is in use any more.
  void release() {
    for (int i = 0; i < places; ++i) entries[i].held = false;
  }
  //! The place of a key; -1: not present.
  int find(std::int64_t key) const {
    for (int i = 0; i < places; ++i)
      if (entries[i].key == key) return i;
    return -1;
  }
  //! What would leave next; -1: everything is held, or there is nothing.
  int victim() const {
    int least = -1;
    for (int i = 0; i < places; ++i) {
      const cached_entry& e = entries[i];
      if (e.key < 0 || e.held) continue;
      if (least < 0 || e.worth < entries[least].worth || (e.worth == entries[least].worth && e.since < entries[least].since)) least = i;
    }
    return least;
  }

private:
  int empty() const { return find(-1); }
  answer pass() {
    ++passed;
    return {{}, outcome::passes_by, -1};
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
