// A user's program that links NCCL: the library answers, a lane says why it is none, and nothing is sent. Needs no GPU.
#include <cstdio>
#include <smalti/comm/nccl.hpp>
#include <smalti/comm/schedule/ring.hpp>

int main() {
  using namespace smalti::comm;
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return 1;
  nccl lane(nullptr, nullptr);
  const smalti::status refused = queued<sum<float>, nccl>::run(lane, ring(2), {}, {});
  std::printf("NCCL %d; without a communicator: %s; a collective: %s\n", version, lane.failure().what, refused.what);
  return !lane.failure() && lane.size() == 0 && refused.code == smalti::errc::bad_shape ? 0 : 1;
}
