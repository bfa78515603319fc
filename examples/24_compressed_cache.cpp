// A long prompt is cached, then each head keeps a quarter of it: SnapKV's choice. One template argument makes it another system; another
// one makes it a retriever that forgets nothing.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>
#include <smalti/ops/cache.hpp>

using namespace smalti;

constexpr int layers = 2, heads = 2, group = 2, d = 64, page = 16, prompt = 512, window = 16;
using storage = policy::kv_plain<bf16>;
using kv_cache = cache::paged<storage>;

// [systems]
using votes = policy::observation_window<window>;                        // what the last queries look at
using snapkv = cache::compress<bf16, d, votes>;                          // each head keeps as many tokens, the rest goes
using pyramid = cache::compress<bf16, d, votes, policy::pyramid>;        // more in lower layers
using tova = cache::compress<bf16, d, policy::last_query>;               // what the last query looks at
using retriever = cache::compress<bf16, d, votes, policy::uniform, policy::skip_read>;   // nothing goes: lists for attention
// [systems]

struct memory {                                                          // begins on a boundary of 256 bytes
  struct alignas(256) line { std::byte bytes[256]; };
  std::vector<line> lines;
  explicit memory(std::size_t bytes) : lines((bytes + 255) / 256) {}
  workspace get() { return {lines.data(), lines.size() * 256}; }
};

// Token 100 of every head is what the last queries ask for.
std::vector<bf16> rows(int n, int width, unsigned seed, bool asks) {
  std::mt19937 g(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<bf16> x(std::size_t(n) * width);
  for (bf16& e : x) e = narrow<bf16>(normal(g));
  const int first = asks ? n - window : 100, last = asks ? n : 101;
  for (int i = first; i < last; ++i)
    for (int c = 0; c < width; ++c) x[std::size_t(i) * width + c] = narrow<bf16>(2.0f * std::sin(float(c % d)));
  return x;
}

template <class System> bool compressed(const char* name, int tokens) {
  constexpr cache::pool_shape shape{.pages = 256, .page = page, .kv_heads = heads, .key_dim = d, .value_dim = d, .layers = layers, .per_head = true, .per_layer = true};
  constexpr cache::paged_limits limits{.sequences = 1, .tokens = prompt};
  const host_context context{};
  memory metadata(kv_cache::metadata_bytes(shape, limits)), bytes(cache::pool_bytes<storage>(shape));
  kv_cache cache;
  cache::page_pool pool;
  cache::sequence s;
  if (!cache.attach(shape, limits, metadata.get()) || !cache::make_pool<storage>(shape, bytes.get(), pool) || !cache.open(s)) return false;
  std::vector<int> slots(std::size_t(shape.tracks()) * prompt);
  cache::page_moves moves{};
  if (!cache.append(s, prompt, {slots.data(), prompt}, moves)) return false;

  std::vector<int> table;
  cache::batch_tables tables;
  if (!cache.tables(&s, 1, table, tables)) return false;
  std::vector<float> memory_of_scores(std::size_t(shape.tracks()) * prompt);
  const view<float, 1> scores{memory_of_scores.data(), shape.tracks(), prompt, prompt};
  // [observe]
  for (int l = 0; l < layers; ++l) {
    const std::vector<bf16> k = rows(prompt, heads * d, unsigned(l), false), v = rows(prompt, heads * d, unsigned(9 + l), false), q = rows(prompt, heads * group * d, unsigned(99 + l), true);
    if (!cache::append<bf16, storage>::run(context, {.pool = pool, .k = {k.data(), prompt, heads * d, heads * d}, .v = {v.data(), prompt, heads * d, heads * d},
                                                     .slots = slots.data() + shape.track(l, 0) * prompt, .slot_head_stride = prompt})) return false;
    // ... the layer's attention over the prompt; then its last queries vote
    const typename System::observe::args votes{.q = attention::bshd<const bf16>(q.data(), 1, prompt, heads * group, d),
                                               .kv = cache::kv_of<bf16>(pool, l, tables.at(table.data(), l), 1, prompt),
                                               .scores = System::rows_of(shape, scores, l)};
    memory space(System::observe::workspace_bytes(context, votes));
    if (!System::observe::run(context, votes, space.get())) return false;
  }
  // [observe]
  const int before = cache.pages_of(s);
  std::vector<int> kept(std::size_t(shape.tracks()) * prompt), counts(std::size_t(shape.tracks()));
  // [compress]
  typename System::args x{.cache = &cache, .sequence = s, .pool = pool, .scores = scores, .tokens = tokens};
  x.kept = {kept.data(), shape.tracks(), prompt, prompt}, x.counts = counts.data();            // wanted: which tokens stay
  memory plan(System::plan_bytes(x)), space(System::workspace_bytes(context, x));
  x.plan = plan.get();
  if (!System::run(context, x, space.get())) return false;
  // [compress]
  bool found = true;
  for (int t = 0; t < shape.tracks(); ++t) {
    bool here = false;
    for (int i = 0; i < counts[std::size_t(t)]; ++i) here = here || kept[std::size_t(t) * prompt + i] == 100;
    found = found && here;
  }
  std::printf("%-10s", name);
  for (const int n : counts) std::printf("%5d", n);
  std::printf("   pages %3d -> %3d, token 100 %s\n", before, cache.pages_of(s), found ? "kept" : "LOST");
  return found && bool(cache.audit());
}

int main() {
  std::printf("tokens of each layer and head, of %d\n", prompt);
  const bool right = compressed<snapkv>("snapkv", 128) && compressed<pyramid>("pyramid", 128) && compressed<tova>("tova", 128) && compressed<retriever>("retriever", 128);
  return right ? 0 : 1;
}
