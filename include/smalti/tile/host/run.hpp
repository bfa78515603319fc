// Runs the blocks of a grid on the host's threads. Neighbouring blocks stay on one thread, because they share
// packed panels; a context with a shuffle runs them in an order drawn from it, one by one.
#pragma once
#include <algorithm>
#include <atomic>
#include <smalti/core/context.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/host/block.hpp>
#include <smalti/tile/mutant.hpp>
#if defined(_OPENMP)
#  include <omp.h>
#endif

namespace smalti::inline SMALTI_CODE::host {

//! Threads that a context stands for in this build.
inline int thread_count(const host_context& context) {
#if defined(_OPENMP)
  return context.threads > 0 ? context.threads : omp_get_max_threads();
#else
  return static_cast<void>(context), 1;
#endif
}

//! A permutation of [0, count): four rounds of a Feistel network on the next power of four, walked until inside.
inline std::int64_t shuffled(std::int64_t i, std::int64_t count, std::uint64_t seed) {
  int half = 1;
  while ((std::int64_t(1) << 2 * half) < count) ++half;
  const std::uint64_t low = (std::uint64_t(1) << half) - 1;
  std::uint64_t x = std::uint64_t(i);
  do {
    std::uint64_t a = x >> half, b = x & low;
    for (std::uint64_t round = 1; round <= 4; ++round) {
      std::uint64_t mixed = (b + seed * round) * 0x9e3779b97f4a7c15u;
      mixed = (mixed ^ mixed >> 29) * 0xbf58476d1ce4e5b9u;   // twice: after one product the low bits know little of the seed
      mixed ^= mixed >> 32;
      const std::uint64_t next = (a ^ mixed) & low;
      a = b, b = next;
    }
    x = a << half | b;
  } while (x >= std::uint64_t(count));
  return std::int64_t(mutant(defect::shuffle_repeats_blocks) ? x / 2 * 2 : x);
}

namespace detail {
// Blocks that are worth a thread: an agent whose blocks take less time than to wake one says how many make up for it.
template <class Agent> constexpr int blocks_of_a_thread() {
  if constexpr (requires { Agent::blocks_of_a_thread; }) return Agent::blocks_of_a_thread;
  else return 1;
}
}  // namespace detail

//! Calls agent(block) for every block of the grid. `panels` is shared out among the threads, to keep packed right
//! operands in, and `turned`, to keep left operands that lie across their rows; with none, each block packs its own.
template <class Agent> void run(const host_context& context, const Agent& agent, grid size, workspace panels = {}, workspace turned = {}) {
  const std::int64_t blocks = size.count();
  constexpr int least = detail::blocks_of_a_thread<Agent>();
  const int threads = int(std::min<std::int64_t>(thread_count(context), (blocks + least - 1) / least));
  if (threads <= 0) return;
  const std::int64_t chunk = context.shuffle != 0 ? 1 : std::max<std::int64_t>(1, blocks / (threads * 8));
  const std::size_t share = panels.size / threads / 64 * 64, turned_share = turned.size / threads / 64 * 64;
  // Each thread begins with a range of its own, an eighth of it at a time: neighbouring blocks want the same packed operand, which then one
  // thread packs (a product of 1024^3 on two threads: half of B each, not all of it). Who is done goes on with what others have left.
  constexpr int most_ranges = 64;
  struct alignas(64) counter { std::atomic<std::int64_t> next; };
  counter ranges[most_ranges];
  const int count = std::min(threads, most_ranges);
  const auto begin_of = [=](int r) { return blocks * r / count; };
  for (int r = 0; r < count; ++r) ranges[r].next.store(begin_of(r), std::memory_order_relaxed);
  // libgomp ends the threads that a smaller team leaves over and starts new ones for the next larger team (40 us each, measured): a grid of a few
  // blocks takes the whole team too, and whoever has no block goes.
#if defined(_OPENMP)
  const int team = threads > 1 ? thread_count(context) : 1;
#  pragma omp parallel num_threads(team)
  if (omp_get_thread_num() < threads)
#endif
  {
#if defined(_OPENMP)
    const int thread = omp_get_thread_num();
#else
    const int thread = 0;
#endif
#if SMALTI_DOT_LEVEL >= 4
    const detail::held_tiles tiles;
#endif
    const auto work = [&](panel_store* store, panel_store* store_of_turned) {
      for (int turn = 0; turn < count; ++turn) {
        const int r = (thread + turn) % count;
        const std::int64_t last = begin_of(r + 1);
        for (std::int64_t first; (first = ranges[r].next.fetch_add(chunk + (mutant(defect::run_leaves_gaps) ? 1 : 0), std::memory_order_relaxed)) < last;)
          for (std::int64_t n = first; n < (mutant(defect::run_past_the_grid) ? first + chunk : std::min(first + chunk, last)); ++n) {
            const std::int64_t i = context.shuffle != 0 && !mutant(defect::run_ignores_the_shuffle) ? shuffled(n, blocks, context.shuffle) : n;
            block b(int(i % (mutant(defect::run_divides_by_wrong_extent) ? size.y : size.x)), int(i / size.x % size.y), int(i / size.x / size.y), store, store_of_turned);
            agent(b);
          }
      }
    };
    const auto with_turned = [&](panel_store* store) {
      if (turned_share != 0) {
        panel_store of_turned(turned.data + thread * turned_share, turned_share);
        work(store, &of_turned);
      } else {
        work(store, nullptr);
      }
    };
    if (share != 0) {
      panel_store store(panels.data + thread * share, share);
      with_turned(&store);
    } else {
      with_turned(nullptr);
    }
  }
}

}  // namespace smalti::inline SMALTI_CODE::host
