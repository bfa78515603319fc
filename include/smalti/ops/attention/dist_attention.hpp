// DistAttention: the keys of one sequence live in several places. docs/ops/attention/dist_attention.md.
#pragma once
#include <smalti/ops/attention.hpp>
#include <smalti/ops/attention/merge.hpp>
#include <smalti/ops/attention/partials.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! What each holder of keys runs on the queries it is sent, and what the owner of the sequence runs on the answers. The
//! answers travel as float o and base-e lse: (dv + 1) floats a row and head. A holder without keys answers 0 and -infinity.
//! A lost answer must be an error of the transport: a merge cannot see that a part is missing.
//! Mask: policy::placed<...> with key = where the holder's keys begin in the sequence; policy::full for decode.
//! Source: Lin et al. 2024, Infinite-LLM, arXiv:2401.02669.
template <class T, int D, class Kv = dense_kv<T>, class Mask = policy::full, class Options = options>
struct dist_attention {
  using part = flash<T, D, Kv, Mask, partial_options<Options>>;
  using merge = attention::merge<float, T>;
  //! Elements sent to a holder and received from it for each query row, of all heads.
  static constexpr int sent(int heads) { return heads * D; }
  static constexpr int received(int heads) { return heads * (part::value_dim + 1); }
};

}  // namespace smalti::inline SMALTI_CODE::attention
