// Cache compression on the host: survivors that move to pages of their own against a copy of as many bytes, a token's append against the attention
// of its step, and the score pass against the attention whose log-sum-exps it uses.
#include <interleave.hpp>
#include <limits.hpp>
#include <machine.hpp>
#include <smalti/core/context.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/cache/append.hpp>
#include <smalti/ops/cache/compact.hpp>
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

// The survivors of every sequence, chosen once by SnapKV from random scores: `tokens` of each head.
struct choice {
  int tokens;
  std::vector<int> kept, counts;
  choice(layer& l, int count) : tokens(count), kept(std::size_t(heads) * count), counts(heads) {
    using system = cache::compress<bf16, d, policy::observation_window<32>, policy::uniform, policy::skip_read, storage, policy::hnd>;
    const smalti::host_context context{1};
    system::args x{.cache = &l.cache, .sequence = l.all[0], .pool = l.pool, .scores = l.score_view(), .tokens = tokens};
    x.kept = {kept.data(), heads, tokens, tokens}, x.counts = counts.data();
    const pages plan(system::plan_bytes(x)), space(system::workspace_bytes(context, x));
    x.plan = {plan.data, plan.size};
    demand(system::run(context, x, {space.data, space.size}));
  }
};

// A fork is compacted and closed, so that the sequence is whole again; metadata is all that does.
double compact(layer& l, const choice& c, int repeat, int threads) {
  using op = cache::compact<d, policy::keep_original, storage, policy::hnd>;
  const smalti::host_context context{threads};
  double sum = 0;
  for (int r = 0; r < repeat; ++r) {
    cache::sequence fork;
    demand(l.cache.fork(l.all[l.turn++ % l.all.size()], fork));
    op::args x{.cache = &l.cache, .sequence = fork, .pool = l.pool, .kept = {c.kept.data(), heads, c.tokens, c.tokens}, .counts = c.counts.data()};
    if (l.plan.size < op::plan_bytes(x)) l.plan = pages(op::plan_bytes(x));
    x.plan = {l.plan.data, l.plan.size};
    if (const std::size_t bytes = op::workspace_bytes(context, x); l.space.size < bytes) l.space = pages(bytes);
    const double begin = seconds(threads);
    demand(op::run(context, x, {l.space.data, l.space.size}));
    sum += seconds(threads) - begin;
    demand(l.cache.close(fork));
  }
  return sum;
}

void enter_compact(int n, int tokens, int threads) {
  enter("cache/compact/bf16/heads:8/d128/" + std::to_string(n) + "to" + std::to_string(tokens) + "/threads:" + std::to_string(threads), [=](benchmark::State& state) {
    auto l = std::make_shared<layer>(n, 8);
    auto c = std::make_shared<choice>(*l, tokens);
    auto copies = std::make_shared<memory_stream>();
    const double bytes = 2.0 * heads * tokens * 2 * d * sizeof(bf16);                       // keys and values, read once and written once
    compact(*l, *c, 2, threads);
    contender subject{"compact", "tables, lists and rows", [=](int repeat) { return compact(*l, *c, repeat, threads); }};
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

// One token more: room for it, the tables of the sequence anew, its rows. Beside it the attention of the step, of this one layer.
void enter_append(int n, int threads) {
  enter("cache/append/bf16/heads:8x4/d128/" + std::to_string(n) + "/threads:" + std::to_string(threads), [=](benchmark::State& state) {
    using attend = attention::flash<bf16, d, attention::paged_kv<bf16>, policy::full>;
    using put = cache::append<bf16, storage, policy::hnd>;
    struct step {
      layer l;
      std::vector<bf16> q, o, k;
      std::vector<int> table, slots;
      cache::batch_tables lies;
      pages space;
      explicit step(int n) : l(n, std::max(8, int(std::size_t(1) << 29) / (n * heads * 2 * d * 2))), q(heads * group * d), o(q.size()), k(heads * d), slots(heads) {
        for (std::size_t i = 0; i < q.size(); ++i) q[i] = smalti::narrow<bf16>(float(int(i * 40503u >> 4 & 1023) - 512) / 512);
        for (std::size_t i = 0; i < k.size(); ++i) k[i] = smalti::narrow<bf16>(float(int(i * 40503u >> 4 & 1023) - 512) / 512);
      }
      void refresh(cache::sequence s) {
        demand(l.cache.tables(&s, 1, table, lies));
      }
    };
    auto b = std::make_shared<step>(n);
    const smalti::host_context context{threads};
    const auto upkeep = [=](int repeat) {
      double sum = 0;
      for (int r = 0; r < repeat; ++r) {
        const cache::sequence s = b->l.all[b->l.turn++ % b->l.all.size()];
        demand(b->l.cache.truncate(s, n - 1));
        const double begin = seconds(threads);
        cache::page_moves moves{};
        demand(b->l.cache.append(s, 1, {b->slots.data(), 1}, moves));
        b->refresh(s);
        demand(put::run(context, {.pool = b->l.pool, .k = {b->k.data(), 1, heads * d, heads * d}, .v = {b->k.data(), 1, heads * d, heads * d}, .slots = b->slots.data(), .slot_head_stride = 1}));
        sum += seconds(threads) - begin;
      }
      return sum;
    };
    const auto decode = [=](int repeat) {
      double sum = 0;
      for (int r = 0; r < repeat; ++r) {
        const cache::sequence s = b->l.all[b->l.turn++ % b->l.all.size()];
        b->refresh(s);
        attend::args x{};
        x.q = attention::bshd<const bf16>(b->q.data(), 1, 1, heads * group, d), x.o = attention::bshd(b->o.data(), 1, 1, heads * group, d);
        x.kv = cache::kv_of<bf16, policy::hnd>(b->l.pool, 0, b->lies.at(b->table.data()), 1, n);
        if (const std::size_t bytes = attend::workspace_bytes(context, x); bytes > b->space.size) b->space = pages(bytes);
        const double begin = seconds(threads);
        demand(attend::run(context, x, {b->space.data, b->space.size}));
        sum += seconds(threads) - begin;
      }
      return sum;
    };
    decode(2);
    run(state, {.subject = {"append", "append and page tables", upkeep}, .peers = {{"decode", "the step's attention, one layer", decode}}, .threads = threads, .bytes = 2.0 * heads * 2 * d * sizeof(bf16)});
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
      cache::batch_tables lies;
      demand(b->l.cache.tables(&s, 1, b->table, lies));
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
  enter_append(4096, 1);
  enter_score(16384, 64, 1);
  enter_score(32768, 1, 1);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
