// expect: smalti: a tuning of a GEMM is an empty type with
#include <smalti/ops/gemm.hpp>
using namespace smalti;
struct half_a_tuning { constexpr gemm::gemm_tuning operator()(target) const { return {.m = 16, .n = 16, .k = 64}; } };
int main() {
  using op = gemm::dense<bf16, bf16, float>;
  return int(op::run(with_tuning<half_a_tuning>(host_context{}), op::args{}).code);
}
