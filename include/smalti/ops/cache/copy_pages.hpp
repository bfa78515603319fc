// Whole pages from pool to pool: copies on write, swapping out and in, moving a pool.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/cache/move_rows.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/ops/cache/check.hpp>
#include <smalti/ops/cache/pool.hpp>
#include <smalti/ops/cache/tuning.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! Page target[i] of one pool becomes a copy of page source[i] of another, or of the same: all layers, heads and planes, to
//! the bit, whatever the storage. Without a list, i stands for itself: a swapped sequence is pages 0, 1, ... of a pool in a
//! buffer of the caller's, which for a GPU is memory that its kernels reach, such as pinned memory of the host.
//!
//! @pre   target pages are all different. In one pool no page is both source and target (paged::append sees to it); check() finds
//!        both on the host, where it can read the lists. On a GPU a page outside its pool is not copied.
//! @post  gpu_to_gpu: bytes are moved
//! @note  one read and one write of the pages, one launch for each of up to four planes; no workspace. check() on the host costs
//!        O(count^2) comparisons of page numbers where the pools are one, O(count) elsewhere
struct copy_pages {
  static constexpr determinism level = determinism::gpu_to_gpu;

  struct args {
    page_pool from, to;                    //!< of one storage, layout and shape, save for the number of pages
    const int* source = nullptr;           //!< count pages of from; null: 0, 1, ...
    const int* target = nullptr;           //!< count pages of to; null: 0, 1, ...
    int count = 0;
  };

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(x); }, [&] { return is_host<Context> ? check_lists(x) : status{}; });
  }

  //! None is needed.
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) {
    static_assert(explain_context<Context>());
    return 0;
  }

  //! Copies; on a GPU it only launches on the context's stream.
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    if (const status bad = check(context, x); !bad) return bad;
    if constexpr (runs_here<Context>) {
      if (x.count == 0) return {};
      for (int p = 0; p < plane_count; ++p) {
        const pool_shape& s = x.from.shape;
        const int words = int(plane_bytes(x.from.format, s, plane(p)) / 4);
        if (words == 0) continue;
        const status done = launch<kernel<typename selector_of<Context, default_move_tuning>::type>>(
            base_of(context), {.from = {reinterpret_cast<const int*>(x.from.planes[p]), s.layers_in_page(), s.pages, words, static_cast<long long>(words) * s.pages, words},
                               .to = {reinterpret_cast<int*>(x.to.planes[p]), s.layers_in_page(), x.to.shape.pages, words, static_cast<long long>(words) * x.to.shape.pages, words},
                               .source = x.source,
                               .target = x.target,
                               .count = x.count});
        if (!done) return done;
      }
    }
    return {};
  }

  // ---- what a launch names
  template <class Selector> struct kernel {
    static_assert(explain_tuning<Selector, move_tuning>());
    using arguments = move_rows_arguments;
    template <target T> using agent = move_rows_agent<Selector{}(T)>;
  };

private:
  static bool one_pool(const args& x) { return x.from.planes[0] == x.to.planes[0]; }
  static status check_args(const args& x) {
    if (x.count < 0) return {errc::bad_shape, "count must not be negative", x.count, 0};
    if (!(x.from.format == x.to.format)) return {errc::bad_value, "from and to must hold one storage: codecs are not mixed in one pool", int(x.to.format.code), int(x.from.format.code)};
    if (x.from.order != x.to.order) return {errc::bad_value, "from and to must have one layout (nhd 0, hnd 1)", int(x.to.order), int(x.from.order)};
    pool_shape as_from = x.to.shape;
    as_from.pages = x.from.shape.pages;
    if (!(as_from == x.from.shape)) return {errc::bad_shape, "from and to must have pages of one shape: tokens, heads, channels, layers"};
    if (const status bad = detail::check_pool(x.from, {"from: a plane has no memory: use make_pool", "from: its planes must begin on multiples of 16 bytes"}); !bad) return bad;
    if (const status bad = detail::check_pool(x.to, {"to: a plane has no memory: use make_pool", "to: its planes must begin on multiples of 16 bytes"}); !bad) return bad;
    if (x.source == nullptr && x.count > x.from.shape.pages) return {errc::bad_shape, "count must be at most the pages of from where source is null", x.count, x.from.shape.pages};
    if (x.target == nullptr && x.count > x.to.shape.pages) return {errc::bad_shape, "count must be at most the pages of to where target is null", x.count, x.to.shape.pages};
    if (x.count == 0) return {};
    for (int p = 0; p < plane_count; ++p) {
      if (plane_bytes(x.from.format, x.from.shape, plane(p)) == 0) continue;
      const detail::range to = detail::plane_range(x.to, plane(p));
      if (detail::meet(to, detail::list_range(x.source, x.count)) || detail::meet(to, detail::list_range(x.target, x.count))) return {errc::aliased, "to must not overlap source or target"};
      for (int q = 0; q < plane_count; ++q)
        if (plane_bytes(x.from.format, x.from.shape, plane(q)) != 0 && detail::meet(to, detail::plane_range(x.from, plane(q))) &&
            !(p == q && x.from.planes[p] == x.to.planes[p] && x.from.shape == x.to.shape))
          return {errc::aliased, "from and to must be one pool, or not overlap"};
    }
    if (one_pool(x) && (x.source == nullptr || x.target == nullptr)) return {errc::null_pointer, "source and target must be given where from and to are one pool", 0, x.count};
    return {};
  }
  static status check_lists(const args& x) {
    for (int i = 0; i < x.count; ++i) {
      if (x.source && (x.source[i] < 0 || x.source[i] >= x.from.shape.pages)) return {errc::bad_value, "source names a page outside its pool", x.source[i], x.from.shape.pages};
      if (x.target && (x.target[i] < 0 || x.target[i] >= x.to.shape.pages)) return {errc::bad_value, "target names a page outside its pool", x.target[i], x.to.shape.pages};
    }
    if (!one_pool(x)) return {};
    for (int i = 0; i < x.count; ++i)
      for (int j = 0; j < x.count; ++j) {
        if (x.source[i] == x.target[j]) return {errc::aliased, "a page is both source and target: run the first copy before the second", x.source[i], 0};
        if (i != j && x.target[i] == x.target[j]) return {errc::aliased, "a page is the target of two copies", x.target[i], 0};
      }
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
