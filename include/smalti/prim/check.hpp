// What the primitives ask of their arguments before they touch them, in the words of a status.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::prim::detail {

// Memory that an argument occupies.
struct extent {
  const void* first = nullptr;
  std::int64_t bytes = 0;
};
inline bool meet(extent a, extent b) {
  if (a.first == nullptr || b.first == nullptr || a.bytes <= 0 || b.bytes <= 0) return false;
  const auto p = reinterpret_cast<std::uintptr_t>(a.first), q = reinterpret_cast<std::uintptr_t>(b.first);
  return !mutant(defect::primitive_overlap_accepted) && p < q + std::uintptr_t(b.bytes) && q < p + std::uintptr_t(a.bytes);
}
template <class T> extent extent_of(const T* data, std::int64_t count) { return {data, data == nullptr ? 0 : count * std::int64_t(sizeof(T))}; }
template <class T> extent extent_of(const view<T, 1>& v) {
  if (v.rows <= 0 || v.cols <= 0) return {};
  return extent_of(v.data, std::int64_t(v.rows - 1) * v.stride + v.cols);
}
inline extent extent_of(const workspace& w) { return {w.data, std::int64_t(w.size)}; }

// The sentences of one argument, so that each names it.
struct array_words {
  const char* null;
  const char* misaligned;
};
struct matrix_words {
  const char* null;
  const char* negative;
  const char* stride;
  const char* misaligned;
};

template <class T> status check_array(const T* data, std::int64_t count, const array_words& say) {
  if (count > 0 && data == nullptr) return {errc::null_pointer, say.null, 0, count};
  if (const auto over = reinterpret_cast<std::uintptr_t>(data) % alignof(T); over != 0)
    return {errc::misaligned, say.misaligned, std::int64_t(over), 0};
  return {};
}
template <class T> status check_matrix(const view<T, 1>& v, const matrix_words& say) {
  if (v.rows < 0 || v.cols < 0) return {errc::bad_shape, say.negative, v.rows < 0 ? v.rows : v.cols, 0};
  if (v.rows > 1 && v.stride < v.cols) return {errc::bad_shape, say.stride, v.stride, v.cols};
  return check_array(v.data, std::int64_t(v.rows) * v.cols, {say.null, say.misaligned});
}

constexpr std::size_t padded(std::size_t bytes) { return (bytes + carver::alignment - 1) / carver::alignment * carver::alignment; }

}  // namespace smalti::inline SMALTI_CODE::prim::detail
