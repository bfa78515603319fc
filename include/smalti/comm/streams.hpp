// Many ranks on CUDA streams of one process: of one GPU, or of several that reach each other's memory. A device for lanes.hpp.
//
//     lanes<cuda_streams> net(4, cuda_streams({s0, s1, s2, s3}));
//     ... queued<sum<float>, lanes<cuda_streams>::queue>::run(net.rank(r), ...) for each rank ...
//     status st = net.settle();                        // everything is on the streams; wait for them as for any work
//
// A message is one copy on the receiver's stream, between an event of the sender's (what it sends is there) and one of its own
// (it was taken). No kernel waits for another: ranks that share a GPU cannot lock each other out. Streams of several GPUs need
// peer access between these (enable_peers), or copies go by way of the host.
#pragma once
#include <smalti/comm/lanes.hpp>

#if defined(__CUDACC__)
#include <smalti/comm/combine.cuh>

namespace smalti::inline SMALTI_CODE::comm {

class cuda_streams {
 public:
  //! One stream a rank; they are the caller's and outlive this. Never the default stream: it waits for all others.
  explicit cuda_streams(std::vector<cudaStream_t> streams) : streams_(std::move(streams)), began_(streams_.size()), devices_(streams_.size()) {
    for (std::size_t r = 0; r < streams_.size(); ++r) {
      const device_guard guard(device_of(r));
      cudaEvent_t event = nullptr;
      work_.note(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event could not be made");
      began_[r] = event;
      work_.note(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event could not be made");
      taken_.push_back(event);
    }
  }
  cuda_streams(cuda_streams&& o) noexcept = default;
  ~cuda_streams() {
    for (const cudaEvent_t e : began_) static_cast<void>(cudaEventDestroy(e));
    for (const cudaEvent_t e : taken_) static_cast<void>(cudaEventDestroy(e));
  }
  //! Lets each GPU of the streams read and write the others' memory; unsupported_arch where two cannot.
  status enable_peers() {
    for (std::size_t a = 0; a < streams_.size(); ++a)
      for (std::size_t b = 0; b < streams_.size(); ++b) {
        if (devices_[a] == devices_[b]) continue;
        int can = 0;
        if (status st = status_of(cudaDeviceCanAccessPeer(&can, devices_[a], devices_[b]), "peer access could not be asked for"); !st) return st;
        if (!can) return {errc::unsupported_arch, "two GPUs cannot reach each other's memory: copies between them go by way of the host", devices_[a], devices_[b]};
        const device_guard guard(devices_[a]);
        const cudaError_t error = cudaDeviceEnablePeerAccess(devices_[b], 0);
        if (error == cudaErrorPeerAccessAlreadyEnabled) static_cast<void>(cudaGetLastError());
        else if (status st = status_of(error, "peer access could not be enabled"); !st) return st;
      }
    return {};
  }

  void begin(int rank) { work_.note(cudaEventRecord(began_[std::size_t(rank)], streams_[std::size_t(rank)]), "an event could not be recorded"); }
  void move(int from_rank, int to_rank, std::byte* to, const std::byte* from, std::int64_t bytes) {
    const cudaStream_t giving = streams_[std::size_t(from_rank)], taking = streams_[std::size_t(to_rank)];
    const device_guard guard(devices_[std::size_t(to_rank)]);
    work_.note(cudaStreamWaitEvent(taking, began_[std::size_t(from_rank)]), "a stream could not be made to wait");
    work_.copy(taking, to, from, bytes);
    // Recorded anew for each message: a wait that was put on a stream keeps what was recorded before it.
    work_.note(cudaEventRecord(taken_[std::size_t(to_rank)], taking), "an event could not be recorded");
    work_.note(cudaStreamWaitEvent(giving, taken_[std::size_t(to_rank)]), "a stream could not be made to wait");
  }
  void copy(int rank, std::byte* to, const std::byte* from, std::int64_t bytes) {
    const device_guard guard(devices_[std::size_t(rank)]);
    work_.copy(streams_[std::size_t(rank)], to, from, bytes);
  }
  template <class C> void lift(int rank, const C& c, typename C::accumulator* a, const typename C::element* x, std::int64_t n) {
    const device_guard guard(devices_[std::size_t(rank)]);
    work_.lift(streams_[std::size_t(rank)], c, a, x, n);
  }
  template <class C> void merge(int rank, const C& c, typename C::accumulator* a, operand<C> left, operand<C> right, std::int64_t n) {
    const device_guard guard(devices_[std::size_t(rank)]);
    work_.merge(streams_[std::size_t(rank)], c, a, left, right, n);
  }
  template <class C> void finish(int rank, const C& c, typename C::element* x, const typename C::accumulator* a, std::int64_t n, int ranks) {
    const device_guard guard(devices_[std::size_t(rank)]);
    work_.finish(streams_[std::size_t(rank)], c, x, a, n, ranks);
  }
  status failure() const { return work_.failed; }

 private:
  int device_of(std::size_t r) {
    work_.note(cudaStreamGetDevice(streams_[r], &devices_[r]), "the device of a stream could not be read");
    return devices_[r];
  }

  std::vector<cudaStream_t> streams_;
  std::vector<cudaEvent_t> began_, taken_;
  std::vector<int> devices_;
  detail::cuda_work work_;
};

}  // namespace smalti::inline SMALTI_CODE::comm
#endif
