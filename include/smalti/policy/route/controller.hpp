// Balance controllers: what a selection bias becomes after a step, from the slots that each expert got in it. State of a layer, updated
// once a step, outside the gradient. A controller is a small aggregate with
//     next(bias, count, mean, expert)      the new bias; count, mean: slots of this expert, of the mean expert
//     check(extent)
// over the machine's values.
#pragma once
#include <smalti/core/status.hpp>
#include <smalti/policy/route/scorer.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! b_e += rate sign(mean m - m_e). DeepSeek-V3's, arXiv:2412.19437; Wang et al. 2024, arXiv:2408.15664. An expert at the mean stays.
struct sign_controller {
  float rate = 0.001f;
  template <class V, class M, class E> SMALTI_HD V next(V bias, V count, M mean, E) const {
    using namespace scalar;
    return bias + where(count < mean, rate, where(count > mean, -rate, 0.0f));
  }
  constexpr status check(const route_extent&) const {
    if (!(rate >= 0)) return {errc::bad_value, "sign_controller.rate must not be negative"};
    return {};
  }
};

//! b_i += rate (wanted / (choices computed) - m_i / (choices tokens)) for the `computed` experts, 0 for the identity experts behind
//! them: at rest a token takes `wanted` of its choices among the computed experts in the mean, evenly. LongCat-Flash's, arXiv:2509.01322.
struct pid_controller {
  float rate = 0.001f;
  float wanted = 1;                  //!< computed experts of a token, in the mean
  int computed = 1, choices = 1, tokens = 0;
  template <class V, class M, class E> SMALTI_HD V next(V bias, V count, M, E expert) const {
    using namespace scalar;
    const float share = wanted / (float(choices) * float(computed)), each = tokens > 0 ? 1.0f / (float(choices) * float(tokens)) : 0.0f;
    return where(expert < computed, bias + (count * -each + share) * (tokens > 0 ? rate : 0.0f), 0.0f);
  }
  constexpr status check(const route_extent& e) const {
    if (!(rate >= 0)) return {errc::bad_value, "pid_controller.rate must not be negative"};
    if (computed < 1 || computed > e.experts) return {errc::bad_value, "pid_controller.computed must be between 1 and experts", computed, e.experts};
    if (choices < 1) return {errc::bad_value, "pid_controller.choices must be at least 1", choices, 1};
    if (tokens < 0) return {errc::bad_value, "pid_controller.tokens must not be negative", tokens, 0};
    if (!(wanted >= 0 && wanted <= float(choices))) return {errc::bad_value, "pid_controller.wanted must be between 0 and choices"};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
