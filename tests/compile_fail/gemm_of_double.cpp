// expect: smalti: a dense GEMM multiplies bf16, fp16, float, int8, fp8_e4m3 or fp8_e5m2
#include <smalti/ops/gemm.hpp>
template struct smalti::gemm::dense<double, double, float>;
int main() {}
