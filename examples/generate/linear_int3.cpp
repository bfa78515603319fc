// 3 bits, a scale and an integer zero point for 64.
#include "linear_text.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<linear> make_int3(const matrix& w, form f, bool native, bool int8_activations) {
  return make_coded<policy::int_affine<3, 64, policy::zero_point::integer>, policy::gptq_quantizer<3, false>>(w, f, native, int8_activations);
}

}  // namespace generate::inline GENERATE_MACHINE
