// expect: smalti: append stores floats as they are, policy::kv_plain<T>, or integers, policy::kv_integer
#include <smalti/ops/cache.hpp>

using namespace smalti;
using int4 = policy::kv_grouped<policy::kv_code::int4, 4, 4, policy::kv_axis::channels, 32>;
int main() {
  cache::append<bf16, int4>::args x{};
  static_cast<void>(x);
}
