// NF4 and FP4 as bitsandbytes makes them on a CPU, and its second level for block maxima.
#pragma once
#include <cstdint>
#include <smalti/policy/codecs/lookup.hpp>
#include <smalti/policy/quantizer.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! stored = amax of the block; code = the nearest of the table for x / amax, ties to the lower value. A full block multiplies
//! by 1 / amax, a short one (the tensor's last) divides. FP4: what lies above zero and rounds to it gets code 8 (-0). Zeros:
//! a full block stores 0, a short one 1e-38.
//! Blocks run through the flattened tensor: quantize it as one row.
template <class Codec, int Block = 64> struct bitsandbytes_quantizer {
  float operator()(const float* x, int count, std::uint8_t* codes, long long = 0) const {
    const bool full = count == Block;
    float reach = absmax{}.reach<Codec>(x, count);
    if (!full && reach < 1e-38f) reach = 1e-38f;
    const float inverse = reach > 0.0f ? 1.0f / reach : 0.0f;
    for (int i = 0; i < count; ++i) {
      const float y = full ? x[i] * inverse : x[i] / reach;
      const unsigned code = Codec::encode(y, tie::down);
      codes[i] = std::uint8_t(Codec::zero_code == 0 && code == 0 && y > 0.0f ? 8u : code);
    }
    return reach;
  }
};

//! Block maxima once more: code = dynamic_map(absmax - mean), in blocks of 256 under their own largest magnitude. The nearest
//! entry, ties down; bitsandbytes' CPU code looks its entry up in bins of 2^-16 and misses the nearest one by up to two
//! thirds of a gap (a zero becomes code 131).
//! @param codes  count bytes; outer: one float for each 256
//! @param mean   subtracted from all: mean_of(absmax, count), or the producer's
inline void double_quantize(const float* absolute, int count, float mean, std::uint8_t* codes, float* outer) {
  for (int first = 0; first < count; first += 256) {
    const int many = count - first < 256 ? count - first : 256;
    float reach = 0.0f;
    for (int i = 0; i < many; ++i) {
      const float m = magnitude(absolute[first + i] - mean);
      reach = m > reach ? m : reach;
    }
    outer[first / 256] = reach;
    const float inverse = reach > 0.0f ? 1.0f / reach : 0.0f;
    for (int i = 0; i < many; ++i) {
      const float y = absolute[first + i] - mean;
      codes[first + i] = std::uint8_t(dynamic_map::encode(many == 256 ? y * inverse : reach > 0.0f ? y / reach : 0.0f, tie::down));
    }
  }
}
inline float mean_of(const float* x, int count) {
  double sum = 0.0;
  for (int i = 0; i < count; ++i) sum += double(x[i]);
  return count > 0 ? float(sum / count) : 0.0f;
}

}  // namespace smalti::inline SMALTI_DATA::policy
