// Grouped products, adapters and routing on a GPU: experts of equal and of Zipf loads in bf16 and fp8 as shares of cuBLASLt's rate, beside
// cuBLASLt called once for each expert; 64 adapters of rank 16 in one batch as shares of the bytes they must read; routing of 512 tokens with its
// index. PyTorch's grouped_mm is timed beside it by torch_grouped_gpu.py.
#include <gpu.hpp>
#include <peers/cublaslt.hpp>
#include <smalti/core/cuda_context.hpp>
#include <smalti/core/float.hpp>
#include <smalti/flow/lora.hpp>
#include <smalti/ops/gemm/grouped.hpp>
#include <smalti/ops/route.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace bench;
using gpu::demand;
using smalti::bf16;
using smalti::fp8_e4m3;
namespace gemm = smalti::gemm;
namespace lora = smalti::lora;
namespace route = smalti::route;

// ---- numbers: whole ones within [-3, 3], known from their place in memory on either machine
__host__ __device__ int element(std::uint64_t i, std::uint64_t which) {
  std::uint64_t z = (i + 1) * 0x9e3779b97f4a7c15ull + which;
  z = (z ^ z >> 31) * 0xbf58476d1ce4e5b9ull;
  return int((z >> 40) % 7) - 3;
}
__device__ void put(bf16& to, int i) { to = {static_cast<std::uint16_t>(__float_as_uint(float(i)) >> 16)}; }
__device__ void put(fp8_e4m3& to, int i) {
  const int size = i < 0 ? -i : i, bits = size == 0 ? 0 : size == 1 ? 0x38 : size == 2 ? 0x40 : 0x44;
  to = {static_cast<std::uint8_t>(bits | (i < 0 ? 0x80 : 0))};
}
template <class T> __global__ void fill(T* to, std::size_t count, std::uint64_t which) {
  for (std::size_t i = std::size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += std::size_t(gridDim.x) * blockDim.x) put(to[i], element(i, which));
}
template <class T> std::unique_ptr<gpu::array<T>> numbers(std::size_t count, std::uint64_t which) {
  auto made = std::make_unique<gpu::array<T>>(count);
  fill<<<2048, 256>>>(made->data(), count, which);
  demand(cudaGetLastError(), "the operands could not be filled");
  demand(cudaDeviceSynchronize(), "the operands could not be filled");
  return made;
}
template <class T> std::unique_ptr<gpu::array<T>> copied(const std::vector<T>& from) {
  auto made = std::make_unique<gpu::array<T>>(from.size());
  demand(cudaMemcpy(made->data(), from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "a list could not be copied");
  return made;
}
double value(bf16 x) { return std::bit_cast<float>(std::uint32_t(x.bits) << 16); }

template <class T> constexpr auto type_of = std::is_same_v<T, bf16> ? CUDA_R_16BF : CUDA_R_8F_E4M3;
//! What the machine is seen to do at most: cuBLASLt's best algorithm for a large square, once in the run. 0 where it has none (fp8 before sm_89).
template <class T> double product_rate() {
  static const double rate = []() -> double {
    if (!cublaslt::library::here().present()) return 0;
    try {
      constexpr int n = 8192;
      const auto a = numbers<T>(std::size_t(n) * n, 1), b = numbers<T>(std::size_t(n) * n, 2);
      const gpu::array<bf16> c(std::size_t(n) * n);
      cublaslt::linear product(type_of<T>, CUDA_R_16BF, cublaslt::abi::compute::f32, n, n, n);
      const gpu::queued run = [&](cudaStream_t s) { product.run(a->data(), b->data(), c.data(), s); };
      product.choose([&] { return gpu::seconds(run, false); });
      return 2.0 * n * n * n / gpu::seconds(run, false, 9);
    } catch (const gpu::not_measured&) {
      throw;
    } catch (const std::runtime_error&) {
      return 0;
    }
  }();
  return rate;
}

//! An operation with its workspace, as something to queue.
template <class Op> gpu::queued queue(typename Op::args args) {
  const auto context = smalti::cuda_context::on(nullptr);
  if (const auto st = Op::check(context, args); !st) throw std::runtime_error(st.what);
  const auto memory = std::make_shared<gpu::array<std::byte>>(Op::workspace_bytes(context, args) + 256);
  return [args, memory, known = std::make_shared<smalti::cuda_context>()](cudaStream_t stream) {
    if (known->stream != stream || !known->ready) *known = smalti::cuda_context::on(stream);
    if (const auto st = Op::run(*known, args, {memory->data(), memory->size()}); !st) throw std::runtime_error(st.what);
  };
}
void once(const gpu::queued& run) {
  run(nullptr);
  demand(cudaDeviceSynchronize(), "smalti failed");
}

// ---- experts: `rows` rows for each on average. skew: loads by Zipf's law of that exponent, 0: equal
template <class T> gpu::outcome experts(int count, int rows, int n, int k, double skew) {
  std::vector<std::int32_t> offsets{0};
  double sum = 0;
  for (int e = 0; e < count; ++e) sum += std::pow(e + 1, -skew);
  for (int e = 0; e < count; ++e) offsets.push_back(e + 1 == count ? count * rows : std::min(count * rows, offsets.back() + int(std::lround(count * rows * std::pow(e + 1, -skew) / sum))));
  const int all = count * rows;
  const auto a = numbers<T>(std::size_t(all) * k, 1), b = numbers<T>(std::size_t(count) * n * k, 2);
  const auto bounds = copied(offsets);
  const gpu::array<bf16> c(std::size_t(all) * n);
  using op = gemm::grouped<T, T, bf16>;
  typename op::args x{};
  x.a = {a->data(), all, k, k}, x.b = {b->data(), count, n, k, static_cast<long long>(n) * k, k}, x.c = {c.data(), all, n, n}, x.rows = {bounds->data(), count};
  const gpu::queued run = queue<op>(x);
  const auto check = [&](const char* who) {
    for (int e = 0; e < count; ++e)
      for (const int r : {offsets[e], offsets[e + 1] - 1})
        for (const int j : {0, n / 3, n - 1}) {
          if (offsets[e] == offsets[e + 1]) continue;
          std::int64_t want = 0;
          for (int p = 0; p < k; ++p) want += element(std::uint64_t(r) * k + p, 1) * element((std::uint64_t(e) * n + j) * k + p, 2);
          if (!(std::abs(value(c.at(std::size_t(r) * n + j)) - double(want)) <= std::ldexp(std::abs(double(want)), -7))) throw std::runtime_error(std::string(who) + " gave a wrong answer: its time means nothing");
        }
  };
  once(run);
  check("smalti");
  gpu::contest contest{.subject = run, .flop = 2.0 * all * n * k, .bytes = (double(all) * k + double(count) * n * k) * sizeof(T) + 2.0 * all * n};
  if ((contest.arithmetic = product_rate<T>()) > 0) {
    contest.arithmetic_name = "cuBLASLt's rate at 8192^3";
    if (skew == 0) {      // one product a call: what a program without a grouped product does
      const auto product = std::make_shared<cublaslt::linear>(type_of<T>, CUDA_R_16BF, cublaslt::abi::compute::f32, rows, n, k);
      product->choose([&] { return gpu::seconds([&](cudaStream_t s) { product->run(a->data(), b->data(), c.data(), s); }, false); });
      const gpu::queued each = [&, product](cudaStream_t s) {
        for (int e = 0; e < count; ++e) product->run(a->data() + std::size_t(e) * rows * k, b->data() + std::size_t(e) * n * k, c.data() + std::size_t(e) * rows * n, s);
      };
      once(each);
      check("cuBLASLt");
      contest.peers.push_back({"cublaslt", cublaslt::library::here().name() + ", one call for each expert", each});
    }
  }
  return gpu::measure(contest);
}

// ---- adapters: one row each, of one rank
gpu::outcome adapters(int count, int rank, int wide, int high) {
  const auto x = numbers<bf16>(std::size_t(count) * wide, 1), a = numbers<bf16>(std::size_t(count) * rank * wide, 2), b = numbers<bf16>(std::size_t(count) * rank * high, 3);
  std::vector<std::int32_t> offsets(count + 1), names(count), first(count), ranks(count, rank), line(std::size_t(count) * rank);
  std::iota(offsets.begin(), offsets.end(), 0), std::iota(names.begin(), names.end(), 0), std::iota(line.begin(), line.end(), 0);
  for (int e = 0; e < count; ++e) first[e] = e * rank;
  const auto g_offsets = copied(offsets), g_names = copied(names), g_first = copied(first), g_ranks = copied(ranks), g_line = copied(line);
  const auto scale = copied(std::vector<float>(std::size_t(count), 0x1p-6f));
  const gpu::array<bf16> y(std::size_t(count) * high);
  using op = lora::sgmv<bf16>;
  const op::args args{.x = {x->data(), count, wide, wide}, .rows = {g_offsets->data(), count}, .adapter = g_names->data(),
                      .weights = {.a = {.pool = {a->data(), count * rank, wide, wide}, .first = g_first->data(), .count = g_ranks->data(), .line = g_line->data(), .weights = count, .most = rank, .lines = count * rank},
                                  .b = {.pool = {b->data(), count * rank, high, high}, .first = g_first->data(), .count = g_ranks->data(), .line = g_line->data(), .scale = scale->data(), .weights = count, .most = rank, .lines = count * rank}},
                      .y = {y.data(), count, high, high}};
  const gpu::queued run = queue<op>(args);
  demand(cudaMemset(y.data(), 0, y.size() * sizeof(bf16)), "the result could not be cleared");
  once(run);
  for (const int r : {0, count / 2, count - 1})
    for (const int j : {0, high / 3, high - 1}) {
      double want = 0, size = 0;
      for (int q = 0; q < rank; ++q) {
        std::int64_t v = 0;
        for (int p = 0; p < wide; ++p) v += element(std::uint64_t(r) * wide + p, 1) * element((std::uint64_t(r) * rank + q) * wide + p, 2);
        const double t = 0x1p-6 * double(v) * element((std::uint64_t(r) * rank + q) * high + j, 3);
        want += t, size += std::abs(t);
      }
      if (!(std::abs(value(y.at(std::size_t(r) * high + j)) - want) <= 0x1p-7 * std::abs(want) + 0x1p-10 * size)) throw std::runtime_error("smalti gave a wrong answer: its time means nothing");      // values between are read as tf32
    }
  return gpu::measure({.subject = run, .flop = 2.0 * count * rank * (wide + high), .bytes = 2.0 * (double(count) * rank * (wide + high) + double(count) * (wide + 2 * high))});
}

// ---- routing: DeepSeek-V3's router, and the index of its slots
gpu::outcome routing(int tokens, int experts_count, int choices, bool with_index) {
  std::vector<float> logits(std::size_t(tokens) * experts_count), bias(std::size_t(experts_count), 2.0f);
  std::uint32_t state = 1;
  for (float& z : logits) z = float(state = state * 1664525u + 1013904223u) * 0x1p-29f - 4;
  const auto g_logits = copied(logits), g_bias = copied(bias);
  const gpu::array<std::int32_t> ids(std::size_t(tokens) * choices);
  const gpu::array<float> weights(ids.size());
  using op = route::deepseek_v3<>;
  op::args x{.logits = {g_logits->data(), tokens, experts_count, experts_count}, .tokens = tokens, .experts = experts_count, .choices = choices, .ids = ids.data(), .weights = weights.data()};
  x.bias.data = g_bias->data();
  const gpu::queued select = queue<op>(x);
  route::index::args i{.ids = ids.data(), .weights = weights.data(), .tokens = tokens, .choices = choices, .experts = experts_count, .layout = smalti::policy::row_layout::aligned(16)};
  const auto memory = std::make_shared<gpu::array<std::byte>>(route::index::index_bytes(i) + 256);
  i.memory = memory->data();
  const gpu::queued sort = queue<route::index>(i);
  once(select);
  once(sort);
  const auto index = route::index::of(i);
  std::vector<std::int32_t> chosen(ids.size()), row(ids.size());
  demand(cudaMemcpy(chosen.data(), ids.data(), chosen.size() * 4, cudaMemcpyDeviceToHost), "ids could not be read");
  demand(cudaMemcpy(row.data(), index.row_of_slot, row.size() * 4, cudaMemcpyDeviceToHost), "rows could not be read");
  std::vector<std::int32_t> slot(std::size_t(index.row_limit));
  demand(cudaMemcpy(slot.data(), index.slot_of_row, slot.size() * 4, cudaMemcpyDeviceToHost), "slots could not be read");
  for (std::size_t s = 0; s < row.size(); ++s)
    if (chosen[s] < 0 || chosen[s] >= experts_count || row[s] < 0 || slot[std::size_t(row[s])] != std::int32_t(s)) throw std::runtime_error("a wrong index: its time means nothing");
  const gpu::queued both = [=](cudaStream_t s) { select(s), with_index ? sort(s) : void(); };
  return gpu::measure({.subject = both, .bytes = 4.0 * tokens * experts_count + 8.0 * tokens * choices, .warm = true});
}

template <class T> void enter_experts(const char* type, int count, int rows, int n, int k, double skew = 0) {
  gpu::enter(std::string("moe/grouped/") + type + "/" + std::to_string(count) + "x" + std::to_string(rows) + "x" + std::to_string(n) + "x" + std::to_string(k) + (skew > 0 ? "/zipf" : ""), [=] { return experts<T>(count, rows, n, k, skew); });
}

}  // namespace

int main(int argc, char** argv) {
  for (const int rows : {4, 64, 256, 1024}) {
    enter_experts<bf16>("bf16", 32, rows, 4096, 2048);
    enter_experts<fp8_e4m3>("fp8", 32, rows, 4096, 2048);
  }
  enter_experts<bf16>("bf16", 32, 256, 4096, 2048, 1.2);
  enter_experts<bf16>("bf16", 8, 512, 14336, 4096);
  for (const int count : {1, 16, 64}) gpu::enter("lora/sgmv/" + std::to_string(count) + "xr16/4096x11008", [=] { return adapters(count, 16, 4096, 11008); });
  for (const int tokens : {1, 512, 4096}) {
    gpu::enter("route/deepseek_v3/" + std::to_string(tokens) + "x256", [=] { return routing(tokens, 256, 8, false); });
    gpu::enter("route/deepseek_v3/" + std::to_string(tokens) + "x256/index", [=] { return routing(tokens, 256, 8, true); });
  }
  return gpu::main(argc, argv, [] {
    const auto& peer = cublaslt::library::here();
    return peer.present() ? gpu::peers_here{.present = peer.name(), .absent = {}} : gpu::peers_here{.present = "none", .absent = "cuBLASLt: " + peer.absent};
  });
}
