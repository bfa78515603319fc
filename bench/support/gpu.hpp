// The GPU benchmarks' harness: cases that run, their peer and the machine's bandwidth in turns, timed by events on one
// stream, with the second-level cache emptied before each. It reads the flags and writes the JSON of Google Benchmark
// (what report.py and claims.py read), but needs no part of it: the executable is carried to a machine that has a
// driver and nothing else.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace bench::gpu {

//! A case that this machine or this run has no room for: reported, and no failure of the program.
struct not_measured : std::runtime_error {
  using runtime_error::runtime_error;
};

inline void demand(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();                            // an allocation that failed leaves its error behind
  const std::string text = std::string(what) + ": " + cudaGetErrorString(error);
  if (error == cudaErrorMemoryAllocation) throw not_measured(text);
  throw std::runtime_error(text);
}

//! `n` elements of T in the GPU's memory.
template <class T> class array {
 public:
  explicit array(std::size_t n) : size_(n) {
    demand(cudaMalloc(reinterpret_cast<void**>(&data_), n * sizeof(T)), ("the GPU has no " + std::to_string((n * sizeof(T) >> 20) + 1) + " MiB free").c_str());
  }
  array(const array&) = delete;
  ~array() { cudaFree(data_); }
  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  T at(std::size_t i) const {
    T value;
    demand(cudaMemcpy(&value, data_ + i, sizeof(T), cudaMemcpyDeviceToHost), "a result could not be read");
    return value;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

//! Work that is put on a stream.
using queued = std::function<void(cudaStream_t)>;

struct contender {
  std::string key, name;                         //!< for the counter; for readers
  queued run;
};

//! One case. `run` is timed as queued: what it puts on the stream is the work.
struct contest {
  queued subject;
  std::vector<contender> peers = {};             //!< the first is the one `peer_ratio` means
  double flop = 0, bytes = 0;                    //!< of one run; bytes that it must at least move
  double arithmetic = 0;                         //!< operations a second that the machine was seen to do in this run; 0: unknown
  std::string arithmetic_name = {};              //!< how that rate was measured
  bool warm = false;                             //!< the caches keep what the last run left
  std::map<std::string, double> counters = {};   //!< more to report
};

//! Median seconds of work whose operands are not (or, warm, may be) in the cache; `rounds` of them.
double seconds(const queued& run, bool warm, int rounds = 3);

//! Runs the contest, at least nine rounds, and gives the case's counters:
//!   FLOP/s, bytes/s     from the median time
//!   peer_ratio[.KEY]    median over rounds of (time of the peer) / (time of the case)
//!   limit_bytes/s       bandwidth: a copy within the GPU's memory, every byte counted when read and when written
//!   limit_FLOP/s        contest::arithmetic
//!   bandwidth_share     median over rounds of (bytes / bandwidth) / time
//!   limit_share         the same for the larger of the times that bandwidth and arithmetic allow. Absent where the
//!                       arithmetic rate is not known
//!   spread              (third quartile - first quartile) / median of the case's time
struct outcome {
  double seconds = 0;
  std::map<std::string, double> counters;
  std::string label;
};
outcome measure(const contest& c);

//! Adds a case. `body` sets up, checks the answers and calls measure().
void enter(const std::string& name, std::function<outcome()> body);

//! Which peers take part, for the JSON's context, and why others do not.
struct peers_here {
  std::string present = "none", absent = {};
};

//! Runs the cases that the flags choose: --benchmark_filter, --benchmark_list_tests, --benchmark_out and
//! --benchmark_out_format=json as in Google Benchmark, and --seconds=N: cases that would begin later are left out.
//! Returns what main returns: 77 where there is no GPU, 1 where a case failed. `peers` is asked where there is one.
int main(int argc, char** argv, const std::function<peers_here()>& peers);

}  // namespace bench::gpu
