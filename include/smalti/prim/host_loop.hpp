// How a primitive's host twin shares independent pieces of work among threads.
#pragma once
#include <atomic>
#include <cstdint>
#include <numeric>
#include <smalti/core/context.hpp>
#include <smalti/core/version.hpp>
#include <smalti/tile/mutant.hpp>
#if defined(_OPENMP)
#  include <omp.h>
#endif

namespace smalti::inline SMALTI_CODE::prim::detail {

// Threads that may work on `pieces` pieces at once, at least one.
inline int workers(const host_context& context, std::int64_t pieces) {
  std::int64_t n = 1;
#if defined(_OPENMP)
  n = context.threads > 0 ? context.threads : omp_get_max_threads();
#else
  static_cast<void>(context);
#endif
  if (n > pieces) n = pieces;
  return n < 1 ? 1 : int(n);
}

// Calls work(piece, worker) once for each piece, worker < workers(context, pieces). With a shuffle the pieces are
// walked in steps coprime to their number from a place the seed chooses: a different order for each seed.
template <class Work> void for_pieces(const host_context& context, std::int64_t pieces, const Work& work) {
  if (pieces <= 0) return;
  std::int64_t step = 1, start = 0;
  if (context.shuffle != 0) {
    const std::uint64_t mixed = context.shuffle * 0x9e3779b97f4a7c15u;
    start = std::int64_t((mixed >> 32) % std::uint64_t(pieces));
    step = std::int64_t((mixed & 0xffffffffu) % std::uint64_t(pieces));
    while (std::gcd(step, pieces) != 1 && !mutant(defect::pieces_visited_twice)) ++step;
    step %= pieces;
  }
  // 128 bits: pieces may be as many as 64-bit offsets allow.
  const auto at = [=](std::int64_t i) { return std::int64_t((static_cast<unsigned __int128>(i) * std::uint64_t(step) + std::uint64_t(start)) % std::uint64_t(pieces)); };
  const int threads = workers(context, pieces);
  if (threads == 1) {
    for (std::int64_t i = 0; i < pieces; ++i) work(context.shuffle != 0 ? at(i) : i, 0);
    return;
  }
#if defined(_OPENMP)
  // the whole team, as host::run() has it: a smaller one would cost the threads that are left over
  std::atomic<std::int64_t> next{0};
#  pragma omp parallel num_threads(context.threads > 0 ? context.threads : omp_get_max_threads())
  if (const int worker = omp_get_thread_num(); worker < threads)
    for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < pieces;) work(context.shuffle != 0 ? at(i) : i, worker);
#endif
}

}  // namespace smalti::inline SMALTI_CODE::prim::detail
