// Attention over lists of blocks on the host: lists of a density against all keys, and HiP's search with its attention
// against all keys, in prefill and in decode.
#include <interleave.hpp>
#include <limits.hpp>
#include <machine.hpp>
#include <rotate.hpp>
#include <smalti/core/context.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/attention/hip.hpp>
#include <smalti/policy/blocks.hpp>

#include <cstdint>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace bench;
using smalti::bf16;
namespace attention = smalti::attention;
namespace policy = smalti::policy;

constexpr int d = 128;

void demand(const smalti::status& s) {
  if (!s) throw std::runtime_error(s.what);
}
void fill(bf16* first, std::size_t count, unsigned seed) {
  std::minstd_rand generator(seed);
  for (std::size_t i = 0; i < count; ++i) first[i] = smalti::narrow<bf16>(float(int(generator() >> 8) % 2001 - 1000) / 1000.0f);
}

// One head, `rows` queries of `keys` keys; Op's own arguments are set by the caller.
template <class Op> struct one_head {
  pages memory, space;
  typename Op::args x;
  one_head(int rows, int keys) : memory((2 * std::size_t(rows) + 2 * std::size_t(keys)) * d * sizeof(bf16)) {
    bf16 *q = reinterpret_cast<bf16*>(memory.data), *k = q + std::size_t(rows) * d, *v = k + std::size_t(keys) * d, *o = v + std::size_t(keys) * d;
    fill(q, std::size_t(rows + 2 * keys) * d, 1);
    x.q = attention::bhsd<const bf16>(q, 1, rows, 1, d);
    x.kv = {attention::bhsd<const bf16>(k, 1, keys, 1, d), attention::bhsd<const bf16>(v, 1, keys, 1, d)};
    x.o = attention::bhsd(o, 1, rows, 1, d);
  }
  void run() {
    const smalti::host_context context{1};
    if (const std::size_t bytes = Op::workspace_bytes(context, x); bytes > space.size) space = pages(bytes);
    demand(Op::run(context, x, {space.data, space.size}));
  }
};
template <class Op> contender timed_on(const char* key, const char* name, std::shared_ptr<one_head<Op>> p) {
  p->run();
  return timed(key, name, 1, [p] { p->run(); });
}

// Of each 128 query rows one list: one of `every` blocks of 128 keys, drawn.
void enter_lists(int n, int every) {
  enter("attention/lists/d128/" + std::to_string(n) + "/density:1:" + std::to_string(every) + "/threads:1", [=](benchmark::State& state) {
    constexpr int side = 128;
    using blocks = policy::block_lists<side, side>;
    struct listed : attention::options { using blocks = policy::block_lists<side, side>; };
    using sparse = attention::flash<bf16, d, attention::dense_kv<bf16>, policy::full, listed>;
    using dense = attention::flash<bf16, d, attention::dense_kv<bf16>, policy::full>;
    struct tables { std::vector<std::int32_t> offsets, indices; };
    auto t = std::make_shared<tables>();
    std::minstd_rand generator(7);
    t->offsets.push_back(0);
    for (int r = 0; r < n / side; ++r) {
      for (int first = 0; first < n / side; first += every) t->indices.push_back(first + int(generator() >> 8) % every);
      t->offsets.push_back(std::int32_t(t->indices.size()));
    }
    auto p = std::make_shared<one_head<sparse>>(n, n);
    p->x.blocks = blocks{t->offsets.data(), t->indices.data(), 1, n / side};
    contender subject = timed_on("lists", "lists", p);
    subject.sample = [t, inner = subject.sample](int repeat) { return inner(repeat); };
    contender all = timed_on("dense", "all keys, per operation", std::make_shared<one_head<dense>>(n, n));
    all.work = every;
    const double flop = 4.0 * n * n * d / every;
    run(state, {.subject = subject, .peers = {all}, .flop = flop, .bytes = 4.0 * n * d * sizeof(bf16), .arithmetic = {instruction::fma, instruction::bf16_dot, instruction::amx_bf16}});
  });
}

// k = 2,048 keys of each query: 32 blocks of 64.
template <int Queries> void enter_hip(const std::string& name, int rows, int keys) {
  enter("attention/hip/" + name + "/d128/" + std::to_string(keys) + "/threads:1", [=](benchmark::State& state) {
    using sparse = attention::hip<bf16, d, 64, Queries>;
    using dense = attention::flash<bf16, d, attention::dense_kv<bf16>, policy::causal>;
    auto p = std::make_shared<one_head<sparse>>(rows, keys);
    auto all = std::make_shared<one_head<dense>>(rows, keys);
    const double flop = 4.0 * rows * 2048.0 * d;
    run(state, {.subject = timed_on("hip", "search and attention", p), .peers = {timed_on("dense", "all keys", all)}, .flop = flop, .bytes = 2.0 * rows * d * sizeof(bf16),
                .arithmetic = {instruction::fma, instruction::bf16_dot, instruction::amx_bf16}, .rounds = 9});
  });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  describe_machine("");
  for (const int every : {4, 8}) enter_lists(4096, every);
  enter_hip<64>("prefill", 65536, 65536);
  enter_hip<1>("decode", 1, 65536);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
