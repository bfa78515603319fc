// Cache compression on the host: survivors that move to pages of their own against a copy of as many bytes, and the score
// pass against the attention whose log-sum-exps it uses.
#include <interleave.hpp>
#include <limits.hpp>
#include <machine.hpp>
#include <smalti/core/context.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/cache/append.hpp>
#include <smalti/ops/cache/systems.hpp>

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
namespace cache = smalti::cache;
namespace policy = smalti::policy;

constexpr int d = 128, heads = 8, group = 4, page = 16;
using storage = policy::kv_plain<bf16>;
using paged = cache::paged<storage, policy::hnd>;
template <int Window> using snapkv = cache::compress<bf16, d, policy::observation_window<Window>, policy::uniform, policy::evict<>, storage, policy::hnd>;

void demand(const smalti::status& s) {
  if (!s) throw std::runtime_error(s.what);
}

// One layer of a sequence of n tokens; its pool holds as many sequences as exceed the caches, each used in turn.
struct layer {
  int n, sequences;
  cache::pool_shape shape;
  pages metadata, memory, plan, space, scores;
  paged cache;
  cache::page_pool pool;
  std::vector<cache::sequence> all;
  std::size_t turn = 0;

  layer(int tokens, int count) : n(tokens), sequences(count) {
    shape = {.pages = count * heads * (tokens / page) * 5 / 4, .page = page, .kv_heads = heads, .key_dim = d, .value_dim = d, .per_head = true};
    const cache::paged_limits limits{.sequences = 2 * count, .tokens = tokens};
    metadata = pages(paged::metadata_bytes(shape, limits)), memory = pages(cache::pool_bytes<storage, policy::hnd>(shape));
    demand(cache.attach(shape, limits, {metadata.data, metadata.size}));
    demand((cache::make_pool<storage, policy::hnd>(shape, {memory.data, memory.size}, pool)));
    scores = pages(std::size_t(heads) * n * sizeof(float));
    std::minstd_rand generator(3);
    for (std::size_t i = 0; i < std::size_t(heads) * n; ++i) reinterpret_cast<float*>(scores.data)[i] = float(generator() >> 8);
    bf16* rows = reinterpret_cast<bf16*>(memory.data);
    for (std::size_t i = 0; i < memory.size / sizeof(bf16); ++i) rows[i] = smalti::narrow<bf16>(float(int(i * 2654435761u >> 8 & 2047) - 1024) / 512);
    std::vector<int> slots(std::size_t(heads) * n);
    cache::page_moves moves{};
    for (int s = 0; s < count; ++s) {
      all.emplace_back();
      demand(cache.open(all.back()));
      demand(cache.append(all.back(), n, {slots.data(), n}, moves));
    }
  }
  smalti::view<float, 1> score_view() { return {reinterpret_cast<float*>(scores.data), heads, n, n}; }
};

// A fork is compressed and closed, so that the sequence is whole again; metadata is all that does.
double compact(layer& l, int repeat, int threads, int tokens) {
  using system = snapkv<32>;
  const smalti::host_context context{threads};
  double sum = 0;
  for (int r = 0; r < repeat; ++r) {
    cache::sequence fork;
    demand(l.cache.fork(l.all[l.turn++ % l.all.size()], fork));
    system::args x{.cache = &l.cache, .sequence = fork, .pool = l.pool, .scores = l.score_view(), .tokens = tokens};
    if (l.plan.size < system::plan_bytes(x)) l.plan = pages(system::plan_bytes(x));
    x.plan = {l.plan.data, l.plan.size};
    if (const std::size_t bytes = system::workspace_bytes(context, x); l.space.size < bytes) l.space = pages(bytes);
    const double begin = seconds(threads);
    demand(system::run(context, x, {l.space.data, l.space.size}));
    sum += seconds(threads) - begin;
    demand(l.cache.close(fork));
  }
  return sum;
}

void enter_compact(int n, int tokens, int threads) {
  enter("cache/compact/bf16/heads:8/d128/" + std::to_string(n) + "to" + std::to_string(tokens) + "/threads:" + std::to_string(threads), [=](benchmark::State& state) {
    auto l = std::make_shared<layer>(n, 8);
    auto copies = std::make_shared<memory_stream>();
    const double bytes = 2.0 * heads * tokens * 2 * d * sizeof(bf16);                       // keys and values, read once and written once
    compact(*l, 2, threads, tokens);
    contender subject{"compress", "select and compact", [=](int repeat) { return compact(*l, repeat, threads, tokens); }};
    contender copy{"copy", "a copy of as many bytes", [=](int repeat) {
                     double s = 0;
                     for (int r = 0; r < repeat; ++r) {
                       const work_done w = copies->copy(threads, std::size_t(bytes / 2));
                       s += w.seconds * bytes / w.amount;
                     }
                     return s;
                   }};
    run(state, {.subject = subject, .peers = {copy}, .threads = threads, .bytes = bytes});
  });
}

// `rows` new queries of each head attend to n cached tokens; the pass uses the log-sum-exps that this leaves.
void enter_score(int n, int rows, int threads) {
  enter("cache/score/bf16/heads:8x4/d128/" + std::to_string(n) + "/queries:" + std::to_string(rows) + "/threads:" + std::to_string(threads), [=](benchmark::State& state) {
    using system = snapkv<64>;
    using attend = attention::flash<bf16, d, attention::paged_kv<bf16>, policy::causal>;
    struct both {
      layer l;
      std::vector<bf16> q, o;
      std::vector<float> lse;
      std::vector<int> table;
      pages space;
      system::observe::args observe;
      attend::args attention;
      explicit both(int n) : l(n, 8) {}
    };
    auto b = std::make_shared<both>(n);
    const std::size_t count = std::size_t(rows) * heads * group;
    b->q.resize(count * d), b->o.resize(count * d), b->lse.resize(count);
    for (std::size_t i = 0; i < b->q.size(); ++i) b->q[i] = smalti::narrow<bf16>(float(int(i * 40503u >> 4 & 1023) - 512) / 512);
    const smalti::host_context context{threads};
    auto prepare = [b, n, rows](cache::sequence s) {
      const int width = b->l.cache.width_for(&s, 1);
      const cache::batch_tables lies = b->l.cache.tables_of(1, width);
      b->table.resize(std::size_t(lies.ints()));
      demand(b->l.cache.tables(&s, 1, width, b->table.data(), lies.ints()));
      const auto kv = cache::kv_of<bf16, policy::hnd>(b->l.pool, 0, lies.at(b->table.data()), 1, n);
      b->observe = {.q = attention::bshd<const bf16>(b->q.data(), 1, rows, heads * group, d), .lse = attention::bshd<const float>(b->lse.data(), 1, rows, heads * group, 1), .kv = kv, .scores = b->l.score_view()};
      b->attention = {};
      b->attention.q = b->observe.q, b->attention.kv = kv, b->attention.o = attention::bshd(b->o.data(), 1, rows, heads * group, d);
      b->attention.lse = attention::bshd(b->lse.data(), 1, rows, heads * group, 1);
    };
    auto attend_once = [=] {
      if (const std::size_t bytes = attend::workspace_bytes(context, b->attention); bytes > b->space.size) b->space = pages(bytes);
      demand(attend::run(context, b->attention, {b->space.data, b->space.size}));
    };
    prepare(b->l.all[0]);
    attend_once();
    const auto sample = [=](bool score) {
      return [=](int repeat) {
        double sum = 0;
        for (int r = 0; r < repeat; ++r) {
          prepare(b->l.all[b->l.turn++ % b->l.all.size()]);
          const double begin = seconds(threads);
          if (score) demand(system::observe::run(context, b->observe));
          else attend_once();
          sum += seconds(threads) - begin;
        }
        return sum;
      };
    };
    const double flop = 2.0 * rows * n * d * heads * group;
    run(state, {.subject = {"score", "score pass", sample(true)}, .peers = {{"attention", "the attention it rides on", sample(false)}}, .threads = threads, .flop = flop, .bytes = double(heads) * n * d * sizeof(bf16),
                .arithmetic = {instruction::fma, instruction::bf16_dot, instruction::amx_bf16}});
  });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  describe_machine("");
  enter_compact(32768, 8192, 1);
  enter_compact(32768, 8192, 2);
  enter_score(16384, 64, 1);
  enter_score(32768, 1, 1);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
