// expect: smalti: a position policy needs  template <class P, class R> auto key_phase
#include <smalti/policy/position.hpp>

struct no_keys {
  static constexpr smalti::policy::key_storage storage = smalti::policy::key_storage::rotated;
  template <class P, class R> auto query_phase(P position, R) const { return position; }
  template <class P, class R> auto stored_phase(P position, R) const { return position; }
};
static_assert(smalti::policy::explain_position_policy<no_keys>());
int main() {}
