// Routing by its definition, in double, one token at a time: stable descending sort, no tiles, no codes. Shares nothing with the library.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace oracle::route {

using row = std::vector<double>;
enum class score { logit, softmax, sigmoid, sqrt_softplus, one };
enum class norm { none, sum, clamped_sum, lp, softmax, sigmoid };

inline double finite(double z) { return std::isnan(z) ? -0x1p100 : std::clamp(z, -0x1p100, 0x1p100); }
inline double sigmoid(double z) { return z >= 0 ? 1 / (1 + std::exp(-z)) : std::exp(z) / (1 + std::exp(z)); }

inline row scores(const row& z, score how) {
  row s(z.size());
  if (how == score::softmax) {
    const double most = *std::max_element(z.begin(), z.end());
    double sum = 0;
    for (double x : z) sum += std::exp(x - most);
    for (std::size_t e = 0; e < z.size(); ++e) s[e] = std::exp(z[e] - most) / sum;
    return s;
  }
  for (std::size_t e = 0; e < z.size(); ++e)
    s[e] = how == score::sigmoid         ? sigmoid(z[e])
           : how == score::sqrt_softplus ? std::sqrt(std::max(z[e], 0.0) + std::log1p(std::exp(-std::abs(z[e]))))
           : how == score::one           ? 1
                                         : z[e];
  return s;
}

//! Experts by falling key, equal ones by rising number.
inline std::vector<int> ranking(const row& key) {
  std::vector<int> order(key.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return key[a] > key[b]; });
  return order;
}
inline std::vector<int> top_k(const row& key, int k) {
  std::vector<int> order = ranking(key);
  order.resize(k);
  return order;
}
//! The k greatest keys of the `kept` groups with the greatest sum of their `of_group` greatest keys.
inline std::vector<int> group_top_k(const row& key, int k, int groups, int kept, int of_group) {
  const int width = int(key.size()) / groups;
  row group(groups);
  for (int g = 0; g < groups; ++g) {
    row mine(key.begin() + g * width, key.begin() + (g + 1) * width);
    std::sort(mine.rbegin(), mine.rend());
    group[g] = std::accumulate(mine.begin(), mine.begin() + of_group, 0.0);
  }
  const std::vector<int> best = top_k(group, kept);
  std::vector<int> chosen;
  for (int e : ranking(key))
    if (int(chosen.size()) < k && std::find(best.begin(), best.end(), e / width) != best.end()) chosen.push_back(e);
  return chosen;
}

//! The weights of the scores of one token's experts; -1 weighs 0 and takes no part.
inline row weights(const row& s, const std::vector<int>& ids, norm how, double scale, double constant) {
  row w(ids.size(), 0.0);
  double sum = 0, most = -std::numeric_limits<double>::infinity();
  for (int e : ids)
    if (e >= 0) most = std::max(most, s[e]);
  for (std::size_t j = 0; j < ids.size(); ++j) {
    if (ids[j] < 0) continue;
    const double x = s[ids[j]];
    w[j] = how == norm::softmax ? std::exp(x - most) : how == norm::sigmoid ? sigmoid(x) : x;
    sum += how == norm::lp ? std::pow(std::abs(x), constant) : w[j];
  }
  double divisor = 1;
  if (how == norm::sum) divisor = sum + constant;
  if (how == norm::clamped_sum && ids.size() > 1) divisor = std::max(sum, constant);
  if (how == norm::lp) divisor = std::pow(sum, 1 / constant);
  if (how == norm::softmax) divisor = sum > 0 ? sum : 1;
  for (double& x : w) x = divisor != 0 ? x / divisor * scale : 0;
  return w;
}

//! Slots grouped by expert, by appending to lists in the order in which slots are met.
struct grouped {
  std::vector<int> offsets, end, slot_of_row, row_of_slot, demand;
};
inline grouped group(const std::vector<int>& ids, int experts, const std::vector<int>& met, int alignment, int rows_per_expert, long long capacity) {
  grouped g;
  std::vector<std::vector<int>> lists(experts);
  for (int slot : met)
    if (ids[slot] >= 0 && ids[slot] < experts) lists[ids[slot]].push_back(slot);
  g.row_of_slot.assign(ids.size(), -1);
  for (int e = 0, first = 0; e <= experts; ++e) {
    if (rows_per_expert > 0) first = e * rows_per_expert;
    g.offsets.push_back(first);
    if (e == experts) break;
    g.demand.push_back(int(lists[e].size()));
    if ((long long)lists[e].size() > capacity) lists[e].resize(std::size_t(capacity));
    g.slot_of_row.resize(std::size_t(first), -1);
    for (int slot : lists[e]) g.row_of_slot[slot] = int(g.slot_of_row.size()), g.slot_of_row.push_back(slot);
    g.end.push_back(int(g.slot_of_row.size()));
    first = (g.end.back() + alignment - 1) / alignment * alignment;
  }
  return g;
}

}  // namespace oracle::route
