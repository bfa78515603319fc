// 8 bits and a scale for each row.
#include "linear_text.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<linear> make_int8(const matrix& w, form f, bool native, bool int8_activations) {
  return make_coded<policy::int_affine<8, 0, policy::zero_point::none, float>, policy::symmetric_quantizer<policy::offset_int<8>>>(w, f, native, int8_activations);
}

}  // namespace generate::inline GENERATE_MACHINE
