// The four orders of the operands of a dense product at 1024^3 on one thread, against one another: NN, NT, TN and TT are
// (A as M x K or, T, K x M) beside (B as K x N or, T, N x K). `to_best` is the time of the fastest of the other three over
// this one's, from the same rounds.
#include "problem.hpp"

#include <interleave.hpp>
#include <machine.hpp>
#include <smalti/core/context.hpp>
#include <smalti/ops/gemm.hpp>

#include <algorithm>
#include <array>

namespace {

using namespace bench;
using smalti::gemm::a_order;
using smalti::gemm::b_order;

template <a_order A, b_order B> struct order : smalti::gemm::options {
  static constexpr a_order a = A;
  static constexpr b_order b = B;
};
using nn = order<a_order::m_by_k, b_order::k_by_n>;
using nt = order<a_order::m_by_k, b_order::n_by_k>;
using tn = order<a_order::k_by_m, b_order::k_by_n>;
using tt = order<a_order::k_by_m, b_order::n_by_k>;

// Square operands, so that the same memory is a matrix in either order.
template <class In, class Order> contender product(const char* key, const char* name, std::shared_ptr<problem<In>> p) {
  using op = smalti::gemm::dense<In, In, sum_of<In>, smalti::policy::chain<>, Order>;
  const int size = p->m;
  const smalti::host_context context{.threads = 1};
  const typename op::args x{.a = {p->a.first(), size, size, size}, .b = {p->b.first(), size, size, size}, .c = {p->c(), size, size, size}};
  const std::size_t bytes = op::workspace_bytes(context, x);
  auto memory = std::make_shared<pages>(bytes > 0 ? bytes : 1);
  const auto once = [=] {
    if (const smalti::status bad = op::run(context, x, {memory->data, bytes}); !bad) throw std::runtime_error(bad.what);
  };
  std::memset(p->memory.data, 0x7b, p->memory.size);
  once();
  for (int probe = 0; probe < 64; ++probe) {
    const int i = probe * 7919 % size, j = probe * 104729 % size;
    std::int64_t sum = 0;
    for (int k = 0; k < size; ++k)
      sum += std::int64_t(to_integer(p->a.first()[Order::a == a_order::m_by_k ? i * size + k : k * size + i])) *
             to_integer(p->b.first()[Order::b == b_order::n_by_k ? j * size + k : k * size + j]);
    if (double(p->c()[std::int64_t(i) * size + j]) != double(sum)) throw std::runtime_error(std::string(name) + " gave a wrong answer: its time means nothing");
  }
  return timed(key, name, 1, once);
}

template <class In> void enter_orders(int size) {
  static constexpr std::array<const char*, 4> names{"nn", "nt", "tn", "tt"};
  for (std::size_t mine = 0; mine < names.size(); ++mine)
    enter(case_name("gemm", type_name<In>(), std::string("order_") + names[mine], size, size, size, 1), [=](benchmark::State& state) {
      auto p = std::make_shared<problem<In>>(size, size, size, false);
      std::vector<contender> all{product<In, nn>("nn", "NN", p), product<In, nt>("nt", "NT", p), product<In, tn>("tn", "TN", p), product<In, tt>("tt", "TT", p)};
      std::rotate(all.begin(), all.begin() + std::ptrdiff_t(mine), all.begin() + std::ptrdiff_t(mine) + 1);
      run(state, {.subject = all[0],
                  .peers = {all.begin() + 1, all.end()},
                  .flop = p->flop(),
                  .bytes = p->bytes(),
                  .arithmetic = instructions_of<In>(),
                  .rounds = 15});
      double best = 1e9;
      for (std::size_t i = 1; i < all.size(); ++i) best = std::min(best, double(state.counters["peer_ratio." + all[i].key]));
      state.counters["to_best"] = best;
    });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  describe_machine(peers_here());
  enter_orders<float>(1024);
  enter_orders<smalti::bf16>(1024);
  enter_orders<std::int8_t>(1024);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
