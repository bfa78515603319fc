// Conversions into operands, interleaving and transposing: compiled once for each SMALTI_DOT_LEVEL.
#include <smalti/tile/host/pack.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "../reference/float_format.hpp"
#include "../support/guarded.hpp"

namespace {

namespace host = smalti::host;
#if defined(SMALTI_TEST_DOT_LEVEL)
static_assert(SMALTI_DOT_LEVEL <= SMALTI_TEST_DOT_LEVEL, "this build was to test another set of instructions");
#endif
using smalti::bf16, smalti::fp16, smalti::fp8_e4m3, smalti::fp8_e5m2, smalti::fp8_e4m3fnuz;

template <class T> bool is_nan(T x) { return std::isnan(smalti::to_float(x)); }
template <class T> bool same(T a, T b) { return std::memcmp(&a, &b, sizeof(T)) == 0 || (is_nan(a) && is_nan(b)); }

// Every count and width, the source against a page that may not be read, guard bands around the output.
template <class To, class From, class Expected> void fetches(const std::vector<From>& codes, Expected expected) {
  std::mt19937 random(5);
  for (int count = 0; count <= 100; count = count < 70 ? count + 1 : count + 30)
    for (int extra : {0, 1, 7, 16, 33}) {
      guarded<From> in(std::size_t(count) + (count == 0));
      for (int i = 0; i < count; ++i) in[std::size_t(i)] = codes[random() % codes.size()];
      const int width = count + extra;
      To filler;
      std::memset(&filler, 0x5a, sizeof filler);
      std::vector<To> out(std::size_t(width) + 64, filler);
      host::fetch(out.data() + 32, count ? in.data() : nullptr, count, width);
      CAPTURE(count, width);
      int wrong = 0;
      for (int i = 0; i < width; ++i) wrong += i < count ? !same(out[std::size_t(32 + i)], expected(in[std::size_t(i)])) : !same(out[std::size_t(32 + i)], To{});
      for (int i = 0; i < 32; ++i) wrong += std::memcmp(&out[std::size_t(i)], &filler, sizeof filler) != 0 || std::memcmp(&out[std::size_t(32 + width + i)], &filler, sizeof filler) != 0;
      REQUIRE(wrong == 0);
    }
  std::vector<To> out(codes.size());
  host::fetch(out.data(), codes.data(), int(codes.size()), int(codes.size()));
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < codes.size(); ++i) wrong += !same(out[i], expected(codes[i]));
  REQUIRE(wrong == 0);
}

template <class T> std::vector<T> all_codes() {
  std::vector<T> codes;
  for (int i = 0; i < (sizeof(T) == 1 ? 256 : 65536); ++i) {
    T x;
    x.bits = static_cast<decltype(x.bits)>(i);
    codes.push_back(x);
  }
  return codes;
}

}  // namespace

TEST_CASE("fetch converts every code and fills with zeros", "[tile][pack]") {
  // The values of the 8-bit formats from the list of their values, not from the library.
  const auto by_list = [](const reference::float_format& f) {
    return [f](auto x) {   // exact in bf16, whose bits are the upper half of a float's
      const float value = static_cast<float>(f.value(x.bits));
      std::uint32_t bits;
      std::memcpy(&bits, &value, 4);
      return bf16{static_cast<std::uint16_t>(bits >> 16)};
    };
  };
  fetches<bf16>(all_codes<fp8_e4m3>(), by_list({4, 3, 7, reference::top::one_nan}));
  fetches<bf16>(all_codes<fp8_e5m2>(), by_list({5, 2, 15, reference::top::infinities}));
  fetches<bf16>(all_codes<fp8_e4m3fnuz>(), by_list({4, 3, 8, reference::top::nan_for_negative_zero}));
  fetches<bf16>(all_codes<bf16>(), [](bf16 x) { return x; });
  fetches<float>(all_codes<bf16>(), [](bf16 x) { return smalti::to_float(x); });
  fetches<float>(all_codes<fp16>(), [](fp16 x) {
    return static_cast<float>(reference::float_format{5, 10, 15, reference::top::infinities}.value(x.bits));
  });
  fetches<float>(all_codes<fp8_e4m3>(), [](fp8_e4m3 x) { return smalti::to_float(x); });
  std::vector<float> floats;
  std::mt19937 random(3);
  for (int i = 0; i < 5000; ++i) floats.push_back(smalti::bits_float(random()));
  for (std::uint32_t bits : {0u, 0x80000000u, 1u, 0x7f800000u, 0xff800000u, 0x7fc00000u, 0x7f800001u, 0x3f808000u, 0x3f818000u, 0x7f7fffffu})
    floats.push_back(smalti::bits_float(bits));
  fetches<float>(floats, [](float x) { return x; });
  fetches<bf16>(floats, [](float x) { return smalti::narrow<bf16>(x); });
  fetches<bf16>(all_codes<fp16>(), [](fp16 x) { return smalti::narrow<bf16>(smalti::to_float(x)); });
  std::vector<std::int8_t> bytes;
  for (int i = -128; i < 128; ++i) bytes.push_back(std::int8_t(i));
  for (int count : {0, 1, 31, 64, 200}) {
    std::vector<std::int8_t> out(256, 77);
    host::fetch(out.data(), count ? bytes.data() : nullptr, count, 220);
    int wrong = 0;
    for (int i = 0; i < 256; ++i) wrong += out[std::size_t(i)] != (i < count ? bytes[std::size_t(i)] : i < 220 ? 0 : 77);
    REQUIRE(wrong == 0);
  }
}

TEST_CASE("rows are interleaved", "[tile][pack]") {
  for (int n : {16, 32, 48, 128}) {
    guarded<bf16> even(static_cast<std::size_t>(n)), odd(static_cast<std::size_t>(n)), pairs(static_cast<std::size_t>(2 * n));
    guarded<std::int8_t> rows(static_cast<std::size_t>(4 * n)), quads(static_cast<std::size_t>(4 * n));
    for (int i = 0; i < n; ++i) {
      even[std::size_t(i)].bits = static_cast<std::uint16_t>(0x8000 + i);
      odd[std::size_t(i)].bits = static_cast<std::uint16_t>(0xf000 - i);
      for (int j = 0; j < 4; ++j) rows[std::size_t(j * n + i)] = std::int8_t(i * 4 + j + 100);
    }
    host::interleave_pairs(pairs.data(), even.data(), odd.data(), n);
    host::interleave_quads(quads.data(), rows.data(), rows.data() + n, rows.data() + 2 * n, rows.data() + 3 * n, n);
    int wrong = 0;
    for (int i = 0; i < n; ++i) {
      wrong += pairs[std::size_t(2 * i)] != even[std::size_t(i)] || pairs[std::size_t(2 * i + 1)] != odd[std::size_t(i)];
      for (int j = 0; j < 4; ++j) wrong += quads[std::size_t(4 * i + j)] != rows[std::size_t(j * n + i)];
    }
    CAPTURE(n);
    REQUIRE(wrong == 0);
  }
}

TEST_CASE("blocks of words are transposed", "[tile][pack]") {
  for (int in_stride : {16, 19, 40})
    for (int out_stride : {16, 48}) {
      guarded<std::uint32_t> in(std::size_t(15 * in_stride + 16));
      for (std::size_t i = 0; i < std::size_t(15 * in_stride + 16); ++i) in[i] = std::uint32_t(i * 2654435761u);
      std::vector<std::uint32_t> out(std::size_t(16 * out_stride + 16), 7u), again = out;
      host::transpose_words(out.data(), out_stride, in.data(), in_stride);
      const void* rows[16];
      for (int i = 0; i < 16; ++i) rows[i] = in.data() + i * in_stride;
      host::transpose_words(again.data(), out_stride, rows);
      REQUIRE(out == again);
      int wrong = 0;
      for (int i = 0; i < int(out.size()); ++i) {
        const int row = i / out_stride, col = i % out_stride;
        wrong += out[std::size_t(i)] != (row < 16 && col < 16 ? in[std::size_t(col * in_stride + row)] : 7u);
      }
      CAPTURE(in_stride, out_stride);
      REQUIRE(wrong == 0);
    }
}
