// expect: smalti: microscaled activations (e8m0 scales) are multiplied by block-scaled instructions, which this operation does not use yet
#include <smalti/ops/gemm/quantized.hpp>
smalti::gemm::quantized<smalti::policy::mxfp8_tokens<>, smalti::policy::mxfp8_e4m3>::args x;
int main() {}
