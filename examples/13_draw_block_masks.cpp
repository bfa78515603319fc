// Draws which tiles of 64 queries and 64 keys attention looks at: what masks say of a tile, and what searches chose in a run.
//     example.13_draw_block_masks [FOLDER]     writes FOLDER/block_masks.svg (default: the current folder)
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>
#include <smalti/core/workspace_pool.hpp>
#include <smalti/ops/attention/select_hip.hpp>
#include <smalti/ops/attention/vertical_slash.hpp>
#include <smalti/policy/masks/branches.hpp>
#include <smalti/policy/masks/window.hpp>

using namespace smalti;
using policy::tile_class;

constexpr int tokens = 2048, side = 64, tiles = tokens / side, d = 64;
using picture = std::vector<tile_class>;  // [tile of queries][tile of keys]

template <class Mask> picture of_mask(const Mask& unbound) {
  const auto mask = policy::bound(unbound, {0, 0, tokens, tokens});
  picture p;
  for (int i = 0; i < tiles; ++i)
    for (int j = 0; j < tiles; ++j) p.push_back(policy::classify(mask, {i * side, (i + 1) * side}, {j * side, (j + 1) * side}));
  return p;
}

// Keys that drift as a text's topics do; two places that late queries ask for.
std::vector<bf16> drifting(unsigned seed, bool asks) {
  std::vector<bf16> x(std::size_t(tokens) * d);
  std::vector<float> at(d);
  for (int i = 0; i < tokens; ++i)
    for (int c = 0; c < d; ++c) {
      seed = seed * 1664525u + 1013904223u;
      const float noise = float(int(seed >> 8) % 2001 - 1000) / 500.0f;
      at[c] = 0.98f * at[c] + 0.2f * noise;
      const bool key = !asks && ((i >= 300 && i < 420) || (i >= 1100 && i < 1200)), query = asks && i >= 1500;
      x[std::size_t(i) * d + c] = narrow<bf16>((key || query) && c % 4 == 0 ? 2.0f + 0.1f * noise : at[c]);
    }
  return x;
}

status searched(picture& hip, picture& slash, std::vector<int>& columns) {
  const std::vector<bf16> q = drifting(1, true), k = drifting(2, false);
  const auto rows = [](const std::vector<bf16>& x) { return attention::bshd(x.data(), 1, tokens, 1, d); };
  const host_context context{};
  workspace_pool pool(context);
  using search = attention::hip_select<bf16, d>;
  search::args h{.q = rows(q), .kv = {rows(k), rows(k)}, .shape = {.queries = side, .block = side, .groups = 5, .sink = side}, .representatives = 4};
  std::vector<int> lists(std::size_t(tiles) * h.shape.width());
  h.blocks = {lists.data(), tiles, h.shape.width(), h.shape.width()};
  if (const status bad = pool.reserve(search::workspace_bytes(context, h)); !bad) return bad;
  if (const status bad = search::run(context, h, pool.memory()); !bad) return bad;
  hip.assign(tiles * tiles, tile_class::skip);
  for (int i = 0; i < tiles; ++i)
    for (int n = 0; n < h.shape.width(); ++n)
      if (const int j = lists[std::size_t(i) * h.shape.width() + n]; j >= 0) hip[i * tiles + j] = j == i ? tile_class::partial : tile_class::full;

  using probe = attention::vertical_slash_select<bf16, d>;
  probe::args v{.q = rows(q), .kv = h.kv, .verticals = 24, .slashes = 48, .forced_columns = 4, .forced_slashes = 32};
  std::vector<int> blocks(std::size_t(tiles) * probe::width(v));
  std::vector<unsigned char> covered(tiles * tiles);
  columns.assign(v.verticals, 0);
  v.columns = {columns.data(), 1, v.verticals, v.verticals}, v.blocks = {blocks.data(), tiles, probe::width(v), probe::width(v)}, v.covered = {covered.data(), tiles, tiles, tiles};
  if (const status bad = pool.reserve(probe::workspace_bytes(context, v)); !bad) return bad;
  if (const status bad = probe::run(context, v, pool.memory()); !bad) return bad;
  slash.assign(tiles * tiles, tile_class::skip);
  for (int n = 0; n < tiles * tiles; ++n)
    if (covered[n]) slash[n] = n / tiles == n % tiles ? tile_class::partial : tile_class::full;
  return {};
}

void draw(std::FILE* f, int at, const char* title, const picture& p, const std::vector<int>& columns = {}) {
  const int cell = 6, left = 10 + at % 3 * (tiles * cell + 20), top = 26 + at / 3 * (tiles * cell + 40);
  int seen = 0;
  std::fprintf(f, "<text x='%d' y='%d'>%s</text><rect x='%d' y='%d' width='%d' height='%d' fill='#f2f2ee'/>\n", left, top - 6, title, left, top, tiles * cell, tiles * cell);
  for (int n = 0, run = 1; n < tiles * tiles; n += run, run = 1) {  // equal neighbours in one rectangle
    while ((n + run) % tiles != 0 && p[n + run] == p[n]) ++run;
    if (p[n] == tile_class::skip) continue;
    seen += run;
    std::fprintf(f, "<rect x='%d' y='%d' width='%d' height='5' fill='%s'/>", left + n % tiles * cell, top + n / tiles * cell, run * cell - 1, p[n] == tile_class::full ? "#2b6ca3" : "#8fbcdb");
  }
  for (const int c : columns) std::fprintf(f, "<rect x='%.1f' y='%.1f' width='0.8' height='%.1f' fill='#c8572b'/>", left + c * cell / 64.0, top + c * cell / 64.0, (tokens - c) * cell / 64.0);
  std::fprintf(f, "\n<text x='%d' y='%d' fill='#777'>%d of %d tiles</text>\n", left, top + tiles * cell + 12, seen, tiles * tiles);
}

int main(int count, char** words) {
  picture hip, slash;
  std::vector<int> columns, begin(tokens), end(tokens), position(tokens), summary(4 * tiles);
  if (const status st = searched(hip, slash, columns); !st) return std::printf("refused: %s\n", st.what), 1;
  const policy::trie_node nodes[] = {{0, 384, -1}, {384, 768, 0}, {768, 1024, 1}, {1024, 1216, 1}, {1216, 1792, 0}, {1792, 2048, 4}};
  if (const status st = policy::fill_trie(tokens, nodes, 6, begin.data(), end.data(), position.data()); !st) return std::printf("refused: %s\n", st.what), 1;
  policy::fill_column_summary(begin.data(), end.data(), 1, tokens, tokens, side, summary.data());
  const policy::column_interval<1, policy::causal> trie{begin.data(), end.data(), tokens, tokens, 0, 0, summary.data(), side};

  const std::string path = (count > 1 ? std::string(words[1]) : std::string(".")) + "/block_masks.svg";
  std::FILE* f = std::fopen(path.c_str(), "w");
  if (f == nullptr) return std::printf("cannot write %s\n", path.c_str()), 1;
  std::fprintf(f, "<svg xmlns='http://www.w3.org/2000/svg' width='646' height='480' font-family='sans-serif' font-size='11'><rect width='646' height='480' fill='white'/>\n");
  draw(f, 0, "causal", of_mask(policy::causal{}));
  draw(f, 1, "sink and window", of_mask(policy::sink_window_keys(64, 384)));
  draw(f, 2, "packed trie: ancestors only", of_mask(trie));
  draw(f, 3, "HiP: 5 blocks found, sink, own", hip);
  draw(f, 4, "vertical-slash: blocks and columns", slash, columns);
  draw(f, 5, "chunks of 512", of_mask(policy::chunked<>{512}));
  std::fprintf(f, "</svg>\n");
  std::fclose(f);
  // The places that late queries ask for were found, and no search looks at the future.
  bool right = hip[30 * tiles + 5] == tile_class::full && hip[30 * tiles + 18] == tile_class::full;
  for (int i = 0; i < tiles; ++i)
    for (int j = i + 1; j < tiles; ++j) right = right && hip[i * tiles + j] == tile_class::skip && slash[i * tiles + j] == tile_class::skip;
  std::printf("%s; HiP %s the places that late queries ask for\n", path.c_str(), right ? "finds" : "MISSES");
  return right ? 0 : 1;
}
