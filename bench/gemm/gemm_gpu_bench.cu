// Dense products on a GPU: squares, and the linear layers of Llama 3 at the sizes of decoding and of prefill, against
// cuBLASLt. Operands are small integers, so every sum is exact in any order and the answer of each contender is
// compared with one that the host computes from the same formula.
#include <gpu.hpp>
#include <peers/cublaslt.hpp>
#include <shapes.hpp>
#include <smalti/core/cuda_context.hpp>
#include <smalti/core/float.hpp>
#include <smalti/ops/gemm.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>

namespace {

using namespace bench;
using smalti::bf16;
using smalti::fp16;
using gpu::demand;

// ---- numbers: this file's own conversions, for a library that converts wrongly must not find its inputs to its liking
template <class T> struct number;                        // of(i) for i in [-3, 3]; value(x)
template <> struct number<bf16> {
  using result = bf16;
  static constexpr const char* name = "bf16";
  static constexpr int digits = 8;
  static constexpr auto type = CUDA_R_16BF, result_type = CUDA_R_16BF;
  static constexpr auto compute = cublaslt::abi::compute::f32;
  static __device__ bf16 of(int i) { return {static_cast<std::uint16_t>(__float_as_uint(float(i)) >> 16)}; }
  static double value(bf16 x) { return std::bit_cast<float>(std::uint32_t(x.bits) << 16); }
};
template <> struct number<fp16> {
  using result = fp16;
  static constexpr const char* name = "fp16";
  static constexpr int digits = 11;
  static constexpr auto type = CUDA_R_16F, result_type = CUDA_R_16F;
  static constexpr auto compute = cublaslt::abi::compute::f32;
  static __device__ fp16 of(int i) {
    const int size = i < 0 ? -i : i, bits = size == 0 ? 0 : size == 1 ? 0x3c00 : size == 2 ? 0x4000 : 0x4200;
    return {static_cast<std::uint16_t>(bits | (i < 0 ? 0x8000 : 0))};
  }
  static double value(fp16 x) {
    const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    const double size = exponent == 31 ? NAN : exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    return x.bits & 0x8000 ? -size : size;
  }
};
template <> struct number<float> {
  using result = float;
  static constexpr const char* name = "tf32";
  static constexpr int digits = 24;
  static constexpr auto type = CUDA_R_32F, result_type = CUDA_R_32F;
  static constexpr auto compute = cublaslt::abi::compute::f32_fast_tf32;
  static __device__ float of(int i) { return float(i); }
  static double value(float x) { return x; }
};
template <> struct number<std::int8_t> {
  using result = int;
  static constexpr const char* name = "s8";
  static constexpr int digits = 31;
  static constexpr auto type = CUDA_R_8I, result_type = CUDA_R_32I;
  static constexpr auto compute = cublaslt::abi::compute::s32;
  static __device__ std::int8_t of(int i) { return static_cast<std::int8_t>(i); }
  static double value(int x) { return x; }
};

// Element i of an operand: an integer of [-3, 3], so that 9 K stays below 2^24.
__host__ __device__ int element(std::uint64_t i, std::uint64_t which) {
  std::uint64_t z = (i + 1) * 0x9e3779b97f4a7c15ull + which;
  z = (z ^ z >> 31) * 0xbf58476d1ce4e5b9ull;
  return int((z >> 40) % 7) - 3;
}
template <class T> __global__ void fill(T* to, std::size_t count, std::uint64_t which) {
  for (std::size_t i = std::size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += std::size_t(gridDim.x) * blockDim.x)
    to[i] = number<T>::of(element(i, which));
}

// ---- one product C[m x n] = A[m x k] B^T
template <class T> struct problem {
  using C = typename number<T>::result;
  int m, n, k;
  gpu::array<T> a, b;
  gpu::array<C> c;
  problem(int m, int n, int k) : m(m), n(n), k(k), a(std::size_t(m) * k), b(std::size_t(n) * k), c(std::size_t(m) * n) {
    fill<<<2048, 256>>>(a.data(), a.size(), 1);
    fill<<<2048, 256>>>(b.data(), b.size(), 2);
    demand(cudaGetLastError(), "the operands could not be filled");
    demand(cudaDeviceSynchronize(), "the operands could not be filled");
  }
  double flop() const { return 2.0 * m * n * k; }
  double bytes() const { return (double(m) * k + double(n) * k) * sizeof(T) + double(m) * n * sizeof(C); }

  //! Runs it once on spoilt memory and compares corners and a spread of other results. `roundings` is how often a
  //! result may have been rounded to C.
  void check(const std::string& who, const gpu::queued& run, int roundings) const {
    demand(cudaMemset(c.data(), 0x7b, c.size() * sizeof(C)), "the result could not be spoilt");
    demand(cudaDeviceSynchronize(), "the result could not be spoilt");
    run(nullptr);
    demand(cudaDeviceSynchronize(), (who + " failed").c_str());
    const std::int64_t total = std::int64_t(m) * n;
    for (std::int64_t probe = 0; probe < 64; ++probe) {
      const std::int64_t at = probe == 0 ? 0 : probe == 1 ? n - 1 : probe == 2 ? total - n : probe == 3 ? total - 1 : probe * 7919 * 104729 % total;
      std::int64_t sum = 0;
      for (int p = 0; p < k; ++p) sum += element(std::uint64_t(at / n) * k + p, 1) * element(std::uint64_t(at % n) * k + p, 2);
      const double off = std::abs(number<T>::value(c.at(std::size_t(at))) - double(sum));
      if (!(off <= roundings * std::ldexp(std::abs(double(sum)), -number<T>::digits)))
        throw std::runtime_error(who + " gave a wrong answer: its time means nothing");
    }
  }
};

// ---- ours. Up to 128 rows the tiles of C may be too few for the machine: K is split as the op suggests.
struct split : smalti::gemm::options {
  static constexpr bool split_k = true;
};
template <class T, class Options> struct ours {
  using op = smalti::gemm::dense<T, T, typename number<T>::result, smalti::policy::chain<>, Options>;
  typename op::args args;
  std::shared_ptr<gpu::array<std::byte>> memory;

  explicit ours(const problem<T>& p) : args{.a = {p.a.data(), p.m, p.k, p.k}, .b = {p.b.data(), p.n, p.k, p.k}, .c = {p.c.data(), p.m, p.n, p.n}} {
    const auto context = smalti::cuda_context::on(nullptr);
    if (Options::split_k) args.splits = op::suggest_splits(context, args);
    if (const auto st = op::check(context, args); !st) throw std::runtime_error(st.what);
    memory = std::make_shared<gpu::array<std::byte>>(op::workspace_bytes(context, args) + 256);
  }
  void operator()(cudaStream_t stream) const {
    if (context.stream != stream || !context.ready) context = smalti::cuda_context::on(stream);
    if (const auto st = op::run(context, args, {memory->data(), memory->size()}); !st) throw std::runtime_error(st.what);
  }
  mutable smalti::cuda_context context;
};

// ---- the peer
template <class T> std::shared_ptr<cublaslt::linear> peer_on(const problem<T>& p, bool warm) {
  using N = number<T>;
  auto product = std::make_shared<cublaslt::linear>(N::type, N::result_type, N::compute, p.m, p.n, p.k);
  product->choose([&] { return gpu::seconds([&](cudaStream_t s) { product->run(p.a.data(), p.b.data(), p.c.data(), s); }, warm); });
  return product;
}
// What the machine is seen to do at most: cuBLASLt's best algorithm for a large square, measured once in the run.
constexpr int large = 8192;
template <class T> double best_rate() {
  static const double rate = [] {
    if (!cublaslt::library::here().present()) return 0.0;
    const problem<T> p(large, large, large);
    const auto product = peer_on(p, false);
    return p.flop() / gpu::seconds([&](cudaStream_t s) { product->run(p.a.data(), p.b.data(), p.c.data(), s); }, false, 9);
  }();
  return rate;
}

template <class T, class Options> gpu::outcome contest_on(const problem<T>& p, bool warm) {
  const ours<T, Options> subject(p);
  p.check("smalti", subject, 1);
  gpu::contest c{.subject = subject, .flop = p.flop(), .bytes = p.bytes(), .warm = warm};
  if (Options::split_k) c.counters["splits"] = subject.args.splits;
  if (cublaslt::library::here().present()) {
    c.arithmetic = best_rate<T>();
    c.arithmetic_name = "cuBLASLt's rate at 8192^3";
    const auto product = peer_on(p, warm);
    const gpu::queued run = [product, &p](cudaStream_t s) { product->run(p.a.data(), p.b.data(), p.c.data(), s); };
    p.check("cuBLASLt", run, 8);                         // it may add parts that were rounded before
    c.peers.push_back({"cublaslt", cublaslt::library::here().name() + ", best of " + std::to_string(product->candidates()) + " algorithms", run});
  }
  return gpu::measure(c);
}

template <class T> void enter(const std::string& layer, int m, int n, int k, bool warm = false) {
  const std::string name = std::string("gemm/") + number<T>::name + "/" + layer + (layer.empty() ? "" : "/") + std::to_string(m) + "x" +
                           std::to_string(n) + "x" + std::to_string(k) + (warm ? "/warm" : "");
  gpu::enter(name, [=] {
    const problem<T> p(m, n, k);
    return m <= 128 ? contest_on<T, split>(p, warm) : contest_on<T, smalti::gemm::options>(p, warm);
  });
}
template <class T> void enter_layers() {
  for (const int m : {1, 16, 128, 2048}) {
    for (const linear_shape& s : llama3_8b) enter<T>(std::string(s.model) + "." + s.layer, m, s.n, s.k);
    for (const linear_shape& s : llama3_70b) enter<T>(std::string(s.model) + "." + s.layer, m, s.n, s.k);
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (const int size : {large, 4096}) {
    enter<bf16>("", size, size, size);
    enter<fp16>("", size, size, size);
    enter<float>("", size, size, size);
    enter<std::int8_t>("", size, size, size);
  }
  enter<bf16>("", 4096, 4096, 4096, true);
  for (const int m : {1, 16})
    for (const linear_shape& s : llama3_8b) enter<bf16>(std::string(s.model) + "." + s.layer, m, s.n, s.k, true);
  enter_layers<bf16>();
  enter_layers<fp16>();
  enter_layers<std::int8_t>();
  enter_layers<float>();
  return gpu::main(argc, argv, [] {
    const auto& peer = cublaslt::library::here();
    return peer.present() ? gpu::peers_here{.present = peer.name(), .absent = {}} : gpu::peers_here{.present = "none", .absent = "cuBLASLt: " + peer.absent};
  });
}
