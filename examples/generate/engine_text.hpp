// The engine's one text for every machine: see machine.hpp.
#pragma once
#include <algorithm>
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
#include "engine.hpp"
#include "linear.hpp"
#include "machine.hpp"

namespace generate {

using namespace smalti;

//! D: columns of a head.
template <int D, class Pairs> class engine_of final : public engine {
  using turn = rotary::rotate<bf16, Pairs, D>;
  struct from_embedding : norm::options { static constexpr bool adds = true; };
  using first_norm = norm::rms<bf16, bf16, from_embedding>;
  using stream_norm = norm::rms<float, bf16>;

  struct layer {
    std::unique_ptr<linear> qkv, out, gate_up, down;
    buffer<float> attention_norm, feed_forward_norm;
  };

public:
  engine_of(const machine& on, const weights& w, const engine_options& o) : on_(on), c_(w.shape), o_(o) {
    for (const layer_weights& from : w.layers)
      layers_.push_back({.qkv = make_linear(o.linear, from.qkv), .out = make_linear(o.linear, from.out), .gate_up = make_linear(o.linear, from.gate_up, form::pairs),
                         .down = make_linear(o.linear, from.down), .attention_norm = on_machine(from.attention_norm), .feed_forward_norm = on_machine(from.feed_forward_norm)});
    head_ = make_linear(o.linear, w.head);
    final_norm_ = on_machine(w.final_norm);
    embedding_ = bf16_rows(w.embedding);

    const policy::rotary<> model{.dims = D, .base = double(c_.rotary_base)};
    std::vector<float> frequencies(2 * D);
    policy::fill_frequencies(model, frequencies.data());
    frequencies_ = on_machine(frequencies);

    cache_ = make_attention(o.attention, c_);

    const std::size_t t = std::size_t(o.chunk);
    stream_ = buffer<float>(t * c_.width), x_ = buffer<bf16>(t * c_.width), qkv_ = buffer<bf16>(t * (c_.heads + 2 * c_.kv_heads) * D);
    mixed_ = buffer<bf16>(t * c_.heads * D), inner_ = buffer<bf16>(t * c_.hidden);
    ids_ = buffer<int>(t), positions_ = buffer<int>(t);
  }

  int open() override { return cache_->open(); }
  int fork(int from) override { return cache_->fork(from); }
  void close(int s) override { cache_->close(s); }
  void truncate(int s, int tokens) override { cache_->truncate(s, tokens); }
  int length(int s) const override { return cache_->length(s); }
  void settle(int s) override { cache_->settle(on_, s, memory_); }
  bool sparse_by_token() const override { return cache_->sparse_by_token(); }
  const config& shape() const override { return c_; }

  void feed(int s, const std::vector<int>& tokens, bool all, std::vector<float>& logits) override {
    logits.resize(std::size_t(all ? tokens.size() : 1) * c_.vocabulary);
    // equal passes: the last one's queries may be what a cache chooses by
    const int passes = ceil_div(int(tokens.size()), o_.chunk), most = passes > 0 ? ceil_div(int(tokens.size()), passes) : 0;
    for (std::size_t first = 0; first < tokens.size(); first += std::size_t(most)) {
      const int n = int(std::min(tokens.size() - first, std::size_t(most)));
      const bool last = first + std::size_t(n) == tokens.size();
      pass(s, tokens.data() + first, n);
      if (all) read_logits(0, n, logits.data() + first * std::size_t(c_.vocabulary));
      else if (last) read_logits(n - 1, 1, logits.data());
    }
  }

  engine_bytes bytes() const override {
    engine_bytes b;
    for (const layer& l : layers_) {
      for (const linear* part : {l.qkv.get(), l.out.get(), l.gate_up.get(), l.down.get()}) b.weights += part->bytes(), b.read += part->needed();
      b.weights += l.attention_norm.bytes() + l.feed_forward_norm.bytes();
    }
    b.weights += head_->bytes() + embedding_.bytes() + final_norm_.bytes(), b.read += head_->needed();
    b.cache = cache_->bytes(), b.cache_used = cache_->bytes_used();
    b.activations = stream_.bytes() + x_.bytes() + qkv_.bytes() + mixed_.bytes() + inner_.bytes() + logits_.bytes() + memory_.bytes();
    return b;
  }

private:
  buffer<float> on_machine(const std::vector<float>& v) {
    buffer<float> b(v.size());
    b.put(v.data(), v.size());
    return b;
  }
  // n tokens of one sequence through all layers; the stream holds the result.
  void pass(int s, const int* tokens, int n) {
    const int q_cols = c_.heads * D, kv_cols = c_.kv_heads * D, cols = q_cols + 2 * kv_cols, from = length(s);
    cache_->append(on_, s, n, memory_);
    std::vector<int> positions(std::size_t(n), 0);
    for (int i = 0; i < n; ++i) positions[std::size_t(i)] = from + i;
    ids_.put(tokens, std::size_t(n)), positions_.put(positions.data(), std::size_t(n));

    const view<float> stream = stream_.rows(n, c_.width);
    const view<bf16> x = x_.rows(n, c_.width), qkv = qkv_.rows(n, cols), inner = inner_.rows(n, c_.hidden);
    run<prim::permute<bf16>>(on_, {.from = {embedding_.data(), c_.vocabulary, c_.width, c_.width}, .to = {x.data, n, c_.width, c_.width}, .index = ids_.data()}, memory_);
    stream_.clear(std::size_t(n) * c_.width);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const layer& l = layers_[i];
      if (i == 0)
        run<first_norm>(on_, {.x = x_.read(n, c_.width), .gain = {l.attention_norm.data(), 1, c_.width, c_.width}, .y = x, .epsilon = c_.epsilon, .stream = stream}, memory_);
      else normalize(l.attention_norm, n);
      l.qkv->project(on_, x_.read(n, c_.width), qkv, memory_);
      const view<bf16> turning{qkv.data, n, q_cols + kv_cols, cols};
      run<turn>(on_, {.x = {turning.data, n, turning.cols, cols}, .y = turning, .positions = positions_.data(), .frequencies = frequencies_.data(), .heads = c_.heads + c_.kv_heads}, memory_);
      cache_->store(on_, int(i), {qkv.data + q_cols, n, kv_cols, cols}, {qkv.data + q_cols + kv_cols, n, kv_cols, cols}, memory_);
      cache_->look(on_, int(i), {qkv.data, n, q_cols, cols}, mixed_.rows(n, q_cols), memory_);
      l.out->add_to(on_, mixed_.read(n, q_cols), stream, memory_);
      normalize(l.feed_forward_norm, n);
      l.gate_up->gated(on_, x_.read(n, c_.width), inner, memory_);
      l.down->add_to(on_, inner_.read(n, c_.hidden), stream, memory_);
    }
  }

  void normalize(const buffer<float>& gain, int n) {
    run<stream_norm>(on_, {.x = stream_.read(n, c_.width), .gain = {gain.data(), 1, c_.width, c_.width}, .y = x_.rows(n, c_.width), .epsilon = c_.epsilon}, memory_);
  }

  void read_logits(int first, int n, float* out) {
    normalize(final_norm_, first + n);
    logits_.reserve(std::size_t(o_.chunk < 64 ? o_.chunk : 64) * c_.vocabulary);
    for (int i = 0; i < n; i += 64) {
      const int count = std::min(64, n - i);
      head_->logits(on_, {x_.data() + std::size_t(first + i) * c_.width, count, c_.width, c_.width}, logits_.rows(count, c_.vocabulary), memory_);
      wait(on_);
      logits_.get(out + std::size_t(i) * c_.vocabulary, std::size_t(count) * c_.vocabulary);
    }
  }

  machine on_;
  config c_;
  engine_options o_;
  std::vector<layer> layers_;
  std::unique_ptr<linear> head_;
  buffer<bf16> embedding_;
  buffer<float> final_norm_, frequencies_;

  std::unique_ptr<attention_cache> cache_;

  buffer<float> stream_, logits_;
  buffer<bf16> x_, qkv_, mixed_, inner_;
  buffer<int> ids_, positions_;
  scratch memory_;
};

template <class Make> std::unique_ptr<engine> with_shape(const config& c, Make make) {
  const auto with_pairs = [&](auto d) -> std::unique_ptr<engine> {
    return c.rotary_pairs == pairs::interleaved ? make(d, policy::interleaved{}) : make(d, policy::half_split{});
  };
  if (c.head_dim == 64) return with_pairs(std::integral_constant<int, 64>{});
  throw std::runtime_error("heads of " + std::to_string(c.head_dim) + " columns are not built: add a line to with_shape");
}

}  // namespace generate
