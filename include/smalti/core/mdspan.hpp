// Between mdspan and views. Opt-in. Any mdspan will do (std::, cuda::std::, std::experimental::, Kokkos::): to_view and
// to_stack ask for its member functions only. view_as_mdspan makes one of the first kind found: <mdspan>, then
// <cuda/std/mdspan> (CCCL, part of the CUDA toolkit), then <experimental/mdspan>.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/core/adopt.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>
#include <smalti/core/view.hpp>
#include <version>

#if defined(__cpp_lib_mdspan)
#  include <array>
#  include <mdspan>
#  define SMALTI_MDSPAN std
#  define SMALTI_MDSPAN_ARRAY std::array
#  define SMALTI_MDSPAN_KIND mdspan_of_std
#elif __has_include(<cuda/std/mdspan>)
#  include <cuda/std/array>
#  include <cuda/std/mdspan>
#  define SMALTI_MDSPAN cuda::std
#  define SMALTI_MDSPAN_ARRAY cuda::std::array
#  define SMALTI_MDSPAN_KIND mdspan_of_cuda
#elif __has_include(<experimental/mdspan>)
#  include <array>
#  include <experimental/mdspan>
#  define SMALTI_MDSPAN std::experimental
#  define SMALTI_MDSPAN_ARRAY std::array
#  define SMALTI_MDSPAN_KIND mdspan_of_experimental
#endif

namespace smalti::inline SMALTI_DATA {
namespace detail {

template <class M>
concept mdspan_like = std::is_class_v<M> && requires(const M& m) {
  typename M::element_type;
  typename M::data_handle_type;
  m.data_handle();
  m.extent(0);
  m.stride(0);
  M::rank();
  M::is_always_strided();
};

template <class M, class T, int Rank> consteval bool mdspan_fits() {
  if constexpr (mdspan_like<M>)
    return M::rank() == Rank && M::is_always_strided() && std::is_pointer_v<typename M::data_handle_type>
           && std::is_convertible_v<typename M::data_handle_type, T*>
           && std::is_same_v<std::remove_cv_t<typename M::element_type>, std::remove_cv_t<T>>;
  else return false;
}

// True even after a refusal, so that the sentence is the only error.
template <class M, class T, int Rank> consteval bool explain_mdspan() {
  if constexpr (!mdspan_like<M>) {
    static_assert(mdspan_like<M>, "smalti: to_view and to_stack take an mdspan: a class with data_handle(), extent(axis), stride(axis), rank()");
  } else {
    static_assert(M::rank() == Rank, "smalti: to_view takes an mdspan of rank 2 and to_stack one of rank 3: take a submdspan first");
    static_assert(M::is_always_strided(), "smalti: only a strided mdspan is a matrix in memory: copy from other layouts");
    static_assert(M::rank() != Rank || !M::is_always_strided() || mdspan_fits<M, T, Rank>(),
      "smalti: the mdspan's elements must be those of the view (const may be added), reached through a plain pointer");
  }
  return true;
}

}  // namespace detail

//! The matrix an mdspan of rank 2 describes: axis 0 are rows, axis 1 columns, contiguous. Refuses another column
//! stride, overlapping rows, extents and strides beyond 32 bits, and memory that breaks the view's promise of 16 bytes
//! (view<T, 1> promises nothing). `to` is unchanged on refusal.
template <class Mdspan, class T, int Step>
status to_view(const Mdspan& from, view<T, Step>& to) {
  static_assert(detail::explain_mdspan<Mdspan, T, 2>());
  if constexpr (detail::mdspan_fits<Mdspan, T, 2>())
    return adopt(static_cast<T*>(from.data_handle()), std::int64_t(from.extent(0)), std::int64_t(from.extent(1)),
                 std::int64_t(from.stride(0)), std::int64_t(from.stride(1)), to);
  else return {errc::bad_shape, "not an mdspan of rank 2", 0, 2};
}

//! The stack an mdspan of rank 3 describes: axis 0 counts matrices. For memory [token][head][d] give the axes in the
//! order head, token, d.
template <class Mdspan, class T, int Step>
status to_stack(const Mdspan& from, stack<T, Step>& to) {
  static_assert(detail::explain_mdspan<Mdspan, T, 3>());
  if constexpr (detail::mdspan_fits<Mdspan, T, 3>())
    return adopt(static_cast<T*>(from.data_handle()), std::int64_t(from.extent(0)), std::int64_t(from.extent(1)),
                 std::int64_t(from.extent(2)), std::int64_t(from.stride(0)), std::int64_t(from.stride(1)),
                 std::int64_t(from.stride(2)), to);
  else return {errc::bad_shape, "not an mdspan of rank 3", 0, 3};
}

#if defined(SMALTI_MDSPAN)
inline namespace SMALTI_MDSPAN_KIND {

//! The view as an mdspan of rank 2 with layout_stride over 64-bit indices.
template <class T, int Step>
auto view_as_mdspan(const view<T, Step>& v) {
  namespace md = SMALTI_MDSPAN;
  using extents = md::dextents<std::int64_t, 2>;
  const SMALTI_MDSPAN_ARRAY<std::int64_t, 2> strides{v.stride, 1};
  using result = md::mdspan<T, extents, md::layout_stride>;
  return result(v.data, typename result::mapping_type(extents(v.rows, v.cols), strides));
}

//! The stack as an mdspan of rank 3 with layout_stride over 64-bit indices.
template <class T, int Step>
auto view_as_mdspan(const stack<T, Step>& v) {
  namespace md = SMALTI_MDSPAN;
  using extents = md::dextents<std::int64_t, 3>;
  const SMALTI_MDSPAN_ARRAY<std::int64_t, 3> strides{v.distance, v.stride, 1};
  using result = md::mdspan<T, extents, md::layout_stride>;
  return result(v.data, typename result::mapping_type(extents(v.count, v.rows, v.cols), strides));
}

}  // namespace SMALTI_MDSPAN_KIND
#else
inline namespace no_mdspan_found {

template <class View>
void view_as_mdspan(const View&) {
  static_assert(never<View>, "smalti: no mdspan was found: compile as C++23 with a library that has <mdspan>, or put CCCL's include "
                             "folder (<cuda/std/mdspan>, part of the CUDA toolkit) or <experimental/mdspan> on the include path");
}

}  // namespace no_mdspan_found
#endif

}  // namespace smalti::inline SMALTI_DATA
