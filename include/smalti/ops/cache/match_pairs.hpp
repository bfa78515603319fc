// Scores of tokens by how well another one stands for them: bipartite matching. docs/ops/cache/compress.md.
#pragma once
#include <cstddef>
#include <smalti/block/cache/merge.hpp>
#include <smalti/block/cache/pairs.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/ops/cache/compact.hpp>
#include <smalti/ops/cache/merge.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! scores[track][t] for compress with policy::bipartite: of the even tokens of a track, minus the greatest cosine between their key and an odd token's; 2
//! for odd tokens. So what compress lets go first are the even tokens that an odd one resembles most, and policy::merge folds them in.
//!
//!     using system = cache::compress<bf16, 64, policy::bipartite<>, policy::uniform, policy::merge<policy::merge_weight::cosine_mean, policy::merge_gate::own>>;
//!     using match = cache::match_pairs<bf16, 64>;
//!     match::run(context, {.cache = &paged, .sequence = s, .pool = pool, .scores = scores, .plan = of match::plan_bytes}, memory);
//!     system::run(context, ...);                  // the same scores
//!
//! @pre   what was appended is written. On a GPU: plan lies in memory that both the host and its kernels reach, and is not used again before the work is done
//! @post  run_to_run. A refused call writes nothing
//! @note  D tokens^2 / 2 operations a head, one read of half the keys for each tile of the others. Heads that share a track: their mean. Source: the matching of
//!        Bolya et al. 2022, arXiv:2210.09461 (ToMe), which PYRA, Xiong et al. 2024, arXiv:2403.09192, keeps. What differs: an odd token may take in what another
//!        survivor resembles still more, since policy::merge looks among all that stay
template <class T, int D, class Storage = policy::kv_plain<T>, class Layout = policy::nhd, class Hash = content_hash>
struct match_pairs {
  static_assert(D % 16 == 0, "smalti: keys that are matched have a multiple of 16 columns");
  using element = typename Storage::element;
  using paged_cache = paged<Storage, Layout, Hash>;
  static constexpr determinism level = determinism::run_to_run;

  struct args {
    const paged_cache* cache = nullptr;
    cache::sequence sequence{};
    page_pool pool{};
    view<float, 1> scores{};                   //!< [track][token], as many columns as the longest track has tokens, or more
    workspace plan{};                          //!< plan_bytes, which the host writes and kernels read
  };

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return compact<D, policy::keep_original, Storage, Layout, Hash>::check_pool_of(x.cache, x.sequence, x.pool); }, [&] { return check_args(x); });
  }
  //! Of what the host writes. Reads the sequence's lengths.
  static std::size_t plan_bytes(const args& x) { return known(x) ? lay_out_plan(x, nullptr).bytes : 0; }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args& x) {
    static_assert(explain_context<Context>());
    return known(x) ? lay_out(x, nullptr).bytes : 0;
  }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    if constexpr (runs_here<Context>) {
      const pool_shape& s = x.cache->shape();
      const int tracks = s.tracks(), heads = s.heads_in_page();
      const host_plan h = lay_out_plan(x, x.plan.data);
      const device_plan d = lay_out(x, memory.data);
      if (const status bad = x.cache->tables(&x.sequence, 1, h.width, h.table, static_cast<long long>(tracks) * (h.width + 1)); !bad) return bad;
      for (int t = 0; t < tracks; ++t) h.length[t] = x.cache->tokens(x.sequence, t), h.even[t] = (h.length[t] + 1) / 2, h.odd[t] = h.length[t] / 2;
      const auto keys = reading(pool_rows<element>(x.pool, plane::keys, 0));
      const view<const int, 1> table{h.table, tracks, h.width, h.width};
      const auto base = base_of(context);
      if (d.even.cols == 0) return {};
      return first_of([&] { return launch<rows_kernel>(base, {table, h.length, s.page, heads, 0, d.even}); }, [&] { return launch<rows_kernel>(base, {table, h.length, s.page, heads, 1, d.odd}); },
                      [&] { return launch<norm_kernel>(base, {.pool = keys, .rows = reading(d.even), .out = d.even_norms}); }, [&] { return launch<norm_kernel>(base, {.pool = keys, .rows = reading(d.odd), .out = d.odd_norms}); },
                      [&] {
                        return launch<nearest_kernel>(base, {.pool = keys, .dropped = reading(d.even), .kept = reading(d.odd), .dropped_norms = reading(d.even_norms), .kept_norms = reading(d.odd_norms), .gone = h.even, .count = h.odd,
                                                             .heads_in_page = heads, .similarity = d.similarity, .nearest = d.nearest});
                      },
                      [&] { return launch<scores_kernel>(base, {.similarity = reading(d.similarity), .length = h.length, .heads_in_page = heads, .scores = {x.scores.data, tracks, x.scores.cols, x.scores.stride}}); });
    } else {
      return {};
    }
  }

  // ---- what a launch names
  using merging = merge_rows<T, D, Storage, Layout, Hash, policy::merge<>>;
  using norm_kernel = typename merging::norm_kernel;
  using nearest_kernel = typename merging::nearest_kernel;
  struct rows_kernel {
    using arguments = pair_rows_arguments;
    template <target> using agent = pair_rows_agent<256, Layout>;
  };
  struct scores_kernel {
    using arguments = pair_scores_arguments;
    template <target> using agent = pair_scores_agent<256>;
  };

private:
  static bool known(const args& x) { return x.cache != nullptr && x.cache->is_resident(x.sequence); }
  static int longest(const args& x) {
    int n = 0;
    for (int t = 0; t < x.cache->shape().tracks(); ++t) n = x.cache->tokens(x.sequence, t) > n ? x.cache->tokens(x.sequence, t) : n;
    return n;
  }
  struct host_plan {
    int *table, *length, *even, *odd, width;
    std::size_t bytes;
  };
  static host_plan lay_out_plan(const args& x, std::byte* base) {
    const std::size_t tracks = std::size_t(x.cache->shape().tracks());
    carver carve{base};
    host_plan p{};
    p.width = ceil_div(longest(x), x.cache->shape().page);
    p.table = carve.take<int>(tracks * (std::size_t(p.width) + 1));
    p.length = carve.take<int>(tracks), p.even = carve.take<int>(tracks), p.odd = carve.take<int>(tracks);
    p.bytes = carve.used;
    return p;
  }
  struct device_plan {
    view<int, 1> even, odd, nearest;
    view<float, 1> even_norms, odd_norms, similarity;
    std::size_t bytes;
  };
  static device_plan lay_out(const args& x, std::byte* base) {
    const int lists = x.cache->shape().tracks() * x.cache->shape().heads_in_page(), half = (longest(x) + 1) / 2;
    carver carve{base};
    device_plan p{};
    for (view<int, 1>* of : {&p.even, &p.odd, &p.nearest}) *of = {carve.take<int>(std::size_t(lists) * half), lists, half, half};
    for (view<float, 1>* of : {&p.even_norms, &p.odd_norms, &p.similarity}) *of = {carve.take<float>(std::size_t(lists) * half), lists, half, half};
    p.bytes = carve.used;
    return p;
  }
  static status check_args(const args& x) {
    const pool_shape& s = x.cache->shape();
    if (s.layers > 1 && !s.per_layer) return {errc::bad_value, "pool: its layers share pages, so they cannot keep tokens of their own: make it with per_layer", s.layers, 1};
    if (s.key_dim != D) return {errc::bad_shape, "pool: keys must have D columns", s.key_dim, D};
    const int n = longest(x);
    if (x.scores.data == nullptr) return {errc::null_pointer, "scores is null: it needs a row for each track", 0, s.tracks()};
    if (x.scores.rows < s.tracks() || x.scores.cols < n) return {errc::bad_shape, "scores needs a row for each track and a column for each of its tokens", x.scores.cols, n};
    if (x.scores.stride < x.scores.cols) return {errc::bad_shape, "scores: the stride must be at least its columns", x.scores.stride, x.scores.cols};
    if (const long long cells = static_cast<long long>(s.tracks()) * s.heads_in_page() * n; cells > 2147483647ll) return {errc::out_of_reach, "tracks, heads and tokens of a matching must be fewer than 2^31", cells, 2147483647ll};
    return compact<D, policy::keep_original, Storage, Layout, Hash>::check_plan(x.plan, plan_bytes(x));
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
