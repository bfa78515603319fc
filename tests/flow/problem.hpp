// A batch whose tokens are dealt out to the ranks of an in-process net, run on all of them, and compared with the oracle of the whole.
#pragma once
#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <vector>
#include <smalti/comm/in_process.hpp>
#include <smalti/comm/together.hpp>
#include <smalti/flow/context_parallel.hpp>
#include "ops/attention_problem.hpp"

namespace test {

//! Rows of all ranks: element (s, h, token, c) of the whole, and each rank's share in memory of its own, guarded.
template <class T> struct dealt_rows {
  int heads, cols;
  smalti::flow::placement where;
  std::vector<std::vector<std::int32_t>> offsets;      // [rank][sequence + 1]
  std::vector<array<T>> memory;                        // [rank]
  dealt_rows(const smalti::flow::placement& p, int h, int c) : heads(h), cols(c), where(p) {
    for (int r = 0; r < p.ranks; ++r) {
      offsets.emplace_back(1, 0);
      for (int s = 0; s < p.sequences; ++s) offsets.back().push_back(offsets.back().back() + p.rows(r, s));
      memory.emplace_back(std::size_t(offsets.back().back()) * h * c);
      for (T& x : memory.back()) x = rows_of_batch<T>::element(NAN);
    }
  }
  template <class U = T> smalti::attention::head_rows<U> rows(int r) {
    return smalti::attention::ragged<U>(memory[std::size_t(r)].data(), {offsets[std::size_t(r)].data(), where.sequences}, where.most_rows(r), heads, cols);
  }
  T& at(int r, int s, int h, int i, int c) { return memory[std::size_t(r)][(std::size_t(offsets[r][s] + i) * heads + h) * cols + c]; }
  bool guarded() const {
    for (const auto& m : memory)
      if (!m.guarded()) return false;
    return true;
  }
};

//! A token's values depend on the token, not on who holds it.
template <class T> struct whole_rows {
  std::vector<int> lengths;
  int heads, cols;
  std::vector<std::vector<T>> values;   // [sequence][(token * heads + h) * cols + c]
  whole_rows(std::vector<int> n, int h, int c, std::mt19937& generator, float size = 1) : lengths(std::move(n)), heads(h), cols(c) {
    std::normal_distribution<float> normal(0, size);
    for (const int tokens : lengths) {
      values.emplace_back(std::size_t(tokens) * h * c);
      for (T& x : values.back()) x = rows_of_batch<T>::element(normal(generator));
    }
  }
  T get(int s, int h, int t, int c) const { return values[std::size_t(s)][(std::size_t(t) * heads + h) * cols + c]; }
  dealt_rows<T> deal(const smalti::flow::placement& p) const {
    dealt_rows<T> d(p, heads, cols);
    for (int r = 0; r < p.ranks; ++r)
      for (int s = 0; s < p.sequences; ++s)
        for (int i = 0; i < p.rows(r, s); ++i)
          for (int h = 0; h < heads; ++h)
            for (int c = 0; c < cols; ++c) d.at(r, s, h, i, c) = get(s, h, p.at(r, s)[i], c);
    return d;
  }
};

//! Counts the bytes of each link between a transport and its user, but for those of agreements.
struct counting_net {
  smalti::comm::in_process::endpoint inner;
  std::vector<std::int64_t>* links;      // [from * size + to]
  std::uint32_t agreement = 3;
  int rank() const { return inner.rank(); }
  int size() const { return inner.size(); }
  std::uint32_t epoch() const { return inner.epoch(); }
  smalti::comm::nanoseconds now() { return inner.now(); }
  smalti::comm::ticket post_send(int peer, smalti::comm::message_tag tag, const std::byte* data, std::int64_t bytes) {
    if (tag.operation != agreement) (*links)[std::size_t(rank()) * size() + peer] += bytes;
    return inner.post_send(peer, tag, data, bytes);
  }
  smalti::comm::ticket post_recv(int peer, smalti::comm::message_tag tag, std::byte* data, std::int64_t bytes) { return inner.post_recv(peer, tag, data, bytes); }
  smalti::comm::delivery_report test(smalti::comm::ticket t) { return inner.test(t); }
  void cancel(smalti::comm::ticket t) { inner.cancel(t); }
  void idle(smalti::comm::nanoseconds d) { inner.idle(d); }
  void abort(std::uint32_t e, int lost) { inner.abort(e, lost); }
};
static_assert(smalti::comm::transport<counting_net>);

//! What the oracle calls visible, of a query and a key token of sequence s.
using seen_by = std::function<bool(int s, int query, int key)>;
inline seen_by causal_with(const std::vector<int>& queries, const std::vector<int>& keys) {
  return [=](int s, int q, int k) { return k <= q + keys[std::size_t(s)] - queries[std::size_t(s)]; };
}

template <class Op, class T = smalti::bf16> struct flow_problem {
  static constexpr int d = 64;
  int heads, kv_heads, ranks;
  std::vector<int> queries, keys;        // tokens of whole sequences
  whole_rows<T> q, k, v;
  std::vector<oracle::attention_result> result;      // [sequence * heads + head]
  std::vector<oracle::attention_problem> problem;

  flow_problem(std::vector<int> n, std::vector<int> m, int h, int g, int p, const seen_by& seen, std::mt19937& generator)
      : heads(h), kv_heads(g), ranks(p), queries(n), keys(m), q(n, h, d, generator, 1.5f), k(m, g, d, generator), v(m, g, d, generator) {
    for (int s = 0; s < int(n.size()); ++s)
      for (int head = 0; head < h; ++head) {
        oracle::attention_problem one;
        one.queries = n[s], one.keys = m[s], one.d = d, one.dv = d, one.scale = 1 / std::sqrt(double(d));
        for (int i = 0; i < n[s]; ++i)
          for (int c = 0; c < d; ++c) one.q.push_back(value(q.get(s, head, i, c)));
        for (int j = 0; j < m[s]; ++j)
          for (int c = 0; c < d; ++c) one.k.push_back(value(k.get(s, head / (h / g), j, c))), one.v.push_back(value(v.get(s, head / (h / g), j, c)));
        one.visible = [seen, s](int i, int j) { return seen(s, i, j); };
        result.push_back(oracle::attention(one));
        problem.push_back(std::move(one));
      }
  }

  // What one run left: outputs of all ranks, bytes of all links.
  struct outcome {
    dealt_rows<typename decltype(std::declval<typename Op::args>().o)::element> o;
    dealt_rows<float> lse;
    std::vector<std::int64_t> links;
    bool intact = true;
  };
  template <class Change> outcome run(const smalti::flow::placement& qp, const smalti::flow::placement& kp, smalti::flow::rotation how, smalti::comm::in_process_options net_options, Change change) {
    using namespace smalti;
    comm::in_process net(ranks, net_options);
    outcome out{{qp, heads, d}, {qp, heads, 1}, std::vector<std::int64_t>(std::size_t(ranks) * ranks)};
    auto dq = q.deal(qp);
    auto dk = k.deal(kp), dv = v.deal(kp);
    std::vector<counting_net> ends;
    for (int r = 0; r < ranks; ++r) ends.push_back({net.rank(r), &out.links});
    using execution = typename Op::template execution<counting_net>;
    std::vector<execution> runs;
    std::vector<scratch> memories;
    for (int r = 0; r < ranks; ++r) {
      typename Op::args x{.queries = qp, .keys = kp, .q = dq.template rows<const T>(r), .k = dk.template rows<const T>(r), .v = dv.template rows<const T>(r), .o = out.o.rows(r), .lse = out.lse.rows(r), .how = how};
      change(x, r);
      const host_context context{1 + r % 2};
      const std::size_t bytes = Op::workspace_bytes(context, ends[r], x);
      memories.emplace_back(bytes);
      execution begun(ends[r]);
      const status st = begun.start(context, x, memories.back().get());
      CAPTURE(r, st.what, st.got, st.need);
      REQUIRE(st);
      runs.push_back(std::move(begun));
    }
    REQUIRE(comm::run_together(net, runs));
    for (int r = 0; r < ranks; ++r) {
      const status st = runs[r].failure();
      CAPTURE(r, st.what, st.got, st.need);
      CHECK(st);
      out.intact = out.intact && memories[r].guarded();
    }
    out.intact = out.intact && out.o.guarded() && out.lse.guarded();
    return out;
  }
  outcome run(const smalti::flow::placement& p, smalti::flow::rotation how) {
    return run(p, p, how, {7}, [](auto&, int) {});
  }

  // Worst of |difference| / bound over all rows of all ranks. Error model: that of attention_error, which covers each part, and the
  // merges: (15 P + 5) 2^-24 max |v| (policy/lse.hpp).
  double worst(outcome& out, const smalti::flow::placement& qp) const {
    using Out = std::remove_reference_t<decltype(out.o.at(0, 0, 0, 0, 0))>;
    double worst = 0;
    for (int r = 0; r < ranks; ++r)
      for (int s = 0; s < qp.sequences; ++s)
        for (int h = 0; h < heads; ++h) {
          const auto& right = result[std::size_t(s) * heads + h];
          const auto& p = problem[std::size_t(s) * heads + h];
          double most = 0;
          for (const double x : p.v) most = std::max(most, std::abs(x));
          for (int i = 0; i < qp.rows(r, s); ++i) {
            const int t = qp.at(r, s)[i];
            const double l = out.lse.at(r, s, h, i, 0), want = right.lse[std::size_t(t)];
            if (std::isinf(want) || std::isinf(l)) {
              if (l != want) return 1e30;
            } else {
              const double error = (p.d + 2) * 0x1p-24 * right.reach[std::size_t(t)] + 0x1p-20 + (p.keys + 12 * ranks + 2) * 0x1p-24 + std::abs(want) * 0x1p-21;
              worst = std::max(worst, std::abs(l - want) / error);
            }
            for (int c = 0; c < d; ++c) {
              const double bound = attention_error<T, Out>(right, p, t, c) + (15 * ranks + 5) * 0x1p-24 * most;
              const double off = std::abs(value(out.o.at(r, s, h, i, c)) - right.o[std::size_t(t) * d + c]) / bound;
              worst = std::isnan(off) ? 1e30 : std::max(worst, off);
            }
          }
        }
    return worst;
  }
};

}  // namespace test
