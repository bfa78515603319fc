// NCCL on as many GPUs as there are, each rank a lane of this process: schedules as grouped sends and receives, and NCCL's own
// collectives. Compiling and linking it is the test where there is no GPU.
#include <smalti/comm/nccl.hpp>

#include <catch2/catch.hpp>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "group.hpp"
#include "schedules.hpp"

using namespace smalti;
using namespace smalti::comm;

namespace {

struct world {
  std::vector<ncclComm_t> comms;
  std::vector<cudaStream_t> streams;
  world() {
    int devices = 0;
    REQUIRE(cudaGetDeviceCount(&devices) == cudaSuccess);
    comms.resize(std::size_t(devices)), streams.resize(std::size_t(devices));
    REQUIRE(ncclCommInitAll(comms.data(), devices, nullptr) == ncclSuccess);
    for (int d = 0; d < devices; ++d) {
      cudaSetDevice(d);
      REQUIRE(cudaStreamCreateWithFlags(&streams[std::size_t(d)], cudaStreamNonBlocking) == cudaSuccess);
    }
    cudaSetDevice(0);
  }
  int size() const { return int(comms.size()); }
};

// One thread a rank: a group of NCCL may wait on the host for the other ranks.
template <class C, class Value> void same(world& w, const std::string& what, const schedule_view& s, std::int64_t items, Value value) {
  if (s.kind == collective::all_to_all) items *= s.chunks();
  test::group<C> g(s, items);
  for (int r = 0; r < s.ranks; ++r) {
    const std::int64_t first = g.cut.offset(s.input(r).first);
    for (std::int64_t i = 0; i < g.held(r); ++i) g.in(r)[i] = value(r, first + i);
  }
  std::vector<test::array<typename C::element>> out;
  std::vector<status> said(std::size_t(s.ranks));
  for (int r = 0; r < s.ranks; ++r) out.emplace_back(std::size_t(g.made(r)));
  std::vector<std::thread> ranks;
  for (int r = 0; r < s.ranks; ++r)
    ranks.emplace_back([&, r] {
      cudaSetDevice(r);
      nccl lane(w.comms[std::size_t(r)], w.streams[std::size_t(r)]);
      auto x = g.all[std::size_t(r)];
      x.output = out[std::size_t(r)].data();
      test::scratch memory(queued<C, nccl>::workspace_bytes(lane, s, x));
      said[std::size_t(r)] = queued<C, nccl>::run(lane, s, x, memory.get());
      if (said[std::size_t(r)]) said[std::size_t(r)] = lane.wait(30'000'000'000);
    });
  for (auto& t : ranks) t.join();
  REQUIRE(g.run());
  for (int r = 0; r < s.ranks; ++r) {
    CAPTURE(what, r, said[std::size_t(r)].what, said[std::size_t(r)].got);
    REQUIRE(said[std::size_t(r)]);
    REQUIRE((g.made(r) == 0 || std::memcmp(out[std::size_t(r)].data(), g.out(r), std::size_t(g.made(r)) * sizeof(typename C::element)) == 0));
  }
}

}  // namespace

TEST_CASE("schedules over NCCL give the bits of the executor", "[comm][nccl]") {
  world w;
  test::for_each_flat_schedule(w.size(), [&](const std::string& what, const schedule_view& s) {
    same<sum<std::int64_t>>(w, what, s, 1001, [](int r, std::int64_t i) { return r * 1000003LL + i + 1; });
    if (reduces(s.kind)) same<average<bf16>>(w, what, s, 1001, [](int r, std::int64_t i) { return narrow<bf16>(float((r * 7 + i) % 31) * 0.3f); });
  });
}

TEST_CASE("NCCL's own collectives, and what is refused", "[comm][nccl]") {
  world w;
  std::vector<status> said(std::size_t(w.size()));
  std::vector<test::array<float>> in, out;
  for (int r = 0; r < w.size(); ++r) {
    in.emplace_back(64), out.emplace_back(64);
    for (float& x : in.back()) x = float(r + 1);
  }
  std::vector<std::thread> ranks;
  for (int r = 0; r < w.size(); ++r)
    ranks.emplace_back([&, r] {
      cudaSetDevice(r);
      nccl lane(w.comms[std::size_t(r)], w.streams[std::size_t(r)]);
      const arguments<sum<float>> x{.input = in[std::size_t(r)].data(), .output = out[std::size_t(r)].data(), .items = 64};
      said[std::size_t(r)] = built_in(lane, collective::all_reduce, x);
      if (said[std::size_t(r)]) said[std::size_t(r)] = lane.wait(30'000'000'000);
    });
  for (auto& t : ranks) t.join();
  for (int r = 0; r < w.size(); ++r) {
    REQUIRE(said[std::size_t(r)]);
    for (const float y : out[std::size_t(r)]) REQUIRE(y == float(w.size() * (w.size() + 1) / 2));
  }
  nccl lane(w.comms[0], w.streams[0]);
  const arguments<sum<float>> x{.input = in[0].data(), .output = out[0].data(), .items = 64};
  CHECK(built_in(lane, collective::all_to_all, x).code == errc::bad_value);
  CHECK(built_in(lane, collective::broadcast, x, w.size()).code == errc::bad_value);
  CHECK(built_in(lane, collective::all_reduce, arguments<comm::lse_merge<policy::lse_e>>{.input = in[0].data(), .output = out[0].data(), .items = 32}).code == errc::bad_value);
}
