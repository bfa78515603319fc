// MiKV's channel balancer: keys are multiplied channel by channel before they lose bits, queries divided by the same.
#pragma once
#include <smalti/core/version.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! sqrt(max |q_c| / max |k_c|): afterwards both have the largest magnitude sqrt(max |q_c| max |k_c|) in the channel. 1 where either is
//! zero or not finite; within [2^-8, 2^8]. With groups of query heads, max |q_c| is over all that read the key head.
template <class V> SMALTI_HD V channel_balance(V query_reach, V key_reach) {
  using namespace scalar;
  const auto told = query_reach > 0.0f && key_reach > 0.0f && query_reach < 3e38f && key_reach < 3e38f;
  const V b = sqrt(over(query_reach, where(told, key_reach, 1.0f)));
  return where(told, min(max(b, 0x1p-8f), 0x1p8f), 1.0f);
}

//! balance[kv_head][c], and what queries are multiplied by, query_factor[head][c] = 1 / balance of its key head, from the largest
//! magnitudes of a prompt's queries [head][c] and keys [kv_head][c].
inline void fill_channel_balance(const float* query_reach, const float* key_reach, int heads, int kv_heads, int dim, float* balance, float* query_factor) {
  const int group = kv_heads > 0 ? heads / kv_heads : 0;
  for (int h = 0; h < kv_heads; ++h)
    for (int c = 0; c < dim; ++c) {
      float most = 0;
      for (int g = 0; g < group; ++g) {
        const float reach = query_reach[(static_cast<long long>(h) * group + g) * dim + c];
        most = reach > most ? reach : most;
      }
      const float b = channel_balance(most, key_reach[static_cast<long long>(h) * dim + c]);
      balance[static_cast<long long>(h) * dim + c] = b;
      for (int g = 0; g < group; ++g) query_factor[(static_cast<long long>(h) * group + g) * dim + c] = 1 / b;
    }
}

}  // namespace smalti::inline SMALTI_DATA::policy
