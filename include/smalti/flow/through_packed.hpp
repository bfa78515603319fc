// Gradients through packed weights: dx = dy W for weights that are packed for y = x W'. Below: one weight or one for each group of rows.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/lora/count.hpp>
#include <smalti/block/lora/identity.hpp>
#include <smalti/core/segments.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/flow/in_steps.hpp>
#include <smalti/ops/gemm/grouped.hpp>
#include <smalti/ops/gemm/quantized.hpp>

namespace smalti::inline SMALTI_CODE::flow {

//! dx[r] = dy[r] W_e (Adds: +=) for the rows r of group e. Parts of all W_e' are made by multiplying rows of the identity, which decodes exactly, and
//! then multiplied with dy: nothing else needs to know a format.
//!
//! @tparam Format  as in gemm::weight_only; X  bf16 or fp16, which decoded weights are rounded to
//! @pre   H is a whole multiple of 16 bytes; the weights have no order of columns; rows as gemm::grouped says
//! @post  same bits on every run; weights and scales are not differentiated
//! @note  cost: 2 N H (rows + groups H) operations: the decoding of W is H rows' worth. A weight packed a second time as H x N and multiplied
//!        forward spares that at the price of its memory. Workspace: about 4,096 (H + N) elements of X, more from 256 groups up
//! @note  error: (N + 4) 2^-24 of the sum of magnitudes, and one rounding to X of each weight
template <class Format, class X, class DX, bool Adds = false> struct through_packed : in_steps<through_packed<Format, X, DX, Adds>> {
  struct gathering : gemm::linear_options { static constexpr bool gathers = true; };
  struct adding : gemm::grouped_options { static constexpr bool adds = Adds; };
  using decode_op = gemm::grouped_weight_only<Format, policy::chain<>, X, X, gathering>;
  using product_op = gemm::grouped<X, X, DX, policy::chain<>, adding>;
  struct args {
    view<const X> dy = {};                                     //!< rows x N
    typename decode_op::weight_type w = {};                    //!< N x H for each group
    segments<std::int32_t> rows = {};
    const std::int32_t* end = nullptr;                         //!< as gemm::grouped's
    view<DX> dx = {};                                          //!< rows x H
  };
  //! Columns of W that are decoded at a time.
  static constexpr int part_of(int groups) {
    int part = 256;
    while (part > 16 && part * groups > 4096) part /= 2;
    return part;
  }
  template <class Context> static status refuse(const Context&, const args& x) {
    if (x.w.order != nullptr) return {errc::bad_value, "w: a weight packed with an order of columns has no gradient here: pack it without one"};
    if (x.w.k != x.dx.cols || x.w.n != x.dy.cols) return {errc::bad_shape, "w needs a row for each column of dy and a column for each column of dx", x.w.k, x.dx.cols};
    if (x.w.experts < x.rows.count) return {errc::bad_shape, "w needs a weight for each group of rows", x.w.experts, x.rows.count};
    if (x.dx.rows != x.dy.rows) return {errc::bad_shape, "dx needs as many rows as dy", x.dx.rows, x.dy.rows};
    return gemm::detail::check_weight(x.w, x.w.k, x.w.n);
  }
  static bool idle(const args& x) { return x.rows.count == 0 || x.dy.rows == 0 || x.dx.cols == 0; }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    const int wide = x.dx.cols, high = x.dy.cols, groups = x.rows.count, part = part_of(groups), apart = wide + part;
    // Rows of the identity wherever one is wanted: ones in a band of zeros, which views begin in before or behind.
    const std::size_t elements = std::size_t(wide) + std::size_t(part) * std::size_t(apart), all = std::size_t(part) * std::size_t(groups);
    X* const band = carve.place<X>(elements);
    X* const turned = carve.place<X>(all * std::size_t(high));
    std::int32_t* const offsets = carve.place<std::int32_t>(std::size_t(groups) + 1);      // of the rows of the identity, as many for each group
    std::int32_t* const source = carve.place<std::int32_t>(all);
    if (groups == 0 || wide == 0) return {};
    using diagonal = started<lora::identity_kernel<X>>;
    using counted = started<lora::count_kernel<std::int32_t>>;
    if (const status bad = first_of([&] { return step(cleared{}, cleared::args{band, elements * sizeof(X)}); }, [&] { return step(diagonal{}, typename diagonal::args{{{band + wide, part, part, apart}}}); },
                                    [&] { return step(counted{}, counted::args{{{offsets, 1, groups + 1, groups + 1}, -1, part}}); }, [&] { return step(counted{}, counted::args{{{source, 1, int(all), int(all)}, part - 1, 1}}); });
        !bad)
      return bad;
    for (int k = 0; k < wide; k += part) {
      [[maybe_unused]] const int some = wide - k < part ? wide - k : part;      // nvcc does not see its use
      typename decode_op::args d{};
      d.x = {band + (wide - k), part, wide, apart}, d.w = x.w, d.y = {turned, int(all), high, high}, d.rows = {offsets, groups}, d.source = {source, int(all), 1, 1};
      typename product_op::args p{};
      p.a = x.dy, p.b = {turned, groups, some, high, static_cast<long long>(part) * high, high}, p.c = {x.dx.data + k, x.dx.rows, some, x.dx.stride}, p.rows = x.rows, p.end = x.end;
      if (const status bad = first_of([&] { return step(later<decode_op>{}, d); }, [&] { return step(product_op{}, p); }); !bad) return bad;
    }
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::flow
