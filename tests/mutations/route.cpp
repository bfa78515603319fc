// Routing against its definition: keys, groups and ties; the index against lists.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <smalti/ops/route.hpp>

#include "battery.hpp"

using namespace smalti;
using namespace battery;

namespace {

void tokens_find_their_experts() {
  constexpr int tokens = 9, experts = 24, groups = 6, kept = 2, k = 5;
  matrix<float> z(1, tokens, experts, experts, 3), bias(1, 1, experts, experts, 5);
  for (int e = 0; e < experts; ++e) bias(0, 0, e) = bias(0, 0, e) * 0.1f - 3;              // every key is negative
  for (int t = 0; t < tokens; ++t) z(0, t, 7) = z(0, t, 6), z(0, t, 20) = z(0, t, 21);
  bias(0, 0, 7) = bias(0, 0, 6), bias(0, 0, 20) = bias(0, 0, 21);                          // equal keys
  memory<int> ids(tokens * k);
  memory<float> weights(tokens * k);
  using router = route::deepseek_v3<route::up_to<32>>;
  for (const host_context& context : contexts()) {
    ids.poison(), weights.poison();
    poison_stack();
    const status st = router::run(context, {.logits = {z.at.data(), tokens, experts, experts}, .tokens = tokens, .experts = experts, .choices = k, .bias = {bias.at.data()}, .selector = {groups, kept},
                                            .ids = ids.data(), .weights = weights.data()});
    expect(st.code == errc::ok, st.what);
    expect(ids.intact() && weights.intact(), "routing stays inside");
    for (int t = 0; t < tokens; ++t) {
      std::vector<double> s(experts), key(experts), sums(groups);
      std::vector<int> order(experts), group(groups);
      for (int e = 0; e < experts; ++e) s[e] = 1 / (1 + std::exp(-double(z.get(0, t, e)))), key[e] = s[e] + bias.get(0, 0, e);
      std::iota(order.begin(), order.end(), 0);
      std::iota(group.begin(), group.end(), 0);
      for (int g = 0; g < groups; ++g) {
        std::vector<double> mine(key.begin() + 4 * g, key.begin() + 4 * g + 4);
        std::sort(mine.rbegin(), mine.rend());
        sums[g] = mine[0] + mine[1];
      }
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return key[a] > key[b]; });
      std::stable_sort(group.begin(), group.end(), [&](int a, int b) { return sums[a] > sums[b]; });
      std::stable_partition(order.begin(), order.end(), [&](int e) { return e / 4 == group[0] || e / 4 == group[1]; });
      double sum = 0;
      for (int j = 0; j < k; ++j) sum += s[order[j]];
      for (int j = 0; j < k; ++j) {
        expect(ids[t * k + j] == order[j], "experts");
        expect(std::abs(weights[t * k + j] - s[order[j]] / sum) <= 1e-5, "weights");
      }
    }
  }
}

void slots_are_grouped() {
  constexpr int tokens = 2200, k = 2, experts = 5, capacity = 700, align = 4;      // more chunks than one tile of them
  std::vector<int> ids(tokens * k), next(experts, 0), offset(experts + 1, 0);
  for (int t = 0; t < tokens; ++t) ids[2 * t] = t % 3, ids[2 * t + 1] = t % 7 ? -1 : 3;    // expert 4 has no slot
  for (int e : ids)
    if (e >= 0) next[e] = std::min(next[e] + 1, capacity);
  for (int e = 0; e < experts; ++e) offset[e + 1] = (offset[e] + next[e] + align - 1) / align * align;
  route::index::args x{.ids = ids.data(), .tokens = tokens, .choices = k, .experts = experts, .layout = policy::row_layout::aligned(align), .capacity = policy::expert_capacity::fixed(capacity)};
  memory<unsigned char> where(route::index::index_bytes(x));
  x.memory = where.data();
  for (const host_context& context : contexts()) {
    where.poison();
    memory<unsigned char> scratch(route::index::workspace_bytes(context, x));
    poison_stack();
    const status st = route::index::run(context, x, {scratch.data(), scratch.bytes()});
    expect(st.code == errc::ok, st.what);
    const policy::route_index at = route::index::of(x);
    for (int e = 0; e <= experts; ++e) expect(at.rows.offsets[e] == offset[e], "offsets");
    std::vector<int> count(experts, 0);
    for (int s = 0; s < tokens * k; ++s) {
      const int e = ids[s], want = e >= 0 && count[e] < capacity ? offset[e] + count[e] : -1;
      if (e >= 0) ++count[e];
      expect(at.row_of_slot[s] == want, "the row of a slot");
      expect(want < 0 || (at.slot_of_row[want] == s && at.token_of_row[want] == s / k), "the slot of a row");
    }
    for (int e = 0; e < experts; ++e) expect(at.end[e] == offset[e] + std::min(count[e], capacity), "ends");
  }
}

}  // namespace

namespace battery {
std::vector<check> route_checks() { return {{"routing", tokens_find_their_experts}, {"index", slots_are_grouped}}; }
}  // namespace battery
