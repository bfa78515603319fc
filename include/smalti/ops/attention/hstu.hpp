// HSTU: pointwise attention over histories of events. docs/ops/attention/hstu.md.
#pragma once
#include <smalti/ops/attention.hpp>
#include <smalti/policy/hstu.hpp>
#include <smalti/policy/score.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! o[i] = 1/N sum over visible j of silu(alpha q[i] . k[j] + position bias + time bias) v[j]. N is a constant of training
//! (args.weights.inverse_n = 1 / N), not the number of a row's keys. alpha is args.scale: 1 in the research model (0 would
//! take 1 / sqrt(D)). Masked weights are 0; there is no log-sum-exp, and results over parts of the keys add up.
//! The layer is then W_o(norm(o) * u) + x: ops/norm.hpp and a product.
//! Score: identity_score, chain<relative_bias<>, time_bias>, ...
//! Source: Zhai et al. 2024, arXiv:2402.17152.
template <class Score, class Base = options> struct hstu_options : Base {
  using score = Score;
  using normalizer = policy::silu_weights;
};
template <class T, int D, class Score = policy::identity_score, class Kv = dense_kv<T>, class Base = options>
using hstu = flash<T, D, Kv, policy::hstu_mask, hstu_options<Score, Base>>;

}  // namespace smalti::inline SMALTI_CODE::attention
