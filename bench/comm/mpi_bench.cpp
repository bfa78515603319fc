// All-reduce over MPI beside MPI_Allreduce of the same library, float sums: mpirun -n 2 bench.comm.mpi. all_reduce.py runs it, and
// makes of its lines what claims.py reads. Contenders take turns; a time is the slowest rank's.
//
//     case <bytes> <contender> <median seconds> <median of peer's / ours, round by round> <quartile spread> <share of disturbed samples>
//     fit <bytes held out> <alpha> <beta> <|predicted - measured| / measured> <share of disturbed samples>
#include <mpi.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include <smalti/comm/cost.hpp>
#include <smalti/comm/executor.hpp>
#include <smalti/comm/mpi.hpp>
#include <smalti/comm/schedule/doubling.hpp>
#include <smalti/comm/schedule/ring.hpp>
#include <smalti/comm/wire/block.hpp>
#include <smalti/comm/wire/cast.hpp>

using namespace smalti;

namespace {

constexpr int rounds = 11;
constexpr double sample_seconds = 0.02;
int coded_piece = 20;      // log2 of the bytes of float in a message that is encoded

struct buffer {      // aligned, and touched
  explicit buffer(std::size_t bytes) : data(static_cast<std::byte*>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096 + 4096))) { std::memset(data, 1, bytes + 1); }
  buffer(const buffer&) = delete;
  ~buffer() { std::free(data); }
  std::byte* data;
};

double seconds() { return MPI_Wtime(); }
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}
double spread(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return (v[3 * v.size() / 4] - v[v.size() / 4]) / v[v.size() / 2];
}
[[noreturn]] void give_up(const char* who, const char* why) {
  std::fprintf(stderr, "%s: %s\n", who, why);
  MPI_Abort(MPI_COMM_WORLD, 1);
  std::abort();
}

struct contender {
  const char* name;
  std::function<void()> once;
};

// Ours: one schedule and one wire. A new operation number for each call.
template <class W, class S> contender ours(const char* name, comm::mpi& net, std::shared_ptr<S> schedule, const float* x, float* y, std::int64_t n, std::uint32_t& operation, W wire = {}) {
  using run = comm::execution<comm::sum<float>, comm::mpi, W>;
  auto e = std::make_shared<run>(net, wire);
  typename run::args args{.input = x, .output = y, .items = n};
  auto memory = std::make_shared<buffer>(e->workspace_bytes(*schedule, args));
  const std::size_t size = e->workspace_bytes(*schedule, args);
  return {name, [=, &operation]() mutable {
            args.operation = operation++;
            if (const status st = e->run(*schedule, args, {memory->data, size}); !st) give_up(name, st.what);
          }};
}

// Seconds that this process was ready to run and another had the processor.
double waited() {
  std::FILE* f = std::fopen("/proc/self/schedstat", "r");
  if (f == nullptr) return 0;
  long long ran = 0, waiting = 0;
  const int read = std::fscanf(f, "%lld %lld", &ran, &waiting);
  std::fclose(f);
  return read == 2 ? double(waiting) * 1e-9 : 0;
}

// Seconds of one repetition, of the slowest rank. `disturbed` counts samples in which others had a processor for a fifth of the time.
double sample(const contender& c, int repeat, int* disturbed = nullptr) {
  MPI_Barrier(MPI_COMM_WORLD);
  const double before = waited(), begin = seconds();
  for (int i = 0; i < repeat; ++i) c.once();
  const double took = seconds() - begin;
  double mine[] = {took / repeat, (waited() - before) / took}, most[2];
  MPI_Allreduce(mine, most, 2, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  if (disturbed != nullptr) *disturbed += most[1] > 0.2;
  return most[0];
}

// One message there and one back, in one place: the cost model from two sizes, asked for a third that it has not seen.
void fit_messages(comm::mpi& net) {
  constexpr std::int64_t sizes[] = {256 << 10, 1 << 20, 4 << 20};
  buffer memory(4 << 20);
  std::uint32_t operation = 1u << 30;
  const auto wait = [&](comm::ticket k) {
    while (net.test(k).state == comm::delivery::pending) net.idle(comm::never_late);
  };
  std::vector<contender> all;
  for (const std::int64_t bytes : sizes)
    all.push_back({"message", [&, bytes] {
                     const comm::message_tag tag{net.epoch(), operation++};
                     for (int turn = 0; turn < 2; ++turn)
                       wait(turn == net.rank() ? net.post_send(1 - net.rank(), tag, memory.data, bytes) : net.post_recv(1 - net.rank(), tag, memory.data, bytes));
                   }});
  std::vector<std::vector<double>> times(3);
  int disturbed = 0;
  for (int round = 0; round < rounds; ++round)
    for (std::size_t c = 0; c < 3; ++c) {
      sample(all[c], 2);
      times[c].push_back(sample(all[c], int(std::max<std::int64_t>(4, (64 << 20) / sizes[c])), &disturbed) / 2);
    }
  // Ratios within a round, so that a slow minute is slow for all three.
  std::vector<comm::cost_sample> seen;
  for (const int c : {0, 2}) {
    std::vector<double> ratio;
    for (int r = 0; r < rounds; ++r) ratio.push_back(times[std::size_t(c)][std::size_t(r)] / times[1][std::size_t(r)]);
    seen.push_back({1, double(sizes[c]), median(ratio) * median(times[1])});
  }
  comm::cost_fit f;
  if (const status st = comm::fit(seen.data(), seen.size(), f); !st) give_up("fit", st.what);
  const double got = median(times[1]);
  if (net.rank() == 0)
    std::printf("fit %lld %.6g %.6g %.4g %.3g\n", static_cast<long long>(sizes[1]), f.link.alpha, f.link.beta, std::abs(f.predict(1, double(sizes[1])) / got - 1), disturbed / (3.0 * rounds));
}

}  // namespace

int main(int count, char** words) {
  MPI_Init(&count, &words);
  const std::int64_t least = count > 1 ? std::atoll(words[1]) : 8, most = count > 2 ? std::atoll(words[2]) : 64 << 20;
  if (count > 3) coded_piece = std::atoi(words[3]);
  {
    comm::mpi net(MPI_COMM_WORLD);
    const int p = net.size();
    std::uint32_t operation = 0;
    for (std::int64_t bytes = least; bytes <= most; bytes *= bytes < 1024 ? 8 : bytes < 1 << 20 ? 4 : 2) {
      const std::int64_t n = bytes / 4;
      buffer in(std::size_t(bytes) + 64), out(std::size_t(bytes) + 64), theirs(std::size_t(bytes) + 64);
      float *x = reinterpret_cast<float*>(in.data), *y = reinterpret_cast<float*>(out.data), *z = reinterpret_cast<float*>(theirs.data);
      for (std::int64_t i = 0; i < n; ++i) x[i] = float((i * 7 + net.rank() * 3) % 251 - 125);
      std::vector<contender> all;
      all.push_back({"open_mpi", [=] { MPI_Allreduce(x, z, int(n), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD); }});
      // As docs/comm/mpi.md advises for two ranks of one machine.
      if (bytes <= 16384) all.push_back(ours<comm::plain_wire>("plain", net, std::make_shared<comm::recursive_doubling>(p), x, y, n, operation));
      else if (bytes <= 1 << 20) all.push_back(ours<comm::plain_wire>("plain", net, std::make_shared<comm::direct>(p), x, y, n, operation));
      else all.push_back(ours<comm::plain_wire>("plain", net, std::make_shared<comm::ring>(p, comm::collective::all_reduce, int(std::max<std::int64_t>(1, bytes / p >> 21))), x, y, n, operation));
      // Half the bytes, and little more than a quarter. Their answers are rounded, and compared with that in mind.
      const int pieces = int(std::max<std::int64_t>(1, bytes / p >> coded_piece));
      all.push_back(ours<comm::cast_wire<bf16>>("bf16", net, std::make_shared<comm::ring>(p, comm::collective::all_reduce, pieces), x, y, n, operation));
      all.push_back(ours<comm::int8_wire<>>("int8", net, std::make_shared<comm::ring>(p, comm::collective::all_reduce, pieces), x, y, n, operation));

      std::vector<int> repeat;
      std::vector<std::vector<double>> times(all.size());
      for (const contender& c : all) {
        c.once();
        int r = std::clamp(int(sample_seconds / sample(c, 2)), 1, 20'000);
        MPI_Bcast(&r, 1, MPI_INT, 0, MPI_COMM_WORLD);
        repeat.push_back(r);
        if (c.name == all[0].name) continue;
        // plain: integers, exact. bf16: 2^-9 of each partial sum, and of the result. int8: half of 1 / 127 of the greatest of a block.
        const float one = std::strcmp(c.name, "plain") == 0 ? 0.0f : std::strcmp(c.name, "bf16") == 0 ? 0x1p-8f : 1 / 250.0f;
        for (std::int64_t i = 0; i < n; ++i)
          if (std::abs(y[i] - z[i]) > one * 125 * float(p * (p + 1) / 2)) give_up(c.name, "wrong answer: its time means nothing");
      }
      int disturbed = 0;
      for (int round = 0; round < rounds; ++round)
        for (std::size_t k = 0; k < all.size(); ++k) {
          const std::size_t c = (k + std::size_t(round)) % all.size();
          sample(all[c], 1);
          times[c].push_back(sample(all[c], repeat[c], &disturbed));
        }
      for (std::size_t c = 0; c < all.size(); ++c) {
        std::vector<double> ratio;
        for (int r = 0; r < rounds; ++r) ratio.push_back(times[0][std::size_t(r)] / times[c][std::size_t(r)]);
        if (net.rank() == 0) std::printf("case %lld %s %.9g %.6g %.4g %.3g\n", static_cast<long long>(bytes), all[c].name, median(times[c]), median(ratio), spread(times[c]), disturbed / double(rounds * int(all.size())));
      }
      if (net.rank() == 0) std::fflush(stdout);
    }
    if (p == 2) fit_messages(net);
  }
  MPI_Finalize();
  return 0;
}
