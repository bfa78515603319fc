// expect: smalti: this normalizer has no gradient
#include <smalti/ops/attention/backward.hpp>
using namespace smalti;
using op = attention::flash_backward<bf16, 64, policy::causal, policy::identity_score, policy::softmax_with_power>;
status f(const host_context& context, const op::args& x) { return op::check(context, x); }
int main() {}
