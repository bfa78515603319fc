// Quantization of activations and the Hadamard transform, against definitions in double; the same cases on a GPU.
#include <catch2/catch.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>
#include <smalti/ops/quantize.hpp>
#include "reference/float_format.hpp"
#include "reference/quantize.hpp"
#include "support/arrays.hpp"
#include "support/contexts.hpp"

using namespace smalti;

namespace {

constexpr unsigned seed = 47;
// One rounding of x * inverse, as machines with a fused multiply-add make it.
#if defined(__CUDACC__) || SMALTI_DOT_LEVEL >= 1
constexpr bool fused = true;
#else
constexpr bool fused = false;
#endif

template <int Sums, bool AnyWidth> struct told : quantize::options {
  static constexpr int sum_group = Sums;
  static constexpr bool any_width = AnyWidth;
};

// Rows of all kinds: normal, zero, one outlier, very large, very small, two values, ties.
template <class X> test::array<X> rows_of_all_kinds(int rows, int cols, int stride) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  test::array<X> x(std::size_t(rows) * stride);
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < stride; ++j) {
      float v = normal(generator);
      switch (i % 7) {
        case 1: v = 0; break;
        case 2: v = j == cols / 2 ? 300.0f : v * 0.01f; break;
        case 3: v *= 1e4f; break;
        case 4: v *= 1e-6f; break;
        case 5: v = generator() % 2 ? 1.0f : -1.0f; break;
        case 6: v = float(int(generator() % 509) - 254) / 2; break;    // halves: ties where the reach is 127
      }
      x[std::size_t(i) * stride + j] = j < cols ? narrow<X>(v) : narrow<X>(NAN);
    }
  return x;
}

template <class Format> struct meaning;
template <int Group> struct meaning<policy::int8_tokens<Group>> {
  static double scale(double reach) { return float(float(std::max(reach, 0x1p-100)) / 127.0f); }
  static double inverse(double reach) { return float(127.0f / float(std::max(reach, 0x1p-100))); }
  static double decode(std::int8_t c) { return c; }
  static bool right(std::int8_t code, double x, double inverse) {
    if (fused) return code == std::nearbyint(x * inverse);     // the product of two floats is exact in double
    return std::fabs(code - x * inverse) <= 0.5 + 0x1p-15;
  }
};
template <class Code> reference::float_format form_of() {
  if constexpr (std::is_same_v<Code, fp8_e4m3>) return {4, 3, 7, reference::top::one_nan};
  else return {5, 2, 15, reference::top::infinities};
}
template <class Code> bool right_fp8(Code code, double x, double inverse) {
  static const auto values = form_of<Code>().finite_values();
  const float scaled = float(x) * float(inverse);
  const std::uint32_t magnitude = std::min<std::uint32_t>(reference::nearest(values, scaled), std::uint32_t(values.size() - 1));
  return code.bits == (magnitude | (std::signbit(scaled) ? 128u : 0u));
}
template <int Group, bool PowerOfTwo, class Code> struct meaning<policy::fp8_tokens<Group, PowerOfTwo, Code>> {
  static double scale(double reach) {
    const float s = std::max(float(reach), 1e-4f) / (std::is_same_v<Code, fp8_e4m3> ? 448.0f : 57344.0f);
    return PowerOfTwo ? std::exp2(std::ceil(std::log2(double(s)))) : double(s);
  }
  static double inverse(double reach) { return float(1.0f / float(scale(reach))); }
  static double decode(Code c) { return to_float(c); }
  static bool right(Code code, double x, double inverse) { return right_fp8(code, x, inverse); }
};
template <class Code, policy::mx_rule Rule> struct meaning<policy::mxfp8_tokens<Code, Rule>> {
  static double exponent(double reach) {
    if (reach == 0) return -127;
    const double largest = std::is_same_v<Code, fp8_e4m3> ? 448 : 57344, e = std::floor(std::log2(largest)), l = std::log2(reach);
    const double whole = std::floor(l), part = reach / std::exp2(whole);      // in [1, 2)
    double answer = whole - e;
    if (Rule == policy::mx_rule::ceil) answer += part > 1;
    if (Rule == policy::mx_rule::even) answer += part >= 2 - (std::is_same_v<Code, fp8_e4m3> ? 0x1p-4 : 0x1p-3);
    if (Rule == policy::mx_rule::quarter) answer += part >= 1.75;
    if (Rule == policy::mx_rule::quotient) answer += part > 1.75;
    return std::clamp(answer, -127.0, 127.0);
  }
  static double scale(double reach) { return std::exp2(exponent(reach)); }
  static double inverse(double reach) { return std::exp2(-std::max(exponent(reach), -126.0)); }
  static double decode(Code c) { return to_float(c); }
  static bool right(Code code, double x, double inverse) { return right_fp8(code, x, inverse); }
};

template <class X, class Format, int Sums, bool AnyWidth = false> void compare(int rows, int cols) {
  using op = quantize::tokens<X, Format, told<Sums, AnyWidth>>;
  using code = typename op::code;
  using scale = typename op::scale;
  using means = meaning<Format>;
  CAPTURE(seed, rows, cols, Format::group, Sums);
  const int stride = AnyWidth ? cols + 3 : round_up(cols, 16) + 16, groups = op::groups(cols), sums = Sums ? ceil_div(cols, Sums ? Sums : 1) : 0;
  auto x = rows_of_all_kinds<X>(rows, cols, stride);
  test::for_each_context(seed, [&](const auto& context) {
    test::array<code> codes(std::size_t(rows) * stride);
    test::array<scale> scales(std::size_t(rows) * groups);
    test::array<float> sum(std::size_t(rows) * sums);
    typename op::args a{.x = {x.data(), rows, cols, stride}, .codes = {codes.data(), rows, cols, stride}, .scales = {scales.data(), rows, groups, groups}};
    if (op::float_scale) a.scales = {scales.data(), groups, rows, rows};
    if (Sums) a.sums = {sum.data(), sums, rows, rows};
    REQUIRE(op::workspace_bytes(context, a) == 0);
    REQUIRE(op::run(context, a).code == errc::ok);
    test::wait(context);
    REQUIRE((codes.guarded() && scales.guarded() && sum.guarded()));
    const int group = Format::group ? Format::group : cols;
    for (int i = 0; i < rows; ++i) {
      std::vector<double> row(cols);
      for (int j = 0; j < cols; ++j) row[j] = test::value(x[std::size_t(i) * stride + j]);
      for (int g = 0; g < groups; ++g) {
        const int last = std::min(cols, (g + 1) * group);
        const double reach = oracle::reach(row, g * group, last);
        double stored;
        if constexpr (op::float_scale) stored = scales[std::size_t(g) * rows + i];
        else stored = to_float(e8m0{scales[std::size_t(i) * groups + g]});
        CAPTURE(i, g, reach);
        REQUIRE(stored == means::scale(reach));
        bool right = true;
        for (int j = g * group; j < last; ++j) right = right && means::right(codes[std::size_t(i) * stride + j], row[j], means::inverse(reach));
        REQUIRE(right);
      }
      for (int s = 0; s < sums; ++s) {
        double expected = 0, size = 0;
        for (int j = s * Sums; j < std::min(cols, (s + 1) * Sums); ++j) {
          const double scale_of = means::scale(oracle::reach(row, Format::group ? s * Sums : 0, Format::group ? std::min(cols, (s + 1) * Sums) : cols));
          const double v = means::decode(codes[std::size_t(i) * stride + j]) * scale_of;
          expected += v, size += std::fabs(v);
        }
        const double error = std::fabs(expected - sum[std::size_t(s) * rows + i]);     // a sum of Sums floats, one product
        REQUIRE(error <= (Sums + 2) * 0x1p-24 * size);
      }
    }
    // the bytes between rows are not the op's
    for (int i = 0; i < rows; ++i)
      for (int j = cols; j < stride; ++j) {
        unsigned char byte;
        std::memcpy(&byte, &codes[std::size_t(i) * stride + j], 1);
        if (byte != 0xA5) REQUIRE(int(byte) == 0xA5);
      }
  });
}

template <class X, class Y, int B, bool AnyWidth = false> void transform(int rows, int cols) {
  using op = quantize::hadamard<X, Y, B, told<0, AnyWidth>>;
  CAPTURE(seed, rows, cols, B);
  std::mt19937 generator(seed);
  const int stride = AnyWidth ? cols + 1 : cols + 16;
  const auto x = test::random_array<X>(std::size_t(rows) * stride, generator);
  test::for_each_context(seed, [&](const auto& context) {
    test::array<Y> y(std::size_t(rows) * stride);
    REQUIRE(op::run(context, {{x.data(), rows, cols, stride}, {y.data(), rows, cols, stride}}).code == errc::ok);
    test::wait(context);
    REQUIRE(y.guarded());
    for (int i = 0; i < rows; ++i) {
      std::vector<double> row(cols);
      for (int j = 0; j < cols; ++j) row[j] = test::value(x[std::size_t(i) * stride + j]);
      const auto expected = oracle::hadamard(row, B);
      for (int j = 0; j < cols; ++j) {
        double size = 0;
        for (int p = j / B * B; p < (j / B + 1) * B; ++p) size += std::fabs(row[p]) / std::sqrt(double(B));
        const double got = test::value(y[std::size_t(i) * stride + j]), error = std::fabs(got - expected[j]);
        const double bound = (B + 1) * 0x1p-24 * size + (std::is_same_v<Y, float> ? 0 : std::is_same_v<Y, bf16> ? 0x1p-8 : 0x1p-11) * std::fabs(expected[j]) * 1.01;
        if (!(error <= bound)) REQUIRE(error <= bound);
      }
    }
  });
}

}  // namespace

TEST_CASE("int8 activations, a scale for each row", "[ops][quantize]") {
  for (const auto& [rows, cols] : {std::pair{0, 64}, {3, 0}, {1, 16}, {7, 1024}, {13, 1040}, {33, 2064}}) {
    compare<bf16, policy::int8_tokens<>, 0>(rows, cols);
    compare<float, policy::int8_tokens<>, 32>(rows, cols);
  }
  compare<fp16, policy::int8_tokens<>, 128>(9, 272);
  compare<bf16, policy::int8_tokens<>, 64, true>(9, 333);
}

TEST_CASE("int8 activations, a scale for each group", "[ops][quantize]") {
  for (const auto& [rows, cols] : {std::pair{0, 64}, {1, 16}, {7, 256}, {21, 528}}) {
    compare<bf16, policy::int8_tokens<32>, 32>(rows, cols);
    compare<float, policy::int8_tokens<128>, 0>(rows, cols);
  }
  compare<bf16, policy::int8_tokens<16>, 16, true>(5, 77);
  compare<fp16, policy::int8_tokens<256>, 256>(8, 784);
}

TEST_CASE("fp8 activations", "[ops][quantize]") {
  for (const auto& [rows, cols] : {std::pair{1, 128}, {17, 272}, {36, 1040}}) {
    compare<bf16, policy::fp8_tokens<>, 0>(rows, cols);
    compare<float, policy::fp8_tokens<128, true>, 128>(rows, cols);
  }
  compare<bf16, policy::fp8_tokens<0>, 64>(15, 336);
  compare<fp16, policy::fp8_tokens<64, false, fp8_e5m2>, 0>(15, 336);
  compare<bf16, policy::fp8_tokens<128>, 0, true>(8, 201);
}

TEST_CASE("MXFP8 activations", "[ops][quantize]") {
  using policy::mx_rule;
  compare<bf16, policy::mxfp8_tokens<>, 0>(17, 272);
  compare<float, policy::mxfp8_tokens<fp8_e4m3, mx_rule::ceil>, 32>(17, 80);
  compare<float, policy::mxfp8_tokens<fp8_e4m3, mx_rule::even>, 0>(15, 80);
  compare<float, policy::mxfp8_tokens<fp8_e4m3, mx_rule::quarter>, 0>(15, 80);
  compare<float, policy::mxfp8_tokens<fp8_e4m3, mx_rule::quotient>, 0>(15, 80);
  compare<float, policy::mxfp8_tokens<fp8_e5m2, mx_rule::even>, 0>(15, 80);
  compare<fp16, policy::mxfp8_tokens<fp8_e5m2, mx_rule::quotient>, 0, true>(7, 45);
}

TEST_CASE("what is not finite is seen in its group's scale, and only there", "[ops][quantize]") {
  constexpr int rows = 6, cols = 256;
  std::mt19937 generator(seed);
  for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    auto x = test::random_array<float>(rows * cols, generator);
    x[2 * cols + 40] = bad;
    test::for_each_context(seed, [&](const auto& context) {
      test::array<std::int8_t> q(rows * cols), q_row(rows * cols);
      test::array<fp8_e4m3> f(rows * cols), m(rows * cols);
      test::array<float> s(rows * 8), s_row(rows), sf(rows * 2);
      test::array<std::uint8_t> sm(rows * 8);
      REQUIRE(quantize::tokens<float, policy::int8_tokens<32>>::run(context, {{x.data(), rows, cols, cols}, {q.data(), rows, cols, cols}, {s.data(), 8, rows, rows}}).code == errc::ok);
      REQUIRE(quantize::tokens<float, policy::int8_tokens<>>::run(context, {{x.data(), rows, cols, cols}, {q_row.data(), rows, cols, cols}, {s_row.data(), 1, rows, rows}}).code == errc::ok);
      REQUIRE(quantize::tokens<float, policy::fp8_tokens<>>::run(context, {{x.data(), rows, cols, cols}, {f.data(), rows, cols, cols}, {sf.data(), 2, rows, rows}}).code == errc::ok);
      REQUIRE(quantize::tokens<float, policy::mxfp8_tokens<>>::run(context, {{x.data(), rows, cols, cols}, {m.data(), rows, cols, cols}, {sm.data(), rows, 8, 8}}).code == errc::ok);
      test::wait(context);
      for (int i = 0; i < rows; ++i) {
        for (int g = 0; g < 8; ++g) {
          REQUIRE(std::isfinite(s[g * rows + i]) == !(i == 2 && g == 1));
          REQUIRE((sm[i * 8 + g] == 255) == (i == 2 && g == 1));
        }
        REQUIRE(std::isfinite(s_row[i]) == (i != 2));
        for (int g = 0; g < 2; ++g) REQUIRE(std::isfinite(sf[g * rows + i]) == !(i == 2 && g == 0));
      }
    });
  }
}

TEST_CASE("a row's bits do not depend on the other rows", "[ops][quantize]") {
  constexpr int rows = 21, cols = 528;
  auto x = rows_of_all_kinds<bf16>(rows, cols, cols);
  using op = quantize::tokens<bf16, policy::fp8_tokens<>>;
  const auto context = test::any_context();
  const int groups = op::groups(cols);
  test::array<fp8_e4m3> all(rows * cols), one(cols);
  test::array<float> s(rows * groups), s1(groups);
  REQUIRE(op::run(context, {{x.data(), rows, cols, cols}, {all.data(), rows, cols, cols}, {s.data(), groups, rows, rows}}).code == errc::ok);
  for (int i = 0; i < rows; ++i) {
    REQUIRE(op::run(context, {{x.data() + i * cols, 1, cols, cols}, {one.data(), 1, cols, cols}, {s1.data(), groups, 1, 1}}).code == errc::ok);
    test::wait(context);
    REQUIRE(std::memcmp(one.data(), all.data() + i * cols, cols) == 0);
    for (int g = 0; g < groups; ++g) REQUIRE(s1[g] == s[g * rows + i]);
  }
}

TEST_CASE("memory laid out by quantize itself", "[ops][quantize]") {
  constexpr int rows = 5, cols = 528;
  auto x = rows_of_all_kinds<bf16>(rows, cols, cols);
  using op = quantize::tokens<bf16, policy::int8_tokens<32>, told<32, false>>;
  const auto context = test::any_context();
  carver sizes;
  op::place({x.data(), rows, cols, cols}, sizes);
  test::array<std::byte> memory(sizes.used);
  carver carve{memory.data()};
  const op::args a = op::place({x.data(), rows, cols, cols}, carve);
  REQUIRE((carve.used == sizes.used && a.codes.stride % 64 == 0 && a.codes.cols == cols && a.sums.rows == ceil_div(cols, 32)));
  REQUIRE(op::run(context, a).code == errc::ok);
  test::wait(context);
  REQUIRE(memory.guarded());
  const int groups = op::groups(cols);
  test::array<std::int8_t> codes(rows * cols);
  test::array<float> scales(rows * groups), sums(rows * groups);
  REQUIRE(op::run(context, {{x.data(), rows, cols, cols}, {codes.data(), rows, cols, cols}, {scales.data(), groups, rows, rows}, {sums.data(), groups, rows, rows}}).code == errc::ok);
  test::wait(context);
  for (int i = 0; i < rows; ++i) REQUIRE(std::memcmp(codes.data() + i * cols, a.codes.data + i * a.codes.stride, cols) == 0);
  REQUIRE(std::memcmp(scales.data(), a.scales.data, scales.size() * 4) == 0);
  REQUIRE(std::memcmp(sums.data(), a.sums.data, sums.size() * 4) == 0);
}

TEST_CASE("the block Hadamard transform", "[ops][quantize]") {
  transform<bf16, float, 16>(5, 48);
  transform<bf16, bf16, 32>(33, 96);
  transform<fp16, fp16, 64>(70, 192);
  transform<bf16, bf16, 128>(17, 384);
  transform<fp16, float, 256>(35, 512);
  transform<bf16, float, 256, true>(3, 256);
  transform<bf16, bf16, 64>(0, 64);
  transform<bf16, bf16, 64>(4, 0);
}

TEST_CASE("quantize says no", "[ops][quantize]") {
  using op = quantize::tokens<bf16, policy::fp8_tokens<>>;
  const auto context = test::any_context();
  test::array<bf16> x(4 * 256);
  test::array<fp8_e4m3> codes(4 * 256);
  test::array<float> scales(16);
  const op::args good{{x.data(), 4, 256, 256}, {codes.data(), 4, 256, 256}, {scales.data(), 2, 4, 4}};
  REQUIRE(op::check(context, good).code == errc::ok);
  auto refused = [&](auto change) {
    op::args a = good;
    change(a);
    const status s = op::check(context, a);
    REQUIRE(op::run(context, a) == s);
    return s;
  };
  REQUIRE(refused([](auto& a) { a.codes.rows = 3; }) == status{errc::bad_shape, "", 3, 4});
  REQUIRE(refused([](auto& a) { a.codes.cols = 240; }) == status{errc::bad_shape, "", 240, 256});
  REQUIRE(refused([](auto& a) { a.scales.rows = 1; }) == status{errc::bad_shape, "", 1, 2});
  REQUIRE(refused([](auto& a) { a.scales.cols = 3; }) == status{errc::bad_shape, "", 3, 4});
  REQUIRE(refused([](auto& a) { a.x.data = nullptr; }).code == errc::null_pointer);
  REQUIRE(refused([](auto& a) { a.codes.data = nullptr; }).code == errc::null_pointer);
  REQUIRE(refused([](auto& a) { a.scales.data = nullptr; }).code == errc::null_pointer);
  REQUIRE(refused([](auto& a) { a.x.data += 1; }).code == errc::misaligned);
  REQUIRE(refused([](auto& a) { a.codes.stride = 264; }).code == errc::misaligned);
  REQUIRE(refused([](auto& a) { a.x.rows = -1; }).code == errc::bad_shape);
  REQUIRE(refused([&](auto& a) { a.codes.data = reinterpret_cast<fp8_e4m3*>(x.data()) + 512; }).code == errc::aliased);
  REQUIRE(refused([&](auto& a) { a.scales.data = reinterpret_cast<float*>(codes.data()); }).code == errc::aliased);
  REQUIRE(refused([&](auto& a) { a.sums = {scales.data() + 8, 2, 4, 4}; }).code == errc::bad_value);

  using with_sums = quantize::tokens<bf16, policy::fp8_tokens<>, told<128, false>>;
  REQUIRE(with_sums::check(context, {good.x, good.codes, good.scales}).code == errc::bad_shape);
  REQUIRE(with_sums::check(context, {good.x, good.codes, good.scales, {scales.data() + 8, 2, 3, 3}}) == status{errc::bad_shape, "", 3, 4});
  REQUIRE(with_sums::check(context, {good.x, good.codes, good.scales, {scales.data(), 2, 4, 4}}).code == errc::aliased);
  REQUIRE(with_sums::check(context, {good.x, good.codes, good.scales, {scales.data() + 8, 2, 4, 4}}).code == errc::ok);

  using mx = quantize::tokens<bf16, policy::mxfp8_tokens<>>;
  test::array<std::uint8_t> bytes(64);
  REQUIRE(mx::check(context, {good.x, good.codes, {bytes.data(), 4, 8, 8}}).code == errc::ok);
  REQUIRE(mx::check(context, {good.x, good.codes, {bytes.data(), 8, 4, 4}}) == status{errc::bad_shape, "", 8, 4});

  using turn = quantize::hadamard<bf16, bf16, 64>;
  test::array<bf16> y(4 * 256);
  REQUIRE(turn::check(context, {good.x, {y.data(), 4, 256, 256}}).code == errc::ok);
  REQUIRE(turn::check(context, {{x.data(), 4, 96, 256}, {y.data(), 4, 96, 256}}) == status{errc::bad_shape, "", 96, 128});
  REQUIRE(turn::check(context, {good.x, {y.data(), 3, 256, 256}}) == status{errc::bad_shape, "", 3, 4});
  REQUIRE(turn::check(context, {good.x, {y.data(), 4, 192, 256}}) == status{errc::bad_shape, "", 192, 256});
  REQUIRE(turn::check(context, {good.x, {x.data(), 4, 256, 256}}).code == errc::aliased);
}
