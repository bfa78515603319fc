// FP8 under float scales: DeepSeek-V3's activations by 1 x 128 and weights by 128 x 128, and the same by channel and by
// tensor, as DeepGEMM, torchao, ModelOpt and compressed-tensors make them.
#pragma once
#include <cstdint>
#include <smalti/policy/codecs/small_float.hpp>
#include <smalti/policy/quantizer.hpp>
#include <smalti/policy/quantizers/microscaling.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! The power of two at or above a positive number, its exponent code within [1, 254].
constexpr float power_at_or_above(float x) {
  const std::uint32_t bits = float_bits(x);
  std::uint32_t e = (bits >> 23) + std::uint32_t((bits & 0x007fffffu) != 0);
  e = e < 1 ? 1 : e > 254 ? 254 : e;
  return bits_float(e << 23);
}

// A rule says what is stored for a tile with this largest magnitude, and the code of one number under it.

//! stored = max(amax, 1e-4) / 448 (raised to a power of two if asked); code = e4m3(x * (1 / stored)).
template <bool PowerOfTwo = false> struct deepgemm_rule {
  float stored(float reach) const {
    const float s = (reach > 1e-4f ? reach : 1e-4f) / 448.0f;
    return PowerOfTwo ? power_at_or_above(s) : s;
  }
  unsigned code(float x, float stored) const { return e4m3::encode(x * (1.0f / stored), tie::even); }
};
//! stored = 1 / (448 / max(amax, 1e-12)); code = e4m3(x * (448 / max(amax, 1e-12))).
struct torchao_rule {
  static float multiplier(float reach) { return float(448.0 / double(reach > 1e-12f ? reach : 1e-12f)); }
  float stored(float reach) const { return 1.0f / multiplier(reach); }
};
//! stored = amax / 448; code = e4m3(x / stored). A tile of zeros has codes 0 and the scale `of_zeros`: 0 at ModelOpt (which
//! makes its codes NaN), 2^-23 at compressed-tensors.
struct quotient_rule {
  float of_zeros = 0.0f;
  float stored(float reach) const { return reach > 0.0f ? reach / 448.0f : of_zeros; }
  unsigned code(float x, float stored) const { return stored > 0.0f ? e4m3::encode(x / stored, tie::even) : 0u; }
};

//! Every tile of tile_rows x tile_cols (0: all), the last ones ragged. codes: rows x cols, a byte each; scales: tiles of rows
//! x tiles of columns, row by row.
template <class Rule>
status quantize_tiles(const Rule& rule, const view<const float, 1>& x, int tile_rows, int tile_cols, std::uint8_t* codes, float* scales) {
  if (x.rows < 0 || x.cols < 0) return {errc::bad_shape, "x: an extent is negative", x.rows < 0 ? x.rows : x.cols, 0};
  if (tile_rows < 0 || tile_cols < 0) return {errc::bad_value, "tile_rows and tile_cols must be at least 1, or 0 for all", tile_rows < 0 ? tile_rows : tile_cols, 0};
  if (x.rows > 0 && x.cols > 0 && (x.data == nullptr || codes == nullptr || scales == nullptr)) return {errc::null_pointer, "x, codes or scales is null"};
  if (const status bad = check_finite(x); !bad) return bad;
  const int high = tile_rows == 0 ? (x.rows > 0 ? x.rows : 1) : tile_rows, wide = tile_cols == 0 ? (x.cols > 0 ? x.cols : 1) : tile_cols;
  const int across = ceil_div(x.cols, wide);
  for (int r = 0; r < x.rows; r += high)
    for (int c = 0; c < x.cols; c += wide) {
      const int rows = x.rows - r < high ? x.rows - r : high, cols = x.cols - c < wide ? x.cols - c : wide;
      float reach = 0.0f;
      for (int i = 0; i < rows; ++i) {
        const float most = absmax{}.reach<e4m3>(x.data + static_cast<long long>(r + i) * x.stride + c, cols);
        reach = most > reach ? most : reach;
      }
      const float stored = rule.stored(reach);
      scales[static_cast<long long>(r / high) * across + c / wide] = stored;
      for (int i = 0; i < rows; ++i)
        for (int j = 0; j < cols; ++j) {
          const float v = x.data[static_cast<long long>(r + i) * x.stride + c + j];
          unsigned code;
          if constexpr (requires { rule.code(v, stored); }) code = rule.code(v, stored);
          else code = e4m3::encode(v * Rule::multiplier(reach), tie::even);
          codes[static_cast<long long>(r + i) * x.cols + c + j] = std::uint8_t(code);
        }
    }
  return {};
}

//! DeepGEMM's FP4 by 32: stored = max(amax, 1e-4) / 6, raised to a power of two if asked; code = e2m1(x * (1 / stored)), ties
//! toward zero, never -0.
template <bool PowerOfTwo = false> struct deepgemm_fp4_quantizer {
  float operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    const float reach = absmax{}.reach<e2m1>(x, count), s = (reach > 1e-4f ? reach : 1e-4f) / 6.0f;
    const float stored = PowerOfTwo ? power_at_or_above(s) : s, inverse = 1.0f / stored;
    for (int i = 0; i < count; ++i) codes[i] = std::uint8_t(encode_signed<e2m1>(x[i] * inverse, tie::toward_zero, zero_sign::never));
    return stored;
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
