// Many ranks in one process, each with a queue of work on a device: every rank puts its collectives there, and settle() lets
// messages meet. On the device `in_host_memory` everything is carried out here and now, in the order that queues allow: the model that
// tests hold the lists to. On cuda_streams (streams.hpp) settle() puts copies, kernels and events on streams and returns.
//
//     lanes<in_host_memory> net(4);
//     for (int r = 0; r < 4; ++r) queued<sum<float>, lanes<in_host_memory>::queue>::run(net.rank(r), schedule, arguments_of[r], memory[r]);
//     status st = net.settle();
#pragma once
#include <cstring>
#include <deque>
#include <functional>
#include <utility>
#include <vector>
#include <smalti/comm/lane.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! A device whose work is done when it is asked for. A device knows
//!     begin(rank)                          a group of the rank's messages is next on its queue
//!     move(from_rank, to_rank, to, from, bytes)   both groups have begun; the message moves after what came before on both queues,
//!                                          and what comes after on either waits for it
//!     copy, lift, merge, finish            as of a lane, of a rank
struct in_host_memory {
  void begin(int) {}
  void move(int, int, std::byte* to, const std::byte* from, std::int64_t bytes) { std::memcpy(to, from, std::size_t(bytes)); }
  void copy(int, std::byte* to, const std::byte* from, std::int64_t bytes) { std::memcpy(to, from, std::size_t(bytes)); }
  template <class C> void lift(int, const C& c, typename C::accumulator* a, const typename C::element* x, std::int64_t n) { c.lift(a, x, n); }
  template <class C> void merge(int, const C& c, typename C::accumulator* a, operand<C> left, operand<C> right, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t at = i * c.width;
      if constexpr (std::is_same_v<typename C::element, typename C::accumulator>) {
        c.merge(a + at, left.sums + at, right.sums + at, 1);
      } else {
        typename C::accumulator l{}, r{};
        left.items != nullptr ? c.lift(&l, left.items + at, 1) : void(l = left.sums[at]);
        right.items != nullptr ? c.lift(&r, right.items + at, 1) : void(r = right.sums[at]);
        c.merge(a + at, &l, &r, 1);
      }
    }
  }
  template <class C> void finish(int, const C& c, typename C::element* x, const typename C::accumulator* a, std::int64_t n, int ranks) { c.finish(x, a, n, ranks); }
  status failure() const { return {}; }
};

template <class Device> class lanes {
 public:
  class queue;
  explicit lanes(int ranks, Device device = {}) : device_(std::move(device)), waiting_(std::size_t(ranks)) {
    for (int r = 0; r < ranks; ++r) ranks_.emplace_back(*this, r);
  }
  lanes(const lanes&) = delete;
  lanes& operator=(const lanes&) = delete;

  int size() const { return int(waiting_.size()); }
  queue& rank(int r) { return ranks_[std::size_t(r)]; }
  Device& device() { return device_; }

  //! Lets all that was queued meet. bad_value where queues wait for each other for ever: `got` is a rank that does. What was queued
  //! is forgotten then.
  status settle() {
    for (bool moved = true; moved;) {
      moved = false;
      for (int r = 0; r < size(); ++r) moved |= advance(r);
    }
    status st = device_.failure();
    for (int r = 0; r < size(); ++r) {
      if (!waiting_[std::size_t(r)].empty() && st) st = {errc::bad_value, "the queues wait for each other: do all ranks call the same collectives, of the same counts, in one order?", r, 0};
      waiting_[std::size_t(r)].clear();
    }
    return st;
  }

 private:
  struct entry {
    std::function<void()> work;              // or
    std::vector<queued_message> group;
    std::vector<char> met;
    bool begun = false;
    int left = 0;
  };

  bool advance(int r) {
    auto& mine = waiting_[std::size_t(r)];
    bool moved = false;
    while (!mine.empty()) {
      entry& e = mine.front();
      if (e.work) {
        e.work();
      } else {
        if (!e.begun) device_.begin(r), e.begun = true, moved = true;
        for (std::size_t i = 0; i < e.group.size(); ++i) moved |= e.met[i] == 0 && meet(r, e, i);
        if (e.left > 0) return moved;
      }
      mine.pop_front();
      moved = true;
    }
    return moved;
  }
  // The message's other end is the first of its kind that has not met anyone, in the other's present group.
  bool meet(int r, entry& e, std::size_t i) {
    const queued_message& m = e.group[i];
    for (std::size_t k = 0; k < i; ++k)      // of one pair and direction, in order
      if (e.met[k] == 0 && e.group[k].peer == m.peer && (e.group[k].from != nullptr) == (m.from != nullptr)) return false;
    auto& other = waiting_[std::size_t(m.peer)];
    if (other.empty() || !other.front().begun) return false;
    entry& o = other.front();
    for (std::size_t k = 0; k < o.group.size(); ++k) {
      const queued_message& n = o.group[k];
      if (o.met[k] != 0 || n.peer != r || (n.from != nullptr) == (m.from != nullptr)) continue;
      if (n.bytes != m.bytes) return false;
      const bool sending = m.from != nullptr;
      device_.move(sending ? r : m.peer, sending ? m.peer : r, sending ? n.to : m.to, sending ? m.from : n.from, m.bytes);
      e.met[i] = o.met[k] = 1;
      --e.left, --o.left;
      return true;
    }
    return false;
  }
  void add(int r, std::function<void()> work) { waiting_[std::size_t(r)].push_back({std::move(work), {}, {}, false, 0}); }

  Device device_;
  std::deque<queue> ranks_;
  std::vector<std::deque<entry>> waiting_;
};

//! The lane of one rank. It refers to its lanes.
template <class Device> class lanes<Device>::queue {
 public:
  queue(lanes& all, int rank) : all_(&all), rank_(rank) {}
  int rank() const { return rank_; }
  int size() const { return all_->size(); }
  status failure() const { return all_->device_.failure(); }

  void exchange(const queued_message* list, int count) {
    all_->waiting_[std::size_t(rank_)].push_back({{}, std::vector<queued_message>(list, list + count), std::vector<char>(std::size_t(count)), false, count});
  }
  void copy(std::byte* to, const std::byte* from, std::int64_t bytes) {
    all_->add(rank_, [=, this] { all_->device_.copy(rank_, to, from, bytes); });
  }
  template <class C> void lift(const C& c, typename C::accumulator* a, const typename C::element* x, std::int64_t n) {
    all_->add(rank_, [=, this] { all_->device_.lift(rank_, c, a, x, n); });
  }
  template <class C> void merge(const C& c, typename C::accumulator* a, operand<C> left, operand<C> right, std::int64_t n) {
    all_->add(rank_, [=, this] { all_->device_.merge(rank_, c, a, left, right, n); });
  }
  template <class C> void finish(const C& c, typename C::element* x, const typename C::accumulator* a, std::int64_t n, int ranks) {
    all_->add(rank_, [=, this] { all_->device_.finish(rank_, c, x, a, n, ranks); });
  }

 private:
  lanes* all_;
  int rank_;
};

}  // namespace smalti::inline SMALTI_CODE::comm
