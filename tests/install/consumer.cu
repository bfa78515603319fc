// A user's .cu file: the package asks for tile code, C++20 and GPUs that have it.
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/vocabulary.hpp>

#if !defined(__CUDACC_TILE__)
#  error "the package did not add --enable-tile"
#endif
#if defined(__CUDA_ARCH__)
static_assert(__CUDA_ARCH__ >= 800);
#endif

__global__ void scale(smalti::view<float, 1> v) { v.data[threadIdx.x] *= 2; }

int main() {
  void (*kernel)(smalti::view<float, 1>) = scale;
  return kernel != nullptr && smalti::status{} ? 0 : 1;
}
