// expect: smalti: a cuda_context needs CUDA Tile: add --enable-tile
// without: --enable-tile
#include <smalti/core/explain_context.hpp>

int main() {
#if !defined(SMALTI_REMEDY)
  return bool(smalti::cuda_context::on(cudaStream_t{}).ready);
#endif
}
