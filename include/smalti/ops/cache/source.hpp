// A pool as attention reads it, whatever its storage: what examples and servers write once for every --kv option.
//
//     using storage = policy::kv_plain<bf16>;                    // or kv_plain<fp8_e4m3>, kv_int8<>, kv_int4<>: nothing else changes
//     using cache_type = cache::paged<storage, layout>;          // metadata
//     using append = cache::append<bf16, storage, layout, d>;    // quantizes where the storage does
//     using attend = attention::flash<bf16, d, cache::source<storage>, policy::causal>;
//     x.kv = cache::source_of<storage, layout, d>(pool, layer, tables, sequences, most);
//
// (with ops/attention/quantized.hpp included for storages of integers).
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/block/attention/kv.hpp>
#include <smalti/block/attention/kv_quantized.hpp>
#include <smalti/core/pages.hpp>
#include <smalti/ops/cache/pool.hpp>
#include <smalti/policy/kv_integer.hpp>

namespace smalti::inline SMALTI_CODE::cache {

namespace detail {
template <class Storage, int Page> struct source_type {
  static_assert(policy::is_kv_integer<Storage>, "smalti: attention reads pools of policy::kv_plain<T> and of policy::kv_integer (kv_int8, kv_int4, ...)");
  using type = attention::paged_quantized_kv<Storage, Page>;
};
template <class T, int Page> struct source_type<policy::kv_plain<T>, Page> { using type = attention::paged_kv<T, Page>; };

// The memory of one plane of one layer.
template <class T> T* plane_of(const page_pool& pool, plane p, int layer) { return reinterpret_cast<T*>(pool.planes[int(p)] + layer * plane_bytes(pool.format, pool.shape, p) * pool.shape.pages); }
}  // namespace detail

//! What attention::flash takes for pools of a storage.
template <class Storage, int Page = 0> using source = typename detail::source_type<Storage, Page>::type;

//! Rows of codes, one token and head each, of one part of one layer.
template <class Storage, policy::kv_part Part, int D> view<int> pool_codes(const page_pool& pool, int layer) {
  using rows = typename Storage::template rows_of<Part, D>;
  const pool_shape& s = pool.shape;
  return {detail::plane_of<int>(pool, Part == policy::kv_part::key ? plane::keys : plane::values, layer), s.pages * s.page * s.heads_in_page(), rows::words, rows::words};
}
//! Its rows of scales and minima: of a token and head, or of a group of tokens and a head.
template <class Storage, policy::kv_part Part, int D> view<typename Storage::scale, 1> pool_scales(const page_pool& pool, int layer) {
  using rows = typename Storage::template rows_of<Part, D>;
  const pool_shape& s = pool.shape;
  return {detail::plane_of<typename Storage::scale>(pool, Part == policy::kv_part::key ? plane::key_scales : plane::value_scales, layer), s.pages * Storage::template scale_rows<Part>(s.page) * s.heads_in_page(),
          rows::width, rows::width};
}

//! The pages of one layer of a pool for attention. Heads with pages of their own (per_head) read theirs through `where`'s head strides.
//! @param where  tables and lengths of the batch: paged::tables; @param most  tokens of the longest sequence, or more
//! @pre   the pool was made with this storage and layout; D and ValueDim are its key_dim and value_dim
template <class Storage, class Layout, int D, int ValueDim = D, int Page = 0>
source<Storage, Page> source_of(const page_pool& pool, int layer, const pages& where, int sequences, int most) {
  const pool_shape& s = pool.shape;
  const int heads = s.heads_in_page();
  const auto every_head = [&](auto p) {                // pages of one head each serve all heads: the tables tell them apart
    if (s.per_head) p.heads = s.kv_heads, p.head_stride = 0;
    return p;
  };
  if constexpr (policy::is_kv_integer<Storage>) {
    const auto of = [&](auto part, auto dim) {
      using rows = typename Storage::template rows_of<part.value, dim.value>;
      const view<int> codes = pool_codes<Storage, part.value, dim.value>(pool, layer);
      const auto scales = pool_scales<Storage, part.value, dim.value>(pool, layer);
      return attention::quantized_pool<Storage>{
          every_head(attention::pool_of<const std::uint32_t>(Layout{}, reinterpret_cast<const std::uint32_t*>(codes.data), s.pages, s.page, heads, rows::words)),
          every_head(attention::pool_of<const typename Storage::scale>(Layout{}, scales.data, s.pages, Storage::template scale_rows<part.value>(s.page), heads, rows::width))};
    };
    return {of(std::integral_constant<policy::kv_part, policy::kv_part::key>{}, std::integral_constant<int, D>{}),
            of(std::integral_constant<policy::kv_part, policy::kv_part::value>{}, std::integral_constant<int, ValueDim>{}), where, sequences, most};
  } else {
    using element = typename Storage::element;
    return {every_head(attention::pool_of<const element>(Layout{}, pool_rows<element>(pool, plane::keys, layer).data, s.pages, s.page, heads, D)),
            every_head(attention::pool_of<const element>(Layout{}, pool_rows<element>(pool, plane::values, layer).data, s.pages, s.page, heads, ValueDim)), where, sequences, most};
  }
}

}  // namespace smalti::inline SMALTI_CODE::cache
