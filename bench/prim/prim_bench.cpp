// Primitives against the standard library.
#include <interleave.hpp>
#include <machine.hpp>
#include <smalti/core/context.hpp>
#include <smalti/prim/select_k.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>

namespace {

using namespace bench;
namespace prim = smalti::prim;

// Rows of normally distributed scores. Several, used in turns: a branch predictor learns a row that is
// selected from again and again.
struct rows {
  static constexpr int count = 16;
  int n, k, turn = 0;
  std::vector<float> scores;
  std::vector<float> values;
  std::vector<std::int32_t> indices;

  rows(int n_, int k_) : n(n_), k(k_), scores(std::size_t(count) * n_), values(std::size_t(k_)), indices(std::size_t(k_)) {
    std::uint64_t state = 0x9e3779b97f4a7c15u;
    for (float& s : scores) {  // a sum of twelve uniform numbers
      float sum = -6;
      for (int i = 0; i < 12; ++i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        sum += static_cast<float>(state >> 40) * 0x1p-24f;
      }
      s = sum;
    }
  }
  const float* next() {
    turn = (turn + 1) % count;
    return scores.data() + std::size_t(turn) * n;
  }
  // The values that `run` left, sorted, must be the k greatest of the row that is next.
  template <class Run> void demand(const std::string& who, Run run) {
    turn = count - 1;
    std::vector<float> expected(scores.begin(), scores.begin() + n);
    std::sort(expected.begin(), expected.end(), std::greater<>());
    std::fill(values.begin(), values.end(), -100.0f);
    run();
    std::vector<float> got = values;
    std::sort(got.begin(), got.end(), std::greater<>());
    if (!std::equal(got.begin(), got.end(), expected.begin()))
      throw std::runtime_error(who + " gave a wrong answer: its time means nothing");
  }
};

contender ours_on(std::shared_ptr<rows> r, prim::arrangement arranged, int threads) {
  using select = prim::select_k<float>;
  const smalti::host_context context{.threads = threads};
  select::args x{.rows = {r->scores.data(), 1, r->n, r->n},
                 .k = r->k,
                 .values = {r->values.data(), 1, r->k, r->k},
                 .indices = {r->indices.data(), 1, r->k, r->k},
                 .arranged = arranged};
  auto memory = std::make_shared<pages>(select::workspace_bytes(context, x) + 1);
  const smalti::workspace scratch{memory->data, memory->size};
  auto once = [=]() mutable {
    x.rows.data = r->next();
    if (const smalti::status s = select::run(context, x, scratch); !s) throw std::runtime_error(s.what);
    (void)memory;
  };
  r->demand("smalti", std::function<void()>(once));
  for (int j = 0; j < r->k; ++j)
    if (r->scores[std::size_t(r->indices[std::size_t(j)])] != r->values[std::size_t(j)])
      throw std::runtime_error("smalti gave wrong indices: its time means nothing");
  return timed("smalti", "smalti", threads, once);
}

// The least that std::nth_element can do: values only, and the copy that it needs because it reorders its
// input. It does not say where the values came from; `with_indices` does.
contender nth_element_on(std::shared_ptr<rows> r, bool sorted) {
  auto copy = std::make_shared<std::vector<float>>(std::size_t(r->n));
  auto once = [=] {
    const float* row = r->next();
    std::copy(row, row + r->n, copy->begin());
    std::nth_element(copy->begin(), copy->begin() + (r->k - 1), copy->end(), std::greater<>());
    if (sorted) std::sort(copy->begin(), copy->begin() + r->k, std::greater<>());
    std::copy(copy->begin(), copy->begin() + r->k, r->values.begin());
  };
  r->demand("std::nth_element", once);
  return timed("nth_element", sorted ? "std::nth_element and std::sort, values only" : "std::nth_element, values only", 1, once);
}

contender with_indices(std::shared_ptr<rows> r) {
  struct pair {
    float value;
    std::int32_t index;
  };
  auto pairs = std::make_shared<std::vector<pair>>(std::size_t(r->n));
  auto once = [=] {
    const float* row = r->next();
    for (int i = 0; i < r->n; ++i) (*pairs)[std::size_t(i)] = {row[i], i};
    std::nth_element(pairs->begin(), pairs->begin() + (r->k - 1), pairs->end(),
                     [](const pair& a, const pair& b) { return a.value > b.value || (a.value == b.value && a.index < b.index); });
    for (int i = 0; i < r->k; ++i)
      r->values[std::size_t(i)] = (*pairs)[std::size_t(i)].value, r->indices[std::size_t(i)] = (*pairs)[std::size_t(i)].index;
  };
  r->demand("std::nth_element with indices", once);
  return timed("nth_element_indices", "std::nth_element of pairs", 1, once);
}

void enter_select(int n, int k, prim::arrangement arranged) {
  const bool sorted = arranged == prim::arrangement::best_first;
  enter(std::string("prim/select_k/f32/") + (sorted ? "best_first/" : "by_index/") + std::to_string(n) + "to" + std::to_string(k) +
            "/threads:1",
        [=](benchmark::State& state) {
          auto r = std::make_shared<rows>(n, k);
          contest c{.subject = ours_on(r, arranged, 1), .peers = {nth_element_on(r, sorted)}, .bytes = 4.0 * n + 8.0 * k, .rounds = 15};
          if (!sorted) c.peers.push_back(with_indices(r));
          run(state, c);
        });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  describe_machine("standard library");
  for (const auto arranged : {prim::arrangement::by_index, prim::arrangement::best_first}) {
    enter_select(65536, 2048, arranged);
    enter_select(131072, 64, arranged);  // sampling from a vocabulary
    enter_select(4096, 256, arranged);
    enter_select(256, 8, arranged);  // experts of a router
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
