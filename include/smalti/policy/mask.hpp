// Masks: which keys a query sees. `visible` is the meaning, over the machine's index types: no `if` on an index.
// `keys` and `whole` are the speed: of the queries [q.first, q.last) against `length` keys, no query sees a key
// outside keys(q, length), and every query sees all of whole(q, length). Both are half open; an empty span is
// {0, 0}. A mask that cannot say may answer {0, length} and {0, 0}.
#pragma once
#include <concepts>
#include <type_traits>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

struct span { int first, last; };        //!< half open

//! Every query sees every key.
struct full {
  SMALTI_HD constexpr span keys(span, int length) const { return {0, length}; }
  SMALTI_HD constexpr span whole(span, int length) const { return {0, length}; }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q, K k) const { return k >= 0; }
};

//! Query q sees the keys up to q + shift. With shift = keys - queries the last query sees the last key.
struct causal {
  int shift = 0;
  SMALTI_HD constexpr span keys(span q, int length) const { return {0, clamp(q.last + shift, length)}; }
  SMALTI_HD constexpr span whole(span q, int length) const { return {0, clamp(q.first + 1 + shift, length)}; }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const { return k <= q + shift; }

  static SMALTI_HD constexpr int clamp(int x, int length) { return x < 0 ? 0 : x < length ? x : length; }
};

template <class M>
concept mask_policy = std::is_trivially_copyable_v<M> && requires(const M m, int i, span q) {
  { m.visible(i, i) } -> std::same_as<bool>;
  { m.keys(q, i) } -> std::same_as<span>;
  { m.whole(q, i) } -> std::same_as<span>;
};

template <class M> consteval bool explain_mask() {
  static_assert(std::is_trivially_copyable_v<M>, "smalti: a mask policy is copied to the GPU by value, so it must be trivially copyable");
  static_assert(requires(const M m, span q, int n) { { m.keys(q, n) } -> std::same_as<span>; },
                "smalti: a mask policy needs  span keys(span queries, int length) const, the keys that any of the queries may see: {0, length} if unknown");
  static_assert(requires(const M m, span q, int n) { { m.whole(q, n) } -> std::same_as<span>; },
                "smalti: a mask policy needs  span whole(span queries, int length) const, the keys that all of the queries see: {0, 0} if unknown");
  return true;
}

}  // namespace smalti::inline SMALTI_DATA::policy
