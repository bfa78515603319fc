// The block Hadamard transform of rows of floats, on the host: what weights go through before they are quantized, so that
// activations transformed by ops/quantize.hpp meet them. H / sqrt(B) is orthogonal and its own inverse.
#pragma once
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Each run of `block` columns becomes H x / sqrt(block), H[i, j] = (-1)^(ones in i & j), in place.
//! @param block  a power of two from 2 to 32768 that divides the columns
//! @note  cost: log2(block) additions an element; error: log2(block) 2^-24 of the sum of magnitudes / sqrt(block)
inline status hadamard_rows(const view<float, 1>& x, int block) {
  if (block < 2 || block > 32768 || (block & (block - 1)) != 0) return {errc::bad_value, "block must be a power of two from 2 to 32768", block, 0};
  if (x.rows < 0 || x.cols < 0) return {errc::bad_shape, "x: an extent is negative", x.rows < 0 ? x.rows : x.cols, 0};
  if (x.cols % block != 0) return {errc::bad_shape, "x needs a multiple of `block` columns: pad it with zeros, and the other operand too", x.cols, round_up(x.cols, block)};
  if (x.rows > 0 && x.cols > 0 && x.data == nullptr) return {errc::null_pointer, "x is null"};
  const float scale = float(1.0 / __builtin_sqrt(double(block)));
  for (int r = 0; r < x.rows; ++r) {
    float* const row = x.data + static_cast<long long>(r) * x.stride;
    for (int first = 0; first < x.cols; first += block) {
      float* const v = row + first;
      for (int half = 1; half < block; half *= 2)
        for (int i = 0; i < block; i += 2 * half)
          for (int j = i; j < i + half; ++j) {
            const float a = v[j], b = v[j + half];
            v[j] = a + b, v[j + half] = a - b;
          }
      for (int i = 0; i < block; ++i) v[i] *= scale;
    }
  }
  return {};
}

}  // namespace smalti::inline SMALTI_DATA::policy
