// Normalization and rotary embedding against their definitions in double.
#include <cmath>

#include <smalti/ops/norm.hpp>
#include <smalti/ops/rotary.hpp>

#include "battery.hpp"

using namespace smalti;
using namespace battery;

namespace {

struct into_stream : norm::options {
  static constexpr bool adds = true, any_width = true;
};

void rows_are_normalized() {
  const int rows = 5, cols = 300;
  for (const float size : {1.0f, 1e-4f}) {       // where epsilon is nothing, and where it is everything
    matrix<float> x(1, rows, cols, cols + 4, 3), gain(1, 1, cols, cols, 5), y(1, rows, cols, cols + 4), stream(1, rows, cols, cols + 4, 7);
    const matrix<float> before(1, rows, cols, cols + 4, 7);
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < cols; ++c) x(0, r, c) *= size, stream(0, r, c) = before.get(0, r, c) * size;
    for (const host_context& context : contexts()) {
      y.at.poison();
      for (int r = 0; r < rows; ++r)
        for (int c = 0; c < cols; ++c) stream(0, r, c) = float(before.get(0, r, c)) * size;
      for (int r = 0; r < rows; ++r) std::memset(&y(0, r, 0), 0xFF, sizeof(float) * (cols + 4));
      poison_stack();
      const status st = norm::rms<float, float, into_stream>::run(context, {.x = x.read(), .gain = gain.read(), .y = y.write(), .stream = stream.write()});
      expect(st.code == errc::ok, st.what);
      expect(y.intact() && stream.intact(), "norm stays inside");
      for (int r = 0; r < rows; ++r) {
        double square = 0;
        for (int c = 0; c < cols; ++c) square += std::pow(x.get(0, r, c) + float(before.get(0, r, c)) * size, 2) / cols;
        for (int c = 0; c < cols; ++c) {
          const double v = x.get(0, r, c) + float(before.get(0, r, c)) * size, want = v * gain.get(0, 0, c) / std::sqrt(square + 1e-5);
          expect(std::abs(stream.get(0, r, c) - v) <= 1e-6 * std::abs(v) + 1e-12, "the stream keeps the sum");
          expect(std::abs(y.get(0, r, c) - want) <= 1e-5 * std::abs(want) + 1e-9, "rms norm");
        }
      }
    }
  }
}

void pairs_are_turned() {
  constexpr int d = 64, heads = 3, tokens = 7;
  matrix<float> x(1, tokens, heads * d, heads * d, 11), y(1, tokens, heads * d, heads * d);
  std::vector<float> frequencies(2 * d);
  policy::fill_frequencies(policy::rotary<>{.dims = d}, frequencies.data());
  std::vector<int> positions(tokens);
  for (int t = 0; t < tokens; ++t) positions[t] = 5 + 3 * t;
  for (const host_context& context : contexts()) {
    y.at.poison();
    poison_stack();
    const status st = rotary::rotate<float, policy::half_split, d>::run(
        context, {.x = {x.at.data(), tokens, heads * d, heads * d}, .y = {y.at.data(), tokens, heads * d, heads * d}, .positions = positions.data(),
                  .frequencies = frequencies.data(), .heads = heads});
    expect(st.code == errc::ok, st.what);
    expect(y.intact(), "rotary stays inside");
    for (int t = 0; t < tokens; ++t)
      for (int h = 0; h < heads; ++h)
        for (int i = 0; i < d / 2; ++i) {
          const double angle = positions[t] * std::pow(10000.0, -2.0 * i / d), a = x.get(0, t, h * d + i), b = x.get(0, t, h * d + d / 2 + i);
          expect(std::abs(y.get(0, t, h * d + i) - (a * std::cos(angle) - b * std::sin(angle))) <= 1e-4, "the first of a pair");
          expect(std::abs(y.get(0, t, h * d + d / 2 + i) - (b * std::cos(angle) + a * std::sin(angle))) <= 1e-4, "the second of a pair");
        }
  }
}

}  // namespace

namespace battery {
std::vector<check> norm_checks() { return {{"rms norm", rows_are_normalized}, {"rotary", pairs_are_turned}}; }
}  // namespace battery
