// Select-k: the k best elements of each row, with their indices.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/core/determinism.hpp>
#include <smalti/prim/check.hpp>
#include <smalti/prim/order.hpp>
#include <smalti/prim/rows.hpp>
#include <smalti/tile/mutant.hpp>
#if !defined(__CUDACC__)
#  include <smalti/prim/select_k_host.hpp>
#endif
#if defined(SMALTI_HAS_CUDA_CONTEXT)
#  include <smalti/prim/select_k.cuh>
#endif

namespace smalti::inline SMALTI_CODE::prim {

namespace detail {

// Defined where the machine is: select_k_host.hpp, select_k.cuh.
template <class Args> std::size_t select_bytes(const host_context& context, const Args& x);
template <class Args> std::size_t select_bytes(const cuda_context& context, const Args& x);
template <class T, order Order, class Args> status select_rows(const host_context& context, const Args& x, workspace scratch);
template <class T, order Order, class Args> status select_rows(const cuda_context& context, const Args& x, workspace scratch);

}  // namespace detail

//! The greatest k that select_k takes in arrangement::best_first; by_index takes any.
constexpr int greatest_k = 4096;

//! The k best elements of each row.
//!
//! Let a stable sort put row r in order (largest or smallest first). values[r, j] and indices[r, j] are its first k
//! elements and the places in the row they came from. Equal elements come by rising index, so a tie at the end is
//! won by the lower index. -0 equals +0. NaN, of either sign, comes after every number and both infinities in both
//! orders: it is selected only when a row has fewer than k numbers, by rising index. Selected elements are written as they are in
//! the row (the sign of zero, the payload of NaN). A row of n < k elements fills the rest with index -1 and `fill`,
//! in either arrangement. With `row_k`, row r has a k of its own, min(max(row_k[r], 0), k): its places from there on are filled too.
//!
//! @tparam T      float, bf16, fp16 or std::int32_t
//! @tparam Order  order::largest or order::smallest
//! @tparam Rows   view<const T, 1>, or ragged<T, Offset> with Offset std::int32_t or std::int64_t
//! @pre    0 <= k, and at most 4096 in arrangement::best_first; a row has fewer than 2^31 elements; outputs overlap nothing. On a GPU the offsets cannot be read by
//!         check(): they begin with 0, do not decrease, and end at most at extent.
//! @post   gpu_to_gpu: the result is unique, so every machine, thread count and run gives the same bits; batch invariant
//! @note   host: one read of a row (five where more than max(4 k, 8192) elements tie near the k-th), rows on threads.
//!         GPU: one block a row, two reads for 16-bit types and four for 32-bit types, and one to collect; a batch of few long
//!         rows leaves most of the GPU idle.
//! @note   best_first costs a sort of k pairs
//!
//! Source: radix selection and the k-selection literature (Johnson, Douze, Jégou, "Billion-scale similarity search
//! with GPUs"); sampled thresholds after Floyd and Rivest, "Expected time bounds for selection".
template <class T, order Order = order::largest, class Rows = view<const T, 1>>
struct select_k {
  static_assert(detail::element_bits<T>::known,
    "smalti: select_k takes float, bf16, fp16 or std::int32_t elements: convert the rows to one of them");
  static constexpr determinism level = determinism::gpu_to_gpu;

  struct args {
    Rows rows{};                                     //!< what to select from
    int k = 0;
    view<T, 1> values{};                             //!< rows x k; no data: values are not wanted
    view<std::int32_t, 1> indices{};                 //!< rows x k, places in the row; no data: indices are not wanted
    arrangement arranged = arrangement::best_first;
    T fill = detail::worst<T, Order>();              //!< the value of places that a short row leaves empty
    const std::int32_t* row_k = nullptr;             //!< each row's own k, in the context's memory; null: k for all
  };

  //! Everything that run would refuse, except a workspace. On the host with ragged rows O(rows), else O(1).
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if (status s = check_context(context); !s) return s;
    if (x.k < 0) return {errc::bad_value, "k must not be negative", x.k, 0};
    if (x.k > most_of(x) && !mutant(defect::any_k_accepted)) return {errc::bad_value, "k must be at most 4096: sort the rows instead, or take arrangement::by_index", x.k, greatest_k};
    if (x.arranged != arrangement::best_first && x.arranged != arrangement::by_index)
      return {errc::bad_value, "arranged must be arrangement::best_first or arrangement::by_index", std::int64_t(x.arranged), 0};
    if (status s = detail::check_rows(is_host<Context>, x.rows); !s) return s;
    if (detail::row_count(x.rows) == 0 || x.k == 0) return {};
    return first_of([&] { return check_outputs(x); }, [&] { return check_overlap(x); });
  }

  //! Scratch memory: on the host a share for each thread, 0 on a GPU. Reads sizes and the context only.
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if (detail::row_count(x.rows) <= 0 || x.k <= 0 || x.k > most_of(x)) return 0;
    if constexpr (runs_here<Context>) return detail::select_bytes(base_of(context), x);
    else return 0;
  }

  //! Selects. On a GPU it only launches on the context's stream.
  template <class Context> static status run(const Context& context, const args& x, workspace scratch = {}) {
    if (status s = check(context, x); !s) return s;
    const workspace used{scratch.data, workspace_bytes(context, x)};
    if (status s = check_workspace(scratch, used.size); !s) return s;
    const detail::extent mine = detail::extent_of(used);
    if (detail::meet(mine, detail::extent_of(x.rows)) || detail::meet(mine, detail::extent_of(x.values)) || detail::meet(mine, detail::extent_of(x.indices)))
      return {errc::aliased, "workspace must not overlap rows, values or indices", 0, 0};
    if (detail::row_count(x.rows) == 0 || x.k == 0) return {};
    if constexpr (runs_here<Context>) return detail::select_rows<T, Order>(base_of(context), x, used);
    else return {};
  }

private:
  static constexpr int most_of(const args& x) { return x.arranged == arrangement::by_index ? 2147483647 : greatest_k; }
  static status check_outputs(const args& x) {
    const int rows = detail::row_count(x.rows);
    if (x.values.data == nullptr && x.indices.data == nullptr)
      return {errc::null_pointer, "values and indices are both null: one of them must have memory for rows x k elements", 0, 0};
    if (x.values.data != nullptr) {
      if (x.values.rows != rows) return {errc::bad_shape, "values must have as many rows as rows", x.values.rows, rows};
      if (x.values.cols != x.k) return {errc::bad_shape, "values must have k columns", x.values.cols, x.k};
      if (status s = detail::check_matrix(x.values, {"", "", "the rows of values must not overlap: the stride is less than k",
                                                     "values must begin on a multiple of the element's size"}); !s)
        return s;
    }
    if (x.indices.data != nullptr) {
      if (x.indices.rows != rows) return {errc::bad_shape, "indices must have as many rows as rows", x.indices.rows, rows};
      if (x.indices.cols != x.k) return {errc::bad_shape, "indices must have k columns", x.indices.cols, x.k};
      if (status s = detail::check_matrix(x.indices, {"", "", "the rows of indices must not overlap: the stride is less than k",
                                                      "indices must begin on a multiple of 4 bytes"}); !s)
        return s;
    }
    return {};
  }
  static status check_overlap(const args& x) {
    const detail::extent in = detail::extent_of(x.rows), values = detail::extent_of(x.values), indices = detail::extent_of(x.indices);
    if (detail::meet(in, values)) return {errc::aliased, "values must not overlap rows: give them memory of their own", 0, 0};
    if (detail::meet(in, indices)) return {errc::aliased, "indices must not overlap rows: give them memory of their own", 0, 0};
    if (detail::meet(values, indices)) return {errc::aliased, "values and indices must not overlap", 0, 0};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::prim
