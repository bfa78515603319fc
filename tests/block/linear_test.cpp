// The linear agent over codecs, layouts and scale policies: 16-bit activations against a double oracle.
#include <catch2/catch.hpp>
#include <bit>
#include "linear_problem.hpp"

using namespace smalti;
using namespace test;

namespace {
constexpr unsigned seed = 11;

constexpr int power_of_two(int m) { return int(std::bit_floor(unsigned(m))); }   // as a GPU's tile must be
template <int M, class Problem, bool Left = false> struct kernel {
  using arguments = typename Problem::arguments;
  template <target T>
  using agent = gemm::linear_agent<T == target::host ? gemm::linear_tuning{.m = M, .n = 64} : gemm::linear_tuning{.m = power_of_two(M), .n = 64, .weights_left = Left}, Problem>;
};

// Sums of each group's activations, as a pass before the product makes them.
template <class X> array<float> group_sums(const array<X>& x, int m, int k, int group) {
  const int groups = group == 0 ? 1 : ceil_div(k, group);
  array<float> sums(std::size_t(groups) * m);
  for (int g = 0; g < groups; ++g)
    for (int i = 0; i < m; ++i) {
      double s = 0;
      for (int c = g * group; c < (group == 0 ? k : std::min(k, (g + 1) * group)); ++c) s += value(x[std::size_t(i) * k + c]);
      sums[std::size_t(g) * m + i] = float(s);
    }
  return sums;
}

template <class Format, class Layout, policy::scale_in In, int M, class X = bf16, class Operand = X> void compare(int m, int n, int k) {
  std::mt19937 generator(seed);
  CAPTURE(seed, m, n, k);
  packed_problem<Format, Layout> p(n, k, generator);
  const int stride = padded(k, sizeof(X)) + 16;
  auto x = random_array<X>(std::size_t(m) * stride, generator);
  array<X> dense(std::size_t(m) * k);
  for (int i = 0; i < m; ++i) std::copy_n(x.data() + std::size_t(i) * stride, k, dense.data() + std::size_t(i) * k);
  const auto sums = group_sums(dense, m, k, Format::scales::group_k);
  using source = gemm::packed_weights<Format, Layout, In>;
  constexpr bool corrects = source::scale_type::has_minimum || (source::scale_type::has_zero && In != policy::scale_in::operand);
  using factors = gemm::activation_factors<-1, corrects>;
  using problem = gemm::linear_problem<X, Operand, source, factors, float, policy::chain<>, gemm::one_matrix, false, 1, 1>;
  array<float> y(std::size_t(m) * n);
  typename problem::arguments a{.x = {x.data(), m, k, stride}, .weights = p.template source<source>(), .y = {y.data(), m, n, n}, .splits = 1};
  if constexpr (corrects) a.factors.sums = {sums.data(), int(sums.size()) / m, m, m};
  // one rounding a weight where the scale enters the operand (two on a GPU, which rounds the scale as well); table codecs
  // round their values to the operand
  const double a_weight = In == policy::scale_in::operand ? 2.5 * std::ldexp(1.0, -digits<Operand>) : std::ldexp(1.0, -digits<Operand>) * (std::is_base_of_v<policy::nf4, typename Format::codec> || std::is_base_of_v<policy::fp4, typename Format::codec>);
  const auto run_kernel = [&]<bool Left>(std::bool_constant<Left>) {
    for_each_context(seed, [&](const auto& context) {
      std::memset(y.data(), 0xA5, y.size() * sizeof(float));
      const status st = launch<kernel<M, problem, Left>>(context, a);
      REQUIRE(st.code == errc::ok);
      wait(context);
      REQUIRE(y.guarded());
      for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) {
          double sum = 0, size = 0;
          for (int c = 0; c < k; ++c) {
            const double v = value(dense[std::size_t(i) * k + c]), low = std::abs(p.minimum_at(0, j, c)), w = p.weights[std::size_t(j) * k + c];
            sum += v * w;
            // products before a zero point or minimum cancels them
            size += std::abs(v) * (std::abs((p.values[std::size_t(j) * k + c] + p.zero_at(0, j, c)) * p.scale_at(0, j, c)) + std::abs(p.zero_at(0, j, c) * p.scale_at(0, j, c)) + low);
          }
          const double error = std::abs(sum - y[std::size_t(i) * n + j]);
          if (!(error <= ((k + 8) * 0x1p-24 + a_weight) * size)) {
            CAPTURE(i, j, sum, y[std::size_t(i) * n + j], size);
            REQUIRE(error <= ((k + 8) * 0x1p-24 + a_weight) * size);
          }
        }
    });
  };
  run_kernel(std::false_type{});
#if defined(__CUDACC__)
  run_kernel(std::true_type{});
#endif
}
constexpr auto accumulator = policy::scale_in::accumulator, operand = policy::scale_in::operand;
}  // namespace

TEST_CASE("linear: four-bit weights, scales in the accumulator", "[block][gemm]") {
  using format = policy::int4_symmetric<128>;
  using deep = words_layout<4, family == policy::machine_family::gpu ? 32 : 128>;
  compare<format, deep, accumulator, 16>(1, 64, 128);
  compare<format, deep, accumulator, 16>(7, 200, 384);
  compare<format, deep, accumulator, 16>(33, 72, 256);
  compare<format, deep, accumulator, 96>(100, 132, 512);
  compare<format, deep, accumulator, 16, fp16>(9, 70, 320);
  compare<policy::int4_symmetric<64>, deep, accumulator, 16>(5, 64, 192);
  compare<policy::int4_symmetric<32>, deep, accumulator, 16>(5, 80, 97);
  compare<policy::int4_symmetric<96>, words_layout<4, 32>, accumulator, 16>(5, 80, 300);
  compare<policy::int4_symmetric<256>, deep, accumulator, 16>(5, 80, 600);
}

// Here codes in several planes, both places of scales and every kind of second level; every format: ops/weight_only_formats_test.cpp.
TEST_CASE("linear: codes in several planes", "[block][gemm]") {
  constexpr int depth = family == policy::machine_family::gpu ? 32 : 128;
  compare<policy::int_affine<3, 64>, words_layout<3, depth>, accumulator, 16>(5, 72, 700);
  compare<policy::int_affine<7, 64>, words_layout<7, depth>, accumulator, 16>(5, 72, 1100);
  compare<policy::int_affine<8, 64>, words_layout<8, depth>, accumulator, 16, fp16>(5, 72, 200);
}

TEST_CASE("linear: zero points, minima and levels of scales", "[block][gemm]") {
  constexpr int depth = family == policy::machine_family::gpu ? 32 : 128, shallow = family == policy::machine_family::gpu ? 16 : 128;
  compare<policy::int4_affine<128>, words_layout<4, depth>, accumulator, 16>(6, 70, 300);
  compare<policy::int4_affine<64>, words_layout<4, depth>, operand, 16>(6, 70, 300);
  compare<policy::int4_affine<64>, words_layout<4, depth>, operand, 16, fp16>(6, 70, 300);
  compare<policy::int8_affine<0>, words_layout<8, depth>, accumulator, 16>(6, 70, 300);
  compare<policy::q4_1, words_layout<4, depth>, operand, 16>(6, 70, 300);
  compare<policy::q6_k, words_layout<6, shallow>, accumulator, 16>(6, 70, 600);
  compare<policy::int_affine<4, 0>, words_layout<4, depth>, accumulator, 16>(6, 70, 300);
  compare<policy::int_affine<4, 0>, words_layout<4, depth>, operand, 16>(6, 70, 300);
}

TEST_CASE("linear: floating-point codes", "[block][gemm]") {
  constexpr int depth = family == policy::machine_family::gpu ? 32 : 128, shallow = family == policy::machine_family::gpu ? 16 : 128;
  compare<policy::mxfp6_e3m2, words_layout<6, depth>, operand, 16>(6, 70, 300);
  compare<policy::nvfp4_multiplier, words_layout<4, shallow>, accumulator, 16>(6, 70, 300);
  compare<policy::nvfp4_divisor, words_layout<4, shallow>, operand, 16>(6, 70, 300);
  compare<policy::bnb_fp4<64>, words_layout<4, depth>, operand, 16, fp16>(6, 70, 300);
  compare<policy::fp8_block, words_layout<8, depth>, accumulator, 16>(6, 270, 300);
}
