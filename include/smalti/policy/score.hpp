// Score modifiers: what becomes of a score between the product and the mask. A modifier gets the scaled score in natural
// units (q k' * scale), the query and the key, and gives the logit that softmax exponentiates:
//     operator()(score, q, k)        the logit; over the machine's values, no `if` on them
//     derivative(score, q, k)        d logit / d score, at the same arguments: what backward multiplies with
//     for_head(sequence, head), for_lengths(queries, keys), check(extent)      optional, as for masks: policy/bind.hpp
// chain<A, B> is b(a(score)); the order of a model is bias, then cap, then anything else, then the mask. Where a bias comes
// first, its gradient is that of the score.
//
// A scale may be folded into the exponent only where the logit is the score itself: folds_scale.
// FlexAttention, Dong et al. 2024, arXiv:2412.05496, has modifiers as functions; here they are values, compiled in.
#pragma once
#include <type_traits>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/bind.hpp>
#include <smalti/policy/epilogue.hpp>
#include <smalti/policy/mask.hpp>
#include <smalti/policy/position.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! The score as it is. The same as chain<>.
struct identity_score {
  static constexpr bool folds_scale = true;
  template <class V, class Q, class K> SMALTI_HD constexpr V operator()(V score, Q, K) const { return score; }
  template <class V, class Q, class K> SMALTI_HD constexpr float derivative(V, Q, K) const { return 1.0f; }
};

//! cap * tanh(score / cap). Gemma 2, arXiv:2408.00118.
struct soft_cap {
  float cap = 50;
  template <class V, class Q, class K> SMALTI_HD V operator()(V score, Q, K) const {
    using namespace scalar;
    return tanh(score * (1.0f / cap)) * cap;
  }
  template <class V, class Q, class K> SMALTI_HD V derivative(V score, Q, K) const {
    using namespace scalar;
    const V t = tanh(score * (1.0f / cap));
    return 1.0f - t * t;
  }
  constexpr status check(const mask_extent&) const {
    if (!(cap > 0)) return {errc::bad_value, "soft_cap.cap must be positive"};
    return {};
  }
};

//! score / value.
struct temperature {
  float value = 1;
  template <class V, class Q, class K> SMALTI_HD V operator()(V score, Q, K) const { return score * (1.0f / value); }
  template <class V, class Q, class K> SMALTI_HD float derivative(V, Q, K) const { return 1.0f / value; }
  constexpr status check(const mask_extent&) const {
    if (!(value > 0)) return {errc::bad_value, "temperature.value must be positive"};
    return {};
  }
};

//! score + bias[q][k]: a matrix for each head (head_distance elements apart) and sequence (sequence_distance); a
//! distance of 0 shares it. Outside the matrix the bias is 0.
template <class T> struct additive_bias {
  const T* data = nullptr;
  int rows = 0, cols = 0, stride = 0;
  long long head_distance = 0, sequence_distance = 0;
  SMALTI_HD constexpr additive_bias for_head(int sequence, int head) const {
    return {data + (head * head_distance + sequence * sequence_distance), rows, cols, stride, head_distance, sequence_distance};
  }
  template <class V, class Q, class K> SMALTI_HD V operator()(V score, Q q, K k) const {
    using namespace scalar;
    return score + lookup(view<const T, 1>{data, rows, cols, stride}, q, k);
  }
  template <class V, class Q, class K> SMALTI_HD constexpr float derivative(V, Q, K) const { return 1.0f; }
  constexpr status check(const mask_extent& e) const {
    if (e.queries > 0 && e.keys > 0 && data == nullptr) return {errc::null_pointer, "additive_bias.data is null: it needs rows x cols elements"};
    if (rows < e.queries) return {errc::bad_shape, "additive_bias.rows must be at least the number of queries", rows, e.queries};
    if (cols < e.keys) return {errc::bad_shape, "additive_bias.cols must be at least the number of keys", cols, e.keys};
    if (stride < cols) return {errc::bad_shape, "additive_bias.stride must be at least its cols", stride, cols};
    return {};
  }
};

//! score + table[clamp(k - p + origin, 0, n - 1)] with p = q + shift: a bias by distance, the query lined up with its key
//! when bound. T5's buckets become such a table, one entry a distance. A head's table lies head_distance further.
template <alignment At = alignment::bottom_right> struct relative_bias {
  const float* table = nullptr;
  int n = 0, origin = 0, shift = 0;
  long long head_distance = 0;
  SMALTI_HD constexpr relative_bias for_head(int, int head) const { return {table + head * head_distance, n, origin, shift, head_distance}; }
  SMALTI_HD constexpr auto for_lengths(int queries, int keys) const requires(At == alignment::bottom_right) {
    return relative_bias<alignment::top_left>{table, n, origin, shift + keys - queries, head_distance};
  }
  template <class V, class Q, class K> SMALTI_HD V operator()(V score, Q q, K k) const {
    using namespace scalar;
    return score + lookup(table, min(max(k - (q + (shift - origin)), 0), n - 1), n);
  }
  template <class V, class Q, class K> SMALTI_HD constexpr float derivative(V, Q, K) const { return 1.0f; }
  constexpr status check(const mask_extent&) const {
    if (n <= 0) return {errc::bad_shape, "relative_bias.n must be positive: it counts the entries of the table", n, 1};
    if (table == nullptr) return {errc::null_pointer, "relative_bias.table is null: it needs n entries for each head", 0, n};
    return {};
  }
};

//! score - slopes[head] * |k - p|, p = q + shift: the query lined up with its key when bound. fill_alibi_slopes writes the
//! slopes of policy/position.hpp.
template <alignment At = alignment::bottom_right> struct alibi_bias {
  const float* slopes = nullptr;
  int shift = 0;
  float slope = 0;
  SMALTI_HD constexpr alibi_bias for_head(int, int head) const { return {slopes, shift, slopes[head]}; }
  SMALTI_HD constexpr auto for_lengths(int queries, int keys) const requires(At == alignment::bottom_right) {
    return alibi_bias<alignment::top_left>{slopes, shift + keys - queries, slope};
  }
  template <class V, class Q, class K> SMALTI_HD V operator()(V score, Q q, K k) const { return alibi{slope}(score, q + shift, k); }
  template <class V, class Q, class K> SMALTI_HD constexpr float derivative(V, Q, K) const { return 1.0f; }
  constexpr status check(const mask_extent& e) const {
    if (e.heads > 0 && slopes == nullptr) return {errc::null_pointer, "alibi_bias.slopes is null: it needs one slope for each query head: fill_alibi_slopes writes them", 0, e.heads};
    return {};
  }
};
inline void fill_alibi_slopes(int heads, float* slopes) {
  for (int head = 0; head < heads; ++head) slopes[head] = alibi_slope(head, heads);
}

// ---- what agents ask

//! Whether a scale may be multiplied into the exponent instead of the score.
template <class S> constexpr bool folds_scale = [] {
  if constexpr (requires { S::folds_scale; }) return bool(S::folds_scale);
  else return false;
}();
template <> inline constexpr bool folds_scale<chain<>> = true;

//! d logit / d score.
template <class S, class V, class Q, class K> SMALTI_HD constexpr auto score_derivative(const S& mod, V score, Q q, K k) {
  return mod.derivative(score, q, k);
}
template <class V, class Q, class K> SMALTI_HD constexpr auto score_derivative(const alibi&, V, Q, K) { return 1.0f; }
template <class V, class Q, class K> SMALTI_HD constexpr auto score_derivative(const chain<>&, V, Q, K) { return 1.0f; }
template <class First, class... Rest, class V, class Q, class K>
SMALTI_HD constexpr auto score_derivative(const chain<First, Rest...>& steps, V score, Q q, K k) {
  return score_derivative(steps.first, score, q, k) * score_derivative(steps.rest, V(steps.first(score, q, k)), q, k);
}

//! The modifier's own refusals.
template <class S> constexpr status check_score(const S& mod, const mask_extent& extent) {
  if constexpr (requires { { mod.check(extent) } -> std::same_as<status>; }) return mod.check(extent);
  else return {};
}
template <class First, class... Rest> constexpr status check_score(const chain<First, Rest...>& steps, const mask_extent& extent) {
  if (const status bad = check_score(steps.first, extent); !bad) return bad;
  return check_score(steps.rest, extent);
}

template <class S> consteval bool explain_score() {
  static_assert(std::is_trivially_copyable_v<S>, "smalti: a score modifier is copied to the GPU by value, so it must be trivially copyable");
  static_assert(std::is_aggregate_v<S>,
                "smalti: a score modifier crosses a kernel launch as its fields, so it must be an aggregate: remove constructors and private members");
  return true;
}

}  // namespace smalti::inline SMALTI_DATA::policy
