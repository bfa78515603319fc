// expect: smalti: a codec needs  static constexpr unsigned encode
#include <smalti/policy/codecs/element.hpp>

struct half_a_codec {
  static constexpr int bits = 4, zero_code = 0;
  static constexpr float value(unsigned code) { return float(code); }
};
static_assert(smalti::policy::explain_codec<half_a_codec>());
int main() {}
