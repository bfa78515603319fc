// Dense attention over keys and values of 4 bits, a scale and a minimum for 32 channels of a token.
#include "attention_text.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<attention_cache> make_flash_int4(const attention_settings& s, const config& c, int) { return make_dense<policy::kv_int4<>>(s, c); }

}  // namespace generate::inline GENERATE_MACHINE
