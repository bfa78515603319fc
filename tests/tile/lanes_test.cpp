// The values of the host machine: every operator and function against a loop over plain scalars, every memory
// type against core/float.hpp, and the functions of math.hpp against libm in double. Compile it for several
// instruction sets: a pack is one, two or four registers wide.
#include <catch2/catch.hpp>

#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <smalti/tile/host/math.hpp>

using namespace smalti;
using namespace smalti::host;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
const float nan_value = std::numeric_limits<float>::quiet_NaN();

bool same(float a, float b) { return float_bits(a) == float_bits(b) || (std::isnan(a) && std::isnan(b)); }
bool same(int a, int b) { return a == b; }
bool same(bool a, bool b) { return a == b; }

std::vector<float> interesting(float) {
  std::vector<float> all = {0.0f,    -0.0f,    1.0f, -1.0f, 0.5f,      -2.5f,      3.5f,        1e-40f,     -1e-40f, 1.17549435e-38f,
                            3.4e38f, -3.4e38f, inf,  -inf,  nan_value, 8388607.5f, -8388607.5f, 16777216.0f};
  std::mt19937 random(11);
  for (int i = 0; i < 46; ++i) all.push_back(std::ldexp(float(int(random())), -31 + int(random() % 9) - 4));
  return all;  // 64
}
std::vector<int> interesting(int) {
  std::vector<int> all = {0, 1, -1, 2, 3, 5, 7, -7, 16, 31, 100, -100, INT_MAX, INT_MIN, INT_MAX - 1, 65536, -65536};
  std::mt19937 random(12);
  while (all.size() < 64) all.push_back(int(random()) >> random() % 31);
  return all;
}

// Runs f on packs of all pairs (a, b) and g on the scalars.
template <class T, class F, class G> void check_pairs(F f, G g) {
  const auto values = interesting(T{});
  const int n = int(values.size());
  int bad = 0;
  for (int shift = 0; shift < n; ++shift)
    for (int i = 0; i + lane_count <= n; i += lane_count) {
      T b[lane_count];
      for (int k = 0; k < lane_count; ++k) b[k] = values[(i + k + shift) % n];
      const lanes<T> x = read(&values[i]), y = read(b);
      const auto z = f(x, y);
      for (int k = 0; k < lane_count; ++k) {
        const auto expected = g(values[i + k], b[k]);
        if (!same(decltype(expected)(z[k]), expected) && ++bad < 5) {
          CAPTURE(values[i + k], b[k], z[k], expected);
          CHECK(false);
        }
      }
    }
  CHECK(bad == 0);
}
unsigned u(int x) { return unsigned(x); }
template <class A, class B>
concept adds = requires(A a, B b) {
  a + b;
};
template <class A, class B>
concept chooses = requires(mask m, A a, B b) {
  where(m, a, b);
};

}  // namespace

TEST_CASE("lanes of floats agree with scalars", "[lanes]") {
  check_pairs<float>([](auto a, auto b) { return a + b; }, [](float a, float b) { return a + b; });
  check_pairs<float>([](auto a, auto b) { return a - b; }, [](float a, float b) { return a - b; });
  check_pairs<float>([](auto a, auto b) { return a * b; }, [](float a, float b) { return a * b; });
  check_pairs<float>([](auto a, auto b) { return a / b; }, [](float a, float b) { return a / b; });
  check_pairs<float>([](auto a, auto b) { return over(a, b); }, [](float a, float b) { return a / b; });
  check_pairs<float>([](auto a, auto) { return -a; }, [](float a, float) { return -a; });
  check_pairs<float>([](auto a, auto) { return +a; }, [](float a, float) { return a; });
  check_pairs<float>([](auto a, auto) { return abs(a); }, [](float a, float) { return std::fabs(a); });
  check_pairs<float>([](auto a, auto) { return floor(a); }, [](float a, float) { return std::floor(a); });
  check_pairs<float>([](auto a, auto) { return sqrt(a); }, [](float a, float) { return std::sqrt(a); });
  check_pairs<float>([](auto a, auto b) { return max(a, b); }, [](float a, float b) { return a > b ? a : b; });
  check_pairs<float>([](auto a, auto b) { return min(a, b); }, [](float a, float b) { return a < b ? a : b; });
  check_pairs<float>([](auto a, auto b) { return a < b; }, [](float a, float b) { return a < b; });
  check_pairs<float>([](auto a, auto b) { return a <= b; }, [](float a, float b) { return a <= b; });
  check_pairs<float>([](auto a, auto b) { return a > b; }, [](float a, float b) { return a > b; });
  check_pairs<float>([](auto a, auto b) { return a >= b; }, [](float a, float b) { return a >= b; });
  check_pairs<float>([](auto a, auto b) { return a == b; }, [](float a, float b) { return a == b; });
  check_pairs<float>([](auto a, auto b) { return a != b; }, [](float a, float b) { return a != b; });
  check_pairs<float>([](auto a, auto b) { return !(a < b) || (a == b && b != 1.0f); },
                     [](float a, float b) { return !(a < b) || (a == b && b != 1.0f); });
  check_pairs<float>([](auto a, auto b) { return (a < b) == (b < 1); }, [](float a, float b) { return (a < b) == (b < 1); });
  check_pairs<float>([](auto a, auto b) { return (a < b) != (b < 1); }, [](float a, float b) { return (a < b) != (b < 1); });
  check_pairs<float>([](auto a, auto b) { return where(a < b, a, b); }, [](float a, float b) { return a < b ? a : b; });
  check_pairs<float>([](auto a, auto) { return float_bits(a); }, [](float a, float) { return int(float_bits(a)); });
  check_pairs<float>([](auto a, auto) { return bits_float(float_bits(a)); }, [](float a, float) { return a; });
  check_pairs<float>([](auto a, auto) { return to_int(where(abs(a) < 2e9f, a, 0)); },
                     [](float a, float) { return std::fabs(a) < 2e9f ? int(a) : 0; });
  // scalars on either side, ints among floats
  check_pairs<float>([](auto a, auto) { return 3 - a; }, [](float a, float) { return 3 - a; });
  check_pairs<float>([](auto a, auto) { return a / 0.5f; }, [](float a, float) { return a / 0.5f; });
  check_pairs<float>([](auto a, auto) { return max(a, 0); }, [](float a, float) { return a > 0 ? a : 0; });
  check_pairs<float>([](auto a, auto) { return min(0.5f, a); }, [](float a, float) { return 0.5f < a ? 0.5f : a; });
  check_pairs<float>([](auto a, auto b) { return where(a < b, a, -1); }, [](float a, float b) { return a < b ? a : -1; });
  check_pairs<float>([](auto a, auto b) { return where(a < b, 2.0f, b); }, [](float a, float b) { return a < b ? 2.0f : b; });
  check_pairs<float>([](auto a, auto b) { return where(a < b, 2.0f, -0.0f); }, [](float a, float b) { return a < b ? 2.0f : -0.0f; });
  check_pairs<float>([](auto a, auto b) { return where(a < b, 2, 7); }, [](float a, float b) { return a < b ? 2 : 7; });
  check_pairs<float>([](auto a, auto b) { return to_int(a < b && true); }, [](float a, float b) { return a < b ? 1 : 0; });
  check_pairs<float>([](auto a, auto b) { return where(false || a<b, a == b, a> 0); },
                     [](float a, float b) { return a < b ? a == b : a > 0; });
}

TEST_CASE("lanes of ints agree with scalars and wrap", "[lanes]") {
  const auto safe = [](int a, int b) { return b != 0 && !(a == INT_MIN && b == -1); };
  check_pairs<int>([](auto a, auto b) { return a + b; }, [](int a, int b) { return int(u(a) + u(b)); });
  check_pairs<int>([](auto a, auto b) { return a - b; }, [](int a, int b) { return int(u(a) - u(b)); });
  check_pairs<int>([](auto a, auto b) { return a * b; }, [](int a, int b) { return int(u(a) * u(b)); });
  check_pairs<int>([](auto a, auto) { return -a; }, [](int a, int) { return int(0u - u(a)); });
  check_pairs<int>([](auto a, auto) { return ~a; }, [](int a, int) { return ~a; });
  check_pairs<int>([](auto a, auto) { return abs(a); }, [](int a, int) { return a < 0 ? int(0u - u(a)) : a; });
  check_pairs<int>([](auto a, auto b) { return where(b == 0 || b == -1, 0, a / b); },
                   [&](int a, int b) { return b == -1 || !safe(a, b) ? 0 : a / b; });
  check_pairs<int>([](auto a, auto b) { return where(b == 0 || b == -1, 0, a % b); },
                   [&](int a, int b) { return b == -1 || !safe(a, b) ? 0 : a % b; });
  for (int d : {1, 2, 3, 7, 16, 64, 1 << 30, -1, -8, -3, INT_MAX, INT_MIN}) {
    CAPTURE(d);
    check_pairs<int>([=](auto a, auto) { return where(a == INT_MIN, 0, a / d); }, [=](int a, int) { return a == INT_MIN ? 0 : a / d; });
    check_pairs<int>([=](auto a, auto) { return where(a == INT_MIN, 0, a % d); }, [=](int a, int) { return a == INT_MIN ? 0 : a % d; });
    check_pairs<int>([=](auto a, auto) { return where(a == 0, 0, d / a); }, [=](int a, int) { return a == 0 ? 0 : int((long long)d / a); });
  }
  check_pairs<int>([](auto a, auto) { return where(a / 16 == a >> 4, 0, a / 16); },
                   [](int a, int) { return a / 16 == a >> 4 ? 0 : a / 16; });
  check_pairs<int>([](auto a, auto b) { return a & b; }, [](int a, int b) { return a & b; });
  check_pairs<int>([](auto a, auto b) { return a | b; }, [](int a, int b) { return a | b; });
  check_pairs<int>([](auto a, auto b) { return a ^ b; }, [](int a, int b) { return a ^ b; });
  check_pairs<int>([](auto a, auto b) { return a << (b & 31); }, [](int a, int b) { return int(u(a) << (b & 31)); });
  check_pairs<int>([](auto a, auto b) { return a >> (b & 31); }, [](int a, int b) { return a >> (b & 31); });
  check_pairs<int>([](auto a, auto) { return a << 5; }, [](int a, int) { return int(u(a) << 5); });
  check_pairs<int>([](auto a, auto) { return a >> 31; }, [](int a, int) { return a >> 31; });
  check_pairs<int>([](auto a, auto) { return 1 << (a & 15); }, [](int a, int) { return 1 << (a & 15); });
  check_pairs<int>([](auto a, auto) { return 0x7fffffff ^ a; }, [](int a, int) { return 0x7fffffff ^ a; });
  check_pairs<int>([](auto a, auto b) { return max(a, b); }, [](int a, int b) { return a > b ? a : b; });
  check_pairs<int>([](auto a, auto b) { return min(a, b); }, [](int a, int b) { return a < b ? a : b; });
  check_pairs<int>([](auto a, auto b) { return a < b; }, [](int a, int b) { return a < b; });
  check_pairs<int>([](auto a, auto b) { return a >= b; }, [](int a, int b) { return a >= b; });
  check_pairs<int>([](auto a, auto b) { return a == b; }, [](int a, int b) { return a == b; });
  check_pairs<int>([](auto a, auto b) { return a != b; }, [](int a, int b) { return a != b; });
  check_pairs<int>([](auto a, auto) { return to_float(a); }, [](int a, int) { return float(a); });
  check_pairs<int>([](auto a, auto b) { return fma(a, 3, b); }, [](int a, int b) { return int(u(a) * 3u + u(b)); });
}

TEST_CASE("types of mixed expressions", "[lanes]") {
  const floats x(1.0f);
  const ints i(1);
  const consecutive c{3};
  const uniform k(4);
  STATIC_REQUIRE(std::is_same_v<decltype(x + 1), floats>);
  STATIC_REQUIRE(std::is_same_v<decltype(1 / x), floats>);
  STATIC_REQUIRE(std::is_same_v<decltype(i * 2), ints>);
  STATIC_REQUIRE(std::is_same_v<decltype(x < 0), mask>);
  STATIC_REQUIRE(std::is_same_v<decltype(where(x < 0, 1, 0)), ints>);
  STATIC_REQUIRE(std::is_same_v<decltype(where(x < 0, 1.0f, 0)), floats>);
  STATIC_REQUIRE(std::is_same_v<decltype(where(x < 0, c, 0)), ints>);
  STATIC_REQUIRE(std::is_same_v<decltype(where(x < 0, k, -1)), ints>);
  STATIC_REQUIRE(std::is_same_v<decltype(where(true, x, 0)), floats>);
  // no silent change of type, and no truth value
  STATIC_REQUIRE(adds<floats, int>);
  STATIC_REQUIRE_FALSE(adds<floats, ints>);
  STATIC_REQUIRE_FALSE(adds<floats, double>);
  STATIC_REQUIRE_FALSE(adds<ints, float>);
  STATIC_REQUIRE_FALSE(adds<floats, consecutive>);
  STATIC_REQUIRE_FALSE(adds<consecutive, float>);
  STATIC_REQUIRE_FALSE(adds<uniform, float>);
  STATIC_REQUIRE(chooses<floats, int>);
  STATIC_REQUIRE_FALSE(chooses<ints, float>);
  STATIC_REQUIRE_FALSE(chooses<consecutive, floats>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<mask, bool>);
  // index sequences keep their form where they can
  STATIC_REQUIRE(std::is_same_v<decltype(c + 1), consecutive>);
  STATIC_REQUIRE(std::is_same_v<decltype(1 + c), consecutive>);
  STATIC_REQUIRE(std::is_same_v<decltype(c - 1), consecutive>);
  STATIC_REQUIRE(std::is_same_v<decltype(c + k), consecutive>);
  STATIC_REQUIRE(std::is_same_v<decltype(k + c), consecutive>);
  STATIC_REQUIRE(std::is_same_v<decltype(c - k), consecutive>);
  STATIC_REQUIRE(std::is_same_v<decltype(c - c), uniform>);
  STATIC_REQUIRE(std::is_same_v<decltype(k * 64 + c), consecutive>);
  STATIC_REQUIRE(std::is_same_v<decltype(k * 2), uniform>);
  STATIC_REQUIRE(std::is_same_v<decltype(2 * k / 3 % 5), uniform>);
  STATIC_REQUIRE(std::is_same_v<decltype(min(k, 3)), uniform>);
  STATIC_REQUIRE(std::is_same_v<decltype(k + i), ints>);
  STATIC_REQUIRE(std::is_same_v<decltype(c * 2), ints>);
  STATIC_REQUIRE(std::is_same_v<decltype(2 - c), ints>);
  STATIC_REQUIRE(std::is_same_v<decltype(c + c), ints>);
  STATIC_REQUIRE(std::is_same_v<decltype(min(c, 3)), ints>);
  STATIC_REQUIRE(std::is_same_v<decltype(c <= k), mask>);
  STATIC_REQUIRE(std::is_same_v<decltype(c * i), ints>);
  STATIC_REQUIRE(std::is_same_v<decltype(to_float(c)), floats>);
}

namespace {

// Every operation that is defined for a and b of any of the index types, as a list of functions.
template <class A, class B, class SA, class SB> void check_sequence(A a, B b, SA sa, SB sb, const char* what) {
  INFO(what);
  int bad = 0;
  const auto expect = [&](auto pack, auto scalar) {
    for (int i = 0; i < lane_count; ++i) bad += host::detail::lane(pack, i) != scalar(sa(i), sb(i));
  };
  expect(a + b, [](int x, int y) { return x + y; });
  expect(a - b, [](int x, int y) { return x - y; });
  expect(a * b, [](int x, int y) { return x * y; });
  expect(a / b, [](int x, int y) { return x / y; });
  expect(a % b, [](int x, int y) { return x % y; });
  expect(a & b, [](int x, int y) { return x & y; });
  expect(a | b, [](int x, int y) { return x | y; });
  expect(a ^ b, [](int x, int y) { return x ^ y; });
  expect(a << (b & 7), [](int x, int y) { return int(u(x) << (y & 7)); });
  expect(a >> (b & 7), [](int x, int y) { return x >> (y & 7); });
  expect(min(a, b), [](int x, int y) { return x < y ? x : y; });
  expect(max(a, b), [](int x, int y) { return x > y ? x : y; });
  expect(a < b, [](int x, int y) { return x < y; });
  expect(a <= b, [](int x, int y) { return x <= y; });
  expect(a > b, [](int x, int y) { return x > y; });
  expect(a >= b, [](int x, int y) { return x >= y; });
  expect(a == b, [](int x, int y) { return x == y; });
  expect(a != b, [](int x, int y) { return x != y; });
  expect(where(a < b, a, b), [](int x, int y) { return x < y ? x : y; });
  CHECK(bad == 0);
}

}  // namespace

TEST_CASE("index sequences agree with scalars", "[lanes]") {
  for (int first : {-40, -3, 0, 1, 9, 1000})
    for (int other : {-50, -1, 3, 8, 1024}) {
      CAPTURE(first, other);
      const auto counting = [=](int i) { return first + i; };
      const auto more = [=](int i) { return other * 40 + 7 + i; };  // never zero: it is divided by
      const auto fixed = [=](int) { return other; };
      const auto same_first = [=](int) { return first; };
      int mixed[lane_count];
      for (int i = 0; i < lane_count; ++i) mixed[i] = (i * 37 + other) | 1;
      const auto lane_of_mixed = [&](int i) { return mixed[i]; };
      const consecutive c{first}, d{other * 40 + 7};
      const uniform k(other);
      const ints m = read(mixed);
      check_sequence(c, other, counting, fixed, "consecutive, int");
      check_sequence(c, k, counting, fixed, "consecutive, uniform");
      check_sequence(c, d, counting, more, "consecutive, consecutive");
      check_sequence(c, m, counting, lane_of_mixed, "consecutive, ints");
      check_sequence(uniform(first), d, same_first, more, "uniform, consecutive");
      check_sequence(uniform(first), k, same_first, fixed, "uniform, uniform");
      check_sequence(uniform(first), other, same_first, fixed, "uniform, int");
      check_sequence(uniform(first), m, same_first, lane_of_mixed, "uniform, ints");
      check_sequence(first, d, same_first, more, "int, consecutive");
      check_sequence(first, k, same_first, fixed, "int, uniform");
      check_sequence(m, d, lane_of_mixed, more, "ints, consecutive");
      check_sequence(m, k, lane_of_mixed, fixed, "ints, uniform");
      for (int i = 0; i < lane_count; ++i) {
        CHECK(abs(c)[i] == std::abs(first + i));
        CHECK((-c)[i] == -first - i);
        CHECK(to_float(c)[i] == float(first + i));
        CHECK(to_float(k)[i] == float(other));
        CHECK(abs(k).value == std::abs(other));
        CHECK((-k).value == -other);
      }
    }
}

TEST_CASE("moving and folding lanes", "[lanes]") {
  float x[lane_count];
  for (int i = 0; i < lane_count; ++i) x[i] = std::ldexp(1.0f, (i * 7) % lane_count);
  const floats v = read(x);
  for (int i = 0; i < 8; ++i) CHECK(moved_down<8>(v)[i] == x[i + 8]);
  for (int i = 0; i < 4; ++i) CHECK(moved_down<4>(v)[i] == x[i + 4]);
  for (int i = 0; i < 2; ++i) CHECK(moved_down<2>(v)[i] == x[i + 2]);
  CHECK(moved_down<1>(v)[0] == x[1]);
  CHECK(fold(v, [](auto a, auto b) { return a + b; }) == 65535.0f);
  CHECK(fold(v, [](auto a, auto b) { return max(a, b); }) == 32768.0f);
  CHECK(fold(ints(consecutive{5}), [](auto a, auto b) { return min(a, b); }) == 5);
  CHECK(any(v == 4.0f));
  CHECK_FALSE(any(v == 3.0f));
  CHECK(every(v > 0.0f));
  CHECK_FALSE(every(v > 1.0f));
}

TEST_CASE("functions of scalars run lane by lane", "[lanes]") {
  const auto leaky = [](float x) { return x > 0 ? x : 0.1f * x; };
  const auto diagonal = [](float x, int row, int column) { return row == column ? x : 0.0f; };
  const auto even = [](int i) { return i % 2 == 0; };
  const auto generic = [](auto x) { return x * 2 + 1; };
  STATIC_REQUIRE_FALSE(function_of_packs<decltype(leaky), floats>);
  STATIC_REQUIRE(function_of_scalars<decltype(leaky), floats>);
  STATIC_REQUIRE(function_of_packs<decltype(generic), floats>);
  float x[lane_count];
  for (int i = 0; i < lane_count; ++i) x[i] = float(i - 8);
  const floats v = read(x);
  for (int i = 0; i < lane_count; ++i) {
    CHECK(apply(leaky, v)[i] == leaky(x[i]));
    CHECK(per_lane{leaky}(v)[i] == leaky(x[i]));
    CHECK(apply(diagonal, v, uniform(5), consecutive{2})[i] == diagonal(x[i], 5, i + 2));
    CHECK(apply(even, consecutive{2})[i] == even(i + 2));
    CHECK(apply(generic, v)[i] == x[i] * 2 + 1);
    CHECK(apply([](double y) { return y / 2; }, v)[i] == x[i] / 2);
    CHECK(apply([](int a, bool b) { return b ? a : 0; }, ints(consecutive{0}), v > 0)[i] == (x[i] > 0 ? i : 0));
  }
}
