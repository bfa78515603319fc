// What systems of cache compression keep, by their definitions, in double. Shares no code with the library.
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace oracle {

using row_of_doubles = std::vector<double>;

// p[i][j] of `rows` queries, the last of n tokens, over n keys: softmax of scale q . k, a query sees keys up to its own.
// q(i, c), k(j, c): elements.
template <class Q, class K> std::vector<row_of_doubles> attention_weights(int rows, int n, int d, double scale, Q q, K k) {
  std::vector<row_of_doubles> p(static_cast<std::size_t>(rows), row_of_doubles(static_cast<std::size_t>(n), 0.0));
  for (int i = 0; i < rows; ++i) {
    const int last = n - rows + i;
    double top = -INFINITY, sum = 0;
    for (int j = 0; j <= last; ++j) {
      double s = 0;
      for (int c = 0; c < d; ++c) s += q(i, c) * k(j, c);
      p[std::size_t(i)][std::size_t(j)] = s * scale;
      top = std::max(top, s * scale);
    }
    for (int j = 0; j <= last; ++j) sum += p[std::size_t(i)][std::size_t(j)] = std::exp(p[std::size_t(i)][std::size_t(j)] - top);
    for (int j = 0; j <= last; ++j) p[std::size_t(i)][std::size_t(j)] /= sum;
  }
  return p;
}

enum class pool_kind { none, average, average_inside, maximum };

// The score of token j from those of [j - r, j + r], tokens from `end` on having none.
inline row_of_doubles pooled(const row_of_doubles& s, int end, int kernel, pool_kind kind) {
  if (kind == pool_kind::none) return s;
  row_of_doubles out = s;
  const int r = kernel / 2;
  for (int j = 0; j < end; ++j) {
    double sum = 0, top = -INFINITY;
    int there = 0;
    for (int i = std::max(0, j - r); i <= std::min(end - 1, j + r); ++i) sum += s[std::size_t(i)], top = std::max(top, s[std::size_t(i)]), ++there;
    out[std::size_t(j)] = kind == pool_kind::maximum ? top : kind == pool_kind::average ? sum / kernel : sum / there;
  }
  return out;
}

// Whole parts of a total in proportion to weights, by largest remainders; what caps cut off goes to the others.
inline std::vector<int> shares(std::vector<double> weights, const std::vector<int>& caps, long long total) {
  const std::size_t n = weights.size();
  std::vector<int> out(n, -1);
  total = std::min(total, std::accumulate(caps.begin(), caps.end(), 0ll));
  for (;;) {
    double sum = 0;
    std::size_t open = 0;
    for (std::size_t i = 0; i < n; ++i)
      if (out[i] < 0) sum += weights[i], ++open;
    if (open == 0) return out;
    if (sum <= 0) {
      std::fill(weights.begin(), weights.end(), 1.0);
      continue;
    }
    std::vector<std::size_t> full;
    for (std::size_t i = 0; i < n; ++i)
      if (out[i] < 0 && double(total) * (weights[i] / sum) >= caps[i]) full.push_back(i);
    if (full.empty()) {
      std::vector<std::pair<double, std::size_t>> rest;
      long long left = total;
      for (std::size_t i = 0; i < n; ++i)
        if (out[i] < 0) {
          const double share = double(total) * (weights[i] / sum);
          out[i] = int(share), left -= out[i];
          rest.push_back({-(share - std::floor(share)), i});
        }
      std::sort(rest.begin(), rest.end());
      for (long long i = 0; i < left; ++i) ++out[rest[std::size_t(i)].second];
      return out;
    }
    for (const std::size_t i : full) out[i] = caps[i], total -= caps[i];
  }
}

// D2O: mean over heads of the variance of each head's scores, scaled to [0, 1] within the layer.
inline double concentration(const std::vector<row_of_doubles>& heads) {
  std::vector<double> v;
  for (const row_of_doubles& s : heads) {
    const double mean = std::accumulate(s.begin(), s.end(), 0.0) / double(s.size());
    double squares = 0;
    for (const double x : s) squares += (x - mean) * (x - mean);
    v.push_back(squares / double(s.size()));
  }
  const auto [least, most] = std::minmax_element(v.begin(), v.end());
  double f = 0;
  for (const double x : v) f += (x - *least) / (*most - *least + 1e-6);
  return f / double(v.size());
}

// D2O's merge of one layer. heads[h]: rows (a key, then a value) of the tokens before, d elements of key first; kept[h]: those that stay, ascending.
// threshold: NaN at first. Returns the rows that stay, merged. `own`: each token by its own similarity, not by the mean over heads.
// margin: how far the nearest decision (of a gate, of a nearest survivor) was from the other outcome.
struct merged_layer {
  std::vector<std::vector<row_of_doubles>> rows;
  double threshold, margin;
  int merged;
};
inline merged_layer merge(const std::vector<std::vector<row_of_doubles>>& heads, const std::vector<std::vector<int>>& kept, int d, double threshold, double memory, bool own, bool convex) {
  merged_layer out{{}, threshold, INFINITY, 0};
  std::vector<std::vector<double>> u(heads.size());
  std::vector<std::vector<int>> gone(heads.size()), nearest(heads.size());
  double sum = 0, count = 0;
  std::size_t most = 0;
  for (std::size_t h = 0; h < heads.size(); ++h) {
    for (int j = 0; j < int(heads[h].size()); ++j)
      if (!std::binary_search(kept[h].begin(), kept[h].end(), j)) gone[h].push_back(j);
    for (const int e : gone[h]) {
      double best = -INFINITY, second = -INFINITY;
      int at = -1;
      for (int c = 0; c < int(kept[h].size()); ++c) {
        const row_of_doubles &a = heads[h][std::size_t(e)], &b = heads[h][std::size_t(kept[h][std::size_t(c)])];
        double ab = 0, aa = 0, bb = 0;
        for (int i = 0; i < d; ++i) ab += a[std::size_t(i)] * b[std::size_t(i)], aa += a[std::size_t(i)] * a[std::size_t(i)], bb += b[std::size_t(i)] * b[std::size_t(i)];
        const double x = aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0;
        if (x > best) second = best, best = x, at = c;
        else second = std::max(second, x);
      }
      out.margin = std::min(out.margin, best - second);
      u[h].push_back(best), nearest[h].push_back(at);
      sum += best, count += 1;
    }
    most = std::max(most, gone[h].size());
  }
  if (count > 0) out.threshold = std::isnan(threshold) ? sum / count : memory * threshold + (1 - memory) * sum / count;
  out.rows.resize(heads.size());
  for (std::size_t h = 0; h < heads.size(); ++h) {
    std::vector<double> weight(kept[h].size(), convex ? std::exp(1.0) : 1.0);
    for (const int j : kept[h]) out.rows[h].push_back(heads[h][std::size_t(j)]);
    for (std::size_t c = 0; c < kept[h].size(); ++c)
      for (double& x : out.rows[h][c]) x *= weight[c];
    for (std::size_t e = 0; e < gone[h].size(); ++e) {
      double mean = 0, there = 0;
      for (std::size_t other = 0; other < heads.size(); ++other)
        if ((own ? other == h : e < u[other].size())) mean += u[other][e], there += 1;
      mean /= there;
      if (std::abs(mean - out.threshold) > 1e-9) out.margin = std::min(out.margin, std::abs(mean - out.threshold));
      if (mean < out.threshold - 1e-9) continue;
      ++out.merged;
      const std::size_t c = std::size_t(nearest[h][e]);
      const double w = convex ? std::exp(u[h][e]) : u[h][e];
      weight[c] += convex ? w : 1.0;
      for (std::size_t i = 0; i < out.rows[h][c].size(); ++i) out.rows[h][c][i] += w * heads[h][std::size_t(gone[h][e])][i];
    }
    for (std::size_t c = 0; c < kept[h].size(); ++c)
      for (double& x : out.rows[h][c]) x /= weight[c];
  }
  return out;
}

}  // namespace oracle
