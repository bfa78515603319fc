// Compile only: our storage has the layout of CUDA's, and the conversions compile for a SIMT kernel and a tile
// kernel. Casting an array of ours to CUDA's type is then a matter of the pointer's type alone.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp4.h>
#include <cuda_fp6.h>
#include <cuda_fp8.h>

#include <type_traits>

#include <smalti/core/float.hpp>
#include <smalti/core/packed.hpp>

using namespace smalti;

template <class Ours, class Theirs>
constexpr bool alike = sizeof(Ours) == sizeof(Theirs) && alignof(Ours) == alignof(Theirs) &&
                       std::is_trivially_copyable_v<Ours> && std::is_standard_layout_v<Ours>;
static_assert(alike<bf16, __nv_bfloat16> && alike<fp16, __half>);
static_assert(alike<fp8_e4m3, __nv_fp8_e4m3> && alike<fp8_e5m2, __nv_fp8_e5m2> && alike<e8m0, __nv_fp8_e8m0>);
static_assert(alike<e3m2, __nv_fp6_e3m2> && alike<e2m3, __nv_fp6_e2m3> && alike<e2m1, __nv_fp4_e2m1>);
static_assert(alike<e2m1x2, __nv_fp4x2_e2m1> && alike<tf32, float>);

template <class T> SMALTI_HD float there_and_back(float x) {
  const T a = narrow<T>(x);
  const T b = narrow<T, overflow::saturate>(x + x);
  return a == b ? max_finite<T> : to_float(a) + to_float(b);
}
template <class... T> SMALTI_HD float through_all(float x) { return (0.0f + ... + there_and_back<T>(x)); }
SMALTI_HD inline float through_every_type(float x) {
  packed<e2m3> four{};
  four.set(2, narrow<e2m3>(x));
  return to_float(four[2]) + through_all<bf16, fp16, tf32, fp8_e4m3, fp8_e5m2, fp8_e4m3fnuz, fp8_e5m2fnuz, e8m0, e3m2, e2m3, e2m1>(x);
}

__global__ void convert(float* x) { x[threadIdx.x] = through_every_type(x[threadIdx.x]); }
#if defined(__CUDACC_TILE__)
__tile_global__ void convert_in_tile_code(float* x, float y) { *x = through_every_type(y); }
#endif
