// The gradients of attention: see flash_backward below. docs/ops/attention_backward.md has the method, the limits and measured
// results.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/attention/backward_bias.hpp>
#include <smalti/block/attention/backward_dkdv.hpp>
#include <smalti/block/attention/backward_dq.hpp>
#include <smalti/block/attention/backward_rows.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/attention/backward_tuning.hpp>
#include <smalti/ops/attention/check.hpp>
#include <smalti/policy/gradient.hpp>
#include <smalti/policy/lse.hpp>
#include <smalti/policy/mask.hpp>
#include <smalti/policy/normalizer.hpp>
#include <smalti/policy/score.hpp>
#include <smalti/tile/launch.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! What a backward pass may be told besides its types: as attention::options told its forward pass. Derive, and change what
//! you need.
struct backward_options {
  using o = void;                                                  //!< element of o, as the forward pass stored it; void: that of q
  using gradient = void;                                           //!< element of dq, dk, dv: float, bf16, fp16; void: that of q
  using lse = policy::lse_e<float>;                                //!< the base of the log-sum-exps, or policy::lse_2<float>
  using score = policy::identity_score;                            //!< see policy/score.hpp
  using normalizer = policy::softmax;                              //!< see policy/normalizer.hpp; its gradient: policy/gradient.hpp
  static constexpr int value_dim = 0;                              //!< channels of v and o; 0: those of q
  static constexpr bool bias_gradient = false;                     //!< args.d_bias is wanted
  static constexpr determinism level = determinism::run_to_run;
};

template <class T, int D, int ValueDim, class O, class Gradient> consteval bool explain_backward_types() {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, fp16>, "smalti: an attention's backward pass multiplies bf16 or fp16: convert q, k, v and d_o");
  static_assert(std::is_same_v<O, bf16> || std::is_same_v<O, fp16> || std::is_same_v<O, float>, "smalti: o of an attention's backward pass is bf16, fp16 or float");
  static_assert(std::is_same_v<Gradient, bf16> || std::is_same_v<Gradient, fp16> || std::is_same_v<Gradient, float>, "smalti: gradients of attention are bf16, fp16 or float");
  static_assert(D > 0 && D % 8 == 0 && D <= 256 && ValueDim > 0 && ValueDim % 8 == 0 && ValueDim <= 256,
                "smalti: head dims of an attention's backward pass are multiples of 8 up to 256: pad the channels with zeros");
  return true;
}

//! With s = scale q_i . k_j, z = score(s, i, j), hidden where mask says so, w_ij = e^(z - lse_i) (softmax, with or without a
//! sink) or f(z) (pointwise), o_i = sum_j w_ij v_j, and cotangents do of o and dlse of lse in base e:
//!
//!     delta_i = do_i . o_i - dlse_i              dz_ij = w_ij (do_i . v_j - delta_i), or (do_i . v_j) f'(z)
//!     dv_j = sum_i w_ij do_i                     ds_ij = dz_ij dscore/ds
//!     dq_i = scale sum_j ds_ij k_j               dk_j = scale sum_i ds_ij q_i
//!     dsink = - sum_i e^(sink - lse_i) delta_i   dbias_ij = ds_ij, summed over the heads and sequences that share it
//!
//! dk and dv are summed over the query heads that share a head of keys. Two kernels without order between blocks: dk and dv
//! by tiles of keys, dq by tiles of queries, each computing w again (Dao 2023, arXiv:2307.08691, whose one kernel adds dq
//! atomically or in a fixed order of blocks).
//!
//! @tparam T           bf16 or fp16: q, k, v, do; w and ds are rounded to it before they are multiplied; sums are float
//! @tparam D           channels of q and k, a multiple of 8, at most 256
//! @tparam Mask        that of the forward pass (policy/mask.hpp)
//! @pre   rows are contiguous, bases and strides multiples of 16 bytes; dq, dk, dv overlap nothing that is read; lse is that
//!        of the forward pass, with its sink, -infinity for a row without keys; ragged offsets begin with 0, never decrease
//! @post  same bits on every run with the same context, whatever the order of blocks. Gradients of what is masked are exactly 0;
//!        rows without keys give dq = 0 and add nothing
//! @note  cost: 7 products of 2 Nq Nk d operations (about half where causal); 9 with a bias gradient; on a GPU at large head
//!        dims 8 (backward_tuning::separate). workspace: two floats a query row and head; packed panels on the host
//! @note  error of dq: at most (2 u + 2^-17) scale sum_j w (|do| . |v| + |do| . |o| + |dlse|) |k| and one rounding, u = 2^-8 for
//!        bf16, 2^-11 for fp16; of dv (u + 2^-17) sum_i w |do|
template <class T, int D, class Mask = policy::causal, class Options = backward_options>
struct flash_backward {
  static constexpr int value_dim = Options::value_dim == 0 ? D : Options::value_dim;
  template <class Given> using or_element = std::conditional_t<std::is_void_v<Given>, T, Given>;
  using o_element = or_element<typename Options::o>;
  using gradient_element = or_element<typename Options::gradient>;
  using score = typename Options::score;
  using normalizer = typename Options::normalizer;
  using gradient = decltype(policy::gradient_for(normalizer{}));
  static constexpr bool has_sink = std::is_same_v<normalizer, policy::softmax_with_sink>, by_rows = gradient::uses_rows;

  static_assert(explain_backward_types<T, D, value_dim, o_element, gradient_element>());
  static_assert(policy::is_lse<typename Options::lse>, "smalti: options::lse names a base: policy::lse_e<float> or policy::lse_2<float>");
  static_assert(policy::explain_mask<Mask>());
  static_assert(policy::explain_score<score>());
  static_assert(Options::level != determinism::gpu_to_gpu,
                "smalti: gpu_to_gpu needs results that are exact: tensor cores sum floats in an order of their own. Use run_to_run");

  struct args {
    head_rows<const T> q, k, v;
    head_rows<const o_element> o = {};                   //!< as q, of value_dim channels; not read by pointwise normalizers
    head_rows<const T> d_o;
    head_rows<const float> lse = {}, d_lse = {};         //!< cols = 1; d_lse: null data is zero. Not read by pointwise normalizers
    head_rows<gradient_element> dq = {}, dk = {}, dv = {};   //!< null data: not wanted; dk and dv come together
    float* d_sink = nullptr;                             //!< softmax_with_sink: one for each query head; null: not wanted
    head_rows<float> d_bias = {};                        //!< options::bias_gradient: [sequences or 1][heads or 1][query][key]
    long long query_rows = 0;                            //!< ragged: rows of all sequences, for an exact workspace; 0: not known
    float scale = 0;                                     //!< of q . k; 0 takes 1 / sqrt(D)
    Mask mask = {};
    score logits = {};
    normalizer weights = {};
  };

  //! Everything that can be said before a launch. On a host context offsets are read; no other data is.
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else return first_of([&] { return check_context(base_of(context)); }, [&] { return check_args(x, is_host<Context>); });
  }

  //! Bytes of workspace that run needs: from sizes and the context alone.
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return 0;
    else return lay_out(context, x, nullptr).bytes;
  }

  //! Starts the kernels on the context; on the host they are done on return. Never allocates or waits.
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    static_assert(explain_context<Context>());
    if constexpr (runs_here<Context>) {
      if (const status bad = first_of([&] { return check(context, x); },
                                      [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
      return start(context, x, lay_out(context, x, memory.data));
    } else {
      return check(context, x);
    }
  }

  // ---- what a launch names: kernels are not for callers
  using problem = backward_problem<T, gradient_element, D, value_dim, score, Mask, gradient>;
  using rows_problem = backward_rows_problem<o_element, T, value_dim, typename Options::lse>;
  template <class Context> struct selector_for {
    using type = typename selector_of<Context, default_backward_tuning<T, D, value_dim>>::type;
    static_assert(explain_backward_selector<type>());
  };

  struct rows_kernel {
    using arguments = typename rows_problem::arguments;
    template <target Target> using agent = backward_rows_agent<64, Target == target::host ? 0 : 64, rows_problem>;
  };
  template <class Selector> struct dq_kernel {
    using arguments = typename problem::arguments;
    template <target Target> using agent = backward_dq_agent<Selector{}(Target, backward_kernel::queries), problem>;
  };
  // Where dk and dv have a launch each, the kernel of both is empty, and the other way round.
  template <class Selector, backward_results Results> struct dkdv_kernel {
    using arguments = typename problem::arguments;
    template <target Target> struct choose {
      static constexpr backward_tuning tuning = Selector{}(Target, backward_kernel::keys);
      using type = std::conditional_t<tuning.separate == (Results != backward_results::both), backward_dkdv_agent<tuning, problem, Results>, idle_agent<arguments>>;
    };
    template <target Target> using agent = typename choose<Target>::type;
  };
  template <class Selector> struct bias_kernel {
    using arguments = backward_bias_arguments<problem>;
    template <target Target> using agent = backward_bias_agent<Selector{}(Target, backward_kernel::bias), problem>;
  };
  struct sink_kernel {
    using arguments = backward_sink_agent::arguments;
    template <target> using agent = backward_sink_agent;
  };

private:
  static status check_args(const args& x, bool readable) {
    using namespace detail;
    constexpr int step = step_of<T>, out = step_of<gradient_element>;
    const bool wants_q = x.dq.data != nullptr, wants_k = x.dk.data != nullptr;
    if (const status bad = first_of([&] { return check_rows<"q", step>(x.q, D); }, [&] { return check_rows<"k", step>(x.k, D); }, [&] { return check_rows<"v", step>(x.v, value_dim); },
                                    [&] { return check_rows<"d_o", step>(x.d_o, value_dim); }, [&] { return check_same_rows<"d_o", "q">(x.d_o, x.q); }, [&] { return check_keys(x); }); !bad) return bad;
    if (wants_k != (x.dv.data != nullptr)) return {errc::null_pointer, "dk and dv are computed together: give both or neither"};
    if (wants_q)
      if (const status bad = first_of([&] { return check_rows<"dq", out>(x.dq, D); }, [&] { return check_same_rows<"dq", "q">(x.dq, x.q); }, [&] { return check_distinct<"dq">(x.dq); }); !bad) return bad;
    if (wants_k)
      if (const status bad = first_of([&] { return check_rows<"dk", out>(x.dk, D); }, [&] { return check_rows<"dv", out>(x.dv, value_dim); },
                                      [&] { return check_distinct<"dk">(x.dk); }, [&] { return check_distinct<"dv">(x.dv); }); !bad) return bad;
    if constexpr (by_rows) {
      if (const status bad = first_of([&] { return check_rows<"o", step_of<o_element>>(x.o, value_dim); }, [&] { return check_same_rows<"o", "q">(x.o, x.q); },
                                      [&] { return check_rows<"lse", 1>(x.lse, 1); }, [&] { return check_same_rows<"lse", "q">(x.lse, x.q); }); !bad) return bad;
      if (x.d_lse.data != nullptr)
        if (const status bad = first_of([&] { return check_rows<"d_lse", 1>(x.d_lse, 1); }, [&] { return check_same_rows<"d_lse", "q">(x.d_lse, x.q); }); !bad) return bad;
    } else if (x.d_lse.data != nullptr) {
      return {errc::bad_value, "d_lse must be empty: a pointwise normalizer has no log-sum-exp"};
    }
    if (readable)
      if (const status bad = first_of([&] { return check_offsets<"q">(x.q); }, [&] { return check_offsets<"k">(x.k); }); !bad) return bad;
    if (x.query_rows < 0) return {errc::bad_value, "query_rows must not be negative; 0 where it is not known", x.query_rows, 0};
    if (readable && x.query_rows != 0 && x.q.offsets != nullptr && x.query_rows < x.q.offsets[x.q.sequences] - x.q.offsets[0])
      return {errc::bad_value, "query_rows is less than the rows of all sequences", x.query_rows, x.q.offsets[x.q.sequences] - x.q.offsets[0]};
    if (by_rows && places(x) > 2147483647ll) return {errc::out_of_reach, "the query rows of the batch, padded, are beyond 2^31: split the batch, or give query_rows", places(x), 2147483647ll};
    if (!(x.scale >= 0 && x.scale <= 3e38f) && !mutant(defect::backward_scale_not_checked)) return {errc::bad_value, "scale must be positive and finite, or 0 for 1 / sqrt(D)"};
    if (x.d_sink != nullptr && !has_sink) return {errc::bad_value, "d_sink needs the normalizer softmax_with_sink"};
    if (const status bad = check_bias(x); !bad) return bad;
    const policy::mask_extent extent{x.q.sequences, x.q.heads, x.q.rows, x.k.rows};
    return first_of([&] { return policy::check_mask(x.mask, extent); }, [&] { return policy::check_score(x.logits, extent); },
                    [&] { return policy::check_normalizer(x.weights, x.q.heads); }, [&] { return check_overlap(x, readable); });
  }
  static status check_keys(const args& x) {
    const long long group = x.k.heads > 0 ? x.q.heads / x.k.heads : 1, reach = 2147483647ll;
    const auto same = [](const auto& a, const auto& b) { return a.sequences == b.sequences && a.heads == b.heads && a.rows == b.rows && (a.offsets == nullptr) == (b.offsets == nullptr); };
    if (x.q.heads > 0 && (x.k.heads <= 0 || x.q.heads % x.k.heads != 0)) return {errc::bad_shape, "q needs a multiple of k's heads: the heads of a group share k and v", x.q.heads, x.k.heads};
    if (x.k.sequences != x.q.sequences) return {errc::bad_shape, "k needs as many sequences as q", x.k.sequences, x.q.sequences};
    if (!same(x.v, x.k)) return {errc::bad_shape, "v needs the sequences, rows and heads of k", x.v.rows, x.k.rows};
    if (x.dk.data != nullptr && !same(x.dk, x.k)) return {errc::bad_shape, "dk needs the sequences, rows and heads of k", x.dk.rows, x.k.rows};
    if (x.dv.data != nullptr && !same(x.dv, x.k)) return {errc::bad_shape, "dv needs the sequences, rows and heads of v", x.dv.rows, x.v.rows};
    if ((group - 1) * x.q.head_stride + static_cast<long long>(x.q.rows) * x.q.row_stride > reach || (group - 1) * x.d_o.head_stride + static_cast<long long>(x.d_o.rows) * x.d_o.row_stride > reach)
      return {errc::out_of_reach, "q, d_o: one sequence of the query heads that share a head of keys is beyond 2^31 elements: split the rows", x.q.rows, 0};
    if (!detail::rows_in_reach(x.k) || !detail::rows_in_reach(x.v)) return {errc::out_of_reach, "k, v: one head of one sequence is beyond 2^31 elements: split the rows", x.k.rows, 0};
    return {};
  }
  static status check_bias(const args& x) {
    const auto& b = x.d_bias;
    if constexpr (Options::bias_gradient) {
      if (const status bad = detail::check_rows<"d_bias", step_of<float>>(b, b.cols); !bad) return bad;
      if (b.rows < x.q.rows) return {errc::bad_shape, "d_bias needs a row for each query", b.rows, x.q.rows};
      if (b.cols < x.k.rows) return {errc::bad_shape, "d_bias needs a column for each key", b.cols, x.k.rows};
      if (b.heads != 1 && b.heads != x.q.heads) return {errc::bad_shape, "d_bias needs the heads of q, or 1 where they share a bias", b.heads, x.q.heads};
      if (b.sequences != 1 && b.sequences != x.q.sequences) return {errc::bad_shape, "d_bias needs the sequences of q, or 1 where they share a bias", b.sequences, x.q.sequences};
      if (b.offsets != nullptr) return {errc::bad_shape, "d_bias has no offsets: each sequence, or all of them together, has a matrix of its own"};
      return detail::check_distinct<"d_bias">(b);
    } else {
      if (b.data != nullptr) return {errc::bad_value, "d_bias needs options::bias_gradient"};
      return {};
    }
  }
  // Gradients of packed q, k, v interleave, so only arrays that begin at one place are known to overlap each other.
  static status check_overlap(const args& x, bool readable) {
    const auto meets_inputs = [&](const auto& out) {
      const byte_range r = detail::bytes_covered(out, readable);
      return out.data != nullptr && (r.meets(detail::bytes_covered(x.q, readable)) || r.meets(detail::bytes_covered(x.k, readable)) || r.meets(detail::bytes_covered(x.v, readable)) ||
                                     r.meets(detail::bytes_covered(x.d_o, readable)) || (by_rows && r.meets(detail::bytes_covered(x.o, readable))));
    };
    if (meets_inputs(x.dq) || meets_inputs(x.dk) || meets_inputs(x.dv)) return {errc::aliased, "dq, dk and dv must not overlap q, k, v, o or d_o: blocks read them while others write"};
    if ((x.dq.data != nullptr && (x.dq.data == x.dk.data || x.dq.data == x.dv.data)) || (x.dk.data != nullptr && x.dk.data == x.dv.data))
      return {errc::aliased, "dq, dk and dv must not be the same array"};
    return {};
  }

  struct plan {
    float *lse, *delta;
    workspace panels;
    std::size_t bytes;
  };
  static long long places(const args& x) { return row_numbers::places_of(x.q, x.query_rows); }
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    carver carve{base};
    plan p{};
    if constexpr (by_rows) {
      const std::size_t numbers = std::size_t(places(x)) * x.q.heads;
      p.lse = carve.take<float>(numbers);
      p.delta = carve.take<float>(numbers);
    }
    const std::size_t panels = panel_bytes(context, x);
    p.panels = {carve.take<std::byte>(panels), panels};
    p.bytes = carve.used;
    return p;
  }
  // The rows that a block walks over, packed, are wanted again by the next blocks of the head: of keys as k', k and v', of
  // queries as q', q, do' and do. Beyond what the caches hold there is no gain.
  template <class Context> static std::size_t panel_bytes(const Context& context, const args& x) {
    constexpr std::size_t element = std::is_same_v<T, fp16> ? sizeof(float) : sizeof(T), d = round_up(D, 32), v = round_up(value_dim, 32);
    const std::size_t keys = std::size_t(round_up(x.k.rows, 128)) * (2 * d + v) * element, queries = std::size_t(round_up(x.q.rows, 128)) * (2 * d + 2 * v) * element;
    const std::size_t most = keys > queries ? keys : queries;
    return most <= (std::size_t(64) << 20) ? bytes_to_keep(base_of(context), most) : 0;
  }

  template <class Context> static status start(const Context& context, const args& x, const plan& p) {
    using selector = typename selector_for<Context>::type;
    const auto& on = base_of(context);
    const typename problem::arguments all{x.q, x.k, x.v, x.d_o, x.dq, x.dk, x.dv, {p.lse, p.delta, places(x)}, x.k.heads > 0 ? x.q.heads / x.k.heads : 1,
                                          x.scale > 0 ? x.scale : 1 / __builtin_sqrtf(float(D)), x.logits, x.mask, policy::gradient_for(x.weights)};
    if constexpr (by_rows)
      if (const status bad = launch<rows_kernel>(on, {x.o, x.d_o, x.lse, x.d_lse, p.lse, p.delta, places(x)}); !bad) return bad;
    if (x.dq.data != nullptr)
      if (const status bad = launch<dq_kernel<selector>>(on, all, p.panels); !bad) return bad;
    if (x.dk.data != nullptr) {
      const bool separate = selector{}(target_for(on), backward_kernel::keys).separate;
      if (!separate) {
        if (const status bad = launch<dkdv_kernel<selector, backward_results::both>>(on, all, p.panels); !bad) return bad;
      } else {
        if (const status bad = launch<dkdv_kernel<selector, backward_results::values>>(on, all, p.panels); !bad) return bad;
        if (const status bad = launch<dkdv_kernel<selector, backward_results::keys>>(on, all, p.panels); !bad) return bad;
      }
    }
    if constexpr (has_sink)
      if (x.d_sink != nullptr) {
        const head_rows<const float> rows{nullptr, x.q.sequences, x.q.heads, x.q.rows, 1, 0, 0, 0, x.q.offsets};
        if (const status bad = launch<sink_kernel>(on, {rows, {p.lse, p.delta, places(x)}, x.weights.logits, {x.d_sink, x.q.heads, 1, 1}}); !bad) return bad;
      }
    if constexpr (Options::bias_gradient)
      if (x.d_bias.data != nullptr) return launch<bias_kernel<selector>>(on, {all, x.d_bias});
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
