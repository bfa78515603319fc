// A decoder of the Llama family on smalti's ops: tokens in, logits out, keys and values in pages.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>
#include "settings.hpp"
#include "weights.hpp"

namespace generate {

struct engine_bytes {
  std::size_t weights = 0, cache = 0, cache_used = 0, activations = 0;
  std::size_t read = 0;      //!< of the weights that each token's pass must read: codes and scales of all but the embedding, without padding
};

//! One machine's engine. Sequences are numbers that open and fork give.
class engine {
public:
  virtual ~engine() = default;
  virtual int open() = 0;
  virtual int fork(int sequence) = 0;
  virtual void close(int sequence) = 0;
  virtual void truncate(int sequence, int tokens) = 0;
  virtual int length(int sequence) const = 0;
  //! See attention_cache.
  virtual void settle(int sequence) = 0;
  virtual bool sparse_by_token() const = 0;
  virtual bool forks() const = 0;
  virtual std::vector<std::vector<int>> kept() const = 0;

  //! Appends tokens to a sequence, in as many passes as they need. `all`: logits of every token, else of the last; they go to
  //! `logits`, vocabulary after vocabulary.
  virtual void feed(int sequence, const std::vector<int>& tokens, bool all, std::vector<float>& logits) = 0;
  virtual engine_bytes bytes() const = 0;
  virtual const config& shape() const = 0;

  //! Of a process that mpirun has started beside the first: takes part in its prefills until it ends, and says true. Else false, at once.
  virtual bool follow() = 0;
};

//! On the processor. `o.ranks` > 1: the first tokens of a sequence are taken in by so many threads or processes, each with its share.
std::unique_ptr<engine> make_host_engine(const weights& w, const engine_options& o);
//! The same in float throughout, on the processor: what the other ways are held against. Dense attention, the file's own numbers.
std::unique_ptr<engine> make_f32_engine(const weights& w, const engine_options& o);
//! On a GPU; refuses where there is none, or where the program was built without CUDA.
std::unique_ptr<engine> make_cuda_engine(const weights& w, const engine_options& o);

}  // namespace generate
