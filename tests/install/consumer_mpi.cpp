// A user's program that links MPI: before MPI_Init the transport says so. Nothing is sent.
#include <cstdio>
#include <smalti/comm/mpi.hpp>

int main() {
  const smalti::comm::mpi net(MPI_COMM_WORLD);
  std::puts(net.ready().what);
  return net.ready().code == smalti::errc::not_initialised && net.size() == 0 ? 0 : 1;
}
