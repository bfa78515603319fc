// The machine and its libraries without ours: the limits that shares are taken of, and each peer on a product
// of 1024^3 with the other peers as its peers.
#include "../gemm/problem.hpp"

#include <interleave.hpp>
#include <machine.hpp>

#include <thread>

namespace {

using namespace bench;

void enter_limits(int threads) {
  for (const instruction i : {instruction::fma, instruction::bf16_dot, instruction::s8_dot, instruction::amx_bf16, instruction::amx_s8}) {
    if (!available(i)) continue;
    enter(std::string("machine/") + name(i) + "/threads:" + std::to_string(threads), [=](benchmark::State& state) {
      constexpr double flop = 1e8;
      run(state, {.subject = timed("limit", name(i), threads, [=] { arithmetic(i, threads, flop); }),
                  .threads = threads,
                  .flop = flop * threads,
                  .arithmetic = {i}});
    });
  }
  enter("machine/read/threads:" + std::to_string(threads), [=](benchmark::State& state) {
    auto stream = std::make_shared<memory_stream>();
    constexpr std::size_t bytes = 64u << 20;
    run(state, {.subject = timed("read", "read", threads, [=] { stream->read(threads, bytes); }),
                .threads = threads,
                .bytes = bytes,
                .from_memory = true});
  });
  enter("machine/copy/threads:" + std::to_string(threads), [=](benchmark::State& state) {
    auto stream = std::make_shared<memory_stream>();
    constexpr std::size_t bytes = 64u << 20;
    run(state, {.subject = timed("copy", "copy, bytes read and written", threads, [=] { stream->copy(threads, bytes); }),
                .threads = threads,
                .bytes = bytes,
                .from_memory = true});
  });
}

template <class In> void enter_peers(int threads) {
  constexpr int size = 1024;
  const auto present = peers_of(std::make_shared<problem<In>>(16, 16, 16, false), threads);
  for (std::size_t which = 0; which < present.size(); ++which) {
    const std::string key = present[which].key;
    enter(case_name(("machine/" + key).c_str(), type_name<In>(), "", size, size, size, threads), [=](benchmark::State& state) {
      auto square = std::make_shared<problem<In>>(size, size, size, false);
      auto others = peers_of(square, threads);
      const contender subject = others[which];
      others.erase(others.begin() + std::ptrdiff_t(which));
      run(state, {.subject = subject,
                  .peers = others,
                  .threads = threads,
                  .flop = square->flop(),
                  .bytes = square->bytes(),
                  .arithmetic = instructions_of<In>()});
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
#if defined(SMALTI_BENCH_WITHOUT_AMX) && defined(SMALTI_BENCH_ONEDNN)
  bench::onednn::without_amx();
#endif
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  describe_machine(peers_here());
  const int most = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  for (int threads = 1; threads <= most; threads *= 2) {
    enter_limits(threads);
    enter_peers<smalti::bf16>(threads);
    enter_peers<float>(threads);
    enter_peers<std::int8_t>(threads);
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
