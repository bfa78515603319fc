// A collective schedule as data: for every rank the list of what it sends, receives and combines, step by step. No
// element type, transport, codec or memory is named here, so that one list drives the executor, the simulator, the static
// checks (verify.hpp) and the pictures.
//
// A schedule answers  step(rank, step, list): the actions of one rank in one step. Lists are made when they are needed:
// a ring of 4,096 ranks is 67 million actions and no memory.
//
// MEANING. Each rank has slots: input_slot (its argument, never written), output_slot (its result) and scratch slots
// from first_scratch on, where sums grow. A slot holds chunks (partition.hpp). A rank carries out its list in order:
//     send          the chunks of `slot` as they are now go to `peer`
//     recv          `slot` = what comes from `peer`
//     recv_combine  `slot` = `with` (+) what comes from `peer`, or the other way round: `side` says which stands left
//     combine       `slot` = `slot` (+) `with`, or the other way round
//     copy          `slot` = `with`; from input_slot to scratch it lifts items into the accumulator's type
//     finish        `slot` = the finished sums of `with`: division of an average, one rounding to the item's type.
//                   `with` holds nothing afterwards
// An action with `joined` belongs to the same message as the action before it. The k-th message from rank a to rank b
// in a's list is the k-th that b's list receives from a, and both lists have it in the same step.
//
// TYPES. input_slot and output_slot hold items; scratch slots hold accumulators in a collective that reduces, items in
// one that moves. `what` says what a message holds: input (items as given), partial (accumulators), result (finished items,
// which everyone forwards as they came: encode them once, at the owner).
//
// AN EXECUTOR MUST
//   1. give the result that the lists, carried out in order with sends that never wait, would give. It may run ahead: post
//      receives early, let sends finish late, as long as no chunk is overwritten that an earlier action still reads or a
//      send still holds, and none is read before it is written.
//   2. with `depth` >= 1 steps in flight: post all receives of step s on entering step s - depth + 1 or earlier, and enter step
//      s when the sends of steps up to s - depth have ended. A send may wait until its receive is posted, and for
//      nothing else: sends of one step never wait for each other. verify.hpp proves that depth 1 never deadlocks.
//   3. leave out a message whose chunks are all empty, at both ends; chunk lengths follow from the partition alone.
//   4. fold with (+) in exactly the order written: nothing by order of arrival.
//   5. accept in place (input and output one memory) only where the schedule's promise says so.
//   6. on a lost peer, a deadline or abort end every wait, and say so; never hang.
#pragma once
#include <concepts>
#include <cstdint>
#include <smalti/comm/partition.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/status.hpp>

namespace smalti::inline SMALTI_CODE::comm {

enum class collective : std::uint8_t {
  all_reduce,      //!< out = in_0 (+) ... (+) in_{P-1}, on every rank
  reduce_scatter,  //!< out = part r of that sum, on rank r
  reduce,          //!< out = the sum, on the root
  all_gather,      //!< part r of out = in of rank r, on every rank
  all_to_all,      //!< part s of out on rank r = part r of in on rank s
  broadcast,       //!< out = in of the root, on every rank
  gather,          //!< part r of out on the root = in of rank r
  scatter,         //!< out on rank r = part r of in on the root
  send_recv        //!< out on one rank = in on another
};
constexpr bool reduces(collective c) {
  return c == collective::all_reduce || c == collective::reduce_scatter || c == collective::reduce;
}
constexpr const char* name(collective c) {
  switch (c) {
    case collective::all_reduce: return "all_reduce";
    case collective::reduce_scatter: return "reduce_scatter";
    case collective::reduce: return "reduce";
    case collective::all_gather: return "all_gather";
    case collective::all_to_all: return "all_to_all";
    case collective::broadcast: return "broadcast";
    case collective::gather: return "gather";
    case collective::scatter: return "scatter";
    case collective::send_recv: return "send_recv";
  }
  return "unknown";
}

enum class verb : std::uint8_t { send, recv, recv_combine, combine, copy, finish };
constexpr bool receives(verb v) { return v == verb::recv || v == verb::recv_combine; }

//! What a message holds: items as the caller gave them, accumulators, or finished items.
enum class content : std::uint8_t { input, partial, result };

//! Which operand of (+) stands left: what is here, or what comes in. Fixed, so that all ranks form the same bits.
enum class side : std::uint8_t { here_first, incoming_first };

constexpr int input_slot = 0, output_slot = 1, first_scratch = 2;

//! One line of a rank's list. Make them with the words of action_list.
struct action {
  verb does = verb::send;
  content what = content::input;
  side order = side::here_first;
  bool joined = false;         //!< part of the same message as the action before
  std::uint16_t slot = 0;      //!< what is sent, or where the result goes
  std::uint16_t with = 0;      //!< recv_combine: the operand that is here; combine, copy, finish: where the operand is
  std::int32_t peer = -1;      //!< of send and recv
  chunk_range chunks;          //!< in `slot`; in `with` too, except:
  std::int32_t from = 0;       //!< copy: the first chunk in `with`
};

//! Collects the actions of a step into memory of the caller's; without memory it counts.
class action_list {
 public:
  constexpr action_list() = default;
  constexpr action_list(action* memory, int capacity) : data_(memory), capacity_(capacity) {}
  //! A list that keeps nothing and hands each action on: how a schedule is embedded in another.
  constexpr action_list(void* map, void (*through)(void*, const action&)) : map_(map), through_(through) {}

  constexpr void send(int peer, int slot, chunk_range chunks, content what) {
    add({verb::send, what, side::here_first, false, std::uint16_t(slot), 0, peer, chunks, chunks.first});
  }
  //! Lifts, where items (input) come into scratch of a reduction.
  constexpr void recv(int peer, int slot, chunk_range chunks, content what) {
    add({verb::recv, what, side::here_first, false, std::uint16_t(slot), 0, peer, chunks, chunks.first});
  }
  //! slot = with (+) incoming, or incoming (+) with.
  constexpr void recv_combine(int peer, int slot, int with, chunk_range chunks, content what, side order) {
    add({verb::recv_combine, what, order, false, std::uint16_t(slot), std::uint16_t(with), peer, chunks, chunks.first});
  }
  //! slot = slot (+) with, or with (+) slot where the incoming one, `with`, stands first.
  constexpr void combine(int slot, int with, chunk_range chunks, side order) {
    add({verb::combine, content::partial, order, false, std::uint16_t(slot), std::uint16_t(with), -1, chunks, chunks.first});
  }
  constexpr void copy(int slot, int with, chunk_range chunks) { copy(slot, with, chunks, chunks.first); }
  //! The chunks of slot from those of `with` that begin with `from`.
  constexpr void copy(int slot, int with, chunk_range chunks, int from) {
    add({verb::copy, content::input, side::here_first, false, std::uint16_t(slot), std::uint16_t(with), -1, chunks, from});
  }
  constexpr void finish(int slot, int with, chunk_range chunks) {
    add({verb::finish, content::result, side::here_first, false, std::uint16_t(slot), std::uint16_t(with), -1, chunks, chunks.first});
  }
  //! The action added next goes into the message of the one before it (if `so`):  list.join().send(...)
  constexpr action_list& join(bool so = true) {
    join_ = so;
    return *this;
  }
  constexpr void add(action a) {
    a.joined = a.joined || join_;
    join_ = false;
    if (through_ != nullptr) return through_(map_, a);
    if (count_ < capacity_) data_[count_] = a;
    ++count_;
  }
  constexpr void clear() { count_ = 0; }
  //! How many were added, even where there was no room for them.
  constexpr int size() const { return count_; }
  constexpr bool overflowed() const { return count_ > capacity_; }
  constexpr const action& operator[](int i) const { return data_[i]; }
  constexpr action& operator[](int i) { return data_[i]; }
  constexpr const action* begin() const { return data_; }
  constexpr const action* end() const { return data_ + (count_ < capacity_ ? count_ : capacity_); }

 private:
  action* data_ = nullptr;
  int capacity_ = 0, count_ = 0;
  bool join_ = false;
  void* map_ = nullptr;
  void (*through_)(void*, const action&) = nullptr;
};

//! The room of one scratch slot of one rank.
//! A window has a place for each of its chunks, side by side as in the vector: chunk c at offset(c) - offset(first).
//! A rolling slot has chunks.count places as long as the longest chunk; chunk c has place (c / stride) % count, and what
//! stood there is lost. An action on a rolling slot names one chunk.
struct scratch_room {
  chunk_range chunks{0, 0};
  bool rolling = false;
  int stride = 1;
  constexpr int place(int chunk) const { return chunk / stride % chunks.count; }
};

//! The shape of an item's combine tree, which makes the bits of the result.
enum class combine_order : std::uint8_t {
  none,        //!< nothing is combined
  rank_fold,   //!< ((0 (+) 1) (+) 2) ... (+) P-1
  rank_tree,   //!< [0, P) split at the largest power of two below its length, and so on; lower ranks stand left
  fixed_tree,  //!< another tree, the same for every item: it depends on P (and on group sizes) alone
  by_chunk     //!< the tree depends on the chunk the item falls into: a ring
};

//! What a schedule promises; verify.hpp holds it to that. All ranks have the same bits in every schedule here.
struct schedule_promise {
  combine_order order = combine_order::none;
  bool in_place = true;   //!< input and output may be one memory
  bool ragged = true;     //!< parts of any length; false: all parts have one length (all_to_all by way of other ranks)
  bool one_owner = true;  //!< each sum is finished by one rank and copied by the others. Where several ranks form it, they
                          //!< have the same bits only as long as messages lose none: a lossy wire is refused

  //! Every call with the same ranks and input gives the same bits.
  static constexpr determinism level = determinism::run_to_run;
  //! partition: the bits do not depend on chunking, bucketing or message size.
  constexpr invariance invariant() const { return {false, order != combine_order::by_chunk}; }
};

//! What every schedule begins with; defaults for what most have in common. Derive from it, or have the same members.
struct schedule_base {
  collective kind = collective::all_reduce;
  int ranks = 1;
  int parts = 1;        //!< of the partition it wants; equals ranks where ranks own parts
  int pieces = 1;
  int root = 0;         //!< of broadcast, gather, scatter, reduce; the sender of send_recv

  //! The chunks that rank's input holds; none: it is not read.
  constexpr chunk_range input(int rank) const {
    switch (kind) {
      case collective::all_gather: case collective::gather: return {rank * pieces, pieces};
      case collective::broadcast: case collective::scatter: case collective::send_recv:
        return {0, rank == root ? parts * pieces : 0};
      default: return {0, parts * pieces};
    }
  }
  //! The chunks that rank's output holds; none: it is not written.
  constexpr chunk_range output(int rank) const {
    switch (kind) {
      case collective::reduce_scatter: case collective::scatter: return {rank * pieces, pieces};
      case collective::gather: case collective::reduce: return {0, rank == root ? parts * pieces : 0};
      default: return {0, parts * pieces};
    }
  }
  constexpr int scratch_slots() const { return 0; }
  constexpr scratch_room scratch(int, int) const { return {}; }
  constexpr schedule_promise promise() const { return {}; }
  constexpr status check() const { return check_base(); }
  constexpr int chunks() const { return parts * pieces; }
  //! The partition of `items` items that this schedule is carried out on.
  constexpr partition cut(std::int64_t items, std::int64_t unit = 1, const std::int64_t* offsets = nullptr) const {
    return {items, parts, pieces, unit, offsets};
  }

 protected:
  constexpr status check_base() const {
    if (ranks < 1) return {errc::bad_shape, "schedule: ranks must be at least 1", ranks, 1};
    if (parts < 1 || pieces < 1) return {errc::bad_shape, "schedule: parts and pieces must be at least 1", parts < pieces ? parts : pieces, 1};
    if (root < 0 || root >= ranks) return {errc::bad_value, "schedule: root must be one of the ranks", root, ranks - 1};
    return {};
  }
};

//! A schedule: pure, total for every number of ranks that its check accepts, the same on every rank.
template <class S>
concept schedule = requires(const S s, int i, action_list list) {
  { s.kind } -> std::convertible_to<collective>;
  { s.ranks } -> std::convertible_to<int>;
  { s.parts } -> std::convertible_to<int>;
  { s.pieces } -> std::convertible_to<int>;
  { s.root } -> std::convertible_to<int>;
  { s.check() } -> std::same_as<status>;
  { s.steps() } -> std::same_as<int>;
  { s.input(i) } -> std::same_as<chunk_range>;
  { s.output(i) } -> std::same_as<chunk_range>;
  { s.scratch_slots() } -> std::same_as<int>;
  { s.scratch(i, i) } -> std::same_as<scratch_room>;
  { s.promise() } -> std::same_as<schedule_promise>;
  s.step(i, i, list);
};

template <class S> consteval bool explain_schedule() {
  static_assert(std::derived_from<S, schedule_base> || schedule<S>, "smalti: a schedule derives from comm::schedule_base (kind, ranks, parts, pieces, root and defaults for the rest)");
  static_assert(requires(const S s) { { s.steps() } -> std::same_as<int>; }, "smalti: a schedule needs  int steps() const, the number of its steps");
  static_assert(requires(const S s, action_list& list) { s.step(0, 0, list); }, "smalti: a schedule needs  void step(int rank, int step, comm::action_list& list) const, which adds the actions of one rank in one step");
  static_assert(requires(const S s) { { s.scratch(0, 0) } -> std::same_as<scratch_room>; { s.scratch_slots() } -> std::same_as<int>; }, "smalti: a schedule's scratch memory is  int scratch_slots() const  and  comm::scratch_room scratch(int rank, int slot) const");
  static_assert(requires(const S s) { { s.promise() } -> std::same_as<schedule_promise>; { s.check() } -> std::same_as<status>; }, "smalti: a schedule needs  comm::schedule_promise promise() const  and  smalti::status check() const");
  return schedule<S>;
}

//! Any schedule, by reference: for code that need not be compiled once for each. What it refers to must outlive it.
struct schedule_view : schedule_base {
  schedule_view() = default;   // of none: only to be assigned to
  template <schedule S> requires(!std::same_as<S, schedule_view>)
  explicit schedule_view(const S& s) : schedule_base{s.kind, s.ranks, s.parts, s.pieces, s.root}, object_(&s), words_(&words_of<S>) {}

  int steps() const { return words_->steps(object_); }
  void step(int rank, int step, action_list& list) const { words_->step(object_, rank, step, list); }
  chunk_range input(int rank) const { return words_->input(object_, rank); }
  chunk_range output(int rank) const { return words_->output(object_, rank); }
  int scratch_slots() const { return words_->scratch_slots(object_); }
  scratch_room scratch(int rank, int slot) const { return words_->scratch(object_, rank, slot); }
  schedule_promise promise() const { return words_->promise(object_); }
  status check() const { return words_->check(object_); }

 private:
  struct words {
    int (*steps)(const void*);
    void (*step)(const void*, int, int, action_list&);
    chunk_range (*input)(const void*, int);
    chunk_range (*output)(const void*, int);
    int (*scratch_slots)(const void*);
    scratch_room (*scratch)(const void*, int, int);
    schedule_promise (*promise)(const void*);
    status (*check)(const void*);
  };
  template <class S>
  static constexpr words words_of{
      [](const void* s) { return static_cast<const S*>(s)->steps(); },
      [](const void* s, int rank, int step, action_list& list) { static_cast<const S*>(s)->step(rank, step, list); },
      [](const void* s, int rank) { return static_cast<const S*>(s)->input(rank); },
      [](const void* s, int rank) { return static_cast<const S*>(s)->output(rank); },
      [](const void* s) { return static_cast<const S*>(s)->scratch_slots(); },
      [](const void* s, int rank, int slot) { return static_cast<const S*>(s)->scratch(rank, slot); },
      [](const void* s) { return static_cast<const S*>(s)->promise(); },
      [](const void* s) { return static_cast<const S*>(s)->check(); }};
  const void* object_ = nullptr;
  const words* words_ = nullptr;
};

//! r modulo P, for r from -P on.
constexpr int around(int rank, int ranks) { return (rank % ranks + ranks) % ranks; }

}  // namespace smalti::inline SMALTI_CODE::comm
