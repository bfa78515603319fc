// Routing a batch: logits to experts and weights, then the index of slots by expert, against the time that the experts' products take
// at the least: `limit_share` is (time of their operations at the machine's bf16 rate, measured in the same run) / (time of routing).
// The peer sorts with the standard library. One thread.
#include <interleave.hpp>
#include <machine.hpp>
#include <smalti/ops/route.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace bench;
using namespace smalti;

const std::vector<instruction> brain = {instruction::fma, instruction::bf16_dot, instruction::amx_bf16};
const host_context one_thread{.threads = 1};

void demand(const status& s) {
  if (!s) throw std::runtime_error(s.what);
}

struct batch {
  int tokens, experts, choices;
  std::vector<float> logits, bias, weights, importance;
  std::vector<std::int32_t> ids;
  batch(int t, int e, int k) : tokens(t), experts(e), choices(k), logits(std::size_t(t) * e), bias(std::size_t(e)), weights(std::size_t(t) * k), ids(std::size_t(t) * k) {
    std::uint32_t state = 1;
    for (float& z : logits) z = float(state = state * 1664525u + 1013904223u) * 0x1p-29f - 4;
    for (float& b : bias) b = float(state = state * 1664525u + 1013904223u) * 0x1p-34f + 2;
  }
};

template <class Router> struct routing {
  std::shared_ptr<batch> data;
  typename Router::args args;
  route::index::args index;
  pages memory, scratch;
  explicit routing(std::shared_ptr<batch> b) : data(b) {
    args = {.logits = {b->logits.data(), b->tokens, b->experts, b->experts}, .tokens = b->tokens, .experts = b->experts, .choices = b->choices, .ids = b->ids.data(), .weights = b->weights.data()};
    if constexpr (requires { args.bias.data; }) args.bias.data = b->bias.data();
    index = {.ids = b->ids.data(), .weights = b->weights.data(), .tokens = b->tokens, .choices = b->choices, .experts = b->experts, .layout = policy::row_layout::aligned(16), .trust_ids = true};
    memory = pages(route::index::index_bytes(index));
    index.memory = memory.data;
    scratch = pages(route::index::workspace_bytes(one_thread, index));
  }
  void select() { demand(Router::run(one_thread, args)); }
  void sort() { demand(route::index::run(one_thread, index, {scratch.data, scratch.size})); }
};

// The same selection (without groups) and index by std::partial_sort and lists: what a program without the library writes.
struct by_lists {
  std::shared_ptr<batch> data;
  std::vector<std::vector<std::int32_t>> lists;
  std::vector<float> score, key;
  std::vector<std::int32_t> order;
  void run() {
    const batch& b = *data;
    lists.resize(std::size_t(b.experts)), score.resize(std::size_t(b.experts)), key.resize(std::size_t(b.experts)), order.resize(std::size_t(b.experts));
    for (auto& l : lists) l.clear();
    for (int t = 0; t < b.tokens; ++t) {
      for (int e = 0; e < b.experts; ++e) score[std::size_t(e)] = 1 / (1 + std::exp(-b.logits[std::size_t(t) * b.experts + e])), key[std::size_t(e)] = score[std::size_t(e)] + b.bias[std::size_t(e)];
      std::iota(order.begin(), order.end(), 0);
      std::partial_sort(order.begin(), order.begin() + b.choices, order.end(), [&](int x, int y) { return key[std::size_t(x)] > key[std::size_t(y)] || (key[std::size_t(x)] == key[std::size_t(y)] && x < y); });
      for (int j = 0; j < b.choices; ++j) lists[std::size_t(order[std::size_t(j)])].push_back(t * b.choices + j);
    }
  }
};

// Experts of width inner for rows of width hidden: gate, up and down.
template <class Router> void enter_routing(const std::string& name, int tokens, int experts, int choices, int hidden, int inner) {
  enter("route/" + name + "/" + std::to_string(tokens) + "x" + std::to_string(experts) + "/" + std::to_string(hidden) + "x" + std::to_string(inner) + "/threads:1", [=](benchmark::State& state) {
    const auto data = std::make_shared<batch>(tokens, experts, choices);
    const auto ours = std::make_shared<routing<Router>>(data);
    const auto lists = std::make_shared<by_lists>(by_lists{.data = data, .lists = {}, .score = {}, .key = {}, .order = {}});
    ours->select();
    ours->sort();
    const policy::route_index index = route::index::of(ours->index);
    std::vector<char> met(data->ids.size());
    for (int e = 0; e < experts; ++e)
      for (int p = index.rows.first(e); p < index.end[e]; ++p) {
        const std::int32_t slot = index.slot_of_row[p];
        if (slot < 0 || met[std::size_t(slot)]++ || data->ids[std::size_t(slot)] != e) throw std::runtime_error("a wrong index: its time means nothing");
      }
    if (std::count(met.begin(), met.end(), 1) != std::ptrdiff_t(met.size())) throw std::runtime_error("a slot without a row: its time means nothing");
    contest c{.subject = timed("smalti", "smalti", 1, [=] { ours->select(), ours->sort(); }),
              .peers = {timed("lists", "std::partial_sort and lists, no groups", 1, [=] { lists->run(); }), timed("select", "the router alone", 1, [=] { ours->select(); })},
              .flop = 6.0 * tokens * choices * hidden * inner,
              .arithmetic = brain};
    run(state, c);
  });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  describe_machine("standard library");
  enter_routing<route::deepseek_v3<>>("deepseek_v3", 4096, 256, 8, 7168, 2048);
  enter_routing<route::yi_lightning<>>("softmax", 4096, 256, 8, 2048, 768);      // experts as small as Qwen3's
  enter_routing<route::mixtral<>>("mixtral", 4096, 8, 2, 4096, 14336);
  enter_routing<route::deepseek_v3<>>("deepseek_v3", 1, 256, 8, 7168, 2048);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
