// Contexts and what owns memory for them. Compiled by nvcc as well, where the host's half is only data.
#include <catch2/catch.hpp>
#include <cstdint>
#include <cstring>
#include <utility>
#include <smalti/core/determinism.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/nvtx.hpp>
#include <smalti/core/workspace_pool.hpp>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#  define SANITIZED
#elif defined(__has_feature)
#  if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#    define SANITIZED
#  endif
#endif

using namespace smalti;

namespace {
struct selector {};
struct op_default {};
}  // namespace

TEST_CASE("a GPU takes the newest branch it knows", "[core][context]") {
  const std::pair<int, target> cases[] = {{80, target::sm80}, {86, target::sm80}, {87, target::sm80}, {89, target::sm89},
                                          {90, target::sm90}, {100, target::sm100}, {103, target::sm100}, {110, target::sm100},
                                          {120, target::sm120}, {121, target::sm120}, {200, target::sm120}};
  for (const auto& [arch, branch] : cases) CHECK(target_of(arch) == branch);
}

TEST_CASE("a tuning travels with its context", "[core][context]") {
  const auto t = with_tuning<selector>(host_context{3, 7});
  using tuned_host = std::remove_cv_t<decltype(t)>;
  CHECK(base_of(t).threads == 3);
  CHECK(base_of(t).shuffle == 7);
  CHECK(base_of(host_context{5}).threads == 5);
  static_assert(std::is_same_v<selector_of<tuned_host, op_default>::type, selector>);
  static_assert(std::is_same_v<selector_of<host_context, op_default>::type, op_default>);
  static_assert(is_host<tuned_host> && is_host<host_context> && !is_host<cuda_context>);
  static_assert(is_cuda<cuda_context> && is_cuda<tuned<cuda_context, selector>> && !is_cuda<tuned_host>);
  static_assert(!runs_here<int>);
}

TEST_CASE("a host context is checked", "[core][context]") {
  CHECK(bool(check_context(host_context{})));
  CHECK(bool(check_context(host_context{4})));
  CHECK(check_context(host_context{-1}) == status{errc::bad_value, "", -1, 0});
  CHECK(check_context(with_tuning<selector>(host_context{-2})) == status{errc::bad_value, "", -2, 0});
  CHECK(capture_of(host_context{}) == capture::none);
}

TEST_CASE("levels of determinism are ordered", "[core][context]") {
  CHECK(determinism::not_guaranteed < determinism::run_to_run);
  CHECK(determinism::run_to_run < determinism::gpu_to_gpu);
}

TEST_CASE("a range for the profiler can be made", "[core][nvtx]") {
  nvtx_range outer("outer");
  nvtx_range inner("inner");
  SUCCEED();
}

TEST_CASE("a host pool grows, keeps and moves its block", "[core][pool]") {
  workspace_pool pool{host_context{}};
  static_assert(std::is_same_v<decltype(pool), workspace_pool<host_context>>);
  CHECK(pool.size() == 0);
  CHECK(pool.memory().data == nullptr);
  REQUIRE(bool(pool.reserve(0)));
  CHECK(pool.size() == 0);
  REQUIRE(bool(pool.reserve(1000)));
  const workspace w = pool.memory();
  CHECK(w.size >= 1000);
  CHECK(bool(check_workspace(w, 1000)));
  std::memset(w.data, 0xAB, w.size);
  REQUIRE(bool(pool.reserve(10)));
  CHECK(pool.memory().data == w.data);                       // enough already: not moved
  REQUIRE(bool(pool.reserve(w.size + 1)));
  CHECK(pool.size() > w.size);
  CHECK(bool(check_workspace(pool.memory(), w.size + 1)));
  std::memset(pool.memory().data, 0xCD, pool.size());

  const std::byte* block = pool.memory().data;
  workspace_pool moved = std::move(pool);
  CHECK(moved.memory().data == block);
  CHECK(pool.size() == 0);
  workspace_pool<host_context> other;
  REQUIRE(bool(other.reserve(1)));
  other = std::move(moved);
  CHECK(other.memory().data == block);
  other.release();
  CHECK(other.memory().data == nullptr);
}

TEST_CASE("a pool that cannot grow says so and is empty", "[core][pool]") {
  workspace_pool<host_context> pool;
  REQUIRE(bool(pool.reserve(100)));
  CHECK(pool.reserve(SIZE_MAX / 2).code == errc::workspace_too_small);
  CHECK(pool.reserve(SIZE_MAX).code == errc::workspace_too_small);
  CHECK(pool.size() == 0);
  CHECK(bool(pool.reserve(100)));
#if !defined(SANITIZED)      // a sanitizer's allocator ends the program instead
  CHECK(pool.reserve(std::size_t(1) << 62) == status{errc::workspace_too_small, "", 0, std::int64_t(1) << 62});
  CHECK(pool.size() == 0);
#endif
}

#if !defined(SMALTI_HAS_CUDA_CONTEXT)

TEST_CASE("a CUDA context can be named where it cannot work", "[core][context]") {
  static_assert(!runs_here<cuda_context>);
  CHECK(check_context(cuda_context{}).code == errc::not_initialised);
}

#else

TEST_CASE("a CUDA context not made by on() is refused", "[core][context]") {
  CHECK(check_context(cuda_context{}).code == errc::not_initialised);
  static_assert(explain_context<cuda_context>() && explain_context<tuned<cuda_context, selector>>() && runs_here<cuda_context>);
  static_assert(!runs_here<host_context>);
}

TEST_CASE("a CUDA context knows its device, or says why not", "[core][context]") {
  const cuda_context c = cuda_context::on(nullptr);
  if (!c.ready) {
    CHECK((c.ready.code == errc::not_initialised || c.ready.code == errc::unsupported_arch || c.ready.code == errc::cuda_error));
    CHECK(workspace_pool(c).reserve(16) == c.ready);
    return;
  }
  int current = -1;
  REQUIRE(cudaGetDevice(&current) == cudaSuccess);
  CHECK(c.device == current);
  CHECK(c.arch >= 80);
  CHECK(c.sm_count > 0);
  CHECK(c.l2_bytes > 0);
  CHECK(c.max_shared_bytes_per_block >= 48 * 1024);
  CHECK(c.max_shared_bytes_per_sm >= c.max_shared_bytes_per_block);
  CHECK(c.max_grid_x >= 65535);
}

TEST_CASE("a device guard puts the device back", "[core][context]") {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    CHECK_FALSE(bool(device_guard(0).entered));
    return;
  }
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
  {
    device_guard guard(devices - 1);
    CHECK(bool(guard.entered));
    int now = -1;
    REQUIRE(cudaGetDevice(&now) == cudaSuccess);
    CHECK(now == devices - 1);
  }
  int after = -1;
  REQUIRE(cudaGetDevice(&after) == cudaSuccess);
  CHECK(after == 0);
  CHECK(device_guard(devices).entered.code == errc::cuda_error);
  static_cast<void>(cudaGetLastError());
}

TEST_CASE("a stream's capture is seen, and a pool refuses to grow in it", "[core][context]") {
  cudaStream_t stream = nullptr;
  if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess) return;
  const cuda_context c = cuda_context::on(stream);
  REQUIRE(bool(c.ready));
  CHECK(capture_of(c) == capture::none);
  {
    workspace_pool pool(c);
    REQUIRE(bool(pool.reserve(1 << 20)));
    CHECK(bool(check_workspace(pool.memory(), 1 << 20)));
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK(capture_of(c) == capture::active);
    CHECK(bool(cuda_context::on(stream).ready));
    CHECK(bool(pool.reserve(1 << 20)));
    CHECK(pool.reserve(1 << 24).code == errc::capture_refused);
    CHECK(pool.size() >= 1 << 20);
    cudaGraph_t graph = nullptr;
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    CHECK(capture_of(c) == capture::none);
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
    CHECK(bool(pool.reserve(1 << 24)));
  }
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

#endif
