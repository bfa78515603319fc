// Quantization of activations and the Hadamard transform against their definitions in double.
#include <bit>
#include <cmath>

#include <smalti/ops/quantize.hpp>

#include "battery.hpp"

using namespace smalti;
using namespace battery;

namespace {

struct summed : quantize::options {
  static constexpr int sum_group = 64;
};
struct any : quantize::options {
  static constexpr bool any_width = true;
};

void rows_are_quantized() {
  constexpr int rows = 3, cols = 1024, groups = cols / 64;
  memory<float> x(rows * cols), scales(rows), sums(rows * groups);
  memory<std::int8_t> codes(rows * cols);
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; ++c) x[r * cols + c] = float((c * 37 + r * 11) % 101 - 50) * (c == 70 ? 4.0f : 1.0f);
  for (const host_context& context : contexts()) {
    codes.poison(), scales.poison(), sums.poison();
    poison_stack();
    const status st = quantize::tokens<float, policy::int8_tokens<>, summed>::run(
        context, {{x.data(), rows, cols, cols}, {codes.data(), rows, cols, cols}, {scales.data(), 1, rows, rows}, {sums.data(), groups, rows, rows}});
    expect(st.code == errc::ok, st.what);
    expect(codes.intact() && scales.intact() && sums.intact(), "quantization stays inside");
    for (int r = 0; r < rows; ++r) {
      float most = 0;
      for (int c = 0; c < cols; ++c) most = std::max(most, std::abs(x[r * cols + c]));
      expect(scales[r] == most / 127.0f, "the scale of a row");
      for (int g = 0; g < groups; ++g) {
        int sum = 0;
        for (int c = g * 64; c < (g + 1) * 64; ++c) {
          expect(std::abs(codes[r * cols + c] - double(x[r * cols + c]) / scales[r]) <= 0.5001, "the code of an element");
          sum += codes[r * cols + c];
        }
        expect(std::abs(sums[g * rows + r] - double(sum) * scales[r]) <= 1e-6 * std::abs(double(sum) * scales[r]), "the sum of a group");
      }
    }
  }
}

void groups_are_quantized() {
  constexpr int rows = 5, cols = 256;
  memory<float> x(rows * cols), scales(2 * rows);
  memory<fp8_e4m3> codes(rows * cols);
  for (int i = 0; i < rows * cols; ++i) x[i] = float((i * 29) % 97 - 48) * (i % cols < 128 ? 1.0f : 8.0f);
  for (const host_context& context : contexts()) {
    codes.poison(), scales.poison();
    poison_stack();
    const status st = quantize::tokens<float, policy::fp8_tokens<>>::run(context, {{x.data(), rows, cols, cols}, {codes.data(), rows, cols, cols}, {scales.data(), 2, rows, rows}});
    expect(st.code == errc::ok, st.what);
    expect(codes.intact() && scales.intact(), "quantization stays inside");
    for (int r = 0; r < rows; ++r)
      for (int g = 0; g < 2; ++g) {
        float most = 0;
        for (int c = g * 128; c < (g + 1) * 128; ++c) most = std::max(most, std::abs(x[r * cols + c]));
        expect(scales[g * rows + r] == most / 448.0f, "the scale of a group");
        for (int c = g * 128; c < (g + 1) * 128; ++c) {
          const double got = double(to_float(codes[r * cols + c])) * scales[g * rows + r];
          expect(std::abs(got - x[r * cols + c]) <= 0.0626 * std::abs(x[r * cols + c]) + 1e-6, "the code of an element");
        }
      }
  }
}

void blocks_are_transformed() {
  constexpr int rows = 3, cols = 128;
  matrix<bf16> x(1, rows, cols, cols + 1, 13);
  matrix<float> y(1, rows, cols, cols + 1);
  for (const host_context& context : contexts()) {
    y.at.poison();
    poison_stack();
    const status st = quantize::hadamard<bf16, float, 128, any>::run(context, {x.read(), y.write()});
    expect(st.code == errc::ok, st.what);
    expect(y.intact(), "the transform stays inside");
    for (int r = 0; r < rows; ++r)
      for (int i = 0; i < cols; ++i) {
        double sum = 0, size = 0;
        for (int j = 0; j < cols; ++j) sum += (std::popcount(unsigned(i & j)) % 2 ? -1 : 1) * x.get(0, r, j), size += std::abs(x.get(0, r, j));
        expect(std::abs(y.get(0, r, i) - sum / std::sqrt(128.0)) <= 1e-6 * size, "the Hadamard transform");
      }
  }
}

}  // namespace

namespace battery {
std::vector<check> quantize_checks() {
  return {{"int8 by row", rows_are_quantized}, {"fp8 by group", groups_are_quantized}, {"hadamard", blocks_are_transformed}};
}
}  // namespace battery
