// Select-k of one row on the processor.
//
// A long row is sampled; the sample gives a rank that, with a margin of three standard deviations, at least k
// elements reach. One pass gathers those (rank, index) pairs, in the order of the row. Among the gathered, and in
// short rows among all, the k-th rank is found by bisection, which is a few dozen branch-free counts over the
// first-level cache. Ties go to the lower index because every pass keeps the row's order. Where the sample misleads
// (too few or too many gathered: heavy ties, adversarial rows) a radix histogram over the whole row finds the k-th
// rank exactly, at one read of the row per 8 bits. Every way ends with the same selection.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <smalti/core/workspace.hpp>
#include <smalti/prim/host_loop.hpp>
#include <smalti/prim/order.hpp>
#include <smalti/prim/rows.hpp>
#include <smalti/tile/mutant.hpp>
#if SMALTI_DOT_LEVEL >= 2
#  include <immintrin.h>
#endif

namespace smalti::inline SMALTI_CODE::prim::detail {

constexpr int whole_row = 2048;          // rows up to this length are not sampled
constexpr int greatest_sample = 8192;
constexpr int overhang = 96;             // a group of four vectors, and one vector, may be stored past the capacity

// One worker's scratch: gathered pairs, and two arrays of composites for the final sort.
struct select_scratch {
  std::uint32_t* rank = nullptr;
  std::int32_t* index = nullptr;
  std::uint64_t* pair = nullptr;
  std::uint64_t* other = nullptr;
  int capacity = 0;
  std::size_t bytes = 0;
};
inline select_scratch lay_out_select(std::byte* base, std::int64_t longest, int k) {
  const int capacity = int(std::min<std::int64_t>(longest, std::max<std::int64_t>(4 * std::int64_t(k), greatest_sample)));
  carver c{base};
  select_scratch s;
  s.rank = c.take<std::uint32_t>(std::size_t(capacity) + overhang);
  s.index = c.take<std::int32_t>(std::size_t(capacity) + overhang);
  s.pair = c.take<std::uint64_t>(std::size_t(k));
  s.other = c.take<std::uint64_t>(std::size_t(k));
  s.capacity = capacity;
  s.bytes = c.used;
  return s;
}

#if SMALTI_DOT_LEVEL >= 2
// A full mask: g++ 12 warns of an uninitialised value inside its own unmasked forms.
constexpr __mmask16 everywhere = 0xffff;
#endif

// Ranks by position: of a row's elements, or stored ones.
template <class T, order Order> struct row_ranks {
  const T* row;
  std::uint32_t operator[](std::int64_t i) const { return rank<Order>(row[i]); }
#if SMALTI_DOT_LEVEL >= 2
  // rank() of sixteen elements.
  __m512i sixteen(std::int64_t i) const {
    using e = element_bits<T>;
    __m512i s;
    if constexpr (sizeof(T) == 4) s = _mm512_loadu_si512(row + i);
    else s = _mm512_maskz_cvtepi16_epi32(everywhere, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + i)));
    if constexpr (e::floating) {
      s = _mm512_xor_si512(s, _mm512_and_si512(_mm512_maskz_srai_epi32(everywhere, s, 31), _mm512_set1_epi32(e::fold)));
      s = _mm512_mask_mov_epi32(s, _mm512_cmpeq_epi32_mask(s, _mm512_set1_epi32(-1)), _mm512_setzero_si512());
    }
    // The 1 of floating types is added before the test, so that NaN, which wraps past both ends, fails it.
    const __m512i u = Order == order::largest ? _mm512_sub_epi32(s, _mm512_set1_epi32(~std::int32_t(e::infinity) - (e::floating ? 1 : 0)))
                                              : _mm512_sub_epi32(_mm512_set1_epi32(std::int32_t(e::infinity) + (e::floating ? 1 : 0)), s);
    if constexpr (!e::floating) return u;
    return _mm512_maskz_mov_epi32(_mm512_cmple_epu32_mask(u, _mm512_set1_epi32(int(last_rank<T>))), u);
  }
#endif
};
struct stored_ranks {
  const std::uint32_t* data;
  std::uint32_t operator[](std::int64_t i) const { return data[i]; }
#if SMALTI_DOT_LEVEL >= 2
  __m512i sixteen(std::int64_t i) const { return _mm512_loadu_si512(data + i); }
#endif
};

template <class Ranks> void store_ranks(const Ranks& ranks, int n, std::uint32_t* to) {
  int i = 0;
#if SMALTI_DOT_LEVEL >= 2
  for (; i + 16 <= n; i += 16) _mm512_storeu_si512(to + i, ranks.sixteen(i));
#endif
  for (; i < n; ++i) to[i] = ranks[i];
}

inline int count_at_least(const std::uint32_t* ranks, int n, std::uint32_t threshold) {
  int i = 0, count = 0;
#if SMALTI_DOT_LEVEL >= 2
  const __m512i t = _mm512_set1_epi32(int(threshold)), one = _mm512_set1_epi32(1);
  __m512i a = _mm512_setzero_si512(), b = a;
  for (; i + 32 <= n; i += 32) {
    a = _mm512_mask_add_epi32(a, _mm512_cmpge_epu32_mask(_mm512_loadu_si512(ranks + i), t), a, one);
    b = _mm512_mask_add_epi32(b, _mm512_cmpge_epu32_mask(_mm512_loadu_si512(ranks + i + 16), t), b, one);
  }
  std::int32_t lanes[16];
  _mm512_storeu_si512(lanes, _mm512_add_epi32(a, b));
  for (const std::int32_t lane : lanes) count += lane;
#endif
  for (; i < n; ++i) count += ranks[i] >= threshold;
  return count;
}

// The k best are those with rank > pivot and the first `equal` of those with rank == pivot.
struct cut {
  std::uint32_t pivot;
  std::int64_t equal;
  // The least rank among the selected.
  std::uint32_t threshold() const { return equal > 0 ? pivot : pivot + 1; }
};

// The cut of n stored ranks; 0 < k <= n.
inline cut find_cut(const std::uint32_t* ranks, int n, int k) {
  if (k == n) return {0, n};
  std::uint32_t low = ranks[0], high = ranks[0];
  int i = 0;
#if SMALTI_DOT_LEVEL >= 2
  __m512i least = _mm512_set1_epi32(int(low)), most = least;
  for (; i + 16 <= n; i += 16) {
    const __m512i r = _mm512_loadu_si512(ranks + i);
    least = _mm512_maskz_min_epu32(everywhere, least, r);
    most = _mm512_maskz_max_epu32(everywhere, most, r);
  }
  std::uint32_t lows[16], highs[16];
  _mm512_storeu_si512(lows, least);
  _mm512_storeu_si512(highs, most);
  for (int lane = 0; lane < 16; ++lane) low = std::min(low, lows[lane]), high = std::max(high, highs[lane]);
#endif
  for (; i < n; ++i) {
    low = ranks[i] < low ? ranks[i] : low;
    high = ranks[i] > high ? ranks[i] : high;
  }
  int above = 0;                                   // ranks greater than high
  while (low < high) {                             // at least k ranks reach low, fewer than k exceed high
    const std::uint32_t middle = low + (high - low) / 2 + 1;
    const int count = count_at_least(ranks, n, middle);
    if (count == k) return {middle - 1, 0};
    if (count > k) low = middle;
    else high = middle - 1, above = count;
  }
  return {low, k - above + (mutant(defect::cut_takes_one_tie_more) ? 1 : 0)};
}

// The cut of a whole row by radix histograms, from the most significant digit down; 0 < k <= n.
template <class T, order Order> cut find_cut_by_radix(const T* row, std::int64_t n, std::int64_t k) {
  std::uint32_t prefix = 0, mask = 0;
  for (int shift = rank_bits<T> - 8; shift >= 0; shift -= 8) {
    std::int64_t bins[4][256] = {};                // four copies: equal neighbours do not wait for each other
    for (std::int64_t i = 0; i < n; ++i) {
      const std::uint32_t r = rank<Order>(row[i]);
      bins[i & 3][(r >> shift) & 255] += (r & mask) == prefix;
    }
    int digit = 255;
    for (;; --digit) {
      const std::int64_t here = bins[0][digit] + bins[1][digit] + bins[2][digit] + bins[3][digit];
      if (here >= k) break;
      k -= mutant(defect::radix_forgets_better_bins) ? 0 : here;
    }
    prefix |= std::uint32_t(digit) << shift;
    mask |= std::uint32_t(255) << shift;
  }
  return {prefix, k};
}

// Gathers (rank, index) of the elements whose rank reaches the threshold, in the order of the row, and returns how many;
// more than the capacity means that it gave up.
template <class T, order Order>
int gather_at_least(const T* row, std::int64_t n, std::uint32_t threshold, std::uint32_t* to_rank, std::int32_t* to_index, int capacity) {
  const row_ranks<T, Order> ranks{row};
  std::int64_t i = 0;
  int count = 0;
#if SMALTI_DOT_LEVEL >= 2
  const __m512i t = _mm512_set1_epi32(int(threshold));
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (; i + 64 <= n; i += 64) {
    __m512i r[4];
    __mmask16 m[4];
    for (int v = 0; v < 4; ++v) {
      r[v] = ranks.sixteen(i + 16 * v);
      m[v] = _mm512_cmpge_epu32_mask(r[v], t);
    }
    if ((m[0] | m[1] | m[2] | m[3]) == 0) continue;
    // A branch a vector would be guessed wrong half the time; compressing to a register and storing it whole is
    // faster than a compressing store.
    for (int v = 0; v < 4; ++v) {
      _mm512_storeu_si512(to_rank + count, _mm512_maskz_compress_epi32(m[v], r[v]));
      _mm512_storeu_si512(to_index + count, _mm512_maskz_compress_epi32(m[v], _mm512_add_epi32(lane, _mm512_set1_epi32(int(i) + 16 * v))));
      count += __builtin_popcount(m[v]);
    }
    if (count > capacity) return count;
  }
#endif
  for (; i < n; ++i) {
    const std::uint32_t r = ranks[i];
    to_rank[count] = r;
    to_index[count] = std::int32_t(i);
    count += r >= threshold;
    if (count > capacity) return count;
  }
  return count;
}

// The selected positions and their ranks, in order; `place` maps positions to indices, null for the identity. Outputs
// may lie on the inputs: what is written has been read.
template <class Ranks>
void collect(const Ranks& ranks, const std::int32_t* place, std::int64_t n, const cut& c, int k, std::uint32_t* to_rank, std::int32_t* to_index) {
  std::int64_t i = 0, equal = c.equal - (mutant(defect::tie_lost) ? 1 : 0);
  int count = 0;
#if SMALTI_DOT_LEVEL >= 2
  const __m512i p = _mm512_set1_epi32(int(c.pivot));
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (; i + 16 <= n && count < k; i += 16) {
    const __m512i r = ranks.sixteen(i);
    unsigned m = _mm512_cmpgt_epu32_mask(r, p);
    unsigned ties = _mm512_cmpeq_epi32_mask(r, p);
    for (; ties != 0 && equal > 0; --equal, ties &= ties - 1) m |= ties & (0u - ties);
    if (m == 0) continue;
    const __m512i at = place != nullptr ? _mm512_loadu_si512(place + i) : _mm512_add_epi32(lane, _mm512_set1_epi32(int(i)));
    _mm512_storeu_si512(to_rank + count, _mm512_maskz_compress_epi32(__mmask16(m), r));
    _mm512_storeu_si512(to_index + count, _mm512_maskz_compress_epi32(__mmask16(m), at));
    count += __builtin_popcount(m);
  }
#endif
  for (; i < n && count < k; ++i) {
    const std::uint32_t r = ranks[i];
    const bool tie = r == c.pivot && equal > 0;
    if (!tie && r <= c.pivot) continue;
    equal -= tie;
    to_index[count] = place != nullptr ? place[i] : std::int32_t(i);
    to_rank[count++] = r;
  }
}

// Sorts composites (complement of rank, index), which come in the order of their indices. Stable, so only the
// upper halves are looked at. Returns where the result is.
inline std::uint64_t* sort_pairs(std::uint64_t* pair, std::uint64_t* other, int n) {
  if (n <= 128) {
    std::sort(pair, pair + n);
    return pair;
  }
  int bins[4][256] = {};
  for (int i = 0; i < n; ++i)
    for (int d = 0; d < 4; ++d) ++bins[d][(pair[i] >> (32 + 8 * d)) & 255];
  for (int d = 0; d < 4; ++d) {
    const int shift = 32 + 8 * d;
    if (bins[d][(pair[0] >> shift) & 255] == n) continue;
    int sum = 0;
    for (int& bin : bins[d]) {
      const int here = bin;
      bin = sum;
      sum += here;
    }
    for (int i = 0; i < n; ++i) other[bins[d][(pair[i] >> shift) & 255]++] = pair[i];
    std::swap(pair, other);
  }
  return pair;
}

// A rank that about k elements of the row, and with great probability at least k, reach.
template <class T, order Order> std::uint32_t likely_threshold(const T* row, std::int64_t n, int k, std::uint32_t* sample) {
  const int size = int(std::clamp<std::int64_t>(n / 256, 512, greatest_sample));
  const std::uint64_t stride = std::uint64_t(n / size);
  // The places are scattered inside their strides, so that a period of the row does not hide its greatest elements.
  for (int i = 0; i < size; ++i)
    sample[i] = rank<Order>(row[std::uint64_t(i) * stride + (std::uint64_t(std::uint32_t(i) * 2654435761u) * stride >> 32)]);
  const double mean = double(k) * size / double(n);
  const int place = int(std::min<double>(std::min(k, size), std::ceil(mean + 3 * std::sqrt(mean) + 2)));
  return find_cut(sample, size, place).threshold();
}

//! Fills s.rank and s.index with the k best of a row, in the order of their indices; 0 < k <= n.
template <class T, order Order> void select_row(const T* row, std::int64_t n, int k, const select_scratch& s) {
  const row_ranks<T, Order> ranks{row};
  if (n <= whole_row || 2 * std::int64_t(k) > n) {
    store_ranks(ranks, int(n), s.rank);
    collect(stored_ranks{s.rank}, nullptr, n, find_cut(s.rank, int(n), k), k, s.rank, s.index);
    return;
  }
  const std::uint32_t threshold = likely_threshold<T, Order>(row, n, k, s.rank);
  const int found = gather_at_least<T, Order>(row, n, threshold, s.rank, s.index, s.capacity);
  if ((found >= k || mutant(defect::too_few_gathered_accepted)) && found <= s.capacity) {
    collect(stored_ranks{s.rank}, s.index, found, find_cut(s.rank, found, k), k, s.rank, s.index);
    return;
  }
  collect(ranks, nullptr, n, find_cut_by_radix<T, Order>(row, n, k), k, s.rank, s.index);
}

template <class Args> std::size_t share_of(const Args& x) { return padded(lay_out_select(nullptr, longest_row(x.rows), x.k).bytes); }

template <class Args> std::size_t select_bytes(const host_context& context, const Args& x) {
  return std::size_t(workers(context, row_count(x.rows))) * share_of(x);
}

// One row into row r of the outputs.
template <class T, order Order, class Args> void select_into(const Args& x, int r, const select_scratch& s) {
  const row_span<T> row = row_at(x.rows, r);
  const int own = x.row_k == nullptr ? x.k : std::clamp(x.row_k[r], 0, x.k), found = int(std::min<std::int64_t>(row.size, own));
  if (found > 0) select_row<T, Order>(row.data, row.size, found, s);
  if (x.arranged == arrangement::best_first && found > 1 && !mutant(defect::selection_not_sorted)) {
    for (int j = 0; j < found; ++j) s.pair[j] = std::uint64_t(~s.rank[j]) << 32 | std::uint32_t(s.index[j]);
    const std::uint64_t* sorted = sort_pairs(s.pair, s.other, found);
    for (int j = 0; j < found; ++j) s.index[j] = std::int32_t(sorted[j]);
  }
  if (x.values.data != nullptr) {
    T* to = x.values.data + std::int64_t(r) * x.values.stride;
    for (int j = 0; j < found; ++j) to[j] = row.data[s.index[j]];
    for (int j = mutant(defect::short_row_not_filled) ? x.k : found; j < x.k; ++j) to[j] = x.fill;
  }
  if (x.indices.data != nullptr) {
    std::int32_t* to = x.indices.data + std::int64_t(r) * x.indices.stride;
    for (int j = 0; j < found; ++j) to[j] = s.index[j];
    for (int j = found; j < x.k; ++j) to[j] = -1;
  }
}

template <class T, order Order, class Args> status select_rows(const host_context& context, const Args& x, workspace scratch) {
  const std::size_t share = share_of(x);
  for_pieces(context, row_count(x.rows), [&](std::int64_t r, int worker) {
    select_into<T, Order>(x, int(r), lay_out_select(scratch.data + std::size_t(worker) * share, longest_row(x.rows), x.k));
  });
  return {};
}

}  // namespace smalti::inline SMALTI_CODE::prim::detail
