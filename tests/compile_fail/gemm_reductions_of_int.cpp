// expect: smalti: reductions are of float results: use a float C
#include <cstdint>
#include <smalti/ops/gemm.hpp>
struct sums : smalti::gemm::options { using reductions = smalti::policy::chain<smalti::policy::column_sum>; };
template struct smalti::gemm::dense<std::int8_t, std::int8_t, int, smalti::policy::chain<>, sums>;
int main() {}
