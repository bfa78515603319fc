// expect: smalti: a cuda_context needs nvcc 13.3 or newer
// without: --enable-tile
// pretend: nvcc 13.0
#include <smalti/core/explain_context.hpp>
#include <smalti/core/pages.hpp>
#include <smalti/core/segments.hpp>

int main() {
#if !defined(SMALTI_REMEDY)      // descriptors alone compile with an old nvcc
  return bool(smalti::cuda_context::on(cudaStream_t{}).ready);
#endif
}
