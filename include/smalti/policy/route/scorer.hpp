// Scorers: what a router makes of its logits before it selects. A scorer is a small aggregate with
//     over_all                          whether scores are a softmax over all experts, exp(z) / sum exp(z)
//     reads_logits, reads_place         whether logit() looks at the logit, at (token, expert)
//     logit(z, token, expert)           the logit that is meant: finite (see finite_logit)
//     score(z)                          the score, where it is not over_all
//     slope(z, score)                   d score / d z, where it is not over_all
//     check(extent)                     optional
// over the machine's values. Without a bias the order of the logits selects, which is the order of the scores without their rounding:
// two sigmoids that are both 1 in float keep the order of their logits. Scores weigh.
#pragma once
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/policy/philox.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! The sizes that a routing policy is checked against.
struct route_extent {
  int tokens = 0, experts = 0, choices = 0;
};

//! A logit that every formula survives: NaN and -infinity become -2^100, +infinity 2^100, and what lies beyond them. A row of NaN
//! then has equal logits and selects k different experts, where an argmax over NaN selects expert 0 k times.
template <class V> SMALTI_HD constexpr V finite_logit(V z) {
  using namespace scalar;
  return where(z == z, min(max(z, -0x1p100f), 0x1p100f), -0x1p100f);
}

//! score = z: with softmax_norm or sigmoid_norm, which look at the selected logits only.
struct logit_scorer {
  static constexpr bool over_all = false, reads_logits = true, reads_place = false;
  template <class V> SMALTI_HD constexpr V score(V z) const { return z; }
  template <class V> SMALTI_HD constexpr V slope(V z, V) const { return z * 0.0f + 1.0f; }
};

//! score_e = exp(z_e) / sum over all experts of exp(z).
struct softmax_scorer {
  static constexpr bool over_all = true, reads_logits = true, reads_place = false;
};

//! score = 1 / (1 + e^-z). Exactly 0 below about -88: norms that divide carry an epsilon.
struct sigmoid_scorer {
  static constexpr bool over_all = false, reads_logits = true, reads_place = false;
  template <class V> SMALTI_HD V score(V z) const {
    using namespace scalar;
    return over(1.0f, 1.0f + exp2(min(z * -1.4426950408889634f, 126.0f))) * where(z < -87.0f, 0.0f, 1.0f);   // over() is exact to 2^126
  }
  template <class V> SMALTI_HD V slope(V, V s) const { return s * (1.0f - s); }
};

//! score = sqrt(log(1 + e^z)).
struct sqrt_softplus_scorer {
  static constexpr bool over_all = false, reads_logits = true, reads_place = false;
  template <class V> SMALTI_HD V score(V z) const {
    using namespace scalar;
    const V tail = log2(1.0f + exp2(abs(z) * -1.4426950408889634f)) * 0.6931471805599453f;
    return sqrt(where(z < -16.0f, exp2(z * 1.4426950408889634f), max(z, 0.0f) + tail));       // below, log(1 + x) is x
  }
  //! sigmoid(z) / (2 score).
  template <class V> SMALTI_HD V slope(V z, V s) const {
    using namespace scalar;
    return where(s > 0.0f, over(sigmoid_scorer{}.score(z) * 0.5f, max(s, 0x1p-100f)), 0.0f);
  }
};

//! score = 1 for every expert: experts that are given or hashed, all weighing the same.
struct constant_scorer {
  static constexpr bool over_all = false, reads_logits = false, reads_place = false;
  template <class V> SMALTI_HD constexpr V score(V z) const { return z * 0.0f + 1.0f; }
  template <class V> SMALTI_HD constexpr V slope(V z, V) const { return z * 0.0f; }
};

//! The logits are products of projections, z = P x . S_e: cosines of them times a temperature, then Then's score:
//!     exp(min(log_temperature, log 100)) z / (token_norm[t] expert_norm[e])
//! with token_norm[t] = |P x_t| and expert_norm[e] = |S_e|. Tutel's cosine router (Chi et al. 2022, arXiv:2204.09179) begins at a
//! temperature of 1 / 0.5. The gradient is that of z; the norms are constants in it.
template <class Then = softmax_scorer> struct cosine_scorer {
  static constexpr bool over_all = Then::over_all, reads_logits = true, reads_place = true;
  const float* token_norm = nullptr;
  const float* expert_norm = nullptr;
  float log_temperature = 0.6931471805599453f;
  int tokens = 0, experts = 0;                    //!< entries of the norms
  Then then{};
  template <class T, class E> SMALTI_HD auto factor(T token, E expert) const {
    using namespace scalar;
    const float low = log_temperature < 4.605170185988091f ? log_temperature : 4.605170185988091f;
    const auto norm = max(lookup(token_norm, token, tokens) * lookup(expert_norm, expert, experts), 1e-12f);
    return over(exp2(norm * 0.0f + low * 1.4426950408889634f), norm);
  }
  template <class V, class T, class E> SMALTI_HD V logit(V z, T token, E expert) const { return z * factor(token, expert); }
  template <class V> SMALTI_HD V score(V z) const { return then.score(z); }
  template <class V> SMALTI_HD V slope(V z, V s) const { return then.slope(z, s); }
  constexpr status check(const route_extent& e) const {
    if (token_norm == nullptr) return {errc::null_pointer, "cosine_scorer.token_norm is null: it needs an element for each token"};
    if (expert_norm == nullptr) return {errc::null_pointer, "cosine_scorer.expert_norm is null: it needs an element for each expert"};
    if (tokens < e.tokens) return {errc::bad_shape, "cosine_scorer.tokens must be at least the tokens", tokens, e.tokens};
    if (experts < e.experts) return {errc::bad_shape, "cosine_scorer.experts must be at least the experts", experts, e.experts};
    if (!(log_temperature == log_temperature)) return {errc::bad_value, "cosine_scorer.log_temperature must be a number"};
    return {};
  }
};

//! The logits are a table, one row a task; token t has the logits of row task[t], and zeros for a task of -1 (unknown): Poly's
//! router with Then = sigmoid_scorer (Ponti et al. 2022, arXiv:2202.13914).
template <class Then = sigmoid_scorer> struct task_scorer {
  static constexpr bool over_all = Then::over_all, reads_logits = true, reads_place = false, maps_rows = true;
  const std::int32_t* task = nullptr;             //!< an element for each token, below the rows of the table
  Then then{};
  template <class V> SMALTI_HD V score(V z) const { return then.score(z); }
  template <class V> SMALTI_HD V slope(V z, V s) const { return then.slope(z, s); }
  constexpr status check(const route_extent& e) const {
    if (e.tokens > 0 && task == nullptr) return {errc::null_pointer, "task_scorer.task is null: it needs an element for each token"};
    return {};
  }
};

//! No logits: token and expert are hashed to a number, and the greatest numbers select (rendezvous hashing, Thaler and Ravishankar
//! 1998): k different experts a token, the same for equal token ids, with loads as even as a random choice makes them. The score is 1.
//! Hash layers: Roller et al. 2021, arXiv:2106.04426.
struct hash_scorer {
  static constexpr bool over_all = false, reads_logits = false, reads_place = true;
  std::uint64_t seed = 0;
  const std::int32_t* token_ids = nullptr;        //!< an element for each token; null: tokens are hashed by their place
  int tokens = 0;                                 //!< entries of token_ids
  template <class V, class T, class E> SMALTI_HD V logit(V, T token, E expert) const {
    using namespace scalar;
    const int place = token_ids == nullptr ? 1 : 0;              // no branch between values: it would keep them in memory
    const T id = lookup(token_ids, token, place ? 0 : tokens) + token * place;
    const four<T> bits = philox<T>({{id, expert, token * 0, token * 0 + 0x68617368}}, seed);       // "hash": no stream of a bias
    return to_float((bits.v[0] >> 8) & 0xffffff);
  }
  template <class V> SMALTI_HD constexpr V score(V z) const { return z * 0.0f + 1.0f; }
  template <class V> SMALTI_HD constexpr V slope(V z, V) const { return z * 0.0f; }
  constexpr status check(const route_extent& e) const {
    if (token_ids != nullptr && tokens < e.tokens) return {errc::bad_shape, "hash_scorer.tokens must be at least the tokens", tokens, e.tokens};
    return {};
  }
};

//! Whether logits lie in other rows than their tokens.
template <class Scorer> constexpr bool maps_rows = requires { Scorer::maps_rows; };

}  // namespace smalti::inline SMALTI_DATA::policy
