// From numbers to codes, a block at a time, on the host: how far a block reaches, which scale that gives, how a number
// between two codes is rounded. Producers' own rules, which combine these in their own ways and to the bit, are in
// quantizers/.
//
// A quantizer refuses NaN and infinities (check_finite says where); a producer that gives them a meaning says so.
#pragma once
#include <cstdint>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/policy/codecs/element.hpp>
#include <smalti/policy/philox.hpp>
#include <smalti/policy/scales.hpp>

namespace smalti::inline SMALTI_DATA::policy {

SMALTI_HD constexpr float magnitude(float x) { return bits_float(float_bits(x) & 0x7fffffffu); }

//! Refuses NaN and infinities; `got` is the row, `need` the column of the first.
inline status check_finite(const view<const float, 1>& x) {
  for (int i = 0; i < x.rows; ++i) {
    const float* row = x.data + static_cast<long long>(i) * x.stride;
    bool bad = false;
    for (int j = 0; j < x.cols; ++j) bad |= !is_finite(row[j]);
    for (int j = 0; bad; ++j)
      if (!is_finite(row[j])) return {errc::bad_value, "x holds NaN or infinity (got: row, need: column): repair it before it is quantized", i, j};
  }
  return {};
}

// ---- how far a block reaches

//! The largest magnitude.
struct absmax {
  template <class Codec> float reach(const float* x, int count) const {
    float most = 0.0f;
    for (int i = 0; i < count; ++i) most = magnitude(x[i]) > most ? magnitude(x[i]) : most;
    return most;
  }
};

//! The magnitude that a share of the block does not exceed: the least number with at least share * count magnitudes at
//! or below it. share 1 is absmax.
struct percentile {
  double share = 0.999;
  template <class Codec> float reach(const float* x, int count) const {
    long long wanted = static_cast<long long>(__builtin_ceil(share * count));
    wanted = wanted < 1 ? 1 : wanted > count ? count : wanted;
    std::uint32_t low = 0, high = 0x7f800000u;       // magnitudes are ordered as their bits are
    while (low < high) {
      const std::uint32_t middle = low + (high - low) / 2;
      long long below = 0;
      for (int i = 0; i < count; ++i) below += (float_bits(x[i]) & 0x7fffffffu) <= middle;
      if (below >= wanted) high = middle;
      else low = middle + 1;
    }
    return count > 0 ? bits_float(low) : 0.0f;
  }
};

//! The clip with the least sum of squared errors, of `steps` equal ones down to `least` times the largest magnitude. Ties
//! keep the larger clip. Cost: steps passes.
struct mean_square {
  int steps = 80;
  float least = 0.2f;
  template <class Codec> float reach(const float* x, int count) const;
};

//! The value of a codec that the reach is mapped to: its largest magnitude that exists on both sides.
template <class Codec> constexpr float symmetric_limit() {
  float lowest = 0.0f, highest = 0.0f;
  for (unsigned c = 0; c < (1u << Codec::bits); ++c) {
    const float v = Codec::value(c);
    if (!is_finite(v)) continue;
    lowest = v < lowest ? v : lowest;
    highest = v > highest ? v : highest;
  }
  return lowest < 0.0f && -lowest < highest ? -lowest : highest;
}
template <class Codec> inline constexpr float limit_of = symmetric_limit<Codec>();

template <class Codec> float mean_square::reach(const float* x, int count) const {
  const float most = absmax{}.reach<Codec>(x, count);
  double best = -1.0;
  float answer = most;
  for (int s = 0; s < steps && most > 0.0f; ++s) {
    const float clip = most * (1.0f - (1.0f - least) * float(s) / float(steps));
    const float scale = clip / limit_of<Codec>;
    if (!(scale > 0.0f)) break;
    double sum = 0.0;
    for (int i = 0; i < count; ++i) {
      const double error = double(x[i]) - double(Codec::value(Codec::encode(x[i] / scale, tie::even))) * double(scale);
      sum += error * error;
    }
    if (best < 0.0 || sum < best) best = sum, answer = clip;
  }
  return answer;
}

// ---- how a number is rounded

//! To the nearest code.
struct nearest {
  tie ties = tie::even;
  to_nearest at(long long) const { return {ties}; }
};
//! To one of the two neighbours, at random, so that the expected value is the number: element i takes number i of the
//! stream, whoever quantizes it.
struct stochastic {
  random_stream stream;
  to_either at(long long i) const { return {stream.uniform(std::uint64_t(i))}; }
};

// ---- blocks

//! scale = reach / limit, rounded to Element; code = encode(x / scale). A block of zeros has scale 0 and codes of zero.
//! @note error: half the gap between neighbouring codes, times scale, for every x within the reach
template <class Codec, class Element = float, class Reach = absmax, class Rounding = nearest>
struct symmetric_quantizer {
  using codec = Codec;
  using element = Element;
  static_assert(Codec::zero_code != no_zero, "smalti: a symmetric quantizer needs a code of zero: blocks of zeros exist");
  Reach reach = {};
  Rounding rounding = {};

  //! @param first  index of x[0] in the whole tensor, for stochastic rounding
  Element operator()(const float* x, int count, std::uint8_t* codes, long long first = 0) const {
    const Element stored = narrow<Element>(reach.template reach<Codec>(x, count) / limit_of<Codec>);
    const float scale = to_float(stored);
    for (int i = 0; i < count; ++i)
      codes[i] = std::uint8_t(scale > 0.0f && is_finite(scale) ? Codec::encode_by(x[i] / scale, rounding.at(first + i)) : unsigned(Codec::zero_code));
    return stored;
  }
};

//! What an asymmetric block is stored as.
template <class Element> struct scale_and_zero {
  Element scale;
  std::uint8_t zero;
};

//! Every block of every row: groups of `group` along k (0: all), the last may be short. codes: rows x cols, a byte each;
//! out[row * groups + g] is what the quantizer returns.
//! @return bad_value for NaN or infinity, bad_shape for a negative extent; nothing is written then
template <class Quantizer, class Stored>
status quantize_rows(const Quantizer& quantizer, const view<const float, 1>& x, int group, std::uint8_t* codes, Stored* out) {
  if (x.rows < 0 || x.cols < 0) return {errc::bad_shape, "x: an extent is negative", x.rows < 0 ? x.rows : x.cols, 0};
  if (group < 0) return {errc::bad_value, "group must be at least 1, or 0 for all of a row", group, 0};
  if (x.rows > 0 && x.cols > 0 && (x.data == nullptr || codes == nullptr || out == nullptr)) return {errc::null_pointer, "x, codes or out is null"};
  if (const status bad = check_finite(x); !bad) return bad;
  const int step = group == 0 ? (x.cols > 0 ? x.cols : 1) : group, groups = ceil_div(x.cols, step);
  for (int i = 0; i < x.rows; ++i)
    for (int g = 0; g < groups; ++g) {
      const int at = g * step, count = x.cols - at < step ? x.cols - at : step;
      const long long first = static_cast<long long>(i) * x.cols + at;
      out[static_cast<long long>(i) * groups + g] = quantizer(x.data + static_cast<long long>(i) * x.stride + at, count, codes + first, first);
    }
  return {};
}

}  // namespace smalti::inline SMALTI_DATA::policy
