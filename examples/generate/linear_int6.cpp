// 6 bits and a scale for 64.
#include "linear_text.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<linear> make_int6(const matrix& w, form f, bool native, bool int8_activations) {
  return make_coded<policy::int_affine<6, 64, policy::zero_point::none, float>, policy::symmetric_quantizer<policy::offset_int<6>>>(w, f, native, int8_activations);
}

}  // namespace generate::inline GENERATE_MACHINE
