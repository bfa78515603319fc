// What a dense GEMM may be told besides its types.
#pragma once
#include <smalti/block/gemm/dense.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/policy/epilogue.hpp>
#include <smalti/policy/reduction.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

//! Derive, and change what you need:
//!     struct wide : gemm::options { static constexpr bool any_width = true; };
struct options {
  static constexpr a_order a = a_order::m_by_k;                          //!< A is M x K (activations), or K x M (a gradient of weights)
  static constexpr b_order b = b_order::n_by_k;                          //!< B is N x K (linear layers), or K x N
  static constexpr float_product f32 = float_product::tf32;              //!< what float operands become on a GPU: tf32, or tf32x3
  static constexpr bool any_width = false;                               //!< the slow path: any address, width and stride
  static constexpr bool split_k = false;                                 //!< args.splits > 1 is allowed; else every tile of C is one block
  static constexpr bool persistent = false;                              //!< as many blocks as the machine runs at once make all tiles (from sm_90 on; before, one block a tile)
  static constexpr bool striped = false, stream_k = false;               //!< refused: their blocks wait for each other
  static constexpr determinism level = determinism::run_to_run;
  static constexpr bool batch_invariant = false;                         //!< one kernel for every M: a row's bits never depend on M
  using reductions = policy::chain<>;                                    //!< of the result: policy::chain<policy::column_sum, policy::row_absmax, ...>
};

template <class Options> consteval bool explain_options() {
  static_assert(!Options::striped && !Options::stream_k,
                "smalti: striped and stream-K schedules are not offered: their blocks wait for each other, and blocks of a grid run in any order; use options::split_k");
  static_assert(policy::is_reduction_list<typename Options::reductions>,
                "smalti: options::reductions is a policy::chain of policy::column_sum, column_absmax, row_sum and row_absmax");
  return true;
}

}  // namespace smalti::inline SMALTI_CODE::gemm
