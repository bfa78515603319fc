// What the operations on a pool refuse.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/ops/cache/pool.hpp>

namespace smalti::inline SMALTI_CODE::cache::detail {

struct range { std::uintptr_t first = 0, last = 0; };
inline bool meet(range a, range b) { return a.first < b.last && b.first < a.last; }

// The memory of one plane of a pool, and of rows that lie in the caller's.
inline range plane_range(const page_pool& pool, plane p) {
  const auto first = reinterpret_cast<std::uintptr_t>(pool.planes[int(p)]);
  return {first, first + std::uintptr_t(plane_bytes(pool.format, pool.shape, p)) * pool.shape.pages * pool.shape.layers_in_page()};
}
template <class T, int Step> range view_range(const view<T, Step>& v) {
  const auto first = reinterpret_cast<std::uintptr_t>(v.data);
  return {first, v.rows <= 0 || v.cols <= 0 ? first : first + (std::uintptr_t(v.rows - 1) * v.stride + v.cols) * sizeof(T)};
}
inline range list_range(const int* list, long long count) {
  const auto first = reinterpret_cast<std::uintptr_t>(list);
  return {first, list == nullptr || count <= 0 ? first : first + std::uintptr_t(count) * sizeof(int)};
}

struct pool_words { const char* null; const char* misaligned; };
inline status check_pool(const page_pool& pool, const pool_words& say) {
  if (const status bad = check_shape(pool.format, pool.shape); !bad) return bad;
  for (int p = 0; p < plane_count; ++p) {
    if (plane_bytes(pool.format, pool.shape, plane(p)) == 0) continue;
    const auto at = reinterpret_cast<std::uintptr_t>(pool.planes[p]);
    if (at == 0) return {errc::null_pointer, say.null, 0, 0};
    if (at % 16 != 0) return {errc::misaligned, say.misaligned, std::int64_t(at % 16), 0};
  }
  return {};
}

}  // namespace smalti::inline SMALTI_CODE::cache::detail
