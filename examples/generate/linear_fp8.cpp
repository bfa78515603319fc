// E4M3 and a bf16 for 128 of each row.
#include "linear_text.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<linear> make_fp8(const matrix& w, form f, bool native, bool int8_activations) {
  using format = policy::format<policy::e4m3_finite, policy::scales<bf16, 128>>;
  return make_coded<format, policy::symmetric_quantizer<policy::e4m3_finite, bf16>, false>(w, f, native, int8_activations);
}

}  // namespace generate::inline GENERATE_MACHINE
