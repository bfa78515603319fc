// A paged key and value cache: two requests share a prompt, part ways, and every byte is given back.
#include <cstdio>
#include <vector>
#include <smalti/ops/cache.hpp>

using namespace smalti;

// [types]
using storage = policy::kv_plain<bf16>;                                  // what a pool holds
using kv_cache = cache::paged<storage, policy::nhd>;                     // who holds which page
using kv_append = cache::append<bf16, storage, policy::nhd>;             // what writes the rows
// [types]

constexpr int heads = 2, d = 64;
constexpr cache::pool_shape shape{.pages = 32, .page = 16, .kv_heads = heads, .key_dim = d, .value_dim = d};
constexpr cache::paged_limits limits{.sequences = 4, .tokens = 256, .prefixes = true};

struct memory {                                                          // begins on a boundary of 256 bytes
  struct alignas(256) line { std::byte bytes[256]; };
  std::vector<line> lines;
  explicit memory(std::size_t bytes) : lines((bytes + 255) / 256) {}
  workspace get() { return {lines.data(), lines.size() * 256}; }
};

// Keys and values of one token: a number that stands for the token, so that the answer can be checked.
void compute(const std::int32_t* tokens, int n, std::vector<bf16>& k, std::vector<bf16>& v) {
  k.assign(std::size_t(n) * heads * d, {});
  v = k;
  for (int i = 0; i < n * heads * d; ++i) k[i] = narrow<bf16>(float(tokens[i / (heads * d)])), v[i] = narrow<bf16>(-float(tokens[i / (heads * d)]));
}

// [append]
// New tokens of one sequence: room first, then the copies that sharing asks for, then the rows.
status add(kv_cache& cache, const cache::page_pool& pool, cache::sequence s, const std::vector<std::int32_t>& tokens) {
  const host_context context{};
  const int n = int(tokens.size());
  std::vector<int> slots(tokens.size());
  int source[1], target[1];
  cache::page_moves moves{source, target, 1, 0};
  if (const status bad = cache.append(s, n, {slots.data()}, moves, tokens.data()); !bad) return bad;   // all or nothing
  if (const status bad = cache::copy_pages::run(context, {.from = pool, .to = pool, .source = source, .target = target, .count = moves.count}); !bad) return bad;
  std::vector<bf16> k, v;
  compute(tokens.data(), n, k, v);
  if (const status bad = kv_append::run(context, {.pool = pool, .k = {k.data(), n, heads * d, heads * d}, .v = {v.data(), n, heads * d, heads * d}, .slots = slots.data()}); !bad)
    return bad;
  return cache.publish(s);                                               // full pages may be shared from now on
}
// [append]

// What attention would read: slot by slot through the table of a batch.
bool holds(const kv_cache& cache, const cache::page_pool& pool, cache::sequence s, const std::vector<std::int32_t>& tokens) {
  // [tables]
  std::vector<int> table;
  cache::batch_tables lies;
  if (!cache.tables(&s, 1, table, lies)) return false;                   // for a GPU: one copy of table to the device
  const pages p = lies.at(table.data());                                 // the descriptor that attention takes
  // [tables]
  const view<bf16> keys = cache::pool_rows<bf16>(pool, cache::plane::keys, 0);
  bool same = p.tokens(0, 0) == int(tokens.size());
  for (int t = 0; same && t < p.tokens(0, 0); ++t) {
    const int slot = int(p.slot(0, 0, t));
    same = to_float(keys.data[std::size_t(policy::nhd{}.row(slot / shape.page, slot % shape.page, 1, heads, shape.page)) * d]) == float(tokens[std::size_t(t)]);
  }
  return same;
}

int main() {
  // [setup]
  memory metadata(kv_cache::metadata_bytes(shape, limits)), bytes(cache::pool_bytes<storage>(shape));
  kv_cache cache;
  cache::page_pool pool;
  if (!cache.attach(shape, limits, metadata.get()) || !cache::make_pool<storage>(shape, bytes.get(), pool)) return 1;
  // [setup]
  std::vector<std::int32_t> prompt(40), one = prompt, two, three;
  for (int i = 0; i < 40; ++i) prompt[std::size_t(i)] = one[std::size_t(i)] = i;
  cache::sequence a, b, c;
  if (!cache.open(a) || !add(cache, pool, a, prompt)) return 1;
  two = three = prompt;

  // [fork]
  if (!cache.fork(a, b)) return 1;                                       // shares all three pages, the last one half full
  one.push_back(100), two.push_back(200);
  if (!add(cache, pool, a, {100}) || !add(cache, pool, b, {200})) return 1;   // a gets a copy of the half full one
  // [fork]
  // [match]
  int matched = 0;
  if (!cache.open(c) || !cache.match(c, prompt.data(), int(prompt.size()) - 1, matched)) return 1;
  if (!add(cache, pool, c, {prompt.begin() + matched, prompt.end()})) return 1;   // only what is not there yet
  // [match]
  const int used = shape.pages - cache.free_pages();
  const bool right = matched == 32 && used == 5 && holds(cache, pool, a, one) && holds(cache, pool, b, two) && holds(cache, pool, c, three);
  for (const cache::sequence s : {a, b, c})
    if (!cache.close(s)) return 1;
  const bool returned = cache.free_pages() == shape.pages && cache.bytes_in_use() == 0 && cache.audit();
  std::printf("three sequences of 40 tokens in %d pages of %d, %d tokens shared with the third: %s\n", used, shape.page, matched, right && returned ? "right, and all given back" : "WRONG");
  return right && returned ? 0 : 1;
}
