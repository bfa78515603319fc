// expect: smalti: a dense GEMM multiplies bf16, fp16, float or int8
#include <smalti/ops/gemm.hpp>
template struct smalti::gemm::dense<double, double, float>;
int main() {}
