// What every quantizer promises: errors bounded by half the gap, zeros exact, the reach as its name says, random rounding that is
// unbiased and the same for every order, and refusals.
#include <catch2/catch.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>
#include <smalti/policy/codec.hpp>
#include <smalti/policy/hadamard.hpp>
#include <smalti/policy/quantizers/bitsandbytes.hpp>
#include <smalti/policy/quantizers/float8.hpp>
#include <smalti/policy/quantizers/gguf.hpp>
#include <smalti/policy/quantizers/integer.hpp>
#include <smalti/policy/quantizers/microscaling.hpp>
#include "reference/quantize.hpp"

using namespace smalti;
namespace pol = smalti::policy;

namespace {

constexpr unsigned seed = 53;

std::vector<float> normal(int n, float size = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> d(0, size);
  std::vector<float> x(n);
  for (float& v : x) v = d(generator);
  return x;
}

// Half the distance between x's neighbours among the codec's values (x within their range).
template <class Codec> double half_gap(double x) {
  std::vector<double> v;
  for (unsigned c = 0; c < 1u << Codec::bits; ++c)
    if (std::isfinite(Codec::value(c))) v.push_back(Codec::value(c));
  std::sort(v.begin(), v.end());
  for (std::size_t i = 0; i + 1 < v.size(); ++i)
    if (v[i] <= x && x <= v[i + 1] && v[i] < v[i + 1]) return (v[i + 1] - v[i]) / 2;
  return 0;
}

template <class Codec, class Element> void bounded(const char* name) {
  CAPTURE(name, seed);
  const pol::symmetric_quantizer<Codec, Element> quantizer{};
  for (const float size : {1.0f, 1e-3f, 100.0f}) {
    const auto x = normal(1000, size);
    std::vector<std::uint8_t> codes(x.size());
    std::vector<Element> scales(16);
    REQUIRE(pol::quantize_rows(quantizer, view<const float, 1>{x.data(), 1, 1000, 1000}, 64, codes.data(), scales.data()).code == errc::ok);
    for (int i = 0; i < 1000; ++i) {
      const double s = to_float(scales[i / 64]), y = x[i] / s;
      const double limit = pol::limit_of<Codec>;
      const double clipped = std::clamp(y, -limit, limit);       // rounding the scale to Element may put the largest just outside
      const double error = std::fabs(Codec::value(codes[i]) - y);
      REQUIRE(error <= half_gap<Codec>(clipped) + std::fabs(clipped - y) + 1e-6 * std::fabs(y));
    }
  }
  const std::vector<float> zeros(64, 0.0f);
  std::vector<std::uint8_t> codes(64, 0xff);
  const float s = to_float(quantizer(zeros.data(), 64, codes.data()));
  REQUIRE(std::isfinite(s));
  for (const auto c : codes) REQUIRE(Codec::value(c) * s == 0.0f);
}

}  // namespace

TEST_CASE("errors stay within half a gap, zeros are exact", "[policy][quantizer]") {
  bounded<pol::offset_int<2>, float>("int2");
  bounded<pol::offset_int<3>, float>("int3");
  bounded<pol::offset_int<4>, fp16>("int4, fp16");
  bounded<pol::offset_int<5>, bf16>("int5, bf16");
  bounded<pol::offset_int<6>, float>("int6");
  bounded<pol::offset_int<8>, float>("int8");
  bounded<pol::nf4, float>("nf4");
  bounded<pol::fp4, float>("fp4");
  bounded<pol::e2m1, float>("e2m1");
  bounded<pol::e2m1, fp8_e4m3>("e2m1, e4m3");
  bounded<pol::e3m2, float>("e3m2");
  bounded<pol::e2m3, float>("e2m3");
  bounded<pol::e4m3, float>("e4m3");
  bounded<pol::e5m2, float>("e5m2");
}

TEST_CASE("blocks of zeros in every producer's rule", "[policy][quantizer]") {
  const std::vector<float> zeros(256, 0.0f);
  std::vector<std::uint8_t> codes(256);
  auto all = [&](int n, auto value) {
    for (int i = 0; i < n; ++i) REQUIRE(value(codes[i]) == 0.0f);
  };
  const auto q4 = pol::q4_0_quantizer{}(zeros.data(), 32, codes.data());
  all(32, [&](unsigned c) { return pol::weight<pol::q4_0>(c, to_float(q4)); });
  const auto q41 = pol::q4_1_quantizer{}(zeros.data(), 32, codes.data());
  all(32, [&](unsigned c) { return pol::weight<pol::q4_1>(c, to_float(q41.scale), to_float(q41.minimum)); });
  const auto q8 = pol::q8_0_quantizer<>{}(zeros.data(), 32, codes.data());
  all(32, [&](unsigned c) { return pol::weight<pol::q8_0>(c, to_float(q8)); });
  const auto k = pol::q4_k_quantizer{}(zeros.data(), 256, codes.data());
  all(256, [&](unsigned c) { return pol::weight<pol::q4_k>(c, to_float(k.d) * k.scale[0], -to_float(k.dmin) * k.minimum[0]); });
  const auto k6 = pol::q6_k_quantizer{}(zeros.data(), 256, codes.data());
  all(256, [&](unsigned c) { return pol::weight<pol::q6_k>(c, to_float(k6.d) * k6.scale[0]); });
  const auto mx = pol::mx_quantizer<pol::e4m3>{}(zeros.data(), 32, codes.data());
  all(32, [&](unsigned c) { return pol::weight<pol::mxfp8_e4m3>(c, to_float(mx)); });
  const auto gp = pol::gptq_quantizer<4, false>{}(zeros.data(), 64, codes.data());
  all(64, [&](unsigned c) { return pol::weight<pol::int4_affine<64>>(c, gp.scale, float(gp.zero)); });
  const auto aw = pol::awq_quantizer<4>{}(zeros.data(), 64, codes.data());
  all(64, [&](unsigned c) { return pol::weight<pol::int4_affine<64>>(c, aw.scale, float(aw.zero)); });
  const auto nv = pol::nvfp4_modelopt_quantizer{0.01f}(zeros.data(), 16, codes.data());
  all(16, [&](unsigned c) { return pol::weight<pol::nvfp4_multiplier>(c, to_float(nv) * 0.01f); });
  const auto bb = pol::bitsandbytes_quantizer<pol::nf4>{}(zeros.data(), 64, codes.data());
  all(64, [&](unsigned c) { return pol::weight<pol::bnb_nf4<>>(c, bb); });
  std::vector<float> scale(1);
  REQUIRE(pol::quantize_tiles(pol::deepgemm_rule<>{}, view<const float, 1>{zeros.data(), 1, 128, 128}, 1, 128, codes.data(), scale.data()).code == errc::ok);
  all(128, [&](unsigned c) { return pol::weight<pol::fp8_row_block>(c, scale[0]); });
}

TEST_CASE("a short last group of K-quants and others writes no code past its end", "[policy][quantizer]") {
  const auto x = normal(300);
  for (const int k : {1, 31, 33, 255, 257, 300}) {
    CAPTURE(k);
    std::vector<std::uint8_t> codes(k + 8, 0xee);
    std::vector<pol::super_block<8>> a(2);
    std::vector<pol::q6_k_block> b(2);
    std::vector<fp16> c(10);
    const view<const float, 1> in{x.data(), 1, k, k};
    REQUIRE(pol::quantize_rows(pol::q5_k_quantizer{}, in, 256, codes.data(), a.data()).code == errc::ok);
    for (int i = 0; i < k; ++i) REQUIRE(std::fabs(pol::weight<pol::q5_k>(codes[i], to_float(a[i / 256].d) * a[i / 256].scale[i % 256 / 32], -to_float(a[i / 256].dmin) * a[i / 256].minimum[i % 256 / 32]) - x[i]) < 0.2f);
    REQUIRE(pol::quantize_rows(pol::q6_k_quantizer{}, in, 256, codes.data(), b.data()).code == errc::ok);
    for (int i = 0; i < k; ++i) REQUIRE(std::fabs(pol::weight<pol::q6_k>(codes[i], to_float(b[i / 256].d) * b[i / 256].scale[i % 256 / 16]) - x[i]) < 0.1f);
    REQUIRE(pol::quantize_rows(pol::q8_0_quantizer<>{}, in, 32, codes.data(), c.data()).code == errc::ok);
    for (int i = 0; i < k; ++i) REQUIRE(std::fabs(pol::weight<pol::q8_0>(codes[i], to_float(c[i / 32])) - x[i]) < 0.02f);
    for (int i = k; i < k + 8; ++i) REQUIRE(codes[i] == 0xee);
  }
}

TEST_CASE("the reach of a block", "[policy][quantizer]") {
  using codec = pol::offset_int<4>;
  std::vector<float> x;
  for (int i = 1; i <= 1000; ++i) x.push_back(i % 2 ? float(i) : -float(i));
  std::shuffle(x.begin(), x.end(), std::mt19937(seed));
  REQUIRE(pol::absmax{}.reach<codec>(x.data(), 1000) == 1000.0f);
  REQUIRE(pol::percentile{1.0}.reach<codec>(x.data(), 1000) == 1000.0f);
  REQUIRE(pol::percentile{0.99}.reach<codec>(x.data(), 1000) == 990.0f);
  REQUIRE(pol::percentile{0.5}.reach<codec>(x.data(), 1000) == 500.0f);
  REQUIRE(pol::percentile{0.0}.reach<codec>(x.data(), 1000) == 1.0f);
  REQUIRE(pol::percentile{0.5}.reach<codec>(x.data(), 0) == 0.0f);

  // the clip of least squares is the best of its own candidates, found here in double
  auto y = normal(256);
  y[7] = 9.0f;
  const pol::mean_square rule{40, 0.3f};
  auto error_of = [&](float clip) {
    const float s = clip / 7.0f;
    double sum = 0;
    for (float v : y) {
      const double q = std::clamp(std::nearbyint(double(v / s)), -8.0, 7.0);
      sum += (q * s - v) * (q * s - v);
    }
    return sum;
  };
  const float found = rule.reach<codec>(y.data(), 256);
  double best = 1e30;
  for (int i = 0; i < 40; ++i) best = std::min(best, error_of(9.0f * (1.0f - 0.7f * float(i) / 40.0f)));
  REQUIRE(error_of(found) == Approx(best).epsilon(1e-6));
  REQUIRE(error_of(found) < 0.8 * error_of(9.0f));
  REQUIRE(pol::mean_square{}.reach<codec>(std::vector<float>(8, 0.0f).data(), 8) == 0.0f);
}

TEST_CASE("stochastic rounding", "[policy][quantizer]") {
  auto unbiased = [](auto codec, float x) {
    using c = decltype(codec);
    const pol::stochastic rule{{seed, 3}};
    double sum = 0, squares = 0;
    constexpr int n = 20000;
    float low = INFINITY, high = -INFINITY;
    for (int i = 0; i < n; ++i) {
      const float v = c::value(c::encode_by(x, rule.at(i)));
      sum += v, squares += double(v) * v;
      low = std::min(low, v), high = std::max(high, v);
    }
    const double mean = sum / n, deviation = std::sqrt(std::max(0.0, squares / n - mean * mean) / n);
    CAPTURE(seed, x, mean, low, high);
    REQUIRE(std::fabs(mean - x) <= 5 * deviation + 1e-6);
    REQUIRE((low <= x && x <= high));
    REQUIRE(high - low <= 2 * half_gap<c>(x) * 1.0001);       // only the two neighbours
    if (low < high) REQUIRE((low < x && x < high));
  };
  for (const float x : {0.3f, -0.3f, 2.9f, -6.5f, 5.0f, -0.01f}) {
    unbiased(pol::offset_int<4>{}, x);
    unbiased(pol::e2m1{}, std::clamp(x, -6.0f, 6.0f));
    unbiased(pol::e4m3{}, x * 7.3f);
    unbiased(pol::nf4{}, std::clamp(x / 7, -1.0f, 1.0f));
    unbiased(pol::fp4{}, std::clamp(x / 7, -1.0f, 1.0f));
  }
  // numbers that have a code keep it
  for (unsigned c = 0; c < 16; ++c)
    for (int i = 0; i < 50; ++i) {
      const auto rule = pol::stochastic{{seed, 1}}.at(i);
      REQUIRE(pol::nf4::encode_by(pol::nf4::value(c), rule) == c);
      REQUIRE(pol::offset_int<4>::encode_by(pol::offset_int<4>::value(c), rule) == c);
      REQUIRE(pol::e2m1::encode_by(pol::e2m1::value(c), rule) == c);
    }
  // the same numbers whatever the order: rows quantized alone are the rows of the whole
  const auto x = normal(8 * 96);
  const pol::symmetric_quantizer<pol::offset_int<4>, float, pol::absmax, pol::stochastic> q{{}, {{seed, 9}}};
  std::vector<std::uint8_t> whole(x.size()), alone(32);
  std::vector<float> s(24);
  REQUIRE(pol::quantize_rows(q, view<const float, 1>{x.data(), 8, 96, 96}, 32, whole.data(), s.data()).code == errc::ok);
  for (int b = 23; b >= 0; --b) {
    REQUIRE(q(x.data() + b * 32, 32, alone.data(), b * 32) == s[b]);
    REQUIRE(std::equal(alone.begin(), alone.end(), whole.begin() + b * 32));
    // element i of the tensor takes number i of the stream, not number i of its block
    for (int i = 0; i < 32; ++i)
      REQUIRE(alone[i] == pol::offset_int<4>::encode_by(x[b * 32 + i] / s[b], pol::to_either{pol::random_stream{seed, 9}.uniform(std::uint64_t(b * 32 + i))}));
  }
}

TEST_CASE("NaN and infinities are refused", "[policy][quantizer]") {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    auto x = normal(4 * 64);
    x[2 * 64 + 11] = bad;
    std::vector<std::uint8_t> codes(x.size(), 0xee);
    std::vector<float> s(8, -1.0f);
    const view<const float, 1> in{x.data(), 4, 64, 64};
    REQUIRE(pol::quantize_rows(pol::symmetric_quantizer<pol::nf4>{}, in, 32, codes.data(), s.data()) == status{errc::bad_value, "", 2, 11});
    REQUIRE(pol::quantize_tiles(pol::deepgemm_rule<>{}, in, 1, 32, codes.data(), s.data()) == status{errc::bad_value, "", 2, 11});
    for (const auto c : codes) REQUIRE(c == 0xee);
    for (const float f : s) REQUIRE(f == -1.0f);
  }
  std::uint8_t c;
  float s;
  const float x = 1;
  REQUIRE(pol::quantize_rows(pol::symmetric_quantizer<pol::nf4>{}, view<const float, 1>{&x, -1, 1, 1}, 1, &c, &s).code == errc::bad_shape);
  REQUIRE(pol::quantize_rows(pol::symmetric_quantizer<pol::nf4>{}, view<const float, 1>{&x, 1, 1, 1}, -1, &c, &s).code == errc::bad_value);
  REQUIRE(pol::quantize_rows(pol::symmetric_quantizer<pol::nf4>{}, view<const float, 1>{nullptr, 1, 1, 1}, 1, &c, &s).code == errc::null_pointer);
  REQUIRE(pol::quantize_tiles(pol::deepgemm_rule<>{}, view<const float, 1>{&x, 1, 1, 1}, -1, 0, &c, &s).code == errc::bad_value);
  REQUIRE(pol::quantize_tiles(pol::deepgemm_rule<>{}, view<const float, 1>{&x, 1, -1, 1}, 0, 0, &c, &s).code == errc::bad_shape);
  // a block that is given a NaN anyway: MX scales become NaN
  const std::vector<float> nan(32, NAN);
  std::vector<std::uint8_t> codes(32);
  REQUIRE(pol::mx_quantizer<pol::e2m1>{}(nan.data(), 32, codes.data()).bits == 255);
}

TEST_CASE("relative errors on a normal distribution are the published ones", "[policy][quantizer]") {
  // specification's table, its own 4e5 samples: within two per cent
  const int n = 1 << 18;
  const auto x = normal(n);
  const view<const float, 1> in{x.data(), 1, n, n};
  std::vector<std::uint8_t> codes(n);
  auto error = [&](auto weight) {
    double e = 0, s = 0;
    for (int i = 0; i < n; ++i) e += std::pow(double(weight(i)) - x[i], 2), s += double(x[i]) * x[i];
    return std::sqrt(e / s);
  };
  std::vector<float> s(n / 16);
  REQUIRE(pol::quantize_rows(pol::symmetric_quantizer<pol::nf4>{}, in, 64, codes.data(), s.data()).code == errc::ok);
  CHECK(error([&](int i) { return pol::nf4::value(codes[i]) * s[i / 64]; }) == Approx(0.092).epsilon(0.02));
  REQUIRE(pol::quantize_rows(pol::symmetric_quantizer<pol::e2m1>{}, in, 64, codes.data(), s.data()).code == errc::ok);
  CHECK(error([&](int i) { return pol::e2m1::value(codes[i]) * s[i / 64]; }) == Approx(0.106).epsilon(0.02));
  REQUIRE(pol::quantize_rows(pol::symmetric_quantizer<pol::offset_int<4>>{}, in, 64, codes.data(), s.data()).code == errc::ok);
  CHECK(error([&](int i) { return pol::offset_int<4>::value(codes[i]) * s[i / 64]; }) == Approx(0.107).epsilon(0.02));
  REQUIRE(pol::quantize_rows(pol::symmetric_quantizer<pol::fp4>{}, in, 64, codes.data(), s.data()).code == errc::ok);
  CHECK(error([&](int i) { return pol::fp4::value(codes[i]) * s[i / 64]; }) == Approx(0.122).epsilon(0.02));
  std::vector<fp16> h(n / 32);
  REQUIRE(pol::quantize_rows(pol::q4_0_quantizer{}, in, 32, codes.data(), h.data()).code == errc::ok);
  CHECK(error([&](int i) { return pol::weight<pol::q4_0>(codes[i], to_float(h[i / 32])); }) == Approx(0.086).epsilon(0.02));
  std::vector<fp8_e4m3> f(n / 16);
  REQUIRE(pol::quantize_rows(pol::symmetric_quantizer<pol::e2m1, fp8_e4m3>{}, in, 16, codes.data(), f.data()).code == errc::ok);
  CHECK(error([&](int i) { return pol::e2m1::value(codes[i]) * to_float(f[i / 16]); }) == Approx(0.095).epsilon(0.03));
}

TEST_CASE("the Hadamard transform of rows", "[policy][quantizer]") {
  for (const int block : {2, 16, 64, 256}) {
    auto x = normal(3 * 512);
    const auto original = x;
    CAPTURE(seed, block);
    REQUIRE(pol::hadamard_rows(view<float, 1>{x.data(), 3, 512, 512}, block).code == errc::ok);
    for (int r = 0; r < 3; ++r) {
      const auto expected = oracle::hadamard(std::vector<double>(original.begin() + r * 512, original.begin() + (r + 1) * 512), block);
      for (int j = 0; j < 512; ++j) REQUIRE(std::fabs(x[r * 512 + j] - expected[j]) < 1e-5);
    }
    REQUIRE(pol::hadamard_rows(view<float, 1>{x.data(), 3, 512, 512}, block).code == errc::ok);     // its own inverse
    for (std::size_t i = 0; i < x.size(); ++i) REQUIRE(std::fabs(x[i] - original[i]) < 1e-5);
  }
  float x[48] = {};
  REQUIRE(pol::hadamard_rows(view<float, 1>{x, 1, 48, 48}, 32) == status{errc::bad_shape, "", 48, 64});
  REQUIRE(pol::hadamard_rows(view<float, 1>{x, 1, 48, 48}, 24).code == errc::bad_value);
  REQUIRE(pol::hadamard_rows(view<float, 1>{nullptr, 1, 48, 48}, 16).code == errc::null_pointer);
}
