// Attention on a GPU: prefill of 16,384 tokens in sequences of 512 to 16,384 with heads of 64, 128 and 256, causal and not, as shares of
// cuBLASLt's rate; decode of one query a sequence over 4,096 to 131,072 keys, 4 query heads to a key head, as shares of the bytes it must read,
// contiguous and in pages. PyTorch's back ends are timed beside it by torch_sdpa_gpu.py.
#include <gpu.hpp>
#include <peers/cublaslt.hpp>
#include <smalti/core/cuda_context.hpp>
#include <smalti/core/float.hpp>
#include <smalti/ops/attention.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace bench;
using gpu::demand;
using smalti::bf16;
namespace attention = smalti::attention;
namespace policy = smalti::policy;

// ---- numbers: whole ones within [-3, 3], known from their place in memory on either machine
__host__ __device__ int element(std::uint64_t i, std::uint64_t which) {
  std::uint64_t x = (i + 1) * 0x9e3779b97f4a7c15u + which * 0xbf58476d1ce4e5b9u;
  x ^= x >> 31;
  x *= 0x94d049bb133111ebu;
  return static_cast<int>((x >> 33) % 7) - 3;
}
__global__ void fill(bf16* to, std::size_t count, std::uint64_t which) {
  for (std::size_t i = std::size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += std::size_t(gridDim.x) * blockDim.x)
    to[i] = {static_cast<std::uint16_t>(__float_as_uint(float(element(i, which))) >> 16)};
}
std::unique_ptr<gpu::array<bf16>> numbers(std::size_t count, std::uint64_t which) {
  auto made = std::make_unique<gpu::array<bf16>>(count);
  fill<<<2048, 256>>>(made->data(), count, which);
  demand(cudaGetLastError(), "the operands could not be filled");
  demand(cudaDeviceSynchronize(), "the operands could not be filled");
  return made;
}
double value(bf16 x) {
  const int exponent = x.bits >> 7 & 255, fraction = x.bits & 127;
  const double size = exponent == 255 ? NAN : exponent == 0 ? std::ldexp(fraction, -133) : std::ldexp(128 + fraction, exponent - 134);
  return x.bits & 0x8000 ? -size : size;
}

// What the machine is seen to do at most: cuBLASLt's best algorithm for a large square, once in the run.
double product_rate() {
  static const double rate = [] {
    if (!cublaslt::library::here().present()) return 0.0;
    constexpr int n = 8192;
    const auto a = numbers(std::size_t(n) * n, 1), b = numbers(std::size_t(n) * n, 2), c = numbers(std::size_t(n) * n, 3);
    cublaslt::linear product(CUDA_R_16BF, CUDA_R_16BF, cublaslt::abi::compute::f32, n, n, n);
    const gpu::queued run = [&](cudaStream_t s) { product.run(a->data(), b->data(), c->data(), s); };
    product.choose([&] { return gpu::seconds(run, false); });
    return 2.0 * n * n * n / gpu::seconds(run, false, 9);
  }();
  return rate;
}

//! An operation with its workspace, as something to queue.
template <class Op> gpu::queued queue(typename Op::args args, std::shared_ptr<gpu::array<std::byte>>& memory) {
  const auto context = smalti::cuda_context::on(nullptr);
  if (const auto st = Op::check(context, args); !st) throw std::runtime_error(st.what);
  memory = std::make_shared<gpu::array<std::byte>>(Op::workspace_bytes(context, args) + 256);
  return [args, memory, known = std::make_shared<smalti::cuda_context>()](cudaStream_t stream) {
    if (known->stream != stream || !known->ready) *known = smalti::cuda_context::on(stream);
    if (const auto st = Op::run(*known, args, {memory->data(), memory->size()}); !st) throw std::runtime_error(st.what);
  };
}

//! One row of the result against its definition, in double. key(j): where key and value j of its head begin in memory.
template <class Key> void check_row(const gpu::array<bf16>& o, std::size_t q_at, int d, int keys, Key key) {
  std::vector<double> logit(keys);
  double top = -INFINITY, sum = 0;
  for (int j = 0; j < keys; ++j) {
    std::int64_t s = 0;
    for (int c = 0; c < d; ++c) s += element(q_at + c, 1) * element(key(j) + c, 2);
    top = std::max(top, logit[j] = double(s) / std::sqrt(double(d)));
  }
  for (double& x : logit) sum += x = std::exp(x - top);
  for (int c = 0; c < d; c += 7) {
    double want = 0;
    for (int j = 0; j < keys; ++j) want += logit[j] / sum * element(key(j) + c, 3);
    // weights and the result are rounded to bf16, values are at most 3
    if (!(std::abs(value(o.at(q_at + c)) - want) <= 3 * 0x1p-7)) throw std::runtime_error("smalti gave a wrong answer: its time means nothing");
  }
}
void spoil(const gpu::array<bf16>& o, const gpu::queued& run) {
  demand(cudaMemset(o.data(), 0x7b, o.size() * sizeof(bf16)), "the result could not be spoilt");
  run(nullptr);
  demand(cudaDeviceSynchronize(), "smalti failed");
}

// ---- prefill: [sequence][token][head][d], 2,048 columns of heads
// One kernel for any number of rows: these cases need no other.
struct dense : attention::options {
  static constexpr bool batch_invariant = true;
  static constexpr bool ragged = false;
};
template <int D, class Mask> gpu::outcome prefill(int tokens) {
  constexpr int all = 16384, heads = 2048 / D;
  const int sequences = all / tokens;
  const std::size_t count = std::size_t(all) * heads * D;
  const auto q = numbers(count, 1), k = numbers(count, 2), v = numbers(count, 3);
  const gpu::array<bf16> o(count);
  using op = attention::flash<bf16, D, attention::dense_kv<bf16>, Mask, dense>;
  const auto rows = [&](const gpu::array<bf16>& x) { return attention::bshd(static_cast<const bf16*>(x.data()), sequences, tokens, heads, D); };
  std::shared_ptr<gpu::array<std::byte>> memory;
  const auto run = queue<op>({.q = rows(*q), .kv = {rows(*k), rows(*v)}, .o = attention::bshd(o.data(), sequences, tokens, heads, D)}, memory);
  spoil(o, run);
  constexpr bool causal = std::is_same_v<Mask, policy::causal>;
  struct place { int s, i, h; };
  for (const place& p : {place{0, 0, 0}, place{sequences - 1, tokens - 1, heads - 1}, place{sequences / 2, tokens / 3, heads / 2}}) {
    const auto at = [&](int token) { return ((std::size_t(p.s) * tokens + token) * heads + p.h) * D; };
    check_row(o, at(p.i), D, causal ? p.i + 1 : tokens, at);
  }
  gpu::contest c{.subject = run, .flop = 4.0 * sequences * heads * D * tokens * (causal ? (tokens + 1) / 2.0 : tokens), .bytes = 4.0 * count * sizeof(bf16)};
  if ((c.arithmetic = product_rate()) > 0) c.arithmetic_name = "cuBLASLt's rate at 8192^3";
  return gpu::measure(c);
}

// ---- decode: 32 query heads, 8 key heads, d 128
struct splitting : attention::options {
  static constexpr bool split_kv = true;
};
template <int Page> gpu::outcome decode(int sequences, int keys) {
  constexpr int d = 128, heads = 32, kv_heads = 8;
  const std::size_t count = std::size_t(sequences) * keys * kv_heads * d;
  const auto q = numbers(std::size_t(sequences) * heads * d, 1), k = numbers(count, 2), v = numbers(count, 3);
  const gpu::array<bf16> o(q->size());
  using contiguous = attention::flash<bf16, d, attention::dense_kv<bf16>, policy::full, splitting>;
  const auto context = smalti::cuda_context::on(nullptr);
  typename contiguous::args x{.q = attention::bshd(static_cast<const bf16*>(q->data()), sequences, 1, heads, d),
                              .kv = {attention::bshd(static_cast<const bf16*>(k->data()), sequences, keys, kv_heads, d), attention::bshd(static_cast<const bf16*>(v->data()), sequences, keys, kv_heads, d)},
                              .o = attention::bshd(o.data(), sequences, 1, heads, d)};
  x.split_keys = contiguous::suggest_split_keys(context, x);
  std::shared_ptr<gpu::array<std::byte>> memory, paged_memory;
  const auto plain = queue<contiguous>(x, memory);
  const auto check = [&](const gpu::queued& run, auto token) {
    spoil(o, run);
    for (const int s : {0, sequences - 1})
      for (const int h : {0, heads - 1})
        check_row(o, (std::size_t(s) * heads + h) * d, d, keys, [&](int j) { return token(s, j) * kv_heads * d + std::size_t(h / 4) * d; });
  };
  check(plain, [&](int s, int j) { return std::size_t(s) * keys + j; });
  gpu::contest c{.subject = plain, .flop = 4.0 * sequences * heads * d * keys, .bytes = 2.0 * count * sizeof(bf16) + 4.0 * q->size()};
  c.counters["split_keys"] = x.split_keys;
  if constexpr (Page == 0) {
    return gpu::measure(c);
  } else {
    // The same memory as pages in any order; the peer is what has no pages.
    std::vector<int> table(std::size_t(sequences) * keys / Page), lengths(sequences, keys);
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937{1});
    const gpu::array<int> tables(table.size()), length(lengths.size());
    demand(cudaMemcpy(tables.data(), table.data(), table.size() * sizeof(int), cudaMemcpyHostToDevice), "the table could not be copied");
    demand(cudaMemcpy(length.data(), lengths.data(), lengths.size() * sizeof(int), cudaMemcpyHostToDevice), "the lengths could not be copied");
    using paged = attention::flash<bf16, d, attention::paged_kv<bf16, Page>, policy::full, splitting>;
    const auto pool = [&](const gpu::array<bf16>& of) { return attention::pool_of(policy::nhd{}, static_cast<const bf16*>(of.data()), int(table.size()), Page, kv_heads, d); };
    typename paged::args y{.q = x.q, .kv = {pool(*k), pool(*v), {tables.data(), keys / Page, 0, length.data(), 0, Page}, sequences, keys}, .o = x.o, .split_keys = x.split_keys};
    const auto run = queue<paged>(y, paged_memory);
    check(run, [&](int s, int j) { return std::size_t(table[(std::size_t(s) * keys + j) / Page]) * Page + j % Page; });
    c.subject = run;
    c.peers.push_back({"contiguous", "the same keys without pages", plain});
    return gpu::measure(c);
  }
}

template <int D> void enter_prefill() {
  for (const int tokens : {512, 1024, 2048, 4096, 8192, 16384}) {
    gpu::enter("attention/prefill/full/d" + std::to_string(D) + "/" + std::to_string(tokens), [=] { return prefill<D, policy::full>(tokens); });
    gpu::enter("attention/prefill/causal/d" + std::to_string(D) + "/" + std::to_string(tokens), [=] { return prefill<D, policy::causal>(tokens); });
  }
}
template <int Page> void enter_decode(const std::string& memory) {
  for (const int sequences : {1, 16})
    for (const int keys : {4096, 16384, 32768, 131072})
      gpu::enter("attention/decode/" + memory + "/" + std::to_string(sequences) + "x" + std::to_string(keys), [=] { return decode<Page>(sequences, keys); });
}

}  // namespace

int main(int argc, char** argv) {
  enter_prefill<128>();
  enter_prefill<64>();
  enter_prefill<256>();
  enter_decode<0>("contiguous");
  enter_decode<16>("pages16");
  enter_decode<64>("pages64");
  return gpu::main(argc, argv, [] {
    const auto& peer = cublaslt::library::here();
    return peer.present() ? gpu::peers_here{.present = peer.name(), .absent = {}} : gpu::peers_here{.present = "none", .absent = "cuBLASLt: " + peer.absent};
  });
}
