// Slopes of activations: d f(z) / d z over the machine's values, for the backward of gated layers. One of a user's own has an
// overload of slope_of beside it.
#pragma once
#include <smalti/core/version.hpp>
#include <smalti/policy/epilogue.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! s (1 + z (1 - s)), s = 1 / (1 + e^-z).
struct silu_slope {
  template <class V> SMALTI_HD auto operator()(V z) const {
    const auto s = over(1.0f, 1.0f + exp2(z * -1.4426950408889634f));
    return s * (1.0f + z * (1.0f - s));
  }
};
//! 1 where z > 0, else 0.
struct relu_slope {
  template <class V> SMALTI_HD auto operator()(V z) const { return where(z > 0.0f, z * 0.0f + 1.0f, 0.0f); }
};
//! (1 + erf(z / sqrt 2)) / 2 + z e^(-z^2 / 2) / sqrt(2 pi).
struct gelu_slope {
  template <class V> SMALTI_HD auto operator()(V z) const { return 0.5f * (1.0f + erf(z * 0.7071067811865476f)) + z * exp2(z * z * -0.7213475204444817f) * 0.3989422804014327f; }
};

SMALTI_HD constexpr silu_slope slope_of(const silu&) { return {}; }
SMALTI_HD constexpr relu_slope slope_of(const relu&) { return {}; }
SMALTI_HD constexpr gelu_slope slope_of(const gelu&) { return {}; }

template <class F> concept has_slope = requires(const F f) { slope_of(f); };

//! Why F cannot be differentiated, in one sentence.
template <class F> consteval bool explain_slope() {
  static_assert(has_slope<F>, "smalti: this activation has no slope: silu, relu and gelu have; for one of your own write  slope_of(const F&)  beside it (policy/activation_gradient.hpp)");
  return true;
}

}  // namespace smalti::inline SMALTI_DATA::policy
