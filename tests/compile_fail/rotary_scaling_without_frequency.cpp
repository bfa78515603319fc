// expect: smalti: a rotary scaling needs  double inverse_frequency
#include <smalti/policy/position.hpp>

struct silent {
  double attention_scale() const { return 1; }
  smalti::status check() const { return {}; }
};
static_assert(smalti::policy::explain_rotary_scaling<silent>());
int main() {}
