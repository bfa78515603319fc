// expect: smalti: gpu_to_gpu needs results that are exact: the sums of scaled groups are floats. Use run_to_run
#include <smalti/ops/gemm/quantized.hpp>
struct everywhere : smalti::gemm::linear_options { static constexpr auto level = smalti::determinism::gpu_to_gpu; };
smalti::gemm::weight_only<smalti::policy::q4_0, smalti::policy::chain<>, smalti::bf16, float, everywhere>::args x;
int main() {}
