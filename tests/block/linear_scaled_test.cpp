// The linear agent on quantized activations: 8-bit integers and 8-bit floats with scales of their own, and groups of rows.
#include <catch2/catch.hpp>
#include <bit>
#include <numeric>
#include "linear_problem.hpp"

using namespace smalti;
using namespace test;

namespace {
constexpr unsigned seed = 12;
constexpr bool on_gpu = family == policy::machine_family::gpu;

template <int M, class Problem, bool Left = false> struct kernel {
  using arguments = typename Problem::arguments;
  template <target T>
  using agent = gemm::linear_agent<T == target::host ? gemm::linear_tuning{.m = M, .n = 64, .k = 128} : gemm::linear_tuning{.m = int(std::bit_floor(unsigned(M))), .n = 64, .k = 128, .weights_left = Left}, Problem>;
};

// Activations: codes with a scale for each group of each row, and sums of what they stand for.
template <class X> struct activations {
  int m, k, groups, stride;
  array<X> codes;
  array<float> scales, sums;
  std::vector<double> real;
  activations(int m, int k, int group, int sum_group, std::mt19937& generator)
      : m(m), k(k), groups(group == 0 ? 1 : ceil_div(k, group)), stride(padded(k, sizeof(X)) + 16), codes(std::size_t(m) * stride), scales(std::size_t(groups) * m),
        sums(std::size_t(sum_group == 0 ? 1 : ceil_div(k, sum_group)) * m), real(std::size_t(m) * k) {
    std::normal_distribution<float> normal;
    for (auto& x : codes) {
      if constexpr (std::is_integral_v<X>) x = X(int(generator() % 255) - 127);
      else x = narrow<X>(normal(generator) * 32);
    }
    for (float& s : scales) s = std::ldexp(1.0f + float(generator() % 64) / 64, -int(generator() % 4));   // a different one for each row and group
    for (float& s : sums) s = 0;
    for (int i = 0; i < m; ++i)
      for (int c = 0; c < k; ++c) {
        real[std::size_t(i) * k + c] = value(codes[std::size_t(i) * stride + c]) * scales[std::size_t(group == 0 ? 0 : c / group) * m + i];
        sums[std::size_t(sum_group == 0 ? 0 : c / sum_group) * m + i] += float(real[std::size_t(i) * k + c]);
      }
  }
};

template <class Problem, int M, class Check> void launch_and_check(const typename Problem::arguments& a, array<float>& y, Check check) {
  const auto with = [&]<bool Left>(std::bool_constant<Left>) {
    for_each_context(seed, [&](const auto& context) {
      std::memset(y.data(), 0xA5, y.size() * sizeof(float));
      const status st = launch<kernel<M, Problem, Left>>(context, a);
      REQUIRE(st.code == errc::ok);
      wait(context);
      REQUIRE(y.guarded());
      check();
    });
  };
  with(std::false_type{});
#if defined(__CUDACC__)
  with(std::true_type{});
#endif
}

// Integers are summed exactly; then a product of two scales, a multiply-add for each group, one for each minimum.
template <class Format, class Layout, int Group, int M> void integers(int m, int n, int k) {
  std::mt19937 generator(seed);
  CAPTURE(seed, m, n, k);
  using source = gemm::packed_weights<Format, Layout, policy::scale_in::accumulator>;
  constexpr bool corrects = source::scale_type::has_minimum || source::scale_type::has_zero;
  constexpr int weight_group = Format::scales::group_k;
  packed_problem<Format, Layout> p(n, k, generator);
  activations<std::int8_t> x(m, k, Group, weight_group, generator);
  using problem = gemm::linear_problem<std::int8_t, std::int8_t, source, gemm::activation_factors<Group, corrects>, float, policy::chain<>, gemm::one_matrix, false, 1, 1>;
  array<float> y(std::size_t(m) * n);
  typename problem::arguments a{};
  a.x = {x.codes.data(), m, k, x.stride};
  a.factors.scales = {x.scales.data(), x.groups, m, m};
  if constexpr (corrects) a.factors.sums = {x.sums.data(), int(x.sums.size()) / m, m, m};
  a.weights = p.template source<source>();
  a.y = {y.data(), m, n, n};
  launch_and_check<problem, M>(a, y, [&] {
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < n; ++j) {
        double sum = 0, size = 0;
        for (int c = 0; c < k; ++c) {
          const double v = x.real[std::size_t(i) * k + c], whole = (p.values[std::size_t(j) * k + c] + p.zero_at(0, j, c)) * p.scale_at(0, j, c);
          sum += v * p.weights[std::size_t(j) * k + c];
          size += std::abs(v) * (std::abs(whole) + std::abs(p.zero_at(0, j, c) * p.scale_at(0, j, c)) + std::abs(p.minimum_at(0, j, c)));
        }
        const double error = std::abs(sum - y[std::size_t(i) * n + j]);
        const double bound = (weight_group == 0 ? 8 + corrects * k : 4 * ceil_div(k, weight_group) + 8 + corrects * weight_group) * 0x1p-24 * size;   // the sums were added in float
        if (!(error <= bound)) {
          CAPTURE(i, j, sum, y[std::size_t(i) * n + j], size);
          REQUIRE(error <= bound);
        }
      }
  });
}
}  // namespace

TEST_CASE("linear: 8-bit activations", "[block][gemm]") {
  constexpr int deep = on_gpu ? 32 : 128, shallow = on_gpu ? 16 : 128;
  integers<policy::q4_0, bytes_layout<4, deep>, 32, 16>(1, 64, 128);
  integers<policy::q4_0, bytes_layout<4, deep>, 32, 16>(7, 70, 300);
  integers<policy::q4_0, bytes_layout<4, deep>, 32, 64>(130, 70, 1000);
  integers<policy::q4_1, bytes_layout<4, deep>, 32, 16>(9, 70, 300);
  integers<policy::q4_1, bytes_layout<4, deep>, 32, 64>(50, 70, 300);
  integers<policy::q5_0, bytes_layout<5, deep>, 32, 16>(9, 70, 300);
  integers<policy::q8_0, bytes_layout<8, deep>, 32, 16>(9, 70, 300);
  integers<policy::q4_k, bytes_layout<4, deep>, 32, 16>(9, 70, 600);
  integers<policy::q6_k, bytes_layout<6, shallow>, 16, 16>(9, 70, 600);
  integers<policy::int4_affine<128>, bytes_layout<4, deep>, 128, 16>(9, 70, 600);
  integers<policy::int_affine<4, 128>, bytes_layout<4, deep>, 0, 16>(9, 70, 600);
  integers<policy::int4_affine<64>, bytes_layout<4, deep>, 0, 16>(9, 70, 600);
  integers<policy::int_affine<8, 0, policy::zero_point::none, float>, bytes_layout<8, deep>, 0, 16>(9, 70, 600);
  integers<policy::int4_affine<0>, bytes_layout<4, deep>, 0, 16>(9, 70, 600);
#if !defined(__CUDACC__)   // integers in disguise: eight-bit operands on the host
  integers<policy::mxfp4, bytes_layout<4, deep>, 32, 16>(9, 70, 300);
  integers<policy::mxfp6_e2m3, bytes_layout<6, deep>, 32, 16>(9, 70, 300);
#endif
}

namespace {
template <class WeightScales, int Group, int M> void bytes_of_floats(int m, int n, int k) {
  std::mt19937 generator(seed);
  CAPTURE(seed, m, n, k);
  activations<fp8_e4m3> x(m, k, Group, 0, generator);
  const int ldw = padded(k, 1) + 16, groups = WeightScales::rows(k), across = WeightScales::cols(n), wide = padded(across, 4);
  const auto w = random_array<fp8_e4m3>(std::size_t(n) * ldw, generator, 20);
  array<float> scales(std::size_t(groups) * wide), y(std::size_t(m) * n);
  for (float& s : scales) s = std::ldexp(1.0f + float(generator() % 64) / 64, -int(generator() % 4));
  using source = gemm::plain_weights<fp8_e4m3, gemm::scale_arrays<WeightScales>>;
  using problem = gemm::linear_problem<fp8_e4m3, fp8_e4m3, source, gemm::activation_factors<Group>, float, policy::chain<>, gemm::one_matrix, false, 1, 1>;
  typename problem::arguments a{};
  a.x = {x.codes.data(), m, k, x.stride};
  a.factors.scales = {x.scales.data(), x.groups, m, m};
  a.weights.matrix = {w.data(), n, k, ldw};
  a.weights.scales.scale = {scales.data(), groups, wide, wide};
  a.y = {y.data(), m, n, n};
  launch_and_check<problem, M>(a, y, [&] {
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < n; ++j) {
        double sum = 0, size = 0;
        for (int c = 0; c < k; ++c) {
          const double t = x.real[std::size_t(i) * k + c] * value(w[std::size_t(j) * ldw + c]) * scales[std::size_t(WeightScales::row_of(c)) * wide + WeightScales::col_of(j)];
          sum += t, size += std::abs(t);
        }
        // tensor cores of sm_90 add 8-bit floats with 13 bits below the largest of a product's terms; promotion is every 128 of k
        const double unit = on_gpu ? 0x1p-12 : (k + 8) * 0x1p-24, error = std::abs(sum - y[std::size_t(i) * n + j]);
        if (!(error <= unit * size)) REQUIRE(error <= unit * size);
      }
  });
}
}  // namespace

TEST_CASE("linear: 8-bit floats with block scales", "[block][gemm]") {
  bytes_of_floats<policy::fp8_block::scales, 128, 16>(9, 270, 500);
  bytes_of_floats<policy::fp8_block::scales, 128, 64>(70, 200, 256);
  bytes_of_floats<policy::fp8_channel::scales, 0, 16>(9, 70, 300);
  bytes_of_floats<policy::fp8_tensor::scales, 0, 16>(9, 70, 300);
}

namespace {
template <class Offset> struct plan_kernel {
  using arguments = typename gemm::plan_row_tiles<Offset>::arguments;
  template <target> using agent = gemm::plan_row_tiles<Offset>;
};

// Rows in groups with a weight each: every way to name the rows, against the same oracle.
template <class Offset, int M, int How> void grouped(std::vector<int> lengths, int n, int k) {
  std::mt19937 generator(seed);
  const int experts = int(lengths.size()), total = std::accumulate(lengths.begin(), lengths.end(), 0);
  CAPTURE(seed, lengths, n, k, How);
  using format = policy::int4_symmetric<64>;
  using layout = words_layout<4, on_gpu ? 32 : 128>;
  using source = gemm::packed_weights<format, layout, policy::scale_in::accumulator>;
  constexpr bool gathers = How & 1, scatters = How & 2;
  using rows_type = std::conditional_t<How == 0, gemm::row_groups, std::conditional_t<How == 1, gemm::gathered_row_groups, std::conditional_t<How == 2, gemm::scattered_row_groups, gemm::mapped_row_groups>>>;
  packed_problem<format, layout> p(n, k, generator, experts);
  const int tokens = gathers ? std::max(1, total / 2) : total, results = scatters ? 2 * total + 1 : total, stride = padded(k, 2) + 16;
  const auto x = random_array<bf16>(std::size_t(std::max(1, tokens)) * stride, generator);
  array<Offset> offsets(experts + 1);
  array<int> from(std::max(1, total)), to(std::max(1, total));
  offsets[0] = 0;
  for (int e = 0; e < experts; ++e) offsets[e + 1] = Offset(offsets[e] + lengths[e]);
  for (int r = 0; r < total; ++r) from[r] = gathers ? int(generator() % tokens) : r, to[r] = scatters ? (r % 5 == 3 ? -1 : 2 * r + 1) : r;
  const int entries = gemm::most_row_tiles(total, experts, on_gpu ? int(std::bit_floor(unsigned(M))) : M);
  array<int> plan(std::size_t(3) * std::max(1, entries));
  array<float> y(std::size_t(std::max(1, results)) * n);
  using problem = gemm::linear_problem<bf16, bf16, source, gemm::activation_factors<>, float, policy::chain<>, rows_type, false, 1, 1>;
  typename problem::arguments a{};
  a.x = {x.data(), tokens, k, stride};
  a.weights = p.template source<source>();
  a.y = {y.data(), results, n, n};
  a.rows.plan = plan.data();
  a.rows.entries = entries;
  if constexpr (gathers) a.rows.source = {from.data(), total, 1, 1};
  if constexpr (scatters) a.rows.target = {to.data(), total, 1, 1};
  const auto with = [&]<bool Left>(std::bool_constant<Left>) {
    for_each_context(seed, [&](const auto& context) {
      std::memset(y.data(), 0xA5, y.size() * sizeof(float));
      std::memset(plan.data(), 0xFF, plan.size() * sizeof(int));
      REQUIRE(launch<plan_kernel<Offset>>(context, {offsets.data(), offsets.data() + 1, experts, on_gpu ? int(std::bit_floor(unsigned(M))) : M, {plan.data(), 3, entries, entries}}).code == errc::ok);
      REQUIRE(launch<kernel<M, problem, Left>>(context, a).code == errc::ok);
      wait(context);
      REQUIRE(y.guarded());
      REQUIRE(plan.guarded());
      std::vector<bool> written(results);
      for (int e = 0; e < experts; ++e)
        for (int r = int(offsets[e]); r < int(offsets[e + 1]); ++r) {
          if (to[r] < 0) continue;
          written[to[r]] = true;
          for (int j = 0; j < n; ++j) {
            double sum = 0, size = 0;
            for (int c = 0; c < k; ++c) {
              const double t = value(x[std::size_t(from[r]) * stride + c]) * p.weights[(std::size_t(e) * n + j) * k + c];
              sum += t, size += std::abs(t);
            }
            const double error = std::abs(sum - y[std::size_t(to[r]) * n + j]);
            if (!(error <= (k + 8) * 0x1p-24 * size)) {
              CAPTURE(e, r, j, sum, y[std::size_t(to[r]) * n + j]);
              REQUIRE(error <= (k + 8) * 0x1p-24 * size);
            }
          }
        }
      for (int r = 0; r < results; ++r)
        for (int j = 0; j < n && !written[r]; ++j) {
          std::uint32_t bits;
          std::memcpy(&bits, &y[std::size_t(r) * n + j], 4);
          REQUIRE(bits == 0xA5A5A5A5u);
        }
    });
  };
  with(std::false_type{});
#if defined(__CUDACC__)
  with(std::true_type{});
#endif
}
}  // namespace

TEST_CASE("linear: groups of rows", "[block][gemm][grouped]") {
  grouped<std::int32_t, 16, 0>({3, 0, 17, 1, 40, 0}, 70, 200);
  grouped<std::int64_t, 16, 0>({0, 0, 5}, 64, 64);
  grouped<std::int32_t, 16, 1>({3, 0, 17, 1, 40}, 70, 200);
  grouped<std::int32_t, 16, 2>({3, 0, 17, 1, 40}, 70, 200);
  grouped<std::int32_t, 16, 3>({3, 0, 17, 1, 40}, 70, 200);
  grouped<std::int32_t, 16, 0>(std::vector<int>(300, 1), 20, 64);   // more tiles than one block of the plan makes
  grouped<std::int32_t, 16, 0>({0, 0}, 20, 64);
}
