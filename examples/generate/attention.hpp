// Keys and values in pages, and attention over them. Each way of storing and of looking is a translation unit of its own.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <vector>
#include <smalti/core/float.hpp>
#include "machine.hpp"
#include "settings.hpp"
#include "weights.hpp"

namespace generate::inline GENERATE_MACHINE {

//! The cache of all layers and the attention that reads it. Sequences are numbers that open and fork give.
class attention_cache {
public:
  virtual ~attention_cache() = default;
  virtual int open() = 0;
  virtual int fork(int sequence) = 0;
  virtual void close(int sequence) = 0;
  virtual void truncate(int sequence, int tokens) = 0;
  virtual int length(int sequence) const = 0;

  //! Makes room for n tokens behind a sequence; the two below are then about these, layer after layer.
  virtual void append(const machine&, int sequence, int n, scratch&) = 0;
  virtual void store(const machine&, int layer, smalti::view<const smalti::bf16> k, smalti::view<const smalti::bf16> v, scratch&) = 0;
  //! o = attention of q, n x heads * head_dim, to all tokens up to each query's own.
  virtual void look(const machine&, int layer, smalti::view<const smalti::bf16> q, smalti::view<smalti::bf16> o, scratch&) = 0;

  //! A prompt is in: a cache that keeps a share of its tokens chooses them now and lets the others go.
  virtual void settle(const machine&, int sequence, scratch&) = 0;

  //! Sparse only while one token at a time comes: a question must then be fed token by token to be answered from a sparse cache.
  virtual bool sparse_by_token() const { return false; }
  //! Takes one token a pass from here on.
  virtual bool one_by_one(int) const { return false; }
  //! Whether fork is built; where it is not, each question takes its context in again.
  virtual bool forks() const { return true; }
  //! Of each layer and head, one after another: the places that the last settle kept, or that the last token was answered from. None: all.
  virtual std::vector<std::vector<int>> kept() const { return {}; }
  virtual std::size_t bytes() const = 0;
  virtual std::size_t bytes_used() const = 0;
};

//! Refuses unknown names by naming the known ones.
std::unique_ptr<attention_cache> make_attention(const attention_settings& s, const config& c);

// One translation unit each. `count` is the number behind the colon.
using attention_maker = std::unique_ptr<attention_cache>(const attention_settings& s, const config& c, int count);
using cache_maker = std::unique_ptr<attention_cache>(const attention_settings& s, const config& c, double share);
std::unique_ptr<attention_cache> make_compressed(const attention_settings& s, const config& c, const std::string& system, double share);
cache_maker make_mikv, make_kivi, make_quest_cache, make_sparf, make_actqkv;
attention_maker make_flash_bf16, make_flash_fp8, make_flash_int8, make_flash_int4, make_window_bf16, make_hip_bf16, make_quest_bf16;

}  // namespace generate::inline GENERATE_MACHINE
