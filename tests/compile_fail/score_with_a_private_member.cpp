// expect: smalti: a score modifier crosses a kernel launch as its fields
#include <smalti/policy/score.hpp>

class hidden_cap {
  float cap_ = 30;

public:
  template <class V, class Q, class K> V operator()(V score, Q, K) const { return score * cap_; }
};
static_assert(smalti::policy::explain_score<hidden_cap>());
int main() {}
