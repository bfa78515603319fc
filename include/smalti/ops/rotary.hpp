// Rotary position embedding of queries and keys in memory. Where attention can turn keys as it loads them, and which phase a
// token has after eviction, is said by the policies of policy/position.hpp; this op writes what they describe.
#pragma once
#include <cstddef>
#include <type_traits>
#include <smalti/block/position/rotate.hpp>
#include <smalti/core/check_view.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/policy/position.hpp>
#include <smalti/tile/launch.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in rotary.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent               sm_80  sm_89  sm_90  sm_100  sm_120  tried
// rotary, half split  16x4   16x4   16x4   16x4    16x4    11
// The host, one thread of a Xeon with AMX, each shape beside the present one in turns; speed: of the next best over the present.
// l: b_left or keys_left, s: strips, g: group.
// host                present  ms     next best  speed  tried
// rotary, half split  4x64     2.656  16x64      0.90   6
// swept: end

namespace smalti::inline SMALTI_CODE::rotary {

struct default_tuning {
  SMALTI_HD constexpr rotary_tuning operator()(target t) const { return t == target::host ? rotary_tuning{.m = 4, .heads = 64} : rotary_tuning{.m = 16, .heads = 4}; }
};

//! For each token t, head h and pair i < Dims / 2, with the angle a = positions[t] * (turns of pair i in one token):
//!     y[t, h D + first(i)]  = scale (x_first cos a - x_second sin a)
//!     y[t, h D + second(i)] = scale (x_second cos a + x_first sin a)
//! Columns from Dims on are copied.
//!
//! @tparam T       bf16, fp16 or float; bf16 for policy::interleaved
//! @tparam Layout  policy::half_split or policy::interleaved: which columns are a pair. For other elements than bf16 with
//!                 interleaved pairs, permute the rows of the projection once, so that the pairs are half_split's
//! @tparam D, Dims columns of a head, and how many of them turn: multiples of 32, D a multiple of 16 beyond that
//! @pre   x and y have the same extents, heads * D columns; y is x or does not overlap it; |positions| < policy::position_reach;
//!        frequencies hold what policy::fill_frequencies writes for the model's policy::rotary of Dims columns
//! @post  same bits on every run; a token's bits do not depend on the other tokens
//! @note  cost: a read of x and a write of y. Angles are computed in registers, once for all heads of a block. No workspace
//! @note  error: the angle within 2^-22.5 turns, cosine and sine within 1.2e-7 of it, then three roundings in float and one to T
//!
//! Several projections side by side (queries, then keys, in one matrix) are one call with heads = all their heads.
//! Source: Su et al., arXiv:2104.09864.
template <class T, class Layout, int D, int Dims = D>
struct rotate {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, fp16> || std::is_same_v<T, float>, "smalti: rotary::rotate turns bf16, fp16 or float");
  static constexpr bool interleaved = std::is_same_v<Layout, policy::interleaved>;
  static_assert(interleaved || std::is_same_v<Layout, policy::half_split>, "smalti: rotary::rotate takes policy::half_split or policy::interleaved");
  static_assert(!interleaved || std::is_same_v<T, bf16>,
                "smalti: interleaved pairs are turned in bf16: permute the rows of the projection so that pairs are half_split's, or use bf16");
  static_assert(Dims >= 32 && Dims % 32 == 0 && D >= Dims && D % (interleaved ? 32 : 16) == 0,
                "smalti: rotary::rotate needs Dims a multiple of 32 and D a multiple of 16 (of 32 with interleaved pairs)");
  static constexpr determinism level = determinism::run_to_run;

  struct args {
    view<const T> x;                      //!< tokens x heads * D
    view<T> y;
    const int* positions = nullptr;       //!< one for each token, in the context's memory
    const float* frequencies = nullptr;   //!< 4 x Dims / 2, in the context's memory
    int heads = 0;
    float scale = 1;                      //!< policy::rotary::scaling.attention_scale(); 1 when turning again
    bool inverse = false;                 //!< turns back
  };

  //! Everything that can be said before a launch. Reads no data.
  template <class Context> static status check(const Context& context, const args& a) {
    static_assert(explain_context<Context>());
    return first_of([&] { return check_context(context); }, [&] { return check_view<"x">(a.x); }, [&] { return check_view<"y">(a.y); }, [&] { return check_rest(a); });
  }

  //! None is needed.
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) {
    static_assert(explain_context<Context>());
    return 0;
  }

  //! Starts the rotation on the context; on the host it is done on return.
  template <class Context> static status run(const Context& context, const args& a, workspace = {}) {
    static_assert(explain_context<Context>());
    if (const status bad = check(context, a); !bad) return bad;
    if (a.x.rows == 0 || a.heads == 0) return {};
    using selector = typename selector_of<Context, default_tuning>::type;
    using element = typename problem::element;
    constexpr int in_word = int(sizeof(element) / sizeof(T));
    if constexpr (runs_here<Context>)
      return launch<kernel<selector>>(base_of(context),
                                      {.x = {reinterpret_cast<const element*>(a.x.data), a.x.rows, a.x.cols / in_word, a.x.stride / in_word},
                                       .y = {reinterpret_cast<element*>(a.y.data), a.y.rows, a.y.cols / in_word, a.y.stride / in_word},
                                       .positions = {a.positions, 1, a.x.rows, a.x.rows},
                                       .frequencies = {a.frequencies, 4, Dims / 2, Dims / 2},
                                       .heads = a.heads,
                                       .scale = a.scale,
                                       .direction = a.inverse ? -1.0f : 1.0f,
                                       .copies = !same_memory(a.x, a.y)});
    else return {};
  }

  // ---- what a launch names: not for callers
  using problem = rotary_problem<T, interleaved, D, Dims>;
  template <class Selector> struct kernel {
    using arguments = typename problem::arguments;
    template <target Target> using agent = rotary_agent<Selector{}(Target), problem>;
  };

private:
  static status check_rest(const args& a) {
    if (a.heads < 0) return {errc::bad_value, "heads must not be negative", a.heads, 0};
    if (a.x.cols != static_cast<long long>(a.heads) * D) return {errc::bad_shape, "x needs heads * D columns", a.x.cols, static_cast<long long>(a.heads) * D};
    if (a.y.rows != a.x.rows) return {errc::bad_shape, "y needs as many rows as x", a.y.rows, a.x.rows};
    if (a.y.cols != a.x.cols) return {errc::bad_shape, "y needs as many columns as x", a.y.cols, a.x.cols};
    if (a.x.rows == 0 || a.heads == 0) return {};
    if (a.positions == nullptr) return {errc::null_pointer, "positions is null: one for each token"};
    if (a.frequencies == nullptr) return {errc::null_pointer, "frequencies is null: fill it with policy::fill_frequencies"};
    if (bytes_of(a.y).meets(bytes_of(a.x)) && !same_memory(a.x, a.y)) return {errc::aliased, "y must be x itself (same address and stride) or not overlap it"};
    const view<const int, 1> positions{a.positions, 1, a.x.rows, a.x.rows};
    const view<const float, 1> frequencies{a.frequencies, 1, 2 * Dims, 2 * Dims};
    if (bytes_of(a.y).meets(bytes_of(positions)) || bytes_of(a.y).meets(bytes_of(frequencies)))
      return {errc::aliased, "y must not overlap positions or frequencies: every block reads them"};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::rotary
