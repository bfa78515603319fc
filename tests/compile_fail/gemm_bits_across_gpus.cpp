// expect: smalti: gpu_to_gpu needs results that are exact: int8 operands and an int C
#include <smalti/ops/gemm.hpp>
struct strict : smalti::gemm::options { static constexpr auto level = smalti::determinism::gpu_to_gpu; };
template struct smalti::gemm::dense<smalti::bf16, smalti::bf16, float, smalti::policy::chain<>, strict>;
int main() {}
