// MiKV: no token left behind. Important tokens as they are, the others in few bits. docs/ops/cache/mikv.md.
#pragma once
#include <algorithm>
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
#include <smalti/policy/channel_balance.hpp>
#include <smalti/policy/kv_integer.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! Each head keeps its `budget` most important tokens in full precision; what an eviction would drop is demoted to integers once, and
//! never comes back. Which tokens are important says the caller, by scores. Keys of the low set are multiplied by the channel balancer
//! (policy/channel_balance.hpp) before they are quantized, and meet queries divided by it; both sets share one softmax.
//!
//! A composition: two pools with pages for each head (cache::paged, policy::kv_plain and Low), demotion by cache::append from one to the
//! other, attention in two segments, the low one with scaled_queries: attention::over_segments<T, D, mikv<...>>, for decode (every query
//! sees every token). A token demoted gives its slot to the new one: the high pool never moves.
//!
//! Metadata on the host, one thread, in memory of the caller's; a refused call changes nothing. Sequences are not forked.
//! @tparam Low  policy::kv_integer with scales for channels of a token: kv_int2<>, kv_int4<>, ...
//! @note  bytes of a head, D = 128, kv_int2<0>, a quarter kept: 0.25 * 512 + 0.75 * 72 = 182 a token of 512
//! Source: Yang et al. 2024, arXiv:2402.18096.
template <int D, class Low = policy::kv_int2<32>, class Element = bf16, class Layout = policy::nhd>
class mikv {
  static_assert(policy::is_kv_integer<Low> && Low::format.key_axis == policy::kv_axis::channels && Low::format.value_axis == policy::kv_axis::channels,
                "smalti: mikv demotes single tokens: choose a Low whose scales are for channels of one token, as policy::kv_int2<>");

public:
  using storage = Low;
  using high_storage = policy::kv_plain<Element>;
  using low_op = append<Element, Low, Layout, D, D, true>;
  using high_op = append<Element, high_storage, policy::nhd>;
  using high_source = source<high_storage>;
  using low_source = source<Low>;
  //! What attention::segmented takes.
  using segments = std::tuple<attention::segment<high_source>, attention::segment<low_source, policy::full, attention::scaled_queries>>;

  struct settings {
    int budget = 0;               //!< tokens of a head in full precision
    int sinks = 0, recent = 1;    //!< the first and the newest, which are never demoted; together at most the budget
  };
  //! Limits: of each pool; limits.tokens of a sequence.
  static status check(const pool_shape& high, const pool_shape& low, const paged_limits& l, const settings& set) {
    for (const pool_shape* s : {&high, &low}) {
      if (s->key_dim != D || s->value_dim != D) return {errc::bad_shape, "mikv: key_dim and value_dim must be the head dim in its type", s->key_dim, D};
      if (!s->per_head || s->per_layer) return {errc::bad_value, "mikv: heads keep different tokens and layers the same: set per_head, leave per_layer"};
    }
    if (high.kv_heads != low.kv_heads || high.layers != low.layers) return {errc::bad_shape, "mikv: both pools need the same heads and layers", low.kv_heads, high.kv_heads};
    if (l.prefixes) return {errc::bad_value, "mikv: pages are not found by prefixes: leave limits.prefixes"};
    if (set.budget < 1 || set.sinks < 0 || set.recent < 1 || set.sinks + set.recent > set.budget)
      return {errc::bad_value, "mikv: the budget must hold the sinks and the recent tokens, at least one", set.budget, set.sinks + set.recent};
    if (const status bad = paged<high_storage>::check(high, l); !bad) return bad;
    return paged<Low, Layout>::check(low, l);
  }
  static std::size_t metadata_bytes(const pool_shape& high, const pool_shape& low, const paged_limits& l, const settings& set) {
    carver c;
    lay_out(c, high, low, l, set);
    return c.used;
  }
  //! @param balance  [kv_head][D] and query_factor [head][D] of every layer, one after another, in the context's memory; frozen from here on
  status attach(const page_pool& high, const page_pool& low, const paged_limits& l, const settings& set, workspace metadata, const float* balance, const float* query_factor, int heads) {
    if (const status bad = check(high.shape, low.shape, l, set); !bad) return bad;
    if (const status bad = check_workspace(metadata, metadata_bytes(high.shape, low.shape, l, set)); !bad) return bad;
    if (!(high.format == high_storage::format) || high.order != policy::kv_order::nhd) return {errc::bad_value, "mikv: high is of another storage or layout: use make_pool<high_storage>"};
    if (!(low.format == Low::format) || low.order != Layout::order) return {errc::bad_value, "mikv: low is of another storage or layout: use make_pool<storage, Layout>"};
    if (balance == nullptr || query_factor == nullptr) return {errc::null_pointer, "mikv: balance and query_factor are missing: policy::fill_channel_balance writes them, ones leave keys as they are"};
    if (heads < high.shape.kv_heads || heads % high.shape.kv_heads != 0) return {errc::bad_shape, "mikv: query heads must be a multiple of key heads", heads, high.shape.kv_heads};
    carver c{metadata.data};
    const parts p = lay_out(c, high.shape, low.shape, l, set);
    if (const status bad = high_.attach(high.shape, l, {p.high, paged<high_storage>::metadata_bytes(high.shape, l)}); !bad) return bad;
    if (const status bad = low_.attach(low.shape, l, {p.low, paged<Low, Layout>::metadata_bytes(low.shape, l)}); !bad) return bad;
    records_ = p.records, members_ = p.members, slots_ = p.slots, high_pool_ = high, low_pool_ = low, set_ = set, balance_ = balance, query_factor_ = query_factor, heads_ = heads;
    return {};
  }

  status open(sequence& out) {
    sequence low;
    if (const status bad = low_.open(low); !bad) return bad;
    if (const status bad = high_.open(out); !bad) {
      static_cast<void>(low_.close(low));
      return bad;
    }
    records_[out.index] = {low, 0, 0};
    return {};
  }
  status close(sequence s) {
    if (!high_.is_open(s)) return {errc::bad_value, "mikv: the sequence is not open"};
    if (const status bad = low_.close(records_[s.index].low); !bad) return bad;
    return high_.close(s);
  }
  int positions(sequence s) const { return high_.is_open(s) ? records_[s.index].tokens : 0; }
  //! Tokens of a head in full precision, and the position of the one at place m; in no order once tokens have been demoted.
  int important(sequence s) const { return high_.is_open(s) ? records_[s.index].members : 0; }
  int demoted(sequence s) const { return high_.is_open(s) ? records_[s.index].tokens - records_[s.index].members : 0; }
  int member(sequence s, int head, int m) const { return members_[place(s, head) + m]; }
  const paged<high_storage>& high_metadata() const { return high_; }
  const paged<Low, Layout>& low_metadata() const { return low_; }
  long long bytes(sequence s) const { return high_.is_open(s) ? high_.bytes(s) + low_.bytes(records_[s.index].low) : 0; }

  //! What one step moves, for all layers: lists in memory that the context's machine reads.
  struct step {
    int *demoted_rows = nullptr, *demoted_slots = nullptr;      //!< [kv_head][sequence]: of the high pool, into the low
    int *low_slots = nullptr, *high_slots = nullptr;            //!< [kv_head][token]: of the new tokens; negative: not there
    int* scratch = nullptr;
    int demotions = 0, tokens = 0, fills = 0;
    int token_capacity = 0, sequence_capacity = 0, heads = 0;
  };
  std::size_t step_bytes(int tokens, int sequences) const {
    carver c;
    lay_out(c, tokens, sequences);
    return c.used;
  }
  status begin(int tokens, int sequences, workspace memory, step& out) const {
    if (tokens < 0 || sequences < 0) return {errc::bad_shape, "mikv: tokens and sequences of a step must not be negative", tokens < 0 ? tokens : sequences, 0};
    if (const status bad = check_workspace(memory, step_bytes(tokens, sequences)); !bad) return bad;
    carver c{memory.data};
    out = lay_out(c, tokens, sequences);
    return {};
  }
  //! The next n new rows of the step are tokens of s: its first ones, any number, or one more.
  //! @param scores  [kv_head][stride]: of the n first tokens, by position, where they are more than the budget; or of the tokens in full
  //!                precision, by their places (see member), once these are the budget. The lowest goes; of equal ones the older. Not
  //!                looked at otherwise. NaN counts as the lowest
  status add(step& out, sequence s, int n, const float* scores = nullptr, long long stride = 0) {
    if (!high_.is_open(s)) return {errc::bad_value, "mikv: the sequence is not open"};
    record& r = records_[s.index];
    if (n < 1 || (r.tokens > 0 && n != 1)) return {errc::bad_shape, "mikv: after its first tokens a sequence grows by one token a step", n, 1};
    if (out.tokens + n > out.token_capacity) return {errc::bad_shape, "mikv: the step has room for fewer tokens: say so in begin", out.tokens + n, out.token_capacity};
    const bool first = r.tokens == 0, demotes = !first && r.members == set_.budget;
    const int kept = first ? (n < set_.budget ? n : set_.budget) : 0;
    if ((demotes || (first && n > kept)) && (scores == nullptr || stride < (first ? n : set_.budget)))
      return {errc::null_pointer, "mikv: scores are missing: one for each token and head that may be demoted", stride, first ? n : set_.budget};
    if (demotes && out.demotions == out.sequence_capacity) return {errc::bad_shape, "mikv: the step has room for fewer sequences: say so in begin", out.demotions + 1, out.sequence_capacity};
    page_moves none{};                        // pages are never shared: nothing is copied
    const int down = first ? n - kept : demotes ? 1 : 0, up = first ? kept : demotes ? 0 : 1;
    if (high_.pages_for(s, up) > high_.free_pages() || high_.pages_for(s, up) < 0) return {errc::exhausted, "mikv: the high pool has too few free pages", high_.free_pages(), high_.pages_for(s, up)};
    if (low_.pages_for(r.low, down) > low_.free_pages() || low_.pages_for(r.low, down) < 0) return {errc::exhausted, "mikv: the low pool has too few free pages", low_.free_pages(), low_.pages_for(r.low, down)};
    int *const up_slots = out.scratch, *const down_slots = out.scratch + static_cast<long long>(out.heads) * out.token_capacity, *const order = down_slots + static_cast<long long>(out.heads) * out.token_capacity;
    if (up > 0)
      if (const status bad = high_.append(s, up, {up_slots, up}, none); !bad) return bad;
    if (down > 0)
      if (const status bad = low_.append(r.low, down, {down_slots, down}, none); !bad) return bad;
    for (int h = 0; h < out.heads; ++h) {
      const long long here = place(s, h);
      int *const low = out.low_slots + static_cast<long long>(h) * out.token_capacity + out.tokens, *const high = out.high_slots + static_cast<long long>(h) * out.token_capacity + out.tokens;
      const float* const of_head = scores + h * stride;
      if (first) {
        choose(order, n, kept, of_head);
        int u = 0, d = 0;
        for (int t = 0; t < n; ++t) {
          const bool stays = order[t] != 0;
          high[t] = stays ? up_slots[h * up + u] : -1;
          low[t] = stays ? -1 : down_slots[h * down + d++];
          if (stays) members_[here + u] = t, slots_[here + u] = high[t], ++u;
        }
      } else {
        int m = r.members;
        if (demotes) {
          m = -1;
          for (int i = 0; i < set_.budget; ++i) {
            const int at = members_[here + i];
            if (at < set_.sinks || at >= r.tokens + 1 - set_.recent) continue;
            if (m < 0 || below(of_head[i], at, of_head[m], members_[here + m])) m = i;
          }
          const long long list = static_cast<long long>(h) * out.sequence_capacity + out.demotions;
          out.demoted_rows[list] = slots_[here + m], out.demoted_slots[list] = down_slots[h];
        } else {
          slots_[here + m] = up_slots[h];
        }
        members_[here + m] = r.tokens, high[0] = slots_[here + m], low[0] = -1;
      }
    }
    out.demotions += demotes, out.fills += first ? down : 0, out.tokens += n;
    r.tokens += n, r.members += up;
    return {};
  }

  //! Moves and stores a layer's rows of a step: k and v are [step.tokens][kv_head * D].
  template <class Context> status store(const Context& context, const step& x, int layer, const view<const Element>& k, const view<const Element>& v) const {
    if (k.rows != x.tokens || v.rows != x.tokens) return {errc::bad_shape, "mikv: k and v need a row for each token of the step", k.rows, x.tokens};
    const view<Element> hk = pool_rows<Element>(high_pool_, plane::keys, layer), hv = pool_rows<Element>(high_pool_, plane::values, layer);
    const float* const balance = balance_ + static_cast<long long>(layer) * x.heads * D;
    const auto demote = [&] {
      return x.demotions == 0 ? status{}
                              : low_op::run(context, {.pool = low_pool_, .layer = layer, .k = {hk.data, hk.rows, D, D}, .v = {hv.data, hv.rows, D, D}, .slots = x.demoted_slots, .slot_head_stride = x.sequence_capacity,
                                                      .rows = x.demoted_rows, .tokens = x.demotions, .rows_head_stride = x.sequence_capacity, .balance = balance});
    };
    const auto fill = [&] {
      return x.fills == 0 ? status{} : low_op::run(context, {.pool = low_pool_, .layer = layer, .k = k, .v = v, .slots = x.low_slots, .slot_head_stride = x.token_capacity, .balance = balance});
    };
    return first_of(demote, fill, [&] { return high_op::run(context, {.pool = high_pool_, .layer = layer, .k = k, .v = v, .slots = x.high_slots, .slot_head_stride = x.token_capacity}); });
  }

  //! Tables of a batch for attention, the same for all layers, in memory that the context's machine reads.
  struct tables {
    pages high{}, low{};
    int sequences = 0, most_high = 0, most_low = 0;
  };
  std::size_t tables_bytes(const sequence* batch, int count) const {
    carver c;
    lay_out_tables(c, batch, count);
    return c.used;
  }
  status tables_of(const sequence* batch, int count, workspace memory, tables& out) const {
    if (count < 0 || (count > 0 && batch == nullptr)) return {errc::null_pointer, "mikv: the batch is missing", 0, count};
    for (int b = 0; b < count; ++b)
      if (!high_.is_open(batch[b])) return {errc::bad_value, "mikv: a sequence of the batch is not open", b, count};
    if (const status bad = check_workspace(memory, tables_bytes(batch, count)); !bad) return bad;
    carver c{memory.data};
    const lists l = lay_out_tables(c, batch, count);
    for (int b = 0; b < count; ++b) l.low_handles[b] = records_[batch[b].index].low;
    const auto high = high_.tables_of(count, l.high_width), low = low_.tables_of(count, l.low_width);
    if (const status bad = high_.tables(batch, count, l.high_width, l.high, high.ints()); !bad) return bad;
    if (const status bad = low_.tables(l.low_handles, count, l.low_width, l.low, low.ints()); !bad) return bad;
    out = {high.at(l.high), low.at(l.low), count, 0, 0};
    for (int b = 0; b < count; ++b) {
      out.most_high = std::max(out.most_high, records_[batch[b].index].members);
      out.most_low = std::max(out.most_low, records_[batch[b].index].tokens - records_[batch[b].index].members);
    }
    return {};
  }
  segments segments_of(const tables& t, int layer) const {
    return {{source_of<high_storage, policy::nhd, D>(high_pool_, layer, t.high, t.sequences, t.most_high), {}, {}},
            {source_of<Low, Layout, D>(low_pool_, layer, t.low, t.sequences, t.most_low), {}, {query_factor_ + static_cast<long long>(layer) * heads_ * D}}};
  }

private:
  struct record {
    sequence low{};
    int tokens = 0, members = 0;
  };
  struct parts {
    std::byte *high, *low;
    record* records;
    int *members, *slots;
  };
  static parts lay_out(carver& c, const pool_shape& high, const pool_shape& low, const paged_limits& l, const settings& set) {
    parts p{};
    const std::size_t places = std::size_t(l.sequences) * std::size_t(high.kv_heads) * std::size_t(set.budget);
    p.high = c.take<std::byte>(paged<high_storage>::metadata_bytes(high, l)), p.low = c.take<std::byte>(paged<Low, Layout>::metadata_bytes(low, l));
    p.records = c.take<record>(std::size_t(l.sequences)), p.members = c.take<int>(places), p.slots = c.take<int>(places);
    return p;
  }
  step lay_out(carver& c, int tokens, int sequences) const {
    step x{};
    x.heads = high_pool_.shape.kv_heads, x.token_capacity = tokens, x.sequence_capacity = sequences;
    const std::size_t h = std::size_t(x.heads), t = std::size_t(tokens), s = std::size_t(sequences);
    x.demoted_rows = c.take<int>(h * s), x.demoted_slots = c.take<int>(h * s), x.low_slots = c.take<int>(h * t), x.high_slots = c.take<int>(h * t);
    x.scratch = c.take<int>((2 * h + 2) * t);
    return x;
  }
  struct lists {
    int *high, *low;
    sequence* low_handles;
    int high_width, low_width;
  };
  lists lay_out_tables(carver& c, const sequence* batch, int count) const {
    lists l{};
    const std::size_t rows = std::size_t(count > 0 ? count : 0) * std::size_t(high_pool_.shape.kv_heads);
    for (int b = 0; b < count; ++b) {
      l.high_width = std::max(l.high_width, high_.width_for(batch + b, 1));
      l.low_width = std::max(l.low_width, high_.is_open(batch[b]) ? low_.width_for(&records_[batch[b].index].low, 1) : 0);
    }
    l.high = c.take<int>(rows * (std::size_t(l.high_width) + 1)), l.low = c.take<int>(rows * (std::size_t(l.low_width) + 1)), l.low_handles = c.take<sequence>(std::size_t(count > 0 ? count : 0));
    return l;
  }
  long long place(sequence s, int head) const { return (static_cast<long long>(s.index) * high_pool_.shape.kv_heads + head) * set_.budget; }
  // Is the first less important? NaN is the least; of equal ones the older is.
  static bool below(float a, int at, float b, int bt) {
    const bool a_number = a == a, b_number = b == b;
    if (a_number != b_number) return b_number;
    return a_number && a != b ? a < b : at < bt;
  }
  // stays[t] = 1 for the `kept` tokens of n: sinks, recent ones, then the most important. Uses stays[n, 2 n) as well.
  void choose(int* stays, int n, int kept, const float* scores) const {
    for (int t = 0; t < n; ++t) stays[t] = kept == n;
    if (kept == n) return;
    int *const order = stays + n, left = kept, candidates = 0;
    for (int t = 0; t < n; ++t)
      if (t < set_.sinks || t >= n - set_.recent) stays[t] = 1, --left;
      else order[candidates++] = t;
    std::nth_element(order, order + left, order + candidates, [scores](int a, int b) { return below(scores[b], b, scores[a], a); });
    for (int i = 0; i < left; ++i) stays[order[i]] = 1;
  }
  paged<high_storage> high_;
  paged<Low, Layout> low_;
  page_pool high_pool_{}, low_pool_{};
  settings set_{};
  record* records_ = nullptr;
  int *members_ = nullptr, *slots_ = nullptr, heads_ = 0;
  const float *balance_ = nullptr, *query_factor_ = nullptr;
};

}  // namespace smalti::inline SMALTI_CODE::cache
