// expect: smalti: append takes rows of bf16, fp16 or float: convert them
#include <smalti/ops/cache.hpp>

using namespace smalti;
int main() {
  cache::append<std::int8_t, policy::kv_plain<bf16>>::args x{};
  static_cast<void>(x);
}
