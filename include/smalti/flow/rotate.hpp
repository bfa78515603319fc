// The driver of attention over many ranks: carries blocks along a route while its work computes with those at hand. It knows bytes,
// rows and ranks; what a block is and what is computed with it is the work's (context_parallel.hpp, its gradients beside it).
//
// In each step the transfers of the next one are posted before the work computes, and the transport is asked in between, so that
// transfer hides behind computation. A rank has two blocks of a stream at most, and a third that is being shortened.
//
// Faults are those of comm/executor.hpp: a lost peer, a passed deadline and abort() end every rank's run with errc::peer_lost.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <smalti/comm/executor.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/flow/route.hpp>

namespace smalti::inline SMALTI_CODE::flow {

using comm::nanoseconds;
using comm::progress;

//! Rows of a block at hand: `offsets` [sequences + 1] its rows in each plane, `positions` [sequences] where the positions of those begin
//! in the placement, `skipped` [sequences] how many of the home's rows of that sequence come before them.
struct block_rows {
  const int *offsets = nullptr, *positions = nullptr, *skipped = nullptr;
  int rows = 0, most = 0;
};

//! How a run is carried out.
struct run_options {
  std::uint32_t operation = 0;                //!< number of the first of `operations` operations of the epoch that it takes; the same on all ranks
  nanoseconds timeout = 60'000'000'000;       //!< for all of it
  bool agree = true;                          //!< compare shapes, rotation and placements with the other ranks first
  static constexpr std::uint32_t operations = 4;
};

//! Why a context cannot carry the computation of a flow, in one sentence.
template <class Context> consteval bool explain_flow_context() {
  static_assert(std::is_same_v<Context, host_context>,
                "smalti: attention over many ranks computes on a host_context, untuned: transports in the order of a stream are not built, so a GPU's blocks could not be waited for");
  return true;
}

namespace detail {

// What ranks must mean alike.
struct meaning {
  std::uint64_t shape = 0, way = 0, queries = 0, keys = 0;
  friend constexpr bool operator==(const meaning&, const meaning&) = default;
};

inline std::uint64_t digest_of(const placement& p) {
  comm::detail::digest d;
  d.add(std::uint64_t(p.ranks)), d.add(std::uint64_t(p.sequences));
  for (int s = 0; s < p.sequences; ++s) d.add(std::uint64_t(p.lengths[s]));
  for (int i = 0; i <= p.ranks * p.sequences; ++i) d.add(std::uint64_t(p.offsets[i]));
  const int tokens = p.sequences > 0 ? p.offsets[p.ranks * p.sequences] : 0;
  for (int i = 0; i < tokens; ++i) d.add(std::uint64_t(p.positions[i]));
  return d.value;
}

inline status compare(const meaning* all, int ranks, int rank) {
  int best = 0, votes = 0;
  for (int i = 0; i < ranks; ++i) {
    int n = 0;
    for (int k = 0; k < ranks; ++k) n += all[k] == all[i];
    if (n > votes) best = i, votes = n;
  }
  if (votes == ranks) return {};
  const meaning &mine = all[rank], &most = all[best];
  for (int i = 0; mine == most && i < ranks; ++i)
    if (!(all[i] == most)) return {errc::bad_value, "another rank was given a different call: got is its rank, need is ours", i, rank};
  if (mine.shape != most.shape) return {errc::bad_shape, "q, k, v: heads, scale or types differ from the other ranks'"};
  if (mine.way != most.way) return {errc::bad_value, "how: the rotation differs from the other ranks'", std::int64_t(mine.way), std::int64_t(most.way)};
  if (mine.queries != most.queries) return {errc::bad_shape, "queries: the placement differs from the other ranks'"};
  return {errc::bad_shape, "keys: the placement differs from the other ranks'"};
}

}  // namespace detail

//! A rotation of one rank. Work is told in context_parallel.hpp; it answers
//!     trip()                               the travel<Mask> that this is
//!     planes, row_bytes(plane)             of a block: multiples of 16 bytes but for the last plane
//!     pack(plane, s, i, n, to)             rows i .. i + n of sequence s of the own block
//!     yield_bytes()                        of a row of a yield; 0: blocks yield nothing that goes home
//!     own(poll), visit(block, planes, yield, poll)     compute, calling poll() now and then
//!     take(rows, yield)                    a yield has come home
//!     finish()
//! all but the sizes giving a status.
//! Memory: workspace_bytes; nothing is allocated. May be moved while it is under way.
template <class Net, class Work> class rotation_run {
  static_assert(comm::explain_transport<Net>());
  using agreement = comm::detail::engine<comm::bytes, Net, comm::plain_wire>;

 public:
  explicit rotation_run(Net& net) : net_(&net) {}

  static std::size_t workspace_bytes(const Net& net, const Work& work, const run_options& o) { return lay_out(net, work, o, nullptr).used; }

  status start(const Work& work, const run_options& o, workspace memory, std::uint64_t shape) {
    state_ = progress::failed;
    work_ = work, options_ = o;
    m_ = lay_out(*net_, work, o, memory.data);
    way_ = work_.trip().way, rank_ = net_->rank(), epoch_ = net_->epoch();
    const nanoseconds now = net_->now();
    deadline_ = o.timeout >= comm::never_late - now ? comm::never_late : now + o.timeout;
    failure_ = {}, phase_ = phase::begin, step_ = 0, cursor_ = 0, sent_home_ = 0, taken_ = posted_ = 0;
    for (stream& s : streams_) s = {};
    for (yield& y : out_) y = {};
    for (yield& y : in_) y = {};
    for (int i = 0; i < way_.streams(); ++i) streams_[i].held = m_.stream[i].block[0], streams_[i].coming = m_.stream[i].block[1];
    next_out_ = {1, 0}, next_in_ = {1, 0}, next_post_ = {1, 0};
    settle_on(next_in_, true), settle_on(next_post_, true);
    state_ = progress::blocked;
    if (o.agree) {
      phase_ = phase::agree;
      *m_.mine = {shape, std::uint64_t(way_.by.what) | std::uint64_t(way_.by.way) << 8 | std::uint64_t(way_.by.relayed) << 16 | std::uint64_t(way_.by.home) << 24,
                  detail::digest_of(work_.trip().queries), detail::digest_of(work_.trip().keys)};
      ::new (m_.gather) comm::bruck(way_.ranks);
      auto job = agreement_job(*m_.gather, rank_, tag(3));
      job.input = reinterpret_cast<const std::byte*>(m_.mine), job.output = reinterpret_cast<std::byte*>(m_.all);
      agreement_.start(job, *net_, {m_.agreement, m_.agreement_bytes});
    }
    return failure_;
  }

  progress advance() {
    if (state_ != progress::blocked) return state_;
    const progress p = go();
    if (p == progress::failed) return give_up(failure_);
    if (p == progress::blocked && net_->now() >= deadline_) return give_up({errc::peer_lost, "the deadline passed before a message came: got is the rank that was waited for (-1: a send)", waiting_for(), 0});
    return state_ = p;
  }
  const status& failure() const { return failure_; }
  nanoseconds deadline() const { return deadline_; }
  void abort() {
    if (state_ == progress::blocked) give_up({errc::peer_lost, "the group was aborted: open the next epoch"});
  }
  status wait() {
    while (advance() == progress::blocked) net_->idle(deadline_);
    return failure_;
  }

 private:
  enum class phase : std::uint8_t { agree, begin, work, settle, tail, done };
  struct tables { int *offsets, *positions, *skipped; };
  struct stream_memory {
    std::byte* block[2];
    std::byte* shortened;
    tables of[2], leaving;
  };
  struct memory {
    detail::meaning *mine = nullptr, *all = nullptr;
    comm::bruck* gather = nullptr;
    std::byte* agreement = nullptr;
    std::size_t agreement_bytes = 0;
    stream_memory stream[2]{};
    std::byte *out[2]{}, *in[2]{};
    std::byte* all_yields = nullptr;   // at_end: of every block visited, in order of visits
    tables taken{};
    std::size_t used = 0;
  };
  struct stream {
    std::byte *held = nullptr, *coming = nullptr;
    int at = 0;                  // which of the two tables and blocks is held
    int held_rows = 0, coming_rows = 0;
    comm::ticket sending{}, receiving{};
  };
  struct visit_number { int hop, stream; };
  struct yield {
    comm::ticket posted{};
    bool expected = false;       // a receive that has not been taken
    std::int64_t bytes = -1;     // of a receive
  };

  static typename agreement::job agreement_job(const comm::bruck& gather, int rank, comm::message_tag tag) {
    const comm::partition one = gather.cut(gather.ranks);
    return {comm::schedule_view(gather), rank, one, one, nullptr, nullptr, comm::bytes{int(sizeof(detail::meaning))}, {}, tag, 1};
  }
  static std::int64_t row_bytes(const Work& w) {
    std::int64_t n = 0;
    for (int p = 0; p < Work::planes; ++p) n += w.row_bytes(p);
    return n;
  }
  static memory lay_out(const Net& net, const Work& w, const run_options& o, std::byte* base) {
    const auto& trip = w.trip();
    const route& way = trip.way;
    const int ranks = way.ranks, rank = net.rank(), sequences = trip.moving().sequences;
    carver c{base};
    memory m{};
    if (o.agree) {
      m.mine = c.take<detail::meaning>(1), m.all = c.take<detail::meaning>(std::size_t(ranks)), m.gather = c.take<comm::bruck>(1);
      const comm::bruck gather(ranks);
      m.agreement_bytes = agreement::workspace_bytes(agreement_job(gather, rank, {}));
      m.agreement = c.take<std::byte>(m.agreement_bytes);
    }
    int most = 0;                                // rows of any block
    for (int r = 0; r < ranks; ++r) most = std::max(most, trip.moving().rows(r));
    const auto take_tables = [&] { return tables{c.take<int>(std::size_t(sequences) + 1), c.take<int>(std::size_t(sequences)), c.take<int>(std::size_t(sequences))}; };
    for (int i = 0; i < way.streams() && ranks > 1; ++i) {
      stream_memory& s = m.stream[i];
      for (int k = 0; k < 2; ++k) s.block[k] = c.take<std::byte>(std::size_t(most * row_bytes(w))), s.of[k] = take_tables();
      s.shortened = c.take<std::byte>(std::size_t(most * row_bytes(w))), s.leaving = take_tables();
    }
    if (w.yield_bytes() > 0 && ranks > 1) {
      m.taken = take_tables();
      const std::int64_t own = trip.moving().rows(rank) * w.yield_bytes();
      for (int k = 0; k < 2; ++k) m.in[k] = c.take<std::byte>(std::size_t(own));
      if (way.by.home == returns::at_once) {
        for (int k = 0; k < 2; ++k) m.out[k] = c.take<std::byte>(std::size_t(most * w.yield_bytes()));
      } else {
        std::int64_t bytes = 0;
        for (int i = 0; i < way.streams(); ++i)
          for (int hop = 1; hop <= way.hops(i); ++hop) bytes += comm::detail::aligned(trip.moving().rows(way.home(rank, i, hop)) * w.yield_bytes());
        m.all_yields = c.take<std::byte>(std::size_t(bytes));
      }
    }
    m.used = c.used;
    return m;
  }

  comm::message_tag tag(int which) const { return {epoch_, options_.operation + std::uint32_t(which)}; }

  // ---- what can be done now
  progress go() {
    while (true) {
      if (phase_ == phase::agree) {
        const progress p = agreement_.advance();
        if (p == progress::failed) return failure_ = agreement_.failure(), lost_ = agreement_.lost(), progress::failed;
        if (p == progress::blocked) return p;
        if (failure_ = detail::compare(m_.all, way_.ranks, rank_); !failure_) {
          phase_ = phase::done;                  // nothing was posted: the group stays usable
          return disagreed_ = true, progress::failed;
        }
        phase_ = phase::begin;
      }
      if (!receive_yields()) return progress::failed;
      switch (phase_) {
        case phase::begin:
          for (int i = 0; i < way_.streams(); ++i)
            if (step_ < way_.hops(i)) post(i);
          cursor_ = 0, phase_ = phase::work;
          break;
        case phase::work:
          if (step_ == 0) {
            if (const status bad = work_.own([this] { poll(); }); !bad) failure_ = bad;
            if (!failure_) return progress::failed;
            cursor_ = way_.streams();
          }
          for (; cursor_ < way_.streams(); ++cursor_) {
            const progress p = visit(cursor_);
            if (p != progress::done) return p;
          }
          phase_ = phase::settle;
          break;
        case phase::settle:
          for (int i = 0; i < way_.streams(); ++i)
            if (!ended(streams_[i].sending) || !ended(streams_[i].receiving, streams_[i].coming_rows * row_bytes(work_))) return failure_ ? progress::blocked : progress::failed;
          for (stream& s : streams_) std::swap(s.held, s.coming), s.at ^= 1, s.held_rows = s.coming_rows, s.coming_rows = 0;
          phase_ = ++step_ > way_.steps() ? phase::tail : phase::begin;
          break;
        case phase::tail:
          if (const progress p = finish_yields(); p != progress::done) return p;
          if (mutant(defect::alone_merges_itself) && way_.ranks == 1) failure_ = work_.take({}, nullptr);
          if (failure_ = work_.finish(); !failure_) return progress::failed;
          phase_ = phase::done;
          break;
        default: return progress::done;
      }
    }
  }

  // The tables of a block as it is at its hop-th visit; its rows.
  int describe(tables& t, int home, int stream, int hop) {
    const auto& trip = work_.trip();
    const placement& p = trip.moving();
    t.offsets[0] = 0;
    for (int s = 0; s < p.sequences; ++s) {
      const policy::span rows = trip.carried(s, home, stream, hop);
      t.offsets[s + 1] = t.offsets[s] + rows.last - rows.first;
      t.positions[s] = p.first(home)[s] + rows.first, t.skipped[s] = rows.first;
    }
    return p.sequences > 0 ? t.offsets[p.sequences] : 0;
  }
  block_rows rows_of(const tables& t) const {
    const int sequences = work_.trip().moving().sequences;
    block_rows b{t.offsets, t.positions, t.skipped, sequences > 0 ? t.offsets[sequences] : 0, 0};
    for (int s = 0; s < sequences; ++s) b.most = std::max(b.most, t.offsets[s + 1] - t.offsets[s]);
    return b;
  }

  // Posts what leaves and what comes while step_ is computed.
  void post(int i) {
    stream& s = streams_[i];
    stream_memory& m = m_.stream[i];
    const int hop = step_ + 1, coming_home = way_.home(rank_, i, hop);
    s.coming_rows = describe(m.of[s.at ^ 1], coming_home, i, hop);
    const std::int64_t row = row_bytes(work_);
    if (s.coming_rows > 0) s.receiving = net_->post_recv(way_.by.relayed ? way_.home(rank_, i, 1) : coming_home, tag(i), s.coming, s.coming_rows * row);
    const int leaving_home = way_.by.relayed ? way_.home(rank_, i, step_) : rank_;
    const int leaving = describe(m.leaving, leaving_home, i, hop);
    if (leaving == 0) return;
    const bool own = leaving_home == rank_;
    const std::byte* from = !own && leaving == s.held_rows ? s.held : m.shortened;
    if (from == m.shortened) shorten(m, s, own, leaving);
    s.sending = net_->post_send(way_.by.relayed ? way_.holder(rank_, i, 1) : way_.holder(rank_, i, hop), tag(i), from, leaving * row);
  }
  void shorten(stream_memory& m, const stream& s, bool own, int leaving) {
    const int sequences = work_.trip().moving().sequences;
    const tables &now = m.of[s.at], &then = m.leaving;
    std::byte* to = m.shortened;
    const std::byte* from = s.held;
    for (int p = 0; p < Work::planes; ++p) {
      const std::int64_t row = work_.row_bytes(p);
      for (int q = 0; q < sequences; ++q) {
        const int n = then.offsets[q + 1] - then.offsets[q];
        if (n == 0) continue;
        std::byte* here = to + then.offsets[q] * row;
        if (own) work_.pack(p, q, then.skipped[q], n, here);
        else std::memcpy(here, from + (now.offsets[q] + then.skipped[q] - now.skipped[q]) * row, std::size_t(n * row));
      }
      to += leaving * row, from += s.held_rows * row;
    }
  }

  progress visit(int i) {
    stream& s = streams_[i];
    if (step_ > way_.hops(i) || s.held_rows == 0) return progress::done;
    const int home = way_.home(rank_, i, step_);
    std::byte* to = nullptr;
    const bool yields = work_.yield_bytes() > 0, at_once = way_.by.home == returns::at_once;
    if (yields && at_once) {
      if (!ended(out_[sent_home_ % 2].posted)) return failure_ ? progress::blocked : progress::failed;
      to = m_.out[sent_home_ % 2];
    } else if (yields) {
      to = m_.all_yields + yields_before(step_, i);
    }
    const std::byte* planes[Work::planes];
    std::int64_t used = 0;
    for (int p = 0; p < Work::planes; ++p) planes[p] = s.held + used, used += s.held_rows * work_.row_bytes(p);
    if (const status bad = work_.visit(rows_of(m_.stream[i].of[s.at]), planes, to, [this] { poll(); }); !bad) failure_ = bad;
    if (!failure_) return progress::failed;      // of the work, or what poll() has found
    if (yields && at_once) {
      out_[sent_home_ % 2].posted = net_->post_send(home, tag(2), to, s.held_rows * work_.yield_bytes());
      ++sent_home_;
    }
    return progress::done;
  }
  // Where the yield of a visit lies among all: behind those of the visits before it, whole blocks counted.
  std::int64_t yields_before(int hop, int stream) const {
    std::int64_t bytes = 0;
    for (visit_number v{1, 0}; v.hop < hop || (v.hop == hop && v.stream < stream); next(v))
      if (v.hop <= way_.hops(v.stream)) bytes += comm::detail::aligned(work_.trip().moving().rows(way_.home(rank_, v.stream, v.hop)) * work_.yield_bytes());
    return bytes;
  }
  void next(visit_number& v) const {
    if (++v.stream == way_.streams()) v.stream = 0, ++v.hop;
  }
  // To the first visit from v on that has a yield: of the own block elsewhere (coming), or of others here.
  void settle_on(visit_number& v, bool coming) const {
    while (v.hop <= way_.steps() && (v.hop > way_.hops(v.stream) || work_.trip().carried_rows(coming ? rank_ : way_.home(rank_, v.stream, v.hop), v.stream, v.hop) == 0)) next(v);
  }

  // ---- yields
  // Posts receives, two ahead, and takes what has come, in the order of visits.
  bool receive_yields() {
    if (work_.yield_bytes() == 0 || phase_ == phase::done) return true;
    if (way_.by.home == returns::at_end && phase_ != phase::tail) return true;
    while (true) {
      while (posted_ < taken_ + 2 && next_post_.hop <= way_.steps()) {
        const visit_number v = next_post_;
        yield& y = in_[posted_ % 2];
        y.bytes = work_.trip().carried_rows(rank_, v.stream, v.hop) * work_.yield_bytes(), y.expected = true;
        y.posted = net_->post_recv(way_.holder(rank_, v.stream, v.hop), tag(2), m_.in[posted_ % 2], y.bytes);
        ++posted_, next(next_post_), settle_on(next_post_, true);
      }
      yield& y = in_[taken_ % 2];
      if (taken_ == posted_ || !y.expected || !ended(y.posted, y.bytes)) return bool(failure_);
      describe(m_.taken, rank_, next_in_.stream, next_in_.hop);
      if (failure_ = work_.take(rows_of(m_.taken), m_.in[taken_ % 2]); !failure_) return false;
      y.expected = false;
      ++taken_, next(next_in_), settle_on(next_in_, true);
    }
  }
  progress finish_yields() {
    if (work_.yield_bytes() == 0) return progress::done;
    if (way_.by.home == returns::at_end)   // pairwise: in turn h every rank sends to h below and receives from h above, or the other way
      for (settle_on(next_out_, false); next_out_.hop <= way_.steps(); next(next_out_), settle_on(next_out_, false)) {
        if (!ended(out_[sent_home_ % 2].posted)) return failure_ ? progress::blocked : progress::failed;
        const int home = way_.home(rank_, next_out_.stream, next_out_.hop);
        out_[sent_home_ % 2].posted = net_->post_send(home, tag(2), m_.all_yields + yields_before(next_out_.hop, next_out_.stream),
                                                      work_.trip().carried_rows(home, next_out_.stream, next_out_.hop) * work_.yield_bytes());
        ++sent_home_;
      }
    if (!receive_yields()) return progress::failed;
    if (next_in_.hop <= way_.steps()) return progress::blocked;
    for (yield& y : out_)
      if (!ended(y.posted)) return failure_ ? progress::blocked : progress::failed;
    return progress::done;
  }

  // ---- tickets
  // `bytes`: what is received must have; -1: a send.
  bool ended(comm::ticket& t, std::int64_t bytes = -1) {
    if (!t) return true;
    const comm::delivery_report report = net_->test(t);
    if (report.state == comm::delivery::pending) return false;
    t = {};
    if (report.state == comm::delivery::done && (bytes < 0 || report.bytes == bytes)) return true;
    lost_ = report.lost;
    if (report.state == comm::delivery::done) failure_ = {errc::bad_shape, "a message is shorter than this rank expects: calls differ between ranks", report.bytes, bytes};
    else if (report.state == comm::delivery::too_long) failure_ = {errc::bad_shape, "a message is longer than this rank expects: calls differ between ranks", report.bytes, 0};
    else if (report.state == comm::delivery::peer_lost) failure_ = {errc::peer_lost, "a rank that this one waits for has died: leave it out and open the next epoch", report.lost, 0};
    else failure_ = {errc::peer_lost, report.lost >= 0 ? "the group was aborted because a rank was lost: leave it out and open the next epoch" : "the group was aborted: open the next epoch", report.lost, 0};
    return false;
  }
  // Lets the transport move; what has ended is seen by go(), failures too.
  void poll() {
    for (stream& s : streams_) {
      if (failure_) ended(s.receiving, s.coming_rows * row_bytes(work_));
      if (failure_) ended(s.sending);
    }
  }
  template <class F> void each_ticket(F f) {
    for (stream& s : streams_) f(s.sending), f(s.receiving);
    for (yield& y : out_) f(y.posted);
    for (yield& y : in_) f(y.posted);
  }
  int waiting_for() const {
    if (phase_ == phase::agree) return agreement_.waiting_for();
    for (int i = 0; i < way_.streams(); ++i)
      if (streams_[i].receiving) return way_.home(rank_, i, way_.by.relayed ? 1 : step_ + 1);
    if (taken_ < posted_) return way_.holder(rank_, next_in_.stream, next_in_.hop);
    return -1;
  }
  progress give_up(status why) {
    failure_ = why;
    each_ticket([this](comm::ticket& t) {
      if (t) net_->cancel(t), t = {};
    });
    if (phase_ == phase::agree) agreement_.cancel();
    if (!disagreed_) net_->abort(epoch_, lost_);
    return state_ = progress::failed;
  }

  Net* net_;
  agreement agreement_;
  Work work_{};
  run_options options_;
  memory m_;
  route way_;
  int rank_ = 0, step_ = 0, cursor_ = 0, lost_ = -1;
  std::int64_t sent_home_ = 0, taken_ = 0, posted_ = 0;
  visit_number next_out_{1, 0}, next_in_{1, 0}, next_post_{1, 0};
  std::uint32_t epoch_ = 0;
  nanoseconds deadline_ = comm::never_late;
  stream streams_[2];
  yield out_[2], in_[2];
  phase phase_ = phase::done;
  bool disagreed_ = false;
  progress state_ = progress::failed;
  status failure_;
};

//! One call after another of one rank, of a System that rotates: check, workspace, then start and advance, or run. The arrays and
//! tables of args must live until it is done.
//! System:  check(net, args), work_of(context, net, args, memory) and shape_of(args), which may be private to its friend
template <class System, class Net> class rotation_execution {
  using args = typename System::args;
  using work = typename System::work;

 public:
  explicit rotation_execution(Net& net) : net_(&net), run_(net) {}

  static std::size_t workspace_bytes(const host_context& context, const Net& net, const args& x) {
    if (!System::check(net, x)) return 0;
    const work w = System::work_of(context, net, x, nullptr);
    return before_the_run(w) + rotation_run<Net, work>::workspace_bytes(net, w, x.options);
  }
  template <class Context> status start(const Context&, const args&, workspace) {
    static_assert(explain_flow_context<Context>());
    return {};
  }
  template <class Context> status run(const Context&, const args&, workspace) {
    static_assert(explain_flow_context<Context>());
    return {};
  }
  status start(const host_context& context, const args& x, workspace memory) {
    if (const status bad = first_of([&] { return System::check(*net_, x); }, [&] { return check_workspace(memory, workspace_bytes(context, *net_, x)); }); !bad) return bad;
    const work w = System::work_of(context, *net_, x, memory.data);
    const std::size_t used = before_the_run(w);
    return run_.start(w, x.options, {memory.data + used, memory.size - used}, System::shape_of(x));
  }
  progress advance() { return run_.advance(); }
  const status& failure() const { return run_.failure(); }
  nanoseconds deadline() const { return run_.deadline(); }
  void abort() { run_.abort(); }
  //! Start, and wait for the end.
  status run(const host_context& context, const args& x, workspace memory) {
    if (const status bad = start(context, x, memory); !bad) return bad;
    return run_.wait();
  }

 private:
  static std::size_t before_the_run(const work& w) { return (w.m.used + 255) / 256 * 256; }
  Net* net_;
  rotation_run<Net, work> run_;
};

}  // namespace smalti::inline SMALTI_CODE::flow
