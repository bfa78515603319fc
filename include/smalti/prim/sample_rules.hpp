// What both machines' samplers compute of one logit, in operations that round the same everywhere: sums of weights are
// integers, so their order does not matter, and no product is added outside of an fma, so no compiler can fuse one.
#pragma once
#include <cstdint>
#include <smalti/core/version.hpp>
#include <smalti/policy/philox.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::prim {

//! How one row is sampled.
struct sampling {
  float temperature = 1;         //!< logits are divided by it; 0 takes the greatest
  int top_k = 0;                 //!< only the k greatest; 0: all
  float top_p = 1;               //!< of those, the fewest greatest that hold at least this share of their probability
  float min_p = 0;               //!< of those, the ones with at least this share of the greatest probability
  std::uint64_t stream = 0;      //!< which request: its own random numbers
  std::uint32_t position = 0;    //!< which token of the request
};

//! How the token is drawn from what is left: both draw from the same distribution.
enum class draw : std::uint8_t {
  cumulative,       //!< one random number a row, and the place where the running sum of weights passes it
  gumbel            //!< the greatest of logit / temperature + Gumbel noise, a random number a token: shards of a vocabulary
                    //!< can be sampled apart and compared by `score`
};

namespace detail {

constexpr std::uint32_t whole_weight = 1u << 30;           // of the greatest logit

// 2^(a b) for a b <= 0 as a multiple of 2^-30, rounded to nearest; 0 below 2^-31. The power's relative error is 2^-24.
SMALTI_HD inline std::uint32_t power_weight(float a, float b) {
  if (!(a * b > -31.5f)) return 0;
  const float whole = __builtin_rintf(a * b), f = __builtin_fmaf(a, b, -whole);
  float p = 1.5469732e-4f;           // interpolated at Chebyshev's points of [-1/2, 1/2]
  p = __builtin_fmaf(p, f, 1.34004322e-3f);
  p = __builtin_fmaf(p, f, 9.6180256e-3f);
  p = __builtin_fmaf(p, f, 5.55032721e-2f);
  p = __builtin_fmaf(p, f, 2.40226512e-1f);
  p = __builtin_fmaf(p, f, 6.93147207e-1f);
  p = __builtin_fmaf(p, f, 1.0f);
  const auto fixed = static_cast<std::uint64_t>(p * 0x1p32f);                    // exact: p < 2
  const int shift = 2 - static_cast<int>(whole);
  return static_cast<std::uint32_t>((fixed + (std::uint64_t(1) << (shift - 1))) >> shift);
}

// log2 of a positive normal number, within 2^-23 of the larger of its size and, below 1 / 4, of 1.
SMALTI_HD inline float binary_log(float x) {
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  const int exponent = static_cast<int>(bits - 0x3f3504f3u) >> 23;                                                // of x / sqrt(1/2)
  const float t = __builtin_bit_cast(float, bits - (static_cast<std::uint32_t>(exponent) << 23)) - 1.0f;          // within [-0.293, 0.415]
  float p = 9.7241002e-2f;           // log2(1 + t) / t, interpolated at Chebyshev's points
  p = __builtin_fmaf(p, t, -1.69188156e-1f);
  p = __builtin_fmaf(p, t, 1.7202589e-1f);
  p = __builtin_fmaf(p, t, -1.78882944e-1f);
  p = __builtin_fmaf(p, t, 2.05044584e-1f);
  p = __builtin_fmaf(p, t, -2.40469018e-1f);
  p = __builtin_fmaf(p, t, 2.88576184e-1f);
  p = __builtin_fmaf(p, t, -3.60674101e-1f);
  p = __builtin_fmaf(p, t, 4.80897889e-1f);
  p = __builtin_fmaf(p, t, -7.21347516e-1f);
  p = __builtin_fmaf(p, t, 1.44269504f);
  return __builtin_fmaf(p, t, static_cast<float>(exponent));
}

// The rules of one row, from its parameters and its greatest logit.
struct row_rules {
  float greatest, to_bits;           // to_bits: log2(e) / temperature
  bool greedy, valid;

  // Logits that are NaN make a row invalid, as parameters out of range do: its token is -1.
  SMALTI_HD static bool sane(const sampling& s) {
    return s.temperature >= 0 && s.temperature <= 3.0e38f && s.top_k >= 0 && s.top_p >= 0 && s.top_p <= 1 && s.min_p >= 0 && s.min_p <= 1;
  }
  SMALTI_HD row_rules(const sampling& s, float greatest, bool any_nan)
      : greatest(greatest), to_bits(s.temperature > 0 ? 1.44269504f / s.temperature : 0), greedy(s.temperature == 0 || s.top_k == 1 || s.top_p == 0),
        valid(sane(s) && !any_nan && greatest > -__builtin_inff()) {}

  SMALTI_HD std::uint32_t weight(float logit) const {
    if (logit == greatest) return whole_weight;
    return power_weight(logit - greatest, mutant(defect::sample_ignores_temperature) ? 1.44269504f : to_bits);
  }
  SMALTI_HD float score(float logit, std::uint32_t random) const {
    const float u = float(int(random >> 9)) * 0x1p-23f + 0x1p-24f;         // exact: within (0, 1)
    const float noise = -binary_log(-binary_log(u));
    return logit == greatest ? noise : __builtin_fmaf(logit - greatest, to_bits, noise);
  }
};

// `all`: the weight of all that top_k left. How much of it top_p keeps: at least one unit, so that the greatest stays.
SMALTI_HD inline std::uint64_t share_of(std::uint64_t all, float top_p) {
  const std::uint64_t part = std::uint64_t(double(all) * double(top_p));
  return part < 1 ? 1 : part < all ? part : all;
}
SMALTI_HD inline std::uint32_t least_weight(float min_p) { return std::uint32_t(double(min_p) * double(whole_weight)); }

// A number in [0, all), all < 2^62, from 64 random bits.
SMALTI_HD inline std::uint64_t below(std::uint64_t all, std::uint32_t low, std::uint32_t high) {
  const std::uint64_t a = all & 0xffffffffu, b = all >> 32;
  const std::uint64_t first = a * low, second = a * high + (first >> 32), third = b * low + (second & 0xffffffffu);
  return b * high + (second >> 32) + (third >> 32);
}

// The random numbers of a row: its own for the running sum, one for each token for Gumbel noise.
SMALTI_HD inline policy::four<std::uint32_t> random_of(std::uint64_t seed, const sampling& s, std::uint32_t block) {
  return policy::random_stream{seed, s.stream}.block(std::uint64_t(s.position) << 32 | (mutant(defect::sample_repeats_noise) ? 0 : block));
}
constexpr std::uint32_t row_block = 0xffffffffu;         // tokens use blocks from 0

// What a search of the order ends with: elements above `key` are kept, and the first `equal` of those at it.
struct sample_cut {
  std::uint32_t key = 0;
  std::uint64_t equal = ~std::uint64_t(0);
};

}  // namespace detail

}  // namespace smalti::inline SMALTI_CODE::prim
