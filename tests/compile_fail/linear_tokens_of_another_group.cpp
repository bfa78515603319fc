// expect: smalti: activations scaled in groups of k take the groups of the weights
#include <smalti/ops/gemm/quantized.hpp>
using op = smalti::gemm::quantized<smalti::policy::int8_tokens<64>, smalti::policy::q4_0, smalti::policy::chain<>, float>;
smalti::status f(const op::args& x) { return op::run(smalti::host_context{}, x); }
int main() {}
