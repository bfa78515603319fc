// The formats of core/float.hpp against the golden vectors of their own packages, and against a search through
// lists of values; both to the bit. Packed codes against bit arithmetic on single bits.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <smalti/core/float.hpp>
#include <smalti/core/packed.hpp>

#include "../reference/float_format.hpp"
#include "../support/golden.hpp"

using namespace smalti;

namespace {

template <class T> struct about;  // the name in the golden set, and the format as the reference sees it
using reference::top;
template <> struct about<bf16> {
  static constexpr const char* name = "bf16";
  static constexpr reference::float_format format{8, 7, 127, top::infinities};
};
template <> struct about<fp16> {
  static constexpr const char* name = "f16";
  static constexpr reference::float_format format{5, 10, 15, top::infinities};
};
template <> struct about<tf32> { static constexpr reference::float_format format{8, 10, 127, top::infinities}; };
template <> struct about<fp8_e4m3> {
  static constexpr const char* name = "e4m3fn";
  static constexpr reference::float_format format{4, 3, 7, top::one_nan};
};
template <> struct about<fp8_e5m2> {
  static constexpr const char* name = "e5m2";
  static constexpr reference::float_format format{5, 2, 15, top::infinities};
};
template <> struct about<fp8_e4m3fnuz> {
  static constexpr const char* name = "e4m3fnuz";
  static constexpr reference::float_format format{4, 3, 8, top::nan_for_negative_zero};
};
template <> struct about<fp8_e5m2fnuz> {
  static constexpr const char* name = "e5m2fnuz";
  static constexpr reference::float_format format{5, 2, 16, top::nan_for_negative_zero};
};
template <> struct about<e3m2> {
  static constexpr const char* name = "e3m2";
  static constexpr reference::float_format format{3, 2, 3, top::finite};
};
template <> struct about<e2m3> {
  static constexpr const char* name = "e2m3";
  static constexpr reference::float_format format{2, 3, 1, top::finite};
};
template <> struct about<e2m1> {
  static constexpr const char* name = "e2m1";
  static constexpr reference::float_format format{2, 1, 1, top::finite};
};
template <> struct about<e8m0> { static constexpr const char* name = "e8m0"; };

constexpr int padding(tf32) { return 13; }
template <class T> constexpr int padding(T) { return 0; }
template <class T> T coded(std::uint32_t code) { return {decltype(T::bits)(code << padding(T{}))}; }
template <class T> std::uint32_t code_of(T x) { return std::uint32_t(x.bits) >> padding(T{}); }

bool same(float a, float b) {  // to the bit, but any NaN equals any NaN
  return (std::isnan(a) && std::isnan(b)) || float_bits(a) == float_bits(b);
}

std::vector<std::uint32_t> codes_of(const golden::tensor& t) {
  std::vector<std::uint32_t> out;
  if (t.dtype == "U16")
    for (const auto c : t.as<std::uint16_t>()) out.push_back(c);
  else
    for (const auto c : t.as<std::uint8_t>()) out.push_back(c);
  return out;
}

// The code for x by the search, or -1 for a NaN code.
template <class T, overflow Rule> std::int64_t expected(const std::vector<double>& values, float x) {
  const auto& format = about<T>::format;
  const std::uint32_t sign = std::signbit(x) ? format.sign() : 0;
  const bool finite = format.at_top == top::finite, fnuz = format.at_top == top::nan_for_negative_zero;
  if (std::isnan(x)) return finite ? std::int64_t(sign ^ format.sign()) : -1;
  const auto n = static_cast<std::uint32_t>(values.size());
  const std::uint32_t code = std::isinf(x) ? n : reference::nearest(values, x);
  if (code < n) return fnuz && code == 0 ? 0 : code | sign;
  if (Rule == overflow::saturate || finite) return (n - 1) | sign;
  return format.at_top == top::infinities ? std::int64_t(n | sign) : -1;
}

template <class T> struct checker {
  std::vector<double> values = about<T>::format.finite_values();
  std::int64_t checked = 0, wrong = 0;
  std::uint32_t first_wrong = 0;

  template <overflow Rule> bool agrees(float x) const {
    const T got = narrow<T, Rule>(x);
    const std::int64_t want = expected<T, Rule>(values, x);
    if (want >= 0) return got == coded<T>(static_cast<std::uint32_t>(want));
    const double back = about<T>::format.value(code_of(got));
    const bool keeps_sign = about<T>::format.at_top == top::nan_for_negative_zero || (code_of(got) & about<T>::format.sign()) != 0;
    return std::isnan(back) && keeps_sign == (std::signbit(x) || about<T>::format.at_top == top::nan_for_negative_zero);
  }
  void operator()(float x) {
    ++checked;
    if (agrees<overflow::ieee>(x) && agrees<overflow::saturate>(x)) return;
    if (wrong++ == 0) first_wrong = float_bits(x);
  }
  void around(float x) {
    for (const float y : {x, -x}) {
      (*this)(y);
      (*this)(std::nextafter(y, INFINITY));
      (*this)(std::nextafter(y, -INFINITY));
    }
  }
};

}  // namespace

TEMPLATE_TEST_CASE("every code has the golden value", "[core][float]", fp8_e4m3, fp8_e5m2, fp8_e4m3fnuz, fp8_e5m2fnuz, e8m0, e3m2, e2m3,
                   e2m1) {
  const auto set = golden::find("floats/" + std::string(about<TestType>::name) + ".values");
  const auto codes = codes_of(set["codes"]);
  const auto values = set["values"].as<float>();
  REQUIRE(codes.size() == 1u << code_bits<TestType>);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    CAPTURE(codes[i], values[i], to_float(coded<TestType>(codes[i])));
    REQUIRE(same(to_float(coded<TestType>(codes[i])), values[i]));
  }
}

TEMPLATE_TEST_CASE("every golden number narrows to the golden code", "[core][float]", bf16, fp16, fp8_e4m3, fp8_e5m2, fp8_e4m3fnuz,
                   fp8_e5m2fnuz, e8m0, e3m2, e2m3, e2m1) {
  const auto set = golden::find("floats/" + std::string(about<TestType>::name) + ".round");
  const auto input = set["input"].as<float>(), values = set["values"].as<float>();
  const auto codes = codes_of(set["codes"]);
  REQUIRE(input.size() > 1000);
  for (std::size_t i = 0; i < input.size(); ++i) {
    CAPTURE(i, input[i], float_bits(input[i]), codes[i]);
    const TestType got = narrow<TestType, overflow::ieee>(input[i]);
    REQUIRE(same(to_float(got), values[i]));
    // The producer of the fp16 vectors keeps the payload of a NaN; the other producers make one NaN, as we do.
    if (!(std::is_same_v<TestType, fp16> && std::isnan(input[i]))) REQUIRE(code_of(got) == codes[i]);
  }
  if (!set.has("values_saturating")) return;
  const auto saturating = set["values_saturating"].as<float>();
  const auto valid = set["saturating_valid"].as<std::uint8_t>();
  for (std::size_t i = 0; i < input.size(); ++i) {
    CAPTURE(i, input[i], saturating[i]);
    const float got = to_float(narrow<TestType, overflow::saturate>(input[i]));
    if (valid[i]) REQUIRE(same(got, saturating[i]));
    else REQUIRE((std::isnan(got) || !has_nan<TestType>));  // there, a NaN came in
  }
}

TEMPLATE_TEST_CASE("every code widens and comes back", "[core][float]", bf16, fp16, tf32, fp8_e4m3, fp8_e5m2, fp8_e4m3fnuz, fp8_e5m2fnuz,
                   e3m2, e2m3, e2m1) {
  const auto& format = about<TestType>::format;
  std::int64_t wrong = 0;
  for (std::uint32_t code = 0; code < 2 * format.sign(); ++code) {
    const TestType x = coded<TestType>(code);
    const double want = format.value(code);
    const float got = to_float(x);
    if (std::isnan(want)) {
      wrong += !std::isnan(got) || !std::isnan(to_float(narrow<TestType>(got))) || std::signbit(got) != ((code & format.sign()) != 0);
      continue;
    }
    wrong += double(got) != want || std::signbit(got) != std::signbit(want);
    wrong += !(narrow<TestType, overflow::ieee>(got) == x);
    if (std::isfinite(want)) wrong += !(narrow<TestType, overflow::saturate>(got) == x);
  }
  REQUIRE(wrong == 0);
}

TEMPLATE_TEST_CASE("numbers at and beside every midpoint round as the search does", "[core][float]", bf16, fp16, tf32, fp8_e4m3, fp8_e5m2,
                   fp8_e4m3fnuz, fp8_e5m2fnuz, e3m2, e2m3, e2m1) {
  checker<TestType> check;
  const auto& values = check.values;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double next = i + 1 < values.size() ? values[i + 1] : values[i] + (values[i] - values[i - 1]);
    check.around(static_cast<float>(values[i]));
    const double middle = (values[i] + next) / 2;
    if (middle <= std::numeric_limits<float>::max()) check.around(static_cast<float>(middle));
    if (next <= std::numeric_limits<float>::max()) check.around(static_cast<float>(next));
  }
  for (const std::uint32_t bits : {0x7f800000u, 0x7f7fffffu, 0x7fc00000u, 0x7f800001u, 0x7fffffffu, 1u, 0x007fffffu, 0x00800000u})
    for (const std::uint32_t sign : {0u, 0x80000000u}) check(bits_float(bits | sign));
  CAPTURE(check.first_wrong);
  REQUIRE(check.checked > 6 * std::int64_t(values.size()));
  REQUIRE(check.wrong == 0);
}

TEMPLATE_TEST_CASE("random bit patterns round as the search does", "[core][float]", bf16, fp16, tf32, fp8_e4m3, fp8_e5m2, fp8_e4m3fnuz,
                   fp8_e5m2fnuz, e3m2, e2m3, e2m1) {
  const std::uint32_t seed = std::random_device{}();
  std::mt19937 random(seed);
  checker<TestType> check;
  for (int i = 0; i < 200000; ++i) {
    check(bits_float(random()));
    check(float(std::ldexp(double(random()) - 2147483648.0, int(random() % 40) - 50)));  // near the middle of the range
  }
  CAPTURE(seed, check.first_wrong);
  REQUIRE(check.wrong == 0);
}

TEST_CASE("e8m0 is powers of two, a tie goes up", "[core][float]") {
  for (int code = 0; code < 255; ++code) {
    const e8m0 x{std::uint8_t(code)};
    const double value = std::ldexp(1.0, code - 127);
    CAPTURE(code);
    REQUIRE(double(to_float(x)) == value);
    REQUIRE(narrow<e8m0>(to_float(x)) == x);
    REQUIRE(std::isnan(to_float(narrow<e8m0>(-to_float(x)))));
    const float middle = float(value * 1.5);
    // Between 2^-127 and 2^-126 everything goes up: the golden vectors say so.
    REQUIRE(narrow<e8m0, overflow::ieee>(std::nextafter(middle, 0.0f)) == e8m0{std::uint8_t(code == 0 ? 1 : code)});
    REQUIRE(narrow<e8m0, overflow::ieee>(middle) == e8m0{std::uint8_t(code + 1)});
    REQUIRE(narrow<e8m0, overflow::saturate>(middle) == e8m0{std::uint8_t(code < 254 ? code + 1 : 254)});
  }
  REQUIRE(std::isnan(to_float(e8m0{255})));
  for (const float x : {0.0f, -0.0f, -1.0f, -INFINITY, NAN}) {
    REQUIRE(narrow<e8m0, overflow::ieee>(x) == e8m0{255});
    REQUIRE(narrow<e8m0, overflow::saturate>(x) == e8m0{255});
  }
  REQUIRE(narrow<e8m0, overflow::ieee>(INFINITY) == e8m0{255});
  REQUIRE(narrow<e8m0, overflow::saturate>(INFINITY) == e8m0{254});
  REQUIRE(narrow<e8m0>(std::numeric_limits<float>::denorm_min()) == e8m0{0});
}

TEMPLATE_TEST_CASE("limits are those of the list of values", "[core][float]", bf16, fp16, tf32, fp8_e4m3, fp8_e5m2, fp8_e4m3fnuz,
                   fp8_e5m2fnuz, e3m2, e2m3, e2m1) {
  const auto& format = about<TestType>::format;
  const auto values = format.finite_values();
  REQUIRE(double(max_finite<TestType>) == values.back());
  REQUIRE(double(min_positive<TestType>) == values[1]);
  REQUIRE(double(min_normal<TestType>) == format.value(1u << format.fraction_bits));
  REQUIRE(digits<TestType> == format.fraction_bits + 1);
  REQUIRE(code_bits<TestType> == format.fraction_bits + format.exponent_bits + 1);
  REQUIRE(has_infinity<TestType> == (format.at_top == top::infinities));
  REQUIRE(has_nan<TestType> == (format.at_top != top::finite));
}

TEST_CASE("bits outside the code are ignored", "[core][float]") {
  for (int high = 0; high < 16; ++high)
    for (int code = 0; code < 16; ++code) REQUIRE(same(to_float(e2m1{std::uint8_t(high << 4 | code)}), to_float(e2m1{std::uint8_t(code)})));
  for (int high = 0; high < 4; ++high)
    for (int code = 0; code < 64; ++code) {
      REQUIRE(same(to_float(e2m3{std::uint8_t(high << 6 | code)}), to_float(e2m3{std::uint8_t(code)})));
      REQUIRE(same(to_float(e3m2{std::uint8_t(high << 6 | code)}), to_float(e3m2{std::uint8_t(code)})));
    }
  REQUIRE(same(to_float(tf32{0x3f801fffu}), 1.0f));
}

// All of it in constant expressions.
static_assert(to_float(narrow<bf16>(3.14159274f)) == 3.140625f);
static_assert(narrow<fp16>(65519.0f).bits == 0x7bff && narrow<fp16>(65520.0f).bits == 0x7c00);
static_assert(narrow<fp16, overflow::saturate>(1e30f).bits == 0x7bff);
static_assert(narrow<fp16>(0x1p-25f).bits == 0 && narrow<fp16>(0x1.8p-25f).bits == 1 && narrow<fp16>(-0x1p-30f).bits == 0x8000);
static_assert(narrow<fp8_e4m3>(1000.0f).bits == 0x7e && narrow<fp8_e4m3, overflow::ieee>(1000.0f).bits == 0x7f);
static_assert(narrow<fp8_e5m2>(1e9f).bits == 0x7b && narrow<fp8_e5m2, overflow::ieee>(1e9f).bits == 0x7c);
static_assert(narrow<tf32>(bits_float(0x3f801000u)).bits == 0x3f800000u && narrow<tf32>(bits_float(0x3f803000u)).bits == 0x3f804000u);
static_assert(narrow<e2m1>(5.0f).bits == 6 && narrow<e2m1>(-0.25f).bits == 8 && narrow<e2m1>(-1e9f).bits == 15);
static_assert(narrow<bf16>(bits_float(0x7f800001u)).bits == 0x7fc0 && narrow<fp8_e4m3>(bits_float(0xffc00000u)).bits == 0xff);
static_assert(narrow<fp8_e4m3fnuz>(bits_float(0x7fc00000u)).bits == 0x80 && narrow<fp8_e4m3fnuz>(-0.0f).bits == 0);
static_assert(narrow<e8m0>(3.0f).bits == 129 && narrow<float>(1.5f) == 1.5f && to_float(1.5f) == 1.5f);
static_assert(float_bits(to_float(fp16{0x8001})) == float_bits(-0x1p-24f));
static_assert(bf16{0x7fc0} == bf16{0x7fc0} && bf16{0} != bf16{0x8000});
static_assert(is_float_storage<bf16> && is_float_storage<e8m0> && !is_float_storage<float> && !is_float_storage<int>);
static_assert(digits<float> == 24 && max_finite<float> == std::numeric_limits<float>::max() &&
              min_normal<float> == std::numeric_limits<float>::min());
static_assert(default_overflow<bf16> == overflow::ieee && default_overflow<fp8_e4m3> == overflow::saturate &&
              default_overflow<e8m0> == overflow::ieee);
static_assert(std::is_aggregate_v<bf16> && std::is_trivial_v<bf16> && std::is_standard_layout_v<fp8_e4m3> && sizeof(tf32) == 4 &&
              sizeof(e2m1) == 1);

namespace {

// A stream of codes, one bit at a time.
template <int Bits, class Word> void streams(std::uint32_t seed) {
  constexpr int width = 8 * int(sizeof(Word));
  constexpr int n = 129;
  std::mt19937 random(seed);
  std::vector<Word> stream(std::size_t(code_words<Bits, Word>(n)) + 1);
  for (auto& word : stream) word = Word(random());
  std::vector<bool> bits;
  for (const auto word : stream)
    for (int b = 0; b < width; ++b) bits.push_back(word >> b & 1);
  std::int64_t wrong = 0;
  for (int i = 0; i < n; ++i)
    for (int b = 0; b < Bits; ++b) wrong += (get_code<Bits>(stream.data(), i) >> b & 1) != bits[std::size_t(i * Bits + b)];
  for (int turn = 0; turn < 200; ++turn) {
    const int i = int(random() % n);
    const std::uint32_t code = random();  // bits above the code must not leak
    set_code<Bits>(stream.data(), i, code);
    for (int b = 0; b < Bits; ++b) bits[std::size_t(i * Bits + b)] = code >> b & 1;
  }
  for (std::size_t b = 0; b < bits.size(); ++b) wrong += (stream[b / width] >> (b % width) & 1) != Word(bits[b]);
  CAPTURE(Bits, width, seed);
  REQUIRE(wrong == 0);
}
template <int... Bits> void all_streams(std::integer_sequence<int, Bits...>, std::uint32_t seed) {
  (streams<Bits + 1, std::uint8_t>(seed), ...);
  (streams<Bits + 1, std::uint16_t>(seed), ...);
  (streams<Bits + 1, std::uint32_t>(seed), ...);
  (streams<Bits + 1, std::uint64_t>(seed), ...);
}

template <class P> constexpr P ascending() {
  P p{};
  for (int i = 0; i < P::count; ++i) p.set(i, {std::uint8_t(i + 1)});
  return p;
}

}  // namespace

TEST_CASE("codes of any width are read and written in place, and nothing beside them", "[core][packed]") {
  all_streams(std::make_integer_sequence<int, 32>{}, std::random_device{}());
}

TEST_CASE("a code far into a stream is found by 64-bit arithmetic", "[core][packed]") {
  // 1 GiB of address space; only the pages touched take memory.
  const std::int64_t i = std::int64_t{1} << 31;
  const std::unique_ptr<std::uint32_t, void (*)(void*)> stream(
      static_cast<std::uint32_t*>(std::calloc(std::size_t(code_words<4>(i + 8)), 4)), std::free);
  REQUIRE(stream);
  set_code<4>(stream.get(), i + 5, 7);
  REQUIRE(get_code<4>(stream.get(), i + 5) == 7);
  REQUIRE(stream.get()[i / 8] == 0x00700000u);
  REQUIRE(stream.get()[0] == 0);
}

TEMPLATE_TEST_CASE("packed elements keep every code in every place", "[core][packed]", e2m1, e3m2, e2m3, fp8_e4m3) {
  using pack = packed<TestType>;
  REQUIRE(sizeof(pack) * 8 == std::size_t(code_bits<TestType> * pack::count));
  for (int place = 0; place < pack::count; ++place)
    for (int code = 0; code < 1 << code_bits<TestType>; ++code) {
      pack p;
      for (auto& byte : p.bytes) byte = 0xa5;
      const pack before = p;
      p.set(place, {std::uint8_t(code)});
      for (int i = 0; i < pack::count; ++i) {
        CAPTURE(place, code, i);
        REQUIRE(p[i] == (i == place ? TestType{std::uint8_t(code)} : before[i]));
      }
    }
}

static_assert(ascending<e2m1x2>().bytes[0] == 0x21, "the first code in the low half");
static_assert(ascending<e3m2x4>().bytes[0] == 0x81 && ascending<e3m2x4>().bytes[1] == 0x30 && ascending<e3m2x4>().bytes[2] == 0x10);
static_assert(ascending<e2m3x4>()[2] == e2m3{3} && ascending<e2m1x2>() == ascending<e2m1x2>());
static_assert(sizeof(e2m1x2) == 1 && sizeof(e3m2x4) == 3 && alignof(e3m2x4) == 1);
