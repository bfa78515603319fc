// Ranks on GPUs of one or many machines, over NCCL: schedules of this library as grouped sends and receives, with our combine kernels
// between them, and NCCL's own collectives. Link smalti::nccl; for files that nvcc compiles.
//
//     nccl lane(comm, stream);                                              // both are the caller's
//     queued<sum<bf16>, nccl>::run(lane, ring(lane.size()), {...}, memory); // or built_in(lane, collective::all_reduce, {...})
//     status st = lane.wait(10'000'000'000);
//
// The device makes progress by itself. poll() asks how far it is, without waiting: NCCL for errors of other ranks, the stream whether
// it is empty. A deadline or an error aborts the communicator, which ends every kernel of it that still waits: afterwards the lane is
// spent, and a new communicator, of those that are left, is the next epoch.
//
// BITS. queued gives what the schedule promises (schedule.hpp). NCCL's own collectives choose their order by size, topology and
// version: ranks agree, runs repeat as long as none of these changes, and nothing holds across partitions; switches that add may
// give up even the repetition. built_in() is refused for a combine that NCCL cannot mean.
#pragma once
#include <nccl.h>
#include <thread>
#include <type_traits>
#include <smalti/comm/clock.hpp>
#include <smalti/comm/lane.hpp>
#if !defined(__CUDACC__)
#error "smalti: comm/nccl.hpp has kernels: include it in a .cu file, or use comm/mpi.hpp on host memory"
#endif
#include <smalti/comm/combine.cuh>

namespace smalti::inline SMALTI_CODE::comm {

class nccl {
 public:
  nccl(ncclComm_t comm, cudaStream_t stream) : comm_(comm), stream_(stream) {
    note(ncclCommUserRank(comm_, &rank_)), note(ncclCommCount(comm_, &size_)), note(ncclCommCuDevice(comm_, &device_));
    if (!work_.failed) size_ = 0;
  }
  int rank() const { return rank_; }
  int size() const { return size_; }
  //! What went wrong so far; ok while nothing did.
  status failure() const { return work_.failed; }
  ncclComm_t communicator() const { return comm_; }
  cudaStream_t stream() const { return stream_; }

  void exchange(const queued_message* list, int count) {
    if (!work_.failed) return;
    const device_guard guard(device_);
    note(ncclGroupStart());
    for (int i = 0; i < count; ++i) {
      const queued_message& m = list[i];
      if (m.from != nullptr) note(ncclSend(m.from, std::size_t(m.bytes), ncclUint8, m.peer, comm_, stream_));
      else note(ncclRecv(m.to, std::size_t(m.bytes), ncclUint8, m.peer, comm_, stream_));
    }
    note(ncclGroupEnd());
  }
  void copy(std::byte* to, const std::byte* from, std::int64_t bytes) {
    const device_guard guard(device_);
    work_.copy(stream_, to, from, bytes);
  }
  template <class C> void lift(const C& c, typename C::accumulator* a, const typename C::element* x, std::int64_t n) {
    const device_guard guard(device_);
    work_.lift(stream_, c, a, x, n);
  }
  template <class C> void merge(const C& c, typename C::accumulator* a, operand<C> left, operand<C> right, std::int64_t n) {
    const device_guard guard(device_);
    work_.merge(stream_, c, a, left, right, n);
  }
  template <class C> void finish(const C& c, typename C::element* x, const typename C::accumulator* a, std::int64_t n, int ranks) {
    const device_guard guard(device_);
    work_.finish(stream_, c, x, a, n, ranks);
  }

  //! How far the stream is: blocked while work is left. Asks once and does not wait.
  progress poll() {
    if (!work_.failed) return progress::failed;
    ncclResult_t asynchronous = ncclSuccess;
    note(ncclCommGetAsyncError(comm_, &asynchronous));
    if (asynchronous != ncclInProgress) note(asynchronous);
    if (!work_.failed) {
      end();
      return progress::failed;
    }
    const cudaError_t state = cudaStreamQuery(stream_);
    if (state == cudaErrorNotReady || asynchronous == ncclInProgress) return progress::blocked;
    work_.note(state, "work on the stream failed");
    return work_.failed ? progress::done : progress::failed;
  }
  //! Waits for the stream; at the deadline the communicator is aborted, and the answer is peer_lost.
  status wait(nanoseconds timeout) {
    const nanoseconds now = steady_now(), deadline = timeout >= never_late - now ? never_late : now + timeout;
    while (poll() == progress::blocked) {
      if (steady_now() >= deadline) {
        work_.failed = {errc::peer_lost, "the deadline passed before the collective was done: the communicator was aborted"};
        end();
        break;
      }
      std::this_thread::yield();
    }
    return work_.failed;
  }
  //! Ends everything that is under way on this rank. The communicator is gone afterwards: do not destroy it.
  void abort() {
    if (work_.failed) work_.failed = {errc::peer_lost, "the group was aborted: make a new communicator"};
    end();
  }

  //! A call of NCCL's that failed, as a status; what is not the caller's mistake is peer_lost.
  void note(ncclResult_t r) {
    if (!work_.failed || r == ncclSuccess || r == ncclInProgress) return;
    if (r == ncclInvalidArgument || r == ncclInvalidUsage) work_.failed = {errc::bad_value, "NCCL refused a call: got is its ncclResult_t", r, 0};
    else if (r == ncclUnhandledCudaError) work_.failed = {errc::cuda_error, "NCCL met an error of CUDA: got is its ncclResult_t", r, 0};
    else work_.failed = {errc::peer_lost, "NCCL lost another rank or the way to it: got is its ncclResult_t", r, 0};
  }

 private:
  void end() {
    if (comm_ != nullptr) static_cast<void>(ncclCommAbort(comm_));
    comm_ = nullptr;
  }

  ncclComm_t comm_;
  cudaStream_t stream_;
  int rank_ = 0, size_ = 0, device_ = 0;
  detail::cuda_work work_;
};

namespace detail {

template <class T> constexpr int nccl_type() {
  if constexpr (std::is_same_v<T, float>) return ncclFloat32;
  else if constexpr (std::is_same_v<T, double>) return ncclFloat64;
  else if constexpr (std::is_same_v<T, bf16>) return ncclBfloat16;
  else if constexpr (std::is_same_v<T, fp16>) return ncclFloat16;
  else if constexpr (std::is_same_v<T, std::int32_t>) return ncclInt32;
  else if constexpr (std::is_same_v<T, std::uint32_t>) return ncclUint32;
  else if constexpr (std::is_same_v<T, std::int64_t>) return ncclInt64;
  else if constexpr (std::is_same_v<T, std::uint64_t>) return ncclUint64;
  else if constexpr (std::is_same_v<T, std::byte> || std::is_same_v<T, std::uint8_t>) return ncclUint8;
  else if constexpr (std::is_same_v<T, std::int8_t>) return ncclInt8;
  else return -1;
}
template <class C> constexpr int nccl_operation = -1;
template <class T> constexpr int nccl_operation<comm::sum<T>> = ncclSum;
template <class T> constexpr int nccl_operation<comm::average<T>> = ncclAvg;
template <class T> constexpr int nccl_operation<comm::greatest<T>> = ncclMax;

}  // namespace detail

//! One of NCCL's own collectives: all_reduce, reduce_scatter, reduce, all_gather, broadcast. The arguments mean what they do for schedules;
//! parts are even, and items a multiple of the ranks where ranks own parts. Puts it on the lane's stream.
//! Sums of bf16 and fp16 are rounded at every hop, or not, as NCCL decides.
template <combine_policy C> status built_in(nccl& lane, collective kind, const arguments<C>& x, int root = 0) {
  constexpr int type = detail::nccl_type<typename C::element>(), operation = detail::nccl_operation<C>;
  static_assert(type >= 0, "smalti: NCCL has no such element type: take queued<C, nccl> with a schedule");
  if (!lane.failure()) return lane.failure();
  if (x.items < 0) return {errc::bad_shape, "items must not be negative", x.items, 0};
  if (root < 0 || root >= lane.size()) return {errc::bad_value, "root must be one of the ranks", root, lane.size() - 1};
  if (x.offsets != nullptr || x.output_offsets != nullptr) return {errc::bad_value, "offsets: NCCL's own collectives have even parts: take queued with a schedule"};
  if (x.items > 0 && (x.input == nullptr || x.output == nullptr)) return {errc::null_pointer, x.input == nullptr ? "input is null" : "output is null"};
  if (reduces(kind) && operation < 0) return {errc::bad_value, "combine: NCCL knows sum, average and greatest: take queued with a schedule"};
  const bool parts = kind == collective::reduce_scatter || kind == collective::all_gather;
  if (parts && x.items % lane.size() != 0) return {errc::bad_shape, "items must be a multiple of the ranks: pad, or take queued with a schedule", x.items, lane.size()};
  const std::size_t count = std::size_t(x.items) * std::size_t(x.combine.width) / std::size_t(parts ? lane.size() : 1);
  const auto t = ncclDataType_t(type);
  const auto op = ncclRedOp_t(operation < 0 ? 0 : operation);
  switch (kind) {
    case collective::all_reduce: lane.note(ncclAllReduce(x.input, x.output, count, t, op, lane.communicator(), lane.stream())); break;
    case collective::reduce_scatter: lane.note(ncclReduceScatter(x.input, x.output, count, t, op, lane.communicator(), lane.stream())); break;
    case collective::reduce: lane.note(ncclReduce(x.input, x.output, count, t, op, root, lane.communicator(), lane.stream())); break;
    case collective::all_gather: lane.note(ncclAllGather(x.input, x.output, count, t, lane.communicator(), lane.stream())); break;
    case collective::broadcast: lane.note(ncclBroadcast(x.input, x.output, count, t, root, lane.communicator(), lane.stream())); break;
    default: return {errc::bad_value, "NCCL has no such collective of its own: take queued with a schedule"};
  }
  return lane.failure();
}

}  // namespace smalti::inline SMALTI_CODE::comm
