// A stable sort of keys that carries one 32-bit value each.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/core/determinism.hpp>
#include <smalti/prim/check.hpp>
#include <smalti/prim/order.hpp>

namespace smalti::inline SMALTI_CODE::prim {

enum class direction : std::uint8_t { ascending, descending };

namespace detail {

// A key as an unsigned integer of the same size; sorting these upwards sorts the keys.
template <direction Direction> SMALTI_HD constexpr std::uint32_t sort_code(std::uint32_t key) { return Direction == direction::ascending ? key : ~key; }
template <direction Direction> SMALTI_HD constexpr std::uint64_t sort_code(std::uint64_t key) { return Direction == direction::ascending ? key : ~key; }
template <direction Direction> SMALTI_HD constexpr std::uint32_t sort_code(std::int32_t key) {
  return ~rank<Direction == direction::ascending ? order::smallest : order::largest>(key);
}
template <direction Direction> SMALTI_HD constexpr std::uint32_t sort_code(float key) {
  return ~rank<Direction == direction::ascending ? order::smallest : order::largest>(key);
}
template <class Key> using code_of = std::conditional_t<sizeof(Key) == 8, std::uint64_t, std::uint32_t>;

constexpr std::int64_t longest_sort = 2147483647;

template <class Key, direction Direction, class Args> std::size_t sort_bytes(const host_context& context, const Args& x);
template <class Key, direction Direction, class Args> std::size_t sort_bytes(const cuda_context& context, const Args& x);
template <class Key, direction Direction, class Args> status sort_all(const host_context& context, const Args& x, workspace scratch);
template <class Key, direction Direction, class Args> status sort_all(const cuda_context& context, const Args& x, workspace scratch);

}  // namespace detail

//! Sorts keys, and values with them. Stable: equal keys stay in the order they came in, in both directions.
//!
//! -0 equals +0; NaN of either sign comes after every number in both directions, and NaNs equal each other: the order of
//! select_k, so that select_k's best_first is the beginning of this sort. Keys are written as they were, the sign of zero
//! and the payload of NaN included.
//!
//! @tparam Key  std::uint32_t, std::int32_t, std::uint64_t or float
//! @pre    0 <= count < 2^31; outputs overlap nothing
//! @post   gpu_to_gpu: a stable sort has one result
//! @note   host: radix sort, one pass for each of the key's bytes in which keys differ, with threads. GPU: CUB's radix
//!         sort of (code, place) and one gather
template <class Key, direction Direction = direction::ascending>
struct sort_by_key {
  static_assert(std::is_same_v<Key, std::uint32_t> || std::is_same_v<Key, std::int32_t> || std::is_same_v<Key, std::uint64_t> || std::is_same_v<Key, float>,
    "smalti: sort_by_key takes std::uint32_t, std::int32_t, std::uint64_t or float keys: convert other keys to one of them");
  static constexpr determinism level = determinism::gpu_to_gpu;

  struct args {
    const Key* keys = nullptr;
    const std::int32_t* values = nullptr;      //!< null: the places 0, 1, 2, ... so that values_out is the permutation
    Key* keys_out = nullptr;                   //!< null: not wanted
    std::int32_t* values_out = nullptr;        //!< null: not wanted
    std::int64_t count = 0;
  };

  //! Everything that run would refuse, except a workspace.
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if (status s = check_context(context); !s) return s;
    if (x.count < 0) return {errc::bad_shape, "count must not be negative", x.count, 0};
    if (x.count > detail::longest_sort) return {errc::out_of_reach, "count must be below 2^31: values and places are 32 bits", x.count, detail::longest_sort};
    if (x.count == 0) return {};
    if (status s = detail::check_array(x.keys, x.count, {"keys is null: it needs count elements", "keys must begin on a multiple of a key's size"}); !s) return s;
    if (x.keys_out == nullptr && x.values_out == nullptr)
      return {errc::null_pointer, "keys_out and values_out are both null: one of them must have memory for count elements", 0, 0};
    if (status s = detail::check_array(x.values, 0, {"", "values must begin on a multiple of 4 bytes"}); !s) return s;
    if (status s = detail::check_array(x.keys_out, 0, {"", "keys_out must begin on a multiple of a key's size"}); !s) return s;
    if (status s = detail::check_array(x.values_out, 0, {"", "values_out must begin on a multiple of 4 bytes"}); !s) return s;
    const detail::extent keys = detail::extent_of(x.keys, x.count), values = detail::extent_of(x.values, x.count);
    const detail::extent keys_out = detail::extent_of(x.keys_out, x.count), values_out = detail::extent_of(x.values_out, x.count);
    if (detail::meet(keys_out, keys) || detail::meet(keys_out, values)) return {errc::aliased, "keys_out must not overlap keys or values", 0, 0};
    if (detail::meet(values_out, keys) || detail::meet(values_out, values)) return {errc::aliased, "values_out must not overlap keys or values", 0, 0};
    if (detail::meet(keys_out, values_out)) return {errc::aliased, "keys_out and values_out must not overlap", 0, 0};
    return {};
  }

  //! Scratch memory: two copies of (code, place), and counts. On a GPU an upper bound of what CUB asks for.
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if (x.count <= 0 || x.count > detail::longest_sort) return 0;
    if constexpr (runs_here<Context>) return detail::sort_bytes<Key, Direction>(base_of(context), x);
    else return 0;
  }

  //! Sorts. On a GPU it only launches on the context's stream.
  template <class Context> static status run(const Context& context, const args& x, workspace scratch = {}) {
    if (status s = check(context, x); !s) return s;
    const workspace used{scratch.data, workspace_bytes(context, x)};
    if (status s = check_workspace(scratch, used.size); !s) return s;
    const detail::extent mine = detail::extent_of(used);
    if (detail::meet(mine, detail::extent_of(x.keys, x.count)) || detail::meet(mine, detail::extent_of(x.values, x.count)) ||
        detail::meet(mine, detail::extent_of(x.keys_out, x.count)) || detail::meet(mine, detail::extent_of(x.values_out, x.count)))
      return {errc::aliased, "workspace must not overlap keys, values or what is written", 0, 0};
    if (x.count == 0) return {};
    if constexpr (runs_here<Context>) return detail::sort_all<Key, Direction>(base_of(context), x, used);
    else return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::prim

#if !defined(__CUDACC__)
#  include <smalti/prim/sort_host.hpp>
#endif
#if defined(SMALTI_HAS_CUDA_CONTEXT)
#  include <smalti/prim/sort.cuh>
#endif
