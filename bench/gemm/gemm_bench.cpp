// Dense products: the square that claims are made of, decode-sized products against read bandwidth, and the
// linear layers of models.
#include "problem.hpp"

#include <interleave.hpp>
#include <machine.hpp>
#include <shapes.hpp>
#include <smalti/core/context.hpp>
#include <smalti/ops/gemm.hpp>
#include <smalti/policy/epilogue.hpp>

#include <omp.h>

namespace {

using namespace bench;

// The library on a problem: the only place here that knows its face.
template <class In> class ours {
 public:
  using linear = smalti::gemm::dense<In, In, sum_of<In>, smalti::policy::chain<>>;

  ours(problem<In>& p, int threads) : context_{.threads = threads}, weights_(p.b) {
    args_ = {.a = {p.a.first(), p.m, p.k, p.k}, .b = {p.b.first(), p.n, p.k, p.k}, .c = {p.c(), p.m, p.n, p.n}, .epilogue = {}};
    demand(linear::check(context_, args_));
    const std::size_t bytes = linear::workspace_bytes(context_, args_);
    if (bytes > 0) memory_ = pages(bytes);
    workspace_ = {memory_.data, bytes};
  }
  void run() {
    args_.b.data = weights_.next();
    demand(linear::run(context_, args_, workspace_));
  }

 private:
  static void demand(const smalti::status& s) {
    if (!s) throw std::runtime_error(s.what);
  }
  smalti::host_context context_;
  rotating<In>& weights_;
  typename linear::args args_;
  pages memory_;
  smalti::workspace workspace_;
};

template <class In> contender ours_on(std::shared_ptr<problem<In>> p, int threads) {
  auto product = std::make_shared<ours<In>>(*p, threads);
  auto once = [=] { product->run(); };
  p->demand("smalti", once);
  return timed("smalti", "smalti", threads, once);
}

// As many products at the same time as there are threads, each on one thread and its own operands: what the
// machine gives to threads that share nothing but the machine.
template <class In> contender singles_on(int m, int n, int k, int threads) {
  struct single {
    std::shared_ptr<problem<In>> operands;
    std::shared_ptr<ours<In>> product;
  };
  std::vector<single> all;
  for (int t = 0; t < threads; ++t) {
    auto operands = std::make_shared<problem<In>>(m, n, k, false);
    all.push_back({operands, std::make_shared<ours<In>>(*operands, 1)});
    operands->demand("smalti", [&] { all.back().product->run(); });
  }
  auto sample = [=](int repeat) {
    double start = 0, end = 0;
    std::vector<std::exception_ptr> failed(static_cast<std::size_t>(threads));
#pragma omp parallel num_threads(threads)
    {
      const auto t = static_cast<std::size_t>(omp_get_thread_num());
#pragma omp barrier
#pragma omp single
      start = wall_seconds();
      try {
        for (int i = 0; i < repeat; ++i) all[t].product->run();
      } catch (...) {
        failed[t] = std::current_exception();
      }
#pragma omp barrier
#pragma omp single
      end = wall_seconds();
    }
    for (const auto& f : failed)
      if (f) std::rethrow_exception(f);
    return end - start;
  };
  return {"singles", std::to_string(threads) + " single-thread runs at the same time", sample, double(threads)};
}

template <class In> void enter_square(int size, int threads) {
  enter(case_name("gemm", type_name<In>(), "", size, size, size, threads), [=](benchmark::State& state) {
    auto p = std::make_shared<problem<In>>(size, size, size, false);
    auto peers = peers_of(p, threads);
    if (threads > 1) peers.push_back(singles_on<In>(size, size, size, threads));
    run(state, {.subject = ours_on(p, threads),
                .peers = peers,
                .threads = threads,
                .flop = p->flop(),
                .bytes = p->bytes(),
                .arithmetic = instructions_of<In>(),
                .rounds = 15});
  });
}

template <class In> void enter_layer(const linear_shape& s, int m, int threads) {
  enter(case_name("gemm", type_name<In>(), std::string(s.model) + "." + s.layer, m, s.n, s.k, threads), [=](benchmark::State& state) {
    auto p = std::make_shared<problem<In>>(m, s.n, s.k, true);
    run(state, {.subject = ours_on(p, threads),
                .peers = peers_of(p, threads),
                .threads = threads,
                .flop = p->flop(),
                .bytes = p->bytes(),
                .arithmetic = instructions_of<In>(),
                .from_memory = true});
  });
}

}  // namespace

int main(int argc, char** argv) {
#if defined(SMALTI_BENCH_WITHOUT_AMX) && defined(SMALTI_BENCH_ONEDNN)
  bench::onednn::without_amx();
#endif
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  describe_machine(peers_here());
  for (const int threads : {1, 2}) {
    enter_square<smalti::bf16>(1024, threads);
    enter_square<float>(1024, threads);
    enter_square<std::int8_t>(1024, threads);
  }
  for (const int size : {128, 256, 512, 2048}) {  // the curve around the square of the claims
    enter_square<smalti::bf16>(size, 1);
    enter_square<float>(size, 1);
    enter_square<std::int8_t>(size, 1);
  }
  for (const linear_shape& s : llama3_8b)
    if (std::string(s.layer) != "head")  // a head alone is 1 GB; two copies do not fit everywhere
      for (const int m : {1, 4, 16}) enter_layer<smalti::bf16>(s, m, 1);
  for_each_shape([](const linear_shape& s) {
    if (std::string(s.layer) != "head") enter_layer<smalti::bf16>(s, 128, 1);
  });
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
