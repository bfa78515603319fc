// expect: smalti: block-scaled activations are multiplied with weights of the same scales
#include <smalti/ops/gemm/quantized.hpp>
smalti::gemm::quantized<smalti::policy::mxfp8_tokens<>, smalti::policy::fp8_block>::args x;
int main() {}
