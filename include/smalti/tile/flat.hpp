// An aggregate as the flat list of its scalar fields, and back. A kernel of the cuda_tile machine takes scalars
// and pointers only, so a launch flattens the agent with fields() and the kernel rebuilds it with rebuild().
// Nested aggregates (views, policies, chains of policies) are walked in the order of their members; empty ones
// have no field and may stand anywhere.
#pragma once
#include <tuple>
#include <type_traits>
#include <utility>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_CODE::flat {

namespace detail {

struct anything {
  template <class T> constexpr operator T() const;
};
template <class T, class... A> SMALTI_HD constexpr int member_count() {
  if constexpr (requires { T{A{}..., anything{}}; }) return member_count<T, A..., anything>();
  else return sizeof...(A);
}

// f(first member, second member, ...): C++20 cannot bind a pack, so the sizes are written out.
template <class T, class F> constexpr auto with_members(const T& x, const F& f) {
  static_assert(std::is_aggregate_v<T>,
                "smalti: what an agent holds must be an aggregate: no constructors, no private members, no virtual functions");
  constexpr int n = member_count<T>();
  static_assert(n <= 18, "smalti: an aggregate in a kernel's arguments has at most 18 members: group some in an aggregate of their own");
  if constexpr (n == 1) {
    const auto& [a] = x;
    return f(a);
  } else if constexpr (n == 2) {
    const auto& [a, b] = x;
    return f(a, b);
  } else if constexpr (n == 3) {
    const auto& [a, b, c] = x;
    return f(a, b, c);
  } else if constexpr (n == 4) {
    const auto& [a, b, c, d] = x;
    return f(a, b, c, d);
  } else if constexpr (n == 5) {
    const auto& [a, b, c, d, e] = x;
    return f(a, b, c, d, e);
  } else if constexpr (n == 6) {
    const auto& [a, b, c, d, e, g] = x;
    return f(a, b, c, d, e, g);
  } else if constexpr (n == 7) {
    const auto& [a, b, c, d, e, g, h] = x;
    return f(a, b, c, d, e, g, h);
  } else if constexpr (n == 8) {
    const auto& [a, b, c, d, e, g, h, i] = x;
    return f(a, b, c, d, e, g, h, i);
  } else if constexpr (n == 9) {
    const auto& [a, b, c, d, e, g, h, i, j] = x;
    return f(a, b, c, d, e, g, h, i, j);
  } else if constexpr (n == 10) {
    const auto& [a, b, c, d, e, g, h, i, j, k] = x;
    return f(a, b, c, d, e, g, h, i, j, k);
  } else if constexpr (n == 11) {
    const auto& [a, b, c, d, e, g, h, i, j, k, l] = x;
    return f(a, b, c, d, e, g, h, i, j, k, l);
  } else if constexpr (n == 12) {
    const auto& [a, b, c, d, e, g, h, i, j, k, l, m] = x;
    return f(a, b, c, d, e, g, h, i, j, k, l, m);
  } else if constexpr (n == 13) {
    const auto& [a, b, c, d, e, g, h, i, j, k, l, m, o] = x;
    return f(a, b, c, d, e, g, h, i, j, k, l, m, o);
  } else if constexpr (n == 14) {
    const auto& [a, b, c, d, e, g, h, i, j, k, l, m, o, p] = x;
    return f(a, b, c, d, e, g, h, i, j, k, l, m, o, p);
  } else if constexpr (n == 15) {
    const auto& [a, b, c, d, e, g, h, i, j, k, l, m, o, p, q] = x;
    return f(a, b, c, d, e, g, h, i, j, k, l, m, o, p, q);
  } else if constexpr (n == 16) {
    const auto& [a, b, c, d, e, g, h, i, j, k, l, m, o, p, q, r] = x;
    return f(a, b, c, d, e, g, h, i, j, k, l, m, o, p, q, r);
  } else if constexpr (n == 17) {
    const auto& [a, b, c, d, e, g, h, i, j, k, l, m, o, p, q, r, s] = x;
    return f(a, b, c, d, e, g, h, i, j, k, l, m, o, p, q, r, s);
  } else {
    const auto& [a, b, c, d, e, g, h, i, j, k, l, m, o, p, q, r, s, t] = x;
    return f(a, b, c, d, e, g, h, i, j, k, l, m, o, p, q, r, s, t);
  }
}

template <class... T> struct types {};
struct listed {
  template <class... M> constexpr types<M...> operator()(const M&...) const { return {}; }
};
template <class T> using members = decltype(with_members(std::declval<const T&>(), listed{}));

// How many scalars T flattens to.
template <class T> struct width;
template <class List> struct width_of;
template <class... M> struct width_of<types<M...>> { static constexpr int value = (0 + ... + width<M>::value); };
template <class T> struct width {
  static constexpr int count() {
    if constexpr (!std::is_class_v<T>) return 1;
    else if constexpr (std::is_empty_v<T>) return 0;
    else return width_of<members<T>>::value;
  }
  static constexpr int value = count();
};
// The scalars of the members before the I-th.
template <int I, class... M> struct before { static constexpr int value = 0; };
template <int I, class First, class... Rest>
requires(I > 0) struct before<I, First, Rest...> {
  static constexpr int value = width<First>::value + before<I - 1, Rest...>::value;
};

template <class T> constexpr auto collect(const T& x);
struct joined {
  template <class... M> constexpr auto operator()(const M&... x) const { return std::tuple_cat(collect(x)...); }
};
template <class T> constexpr auto collect(const T& x) {
  if constexpr (!std::is_class_v<T>) return std::tuple<T>(x);
  else if constexpr (std::is_empty_v<T>) return std::tuple<>();
  else return with_members(x, joined{});
}

template <int I, class First, class... Rest> SMALTI_HD constexpr auto pick(First first, Rest... rest) {
  if constexpr (I == 0) return first;
  else return pick<I - 1>(rest...);
}
template <class T, int Offset, class... Fields> SMALTI_HD constexpr T build(Fields... fields);
template <class T, int Offset, class... M, int... I, class... Fields>
SMALTI_HD constexpr T build_members(types<M...>, std::integer_sequence<int, I...>, Fields... fields) {
  return T{build<M, Offset + before<I, M...>::value>(fields...)...};
}
template <class T, int Offset, class... Fields> SMALTI_HD constexpr T build(Fields... fields) {
  if constexpr (!std::is_class_v<T>) return pick<Offset>(fields...);
  else if constexpr (std::is_empty_v<T>) return T{};
  else return build_members<T, Offset>(members<T>{}, std::make_integer_sequence<int, member_count<T>()>{}, fields...);
}

}  // namespace detail

//! The scalars of x, in the order of its members, as a std::tuple.
template <class T> constexpr auto fields(const T& x) { return detail::collect(x); }

//! The tuple type that fields() gives for a T.
template <class T> using fields_of = decltype(detail::collect(std::declval<const T&>()));

//! The T whose fields() are these.
template <class T, class... Fields> SMALTI_HD constexpr T rebuild(Fields... values) {
  static_assert(std::is_same_v<fields_of<T>, std::tuple<Fields...>>,
                "smalti: an agent is rebuilt from exactly the fields it flattens to: pass fields(x) of the same aggregate");
  return detail::build<T, 0>(values...);
}

}  // namespace smalti::inline SMALTI_CODE::flat
