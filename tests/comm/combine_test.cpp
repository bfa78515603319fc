// Combines: their laws, their rounding, and values that are easy to get wrong.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <smalti/comm/combine.hpp>

#include "reference/collective.hpp"

using namespace smalti;
namespace comm = smalti::comm;

namespace {

constexpr unsigned seed = 20261121;
constexpr float inf = std::numeric_limits<float>::infinity();

std::uint32_t bits(float x) { return float_bits(x); }

// a (+) b through a combine of single floats.
template <class C> float join(float a, float b) {
  float r = 0;
  C{}.merge(&r, &a, &b, 1);
  return r;
}

const float values[] = {0.0f, -0.0f, 1.0f, -1.0f, 1e8f, -1e8f, 1e-45f, -1e-45f, 1.17549435e-38f, 3.4e38f, -3.4e38f, inf, -inf, 0.1f};

}  // namespace

TEST_CASE("sum and greatest are commutative bit for bit; greatest is associative", "[comm][combine]") {
  for (const float a : values)
    for (const float b : values) {
      const float s = join<comm::sum<float>>(a, b), t = join<comm::sum<float>>(b, a);
      CHECK((bits(s) == bits(t) || (s != s && t != t)));
      const float m = join<comm::greatest<float>>(a, b);
      CHECK(bits(m) == bits(join<comm::greatest<float>>(b, a)));
      CHECK(m >= a);
      CHECK(m >= b);
      CHECK((bits(m) == bits(a) || bits(m) == bits(b)));
      for (const float c : values) CHECK(bits(join<comm::greatest<float>>(m, c)) == bits(join<comm::greatest<float>>(a, join<comm::greatest<float>>(b, c))));
    }
  CHECK(bits(join<comm::greatest<float>>(0.0f, -0.0f)) == bits(0.0f));
  CHECK(bits(join<comm::greatest<float>>(-0.0f, 0.0f)) == bits(0.0f));
}

TEST_CASE("one NaN makes the item NaN, and finish writes the same one", "[comm][combine]") {
  const float nans[] = {bits_float(0x7fc00000u), bits_float(0xffc00001u), bits_float(0x7fffffffu)};
  for (const float nan : nans)
    for (const float v : values)
      for (const bool left : {true, false}) {
        const float s = left ? join<comm::sum<float>>(nan, v) : join<comm::sum<float>>(v, nan);
        const float m = left ? join<comm::greatest<float>>(nan, v) : join<comm::greatest<float>>(v, nan);
        float done[2];
        comm::sum<float>{}.finish(&done[0], &s, 1, 3);
        comm::greatest<float>{}.finish(&done[1], &m, 1, 3);
        CHECK(bits(done[0]) == 0x7fc00000u);
        CHECK(bits(done[1]) == 0x7fc00000u);
      }
}

TEST_CASE("blocks and single items give the same bits", "[comm][combine]") {
  std::minstd_rand g(seed);
  for (const int n : {1, 63, 64, 65, 200}) {
    std::vector<float> a(n), b(n), whole(n), one(n);
    for (int i = 0; i < n; ++i) a[i] = float(int(g() % 2001) - 1000) * 1e-3f, b[i] = float(int(g() % 2001) - 1000) * 1e-7f;
    comm::sum<float>{}.merge(whole.data(), a.data(), b.data(), n);
    for (int i = 0; i < n; ++i) comm::sum<float>{}.merge(&one[i], &a[i], &b[i], 1);
    CHECK(std::memcmp(whole.data(), one.data(), n * sizeof(float)) == 0);
    comm::sum<float>{}.merge(a.data(), a.data(), b.data(), n);      // the result over the left operand
    CHECK(std::memcmp(whole.data(), a.data(), n * sizeof(float)) == 0);
  }
}

TEST_CASE("narrow floats are summed in float and rounded once", "[comm][combine]") {
  // 256 times 1 in bf16 (8 bits) sticks at 256 where each partial sum is rounded: 257 is no bf16. In float it does not.
  const comm::sum<bf16> c{};
  const bf16 one = narrow<bf16>(1.0f);
  float acc = 0, next = 0;
  c.lift(&acc, &one, 1);
  for (int i = 1; i < 512; ++i) c.lift(&next, &one, 1), c.merge(&acc, &acc, &next, 1);
  bf16 out{};
  c.finish(&out, &acc, 1, 512);
  CHECK(to_float(out) == 512.0f);
  const comm::average<fp16> mean{};
  fp16 half{};
  const float large = 90000.0f;      // past the largest fp16; its average is not
  mean.finish(&half, &large, 1, 3);
  CHECK(to_float(half) == 30000.0f);
}

TEST_CASE("integers wrap", "[comm][combine]") {
  const std::int32_t top = std::numeric_limits<std::int32_t>::max(), one = 1;
  std::int32_t r = 0;
  comm::sum<std::int32_t>{}.merge(&r, &top, &one, 1);
  CHECK(r == std::numeric_limits<std::int32_t>::min());
  const std::int8_t a = 127, b = 2;
  std::int8_t c = 0;
  comm::sum<std::int8_t>{}.merge(&c, &a, &b, 1);
  CHECK(c == -127);
  comm::greatest<std::int32_t>{}.merge(&r, &top, &one, 1);
  CHECK(r == top);
}

TEST_CASE("cancellation follows the order that is asked for", "[comm][combine]") {
  const float x[] = {1e8f, 1.0f, -1e8f, 1.0f};
  float fold = x[0];
  for (int i = 1; i < 4; ++i) fold = join<comm::sum<float>>(fold, x[i]);
  CHECK(fold == 1.0f);                                                                                     // ((1e8 + 1) - 1e8) + 1
  CHECK(join<comm::sum<float>>(join<comm::sum<float>>(x[0], x[2]), join<comm::sum<float>>(x[1], x[3])) == 2.0f);
}

TEST_CASE("attention partials merge as policy/lse.hpp says, in any bracketing", "[comm][combine]") {
  std::minstd_rand g(seed);
  constexpr int d = 5;
  const auto c = comm::lse_merge<policy::lse_e>::of(d);
  for (int round = 0; round < 200; ++round) {
    CAPTURE(seed, round);
    const int n = 1 + int(g() % 8);
    std::vector<std::vector<double>> rows;
    std::vector<std::vector<float>> parts;
    for (int i = 0; i < n; ++i) {
      std::vector<float> p(d + 1);
      for (float& v : p) v = float(int(g() % 2001) - 1000) * 1e-3f;
      p[d] = g() % 4 == 0 ? -inf : float(int(g() % 81) - 40);
      if (p[d] == -inf) p[0] = std::nanf("");        // what an empty partial holds is of no account
      parts.push_back(p);
      rows.emplace_back(p.begin(), p.end());
      if (p[d] == -inf) std::fill(rows.back().begin(), rows.back().end() - 1, 0.0);
    }
    const std::vector<double> want = oracle::merged(rows);
    for (const bool backwards : {false, true}) {
      std::vector<float> acc = parts[backwards ? n - 1 : 0];
      for (int i = 1; i < n; ++i) {
        const float* next = parts[backwards ? n - 1 - i : i].data();
        backwards ? c.merge(acc.data(), next, acc.data(), 1) : c.merge(acc.data(), acc.data(), next, 1);
      }
      if (want[d] == -HUGE_VAL) {
        CHECK(acc[d] == -inf);
        if (n > 1)
          for (int k = 0; k < d; ++k) CHECK(acc[k] == 0.0f);
        continue;
      }
      if (n == 1) continue;
      // lse_merge: at most (15 n + 5) eps M for the values, normalized n - 1 times instead of once: 3 eps M more each;
      // 12 n eps + 2 eps |lse| for the lse, and 2 eps |lse| more for each step between.
      const double eps = 0x1p-24;
      for (int k = 0; k < d; ++k) CHECK(std::abs(acc[k] - want[k]) <= (18 * n + 5) * (1 + 2 * 40) * eps);
      CHECK(std::abs(acc[d] - want[d]) <= (12 * n + 2 * n * 40) * eps);
    }
  }
}

TEST_CASE("codes tell operations and types apart", "[comm][combine]") {
  const std::uint32_t codes[] = {comm::sum<float>{}.code(), comm::sum<bf16>{}.code(), comm::sum<fp16>{}.code(), comm::sum<double>{}.code(), comm::sum<std::int32_t>{}.code(),
                                 comm::sum<std::uint32_t>{}.code(), comm::average<float>{}.code(), comm::greatest<float>{}.code(),
                                 comm::lse_merge<policy::lse_e>::of(4).code(), comm::lse_merge<policy::lse_2>::of(4).code(), comm::lse_merge<policy::lse_e>::of(8).code(), comm::bytes{7}.code()};
  for (const std::uint32_t& a : codes)
    for (const std::uint32_t& b : codes) CHECK((a == b) == (&a == &b));
}
