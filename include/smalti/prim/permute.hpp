// Rows moved: by an index, gather and scatter, or in their order.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/core/determinism.hpp>
#include <smalti/prim/check.hpp>

namespace smalti::inline SMALTI_CODE::prim {

//! Which side the index names.
enum class movement : std::uint8_t {
  gather,        //!< to[i] = from[index[i]], one index for each row of `to`
  scatter,       //!< to[index[i]] = from[i], one index for each row of `from`
  copy           //!< to[i] = from[i], without an index: rows that lie apart become neighbours, or the other way round
};

namespace detail {
template <class T, movement Movement, class Args> status move_rows(const host_context& context, const Args& x);
template <class T, movement Movement, class Args> status move_rows(const cuda_context& context, const Args& x);
}  // namespace detail

//! Moves rows. A negative index skips its row: what a gather would have written there, or what a scatter
//! would have read, stays as it is.
//!
//! @tparam T  any trivially copyable element: bytes are moved, nothing is converted
//! @pre    the indices of a scatter are distinct. On a GPU the indices cannot be read by check(): one past the last row is
//!         skipped, as if negative. to and from overlap nothing.
//! @post   gpu_to_gpu
//! @note   one read and one write of the rows moved; check() on the host reads the indices
template <class T, movement Movement = movement::gather>
struct permute {
  static_assert(std::is_trivially_copyable_v<T>, "smalti: permute moves bytes, so its elements must be trivially copyable");
  static constexpr determinism level = determinism::gpu_to_gpu;

  struct args {
    view<const T, 1> from{};
    view<T, 1> to{};
    const std::int32_t* index = nullptr;     //!< to.rows entries for a gather, from.rows for a scatter; not read by a copy
  };

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if (status s = check_context(context); !s) return s;
    if (status s = detail::check_matrix(x.from, {"from has elements but no memory: its pointer is null", "from must not have a negative extent",
                                                 "the rows of from must not overlap: the stride is less than the number of columns",
                                                 "from must begin on a multiple of the element's alignment"}); !s)
      return s;
    if (status s = detail::check_matrix(x.to, {"to has elements but no memory: its pointer is null", "to must not have a negative extent",
                                               "the rows of to must not overlap: the stride is less than the number of columns",
                                               "to must begin on a multiple of the element's alignment"}); !s)
      return s;
    if (x.to.cols != x.from.cols) return {errc::bad_shape, "to must have as many columns as from", x.to.cols, x.from.cols};
    if (Movement == movement::copy && x.to.rows != x.from.rows) return {errc::bad_shape, "a copy needs as many rows of to as of from", x.to.rows, x.from.rows};
    const int entries = Movement == movement::copy ? 0 : Movement == movement::gather ? x.to.rows : x.from.rows, limit = Movement == movement::gather ? x.from.rows : x.to.rows;
    if (status s = detail::check_array(x.index, entries, {Movement == movement::gather ? "index is null: it needs an entry for each row of to"
                                                                                       : "index is null: it needs an entry for each row of from",
                                                          "index must begin on a multiple of 4 bytes"}); !s)
      return s;
    const detail::extent to = detail::extent_of(x.to);
    if (detail::meet(to, detail::extent_of(x.from))) return {errc::aliased, "to must not overlap from", 0, 0};
    if (detail::meet(to, detail::extent_of(x.index, entries))) return {errc::aliased, "to must not overlap index", 0, 0};
    if constexpr (is_host<Context>)
      for (int i = 0; i < entries; ++i)
        if (x.index[i] >= limit) return {errc::bad_value, "index names a row past the last: use -1 to skip a row", x.index[i], std::int64_t(limit) - 1};
    return {};
  }

  //! None is needed.
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) {
    static_assert(explain_context<Context>());
    return 0;
  }

  //! Moves. On a GPU it only launches on the context's stream.
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    if (status s = check(context, x); !s) return s;
    if (x.to.rows == 0 || x.from.rows == 0 || x.to.cols == 0) return {};
    if constexpr (runs_here<Context>) return detail::move_rows<T, Movement>(base_of(context), x);
    else return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::prim

#if !defined(__CUDACC__)
#  include <smalti/prim/permute_host.hpp>
#endif
#if defined(SMALTI_HAS_CUDA_CONTEXT)
#  include <smalti/prim/permute.cuh>
#endif
