// An aggregate as the flat list of its scalar fields, and back. A kernel of the cuda_tile machine takes scalars
// and pointers only, so a launch passes each() of the agent's and the kernel rebuilds it with rebuild().
// Nested aggregates (views, policies, chains of policies) are walked in the order of their members; empty ones
// have no field and may stand anywhere.
#pragma once
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

}  // namespace detail

//! Types of scalars, in the order of their members.
template <class... T> struct scalars {
  static constexpr int count = sizeof...(T);
};

namespace detail {

template <class... T, class... U> constexpr scalars<T..., U...> operator+(scalars<T...>, scalars<U...>) { return {}; }
template <class T> struct flattened;
template <class List> struct joined;
template <class... M> struct joined<types<M...>> { using type = decltype((scalars<>{} + ... + typename flattened<M>::type{})); };
template <class T> struct flattened {
  static constexpr auto find() {
    if constexpr (!std::is_class_v<T>) {
      static_assert(std::is_scalar_v<T>, "smalti: what an agent holds is made of numbers and pointers: give an array a view");
      return scalars<T>{};
    } else if constexpr (std::is_empty_v<T>) {
      return scalars<>{};
    } else {
      return typename joined<members<T>>::type{};
    }
  }
  using type = decltype(find());
};
template <class T> constexpr int width = flattened<T>::type::count;

// Where the i-th of the members M begins.
template <class... M> SMALTI_HD consteval int beginning(int i) {
  const int widths[] = {width<M>...};
  int sum = 0;
  for (int j = 0; j < i; ++j) sum += widths[j];
  return sum;
}

// The scalars by number: one base class for each, so that finding one instantiates nothing else. They are passed by
// value: the tile compiler keeps an object in memory (alloca) when a reference to it was taken.
template <int I, class T> struct numbered { T value; };
template <class Numbers, class... T> struct row;
template <int... I, class... T> struct row<std::integer_sequence<int, I...>, T...> : numbered<I, T>... {};
template <int I, class T> SMALTI_HD constexpr T scalar_at(numbered<I, T> x) { return x.value; }

template <class T, int Offset, class Row> SMALTI_HD constexpr T build(Row row);
template <class T, int Offset, class... M, int... I, class Row>
SMALTI_HD constexpr T build_members(types<M...>, std::integer_sequence<int, I...>, Row row) {
  return T{build<M, Offset + beginning<M...>(I)>(row)...};
}
template <class T, int Offset, class Row> SMALTI_HD constexpr T build(Row row) {
  if constexpr (!std::is_class_v<T>) return scalar_at<Offset>(row);
  else if constexpr (std::is_empty_v<T>) return T{};
  else return build_members<T, Offset>(members<T>{}, std::make_integer_sequence<int, member_count<T>()>{}, row);
}

}  // namespace detail

//! The types of T's scalars, as scalars<...>.
template <class T> using fields_of = typename detail::flattened<T>::type;

//! f(scalar) for every scalar of x, where it lies in x.
template <class T, class F> constexpr void each(const T& x, const F& f) {
  if constexpr (!std::is_class_v<T>) f(x);
  else if constexpr (!std::is_empty_v<T>) detail::with_members(x, [&](const auto&... member) { (each(member, f), ...); });
}

//! The T whose scalars these are.
template <class T, class... Fields> SMALTI_HD constexpr T rebuild(Fields... values) {
  static_assert(std::is_same_v<fields_of<T>, scalars<Fields...>>,
                "smalti: an agent is rebuilt from exactly the scalars it flattens to: pass what each() gives for the same aggregate");
  using row = detail::row<std::make_integer_sequence<int, sizeof...(Fields)>, Fields...>;
  return detail::build<T, 0>(row{{values}...});
}

}  // namespace smalti::inline SMALTI_CODE::flat
