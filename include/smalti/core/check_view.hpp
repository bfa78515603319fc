// What an op refuses of a matrix it is given, in sentences that begin with the argument's name.
#pragma once
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>

namespace smalti::inline SMALTI_DATA {

//! A string as a template argument: check_view<"x">(x.x).
template <int N> struct literal {
  char text[N];
  consteval literal(const char (&from)[N]) {
    for (int i = 0; i < N; ++i) text[i] = from[i];
  }
};

namespace detail {
template <int A, int B> consteval literal<A + B - 1> operator+(const literal<A>& a, const literal<B>& b) {
  char joined[A + B - 1];
  for (int i = 0; i < A; ++i) joined[i] = a.text[i];
  for (int i = 0; i < B; ++i) joined[A - 1 + i] = b.text[i];
  return literal<A + B - 1>(joined);
}
template <literal Name, literal Rule> inline constexpr auto sentence = Name + Rule;
}  // namespace detail

//! "name" and a rule about it, one string in the program's memory: what status::what points to.
template <literal Name, literal Rule> constexpr const char* sentence() { return detail::sentence<Name, Rule>.text; }

//! Refuses negative extents, a null address, rows that overlap, and an address, stride or width that breaks the view's
//! promise (view<T, 1> promises only the alignment of T). An empty matrix may be null. Reads no data.
template <literal Name, class T, int Step> status check_view(const view<T, Step>& v) {
  if (v.rows < 0 || v.cols < 0) return {errc::bad_shape, sentence<Name, ": extents must not be negative">(), v.rows < 0 ? v.rows : v.cols, 0};
  if (v.rows == 0 || v.cols == 0) return {};
  if (v.data == nullptr) return {errc::null_pointer, sentence<Name, " is null">()};
  if (v.rows > 1 && v.stride < v.cols) return {errc::bad_shape, sentence<Name, ": stride must be at least the columns">(), v.stride, v.cols};
  const auto address = reinterpret_cast<std::uintptr_t>(v.data);
  if (address % alignof(T) != 0) return {errc::misaligned, sentence<Name, ": the address must be a multiple of the element's size">(), std::int64_t(address % alignof(T)), 0};
  if constexpr (Step > 1) {
    if (address % 16 != 0) return {errc::misaligned, sentence<Name, ": the address must be a multiple of 16 bytes">(), std::int64_t(address % 16), 0};
    if (v.stride % Step != 0) return {errc::misaligned, sentence<Name, ": the stride must be a multiple of 16 bytes">(), v.stride, round_up(v.stride, Step)};
    if (v.cols % Step != 0) return {errc::misaligned, sentence<Name, ": the columns must be a multiple of 16 bytes">(), v.cols, round_up(v.cols, Step)};
  }
  return {};
}

//! The bytes from a matrix's first to its last element.
struct byte_range {
  const char *first = nullptr, *last = nullptr;
  constexpr bool meets(const byte_range& o) const { return first < o.last && o.first < last; }
};
template <class T, int Step> byte_range bytes_of(const view<T, Step>& v) {
  const char* first = reinterpret_cast<const char*>(v.data);
  if (v.rows <= 0 || v.cols <= 0) return {first, first};
  return {first, first + (static_cast<long long>(v.rows - 1) * v.stride + v.cols) * static_cast<long long>(sizeof(T))};
}
//! Whether two matrices are the same elements: a result that replaces its source, element by element.
template <class T, int S, class U, int R> bool same_memory(const view<T, S>& a, const view<U, R>& b) {
  return static_cast<const void*>(a.data) == static_cast<const void*>(b.data) && sizeof(T) == sizeof(U) && a.rows == b.rows && a.cols == b.cols && a.stride == b.stride;
}
//! Whether 32-bit offsets reach every element, as tile code needs.
template <class T, int Step> constexpr bool in_reach(const view<T, Step>& v) { return static_cast<long long>(v.rows) * v.stride <= 2147483647ll; }

}  // namespace smalti::inline SMALTI_DATA
