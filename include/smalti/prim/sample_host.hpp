// Sampling on the host: rows on threads, each with the keys and weights of its row in scratch memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <smalti/core/context.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/policy/scalar.hpp>
#include <smalti/prim/check.hpp>
#include <smalti/prim/host_loop.hpp>
#include <smalti/prim/order.hpp>
#include <smalti/prim/rows.hpp>
#include <smalti/prim/sample_rules.hpp>

namespace smalti::inline SMALTI_CODE::prim::detail {

struct sample_scratch {
  std::uint32_t* keys;            // the place of each logit in the order
  std::uint32_t* weights;
};
inline std::size_t sample_share(std::int64_t n) { return 2 * padded(std::size_t(n) * 4); }

// The cut that keeps `wanted` of measure(j), taken from the greatest key down: three histograms of eleven bits.
template <class Measure> sample_cut find_sample_cut(const std::uint32_t* keys, std::int64_t n, std::uint64_t wanted, Measure measure) {
  std::uint32_t prefix = 0, mask = 0;
  std::uint64_t above = 0;
  for (const int shift : {21, 10, 0}) {
    const int bits = shift == 0 ? 10 : 11;
    std::uint64_t bins[2048] = {};
    for (std::int64_t j = 0; j < n; ++j)
      if ((keys[j] & mask) == prefix) bins[keys[j] >> shift & ((1u << bits) - 1)] += measure(j);
    int digit = (1 << bits) - 1;
    while (digit > 0 && above + bins[digit] < wanted) above += bins[digit--];
    prefix |= std::uint32_t(digit) << shift;
    mask |= ((1u << bits) - 1) << shift;
  }
  return {prefix, wanted - above};           // `equal` still counts in the measure
}

// The weight of the elements at `key`: equal logits weigh the same.
inline std::uint64_t weight_at(const sample_scratch& scratch, std::int64_t n, std::uint32_t key) {
  for (std::int64_t j = 0; j < n; ++j)
    if (scratch.keys[j] == key) return scratch.weights[j];
  return 1;
}

template <class T> void sample_row(const row_span<T>& row, const sampling& s, draw how, std::uint64_t seed, sample_scratch scratch, std::int32_t& token, float& probability, float& score) {
  const std::int64_t n = row.size;
  float greatest = -__builtin_inff();
  std::int64_t best = -1;
  bool any_nan = false;
  for (std::int64_t j = 0; j < n; ++j) {
    const float logit = policy::scalar::widened(row.data[j]);
    any_nan |= logit != logit;
    if (logit > greatest || (mutant(defect::sample_takes_last_of_equals) && logit == greatest)) greatest = logit, best = j;
  }
  const row_rules rules(s, greatest, any_nan);
  token = -1, probability = 0, score = -__builtin_inff();
  if (!rules.valid) return;
  if (rules.greedy) {
    token = std::int32_t(best), probability = 1, score = greatest;
    return;
  }

  std::uint64_t all = 0;
  for (std::int64_t j = 0; j < n; ++j) {
    const float logit = policy::scalar::widened(row.data[j]);
    scratch.keys[j] = rank<order::largest>(logit);
    all += scratch.weights[j] = rules.weight(logit);
  }
  sample_cut cut;
  if (s.top_k > 0 && s.top_k < n) {
    cut = find_sample_cut(scratch.keys, n, std::uint64_t(s.top_k) + (mutant(defect::sample_top_k_one_more) ? 1 : 0), [](std::int64_t) { return 1; });
    all = 0;
    std::uint64_t ties = 0;
    for (std::int64_t j = 0; j < n; ++j)
      if (scratch.keys[j] > cut.key || (scratch.keys[j] == cut.key && ties++ < cut.equal)) all += scratch.weights[j];
  }
  if (s.top_p < 1) {
    const sample_cut part = find_sample_cut(scratch.keys, n, share_of(mutant(defect::sample_top_p_of_whole) ? whole_weight : all, s.top_p), [&](std::int64_t j) { return scratch.weights[j]; });
    const std::uint64_t one = weight_at(scratch, n, part.key);
    cut = {part.key, (part.equal + one - 1) / one};
  }
  const std::uint32_t least = least_weight(s.min_p);
  std::uint64_t kept = 0, ties = 0;
  for (std::int64_t j = 0; j < n; ++j)          // weights of what is left, zero elsewhere
    if (scratch.keys[j] < cut.key || (scratch.keys[j] == cut.key && ties++ >= cut.equal) || (scratch.weights[j] < least && !mutant(defect::sample_min_p_ignored))) scratch.weights[j] = 0;
    else kept += scratch.weights[j];

  std::int64_t chosen = -1;
  if (how == draw::cumulative) {
    const policy::four<std::uint32_t> random = random_of(seed, s, row_block);
    const std::uint64_t place = below(kept, random.v[0], random.v[1]);
    std::uint64_t sum = 0;
    for (chosen = 0; (sum += scratch.weights[chosen]) <= place;) ++chosen;
  } else {
    policy::four<std::uint32_t> random{};
    for (std::int64_t j = 0; j < n; ++j) {
      if (j % 4 == 0) random = random_of(seed, s, std::uint32_t(j / 4));
      if (scratch.weights[j] == 0) continue;
      const float noisy = rules.score(policy::scalar::widened(row.data[j]), random.v[j % 4]);
      if (chosen < 0 || noisy > score) score = noisy, chosen = j;
    }
  }
  token = std::int32_t(chosen);
  probability = float(double(scratch.weights[chosen]) / double(kept));
}

template <class Args> std::size_t sample_bytes(const host_context& context, const Args& x) {
  return sample_share(x.logits.cols) * std::size_t(workers(context, x.logits.rows));
}
template <class T, class Args> status sample_rows(const host_context& context, const Args& x, draw how, workspace memory) {
  const std::size_t share = sample_share(x.logits.cols);
  for_pieces(context, x.logits.rows, [&](std::int64_t r, int worker) {
    std::byte* base = memory.data + share * std::size_t(worker);
    const sample_scratch scratch{reinterpret_cast<std::uint32_t*>(base), reinterpret_cast<std::uint32_t*>(base + share / 2)};
    float probability, score;
    sample_row<T>(row_at(x.logits, int(r)), x.rows[r], how, x.seed, scratch, x.tokens[r], probability, score);
    if (x.probabilities != nullptr) x.probabilities[r] = probability;
    if (x.scores != nullptr) x.scores[r] = score;
  });
  return {};
}

}  // namespace smalti::inline SMALTI_CODE::prim::detail
