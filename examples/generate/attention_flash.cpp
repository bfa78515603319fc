// Dense attention over keys and values in bf16.
#include "attention_text.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<attention_cache> make_flash_bf16(const attention_settings& s, const config& c, int) { return make_dense<policy::kv_plain<bf16>>(s, c); }

}  // namespace generate::inline GENERATE_MACHINE
