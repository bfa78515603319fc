// ActQKV: pages recalled by a probe query, more of them in layers whose information is spread. docs/ops/cache/actqkv.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/score/page_bounds.hpp>
#include <smalti/block/score/partial_channels.hpp>
#include <smalti/block/score/probe_query.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/policy/cache/allocator.hpp>
#include <smalti/prim/select_k.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! Which pages of a paged cache are read, three calls: `means` after each append, `score` for each layer (a window's queries against the mean keys of
//! pages), `choose` for each layer, with as many pages as `budgets` gave it. Nothing is evicted: the lists are what attention::flash takes as blocks
//! (policy::padded_lists<Page, 1>), or what cache::tiered fetches.
//!     probe = sum_i softmax_i(a_i / temperature) q_i,    a_i = sum_c (q_ic - mean_c)^2 / (var_c + 1e-6)
//!     score of a page = max over the heads of a group of probe . mean key of the page
//!     density of a layer = 1 - H(softmax of its scores / sqrt(D)) / log(pages);  pages of a layer in proportion to 1 - density, whole numbers of a fixed sum
//!
//! @tparam T     bf16 or fp16; @tparam Page tokens of a page, a multiple of 16
//! @post  run_to_run; a sequence's bits do not depend on the others
//! @note  reads D elements a page instead of Page keys. Source: Xiao et al. 2025, arXiv:2502.13542, whose method section was not at hand: the formulas are a
//!        reconstruction
template <class T, int D, int Page = 16>
struct actqkv {
  static_assert(D % 16 == 0, "smalti: actqkv takes heads of a multiple of 16 columns: pad the last dimension");
  static_assert(Page >= 16 && Page % 16 == 0, "smalti: actqkv takes pages of a multiple of 16 tokens");
  static constexpr determinism level = determinism::run_to_run;

  struct args {
    attention::head_rows<const T> q = {};      //!< score: the window's queries of each sequence
    attention::paged_kv<T, Page> kv = {};
    int fresh = -1;                            //!< means: new are the newest so many tokens of every sequence; -1: those that `from` names
    const int* from = nullptr;                 //!< means, where sequences have grown differently: new are the tokens from from[sequence] on, in the context's memory; null: all
    view<T> means = {};                        //!< row page * heads + head
    float temperature = 1;                     //!< infinite: the mean of the window
    view<float> scores = {};                   //!< [sequence * key heads + head][page]: score writes, choose reads
    int* pages = nullptr;                      //!< [sequence * key heads + head] in use: score writes
    int sinks = 1;                             //!< choose: first pages that are always read, as the newest is
    int k = 0;                                 //!< choose: pages that are read, those included
    view<int, 1> blocks = {};                  //!< choose: [sequence * key heads + head][k] ascending, -1 behind
  };

  //! Mean keys of the pages that have changed.
  template <class Context> static status means(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if (const status bad = first_of([&] { return check_context(base_of(context)); }, [&] { return attention::detail::check_new(x.fresh, x.from); }, [&] { return check_kv(x); }); !bad) return bad;
    if constexpr (runs_here<Context>) return x.kv.sequences == 0 || x.kv.most == 0 ? status{} : launch<means_kernel>(base_of(context), {x.kv, {x.from, x.fresh}, x.means});
    else return {};
  }
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_kv(x); }, [&] { return check_scores(x); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    return lay_out(base_of(context), x, nullptr).bytes;
  }
  //! Scores of one layer's pages.
  template <class Context> static status score(const Context& context, const args& x, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_queries(x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    if constexpr (runs_here<Context>) {
      if (x.kv.sequences == 0) return {};
      const auto base = base_of(context);
      const plan p = lay_out(base, x, memory.data);
      const float factor = 1 / x.temperature;
      const int heads = x.q.heads;
      const auto mean = reading(x.means);
      return first_of([&] { return launch<moments_kernel>(base, {x.q, p.means, p.inverse}); },
                      [&] { return launch<deviation_kernel>(base, {x.q, reading(p.means), reading(p.inverse), factor, p.deviations}); },
                      [&] { return launch<lse_kernel>(base, {reading(p.deviations), p.lse}); },
                      [&] { return launch<probe_kernel>(base, {x.q, reading(p.deviations), p.lse, p.probe}); },
                      [&] { return launch<lengths_kernel>(base, {x.kv, x.pages}); },
                      [&] {
                        // What a query reaches within bounds that are one point is its product with that point.
                        return launch<score_kernel>(base, {.q = {p.probe.data, x.kv.sequences, heads, 1, D, static_cast<long long>(heads) * D, D, heads * D, nullptr}, .kv = x.kv, .bounds = {mean, mean},
                                                           .heads_per_kv = heads / x.kv.k.heads, .heads_per_list = heads / x.kv.k.heads, .scores = x.scores});
                      });
    } else {
      return {};
    }
  }
  //! How many pages each layer reads, `base` on average. scores: [layer][rows of one layer][page]; pages: [layer][row]. Host memory.
  static status budgets(const float* scores, long long row_stride, const int* pages, int layers, int rows, int base, int* out, double* scratch_weights, int* scratch) {
    if (layers < 1 || rows < 1 || base < 1) return {errc::bad_shape, "budgets: layers, rows and base must be positive", base, 1};
    if (scores == nullptr || pages == nullptr || out == nullptr || scratch_weights == nullptr || scratch == nullptr) return {errc::null_pointer, "budgets: scores, pages, out and both scratches (2 layers rows doubles, 2 layers + layers rows ints) must not be null"};
    int* per_track = scratch + 2 * layers;
    policy::information_density{.scale = 1 / __builtin_sqrtf(float(D))}.budgets({.layers = layers, .heads = rows, .base = base, .candidates = pages, .lengths = pages, .scores = scores, .score_stride = row_stride, .won = nullptr, .weights = scratch_weights, .caps = scratch}, per_track);
    for (int l = 0; l < layers; ++l) {
      out[l] = 0;
      for (int r = 0; r < rows; ++r) out[l] = per_track[l * rows + r] > out[l] ? per_track[l * rows + r] : out[l];
    }
    return {};
  }
  //! The k pages of greatest score, with the first and the newest.
  template <class Context> static status choose(const Context& context, const args& x, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_choice(x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    if constexpr (runs_here<Context>) {
      if (x.kv.sequences == 0) return {};
      const auto base = base_of(context);
      const plan p = lay_out(base, x, memory.data);
      view<float, 1> all = p.all;
      return first_of([&] { return launch<protect_kernel>(base, {{x.scores.data, all.rows, all.cols, x.scores.stride}, x.pages, x.sinks, all}); },
                      [&] { return best::run(base, {.rows = reading(all), .k = x.k, .indices = {x.blocks.data, all.rows, x.k, x.blocks.stride}, .arranged = prim::arrangement::by_index}, p.rest); },
                      [&] { return launch<list_kernel>(base, {.kv = x.kv, .lists = x.kv.k.heads, .heads_per_list = 1, .heads_per_kv = 1, .blocks = {x.blocks.data, x.blocks.rows, x.k, x.blocks.stride}}); });
    } else {
      return {};
    }
  }

  // ---- what a launch names
  struct means_kernel {
    using arguments = attention::page_summary_arguments<T, Page, attention::page_mean>;
    template <target> using agent = attention::page_summary_agent<16, 64, T, Page, attention::page_mean>;
  };
  struct moments_kernel {
    using arguments = attention::window_moments_arguments<T>;
    template <target> using agent = attention::window_moments_agent<16, 64, T>;
  };
  struct deviation_kernel {
    using arguments = attention::window_deviation_arguments<T>;
    template <target> using agent = attention::window_deviation_agent<16, 64, T>;
  };
  struct lse_kernel {
    using arguments = attention::row_lse_arguments;
    template <target> using agent = attention::row_lse_agent<256>;
  };
  struct probe_kernel {
    using arguments = attention::probe_arguments<T>;
    template <target> using agent = attention::probe_agent<16, 64, T>;
  };
  struct lengths_kernel {
    using arguments = attention::track_lengths_arguments<T, Page>;
    template <target> using agent = attention::track_lengths_agent<T, Page, true>;
  };
  struct score_kernel {
    using problem = attention::page_score_problem<T, D, Page>;
    using arguments = typename problem::arguments;
    template <target G> using agent = attention::page_score_agent<16, 64, (G == target::host ? 0 : 64), problem>;
  };
  struct protect_kernel {
    using arguments = attention::protect_pages_arguments;
    template <target> using agent = attention::protect_pages_agent<256>;
  };
  struct list_kernel {
    using arguments = attention::page_list_arguments<T, Page>;
    template <target> using agent = attention::page_list_agent<64, T, Page>;
  };

private:
  using best = prim::select_k<float>;
  struct plan {
    view<float, 1> means, inverse, deviations, all;
    view<T> probe;
    float* lse;
    workspace rest;
    std::size_t bytes;
  };
  static int pages_of(const args& x) { return ceil_div(x.kv.most > 0 ? x.kv.most : 1, Page); }
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    const int lists = x.kv.sequences * x.q.heads, tracks = x.kv.sequences * x.kv.k.heads, rows = x.q.rows > 0 ? x.q.rows : 1;
    carver carve{base};
    plan p{};
    const auto floats = [&](int r, int c) { return view<float, 1>{carve.take<float>(std::size_t(r > 0 ? r : 0) * c), r, c, c}; };
    p.means = floats(lists, D), p.inverse = floats(lists, D), p.deviations = floats(lists, rows), p.all = floats(tracks, pages_of(x));
    p.probe = {carve.take<T>(std::size_t(lists > 0 ? lists : 0) * D), lists, D, D};
    p.lse = carve.take<float>(std::size_t(lists > 0 ? lists : 0));
    const std::size_t rest = x.k > 0 ? best::workspace_bytes(context, {.rows = reading(p.all), .k = x.k, .indices = {nullptr, tracks, x.k, x.k}, .arranged = prim::arrangement::by_index}) : 0;
    p.rest = {carve.take<std::byte>(rest), rest};
    p.bytes = carve.used;
    return p;
  }
  static status check_kv(const args& x) {
    if (x.kv.sequences < 0 || x.kv.most < 0) return {errc::bad_shape, "kv must not have a negative extent", x.kv.most, 0};
    if (x.kv.sequences == 0) return {};
    if (x.kv.where.page != Page) return {errc::bad_shape, "kv: its pages must be as large as the type says", x.kv.where.page, Page};
    if (x.kv.k.data == nullptr || x.kv.where.table == nullptr || x.kv.where.length == nullptr) return {errc::null_pointer, "kv: keys, tables and lengths must not be null"};
    if (x.kv.k.cols != D || x.kv.k.heads < 1) return {errc::bad_shape, "kv: keys must have D columns and at least one head", x.kv.k.cols, D};
    const long long rows = static_cast<long long>(x.kv.k.count) * x.kv.k.heads;
    if (x.means.data == nullptr) return {errc::null_pointer, "means is null: it needs a row for each page and head", 0, rows};
    if (x.means.rows < rows || x.means.cols != D || x.means.stride < D) return {errc::bad_shape, "means needs a row of D for each page and head", x.means.rows, rows};
    if (x.means.stride % step_of<T> != 0 || reinterpret_cast<std::uintptr_t>(x.means.data) % 16 != 0) return {errc::misaligned, "means must begin on a multiple of 16 bytes, and its rows too", x.means.stride, 16};
    return {};
  }
  static status check_scores(const args& x) {
    if (x.kv.sequences == 0) return {};
    const int tracks = x.kv.sequences * x.kv.k.heads;
    if (x.scores.data == nullptr || x.pages == nullptr) return {errc::null_pointer, "scores and pages must not be null: a row, and a number, for each sequence and key head", 0, tracks};
    if (x.scores.rows < tracks || x.scores.cols < pages_of(x)) return {errc::bad_shape, "scores needs a row for each sequence and key head, and a column for each page of the longest", x.scores.cols, pages_of(x)};
    if (x.scores.stride < x.scores.cols || x.scores.stride % 4 != 0 || reinterpret_cast<std::uintptr_t>(x.scores.data) % 16 != 0) return {errc::misaligned, "scores must begin on a multiple of 16 bytes, and its rows too", x.scores.stride, 4};
    return {};
  }
  static status check_queries(const args& x) {
    if (x.q.sequences != x.kv.sequences) return {errc::bad_shape, "q needs a window of rows for each sequence of kv", x.q.sequences, x.kv.sequences};
    if (x.kv.sequences == 0) return {};
    if (x.q.data == nullptr) return {errc::null_pointer, "q is null: it holds the window's queries", 0, x.q.rows};
    if (x.q.cols != D || x.q.rows < 1 || x.q.offsets != nullptr) return {errc::bad_shape, "q needs at least one row of D, as many for each sequence", x.q.rows, 1};
    if (x.q.heads < 1 || x.q.heads % x.kv.k.heads != 0) return {errc::bad_shape, "q: the query heads must be a multiple of the key heads", x.q.heads, x.kv.k.heads};
    if (!(x.temperature > 0)) return {errc::bad_value, "temperature must be positive; infinite: the mean of the window"};
    return {};
  }
  static status check_choice(const args& x) {
    if (x.kv.sequences == 0) return {};
    const int tracks = x.kv.sequences * x.kv.k.heads;
    if (x.sinks < 0) return {errc::bad_value, "sinks must not be negative: it counts pages", x.sinks, 0};
    if (x.k < x.sinks + 1) return {errc::bad_value, "k must hold the sinks and the newest page", x.k, x.sinks + 1};
    if (x.blocks.data == nullptr) return {errc::null_pointer, "blocks is null: it needs a row for each sequence and key head", 0, tracks};
    if (x.blocks.rows < tracks || x.blocks.cols < x.k || x.blocks.stride < x.blocks.cols) return {errc::bad_shape, "blocks needs a row of k for each sequence and key head", x.blocks.cols, x.k};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
