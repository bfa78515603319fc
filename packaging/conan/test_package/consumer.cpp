// A user's program: running sums on the host machine; with the component io a file that is refused, with mpi a transport that
// says that MPI was not started.
#include <cstdio>
#include <smalti/core/version.hpp>
#include <smalti/prim/scan.hpp>
#if defined(WITH_io)
#  include <smalti/io/mapped_file.hpp>
#endif
#if defined(WITH_mpi)
#  include <smalti/comm/mpi.hpp>
#endif

int main() {
  const int in[] = {1, 2, 3, 4};
  int sums[4] = {};
  alignas(256) std::byte memory[4096];
  const smalti::host_context context{.threads = 1};
  if (!smalti::prim::scan<int>::run(context, {.in = in, .out = sums, .count = 4}, {memory, sizeof memory})) return 1;
#if defined(WITH_io)
  smalti::io::mapped_file file;
  if (file.open("no-such-file.safetensors")) return 1;
#endif
#if defined(WITH_mpi)
  const smalti::comm::mpi net(MPI_COMM_WORLD);
  if (net.ready()) return 1;
#endif
  std::printf("smalti %d.%d.%d: 1 + 2 + 3 + 4 = %d\n", smalti::version.major, smalti::version.minor, smalti::version.patch, sums[3]);
  return sums[3] != 10;
}
