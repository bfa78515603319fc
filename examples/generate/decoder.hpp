// A model's weights and the operations of its layers, without a cache: how tokens see each other is the caller's.
#pragma once
#include <cstddef>
#include <functional>
#include <smalti/core/float.hpp>
#include "machine.hpp"
#include "weights.hpp"

namespace generate::inline GENERATE_MACHINE {

//! What a pass writes, for as many tokens as it takes at once.
struct pass_memory {
  buffer<float> stream;                            //!< the residual stream
  buffer<smalti::bf16> x, qkv, mixed, inner;       //!< x: its rows normalized, for the last norm too
  buffer<int> ids, positions;
  scratch memory;

  void reserve(const config& c, std::size_t tokens) {
    stream.reserve(tokens * c.width), x.reserve(tokens * c.width), qkv.reserve(tokens * (c.heads + 2 * c.kv_heads) * c.head_dim);
    mixed.reserve(tokens * c.heads * c.head_dim), inner.reserve(tokens * c.hidden), ids.reserve(tokens), positions.reserve(tokens);
  }
  std::size_t bytes() const { return stream.bytes() + x.bytes() + qkv.bytes() + mixed.bytes() + inner.bytes() + memory.bytes(); }
};

//! o = attention of q in a layer; k and v are the same tokens' keys and values. Rows as in pass_memory.
using attend = std::function<void(int layer, smalti::view<const smalti::bf16> q, smalti::view<const smalti::bf16> k, smalti::view<const smalti::bf16> v, smalti::view<smalti::bf16> o)>;

//! Many passes may run at once: each has its own memory.
class decoder {
public:
  virtual ~decoder() = default;
  //! n tokens at their positions through all layers and the last norm, to m.x. m has room for them.
  virtual void pass(const machine& on, pass_memory& m, const int* ids, const int* positions, int n, const attend& look) const = 0;
  //! Logits of rows that pass() left.
  virtual void logits(const machine& on, smalti::view<const smalti::bf16> x, smalti::view<float> y, scratch& memory) const = 0;
  virtual const config& shape() const = 0;
};

}  // namespace generate::inline GENERATE_MACHINE
