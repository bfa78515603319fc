#include "interleave.hpp"

#include <dirent.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <memory>

namespace bench {
namespace {

constexpr double limit_seconds = 0.004;           // per instruction and round
constexpr std::size_t stream_bytes = 256u << 20;  // per round: four rounds go once through 1 GiB

memory_stream& shared_stream() {
  static memory_stream stream;  // made by the first case that needs it
  return stream;
}

// Seconds that threads of this process were ready to run and other programs had the processors: the second
// number of each task's schedstat. Negative where the kernel does not say.
double waited() {
  DIR* tasks = opendir("/proc/self/task");
  if (tasks == nullptr) return -1;
  double sum = 0;
  bool known = false;
  while (const dirent* task = readdir(tasks)) {
    if (task->d_name[0] == '.') continue;
    const std::string path = std::string("/proc/self/task/") + task->d_name + "/schedstat";
    unsigned long long ran = 0, delayed = 0;
    if (std::FILE* file = std::fopen(path.c_str(), "r")) {
      if (std::fscanf(file, "%llu %llu", &ran, &delayed) == 2) sum += 1e-9 * double(delayed), known = true;
      std::fclose(file);
    }
  }
  closedir(tasks);
  return known ? sum : -1;
}

// On the wall's clock a sample during which others had the processors measures the neighbours: it is taken
// again. One thread's own clock does not count what others take.
struct referee {
  int threads, samples = 0, disturbed = 0;
  template <class Sample> auto watch(Sample sample) {
    constexpr int tries = 20;
    constexpr double tolerated = 0.02;  // of the sample's time
    ++samples;
    for (int i = 1;; ++i) {
      if (threads == 1) return sample();
      const double before = waited(), start = wall_seconds();
      auto result = sample();
      const double took = wall_seconds() - start;
      const bool quiet = before >= 0 && waited() - before <= tolerated * took;
      if (!quiet && i < tries) continue;
      disturbed += quiet ? 0 : 1;
      return result;
    }
  }
};

int repeats_for(const contender& c, double seconds_wanted) {
  int repeat = 1;
  for (;;) {
    const double took = c.sample(repeat);
    if (took >= seconds_wanted || repeat >= (1 << 24)) return repeat;
    const double factor = took > 0 ? 1.2 * seconds_wanted / took : 16;
    repeat = static_cast<int>(std::ceil(repeat * std::clamp(factor, 1.5, 16.0)));
  }
}

double quartile_spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return (values[3 * n / 4] - values[n / 4]) / values[n / 2];
}

std::vector<double> over(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratio(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) ratio[i] = a[i] / b[i];
  return ratio;
}

struct rates {
  instruction what;
  double flop;  // per sample and thread
  std::vector<double> per_second;
};

void measure(benchmark::State& state, const contest& c) {
  const int rounds = std::max(c.rounds, 9);
  std::vector<const contender*> all{&c.subject};
  for (const contender& p : c.peers) all.push_back(&p);

  const double least = c.threads == 1 ? c.sample_seconds : c.sample_seconds / 4;  // short ones are disturbed less often
  std::vector<int> repeat;
  for (const contender* p : all) repeat.push_back(repeats_for(*p, least));
  std::vector<rates> limits;
  for (const instruction i : c.arithmetic)
    if (available(i)) limits.push_back({i, arithmetic(i, c.threads, 3e8).rate() / c.threads * limit_seconds, {}});

  std::vector<std::vector<double>> time(all.size());
  std::vector<double> bandwidth;
  referee quiet{c.threads};
  const std::size_t stations = all.size() + limits.size() + (c.from_memory ? 1 : 0);
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t turn = 0; turn < stations; ++turn) {
      const std::size_t s = (turn + std::size_t(round)) % stations;  // nobody always follows the same neighbour
      if (s < all.size()) {
        all[s]->sample(1);  // its code and operands, not its neighbour's, are in the caches
        time[s].push_back(quiet.watch([&] { return all[s]->sample(repeat[s]); }) / repeat[s] / all[s]->work);
      } else if (s < all.size() + limits.size()) {
        rates& l = limits[s - all.size()];
        c.subject.sample(1);  // the clock it leaves: a loop on registers alone takes less power, and runs faster than any product may
        l.per_second.push_back(quiet.watch([&] { return arithmetic(l.what, c.threads, l.flop).rate(); }));
      } else {
        bandwidth.push_back(quiet.watch([&] { return shared_stream().read(c.threads, stream_bytes).rate(); }));
      }
    }
  }
  for (const auto& times : time)
    for (const double t : times)
      if (!(t > 0)) return state.SkipWithError("a sample took no time: nothing was measured");

  const double seconds_once = median(time[0]);
  state.SetIterationTime(seconds_once);
  auto& out = state.counters;
  if (c.flop > 0) out["FLOP/s"] = c.flop / seconds_once;
  if (c.bytes > 0) out["bytes/s"] = c.bytes / seconds_once;
  out["disturbed"] = double(quiet.disturbed) / quiet.samples;
  out["spread"] = quartile_spread(time[0]);

  std::string label;
  if (!c.peers.empty()) {
    out["peer_ratio"] = median(over(time[1], time[0]));
    label += "peers:";
    for (std::size_t i = 0; i < c.peers.size(); ++i) {
      out["peer_ratio." + c.peers[i].key] = median(over(time[i + 1], time[0]));
      label += (i == 0 ? " " : ", ") + c.peers[i].name;
    }
  }

  const rates* best = nullptr;
  double fma = 0, dot = 0;
  for (const rates& l : limits) {
    const double rate = median(l.per_second);
    (l.what == instruction::fma ? fma : dot) = std::max(l.what == instruction::fma ? fma : dot, rate);
    if (best == nullptr || rate > median(best->per_second)) best = &l;
  }
  if (fma > 0 && c.arithmetic.size() > 1) out["dot_over_fma"] = dot / fma;
  std::vector<double> share;
  bool memory_binds = false;
  for (int r = 0; r < rounds; ++r) {
    const double for_flop = best != nullptr && c.flop > 0 ? c.flop / best->per_second[std::size_t(r)] : 0;
    const double for_bytes = c.from_memory ? c.bytes / bandwidth[std::size_t(r)] : 0;
    memory_binds = memory_binds || for_bytes > for_flop;
    if (for_flop > 0 || for_bytes > 0) share.push_back(std::max(for_flop, for_bytes) / time[0][std::size_t(r)]);
  }
  if (best != nullptr) out["limit_FLOP/s"] = median(best->per_second);
  if (c.from_memory) {
    out["limit_bytes/s"] = median(bandwidth);
    std::vector<double> of_memory;
    for (int r = 0; r < rounds; ++r) of_memory.push_back(c.bytes / bandwidth[std::size_t(r)] / time[0][std::size_t(r)]);
    out["bandwidth_share"] = median(of_memory);
  }
  if (!share.empty()) {
    out["limit_share"] = median(share);
    label += std::string(label.empty() ? "" : "; ") + "limit: " + (memory_binds ? "read bandwidth" : name(best->what));
  }
  state.SetLabel(label);
}

}  // namespace

contender timed(std::string key, std::string name, int threads, std::function<void()> once) {
  auto sample = [threads, once = std::move(once)](int repeat) {
    const double start = seconds(threads);
    for (int i = 0; i < repeat; ++i) once();
    return seconds(threads) - start;
  };
  return {std::move(key), std::move(name), std::move(sample), 1};
}

void run(benchmark::State& state, const contest& c) {
  for (auto _ : state) {
    static_cast<void>(_);
    try {
      measure(state, c);
    } catch (const std::exception& e) {
      state.SkipWithError(e.what());
    }
  }
}

void enter(const std::string& name, std::function<void(benchmark::State&)> body) {
  benchmark::RegisterBenchmark(name.c_str(), std::move(body))->Iterations(1)->UseManualTime()->Unit(benchmark::kMicrosecond);
}

}  // namespace bench
