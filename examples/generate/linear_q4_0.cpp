// GGUF's Q4_0: 4 bits and a scale for 32.
#include "linear_text.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<linear> make_q4_0(const matrix& w, form f, bool native, bool int8_activations) {
  return make_coded<policy::q4_0, policy::q4_0_quantizer>(w, f, native, int8_activations);
}

}  // namespace generate::inline GENERATE_MACHINE
