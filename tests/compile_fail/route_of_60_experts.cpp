// expect: smalti: route::options::experts is a power of two from 16 to 1024: the least that is not below your experts
#include <smalti/ops/route/router.hpp>
struct sixty : smalti::route::options {
  static constexpr int experts = 60;
};
using router = smalti::route::router<smalti::policy::softmax_scorer, smalti::policy::no_bias, smalti::policy::top_k, smalti::policy::no_norm, sixty>;
int main() { return router::args{}.tokens; }
