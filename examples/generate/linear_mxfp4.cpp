// OCP's MXFP4: E2M1 and a power of two for 32.
#include <smalti/policy/quantizers/microscaling.hpp>
#include "linear_text.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<linear> make_mxfp4(const matrix& w, form f, bool native, bool int8_activations) {
  return make_coded<policy::mxfp4, policy::mxfp4_floor, small_floats_as_integers>(w, f, native, int8_activations);
}

}  // namespace generate::inline GENERATE_MACHINE
