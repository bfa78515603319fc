// Every format on every form of the product with 16-bit activations, against the double oracle: plain, groups of rows with a weight each,
// groups along k.
#include "quantized_problem.hpp"

using namespace smalti;
using namespace test;

namespace {

// Experts of one format: many rows, one, none. Maps of rows, sums of splits and epilogues ask no format anything: quantized_gemm_test.cpp.
template <class Format> void grouped_case(int n, int k) {
  using op = gemm::grouped_weight_only<Format, policy::chain<>, bf16, float, unaligned>;
  std::mt19937 generator(quantized_seed);
  constexpr int experts = 4, bounds[experts + 1] = {0, 5, 5, 24, 25}, m = bounds[experts];
  CAPTURE(quantized_seed, n, k);
  std::vector<neutral<Format>> w;
  for (int e = 0; e < experts; ++e) w.emplace_back(n, k, generator);
  packed_stack<Format, bf16> p(w);
  const rows_of<bf16> x(m, k, generator, true);
  array<std::int32_t> offsets(experts + 1);
  std::copy_n(bounds, experts + 1, offsets.data());
  array<float> y(std::size_t(m) * n, true);
  for_each_context(quantized_seed, [&](const auto& plain) {
    const auto context = with_tuning<one_tile>(plain);
    std::memset(y.data(), 0xA5, y.size() * sizeof(float));
    typename op::args a{};
    a.x = {x.data.data(), m, k, x.stride};
    a.w = p.w;
    a.y = {y.data(), m, n, n};
    a.rows = {offsets.data(), experts};
    run_linear<op>(context, a);
    for (int e = 0; e < experts; ++e)
      verify_linear<op, Format, bf16>(y, bounds[e + 1], n, n, x.real, w[e], weight_error<Format, bf16>(policy::scale_in::accumulator), [](double v, int, int) { return v; }, 1, 0, bounds[e]);
  });
}

template <class Format> void forms(int n, int k) {
  weight_only_case<Format>(9, n, k);
  grouped_case<Format>(n, k);
  depth_of_weights<Format>({0, 33, 33, 130, k}, {}, 3, n);      // boundaries within groups, and one segment of no column
}

}  // namespace

TEST_CASE("weight_only: formats of checkpoints", "[ops][gemm][quantized][grouped]") {
  forms<policy::q4_0>(70, 300);
  forms<policy::q4_1>(70, 300);
  forms<policy::q5_0>(70, 300);
  forms<policy::q5_1>(70, 300);
  forms<policy::q8_0>(70, 300);
  forms<policy::q4_k>(70, 512);
  forms<policy::q5_k>(70, 512);
  forms<policy::q6_k>(70, 512);
  forms<policy::int8_affine<128>>(70, 300);
  forms<policy::int_affine<1, 64>>(70, 300);
  forms<policy::int_affine<2, 64>>(70, 300);
  forms<policy::int_affine<3, 64>>(70, 300);
  forms<policy::int_affine<7, 64>>(70, 300);      // of 5 and 6 bits: q5_0 and q6_k, of 4: most of the above
}

TEST_CASE("weight_only: formats of floating-point codes", "[ops][gemm][quantized][grouped]") {
  forms<policy::bnb_nf4<64>>(70, 256);
  forms<policy::bnb_nf4_double<64>>(70, 256);
  forms<policy::bnb_fp4<64>>(70, 256);
  forms<policy::bnb_fp4_double<64>>(70, 256);
  forms<policy::mxfp4>(70, 300);
  forms<policy::mxfp6_e3m2>(70, 300);
  forms<policy::mxfp6_e2m3>(70, 300);
  forms<policy::mxfp8_e4m3>(70, 300);
  forms<policy::mxfp8_e5m2>(70, 300);
  forms<policy::nvfp4_multiplier>(70, 300);
  forms<policy::nvfp4_divisor>(70, 300);
  forms<policy::fp8_block>(270, 300);
  forms<policy::fp8_row_block>(70, 300);
  forms<policy::fp8_channel>(70, 300);
  forms<policy::fp8_tensor>(70, 300);
}
