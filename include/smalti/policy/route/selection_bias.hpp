// Selection biases: what a router adds before it selects, and never to the weights. A bias is a small aggregate with
//     reads_row, reads_place, active            whether key() looks at `added`, at (token, expert), at anything
//     key(score, z, added, token, expert)       what is compared
//     data                                      with reads_row: what is added, an element for each expert
// over the machine's values. Random numbers come from a counter (token, expert, stream, step) under a seed: the same on every machine
// and in any order of work.
#pragma once
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/policy/philox.hpp>
#include <smalti/policy/route/scorer.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! The logits select.
struct no_bias {
  static constexpr bool active = false, reads_row = false, reads_place = false;
};

//! key = score + data[e]. The bias and the key are float: the biases of DeepSeek-V3 are greater than 2, where bf16 has steps of 1/64.
//! DeepSeek-V3, arXiv:2412.19437; LongCat-Flash, arXiv:2509.01322.
struct expert_bias {
  static constexpr bool active = true, reads_row = true, reads_place = false;
  const float* data = nullptr;
  template <class V, class A, class T, class E> SMALTI_HD V key(V score, V, A added, T, E) const { return score + added; }
  constexpr status check(const route_extent& e) const {
    if (e.experts > 0 && data == nullptr) return {errc::null_pointer, "expert_bias.data is null: it needs an element for each expert"};
    return {};
  }
};

//! Which random numbers: other streams (layers, replicas) and steps have others. first_token is added to a token's place.
struct noise_stream {
  std::uint64_t seed = 0;
  int stream = 0, step = 0, first_token = 0;
  //! Two numbers in (0, 1), odd multiples of 2^-25: neither 0 nor 1.
  template <class T> struct pair { T first, second; };
  template <class T, class E> SMALTI_HD auto uniforms(T token, E expert) const {
    using namespace scalar;
    const four<T> bits = philox<T>({{token + first_token, expert, token * 0 + stream, token * 0 + step}}, seed);
    const auto a = (to_float((bits.v[0] >> 8) & 0x7fffff) + 0.5f) * 0x1p-23f, b = (to_float((bits.v[1] >> 8) & 0x7fffff) + 0.5f) * 0x1p-23f;
    return pair<decltype(a * b)>{a, b};
  }
};

//! key = z + deviation N(0, 1) / experts: exploration while training. Tutel (Hwang et al. 2022, arXiv:2206.03382) also weighs with what
//! the noise gave; here it only selects.
struct gaussian_bias {
  static constexpr bool active = true, reads_row = false, reads_place = true;
  float deviation = 1;
  int experts = 1;                                //!< the deviation is divided by it
  noise_stream noise{};
  template <class V, class A, class T, class E> SMALTI_HD V key(V, V z, A, T token, E expert) const {
    const auto u = noise.uniforms(token, expert);
    return z + sqrt(log2(u.first) * -1.3862943611198906f) * cos(u.second * 6.283185307179586f) * (deviation / float(experts));
  }
  constexpr status check(const route_extent&) const {
    if (!(deviation >= 0)) return {errc::bad_value, "gaussian_bias.deviation must not be negative"};
    if (experts < 1) return {errc::bad_value, "gaussian_bias.experts must be at least 1", experts, 1};
    return {};
  }
};

//! key = z + temperature G, G = -ln(-ln U). At temperature 1 the k greatest are k draws without replacement from softmax(z)
//! (Gumbel top-k, Kool et al. 2019, arXiv:1903.06059); at 0 the logits select. RoE, arXiv:2509.17238: a temperature for each layer,
//! a stream for each replica.
struct gumbel_bias {
  static constexpr bool active = true, reads_row = false, reads_place = true;
  float temperature = 1;
  noise_stream noise{};
  template <class V, class A, class T, class E> SMALTI_HD V key(V, V z, A, T token, E expert) const {
    const auto u = noise.uniforms(token, expert);
    return z - log2(log2(u.first) * -0.6931471805599453f) * (0.6931471805599453f * temperature);
  }
  constexpr status check(const route_extent&) const {
    if (!(temperature >= 0)) return {errc::bad_value, "gumbel_bias.temperature must not be negative"};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
