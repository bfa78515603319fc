// Products with quantized weights, 4096 x 4096, weights from memory: one row and a batch on the 8-bit dot, and the curve of
// 16-bit activations over the number of rows.
#include <interleave.hpp>
#include <machine.hpp>
#include <peers/ggml.hpp>
#include <rotate.hpp>
#include <smalti/ops/gemm/pack.hpp>
#include <smalti/ops/gemm/quantized.hpp>
#include <smalti/ops/quantize.hpp>
#include <smalti/policy/codec.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace bench;
using namespace smalti;

// A random weight packed once and copied; activations with a scale for each group where they are quantized.
template <class Op, class Format, class X> struct layer {
  using weight = typename Op::weight_type;
  static constexpr bool integers = std::is_same_v<X, std::int8_t>;
  static constexpr bool minima = Format::scales::zero == policy::zero_point::floating;
  int m, n, k, groups;
  std::vector<std::uint8_t> codes;
  std::vector<float> scale, minimum, x_scale, x_sum;
  rotating<X> x;
  rotating<std::byte> packed;
  pages y, memory;
  typename Op::args args;
  host_context context;

  layer(int m_, int n_, int k_, int threads)
      : m(m_), n(n_), k(k_), groups(Format::scales::rows(k_)), codes(std::size_t(n_) * k_), scale(std::size_t(n_) * groups), minimum(scale.size()), x_scale(std::size_t(m_) * groups),
        x_sum(x_scale.size()), x(std::size_t(m_) * k_, false, [](X* to, std::size_t count) {
          std::uint32_t state = 1;
          for (std::size_t i = 0; i < count; ++i) {
            state = state * 1664525u + 1013904223u;
            const int v = int(state >> 24) % 255 - 127;
            if constexpr (integers) to[i] = X(v);
            else to[i] = narrow<X>(float(v) / 64);
          }
        }),
        packed(weight::bytes(n_, k_), true, [this](std::byte* to, std::size_t) { fill(to); }), y(std::size_t(m_) * n_ * sizeof(float)), context{.threads = threads} {
    for (std::size_t i = 0; i < x_scale.size(); ++i) x_scale[i] = 0.01f;
    for (int g = 0; g < groups; ++g)
      for (int i = 0; i < m; ++i) {
        double sum = 0;
        for (int c = g * (k / groups); c < (g + 1) * (k / groups); ++c) sum += value(i, c);
        x_sum[std::size_t(g) * m + i] = float(sum);
      }
    args.x = {x.first(), m, k, k};
    if constexpr (integers) args.x_scales = {x_scale.data(), groups, m, m};
    if constexpr (integers && minima) args.x_sums = {x_sum.data(), groups, m, m};
    args.y = {reinterpret_cast<float*>(y.data), m, n, n};
    args.w = weight::over(packed.first(), n, k);
    demand(Op::check(context, args));
    if (const std::size_t bytes = Op::workspace_bytes(context, args); bytes > 0) memory = pages(bytes);
  }
  double value(int i, int c) {
    const X v = x.first()[std::size_t(i) * k + c];
    if constexpr (integers) return double(v) * 0.01f;
    else return to_float(v);
  }
  void run() {
    args.w = weight::over(packed.next(), n, k);
    demand(Op::run(context, args, {memory.data, memory.size}));
  }
  // 64 results against a double sum.
  void verify() {
    std::memset(y.data, 0x7b, y.size);
    run();
    const std::int64_t total = std::int64_t(m) * n;
    for (std::int64_t probe = 0; probe < 64; ++probe) {
      const std::int64_t at = probe == 0 ? 0 : probe == 1 ? total - 1 : probe * 7919 * 104729 % total;
      const int i = int(at / n), j = int(at % n);
      double sum = 0, size = 0;
      for (int c = 0; c < k; ++c) {
        const std::size_t g = std::size_t(j) * groups + c / (k / groups);
        const double v = value(i, c), w = Format::codec::value(codes[std::size_t(j) * k + c]) * scale[g] + (minima ? minimum[g] : 0);
        sum += v * w, size += std::abs(v) * (std::abs(Format::codec::value(codes[std::size_t(j) * k + c]) * scale[g]) + std::abs(minima ? minimum[g] : 0));
      }
      if (!(std::abs(args.y.data[at] - sum) <= (k + 16) * 0x1p-24 * size)) throw std::runtime_error("a wrong answer: its time means nothing");
    }
  }
  double bytes() const { return double(weight::bytes(n, k)) + double(m) * k * sizeof(X) + double(m) * n * sizeof(float); }

  X* x_codes() { return x.first(); }
  static void demand(const status& s) {
    if (!s) throw std::runtime_error(s.what);
  }

 private:
  void fill(std::byte* to) {
    std::uint32_t state = 7;
    const auto next = [&] { return state = state * 1664525u + 1013904223u, state >> 20; };
    for (auto& c : codes) c = std::uint8_t(next() & ((1u << Format::bits) - 1));
    for (auto& s : scale) s = to_float(narrow<fp16>(0.005f + float(next()) * 1e-6f));
    for (auto& s : minimum) s = to_float(narrow<fp16>(-0.04f - float(next()) * 1e-6f));
    const auto data = [](auto& v) { return v.data(); };
    demand(pack(weight::over(to, n, k), {.codes = data(codes), .stride = k, .n = n, .k = k, .scale = data(scale), .minimum = minima ? data(minimum) : nullptr}));
  }
  static status pack(const weight& w, const gemm::weight_source& s) { return gemm::pack(w, s); }
};

template <class Op, class Format, class X> void enter_layer(const char* name, int m, int threads) {
  constexpr int n = 4096, k = 4096;
  enter("quant/" + std::string(name) + "/" + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + "/threads:" + std::to_string(threads), [=](benchmark::State& state) {
    auto one = std::make_shared<layer<Op, Format, X>>(m, n, k, threads);
    one->verify();
    const std::vector<instruction> dots = {instruction::s8_dot, instruction::amx_s8}, brain = {instruction::fma, instruction::bf16_dot, instruction::amx_bf16};
    run(state, {.subject = timed("smalti", "smalti", threads, [=] { one->run(); }),
                .threads = threads,
                .flop = 2.0 * m * n * k,
                .bytes = one->bytes(),
                .arithmetic = std::is_same_v<X, std::int8_t> ? dots : brain,
                .from_memory = true});
  });
}

#if defined(SMALTI_BENCH_GGML)
// Floats in, floats out, for both: ours quantizes the activations first, with their sums where the weight has minima.
template <class Op, class Format> struct floats_layer : layer<Op, Format, std::int8_t> {
  using base = layer<Op, Format, std::int8_t>;
  struct with_sums : quantize::options {
    static constexpr int sum_group = base::minima ? 32 : 0;
  };
  using quantizer = quantize::tokens<float, policy::int8_tokens<32>, with_sums>;
  std::vector<float> x;
  typename quantizer::args q;

  floats_layer(int m, int n, int k, int threads) : base(m, n, k, threads), x(std::size_t(m) * k) {
    std::uint32_t state = 5;
    for (auto& v : x) v = float(int((state = state * 1664525u + 1013904223u) >> 16 & 0xffff) - 32768) / 16384;
    q.x = {x.data(), m, k, k};
    q.codes = {this->x_codes(), m, k, k};
    q.scales = {this->x_scale.data(), this->groups, m, m};
    if constexpr (base::minima) q.sums = {this->x_sum.data(), this->groups, m, m};
  }
  void run() {
    base::demand(quantizer::run(this->context, q));
    base::run();
  }
  //! The weight in GGUF blocks: a scale, a minimum where there is one, 32 codes, of which the first half lies in the lower nibbles.
  std::vector<std::uint8_t> blocks() const {
    std::vector<std::uint8_t> out;
    for (std::size_t b = 0; b < this->scale.size(); ++b) {
      const auto put = [&](float v) {
        const fp16 h = narrow<fp16>(v);
        out.push_back(std::uint8_t(h.bits)), out.push_back(std::uint8_t(h.bits >> 8));
      };
      put(this->scale[b]);
      if (base::minima) put(this->minimum[b]);
      for (int i = 0; i < 16; ++i) out.push_back(std::uint8_t(this->codes[b * 32 + i] | this->codes[b * 32 + 16 + i] << 4));
    }
    return out;
  }
  // 64 results of theirs against a double sum of the floats: 8-bit activations cost less than 2 % of the sum of magnitudes.
  void verify(const float* y) const {
    for (std::int64_t probe = 0; probe < 64; ++probe) {
      const std::int64_t at = probe * 7919 * 104729 % (std::int64_t(this->m) * this->n);
      const int i = int(at / this->n), j = int(at % this->n);
      double sum = 0, size = 0;
      for (int c = 0; c < this->k; ++c) {
        const std::size_t g = std::size_t(j) * this->groups + c / 32;
        const double w = Format::codec::value(this->codes[std::size_t(j) * this->k + c]) * this->scale[g] + (base::minima ? this->minimum[g] : 0);
        sum += x[std::size_t(i) * this->k + c] * w, size += std::abs(x[std::size_t(i) * this->k + c] * w);
      }
      if (!(std::abs(y[at] - sum) <= 0.02 * size)) throw std::runtime_error("a wrong answer: its time means nothing");
    }
  }
};

// Beside the fastest of ggml's layouts for the case.
template <class Op, class Format> void enter_beside_ggml(const char* name, ggml_type type, int m) {
  constexpr int n = 4096, k = 4096, threads = 1;
  enter("quant/ggml/" + std::string(name) + "/" + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + "/threads:1", [=](benchmark::State& state) {
    auto one = std::make_shared<floats_layer<Op, Format>>(m, n, k, threads);
    one->run();
    one->verify(one->args.y.data);
    const auto blocks = one->blocks();
    const int copies = std::max(2, int((beyond_caches() + blocks.size() - 1) / blocks.size()));
    std::shared_ptr<ggml::linear> best;
    double least = 0;
    for (ggml_backend_buffer_type_t layout : ggml::layouts()) {
      auto peer = std::make_shared<ggml::linear>(type, m, n, k, copies, blocks, one->x, layout, threads);
      if (!peer->usable()) continue;
      peer->run();
      one->verify(peer->result());
      std::vector<double> times;
      for (int i = 0; i < 5; ++i) {
        const double start = seconds(threads);
        peer->run();
        times.push_back(seconds(threads) - start);
      }
      if (best == nullptr || median(times) < least) best = peer, least = median(times);
    }
    if (best == nullptr) return state.SkipWithError("ggml has no kernel for the case");
    run(state, {.subject = timed("smalti", "smalti", threads, [=] { one->run(); }),
                .peers = {timed("ggml", ggml::version() + " (" + best->name() + ")", threads, [=] { best->run(); })},
                .threads = threads,
                .flop = 2.0 * m * n * k,
                .bytes = one->bytes(),
                .arithmetic = {instruction::s8_dot, instruction::amx_s8},
                .from_memory = true});
  });
}
#endif

template <class Format, int Group = 32> using on_integers = gemm::quantized<policy::int8_tokens<Group>, Format, policy::chain<>, float>;
template <class Format> using upcast = gemm::weight_only<Format, policy::chain<>, bf16, float>;

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
#if defined(SMALTI_BENCH_GGML)
  describe_machine(ggml::version());
#else
  describe_machine("none");
#endif
  using int4 = policy::int_affine<4, 128>;
  for (const int m : {1, 4, 16, 128}) {
    enter_layer<on_integers<policy::q4_0>, policy::q4_0, std::int8_t>("q4_0xq8_0", m, 1);
    enter_layer<on_integers<policy::q4_1>, policy::q4_1, std::int8_t>("q4_1xq8_1", m, 1);
    enter_layer<on_integers<int4, 128>, int4, std::int8_t>("w4g128a8", m, 1);
  }
  for (const int m : {1, 2, 4, 8, 16, 17, 32, 33, 48, 49, 64, 65, 128, 129, 256, 512, 1024}) enter_layer<upcast<int4>, int4, bf16>("w4g128a16", m, 1);
#if defined(SMALTI_BENCH_GGML)
  for (const int m : {1, 128}) {
    enter_beside_ggml<on_integers<policy::q4_0>, policy::q4_0>("q4_0", GGML_TYPE_Q4_0, m);
    enter_beside_ggml<on_integers<policy::q4_1>, policy::q4_1>("q4_1", GGML_TYPE_Q4_1, m);
  }
#endif
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
