// Attention over texts with branches that do not see each other. docs/ops/attention/multiverse.md and thread_weaver.md.
#pragma once
#include <smalti/ops/attention.hpp>
#include <smalti/policy/masks/branches.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Multiverse attention: causal, and paths of a parallel block do not see each other; policy::fill_parallel_paths writes the
//! mask's tables and the positions that queries and keys are rotated by. Depths: how deep blocks nest.
//! Source: Yang et al. 2025, arXiv:2506.09991.
template <class T, int D, int Depths = 1, class Kv = dense_kv<T>, class Options = options>
using multiverse = flash<T, D, Kv, policy::column_interval<Depths, policy::causal>, Options>;

//! Sequences packed as a trie of shared beginnings: a token sees its ancestors only; policy::fill_trie writes the mask's tables
//! and the positions of every branch.
//! Source: Lian et al. 2025, ThreadWeaver, arXiv:2512.07843.
template <class T, int D, class Kv = dense_kv<T>, class Options = options>
using thread_weaver = flash<T, D, Kv, policy::column_interval<1, policy::causal>, Options>;

}  // namespace smalti::inline SMALTI_CODE::attention
