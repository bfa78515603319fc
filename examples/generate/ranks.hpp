// A prefill that many ranks share: each takes a share of the tokens through all layers, and keys go round the ring.
#pragma once
#include <functional>
#include <memory>
#include <vector>
#include "decoder.hpp"
#include "settings.hpp"

namespace generate::inline GENERATE_MACHINE {

class ranks {
public:
  //! Of a layer: keys and values of all tokens, in their order.
  using keep = std::function<void(int layer, smalti::view<const smalti::bf16> k, smalti::view<const smalti::bf16> v)>;

  virtual ~ranks() = default;
  virtual int rank() const = 0;
  //! Fewer tokens are taken in by one rank.
  virtual int least() const = 0;
  //! On rank 0: the first tokens of a sequence. Returns what the last norm left of each, until the next call.
  virtual smalti::view<const smalti::bf16> prefill(const std::vector<int>& ids, const keep& store) = 0;
  //! On the others: takes part in what rank 0 does, until its engine ends.
  virtual void follow() = 0;
};

//! Processes that mpirun has started, where the program was built with MPI; else `o.ranks` threads, each with its part of `on`'s; null
//! where there is one. The decoder must outlive it.
std::unique_ptr<ranks> make_ranks(const decoder& model, const machine& on, const engine_options& o);

//! Starts MPI where mpirun has started this program. @return how many processes there are: 1 without MPI, or on another machine
int start_processes(int& argc, char**& argv);
//! `failed`: ends the other processes too.
void end_processes(bool failed);

}  // namespace generate::inline GENERATE_MACHINE
