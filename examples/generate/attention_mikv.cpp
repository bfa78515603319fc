// MiKV: of a prompt each head keeps a share as it is, and the others in two bits beside it; attention reads both.
#include <smalti/ops/attention/segmented.hpp>
#include <smalti/ops/cache/balance.hpp>
#include "attention_compressing.hpp"

namespace generate::inline GENERATE_MACHINE {

namespace {

using low_storage = policy::kv_int2<32>;
using system = cache::compress<bf16, head_dim, policy::accumulated<>, policy::uniform, policy::demote<low_storage, true>>;

struct mikv_look : compressing<system> {
  using low_cache = cache::paged<low_storage>;
  using low_source = cache::source<low_storage>;
  using attend = attention::segmented<bf16, head_dim, attention::options, attention::segment<low_source, policy::full, attention::scaled_queries>, attention::segment<cache::source<storage>, policy::causal>>;

  cache::pool_shape low_shape{};
  std::unique_ptr<low_cache> low = std::make_unique<low_cache>();
  cache::page_pool low_pool{};
  host_buffer<std::byte> metadata;
  buffer<std::byte> memory_of_low;
  std::vector<cache::sequence> lows;      // of each sequence
  int heads = 0, tokens = 0;               // tokens that the current sequence has in two bits
  buffer<float> query_reach, key_reach, balance, factor;      // of each layer's channels
  buffer<int> tables;
  cache::batch_tables where{};

  void attach(const cache::pool_shape& s, int limit) {
    compressing::attach(s, limit);
    const cache::paged_limits limits{.sequences = int(lows.size()), .tokens = limit};
    low_shape = s;
    metadata = host_buffer<std::byte>(low_cache::metadata_bytes(low_shape, limits));
    expect(low->attach(low_shape, limits, {metadata.data(), metadata.size()}));
    memory_of_low = buffer<std::byte>(cache::pool_bytes<low_storage>(low_shape));
    expect(cache::make_pool<low_storage>(low_shape, {memory_of_low.data(), memory_of_low.size()}, low_pool));
    const std::size_t keys = std::size_t(s.layers) * std::size_t(s.kv_heads) * head_dim, queries = std::size_t(s.layers) * std::size_t(heads) * head_dim;
    query_reach = buffer<float>(queries), factor = buffer<float>(queries), key_reach = buffer<float>(keys), balance = buffer<float>(keys);
    query_reach.clear(queries), key_reach.clear(keys);
  }
  std::size_t bytes() const { return compressing::bytes() + memory_of_low.bytes() + query_reach.bytes() + key_reach.bytes() + balance.bytes() + factor.bytes(); }
  std::size_t bytes_used() const { return std::size_t(low->bytes_in_use()); }
  void opened(int s) {
    compressing::opened(s);
    query_reach.clear(query_reach.size()), key_reach.clear(key_reach.size());
    expect(low->open(lows[std::size_t(s)]));
  }
  void forked(int from, int s) {
    compressing::forked(from, s);
    expect(low->fork(lows[std::size_t(from)], lows[std::size_t(s)]));
  }
  void closed(int s) { expect(low->close(lows[std::size_t(s)])); }

  // The tables of what a sequence has in two bits, before its next tokens.
  void begins(int s) {
    tokens = low->tokens(lows[std::size_t(s)]);
    if (tokens == 0) return;
    std::vector<int> entries;
    expect(low->tables(&lows[std::size_t(s)], 1, entries, where));
    tables.reserve(entries.size()), tables.put(entries.data(), entries.size());
  }
  // How far each channel reaches, over a prompt.
  void stored(const machine& on, int layer, const view<const bf16>& k, scratch& memory) {
    if (tokens == 0 && k.rows > 1) run<cache::channel_reach<bf16>>(on, {.x = k, .most = key_reach.data() + std::size_t(layer) * std::size_t(k.cols)}, memory);
  }

  void look(const machine& on, const looking<storage, 0>& x, scratch& memory) {
    const int columns = heads * head_dim, n = x.q.rows;
    if (tokens == 0) {
      if (n > 1) run<cache::channel_reach<bf16>>(on, {.x = {x.q.data, n, columns, x.q.row_stride}, .most = query_reach.data() + std::size_t(x.layer) * std::size_t(columns)}, memory);
      return compressing::look(on, x, memory);
    }
    typename attend::args a{.q = x.q};
    a.segments = {{cache::source_of<low_storage, policy::nhd, head_dim>(low_pool, 0, where.at(tables.data(), x.layer), 1, tokens), {}, {factor.data() + std::size_t(x.layer) * std::size_t(columns)}}, {x.kv, {}, {}}};
    a.o = x.o;
    run<attend>(on, a, memory);
  }

  template <class Paged> void settle(const machine& on, int id, Paged& pages, cache::sequence s, const cache::page_pool& pool, scratch& memory) {
    if (!gathers || budget(pages.positions(s)) >= pages.positions(s)) return;
    run<cache::channel_balance>(on, {query_reach.data(), key_reach.data(), shape.layers, heads, shape.kv_heads, head_dim, balance.data(), factor.data()}, memory);
    typename system::args x{};
    x.low = {low.get(), lows[std::size_t(id)], low_pool, balance.data()};
    choose(on, x, pages, s, pool, memory);
  }
};

}  // namespace

std::unique_ptr<attention_cache> make_mikv(const attention_settings& s, const config& c, double share) {
  mikv_look how;
  how.share = share, how.heads = c.heads, how.lows.resize(std::size_t(s.sequences));
  return std::make_unique<cache_of<storage, mikv_look>>(s, c, std::move(how));
}

}  // namespace generate::inline GENERATE_MACHINE
