// Attention on the host: the prefill that claims are made of, decode against read bandwidth, pages against contiguous keys.
#include <interleave.hpp>
#include <limits.hpp>
#include <machine.hpp>
#include <rotate.hpp>
#include <smalti/core/context.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/attention/quantized.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace bench;
using smalti::bf16;
namespace attention = smalti::attention;
namespace policy = smalti::policy;

constexpr int d = 128;

void demand(const smalti::status& s) {
  if (!s) throw std::runtime_error(s.what);
}
void fill(bf16* first, std::size_t count, unsigned seed) {
  std::minstd_rand generator(seed);
  for (std::size_t i = 0; i < count; ++i) first[i] = smalti::narrow<bf16>(float(int(generator() >> 8) % 2001 - 1000) / 1000.0f);
}
// One row of o, computed the plain way: a time of a wrong answer means nothing.
void demand_row(const bf16* q, const bf16* k, const bf16* v, const bf16* o, int seen) {
  std::vector<double> w(seen);
  double top = -INFINITY, sum = 0;
  for (int j = 0; j < seen; ++j) {
    for (int c = 0; c < d; ++c) w[j] += double(smalti::to_float(q[c])) * smalti::to_float(k[std::size_t(j) * d + c]);
    w[j] /= std::sqrt(double(d));
    top = std::max(top, w[j]);
  }
  for (double& x : w) sum += x = std::exp(x - top);
  for (int c = 0; c < d; c += 17) {
    double want = 0;
    for (int j = 0; j < seen; ++j) want += w[j] / sum * smalti::to_float(v[std::size_t(j) * d + c]);
    if (!(std::abs(want - smalti::to_float(o[c])) <= 0x1p-7)) throw std::runtime_error("attention: wrong answer: this time means nothing");
  }
}

// ---- prefill: one head, n queries and keys
template <class Mask> class prefill {
 public:
  using op = attention::flash<bf16, d, attention::dense_kv<bf16>, Mask>;
  prefill(int n, int threads) : context_{.threads = threads}, n_(n), memory_(pages(std::size_t(n) * d * sizeof(bf16) * 4)) {
    bf16* all = reinterpret_cast<bf16*>(memory_.data);
    const std::size_t each = std::size_t(n) * d;
    fill(all, 3 * each, 1);
    args_ = {.q = attention::bhsd<const bf16>(all, 1, n, 1, d), .kv = {attention::bhsd<const bf16>(all + each, 1, n, 1, d), attention::bhsd<const bf16>(all + 2 * each, 1, n, 1, d)},
             .o = attention::bhsd(all + 3 * each, 1, n, 1, d)};
    demand(op::check(context_, args_));
    const std::size_t bytes = op::workspace_bytes(context_, args_);
    if (bytes > 0) space_ = pages(bytes);
    workspace_ = {space_.data, bytes};
    run();
    for (int i : {0, n / 2, n - 1}) {
      const int seen = std::is_same_v<Mask, policy::full> ? n : i + 1;
      demand_row(all + std::size_t(i) * d, all + each, all + 2 * each, all + 3 * each + std::size_t(i) * d, seen);
    }
  }
  void run() { demand(op::run(context_, args_, workspace_)); }
  double flop() const { return 4.0 * n_ * n_ * d * (std::is_same_v<Mask, policy::full> ? 1 : 0.5 * (n_ + 1) / n_); }
  double bytes() const { return 4.0 * n_ * d * sizeof(bf16); }

 private:
  smalti::host_context context_;
  int n_;
  pages memory_, space_;
  typename op::args args_;
  smalti::workspace workspace_;
};
template <class Mask> void enter_prefill(const std::string& name, int n, int threads) {
  enter("attention/prefill/" + name + "/d128/" + std::to_string(n) + "/threads:" + std::to_string(threads), [=](benchmark::State& state) {
    auto p = std::make_shared<prefill<Mask>>(n, threads);
    std::vector<contender> peers;
    if constexpr (!std::is_same_v<Mask, policy::full>) {       // the same op without a mask, per operation: what masking costs
      auto all = std::make_shared<prefill<policy::full>>(n, threads);
      contender whole = timed("full", "the same without a mask, per operation", threads, [=] { all->run(); });
      whole.work = all->flop() / p->flop();
      peers.push_back(whole);
    }
    run(state, {.subject = timed("smalti", "smalti", threads, [=] { p->run(); }), .peers = peers, .threads = threads, .flop = p->flop(), .bytes = p->bytes(),
                .arithmetic = {instruction::fma, instruction::bf16_dot, instruction::amx_bf16}});
  });
}

// ---- decode: one query, `keys` keys of each of 8 key heads, from memory
constexpr int kv_heads = 8;
class decode_problem {
 public:
  decode_problem(int keys, int group) : keys(keys), group(group), kv(2 * std::size_t(kv_heads) * keys * d, true, [](bf16* p, std::size_t n) { fill(p, n, 2); }),
    q(std::size_t(kv_heads) * group * d), o(q.size()) { fill(q.data(), q.size(), 3); }
  attention::head_rows<const bf16> queries() const { return attention::bhsd<const bf16>(q.data(), 1, 1, kv_heads * group, d); }
  attention::head_rows<bf16> results() { return attention::bhsd(o.data(), 1, 1, kv_heads * group, d); }
  std::size_t half() const { return std::size_t(kv_heads) * keys * d; }
  double bytes() const { return 2.0 * half() * sizeof(bf16); }
  double flop() const { return 4.0 * kv_heads * group * double(keys) * d; }
  int keys, group;
  rotating<bf16> kv;
  std::vector<bf16> q, o;
};
contender contiguous_on(std::shared_ptr<decode_problem> p) {
  using op = attention::flash<bf16, d, attention::dense_kv<bf16>, policy::full>;
  const auto once = [p] {
    const bf16* k = p->kv.next();
    demand(op::run(smalti::host_context{1}, {.q = p->queries(), .kv = {attention::bhsd<const bf16>(k, 1, p->keys, kv_heads, d), attention::bhsd<const bf16>(k + p->half(), 1, p->keys, kv_heads, d)}, .o = p->results()}));
  };
  once();
  const bf16* k = p->kv.first();
  for (int h : {0, kv_heads - 1}) demand_row(&p->q[std::size_t(h) * p->group * d], k + std::size_t(h) * p->keys * d, k + p->half() + std::size_t(h) * p->keys * d, &p->o[std::size_t(h) * p->group * d], p->keys);
  return timed("contiguous", "contiguous keys", 1, once);
}
// Pages of 16 tokens in random order, each head's tokens of a page together.
contender paged_on(std::shared_ptr<decode_problem> p) {
  using op = attention::flash<bf16, d, attention::paged_kv<bf16, 16>, policy::full>;
  struct tables { std::vector<int> table, length; };
  auto t = std::make_shared<tables>();
  const int count = p->keys / 16;
  t->table.resize(count);
  std::iota(t->table.begin(), t->table.end(), 0);
  std::shuffle(t->table.begin(), t->table.end(), std::minstd_rand(4));
  t->length = {p->keys};
  const auto once = [p, t, count] {
    const bf16* k = p->kv.next();
    const auto keys = attention::pool_of<const bf16>(policy::hnd{}, k, count, 16, kv_heads, d), values = attention::pool_of<const bf16>(policy::hnd{}, k + p->half(), count, 16, kv_heads, d);
    demand(op::run(smalti::host_context{1}, {.q = p->queries(), .kv = {keys, values, {t->table.data(), 0, 0, t->length.data(), 0, 16}, 1, p->keys}, .o = p->results()}));
  };
  once();
  return timed("paged", "pages of 16 tokens", 1, once);
}
void enter_decode(const std::string& name, int keys, int group, bool pages) {
  enter("attention/decode/" + name + "/d128/" + std::to_string(keys) + "/gqa:" + std::to_string(group) + "/threads:1", [=](benchmark::State& state) {
    auto p = std::make_shared<decode_problem>(keys, group);
    std::vector<contender> peers;
    if (pages) peers.push_back(contiguous_on(p));
    run(state, {.subject = pages ? paged_on(p) : contiguous_on(p), .peers = peers, .flop = p->flop(), .bytes = p->bytes(),
                .arithmetic = {instruction::fma, instruction::bf16_dot, instruction::amx_bf16}, .from_memory = true});
  });
}

// ---- decode over integers: codes and scales of all heads one after another, any codes, one scale (and minimum) for all
template <class Storage> class coded_decode {
 public:
  using rows = typename Storage::template rows_of<policy::kv_part::key, d>;
  using op = attention::flash<bf16, d, attention::quantized_kv<Storage>, policy::full>;
  static constexpr float scale = 1.0f / (1 << (Storage::bits - 1)), minimum = -1.0f;
  coded_decode(int keys, int group)
      : keys_(keys), group_(group), kv_(2 * half(), true, [this](std::uint32_t* p, std::size_t) {
          std::minstd_rand generator(2);
          for (int part = 0; part < 2; ++part, p += half()) {
            for (std::size_t i = 0; i < codes(); ++i) p[i] = std::uint32_t(generator()) * 2654435761u;
            auto* s = reinterpret_cast<smalti::fp16*>(p + codes());
            for (std::size_t i = 0; i < std::size_t(kv_heads) * keys_ * rows::width; ++i) s[i] = smalti::narrow<smalti::fp16>(int(i % rows::width) < rows::scales ? scale : minimum);
          }
        }),
        q_(std::size_t(kv_heads) * group * d), o_(q_.size()) {
    fill(q_.data(), q_.size(), 3);
    run(kv_.first());
    std::vector<bf16> plain[2];
    const int head = kv_heads - 1;
    for (int part = 0; part < 2; ++part)
      for (int j = 0; j < keys_; ++j)
        for (int c = 0; c < d; ++c) {
          const std::uint32_t word = kv_.first()[part * half() + (std::size_t(head) * keys_ + j) * rows::words + c / 2 % rows::words];
          const unsigned code = word >> (c / 2 / rows::words * Storage::bits + 16 * (c % 2)) & ((1u << Storage::bits) - 1);
          plain[part].push_back(smalti::narrow<bf16>(Storage::affine ? float(code) * scale + minimum : (float(code) - float(1 << (Storage::bits - 1))) * scale));
        }
    demand_row(&q_[std::size_t(head) * group_ * d], plain[0].data(), plain[1].data(), &o_[std::size_t(head) * group_ * d], keys_);
  }
  void run() { run(kv_.next()); }
  double bytes() const { return 2.0 * kv_heads * keys_ * (4.0 * rows::words + sizeof(smalti::fp16) * rows::width); }
  double flop() const { return 4.0 * kv_heads * group_ * double(keys_) * d; }

 private:
  std::size_t codes() const { return std::size_t(kv_heads) * keys_ * rows::words; }
  std::size_t half() const { return codes() + (std::size_t(kv_heads) * keys_ * rows::width + 1) / 2; }
  void run(const std::uint32_t* from) {
    const auto part = [&](const std::uint32_t* p) {
      return attention::quantized_rows<Storage>{attention::bhsd<const std::uint32_t>(p, 1, keys_, kv_heads, rows::words),
                                                attention::bhsd<const smalti::fp16>(reinterpret_cast<const smalti::fp16*>(p + codes()), 1, keys_, kv_heads, rows::width)};
    };
    demand(op::run(smalti::host_context{1}, {.q = attention::bhsd<const bf16>(q_.data(), 1, 1, kv_heads * group_, d), .kv = {part(from), part(from + half())}, .o = attention::bhsd(o_.data(), 1, 1, kv_heads * group_, d)}));
  }
  int keys_, group_;
  rotating<std::uint32_t> kv_;
  std::vector<bf16> q_, o_;
};
template <class Storage> void enter_coded(const std::string& name, int keys, int group) {
  enter("attention/decode/" + name + "/d128/" + std::to_string(keys) + "/gqa:" + std::to_string(group) + "/threads:1", [=](benchmark::State& state) {
    auto c = std::make_shared<coded_decode<Storage>>(keys, group);
    auto p = std::make_shared<decode_problem>(keys, group);
    run(state, {.subject = timed("smalti", name, 1, [c] { c->run(); }), .peers = {contiguous_on(p)}, .flop = c->flop(), .bytes = c->bytes(),
                .arithmetic = {instruction::fma, instruction::bf16_dot, instruction::amx_bf16}, .from_memory = true});
  });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  describe_machine("");
  for (const int threads : {1, 2}) {
    enter_prefill<policy::full>("full", 4096, threads);
    enter_prefill<policy::causal>("causal", 4096, threads);
  }
  for (const int group : {4, 8}) enter_decode("contiguous", 32768, group, false);
  enter_decode("paged16", 32768, 4, true);
  enter_coded<policy::kv_int8<>>("int8", 32768, 4);
  enter_coded<policy::kv_int4<32>>("int4", 32768, 4);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
