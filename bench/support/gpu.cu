#include "gpu.hpp"

#include <regex.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>

namespace bench::gpu {
namespace {

struct facts {
  std::string name;
  int arch = 0, processors = 0, driver = 0, runtime = 0;
  std::size_t l2 = 0, memory = 0;
};
facts device;

double wall() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.size() % 2 ? v[v.size() / 2] : (v[v.size() / 2 - 1] + v[v.size() / 2]) / 2;
}
double quartile_spread(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return (v[3 * v.size() / 4] - v[v.size() / 4]) / median(v);
}

// Reads memory and leaves it clean: a cache full of lines that must be written back first would slow the next reader.
__global__ void read_through(const uint4* from, std::size_t count, unsigned* nowhere) {
  unsigned seen = 0;
  for (std::size_t i = std::size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += std::size_t(gridDim.x) * blockDim.x) seen |= from[i].x;
  if (seen != 0) *nowhere = seen;                // never: the memory holds zeros
}

// What all cases share: a stream, events, memory that empties the cache, and two buffers to copy between.
class bank {
 public:
  static constexpr std::size_t copied = 256u << 20;
  static constexpr int most_events = 17;

  bank() : copy_(2 * copied), evicting_(std::max<std::size_t>(3 * device.l2, 64u << 20)), nowhere_(1) {
    demand(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "no stream");
    for (cudaEvent_t& e : events_) demand(cudaEventCreate(&e), "no event");
    demand(cudaMemset(copy_.data(), 0, copy_.size()), "memory could not be cleared");
    demand(cudaMemset(evicting_.data(), 0, evicting_.size()), "memory could not be cleared");
    demand(cudaDeviceSynchronize(), "memory could not be cleared");
  }
  //! Mean seconds of one of `repeat` runs (at most 16 where the cache is emptied before each).
  double time(const queued& run, bool warm, int repeat) {
    double sum = 0;
    if (warm) {
      run(stream);
      demand(cudaEventRecord(events_[0], stream), "an event failed");
      for (int i = 0; i < repeat; ++i) run(stream);
      demand(cudaEventRecord(events_[1], stream), "an event failed");
      return between(0, 1) / repeat;
    }
    repeat = std::min(repeat, most_events / 2);
    for (int i = 0; i < repeat; ++i) {
      evict();
      demand(cudaEventRecord(events_[2 * i], stream), "an event failed");
      run(stream);
      demand(cudaEventRecord(events_[2 * i + 1], stream), "an event failed");
    }
    for (int i = 0; i < repeat; ++i) sum += between(2 * i, 2 * i + 1);
    return sum / repeat;
  }
  double bandwidth() {
    const queued copy = [this](cudaStream_t s) {
      demand(cudaMemcpyAsync(copy_.data() + copied, copy_.data(), copied, cudaMemcpyDeviceToDevice, s), "a copy failed");
    };
    return 2.0 * copied / time(copy, false, 1);
  }
  cudaStream_t stream = nullptr;

 private:
  void evict() {
    read_through<<<4 * device.processors, 512, 0, stream>>>(reinterpret_cast<const uint4*>(evicting_.data()), evicting_.size() / sizeof(uint4), nowhere_.data());
    demand(cudaGetLastError(), "the cache could not be emptied");
  }
  double between(int first, int last) {
    float milliseconds = 0;
    demand(cudaEventSynchronize(events_[last]), "the work failed");
    demand(cudaEventElapsedTime(&milliseconds, events_[first], events_[last]), "the work could not be timed");
    return 1e-3 * milliseconds;
  }
  cudaEvent_t events_[most_events + 1] = {};
  array<unsigned char> copy_, evicting_;
  array<unsigned> nowhere_;
};
bank& shared() {
  static bank one;
  return one;
}

// As many runs as make a sample of a fifth of a millisecond.
int repeats_for(const queued& run, bool warm) {
  shared().time(run, warm, 1);                   // loads its code
  const double once = shared().time(run, warm, 1);
  return int(std::clamp(std::ceil(2e-4 / std::max(once, 1e-7)), 1.0, warm ? 64.0 : 8.0));
}

struct entry {
  std::string name;
  std::function<outcome()> body;
};
std::vector<entry>& entries() {
  static std::vector<entry> all;
  return all;
}

std::string quoted(const std::string& s) {
  std::string out = "\"";
  for (const char c : s) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 32) out += ' ';
    else out += c;
  }
  return out + "\"";
}

struct record {
  std::string name, error;
  outcome got;
};

std::string json(const std::vector<record>& records, const peers_here& peers) {
  char date[64];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S+00:00", std::gmtime(&now));
  const char* commit = std::getenv("SMALTI_COMMIT");
  const auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
  std::string out = "{\n  \"context\": {\n";
  const std::pair<const char*, std::string> context[] = {
      {"date", date}, {"gpu", device.name}, {"arch", "sm_" + std::to_string(device.arch)}, {"driver", "for CUDA " + version(device.driver)},
      {"toolkit", version(CUDART_VERSION)}, {"compiler", "nvcc " + std::to_string(__CUDACC_VER_MAJOR__) + "." + std::to_string(__CUDACC_VER_MINOR__) + "." + std::to_string(__CUDACC_VER_BUILD__)},
      {"peers", peers.present}, {"absent", peers.absent}, {"commit", commit != nullptr ? commit : "unknown"}};
  for (const auto& [key, value] : context) out += "    " + quoted(key) + ": " + quoted(value) + (key == std::string("commit") ? "\n" : ",\n");
  out += "  },\n  \"benchmarks\": [";
  for (std::size_t i = 0; i < records.size(); ++i) {
    const record& r = records[i];
    char number[64];
    out += std::string(i == 0 ? "\n" : ",\n") + "    {\"name\": " + quoted(r.name) + ", \"run_name\": " + quoted(r.name) + ", \"run_type\": \"iteration\", \"iterations\": 1";
    if (!r.error.empty()) {
      out += ", \"error_occurred\": true, \"error_message\": " + quoted(r.error) + "}";
      continue;
    }
    std::snprintf(number, sizeof number, ", \"real_time\": %.6g, \"cpu_time\": %.6g", 1e6 * r.got.seconds, 1e6 * r.got.seconds);
    out += std::string(number) + ", \"time_unit\": \"us\"";
    for (const auto& [key, value] : r.got.counters) {
      std::snprintf(number, sizeof number, "%.6g", value);
      out += ", " + quoted(key) + ": " + number;
    }
    out += ", \"label\": " + quoted(r.got.label) + "}";
  }
  return out + "\n  ]\n}\n";
}

void print(const record& r) {
  std::printf("%-48s %10.2f us", r.name.c_str(), 1e6 * r.got.seconds);
  const auto show = [&](const char* key, const char* form, double scale) {
    if (const auto found = r.got.counters.find(key); found != r.got.counters.end()) std::printf(form, scale * found->second);
  };
  show("FLOP/s", "  %8.2f TFLOP/s", 1e-12);
  show("bytes/s", "  %8.1f GB/s", 1e-9);
  show("limit_share", "  limit_share %.2f", 1);
  show("peer_ratio", "  peer_ratio %.2f", 1);
  std::printf("  %s\n", r.got.label.c_str());
}

bool read_device(std::string& why) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
    why = error != cudaSuccess ? cudaGetErrorString(error) : "none is visible";
    return false;
  }
  cudaDeviceProp p;
  if (const cudaError_t error = cudaGetDeviceProperties(&p, 0); error != cudaSuccess) {
    why = cudaGetErrorString(error);
    return false;
  }
  device = {p.name, 10 * p.major + p.minor, p.multiProcessorCount, 0, 0, std::size_t(p.l2CacheSize), p.totalGlobalMem};
  cudaDriverGetVersion(&device.driver);
  return true;
}

}  // namespace

double seconds(const queued& run, bool warm, int rounds) {
  std::vector<double> all;
  shared().time(run, warm, 1);
  for (int i = 0; i < rounds; ++i) all.push_back(shared().time(run, warm, 1));
  return median(all);
}

outcome measure(const contest& c) {
  constexpr int rounds = 9;
  std::vector<const queued*> all{&c.subject};
  for (const contender& p : c.peers) all.push_back(&p.run);
  std::vector<int> repeat;
  for (const queued* run : all) repeat.push_back(repeats_for(*run, c.warm));
  std::vector<std::vector<double>> time(all.size());
  std::vector<double> bandwidth;
  for (int round = 0; round < rounds; ++round)
    for (std::size_t turn = 0; turn <= all.size(); ++turn) {
      const std::size_t s = (turn + std::size_t(round)) % (all.size() + 1);     // nobody always follows the same neighbour
      if (s == all.size()) bandwidth.push_back(shared().bandwidth());
      else time[s].push_back(shared().time(*all[s], c.warm, repeat[s]));
    }
  for (const auto& times : time)
    for (const double t : times)
      if (!(t > 0)) throw std::runtime_error("a sample took no time: nothing was measured");

  outcome out{.seconds = median(time[0]), .counters = c.counters, .label = {}};
  if (c.flop > 0) out.counters["FLOP/s"] = c.flop / out.seconds;
  if (c.bytes > 0) out.counters["bytes/s"] = c.bytes / out.seconds;
  out.counters["spread"] = quartile_spread(time[0]);
  std::vector<double> share, of_memory;
  for (std::size_t p = 0; p < c.peers.size(); ++p) {
    std::vector<double> ratio;
    for (int r = 0; r < rounds; ++r) ratio.push_back(time[p + 1][std::size_t(r)] / time[0][std::size_t(r)]);
    out.counters["peer_ratio." + c.peers[p].key] = median(ratio);
    if (p == 0) out.counters["peer_ratio"] = median(ratio);
    out.label += (p == 0 ? "peers: " : ", ") + c.peers[p].name;
  }
  const double for_flop = c.arithmetic > 0 ? c.flop / c.arithmetic : 0;
  for (int r = 0; r < rounds; ++r) {
    const double for_bytes = c.bytes / bandwidth[std::size_t(r)];
    of_memory.push_back(for_bytes / time[0][std::size_t(r)]);
    share.push_back(std::max(for_bytes, for_flop) / time[0][std::size_t(r)]);
  }
  out.counters["limit_bytes/s"] = median(bandwidth);
  out.counters["bandwidth_share"] = median(of_memory);
  if (c.arithmetic > 0) out.counters["limit_FLOP/s"] = c.arithmetic;
  if (c.arithmetic > 0 || c.flop == 0) {
    out.counters["limit_share"] = median(share);
    out.label += std::string(out.label.empty() ? "" : "; ") + "limit: " +
                 (for_flop > c.bytes / median(bandwidth) ? c.arithmetic_name : "bandwidth of a copy");
  }
  return out;
}

void enter(const std::string& name, std::function<outcome()> body) { entries().push_back({name, std::move(body)}); }

int main(int argc, char** argv, const std::function<peers_here()>& peers) {
  std::string filter = ".", file;
  double budget = 1e9;
  bool list = false;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    const auto value = [&](const char* flag, std::string& to) {
      const std::size_t n = std::strlen(flag);
      if (a.compare(0, n, flag) != 0) return false;
      to = a.substr(n);
      return true;
    };
    std::string text;
    if (value("--benchmark_filter=", filter) || value("--benchmark_out=", file)) continue;
    if (value("--seconds=", text)) budget = std::atof(text.c_str());
    else if (a == "--benchmark_list_tests" || a == "--benchmark_list_tests=true") list = true;
    else if (value("--benchmark_out_format=", text) && text == "json") continue;
    else return std::fprintf(stderr, "%s: unknown flag %s\n", argv[0], argv[i]), 1;
  }
  regex_t pattern;
  if (regcomp(&pattern, filter.c_str(), REG_EXTENDED | REG_NOSUB) != 0) return std::fprintf(stderr, "%s: '%s' is no pattern\n", argv[0], filter.c_str()), 1;
  std::vector<const entry*> chosen;
  for (const entry& e : entries())
    if (regexec(&pattern, e.name.c_str(), 0, nullptr, 0) == 0) chosen.push_back(&e);
  regfree(&pattern);
  if (list) {
    for (const entry* e : chosen) std::puts(e->name.c_str());
    return 0;
  }
  if (std::string why; !read_device(why)) {
    std::printf("skipped: no NVIDIA GPU can be used here (%s)\n", why.c_str());
    return 77;
  }
  const double begin = wall();
  const peers_here others = peers();
  std::printf("%s, sm_%d; peers: %s%s\n", device.name.c_str(), device.arch, others.present.c_str(), others.absent.empty() ? "" : ("; absent: " + others.absent).c_str());
  std::vector<record> records;
  bool failed = false;
  for (const entry* e : chosen) {
    record r{.name = e->name, .error = {}, .got = {}};
    try {
      if (wall() - begin > budget) throw not_measured("out of time");
      r.got = e->body();
      print(r);
    } catch (const not_measured& x) {
      r.error = x.what();
    } catch (const std::exception& x) {
      r.error = x.what();
      failed = true;
    }
    if (!r.error.empty()) std::printf("%-48s %s\n", r.name.c_str(), r.error.c_str());
    std::fflush(stdout);
    records.push_back(std::move(r));
    const bool fatal = cudaDeviceSynchronize() != cudaSuccess;       // an address or launch failure spoils every later call
    if (fatal) failed = true;
    if (!file.empty()) {                                             // after each case: a run that is cut off leaves what it has
      std::FILE* out = std::fopen(file.c_str(), "w");
      if (out == nullptr) return std::fprintf(stderr, "%s: %s cannot be written\n", argv[0], file.c_str()), 1;
      const std::string text = json(records, others);
      std::fwrite(text.data(), 1, text.size(), out);
      if (std::fclose(out) != 0) return std::fprintf(stderr, "%s: %s cannot be written\n", argv[0], file.c_str()), 1;
    }
    if (fatal) {
      std::printf("the GPU reports a failure that later cases cannot survive: stopped\n");
      break;
    }
  }
  return failed ? 1 : 0;
}

}  // namespace bench::gpu
