// KIVI: after the prompt, keys in few bits channel by channel and values token by token, and the newest tokens as they are. The prompt itself is read in full
// precision, from rows that are free again once it is settled.
#include <memory>
#include <smalti/ops/attention/segmented.hpp>
#include <smalti/ops/cache/kivi.hpp>
#include <smalti/prim/permute.hpp>
#include "attention_text.hpp"

namespace generate::inline GENERATE_MACHINE {

namespace {

constexpr int window = 32;

template <int Bits> class kivi_cache final : public attention_cache {
  using system = cache::kivi<head_dim, Bits, 32, window>;
  using attend = attention::over_segments<bf16, head_dim, system>;
  using attend_prompt = attention::flash<bf16, head_dim, attention::dense_kv<bf16>, policy::causal>;

public:
  kivi_cache(const attention_settings& s, const config& c) : c_(c), most_(std::min(c.context, s.tokens)) {
    if (c.head_dim != head_dim) throw std::runtime_error("heads of " + std::to_string(c.head_dim) + " columns are not built: attention_text.hpp names the " + std::to_string(head_dim) + " that are");
    const cache::pool_shape shape{.pages = ceil_div(most_, window) * s.sequences, .page = window, .kv_heads = c.kv_heads, .key_dim = head_dim, .value_dim = head_dim, .layers = c.layers};
    const cache::paged_limits limits{.sequences = s.sequences, .tokens = most_};
    const cache::pool_shape plain = system::window_shape(shape, limits);
    codes_ = buffer<std::byte>(cache::pool_bytes<typename system::storage>(shape)), newest_ = buffer<std::byte>(cache::pool_bytes<typename system::window_storage>(plain));
    cache::page_pool pool{}, recent{};
    expect((cache::make_pool<typename system::storage>(shape, {codes_.data(), codes_.size()}, pool)));
    expect((cache::make_pool<typename system::window_storage>(plain, {newest_.data(), newest_.size()}, recent)));
    metadata_ = host_buffer<std::byte>(system::metadata_bytes(shape, limits));
    expect(kivi_.attach(shape, limits, {metadata_.data(), metadata_.size()}, pool, recent));
    sequences_.resize(std::size_t(s.sequences)), taken_.resize(std::size_t(s.sequences));
  }

  int open() override {
    for (std::size_t i = 0; i < taken_.size(); ++i)
      if (!taken_[i]) {
        expect(kivi_.open(sequences_[i]));
        taken_[i] = true, prompt_ = int(i), prompted_ = 0;
        return int(i);
      }
    throw std::runtime_error("too many sequences are open");
  }
  int fork(int) override { throw std::runtime_error("--cache kivi is not built with forks: a sequence has a window of its own"); }
  void close(int s) override { expect(kivi_.close(at(s))), taken_[std::size_t(s)] = false; }
  void truncate(int s, int tokens) override {
    if (settled(s)) throw std::runtime_error("--cache kivi takes nothing back: what has lost bits stays so");
    prompted_ = std::min(prompted_, tokens);
  }
  int length(int s) const override { return settled(s) ? kivi_.positions(at(s)) : prompted_; }
  bool forks() const override { return false; }
  bool sparse_by_token() const override { return true; }
  bool one_by_one(int s) const override { return settled(s); }

  void append(const machine& on, int s, int n, scratch& memory) override {
    now_ = s, n_ = n;
    static_cast<void>(on), static_cast<void>(memory);
    if (!settled(s)) {
      if (s != prompt_ || prompted_ + n > most_) throw std::runtime_error(s != prompt_ ? "--cache kivi takes one prompt at a time" : "--context is smaller than the prompt");
      if (keys_.empty())
        for (int l = 0; l < c_.layers; ++l) keys_.emplace_back(std::size_t(most_) * columns()), values_.emplace_back(std::size_t(most_) * columns());
      from_ = prompted_, prompted_ += n;
      return;
    }
    grow(s, n);
    const cache::sequence mine[] = {at(s)};
    tables_memory_.reserve(kivi_.tables_bytes(mine, 1));
    expect(kivi_.tables_of(mine, 1, {tables_memory_.data(), tables_memory_.size()}, tables_));
  }
  void store(const machine& on, int layer, view<const bf16> k, view<const bf16> v, scratch& memory) override {
    if (settled(now_)) return expect(kivi_.store(on, step_, layer, k, v));
    const int columns = c_.kv_heads * head_dim;
    const auto behind = [&](buffer<bf16>& to, const view<const bf16>& rows) {
      run<prim::permute<bf16, prim::movement::copy>>(on, {.from = {rows.data, n_, columns, rows.stride}, .to = {to.data() + std::size_t(from_) * this->columns(), n_, columns, columns}}, memory);
    };
    behind(keys_[std::size_t(layer)], k), behind(values_[std::size_t(layer)], v);
  }
  void look(const machine& on, int layer, view<const bf16> q, view<bf16> o, scratch& memory) override {
    const auto queries = attention::bshd(q, c_.heads, head_dim);
    const auto out = attention::bshd(o, c_.heads, head_dim);
    if (settled(now_)) return run<attend>(on, {.q = queries, .segments = kivi_.segments_of(tables_, layer), .o = out}, memory);
    const auto rows = [&](const buffer<bf16>& of) { return attention::bshd<const bf16>(of.data(), 1, prompted_, c_.kv_heads, head_dim); };
    run<attend_prompt>(on, {.q = queries, .kv = {rows(keys_[std::size_t(layer)]), rows(values_[std::size_t(layer)])}, .o = out}, memory);
  }
  void settle(const machine& on, int s, scratch& memory) override {
    if (settled(s) || prompted_ == 0) return;
    static_cast<void>(memory);
    const int n = prompted_, columns = c_.kv_heads * head_dim;
    grow(s, n);
    for (std::size_t l = 0; l < keys_.size(); ++l) expect(kivi_.store(on, step_, int(l), keys_[l].read(n, columns), values_[l].read(n, columns)));
    wait(on);
    keys_.clear(), values_.clear();
    prompt_ = -1, prompted_ = 0;
  }

  std::size_t bytes() const override { return codes_.bytes() + newest_.bytes() + 2 * keys_.size() * std::size_t(most_) * columns() * sizeof(bf16); }
  std::size_t bytes_used() const override {
    std::size_t sum = 2 * std::size_t(c_.layers) * std::size_t(prompted_) * columns() * sizeof(bf16);
    for (std::size_t i = 0; i < taken_.size(); ++i) sum += taken_[i] && kivi_.positions(sequences_[i]) > 0 ? std::size_t(kivi_.bytes(sequences_[i])) : 0;
    return sum;
  }

private:
  std::size_t columns() const { return std::size_t(c_.kv_heads) * head_dim; }
  cache::sequence at(int s) const {
    if (s < 0 || std::size_t(s) >= taken_.size() || !taken_[std::size_t(s)]) throw std::runtime_error("no such sequence");
    return sequences_[std::size_t(s)];
  }
  bool settled(int s) const { return kivi_.positions(at(s)) > 0; }
  void grow(int s, int n) {
    lists_.reserve(system::step_bytes(n, 1));
    expect(system::begin(n, 1, {lists_.data(), lists_.size()}, step_));
    expect(kivi_.add(step_, at(s), n));
  }

  config c_;
  int most_, prompt_ = -1, prompted_ = 0, now_ = 0, n_ = 0, from_ = 0;      // the prompt that is being read, and its tokens so far
  system kivi_;
  host_buffer<std::byte> metadata_;
  buffer<std::byte> codes_, newest_;
  shared_buffer<std::byte> lists_, tables_memory_;
  std::vector<buffer<bf16>> keys_, values_;                                  // the prompt's, of each layer
  std::vector<cache::sequence> sequences_;
  std::vector<bool> taken_;
  typename system::step step_{};
  typename system::tables tables_{};
};

}  // namespace

std::unique_ptr<attention_cache> make_kivi(const attention_settings& s, const config& c, double share) {
  if (share == 0.5) return std::make_unique<kivi_cache<8>>(s, c);
  if (share == 0.25) return std::make_unique<kivi_cache<4>>(s, c);
  if (share == 0.125) return std::make_unique<kivi_cache<2>>(s, c);
  throw std::runtime_error("--cache " + s.cache + " is not built: kivi:0.5, kivi:0.25 and kivi:0.125 are, with 8, 4 and 2 bits of 16");
}

}  // namespace generate::inline GENERATE_MACHINE
