// Allocators of a cache budget: how many tokens each track may keep, in whole numbers that conserve the total.
//
// All run on the host. A track is a list of pages of its own: one head of one layer, or what several of them share.
#pragma once
#include <concepts>
#include <type_traits>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>
#include <smalti/policy/cache/apportion.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! What an allocator divides. Tracks of a layer follow one another: track = layer * heads + head.
struct cache_demand {
  int layers = 0, heads = 0;
  int base = 0;                          //!< tokens for each track on average, the protected ones not counted
  const int* candidates = nullptr;       //!< [track] tokens that may stay or go: no track gets more
  const int* lengths = nullptr;          //!< [track] tokens
  const float* scores = nullptr;         //!< [track][score_stride] of each token; only for allocators that read scores
  long long score_stride = 0;
  const int* won = nullptr;              //!< [track] how many of the layer's best candidates are the track's; only for those that compete
  double* weights = nullptr;             //!< scratch: 2 tracks
  int* caps = nullptr;                   //!< scratch: 2 layers
  int tracks() const { return layers * heads; }
  //! The total of some tracks is what they can take of `base` each.
  long long total(int first, int count) const {
    long long room = 0;
    for (int t = first; t < first + count; ++t) room += candidates[t];
    const long long wanted = static_cast<long long>(base) * count;
    return wanted < room ? wanted : room;
  }
};

namespace detail {
// The same number for every head of a layer; layers in proportion to d.weights[layer], those at or past [first, last) whole.
inline void by_layer(const cache_demand& d, int first, int last, int* out) {
  int* parts = d.caps + d.layers;
  for (int l = first; l < last; ++l) {
    int most = 0;
    for (int h = 0; h < d.heads; ++h) most = d.candidates[l * d.heads + h] > most ? d.candidates[l * d.heads + h] : most;
    d.caps[l] = most;
  }
  if (last > first) apportion(d.weights + first, d.caps + first, last - first, static_cast<long long>(d.base) * (last - first), parts + first);
  for (int l = 0; l < d.layers; ++l)
    for (int h = 0; h < d.heads; ++h) {
      const int t = l * d.heads + h;
      out[t] = l < first || l >= last || parts[l] > d.candidates[t] ? d.candidates[t] : parts[l];
    }
}
}  // namespace detail

//! The same for every track: min(base, candidates).
struct uniform {
  static constexpr bool reads_scores = false, competes = false;
  void budgets(const cache_demand& d, int* out) const {
    for (int t = 0; t < d.tracks(); ++t) out[t] = d.base < d.candidates[t] ? d.base : d.candidates[t];
  }
  constexpr status check() const { return {}; }
};

//! More for lower layers, in a straight line. PyramidKV: Cai et al. 2024, arXiv:2406.02069:
//!     least = base / beta, most = 2 base - least (at most the candidates, least = 2 base - most then),
//!     budget of layer l = most - l (most - least) / (layers - 1)
//! in whole parts by largest remainders, so that their sum is layers * base. beta 1, or one layer: uniform.
struct pyramid {
  int beta = 20;
  static constexpr bool reads_scores = false, competes = false;
  void budgets(const cache_demand& d, int* out) const {
    int room = 0;
    for (int t = 0; t < d.tracks(); ++t) room = d.candidates[t] > room ? d.candidates[t] : room;
    double least = double(d.base) / beta, most = 2.0 * d.base - least;
    if (most > room) most = room, least = 2.0 * d.base - most;
    for (int l = 0; l < d.layers; ++l) d.weights[l] = d.layers > 1 ? most - l * (most - least) / (d.layers - 1) : d.base;
    detail::by_layer(d, 0, d.layers, out);
  }
  constexpr status check() const { return beta >= 1 ? status{} : status{errc::bad_value, "pyramid.beta must be at least 1: the top layer gets a beta-th of the average", beta, 1}; }
};

//! More for layers whose attention is flat. D2O: Wan et al. 2024, arXiv:2406.13035. With v[h] the variance of a head's scores over its
//! tokens, f = mean over heads of (v[h] - least v) / (greatest v - least v + 1e-6) and weights softmax(-f) over layers. The first
//! `exempt_first` and last `exempt_last` layers keep everything: the total counts the others.
//! Two layers differ by at most a factor of e, if no cap binds.
struct variance_softmax {
  int exempt_first = 2, exempt_last = 1;
  static constexpr bool reads_scores = true, competes = false;
  void budgets(const cache_demand& d, int* out) const {
    const int first = exempt_first < d.layers ? exempt_first : d.layers, last = d.layers - exempt_last > first ? d.layers - exempt_last : first;
    double sum = 0;
    for (int l = first; l < last; ++l) sum += d.weights[l] = __builtin_exp(-concentration(d, l));
    for (int l = first; l < last; ++l) d.weights[l] /= sum;
    detail::by_layer(d, first, last, out);
  }
  constexpr status check() const {
    return exempt_first >= 0 && exempt_last >= 0 ? status{} : status{errc::bad_value, "variance_softmax: exempt_first and exempt_last must not be negative", exempt_first < exempt_last ? exempt_first : exempt_last, 0};
  }

private:
  static double concentration(const cache_demand& d, int l) {
    double* v = d.weights + d.tracks();
    double least = 0, most = 0, f = 0;
    for (int h = 0; h < d.heads; ++h) {
      const int t = l * d.heads + h, n = d.lengths[t];
      const float* s = d.scores + t * d.score_stride;
      double mean = 0, squares = 0;
      for (int j = 0; j < n; ++j) mean += s[j];
      mean = n > 0 ? mean / n : 0;
      for (int j = 0; j < n; ++j) squares += (s[j] - mean) * (s[j] - mean);
      v[h] = n > 0 ? squares / n : 0;
      least = h == 0 || v[h] < least ? v[h] : least, most = h == 0 || v[h] > most ? v[h] : most;
    }
    for (int h = 0; h < d.heads; ++h) f += (v[h] - least) / (most - least + 1e-6);
    return f / d.heads;
  }
};

//! More for layers whose information is spread. ActQKV's cut-off: with pi = softmax of a layer's scores and n of them,
//! density = 1 - H(pi) / log n (0 where n < 2) and weight 1 - density; every track gets one token before that.
//! The paper's method section was not at hand: these formulas are a reconstruction.
struct information_density {
  static constexpr bool reads_scores = true, competes = false;
  float scale = 1;      //!< what scores are multiplied by before their softmax: 1 / sqrt(head dim) where they are products of queries and keys
  void budgets(const cache_demand& d, int* out) const {
    for (int l = 0; l < d.layers; ++l) d.weights[l] = 1 - density(d, l);
    if (d.base < 1) return uniform{}.budgets(d, out);
    int* parts = d.caps + d.layers;
    long long total = 0;
    for (int l = 0; l < d.layers; ++l) {
      int most = 0;
      for (int h = 0; h < d.heads; ++h) most = d.candidates[l * d.heads + h] > most ? d.candidates[l * d.heads + h] : most;
      d.caps[l] = most > 0 ? most - 1 : 0;
      total += d.base - 1;
    }
    apportion(d.weights, d.caps, d.layers, total, parts);
    for (int t = 0; t < d.tracks(); ++t) out[t] = parts[t / d.heads] + 1 < d.candidates[t] ? parts[t / d.heads] + 1 : d.candidates[t];
  }
  constexpr status check() const { return scale > 0 && scale < 3e38f ? status{} : status{errc::bad_value, "allocator: scale must be positive and finite", 0, 0}; }
  //! 1 - H / log n of the softmax of a layer's scores, in [0, 1]; adding a constant to all of them changes nothing.
  double density(const cache_demand& d, int l) const {
    double most = -__builtin_inf(), sum = 0, weighted = 0;
    long long n = 0;
    for (int t = l * d.heads; t < (l + 1) * d.heads; ++t)
      for (int j = 0; j < d.lengths[t]; ++j, ++n) {
        const double s = double(scale) * d.scores[t * d.score_stride + j];
        most = s > most ? s : most;
      }
    if (n < 2) return 0;
    for (int t = l * d.heads; t < (l + 1) * d.heads; ++t)
      for (int j = 0; j < d.lengths[t]; ++j) {
        const double s = double(scale) * d.scores[t * d.score_stride + j] - most, e = __builtin_exp(s);
        sum += e, weighted += e * s;
      }
    const double entropy = __builtin_log(sum) - weighted / sum, density = 1 - entropy / __builtin_log(double(n));
    return density < 0 ? 0 : density > 1 ? 1 : density;
  }
};

//! Heads of a layer compete: the layer's best candidates of all heads together are counted, and each head gets its count, mixed with
//! an equal share. Ada-KV: Feng et al. 2024, arXiv:2407.11550. With k tokens a head from Layers, won[h] of the best heads * k:
//!     budget[h] = (1 - floor) won[h] + floor k, in whole parts whose sum is heads * k
//! floor 1: Layers alone. Layers = pyramid is Ada-PyramidKV.
template <class Layers = uniform>
struct head_adaptive {
  static_assert(!Layers::reads_scores && !Layers::competes, "smalti: the layers of head_adaptive are divided without scores: policy::uniform or policy::pyramid");
  double floor = 0.2;
  Layers layers{};
  static constexpr bool reads_scores = false, competes = true;
  //! What each track would get without competition: the layer's sum is what its heads compete for.
  void before(const cache_demand& d, int* out) const { layers.budgets(d, out); }
  //! @pre out holds what before() gave, d.won the counts of the best
  void budgets(const cache_demand& d, int* out) const {
    for (int l = 0; l < d.layers; ++l) {
      int* mine = out + l * d.heads;
      long long sum = 0;
      for (int h = 0; h < d.heads; ++h) {
        d.weights[h] = (1 - floor) * d.won[l * d.heads + h] + floor * mine[h];
        sum += mine[h];
      }
      apportion(d.weights, d.candidates + l * d.heads, d.heads, sum, mine);
    }
  }
  constexpr status check() const {
    return floor >= 0 && floor <= 1 ? layers.check() : status{errc::bad_value, "head_adaptive.floor must be within [0, 1]: the share of the budget that heads get alike", 0, 1};
  }
};

template <class A>
concept cache_allocator = std::is_trivially_copyable_v<A> && requires(const A a, const cache_demand& d, int* out) {
  { A::reads_scores } -> std::convertible_to<bool>;
  { A::competes } -> std::convertible_to<bool>;
  a.budgets(d, out);
  { a.check() } -> std::same_as<status>;
};

//! Why A is not an allocator, in one sentence.
template <class A> consteval bool explain_cache_allocator() {
  static_assert(requires(const A a, const cache_demand& d, int* out) { a.budgets(d, out); },
                "smalti: an allocator of a cache needs  void budgets(const policy::cache_demand&, int* out) const  that writes a budget for each track");
  static_assert(cache_allocator<A>, "smalti: an allocator of a cache needs static constexpr bool reads_scores and competes, and  status check() const: see policy::uniform");
  return cache_allocator<A>;
}

}  // namespace smalti::inline SMALTI_DATA::policy
