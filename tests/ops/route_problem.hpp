// Choices of experts as the tests of routing draw them.
#pragma once
#include <algorithm>
#include <random>
#include <vector>

namespace route_problem {

enum class skew { even, one, some };
inline std::vector<int> random_ids(int tokens, int choices, int experts, int identities, skew how, std::mt19937& random) {
  std::vector<int> ids(std::size_t(tokens) * choices, -1);
  for (int t = 0; t < tokens; ++t)
    for (int j = 0; j < choices; ++j) {
      if (how == skew::some && random() % 4 == 0) continue;      // no expert
      for (;;) {
        const int e = how == skew::one && j == 0 ? experts / 2 : int(random() % (experts + identities));
        const auto mine = ids.begin() + std::size_t(t) * choices;
        if (std::find(mine, mine + j, e) != mine + j) continue;
        mine[j] = e;
        break;
      }
    }
  return ids;
}

}  // namespace route_problem
