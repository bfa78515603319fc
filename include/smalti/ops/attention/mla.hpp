// Multi-head latent attention in its absorbed form: one latent vector a token for all heads. docs/ops/attention/mla_decode.md.
#pragma once
#include <smalti/ops/attention.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! What a token leaves in the cache: Latent elements, then Rotary rotated ones, for one key head. Its values are the first Latent.
template <class Base, int Latent> struct mla_options : Base {
  static constexpr int value_dim = Latent;
  static constexpr bool packed = true;            // all query heads read one key head
};

//! Decode attention over latents: s = q'[h] . c + q^R[h] . r, o'[h] = sum softmax(scale s) c. Queries are absorbed before,
//! q'[h] = (W^UK[h])' q^C[h], and results expanded after, o[h] = W^UV[h] o'[h]: two products of the model's weights. By
//! linearity this is attention with the expanded keys [W^UK c; r] and values W^UV c, which are never made.
//! The keys are kv.k, Latent + Rotary wide, one key head; kv.v are the beginnings of the same rows:
//! leading(kv.k, Latent).
//! @pre  args.scale is 1 / sqrt(the expanded head's elements), 192 for DeepSeek-V3: there is no default for it
//! @note reads each latent once: (Latent + Rotary) elements a token for all heads
//! Source: DeepSeek-AI 2024, DeepSeek-V2 and V3, arXiv:2405.04434, arXiv:2412.19437.
template <class T, int Latent = 512, int Rotary = 64, class Kv = paged_kv<T>, class Options = options>
using mla_decode = flash<T, Latent + Rotary, Kv, policy::causal, mla_options<Options, Latent>>;

}  // namespace smalti::inline SMALTI_CODE::attention
