// expect: smalti: A and B of a dense GEMM have one element type
#include <smalti/ops/gemm.hpp>
template struct smalti::gemm::dense<smalti::bf16, float, float>;
int main() {}
