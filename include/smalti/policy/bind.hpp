// A policy of attention is one value for a whole batch. What it must know of one sequence or one head (how long they
// are, which table is theirs) it learns when a block begins: an optional member gives the value to use there.
//     for_head(sequence, head)        the policy of one query head of one sequence
//     for_lengths(queries, keys)      the policy of a sequence with so many query rows and keys
// A policy without these members is the same everywhere.
#pragma once
#include <smalti/core/version.hpp>
#include <smalti/policy/epilogue.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Where a policy is to be used: one query head of one sequence.
struct place {
  int sequence = 0, head = 0, queries = 0, keys = 0;
};

template <class P> SMALTI_HD constexpr auto for_head(const P& p, int sequence, int head) {
  if constexpr (requires { p.for_head(sequence, head); }) return p.for_head(sequence, head);
  else return p;
}
template <class P> SMALTI_HD constexpr auto for_lengths(const P& p, int queries, int keys) {
  if constexpr (requires { p.for_lengths(queries, keys); }) return p.for_lengths(queries, keys);
  else return p;
}

//! The policy of one place: what its other members are then asked.
template <class P> SMALTI_HD constexpr auto bound(const P& p, const place& at) {
  return for_lengths(for_head(p, at.sequence, at.head), at.queries, at.keys);
}
SMALTI_HD constexpr chain<> bound(const chain<>& steps, const place&) { return steps; }
template <class First, class... Rest> SMALTI_HD constexpr auto bound(const chain<First, Rest...>& steps, const place& at);

namespace detail {
template <class First, class... Rest> SMALTI_HD constexpr chain<First, Rest...> linked(const First& first, const chain<Rest...>& rest) {
  return {first, rest};
}
}  // namespace detail
template <class First, class... Rest> SMALTI_HD constexpr auto bound(const chain<First, Rest...>& steps, const place& at) {
  return detail::linked(bound(steps.first, at), bound(steps.rest, at));
}

template <class P> using bound_t = decltype(bound(*static_cast<const P*>(nullptr), place{}));

//! Whether a policy differs from head to head: rows of different heads then share no tile.
template <class P> constexpr bool differs_by_head = requires(const P p) { p.for_head(0, 0); };
template <class First, class... Rest>
constexpr bool differs_by_head<chain<First, Rest...>> = differs_by_head<First> || differs_by_head<chain<Rest...>>;

}  // namespace smalti::inline SMALTI_DATA::policy
