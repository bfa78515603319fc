// Gradients of a layer whose up projection is a row of an embedding. docs/ops/moe.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/lora/count.hpp>
#include <smalti/flow/in_steps.hpp>
#include <smalti/flow/moe.hpp>
#include <smalti/ops/gemm.hpp>
#include <smalti/ops/moe/sum_by_id.hpp>
#include <smalti/prim/permute.hpp>

namespace smalti::inline SMALTI_CODE::moe {

namespace detail {
struct by_depth : gemm::options {
  static constexpr gemm::a_order a = gemm::a_order::k_by_m;
  static constexpr gemm::b_order b = gemm::b_order::k_by_n;
};
struct through_columns : gemm::options { static constexpr gemm::b_order b = gemm::b_order::k_by_n; };
}  // namespace detail

//! Gradients of stem, z = gate x, u = table[id], h = f(z) u, y = down h. z and h are computed again: nothing of the forward pass is kept.
//!     dh = dy down,  d_z = dh u f'(z),  d_u = dh f(z)
//!     d_down = dy' h,  d_gate = d_z' x,  dx = d_z gate,  d_table[v] = sum of d_u over the tokens of id v, in their order
//! d_table is written whole, zeros where no token of the batch reads. A gradient whose matrix is null is not made.
//! @tparam X  of x, gate and down; T of the table; DX, DW of the gradients
//! @pre   ids are rows of the table: checked on the host
//! @post  same bits on every run; a row of d_table does not depend on tokens of other ids
//! @note  cost: 10 tokens H I operations, two of them for what is computed again; vocabulary x I written. Workspace: four tokens x I in floats
//!        and X
//! @note  error: h, d_z and d_u are rounded to X once; d_table adds (tokens of an id + 1) 2^-24 of the magnitudes
template <class X, class Activation = policy::silu, class DX = X, class DW = float, class T = X> struct stem_backward : flow::in_steps<stem_backward<X, Activation, DX, DW, T>> {
  using gate_op = gemm::dense<X, X, float>;
  using rows_op = prim::permute<T>;
  using through_op = gemm::dense<X, X, float, policy::chain<>, detail::through_columns>;
  using gradient_op = gated_gradient<X, float, Activation, row_options, float, T>;
  using weight_op = gemm::dense<X, X, DW, policy::chain<>, detail::by_depth>;
  using input_op = gemm::dense<X, X, DX, policy::chain<>, detail::through_columns>;
  using table_op = sum_by_id<X, DW>;
  struct args {
    view<const X> x = {}, dy = {};        //!< tokens x H
    const int* id = nullptr;              //!< [tokens]
    view<const X> gate = {}, down = {};   //!< I x H, H x I
    view<const T, 1> table = {};          //!< vocabulary x I
    view<DX> dx = {};                     //!< tokens x H
    view<DW> d_gate = {}, d_down = {};    //!< as gate and down, or null
    view<DW> d_table = {};                //!< as table, or null
    Activation activation = {};
  };
  template <class Context> static status refuse(const Context&, const args& x) {
    if (x.x.rows > 0 && x.id == nullptr) return {errc::null_pointer, "id is null: it needs an entry for each token", 0, x.x.rows};
    if (x.dy.rows != x.x.rows || x.dy.cols != x.x.cols) return {errc::bad_shape, "dy needs the extents of x", x.dy.rows, x.x.rows};
    if (x.table.cols != x.gate.rows) return {errc::bad_shape, "table needs a column for each row of gate", x.table.cols, x.gate.rows};
    if (x.gate.rows % step_of<T> != 0) return {errc::misaligned, "gate: its rows (I) must be whole multiples of 16 bytes of the table's type: pad with zero rows", x.gate.rows, round_up(x.gate.rows, step_of<T>)};
    if (x.d_table.data != nullptr && (x.d_table.rows != x.table.rows || x.d_table.cols != x.table.cols)) return {errc::bad_shape, "d_table needs the extents of table", x.d_table.rows, x.table.rows};
    if constexpr (is_host<Context>)
      for (int t = 0; t < x.x.rows; ++t)
        if (x.id[t] < 0 || x.id[t] >= x.table.rows) return {errc::bad_value, "id: a token that the table has no row for", x.id[t], x.table.rows};
    const byte_range outs[] = {bytes_of(x.dx), bytes_of(x.d_gate), bytes_of(x.d_down), bytes_of(x.d_table)};
    const byte_range ins[] = {bytes_of(x.x), bytes_of(x.dy), bytes_of(x.gate), bytes_of(x.down), bytes_of(x.table)};
    for (int i = 0; i < 4; ++i) {
      for (const byte_range& in : ins)
        if (outs[i].meets(in)) return {errc::aliased, "gradients must not overlap x, dy, gate, down or table: those are read to the end"};
      for (int k = 0; k < i; ++k)
        if (outs[i].meets(outs[k])) return {errc::aliased, "dx, d_gate, d_down and d_table must not overlap each other"};
    }
    return {};
  }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    const int tokens = x.x.rows, inner = x.gate.rows;
    const view<float> z = detail::carved<float>(carve, tokens, inner), dh = detail::carved<float>(carve, tokens, inner);
    const view<T> u = detail::carved<T>(carve, tokens, inner);
    const view<X> hidden = detail::carved<X>(carve, tokens, inner), d_z = detail::carved<X>(carve, tokens, inner), d_u = detail::carved<X>(carve, tokens, inner);
    float* const unused = carve.place<float>(std::size_t(tokens));      // tokens have no weights here
    std::int32_t* const each = carve.place<std::int32_t>(std::size_t(tokens));
    std::int32_t* const bounds = carve.place<std::int32_t>(2);
    using counted = flow::started<lora::count_kernel<std::int32_t>>;
    const policy::route_index own{.rows = {bounds, 1}, .end = bounds + 1, .token_of_row = each, .slot_of_row = each, .row_of_slot = each, .tokens = tokens, .choices = 1, .row_limit = tokens};
    const auto product = [&](const auto& op, const auto& a, const auto& b, const auto& c) {
      typename std::remove_cvref_t<decltype(op)>::args p{};
      p.a = a, p.b = b, p.c = c;
      return step(op, p);
    };
    const auto weight = [&](const view<const X>& a, const view<const X>& b, const view<DW>& c) { return c.data != nullptr ? product(weight_op{}, a, b, c) : status{}; };
    return first_of([&] { return product(gate_op{}, x.x, x.gate, z); }, [&] { return step(rows_op{}, typename rows_op::args{.from = x.table, .to = {u.data, tokens, inner, inner}, .index = x.id}); },
                    [&] { return product(through_op{}, x.dy, x.down, dh); }, [&] { return tokens > 0 ? step(counted{}, typename counted::args{{{each, 1, tokens, tokens}}}) : status{}; },
                    [&] { return step(counted{}, typename counted::args{{{bounds, 1, 2, 2}, -1, tokens}}); },
                    [&] {
                      return step(flow::later<gradient_op>{}, typename gradient_op::args{.gate = reading(z), .up = reading(u), .dh = reading(dh), .index = own, .d_gate = d_z, .d_up = d_u, .hidden = hidden, .d_weight = unused, .activation = x.activation});
                    },
                    [&] { return weight(x.dy, reading(hidden), x.d_down); }, [&] { return weight(reading(d_z), x.x, x.d_gate); }, [&] { return product(input_op{}, reading(d_z), x.gate, x.dx); },
                    [&] { return x.d_table.data != nullptr ? step(table_op{}, typename table_op::args{.x = reading(d_u), .id = x.id, .y = x.d_table}) : status{}; });
  }
};

}  // namespace smalti::inline SMALTI_CODE::moe
