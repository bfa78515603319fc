// Sampling: from a row of logits to a token.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/core/check_view.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/float.hpp>
#include <smalti/policy/scalar.hpp>
#include <smalti/prim/check.hpp>
#include <smalti/prim/sample_rules.hpp>

namespace smalti::inline SMALTI_CODE::prim::detail {

// Defined where the machine is: sample_host.hpp, sample.cuh.
template <class Args> std::size_t sample_bytes(const host_context& context, const Args& x);
template <class Args> std::size_t sample_bytes(const cuda_context& context, const Args& x);
template <class T, class Args> status sample_rows(const host_context& context, const Args& x, draw how, workspace memory);
template <class T, class Args> status sample_rows(const cuda_context& context, const Args& x, draw how, workspace memory);

}  // namespace smalti::inline SMALTI_CODE::prim::detail

#if !defined(__CUDACC__)
#  include <smalti/prim/sample_host.hpp>
#endif
#if defined(SMALTI_HAS_CUDA_CONTEXT)
#  include <smalti/prim/sample.cuh>
#endif

namespace smalti::inline SMALTI_CODE::prim {

//! One token for each row of logits.
//!
//! Order the tokens of a row by falling logit, equal ones by rising index, and let p_j be proportional to
//! exp(logit_j / temperature). Kept are: the first top_k of them; of these the fewest first whose probability, as a share of
//! these, reaches top_p; of these the ones with p_j >= min_p * p_max. The token is drawn from the kept ones in proportion to
//! p_j. temperature 0, top_k 1 or top_p 0 take the first of the order. The first of the order is always kept.
//!
//! A row is answered with token -1, probability 0 and score -inf where it holds a NaN, no logit above -inf, or where its
//! parameters are out of range (temperature < 0, top_k < 0, top_p or min_p outside [0, 1], NaN): never with a made-up token.
//! A logit of +inf has all the probability; of several, each an equal share.
//!
//! @tparam T     float, bf16 or fp16
//! @tparam How   draw::cumulative, or draw::gumbel, whose `scores` let shards of a vocabulary be sampled apart (without
//!               truncation) and compared: the greatest score wins. Shards need streams of their own
//! @pre    logits.cols < 2^31; rows has an entry for each row, in the context's memory
//! @post   gpu_to_gpu: probabilities are integer multiples of 2^-30 of the greatest, summed as integers, and every float
//!         operation is written so that it rounds the same on every machine: the same seed, stream and position give the same
//!         token on the host and on every GPU; batch invariant. Random numbers: Philox, counter (position, stream), key seed
//! @note   probabilities below 2^-31 of the greatest are taken for 0. Gumbel noise has 2^23 values
//! @note   cost, host: a few passes over the row, scratch of 8 bytes a token and thread. GPU: one block a row
//!
//! Sources: inverse transform sampling; Gumbel, "Statistical theory of extreme values" (1954), for the second; Fan et al.,
//! arXiv:1805.04833 (top k); Holtzman et al., arXiv:1904.09751 (top p); Nguyen et al., arXiv:2407.01082 (min p).
template <class T, draw How = draw::cumulative>
struct sample {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, bf16> || std::is_same_v<T, fp16>, "smalti: prim::sample takes logits of float, bf16 or fp16");
  static constexpr determinism level = determinism::gpu_to_gpu;

  struct args {
    view<const T, 1> logits{};                 //!< rows x vocabulary
    const sampling* rows = nullptr;            //!< how each row is sampled
    std::uint64_t seed = 0;
    std::int32_t* tokens = nullptr;            //!< one for each row
    float* probabilities = nullptr;            //!< of the token among the kept ones; may be null
    float* scores = nullptr;                   //!< of the winner, with draw::gumbel; may be null
  };

  //! Everything that run would refuse, except a workspace. Reads no data.
  template <class Context> static status check(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if (const status bad = first_of([&] { return check_context(context); }, [&] { return check_view<"logits">(x.logits); }); !bad) return bad;
    if (x.logits.rows == 0) return {};
    if (x.logits.cols == 0) return {errc::bad_shape, "logits must have a column for each token of the vocabulary", 0, 1};
    if (x.rows == nullptr) return {errc::null_pointer, "rows is null: it needs an entry for each row of logits"};
    if (x.tokens == nullptr) return {errc::null_pointer, "tokens is null: it needs an element for each row of logits"};
    const detail::extent in[] = {detail::extent_of(x.logits), detail::extent_of(x.rows, x.logits.rows)};
    const detail::extent out[] = {detail::extent_of(x.tokens, x.logits.rows), detail::extent_of(x.probabilities, x.logits.rows), detail::extent_of(x.scores, x.logits.rows)};
    for (int i = 0; i < 3; ++i) {
      for (const detail::extent& e : in)
        if (detail::meet(out[i], e)) return {errc::aliased, "tokens, probabilities and scores must not overlap logits or rows"};
      for (int j = 0; j < i; ++j)
        if (detail::meet(out[i], out[j])) return {errc::aliased, "tokens, probabilities and scores must not overlap each other"};
    }
    return {};
  }

  //! Scratch memory: on the host a share for each thread, 0 on a GPU. Reads sizes and the context only.
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) {
    static_assert(explain_context<Context>());
    if (x.logits.rows <= 0 || x.logits.cols <= 0) return 0;
    if constexpr (runs_here<Context>) return detail::sample_bytes(base_of(context), x);
    else return 0;
  }

  //! Samples. On a GPU it only launches on the context's stream.
  template <class Context> static status run(const Context& context, const args& x, workspace scratch = {}) {
    static_assert(explain_context<Context>());
    if (const status bad = check(context, x); !bad) return bad;
    if (const status bad = check_workspace(scratch, workspace_bytes(context, x)); !bad) return bad;
    if (x.logits.rows == 0) return {};
    if constexpr (runs_here<Context>) return detail::sample_rows<T>(base_of(context), x, How, scratch);
    else return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::prim
