// Gradients of normalizers: how the weight of one score and the gradient of its logit come from what a backward pass
// has. With z = the logit, w = its weight, o_i = sum over j of w_ij v_j, and
//     dp = do_i . v_j,    delta_i = sum over c of o_ic do_ic - dlse_i,
// a gradient answers, over the machine's values,
//     weight(z, lse)                  w; lse is the row's log-sum-exp in base 2, and z then carries log2(e)
//     logit(w, z, dp, delta)          d loss / d logit
// and says as constants
//     uses_rows     whether lse and delta are needed at all: else nothing is computed or stored for rows
//     base_2        whether z is an exponent of 2 (it carries log2(e)); else it is in natural units
//     vanishes      whether logit() is 0 wherever w is 0, so that a masked weight needs no second mask
#pragma once
#include <smalti/core/version.hpp>
#include <smalti/policy/normalizer.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Softmax: w = e^(z - lse), dz = w (dp - delta). A gradient of the lse only shifts delta, and a learned sink only
//! the lse (Dao 2023, arXiv:2307.08691, and the derivative of a log-sum-exp, which is the weight).
struct softmax_gradient {
  static constexpr bool uses_rows = true, base_2 = true, vanishes = true;
  template <class V, class L> SMALTI_HD auto weight(V z, L lse) const { return exp2(z - lse); }
  template <class W, class V, class D> SMALTI_HD auto logit(W w, V, V dp, D delta) const { return w * (dp - delta); }
};

//! Pointwise SiLU (HSTU, Zhai et al. 2024, arXiv:2402.17152): w = z sigma(z) / N with a constant N, no row statistics;
//! dz = dp sigma(z) (1 + z (1 - sigma(z))) / N.
struct silu_gradient {
  float inverse_n = 1;
  static constexpr bool uses_rows = false, base_2 = false, vanishes = false;
  template <class V, class L> SMALTI_HD auto weight(V z, L) const { return over(z * inverse_n, 1.0f + exp2(z * -1.4426950408889634f)); }
  template <class W, class V, class D> SMALTI_HD auto logit(W, V z, V dp, D) const {
    const auto sigma = over(1.0f, 1.0f + exp2(z * -1.4426950408889634f));
    return dp * inverse_n * sigma * (1.0f + z * (1.0f - sigma));
  }
};

//! Linear attention without a normalizer: w = z inverse_n, dz = dp inverse_n.
struct linear_gradient {
  float inverse_n = 1;
  static constexpr bool uses_rows = false, base_2 = false, vanishes = false;
  template <class V, class L> SMALTI_HD auto weight(V z, L) const { return z * inverse_n; }
  template <class W, class V, class D> SMALTI_HD auto logit(W, V, V dp, D) const { return dp * inverse_n; }
};

//! The gradient of a normalizer of policy/normalizer.hpp. One of a user's own has an overload beside it.
constexpr softmax_gradient gradient_of(const softmax&) { return {}; }
constexpr softmax_gradient gradient_of(const softmax_with_sink&) { return {}; }
constexpr silu_gradient gradient_of(const silu_weights& n) { return {n.inverse_n}; }
constexpr linear_gradient gradient_of(const linear_weights& n) { return {n.inverse_n}; }

template <class N> concept has_gradient = requires(const N n) { gradient_of(n); };

//! Why N cannot be differentiated, in one sentence.
template <class N> consteval bool explain_gradient() {
  static_assert(has_gradient<N>,
                "smalti: this normalizer has no gradient: softmax, softmax_with_sink, silu_weights and linear_weights have; for one of your own write  gradient_of(const N&)  beside it (policy/gradient.hpp)");
  return true;
}
//! The gradient of n; after a refusal some gradient, so that the sentence is the only error.
template <class N> constexpr auto gradient_for(const N& n) {
  static_assert(explain_gradient<N>());
  if constexpr (has_gradient<N>) return gradient_of(n);
  else return softmax_gradient{};
}

}  // namespace smalti::inline SMALTI_DATA::policy
