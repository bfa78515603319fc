// Gradients over many ranks: every system and layout gives what one rank gives, and moves exactly the bytes of its formula.
#include "flow/problem.hpp"
#include "ops/attention_backward_problem.hpp"

#include <smalti/flow/context_parallel_backward.hpp>

#include <cstring>

using namespace smalti;
using comm::contiguous;
using comm::striped;
using comm::zigzag;

namespace {

constexpr unsigned seed = 20261122;

struct named {
  const char* name;
  flow::rotation how;
};
constexpr named systems[] = {{"ring", flow::ring_attention}, {"upward ring", flow::upward_ring}, {"bidirectional ring", flow::bidirectional_ring}, {"pass-Q", flow::pass_q},
                             {"TokenRing", flow::token_ring}, {"DistAttention", flow::dist_attention},
                             {"keys, gradients at the end", {flow::moves::keys, flow::direction::down, true, flow::returns::at_end}}};

// The oracle's rows, and its bounds, are those of one call on one rank.
template <class Op> struct ring_gradients {
  using whole_op = attention::flash_backward<bf16, 64, policy::causal, typename Op::plain_options>;
  using problem = test::gradient_problem<whole_op>;
  using G = typename problem::G;
  problem p;
  int ranks;

  ring_gradients(std::vector<int> queries, std::vector<int> keys, int heads, int kv_heads, int ranks_, std::mt19937& generator)
      : p(64, {queries, keys, heads, kv_heads, test::rows_layout::ragged}, [=](int s, int) {
          test::gradient_oracle o;
          o.visible = [shift = keys[s] - queries[s]](int i, int j) { return j <= i + shift; };
          return o;
        }, generator), ranks(ranks_) {}

  template <class E, class M> static test::dealt_rows<E> deal(const M& from, const flow::placement& t, int heads, int cols) {
    test::dealt_rows<E> d(t, heads, cols);
    for (int r = 0; r < t.ranks; ++r)
      for (int s = 0; s < t.sequences; ++s)
        for (int i = 0; i < t.rows(r, s); ++i)
          for (int h = 0; h < heads; ++h)
            for (int c = 0; c < cols; ++c) d.at(r, s, h, i, c) = from.row(s, h, t.at(r, s)[i])[c];
    return d;
  }
  static double worst(test::dealt_rows<G>& got, const std::vector<int>& lengths, const std::vector<double>& want, const std::vector<double>& bound) {
    double worst = 0;
    const auto& t = got.where;
    for (int r = 0; r < t.ranks; ++r)
      for (int s = 0; s < t.sequences; ++s)
        for (int h = 0; h < got.heads; ++h)
          for (int i = 0; i < t.rows(r, s); ++i)
            for (int c = 0; c < got.cols; ++c) {
              const std::size_t n = problem::index(lengths, got.heads, got.cols, s, h, t.at(r, s)[i]) + c;
              // The parts' errors add up to those of the whole; their sums cost P 2^-24 more of sizes that the bound covers many times.
              const double allowed = bound[n] == 0 ? 0 : bound[n] + test::unit_of<G> * (std::abs(want[n]) + bound[n]) + test::floor_of<G>;
              const double off = std::abs(test::value(got.at(r, s, h, i, c)) - want[n]);
              if (!(off <= allowed)) return 1e30;
              if (allowed > 0) worst = std::max(worst, off / allowed);
            }
    return worst;
  }

  void check(const flow::placement& qt, const flow::placement& kt, flow::rotation how, comm::in_process_options o = {7}) {
    const int heads = p.shape.heads, kv_heads = p.shape.kv_heads;
    auto q = deal<bf16>(p.q, qt, heads, 64), out = deal<bf16>(p.o, qt, heads, 64), d_o = deal<bf16>(p.d_o, qt, heads, 64);
    auto k = deal<bf16>(p.k, kt, kv_heads, 64), v = deal<bf16>(p.v, kt, kv_heads, 64);
    auto lse = deal<float>(p.lse, qt, heads, 1);
    test::dealt_rows<G> dq(qt, heads, 64), dk(kt, kv_heads, 64), dv(kt, kv_heads, 64);
    comm::in_process net(ranks, o);
    std::vector<std::int64_t> links(std::size_t(ranks) * ranks);
    std::vector<test::counting_net> ends;
    for (int r = 0; r < ranks; ++r) ends.push_back({net.rank(r), &links});
    std::vector<typename Op::template execution<test::counting_net>> runs;
    std::vector<test::scratch> memories;
    typename Op::args x{.queries = qt, .keys = kt, .how = how, .scale = p.scale};
    for (int r = 0; r < ranks; ++r) {
      x.q = q.template rows<const bf16>(r), x.k = k.template rows<const bf16>(r), x.v = v.template rows<const bf16>(r), x.o = out.template rows<const bf16>(r), x.d_o = d_o.template rows<const bf16>(r), x.lse = lse.template rows<const float>(r);
      x.dq = dq.rows(r), x.dk = dk.rows(r), x.dv = dv.rows(r);
      const host_context context{1 + r % 2};
      memories.emplace_back(Op::workspace_bytes(context, ends[r], x));
      runs.emplace_back(ends[r]);
      const status st = runs.back().start(context, x, memories.back().get());
      CAPTURE(r, st.what, st.got, st.need);
      REQUIRE(st);
    }
    REQUIRE(comm::run_together(net, runs));
    for (int r = 0; r < ranks; ++r) {
      const status st = runs[r].failure();
      CAPTURE(r, st.what, st.got, st.need);
      REQUIRE(st);
      CHECK(memories[r].guarded());
    }
    CHECK(worst(dq, p.shape.queries, p.dq, p.dq_bound) < 1);
    CHECK(worst(dk, p.shape.keys, p.dk, p.dk_bound) < 1);
    CHECK(worst(dv, p.shape.keys, p.dv_, p.dv_bound) < 1);
    CHECK((dq.guarded() && dk.guarded() && dv.guarded()));
    const auto t = Op::travel(ranks, x).traffic(Op::row_bytes(how.what, heads, kv_heads), Op::yield_bytes(how.what, heads, kv_heads));
    std::int64_t sent = 0, busiest = 0;
    for (const std::int64_t b : links) sent += b, busiest = std::max(busiest, b);
    CHECK(sent == t.sent);
    CHECK(busiest == t.busiest_link);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("gradients on every number of ranks are those of one, causal and ragged", "[flow][backward]", float, bf16) {
  using op = flow::context_parallel_backward<bf16, 64, policy::causal, 64, TestType>;
  for (const int p : {1, 2, 3, 4, 8}) {
    std::mt19937 generator(seed + unsigned(p));
    const std::vector<int> n{37, 1, 0, 50};
    ring_gradients<op> problem(n, n, 4, 2, p, generator);
    for (const auto& layout : {zigzag(p), contiguous(p), striped(p)}) {
      flow::ledger deal(layout, n.data(), int(n.size()));
      const flow::placement table = deal.table();
      for (const named& system : systems) {
        CAPTURE(seed, p, system.name, int(layout.how));
        problem.check(table, table, system.how);
      }
    }
  }
}

TEST_CASE("gradients of new tokens and of the prefix that they saw", "[flow][backward]") {
  using op = flow::context_parallel_backward<bf16, 64, policy::causal, 64, float>;
  constexpr int p = 3;
  std::mt19937 generator(seed);
  const std::vector<int> before{20, 9}, fresh{18, 30}, all{38, 39};
  flow::ledger keys(zigzag(p), before.data(), 2), queries(zigzag(p), fresh.data(), 2);
  for (int s = 0; s < 2; ++s) keys.append(s, fresh[s], zigzag(p));
  const flow::placement kt = keys.table(), qt = queries.table();
  ring_gradients<op> problem(fresh, all, 2, 1, p, generator);
  for (const named& system : systems)
    for (const std::uint64_t draw : {1, 2}) {
      CAPTURE(seed, system.name, draw);
      problem.check(qt, kt, system.how, {draw, 4000});
    }
}
