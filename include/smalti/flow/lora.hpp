// Low-rank adapters, many in one batch: the update of a linear layer by rows' own adapters, its gradients, and merging. Shrinking
// and expanding are grouped products with paged rows (block/gemm/paged_rows.hpp). docs/ops/lora/README.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/gemm/paged_rows.hpp>
#include <smalti/block/lora/count.hpp>
#include <smalti/block/lora/mix.hpp>
#include <smalti/core/check_view.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/flow/in_steps.hpp>
#include <smalti/ops/gemm/grouped.hpp>
#include <smalti/ops/gemm/quantized.hpp>
#include <smalti/policy/formats.hpp>
#include <smalti/tile/launch.hpp>

namespace smalti::inline SMALTI_CODE::lora {

//! What these operations may be told besides their types.
struct options {
  static constexpr bool batch_invariant = false;     //!< a row's bits do not depend on the other rows of the batch
  static constexpr bool accumulates = false;         //!< sgmv_backward adds to da and db: a sequence's windows, one after another
  static constexpr int shard_width = 0;              //!< of paged_rows in shards: the same of gemm::grouped_options
  using offset = std::int32_t;                       //!< of the segments; std::int64_t for sgmv alone
};

//! Adapters of one projection: adapter e is y += scale[e] (x A_e') B_e, with A_e: rank[e] x H and B_e: rank[e] x H', whose rows
//! lie anywhere in a pool each, in one list of pages or two. Ranks may differ, and be 0. `most` of both is the largest rank.
//! S-LoRA's unified pages: both lists name cells of the pool that holds keys and values. Mixture of shards: `shards` above 1.
template <class T> struct adapters {
  gemm::paged_rows<T> a = {};
  gemm::paged_rows<T, true> b = {};
};

namespace detail {
template <class Options, gemm::b_order B, bool Adds> struct form : gemm::grouped_options {
  static constexpr gemm::b_order b = B;
  static constexpr bool named = true, adds = Adds, batch_invariant = Options::batch_invariant;
  static constexpr int shard_width = Options::shard_width;
  using offset = typename Options::offset;
};
template <class Offset, bool Adds> struct along : gemm::depth_options {
  static constexpr bool adds = Adds;
  using offset = Offset;
};
template <bool Host, class Offset> status check_all_rows(const segments<Offset>& s, int rows) {
  if constexpr (Host)
    if (s.count > 0 && s.offsets != nullptr && s.total() != rows) return {errc::bad_shape, "segments: their lengths must sum to the rows: are they those of another batch?", std::int64_t(s.total()), rows};
  return {};
}
template <class T, bool A, bool B> status check_ranks(const gemm::paged_rows<T, A>& a, const gemm::paged_rows<T, B>& b, bool host) {
  if (a.weights != b.weights) return {errc::bad_shape, "adapters: a and b need the same number of adapters", a.weights, b.weights};
  if (a.most != b.most) return {errc::bad_shape, "adapters: a and b need the same largest rank (most)", a.most, b.most};
  for (int e = 0; host && a.count != nullptr && b.count != nullptr && e < a.weights; ++e)
    if (a.count[e] != b.count[e]) return {errc::bad_shape, "adapters: an adapter has two ranks, that of a and that of b", a.count[e], b.count[e]};
  return {};
}
}  // namespace detail

//! y[r] += scale[e] (x[r] A_e') B_e for the rows r of segment s with adapter e = adapter[s]; a segment whose adapter is negative is
//! left alone. Two products: shrinking to float values of each row's rank, and expanding, which adds to y as it stores.
//!
//! @tparam X  of x: bf16, fp16 or float; T of the adapters: X, or a narrower one beside float x; Y of y
//! @pre   segments cover all rows (checked on the host); an adapter may serve any number of segments. Widths H and H' are whole
//!        multiples of 16 bytes; adapters lie where the work runs and are not freed before it is done
//! @post  same bits on every run, whatever the pages' order is. batch_invariant: a row's bits are those of a batch of its own
//! @note  cost: 2 rank (H + H') operations and elements of an adapter for each segment and tile of rows. Workspace: rows x the largest rank
//!        in floats
//! @note  error: (H + rank + 6) 2^-24 of the sum of magnitudes (a GPU rounds the values between to tf32: 2^-11), one rounding to Y
//! Sources: Chen et al. 2023, Punica, arXiv:2310.18547; Sheng et al. 2023, S-LoRA, arXiv:2311.03285; Hu et al. 2021, arXiv:2106.09685.
template <class X, class T = X, class Y = X, class Options = options> struct sgmv : flow::in_steps<sgmv<X, T, Y, Options>> {
  using offset = typename Options::offset;
  using shrink = gemm::grouped<X, T, float, policy::chain<>, detail::form<Options, gemm::b_order::n_by_k, false>, gemm::paged_rows<T>>;
  using expand = gemm::grouped<float, T, Y, policy::chain<>, detail::form<Options, gemm::b_order::k_by_n, true>, gemm::paged_rows<T, true>>;

  struct args {
    view<const X> x = {};                    //!< rows x H
    segments<offset> rows = {};
    const int* adapter = nullptr;            //!< [segments]
    adapters<T> weights = {};
    view<Y> y = {};                          //!< rows x H'
    const offset* end = nullptr;             //!< null: segments cover all rows; or [segments]: only the rows before end[s] are in use
  };
  static bool idle(const args& x) { return x.weights.a.most == 0; }
  template <class Context> static status refuse(const Context&, const args& x) {
    return first_of([&] { return detail::check_ranks(x.weights.a, x.weights.b, is_host<Context>); }, [&] { return x.end == nullptr ? detail::check_all_rows<is_host<Context>>(x.rows, x.x.rows) : status{}; });
  }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    const int wide = round_up(x.weights.a.most, 16);
    const view<float> values{carve.place<float>(std::size_t(x.x.rows) * std::size_t(wide)), x.x.rows, wide, wide};
    typename shrink::args in{};
    in.a = x.x, in.b = x.weights.a, in.c = values, in.rows = x.rows, in.end = x.end, in.weight = x.adapter;
    typename expand::args out{};
    out.a = reading(values), out.b = x.weights.b, out.c = x.y, out.rows = x.rows, out.end = x.end, out.weight = x.adapter;
    return first_of([&] { return step(shrink{}, in); }, [&] { return step(expand{}, out); });
  }
};

//! sgmv over a batch in any order: row r has adapter adapter[r], or none where that is negative (decode: one row of each request).
//! Rows of one adapter that follow each other are not gathered into one segment: sort the batch and take sgmv for that.
template <class X, class T = X, class Y = X, class Options = options> struct bgmv : flow::in_steps<bgmv<X, T, Y, Options>> {
  using offset = typename Options::offset;
  static_assert(std::is_same_v<offset, std::int32_t>, "smalti: bgmv makes its offsets itself, of 32 bits: leave options::offset as it is");
  using segmented = sgmv<X, T, Y, Options>;
  struct args {
    view<const X> x = {};                    //!< rows x H
    const int* adapter = nullptr;            //!< [rows]
    adapters<T> weights = {};
    view<Y> y = {};                          //!< rows x H'
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else {
      if (x.x.rows < 0) return {errc::bad_shape, "x: extents must not be negative", x.x.rows, 0};
      if (x.x.rows > 0 && x.adapter == nullptr) return {errc::null_pointer, "adapter is null: it needs an entry for each row", 0, x.x.rows};
      // every row at once, by its first adapter: what does not depend on where rows begin
      const offset all[2] = {0, x.x.rows};
      if constexpr (is_host<Context>) {
        for (int r = 0; r < x.x.rows; ++r)
          if (x.adapter[r] >= x.weights.a.weights) return {errc::bad_value, "adapter: an entry is beyond the adapters", x.adapter[r], x.weights.a.weights};
        return segmented::check(context, {x.x, {all, x.x.rows > 0 ? 1 : 0}, x.adapter, x.weights, x.y});
      } else {
        return segmented::check(context, {x.x, {all, x.x.rows}, x.adapter, x.weights, x.y});
      }
    }
  }
  static bool idle(const args& x) { return x.x.rows == 0; }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    offset* const offsets = carve.place<offset>(std::size_t(x.x.rows) + 1);
    return first_of([&] { return step(flow::started<count_kernel<offset>>{}, typename flow::started<count_kernel<offset>>::args{{{offsets, 1, x.x.rows + 1, x.x.rows + 1}}}); },
                    [&] { return step(segmented{}, typename segmented::args{x.x, {offsets, x.x.rows}, x.adapter, x.weights, x.y}); });
  }
};

//! sgmv over pages that adapters share with each other and with a cache: the name of S-LoRA's system here. Pages are given out by
//! any allocator (cache::page_allocator counts their holders); what is freed must leave the lists first.
template <class X, class T = X, class Y = X, class Options = options> using s_lora = sgmv<X, T, Y, Options>;

//! A linear layer and its adapters: y = base(x), then y[r] += the update of the row's adapter.
//! @tparam Base  gemm::dense or gemm::weight_only and kin, of one weight for all rows
template <class Base, class X, class T = X, class Y = X, class Options = options> struct adapted {
  using update = sgmv<X, T, Y, Options>;
  struct args {
    typename Base::args base = {};
    typename update::args low_rank = {};      //!< x and y as those of base
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    return first_of([&] { return Base::check(context, x.base); }, [&] { return update::check(context, x.low_rank); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    const std::size_t a = Base::workspace_bytes(context, x.base), b = update::workspace_bytes(context, x.low_rank);
    return a > b ? a : b;
  }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    static_assert(explain_context<Context>());
    return first_of([&] { return check(context, x); }, [&] { return Base::run(context, x.base, memory); }, [&] { return update::run(context, x.low_rank, memory); });
  }
};
//! A frozen base in NF4, blocks of 64 with one scale each, and adapters of 16 bits.
//! Source: Dettmers et al. 2023, QLoRA, arXiv:2305.14314.
template <class X = bf16, class Y = X, class Options = options> using qlora = adapted<gemm::weight_only<policy::bnb_nf4<64>, policy::chain<>, X, Y>, X, X, Y, Options>;

//! sgmv whose rank rows are several lines, shards of pools that rows share: give paged_rows shards above 1, and lists of their own
//! for a and b. Shards have a width of 64 or a multiple (Options::shard_width). sgmv_backward with the same options gives da and db by rows;
//! a shard's gradient is the sum of those of the places it stands in (moe::combine over an index of places by lines).
//! Source: Wang et al. 2024, MoS, arXiv:2410.00938.
struct shard_options : options {
  static constexpr int shard_width = 64;
};
template <class X, class T = X, class Y = X, class Options = shard_options> using mos = sgmv<X, T, Y, Options>;

//! Adapters of tasks, mixed of skills: mix_agent has the formula. Call it for A and for B, and give what it made to sgmv: mixing parameters
//! is not mixing results, since (sum a_i A_i)(sum a_j B_j) has cross terms. One head is Poly; more are MHR, each head having
//! H / heads columns of A, and of B.
//! @post  same bits on every run; a task's do not depend on the others. One rounding to T
//! Sources: Ponti et al. 2023, Poly, arXiv:2202.13914; Caccia et al. 2023, MHR, arXiv:2211.03831.
template <class T> struct mhr {
  struct args {
    stack<const T> skills = {};            //!< rank x H each
    const float* logits = nullptr;         //!< [tasks][heads][skills]
    stack<T> mixed = {};                   //!< rank x H for each task
    int heads = 1;
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else {
      if (const status bad = first_of([&] { return check_context(base_of(context)); }, [&] { return check_view<"skills">(x.skills[0]); }, [&] { return check_view<"mixed">(x.mixed[0]); }); !bad) return bad;
      if (x.skills.count < 1 || x.mixed.count < 0) return {errc::bad_shape, "skills: there must be one at least", x.skills.count, 1};
      if (x.mixed.rows != x.skills.rows || x.mixed.cols != x.skills.cols) return {errc::bad_shape, "mixed needs the extents of a skill", x.mixed.rows, x.skills.rows};
      if (x.heads < 1 || x.mixed.cols % x.heads != 0) return {errc::bad_shape, "heads must divide the columns", x.mixed.cols, x.heads};
      if (x.logits == nullptr && x.mixed.count > 0) return {errc::null_pointer, "logits is null: it needs a number for each task, head and skill", 0, std::int64_t(x.mixed.count) * x.heads * x.skills.count};
      const long long matrix = static_cast<long long>(x.mixed.rows) * x.mixed.stride;
      if (x.mixed.count > 1 && x.mixed.distance < matrix) return {errc::aliased, "mixed: its matrices must not overlap", x.mixed.distance, matrix};
      const byte_range out{reinterpret_cast<const char*>(x.mixed.data), reinterpret_cast<const char*>(x.mixed.data + (x.mixed.count - 1) * x.mixed.distance + matrix)};
      const byte_range in{reinterpret_cast<const char*>(x.skills.data), reinterpret_cast<const char*>(x.skills.data + (x.skills.count - 1) * x.skills.distance + static_cast<long long>(x.skills.rows) * x.skills.stride)};
      if (x.mixed.count > 0 && out.meets(in)) return {errc::aliased, "mixed must not overlap skills: blocks read them while others write"};
      return {};
    }
  }
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) { return 0; }
  template <class Context> static status run(const Context& context, const args& x, workspace = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = check(context, x); !bad) return bad;
      if (x.mixed.count == 0 || x.mixed.rows == 0 || x.mixed.cols == 0) return {};
      return launch<mix_kernel<T>>(base_of(context), {x.skills, x.logits, x.mixed, x.heads, x.mixed.cols / x.heads});
    } else {
      return check(context, x);
    }
  }
};
template <class T> using poly = mhr<T>;

//! Gradients of sgmv. With v = scale x A', w = scale dy B', both of each row's adapter:
//!     dx[r] += w A,   da[s] = w' x,   db[s] = v' dy      over the rows of segment s
//! Rows of da and db past the adapter's rank are zero; a segment without an adapter gives zeros. Adapters that serve several
//! segments have the sum of theirs. The base is frozen: neither its weight's gradient nor y is needed (FlexLLM: a batch may hold
//! inference rows as segments without an adapter, here and in the forward pass).
//! @post  same bits on every run
//! Source: Miao et al. 2024, FlexLLM, arXiv:2402.18789.
template <class X, class T = X, class DX = X, class Options = options> struct sgmv_backward : flow::in_steps<sgmv_backward<X, T, DX, Options>> {
  using offset = typename Options::offset;
  static_assert(std::is_same_v<offset, std::int32_t>, "smalti: sgmv_backward makes offsets of its own, of 32 bits: convert the segments' offsets to std::int32_t");
  using shrink = gemm::grouped<X, T, float, policy::chain<>, detail::form<Options, gemm::b_order::n_by_k, false>, gemm::paged_rows<T, true>>;
  using expand = gemm::grouped<float, T, DX, policy::chain<>, detail::form<Options, gemm::b_order::k_by_n, true>, gemm::paged_rows<T>>;
  using along = gemm::grouped_depth<float, X, float, policy::chain<>, detail::along<offset, Options::accumulates>>;

  struct args {
    view<const X> x = {}, dy = {};           //!< rows x H, rows x H'
    segments<offset> rows = {};
    const int* adapter = nullptr;            //!< [segments]
    adapters<T> weights = {};
    view<DX> dx = {};                        //!< rows x H: the adapters' share is added; null: not wanted
    stack<float> da = {}, db = {};           //!< [segments] most x H, most x H', most rounded up to 16; options::accumulates: added to; null: not wanted
    const offset* end = nullptr;             //!< null: segments cover all rows; or [segments]: only the rows before end[s] are in use
  };
  static bool idle(const args& x) { return x.weights.a.most == 0; }
  template <class Context> static status refuse(const Context&, const args& x) {
    return first_of([&] { return detail::check_ranks(x.weights.a, x.weights.b, is_host<Context>); }, [&] { return x.end == nullptr ? detail::check_all_rows<is_host<Context>>(x.rows, x.x.rows) : status{}; });
  }
  template <class Context, class Step> static status steps(const Context&, const args& x, carver& carve, Step step) {
    const int rows = x.x.rows, wide = round_up(x.weights.a.most, 16);
    const std::size_t elements = std::size_t(rows) * std::size_t(wide);
    const view<float> v{carve.place<float>(elements), rows, wide, wide}, w{carve.place<float>(elements), rows, wide, wide};
    offset* const ends = carve.place<offset>(std::size_t(x.rows.count));      // segments without an adapter have no rows: whatever their dy holds
    const auto& a = x.weights.a;
    const auto& b = x.weights.b;
    const gemm::paged_rows<T, true> scaled_a{a.pool, a.first, a.count, a.line, b.scale, a.shards, a.weights, a.most, a.lines};
    const auto down = [&](const view<const X>& from, const gemm::paged_rows<T, true>& weights, const view<float>& to) {
      typename shrink::args s{};
      s.a = from, s.b = weights, s.c = to, s.rows = x.rows, s.end = x.end, s.weight = x.adapter;
      return step(shrink{}, s);
    };
    const auto gradient = [&](const view<float>& values, const view<const X>& of, const stack<float>& to) {
      typename along::args s{};
      s.a = reading(values), s.b = of, s.c = to, s.rows = x.rows, s.end = carve.base != nullptr ? ends : nullptr;      // written when they are read
      return step(along{}, s);
    };
    return first_of([&] { return step(flow::cleared{}, flow::cleared::args{v.data, elements * sizeof(float)}); },      // columns past a rank count as zeros
                    [&] { return step(flow::cleared{}, flow::cleared::args{w.data, elements * sizeof(float)}); }, [&] { return x.db.data != nullptr ? down(x.x, scaled_a, v) : status{}; }, [&] { return down(x.dy, b, w); },
                    [&] { return step(flow::started<ends_kernel<offset>>{}, typename flow::started<ends_kernel<offset>>::args{{x.rows.offsets, x.end != nullptr ? x.end : x.rows.count > 0 ? x.rows.offsets + 1 : nullptr, x.adapter, {ends, 1, x.rows.count, x.rows.count}}}); },
                    [&] { return x.da.data != nullptr ? gradient(w, x.x, x.da) : status{}; }, [&] { return x.db.data != nullptr ? gradient(v, x.dy, x.db) : status{}; },
                    [&] {
                      typename expand::args s{};
                      s.a = reading(w), s.b = a, s.c = x.dx, s.rows = x.rows, s.end = x.end, s.weight = x.adapter;
                      return x.dx.data != nullptr ? step(expand{}, s) : status{};
                    });
  }
};

//! W += scale B' A: an adapter, whose rank rows lie one after another, becomes part of the weight. With -scale it leaves again.
//! @tparam W  of the weight, float, bf16 or fp16: each call rounds it once. Merging and unmerging give back each element to within
//!            2^-24 (float), 2^-8 (bf16) or 2^-11 (fp16) of its magnitude before and after, and (rank + 2) 2^-24 of the update's sum of magnitudes
template <class T, class W> struct merge {
  using product = gemm::grouped_depth<T, T, W, policy::chain<policy::scale>, detail::along<std::int32_t, true>>;
  struct args {
    view<const T> a = {}, b = {};      //!< rank x H, rank x N
    view<W> weight = {};               //!< N x H
    float scale = 1;                   //!< alpha / rank; negative: unmerge
    const std::int32_t* bounds = nullptr;      //!< {0, rank}, where the work runs
  };
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if (x.bounds == nullptr) return {errc::null_pointer, "bounds is null: it needs the two numbers 0 and rank", 0, 2};
    return product::check(context, product_of(x));
  }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) { return product::workspace_bytes(context, product_of(x)); }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    if (const status bad = check(context, x); !bad) return bad;
    return product::run(context, product_of(x), memory);
  }

private:
  static typename product::args product_of(const args& x) {
    typename product::args p{};
    p.a = x.b, p.b = x.a, p.c = {x.weight.data, 1, x.weight.rows, x.weight.cols, 0, x.weight.stride}, p.rows = {x.bounds, 1}, p.epilogue = {{x.scale}, {}};
    return p;
  }
};

}  // namespace smalti::inline SMALTI_CODE::lora
