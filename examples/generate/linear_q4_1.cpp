// GGUF's Q4_1: 4 bits, a scale and a minimum for 32.
#include "linear_text.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<linear> make_q4_1(const matrix& w, form f, bool native, bool int8_activations) {
  return make_coded<policy::q4_1, policy::q4_1_quantizer>(w, f, native, int8_activations);
}

}  // namespace generate::inline GENERATE_MACHINE
