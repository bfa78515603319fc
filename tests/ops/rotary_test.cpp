// Rotary embedding against rotate_head with tables computed in double, in three orders of blocks.
#include <smalti/ops/rotary.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "../support/arrays.hpp"
#include "../support/contexts.hpp"

namespace {
using namespace smalti;

double pi() { return 3.14159265358979323846; }

template <class T, class Layout, int D, int Dims> void compare(int tokens, int heads, int first, bool in_place, bool inverse, std::uint64_t seed) {
  CAPTURE(tokens, heads, first, in_place, inverse, seed, D, Dims);
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> spread(-2, 2);
  const int cols = heads * D, stride = cols + 16;
  std::vector<T> x(std::size_t(tokens) * stride);
  for (T& v : x) {
    if constexpr (std::is_same_v<T, float>) v = spread(random);
    else v = narrow<T>(spread(random));
  }
  std::vector<int> positions(tokens);
  for (int t = 0; t < tokens; ++t) positions[t] = first + 7 * t;
  const policy::rotary<> model{.dims = Dims, .base = 10000};
  std::vector<float> frequencies(2 * Dims);
  policy::fill_frequencies(model, frequencies.data());

  using op = rotary::rotate<T, Layout, D, Dims>;
  test::for_each_context(seed, [&](const auto& context) {
    auto in = test::array_of(x), out = test::array_of(std::vector<T>(x.size()));
    auto where = test::array_of(positions);
    auto table = test::array_of(frequencies);
    T* to = in_place ? in.data() : out.data();
    const status st = op::run(context, {.x = {in.data(), tokens, cols, stride}, .y = {to, tokens, cols, stride}, .positions = where.data(),
                                        .frequencies = table.data(), .heads = heads, .scale = 1.25f, .inverse = inverse});
    INFO(st.what);
    REQUIRE(st);
    test::wait(context);
    const test::array<T>& got = in_place ? in : out;
    CHECK(got.guarded());
    const Layout layout{Dims};
    double worst = 0;
    for (int t = 0; t < tokens; ++t)
      for (int h = 0; h < heads; ++h) {
        const auto at = [&](const auto& v, int c) { return test::value(v[std::size_t(t) * stride + h * D + c]); };
        for (int c = Dims; c < D; ++c) REQUIRE(at(got, c) == at(x, c));
        for (int i = 0; i < Dims / 2; ++i) {
          const double angle = (inverse ? -1 : 1) * positions[t] * std::pow(10000.0, -2.0 * i / Dims), cos = 1.25 * std::cos(angle), sin = 1.25 * std::sin(angle);
          const double a = at(x, layout.first(i)), b = at(x, layout.second(i));
          // the angle is within 2^-22.5 turns (2 pi), cosine and sine within 1.2e-7; three roundings in float, one to T
          const double unit = std::is_same_v<T, float> ? 0x1p-24 : std::is_same_v<T, fp16> ? 0x1p-11 : 0x1p-8;
          const double slack = 1.25 * (std::abs(a) + std::abs(b)) * (std::exp2(-22.5) * 2 * pi() + 1.2e-7 + 3 * 0x1p-24);
          const double u = a * cos - b * sin, v = b * cos + a * sin;
          worst = std::max(worst, std::abs(at(got, layout.first(i)) - u) / (slack + unit * (std::abs(u) + slack) + 0x1p-24));
          worst = std::max(worst, std::abs(at(got, layout.second(i)) - v) / (slack + unit * (std::abs(v) + slack) + 0x1p-24));
        }
      }
    CHECK(worst <= 1);
    for (int t = 0; t < tokens; ++t)                                       // nothing beside the columns is written
      for (int c = cols; c < stride; ++c) REQUIRE(test::value(got[std::size_t(t) * stride + c]) == (in_place ? test::value(x[std::size_t(t) * stride + c]) : 0.0));
  });
}

TEST_CASE("rotary: both layouts, whole and partly rotated heads, against cosines in double") {
  for (int tokens : {1, 5, 33}) {
    compare<bf16, policy::half_split, 64, 64>(tokens, 3, 0, true, false, 1);
    compare<bf16, policy::interleaved, 64, 64>(tokens, 3, 100, true, false, 2);
    compare<bf16, policy::interleaved, 128, 64>(tokens, 2, 5, false, true, 3);
    compare<fp16, policy::half_split, 80, 32>(tokens, 2, 4000, false, false, 4);
    compare<float, policy::half_split, 256, 128>(tokens, 1, 1 << 20, true, false, 5);
    compare<float, policy::half_split, 96, 96>(tokens, 70, -9, false, true, 6);
  }
}

TEST_CASE("rotary: turning back gives the vector again, and two turns add up") {
  const int heads = 2, d = 64, tokens = 3;
  std::vector<float> x(tokens * heads * d), frequencies(2 * d);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(int(i * 37 % 101) - 50) / 16;
  policy::fill_frequencies(policy::rotary<>{.dims = d}, frequencies.data());
  using op = rotary::rotate<float, policy::half_split, d>;
  const auto turned = [&](std::vector<float> from, int position, bool inverse) {
    auto v = test::array_of(from), table = test::array_of(frequencies);
    auto where = test::array_of(std::vector<int>(tokens, position));
    const auto context = test::any_context();
    REQUIRE(op::run(context, {.x = {v.data(), tokens, heads * d, heads * d}, .y = {v.data(), tokens, heads * d, heads * d}, .positions = where.data(),
                              .frequencies = table.data(), .heads = heads, .inverse = inverse}));
    test::wait(context);
    return std::vector<float>(v.begin(), v.end());
  };
  const auto back = turned(turned(x, 12345, false), 12345, true), sum = turned(turned(x, 700, false), 55, false), once = turned(x, 755, false);
  for (std::size_t i = 0; i < x.size(); ++i) {
    CHECK(std::abs(back[i] - x[i]) <= 1e-5);     // two rotations of values below 4.5, each within 4.5 * 2 * 1.3e-6 at most
    CHECK(std::abs(sum[i] - once[i]) <= 2e-5);
  }
}

TEST_CASE("rotary: refusals name the argument") {
  using op = rotary::rotate<bf16, policy::half_split, 64>;
  alignas(64) static bf16 x[4 * 128], y[4 * 128];
  static int positions[4];
  static float frequencies[128];
  const auto context = test::any_context();
  const op::args good{.x = {x, 4, 128, 128}, .y = {y, 4, 128, 128}, .positions = positions, .frequencies = frequencies, .heads = 2};
  REQUIRE(op::check(context, good));
  const auto refused = [&](auto change, errc code, const char* what) {
    op::args a = good;
    change(a);
    const status st = op::check(context, a);
    CHECK(st.code == code);
    CHECK(std::string(st.what).find(what) != std::string::npos);
  };
  refused([](op::args& a) { a.heads = 3; }, errc::bad_shape, "heads * D");
  refused([](op::args& a) { a.heads = -1; }, errc::bad_value, "heads");
  refused([](op::args& a) { a.positions = nullptr; }, errc::null_pointer, "positions");
  refused([](op::args& a) { a.frequencies = nullptr; }, errc::null_pointer, "frequencies");
  refused([](op::args& a) { a.x.data = nullptr; }, errc::null_pointer, "x is null");
  refused([](op::args& a) { a.y.rows = 3; }, errc::bad_shape, "y needs as many rows");
  refused([](op::args& a) { a.y.stride = 120; }, errc::bad_shape, "y: stride");
  refused([](op::args& a) { a.x.data = x + 1; }, errc::misaligned, "x: the address");
  refused([](op::args& a) { a.y.data = x + 64, a.y.rows = a.x.rows = 2; }, errc::aliased, "y must be x itself");
  refused([](op::args& a) { a.positions = reinterpret_cast<const int*>(y); }, errc::aliased, "positions");
}

}  // namespace
