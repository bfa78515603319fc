// expect: smalti: the gradient of a router needs logits of each token: hashed experts have none, those of task logits are sums over tokens
#include <smalti/ops/route/router.hpp>
using router = smalti::route::router<smalti::policy::hash_scorer, smalti::policy::no_bias, smalti::policy::top_k, smalti::policy::sum_norm>;
int main() { return smalti::route::weight_gradient<router>::args{}.tokens; }
