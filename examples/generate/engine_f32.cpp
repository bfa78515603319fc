// --activations f32: every product, norm, rotation and attention in float, for the other ways to be held against. On the processor;
// attention is dense, and keys and values are rows of floats.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/gemm.hpp>
#include <smalti/ops/norm.hpp>
#include <smalti/ops/rotary.hpp>
#include <smalti/policy/position.hpp>
#include <smalti/prim/permute.hpp>
#include "engine.hpp"
#include "machine.hpp"

namespace generate {

using namespace smalti;

namespace {

constexpr int d = 64;      // columns of a head

using sum = gemm::dense<float, float, float>;
using added = gemm::dense<float, float, float, policy::chain<policy::residual<float>>>;
using gate = gemm::dense<float, float, float, policy::chain<policy::gated<policy::silu>>>;
using normalized = norm::rms<float, float>;
using turn = rotary::rotate<float, policy::half_split, d>;
using look = attention::flash<float, d, attention::dense_kv<float>, policy::causal>;

class engine_f32 final : public engine {
  struct layer {
    buffer<float> qkv, out, gate_up, down, attention_norm, feed_forward_norm;
  };
  struct sequence {
    bool open = false;
    int tokens = 0;
    std::vector<buffer<float>> rows;      // of each layer: a token's keys, then its values
  };

public:
  engine_f32(const weights& w, const engine_options& o) : on_{.threads = o.threads}, c_(w.shape), chunk_(o.chunk), most_(o.attention.tokens), sequences_(std::size_t(o.attention.sequences)) {
    for (const layer_weights& from : w.layers)
      layers_.push_back({.qkv = queries_and_keys_apart(floats(from.qkv)), .out = floats(from.out), .gate_up = floats(from.gate_up), .down = floats(from.down), .attention_norm = on_machine(from.attention_norm),
                         .feed_forward_norm = on_machine(from.feed_forward_norm)});
    embedding_ = floats(w.embedding), head_ = floats(w.head), final_norm_ = on_machine(w.final_norm);
    std::vector<float> frequencies(2 * d);
    policy::fill_frequencies(policy::rotary<>{.dims = d, .base = double(c_.rotary_base)}, frequencies.data());
    frequencies_ = on_machine(frequencies);
    const std::size_t n = std::size_t(chunk_);
    stream_.reserve(n * c_.width), x_.reserve(n * c_.width), q_.reserve(n * c_.heads * d), mixed_.reserve(n * c_.heads * d), inner_.reserve(n * c_.hidden), logits_.reserve(n * c_.vocabulary);
    positions_.reserve(n);
  }

  int open() override {
    for (std::size_t i = 0; i < sequences_.size(); ++i)
      if (sequence& s = sequences_[i]; !s.open) {
        s.open = true, s.tokens = 0;
        while (s.rows.size() < layers_.size()) s.rows.emplace_back(std::size_t(most_) * std::size_t(row()));
        return int(i);
      }
    throw std::runtime_error("too many sequences are open");
  }
  int fork(int from) override {
    const int to = open();
    const sequence& s = at(from);
    for (std::size_t l = 0; l < layers_.size(); ++l) at(to).rows[l].put(s.rows[l].data(), std::size_t(s.tokens) * std::size_t(row()));
    at(to).tokens = s.tokens;
    return to;
  }
  void close(int s) override { at(s).open = false; }
  void truncate(int s, int tokens) override { at(s).tokens = std::min(at(s).tokens, tokens); }
  int length(int s) const override { return sequences_[std::size_t(s)].tokens; }
  void settle(int) override {}
  bool sparse_by_token() const override { return false; }
  bool forks() const override { return true; }
  std::vector<std::vector<int>> kept() const override { return {}; }
  bool follow() override { return false; }
  const config& shape() const override { return c_; }

  void feed(int s, const std::vector<int>& tokens, bool all, std::vector<float>& logits) override {
    const int count = int(tokens.size()), wide = c_.vocabulary;
    if (at(s).tokens + count > most_) throw std::runtime_error("the cache is full: take a larger --context");
    logits.resize(std::size_t(all ? count : 1) * std::size_t(wide));
    for (int first = 0; first < count; first += chunk_) {
      const int n = std::min(count - first, chunk_);
      pass(at(s), tokens.data() + first, n);
      const bool last = first + n == count;
      if (!all && !last) continue;
      const int from = all ? 0 : n - 1;
      run<sum>(on_, {.a = {x_.data() + std::size_t(from) * std::size_t(c_.width), n - from, c_.width, c_.width}, .b = head_.read(wide, c_.width), .c = logits_.rows(n - from, wide)}, memory_);
      std::memcpy(logits.data() + (all ? std::size_t(first) * std::size_t(wide) : 0), logits_.data(), std::size_t(n - from) * std::size_t(wide) * sizeof(float));
    }
  }

  engine_bytes bytes() const override {
    engine_bytes b;
    for (const layer& l : layers_) b.read += l.qkv.bytes() + l.out.bytes() + l.gate_up.bytes() + l.down.bytes();
    b.read += head_.bytes(), b.weights = b.read + embedding_.bytes();
    for (const sequence& s : sequences_)
      if (!s.rows.empty()) b.cache += std::size_t(most_) * std::size_t(row()) * s.rows.size() * sizeof(float), b.cache_used += std::size_t(s.tokens) * std::size_t(row()) * s.rows.size() * sizeof(float);
    return b;
  }

private:
  int row() const { return 2 * c_.kv_heads * d; }
  sequence& at(int s) { return sequences_.at(std::size_t(s)); }
  static buffer<float> floats(const matrix& m) {
    buffer<float> all(std::size_t(m.n * m.k));
    m.rows(0, m.n, all.data());
    return all;
  }
  // Floats are turned in pairs (i, i + d / 2): rows of queries and keys whose pairs are neighbours are set apart. Their products stay what they were.
  buffer<float> queries_and_keys_apart(buffer<float> qkv) const {
    if (c_.rotary_pairs == pairs::half_split) return qkv;
    const std::size_t k = std::size_t(c_.width);
    std::vector<float> head(d * k);
    for (int h = 0; h < c_.heads + c_.kv_heads; ++h) {
      float* const rows = qkv.data() + std::size_t(h) * head.size();
      for (std::size_t i = 0; i < d; ++i) std::memcpy(head.data() + (i / 2 + i % 2 * (d / 2)) * k, rows + i * k, k * sizeof(float));
      std::memcpy(rows, head.data(), head.size() * sizeof(float));
    }
    return qkv;
  }
  void normalize(const buffer<float>& gain, int n) {
    run<normalized>(on_, {.x = stream_.read(n, c_.width), .gain = {gain.data(), 1, c_.width, c_.width}, .y = x_.rows(n, c_.width), .epsilon = c_.epsilon}, memory_);
  }
  void add(view<const float> x, const buffer<float>& w) {
    const view<float> stream = stream_.rows(x.rows, c_.width);
    run<added>(on_, {.a = x, .b = w.read(c_.width, x.cols), .c = stream, .epilogue = {.first = {stream}, .rest = {}}}, memory_);
  }
  // n tokens of a sequence through all layers and the last norm, to x.
  void pass(sequence& s, const int* ids, int n) {
    const int q_cols = c_.heads * d, kv_cols = c_.kv_heads * d, from = s.tokens;
    for (int i = 0; i < n; ++i) positions_.data()[i] = from + i;
    run<prim::permute<float>>(on_, {.from = {embedding_.data(), c_.vocabulary, c_.width, c_.width}, .to = {stream_.data(), n, c_.width, c_.width}, .index = ids}, memory_);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const layer& l = layers_[i];
      float* const rows = s.rows[i].data();
      const view<float> q = q_.rows(n, q_cols), k{rows + std::size_t(from) * std::size_t(row()), n, kv_cols, row()};
      normalize(l.attention_norm, n);
      run<sum>(on_, {.a = x_.read(n, c_.width), .b = l.qkv.read(q_cols, c_.width), .c = q}, memory_);
      run<sum>(on_, {.a = x_.read(n, c_.width), .b = {l.qkv.data() + std::size_t(q_cols) * std::size_t(c_.width), row(), c_.width, c_.width}, .c = {k.data, n, row(), row()}}, memory_);
      run<turn>(on_, {.x = q, .y = q, .positions = positions_.data(), .frequencies = frequencies_.data(), .heads = c_.heads}, memory_);
      run<turn>(on_, {.x = k, .y = k, .positions = positions_.data(), .frequencies = frequencies_.data(), .heads = c_.kv_heads}, memory_);
      const auto stored = [&](float* first) { return attention::bshd(view<const float>{first, from + n, kv_cols, row()}, c_.kv_heads, d); };
      run<look>(on_, {.q = attention::bshd(reading(q), c_.heads, d), .kv = {stored(rows), stored(rows + kv_cols)}, .o = attention::bshd(mixed_.rows(n, q_cols), c_.heads, d)}, memory_);
      add(mixed_.read(n, q_cols), l.out);
      normalize(l.feed_forward_norm, n);
      run<gate>(on_, {.a = x_.read(n, c_.width), .b = l.gate_up.read(2 * c_.hidden, c_.width), .c = inner_.rows(n, c_.hidden)}, memory_);
      add(inner_.read(n, c_.hidden), l.down);
    }
    normalize(final_norm_, n);
    s.tokens += n;
  }

  machine on_;
  config c_;
  int chunk_, most_;
  std::vector<layer> layers_;
  buffer<float> embedding_, head_, final_norm_, frequencies_, stream_, x_, q_, mixed_, inner_, logits_;
  buffer<int> positions_;
  std::vector<sequence> sequences_;
  scratch memory_;
};

}  // namespace

std::unique_ptr<engine> make_f32_engine(const weights& w, const engine_options& o) {
  const attention_settings& a = o.attention;
  if (o.linear.weights != "native" || a.attention != "flash" || a.kv != "bf16" || a.cache != "dense" || o.ranks != 1)
    throw std::runtime_error("--activations f32 is built for the file's own weights, dense attention and one rank: the way that others are held against");
  if (w.shape.head_dim != d) throw std::runtime_error("heads of " + std::to_string(w.shape.head_dim) + " columns are not built: engine_f32.cpp names the " + std::to_string(d) + " that are");
  return std::make_unique<engine_f32>(w, o);
}

}  // namespace generate
