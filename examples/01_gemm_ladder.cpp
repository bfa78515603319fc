// From a plain loop to the library's matrix product, then one policy changed. Layers of Llama-3 8B in bf16:
// c = a w', a: tokens x inputs, w: outputs x inputs. Prints the speed of each step as a share of what this machine
// can do, measured in the same run, and checks every step against sums in double.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>
#include <smalti/ops/gemm.hpp>
#include "limits.hpp"

using namespace smalti;

static double seconds_of(auto work) {             // median of several
  std::vector<double> t;
  for (int i = 0; i < 7; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    work(i);
    t.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(t.begin(), t.end());
  return t[t.size() / 2];
}

static int failures = 0;

struct layer {
  const char* name;
  int tokens, outputs, inputs, copies;            // of w, taken in turn where memory is the limit: a cache must not answer
  std::vector<bf16> a, w, bias;
  std::vector<float> c;
  layer(const char* name, int m, int n, int k) : name(name), tokens(m), outputs(n), inputs(k), copies(m > 16 ? 1 : int((std::size_t(5) << 28) / (std::size_t(n) * k * 2))), a(std::size_t(m) * k), w(std::size_t(n) * k), bias(n), c(std::size_t(m) * n) {
    std::minstd_rand random(7);
    for (auto* v : {&a, &w, &bias})
      for (bf16& x : *v) x = narrow<bf16>(float(random() % 2001) * 1e-3f - 1);
    w.resize(std::size_t(copies) * n * k);
    for (int i = 1; i < copies; ++i) std::copy_n(w.begin(), std::size_t(n) * k, w.begin() + std::size_t(i) * n * k);
  }
  // 200 elements against the double sum: k products summed in float are off by at most k 2^-24 of their sizes
  void report(const char* how, double seconds, double peak_flops, double bandwidth, auto epilogue) const {
    std::minstd_rand random(1);
    double worst = 0;
    for (int s = 0; s < 200; ++s) {
      const std::size_t i = random() % tokens, j = random() % outputs;
      double sum = 0, size = 0;
      for (int p = 0; p < inputs; ++p) {
        const double t = double(to_float(a[i * inputs + p])) * to_float(w[j * inputs + p]);
        sum += t, size += std::abs(t);
      }
      worst = std::max(worst, std::abs(epilogue(sum, j) - c[i * outputs + j]) / (1.2 * (inputs + 8) * 0x1p-24 * size + 1e-6));
    }
    const double flop = 2.0 * tokens * outputs * inputs, bytes = 2.0 * outputs * inputs + 2.0 * tokens * inputs + 4.0 * tokens * outputs;
    const double limit = std::max(flop / peak_flops, bytes / bandwidth);
    std::printf("  %-34s %9.1f GFLOP/s %7.2f GB/s   %5.1f %% of the limit   error %.4f of its bound%s\n", how, flop / seconds / 1e9, bytes / seconds / 1e9,
                100 * limit / seconds, worst, worst <= 1 ? "" : "  WRONG");
    failures += !(worst <= 1);
  }
};

template <class Op> static double run(const typename Op::args& x, const host_context& context, int copies) {
  const std::size_t bytes = Op::workspace_bytes(context, x);
  std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(carver::alignment, round_up(int(bytes), 256) + 256), &std::free);
  status st;
  const double t = seconds_of([&](int i) {
    auto y = x;
    y.b.data += std::size_t(i % copies) * x.b.rows * x.b.stride;
    st = Op::run(context, y, workspace(memory.get(), bytes));
  });
  if (!st) std::printf("  refused: %s (got %lld, need %lld)\n", st.what, static_cast<long long>(st.got), static_cast<long long>(st.need)), ++failures;
  return t;
}

int main() {
  const host_context context{};                   // all threads
  const int threads = host::thread_count(context);
  const bench::instruction fastest = bench::available(bench::instruction::amx_bf16) ? bench::instruction::amx_bf16 : bench::instruction::fma;
  double peak = 0;                                // long enough that starting the threads does not count
  for (int i = 0; i < 5; ++i) peak = std::max(peak, bench::arithmetic(fastest, threads, 1e11).rate());
  bench::memory_stream memory;
  double bandwidth = 0;
  for (int i = 0; i < 5; ++i) bandwidth = std::max(bandwidth, memory.read(threads, std::size_t(1) << 30).rate());
  std::printf("ran on the host with %d threads; limits measured now: %.0f GFLOP/s (%s), %.1f GB/s read\n", threads, peak / 1e9, bench::name(fastest), bandwidth / 1e9);

  layer small("a piece", 64, 512, 512);
  std::printf("%s: %d x %d x %d\n", small.name, small.tokens, small.outputs, small.inputs);
  const auto plain = [](double x, std::size_t) { return x; };
  small.report("a plain loop", seconds_of([&](int) {
    for (int i = 0; i < small.tokens; ++i)
      for (int j = 0; j < small.outputs; ++j) {
        float sum = 0;
        for (int p = 0; p < small.inputs; ++p) sum += to_float(small.a[std::size_t(i) * small.inputs + p]) * to_float(small.w[std::size_t(j) * small.inputs + p]);
        small.c[std::size_t(i) * small.outputs + j] = sum;
      }
  }), peak, bandwidth, plain);

  for (auto [name, m, n, k] : {std::tuple{"Llama-3 8B attention output, one token", 1, 4096, 4096}, {"Llama-3 8B MLP up, 16 tokens", 16, 14336, 4096},
                               {"Llama-3 8B attention output, prefill of 512", 512, 4096, 4096}}) {
    layer l(name, m, n, k);
    std::printf("%s: %d x %d x %d\n", l.name, m, n, k);
    using product = gemm::dense<bf16, bf16, float>;
    l.report("gemm::dense", run<product>({.a = {l.a.data(), m, k, k}, .b = {l.w.data(), n, k, k}, .c = {l.c.data(), m, n, n}}, context, l.copies), peak, bandwidth, plain);
    using layer_with_silu = gemm::dense<bf16, bf16, float, policy::chain<policy::bias<bf16>, policy::silu>>;       // one policy changed
    const double t = run<layer_with_silu>({.a = {l.a.data(), m, k, k}, .b = {l.w.data(), n, k, k}, .c = {l.c.data(), m, n, n}, .epilogue = {{l.bias.data(), n}, {}}}, context, l.copies);
    l.report("gemm::dense with bias and silu", t, peak, bandwidth, [&](double x, std::size_t j) { return x += to_float(l.bias[j]), x / (1 + std::exp(-x)); });
  }
  std::printf(failures ? "%d steps failed\n" : "all steps within their error bounds\n", failures);
  return failures != 0;
}
