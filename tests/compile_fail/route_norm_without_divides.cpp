// expect: smalti: a weight norm needs  static constexpr bool from_greatest, divides
#include <smalti/ops/route/router.hpp>
struct halves {
  static constexpr bool from_greatest = false;
};
using router = smalti::route::router<smalti::policy::softmax_scorer, smalti::policy::no_bias, smalti::policy::top_k, halves>;
int main() { return router::args{}.tokens; }
