// Grouped products: experts' rows against one matrix of as many operations, one token through its experts' quantized weights
// from memory, and what many adapters cost beside the layer they adapt. One thread.
#include <interleave.hpp>
#include <machine.hpp>
#include <peers/ggml.hpp>
#include <rotate.hpp>
#include <smalti/flow/lora.hpp>
#include <smalti/flow/moe.hpp>
#include <smalti/ops/gemm.hpp>
#include <smalti/ops/gemm/pack.hpp>
#include <smalti/policy/codec.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace bench;
using namespace smalti;

const host_context one_thread{.threads = 1};
const std::vector<instruction> brain = {instruction::fma, instruction::bf16_dot, instruction::amx_bf16};

void demand(const status& s) {
  if (!s) throw std::runtime_error(s.what);
}
void demand(bool right) {
  if (!right) throw std::runtime_error("a wrong answer: its time means nothing");
}
// Small values that bf16 holds exactly.
struct numbers {
  std::uint32_t state = 1;
  float next() { return state = state * 1664525u + 1013904223u, float(int(state >> 28) - 8) / 8; }
  void fill(bf16* to, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) to[i] = narrow<bf16>(next());
  }
};
template <class Op> struct prepared {
  typename Op::args args;
  pages memory;
  std::size_t bytes = 0;
  void lay_out() {
    demand(Op::check(one_thread, args));
    bytes = Op::workspace_bytes(one_thread, args);
    memory = pages(bytes > 0 ? bytes : 1);
  }
  void run() { demand(Op::run(one_thread, args, {memory.data, bytes})); }
};

// ---- rows of experts against one matrix with as many rows
struct rows_of_experts {
  using grouped = gemm::grouped<bf16, bf16, bf16>;
  using dense = gemm::dense<bf16, bf16, bf16>;
  int experts, rows, n, k;
  std::vector<std::int32_t> offsets;
  rotating<bf16> x, w;
  pages y;
  prepared<grouped> many;
  prepared<dense> one;
  rows_of_experts(int e, int m, int n_, int k_)
      : experts(e), rows(e * m), n(n_), k(k_), x(std::size_t(rows) * k, false, [](bf16* to, std::size_t count) { numbers{}.fill(to, count); }),
        w(std::size_t(e) * n * k, false, [](bf16* to, std::size_t count) { numbers{3}.fill(to, count); }), y(std::size_t(rows) * n * sizeof(bf16)) {
    for (int i = 0; i <= e; ++i) offsets.push_back(i * m);
    auto* out = reinterpret_cast<bf16*>(y.data);
    many.args.a = {x.first(), rows, k, k}, many.args.b = {w.first(), e, n, k, std::int64_t(n) * k, k}, many.args.c = {out, rows, n, n}, many.args.rows = {offsets.data(), e};
    one.args.a = {x.first(), rows, k, k}, one.args.b = {w.first(), n, k, k}, one.args.c = {out, rows, n, n};
    many.lay_out(), one.lay_out();
    many.run();
    for (int probe = 0; probe < 64; ++probe) {
      const int r = probe * 7919 % rows, j = probe * 104729 % n;
      double sum = 0;
      for (int c = 0; c < k; ++c) sum += to_float(x.first()[std::size_t(r) * k + c]) * to_float(w.first()[(std::size_t(r / m) * n + j) * k + c]);
      demand(std::abs(to_float(out[std::size_t(r) * n + j]) - sum) <= std::abs(sum) / 128 + 0.01);
    }
  }
};
void enter_rows(int experts, int m, int n, int k) {
  enter("moe/grouped/bf16/" + std::to_string(experts) + "x" + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + "/threads:1", [=](benchmark::State& state) {
    auto p = std::make_shared<rows_of_experts>(experts, m, n, k);
    run(state, {.subject = timed("smalti", "smalti", 1, [=] { p->many.run(); }),
                .peers = {timed("dense", "gemm::dense of as many operations", 1, [=] { p->one.run(); })},
                .flop = 2.0 * p->rows * n * k,
                .bytes = 2.0 * (double(experts) * n * k + double(p->rows) * (n + k)),
                .arithmetic = brain});
  });
}

// ---- 768 tokens of two choices among 16 experts, whose loads follow a Zipf law (-1: one expert has every token): time against skew
struct skewed_layer {
  using layer = moe::scatter_moe<moe::dense_experts<bf16>>;
  static constexpr int tokens = 768, choices = 2, experts = 16, wide = 1024, inner = 512, slots = tokens * choices;
  rotating<bf16> x, in, out;
  pages y;
  std::vector<std::int32_t> offsets{0}, token = std::vector<std::int32_t>(slots), slot = std::vector<std::int32_t>(slots), row = std::vector<std::int32_t>(slots);
  std::vector<float> share = std::vector<float>(slots, 0.5f);
  prepared<layer> op;
  explicit skewed_layer(double exponent)
      : x(std::size_t(tokens) * wide, false, [](bf16* to, std::size_t c) { numbers{}.fill(to, c); }), in(std::size_t(2) * experts * inner * wide, false, [](bf16* to, std::size_t c) { numbers{3}.fill(to, c); }),
        out(std::size_t(experts) * inner * wide, false, [](bf16* to, std::size_t c) { numbers{5}.fill(to, c); }), y(std::size_t(tokens) * wide * sizeof(bf16)) {
    std::vector<double> part(experts);
    for (int e = 0; e < experts; ++e) part[e] = exponent < 0 ? (e == 0 ? 1e9 : 1) : std::pow(e + 1, -exponent);
    int left = slots;
    for (int e = 0; e < experts; ++e) {      // no more than every token once; what is left goes to the others by their parts
      const double rest = std::accumulate(part.begin() + e, part.end(), 0.0);
      const int load = e + 1 == experts ? left : std::min(tokens, int(std::lround(left * part[e] / rest)));
      offsets.push_back(offsets.back() + load), left -= load;
    }
    for (int r = 0; r < slots; ++r) token[r] = r % tokens, slot[r] = token[r] * choices + r / tokens, row[slot[r]] = r;
    const auto stack_of = [](const bf16* p, int rows, int cols) { return stack<const bf16>{p, experts, rows, cols, std::int64_t(rows) * cols, cols}; };
    op.args.x = {x.first(), tokens, wide, wide}, op.args.y = {reinterpret_cast<bf16*>(y.data), tokens, wide, wide};
    op.args.gate = stack_of(in.first(), inner, wide), op.args.up = stack_of(in.first() + std::size_t(experts) * inner * wide, inner, wide), op.args.down = stack_of(out.first(), wide, inner);
    op.args.index = {.rows = {offsets.data(), experts}, .end = offsets.data() + 1, .token_of_row = token.data(), .slot_of_row = slot.data(), .row_of_slot = row.data(), .weight_of_slot = share.data(), .tokens = tokens, .choices = choices,
                     .row_limit = slots};
    op.lay_out();
    op.run();
    demand(std::isfinite(to_float(reinterpret_cast<bf16*>(y.data)[7])));
  }
};
void enter_skew(const char* name, double exponent) {
  enter("moe/skew/" + std::string(name) + "/768x2of16x1024x512/threads:1", [=](benchmark::State& state) {
    auto p = std::make_shared<skewed_layer>(exponent);
    run(state, {.subject = timed("smalti", "smalti", 1, [=] { p->op.run(); }), .flop = 6.0 * p->slots * p->wide * p->inner, .bytes = 6.0 * p->experts * p->wide * p->inner + 4.0 * p->tokens * p->wide, .arithmetic = brain});
  });
}

// ---- one token, 8 of 64 experts, 4-bit weights from memory
template <class Experts> struct token_of_experts {
  using layer = moe::scatter_moe<Experts>;
  using weight = typename layer::weight;
  static constexpr int experts = 64, choices = 8, wide = 2560, inner = 768;
  std::vector<std::uint8_t> codes = std::vector<std::uint8_t>(std::size_t(wide) * inner);
  std::vector<float> scale = std::vector<float>(std::size_t(wide) * inner / 32, 0.01f), zeros = std::vector<float>(std::size_t(wide) * inner / 32, -0.04f);
  std::size_t in_bytes = weight::bytes(inner, wide, experts), out_bytes = weight::bytes(wide, inner, experts);
  rotating<std::byte> packed;
  rotating<bf16> x;
  std::vector<bf16> y = std::vector<bf16>(wide);
  std::vector<std::int32_t> offsets = std::vector<std::int32_t>(experts + 1), token = std::vector<std::int32_t>(choices, 0), slot = std::vector<std::int32_t>(choices), row = std::vector<std::int32_t>(choices);
  std::vector<float> share = std::vector<float>(choices, 0.125f);
  prepared<layer> op;
  std::byte* at = nullptr;
  int turn = 0;
  token_of_experts()
      : packed(2 * rounded(in_bytes) + rounded(out_bytes), true, [this](std::byte* to, std::size_t) { pack_all(to); }), x(wide, false, [](bf16* to, std::size_t count) { numbers{}.fill(to, count); }) {
    std::iota(slot.begin(), slot.end(), 0), std::iota(row.begin(), row.end(), 0);
    op.args.x = {x.first(), 1, wide, wide}, op.args.y = {y.data(), 1, wide, wide};
    at = packed.next();
    choose();
    op.lay_out();
    op.run();
    demand(std::isfinite(to_float(y[0])) && to_float(y[0]) != 0);
  }
  static std::size_t rounded(std::size_t b) { return (b + 255) / 256 * 256; }
  void pack_all(std::byte* to) {
    std::uint32_t state = 7;
    for (auto& c : codes) c = std::uint8_t((state = state * 1664525u + 1013904223u) >> 28);
    const auto pack = [&](const weight& w) {
      for (int e = 0; e < experts; ++e) demand(gemm::pack(w, {.codes = codes.data(), .stride = w.k, .n = w.n, .k = w.k, .scale = scale.data(), .minimum = zeros.data()}, e));
    };
    pack(weight::over(to, inner, wide, experts)), pack(weight::over(to + rounded(in_bytes), inner, wide, experts)), pack(weight::over(to + 2 * rounded(in_bytes), wide, inner, experts));
  }
  // Eight experts that were not used for the longest time, as rows of one each.
  void choose() {
    if (turn + choices > experts) turn = 0, at = packed.next();
    for (int e = 0; e <= experts; ++e) offsets[e] = e <= turn ? 0 : e - turn < choices ? e - turn : choices;
    turn += choices;
    op.args.gate = weight::over(at, inner, wide, experts), op.args.up = weight::over(at + rounded(in_bytes), inner, wide, experts), op.args.down = weight::over(at + 2 * rounded(in_bytes), wide, inner, experts);
    op.args.index = {.rows = {offsets.data(), experts}, .end = offsets.data() + 1, .token_of_row = token.data(), .slot_of_row = slot.data(), .row_of_slot = row.data(), .weight_of_slot = share.data(), .tokens = 1, .choices = choices,
                     .row_limit = choices};
  }
  void run() {
    choose();
    op.run();
  }
  double bytes() const { return double(choices) / experts * double(2 * in_bytes + out_bytes); }
};
template <class Experts> void enter_token(const char* name) {
  enter("moe/decode/" + std::string(name) + "/1x8of64x2560x768/threads:1", [](benchmark::State& state) {
    auto p = std::make_shared<token_of_experts<Experts>>();
    run(state, {.subject = timed("smalti", "smalti", 1, [=] { p->run(); }), .flop = 6.0 * p->choices * p->wide * p->inner, .bytes = p->bytes(), .arithmetic = brain, .from_memory = true});
  });
}

#if defined(SMALTI_BENCH_GGML)
// The same codes in blocks of ggml's Q4_0, and the layer beside its mul_mat_id.
std::vector<std::uint8_t> q4_0_blocks(const std::vector<std::uint8_t>& codes, float scale) {
  std::vector<std::uint8_t> blocks;
  const fp16 d = narrow<fp16>(scale);
  for (std::size_t b = 0; b < codes.size(); b += 32) {
    std::uint8_t two[2];
    std::memcpy(two, &d, 2);
    blocks.insert(blocks.end(), two, two + 2);
    for (int i = 0; i < 16; ++i) blocks.push_back(std::uint8_t(codes[b + i] | codes[b + 16 + i] << 4));
  }
  return blocks;
}
void enter_token_beside_ggml() {
  using layer = token_of_experts<moe::integer_experts<policy::q4_0>>;
  enter("moe/decode/ggml/q4_0/1x8of64x2560x768/threads:1", [](benchmark::State& state) {
    auto p = std::make_shared<layer>();
    std::vector<float> x;
    for (int i = 0; i < layer::wide; ++i) x.push_back(to_float(p->x.first()[i]));
    const auto blocks = q4_0_blocks(p->codes, 0.01f);      // the same codes by rows of either length
    const std::size_t bytes = 3 * blocks.size() * layer::experts;
    const int copies = std::max(2, int((beyond_caches() + bytes - 1) / bytes));
    auto peer = std::make_shared<ggml::experts>(GGML_TYPE_Q4_0, layer::wide, layer::inner, layer::experts, layer::choices, copies, blocks, blocks, x, 0.125f, 1);
    peer->run();
    double size = 0, off = 0;
    for (int i = 0; i < layer::wide; ++i) size = std::max(size, std::abs(double(peer->result()[i]))), off = std::max(off, std::abs(double(peer->result()[i]) - to_float(p->y[i])));
    demand(off <= size / 25);      // both quantize their rows to 8 bits, twice
    run(state, {.subject = timed("smalti", "smalti", 1, [=] { p->run(); }), .peers = {timed("ggml", ggml::version() + " (mul_mat_id)", 1, [=] { peer->run(); })}, .flop = 6.0 * p->choices * p->wide * p->inner, .bytes = p->bytes(),
                .arithmetic = {instruction::s8_dot, instruction::amx_s8}, .from_memory = true});
  });
}
#endif

// ---- 64 adapters beside a 4-bit layer
struct adapted_layer {
  using format = policy::int4_symmetric<128>;
  using base = gemm::weight_only<format, policy::chain<>, bf16, bf16>;
  using both = lora::adapted<base, bf16>;
  int rows, n, k, adapters, rank;
  std::vector<std::uint8_t> codes;
  std::vector<float> scale, strength;
  std::vector<int> first, ranks, line, adapter;
  std::vector<std::int32_t> offsets;
  rotating<std::byte> packed;
  rotating<bf16> x, a, b;
  pages y;
  prepared<both> op;
  prepared<base> alone;
  adapted_layer(int m, int n_, int k_, int count, int r, int distinct)
      : rows(m), n(n_), k(k_), adapters(count), rank(r), codes(std::size_t(n) * k), scale(std::size_t(n) * k / 128, 0.01f), strength(count, 0.5f), first(count), ranks(count, r), line(std::size_t(count) * r), adapter(distinct),
        packed(base::weight_type::bytes(n, k), true, [this](std::byte* to, std::size_t) { pack(to); }), x(std::size_t(m) * k, false, [](bf16* to, std::size_t c) { numbers{}.fill(to, c); }),
        a(std::size_t(count) * r * k, true, [](bf16* to, std::size_t c) { numbers{5}.fill(to, c); }), b(std::size_t(count) * r * n, true, [](bf16* to, std::size_t c) { numbers{9}.fill(to, c); }), y(std::size_t(m) * n * sizeof(bf16)) {
    for (int e = 0; e < count; ++e) first[e] = e * r;
    std::iota(line.begin(), line.end(), 0);
    for (int s = 0; s <= distinct; ++s) offsets.push_back(s * m / distinct);
    for (int s = 0; s < distinct; ++s) adapter[s] = s;
    auto* out = reinterpret_cast<bf16*>(y.data);
    op.args.base.x = {x.first(), m, k, k}, op.args.base.y = {out, m, n, n};
    op.args.low_rank.x = op.args.base.x, op.args.low_rank.y = op.args.base.y, op.args.low_rank.rows = {offsets.data(), distinct}, op.args.low_rank.adapter = adapter.data();
    move_on();
    alone.args = op.args.base;
    op.lay_out(), alone.lay_out();
    op.run();
    const int i = m - 1, j = n - 3, e = adapter[distinct - 1];
    double sum = 0;
    for (int c = 0; c < k; ++c) {
      double weight = (int(codes[std::size_t(j) * k + c]) - 8) * double(to_float(narrow<fp16>(0.01f)));
      for (int q = 0; q < r; ++q) weight += 0.5 * to_float(b.first()[(std::size_t(e) * r + q) * n + j]) * to_float(a.first()[(std::size_t(e) * r + q) * k + c]);
      sum += weight * to_float(x.first()[std::size_t(i) * k + c]);
    }
    demand(std::abs(to_float(out[std::size_t(i) * n + j]) - sum) <= std::abs(sum) / 64 + 1);
  }
  void pack(std::byte* to) {
    std::uint32_t state = 7;
    for (auto& c : codes) c = std::uint8_t((state = state * 1664525u + 1013904223u) >> 28);
    demand(gemm::pack(base::weight_type::over(to, n, k), {.codes = codes.data(), .stride = k, .n = n, .k = k, .scale = scale.data()}));
  }
  void move_on() {
    op.args.base.w = base::weight_type::over(packed.next(), n, k);
    op.args.low_rank.weights.a = {.pool = {a.next(), adapters * rank, k, k}, .first = first.data(), .count = ranks.data(), .line = line.data(), .weights = adapters, .most = rank, .lines = adapters * rank};
    op.args.low_rank.weights.b = {.pool = {b.next(), adapters * rank, n, n}, .first = first.data(), .count = ranks.data(), .line = line.data(), .scale = strength.data(), .weights = adapters, .most = rank, .lines = adapters * rank};
  }
  void run() {
    move_on();
    op.run();
  }
  void run_alone() {
    alone.args.w = base::weight_type::over(packed.next(), n, k);
    alone.run();
  }
};
void enter_adapters(int m, int n, int k, int distinct) {
  enter("lora/w4/" + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + "/adapters:" + std::to_string(distinct) + "/rank:16/threads:1", [=](benchmark::State& state) {
    auto p = std::make_shared<adapted_layer>(m, n, k, distinct, 16, distinct);
    run(state, {.subject = timed("smalti", "smalti", 1, [=] { p->run(); }),
                .peers = {timed("base", "the layer without adapters", 1, [=] { p->run_alone(); })},
                .flop = 2.0 * m * n * k + 2.0 * m * 16 * (n + k),
                .bytes = double(p->packed.copies() > 0 ? adapted_layer::base::weight_type::bytes(n, k) : 0) + 2.0 * distinct * 16 * (n + k) + 2.0 * m * (n + k),
                .arithmetic = brain,
                .from_memory = true});
  });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  describe_machine({});
  for (const int m : {64, 256}) enter_rows(8, m, 2048, 2048);
  enter_rows(16, 64, 1024, 1024);
  enter_skew("zipf:0", 0), enter_skew("zipf:0.5", 0.5), enter_skew("zipf:1", 1), enter_skew("zipf:1.5", 1.5), enter_skew("one", -1);
  enter_token<moe::integer_experts<policy::q4_0>>("q4_0_by_int8");
#if defined(SMALTI_BENCH_GGML)
  enter_token_beside_ggml();
#endif
  enter_token<moe::quantized_experts<policy::q4_0>>("q4_0");
  enter_token<moe::quantized_experts<policy::int4_symmetric<128>>>("int4_g128");
  enter_adapters(64, 4096, 4096, 64);
  enter_adapters(64, 11008, 4096, 64);
  enter_adapters(64, 4096, 4096, 8);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
