// Pages that one instance lends to another: the ledger of Infinite-LLM's distributed cache. Host policy over memory of the caller; kernels and
// transports know nothing of it.
#pragma once
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Who holds whose pages. Lin et al. 2024, arXiv:2401.02669. Each instance has `capacity` pages, of which it uses some itself and lends some. Whoever
//! needs pages takes its own first, then asks the others in order of what the map says they have free (the nearer of equal ones, by distance of
//! numbers). The map is a copy of the truth from the last refresh(), stale on purpose: a creditor looks at its own books and may refuse, so that
//! a stale map costs refusals and never a page. Nobody lends below its reserve.
//!
//! Laws: used + lent + free = capacity for every instance after every call; the sum of what is lent is the sum of what is borrowed; no instance lends
//! so that less than its reserve is free; a borrow that cannot be met changes nothing; what is repaid was borrowed; after net() no two owe one another.
struct borrow_ledger {
  struct instance {
    int capacity = 0;
    int reserve = 0;                 //!< free pages that it does not lend
    int used = 0;                    //!< by itself, of its own
  };
  instance* instances = nullptr;     //!< [count]
  int* lent = nullptr;               //!< [count][count]: lent[a * count + b]: pages of a that b uses
  int* map = nullptr;                //!< [count] free pages as last heard of
  int count = 0;
  std::int64_t refusals = 0;

  status check() const {
    if (count < 1) return {errc::bad_shape, "borrow_ledger needs at least one instance", count, 1};
    if (instances == nullptr || lent == nullptr || map == nullptr) return {errc::null_pointer, "borrow_ledger: instances, lent and map must not be null: they are [count], [count][count] and [count]", 0, count};
    for (int i = 0; i < count; ++i)
      if (instances[i].capacity < 0 || instances[i].reserve < 0 || instances[i].used < 0 || free(i) < 0) return {errc::bad_value, "borrow_ledger: an instance uses and lends at most its capacity", free(i), 0};
    return {};
  }
  int lent_by(int a) const {
    int sum = 0;
    for (int b = 0; b < count; ++b) sum += lent[a * count + b];
    return sum;
  }
  int borrowed_by(int b) const {
    int sum = 0;
    for (int a = 0; a < count; ++a) sum += lent[a * count + b];
    return sum;
  }
  int free(int i) const { return instances[i].capacity - instances[i].used - lent_by(i); }
  //! A heartbeat: the map becomes true.
  void refresh() {
    for (int i = 0; i < count; ++i) map[i] = free(i);
  }

  //! Finds `pages` pages for instance `who`: from[i] of them of instance i, its own included. All or nothing: errc::exhausted, with what could
  //! be had; then queue or preempt.
  status borrow(int who, int pages, int* from) {
    if (const status bad = check_instance(who); !bad) return bad;
    if (pages < 0) return {errc::bad_value, "pages must not be negative", pages, 0};
    if (from == nullptr) return {errc::null_pointer, "from is null: it needs an entry for each instance", 0, count};
    for (int i = 0; i < count; ++i) from[i] = 0;
    from[who] = pages < free(who) ? pages : free(who);
    int need = pages - from[who];
    int asked = -1;
    while (need > 0) {
      // The next in the order (free by the map descending, distance ascending, number ascending) after the one that was asked last.
      int best = -1;
      for (int i = 0; i < count; ++i)
        if (i != who && map[i] > 0 && (asked < 0 || before(who, asked, i)) && (best < 0 || before(who, i, best))) best = i;
      if (best < 0) break;
      asked = best;
      const int offers = free(best) - instances[best].reserve, wanted = need < map[best] ? need : map[best], given = offers < wanted ? offers : wanted;
      if (given <= 0) {
        ++refusals;
        continue;
      }
      if (given < wanted) ++refusals;
      from[best] = given, need -= given;
    }
    if (need > 0) {
      for (int i = 0; i < count; ++i) from[i] = 0;
      return {errc::exhausted, "borrow: the instances that the map knows of have too few free pages above their reserves: preempt or queue, or refresh the map", pages - need, pages};
    }
    instances[who].used += from[who];
    for (int i = 0; i < count; ++i)
      if (i != who) lent[i * count + who] += from[i];
    return {};
  }
  //! Gives `pages` pages of instance `whose` back, which `who` used (its own, where they are the same).
  status repay(int who, int whose, int pages) {
    if (const status bad = check_instance(who); !bad) return bad;
    if (const status bad = check_instance(whose); !bad) return bad;
    int& debt = who == whose ? instances[who].used : lent[whose * count + who];
    if (pages < 0 || pages > debt) return {errc::bad_value, "repay: more pages than are owed", pages, debt};
    debt -= pages;
    return {};
  }
  //! A creditor wants pages back: the debtor's blocks move to the debtor itself, then to others as in borrow(), the creditor left out. `moved[i]`:
  //! blocks that go to instance i: copy, switch the table's entry, then free. All or nothing.
  status recall(int creditor, int debtor, int pages, int* moved) {
    if (const status bad = check_instance(creditor); !bad) return bad;
    if (const status bad = check_instance(debtor); !bad) return bad;
    if (creditor == debtor) return {errc::bad_value, "recall: an instance owes itself nothing", creditor, debtor};
    if (pages < 0 || pages > lent[creditor * count + debtor]) return {errc::bad_value, "recall: more pages than are lent", pages, lent[creditor * count + debtor]};
    const int known = map[creditor];
    map[creditor] = 0;                                       // it is not asked
    const status done = borrow(debtor, pages, moved);
    map[creditor] = known;
    if (done) lent[creditor * count + debtor] -= pages;
    return done;
  }
  //! Debts of two instances to one another cancel: each takes its own pages back, once blocks have been swapped. How many pages come home on each side.
  int net(int a, int b) {
    if (!check_instance(a) || !check_instance(b) || a == b) return 0;
    int &owed = lent[a * count + b], &owes = lent[b * count + a];
    const int n = owed < owes ? owed : owes;
    owed -= n, owes -= n;
    instances[a].used += n, instances[b].used += n;
    return n;
  }

private:
  status check_instance(int i) const {
    if (const status bad = check(); !bad) return bad;
    return i >= 0 && i < count ? status{} : status{errc::bad_value, "borrow_ledger: no such instance", i, count};
  }
  bool before(int who, int a, int b) const {
    const int near_a = a < who ? who - a : a - who, near_b = b < who ? who - b : b - who;
    return map[a] != map[b] ? map[a] > map[b] : near_a != near_b ? near_a < near_b : a < b;
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
