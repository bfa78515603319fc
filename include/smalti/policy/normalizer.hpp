// Normalizers: how the logits of a row become weights, and what is done to their weighted sum at the end. The forward
// agent keeps, for each row, the sum of weights times values and, for the running kind, the largest exponent and the
// sum of weights. One member says which kind a normalizer is:
//     shifts = true      weights are 2^(e - largest), e the logit times log2(e): the exponents are never positive. The agent
//                        rescales when a larger exponent comes (Milakov and Gimelshein 2018, arXiv:1805.02867)
//     shifts = false     weight(z) of one logit alone: nothing is kept, and partial sums add up
// and over the machine's values (rows and heads as index values, one for each row of the tile):
//     value(o, largest, sum, query, head, column)      the result of a weighted sum o
//     lse(largest, sum, head)                          the log-sum-exp in base 2; -infinity for a row without keys
// A row without keys has sum = 0, a very negative finite `largest` and o = 0; its result is 0.
// What is added to the denominator once a row (a sink, a power) is added here and never in a part of the keys, so that
// splits count it once.
#pragma once
#include <concepts>
#include <type_traits>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>
#include <smalti/policy/lse.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! o / sum, lse = largest + log2(sum).
struct softmax {
  static constexpr bool shifts = true;
  template <class V, class S, class Q, class H, class C> SMALTI_HD auto value(V o, S, S sum, Q, H, C) const {
    return o * over(1.0f, where(sum == 0.0f, 1.0f, sum));
  }
  template <class S, class H> SMALTI_HD auto lse(S largest, S sum, H) const { return lse_2{largest + log2(sum)}; }
};

//! Softmax with one more logit, `logits[head]` in natural units, that has no value: o / (sum + 2^(a - largest)).
//! Xiao et al. 2023 (arXiv:2309.17453) on why heads want one; learned in current models. The lse includes it: of a row
//! without keys it is the sink alone.
struct softmax_with_sink {
  static constexpr bool shifts = true;
  const float* logits = nullptr;
  int heads = 0;
  template <class V, class S, class Q, class H, class C> SMALTI_HD auto value(V o, S largest, S sum, Q, H head, C) const {
    const auto a = exponent(head);
    const auto top = max(largest, a);
    const auto keep = exp2(largest - top), total = sum * keep + exp2(a - top);
    return o * over(keep, where(total == 0.0f, 1.0f, total));
  }
  template <class S, class H> SMALTI_HD auto lse(S largest, S sum, H head) const {
    const auto a = exponent(head);
    const auto top = max(largest, a);
    return lse_2{top + log2(sum * exp2(largest - top) + exp2(a - top))};
  }
  constexpr status check(int q_heads) const {
    if (logits == nullptr) return {errc::null_pointer, "normalizer softmax_with_sink: logits is null"};
    if (heads < q_heads) return {errc::bad_shape, "normalizer softmax_with_sink: needs a logit for each query head", heads, q_heads};
    return {};
  }

private:
  template <class H> SMALTI_HD auto exponent(H head) const { return lookup(logits, head, heads) * lse_e<float>::bits_per_unit; }
};

//! Softmax whose log-sum-exp is multiplied by `power` at the end, before it is merged with other key sets: keys then weigh
//! like (their sum)^power (APE, Yang et al. 2025, arXiv:2502.05431, with temperature * scale as its power).
struct softmax_with_power {
  static constexpr bool shifts = true;
  float power = 1;
  template <class V, class S, class Q, class H, class C> SMALTI_HD auto value(V o, S largest, S sum, Q q, H h, C c) const {
    return softmax{}.value(o, largest, sum, q, h, c);
  }
  template <class S, class H> SMALTI_HD auto lse(S largest, S sum, H head) const { return lse_2{softmax{}.lse(largest, sum, head).value * power}; }
  constexpr status check(int) const {
    if (!(power > 0)) return {errc::bad_value, "normalizer softmax_with_power: power must be positive"};
    return {};
  }
};

//! share o + (1 - share) mean: attention over selected keys, blended with the mean of all values by how much of the
//! softmax the selected ones are thought to hold (SparQ, Ribar et al. 2023, arXiv:2312.04985). `shares` has a row of
//! `share_stride` for each head, an entry for each query row; `means` has a row of value_dim for each head.
struct softmax_with_mean {
  static constexpr bool shifts = true;
  const float* shares = nullptr;
  const float* means = nullptr;
  int heads = 0, queries = 0, value_dim = 0;
  template <class V, class S, class Q, class H, class C> SMALTI_HD auto value(V o, S largest, S sum, Q q, H head, C column) const {
    const auto share = lookup(shares, head * queries + q, heads * queries);
    return softmax{}.value(o, largest, sum, q, head, column) * share + lookup(means, head * value_dim + column, heads * value_dim) * (1.0f - share);
  }
  template <class S, class H> SMALTI_HD auto lse(S largest, S sum, H head) const { return softmax{}.lse(largest, sum, head); }
  constexpr status check(int q_heads) const {
    if (shares == nullptr) return {errc::null_pointer, "normalizer softmax_with_mean: shares is null"};
    if (means == nullptr) return {errc::null_pointer, "normalizer softmax_with_mean: means is null"};
    if (heads < q_heads) return {errc::bad_shape, "normalizer softmax_with_mean: needs a row for each query head", heads, q_heads};
    if (static_cast<long long>(heads) * queries > 2147483647ll || static_cast<long long>(heads) * value_dim > 2147483647ll)
      return {errc::out_of_reach, "normalizer softmax_with_mean: its tables must have fewer than 2^31 entries"};
    return {};
  }
};

//! w = z sigma(z) * inverse_n, pointwise, masked weights 0. inverse_n is 1 / N with the N of training, a constant: not the
//! number of a row's keys (HSTU, Zhai et al. 2024, arXiv:2402.17152).
struct silu_weights {
  static constexpr bool shifts = false;
  float inverse_n = 1;
  template <class V> SMALTI_HD auto weight(V z) const { return over(z * inverse_n, 1.0f + exp2(z * -1.4426950408889634f)); }
};

//! w = z * inverse_n: linear attention without a state, as a check of what a linear form computes.
struct linear_weights {
  static constexpr bool shifts = false;
  float inverse_n = 1;
  template <class V> SMALTI_HD auto weight(V z) const { return z * inverse_n; }
};

template <class N>
concept normalizer_policy = std::is_trivially_copyable_v<N> && requires { { N::shifts } -> std::convertible_to<bool>; };

//! Why N is not a normalizer, in one sentence.
template <class N> consteval bool explain_normalizer() {
  static_assert(std::is_trivially_copyable_v<N>, "smalti: a normalizer is copied to the GPU by value, so it must be trivially copyable");
  static_assert(requires { { N::shifts } -> std::convertible_to<bool>; },
                "smalti: a normalizer needs  static constexpr bool shifts  (true: weights 2^(e - largest); false: weight(z) of each logit alone)");
  return normalizer_policy<N>;
}

//! The normalizer's own refusals.
template <class N> constexpr status check_normalizer(const N& n, int q_heads) {
  if constexpr (requires { { n.check(q_heads) } -> std::same_as<status>; }) return n.check(q_heads);
  else return {};
}

}  // namespace smalti::inline SMALTI_DATA::policy
