// expect: smalti: rows are gathered and scattered by the grouped forms only
#include <smalti/ops/gemm/quantized.hpp>
struct gathering : smalti::gemm::linear_options { static constexpr bool gathers = true; };
smalti::gemm::weight_only<smalti::policy::q4_0, smalti::policy::chain<>, smalti::bf16, float, gathering>::args x;
int main() {}
