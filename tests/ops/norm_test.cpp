// Normalization of rows against a definition in double, in three orders of blocks.
#include <smalti/ops/norm.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "../support/arrays.hpp"
#include "../support/contexts.hpp"

namespace {
using namespace smalti;

template <class T> T rounded(double v) {
  if constexpr (std::is_same_v<T, float>) return float(v);
  else return narrow<T>(float(v));
}
template <class T> constexpr double unit = std::is_same_v<T, float> ? 0x1p-24 : std::is_same_v<T, fp16> ? 0x1p-11 : std::is_same_v<T, bf16> ? 0x1p-8 : 0x1p-4;

template <class T> constexpr double least = std::is_same_v<T, fp8_e4m3> ? 0x1p-10 : 1e-9;       // half the distance of the subnormals
template <bool Adds, bool Bias, bool AnyWidth, class Gain, class Stream> struct with : norm::options {
  static constexpr bool adds = Adds, bias = Bias, any_width = AnyWidth;
  using gain = Gain;
  using stream = Stream;
};

struct problem {
  int rows, cols, pad;
  float size = 1, shift = 0, epsilon = 1e-5f, gain_offset = 0;
  bool in_place = false;
};

template <norm::statistic S, class X, class Y, class Options> void compare(const problem& p, std::uint64_t seed) {
  CAPTURE(p.rows, p.cols, p.pad, p.size, p.shift, p.in_place, seed);
  using gain_element = typename Options::gain;
  using stream_element = typename Options::stream;
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(p.shift, p.size), around_one(1, 0.3f);
  const int stride = p.cols + p.pad;
  std::vector<X> x(std::size_t(p.rows) * stride);
  std::vector<stream_element> stream(x.size());
  std::vector<gain_element> gain(p.cols), bias(p.cols);
  for (X& v : x) v = rounded<X>(normal(random));
  for (stream_element& v : stream) v = rounded<stream_element>(normal(random));
  for (gain_element& v : gain) v = rounded<gain_element>(around_one(random));
  for (gain_element& v : bias) v = rounded<gain_element>(around_one(random));

  using op = norm::normalize<S, X, Y, Options>;
  test::for_each_context(seed, [&](const auto& context) {
    auto in = test::array_of(x);
    auto sums = test::array_of(stream);
    auto g = test::array_of(gain), b = test::array_of(bias);
    auto out = test::array_of(std::vector<Y>(x.size(), rounded<Y>(7)));
    typename op::args a{.x = {in.data(), p.rows, p.cols, stride}, .gain = {g.data(), 1, p.cols, p.cols}, .y = {out.data(), p.rows, p.cols, stride},
                        .epsilon = p.epsilon, .gain_offset = p.gain_offset};
    if constexpr (std::is_same_v<X, Y>)
      if (p.in_place) a.y.data = in.data();
    if (Options::adds) a.stream = {sums.data(), p.rows, p.cols, stride};
    if (Options::bias) a.bias = {b.data(), 1, p.cols, p.cols};
    const status st = op::run(context, a);
    INFO(st.what);
    REQUIRE(st);
    test::wait(context);
    CHECK((out.guarded() && in.guarded() && sums.guarded()));
    double worst = 0;
    for (int r = 0; r < p.rows; ++r) {
      std::vector<double> v(p.cols);
      double mean = 0, square = 0;
      for (int c = 0; c < p.cols; ++c) {
        const std::size_t at = std::size_t(r) * stride + c;
        v[c] = test::value(x[at]);
        if (Options::adds) {                      // one rounding in float, one to the stream's element: reproduced exactly
          v[c] = test::value(rounded<stream_element>(float(test::value(x[at])) + float(test::value(stream[at]))));
          REQUIRE(test::value(sums[at]) == v[c]);
        }
        mean += S == norm::statistic::mean_and_variance ? v[c] / p.cols : 0;
      }
      double largest = 0;
      for (int c = 0; c < p.cols; ++c) square += (v[c] - mean) * (v[c] - mean) / p.cols, largest = std::max(largest, std::abs(v[c]));
      const double scale = 1 / std::sqrt(square + p.epsilon);
      // Sums of n terms, at most n / 16 + 8 additions deep on any machine, round by that many units; the mean is off by as many
      // units of the largest value; then the subtraction, two products, an addition and the rounding of the result.
      const double deep = (p.cols / 16.0 + 8) * 0x1p-24;
      for (int c = 0; c < p.cols; ++c) {
        const std::size_t at = std::size_t(r) * stride + c;
        const double factor = test::value(gain[c]) + p.gain_offset, add = Options::bias ? test::value(bias[c]) : 0;
        const double want = (v[c] - mean) * scale * factor + add, got = test::value(a.y.data[at]);
        const double slack = std::abs(want - add) * (2 * deep + 6 * 0x1p-24) + std::abs(scale * factor) * (mean != 0 ? 2 * deep * largest : 0) + 0x1p-23 * std::abs(want);
        worst = std::max(worst, std::abs(got - want) / (slack + unit<Y> * (std::abs(want) + slack) + least<Y>));
      }
      for (int c = p.cols; c < stride; ++c) REQUIRE(test::value(a.y.data[std::size_t(r) * stride + c]) == (p.in_place ? test::value(x[std::size_t(r) * stride + c]) : 7.0));
    }
    CHECK(worst <= 1);
  });
}

constexpr auto rms = norm::statistic::root_mean_square, layer = norm::statistic::mean_and_variance;

TEST_CASE("norm: ragged shapes, every type, against the definition in double") {
  for (int rows : {1, 3, 17}) {
    compare<rms, bf16, bf16, norm::options>({.rows = rows, .cols = 576, .pad = 8}, 11);
    compare<rms, float, bf16, with<false, false, false, bf16, float>>({.rows = rows, .cols = 328, .pad = 8, .size = 30, .gain_offset = 1}, 12);
    compare<rms, fp16, fp16, norm::options>({.rows = rows, .cols = 8, .pad = 0, .in_place = true}, 13);
    compare<rms, float, float, with<false, false, true, float, float>>({.rows = rows, .cols = 37, .pad = 2, .size = 1e-4f}, 14);
    compare<rms, bf16, bf16, with<true, false, false, float, float>>({.rows = rows, .cols = 256, .pad = 16}, 15);
    compare<rms, bf16, bf16, with<true, false, false, bf16, bf16>>({.rows = rows, .cols = 1032, .pad = 0, .in_place = true}, 16);
    compare<layer, float, float, with<false, true, false, float, float>>({.rows = rows, .cols = 260, .pad = 4, .shift = 3}, 17);
    compare<layer, bf16, float, with<true, true, false, bf16, float>>({.rows = rows, .cols = 640, .pad = 0, .shift = -1}, 18);
    compare<layer, float, float, with<false, false, true, float, float>>({.rows = rows, .cols = 3, .pad = 1, .shift = 100}, 19);
  }
  compare<rms, bf16, fp8_e4m3, norm::options>({.rows = 4, .cols = 128, .pad = 0}, 20);
}

TEST_CASE("norm: rows of zeros give zeros, and a row does not see the others") {
  const int cols = 64;
  std::vector<float> x(3 * cols, 0.0f), gain(cols, 1.0f);
  for (int c = 0; c < cols; ++c) x[cols + c] = float(c), x[2 * cols + c] = 1e30f;      // the last row overflows: alone
  test::for_each_context(5, [&](const auto& context) {
    auto in = test::array_of(x), g = test::array_of(gain), out = test::array_of(std::vector<float>(x.size())), one = test::array_of(std::vector<float>(cols));
    REQUIRE(norm::rms<float>::run(context, {.x = {in.data(), 3, cols, cols}, .gain = {g.data(), 1, cols, cols}, .y = {out.data(), 3, cols, cols}}));
    REQUIRE(norm::rms<float>::run(context, {.x = {in.data() + cols, 1, cols, cols}, .gain = {g.data(), 1, cols, cols}, .y = {one.data(), 1, cols, cols}}));
    test::wait(context);
    for (int c = 0; c < cols; ++c) {
      CHECK(out[c] == 0.0f);
      CHECK(out[cols + c] == one[c]);
    }
  });
}

TEST_CASE("norm: refusals name the argument") {
  using op = norm::rms<float, float, with<true, true, false, float, float>>;
  alignas(64) static float x[256], y[256], s[256], g[64];
  const auto context = test::any_context();
  const op::args good{.x = {x, 4, 64, 64}, .gain = {g, 1, 64, 64}, .y = {y, 4, 64, 64}, .stream = {s, 4, 64, 64}, .bias = {g, 1, 64, 64}};
  REQUIRE(op::check(context, good));
  const auto refused = [&](auto change, errc code, const char* what) {
    op::args a = good;
    change(a);
    const status st = op::check(context, a);
    INFO(st.what);
    CHECK(st.code == code);
    CHECK(std::string(st.what).find(what) != std::string::npos);
    CHECK(op::run(context, a).code == code);
  };
  refused([](op::args& a) { a.x.data = nullptr; }, errc::null_pointer, "x is null");
  refused([](op::args& a) { a.x.rows = -1; }, errc::bad_shape, "x: extents");
  refused([](op::args& a) { a.x.stride = 60; }, errc::bad_shape, "x: stride");
  refused([](op::args& a) { a.x.data = x + 1; }, errc::misaligned, "x: the address");
  refused([](op::args& a) { a.x.stride = 66; }, errc::misaligned, "x: the stride");
  refused([](op::args& a) { a.x.cols = a.y.cols = 62; }, errc::misaligned, "x: the columns");
  refused([](op::args& a) { a.y.rows = 3; }, errc::bad_shape, "y needs as many rows");
  refused([](op::args& a) { a.y.cols = 32; }, errc::bad_shape, "y needs as many columns");
  refused([](op::args& a) { a.gain.cols = 32; }, errc::bad_shape, "gain needs as many columns");
  refused([](op::args& a) { a.gain.rows = 2; }, errc::bad_shape, "gain needs one row");
  refused([](op::args& a) { a.bias.data = nullptr; }, errc::null_pointer, "bias is null");
  refused([](op::args& a) { a.stream = {}; }, errc::bad_shape, "stream needs as many rows");
  refused([](op::args& a) { a.epsilon = -1; }, errc::bad_value, "epsilon");
  refused([](op::args& a) { a.epsilon = __builtin_nanf(""); }, errc::bad_value, "epsilon");
  refused([](op::args& a) { a.y.data = x + 64, a.y.rows = a.x.rows = a.stream.rows = 3; }, errc::aliased, "y must be x itself");
  refused([](op::args& a) { a.stream.data = x; }, errc::aliased, "stream must not overlap x");
  refused([](op::args& a) { a.stream.data = y; }, errc::aliased, "stream must not overlap x or y");
  refused([](op::args& a) { a.gain.data = y; }, errc::aliased, "gain");
  refused([](op::args& a) { a.bias.data = s; }, errc::aliased, "bias");

  using plain = norm::rms<float>;
  CHECK(plain::check(context, {.x = {x, 4, 64, 64}, .gain = {g, 1, 64, 64}, .y = {y, 4, 64, 64}, .stream = {s, 4, 64, 64}}).code == errc::bad_value);
  CHECK(plain::check(context, {.x = {x, 4, 64, 64}, .gain = {g, 1, 64, 64}, .y = {y, 4, 64, 64}, .bias = {g, 1, 64, 64}}).code == errc::bad_value);
  CHECK(plain::run(context, {.x = {x, 0, 64, 64}, .gain = {g, 1, 64, 64}, .y = {y, 0, 64, 64}}));
}

}  // namespace
