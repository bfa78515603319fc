// expect: smalti: codes of this format are not 8-bit integers, times any power of two
#include <smalti/ops/gemm/quantized.hpp>
smalti::gemm::quantized<smalti::policy::int8_tokens<64>, smalti::policy::bnb_nf4<64>>::args x;
int main() {}
