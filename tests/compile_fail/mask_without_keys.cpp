// expect: smalti: a mask policy needs  span keys
#include <smalti/policy/mask.hpp>

struct visible_only {
  template <class Q, class K> constexpr auto visible(Q q, K k) const { return k <= q; }
};
static_assert(smalti::policy::explain_mask<visible_only>());
int main() {}
