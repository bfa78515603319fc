// How long a simulation of thousands of ranks takes: seconds of one, on one thread.
#include <interleave.hpp>
#include <machine.hpp>
#include <smalti/comm/schedule/hierarchical.hpp>
#include <smalti/comm/schedule/ring.hpp>
#include <smalti/comm/schedule/tree.hpp>
#include <smalti/comm/simulator.hpp>

#include <string>

namespace {

namespace comm = smalti::comm;

template <class S> void enter_simulation(const std::string& name, S schedule) {
  bench::enter("comm/simulate/" + name, [schedule](benchmark::State& state) {
    const comm::network net{.inside = {2e-6, 1 / 150e9}, .across = {8e-6, 1 / 25e9}, .group = 8};
    for (auto _ : state) {
      static_cast<void>(_);
      const double begin = bench::thread_seconds();
      const comm::simulation s = comm::simulate(schedule, 1 << 20, net);
      const double took = bench::thread_seconds() - begin;
      if (!s.what || s.done != schedule.ranks) {
        state.SkipWithError("the simulation did not finish: its time means nothing");
        return;
      }
      state.SetIterationTime(took);
      state.counters["seconds"] = took;
      state.counters["actions/s"] = double(s.actions) / took;
      state.counters["virtual_us"] = s.seconds * 1e6;
    }
  });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  bench::describe_machine("none");
  enter_simulation("ring/ranks:4096", comm::ring(4096));
  enter_simulation("double_binary_tree/ranks:4096", comm::double_binary_tree(4096, comm::collective::all_reduce, 16));
  enter_simulation("nvrar/ranks:4096", comm::nvrar(8, 512));
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
