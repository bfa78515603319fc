// Quest's selection: the pages whose keys can score most. Attention over lists of pages reads them;
// docs/ops/attention/quest.md has the method and its limits.
#pragma once
#include <cstddef>
#include <type_traits>
#include <smalti/block/score/page_bounds.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/attention/check.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/prim/select_k.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::attention {

namespace detail {
template <class T> status check_bounds(const page_bounds<T>& b, int pages, int heads, int d) {
  for (const auto* m : {&b.low, &b.high}) {
    if (m->data == nullptr) return {errc::null_pointer, "bounds: low and high must not be null: a row for each page and head of the pool"};
    if (m->cols != d) return {errc::bad_shape, "bounds: low and high need as many columns as a key has elements", m->cols, d};
    if (m->rows < static_cast<long long>(pages) * heads) return {errc::bad_shape, "bounds: low and high need a row for each page and head of the pool", m->rows, static_cast<long long>(pages) * heads};
    if (m->stride < m->cols || m->stride % step_of<T> != 0) return {errc::misaligned, "bounds: the stride must be at least the columns and a multiple of 16 bytes", m->stride, round_up(d, step_of<T>)};
    if (reinterpret_cast<std::uintptr_t>(m->data) % 16 != 0) return {errc::misaligned, "bounds: addresses must be multiples of 16 bytes"};
  }
  return {};
}
}  // namespace detail

//! low[c] and high[c]: the least and greatest element c of the keys of each page in use, for every head. Pages without new
//! tokens are left as they are: after an append only the open page and new ones are read.
//! @tparam T  bf16 or fp16, of keys and bounds: both are exact
//! @post  gpu_to_gpu: every machine gives the same bits (the sign of a zero aside)
//! @note  cost: one read of the keys of those pages. Source: Tang et al. 2024, Quest, arXiv:2406.10774.
template <class T, int D, int Page = 0>
struct quest_bounds {
  static_assert(explain_attention_types<T, D, D, T>());
  static constexpr determinism level = determinism::gpu_to_gpu;
  struct args {
    paged_kv<T, Page> kv = {};             //!< values are not read
    int fresh = -1;                   //!< new are the newest so many tokens of every sequence; -1: those that `from` names
    const int* from = nullptr;        //!< where sequences have grown differently: new are the tokens from from[sequence] on, in the context's memory; null: all
    page_bounds<T> bounds = {};            //!< row page * heads + head: physical pages
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else
      return first_of([&] { return check_context(base_of(context)); }, [&] { return check_kv<D, D>(with_keys(x.kv), is_host<Context>); },
                      [&] { return detail::check_new(x.fresh, x.from); }, [&] { return detail::check_bounds(x.bounds, x.kv.k.count, x.kv.k.heads, D); });
  }
  template <class Context> static status run(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if (const status bad = check(context, x); !bad) return bad;
    if (x.kv.sequences == 0 || x.kv.k.heads == 0 || x.kv.most == 0) return {};
    if constexpr (runs_here<Context>) return launch<kernel>(base_of(context), {x.kv, {x.from, x.fresh}, x.bounds});
    else return {};
  }
  struct kernel {
    using arguments = page_summary_arguments<T, Page, page_extremes>;
    template <target> using agent = page_summary_agent<16, 64, T, Page, page_extremes>;
  };
  static constexpr paged_kv<T, Page> with_keys(paged_kv<T, Page> kv) {
    kv.v = kv.k;
    return kv;
  }
};

//! The k pages of each sequence whose bound u = sum_c max(q_c low_c, q_c high_c) is greatest, over the query rows of the
//! sequence and, where heads share a list, over the query heads of a key head. No key of a page scores above its bound: the
//! page of the best key has a bound at least as high as its score, but others may have higher ones. The newest page in use is
//! always among them, as in the authors' program: the few keys that it begins with have low bounds, and every query wants them.
//! blocks[list][n], ascending, -1 behind; list = sequence * lists of a sequence + list of the head. Equal bounds: the lower
//! page. k pages or more in use: all of them, and attention is exact.
//! @pre   bounds are those of quest_bounds for the keys of now; at most 2^31 bounds
//! @post  run to run; batch invariant
//! @note  reads 2 D elements a page in use; workspace: a float a page and list. Source: as quest_bounds.
template <class T, int D, int Page = 0>
struct quest_select {
  static_assert(explain_attention_types<T, D, D, T>());
  static constexpr determinism level = determinism::run_to_run;
  struct args {
    head_rows<const T> q = {};             //!< the rows that decode: few
    paged_kv<T, Page> kv = {};             //!< values are not read
    page_bounds<const T> bounds = {};
    int k = 0;                        //!< pages of a list: the paper's budget divided by the page size, at least 3
    bool share_heads = true;          //!< one list for all query heads of a key head, else one for each
    view<int, 1> blocks = {};         //!< lists() x k
  };
  static constexpr int heads_per_list(const args& x) { return x.share_heads && x.kv.heads() > 0 ? x.q.heads / x.kv.heads() : 1; }
  static constexpr long long lists(const args& x) { return static_cast<long long>(x.q.sequences) * (x.q.heads / heads_per_list(x)); }

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_search(context, x); }, [&] { return check_lists(x); });
  }
  //! The same without a word on `blocks`.
  template <class Context> static status check_search(const Context& context, const args& x) {
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(x, is_host<Context>); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return 0;
    else return lay_out(base_of(context), x, nullptr).bytes;
  }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    static_assert(explain_context<Context>());
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    if (lists(x) == 0 || x.k == 0) return {};
    if constexpr (runs_here<Context>) {
      const plan p = lay_out(base_of(context), x, memory.data);
      if (const status bad = launch<kernel>(base_of(context), {.q = x.q, .kv = x.kv, .bounds = x.bounds, .heads_per_kv = x.q.heads / x.kv.heads(), .heads_per_list = heads_per_list(x),
                                                              .scores = scores_of(x, p)}); !bad) return bad;
      if (const status bad = best::run(base_of(context), choice(x, p), p.rest); !bad) return bad;
      return launch<list_kernel>(base_of(context), {.kv = x.kv, .lists = x.q.heads / heads_per_list(x), .heads_per_list = heads_per_list(x), .heads_per_kv = x.q.heads / x.kv.heads(), .blocks = x.blocks});
    } else {
      return {};
    }
  }

  struct kernel {
    using problem = page_score_problem<T, D, Page, true>;
    using arguments = typename problem::arguments;
    template <target G> using agent = page_score_agent<16, 64, G == target::host ? 0 : 128, problem>;
  };
  struct list_kernel {
    using arguments = page_list_arguments<T, Page>;
    template <target> using agent = page_list_agent<64, T, Page>;
  };

private:
  using best = prim::select_k<float>;
  static constexpr int width(const args& x) { return ceil_div(x.kv.most, x.kv.where.page); }

  static status check_args(const args& x, bool readable) {
    if (const status bad = detail::check_rows<"q", step_of<T>>(x.q, D); !bad) return bad;
    if (readable)
      if (const status bad = detail::check_offsets<"q">(x.q); !bad) return bad;
    if (const status bad = check_kv<D, D>(quest_bounds<T, D, Page>::with_keys(x.kv), readable); !bad) return bad;
    if (x.kv.sequences != x.q.sequences) return {errc::bad_shape, "kv: needs as many sequences as q", x.kv.sequences, x.q.sequences};
    if (x.q.heads > 0 && (x.kv.heads() <= 0 || x.q.heads % x.kv.heads() != 0))
      return {errc::bad_shape, "q: the query heads must be a multiple of the key heads", x.q.heads, x.kv.heads()};
    if (const status bad = detail::check_bounds(x.bounds, x.kv.k.count, x.kv.k.heads, D); !bad) return bad;
    if (x.k < 0 || x.k > prim::greatest_k) return {errc::bad_value, "k must be within [0, 4096]: it counts the pages of a list", x.k, prim::greatest_k};
    if (heads_per_list(x) > 1 && !(x.q.head_stride > 0 && x.q.row_stride > 0 && (x.q.row_stride % x.q.head_stride == 0 || x.q.head_stride % x.q.row_stride == 0)))
      return {errc::bad_shape, "q: lists shared by heads need row_stride and head_stride of which one divides the other; or share_heads = false", x.q.head_stride, x.q.row_stride};
    return {};
  }
  static status check_lists(const args& x) {
    if (lists(x) == 0 || x.k == 0) return {};
    if (x.blocks.data == nullptr) return {errc::null_pointer, "blocks is null: it needs lists() x k ints", 0, lists(x) * x.k};
    if (x.blocks.rows != lists(x)) return {errc::bad_shape, "blocks needs lists() rows", x.blocks.rows, lists(x)};
    if (x.blocks.cols != x.k) return {errc::bad_shape, "blocks needs k columns", x.blocks.cols, x.k};
    if (x.blocks.stride < x.blocks.cols) return {errc::bad_shape, "blocks: the stride must be at least its columns", x.blocks.stride, x.blocks.cols};
    return {};
  }
  struct plan {
    float* scores;
    workspace rest;
    std::size_t bytes;
  };
  static view<float> scores_of(const args& x, const plan& p) { return {p.scores, static_cast<int>(lists(x)), width(x), round_up(width(x), 4)}; }
  static typename best::args choice(const args& x, const plan& p) {
    return {.rows = reading<1>(scores_of(x, p)), .k = x.k, .indices = x.blocks, .arranged = prim::arrangement::by_index};
  }
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    plan p{};
    if (x.q.heads <= 0 || x.q.sequences <= 0 || x.kv.where.page <= 0 || x.kv.most <= 0 || x.k <= 0) return p;
    carver carve{base};
    p.scores = carve.take<float>(std::size_t(lists(x)) * round_up(width(x), 4));
    const std::size_t bytes = best::workspace_bytes(context, choice(x, p));
    p.rest = {carve.take<std::byte>(bytes), bytes};
    p.bytes = carve.used;
    return p;
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
