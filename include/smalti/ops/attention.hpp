// Attention: see flash below. docs/ops/attention.md has the method, the limits and measured results.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/attention/flash.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/attention/check.hpp>
#include <smalti/ops/attention/merge.hpp>
#include <smalti/ops/attention/tuning.hpp>
#include <smalti/policy/bind.hpp>
#include <smalti/policy/blocks.hpp>
#include <smalti/policy/gate.hpp>
#include <smalti/policy/lse.hpp>
#include <smalti/policy/mask.hpp>
#include <smalti/policy/normalizer.hpp>
#include <smalti/policy/score.hpp>
#include <smalti/tile/launch.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! What attention may be told besides the types of its operands and its mask. Derive, and change what you need:
//!     struct capped : attention::options { using score = policy::soft_cap; };
struct options {
  using out = void;                                     //!< element of o: float, bf16, fp16, fp8; void: that of q
  using lse = policy::lse_e<float>;                     //!< the base in which args.lse is stored, or policy::lse_2<float>
  using score = policy::identity_score;                 //!< see policy/score.hpp
  using normalizer = policy::softmax;                   //!< see policy/normalizer.hpp
  using gate = policy::no_gate;                         //!< what o is multiplied by, from args.gate: see policy/gate.hpp
  using work = policy::whole_grid;                      //!< policy::balanced_work: keys in parts of args.work, with split_kv; see policy/work_list.hpp
  using blocks = policy::all_blocks;                    //!< which tiles of keys are looked at: see policy/blocks.hpp
  static constexpr int value_dim = 0;                   //!< elements of a value; 0: as many as of a key
  static constexpr bool split_kv = false;               //!< args.split_keys > 0 is allowed; else every tile of o is one block
  static constexpr bool packed = false;                 //!< few query rows of many heads (latent attention) share blocks, even above 16 rows
  static constexpr bool ragged = true;                  //!< lengths may differ between sequences; false: dense only, which on a
                                                        //!< GPU makes one descriptor for all blocks instead of one for each
  static constexpr determinism level = determinism::run_to_run;
  static constexpr bool batch_invariant = false;        //!< one kernel for every number of rows: a row's bits never depend on the batch
};

//! o[i] = sum over visible keys j of softmax_j(score(scale q[i] . k[j], i, j)) v[j], for each query head of each sequence.
//!
//! @tparam T     bf16 or fp16, on the host also float: queries and operands of both products; sums, softmax and log-sum-exps are float
//! @tparam D     elements of a query and of a key, any multiple of 8; options::value_dim those of a value
//! @tparam Kv    where keys and values live: dense_kv<bf16> (dense or ragged), paged_kv<bf16>, ... (block/attention/kv.hpp);
//!               fp16 with fp16 queries, fp8 with either; dense_kv<float> with float queries
//! @tparam Mask  policy::full, policy::causal, ... (policy/mask.hpp)
//! @pre   strides, addresses and head dims are multiples of 16 bytes; query heads are a multiple of key heads, and query
//!        head h reads key head h / (heads / key heads); o overlaps nothing that is read. On a GPU offsets, tables and
//!        lengths keep the rules of core/segments.hpp and core/pages.hpp
//! @post  same bits on every run with the same context (options::level). A row that sees no key is 0 and its lse -infinity.
//!        Rows of a ragged batch that do not exist are not written
//! @note  cost: 2 (D + value_dim) operations for each visible pair of query and key (tiles that no query sees are skipped);
//!        weights are rounded to T before they meet values. workspace: packed panels on the host; with split_keys the
//!        sums of every split, and counters
//! @note  error: at most 2^-8 max |v| for bf16 (2^-11 fp16), the rounding of the weights, and the sums' (keys + D) 2^-24
template <class T, int D, class Kv = dense_kv<T>, class Mask = policy::causal, class Options = options>
struct flash {
  using options_type = Options;
  static constexpr int value_dim = Options::value_dim == 0 ? D : Options::value_dim;
  using out = std::conditional_t<std::is_void_v<typename Options::out>, T, typename Options::out>;
  using score = typename Options::score;
  using normalizer = typename Options::normalizer;
  using iterator = typename Options::blocks;
  using gate_type = typename Options::gate;
  using work_type = typename Options::work;
  static_assert(!work_type::listed || (Options::split_kv && !iterator::listed && !Options::batch_invariant),
                "smalti: options::work = balanced_work needs options::split_kv, policy::all_blocks and no batch_invariant: parts depend on the batch");
  static_assert(explain_attention_types<T, D, value_dim, out, true>());
  static_assert(policy::explain_mask<Mask>());
  static_assert(policy::explain_normalizer<normalizer>());
  static_assert(policy::explain_blocks<iterator>());
  static_assert(policy::explain_gate<gate_type>());
  static_assert(policy::is_lse<typename Options::lse>, "smalti: options::lse names a base: policy::lse_e<float> or policy::lse_2<float>");
  static_assert(Options::level != determinism::gpu_to_gpu,
                "smalti: gpu_to_gpu needs results that are exact: tensor cores sum floats in an order of their own. Use run_to_run");

  struct args {
    head_rows<const T> q;
    Kv kv;
    head_rows<out> o;
    head_rows<float> lse = {};          //!< cols = 1; null data: not wanted
    float scale = 0;                    //!< of q . k; 0 takes 1 / sqrt(D)
    int split_keys = 0;                 //!< keys of one part, for options::split_kv; 0: all in one. See suggest_split_keys
    Mask mask = {};
    score logits = {};
    normalizer weights = {};
    iterator blocks = {};
    typename gate_type::template operand<head_rows> gate = {};   //!< options::gate: rows as those of o
    work_type work = {};                //!< options::work: parts of the keys in tiles of key_tile(context, args) keys; split_keys is then 0
  };

  //! Everything that can be said before a launch. On a host context offsets, tables and lengths are read; no other data is.
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(x, is_host<Context>); });
  }

  //! Bytes of workspace that run needs: from sizes and the context alone.
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return 0;
    else return is_empty(x) ? 0 : in_regime(context, x, [&](auto regime) { return lay_out<regime.value>(context, x, nullptr).bytes; });
  }

  //! Starts attention on the context; on the host it is done on return. Never allocates or waits.
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
      if (is_empty(x)) return {};
      return in_regime(context, x, [&](auto regime) { return start<regime.value>(context, x, memory); });
    } else {
      return check(context, x);
    }
  }

  //! Keys of one part that fill the machine where the tiles of o alone do not; 0: do not split. With batch_invariant it
  //! is the same for every batch.
  template <class Context> static int suggest_split_keys(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!Options::split_kv || work_type::listed) return 0;
    if (is_empty(x)) return 0;
    if (Options::batch_invariant) return 1024;
    return in_regime(context, x, [&](auto regime) {
      const attention_tuning t = tuning_of(context, regime.value);
      // two blocks a processor; threads are few and a block is long, so on the host three blocks for two threads are split too
      const long long tiles = blocks_of<regime.value>(context, x), places = 2ll * processors(base_of(context));
      const long long wanted = tiles <= 0 ? 1 : is_host<Context> ? (places + tiles - 1) / tiles : places / tiles;
      const int longest = x.kv.longest(), most = ceil_div(longest, 4 * t.n);      // at least four tiles of keys each
      const int parts = static_cast<int>(wanted < most ? wanted : most);
      return parts <= 1 ? 0 : round_up(ceil_div(longest, parts), t.n);
    });
  }

  //! Keys of one tile: what policy::plan_balanced counts in.
  template <class Context> static int key_tile(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    return in_regime(context, x, [&](auto regime) { return tuning_of(context, regime.value).n; });
  }

  // ---- what a launch names: kernels are not for callers
  static constexpr bool by_head = policy::differs_by_head<Mask> || policy::differs_by_head<score>;
  template <attention_regime Regime, bool Split>
  using problem = flash_problem<T, D, value_dim, Kv, out, Mask, score, normalizer, typename Options::lse, Regime != attention_regime::prefill, Split, iterator, Options::ragged, gate_type, work_type>;
  template <class Selector, attention_regime Regime, bool Split> struct kernel {
    using arguments = typename problem<Regime, Split>::arguments;
    template <target G> using agent = flash_agent<Selector{}(G, Regime), problem<Regime, Split>>;
  };
  template <class Context> struct selector_for {
    using type = typename selector_of<Context, default_tuning<T, D, value_dim, form_of_keys<Kv>>>::type;
    static_assert(explain_attention_selector<type>());
  };

private:
  static bool is_empty(const args& x) { return x.q.sequences <= 0 || x.q.heads <= 0 || x.q.rows <= 0 || x.kv.heads() <= 0 || x.q.heads < x.kv.heads(); }
  static status check_args(const args& x, bool readable) {
    if (const status bad = detail::check_rows<"q", step_of<T>>(x.q, D); !bad) return bad;
    if (const status bad = detail::check_rows<"o", step_of<out>>(x.o, value_dim); !bad) return bad;
    if (const status bad = detail::check_same_rows<"o", "q">(x.o, x.q); !bad) return bad;
    if (x.lse.data != nullptr) {
      if constexpr (!normalizer::shifts) return {errc::bad_value, "lse: this normalizer has no log-sum-exp: leave it null"};
      if (const status bad = detail::check_rows<"lse", 1>(x.lse, 1); !bad) return bad;
      if (const status bad = detail::check_same_rows<"lse", "q">(x.lse, x.q); !bad) return bad;
    }
    if constexpr (gate_type::gates) {
      if (const status bad = first_of([&] { return detail::check_rows<"gate", step_of<typename gate_type::element>>(x.gate, value_dim); }, [&] { return detail::check_same_rows<"gate", "q">(x.gate, x.q); }); !bad) return bad;
      if (readable) {
        if (const status bad = detail::check_offsets<"gate">(x.gate); !bad) return bad;
        for (int s = 0; s < x.q.sequences; ++s)
          if (x.gate.length(s) != x.q.length(s)) return {errc::bad_shape, "gate: each sequence needs as many rows as in q", x.gate.length(s), x.q.length(s)};
      } else if (!detail::rows_in_reach(x.gate)) {
        return {errc::out_of_reach, "gate: rows of one head must end within 2^31 elements on a GPU: lay them out by heads", static_cast<long long>(x.gate.rows) * x.gate.row_stride, 2147483647ll};
      }
      if (detail::bytes_covered(x.o, readable).meets(detail::bytes_covered(x.gate, readable))) return {errc::aliased, "o must not overlap gate: blocks read it while others write o"};
      if constexpr (!Options::ragged)
        if (!is_dense(x.gate)) return {errc::bad_value, "gate: options::ragged = false takes dense batches only"};
    }
    if (readable) {
      if (const status bad = first_of([&] { return detail::check_offsets<"q">(x.q); }, [&] { return detail::check_offsets<"o">(x.o); },
                                      [&] { return x.lse.data == nullptr ? status{} : detail::check_offsets<"lse">(x.lse); }); !bad) return bad;
      for (int s = 0; s < x.q.sequences; ++s)
        if (x.q.length(s) != x.o.length(s) || (x.lse.data != nullptr && x.lse.length(s) != x.q.length(s)))
          return {errc::bad_shape, "o and lse: each sequence needs as many rows as in q", x.o.length(s), x.q.length(s)};
    } else if (!detail::rows_in_reach(x.q) || !detail::rows_in_reach(x.o)) {
      return {errc::out_of_reach, "q and o: rows of one head must end within 2^31 elements on a GPU: lay them out by heads", static_cast<long long>(x.q.rows) * x.q.row_stride, 2147483647ll};
    }
    if (const status bad = check_kv<D, value_dim>(x.kv, readable); !bad) return bad;
    if (kv_sequences(x.kv) != x.q.sequences) return {errc::bad_shape, "kv: needs as many sequences as q", kv_sequences(x.kv), x.q.sequences};
    if (x.q.heads > 0 && (x.kv.heads() <= 0 || x.q.heads % x.kv.heads() != 0))
      return {errc::bad_shape, "q: the query heads must be a multiple of the key heads", x.q.heads, x.kv.heads()};
    if (!(x.scale >= 0 && x.scale <= 3e38f)) return {errc::bad_value, "scale must be positive and finite, or 0 for 1 / sqrt(D)"};
    if (x.split_keys < 0) return {errc::bad_value, "split_keys must not be negative", x.split_keys, 0};
    if (x.split_keys > 0 && !Options::split_kv) return {errc::bad_value, "split_keys needs options::split_kv", x.split_keys, 0};
    if constexpr (work_type::listed) {
      if (x.split_keys > 0) return {errc::bad_value, "split_keys must be 0: args.work says which parts there are", x.split_keys, 0};
      if (x.work.count < x.q.sequences) return {errc::bad_shape, "work.count must be at least the sequences: each has a part", x.work.count, x.q.sequences};
      if (x.work.workers <= 0) return {errc::bad_value, "work.workers must be positive: it counts the blocks that share the work", x.work.workers, 1};
      if (x.work.items == nullptr || x.work.begins == nullptr) return {errc::null_pointer, "work.items and work.begins must not be null: policy::plan_balanced writes them"};
      if (!readable && x.work.workers > 65535) return {errc::out_of_reach, "work.workers: at most 65,535 on a GPU", x.work.workers, 65535};
      if (readable)
        if (const status bad = check_work(x); !bad) return bad;
    }
    if (splits_of(x) > 4096) return {errc::bad_value, "split_keys: at most 4096 parts of the longest sequence", splits_of(x), 4096};
    if (const status bad = detail::check_distinct<"o">(x.o); !bad) return bad;
    if (x.lse.data != nullptr)
      if (const status bad = detail::check_distinct<"lse">(x.lse); !bad) return bad;
    const byte_range o = detail::bytes_covered(x.o, readable);
    if (o.meets(detail::bytes_covered(x.q, readable))) return {errc::aliased, "o must not overlap q: blocks read q while others write o"};
    if (overlaps(x.kv, o, readable)) return {errc::aliased, "o must not overlap kv: blocks read keys and values while others write o"};
    if (x.lse.data != nullptr) {
      const byte_range l = detail::bytes_covered(x.lse, readable);
      if (l.meets(o) || l.meets(detail::bytes_covered(x.q, readable)) || overlaps(x.kv, l, readable)) return {errc::aliased, "lse must not overlap q, kv or o"};
    }
    if (!readable) {
      if (x.q.heads > 65535) return {errc::out_of_reach, "q: at most 65,535 heads on a GPU", x.q.heads, 65535};
      if (static_cast<long long>(x.q.sequences) * splits_of(x) > 65535)
        return {errc::out_of_reach, "q: at most 65,535 sequences times splits on a GPU", static_cast<long long>(x.q.sequences) * splits_of(x), 65535};
    }
    const policy::mask_extent extent{x.q.sequences, x.q.heads, x.q.rows, x.kv.longest()};
    if (const status bad = policy::check_mask(x.mask, extent); !bad) return bad;
    if (const status bad = policy::check_score(x.logits, extent); !bad) return bad;
    if constexpr (iterator::listed) {
      if (const status bad = x.blocks.check(x.q.sequences, x.q.heads, x.q.rows, x.kv.longest(), readable); !bad) return bad;
      if (short_lists && rows_together(x) > decode_rows)
        return {errc::bad_shape, "blocks: lists for fewer than 16 query rows take at most 16 rows of a group of heads together", rows_together(x), decode_rows};
    }
    if constexpr (!Options::ragged) {
      if (!is_dense(x.q) || !is_dense(x.o) || !is_dense(x.lse)) return {errc::bad_value, "q, o, lse: options::ragged = false takes dense batches only"};
      if constexpr (requires { x.kv.used; x.kv.k.offsets; })
        if (x.kv.used != nullptr || !is_dense(x.kv.k) || !is_dense(x.kv.v)) return {errc::bad_value, "kv: options::ragged = false takes dense batches only"};
    }
    return policy::check_normalizer(x.weights, x.q.heads);
  }

  // Parts of a sequence stand together, in its order, one behind the other; their lengths are not looked at, the last takes the rest.
  static status check_work(const args& x) {
    int next = 0;
    for (int w = 0; w < x.work.count && x.work.items[w].sequence >= 0; ++next) {
      const policy::work_item first = x.work.items[w];
      if (first.sequence != next || first.part != 0 || first.parts < 1 || first.begin != 0 || first.place != w || first.parts > x.work.count - w)
        return {errc::bad_value, "work.items: sequences stand in order, each with all its parts from the first: plan with policy::plan_balanced", w, next};
      for (int p = 0; p < first.parts; ++p, ++w) {
        const policy::work_item& item = x.work.items[w];
        if (item.sequence != next || item.part != p || item.parts != first.parts || item.place != first.place || item.end < item.begin || (p > 0 && item.begin != x.work.items[w - 1].end))
          return {errc::bad_value, "work.items: the parts of a sequence follow one another: plan with policy::plan_balanced", w, p};
      }
    }
    if (next != x.q.sequences) return {errc::bad_shape, "work.items needs a part of every sequence", next, x.q.sequences};
    int used = 0;
    while (used < x.work.count && x.work.items[used].sequence >= 0) ++used;
    if (x.work.begins[0] != 0 || x.work.begins[x.work.workers] != used)
      return {errc::bad_value, "work.begins: workers share all items, from the first to the last: plan with policy::plan_balanced", x.work.begins[x.work.workers], used};
    for (int w = 0; w < x.work.workers; ++w)
      if (x.work.begins[w + 1] < x.work.begins[w]) return {errc::bad_value, "work.begins must not decrease: plan with policy::plan_balanced", x.work.begins[w + 1], x.work.begins[w]};
    return {};
  }

  // One view of them all: no offsets, and within reach of its 32-bit offsets.
  template <class U> static bool is_dense(const head_rows<U>& r) {
    return r.offsets == nullptr && r.sequences * r.sequence_stride <= 2147483647ll && r.heads * r.head_stride <= 2147483647ll;
  }
  static int splits_of(const args& x) {
    const int longest = x.kv.longest();
    return x.split_keys > 0 && longest > x.split_keys ? (longest - 1) / x.split_keys + 1 : 1;
  }

  // Rows of a group share a block where a head's row is found at equal steps from the next head's, and where no policy
  // tells the heads apart.
  static bool evenly_grouped(long long row_stride, long long head_stride) { return head_stride > 0 && row_stride > 0 && (row_stride % head_stride == 0 || head_stride % row_stride == 0); }
  static int group_of(const args& x) {
    bool together = !by_head && evenly_grouped(x.q.row_stride, x.q.head_stride) && evenly_grouped(x.o.row_stride, x.o.head_stride) &&
                    (x.lse.data == nullptr || evenly_grouped(x.lse.row_stride, x.lse.head_stride));
    if constexpr (gate_type::gates) together = together && evenly_grouped(x.gate.row_stride, x.gate.head_stride);
    if constexpr (iterator::listed) together = together && x.blocks.heads > 0 && x.kv.heads() % x.blocks.heads == 0;
    return together ? x.q.heads / x.kv.heads() : 1;
  }

  template <class Context> static constexpr attention_tuning tuning_of(const Context& context, attention_regime regime) {
    return fitted<iterator>(typename selector_for<Context>::type{}(target_for(base_of(context)), regime), regime != attention_regime::prefill);
  }
  // work(regime) for the regime of these arguments, as a type: each is a kernel of its own.
  template <attention_regime R> using constant = std::integral_constant<attention_regime, R>;
  template <class Context, class Work> static constexpr auto in_regime(const Context&, const args& x, Work work) {
    using selector = typename selector_for<Context>::type;
    constexpr target here = is_host<Context> ? target::host : target::sm80;
    if constexpr (!Options::batch_invariant && !tall_lists) {
      const long long rows = rows_together(x);
      if constexpr (is_host<Context> && !(selector{}(here, attention_regime::fewest) == selector{}(here, attention_regime::few)))
        if (rows <= fewest_rows) return work(constant<attention_regime::fewest>{});
      if constexpr (is_host<Context> && !(selector{}(here, attention_regime::few) == selector{}(here, attention_regime::decode)))
        if (rows <= few_rows) return work(constant<attention_regime::few>{});
      if (short_lists || rows <= decode_rows) return work(constant<attention_regime::decode>{});
      if constexpr (Options::packed) {
        const attention_tuning t = selector{}(here, attention_regime::packed);
        if (rows > x.q.rows && x.q.rows < t.m * t.strips) return work(constant<attention_regime::packed>{});
      }
    }
    return work(constant<attention_regime::prefill>{});
  }
  // Lists for 16 query rows and more are consumed by tiles of one head, others by the rows of a group.
  static constexpr bool tall_lists = detail::lists_are<iterator, true>(), short_lists = detail::lists_are<iterator, false>();
  static long long rows_together(const args& x) {
    const int group = x.kv.heads() > 0 ? group_of(x) : 1;
    if constexpr (iterator::listed) return static_cast<long long>(iterator::height) * group;
    else return static_cast<long long>(x.q.rows) * group;
  }
  template <attention_regime Regime> static int group_in(const args& x) { return Regime != attention_regime::prefill ? group_of(x) : 1; }
  template <attention_regime Regime, class Context> static long long blocks_of(const Context& context, const args& x) {
    const attention_tuning t = tuning_of(context, Regime);
    const int group = group_in<Regime>(x), parts = t.value == 0 || value_dim <= t.value ? 1 : ceil_div(value_dim, t.value);
    return static_cast<long long>(ceil_div(x.q.rows * group, rows_of_block<iterator>(t, Regime != attention_regime::prefill, group))) * parts * (x.q.heads / group) * x.q.sequences;
  }

  struct plan {
    workspace panels;
    float *partial, *stats;
    int* arrived;
    int splits;
    std::size_t tiles, partials, bytes;
  };
  // The packed keys and values of one head are wanted again by its next tiles of queries, and by the other heads of its group.
  template <attention_regime Regime, class Context> static std::size_t panel_bytes(const Context& context, const args& x) {
    if constexpr (requires { typename Kv::storage; }) return 0;       // codes are decoded into every tile's own panels
    const attention_tuning t = tuning_of(context, Regime);
    const int rows = x.q.rows * group_in<Regime>(x);
    if (rows <= t.m * t.strips && x.q.heads / x.kv.heads() == group_in<Regime>(x)) return 0;
    constexpr std::size_t packed = std::is_same_v<T, fp16> ? sizeof(float) : sizeof(T), most = std::size_t(64) << 20;
    const std::size_t bytes = std::size_t(round_up(x.kv.longest(), t.n)) * (round_up(D, 32) + round_up(value_dim, 32)) * packed;
    return bytes_to_keep(base_of(context), bytes < most ? bytes : most);
  }
  template <attention_regime Regime, class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    const attention_tuning t = tuning_of(context, Regime);
    carver carve{base};
    plan p{};
    p.splits = splits_of(x);
    const std::size_t panels = panel_bytes<Regime>(context, x);
    p.panels = {carve.take<std::byte>(panels), panels};
    if (work_type::listed || p.splits > 1) {
      const int width = t.value == 0 || value_dim <= t.value ? value_dim : t.value;
      const int padded = t.chunk == 0 ? round_up(width, 32) : round_up(width, 16);
      p.tiles = std::size_t(blocks_of<Regime>(context, x));
      std::size_t places = p.tiles * p.splits;
      if constexpr (work_type::listed) places = p.tiles / x.q.sequences * x.work.count;
      p.partials = places * t.strips;
      p.partial = carve.take<float>(p.partials * t.m * padded);
      p.stats = carve.take<float>(p.partials * 2 * round_up(t.m, 4));
      p.arrived = carve.take<int>(p.tiles);
    }
    p.bytes = carve.used;
    return p;
  }

  template <attention_regime Regime, class Context> static status start(const Context& context, const args& x, workspace memory) {
    using selector = typename selector_for<Context>::type;
    const plan p = lay_out<Regime>(context, x, memory.data);
    if constexpr (Options::split_kv)
      if (work_type::listed || p.splits > 1) {
        if (const status bad = clear(base_of(context), p.arrived, p.tiles * sizeof(int)); !bad) return bad;
        return start<kernel<selector, Regime, true>, Regime>(context, x, p);
      }
    if constexpr (work_type::listed) return {};      // unreachable: no list without split_kv
    else return start<kernel<selector, Regime, false>, Regime>(context, x, p);
  }
  template <class Kernel, attention_regime Regime, class Context> static status start(const Context& context, const args& x, const plan& p) {
    const attention_tuning t = tuning_of(context, Regime);
    const int m4 = round_up(t.m, 4);
    return launch<Kernel>(base_of(context),
                          {.q = x.q,
                           .o = x.o,
                           .lse = x.lse,
                           .heads_per_kv = x.q.heads / x.kv.heads(),
                           .group = group_in<Regime>(x),
                           .scale = x.scale > 0 ? x.scale : 1.0f / __builtin_sqrtf(float(D)),
                           .kv = x.kv,
                           .mask = x.mask,
                           .score = x.logits,
                           .normalizer = x.weights,
                           .splits = p.splits,
                           .split_tiles = ceil_div(x.split_keys, t.n),
                           .partial = p.partial,
                           .stats = {p.stats, static_cast<int>(p.partials * 2), m4, m4},
                           .arrived = p.arrived,
                           .blocks = x.blocks,
                           .gate = x.gate,
                           .work = x.work},
                          p.panels);
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
