// Codecs of elements: every code, every pair of codes, and numbers around every boundary, against meanings written out
// again in double and a search over all codes.
#include <catch2/catch.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>
#include <smalti/policy/codec.hpp>
#include "reference/float_format.hpp"
#include "support/golden.hpp"

using namespace smalti;
using policy::tie;

namespace {

constexpr unsigned seed = 43;
constexpr tie ties[] = {tie::even, tie::away, tie::toward_zero, tie::up, tie::down};

// Which of two neighbours a number in the middle goes to; `rank` is the place of the lower one in its order.
bool upper_wins(tie t, double lower, double upper, bool lower_even) {
  switch (t) {
    case tie::even: return !lower_even;
    case tie::away: return std::abs(upper) > std::abs(lower);
    case tie::toward_zero: return std::abs(upper) < std::abs(lower);
    case tie::up: return true;
    case tie::down: return false;
  }
  return false;
}

struct meaning {
  double value;
  unsigned code;
};

// Codec: the one under test. value_of: its meaning, NaN where a code has none. Even: is the code of a value "even"?
template <class Codec, class Meaning, class Even> void check_codec(const char* name, Meaning value_of, Even even, int zero, bool float_middles = false) {
  CAPTURE(name);
  constexpr unsigned count = 1u << Codec::bits;
  STATIC_REQUIRE(policy::explain_codec<Codec>());
  std::vector<meaning> finite;
  for (unsigned c = 0; c < count; ++c) {
    const double v = value_of(c);
    const float got = Codec::value(c);
    if (std::isnan(v)) {
      REQUIRE(std::isnan(got));
      continue;
    }
    if (got != float(v) || std::signbit(got) != std::signbit(float(v))) REQUIRE(double(got) == v);
    if (std::isfinite(v)) finite.push_back({v, c});
    if (!std::isinf(v))
      for (tie t : ties) {   // decode then encode: the same code, or the other code of the same value
        const unsigned again = Codec::encode(got, t);
        if (again != c && !(Codec::value(again) == got)) REQUIRE(again == c);
        if (again != c) REQUIRE(value_of(c) == 0.0);
      }
  }
  REQUIRE(Codec::zero_code == zero);
  if (zero != policy::no_zero) REQUIRE(Codec::value(unsigned(zero)) == 0.0f);
  REQUIRE(std::isfinite(Codec::value(policy::padding_code<Codec>)));
  std::stable_sort(finite.begin(), finite.end(), [](meaning a, meaning b) { return a.value < b.value; });
  finite.erase(std::unique(finite.begin(), finite.end(), [](meaning a, meaning b) { return a.value == b.value; }), finite.end());

  std::vector<float> numbers = {0.0f, -0.0f, 1e-45f, -1e-45f, 1e-38f, -1e-38f, 3e38f, -3e38f, 1e9f, -1e9f, INFINITY, -INFINITY};
  auto around = [&](double x) {
    const float f = float(x);
    for (float v : {f, std::nextafter(f, -INFINITY), std::nextafter(f, INFINITY)}) numbers.push_back(v);
  };
  for (std::size_t i = 0; i < finite.size(); ++i) {
    around(finite[i].value);
    if (i + 1 < finite.size()) around(float_middles ? 0.5f * (float(finite[i].value) + float(finite[i + 1].value)) : (finite[i].value + finite[i + 1].value) / 2);
  }
  std::mt19937 generator(seed);
  for (int i = 0; i < 4000; ++i) numbers.push_back(float(finite.back().value) * 1.1f * (float(generator() % 200001) - 100000.0f) / 100000.0f);
  std::sort(numbers.begin(), numbers.end());
  for (tie t : ties) {
    CAPTURE(seed, int(t));
    double last = -std::numeric_limits<double>::infinity();
    for (const float x : numbers) {
      const unsigned code = Codec::encode(x, t);
      const double got = value_of(code);
      REQUIRE(got >= last);     // monotone
      last = got;
      // the nearest of all
      const auto above = std::lower_bound(finite.begin(), finite.end(), double(x), [](meaning m, double v) { return m.value < v; });
      double expected;
      if (above == finite.end()) expected = finite.back().value;
      else if (above == finite.begin() || above->value == double(x)) expected = above->value;
      else {
        const meaning low = *(above - 1), high = *above;
        const double middle = float_middles ? 0.5f * (float(low.value) + float(high.value)) : (low.value + high.value) / 2;
        const int rank = int(above - 1 - finite.begin());
        expected = double(x) != middle ? (double(x) < middle ? low.value : high.value) : upper_wins(t, low.value, high.value, even(low.code, rank)) ? high.value : low.value;
      }
      if (got != expected) {
        CAPTURE(x, code);
        REQUIRE(got == expected);
      }
    }
  }
}

const auto code_is_even = [](unsigned code, int) { return code % 2 == 0; };
const auto rank_is_even = [](unsigned, int rank) { return rank % 2 == 0; };

template <class T> float pattern(std::uint32_t bits) { return to_float(T{std::uint16_t(bits)}); }
template <class T> bool same(float a, float b) { return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b)); }

// Every pair of codes through the two operations a machine does in T, each rounded to T.
template <class Codec, class T> void check_pairs(bool sign_of_zero = true) {
  const unsigned count = 1u << Codec::bits;
  CAPTURE(count, sizeof(T));
  const float factor = Codec::template factor<T>;
  for (unsigned high = 0; high < count; ++high)
    for (unsigned low = 0; low < count; ++low) {
      const std::uint32_t codes = low | high << 16, bits = Codec::template pairs<T>(codes);
      for (int half = 0; half < 2; ++half) {
        float bias = 0.0f;
        if constexpr (Codec::template has_bias_pairs<T>) bias = pattern<T>(Codec::template bias_pairs<T>(codes) >> 16 * half & 0xffff);
        else bias = Codec::template bias<T>;
        if (to_float(narrow<T>(bias)) != bias || to_float(narrow<T>(factor)) != factor) REQUIRE(to_float(narrow<T>(bias)) == bias);   // both exist in T
        const float difference = to_float(narrow<T>(pattern<T>(bits >> 16 * half & 0xffff) - bias));
        const float got = to_float(narrow<T>(difference * factor));
        const float expected = to_float(narrow<T>(Codec::value(half ? high : low)));
        const bool equal = sign_of_zero ? same<T>(got, expected) : got == expected;
        if (!equal) {
          CAPTURE(low, high, half, got, expected);
          REQUIRE(got == expected);
        }
      }
    }
}

template <int Bits, int Offset> void check_integers() {
  using codec = policy::offset_int<Bits, Offset>;
  check_codec<codec>(("offset_int<" + std::to_string(Bits) + ", " + std::to_string(Offset) + ">").c_str(), [](unsigned c) { return double(c) - Offset; },
                     [](unsigned c, int) { return (int(c) - Offset) % 2 == 0; }, Offset < 1 << Bits ? Offset : policy::no_zero);
  for (tie t : ties) REQUIRE(codec::encode(NAN, t) == unsigned(codec::zero_code));
  check_pairs<codec, bf16>();
  check_pairs<codec, fp16>();
}

template <class Codec> void check_float(const char* name, reference::float_format f) {
  check_codec<Codec>(name, [&](unsigned c) { return f.value(c); }, code_is_even, 0);
  for (float sign : {1.0f, -1.0f}) {
    const unsigned code = Codec::encode(sign * NAN, tie::even);
    if (Codec::nan_code == policy::no_zero) REQUIRE(code == 0);
    else REQUIRE(std::isnan(Codec::value(code)));
    REQUIRE(std::isfinite(Codec::value(Codec::encode(sign * INFINITY, tie::even))));
  }
}

}  // namespace

TEST_CASE("integer codecs of every width", "[policy][codec]") {
  check_integers<1, 1>();
  check_integers<2, 2>();
  check_integers<3, 4>();
  check_integers<4, 8>();
  check_integers<5, 16>();
  check_integers<6, 32>();
  check_integers<7, 64>();
  check_integers<8, 128>();
  check_integers<1, 0>();
  check_integers<2, 0>();
  check_integers<3, 0>();
  check_integers<4, 0>();
  check_integers<5, 0>();
  check_integers<6, 0>();
  check_integers<7, 0>();
  check_integers<8, 0>();
  check_integers<4, 7>();
}

TEST_CASE("floating-point codecs", "[policy][codec]") {
  using reference::top;
  check_float<policy::e2m1>("e2m1", {2, 1, 1, top::finite});
  check_float<policy::e3m2>("e3m2", {3, 2, 3, top::finite});
  check_float<policy::e2m3>("e2m3", {2, 3, 1, top::finite});
  check_float<policy::e4m3>("e4m3", {4, 3, 7, top::one_nan});
  check_float<policy::e5m2>("e5m2", {5, 2, 15, top::infinities});
  check_pairs<policy::e2m1, bf16>();
  check_pairs<policy::e2m1, fp16>();
  check_pairs<policy::e3m2, bf16>();
  check_pairs<policy::e3m2, fp16>();
  check_pairs<policy::e2m3, bf16>();
  check_pairs<policy::e2m3, fp16>();
  check_pairs<policy::e4m3, bf16>();
  check_pairs<policy::e4m3, fp16>();
  check_pairs<policy::e5m2, bf16>();
  check_pairs<policy::e5m2, fp16>();
}

TEST_CASE("codecs that promise finite codes decode all of those", "[policy][codec]") {
  auto check = []<class Codec>(Codec) {
    for (unsigned c = 0; c < 256; ++c) {
      if (!std::isfinite(Codec::value(c))) continue;
      REQUIRE(pattern<bf16>(Codec::template pairs<bf16>(std::uint32_t(c))) * Codec::template factor<bf16> == Codec::value(c));
      REQUIRE(pattern<fp16>(Codec::template pairs<fp16>(std::uint32_t(c))) * Codec::template factor<fp16> == Codec::value(c));
    }
  };
  check(policy::e4m3_finite{});
  check(policy::e5m2_finite{});
}

TEST_CASE("table codecs", "[policy][codec]") {
  constexpr double nf4[16] = {-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
                              0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0};
  constexpr double magnitude[8] = {0, 1 / 192.0, 2 / 3.0, 1, 1 / 3.0, 1 / 2.0, 1 / 6.0, 1 / 4.0};
  check_codec<policy::nf4>("nf4", [&](unsigned c) { return double(float(nf4[c])); }, rank_is_even, 7, true);
  check_codec<policy::fp4>("fp4", [&](unsigned c) { return (c & 8 ? -1 : 1) * double(float(magnitude[c & 7])); }, rank_is_even, 0, true);
  check_pairs<policy::nf4, bf16>();
  check_pairs<policy::nf4, fp16>();
  check_pairs<policy::fp4, bf16>();
  check_pairs<policy::fp4, fp16>();
  REQUIRE(policy::nf4::encode(NAN) == 7);
  REQUIRE(policy::fp4::encode(NAN) == 0);
}

TEST_CASE("table codecs hold what their producer holds", "[policy][codec][golden]") {
  const auto nf4 = golden::find("bitsandbytes/nf4.table")["values"].as<float>(), fp4 = golden::find("bitsandbytes/fp4.table")["values"].as<float>();
  const auto dynamic = golden::find("bitsandbytes/dynamic8.table")["values"].as<float>();
  for (unsigned c = 0; c < 16; ++c) REQUIRE((policy::nf4::value(c) == nf4[c] && policy::fp4::value(c) == fp4[c]));
  for (unsigned c = 0; c < 256; ++c) {
    CAPTURE(c);
    REQUIRE(policy::dynamic_map::value(c) == dynamic[c]);
    for (tie t : ties) REQUIRE(policy::dynamic_map::encode(dynamic[c], t) == c);
  }
}

TEST_CASE("floating-point codecs round as their producers' casts do", "[policy][codec][golden]") {
  auto check = []<class Codec>(Codec, const char* id) {
    const auto c = golden::find(id);
    const auto input = c["input"].as<float>(), saturating = c["values_saturating"].as<float>();
    const auto valid = c["saturating_valid"].as<std::uint8_t>();
    int compared = 0;
    for (std::size_t i = 0; i < input.size(); ++i) {
      if (!valid[i] || std::isnan(input[i])) continue;
      CAPTURE(id, input[i]);
      REQUIRE(Codec::value(Codec::encode(input[i], tie::even)) == saturating[i]);
      ++compared;
    }
    REQUIRE(compared > 1000);
  };
  check(policy::e4m3{}, "floats/e4m3fn.round");
  check(policy::e5m2{}, "floats/e5m2.round");
  check(policy::e3m2{}, "floats/e3m2.round");
  check(policy::e2m3{}, "floats/e2m3.round");
  check(policy::e2m1{}, "floats/e2m1.round");
}

TEST_CASE("stored scales as floats", "[policy][scales]") {
  for (int c = 0; c < 256; ++c) {
    const float got = policy::scale_value<smalti::e8m0>(c);
    if (c == 255) REQUIRE(std::isnan(got));
    else REQUIRE(got == std::ldexp(1.0f, c - 127));
    REQUIRE(policy::scale_value<std::uint8_t>(c) == float(c));
    REQUIRE(policy::scale_value<std::int8_t>(c - 128) == float(c - 128));
  }
  using s = policy::scales<float, 32, 4>;
  STATIC_REQUIRE(s::rows(65) == 3);
  STATIC_REQUIRE(s::cols(9) == 3);
  STATIC_REQUIRE(s::row_of(64) == 2);
  STATIC_REQUIRE(policy::scales<float, 0>::rows(65) == 1);
  STATIC_REQUIRE(policy::scales<float, 0>::constant_along_k);
  STATIC_REQUIRE(policy::q4_k::scales::outer_rows(513) == 3);   // 17 groups of 32, 8 to a super group
}
