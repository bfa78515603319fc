// expect: smalti: an int C holds the exact sums of int8 operands
#include <cstdint>
#include <smalti/ops/gemm.hpp>
template struct smalti::gemm::dense<std::int8_t, std::int8_t, int, smalti::policy::chain<smalti::policy::relu>>;
int main() {}
