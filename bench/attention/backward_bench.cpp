// Gradients of attention on the host: the square that claims are made of, whole and causal, and a grouped one. Operations
// are those of all seven products (scores twice, dp twice, dv, dk, dq), halved where the mask hides half.
#include <interleave.hpp>
#include <limits.hpp>
#include <machine.hpp>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <smalti/core/context.hpp>
#include <smalti/ops/attention/backward.hpp>
#include <smalti/policy/mask.hpp>

namespace {

using namespace bench;
using smalti::bf16;

// Queries and keys of one batch of one sequence: [row][head][d].
template <int D, class Mask> struct problem {
  using op = smalti::attention::flash_backward<bf16, D, Mask>;
  int rows, heads, kv_heads;
  pages q, k, v, o, d_o, lse, dq, dk, dv, memory;
  typename op::args x;
  smalti::host_context context;

  problem(int rows, int heads, int kv_heads, int threads)
      : rows(rows), heads(heads), kv_heads(kv_heads), q(size(heads)), k(size(kv_heads)), v(size(kv_heads)), o(size(heads)), d_o(size(heads)),
        lse(std::size_t(rows) * heads * sizeof(float)), dq(size(heads)), dk(size(kv_heads)), dv(size(kv_heads)), context{threads} {
    std::mt19937 generator(3);
    std::normal_distribution<float> normal;
    for (pages* p : {&q, &k, &v, &d_o})
      for (bf16 *e = of(*p), *end = e + p->size / sizeof(bf16); e != end; ++e) *e = smalti::narrow<bf16>(normal(generator));
    namespace a = smalti::attention;
    x.q = a::bshd<const bf16>(of(q), 1, rows, heads, D), x.k = a::bshd<const bf16>(of(k), 1, rows, kv_heads, D), x.v = a::bshd<const bf16>(of(v), 1, rows, kv_heads, D);
    x.o = a::bshd<const bf16>(of(o), 1, rows, heads, D), x.d_o = a::bshd<const bf16>(of(d_o), 1, rows, heads, D);
    x.lse = a::bshd<const float>(reinterpret_cast<float*>(lse.data), 1, rows, heads, 1);
    x.dq = a::bshd(of(dq), 1, rows, heads, D), x.dk = a::bshd(of(dk), 1, rows, kv_heads, D), x.dv = a::bshd(of(dv), 1, rows, kv_heads, D);
    x.scale = 1 / std::sqrt(float(D));
    forward();
    const std::size_t bytes = op::workspace_bytes(context, x);
    if (bytes > 0) memory = pages(bytes);
    demand();
  }
  void run() {
    if (const smalti::status s = op::run(context, x, {memory.data, memory.size}); !s) throw std::runtime_error(s.what);
  }
  double seen() const { return Mask{}.keys({0, 1}, rows).last == rows ? double(rows) * rows : 0.5 * rows * (rows + 1.0); }
  double flop() const { return 14.0 * seen() * D * heads; }
  double bytes() const { return (4.0 * heads + 4.0 * kv_heads) * rows * D * sizeof(bf16); }

 private:
  std::size_t size(int h) const { return std::size_t(rows) * h * D * sizeof(bf16); }
  static bf16* of(pages& p) { return reinterpret_cast<bf16*>(p.data); }
  static float at(const pages& p, std::size_t i) { return smalti::to_float(reinterpret_cast<const bf16*>(p.data)[i]); }
  // Near enough to time: scores of unit normal numbers have a log-sum-exp of about log(keys) + 1/2. What is asked of the
  // gradient is the formula, with the numbers that were given.
  void forward() {
    for (int i = 0; i < rows; ++i)
      for (int h = 0; h < heads; ++h) {
        const double keys = Mask{}.keys({i, i + 1}, rows).last;
        reinterpret_cast<float*>(lse.data)[std::size_t(i) * heads + h] = float(std::log(keys) + 0.5);
      }
    for (bf16 *e = of(o), *end = e + o.size / sizeof(bf16); e != end; ++e) *e = smalti::narrow<bf16>(0.01f);
  }
  // dq of a few rows against the formula in double.
  void demand() {
    run();
    for (int i : {0, 1, rows / 2 + 7, rows - 1})
      for (int h : {0, heads - 1}) {
        const int g = h / (heads / kv_heads), keys = Mask{}.keys({i, i + 1}, rows).last;
        std::vector<double> want(D, 0.0), size(D, 0.0);
        double delta = 0;
        for (int c = 0; c < D; ++c) delta += double(at(o, (std::size_t(i) * heads + h) * D + c)) * at(d_o, (std::size_t(i) * heads + h) * D + c);
        for (int j = 0; j < keys; ++j) {
          double s = 0, dp = 0;
          for (int c = 0; c < D; ++c) {
            s += double(at(q, (std::size_t(i) * heads + h) * D + c)) * at(k, (std::size_t(j) * kv_heads + g) * D + c);
            dp += double(at(d_o, (std::size_t(i) * heads + h) * D + c)) * at(v, (std::size_t(j) * kv_heads + g) * D + c);
          }
          const double w = std::exp(s * x.scale - reinterpret_cast<const float*>(lse.data)[std::size_t(i) * heads + h]);
          for (int c = 0; c < D; ++c) {
            const double term = x.scale * w * (dp - delta) * at(k, (std::size_t(j) * kv_heads + g) * D + c);
            want[c] += term, size[c] += std::abs(term);
          }
        }
        for (int c = 0; c < D; ++c)
          if (!(std::abs(want[c] - at(dq, (std::size_t(i) * heads + h) * D + c)) <= 0.02 * (size[c] + 1e-6)))
            throw std::runtime_error("the gradient of a query is wrong: its time means nothing");
      }
  }
};

template <int D, class Mask> void enter_case(const std::string& name, int rows, int heads, int kv_heads, int threads) {
  enter("attention_backward/bf16/" + name + "/d" + std::to_string(D) + "/" + std::to_string(rows) + "x" + std::to_string(heads) + ":" + std::to_string(kv_heads) +
            "/threads:" + std::to_string(threads),
        [=](benchmark::State& state) {
          auto p = std::make_shared<problem<D, Mask>>(rows, heads, kv_heads, threads);
          bench::run(state, {.subject = timed("smalti", "smalti", threads, [=] { p->run(); }),
                             .threads = threads,
                             .flop = p->flop(),
                             .bytes = p->bytes(),
                             .arithmetic = {instruction::fma, instruction::bf16_dot, instruction::amx_bf16},
                             .rounds = 9});
        });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  describe_machine("");
  enter_case<128, smalti::policy::full>("full", 4096, 1, 1, 1);
  enter_case<128, smalti::policy::causal>("causal", 4096, 1, 1, 1);
  enter_case<64, smalti::policy::causal>("causal", 2048, 2, 2, 1);
  enter_case<128, smalti::policy::causal>("causal", 2048, 4, 1, 2);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
