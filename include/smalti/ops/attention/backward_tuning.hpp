// Tile shapes of the backward pass, by target and kernel. To use others:
//     struct mine { constexpr backward_tuning operator()(target, backward_kernel) const { return {...}; } };
//     op::run(with_tuning<mine>(ctx), args, workspace)
#pragma once
#include <concepts>
#include <type_traits>
#include <smalti/block/attention/backward_state.hpp>
#include <smalti/core/context.hpp>
#include <smalti/policy/chunks.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in backward_tuning.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent                                 sm_80   sm_89             sm_90            sm_100           sm_120          tried
// attention gradients d 64, dq          64x128  64x128 stack 24   64x64            64x64            64x64           5
// attention gradients d 128, dq         64x64   64x64 stack 960   64x64            64x64            64x32           14
// attention gradients d 256, dq         64x64   64x64 stack 896   64x64            64x64            32x32           5
// attention gradients d 64, dk and dv   128x64  128x64 stack 40   64x64            64x64            64x32           5
// attention gradients d 128, dk and dv  64x64   64x64 stack 1032  64x64            64x64            32x32           14
// attention gradients d 256, dk         64x64   64x64 stack 904   64x64            64x64            32x32           5
// attention gradients d 64, bias        64x32   64x32             64x32 stack 144  64x32 stack 128  64x32 stack 80  5
// The host, one thread of a Xeon with AMX, each shape beside the present one in turns; speed: of the next best over the present.
// l: b_left or keys_left, s: strips, g: group.
// host                                  present  ms     next best  speed  tried
// attention gradients d 128, dq         128x256  1.539  128x128    1.04   9
// attention gradients d 128, dk and dv  128x256  1.557  128x128    1.04   9
// swept: end

namespace smalti::inline SMALTI_CODE::attention {

//! What is tuned apart: dq, walking over keys; dk and dv, walking over queries; the gradient of a bias.
enum class backward_kernel { queries, keys, bias };

//! The default for operands of T, D channels of q and k, Dv of v. GPU shapes are read from machine code, not timed: not yet
//! run on a GPU. What is left of a register file of 64 K is the measure: two accumulators of 64 x 128 and the scores fit sm_90's
//! warp groups; elsewhere, and from 160 channels up, dv and dk are a launch each.
template <class T, int D, int Dv> struct default_backward_tuning {
  static constexpr int wide = D > Dv ? D : Dv;
  // Swept on a Xeon with AMX, one thread, 4096 tokens, d = 128, as shares of the limit of the same run, all seven products.
  // Without AMX: dq 192x128 and dk, dv 128x192 0.57, 256x128 and 128x256 0.56, 192x64 and 64x192 0.53, 128x128 0.53, 64x64 0.51. With
  // AMX: 128x256 0.17, 256x128 and 64x256 0.15, 128x512 0.14, 256x256 0.14, 64x256 and 256x64 0.14.
  static SMALTI_HD constexpr backward_tuning host([[maybe_unused]] backward_kernel kernel) {
#if !defined(__CUDACC__)
    if (SMALTI_DOT_LEVEL == 4 && std::is_same_v<T, bf16>) return {.m = 128, .n = 256};
    if (kernel == backward_kernel::queries) return {.m = 192, .n = 128};
    if (kernel == backward_kernel::keys) return {.m = 128, .n = 192};
#endif
    return {.m = 128, .n = 128};
  }
  // Small tiles tempt the compiler into pipelines that spill: at 64 channels sm_80 takes larger ones than at 128.
  static SMALTI_HD constexpr backward_tuning old(backward_kernel kernel) {
    if (kernel == backward_kernel::queries) {
      if (wide <= 64) return {.m = 64, .n = 128, .chunk = 256, .held = false};
      if (wide <= 128) return {.m = 64, .n = 64, .chunk = 256};
      return {.m = 64, .n = 64, .chunk = 256, .held = false, .channels = 128};
    }
    if (wide <= 64) return {.m = 128, .n = 64, .chunk = 256, .separate = true};
    if (wide <= 128) return {.m = 64, .n = 64, .chunk = 256, .separate = true};
    return {.m = 64, .n = 64, .chunk = 256, .held = false, .separate = true, .channels = 128};
  }
  static SMALTI_HD constexpr backward_tuning large(backward_kernel kernel) {
    return {.m = 64, .n = 64, .chunk = 256, .separate = kernel == backward_kernel::keys && wide > 128};
  }
  static SMALTI_HD constexpr backward_tuning small(backward_kernel kernel) {
    if (kernel == backward_kernel::queries) {
      if (wide <= 128) return {.m = 64, .n = wide <= 64 ? 64 : 32, .chunk = 256};
      return {.m = 32, .n = 32, .chunk = 256, .held = false, .channels = 128};
    }
    if (wide <= 128) return {.m = wide <= 64 ? 64 : 32, .n = 32, .chunk = 256, .separate = true};
    return {.m = 32, .n = 32, .chunk = 256, .held = false, .separate = true, .channels = 128};
  }
  SMALTI_HD constexpr backward_tuning operator()(target t, backward_kernel kernel) const {
    if (t == target::host) return host(kernel);
    if (kernel == backward_kernel::bias) return {.m = 64, .n = 32, .chunk = 256, .held = false};
    if (t == target::sm90 || t == target::sm100) return large(kernel);
    return t == target::sm120 ? small(kernel) : old(kernel);
  }
};

template <class S>
concept backward_selector = std::is_empty_v<S> && requires(const S s) { { s(target::host, backward_kernel::queries) } -> std::same_as<backward_tuning>; };

template <class S> consteval bool explain_backward_selector() {
  static_assert(backward_selector<S>,
                "smalti: a tuning of an attention's backward pass is an empty type with  constexpr backward_tuning operator()(target, backward_kernel) const  (SMALTI_HD)");
  return true;
}

}  // namespace smalti::inline SMALTI_CODE::attention
