// The memory of a paged cache: what a page holds, how many bytes that is, and where each part lies in the caller's memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/policy/kv_layout.hpp>
#include <smalti/policy/kv_storage.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! What a page is. A *track* is a list of pages of its own: one for a whole sequence, or, where eviction keeps different
//! tokens in different heads or layers, one for each of them.
struct pool_shape {
  int pages = 0;                     //!< of the pool
  int page = 0;                      //!< tokens of a page
  int kv_heads = 0;
  int key_dim = 0, value_dim = 0;    //!< channels of a head; value_dim 0: no values of their own, as in a latent cache
  int layers = 1;
  bool per_head = false;             //!< each head has pages of its own
  bool per_layer = false;            //!< each layer has pages of its own
  constexpr int heads_in_page() const { return per_head ? 1 : kv_heads; }
  constexpr int layers_in_page() const { return per_layer ? 1 : layers; }
  constexpr int head_tracks() const { return per_head ? kv_heads : 1; }
  constexpr int layer_tracks() const { return per_layer ? layers : 1; }
  constexpr int tracks() const { return head_tracks() * layer_tracks(); }
  //! The track of a layer and head: tracks of a layer follow one another.
  constexpr int track(int layer, int head) const { return (per_layer ? layer * head_tracks() : 0) + (per_head ? head : 0); }
  friend constexpr bool operator==(const pool_shape&, const pool_shape&) = default;
};

//! The four parts of a pool. Each is [layer in page][page][bytes of a page].
enum class plane : std::uint8_t { keys, values, key_scales, value_scales };
constexpr int plane_count = 4;

//! Bytes of one page, one layer, in one plane.
constexpr long long plane_bytes(const policy::kv_format& f, const pool_shape& s, plane p) {
  const bool key = p == plane::keys || p == plane::key_scales;
  const policy::kv_bytes b = policy::bytes_of(f, key ? policy::kv_part::key : policy::kv_part::value, key ? s.key_dim : s.value_dim, s.page);
  return s.heads_in_page() * (p == plane::keys || p == plane::values ? b.codes : b.scales);
}
//! Bytes of one page: all its layers, heads and planes. What `paged` counts in.
constexpr long long page_bytes(const policy::kv_format& f, const pool_shape& s) {
  long long sum = 0;
  for (int p = 0; p < plane_count; ++p) sum += plane_bytes(f, s, plane(p));
  return sum * s.layers_in_page();
}

//! Refuses a shape that no pool can have.
constexpr status check_shape(const policy::kv_format& f, const pool_shape& s) {
  if (s.pages < 1) return {errc::bad_shape, "pages must be at least 1: it counts the pages of the pool", s.pages, 1};
  if (s.page < 1) return {errc::bad_shape, "page must be at least 1: it counts the tokens of a page", s.page, 1};
  if (s.kv_heads < 1) return {errc::bad_shape, "kv_heads must be at least 1", s.kv_heads, 1};
  if (s.layers < 1) return {errc::bad_shape, "layers must be at least 1", s.layers, 1};
  if (s.key_dim < 1) return {errc::bad_shape, "key_dim must be at least 1: it counts the channels of a head's key", s.key_dim, 1};
  if (s.value_dim < 0) return {errc::bad_shape, "value_dim must not be negative; 0 stores no values", s.value_dim, 0};
  const long long tracks = static_cast<long long>(s.head_tracks()) * s.layer_tracks(), most = 2147483647;
  if (tracks > 65536) return {errc::out_of_reach, "tracks (kv_heads times layers, where both have pages of their own) must be at most 65536", tracks, 65536};
  // Rows of a layer's pool are numbered in 32 bits; addresses are not.
  const long long slots = static_cast<long long>(s.pages) * s.page;
  if (slots > most / s.heads_in_page()) return {errc::out_of_reach, "pages * page * heads of a page must be below 2^31: use several pools", slots, most / s.heads_in_page()};
  if (const status bad = policy::check_format(f, s.key_dim, s.value_dim, s.page); !bad) return bad;
  for (int p = 0; p < plane_count; ++p) {
    const long long bytes = plane_bytes(f, s, plane(p));
    if (bytes % 16 != 0) return {errc::bad_shape, "a page's keys, values and scales must each be a multiple of 16 bytes in every layer: take more tokens for a page", bytes, 16};
    if (bytes > most) return {errc::out_of_reach, "a page's part in one layer must be below 2^31 bytes: take fewer tokens for a page", bytes, most};
  }
  return {};
}

//! A pool in memory: what it is, and where its planes lie (null where the plane is empty). Lies where the ops run.
struct page_pool {
  policy::kv_format format{};
  policy::kv_order order = policy::kv_order::nhd;
  pool_shape shape{};
  std::byte* planes[plane_count] = {};
};

//! Bytes of a whole pool; with `base` also where its planes lie. The memory begins on a boundary of 256 bytes.
template <class Storage, class Layout>
std::size_t lay_out_pool(const pool_shape& s, std::byte* base, page_pool* out) {
  static_assert(policy::explain_kv_storage<Storage>());
  static_assert(policy::explain_kv_layout<Layout>());
  carver carve{base};
  page_pool pool{Storage::format, Layout::order, s, {}};
  for (int p = 0; p < plane_count; ++p) {
    const std::size_t bytes = std::size_t(plane_bytes(Storage::format, s, plane(p))) * s.pages * s.layers_in_page();
    std::byte* at = carve.take<std::byte>(bytes);
    pool.planes[p] = bytes != 0 ? at : nullptr;
  }
  if (out) *out = pool;
  return carve.used;
}

//! Bytes of the memory that a pool needs. @pre check_shape
template <class Storage, class Layout = policy::nhd> std::size_t pool_bytes(const pool_shape& s) {
  return lay_out_pool<Storage, Layout>(s, nullptr, nullptr);
}

//! A pool in memory of the caller's. Reads and writes nothing.
template <class Storage, class Layout = policy::nhd> status make_pool(const pool_shape& s, workspace memory, page_pool& out) {
  if (const status bad = check_shape(Storage::format, s); !bad) return bad;
  const std::size_t need = pool_bytes<Storage, Layout>(s);
  if (memory.data == nullptr) return {errc::null_pointer, "the pool's memory is missing: allocate pool_bytes(shape)", 0, std::int64_t(need)};
  if (const auto over = reinterpret_cast<std::uintptr_t>(memory.data) % carver::alignment; over != 0)
    return {errc::misaligned, "the pool's memory must begin on a boundary of 256 bytes", std::int64_t(over), 0};
  if (memory.size < need) return {errc::workspace_too_small, "the pool's memory is smaller than pool_bytes(shape)", std::int64_t(memory.size), std::int64_t(need)};
  lay_out_pool<Storage, Layout>(s, memory.data, &out);
  return {};
}

//! The keys or values of one layer as rows of d elements, one for each token and head: row Layout::row(page, slot, head, heads, tokens).
//! What attention reads:  attention::pool_of(Layout{}, pool_rows<T>(...).data, pages, page, heads_in_page(), dim)
template <class T> view<T> pool_rows(const page_pool& pool, plane p, int layer) {
  const pool_shape& s = pool.shape;
  const int dim = p == plane::keys ? s.key_dim : s.value_dim;
  return {reinterpret_cast<T*>(pool.planes[int(p)] + layer * plane_bytes(pool.format, s, p) * s.pages), s.pages * s.page * s.heads_in_page(), dim, dim};
}

}  // namespace smalti::inline SMALTI_CODE::cache
