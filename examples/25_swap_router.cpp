// One line changed: the router of a mixture of experts. Mixtral's takes the two greatest logits and a softmax over them; DeepSeek-V3's adds
// a bias that balances loads, lets four of eight groups of experts through, and weighs by sigmoids without the bias. Everything else, the
// index that groups tokens by expert and the loop over experts, is the same program. Checks each against its definition, and draws loads.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <type_traits>
#include <vector>
#include <smalti/core/workspace_pool.hpp>
#include <smalti/ops/route.hpp>

using namespace smalti;

constexpr int tokens = 512, experts = 64, choices = 4;

// [swap]
using mixtral = route::mixtral<route::up_to<experts>>;
using deepseek_v3 = route::deepseek_v3<route::up_to<experts>>;  // the one line: which of them `layer` gets below
// [swap]

struct answer {
  std::vector<int> ids, loads;
  std::vector<float> weights;
  bool right = true;
};

// [layer]
template <class Router> answer layer(const std::vector<float>& logits, const std::vector<float>& bias) {
  const host_context context{};
  workspace_pool pool(context);
  answer y{std::vector<int>(tokens * choices), std::vector<int>(experts), std::vector<float>(tokens * choices)};
  typename Router::args x{.logits = {logits.data(), tokens, experts, experts}, .tokens = tokens, .experts = experts, .choices = choices,
                          .ids = y.ids.data(), .weights = y.weights.data()};
  if constexpr (requires { x.bias.data; }) x.bias.data = bias.data();
  status st = Router::run(context, x);

  route::index::args g{.ids = y.ids.data(), .weights = y.weights.data(), .tokens = tokens, .choices = choices, .experts = experts,
                       .layout = policy::row_layout::aligned(16)};
  std::vector<std::byte> memory(route::index::index_bytes(g) + 256);
  g.memory = memory.data() + (256 - reinterpret_cast<std::uintptr_t>(memory.data()) % 256) % 256;
  if (st) st = pool.reserve(route::index::workspace_bytes(context, g));
  if (st) st = route::index::run(context, g, pool.memory());
  if (!st) std::printf("refused: %s\n", st.what), std::exit(1);

  const policy::route_index rows = route::index::of(g);  // what grouped products take
  for (int e = 0; e < experts; ++e) {
    y.loads[e] = rows.count(e);
    y.right &= rows.rows.first(e) % 16 == 0;
    for (int p = rows.rows.first(e); p < rows.end[e]; ++p)  // a row of expert e: its slot chose e, and finds its way back
      y.right &= y.ids[rows.slot_of_row[p]] == e && rows.row_of_slot[rows.slot_of_row[p]] == p && rows.token_of_row[p] == rows.slot_of_row[p] / choices;
  }
  return y;
}
// [layer]

// The definition: experts by falling key, equal ones by number; weights of the logits or of the sigmoids.
bool as_defined(const answer& y, const std::vector<float>& logits, const std::vector<float>& bias, bool grouped) {
  for (int t = 0; t < tokens; ++t) {
    std::vector<double> score(experts), key(experts), best(8);
    for (int e = 0; e < experts; ++e) {
      const double z = logits[t * experts + e];
      score[e] = grouped ? 1 / (1 + std::exp(-z)) : std::exp(z);
      key[e] = grouped ? score[e] + bias[e] : z;
    }
    std::vector<int> order(experts), groups(8);
    std::iota(order.begin(), order.end(), 0);
    std::iota(groups.begin(), groups.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return key[a] > key[b]; });
    for (int g = 0; g < 8; ++g) {
      std::vector<double> mine(key.begin() + 8 * g, key.begin() + 8 * g + 8);
      std::partial_sort(mine.begin(), mine.begin() + 2, mine.end(), std::greater<>());
      best[g] = mine[0] + mine[1];
    }
    std::stable_sort(groups.begin(), groups.end(), [&](int a, int b) { return best[a] > best[b]; });
    if (grouped) std::stable_partition(order.begin(), order.end(), [&](int e) { return std::find(groups.begin(), groups.begin() + 4, e / 8) != groups.begin() + 4; });
    double sum = 0;
    for (int j = 0; j < choices; ++j) sum += score[order[j]];
    for (int j = 0; j < choices; ++j) {
      const int slot = t * choices + j;
      if (y.ids[slot] != order[j] || std::abs(y.weights[slot] - score[order[j]] / sum) > 1e-5) return std::printf("token %d differs\n", t), false;
    }
  }
  return true;
}

int main() {
  std::mt19937 random(7);
  std::vector<float> logits(tokens * experts), bias(experts, 0.0f);
  for (float& z : logits) z = float(random() % 8001) / 1000 - 4;
  for (int t = 0; t < tokens; ++t)
    for (int e = 0; e < experts; ++e) logits[t * experts + e] += 2.0f / float(1 + e);                  // some experts are liked by all
  const answer plain = layer<mixtral>(logits, bias);
  answer balanced = layer<deepseek_v3>(logits, bias);
  for (int step = 0; step < 60; ++step) {                                                              // the bias learns to even the loads out
    if (const status st = route::sign_bias::run(host_context{}, {.controller = {0.005f}, .counts = balanced.loads.data(), .bias = bias.data(), .experts = experts}); !st) return 1;
    balanced = layer<deepseek_v3>(logits, bias);
  }
  const auto most = [](const answer& y) { return *std::max_element(y.loads.begin(), y.loads.end()); };
  const bool ok = plain.right && balanced.right && as_defined(plain, logits, bias, false) && as_defined(balanced, logits, bias, true) && most(balanced) < most(plain);
  std::printf("mixtral: the fullest of %d experts has %d slots; deepseek_v3 with a learned bias: %d; even would be %d%s\n", experts, most(plain), most(balanced),
              tokens * choices / experts, ok ? "" : "  WRONG");
  return !ok;
}
