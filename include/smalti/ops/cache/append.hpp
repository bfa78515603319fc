// New keys and values go into their pages.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/cache/append.hpp>
#include <smalti/block/cache/append_quantized.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/ops/cache/check.hpp>
#include <smalti/ops/cache/pool.hpp>
#include <smalti/ops/cache/source.hpp>
#include <smalti/ops/cache/tuning.hpp>
#include <smalti/policy/kv_integer.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::cache {

namespace detail {
// Elements of a pool's rows; words, where they are codes.
template <class Storage> struct pool_element { using type = int; };
template <class Storage>
requires requires { typename Storage::element; }
struct pool_element<Storage> { using type = typename Storage::element; };
}  // namespace detail

//! pool[slot[head, token]][head] = round(x[token, head * d ...] / scale), for keys and values of one layer; or, to a storage of
//! integers, the codes and scales of policy/kv_integer.hpp.
//!
//! @tparam From    bf16, fp16 or float: element of the new rows
//! @tparam Storage policy::kv_plain<T>, or policy::kv_integer (kv_int8, kv_int4, ...), which finds its scales here
//! @tparam Layout  policy::nhd or policy::hnd
//! @tparam D       integers only: the pool's key_dim; ValueDim its value_dim. Balanced: keys are multiplied by args.balance first
//! @pre   slots that are stored to are all different; a negative one stores nothing. They come from paged::append. On a GPU
//!        check() cannot read them: one past the pool stores nothing. x overlaps nothing of the pool.
//! @post  gpu_to_gpu: one rounding to nearest even, exact where T holds From; fp8 saturates. T of 8 bits is multiplied by the
//!        float nearest to 1 / scale before it is rounded. Integers: scales are rounded to their type, then codes are the nearest
//!        under the scales as stored, ties to even
//! @note  integers with scales for groups of tokens are stored in whole groups: a multiple of the group of tokens, whose slots
//!        follow one another from a multiple of the group on, so that a group never waits for its rest
//! @note  one read of x, one write of the same rows; no workspace
template <class From, class Storage, class Layout = policy::nhd, int D = 0, int ValueDim = D, bool Balanced = false>
struct append {
  static_assert(policy::explain_kv_storage<Storage>());
  static_assert(policy::explain_kv_layout<Layout>());
  static_assert(std::is_same_v<From, bf16> || std::is_same_v<From, fp16> || std::is_same_v<From, float>, "smalti: append takes rows of bf16, fp16 or float: convert them");
  static constexpr bool quantized = policy::is_kv_integer<Storage>;
  static_assert(quantized || requires { typename Storage::element; }, "smalti: append stores floats as they are, policy::kv_plain<T>, or integers, policy::kv_integer: a storage of your own is written by its codec");
  static_assert(quantized || !Balanced, "smalti: only integers are balanced: multiply the keys of a plain storage before append");
  static_assert(!quantized || D > 0, "smalti: append to a storage of integers needs the head dims in its type: append<From, Storage, Layout, D>");
  using element = typename detail::pool_element<Storage>::type;
  static constexpr determinism level = determinism::gpu_to_gpu;

  struct args {
    page_pool pool;
    int layer = 0;                         //!< of the pool's layers in a page
    view<const From> k, v;                 //!< [token][kv_head * d]; v empty where value_dim is 0
    const int* slots = nullptr;            //!< page * tokens of a page + slot, an entry for each token (and head)
    long long slot_head_stride = 0;        //!< slots from one head to the next; 0 = shared, as where heads share their pages
    float key_scale = 1, value_scale = 1;  //!< of 8-bit elements; 1 for others
    const int* rows = nullptr;             //!< the row of k and v that each token is, `tokens` entries: tokens are gathered; null: all rows in order
    int tokens = 0;                        //!< with rows
    long long rows_head_stride = 0;        //!< rows from one head to the next: k and v are then [row][d], rows of any head, as of a pool with pages for each head; 0 = shared
    // ---- integers only
    bool keys = true, values = true;       //!< false: that part of the pool stays as it is
    const float* balance = nullptr;        //!< Balanced: [kv_head][D]
  };

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(x); }, [&] { return is_host<Context> ? check_slots(x) : status{}; });
  }

  //! None is needed.
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) {
    static_assert(explain_context<Context>());
    return 0;
  }

  //! Stores; on a GPU it only launches on the context's stream.
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    if (const status bad = check(context, x); !bad) return bad;
    if constexpr (runs_here<Context>) {
      if (tokens_of(x) == 0) return {};
      if constexpr (quantized) return run_quantized(base_of(context), x, typename selector_of<Context, default_quantized_append_tuning>::type{});
      else return x.rows != nullptr ? run_plain<true>(context, x) : run_plain<false>(context, x);
    } else {
      return {};
    }
  }

  // ---- what a launch names
  template <class Selector, bool Gathered = false> struct kernel {
    static_assert(explain_tuning<Selector, append_tuning>());
    using problem = append_problem<From, element, Layout, Gathered>;
    using arguments = typename problem::arguments;
    template <target T> using agent = append_agent<Selector{}(T), problem>;
  };
  using quantized_problem = quantized_append_problem<From, Storage, D, ValueDim, Layout, Balanced>;
  template <class Selector, policy::kv_part Part> struct scales_kernel {
    static_assert(explain_tuning<Selector, quantized_append_tuning>());
    using arguments = typename quantized_problem::arguments;
    template <target T> using agent = append_scales_agent<Selector{}(T), quantized_problem, Part>;
  };
  template <class Selector> struct codes_kernel {
    using arguments = typename quantized_problem::arguments;
    template <target T> using agent = append_codes_agent<Selector{}(T), quantized_problem>;
  };

private:
  static int tokens_of(const args& x) { return x.rows != nullptr ? x.tokens : x.k.rows; }
  // Tokens that are stored together.
  static int groups_in(const args& x) {
    int most = 1;
    if constexpr (quantized) {
      if (x.keys && Storage::format.key_axis == policy::kv_axis::tokens) most = Storage::format.key_group;
      if (ValueDim > 0 && x.values && Storage::format.value_axis == policy::kv_axis::tokens && Storage::format.value_group > most) most = Storage::format.value_group;
    }
    return most;
  }
  template <bool Gathered, class Context> static status run_plain(const Context& context, const args& x) {
    const pool_shape& s = x.pool.shape;
    const view<element> keys = pool_rows<element>(x.pool, plane::keys, x.layer);
    const view<element> values = s.value_dim > 0 ? pool_rows<element>(x.pool, plane::values, x.layer) : view<element>{nullptr, 0, 0, 0};
    const bool apart = x.rows_head_stride > 0;             // rows of any head: those of a list say whose they are
    return launch<kernel<typename selector_of<Context, default_append_tuning>::type, Gathered>>(
        base_of(context), {.k = {x.k.data, s.kv_heads, x.k.rows, s.key_dim, apart ? 0 : s.key_dim, x.k.stride},
                           .v = {x.v.data, s.kv_heads, x.v.rows, s.value_dim, apart ? 0 : s.value_dim, x.v.stride},
                           .keys = keys,
                           .values = values,
                           .slots = x.slots,
                           .slot_head_stride = x.slot_head_stride,
                           .pool_slots = s.pages * s.page,
                           .page = s.page,
                           .heads_in_page = s.heads_in_page(),
                           .key_factor = 1 / x.key_scale,
                           .value_factor = 1 / x.value_scale,
                           .layout = {},
                           .from = x.rows,
                           .from_head_stride = x.rows_head_stride,
                           .tokens = x.tokens});
  }
  template <class Context, class Selector> static status run_quantized(const Context& context, const args& x, Selector) {
    const pool_shape& s = x.pool.shape;
    typename quantized_problem::arguments all{
        .k = {{x.k.data, s.kv_heads, x.k.rows, D, x.rows_head_stride > 0 ? 0 : D, x.k.stride}, pool_codes<Storage, policy::kv_part::key, D>(x.pool, x.layer), pool_scales<Storage, policy::kv_part::key, D>(x.pool, x.layer)},
        .v = {},
        .where = {x.slots, x.slot_head_stride, tokens_of(x), s.pages * s.page, s.page, s.heads_in_page(), {}},
        .from = {x.rows, x.rows_head_stride, tokens_of(x)},
        .balance = x.balance};
    if constexpr (ValueDim > 0)
      all.v = {{x.v.data, s.kv_heads, x.v.rows, ValueDim, x.rows_head_stride > 0 ? 0 : ValueDim, x.v.stride}, pool_codes<Storage, policy::kv_part::value, ValueDim>(x.pool, x.layer), pool_scales<Storage, policy::kv_part::value, ValueDim>(x.pool, x.layer)};
    if (x.keys)
      if (const status bad = launch<scales_kernel<Selector, policy::kv_part::key>>(context, all); !bad) return bad;
    if constexpr (ValueDim > 0)
      if (x.values)
        if (const status bad = launch<scales_kernel<Selector, policy::kv_part::value>>(context, all); !bad) return bad;
    if (!x.keys) all.k.codes.cols = 0;
    if (!x.values) all.v.codes.cols = 0;
    return launch<codes_kernel<Selector>>(context, all);
  }

  static status check_args(const args& x) {
    const pool_shape& s = x.pool.shape;
    if (!(x.pool.format == Storage::format)) return {errc::bad_value, "pool: it holds another storage than this append writes: codecs are not mixed in one pool", int(x.pool.format.code), int(Storage::format.code)};
    if (x.pool.order != Layout::order) return {errc::bad_value, "pool: it has another layout than this append writes (nhd 0, hnd 1)", int(x.pool.order), int(Layout::order)};
    if (const status bad = detail::check_pool(x.pool, {"pool: its keys or values have no memory: use make_pool", "pool: its keys and values must begin on multiples of 16 bytes"}); !bad) return bad;
    if constexpr (quantized) {
      if (s.key_dim != D || s.value_dim != ValueDim) return {errc::bad_shape, "pool: its key_dim and value_dim must be those in the type of append", s.key_dim != D ? s.key_dim : s.value_dim, s.key_dim != D ? D : ValueDim};
      if (x.key_scale != 1 || x.value_scale != 1) return {errc::bad_value, "key_scale and value_scale must be 1: a storage of integers finds its scales itself", 0, 1};
      if (Balanced && x.balance == nullptr) return {errc::null_pointer, "balance is null: it needs a factor for each channel of each key head", 0, static_cast<long long>(s.kv_heads) * D};
      if (!Balanced && x.balance != nullptr) return {errc::bad_value, "balance: say so in the type: append<From, Storage, Layout, D, ValueDim, true>", 0, 0};
      if (tokens_of(x) % groups_in(x) != 0) return {errc::bad_shape, "k: tokens that share scales are stored in whole groups: keep the rest in a residual window until it is full", tokens_of(x), groups_in(x)};
    } else if (!x.keys || !x.values || x.balance != nullptr) {
      return {errc::bad_value, "keys, values and balance are for storages of integers: leave them", 0, 0};
    }
    if (x.rows_head_stride < 0 || (x.rows_head_stride > 0 && (x.rows == nullptr || x.rows_head_stride < x.tokens))) return {errc::bad_shape, "rows_head_stride must be 0, or at least the tokens of rows", x.rows_head_stride, x.tokens};
    if (x.rows == nullptr ? x.tokens != 0 : x.tokens < 0) return {errc::bad_shape, "tokens counts the entries of rows: 0 without them", x.tokens, 0};
    if (x.layer < 0 || x.layer >= s.layers_in_page()) return {errc::bad_value, "layer must be one of the layers that a page holds", x.layer, s.layers_in_page()};
    if (const status bad = check_rows(x.k, (x.rows_head_stride > 0 ? 1 : s.kv_heads) * static_cast<long long>(s.key_dim), s.key_dim, {"k has tokens but no memory: its pointer is null", "k must not have a negative extent",
          "k must have kv_heads * key_dim columns", "the rows of k must not overlap: the stride is less than the number of columns",
          "k must begin on a multiple of 16 bytes, and its stride and key_dim be multiples of 16 bytes"}); !bad)
      return bad;
    if (s.value_dim > 0) {
      if (x.v.rows != x.k.rows) return {errc::bad_shape, "v must have as many tokens as k", x.v.rows, x.k.rows};
      if (const status bad = check_rows(x.v, (x.rows_head_stride > 0 ? 1 : s.kv_heads) * static_cast<long long>(s.value_dim), s.value_dim, {"v has tokens but no memory: its pointer is null", "v must not have a negative extent",
            "v must have kv_heads * value_dim columns", "the rows of v must not overlap: the stride is less than the number of columns",
            "v must begin on a multiple of 16 bytes, and its stride and value_dim be multiples of 16 bytes"}); !bad)
        return bad;
    } else if (x.v.rows != 0 && x.v.cols != 0) {
      return {errc::bad_shape, "v must be empty: the pool has no values (value_dim 0)", x.v.cols, 0};
    }
    const int tokens = tokens_of(x);
    if (tokens > 0 && x.slots == nullptr) return {errc::null_pointer, "slots is null: it needs an entry for each token", 0, tokens};
    if (tokens > 0 && x.k.rows == 0) return {errc::bad_shape, "k: rows names rows, but there are none", 0, 1};
    if (s.per_head && s.kv_heads > 1 && x.slot_head_stride < tokens) return {errc::bad_shape, "slot_head_stride must be at least the number of tokens: each head has pages of its own", x.slot_head_stride, tokens};
    if (!s.per_head && x.slot_head_stride != 0) return {errc::bad_shape, "slot_head_stride must be 0: heads share their pages", x.slot_head_stride, 0};
    for (const float scale : {x.key_scale, x.value_scale}) {
      if (!(scale > 0) || !(1 / scale > 0) || 1 / scale - 1 / scale != 0) return {errc::bad_value, "key_scale and value_scale must be positive, finite, and so must 1 / scale", 0, 0};
      if (sizeof(element) != 1 && scale != 1) return {errc::bad_value, "key_scale and value_scale must be 1: only elements of 8 bits are scaled", 0, 1};
    }
    if (tokens == 0) return {};
    for (const plane p : {plane::keys, plane::values, plane::key_scales, plane::value_scales})
      for (const detail::range r : {detail::view_range(x.k), detail::view_range(x.v), detail::list_range(x.slots, tokens + x.slot_head_stride * (s.kv_heads - 1))})
        if (x.pool.planes[int(p)] != nullptr && detail::meet(detail::plane_range(x.pool, p), r)) return {errc::aliased, "the pool must not overlap k, v or slots"};
    return {};
  }
  struct row_words { const char* null; const char* extent; const char* width; const char* stride; const char* aligned; };
  static status check_rows(const view<const From>& v, long long width, int dim, const row_words& say) {
    if (v.rows < 0 || v.cols < 0) return {errc::bad_shape, say.extent, v.rows < 0 ? v.rows : v.cols, 0};
    if (v.cols != width) return {errc::bad_shape, say.width, v.cols, width};
    if (v.rows > 1 && v.stride < v.cols) return {errc::bad_shape, say.stride, v.stride, v.cols};
    if (v.rows > 0 && v.data == nullptr) return {errc::null_pointer, say.null, 0, v.rows};
    const long long stored = quantized ? 16 : dim * static_cast<long long>(sizeof(element));        // rows of words are whole in their type
    for (const long long bytes : {static_cast<long long>(reinterpret_cast<std::uintptr_t>(v.data) % 16), v.stride * static_cast<long long>(sizeof(From)), dim * static_cast<long long>(sizeof(From)), stored})
      if (bytes % 16 != 0) return {errc::misaligned, say.aligned, bytes, 16};
    return {};
  }
  // On the host the slots can be read: none points past the pool.
  static status check_slots(const args& x) {
    const pool_shape& s = x.pool.shape;
    const int heads = s.per_head ? s.kv_heads : 1, tokens = tokens_of(x);
    for (int h = 0; h < heads; ++h)
      for (int t = 0; t < tokens; ++t)
        if (const int slot = x.slots[h * x.slot_head_stride + t]; slot >= s.pages * s.page)
          return {errc::bad_value, "slots names a slot past the pool: use -1 to store nothing", slot, static_cast<long long>(s.pages) * s.page - 1};
    for (int h = 0; x.rows != nullptr && h < (x.rows_head_stride > 0 ? s.kv_heads : 1); ++h)
      for (int t = 0; t < tokens; ++t)
        if (const int row = x.rows[h * x.rows_head_stride + t]; row < 0 || row >= x.k.rows) return {errc::bad_value, "rows names a row that k and v do not have", row, x.k.rows - 1};
    if (const int whole = groups_in(x); whole > 1)
      for (int h = 0; h < heads; ++h)
        for (int t = 0; t < tokens; ++t) {
          const int *of_head = x.slots + h * x.slot_head_stride, first = of_head[t - t % whole], slot = of_head[t];
          if (first < 0 ? slot >= 0 : first % whole != 0 || slot != first + t % whole)
            return {errc::bad_value, "slots: the tokens of a group that share scales lie one after another, from a multiple of the group on", slot, first < 0 ? -1 : first + t % whole};
        }
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
