// Functions of the host machine's values against libm in double. By default every 1021st float, and floats near the
// places where a function changes its ways; [long] takes all of them. The bounds are the ones the header states.
//
// Error model, in units u = 2^-24 of the result (6e-8): a Horner step with |x| <= 1/2 loses about u/2 and what was lost
// before is damped, so a polynomial ends near u; the last operation adds u/2, division and a rounded argument (tanh,
// which multiplies by 2 log2(e)) as much again, a step without FMA twice as much. Every bound below is the one the
// header states, and close to the worst value over all floats; one more rounding of a reduced argument, a common
// defect, exceeds it. sin and cos beyond 2^20 add |x| 2^-53, the rounding of n pi/2 in double.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>

#include <smalti/tile/host/math.hpp>

using namespace smalti;
using namespace smalti::host;

namespace {

enum class error { relative, absolute };

struct worst {
  double error = 0;
  float at = 0;
  long long wrong = 0;  // infinities, NaN and zeros that do not agree
  float wrong_at = 0;
};

// All floats whose magnitude lies in [low, high], every step-th of them, both signs; plus `special` always.
template <class F, class G> worst sweep(F f, G reference, error kind, float low, float high, std::uint32_t step) {
  worst w;
  const auto visit = [&](const float* in) {
    const floats y = f(read(in));
    for (int k = 0; k < lane_count; ++k) {
      const double expected = reference(double(in[k]));
      const float got = y[k];
      const bool plain = std::isfinite(expected) && std::fabs(expected) < 3.5e38;
      if (!plain || !std::isfinite(got)) {
        const bool fine = std::isnan(expected) ? std::isnan(got) : got == float(expected);
        if (!fine && w.wrong++ == 0) w.wrong_at = in[k];
        continue;
      }
      // among subnormals each of two or three roundings costs up to half of the least one
      double e = std::max(0.0, std::fabs(double(got) - expected) - 0x1p-148);
      if (kind == error::relative) e = e == 0 ? 0 : e / std::fabs(expected);
      if (e > w.error) w.error = e, w.at = in[k];
    }
  };
  float pack[lane_count];
  int filled = 0;
  const auto put = [&](float x) {
    pack[filled++] = x;
    if (filled == lane_count) visit(pack), filled = 0;
  };
  const std::uint32_t last = float_bits(high);
  for (std::uint64_t b = float_bits(low); b <= last; b += step) {
    put(bits_float(std::uint32_t(b)));
    put(-bits_float(std::uint32_t(b)));
  }
  for (float x : {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 126.0f, 127.0f, 127.5f, 128.0f, high, low, 0x1p-126f, 0x1p-149f, 0.70710678f, 1.41421356f,
                  4.0f, 9.02f})
    for (float y : {std::nextafter(x, -INFINITY), x, std::nextafter(x, INFINITY)})
      if (std::fabs(y) <= high) put(y), put(-y);
  while (filled != 0) put(low);
  return w;
}

void report(const char* name, const worst& w, double bound) {
  std::printf("%-24s error %.3g at %.9g (bound %.3g), disagreements %lld\n", name, w.error, w.at, bound, w.wrong);
  INFO(name << ": error " << w.error << " at " << w.at << ", disagreements " << w.wrong << " first at " << w.wrong_at);
  CHECK(w.error <= bound);
  CHECK(w.error > 0);
  CHECK(w.wrong == 0);
}

// The float result that this value rounds to, with overflow to infinity; as a double.
double exp2_reference(double x) { return x < -126 ? 0.0 : x >= 128 ? INFINITY : std::exp2(x); }
double log2_reference(double x) { return x == 0 ? -INFINITY : x < 0 ? NAN : std::log2(x); }

constexpr bool fused = SMALTI_DOT_LEVEL >= 1;

void check_all(std::uint32_t step) {
  const float largest = bits_float(0x7f7fffffu), least = bits_float(1u);
  report("exp2", sweep([](floats x) { return exp2(x); }, exp2_reference, error::relative, least, largest, step), fused ? 8e-8 : 1.1e-7);
  report("exp2_rough", sweep([](floats x) { return exp2_rough(where(x < -126.0f, -std::numeric_limits<float>::infinity(), x)); }, exp2_reference, error::relative, least, largest, step), 3e-6);
  report("log2", sweep([](floats x) { return log2(x); }, log2_reference, error::relative, least, largest, step), 2e-7);
  report("tanh", sweep([](floats x) { return tanh(x); }, [](double x) { return std::tanh(x); }, error::relative, least, largest, step),
         3e-7);
  report("erf", sweep([](floats x) { return erf(x); }, [](double x) { return std::erf(x); }, error::absolute, least, largest, step), 1e-7);
  report("erf, of the result",
         sweep([](floats x) { return erf(x); }, [](double x) { return std::erf(x); }, error::relative, least, largest, step), 2.2e-7);
  report("sin to 2^20", sweep([](floats x) { return sin(x); }, [](double x) { return std::sin(x); }, error::absolute, least, 0x1p20f, step),
         1e-7);
  report("cos to 2^20", sweep([](floats x) { return cos(x); }, [](double x) { return std::cos(x); }, error::absolute, least, 0x1p20f, step),
         1e-7);
  report("sin to 2^28",
         sweep([](floats x) { return sin(x); }, [](double x) { return std::sin(x); }, error::absolute, 0x1p20f, 0x1p28f, step), 1.2e-7);
  report("cos to 2^30",
         sweep([](floats x) { return cos(x); }, [](double x) { return std::cos(x); }, error::absolute, 0x1p20f, 0x1p30f, step), 2.2e-7);
  report("rsqrt",
         sweep([](floats x) { return rsqrt(x); }, [](double x) { return x < 0 ? NAN : 1 / std::sqrt(x); }, error::relative, least, largest,
               step),
         9e-8);
  const worst root =
      sweep([](floats x) { return sqrt(x); }, [](double x) { return float(std::sqrt(x)); }, error::absolute, least, largest, step);
  CHECK(root.error == 0);
  CHECK(root.wrong == 0);
  const worst down =
      sweep([](floats x) { return floor(x); }, [](double x) { return std::floor(x); }, error::absolute, least, largest, step);
  CHECK(down.error == 0);
  CHECK(down.wrong == 0);
}

float one(floats x) { return x[7]; }

}  // namespace

TEST_CASE("functions of values keep their stated errors", "[math]") { check_all(1021); }
TEST_CASE("functions of values keep their stated errors for all floats", "[.][long][math]") { check_all(1); }

TEST_CASE("functions of values at the ends of the line", "[math]") {
  const float quiet[] = {NAN, -NAN, bits_float(0x7fffffffu), bits_float(0x7fc00001u), bits_float(0xffc12345u)};
  for (float n : quiet) {
    CAPTURE(float_bits(n));
    CHECK(std::isnan(one(exp2(floats(n)))));
    CHECK(std::isnan(one(exp2_rough(floats(n)))));
    CHECK(std::isnan(one(log2(floats(n)))));
    CHECK(std::isnan(one(tanh(floats(n)))));
    CHECK(std::isnan(one(erf(floats(n)))));
    CHECK(std::isnan(one(sin(floats(n)))));
    CHECK(std::isnan(one(cos(floats(n)))));
    CHECK(std::isnan(one(sqrt(floats(n)))));
    CHECK(std::isnan(one(rsqrt(floats(n)))));
    CHECK(std::isnan(one(floor(floats(n)))));
  }
  for (int i = -126; i < 128; ++i) CHECK(one(exp2(floats(float(i)))) == std::ldexp(1.0f, i));
  for (int i = -149; i < 128; ++i) CHECK(one(log2(floats(std::ldexp(1.0f, i)))) == float(i));
  CHECK(one(exp2(floats(128.0f))) == INFINITY);
  CHECK(one(exp2(floats(127.99999f))) < INFINITY);
  CHECK(one(exp2(floats(INFINITY))) == INFINITY);
  CHECK(float_bits(one(exp2(floats(-INFINITY)))) == 0);
  CHECK(float_bits(one(exp2(floats(-126.00001f)))) == 0);
  CHECK(one(exp2(floats(-1e-45f))) == 1.0f);
  CHECK(one(log2(floats(0.0f))) == -INFINITY);
  CHECK(one(log2(floats(-0.0f))) == -INFINITY);
  CHECK(std::isnan(one(log2(floats(-1e-45f)))));
  CHECK(std::isnan(one(log2(floats(-INFINITY)))));
  CHECK(one(log2(floats(INFINITY))) == INFINITY);
  CHECK(one(tanh(floats(INFINITY))) == 1.0f);
  CHECK(one(tanh(floats(-INFINITY))) == -1.0f);
  CHECK(one(tanh(floats(9.02f))) == 1.0f);
  CHECK(float_bits(one(tanh(floats(-0.0f)))) == 0x80000000u);
  CHECK(one(erf(floats(INFINITY))) == 1.0f);
  CHECK(one(erf(floats(-4.0f))) == -1.0f);
  CHECK(float_bits(one(erf(floats(-0.0f)))) == 0x80000000u);
  CHECK(one(sin(floats(0.0f))) == 0.0f);
  CHECK(one(cos(floats(0.0f))) == 1.0f);
  for (float x : {INFINITY, -INFINITY, 0x1.000002p30f, 3e38f}) {
    CHECK(std::isnan(one(sin(floats(x)))));
    CHECK(std::isnan(one(cos(floats(x)))));
  }
  CHECK(float_bits(one(floor(floats(-0.0f)))) == 0x80000000u);
  CHECK(one(floor(floats(-0.25f))) == -1.0f);
  CHECK(one(floor(floats(-INFINITY))) == -INFINITY);
  CHECK(one(floor(floats(8388609.0f))) == 8388609.0f);
  CHECK(one(rsqrt(floats(0.0f))) == INFINITY);
  CHECK(one(rsqrt(floats(4.0f))) == 0.5f);
  CHECK(std::isnan(one(rsqrt(floats(-1.0f)))));
}

TEST_CASE("fma", "[math]") {
  const float a = 1 + 0x1p-12f, c = -(1 + 0x1p-11f);
  const float rest = one(fma(floats(a), a, c));  // the product's last bit survives one rounding only
  CHECK((rest == 0x1p-24f || (!fused && rest == 0.0f)));
  CHECK(one(fma(floats(2.0f), floats(3.0f), 1)) == 7.0f);
}
