// HiP: each tile of queries searches for the blocks of keys that score most.
#include <smalti/ops/attention/hip.hpp>
#include "attention_text.hpp"

namespace generate::inline GENERATE_MACHINE {

namespace {

//! About K keys: the first block, the last two, and what the search finds.
struct hip_look : keeps_nothing {
  static constexpr int block = 16;
  using kv = attention::paged_kv<bf16>;
  template <int Queries> using attend = attention::hip<bf16, head_dim, block, Queries, kv>;
  int count = 1024;

  void look(const machine& on, const looking<policy::kv_plain<bf16>, 0>& x, scratch& memory) const {
    if (x.q.rows > 1) start<64>(on, x, memory);
    else start<1>(on, x, memory);
  }
  template <int Queries> void start(const machine& on, const looking<policy::kv_plain<bf16>, 0>& x, scratch& memory) const {
    run<attend<Queries>>(on, {.q = x.q, .kv = x.kv, .o = x.o, .groups = std::max(1, count / block - 3), .sink = block, .window = 2 * block, .representatives = block}, memory);
  }
};

}  // namespace

std::unique_ptr<attention_cache> make_hip_bf16(const attention_settings& s, const config& c, int count) {
  hip_look look;
  look.count = count;
  return std::make_unique<cache_of<policy::kv_plain<bf16>, hip_look>>(s, c, look);
}

}  // namespace generate::inline GENERATE_MACHINE
