// Weight norms: what the scores s_1 .. s_k of a token's experts weigh. All are
//     w_j = scale * value(s_j) * factor(sum over j of term(s_j))
// with s_j - max s for s_j where from_greatest; and for the gradient, with u_j = d loss / d w_j and dot = sum u_j w_j,
//     d loss / d s_j = gradient(u_j, s_j, value_j, dot, sum, scale)
// over the machine's values; dot and sum are a value for each token. The selection and its bias have no gradient.
#pragma once
#include <smalti/core/status.hpp>
#include <smalti/policy/route/scorer.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! w = scale s. Softmax scores of the selected sum to less than 1: LongCat-Flash, DeepSeek-V2.
struct no_norm {
  static constexpr bool from_greatest = false, divides = false;
  template <class V> SMALTI_HD constexpr V value(V s) const { return s; }
  template <class V, class D> SMALTI_HD constexpr V gradient(V u, V, V, D, D, float scale) const { return u * scale; }
};

//! w = scale s / (sum s + epsilon). The epsilon is what keeps a token whose sigmoids are all 0 from NaN: DeepSeek-V3 has 1e-20.
struct sum_norm {
  static constexpr bool from_greatest = false, divides = true;
  float epsilon = 1e-20f;
  template <class V> SMALTI_HD constexpr V value(V s) const { return s; }
  template <class V> SMALTI_HD constexpr V term(V s) const { return s; }
  template <class V> SMALTI_HD V factor(V sum) const {
    using namespace scalar;
    return over(1.0f, sum + epsilon);
  }
  template <class V, class D> SMALTI_HD V gradient(V u, V, V, D dot, D sum, float scale) const { return (u * scale - dot) * factor(sum); }
  constexpr status check(const route_extent&) const {
    if (!(epsilon >= 0x1p-126f)) return {errc::bad_value, "sum_norm.epsilon must be at least 2^-126: a token whose scores are all 0 would divide by 0"};
    return {};
  }
};

//! w = scale s / max(sum s, least), and scale s where a token has one choice only: Tutel's, least = 2^-23.
struct clamped_sum_norm {
  static constexpr bool from_greatest = false, divides = true;
  float least = 0x1p-23f;
  bool one_choice = false;                        //!< nothing is divided; the router sets it
  constexpr clamped_sum_norm for_choices(int choices) const { return {least, choices == 1}; }
  template <class V> SMALTI_HD constexpr V value(V s) const { return s; }
  template <class V> SMALTI_HD constexpr V term(V s) const { return s; }
  template <class V> SMALTI_HD V factor(V sum) const {
    using namespace scalar;
    const float one = one_choice ? 1.0f : 0.0f;   // no branch between values: it would keep them in memory
    return over(1.0f, max(sum, least)) * (1.0f - one) + one;
  }
  template <class V, class D> SMALTI_HD V gradient(V u, V, V, D dot, D sum, float scale) const {
    using namespace scalar;
    const float several = one_choice ? 0.0f : 1.0f;
    return (u * scale - where(sum > least, dot, 0.0f) * several) * factor(sum);
  }
  constexpr status check(const route_extent&) const {
    if (!(least >= 0x1p-126f)) return {errc::bad_value, "clamped_sum_norm.least must be at least 2^-126: a token whose scores are all 0 would divide by 0"};
    return {};
  }
};

//! w = scale s / (sum |s|^p)^(1/p): MegaBlocks' moe_normalize_expert_weights.
struct lp_norm {
  static constexpr bool from_greatest = false, divides = true;
  float p = 2;
  template <class V> SMALTI_HD constexpr V value(V s) const { return s; }
  template <class V> SMALTI_HD V term(V s) const {
    using namespace scalar;
    return where(s == 0.0f, 0.0f, exp2(log2(max(abs(s), 0x1p-120f)) * p));
  }
  template <class V> SMALTI_HD V factor(V sum) const {
    using namespace scalar;
    return exp2(log2(max(sum, 0x1p-120f)) * (-1.0f / p));
  }
  //! (scale u - dot sign(s) |s|^(p-1) / n^(p-1)) / n, n the norm.
  template <class V, class D> SMALTI_HD V gradient(V u, V s, V, D dot, D sum, float scale) const {
    using namespace scalar;
    const auto n = factor(sum);
    const V share = exp2(log2(max(abs(s) * n, 0x1p-100f)) * (p - 1.0f));
    return (u * scale - dot * where(s < 0.0f, share * -1.0f, where(s == 0.0f, share * 0.0f, share))) * n;
  }
  constexpr status check(const route_extent&) const {
    if (!(p >= 1 && p <= 8)) return {errc::bad_value, "lp_norm.p must be between 1 and 8"};
    return {};
  }
};

//! w = scale exp(s) / sum exp(s) over the selected: with logit_scorer the same weights as softmax over all, then sum_norm (Mixtral,
//! arXiv:2401.04088), with k exponentials instead of E.
struct softmax_norm {
  static constexpr bool from_greatest = true, divides = true;
  template <class V> SMALTI_HD V value(V s) const {
    using namespace scalar;
    return exp2(s * 1.4426950408889634f);
  }
  template <class V> SMALTI_HD V term(V s) const { return value(s); }
  template <class V> SMALTI_HD V factor(V sum) const {
    using namespace scalar;
    return over(1.0f, max(sum, 1.0f));            // the greatest adds 1; 0 where a token has no expert
  }
  template <class V, class D> SMALTI_HD V gradient(V u, V, V value, D dot, D sum, float scale) const { return value * factor(sum) * (u * scale - dot); }
};

//! w = scale / (1 + e^-s) of the selected logits: selection does not see where the sigmoid saturates.
struct sigmoid_norm {
  static constexpr bool from_greatest = false, divides = false;
  template <class V> SMALTI_HD V value(V s) const { return sigmoid_scorer{}.score(s); }
  template <class V, class D> SMALTI_HD V gradient(V u, V, V value, D, D, float scale) const { return u * scale * value * (1.0f - value); }
};

}  // namespace smalti::inline SMALTI_DATA::policy
