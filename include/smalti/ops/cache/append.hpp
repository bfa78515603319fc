// New keys and values go into their pages.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/cache/append.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/ops/cache/check.hpp>
#include <smalti/ops/cache/pool.hpp>
#include <smalti/ops/cache/tuning.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! pool[slot[head, token]][head] = round(x[token, head * d ...] / scale), for keys and values of one layer.
//!
//! @tparam From    bf16, fp16 or float: element of the new rows
//! @tparam Storage policy::kv_plain<T>; codecs with scales in the pool encode on their own
//! @tparam Layout  policy::nhd or policy::hnd
//! @pre   slots that are stored to are all different; a negative one stores nothing. They come from paged::append. On a GPU
//!        check() cannot read them: one past the pool stores nothing. x overlaps nothing of the pool.
//! @post  gpu_to_gpu: one rounding to nearest even, exact where T holds From; fp8 saturates. T of 8 bits is multiplied by the
//!        float nearest to 1 / scale before it is rounded
//! @note  one read of x, one write of the same rows; no workspace
template <class From, class Storage, class Layout = policy::nhd>
struct append {
  static_assert(policy::explain_kv_storage<Storage>());
  static_assert(policy::explain_kv_layout<Layout>());
  static_assert(std::is_same_v<From, bf16> || std::is_same_v<From, fp16> || std::is_same_v<From, float>, "smalti: append takes rows of bf16, fp16 or float: convert them");
  static_assert(requires { typename Storage::element; }, "smalti: append stores floats as they are, policy::kv_plain<T>: a storage with scales in the pool is written by its codec");
  using element = typename Storage::element;
  static constexpr determinism level = determinism::gpu_to_gpu;

  struct args {
    page_pool pool;
    int layer = 0;                         //!< of the pool's layers in a page
    view<const From> k, v;                 //!< [token][kv_head * d]; v empty where value_dim is 0
    const int* slots = nullptr;            //!< page * tokens of a page + slot, an entry for each token (and head)
    long long slot_head_stride = 0;        //!< slots from one head to the next; 0 = shared, as where heads share their pages
    float key_scale = 1, value_scale = 1;  //!< of 8-bit elements; 1 for others
  };

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(x); }, [&] { return is_host<Context> ? check_slots(x) : status{}; });
  }

  //! None is needed.
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) {
    static_assert(explain_context<Context>());
    return 0;
  }

  //! Stores; on a GPU it only launches on the context's stream.
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    if (const status bad = check(context, x); !bad) return bad;
    if constexpr (runs_here<Context>) {
      if (x.k.rows == 0) return {};
      const pool_shape& s = x.pool.shape;
      const view<element> keys = pool_rows<element>(x.pool, plane::keys, x.layer);
      const view<element> values = s.value_dim > 0 ? pool_rows<element>(x.pool, plane::values, x.layer) : view<element>{nullptr, 0, 0, 0};
      return launch<kernel<typename selector_of<Context, default_append_tuning>::type>>(
          base_of(context), {.k = {x.k.data, s.kv_heads, x.k.rows, s.key_dim, s.key_dim, x.k.stride},
                             .v = {x.v.data, s.kv_heads, x.v.rows, s.value_dim, s.value_dim, x.v.stride},
                             .keys = keys,
                             .values = values,
                             .slots = x.slots,
                             .slot_head_stride = x.slot_head_stride,
                             .pool_slots = s.pages * s.page,
                             .page = s.page,
                             .heads_in_page = s.heads_in_page(),
                             .key_factor = 1 / x.key_scale,
                             .value_factor = 1 / x.value_scale,
                             .layout = {}});
    } else {
      return {};
    }
  }

  // ---- what a launch names
  template <class Selector> struct kernel {
    static_assert(explain_tuning<Selector, append_tuning>());
    using problem = append_problem<From, element, Layout>;
    using arguments = typename problem::arguments;
    template <target T> using agent = append_agent<Selector{}(T), problem>;
  };

private:
  static status check_args(const args& x) {
    const pool_shape& s = x.pool.shape;
    if (!(x.pool.format == Storage::format)) return {errc::bad_value, "pool: it holds another storage than this append writes: codecs are not mixed in one pool", int(x.pool.format.code), int(Storage::format.code)};
    if (x.pool.order != Layout::order) return {errc::bad_value, "pool: it has another layout than this append writes (nhd 0, hnd 1)", int(x.pool.order), int(Layout::order)};
    if (const status bad = detail::check_pool(x.pool, {"pool: its keys or values have no memory: use make_pool", "pool: its keys and values must begin on multiples of 16 bytes"}); !bad) return bad;
    if (x.layer < 0 || x.layer >= s.layers_in_page()) return {errc::bad_value, "layer must be one of the layers that a page holds", x.layer, s.layers_in_page()};
    if (const status bad = check_rows(x.k, s.kv_heads * static_cast<long long>(s.key_dim), s.key_dim, {"k has tokens but no memory: its pointer is null", "k must not have a negative extent",
          "k must have kv_heads * key_dim columns", "the rows of k must not overlap: the stride is less than the number of columns",
          "k must begin on a multiple of 16 bytes, and its stride and key_dim be multiples of 16 bytes"}); !bad)
      return bad;
    if (s.value_dim > 0) {
      if (x.v.rows != x.k.rows) return {errc::bad_shape, "v must have as many tokens as k", x.v.rows, x.k.rows};
      if (const status bad = check_rows(x.v, s.kv_heads * static_cast<long long>(s.value_dim), s.value_dim, {"v has tokens but no memory: its pointer is null", "v must not have a negative extent",
            "v must have kv_heads * value_dim columns", "the rows of v must not overlap: the stride is less than the number of columns",
            "v must begin on a multiple of 16 bytes, and its stride and value_dim be multiples of 16 bytes"}); !bad)
        return bad;
    } else if (x.v.rows != 0 && x.v.cols != 0) {
      return {errc::bad_shape, "v must be empty: the pool has no values (value_dim 0)", x.v.cols, 0};
    }
    if (x.k.rows > 0 && x.slots == nullptr) return {errc::null_pointer, "slots is null: it needs an entry for each token", 0, x.k.rows};
    if (s.per_head && s.kv_heads > 1 && x.slot_head_stride < x.k.rows) return {errc::bad_shape, "slot_head_stride must be at least the number of tokens: each head has pages of its own", x.slot_head_stride, x.k.rows};
    if (!s.per_head && x.slot_head_stride != 0) return {errc::bad_shape, "slot_head_stride must be 0: heads share their pages", x.slot_head_stride, 0};
    for (const float scale : {x.key_scale, x.value_scale}) {
      if (!(scale > 0) || !(1 / scale > 0) || 1 / scale - 1 / scale != 0) return {errc::bad_value, "key_scale and value_scale must be positive, finite, and so must 1 / scale", 0, 0};
      if (sizeof(element) != 1 && scale != 1) return {errc::bad_value, "key_scale and value_scale must be 1: only elements of 8 bits are scaled", 0, 1};
    }
    if (x.k.rows == 0) return {};
    for (const plane p : {plane::keys, plane::values})
      for (const detail::range r : {detail::view_range(x.k), detail::view_range(x.v), detail::list_range(x.slots, x.k.rows + x.slot_head_stride * (s.kv_heads - 1))})
        if (x.pool.planes[int(p)] != nullptr && detail::meet(detail::plane_range(x.pool, p), r)) return {errc::aliased, "the pool must not overlap k, v or slots"};
    return {};
  }
  struct row_words { const char* null; const char* extent; const char* width; const char* stride; const char* aligned; };
  static status check_rows(const view<const From>& v, long long width, int dim, const row_words& say) {
    if (v.rows < 0 || v.cols < 0) return {errc::bad_shape, say.extent, v.rows < 0 ? v.rows : v.cols, 0};
    if (v.cols != width) return {errc::bad_shape, say.width, v.cols, width};
    if (v.rows > 1 && v.stride < v.cols) return {errc::bad_shape, say.stride, v.stride, v.cols};
    if (v.rows > 0 && v.data == nullptr) return {errc::null_pointer, say.null, 0, v.rows};
    for (const long long bytes : {static_cast<long long>(reinterpret_cast<std::uintptr_t>(v.data) % 16), v.stride * static_cast<long long>(sizeof(From)), dim * static_cast<long long>(sizeof(From)), dim * static_cast<long long>(sizeof(element))})
      if (bytes % 16 != 0) return {errc::misaligned, say.aligned, bytes, 16};
    return {};
  }
  // On the host the slots can be read: none points past the pool.
  static status check_slots(const args& x) {
    const pool_shape& s = x.pool.shape;
    const int heads = s.per_head ? s.kv_heads : 1;
    for (int h = 0; h < heads; ++h)
      for (int t = 0; t < x.k.rows; ++t)
        if (const int slot = x.slots[h * x.slot_head_stride + t]; slot >= s.pages * s.page)
          return {errc::bad_value, "slots names a slot past the pool: use -1 to store nothing", slot, static_cast<long long>(s.pages) * s.page - 1};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
