// The scaled inner product of the host machine at the instruction level of this build: every way of computing it gives the
// bits of the formula it states; and unpacking, which differs by level too.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>
#include <smalti/policy/codec.hpp>
#include <smalti/tile/host/scaled_dot.hpp>
#include <smalti/tile/host/unpack.hpp>
#include "support/guarded.hpp"

using namespace smalti;

#if defined(SMALTI_TEST_DOT_LEVEL)
static_assert(SMALTI_DOT_LEVEL == SMALTI_TEST_DOT_LEVEL);
#endif

namespace {
constexpr unsigned seed = 7;

// acc = fma(float(sum), left * right, acc) for each group in order, then fma(sums, minima, acc); below AVX2 the compiler may
// round the product apart.
struct formula {
  static float add(float acc, float a, float b) {
#if SMALTI_DOT_LEVEL >= 1
    return std::fma(a, b, acc);
#else
    return acc + a * b;
#endif
  }
};

void compare(int rows, int cols, int k, int group, bool left, bool right, bool corrected) {
  CAPTURE(seed, rows, cols, k, group, left, right, corrected);
  std::mt19937 generator(seed + rows * 31 + k);
  const int groups = (k + group - 1) / group, width = cols + 16;
  guarded<std::int8_t> a(std::size_t(rows) * k), b(std::size_t(k) * width);
  for (int i = 0; i < rows * k; ++i) a[i] = std::int8_t(generator());
  for (int i = 0; i < k * width; ++i) b[i] = std::int8_t(generator());
  const auto draw = [&](std::size_t n) {
    std::vector<float> v(n);
    for (float& x : v) x = std::ldexp(1.0f + float(generator() % 4096) / 4096, -int(generator() % 6));
    return v;
  };
  const auto ls = draw(std::size_t(rows) * groups), rs = draw(std::size_t(groups) * width), sums = draw(std::size_t(rows) * groups), minima = draw(std::size_t(groups) * width);
  std::vector<float> acc(std::size_t(rows) * width, 0.5f);
  host::product_factors f;
  if (left) f.left = ls.data(), f.left_stride = groups;
  if (right) f.right = rs.data(), f.right_stride = width;
  if (corrected) f.sums = sums.data(), f.sums_stride = groups, f.minima = minima.data(), f.minima_stride = width;
  host::scaled_dot(acc.data(), width, a.data(), k, b.data(), width, rows, cols, k, group, f);
  for (int r = 0; r < rows; ++r) {
    for (int n = 0; n < cols; ++n) {
      float want = 0.5f;
      double exact = 0.5, size = 0.5;
      for (int g = 0; g < groups; ++g) {
        std::int32_t sum = 0;
        for (int p = g * group; p < std::min(k, (g + 1) * group); ++p) sum += a[r * k + p] * b[(p / 4 * width + n) * 4 + p % 4];
        const float scale = (left ? ls[std::size_t(r) * groups + g] : 1.0f) * (right ? rs[std::size_t(g) * width + n] : 1.0f);
        want = formula::add(want, float(sum), scale);
        exact += double(sum) * scale, size += std::fabs(double(sum) * scale);
        if (corrected) {
          const double t = double(sums[std::size_t(r) * groups + g]) * minima[std::size_t(g) * width + n];
          want = formula::add(want, sums[std::size_t(r) * groups + g], minima[std::size_t(g) * width + n]);
          exact += t, size += std::fabs(t);
        }
      }
      const float got = acc[std::size_t(r) * width + n];
      if (SMALTI_DOT_LEVEL >= 1) {
        if (std::memcmp(&want, &got, 4) != 0) {
          CAPTURE(r, n);
          REQUIRE(got == want);
        }
      } else if (!(std::fabs(got - exact) <= (2 * groups + 2) * (corrected ? 2 : 1) * 0x1p-24 * size)) {
        CAPTURE(r, n);
        REQUIRE(got == want);
      }
    }
    for (int n = cols; n < width; ++n) REQUIRE(acc[std::size_t(r) * width + n] == 0.5f);
  }
}

template <class Codec, class T, int Tile> void unpacks(const char* name) {
  constexpr int Words = 8, N = 32;
  using planes = policy::word_planes<Codec::bits, 4, Words>;
  using panel = host::right_panel<T, planes::depth, N>;
  CAPTURE(name, Tile);
  const int k = planes::step;
  std::mt19937 generator(seed);
  std::vector<unsigned> code(std::size_t(k) * N);
  for (unsigned& c : code) do c = unsigned(generator() % (1u << Codec::bits)); while (!std::isfinite(Codec::value(c)));
  std::vector<std::uint32_t> words[3];
  host::word_parts<planes::parts> parts{};
  for (int p = 0; p < planes::parts; ++p) {
    words[p].assign(std::size_t(planes::words_of(k, p)) * N, 0);
    for (int c = 0; c < k; ++c)
      for (int n = 0; n < N; ++n) {
        const auto at = planes::place(c, p);
        words[p][std::size_t(at.word) * N + n] |= (code[std::size_t(c) * N + n] >> planes::shift(p) & ((1u << planes::width(p)) - 1)) << at.bit;
      }
    parts.data[p] = words[p].data() + std::size_t(planes::word_tile(Tile, p)) * Words * N, parts.stride[p] = N;
  }
  static panel out;
  host::unpack_codes<Tile, Words, panel>(out.own, parts, Codec{});
  for (int c = 0; c < planes::depth; ++c)
    for (int n = 0; n < N; ++n) {
      const float v = Codec::value(code[std::size_t(Tile * planes::depth + c) * N + n]);
      const auto stored = panel::at(out.own, c / panel::per_word * panel::per_word, n)[c % panel::per_word];
      float got, want;
      if constexpr (std::is_same_v<T, std::int8_t>) got = float(stored), want = v * policy::integer_scale<Codec>;
      else if constexpr (std::is_same_v<T, bf16>) got = to_float(stored), want = to_float(narrow<bf16>(v));
      else got = stored, want = to_float(narrow<T>(v));
      if (!(got == want)) {
        CAPTURE(c, n);
        REQUIRE(got == want);
      }
    }
}
template <class Codec> void unpacks_all(const char* name) {
  constexpr int tiles = (policy::word_planes<Codec::bits, 4, 8>::step) / 32;
  unpacks<Codec, bf16, 0>(name);
  unpacks<Codec, bf16, tiles - 1>(name);
  unpacks<Codec, fp16, tiles - 1>(name);
  if constexpr (policy::integer_scale<Codec> != 0) unpacks<Codec, std::int8_t, 0>(name), unpacks<Codec, std::int8_t, tiles - 1>(name);
}
}  // namespace

TEST_CASE("scaled products have the bits of their formula", "[tile][dot]") {
  for (int rows : {1, 2, 3, 4, 7, 8, 16, 17, 33, 48})
    for (int k : {4, 32, 60, 128, 260}) compare(rows, 64, k, 32, true, true, rows % 2 == 0);
  for (int cols : {16, 32, 48, 80}) compare(9, cols, 96, 16, true, true, true), compare(40, cols, 128, 64, true, true, false);
  for (int group : {16, 24, 64, 96, 128, 512}) compare(20, 64, 1024, group, true, true, true), compare(2, 64, 1000, group, false, true, false);
  compare(20, 64, 128, 32, false, false, false);
  compare(20, 64, 128, 32, true, false, false);
  compare(20, 64, 128, 32, false, true, true);
}

TEST_CASE("codes become operands", "[tile][unpack]") {
  unpacks_all<policy::offset_int<1>>("1 bit");
  unpacks_all<policy::offset_int<2>>("2 bits");
  unpacks_all<policy::offset_int<3>>("3 bits");
  unpacks_all<policy::offset_int<4>>("4 bits");
  unpacks_all<policy::offset_int<5, 0>>("5 bits, unsigned");
  unpacks_all<policy::offset_int<6>>("6 bits");
  unpacks_all<policy::offset_int<7>>("7 bits");
  unpacks_all<policy::offset_int<8>>("8 bits");
  unpacks_all<policy::offset_int<8, 0>>("8 bits, unsigned");
  unpacks_all<policy::e2m1>("e2m1");
  unpacks_all<policy::e2m3>("e2m3");
  unpacks_all<policy::e3m2>("e3m2");
  unpacks_all<policy::e4m3>("e4m3");
  unpacks_all<policy::e5m2>("e5m2");
  unpacks_all<policy::nf4>("nf4");
  unpacks_all<policy::fp4>("fp4");
}
