// What becomes of the tokens that SnapKV does not choose is one template argument: forgotten (SnapKV), kept in few bits (MiKV's disposition), or left
// where they are, in a file, with the chosen ones fetched (an offloaded retriever).
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <type_traits>
#include <vector>
#include <smalti/io/mapped_pool.hpp>
#include <smalti/ops/cache.hpp>
#include <unistd.h>

using namespace smalti;

constexpr int heads = 2, group = 2, d = 64, page = 16, prompt = 512, window = 16, tokens = 128;
using storage = policy::kv_plain<bf16>;
using few_bits = policy::kv_int4<32>;
constexpr cache::paged_limits limits{.sequences = 1, .tokens = prompt};

// [systems]
template <class Rest> using system_with = cache::compress<bf16, d, policy::observation_window<window>, policy::uniform, Rest>;
using snapkv = system_with<policy::evict<>>;                 // the rest is forgotten
using mikv = system_with<policy::demote<few_bits>>;          // the rest is kept in four bits
using retriever = system_with<policy::skip_read>;            // nothing moves: the list says what is read
// [systems]

struct memory {                                              // begins on a boundary of 256 bytes
  struct alignas(256) line { std::byte bytes[256]; };
  std::vector<line> lines;
  explicit memory(std::size_t bytes) : lines((bytes + 255) / 256) {}
  workspace get() { return {lines.data(), lines.size() * 256}; }
};

// Token 100 of every head is what the last queries ask for.
std::vector<bf16> rows(int width, unsigned seed, bool asks) {
  std::mt19937 g(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<bf16> x(std::size_t(prompt) * width);
  for (bf16& e : x) e = narrow<bf16>(normal(g));
  for (int i = asks ? prompt - window : 100; i < (asks ? prompt : 101); ++i)
    for (int c = 0; c < width; ++c) x[std::size_t(i) * width + c] = narrow<bf16>(2.0f * std::sin(float(c % d)));
  return x;
}

// The retriever's chosen tokens: their pages get frames of a small pool in memory, from a pool in a file.
int fetch(const host_context& context, const cache::page_pool& file, const int* table, const std::vector<int>& kept, int frames) {
  cache::pool_shape small = file.shape;
  small.pages = frames;
  memory bytes(cache::pool_bytes<storage>(small)), metadata(cache::tiered<>::metadata_bytes(small));
  cache::page_pool fast;
  cache::tiered<> tier;
  if (!cache::make_pool<storage>(small, bytes.get(), fast) || !tier.attach(file, fast, metadata.get())) return -1;
  std::vector<int> wanted, frame, source(static_cast<std::size_t>(frames)), target(source.size());
  for (const int token : kept)
    if (const int p = table[token / page]; wanted.empty() || wanted.back() != p) wanted.push_back(p);
  frame.resize(wanted.size());
  cache::page_moves moves{source.data(), target.data(), frames, 0};
  if (!tier.fetch(wanted.data(), int(wanted.size()), frame.data(), moves)) return -1;
  if (!cache::copy_pages::run(context, {.from = file, .to = fast, .source = moves.source, .target = moves.target, .count = moves.count})) return -1;
  return moves.count;
}

template <class System> bool answer(const char* name) {
  const host_context context{};
  const cache::pool_shape shape{.pages = 120, .page = page, .kv_heads = heads, .key_dim = d, .value_dim = d, .per_head = true};
  io::mapped_pool file;                                      // all of the cache lies in a file here, so that the three differ in nothing else
  const std::string path = "smalti_example_29_" + std::to_string(::getpid());
  memory metadata(cache::paged<storage>::metadata_bytes(shape, limits)), low_metadata(cache::paged<few_bits>::metadata_bytes(shape, limits)), low_bytes(cache::pool_bytes<few_bits>(shape));
  cache::paged<storage> pages;
  cache::paged<few_bits> low;
  cache::page_pool pool, low_pool;
  cache::sequence s, low_s;
  if (!file.open(path.c_str(), cache::pool_bytes<storage>(shape)) || !cache::make_pool<storage>(shape, file.memory(), pool) || !pages.attach(shape, limits, metadata.get()) || !pages.open(s)) return false;
  if (!low.attach(shape, limits, low_metadata.get()) || !cache::make_pool<few_bits>(shape, low_bytes.get(), low_pool) || !low.open(low_s)) return false;
  std::vector<int> slots(heads * prompt), table(std::size_t(pages.tables_of(1, prompt / page).ints())), kept(heads * prompt), counts(heads);
  cache::page_moves none{};
  const std::vector<bf16> k = rows(heads * d, 1, false), v = rows(heads * d, 2, false), q = rows(heads * group * d, 3, true);
  if (!pages.append(s, prompt, {slots.data(), prompt}, none)) return false;
  if (!cache::append<bf16, storage>::run(context, {.pool = pool, .k = {k.data(), prompt, heads * d, heads * d}, .v = {v.data(), prompt, heads * d, heads * d}, .slots = slots.data(), .slot_head_stride = prompt})) return false;
  if (!pages.tables(&s, 1, prompt / page, table.data(), static_cast<long long>(table.size()))) return false;
  std::vector<float> scores(heads * prompt);
  const view<float, 1> score_rows{scores.data(), heads, prompt, prompt};
  const typename System::observe::args votes{.q = attention::bshd<const bf16>(q.data(), 1, prompt, heads * group, d), .kv = cache::kv_of<bf16>(pool, 0, pages.tables_of(1, prompt / page).at(table.data()), 1, prompt), .scores = score_rows};
  memory voting(System::observe::workspace_bytes(context, votes));
  if (!System::observe::run(context, votes, voting.get())) return false;

  typename System::args x{.cache = &pages, .sequence = s, .pool = pool, .scores = score_rows, .tokens = tokens};
  x.kept = {kept.data(), heads, prompt, prompt}, x.counts = counts.data();
  if constexpr (std::is_same_v<System, mikv>) x.low = {&low, low_s, low_pool, nullptr};
  memory plan(System::plan_bytes(x)), space(System::workspace_bytes(context, x));
  x.plan = plan.get();
  if (!System::run(context, x, space.get())) return false;
  bool found = true;
  for (int h = 0; h < heads; ++h) {
    bool here = false;
    for (int i = 0; i < counts[std::size_t(h)]; ++i) here = here || kept[std::size_t(h * prompt + i)] == 100;
    found = found && here && (std::is_same_v<System, retriever> ? pages.tokens(s, h) == prompt : pages.tokens(s, h) == tokens);
  }
  if (std::is_same_v<System, mikv>) found = found && low.tokens(low_s, 0) == prompt - tokens;
  const int fetched = std::is_same_v<System, retriever> ? fetch(context, pool, table.data(), {kept.begin(), kept.begin() + counts[0]}, prompt / page) : 0;
  std::printf("%-10s %6lld bytes as they were, %6lld in four bits, %2d pages of head 0 fetched, token 100 %s\n", name, pages.bytes(s), low.bytes(low_s), fetched, found ? "chosen" : "LOST");
  return found && fetched >= 0;
}

int main() { return answer<snapkv>("snapkv") && answer<mikv>("mikv") && answer<retriever>("retriever") ? 0 : 1; }
