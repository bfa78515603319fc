// The gradients of attention whose tokens live on many ranks: see context_parallel_backward below.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/comm/combine.hpp>
#include <smalti/flow/context_parallel.hpp>
#include <smalti/ops/attention/backward.hpp>

namespace smalti::inline SMALTI_CODE::flow {

//! The gradients of context_parallel: each rank gives its rows, the o and the lse that the forward pass gave it and the cotangent of o,
//! and gets dq of its queries, dk and dv of its keys (formulas: attention::flash_backward).
//!
//! With the log-sum-exp of the whole row every pair of queries and keys has its gradients apart from all others, so they are sums
//! over visits. Keys move: k and v travel, dq is summed where the queries are, and each visit's dk and dv go home, in float.
//! Queries move: q, o, do and lse travel, dk and dv are summed where the keys are, and each visit's dq goes home. At once by
//! default: no sum that several ranks add to travels, so nothing waits for its turn.
//!
//! @tparam T, D, Mask, ValueDim  of the forward pass   @tparam Gradient  element of dq, dk, dv: float, bf16, fp16
//! @pre   those of context_parallel and of flash_backward
//! @post  the same bits on every run with the same ranks and threads: parts are added in the order of visits, own first
//! @note  error: that of flash_backward, and P 2^-24 of the sum of sizes. Bytes: travel::traffic(row_bytes(...), yield_bytes(...)), exactly
template <class T, int D, class Mask = policy::causal, int ValueDim = D, class Gradient = T>
struct context_parallel_backward {
  struct options : attention::backward_options {
    static constexpr int value_dim = ValueDim;
    using gradient = float;
  };
  using at_mask = policy::at_positions<Mask>;
  using flash = attention::flash_backward<T, D, at_mask, options>;

  struct args {
    placement queries, keys;
    head_rows<const T> q = {}, k = {}, v = {}, o = {}, d_o = {};
    head_rows<const float> lse = {};
    head_rows<Gradient> dq = {}, dk = {}, dv = {};
    rotation how = ring_attention;
    float scale = 0;                          //!< 0 takes 1 / sqrt(D)
    Mask mask = {};
    run_options options = {};
    int slices = 4;
  };

  //! Bytes of one row of what moves, and of what goes home: for travel::traffic.
  static constexpr std::int64_t row_bytes(moves what, int heads, int kv_heads) {
    const std::int64_t element = sizeof(T);
    return what == moves::keys ? kv_heads * (D + ValueDim) * element : heads * ((D + 2 * ValueDim) * element + 4);
  }
  static constexpr std::int64_t yield_bytes(moves what, int heads, int kv_heads) { return what == moves::keys ? kv_heads * (D + ValueDim) * 4 : heads * D * 4; }
  static flow::travel<Mask> travel(int ranks, const args& x) { return {{ranks, x.how}, x.queries, x.keys, x.mask, x.q.heads}; }

  //! What a rotation computes: see rotate.hpp.
  struct work {
    static constexpr int planes = 4;
    host_context context{};
    args x{};
    flow::travel<Mask> way{};
    int rank = 0;
    head_rows<const T> q, k, v, o, d_o;       // with offsets of our own
    head_rows<const float> lse;
    struct memory {
      int *q_offsets, *k_offsets;
      float *dq, *dk, *dv, *part;             // part: of what stays
      workspace flash;
      std::size_t used;
    } m{};

    const flow::travel<Mask>& trip() const { return way; }
    bool keys_move() const { return x.how.what == moves::keys; }
    std::int64_t row_bytes(int plane) const {
      const std::int64_t element = sizeof(T), of_keys[planes] = {x.k.heads * D * element, x.k.heads * ValueDim * element, 0, 0};
      const std::int64_t of_queries[planes] = {x.q.heads * D * element, x.q.heads * ValueDim * element, x.q.heads * ValueDim * element, x.q.heads * 4};
      return keys_move() ? of_keys[plane] : of_queries[plane];
    }
    std::int64_t yield_bytes() const { return context_parallel_backward::yield_bytes(x.how.what, x.q.heads, x.k.heads); }
    void pack(int plane, int s, int i, int n, std::byte* to) const {
      if (keys_move()) {
        if (plane < 2) detail::pack_rows(plane == 0 ? k : v, s, i, n, to);
      } else if (plane == 3) {
        detail::pack_rows(lse, s, i, n, to);
      } else {
        detail::pack_rows(plane == 0 ? q : plane == 1 ? o : d_o, s, i, n, to);
      }
    }

    struct query_side { head_rows<const T> q, o, d_o; head_rows<const float> lse; const int* first; };
    struct key_side { head_rows<const T> k, v; const int* first; };
    query_side own_queries() const { return {q, o, d_o, lse, x.queries.first(rank)}; }
    key_side own_keys() const { return {k, v, x.keys.first(rank)}; }

    template <class Poll> status own(Poll poll) { return differentiate(own_queries(), own_keys(), m.dq, m.dk, m.dv, poll); }
    template <class Poll> status visit(const block_rows& rows, const std::byte* const* block, std::byte* yield, Poll poll) {
      const int n = x.q.sequences;
      float* to = reinterpret_cast<float*>(yield);
      const auto at = [&](int plane, int heads, int cols) { return detail::packed_rows(reinterpret_cast<const T*>(block[plane]), rows.offsets, n, rows.most, heads, cols); };
      const std::int64_t queries = x.queries.rows(rank), keys = x.keys.rows(rank);
      if (keys_move()) {
        const key_side visitor{at(0, x.k.heads, D), at(1, x.k.heads, ValueDim), rows.positions};
        if (const status bad = differentiate(own_queries(), visitor, m.part, to, to + std::int64_t(rows.rows) * x.k.heads * D, poll); !bad) return bad;
        add(m.dq, m.part, queries * x.q.heads * D);
      } else {
        const query_side visitor{at(0, x.q.heads, D), at(1, x.q.heads, ValueDim), at(2, x.q.heads, ValueDim),
                                 detail::packed_rows(reinterpret_cast<const float*>(block[3]), rows.offsets, n, rows.most, x.q.heads, 1), rows.positions};
        float* values = m.part + keys * x.k.heads * D;
        if (const status bad = differentiate(visitor, own_keys(), to, m.part, values, poll); !bad) return bad;
        add(m.dk, m.part, keys * x.k.heads * D), add(m.dv, values, keys * x.k.heads * ValueDim);
      }
      return {};
    }
    status take(const block_rows& rows, const std::byte* yield) {
      const float* from = reinterpret_cast<const float*>(yield);
      for (int s = 0; s < x.q.sequences; ++s) {
        const std::int64_t n = rows.offsets[s + 1] - rows.offsets[s], there = rows.offsets[s];
        const std::int64_t here = (keys_move() ? m.k_offsets : m.q_offsets)[s] + rows.skipped[s];
        if (keys_move()) {
          const std::int64_t k_row = x.k.heads * D, v_row = x.k.heads * ValueDim;
          add(m.dk + here * k_row, from + there * k_row, n * k_row);
          add(m.dv + here * v_row, from + rows.rows * k_row + there * v_row, n * v_row);
        } else {
          const std::int64_t row = x.q.heads * D;
          add(m.dq + here * row, from + there * row, n * row);
        }
      }
      return {};
    }
    status finish() {
      round(x.dq, m.dq, m.q_offsets), round(x.dk, m.dk, m.k_offsets), round(x.dv, m.dv, m.k_offsets);
      return {};
    }

    static void add(float* to, const float* more, std::int64_t n) { comm::sum<float>::merge(to, to, more, n); }
    static void round(head_rows<Gradient> to, const float* from, const int* offsets) {
      to = detail::with_offsets(to, offsets);
      for (int s = 0; s < to.sequences; ++s)
        for (int i = 0; i < to.length(s); ++i)
          for (int h = 0; h < to.heads; ++h, from += to.cols) comm::sum<Gradient>::finish(to.begin(s, h) + static_cast<long long>(i) * to.row_stride, from, to.cols, 1);
    }

    // dq, dk and dv of some queries and some keys alone, by groups of heads of keys. What meets nothing is zero.
    template <class Poll> status differentiate(const query_side& a, const key_side& b, float* dq, float* dk, float* dv, Poll poll) const {
      const int n = x.q.sequences, kv_heads = x.k.heads, group = x.q.heads / kv_heads, slices = detail::slices_of<Mask>(x.slices, kv_heads);
      const std::int64_t queries = n > 0 ? a.q.offsets[n] : 0, keys = n > 0 ? b.k.offsets[n] : 0;
      if (queries == 0 || keys == 0) {
        std::memset(dq, 0, sizeof(float) * std::size_t(queries * x.q.heads * D));
        std::memset(dk, 0, sizeof(float) * std::size_t(keys * kv_heads * D));
        std::memset(dv, 0, sizeof(float) * std::size_t(keys * kv_heads * ValueDim));
        return {};
      }
      const at_mask mask{x.mask, x.queries.positions, x.keys.positions, a.first, b.first, x.queries.lengths, x.keys.lengths};
      const auto q_out = detail::packed_rows(dq, a.q.offsets, n, a.q.rows, x.q.heads, D), k_out = detail::packed_rows(dk, b.k.offsets, n, b.k.rows, kv_heads, D);
      const auto v_out = detail::packed_rows(dv, b.k.offsets, n, b.k.rows, kv_heads, ValueDim);
      for (int i = 0; i < slices; ++i) {
        const int first = kv_heads * i / slices, count = kv_heads * (i + 1) / slices - first;
        const auto of_q = [&](const auto& rows) { return detail::some_heads(rows, first * group, count * group); };
        const auto of_k = [&](const auto& rows) { return detail::some_heads(rows, first, count); };
        typename flash::args call{};
        call.q = of_q(a.q), call.o = of_q(a.o), call.d_o = of_q(a.d_o), call.lse = of_q(a.lse), call.dq = of_q(q_out);
        call.k = of_k(b.k), call.v = of_k(b.v), call.dk = of_k(k_out), call.dv = of_k(v_out);
        call.query_rows = queries, call.scale = x.scale, call.mask = mask;
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
    if (const status bad = first_of([&] { return detail::check_placed<"q">(x.q, x.queries, rank); }, [&] { return detail::check_placed<"k">(x.k, x.keys, rank); },
                                    [&] { return detail::check_placed<"v">(x.v, x.keys, rank); }, [&] { return detail::check_placed<"o">(x.o, x.queries, rank); },
                                    [&] { return detail::check_placed<"d_o">(x.d_o, x.queries, rank); }, [&] { return detail::check_placed<"lse">(x.lse, x.queries, rank); },
                                    [&] { return detail::check_placed<"dq">(x.dq, x.queries, rank); }, [&] { return detail::check_placed<"dk">(x.dk, x.keys, rank); },
                                    [&] { return detail::check_placed<"dv">(x.dv, x.keys, rank); }); !bad) return bad;
    // What attention says of these arrays, with a mask that fits any.
    using plain = attention::flash_backward<T, D, policy::full, plain_options>;
    typename plain::args all{};
    all.q = x.q, all.k = x.k, all.v = x.v, all.o = x.o, all.d_o = x.d_o, all.lse = x.lse, all.dq = x.dq, all.dk = x.dk, all.dv = x.dv, all.scale = x.scale;
    if (x.queries.rows(rank) > 0 && x.dq.data == nullptr) return {errc::null_pointer, "dq is null"};
    if (x.keys.rows(rank) > 0 && x.dk.data == nullptr) return {errc::null_pointer, "dk is null"};
    if (x.queries.rows(rank) == 0 || x.keys.rows(rank) == 0) return {};
    return plain::check(host_context{1}, all);
  }
  template <class Net> using execution = rotation_execution<context_parallel_backward, Net>;
  template <class Net> static std::size_t workspace_bytes(const host_context& context, const Net& net, const args& x) {
    return execution<Net>::workspace_bytes(context, net, x);
  }

  struct plain_options : options {
    using gradient = Gradient;
  };

 private:
  template <class System, class Net> friend class rotation_execution;
  static std::uint64_t shape_of(const args& x) {
    comm::detail::digest d;
    for (const std::int64_t n : {std::int64_t(-1), std::int64_t(D), std::int64_t(ValueDim), std::int64_t(x.q.heads), std::int64_t(x.k.heads), std::int64_t(comm::detail::element_code<T>()), std::int64_t(float_bits(x.scale))})
      d.add(std::uint64_t(n));
    return d.value;
  }
  template <class Net> static work work_of(const host_context& context, const Net& net, const args& x, std::byte* base) {
    const int rank = net.rank(), n = x.q.sequences;
    const std::int64_t queries = x.queries.rows(rank), keys = x.keys.rows(rank);
    work w;
    w.context = context, w.x = x, w.rank = rank, w.way = travel(net.size(), x);
    carver c{base};
    auto& m = w.m;
    m.q_offsets = c.take<int>(std::size_t(n) + 1), m.k_offsets = c.take<int>(std::size_t(n) + 1);
    m.dq = c.take<float>(std::size_t(queries * x.q.heads * D)), m.dk = c.take<float>(std::size_t(keys * x.k.heads * D)), m.dv = c.take<float>(std::size_t(keys * x.k.heads * ValueDim));
    const bool keys_move = x.how.what == moves::keys;
    if (net.size() > 1) m.part = c.take<float>(std::size_t(keys_move ? queries * x.q.heads * D : keys * x.k.heads * (D + ValueDim)));
    typename flash::args call{};
    call.q = x.q, call.k = x.k, call.v = x.v, call.dq = {nullptr, 0, 0, 0, 0}, call.q.rows = call.k.rows = 0;
    int most_queries = 0;
    for (int r = 0; r < net.size(); ++r) {
      if (r == rank || !keys_move) call.q.rows = std::max(call.q.rows, x.queries.most_rows(r)), most_queries = std::max(most_queries, x.queries.rows(r));
      if (r == rank || keys_move) call.k.rows = std::max(call.k.rows, x.keys.most_rows(r));
    }
    static constexpr int some_offset = 0;
    call.q.offsets = &some_offset;                 // blocks are ragged; the offsets are not read
    call.v.rows = call.k.rows, call.query_rows = most_queries;
    const std::size_t bytes = flash::workspace_bytes(context, call);
    m.flash = {c.take<std::byte>(bytes), bytes};
    m.used = c.used;
    if (base != nullptr) {
      m.q_offsets[0] = m.k_offsets[0] = 0;
      for (int s = 0; s < n; ++s) m.q_offsets[s + 1] = m.q_offsets[s] + x.queries.rows(rank, s), m.k_offsets[s + 1] = m.k_offsets[s] + x.keys.rows(rank, s);
    }
    const int q_rows = x.queries.most_rows(rank), k_rows = x.keys.most_rows(rank);
    const auto of_q = [&](auto rows) {
      rows = detail::with_offsets(rows, m.q_offsets), rows.rows = q_rows;
      return rows;
    };
    const auto of_k = [&](auto rows) {
      rows = detail::with_offsets(rows, m.k_offsets), rows.rows = k_rows;
      return rows;
    };
    w.q = of_q(x.q), w.o = of_q(x.o), w.d_o = of_q(x.d_o), w.lse = of_q(x.lse), w.k = of_k(x.k), w.v = of_k(x.v);
    return w;
  }
};

}  // namespace smalti::inline SMALTI_CODE::flow
