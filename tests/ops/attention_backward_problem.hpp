// One call of attention::flash_backward: random arrays with poison between rows, the forward pass and the gradients of the
// oracle, and how far off each gradient may be.
//
// With u the unit roundoff of T (2^-8 for bf16, 2^-11 for fp16), w rounded to T makes dv off by u w |do|; ds rounded to T and delta
// from a rounded o make dq and dk off by 2 u w (|do|.|v| + |do|.|o| + |dlse|) |k| scale. A weight is e^(z - lse) of sums in
// float: its relative error is that of the exponent, (d + 4) 2^-24 reach + 2^-22 (|z| + |lse|), and the errors of the other sums
// are their lengths times 2^-24 of the sums of sizes.
#pragma once
#include <catch2/catch.hpp>
#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <vector>
#include <smalti/ops/attention/backward.hpp>
#include "reference/attention.hpp"
#include "support/arrays.hpp"
#include "support/contexts.hpp"

namespace test {

enum class rows_layout { bshd, bhsd, ragged };

struct gradient_shape {
  std::vector<int> queries, keys;      // of each sequence; equal unless ragged
  int heads = 1, kv_heads = 1;
  rows_layout layout = rows_layout::bshd;
};

//! What the oracle is told of one head of one sequence, beside its numbers.
struct gradient_oracle {
  std::function<bool(int, int)> visible = [](int, int) { return true; };
  std::function<double(double, int, int)> logit = [](double s, int, int) { return s; }, slope = [](double, int, int) { return 1.0; };
  double sink = oracle::minus_infinity;
  std::function<double(double)> weight, weight_slope;    // pointwise, else softmax
};

template <class T> constexpr double unit_of = std::is_same_v<T, smalti::bf16> ? 0x1p-8 : std::is_same_v<T, smalti::fp16> ? 0x1p-11 : 0x1p-24;

//! The largest error of a value that T holds as a subnormal.
template <class T> constexpr double floor_of = std::is_same_v<T, smalti::fp16> ? 0x1p-25 : 0x1p-130;

//! Rows of heads in memory of their own, `gap` elements of NaN behind each row.
template <class T> struct rows_memory {
  array<T> memory;
  smalti::attention::head_rows<T> at;
  const gradient_shape* shape;
  static int most(const std::vector<int>& lengths) { return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end()); }
  static int total(const std::vector<int>& lengths) {
    int sum = 0;
    for (int n : lengths) sum += n;
    return sum;
  }
  rows_memory(const gradient_shape& s, const std::vector<int>& lengths, int heads, int cols, const std::int32_t* offsets, int gap)
      : memory(s.layout == rows_layout::ragged ? std::size_t(total(lengths)) * heads * (cols + gap) : std::size_t(lengths.size()) * most(lengths) * heads * (cols + gap)), shape(&s) {
    const long long wide = cols + gap, rows = most(lengths);
    at = {memory.data(), int(lengths.size()), heads, int(rows), cols};
    if (s.layout == rows_layout::bhsd) at.sequence_stride = rows * heads * wide, at.head_stride = rows * wide, at.row_stride = int(wide);
    else at.sequence_stride = rows * heads * wide, at.head_stride = wide, at.row_stride = int(heads * wide);
    if (s.layout == rows_layout::ragged) at.offsets = offsets, at.sequence_stride = 0;
    std::memset(static_cast<void*>(memory.data()), 0xFF, memory.size() * sizeof(T));
  }
  T* row(int s, int h, int i) { return at.begin(s, h) + static_cast<long long>(i) * at.row_stride; }
  const T* row(int s, int h, int i) const { return at.begin(s, h) + static_cast<long long>(i) * at.row_stride; }
  smalti::attention::head_rows<const T> read() const {
    return {at.data, at.sequences, at.heads, at.rows, at.cols, at.sequence_stride, at.head_stride, at.row_stride, at.offsets};
  }
};

template <class Op> struct gradient_problem {
  using args = typename Op::args;
  using T = std::remove_const_t<typename decltype(args::q)::element>;
  using O = typename Op::o_element;
  using G = typename Op::gradient_element;
  static constexpr int dv = Op::value_dim;

  int d;
  gradient_shape shape;
  float scale;
  array<std::int32_t> query_offsets, key_offsets;
  rows_memory<T> q, k, v, d_o;
  rows_memory<O> o;
  rows_memory<float> lse, d_lse;
  std::vector<double> dq, dk, dv_, dq_bound, dk_bound, dv_bound;   // [sequence][head][row][channel], as places() says
  std::vector<double> d_sink, sink_bound;
  std::vector<std::vector<double>> ds, ds_bound;                   // [sequence * heads + head][query][key]

  static array<std::int32_t> offsets_of(const std::vector<int>& lengths) {
    array<std::int32_t> a(lengths.size() + 1);
    a[0] = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) a[i + 1] = a[i] + lengths[i];
    return a;
  }
  template <class M> static void randomize(M& m, const std::vector<int>& lengths, float size, std::mt19937& generator) {
    std::normal_distribution<float> normal(0, size);
    for (int s = 0; s < m.at.sequences; ++s)
      for (int h = 0; h < m.at.heads; ++h)
        for (int i = 0; i < lengths[s]; ++i)
          for (int c = 0; c < m.at.cols; ++c) put(m.row(s, h, i)[c], normal(generator));
  }
  static void put(float& to, double x) { to = float(x); }
  template <class S> static void put(S& to, double x) { to = smalti::narrow<S>(float(x)); }

  //! `of(s, h)`: the oracle's functions for head h of sequence s. `lse_units`: log2(e) where lse is in base 2.
  gradient_problem(int head_dim, gradient_shape given, std::function<gradient_oracle(int, int)> of, std::mt19937& generator, bool with_d_lse = false,
                   double lse_units = 1, int gap = 8)
      : d(head_dim), shape(std::move(given)), scale(1 / std::sqrt(float(head_dim))), query_offsets(offsets_of(shape.queries)), key_offsets(offsets_of(shape.keys)),
        q(shape, shape.queries, shape.heads, d, query_offsets.data(), gap), k(shape, shape.keys, shape.kv_heads, d, key_offsets.data(), gap),
        v(shape, shape.keys, shape.kv_heads, dv, key_offsets.data(), gap), d_o(shape, shape.queries, shape.heads, dv, query_offsets.data(), gap),
        o(shape, shape.queries, shape.heads, dv, query_offsets.data(), gap), lse(shape, shape.queries, shape.heads, 1, query_offsets.data(), 2),
        d_lse(shape, shape.queries, shape.heads, 1, query_offsets.data(), 0) {
    randomize(q, shape.queries, 1.5f, generator);
    randomize(k, shape.keys, 1, generator);
    randomize(v, shape.keys, 1, generator);
    randomize(d_o, shape.queries, 1, generator);
    randomize(d_lse, shape.queries, with_d_lse ? 1.0f : 0.0f, generator);
    const int sequences = int(shape.queries.size()), group = shape.heads / shape.kv_heads;
    dq.assign(place(shape.queries, shape.heads, d), 0), dk.assign(place(shape.keys, shape.kv_heads, d), 0), dv_.assign(place(shape.keys, shape.kv_heads, dv), 0);
    dq_bound = dq, dk_bound = dk, dv_bound = dv_;
    d_sink.assign(shape.heads, 0), sink_bound = d_sink;
    const double u = unit_of<T>;
    for (int s = 0; s < sequences; ++s)
      for (int h = 0; h < shape.heads; ++h) {
        const gradient_oracle says = of(s, h);
        oracle::attention_problem p;
        p.queries = shape.queries[s], p.keys = shape.keys[s], p.d = d, p.dv = dv;
        p.scale = scale, p.visible = says.visible, p.logit = says.logit, p.slope = says.slope;
        p.normalize = says.weight ? oracle::pointwise(says.weight) : oracle::softmax(says.sink);
        const int g = h / group;
        const auto copy = [](std::vector<double>& to, const auto& m, int s, int h, int rows, int cols) {
          for (int i = 0; i < rows; ++i)
            for (int c = 0; c < cols; ++c) to.push_back(value(m.row(s, h, i)[c]));
        };
        copy(p.q, q, s, h, p.queries, d), copy(p.k, k, s, g, p.keys, d), copy(p.v, v, s, g, p.keys, dv);
        std::vector<double> cotangent, lse_cotangent;
        copy(cotangent, d_o, s, h, p.queries, dv), copy(lse_cotangent, d_lse, s, h, p.queries, 1);
        const oracle::attention_result forward = oracle::attention(p);
        for (int i = 0; i < p.queries; ++i) {
          for (int c = 0; c < dv; ++c) put(o.row(s, h, i)[c], forward.o[std::size_t(i) * dv + c]);
          lse.row(s, h, i)[0] = float(forward.lse[i] * lse_units);
        }
        const oracle::attention_gradients grad = says.weight ? oracle::pointwise_gradients(p, says.weight, says.weight_slope, cotangent)
                                                             : oracle::softmax_gradients(p, cotangent, lse_cotangent, says.sink);
        for (int i = 0; i < p.queries; ++i)
          for (int c = 0; c < d; ++c) dq[index(shape.queries, shape.heads, d, s, h, i) + c] = grad.dq[std::size_t(i) * d + c];
        for (int j = 0; j < p.keys; ++j) {
          for (int c = 0; c < d; ++c) dk[index(shape.keys, shape.kv_heads, d, s, g, j) + c] += grad.dk[std::size_t(j) * d + c];
          for (int c = 0; c < dv; ++c) dv_[index(shape.keys, shape.kv_heads, dv, s, g, j) + c] += grad.dv[std::size_t(j) * dv + c];
        }
        ds.push_back(grad.ds);
        ds_bound.emplace_back(grad.ds.size());
        d_sink[h] += grad.dsink;

        for (int i = 0; i < p.queries; ++i) {
          const std::vector<double> scores = oracle::attention_scores(p, i);
          const oracle::row_weights row = oracle::attention_row(p, i);
          double with_o = std::abs(lse_cotangent[i]);
          for (int c = 0; c < dv; ++c) with_o += std::abs(cotangent[std::size_t(i) * dv + c] * forward.o[std::size_t(i) * dv + c]);
          if (says.sink != oracle::minus_infinity) sink_bound[h] += std::exp(says.sink - row.lse) * (u + 0x1p-14) * with_o;
          for (int j = 0; j < p.keys; ++j) {
            if (!p.visible(i, j)) continue;
            double with_v = 0, reach = 0;
            for (int c = 0; c < dv; ++c) with_v += std::abs(cotangent[std::size_t(i) * dv + c] * p.v[std::size_t(j) * dv + c]);
            for (int c = 0; c < d; ++c) reach += std::abs(p.q[std::size_t(i) * d + c] * p.k[std::size_t(j) * d + c]) * scale;
            const double z = p.logit(scores[j], i, j), lse_size = row.lse == oracle::minus_infinity ? 0 : std::abs(row.lse);
            const double slope = std::abs(p.slope(scores[j], i, j));
            // a tanh is off by 4e-7 of itself, and so is what a cap makes of it
            const double e = (d + 4) * 0x1p-24 * reach + 0x1p-22 * (std::abs(z) + lse_size) + 4e-7 * std::abs(z) + (p.keys + p.queries * group + d + dv) * 0x1p-24 + 0x1p-20;
            double w = std::abs(row.w[j]), w_off = (u + e) * w, ds_size = w * (with_v + with_o) * (slope + 1e-6), ds_off;
            if (says.weight) {
              // pointwise: |d weight| <= |slope| |d z|, and the second derivative of z sigma(z) is at most 1/2
              const double n = std::abs(says.weight_slope(0)) * 2, off_z = e * (1 + std::abs(z));
              w_off = u * w + 2 * n * off_z + 0x1p-20 * n;
              ds_size = with_v * slope * n * 1.1;
              ds_off = (2 * u + e) * ds_size + n * off_z * with_v * slope;
            } else {
              ds_off = (2 * u + e) * ds_size;
            }
            w_off += floor_of<T>, ds_off += floor_of<T>;
            ds_bound.back()[std::size_t(i) * p.keys + j] = ds_off;
            for (int c = 0; c < d; ++c) {
              dq_bound[index(shape.queries, shape.heads, d, s, h, i) + c] += ds_off * scale * std::abs(p.k[std::size_t(j) * d + c]);
              dk_bound[index(shape.keys, shape.kv_heads, d, s, g, j) + c] += ds_off * scale * std::abs(p.q[std::size_t(i) * d + c]);
            }
            for (int c = 0; c < dv; ++c) dv_bound[index(shape.keys, shape.kv_heads, dv, s, g, j) + c] += w_off * std::abs(cotangent[std::size_t(i) * dv + c]);
          }
        }
      }
  }

  static std::size_t place(const std::vector<int>& lengths, int heads, int cols) {
    std::size_t n = 0;
    for (int length : lengths) n += std::size_t(length) * heads * cols;
    return n;
  }
  static std::size_t index(const std::vector<int>& lengths, int heads, int cols, int s, int h, int i) {
    return place({lengths.begin(), lengths.begin() + s}, heads, cols) + (std::size_t(h) * lengths[s] + i) * cols;
  }

  args arguments(rows_memory<G>& q_out, rows_memory<G>& k_out, rows_memory<G>& v_out) const {
    args x;
    x.q = q.read(), x.k = k.read(), x.v = v.read(), x.o = o.read(), x.d_o = d_o.read(), x.lse = lse.read(), x.d_lse = d_lse.read();
    x.dq = q_out.at, x.dk = k_out.at, x.dv = v_out.at, x.scale = scale;
    return x;
  }

  // One tensor against the oracle. What lies between the rows must still be what it was.
  static void compare(const char* what, const rows_memory<G>& got, const std::vector<int>& lengths, int heads, int cols, const std::vector<double>& want,
                      const std::vector<double>& bound, int behind = 8) {
    REQUIRE(got.memory.guarded());
    for (int s = 0; s < int(lengths.size()); ++s)
      for (int h = 0; h < heads; ++h)
        for (int i = 0; i < lengths[s]; ++i) {
          const G* row = got.row(s, h, i);
          for (int c = 0; c < cols; ++c) {
            const std::size_t n = index(lengths, heads, cols, s, h, i) + c;
            const double x = value(row[c]), allowed = bound[n] == 0 ? 0 : bound[n] + unit_of<G> * (std::abs(want[n]) + bound[n]) + floor_of<G>;
            if (!(std::abs(x - want[n]) <= allowed)) {
              CAPTURE(what, s, h, i, c, x, want[n], allowed);
              REQUIRE(std::abs(x - want[n]) <= allowed);
            }
          }
          const unsigned char* gap = reinterpret_cast<const unsigned char*>(row + cols);
          for (std::size_t b = 0; b < std::size_t(behind) * sizeof(G); ++b) REQUIRE(gap[b] == 0xFF);
        }
  }

  //! Runs Op on every context and compares; `set` fills in the policies, `more` looks at what else came out.
  template <class Set, class More> void run(std::uint64_t seed, Set set, More more) const {
    std::vector<unsigned char> first;
    for_each_context(seed, [&](const auto& context) {
      rows_memory<G> q_out(shape, shape.queries, shape.heads, d, query_offsets.data(), 8), k_out(shape, shape.keys, shape.kv_heads, d, key_offsets.data(), 8),
          v_out(shape, shape.keys, shape.kv_heads, dv, key_offsets.data(), 8);
      args x = arguments(q_out, k_out, v_out);
      set(x);
      scratch memory(Op::workspace_bytes(context, x));
      const smalti::status st = Op::run(context, x, memory.get());
      CAPTURE(st.what);
      REQUIRE(st.code == smalti::errc::ok);
      wait(context);
      REQUIRE(memory.guarded());
      compare("dq", q_out, shape.queries, shape.heads, d, dq, dq_bound);
      compare("dk", k_out, shape.keys, shape.kv_heads, d, dk, dk_bound);
      compare("dv", v_out, shape.keys, shape.kv_heads, dv, dv_, dv_bound);
      more(x);
      // the order of blocks and the number of threads leave no trace
      std::vector<unsigned char> bits;
      for (const auto* m : {&q_out, &k_out, &v_out}) {
        const auto* p = reinterpret_cast<const unsigned char*>(m->memory.data());
        bits.insert(bits.end(), p, p + m->memory.size() * sizeof(G));
      }
      if (first.empty()) first = bits;
      REQUIRE(bits == first);
    });
  }
  template <class Set> void run(std::uint64_t seed, Set set) const {
    run(seed, set, [](const args&) {});
  }
};

}  // namespace test
