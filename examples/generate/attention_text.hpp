// What the attentions' translation units have in common: the paged cache and what is asked of it.
#pragma once
#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>
#include <smalti/ops/attention/quantized.hpp>
#include <smalti/ops/cache.hpp>
#include <smalti/ops/cache/source.hpp>
#include "attention.hpp"

namespace generate::inline GENERATE_MACHINE {

using namespace smalti;

constexpr int head_dim = 64;

//! What one look at a layer's cache is given.
template <class Storage, int Page> struct looking {
  attention::head_rows<const bf16> q;
  cache::source<Storage, Page> kv;
  attention::head_rows<bf16> o;
  int layer = 0, from = 0, pages = 0;      //!< tokens before the queries; pages of the pool
  bool moved = false;                      //!< pages have been copied before this pass: what was kept beside them is elsewhere
};

//! @tparam How  look(machine, looking, scratch), what it keeps of its own (attach, bytes; see keeps_nothing), and where it lets tokens of a prompt go:
//!              settle(machine, number, cache, sequence, pool, scratch) with by_head, since each head then keeps tokens of its own
template <class Storage, class How, int Page = 0> class cache_of final : public attention_cache {
  using layout = policy::nhd;
  using from_bf16 = cache::append<bf16, Storage, layout, head_dim>;
  using paged = cache::paged<Storage, layout>;

public:
  cache_of(const attention_settings& s, const config& c, How how) : c_(c), how_(std::move(how)), sequences_(std::size_t(s.sequences)) {
    if (c.head_dim != head_dim) throw std::runtime_error("heads of " + std::to_string(c.head_dim) + " columns are not built: attention_text.hpp names the " + std::to_string(head_dim) + " that are");
    if (Page != 0 && s.page != Page) throw std::runtime_error("--attention quest is built for --page " + std::to_string(Page));
    const int tracks = How::by_head ? c.kv_heads * c.layers : 1, pages = ceil_div(s.tokens, s.page) + s.sequences;
    shape_ = {.pages = pages * tracks, .page = s.page, .kv_heads = c.kv_heads, .key_dim = head_dim, .value_dim = head_dim, .layers = c.layers, .per_head = How::by_head, .per_layer = How::by_head};
    const cache::paged_limits limits{.sequences = s.sequences, .tokens = std::min(c.context, pages * s.page)};
    metadata_ = host_buffer<std::byte>(paged::metadata_bytes(shape_, limits));
    expect(pages_.attach(shape_, limits, {metadata_.data(), metadata_.size()}));
    memory_ = buffer<std::byte>(cache::pool_bytes<Storage, layout>(shape_));
    expect((cache::make_pool<Storage, layout>(shape_, {memory_.data(), memory_.size()}, pool_)));
    how_.attach(shape_, limits.tokens);
  }

  int open() override {
    const int s = put([&](cache::sequence& made) { return pages_.open(made); });
    how_.opened(s);
    return s;
  }
  int fork(int from) override {
    const int s = put([&](cache::sequence& made) { return pages_.fork(at(from), made); });
    how_.forked(from, s);
    return s;
  }
  void close(int s) override { how_.closed(s), expect(pages_.close(at(s))), sequences_[std::size_t(s)] = {}; }
  void truncate(int s, int tokens) override { expect(pages_.truncate(at(s), tokens)); }
  int length(int s) const override { return pages_.positions(at(s)); }

  void append(const machine& on, int s, int n, scratch& memory) override {
    from_ = length(s), n_ = n;
    how_.begins(s);
    const std::size_t tracks = std::size_t(shape_.tracks());
    std::vector<int> slots(tracks * std::size_t(n)), sources(tracks), targets(tracks);
    cache::page_moves moves{sources.data(), targets.data(), int(tracks), 0};
    expect(pages_.append(at(s), n, {slots.data(), n}, moves));
    moved_ = moves.count > 0;
    if (moved_) {
      buffer<int> source(tracks), target(tracks);
      source.put(sources.data(), tracks), target.put(targets.data(), tracks);
      run<cache::copy_pages>(on, {.from = pool_, .to = pool_, .source = source.data(), .target = target.data(), .count = moves.count}, memory);
      wait(on);
    }
    slots_.reserve(slots.size());
    slots_.put(slots.data(), slots.size());

    const cache::sequence mine = at(s);
    std::vector<int> entries;
    expect(pages_.tables(&mine, 1, entries, where_));
    tables_.reserve(entries.size());
    tables_.put(entries.data(), entries.size());
  }
  void store(const machine& on, int layer, view<const bf16> k, view<const bf16> v, scratch& memory) override {
    how_.stored(on, layer, k, memory);
    const int* slots = slots_.data() + static_cast<long long>(shape_.track(layer, 0)) * n_;
    run<from_bf16>(on, {.pool = pool_, .layer = layer_in_page(layer), .k = k, .v = v, .slots = slots, .slot_head_stride = How::by_head ? n_ : 0}, memory);
  }
  void look(const machine& on, int layer, view<const bf16> q, view<bf16> o, scratch& memory) override {
    const looking<Storage, Page> a{.q = attention::bshd(q, c_.heads, head_dim), .kv = cache::source_of<Storage, layout, head_dim, head_dim, Page>(pool_, layer_in_page(layer), where_.at(tables_.data(), layer), 1, from_ + n_),
                             .o = attention::bshd(o, c_.heads, head_dim), .layer = layer, .from = from_, .pages = shape_.pages, .moved = moved_};
    how_.look(on, a, memory);
  }

  void settle(const machine& on, int s, scratch& memory) override {
    if constexpr (How::by_head) how_.settle(on, s, pages_, at(s), pool_, memory);
    else static_cast<void>(on), static_cast<void>(s), static_cast<void>(memory);
  }

  bool sparse_by_token() const override { return How::by_token; }
  std::vector<std::vector<int>> kept() const override { return how_.kept(); }
  std::size_t bytes() const override { return memory_.bytes() + how_.bytes(); }
  std::size_t bytes_used() const override { return std::size_t(pages_.bytes_in_use()) + how_.bytes_used(); }

private:
  int layer_in_page(int layer) const { return shape_.per_layer ? 0 : layer; }
  cache::sequence at(int s) const {
    if (s < 0 || std::size_t(s) >= sequences_.size()) throw std::runtime_error("no such sequence");
    return sequences_[std::size_t(s)];
  }
  template <class Make> int put(Make make) {
    for (std::size_t i = 0; i < sequences_.size(); ++i)
      if (sequences_[i] == cache::sequence{}) {
        expect(make(sequences_[i]));
        return int(i);
      }
    throw std::runtime_error("too many sequences are open");
  }

  config c_;
  How how_;
  cache::pool_shape shape_{};
  cache::page_pool pool_{};
  paged pages_;
  host_buffer<std::byte> metadata_;
  buffer<std::byte> memory_;
  std::vector<cache::sequence> sequences_;
  buffer<int> slots_, tables_;
  cache::batch_tables where_{};
  int from_ = 0, n_ = 0;
  bool moved_ = false;
};

//! Attention that keeps nothing of its own.
struct keeps_nothing {
  static constexpr bool by_token = false, by_head = false;
  void attach(const cache::pool_shape&, int) {}
  std::size_t bytes() const { return 0; }
  std::size_t bytes_used() const { return 0; }      // beside the pages
  void opened(int) {}
  void forked(int, int) {}
  void closed(int) {}
  void begins(int) {}                               // tokens of this sequence are next
  void stored(const machine&, int, const view<const bf16>&, scratch&) {}
  std::vector<std::vector<int>> kept() const { return {}; }
};

//! All keys that Mask shows; keys are split where one token would leave threads idle.
template <class Storage, class Mask, int Page = 0> struct dense_look : keeps_nothing {
  struct split : attention::options { static constexpr bool split_kv = true; };
  using attend = attention::flash<bf16, head_dim, cache::source<Storage, Page>, Mask, split>;
  Mask mask{};

  void look(const machine& on, const looking<Storage, Page>& x, scratch& memory) const {
    typename attend::args a{.q = x.q, .kv = x.kv, .o = x.o, .mask = mask};
    a.split_keys = attend::suggest_split_keys(on, a);
    run<attend>(on, a, memory);
  }
};

//! Dense causal attention to keys and values as Storage holds them.
template <class Storage> std::unique_ptr<attention_cache> make_dense(const attention_settings& s, const config& c) {
  using how = dense_look<Storage, policy::causal>;
  return std::make_unique<cache_of<Storage, how>>(s, c, how{});
}

}  // namespace generate::inline GENERATE_MACHINE
