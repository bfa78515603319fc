// expect: smalti: striped and stream-K schedules are not offered
#include <smalti/ops/gemm.hpp>
struct waiting : smalti::gemm::options { static constexpr bool stream_k = true; };
template struct smalti::gemm::dense<smalti::bf16, smalti::bf16, float, smalti::policy::chain<>, waiting>;
int main() {}
