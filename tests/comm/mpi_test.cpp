// Ranks as processes: mpirun -n P comm.mpi_test. The conformance of every transport, an epoch that ends because a rank stalls past the
// deadline, the next one that works, aborts from another thread, long messages as derived types. Exit status 1, and what was
// wrong in words, if any rank saw something wrong.
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include <smalti/comm/mpi.hpp>

#include "conformance.hpp"

using namespace smalti;
using namespace smalti::comm;

namespace {

test::complaints wrong;

void demand(bool so, const std::string& what) {
  if (!so) wrong.push_back(what);
}

struct call {
  std::vector<float> in, out;
  std::vector<test::scratch> memory;
  status said;
  bool right = true;
};
// One all-reduce of ones. The memory outlives the call: after a failure MPI may hold it until the next epoch.
void all_reduce(mpi& net, call& c, std::int64_t items, nanoseconds timeout, std::uint32_t operation, bool agree = true) {
  const ring s(net.size());
  c.in.assign(std::size_t(items), 1.0f), c.out.assign(std::size_t(items), 0.0f);
  execution<sum<float>, mpi> e(net);
  const arguments<sum<float>> x{.input = c.in.data(), .output = c.out.data(), .items = items, .operation = operation, .timeout = timeout, .agree = agree};
  c.memory.clear();
  c.memory.emplace_back(e.workspace_bytes(s, x));
  c.said = e.run(s, x, c.memory.back().get());
  c.right = true;
  for (const float y : c.out) c.right &= y == float(net.size());
}
std::string describe(const status& st) { return std::string(st.what) + " (got " + std::to_string(st.got) + ")"; }

void pause(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

// The last rank stays away. The others are told at their deadline, one of them by the name of that rank; the messages that nobody
// took are long enough that MPI still holds their memory. The stalled one comes late, and is told that the epoch is over.
void stall(mpi& net, bool agree) {
  const int last = net.size() - 1, me = net.rank();
  if (last == 0) return;
  call c;
  const nanoseconds begin = net.now();
  if (me == last) pause(500);
  all_reduce(net, c, 400'000, me == last ? 20'000'000'000 : 150'000'000, 0, agree);
  const double seconds = double(net.now() - begin) * 1e-9;
  demand(c.said.code == errc::peer_lost, "stall: expected peer_lost, got: " + describe(c.said));
  demand(seconds < 10, "stall: told after " + std::to_string(seconds) + " s");
  const char named = c.said.got == last;
  std::vector<char> all(std::size_t(net.size()));
  MPI_Allgather(&named, 1, MPI_CHAR, all.data(), 1, MPI_CHAR, MPI_COMM_WORLD);
  bool somebody = false;
  for (int r = 0; r < last; ++r) somebody |= all[std::size_t(r)] != 0;
  demand(somebody, "stall: nobody named the rank that stayed away");
  demand(bool(net.open(net.epoch() + 1)), "the next epoch did not open");
  demand(net.held() == 0, "MPI holds memory though a new epoch is open");
  all_reduce(net, c, 400'000, 20'000'000'000, 0);
  demand(bool(c.said) && c.right, "the epoch after a stall: " + describe(c.said));
}

void abort_from_a_thread(mpi& net) {
  if (net.size() < 2) return;
  // Rank 0 waits for ever for the others, until a thread beside it gives up; they are told.
  call c;
  if (net.rank() == 0) {
    std::thread other([&] {
      pause(100);
      net.abort(net.epoch(), -1);
      net.abort(net.epoch(), -1);
    });
    all_reduce(net, c, 10, never_late, 7);
    other.join();
  } else {
    pause(300);
    all_reduce(net, c, 10, never_late, 7);
  }
  demand(c.said.code == errc::peer_lost, "abort from a thread: " + describe(c.said));
  demand(bool(net.open(net.epoch() + 1)), "the epoch after an abort did not open");
}

// What the page about transports shows.
bool as_on_the_page() {
  // [mpi]
  comm::mpi net(MPI_COMM_WORLD);  // collective: a communicator of its own
  const comm::ring schedule(net.size());
  std::vector<float> x(1000, 1.0f), y(1000);
  comm::execution<comm::sum<float>, comm::mpi> all_reduce(net);
  const comm::arguments<comm::sum<float>> args{.input = x.data(), .output = y.data(), .items = 1000};
  test::scratch memory(all_reduce.workspace_bytes(schedule, args));
  const status st = all_reduce.run(schedule, args, memory.get());
  // [mpi]
  return st && y[999] == float(net.size());
}

}  // namespace

int main(int count, char** words) {
  {
    mpi early(MPI_COMM_WORLD);     // before MPI_Init: refused, and nothing happens
    demand(!early.ready() && early.size() == 0, "an mpi before MPI_Init must not be ready");
  }
  int level = 0;
  MPI_Init_thread(&count, &words, MPI_THREAD_SINGLE, &level);
  int rank = 0, ranks = 0;
  {
    mpi net(MPI_COMM_WORLD);
    demand(bool(net.ready()), "not ready");
    rank = net.rank(), ranks = net.size();
    // case("ranks in processes give what ranks in one thread give, to the bit")
    test::conformance<mpi>(net, wrong).all(ranks < 5 ? 300'000 : 60'000);
    // case("a process that stalls past the deadline is reported")
    if (wrong.empty()) stall(net, true);
    if (wrong.empty()) stall(net, false);
    if (wrong.empty()) abort_from_a_thread(net);
  }
  if (wrong.empty()) {
    // A message longer than one count of MPI, here of 1,000 bytes; two transports at once do not see each other's messages.
    mpi net(MPI_COMM_WORLD, 1000), other(MPI_COMM_WORLD);
    test::conformance<mpi>(net, wrong).messages();
    call a, b;
    all_reduce(net, a, 70'000, 20'000'000'000, 9);
    all_reduce(other, b, 70'000, 20'000'000'000, 9);
    demand(bool(a.said) && a.right, "long messages: " + describe(a.said));
    demand(bool(b.said) && b.right, "a second transport: " + describe(b.said));
  }
  demand(as_on_the_page(), "the program of docs/comm/transports.md");
  for (const std::string& w : wrong) std::fprintf(stderr, "rank %d of %d: %s\n", rank, ranks, w.c_str());
  std::fflush(stderr);
  int mine = wrong.empty() ? 0 : 1, any = 0;
  MPI_Allreduce(&mine, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  if (rank == 0) std::printf("%d ranks over MPI: %s\n", ranks, any ? "WRONG" : "conform");
  MPI_Finalize();
  return any;
}
