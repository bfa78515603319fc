// Tokens that stay move to pages of their own, and the old pages return to the pool. docs/ops/cache/compress.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/block/cache/move_rows.hpp>
#include <smalti/block/cache/survivors.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/ops/cache/check.hpp>
#include <smalti/ops/cache/paged.hpp>
#include <smalti/policy/cache/disposition.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! Survivors move by rows of 32-bit words: so many at once.
struct default_gather_tuning {
  SMALTI_HD constexpr move_tuning operator()(target t) const { return t == target::host ? move_tuning{2048, 64} : move_tuning{32, 64}; }
};
struct default_turn_tuning {
  SMALTI_HD constexpr turn_tuning operator()(target) const { return {16}; }
};

//! For each track the tokens kept[track][0 .. counts[track]) stay, in their order, in fresh pages; all others go. What compress ends with,
//! for a choice that the caller has made.
//!
//! Survivors are gathered into fresh pages, in any order of blocks, and then the old ones are released: forks that share them keep every bit.
//! @tparam T          bf16 or fp16; where keys turn, the element is the storage's
//! @tparam Positions  as of policy::evict: keep_original, compact, close_ranks, rotate_on_read, no_position
//! @pre   kept ascends in each track. On a GPU: kept lies in its memory, and args.plan where both the host and its kernels reach
//! @post  gpu_to_gpu; turning keys: run_to_run. A refused call changes nothing
//! @note  one read and one write of what stays. The pool needs free pages for it while the old pages are held (errc::exhausted else)
template <int D, class Positions = policy::keep_original, class Storage = policy::kv_plain<bf16>, class Layout = policy::nhd, class Hash = content_hash>
struct compact {
  static_assert(policy::cache_disposition<policy::evict<Positions>>);
  static_assert(requires { typename Storage::element; }, "smalti: compact moves tokens one by one, so it takes policy::kv_plain<T>: codes with scales are compacted before they are encoded");
  using element = typename Storage::element;
  using paged_cache = paged<Storage, Layout, Hash>;
  static constexpr bool turns = policy::detail::turning<Positions>::any;
  static constexpr determinism level = turns ? determinism::run_to_run : determinism::gpu_to_gpu;

  struct args {
    paged_cache* cache = nullptr;
    cache::sequence sequence{};
    page_pool pool{};
    view<const int, 1> kept{};                 //!< [track][i]: the place in its track of the i-th token that stays
    const int* counts = nullptr;               //!< [track] how many stay; host memory
    const float* frequencies = nullptr;        //!< 4 x D / 2, policy::fill_frequencies: where keys turn
    workspace plan{};                          //!< plan_bytes, which the host writes and kernels read
  };

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_pool_of(x.cache, x.sequence, x.pool); }, [&] { return check_args(context, x); });
  }
  static std::size_t plan_bytes(const args& x) { return known(x) ? lay_out_plan(*x.cache, x.sequence, most_of(x), nullptr).bytes : 0; }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args& x) {
    static_assert(explain_context<Context>());
    return known(x) ? lay_out(*x.cache, most_of(x), nullptr).bytes : 0;
  }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    if constexpr (runs_here<Context>) {
      const host_plan h = lay_out_plan(*x.cache, x.sequence, most_of(x), x.plan.data);
      return move(base_of(context), x, h, lay_out(*x.cache, most_of(x), memory.data));
    } else {
      return {};
    }
  }

  // ---- parts, of which compress is made too
  struct host_plan {
    int *count, *length, *before, *after, *old;
    int before_width, after_width, most;
    std::size_t bytes;
  };
  //! @param most  tokens that a track keeps at most
  static host_plan lay_out_plan(const paged_cache& cache, cache::sequence s, int most, std::byte* base) {
    const std::size_t tracks = std::size_t(cache.shape().tracks());
    int longest = 0;
    for (int t = 0; t < int(tracks); ++t) longest = cache.tokens(s, t) > longest ? cache.tokens(s, t) : longest;
    carver carve{base};
    host_plan p{};
    p.most = most;
    p.count = carve.take<int>(tracks), p.length = carve.take<int>(tracks);
    p.before_width = ceil_div(longest, cache.shape().page), p.after_width = ceil_div(most, cache.shape().page);
    p.before = carve.take<int>(tracks * std::size_t(p.before_width + 1));
    p.after = carve.take<int>(tracks * std::size_t(p.after_width + 1));
    p.old = carve.take<int>(std::size_t(cache.pages_of(s)));
    p.bytes = carve.used;
    return p;
  }
  struct row_lists {
    view<int, 1> source, target;               //!< [track * heads in page + head][i]: rows of the pool, before and after
    std::size_t bytes;
  };
  static row_lists lay_out(const paged_cache& cache, int most, std::byte* base) {
    const int rows = cache.shape().tracks() * cache.shape().heads_in_page();
    carver carve{base};
    row_lists p{};
    for (view<int, 1>* of : {&p.source, &p.target}) *of = {carve.take<int>(std::size_t(rows) * most), rows, most, most};
    p.bytes = carve.used;
    return p;
  }
  //! Metadata first, then the rows. What the old pages hold stays until they are taken again.
  template <class Context> static status move(const Context& context, const args& x, const host_plan& h, const row_lists& d) {
    const pool_shape& s = x.pool.shape;
    const int tracks = s.tracks(), heads = s.heads_in_page();
    bool whole = true;
    for (int t = 0; t < tracks; ++t) h.count[t] = x.counts[t], h.length[t] = x.cache->tokens(x.sequence, t), whole = whole && h.count[t] == h.length[t];
    if (whole) return {};
    const track_plan plan{nullptr, nullptr, h.count, h.length};
    if (const status bad = x.cache->tables(&x.sequence, 1, h.before_width, h.before, static_cast<long long>(tracks) * (h.before_width + 1)); !bad) return bad;
    if (const status bad = x.cache->rewrite(x.sequence, h.count, h.old, x.cache->pages_of(x.sequence)); !bad) return bad;
    if (const status bad = x.cache->tables(&x.sequence, 1, h.after_width, h.after, static_cast<long long>(tracks) * (h.after_width + 1)); !bad) return bad;
    if (const status bad = launch<row_list_kernel>(context, {.tracks = plan,
                                                             .kept = x.kept,
                                                             .before = {h.before, tracks, h.before_width, h.before_width},
                                                             .after = {h.after, tracks, h.after_width, h.after_width},
                                                             .page = s.page,
                                                             .heads_in_page = heads,
                                                             .shift = (s.page & (s.page - 1)) == 0 ? __builtin_ctz(unsigned(s.page)) : -1,
                                                             .source = d.source,
                                                             .target = d.target}); !bad)
      return bad;
    if constexpr (turns) {
      const view<element> k = pool_rows<element>(x.pool, plane::keys, 0);
      const stack<element> keys{k.data, s.layers_in_page(), k.rows, k.cols, static_cast<long long>(k.rows) * k.stride, k.stride};
      if (const status bad = launch<turn_kernel>(context, {.tracks = plan,
                                                           .kept = x.kept,
                                                           .source = reading(d.source),
                                                           .target = reading(d.target),
                                                           .heads_in_page = heads,
                                                           .frequencies = {x.frequencies, 4, D / 2, D / 2},
                                                           .from = {keys.data, keys.count, keys.rows, keys.cols, keys.distance, keys.stride},
                                                           .to = keys}); !bad)
        return bad;
    } else {
      if (const status bad = gather(context, x, d, plane::keys); !bad) return bad;
    }
    return s.value_dim > 0 ? gather(context, x, d, plane::values) : status{};
  }

  // ---- refusals that compress shares
  static status check_pool_of(const paged_cache* cache, cache::sequence sequence, const page_pool& pool) {
    if (cache == nullptr) return {errc::null_pointer, "cache is null: name the cache that holds the sequence", 0, 0};
    if (!cache->is_open(sequence)) return {errc::bad_value, "sequence: it is not open in this cache", sequence.index, 0};
    if (!cache->is_resident(sequence)) return {errc::bad_value, "sequence: it is swapped out: swap it in first", sequence.index, 0};
    const pool_shape& s = cache->shape();
    if (!(pool.format == Storage::format)) return {errc::bad_value, "pool: it holds another storage than this compression moves", int(pool.format.code), int(Storage::format.code)};
    if (pool.order != Layout::order) return {errc::bad_value, "pool: it has another layout than this compression moves (nhd 0, hnd 1)", int(pool.order), int(Layout::order)};
    if (!(pool.shape == s)) return {errc::bad_shape, "pool: it has another shape than the cache was attached with", pool.shape.pages, s.pages};
    if (const status bad = detail::check_pool(pool, {"pool: its keys or values have no memory: use make_pool", "pool: its keys and values must begin on multiples of 16 bytes"}); !bad) return bad;
    if (s.key_dim != D) return {errc::bad_shape, "pool: key_dim must be D", s.key_dim, D};
    for (const int dim : {s.key_dim, s.value_dim})
      if (dim * int(sizeof(element)) % 16 != 0) return {errc::misaligned, "pool: a head's key and value must be multiples of 16 bytes, since they move one by one", dim * int(sizeof(element)), 16};
    return {};
  }
  static status check_plan(const workspace& plan, std::size_t need) {
    if (plan.data == nullptr || plan.size < need)
      return {errc::workspace_too_small, "plan is missing, or smaller than plan_bytes(args)", std::int64_t(plan.data == nullptr ? 0 : plan.size), std::int64_t(need)};
    if (const auto over = reinterpret_cast<std::uintptr_t>(plan.data) % carver::alignment; over != 0) return {errc::misaligned, "plan must begin on a boundary of 256 bytes", std::int64_t(over), 0};
    return {};
  }

  // ---- what a launch names
  struct row_list_kernel {
    using arguments = row_list_arguments<Layout>;
    template <target> using agent = row_list_agent<256, Layout>;
  };
  struct gather_kernel {
    using arguments = move_rows_arguments;
    template <target G> using agent = move_rows_agent<default_gather_tuning{}(G)>;
  };
  struct turn_kernel {
    using arguments = typename turn_rows_problem<element, D, Positions>::arguments;
    template <target G> using agent = turn_rows_agent<default_turn_tuning{}(G), element, D, Positions>;
  };

private:
  static bool known(const args& x) { return x.cache != nullptr && x.cache->is_resident(x.sequence) && x.counts != nullptr; }
  static int most_of(const args& x) {
    int most = 0;
    for (int t = 0; t < x.cache->shape().tracks(); ++t) most = x.counts[t] > most ? x.counts[t] : most;
    return most;
  }
  template <class Context> static status gather(const Context& context, const args& x, const row_lists& d, plane p) {
    const pool_shape& s = x.pool.shape;
    const int rows = s.pages * s.page * s.heads_in_page(), words = (p == plane::keys ? s.key_dim : s.value_dim) * int(sizeof(element)) / 4;
    int* data = reinterpret_cast<int*>(x.pool.planes[int(p)]);
    const long long distance = static_cast<long long>(rows) * words;
    return launch<gather_kernel>(context, {.from = {data, s.layers_in_page(), rows, words, distance, words}, .to = {data, s.layers_in_page(), rows, words, distance, words}, .source = d.source.data, .target = d.target.data, .count = d.source.rows * d.source.cols});
  }
  template <class Context> static status check_args(const Context&, const args& x) {
    const int tracks = x.pool.shape.tracks();
    if (x.counts == nullptr) return {errc::null_pointer, "counts is null: it needs a number for each track", 0, tracks};
    for (int t = 0; t < tracks; ++t)
      if (x.counts[t] < 0 || x.counts[t] > x.cache->tokens(x.sequence, t)) return {errc::bad_value, "counts: a track keeps none of its tokens, some or all", x.counts[t], x.cache->tokens(x.sequence, t)};
    if (x.kept.data == nullptr) return {errc::null_pointer, "kept is null: it says which tokens of each track stay", 0, tracks};
    if (x.kept.rows < tracks) return {errc::bad_shape, "kept needs a row for each track", x.kept.rows, tracks};
    if (x.kept.cols < most_of(x)) return {errc::bad_shape, "kept needs a column for each token that stays", x.kept.cols, most_of(x)};
    if (x.kept.stride < x.kept.cols) return {errc::bad_shape, "kept: the stride must be at least its columns", x.kept.stride, x.kept.cols};
    if (turns && x.frequencies == nullptr) return {errc::null_pointer, "frequencies is null, but keys turn: fill it with policy::fill_frequencies", 0, 2 * D};
    for (int t = 0; turns && t < tracks; ++t)
      if (x.cache->tokens(x.sequence, t) >= policy::position_reach) return {errc::out_of_reach, "a track has more tokens than positions are exact for", x.cache->tokens(x.sequence, t), policy::position_reach};
    const long long list = static_cast<long long>(tracks) * x.pool.shape.heads_in_page() * most_of(x);
    if (list > 2147483647ll) return {errc::out_of_reach, "tracks times tokens must be below 2^31", list, 2147483647ll};
    if constexpr (is_host<Context>)
      for (int t = 0; t < tracks; ++t) {
        const int* row = x.kept.data + t * static_cast<long long>(x.kept.stride);
        const int count = x.counts[t], length = x.cache->tokens(x.sequence, t);
        int falls = 0;
        for (int i = 1; i < count; ++i) falls |= row[i] <= row[i - 1];
        if (count > 0 && (falls || row[0] < 0 || row[count - 1] >= length)) return {errc::bad_value, "kept must ascend and name tokens of its track", row[count - 1], length};
      }
    return check_plan(x.plan, plan_bytes(x));
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
