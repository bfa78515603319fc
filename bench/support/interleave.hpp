// Runs a case, its peers and the machine's limit in turns, so that a change of clock or a noisy neighbour
// meets all of them, and hands Google Benchmark medians: the time of the case, its share of the limit and its
// ratio to each peer, all from the same minute.
#pragma once
#include "limits.hpp"

#include <benchmark/benchmark.h>

#include <functional>
#include <string>
#include <vector>

namespace bench {

//! One that takes part. `sample(repeat)` runs its work `repeat` times and returns the seconds it took.
struct contender {
  std::string key;   //!< for the counter's name: lower case, no blank
  std::string name;  //!< for readers, with its version
  std::function<double(int)> sample;
  double work = 1;  //!< how many times the work of the case one repetition does
};

//! A contender that runs on the calling thread (or, with more threads, whose workers return before `once` does).
contender timed(std::string key, std::string name, int threads, std::function<void()> once);

struct contest {
  contender subject;
  std::vector<contender> peers = {};  //!< the first is the one `peer_ratio` means
  int threads = 1;
  double flop = 0;                           //!< of one repetition of the subject
  double bytes = 0;                          //!< that it must at least move
  std::vector<instruction> arithmetic = {};  //!< the best of these that the machine has is the arithmetic limit
  bool from_memory = false;                  //!< true where operands rotate: read bandwidth limits it, too
  int rounds = 11;                           //!< never fewer than 9
  double sample_seconds = 0.02;              //!< each sample repeats its work for at least as long (a quarter of it with several threads)
};

//! Runs the contest and sets, on a benchmark registered by enter(),
//!   manual time       median seconds of the subject, one repetition
//!   FLOP/s, bytes/s   from that median
//!   limit_share       median over rounds of (least time the limits allow) / (time of the subject)
//!   bandwidth_share   the same for memory alone, where operands come from memory
//!   peer_ratio        median over rounds of (time of the first peer) / (time of the subject): above 1, we are faster
//!   peer_ratio.KEY    the same for each peer
//!   dot_over_fma      rate of the best dot instruction over that of the FMA, where both are candidates
//!   limit_FLOP/s, limit_bytes/s   medians of the limits. Those of arithmetic are measured right after a run of the subject, at
//!                     the clock that this leaves: products of real operands draw more power than a loop on registers
//!   spread            (third quartile - first quartile) / median of the subject's time: how much to trust it all
//!   disturbed         share of samples in which, after 20 tries, other programs still kept our threads waiting
//!                     (several threads only: their clock is the wall's; one thread's is its own)
//! and a label that names peers and limit. A sample below zero or of zero seconds is an error.
void run(benchmark::State& state, const contest& c);

//! Registers a benchmark of one iteration with manual time; `body` calls run().
void enter(const std::string& name, std::function<void(benchmark::State&)> body);

}  // namespace bench
