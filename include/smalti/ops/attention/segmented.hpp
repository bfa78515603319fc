// Attention to keys in several memories. docs/ops/attention/segmented.md.
#pragma once
#include <cstddef>
#include <tuple>
#include <type_traits>
#include <smalti/block/attention/kv_quantized.hpp>
#include <smalti/block/attention/segments.hpp>
#include <smalti/block/position/rotate.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/attention/merge.hpp>
#include <smalti/ops/attention/partials.hpp>
#include <smalti/ops/attention/quantized.hpp>

namespace smalti::inline SMALTI_CODE::attention {

template <int D, int ValueDim, class Keys, class Values> status check_kv(const paired_kv<Keys, Values>& kv, bool readable) {
  if (const status bad = check_kv<D, ValueDim>(kv.keys, readable); !bad) return bad;
  if (const status bad = check_kv<D, ValueDim>(kv.values, readable); !bad) return bad;
  if (kv_sequences(kv.keys) != kv_sequences(kv.values) || kv.keys.heads() != kv.values.heads()) return {errc::bad_shape, "kv.values: needs the sequences and heads of kv.keys", kv.values.heads(), kv.keys.heads()};
  if (kv.values.longest() < kv.keys.longest()) return {errc::bad_shape, "kv.values: needs as many rows as kv.keys", kv.values.longest(), kv.keys.longest()};
  return {};
}
template <class Keys, class Values> int kv_sequences(const paired_kv<Keys, Values>& kv) { return kv_sequences(kv.keys); }
template <class Keys, class Values> bool overlaps(const paired_kv<Keys, Values>& kv, byte_range o, bool readable) { return overlaps(kv.keys, o, readable) || overlaps(kv.values, o, readable); }

//! o = softmax over all keys of all segments: partial results of every segment, in float, merged by their log-sum-exps in the order
//! of the list. A segment without keys counts for nothing.
//!
//! @tparam Segments  segment<Kv, Mask, Queries>: where keys lie (any source of attention::flash), which of them a query sees, and what
//!                   is done to the queries first: same_queries, turned_queries (keys with positions of their own origin),
//!                   scaled_queries (keys that were divided channel by channel)
//! @pre   turned or scaled queries are [sequence][row][head][D], heads without gaps and all rows at one distance, as in the columns of a wider matrix; D a multiple of 32 where they are turned
//! @post  as flash; the bits depend on how keys are split into segments, within float's rounding of the merge
//! @note  cost: attention to every segment, a pass over q for each that changes it, a merge. workspace: a partial result for each
//!        segment, and one q where any is changed
template <class T, int D, class Options, class... Segments>
struct segmented {
  static constexpr int count = sizeof...(Segments);
  static_assert(count >= 1, "smalti: segmented attention needs at least one segment");
  template <class S> using op = flash<T, D, typename S::source, typename S::mask_type, partial_options<Options>>;
  using out = std::conditional_t<std::is_void_v<typename Options::out>, T, typename Options::out>;
  using merge = attention::merge<float, out>;
  using options_type = Options;
  using normalizer = typename Options::normalizer;
  static_assert(normalizer::shifts, "smalti: partial results are merged by their log-sum-exps: choose a normalizer that has one, as softmax");
  static constexpr int value_dim = Options::value_dim == 0 ? D : Options::value_dim;
  struct args {
    head_rows<const T> q = {};
    std::tuple<Segments...> segments = {};
    head_rows<out> o = {};
    head_rows<float> lse = {};
    float scale = 0;                            //!< 0 takes 1 / sqrt(D)
    int split_keys = 0;                         //!< as of flash, in every segment
  };

  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (changes_queries)
      if (x.q.offsets != nullptr || x.q.head_stride != D || x.q.row_stride < x.q.heads * D || (x.q.sequences > 1 && x.q.sequence_stride != static_cast<long long>(x.q.rows) * x.q.row_stride))
        return {errc::bad_shape, "q must be [sequence][row][head][D], heads without gaps and rows at one distance, where a segment turns or scales it"};
    if (const status bad = first_of([&] { return detail::check_rows<"o", step_of<out>>(x.o, value_dim); }, [&] { return detail::check_same_rows<"o", "q">(x.o, x.q); }); !bad) return bad;
    const plan p = lay_out(context, x, nullptr);
    return each(x, [&](const auto& s, int n) {
      if (const status bad = check_queries(s.queries); !bad) return bad;
      return std::remove_cvref_t<decltype(op_of(s))>::check(context, arguments(s, x, p, n, true));
    });
  }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) { return lay_out(context, x, nullptr).bytes; }
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    if (x.q.sequences == 0 || x.q.rows == 0 || x.q.heads == 0) return {};
    const plan p = lay_out(context, x, memory.data);
    if (const status bad = each(x, [&](const auto& s, int n) {
          if (const status change = prepare(context, s.queries, x, p); !change) return change;
          return std::remove_cvref_t<decltype(op_of(s))>::run(context, arguments(s, x, p, n, false), p.rest);
        }); !bad) return bad;
    return merge::run(context, {.o = read_only(p.parts.o_of(x.q, value_dim, 0)), .lse = read_only(p.parts.lse_of(x.q, 0)), .o_distance = p.parts.o_distance, .lse_distance = p.parts.lse_distance,
                                .parts = count, .result = x.o, .result_lse = x.lse});
  }

  // ---- what a launch names: kernels are not for callers
  struct turn_kernel {
    using problem = rotary::rotary_problem<T, false, D, D>;
    using arguments = typename problem::arguments;
    template <target G> using agent = rotary::rotary_agent<G == target::host ? rotary::rotary_tuning{4, 64} : rotary::rotary_tuning{16, 4}, problem>;
  };
  struct scale_kernel {
    using problem = scale_queries_problem<T>;
    using arguments = typename problem::arguments;
    template <target G> using agent = scale_queries_agent<G == target::host ? scale_queries_tuning{8, 128} : scale_queries_tuning{16, 64}, problem>;
  };

private:
  template <class S> static constexpr bool changes = !std::is_same_v<typename S::queries_type, same_queries>;
  static constexpr bool changes_queries = (changes<Segments> || ...);
  struct plan {
    T* changed;
    partial_results parts;
    workspace rest;
    std::size_t bytes;
  };
  template <class S> static op<S> op_of(const S&);
  // work(segment, its number), until one is refused.
  template <int I = 0, class Work> static status each(const args& x, const Work& work) {
    if constexpr (I < count) {
      if (const status bad = work(std::get<I>(x.segments), I); !bad) return bad;
      return each<I + 1>(x, work);
    } else {
      return {};
    }
  }
  static status check_queries(const same_queries&) { return {}; }
  static status check_queries(const turned_queries& q) {
    if (q.positions == nullptr || q.frequencies == nullptr) return {errc::null_pointer, "segments: turned_queries need positions, one for each row of each sequence, and frequencies, 4 x D / 2"};
    return {};
  }
  static status check_queries(const scaled_queries& q) {
    if (q.factor == nullptr) return {errc::null_pointer, "segments: scaled_queries.factor is null: one for each channel of each query head"};
    return {};
  }
  template <class Context> static status prepare(const Context&, const same_queries&, const args&, const plan&) { return {}; }
  template <class Context> static status prepare([[maybe_unused]] const Context& context, const turned_queries& by, const args& x, const plan& p) {
    const int tokens = x.q.sequences * x.q.rows, width = x.q.heads * D;
    if constexpr (runs_here<Context>)
      return launch<turn_kernel>(base_of(context), {.x = {x.q.data, tokens, width, x.q.row_stride}, .y = {p.changed, tokens, width, width}, .positions = {by.positions, 1, tokens, tokens},
                                                    .frequencies = {by.frequencies, 4, D / 2, D / 2}, .heads = x.q.heads, .scale = by.attention_scale, .direction = 1, .copies = false});
    else return {};
  }
  template <class Context> static status prepare([[maybe_unused]] const Context& context, const scaled_queries& by, const args& x, const plan& p) {
    const int tokens = x.q.sequences * x.q.rows, width = x.q.heads * D;
    if constexpr (runs_here<Context>) return launch<scale_kernel>(base_of(context), {.x = {x.q.data, tokens, width, x.q.row_stride}, .y = {p.changed, tokens, width, width}, .factor = by.factor});
    else return {};
  }
  // For a check before there is memory: o gets an address that nothing else has, and the lse is left out.
  template <class S> static typename op<S>::args arguments(const S& s, const args& x, const plan& p, int n, bool only_checked) {
    head_rows<const T> q = x.q;
    head_rows<float> o = p.parts.o_of(x.q, value_dim, n);
    if (only_checked) o.data = reinterpret_cast<float*>(carver::alignment);
    else if (changes<S>) q.data = p.changed, q.row_stride = q.heads * D, q.sequence_stride = static_cast<long long>(q.rows) * q.row_stride;
    typename op<S>::args a{.q = q, .kv = s.kv, .o = o, .scale = x.scale, .split_keys = x.split_keys, .mask = s.mask};
    if (!only_checked) a.lse = p.parts.lse_of(x.q, n);
    return a;
  }
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    carver carve{base};
    plan p{};
    if (changes_queries) p.changed = carve.take<T>(std::size_t(x.q.sequences) * x.q.rows * x.q.heads * D);
    p.parts = partial_results::take(carve, x.q, value_dim, count);
    std::size_t most = 0;
    static_cast<void>(each(x, [&](const auto& s, int n) {
      const std::size_t bytes = std::remove_cvref_t<decltype(op_of(s))>::workspace_bytes(context, arguments(s, x, p, n, true));
      most = bytes > most ? bytes : most;
      return status{};
    }));
    p.rest = {carve.take<std::byte>(most), most};
    p.bytes = carve.used;
    return p;
  }
};

namespace detail {
template <class T, int D, class Options, class Tuple> struct segmented_over;
template <class T, int D, class Options, class... Segments> struct segmented_over<T, D, Options, std::tuple<Segments...>> { using type = segmented<T, D, Options, Segments...>; };
}  // namespace detail

//! The attention that reads a cache of several memories: Cache::segments is its std::tuple of segments (cache::kivi, cache::mikv).
template <class T, int D, class Cache, class Options = options> using over_segments = typename detail::segmented_over<T, D, Options, typename Cache::segments>::type;

}  // namespace smalti::inline SMALTI_CODE::attention
