// How much attention each cached token gets: the score pass that eviction chooses by.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/attention/kv.hpp>
#include <smalti/block/score/attention_mass.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/ops/cache/pool.hpp>
#include <smalti/policy/cache/scorer.hpp>
#include <smalti/policy/lse.hpp>
#include <smalti/tile/launch.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in observe.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent                                  sm_80  sm_89  sm_90  sm_100  sm_120  tried
// attention that keys get                32x64  32x64  32x64  16x64   32x64   10
// attention that keys get, log-sum-exps  32x64  32x64  32x64  16x64   32x64   10
// swept: end

namespace smalti::inline SMALTI_CODE::cache {

//! Queries of few rows and of many have a shape of their own on the host.
struct default_mass_tuning {
  SMALTI_HD constexpr attention::mass_tuning operator()(target t) const {
    if (t == target::host) return {.m = 32, .n = 256, .chunk = 0};
    return {.m = t == target::sm100 ? 16 : 32, .n = 64, .chunk = 64};      // from machine code: 32 rows spill on sm_100
  }
};

//! One layer of a paged cache as attention and observe read it, with pages of all heads or of each.
//! @param layer  of the model; @param where what batch_tables::at(base, layer) gives; @param most tokens of the longest track, or more
template <class E, class Layout = policy::nhd>
attention::paged_kv<E> kv_of(const page_pool& pool, int layer, const pages& where, int sequences, int most) {
  const pool_shape& s = pool.shape;
  const auto plane_of = [&](plane p, int dim) {
    const E* data = pool_rows<E>(pool, p, s.per_layer ? 0 : layer).data;
    auto made = attention::pool_of(Layout{}, data, s.pages, s.page, s.heads_in_page(), dim);
    if (s.per_head) made.heads = s.kv_heads, made.head_stride = 0;      // every head has pages of its own: the table says which
    return made;
  };
  return {plane_of(plane::keys, s.key_dim), plane_of(plane::values, s.value_dim), where, sequences, most};
}

//! scores[s * rows + r][j] = kept scores[s * rows + r][j] + reduce over the heads of row r of sum over the last queries i of exp(scale q_i . k_j - lse_i)
//! for every token j of the track; a query sees the tokens up to its own. rows = kv heads / heads_per_track.
//!
//! @tparam T       bf16 or fp16: element of queries and of the product
//! @tparam Scorer  policy::observation_window, accumulated, last_query: which queries count, how heads are reduced
//! @tparam Kv      attention::paged_kv<E> or dense_kv<E>: keys alone are read
//! @tparam Lse     policy::lse_e<float> (attention::flash's default) or lse_2<float>: the base of `lse`
//! @pre   the queries are the last tokens of their sequences, all of which are in every track. Scores that are kept are finite
//! @post  run_to_run: sums in a fixed order; a sequence's bits do not depend on the others
//! @note  2 queries tokens D heads operations, half of them where all tokens are queries, and one read of the keys for each
//!        tile of queries' heads; the same again where lse is not given. Workspace: only then. Source: LSE reuse as in FlashAttention's
//!        backward pass, arXiv:2205.14135
template <class T, int D, class Scorer, class Kv = attention::paged_kv<T>, class Lse = policy::lse_e<float>>
struct observe {
  static_assert(policy::explain_cache_scorer<Scorer>());
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, fp16>, "smalti: observe multiplies queries of bf16 or fp16: convert them");
  static_assert(policy::is_lse<Lse>, "smalti: observe's lse names its base: policy::lse_e<float> or policy::lse_2<float>");
  static_assert(D > 0 && D % 8 == 0, "smalti: observe takes heads of a multiple of 8 columns: pad the last dimension");
  static constexpr determinism level = determinism::run_to_run;

  struct args {
    attention::head_rows<const T> q = {};      //!< [sequence][row][head]: the newest rows; of more than the scorer's window its last ones count
    attention::head_rows<const float> lse = {};//!< one column, the same rows; null: computed here, at the price of a second pass
    Kv kv = {};
    int heads_per_track = 1;                   //!< key heads that share a track: 1, or all of them
    int fresh = -1;                            //!< accumulated: the last tokens that had no score yet; -1: all, nothing is kept
    float scale = 0;                           //!< of q . k; 0: 1 / sqrt(D)
    Scorer scorer = {};
    view<float, 1> scores = {};                //!< [sequence * rows + row][token], for every token of the longest track
  };

  //! All that can be refused before a launch; on the host the tables are read too.
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(x); }, [&] { return is_host<Context> ? check_lengths(x) : status{}; });
  }
  //! Bytes of log-sum-exps, where none are given.
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return 0;
    else return x.lse.data != nullptr || x.q.sequences <= 0 || x.q.heads <= 0 || x.q.rows <= 0 ? 0 : std::size_t(x.q.sequences) * x.q.heads * lse_columns(context, x) * sizeof(float);
  }
  //! Starts the pass; on the host it is done on return.
  template <class Context> static status run(const Context& context, const args& given, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, given); }, [&] { return check_workspace(memory, workspace_bytes(context, given)); }); !bad) return bad;
    if constexpr (runs_here<Context> && Scorer::observes) {
      if (given.q.sequences == 0 || given.q.rows == 0) return {};
      args x = given;
      if (const int rows = counted(x); rows < x.q.rows) {                 // the newest of them
        x.q.data += static_cast<long long>(x.q.rows - rows) * x.q.row_stride, x.q.rows = rows;
        if (x.lse.data != nullptr) x.lse.data += static_cast<long long>(x.lse.rows - rows) * x.lse.row_stride, x.lse.rows = rows;
      }
      const float scale = (x.scale > 0 ? x.scale : 1.0f / __builtin_sqrtf(float(D))) * 1.4426950408889634f * scale_of(x.kv);
      float bits = Lse::bits_per_unit;
      if (x.lse.data == nullptr) {
        const int columns = lse_columns(context, given), heads = x.q.heads;
        float* lse = reinterpret_cast<float*>(memory.data);
        if (const status bad = launch<lse_kernel<selector<Context>>>(base_of(context), {.q = x.q, .kv = x.kv, .heads_per_kv = heads / x.kv.heads(), .scale = scale, .lse = {lse, x.q.sequences * heads, columns, columns}}); !bad)
          return bad;
        x.lse = {lse, x.q.sequences, heads, x.q.rows, 1, static_cast<long long>(heads) * columns, columns, 1};
        bits = 1;
      }
      const int reduced = x.heads_per_track * (x.q.heads / x.kv.heads());
      const bool decays = x.scorer.decay > 0 && x.scorer.decay < 1;
      const float age = decays ? float(__builtin_log2(double(x.scorer.decay))) : 0.0f;
      const auto work = [&](auto shared) {
        return launch<kernel<selector<Context>, decltype(shared)::value>>(base_of(context), {.q = x.q,
                                                                                             .lse = x.lse,
                                                                                             .kv = x.kv,
                                                                                             .heads_per_kv = x.q.heads / x.kv.heads(),
                                                                                             .heads_per_row = x.heads_per_track,
                                                                                             .rows = x.kv.heads() / x.heads_per_track,
                                                                                             .fresh = Scorer::accumulates ? x.fresh : -1,
                                                                                             .scale = scale,
                                                                                             .bits = bits,
                                                                                             .age = age,
                                                                                             .weight = Scorer::heads == policy::over_heads::mean ? 1.0f / float(reduced) : 1.0f,
                                                                                             .kept = decays ? float(__builtin_exp2(double(age) * x.q.rows)) : x.scorer.decay,
                                                                                             .scores = x.scores});
      };
      return x.heads_per_track > 1 ? work(std::true_type{}) : work(std::false_type{});
    } else {
      return {};
    }
  }

  // ---- what a launch names
  template <class Selector, bool Shared = false> struct kernel {
    using problem = attention::mass_problem<T, D, Kv, Scorer::heads == policy::over_heads::maximum, Shared>;
    using arguments = typename problem::arguments;
    template <target G> using agent = attention::mass_agent<Selector{}(G), problem>;
  };
  template <class Selector> struct lse_kernel {
    using problem = attention::mass_problem<T, D, Kv>;
    using arguments = attention::mass_lse_arguments<T, Kv>;
    template <target G> using agent = attention::mass_lse_agent<Selector{}(G), problem>;
  };

private:
  template <class Context> using selector = typename selector_of<Context, default_mass_tuning>::type;
  static float scale_of(const Kv& kv) { return kv.k_scale; }
  static int counted(const args& x) { return Scorer::window > 0 && Scorer::window < x.q.rows ? Scorer::window : x.q.rows; }
  template <class Context> static int lse_columns(const Context& context, const args& x) { return round_up(counted(x), selector<Context>{}(target_for(base_of(context))).m); }
  static bool evenly(long long a, long long b) { return a > 0 && b > 0 && (a % b == 0 || b % a == 0); }

  static status check_args(const args& x) {
    static_assert(Scorer::observes, "smalti: this scorer looks at places alone: there is nothing to observe; call compress");
    const attention::head_rows<const T>& q = x.q;
    if (q.sequences < 0 || q.heads < 0 || q.rows < 0) return {errc::bad_shape, "q must not have a negative extent", q.rows, 0};
    if (q.offsets != nullptr) return {errc::bad_shape, "q: observe takes as many rows of each sequence: give it the last rows, without offsets", q.rows, 0};
    if (q.sequences == 0 || q.rows == 0 || q.heads == 0) return {};
    if (q.data == nullptr) return {errc::null_pointer, "q is null: it holds the newest queries", 0, q.rows};
    if (q.cols != D) return {errc::bad_shape, "q: a head has D columns", q.cols, D};
    for (const long long bytes : {static_cast<long long>(reinterpret_cast<std::uintptr_t>(q.data) % 16), q.row_stride * static_cast<long long>(sizeof(T)), q.head_stride * static_cast<long long>(sizeof(T)), q.sequence_stride * static_cast<long long>(sizeof(T))})
      if (bytes % 16 != 0) return {errc::misaligned, "q must begin on a multiple of 16 bytes, and its strides be multiples of 16 bytes", bytes, 16};
    if (x.kv.heads() <= 0 || q.heads % x.kv.heads() != 0) return {errc::bad_shape, "q: the query heads must be a multiple of the key heads", q.heads, x.kv.heads()};
    if (!evenly(q.row_stride, q.head_stride)) return {errc::bad_shape, "q: heads are reduced together, so one of row_stride and head_stride must be a multiple of the other", q.head_stride, q.row_stride};
    if (x.lse.data != nullptr) {
      if (x.lse.sequences != q.sequences || x.lse.heads != q.heads || x.lse.rows != q.rows || x.lse.offsets != nullptr)
        return {errc::bad_shape, "lse: needs a number for each row and head of q", x.lse.rows, q.rows};
      if (!evenly(x.lse.row_stride, x.lse.head_stride)) return {errc::bad_shape, "lse: one of row_stride and head_stride must be a multiple of the other", x.lse.head_stride, x.lse.row_stride};
    }
    if (x.heads_per_track != 1 && x.heads_per_track != x.kv.heads()) return {errc::bad_value, "heads_per_track must be 1, or all key heads: the heads that share their pages", x.heads_per_track, x.kv.heads()};
    if (!(x.scale >= 0 && x.scale <= 3e38f)) return {errc::bad_value, "scale must be positive and finite, or 0 for 1 / sqrt(D)"};
    if (!(x.scorer.decay >= 0 && x.scorer.decay <= 1)) return {errc::bad_value, "scorer.decay must be within [0, 1]"};
    const int rows = x.kv.heads() / x.heads_per_track;
    if (x.scores.data == nullptr) return {errc::null_pointer, "scores is null: it needs a row for each sequence and track", 0, static_cast<long long>(q.sequences) * rows};
    if (x.scores.rows < static_cast<long long>(q.sequences) * rows) return {errc::bad_shape, "scores needs a row for each sequence and track of the layer", x.scores.rows, static_cast<long long>(q.sequences) * rows};
    if (x.scores.cols < x.kv.longest()) return {errc::bad_shape, "scores needs a column for each token of the longest track", x.scores.cols, x.kv.longest()};
    if (x.scores.stride < x.scores.cols) return {errc::bad_shape, "scores: the stride must be at least its columns", x.scores.stride, x.scores.cols};
    if (q.sequences > 65535 || rows > 65535) return {errc::out_of_reach, "q: at most 65,535 sequences and tracks", q.sequences, 65535};
    return {};
  }
  static status check_lengths(const args& x) {
    for (int s = 0; s < x.q.sequences; ++s)
      for (int h = 0; h < x.kv.heads(); ++h) {
        const auto kv = x.kv.at(s, h);
        const int n = kv.length();
        if (n < counted(x)) return {errc::bad_shape, "kv: a track has fewer tokens than there are queries: the queries are its newest tokens, append them first", n, counted(x)};
        if (n > x.kv.longest()) return {errc::bad_shape, "kv: a track has more tokens than kv says is the most", n, x.kv.longest()};
        if (x.heads_per_track > 1 && n != x.kv.at(s, 0).length()) return {errc::bad_shape, "kv: heads that share a track have as many tokens", n, x.kv.at(s, 0).length()};
        if constexpr (requires { kv.table; })
          for (int p = 0; p < ceil_div(n, kv.page); ++p)
            if (kv.table[p] < 0 || kv.table[p] >= x.kv.k.count) return {errc::bad_value, "kv: the table names a page outside the pool", kv.table[p], x.kv.k.count};
      }
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
