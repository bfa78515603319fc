// gemm::dense in a CUDA graph: run() only queues work, so a stream may be captured while it does, and a replay of the
// graph is the same product, to the bit, on whatever the operands hold by then.
#include "gemm_problem.hpp"

using namespace smalti;
using namespace test;

namespace {

struct stream {
  cudaStream_t here = nullptr;
  stream() { REQUIRE(cudaStreamCreateWithFlags(&here, cudaStreamNonBlocking) == cudaSuccess); }
  ~stream() { cudaStreamDestroy(here); }
  void wait() const { REQUIRE(cudaStreamSynchronize(here) == cudaSuccess); }
};

// What `queue` put on the stream, as a graph that can be launched.
struct graph {
  cudaGraph_t nodes = nullptr;
  cudaGraphExec_t runnable = nullptr;
  template <class Queue> graph(const stream& s, Queue queue) {
    REQUIRE(cudaStreamBeginCapture(s.here, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    queue();
    REQUIRE(cudaStreamEndCapture(s.here, &nodes) == cudaSuccess);
    REQUIRE(cudaGraphInstantiate(&runnable, nodes, 0) == cudaSuccess);
  }
  ~graph() {
    cudaGraphExecDestroy(runnable);
    cudaGraphDestroy(nodes);
  }
  std::size_t size() const {
    std::size_t n = 0;
    REQUIRE(cudaGraphGetNodes(nodes, nullptr, &n) == cudaSuccess);
    return n;
  }
  void launch(const stream& s) const {
    REQUIRE(cudaGraphLaunch(runnable, s.here) == cudaSuccess);
    s.wait();
  }
};

template <class C> std::vector<C> copy_of(const array<C>& c) { return {c.data(), c.data() + c.size()}; }
template <class C> bool same_bits(const std::vector<C>& a, const std::vector<C>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(C)) == 0;
}
template <class C> void poison(array<C>& c) { std::memset(c.data(), 0xA5, c.size() * sizeof(C)); }

constexpr unsigned seed = gemm_seed;

// Captured once, replayed twice, and once more after the operands changed; `parts` is how many nodes the graph has.
template <class A, class C, class Options> void replay(int m, int n, int k, int splits, std::size_t parts) {
  using op = gemm::dense<A, A, C, policy::chain<>, Options>;
  CAPTURE(seed, m, n, k, splits);
  std::mt19937 generator(seed);
  problem<A, C, Options> p(m, n, k, 1, generator);
  const stream s;
  const auto context = cuda_context::on(s.here);
  auto x = p.template args<op>();
  x.splits = splits;
  scratch memory(op::workspace_bytes(context, x));

  poison(p.c);
  REQUIRE(op::run(context, x, memory.get()).code == errc::ok);
  s.wait();
  p.verify([&](int b, int i, int j) { return p.sum(b, i, j); }, 1, 0);
  const auto direct = copy_of(p.c);

  poison(p.c);
  status captured;
  const graph g(s, [&] { captured = op::run(cuda_context::on(s.here), x, memory.get()); });   // the facts are read while capturing, too
  CAPTURE(captured.what, captured.got);
  REQUIRE(captured.code == errc::ok);
  REQUIRE(g.size() == parts);
  const auto untouched = copy_of(p.c);
  poison(p.c);
  REQUIRE(same_bits(untouched, copy_of(p.c)));   // capturing ran nothing

  for (int turn = 0; turn < 2; ++turn) {
    CAPTURE(turn);
    poison(p.c);
    g.launch(s);
    REQUIRE(same_bits(copy_of(p.c), direct));
  }
  REQUIRE(memory.guarded());

  const auto fresh = random_array<A>(p.a.size(), generator);
  std::memcpy(p.a.data(), fresh.data(), p.a.size() * sizeof(A));
  p.sums = {oracle::multiply(p.a.data(), p.lda, p.b.data(), p.ldb, problem<A, C, Options>::by_rows, m, n, k)};
  poison(p.c);
  g.launch(s);
  p.verify([&](int b, int i, int j) { return p.sum(b, i, j); }, 1, 0);
}

}  // namespace

TEST_CASE("a captured product replays to the bit", "[ops][gemm][capture]") {
  replay<bf16, float, aligned_nk>(1, 200, 512, 1, 1);                          // decode
  replay<bf16, float, aligned_nk>(193, 260, 560, 1, 1);                        // prefill
  replay<float, float, aligned_nk>(97, 132, 260, 1, 1);
}

TEST_CASE("a captured split K clears its own counters at every replay", "[ops][gemm][capture]") {
  replay<bf16, float, split_nk>(16, 136, 4096, 4, 2);                          // the clearing and the product
  replay<std::int8_t, int, split_nk>(70, 132, 4096, 3, 2);
}

TEST_CASE("a refusal while capturing leaves the capture whole", "[ops][gemm][capture]") {
  using op = gemm::dense<bf16, bf16, float, policy::chain<>, aligned_nk>;
  std::mt19937 generator(seed);
  problem<bf16, float, aligned_nk> p(40, 72, 64, 1, generator);
  const stream s;
  const auto context = cuda_context::on(s.here);
  auto bad = p.args<op>();
  bad.b.rows = 71;
  status refused;
  const graph g(s, [&] {
    refused = op::run(context, bad);
    CHECK(op::run(context, p.args<op>()).code == errc::ok);
  });
  CHECK(refused.code == errc::bad_shape);
  REQUIRE(g.size() == 1);
  g.launch(s);
  p.verify([&](int b, int i, int j) { return p.sum(b, i, j); }, 1, 0);
}

TEMPLATE_TEST_CASE("the same call gives the same bits on a GPU, beside other work", "[ops][gemm][determinism]", bf16, float) {
  using op = gemm::dense<TestType, TestType, float, policy::chain<>, split_nk>;
  std::mt19937 generator(seed);
  problem<TestType, float, split_nk> p(130, 264, 3072, 1, generator), other(200, 400, 1024, 1, generator);
  const stream s, beside;
  const auto context = cuda_context::on(s.here), noise = cuda_context::on(beside.here);
  auto x = p.template args<op>();
  x.splits = 5;
  scratch memory(op::workspace_bytes(context, x)), noise_memory(op::workspace_bytes(noise, other.template args<op>()));
  std::vector<float> first;
  for (int turn = 0; turn < 10; ++turn) {
    CAPTURE(seed, turn);
    poison(p.c);
    // Blocks meet others on the processors, so the last to arrive is not always the same.
    for (int i = 0; i < turn; ++i) REQUIRE(op::run(noise, other.template args<op>(), noise_memory.get()).code == errc::ok);
    REQUIRE(op::run(context, x, memory.get()).code == errc::ok);
    s.wait();
    beside.wait();
    const auto bits = copy_of(p.c);
    if (first.empty()) first = bits;
    REQUIRE(same_bits(bits, first));
  }
}
