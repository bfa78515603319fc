// What a user's first file does: include, ask, get an answer. The package must not choose the processor.
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/vocabulary.hpp>

#if defined(__AVX2__)
#  error "the package added -march to a user's file"
#endif
static_assert(SMALTI_DOT_LEVEL == 0);

int main() {
  float data[4] = {1, 2, 3, 4};
  const smalti::view<float, 1> v{data, 2, 2, 2};
  const smalti::status ok;
  return ok && smalti::band(v, 1, 1).data[1] == 4.0f ? 0 : 1;
}
