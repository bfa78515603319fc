// Ranks as MPI processes. Needs MPI 3.1: link smalti::mpi. Host memory.
//
//     MPI_Init(nullptr, nullptr);
//     {
//       mpi net(MPI_COMM_WORLD);                      // collective, and so is its end
//       execution<sum<float>, mpi> all_reduce(net);
//     }
//     MPI_Finalize();
//
// An operation's number is the MPI tag, modulo the number of tags; each epoch has a communicator of its own. MPI makes progress
// when it is called: idle() looks, and gives the processor away where nothing comes.
//
// ONE THREAD makes all calls, so that MPI_THREAD_SINGLE is enough; only abort() may come from any thread: it is carried out when the
// rank next looks.
//
// WHAT MPI CANNOT DO. It cannot take a send back. cancel() leaves one that has not ended to MPI, and held() counts these: their memory
// must stay until open() or the end of this object, where ranks receive and throw away what is left of the old epoch. A process that dies
// ends all others in most MPIs; one that stalls is reported at the deadline.
#pragma once
#include <atomic>
#include <climits>
#include <cstring>
#include <deque>
#include <thread>
#include <vector>
#include <mpi.h>
#include <smalti/comm/clock.hpp>
#include <smalti/core/status.hpp>

namespace smalti::inline SMALTI_CODE::comm {

class mpi {
 public:
  //! Collective over the communicator, which is copied. `most`: bytes of one MPI count; longer messages go as one derived type.
  explicit mpi(MPI_Comm base, std::int64_t most = INT_MAX) : most_(most), owner_(std::this_thread::get_id()) {
    int started = 0, finished = 0;
    MPI_Initialized(&started);
    if (started) MPI_Finalized(&finished);
    if (!started || finished || base == MPI_COMM_NULL) return;
    if (!copy_of(base, control_) || !copy_of(base, data_)) {
      ready_ = {errc::not_initialised, "mpi: the communicator could not be copied"};
      return;
    }
    MPI_Comm_rank(control_, &rank_);
    MPI_Comm_size(control_, &size_);
    void* greatest = nullptr;
    int known = 0;
    MPI_Comm_get_attr(control_, MPI_TAG_UB, &greatest, &known);
    tags_ = known ? std::int64_t(*static_cast<int*>(greatest)) + 1 : 32768;
    ready_ = {};
    listen();
  }
  ~mpi() {
    int finished = 0;
    MPI_Finalized(&finished);
    if (!ready_ || finished) return;
    meet();
    MPI_Cancel(&heard_);
    MPI_Wait(&heard_, MPI_STATUS_IGNORE);
    MPI_Comm_free(&data_);
    MPI_Comm_free(&control_);
  }
  mpi(const mpi&) = delete;
  mpi& operator=(const mpi&) = delete;

  //! Whether MPI was started and the communicator copied. Where not, size() is 0 and every execution refuses.
  const status& ready() const { return ready_; }
  int rank() const { return rank_; }
  int size() const { return size_; }
  std::uint32_t epoch() const { return epoch_; }
  nanoseconds now() { return steady_now(); }

  //! Opens the next epoch; collective. Returns when nothing of the old one is on its way.
  status open(std::uint32_t epoch) {
    meet();
    MPI_Comm_free(&data_);
    if (!copy_of(control_, data_)) return ready_ = {errc::not_initialised, "mpi: the communicator could not be copied"};
    epoch_ = epoch;
    return {};
  }
  //! Sends and receives that were cancelled and that MPI may still read or write.
  std::int64_t held() {
    drop_ended(held_);
    return std::int64_t(held_.size());
  }

  ticket post_send(int peer, message_tag tag, const std::byte* data, std::int64_t bytes) {
    const std::size_t i = take(peer, tag);
    record& r = records_[i];
    r.bytes = bytes, r.sending = true;
    if (!over(tag.epoch)) r.failed = begin(bytes, [&](int count, MPI_Datatype type) { return MPI_Isend(data, count, type, peer, r.tag, data_, &r.request); });
    return name(i);
  }
  ticket post_recv(int peer, message_tag tag, std::byte* data, std::int64_t capacity) {
    const std::size_t i = take(peer, tag);
    records_[i].bytes = capacity, records_[i].data = data;
    if (!over(tag.epoch)) waiting_.push_back(i);
    return name(i);
  }
  delivery_report test(ticket k) {
    record* r = find(k);
    if (r == nullptr) return {delivery::aborted};
    if (r->waits()) match(*r);
    if (r->failed != MPI_SUCCESS) return end(k, {delivery::peer_lost, 0, r->peer});
    if (r->long_by > 0) return end(k, {delivery::too_long, r->bytes + r->long_by, -1});
    if (r->request != MPI_REQUEST_NULL) {
      int ended = 0;
      if (MPI_Test(&r->request, &ended, MPI_STATUS_IGNORE) != MPI_SUCCESS) return end(k, {delivery::peer_lost, 0, r->peer});
      if (ended) {
        looks_ = 0;
        return end(k, {delivery::done, r->bytes, -1});
      }
    }
    if (++looks_ % 32 == 0) look();
    if (!over(r->epoch)) return {delivery::pending};
    release(*r);
    return end(k, {delivery::aborted, 0, lost_});
  }
  void cancel(ticket k) {
    record* r = find(k);
    if (r == nullptr) return;
    release(*r);
    end(k, {});
  }
  void idle(nanoseconds deadline) {
    if (!ready_) return;
    look();
    if (++looks_ > patience && now() < deadline) std::this_thread::yield();
  }
  void abort(std::uint32_t epoch, int lost) {
    if (std::this_thread::get_id() != owner_) return asked_.store(std::uint64_t(epoch) << 32 | std::uint32_t(lost + 2));
    end_epoch(epoch, lost, true);
  }

 private:
  struct record {
    std::uint32_t generation = 0, epoch = 0;
    bool used = false, sending = false;
    int peer = -1, tag = 0, failed = MPI_SUCCESS;
    MPI_Request request = MPI_REQUEST_NULL;
    std::byte* data = nullptr;
    std::int64_t bytes = 0, long_by = 0;     // of the receive's memory, then of the message; what did not fit
    bool waits() const { return !sending && request == MPI_REQUEST_NULL && long_by == 0 && failed == MPI_SUCCESS; }
  };
  struct word {                  // what ranks tell each other beside the data
    std::uint32_t epoch;
    std::int32_t lost;
  };
  struct rubbish {               // a message that nobody wants
    std::vector<std::byte> memory;
    MPI_Request request;
  };
  static constexpr int patience = 200;

  static bool copy_of(MPI_Comm from, MPI_Comm& to) {
    if (MPI_Comm_dup(from, &to) != MPI_SUCCESS) return false;
    return MPI_Comm_set_errhandler(to, MPI_ERRORS_RETURN) == MPI_SUCCESS;
  }
  bool over(std::uint32_t epoch) const { return epoch != epoch_ || (aborted_ && epoch <= aborted_epoch_) || !ready_; }

  // Calls go(count, type) for so many bytes.
  template <class Go> int begin(std::int64_t bytes, Go go) const {
    if (bytes <= most_) return go(int(bytes), MPI_BYTE);
    // Rows of `most` bytes, and what is left. The pieces are as long as the type says on both sides: MPI compares bytes, not types.
    MPI_Datatype row, all;
    MPI_Type_contiguous(int(most_), MPI_BYTE, &row);
    const int lengths[] = {int(bytes / most_), int(bytes % most_)};
    const MPI_Aint places[] = {0, MPI_Aint(bytes / most_ * most_)};
    const MPI_Datatype types[] = {row, MPI_BYTE};
    MPI_Type_create_struct(2, lengths, places, types, &all);
    MPI_Type_commit(&all);
    const int error = go(1, all);
    MPI_Type_free(&all);
    MPI_Type_free(&row);
    return error;
  }
  static std::int64_t length(const MPI_Status& s) {
    MPI_Count n = 0;
    MPI_Get_elements_x(&s, MPI_BYTE, &n);
    return std::int64_t(n);
  }

  // A receive is not given to MPI before its message is there: a message longer than the memory it is received into is written
  // whole by Open MPI 4.1 where processes read each other's memory. Messages go to the receives of their sender and tag in order.
  void match(const record& wanted) {
    while (wanted.waits()) {
      std::size_t w = 0;
      while (w < waiting_.size() && (records_[waiting_[w]].peer != wanted.peer || records_[waiting_[w]].tag != wanted.tag)) ++w;
      if (w == waiting_.size()) return;      // of an epoch that is over
      record& first = records_[waiting_[w]];
      int found = 0;
      MPI_Message message;
      MPI_Status s;
      if (first.failed = MPI_Improbe(first.peer, first.tag, data_, &found, &message, &s); first.failed == MPI_SUCCESS && !found) return;
      waiting_.erase(waiting_.begin() + std::ptrdiff_t(w));
      if (first.failed != MPI_SUCCESS) continue;
      const std::int64_t bytes = length(s);
      first.long_by = bytes > first.bytes ? bytes - first.bytes : 0;
      if (first.long_by > 0) {
        receive_rubbish(message, bytes);
      } else {
        first.bytes = bytes;
        first.failed = begin(bytes, [&](int count, MPI_Datatype type) { return MPI_Imrecv(first.data, count, type, &message, &first.request); });
      }
    }
  }
  std::size_t take(int peer, message_tag tag) {
    std::size_t i = records_.size();
    if (!free_.empty()) i = free_.back(), free_.pop_back();
    else records_.emplace_back();
    records_[i] = {records_[i].generation + 1, tag.epoch, true, false, peer, int(std::int64_t(tag.operation) % tags_), MPI_SUCCESS, MPI_REQUEST_NULL, nullptr, 0, 0};
    return i;
  }
  ticket name(std::size_t i) const { return {std::int64_t(std::uint64_t(records_[i].generation & 0x7fffffffu) << 32 | i)}; }
  record* find(ticket k) {
    const std::size_t i = std::size_t(k.number & 0xffffffff);
    return k && i < records_.size() && records_[i].used && name(i) == k ? &records_[i] : nullptr;
  }
  delivery_report end(ticket k, delivery_report report) {
    const std::size_t i = std::size_t(k.number & 0xffffffff);
    records_[i].used = false;
    free_.push_back(i);
    return report;
  }
  // Takes a request back from MPI, as far as that is possible.
  void release(record& r) {
    std::erase_if(waiting_, [&](std::size_t i) { return &records_[i] == &r; });
    if (r.request == MPI_REQUEST_NULL) return;
    int ended = 0;
    MPI_Test(&r.request, &ended, MPI_STATUS_IGNORE);
    if (!ended) held_.push_back(r.request);
    r.request = MPI_REQUEST_NULL;
  }
  static void drop_ended(std::vector<MPI_Request>& requests) {
    std::erase_if(requests, [](MPI_Request& q) {
      int ended = 0;
      return MPI_Test(&q, &ended, MPI_STATUS_IGNORE) != MPI_SUCCESS || ended;
    });
  }

  void listen() { MPI_Irecv(&heard_word_, int(sizeof(word)), MPI_BYTE, MPI_ANY_SOURCE, 0, control_, &heard_); }
  // What others said, and what another thread asked for; what is left of an epoch that is over.
  void look() {
    if (const std::uint64_t asked = asked_.exchange(0); asked != 0) end_epoch(std::uint32_t(asked >> 32), int(std::uint32_t(asked)) - 2, true);
    int ended = 0;
    while (MPI_Test(&heard_, &ended, MPI_STATUS_IGNORE) == MPI_SUCCESS && ended) {
      end_epoch(heard_word_.epoch, heard_word_.lost, false);
      listen();
    }
    if (aborted_ && aborted_epoch_ >= epoch_) throw_away();
    if (!rubbish_.empty()) drop_rubbish();
  }
  void end_epoch(std::uint32_t epoch, int lost, bool tell) {
    if (!ready_ || (aborted_ && epoch <= aborted_epoch_)) return;
    aborted_ = true, aborted_epoch_ = epoch, lost_ = lost;
    if (!tell) return;
    drop_ended(telling_);
    if (telling_.empty()) said_.clear();
    said_.push_back({epoch, lost});
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_) continue;
      telling_.emplace_back();
      MPI_Isend(&said_.back(), int(sizeof(word)), MPI_BYTE, peer, 0, control_, &telling_.back());
    }
  }
  void receive_rubbish(MPI_Message message, std::int64_t bytes) {
    rubbish_.emplace_back();
    rubbish& r = rubbish_.back();
    r.memory.resize(std::size_t(bytes));
    begin(bytes, [&](int count, MPI_Datatype type) { return MPI_Imrecv(r.memory.data(), count, type, &message, &r.request); });
  }
  // Takes whatever comes in the old epoch, so that its sends end.
  void throw_away() {
    int found = 1;
    while (found) {
      MPI_Message message;
      MPI_Status s;
      if (MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, data_, &found, &message, &s) != MPI_SUCCESS || !found) break;
      receive_rubbish(message, length(s));
    }
  }
  void drop_rubbish() {
    std::erase_if(rubbish_, [](rubbish& r) {
      int ended = 0;
      return MPI_Test(&r.request, &ended, MPI_STATUS_IGNORE) != MPI_SUCCESS || ended;
    });
  }
  // All ranks are here, and nothing is on its way: requests that nobody asks for any more, messages that nobody wants.
  void meet() {
    MPI_Request all_here = MPI_REQUEST_NULL;
    for (int ended = 0; !ended; std::this_thread::yield()) {
      look();
      throw_away();
      drop_ended(held_), drop_ended(telling_);
      if (all_here == MPI_REQUEST_NULL && held_.empty() && telling_.empty() && MPI_Ibarrier(control_, &all_here) != MPI_SUCCESS) return;
      if (all_here != MPI_REQUEST_NULL && MPI_Test(&all_here, &ended, MPI_STATUS_IGNORE) != MPI_SUCCESS) return;
    }
    while (!rubbish_.empty()) drop_rubbish();
  }

  std::int64_t most_, tags_ = 1;
  std::thread::id owner_;
  status ready_{errc::not_initialised, "mpi: call MPI_Init before, and not MPI_Finalize"};
  MPI_Comm control_ = MPI_COMM_NULL, data_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 0;
  std::uint32_t epoch_ = 0, aborted_epoch_ = 0;
  bool aborted_ = false;
  int lost_ = -1, looks_ = 0;
  std::atomic<std::uint64_t> asked_{0};      // epoch, and rank + 2; 0: nothing
  word heard_word_{};
  MPI_Request heard_ = MPI_REQUEST_NULL;
  std::deque<word> said_;                    // stays until it is sent
  std::vector<MPI_Request> telling_, held_;
  std::deque<rubbish> rubbish_;
  std::vector<record> records_;
  std::vector<std::size_t> free_, waiting_;  // waiting_: receives without a message, in order
};
static_assert(transport<mpi>);

}  // namespace smalti::inline SMALTI_CODE::comm
