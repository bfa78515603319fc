// The engine's one text for every machine: see machine.hpp.
#pragma once
#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#include <smalti/core/segments.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/cache.hpp>
#include <smalti/ops/norm.hpp>
#include <smalti/ops/rotary.hpp>
#include <smalti/policy/position.hpp>
#include <smalti/prim/permute.hpp>
#include "engine.hpp"
#include "linear.hpp"
#include "machine.hpp"

namespace generate {

using namespace smalti;

//! D: columns of a head.
template <int D, class Pairs> class engine_of final : public engine {
  using storage = policy::kv_plain<bf16>;
  using layout = policy::nhd;
  using store = cache::append<bf16, storage, layout>;
  struct split : attention::options { static constexpr bool split_kv = true; };
  using attend = attention::flash<bf16, D, attention::paged_kv<bf16>, policy::causal, split>;
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
      layers_.push_back({.qkv = make_linear(o.weights, from.qkv), .out = make_linear(o.weights, from.out), .gate_up = make_linear(o.weights, from.gate_up),
                         .down = make_linear(o.weights, from.down), .attention_norm = on_machine(from.attention_norm), .feed_forward_norm = on_machine(from.feed_forward_norm)});
    head_ = make_linear(o.weights, w.head);
    final_norm_ = on_machine(w.final_norm);
    embedding_ = bf16_rows(w.embedding);

    const policy::rotary<> model{.dims = D, .base = double(c_.rotary_base)};
    std::vector<float> frequencies(2 * D);
    policy::fill_frequencies(model, frequencies.data());
    frequencies_ = on_machine(frequencies);

    shape_ = {.pages = ceil_div(o.cache_tokens, o.page) + o.sequences, .page = o.page, .kv_heads = c_.kv_heads, .key_dim = D, .value_dim = D, .layers = c_.layers};
    const cache::paged_limits limits{.sequences = o.sequences, .tokens = std::min(c_.context, shape_.pages * o.page)};
    metadata_ = buffer<std::byte>(paged::metadata_bytes(shape_, limits));
    expect(pages_.attach(shape_, limits, {metadata_.data(), metadata_.size()}));
    pool_memory_ = buffer<std::byte>(cache::pool_bytes<storage, layout>(shape_));
    expect((cache::make_pool<storage, layout>(shape_, {pool_memory_.data(), pool_memory_.size()}, pool_)));
    sequences_.resize(std::size_t(o.sequences));

    const std::size_t t = std::size_t(o.chunk);
    stream_ = buffer<float>(t * c_.width), x_ = buffer<bf16>(t * c_.width), qkv_ = buffer<bf16>(t * (c_.heads + 2 * c_.kv_heads) * D);
    mixed_ = buffer<bf16>(t * c_.heads * D), inner_ = buffer<bf16>(t * c_.hidden);
    ids_ = buffer<int>(t), positions_ = buffer<int>(t), slots_ = buffer<int>(t), offsets_ = buffer<int>(2);
  }

  int open() override { return put([&](cache::sequence& s) { return pages_.open(s); }); }
  int fork(int from) override { return put([&](cache::sequence& s) { return pages_.fork(at(from), s); }); }
  void close(int s) override { expect(pages_.close(at(s))), sequences_[std::size_t(s)] = {}; }
  void truncate(int s, int tokens) override { expect(pages_.truncate(at(s), tokens)); }
  int length(int s) const override { return pages_.positions(at(s)); }
  const config& shape() const override { return c_; }

  void feed(int s, const std::vector<int>& tokens, bool all, std::vector<float>& logits) override {
    logits.resize(std::size_t(all ? tokens.size() : 1) * c_.vocabulary);
    for (std::size_t first = 0; first < tokens.size(); first += std::size_t(o_.chunk)) {
      const int n = int(std::min(tokens.size() - first, std::size_t(o_.chunk)));
      const bool last = first + std::size_t(n) == tokens.size();
      pass(s, tokens.data() + first, n);
      if (all) read_logits(0, n, logits.data() + first * std::size_t(c_.vocabulary));
      else if (last) read_logits(n - 1, 1, logits.data());
    }
  }

  engine_bytes bytes() const override {
    engine_bytes b;
    for (const layer& l : layers_) b.weights += l.qkv->bytes() + l.out->bytes() + l.gate_up->bytes() + l.down->bytes() + l.attention_norm.bytes() + l.feed_forward_norm.bytes();
    b.weights += head_->bytes() + embedding_.bytes() + final_norm_.bytes();
    b.cache = pool_memory_.bytes();
    b.cache_used = std::size_t(pages_.bytes_in_use());
    b.activations = stream_.bytes() + x_.bytes() + qkv_.bytes() + mixed_.bytes() + inner_.bytes() + logits_.bytes() + memory_.bytes();
    return b;
  }

private:
  using paged = cache::paged<storage, layout>;

  buffer<float> on_machine(const std::vector<float>& v) {
    buffer<float> b(v.size());
    b.put(v.data(), v.size());
    return b;
  }
  cache::sequence at(int s) const {
    if (s < 0 || std::size_t(s) >= sequences_.size()) throw std::runtime_error("no such sequence");
    return sequences_[std::size_t(s)];
  }
  template <class Make> int put(Make make) {
    for (std::size_t i = 0; i < sequences_.size(); ++i)
      if (sequences_[i] == cache::sequence{}) {
        expect(make(sequences_[i]));
        return int(i);
      }
    throw std::runtime_error("too many sequences are open");
  }

  // n tokens of one sequence through all layers; the stream holds the result.
  void pass(int s, const int* tokens, int n) {
    const int q_cols = c_.heads * D, kv_cols = c_.kv_heads * D, cols = q_cols + 2 * kv_cols, from = length(s);
    const std::size_t count = std::size_t(n);
    std::vector<int> slots(count), positions(count), sources(1), targets(1);
    cache::page_moves moves{sources.data(), targets.data(), 1, 0};
    expect(pages_.append(at(s), n, {slots.data(), n}, moves));
    if (moves.count > 0) {
      buffer<int> source(1), target(1);
      source.put(sources.data(), 1), target.put(targets.data(), 1);
      run<cache::copy_pages>(on_, {.from = pool_, .to = pool_, .source = source.data(), .target = target.data(), .count = moves.count}, memory_);
      wait(on_);
    }
    for (int i = 0; i < n; ++i) positions[std::size_t(i)] = from + i;
    ids_.put(tokens, std::size_t(n)), positions_.put(positions.data(), std::size_t(n)), slots_.put(slots.data(), std::size_t(n));
    const int offsets[2] = {0, n};
    offsets_.put(offsets, 2);

    const cache::sequence mine[] = {at(s)};
    const int width = pages_.width_for(mine, 1);
    const cache::batch_tables tables = pages_.tables_of(1, width);
    const std::size_t ints = std::size_t(tables.ints());
    std::vector<int> entries(ints);
    expect(pages_.tables(mine, 1, width, entries.data(), tables.ints()));
    tables_.reserve(entries.size());
    tables_.put(entries.data(), entries.size());

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
      run<store>(on_, {.pool = pool_, .layer = int(i), .k = {qkv.data + q_cols, n, kv_cols, cols}, .v = {qkv.data + q_cols + kv_cols, n, kv_cols, cols}, .slots = slots_.data()}, memory_);
      look(int(i), n, from + n, tables.at(tables_.data(), int(i)), cols);
      l.out->add_to(on_, mixed_.read(n, q_cols), stream, memory_);
      normalize(l.feed_forward_norm, n);
      l.gate_up->gated(on_, x_.read(n, c_.width), inner, memory_);
      l.down->add_to(on_, inner_.read(n, c_.hidden), stream, memory_);
    }
  }

  void normalize(const buffer<float>& gain, int n) {
    run<stream_norm>(on_, {.x = stream_.read(n, c_.width), .gain = {gain.data(), 1, c_.width, c_.width}, .y = x_.rows(n, c_.width), .epsilon = c_.epsilon}, memory_);
  }

  void look(int layer, int n, int keys, const pages& where, int cols) {
    const auto pool = [&](cache::plane p) {
      return attention::pool_of(layout{}, static_cast<const bf16*>(cache::pool_rows<bf16>(pool_, p, layer).data), shape_.pages, shape_.page, c_.kv_heads, D);
    };
    typename attend::args a{.q = attention::ragged(static_cast<const bf16*>(qkv_.data()), segments<std::int32_t>{offsets_.data(), 1}, n, c_.heads, D),
                            .kv = {pool(cache::plane::keys), pool(cache::plane::values), where, 1, keys},
                            .o = attention::ragged(mixed_.data(), segments<std::int32_t>{offsets_.data(), 1}, n, c_.heads, D)};
    a.q.row_stride = cols;
    a.split_keys = attend::suggest_split_keys(on_, a);
    run<attend>(on_, a, memory_);
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

  cache::pool_shape shape_{};
  cache::page_pool pool_{};
  paged pages_;
  buffer<std::byte> metadata_, pool_memory_;
  std::vector<cache::sequence> sequences_;

  buffer<float> stream_, logits_;
  buffer<bf16> x_, qkv_, mixed_, inner_;
  buffer<int> ids_, positions_, slots_, offsets_, tables_;
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
