// Mixed batches of prompts and decoding sequences under a budget of tokens. docs/ops/attention/fastgen.md.
#pragma once
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! What one sequence still wants: `waiting` tokens of its prompt that no step has processed (0: it decodes, one token a step).
struct generating {
  int waiting = 0;
  int cached = 0;               //!< keys of earlier steps
};

//! Composes the tokens of one step: every decoding sequence gets one row; what is left of `budget` goes to prompts in their
//! order, a long one in part, short ones together, so that steps have the same size (dynamic splitting and fusing). Writes
//!     offsets[s], ..., offsets[s + 1]     the query rows of sequence s in the step: `ragged` rows of attention::flash
//!     keys[s]                             its keys with those of the step: cached + rows
//! and returns in *rows how many rows there are. The attention of the step is causal, bottom right: prompt chunks see what is
//! cached and themselves. Decoding sequences beyond the budget wait, the first ones first.
//! @note O(count), on the host. Source: Holmes et al. 2024, DeepSpeed-FastGen, arXiv:2401.08671.
inline status compose_step(const generating* sequences, int count, int budget, std::int32_t* offsets, int* keys, int* rows) {
  if (count < 0) return {errc::bad_shape, "compose_step: count must not be negative", count, 0};
  if (budget <= 0) return {errc::bad_value, "compose_step: budget must be positive: it counts the tokens of a step", budget, 1};
  if (offsets == nullptr || rows == nullptr || (count > 0 && (sequences == nullptr || keys == nullptr))) return {errc::null_pointer, "compose_step: sequences, offsets, keys and rows must not be null"};
  int left = budget;
  for (int s = 0; s < count; ++s) {
    if (sequences[s].waiting < 0 || sequences[s].cached < 0) return {errc::bad_value, "compose_step: waiting and cached must not be negative", sequences[s].waiting < 0 ? sequences[s].waiting : sequences[s].cached, 0};
    keys[s] = sequences[s].waiting == 0 && left > 0 ? 1 : 0;        // rows, until the sums are made
    left -= keys[s];
  }
  for (int s = 0; s < count; ++s)
    if (sequences[s].waiting > 0) {
      keys[s] = sequences[s].waiting < left ? sequences[s].waiting : left;
      left -= keys[s];
    }
  offsets[0] = 0;
  for (int s = 0; s < count; ++s) {
    offsets[s + 1] = offsets[s] + keys[s];
    keys[s] += sequences[s].cached;
  }
  *rows = offsets[count];
  return {};
}

}  // namespace smalti::inline SMALTI_CODE::attention
