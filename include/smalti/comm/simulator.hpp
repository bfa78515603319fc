// Carries a schedule out on a virtual clock: thousands of ranks in one thread, from the same lists that the executor runs.
//
//     const network net{.inside = {2e-6, 1 / 150e9}, .across = {8e-6, 1 / 25e9}, .group = 4};
//     const simulation s = simulate(nvrar(4, 1024), 1 << 20, net);      // s.seconds
//
// MODEL. A message takes every port on its way in turn: the sender's, where it crosses groups the NICs of both, the receiver's.
// Each is busy for bytes * beta and serves in order of arrival, so that contention follows from who sends where. The head of the
// message reaches the other side alpha after it left this one; the message is there when its last byte is. Combining takes gamma,
// copying kappa per byte; a rank computes and sends at the same time, and enters a step when its sends of `depth`
// steps before have arrived. Receives are taken to be posted in time.
//
// Not in the model: routes inside a switch, packets, protocols, processors that share memory bandwidth.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <queue>
#include <unordered_map>
#include <utility>
#include <vector>
#include <smalti/comm/cost.hpp>
#include <smalti/comm/traffic.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! What a rank did: one message received or sent, or one local action, with its time.
struct trace_line {
  int rank, step;
  verb does;
  int peer;
  std::int64_t bytes;
  double begin, end;
};

struct simulation_options {
  wire_width width{};           //!< bytes of an item in a message
  int depth = 2;
  double jitter = 0;            //!< each message's latency is longer by up to this part of it, drawn from the seed
  std::uint64_t seed = 1;
  int dies = -1;                //!< this rank is gone ...
  double dies_at = 0;           //!< ... from this time on; what it sent before arrives
  int slow_from = -1, slow_to = -1;   //!< messages from one rank to another (-1: any) ...
  double slow_at = 0, slow_by = 1;    //!< ... take this many times as long per byte, from this time on
  double detection = 1e-3;      //!< a rank notices that its peer is gone this long after it began to wait for it, or the peer died
  //! Called for every action that takes or moves something, in no particular order of time.
  std::function<void(const trace_line&)> trace = {};
};

struct simulation {
  status what;                       //!< peer_lost where a rank died and others waited for it
  double seconds = 0;                //!< until the last rank was done, or had noticed
  double first = 0;                  //!< until the first was done
  std::int64_t messages = 0, bytes = 0, actions = 0;
  int done = 0;                      //!< ranks that finished
};

namespace detail {

template <schedule S> class simulated_run {
 public:
  simulated_run(const S& s, const partition& cut, const network& net, const simulation_options& o)
      : s_(s), cut_(cut), net_(net), o_(o), random_(o.seed * 2 + 1), ranks_(std::size_t(s.ranks)),
        out_(std::size_t(s.ranks)), in_(std::size_t(s.ranks)), only_sender_(std::size_t(s.ranks), -1) {
    if (net.group > 0 && net.nics > 0) {
      const std::size_t groups = std::size_t((s.ranks + net.group - 1) / net.group);
      nic_out_.resize(groups * std::size_t(net.nics)), nic_in_.resize(nic_out_.size());
    }
  }

  simulation run() {
    simulation result;
    for (int r = 0; r < s_.ranks; ++r) {
      ranks_[std::size_t(r)].sent.assign(std::size_t(o_.depth), 0.0);
      ranks_[std::size_t(r)].unsent.assign(std::size_t(o_.depth), 0);
      load(r);
      events_.push({0.0, r});
    }
    while (!events_.empty()) {
      const event e = events_.top();
      events_.pop();
      e.what >= 0 ? advance(e.what, e.time) : transmit(~e.what, e.time);
    }
    finish(result);
    return result;
  }

 private:
  struct event {
    double time;
    int what;        // a rank; ~ of a message that has come to its next port
    bool operator<(const event& b) const { return time > b.time || (time == b.time && what > b.what); }   // the earliest on top
  };
  struct state {
    double time = 0, begun = -1;   // begun: to wait
    int step = 0, at = 0;
    bool waiting = false, over = false, dead = false;
    std::vector<action> list;
    std::vector<double> sent;     // when the sends of a step have arrived, for `depth` steps
    std::vector<int> unsent;      // how many of them have not found their time yet
    int held = -1;                // the entry of these that the rank waits for
    int send_peer = -1, recv_peer = -1;
    std::uint32_t send_channel = 0, recv_channel = 0;
  };
  // Messages on their way, in order: chained through one pool.
  struct channel {
    std::int32_t first = -1, last = -1;
    double wire = 0;              // when it is free again
  };
  struct flight { double arrives; std::int32_t next; };
  // A message between its ports.
  struct moving {
    int from, to, step, stage;
    std::int64_t bytes;
    double busy, begin, end;
  };

  std::uint32_t channel_of(int from, int to) {
    const auto [at, fresh] = numbers_.try_emplace(std::int64_t(from) * s_.ranks + to, std::uint32_t(channels_.size()));
    if (fresh) channels_.emplace_back();
    return at->second;
  }
  channel& sending(int r, int peer) {
    state& me = ranks_[std::size_t(r)];
    if (me.send_peer != peer) me.send_peer = peer, me.send_channel = channel_of(r, peer);
    return channels_[me.send_channel];
  }
  channel& receiving(int r, int peer) {
    state& me = ranks_[std::size_t(r)];
    if (me.recv_peer != peer) me.recv_peer = peer, me.recv_channel = channel_of(peer, r);
    return channels_[me.recv_channel];
  }

  void load(int r) {
    state& me = ranks_[std::size_t(r)];
    while (true) {
      action_list list(me.list.data(), int(me.list.capacity()));
      me.list.resize(me.list.capacity());
      list = action_list(me.list.data(), int(me.list.size()));
      s_.step(r, me.step, list);
      if (!list.overflowed()) {
        me.list.resize(std::size_t(list.size()));
        break;
      }
      me.list.reserve(std::size_t(list.size()));
    }
    me.at = 0;
    actions_ += std::int64_t(me.list.size());
  }

  double drawn() {
    random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
    return double(random_ >> 11) * 0x1p-53;
  }
  double dying(int r) const { return r == o_.dies ? o_.dies_at : std::numeric_limits<double>::infinity(); }

  // Rank r does what it can from time t on; stops where others have to be served first.
  void advance(int r, double t) {
    state& me = ranks_[std::size_t(r)];
    me.time = t;
    while (true) {
      if (me.time >= dying(r)) {
        me.dead = true;
        return;
      }
      if (me.at == int(me.list.size())) {
        // The sends of `depth` steps before must have arrived; at the end, those of all steps.
        const bool end = me.step + 1 == s_.steps();
        for (int d = 1; d <= (end ? o_.depth : 1); ++d) {
          const int slot = (me.step + d) % o_.depth;
          if (me.unsent[std::size_t(slot)] > 0) {
            me.held = slot;
            return;
          }
          me.time = std::max(me.time, me.sent[std::size_t(slot)]);
          me.sent[std::size_t(slot)] = 0;
        }
        if (end) {
          me.over = true;
          return;
        }
        ++me.step;
        load(r);
        if (later(r)) return;
        continue;
      }
      const action& a = me.list[std::size_t(me.at)];
      if (a.does == verb::send) {
        const std::int64_t bytes = message_bytes(me);
        if (bytes > 0) post(r, a.peer, bytes);
        me.at = next(me);
      } else if (receives(a.does)) {
        const std::int64_t bytes = message_bytes(me);
        if (bytes > 0) {
          channel& c = receiving(r, a.peer);
          if (c.first < 0) {
            me.waiting = true, me.begun = me.time;
            return;
          }
          flight& f = flights_[std::size_t(c.first)];
          const std::int32_t used = c.first;
          const double begin = me.begun >= 0 ? me.begun : me.time;
          me.begun = -1;
          me.time = std::max(me.time, f.arrives);
          c.first = f.next;
          if (c.first < 0) c.last = -1;
          f.next = unused_, unused_ = used;
          if (o_.trace) o_.trace({r, me.step, a.does, a.peer, bytes, begin, me.time});
          me.time += combining(me) * net_.gamma;
        }
        me.at = next(me);
        if (later(r)) return;
      } else {
        const double rate = a.does == verb::combine ? net_.gamma : net_.kappa;
        const std::int64_t bytes = cut_.length(a.chunks) * o_.width.of(a.does == verb::copy ? content::input : content::partial);
        if (o_.trace && bytes > 0) o_.trace({r, me.step, a.does, -1, bytes, me.time, me.time + double(bytes) * rate});
        me.time += double(bytes) * rate;
        ++me.at;
        if (rate > 0 && later(r)) return;
      }
    }
  }
  // Others come first where they are earlier: ports are served in order of time.
  bool later(int r) {
    const double t = ranks_[std::size_t(r)].time;
    if (events_.empty() || events_.top().time >= t) return false;
    events_.push({t, r});
    return true;
  }
  int next(const state& me) const {
    int i = me.at + 1;
    while (i < int(me.list.size()) && me.list[std::size_t(i)].joined) ++i;
    return i;
  }
  std::int64_t message_bytes(const state& me) const {
    std::int64_t bytes = 0;
    for (int i = me.at, end = next(me); i < end; ++i) bytes += cut_.length(me.list[std::size_t(i)].chunks) * o_.width.of(me.list[std::size_t(i)].what);
    return bytes;
  }
  double combining(const state& me) const {
    std::int64_t bytes = 0;
    for (int i = me.at, end = next(me); i < end; ++i)
      if (me.list[std::size_t(i)].does == verb::recv_combine) bytes += cut_.length(me.list[std::size_t(i)].chunks) * o_.width.of(me.list[std::size_t(i)].what);
    return double(bytes);
  }

  void post(int r, int peer, std::int64_t bytes) {
    state& me = ranks_[std::size_t(r)];
    double busy = double(bytes) * net_.between(r, peer).beta;
    if (o_.slow_by != 1 && (o_.slow_from == r || o_.slow_from == -1) && (o_.slow_to == peer || o_.slow_to == -1) && me.time >= o_.slow_at) busy *= o_.slow_by;
    int m = int(moving_.size());
    if (!idle_.empty()) m = idle_.back(), idle_.pop_back();
    else moving_.emplace_back();
    moving_[std::size_t(m)] = {r, peer, me.step, 0, bytes, busy, me.time, 0};
    ++me.unsent[std::size_t(me.step % o_.depth)];
    ++messages_, bytes_ += bytes;
    transmit(m, me.time);
  }
  std::size_t nic(int r) const { return std::size_t(r / net_.group * net_.nics + r % net_.group % net_.nics); }
  // Takes the ports that are free now; comes back by an event where one is not. A port is claimed when the head gets there.
  void transmit(int number, double now) {
    moving& m = moving_[std::size_t(number)];
    const bool crosses = net_.crosses(m.from, m.to), through_nics = crosses && !nic_out_.empty() && !net_.wires;
    while (m.stage < 5) {
      double* port = nullptr;
      switch (m.stage++) {
        case 0: port = net_.wires ? &sending(m.from, m.to).wire : &out_[std::size_t(m.from)]; break;
        case 1: port = through_nics ? &nic_out_[nic(m.from)] : nullptr; break;
        case 2: {
          const link_cost& link = crosses ? net_.across : net_.inside;
          const double latency = o_.jitter > 0 ? link.alpha * (1 + o_.jitter * drawn()) : link.alpha;
          now += latency, m.end += latency;
          // Alone at its port, a message need not wait for its turn; else others may come first, whose way is shorter.
          int& only = only_sender_[std::size_t(m.to)];
          only = only == -1 || only == m.from ? m.from : several;
          if ((only == several || through_nics) && !net_.wires) return events_.push({now, ~number});
          break;
        }
        case 3: port = through_nics ? &nic_in_[nic(m.to)] : nullptr; break;
        case 4: port = net_.wires ? nullptr : &in_[std::size_t(m.to)]; break;
      }
      if (port == nullptr) continue;
      const double head = std::max(now, *port);
      *port = head + m.busy;
      m.end = std::max(m.end, *port);
      if (head > now && m.stage < 5) return events_.push({head, ~number});
    }
    deliver(number);
  }
  void deliver(int number) {
    const moving m = moving_[std::size_t(number)];
    idle_.push_back(number);
    channel& c = sending(m.from, m.to);
    double end = m.end;
    if (c.last >= 0) end = std::max(end, flights_[std::size_t(c.last)].arrives);    // no overtaking
    std::int32_t f = unused_;
    if (f >= 0) unused_ = flights_[std::size_t(f)].next;
    else f = std::int32_t(flights_.size()), flights_.emplace_back();
    flights_[std::size_t(f)] = {end, -1};
    (c.last >= 0 ? flights_[std::size_t(c.last)].next : c.first) = f;
    c.last = f;
    if (o_.trace) o_.trace({m.from, m.step, verb::send, m.to, m.bytes, m.begin, end});
    state& sender = ranks_[std::size_t(m.from)];
    const std::size_t slot = std::size_t(m.step % o_.depth);
    sender.sent[slot] = std::max(sender.sent[slot], end);
    if (--sender.unsent[slot] == 0 && sender.held == int(slot)) {
      sender.held = -1;
      events_.push({std::max(sender.time, sender.sent[slot]), m.from});
    }
    state& other = ranks_[std::size_t(m.to)];
    if (other.waiting && !other.dead && other.list[std::size_t(other.at)].peer == m.from) {
      other.waiting = false;
      events_.push({std::max(other.begun, end), m.to});
    }
  }

  void finish(simulation& result) {
    result.messages = messages_, result.bytes = bytes_, result.actions = actions_;
    result.first = std::numeric_limits<double>::infinity();
    // Who waits for the dead notices after `detection`; who waits for one that noticed is told at once (abort).
    double noticed = std::numeric_limits<double>::infinity();
    for (const state& me : ranks_) {
      if (me.over) ++result.done, result.seconds = std::max(result.seconds, me.time), result.first = std::min(result.first, me.time);
      else if (!me.dead && o_.dies >= 0 && me.list[std::size_t(me.at)].peer == o_.dies) noticed = std::min(noticed, std::max(me.begun, o_.dies_at) + o_.detection);
    }
    if (result.done == s_.ranks) return;
    if (result.done == 0) result.first = 0;
    const bool all_but_the_dead = result.done == s_.ranks - 1 && o_.dies >= 0 && ranks_[std::size_t(o_.dies)].dead;
    if (all_but_the_dead) return;
    if (noticed < std::numeric_limits<double>::infinity()) {
      result.seconds = std::max(result.seconds, noticed);
      result.what = {errc::peer_lost, "simulate: a rank died and others waited for it: got is its number", o_.dies, 0};
    } else {
      result.what = {errc::bad_value, "simulate: ranks wait for each other: verify the schedule", result.done, s_.ranks};
    }
  }

  const S& s_;
  const partition& cut_;
  const network& net_;
  const simulation_options& o_;
  std::uint64_t random_;
  std::vector<state> ranks_;
  std::vector<double> out_, in_, nic_out_, nic_in_;    // when a port is free again
  std::priority_queue<event> events_;
  std::unordered_map<std::int64_t, std::uint32_t> numbers_;
  std::vector<channel> channels_;
  std::vector<flight> flights_;
  std::int32_t unused_ = -1;
  std::vector<moving> moving_;
  std::vector<int> idle_;         // entries of moving_ that are free
  static constexpr int several = -2;
  std::vector<int> only_sender_;  // of messages to a rank: -1 none yet
  std::int64_t messages_ = 0, bytes_ = 0, actions_ = 0;
};

}  // namespace detail

//! Simulates one call on `items` items. Deterministic: the same arguments, the same result.
//! Cost: about 0.2 us an action; memory for messages in flight and for every pair of ranks that talks.
template <schedule S> simulation simulate(const S& s, std::int64_t items, const network& net, const simulation_options& options = {}) {
  simulation bad;
  if (bad.what = s.check(); !bad.what) return bad;
  const partition cut = s.cut(items);
  if (bad.what = cut.check(); !bad.what) return bad;
  if (options.depth < 1) bad.what = {errc::bad_value, "simulate: depth must be at least 1 step", options.depth, 1};
  else if (net.group < 0 || net.nics < 0) bad.what = {errc::bad_shape, "simulate: group and nics of the network must not be negative", std::min(net.group, net.nics), 0};
  else if (options.dies >= s.ranks) bad.what = {errc::bad_value, "simulate: dies must be one of the ranks", options.dies, s.ranks - 1};
  if (!bad.what) return bad;
  return detail::simulated_run<S>(s, cut, net, options).run();
}

}  // namespace smalti::inline SMALTI_CODE::comm
