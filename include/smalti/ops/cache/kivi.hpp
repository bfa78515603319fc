// KIVI: keys in few bits channel by channel, values token by token, and a window of the newest tokens as they are.
// docs/ops/cache/kivi.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <smalti/block/attention/kv.hpp>
#include <smalti/block/attention/kv_quantized.hpp>
#include <smalti/block/attention/segments.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/cache/append.hpp>
#include <smalti/ops/cache/paged.hpp>
#include <smalti/ops/cache/pool.hpp>
#include <smalti/ops/cache/source.hpp>
#include <smalti/policy/kv_integer.hpp>
#include <smalti/policy/masks/from_key.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! Of a sequence with n tokens, the first K keys and the first V values are integers, the rest lies in a window of `Residual` tokens:
//!     after the first tokens    K = n - n mod Residual,   V = max(0, n - Residual)
//!     with each further one     all Residual keys of a full window move together, before the next token; the oldest value every step
//! so that attention sees the newest 1 to Residual keys and the newest Residual values as they are. Groups hold tokens of one sequence
//! only. The attention to the first tokens is the caller's, in full precision.
//!
//! A composition: storage policy::kv_per_channel_keys, pages of one pool (cache::paged), a second pool of plain rows as window (token t
//! in slot t mod Residual of its sequence's page), attention in three segments: [0, V) all integers, [V, K) keys integers and values
//! plain, [K, n) plain; read by attention::over_segments<T, D, kivi<...>>.
//!
//! Metadata on the host, one thread, in memory of the caller's; a refused call changes nothing. Sequences are not forked.
//! @tparam Group     tokens of a channel, and channels of a token, that share scale and minimum; divides Residual and the head dims
//! @note  bytes of a token and head, keys and values: 2 D (Bits / 8 + 4 / Group); the window adds 4 D Residual a head once
//! Source: Liu et al. 2024, arXiv:2402.02750.
template <int D, int Bits = 2, int Group = 32, int Residual = 128, class Element = bf16, class Layout = policy::nhd>
class kivi {
  static_assert(Residual > 0 && Residual % Group == 0, "smalti: the window of kivi holds whole groups of tokens: choose a Residual that Group divides");

public:
  using storage = policy::kv_per_channel_keys<Bits, Group>;
  using window_storage = policy::kv_plain<Element>;
  using store_op = append<Element, storage, Layout, D>;
  using window_op = append<Element, window_storage, policy::nhd>;
  using coded = source<storage>;
  using window = source<window_storage, Residual>;
  //! What attention::segmented takes.
  using segments = std::tuple<attention::segment<coded>, attention::segment<attention::paired_kv<coded, window>, policy::from_key>, attention::segment<window, policy::causal>>;

  //! The window's pool: a page for each sequence that may be open.
  static pool_shape window_shape(const pool_shape& s, const paged_limits& l) {
    return {.pages = l.sequences, .page = Residual, .kv_heads = s.kv_heads, .key_dim = D, .value_dim = D, .layers = s.layers};
  }
  static status check(const pool_shape& s, const paged_limits& l) {
    if (s.key_dim != D || s.value_dim != D) return {errc::bad_shape, "kivi: key_dim and value_dim must be the head dim in its type", s.key_dim, D};
    if (s.per_head || s.per_layer) return {errc::bad_value, "kivi: heads and layers share their pages: leave per_head and per_layer"};
    if (s.page <= 0 || Residual % s.page != 0 || s.page % Group != 0) return {errc::bad_shape, "kivi: the page must divide the window and hold whole groups", s.page, Group};
    if (l.prefixes) return {errc::bad_value, "kivi: pages are not found by prefixes: leave limits.prefixes"};
    if (const status bad = check_shape(window_storage::format, window_shape(s, l)); !bad) return bad;
    return paged<storage, Layout>::check(s, l);
  }
  static std::size_t metadata_bytes(const pool_shape& s, const paged_limits& l) {
    carver c;
    lay_out(c, s, l);
    return c.used;
  }
  //! @param pool    of `storage` and Layout; @param window  of window_storage and nhd, with window_shape
  status attach(const pool_shape& s, const paged_limits& l, workspace metadata, const page_pool& pool, const page_pool& window) {
    if (const status bad = check(s, l); !bad) return bad;
    if (const status bad = check_workspace(metadata, metadata_bytes(s, l)); !bad) return bad;
    if (!(pool.format == storage::format) || !(pool.shape == s) || pool.order != Layout::order) return {errc::bad_value, "kivi: pool is of another storage, shape or layout: use make_pool<storage, Layout>"};
    if (!(window.format == window_storage::format) || !(window.shape == window_shape(s, l)) || window.order != policy::kv_order::nhd)
      return {errc::bad_value, "kivi: window is of another storage, shape or layout: use make_pool<window_storage>(window_shape(...))"};
    carver c{metadata.data};
    const parts p = lay_out(c, s, l);
    if (const status bad = pages_.attach(s, l, {p.pages, paged<storage, Layout>::metadata_bytes(s, l)}); !bad) return bad;
    tokens_ = p.tokens, keys_ = p.keys, latest_ = p.latest, pool_ = pool, window_ = window;
    return {};
  }

  status open(sequence& out) {
    if (const status bad = pages_.open(out); !bad) return bad;
    tokens_[out.index] = keys_[out.index] = 0;
    return {};
  }
  status close(sequence s) { return pages_.close(s); }
  int positions(sequence s) const { return pages_.is_open(s) ? tokens_[s.index] : 0; }
  //! Keys and values that are integers.
  int coded_keys(sequence s) const { return pages_.is_open(s) ? keys_[s.index] : 0; }
  int coded_values(sequence s) const { return pages_.is_open(s) && tokens_[s.index] > Residual ? tokens_[s.index] - Residual : 0; }
  const paged<storage, Layout>& metadata() const { return pages_; }

  //! What one step moves, for all layers: lists in memory that the context's machine reads.
  struct step {
    int *key_rows = nullptr, *key_slots = nullptr, *value_rows = nullptr, *value_slots = nullptr;     //!< window to pool
    int *fill_rows = nullptr, *fill_slots = nullptr, *fill_value_rows = nullptr, *fill_value_slots = nullptr;   //!< new rows to pool
    int* window_slots = nullptr;                                                                      //!< of each new token
    int keys = 0, values = 0, fill_keys = 0, fill_values = 0, tokens = 0;
    int token_capacity = 0, sequence_capacity = 0;
  };
  static std::size_t step_bytes(int tokens, int sequences) {
    carver c;
    lay_out(c, tokens, sequences);
    return c.used;
  }
  //! An empty step for so many new tokens of so many sequences.
  static status begin(int tokens, int sequences, workspace memory, step& out) {
    if (tokens < 0 || sequences < 0) return {errc::bad_shape, "kivi: tokens and sequences of a step must not be negative", tokens < 0 ? tokens : sequences, 0};
    if (const status bad = check_workspace(memory, step_bytes(tokens, sequences)); !bad) return bad;
    carver c{memory.data};
    out = lay_out(c, tokens, sequences);
    return {};
  }
  //! The next n new rows of the step are tokens of s: its first ones, any number, or one more.
  status add(step& out, sequence s, int n) {
    if (!pages_.is_open(s)) return {errc::bad_value, "kivi: the sequence is not open"};
    const int have = tokens_[s.index];
    if (n < 1 || (have > 0 && n != 1)) return {errc::bad_shape, "kivi: after its first tokens a sequence grows by one token a step", n, 1};
    if (out.tokens + n > out.token_capacity) return {errc::bad_shape, "kivi: the step has room for fewer tokens: say so in begin", out.tokens + n, out.token_capacity};
    for (int i = 0; i < out.tokens; ++i)
      if (out.window_slots[i] >= 0 && out.window_slots[i] / Residual == s.index) return {errc::bad_value, "kivi: a sequence is added to a step once"};
    page_moves none{};                     // whole pages, never shared: nothing is copied
    int* const latest = latest_ + static_cast<long long>(s.index) * Residual;
    if (have == 0) {
      const int whole = n - n % Residual, old = n > Residual ? n - Residual : 0;
      int* const slots = out.fill_slots + out.fill_keys;
      if (whole > 0)
        if (const status bad = pages_.append(s, whole, {slots, 0}, none); !bad) return bad;
      for (int i = 0; i < whole; ++i) out.fill_rows[out.fill_keys + i] = out.tokens + i;
      for (int i = 0; i < old; ++i) out.fill_value_rows[out.fill_values + i] = out.tokens + i, out.fill_value_slots[out.fill_values + i] = slots[i];
      for (int i = 0; i < Residual && whole > 0; ++i) latest[i] = slots[whole - Residual + i];
      for (int i = 0; i < n; ++i) out.window_slots[out.tokens + i] = i < n - Residual ? -1 : s.index * Residual + i % Residual;
      out.fill_keys += whole, out.fill_values += old, keys_[s.index] = whole;
    } else {
      if (have - keys_[s.index] == Residual) {
        if (out.keys + Residual > out.sequence_capacity * Residual) return {errc::bad_shape, "kivi: the step has room for fewer sequences: say so in begin", out.keys / Residual + 1, out.sequence_capacity};
        if (const status bad = pages_.append(s, Residual, {latest, 0}, none); !bad) return bad;
        for (int i = 0; i < Residual; ++i) out.key_rows[out.keys + i] = s.index * Residual + i, out.key_slots[out.keys + i] = latest[i];
        out.keys += Residual, keys_[s.index] += Residual;
      }
      if (have >= Residual) {
        out.value_rows[out.values] = s.index * Residual + have % Residual;        // where the new token goes, too
        out.value_slots[out.values++] = latest[have % Residual];
      }
      out.window_slots[out.tokens] = s.index * Residual + have % Residual;
    }
    out.tokens += n, tokens_[s.index] = have + n;
    return {};
  }

  //! Moves and stores a layer's rows of a step: k and v are [step.tokens][kv_head * D]. Every layer of a step before the next step's.
  template <class Context> status store(const Context& context, const step& x, int layer, const view<const Element>& k, const view<const Element>& v) const {
    if (k.rows != x.tokens || v.rows != x.tokens) return {errc::bad_shape, "kivi: k and v need a row for each token of the step", k.rows, x.tokens};
    const view<Element> wk = pool_rows<Element>(window_, plane::keys, layer), wv = pool_rows<Element>(window_, plane::values, layer);
    const int heads = pool_.shape.kv_heads, rows = wk.rows / heads, width = heads * D;
    const view<const Element> window_k{wk.data, rows, width, width}, window_v{wv.data, rows, width, width};
    const auto move = [&](const view<const Element>& from_k, const view<const Element>& from_v, const int* list, const int* slots, int count, bool keys) {
      return count == 0 ? status{} : store_op::run(context, {.pool = pool_, .layer = layer, .k = from_k, .v = from_v, .slots = slots, .rows = list, .tokens = count, .keys = keys, .values = !keys});
    };
    return first_of([&] { return move(window_k, window_v, x.key_rows, x.key_slots, x.keys, true); }, [&] { return move(window_k, window_v, x.value_rows, x.value_slots, x.values, false); },
                    [&] { return move(k, v, x.fill_rows, x.fill_slots, x.fill_keys, true); }, [&] { return move(k, v, x.fill_value_rows, x.fill_value_slots, x.fill_values, false); },
                    [&] { return window_op::run(context, {.pool = window_, .layer = layer, .k = k, .v = v, .slots = x.window_slots}); });
  }

  //! Tables of a batch for attention, the same for all layers, in memory that the context's machine reads.
  struct tables {
    pages all{}, last{}, mine{}, recent{};       //!< [0, V) and [V, K) of the pool, the window beside [V, K), the window
    const int* hidden = nullptr;                 //!< keys of the last coded window whose values are coded
    int sequences = 0, most = 0;
  };
  std::size_t tables_bytes(const sequence* batch, int count) const {
    carver c;
    lay_out_tables(c, count, pages_.width_for(batch, count));
    return c.used;
  }
  status tables_of(const sequence* batch, int count, workspace memory, tables& out) const {
    if (count < 0 || (count > 0 && batch == nullptr)) return {errc::null_pointer, "kivi: the batch is missing", 0, count};
    const int width = pages_.width_for(batch, count), page = pages_.shape().page, blocks = Residual / page;
    if (const status bad = check_workspace(memory, tables_bytes(batch, count)); !bad) return bad;
    carver c{memory.data};
    const lists l = lay_out_tables(c, count, width);
    const auto shape = pages_.tables_of(count, width);
    if (const status bad = pages_.tables(batch, count, width, l.all, shape.ints()); !bad) return bad;
    int most = 0;
    for (int b = 0; b < count; ++b) {
      const int s = batch[b].index, n = tokens_[s], keys = keys_[s], values = n > Residual ? n - Residual : 0;
      for (int p = 0; p < blocks; ++p) l.last[b * blocks + p] = keys > 0 ? l.all[static_cast<long long>(b) * width + keys / page - blocks + p] : -1;
      l.window[b] = s, l.values[b] = values, l.block[b] = keys > 0 ? Residual : 0, l.fresh[b] = n - keys, l.hidden[b] = keys > 0 ? values - (keys - Residual) : 0;
      if (values > most) most = values;
    }
    out = {.all = {l.all, width, 0, l.values, 0, page}, .last = {l.last, blocks, 0, l.block, 0, page}, .mine = {l.window, 1, 0, l.block, 0, Residual}, .recent = {l.window, 1, 0, l.fresh, 0, Residual},
           .hidden = l.hidden, .sequences = count, .most = most};
    return {};
  }
  segments segments_of(const tables& t, int layer) const {
    const auto codes = [&](const pages& where, int most) { return source_of<storage, Layout, D>(pool_, layer, where, t.sequences, most); };
    const auto plain = [&](const pages& where) { return source_of<window_storage, policy::nhd, D, D, Residual>(window_, layer, where, t.sequences, Residual); };
    return {{codes(t.all, t.most), {}, {}}, {{codes(t.last, Residual), plain(t.mine)}, {0, t.hidden}, {}}, {plain(t.recent), {}, {}}};
  }
  //! What a sequence holds: its pages, and its page of the window.
  long long bytes(sequence s) const { return pages_.is_open(s) ? pages_.bytes(s) + page_bytes(window_storage::format, window_.shape) : 0; }

private:
  struct parts {
    std::byte* pages;
    int *tokens, *keys, *latest;
  };
  static parts lay_out(carver& c, const pool_shape& s, const paged_limits& l) {
    parts p{};
    p.pages = c.take<std::byte>(paged<storage, Layout>::metadata_bytes(s, l));
    p.tokens = c.take<int>(std::size_t(l.sequences)), p.keys = c.take<int>(std::size_t(l.sequences)), p.latest = c.take<int>(std::size_t(l.sequences) * Residual);
    return p;
  }
  static step lay_out(carver& c, int tokens, int sequences) {
    step x{};
    const std::size_t t = std::size_t(tokens), s = std::size_t(sequences);
    x.key_rows = c.take<int>(s * Residual), x.key_slots = c.take<int>(s * Residual), x.value_rows = c.take<int>(s), x.value_slots = c.take<int>(s);
    x.fill_rows = c.take<int>(t), x.fill_slots = c.take<int>(t), x.fill_value_rows = c.take<int>(t), x.fill_value_slots = c.take<int>(t), x.window_slots = c.take<int>(t);
    x.token_capacity = tokens, x.sequence_capacity = sequences;
    return x;
  }
  struct lists {
    int *all, *last, *window, *values, *block, *fresh, *hidden;
  };
  lists lay_out_tables(carver& c, int count, int width) const {
    lists l{};
    const std::size_t n = std::size_t(count > 0 ? count : 0);
    l.all = c.take<int>(n * (std::size_t(width > 0 ? width : 0) + 1)), l.last = c.take<int>(n * (Residual / pages_.shape().page));
    l.window = c.take<int>(n), l.values = c.take<int>(n), l.block = c.take<int>(n), l.fresh = c.take<int>(n), l.hidden = c.take<int>(n);
    return l;
  }
  paged<storage, Layout> pages_;
  page_pool pool_{}, window_{};
  int *tokens_ = nullptr, *keys_ = nullptr, *latest_ = nullptr;
};

}  // namespace smalti::inline SMALTI_CODE::cache
