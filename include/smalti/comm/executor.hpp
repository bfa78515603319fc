// Runs a collective: checks the arguments, lets the ranks agree on what they are about to do, and carries the schedule out
// over a transport.
//
//     comm::ring schedule(net.size());
//     comm::execution<comm::sum<float>, Transport> all_reduce(net);
//     auto st = all_reduce.run(schedule, {.input = x, .output = y, .items = n}, workspace);
//
// Or without waiting: start(...), then advance() until it says done or failed, computing in between.
//
// FAULTS. Before anything else the ranks exchange 48 bytes each (unless agree = false) and compare: a rank whose count, type,
// operation, schedule or root is not that of most ranks (of the lowest rank, where no opinion has the majority) is told what
// differs; the others are told which rank it is. Nobody's output is touched then, and the group stays usable. A rank that
// does not come, a lost peer or a passed deadline ends the operation on every rank that the transport can reach, with
// errc::peer_lost; the output is then undefined and the epoch is over.
#pragma once
#include <new>

#include <smalti/comm/engine.hpp>
#include <smalti/comm/schedule/direct.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! What an execution is given. Items are C::width elements each.
template <combine_policy C> struct arguments {
  const typename C::element* input = nullptr;     //!< the chunks of schedule.input(rank), side by side
  typename C::element* output = nullptr;          //!< the chunks of schedule.output(rank); may be the input's memory (see promise().in_place)
  std::int64_t items = 0;                         //!< of the whole vector: all parts of all ranks
  C combine{};
  std::int64_t unit = 1;                          //!< even parts begin at multiples of this many items
  const std::int64_t* offsets = nullptr;          //!< ragged parts: parts + 1 offsets, the same on all ranks
  const std::int64_t* output_offsets = nullptr;   //!< all_to_all with blocks of any length: where the output's parts begin; `offsets`
                                                  //!< are the input's then, and both are this rank's own
  std::uint32_t operation = 0;                    //!< number of the operation in the epoch: the same on all ranks, each once
  nanoseconds timeout = 60'000'000'000;           //!< for the whole operation
  int depth = 2;                                  //!< steps in flight
  bool agree = true;                              //!< compare with the other ranks first: log2(P) short messages
};

namespace detail {

// What ranks must mean alike.
struct signature {
  std::uint32_t operation = 0, kind_and_root = 0, schedule = 0, combine = 0;
  std::int64_t items = 0;
  std::uint64_t offsets = 0;
  std::int32_t unit = 0, wire = 0;
  std::int64_t reserved = 0;
  friend constexpr bool operator==(const signature&, const signature&) = default;
};
static_assert(sizeof(signature) == 48);

struct digest {
  std::uint64_t value = 0xcbf29ce484222325ull;
  constexpr void add(std::uint64_t x) { value = (value ^ x) * 0x100000001b3ull, value ^= value >> 29; }
  static void through(void* self, const action& a) {
    auto& d = *static_cast<digest*>(self);
    d.add(std::uint64_t(a.does) | std::uint64_t(a.what) << 4 | std::uint64_t(a.order) << 8 | std::uint64_t(a.slot) << 16 | std::uint64_t(a.with) << 32);
    d.add(std::uint64_t(std::uint32_t(a.peer)) << 32 | std::uint32_t(a.chunks.first));
    d.add(std::uint64_t(a.chunks.count));
  }
};

// A schedule by its shape and rank 0's first and last steps: what differs there differs.
inline std::uint32_t fingerprint(const schedule_view& s) {
  digest d;
  for (const int x : {s.ranks, s.parts, s.pieces, s.steps(), s.scratch_slots(), int(s.promise().order)}) d.add(std::uint64_t(x));
  action_list list(&d, &digest::through);
  s.step(0, 0, list);
  s.step(0, s.steps() - 1, list);
  return std::uint32_t(d.value ^ d.value >> 32);
}

// Compares everyone's signatures. ok; or what this rank is told.
inline status compare(const signature* all, int ranks, int rank) {
  int best = 0, votes = 0;
  for (int i = 0; i < ranks; ++i) {
    int n = 0;
    for (int k = 0; k < ranks; ++k) n += all[k] == all[i];
    if (n > votes) best = i, votes = n;
  }
  if (votes == ranks) return {};
  const signature &mine = all[rank], &most = all[best];
  if (mine == most) {
    for (int i = 0; i < ranks; ++i)
      if (!(all[i] == most)) return {errc::bad_value, "another rank was given a different call: got is its rank, need is ours", i, rank};
  }
  if (mine.operation != most.operation) return {errc::bad_value, "operation: its number differs from the other ranks'", mine.operation, most.operation};
  if (mine.kind_and_root != most.kind_and_root) return {errc::bad_value, "schedule: kind or root differs from the other ranks'", mine.kind_and_root, most.kind_and_root};
  if (mine.schedule != most.schedule) return {errc::bad_value, "schedule: it differs from the other ranks'", mine.schedule, most.schedule};
  if (mine.combine != most.combine) return {errc::bad_value, "combine: operation or element type differs from the other ranks'", mine.combine, most.combine};
  if (mine.items != most.items) return {errc::bad_shape, "items: the count differs from the other ranks'", mine.items, most.items};
  if (mine.wire != most.wire) return {errc::bad_value, "wire: it differs from the other ranks'", mine.wire, most.wire};
  if (mine.unit != most.unit) return {errc::bad_value, "unit: it differs from the other ranks'", mine.unit, most.unit};
  return {errc::bad_shape, "offsets: the parts differ from the other ranks'", std::int64_t(mine.offsets), std::int64_t(most.offsets)};
}

}  // namespace detail

//! One operation after another of one rank. @tparam C combine, @tparam T transport, @tparam W wire
//! Memory: workspace_bytes(...) from the schedule, the rank and the sizes; nothing is allocated. May be moved under way.
template <class C, class T, class W = plain_wire> class execution {
  static_assert(explain_combine<C>());
  static_assert(explain_transport<T>());
  static_assert(explain_wire<W, C>());
  using engine = detail::engine<C, T, W>;
  using agreement = detail::engine<bytes, T, plain_wire>;

 public:
  using args = arguments<C>;

  explicit execution(T& net, W wire = {}) : net_(&net), wire_(wire) {}

  //! Complete and cheap: reads no data, sends nothing.
  template <schedule S> status check(const S& s, const args& x) const { return check_view(schedule_view(s), x); }
  //! Pure: from the schedule, the rank and the arguments' numbers.
  template <schedule S> std::size_t workspace_bytes(const S& s, const args& x) const {
    const schedule_view view(s);
    return check_view(view, x) ? bytes_of(view, x) : 0;
  }

  //! Checks and begins. The schedule, the wire's memory and the arguments' arrays must outlive the execution.
  template <schedule S> status start(const S& s, const args& x, workspace memory) {
    const schedule_view view(s);
    state_ = progress::failed, agreeing_ = false;
    if (failure_ = check_view(view, x); !failure_) return failure_;
    if (failure_ = check_workspace(memory, bytes_of(view, x)); !failure_) return failure_;
    job_ = job_of(view, x);
    epoch_ = job_.tag.epoch;
    const nanoseconds now = net_->now();
    deadline_ = x.timeout >= never_late - now ? never_late : now + x.timeout;
    state_ = progress::blocked;
    begin(view, x, memory);
    return {};
  }

  //! Does what can be done now.
  progress advance() {
    if (state_ != progress::blocked) return state_;
    if (agreeing_) {
      const progress p = agreement_.advance();
      if (p == progress::failed) return give_up(agreement_.failure(), agreement_.lost());
      if (p == progress::blocked) return late(agreement_.waiting_for());
      agreeing_ = false;
      if (const status differs = detail::compare(signatures_, job_.schedule.ranks, job_.rank); !differs) {
        failure_ = differs;
        return state_ = progress::failed;
      }
      engine_.start(job_, *net_, rest_);
    }
    const progress p = engine_.advance();
    if (p == progress::failed) return give_up(engine_.failure(), engine_.lost());
    if (p == progress::blocked) return late(engine_.waiting_for());
    return state_ = p;
  }
  //! Why it failed; ok while it has not.
  const status& failure() const { return failure_; }
  nanoseconds deadline() const { return deadline_; }

  //! Start, and wait for the end.
  template <schedule S> status run(const S& s, const args& x, workspace memory) {
    if (status st = start(s, x, memory); !st) return st;
    while (advance() == progress::blocked) net_->idle(deadline_);
    return failure_;
  }
  //! Ends an operation that is under way, on all ranks: its epoch is over.
  void abort() {
    if (state_ == progress::blocked) give_up({errc::peer_lost, "the group was aborted: open the next epoch (got: the rank that this one waited for, or -1)"}, -1);
  }

 private:
  typename engine::job job_of(const schedule_view& s, const args& x) const {
    const partition cut = s.cut(x.items, x.unit, x.offsets);
    return {s, net_->rank(), cut, x.output_offsets != nullptr ? s.cut(x.output_offsets[s.parts], x.unit, x.output_offsets) : cut,
            x.input, x.output, x.combine, wire_, {net_->epoch(), x.operation}, x.depth};
  }
  static typename agreement::job agreement_job(const bruck& gather, int rank, message_tag tag) {
    const partition one = gather.cut(gather.ranks);
    return {schedule_view(gather), rank, one, one, nullptr, nullptr, bytes{int(sizeof(detail::signature))}, {}, tag, 1};
  }
  struct places { detail::signature *mine, *all; bruck* gather; std::byte *agreement, *rest; std::size_t agreement_bytes, used; };
  places lay_out(const schedule_view& s, const args& x, std::byte* base) const {
    carver c{base};
    places p{};
    if (x.agree) {
      const bruck gather(s.ranks);
      p.mine = c.take<detail::signature>(1);
      p.all = c.take<detail::signature>(std::size_t(s.ranks));
      p.gather = c.take<bruck>(1);   // in the workspace, where it stays when this object is moved: a view points to it
      p.agreement_bytes = agreement::workspace_bytes(agreement_job(gather, net_->rank(), {}));
      p.agreement = c.take<std::byte>(p.agreement_bytes);
    }
    p.rest = c.take<std::byte>(engine::workspace_bytes(job_of(s, x)));
    p.used = c.used;
    return p;
  }
  std::size_t bytes_of(const schedule_view& s, const args& x) const { return lay_out(s, x, nullptr).used; }

  void begin(const schedule_view& s, const args& x, workspace memory) {
    const places p = lay_out(s, x, memory.data);
    rest_ = workspace(p.rest, memory.size - std::size_t(p.rest - memory.data));
    if (!x.agree) return engine_.start(job_, *net_, rest_);
    detail::signature mine{};
    mine.operation = x.operation;
    mine.kind_and_root = std::uint32_t(s.kind) << 24 | std::uint32_t(s.root);
    mine.schedule = detail::fingerprint(s);
    mine.combine = x.combine.code();
    mine.wire = std::int32_t(wire_.code());
    mine.unit = std::int32_t(x.unit);
    const bool own_lengths = x.output_offsets != nullptr;   // each rank has its own blocks: the messages' lengths are compared
    if (!own_lengths) {
      mine.items = x.items;
      detail::digest d;
      if (x.offsets != nullptr)
        for (int i = 0; i <= s.parts; ++i) d.add(std::uint64_t(x.offsets[i]));
      mine.offsets = d.value;
    }
    *p.mine = mine;
    signatures_ = p.all;
    const bruck& gather = *::new (p.gather) bruck(s.ranks);
    auto job = agreement_job(gather, net_->rank(), job_.tag);
    job.input = reinterpret_cast<const std::byte*>(p.mine);
    job.output = reinterpret_cast<std::byte*>(p.all);
    agreement_.start(job, *net_, workspace(p.agreement, p.agreement_bytes));
    agreeing_ = true;
  }
  progress give_up(status why, int lost) {
    // Told by another's deadline, at our own or shortly before: whom this rank waited for says more.
    const int waiting_for = agreeing_ ? agreement_.waiting_for() : engine_.waiting_for();
    failure_ = why;
    if (why.code == errc::peer_lost && lost < 0) {
      if (net_->now() >= deadline_) failure_ = too_late(waiting_for);
      else failure_.got = waiting_for;
    }
    agreeing_ ? agreement_.cancel() : engine_.cancel();
    net_->abort(epoch_, lost);
    return state_ = progress::failed;
  }
  progress late(int waiting_for) {
    if (net_->now() < deadline_) return progress::blocked;
    return give_up(too_late(waiting_for), -1);
  }
  // The one that is waited for may wait itself: the ranks' answers together lead to the one that stays away.
  static status too_late(int waiting_for) {
    return {errc::peer_lost, "the deadline passed before a message came: got is the rank that was waited for (-1: a send)", waiting_for, 0};
  }

  status check_view(const schedule_view& s, const args& x) const {
    if (status st = s.check(); !st) return st;
    if (s.ranks != net_->size()) return {errc::bad_shape, "schedule: ranks must be the transport's size", s.ranks, net_->size()};
    if (x.items < 0) return {errc::bad_shape, "items must not be negative", x.items, 0};
    if (x.depth < 1) return {errc::bad_value, "depth must be at least 1 step", x.depth, 1};
    if (x.timeout < 0) return {errc::bad_value, "timeout must not be negative", x.timeout, 0};
    if (x.combine.width < 1) return {errc::bad_value, "combine: width must be at least 1 element", x.combine.width, 1};
    if (moves_only<C> && reduces(s.kind)) return {errc::bad_value, "combine: comm::bytes only moves: take sum, average, greatest or lse_merge"};
    if constexpr (requires { wire_.width; })
      if (wire_.width != x.combine.width) return {errc::bad_shape, "wire: its width must be the combine's, the elements of an item", wire_.width, x.combine.width};
    if constexpr (requires { { wire_.check() } -> std::same_as<status>; })
      if (status st = wire_.check(); !st) return st;
    if (!W::exact && !s.promise().one_owner)
      return {errc::bad_value, "wire: a lossy one would leave the ranks with different bits, because several ranks form each sum: take direct, ring or halving_doubling"};
    if (status st = s.cut(x.items, x.unit, x.offsets).check(); !st) return st;
    if (x.output_offsets != nullptr) {
      if (s.kind != collective::all_to_all) return {errc::bad_value, "output_offsets are for all_to_all: leave them out"};
      if (x.offsets == nullptr) return {errc::bad_value, "output_offsets need offsets, the input's"};
      if (status st = s.cut(x.output_offsets[s.parts], x.unit, x.output_offsets).check(); !st) return st;
    }
    if (s.kind == collective::all_to_all) {
      if (x.offsets != nullptr && x.output_offsets == nullptr) return {errc::bad_value, "all_to_all with offsets needs output_offsets too"};
      if (x.offsets != nullptr && !s.promise().ragged) return {errc::bad_value, "offsets: this schedule sends blocks by way of other ranks, so all have one length: take pairwise or direct"};
      if (x.offsets == nullptr && x.items % s.chunks() != 0) return {errc::bad_shape, "items must be a multiple of the ranks in an all_to_all: pad, or give offsets", x.items, s.chunks()};
    }
    return check_memory(s, x);
  }
  status check_memory(const schedule_view& s, const args& x) const {
    const int rank = net_->rank();
    const auto job = job_of(s, x);
    const chunk_range in = s.input(rank), out = s.output(rank);
    const std::int64_t in_items = job.cut.length(in), out_items = job.output_cut.length(out);
    if (in_items > 0 && x.input == nullptr) return {errc::null_pointer, "input is null"};
    if (out_items > 0 && x.output == nullptr) return {errc::null_pointer, "output is null"};
    if (in_items == 0 || out_items == 0) return {};
    const auto *a = x.input, *b = static_cast<const typename C::element*>(x.output);
    const std::int64_t w = x.combine.width;
    if (!(a < b + out_items * w && b < a + in_items * w)) return {};
    if (!s.promise().in_place) return {errc::aliased, "output overlaps input: this schedule needs two arrays"};
    if (x.output_offsets != nullptr) return {errc::aliased, "output overlaps input: blocks of different lengths need two arrays"};
    // The same chunk at the same address: then every chunk is.
    if (a - job.cut.offset(in.first) * w != b - job.output_cut.offset(out.first) * w)
      return {errc::aliased, "output overlaps input but not as one vector: each chunk must lie at one address, or nowhere in both"};
    return {};
  }

  T* net_;
  W wire_;
  engine engine_;
  agreement agreement_;
  typename engine::job job_{};
  detail::signature* signatures_ = nullptr;
  workspace rest_;
  std::uint32_t epoch_ = 0;
  nanoseconds deadline_ = never_late;
  bool agreeing_ = false;
  progress state_ = progress::failed;
  status failure_;
};

}  // namespace smalti::inline SMALTI_CODE::comm
