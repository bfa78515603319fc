// MiKV's channel balancer, from the queries and keys of a prompt. docs/ops/cache/mikv.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/cache/balance.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/cache/check.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! most[c] = max(most[c], max over rows i of |x[i][c]|): how far each channel of queries or keys reaches. With `anew` what most holds does not count.
//!
//! @tparam T  bf16, fp16 or float
//! @post  gpu_to_gpu: a maximum of magnitudes is exact, in any order. Of a channel with a NaN nothing is promised but a float
//! @note  one read of x; workspace: a row of floats for each 1,024 rows, where there are more
template <class T> struct channel_reach {
  static constexpr determinism level = determinism::gpu_to_gpu;
  struct args {
    view<const T> x{};                         //!< [token][head * D + c]
    float* most = nullptr;                     //!< [x.cols]
    bool anew = false;
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(x); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args& x) {
    static_assert(explain_context<Context>());
    return lay_out(x, nullptr).bytes;
  }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    if constexpr (runs_here<Context>) {
      if (x.x.cols == 0 || (x.x.rows == 0 && !x.anew)) return {};
      const auto base = base_of(context);
      const plan p = lay_out(x, memory.data);
      const view<float, 1> most{x.most, 1, x.x.cols, x.x.cols};
      const view<const float, 1> before = x.anew ? view<const float, 1>{x.most, 0, x.x.cols, x.x.cols} : reading(most);
      if (p.parts.rows == 0) return launch<kernel<T>>(base, {x.x, part_tiles, before, most});
      const view<const float, 1> none{p.parts.data, 0, x.x.cols, x.x.cols};
      return first_of([&] { return launch<kernel<T>>(base, {x.x, part_tiles, none, {p.parts.data, p.parts.rows, p.parts.cols, p.parts.stride}}); },
                      [&] { return launch<kernel<float>>(base, {reading(p.parts), ceil_div(p.parts.rows, tile_rows), before, most}); });
    } else {
      return {};
    }
  }

  // ---- what a launch names
  template <class From> struct kernel {
    using arguments = channel_reach_arguments<From>;
    template <target> using agent = channel_reach_agent<16, 64, From>;
  };

private:
  static constexpr int tile_rows = 16, part_tiles = 64;
  struct plan {
    view<float> parts;
    std::size_t bytes;
  };
  static plan lay_out(const args& x, std::byte* base) {
    carver carve{base};
    plan p{};
    const int parts = x.x.rows > 0 && x.x.cols > 0 ? ceil_div(x.x.rows, tile_rows * part_tiles) : 0;
    if (parts > 1) p.parts = {carve.take<float>(std::size_t(parts) * std::size_t(x.x.cols)), parts, x.x.cols, x.x.cols};
    p.bytes = carve.used;
    return p;
  }
  static status check_args(const args& x) {
    if (x.x.rows < 0 || x.x.cols < 0) return {errc::bad_shape, "x must not have a negative extent", x.x.rows < 0 ? x.x.rows : x.x.cols, 0};
    if (x.x.cols == 0 || (x.x.rows == 0 && !x.anew)) return {};
    if (x.most == nullptr) return {errc::null_pointer, "most is null: it needs a float for each column of x", 0, x.x.cols};
    if (x.x.rows == 0) return {};
    if (x.x.data == nullptr) return {errc::null_pointer, "x is null: it holds the queries or keys of a prompt", 0, x.x.rows};
    if (x.x.cols % step_of<T> != 0) return {errc::misaligned, "x: its columns must be a multiple of 16 bytes", x.x.cols, step_of<T>};
    if (x.x.stride < x.x.cols || x.x.stride % step_of<T> != 0) return {errc::misaligned, "x: the stride must be at least the columns and a multiple of 16 bytes", x.x.stride, x.x.cols};
    if (reinterpret_cast<std::uintptr_t>(x.x.data) % 16 != 0) return {errc::misaligned, "x must begin on a multiple of 16 bytes", std::int64_t(reinterpret_cast<std::uintptr_t>(x.x.data) % 16), 0};
    if (static_cast<long long>(x.x.rows) * x.x.stride > 2147483647ll) return {errc::out_of_reach, "x: rows * stride must be below 2^31: hand it over in parts", static_cast<long long>(x.x.rows) * x.x.stride, 2147483647ll};
    if (detail::meet(detail::view_range(x.x), detail::view_range(view<float, 1>{x.most, 1, x.x.cols, x.x.cols}))) return {errc::aliased, "most must not overlap x"};
    return {};
  }
};

//! balance[l][kv_head][c] = policy::channel_balance(max of query_reach over the heads that read kv_head, key_reach), factor[l][head][c] = 1 / balance of its
//! key head: keys are multiplied by the one before they lose bits, queries by the other before they meet them. What policy::fill_channel_balance
//! computes on the host, without a copy of the reaches.
//!
//! @post  run_to_run; a root and a quotient may differ in the last bit between machines
//! @note  reads the queries' reaches once for each head of a group; no workspace. Source: Yang et al. 2024, arXiv:2402.18096
struct channel_balance {
  static constexpr determinism level = determinism::run_to_run;
  struct args {
    const float *query_reach = nullptr, *key_reach = nullptr;      //!< [layer][head][dim], [layer][kv_head][dim]: of channel_reach
    int layers = 1, heads = 0, kv_heads = 0, dim = 0;
    float *balance = nullptr, *factor = nullptr;                   //!< [layer][kv_head][dim], [layer][head][dim]
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(x); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) {
    static_assert(explain_context<Context>());
    return 0;
  }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    if (const status bad = check(context, x); !bad) return bad;
    if constexpr (runs_here<Context>) {
      const int queries = x.layers * x.heads, keys = x.layers * x.kv_heads;
      if (keys == 0 || x.dim == 0) return {};
      return launch<kernel>(base_of(context), {{x.query_reach, queries, x.dim, x.dim}, {x.key_reach, keys, x.dim, x.dim}, x.heads / x.kv_heads, {x.balance, keys, x.dim, x.dim}, {x.factor, queries, x.dim, x.dim}});
    } else {
      return {};
    }
  }

  struct kernel {
    using arguments = channel_balance_arguments;
    template <target> using agent = channel_balance_agent<64>;
  };

private:
  static status check_args(const args& x) {
    if (x.layers < 0 || x.heads < 0 || x.kv_heads < 0 || x.dim < 0) return {errc::bad_shape, "layers, heads, kv_heads and dim must not be negative"};
    if (x.layers == 0 || x.dim == 0) return {};
    if (x.kv_heads < 1 || x.heads < x.kv_heads || x.heads % x.kv_heads != 0) return {errc::bad_shape, "heads must be a multiple of kv_heads", x.heads, x.kv_heads};
    if (const long long all = static_cast<long long>(x.layers) * x.heads * x.dim; all > 2147483647ll) return {errc::out_of_reach, "layers * heads * dim must be below 2^31", all, 2147483647ll};
    if (x.query_reach == nullptr || x.key_reach == nullptr) return {errc::null_pointer, "query_reach and key_reach must not be null: channel_reach makes them"};
    if (x.balance == nullptr || x.factor == nullptr) return {errc::null_pointer, "balance and factor must not be null: a float for each channel of each key head, and of each query head"};
    const auto floats = [&](const float* p, int heads) { return detail::view_range(view<const float, 1>{p, x.layers * heads, x.dim, x.dim}); };
    const auto in = {floats(x.query_reach, x.heads), floats(x.key_reach, x.kv_heads)}, out = {floats(x.balance, x.kv_heads), floats(x.factor, x.heads)};
    for (const detail::range& a : in)
      for (const detail::range& b : out)
        if (detail::meet(a, b)) return {errc::aliased, "balance and factor must not overlap query_reach and key_reach"};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
