// expect: smalti: packed weights are multiplied with activations of bf16 or fp16; quantized activations: gemm::quantized
#include <smalti/ops/gemm/quantized.hpp>
smalti::gemm::weight_only<smalti::policy::q4_0, smalti::policy::chain<>, float>::args x;
int main() {}
