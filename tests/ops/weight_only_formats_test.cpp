// gemm::weight_only on the formats that checkpoints use, against the double oracle.
#include "quantized_problem.hpp"

using namespace smalti;
using namespace test;

TEST_CASE("weight_only: formats of checkpoints", "[ops][gemm][quantized]") {
  weight_only_case<policy::q4_0>(9, 70, 300);
  weight_only_case<policy::q4_1>(9, 70, 300);
  weight_only_case<policy::q5_0>(9, 70, 300);
  weight_only_case<policy::q5_1>(9, 70, 300);
  weight_only_case<policy::q8_0>(9, 70, 300);
  weight_only_case<policy::q4_k>(9, 70, 512);
  weight_only_case<policy::q5_k>(9, 70, 512);
  weight_only_case<policy::q6_k>(9, 70, 512);
  weight_only_case<policy::int8_affine<128>>(9, 70, 300);
  weight_only_case<policy::int_affine<2, 64>>(9, 70, 300);
}

TEST_CASE("weight_only: formats of floating-point codes", "[ops][gemm][quantized]") {
  weight_only_case<policy::bnb_nf4<64>>(9, 70, 256);
  weight_only_case<policy::bnb_nf4_double<64>>(9, 70, 256);
  weight_only_case<policy::bnb_fp4<64>>(9, 70, 256);
  weight_only_case<policy::mxfp4>(9, 70, 300);
  weight_only_case<policy::mxfp6_e3m2>(9, 70, 300);
  weight_only_case<policy::mxfp6_e2m3>(9, 70, 300);
  weight_only_case<policy::mxfp8_e4m3>(9, 70, 300);
  weight_only_case<policy::nvfp4_multiplier>(9, 70, 300);
  weight_only_case<policy::nvfp4_divisor>(9, 70, 300);
  weight_only_case<policy::fp8_block>(9, 270, 300);
  weight_only_case<policy::fp8_channel>(9, 70, 300);
  weight_only_case<policy::fp8_tensor>(9, 70, 300);
}
