// Many ranks in one process, each in a thread of its own: for machines with several processors, and to see schedules run under
// real races.
//
//     threads net(4);
//     run_each(net, [&](threads::endpoint& at) { ... execution<sum<float>, threads::endpoint> e(at); ... });
//
// A message is copied once, from the sender's memory to the receiver's, by whichever of the two comes second. Ranks that wait sleep.
// Time is the machine's steady clock.
#pragma once
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <vector>
#include <smalti/comm/clock.hpp>

namespace smalti::inline SMALTI_CODE::comm {

class threads {
 public:
  explicit threads(int ranks) : size_(ranks), dead_(std::size_t(ranks)), of_rank_(std::size_t(ranks)) {}
  threads(const threads&) = delete;
  threads& operator=(const threads&) = delete;

  class endpoint;
  endpoint rank(int r);
  int size() const { return size_; }

  //! The rank is gone: what it posted and was not delivered is lost, and every ticket that waits for it ends. From any thread;
  //! afterwards nobody touches the rank's memory.
  void kill(int rank) {
    std::unique_lock lock(mutex_);
    dead_[std::size_t(rank)] = true;
    for (std::size_t i = 0; i < records_.size(); ++i) {
      record& r = records_[i];
      if (!r.used || r.owner != rank) continue;
      settle(lock, r);
      if (r.state == delivery::pending) unqueue(r);
    }
    wake_all();
  }
  bool dead(int rank) const {
    const std::lock_guard lock(mutex_);
    return dead_[std::size_t(rank)];
  }
  //! Opens the next epoch: a new life for those that are left. Messages of earlier ones are never delivered.
  void open(std::uint32_t epoch) {
    const std::lock_guard lock(mutex_);
    epoch_ = epoch;
    wake_all();
  }

 private:
  struct key {
    int from, to;
    std::uint32_t epoch, operation;
    auto operator<=>(const key&) const = default;
  };
  struct record {
    std::uint32_t generation = 0;
    bool used = false, sending = false, moving = false;   // moving: someone copies, outside the lock
    int owner = -1, peer = -1;
    key in{};
    delivery state = delivery::pending;
    const std::byte* from = nullptr;
    std::byte* to = nullptr;
    std::int64_t bytes = 0;
  };
  struct queue { std::deque<std::size_t> sends, receives; };
  struct waiter {
    std::condition_variable changed;
    std::uint64_t events = 0, seen = 0;   // seen: when the rank last came out of idle
  };

  void wake(int rank) {
    ++of_rank_[std::size_t(rank)].events;
    of_rank_[std::size_t(rank)].changed.notify_all();
  }
  void wake_all() {
    for (int r = 0; r < size_; ++r) wake(r);
  }
  // Until nobody copies from or to the record's memory.
  void settle(std::unique_lock<std::mutex>& lock, record& r) {
    while (r.moving) of_rank_[std::size_t(r.owner)].changed.wait(lock);
  }
  void unqueue(record& r) {
    const auto found = queues_.find(r.in);
    if (found == queues_.end()) return;
    std::deque<std::size_t>& q = r.sending ? found->second.sends : found->second.receives;
    std::erase_if(q, [&](std::size_t i) { return &records_[i] == &r; });
    if (found->second.sends.empty() && found->second.receives.empty()) queues_.erase(found);
  }
  ticket name(std::size_t i) const { return {std::int64_t(std::uint64_t(records_[i].generation & 0x7fffffffu) << 32 | i)}; }

  ticket post(int owner, int peer, message_tag tag, const std::byte* from, std::byte* to, std::int64_t bytes) {
    std::unique_lock lock(mutex_);
    std::size_t i = records_.size();
    if (!free_.empty()) i = free_.back(), free_.pop_back();
    else records_.emplace_back();
    const bool sending = to == nullptr;
    const key k{sending ? owner : peer, sending ? peer : owner, tag.epoch, tag.operation};
    records_[i] = {records_[i].generation + 1, true, sending, false, owner, peer, k, delivery::pending, from, to, bytes};
    const ticket mine = name(i);
    if (dead_[std::size_t(owner)] || over(tag.epoch)) return mine;
    queue& q = queues_[k];
    (sending ? q.sends : q.receives).push_back(i);
    if (!q.sends.empty() && !q.receives.empty()) deliver(lock, q.sends.front(), q.receives.front());
    return mine;
  }
  // Posts of one queue match in order, and each post makes at most one match.
  void deliver(std::unique_lock<std::mutex>& lock, std::size_t sent, std::size_t received) {
    record &s = records_[sent], &r = records_[received];
    queue& q = queues_[s.in];
    q.sends.pop_front(), q.receives.pop_front();
    if (q.sends.empty() && q.receives.empty()) queues_.erase(s.in);
    const bool fits = s.bytes <= r.bytes;
    if (fits && s.bytes > 0) {
      const std::byte* from = s.from;
      std::byte* to = r.to;
      const std::size_t bytes = std::size_t(s.bytes);
      s.moving = r.moving = true;
      lock.unlock();
      std::memcpy(to, from, bytes);
      lock.lock();
      s.moving = r.moving = false;
    }
    s.state = delivery::done, r.state = fits ? delivery::done : delivery::too_long;
    r.bytes = s.bytes;
    wake(s.owner), wake(r.owner);
  }
  bool over(std::uint32_t epoch) const { return epoch != epoch_ || (aborted_ && epoch <= aborted_epoch_); }
  record* find(ticket k) {
    const std::size_t i = std::size_t(k.number & 0xffffffff);
    return k && i < records_.size() && records_[i].used && name(i) == k ? &records_[i] : nullptr;
  }
  void release(ticket k) {
    const std::size_t i = std::size_t(k.number & 0xffffffff);
    records_[i].used = false;
    free_.push_back(i);
  }
  delivery_report test(ticket k) {
    std::unique_lock lock(mutex_);
    record* t = find(k);
    if (t == nullptr) return {delivery::aborted};
    delivery_report report{t->state, t->bytes, -1};
    if (report.state == delivery::pending) {
      if (t->moving) return report;
      if (over(t->in.epoch)) report = {delivery::aborted, 0, lost_};
      else if (dead_[std::size_t(t->peer)]) report = {delivery::peer_lost, 0, t->peer};
      else if (dead_[std::size_t(t->owner)]) report = {delivery::aborted, 0, t->owner};
      if (report.state == delivery::pending) return report;
      unqueue(*t);
    }
    release(k);
    return report;
  }
  void cancel(ticket k) {
    std::unique_lock lock(mutex_);
    record* t = find(k);
    if (t == nullptr) return;
    settle(lock, *t);
    if (t->state == delivery::pending) unqueue(*t);
    release(k);
  }
  void idle(int rank, nanoseconds deadline) {
    std::unique_lock lock(mutex_);
    waiter& me = of_rank_[std::size_t(rank)];
    const auto happened = [&] { return me.events != me.seen; };
    if (deadline == never_late) me.changed.wait(lock, happened);
    else me.changed.wait_until(lock, std::chrono::steady_clock::time_point(std::chrono::nanoseconds(deadline)), happened);
    me.seen = me.events;
  }
  void abort(std::uint32_t epoch, int lost) {
    const std::lock_guard lock(mutex_);
    if (aborted_ && epoch <= aborted_epoch_) return;
    aborted_ = true, aborted_epoch_ = epoch, lost_ = lost;
    wake_all();
  }
  std::uint32_t epoch() const {
    const std::lock_guard lock(mutex_);
    return epoch_;
  }

  int size_;
  mutable std::mutex mutex_;     // of all that follows; held for a few list operations, never while bytes are copied
  std::uint32_t epoch_ = 0, aborted_epoch_ = 0;
  bool aborted_ = false;
  int lost_ = -1;
  std::vector<char> dead_;
  std::deque<waiter> of_rank_;
  std::map<key, queue> queues_;
  std::deque<record> records_;   // stay where they are as it grows
  std::vector<std::size_t> free_;
};

//! The transport of one rank, for the thread that is that rank. It refers to its net.
class threads::endpoint {
 public:
  endpoint(threads& net, int rank) : net_(&net), rank_(rank) {}
  int rank() const { return rank_; }
  int size() const { return net_->size_; }
  std::uint32_t epoch() const { return net_->epoch(); }
  nanoseconds now() { return steady_now(); }
  ticket post_send(int peer, message_tag tag, const std::byte* data, std::int64_t bytes) { return net_->post(rank_, peer, tag, data, nullptr, bytes); }
  //! @pre data is not null
  ticket post_recv(int peer, message_tag tag, std::byte* data, std::int64_t capacity) { return net_->post(rank_, peer, tag, nullptr, data, capacity); }
  delivery_report test(ticket k) { return net_->test(k); }
  void cancel(ticket k) { net_->cancel(k); }
  void idle(nanoseconds deadline) { net_->idle(rank_, deadline); }
  void abort(std::uint32_t epoch, int lost) { net_->abort(epoch, lost); }
  bool dead() const { return net_->dead(rank_); }

 private:
  threads* net_;
  int rank_;
};
inline threads::endpoint threads::rank(int r) { return {*this, r}; }
static_assert(transport<threads::endpoint>);

//! Calls body(endpoint&) once for each rank, each in a thread, and returns when all have returned.
template <class Body> void run_each(threads& net, Body body) {
  std::vector<std::thread> running;
  running.reserve(std::size_t(net.size()));
  for (int r = 0; r < net.size(); ++r)
    running.emplace_back([&net, &body, r] {
      threads::endpoint at = net.rank(r);
      body(at);
    });
  for (std::thread& t : running) t.join();
}

}  // namespace smalti::inline SMALTI_CODE::comm
