// The ranks of a prefill, on the processor: threads of this process, or processes under mpirun.
#include "ranks.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include <smalti/comm/executor.hpp>
#include <smalti/comm/threads.hpp>
#include <smalti/flow/context_parallel.hpp>
#include <smalti/prim/permute.hpp>
#if defined(GENERATE_MPI)
#  include <smalti/comm/mpi.hpp>
#endif

namespace generate::inline GENERATE_MACHINE {

using namespace smalti;

namespace {

constexpr int head_dim = 64;

// One rank's part, over any transport. Every rank makes the same calls: a word that says how many tokens come (0: no more), the tokens, and for
// each layer the ring's attention and the way of the shares of k and v to rank 0.
template <class Net> class part {
  using ring = flow::context_parallel<bf16, head_dim, policy::causal>;
  using mover = comm::execution<comm::bytes, Net>;

public:
  part(Net& net, const decoder& model, const machine& on) : net_(net), model_(model), c_(model.shape()), on_(on) {}

  int rank() const { return net_.rank(); }
  int size() const { return net_.size(); }

  // From rank 0 to all.
  void tell(std::vector<int>& ids) {
    std::int32_t count = std::int32_t(ids.size());
    broadcast(&count, sizeof(count));
    ids.resize(std::size_t(count));
    broadcast(ids.data(), ids.size() * sizeof(int));
  }

  void prefill(const std::vector<int>& ids, const ranks::keep* store) {
    const int length = int(ids.size()), kv_cols = c_.kv_heads * head_dim;
    flow::ledger deal(comm::zigzag(size()), &length, 1);
    const flow::placement table = deal.table();
    const int n = table.rows(rank());
    const int* const positions = table.at(rank(), 0);
    mine_.resize(std::size_t(n));
    for (int i = 0; i < n; ++i) mine_[std::size_t(i)] = ids[std::size_t(positions[i])];
    m_.reserve(c_, std::size_t(n));
    if (rank() == 0) {
      std::vector<int> place(ids.size());      // of each token, in what comes from all ranks
      for (int i = 0; i < length; ++i) place[std::size_t(table.positions[i])] = i;
      place_ = on_machine(place);
    }
    const int offsets[] = {0, n};
    const auto rows = [&](auto v, int heads) { return attention::ragged(v, segments<std::int32_t>{offsets, 1}, heads, head_dim); };
    model_.pass(on_, m_, mine_.data(), positions, n, [&](int layer, view<const bf16> q, view<const bf16> k, view<const bf16> v, view<bf16> o) {
      const typename ring::args x{.queries = table, .keys = table, .q = rows(q, c_.heads), .k = rows(k, c_.kv_heads), .v = rows(v, c_.kv_heads), .o = rows(o, c_.heads),
                                  .how = flow::ring_attention, .options = {.operation = operation_}};
      operation_ += flow::run_options::operations;
      typename ring::template execution<Net> run(net_);
      expect(run.run(on_, x, m_.memory.at_least(ring::workspace_bytes(on_, net_, x))));
      // k and v lie side by side in the rows of qkv
      const view<const bf16> all = home({k.data, n, 2 * kv_cols, k.stride}, table);
      if (store != nullptr) (*store)(layer, {all.data, length, kv_cols, all.stride}, {all.data + kv_cols, length, kv_cols, all.stride});
    });
    result_ = home(m_.x.read(n, c_.width), table);
  }
  view<const bf16> result() const { return result_; }
  void abort() { net_.abort(net_.epoch(), rank()); }

  void follow() {
    for (std::vector<int> ids;; prefill(ids, nullptr)) {
      tell(ids);
      if (ids.empty()) return;
    }
  }

private:
  // What comes by itself, since nobody knows when rank 0's user writes: the processor is left to others meanwhile.
  void carry(const comm::star& how, typename mover::args x) {
    x.operation = operation_++, x.timeout = comm::never_late, x.agree = false;
    mover run(net_);
    expect(run.start(how, x, m_.memory.at_least(run.workspace_bytes(how, x))));
    while (run.advance() == comm::progress::blocked) {
      if (how.kind == comm::collective::broadcast) std::this_thread::sleep_for(std::chrono::microseconds(200));
      else net_.idle(run.deadline());
    }
    expect(run.failure());
  }
  void broadcast(void* data, std::size_t bytes) {
    auto* const p = static_cast<std::byte*>(data);
    received_.reserve(bytes + 1);
    carry(comm::star(size(), comm::collective::broadcast), {.input = p, .output = received_.data(), .items = std::int64_t(bytes)});
    std::copy(received_.data(), received_.data() + bytes, p);
  }
  // The ranks' rows, on rank 0 and in the order of the tokens.
  view<const bf16> home(view<const bf16> share, const flow::placement& table) {
    const int cols = share.cols, length = table.offsets[size()];
    shares_.assign(table.offsets, table.offsets + size() + 1);
    sent_.reserve(std::size_t(share.rows) * std::size_t(cols));
    run<prim::permute<bf16, prim::movement::copy>>(on_, {.from = {share.data, share.rows, cols, share.stride}, .to = {sent_.data(), share.rows, cols, cols}}, m_.memory);
    const std::size_t all = rank() == 0 ? std::size_t(length) * std::size_t(cols) : 0;
    came_.reserve(all), ordered_.reserve(all);
    carry(comm::star(size(), comm::collective::gather), {.input = reinterpret_cast<const std::byte*>(sent_.data()), .output = reinterpret_cast<std::byte*>(came_.data()),
                                                         .items = length, .combine = {cols * int(sizeof(bf16))}, .offsets = shares_.data()});
    if (rank() != 0) return {};
    run<prim::permute<bf16>>(on_, {.from = {came_.data(), length, cols, cols}, .to = {ordered_.data(), length, cols, cols}, .index = place_.data()}, m_.memory);
    return ordered_.read(length, cols);
  }

  Net& net_;
  const decoder& model_;
  config c_;
  machine on_;
  pass_memory m_;
  std::uint32_t operation_ = 0;
  std::vector<int> mine_;
  std::vector<std::int64_t> shares_;
  buffer<std::byte> received_;
  buffer<bf16> sent_, came_, ordered_;
  buffer<int> place_;
  view<const bf16> result_{};
};

template <class Net> view<const bf16> shared_prefill(part<Net>& mine, const std::vector<int>& ids, const ranks::keep& store) {
  std::vector<int> told = ids;
  mine.tell(told);
  mine.prefill(told, &store);
  return mine.result();
}
template <class Net> void dismiss(part<Net>& mine) {
  std::vector<int> none;
  try {
    mine.tell(none);
  } catch (const std::exception&) {
    // the group has ended already, and whoever ended it has said why
  }
}
constexpr int least_share = 16;      // tokens, for each rank

class thread_ranks final : public ranks {
  using endpoint = comm::threads::endpoint;

public:
  thread_ranks(const decoder& model, const machine& on, int count) : net_(count), end_(net_.rank(0)), mine_(end_, model, share_of(on, count)) {
    for (int r = 1; r < count; ++r)
      others_.emplace_back([this, &model, on, count, r] {
        endpoint end = net_.rank(r);
        try {
          part<endpoint>(end, model, share_of(on, count)).follow();
        } catch (const std::exception& e) {
          failed("rank " + std::to_string(r) + ": " + e.what());
          end.abort(end.epoch(), r);
        }
      });
  }
  ~thread_ranks() override {
    dismiss(mine_);
    for (std::thread& t : others_) t.join();
  }
  int rank() const override { return 0; }
  int least() const override { return least_share * net_.size(); }
  view<const bf16> prefill(const std::vector<int>& ids, const keep& store) override {
    try {
      return shared_prefill(mine_, ids, store);
    } catch (const std::exception& e) {
      failed(e.what());
      mine_.abort();
      throw std::runtime_error(why());      // where another rank failed first, all that this one heard is that it has gone
    }
  }
  void follow() override {}

private:
  static machine share_of(const machine& on, int count) {
    const int all = on.threads > 0 ? on.threads : int(std::thread::hardware_concurrency());
    return {.threads = std::max(1, all / count)};
  }
  // The first failure counts: it is told before the others hear that their group has ended.
  void failed(const std::string& why) {
    const std::lock_guard lock(mutex_);
    if (why_.empty()) why_ = why;
  }
  std::string why() {
    const std::lock_guard lock(mutex_);
    return why_;
  }
  comm::threads net_;
  endpoint end_;
  part<endpoint> mine_;
  std::mutex mutex_;
  std::string why_;
  std::vector<std::thread> others_;
};

#if defined(GENERATE_MPI)
bool started_by_mpirun = false;

class process_ranks final : public ranks {
public:
  process_ranks(const decoder& model, const machine& on) : net_(MPI_COMM_WORLD), mine_(net_, model, on) { expect(net_.ready()); }
  ~process_ranks() override {
    if (rank() == 0) dismiss(mine_);
  }
  int rank() const override { return net_.rank(); }
  int least() const override { return least_share * net_.size(); }
  view<const bf16> prefill(const std::vector<int>& ids, const keep& store) override {
    try {
      return shared_prefill(mine_, ids, store);
    } catch (const std::exception&) {
      mine_.abort();
      throw;
    }
  }
  void follow() override {
    try {
      mine_.follow();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "generate: rank %d: %s\n", rank(), e.what());
      MPI_Abort(MPI_COMM_WORLD, 2);
    }
  }

private:
  comm::mpi net_;
  part<comm::mpi> mine_;
};
#endif

}  // namespace

std::unique_ptr<ranks> make_ranks(const decoder& model, const machine& on, const engine_options& o) {
  if (o.ranks == 1) return nullptr;
  if (o.attention.attention != "flash" || o.attention.cache != "dense")
    throw std::runtime_error("--ranks is built with --attention flash and --cache dense: a share of the prefill sees no other's scores");
  if (model.shape().head_dim != head_dim) throw std::runtime_error("--ranks is built for heads of " + std::to_string(head_dim) + " columns");
#if defined(GENERATE_MPI)
  if (started_by_mpirun) return std::make_unique<process_ranks>(model, on);
#endif
  return std::make_unique<thread_ranks>(model, on, o.ranks);
}

int start_processes([[maybe_unused]] int& argc, [[maybe_unused]] char**& argv) {
#if defined(GENERATE_MPI)
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"})
    if (std::getenv(name) != nullptr) {
      int size = 1;
      MPI_Init(&argc, &argv);
      MPI_Comm_size(MPI_COMM_WORLD, &size);
      started_by_mpirun = true;
      return size;
    }
#endif
  return 1;
}
void end_processes([[maybe_unused]] bool failed) {
#if defined(GENERATE_MPI)
  if (started_by_mpirun && failed) MPI_Abort(MPI_COMM_WORLD, 2);
  if (started_by_mpirun) MPI_Finalize();
#endif
}

}  // namespace generate::inline GENERATE_MACHINE
