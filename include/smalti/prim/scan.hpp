// Running sums, of a whole array or of each segment of it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/core/determinism.hpp>
#include <smalti/core/segments.hpp>
#include <smalti/prim/check.hpp>

namespace smalti::inline SMALTI_CODE::prim {

//! Whether out[i] includes in[i].
enum class scan_kind : std::uint8_t { inclusive, exclusive };

//! In place of segments: the array is one run.
struct one_run {};

namespace detail {

// Integers are added without a sign: a sum that does not fit wraps and is not undefined.
template <class T> struct scan_sum { using type = std::make_unsigned_t<T>; };
template <> struct scan_sum<float> { using type = float; };

// Sums are formed inside chunks of this many elements, counted from the start of a run, and the chunks' sums are added
// in order: the same additions for every number of threads.
constexpr std::int64_t scan_chunk = 4096;

template <class Parts> constexpr bool segmented = !std::is_same_v<Parts, one_run>;

template <class T, scan_kind Kind, class Args> std::size_t scan_bytes(const host_context& context, const Args& x);
template <class T, scan_kind Kind, class Args> std::size_t scan_bytes(const cuda_context& context, const Args& x);
template <class T, scan_kind Kind, class Args> status scan_all(const host_context& context, const Args& x, workspace scratch);
template <class T, scan_kind Kind, class Args> status scan_all(const cuda_context& context, const Args& x, workspace scratch);

}  // namespace detail

//! Running sums.
//!
//! inclusive: out[i] = in[s] + ... + in[i];  exclusive: out[i] = in[s] + ... + in[i - 1], 0 at i = s
//! where s is the start of i's run: 0, or with segments the greatest offset <= i. Elements past the last segment are
//! not written.
//!
//! @tparam T      std::int32_t, std::int64_t (sums wrap) or float
//! @tparam Parts  one_run, or segments<Offset> with Offset std::int32_t or std::int64_t
//! @pre    out is in, or overlaps nothing. On a GPU the offsets cannot be read by check(): they begin with 0, do not
//!         decrease and end at most at count.
//! @post   Integers: gpu_to_gpu, and equal to the host's. Floats: gpu_to_gpu, and on the host the same bits for every
//!         number of threads; host and GPU add in different orders. A segment's bits do not depend on the others.
//! @note   float, host: |error| <= (4096 + length / 4096) 2^-24 times the sum of absolute values, to first order
//! @note   host: 2 reads and 1 write with threads, else 1 and 1; segments are shared among threads whole. GPU: 2 reads,
//!         1 write; with segments one block a segment, 1 read, 1 write
template <class T, scan_kind Kind = scan_kind::inclusive, class Parts = one_run>
struct scan {
  static_assert(std::is_same_v<T, std::int32_t> || std::is_same_v<T, std::int64_t> || std::is_same_v<T, float>,
    "smalti: scan takes std::int32_t, std::int64_t or float: convert other elements to one of them");
  static constexpr determinism level = determinism::gpu_to_gpu;

  struct args {
    const T* in = nullptr;
    T* out = nullptr;
    std::int64_t count = 0;
    Parts parts{};                     //!< segments of the array
  };

  //! Everything that run would refuse, except a workspace. On the host with segments O(segments), else O(1).
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if (status s = check_context(context); !s) return s;
    if (x.count < 0) return {errc::bad_shape, "count must not be negative", x.count, 0};
    if (status s = detail::check_array(x.in, x.count, {"in is null: it needs count elements", "in must begin on a multiple of the element's size"}); !s) return s;
    if (status s = detail::check_array(x.out, x.count, {"out is null: it needs count elements", "out must begin on a multiple of the element's size"}); !s) return s;
    if (x.in != x.out && detail::meet(detail::extent_of(x.in, x.count), detail::extent_of(x.out, x.count)))
      return {errc::aliased, "out must be in itself or overlap nothing", 0, 0};
    if constexpr (detail::segmented<Parts>) {
      if (x.parts.count < 0) return {errc::bad_shape, "segments.count must not be negative", x.parts.count, 0};
      const std::int64_t entries = x.parts.count > 0 ? std::int64_t(x.parts.count) + 1 : 0;
      if (status s = detail::check_array(x.parts.offsets, entries, {"segments.offsets is null: it needs count + 1 entries",
                                                                    "segments.offsets must begin on a multiple of an offset's size"}); !s)
        return s;
      if (detail::meet(detail::extent_of(x.parts.offsets, entries), detail::extent_of(x.out, x.count)))
        return {errc::aliased, "out must not overlap the offsets", 0, 0};
      if constexpr (is_host<Context>) return check_segments(x.parts, x.count);
    }
    return {};
  }

  //! Scratch memory: one sum a chunk of 4096 elements; 0 with segments, and on the host with one thread.
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if (detail::segmented<Parts> || x.count <= 0) return 0;
    if constexpr (runs_here<Context>) return detail::scan_bytes<T, Kind>(base_of(context), x);
    else return 0;
  }

  //! Sums. On a GPU it only launches on the context's stream.
  template <class Context> static status run(const Context& context, const args& x, workspace scratch = {}) {
    if (status s = check(context, x); !s) return s;
    const workspace used{scratch.data, workspace_bytes(context, x)};
    if (status s = check_workspace(scratch, used.size); !s) return s;
    const detail::extent mine = detail::extent_of(used);
    if (detail::meet(mine, detail::extent_of(x.in, x.count)) || detail::meet(mine, detail::extent_of(x.out, x.count)))
      return {errc::aliased, "workspace must not overlap in or out", 0, 0};
    if (x.count == 0) return {};
    if constexpr (runs_here<Context>) return detail::scan_all<T, Kind>(base_of(context), x, used);
    else return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::prim

#if !defined(__CUDACC__)
#  include <smalti/prim/scan_host.hpp>
#endif
#if defined(SMALTI_HAS_CUDA_CONTEXT)
#  include <smalti/prim/scan.cuh>
#endif
