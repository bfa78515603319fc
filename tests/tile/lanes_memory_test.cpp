// What the host machine's values do with memory: every element type read and written whole and with a tail, bit
// for bit as core/float.hpp does it one by one, and lookup through every form of index.
#include <catch2/catch.hpp>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include <smalti/tile/host/lanes.hpp>

using namespace smalti;
using namespace smalti::host;

namespace {

bool same(float a, float b) { return float_bits(a) == float_bits(b) || (std::isnan(a) && std::isnan(b)); }
bool same(int a, int b) { return a == b; }

// Writes packs of these floats as T and compares each code with narrow<T>.
template <class T> void check_written(const std::vector<float>& values) {
  int bad = 0;
  for (std::size_t i = 0; i < values.size(); i += lane_count) {
    float in[lane_count];
    for (int k = 0; k < lane_count; ++k) in[k] = values[(i + k) % values.size()];
    T out[lane_count];
    write(out, read(in));
    for (int k = 0; k < lane_count; ++k)
      if (!(out[k] == narrow<T>(in[k])) && ++bad < 5) {
        CAPTURE(in[k], float_bits(in[k]), +out[k].bits, +narrow<T>(in[k]).bits);
        CHECK(false);
      }
  }
  CHECK(bad == 0);
}

// A float and its two neighbours, with both signs.
void add_around(std::vector<float>& values, float x) {
  for (float y : {std::nextafter(x, -INFINITY), x, std::nextafter(x, INFINITY)})
    for (float z : {y, -y}) values.push_back(z);
}

template <class T> std::uint32_t codes() { return sizeof(T) == 1 ? 256u : sizeof(T) == 2 ? 65536u : 1u << 19; }

template <class T> T code(std::uint32_t c) {
  using word = decltype(T{}.bits);
  return {word(sizeof(T) == 4 ? c << 13 : c)};  // tf32 lies in the upper bits
}

}  // namespace

TEMPLATE_TEST_CASE("narrow floats widen exactly", "[lanes]", bf16, fp16, tf32, fp8_e4m3, fp8_e5m2, fp8_e4m3fnuz, fp8_e5m2fnuz) {
  int bad = 0;
  for (std::uint32_t first = 0; first < codes<TestType>(); first += lane_count) {
    TestType in[lane_count];
    for (int k = 0; k < lane_count; ++k) in[k] = code<TestType>(first + k);
    const floats out = read(in);
    for (int k = 0; k < lane_count; ++k) bad += !same(out[k], to_float(in[k]));
  }
  CHECK(bad == 0);
}

TEMPLATE_TEST_CASE("narrow floats are rounded as core does", "[lanes]", bf16, fp16, tf32, fp8_e4m3, fp8_e5m2, fp8_e4m3fnuz, fp8_e5m2fnuz) {
  std::vector<float> values = {0.0f,
                               INFINITY,
                               NAN,
                               bits_float(0x7f800001u),
                               bits_float(0x7fffffffu),
                               bits_float(0xff812345u),
                               3.4e38f,
                               bits_float(0x7f7fffffu),
                               bits_float(1u)};
  for (std::uint32_t c = 0; c < codes<TestType>(); ++c) {  // every value, and the midpoint to the next
    const float x = to_float(code<TestType>(c)), next = to_float(code<TestType>(c + 1));
    if (!std::isfinite(x) || x < 0) continue;
    add_around(values, x);
    if (std::isfinite(next) && next > x) add_around(values, float((double(x) + next) / 2));
  }
  for (int e = -150; e < 128; ++e)  // past the largest value and below the least
    for (float m : {1.0f, 1.0625f, 1.5f, 1.96875f, 1.999f}) add_around(values, std::ldexp(m, e));
  std::mt19937 random(5);
  for (int i = 0; i < 1 << 18; ++i) values.push_back(bits_float(std::uint32_t(random())));
  check_written<TestType>(values);
}

TEST_CASE("integers of memory", "[lanes]") {
  std::int8_t s[lane_count];
  std::uint8_t b[lane_count];
  for (int first = -400; first < 400; first += lane_count) {
    write(s, ints(consecutive{first}));
    write(b, ints(consecutive{first}));
    for (int k = 0; k < lane_count; ++k) {
      CHECK(int(s[k]) == std::min(std::max(first + k, -128), 127));
      CHECK(int(b[k]) == std::min(std::max(first + k, 0), 255));
      CHECK(read(s)[k] == s[k]);
      CHECK(read(b)[k] == b[k]);
    }
  }
  // floats to integers: nearest even, saturating, NaN to zero; ints to floats
  const float x[lane_count] = {0.5f,  1.5f,  2.5f,   -0.5f,    -1.5f,     126.5f, 127.5f,         1e9f,
                               -1e9f, 1e20f, -1e20f, INFINITY, -INFINITY, NAN,    -2147483648.0f, -0.0f};
  const int nearest[lane_count] = {0, 2, 2, 0, -2, 126, 128, 1000000000, -1000000000, INT_MAX, INT_MIN, INT_MAX, INT_MIN, 0, INT_MIN, 0};
  int whole[lane_count];
  write(whole, read(x));
  write(s, read(x));
  write(b, read(x));
  float back[lane_count];
  write(back, read(whole));
  bf16 rounded[lane_count];
  write(rounded, read(whole));
  for (int k = 0; k < lane_count; ++k) {
    CHECK(whole[k] == nearest[k]);
    CHECK(int(s[k]) == std::min(std::max(nearest[k], -128), 127));
    CHECK(int(b[k]) == std::min(std::max(nearest[k], 0), 255));
    CHECK(back[k] == float(nearest[k]));
    CHECK(rounded[k] == narrow<bf16>(float(nearest[k])));
  }
}

namespace {

template <class T, class V> T from(V x) {
  if constexpr (is_float_storage<T>) return narrow<T>(float(x));
  else return T(x);
}
template <class T> auto to(T x) {
  if constexpr (is_float_storage<T>) return to_float(x);
  else if constexpr (std::is_same_v<T, float>) return x;
  else return int(x);
}

}  // namespace

TEMPLATE_TEST_CASE("tails touch nothing past the end", "[lanes]", float, int, bf16, fp16, tf32, fp8_e4m3, fp8_e5m2, std::int8_t,
                   std::uint8_t) {
  for (int count = 0; count <= lane_count; ++count)
    for (int offset : {0, 1, 3}) {
      CAPTURE(count, offset);
      std::vector<TestType> memory(offset + count);  // exactly as long as it may be: AddressSanitizer watches the ends
      for (int i = 0; i < offset + count; ++i) memory[i] = from<TestType>(i + 1);
      const auto x = read(memory.data() + offset, count);
      for (int k = 0; k < lane_count; ++k) CHECK(x[k] == (k < count ? to(memory[offset + k]) : 0));
      TestType out[lane_count + 2], guard;
      std::memset(&guard, 0x5a, sizeof guard);
      std::fill(out, out + lane_count + 2, guard);
      write(out + 1, x, count);
      for (int k = 0; k < lane_count + 2; ++k) {
        const TestType expected = k >= 1 && k <= count ? memory[offset + k - 1] : guard;
        CHECK(std::memcmp(&out[k], &expected, sizeof expected) == 0);
      }
    }
}

TEMPLATE_TEST_CASE("lookup reads inside the limit and gives zero outside", "[lanes]", float, int, bf16, fp16, fp8_e4m3, std::int8_t,
                   std::uint8_t) {
  for (int limit : {0, 1, 7, 15, 16, 17, 40}) {
    CAPTURE(limit);
    std::vector<TestType> memory(limit);
    for (int i = 0; i < limit; ++i) memory[i] = from<TestType>(i + 1);
    const auto expected = [&](long long i) { return i >= 0 && i < limit ? to(memory[i]) : decltype(to(TestType{})){}; };
    for (int first : {INT_MIN, -100, -16, -15, -1, 0, 1, 8, 24, 25, 40, 1000, INT_MAX - 15, INT_MAX}) {
      CAPTURE(first);
      const auto run = lookup(memory.data(), consecutive{first}, limit);
      const auto one = lookup(memory.data(), uniform(first), limit);
      for (int k = 0; k < lane_count; ++k) {
        CHECK(same(run[k], expected((long long)first + k)));
        CHECK(same(one[k], expected(first)));
      }
    }
    std::mt19937 random(9);
    for (int round = 0; round < 20; ++round) {
      int at[lane_count];
      for (int& i : at) i = random() % 3 ? int(random() % (limit + 6)) - 3 : int(random());
      const auto found = lookup(memory.data(), read(at), limit);
      for (int k = 0; k < lane_count; ++k) CHECK(same(found[k], expected(at[k])));
    }
    CHECK(lookup(memory.data(), uniform(0), -5)[0] == 0);
    CHECK(lookup(memory.data(), consecutive{0}, -5)[0] == 0);
    CHECK(lookup(memory.data(), ints(-7), -5)[0] == 0);
  }
}
