// Everything is kept, and each token that is decoded reads a share of it: SparF reads few channels of all keys and then few tokens, ActQKV the pages that a probe
// of the newest queries recalls. Prefill is dense.
#include <smalti/flow/actqkv.hpp>
#include <smalti/flow/sparf.hpp>
#include <smalti/ops/attention/searched.hpp>
#include <smalti/prim/permute.hpp>
#include "attention_text.hpp"

namespace generate::inline GENERATE_MACHINE {

namespace {

using storage = policy::kv_plain<bf16>;
constexpr int page = 16;

// What is kept beside the pages is brought up to date with each pass; all of it anew where another sequence, or a fork's copied page, comes.
struct recalled : keeps_nothing {
  static constexpr bool by_token = true;
  dense_look<storage, policy::causal, page> all{};
  double share = 1;
  cache::pool_shape shape{};
  int next = 0;
  bool anew = false;
  std::vector<std::vector<int>> read;       // by the newest token: of each layer and head

  void attach(const cache::pool_shape& s, int) { shape = s, read.resize(std::size_t(s.layers) * std::size_t(s.kv_heads)); }
  std::vector<std::vector<int>> kept() const { return read; }
  int fresh(const looking<storage, page>& x) {
    if (x.layer == 0) anew = x.moved || x.from != next || x.from == 0, next = x.from + x.q.rows;
    return anew ? -1 : x.q.rows;
  }
  static bool decodes(const looking<storage, page>& x) { return x.q.rows == 1 && x.from > 0; }
  int whole(const looking<storage, page>& x, int least) const { return std::max(least, int(share * (x.from + 1) + 0.5)); }
};

struct sparf_look : recalled {
  using attend = cache::sparf<bf16, head_dim, page>;
  buffer<bf16> channels;                    // of every layer's keys
  buffer<float> sums;

  void attach(const cache::pool_shape& s, int limit) {
    recalled::attach(s, limit);
    channels = buffer<bf16>(std::size_t(s.layers) * rows() * page), channels.clear(channels.size());
    sums = buffer<float>(std::size_t(s.layers) * std::size_t(s.kv_heads) * head_dim);
  }
  std::size_t rows() const { return std::size_t(shape.pages) * std::size_t(shape.kv_heads) * head_dim; }
  std::size_t bytes() const { return channels.bytes() + sums.bytes(); }

  void look(const machine& on, const looking<storage, page>& x, scratch& memory) {
    const int heads = shape.kv_heads;
    typename attend::index_op::args index{.kv = x.kv, .fresh = fresh(x), .channels = {channels.data() + std::size_t(x.layer) * rows() * page, int(rows()), page, page},
                                          .sums = {sums.data() + std::size_t(x.layer) * std::size_t(heads) * head_dim, heads, head_dim, head_dim}};
    expect(attend::index_op::run(on, index));
    if (!decodes(x)) return all.look(on, x, memory);
    // as large a share of the channels as of the tokens, and no fewer than 16
    const int tokens = whole(x, 64), window = std::min(tokens, 16);
    run<attend>(on, {.q = x.q, .index = index, .channels_read = std::min(head_dim, std::max(16, int(share * head_dim + 0.5))), .tokens = tokens, .window = window, .o = x.o}, memory);
  }
};

struct actqkv_look : recalled {
  using recall = cache::actqkv<bf16, head_dim, page>;
  using attend = attention::flash<bf16, head_dim, attention::paged_kv<bf16, page>, policy::causal, attention::with_padded_lists<attention::options, page, 1>>;
  static constexpr int window = 32;         // queries that the probe is made of
  int heads = 0, columns = 0, seen = 0;     // pages of the longest sequence; queries since the sequence began to be decoded
  std::vector<int> pages_of_layer;          // that are read: fewer in layers where few pages have the scores
  buffer<bf16> means, queries;
  buffer<float> scores;
  buffer<int> in_use, blocks;
  std::vector<float> all_scores;
  std::vector<double> weights;
  std::vector<int> used, numbers;

  void attach(const cache::pool_shape& s, int limit) {
    recalled::attach(s, limit);
    columns = round_up(ceil_div(limit, page), 4);
    const std::size_t layers = std::size_t(s.layers), rows = std::size_t(s.kv_heads);
    means = buffer<bf16>(layers * std::size_t(s.pages) * rows * head_dim), means.clear(means.size());
    queries = buffer<bf16>(layers * window * std::size_t(heads) * head_dim);
    scores = buffer<float>(layers * rows * std::size_t(columns)), scores.clear(scores.size());
    in_use = buffer<int>(layers * rows), blocks = buffer<int>(rows * std::size_t(columns));
    all_scores.resize(scores.size()), used.resize(in_use.size()), weights.resize(2 * layers * rows), numbers.resize(2 * layers + layers * rows);
  }
  std::size_t bytes() const { return means.bytes() + queries.bytes() + scores.bytes(); }

  void look(const machine& on, const looking<storage, page>& x, scratch& memory) {
    const int kv_heads = shape.kv_heads, width = heads * head_dim, rows = shape.pages * kv_heads, pages = ceil_div(x.from + 1, page);
    const std::size_t layer = std::size_t(x.layer);
    typename recall::args a{.kv = x.kv, .fresh = fresh(x), .means = {means.data() + layer * std::size_t(rows) * head_dim, rows, head_dim, head_dim}};
    expect(recall::means(on, a));
    if (x.layer == 0 && anew) seen = 0, pages_of_layer.clear();
    if (!decodes(x)) return all.look(on, x, memory);
    bf16* const ring = queries.data() + layer * window * std::size_t(width);
    run<prim::permute<bf16, prim::movement::copy>>(on, {.from = {x.q.data, 1, width, width}, .to = {ring + std::size_t(seen % window) * std::size_t(width), 1, width, width}}, memory);
    const int base = std::max(3, int(share * pages + 0.5)), k = std::min(pages, pages_of_layer.empty() ? base : std::max(2, pages_of_layer[layer]));
    a.q = attention::bshd<const bf16>(ring, 1, std::min(seen + 1, window), heads, head_dim);
    a.scores = {scores.data() + layer * std::size_t(kv_heads) * std::size_t(columns), kv_heads, columns, columns}, a.pages = in_use.data() + layer * std::size_t(kv_heads);
    a.temperature = 8;                      // a deviation is a sum over 64 channels
    a.k = std::max(2, k), a.blocks = {blocks.data(), kv_heads, a.k, a.k};
    const workspace rest = memory.at_least(recall::workspace_bytes(on, a));
    expect(recall::score(on, a, rest));
    expect(recall::choose(on, a, rest));
    typename attend::args b{.q = x.q, .kv = x.kv, .o = x.o};
    b.blocks = {{blocks.data(), kv_heads, a.k, a.k}, heads / kv_heads, 1, true};
    run<attend>(on, b, memory);
    note(x, a.k);
    if (x.layer + 1 < shape.layers) return;
    // How spread each layer's scores are says how many pages it reads of the next token.
    ++seen;
    scores.get(all_scores.data(), all_scores.size()), in_use.get(used.data(), used.size());
    pages_of_layer.resize(std::size_t(shape.layers));
    expect(recall::budgets(all_scores.data(), columns, used.data(), shape.layers, kv_heads, base, pages_of_layer.data(), weights.data(), numbers.data()));
  }
  void note(const looking<storage, page>& x, int k) {
    std::vector<int> list(std::size_t(shape.kv_heads) * std::size_t(k));
    blocks.get(list.data(), list.size());
    for (int h = 0; h < shape.kv_heads; ++h) {
      std::vector<int>& mine = read[std::size_t(x.layer) * std::size_t(shape.kv_heads) + std::size_t(h)];
      mine.clear();
      for (int i = 0; i < k; ++i)
        for (int t = list[std::size_t(h * k + i)] * page; t >= 0 && t < std::min(x.from + 1, (list[std::size_t(h * k + i)] + 1) * page); ++t) mine.push_back(t);
    }
  }
};

template <class Look> std::unique_ptr<attention_cache> make_recalled(const attention_settings& s, const config& c, double share, Look how) {
  if (s.page != page) throw std::runtime_error("--cache " + s.cache + " is built for --page " + std::to_string(page));
  how.share = share;
  return std::make_unique<cache_of<storage, Look, page>>(s, c, std::move(how));
}

}  // namespace

std::unique_ptr<attention_cache> make_sparf(const attention_settings& s, const config& c, double share) { return make_recalled(s, c, share, sparf_look()); }
std::unique_ptr<attention_cache> make_actqkv(const attention_settings& s, const config& c, double share) {
  actqkv_look how;
  how.heads = c.heads;
  return make_recalled(s, c, share, std::move(how));
}

}  // namespace generate::inline GENERATE_MACHINE
