// The prefill of two long texts over several ranks: each holds its zigzag share, keys go round the ring, and every rank ends up
// with the attention that one process computes alone.
//     mpirun -n 4 example.21_ring_prefill     where MPI was found when it was built; else its ranks are four threads
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>
#include <smalti/comm/threads.hpp>
#include <smalti/flow/context_parallel.hpp>
#if defined(SMALTI_EXAMPLE_MPI)
#  include <smalti/comm/mpi.hpp>
#endif

using namespace smalti;

constexpr int heads = 8, kv_heads = 2, d = 64;
constexpr int lengths[] = {1400, 300};

// Channel c of head h of token t of text s: anybody can make it, as weights and a token would.
bf16 value(int what, int s, int t, int h, int c) {
  std::uint32_t x = std::uint32_t(((what * 7 + s) * 4096 + t) * 16 + h) * 64 + std::uint32_t(c);
  x = (x ^ x >> 16) * 0x7feb352du, x = (x ^ x >> 15) * 0x846ca68bu, x ^= x >> 16;
  return narrow<bf16>((float(x >> 8) * 0x1p-24f - 0.5f) * (what == 0 ? 6.0f : 3.0f));
}

// The rows of one rank of a placement.
struct share {
  std::vector<int> offsets{0};
  std::vector<bf16> q, k, v, o;
  int most;
  share(const flow::placement& p, int rank) : most(p.most_rows(rank)) {
    for (int s = 0; s < p.sequences; ++s) {
      offsets.push_back(offsets.back() + p.rows(rank, s));
      for (int i = 0; i < p.rows(rank, s); ++i) {
        const int t = p.at(rank, s)[i];      // its place in the text: masks and rotary phases go by it
        for (int h = 0; h < heads; ++h)
          for (int c = 0; c < d; ++c) q.push_back(value(0, s, t, h, c));
        for (int h = 0; h < kv_heads; ++h)
          for (int c = 0; c < d; ++c) k.push_back(value(1, s, t, h, c)), v.push_back(value(2, s, t, h, c));
      }
    }
    o.resize(q.size());
  }
  template <class T> attention::head_rows<T> rows(T* data, int h) const { return attention::ragged<T>(data, {offsets.data(), int(offsets.size()) - 1}, most, h, d); }
};

struct memory {
  void* data;
  std::size_t size;
  explicit memory(std::size_t n) : data(std::aligned_alloc(256, (n + 256) / 256 * 256)), size(n) {}
  memory(const memory&) = delete;
  ~memory() { std::free(data); }
};

// [ring prefill]
// What one rank does, over any transport.
template <class Net> status ring_prefill(Net& net, const flow::placement& table, share& mine) {
  using op = flow::context_parallel<bf16, d, policy::causal>;
  const op::args x{.queries = table, .keys = table,
                   .q = mine.rows<const bf16>(mine.q.data(), heads), .k = mine.rows<const bf16>(mine.k.data(), kv_heads),
                   .v = mine.rows<const bf16>(mine.v.data(), kv_heads), .o = mine.rows(mine.o.data(), heads), .how = flow::ring_attention};
  const host_context context{1};
  memory scratch(op::workspace_bytes(context, net, x));
  typename op::template execution<Net> run(net);
  return run.run(context, x, {scratch.data, scratch.size});
}
// [ring prefill]

template <class Net> bool demo(Net& net, const char* over) {
  flow::ledger deal(comm::zigzag(net.size()), lengths, 2), alone(comm::contiguous(1), lengths, 2);
  const flow::placement table = deal.table(), whole = alone.table();
  share mine(table, net.rank()), all(whole, 0);
  if (const status st = ring_prefill(net, table, mine); !st) return std::printf("rank %d: %s\n", net.rank(), st.what), false;

  using single = attention::flash<bf16, d>;
  const single::args x{.q = all.rows<const bf16>(all.q.data(), heads), .kv = {all.rows<const bf16>(all.k.data(), kv_heads), all.rows<const bf16>(all.v.data(), kv_heads)}, .o = all.rows(all.o.data(), heads)};
  memory scratch(single::workspace_bytes(host_context{1}, x));
  if (!single::run(host_context{1}, x, {scratch.data, scratch.size})) return false;
  double worst = 0;
  for (int s = 0; s < 2; ++s)
    for (int i = 0; i < table.rows(net.rank(), s); ++i)
      for (int c = 0; c < heads * d; ++c)
        worst = std::fmax(worst, std::fabs(to_float(mine.o[std::size_t(mine.offsets[s] + i) * heads * d + c]) - to_float(all.o[std::size_t(all.offsets[s] + table.at(net.rank(), s)[i]) * heads * d + c])));
  // Weights are rounded to bf16 against another maximum in each part, and o once: two units of 2^-8 of |v| <= 1.5 each.
  const bool equal = worst < 4 * 1.5 / 256;
  using op = flow::context_parallel<bf16, d, policy::causal>;
  const auto sent = op::travel(net.size(), {.queries = table, .keys = table, .how = flow::ring_attention}).traffic(op::row_bytes(flow::moves::keys, heads, kv_heads), 0).sent;
  const auto blocks = std::int64_t(net.size() - 1) * (lengths[0] + lengths[1]) * op::row_bytes(flow::moves::keys, heads, kv_heads);
  if (net.rank() == 0 || !equal)
    std::printf("ring prefill of %d + %d tokens on %d ranks over %s: rank %d is within %.4f of one process%s; keys moved %.1f MB, %.0f %% of whole blocks\n", lengths[0], lengths[1], net.size(), over,
                net.rank(), worst, equal ? "" : ": WRONG", double(sent) / 1e6, blocks > 0 ? 100.0 * double(sent) / double(blocks) : 0.0);
  return equal;
}

int main(int, char**) {
#if defined(SMALTI_EXAMPLE_MPI)
  MPI_Init(nullptr, nullptr);
  bool ok = false;
  {
    comm::mpi net(MPI_COMM_WORLD);
    ok = demo(net, "MPI");
  }
  MPI_Finalize();
  return ok ? 0 : 1;
#else
  comm::threads net(4);
  bool ok[4] = {};
  comm::run_each(net, [&](auto& end) { ok[end.rank()] = demo(end, "threads"); });
  return ok[0] && ok[1] && ok[2] && ok[3] ? 0 : 1;
#endif
}
