// expect: smalti: a layout of pages needs  template <class Page, class Slot> auto row
#include <smalti/ops/cache.hpp>

struct heads_first {
  static constexpr smalti::policy::kv_order order = smalti::policy::kv_order::hnd;
};
static_assert(smalti::policy::explain_kv_layout<heads_first>());
int main() {}
