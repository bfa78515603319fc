// Carries the ranks of an in_process net out, all in this thread, in the order that the net's seed draws.
#pragma once
#include <cstddef>
#include <vector>
#include <smalti/comm/executor.hpp>
#include <smalti/comm/in_process.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! Advances the executions (of any types with advance() and deadline(); entry r is rank r's) until each is done, has failed, or is
//! of a dead rank. Ranks are asked in drawn order and also when nothing has changed for them, as spurious wake-ups do.
//! Returns false where all wait for each other without a deadline: a deadlock.
template <class Execution> bool run_together(in_process& net, std::vector<Execution>& executions) {
  std::vector<std::size_t> left;
  for (std::size_t r = 0; r < executions.size(); ++r) left.push_back(r);
  std::vector<char> over(executions.size());
  int idle_rounds = 0;
  while (true) {
    std::erase_if(left, [&](std::size_t r) { return over[r] || net.dead(int(r)); });
    if (left.empty()) return true;
    // One round: as many draws as ranks, so that some come twice and some not at all. Every third round takes all.
    const std::uint64_t before = net.changes();
    for (std::size_t i = 0; i < left.size(); ++i) {
      const std::size_t r = left[idle_rounds >= 2 ? i : net.draw() % left.size()];
      if (over[r] || net.dead(int(r))) continue;
      over[r] = executions[r].advance() != progress::blocked;
      if (over[r]) idle_rounds = -1;
    }
    idle_rounds = net.changes() != before || idle_rounds < 0 ? 0 : idle_rounds + 1;
    if (idle_rounds < 4) continue;
    nanoseconds latest = never_late;
    for (const std::size_t r : left)
      if (!over[r]) latest = std::min(latest, executions[r].deadline());
    if (!net.wait(latest)) return false;
    idle_rounds = 0;
  }
}

}  // namespace smalti::inline SMALTI_CODE::comm
