// 4 bits, a scale and an integer zero point for 128, as GPTQ's tools round to nearest.
#include "linear_text.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<linear> make_int4(const matrix& w, form f, bool native, bool int8_activations) {
  return make_coded<policy::int4_affine<128>, policy::gptq_quantizer<4, false>>(w, f, native, int8_activations);
}

}  // namespace generate::inline GENERATE_MACHINE
