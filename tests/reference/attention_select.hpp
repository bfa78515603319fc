// The oracles of selectors: searches and lists as their definitions say, in double, one list at a time.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

namespace oracle {

//! The best `count` of `scores`: greatest first, equal ones by the lower index; as ascending indices.
inline std::vector<int> best_of(const std::vector<double>& scores, int count) {
  std::vector<int> order(scores.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = int(i);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
  order.resize(std::min<std::size_t>(order.size(), std::size_t(count)));
  std::sort(order.begin(), order.end());
  return order;
}

//! Hierarchical top-k search over blocks [first, last): groups of blocks, halved and scored by `score` (of a group's first
//! block) until they are single.
inline std::vector<int> tree_search(int first, int last, int groups, const std::function<double(int block)>& score) {
  const long long n = last - first;
  std::vector<std::pair<int, int>> group;            // begin, size
  int largest = 0;
  for (int t = 0; t < groups; ++t) {
    const int a = int(n * t / groups), b = int(n * (t + 1) / groups);
    group.push_back({a, b - a});
    largest = std::max(largest, b - a);
  }
  while (largest > 1) {
    std::vector<std::pair<int, int>> half;
    std::vector<double> scores;
    for (const auto& [a, size] : group) {
      half.push_back({a, size / 2});
      half.push_back({a + size / 2, size - size / 2});
    }
    for (const auto& [a, size] : half) scores.push_back(size == 0 ? -std::numeric_limits<double>::infinity() : score(first + a));
    group.clear();
    largest = 0;
    for (int c : best_of(scores, groups)) {
      group.push_back(half[c]);
      largest = std::max(largest, half[c].second);
    }
  }
  std::vector<int> found;
  for (const auto& [a, size] : group)
    if (size > 0) found.push_back(first + a);
  return found;
}

}  // namespace oracle
