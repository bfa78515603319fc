// HiP's search: which blocks of keys a tile of queries attends to, in O(log keys) steps. Attention over lists of blocks
// reads them; docs/ops/attention/hip.md has the method and its limits.
#pragma once
#include <cstddef>
#include <type_traits>
#include <smalti/block/score/tree_search.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/attention/check.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/prim/select_k.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Finds, for each tile of query rows and each key head (or query head), the blocks of keys with the greatest scores, by
//! descending a tree of key ranges.
//!
//! A list holds, ascending, the sinks' blocks, shape.groups blocks that the search found among those that all rows of the
//! tile see, and the window's blocks with the tile's own; behind them -1. Row (sequence * lists + head) * tiles + tile of
//! `blocks`; a tile with at most shape.groups searched blocks gets all of them, and its attention is exact.
//! The search: groups g of the searched blocks [0, n) begin as [g n / groups, (g + 1) n / groups); in each step every group
//! of size s becomes its first s / 2 blocks and the rest, a half scores
//!     max over scored query rows and representative keys of q . k, the keys p block / representatives of its first block,
//! and the best `groups` halves stay, equal ones by the lower block, until every group is one block.
//!
//! @tparam T   bf16 or fp16, of queries and operands; @tparam D  head dim; @tparam Kv  as attention::flash takes
//! @pre   the rules of attention::flash for q and kv; blocks overlaps nothing that is read
//! @post  run to run, and batch invariant: a list depends on its tile's queries and its keys alone
//! @note  log2(searched / groups) steps; each reads 2 groups * representatives keys for every list, and is three launches. A
//!        key is found if its block's representatives, and those of the ranges around it, score like it: keys near each other
//!        are assumed to be alike. representatives = block looks at every key of a range's first block, as the paper does
//! @note  workspace: 5 * 2 groups ints for every list
//! Source: Lee et al. 2024, HiP Attention, arXiv:2406.09827.
template <class T, int D, class Kv = dense_kv<T>, int ValueDim = D>
struct hip_select {
  static_assert(explain_attention_types<T, D, ValueDim, T>());
  static constexpr determinism level = determinism::run_to_run;
  static constexpr int most_rows = 64;      //!< query rows that are scored for one list

  struct args {
    head_rows<const T> q = {};
    Kv kv = {};
    tree_shape shape = {};
    bool share_heads = true;          //!< one list for all query heads of a key head, else one for each
    int query_stride = 0;             //!< one of so many rows of a tile is scored; 0: the fewest that leave at most 64 rows
    int representatives = 2;          //!< keys of a block that stand for it, 1 to shape.block
    view<int, 1> blocks = {};         //!< lists() x shape.width()
  };

  static constexpr int heads_per_list(const args& x) { return x.share_heads && x.kv.heads() > 0 ? x.q.heads / x.kv.heads() : 1; }
  //! Rows of `blocks`.
  static constexpr long long lists(const args& x) {
    return static_cast<long long>(x.q.sequences) * (x.q.heads / heads_per_list(x)) * ceil_div(x.q.rows, x.shape.queries);
  }

  //! Everything that can be said before a launch.
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_search(context, x); }, [&] { return check_lists(x, is_host<Context>); });
  }
  //! The same without a word on `blocks`.
  template <class Context> static status check_search(const Context& context, const args& x) {
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(x, is_host<Context>); });
  }
  //! Bytes of workspace that run needs.
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return 0;
    else return lay_out(base_of(context), x, nullptr).bytes;
  }
  //! Starts the search on the context; on the host it is done on return.
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
      if (lists(x) == 0) return {};
      return scored_rows(x) <= 16 ? start<16>(base_of(context), x, memory) : start<most_rows>(base_of(context), x, memory);
    } else {
      return check(context, x);
    }
  }

  // ---- what a launch names: kernels are not for callers
  using problem = tree_step_problem<T, D, Kv>;
  template <int Rows> struct step_kernel {
    using arguments = typename problem::arguments;
    template <target G> using agent = tree_step_agent<64, Rows, G == target::host ? 0 : 128, problem>;
  };
  struct list_kernel {
    using arguments = tree_list_arguments<Kv>;
    template <target> using agent = tree_list_agent<64, Kv>;
  };

private:
  using best = prim::select_k<float>;

  static constexpr int stride_of(const args& x) {
    if (x.query_stride > 0) return x.query_stride;
    const int rows = x.q.rows < x.shape.queries ? x.q.rows : x.shape.queries;
    const int each = most_rows / heads_per_list(x);            // rows of a head that may be scored
    return each > 0 ? ceil_div(rows, each) : rows;
  }
  static constexpr int scored_rows(const args& x) {
    const int rows = x.q.rows < x.shape.queries ? x.q.rows : x.shape.queries;
    return ceil_div(rows, stride_of(x)) * heads_per_list(x);
  }
  // Steps until the largest group of the longest sequence is one block.
  static constexpr int steps_of(const args& x) {
    int size = ceil_div(ceil_div(x.kv.longest(), x.shape.block), x.shape.groups), steps = 0;
    while (size > 1) size -= size / 2, ++steps;
    return steps;
  }

  static status check_args(const args& x, bool readable) {
    if (const status bad = detail::check_rows<"q", step_of<T>>(x.q, D); !bad) return bad;
    if (readable)
      if (const status bad = detail::check_offsets<"q">(x.q); !bad) return bad;
    if (!readable && !detail::rows_in_reach(x.q))
      return {errc::out_of_reach, "q: rows of one head must end within 2^31 elements on a GPU: lay them out by heads", static_cast<long long>(x.q.rows) * x.q.row_stride, 2147483647ll};
    if (const status bad = check_kv<D, ValueDim>(x.kv, readable); !bad) return bad;
    if (kv_sequences(x.kv) != x.q.sequences) return {errc::bad_shape, "kv: needs as many sequences as q", kv_sequences(x.kv), x.q.sequences};
    if (x.q.heads > 0 && (x.kv.heads() <= 0 || x.q.heads % x.kv.heads() != 0))
      return {errc::bad_shape, "q: the query heads must be a multiple of the key heads", x.q.heads, x.kv.heads()};
    const tree_shape& s = x.shape;
    if (s.queries <= 0) return {errc::bad_value, "shape.queries must be positive: it counts the query rows that share a list", s.queries, 1};
    if (s.block <= 0) return {errc::bad_value, "shape.block must be positive: it counts the keys of a block", s.block, 1};
    if (s.groups <= 0 || s.groups > prim::greatest_k / 2) return {errc::bad_value, "shape.groups must be within [1, 2048]: it counts the blocks that are found", s.groups, prim::greatest_k / 2};
    if (s.sink < 0 || s.sink % s.block != 0) return {errc::bad_value, "shape.sink must be a multiple of shape.block that is not negative", s.sink, s.block};
    if (s.window < 0) return {errc::bad_value, "shape.window must not be negative", s.window, 0};
    if (x.query_stride < 0) return {errc::bad_value, "query_stride must not be negative; 0 chooses", x.query_stride, 0};
    if (x.representatives < 1 || x.representatives > s.block)
      return {errc::bad_value, "representatives must be within [1, shape.block]: it counts the keys that stand for a block", x.representatives, s.block};
    if (x.q.sequences == 0 || x.q.heads == 0 || x.q.rows == 0) return {};
    if (scored_rows(x) > most_rows) return {errc::bad_value, "query_stride leaves more than 64 rows for a list (rows of the tile / query_stride * heads of the list): raise it, or 0", scored_rows(x), most_rows};
    if (heads_per_list(x) > 1 && !(x.q.head_stride > 0 && x.q.row_stride > 0 && (x.q.row_stride % x.q.head_stride == 0 || x.q.head_stride % x.q.row_stride == 0)))
      return {errc::bad_shape, "q: lists shared by heads need row_stride and head_stride of which one divides the other; or share_heads = false", x.q.head_stride, x.q.row_stride};
    if (static_cast<long long>(ceil_div(x.kv.longest(), s.block)) * s.groups > 2147483647ll / 2)
      return {errc::out_of_reach, "shape: blocks of the longest sequence times groups must be below 2^30: use larger blocks", static_cast<long long>(ceil_div(x.kv.longest(), s.block)) * s.groups, 1ll << 30};
    if (lists(x) > 2147483647ll / (2 * s.groups)) return {errc::out_of_reach, "lists times groups must be below 2^30: search in parts", lists(x), 2147483647ll / (2 * s.groups)};
    return {};
  }
  static status check_lists(const args& x, bool readable) {
    const tree_shape& s = x.shape;
    if (lists(x) == 0) return {};
    if (x.blocks.data == nullptr) return {errc::null_pointer, "blocks is null: it needs lists() x shape.width() ints", 0, lists(x) * s.width()};
    if (x.blocks.rows != lists(x)) return {errc::bad_shape, "blocks needs lists() rows", x.blocks.rows, lists(x)};
    if (x.blocks.cols < s.width()) return {errc::bad_shape, "blocks needs shape.width() columns", x.blocks.cols, s.width()};
    if (x.blocks.stride < x.blocks.cols) return {errc::bad_shape, "blocks: the stride must be at least its columns", x.blocks.stride, x.blocks.cols};
    const char* first = reinterpret_cast<const char*>(x.blocks.data);
    const byte_range out{first, first + (static_cast<long long>(x.blocks.rows - 1) * x.blocks.stride + x.blocks.cols) * 4};
    if (out.meets(detail::bytes_covered(x.q, readable)) || overlaps(x.kv, out, readable)) return {errc::aliased, "blocks must not overlap q or kv"};
    return {};
  }

  struct plan {
    int *chosen, *first[2], *size[2];
    float* scores;
    workspace rest;
    std::size_t bytes;
  };
  static typename best::args choice(const args& x, const plan& p) {
    const int rows = static_cast<int>(lists(x)), halves = 2 * x.shape.groups;
    return {.rows = {p.scores, rows, halves, halves}, .k = x.shape.groups, .indices = {p.chosen, rows, x.shape.groups, x.shape.groups}, .arranged = prim::arrangement::by_index};
  }
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    plan p{};
    if (x.q.rows <= 0 || x.q.heads <= 0 || x.q.sequences <= 0 || x.shape.groups <= 0 || x.shape.queries <= 0 || x.shape.block <= 0) return p;
    carver carve{base};
    const std::size_t halves = std::size_t(lists(x)) * 2 * x.shape.groups;
    if (steps_of(x) == 0) return p;
    p.chosen = carve.take<int>(halves / 2);
    for (int i = 0; i < 2; ++i) p.first[i] = carve.take<int>(halves), p.size[i] = carve.take<int>(halves);
    p.scores = carve.take<float>(halves);
    const std::size_t bytes = best::workspace_bytes(context, choice(x, p));
    p.rest = {carve.take<std::byte>(bytes), bytes};
    p.bytes = carve.used;
    return p;
  }
  template <int Rows, class Context> static status start(const Context& context, const args& x, workspace memory) {
    const plan p = lay_out(context, x, memory.data);
    const int steps = steps_of(x), rows = static_cast<int>(lists(x)), halves = 2 * x.shape.groups;
    for (int i = 0; i < steps; ++i) {
      const int now = i % 2;
      if (const status bad = launch<step_kernel<Rows>>(context, {.q = x.q, .kv = x.kv, .shape = x.shape, .heads_per_kv = x.q.heads / x.kv.heads(), .heads_per_list = heads_per_list(x),
                                                                 .query_stride = stride_of(x), .representatives = x.representatives, .chosen = i == 0 ? nullptr : p.chosen,
                                                                 .old_first = p.first[1 - now], .old_size = p.size[1 - now], .first = p.first[now], .size = p.size[now],
                                                                 .scores = {p.scores, rows, halves, halves}}); !bad) return bad;
      if (const status bad = best::run(context, choice(x, p), p.rest); !bad) return bad;
    }
    return launch<list_kernel>(context, {.q_offsets = x.q.offsets, .q_rows = x.q.rows, .sequences = x.q.sequences, .lists = x.q.heads / heads_per_list(x), .heads_per_list = heads_per_list(x),
                                         .heads_per_kv = x.q.heads / x.kv.heads(), .kv = x.kv, .shape = x.shape, .chosen = steps > 0 ? p.chosen : nullptr,
                                         .first = p.first[(steps + 1) % 2], .out = x.blocks});
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
