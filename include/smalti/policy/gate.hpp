// Gates of a result: each element is multiplied by a function of an element of another matrix of its shape, before it is rounded.
#pragma once
#include <concepts>
#include <smalti/core/version.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! No gate.
struct no_gate {
  static constexpr bool gates = false;
  struct nothing {};
  template <template <class> class> using operand = nothing;
};
//! o g.
template <class T> struct product_gate {
  static constexpr bool gates = true;
  using element = T;
  template <template <class> class Rows> using operand = Rows<const T>;
  template <class V> SMALTI_HD V operator()(V o, V g) const { return o * g; }
};
//! o / (1 + e^-g): gated attention (Qiu et al. 2025, arXiv:2505.06708), the gates of NSA's branches.
template <class T> struct sigmoid_gate {
  static constexpr bool gates = true;
  using element = T;
  template <template <class> class Rows> using operand = Rows<const T>;
  template <class V> SMALTI_HD V operator()(V o, V g) const {
    using namespace scalar;
    return over(o, exp2(g * -1.4426950408889634f) + 1.0f);
  }
};
//! o g / (1 + e^-g).
template <class T> struct silu_gate {
  static constexpr bool gates = true;
  using element = T;
  template <template <class> class Rows> using operand = Rows<const T>;
  template <class V> SMALTI_HD V operator()(V o, V g) const {
    using namespace scalar;
    return over(o * g, exp2(g * -1.4426950408889634f) + 1.0f);
  }
};

template <class G>
concept gate_policy = requires { { G::gates } -> std::convertible_to<bool>; };

//! Why G is not a gate, in one sentence.
template <class G> consteval bool explain_gate() {
  static_assert(gate_policy<G>, "smalti: options::gate is policy::no_gate, product_gate<T>, sigmoid_gate<T> or silu_gate<T>: see policy/gate.hpp");
  return gate_policy<G>;
}

}  // namespace smalti::inline SMALTI_DATA::policy
