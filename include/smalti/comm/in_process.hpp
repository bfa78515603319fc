// Many ranks in one thread: a transport for tests and for programs that want to see every interleaving again. The order in
// which ranks run, and how long each message takes, are drawn from a seed: the same seed, the same run.
//
//     in_process net(4, {.seed = 7});
//     auto at = net.rank(2);                   // the transport of rank 2
//     run_together(net, executions);           // carries them all out
//
// Time is the net's own and moves only when nobody can: deadlines are exact and cost nothing.
#pragma once
#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <vector>
#include <smalti/comm/transport.hpp>

namespace smalti::inline SMALTI_CODE::comm {

struct in_process_options {
  std::uint64_t seed = 1;
  nanoseconds most_delay = 0;    //!< a message takes 0 to this long; messages of one pair and tag stay in order
  bool eager = false;            //!< true: a send is copied and ends at once. false: its memory is read when it is delivered,
                                 //!< so that overwriting it too early shows
};

class in_process {
 public:
  explicit in_process(int ranks, in_process_options options = {})
      : size_(ranks), options_(options), random_(options.seed * 2 + 1), dead_(std::size_t(ranks)), calls_(std::size_t(ranks)), dies_at_(std::size_t(ranks), -1) {}
  in_process(const in_process&) = delete;
  in_process& operator=(const in_process&) = delete;

  class endpoint;
  endpoint rank(int r);
  int size() const { return size_; }

  //! The rank is gone: what it posted and was not delivered is lost, and every ticket that waits for it ends.
  void kill(int rank) {
    ++changes_;
    dead_[std::size_t(rank)] = true;
    for (auto& [key, q] : queues_)
      if (key.from == rank)   // copied messages were on their way already
        std::erase_if(q.sends, [&](const posted& s) { return !options_.eager && tickets_[s.slot].state == delivery::pending; });
  }
  //! The rank dies in its n-th call of post_send or post_recv (from 0).
  void kill_in_call(int rank, std::int64_t n) { dies_at_[std::size_t(rank)] = n; }
  bool dead(int rank) const { return dead_[std::size_t(rank)]; }
  std::int64_t calls(int rank) const { return calls_[std::size_t(rank)]; }

  //! Opens the next epoch: a new life for those that are left. Messages of earlier ones are never delivered.
  void open(std::uint32_t epoch) { epoch_ = epoch; }

  nanoseconds now() const { return now_; }
  //! Counts what has moved: posts, deliveries, losses.
  std::uint64_t changes() const { return changes_; }
  //! Moves time to the next delivery, or to `latest`; false where there is nothing to wait for.
  bool wait(nanoseconds latest) {
    nanoseconds next = latest;
    for (const auto& [key, q] : queues_)
      if (!q.sends.empty() && !q.receives.empty() && q.sends.front().arrives > now_) next = std::min(next, q.sends.front().arrives);
    if (next == never_late) return false;
    now_ = std::max(now_, next);
    return true;
  }
  std::uint64_t draw() {   // xorshift: the same numbers with every library
    random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
    return random_ * 0x2545f4914f6cdd1dull;
  }

 private:
  struct key {
    int from, to;
    std::uint32_t epoch, operation;
    auto operator<=>(const key&) const = default;
  };
  struct posted {
    std::size_t slot;            // of its ticket
    const std::byte* from = nullptr;
    std::byte* to = nullptr;
    std::int64_t bytes = 0;
    nanoseconds arrives = 0;
    std::vector<std::byte> copy;
  };
  struct queue {
    std::deque<posted> sends, receives;
    nanoseconds last = 0;
  };
  struct record {
    std::uint32_t generation = 0, epoch = 0;
    bool used = false, sending = false;
    int owner = -1, peer = -1;
    key in{};
    delivery state = delivery::pending;
    std::int64_t bytes = 0;
  };

  std::size_t take(int owner, int peer, message_tag tag, bool sending) {
    std::size_t i = 0;
    if (!free_.empty()) i = free_.back(), free_.pop_back();
    else i = tickets_.size(), tickets_.emplace_back();
    record& t = tickets_[i];
    t.used = true, t.sending = sending, t.owner = owner, t.peer = peer, t.epoch = tag.epoch, t.state = delivery::pending, t.bytes = 0;
    t.in = sending ? key{owner, peer, tag.epoch, tag.operation} : key{peer, owner, tag.epoch, tag.operation};
    ++t.generation, ++changes_;
    return i;
  }
  ticket name(std::size_t i) const { return {std::int64_t(std::uint64_t(tickets_[i].generation & 0x7fffffffu) << 32 | i)}; }
  void count_call(int rank) {
    if (calls_[std::size_t(rank)]++ == dies_at_[std::size_t(rank)]) kill(rank);
  }

  ticket send(int from, int to, message_tag tag, const std::byte* data, std::int64_t bytes) {
    count_call(from);
    const std::size_t i = take(from, to, tag, true);
    tickets_[i].bytes = bytes;
    if (dead_[std::size_t(from)]) return name(i);
    queue& q = queues_[tickets_[i].in];
    posted p{i, data, nullptr, bytes, 0, {}};
    p.arrives = q.last = std::max(q.last, now_ + (options_.most_delay > 0 ? nanoseconds(draw() % std::uint64_t(options_.most_delay + 1)) : 0));
    if (options_.eager) {
      p.copy.assign(data, data + bytes);
      tickets_[i].state = delivery::done;
    }
    q.sends.push_back(std::move(p));
    return name(i);
  }
  ticket recv(int to, int from, message_tag tag, std::byte* data, std::int64_t capacity) {
    count_call(to);
    const std::size_t i = take(to, from, tag, false);
    if (!dead_[std::size_t(to)]) queues_[tickets_[i].in].receives.push_back({i, nullptr, data, capacity, 0, {}});
    return name(i);
  }
  void deliver(const key& k) {
    const auto found = queues_.find(k);
    if (found == queues_.end() || k.epoch != epoch_) return;
    queue& q = found->second;
    while (!q.sends.empty() && !q.receives.empty() && q.sends.front().arrives <= now_) {
      posted s = std::move(q.sends.front()), r = q.receives.front();
      q.sends.pop_front(), q.receives.pop_front();
      record& got = tickets_[r.slot];
      got.bytes = s.bytes;
      got.state = s.bytes > r.bytes ? delivery::too_long : delivery::done;
      if (got.state == delivery::done && s.bytes > 0) std::memcpy(r.to, options_.eager ? s.copy.data() : s.from, std::size_t(s.bytes));
      if (!options_.eager) tickets_[s.slot].state = delivery::done;
    }
    if (q.sends.empty() && q.receives.empty()) queues_.erase(found);
  }
  delivery_report test(ticket k) {
    const std::size_t i = std::size_t(k.number & 0xffffffff);
    if (!k || i >= tickets_.size() || !tickets_[i].used || name(i) != k) return {delivery::aborted};
    record& t = tickets_[i];
    if (t.state == delivery::pending) deliver(t.in);
    delivery_report report{t.state, t.bytes, -1};
    if (t.state == delivery::pending) {
      if (t.epoch != epoch_ || (aborted_ && t.epoch <= aborted_epoch_)) report = {delivery::aborted, 0, lost_};
      else if (dead_[std::size_t(t.peer)]) report = {delivery::peer_lost, 0, t.peer};
      else if (dead_[std::size_t(t.owner)]) report = {delivery::aborted, 0, t.owner};
    }
    if (report.state != delivery::pending) drop(i);
    return report;
  }
  void cancel(ticket k) {
    const std::size_t i = std::size_t(k.number & 0xffffffff);
    if (k && i < tickets_.size() && tickets_[i].used && name(i) == k) drop(i);
  }
  void drop(std::size_t i) {
    record& t = tickets_[i];
    if (t.state == delivery::pending) {
      if (const auto found = queues_.find(t.in); found != queues_.end())
        std::erase_if(t.sending ? found->second.sends : found->second.receives, [&](const posted& p) { return p.slot == i; });
    }
    t.used = false, ++changes_;
    free_.push_back(i);
  }
  void abort(std::uint32_t epoch, int lost) {
    if (aborted_ && epoch <= aborted_epoch_) return;
    ++changes_;
    aborted_ = true, aborted_epoch_ = epoch, lost_ = lost;
  }

  int size_;
  in_process_options options_;
  std::uint64_t random_, changes_ = 0;
  std::uint32_t epoch_ = 0, aborted_epoch_ = 0;
  bool aborted_ = false;
  int lost_ = -1;
  nanoseconds now_ = 0;
  std::vector<char> dead_;
  std::vector<std::int64_t> calls_, dies_at_;
  std::map<key, queue> queues_;
  std::vector<record> tickets_;
  std::vector<std::size_t> free_;
};

//! The transport of one rank. It refers to its net.
class in_process::endpoint {
 public:
  endpoint(in_process& net, int rank) : net_(&net), rank_(rank) {}
  int rank() const { return rank_; }
  int size() const { return net_->size_; }
  std::uint32_t epoch() const { return net_->epoch_; }
  nanoseconds now() { return net_->now_; }
  ticket post_send(int peer, message_tag tag, const std::byte* data, std::int64_t bytes) { return net_->send(rank_, peer, tag, data, bytes); }
  ticket post_recv(int peer, message_tag tag, std::byte* data, std::int64_t capacity) { return net_->recv(rank_, peer, tag, data, capacity); }
  delivery_report test(ticket k) { return net_->test(k); }
  void cancel(ticket k) { net_->cancel(k); }
  void idle(nanoseconds deadline) { net_->wait(deadline); }   // alone in its thread, a rank can only let time pass
  void abort(std::uint32_t epoch, int lost) { net_->abort(epoch, lost); }
  bool dead() const { return net_->dead(rank_); }

 private:
  in_process* net_;
  int rank_;
};
inline in_process::endpoint in_process::rank(int r) { return {*this, r}; }
static_assert(transport<in_process::endpoint>);

}  // namespace smalti::inline SMALTI_CODE::comm
