// Attentions by their names.
#include <cstdlib>
#include <stdexcept>
#include "attention.hpp"

namespace generate::inline GENERATE_MACHINE {

std::unique_ptr<attention_cache> make_attention(const attention_settings& s, const config& c) {
  const std::size_t colon = s.attention.find(':');
  const std::string name = s.attention.substr(0, colon), number = colon == std::string::npos ? "" : s.attention.substr(colon + 1);
  const auto unknown = [&] { return std::runtime_error("--attention " + s.attention + " is not built: flash, hip:K, quest:K and window:W are, K and W tokens"); };
  if (s.cache != "dense") {
    const std::size_t at = s.cache.find(':');
    char* end = nullptr;
    const std::string share = at == std::string::npos ? "" : s.cache.substr(at + 1);
    const double kept = std::strtod(share.c_str(), &end);
    if (share.empty() || *end != 0 || !(kept > 0 && kept <= 1)) return make_compressed(s, c, "", 0);
    if (s.kv != "bf16" || s.attention != "flash") throw std::runtime_error("--cache " + s.cache + " is not built with --kv " + s.kv + " and --attention " + s.attention + ": bf16 and flash are");
    return make_compressed(s, c, s.cache.substr(0, at), kept);
  }
  if (name == "flash" && number.empty()) {
    if (s.kv == "bf16") return make_flash_bf16(s, c, 0);
    if (s.kv == "fp8") return make_flash_fp8(s, c, 0);
    if (s.kv == "int8") return make_flash_int8(s, c, 0);
    if (s.kv == "int4") return make_flash_int4(s, c, 0);
    throw std::runtime_error("--kv " + s.kv + " is not built: bf16, fp8, int8 and int4 are");
  }
  char* end = nullptr;
  const long count = std::strtol(number.c_str(), &end, 10);
  if (number.empty() || *end != 0 || count < 1 || count > 1 << 24) throw unknown();
  attention_maker* const make = name == "hip" ? make_hip_bf16 : name == "quest" ? make_quest_bf16 : name == "window" ? make_window_bf16 : nullptr;
  if (make == nullptr) throw unknown();
  if (s.kv != "bf16") throw std::runtime_error("--kv " + s.kv + " is read by --attention flash alone");
  return make(s, c, int(count));
}

}  // namespace generate::inline GENERATE_MACHINE
