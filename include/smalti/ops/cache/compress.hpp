// Compression of a sequence's keys and values: score, allocate, select, dispose, each a policy. docs/ops/cache/compress.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/cache/survivors.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/ops/cache/check.hpp>
#include <smalti/ops/cache/compact.hpp>
#include <smalti/ops/cache/demote.hpp>
#include <smalti/ops/cache/merge.hpp>
#include <smalti/ops/cache/observe.hpp>
#include <smalti/ops/cache/paged.hpp>
#include <smalti/policy/cache/allocator.hpp>
#include <smalti/policy/cache/disposition.hpp>
#include <smalti/policy/cache/scorer.hpp>
#include <smalti/prim/select_k.hpp>
#include <smalti/tile/launch.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in compress.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent            sm_80  sm_89  sm_90  sm_100  sm_120  tried
// cache rows move  32x64  32x64  32x64  32x64   32x64   10
// cache keys turn  16     16     16     16      16      10
// swept: end

namespace smalti::inline SMALTI_CODE::cache {

//! Chooses which tokens of a sequence stay, in every track, and lets the others go.
//!
//!     using system = cache::compress<bf16, 64, policy::observation_window<32>>;               // or cache::snapkv<bf16, 64>
//!     // scores: floats, shape.tracks() rows of as many columns as a sequence may have tokens
//!     // in the prefill, after the attention of each layer (q: the chunk's queries as attention took them; the last 32 vote):
//!     system::observe::run(context, {.q = q, .kv = cache::kv_of<bf16>(pool, layer, tables.at(base, layer), 1, tokens),
//!                                    .scores = system::rows_of(shape, scores, layer)}, memory);
//!     // once, behind the last layer of the last chunk, for a share of the prompt:
//!     system::args x{.cache = &paged, .sequence = s, .pool = pool, .scores = scores, .tokens = max(33, n * share / 100)};
//!     x.plan = of at least system::plan_bytes(x);
//!     system::run(context, x, of at least system::workspace_bytes(context, x));
//!     // the next tokens are appended as ever, their keys rotated by paged.positions(s); the tables are asked for again
//!
//! The pool is made with per_head, so that each head keeps tokens of its own, and per_layer where there are several layers; policy::position_only
//! takes any. A system that never forgets a token of a track it scores (policy::accumulated) keeps `scores` for the sequence's life; the others
//! may use one `scores` for all sequences.
//!
//! In a track of L tokens the first `sinks` and the last `recent` are protected; the L - sinks - recent others are candidates, of which
//! the allocator says how many stay, tokens - sinks - recent a track on average. The best stay: the greatest score, of equal ones the
//! older token. Tracks with no candidates keep everything. Where every track keeps everything nothing happens at all: the cache is what it was, to the bit.
//! @tparam T            bf16 or fp16: element of the queries
//! @tparam Scorer       policy::observation_window, accumulated, last_query, position_only; in_pages<Scorer, Page>: pages stay or go whole
//! @tparam Allocator    policy::uniform, pyramid, variance_softmax, information_density, head_adaptive<Layers>
//! @tparam Disposition  policy::evict<Positions>: survivors move to fresh pages and the old ones return to the pool, where forks may still hold
//!                      them: no page is overwritten. policy::merge<...>: the same, and evicted tokens fold into survivors like them.
//!                      policy::demote<Low>: the same, and evicted tokens are kept in few bits in a second pool. policy::skip_read: only the lists are made
//! @tparam Storage      policy::kv_plain<E>: rows that can move one by one
//! @pre   what was appended is written. On a GPU: args.plan lies in memory that both the host and its kernels reach (pinned or managed), is not
//!        used again before the work is done, and allocators that read scores, or let heads compete, cannot: compute args.budgets from scores that
//!        were copied
//! @post  gpu_to_gpu, given equal scores; turning keys: run_to_run. A refused call changes no sequence and no page
//! @note  reads a float for each token and row of scores, and moves the survivors once. The pool needs free pages for the survivors while the old
//!        pages are held (errc::exhausted else)
template <class T, int D, class Scorer, class Allocator = policy::uniform, class Disposition = policy::evict<>, class Storage = policy::kv_plain<T>, class Layout = policy::nhd,
          class Hash = content_hash>
struct compress {
  static_assert(policy::explain_cache_scorer<Scorer>());
  static_assert(policy::explain_cache_allocator<Allocator>());
  static_assert(policy::cache_disposition<Disposition>, "smalti: a disposition of this frame is policy::evict<Positions>, policy::merge<...>, policy::demote<Low> or policy::skip_read");
  static_assert(!policy::cache_demote<Disposition> || std::is_same_v<Allocator, policy::uniform>, "smalti: tracks demote as many tokens, so the allocator of policy::demote is policy::uniform");
  static_assert(!policy::cache_merge<Disposition> || Scorer::observes, "smalti: merging needs a scorer that observes: tokens that are dropped by place alone are dropped");
  static_assert(Scorer::observes || !Allocator::reads_scores, "smalti: this allocator reads scores, and this scorer makes none: take policy::uniform");
  static_assert(requires { typename Storage::element; }, "smalti: compress moves tokens one by one, so it takes policy::kv_plain<T>: codes with scales are compressed before they are encoded");
  using element = typename Storage::element;
  using scorer = Scorer;
  using disposition = Disposition;
  using paged_cache = paged<Storage, Layout, Hash>;
  using observe = cache::observe<T, D, Scorer, attention::paged_kv<element>>;
  static constexpr determinism level = determinism::run_to_run;
  //! Whether the allocator needs scores on the host in the midst of a run.
  static constexpr bool reads_back = Allocator::reads_scores || Allocator::competes;
  static constexpr int granule = policy::cache_granule<Scorer>;     //!< tokens that stay or go together

  struct args {
    paged_cache* cache = nullptr;
    cache::sequence sequence{};
    page_pool pool{};
    view<float, 1> scores{};                   //!< [track][token] of observe; of accumulated scorers the survivors' scores are left there. Empty: position_only
    int tokens = 0;                            //!< that a track keeps on average, the protected ones included
    int sinks = Scorer::sinks;                 //!< first tokens of a track that stay
    int recent = Scorer::recent;               //!< newest tokens of a track that stay; -1: half of `tokens`
    Allocator allocator{};
    const int* budgets = nullptr;              //!< [track] candidates that stay, instead of the allocator's answer; host memory
    const float* frequencies = nullptr;        //!< 4 x D / 2, policy::fill_frequencies: where keys turn
    view<int, 1> kept{};                       //!< wanted: [track][i], the place in the track of the i-th token that stays, -1 behind; most_kept columns
    int* counts = nullptr;                     //!< wanted: [track], how many stay; host memory
    typename demote_rows<D, Storage, Layout, Hash, Disposition>::lower low{};   //!< policy::demote: the second pool
    float* thresholds = nullptr;               //!< [layer], merging dispositions: kept from call to call, NaN before the first; in the context's memory
    float gate_memory = 0.5f;                  //!< of a threshold: what it keeps of itself when tokens are merged
    workspace plan{};                          //!< plan_bytes, which the host writes and kernels read
  };

  //! The rows of one layer in `scores` of all tracks.
  static view<float, 1> rows_of(const pool_shape& s, const view<float, 1>& scores, int layer) {
    const int heads = s.head_tracks(), first = s.per_layer ? layer * heads : 0;
    return {scores.data + static_cast<long long>(first) * scores.stride, heads, scores.cols, scores.stride};
  }
  //! Tokens that a track keeps at most.
  static int most_kept(const args& x) {
    int longest = 0, keeps = 0;
    for (int t = 0; x.cache != nullptr && t < x.cache->shape().tracks(); ++t) {
      const int n = x.cache->tokens(x.sequence, t), k = n < x.tokens ? n : x.tokens;
      longest = n > longest ? n : longest, keeps = k > keeps ? k : keeps;
    }
    return std::is_same_v<Allocator, policy::uniform> && x.budgets == nullptr ? keeps : longest;
  }

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_cache(x); }, [&] { return check_budget(x); }, [&] { return check_memory(context, x); });
  }
  //! Of what the host writes. Reads the sequence's lengths.
  static std::size_t plan_bytes(const args& x) { return known(x) ? lay_out_plan(x, nullptr).bytes : 0; }
  //! Reads the sequence's lengths.
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return 0;
    else return known(x) ? lay_out(base_of(context), x, nullptr).bytes : 0;
  }

  //! Chooses and lets go; on the host it is done on return.
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    if constexpr (runs_here<Context>) return start(base_of(context), x, lay_out_plan(x, x.plan.data), lay_out(base_of(context), x, memory.data));
    else return {};
  }

  // ---- what a launch names
  struct candidate_kernel {
    using arguments = candidate_arguments;
    template <target> using agent = candidate_agent<256, Scorer::kernel, Scorer::pool, granule>;
  };
  struct survivor_kernel {
    using arguments = survivor_arguments;
    template <target> using agent = survivor_agent<256>;
  };
  struct keep_scores_kernel {
    using arguments = keep_scores_arguments;
    template <target> using agent = keep_scores_agent<256, true>;
  };
  struct copy_scores_kernel {
    using arguments = keep_scores_arguments;
    template <target> using agent = keep_scores_agent<256, false>;
  };

  using row_list_kernel = typename compact<D, typename Disposition::positions, Storage, Layout, Hash>::row_list_kernel;
  using gather_kernel = typename compact<D, typename Disposition::positions, Storage, Layout, Hash>::gather_kernel;
  template <class Positions> using turn_kernel = typename compact<D, Positions, Storage, Layout, Hash>::turn_kernel;

private:
  using best = prim::select_k<float>;
  static constexpr int whole_pages(int n) { return n > 0 ? n / granule * granule : 0; }
  static constexpr bool merges = policy::cache_merge<Disposition>;
  using moving = compact<D, typename Disposition::positions, Storage, Layout, Hash>;
  using merging = merge_rows<T, D, Storage, Layout, Hash, Disposition>;
  static constexpr bool demotes = policy::cache_demote<Disposition>;
  using demoting = demote_rows<D, Storage, Layout, Hash, Disposition>;
  static constexpr bool turns() { return Disposition::moves && moving::turns; }
  static int tracks_of(const args& x) { return x.cache->shape().tracks(); }
  static bool known(const args& x) { return x.cache != nullptr && x.cache->is_resident(x.sequence) && x.tokens > 0; }
  static int longest(const args& x) {
    int n = 0;
    for (int t = 0; t < tracks_of(x); ++t) n = x.cache->tokens(x.sequence, t) > n ? x.cache->tokens(x.sequence, t) : n;
    return n;
  }
  // Tokens that a track loses at most: with budgets unknown, all of its candidates.
  static int most_dropped(const args& x) {
    int most = 0;
    for (int t = 0; t < tracks_of(x); ++t) {
      const int n = candidates_of(x, t) - (x.budgets != nullptr ? x.budgets[t] : std::is_same_v<Allocator, policy::uniform> ? base_of_track(x) : 0);
      most = n > most ? n : most;
    }
    return most;
  }
  // StreamingLLM's window is what its sinks leave; H2O's is half.
  static int recent_of(const args& x) {
    if constexpr (!Scorer::observes) return x.tokens - x.sinks;
    else return x.recent >= 0 ? x.recent : (x.tokens - x.sinks) / 2;
  }
  static int first_of_track(const args& x) { return ceil_div(x.sinks, granule) * granule; }
  static int base_of_track(const args& x) {
    if constexpr (granule == 1) return x.tokens - x.sinks - recent_of(x);
    int room = x.tokens, most = 0;
    bool whole = true;
    for (int t = 0; t < tracks_of(x); ++t) {
      const int n = x.cache->tokens(x.sequence, t), candidates = candidates_of(x, t), left = x.tokens - (n - candidates);
      whole = whole && n <= x.tokens, most = candidates > most ? candidates : most;
      if (candidates > 0 && left < room) room = left;
    }
    return whole ? most : whole_pages(room);
  }
  static int candidates_of(const args& x, int track) {
    const int n = whole_pages(x.cache->tokens(x.sequence, track) - recent_of(x)) - first_of_track(x);
    return n > 0 ? n : 0;
  }

  // ---- memory
  struct host_plan {
    int *first, *last, *count, *length, *own_k, *won, *layer_k, *budget, *candidates, *caps;
    double* weights;
    typename moving::host_plan move;
    int *dropped, *low_slots;
    std::size_t bytes;
  };
  static host_plan lay_out_plan(const args& x, std::byte* base) {
    const std::size_t tracks = std::size_t(tracks_of(x)), layers = std::size_t(x.cache->shape().layer_tracks());
    carver carve{base};
    host_plan p{};
    for (int** of : {&p.first, &p.last, &p.count, &p.length, &p.own_k, &p.won, &p.budget, &p.candidates}) *of = carve.take<int>(tracks);
    p.layer_k = carve.take<int>(layers);
    p.caps = carve.take<int>(2 * layers);
    p.weights = carve.take<double>(2 * tracks);
    if constexpr (merges || demotes) p.dropped = carve.take<int>(tracks);
    if constexpr (demotes) p.low_slots = carve.take<int>(tracks * std::size_t(most_dropped(x)));
    if constexpr (Disposition::moves) {
      const std::size_t bytes = moving::lay_out_plan(*x.cache, x.sequence, most_kept(x), nullptr).bytes;
      p.move = moving::lay_out_plan(*x.cache, x.sequence, most_kept(x), carve.take<std::byte>(bytes));
    }
    p.bytes = carve.used;
    return p;
  }
  struct device_plan {
    view<float, 1> candidates, scores;
    view<int, 1> chosen, competed, kept;
    typename moving::row_lists rows;
    typename merging::plan merge;
    typename demoting::plan demote;
    workspace rest;
    std::size_t bytes;
  };
  template <class Context> static device_plan lay_out(const Context& context, const args& x, std::byte* base) {
    const pool_shape& s = x.cache->shape();
    const int tracks = tracks_of(x), most = most_kept(x), layers = s.layer_tracks(), heads = s.head_tracks();
    int width = 0;
    for (int t = 0; t < tracks; ++t) width = candidates_of(x, t) > width ? candidates_of(x, t) : width;
    const int chosen = width < most ? width : most;
    carver carve{base};
    device_plan p{};
    const auto floats = [&](int rows, int cols) { return view<float, 1>{carve.take<float>(std::size_t(rows) * cols), rows, cols, cols}; };
    const auto numbers = [&](int rows, int cols) { return view<int, 1>{carve.take<int>(std::size_t(rows) * cols), rows, cols, cols}; };
    p.candidates = floats(tracks, width);
    p.chosen = numbers(tracks, chosen);
    p.kept = x.kept.data != nullptr ? view<int, 1>{x.kept.data, tracks, x.kept.cols, x.kept.stride} : numbers(tracks, most);
    std::size_t rest = best::workspace_bytes(context, {.rows = {p.candidates.data, tracks, width, width}, .k = chosen, .indices = p.chosen, .arranged = prim::arrangement::by_index});
    if constexpr (Allocator::competes) {
      p.competed = numbers(layers, heads * chosen);
      const std::size_t more = best::workspace_bytes(context, {.rows = {p.candidates.data, layers, heads * width, heads * width}, .k = heads * chosen, .indices = p.competed, .arranged = prim::arrangement::by_index});
      rest = more > rest ? more : rest;
    }
    if constexpr (Disposition::moves) {
      const std::size_t bytes = moving::lay_out(*x.cache, most, nullptr).bytes;
      p.rows = moving::lay_out(*x.cache, most, carve.take<std::byte>(bytes));
      if (Scorer::accumulates) p.scores = floats(tracks, most);
    }
    if constexpr (merges) {
      const std::size_t bytes = merging::lay_out(context, s, most, most_dropped(x), nullptr).bytes;
      p.merge = merging::lay_out(context, s, most, most_dropped(x), carve.take<std::byte>(bytes));
    }
    if constexpr (demotes) {
      const std::size_t bytes = demoting::lay_out(s, most_dropped(x), nullptr).bytes;
      p.demote = demoting::lay_out(s, most_dropped(x), carve.take<std::byte>(bytes));
    }
    p.rest = {carve.take<std::byte>(rest), rest};
    p.bytes = carve.used;
    return p;
  }

  // ---- the work
  template <class Context> static status start(const Context& context, const args& x, const host_plan& h, const device_plan& d) {
    const pool_shape& s = x.cache->shape();
    const int tracks = tracks_of(x), heads = s.head_tracks(), layers = s.layer_tracks();
    const track_plan plan{h.first, h.last, h.count, h.length};
    for (int t = 0; t < tracks; ++t) {
      h.length[t] = x.cache->tokens(x.sequence, t), h.candidates[t] = candidates_of(x, t), h.won[t] = 0;
      h.first[t] = h.candidates[t] > 0 ? first_of_track(x) : h.length[t], h.last[t] = h.first[t] + h.candidates[t];
    }
    const bool scored = Scorer::observes && d.candidates.cols > 0;
    if (scored)
      if (const status bad = launch<candidate_kernel>(context, {.scores = reading(x.scores), .tracks = plan, .out = d.candidates}); !bad) return bad;

    // ---- allocate
    if (x.budgets != nullptr) {
      for (int t = 0; t < tracks; ++t) h.budget[t] = x.budgets[t];
    } else {
      policy::cache_demand demand{.layers = layers, .heads = heads, .base = base_of_track(x), .candidates = h.candidates, .lengths = h.length, .scores = x.scores.data, .score_stride = x.scores.stride,
                                  .won = h.won, .weights = h.weights, .caps = h.caps};
      if constexpr (Allocator::competes) {
        x.allocator.before(demand, h.budget);
        if (scored)
          if (const status bad = compete(context, h, d, layers, heads); !bad) return bad;
      }
      x.allocator.budgets(demand, h.budget);
      for (int t = 0; granule > 1 && t < tracks; ++t) h.budget[t] = whole_pages(h.budget[t]);
    }
    int most = 0;
    bool whole = true;
    for (int t = 0; t < tracks; ++t) {
      h.count[t] = h.length[t] - h.candidates[t] + h.budget[t], h.own_k[t] = h.budget[t];
      most = h.budget[t] > most ? h.budget[t] : most, whole = whole && h.count[t] == h.length[t];
      if (x.counts != nullptr) x.counts[t] = h.count[t];
    }
    const bool lists = x.kept.data != nullptr;
    if (whole && !lists) return {};

    // ---- select
    view<int, 1> chosen = d.chosen;
    chosen.cols = most;
    if (most > 0)
      if (const status bad = best::run(context, {.rows = reading(d.candidates), .k = most, .indices = chosen, .arranged = prim::arrangement::by_index, .row_k = h.own_k}, d.rest);
          !bad)
        return bad;
    if (const status bad = launch<survivor_kernel>(context, {.tracks = plan, .chosen = {chosen.data, tracks, most, d.chosen.stride}, .kept = d.kept}); !bad) return bad;
    if constexpr (!Disposition::moves) return {};
    else return whole ? status{} : dispose(context, x, h, d, plan);
  }

  // How many of the best of a layer are each head's.
  template <class Context> static status compete(const Context& context, const host_plan& h, const device_plan& d, int layers, int heads) {
    const int width = d.candidates.cols;
    int most = 0;
    for (int l = 0; l < layers; ++l) {
      h.layer_k[l] = 0;
      for (int i = 0; i < heads; ++i) h.layer_k[l] += h.budget[l * heads + i];
      most = h.layer_k[l] > most ? h.layer_k[l] : most;
    }
    if (most == 0) return {};
    view<int, 1> indices = d.competed;
    indices.cols = most;
    if (const status bad = best::run(context, {.rows = {d.candidates.data, layers, heads * width, heads * width}, .k = most, .indices = indices, .arranged = prim::arrangement::by_index, .row_k = h.layer_k}, d.rest); !bad) return bad;
    for (int l = 0; l < layers; ++l)
      for (int i = 0; i < h.layer_k[l]; ++i) ++h.won[l * heads + indices.data[static_cast<long long>(l) * indices.stride + i] / width];
    return {};
  }

  template <class Context> static status dispose(const Context& context, const args& x, const host_plan& h, const device_plan& d, const track_plan& plan) {
    const int tracks = tracks_of(x);
    if (const status bad = moving::move(context, {.cache = x.cache, .sequence = x.sequence, .pool = x.pool, .kept = reading(d.kept), .counts = h.count, .frequencies = x.frequencies, .plan = {}}, h.move, d.rows); !bad) return bad;
    if constexpr (demotes) {
      for (int t = 0; t < tracks; ++t) h.dropped[t] = h.length[t] - h.count[t];
      if (const status bad = demoting::start(context, x.pool, x.low, plan, h.dropped, h.dropped[0], reading(d.kept), {h.move.before, tracks, h.move.before_width, h.move.before_width}, h.low_slots, d.demote); !bad) return bad;
    }
    if constexpr (merges) {
      for (int t = 0; t < tracks; ++t) h.dropped[t] = h.length[t] - h.count[t];
      if (const status bad = merging::start(context, x.pool, {.tracks = plan, .dropped = h.dropped, .kept = reading(d.kept), .before = {h.move.before, tracks, h.move.before_width, h.move.before_width},
                                                              .source = reading(d.rows.source), .target = reading(d.rows.target), .thresholds = x.thresholds, .memory = x.gate_memory}, d.merge); !bad)
        return bad;
    }
    if constexpr (Scorer::accumulates) {
      if (const status bad = launch<keep_scores_kernel>(context, {.from = reading(x.scores), .kept = reading(d.kept), .tracks = plan, .to = d.scores}); !bad) return bad;
      return launch<copy_scores_kernel>(context, {.from = reading(d.scores), .kept = {}, .tracks = plan, .to = {x.scores.data, tracks, d.scores.cols, x.scores.stride}});
    } else {
      return {};
    }
  }

  // ---- refusals
  static status check_cache(const args& x) {
    if (const status bad = moving::check_pool_of(x.cache, x.sequence, x.pool); !bad) return bad;
    const pool_shape& s = x.pool.shape;
    if (Scorer::observes && s.layers > 1 && !s.per_layer) return {errc::bad_value, "pool: its layers share pages, so they cannot keep tokens of their own: make it with per_layer", s.layers, 1};
    return {};
  }
  static status check_budget(const args& x) {
    if (x.sinks < 0) return {errc::bad_value, "sinks must not be negative", x.sinks, 0};
    if (Scorer::observes && x.recent < -1) return {errc::bad_value, "recent must not be negative; -1 takes half of tokens", x.recent, 0};
    if (x.tokens < 1) return {errc::bad_value, "tokens must be positive: it counts what a track keeps", x.tokens, 1};
    if (const long long need = static_cast<long long>(first_of_track(x)) + (Scorer::observes && x.recent > 0 ? x.recent : 0) + granule - 1; x.tokens < need)
      return {errc::bad_value, "tokens must not be below the protected sinks and recent tokens, in whole pages where pages are chosen", x.tokens, need};
    if (const status bad = x.allocator.check(); !bad) return bad;
    if (x.budgets != nullptr) {
      if (!Scorer::observes) return {errc::bad_value, "budgets: a scorer of places alone chooses no candidates: leave it null", 0, 0};
      for (int t = 0; t < tracks_of(x); ++t)
        if (x.budgets[t] < 0 || x.budgets[t] > candidates_of(x, t)) return {errc::bad_value, "budgets: a track keeps none of its candidates, some or all", x.budgets[t], candidates_of(x, t)};
        else if (x.budgets[t] % granule != 0) return {errc::bad_value, "budgets: whole pages stay: give multiples of the scorer's page", x.budgets[t], granule};
    }
    return {};
  }
  template <class Context> static status check_memory(const Context&, const args& x) {
    if (reads_back && !is_host<Context> && x.budgets == nullptr)
      return {errc::bad_value, "budgets: this allocator reads scores on the host, which a GPU's work cannot wait for: copy the scores, and pass what the allocator says"};
    if (Scorer::observes) {
      if (x.scores.data == nullptr) return {errc::null_pointer, "scores is null: it needs a row for each track, written by observe", 0, tracks_of(x)};
      if (x.scores.rows < tracks_of(x)) return {errc::bad_shape, "scores needs a row for each track", x.scores.rows, tracks_of(x)};
      if (x.scores.cols < longest(x)) return {errc::bad_shape, "scores needs a column for each token of the longest track", x.scores.cols, longest(x)};
      if (x.scores.stride < x.scores.cols) return {errc::bad_shape, "scores: the stride must be at least its columns", x.scores.stride, x.scores.cols};
    }
    if (turns() && x.frequencies == nullptr) return {errc::null_pointer, "frequencies is null, but keys turn: fill it with policy::fill_frequencies", 0, 2 * D};
    if (turns() && longest(x) >= policy::position_reach) return {errc::out_of_reach, "a track has more tokens than positions are exact for", longest(x), policy::position_reach};
    if (!Disposition::moves && x.kept.data == nullptr) return {errc::null_pointer, "kept is null: this disposition moves nothing, the lists are its result", 0, tracks_of(x)};
    if (x.kept.data != nullptr) {
      if (x.kept.rows < tracks_of(x)) return {errc::bad_shape, "kept needs a row for each track", x.kept.rows, tracks_of(x)};
      if (x.kept.cols < most_kept(x)) return {errc::bad_shape, "kept needs most_kept(args) columns", x.kept.cols, most_kept(x)};
      if (x.kept.stride < x.kept.cols) return {errc::bad_shape, "kept: the stride must be at least its columns", x.kept.stride, x.kept.cols};
    }
    if constexpr (demotes) {
      if (x.budgets != nullptr) return {errc::bad_value, "budgets: tracks demote as many tokens: leave it null", 0, 0};
      for (int t = 1; t < tracks_of(x); ++t)
        if (x.cache->tokens(x.sequence, t) != x.cache->tokens(x.sequence, 0)) return {errc::bad_shape, "sequence: tracks demote as many tokens, so they hold as many", x.cache->tokens(x.sequence, t), x.cache->tokens(x.sequence, 0)};
      if (const status bad = demoting::check(x.pool.shape, x.low, most_dropped(x)); !bad) return bad;
    }
    if constexpr (merges) {
      if (x.thresholds == nullptr) return {errc::null_pointer, "thresholds is null: merging keeps one for each layer, NaN before the first time", 0, x.cache->shape().layer_tracks()};
      if (!(x.gate_memory >= 0 && x.gate_memory <= 1)) return {errc::bad_value, "gate_memory must be within [0, 1]: what a threshold keeps of itself"};
      if (longest(x) >= 1 << 24) return {errc::out_of_reach, "a track that is merged has fewer than 2^24 tokens", longest(x), 1 << 24};
      if (const long long cells = merging::cells(x.cache->shape(), most_kept(x), most_dropped(x)); cells > 2147483647ll) return {errc::out_of_reach, "tracks, heads and tokens of a merge must be fewer than 2^31", cells, 2147483647ll};
    }
    if (const status bad = moving::check_plan(x.plan, plan_bytes(x)); !bad) return bad;
    const long long list = static_cast<long long>(tracks_of(x)) * x.cache->shape().heads_in_page() * most_kept(x), reach = static_cast<long long>(tracks_of(x)) * longest(x);
    if (list > 2147483647ll || reach > 2147483647ll) return {errc::out_of_reach, "tracks times tokens must be below 2^31", list > reach ? list : reach, 2147483647ll};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
