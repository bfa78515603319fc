// Which operand to move when queries meet keys that lie on many ranks: keys in a long prefill, queries in a short one on a long
// cached prefix, and in decoding.
#pragma once
#include <cstdint>
#include <smalti/flow/route.hpp>

namespace smalti::inline SMALTI_CODE::flow {

//! What the choice depends on. Rates are achieved ones: measure them.
struct choice {
  double fresh = 0, cached = 0;      //!< new tokens T and cached ones C, over all ranks
  int heads = 1, kv_heads = 1, ranks = 1;
  double flops = 1, bandwidth = 1;   //!< of a rank: operations, and bytes in one direction, per second
  double element = 2;                //!< bytes
};

//! Keys move where they are fewer bytes, T / (T + C) >= 2 Hkv / H, or where computation hides them:
//!     T >= P F Hkv e / (2 H B)
//! else queries move where their exposed return of partial results still costs less than keys that are not hidden,
//!     T / (T + C) < 2 Hkv / H - 4 T B / (P F e),
//! else keys. A causal mask halves computation: give half of `flops`' time, that is, twice the rate.
//! Monotone: with T + C fixed, more new tokens never turn the choice from keys to queries.
//! Source: Yang et al. 2024, Context Parallelism for Scalable Million-Token Inference, arXiv:2411.01783; the constants are derived again.
constexpr moves choose(const choice& x) {
  const double all = x.fresh + x.cached;
  if (x.ranks <= 1 || x.fresh <= 0 || x.cached <= 0) return moves::keys;      // nothing to move, or nothing that queries would spare
  const double share = x.fresh / all, payload = 2.0 * x.kv_heads / x.heads;
  if (share >= payload) return moves::keys;
  if (x.fresh >= x.ranks * x.flops * x.kv_heads * x.element / (2.0 * x.heads * x.bandwidth)) return moves::keys;
  return share < payload - 4.0 * x.fresh * x.bandwidth / (x.ranks * x.flops * x.element) ? moves::queries : moves::keys;
}
constexpr rotation chosen(const choice& x) { return choose(x) == moves::keys ? ring_attention : pass_q; }

}  // namespace smalti::inline SMALTI_CODE::flow
