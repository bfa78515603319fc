// Tile shapes of gemm::dense: those of tuning.hpp where they hold for every order of the operands, those of what needs
// more registers beside its sums, and the order of tiles.
#pragma once
#include <type_traits>
#include <smalti/ops/gemm/tuning.hpp>
#include <smalti/policy/reduction.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! The default of gemm::dense. On the host 8-bit floats are multiplied as bf16. On a GPU eight rows of tiles are made
//! together: blocks that run at the same time then read about 8 strips of A and a few of B, which the second-level cache
//! holds, instead of one of B and as many of A as there are blocks (counted, not timed: not yet run on a GPU).
template <class T, bool Pairs, class Options> struct order_tuning {
  static constexpr bool fp8 = std::is_same_v<T, fp8_e4m3> || std::is_same_v<T, fp8_e5m2>;
  static constexpr bool three = Options::f32 == float_product::tf32x3, reduces = policy::reduction_count<typename Options::reductions> > 0;
  using held = std::conditional_t<fp8, bf16, T>;
  SMALTI_HD constexpr gemm_tuning operator()(target t, gemm_regime regime) const {
    if (t == target::host) return default_tuning<held, Pairs>{}(t, regime);
    gemm_tuning chosen = default_tuning<T, Pairs>{}(t, regime);
    if (regime != gemm_regime::prefill) return chosen;
    chosen.group = 8;
    // Beside 128 x 128 sums a warp group of sm_90 has no registers for these, nor sm_80 for both parts of floats.
    const bool old = t == target::sm80 || t == target::sm89;
    if (t == target::sm90 && fp8) chosen.m = 64;
    if (t == target::sm90 && (three || reduces)) chosen.n = 64;
    if (old && three) chosen.n = 64;
    return chosen;
  }
};

}  // namespace smalti::inline SMALTI_CODE::gemm
