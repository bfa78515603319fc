// Rows added up by the ids they carry, and products of rows with rows: what gradients of shared rows are made of. docs/ops/moe.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/moe/sum_by_id.hpp>
#include <smalti/core/check_view.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/moe.hpp>
#include <smalti/prim/sort.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::moe {

//! Not swept: shapes that compile without spills. Not yet run on a GPU.
struct default_sum_tuning {
  SMALTI_HD constexpr rows_tuning operator()(target t) const { return t == target::host ? rows_tuning{.m = 1, .n = 512} : rows_tuning{.m = 4, .n = 256}; }
};

//! y[v] = sum over entries i with id[i] = first + v, rising, of weight[i] x[i / copies]: the gradient of a row that several rows read - of an
//! embedding by tokens, of a constant expert by slots (copies: choices a token), of an adapter by segments. Rows that no id names become zeros;
//! ids outside first ... first + y.rows - 1 count for nothing.
//! @tparam X, Y  bf16, fp16 or float; sums are of floats
//! @pre   ids and weights lie where the work runs
//! @post  same bits on every run: ids are sorted, stably, and a row's entries added in their order; a row's bits do not depend on the other ids
//! @note  cost: a sort of the ids, x read once, y written once. Rows of one id are added one after another: an id that all rows carry is one
//!        block's work for each 256 columns. Error (entries + 1) 2^-24 of the magnitudes, one rounding to Y
template <class X, class Y = float> struct sum_by_id {
  static_assert(detail::row_element<X> && detail::row_element<Y>, "smalti: sum_by_id adds rows of bf16, fp16 or float");
  static constexpr determinism level = determinism::run_to_run;
  static constexpr bool batch_invariant = true;
  using sort_op = prim::sort_by_key<std::int32_t>;
  struct args {
    view<const X, step_of<X>> x = {};
    const std::int32_t* id = nullptr;        //!< [x.rows copies]
    const float* weight = nullptr;           //!< null: all 1; else an entry for each id
    view<Y, step_of<Y>> y = {};
    int copies = 1;                          //!< ids of a row of x
    int first = 0;                           //!< the id of y's first row
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_view<"x">(x.x); }, [&] { return check_view<"y">(x.y); }, [&]() -> status {
      if (x.y.cols != x.x.cols) return {errc::bad_shape, "y needs as many columns as x", x.y.cols, x.x.cols};
      if (x.copies < 1) return {errc::bad_shape, "copies must be at least 1: the ids of a row of x", x.copies, 1};
      if (x.first < 0 || x.first > 2147483647 - 64 - x.y.rows) return {errc::bad_value, "first must not be negative, nor with the rows of y come near 2^31", x.first, 2147483647 - 64 - std::int64_t(x.y.rows)};
      const std::int64_t entries = std::int64_t(x.x.rows) * x.copies;
      if (entries > 2147483647) return {errc::out_of_reach, "there must be fewer than 2^31 ids", entries, 2147483647};
      if (entries > 0 && x.id == nullptr) return {errc::null_pointer, "id is null: it needs an entry for each row of x and copy", 0, entries};
      if (bytes_of(x.y).meets(bytes_of(x.x))) return {errc::aliased, "y must not overlap x: blocks read x while others write y"};
      return {};
    });
  }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    return lay_out(context, x, nullptr).bytes;
  }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
      if (x.y.rows == 0 || x.y.cols == 0) return {};
      const plan p = lay_out(context, x, memory.data);
      return first_of([&] { return sort_op::run(context, p.sort, p.scratch); },
                      [&] { return launch<kernel>(base_of(context), {x.x, p.sort.keys_out, p.sort.values_out, x.weight, int(p.sort.count), x.copies, x.first, x.y}); });
    } else {
      return check(context, x);
    }
  }
  // ---- what a launch names: kernels are not for callers
  struct kernel {
    using arguments = sum_by_id_arguments<X, Y, step_of<X>, step_of<Y>>;
    template <target G> using agent = sum_by_id_agent<default_sum_tuning{}(G), X, Y, step_of<X>, step_of<Y>>;
  };

private:
  struct plan {
    typename sort_op::args sort;
    workspace scratch;
    std::size_t bytes;
  };
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    carver carve{base};
    plan p{};
    const std::int64_t entries = x.x.rows > 0 && x.copies > 0 ? std::int64_t(x.x.rows) * x.copies : 0;
    p.sort.keys = x.id, p.sort.count = entries;
    p.sort.keys_out = carve.take<std::int32_t>(std::size_t(entries));
    p.sort.values_out = carve.take<std::int32_t>(std::size_t(entries));
    const std::size_t bytes = sort_op::workspace_bytes(context, p.sort);
    p.scratch = {carve.take<std::byte>(bytes), bytes};
    p.bytes = carve.used;
    return p;
  }
};

//! dot[i] = <a[i / copies], b[row[i] - first]>: the gradient of a weight that multiplies a row. Numbers whose row is not one of b become 0, or
//! with `keeps` stay as they are.
//! @post  same bits on every run; a number's do not depend on the others
//! @note  error (columns + 1) 2^-24 of the magnitudes
template <class A, class B> struct row_dots {
  static_assert(detail::row_element<A> && detail::row_element<B>, "smalti: row_dots multiplies rows of bf16, fp16 or float");
  struct args {
    view<const A, step_of<A>> a = {};
    view<const B, step_of<B>> b = {};
    const std::int32_t* row = nullptr;       //!< null: number i takes row i of b; else [a.rows copies]
    float* dot = nullptr;                    //!< [a.rows copies]
    int copies = 1, first = 0;
    bool keeps = false;
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_view<"a">(x.a); }, [&] { return check_view<"b">(x.b); }, [&]() -> status {
      if (x.a.cols != x.b.cols) return {errc::bad_shape, "a and b need the same columns", x.a.cols, x.b.cols};
      if (x.copies < 1) return {errc::bad_shape, "copies must be at least 1: the numbers of a row of a", x.copies, 1};
      if (x.first < 0) return {errc::bad_value, "first must not be negative", x.first, 0};
      const std::int64_t numbers = std::int64_t(x.a.rows) * x.copies;
      if (numbers > 2147483647 - 64 - x.first) return {errc::out_of_reach, "there must be fewer than 2^31 numbers", numbers, 2147483647 - 64 - std::int64_t(x.first)};
      if (x.row == nullptr && numbers != x.b.rows) return {errc::bad_shape, "b needs a row for each number, or row must say which row of b is meant", x.b.rows, numbers};
      if (numbers > 0 && x.dot == nullptr) return {errc::null_pointer, "dot is null: it needs an entry for each row of a and copy", 0, numbers};
      if constexpr (!is_host<Context>)
        if (!in_reach(x.a) || !in_reach(x.b)) return {errc::out_of_reach, "a and b must have fewer than 2^31 elements where a GPU gathers their rows", static_cast<long long>(x.a.rows) * x.a.stride, 2147483647ll};
      return {};
    });
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) { return 0; }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = check(context, x); !bad) return bad;
      const int numbers = x.a.rows * x.copies;
      if (numbers == 0 || (x.b.rows == 0 && x.keeps)) return {};
      if (x.b.rows == 0) return clear(base_of(context), x.dot, std::size_t(numbers) * sizeof(float));
      return launch<kernel>(base_of(context), {x.a, x.b, x.row, {x.dot, numbers, 1, 1}, x.copies, x.first, x.keeps ? 1 : 0});
    } else {
      return check(context, x);
    }
  }
  // ---- what a launch names: kernels are not for callers
  struct kernel {
    using arguments = row_dots_arguments<A, B, step_of<A>, step_of<B>>;
    template <target G> using agent = row_dots_agent<default_rows_tuning{}(G), A, B, step_of<A>, step_of<B>>;
  };
};

}  // namespace smalti::inline SMALTI_CODE::moe
