// KIVI, MiKV and HiRED by their papers' definitions, token by token: which tokens are where, and what attention reads of them. Numbers that lose
// bits are rounded here, in double. Shares no code with the library.
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace oracle {

// The nearest number of so many binary digits, ties to even, above the smallest normal number 2^(least - 1).
inline float in_digits(double x, int digits, int least) {
  int exponent = 0;
  std::frexp(x, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent, least) - digits);
  return x == 0 ? 0.0f : float(std::nearbyint(x / unit) * unit);
}
inline float as_fp16(double x) { return in_digits(x, 11, -13); }
inline float as_bf16(double x) { return in_digits(x, 8, -125); }

//! Affine codes of a group: scale (largest - least) / (2^bits - 1) and the least as fp16, the nearest of 2^bits codes; what is multiplied afterwards.
inline std::vector<float> through_codes(const std::vector<float>& group, int bits) {
  const auto [low, high] = std::minmax_element(group.begin(), group.end());
  const float most = float((1 << bits) - 1), scale = as_fp16((*high - *low) / most), least = as_fp16(*low);
  std::vector<float> out;
  for (const float x : group) {
    const float code = scale > 0 ? std::nearbyint(std::min(std::max((x - least) / scale, 0.0f), most)) : 0.0f;
    out.push_back(as_bf16(std::fma(code, scale, least)));
  }
  return out;
}

using rows_of_floats = std::vector<std::vector<float>>;      // [token][channel] of one head
//! A number's row through codes in groups of its channels.
inline std::vector<float> token_through_codes(const std::vector<float>& row, int bits, int group) {
  std::vector<float> out;
  for (std::size_t c = 0; c < row.size(); c += std::size_t(group)) {
    const auto part = through_codes({row.begin() + std::ptrdiff_t(c), row.begin() + std::ptrdiff_t(c) + group}, bits);
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

// ---- KIVI: Liu et al. 2024, arXiv:2402.02750.
//! How many keys and values are codes, of n tokens of which `first` came at once: whole windows of the first keys, later each window once it is full and
//! another key comes; all values but the newest window of them.
struct kivi_lengths { int keys, values; };
inline kivi_lengths kivi_coded(int first, int n, int residual) {
  int keys = first - first % residual;
  for (int t = first; t < n; ++t)
    if (t - keys == residual) keys = t;
  return {keys, std::max(0, n - residual)};
}
//! Keys lose bits by channel, in groups of tokens; values by token, in groups of channels.
inline rows_of_floats kivi_keys(rows_of_floats keys, int coded, int bits, int group) {
  for (int j = 0; j < coded; j += group)
    for (std::size_t c = 0; c < keys[0].size(); ++c) {
      std::vector<float> of;
      for (int i = 0; i < group; ++i) of.push_back(keys[std::size_t(j + i)][c]);
      of = through_codes(of, bits);
      for (int i = 0; i < group; ++i) keys[std::size_t(j + i)][c] = of[std::size_t(i)];
    }
  return keys;
}
inline rows_of_floats kivi_values(rows_of_floats values, int coded, int bits, int group) {
  for (int j = 0; j < coded; ++j) values[std::size_t(j)] = token_through_codes(values[std::size_t(j)], bits, group);
  return values;
}

// ---- MiKV: Yang et al. 2024, arXiv:2402.18096.
//! The tokens of a prompt that stay as they are, ascending: sinks, the newest, and of the others those of the greatest importance; of equals the newer.
inline std::vector<int> mikv_important(const std::vector<double>& importance, int budget, int sinks, int recent) {
  const int n = int(importance.size());
  std::vector<int> stay, rest;
  for (int t = 0; t < n; ++t) (n <= budget || t < sinks || t >= n - recent ? stay : rest).push_back(t);
  std::sort(rest.begin(), rest.end(), [&](int a, int b) { return importance[std::size_t(a)] != importance[std::size_t(b)] ? importance[std::size_t(a)] > importance[std::size_t(b)] : a > b; });
  for (std::size_t i = 0; int(stay.size()) < std::min(n, budget); ++i) stay.push_back(rest[i]);
  std::sort(stay.begin(), stay.end());
  return stay;
}
//! Whose place the token at position n takes, once the budget is full: the least important that neither sinks nor the newest protect; of equals the older.
inline int mikv_least(const std::vector<int>& members, const std::vector<double>& importance, int n, int sinks, int recent) {
  int least = -1;
  for (int m = 0; m < int(members.size()); ++m) {
    const int at = members[std::size_t(m)];
    if (at < sinks || at >= n + 1 - recent) continue;
    if (least < 0 || importance[std::size_t(m)] < importance[std::size_t(least)] || (importance[std::size_t(m)] == importance[std::size_t(least)] && at < members[std::size_t(least)])) least = m;
  }
  return least;
}
//! By what a channel of the keys that lose bits is multiplied, and the queries that meet them divided: afterwards both reach as far. Within [2^-8, 2^8].
inline double mikv_balance(double query_reach, double key_reach) {
  return query_reach > 0 && key_reach > 0 ? std::min(std::max(std::sqrt(query_reach / key_reach), 0x1p-8), 0x1p8) : 1.0;
}

// ---- HiRED: Arif et al. 2024, arXiv:2408.10945.
inline std::vector<int> best_places(const float* row, int n, int k) {
  std::vector<int> at(static_cast<std::size_t>(n));
  std::iota(at.begin(), at.end(), 0);
  std::stable_sort(at.begin(), at.end(), [row](int a, int b) { return row[a] > row[b]; });
  at.resize(std::size_t(k));
  std::sort(at.begin(), at.end());
  return at;
}
//! Salient places of the whole image by early attention, counted in the tiles that cover them: the geometric map, or the authors' equal runs of the raster.
inline std::vector<double> hired_hits(const float* early, int grid_rows, int grid_cols, int tile_rows, int tile_cols, int salient, bool runs) {
  const int n = grid_rows * grid_cols, tiles = tile_rows * tile_cols;
  std::vector<double> hits(static_cast<std::size_t>(tiles), 0.0);
  for (const int p : best_places(early, n, salient)) {
    const double row = p / grid_cols, col = p % grid_cols;
    ++hits[std::size_t(runs ? int(double(p) * tiles / n) : int(row * tile_rows / grid_rows) * tile_cols + int(col * tile_cols / grid_cols))];
  }
  return hits;
}

}  // namespace oracle
