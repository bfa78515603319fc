// Attention to the last W tokens and the first four (attention sinks).
#include <smalti/policy/masks/window.hpp>
#include "attention_text.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<attention_cache> make_window_bf16(const attention_settings& s, const config& c, int count) {
  using how = dense_look<policy::kv_plain<bf16>, policy::sink_window<>>;
  how look;
  look.mask.left = count - 1;
  return std::make_unique<cache_of<policy::kv_plain<bf16>, how>>(s, c, look);
}

}  // namespace generate::inline GENERATE_MACHINE
