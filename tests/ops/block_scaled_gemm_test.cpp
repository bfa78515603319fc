// gemm::quantized on operands that are block-scaled on both sides (MXFP8, MXFP4, NVFP4), with activations from quantize::tokens: the
// bytes of those against the quantizers of policy/, the products against double sums of what the bytes stand for.
#include "quantized_problem.hpp"
#include <smalti/ops/quantize.hpp>
#include <smalti/policy/quantizers/microscaling.hpp>

using namespace smalti;
using namespace test;

namespace {

// What a byte stands for, written out here.
double fp4_value(unsigned code) {
  const double magnitudes[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return code & 8 ? -magnitudes[code & 7] : magnitudes[code & 7];
}
double decoded(const e2m1x2* row, int c) { return fp4_value(c % 2 == 0 ? row[c / 2].bytes[0] & 15u : row[c / 2].bytes[0] >> 4); }
double decoded(const fp8_e4m3* row, int c) { return value(row[c]); }
double decoded(const fp8_e5m2* row, int c) { return value(row[c]); }
double scale_value_of(std::uint8_t s) { return std::ldexp(1.0, int(s) - 127); }
double scale_value_of(fp8_e4m3 s) { return value(s); }
std::uint8_t scale_of_bits(std::uint8_t, std::mt19937& g) { return std::uint8_t(120 + g() % 8); }
fp8_e4m3 scale_of_bits(fp8_e4m3, std::mt19937& g) { return {std::uint8_t(0x20 + g() % 0x28)}; }      // 0.0625 to 15: all of them normal

template <class Tokens, class Format> struct block_scaled_problem {
  using op = gemm::quantized<Tokens, Format, policy::chain<>, float>;
  using grouped = gemm::grouped_quantized<Tokens, Format, policy::chain<>, float>;
  using quantizer = quantize::tokens<bf16, Tokens>;
  using code = typename Tokens::code;
  using scale = std::remove_const_t<typename decltype(op::args::x_scales)::element>;
  static constexpr int group = Tokens::group, pair = codes_in<code>;
  static constexpr bool tensor = std::is_same_v<Tokens, policy::nvfp4_tokens>, divides = std::is_same_v<typename Format::scales::second, policy::tensor_divisor>;
  int m, n, k, experts, groups, wide, padded;
  array<bf16> x;
  array<code> codes, w;
  array<scale> scales, w_scales;
  array<float> numbers, y;      // the tensor's scales: of x, then of each expert

  block_scaled_problem(int m, int n, int k, std::mt19937& generator, int experts = 1)
      : m(m), n(n), k(k), experts(experts), groups(ceil_div(k, group)), wide(round_up(groups, 16)), padded(round_up(k, 8)), x(std::size_t(m) * padded), codes(std::size_t(m) * (k / pair)),
        w(std::size_t(experts) * n * (k / pair)), scales(std::size_t(m) * wide), w_scales(std::size_t(experts) * n * wide), numbers(1 + std::size_t(experts)), y(std::size_t(m) * n) {
    std::normal_distribution<float> normal;
    for (int i = 0; i < m; ++i)      // a row of zeros, an outlier in another
      for (int c = 0; c < padded; ++c) x[std::size_t(i) * padded + c] = narrow<bf16>(i == 2 ? 0.0f : c == 37 && i == 1 ? 300.0f : normal(generator) * std::ldexp(1.0f, i % 5 - 2));
    for (auto& c : w) {
      unsigned bits = generator() & 255;
      if constexpr (std::is_same_v<code, fp8_e4m3>) bits = (bits & 127) == 127 ? 0 : bits;
      if constexpr (std::is_same_v<code, fp8_e5m2>) bits = (bits & 0x7c) == 0x7c ? 0 : bits;
      std::memcpy(static_cast<void*>(&c), &bits, 1);
    }
    for (std::size_t i = 0; i < w_scales.size(); ++i) w_scales[i] = int(i % wide) < groups ? scale_of_bits(scale{}, generator) : scale{};
    numbers[0] = 0.0125f;
    for (int e = 0; e < experts; ++e) numbers[1 + std::size_t(e)] = divides ? 40.0f + e : 0.03f + 0.01f * e;
  }
  typename quantizer::args to_quantize() {
    typename quantizer::args a{};
    a.x = {x.data(), m, k, padded};
    a.codes = {codes.data(), m, k / pair, k / pair};
    a.scales = {scales.data(), m, wide, wide};
    if (tensor) a.tensor = numbers.data();
    return a;
  }
  template <class Args> Args to_multiply() {
    Args a{};
    a.x = {codes.data(), m, k / pair, k / pair};
    a.x_scales = {scales.data(), m, wide, wide};
    a.w.matrix = {w.data(), n, k / pair, k / pair};
    a.w.scales = {w_scales.data(), n, wide, wide};
    a.w.experts = experts;
    if constexpr (tensor) a.x_tensor = numbers.data(), a.w.tensor = numbers.data() + 1;
    a.y = {y.data(), m, n, n};
    return a;
  }
  void verify_row(int i, int e) {
    for (int j = 0; j < n; ++j) {
      double sum = 0, size = 0;
      const std::size_t row = std::size_t(e) * n + j;
      for (int c = 0; c < k; ++c) {
        const double t = decoded(codes.data() + std::size_t(i) * (k / pair), c) * scale_value_of(scales[std::size_t(i) * wide + c / group]) * decoded(w.data() + row * (k / pair), c) *
                         scale_value_of(w_scales[row * wide + c / group]);
        sum += t, size += std::abs(t);
      }
      double number = 1;
      if (tensor) number = divides ? double(numbers[0]) / numbers[1 + std::size_t(e)] : double(numbers[0]) * numbers[1 + std::size_t(e)];
      sum *= number, size *= number;
      const double got = y[std::size_t(i) * n + j];
#if defined(__CUDACC__)
      const double unit = 0x1p-12;      // as of 8-bit floats: the width of the instructions' accumulators is not stated
#else
      const double unit = (k + 2 * groups + 8) * 0x1p-24;
#endif
      if (!(std::abs(sum - got) <= unit * size)) {
        CAPTURE(i, j, sum, got, size);
        REQUIRE(std::abs(sum - got) <= unit * size);
      }
    }
  }
};

template <class Tokens, class Format> void block_scaled_case(int m, int n, int k) {
  std::mt19937 generator(quantized_seed);
  CAPTURE(quantized_seed, m, n, k);
  using problem = block_scaled_problem<Tokens, Format>;
  problem p(m, n, k, generator);
  std::vector<float> first;
  for_each_context(quantized_seed, [&](const auto& context) {
    std::memset(p.y.data(), 0xA5, p.y.size() * sizeof(float));
    std::memset(static_cast<void*>(p.scales.data()), 0xff, p.scales.size());
    REQUIRE(problem::quantizer::run(context, p.to_quantize()).code == errc::ok);
    wait(context);
    for (int i = 0; i < m; ++i)
      for (int g = p.groups; g < p.wide; ++g) REQUIRE(scale_value_of(p.scales[std::size_t(i) * p.wide + g]) <= 1.0);      // no NaN behind the last group
    run_linear<typename problem::op>(context, p.template to_multiply<typename problem::op::args>());
    for (int i = 0; i < m; ++i) p.verify_row(i, 0);
    REQUIRE(p.y.guarded());
    REQUIRE(p.codes.guarded());
    REQUIRE(p.scales.guarded());
    if (first.empty()) first.assign(p.y.begin(), p.y.end());
    REQUIRE(std::memcmp(first.data(), p.y.data(), first.size() * sizeof(float)) == 0);
  });
}
}  // namespace

TEST_CASE("quantized: block-scaled operands", "[ops][gemm][quantized]") {
  block_scaled_case<policy::mxfp8_tokens<>, policy::mxfp8_e4m3>(1, 16, 32);
  block_scaled_case<policy::mxfp8_tokens<>, policy::mxfp8_e4m3>(17, 68, 288);
  block_scaled_case<policy::mxfp8_tokens<fp8_e5m2>, policy::mxfp8_e5m2>(5, 68, 528);
  block_scaled_case<policy::mxfp4_tokens<>, policy::mxfp4>(1, 64, 256);
  block_scaled_case<policy::mxfp4_tokens<>, policy::mxfp4>(67, 68, 352);
  block_scaled_case<policy::mxfp4_tokens<policy::mx_rule::quotient>, policy::mxfp4>(130, 132, 96);
  block_scaled_case<policy::nvfp4_tokens, policy::nvfp4_multiplier>(1, 64, 32);
  block_scaled_case<policy::nvfp4_tokens, policy::nvfp4_multiplier>(33, 68, 544);
  block_scaled_case<policy::nvfp4_tokens, policy::nvfp4_divisor>(3, 132, 288);
}

TEST_CASE("quantize: two codes a byte are the quantizers' of policy/", "[ops][quantize]") {
  std::mt19937 generator(quantized_seed);
  CAPTURE(quantized_seed);
  const auto compare = [&]<class Tokens, class Format, class Quantizer>(std::type_identity<Tokens>, std::type_identity<Format>, Quantizer quantizer) {
    using problem = block_scaled_problem<Tokens, Format>;
    constexpr int m = 19, k = 288, group = Tokens::group;
    problem p(m, 16, k, generator);
    // ties of e2m1, magnitudes beyond the largest, the smallest numbers of bf16 and both zeros
    const float ties[] = {0.25f, -0.75f, 1.25f, -1.75f, 2.5f, -3.5f, 5.0f, 7.0f, -0.0f, 1e-40f, -6.0f, 0.3f, -0.1f, 0.0f, 4.0f, -0.26f};
    for (int c = 0; c < k; ++c) p.x[std::size_t(3) * p.padded + c] = narrow<bf16>(ties[c % 16]), p.x[std::size_t(4) * p.padded + c] = bf16{std::uint16_t(generator() & 0x81ff)};
    for_each_context(quantized_seed, [&](const auto& context) {
      REQUIRE(problem::quantizer::run(context, p.to_quantize()).code == errc::ok);
      wait(context);
      int wrong = 0;
      for (int i = 0; i < m; ++i)
        for (int g = 0; g < k / group; ++g) {
          float values[group];
          std::uint8_t codes[group];
          for (int c = 0; c < group; ++c) values[c] = to_float(p.x[std::size_t(i) * p.padded + g * group + c]);
          const auto scale = quantizer(values, group, codes);
          wrong += std::memcmp(&scale, &p.scales[std::size_t(i) * p.wide + g], 1) != 0;
          for (int c = 0; c < group; ++c) {
            const unsigned byte = p.codes[(std::size_t(i) * k + g * group + c) / 2].bytes[0];
            wrong += (c % 2 == 0 ? byte & 15u : byte >> 4) != codes[c];
          }
        }
      REQUIRE(wrong == 0);
    });
  };
  using policy::mx_rule;
  compare(std::type_identity<policy::mxfp4_tokens<>>{}, std::type_identity<policy::mxfp4>{}, policy::mx_quantizer<policy::e2m1>{});
  compare(std::type_identity<policy::mxfp4_tokens<mx_rule::even>>{}, std::type_identity<policy::mxfp4>{}, policy::mx_quantizer<policy::e2m1, mx_rule::even>{});
  compare(std::type_identity<policy::nvfp4_tokens>{}, std::type_identity<policy::nvfp4_multiplier>{}, policy::nvfp4_modelopt_quantizer{0.0125f});
}

TEST_CASE("quantized: block-scaled operands in groups of rows", "[ops][gemm][quantized]") {
  using problem = block_scaled_problem<policy::nvfp4_tokens, policy::nvfp4_multiplier>;
  std::mt19937 generator(quantized_seed);
  CAPTURE(quantized_seed);
  constexpr int m = 41, experts = 4;
  problem p(m, 68, 160, generator, experts);
  array<std::int32_t> offsets(experts + 1);
  const int starts[experts + 1] = {0, 1, 1, 30, m};      // one row, none, many
  for (int e = 0; e <= experts; ++e) offsets[std::size_t(e)] = starts[e];
  for_each_context(quantized_seed, [&](const auto& context) {
    std::memset(p.y.data(), 0xA5, p.y.size() * sizeof(float));
    REQUIRE(problem::quantizer::run(context, p.to_quantize()).code == errc::ok);
    auto a = p.template to_multiply<problem::grouped::args>();
    a.rows = {offsets.data(), experts};
    run_linear<problem::grouped>(context, a);
    for (int e = 0; e < experts; ++e)
      for (int i = starts[e]; i < starts[e + 1]; ++i) p.verify_row(i, e);
    REQUIRE(p.y.guarded());
  });
}

TEST_CASE("quantized: what block-scaled operands refuse", "[ops][gemm][quantized]") {
  using problem = block_scaled_problem<policy::nvfp4_tokens, policy::nvfp4_multiplier>;
  std::mt19937 generator(quantized_seed);
  problem p(4, 16, 64, generator);
  const host_context context{};
  const auto refused = [&](auto change) {
    auto a = p.template to_multiply<problem::op::args>();
    change(a);
    return problem::op::check(context, a).code;
  };
#if !defined(__CUDACC__)
  REQUIRE(refused([](auto&) {}) == errc::ok);
  REQUIRE(refused([](auto& a) { a.x_tensor = nullptr; }) == errc::null_pointer);
  REQUIRE(refused([](auto& a) { a.w.tensor = nullptr; }) == errc::null_pointer);
  REQUIRE(refused([](auto& a) { a.x_scales.data = nullptr; }) == errc::null_pointer);
  REQUIRE(refused([](auto& a) { a.x_scales.cols = 3; }) == errc::bad_shape);
  REQUIRE(refused([](auto& a) { a.x_scales.rows = 3; }) == errc::bad_shape);
  REQUIRE(refused([](auto& a) { a.w.scales.cols = 4; }) == errc::misaligned);
  REQUIRE(refused([](auto& a) { a.w.scales.data += 1; }) == errc::misaligned);
  REQUIRE(refused([](auto& a) { a.w.matrix.cols = 16; }) == errc::bad_shape);
  REQUIRE(refused([](auto& a) { a.x.cols = 16; }) == errc::bad_shape);
  auto q = p.to_quantize();
  REQUIRE(problem::quantizer::check(context, q).code == errc::ok);
  q.tensor = nullptr;
  REQUIRE(problem::quantizer::check(context, q).code == errc::null_pointer);
  q = p.to_quantize(), q.codes.cols = 64, q.codes.stride = 64;
  REQUIRE(problem::quantizer::check(context, q).code == errc::bad_shape);
#else
  static_cast<void>(refused), static_cast<void>(context);
#endif
}
