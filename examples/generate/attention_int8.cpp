// Dense attention over keys and values of 8 bits, a scale for each token and head.
#include "attention_text.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<attention_cache> make_flash_int8(const attention_settings& s, const config& c, int) { return make_dense<policy::kv_int8<>>(s, c); }

}  // namespace generate::inline GENERATE_MACHINE
