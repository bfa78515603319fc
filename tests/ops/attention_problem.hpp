// Batches for the tests of attention: values in a logical order, layouts made from them, and the comparison with the oracle.
#pragma once
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>
#include <catch2/catch.hpp>
#include <smalti/ops/attention.hpp>
#include "reference/attention.hpp"
#include "support/arrays.hpp"
#include "support/contexts.hpp"
#include "support/tolerance.hpp"

namespace test {

//! The shape of a batch: query rows and keys of each sequence.
struct attention_shape {
  std::vector<int> queries, keys;
  int heads = 4, kv_heads = 2, d = 64, value_dim = 64;
  int sequences() const { return int(queries.size()); }
  int most_queries() const { return *std::max_element(queries.begin(), queries.end()); }
  int most_keys() const { return *std::max_element(keys.begin(), keys.end()); }
};

//! Rows of heads of a batch in some layout, with the values that lie there.
enum class row_order { bshd, bhsd, ragged };
template <class T> class rows_of_batch {
public:
  rows_of_batch(const std::vector<int>& lengths, int heads, int cols, row_order order)
      : lengths_(lengths), heads_(heads), cols_(cols), order_(order), most_(*std::max_element(lengths.begin(), lengths.end())),
        offsets_(lengths.size() + 1), memory_(size()) {
    offsets_[0] = 0;
    for (std::size_t s = 0; s < lengths.size(); ++s) offsets_[s + 1] = offsets_[s] + lengths[s];
    for (T& x : memory_) x = narrow_nan();
  }
  //! Normal values; padding rows of dense layouts keep their NaN.
  rows_of_batch& fill(std::mt19937& generator, float size = 1) {
    std::normal_distribution<float> normal(0, size);
    for (int s = 0; s < int(lengths_.size()); ++s)
      for (int i = 0; i < lengths_[s]; ++i)
        for (int h = 0; h < heads_; ++h)
          for (int c = 0; c < cols_; ++c) at(s, h, i, c) = element(normal(generator));
    return *this;
  }
  T& at(int s, int h, int i, int c) { return memory_[index(s, h, i, c)]; }
  double get(int s, int h, int i, int c) const { return value(memory_[index(s, h, i, c)]); }
  template <class U = T> smalti::attention::head_rows<U> rows() {
    const int n = int(lengths_.size());
    if (order_ == row_order::bshd) return smalti::attention::bshd<U>(memory_.data(), n, most_, heads_, cols_);
    if (order_ == row_order::bhsd) return smalti::attention::bhsd<U>(memory_.data(), n, most_, heads_, cols_);
    return smalti::attention::ragged<U>(memory_.data(), {offsets_.data(), n}, most_, heads_, cols_);
  }
  bool guarded() const { return memory_.guarded(); }
  array<T>& memory() { return memory_; }
  void poison() {
    for (T& x : memory_) x = narrow_nan();
  }
  //! Rows of dense layouts that no sequence has were not written.
  bool padding_untouched() const {
    if (order_ == row_order::ragged) return true;
    for (int s = 0; s < int(lengths_.size()); ++s)
      for (int i = lengths_[s]; i < most_; ++i)
        for (int h = 0; h < heads_; ++h)
          for (int c = 0; c < cols_; ++c)
            if (!std::isnan(get(s, h, i, c))) return false;
    return true;
  }
  static T element(float x) {
    if constexpr (std::is_same_v<T, float>) return x;
    else return smalti::narrow<T>(x);
  }

private:
  static T narrow_nan() { return element(NAN); }
  std::size_t size() const {
    const std::size_t rows = order_ == row_order::ragged ? std::accumulate(lengths_.begin(), lengths_.end(), std::size_t(0)) : lengths_.size() * most_;
    return rows * heads_ * cols_;
  }
  std::size_t index(int s, int h, int i, int c) const {
    if (order_ == row_order::bshd) return ((std::size_t(s) * most_ + i) * heads_ + h) * cols_ + c;
    if (order_ == row_order::bhsd) return ((std::size_t(s) * heads_ + h) * most_ + i) * cols_ + c;
    return (std::size_t(offsets_[s] + i) * heads_ + h) * cols_ + c;
  }
  std::vector<int> lengths_;
  int heads_, cols_;
  row_order order_;
  int most_;
  array<std::int32_t> offsets_;
  array<T> memory_;
};

using key_value = std::function<double(int sequence, int kv_head, int j, int c)>;

//! The oracle of one query head of one sequence.
template <class T> oracle::attention_problem oracle_of(const attention_shape& shape, const rows_of_batch<T>& q, const key_value& key, const key_value& val,
                                                       double scale, int s, int h) {
  oracle::attention_problem p;
  p.queries = shape.queries[s], p.keys = shape.keys[s], p.d = shape.d, p.dv = shape.value_dim, p.scale = scale;
  const int g = h / (shape.heads / shape.kv_heads);
  for (int i = 0; i < p.queries; ++i)
    for (int c = 0; c < p.d; ++c) p.q.push_back(q.get(s, h, i, c));
  for (int j = 0; j < p.keys; ++j)
    for (int c = 0; c < p.d; ++c) p.k.push_back(key(s, g, j, c));
  for (int j = 0; j < p.keys; ++j)
    for (int c = 0; c < p.dv; ++c) p.v.push_back(val(s, g, j, c));
  return p;
}

//! What the oracle is told beyond the values: for a sequence and head, masks, logits and the normalizer.
using problem_terms = std::function<void(oracle::attention_problem&, int sequence, int head)>;
inline problem_terms causal_terms() {
  return [](oracle::attention_problem& p, int, int) { p.visible = [shift = p.keys - p.queries](int i, int j) { return j <= i + shift; }; };
}
inline problem_terms full_terms() {
  return [](oracle::attention_problem&, int, int) {};
}

// Error model. A weight is rounded to T (half a unit of its last digit: at most 2^-8 of it for bf16, 2^-11 for fp16, and 2^-25
// absolute for subnormal fp16), a score is a sum of d products (at most (d + 2) 2^-24 of the sum of sizes, which its
// exponent turns into a relative error of the weight), exp2 and the rescaling cost 2^-20 of it, sums over keys
// (keys + 2) 2^-24 of their sizes; then one rounding to Out.
template <class T, class Out> double attention_error(const oracle::attention_result& r, const oracle::attention_problem& p, int i, int e) {
  const double rounding = std::ldexp(1.0, -smalti::digits<T>), size = r.size[std::size_t(i) * p.dv + e];
  const double score = (p.d + 2) * 0x1p-24 * r.reach[i] + 0x1p-20 + (p.keys + 2) * 0x1p-24;
  const double tiny = std::is_same_v<T, smalti::fp16> ? 0x1p-25 * p.keys * 8 : 0x1p-60 * p.keys;
  return (rounding + 3 * score) * size + tiny + store_error<Out>(r.o[std::size_t(i) * p.dv + e]) + 1e-30;
}

// Small tiles, so that small sizes have many of them.
struct small_tiles {
  SMALTI_HD constexpr smalti::attention::attention_tuning operator()(smalti::target t, smalti::attention::attention_regime regime) const {
    const bool decode = is_decode(regime);
    if (t == smalti::target::host && decode) return {.m = 4, .n = 32, .chunk = 0, .value = 0, .keys_left = true};
    if (t == smalti::target::host) return {.m = 16, .n = 32, .chunk = 0, .value = 0, .strips = 2};
    if (decode) return {.m = 16, .n = 32};
    return {.m = 64, .n = 32};
  }
};
//! An op with another tuning.
template <class Op, class Selector> struct tuned_op : Op {
  using args = typename Op::args;
  template <class Context> static auto with(const Context& c) { return smalti::with_tuning<Selector>(c); }
  template <class Context> static smalti::status check(const Context& c, const args& x) { return Op::check(with(c), x); }
  template <class Context> static std::size_t workspace_bytes(const Context& c, const args& x) { return Op::workspace_bytes(with(c), x); }
  template <class Context> static smalti::status run(const Context& c, const args& x, smalti::workspace w) { return Op::run(with(c), x, w); }
};

//! Runs Op on every context and compares o and lse with the oracle. `arguments` finishes the args (kv, mask, ...).
template <class Op, class T, class Out, class F>
void check_attention(const attention_shape& shape, rows_of_batch<T>& q, row_order order, const key_value& key, const key_value& val,
                     const problem_terms& terms, unsigned seed, F arguments) {
  if (order != row_order::ragged)
    for (int n : shape.queries) REQUIRE(n == shape.most_queries());      // dense layouts have rows of one number
  rows_of_batch<Out> o(shape.queries, shape.heads, shape.value_dim, order);
  rows_of_batch<float> lse(shape.queries, shape.heads, 1, order);
  const double scale = 1 / std::sqrt(double(shape.d));
  std::vector<oracle::attention_problem> problems;
  std::vector<oracle::attention_result> results;
  for (int s = 0; s < shape.sequences(); ++s)
    for (int h = 0; h < shape.heads; ++h) {
      problems.push_back(oracle_of(shape, q, key, val, scale, s, h));
      terms(problems.back(), s, h);
      results.push_back(oracle::attention(problems.back()));
    }
  constexpr bool base_2 = std::is_same_v<typename Op::options_type::lse, smalti::policy::lse_2<float>>;
  for_each_context(seed, [&](const auto& context) {
    o.poison();
    lse.poison();
    typename Op::args x{.q = q.template rows<const T>(), .kv = {}, .o = o.rows()};
    if constexpr (Op::normalizer::shifts) x.lse = lse.rows();
    arguments(context, x);
    const smalti::status fit = Op::check(context, x);
    INFO(fit.what << " got " << fit.got << " need " << fit.need);
    REQUIRE(fit.code == smalti::errc::ok);
    scratch memory(Op::workspace_bytes(context, x));
    const smalti::status st = Op::run(context, x, memory.get());
    REQUIRE(st.code == smalti::errc::ok);
    wait(context);
    REQUIRE(memory.guarded());
    REQUIRE(o.guarded());
    REQUIRE(lse.guarded());
    REQUIRE(o.padding_untouched());
    for (int s = 0; s < shape.sequences(); ++s)
      for (int h = 0; h < shape.heads; ++h) {
        const auto& p = problems[std::size_t(s) * shape.heads + h];
        const auto& r = results[std::size_t(s) * shape.heads + h];
        for (int i = 0; i < p.queries; ++i) {
          CAPTURE(s, h, i, p.queries, p.keys, p.d, p.dv);
          for (int e = 0; e < p.dv; ++e) {
            const double got = o.get(s, h, i, e), want = r.o[std::size_t(i) * p.dv + e], bound = attention_error<T, Out>(r, p, i, e);
            if (!(std::abs(got - want) <= bound)) {
              CAPTURE(e, got, want, bound);
              REQUIRE(std::abs(got - want) <= bound);
            }
          }
          if constexpr (Op::normalizer::shifts) {
            const double got = lse.get(s, h, i, 0), want = r.lse[i] * (base_2 ? 1.4426950408889634 : 1.0);
            if (want == oracle::minus_infinity) REQUIRE(got == oracle::minus_infinity);
            else if (!(std::abs(got - want) <= 1e-4 * std::max(1.0, std::abs(want)))) REQUIRE(got == want);
          }
        }
      }
  });
}

}  // namespace test
