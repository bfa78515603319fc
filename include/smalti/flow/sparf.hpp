// SparF: attention that reads a few channels of all keys, then a few tokens. docs/ops/cache/sparf.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/score/partial_channels.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/prim/select_k.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! What sparf keeps beside a pool: keys with channels as rows, page by page, and the sum of each sequence's values. Brought up to date after each
//! append: `fresh` says how many tokens are new (-1: all).
//! @note  a second copy of the keys: half as much memory again as the pool
template <class T, int D, int Page>
struct sparf_index {
  struct args {
    attention::paged_kv<T, Page> kv = {};
    int fresh = -1;                            //!< new are the newest so many tokens of every sequence; -1: those that `from` names
    const int* from = nullptr;                 //!< where sequences have grown differently: new are the tokens from from[sequence] on, in the context's memory; null: all
    view<T> channels = {};                     //!< [(page * heads + head) * D + channel][slot]
    view<float, 1> sums = {};                  //!< [sequence * heads + head][D]
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
      if (x.kv.sequences == 0 || x.kv.most == 0) return {};
      return first_of([&] { return launch<channels_kernel>(base_of(context), {x.kv, {x.from, x.fresh}, x.channels}); }, [&] { return launch<sums_kernel>(base_of(context), {x.kv, {x.from, x.fresh}, x.sums}); });
    } else {
      return {};
    }
  }
  struct channels_kernel {
    using arguments = attention::page_channels_arguments<T, Page>;
    template <target> using agent = attention::page_channels_agent<attention::channel_tile<D>, T, Page>;
  };
  struct sums_kernel {
    using arguments = attention::value_sums_arguments<T, Page>;
    template <target> using agent = attention::value_sums_agent<16, 64, T, Page>;
  };
  static status check_args(const args& x) {
    static_assert(D % 16 == 0, "smalti: sparf takes heads of a multiple of 16 columns: pad the last dimension");
    static_assert(Page >= 16 && (Page & (Page - 1)) == 0, "smalti: sparf takes pages of 16, 32, 64, ... tokens");
    if (x.kv.sequences < 0 || x.kv.most < 0) return {errc::bad_shape, "kv must not have a negative extent", x.kv.most, 0};
    if (const status bad = attention::detail::check_new(x.fresh, x.from); !bad) return bad;
    if (x.kv.sequences == 0) return {};
    if (x.kv.where.page != Page) return {errc::bad_shape, "kv: its pages must be as large as the type says", x.kv.where.page, Page};
    if (x.kv.k.data == nullptr || x.kv.v.data == nullptr || x.kv.where.table == nullptr || x.kv.where.length == nullptr) return {errc::null_pointer, "kv: keys, values, tables and lengths must not be null"};
    if (x.kv.k.cols != D || x.kv.v.cols != D) return {errc::bad_shape, "kv: keys and values must have D columns", x.kv.k.cols, D};
    const long long rows = static_cast<long long>(x.kv.k.count) * x.kv.k.heads * D;
    if (x.channels.data == nullptr) return {errc::null_pointer, "channels is null: it needs a row for each page, head and channel", 0, rows};
    if (rows > 2147483647ll) return {errc::out_of_reach, "channels: pages * heads * D must be below 2^31", rows, 2147483647ll};
    if (x.channels.rows < rows || x.channels.cols != Page || x.channels.stride < Page) return {errc::bad_shape, "channels needs a row of a page's slots for each page, head and channel", x.channels.rows, rows};
    if (x.channels.stride * sizeof(T) % 16 != 0 || reinterpret_cast<std::uintptr_t>(x.channels.data) % 16 != 0) return {errc::misaligned, "channels must begin on a multiple of 16 bytes, and its rows too", x.channels.stride, 16};
    if (x.sums.data == nullptr) return {errc::null_pointer, "sums is null: it needs a row for each sequence and key head", 0, static_cast<long long>(x.kv.sequences) * x.kv.k.heads};
    if (x.sums.rows < x.kv.sequences * x.kv.k.heads || x.sums.cols != D || x.sums.stride < D) return {errc::bad_shape, "sums needs a row of D for each sequence and key head", x.sums.rows, static_cast<long long>(x.kv.sequences) * x.kv.k.heads};
    return {};
  }
};

//! Decode attention of one row of each sequence, for each query head:
//!     J = the `channels_read` channels of greatest |q_c|
//!     s_t = softmax over t of q_J . k_tJ / sqrt(D |q_J|_1 / |q|_1)
//!     of each key head: T = the newest `window` tokens and the `tokens` - window others of greatest sum of s over its query heads
//!     a = sum over T of s_t,    o = a attention over T + (1 - a) mean of all values
//! All channels and tokens: attention over everything, to rounding.
//!
//! @tparam T     bf16 or fp16; @tparam Page tokens of a page, a power of two from 16
//! @post  run_to_run; a sequence's bits do not depend on the others
//! @note  reads channels_read / D of the keys, then `tokens` keys and values, instead of all. Sources: Ribar et al. 2023, arXiv:2312.04985;
//!        Pan et al. 2024, arXiv:2409.04992. What differs: lists are joined over the query heads that share a key head
template <class T, int D, int Page = 16, class Options = attention::options>
struct sparf {
  static constexpr determinism level = determinism::run_to_run;
  using index_op = sparf_index<T, D, Page>;
  using attend = attention::flash<T, D, attention::paged_kv<T>, policy::full, Options>;
  using out = typename attend::out;
  struct args {
    attention::head_rows<const T> q = {};      //!< one row of each sequence
    typename index_op::args index = {};           //!< kv, channels and sums, brought up to date; what is new is not asked
    int channels_read = 0, tokens = 0, window = 0;
    float scale = 0;                           //!< of q . k; 0: 1 / sqrt(D)
    attention::head_rows<out> o = {};
  };

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return index_op::check_args(x.index); }, [&] { return check_args(x); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return 0;
    else return !check_args(x) || x.q.sequences == 0 ? 0 : lay_out(context, x, nullptr).bytes;
  }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    if constexpr (runs_here<Context>) {
      if (x.q.sequences == 0) return {};
      const auto& kv = x.index.kv;
      const auto base = base_of(context);
      const plan p = lay_out(context, x, memory.data);
      const int group = x.q.heads / kv.k.heads;
      return first_of(
          [&] { return launch<sizes_kernel>(base, {x.q, p.queries, p.sizes, p.totals}); },
          [&] { return launch<lengths_kernel>(base, {kv, p.lengths}); },
          [&] { return best::run(base, {.rows = reading(p.sizes), .k = x.channels_read, .indices = p.channels, .arranged = prim::arrangement::by_index}, p.rest); },
          [&] {
            return launch<logits_kernel>(base, {.kv = kv, .channels = reading(x.index.channels), .queries = reading(p.queries), .chosen = reading(p.channels),
                                                .totals = p.totals, .heads = x.q.heads, .heads_per_kv = group, .d = D, .logits = p.logits});
          },
          [&] { return launch<lse_kernel>(base, {reading(p.logits), p.lse}); },
          [&] { return launch<scores_kernel>(base, {reading(p.logits), p.lse, p.lengths, group, x.window, p.scores}); },
          [&] { return p.chosen.cols == 0 ? status{} : best::run(base, {.rows = reading(p.scores), .k = p.chosen.cols, .indices = p.chosen, .arranged = prim::arrangement::by_index}, p.rest); },
          [&] { return launch<list_kernel>(base, {.kv = kv, .chosen = reading(p.chosen), .window = x.window, .unit = D, .places = p.places, .rows = p.rows, .counts = p.counts}); },
          [&] { return attend::run(context, attention_of(x, p.rows.data, p.counts), p.rest); },
          [&] {
            return launch<compensate_kernel>(base, {.o = x.o, .logits = reading(p.logits), .sums = reading(x.index.sums), .places = reading(p.places), .lse = p.lse, .lengths = p.lengths, .counts = p.counts, .heads_per_kv = group});
          });
    } else {
      return {};
    }
  }

  // ---- what a launch names
  struct sizes_kernel {
    using arguments = attention::query_sizes_arguments<T>;
    template <target> using agent = attention::query_sizes_agent<D, T>;
  };
  struct lengths_kernel {
    using arguments = attention::track_lengths_arguments<T, Page>;
    template <target> using agent = attention::track_lengths_agent<T, Page>;
  };
  struct logits_kernel {
    using arguments = attention::partial_logits_arguments<T, Page>;
    template <target> using agent = attention::partial_logits_agent<(Page >= 64 ? 16 : 1024 / Page), T, Page>;
  };
  struct lse_kernel {
    using arguments = attention::row_lse_arguments;
    template <target> using agent = attention::row_lse_agent<256>;
  };
  struct scores_kernel {
    using arguments = attention::partial_scores_arguments;
    template <target> using agent = attention::partial_scores_agent<256>;
  };
  struct list_kernel {
    using arguments = attention::token_list_arguments<T, Page>;
    template <target> using agent = attention::token_list_agent<256, T, Page>;
  };
  struct compensate_kernel {
    using arguments = attention::compensate_arguments<out>;
    template <target> using agent = attention::compensate_agent<32, 32, out>;
  };

private:
  using best = prim::select_k<float>;
  static int columns_of(const args& x) { return round_up(x.index.kv.most > 0 ? x.index.kv.most : 1, Page); }
  // Tokens that are read are pages of one slot: any pool is one of rows of D elements, and a list of rows is a table.
  static typename attend::args attention_of(const args& x, const int* rows, const int* counts) {
    const auto& kv = x.index.kv;
    const int heads = kv.k.heads, most = x.tokens < kv.most ? x.tokens : kv.most;
    typename attend::args a{};
    const auto single = [&](const attention::page_pool<const T>& pool) { return attention::page_pool<const T>{pool.data, static_cast<int>(pool.count * (pool.page_stride / D)), heads, D, D, 0, D}; };
    a.q = x.q, a.o = x.o, a.scale = x.scale;
    a.kv = {single(kv.k), single(kv.v), {rows, static_cast<long long>(heads) * x.tokens, x.tokens, counts, 1, 1}, kv.sequences, most};
    a.kv.where.length_head_stride = kv.sequences;
    return a;
  }
  struct plan {
    view<float, 1> queries, sizes, logits, scores;
    view<int, 1> channels, chosen, places, rows;
    float *totals, *lse;
    int *lengths, *counts;
    workspace rest;
    std::size_t bytes;
  };
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    const int lists = x.q.sequences * x.q.heads, tracks = x.q.sequences * x.index.kv.k.heads, columns = columns_of(x);
    const int chosen = x.tokens - x.window < columns ? x.tokens - x.window : columns;
    carver carve{base};
    plan p{};
    const auto floats = [&](int rows, int cols) { return view<float, 1>{carve.take<float>(std::size_t(rows) * cols), rows, cols, cols}; };
    const auto numbers = [&](int rows, int cols) { return view<int, 1>{carve.take<int>(std::size_t(rows) * cols), rows, cols, cols}; };
    p.queries = floats(lists, D), p.sizes = floats(lists, D), p.logits = floats(lists, columns), p.scores = floats(tracks, columns);
    p.channels = numbers(lists, x.channels_read), p.chosen = numbers(tracks, chosen), p.places = numbers(tracks, x.tokens), p.rows = numbers(tracks, x.tokens);
    p.totals = carve.take<float>(std::size_t(lists)), p.lse = carve.take<float>(std::size_t(lists));
    p.lengths = carve.take<int>(std::size_t(tracks)), p.counts = carve.take<int>(std::size_t(tracks));
    p.rest = carve.take_shared({best::workspace_bytes(base_of(context), {.rows = reading(p.sizes), .k = x.channels_read, .indices = p.channels, .arranged = prim::arrangement::by_index}),
                                chosen > 0 ? best::workspace_bytes(base_of(context), {.rows = reading(p.scores), .k = chosen, .indices = p.chosen, .arranged = prim::arrangement::by_index}) : 0,
                                attend::workspace_bytes(context, attention_of(x, nullptr, nullptr))});
    p.bytes = carve.used;
    return p;
  }
  static status check_args(const args& x) {
    const auto& kv = x.index.kv;
    if (x.q.sequences != kv.sequences) return {errc::bad_shape, "q: sparf decodes one row of each sequence of kv", x.q.sequences, kv.sequences};
    if (x.q.sequences == 0) return {};
    if (x.q.rows != 1 || x.q.offsets != nullptr) return {errc::bad_shape, "q: sparf decodes one row of each sequence", x.q.rows, 1};
    if (kv.k.heads < 1 || x.q.heads < 1 || x.q.heads % kv.k.heads != 0) return {errc::bad_shape, "q: the query heads must be a multiple of the key heads", x.q.heads, kv.k.heads};
    if (x.q.data == nullptr || x.o.data == nullptr) return {errc::null_pointer, "q and o must not be null"};
    if (x.q.cols != D || x.o.cols != D || x.o.sequences != x.q.sequences || x.o.heads != x.q.heads || x.o.rows != 1) return {errc::bad_shape, "q and o need a row of D for each sequence and head", x.o.cols, D};
    if (!(x.scale >= 0 && x.scale <= 3e38f)) return {errc::bad_value, "scale must be positive and finite, or 0 for 1 / sqrt(D)"};
    if (x.channels_read < 1 || x.channels_read > D) return {errc::bad_value, "channels_read must be within [1, D]", x.channels_read, D};
    if (x.window < 0 || x.tokens < 1 || x.window > x.tokens) return {errc::bad_value, "tokens must be positive and hold the window", x.tokens, x.window};
    if (kv.k.page_stride % D != 0 || kv.k.head_stride % D != 0 || kv.k.slot_stride % D != 0 || kv.v.page_stride != kv.k.page_stride || kv.v.head_stride != kv.k.head_stride || kv.v.slot_stride != kv.k.slot_stride)
      return {errc::bad_shape, "kv: keys and values must lie alike, in rows of D elements: use attention::pool_of", kv.k.slot_stride, D};
    if (kv.k.count * (kv.k.page_stride / D) > 2147483647ll) return {errc::out_of_reach, "kv: the pool must have fewer than 2^31 rows", kv.k.count * (kv.k.page_stride / D), 2147483647ll};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
