// Dense attention over keys and values in E4M3, unscaled: keys and values of these models are far below its 448.
#include "attention_text.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<attention_cache> make_flash_fp8(const attention_settings& s, const config& c, int) { return make_dense<policy::kv_plain<fp8_e4m3>>(s, c); }

}  // namespace generate::inline GENERATE_MACHINE
