// Sampling on a GPU: one block a row, which reads the row once for the greatest logit, four times for each truncation by
// count or share, and twice to draw. Weights are integers and are summed by integer atomics, so that the token does not
// depend on which thread comes first.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/core/cuda_context.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/policy/scalar.hpp>
#include <smalti/prim/block_scan.cuh>
#include <smalti/prim/order.hpp>
#include <smalti/prim/rows.hpp>
#include <smalti/prim/sample_rules.hpp>

namespace smalti::inline SMALTI_CODE::prim::detail {

constexpr int sample_threads = 512;

struct sample_memory {
  unsigned long long bins[256];
  unsigned long long best;            // key and, so that the lowest wins, the complement of the index
  unsigned long long sum, left;
  int digit, nan;
  block_scan_memory<unsigned long long, sample_threads> scan;
};

template <class T> struct sample_output {
  const sampling* rows;
  std::int32_t* tokens;
  float *probabilities, *scores;
  std::uint64_t seed;
  draw how;
};

// The cut that keeps `wanted` of measure(logit), taken from the greatest key down.
template <class T, class Measure>
__device__ sample_cut find_sample_cut(const row_span<T>& row, unsigned long long wanted, Measure measure, sample_memory& memory) {
  const int thread = int(threadIdx.x);
  std::uint32_t prefix = 0, mask = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (thread < 256) memory.bins[thread] = 0;
    __syncthreads();
    for (long long j = thread; j < row.size; j += sample_threads) {
      const float logit = policy::scalar::widened(row.data[j]);
      const std::uint32_t key = rank<order::largest>(logit);
      if ((key & mask) == prefix)
        if (const unsigned long long more = measure(logit); more != 0) atomicAdd(&memory.bins[key >> shift & 255], more);
    }
    __syncthreads();
    const unsigned long long here = thread < 256 ? memory.bins[255 - thread] : 0;
    unsigned long long total = 0;
    const unsigned long long before = block_scan(here, total, memory.scan);
    if (thread < 256 && before < wanted && (wanted <= before + here || thread == 255)) {
      memory.digit = 255 - thread;
      memory.left = wanted - before;
    }
    __syncthreads();
    prefix |= std::uint32_t(memory.digit) << shift;
    mask |= std::uint32_t(255) << shift;
    wanted = memory.left;
    __syncthreads();
  }
  return {prefix, wanted};
}

// Visits the row in rising index, a run of elements for each thread: visit(index, logit, key, kept). Ties at the cut are
// counted over the block, so that the lowest indices stay.
template <class T, class Visit> __device__ void visit_kept(const row_span<T>& row, const sample_cut& cut, sample_memory& memory, Visit visit) {
  unsigned long long ties = 0;
  for (long long start = 0; start < row.size; start += sample_threads) {
    const long long j = start + threadIdx.x;
    const float logit = j < row.size ? policy::scalar::widened(row.data[j]) : 0;
    const std::uint32_t key = j < row.size ? rank<order::largest>(logit) : 0;
    unsigned long long all = 0;
    const unsigned long long before = ties + block_scan<unsigned long long>(j < row.size && key == cut.key ? 1 : 0, all, memory.scan);
    ties += all;
    const bool kept = j < row.size && (key > cut.key || (key == cut.key && before < cut.equal));
    if (visit(j, logit, kept)) return;          // the same answer in every thread
  }
}

template <class T> __global__ void __launch_bounds__(sample_threads) sample_kernel(view<const T, 1> logits, sample_output<T> to) {
  __shared__ sample_memory memory;
  const int thread = int(threadIdx.x), r = int(blockIdx.x);
  const row_span<T> row = row_at(logits, r);
  const sampling s = to.rows[r];
  if (thread == 0) memory.best = 0, memory.nan = 0, memory.sum = 0;
  __syncthreads();
  unsigned long long mine = 0;
  int nan = 0;
  for (long long j = thread; j < row.size; j += sample_threads) {
    const float logit = policy::scalar::widened(row.data[j]);
    nan |= logit != logit;
    const unsigned long long candidate = static_cast<unsigned long long>(rank<order::largest>(logit)) << 32 | ~std::uint32_t(j);
    mine = candidate > mine ? candidate : mine;
  }
  atomicMax(&memory.best, mine);
  if (nan) memory.nan = 1;
  __syncthreads();
  const auto best = static_cast<std::int32_t>(~static_cast<std::uint32_t>(memory.best));
  const float greatest = memory.best >> 32 != 0 ? policy::scalar::widened(row.data[best]) : -__builtin_inff();
  const row_rules rules(s, greatest, memory.nan != 0);

  std::int32_t token = -1;
  float probability = 0, score = -__builtin_inff();
  if (rules.valid && rules.greedy) {
    token = best, probability = 1, score = greatest;
  } else if (rules.valid) {
    const auto sum_kept = [&](const sample_cut& cut, std::uint32_t least) {
      unsigned long long part = 0;
      visit_kept(row, cut, memory, [&](long long, float logit, bool kept) {
        const std::uint32_t weight = kept ? rules.weight(logit) : 0;
        part += weight >= least ? weight : 0;
        return false;
      });
      unsigned long long all = 0;
      block_scan(part, all, memory.scan);
      return all;
    };
    sample_cut cut;
    if (s.top_k > 0 && s.top_k < row.size) cut = find_sample_cut(row, s.top_k, [](float) { return 1ull; }, memory);
    if (s.top_p < 1) {
      const sample_cut part = find_sample_cut(row, share_of(sum_kept(cut, 0), s.top_p), [&](float logit) { return static_cast<unsigned long long>(rules.weight(logit)); }, memory);
      visit_kept(row, part, memory, [&](long long j, float logit, bool) {
        if (j < row.size && rank<order::largest>(logit) == part.key) memory.sum = rules.weight(logit);     // all that write, write the same
        return false;
      });
      __syncthreads();
      const unsigned long long one = memory.sum > 0 ? memory.sum : 1;
      cut = {part.key, (part.equal + one - 1) / one};
    }
    const std::uint32_t least = least_weight(s.min_p);
    const unsigned long long kept_weight = sum_kept(cut, least);

    if (thread == 0) memory.best = 0;
    __syncthreads();
    if (to.how == draw::cumulative) {
      const policy::four<std::uint32_t> random = random_of(to.seed, s, row_block);
      const unsigned long long place = below(kept_weight, random.v[0], random.v[1]);
      unsigned long long sum = 0;
      visit_kept(row, cut, memory, [&](long long j, float logit, bool kept) {
        const std::uint32_t w = kept ? rules.weight(logit) : 0, weight = w >= least ? w : 0;
        unsigned long long all = 0;
        const unsigned long long before = sum + block_scan<unsigned long long>(weight, all, memory.scan);
        if (weight != 0 && before <= place && place < before + weight) memory.best = static_cast<unsigned long long>(j) + 1;
        sum += all;
        return sum > place;
      });
      __syncthreads();
      token = static_cast<std::int32_t>(memory.best - 1);
    } else {
      unsigned long long greatest_score = 0;
      visit_kept(row, cut, memory, [&](long long j, float logit, bool kept) {
        const std::uint32_t weight = kept ? rules.weight(logit) : 0;
        if (weight == 0 || weight < least) return false;
        const float noisy = rules.score(logit, random_of(to.seed, s, static_cast<std::uint32_t>(j / 4)).v[j % 4]);
        const unsigned long long candidate = static_cast<unsigned long long>(rank<order::largest>(noisy)) << 32 | ~static_cast<std::uint32_t>(j);
        greatest_score = candidate > greatest_score ? candidate : greatest_score;
        return false;
      });
      atomicMax(&memory.best, greatest_score);
      __syncthreads();
      token = static_cast<std::int32_t>(~static_cast<std::uint32_t>(memory.best));
      score = rules.score(policy::scalar::widened(row.data[token]), random_of(to.seed, s, static_cast<std::uint32_t>(token / 4)).v[token % 4]);
    }
    probability = static_cast<float>(double(rules.weight(policy::scalar::widened(row.data[token]))) / double(kept_weight));
  }
  if (thread == 0) {
    to.tokens[r] = token;
    if (to.probabilities != nullptr) to.probabilities[r] = probability;
    if (to.scores != nullptr) to.scores[r] = score;
  }
}

template <class Args> std::size_t sample_bytes(const cuda_context&, const Args&) { return 0; }

template <class T, class Args> status sample_rows(const cuda_context& context, const Args& x, draw how, workspace) {
  const device_guard guard(context);
  if (!guard.entered) return guard.entered;
  sample_kernel<T><<<unsigned(x.logits.rows), sample_threads, 0, context.stream>>>(x.logits, sample_output<T>{x.rows, x.tokens, x.probabilities, x.scores, x.seed, how});
  return status_of(cudaGetLastError(), "sample's kernel could not be launched");
}

}  // namespace smalti::inline SMALTI_CODE::prim::detail
