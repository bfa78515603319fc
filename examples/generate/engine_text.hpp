// The engine's one text for every machine: see machine.hpp.
#pragma once
#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#include <smalti/ops/norm.hpp>
#include <smalti/ops/rotary.hpp>
#include <smalti/policy/position.hpp>
#include <smalti/prim/permute.hpp>
#include "attention.hpp"
#include "decoder.hpp"
#include "engine.hpp"
#include "linear.hpp"
#include "ranks.hpp"

namespace generate::inline GENERATE_MACHINE {

using namespace smalti;

//! The first norm adds the embedding to the empty residual stream.
struct from_embedding : norm::options { static constexpr bool adds = true; };

//! D: columns of a head.
template <int D, class Pairs> class decoder_of final : public decoder {
  using turn = rotary::rotate<bf16, Pairs, D>;
  using first_norm = norm::rms<bf16, bf16, from_embedding>;
  using stream_norm = norm::rms<float, bf16>;

  struct layer {
    std::unique_ptr<linear> qkv, out, gate_up, down;
    buffer<float> attention_norm, feed_forward_norm;
  };

public:
  decoder_of(const weights& w, const linear_settings& o) : c_(w.shape) {
    for (const layer_weights& from : w.layers)
      layers_.push_back({.qkv = make_linear(o, from.qkv), .out = make_linear(o, from.out), .gate_up = make_linear(o, from.gate_up, form::pairs), .down = make_linear(o, from.down),
                         .attention_norm = on_machine(from.attention_norm), .feed_forward_norm = on_machine(from.feed_forward_norm)});
    head_ = make_linear(o, w.head);
    final_norm_ = on_machine(w.final_norm);
    embedding_ = bf16_rows(w.embedding);
    const policy::rotary<> model{.dims = D, .base = double(c_.rotary_base)};
    std::vector<float> frequencies(2 * D);
    policy::fill_frequencies(model, frequencies.data());
    frequencies_ = on_machine(frequencies);
  }

  void pass(const machine& on, pass_memory& m, const int* ids, const int* positions, int n, const attend& look) const override {
    const int q_cols = c_.heads * D, kv_cols = c_.kv_heads * D, cols = q_cols + 2 * kv_cols;
    m.ids.put(ids, std::size_t(n)), m.positions.put(positions, std::size_t(n));
    const view<float> stream = m.stream.rows(n, c_.width);
    const view<bf16> x = m.x.rows(n, c_.width), qkv = m.qkv.rows(n, cols), inner = m.inner.rows(n, c_.hidden);
    run<prim::permute<bf16>>(on, {.from = {embedding_.data(), c_.vocabulary, c_.width, c_.width}, .to = {x.data, n, c_.width, c_.width}, .index = m.ids.data()}, m.memory);
    m.stream.clear(std::size_t(n) * c_.width);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const layer& l = layers_[i];
      if (i == 0)
        run<first_norm>(on, {.x = m.x.read(n, c_.width), .gain = gain(l.attention_norm), .y = x, .epsilon = c_.epsilon, .stream = stream}, m.memory);
      else normalize(on, m, l.attention_norm, n);
      l.qkv->project(on, m.x.read(n, c_.width), qkv, m.memory);
      const view<bf16> turning{qkv.data, n, q_cols + kv_cols, cols};
      run<turn>(on, {.x = turning, .y = turning, .positions = m.positions.data(), .frequencies = frequencies_.data(), .heads = c_.heads + c_.kv_heads}, m.memory);
      look(int(i), {qkv.data, n, q_cols, cols}, {qkv.data + q_cols, n, kv_cols, cols}, {qkv.data + q_cols + kv_cols, n, kv_cols, cols}, m.mixed.rows(n, q_cols));
      l.out->add_to(on, m.mixed.read(n, q_cols), stream, m.memory);
      normalize(on, m, l.feed_forward_norm, n);
      l.gate_up->gated(on, m.x.read(n, c_.width), inner, m.memory);
      l.down->add_to(on, m.inner.read(n, c_.hidden), stream, m.memory);
    }
    normalize(on, m, final_norm_, n);
  }
  void logits(const machine& on, view<const bf16> x, view<float> y, scratch& memory) const override { head_->logits(on, x, y, memory); }
  const config& shape() const override { return c_; }

  void count(engine_bytes& b) const {
    for (const layer& l : layers_) {
      for (const linear* part : {l.qkv.get(), l.out.get(), l.gate_up.get(), l.down.get()}) b.weights += part->bytes(), b.read += part->needed();
      b.weights += l.attention_norm.bytes() + l.feed_forward_norm.bytes();
    }
    b.weights += head_->bytes() + embedding_.bytes() + final_norm_.bytes(), b.read += head_->needed();
  }

private:
  view<const float, 1> gain(const buffer<float>& g) const { return {g.data(), 1, c_.width, c_.width}; }
  void normalize(const machine& on, pass_memory& m, const buffer<float>& g, int n) const {
    run<stream_norm>(on, {.x = m.stream.read(n, c_.width), .gain = gain(g), .y = m.x.rows(n, c_.width), .epsilon = c_.epsilon}, m.memory);
  }

  config c_;
  std::vector<layer> layers_;
  std::unique_ptr<linear> head_;
  buffer<bf16> embedding_;
  buffer<float> final_norm_, frequencies_;
};

template <class Decoder> class engine_of final : public engine {
public:
  engine_of(const machine& on, const weights& w, const engine_options& o) : on_(on), c_(w.shape), o_(o), model_(w, o.linear), ranks_(make_ranks(model_, on_, o)) {
    // a rank that only takes part in prefills keeps no cache
    if (ranks_ == nullptr || ranks_->rank() == 0) cache_ = make_attention(o.attention, c_);
    m_.reserve(c_, std::size_t(o.chunk));
  }

  int open() override { return cache_->open(); }
  int fork(int from) override { return cache_->fork(from); }
  void close(int s) override { cache_->close(s); }
  void truncate(int s, int tokens) override { cache_->truncate(s, tokens); }
  int length(int s) const override { return cache_->length(s); }
  void settle(int s) override { cache_->settle(on_, s, m_.memory); }
  bool sparse_by_token() const override { return cache_->sparse_by_token(); }
  bool forks() const override { return cache_->forks(); }
  std::vector<std::vector<int>> kept() const override { return cache_->kept(); }
  const config& shape() const override { return c_; }
  bool follow() override {
    if (ranks_ == nullptr || ranks_->rank() == 0) return false;
    ranks_->follow();
    return true;
  }

  void feed(int s, const std::vector<int>& tokens, bool all, std::vector<float>& logits) override {
    logits.resize(std::size_t(all ? tokens.size() : 1) * c_.vocabulary);
    const int count = int(tokens.size());
    if (ranks_ != nullptr && length(s) == 0 && count >= ranks_->least()) {
      cache_->append(on_, s, count, m_.memory);
      const view<const bf16> x = ranks_->prefill(tokens, [&](int layer, view<const bf16> k, view<const bf16> v) { cache_->store(on_, layer, k, v, m_.memory); });
      if (all) read_logits(x, 0, count, logits.data());
      else read_logits(x, count - 1, 1, logits.data());
      return;
    }
    // equal passes: the last one's queries may be what a cache chooses by
    const int passes = ceil_div(count, cache_->one_by_one(s) ? 1 : o_.chunk), most = passes > 0 ? ceil_div(count, passes) : 0;
    for (int first = 0; first < count; first += most) {
      const int n = std::min(count - first, most);
      pass(s, tokens.data() + first, n);
      const view<const bf16> x = m_.x.read(n, c_.width);
      if (all) read_logits(x, 0, n, logits.data() + std::size_t(first) * std::size_t(c_.vocabulary));
      else if (first + n == count) read_logits(x, n - 1, 1, logits.data());
    }
  }

  engine_bytes bytes() const override {
    engine_bytes b;
    model_.count(b);
    b.cache = cache_->bytes(), b.cache_used = cache_->bytes_used();
    b.activations = m_.bytes() + logits_.bytes();
    return b;
  }

private:
  // n tokens of one sequence through all layers.
  void pass(int s, const int* tokens, int n) {
    const int from = length(s);
    cache_->append(on_, s, n, m_.memory);
    positions_.resize(std::size_t(n));
    for (int i = 0; i < n; ++i) positions_[std::size_t(i)] = from + i;
    model_.pass(on_, m_, tokens, positions_.data(), n, [&](int layer, view<const bf16> q, view<const bf16> k, view<const bf16> v, view<bf16> o) {
      cache_->store(on_, layer, k, v, m_.memory);
      cache_->look(on_, layer, q, o, m_.memory);
    });
  }
  void read_logits(view<const bf16> x, int first, int n, float* out) {
    logits_.reserve(std::size_t(o_.chunk < 64 ? o_.chunk : 64) * c_.vocabulary);
    for (int i = 0; i < n; i += 64) {
      const int count = std::min(64, n - i);
      model_.logits(on_, {x.data + static_cast<long long>(first + i) * x.stride, count, c_.width, x.stride}, logits_.rows(count, c_.vocabulary), m_.memory);
      wait(on_);
      logits_.get(out + std::size_t(i) * c_.vocabulary, std::size_t(count) * c_.vocabulary);
    }
  }

  machine on_;
  config c_;
  engine_options o_;
  Decoder model_;
  std::unique_ptr<ranks> ranks_;
  std::unique_ptr<attention_cache> cache_;
  pass_memory m_;
  buffer<float> logits_;
  std::vector<int> positions_;
};

//! The engine for a model's shape.
inline std::unique_ptr<engine> make_engine(const machine& on, const weights& w, const engine_options& o) {
  if (w.shape.head_dim != 64) throw std::runtime_error("heads of " + std::to_string(w.shape.head_dim) + " columns are not built: add a line to make_engine");
  if (w.shape.rotary_pairs == pairs::interleaved) return std::make_unique<engine_of<decoder_of<64, policy::interleaved>>>(on, w, o);
  return std::make_unique<engine_of<decoder_of<64, policy::half_split>>>(on, w, o);
}

}  // namespace generate::inline GENERATE_MACHINE
