// NormalFloat of 4 bits, a float for 64.
#include <smalti/policy/quantizers/bitsandbytes.hpp>
#include "linear_text.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<linear> make_nf4(const matrix& w, form f, bool native, bool int8_activations) {
  return make_coded<policy::bnb_nf4<64>, policy::bitsandbytes_quantizer<policy::nf4, 64>, false>(w, f, native, int8_activations);
}

}  // namespace generate::inline GENERATE_MACHINE
