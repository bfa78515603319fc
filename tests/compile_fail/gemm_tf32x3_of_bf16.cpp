// expect: smalti: tf32x3 splits float operands: take away options::f32
#include <smalti/ops/gemm.hpp>
struct three : smalti::gemm::options { static constexpr auto f32 = smalti::gemm::float_product::tf32x3; };
template struct smalti::gemm::dense<smalti::bf16, smalti::bf16, float, smalti::policy::chain<>, three>;
int main() {}
