// Attention whose tokens live on many ranks: see context_parallel below. docs/flow/context_parallel.md has the systems, their formulas
// and pictures.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <smalti/core/check_view.hpp>
#include <smalti/flow/rotate.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/attention/absorb.hpp>
#include <smalti/ops/attention/merge.hpp>
#include <smalti/ops/attention/partials.hpp>
#include <smalti/policy/masks/at_positions.hpp>

namespace smalti::inline SMALTI_CODE::flow {

using attention::head_rows;

namespace detail {

//! The same heads and rows with offsets of our own, which begin with 0.
template <class T> constexpr head_rows<T> with_offsets(head_rows<T> x, const int* own) {
  if (x.offsets != nullptr) x.data += static_cast<long long>(x.offsets[0]) * x.row_stride;
  x.offsets = own, x.sequence_stride = 0;
  return x;
}
//! Rows of heads one after another: of a block, a yield or a running result.
template <class T> constexpr head_rows<T> packed_rows(T* data, const int* offsets, int sequences, int most, int heads, int cols) {
  return {data, sequences, heads, most, cols, 0, cols, heads * cols, offsets};
}
template <class T> constexpr head_rows<T> some_heads(head_rows<T> x, int first, int count) {
  x.data += first * x.head_stride, x.heads = count;
  return x;
}
//! Rows i .. i + n of a sequence, all heads, one after another.
template <class T> void pack_rows(const head_rows<T>& x, int s, int i, int n, std::byte* to) {
  const std::size_t bytes = sizeof(T) * std::size_t(x.cols);
  for (int k = 0; k < n; ++k)
    for (int h = 0; h < x.heads; ++h, to += bytes) std::memcpy(to, x.begin(s, h) + static_cast<long long>(i + k) * x.row_stride, bytes);
}

// Refuses rows of a batch that are not those of a placement.
template <literal Name, class T> status check_placed(const head_rows<T>& x, const placement& p, int rank) {
  if (x.sequences != p.sequences) return {errc::bad_shape, sentence<Name, ": needs the sequences of its placement">(), x.sequences, p.sequences};
  long long before = 0;
  for (int s = 0; s < p.sequences; ++s) {
    if (x.length(s) != p.rows(rank, s)) return {errc::bad_shape, sentence<Name, ": a sequence needs the rows that its placement gives this rank">(), x.length(s), p.rows(rank, s)};
    if (x.offsets == nullptr && s * x.sequence_stride != before * x.row_stride)
      return {errc::bad_shape, sentence<Name, ": sequences must follow one another without gaps, or be ragged: give offsets">(), x.sequence_stride, before * x.row_stride};
    before += p.rows(rank, s);
  }
  return {};
}

//! What forward and backward refuse alike.
template <class Args> status check_rotation(int ranks, const Args& x) {
  if (const status bad = first_of([&] { return x.queries.check(); }, [&] { return x.keys.check(); }); !bad) return bad;
  if (x.queries.ranks != ranks) return {errc::bad_shape, "queries: the placement must be over the transport's ranks", x.queries.ranks, ranks};
  if (x.keys.ranks != ranks) return {errc::bad_shape, "keys: the placement must be over the transport's ranks", x.keys.ranks, ranks};
  if (x.keys.sequences != x.queries.sequences) return {errc::bad_shape, "keys: the placement needs the sequences of the queries'", x.keys.sequences, x.queries.sequences};
  if (x.k.heads <= 0 || x.q.heads <= 0 || x.q.heads % x.k.heads != 0) return {errc::bad_shape, "q: the query heads must be a multiple of the key heads, on every rank", x.q.heads, x.k.heads};
  if (x.v.heads != x.k.heads) return {errc::bad_shape, "v: needs the heads of k", x.v.heads, x.k.heads};
  if (x.slices < 1) return {errc::bad_value, "slices must be at least 1", x.slices, 1};
  if (x.options.timeout < 0) return {errc::bad_value, "options: timeout must not be negative", x.options.timeout, 0};
  if (x.how.way == direction::both && !x.how.relayed) return {errc::bad_value, "how: blocks that their home sends itself go one way: take direction::up"};
  return policy::check_mask(x.mask, {x.queries.sequences, x.q.heads, x.queries.longest(), x.keys.longest()});
}
//! How many groups of heads of keys are computed one after another.
template <class Mask> constexpr int slices_of(int wanted, int kv_heads) { return policy::differs_by_head<Mask> ? 1 : wanted < kv_heads ? wanted : kv_heads; }

}  // namespace detail

//! o[i] = sum over visible keys j of softmax_j(scale q[i] . k[j]) v[j], where queries and keys lie on many ranks: each rank gives
//! its rows and gets the o of its queries, as if all keys were there.
//!
//!     using op = flow::context_parallel<bf16, 128, policy::causal>;
//!     op::execution run(net);
//!     auto st = run.run(context, {.queries = table, .keys = table, .q = q, .k = k, .v = v, .o = o, .how = flow::ring_attention}, workspace);
//!
//! or start(...), then advance() until it says done or failed.
//!
//! @tparam T     bf16 or fp16   @tparam D, ValueDim  channels of keys and of values
//! @tparam Mask  of whole sequences, at the tokens' own positions (policy/mask.hpp)
//! @pre   q, k and v are those of this rank as its placement says, in that order; rotary phases were those of the tokens' positions; the mask
//!        is the same on all ranks (placements, rotation, heads, scale and types are compared, masks are not)
//! @post  the same bits on every run with the same ranks and threads. Partial results are float and merged in the order of visits, so
//!        other numbers of ranks give other bits, within the error below. A row without keys is 0, its log-sum-exp -infinity
//! @note  error: that of attention::flash, and (15 P + 5) 2^-24 max |v| for the merges of P parts. Work is flash's, each pair of query and key
//!        once. Bytes: travel::traffic(row_bytes(...), yield_bytes(...)), exactly. Memory: workspace_bytes, from sizes and placements
//! @note  the host only: a GPU context is refused at compile time, as transports that are ordered with a stream are not built
template <class T, int D, class Mask = policy::causal, int ValueDim = D, class Out = T>
struct context_parallel {
  struct options : attention::options {
    static constexpr int value_dim = ValueDim;
  };
  using at_mask = policy::at_positions<Mask>;
  using flash = attention::flash<T, D, attention::dense_kv<T>, at_mask, attention::partial_options<options>>;
  using absorb = attention::absorb<float>;
  using round = attention::merge<float, Out>;

  struct args {
    placement queries, keys;                  //!< the same on all ranks; one table for both where each token is a query and a key
    head_rows<const T> q = {}, k = {}, v = {};
    head_rows<Out> o = {};
    head_rows<float> lse = {};                //!< base e; null data: not wanted
    rotation how = ring_attention;
    float scale = 0;                          //!< 0 takes 1 / sqrt(D)
    Mask mask = {};
    run_options options = {};
    int slices = 4;                           //!< heads are computed in so many groups, and the transport is asked between them
  };

  //! Bytes of one row of what moves, and of what goes home: for travel::traffic.
  static constexpr std::int64_t row_bytes(moves what, int heads, int kv_heads) {
    return what == moves::keys ? std::int64_t(kv_heads) * (D + ValueDim) * std::int64_t(sizeof(T)) : std::int64_t(heads) * D * std::int64_t(sizeof(T));
  }
  static constexpr std::int64_t yield_bytes(moves what, int heads) { return what == moves::keys ? 0 : std::int64_t(heads) * (ValueDim + 1) * 4; }
  static flow::travel<Mask> travel(int ranks, const args& x) { return {{ranks, x.how}, x.queries, x.keys, x.mask, x.q.heads}; }

  //! What a rotation computes: see rotate.hpp.
  struct work {
    static constexpr int planes = 2;
    host_context context{};
    args x{};
    flow::travel<Mask> way{};
    int rank = 0;
    head_rows<const T> q, k, v;               // with offsets of our own
    head_rows<float> o, lse;                  // running
    struct memory {
      int *q_offsets, *k_offsets;
      float *o, *lse, *part, *part_lse;
      workspace flash;
      std::size_t used;
    } m{};

    const flow::travel<Mask>& trip() const { return way; }
    bool keys_move() const { return x.how.what == moves::keys; }
    std::int64_t row_bytes(int plane) const {
      const int heads = keys_move() ? x.k.heads : x.q.heads, cols = plane == 0 ? D : ValueDim;
      return keys_move() || plane == 0 ? std::int64_t(heads) * cols * std::int64_t(sizeof(T)) : 0;
    }
    std::int64_t yield_bytes() const { return context_parallel::yield_bytes(x.how.what, x.q.heads); }
    void pack(int plane, int s, int i, int n, std::byte* to) const {
      if (keys_move()) detail::pack_rows(plane == 0 ? k : v, s, i, n, to);
      else if (plane == 0) detail::pack_rows(q, s, i, n, to);
    }

    template <class Poll> status own(Poll poll) {
      return attend(q, k, v, x.queries.first(rank), x.keys.first(rank), o, lse, poll);
    }
    template <class Poll> status visit(const block_rows& rows, const std::byte* const* block, std::byte* yield, Poll poll) {
      const int n = x.q.sequences;
      if (keys_move()) {
        const auto bk = detail::packed_rows(reinterpret_cast<const T*>(block[0]), rows.offsets, n, rows.most, x.k.heads, D);
        const auto bv = detail::packed_rows(reinterpret_cast<const T*>(block[1]), rows.offsets, n, rows.most, x.k.heads, ValueDim);
        const auto po = detail::packed_rows(m.part, m.q_offsets, n, q.rows, x.q.heads, ValueDim);
        const auto pl = detail::packed_rows(m.part_lse, m.q_offsets, n, q.rows, x.q.heads, 1);
        if (q.rows == 0) return {};
        if (const status bad = attend(q, bk, bv, x.queries.first(rank), rows.positions, po, pl, poll); !bad) return bad;
        return absorb::run(context, {.o = o, .lse = lse, .part = attention::read_only(po), .part_lse = attention::read_only(pl)});
      }
      const auto bq = detail::packed_rows(reinterpret_cast<const T*>(block[0]), rows.offsets, n, rows.most, x.q.heads, D);
      float* to = reinterpret_cast<float*>(yield);
      return attend(bq, k, v, rows.positions, x.keys.first(rank), detail::packed_rows(to, rows.offsets, n, rows.most, x.q.heads, ValueDim),
                    detail::packed_rows(to + std::int64_t(rows.rows) * x.q.heads * ValueDim, rows.offsets, n, rows.most, x.q.heads, 1), poll);
    }
    status take(const block_rows& rows, const std::byte* yield) {
      const int n = x.q.sequences;
      const float* from = reinterpret_cast<const float*>(yield);
      return absorb::run(context, {.o = o, .lse = lse, .part = detail::packed_rows(from, rows.offsets, n, rows.most, x.q.heads, ValueDim),
                                   .part_lse = detail::packed_rows(from + std::int64_t(rows.rows) * x.q.heads * ValueDim, rows.offsets, n, rows.most, x.q.heads, 1), .first = rows.skipped});
    }
    status finish() {
      if (q.rows == 0) return {};
      typename round::args last{.o = attention::read_only(o), .lse = attention::read_only(lse), .parts = 1, .result = detail::with_offsets(x.o, m.q_offsets)};
      if (x.lse.data != nullptr) last.result_lse = detail::with_offsets(x.lse, m.q_offsets);
      return round::run(context, last);
    }

    // The partial result of some queries over some keys, by groups of heads of keys.
    template <class Poll>
    status attend(const head_rows<const T>& queries, const head_rows<const T>& keys, const head_rows<const T>& values, const int* query_first, const int* key_first,
                  const head_rows<float>& to, const head_rows<float>& to_lse, Poll poll) const {
      if (queries.rows == 0) return {};
      const int kv_heads = x.k.heads, group = kv_heads > 0 ? x.q.heads / kv_heads : 1;
      const int slices = detail::slices_of<Mask>(x.slices, kv_heads);
      const at_mask mask{x.mask, x.queries.positions, x.keys.positions, query_first, key_first, x.queries.lengths, x.keys.lengths};
      for (int i = 0; i < slices; ++i) {
        const int first = kv_heads * i / slices, count = kv_heads * (i + 1) / slices - first;
        const typename flash::args call{.q = detail::some_heads(queries, first * group, count * group),
                                        .kv = {detail::some_heads(keys, first, count), detail::some_heads(values, first, count)},
                                        .o = detail::some_heads(to, first * group, count * group),
                                        .lse = detail::some_heads(to_lse, first * group, count * group),
                                        .scale = x.scale,
                                        .mask = mask};
        if (const status bad = flash::run(context, call, m.flash); !bad) return bad;
        poll();
      }
      return {};
    }
  };

  //! Everything that can be said before anything is sent; reads placements and offsets, no other data.
  template <class Net> static status check(const Net& net, const args& x) {
    const int rank = net.rank();
    if (const status bad = detail::check_rotation(net.size(), x); !bad) return bad;
    if (x.how.home == returns::at_end && x.how.what == moves::keys) return {errc::bad_value, "how: keys yield nothing in a forward pass, so nothing returns at the end: take returns::at_once"};
    if (const status bad = first_of([&] { return detail::check_placed<"q">(x.q, x.queries, rank); }, [&] { return detail::check_placed<"k">(x.k, x.keys, rank); },
                                    [&] { return detail::check_placed<"v">(x.v, x.keys, rank); }, [&] { return detail::check_placed<"o">(x.o, x.queries, rank); },
                                    [&] { return x.lse.data == nullptr ? status{} : detail::check_placed<"lse">(x.lse, x.queries, rank); }); !bad) return bad;
    // What attention says of these arrays, with a mask that fits any.
    using plain = attention::flash<T, D, attention::dense_kv<T>, policy::full, typename context_parallel::shape_options>;
    typename plain::args whole{.q = x.q, .kv = {x.k, x.v}, .o = x.o, .lse = x.lse, .scale = x.scale};
    return plain::check(host_context{1}, whole);
  }

  template <class Net> using execution = rotation_execution<context_parallel, Net>;
  template <class Net> static std::size_t workspace_bytes(const host_context& context, const Net& net, const args& x) {
    return execution<Net>::workspace_bytes(context, net, x);
  }
  struct shape_options : options {
    using out = Out;
  };

 private:
  template <class System, class Net> friend class rotation_execution;
  static std::uint64_t shape_of(const args& x) {
    comm::detail::digest d;
    for (const std::int64_t n : {std::int64_t(D), std::int64_t(ValueDim), std::int64_t(x.q.heads), std::int64_t(x.k.heads), std::int64_t(comm::detail::element_code<T>()), std::int64_t(float_bits(x.scale))}) d.add(std::uint64_t(n));
    return d.value;
  }
  template <class Net> static work work_of(const host_context& context, const Net& net, const args& x, std::byte* base) {
    const int rank = net.rank(), n = x.q.sequences, rows = x.queries.rows(rank);
    work w;
    w.context = context, w.x = x, w.rank = rank, w.way = travel(net.size(), x);
    carver c{base};
    auto& m = w.m;
    m.q_offsets = c.take<int>(std::size_t(n) + 1), m.k_offsets = c.take<int>(std::size_t(n) + 1);
    m.o = c.take<float>(std::size_t(rows) * x.q.heads * ValueDim), m.lse = c.take<float>(std::size_t(rows) * x.q.heads);
    const bool keys_move = x.how.what == moves::keys;
    if (keys_move && net.size() > 1) m.part = c.take<float>(std::size_t(rows) * x.q.heads * ValueDim), m.part_lse = c.take<float>(std::size_t(rows) * x.q.heads);
    // Attention at its largest: the most rows that meet here.
    typename flash::args call{.q = x.q, .kv = {x.k, x.v}, .o = {}};
    call.q.rows = call.kv.k.rows = call.kv.v.rows = 0;
    for (int r = 0; r < net.size(); ++r) {
      if (r == rank || !keys_move) call.q.rows = std::max(call.q.rows, x.queries.most_rows(r));
      if (r == rank || keys_move) call.kv.k.rows = std::max(call.kv.k.rows, x.keys.most_rows(r));
    }
    call.kv.v.rows = call.kv.k.rows;
    call.o.rows = call.q.rows;
    // A regime of few rows may keep more than one of many: the greatest of those that any step can be in.
    std::size_t bytes = 0;
    for (const int q_rows : {call.q.rows, 1, 2, 4, 16})
      if (q_rows <= call.q.rows) {
        auto other = call;
        other.q.rows = q_rows;
        bytes = std::max(bytes, flash::workspace_bytes(context, other));
      }
    m.flash = {c.take<std::byte>(bytes), bytes};
    m.used = c.used;
    if (base != nullptr) {
      m.q_offsets[0] = m.k_offsets[0] = 0;
      for (int s = 0; s < n; ++s) m.q_offsets[s + 1] = m.q_offsets[s] + x.queries.rows(rank, s), m.k_offsets[s + 1] = m.k_offsets[s] + x.keys.rows(rank, s);
    }
    w.q = detail::with_offsets(x.q, m.q_offsets), w.k = detail::with_offsets(x.k, m.k_offsets), w.v = detail::with_offsets(x.v, m.k_offsets);
    w.q.rows = x.queries.most_rows(rank), w.k.rows = w.v.rows = x.keys.most_rows(rank);
    w.o = detail::packed_rows(m.o, m.q_offsets, n, w.q.rows, x.q.heads, ValueDim);
    w.lse = detail::packed_rows(m.lse, m.q_offsets, n, w.q.rows, x.q.heads, 1);
    return w;
  }
};

}  // namespace smalti::inline SMALTI_CODE::flow
