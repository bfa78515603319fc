// expect: smalti: fp8 activations are multiplied with fp8 weights: use int8_tokens for integer weights
#include <smalti/ops/gemm/quantized.hpp>
smalti::gemm::quantized<smalti::policy::fp8_tokens<128>, smalti::policy::int_affine<4, 128>>::args x;
int main() {}
